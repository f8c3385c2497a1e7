//! What processes have in use, as the kernel tells.

use std::collections::{HashMap, HashSet};
use std::fs::{self, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use super::OURS;

/// How many open files of a tree of processes are looked at.
const OPEN_FILES: usize = 20_000;
/// How many sockets they may have open: each takes memory that counts nowhere.
const SOCKETS: usize = 1024;
/// How many threads they may have: the machine has numbers for so many only.
const THREADS: usize = 4096;

/// How long the threads of a process may take to end together.
const ENDING: Duration = Duration::from_millis(100);

/// What processes have in use, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InUse {
    /// Memory, that of files without a disk and of page tables included.
    pub memory: u64,
    /// Files on a disk that are open and have no name any more.
    pub nameless: u64,
}

/// Looks what a guard and the processes below it have in use, whose own folder is `home`; fails
/// with what is hidden, or what is too much whoever it is.
pub fn in_use(tree: &[i32], home: &Path) -> Result<InUse, String> {
    let (mut open, mut threads) = (Open::default(), 0);
    let below = tree.get(OURS..).unwrap_or_default();
    for pid in below {
        let here = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        threads += here;
        if threads > THREADS {
            return Err(format!("it has more than {THREADS} threads"));
        }
        if here > 1 && has_no_first(*pid) {
            return Err("it hides behind a first thread that has ended".to_owned());
        }
        open.look(*pid)?;
    }
    for pid in below {
        if open.lacks_mapped(*pid, home) {
            // One may have been opened just now.
            open.look(*pid)?;
            if open.lacks_mapped(*pid, home) {
                return Err("it hides a file that it has mapped".to_owned());
            }
        }
    }
    let known: Vec<Memory> = tree.iter().filter_map(|pid| Memory::of(*pid)).collect();
    let sum = |part: fn(&Memory) -> u64| known.iter().map(part).sum::<u64>();
    // What is mapped is resident already.
    let unmapped = open.memory.saturating_sub(sum(|memory| memory.shared));
    Ok(InUse { memory: sum(|memory| memory.resident) + unmapped, nameless: open.nameless })
}

/// Returns the processor time that processes have used, in clock ticks.
pub fn processor_time(tree: &[i32]) -> u64 {
    // Its own, and that of its children that have ended and were waited for.
    tree.iter().filter_map(|pid| ticks(*pid, 11..15)).sum()
}

/// Returns the processor time that each process has used by itself, in clock ticks.
pub fn own_times(tree: &[i32]) -> HashMap<i32, u64> {
    let own = |pid: &i32| Some((*pid, ticks(*pid, 11..13)?));
    tree.iter().filter_map(own).collect()
}

/// Adds up times that the kernel tells of a process.
fn ticks(pid: i32, fields: Range<usize>) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it is in brackets and may hold anything.
    let all: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    all.get(fields)?.iter().map(|field| field.parse::<u64>().ok()).sum()
}

/// The files without a name that processes have open.
#[derive(Debug, Default)]
struct Open {
    known: HashSet<(u64, u64)>,
    seen: usize,
    sockets: usize,
    memory: u64,
    nameless: u64,
}

impl Open {
    fn look(&mut self, pid: i32) -> Result<(), String> {
        let files = match fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err("it hides which files it has open".to_owned());
            }
            // It has ended.
            Err(_) => return Ok(()),
        };
        for file in files.flatten() {
            self.seen += 1;
            if self.seen > OPEN_FILES {
                return Err(format!("its processes have more than {OPEN_FILES} files open"));
            }
            if let Ok(info) = fs::metadata(file.path())
                && self.known.insert((info.dev(), info.ino()))
            {
                self.count(&file.path(), &info);
            }
            if self.sockets > SOCKETS {
                return Err(format!("it has more than {SOCKETS} sockets"));
            }
        }
        Ok(())
    }

    /// Whether a file of its folder is mapped that has no name and is not open: nobody can see how
    /// large that is.
    fn lacks_mapped(&self, pid: i32, home: &Path) -> bool {
        let Ok(maps) = fs::read(format!("/proc/{pid}/maps")) else { return false };
        let is_hidden = |line: &[u8]| {
            let line = String::from_utf8_lossy(line.strip_suffix(b" (deleted)")?);
            let mut fields = line.splitn(6, ' ');
            let number: u64 = fields.nth(4)?.parse().ok()?;
            let is_own = Path::new(fields.next()?.trim_start()).starts_with(home);
            Some(is_own && !self.known.iter().any(|(_, known)| *known == number))
        };
        maps.split(|byte| *byte == b'\n').any(|line| is_hidden(line) == Some(true))
    }

    fn count(&mut self, descriptor: &Path, info: &Metadata) {
        self.sockets += usize::from(info.file_type().is_socket());
        if !info.is_file() || info.nlink() > 0 {
            return;
        }
        let is_memory = fs::read_link(descriptor)
            .is_ok_and(|name| name.as_os_str().as_encoded_bytes().starts_with(b"/memfd:"));
        *(if is_memory { &mut self.memory } else { &mut self.nameless }) += info.blocks() * 512;
    }
}

/// The memory of one process, in bytes.
#[derive(Debug, Default)]
struct Memory {
    /// With its page tables.
    resident: u64,
    /// Of that, what has no file on a disk and others may have too.
    shared: u64,
}

impl Memory {
    fn of(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let mut found = Self::default();
        for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
            let part = match name {
                "VmRSS" | "VmPTE" => &mut found.resident,
                "RssShmem" => &mut found.shared,
                _ => continue,
            };
            *part += value.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024;
        }
        Some(found)
    }
}

/// Whether the first thread of a process, which shows what all of it has, has ended and others go on.
fn has_no_first(pid: i32) -> bool {
    let is_so = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let has_ended = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'));
        has_ended && fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count) > 1
    };
    // When all of it ends, the first may be first.
    is_so() && {
        std::thread::sleep(ENDING);
        is_so()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use memmap2::MmapRaw;
    use nix::fcntl::{FallocateFlags, fallocate};
    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    #[test]
    fn files_without_a_name_are_seen() {
        // Besides what other tests of this process do.
        const MUCH: usize = 256 << 20;
        let tree = [0, 0, std::process::id().cast_signed()];
        let grown = |before: InUse| {
            let now = in_use(&tree, Path::new("/none")).unwrap();
            let more = |now: u64, before: u64| now.saturating_sub(before) as usize / (MUCH / 2);
            (more(now.memory, before.memory), more(now.nameless, before.nameless))
        };
        let before = in_use(&tree, Path::new("/none")).unwrap();
        let fill = |file: &File| fallocate(file, FallocateFlags::empty(), 0, MUCH as i64).unwrap();
        let file = tempfile::tempfile().unwrap();
        fill(&file);
        assert_eq!(grown(before), (0, 2));
        drop(file);
        let memory = File::from(memfd_create("some", MFdFlags::empty()).unwrap());
        let twice = memory.try_clone().unwrap();
        fill(&memory);
        assert_eq!(grown(before), (2, 0));
        // What is mapped is not counted twice.
        let map = MmapRaw::map_raw(&memory).unwrap();
        // SAFETY: the mapping is that long, and nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(map.as_mut_ptr(), MUCH) }.fill(2);
        assert_eq!(grown(before), (2, 0));
        drop((memory, twice, map));
        assert_eq!(grown(before), (0, 0));
    }
}
