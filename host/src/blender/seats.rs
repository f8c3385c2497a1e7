//! Which processors each worker keeps to.
//!
//! Owns the division of the machine. Workers that share it share no processor,
//! as far as there are enough: a worker's threads then find their caches warm.
//! A lone worker has the whole machine and does as its scene says.

use std::fs;
use std::sync::{Arc, Mutex};
use std::thread::available_parallelism;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// The seats of a pool; clones share them.
#[derive(Debug, Clone)]
pub struct Seats(Arc<Mutex<Vec<Share>>>);

/// A worker's part of the machine, back in the pool when dropped.
#[derive(Debug, Default)]
pub struct Seat {
    share: Share,
    from: Option<Seats>,
}

/// What a seat stands for.
#[derive(Debug, Clone, Default, PartialEq)]
struct Share {
    /// The processors to keep to; any if there are none.
    processors: Vec<usize>,
    /// The threads to render with; as many as the scene says if absent.
    threads: Option<u32>,
}

impl Seats {
    /// Divides what this process may use among so many workers.
    pub fn divide(workers: usize) -> Self {
        let parallelism = available_parallelism().map_or(1, std::num::NonZero::get);
        Self(Arc::new(Mutex::new(divide(&processors(), parallelism, workers))))
    }

    /// Takes a seat; there is one for everyone who has a permit of the pool.
    pub fn take(&self) -> Seat {
        let share = self.free().pop().expect("a pool gives no more permits than it has seats");
        Seat { share, from: Some(self.clone()) }
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Share>> {
        self.0.lock().expect("no code panics under this lock")
    }
}

impl Seat {
    /// Returns the same place, for somebody who only remembers it.
    pub(super) fn same(&self) -> Self {
        Self { share: self.share.clone(), from: None }
    }

    /// Whether it is the same place.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.share == other.share
    }

    /// The threads to render with; as many as the scene says if absent.
    pub(super) fn threads(&self) -> Option<u32> {
        self.share.threads
    }

    /// The processors to keep to; any if absent.
    pub(super) fn processors(&self) -> nix::Result<Option<CpuSet>> {
        let mut set = CpuSet::new();
        self.share.processors.iter().try_for_each(|processor| set.set(*processor))?;
        Ok((!self.share.processors.is_empty()).then_some(set))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(seats) = self.from.take() {
            seats.free().push(std::mem::take(&mut self.share));
        }
    }
}

/// Divides processors that are in the order of their nearness.
fn divide(processors: &[usize], parallelism: usize, workers: usize) -> Vec<Share> {
    if workers == 1 {
        return vec![Share::default()];
    }
    let count = processors.len();
    if parallelism < count || count == 0 {
        // A quota does not say which processors are free for it. Never one thread
        // without a processor to keep to: Blender 4.5 then burns a second one.
        let threads = Some((parallelism / workers).max(2) as u32);
        return vec![Share { processors: Vec::new(), threads }; workers];
    }
    let share = |worker: usize| {
        let first = worker * count / workers;
        let processors = processors[first..((worker + 1) * count / workers).max(first + 1)].to_vec();
        let threads = Some(processors.len() as u32);
        Share { processors, threads }
    };
    // Seats are taken from the end.
    (0..workers).rev().map(share).collect()
}

/// The processors that this process may use, those of a core and of a package together.
fn processors() -> Vec<usize> {
    let Ok(allowed) = sched_getaffinity(Pid::from_raw(0)) else { return Vec::new() };
    let mut processors: Vec<usize> =
        (0..CpuSet::count()).filter(|processor| allowed.is_set(*processor).unwrap_or(false)).collect();
    processors.sort_by_key(|processor| {
        let part = |name: &str| -> u32 {
            let path = format!("/sys/devices/system/cpu/cpu{processor}/topology/{name}");
            fs::read_to_string(path).ok().and_then(|id| id.trim().parse().ok()).unwrap_or_default()
        };
        (part("physical_package_id"), part("die_id"), part("core_id"))
    });
    processors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(processors: usize, workers: usize) -> Vec<Vec<usize>> {
        let all: Vec<usize> = (0..processors).collect();
        let shares = divide(&all, processors, workers).into_iter().rev();
        shares.map(|share| share.processors).collect()
    }

    #[test]
    fn every_processor_has_a_worker_and_every_worker_a_processor() {
        assert_eq!(shares(2, 2), [[0], [1]]);
        assert_eq!(shares(8, 3), [vec![0, 1], vec![2, 3, 4], vec![5, 6, 7]]);
        assert_eq!(shares(2, 4), [[0], [0], [1], [1]]);
    }

    #[test]
    fn a_lone_worker_has_the_machine() {
        assert_eq!(divide(&[0, 1], 2, 1), [Share::default()]);
    }

    #[test]
    fn a_quota_divides_threads_and_no_processors() {
        let shares = divide(&(0..64).collect::<Vec<_>>(), 8, 2);
        assert_eq!(shares, vec![Share { processors: Vec::new(), threads: Some(4) }; 2]);
        assert_eq!(divide(&[0, 1, 2, 3], 2, 2)[0].threads, Some(2));
    }

    #[test]
    fn a_dropped_seat_is_free_again() {
        let seats = Seats(Arc::new(Mutex::new(divide(&[0, 1], 2, 2))));
        let (first, _second) = (seats.take(), seats.take());
        let share = first.share.clone();
        drop(first);
        assert_eq!(seats.take().share, share);
    }
}
