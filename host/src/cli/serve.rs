//! `hotshoe serve`: the host of a render node.

use std::path::PathBuf;
use std::time::Duration;

use sd_notify::NotifyState;

use super::client::At;
use super::confined::Confined;
use super::render::choose_blender;
use super::stopping::Stopping;
use super::{Failure, Result};
use crate::api::Socket;
use crate::config::DataDir;
use crate::config::file::Config;
use crate::daemon::{Host, Options};
use crate::service::types::Shutdown;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    at: At,
    /// A folder with more renderers than those that come with Hotshoe.
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// For plugin authors: new releases serve at once, and changed bytes of the same version count as
    /// another build of it.
    #[arg(long)]
    dev: bool,
    /// The configuration file [default: ~/.config/hotshoe/config.toml, if it exists].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The Blender to use: a program, its folder, or a Python with bpy.
    #[arg(long, value_name = "PATH")]
    blender: Option<PathBuf>,
    /// How many Blenders render at the same time; each loads its scene into memory.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    #[command(flatten)]
    confined: Confined,
}

pub(super) async fn run(args: Args, given: Option<PathBuf>) -> Result {
    let data = super::open(given.clone())?;
    let (config, config_file) = configuration(&args)?;
    let _claim = match data.claim().map_err(Failure::failed)? {
        Ok(claim) => claim,
        Err(holder) => {
            return Err(Failure::failed(format!(
                "another host, process {holder}, serves {}\n\
                 use that one, or give this one a directory of its own with --data DIR",
                data.path().display()
            )));
        }
    };
    // What a client could ask from inside this process, nothing else can look into.
    let _ = nix::sys::prctl::set_dumpable(false);
    let mut stopping = Stopping::listen()?;
    let path = args.at.place(&config, given.as_deref())?;
    let host = start(&args, (config, config_file), &data, &mut stopping).await?;
    let socket = match Socket::open(&path).await {
        Ok(socket) => socket,
        Err(error) => {
            host.stop().await.map_err(Failure::failed)?;
            return Err(Failure::failed(error));
        }
    };
    tell!("serving {} at {}", data.path().display(), path.display());
    host.listen(socket);
    notify(NotifyState::Ready);
    let Some(how) = until_asked(&host, &mut stopping).await else {
        let why = host.stop().await.map_or_else(|error| error.to_string(), |()| "it ended".to_owned());
        let hint = "what it had begun is done by the next one";
        return Err(Failure::failed(format!("the host cannot go on: {why}\n{hint}")));
    };
    notify(NotifyState::Stopping);
    if !how.now {
        tell!("finishing what runs; ask again to stop at once");
    }
    tokio::select! {
        () = host.drain(how) => {}
        _ = host.service().asked_to_stop(true) => {}
        () = stopping.asked() => {}
    }
    tokio::select! {
        stopped = host.stop() => stopped.map_err(Failure::failed),
        // Whatever runs dies with us, and is done again by the next host.
        () = stopping.asked() => Err(Failure::failed("stopped before all was written down")),
    }
}

fn configuration(args: &Args) -> Result<(Config, Option<PathBuf>)> {
    let (mut config, file) = Config::read(args.config.as_deref()).map_err(Failure::bad_input)?;
    config.workers.count = args.workers.unwrap_or(config.workers.count);
    config.plugins = args.plugins.clone().or(config.plugins);
    config.blender.path = args.blender.clone().or(config.blender.path);
    args.confined.apply(&mut config)?;
    if let Some(folder) = config.plugins.as_ref().filter(|folder| !folder.is_dir()) {
        return Err(Failure::bad_input(format!("the folder of plugins, {}, is not there", folder.display())));
    }
    config.missing().iter().for_each(|missing| tracing::warn!("{missing}"));
    Ok((config, file))
}

async fn start(
    args: &Args,
    (config, config_file): (Config, Option<PathBuf>),
    data: &DataDir,
    stopping: &mut Stopping,
) -> Result<Host> {
    let given = args.blender.as_deref().or(config.blender.path.as_deref());
    let blender = stopping.cuts("a Blender was installed", choose_blender(given, data, false)).await?;
    let releases = super::releases(data, &config)?;
    let program = std::env::current_exe().map_err(Failure::failed)?;
    let dev = args.dev;
    let options = Options { blender, program, releases, config, config_file, dev, alone: false };
    let start = async { Host::start(data, options).await.map_err(Failure::failed) };
    // Taking up the jobs of the host before may take as long as their disks do.
    stopping.cuts("the host was up", start).await
}

/// Waits until a signal or a client asks the host to stop; meanwhile tells systemd
/// that it is well. None if it cannot go on.
async fn until_asked(host: &Host, stopping: &mut Stopping) -> Option<Shutdown> {
    let every = sd_notify::watchdog_enabled().map_or(Duration::from_secs(5), |limit| limit / 2);
    let beat = async {
        loop {
            // Only who still answers is alive.
            if host.service().is_well().await.is_ok() {
                notify(NotifyState::Watchdog);
            }
            tokio::time::sleep(every).await;
        }
    };
    tokio::select! {
        () = stopping.asked() => Some(Shutdown::default()),
        how = host.service().asked_to_stop(false) => Some(how),
        () = host.lost() => None,
        () = beat => None,
    }
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd does not listen");
    }
}
