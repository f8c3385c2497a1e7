//! Output: finished files, whole or not at all.
//!
//! Owns the job's output folder. A render writes into a staging folder inside
//! it; what is finished is renamed to its place, what is not goes with the
//! staging folder. Nothing outside the folder can be named.

use std::fs;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

use super::{CapabilityError, Code, Result};

/// Names of staging folders begin with this; the next job removes stale ones.
const STAGING: &str = ".hotshoe-";

/// The folder that a job's files go to.
#[derive(Debug, Clone)]
pub struct Output {
    folder: PathBuf,
    keep: bool,
}

/// A file in its place.
#[derive(Debug, Clone)]
pub struct File {
    /// Its name below the output folder.
    pub name: String,
    /// The file itself.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Whether it was there before and was kept.
    pub kept: bool,
}

impl Output {
    /// Makes the folder ready; `keep` says that existing files stay.
    pub fn open(folder: &Path, keep: bool) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let folder = fs::canonicalize(folder)?;
        if folder.to_str().is_none() {
            return Err(io::Error::other("the path is not UTF-8"));
        }
        sweep(&folder)?;
        // Proves that files can be made here, before anything is rendered.
        drop(staging_in(&folder)?);
        Ok(Self { folder, keep })
    }

    /// Returns the folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the files that are there already, if all are and they are kept.
    ///
    /// `overwrite` is what the scene says; the person may say otherwise.
    pub fn existing(&self, paths: &[PathBuf], overwrite: bool) -> Option<Vec<File>> {
        if overwrite && !self.keep || paths.is_empty() {
            return None;
        }
        paths.iter().map(|name| self.file(name, true).ok()).collect()
    }

    /// Makes an empty folder for one render to write into.
    pub fn stage(&self) -> Result<Staging> {
        let made = staging_in(&self.folder).map_err(CapabilityError::io("write to the output folder"))?;
        let (folder, lock) = made;
        Ok(Staging { folder, output: self.clone(), _lock: lock })
    }

    fn file(&self, name: &Path, kept: bool) -> io::Result<File> {
        let path = self.folder.join(name);
        let info = path.metadata()?;
        if !info.is_file() {
            return Err(io::Error::other("not a file"));
        }
        Ok(File { name: name.display().to_string(), path, size: info.len(), kept })
    }
}

/// Makes a staging folder, locked as long as somebody writes into it.
fn staging_in(folder: &Path) -> io::Result<(TempDir, Flock<fs::File>)> {
    let mut tries = 0..8;
    loop {
        let made = tempfile::Builder::new().prefix(STAGING).tempdir_in(folder)?;
        // Until it is locked, another host may take it for one that was left behind.
        match lock(made.path()) {
            Ok(lock) if made.path().exists() => return Ok((made, lock)),
            Err(error) if tries.next().is_none() => return Err(error),
            _ => {}
        }
    }
}

/// Removes the staging folders of hosts that were killed.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_staging = entry.file_name().to_string_lossy().starts_with(STAGING);
        if is_staging
            && entry.file_type()?.is_dir()
            && let Ok(_lock) = lock(&entry.path())
        {
            match fs::remove_dir_all(entry.path()) {
                // Its owner, who could not lock it, has removed it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
    }
    Ok(())
}

fn lock(folder: &Path) -> io::Result<Flock<fs::File>> {
    Flock::lock(fs::File::open(folder)?, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
}

/// A folder that one render writes into, removed with what is left in it.
#[derive(Debug)]
pub struct Staging {
    folder: TempDir,
    output: Output,
    _lock: Flock<fs::File>,
}

impl Staging {
    /// Returns the folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Moves all files to their places, each of them whole on disk first.
    ///
    /// Fails if one of the `expected` files is missing or empty.
    pub fn publish(self, expected: &[PathBuf]) -> Result<Vec<File>> {
        for name in expected {
            let there = self.folder.path().join(name).metadata().is_ok_and(|info| info.len() > 0);
            if !there {
                let message = format!("Blender says that it rendered, but wrote no {}", name.display());
                return Err(CapabilityError::new(Code::Blender, message));
            }
        }
        let mut names = Vec::new();
        files_below(self.folder.path(), Path::new(""), &mut names)
            .map_err(CapabilityError::io("list the rendered files"))?;
        names.sort();
        for name in &names {
            if !is_whole(&self.folder.path().join(name))
                .map_err(CapabilityError::io("read a rendered file"))?
            {
                let message = format!("{} is cut off: is the disk full?", name.display());
                return Err(CapabilityError::new(Code::Host, message));
            }
        }
        names.iter().map(|name| self.place(name)).collect()
    }

    fn place(&self, name: &Path) -> Result<File> {
        let (from, to) = (self.folder.path().join(name), self.output.folder.join(name));
        let moved = || -> io::Result<File> {
            fs::File::open(&from)?.sync_all()?;
            fs::create_dir_all(to.parent().unwrap_or(&self.output.folder))?;
            fs::rename(&from, &to)?;
            self.output.file(name, false)
        };
        moved().map_err(|error| {
            CapabilityError::new(Code::Host, format!("cannot write {}: {error}", to.display()))
        })
    }
}

/// Whether a file ends as its format must. Blender 4.5 says nothing when the
/// disk is full and it writes a PNG; of other formats it tells.
fn is_whole(file: &Path) -> io::Result<bool> {
    let end: &[u8] = match file.extension().and_then(|ending| ending.to_str()) {
        Some("png") => b"\0\0\0\0IEND\xae\x42\x60\x82",
        Some("jpg" | "jpeg") => b"\xff\xd9",
        _ => return Ok(true),
    };
    let mut file = fs::File::open(file)?;
    let mut found = vec![0; end.len()];
    if file.metadata()?.len() < end.len() as u64 {
        return Ok(false);
    }
    file.seek(io::SeekFrom::End(-(end.len() as i64)))?;
    file.read_exact(&mut found)?;
    Ok(found == end)
}

fn files_below(root: &Path, below: &Path, names: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let name = below.join(entry.file_name());
        match entry.file_type()? {
            kind if kind.is_dir() => files_below(root, &name, names)?,
            kind if kind.is_file() => names.push(name),
            // Blender writes no links; whatever made one does not get it placed.
            _ => tracing::warn!(name = %name.display(), "ignoring what is no file among the rendered files"),
        }
    }
    Ok(())
}

