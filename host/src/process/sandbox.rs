//! What a guarded process may not do, whatever runs in it.
//!
//! None of them can become a client of a host: no `connect` to its socket, however
//! it is made, nor can one reach into another process by the calls that are made for
//! that. One with bounds has less than that: the files that are named, no network unless
//! it is granted, no right that its user has by being root.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use serde::{Deserialize, Serialize};

/// Which bounds a process has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sandbox {
    /// Those that all have.
    Bare,
    /// Its own besides.
    Bound(Box<Bounds>),
}

/// What runs in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A stranger's program, or his code.
    Plugin,
    /// A Blender, with a stranger's scene and the drivers of devices.
    Worker,
}

/// What a process may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// What runs in it.
    pub kind: Kind,
    /// Whether it is run all the same where the kernel lacks a part of this.
    pub lenient: bool,
    /// Files and folders that it may read, and run programs from.
    pub read: Vec<PathBuf>,
    /// The folder that it may write.
    pub work: PathBuf,
    /// Device nodes that it may open.
    pub devices: Vec<PathBuf>,
    /// Whether it may use the network (never a Unix socket but those it inherits).
    pub network: bool,
    /// Memory of one process of it, in bytes, if there is a limit.
    pub memory: Option<u64>,
    /// The largest file that it may write, in bytes.
    pub file: u64,
    /// Processor time of one process of it, in seconds, if there is a limit.
    pub cpu: Option<u64>,
    /// Whether it competes for the processors as one, however many threads it has: it is a
    /// session of its own (where the kernel groups by sessions: `sched_autogroup_enabled`).
    pub apart: bool,
}

/// What every one with bounds may read: programs, libraries, and what they look up.
pub const RUNTIME: [&str; 16] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/ssl",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/sys/devices/system/cpu",
];

/// What a worker may read besides: fonts, and what drivers look up, or map.
const WORKER_RUNTIME: [&str; 15] = [
    "/dev/zero",
    "/etc/fonts",
    "/etc/OpenCL",
    "/etc/vulkan",
    "/etc/glvnd",
    "/etc/egl",
    "/etc/nvidia",
    "/opt/rocm",
    "/sys/bus/pci",
    "/sys/class/drm",
    "/sys/class/kfd",
    "/sys/dev/char",
    "/sys/devices",
    "/proc/driver/nvidia",
    "/proc/sys/vm",
];

/// The devices that a worker renders on, or some of their names begin with these.
const GRAPHICS: [&str; 3] = ["dri", "kfd", "nvidia"];

/// The devices that every one with bounds may open.
const DEVICES: [&str; 4] = ["/dev/null", "/dev/full", "/dev/random", "/dev/urandom"];

/// What a plugin with the network looks up to find a host by its name.
const NETWORK: [&str; 5] =
    ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/services"];

/// How many files one with bounds may have open.
pub const OPEN_FILES: u64 = 4096;

/// How many processes and threads one of a plugin may have, and a worker: drivers of devices and
/// renderers start a thread or more for each processor.
const PLUGIN_TASKS: u64 = 512;
const WORKER_TASKS: u64 = 8192;
/// The kernel gives numbers below this only once.
const RESERVED_NUMBERS: u64 = 300;

/// The calls of the kernel that fail with "permission denied" for all.
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

/// Those that fail for one with bounds besides: what would outlive it, what landlock does not
/// see (rights of files, memory without a file) and what is made to change the machine.
const REFUSED_WITH_BOUNDS: [i64; 48] = [
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    SYS_SETXATTRAT,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    SYS_REMOVEXATTRAT,
    SYS_FILE_SETATTR,
    // A file whose times change has changed, and its job waits.
    libc::SYS_utimensat,
    // Of those that know it, only newer versions of landlock.
    libc::SYS_truncate,
    // What others share, by numbers that are easily guessed.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_mq_open,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_open_by_handle_at,
    libc::SYS_personality,
    // Several sessions would have several shares of the processors.
    libc::SYS_setsid,
];

/// Older calls that do the same as others, where the processor knows them.
#[cfg(target_arch = "x86_64")]
const REFUSED_OLD: [i64; 3] = [libc::SYS_utime, libc::SYS_utimes, libc::SYS_futimesat];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_OLD: [i64; 0] = [];

/// Calls that are too new to have a name in libc; their numbers are the same everywhere.
const SYS_SETXATTRAT: i64 = 463;
const SYS_REMOVEXATTRAT: i64 = 466;
const SYS_FILE_SETATTR: i64 = 469;

/// And for a plugin: memory that no limit sees. Drivers of graphics make such.
const REFUSED_TO_PLUGINS: [i64; 2] = [libc::SYS_memfd_create, libc::SYS_memfd_secret];

/// What a new process must not have of its own.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// Marks the same calls for programs with short pointers, where the kernel knows them.
const X32: i64 = 0x4000_0000;

impl Sandbox {
    /// Whether it is to be a session of its own.
    pub(super) fn is_apart(&self) -> bool {
        matches!(self, Self::Bound(bounds) if bounds.apart)
    }

