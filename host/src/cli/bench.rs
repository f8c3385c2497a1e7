//! `hotshoe bench`: measure on the user's own machine, beside a reference.

mod blender;
mod calls;
mod echo;
mod fair;
pub mod fake;
pub mod ipc;
mod jobs;
mod swap;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{Failure, Result, table};
use crate::config::DataDir;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The benchmarks to run [default: all].
    #[arg(value_enum)]
    names: Vec<Name>,
    /// How often each whole render is run; calls are always measured many times.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    runs: u16,
    /// A scene to render [default: those of examples/scenes].
    #[arg(long = "scene", value_name = "FILE")]
    scenes: Vec<PathBuf>,
    /// How many frames of each scene to render, from frame 1 on.
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u16).range(2..=10_000))]
    frames: u16,
    /// How many workers the measured host has.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=64))]
    slots: u16,
    /// The Blender to use: a program, its folder, or a Python with bpy.
    #[arg(long, value_name = "PATH")]
    blender: Option<PathBuf>,
    /// The folder with the other plugin systems, built by tests/peers/build.sh.
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
    /// The component that is replaced by `swap` [default: the renderer `direct`], or that stands
    /// for all plugins of `fair` (tests/fixtures/probe).
    #[arg(long, value_name = "FILE")]
    component: Option<PathBuf>,
    /// Print rows as JSON, one a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Calls into a component, instances, loading.
    Calls,
    /// Calls between host and plugins, pixels, beside other plugin systems.
    Ipc,
    /// A host with jobs, tasks and clients; its workers render nothing.
    Jobs,
    /// A release replaced while it serves, beside a host that stops for it.
    Swap,
    /// A plugin beside others that spin, flood or eat memory; needs --component.
    Fair,
    /// Whole renders beside plain Blender.
    Blender,
}

/// One result.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    median: f64,
    min: f64,
    max: f64,
    unit: &'static str,
    runs: usize,
    reference: Reference,
    /// Ours by the reference; of runs in turn, the median of the ratios pair by pair.
    ratio: f64,
    goal: Goal,
    met: bool,
}

/// What a result is held against, measured in the same run.
#[derive(Debug, Serialize)]
struct Reference {
    name: String,
    median: f64,
}

/// What a result should be.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Goal {
    MedianAtMost(f64),
    MedianAtLeast(f64),
    RatioAtMost(f64),
    RatioAtLeast(f64),
    /// Nothing in particular: to be known.
    Any,
}

impl Row {
    fn new(
        name: impl Into<String>,
        unit: &'static str,
        ours: &Samples,
        reference: Reference,
        goal: Goal,
    ) -> Self {
        let ratio = ours.median() / reference.median;
        Self::with_ratio(name.into(), unit, ours, reference, ratio, goal)
    }

    /// A result of runs that took turns with those of the reference: a slow minute
    /// of the machine then hits both of a pair.
    fn in_turn(
        name: String,
        unit: &'static str,
        ours: &[f64],
        (reference, theirs): (&str, &[f64]),
        goal: Goal,
    ) -> Self {
        let ratios = Samples::new(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect());
        let reference = Reference::new(reference, &Samples::new(theirs.to_vec()));
        Self::with_ratio(name, unit, &Samples::new(ours.to_vec()), reference, ratios.median(), goal)
    }

    fn with_ratio(
        name: String,
        unit: &'static str,
        ours: &Samples,
        reference: Reference,
        ratio: f64,
        goal: Goal,
    ) -> Self {
        let median = ours.median();
        let met = match goal {
            Goal::MedianAtMost(limit) => median <= limit,
            Goal::MedianAtLeast(limit) => median >= limit,
            Goal::RatioAtMost(limit) => ratio <= limit,
            Goal::RatioAtLeast(limit) => ratio >= limit,
            Goal::Any => true,
        };
        let (min, max, runs) = (ours.0[0], ours.0[ours.0.len() - 1], ours.0.len());
        Self { name, median, min, max, unit, runs, reference, ratio, goal, met }
    }

    fn cells(&self) -> Vec<String> {
        let number = |value: f64| match value {
            value if value >= 100.0 => format!("{value:.0}"),
            value if value >= 1.0 => format!("{value:.2}"),
            value => format!("{value:.3}"),
        };
        let goal = match self.goal {
            Goal::MedianAtMost(limit) => format!("<= {limit} {}", self.unit),
            Goal::MedianAtLeast(limit) => format!(">= {limit} {}", self.unit),
            Goal::RatioAtMost(limit) => format!("ratio <= {limit}"),
            Goal::RatioAtLeast(limit) => format!("ratio >= {limit}"),
            Goal::Any => "-".to_owned(),
        };
        vec![
            self.name.clone(),
            format!("{} {}", number(self.median), self.unit),
            format!("{}..{}", number(self.min), number(self.max)),
            self.runs.to_string(),
            format!("{} {} ({})", number(self.reference.median), self.unit, self.reference.name),
            number(self.ratio),
            format!("{goal}{}", if self.met { "" } else { "  MISSED" }),
        ]
    }
}

impl Reference {
    fn new(name: impl Into<String>, samples: &Samples) -> Self {
        Self { name: name.into(), median: samples.median() }
    }
}

/// Measured values, sorted.
#[derive(Debug)]
struct Samples(Vec<f64>);

impl Samples {
    fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match self.0.len() % 2 {
            0 => f64::midpoint(self.0[middle - 1], self.0[middle]),
            _ => self.0[middle],
        }
    }
}

/// Shows how many steps of a measurement are done.
fn bar(steps: u64) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    let style = ProgressStyle::with_template("{bar:28.green/dim} {pos}/{len} {msg} ({elapsed})");
    bar.set_style(style.expect("the template is well-formed"));
    bar.enable_steady_tick(Duration::from_secs(1));
    bar
}

/// Microseconds of one out of `batch` calls, each time from a fresh reading of the clock.
fn micros(took: Duration, batch: u32) -> f64 {
    took.as_secs_f64() * 1e6 / f64::from(batch)
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    (work(), began.elapsed())
}

pub(super) async fn run(args: Args, data: &DataDir) -> Result {
    let wanted = |name| args.names.is_empty() || args.names.contains(&name);
    let mut rows = Vec::new();
    if wanted(Name::Calls) {
        rows.extend(calls::run(data).await.map_err(Failure::failed)?);
    }
    if wanted(Name::Ipc) {
        rows.extend(ipc::run(&args).await?);
    }
    if wanted(Name::Jobs) {
        rows.extend(jobs::run(&args).await?);
    }
    if wanted(Name::Swap) {
        rows.extend(swap::run(&args).await?);
    }
    if args.names.contains(&Name::Fair) || (args.names.is_empty() && args.component.is_some()) {
        rows.extend(fair::run(&args).await?);
    }
    if wanted(Name::Blender) {
        rows.extend(blender::run(&args, data).await?);
    }
    if args.json {
        for row in &rows {
            say!("{}", serde_json::to_string(row).expect("rows are plain data"));
        }
        return Ok(());
    }
    let cells: Vec<_> = rows.iter().map(Row::cells).collect();
    table::print(&["WHAT", "MEDIAN", "MIN..MAX", "RUNS", "REFERENCE", "RATIO", "GOAL"], &cells);
    Ok(())
}
