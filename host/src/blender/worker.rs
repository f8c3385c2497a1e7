//! One worker: a guarded Blender process and the line to it.
//!
//! Owns the process; dropping the worker kills it, and all that it started.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sched::sched_setaffinity;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use regex::Regex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::{ChildStdin, Command};
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

use super::seats::Seat;
use super::wire::{self, Hello, Progress};
use super::{Blender, BlenderError, guard};
use crate::config::create_private;
use crate::rpc::{CallError, Notification, Peer};

/// The program that runs inside Blender.
pub const PROGRAM: &str = include_str!("../../../blender/worker/worker.py");
/// How long Blender may take until it says hello.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How long a worker's end may take after it was told, or was seen to die.
pub(super) const END_LIMIT: Duration = Duration::from_secs(5);
/// How many lines of Blender's output an error shows.
const LOG_LINES: usize = 20;

/// How to start workers.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The Blender to run.
    pub blender: Blender,
    /// The `hotshoe` program, which is the guard too.
    pub guard: PathBuf,
    /// A private folder, where each worker gets one of its own.
    pub folder: PathBuf,
    /// Follows every process until its end, whoever has dropped it.
    pub processes: TaskTracker,
}

/// A running Blender that is the host's to command.
#[derive(Debug)]
pub struct Worker {
    /// Its number in this host.
    pub id: u32,
    /// What it said of itself.
    pub hello: Hello,
    /// How long it took to come up.
    pub started_in: Duration,
    peer: Peer,
    process: Process,
    seat: Seat,
    busy: AtomicBool,
    progress: Arc<watch::Sender<Progress>>,
}

/// The guarded process. Dropping it closes the life line.
#[derive(Debug)]
struct Process {
    life_line: Option<ChildStdin>,
    pid: Option<Pid>,
    ended: watch::Receiver<Option<String>>,
    log: Log,
    home: PathBuf,
}

/// The end of what a Blender printed.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<VecDeque<String>>>);

impl Worker {
    /// Starts a worker and waits until it says hello.
    pub async fn start(launch: &Launch, id: u32, seat: Seat) -> Result<Self, BlenderError> {
        let began = Instant::now();
        let progress = Arc::new(watch::Sender::new(Progress::default()));
        let (ours, theirs) = StdUnixStream::pair().map_err(BlenderError::io("make a socket pair"))?;
        let mut process = Process::start(launch, id, &seat, theirs.into(), progress.clone())?;
        ours.set_nonblocking(true).map_err(BlenderError::io("use a socket"))?;
        let stream = UnixStream::from_std(ours).map_err(BlenderError::io("use a socket"))?;
        let (peer, mut notifications) = Peer::start(stream);
        let hello = match tokio::time::timeout(START_LIMIT, hello(&mut notifications)).await {
            Ok(Some(hello)) => hello,
            answer => {
                let hung = format!("said nothing in {} s", START_LIMIT.as_secs());
                let silent = answer.is_err().then_some(hung);
                process.life_line = None;
                let ended = process.ended().await;
                let path = launch.blender.path().clone();
                let (status, log) = (silent.unwrap_or(ended), process.log.tail());
                return Err(BlenderError::Start { path, status, log });
            }
        };
        tokio::spawn(follow_progress(notifications, progress.clone()));
        tracing::debug!(worker = id, blender = hello.blender_version, "worker is up");
        let (started_in, busy) = (began.elapsed(), AtomicBool::new(false));
        Ok(Self { id, hello, started_in, peer, process, seat, busy, progress })
    }

    /// Opens a scene as it is on disk, with nothing set in it; `cpu` lets one
    /// that asks for a GPU render on the CPU.
    pub async fn open(&self, path: &Path, cpu: bool) -> Result<wire::Opened, BlenderError> {
        self.call("scene.open", &wire::Open { path, threads: self.seat.threads(), cpu }).await
    }

    /// Says what the open scene is.
    pub async fn inspect(&self) -> Result<wire::SceneInfo, BlenderError> {
        self.call("scene.inspect", &serde_json::json!({})).await
    }

    /// Sets a property of the open scene.
    pub async fn set(&self, path: &str, value: &serde_json::Value) -> Result<(), BlenderError> {
        self.call("scene.set", &wire::Set { path, value }).await
    }

