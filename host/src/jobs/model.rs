//! Jobs and tasks, and how they may change. No I/O.
//!
//! ```text
//! job   queued ─► planning ─► running ─► succeeded | failed | canceled
//! task  blocked ─► ready ─► running ─► done | failed | canceled
//!                    ▲─────────┘ retried or yielded
//! ```

use std::collections::{HashMap, VecDeque};

use crate::plugin::PlannedTask;

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "drawn above")]
pub enum JobState {
    Queued,
    Planning,
    Running,
    Succeeded,
    Failed,
    Canceled,
}

impl JobState {
    /// Returns its name in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Planning => "planning",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    /// Whether nothing happens to the job any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Canceled)
    }
}

/// The state of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "drawn above")]
pub enum TaskState {
    Blocked,
    Ready,
    Running,
    Done,
    Failed,
    Canceled,
}

impl TaskState {
    /// Returns its name in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    fn may_become(self, next: Self) -> bool {
        match self {
            Self::Blocked => matches!(next, Self::Ready | Self::Canceled),
            Self::Ready => matches!(next, Self::Running | Self::Canceled),
            Self::Running => matches!(next, Self::Ready | Self::Done | Self::Failed | Self::Canceled),
            Self::Done | Self::Failed | Self::Canceled => false,
        }
    }
}

/// A task and where it stands.
#[derive(Debug)]
pub struct Task {
    /// As the plugin planned it.
    pub planned: PlannedTask,
    /// Its state.
    pub state: TaskState,
    /// Attempts begun.
    pub attempts: u32,
    /// Attempts that failed.
    pub failures: u32,
    blocked_by: usize,
    dependents: Vec<usize>,
}

/// What a plan does that it must not.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Two tasks of one name.
    #[error("two tasks of the plan are named {0}")]
    Twice(String),
    /// A task comes after one that is not there before it.
    #[error("task {task} comes after {after}, which the plan has not named before it")]
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
    failed: usize,
    bytes: usize,
}

impl Plan {
    /// Adds a task. Since it can only come after tasks named before it, a plan
    /// has no cycles.
    pub fn add(&mut self, planned: PlannedTask) -> Result<usize, PlanError> {
        if self.tasks.len() == MAX_TASKS {
            return Err(PlanError::TooMany(MAX_TASKS));
        }
        let after: usize = planned.after.iter().map(|name| name.len() + size_of::<String>()).sum();
        self.bytes += planned.name.len() + planned.payload.len() + after;
        if self.bytes > MAX_BYTES {
            return Err(PlanError::TooLarge(MAX_BYTES));
        }
        let index = self.tasks.len();
        let mut before = Vec::new();
        for after in &planned.after {
            let unknown = || PlanError::UnknownAfter { task: planned.name.clone(), after: after.clone() };
            before.push(*self.by_name.get(after).ok_or_else(unknown)?);
        }
        if self.by_name.contains_key(&planned.name) {
            return Err(PlanError::Twice(planned.name));
        }
        self.by_name.insert(planned.name.clone(), index);
        let fate = before.iter().map(|&i| self.tasks[i].state).find(|state| is_lost(*state));
        before.retain(|&i| self.tasks[i].state != TaskState::Done);
        before.iter().for_each(|&i| self.tasks[i].dependents.push(index));
        let blocked_by = before.len();
        self.tasks.push(Task {
            planned,
            state: TaskState::Blocked,
            attempts: 0,
            failures: 0,
            blocked_by,
            dependents: Vec::new(),
        });
        self.open += 1;
        match fate {
            Some(_) => self.change(index, TaskState::Canceled),
            None if blocked_by == 0 => self.change(index, TaskState::Ready),
            None => {}
        }
        Ok(index)
    }

    /// Begins an attempt at the next task that is ready.
    pub fn start(&mut self) -> Option<usize> {
        let index = self.ready.pop_front()?;
        self.change(index, TaskState::Running);
        self.tasks[index].attempts += 1;
        Some(index)
    }

    /// Counts an attempt that failed, and returns how many have.
    pub fn fail(&mut self, index: usize) -> u32 {
        self.tasks[index].failures += 1;
        self.tasks[index].failures
    }

