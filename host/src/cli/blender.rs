//! `hotshoe blender`: find and install Blenders.

use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio_util::task::TaskTracker;

use super::stopping::Stopping;
use super::{Failure, Result, table};
use crate::blender::find::{self, Found};
use crate::blender::install::{self, Step};
use crate::blender::seats::Seat;
use crate::blender::worker::{Launch, Patience, Worker};
use crate::blender::{Blender, BlenderError};
use crate::config::file::Sandboxing;
use crate::config::{DataDir, RunDir};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Install a Blender below the data directory, for Hotshoe only.
    Install {
        /// A version such as 4.5 or 4.5.15 [default: the long-term release for a Python on this
        /// machine].
        version: Option<String>,
        /// Also install missing system packages, with sudo if necessary.
        #[arg(long)]
        with_deps: bool,
    },
    /// List the Blenders on this machine, the preferred one first.
    List {
        /// Also this one: a program, its folder, or a Python with bpy.
        #[arg(long, value_name = "PATH")]
        blender: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(args: Args, data: &DataDir) -> Result {
    match args.command {
        Command::Install { version, with_deps } => {
            let request = install::Request { version, with_deps };
            let blender =
                Stopping::listen()?.cuts("a Blender was installed", install(&request, data, false)).await?;
            say!("{}", blender.path().display());
            Ok(())
        }
        Command::List { blender, json } => {
            let found = find::all(blender.as_deref(), data).map_err(Failure::bad_input)?;
            list(found, data, json).await
        }
    }
}

/// Installs a Blender behind a progress bar.
pub(super) async fn install(request: &install::Request, data: &DataDir, quiet: bool) -> Result<Blender> {
    let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    let spinner = ProgressStyle::with_template("{spinner:.cyan} {msg}").expect("the template is well-formed");
    let download =
        "{spinner:.cyan} {msg} {bar:28.green/dim} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left";
    let download = ProgressStyle::with_template(download).expect("the template is well-formed");
    let download = download.progress_chars("━╸─");
    bar.set_style(spinner.clone());
    bar.enable_steady_tick(Duration::from_millis(120));
    let lines = bar.is_hidden() && !quiet;
    let mut show = |step: Step| match step {
        Step::Doing(what) => {
            if lines {
                tell!("{what}");
            }
            bar.set_style(spinner.clone());
            bar.set_message(what);
        }
        Step::Download(done, all) => {
            if bar.length() != Some(all) {
                bar.set_style(download.clone());
                bar.set_length(all);
            }
            bar.set_position(done);
        }
    };
    let installed = install::install(request, data, &mut show).await;
    bar.finish_and_clear();
    installed.map_err(Failure::bad_input)
}

async fn list(found: Vec<Found>, data: &DataDir, json: bool) -> Result {
    if found.is_empty() && !json {
        say!("no Blender was found; `hotshoe blender install` installs one");
    }
    let mut rows = Vec::new();
    for Found { source, blender } in found {
        let version = version(&blender, data).await;
        let path = blender.path().display().to_string();
        if json {
            let (version, error) = match &version {
                Ok(version) => (Some(version), None),
                Err(error) => (None, Some(error.to_string())),
            };
            say!("{}", json!({"id": path, "source": source, "version": version, "error": error}));
        }
        let version = version.unwrap_or_else(|_| "does not start".to_owned());
        rows.push(vec![version, source.to_owned(), path]);
    }
    if !json && !rows.is_empty() {
        table::print(&["VERSION", "FOUND", "PATH"], &rows);
    }
    Ok(())
}

/// Starts a Blender to see which it is.
pub(super) async fn version(blender: &Blender, data: &DataDir) -> Result<String, BlenderError> {
    let run = RunDir::create(data).map_err(BlenderError::io("make a run folder"))?;
    let guard = std::env::current_exe().map_err(BlenderError::io("find this program"))?;
    let launch = Launch {
        blender: blender.clone(),
        guard,
        folder: run.path().to_owned(),
        patience: Patience::default(),
        sandbox: Sandboxing::Auto,
        read: Vec::new(),
        environment: Vec::new(),
        addons: Default::default(),
        processes: TaskTracker::new(),
    };
    let worker = Worker::start(&launch, 1, &Seat::default(), &[]).await?;
    let version = worker.hello.blender_version.clone();
    worker.stop().await;
    Ok(version)
}
