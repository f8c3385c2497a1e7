//! A guarded Blender: how it is started, and what its output tells.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use nix::sched::sched_setaffinity;
use nix::unistd::Pid;
use regex::Regex;
use tokio::process::Command;
use tokio::sync::watch;

use super::seats::Seat;
use super::worker::{Launch, PROGRAM, Patience, Signs};
use super::{Blender, BlenderError};
use crate::config::create_private;
use crate::config::file::Sandboxing;
use crate::folders::{self, remove_soon};
use crate::process::measure::{InUse, in_use, processor_time};
use crate::process::sandbox::{Bounds, Kind, Sandbox, graphics};
use crate::process::{self, guarded, inherit};
use crate::terms::size;

/// How much is read of what Blender wrote about its own crash, in bytes.
const CRASH_TEXT: u64 = 64 * 1024;
/// How many names in its folder are looked at to find that.
const NAMES: usize = 10_000;

/// What a worker gets of the host's environment, besides all names that begin with one of
/// [`PASSED_BEGINNINGS`]. Nothing else: it makes pictures, and anything can be written into one.
const PASSED: [&str; 13] = [
    "PATH",
    "LD_LIBRARY_PATH",
    "TZ",
    "DISPLAY",
    "OCIO",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "OPENBLAS_NUM_THREADS",
    "SSL_CERT_FILE",
    "HOTSHOE_FAKE",
    "VK_ICD_FILENAMES",
    "VK_DRIVER_FILES",
    "GPU_MAX_HEAP_SIZE",
];
/// Variables of Blender, of the drivers of devices, and of what runs threads.
const PASSED_BEGINNINGS: [&str; 16] = [
    "BLENDER_", "CYCLES_", "CUDA_", "NVIDIA_", "OPTIX_", "HIP_", "ROCR_", "HSA_", "AMD_", "ONEAPI_", "SYCL_",
    "ZE_", "MESA_", "LIBGL_", "EGL_", "OMP_",
];

/// How many processes a worker may have, with the host's own guard.
const PROCESSES: usize = 64;
/// How often it is looked at, whoever holds it.
const LOOK: Duration = Duration::from_secs(1);
/// How much processor time it may use while it rests, in clock ticks.
const AT_REST: u64 = 10;

/// A Blender, and the folder that is its own.
#[derive(Debug)]
pub(super) struct Process {
    process: process::Process,
    pub(super) home: PathBuf,
    patience: Patience,
    /// Memory in use, in bytes, when it was last looked at.
    pub(super) memory: Arc<AtomicU64>,
    /// The processor time that it had used when it was put to rest, if it rests.
    rests: Mutex<Option<u64>>,
    /// Why it was killed, if it was for what it did.
    fault: OnceLock<String>,
}

impl Process {
    pub(super) fn start(
        launch: &Launch,
        id: u32,
        seat: &Seat,
        read: &[PathBuf],
        line: OwnedFd,
        signs: Arc<watch::Sender<Signs>>,
    ) -> Result<Arc<Self>, BlenderError> {
        let home = launch.folder.join(format!("worker-{id}"));
        create_private(&home).map_err(BlenderError::io("make a worker's folder"))?;
        let command = command(launch, &home, seat, read, &line)?;
        let each = move |line: &str| {
            tracing::trace!(worker = id, "{line}");
            signs.send_modify(|signs| signs.printed(samples(line)));
        };
        let process = process::Process::start(command, format!("worker {id}"), &launch.processes, each)
            .map_err(BlenderError::io("start a worker"))?;
        let (memory, rests, fault) = Default::default();
        let process = Arc::new(Self { process, home, patience: launch.patience, memory, rests, fault });
        tokio::spawn(Self::watch(Arc::downgrade(&process)));
        Ok(process)
    }

    /// Looks after it for as long as anybody has it.
    async fn watch(watched: Weak<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(process) = watched.upgrade().filter(|process| !process.has_ended()) else { return };
            let looking = tokio::task::spawn_blocking(move || process.look());
            if looking.await.is_err() {
                return;
            }
        }
    }

    /// Looks what it has in use, and kills it if that is too much. Blocks.
    pub(super) fn look(&self) {
        if let Err(fault) = self.check() {
            let _ = self.fault.set(fault);
            self.kill();
        }
    }

    fn check(&self) -> Result<(), String> {
        // Nobody wakes it meanwhile.
        let rests = self.rests();
        let tree = self.tree();
        if tree.len() > PROCESSES {
            return Err(format!("it started more than {PROCESSES} processes"));
        }
        if rests.is_some_and(|before| processor_time(&tree) > before + AT_REST) {
            return Err("it works while it has nothing to do".to_owned());
        }
        drop(rests);
        let InUse { memory, nameless } = in_use(&tree, &self.home)?;
        self.memory.store(memory, Ordering::Relaxed);
        let Patience { memory: most, work, .. } = self.patience;
        if memory > most {
            let limit = format!("more than the {} that it may (workers.kill_above_mib)", size(most));
            return Err(format!("it took {} of memory, {limit}", size(memory)));
        }
        let beyond = |error| format!("its folder cannot be looked at: {error}");
        let files = folders::size(&self.home).map_err(beyond)?;
        if files + nameless > work {
            let limit = format!("more than the {} that it may (workers.work_mib)", size(work));
            return Err(format!("it took {} of the disk, {limit}", size(files + nameless)));
        }
        Ok(())
    }

    /// Stops it until it is wanted again: nobody's code runs in a worker that has nothing to do.
    /// Blocks, shortly.
    pub(super) fn rest(&self) {
        let mut rests = self.rests();
        if rests.is_none() {
            self.process.rest();
            *rests = Some(processor_time(&self.tree()));
        }
    }

    /// Lets it go on, if it rests. Blocks, shortly.
    pub(super) fn wake(&self) {
        if self.rests().take().is_some() {
            self.process.wake();
        }
    }

    fn rests(&self) -> MutexGuard<'_, Option<u64>> {
        self.rests.lock().expect("no code panics under this lock")
    }

    /// Says why it was killed, if it was for what it did.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.get().map(String::as_str)
    }

    /// Returns what Blender wrote about its own crash, if it did.
    ///
    /// What runs in a worker can put anything there.
    pub(super) fn crash_text(&self) -> Option<String> {
        let files = fs::read_dir(&self.home).ok()?.flatten();
        let is_file = |file: &fs::DirEntry| file.file_type().is_ok_and(|kind| kind.is_file());
        let crash = |path: &PathBuf| path.to_str().is_some_and(|name| name.ends_with(".crash.txt"));
        let path = files.take(NAMES).filter(is_file).map(|file| file.path()).find(crash)?;
        let file = folders::open(&path).ok()?;
        let mut text = Vec::new();
        file.take(CRASH_TEXT).read_to_end(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }
}

