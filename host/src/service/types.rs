//! What clients ask for and get: the shapes of every operation, once.

mod plugins;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use plugins::{Favour, Holder, Install, OnePlugin, Plugin, Plugins, RolledBack, Why};

use crate::config::allowed::Trust;
use crate::events::Event;
use crate::terms::{Capability, Failure, JobId, JobState, Pause, TaskState, Upgrade};

/// What a client wants rendered.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// The scene file: an absolute path.
    pub scene: PathBuf,
    /// The frames, such as `7` or `1-4,10,20-30x2`; without them, or with an empty text, those of
    /// the scene's own range and step.
    #[serde(default)]
    pub frames: String,
    /// Which scene of the file; without it, the one that was active when it was saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scene_name: Option<String>,
    /// Folders that workers may read beside that of the scene: absolute paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read: Vec<PathBuf>,
    /// Why the Python in the scene may run. The host says so; what a client says here is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<Trust>,
    /// The renderer: a name, a version of it (`name@^1.2`, `name@=1.2.3`, `name@sha256:...`),
    /// or the absolute path of a component or of a plugin's folder.
    #[serde(default = "direct")]
    pub renderer: String,
    /// Its settings: an object, or a list of `name=value`.
    #[serde(default)]
    pub settings: Settings,
    /// Where the files go: an absolute path. Without it, beside the scene.
    #[serde(default)]
    pub out: Option<PathBuf>,
    /// Whether files that are there already are kept.
    #[serde(default)]
    pub skip_existing: bool,
    /// Whether frames are kept that an earlier job rendered from the same scene with
    /// the same settings, and whose files are as they were recorded.
    #[serde(default)]
    pub resume: bool,
    /// Whether missing files fail the job.
    #[serde(default)]
    pub strict: bool,
    /// Whether to render on the CPU whatever the scene says.
    #[serde(default)]
    pub cpu: bool,
    /// What the renderer may use at most, of `blender`, `image`, `gpu` and `state`; without
    /// it, all that it wants and the operator allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<Capability>>,
    /// How far the release that it runs on may change while it runs.
    #[serde(default = "patch")]
    pub upgrade: Upgrade,
    /// What kind of job it is, in at most 64 bytes: the operator can let those with some
    /// labels try new releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The larger, the sooner.
    #[serde(default)]
    pub priority: i32,
    /// Jobs that must have succeeded before this one begins.
    #[serde(default)]
    pub after: Vec<JobId>,
    /// An idempotency key of at most 256 bytes: a second submission with it gives
    /// the job of the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

fn direct() -> String {
    "direct".to_owned()
}

fn patch() -> Upgrade {
    Upgrade::Patch
}

/// Settings of a renderer.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Settings {
    /// By name.
    Object(Map<String, Value>),
    /// As `name=value`, read as the renderer's schema says.
    Texts(Vec<String>),
}

impl Default for Settings {
    fn default() -> Self {
        Self::Texts(Vec::new())
    }
}

/// A job.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Job {
    /// Its id; ids sort by the time of submission.
    pub id: JobId,
    /// Its state.
    pub state: JobState,
    /// Why it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// Why it failed, if not because of single tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// The larger, the sooner.
    pub priority: i32,
    /// Whether it is kept however old it is.
    pub pinned: bool,
    /// The scene file.
    pub scene: PathBuf,
    /// The frames; an empty text stands for the scene's own.
    pub frames: String,
    /// Which scene of the file, if one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scene_name: Option<String>,
    /// Why the Python in the scene may run, if it may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<Trust>,
    /// The release it runs on.
    pub release: Release,
    /// Where its files go.
    pub out: PathBuf,
    /// Tasks planned.
    pub tasks: usize,
    /// Tasks that are done.
    pub done: usize,
    /// Tasks that failed.
    pub failed: usize,
    /// Attempts that were made again because they failed.
    pub retries: u32,
    /// Files recorded. Only where one job was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<usize>,
    /// Jobs that come before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<JobId>,
    /// When it was submitted, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
}

/// Which release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Release {
    /// Its plugin's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The SHA-256 of its bytes, in hexadecimal digits.
    pub digest: String,
}

/// Which job.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OneJob {
    /// Its id.
    pub id: JobId,
}

/// Which job to begin again, and what of it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Its id.
    pub id: JobId,
    /// Also what was done by this release, such as `draft@=1.2.3`: one that was quarantined
    /// since, say. Then the job may have succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<String>,
}

