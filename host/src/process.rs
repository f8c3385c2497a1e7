//! Guarded processes: Blender and the plugins that are processes of their own.
//!
//! Owns the life line: dropping a process closes it, and all that it started is
//! killed. Knows nothing of what runs in it, nor what it prints means.

pub mod guard;
pub mod measure;
pub mod sandbox;

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::process::{ChildStdin, Command};
use tokio::sync::{oneshot, watch};
use tokio_util::task::TaskTracker;

use sandbox::{Bounds, Kind, Sandbox};

/// How long an end may take after it was wanted, or was seen.
pub const END_LIMIT: Duration = Duration::from_secs(5);
/// How many processes are looked at.
const MOST: usize = 20_000;
/// How many of them are the host's own: the guard, and the first process of its namespace.
const OURS: usize = 2;
/// How often they are looked for that are to rest.
const LOOKS: usize = 16;
/// How many lines of its output an error shows.
const LOG_LINES: usize = 20;
/// The longest line of it that is read whole, in bytes.
const LINE: u64 = 16 * 1024;
/// The longest line of it that is shown, in characters.
const SHOWN: usize = 1000;
/// The signals by which a program ends that has a fault.
const FAULTS: [Signal; 5] =
    [Signal::SIGSEGV, Signal::SIGABRT, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE];

/// A process, with all that it starts.
#[derive(Debug)]
pub struct Process {
    /// With what tells that it is not wanted any more.
    life_line: Mutex<Option<(ChildStdin, oneshot::Sender<()>)>>,
    pid: Option<Pid>,
    ended: watch::Receiver<Option<Ended>>,
    /// The end of what it printed.
    pub log: Log,
}

/// How a process ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// In words.
    pub status: String,
    /// Whether it was a fault of the program, and nobody's wish.
    pub is_fault: bool,
}

/// The end of what a process printed; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<VecDeque<String>>>);

/// Begins a command that runs a program below a guard.
pub fn guarded(guard: &Path, sandbox: &Sandbox, program: &Path) -> Command {
    #[expect(clippy::disallowed_methods, reason = "guarded processes are started here and nowhere else")]
    let mut command = Command::new(guard);
    let bounds = serde_json::to_string(sandbox).expect("a sandbox is plain data");
    command.arg(guard::COMMAND).arg(bounds).arg(program);
    command
}

