//! `hotshoe doctor`: what was found, what is missing, how to get it.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Failure, Result, blender};
use crate::blender::libraries::Missing;
use crate::blender::{Blender, BlenderError, find, install};
use crate::config::file::Config;
use crate::config::{DataDir, RunDir};
use crate::plugin::component::Components;
use crate::process;
use crate::process::sandbox::OPEN_FILES;
use crate::releases::Releases;
use crate::store::rescue::{self, Saved};
use crate::store::{Store, StoreError};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Check this Blender first, as `hotshoe render --blender` would use it.
    #[arg(long, value_name = "PATH")]
    blender: Option<PathBuf>,
    /// Copy whatever is still readable in a damaged database to a new FILE.
    #[arg(long, value_name = "FILE")]
    rescue: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    id: &'static str,
    state: State,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Good,
    Missing,
    Broken,
}

pub(super) async fn run(args: Args, data: &DataDir) -> Result {
    if let Some(file) = &args.rescue {
        return save(data, file);
    }
    let mut findings = vec![data_directory(data), renderers(data).await, pythons().await];
    findings.push(sandbox().await);
    findings.extend(descriptors());
    findings.extend(database(data));
    findings.extend(blenders(args.blender.as_deref(), data).await);
    for finding in &findings {
        if args.json {
            say!("{}", serde_json::to_string(finding).expect("findings are plain data"));
        } else {
            print(finding);
        }
    }
    let broken = findings.iter().filter(|finding| finding.state == State::Broken).count();
    match broken {
        0 => Ok(()),
        _ => Err(Failure::failed("this machine cannot render yet; what to do stands above")),
    }
}

fn print(finding: &Finding) {
    let (mark, colour) = match finding.state {
        State::Good => ("ok", "32"),
        State::Missing => ("--", "33"),
        State::Broken => ("!!", "31"),
    };
    let mark = match std::io::stdout().is_terminal() {
        true => format!("\x1b[{colour}m{mark}\x1b[0m"),
        false => mark.to_owned(),
    };
    let _ = write!(std::io::stdout(), "{mark}  ");
    say!("{:<10} {}", finding.id, finding.found);
    finding.hint.iter().flat_map(|hint| hint.lines()).for_each(|line| say!("    {:<10} {line}", ""));
}

fn data_directory(data: &DataDir) -> Finding {
    let found = data.path().display().to_string();
    let (state, hint) = match RunDir::create(data) {
        Ok(_) => (State::Good, None),
        Err(error) => {
            (State::Broken, Some(format!("cannot be written: {error}; choose another with --data DIR")))
        }
    };
    Finding { id: "data", state, found, hint }
}

/// Looks at the database of the daemon, if there is one.
fn database(data: &DataDir) -> Option<Finding> {
    let path = data.database();
    let (state, found, hint) = match Store::look(&path)? {
        Ok(()) => (State::Good, path.display().to_string(), None),
        Err(error) => {
            let text = error.to_string();
            let found = text.lines().next().unwrap_or_default().to_owned();
            let hint = matches!(error, StoreError::Damaged { .. }).then(|| {
                let readable =
                    rescue::rescue(&path, None).map_or_else(|error| error.to_string(), |all| told(&all));
                format!(
                    "can still be read: {readable}\n\
                     with no host running: `hotshoe doctor --rescue saved.db`, then\n\
                     remove hotshoe.db, hotshoe.db-wal and hotshoe.db-shm and put saved.db in the place of the first"
                )
            });
            (State::Broken, found, hint)
        }
    };
    Some(Finding { id: "database", state, found, hint })
}

fn told(saved: &[Saved]) -> String {
    let named = saved.iter().filter(|saved| ["jobs", "tasks", "outputs", "events"].contains(&saved.table));
    let parts = named.map(|saved| {
        let cut = if saved.is_cut { " (not all)" } else { "" };
        format!("{} {}{cut}", saved.rows, saved.table)
    });
    parts.collect::<Vec<_>>().join(", ")
}

fn save(data: &DataDir, file: &Path) -> Result {
    if file.exists() {
        return Err(Failure::bad_input(format!("{} is there already; name a new file", file.display())));
    }
    let _claim = match data.claim().map_err(Failure::failed)? {
        Ok(claim) => claim,
        Err(holder) => {
            return Err(Failure::bad_input(format!(
                "a host, process {holder}, is running\nstop it first: hotshoe host shutdown"
            )));
        }
    };
    let saved = rescue::rescue(&data.database(), Some(file)).map_err(Failure::failed)?;
    say!("saved in {}: {}", file.display(), told(&saved));
    Ok(())
}

