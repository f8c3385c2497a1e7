//! Folders that a stranger may write to, at this very moment even.
//!
//! What was a file there may be a link, a pipe or a folder at the next look, and folders may lie
//! in one another a hundred thousand deep. Nothing here follows a link, waits for a pipe, or
//! leaves what it was given.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open as open_path, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

/// How deep folders may lie in one another that are taken over.
const DEEPEST: usize = 32;
/// How long the end of what writes to a folder may take that is to be removed.
const END: Duration = Duration::from_secs(2);

/// Opens a file to read it. Blocks.
pub fn open(path: &Path) -> io::Result<File> {
    open_regular(path, OFlag::O_NOFOLLOW)
}

/// Opens a file to read it, or what a link leads to: for names that are a stranger's, and files
/// that need not be. Blocks.
pub fn open_named(path: &Path) -> io::Result<File> {
    open_regular(path, OFlag::empty())
}

fn open_regular(path: &Path, flags: OFlag) -> io::Result<File> {
    let flags = (flags | OFlag::O_NONBLOCK).bits();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no file")),
    }
}

/// Makes a file, in the place of one with its name. Blocks.
pub fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => File::options().read(true).write(true).create_new(true).open(path),
    }
}

/// Makes a folder, or sees to it that it is empty: what is left in it is moved to `aside`, where
/// nobody else can write, and removed. Blocks.
pub fn empty(folder: &Path, aside: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !is_empty(folder) => {
            fs::rename(folder, aside)?;
            remove_whole(aside)?;
            fs::create_dir(folder)
        }
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Whether it is a folder and nothing is in it. Blocks.
pub fn is_empty(folder: &Path) -> bool {
    let is_folder = folder.symlink_metadata().is_ok_and(|info| info.is_dir());
    is_folder && fs::read_dir(folder).is_ok_and(|mut files| files.next().is_none())
}

/// Moves all files below a folder to another one, which nobody else can write to. Blocks.
pub fn take(from: &Path, to: &Path) -> io::Result<()> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    take_below(open_path(from, flags, Mode::empty())?.into(), to, DEEPEST)
}

fn take_below(from: File, to: &Path, depth: usize) -> io::Result<()> {
    let mut folder = Dir::from_fd(from.into())?;
    let names: Vec<CString> =
        folder.iter().map(|entry| Ok(entry?.file_name().to_owned())).collect::<io::Result<_>>()?;
    for name in names.iter().filter(|name| ![c".", c".."].contains(&name.as_c_str())) {
        let to = to.join(OsStr::from_bytes(name.to_bytes()));
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&folder, name.as_c_str(), flags, Mode::empty()) {
            // A link, a socket.
            Err(Errno::ELOOP | Errno::ENXIO) => None,
            opened => Some(File::from(opened?)),
        };
        match file.as_ref().map(File::metadata).transpose()?.map(|info| info.file_type()) {
            Some(kind) if kind.is_dir() && depth == 0 => {
                return Err(io::Error::other(format!("folders lie in one another more than {DEEPEST} deep")));
            }
            Some(kind) if kind.is_dir() => take_below(file.expect("it is there"), &to, depth - 1)?,
            Some(kind) if kind.is_file() => {
                to.parent().map_or(Ok(()), fs::create_dir_all)?;
                give_name(&mut file.expect("it is there"), &to)?;
                unlinkat(&folder, name.as_c_str(), UnlinkatFlags::NoRemoveDir)?;
            }
            // Blender makes nothing else; whatever made it does not get it placed.
            _ => tracing::warn!(name = %to.display(), "ignoring what is no file among what was rendered"),
        }
    }
    Ok(())
}

/// Gives this very file another name, whatever its old one means by now.
fn give_name(file: &mut File, to: &Path) -> io::Result<()> {
    let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
    match linkat(AT_FDCWD, itself.as_str(), AT_FDCWD, to, AtFlags::AT_SYMLINK_FOLLOW) {
        Ok(()) => Ok(()),
        // Another disk, or one that knows no second names.
        Err(_) => io::copy(file, &mut File::create_new(to)?).map(drop),
    }
}

