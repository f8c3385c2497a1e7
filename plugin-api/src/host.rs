//! The conversation with the host.

use std::time::Duration;

use crate::Render;
use crate::sys::hotshoe::plugin::host as sys;
pub use crate::sys::hotshoe::plugin::host::{Level, Wake};
pub use crate::sys::hotshoe::plugin::types::Directive;

/// Writes a line to the job's log.
pub fn log(level: Level, message: &str) {
    sys::log(level, message);
}

/// Says how far the task is, 0.0 to 1.0, with a few words.
pub fn progress(fraction: f32, message: &str) {
    sys::progress(fraction, message);
}

/// Asks how to go on. Never waits.
pub fn turn() -> Directive {
    sys::turn()
}

/// Waits until a render is finished, the host wants a turn, or the time is
/// over (millisecond precision).
pub fn wait_any(renders: &[&Render], timeout: Option<Duration>) -> Wake {
    let renders: Vec<_> = renders.iter().map(|render| &render.0).collect();
    let timeout = timeout.map(|t| u32::try_from(t.as_millis()).unwrap_or(u32::MAX));
    sys::wait_any(&renders, timeout)
}
