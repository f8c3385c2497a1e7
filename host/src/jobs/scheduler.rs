//! The task that owns all job state: one mailbox, one match.
//!
//! Takes all messages that wait, changes its memory, writes what changed in one
//! transaction, and only then lets anyone know: answers, events, new attempts.
//! Awaits nothing but its mailbox and that write.

mod commit;
mod orders;
mod pins;
mod planning;
mod work;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::job::Job;
use super::runner::{self, End, Used};
use super::{Entry, Order, OrderError, Policy, Standing};
use crate::blender::content::Content;
use crate::capability::{Directive, Report};
use crate::events::{EventKind, Progress};
use crate::frames::Frames;
use crate::plugin::PlannedTask;
use crate::releases::{Pin, Releases};
use crate::store::{Store, StoreError, now_ms};
use crate::terms::{Blame, Failure, JobId, JobState, Pause, TaskState};

/// How many messages share a transaction at most.
const BATCH: usize = 512;
/// How long to wait before a job that waits for room looks for it again, and before
/// what could not be read is read again.
pub(super) const AGAIN: Duration = Duration::from_secs(1);
/// How many jobs that ended are remembered for those that come after them.
const REMEMBERED: usize = 10_000;

/// What the scheduler is told. A report is of no task while the plugin plans.
#[derive(Debug)]
pub(super) enum Message {
    Enter(Box<Entry>, oneshot::Sender<()>),
    Order(JobId, Order, oneshot::Sender<Result<(), OrderError>>),
    Looked {
        job: JobId,
        content: Content,
    },
    Planned {
        job: JobId,
        tasks: Vec<PlannedTask>,
        accepted: oneshot::Sender<()>,
    },
    PlanEnded {
        job: JobId,
        end: Result<(), End>,
        pin: Arc<Pin>,
    },
    Reported {
        job: JobId,
        task: Option<usize>,
        report: Report,
    },
    AttemptEnded {
        job: JobId,
        task: usize,
        used: Used,
        end: End,
        pin: Arc<Pin>,
    },
    /// Tasks that were done and are not: their files are not as they were recorded.
    Lost {
        job: JobId,
        tasks: Vec<String>,
    },
    /// Whether there is room for a job whose disk was full.
    Room {
        job: JobId,
        there: bool,
    },
    /// A job ended that never came here.
    Gone {
        job: JobId,
        state: JobState,
    },
    /// Releases stand elsewhere than before.
    Released(oneshot::Sender<()>),
    Drain(bool, oneshot::Sender<()>),
    Ping(oneshot::Sender<()>),
    Stop,
}

/// Owns all job state.
pub(super) struct Scheduler {
    store: Store,
    policy: Policy,
    releases: Arc<Releases>,
    mailbox: mpsc::WeakSender<Message>,
    progress: broadcast::Sender<Arc<Progress>>,
    standing: watch::Sender<Standing>,
    /// Tells even while nothing can be written that the host is to stop.
    stop: CancellationToken,
    jobs: BTreeMap<JobId, Job>,
    /// The jobs that could begin something, most urgent first.
    wanting: BTreeSet<(Reverse<i32>, JobId)>,
    /// Tasks that are to be tried again, by the time at which.
    /// No task: a job that looks for room again.
    later: BTreeSet<(Instant, JobId, Option<usize>)>,
    /// When attempts on releases that their job has left are asked to yield, or cut.
    leaving: BTreeSet<(Instant, JobId, bool)>,
    /// The jobs that wait for another one.
    after: BTreeMap<JobId, Vec<JobId>>,
    /// How jobs ended that are not in memory any more.
    ended: Ended,
    running: usize,
    draining: bool,
    stopping: bool,
    batch: Batch,
}

/// How the latest jobs ended.
#[derive(Default)]
struct Ended {
    states: BTreeMap<JobId, JobState>,
    order: VecDeque<JobId>,
}

impl Ended {
    fn state(&self, id: JobId) -> Option<JobState> {
        self.states.get(&id).copied()
    }

    fn insert(&mut self, id: JobId, state: JobState) {
        self.states.insert(id, state);
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.states.remove(&oldest);
        }
    }
}

