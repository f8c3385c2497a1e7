//! Jobs and tasks, and how they may change. No I/O.
//!
//! ```text
//! job   queued ─► planning ─► running ─► succeeded | failed | canceled
//!          ▲─────────┴── paused ─┘  retried ◄─┴──────────┘──────┘
//! task  blocked ◄─► ready ─► running ─► done | failed | canceled
//!          ▲          ▲─────────┘        │       └ retried, with its job
//!          │          └──────────────────┘ its files are gone
//! ```

use std::collections::{HashMap, VecDeque};

use crate::plugin::PlannedTask;
use crate::store::jobs::TaskRow;
use crate::terms::{Failure, JobState, TaskState, one_line};

/// Whether a job may go from one state to another.
pub fn job_may_become(from: JobState, next: JobState) -> bool {
    use JobState::{Canceled, Failed, Paused, Planning, Queued, Running, Succeeded};
    match from {
        Queued => matches!(next, Planning | Running | Paused | Succeeded | Failed | Canceled),
        Planning => matches!(next, Queued | Running | Paused | Succeeded | Failed | Canceled),
        Running => matches!(next, Paused | Succeeded | Failed | Canceled),
        Paused => matches!(next, Queued | Running | Paused | Succeeded | Failed | Canceled),
        // Succeeded: some of it is to be done once more.
        Failed | Canceled | Succeeded => matches!(next, Queued),
    }
}

/// Whether a task may go from one state to another.
pub fn task_may_become(from: TaskState, next: TaskState) -> bool {
    use TaskState::{Blocked, Canceled, Done, Failed, Ready, Running};
    match from {
        Blocked => matches!(next, Ready | Canceled),
        Ready => matches!(next, Running | Blocked | Canceled),
        Running => matches!(next, Ready | Done | Failed | Canceled),
        Done => matches!(next, Ready),
        Failed | Canceled => matches!(next, Blocked),
    }
}

/// A task and where it stands.
#[derive(Debug)]
pub struct Task {
    /// As it is stored, or is about to be.
    pub row: TaskRow,
    /// The version that is stored; 0 if none is.
    pub stored: u32,
    blocked_by: usize,
    dependents: Vec<usize>,
}

/// What a plan does that it must not.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A name that is none.
    #[error("'{0}' is not a valid task name: use 1 to {MAX_NAME} of A-Z a-z 0-9 . _ -")]
    Name(String),
    /// Two tasks of one name.
    #[error("the plan has two tasks named {0}")]
    Twice(String),
    /// A task comes after one that is not there before it.
    #[error("task {task} depends on {after}, which is not an earlier task of the plan")]
    UnknownAfter {
        /// The task.
        task: String,
        /// The name it gives.
        after: String,
    },
    /// Too many tasks.
    #[error("the plan has more than {0} tasks")]
    TooMany(usize),
    /// Too much in them.
    #[error("the names and payloads of the plan have more than {0} bytes")]
    TooLarge(usize),
}

/// The longest name of a task, in characters.
const MAX_NAME: usize = 128;
/// The most tasks of one job.
pub const MAX_TASKS: usize = 1_000_000;
/// The most bytes of all names and payloads of one job.
pub const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The tasks of a job.
#[derive(Debug, Default)]
pub struct Plan {
    tasks: Vec<Task>,
    by_name: HashMap<String, usize>,
    ready: VecDeque<usize>,
    open: usize,
    done: usize,
    failed: usize,
    bytes: usize,
    changed: Vec<usize>,
}

impl Plan {
    /// Takes up tasks as they are stored. An attempt that was under way is none any more.
    pub fn restore(rows: Vec<TaskRow>) -> Result<Self, PlanError> {
        let mut plan = Self::default();
        for row in rows {
            let state = row.state;
            let index = plan.insert(row)?;
            if state == TaskState::Running {
                plan.change(index, TaskState::Ready);
            }
        }
        Ok(plan)
    }

    /// Adds a task. Since it can only come after tasks named before it, a plan
    /// has no cycles.
    pub fn add(&mut self, planned: PlannedTask) -> Result<usize, PlanError> {
        let PlannedTask { name, frame, after, payload } = planned;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !(1..=MAX_NAME).contains(&name.len()) || !name.chars().all(is_plain) {
            return Err(PlanError::Name(one_line(&name, MAX_NAME)));
        }
        self.insert(TaskRow {
            position: self.tasks.len(),
            version: 0,
            name,
            state: TaskState::Blocked,
            frame,
            after,
            payload,
            attempts: 0,
            failures: 0,
            seconds: None,
            failure: None,
            release: None,
        })
    }

