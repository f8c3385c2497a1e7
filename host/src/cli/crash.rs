//! `hotshoe crash`: what is known of plugins and Blenders that came to a bad end.

use std::time::Duration;

use indicatif::HumanDuration;
use serde_json::json;

use super::{Failure, Result, table};
use crate::config::DataDir;
use crate::config::file::Config;
use crate::reports::{Report, Reports};
use crate::store::now_ms;

/// Stands for the latest report.
const LAST: &str = "last";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List crash reports, newest first.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show a crash report: what happened, where, and the last calls before it.
    Show {
        /// Its id or the beginning of it, or `last`.
        id: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(args: Args, data: &DataDir) -> Result {
    let all = Reports::of(data, &Config::default()).list();
    match args.command {
        Command::List { json: true } => show!("{}", json!({"crashes": all})),
        Command::List { json: false } if all.is_empty() => show!("nothing has crashed"),
        Command::List { json: false } => list(&all),
        Command::Show { id, json } => {
            let report = find(&all, &id)?;
            match json {
                true => show!("{}", json!(report)),
                false => show(report),
            }
        }
    }
    Ok(())
}

fn find<'a>(all: &'a [Report], id: &str) -> Result<&'a Report> {
    let hint = "`hotshoe crash list` lists those that there are";
    let fits = |report: &&Report| id == LAST || report.id.to_string().starts_with(id);
    let mut found = all.iter().filter(fits);
    match (found.next(), found.next()) {
        (Some(report), None) => Ok(report),
        (Some(report), Some(_)) if id == LAST => Ok(report),
        (Some(_), Some(_)) => Err(Failure::bad_input(format!("several reports begin with '{id}'\n{hint}"))),
        (None, _) => Err(Failure::bad_input(format!("there is no report '{id}'\n{hint}"))),
    }
}

fn ago(report: &Report) -> String {
    let age = Duration::from_millis(now_ms().saturating_sub(report.at_ms));
    format!("{} ago", HumanDuration(age))
}

fn list(all: &[Report]) {
    let row = |report: &Report| {
        let what = report.what.lines().next().unwrap_or_default().to_owned();
        let task = report.task.clone().unwrap_or_else(|| "-".to_owned());
        vec![report.id.to_string(), ago(report), report.kind.clone(), report.release.clone(), task, what]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    table::print(&["ID", "WHEN", "KIND", "RELEASE", "TASK", "WHAT"], &rows);
}

fn show(report: &Report) {
    show!("{}\n", report.what);
    let attempt = report.attempt.map(|attempt| format!(", attempt {attempt}")).unwrap_or_default();
    let facts = [
        ("when", Some(ago(report))),
        ("kind", Some(report.kind.clone())),
        ("release", Some(report.release.clone())),
        ("digest", Some(report.digest.clone())),
        ("job", report.job.map(|job| job.to_string())),
        ("task", report.task.as_ref().map(|task| format!("{task}{attempt}"))),
        ("scene", report.scene.as_ref().map(|scene| scene.display().to_string())),
        ("settings", Some(report.settings.to_string()).filter(|_| !report.settings.is_null())),
        ("host", Some(report.host.clone())),
    ];
    for (name, fact) in facts {
        let _ = fact.map(|fact| show!("{name:<9} {fact}"));
    }
    if !report.calls.is_empty() {
        show!("\nthe last calls of the host, in seconds since the attempt began:");
    }
    for (at, call) in &report.calls {
        show!("{at:>10.3}  {call}");
    }
    let _ = report.blender.as_ref().map(|text| show!("\n{text}"));
}
