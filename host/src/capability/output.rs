//! Output: finished files, whole or not at all.
//!
//! Owns the job's output folder. A worker leaves files where only it writes; the host
//! takes them into a staging folder inside the output folder. What is finished is
//! written to the disk, recorded with its hash, and only then renamed to its place;
//! what is not goes with the staging folder. A host
//! that dies in between leaves a record and a file aside: the next one brings
//! them together ([`reconcile`]). Nothing outside the folder can be named.

mod names;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, FallocateFlags, Flock, FlockArg, fallocate, renameat};
use tempfile::TempDir;

use super::{Attempt, CapabilityError, Code, JobContext, Result};
use crate::blender::content::sha256;
use crate::folders;
use crate::store::Writing;
use crate::store::outputs::Output as Recorded;

pub use names::{check_name, check_written};

/// Names of staging folders begin with this; the next job removes stale ones.
const STAGING: &str = ".hotshoe-";

/// How long a folder that was proven counts as fit.
const PROVEN: Duration = Duration::from_secs(5);
/// A disk with less than this, in bytes, and less than a 20th of its size, is full.
const ROOM: u64 = 64 * 1024 * 1024;
/// How much of it is tried to be had, in bytes.
const TRIED: i64 = 1024 * 1024;

/// The folder that a job's files go to.
#[derive(Debug, Clone)]
pub struct Output {
    folder: PathBuf,
    keep: bool,
    /// Staging folders that are empty again: making one costs more than a rename.
    spare: Arc<Mutex<Vec<Locked>>>,
}

/// A staging folder, locked as long as somebody may write into it.
#[derive(Debug)]
struct Locked {
    folder: TempDir,
    _lock: Flock<fs::File>,
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

/// The folders that were found to be fit a moment ago; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Folders(Arc<Mutex<HashMap<PathBuf, Instant>>>);

impl Folders {
    /// Makes a folder ready; `keep` says that existing files stay. One that many jobs
    /// share is swept and proven once in a while only.
    pub fn open(&self, folder: &Path, keep: bool) -> io::Result<Output> {
        fs::create_dir_all(folder)?;
        let folder = fs::canonicalize(folder)?;
        if folder.to_str().is_none() {
            return Err(io::Error::other("the path is not UTF-8"));
        }
        let fresh = |proven: &Instant| proven.elapsed() < PROVEN;
        let known = |all: &HashMap<PathBuf, Instant>| all.get(&folder).is_some_and(fresh);
        if !known(&self.proven()) {
            sweep(&folder)?;
            // Proves that files can be made here, before anything is rendered. A disk that
            // is full may have room by then.
            match staging_in(&folder) {
                Err(error) if !is_full(&error) => return Err(error),
                _ => {}
            }
            let mut all = self.proven();
            all.retain(|_, proven| fresh(proven));
            all.insert(folder.clone(), Instant::now());
        }
        Ok(Output { folder, keep, spare: Arc::default() })
    }

    fn proven(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Instant>> {
        self.0.lock().expect("no code panics under this lock")
    }
}

impl Output {
    /// Returns the folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether files that are there stay. `overwrite` is what the scene says; the
    /// person may say otherwise.
    pub fn keeps(&self, overwrite: bool) -> bool {
        !overwrite || self.keep
    }

    /// Returns the files that are there already, if all are. Blocks.
    pub fn existing(&self, paths: &[PathBuf]) -> Option<Vec<File>> {
        if paths.is_empty() {
            return None;
        }
        paths.iter().map(|name| self.file(name, true).ok()).collect()
    }