    /// Ends an attempt; returns the tasks that are lost with it.
    pub fn finish(&mut self, index: usize, state: TaskState) -> Vec<usize> {
        self.change(index, state);
        match state {
            TaskState::Done => {
                for dependent in std::mem::take(&mut self.tasks[index].dependents) {
                    self.tasks[dependent].blocked_by -= 1;
                    if self.tasks[dependent].blocked_by == 0
                        && self.tasks[dependent].state == TaskState::Blocked
                    {
                        self.change(dependent, TaskState::Ready);
                    }
                }
            }
            state if is_lost(state) => return self.lose_dependents(index),
            _ => {}
        }
        Vec::new()
    }

    /// Cancels every task that does not run; returns them.
    pub fn cancel(&mut self) -> Vec<usize> {
        self.ready.clear();
        let waits = |task: &Task| matches!(task.state, TaskState::Blocked | TaskState::Ready);
        let waiting: Vec<usize> = (0..self.tasks.len()).filter(|&i| waits(&self.tasks[i])).collect();
        waiting.iter().for_each(|&index| self.change(index, TaskState::Canceled));
        waiting
    }

    /// Returns a task.
    pub fn task(&self, index: usize) -> &Task {
        &self.tasks[index]
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

    /// Counts the tasks that failed.
    pub fn failed(&self) -> usize {
        self.failed
    }

    /// Cancels all that comes after a task. Chains may be long: no recursion.
    fn lose_dependents(&mut self, index: usize) -> Vec<usize> {
        let (mut lost, mut next) = (vec![index], 0);
        while let Some(&index) = lost.get(next) {
            for dependent in std::mem::take(&mut self.tasks[index].dependents) {
                if self.tasks[dependent].state == TaskState::Blocked {
                    self.change(dependent, TaskState::Canceled);
                    lost.push(dependent);
                }
            }
            next += 1;
        }
        lost.split_off(1)
    }

    fn change(&mut self, index: usize, next: TaskState) {
        let task = &mut self.tasks[index];
        assert!(task.state.may_become(next), "{} -> {}", task.state.as_str(), next.as_str());
        task.state = next;
        match next {
            TaskState::Ready => self.ready.push_back(index),
            TaskState::Failed => (self.open, self.failed) = (self.open - 1, self.failed + 1),
            TaskState::Done | TaskState::Canceled => self.open -= 1,
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

    #[test]
    fn a_task_waits_for_all_that_it_comes_after() {
        let mut plan = plan(&[("a", &[]), ("b", &[]), ("merge", &["a", "b"])]);
        let (a, b) = (plan.start().unwrap(), plan.start().unwrap());
        assert!(plan.start().is_none());
        plan.finish(a, TaskState::Done);
        assert!(plan.start().is_none());
        plan.finish(b, TaskState::Done);
        assert_eq!(plan.start(), Some(2));
    }

    #[test]
    fn a_failed_task_takes_those_after_it_along_and_no_others() {
        let mut plan = plan(&[("a", &[]), ("b", &["a"]), ("c", &["b"]), ("d", &[])]);
        let a = plan.start().unwrap();
        assert_eq!(plan.finish(a, TaskState::Failed), [1, 2]);
        assert_eq!((plan.open(), plan.failed()), (1, 1));
        let late = plan.add(task("late", &["c"])).unwrap();
        assert_eq!(plan.task(late).state, TaskState::Canceled);
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
        assert_eq!(plan.finish(first, TaskState::Failed).len(), 199_999);
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
    fn a_retried_task_is_ready_again_and_counts_its_attempts() {
        let mut plan = plan(&[("a", &[])]);
        let a = plan.start().unwrap();
        plan.finish(a, TaskState::Ready);
        assert_eq!(plan.start(), Some(a));
        assert_eq!(plan.task(a).attempts, 2);
    }

    proptest! {
        /// However attempts end, every task ends once, and none before those it comes after.
        #[test]
        fn every_plan_comes_to_an_end(
            edges in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..3), 1..30),
            ends in prop::collection::vec(0..4u8, 200),
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
            for end in ends {
                let Some(index) = plan.start() else { break };
                for name in &plan.task(index).planned.after {
                    let before: usize = name.parse().unwrap();
                    prop_assert_eq!(plan.task(before).state, TaskState::Done);
                }
                let state = [TaskState::Done, TaskState::Done, TaskState::Failed, TaskState::Ready][end as usize];
                plan.finish(index, state);
            }
            plan.cancel();
            prop_assert_eq!(plan.open(), 0);
        }
    }
}
