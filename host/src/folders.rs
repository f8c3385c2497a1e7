//! Folders that a stranger may write to, at this very moment even.
//!
//! What was a file there may be a link, a pipe or a folder at the next look, and folders may lie
//! in one another a hundred thousand deep. Nothing here follows a link, waits for a pipe, or
//! leaves what it was given.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::dir::{Dir, Entry};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open as open_path, openat};
use nix::libc;
use nix::sys::stat::{Mode, SFlag, fstatat, mkdirat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// How a folder is opened, and nothing else in its place.
const FOLDER: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
/// How deep folders may lie in one another that are taken over.
const DEEPEST: usize = 32;
/// How many files may lie in one of them.
const MOST: usize = 100_000;
/// How many files of a folder are looked at to know its size.
const LOOKED_AT: usize = 10_000;
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
    // A device may do something when it is opened, a pipe be waited for by its other end.
    let found = open_path(path, flags | OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let itself = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    let kind = itself.metadata()?.file_type();
    // What the kernel makes up has no end, or no size.
    let is_kept = ![PROC_SUPER_MAGIC, SYSFS_MAGIC].contains(&fstatfs(&found)?.filesystem_type());
    if kind.is_file() && is_kept {
        File::open(itself)
    } else {
        Err(io::Error::other(if kind.is_symlink() { "it is a link" } else { "it is no file" }))
    }
}

/// Makes a file, in the place of one with its name. Blocks.
pub fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => File::options().read(true).write(true).create_new(true).open(path),
    }
}

/// Makes a folder, or sees to it that it is empty: what is left in it is moved beside `home`, where
/// nobody else can write, and removed soon. Blocks, shortly.
pub fn empty(folder: &Path, home: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !is_empty(folder) => {
            let aside = beside(home);
            fs::rename(folder, &aside)?;
            remove_soon(aside);
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

/// Takes over all files below a folder into another one, which nobody else can write to: whoever
/// holds the old ones cannot change the new ones. `admit` is asked for each, by its name there and
/// its size in bytes, before any is copied. Blocks.
pub fn take(from: &Path, to: &Path, admit: &mut dyn FnMut(&Path, u64) -> io::Result<()>) -> io::Result<()> {
    let folder = || io::Result::Ok(File::from(open_path(from, FOLDER, Mode::empty())?));
    let mut admitted = 0;
    let mut count = |file: Found<'_>| {
        admitted += file.size;
        admit(file.name, file.size)
    };
    walk(folder()?, Path::new(""), false, &mut count)?;
    let mut copy = |Found { name, size, file }: Found<'_>| {
        admitted = admitted.checked_sub(size).ok_or_else(|| io::Error::other("the files grow meanwhile"))?;
        let to = to.join(name);
        let made = to.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| File::create_new(&to));
        let mut to = made.map_err(|error| io::Error::other(Untaken(error)))?;
        io::copy(&mut file.take(size), &mut to).map(drop)
    };
    walk(folder()?, Path::new(""), true, &mut copy)
}

/// What is wrong with the place that files are taken to, which is no stranger's.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Untaken(io::Error);

/// A file below a folder, by its name there.
struct Found<'a> {
    name: &'a Path,
    size: u64,
    file: File,
}

/// Shows all files below a folder; one that is `taken` goes.
fn walk(
    from: File,
    below: &Path,
    taken: bool,
    each: &mut dyn FnMut(Found<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut folder = Dir::from_fd(from.into())?;
    let names = names(&mut folder, MOST)?;
    if names.len() > MOST {
        return Err(io::Error::other(format!("there are more than {MOST} files in one folder")));
    }
    for name in &names {
        let here = below.join(OsStr::from_bytes(name.to_bytes()));
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&folder, name.as_c_str(), flags, Mode::empty()) {
            // A link, a socket: Blender makes none, and whatever made it does not get it placed.
            Err(Errno::ELOOP | Errno::ENXIO) => continue,
            opened => File::from(opened?),
        };
        let info = file.metadata()?;
        if info.is_dir() {
            if here.components().count() > DEEPEST {
                return Err(io::Error::other(format!("folders lie in one another more than {DEEPEST} deep")));
            }
            walk(file, &here, taken, each)?;
            if taken {
                // What was in it is gone with it; anything else stays until all of it is removed.
                let _ = unlinkat(&folder, name.as_c_str(), UnlinkatFlags::RemoveDir);
            }
        } else if info.is_file() {
            each(Found { name: &here, size: info.len(), file })?;
            if taken {
                unlinkat(&folder, name.as_c_str(), UnlinkatFlags::NoRemoveDir)?;
            }
        }
    }
    Ok(())
}

