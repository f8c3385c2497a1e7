//! One open job in memory: its row, its plan, and what becomes of its attempts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::model::{Plan, PlanError, job_may_become};
use super::runner::End;
use super::{Entry, JobSpec, Policy};
use crate::capability::{CapabilityError, Code, Directive, ERROR_TEXT, abridged};
use crate::events::EventKind;
use crate::plugin::{Outcome, PluginError};
use crate::store::jobs::JobRow;
use crate::store::now_ms;
use crate::terms::{Blame, Failure, JobId, JobState, Pause, PauseCode, TaskState};

/// How often a task may fail before it is given up.
const MAX_FAILURES: u32 = 3;
/// How often a task may be begun, however its attempts end.
const MAX_ATTEMPTS: u32 = 1_000;
/// How often a scene may crash Blender with nothing done in between.
const MAX_CRASHES: u32 = 3;

/// An open job.
#[derive(Debug)]
pub(super) struct Job {
    pub row: JobRow,
    pub spec: Arc<JobSpec>,
    pub plan: Plan,
    /// Attempts under way.
    pub running: usize,
    /// Whether its renderer is being asked for its plan.
    pub planning: bool,
    /// The open jobs that come before it.
    pub before: BTreeSet<JobId>,
    pub directive: watch::Sender<Directive>,
    /// All jobs that it was submitted to come after.
    pub after: Vec<JobId>,
    /// Whether the files of its tasks that are done are known to be as they were recorded.
    pub verified: bool,
    /// The version that is stored; 0 if none is.
    stored: u32,
    /// Whether a task list in the database is to be thrown away.
    pub forgets_tasks: bool,
    crashes: u32,
    /// How often its plan has failed.
    pub plan_failures: u32,
    /// Whether it waits before it is planned again.
    pub held: bool,
    /// How often in a row its disk was full, though nothing was done in between.
    pub full: u32,
    /// Whether it is looked for room already.
    pub seeks_room: bool,
}

/// What becomes of a task after an attempt.
#[derive(Debug)]
pub(super) struct Verdict {
    pub state: TaskState,
    pub failure: Option<Failure>,
    /// How long it waits before it may be begun again.
    pub wait: Option<Duration>,
    /// What becomes of its job.
    pub pause: Option<Pause>,
}

impl Verdict {
    fn of(state: TaskState) -> Self {
        Self { state, failure: None, wait: None, pause: None }
    }

    fn pause(pause: Pause) -> Self {
        Self { pause: Some(pause), ..Self::of(TaskState::Ready) }
    }
}

impl Job {
    pub(super) fn new(entry: Entry, is_new: bool) -> Result<Self, PlanError> {
        let Entry { row, tasks, after, spec, content: _ } = entry;
        let plan = if row.planned { Plan::restore(tasks)? } else { Plan::default() };
        Ok(Self {
            stored: if is_new { 0 } else { row.version },
            forgets_tasks: !is_new && !row.planned,
            spec: Arc::new(spec),
            running: 0,
            planning: false,
            before: BTreeSet::new(),
            directive: watch::Sender::new(match (row.canceling, row.state) {
                (true, _) => Directive::Cancel,
                (false, JobState::Paused) => Directive::Yield,
                _ => Directive::Proceed,
            }),
            after: after.into_iter().map(|(id, _)| id).collect(),
            verified: plan.done() == 0,
            crashes: 0,
            plan_failures: 0,
            held: false,
            full: 0,
            seeks_room: false,
            plan,
            row,
        })
    }

    /// Whether something of it could be begun now.
    pub(super) fn wants_a_slot(&self) -> bool {
        match self.row.state {
            JobState::Queued => self.before.is_empty() && !self.planning && !self.held,
            JobState::Running => self.plan.has_ready(),
            _ => false,
        }
    }

    pub(super) fn is_canceled(&self) -> bool {
        *self.directive.borrow() == Directive::Cancel
    }

    /// Changes its state; returns the event that tells of it.
    pub(super) fn become_(&mut self, state: JobState, pause: Option<Pause>) -> EventKind {
        let row = &mut self.row;
        assert!(job_may_become(row.state, state), "job {}: {} -> {state}", row.id, row.state);
        (row.state, row.pause) = (state, pause.clone());
        row.started_ms = row.started_ms.or((state == JobState::Planning).then(now_ms));
        row.ended_ms = state.is_final().then(now_ms);
        let error = row.failure.clone().filter(|_| state.is_final());
        EventKind::JobState { id: row.id, state, tasks: self.plan.len(), error, pause }
    }