/// Lets what a command starts inherit a descriptor; its number goes into a variable.
pub fn inherit(command: &mut Command, variable: &str, descriptor: &OwnedFd) {
    let number = descriptor.as_raw_fd();
    command.env(variable, number.to_string());
    // SAFETY: fcntl is a bare call of the kernel, and the descriptor stays open until the spawn.
    unsafe {
        command.pre_exec(move || {
            fcntl(BorrowedFd::borrow_raw(number), FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(())
        });
    }
}

/// Says what this kernel or this user lacks of what bounds a worker, if anything.
pub async fn lacks(guard: &Path) -> Option<String> {
    let bounds = Bounds {
        kind: Kind::Worker,
        lenient: false,
        read: guard.parent().map(Path::to_owned).into_iter().collect(),
        work: "/dev/null".into(),
        devices: Vec::new(),
        network: false,
        memory: None,
        file: 0,
        cpu: None,
        apart: false,
    };
    let mut command = guarded(guard, &Sandbox::Bound(bounds.into()), guard);
    command.arg("--version");
    let process = match Process::start(command, "sandbox".to_owned(), &TaskTracker::new(), |_| ()) {
        Ok(process) => process,
        Err(error) => return Some(error.to_string()),
    };
    let ended = process.ended().await;
    let said = process.log.tail();
    let what = said.lines().map(|line| line.trim_start_matches("  | ")).find(|line| !line.is_empty());
    (ended.status != "exited with code 0").then(|| what.map_or(ended.status, str::to_owned))
}

impl Process {
    /// Starts a guarded command; every line that it prints goes to `each`.
    pub fn start(
        mut command: Command,
        name: String,
        processes: &TaskTracker,
        each: impl Fn(&str) + Send + 'static,
    ) -> io::Result<Self> {
        let (output, printed) = io::pipe()?;
        command.stdin(Stdio::piped()).stdout(printed.try_clone()?).stderr(printed);
        let mut child = command.spawn()?;
        // The command holds the writing end of the pipe.
        drop(command);
        let (log, life_line) = (Log::default(), child.stdin.take());
        let pid = child.id().map(|pid| Pid::from_raw(pid.cast_signed()));
        let output = pipe::Receiver::from_owned_fd(output.into())?;
        let (sender, ended) = watch::channel(None);
        let (wanted, unwanted) = oneshot::channel();
        let lines = log.clone();
        processes.spawn(async move {
            let overdue = async {
                let _ = unwanted.await;
                tokio::time::sleep(END_LIMIT / 2).await;
                tracing::warn!(name, "a guard does not end; killing it");
                pid.map(|pid| killpg(pid, Signal::SIGKILL));
                std::future::pending().await
            };
            let end = async {
                follow(output, &lines, each).await;
                child.wait().await
            };
            let status = tokio::select! { status = end => status, never = overdue => never };
            let failed = |error: io::Error| Ended { status: error.to_string(), is_fault: false };
            sender.send_replace(Some(status.map_or_else(failed, describe)));
        });
        let life_line = Mutex::new(life_line.map(|line| (line, wanted)));
        Ok(Self { life_line, pid, ended, log })
    }

    /// Closes the life line: all of it is killed.
    pub fn kill(&self) {
        *self.life_line.lock().expect("no code panics under this lock") = None;
        if let Some(pid) = self.pid.filter(|_| !self.has_ended()) {
            // A guard that was stopped does not see the end of its life line.
            let _ = kill(pid, Signal::SIGCONT);
        }
    }

    /// Asks the program, and nothing that it started, to end.
    pub fn terminate(&self) {
        signal(self.tree().get(OURS..=OURS).unwrap_or_default(), Signal::SIGTERM);
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Waits until the process has ended, and says how.
    pub async fn ended(&self) -> Ended {
        let unended = || Ended { status: "did not end by itself".to_owned(), is_fault: false };
        self.ended_within(END_LIMIT).await.unwrap_or_else(unended)
    }

    /// Waits so long until the process has ended; nothing if it has not.
    pub async fn ended_within(&self, limit: Duration) -> Option<Ended> {
        let mut ended = self.ended.clone();
        tokio::time::timeout(limit, ended.wait_for(Option::is_some)).await.ok()?.ok()?.clone()
    }

    /// Lets all its threads use these processors only.
    pub fn move_to(&self, processors: &CpuSet) {
        for pid in self.tree() {
            for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let id = thread.file_name().to_str().and_then(|id| id.parse().ok());
                // A thread may have ended by itself.
                let _ = id.map(|id| sched_setaffinity(Pid::from_raw(id), processors));
            }
        }
    }

    /// Stops all that runs in it, until it is woken; it can still be killed. Blocks, shortly.
    pub fn rest(&self) {
        let mut stopped = HashSet::new();
        // What one had started before it was stopped is found at the next look.
        for _ in 0..LOOKS {
            let tree = self.tree();
            let more: Vec<i32> = tree.into_iter().skip(OURS).filter(|pid| stopped.insert(*pid)).collect();
            if more.is_empty() {
                return;
            }
            signal(&more, Signal::SIGSTOP);
        }
    }

    /// Lets it go on after a rest. Blocks, shortly.
    pub fn wake(&self) {
        signal(self.tree().get(OURS..).unwrap_or_default(), Signal::SIGCONT);
    }

    /// Lists the guard and the processes below it; none once it has ended, as its number may be
    /// another's by then.
    pub fn tree(&self) -> Vec<i32> {
        let alive = self.pid.filter(|_| !self.has_ended());
        let mut found: Vec<i32> = alive.iter().map(|pid| pid.as_raw()).collect();
        let mut next = 0;
        // Whoever has more than these has too many in any case.
        while let Some(&pid) = found.get(next).filter(|_| found.len() < MOST) {
            for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
                found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
            }
            next += 1;
        }
        found
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn signal(processes: &[i32], signal: Signal) {
    for pid in processes {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(*pid), signal);
    }
}

/// Passes on what is printed line by line, and keeps its end.
async fn follow(output: pipe::Receiver, log: &Log, each: impl Fn(&str)) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    // A line without an end is several.
    while let Ok(1..) = (&mut output).take(LINE).read_until(b'\n', &mut line).await {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches('\n');
        each(text);
        log.push(text.chars().take(SHOWN).collect());
        line.clear();
    }
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
        // It is told to people at terminals.
        let line = line.replace(|c: char| c.is_control(), "\u{fffd}");
        let mut lines = self.0.lock().expect("no code panics under this lock");
        if lines.len() == LOG_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// Returns the last lines, each after a line break.
    pub fn tail(&self) -> String {
        let lines = self.0.lock().expect("no code panics under this lock");
        lines.iter().map(|line| format!("\n  | {line}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
