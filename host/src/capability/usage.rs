//! What an attempt uses, against what it may use.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::config::file::seconds;
use crate::config::limits::{Limits, bytes};
use crate::terms;

/// How many words on progress a second are passed on; nobody reads faster.
const PROGRESS_PER_SECOND: u64 = 100;
/// How many calls of the host are remembered.
const CALLS: usize = 32;

/// A limit that was hit: its value, of what, and which key of the configuration it is.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what} (limits.{key})")]
pub struct Hit {
    key: &'static str,
    what: String,
}

impl Hit {
    /// Names a limit.
    pub fn new(key: &'static str, what: impl Into<String>) -> Self {
        Self { key, what: what.into() }
    }
}

/// Counts what happens within each second.
#[derive(Debug)]
pub struct Rate {
    since: Instant,
    count: u64,
}

impl Default for Rate {
    fn default() -> Self {
        Self { since: Instant::now(), count: 0 }
    }
}

impl Rate {
    /// Counts one more; false if it is beyond `most` in this second.
    pub fn has_room(&mut self, most: u64) -> bool {
        if self.since.elapsed() >= Duration::from_secs(1) {
            *self = Self::default();
        }
        self.count += 1;
        self.count <= most
    }
}

/// What one attempt has used.
#[derive(Debug)]
pub struct Usage {
    limits: Limits,
    /// Bytes of pixels that it keeps.
    pub(super) pixels: Arc<AtomicU64>,
    moved: AtomicU64,
    shots: Arc<AtomicU64>,
    files: AtomicU64,
    output: AtomicU64,
    said: Mutex<Said>,
    work: Arc<Mutex<Work>>,
    began: Instant,
    /// The last calls of the host, and when they were made.
    calls: Mutex<VecDeque<(Duration, &'static str)>>,
}

#[derive(Debug, Default)]
struct Said {
    bytes: u64,
    lines: Rate,
    progress: Rate,
    /// The farthest that it has come, as it says.
    fraction: f32,
}

/// What is done for an attempt, or in it.
#[derive(Debug)]
struct Work {
    /// What the host does for it now.
    under_way: u64,
    /// Since when its code runs, or could if a processor was free.
    computing: Option<Instant>,
    last: Instant,
}

/// Something that the host does for an attempt, until it is dropped.
#[derive(Debug)]
pub struct Working(Arc<Mutex<Work>>);

/// A shot that is under way, until it is dropped.
#[derive(Debug)]
pub struct UnderWay(Arc<AtomicU64>);

impl Usage {
    /// Begins to count.
    pub fn new(limits: Limits) -> Self {
        let (pixels, moved, shots, files, output, said, calls) = Default::default();
        let work = Arc::new(Mutex::new(Work { under_way: 0, computing: None, last: Instant::now() }));
        Self { limits, pixels, moved, shots, files, output, said, work, began: Instant::now(), calls }
    }

    /// Takes down a call of the host.
    pub fn called(&self, name: &'static str) {
        let mut calls = self.calls.lock().expect("no code panics under this lock");
        if calls.len() == CALLS {
            calls.pop_front();
        }
        calls.push_back((self.began.elapsed(), name));
    }

    /// Returns the last calls of the host, each with the seconds since the attempt began.
    pub fn calls(&self) -> Vec<(f64, String)> {
        let calls = self.calls.lock().expect("no code panics under this lock");
        calls.iter().map(|(at, name)| (at.as_secs_f64(), (*name).to_owned())).collect()
    }

    /// Counts a line of log.
    pub fn log(&self, line: &str) -> Result<(), Hit> {
        let most = bytes(self.limits.log_mib);
        let mut said = self.said.lock().expect("no code panics under this lock");
        said.bytes += line.len() as u64;
        if said.bytes > most {
            return Err(Hit::new("log_mib", format!("{} of log", terms::size(most))));
        }
        let most = self.limits.log_lines_per_second;
        match said.lines.has_room(most) {
            true => Ok(()),
            false => Err(Hit::new("log_lines_per_second", format!("{most} lines of log a second"))),
        }
    }

    /// Takes down how far an attempt says that it is; false if nobody needs to hear of it.
    pub fn progress(&self, fraction: f32) -> bool {
        let mut said = self.said.lock().expect("no code panics under this lock");
        if fraction > said.fraction {
            said.fraction = fraction;
            self.touch();
        }
        said.progress.has_room(PROGRESS_PER_SECOND)
    }

    /// Counts floats of pixels that are read or written.
    pub fn moves(&self, floats: usize) -> Result<(), Hit> {
        let (size, most) = ((floats * size_of::<f32>()) as u64, bytes(self.limits.moved_mib));
        match self.moved.fetch_add(size, Ordering::Relaxed) + size > most {
            true => Err(Hit::new("moved_mib", format!("{} of pixels read and written", terms::size(most)))),
            false => Ok(()),
        }
    }

