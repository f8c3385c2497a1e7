//! Where a host keeps its things.
//!
//! One data directory holds everything durable; a run folder in it holds what
//! lives as long as one host process. Knows nothing of what is kept there.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;

/// The data directory, private to its user.
#[derive(Debug, Clone)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// Takes `given`, or the user's data folder for Hotshoe.
    pub fn open(given: Option<PathBuf>) -> io::Result<Self> {
        let path = match given {
            Some(path) => path,
            None => {
                dirs::data_dir().ok_or_else(|| io::Error::other("this user has no home"))?.join("hotshoe")
            }
        };
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        create_private(&path).map_err(named)?;
        let path = fs::canonicalize(&path).map_err(named)?;
        let info = fs::metadata(&path)?;
        if path.to_str().is_none() {
            return Err(io::Error::other(format!("{} is not UTF-8", path.display())));
        }
        // Compiled code is loaded from here: whoever can write it can run as this user.
        if info.uid() != Uid::effective().as_raw() || info.mode() & 0o022 != 0 {
            let path = path.display();
            return Err(io::Error::other(format!(
                "{path} is not this user's alone to write (chmod go-w {path})"
            )));
        }
        Ok(Self(path))
    }

    /// Returns the folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the folder of one release: its code in compiled form.
    pub fn release(&self, digest: &str) -> PathBuf {
        self.0.join("releases").join(digest)
    }

    /// Returns the folder of the Blenders that Hotshoe installed.
    pub fn blenders(&self) -> PathBuf {
        self.0.join("blender")
    }
}

/// A folder of one host process, gone with it.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl RunDir {
    /// Makes the folder, and removes those that killed hosts left behind.
    pub fn create(data: &DataDir) -> io::Result<Self> {
        let runs = data.path().join("run");
        create_private(&runs)?;
        // A folder without its lock yet must not look abandoned to another host.
        let gate = lock(&runs.join("gate"), FlockArg::LockExclusive)?;
        sweep(&runs)?;
        let path = runs.join(uuid::Uuid::now_v7().simple().to_string());
        create_private(&path)?;
        let run = Self { _lock: lock(&path.join("lock"), FlockArg::LockExclusiveNonblock)?, path };
        drop(gate);
        Ok(run)
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::debug!(%error, "left the run folder behind; the next host removes it");
        }
    }
}

fn sweep(runs: &Path) -> io::Result<()> {
    for entry in fs::read_dir(runs)? {
        let path = entry?.path();
        if path.is_dir()
            && let Ok(_lock) = lock(&path.join("lock"), FlockArg::LockExclusiveNonblock)
        {
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

fn lock(path: &Path, how: FlockArg) -> io::Result<Flock<File>> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    Flock::lock(file, how).map_err(|(_, errno)| errno.into())
}

/// Creates a folder, and those above it, that only its user may enter.
pub fn create_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_that_others_can_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().unwrap();
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = DataDir::open(Some(temp.path().to_owned())).unwrap_err();
        assert!(error.to_string().contains("chmod go-w"), "{error}");
    }

    #[test]
    fn a_run_folder_goes_with_its_host_and_a_killed_hosts_folder_with_the_next() {
        let temp = tempfile::tempdir().unwrap();
        let data = DataDir::open(Some(temp.path().join("data"))).unwrap();
        let first = RunDir::create(&data).unwrap();
        let abandoned = data.path().join("run/killed");
        fs::create_dir(&abandoned).unwrap();
        let second = RunDir::create(&data).unwrap();
        assert!(first.path().exists(), "a living host keeps its folder");
        assert!(!abandoned.exists());
        let path = second.path().to_owned();
        drop(second);
        assert!(!path.exists());
    }
}
