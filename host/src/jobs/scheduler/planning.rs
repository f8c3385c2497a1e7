//! Plans on their way: pages that arrive, and how planning ends.

use std::sync::Arc;

use tokio::time::Instant;

use super::Scheduler;
use crate::blender::content::Content;
use crate::capability::{ERROR_TEXT, harmless};
use crate::jobs::job::changed;
use crate::jobs::model::PlanError;
use crate::jobs::runner::End;
use crate::plugin::PlannedTask;
use crate::releases::Pin;
use crate::terms::{Blame, Failure, JobId, JobState, Pause, PauseCode};

impl Scheduler {
    /// Takes down what a job renders from.
    pub(super) fn looked(&mut self, id: JobId, content: &Content) {
        let content = serde_json::to_string(content).expect("content is plain data");
        self.batch.contents.push((id, content));
    }

    /// Takes a page of a plan; false ends the planning.
    pub(super) fn planned(&mut self, id: JobId, tasks: Vec<PlannedTask>) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else { return false };
        if job.row.state != JobState::Planning || job.is_canceled() {
            return false;
        }
        self.batch.jobs.insert(id);
        let added = tasks.into_iter().try_for_each(|task| job.plan.add(task).map(drop));
        if let Err(error) = added {
            job.row.failure = Some(broken_plan(&error));
        }
        job.row.failure.is_none()
    }

    pub(super) fn plan_ended(&mut self, id: JobId, end: Result<(), End>, pin: &Arc<Pin>) {
        self.running -= 1;
        let is_doubted = self.taught_by_plan(id, &end, pin);
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.planning = false;
        self.batch.jobs.insert(id);
        let failed = match end {
            _ if job.is_canceled() => {
                job.forget_plan();
                return self.end(id, JobState::Canceled);
            }
            Ok(()) if job.row.state == JobState::Planning => job.row.failure.clone(),
            // It was paused meanwhile, or the host stops: it will be planned anew.
            _ if self.stopping || job.row.state != JobState::Planning => {
                return self.plan_again(id, None);
            }
            Err(End::Unfit(_)) => return self.plan_again(id, None),
            Err(_) if is_doubted => return self.plan_again(id, None),
            Err(End::Failed(error)) if job.plans_again(&error, &self.policy) => {
                let wait = self.policy.wait(job.plan_failures);
                self.later.insert((Instant::now() + wait, id, None));
                return self.plan_again(id, None);
            }
            Err(End::Changed(file)) => return self.plan_again(id, Some(changed(&file))),
            Err(End::NoRoom(pause)) => return self.plan_again(id, Some(pause)),
            Err(End::Failed(error) | End::Hopeless(error)) => {
                Some(Failure::new(error.blame(), error.to_string()))
            }
            Err(End::Withheld(failure)) => Some(failure),
            Ok(()) | Err(End::Outcome(_)) => None,
        };
        if let Some(failure) = failed {
            if failure.blame == Blame::Host {
                let pause = Pause { code: PauseCode::Host, message: failure.message };
                return self.plan_again(id, Some(pause));
            }
            job.row.failure.get_or_insert(failure);
            job.forget_plan();
            return self.end(id, JobState::Failed);
        }
        job.row.planned = true;
        if job.plan.open() > 0 {
            self.become_(id, JobState::Running, None);
        }
        self.settle(id);
    }

    /// Throws an unfinished plan away.
    fn plan_again(&mut self, id: JobId, pause: Option<Pause>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.forget_plan();
        job.row.failure = None;
        match pause {
            Some(pause) => self.pause(id, pause),
            None if job.row.state == JobState::Planning => self.become_(id, JobState::Queued, None),
            None => self.place(id),
        }
    }
}

fn broken_plan(error: &PlanError) -> Failure {
    Failure::new(Blame::Plugin, harmless(error.to_string(), ERROR_TEXT))
}
