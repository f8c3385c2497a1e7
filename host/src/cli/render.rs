//! `hotshoe render`: a host of its own, one job, and its frames.

use std::path::PathBuf;
use std::time::Instant;

use clap::ValueEnum;

use super::progress::{self, View};
use super::stopping::Stopping;
use super::{BAD_INPUT, FAILED, Failure, INTERRUPTED, Result};
use crate::blender::{Blender, find, install};
use crate::config::DataDir;
use crate::daemon::{Host, Options};
use crate::events::EventKind;
use crate::frames::Frames;
use crate::service::{self, Checked, RenderRequest};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The .blend file to render.
    scene: PathBuf,
    /// The frames, such as 7 or 1-4,10,20-30x2.
    #[arg(short, long)]
    frames: Frames,
    /// The renderer: its name, or the path of a component.
    #[arg(short, long, default_value = "direct")]
    renderer: String,
    /// A setting of the renderer; see `hotshoe plugin show NAME`.
    #[arg(short, long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
    /// Where the pictures go [default: SCENE-frames beside the scene].
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Blenders that render at the same time; each holds the scene in memory.
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// The device to render on [default: as the scene says].
    #[arg(long, value_enum)]
    device: Option<Device>,
    /// The Blender to use: a program, its folder, or a Python with bpy.
    #[arg(long, value_name = "PATH")]
    blender: Option<PathBuf>,
    /// Keep pictures that are there already.
    #[arg(long)]
    skip_existing: bool,
    /// Fail if the scene misses files, instead of warning.
    #[arg(long)]
    strict: bool,
    /// Print an event a line as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Device {
    Cpu,
}

pub(super) async fn run(args: Args, data: &DataDir) -> Result {
    let (blender, workers, json) = (args.blender.clone(), usize::from(args.workers), args.json);
    let checked = check(args, data).await?;
    let mut stopping = Stopping::listen()?;
    let blender = stopping.cuts(choose_blender(blender, data, json)).await?;
    tracing::info!(blender = %blender.path().display(), "using this Blender");
    let program = std::env::current_exe().map_err(Failure::failed)?;
    let host = Host::start(data, Options { blender, program, workers }).map_err(Failure::failed)?;
    let result = follow(&host, checked, progress::view(json, workers), &mut stopping).await;
    tokio::select! {
        () = host.stop() => result,
        () = stopping.asked() => std::process::exit(INTERRUPTED.into()),
    }
}

async fn check(args: Args, data: &DataDir) -> Result<Checked> {
    let releases = super::releases(data)?;
    let request = RenderRequest {
        scene: args.scene,
        frames: args.frames,
        renderer: args.renderer,
        settings: args.settings,
        out: args.out,
        skip_existing: args.skip_existing,
        strict: args.strict,
        cpu: args.device.is_some(),
    };
    service::check(&releases, request).await.map_err(Failure::bad_input)
}

/// Takes the first Blender there is; installs one if there is none.
async fn choose_blender(given: Option<PathBuf>, data: &DataDir, quiet: bool) -> Result<Blender> {
    let found = find::all(given.as_deref(), data).map_err(Failure::bad_input)?;
    if let Some(first) = found.into_iter().next() {
        return Ok(first.blender);
    }
    if !quiet {
        eprintln!("There is no Blender on this machine yet; installing one for Hotshoe.");
    }
    super::blender::install(&install::Request::default(), data, quiet).await
}

/// Submits the job and shows what happens until it ends.
async fn follow(host: &Host, checked: Checked, mut view: Box<dyn View>, stopping: &mut Stopping) -> Result {
    let began = Instant::now();
    let mut events = host.service().events.subscribe(0);
    let id = host.service().submit(checked).await;
    let mut interrupts = 0;
    let mut rendering = false;
    let (state, error) = loop {
        let event = tokio::select! {
            biased;
            () = stopping.asked() => {
                interrupts += 1;
                if interrupts > 1 {
                    // Whatever runs dies with us.
                    std::process::exit(INTERRUPTED.into());
                }
                view.note("stopping; press Ctrl-C again to stop at once");
                host.service().cancel(&id).await;
                continue;
            }
            event = events.next() => event,
        };
        let event = match event {
            Ok(event) => event,
            Err(missed) => {
                view.note(&missed.to_string());
                continue;
            }
        };
        view.show(&event);
        rendering |= matches!(event.kind, EventKind::TaskStarted { .. });
        if let EventKind::JobState { state: state @ ("succeeded" | "failed" | "canceled"), error, .. } =
            &event.kind
        {
            break (*state, error.clone());
        }
    };
    let summary = host.service().summary(&id).await;
    view.end(summary.as_ref(), began.elapsed());
    match (state, error) {
        ("succeeded", _) => Ok(()),
        ("canceled", _) => {
            Err(Failure { code: INTERRUPTED, message: "stopped before all was rendered".to_owned() })
        }
        (_, Some(error)) if !rendering && matches!(error.blame, "client" | "blender") => {
            Err(Failure { code: BAD_INPUT, message: error.message })
        }
        (_, Some(error)) => Err(Failure { code: FAILED, message: error.message }),
        (_, None) => {
            let (failed, tasks) = summary.map_or((0, 0), |summary| (summary.failed, summary.tasks));
            Err(Failure {
                code: FAILED,
                message: format!("{failed} of {tasks} tasks failed; the reasons stand above"),
            })
        }
    }
}