/// Says how far this kernel can confine Blender and plugins.
async fn sandbox() -> Finding {
    let program = std::env::current_exe().map_err(|error| error.to_string());
    let lacking = match program {
        Ok(program) => process::lacks(&program).await,
        Err(error) => Some(error),
    };
    let grouped = std::fs::read_to_string("/proc/sys/kernel/sched_autogroup_enabled");
    let shares = match grouped.is_ok_and(|on| on.trim() == "1") {
        true => "each plugin's process has its share of the processors",
        false => "the kernel gives processors by thread, not by plugin",
    };
    match lacking {
        None => {
            let found = format!("files, network and processes of Blender and plugins are bounded; {shares}");
            Finding { id: "sandbox", state: State::Good, found, hint: None }
        }
        Some(what) => {
            let hint = "Blender is confined less than it could be, and plugins that are processes do not run\n\
                        Linux 5.13 with landlock, seccomp and user namespaces for this user can do it";
            Finding { id: "sandbox", state: State::Missing, found: what, hint: Some(hint.to_owned()) }
        }
    }
}

/// Says if this user may have few files and sockets open.
fn descriptors() -> Option<Finding> {
    let most = super::raise_file_limit();
    let hint = format!(
        "Blender and plugins could use {OPEN_FILES}; a scene with many textures may fail\n\
         raise the hard limit: `ulimit -Hn`, LimitNOFILE= of systemd, --ulimit nofile= of a container"
    );
    let found = format!("{most} open files and sockets at most");
    let finding = Finding { id: "limits", state: State::Missing, found, hint: Some(hint) };
    (most < OPEN_FILES).then_some(finding)
}

async fn renderers(data: &DataDir) -> Finding {
    let finding = |state, found, hint| Finding { id: "renderers", state, found, hint };
    let config = Config::read(None).map_err(|error| error.to_string());
    let components = Components::new().map_err(|error| error.to_string());
    let releases = match config.and_then(|(config, _)| Ok(Releases::new(components?, data.clone(), &config)))
    {
        Ok(releases) => releases,
        Err(error) => return finding(State::Broken, "none load".to_owned(), Some(error)),
    };
    let (mut names, mut broken, mut state) = (Vec::new(), Vec::new(), State::Good);
    for (_, release) in tokio::task::block_in_place(|| releases.shelf.list()) {
        let (name, is_shipped) = match &release {
            Ok(release) => (release.to_string(), release.place.is_none()),
            Err(_) => (String::new(), false),
        };
        let loaded = async { releases.load(release?).await };
        match loaded.await {
            Ok(_) => names.push(name),
            Err(error) => {
                // What somebody installed and does not work keeps nothing else from working.
                state = if is_shipped || state == State::Broken { State::Broken } else { State::Missing };
                broken.push(error.to_string());
            }
        }
    }
    releases.stop().await;
    finding(state, names.join(", "), (!broken.is_empty()).then(|| broken.join("\n")))
}

async fn pythons() -> Finding {
    let pythons = install::pythons().await;
    let fits = pythons.iter().any(|python| matches!(python.version.as_str(), "3.11" | "3.13"));
    let found: Vec<String> =
        pythons.iter().map(|python| format!("{} ({})", python.version, python.path.display())).collect();
    let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
    let hint = "only needed for `hotshoe blender install`, which takes Python 3.11 or 3.13";
    let (state, hint) = if fits { (State::Good, None) } else { (State::Missing, Some(hint.to_owned())) };
    Finding { id: "python", state, found, hint }
}

async fn blenders(given: Option<&Path>, data: &DataDir) -> Vec<Finding> {
    let found = match find::all(given, data) {
        Ok(found) => found,
        Err(error) => {
            let (found, hint) = ("cannot be found".to_owned(), Some(error.to_string()));
            return vec![Finding { id: "blender", state: State::Broken, found, hint }];
        }
    };
    if found.is_empty() {
        let hint = "`hotshoe blender install` installs one; `hotshoe render` does so by itself".to_owned();
        return vec![Finding {
            id: "blender",
            state: State::Broken,
            found: "none".to_owned(),
            hint: Some(hint),
        }];
    }
    let mut findings = Vec::new();
    for (index, one) in found.iter().enumerate() {
        let path = one.blender.path().display();
        let finding = match blender::version(&one.blender, data).await {
            Ok(version) => {
                let used = if index == 0 { ", the one that is used" } else { "" };
                let found = format!("{version} at {path} ({}{used})", one.source);
                Finding { id: "blender", state: State::Good, found, hint: packages(&one.blender).await }
            }
            Err(error) => {
                let hint = packages(&one.blender).await.unwrap_or_else(|| reason(&error));
                let found = format!("{path} ({}) does not start", one.source);
                // Only the first is used.
                let state = if index == 0 { State::Broken } else { State::Missing };
                Finding { id: "blender", state, found, hint: Some(hint) }
            }
        };
        findings.push(finding);
    }
    findings
}

/// Says why a Blender does not start, to somebody who asked the doctor already.
fn reason(error: &BlenderError) -> String {
    match error {
        BlenderError::Start { status, log, .. } => format!("{status}{log}"),
        other => other.to_string(),
    }
}

async fn packages(blender: &Blender) -> Option<String> {
    let Blender::Module(python) = blender else { return None };
    let missing = Missing::find(python).await.ok()?;
    (!missing.is_empty()).then(|| format!("libraries of the system are missing\n{missing}"))
}
