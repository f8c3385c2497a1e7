//! Where a host keeps its things, and what its operator decides.
//!
//! One data directory holds everything durable; a run folder in it holds what
//! lives as long as one host process. Knows nothing of what is kept there.

pub mod allowed;
pub mod file;
pub mod limits;

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;
use sha2::{Digest, Sha256};

use crate::folders::{remove_whole, wait_for_removals};
use crate::terms::hexadecimal;

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

    /// Returns the database of the daemon.
    pub fn database(&self) -> PathBuf {
        self.0.join("hotshoe.db")
    }

    /// Returns the folder of images between steps.
    pub fn spool(&self) -> PathBuf {
        self.0.join("spool")
    }

    /// Returns the folder of the plugins that were installed.
    pub fn plugins(&self) -> PathBuf {
        self.0.join("plugins")
    }

    /// Returns the file of what the user has allowed.
    pub fn allowed(&self) -> PathBuf {
        self.0.join("allowed.toml")
    }

    /// Returns the folder of crash reports.
    pub fn crashes(&self) -> PathBuf {
        self.0.join("crashes")
    }

    /// Makes this process the only daemon of the directory; fails with its number
    /// if there is another one.
    pub fn claim(&self) -> io::Result<Result<Claim, u32>> {
        let path = self.0.join("host.lock");
        let mut claim = match lock(&path, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let holder = fs::read_to_string(&path).unwrap_or_default();
                return Ok(Err(holder.trim().parse().unwrap_or_default()));
            }
            Err(error) => return Err(error),
        };
        claim.set_len(0)?;
        writeln!(claim, "{}", std::process::id())?;
        Ok(Ok(Claim { _lock: claim }))
    }

    /// Lists the journals that hosts of single renders have left, the newest first.
    pub fn journals(&self) -> Vec<PathBuf> {
        let runs = fs::read_dir(self.0.join("run")).into_iter().flatten().flatten();
        let mut journals: Vec<PathBuf> =
            runs.map(|run| run.path().join(JOURNAL)).filter(|journal| journal.exists()).collect();
        journals.sort();
        journals.reverse();
        journals
    }

    /// Returns the folder of the Blenders that Hotshoe installed.
    pub fn blenders(&self) -> PathBuf {
        self.0.join("blender")
    }
}

/// The name of the database of a single render, in its run folder.
const JOURNAL: &str = "journal.db";
/// How many journals of earlier renders are kept, and for how long.
const JOURNALS: usize = 64;
const JOURNAL_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The right to be the daemon of a data directory.
#[derive(Debug)]
pub struct Claim {
    _lock: Flock<File>,
}

/// Whether a daemon serves a data directory.
pub fn is_claimed(data: &Path) -> bool {
    let claimed = lock(&data.join("host.lock"), FlockArg::LockExclusiveNonblock);
    claimed.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Returns where clients connect to the host of a data directory.
///
/// The user's runtime folder if there is one; hosts of other data directories
/// than the user's own have a folder of their own in it.
pub fn socket(data: Option<&Path>) -> io::Result<PathBuf> {
    let own = dirs::data_dir().map(|folder| folder.join("hotshoe"));
    let data = data.map(|data| fs::canonicalize(data).unwrap_or_else(|_| data.to_owned()));
    let is_own = data.is_none() || data == own.as_deref().and_then(|own| fs::canonicalize(own).ok());
    let users = PathBuf::from(format!("/run/user/{}", Uid::effective()));
    let runtime =
        dirs::runtime_dir().or_else(|| users.is_dir().then_some(users)).map(|folder| folder.join("hotshoe"));
    let folder = match (runtime, &data) {
        (Some(runtime), _) if is_own => runtime,
        (Some(runtime), Some(data)) => {
            let digest = Sha256::digest(data.as_os_str().as_encoded_bytes());
            runtime.join(hexadecimal(&digest[..6]))
        }
        (_, Some(data)) => data.join("socket"),
        (_, None) => own.ok_or_else(|| io::Error::other("this user has no home"))?.join("socket"),
    };
    let path = folder.join(SOCKET);
    Ok(if path.as_os_str().len() > MAX_SOCKET_PATH { short_folder(&folder).join(SOCKET) } else { path })
}

/// The name of a socket.
const SOCKET: &str = "host.sock";
/// The longest path that the kernel takes for one, in bytes: 108 with the zero at its end.
pub const MAX_SOCKET_PATH: usize = 107;

/// Returns a folder of this user's for the socket of a data directory whose own path is too long.
fn short_folder(folder: &Path) -> PathBuf {
    let digest = Sha256::digest(folder.as_os_str().as_encoded_bytes());
    PathBuf::from(format!("/tmp/hotshoe-{}-{}", Uid::effective(), hexadecimal(&digest[..6])))
}

/// A folder of one host process; all but its journal is gone with it.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl RunDir {
    /// Makes the folder, and removes those that killed hosts left behind.
    pub fn create(data: &DataDir) -> io::Result<Self> {
        let runs = data.path().join("run");
        let named = |path: &Path| {
            let path = path.display().to_string();
            move |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"))
        };
        create_private(&runs).map_err(named(&runs))?;
        // A folder without its lock yet must not look abandoned to another host.
        let gate = lock(&runs.join("gate"), FlockArg::LockExclusive).map_err(named(&runs))?;
        sweep(&runs).map_err(named(&runs))?;
        let path = runs.join(uuid::Uuid::now_v7().simple().to_string());
        create_private(&path).map_err(named(&path))?;
        let run = Self { _lock: lock(&path.join("lock"), FlockArg::LockExclusiveNonblock)?, path };
        drop(gate);
        Ok(run)
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the database of a host that lives for one render.
    pub fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        wait_for_removals();
        if let Err(error) = clear(&self.path, self.journal().exists()) {
            tracing::debug!(%error, "left the run folder behind; the next host removes it");
        }
    }
}