    /// Notes that it is about to be stored as it is; returns the version that is stored.
    pub(super) fn store(&mut self) -> (JobRow, u32) {
        let row = &mut self.row;
        (row.tasks, row.done, row.failed) = (self.plan.len(), self.plan.done(), self.plan.failed());
        if row.version == self.stored {
            row.version += 1;
        }
        (row.clone(), std::mem::replace(&mut self.stored, row.version))
    }

    /// Throws its plan away, also where it is stored.
    pub(super) fn forget_plan(&mut self) {
        (self.plan, self.forgets_tasks) = (Plan::default(), true);
    }

    /// Decides whether a plan that failed is made again.
    pub(super) fn plans_again(&mut self, error: &PluginError, policy: &Policy) -> bool {
        self.plan_failures += 1;
        let again = error.is_retryable()
            && self.row.failure.is_none()
            && self.plan_failures < MAX_FAILURES
            && self.row.retries < policy.retries;
        self.row.retries += u32::from(again);
        self.held |= again;
        again
    }

    /// Whether it waits for room on its disk.
    pub(super) fn is_out_of_room(&self) -> bool {
        self.row.pause.as_ref().is_some_and(|pause| pause.code == PauseCode::DiskFull)
    }

    /// Counts a crash of Blender; the failure of the job if there were too many.
    pub(super) fn crashed(&mut self, report: &str) -> Option<Failure> {
        self.crashes += 1;
        (self.crashes >= MAX_CRASHES).then(|| Failure {
            blame: Blame::Blender,
            message: abridged(
                format!("the scene crashed Blender {MAX_CRASHES} times in a row\n{report}"),
                ERROR_TEXT,
            ),
        })
    }

    /// Decides what becomes of a task after an attempt.
    pub(super) fn judge(&mut self, task: usize, took: Duration, end: End, policy: &Policy) -> Verdict {
        let seconds = took.as_secs_f64();
        let is_asked_to_stop = *self.directive.borrow() != Directive::Proceed;
        let error = match end {
            End::Outcome(Outcome::Done) => {
                (self.crashes, self.full) = (0, 0);
                self.plan.note(task, seconds, None);
                return Verdict::of(TaskState::Done);
            }
            _ if self.is_canceled() => return Verdict::of(TaskState::Canceled),
            End::Changed(file) => return Verdict::pause(changed(&file)),
            End::NoRoom(pause) => return Verdict::pause(pause),
            End::Outcome(Outcome::Yielded) if self.plan.task(task).row.attempts < MAX_ATTEMPTS => {
                return Verdict::of(TaskState::Ready);
            }
            End::Outcome(Outcome::Yielded) => {
                PluginError::Limit(format!("{MAX_ATTEMPTS} attempts at one task"))
            }
            End::Failed(error) | End::Hopeless(error) => error,
        };
        if is_asked_to_stop && is_canceled(&error) {
            return Verdict::of(TaskState::Ready);
        }
        let failure = Failure { blame: error.blame(), message: error.to_string() };
        if failure.blame == Blame::Host {
            self.plan.note(task, seconds, None);
            let pause = Some(Pause { code: PauseCode::Host, message: failure.message.clone() });
            return Verdict { state: TaskState::Ready, failure: Some(failure), wait: None, pause };
        }
        let failures = self.plan.note(task, seconds, Some(failure.clone()));
        let again = error.is_retryable() && failures < MAX_FAILURES && self.row.retries < policy.retries;
        self.row.retries += u32::from(again);
        let wait = again.then(|| policy.wait(failures));
        let state = if again { TaskState::Ready } else { TaskState::Failed };
        Verdict { state, failure: Some(failure), wait, pause: None }
    }

    pub(super) fn task_state(&self, task: usize, took: Duration, error: Option<Failure>) -> EventKind {
        let row = &self.plan.task(task).row;
        let (id, frame, state) = (row.name.clone(), row.frame, row.state);
        EventKind::TaskState { id, job: self.row.id, frame, state, seconds: took.as_secs_f64(), error }
    }
}

fn is_canceled(error: &PluginError) -> bool {
    matches!(error, PluginError::Answer(CapabilityError { code: Code::Canceled, .. }))
}

/// Why a job is paused whose file is not as it was.
pub(super) fn changed(file: &std::path::Path) -> Pause {
    let message = format!(
        "{} has changed since the job was submitted\n\
         put it back as it was, or go on with `hotshoe job resume --accept-changes`",
        file.display()
    );
    Pause { code: PauseCode::Changed, message }
}