    /// Counts a shot that begins.
    pub fn shoots(&self) -> Result<UnderWay, Hit> {
        let (most, shots) = (self.limits.shots, UnderWay(self.shots.clone()));
        match self.shots.fetch_add(1, Ordering::Relaxed) >= most {
            true => Err(Hit::new("shots", format!("{most} shots under way at a time"))),
            false => Ok(shots),
        }
    }

    /// Counts a file that is to go to the output folder, by its size.
    pub fn leaves(&self, size: u64) -> Result<(), Hit> {
        let most = self.limits.output_files;
        if self.files.fetch_add(1, Ordering::Relaxed) + 1 > most {
            return Err(Hit::new("output_files", format!("{most} files in the output folder")));
        }
        let most = bytes(self.limits.output_mib);
        match self.output.fetch_add(size, Ordering::Relaxed).saturating_add(size) > most {
            true => Err(Hit::new("output_mib", format!("{} in the output folder", terms::size(most)))),
            false => Ok(()),
        }
    }

    /// Notes that the host does something for the attempt from now on.
    pub fn working(&self) -> Working {
        self.work().under_way += 1;
        Working(self.work.clone())
    }

    /// Notes that the host has done something for the attempt.
    pub fn touch(&self) {
        self.work().last = Instant::now();
    }

    /// Notes whether its code runs from now on, or could: meanwhile it is not idle, however busy the
    /// machine is.
    pub fn computes(&self, now: bool) {
        let mut work = self.work();
        match (now, work.computing) {
            (true, None) => work.computing = Some(Instant::now()),
            (false, Some(since)) => {
                work.last = (work.last + since.elapsed()).min(Instant::now());
                work.computing = None;
            }
            _ => {}
        }
    }

    /// Waits until there was no progress for too long.
    pub async fn idle(&self) -> Hit {
        let limit = seconds(self.limits.idle_seconds);
        loop {
            let left = {
                let work = self.work();
                let is_busy = work.under_way > 0 || work.computing.is_some();
                if is_busy { limit } else { limit.saturating_sub(work.last.elapsed()) }
            };
            if left.is_zero() {
                let what = format!("{} s without progress", self.limits.idle_seconds);
                return Hit::new("idle_seconds", what);
            }
            tokio::time::sleep(left).await;
        }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().expect("no code panics under this lock")
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        let mut work = self.0.lock().expect("no code panics under this lock");
        (work.under_way, work.last) = (work.under_way - 1, Instant::now());
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage() -> Usage {
        let mib = 1.0 / 1024.0 / 1024.0;
        Usage::new(Limits {
            log_mib: 10.0 * mib,
            log_lines_per_second: 3,
            shots: 2,
            output_files: 2,
            output_mib: 10.0 * mib,
            moved_mib: 10.0 * mib,
            idle_seconds: 0.02,
            ..Limits::default()
        })
    }

    fn check<T>(used: Result<T, Hit>, expected: &str) {
        assert_eq!(used.err().unwrap().to_string(), expected);
    }

    #[test]
    fn what_is_used_is_counted_and_the_limit_named() {
        let used = usage();
        used.log("12345").unwrap();
        used.log("12345").unwrap();
        check(used.log("1"), "10 bytes of log (limits.log_mib)");
        let used = usage();
        (0..3).for_each(|_| used.log("").unwrap());
        check(used.log(""), "3 lines of log a second (limits.log_lines_per_second)");
        let (first, _second) = (used.shoots().unwrap(), used.shoots().unwrap());
        check(used.shoots(), "2 shots under way at a time (limits.shots)");
        drop(first);
        used.shoots().unwrap();
        used.leaves(4).and_then(|()| used.leaves(4)).unwrap();
        check(used.leaves(1), "2 files in the output folder (limits.output_files)");
        check(usage().leaves(11), "10 bytes in the output folder (limits.output_mib)");
        used.moves(2).unwrap();
        check(used.moves(1), "10 bytes of pixels read and written (limits.moved_mib)");
    }

    #[tokio::test]
    async fn only_who_has_nothing_done_for_it_is_idle() {
        let used = usage();
        let working = used.working();
        let idle = tokio::time::timeout(Duration::from_millis(100), used.idle()).await;
        assert!(idle.is_err());
        drop(working);
        assert_eq!(used.idle().await.to_string(), "0.02 s without progress (limits.idle_seconds)");
    }

    #[tokio::test]
    async fn who_computes_is_not_idle_and_who_computes_now_and_then_is_so_in_between() {
        let (used, nap) = (usage(), Duration::from_millis(15));
        used.computes(true);
        assert!(tokio::time::timeout(Duration::from_millis(100), used.idle()).await.is_err());
        used.computes(false);
        tokio::time::sleep(nap).await;
        used.computes(true);
        used.computes(false);
        assert!(tokio::time::timeout(nap, used.idle()).await.is_ok());
    }

    #[test]
    fn a_second_has_room_for_so_many() {
        let mut rate = Rate::default();
        assert!((0..5).all(|_| rate.has_room(5)));
        assert!(!rate.has_room(5));
        rate.since -= Duration::from_secs(1);
        assert!(rate.has_room(5));
    }
}
