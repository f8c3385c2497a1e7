//! Pins: on which release a job does the next thing, and what its tasks teach of a release.
//!
//! A pin moves between tasks. What a release on trial fails at is done by the release
//! before it: if that one can, it was the new one's fault, and it is quarantined.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Scheduler;
use crate::capability::Code;
use crate::events::EventKind;
use crate::jobs::job::{Doubt, Job, Verdict};
use crate::jobs::runner::{End, Used};
use crate::plugin::{Outcome, PluginError};
use crate::releases::Pin;
use crate::releases::lifecycle::{Follow, Way};
use crate::releases::rollout::Sample;
use crate::store::now_ms;
use crate::terms::{Blame, Failure, JobId, JobState, Pause, PauseCode, ReleaseState, TaskState, Upgrade};

impl Scheduler {
    /// Moves a job's pin if it must or may; false if nothing of it is to be begun now.
    pub(super) fn follow(&mut self, id: JobId) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else { return false };
        // Until it is known whose fault it was, the release before does it all.
        let is_doubtful = !job.doubts.is_empty() || job.plan_doubt.is_some();
        let Some(wish) = job.wish.as_ref().filter(|_| !is_doubtful) else { return true };
        let follow = self.releases.catalogue().follow(wish, &job.pin.digest);
        match follow {
            Follow::Stay => true,
            Follow::Wait => {
                job.waits = true;
                false
            }
            Follow::Move { to, why, way } => {
                self.move_pin(id, &to, why, way);
                true
            }
            Follow::Stuck(why) => {
                self.pause(id, Pause { code: PauseCode::Release, message: why });
                false
            }
        }
    }

    /// Returns the release that does the next task of a job for once, in a race with the one that
    /// the job is pinned to.
    pub(super) fn racer(&self, id: JobId) -> Option<Arc<Pin>> {
        let job = self.jobs.get(&id)?;
        let racer = self.releases.catalogue().races(job.wish.as_ref()?, &job.pin.digest, job.scene)?;
        self.releases.pin_to(&racer).ok()
    }

    /// Moves all pins that must not stay, and goes on with jobs that waited for a release.
    pub(super) fn follow_releases(&mut self) {
        let ids: Vec<JobId> = self.jobs.keys().copied().collect();
        for id in ids {
            let Some(job) = self.jobs.get(&id).filter(|job| !job.row.state.is_final()) else { continue };
            let waits = job.row.pause.as_ref().is_some_and(|pause| pause.code == PauseCode::Release);
            let state = self.releases.catalogue().get(&job.pin.digest).map(|standing| standing.row.state);
            let must_move = state == Some(ReleaseState::Quarantined);
            // All that is left of it runs: where that yields, it goes on with the newer release.
            let is_last = job.row.state == JobState::Running && job.running > 0 && !job.plan.has_ready();
            let is_led = || {
                let wish = job.wish.as_ref()?;
                self.releases.catalogue().leads(wish, &job.pin.digest).map(drop)
            };
            let leaves = must_move || waits || (is_last && is_led().is_some());
            let can_go_on = leaves && self.follow(id);
            if can_go_on && waits {
                self.resume(id);
            }
            if let Some(job) = self.jobs.get_mut(&id) {
                job.waits = false;
            }
            self.place(id);
        }
    }

    /// Lets jobs go on that waited for the task which tries a release. Of one that is not tried
    /// any more they have heard already.
    pub(super) fn release_is_free(&mut self, digest: &str) {
        if self.state_of(digest) != Some(ReleaseState::Canary) {
            return;
        }
        let waiting = self.jobs.iter().filter(|(_, job)| job.waits && job.pin.digest == digest);
        let waiting: Vec<JobId> = waiting.map(|(id, _)| *id).collect();
        for id in waiting {
            self.jobs.entry(id).and_modify(|job| job.waits = false);
            self.place(id);
        }
    }

    /// Forgets what a task made one suspect.
    pub(super) fn drop_doubt(&mut self, id: JobId, task: usize) {
        let doubt = self.jobs.get_mut(&id).and_then(|job| job.doubts.remove(&task));
        doubt.iter().for_each(|doubt| self.releases.catalogue().doubted(&doubt.release, false));
    }

    /// Forgets all that a job made one suspect: nobody will know any more.
    pub(super) fn drop_doubts(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let doubts = std::mem::take(&mut job.doubts).into_values().chain(job.plan_doubt.take());
        doubts.for_each(|doubt| self.releases.catalogue().doubted(&doubt.release, false));
    }

    /// Moves a job's pin. A newer release gets the state that the one before has; an older
    /// one finds its own again.
    fn move_pin(&mut self, id: JobId, to: &str, why: String, way: Way) {
        let Ok(pin) = self.releases.pin_to(to) else { return };
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let from = job.move_to(pin);
        let to = &job.pin;
        let event = EventKind::JobMoved { id, from: from.to_string(), to: to.to_string(), why };
        if way == Way::On {
            job.came_from = Some(from.digest.clone());
            self.batch.handed_over.push((id, from.digest.clone(), to.digest.clone()));
        }
        if job.running > 0 {
            let now = Instant::now();
            self.leaving.insert((now + self.policy.yielding, id, false));
            self.leaving.insert((now + self.policy.cutting, id, true));
        }
        self.batch.events.push(event);
        self.batch.jobs.insert(id);
    }

    /// Takes down what an attempt teaches of its release. True if its failure is to be
    /// looked into: the release before makes the next attempt.
    pub(super) fn taught(&mut self, id: JobId, task: usize, used: Used, end: &End, pin: &Arc<Pin>) -> bool {
        let (now, digest) = (now_ms(), pin.digest.as_str());
        let is_done = matches!(end, End::Outcome(Outcome::Done));
        // What was still under way when it was quarantined is not believed either.
        let before = self.state_of(digest);
        let on_trial = matches!(before, Some(ReleaseState::Canary | ReleaseState::Quarantined));
        let failure = blamed(end, on_trial);
        let is_own = failure.is_some_and(|error| error.blame() == Blame::Plugin);
        let Some(job) = self.jobs.get_mut(&id) else { return false };
        let Used { worked, memory, .. } = used;
        let sample = |worked: Duration| Sample { scene: job.scene, seconds: worked.as_secs_f32(), memory };
        let done = is_done.then(|| worked.map(sample));
        self.releases.catalogue().ended(digest, done, is_own, now);
        if before == Some(ReleaseState::Canary) && self.state_of(digest) != before {
            self.follow_releases();
        }
        if let End::Unfit(why) = end {
            self.stay_behind(id, pin, why);
        }
        let Some(job) = self.jobs.get_mut(&id) else { return false };
        let doubt = job.doubts.get(&task).filter(|doubt| doubt.release != digest).cloned();
        match (doubt, failure.or(failed(end))) {
            (Some(doubt), _) if is_done => {
                self.drop_doubt(id, task);
                self.convict(&doubt, pin);
                false
            }
            (Some(_), Some(error)) if error.blame() != Blame::Blender => {
                // The release before cannot do it either: so it is not the new one's fault.
                job.cleared.insert(task);
                self.drop_doubt(id, task);
                false
            }
            (None, Some(error)) if failure.is_some() && !job.cleared.contains(&task) => {
                let (name, why) = (&job.plan.task(task).row.name, error.to_string());
                let what = format!("{name} of job {id} failed: {}", why.lines().next().unwrap_or_default());
                let doubted = self.doubt(id, pin, what);
                let Some((job, doubt)) = self.jobs.get_mut(&id).zip(doubted) else { return false };
                doubt.map(|doubt| job.doubts.insert(task, doubt));
                true
            }
            _ => false,
        }
    }

    /// The same of a plan.
    pub(super) fn taught_by_plan(&mut self, id: JobId, end: &Result<(), End>, pin: &Arc<Pin>) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else { return false };
        let doubt = job.plan_doubt.clone().filter(|doubt| doubt.release != pin.digest);
        let end_of_plan = end.as_ref().err();
        match (doubt, end_of_plan.and_then(failed)) {
            (Some(doubt), _) if end.is_ok() => {
                job.plan_doubt = None;
                self.releases.catalogue().doubted(&doubt.release, false);
                self.convict(&doubt, pin);
                false
            }
            (Some(doubt), Some(error)) if error.blame() != Blame::Blender => {
                job.plan_doubt = None;
                self.releases.catalogue().doubted(&doubt.release, false);
                false
            }
            (None, Some(error)) if end_of_plan.and_then(|end| blamed(end, true)).is_some() => {
                let what = format!("the plan of job {id} failed: {error}");
                let Some(doubt) = self.doubt(id, pin, what) else { return false };
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.plan_doubt = doubt;
                }
                true
            }
            _ => {
                if let Err(End::Unfit(why)) = end {
                    self.stay_behind(id, pin, why);
                }
                false
            }
        }
    }

    /// Lets the release before do what one on trial has failed at. Nothing if there is none;
    /// no doubt if it is known already that it does harm.
    fn doubt(&mut self, id: JobId, pin: &Arc<Pin>, what: String) -> Option<Option<Doubt>> {
        let job = self.jobs.get(&id)?;
        let wish = job.wish.as_ref()?;
        let (state, next) = {
            let catalogue = self.releases.catalogue();
            let state = catalogue.get(&pin.digest)?.row.state;
            if !catalogue.is_judged(&pin.digest, now_ms()) {
                return None;
            }
            (state, catalogue.fallback(wish, &pin.digest)?.row.digest.clone())
        };
        // Nor is another one on trial the judge.
        let is_judge =
            job.pin.digest != pin.digest && self.state_of(&job.pin.digest) != Some(ReleaseState::Canary);
        if !is_judge {
            let why = format!("to find out which release is at fault: {what}");
            self.move_pin(id, &next, why, Way::Back);
        }
        let doubt = (state != ReleaseState::Quarantined).then(|| Doubt { release: pin.digest.clone(), what });
        doubt.iter().for_each(|doubt| self.releases.catalogue().doubted(&doubt.release, true));
        Some(doubt)
    }

    /// Quarantines a release: another one has done what it failed at.
    fn convict(&mut self, doubt: &Doubt, by: &Pin) {
        // Another task may have convicted it meanwhile.
        let state = self.state_of(&doubt.release);
        if state.is_some_and(|state| state != ReleaseState::Quarantined) {
            let why = format!("{}; {} {} did it", doubt.what, by.name, by.version);
            self.releases.catalogue().quarantine(&doubt.release, &why, now_ms());
            self.follow_releases();
        }
    }

    /// Moves a job back for good: the newer release does not take its settings.
    fn stay_behind(&mut self, id: JobId, pin: &Arc<Pin>, why: &str) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.pin.digest == pin.digest) else { return };
        let first = why.lines().next().unwrap_or_default();
        let Some(before) = job.came_from.take() else {
            // It was there to do what another one must not: there is no way left.
            let message = format!("it must run on {pin}, whose schema its settings do not fit: {first}");
            self.drop_doubts(id);
            return self.pause(id, Pause { code: PauseCode::Release, message });
        };
        job.wish.iter_mut().for_each(|wish| wish.upgrade = Upgrade::Pinned);
        self.move_pin(
            id,
            &before,
            format!("its settings do not fit the schema of {pin}: {first}"),
            Way::Back,
        );
    }

    fn state_of(&self, digest: &str) -> Option<ReleaseState> {
        self.releases.catalogue().get(digest).map(|standing| standing.row.state)
    }
}

impl Job {
    /// Lets a task be done at once by another release; that it failed is not held against it.
    pub(super) fn doubted(&mut self, task: usize, took: Duration, error: &PluginError) -> Verdict {
        let failure = Failure::new(error.blame(), error.to_string());
        self.plan.note(task, took.as_secs_f64(), None);
        Verdict { state: TaskState::Ready, failure: Some(failure), wait: None, pause: None }
    }
}

/// Returns the failure that is the plugin's, if it is one. One that is on trial is not
/// believed if it says that it is somebody else's.
fn blamed(end: &End, on_trial: bool) -> Option<&PluginError> {
    failed(end).filter(|error| match error {
        PluginError::Answer(answer) if answer.code == Code::Canceled => false,
        error => error.blame() == Blame::Plugin || (on_trial && error.blame() == Blame::Client),
    })
}

fn failed(end: &End) -> Option<&PluginError> {
    match end {
        End::Failed(error) | End::Hopeless(error) => Some(error),
        _ => None,
    }
}
