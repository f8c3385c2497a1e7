//! Compiling strangers' components: in a process of its own, with limits.
//!
//! The child is this program again, in the sandbox of a plugin: it reads the component,
//! writes the code into a folder of its own, and reaches nothing else.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use nix::libc;
use tokio_util::task::TaskTracker;

use crate::plugin::PluginError;
use crate::plugin::component;
use crate::process::sandbox::{Bounds, Kind, Sandbox};
use crate::process::{Process, guarded};
use crate::terms::size;

/// The argument by which the host calls itself to compile.
pub const ARGUMENT: &str = "compile-component";
/// The largest compiled form, in bytes.
const MAX_CODE: u64 = 1024 * 1024 * 1024;
/// How much less urgent compiling is than all else: what serves goes first, and the new release
/// does not wait for ever (docs/BENCHMARKS.md, swap).
const NICE: libc::c_int = 6;
/// How long its turns on a processor are: the shortest that there are.
const TURN: Duration = Duration::from_micros(100);

/// What compiling one component may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Time.
    pub time: Duration,
    /// Processor time, in seconds.
    pub cpu: u64,
    /// Memory, in bytes.
    pub memory: u64,
}

/// Is the child: `COMPONENT CODE`. What is wrong with the component goes to standard error.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let [component, code] = arguments else { return ExitCode::FAILURE };
    step_back();
    let compiled = || -> Result<(), String> {
        let bytes = fs::read(component).map_err(|error| error.to_string())?;
        let made = component::compile(&bytes).map_err(|error| match error {
            PluginError::Contract(what) => what,
            other => other.to_string(),
        })?;
        fs::write(code, made).map_err(|error| error.to_string())
    };
    match compiled() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Lets what serves go first: this is less urgent, and takes its turns on a processor in small
/// pieces (as of Linux 6.12; before that they are as long as everybody's).
fn step_back() {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        sched_nice: NICE,
        sched_priority: 0,
        sched_runtime: TURN.as_nanos() as u64,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads a structure that is whole, and writes nothing.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

/// Compiles a component into a file of a folder that is this call's alone.
pub async fn compile(component: &Path, folder: &Path, limits: Limits) -> Result<PathBuf, PluginError> {
    let host = |error: io::Error| PluginError::Host(format!("cannot compile: {error}"));
    let program = std::env::current_exe().map_err(host)?;
    let code = folder.join("code");
    let bounds = Bounds {
        kind: Kind::Plugin,
        lenient: false,
        read: vec![program.clone(), component.to_owned()],
        work: folder.to_owned(),
        devices: Vec::new(),
        network: false,
        memory: Some(limits.memory),
        file: MAX_CODE,
        cpu: Some(limits.cpu),
        // Then its urgency would count among its own threads only.
        apart: false,
    };
    let mut command = guarded(&program, &Sandbox::Bound(bounds.into()), &program);
    command.arg(ARGUMENT).arg(component).arg(&code).env_clear().current_dir(folder);
    let process = Process::start(command, "compile".to_owned(), &TaskTracker::new(), |_| ()).map_err(host)?;
    let Some(ended) = process.ended_within(limits.time).await else {
        return Err(PluginError::Limit(format!("{} s to be compiled", limits.time.as_secs_f64())));
    };
    let said = process.log.tail().replace("\n  | ", "\n");
    let said = said.trim();
    match code.metadata() {
        Ok(info) if ended.status == "exited with code 0" && info.size() > 0 => Ok(code),
        _ if ended.status.contains("SIGXCPU") || ended.status.contains("SIGKILL") => {
            Err(PluginError::Limit(format!("{} s of processor time to be compiled", limits.cpu)))
        }
        _ if ended.status.contains("SIGABRT") && said.contains("memory allocation") => {
            Err(PluginError::Limit(format!("{} of memory to be compiled", size(limits.memory))))
        }
        _ if ended.status == "exited with code 1" && !said.is_empty() => {
            Err(PluginError::Contract(said.to_owned()))
        }
        _ => Err(PluginError::Contract(format!("compiling it {}\n{said}", ended.status))),
    }
}
