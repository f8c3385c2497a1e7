//! Watching over one instance: memory, tables, instances and processor time.

use std::time::Duration;

use wasmtime::ResourceLimiter;

use crate::capability::usage::Hit;
use crate::config::limits::{Limits, bytes};
use crate::terms::size;

/// How often the engine's epoch advances.
pub const TICK: Duration = Duration::from_millis(10);

/// Watches over one store, and remembers which limit was hit.
#[derive(Debug)]
pub struct Watch {
    limits: Limits,
    used: Duration,
    /// How many host calls there were when a tick was last counted.
    calls: u64,
    memory: usize,
    tripped: Option<Hit>,
}

impl Watch {
    /// Begins to watch.
    pub fn new(limits: Limits) -> Self {
        Self { limits, used: Duration::ZERO, calls: 0, memory: 0, tripped: None }
    }

    /// Counts processor time, given how many host calls there were so far; fails once there was
    /// too much of it between two of them.
    pub fn tick(&mut self, time: Duration, calls: u64) -> wasmtime::Result<()> {
        self.used = if calls == self.calls { self.used + time } else { time };
        self.calls = calls;
        let seconds = self.limits.cpu_seconds;
        if self.used.as_secs_f64() > seconds {
            let what = format!("{seconds} s of processor time between two host calls");
            return Err(self.trip(Hit::new("cpu_seconds", what)));
        }
        Ok(())
    }

    /// Returns the limit that was hit, if one was.
    pub fn tripped(&mut self) -> Option<Hit> {
        self.tripped.take()
    }

    /// Returns the memory that it has come to, in bytes.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// The errors of some limits reach the host as text only.
    fn trip(&mut self, hit: Hit) -> wasmtime::Error {
        self.tripped = Some(hit.clone());
        hit.into()
    }
}

impl ResourceLimiter for Watch {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // The sum over all memories of the store.
        let sum = (self.memory - current.min(self.memory)).saturating_add(desired);
        let most = bytes(self.limits.memory_mib);
        if sum as u64 > most {
            let what = format!("{} of memory, and asked for {}", size(most), size(sum as u64));
            return Err(self.trip(Hit::new("memory_mib", what)));
        }
        self.memory = sum;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let most = self.limits.table_elements;
        if desired > most {
            let what = format!("{most} elements of a table, and asked for {desired}");
            return Err(self.trip(Hit::new("table_elements", what)));
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.limits.instances
    }

    fn tables(&self) -> usize {
        self.limits.instances
    }

    fn memories(&self) -> usize {
        self.limits.instances
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> Watch {
        let memory_mib = 1000.0 / 1024.0 / 1024.0;
        Watch::new(Limits { memory_mib, table_elements: 10, cpu_seconds: 0.03, ..Limits::default() })
    }

    #[test]
    fn memory_is_limited_as_a_sum_and_the_limit_is_named() {
        let mut watch = watch();
        assert!(watch.memory_growing(0, 600, None).unwrap());
        assert!(watch.memory_growing(600, 700, None).unwrap());
        assert!(watch.memory_growing(0, 301, None).is_err());
        let hit = watch.tripped().unwrap().to_string();
        assert_eq!(hit, "1000 bytes of memory, and asked for 1001 bytes (limits.memory_mib)");
    }

    #[test]
    fn tables_are_limited() {
        assert!(watch().table_growing(0, 10, None).unwrap());
        assert!(watch().table_growing(0, 11, None).is_err());
    }

    #[test]
    fn processor_time_is_counted_between_host_calls() {
        let mut watch = watch();
        (0..3).for_each(|_| watch.tick(TICK, 0).unwrap());
        (0..3).for_each(|_| watch.tick(TICK, 1).unwrap());
        assert!(watch.tick(TICK / 10, 1).is_err());
        assert!(watch.tripped().unwrap().to_string().starts_with("0.03 s of processor time"));
    }
}