    fn insert(&mut self, row: TaskRow) -> Result<usize, PlanError> {
        if self.tasks.len() == MAX_TASKS {
            return Err(PlanError::TooMany(MAX_TASKS));
        }
        let after: usize = row.after.iter().map(|name| name.len() + size_of::<String>()).sum();
        self.bytes += row.name.len() + row.payload.len() + after;
        if self.bytes > MAX_BYTES {
            return Err(PlanError::TooLarge(MAX_BYTES));
        }
        let unknown =
            |after: &String| PlanError::UnknownAfter { task: row.name.clone(), after: after.clone() };
        if let Some(after) = row.after.iter().find(|name| !self.by_name.contains_key(*name)) {
            return Err(unknown(after));
        }
        if self.by_name.contains_key(&row.name) {
            return Err(PlanError::Twice(row.name));
        }
        let index = self.tasks.len();
        self.by_name.insert(row.name.clone(), index);
        match row.state {
            TaskState::Done => self.done += 1,
            TaskState::Failed => self.failed += 1,
            TaskState::Canceled => {}
            _ => self.open += 1,
        }
        if row.state == TaskState::Ready {
            self.ready.push_back(index);
        }
        let stored = row.version;
        self.tasks.push(Task { row, stored, blocked_by: 0, dependents: Vec::new() });
        if stored == 0 {
            self.changed.push(index);
            self.tasks[index].row.version = 1;
        }
        if self.tasks[index].row.state == TaskState::Blocked {
            self.link(index);
        }
        Ok(index)
    }

    /// Counts what a blocked task waits for, and unblocks it if that is nothing.
    fn link(&mut self, index: usize) {
        let names = std::mem::take(&mut self.tasks[index].row.after);
        let before: Vec<usize> = names.iter().map(|name| self.by_name[name]).collect();
        self.tasks[index].row.after = names;
        let is_lost = before.iter().any(|&i| is_lost(self.tasks[i].row.state));
        let waits: Vec<usize> =
            before.into_iter().filter(|&i| self.tasks[i].row.state != TaskState::Done).collect();
        self.tasks[index].blocked_by = waits.len();
        waits.iter().for_each(|&i| self.tasks[i].dependents.push(index));
        match is_lost {
            true => self.change(index, TaskState::Canceled),
            false if waits.is_empty() => self.change(index, TaskState::Ready),
            false => {}
        }
    }

    /// Begins an attempt at the next task that is ready.
    pub fn start(&mut self) -> Option<usize> {
        let index = self.ready.pop_front()?;
        self.change(index, TaskState::Running);
        self.tasks[index].row.attempts += 1;
        Some(index)
    }

    /// Takes down on which release an attempt runs.
    pub fn runs_on(&mut self, index: usize, release: &str) {
        self.tasks[index].row.release = Some(release.to_owned());
    }

    /// Whether a task could be begun at once.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Notes how an attempt went; returns how many have failed.
    pub fn note(&mut self, index: usize, seconds: f64, failure: Option<Failure>) -> u32 {
        let row = &mut self.tasks[index].row;
        row.failures += u32::from(failure.is_some());
        (row.seconds, row.failure) = (Some(seconds), failure);
        row.failures
    }

    /// Ends an attempt; returns how many tasks are lost with it. A task that is
    /// ready again waits until [`due`](Self::due) if it is to come `later`.
    pub fn finish(&mut self, index: usize, state: TaskState, later: bool) -> usize {
        self.change(index, state);
        match state {
            TaskState::Done => {
                for dependent in std::mem::take(&mut self.tasks[index].dependents) {
                    self.tasks[dependent].blocked_by -= 1;
                    if self.tasks[dependent].blocked_by == 0
                        && self.tasks[dependent].row.state == TaskState::Blocked
                    {
                        self.change(dependent, TaskState::Ready);
                    }
                }
            }
            TaskState::Ready if later => drop(self.ready.pop_back()),
            state if is_lost(state) => return self.lose_dependents(index),
            _ => {}
        }
        0
    }

    /// Lets a task that was to come later be begun; false if it is not wanted any more.
    pub fn due(&mut self, index: usize) -> bool {
        let is_ready = self.tasks.get(index).is_some_and(|task| task.row.state == TaskState::Ready);
        let is_wanted = is_ready && !self.ready.contains(&index);
        if is_wanted {
            self.ready.push_back(index);
        }
        is_wanted
    }

