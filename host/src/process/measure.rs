//! What processes have in use, as the kernel tells.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::OURS;

/// How many open files of a tree of processes are looked at.
const OPEN_FILES: usize = 20_000;

/// What processes have in use, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InUse {
    /// Memory, that of files without a disk included.
    pub memory: u64,
    /// Files on a disk that are open and have no name any more.
    pub nameless: u64,
}

/// Looks what a guard and the processes below it have in use; fails with what is hidden.
pub fn in_use(tree: &[i32]) -> Result<InUse, String> {
    let mut open = Open::default();
    for pid in tree.iter().skip(OURS) {
        open.look(*pid)?;
    }
    let resident = tree.iter().filter_map(|pid| resident(*pid)).sum::<u64>();
    // What is mapped is resident already.
    let mapped = || tree.iter().filter_map(|pid| shared(*pid)).sum();
    let unmapped = if open.memory == 0 { 0 } else { open.memory.saturating_sub(mapped()) };
    Ok(InUse { memory: resident + unmapped, nameless: open.nameless })
}

/// Returns the processor time that processes have used, in clock ticks.
pub fn processor_time(tree: &[i32]) -> u64 {
    let ticks = |pid: &i32| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before it is in brackets and may hold anything.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        // Its own, and that of its children that have ended.
        fields.get(11..15)?.iter().map(|field| field.parse::<u64>().ok()).sum()
    };
    tree.iter().filter_map(ticks).sum()
}

/// The files without a name that processes have open.
#[derive(Debug, Default)]
struct Open {
    known: HashSet<(u64, u64)>,
    seen: usize,
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
            if let Ok(info) = fs::metadata(file.path()) {
                self.count(&file.path(), &info);
            }
        }
        Ok(())
    }

    fn count(&mut self, descriptor: &Path, info: &Metadata) {
        if !info.is_file() || info.nlink() > 0 || !self.known.insert((info.dev(), info.ino())) {
            return;
        }
        let is_memory = fs::read_link(descriptor)
            .is_ok_and(|name| name.as_os_str().as_encoded_bytes().starts_with(b"/memfd:"));
        *(if is_memory { &mut self.memory } else { &mut self.nameless }) += info.blocks() * 512;
    }
}

fn resident(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    Some(text.split_whitespace().nth(1)?.parse::<u64>().ok()? * page_size())
}

fn shared(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssShmem:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
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
            let now = in_use(&tree).unwrap();
            let more = |now: u64, before: u64| now.saturating_sub(before) as usize / (MUCH / 2);
            (more(now.memory, before.memory), more(now.nameless, before.nameless))
        };
        let before = in_use(&tree).unwrap();
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
