//! Jobs: from a submission to its files.
//!
//! Owns the state of all jobs, in one task that others talk to through [`Jobs`].
//! Knows nothing of how a request came in.

pub mod model;
mod runner;
mod scheduler;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::capability::JobContext;
use crate::events::Events;
use crate::frames::Frames;
use crate::releases::Loaded;
use scheduler::{Message, Scheduler};

/// How many messages may wait for the scheduler.
const MAILBOX: usize = 256;

/// A job that was found to be fit to run.
#[derive(Debug)]
pub struct JobSpec {
    /// The release that it is pinned to.
    pub pin: Arc<Loaded>,
    /// What its attempts share.
    pub context: Arc<JobContext>,
    /// The frames to render.
    pub frames: Frames,
    /// Checked settings, as JSON text.
    pub settings: String,
    /// Whether missing files fail the job.
    pub strict: bool,
}

/// A handle on all jobs.
#[derive(Debug, Clone)]
pub struct Jobs(mpsc::Sender<Message>);

impl Jobs {
    /// Starts the scheduler with room for `slots` attempts at a time.
    pub fn start(events: Events, slots: usize) -> (Self, JoinHandle<()>) {
        let (mailbox, messages) = mpsc::channel(MAILBOX);
        let scheduler = Scheduler::new(events, slots, mailbox.downgrade());
        (Self(mailbox), tokio::spawn(scheduler.run(messages)))
    }

    /// Queues a job; its id is the context's.
    pub async fn submit(&self, spec: JobSpec) {
        let _ = self.0.send(Message::Submit(Box::new(spec))).await;
    }

    /// Cancels a job; one that is finished stays as it is.
    pub async fn cancel(&self, id: &str) {
        let _ = self.0.send(Message::Cancel(id.to_owned())).await;
    }

    /// Returns how a job stands, if there is one.
    pub async fn summary(&self, id: &str) -> Option<Summary> {
        let (reply, summary) = oneshot::channel();
        self.0.send(Message::Summary(id.to_owned(), reply)).await.ok()?;
        summary.await.ok()?
    }
}

/// How a job stands.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Its state.
    pub state: model::JobState,
    /// Tasks planned.
    pub tasks: usize,
    /// Tasks that failed.
    pub failed: usize,
    /// Files in their place.
    pub files: usize,
    /// The folder they are in.
    pub folder: PathBuf,
}
