//! Beginning things: which job is next, and what of it.

use tokio::time::Instant;

use super::{AGAIN, Message, Scheduler};
use crate::events::EventKind;
use crate::jobs::runner;
use crate::plugin::PlannedTask;
use crate::terms::{JobId, JobState};

impl Scheduler {
    /// Lets what was to come later be begun now, if it is time.
    pub(super) fn wake(&mut self) {
        let now = Instant::now();
        while let Some(&(due, id, task)) = self.later.first().filter(|(due, ..)| *due <= now) {
            self.later.remove(&(due, id, task));
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            if let Some(task) = task {
                job.plan.due(task);
            } else if job.held {
                job.held = false;
            } else {
                self.seek_room(id);
            }
            self.place(id);
        }
    }

    /// Looks whether a job that waits for room can go on. A disk may take its time
    /// to tell, so others ask it.
    fn seek_room(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id).filter(|job| job.is_out_of_room()) else { return };
        let (context, room, mailbox) = (job.spec.context.clone(), job.room, self.mailbox.upgrade());
        tokio::task::spawn_blocking(move || {
            let there = context.output.has_room(room);
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

    /// Starts plans and attempts while there is room, those of the most urgent job
    /// first. A job's tasks wait until its whole plan is known to be sound.
    pub(super) fn start_work(&mut self) {
        while self.running < self.policy.slots && !self.draining && !self.stopping {
            let Some(&(_, id)) = self.wanting.first() else { return };
            match self.jobs[&id].row.state {
                JobState::Queued if !self.jobs[&id].row.planned => self.start_plan(id),
                JobState::Queued => {
                    // It was retried.
                    self.become_(id, JobState::Running, None);
                    self.settle(id);
                }
                _ => self.start_attempt(id),
            }
            self.place(id);
        }
    }

    fn start_plan(&mut self, id: JobId) {
        self.become_(id, JobState::Planning, None);
        let mailbox = self.mailbox.upgrade();
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.planning = true;
        self.running += 1;
        let (spec, directive) = (job.spec.clone(), job.directive.subscribe());
        let store = self.store.clone();
        self.then(move || drop(tokio::spawn(runner::plan(spec, directive, mailbox, store))));
    }

    fn start_attempt(&mut self, id: JobId) {
        let mailbox = self.mailbox.upgrade();
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let task = job.plan.start().expect("a job that wants a slot has something to begin");
        job.running += 1;
        self.running += 1;
        let row = &job.plan.task(task).row;
        let (name, frame, attempt) = (row.name.clone(), row.frame, row.attempts);
        let (after, payload) = (row.after.clone(), row.payload.clone());
        let planned = PlannedTask { name: name.clone(), frame, after, payload };
        let start = runner::Start { task, planned, attempt };
        let (spec, directive) = (job.spec.clone(), job.directive.subscribe());
        self.batch.jobs.insert(id);
        self.batch.events.push(EventKind::TaskStarted { id: name, job: id, frame, attempt });
        self.then(move || drop(tokio::spawn(runner::attempt(spec, start, directive, mailbox))));
    }
}