/// Fails unless `name` can be the name of a picture: one part of a path.
pub fn check_name(name: &str) -> Result<()> {
    let odd = |c: char| c.is_control() || matches!(c, '/' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
    if (1..=128).contains(&name.len()) && !name.contains(odd) && !name.starts_with('.') {
        return Ok(());
    }
    let start: String = name.chars().take(40).collect();
    Err(CapabilityError::new(
        Code::InvalidArgument,
        format!(
            "'{start}' is no file name: 1 to 128 bytes without / \\ : * ? \" < > |, not beginning with a dot"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(keep: bool) -> (TempDir, Output) {
        let temp = tempfile::tempdir().unwrap();
        let output = Output::open(&temp.path().join("out"), keep).unwrap();
        (temp, output)
    }

    fn left(output: &Output) -> Vec<PathBuf> {
        let mut names = Vec::new();
        files_below(output.folder(), Path::new(""), &mut names).unwrap();
        names.sort();
        names
    }

    #[test]
    fn files_appear_when_published_and_never_before() {
        let (_temp, output) = output(false);
        let staging = output.stage().unwrap();
        fs::create_dir(staging.folder().join("passes")).unwrap();
        fs::write(staging.folder().join("a_0001.tga"), "pixels").unwrap();
        fs::write(staging.folder().join("passes/z.exr"), "depth").unwrap();
        let files = staging.publish(&["a_0001.tga".into()]).unwrap();
        assert_eq!(
            files.iter().map(|f| (f.name.as_str(), f.size)).collect::<Vec<_>>(),
            [("a_0001.tga", 6), ("passes/z.exr", 5)]
        );
        assert_eq!(left(&output), ["a_0001.tga", "passes/z.exr"].map(PathBuf::from));
    }

    #[test]
    fn an_abandoned_render_leaves_nothing() {
        let (_temp, output) = output(false);
        let staging = output.stage().unwrap();
        fs::write(staging.folder().join("half.png"), "pix").unwrap();
        drop(staging);
        assert!(fs::read_dir(output.folder()).unwrap().next().is_none());
    }

    #[test]
    fn what_a_killed_host_left_goes_and_what_a_living_one_writes_stays() {
        let (_temp, output) = output(false);
        let living = output.stage().unwrap();
        let killed = output.folder().join(".hotshoe-killed");
        fs::create_dir(&killed).unwrap();
        fs::write(killed.join("half.png"), "pix").unwrap();
        Output::open(output.folder(), false).unwrap();
        assert!(living.folder().exists() && !killed.exists());
    }

    #[test]
    fn a_missing_or_empty_picture_is_an_error_and_publishes_nothing() {
        let (_temp, output) = output(false);
        let staging = output.stage().unwrap();
        fs::write(staging.folder().join("a.tga"), "").unwrap();
        fs::write(staging.folder().join("b.tga"), "pixels").unwrap();
        assert_eq!(staging.publish(&["a.tga".into()]).unwrap_err().code, Code::Blender);
        assert!(left(&output).is_empty());
    }

    #[test]
    fn a_picture_that_is_cut_off_is_an_error_and_publishes_nothing() {
        let whole: &[u8] = b"pixels\0\0\0\0IEND\xae\x42\x60\x82";
        for (bytes, expected) in [(whole, true), (&whole[..whole.len() - 1], false), (b"p", false)] {
            let (_temp, output) = output(false);
            let staging = output.stage().unwrap();
            fs::write(staging.folder().join("a.png"), bytes).unwrap();
            fs::write(staging.folder().join("b.exr"), "pass").unwrap();
            assert_eq!(staging.publish(&["a.png".into()]).is_ok(), expected);
            assert_eq!(left(&output).is_empty(), !expected);
        }
    }

    #[test]
    fn existing_files_count_only_when_they_are_kept_and_all_there() {
        let names = ["a.png".into(), "b.png".into()];
        for (keep, overwrite, expected) in [(false, true, false), (true, true, true), (false, false, true)] {
            let (_temp, output) = output(keep);
            fs::write(output.folder().join("a.png"), "x").unwrap();
            assert!(output.existing(&names, overwrite).is_none());
            fs::write(output.folder().join("b.png"), "x").unwrap();
            assert_eq!(output.existing(&names, overwrite).is_some(), expected, "{keep} {overwrite}");
        }
    }

    #[test]
    fn links_are_not_placed() {
        let (_temp, output) = output(false);
        let staging = output.stage().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", staging.folder().join("link.png")).unwrap();
        assert!(staging.publish(&[]).unwrap().is_empty());
        assert!(left(&output).is_empty());
    }

    #[test]
    fn names_are_names() {
        let long = "x".repeat(129);
        for name in ["", "..", "a/b", "a\\b", "/a", "C:a", "a\0", ".a", "a\nb", &long] {
            assert!(check_name(name).is_err(), "{name}");
        }
        for name in ["shot_####", "größe 1", "a.b"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
    }
}
