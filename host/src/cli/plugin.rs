//! `hotshoe plugin`: look at the renderers, install them, and steer their releases.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::HumanDuration;
use serde_json::json;

use super::client::{Ask, Client};
use super::{Failure, Result, table};
use crate::config::DataDir;
use crate::config::file::Config;
use crate::plugin::settings::{Explained, Schema};
use crate::releases::shelf::is_path;
use crate::releases::{Releases, lifecycle};
use crate::service::plugins::{unlisted, whole};
use crate::service::types::{Plugin, Plugins, RolledBack, Why};
use crate::store::now_ms;
use crate::terms::{Capability, Presence, ReleaseState};

/// Why a release stands where it stands when nobody serves it.
const NO_HOST: &str = "no host is running";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

/// Which release, and how to ask.
#[derive(Debug, clap::Args)]
struct One {
    /// A name, with a version if there are several: NAME@=1.2.3 or NAME@sha256:DIGITS.
    renderer: String,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List renderers; with a running host, every release and its state.
    List {
        /// Old ones, too.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Check a renderer and copy it into the plugins folder; a running host picks it up at once.
    Install {
        /// A component (.wasm), or the folder of a process plugin.
        path: PathBuf,
        #[command(flatten)]
        ask: Ask,
    },
    /// Remove a renderer from the plugins folder; jobs that run on it continue.
    Remove(One),
    /// Show a renderer: its capabilities and settings.
    Show {
        /// Its name, a version of it (NAME@^1.2, NAME@=1.2.3, NAME@sha256:DIGITS), or the path
        /// of a component or of a plugin's folder.
        renderer: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Approve a release that asks for more capabilities than its predecessor.
    Approve(One),
    /// Make a canary or quarantined release serve all jobs at once.
    Promote(One),
    /// Return from the serving release of a renderer to its predecessor.
    Rollback {
        /// The renderer's name.
        renderer: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Make a release serve every job that accepts it, even if there are newer ones.
    Pin {
        #[command(flatten)]
        one: One,
        /// Undo the pin: the newest release serves again. A name without a version is enough.
        #[arg(long)]
        off: bool,
    },
    /// Take a release out of service; jobs that may move continue on another one.
    Quarantine(One),
    /// Show which jobs and leases still use a release.
    Why(One),
}

pub(super) async fn run(args: Args, data: &DataDir) -> Result {
    match args.command {
        Command::List { all, ask } => match host(&ask, data).await? {
            Some(host) => list(host.call("plugins.list", &json!({})).await?, all, ask.json),
            None => alone(data, async |releases| list(found(releases).await, all, ask.json)).await,
        },
        Command::Show { renderer, ask } => {
            let id = match is_path(&renderer) {
                true => std::path::absolute(&renderer).map_err(Failure::bad_input)?.display().to_string(),
                false => renderer,
            };
            let plugin = match host(&ask, data).await? {
                Some(host) => host.call("plugins.show", &json!({"id": id})).await?,
                None => alone(data, async |releases| read(releases, &id).await).await?,
            };
            show(&plugin, ask.json)
        }
        Command::Install { path, ask } => {
            let path = std::path::absolute(path).map_err(Failure::bad_input)?;
            let plugin = match host(&ask, data).await? {
                Some(host) => host.call("plugins.install", &json!({"path": path})).await?,
                None => alone(data, async |releases| install(releases, &path).await).await?,
            };
            told("installed", &plugin, ask.json)
        }
        Command::Remove(One { renderer, ask }) => {
            let plugin = match host(&ask, data).await? {
                Some(host) => host.call("plugins.remove", &json!({"id": renderer})).await?,
                None => alone(data, async |releases| remove(releases, &renderer)).await?,
            };
            told("removed", &plugin, ask.json)
        }
        Command::Approve(one) => change("plugins.approve", "approved", &one, data).await,
        Command::Promote(one) => change("plugins.promote", "promoted", &one, data).await,
        Command::Quarantine(one) => change("plugins.quarantine", "quarantined", &one, data).await,
        Command::Pin { one, off } => {
            let host = one.ask.at.connect(Some(data.path())).await?;
            let plugin = host.call("plugins.pin", &json!({"id": one.renderer, "off": off})).await?;
            told(if off { "let go of" } else { "pinned to" }, &plugin, one.ask.json)
        }
        Command::Rollback { renderer, ask } => {
            let host = ask.at.connect(Some(data.path())).await?;
            let done: RolledBack = host.call("plugins.rollback", &json!({"id": renderer})).await?;
            match ask.json {
                true => show!("{}", json!(done)),
                false => show!("rolled back from {} to {}", label(&done.from), label(&done.to)),
            }
            Ok(())
        }
        Command::Why(One { renderer, ask }) => {
            let host = ask.at.connect(Some(data.path())).await?;
            why(&host.call("plugins.why", &json!({"id": renderer})).await?, ask.json);
            Ok(())
        }
    }
}

/// Connects to the running host, if there is one.
async fn host(ask: &Ask, data: &DataDir) -> Result<Option<Client>> {
    Client::connect(&ask.at.path(Some(data.path()))?).await
}

/// Does it without a host.
async fn alone<T>(data: &DataDir, work: impl AsyncFnOnce(&Releases) -> Result<T>) -> Result<T> {
    let (config, _) = Config::read(None).map_err(Failure::bad_input)?;
    let releases = super::releases(data, &config)?;
    let done = work(&releases).await;
    releases.stop().await;
    done
}

async fn change(method: &str, done: &str, one: &One, data: &DataDir) -> Result {
    let host = one.ask.at.connect(Some(data.path())).await?;
    told(done, &host.call(method, &json!({"id": one.renderer})).await?, one.ask.json)
}

/// Says what was done to a release, and where it stands now.
fn told(done: &str, plugin: &Plugin, json: bool) -> Result {
    match json {
        true => say!("{}", json!(plugin)),
        false => {
            let place = plugin.source.as_ref().filter(|_| done == "installed");
            let place = place.map(|place| format!(" as {}", place.display())).unwrap_or_default();
            say!("{done} {}{place}", label(plugin));
            let mut why = plugin.why.lines();
            let state = plugin.state;
            say!("  it is {state}: {}", why.next().unwrap_or_default());
            why.for_each(|line| say!("  {line}"));
        }
    }
    Ok(())
}

fn label(plugin: &Plugin) -> String {
    let version = plugin.version.as_deref().and_then(|version| version.parse().ok());
    version.map_or_else(|| plugin.id.clone(), |version| lifecycle::label(&plugin.id, &version, plugin.build))
}

fn why(why: &Why, json: bool) {
    if json {
        return show!("{:#}", json!(why));
    }
    show!("{}  {}", label(&why.plugin), why.plugin.state);
    show!("  {}", why.plugin.why.replace('\n', "\n  "));
    show!("  its code is {}in memory", if why.is_loaded { "" } else { "not " });
    let age = |seconds: f64| HumanDuration(Duration::from_secs_f64(seconds)).to_string();
    let jobs: Vec<Vec<String>> =
        why.jobs.iter().map(|job| vec![job.id.to_string(), age(job.age_seconds)]).collect();
    let leases: Vec<Vec<String>> =
        why.leases.iter().map(|lease| vec![lease.id.to_string(), age(lease.age_seconds)]).collect();
    match jobs.is_empty() && leases.is_empty() {
        true => show!("  nothing holds it"),
        false => table::print(&["JOB", "SUBMITTED AGO"], &jobs),
    }
    if !leases.is_empty() {
        table::print(&["LEASE OF JOB", "HELD FOR"], &leases);
    }
}

/// Looks at the folder of plugins without a host.
async fn found(releases: &Releases) -> Plugins {
    let listed = tokio::task::block_in_place(|| releases.shelf.list());
    let mut plugins = Vec::new();
    for (source, release) in listed {
        let loaded = match release {
            Ok(release) => releases.load(release).await,
            Err(error) => Err(error),
        };
        plugins.push(match loaded {
            Ok(loaded) => {
                let plugin = unlisted(&loaded.release, ReleaseState::Active, NO_HOST);
                Plugin { summary: Some(loaded.description.summary.clone()), ..plugin }
            }
            Err(error) => {
                let stem = Path::new(&source).file_stem().unwrap_or_default().to_string_lossy();
                let plugin = Plugin::new(&stem, ReleaseState::Rejected, &error.to_string(), now_ms());
                Plugin { source: Some(PathBuf::from(&source)), ..plugin }
            }
        });
    }
    Plugins { plugins }
}

async fn read(releases: &Releases, id: &str) -> Result<Plugin> {
    let found = tokio::task::block_in_place(|| releases.shelf.find(id)).map_err(Failure::bad_input)?;
    let loaded = releases.load(found).await.map_err(Failure::bad_input)?;
    Ok(whole(unlisted(&loaded.release, ReleaseState::Active, NO_HOST), &loaded))
}

async fn install(releases: &Releases, path: &Path) -> Result<Plugin> {
    let (loaded, place) = releases.install(path).await.map_err(Failure::bad_input)?;
    let installed = unlisted(&loaded.release, ReleaseState::Active, "the next host has it");
    Ok(Plugin { source: Some(place), ..installed })
}

fn remove(releases: &Releases, renderer: &str) -> Result<Plugin> {
    let remove = || releases.shelf.remove(renderer);
    let removed = tokio::task::block_in_place(remove).map_err(Failure::bad_input)?;
    Ok(unlisted(&removed[0], ReleaseState::Retired, "the next host does not have it"))
}

fn list(found: Plugins, all: bool, json: bool) -> Result {
    let is_wanted = |plugin: &&Plugin| {
        let is_old = plugin.state == ReleaseState::Retired && plugin.presence != Presence::Present;
        all || !is_old
    };
    let plugins: Vec<&Plugin> = found.plugins.iter().filter(is_wanted).collect();
    if json {
        plugins.iter().for_each(|plugin| show!("{}", json!(plugin)));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = plugins.iter().map(|plugin| row(plugin)).collect();
    let header =
        ["RENDERER", "VERSION", "STATE", "SHARE", "TASKS", "FAILED", "P50", "P99", "MEMORY", "SINCE", "WHY"];
    table::print(&header, &rows);
    Ok(())
}

fn row(plugin: &Plugin) -> Vec<String> {
    let seconds = |time: Option<f32>| match time {
        Some(time) if time < 1.0 => format!("{:.0} ms", time * 1000.0),
        Some(time) => format!("{time:.1} s"),
        None => String::new(),
    };
    let since = Duration::from_millis(now_ms().saturating_sub(plugin.since_ms));
    let version = plugin.version.clone().unwrap_or_default();
    let build = if plugin.build == 0 { String::new() } else { format!("+dev.{}", plugin.build) };
    let pinned = if plugin.chosen { " (pinned)" } else { "" };
    let first = plugin.summary.as_deref().or(plugin.why.lines().next()).unwrap_or_default();
    let reason = match plugin.state {
        ReleaseState::Rejected => plugin.why.lines().next().unwrap_or_default(),
        _ => first,
    };
    vec![
        plugin.id.clone(),
        format!("{version}{build}"),
        format!("{}{pinned}", plugin.state),
        if plugin.share > 0.0 { format!("{:.0} %", plugin.share * 100.0) } else { String::new() },
        plugin.tasks.to_string(),
        plugin.failures.to_string(),
        seconds(plugin.p50),
        seconds(plugin.p99),
        plugin.memory.map(|bytes| format!("{} MiB", bytes >> 20)).unwrap_or_default(),
        HumanDuration(since).to_string(),
        reason.to_owned(),
    ]
}

fn show(plugin: &Plugin, json: bool) -> Result {
    if json {
        show!("{:#}", json!(plugin));
        return Ok(());
    }
    show!("{}", label(plugin));
    show!("  {}", plugin.summary.as_deref().unwrap_or_default());
    show!("  sha256:{}", plugin.digest.as_deref().unwrap_or_default());
    let list = |all: &[Capability]| {
        let names: Vec<String> = all.iter().map(ToString::to_string).collect();
        if names.is_empty() { "nothing but 'host'".to_owned() } else { names.join(", ") }
    };
    let kind = plugin.kind.as_deref().unwrap_or_default();
    let api = plugin.api.as_deref().unwrap_or_default();
    show!("  a {kind} for API {api} that uses {}", list(&plugin.capabilities));
    if !plugin.denied.is_empty() {
        show!("  the operator does not grant it {}", list(&plugin.denied));
    }
    show!("  {}: {}", plugin.state, plugin.why.replace('\n', "\n  "));
    let settings = plugin.settings.clone().unwrap_or_default();
    let schema = Schema::new(settings).map_err(Failure::failed)?;
    let row = |name: &str| {
        let Explained { takes, by_default, about } = schema.explain(name);
        vec![name.to_owned(), takes, by_default.unwrap_or_else(|| "-".to_owned()), about]
    };
    let rows: Vec<Vec<String>> = schema.names().map(row).collect();
    match rows.is_empty() {
        true => show!("\nit takes no settings"),
        false => {
            show!("\nsettings, given as --set NAME=VALUE");
            table::print(&["NAME", "TAKES", "DEFAULT", "MEANING"], &rows);
        }
    }
    Ok(())
}
