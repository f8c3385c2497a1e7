//! `hotshoe.lock`: which release of each renderer a scene is rendered with.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Failure, Result};
use crate::releases::Requirement;
use crate::releases::shelf::is_path;
use crate::service::types::{Job, Submission};

/// The name of the file, beside the scene.
const FILE: &str = "hotshoe.lock";
const HEAD: &str = "# Written by Hotshoe, for renders that can be repeated: which release of each renderer\n\
                    # the scenes beside this file are rendered with. --no-lock ignores it.\n\n";

/// What to do with the lockfile.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(super) struct Locking {
    /// Record the release of the renderer in hotshoe.lock beside the scene; later renders use that
    /// release while the file exists.
    #[arg(long)]
    lock: bool,
    /// Ignore an existing hotshoe.lock.
    #[arg(long, conflicts_with = "lock")]
    no_lock: bool,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Lock {
    #[serde(default)]
    renderer: BTreeMap<String, Locked>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Locked {
    version: semver::Version,
    sha256: String,
}

impl Locking {
    /// Lets a submission ask for the release that is locked.
    pub(super) fn apply(self, submission: &mut Submission) -> Result {
        let file = place(&submission.scene);
        let is_free = !is_path(&submission.renderer);
        if self.lock && !is_free {
            let what = "a renderer that is named by its path cannot be locked\ninstall it, and give its name";
            return Err(Failure::bad_input(what));
        }
        if self.no_lock || !is_free || !file.exists() {
            return Ok(());
        }
        let wanted: Requirement = submission.renderer.parse().map_err(Failure::bad_input)?;
        let Some(locked) = read(&file)?.renderer.remove(&wanted.name) else { return Ok(()) };
        let Locked { version, sha256 } = locked;
        if !wanted.fits(&wanted.name, &version, &sha256) {
            return Err(Failure::bad_input(format!(
                "{} holds {} {version}, which {wanted} does not accept\n\
                 take its entry out of the file, or ignore the file with --no-lock",
                file.display(),
                wanted.name
            )));
        }
        tell!("{} {version}, as {} says (--no-lock for the newest)", wanted.name, file.display());
        submission.renderer = format!("{}@sha256:{sha256}", wanted.name);
        Ok(())
    }

    /// Writes down which release a job was given.
    pub(super) fn note(self, job: &Job) -> Result {
        if !self.lock {
            return Ok(());
        }
        let file = place(&job.scene);
        let mut lock = if file.exists() { read(&file)? } else { Lock::default() };
        let failed = |error: &dyn std::fmt::Display| {
            Failure::failed(format!("cannot write {}: {error}", file.display()))
        };
        let version = job.release.version.parse().map_err(|error| failed(&error))?;
        let locked = Locked { version, sha256: job.release.digest.clone() };
        lock.renderer.insert(job.release.name.clone(), locked);
        let text = toml::to_string(&lock).map_err(|error| failed(&error))?;
        let write = || -> std::io::Result<()> {
            let mut aside = tempfile::NamedTempFile::new_in(file.parent().unwrap_or(Path::new(".")))?;
            aside.write_all(format!("{HEAD}{text}").as_bytes())?;
            aside.persist(&file)?;
            Ok(())
        };
        write().map_err(|error| failed(&error))?;
        tell!("{} {} is written down in {}", job.release.name, job.release.version, file.display());
        Ok(())
    }
}

fn place(scene: &Path) -> PathBuf {
    scene.with_file_name(FILE)
}

fn read(file: &Path) -> Result<Lock> {
    let broken = |error: &dyn std::fmt::Display| {
        let hint = "mend it, or ignore it with --no-lock";
        Failure::bad_input(format!("cannot read {}: {error}\n{hint}", file.display()))
    };
    let text = fs::read_to_string(file).map_err(|error| broken(&error))?;
    toml::from_str(&text).map_err(|error| broken(&error))
}
