//! What happened, numbered, in order.
//!
//! Keeps the latest events in memory; a subscriber reads on from its cursor and
//! is told when it came too late. Knows nothing of who listens.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::watch;

/// How many events are kept for subscribers that are behind.
const KEPT: usize = 16_384;

/// One thing that happened.
#[derive(Debug, Clone, Serialize)]
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
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// A job was accepted.
    JobSubmitted {
        /// The job.
        id: String,
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
        job: String,
        /// One sentence.
        message: String,
    },
    /// The state of a job changed.
    JobState {
        /// The job.
        id: String,
        /// Its new state.
        state: &'static str,
        /// Tasks planned so far.
        tasks: usize,
        /// Why, if it failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<Failure>,
    },
    /// A worker came up.
    WorkerStarted {
        /// The worker's number.
        id: u32,
        /// Its Blender's version.
        blender: String,
        /// Seconds it took.
        seconds: f64,
    },
    /// A worker is gone.
    WorkerStopped {
        /// The worker's number.
        id: u32,
    },
    /// An attempt at a task began.
    TaskStarted {
        /// The task's name.
        id: String,
        /// Its frame.
        frame: Option<i32>,
        /// 1 for the first attempt.
        attempt: u32,
    },
    /// An attempt is under way.
    TaskProgress {
        /// The task's name.
        id: String,
        /// Its frame.
        frame: Option<i32>,
        /// The worker it has.
        #[serde(skip_serializing_if = "Option::is_none")]
        worker: Option<u32>,
        /// Seconds that Blender has been rendering.
        #[serde(skip_serializing_if = "Option::is_none")]
        seconds: Option<f64>,
        /// Samples done and wanted, as far as Blender says.
        #[serde(skip_serializing_if = "Option::is_none")]
        samples: Option<(u32, u32)>,
        /// What the plugin says: 0 to 1.
        #[serde(skip_serializing_if = "Option::is_none")]
        fraction: Option<f32>,
        /// What the plugin says, in words.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// The plugin wrote to the job's log.
    Log {
        /// The job.
        job: String,
        /// The task's name; none while the plugin plans.
        task: Option<String>,
        /// `debug`, `info`, `warn` or `error`.
        level: &'static str,
        /// The line.
        message: String,
    },
    /// A file is where it belongs.
    FileWritten {
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
        /// Its frame.
        frame: Option<i32>,
        /// Its new state.
        state: &'static str,
        /// Seconds that the attempt took.
        seconds: f64,
        /// Why, if it failed or will be tried again.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<Failure>,
    },
}

/// Why something failed.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// Who is to blame: `client`, `plugin`, `blender` or `host`.
    pub blame: &'static str,
    /// One sentence, and further lines of detail.
    pub message: String,
}

/// The handle on a host's events.
#[derive(Debug, Clone)]
pub struct Events(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    kept: Mutex<VecDeque<Arc<Event>>>,
    last: watch::Sender<u64>,
}

impl Default for Events {
    fn default() -> Self {
        Self(Arc::new(Shared { kept: Mutex::default(), last: watch::Sender::new(0) }))
    }
}

impl Events {
    /// Numbers an event and shows it to all subscribers.
    pub fn append(&self, kind: EventKind) {
        let mut kept = self.0.kept.lock().expect("no code panics under this lock");
        let seq = *self.0.last.borrow() + 1;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        kept.push_back(Arc::new(Event { seq, time_ms: now.as_millis() as u64, kind }));
        if kept.len() > KEPT {
            kept.pop_front();
        }
        self.0.last.send_replace(seq);
    }

    /// Subscribes to everything after the event with number `cursor`.
    pub fn subscribe(&self, cursor: u64) -> Subscription {
        Subscription { events: self.clone(), cursor, last: self.0.last.subscribe() }
    }
}

/// A reader of events.
#[derive(Debug)]
pub struct Subscription {
    events: Events,
    cursor: u64,
    last: watch::Receiver<u64>,
}

/// The subscriber came too late for this many events.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} events are gone before they were read")]
pub struct Missed(pub u64);

impl Subscription {
    /// Waits for the next event.
    pub async fn next(&mut self) -> Result<Arc<Event>, Missed> {
        let cursor = self.cursor;
        let wait = self.last.wait_for(|last| *last > cursor).await;
        drop(wait.expect("this subscription keeps the sender"));
        let kept = self.events.0.kept.lock().expect("no code panics under this lock");
        let oldest = kept.front().map_or(0, |event| event.seq);
        if oldest > self.cursor + 1 {
            let missed = oldest - self.cursor - 1;
            self.cursor = oldest - 1;
            return Err(Missed(missed));
        }
        let event = kept[(self.cursor + 1 - oldest) as usize].clone();
        self.cursor = event.seq;
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stopped(id: u32) -> EventKind {
        EventKind::WorkerStopped { id }
    }

    #[tokio::test]
    async fn a_subscriber_reads_on_from_its_cursor() {
        let events = Events::default();
        (1..=3).for_each(|id| events.append(stopped(id)));
        let mut subscription = events.subscribe(1);
        assert_eq!(subscription.next().await.unwrap().seq, 2);
        assert_eq!(subscription.next().await.unwrap().seq, 3);
    }

    #[tokio::test]
    async fn a_late_subscriber_is_told_what_it_missed() {
        let events = Events::default();
        (0..KEPT as u32 + 5).for_each(|id| events.append(stopped(id)));
        let mut subscription = events.subscribe(0);
        assert_eq!(subscription.next().await.unwrap_err(), Missed(5));
        assert_eq!(subscription.next().await.unwrap().seq, 6);
    }
}