    /// Names the files that a frame will be written to.
    pub async fn paths(&self, request: &wire::Paths<'_>) -> Result<Vec<PathBuf>, BlenderError> {
        self.call("scene.paths", request).await
    }

    /// Renders a frame into files.
    pub async fn write(&self, request: &wire::Write<'_>) -> Result<(), BlenderError> {
        self.call("scene.write", request).await
    }

    /// Renders a shot into a file of scene-linear pixels.
    pub async fn shot(&self, request: &wire::Shot<'_>) -> Result<(), BlenderError> {
        self.call("scene.shot", request).await
    }

    /// Writes scene-linear pixels as the scene would write them; names the file.
    pub async fn develop(&self, request: &wire::Develop<'_>) -> Result<PathBuf, BlenderError> {
        self.call("scene.develop", request).await
    }

    /// Lists the devices that Blender sees.
    pub async fn devices(&self) -> Result<serde_json::Value, BlenderError> {
        self.call("devices.list", &serde_json::json!({})).await
    }

    /// Returns its own folder, which both sides may write.
    pub fn home(&self) -> &Path {
        &self.process.home
    }

    /// Follows the request that is being worked on.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Whether it is alive and no call of it was given up half-way.
    pub fn is_idle(&self) -> bool {
        !self.busy.load(Ordering::Relaxed) && !self.peer.is_closed()
    }

    /// Ends the process and waits until nothing of it is left.
    pub async fn stop(mut self) {
        self.process.life_line = None;
        self.process.ended().await;
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &impl Serialize,
    ) -> Result<T, BlenderError> {
        // Stays set if this future is dropped: the worker is then not to be used again.
        self.busy.store(true, Ordering::Relaxed);
        // Nothing of the call before, and nothing yet to tell.
        self.progress.send_if_modified(|progress| {
            *progress = Progress::default();
            false
        });
        let result = self.peer.call(method, params).await;
        self.busy.store(false, Ordering::Relaxed);
        match result {
            Ok(value) => Ok(value),
            Err(CallError::Answer(error)) => Err(match serde_json::from_value(error.data) {
                Ok(wire::Refusal { code, message }) => BlenderError::Refused { code, message },
                Err(_) => BlenderError::Worker(error.message),
            }),
            Err(CallError::Malformed(error)) => Err(BlenderError::Worker(error.to_string())),
            Err(CallError::Closed) => {
                let status = self.process.ended().await;
                Err(BlenderError::Died { status, log: self.process.log.tail() })
            }
        }
    }
}

impl Process {
    fn start(
        launch: &Launch,
        id: u32,
        seat: &Seat,
        line: OwnedFd,
        progress: Arc<watch::Sender<Progress>>,
    ) -> Result<Self, BlenderError> {
        let home = launch.folder.join(format!("worker-{id}"));
        create_private(&home).map_err(BlenderError::io("make a worker's folder"))?;
        let (output, printed) = std::io::pipe().map_err(BlenderError::io("make a pipe"))?;
        let mut command = command(launch, &home, seat, &line)?;
        let errors = printed.try_clone().map_err(BlenderError::io("make a pipe"))?;
        command.stdin(Stdio::piped()).stdout(printed).stderr(errors);
        let mut child = command.spawn().map_err(BlenderError::io("start a worker"))?;
        let (log, life_line) = (Log::default(), child.stdin.take());
        let pid = child.id().map(|pid| Pid::from_raw(pid.cast_signed()));
        let output = pipe::Receiver::from_owned_fd(output.into()).map_err(BlenderError::io("use a pipe"))?;
        let (sender, ended) = watch::channel(None);
        let lines = log.clone();
        launch.processes.spawn(async move {
            follow_output(output, id, &lines, &progress).await;
            sender.send_replace(Some(child.wait().await.map_or_else(|e| e.to_string(), describe)));
        });
        Ok(Self { life_line, pid, ended, log, home })
    }

