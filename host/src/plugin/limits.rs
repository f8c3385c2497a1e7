//! The limits of one instance: memory, tables, instances and processor time.

use std::time::Duration;

use wasmtime::ResourceLimiter;

/// How often the engine's epoch advances.
pub const TICK: Duration = Duration::from_millis(10);

/// What one call of a component may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Linear memory, in bytes.
    pub memory: usize,
    /// Elements of its tables.
    pub table_elements: usize,
    /// Core instances, memories and tables each.
    pub instances: usize,
    /// Handles open at a time.
    pub handles: usize,
    /// Bytes that one host call copies.
    pub copied: usize,
    /// Processor time between two host calls.
    pub cpu: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 256 * 1024 * 1024,
            table_elements: 20_000,
            instances: 100,
            handles: 1_000,
            copied: 128 * 1024 * 1024,
            cpu: Duration::from_secs(10),
        }
    }
}

/// Watches over one store, and remembers which limit was hit.
#[derive(Debug)]
pub struct Watch {
    limits: Limits,
    ticks: u128,
    /// How many host calls there were when a tick was last counted.
    calls: u64,
    memory: usize,
    tripped: Option<String>,
}

impl Watch {
    /// Begins to watch.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ticks: 0, calls: 0, memory: 0, tripped: None }
    }

    /// Counts a tick of processor time, given how many host calls there were so far;
    /// fails once there were too many ticks between two of them.
    pub fn tick(&mut self, calls: u64) -> wasmtime::Result<()> {
        self.ticks = if calls == self.calls { self.ticks + 1 } else { 1 };
        self.calls = calls;
        if self.ticks * TICK.as_millis() > self.limits.cpu.as_millis() {
            let seconds = self.limits.cpu.as_secs_f64();
            return Err(self.trip(format!("{seconds} s of processor time between two host calls")));
        }
        Ok(())
    }

    /// Returns the limit that was hit, if one was.
    pub fn tripped(&mut self) -> Option<String> {
        self.tripped.take()
    }

    /// Returns the memory that it has come to, in bytes.
    pub fn memory(&self) -> usize {
        self.memory
    }

    fn trip(&mut self, limit: String) -> wasmtime::Error {
        let error = wasmtime::Error::msg(limit.clone());
        self.tripped = Some(limit);
        error
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
        if sum > self.limits.memory {
            let limit = self.limits.memory;
            return Err(self.trip(format!("{limit} bytes of memory (it asked for {sum})")));
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
        if desired > self.limits.table_elements {
            let limit = self.limits.table_elements;
            return Err(self.trip(format!("{limit} table elements (it asked for {desired})")));
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
        Watch::new(Limits { memory: 1000, table_elements: 10, cpu: TICK * 3, ..Limits::default() })
    }

    #[test]
    fn memory_is_limited_as_a_sum_and_the_limit_is_named() {
        let mut watch = watch();
        assert!(watch.memory_growing(0, 600, None).unwrap());
        assert!(watch.memory_growing(600, 700, None).unwrap());
        assert!(watch.memory_growing(0, 301, None).is_err());
        assert_eq!(watch.tripped().unwrap(), "1000 bytes of memory (it asked for 1001)");
    }

    #[test]
    fn tables_are_limited() {
        assert!(watch().table_growing(0, 10, None).unwrap());
        assert!(watch().table_growing(0, 11, None).is_err());
    }

    #[test]
    fn processor_time_is_counted_between_host_calls() {
        let mut watch = watch();
        (0..3).for_each(|_| watch.tick(0).unwrap());
        (0..3).for_each(|_| watch.tick(1).unwrap());
        assert!(watch.tick(1).is_err());
        assert!(watch.tripped().unwrap().starts_with("0.03 s of processor time"));
    }
}