/// Names what is in a folder, or one more than `most` of it.
fn names(folder: &mut Dir, most: usize) -> io::Result<Vec<CString>> {
    let name = |entry: nix::Result<Entry>| Ok(entry?.file_name().to_owned());
    let is_other =
        |name: &io::Result<CString>| !matches!(name, Ok(name) if [c".", c".."].contains(&name.as_c_str()));
    folder.iter().map(name).filter(is_other).take(most + 1).collect()
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

/// Returns how many bytes of the disk a folder takes, or none if the machine cannot tell just now;
/// fails if it is too much to look at. Blocks.
pub fn size(folder: &Path) -> io::Result<u64> {
    let sum = match open_path(folder, FOLDER, Mode::empty()) {
        Err(Errno::ENOENT) => Ok(0),
        Err(error) => Err(error.into()),
        Ok(folder) => size_below(folder.into(), 0, &mut 0),
    };
    sum.or_else(|error| if is_of_the_machine(&error) { Ok(0) } else { Err(error) })
}

fn size_below(folder: File, depth: usize, files: &mut usize) -> io::Result<u64> {
    if depth > DEEPEST {
        return Err(io::Error::other(format!("folders lie in one another more than {DEEPEST} deep")));
    }
    let mut folder = Dir::from_fd(folder.into())?;
    let mut size = 0;
    for name in &names(&mut folder, LOOKED_AT)? {
        *files += 1;
        if *files > LOOKED_AT {
            return Err(io::Error::other(format!("it has more than {LOOKED_AT} files")));
        }
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        // It may have been removed by now.
        let Ok(info) = fstatat(&folder, name.as_c_str(), flags) else { continue };
        size += u64::try_from(info.st_blocks).unwrap_or_default() * 512;
        if SFlag::from_bits_truncate(info.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
            match openat(&folder, name.as_c_str(), FOLDER, Mode::empty()) {
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                opened => size += size_below(opened?.into(), depth + 1, files)?,
            }
        }
    }
    Ok(size)
}

/// Whether an error is one of the whole machine, or of this host, whatever it was doing.
pub fn is_of_the_machine(error: &io::Error) -> bool {
    use io::ErrorKind::{OutOfMemory, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let errors = [libc::EIO, libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ESTALE];
    let kinds = [OutOfMemory, QuotaExceeded, ReadOnlyFilesystem, StorageFull];
    let is_untaken = error.get_ref().is_some_and(|inner| inner.is::<Untaken>());
    let number = error.raw_os_error();
    is_untaken || number.is_some_and(|number| errors.contains(&number)) || kinds.contains(&error.kind())
}

/// Opens a folder, and makes what is missing of it, part by part: a link that somebody has put
/// in the way is not followed. Blocks.
pub fn open_or_make(path: &Path) -> io::Result<File> {
    let mut folder = open_path("/", FOLDER | OFlag::O_PATH, Mode::empty())?;
    for part in path.strip_prefix("/").map_err(io::Error::other)?.components() {
        let part = part.as_os_str();
        let next = match openat(&folder, part, FOLDER | OFlag::O_PATH, Mode::empty()) {
            Err(Errno::ENOENT) => {
                match mkdirat(&folder, part, Mode::from_bits_truncate(0o777)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                openat(&folder, part, FOLDER | OFlag::O_PATH, Mode::empty())
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
    Ok(openat(&folder, ".", FOLDER, Mode::empty())?.into())
}

/// Removes a folder with all that a stranger has put into it, however deep, and whatever rights
/// it gave it; others may remove it too meanwhile. The stranger cannot write to the folder above.
/// Blocks.
pub fn remove_whole(folder: &Path) -> io::Result<()> {
    // What is in a folder comes to the top: no path grows, and nothing recurses. There it is out
    // of the stranger's reach, and stays what it is.
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
                            let top = beside(folder);
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

/// Names a place beside a folder for what is to be removed, which is no other's.
fn beside(folder: &Path) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    folder.with_file_name(format!("removed-{}-{number}", std::process::id()))
}

/// Lets its user into a folder.
fn unlock(folder: &Path) -> io::Result<()> {
    let opened = open_path(folder, FOLDER | OFlag::O_PATH, Mode::empty())?;
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
    let removing = move || {
        if remove_whole(&folder).is_err() {
            std::thread::sleep(END);
            if let Err(error) = remove_whole(&folder) {
                tracing::warn!(%error, folder = %folder.display(), "a folder stays until the next start");
            }
        }
    };
    let mut removals = removals();
    removals.retain(|removal| !removal.is_finished());
    match std::thread::Builder::new().spawn(removing) {
        Ok(removal) => removals.push(removal),
        Err(error) => tracing::warn!(%error, "a folder stays until the next start"),
    }
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
        let mut seen = Vec::new();
        let mut admit = |name: &Path, size| {
            seen.push((name.to_owned(), size));
            Ok(())
        };
        take(&from, &to, &mut admit).unwrap();
        seen.sort();
        assert_eq!(seen, [(PathBuf::from("a.png"), 1), (PathBuf::from("passes/z.exr"), 1)]);
        assert_eq!(files_below(&to).unwrap(), ["a.png", "passes/z.exr"].map(PathBuf::from));
        assert!(!from.join("a.png").exists() && other.join("secret").exists());
        assert!(!from.join("passes").exists());
        // A link in the place of the folder itself.
        assert!(take(&from.join("folder"), &to, &mut |_, _| Ok(())).is_err());
        // What has the name of a file already is not replaced.
        fs::write(from.join("a.png"), "another").unwrap();
        assert!(take(&from, &to, &mut |_, _| Ok(())).is_err());
        assert_eq!(fs::read_to_string(to.join("a.png")).unwrap(), "a");
        // What is not admitted is not taken.
        fs::write(from.join("b.png"), "b").unwrap();
        fs::remove_file(from.join("a.png")).unwrap();
        assert!(take(&from, &to, &mut |_, _| Err(io::Error::other("full"))).is_err());
        assert!(!to.join("b.png").exists());
    }

    #[test]
    fn folders_that_are_too_deep_are_not_taken() {
        let temp = tempfile::tempdir().unwrap();
        let deep = |depth: usize| {
            let from = temp.path().join(depth.to_string());
            let place = from.join(vec!["d"; depth].join("/"));
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join("file"), "").unwrap();
            take(&from, &temp.path().join("to").join(depth.to_string()), &mut |_, _| Ok(()))
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
        for opened in [
            open(&path),
            open_named(&path),
            open_named(Path::new("/dev/zero")),
            open_named(Path::new("/proc/self/pagemap")),
        ] {
            assert_eq!(opened.unwrap_err().to_string(), "it is no file");
        }
    }

    #[test]
    fn a_folder_is_emptied_whatever_is_in_its_place() {
        let temp = tempfile::tempdir().unwrap();
        let home = temp.path().join("home");
        let (folder, other) = (home.join("folder"), home.join("other"));
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("file"), "x").unwrap();
        for left in 0..4 {
            match left {
                0 => {}
                1 => fs::write(folder.join("left"), "x").unwrap(),
                2 => fs::remove_dir(&folder).and_then(|()| symlink(&other, &folder)).unwrap(),
                _ => fs::remove_dir(&folder).and_then(|()| fs::write(&folder, "x")).unwrap(),
            }
            empty(&folder, &home).unwrap();
            wait_for_removals();
            assert!(is_empty(&folder) && !folder.is_symlink());
            assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
        }
        assert!(other.join("file").exists());
    }
}
