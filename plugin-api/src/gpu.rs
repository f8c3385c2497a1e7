//! Devices to render on.

use crate::Result;
use crate::sys::hotshoe::plugin::gpu as sys;
pub use crate::sys::hotshoe::plugin::gpu::Request;
pub use crate::sys::hotshoe::plugin::types::{Device, DeviceKind};

/// Lists the devices that this plugin may lease.
pub fn devices() -> Vec<Device> {
    sys::devices()
}

/// Leases devices, waiting in a fair queue if they are in use.
pub fn acquire(request: Request) -> Result<Lease> {
    Ok(Lease(sys::acquire(request)?))
}

/// The right to use devices, given back when dropped.
#[derive(Debug)]
pub struct Lease(pub(crate) sys::Lease);

impl Lease {
    /// Returns the devices leased.
    pub fn devices(&self) -> Vec<Device> {
        self.0.devices()
    }

    /// Returns the memory granted on each device, in bytes.
    pub fn memory(&self) -> u64 {
        self.0.memory()
    }
}