impl Deref for Process {
    type Target = process::Process;

    fn deref(&self) -> &process::Process {
        &self.process
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        // What Blender left in its own temporary folder.
        remove_soon(std::mem::take(&mut self.home));
    }
}

/// Builds the command: the guard, then Blender, then the worker program.
fn command(
    launch: &Launch,
    home: &Path,
    seat: &Seat,
    read: &[PathBuf],
    line: &OwnedFd,
) -> Result<Command, BlenderError> {
    let program = home.join("worker.py");
    fs::write(&program, PROGRAM).map_err(BlenderError::io("write the worker program"))?;
    let sandbox = match launch.sandbox {
        Sandboxing::Off => Sandbox::Bare,
        _ => Sandbox::Bound(bounds(launch, home, read).into()),
    };
    let mut command = guarded(&launch.guard, &sandbox, launch.blender.path());
    match launch.blender {
        Blender::Program(_) => command
            .args(["--background", "--factory-startup", "--disable-autoexec", "--python-exit-code", "1"])
            .arg("--python")
            .arg(&program),
        Blender::Module(_) => command.arg("-s").arg("-u").arg(&program),
    };
    command.env_clear().envs(std::env::vars_os().filter(|(name, _)| is_passed(name, &launch.environment)));
    inherit(&mut command, "HOTSHOE_FD", line);
    if launch.sandbox != Sandboxing::Off {
        // What drivers keep for the next time; the rest of a home is none of their business.
        command.env("HOME", home).env("XDG_CACHE_HOME", home).env("XDG_CONFIG_HOME", home);
    }
    // Messages of Blender are read by a program.
    command.env("TMPDIR", home).env("LC_ALL", "C.UTF-8").env("LANG", "C.UTF-8");
    let processors = seat.processors().map_err(|error| BlenderError::io("name processors")(error.into()))?;
    if let Some(processors) = processors {
        // SAFETY: sched_setaffinity is a bare call of the kernel, and nothing else happens here.
        unsafe { command.pre_exec(move || Ok(sched_setaffinity(Pid::from_raw(0), &processors)?)) };
    }
    Ok(command)
}

fn is_passed(name: &OsStr, more: &[String]) -> bool {
    let begins = |name: &str| PASSED_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning));
    name.to_str()
        .is_some_and(|name| PASSED.contains(&name) || begins(name) || more.iter().any(|more| more == name))
}

/// Says what a worker may use.
fn bounds(launch: &Launch, home: &Path, read: &[PathBuf]) -> Bounds {
    let path = launch.blender.path();
    let real = path.canonicalize().unwrap_or_else(|_| path.clone());
    let level = if matches!(launch.blender, Blender::Module(_)) { 2 } else { 1 };
    // A Python lies in `bin`, beside what it needs; one of a virtual environment is a link.
    let own = [path, &real].into_iter().filter_map(|path| path.ancestors().nth(level).map(Path::to_owned));
    Bounds {
        kind: Kind::Worker,
        lenient: launch.sandbox == Sandboxing::Auto,
        read: own.chain(launch.read.iter().chain(read).chain(&launch.addons.folder).cloned()).collect(),
        work: home.to_owned(),
        devices: graphics(),
        network: false,
        memory: None,
        file: launch.patience.work,
        cpu: None,
        apart: false,
    }
}

/// Reads the samples out of a status line of any Blender.
fn samples(line: &str) -> Option<(u32, u32)> {
    static PATTERN: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"Fra:.*\| (?:Sample|Rendering) (\d+) ?/ ?(\d+)").expect("the pattern is well-formed")
    });
    let found = PATTERN.captures(line)?;
    Some((found[1].parse().ok()?, found[2].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_from_the_status_lines_of_every_blender() {
        let check = |line, expected| assert_eq!(samples(line), expected, "{line}");
        check(
            "Fra:1 Mem:10.28M (Peak 10.47M) | Time:00:00.07 | Mem:0.82M | Scene, ViewLayer | Sample 1/16",
            Some((1, 16)),
        );
        check("00:01.000  render           | Fra: 1 | Mem: 1699M | Sample 8/128", Some((8, 128)));
        check("Fra: 1 | Rendering 8 / 16 samples", Some((8, 16)));
        check("Saved: '/tmp/Sample 1/16.png'", None);
    }
}