    /// Binds the calling process and all that it will start.
    ///
    /// Allocates: must be called where there is one thread. `isolated` says whether it is
    /// in a PID namespace of its own.
    pub(super) fn enter(&self, isolated: bool) -> io::Result<()> {
        if let Self::Bound(bounds) = self {
            if !isolated && !bounds.lenient {
                // Of other processes it must not even know.
                return Err(unsupported("PID namespaces for this user"));
            }
            bounds.limit_resources()?;
            if isolated {
                bounds.limit_tasks()?;
            }
            drop_capabilities()?;
            match bounds.limit_files() {
                Err(error) if bounds.lenient && error.kind() == io::ErrorKind::Unsupported => {}
                limited => limited?,
            }
            // The C library then makes threads by the older call, whose flags can be seen.
            let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
            apply(clone3, libc::ENOSYS)?;
        }
        apply(self.refused().ok_or_else(|| unsupported("seccomp"))?, libc::EPERM)
    }

    fn refused(&self) -> Option<BTreeMap<i64, Vec<SeccompRule>>> {
        let refused = REFUSED.into_iter().map(|call| (call, Vec::new()));
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = refused.collect();
        if let Self::Bound(bounds) = self {
            let own: &[i64] = if bounds.kind == Kind::Plugin { &REFUSED_TO_PLUGINS } else { &[] };
            rules.extend(
                REFUSED_WITH_BOUNDS.iter().chain(&REFUSED_OLD).chain(own).map(|call| (*call, Vec::new())),
            );
            rules.insert(libc::SYS_socket, bounds.sockets()?);
            // Without a connection a socket of these kinds reaches any other one by its path.
            let kinds = [libc::SOCK_DGRAM, libc::SOCK_RAW];
            rules.insert(libc::SYS_socketpair, any(kinds.map(|kind| masked(1, 0xf, kind)))?);
            // Who hides himself hides what he has open.
            rules.insert(libc::SYS_prctl, any([masked(0, -1, libc::PR_SET_DUMPABLE)])?);
            let namespaces = NAMESPACES.map(|flag| masked(0, flag, flag));
            // A thread with files of its own.
            let apart = masked(0, libc::CLONE_THREAD | libc::CLONE_FILES, libc::CLONE_THREAD);
            let mut clone = any(namespaces)?;
            clone.extend(any([apart])?);
            rules.insert(libc::SYS_clone, clone);
            let apart = libc::CLOSE_RANGE_UNSHARE.cast_signed();
            rules.insert(libc::SYS_close_range, any([masked(2, apart, apart)])?);
            // What is on its way between two sockets counts nowhere.
            let buffers = [libc::SO_SNDBUF, libc::SO_RCVBUF]
                .map(|option| all([masked(1, -1, libc::SOL_SOCKET), masked(2, -1, option)]));
            rules.insert(libc::SYS_setsockopt, buffers.into_iter().collect::<Option<_>>()?);
            if bounds.kind == Kind::Plugin {
                // It stays when it is not resident any more.
                let shared = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
                rules.insert(libc::SYS_mmap, any([masked(3, shared, shared)])?);
            }
            if bounds.network {
                rules.remove(&libc::SYS_connect);
            }
        }
        Some(rules)
    }
}

/// Refuses calls of the kernel with an error from now on.
fn apply(refused: BTreeMap<i64, Vec<SeccompRule>>, error: i32) -> io::Result<()> {
    let both = refused.into_iter().flat_map(|(call, rule)| [(call, rule.clone()), (call | X32, rule)]);
    let refuse = SeccompAction::Errno(error as u32);
    let made = || -> Option<BpfProgram> {
        let architecture = std::env::consts::ARCH.try_into().ok()?;
        let filter = SeccompFilter::new(both.collect(), SeccompAction::Allow, refuse, architecture);
        filter.ok()?.try_into().ok()
    };
    let filter = made().ok_or_else(|| unsupported("seccomp"))?;
    seccompiler::apply_filter(&filter).map_err(|_| unsupported("seccomp"))
}

/// An argument of a call has these bits of those.
fn masked(argument: u8, mask: i32, bits: i32) -> Option<SeccompCondition> {
    let operator = SeccompCmpOp::MaskedEq(mask as u64);
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, bits as u64).ok()
}

/// Any one of these.
fn any<const N: usize>(conditions: [Option<SeccompCondition>; N]) -> Option<Vec<SeccompRule>> {
    conditions.into_iter().map(|condition| SeccompRule::new(vec![condition?]).ok()).collect()
}

/// All of these.
fn all<const N: usize>(conditions: [Option<SeccompCondition>; N]) -> Option<SeccompRule> {
    SeccompRule::new(conditions.into_iter().collect::<Option<_>>()?).ok()
}

