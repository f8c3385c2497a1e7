//! Watching the plugins of a folder, or one file: events in, the places to look at out.
//!
//! What is moved to its place, or is a link, counts as whole at once. What is written in
//! place counts as whole after a quiet window, once nobody has it open to write; what is
//! removed is gone after the same window, since editors remove and write anew. Where the
//! kernel tells nothing (a network disk, a link to elsewhere), a look at all entries every
//! second finds what has changed.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigHandler, Signal, signal};
use notify::event::{EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::shelf::{self, may_be_plugin};

/// How many events may wait; what does not fit is found by looking.
const EVENTS: usize = 4096;
/// How often all entries are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How many files of a plugin's folder are looked at.
const FILES: usize = 1000;

/// Follows the plugins of a folder, or one file of it.
#[derive(Debug)]
pub struct Watcher {
    folder: PathBuf,
    /// The file, if it is one alone.
    only: Option<PathBuf>,
    quiet: Duration,
    /// Those whose kernel tells what happens, and which folder it was.
    watching: Option<(RecommendedWatcher, (u64, u64))>,
    sender: mpsc::Sender<notify::Event>,
    events: mpsc::Receiver<notify::Event>,
    /// The places that are to be looked at, and when.
    due: BTreeMap<PathBuf, Instant>,
    /// What each place looked like when it was looked at last; 0 for one that was not there.
    seen: HashMap<PathBuf, u64>,
    looked: Instant,
    is_lost: bool,
}

impl Watcher {
    /// Begins to follow the plugins of a folder; `known` are the places that had one before.
    pub fn plugins(folder: PathBuf, quiet: Duration, known: Vec<PathBuf>) -> Self {
        let now = Instant::now();
        let mut watcher = Self::new(folder, None, quiet);
        watcher.due = known.into_iter().map(|place| (place, now)).collect();
        watcher.look(now);
        // What is there when it begins is whole, unless somebody is writing it.
        watcher.due.values_mut().for_each(|due| *due = now);
        watcher
    }

    /// Begins to follow a file, which is known as it is now.
    pub fn file(file: &Path, quiet: Duration) -> Self {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let folder = file.parent().unwrap_or(Path::new("/")).to_owned();
        let mut watcher = Self::new(folder, Some(file.clone()), quiet);
        watcher.seen.insert(file.clone(), stamp(&file));
        watcher.look(Instant::now());
        watcher
    }

    fn new(folder: PathBuf, only: Option<PathBuf>, quiet: Duration) -> Self {
        // Who opens a file while it is looked at whether anybody has it open makes the kernel
        // send this signal, which would end the host.
        // SAFETY: to ignore a signal runs nothing.
        let _ = unsafe { signal(Signal::SIGIO, SigHandler::SigIgn) };
        let (sender, events) = mpsc::channel(EVENTS);
        let (watching, due, seen) = Default::default();
        let looked = Instant::now();
        Self { folder, only, quiet, watching, sender, events, due, seen, looked, is_lost: false }
    }

    /// Lists the places that are to be looked at.
    pub fn waiting(&self) -> std::collections::HashSet<PathBuf> {
        self.due.keys().cloned().collect()
    }

    /// Looks at a place once more after a while.
    pub fn again(&mut self, place: PathBuf, wait: Duration) {
        self.due.entry(place).or_insert(Instant::now() + wait);
    }

    /// Waits until some places should be looked at.
    pub async fn next(&mut self) -> Vec<PathBuf> {
        loop {
            let now = Instant::now();
            let ready = self.ready(now);
            if !ready.is_empty() {
                return ready;
            }
            let look = self.looked + LOOK;
            let next = self.due.values().min().map_or(look, |due| look.min(*due));
            tokio::select! {
                event = self.events.recv() => {
                    if let Some(event) = event {
                        self.note(&event, Instant::now());
                    }
                }
                () = tokio::time::sleep_until(next) => {}
            }
            if Instant::now() >= look {
                self.look(Instant::now());
            }
        }
    }

    /// Takes the places whose time has come.
    fn ready(&mut self, now: Instant) -> Vec<PathBuf> {
        let places: Vec<PathBuf> =
            self.due.iter().filter(|(_, due)| **due <= now).map(|(place, _)| place.clone()).collect();
        let mut ready = Vec::new();
        for place in places {
            if is_being_written(&place) {
                self.due.insert(place, now + self.quiet);
                continue;
            }
            self.due.remove(&place);
            self.seen.insert(place.clone(), stamp(&place));
            ready.push(place);
        }
        ready
    }

    /// Takes an event down.
    fn note(&mut self, event: &notify::Event, now: Instant) {
        if matches!(event.kind, EventKind::Access(access) if !is_end_of_writing(access)) {
            return;
        }
        for path in &event.paths {
            let Some(first) = path.strip_prefix(&self.folder).ok().and_then(|below| below.iter().next())
            else {
                continue;
            };
            let place = self.folder.join(first);
            let is_followed = match &self.only {
                Some(file) => *file == place,
                None => may_be_plugin(&place) || self.seen.contains_key(&place),
            };
            if !is_followed {
                continue;
            }
            let is_itself = *path == place;
            let was_moved = matches!(
                event.kind,
                EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both | RenameMode::Any))
            );
            let is_whole = is_itself && (was_moved || place.is_symlink()) && place.exists();
            let due = if is_whole { now } else { now + self.quiet };
            match self.due.get_mut(&place) {
                // Written to since: it has to be quiet anew.
                Some(known) if !is_whole => *known = (*known).max(due),
                Some(known) => *known = due,
                None => drop(self.due.insert(place, due)),
            }
        }
    }

    /// Looks for what nobody has told of, and whether the folder is still the same.
    fn look(&mut self, now: Instant) {
        self.looked = now;
        let id = match fs::metadata(&self.folder) {
            Ok(info) if info.is_dir() => (info.dev(), info.ino()),
            _ => {
                // What serves goes on: a disk that is gone for a moment takes nothing away.
                if !std::mem::replace(&mut self.is_lost, true) && self.watching.take().is_some() {
                    tracing::warn!(folder = %self.folder.display(), "the folder is gone");
                }
                return;
            }
        };
        self.is_lost = false;
        if self.watching.as_ref().is_none_or(|(_, known)| *known != id) {
            self.watching = self.watch().map(|watcher| (watcher, id));
        }
        let mut places = match &self.only {
            Some(file) => [file.clone()].into(),
            None => shelf::places(&self.folder),
        };
        places.extend(self.seen.keys().cloned());
        for place in places {
            let is_as_seen = self.seen.get(&place).copied().unwrap_or_default() == stamp(&place);
            if !is_as_seen && !self.due.contains_key(&place) {
                self.due.insert(place, now + self.quiet);
            }
        }
        // What is gone, and was said to be, is of no interest any more.
        self.seen.retain(|_, stamp| *stamp != 0);
    }

    fn watch(&self) -> Option<RecommendedWatcher> {
        let sender = self.sender.clone();
        let tell = move |event: notify::Result<notify::Event>| {
            if let Ok(event) = event {
                let _ = sender.try_send(event);
            }
        };
        let watch = || -> notify::Result<RecommendedWatcher> {
            let mut watcher = notify::recommended_watcher(tell)?;
            let mode = match self.only {
                Some(_) => RecursiveMode::NonRecursive,
                None => RecursiveMode::Recursive,
            };
            watcher.watch(&self.folder, mode)?;
            Ok(watcher)
        };
        let told = |error: &notify::Error| {
            let folder = self.folder.display();
            tracing::warn!(%error, %folder, "the kernel does not tell what happens here; looking every second");
        };
        watch().inspect_err(told).ok()
    }
}