/// What is to be written, and what happens once it is.
#[derive(Default)]
struct Batch {
    jobs: BTreeSet<JobId>,
    contents: Vec<(JobId, String)>,
    /// Jobs whose state another release gets: from which to which, by their digests.
    handed_over: Vec<(JobId, String, String)>,
    events: Vec<EventKind>,
    then: Vec<Box<dyn FnOnce() + Send>>,
}

impl Scheduler {
    pub(super) fn new(
        store: Store,
        policy: Policy,
        releases: Arc<Releases>,
        mailbox: mpsc::WeakSender<Message>,
        progress: broadcast::Sender<Arc<Progress>>,
        standing: watch::Sender<Standing>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            store,
            policy,
            releases,
            mailbox,
            progress,
            standing,
            stop,
            jobs: BTreeMap::new(),
            wanting: BTreeSet::new(),
            later: BTreeSet::new(),
            leaving: BTreeSet::new(),
            after: BTreeMap::new(),
            ended: Ended::default(),
            running: 0,
            draining: false,
            stopping: false,
            batch: Batch::default(),
        }
    }

    pub(super) async fn run(mut self, mut messages: mpsc::Receiver<Message>) -> Result<(), StoreError> {
        let mut received = Vec::with_capacity(BATCH);
        while !(self.stopping && self.running == 0) {
            let due = [self.later.first().map(|(due, ..)| *due), self.leaving.first().map(|(due, ..)| *due)];
            let due = due.into_iter().flatten().min();
            tokio::select! {
                count = messages.recv_many(&mut received, BATCH) => if count == 0 { break },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
            received.drain(..).for_each(|message| self.take(message));
            self.wake();
            self.start_work();
            self.commit().await?;
        }
        Ok(())
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Enter(entry, reply) => self.enter(*entry, reply),
            Message::Order(id, order, reply) => {
                let answer = self.order(id, order);
                self.then(move || drop(reply.send(answer)));
            }
            Message::Looked { job, content } => self.looked(job, &content),
            Message::Planned { job, tasks, accepted } => {
                if self.planned(job, tasks) {
                    self.then(move || accepted.send(()).unwrap_or_default());
                }
            }
            Message::PlanEnded { job, end, pin } => self.plan_ended(job, end, &pin),
            Message::Reported { job, task, report } => self.reported(job, task, report),
            Message::AttemptEnded { job, task, used, end, pin } => {
                self.attempt_ended(job, task, used, end, &pin);
            }
            Message::Lost { job, tasks } => self.lost(job, &tasks),
            Message::Room { job, there } => self.room(job, there),
            Message::Gone { job, state } => self.gone(job, state),
            Message::Released(reply) => {
                self.follow_releases();
                self.then(move || reply.send(()).unwrap_or_default());
            }
            Message::Ping(reply) => self.then(move || reply.send(()).unwrap_or_default()),
            Message::Drain(draining, reply) => {
                self.draining = draining;
                self.then(move || reply.send(()).unwrap_or_default());
            }
            Message::Stop => self.stop(),
        }
    }

    fn enter(&mut self, entry: Entry, reply: oneshot::Sender<()>) {
        if self.jobs.contains_key(&entry.row.id) {
            // Two wanted it retried at the same time.
            return self.then(move || reply.send(()).unwrap_or_default());
        }
        let (id, is_new) = (entry.row.id, entry.row.version == 0);
        let (after, content, again) = (entry.after.clone(), entry.content.clone(), entry.again.clone());
        let submitted = is_new.then(|| EventKind::JobSubmitted {
            id,
            release: entry.pin.to_string(),
            scene: entry.spec.context.scene.clone(),
            frames: entry.spec.frames.as_ref().map_or(0, Frames::len),
            out: entry.spec.context.output.folder().to_owned(),
        });
        let mut job = match Job::new(entry, is_new) {
            Ok(job) => job,
            // Only a database that somebody else has changed holds such a plan.
            Err(error) => return tracing::error!(job = %id, %error, "a job cannot be taken up"),
        };
        self.batch.events.extend(submitted);
        let mut lost = None;
        for (other, found) in after {
            let state = self.ended.state(other).unwrap_or(found);
            // One that is not here, and yet not finished, could not be taken up so far.
            if self.jobs.contains_key(&other) || !state.is_final() {
                job.before.insert(other);
                self.after.entry(other).or_default().push(id);
            } else if state != JobState::Succeeded {
                lost = lost.or(Some((other, state)));
            }
        }
        let state = job.row.state;
        self.jobs.insert(id, job);
        self.batch.jobs.insert(id);
        content.iter().for_each(|content| self.looked(id, content));
        match state {
            JobState::Failed | JobState::Canceled | JobState::Succeeded => self.retried(id, &again),
            JobState::Planning => self.become_(id, JobState::Queued, None),
            JobState::Paused => self.enter_paused(id),
            _ => {}
        }
        if self.jobs[&id].is_canceled() {
            // By a host that did not live to see its end.
            self.cancel(id);
        }
        if let Some((other, state)) = lost
            && self.fail_after(id, other, state)
        {
            self.gone(id, JobState::Failed);
        }
        self.verify(id);
        self.settle(id);
        self.then(move || reply.send(()).unwrap_or_default());
    }

    /// Looks, while other tasks go on, whether the files of tasks that are done are
    /// as they were recorded.
    fn verify(&mut self, id: JobId) {
        if self.jobs.get(&id).is_none_or(|job| job.verified || job.row.state.is_final()) {
            return;
        }
        let (store, mailbox) = (self.store.clone(), self.mailbox.clone());
        self.then(move || drop(tokio::spawn(runner::verify(store, id, mailbox))));
    }

    fn enter_paused(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.is_out_of_room()) else { return };
        job.seeks_room = true;
        self.later.insert((Instant::now(), id, None));
    }

    /// Begins a job anew that has ended: what is not done, and what is to be done once more.
    fn retried(&mut self, id: JobId, again: &[String]) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        (job.row.failure, job.row.retries, job.row.canceling) = (None, 0, false);
        job.row.started_ms = job.row.started_ms.map(|_| now_ms());
        job.direct(Directive::Proceed);
        job.plan.retry();
        job.plan.undo(again);
        self.become_(id, JobState::Queued, None);
    }

    fn reported(&mut self, id: JobId, task: Option<usize>, report: Report) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let row = task.map(|task| &job.plan.task(task).row);
        let name = row.map(|row| row.name.clone());
        let (worker, seconds, samples, fraction, message) = match report {
            Report::Rendering { worker, progress } => {
                (Some(worker), Some(progress.seconds), progress.samples, None, None)
            }
            Report::Progress { fraction, message } => (None, None, None, Some(fraction), Some(message)),
            Report::Log { level, message } => {
                let level = level.to_owned();
                return self.batch.events.push(EventKind::Log { job: id, task: name, level, message });
            }
            Report::Crashed { report } => {
                let failure = job.crashed(&report);
                return self.give_up(id, failure);
            }
            Report::Overtime { limit: message } => {
                return self.give_up(id, Some(Failure::new(Blame::Plugin, message)));
            }
        };
        let Some((name, frame)) = name.zip(row.map(|row| row.frame)) else { return };
        let progress = Progress { id: name, job: id, frame, worker, seconds, samples, fraction, message };
        // Nobody may be looking.
        let _ = self.progress.send(Arc::new(progress));
    }

    /// Fails a job of which not every task was tried.
    fn give_up(&mut self, id: JobId, failure: Option<Failure>) {
        if let Some((job, failure)) = self.jobs.get_mut(&id).zip(failure) {
            job.row.failure = Some(failure);
            job.plan.cancel();
            self.batch.jobs.insert(id);
        }
    }

    fn attempt_ended(&mut self, id: JobId, task: usize, used: Used, end: End, pin: &Arc<Pin>) {
        self.running -= 1;
        let is_doubted = self.taught(id, task, used, &end, pin);
        let took = used.took;
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.running -= 1;
        let mut verdict = match end {
            End::Failed(error) | End::Hopeless(error) if is_doubted && !job.is_canceled() => {
                job.doubted(task, took, &error)
            }
            end => job.judge(task, took, end, pin, &self.policy),
        };
        if verdict.state == TaskState::Ready && job.row.failure.is_some() {
            verdict.state = TaskState::Canceled;
        }
        let lost = job.plan.finish(task, verdict.state, verdict.wait.is_some());
        match verdict.state {
            TaskState::Ready if is_doubted => job.plan.put_first(task),
            TaskState::Ready => {}
            // Nobody will know any more whose fault it was.
            _ => self.drop_doubt(id, task),
        }
        let Some(job) = self.jobs.get_mut(&id) else { return };
        self.batch.jobs.insert(id);
        self.batch.events.push(job.task_state(task, took, verdict.failure));
        if lost > 0 {
            let after = job.plan.task(task).row.name.clone();
            self.batch.events.push(EventKind::TasksCanceled { job: id, after, count: lost });
        }
        if let Some(wait) = verdict.wait {
            self.later.insert((Instant::now() + wait, id, Some(task)));
        }
        if let Some(pause) = verdict.pause {
            self.pause(id, pause);
        }
        self.settle(id);
        self.release_is_free(&pin.digest);
    }

    fn lost(&mut self, id: JobId, tasks: &[String]) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| !job.row.state.is_final()) else { return };
        job.verified = true;
        if !job.is_canceled() {
            job.plan.undo(tasks);
        }
        self.batch.jobs.insert(id);
        self.settle(id);
    }

    fn stop(&mut self) {
        self.stopping = true;
        for job in self.jobs.values_mut() {
            // Not a wish of anybody: what is cut is done again by the next host.
            job.ask_to_yield();
            job.spec.context.cut.cancel();
        }
    }

    /// Ends a job once nothing of it is open, and finds its place among those that wait.
    fn settle(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        let is_idle = job.running == 0 && !job.planning;
        let is_over = job.row.planned && job.plan.open() == 0 && job.verified;
        match job {
            job if job.row.state.is_final() || !is_idle => {}
            job if job.is_canceled() => return self.end(id, JobState::Canceled),
            _ if !is_over => {}
            job if job.row.failure.is_some() || job.plan.failed() > 0 => {
                return self.end(id, JobState::Failed);
            }
            _ => return self.end(id, JobState::Succeeded),
        }
        self.place(id);
    }

    /// Ends a job; it is let go of once that is written.
    fn end(&mut self, id: JobId, state: JobState) {
        self.finish(id, state);
        self.gone(id, state);
    }

    fn finish(&mut self, id: JobId, state: JobState) {
        self.drop_doubts(id);
        self.become_(id, state, None);
        self.later.retain(|(_, job, _)| *job != id);
    }

    /// Lets those hear of the end of a job that come after it.
    fn gone(&mut self, id: JobId, state: JobState) {
        // Chains may be long: no recursion.
        let mut gone = VecDeque::from([(id, state)]);
        while let Some((id, state)) = gone.pop_front() {
            self.ended.insert(id, state);
            self.releases.catalogue().left(id);
            for next in self.after.remove(&id).unwrap_or_default() {
                let Some(job) = self.jobs.get_mut(&next) else { continue };
                job.before.remove(&id);
                match state {
                    JobState::Succeeded => self.place(next),
                    state if self.fail_after(next, id, state) => gone.push_back((next, JobState::Failed)),
                    _ => {}
                }
            }
        }
    }

    /// Fails a job since one that it comes after did not succeed; false if it has ended.
    fn fail_after(&mut self, id: JobId, other: JobId, state: JobState) -> bool {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| !job.row.state.is_final()) else { return false };
        let message = format!("it waits for job {other}, which is {state}\nretry that job, then this one");
        job.row.failure = Some(Failure::new(Blame::Client, message));
        self.finish(id, JobState::Failed);
        true
    }

    fn become_(&mut self, id: JobId, state: JobState, pause: Option<Pause>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let event = job.become_(state, pause);
        self.batch.events.push(event);
        self.batch.jobs.insert(id);
        self.place(id);
    }

    /// Puts a job among those that could begin something, or takes it away from there.
    fn place(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        let place = (Reverse(job.row.priority), id);
        match job.wants_a_slot() {
            true => self.wanting.insert(place),
            false => self.wanting.remove(&place),
        };
    }

    fn then(&mut self, effect: impl FnOnce() + Send + 'static) {
        self.batch.then.push(Box::new(effect));
    }
}
