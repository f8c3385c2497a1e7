//! Jobs: from a submission to its files.
//!
//! Owns the state of all open jobs, in one task that others talk to through
//! [`Jobs`]. Every change is in the database before anyone hears of it. Knows
//! nothing of how a request came in.

mod job;
pub mod model;
mod runner;
mod scheduler;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::blender::content::Content;
use crate::capability::JobContext;
use crate::events::Progress;
use crate::frames::Frames;
use crate::releases::lifecycle::Wish;
use crate::releases::{Pin, Releases};
use crate::store::jobs::{JobRow, TaskRow};
use crate::store::{Store, StoreError};
use crate::terms::{Capability, JobId, JobState};
use scheduler::{Message, Scheduler};

/// How many messages may wait for the scheduler.
const MAILBOX: usize = 1024;
/// How many reports of progress a slow reader may be behind before it skips some.
const PROGRESS: usize = 256;
/// The longest that something waits before it is tried again.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// A job that was found to be fit to run.
#[derive(Debug)]
pub struct JobSpec {
    /// What it asks for, and how far its pin may move; nothing if it was given a path.
    pub wish: Option<Wish>,
    /// What its attempts share.
    pub context: Arc<JobContext>,
    /// The frames to render; without them, those of the scene's own range.
    pub frames: Option<Frames>,
    /// The scene's own range, once the scene was looked at.
    pub scene_frames: OnceLock<Frames>,
    /// Checked settings, as JSON text.
    pub settings: String,
    /// Whether missing files fail the job.
    pub strict: bool,
    /// What the job's plugin may use at most; all if absent.
    pub allow: Option<Vec<Capability>>,
}

/// A job that is new to the scheduler.
#[derive(Debug)]
pub struct Entry {
    /// Its row: as it is stored, or, if it is new, as it is to be.
    pub row: JobRow,
    /// Its tasks, as far as they are stored.
    pub tasks: Vec<TaskRow>,
    /// Names of tasks that are done, and are to be done once more.
    pub again: Vec<String>,
    /// The jobs that come before it, with the state in which each was found.
    pub after: Vec<(JobId, JobState)>,
    /// The release that it is pinned to.
    pub pin: Arc<Pin>,
    /// How to run it.
    pub spec: JobSpec,
    /// What it renders from, if that is not stored yet.
    pub content: Option<Content>,
}

/// What can be asked of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Do nothing more of it.
    Cancel,
    /// Begin nothing of it until it is resumed.
    Pause,
    /// Go on with it; with files that have changed only if they are accepted.
    Resume {
        /// Whether to go on with files that have changed.
        accept_changes: bool,
    },
    /// Keep it however old it is, or do not.
    Pin(bool),
}

/// Why an order is not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OrderError {
    /// The job is in a state in which it cannot be.
    #[error("job {id} is {state}: {why}")]
    State {
        /// The job.
        id: JobId,
        /// Its state.
        state: JobState,
        /// Why that will not do.
        why: &'static str,
    },
    /// The host could not take it up so far.
    #[error("the host could not load the job; `hotshoe job resume` tries again")]
    NotTakenUp,
    /// The host is stopping.
    #[error("the host is stopping")]
    Stopping,
}

/// How jobs are carried out.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// How many plans and attempts are made at a time.
    pub slots: usize,
    /// How many attempts of one job may be made again because they failed.
    pub retries: u32,
    /// How long a task waits after its first failure; each further one doubles it.
    pub backoff: Duration,
    /// How long an attempt may go on when its job has moved to another release, before it is
    /// asked to yield ...
    pub yielding: Duration,
    /// ... and before it is cut.
    pub cutting: Duration,
}

impl Policy {
    /// Returns how long something waits that has failed so often, before it is tried again.
    fn wait(&self, failures: u32) -> Duration {
        (self.backoff * 2u32.pow(failures - 1)).min(MAX_BACKOFF)
    }
}

/// How the scheduler stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Jobs that are not finished.
    pub open: usize,
    /// Plans and attempts under way.
    pub running: usize,
    /// Whether nothing new is begun.
    pub draining: bool,
}

/// A handle on all jobs.
#[derive(Debug, Clone)]
pub struct Jobs {
    mailbox: mpsc::Sender<Message>,
    progress: broadcast::Sender<Arc<Progress>>,
    standing: watch::Receiver<Standing>,
    stop: CancellationToken,
}

impl Jobs {
    /// Starts the scheduler; it ends when it is stopped, or when the database is lost.
    pub fn start(
        store: Store,
        policy: Policy,
        releases: Arc<Releases>,
    ) -> (Self, JoinHandle<Result<(), StoreError>>) {
        let (mailbox, messages) = mpsc::channel(MAILBOX);
        let progress = broadcast::Sender::new(PROGRESS);
        let standing = watch::Sender::new(Standing::default());
        let stop = CancellationToken::new();
        let jobs = Self { mailbox, progress: progress.clone(), standing: standing.subscribe(), stop };
        let scheduler = Scheduler::new(
            store,
            policy,
            releases,
            jobs.mailbox.downgrade(),
            progress,
            standing,
            jobs.stop.clone(),
        );
        let running = async {
            let result = scheduler.run(messages).await;
            if let Err(error) = &result {
                tracing::error!(%error, "jobs cannot go on");
            }
            result
        };
        (jobs, tokio::spawn(running))
    }

    /// Takes a job up: a new one, one of an earlier host, or one that is retried.
    /// Returns once it is on disk.
    pub async fn enter(&self, entry: Entry) -> Result<(), OrderError> {
        self.ask(|reply| Message::Enter(Box::new(entry), reply)).await
    }

    /// Asks something of a job; one that is finished takes no orders but pins.
    pub async fn order(&self, id: JobId, order: Order) -> Result<(), OrderError> {
        self.ask(|reply| Message::Order(id, order, reply)).await?
    }

    /// Tells of the end of a job that could not be taken up.
    pub async fn gone(&self, job: JobId, state: JobState) {
        let _ = self.mailbox.send(Message::Gone { job, state }).await;
    }

    /// Lets jobs move that must, or may now, since releases stand elsewhere than before.
    pub async fn follow_releases(&self) -> Result<(), OrderError> {
        self.ask(Message::Released).await
    }

    /// Returns once the scheduler has answered.
    pub async fn ping(&self) -> Result<(), OrderError> {
        self.ask(Message::Ping).await
    }

    /// Begins nothing new, or begins again.
    pub async fn drain(&self, draining: bool) -> Result<(), OrderError> {
        self.ask(|reply| Message::Drain(draining, reply)).await
    }

    /// Cuts what runs, writes down that it is to be done again, and ends.
    pub async fn stop(&self) {
        self.stop.cancel();
        let _ = self.mailbox.send(Message::Stop).await;
    }

    /// Follows how the scheduler stands.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Follows how far attempts are.
    pub fn progress(&self) -> broadcast::Receiver<Arc<Progress>> {
        self.progress.subscribe()
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T, OrderError> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(message(reply)).await.map_err(|_| OrderError::Stopping)?;
        answer.await.map_err(|_| OrderError::Stopping)
    }
}
