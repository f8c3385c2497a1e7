//! A guarded Blender: how it is started, and what its output tells.

use std::fs;
use std::io::Read;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use nix::sched::sched_setaffinity;
use nix::unistd::Pid;
use regex::Regex;
use tokio::process::Command;
use tokio::sync::watch;

use super::seats::Seat;
use super::worker::{Launch, PROGRAM, Signs};
use super::{Blender, BlenderError};
use crate::config::create_private;
use crate::config::file::Sandboxing;
use crate::folders::{self, remove_soon};
use crate::process::sandbox::{Bounds, Kind, Sandbox, graphics};
use crate::process::{self, guarded, inherit};

/// How much is read of what Blender wrote about its own crash, in bytes.
const CRASH_TEXT: u64 = 64 * 1024;
/// How many names in its folder are looked at to find that.
const NAMES: usize = 10_000;

/// What is named like this in the environment is not for workers: they make pictures, and anything
/// can be written into one.
const SECRET: [&str; 7] = ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "_KEY", "SSH_"];

/// A Blender, and the folder that is its own.
#[derive(Debug)]
pub(super) struct Process {
    process: process::Process,
    pub(super) home: PathBuf,
}

impl Process {
    pub(super) fn start(
        launch: &Launch,
        id: u32,
        seat: &Seat,
        read: &[PathBuf],
        line: OwnedFd,
        signs: Arc<watch::Sender<Signs>>,
    ) -> Result<Self, BlenderError> {
        let home = launch.folder.join(format!("worker-{id}"));
        create_private(&home).map_err(BlenderError::io("make a worker's folder"))?;
        let command = command(launch, &home, seat, read, &line)?;
        let each = move |line: &str| {
            tracing::trace!(worker = id, "{line}");
            signs.send_modify(|signs| signs.printed(samples(line)));
        };
        let process = process::Process::start(command, format!("worker {id}"), &launch.processes, each)
            .map_err(BlenderError::io("start a worker"))?;
        Ok(Self { process, home })
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
    for name in ["PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "LD_PRELOAD", "NOTIFY_SOCKET"] {
        command.env_remove(name);
    }
    let secret = |name: &str| SECRET.iter().any(|word| name.to_ascii_uppercase().contains(word));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_none_or(secret) {
            command.env_remove(name);
        }
    }
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
        read: own.chain(launch.read.iter().chain(read).cloned()).collect(),
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
