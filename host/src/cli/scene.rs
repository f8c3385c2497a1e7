//! `hotshoe scene`: scenes whose Python may run.

use std::path::PathBuf;

use serde_json::json;

use super::project::whole;
use super::{Failure, Result, table};
use crate::blender::content::sha256;
use crate::blender::header;
use crate::config::DataDir;
use crate::config::allowed::{Allowed, Project, TrustedScene};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Let the Python of a scene and its linked libraries run while it is rendered: drivers and
    /// scripts. The kernel still confines it.
    Trust {
        /// The .blend file, as it is now: once it changes, it is trusted no more.
        #[arg(required_unless_present = "project")]
        scene: Option<PathBuf>,
        /// All scenes in this folder and below it, whatever becomes of them; they may read all of
        /// it, too.
        #[arg(long, value_name = "DIR", conflicts_with = "scene")]
        project: Option<PathBuf>,
    },
    /// List trusted scenes and folders.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Stop trusting a scene, or the scenes of a folder.
    Revoke {
        /// The .blend file, or the folder.
        path: PathBuf,
    },
}

pub(super) fn run(args: Args, data: &DataDir) -> Result {
    match args.command {
        Command::Trust { scene, project } => match (scene, project) {
            (Some(scene), _) => trust(data, scene),
            (None, Some(folder)) => trust_project(data, folder),
            (None, None) => Err(Failure::bad_input("name a scene, or a folder with --project")),
        },
        Command::List { json } => list(data, json),
        Command::Revoke { path } => revoke(data, path),
    }
}

fn trust(data: &DataDir, scene: PathBuf) -> Result {
    let failed = |error: &dyn std::fmt::Display| Failure::bad_input(format!("{}: {error}", scene.display()));
    header::version(&scene).map_err(|error| failed(&error))?;
    let path = scene.canonicalize().map_err(|error| failed(&error))?;
    let sha256 = sha256(&path).map_err(|error| failed(&error))?;
    say!("the Python in {} runs as long as the file is as it is now", path.display());
    let add = |allowed: &mut Allowed| {
        allowed.scene.retain(|known| known.path != path && known.sha256 != sha256);
        allowed.scene.push(TrustedScene { path, sha256 });
    };
    Allowed::change(data, add).map_err(Failure::failed)
}

fn trust_project(data: &DataDir, folder: PathBuf) -> Result {
    super::project::allow(data, &folder)?;
    let folder = whole(&folder)?;
    say!("the Python in all scenes below {} runs", folder.display());
    let add = |allowed: &mut Allowed| {
        let own = allowed.project.iter_mut().filter(|project| project.folder == folder);
        own.for_each(|project| project.trusted = true);
    };
    Allowed::change(data, add).map_err(Failure::failed)
}

fn revoke(data: &DataDir, path: PathBuf) -> Result {
    // It may be gone.
    let path = path.canonicalize().unwrap_or(path);
    let sum = sha256(&path).ok();
    let remove = |allowed: &mut Allowed| {
        let count = allowed.scene.len();
        allowed.scene.retain(|known| known.path != path && Some(&known.sha256) != sum.as_ref());
        let is_trusted = |project: &&mut Project| project.folder == path && project.trusted;
        let projects: Vec<_> = allowed.project.iter_mut().filter(is_trusted).collect();
        let was_trusted = allowed.scene.len() < count || !projects.is_empty();
        projects.into_iter().for_each(|project| project.trusted = false);
        was_trusted
    };
    match Allowed::change(data, remove).map_err(Failure::failed)? {
        true => Ok(()),
        false => Err(Failure::bad_input(format!(
            "{} was not trusted\n`hotshoe scene list` lists what is",
            path.display()
        ))),
    }
}

fn list(data: &DataDir, json: bool) -> Result {
    let allowed = Allowed::read(data).map_err(Failure::failed)?;
    let projects = allowed.project.iter().filter(|project| project.trusted);
    if json {
        allowed.scene.iter().for_each(|scene| show!("{}", json!(scene)));
        projects.for_each(|project| show!("{}", json!(project)));
        return Ok(());
    }
    let row = |scene: &TrustedScene| {
        let now = sha256(&scene.path);
        let state = match now {
            Ok(now) if now == scene.sha256 => "trusted",
            Ok(_) => "changed since: not trusted",
            Err(_) => "not there",
        };
        vec![scene.path.display().to_string(), state.to_owned()]
    };
    let mut rows: Vec<Vec<String>> = allowed.scene.iter().map(row).collect();
    rows.extend(projects.map(|project| vec![format!("{}/", project.folder.display()), "trusted".to_owned()]));
    table::print(&["SCENE", "STATE"], &rows);
    Ok(())
}
