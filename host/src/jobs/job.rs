//! One open job in memory: its row, its plan, and what becomes of its attempts.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::model::{Plan, PlanError, job_may_become};
use super::runner::{End, On};
use super::{Entry, JobSpec, Policy};
use crate::capability::{CapabilityError, Code, Directive, ERROR_TEXT, abridged};
use crate::events::EventKind;
use crate::plugin::{Outcome, PluginError};
use crate::releases::lifecycle::Wish;
use crate::releases::{Pin, Releases};
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
    directive: watch::Sender<Directive>,
    /// Those of attempts that run on releases which it has left.
    leaving: Vec<watch::Sender<Directive>>,
    /// The release that it runs on.
    pub pin: Arc<Pin>,
    /// What it asks for, and how far its pin may move; nothing if it was given a path.
    pub wish: Option<Wish>,
    /// The digest of the release that it was moved from to a newer one.
    pub came_from: Option<String>,
    /// The digest of the release that it was checked with.
    checked: String,
    /// Whether it waits for the task that tries its release first.
    pub waits: bool,
    /// The tasks that failed on a release which is on trial, and that another one is to do:
    /// then it is known whose fault it was.
    pub doubts: BTreeMap<usize, Doubt>,
    /// The same of its plan.
    pub plan_doubt: Option<Doubt>,
    /// Tasks that other releases cannot do either.
    pub cleared: BTreeSet<usize>,
    /// Stands for what it renders from: only the same takes the same time.
    pub scene: u64,
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

/// What a release is suspected of.
#[derive(Debug, Clone)]
pub(super) struct Doubt {
    /// Its digest.
    pub release: String,
    /// What failed, and how.
    pub what: String,
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
        let Entry { row, tasks, again: _, after, pin, spec, content: _ } = entry;
        let mut scene = DefaultHasher::new();
        (&spec.context.scene, &spec.settings).hash(&mut scene);
        let wish = spec.wish.clone();
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
            leaving: Vec::new(),
            checked: pin.digest.clone(),
            wish,
            came_from: None,
            pin,
            waits: false,
            doubts: BTreeMap::new(),
            plan_doubt: None,
            cleared: BTreeSet::new(),
            scene: scene.finish(),
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
            JobState::Queued => self.before.is_empty() && !self.planning && !self.held && !self.waits,
            JobState::Running => self.plan.has_ready() && !self.waits,
            _ => false,
        }
    }

    pub(super) fn is_canceled(&self) -> bool {
        *self.directive.borrow() == Directive::Cancel
    }

    /// Says how all that runs is to go on.
    pub(super) fn direct(&mut self, directive: Directive) {
        self.directive.send_replace(directive);
        self.hurry(directive);
    }

    /// Asks all that runs to end soon.
    pub(super) fn ask_to_yield(&mut self) {
        let asked = stronger(*self.directive.borrow(), Directive::Yield);
        self.direct(asked);
    }

    /// Follows how something is to go on that is begun now.
    pub(super) fn directed(&self) -> watch::Receiver<Directive> {
        self.directive.subscribe()
    }

    /// Moves to another release. What runs on the one before is told so by and by.
    pub(super) fn move_to(&mut self, pin: Arc<Pin>) -> Arc<Pin> {
        let next = watch::Sender::new(*self.directive.borrow());
        self.leaving.push(std::mem::replace(&mut self.directive, next));
        self.row.release = pin.stored();
        self.waits = false;
        std::mem::replace(&mut self.pin, pin)
    }

    /// Says to what runs on releases that it has left how to go on.
    pub(super) fn hurry(&mut self, directive: Directive) {
        self.leaving.retain(|leaving| leaving.receiver_count() > 0);
        for leaving in &self.leaving {
            // What it was asked for already, it is not asked for less.
            leaving.send_modify(|known| *known = stronger(*known, directive));
        }
    }

    /// Returns where the next thing is to be done.
    pub(super) fn on(&self, releases: &Arc<Releases>) -> On {
        let has_moved = self.pin.digest != self.checked;
        let began_ms = self.row.started_ms.unwrap_or_else(now_ms);
        On { releases: releases.clone(), pin: self.pin.clone(), has_moved, began_ms }
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
        (self.crashes >= MAX_CRASHES).then(|| {
            let message = format!("the scene crashed Blender {MAX_CRASHES} times in a row\n{report}");
            Failure::new(Blame::Blender, abridged(message, ERROR_TEXT))
        })
    }

    /// Decides what becomes of a task after an attempt.
    pub(super) fn judge(
        &mut self,
        task: usize,
        took: Duration,
        end: End,
        pin: &Pin,
        policy: &Policy,
    ) -> Verdict {
        let seconds = took.as_secs_f64();
        let has_left = pin.digest != self.pin.digest;
        let is_asked_to_stop = *self.directive.borrow() != Directive::Proceed;
        let is_hopeless = matches!(end, End::Hopeless(_));
        let error = match end {
            End::Outcome(Outcome::Done) => {
                (self.crashes, self.full) = (0, 0);
                // It said so rightly, then.
                self.spec.context.cries.store(0, Ordering::Relaxed);
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
            End::Withheld(failure) => {
                self.plan.note(task, seconds, Some(failure.clone()));
                return Verdict { failure: Some(failure), ..Verdict::of(TaskState::Failed) };
            }
            // Its pin has moved back.
            End::Unfit(_) => return Verdict::of(TaskState::Ready),
            End::Failed(error) | End::Hopeless(error) => error,
        };
        let is_hopeless = is_hopeless || !error.is_retryable();
        if (is_asked_to_stop || has_left) && is_canceled(&error) {
            return Verdict::of(TaskState::Ready);
        }
        let failure = Failure::new(error.blame(), error.to_string());
        if failure.blame == Blame::Host {
            self.plan.note(task, seconds, None);
            let pause = Some(Pause { code: PauseCode::Host, message: failure.message.clone() });
            return Verdict { state: TaskState::Ready, failure: Some(failure), wait: None, pause };
        }
        let failures = self.plan.note(task, seconds, Some(failure.clone()));
        let again = !is_hopeless && failures < MAX_FAILURES && self.row.retries < policy.retries;
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

fn stronger(a: Directive, b: Directive) -> Directive {
    match (a, b) {
        (Directive::Cancel, _) | (_, Directive::Cancel) => Directive::Cancel,
        (Directive::Yield, _) | (_, Directive::Yield) => Directive::Yield,
        _ => Directive::Proceed,
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