    /// Lets a task that is ready be the next.
    pub fn put_first(&mut self, index: usize) {
        if self.ready.contains(&index) {
            self.ready.retain(|ready| *ready != index);
            self.ready.push_front(index);
        }
    }

    /// Makes tasks that were done ready again, since what they made is gone. What
    /// comes after them waits for them anew, also if it was done: it was made of what is
    /// gone. What comes after a task that is lost is lost as well.
    pub fn undo(&mut self, names: &[String]) {
        for name in names {
            if let Some(&index) = self.by_name.get(name)
                && self.tasks[index].row.state == TaskState::Done
            {
                self.change(index, TaskState::Ready);
            }
        }
        // A task comes after those before it in the plan.
        for index in 0..self.tasks.len() {
            let row = &self.tasks[index].row;
            let is_done = |name| self.tasks[self.by_name[name]].row.state == TaskState::Done;
            if row.state == TaskState::Done && !row.after.iter().all(is_done) {
                self.change(index, TaskState::Ready);
            }
        }
        self.link_all();
    }

    /// Counts anew what waits for what.
    fn link_all(&mut self) {
        self.tasks.iter_mut().for_each(|task| task.dependents.clear());
        for index in 0..self.tasks.len() {
            let row = &self.tasks[index].row;
            let is_done = |name| self.tasks[self.by_name[name]].row.state == TaskState::Done;
            if row.state == TaskState::Ready && !row.after.iter().all(is_done) {
                self.change(index, TaskState::Blocked);
            }
            if self.tasks[index].row.state == TaskState::Blocked {
                self.link(index);
            }
        }
        self.ready.retain(|&index| self.tasks[index].row.state == TaskState::Ready);
    }

    /// Cancels every task that does not run.
    pub fn cancel(&mut self) {
        self.ready.clear();
        for index in 0..self.tasks.len() {
            if matches!(self.tasks[index].row.state, TaskState::Blocked | TaskState::Ready) {
                self.change(index, TaskState::Canceled);
            }
        }
    }

    /// Gives every task that failed or was canceled another chance; nothing may be
    /// under way.
    pub fn retry(&mut self) {
        for index in 0..self.tasks.len() {
            if is_lost(self.tasks[index].row.state) {
                self.change(index, TaskState::Blocked);
                let row = &mut self.tasks[index].row;
                (row.failures, row.failure) = (0, None);
            }
        }
        self.link_all();
    }

    /// Returns a task.
    pub fn task(&self, index: usize) -> &Task {
        &self.tasks[index]
    }