    /// Makes an empty folder for one render to write into.
    pub fn stage(&self) -> Result<Staging> {
        let spare = self.spare.lock().expect("no code panics under this lock").pop();
        let locked = match spare.filter(|spare| spare.folder.path().exists()) {
            Some(spare) => spare,
            None => staging_in(&self.folder).map_err(CapabilityError::io("write to the output folder"))?,
        };
        Ok(Staging { locked: Some(locked), output: self.clone() })
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

/// Whether there is room for more on a folder's disk, and its user may have it; one that cannot
/// be looked at has other troubles. Blocks.
pub fn has_room(folder: &Path) -> bool {
    // It may not be made yet, as that of images before the first one is kept.
    let Some(folder) = folder.ancestors().find(|folder| folder.is_dir()) else { return true };
    let Ok(disk) = nix::sys::statvfs::statvfs(folder) else { return true };
    let (free, all) = (disk.blocks_available(), disk.blocks());
    let is_free = free * disk.fragment_size() >= ROOM.min(all * disk.fragment_size() / 20);
    // A quota is seen by whoever tries.
    let tried = tempfile::tempfile_in(folder)
        .and_then(|file| Ok(fallocate(file, FallocateFlags::empty(), 0, TRIED)?));
    is_free && !tried.is_err_and(|error| is_full(&error))
}

/// Whether an error is that of a disk that is full, or of one's share of it.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Makes a staging folder, locked as long as somebody writes into it.
fn staging_in(folder: &Path) -> io::Result<Locked> {
    let mut tries = 0..8;
    loop {
        let made = tempfile::Builder::new().prefix(STAGING).tempdir_in(folder)?;
        // Until it is locked, another host may take it for one that was left behind.
        match lock(made.path()) {
            Ok(lock) if made.path().exists() => return Ok(Locked { folder: made, _lock: lock }),
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
            // Its owner, who could not lock it, may have removed it meanwhile.
            folders::remove_whole(&entry.path())?;
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
    locked: Option<Locked>,
    output: Output,
}

impl Drop for Staging {
    fn drop(&mut self) {
        if folders::is_empty(self.folder())
            && let Some(locked) = self.locked.take()
        {
            self.output.spare.lock().expect("no code panics under this lock").push(locked);
        }
    }
}

impl Staging {
    /// Returns the folder.
    pub fn folder(&self) -> &Path {
        self.locked.as_ref().expect("it is there until the drop").folder.path()
    }

    /// Moves all files to their places, each of them whole on disk and recorded first.
    ///
    /// Fails if one of the `expected` files is missing or empty.
    pub async fn publish(self, expected: Vec<PathBuf>, step: String, attempt: &Attempt) -> Result<Vec<File>> {
        let task = attempt.task();
        let job = attempt.job.clone();
        let unchanged = job.content.unchanged();
        let prepare = move || {
            let prepared = self.prepare(&expected, &step, task)?;
            unchanged().map(|()| prepared)
        };
        let (staging, recorded) = super::blocking(prepare).await?;
        // What is recorded is put in its place, even if the attempt is cut meanwhile.
        let finishing = tokio::spawn(async move {
            record(&job, recorded.clone()).await?;
            crate::crash_point!("recorded");
            let files =
                super::blocking(move || recorded.iter().map(|file| staging.place(file)).collect()).await;
            crate::crash_point!("placed");
            files
        });
        let panicked = |_| CapabilityError::new(Code::Host, "the host failed while it placed a file");
        finishing.await.map_err(panicked)?
    }

    /// Makes sure that all files are whole and on disk. Blocks.
    fn prepare(
        self,
        expected: &[PathBuf],
        step: &str,
        task: Option<String>,
    ) -> Result<(Self, Vec<Recorded>)> {
        let folder = self.folder().to_owned();
        for name in expected {
            let there = folder.join(name).metadata().is_ok_and(|info| info.len() > 0);
            if !there {
                let message = format!("Blender says that it rendered, but wrote no {}", name.display());
                return Err(CapabilityError::new(Code::Blender, message));
            }
        }
        let names = folders::files_below(&folder).map_err(CapabilityError::io("list the rendered files"))?;
        let mut recorded = Vec::with_capacity(names.len());
        for name in names {
            let aside = folder.join(&name);
            let whole = is_whole(&aside).map_err(CapabilityError::io("read a rendered file"))?;
            if !whole {
                let message = format!("{} is cut off: is the disk full?", name.display());
                return Err(CapabilityError::new(Code::Blender, message));
            }
            let path = self.output.folder.join(&name);
            recorded.push(
                record_of(path, aside, step, task.clone())
                    .map_err(CapabilityError::io("write a file to the disk"))?,
            );
        }
        fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(CapabilityError::io("write a folder to the disk"))?;
        Ok((self, recorded))
    }

    fn place(&self, recorded: &Recorded) -> Result<File> {
        let failed = |error| {
            CapabilityError::new(Code::Host, format!("cannot write {}: {error}", recorded.path.display()))
        };
        put(recorded).map_err(failed)?;
        let name = recorded.path.strip_prefix(&self.output.folder).unwrap_or(&recorded.path);
        self.output.file(name, false).map_err(failed)
    }
}

/// Writes a file to the disk, and says what it is.
fn record_of(path: PathBuf, aside: PathBuf, step: &str, task: Option<String>) -> io::Result<Recorded> {
    let file = fs::File::open(&aside)?;
    file.sync_all()?;
    let (size, sha256) = (file.metadata()?.len(), Some(sha256(&aside)?));
    Ok(Recorded { path, task, step: Some(step.to_owned()), size, sha256, aside: Some(aside) })
}

/// Renames a recorded file to its place.
fn put(recorded: &Recorded) -> io::Result<()> {
    let Some(aside) = &recorded.aside else { return Ok(()) };
    let parts = recorded.path.parent().zip(recorded.path.file_name());
    let (folder, name) = parts.ok_or_else(|| io::Error::other("it has no folder"))?;
    let folder = folders::open_or_make(folder)?;
    renameat(AT_FDCWD, aside, &folder, name)?;
    // A name that is only in memory would be gone with the power.
    folder.sync_all()
}

async fn record(job: &JobContext, files: Vec<Recorded>) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let id = job.id;
    let record = move |writing: &mut Writing<'_>| files.iter().try_for_each(|file| writing.record(id, file));
    let write = job.store.write_patiently(record);
    Ok(write.await?)
}

/// Records files that were there before and are kept, and tells of them.
pub async fn keep(files: &[File], attempt: &Attempt) -> Result<()> {
    let task = attempt.task();
    let kept = |file: &File| {
        let (path, task) = (file.path.clone(), task.clone());
        Recorded { path, task, step: None, size: file.size, sha256: None, aside: None }
    };
    record(&attempt.job, files.iter().map(kept).collect()).await
}

/// What is known of files that were to be rendered from the same before.
#[derive(Debug)]
pub enum Known {
    /// Nothing.
    Nothing,
    /// All of them are as they were recorded.
    Whole(Vec<File>),
    /// They were recorded, and are not as they were.
    Spoiled,
}

/// Looks for files that were rendered from the same before.
pub async fn finished(step: &str, attempt: &Attempt) -> Result<Known> {
    if !attempt.may_be_done() {
        return Ok(Known::Nothing);
    }
    let mut recorded = attempt.job.store.outputs_of_step(step.to_owned()).await?;
    let output = attempt.job.output.clone();
    recorded.retain(|recorded| recorded.path.starts_with(&output.folder));
    if recorded.is_empty() {
        return Ok(Known::Nothing);
    }
    super::blocking(move || {
        let file = |recorded: &Recorded| {
            let name = recorded.path.strip_prefix(&output.folder).ok()?;
            is_as_recorded(recorded).then(|| output.file(name, true).ok()).flatten()
        };
        Ok(recorded.iter().map(file).collect::<Option<_>>().map_or(Known::Spoiled, Known::Whole))
    })
    .await
}

/// Makes files that an earlier job rendered this job's own, and tells of them.
pub async fn own(files: &[File], attempt: &Attempt) -> Result<()> {
    let task = attempt.task();
    let files: Vec<(PathBuf, u64)> = files.iter().map(|file| (file.path.clone(), file.size)).collect();
    let job = attempt.job.id;
    let own = move |writing: &mut Writing<'_>| {
        files.iter().try_for_each(|(path, size)| writing.own(job, task.as_deref(), path, *size))
    };
    Ok(attempt.job.store.write_patiently(own).await?)
}

/// Whether a file is in its place with the size and hash that were recorded. Blocks.
pub fn is_as_recorded(recorded: &Recorded) -> bool {
    let size = recorded.path.metadata().is_ok_and(|info| info.is_file() && info.len() == recorded.size);
    size && match &recorded.sha256 {
        Some(known) => sha256(&recorded.path).is_ok_and(|found| found == *known),
        None => true,
    }
}

/// Renames what a host that died had recorded and not yet renamed. Blocks.
pub fn reconcile(recorded: &[Recorded]) {
    // Of most files the staging folder is gone, and with it the question.
    let mut there: HashMap<&Path, bool> = HashMap::new();
    for file in recorded {
        let Some(staging) = file.aside.as_deref().and_then(Path::parent) else { continue };
        if !*there.entry(staging).or_insert_with(|| staging.is_dir()) {
            continue;
        }
        let is_aside = |aside: &PathBuf| {
            let known = file.sha256.as_ref();
            aside.is_file() && sha256(aside).is_ok_and(|found| Some(&found) == known)
        };
        if file.aside.as_ref().is_some_and(is_aside)
            && let Err(error) = put(file)
        {
            tracing::warn!(file = %file.path.display(), %error, "cannot be put in its place; it is rendered again");
        }
    }
}

/// Whether a file ends as its format must. Blender 4.5 says nothing when the
/// disk is full and it writes a PNG; of other formats it tells. Blocks.
pub fn is_whole(file: &Path) -> io::Result<bool> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn output(keep: bool) -> (TempDir, Output) {
        let temp = tempfile::tempdir().unwrap();
        let output = Folders::default().open(&temp.path().join("out"), keep).unwrap();
        (temp, output)
    }

    /// Publishes without a record.
    fn publish(staging: Staging, expected: &[PathBuf]) -> Result<Vec<File>> {
        let (staging, recorded) = staging.prepare(expected, "step", None)?;
        recorded.iter().map(|file| staging.place(file)).collect()
    }

    fn left(output: &Output) -> Vec<PathBuf> {
        folders::files_below(output.folder()).unwrap()
    }

    #[test]
    fn files_appear_when_published_and_never_before() {
        let (_temp, output) = output(false);
        let staging = output.stage().unwrap();
        fs::create_dir(staging.folder().join("passes")).unwrap();
        fs::write(staging.folder().join("a_0001.tga"), "pixels").unwrap();
        fs::write(staging.folder().join("passes/z.exr"), "depth").unwrap();
        let files = publish(staging, &["a_0001.tga".into()]).unwrap();
        assert_eq!(
            files.iter().map(|f| (f.name.as_str(), f.size)).collect::<Vec<_>>(),
            [("a_0001.tga", 6), ("passes/z.exr", 5)]
        );
        assert_eq!(left(&output), ["a_0001.tga", "passes/z.exr"].map(PathBuf::from));
    }

    #[test]
    fn what_was_recorded_and_not_yet_renamed_is_put_in_its_place_if_it_is_whole() {
        for (spoil, expected) in [(false, vec![PathBuf::from("a.tga")]), (true, Vec::new())] {
            let (_temp, output) = output(false);
            let staging = output.stage().unwrap();
            let aside = staging.folder().join("a.tga");
            fs::write(&aside, "pixels").unwrap();
            let (staging, recorded) = staging.prepare(&["a.tga".into()], "step", None).unwrap();
            assert!(!is_as_recorded(&recorded[0]));
            if spoil {
                fs::write(&aside, "pixelt").unwrap();
            }
            reconcile(&recorded);
            drop(staging);
            assert_eq!(left(&output), expected);
            assert_eq!(is_as_recorded(&recorded[0]), !spoil);
            reconcile(&recorded);
        }
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
        Folders::default().open(output.folder(), false).unwrap();
        assert!(living.folder().exists() && !killed.exists());
    }

    #[test]
    fn a_missing_or_empty_picture_is_an_error_and_publishes_nothing() {
        let (_temp, output) = output(false);
        let staging = output.stage().unwrap();
        fs::write(staging.folder().join("a.tga"), "").unwrap();
        fs::write(staging.folder().join("b.tga"), "pixels").unwrap();
        assert_eq!(publish(staging, &["a.tga".into()]).unwrap_err().code, Code::Blender);
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
            assert_eq!(publish(staging, &["a.png".into()]).is_ok(), expected);
            assert_eq!(left(&output).is_empty(), !expected);
        }
    }

