//! What a plugin holds of the host while it works at one attempt.
//!
//! The same for both kinds of plugin: what a component calls through its imports and
//! a process by messages ends here. Dropped with the attempt, and with it all handles.

use std::sync::Arc;

use wasmtime::component::{Resource, ResourceTable};

use crate::capability::{Attempt, CapabilityError, Code, Result};
use crate::terms::Capability;

/// The handles of one attempt.
#[derive(Debug)]
pub struct Handles {
    attempt: Option<Arc<Attempt>>,
    /// What is behind them.
    pub table: ResourceTable,
    most: usize,
    calls: u64,
}

impl Handles {
    /// Makes room for so many handles; without an attempt every capability is denied.
    pub fn new(attempt: Option<Arc<Attempt>>, most: usize) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(most);
        Self { attempt, table, most, calls: 0 }
    }

    /// Returns the attempt that a call belongs to, if it is granted what it calls.
    /// `describe` has none.
    pub fn attempt(&mut self, capability: Capability) -> Result<Arc<Attempt>> {
        self.called();
        let denied = || CapabilityError::new(Code::Denied, "describe may not use capabilities");
        let attempt = self.attempt.as_ref().ok_or_else(denied)?;
        attempt.by.grants.check(capability)?;
        Ok(attempt.clone())
    }

    /// Counts a call of the host.
    pub fn called(&mut self) {
        self.calls += 1;
    }

    /// Returns how many calls of the host there were.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Keeps what a capability gave, and returns a handle of it.
    pub fn keep<T: Send + 'static>(&mut self, result: Result<T>) -> Result<Resource<T>> {
        let full = |_| {
            let message = format!("an attempt keeps at most {} handles open", self.most);
            CapabilityError::new(Code::Limit, message)
        };
        self.table.push(result?).map_err(full)
    }

    /// Drops what is behind a handle.
    pub fn drop_handle<T: Send + 'static>(&mut self, handle: Resource<T>) -> wasmtime::Result<()> {
        self.called();
        self.table.delete(handle)?;
        Ok(())
    }
}