fn is_end_of_writing(access: notify::event::AccessKind) -> bool {
    use notify::event::{AccessKind, AccessMode};
    matches!(access, AccessKind::Close(AccessMode::Write))
}

/// Whether somebody has a file of a place open to write: then nobody can be promised that
/// it stays.
fn is_being_written(place: &Path) -> bool {
    let (mut next, mut count) = (vec![place.to_owned()], 0);
    while let Some(path) = next.pop().filter(|_| count < FILES) {
        count += 1;
        match fs::metadata(&path) {
            Ok(info) if info.is_file() && is_open_to_write(&path) => return true,
            Ok(info) if info.is_dir() && (path == place || !path.is_symlink()) => {
                next.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
            }
            _ => {}
        }
    }
    false
}

fn is_open_to_write(path: &Path) -> bool {
    let Ok(file) = open(path) else { return false };
    let lease = |kind: libc::c_int| {
        use std::os::fd::AsRawFd;
        // SAFETY: a bare call of the kernel on a descriptor that is open.
        Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) })
    };
    // Not every disk has leases; there the quiet window is all there is.
    let taken = lease(libc::F_RDLCK);
    let _ = lease(libc::F_UNLCK);
    taken == Err(Errno::EAGAIN)
}

/// Opens a file without waiting for anybody.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    match () {
        () if kind.is_file() => Ok(file),
        () if kind.is_fifo() => Err(io::Error::other("it is a pipe and no file")),
        () => Err(io::Error::other("it is no file")),
    }
}

/// Says what a place looks like; 0 if nothing is there.
fn stamp(place: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    let Ok(info) = fs::metadata(place) else {
        // A link to nowhere is something.
        return u64::from(place.is_symlink());
    };
    let mut add = |info: &fs::Metadata| {
        (info.dev(), info.ino(), info.size(), info.mtime(), info.mtime_nsec()).hash(&mut hasher);
    };
    add(&info);
    let (mut folders, mut count) = (vec![place.to_owned()], 0);
    while let Some(folder) = folders.pop().filter(|_| info.is_dir() && count < FILES) {
        let mut entries: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            count += 1;
            let Ok(info) = entry.metadata() else { continue };
            // What Python makes of its files by itself is no part of them.
            if info.is_dir() && entry.file_name() != "__pycache__" {
                folders.push(entry.path());
            } else if !info.is_dir() {
                add(&info);
            }
        }
    }
    hasher.finish().max(1)
}
