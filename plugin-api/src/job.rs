//! What a renderer is asked for, and what it answers.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::sys::exports::hotshoe::plugin::renderer::Outcome;
use crate::{Error, Frames, Result};

/// A renderer plugin.
pub trait Renderer {
    /// The settings of a job. The JSON Schema derived from this type is what
    /// the host checks a job against, so `plan` and `render` only ever see
    /// settings that fit.
    type Settings: DeserializeOwned + JsonSchema;

    /// One sentence for a list of renderers, at most 200 characters.
    const SUMMARY: &'static str;

    /// Returns the page of the plan at `cursor`, the first one without.
    ///
    /// One task a frame, unless a renderer says otherwise.
    fn plan(job: &Job<Self::Settings>, cursor: Option<&str>) -> Result<Page> {
        Page::of_frames(&job.frames, cursor)
    }

    /// Renders one task.
    fn render(task: &Task<Self::Settings>) -> Result<Outcome>;
}

/// A submission.
#[derive(Debug, Clone)]
pub struct Job<S> {
    /// The job's id.
    pub id: String,
    /// The scene to render; [`Scene::open`](crate::Scene::open) takes it.
    pub scene: String,
    /// The frames that were asked for.
    pub frames: Frames,
    /// The job's settings.
    pub settings: S,
}

/// One attempt at a task.
#[derive(Debug, Clone)]
pub struct Task<S> {
    /// The job it is part of.
    pub job: Job<S>,
    /// Its name in the plan.
    pub name: String,
    pub(crate) frame: Option<i32>,
    pub(crate) payload: String,
    /// 1 for the first attempt, 2 for the second, ...
    pub attempt: u32,
}

impl<S> Task<S> {
    /// Returns the task's frame; fails if it was planned without one.
    pub fn frame(&self) -> Result<i32> {
        self.frame.ok_or_else(|| Error::invalid(format!("task {} has no frame", self.name)))
    }

    /// Reads what `plan` left for this task.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T> {
        Ok(serde_json::from_str(&self.payload)?)
    }
}

/// A part of a plan.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Its tasks, up to 4,096.
    pub tasks: Vec<PlannedTask>,
    /// Where the next page begins; none on the last.
    pub next: Option<String>,
}

impl Page {
    /// How many tasks a page may hold.
    pub const MAX_TASKS: usize = 4096;

    /// Plans one task a frame.
    pub fn of_frames(frames: &Frames, cursor: Option<&str>) -> Result<Self> {
        let start = start_of(cursor)?;
        let tasks: Vec<_> = frames.iter_from(start).take(Self::MAX_TASKS).map(PlannedTask::frame).collect();
        let end = start + tasks.len();
        let next = (end < frames.len()).then(|| end.to_string());
        Ok(Self { tasks, next })
    }

    /// Plans one task a frame, each after the one for the frame before it: no two of them are
    /// rendered at a time.
    pub fn of_frames_in_order(frames: &Frames, cursor: Option<&str>) -> Result<Self> {
        let start = start_of(cursor)?;
        let mut all: Vec<i32> = frames.iter_from(0).collect();
        all.sort_unstable();
        let end = all.len().min(start.saturating_add(Self::MAX_TASKS));
        let planned = |index: usize| {
            let task = PlannedTask::frame(all[index]);
            let before = index.checked_sub(1).map(|before| PlannedTask::frame(all[before]).name);
            before.into_iter().fold(task, PlannedTask::after)
        };
        let tasks = (start.min(end)..end).map(planned).collect();
        Ok(Self { tasks, next: (end < all.len()).then(|| end.to_string()) })
    }
}

fn start_of(cursor: Option<&str>) -> Result<usize> {
    let parse = |cursor: &str| cursor.parse().map_err(|_| Error::invalid("not a cursor of this plan"));
    cursor.map_or(Ok(0), parse)
}

/// One unit of a plan.
#[derive(Debug, Clone, Default)]
pub struct PlannedTask {
    pub(crate) name: String,
    pub(crate) frame: Option<i32>,
    pub(crate) after: Vec<String>,
    pub(crate) payload: Option<String>,
}

impl PlannedTask {
    /// Makes a task of a name that no other task of the job has.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Makes the task that renders a frame.
    pub fn frame(frame: i32) -> Self {
        Self { frame: Some(frame), ..Self::new(format!("frame-{frame}")) }
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the names of the tasks that must be done before this one.
    pub fn comes_after(&self) -> &[String] {
        &self.after
    }

    /// Says which task must be done before this one.
    pub fn after(mut self, task: impl Into<String>) -> Self {
        self.after.push(task.into());
        self
    }

    /// Leaves something for `render`, at most 64 KiB as JSON. Another release of the plugin may
    /// be the one that reads it: jobs move to a newer one, and back if that fails.
    pub fn payload(mut self, payload: &impl Serialize) -> Result<Self> {
        self.payload = Some(serde_json::to_string(payload)?);
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FrameRange;

    #[test]
    fn a_long_animation_is_planned_in_pages() {
        let frames = Frames::new(vec![FrameRange { first: 1, last: 10_000, step: 1 }]);
        let (mut cursor, mut planned) = (None, Vec::new());
        loop {
            let page = Page::of_frames(&frames, cursor.as_deref()).unwrap();
            assert!(page.tasks.len() <= Page::MAX_TASKS);
            planned.extend(page.tasks.into_iter().filter_map(|t| t.frame));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(planned, (1..=10_000).collect::<Vec<_>>());
    }

    #[test]
    fn frames_in_order_come_after_each_other_also_from_page_to_page() {
        let ranges =
            [FrameRange { first: 5000, last: 9000, step: 1 }, FrameRange { first: 1, last: 200, step: 1 }];
        let frames = Frames::new(ranges.to_vec());
        let first = Page::of_frames_in_order(&frames, None).unwrap();
        let second = Page::of_frames_in_order(&frames, first.next.as_deref()).unwrap();
        let tasks: Vec<PlannedTask> = first.tasks.into_iter().chain(second.tasks).collect();
        assert_eq!((tasks.len(), second.next), (4201, None));
        assert!(tasks[0].after.is_empty() && tasks[0].name == "frame-1");
        assert!(tasks.windows(2).all(|two| two[1].after == [two[0].name.as_str()]));
        assert_eq!(tasks[200].frame, Some(5000));
    }

    #[test]
    fn a_foreign_cursor_is_refused() {
        assert!(Page::of_frames(&Frames::default(), Some("x")).is_err());
    }
}