    #[test]
    fn existing_files_count_only_when_they_are_kept_and_all_there() {
        let names = ["a.png".into(), "b.png".into()];
        for (keep, overwrite, expected) in [(false, true, false), (true, true, true), (false, false, true)] {
            let (_temp, output) = output(keep);
            fs::write(output.folder().join("a.png"), "x").unwrap();
            assert!(output.existing(&names).is_none());
            fs::write(output.folder().join("b.png"), "x").unwrap();
            assert!(output.existing(&names).is_some());
            assert_eq!(output.keeps(overwrite), expected, "{keep} {overwrite}");
        }
    }

    #[test]
    fn links_are_not_placed() {
        let (_temp, output) = output(false);
        let staging = output.stage().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", staging.folder().join("link.png")).unwrap();
        assert!(publish(staging, &[]).unwrap().is_empty());
        assert!(left(&output).is_empty());
    }

    #[test]
    fn a_link_that_was_put_in_the_way_is_not_followed() {
        let (temp, output) = output(false);
        let elsewhere = temp.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, output.folder().join("passes")).unwrap();
        let staging = output.stage().unwrap();
        fs::create_dir(staging.folder().join("passes")).unwrap();
        fs::write(staging.folder().join("passes/z.exr"), "depth").unwrap();
        let error = publish(staging, &[]).unwrap_err();
        assert!(error.message.contains("'passes' is a link, or no folder"), "{error}");
        // A file that is a link is replaced, and what it points to stays.
        fs::write(elsewhere.join("kept"), "kept").unwrap();
        std::os::unix::fs::symlink(elsewhere.join("kept"), output.folder().join("a.tga")).unwrap();
        let staging = output.stage().unwrap();
        fs::write(staging.folder().join("a.tga"), "pixels").unwrap();
        publish(staging, &["a.tga".into()]).unwrap();
        assert_eq!(fs::read_to_string(elsewhere.join("kept")).unwrap(), "kept");
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1);
    }
}