/// Which job to resume, and how.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// Its id.
    pub id: JobId,
    /// Whether to go on with files that have changed since it was submitted.
    #[serde(default)]
    pub accept_changes: bool,
}

/// Which job to keep.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Its id.
    pub id: JobId,
    /// Whether it is kept however old it is.
    pub pinned: bool,
}

/// Which jobs to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JobFilter {
    /// Only those in one of these states; all if empty.
    pub states: Vec<JobState>,
    /// Only those of this session.
    pub session: Option<String>,
    /// Only those whose id begins like this.
    pub prefix: Option<String>,
    /// Goes on after the page that gave this as `next`.
    pub cursor: Option<JobId>,
    /// How many at most: 1 to 1000, 100 by default.
    pub limit: Option<usize>,
}

/// A page of jobs, newest first.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct JobPage {
    /// The jobs.
    pub jobs: Vec<Job>,
    /// The cursor of the next page, if there is one.
    pub next: Option<JobId>,
}

/// Which tasks to list.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskFilter {
    /// Of which job.
    pub job: JobId,
    /// Only those in one of these states; all if empty.
    #[serde(default)]
    pub states: Vec<TaskState>,
    /// Goes on after the page that gave this as `next`.
    #[serde(default)]
    pub cursor: Option<usize>,
    /// How many at most: 1 to 1000, 100 by default.
    #[serde(default)]
    pub limit: Option<usize>,
}

/// A page of tasks, in the order of their plan.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TaskPage {
    /// The tasks.
    pub tasks: Vec<Task>,
    /// The cursor of the next page, if there is one.
    pub next: Option<usize>,
}

/// A task.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Task {
    /// Its name, which no other task of its job has.
    pub id: String,
    /// Its job.
    pub job: JobId,
    /// Its state.
    pub state: TaskState,
    /// Its frame.
    pub frame: Option<i32>,
    /// Attempts begun.
    pub attempts: u32,
    /// Renderer, version and digest of the release that the last of them ran on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Seconds that its last attempt took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Why its last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// Which events to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EventFilter {
    /// Only those after this one.
    pub from: u64,
    /// Only those of this job.
    pub job: Option<JobId>,
    /// How many at most: 1 to 1000, 100 by default.
    pub limit: Option<usize>,
}

/// A page of events.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct EventPage {
    /// The events.
    pub events: Vec<Event>,
}

/// A worker.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Worker {
    /// Its number in this host.
    pub id: u32,
    /// Its state.
    pub state: WorkerState,
    /// Its Blender's version.
    pub blender: String,
    /// The scene that it has loaded.
    pub scene: Option<PathBuf>,
    /// Renders so far.
    pub renders: u32,
    /// Memory in use, in bytes, when it was last looked at.
    pub memory: u64,
}

/// The state of a worker.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Nobody holds it; its scene stays loaded.
    Idle,
    /// An attempt holds it.
    Busy,
}

/// A list of workers.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Workers {
    /// The workers.
    pub workers: Vec<Worker>,
    /// How many may work at a time.
    pub slots: usize,
}

/// A device.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Device {
    /// Its id.
    pub id: String,
    /// What its maker calls it.
    pub name: String,
    /// What it is: `cpu`, `cuda`, `optix`, `hip`, `oneapi` or `metal`.
    pub kind: String,
    /// Its memory in bytes.
    pub memory: u64,
    /// Its parts that can be leased.
    pub units: u32,
}

/// A list of devices.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Devices {
    /// The devices.
    pub devices: Vec<Device>,
}

/// How a host stands.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// The number of its process.
    pub id: u32,
    /// Its state.
    pub state: HostState,
    /// Its version.
    pub version: String,
    /// Its data directory.
    pub data: PathBuf,
    /// The Blender that it runs.
    pub blender: PathBuf,
    /// Seconds since it came up.
    pub uptime_seconds: f64,
    /// Jobs that are not finished.
    pub open_jobs: usize,
    /// Plans and attempts under way.
    pub running: usize,
    /// How many there may be at a time.
    pub slots: usize,
    /// The number of the last event.
    pub last_event: u64,
    /// Why nothing can be written, and all jobs wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// The state of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    /// It takes jobs and does them.
    Running,
    /// What runs is finished, and nothing is begun.
    Draining,
    /// It cannot write its database.
    Troubled,
}

/// How to drain.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// True to begin tasks again.
    pub off: bool,
}

/// How to shut down.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// Whether attempts are cut at once, to be made again by the next host.
    pub now: bool,
}

/// Nothing.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}