impl Bounds {
    /// Says which sockets are refused: all, or all but those of the network.
    fn sockets(&self) -> Option<Vec<SeccompRule>> {
        if !self.network {
            return Some(Vec::new());
        }
        // `getaddrinfo` looks through netlink which addresses there are.
        let other = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK]
            .map(|family| SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family as u64));
        let other: Result<Vec<_>, _> = other.into_iter().collect();
        Some(vec![SeccompRule::new(other.ok()?).ok()?])
    }

    fn limit_resources(&self) -> io::Result<()> {
        let limits = [
            (Resource::RLIMIT_CORE, 0),
            (Resource::RLIMIT_NOFILE, OPEN_FILES),
            (Resource::RLIMIT_FSIZE, self.file),
        ];
        let memory = self.memory.map(|bytes| (Resource::RLIMIT_DATA, bytes));
        let cpu = self.cpu.map(|seconds| (Resource::RLIMIT_CPU, seconds));
        let mut limits = limits.into_iter().chain(memory).chain(cpu);
        limits.try_for_each(|(resource, limit)| lower(resource, limit))
    }

    /// Lets the kernel count its processes and threads. Since Linux 6.14 each PID namespace has its own
    /// highest number, which holds for root, too. Since 5.14 those of other users are counted by user
    /// and namespace; before that, all of the user count.
    fn limit_tasks(&self) -> io::Result<()> {
        let kernel = nix::sys::utsname::uname()?;
        let mut numbers =
            kernel.release().to_str().unwrap_or_default().split(['.', '-']).map(str::parse::<u32>);
        let version = (numbers.next().and_then(Result::ok), numbers.next().and_then(Result::ok));
        let most = match self.kind {
            Kind::Plugin => PLUGIN_TASKS,
            Kind::Worker => WORKER_TASKS,
        };
        // An older kernel would take it for the whole machine.
        if version >= (Some(6), Some(14)) {
            // In some containers it cannot be written: docs/SECURITY.md says so.
            let _ = std::fs::write("/proc/sys/kernel/pid_max", (most + RESERVED_NUMBERS).to_string());
        }
        if version < (Some(5), Some(14)) || nix::unistd::Uid::current().is_root() {
            return Ok(());
        }
        lower(Resource::RLIMIT_NPROC, most)
    }

    fn limit_files(&self) -> io::Result<()> {
        let failed = |error: &dyn std::fmt::Display| io::Error::other(format!("landlock: {error}"));
        let abi = ABI::V6;
        let read = AccessFs::from_read(abi);
        let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::ReadDir | AccessFs::IoctlDev;
        let mut rules: Vec<(PathBuf, BitFlags<AccessFs>)> =
            vec![(self.work.clone(), AccessFs::from_all(abi))];
        let network: &[&str] = if self.network { &NETWORK } else { &[] };
        let worker: &[&str] = if self.kind == Kind::Worker { &WORKER_RUNTIME } else { &[] };
        let runtime = RUNTIME.iter().chain(network).chain(worker).map(PathBuf::from);
        rules.extend(runtime.chain(self.read.iter().cloned()).map(|path| (path, read)));
        let devices = DEVICES.iter().map(PathBuf::from).chain(self.devices.iter().cloned());
        rules.extend(devices.map(|path| (path, device)));
        let ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(abi))
            .and_then(|ruleset| ruleset.scope(Scope::from_all(abi)))
            .and_then(|ruleset| ruleset.create())
            .map_err(|error| failed(&error))?;
        let mut ruleset = ruleset;
        for (path, access) in rules {
            // Not every system has all of them.
            let Ok(opened) = PathFd::new(&path) else { continue };
            let access = if path.is_dir() { access } else { access & AccessFs::from_file(abi) };
            ruleset = ruleset.add_rule(PathBeneath::new(opened, access)).map_err(|error| failed(&error))?;
        }
        let status = ruleset.restrict_self().map_err(|error| failed(&error))?;
        match status.ruleset {
            RulesetStatus::NotEnforced => Err(unsupported("landlock")),
            _ => Ok(()),
        }
    }
}

/// Lists the devices of this machine that a worker may render on.
pub fn graphics() -> Vec<PathBuf> {
    let devices = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let is_one = |name: &std::ffi::OsString| GRAPHICS.iter().any(|g| name.to_string_lossy().starts_with(g));
    devices.filter(|device| is_one(&device.file_name())).map(|device| device.path()).collect()
}

/// Lowers a limit. Nobody may have more than the machine allows already, and fewer will often do.
fn lower(resource: Resource, limit: u64) -> io::Result<()> {
    let limit = limit.min(getrlimit(resource)?.1);
    Ok(setrlimit(resource, limit, limit)?)
}

/// Gives up what root may do because it is root.
fn drop_capabilities() -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    // Version 3 has two words each of effective, permitted and inheritable ones.
    let (header, none) = (Header { version: 0x2008_0522, pid: 0 }, [0u32; 6]);
    // A program that is run as root would get back what is in the bounding set.
    for capability in 0..64 {
        // SAFETY: a bare call of the kernel; it fails for those that are not known.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    // SAFETY: both point to what capset(2) reads, for as long as the call takes.
    match unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn unsupported(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("this kernel or processor has no {what}"))
}
