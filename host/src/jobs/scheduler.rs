//! The task that owns all job state: one mailbox, one match.
//!
//! Awaits nothing but its mailbox. Plans and attempts run in tasks that it
//! spawns and that report back as messages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::model::{JobState, Plan, PlanError, TaskState};
use super::{JobSpec, Summary, runner};
use crate::capability::{Directive, Report};
use crate::events::{EventKind, Events, Failure};
use crate::plugin::{Blame, Outcome, PlannedTask, PluginError};

/// How often a task may fail before it is given up.
const MAX_FAILURES: u32 = 3;
/// How often a task may be begun, however its attempts end.
const MAX_ATTEMPTS: u32 = 1_000;

/// What the scheduler is told. A report is of no task while the plugin plans.
#[derive(Debug)]
pub(super) enum Message {
    Submit(Box<JobSpec>),
    Cancel(String),
    Summary(String, oneshot::Sender<Option<Summary>>),
    Planned { job: String, tasks: Vec<PlannedTask>, accepted: oneshot::Sender<()> },
    PlanEnded { job: String, result: Result<(), Failure> },
    Reported { job: String, task: Option<usize>, report: Report },
    AttemptEnded { job: String, task: usize, took: Duration, result: Result<Outcome, PluginError> },
}

/// Owns all job state.
#[derive(Debug)]
pub(super) struct Scheduler {
    events: Events,
    free: usize,
    mailbox: mpsc::WeakSender<Message>,
    jobs: BTreeMap<String, Job>,
}

#[derive(Debug)]
struct Job {
    spec: Arc<JobSpec>,
    state: JobState,
    plan: Plan,
    planned: bool,
    running: usize,
    files: usize,
    directive: watch::Sender<Directive>,
    failure: Option<Failure>,
}

impl Scheduler {
    pub(super) fn new(events: Events, slots: usize, mailbox: mpsc::WeakSender<Message>) -> Self {
        Self { events, free: slots, mailbox, jobs: BTreeMap::new() }
    }