fn sweep(runs: &Path) -> io::Result<()> {
    let mut abandoned = Vec::new();
    for entry in fs::read_dir(runs)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // What a stranger has put there came to the top when its folder was to be removed.
        let is_run = uuid::Uuid::try_parse(name).is_ok();
        if !is_run && path.is_dir() {
            if let Err(error) = remove_whole(&path) {
                tracing::warn!(%error, path = %path.display(), "what a killed host left stays");
            }
        } else if is_run && let Ok(_lock) = lock(&path.join("lock"), FlockArg::LockExclusiveNonblock) {
            let journal = path.join(JOURNAL);
            let written = journal.metadata().and_then(|info| info.modified());
            // A clock that was set back makes nothing old.
            let age = written.map(|time| time.elapsed().unwrap_or_default());
            abandoned.push((path, age.is_ok_and(|age| age < JOURNAL_LIFE)));
        }
    }
    // Their names sort by time.
    abandoned.sort();
    let kept = abandoned.len().saturating_sub(JOURNALS);
    for (n, (path, keep)) in abandoned.iter().enumerate() {
        match clear(path, *keep && n >= kept) {
            // Its host, which is just ending, has done the same.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, path = %path.display(), "a killed host's folder stays"),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Removes a run folder, or all but its journal.
fn clear(path: &Path, keep_journal: bool) -> io::Result<()> {
    if !keep_journal {
        return remove_whole(path);
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        match entry.file_type()?.is_dir() {
            true => remove_whole(&entry.path())?,
            false if name.starts_with(JOURNAL) || name == "lock" => {}
            false => fs::remove_file(entry.path())?,
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
    fn a_socket_has_a_path_that_the_kernel_takes_however_long_that_of_the_data_is() {
        let long = PathBuf::from(format!("/data/{}", "long/".repeat(40)));
        let path = socket(Some(&long)).unwrap();
        assert!(path.as_os_str().len() <= MAX_SOCKET_PATH, "{}", path.display());
        assert_ne!(path, socket(Some(&long.join("other"))).unwrap());
    }

    #[test]
    fn a_run_folder_goes_with_its_host_and_a_killed_hosts_folder_with_the_next() {
        let temp = tempfile::tempdir().unwrap();
        let data = DataDir::open(Some(temp.path().join("data"))).unwrap();
        let first = RunDir::create(&data).unwrap();
        let abandoned = data.path().join("run").join(uuid::Uuid::nil().simple().to_string());
        fs::create_dir(&abandoned).unwrap();
        let second = RunDir::create(&data).unwrap();
        assert!(first.path().exists(), "a living host keeps its folder");
        assert!(!abandoned.exists());
        let path = second.path().to_owned();
        drop(second);
        assert!(!path.exists());
    }
}
