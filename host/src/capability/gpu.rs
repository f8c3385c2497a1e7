//! `gpu`: devices and leases. In this version the CPU is the only device.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use super::{Attempt, CapabilityError, Code, Result};
use crate::terms::{Capability, JobId};

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in the contract")]
pub enum Kind {
    Cpu,
    Cuda,
    Optix,
    Hip,
    Oneapi,
    Metal,
}

/// Something that renders.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in the contract")]
pub struct Device {
    pub id: String,
    pub name: String,
    pub kind: Kind,
    pub memory: u64,
    pub units: u32,
}

/// What an acquirer wants.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "as in the contract")]
pub struct Request {
    pub kind: Option<Kind>,
    pub count: u32,
    pub memory: u64,
    pub timeout: Duration,
}

/// The devices of a host; clones share them.
#[derive(Debug, Clone)]
pub struct Devices {
    cpu: Device,
    free: Arc<Semaphore>,
    leased: Arc<Mutex<BTreeMap<u64, Leased>>>,
}

/// Who holds a lease.
#[derive(Debug, Clone)]
pub struct Leased {
    /// The job.
    pub job: JobId,
    /// The digest of the release that its attempt runs on.
    pub release: String,
    /// Since when.
    pub since: Instant,
}

/// Takes a lease off the list with its end.
#[derive(Debug)]
struct Listed {
    id: u64,
    leased: Arc<Mutex<BTreeMap<u64, Leased>>>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.leased.lock().expect("no code panics under this lock").remove(&self.id);
    }
}

/// The right to use devices, given back when dropped.
#[derive(Debug)]
pub struct Lease {
    /// The devices leased.
    pub devices: Vec<Device>,
    /// Memory granted on each, in bytes.
    pub memory: u64,
    held: Arc<Mutex<Option<Unit>>>,
    _watched: AbortOnDropHandle<()>,
}

/// A unit of a device that is somebody's.
#[derive(Debug)]
struct Unit {
    _permit: OwnedSemaphorePermit,
    _listed: Listed,
}

impl Drop for Lease {
    fn drop(&mut self) {
        *self.held.lock().expect("no code panics under this lock") = None;
    }
}

impl Devices {
    /// Looks at this machine.
    pub fn of_this_machine() -> Self {
        let units = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let cpu = Device { id: "cpu".to_owned(), name: cpu_name(), kind: Kind::Cpu, memory: memory(), units };
        Self { cpu, free: Arc::new(Semaphore::new(units as usize)), leased: Arc::default() }
    }

    /// Lists the devices.
    pub fn list(&self) -> Vec<Device> {
        vec![self.cpu.clone()]
    }

    /// Leases one unit of the CPU, waiting in order if all are in use.
    pub async fn acquire(&self, request: Request, attempt: &Attempt) -> Result<Lease> {
        self.check(&request)?;
        let unit = tokio::select! {
            unit = self.free.clone().acquire_owned() => unit.expect("the devices stay open"),
            error = attempt.canceled() => return Err(error),
            error = attempt.by.grants.revoked(Capability::Gpu) => return Err(error),
            () = tokio::time::sleep(request.timeout) => {
                let (units, waited) = (self.cpu.units, request.timeout.as_millis());
                let message = format!("all {units} units of the CPU were in use for {waited} ms");
                return Err(CapabilityError::new(Code::Limit, message));
            }
        };
        let unit = Unit { _permit: unit, _listed: self.listed(attempt) };
        let (held, grants) = (Arc::new(Mutex::new(Some(unit))), attempt.by.grants.clone());
        let lost = held.clone();
        let watched = tokio::spawn(async move {
            grants.revoked(Capability::Gpu).await;
            *lost.lock().expect("no code panics under this lock") = None;
        });
        let _watched = AbortOnDropHandle::new(watched);
        Ok(Lease { devices: self.list(), memory: request.memory, held, _watched })
    }

    fn listed(&self, attempt: &Attempt) -> Listed {
        let mut leased = self.leased.lock().expect("no code panics under this lock");
        let id = leased.last_key_value().map_or(0, |(id, _)| id + 1);
        let (job, release) = (attempt.job.id, attempt.by.digest.clone());
        leased.insert(id, Leased { job, release, since: Instant::now() });
        Listed { id, leased: self.leased.clone() }
    }

    /// Lists who holds leases.
    pub fn leased(&self) -> Vec<Leased> {
        self.leased.lock().expect("no code panics under this lock").values().cloned().collect()
    }

    fn check(&self, request: &Request) -> Result<()> {
        let missing = |message: String| Err(CapabilityError::new(Code::NotFound, message));
        if request.count == 0 {
            return Err(CapabilityError::new(Code::InvalidArgument, "a lease is of at least one device"));
        }
        if let Some(kind) = request.kind.filter(|kind| *kind != Kind::Cpu) {
            return missing(format!("this host has no {kind:?} device, only its CPU"));
        }
        if request.count > 1 {
            return missing(format!("this host has 1 device, not {}", request.count));
        }
        if request.memory > self.cpu.memory {
            let (wanted, there) = (request.memory, self.cpu.memory);
            return missing(format!("the CPU has {there} bytes of memory, not {wanted}"));
        }
        Ok(())
    }
}

fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.to_owned())
}

/// Returns the memory that this process and its children may use at most, in bytes:
/// the machine's, or less where a control group says so.
pub fn memory() -> u64 {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let limit = |group: &Path| {
        let limit = std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(group).join("memory.max"));
        limit.ok()?.trim().parse::<u64>().ok()
    };
    // A limit of any group above it holds, too.
    let least = Path::new(group).ancestors().filter_map(limit).min();
    least.map_or(memory_of_machine(), |limit| limit.min(memory_of_machine()))
}

fn memory_of_machine() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib =
        info.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0u64) * 1024
}