    /// Takes the tasks that are not as they are stored, each once.
    pub fn take_changed(&mut self) -> Vec<usize> {
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    /// Notes that a task is about to be stored as it is; returns what is stored of it.
    pub fn store(&mut self, index: usize) -> (TaskRow, u32) {
        let task = &mut self.tasks[index];
        let known = std::mem::replace(&mut task.stored, task.row.version);
        (task.row.clone(), known)
    }

    /// Counts the tasks.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether there is no task.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Counts the tasks that something may still happen to.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Counts the tasks that are done.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Counts the tasks that failed.
    pub fn failed(&self) -> usize {
        self.failed
    }

    /// Cancels all that comes after a task, and counts it. Chains may be long: no recursion.
    fn lose_dependents(&mut self, index: usize) -> usize {
        let (mut lost, mut next) = (vec![index], 0);
        while let Some(&index) = lost.get(next) {
            for dependent in std::mem::take(&mut self.tasks[index].dependents) {
                if self.tasks[dependent].row.state == TaskState::Blocked {
                    self.change(dependent, TaskState::Canceled);
                    lost.push(dependent);
                }
            }
            next += 1;
        }
        lost.len() - 1
    }

    fn change(&mut self, index: usize, next: TaskState) {
        let row = &mut self.tasks[index].row;
        assert!(task_may_become(row.state, next), "{} -> {next}", row.state);
        let before = std::mem::replace(&mut row.state, next);
        if row.version == self.tasks[index].stored {
            self.tasks[index].row.version += 1;
        }
        self.changed.push(index);
        match before {
            TaskState::Done => (self.open, self.done) = (self.open + 1, self.done - 1),
            TaskState::Failed => (self.open, self.failed) = (self.open + 1, self.failed - 1),
            TaskState::Canceled => self.open += 1,
            TaskState::Blocked | TaskState::Ready | TaskState::Running => {}
        }
        match next {
            TaskState::Ready => self.ready.push_back(index),
            TaskState::Failed => (self.open, self.failed) = (self.open - 1, self.failed + 1),
            TaskState::Done => (self.open, self.done) = (self.open - 1, self.done + 1),
            TaskState::Canceled => self.open -= 1,
            TaskState::Blocked | TaskState::Running => {}
        }
    }
}

fn is_lost(state: TaskState) -> bool {
    matches!(state, TaskState::Failed | TaskState::Canceled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn task(name: &str, after: &[&str]) -> PlannedTask {
        let after = after.iter().map(|&name| name.to_owned()).collect();
        PlannedTask { name: name.to_owned(), frame: None, after, payload: "null".to_owned() }
    }

    fn plan(tasks: &[(&str, &[&str])]) -> Plan {
        let mut plan = Plan::default();
        for (name, after) in tasks {
            plan.add(task(name, after)).unwrap();
        }
        plan
    }

    /// All that anything can become, and what that can become, and so on.
    fn reaches<T: Copy + PartialEq>(from: T, all: &[T], may_become: impl Fn(T, T) -> bool) -> Vec<T> {
        let mut reached = vec![from];
        let mut next = 0;
        while let Some(&state) = reached.get(next) {
            let new = all.iter().filter(|other| may_become(state, **other) && !reached.contains(other));
            let new: Vec<T> = new.copied().collect();
            reached.extend(new);
            next += 1;
        }
        reached
    }

    #[test]
    fn every_state_leads_to_every_end_and_no_end_leads_anywhere_but_back_to_the_start() {
        use {JobState as J, TaskState as T};
        let jobs = [J::Queued, J::Planning, J::Running, J::Paused, J::Succeeded, J::Failed, J::Canceled];
        for from in jobs {
            let next: Vec<J> = jobs.into_iter().filter(|next| job_may_become(from, *next)).collect();
            match from {
                J::Succeeded | J::Failed | J::Canceled => assert_eq!(next, [J::Queued]),
                _ => assert!([J::Succeeded, J::Failed, J::Canceled].iter().all(|end| next.contains(end))),
            }
            assert_eq!(reaches(from, &jobs, job_may_become).len(), jobs.len());
        }
        let tasks = [T::Blocked, T::Ready, T::Running, T::Done, T::Failed, T::Canceled];
        for from in tasks {
            assert_eq!(reaches(from, &tasks, task_may_become).len(), tasks.len(), "{from}");
            // Nothing is done, and nothing fails, that was not begun.
            let begun = task_may_become(from, T::Done) || task_may_become(from, T::Failed);
            assert_eq!(begun, from == T::Running, "{from}");
        }
    }

    #[test]
    fn a_task_waits_for_all_that_it_comes_after() {
        let mut plan = plan(&[("a", &[]), ("b", &[]), ("merge", &["a", "b"])]);
        let (a, b) = (plan.start().unwrap(), plan.start().unwrap());
        assert!(plan.start().is_none());
        plan.finish(a, TaskState::Done, false);
        assert!(plan.start().is_none());
        plan.finish(b, TaskState::Done, false);
        assert_eq!(plan.start(), Some(2));
    }

    #[test]
    fn a_failed_task_takes_those_after_it_along_and_no_others() {
        let mut plan = plan(&[("a", &[]), ("b", &["a"]), ("c", &["b"]), ("d", &[])]);
        let a = plan.start().unwrap();
        assert_eq!(plan.finish(a, TaskState::Failed, false), 2);
        assert_eq!((plan.open(), plan.failed()), (1, 1));
        let late = plan.add(task("late", &["c"])).unwrap();
        assert_eq!(plan.task(late).row.state, TaskState::Canceled);
    }

    #[test]
    fn plans_that_cannot_be_carried_out_are_refused() {
        let mut plan = plan(&[("a", &[])]);
        assert_eq!(plan.add(task("a", &[])), Err(PlanError::Twice("a".into())));
        let unknown = |after: &str| PlanError::UnknownAfter { task: "b".into(), after: after.into() };
        assert_eq!(plan.add(task("b", &["c"])), Err(unknown("c")));
        assert_eq!(plan.add(task("b", &["b"])), Err(unknown("b")));
    }

    #[test]
    fn the_end_of_a_long_chain_ends_the_host_not() {
        let mut plan = plan(&[("0", &[])]);
        for index in 1..200_000 {
            plan.add(task(&index.to_string(), &[&(index - 1).to_string()])).unwrap();
        }
        let first = plan.start().unwrap();
        assert_eq!(plan.finish(first, TaskState::Failed, false), 199_999);
        assert_eq!(plan.open(), 0);
    }

    #[test]
    fn names_and_payloads_are_limited_as_a_sum() {
        let mut plan = Plan::default();
        plan.add(PlannedTask { payload: "x".repeat(MAX_BYTES / 2), ..task("a", &[]) }).unwrap();
        let many = vec!["a"; MAX_BYTES / 2 / size_of::<String>()];
        assert_eq!(plan.add(task("b", &many)), Err(PlanError::TooLarge(MAX_BYTES)));
    }

    #[test]
    fn what_comes_after_a_task_that_is_undone_waits_for_it_again() {
        let mut plan = plan(&[("a", &[]), ("b", &["a"]), ("c", &["a", "b"])]);
        let a = plan.start().unwrap();
        plan.finish(a, TaskState::Done, false);
        let b = plan.start().unwrap();
        // Its attempt failed, and the next one is to come later.
        plan.finish(b, TaskState::Ready, true);
        plan.undo(&["a".to_owned()]);
        assert!(!plan.due(b));
        assert_eq!(plan.start(), Some(a));
        assert_eq!(plan.start(), None);
        plan.finish(a, TaskState::Done, false);
        assert!(!plan.due(b), "it is among those that are ready, once");
        assert_eq!(plan.start(), Some(b));
        plan.finish(b, TaskState::Done, false);
        plan.undo(&["a".to_owned(), "b".to_owned()]);
        for index in [a, b, 2] {
            assert_eq!(plan.start(), Some(index));
            assert_eq!(plan.start(), None);
            plan.finish(index, TaskState::Done, false);
        }
        // What was made of it is made anew.
        plan.undo(&["b".to_owned()]);
        for index in [b, 2] {
            assert_eq!((plan.start(), plan.start()), (Some(index), None));
            plan.finish(index, TaskState::Done, false);
        }
        assert_eq!((plan.open(), plan.done()), (0, 3));
    }

    #[test]
    fn a_retried_task_is_ready_again_and_counts_its_attempts() {
        let mut plan = plan(&[("a", &[])]);
        let a = plan.start().unwrap();
        plan.finish(a, TaskState::Ready, false);
        assert_eq!(plan.start(), Some(a));
        assert_eq!(plan.task(a).row.attempts, 2);
    }

    proptest! {
        /// However attempts end, every task ends once, and none before those it comes after.
        #[test]
        fn every_plan_comes_to_an_end(
            edges in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..3), 1..30),
            ends in prop::collection::vec((0..4usize, any::<prop::sample::Index>(), 0..8u8), 200),
        ) {
            let mut plan = Plan::default();
            for (index, after) in edges.iter().enumerate() {
                let mut names: Vec<String> = Vec::new();
                if index > 0 {
                    names.extend(after.iter().map(|i| i.index(index).to_string()));
                    names.sort();
                    names.dedup();
                }
                let after: Vec<&str> = names.iter().map(String::as_str).collect();
                plan.add(task(&index.to_string(), &after)).unwrap();
            }
            for (end, other, chance) in ends {
                let Some(index) = plan.start() else { break };
                for name in &plan.task(index).row.after {
                    let before: usize = name.parse().unwrap();
                    prop_assert_eq!(plan.task(before).row.state, TaskState::Done);
                }
                let state = [TaskState::Done, TaskState::Done, TaskState::Failed, TaskState::Ready][end];
                plan.finish(index, state, false);
                if chance == 0 {
                    // What it made is gone.
                    plan.undo(&[other.index(plan.len()).to_string()]);
                }
                // A host that dies at any point and comes back finds the same plan.
                let mut rows: Vec<_> = (0..plan.len()).map(|i| plan.task(i).row.clone()).collect();
                rows.iter_mut().for_each(|row| row.version = 1);
                let back = Plan::restore(rows).unwrap();
                prop_assert_eq!((back.open(), back.done(), back.failed()), (plan.open(), plan.done(), plan.failed()));
                prop_assert_eq!(back.has_ready(), plan.has_ready());
            }
            plan.cancel();
            prop_assert_eq!(plan.open(), 0);
            // Another chance for all that was lost: the plan can be done whole.
            plan.retry();
            while let Some(index) = plan.start() {
                plan.finish(index, TaskState::Done, false);
            }
            prop_assert_eq!(plan.done(), plan.len());
        }
    }
}
