//! Plugins that are folders: their digest, and the host's own copy of them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use sha2::{Digest, Sha256};

use crate::config::create_private;
use crate::terms::hexadecimal;

/// How many files a plugin may have, and how many bytes all of them.
const MAX_FILES: usize = 20_000;
const MAX_SIZE: u64 = 4 * 1024 * 1024 * 1024;

/// Files that are part of this program, by their names.
pub(super) type Embedded = &'static [(&'static str, &'static [u8])];

/// The files of a plugin.
#[derive(Debug, Clone)]
pub(super) enum Folder {
    /// On disk.
    Path(PathBuf),
    /// Part of this program; all of them may be run.
    Embedded(Embedded),
}

/// One entry of a folder.
enum Entry {
    File { executable: bool },
    Folder,
    Link(PathBuf),
}

impl Folder {
    /// Returns the SHA-256 over the names and contents of all files.
    pub(super) fn digest(&self) -> io::Result<String> {
        let mut sum = Sha256::new();
        let mut add = |kind: u8, name: &[u8], content: &[u8]| {
            // Lengths, so that no two folders look alike.
            sum.update([kind]);
            for part in [name, content] {
                sum.update((part.len() as u64).to_le_bytes());
                sum.update(part);
            }
        };
        match self {
            Self::Embedded(files) => {
                let mut files = files.to_vec();
                files.sort();
                files.iter().for_each(|(name, bytes)| add(b'x', name.as_bytes(), &Sha256::digest(bytes)));
            }
            Self::Path(root) => {
                let mut size = 0;
                for (name, entry) in entries(root)? {
                    let bytes = name.as_os_str().as_encoded_bytes();
                    match entry {
                        Entry::Folder => {}
                        Entry::Link(target) => add(b'l', bytes, target.as_os_str().as_encoded_bytes()),
                        Entry::File { executable } => {
                            let kind = if executable { b'x' } else { b'f' };
                            add(kind, bytes, &hash(&root.join(&name), &mut size)?);
                        }
                    }
                }
            }
        }
        Ok(hexadecimal(&sum.finalize()))
    }

    /// Copies all files into a new folder, whole or not at all, if they are those of the digest.
    pub(super) fn copy(&self, to: &Path, digest: &str) -> io::Result<()> {
        let above = to.parent().ok_or_else(|| io::Error::other("it has no folder above"))?;
        create_private(above)?;
        let aside = tempfile::tempdir_in(above)?;
        match self {
            Self::Embedded(files) => {
                for (name, bytes) in *files {
                    let file = aside.path().join(name);
                    fs::create_dir_all(file.parent().unwrap_or(aside.path()))?;
                    fs::write(&file, bytes)?;
                    fs::set_permissions(&file, PermissionsExt::from_mode(0o700))?;
                }
            }
            Self::Path(root) => {
                for (name, entry) in entries(root)? {
                    let (from, to) = (root.join(&name), aside.path().join(&name));
                    match entry {
                        Entry::Folder => fs::create_dir(&to)?,
                        Entry::Link(target) => symlink(target, &to)?,
                        Entry::File { .. } => drop(fs::copy(&from, &to)?),
                    }
                }
            }
        }
        if matches!(self, Self::Path(_)) && Self::Path(aside.path().to_owned()).digest()? != digest {
            return Err(io::Error::other("its files changed while they were copied"));
        }
        let aside = aside.keep();
        match fs::rename(&aside, to) {
            // Another host was faster, with the same files.
            Err(_) if to.is_dir() => fs::remove_dir_all(&aside),
            renamed => renamed,
        }
    }

    /// Copies all files into a folder, in place of what it holds.
    pub(super) fn replace(&self, place: &Path, digest: &str) -> io::Result<()> {
        let above = place.parent().ok_or_else(|| io::Error::other("it has no folder above"))?;
        let aside = tempfile::Builder::new().prefix(".install-").tempdir_in(above)?;
        let new = aside.path().join("new");
        self.copy(&new, digest)?;
        if !place.exists() {
            return fs::rename(&new, place);
        }
        // At no time is there none.
        Ok(renameat2(AT_FDCWD, &new, AT_FDCWD, place, RenameFlags::RENAME_EXCHANGE)?)
    }
}

/// Lists all entries below a folder, those above before those below.
fn entries(root: &Path) -> io::Result<Vec<(PathBuf, Entry)>> {
    let (mut found, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let (name, info) = (folder.join(entry.file_name()), entry.metadata()?);
            // What Python makes of its files by itself is no part of them.
            if entry.file_name() == "__pycache__" {
                continue;
            }
            let kind = match () {
                () if info.is_dir() => {
                    folders.push(name.clone());
                    Entry::Folder
                }
                () if info.is_symlink() => Entry::Link(fs::read_link(entry.path())?),
                () if info.is_file() => Entry::File { executable: info.permissions().mode() & 0o111 != 0 },
                () => {
                    let what =
                        format!("{} is neither a file nor a folder nor a link", entry.path().display());
                    return Err(io::Error::other(what));
                }
            };
            found.push((name, kind));
            if found.len() > MAX_FILES {
                return Err(io::Error::other(format!("it has more than {MAX_FILES} files")));
            }
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

fn hash(path: &Path, size: &mut u64) -> io::Result<Vec<u8>> {
    let (mut file, mut sum, mut chunk) = (File::open(path)?, Sha256::new(), vec![0; 64 * 1024]);
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(sum.finalize().to_vec()),
            count => {
                sum.update(&chunk[..count]);
                *size += count as u64;
            }
        }
        if *size > MAX_SIZE {
            return Err(io::Error::other(format!("its files have more than {MAX_SIZE} bytes")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_stands_for_every_name_content_and_mode() {
        let temp = tempfile::tempdir().unwrap();
        let digest = || Folder::Path(temp.path().to_owned()).digest().unwrap();
        let mut seen = vec![digest()];
        let mut changed = |what: &str| {
            let now = digest();
            assert!(!seen.contains(&now), "{what}");
            seen.push(now);
        };
        fs::write(temp.path().join("a"), "1").unwrap();
        changed("a file");
        fs::write(temp.path().join("a"), "2").unwrap();
        changed("its content");
        fs::set_permissions(temp.path().join("a"), PermissionsExt::from_mode(0o755)).unwrap();
        changed("its mode");
        fs::create_dir(temp.path().join("b")).unwrap();
        fs::rename(temp.path().join("a"), temp.path().join("b/a")).unwrap();
        changed("its place");
        symlink("/etc/passwd", temp.path().join("c")).unwrap();
        changed("a link");
        let before = digest();
        fs::create_dir(temp.path().join("__pycache__")).unwrap();
        fs::write(temp.path().join("__pycache__/a.pyc"), "x").unwrap();
        assert_eq!(digest(), before);
    }

    #[test]
    fn a_copy_is_the_same_and_a_second_one_is_no_trouble() {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("kept/plugin"));
        fs::create_dir_all(from.join("below")).unwrap();
        fs::write(from.join("below/run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(from.join("below/run"), PermissionsExt::from_mode(0o755)).unwrap();
        symlink("below/run", from.join("link")).unwrap();
        let folder = Folder::Path(from);
        let digest = folder.digest().unwrap();
        assert!(folder.copy(&to, "another").is_err() && !to.exists());
        folder.copy(&to, &digest).unwrap();
        assert_eq!(Folder::Path(to.clone()).digest().unwrap(), digest);
        folder.copy(&to, &digest).unwrap();
        assert_eq!(fs::read_dir(to.parent().unwrap()).unwrap().count(), 1);
    }
}