    pub(super) async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        while let Some(message) = messages.recv().await {
            self.take(message);
            self.start_attempts();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Submit(spec) => self.submit(*spec),
            Message::Cancel(id) => self.cancel(&id),
            Message::Summary(id, reply) => drop(reply.send(self.jobs.get(&id).map(Job::summary))),
            Message::Planned { job, tasks, accepted } => {
                if self.planned(&job, tasks) {
                    let _ = accepted.send(());
                }
            }
            Message::PlanEnded { job, result } => self.plan_ended(&job, result),
            Message::Reported { job, task, report } => self.reported(job, task, report),
            Message::AttemptEnded { job, task, took, result } => self.attempt_ended(&job, task, took, result),
        }
    }

    fn submit(&mut self, spec: JobSpec) {
        let (spec, directive) = (Arc::new(spec), watch::Sender::new(Directive::Proceed));
        let id = spec.context.id.clone();
        self.events.append(EventKind::JobSubmitted {
            id: id.clone(),
            release: spec.pin.release.to_string(),
            scene: spec.context.scene.clone(),
            frames: spec.frames.len(),
            out: spec.context.output.folder().to_owned(),
        });
        let mailbox = self.mailbox.upgrade();
        tokio::spawn(runner::plan(spec.clone(), directive.subscribe(), mailbox, self.events.clone()));
        let plan = Plan::default();
        let state = JobState::Queued;
        let job = Job { spec, state, plan, planned: false, running: 0, files: 0, directive, failure: None };
        self.jobs.insert(id.clone(), job);
        self.set_state(&id, JobState::Planning);
    }

    fn cancel(&mut self, id: &str) {
        let Some(job) = self.jobs.get_mut(id).filter(|job| !job.state.is_final()) else { return };
        job.directive.send_replace(Directive::Cancel);
        for task in job.plan.cancel() {
            self.events.append(job.task_state(task, Duration::ZERO, None));
        }
        self.settle(id);
    }

    /// Takes a page of a plan; false ends the planning.
    fn planned(&mut self, id: &str, tasks: Vec<PlannedTask>) -> bool {
        let Some(job) = self.jobs.get_mut(id).filter(|job| !job.is_canceled()) else { return false };
        let added = tasks.into_iter().try_for_each(|task| job.plan.add(task).map(drop));
        if let Err(error) = added {
            self.broken_plan(id, &error);
            return false;
        }
        true
    }

    fn broken_plan(&mut self, id: &str, error: &PlanError) {
        let failure = Failure { blame: Blame::Plugin.as_str(), message: error.to_string() };
        if let Some(job) = self.jobs.get_mut(id) {
            job.failure = Some(failure);
            job.plan.cancel();
        }
    }

    fn plan_ended(&mut self, id: &str, result: Result<(), Failure>) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.planned = true;
        if let Err(failure) = result {
            job.failure.get_or_insert(failure);
            job.plan.cancel();
        }
        if job.plan.open() > 0 {
            self.set_state(id, JobState::Running);
        }
        self.settle(id);
    }

    /// Starts attempts while there is room and something is ready. A job's tasks
    /// wait until its whole plan is known to be sound.
    fn start_attempts(&mut self) {
        let mut started = Vec::new();
        for (id, job) in &mut self.jobs {
            while self.free > 0 && job.state == JobState::Running {
                let Some(task) = job.plan.start() else { break };
                self.free -= 1;
                job.running += 1;
                started.push((id.clone(), task));
            }
        }
        for (id, task) in started {
            let job = &self.jobs[&id];
            let planned = &job.plan.task(task).planned;
            let attempt = job.plan.task(task).attempts;
            self.events.append(EventKind::TaskStarted {
                id: planned.name.clone(),
                frame: planned.frame,
                attempt,
            });
            let start = runner::Start { job: id, task, planned: planned.clone(), attempt };
            let mailbox = self.mailbox.upgrade();
            tokio::spawn(runner::attempt(job.spec.clone(), start, job.directive.subscribe(), mailbox));
        }
    }

    fn reported(&mut self, job_id: String, task: Option<usize>, report: Report) {
        let Some(job) = self.jobs.get_mut(&job_id) else { return };
        let planned = task.map(|task| &job.plan.task(task).planned);
        let task = planned.map(|planned| planned.name.clone());
        let (worker, seconds, samples, fraction, message) = match report {
            Report::Rendering { worker, progress } => {
                (Some(worker), Some(progress.seconds), progress.samples, None, None)
            }
            Report::Progress { fraction, message } => (None, None, None, Some(fraction), Some(message)),
            Report::Log { level, message } => {
                return self.events.append(EventKind::Log { job: job_id, task, level, message });
            }
            Report::File(file) => {
                job.files += 1;
                let (path, size, kept) = (file.path, file.size, file.kept);
                return self.events.append(EventKind::FileWritten { task, path, size, kept });
            }
        };
        let Some((id, frame)) = task.zip(planned.map(|planned| planned.frame)) else { return };
        let progress = EventKind::TaskProgress { id, frame, worker, seconds, samples, fraction, message };
        self.events.append(progress);
    }

    fn attempt_ended(&mut self, id: &str, task: usize, took: Duration, result: Result<Outcome, PluginError>) {
        self.free += 1;
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.running -= 1;
        let (state, failure) = job.judge(task, result);
        let lost = job.plan.finish(task, state);
        self.events.append(job.task_state(task, took, failure));
        for task in lost {
            let message = "a task that it comes after was not done".to_owned();
            let failure = Failure { blame: Blame::Plugin.as_str(), message };
            self.events.append(job.task_state(task, Duration::ZERO, Some(failure)));
        }
        self.settle(id);
    }

    /// Ends a job once nothing of it is open.
    fn settle(&mut self, id: &str) {
        let Some(job) = self.jobs.get(id) else { return };
        if job.state.is_final() || !job.planned || job.running > 0 || job.plan.open() > 0 {
            return;
        }
        let state = match job {
            job if job.is_canceled() => JobState::Canceled,
            job if job.failure.is_some() || job.plan.failed() > 0 => JobState::Failed,
            _ => JobState::Succeeded,
        };
        let _ = std::fs::remove_dir_all(&job.spec.context.spool);
        self.set_state(id, state);
    }

    fn set_state(&mut self, id: &str, state: JobState) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.state = state;
        let (tasks, error) = (job.plan.len(), job.failure.clone());
        self.events.append(EventKind::JobState { id: id.to_owned(), state: state.as_str(), tasks, error });
    }
}

impl Job {
    fn is_canceled(&self) -> bool {
        *self.directive.borrow() == Directive::Cancel
    }

    /// Decides what becomes of a task after an attempt.
    fn judge(&mut self, task: usize, result: Result<Outcome, PluginError>) -> (TaskState, Option<Failure>) {
        let error = match result {
            Ok(Outcome::Done) => return (TaskState::Done, None),
            _ if self.is_canceled() => return (TaskState::Canceled, None),
            Ok(Outcome::Yielded) if self.plan.task(task).attempts < MAX_ATTEMPTS => {
                return (TaskState::Ready, None);
            }
            Ok(Outcome::Yielded) => PluginError::Limit(format!("{MAX_ATTEMPTS} attempts at one task")),
            Err(error) => error,
        };
        let failure = Failure { blame: error.blame().as_str(), message: error.to_string() };
        let again = self.plan.fail(task) < MAX_FAILURES && error.is_retryable();
        (if again { TaskState::Ready } else { TaskState::Failed }, Some(failure))
    }

    fn task_state(&self, task: usize, took: Duration, error: Option<Failure>) -> EventKind {
        let task = self.plan.task(task);
        let (id, frame) = (task.planned.name.clone(), task.planned.frame);
        EventKind::TaskState { id, frame, state: task.state.as_str(), seconds: took.as_secs_f64(), error }
    }

    fn summary(&self) -> Summary {
        Summary {
            state: self.state,
            tasks: self.plan.len(),
            failed: self.plan.failed(),
            files: self.files,
            folder: self.spec.context.output.folder().to_owned(),
        }
    }
}
