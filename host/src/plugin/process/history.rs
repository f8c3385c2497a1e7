//! How often a plugin's processes have failed, and what follows from it; pure.
//!
//! ```text
//! may start ──failed──► waits, each time longer ──failed too often──► quarantined
//!     ▲                        │
//!     └──worked, ten times─────┘
//! ```

use std::time::{Duration, Instant};

/// How long a plugin waits after its first failure; each further one doubles it.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Failures that are so old do not count any more.
const MEMORY: Duration = Duration::from_secs(600);

/// How many calls that went well make up for a failure.
const WORTH: u32 = 10;

/// What the processes of one release have done.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Failures that nothing has made up for, in calls that would.
    owed: u32,
    last: Option<Instant>,
    quarantine: Option<String>,
}

impl History {
    /// Counts a failure; says why the release is quarantined if that was one too many.
    pub(super) fn failed(&mut self, now: Instant, reason: &str, most: u32) -> Option<&str> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) > MEMORY) {
            self.owed = 0;
        }
        self.owed = self.owed.saturating_add(WORTH);
        self.last = Some(now);
        if self.failures() >= most && self.quarantine.is_none() {
            self.quarantine = Some(format!("its processes failed {most} times, last: {reason}"));
            return self.quarantine.as_deref();
        }
        None
    }

    /// Makes up for a part of a failure: a process has done its work.
    pub(super) fn worked(&mut self) {
        self.owed = self.owed.saturating_sub(1);
    }

    /// Counts the failures that nothing has made up for.
    fn failures(&self) -> u32 {
        self.owed.div_ceil(WORTH)
    }

    /// Returns how long to wait before a process is started, `spread` from 0 to 1 in
    /// the middle of what is possible; an error once there is no use in it.
    pub(super) fn wait(&self, now: Instant, spread: f64) -> Result<Duration, String> {
        if let Some(reason) = &self.quarantine {
            return Err(reason.clone());
        }
        let (Some(last), true) = (self.last, self.owed > 0) else { return Ok(Duration::ZERO) };
        let doubled = FIRST_WAIT.saturating_mul(1 << (self.failures() - 1).min(16)).min(LONGEST_WAIT);
        let until = last + doubled.mul_f64(0.75 + spread / 2.0);
        Ok(until.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_is_waited_for_longer_and_success_forgets_them() {
        let (mut history, now) = (History::default(), Instant::now());
        assert_eq!(history.wait(now, 0.5), Ok(Duration::ZERO));
        let mut waits = Vec::new();
        for _ in 0..10 {
            assert_eq!(history.failed(now, "it died", 100), None);
            waits.push(history.wait(now, 0.5).unwrap());
        }
        assert_eq!(waits[..3], [FIRST_WAIT, FIRST_WAIT * 2, FIRST_WAIT * 4]);
        assert_eq!(waits[9], LONGEST_WAIT);
        assert!(history.wait(now, 0.0).unwrap() < history.wait(now, 1.0).unwrap());
        assert_eq!(history.wait(now + LONGEST_WAIT, 0.5), Ok(Duration::ZERO));
        (0..WORTH * 10).for_each(|_| history.worked());
        assert_eq!(history.wait(now, 0.5), Ok(Duration::ZERO));
    }

    #[test]
    fn too_many_failures_are_the_end() {
        let (mut history, now) = (History::default(), Instant::now());
        assert_eq!(history.failed(now, "it hung", 3), None);
        // It plans well and dies whenever it renders.
        history.worked();
        assert_eq!(history.failed(now, "it hung", 3), None);
        assert!(history.failed(now, "it died", 3).unwrap().ends_with("failed 3 times, last: it died"));
        assert!(history.wait(now, 0.5).unwrap_err().contains("it died"));
        history.worked();
        assert!(history.wait(now, 0.5).is_err(), "that another call had worked changes nothing");
    }

    #[test]
    fn old_failures_do_not_count() {
        let (mut history, now) = (History::default(), Instant::now());
        history.failed(now, "it died", 2);
        assert_eq!(history.failed(now + MEMORY * 2, "it died", 2), None);
    }
}