    /// Waits until the process has ended, and says how.
    async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        let wait = tokio::time::timeout(END_LIMIT, ended.wait_for(Option::is_some));
        if let Ok(Ok(status)) = wait.await {
            return status.clone().unwrap_or_default();
        }
        if let Some(pid) = self.pid {
            tracing::warn!(%pid, "a guard does not end; killing it");
            let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
        }
        "did not end by itself".to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What Blender left in its own temporary folder.
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

/// Builds the command: the guard, then Blender, then the worker program.
fn command(launch: &Launch, home: &Path, seat: &Seat, line: &OwnedFd) -> Result<Command, BlenderError> {
    let program = home.join("worker.py");
    std::fs::write(&program, PROGRAM).map_err(BlenderError::io("write the worker program"))?;
    #[expect(clippy::disallowed_methods, reason = "workers are started here and nowhere else")]
    let mut command = Command::new(&launch.guard);
    command.arg(guard::COMMAND).arg("--").arg(launch.blender.path());
    match launch.blender {
        Blender::Program(_) => command
            .args(["--background", "--factory-startup", "--disable-autoexec", "--python-exit-code", "1"])
            .arg("--python")
            .arg(&program),
        Blender::Module(_) => command.arg("-s").arg("-u").arg(&program),
    };
    for name in ["PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "LD_PRELOAD"] {
        command.env_remove(name);
    }
    let fd = line.as_raw_fd();
    command.env("HOTSHOE_FD", fd.to_string()).env("TMPDIR", home);
    // Messages of Blender are read by a program.
    command.env("LC_ALL", "C.UTF-8").env("LANG", "C.UTF-8");
    let processors = seat.processors().map_err(|error| BlenderError::io("name processors")(error.into()))?;
    // SAFETY: fcntl and sched_setaffinity are bare system calls, and nothing else happens here.
    unsafe {
        command.pre_exec(move || {
            let line = std::os::fd::BorrowedFd::borrow_raw(fd);
            fcntl(line, FcntlArg::F_SETFD(FdFlag::empty()))?;
            let this = Pid::from_raw(0);
            Ok(processors.as_ref().map_or(Ok(()), |processors| sched_setaffinity(this, processors))?)
        });
    }
    Ok(command)
}

async fn hello(notifications: &mut mpsc::Receiver<Notification>) -> Option<Hello> {
    let notification = notifications.recv().await?;
    let hello: Hello = serde_json::from_value(notification.params).ok()?;
    (notification.method == "hello" && hello.protocol == wire::PROTOCOL).then_some(hello)
}

async fn follow_progress(
    mut notifications: mpsc::Receiver<Notification>,
    progress: Arc<watch::Sender<Progress>>,
) {
    while let Some(notification) = notifications.recv().await {
        match serde_json::from_value::<Progress>(notification.params) {
            Ok(now) => progress.send_modify(|known| {
                // Only a 5.x worker knows the samples; elsewhere they come from the output.
                let samples = if now.seconds < known.seconds { None } else { known.samples };
                *known = Progress { samples: now.samples.or(samples), ..now };
            }),
            Err(error) => tracing::debug!(%error, "a notification that is no progress"),
        }
    }
}

/// Keeps the end of what Blender prints, and reads the samples out of it.
async fn follow_output(output: pipe::Receiver, worker: u32, log: &Log, progress: &watch::Sender<Progress>) {
    let mut lines = BufReader::new(output).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line);
        tracing::trace!(worker, "{line}");
        if let Some(samples) = samples(&line) {
            progress.send_modify(|known| known.samples = Some(samples));
        }
        log.push(line.chars().take(1000).collect());
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

fn describe(status: ExitStatus) -> String {
    let code = status.code().unwrap_or_default();
    match Signal::try_from(code - 128).ok().or(status.signal().and_then(|s| Signal::try_from(s).ok())) {
        Some(signal) => format!("was ended by {signal}"),
        None => format!("exited with code {code}"),
    }
}

impl Log {
    fn push(&self, line: String) {
        let mut lines = self.0.lock().expect("no code panics under this lock");
        if lines.len() == LOG_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    fn tail(&self) -> String {
        let lines = self.0.lock().expect("no code panics under this lock");
        lines.iter().map(|line| format!("\n  | {line}")).collect()
    }
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

    #[test]
    fn an_end_by_a_signal_is_named_through_the_guard() {
        assert_eq!(describe(ExitStatus::from_raw((128 + 11) << 8)), "was ended by SIGSEGV");
        assert_eq!(describe(ExitStatus::from_raw(9)), "was ended by SIGKILL");
        assert_eq!(describe(ExitStatus::from_raw(3 << 8)), "exited with code 3");
    }
}
