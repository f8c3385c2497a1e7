//! What a person, a pipe or a script sees of a render.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::events::{Event, EventKind};
use crate::jobs::Summary;
use crate::jobs::model::JobState;

/// A way to show a render.
pub(super) trait View: Send {
    /// Shows what happened.
    fn show(&mut self, event: &Event);
    /// Shows a word of the program itself.
    fn note(&mut self, text: &str);
    /// Shows how it ended.
    fn end(&mut self, summary: Option<&Summary>, took: Duration);
}

/// Chooses: events for a script, bars for a terminal, lines for everything else.
pub(super) fn view(json: bool, workers: usize) -> Box<dyn View> {
    if json {
        Box::new(Json)
    } else if std::io::stderr().is_terminal() {
        Box::new(Bars::new(workers))
    } else {
        Box::new(Lines::default())
    }
}

struct Json;

impl View for Json {
    fn show(&mut self, event: &Event) {
        let line = serde_json::to_string(event).expect("events are plain data");
        say!("{line}");
    }

    fn note(&mut self, text: &str) {
        eprintln!("{text}");
    }

    fn end(&mut self, _summary: Option<&Summary>, _took: Duration) {}
}

/// Counts tasks, and guesses how long the rest takes.
#[derive(Default)]
struct Tally {
    total: usize,
    ended: usize,
    began: Option<Instant>,
}

impl Tally {
    fn take(&mut self, event: &Event) {
        match &event.kind {
            EventKind::JobState { tasks, state, .. } => {
                self.total = *tasks;
                if *state == "running" {
                    self.began = Some(Instant::now());
                }
            }
            EventKind::TaskState { state: "done" | "failed", .. } => self.ended += 1,
            _ => {}
        }
    }

    fn left(&self) -> Option<Duration> {
        let ended = u32::try_from(self.ended).ok().filter(|ended| *ended > 0)?;
        let left = u32::try_from(self.total.saturating_sub(self.ended)).ok().filter(|left| *left > 0)?;
        Some(self.began?.elapsed() / ended * left)
    }
}

/// Names a task as people do.
fn title(id: &str, frame: Option<i32>) -> String {
    frame.map_or_else(|| id.to_owned(), |frame| format!("frame {frame}"))
}

/// The sentence for an event that deserves a line of its own.
fn line(event: &Event) -> Option<String> {
    Some(match &event.kind {
        EventKind::Warning { message, .. } => format!("warning: {message}"),
        EventKind::Log { level: level @ ("warn" | "error" | "info"), message, .. } => {
            format!("{level}: {message}")
        }
        EventKind::TaskState { id, frame, state, error: Some(error), .. } => {
            let end = if *state == "ready" { "failed and is tried again" } else { *state };
            format!("{} {end}: {}", title(id, *frame), error.message)
        }
        _ => return None,
    })
}

fn ending(summary: Option<&Summary>, took: Duration) -> Option<String> {
    let summary = summary.filter(|summary| summary.files > 0 || summary.state == JobState::Succeeded)?;
    let files = match summary.files {
        0 => return Some("the renderer left no file".to_owned()),
        1 => "1 file".to_owned(),
        files => format!("{files} files"),
    };
    Some(format!("{files} in {} ({:.1} s)", summary.folder.display(), took.as_secs_f64()))
}

#[derive(Default)]
struct Lines {
    tally: Tally,
}

impl View for Lines {
    fn show(&mut self, event: &Event) {
        self.tally.take(event);
        if let Some(line) = line(event) {
            eprintln!("{line}");
        }
        match &event.kind {
            EventKind::WorkerStarted { id, blender, seconds } => {
                eprintln!("worker {id}: Blender {blender} is up ({seconds:.1} s)");
            }
            EventKind::TaskState { id, frame, state: "done", seconds, .. } => {
                let Tally { ended, total, .. } = self.tally;
                let left = self.tally.left().map(|left| format!(", about {} s left", left.as_secs() + 1));
                let title = title(id, *frame);
                eprintln!("{title} done in {seconds:.1} s ({ended}/{total}{})", left.unwrap_or_default());
            }
            EventKind::FileWritten { path, kept: true, .. } => eprintln!("kept {}", path.display()),
            _ => {}
        }
    }

    fn note(&mut self, text: &str) {
        eprintln!("{text}");
    }

    fn end(&mut self, summary: Option<&Summary>, took: Duration) {
        if let Some(ending) = ending(summary, took) {
            say!("{ending}");
        }
    }
}

struct Bars {
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
        if self.all.println(text).is_err() || self.all.is_hidden() {
            eprintln!("{text}");
        }
    }

    fn bar(&self, worker: u32) -> Option<(usize, &ProgressBar)> {
        let index = (worker as usize).checked_sub(1)? % self.workers.len();
        Some((index, &self.workers[index]))
    }
}

impl View for Bars {
    fn show(&mut self, event: &Event) {
        self.tally.take(event);
        self.total.set_length(self.tally.total as u64);
        self.total.set_position(self.tally.ended as u64);
        if let Some(left) = self.tally.left() {
            self.total.set_message(format!(", about {} left", indicatif::HumanDuration(left)));
        }
        if let Some(line) = line(event) {
            self.say(&line);
        }
        match &event.kind {
            EventKind::WorkerStarted { id, blender, .. } => {
                if let Some((_, bar)) = self.bar(*id) {
                    bar.set_message(format!("Blender {blender}, loading the scene"));
                }
            }
            EventKind::TaskProgress { id, frame, worker: Some(worker), seconds, samples, .. } => {
                let Some((index, bar)) = self.bar(*worker) else { return };
                let samples = samples.map(|(done, all)| format!("  sample {done}/{all}")).unwrap_or_default();
                let seconds = seconds.unwrap_or_default();
                bar.set_message(format!("{}{samples}  {seconds:.0} s", title(id, *frame)));
                self.tasks.insert(id.clone(), index);
            }
            EventKind::TaskProgress {
                id, frame, fraction: Some(fraction), message: Some(message), ..
            } => {
                let Some(&index) = self.tasks.get(id) else { return };
                let percent = fraction * 100.0;
                self.workers[index].set_message(format!("{}  {percent:.0} %  {message}", title(id, *frame)));
            }
            EventKind::TaskState { id, .. } => {
                if let Some(index) = self.tasks.remove(id) {
                    self.workers[index].set_message("");
                }
            }
            _ => {}
        }
    }

    fn note(&mut self, text: &str) {
        self.say(text);
    }

    fn end(&mut self, summary: Option<&Summary>, took: Duration) {
        for bar in &self.workers {
            bar.finish_and_clear();
            self.all.remove(bar);
        }
        self.total.set_message("");
        self.total.abandon();
        if let Some(ending) = ending(summary, took) {
            say!("{ending}");
        }
    }
}
