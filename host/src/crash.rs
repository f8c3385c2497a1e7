//! Places where a test can end the host, as a loss of power would.
//!
//! `HOTSHOE_CRASH=place:3` kills the process when it comes to the place for the
//! third time. Only in builds with debug assertions: a release has none of it.

/// Names a place where a test can end the host.
#[macro_export]
macro_rules! crash_point {
    ($place:literal) => {
        #[cfg(debug_assertions)]
        $crate::crash::reached($place);
    };
}

/// Kills this process if this is the place, and the time, that was asked for.
#[cfg(debug_assertions)]
pub fn reached(place: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static WANTED: LazyLock<Option<(String, u32)>> = LazyLock::new(|| {
        let wanted = std::env::var("HOTSHOE_CRASH").ok()?;
        let (place, time) = wanted.split_once(':')?;
        Some((place.to_owned(), time.parse().ok()?))
    });
    static TIMES: AtomicU32 = AtomicU32::new(0);
    if let Some((wanted, time)) = &*WANTED
        && wanted == place
        && TIMES.fetch_add(1, Ordering::Relaxed) + 1 == *time
    {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}
