//! What happened, numbered, in order; and what is going on right now.
//!
//! An [`Event`] is stored before anyone sees it, and can be read again from any
//! number on. A [`Progress`] is out of date before anyone could miss it: it is
//! shown to whoever looks, and kept nowhere (docs/decisions/009).

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::terms::{Failure, JobId, JobState, Pause, ReleaseState, TaskState, WarningAbout};

/// One thing that happened.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What can happen.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// A host came up on this database.
    HostStarted {
        /// Its version.
        version: String,
        /// Jobs that it goes on with.
        jobs: usize,
    },
    /// A job was accepted.
    JobSubmitted {
        /// The job.
        id: JobId,
        /// Renderer, version and digest of the release it is pinned to.
        release: String,
        /// The scene file.
        scene: PathBuf,
        /// How many frames it asks for.
        frames: usize,
        /// Where its files go.
        out: PathBuf,
    },
    /// Something about the job deserves a look; the render goes on.
    Warning {
        /// The job.
        job: JobId,
        /// What it is about; absent in what earlier hosts stored.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        about: Option<WarningAbout>,
        /// One sentence.
        message: String,
    },
    /// The state of a job changed.
    JobState {
        /// The job.
        id: JobId,
        /// Its new state.
        state: JobState,
        /// Tasks planned so far.
        tasks: usize,
        /// Why, if it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<Failure>,
        /// Why, if it is paused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pause: Option<Pause>,
    },
    /// Where a release stands changed.
    ReleaseState {
        /// Its plugin's name; of a file that is none, the file's.
        id: String,
        /// Its version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
        /// Its digest.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
        /// Its new state.
        state: ReleaseState,
        /// Why.
        why: String,
    },
    /// The pin of a job moved to another release.
    JobMoved {
        /// The job.
        id: JobId,
        /// Renderer, version and digest of the release that it leaves.
        from: String,
        /// Those of the release that it runs on from now on.
        to: String,
        /// Why.
        why: String,
    },
    /// A worker came up.
    WorkerStarted {
        /// The worker's number in this host.
        id: u32,
        /// Its Blender's version.
        blender: String,
        /// Seconds it took.
        seconds: f64,
    },
    /// A worker is gone.
    WorkerStopped {
        /// The worker's number in this host.
        id: u32,
        /// Why.
        reason: String,
    },
    /// An attempt at a task began.
    TaskStarted {
        /// The task's name.
        id: String,
        /// Its job.
        job: JobId,
        /// Its frame.
        frame: Option<i32>,
        /// 1 for the first attempt.
        attempt: u32,
        /// Renderer, version and digest of the release that it runs on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        release: Option<String>,
    },
    /// The plugin wrote to the job's log.
    Log {
        /// The job.
        job: JobId,
        /// The task's name; none while the plugin plans.
        task: Option<String>,
        /// `debug`, `info`, `warn` or `error`.
        level: String,
        /// The line.
        message: String,
    },
    /// A file is whole on disk, checked and recorded, and about to be in its place.
    FileWritten {
        /// The job.
        job: JobId,
        /// The task's name; none while the plugin plans.
        task: Option<String>,
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// Whether it was there before and was kept.
        kept: bool,
    },
    /// The state of a task changed.
    TaskState {
        /// The task's name.
        id: String,
        /// Its job.
        job: JobId,
        /// Its frame.
        frame: Option<i32>,
        /// Its new state.
        state: TaskState,
        /// Seconds that the attempt took.
        seconds: f64,
        /// Why, if it failed or will be tried again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<Failure>,
    },
    /// Tasks were canceled because another one, which they come after, was not done.
    TasksCanceled {
        /// Their job.
        job: JobId,
        /// The task that was not done.
        after: String,
        /// How many.
        count: usize,
    },
}

impl EventKind {
    /// Returns the job that it belongs to.
    pub fn job(&self) -> Option<JobId> {
        match self {
            Self::HostStarted { .. }
            | Self::ReleaseState { .. }
            | Self::WorkerStarted { .. }
            | Self::WorkerStopped { .. } => None,
            Self::JobSubmitted { id, .. } | Self::JobState { id, .. } | Self::JobMoved { id, .. } => {
                Some(*id)
            }
            Self::Warning { job, .. }
            | Self::TaskStarted { job, .. }
            | Self::Log { job, .. }
            | Self::FileWritten { job, .. }
            | Self::TaskState { job, .. }
            | Self::TasksCanceled { job, .. } => Some(*job),
        }
    }
}

/// How far an attempt is.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// The task's name.
    pub id: String,
    /// Its job.
    pub job: JobId,
    /// Its frame.
    pub frame: Option<i32>,
    /// The worker it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<u32>,
    /// Seconds that Blender has been rendering.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Samples done and wanted, as far as Blender says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<(u32, u32)>,
    /// What the plugin says: 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fraction: Option<f32>,
    /// What the plugin says, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
