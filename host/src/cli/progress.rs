//! What a person, a pipe or a script sees of a render.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

use crate::events::{Event, EventKind, Progress};
use crate::service::types::Job;
use crate::terms::{JobState, TaskState, harmless};

/// A way to show a job.
pub(super) enum View {
    /// Events for a script.
    Json,
    /// Lines for a pipe.
    Lines(Lines),
    /// Bars for a person.
    Bars(Bars),
}

impl View {
    /// Chooses: events for a script, bars for a terminal, lines for everything else.
    pub(super) fn choose(json: bool, workers: usize) -> Self {
        if json {
            Self::Json
        } else if std::io::stderr().is_terminal() {
            Self::Bars(Bars::new(workers))
        } else {
            Self::Lines(Lines::default())
        }
    }

    /// Takes up a job that others have begun.
    pub(super) fn begin(&mut self, job: &Job) {
        match self {
            Self::Json => {}
            Self::Lines(lines) => lines.tally.begin(job),
            Self::Bars(bars) => {
                bars.tally.begin(job);
                bars.count();
            }
        }
    }

    /// Shows what happened.
    pub(super) fn show(&mut self, event: &Event) {
        match self {
            Self::Json => say!("{}", json!(event)),
            Self::Lines(lines) => lines.show(event),
            Self::Bars(bars) => bars.show(event),
        }
    }

    /// Shows how far an attempt is.
    pub(super) fn progress(&mut self, progress: &Progress) {
        match self {
            Self::Json => {
                let mut line = json!(progress);
                line["event"] = json!("task_progress");
                say!("{line}");
            }
            Self::Lines(_) => {}
            Self::Bars(bars) => bars.progress(progress),
        }
    }

    /// Shows a word of the program itself.
    pub(super) fn note(&mut self, text: &str) {
        match self {
            Self::Json | Self::Lines(_) => tell!("{text}"),
            Self::Bars(bars) => bars.say(text),
        }
    }

    /// Shows how it ended.
    pub(super) fn end(&mut self, job: &Job, took: Duration) {
        self.leave();
        match self {
            Self::Json => {}
            Self::Lines(Lines { tally }) | Self::Bars(Bars { tally, .. }) => {
                ending(job, took).iter().for_each(|ending| say!("{ending}"));
                tally.wholes.iter().for_each(|file| say!("{}", harmless(&file.display().to_string())));
                tally.slow().iter().for_each(|slow| tell!("{slow}"));
                match tally.warnings {
                    0 => {}
                    1 => tell!("a warning stands above"),
                    count => tell!("{count} warnings stand above"),
                }
            }
        }
    }

    /// Leaves the terminal as it is to stay.
    pub(super) fn leave(&mut self) {
        if let Self::Bars(bars) = self {
            bars.leave();
        }
    }
}

/// Counts tasks, and guesses how long the rest takes.
#[derive(Default)]
struct Tally {
    total: usize,
    ended: usize,
    /// How many had ended before this began to count.
    before: usize,
    began: Option<Instant>,
    warnings: usize,
    /// The task that took longest of those that were done, and how long all took, in seconds.
    slowest: Option<(String, f64)>,
    seconds: f64,
    done: u32,
    /// The files of tasks that are under way.
    files: HashMap<String, Vec<PathBuf>>,
    /// Files that are of no one frame, such as a movie.
    wholes: Vec<PathBuf>,
}

impl Tally {
    fn begin(&mut self, job: &Job) {
        let ended = job.done + job.failed;
        (self.total, self.ended, self.before) = (job.tasks, ended, ended);
        self.began = Some(Instant::now());
    }

