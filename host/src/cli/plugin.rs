//! `hotshoe plugin`: look at the renderers, and install them.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Failure, Result, table};
use crate::config::DataDir;
use crate::config::file::Config;
use crate::plugin::Plugin;
use crate::releases::{Release, Releases};
use crate::terms::Capability;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the renderers.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Check a renderer and put it into the folder of plugins. A running host has it at once.
    Install {
        /// A component, or the folder of a plugin that is a process.
        path: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take a renderer out of the folder of plugins. Jobs that run on it go on.
    Remove {
        /// Its name, with a version if there are several: NAME@=1.2.3.
        renderer: String,
    },
    /// Show a renderer, what it uses and its settings.
    Show {
        /// Its name, a version of it (NAME@^1.2, NAME@=1.2.3, NAME@sha256:DIGITS), or the path
        /// of a component or of a plugin's folder.
        renderer: String,
        /// Print JSON, with the schema of its settings.
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(args: Args, data: &DataDir) -> Result {
    let (config, _) = Config::read(None).map_err(Failure::bad_input)?;
    let releases = super::releases(data, &config)?;
    let done = match args.command {
        Command::List { json } => list(&releases, json).await,
        Command::Show { renderer, json } => show(&releases, &renderer, json).await,
        Command::Install { path, json } => install(&releases, &path, json).await,
        Command::Remove { renderer } => remove(&releases, &renderer),
    };
    releases.stop().await;
    done
}

async fn install(releases: &Releases, path: &Path, json: bool) -> Result {
    let (loaded, place) = releases.install(path).await.map_err(Failure::bad_input)?;
    let Release { name, version, digest, .. } = &loaded.release;
    match json {
        true => say!("{}", json!({"id": name, "version": version, "digest": digest, "path": place})),
        false => say!("installed {name} {version} as {}", place.display()),
    }
    Ok(())
}

fn remove(releases: &Releases, renderer: &str) -> Result {
    let Release { name, version, place, .. } = releases.remove(renderer).map_err(Failure::bad_input)?;
    say!("removed {name} {version}, {}", place.unwrap_or_default().display());
    Ok(())
}

async fn list(releases: &Releases, json: bool) -> Result {
    let mut rows = Vec::new();
    for (source, release) in releases.list() {
        let loaded = match release {
            Ok(release) => releases.load(release).await,
            Err(error) => Err(error),
        };
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                eprintln!("{source}: {error}");
                continue;
            }
        };
        let release = &loaded.release;
        if json {
            let (name, version, digest) = (&release.name, &release.version, &release.digest);
            let summary = &loaded.description.summary;
            say!("{}", json!({"id": name, "version": version, "digest": digest, "summary": summary}));
        }
        rows.push(vec![
            release.name.clone(),
            release.version.to_string(),
            release.digest[..12].to_owned(),
            loaded.description.summary.clone(),
        ]);
    }
    if !json {
        table::print(&["RENDERER", "VERSION", "DIGEST", "SUMMARY"], &rows);
    }
    Ok(())
}

async fn show(releases: &Releases, renderer: &str, json: bool) -> Result {
    let release = releases.find(renderer).map_err(Failure::bad_input)?;
    let loaded = releases.load(release).await.map_err(Failure::bad_input)?;
    let (release, schema, grants) = (&loaded.release, &loaded.schema, &loaded.grants);
    let kind = match loaded.plugin {
        Plugin::Component(_) => "component",
        Plugin::Process(_) => "process",
    };
    if json {
        let shown = json!({
            "id": release.name,
            "version": release.version,
            "digest": release.digest,
            "kind": kind,
            "capabilities": grants.wanted,
            "denied": grants.denied().collect::<Vec<_>>(),
            "summary": loaded.description.summary,
            "settings": schema.value(),
        });
        say!("{shown:#}");
        return Ok(());
    }
    say!("{} {}", release.name, release.version);
    say!("  {}", loaded.description.summary);
    say!("  sha256:{}", release.digest);
    let list = |all: &mut dyn Iterator<Item = Capability>| {
        let names: Vec<String> = all.map(|capability| capability.to_string()).collect();
        if names.is_empty() { "nothing but 'host'".to_owned() } else { names.join(", ") }
    };
    say!("  a {kind} that uses {}", list(&mut grants.wanted.iter().copied()));
    if grants.denied().next().is_some() {
        say!("  the operator does not grant it {}", list(&mut grants.denied()));
    }
    say!("\nsettings, given as --set NAME=VALUE");
    let width = schema.names().map(str::len).max().unwrap_or_default();
    schema.names().for_each(|name| say!("  {name:<width$}  {}", schema.help(name)));
    Ok(())
}
