//! A guarded process: Blender, what it prints, and what it uses.
//!
//! Owns the life line; dropping the process closes it, and all of it is killed.

use std::collections::VecDeque;
use std::fs;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use regex::Regex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::process::{ChildStdin, Command};
use tokio::sync::{oneshot, watch};

use super::seats::Seat;
use super::worker::{Launch, PROGRAM, Signs};
use super::{Blender, BlenderError, guard};
use crate::config::create_private;

/// How long a worker's end may take after it was told, or was seen to die.
pub(super) const END_LIMIT: Duration = Duration::from_secs(5);
/// How many lines of Blender's output an error shows.
const LOG_LINES: usize = 20;
/// The longest line of it that is read whole, in bytes.
const LINE: u64 = 16 * 1024;
/// How much is read of what Blender wrote about its own crash, in bytes.
const CRASH_TEXT: u64 = 64 * 1024;
/// The signals by which a program ends that has a fault.
const FAULTS: [Signal; 5] =
    [Signal::SIGSEGV, Signal::SIGABRT, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE];

/// A guarded process.
#[derive(Debug)]
pub(super) struct Process {
    /// With what tells that it is not wanted any more.
    life_line: Mutex<Option<(ChildStdin, oneshot::Sender<()>)>>,
    pid: Option<Pid>,
    ended: watch::Receiver<Option<Ended>>,
    pub(super) log: Log,
    pub(super) home: PathBuf,
}

/// How a process ended.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    /// In words.
    pub status: String,
    /// Whether it was a fault of the program, and nobody's wish.
    pub is_fault: bool,
}

/// The end of what a Blender printed.
#[derive(Debug, Clone, Default)]
pub(super) struct Log(Arc<Mutex<VecDeque<String>>>);

impl Process {
    pub(super) fn start(
        launch: &Launch,
        id: u32,
        seat: &Seat,
        line: OwnedFd,
        signs: Arc<watch::Sender<Signs>>,
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
        let (wanted, unwanted) = oneshot::channel();
        let lines = log.clone();
        launch.processes.spawn(async move {
            let overdue = async {
                let _ = unwanted.await;
                tokio::time::sleep(END_LIMIT / 2).await;
                tracing::warn!(worker = id, "a guard does not end; killing it");
                pid.map(|pid| killpg(pid, Signal::SIGKILL));
                std::future::pending().await
            };
            let end = async {
                follow_output(output, id, &lines, &signs).await;
                child.wait().await
            };
            let status = tokio::select! { status = end => status, never = overdue => never };
            let failed = |error: std::io::Error| Ended { status: error.to_string(), is_fault: false };
            sender.send_replace(Some(status.map_or_else(failed, describe)));
        });
        let life_line = Mutex::new(life_line.map(|line| (line, wanted)));
        Ok(Self { life_line, pid, ended, log, home })
    }

    /// Closes the life line: all of it is killed.
    pub(super) fn kill(&self) {
        *self.life_line.lock().expect("no code panics under this lock") = None;
        if let Some(pid) = self.pid {
            // A guard that was stopped does not see the end of its life line.
            let _ = kill(pid, Signal::SIGCONT);
        }
    }

    /// Waits until the process has ended, and says how.
    pub(super) async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        let wait = tokio::time::timeout(END_LIMIT, ended.wait_for(Option::is_some));
        if let Ok(Ok(ended)) = wait.await
            && let Some(ended) = &*ended
        {
            return ended.clone();
        }
        Ended { status: "did not end by itself".to_owned(), is_fault: false }
    }

    /// Lets all its threads use these processors only.
    pub(super) fn move_to(&self, processors: &CpuSet) {
        for pid in self.tree() {
            for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let id = thread.file_name().to_str().and_then(|id| id.parse().ok());
                // A thread may have ended by itself.
                let _ = id.map(|id| sched_setaffinity(Pid::from_raw(id), processors));
            }
        }
    }

    /// Returns the memory that all of it has in use, in bytes.
    pub(super) fn memory(&self) -> u64 {
        let page = page_size();
        let resident = |pid: &i32| -> Option<u64> {
            let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
            text.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        self.tree().iter().filter_map(resident).sum::<u64>() * page
    }

    /// Returns the processor time that all of it has used, in clock ticks.
    pub(super) fn processor_time(&self) -> u64 {
        let ticks = |pid: &i32| -> Option<u64> {
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name before it is in brackets and may hold anything.
            let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
            Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
        };
        self.tree().iter().filter_map(ticks).sum()
    }

    /// Lists the processes below the guard.
    fn tree(&self) -> Vec<i32> {
        let mut found: Vec<i32> = self.pid.iter().map(|pid| pid.as_raw()).collect();
        let mut next = 0;
        while let Some(&pid) = found.get(next) {
            for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
                found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
            }
            next += 1;
        }
        found
    }

    /// Returns what Blender wrote about its own crash, if it did.
    ///
    /// What runs in a worker can put anything there.
    pub(super) fn crash_text(&self) -> Option<String> {
        let files = fs::read_dir(&self.home).ok()?.flatten();
        let is_file = |file: &fs::DirEntry| file.file_type().is_ok_and(|kind| kind.is_file());
        let crash = |path: &PathBuf| path.to_str().is_some_and(|name| name.ends_with(".crash.txt"));
        let path = files.filter(is_file).map(|file| file.path()).find(crash)?;
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let file = fs::File::options().read(true).custom_flags(flags).open(path).ok()?;
        let mut text = Vec::new();
        file.take(CRASH_TEXT).read_to_end(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }
}

fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        // What Blender left in its own temporary folder.
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// Builds the command: the guard, then Blender, then the worker program.
fn command(launch: &Launch, home: &Path, seat: &Seat, line: &OwnedFd) -> Result<Command, BlenderError> {
    let program = home.join("worker.py");
    fs::write(&program, PROGRAM).map_err(BlenderError::io("write the worker program"))?;
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
    for name in ["PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "LD_PRELOAD", "NOTIFY_SOCKET"] {
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

/// Keeps the end of what Blender prints, and reads the samples out of it.
async fn follow_output(output: pipe::Receiver, worker: u32, log: &Log, signs: &watch::Sender<Signs>) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    // A line without an end is several.
    while let Ok(1..) = (&mut output).take(LINE).read_until(b'\n', &mut line).await {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches('\n');
        tracing::trace!(worker, "{text}");
        signs.send_modify(|signs| signs.printed(samples(text)));
        log.push(text.chars().take(1000).collect());
        line.clear();
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

fn describe(status: ExitStatus) -> Ended {
    let code = status.code().unwrap_or_default();
    let signal = Signal::try_from(code - 128).ok().or(status.signal().and_then(|s| Signal::try_from(s).ok()));
    match signal {
        Some(signal) => {
            Ended { status: format!("was ended by {signal}"), is_fault: FAULTS.contains(&signal) }
        }
        None => Ended { status: format!("exited with code {code}"), is_fault: false },
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

    pub(super) fn tail(&self) -> String {
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
        let check = |status, expected: &str, is_fault| {
            let ended = describe(ExitStatus::from_raw(status));
            assert_eq!((ended.status.as_str(), ended.is_fault), (expected, is_fault));
        };
        check((128 + 11) << 8, "was ended by SIGSEGV", true);
        check(9, "was ended by SIGKILL", false);
        check(3 << 8, "exited with code 3", false);
    }
}