    fn take(&mut self, event: &Event) {
        match &event.kind {
            EventKind::JobState { tasks, state, .. } => {
                self.total = *tasks;
                if *state == JobState::Running {
                    self.began = Some(Instant::now());
                    self.before = self.ended;
                }
            }
            EventKind::TaskState { id, frame, state: TaskState::Done, seconds, .. } => {
                self.ended += 1;
                self.done += 1;
                let files = self.files.remove(id).unwrap_or_default();
                self.wholes.extend(files.into_iter().filter(|_| frame.is_none()));
                self.seconds += seconds;
                if self.slowest.as_ref().is_none_or(|(_, slowest)| slowest < seconds) {
                    self.slowest = Some((title(id, *frame), *seconds));
                }
            }
            EventKind::FileWritten { task: Some(task), path, .. } => {
                self.files.entry(task.clone()).or_default().push(path.clone());
            }
            EventKind::TaskState { state: TaskState::Failed, .. } => self.ended += 1,
            EventKind::TasksCanceled { count, .. } => self.ended += count,
            EventKind::Warning { .. } => self.warnings += 1,
            _ => {}
        }
    }

    /// Says which task took longest, where there are some to compare.
    fn slow(&self) -> Option<String> {
        let (name, seconds) = self.slowest.as_ref().filter(|_| self.done > 1)?;
        let middle = self.seconds / f64::from(self.done);
        Some(format!("a task took {middle:.1} s on average, {name} longest with {seconds:.1} s"))
    }

    fn left(&self) -> Option<Duration> {
        let ended = u32::try_from(self.ended - self.before).ok().filter(|ended| *ended > 0)?;
        let left = u32::try_from(self.total.saturating_sub(self.ended)).ok().filter(|left| *left > 0)?;
        Some(self.began?.elapsed() / ended * left)
    }
}

/// Names a task as people do.
fn title(id: &str, frame: Option<i32>) -> String {
    frame.map_or_else(|| id.to_owned(), |frame| format!("frame {frame}"))
}

/// The sentence for an event that deserves a line of its own.
pub(super) fn line(event: &Event) -> Option<String> {
    Some(match &event.kind {
        EventKind::Warning { message, .. } => format!("warning: {message}"),
        EventKind::Log { level, task: Some(task), message, .. } if level != "debug" => {
            format!("{level}: {task}: {message}")
        }
        EventKind::Log { level, message, .. } if level != "debug" => format!("{level}: {message}"),
        EventKind::TaskState { id, frame, state, error: Some(error), .. } => {
            let end = if *state == TaskState::Ready { "failed and is tried again" } else { state.as_str() };
            format!("{} {end}: {}", title(id, *frame), error.message)
        }
        EventKind::JobMoved { to, why, .. } => format!("goes on with {to}: {why}"),
        EventKind::TasksCanceled { after, count, .. } => {
            let tasks = if *count == 1 { "1 task".to_owned() } else { format!("{count} tasks") };
            format!("{tasks} canceled: a task that comes before was not done: {after}")
        }
        _ => return None,
    })
}

fn ending(job: &Job, took: Duration) -> Option<String> {
    let files = match job.files.unwrap_or_default() {
        0 if job.state == JobState::Succeeded => return Some("the renderer left no file".to_owned()),
        0 => return None,
        1 => "1 file".to_owned(),
        files => format!("{files} files"),
    };
    let took = if took.is_zero() { String::new() } else { format!(" ({:.1} s)", took.as_secs_f64()) };
    Some(format!("{files} in {}{took}", job.out.display()))
}

#[derive(Default)]
pub(super) struct Lines {
    tally: Tally,
}

impl Lines {
    fn show(&mut self, event: &Event) {
        self.tally.take(event);
        if let Some(line) = line(event) {
            tell!("{line}");
        }
        match &event.kind {
            EventKind::WorkerStarted { id, blender, seconds } => {
                tell!("worker {id}: Blender {blender} is up ({seconds:.1} s)");
            }
            EventKind::TaskState { id, frame, state: TaskState::Done, seconds, .. } => {
                let Tally { ended, total, .. } = self.tally;
                let left = self.tally.left().map(|left| format!(", about {} s left", left.as_secs() + 1));
                let title = title(id, *frame);
                tell!("{title} done in {seconds:.1} s ({ended}/{total}{})", left.unwrap_or_default());
            }
            EventKind::FileWritten { path, kept: true, .. } => tell!("kept {}", path.display()),
            _ => {}
        }
    }
}

