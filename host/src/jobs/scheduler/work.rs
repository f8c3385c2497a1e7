//! Beginning things: which job is next, and what of it.

use tokio::time::Instant;

use super::Scheduler;
use crate::capability::Directive;
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
        while let Some(&(due, id, cut)) = self.leaving.first().filter(|(due, ..)| *due <= now) {
            self.leaving.remove(&(due, id, cut));
            let directive = if cut { Directive::Cancel } else { Directive::Yield };
            if let Some(job) = self.jobs.get_mut(&id) {
                job.hurry(directive);
            }
        }
    }

    /// Starts plans and attempts while there is room, those of the most urgent job
    /// first. A job's tasks wait until its whole plan is known to be sound.
    pub(super) fn start_work(&mut self) {
        while self.running < self.policy.slots && !self.draining && !self.stopping {
            let Some(&(_, id)) = self.wanting.first() else { return };
            if !self.follow(id) {
                self.place(id);
                continue;
            }
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
        let (spec, on, directive) = (job.spec.clone(), job.on(&self.releases), job.directed());
        self.then(move || drop(tokio::spawn(runner::plan(spec, on, directive, mailbox))));
    }

    fn start_attempt(&mut self, id: JobId) {
        let mailbox = self.mailbox.upgrade();
        let racer = self.racer(id);
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let task = job.plan.start().expect("a job that wants a slot has something to begin");
        job.running += 1;
        self.running += 1;
        let mut on = job.on(&self.releases);
        if let Some(pin) = racer {
            (on.pin, on.has_moved) = (pin, true);
        }
        let release = on.pin.to_string();
        job.plan.runs_on(task, &release);
        self.releases.catalogue().began(&on.pin.digest);
        let row = &job.plan.task(task).row;
        let (name, frame, attempt) = (row.name.clone(), row.frame, row.attempts);
        let (after, payload) = (row.after.clone(), row.payload.clone());
        let planned = PlannedTask { name: name.clone(), frame, after, payload };
        let start = runner::Start { task, planned, attempt };
        let (spec, directive) = (job.spec.clone(), job.directed());
        self.batch.jobs.insert(id);
        let release = Some(release);
        self.batch.events.push(EventKind::TaskStarted { id: name, job: id, frame, attempt, release });
        self.then(move || drop(tokio::spawn(runner::attempt(spec, on, start, directive, mailbox))));
    }
}
