//! What a plugin holds of the host while it works at one attempt.
//!
//! The same for both kinds of plugin: what a component calls through its imports and
//! a process by messages ends here. Dropped with the attempt, and with it all handles.

use std::sync::Arc;

use wasmtime::component::{Resource, ResourceTable};

use crate::capability::usage::{Hit, Rate};
use crate::capability::{Attempt, CapabilityError, Code, Result};
use crate::config::limits::Limits;
use crate::terms::Capability;

/// The handles of one attempt.
#[derive(Debug)]
pub struct Handles {
    attempt: Option<Arc<Attempt>>,
    /// What is behind them.
    pub table: ResourceTable,
    limits: Limits,
    calls: u64,
    rate: Rate,
}

impl Handles {
    /// Begins with none; without an attempt every capability is denied.
    pub fn new(attempt: Option<Arc<Attempt>>, limits: &Limits) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.handles);
        Self { attempt, table, limits: *limits, calls: 0, rate: Rate::default() }
    }

    /// Returns the attempt that a call belongs to, if it is granted what it calls.
    /// `describe` has none.
    pub fn attempt(&self, capability: Capability) -> Result<Arc<Attempt>> {
        let denied = || CapabilityError::new(Code::Denied, "describe may not use capabilities");
        let attempt = self.attempt.as_ref().ok_or_else(denied)?;
        attempt.by.grants.check(capability).inspect_err(|error| attempt.denied(capability, error))?;
        if capability != Capability::Host {
            attempt.used.touch();
        }
        Ok(attempt.clone())
    }

    /// Counts a call of the host; fails, and with that ends the plugin's code, if there are
    /// too many.
    pub fn called(&mut self, name: &'static str) -> Result<(), Hit> {
        self.calls += 1;
        if let Some(attempt) = &self.attempt {
            attempt.used.called(name);
        }
        let most = self.limits.calls_per_second;
        match self.rate.has_room(most) {
            true => Ok(()),
            false => Err(Hit::new("calls_per_second", format!("{most} calls of the host a second"))),
        }
    }

    /// Returns how many calls of the host there were.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Keeps what a capability gave, and returns a handle of it.
    pub fn keep<T: Send + 'static>(&mut self, result: Result<T>) -> Result<Resource<T>> {
        let most = self.limits.handles;
        let full = |_| Hit::new("handles", format!("{most} handles open at a time")).into();
        self.table.push(result?).map_err(full)
    }

    /// Drops what is behind a handle.
    pub fn drop_handle<T: Send + 'static>(
        &mut self,
        name: &'static str,
        handle: Resource<T>,
    ) -> wasmtime::Result<()> {
        self.called(name)?;
        self.table.delete(handle)?;
        Ok(())
    }
}
