//! What people want of jobs, and what a full disk does to them.

use tokio::time::Instant;

use super::{AGAIN, Message, Scheduler};
use crate::capability::Directive;
use crate::jobs::job::Job;
use crate::jobs::{MAX_BACKOFF, Order, OrderError};
use crate::terms::{JobId, JobState, Pause, PauseCode};

impl Scheduler {
    pub(super) fn order(&mut self, id: JobId, order: Order) -> Result<(), OrderError> {
        let Some(job) = self.jobs.get_mut(&id) else {
            let ended = |state| OrderError::State { id, state, why: "nothing happens to it any more" };
            return Err(self.ended.state(id).map_or(OrderError::NotTakenUp, ended));
        };
        let refused = |why| Err(OrderError::State { id, state: job.row.state, why });
        match order {
            Order::Cancel => self.cancel(id),
            Order::Pin(pinned) => {
                job.row.pinned = pinned;
                self.batch.jobs.insert(id);
            }
            _ if job.is_canceled() => return refused("it is being canceled"),
            Order::Resume { .. } if self.stopping => return Err(OrderError::Stopping),
            Order::Pause => {
                let message = "paused on request; `hotshoe job resume` continues it".to_owned();
                self.pause(id, Pause { code: PauseCode::Asked, message });
            }
            Order::Resume { .. } if job.row.state != JobState::Paused => {
                return refused("only a paused job can be resumed");
            }
            Order::Resume { accept_changes } => {
                if accept_changes {
                    // The next attempt looks, and takes what it finds.
                    let content = job.spec.context.content.accept();
                    self.looked(id, &content);
                }
                self.resume(id);
            }
        }
        Ok(())
    }

    pub(super) fn cancel(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.direct(Directive::Cancel);
        job.row.canceling = true;
        job.plan.cancel();
        self.batch.jobs.insert(id);
        self.settle(id);
    }

    pub(super) fn pause(&mut self, id: JobId, pause: Pause) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| !job.row.state.is_final()) else { return };
        let asked = |pause: &Pause| pause.code == PauseCode::Asked;
        // What a person wants stands above what the host would do by itself.
        if job.is_canceled() || job.row.pause.as_ref().is_some_and(|now| asked(now) || *now == pause) {
            return;
        }
        job.direct(Directive::Yield);
        if pause.code == PauseCode::DiskFull {
            job.full += u32::from(!job.is_out_of_room());
            // Not every disk that is full looks it: there are quotas.
            let wait = (AGAIN * 2u32.saturating_pow(job.full.saturating_sub(1))).min(MAX_BACKOFF);
            if !std::mem::replace(&mut job.seeks_room, true) {
                self.later.insert((Instant::now() + wait, id, None));
            }
        }
        self.become_(id, JobState::Paused, Some(pause));
    }

    pub(super) fn resume(&mut self, id: JobId) {
        let is_paused = |job: &&mut Job| job.row.state == JobState::Paused && !job.is_canceled();
        let Some(job) = self.jobs.get_mut(&id).filter(is_paused).filter(|_| !self.stopping) else { return };
        job.held = false;
        job.direct(Directive::Proceed);
        let state = if job.row.planned { JobState::Running } else { JobState::Queued };
        self.become_(id, state, None);
        self.settle(id);
    }

    /// Looks whether a job that waits for room can go on. A disk may take its time
    /// to tell, so others ask it.
    pub(super) fn seek_room(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if !job.is_out_of_room() {
            job.seeks_room = false;
            return;
        }
        let (context, mailbox) = (job.spec.context.clone(), self.mailbox.upgrade());
        tokio::task::spawn_blocking(move || {
            let there = context.has_room();
            mailbox.and_then(|mailbox| mailbox.blocking_send(Message::Room { job: id, there }).ok())
        });
    }

    /// Goes on with a job that waits for room if there is some, and looks again later if not.
    pub(super) fn room(&mut self, id: JobId, there: bool) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        match there {
            _ if !job.is_out_of_room() => job.seeks_room = false,
            true => {
                job.seeks_room = false;
                self.resume(id);
            }
            false => drop(self.later.insert((Instant::now() + AGAIN, id, None))),
        }
    }
}