pub(super) struct Bars {
    tally: Tally,
    all: MultiProgress,
    total: ProgressBar,
    workers: Vec<ProgressBar>,
    /// Which bar a task has, by the number of its worker.
    tasks: HashMap<String, usize>,
}

impl Bars {
    fn new(workers: usize) -> Self {
        let all = MultiProgress::new();
        let spinner = ProgressStyle::with_template("  {spinner:.cyan} {prefix:<10} {msg}");
        let spinner = spinner.expect("the template is well-formed");
        let bar = |n: usize| {
            let bar = all.add(ProgressBar::new_spinner().with_style(spinner.clone()));
            bar.with_prefix(format!("worker {n}")).with_message("starting Blender")
        };
        let bars: Vec<ProgressBar> = (1..=workers).map(bar).collect();
        bars.iter().for_each(|bar| bar.enable_steady_tick(Duration::from_millis(120)));
        let style =
            ProgressStyle::with_template("  {bar:32.green/dim} {pos}/{len} tasks  {elapsed} elapsed{msg}");
        let style = style.expect("the template is well-formed").progress_chars("━╸─");
        let total = all.add(ProgressBar::new(0).with_style(style));
        total.enable_steady_tick(Duration::from_secs(1));
        Self { tally: Tally::default(), all, total, workers: bars, tasks: HashMap::new() }
    }

    fn say(&self, text: &str) {
        // Nothing is lost where no bar is drawn.
        if self.all.println(harmless(text)).is_err() || self.all.is_hidden() {
            tell!("{text}");
        }
    }

    fn bar(&self, worker: u32) -> Option<(usize, &ProgressBar)> {
        let index = (worker as usize).checked_sub(1)?.checked_rem(self.workers.len())?;
        Some((index, &self.workers[index]))
    }
}

impl Bars {
    fn count(&self) {
        self.total.set_length(self.tally.total as u64);
        self.total.set_position(self.tally.ended as u64);
        if let Some(left) = self.tally.left() {
            self.total.set_message(format!(", about {} left", indicatif::HumanDuration(left)));
        }
    }

    fn show(&mut self, event: &Event) {
        self.tally.take(event);
        self.count();
        if let Some(line) = line(event) {
            self.say(&line);
        }
        match &event.kind {
            EventKind::WorkerStarted { id, blender, .. } => {
                if let Some((_, bar)) = self.bar(*id) {
                    bar.set_message(format!("Blender {blender}, loading the scene"));
                }
            }
            EventKind::TaskState { id, .. } => {
                if let Some(index) = self.tasks.remove(id) {
                    self.workers[index].set_message("");
                }
            }
            _ => {}
        }
    }

    fn progress(&mut self, progress: &Progress) {
        let Progress { id, frame, worker, seconds, samples, fraction, message, .. } = progress;
        if let Some((index, bar)) = worker.and_then(|worker| self.bar(worker)) {
            let samples = samples.map(|(done, all)| format!("  sample {done}/{all}")).unwrap_or_default();
            let seconds = seconds.unwrap_or_default();
            let message = format!("{}{samples}  {seconds:.0} s", title(id, *frame));
            bar.set_message(harmless(&message).into_owned());
            self.tasks.insert(id.clone(), index);
        }
        if let (Some(fraction), Some(message), Some(&index)) = (fraction, message, self.tasks.get(id)) {
            let percent = fraction * 100.0;
            let message = format!("{}  {percent:.0} %  {message}", title(id, *frame));
            self.workers[index].set_message(harmless(&message).into_owned());
        }
    }

    fn leave(&mut self) {
        for bar in self.workers.drain(..) {
            bar.finish_and_clear();
            self.all.remove(&bar);
        }
        self.total.set_message("");
        self.total.abandon();
    }
}
