//! `hotshoe host`, `worker`, `device` and `events`: a running host itself.

use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::client::{Ask, At, Client, JobName, News};
use super::{Failure, Result, table};
use crate::config;
use crate::events::{Event, EventKind};
use crate::service::types::{Devices, Host, HostState, Job, Workers};

/// How often a host that drains is asked how it stands.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the state of the host.
    Status(Ask),
    /// Finish running tasks, start no new ones, and wait until nothing runs.
    Drain {
        #[command(flatten)]
        ask: Ask,
        /// Start tasks again.
        #[arg(long)]
        off: bool,
        /// Return at once.
        #[arg(long)]
        no_wait: bool,
    },
    /// Stop the host and wait until it has exited; the next host continues unfinished jobs.
    Shutdown {
        #[command(flatten)]
        ask: Ask,
        /// Cut what runs.
        #[arg(long)]
        now: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(subcommand)]
    command: List,
}

#[derive(Debug, clap::Subcommand)]
enum List {
    /// List them.
    List(#[command(flatten)] Ask),
}

#[derive(Debug, clap::Args)]
pub(super) struct Events {
    /// Start after this event number; 0 prints all that are stored [default: only new ones].
    #[arg(long, value_name = "SEQ")]
    from: Option<u64>,
    /// Print only events of this job.
    #[arg(long, value_name = "ID")]
    job: Option<JobName>,
    /// Exit after the stored events instead of waiting for new ones.
    #[arg(long)]
    no_follow: bool,
    /// Print JSON (always so; for symmetry with other commands).
    #[arg(long, hide = true)]
    json: bool,
    #[command(flatten)]
    at: At,
}

pub(super) async fn run(args: Args, data: Option<&Path>) -> Result {
    match args.command {
        Command::Status(ask) => {
            let host = ask.at.connect(data).await?.status().await?;
            print(&host, ask.json);
            Ok(())
        }
        Command::Drain { ask, off, no_wait } => drain(&ask, off, no_wait, data).await,
        Command::Shutdown { ask, now } => {
            let client = ask.at.connect(data).await?;
            let host: Host = client.call("host.shutdown", &json!({"now": now})).await?;
            if host.running > 0 && !now {
                tell!("waiting for {} that run; `hotshoe host shutdown --now` cuts them", host.running);
            }
            client.closed().await;
            // Its workers may take a moment to end.
            while config::is_claimed(&host.data) {
                tokio::time::sleep(LOOK).await;
            }
            if ask.json {
                show!("{:#}", json!(host));
            }
            Ok(())
        }
    }
}

async fn drain(ask: &Ask, off: bool, no_wait: bool, data: Option<&Path>) -> Result {
    let client = ask.at.connect(data).await?;
    let mut host: Host = client.call("host.drain", &json!({"off": off})).await?;
    if off || no_wait {
        print(&host, ask.json);
        return Ok(());
    }
    let bar = ProgressBar::new_spinner();
    bar.set_style(
        ProgressStyle::with_template("{spinner:.cyan} {msg}").expect("the template is well-formed"),
    );
    while host.running > 0 {
        bar.set_message(format!("{} still run", host.running));
        bar.tick();
        tokio::time::sleep(LOOK).await;
        host = client.status().await?;
        if host.state == HostState::Running {
            return Err(Failure::failed("somebody let the host begin tasks again"));
        }
    }
    bar.finish_and_clear();
    print(&host, ask.json);
    Ok(())
}

fn print(host: &Host, json: bool) {
    if json {
        return show!("{:#}", json!(host));
    }
    let state = json!(host.state);
    show!("host {}  {}", host.id, state.as_str().unwrap_or_default());
    show!("  version   {}", host.version);
    show!("  data      {}", host.data.display());
    show!("  blender   {}", host.blender.display());
    show!("  up        {}", indicatif::HumanDuration(Duration::from_secs_f64(host.uptime_seconds)));
    show!("  jobs      {} open", host.open_jobs);
    show!("  running   {} of {}", host.running, host.slots);
    show!("  events    {}", host.last_event);
    if let Some(trouble) = &host.trouble {
        show!("  trouble   {trouble}");
    }
}

pub(super) async fn workers(args: ListArgs, data: Option<&Path>) -> Result {
    let List::List(ask) = args.command;
    let found: Workers = ask.at.connect(data).await?.call("workers.list", &json!({})).await?;
    if ask.json {
        found.workers.iter().for_each(|worker| show!("{}", json!(worker)));
        return Ok(());
    }
    let row = |worker: &crate::service::types::Worker| {
        let scene = worker.scene.as_deref().and_then(Path::file_name).unwrap_or_default();
        vec![
            worker.id.to_string(),
            json!(worker.state).as_str().unwrap_or_default().to_owned(),
            worker.blender.clone(),
            worker.renders.to_string(),
            format!("{} MiB", worker.memory >> 20),
            scene.to_string_lossy().into_owned(),
        ]
    };
    let rows: Vec<_> = found.workers.iter().map(row).collect();
    table::print(&["WORKER", "STATE", "BLENDER", "RENDERS", "MEMORY", "SCENE"], &rows);
    Ok(())
}

pub(super) async fn devices(args: ListArgs, data: Option<&Path>) -> Result {
    let List::List(ask) = args.command;
    let found: Devices = ask.at.connect(data).await?.call("devices.list", &json!({})).await?;
    if ask.json {
        found.devices.iter().for_each(|device| show!("{}", json!(device)));
        return Ok(());
    }
    let row = |device: &crate::service::types::Device| {
        let memory = format!("{} MiB", device.memory >> 20);
        vec![device.id.clone(), device.kind.clone(), device.units.to_string(), memory, device.name.clone()]
    };
    let rows: Vec<_> = found.devices.iter().map(row).collect();
    table::print(&["DEVICE", "KIND", "UNITS", "MEMORY", "NAME"], &rows);
    Ok(())
}

pub(super) async fn events(args: Events, data: Option<&Path>) -> Result {
    let mut client = args.at.connect(data).await?;
    let from = match args.from {
        Some(from) => from,
        None => client.status().await?.last_event,
    };
    let job = match &args.job {
        Some(name) => Some(client.job(name).await?),
        None => None,
    };
    let has_ended = async |client: &Client| match job {
        Some(id) => Ok(client.call::<Job>("jobs.get", &json!({"id": id})).await?.state.is_final()),
        None => Ok::<_, Failure>(false),
    };
    if args.no_follow || has_ended(&client).await? {
        let print = |event: &Event| show!("{}", json!(event));
        return client.stored_events(from, job, print).await.map(drop);
    }
    if let Some(missed) = client.subscribe(from, job, false).await? {
        tell!("some events up to {missed} are not kept any more");
    }
    while let Some(news) = client.news().await {
        if let News::Events(events) = news {
            events.iter().for_each(|event| show!("{}", json!(event)));
            let ends =
                |kind: &EventKind| matches!(kind, EventKind::JobState { state, .. } if state.is_final());
            if events.iter().any(|event| ends(&event.kind)) && has_ended(&client).await? {
                return Ok(());
            }
        }
    }
    Err(Failure::failed("the host is gone"))
}
