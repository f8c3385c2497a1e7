//! What a worker may not do, whatever runs in it.
//!
//! It cannot become a client of a host: no `connect`, however it is made. Nor can
//! it reach into another process by the calls that are made for that. Files are not
//! covered: `/proc/PID/mem` is closed by the kernel to all but root.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// The calls of the kernel that fail with "permission denied".
const REFUSED: [i64; 8] = [
    libc::SYS_connect,
    // Would connect without the call of that name.
    libc::SYS_io_uring_setup,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_userfaultfd,
];

/// Marks the same calls for programs with short pointers, where the kernel knows them.
const X32: i64 = 0x4000_0000;

/// Makes the filter; none where it cannot be made.
pub(super) fn filter() -> Option<BpfProgram> {
    let rules: BTreeMap<i64, _> =
        REFUSED.into_iter().flat_map(|call| [call, call | X32]).map(|call| (call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let architecture = std::env::consts::ARCH.try_into().ok()?;
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture).ok()?.try_into().ok()
}