/// Lists the files below a folder that is nobody else's, by their names there. Blocks.
pub fn files_below(root: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut names, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let (name, kind) = (folder.join(entry.file_name()), entry.file_type()?);
            match kind.is_dir() {
                true => folders.push(name),
                false if kind.is_file() => names.push(name),
                false => {}
            }
        }
    }
    names.sort();
    Ok(names)
}

/// Opens a folder, and makes what is missing of it, part by part: a link that somebody has put
/// in the way is not followed. Blocks.
pub fn open_or_make(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut folder = open_path("/", flags | OFlag::O_PATH, Mode::empty())?;
    for part in path.strip_prefix("/").map_err(io::Error::other)?.components() {
        let part = part.as_os_str();
        let next = match openat(&folder, part, flags | OFlag::O_PATH, Mode::empty()) {
            Err(Errno::ENOENT) => {
                match mkdirat(&folder, part, Mode::from_bits_truncate(0o777)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                openat(&folder, part, flags | OFlag::O_PATH, Mode::empty())
            }
            opened => opened,
        };
        folder = next.map_err(|error| match error {
            Errno::ENOTDIR | Errno::ELOOP => {
                io::Error::other(format!("'{}' is a link, or no folder", part.display()))
            }
            error => error.into(),
        })?;
    }
    Ok(openat(&folder, ".", flags, Mode::empty())?.into())
}

/// Removes a folder with all that a stranger has put into it, however deep, and whatever rights
/// it gave it; others may remove it too meanwhile. The stranger cannot write to the folder above.
/// Blocks.
pub fn remove_whole(folder: &Path) -> io::Result<()> {
    // What is in a folder comes to the top: no path grows, and nothing recurses. There it is out
    // of the stranger's reach, and stays what it is.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        match unlock(&next).and_then(|()| fs::read_dir(&next)) {
            // A link, put there just before the folder came to the top.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => fs::remove_file(&next)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(entries) => {
                for entry in entries {
                    let entry = entry?;
                    let path = entry.path();
                    let removed = match entry.file_type()?.is_dir() {
                        true if fs::remove_dir(&path).is_ok() => Ok(()),
                        true => {
                            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
                            let name = format!("removed-{}-{number}", std::process::id());
                            let top = folder.with_file_name(name);
                            // Only what its user may enter can be moved elsewhere.
                            unlock(&path).and_then(|()| fs::rename(&path, &top)).map(|()| folders.push(top))
                        }
                        false => fs::remove_file(&path),
                    };
                    unless_gone(removed)?;
                }
                unless_gone(fs::remove_dir(&next))?;
            }
        }
    }
    Ok(())
}

/// Lets its user into a folder.
fn unlock(folder: &Path) -> io::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = open_path(folder, flags, Mode::empty())?;
    fs::set_permissions(format!("/proc/self/fd/{}", opened.as_raw_fd()), fs::Permissions::from_mode(0o700))
}

fn unless_gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// What is being removed just now.
static REMOVALS: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// Removes a folder some time soon: much may lie there, and the end of who writes to it, which
/// was killed, may take a moment.
pub fn remove_soon(folder: PathBuf) {
    let removal = std::thread::spawn(move || {
        if remove_whole(&folder).is_err() {
            std::thread::sleep(END);
            if let Err(error) = remove_whole(&folder) {
                tracing::warn!(%error, folder = %folder.display(), "a folder stays until the next start");
            }
        }
    });
    let mut removals = removals();
    removals.retain(|removal| !removal.is_finished());
    removals.push(removal);
}

/// Waits until all that was to be removed soon is gone. Blocks.
pub fn wait_for_removals() {
    let removals = std::mem::take(&mut *removals());
    removals.into_iter().for_each(|removal| drop(removal.join()));
}

