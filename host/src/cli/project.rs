//! `hotshoe project`: folders that the scenes in them may read.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Failure, Result, table};
use crate::config::DataDir;
use crate::config::allowed::{Allowed, Project, is_wide};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Let every scene below a folder read all of that folder.
    Allow {
        /// The folder: the root of a project, with its scenes, textures and libraries.
        folder: PathBuf,
    },
    /// List allowed folders.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Revoke a folder; the scripts of its scenes no longer run, either.
    Forget {
        /// The folder.
        folder: PathBuf,
    },
}

pub(super) fn run(args: Args, data: &DataDir) -> Result {
    match args.command {
        Command::Allow { folder } => {
            allow(data, &folder)?;
            say!("scenes below {} may read all of it", whole(&folder)?.display());
            Ok(())
        }
        Command::List { json } => list(data, json),
        Command::Forget { folder } => {
            // It may be gone.
            let folder = folder.canonicalize().unwrap_or(folder);
            let forget = |allowed: &mut Allowed| {
                let count = allowed.project.len();
                allowed.project.retain(|project| project.folder != folder);
                allowed.project.len() < count
            };
            match Allowed::change(data, forget).map_err(Failure::failed)? {
                true => Ok(()),
                false => Err(Failure::bad_input(format!(
                    "{} was not allowed\n`hotshoe project list` lists what is",
                    folder.display()
                ))),
            }
        }
    }
}

/// Lets the scenes of a folder read all of it.
pub(super) fn allow(data: &DataDir, folder: &Path) -> Result {
    let folder = whole(folder)?;
    if is_wide(&folder) {
        return Err(Failure::bad_input(format!(
            "{} holds more than a project: keys and mail, say\nallow the folder of the project",
            folder.display()
        )));
    }
    let add = |allowed: &mut Allowed| {
        if !allowed.project.iter().any(|project| project.folder == folder) {
            allowed.project.push(Project { folder, trusted: false });
        }
    };
    Allowed::change(data, add).map_err(Failure::failed)
}

/// Returns a folder without links in its path.
pub(super) fn whole(folder: &Path) -> Result<PathBuf> {
    let failed = |error| Failure::bad_input(format!("{}: {error}", folder.display()));
    match folder.canonicalize().map_err(failed)? {
        folder if folder.is_dir() => Ok(folder),
        file => Err(Failure::bad_input(format!("{} is no folder", file.display()))),
    }
}

fn list(data: &DataDir, json: bool) -> Result {
    let allowed = Allowed::read(data).map_err(Failure::failed)?;
    if json {
        allowed.project.iter().for_each(|project| show!("{}", json!(project)));
        return Ok(());
    }
    let scripts = |project: &Project| if project.trusted { "run" } else { "are kept from running" };
    let rows: Vec<Vec<String>> = allowed
        .project
        .iter()
        .map(|project| vec![project.folder.display().to_string(), scripts(project).to_owned()])
        .collect();
    table::print(&["PROJECT", "ITS SCRIPTS"], &rows);
    Ok(())
}
