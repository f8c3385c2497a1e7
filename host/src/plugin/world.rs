//! What a component sees of the world beside the contract: next to nothing.
//!
//! No files, no network, no environment, no arguments. Clocks are coarse, so that they time
//! nobody's work. Random numbers come from the host, and are the same whenever the same is
//! rendered by the same release: a render can be repeated.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;
use sha2::{Digest, Sha256};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx};

use super::printed::Printed;
use crate::capability::Attempt;

/// What clocks tell apart.
const TICK: Duration = Duration::from_millis(1);

/// A clock that does not look closely.
struct Coarse {
    since: Instant,
}

/// Makes the world of one call; `describe` belongs to no attempt.
pub(super) fn make(attempt: Option<&Attempt>, stderr: Printed) -> WasiCtx {
    let seed = attempt.map(seed).unwrap_or_default();
    let (number, _) = seed.split_first_chunk().expect("a digest is longer than a number");
    WasiCtx::builder()
        .stderr(stderr)
        .wall_clock(Coarse { since: Instant::now() })
        .monotonic_clock(Coarse { since: Instant::now() })
        .secure_random(StdRng::from_seed(seed))
        .insecure_random(StdRng::from_seed(seed))
        .insecure_random_seed(u128::from_le_bytes(*number))
        .build()
}

/// Makes a seed of what is rendered, by what, and as which task.
fn seed(attempt: &Attempt) -> [u8; 32] {
    let task = attempt.of.as_ref().map(|(task, _)| task);
    let from = json!([attempt.job.content.digest(), attempt.by.digest, attempt.by.settings, task]);
    Sha256::digest(from.to_string()).into()
}

/// Takes off a time what a clock does not tell, in nanoseconds.
fn coarsely(time: Duration) -> u64 {
    let (time, tick) = (time.as_nanos() as u64, TICK.as_nanos() as u64);
    time - time % tick
}

impl HostWallClock for Coarse {
    fn resolution(&self) -> Duration {
        TICK
    }

    fn now(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Duration::from_nanos(coarsely(now))
    }
}

impl HostMonotonicClock for Coarse {
    fn resolution(&self) -> u64 {
        TICK.as_nanos() as u64
    }

    fn now(&self) -> u64 {
        coarsely(self.since.elapsed())
    }
}