fn removals() -> MutexGuard<'static, Vec<JoinHandle<()>>> {
    REMOVALS.lock().expect("no code panics under this lock")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn what_a_stranger_left_is_removed_however_deep_and_closed() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("work");
        fs::create_dir(&folder).unwrap();
        // Deeper than a path can be long, and than a stack that calls itself for each.
        let mut place = File::open(&folder).unwrap();
        for _ in 0..20_000 {
            mkdirat(&place, "d", stat::Mode::S_IRWXU).unwrap();
            place = openat(&place, "d", OFlag::O_DIRECTORY, Mode::empty()).unwrap().into();
        }
        symlink("/etc", folder.join("link")).unwrap();
        fs::create_dir(folder.join("closed")).unwrap();
        fs::write(folder.join("closed/file"), "x").unwrap();
        fs::set_permissions(folder.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        remove_whole(&folder).unwrap();
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
        symlink("/etc", &folder).unwrap();
        remove_whole(&folder).unwrap();
        assert!(!folder.is_symlink() && Path::new("/etc/passwd").exists());
    }

    #[test]
    fn files_are_taken_over_and_nothing_else_is() {
        let temp = tempfile::tempdir().unwrap();
        let (from, to, other) = (temp.path().join("from"), temp.path().join("to"), temp.path().join("other"));
        for folder in [&from, &to, &other, &from.join("passes"), &from.join("empty")] {
            fs::create_dir(folder).unwrap();
        }
        fs::write(from.join("a.png"), "a").unwrap();
        fs::write(from.join("passes/z.exr"), "z").unwrap();
        fs::write(other.join("secret"), "secret").unwrap();
        symlink(other.join("secret"), from.join("link.png")).unwrap();
        symlink(&other, from.join("folder")).unwrap();
        mkfifo(&from.join("pipe.png"), stat::Mode::S_IRWXU).unwrap();
        take(&from, &to).unwrap();
        assert_eq!(files_below(&to).unwrap(), ["a.png", "passes/z.exr"].map(PathBuf::from));
        assert!(!from.join("a.png").exists() && other.join("secret").exists());
        // A link in the place of the folder itself.
        assert!(take(&from.join("folder"), &to).is_err());
        // What has the name of a file already is not replaced.
        fs::write(from.join("a.png"), "another").unwrap();
        assert!(take(&from, &to).is_err());
        assert_eq!(fs::read_to_string(to.join("a.png")).unwrap(), "a");
    }

    #[test]
    fn folders_that_are_too_deep_are_not_taken() {
        let temp = tempfile::tempdir().unwrap();
        let deep = |depth: usize| {
            let from = temp.path().join(depth.to_string());
            let place = from.join(vec!["d"; depth].join("/"));
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join("file"), "").unwrap();
            take(&from, &temp.path().join("to").join(depth.to_string()))
        };
        deep(DEEPEST).unwrap();
        assert!(deep(DEEPEST + 1).unwrap_err().to_string().contains("more than 32 deep"));
    }

    #[test]
    fn links_and_pipes_are_neither_read_nor_written_through() {
        let temp = tempfile::tempdir().unwrap();
        let (secret, path) = (temp.path().join("secret"), temp.path().join("file"));
        fs::write(&secret, "secret").unwrap();
        symlink(&secret, &path).unwrap();
        assert!(open(&path).is_err() && open_named(&path).is_ok());
        io::Write::write_all(&mut create(&path).unwrap(), b"mine").unwrap();
        assert_eq!(io::read_to_string(open(&path).unwrap()).unwrap(), "mine");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        fs::remove_file(&path).unwrap();
        mkfifo(&path, stat::Mode::S_IRWXU).unwrap();
        for opened in [open(&path), open_named(&path), open_named(Path::new("/dev/zero"))] {
            assert_eq!(opened.unwrap_err().to_string(), "it is no file");
        }
    }

    #[test]
    fn a_folder_is_emptied_whatever_is_in_its_place() {
        let temp = tempfile::tempdir().unwrap();
        let (folder, aside) = (temp.path().join("folder"), temp.path().join("aside"));
        let other = temp.path().join("other");
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("file"), "x").unwrap();
        for left in 0..4 {
            match left {
                0 => {}
                1 => fs::write(folder.join("left"), "x").unwrap(),
                2 => fs::remove_dir(&folder).and_then(|()| symlink(&other, &folder)).unwrap(),
                _ => fs::remove_dir(&folder).and_then(|()| fs::write(&folder, "x")).unwrap(),
            }
            empty(&folder, &aside).unwrap();
            assert!(is_empty(&folder) && !folder.is_symlink() && !aside.exists());
        }
        assert!(other.join("file").exists());
    }
}
