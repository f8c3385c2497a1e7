//! Runs one command so that nothing of it survives the host.
//!
//! The host starts this program again as a guard; the guard starts the program. Its
//! standard input is the life line: when the host closes it or dies, however,
//! the guard kills everything that was started and ends.
//!
//! ```text
//! host ── life line ──► guard ──► init of a PID namespace ──► program ──► ...
//! ```
//!
//! Where the kernel gives a PID namespace, the kernel itself kills all of it with
//! its init, which dies with the guard. Elsewhere the guard is a subreaper: orphans
//! become its children and it kills until none is left.

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork, getpid, pipe2, setpgid, setsid};

use super::sandbox::Sandbox;

/// The name by which the host calls itself to be a guard.
pub const COMMAND: &str = "guard";
/// The variables that tell a program the numbers of the descriptors it inherits.
const INHERITED: [&str; 2] = ["HOTSHOE_FD", "HOTSHOE_PIXELS_FD"];
/// The guard's own exit code when the command cannot be run.
const CANNOT_RUN: i32 = 127;

/// Is the guard: `SANDBOX PROGRAM ARGUMENT...`. Must be called before the process has
/// a second thread.
pub fn run(arguments: &[OsString]) -> ! {
    let Some((sandbox, command)) = arguments.split_first() else { std::process::exit(CANNOT_RUN) };
    let sandbox = serde_json::from_slice(sandbox.as_encoded_bytes());
    let Ok::<Sandbox, _>(sandbox) = sandbox else { std::process::exit(CANNOT_RUN) };
    // Out of the terminal's group: Ctrl-C is the host's to hear.
    let _ = match sandbox.is_apart() {
        true => setsid().map(drop),
        false => setpgid(Pid::from_raw(0), Pid::from_raw(0)),
    };
    let isolated = isolate();
    // In a namespace of its user's own it would hide what it is, and so would all below it.
    let _ = prctl::set_dumpable(true);
    if !isolated {
        let _ = prctl::set_child_subreaper(true);
    }
    let code = guard(&sandbox, isolated, command).unwrap_or(CANNOT_RUN);
    while !isolated && kill_descendants() {
        while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|s| s != WaitStatus::StillAlive) {}
    }
    std::process::exit(code)
}

/// Makes the next child the init of a new PID namespace, if the kernel lets us.
fn isolate() -> bool {
    let (uid, gid) = (Uid::current(), Gid::current());
    if uid.is_root() {
        return unshare(CloneFlags::CLONE_NEWPID).is_ok();
    }
    let mapped = || -> std::io::Result<()> {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID)?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
    };
    mapped().is_ok()
}

/// Waits for the end of the command or of the life line, whichever is first.
fn guard(sandbox: &Sandbox, isolated: bool, command: &[OsString]) -> nix::Result<i32> {
    // Its writing end lives in the child alone and is closed by the child's end.
    let (alive, childs_end) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: the process has one thread, so the child may do anything.
    let child = match unsafe { fork() }? {
        ForkResult::Child => std::process::exit(as_init(sandbox, isolated, command)),
        ForkResult::Parent { child } => child,
    };
    drop(childs_end);
    forget_inherited();
    let life_line = std::io::stdin();
    let ends = [life_line.as_fd(), alive.as_fd()];
    let mut ends = ends.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    while poll(&mut ends, PollTimeout::NONE) == Err(Errno::EINTR) {}
    let _ = kill(child, Signal::SIGKILL);
    Ok(wait_for(child))
}

/// Runs the command as the first process of the namespace; its end ends them all.
fn as_init(sandbox: &Sandbox, isolated: bool, command: &[OsString]) -> i32 {
    // The kernel honours this from outside the namespace even for its init.
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    let child = spawn(sandbox, isolated, command);
    forget_inherited();
    child.map_or(CANNOT_RUN, wait_for)
}

/// Closes what only the program should hold: whoever it talks to must see when it
/// hangs up.
fn forget_inherited() {
    for variable in INHERITED {
        let number = std::env::var(variable).ok().and_then(|number| number.parse().ok());
        let _ = number.map(nix::unistd::close::<i32>);
    }
}

fn spawn(sandbox: &Sandbox, isolated: bool, command: &[OsString]) -> Option<Pid> {
    let (program, arguments) = command.split_first()?;
    #[expect(clippy::disallowed_methods, reason = "the guard is how processes are started")]
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let sandbox = sandbox.clone();
    let confined = move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        sandbox.enter(isolated).inspect_err(|error| eprintln!("cannot make the sandbox: {error}"))
    };
    // SAFETY: this process has one thread, so the child may do anything.
    unsafe { command.pre_exec(confined) };
    match command.spawn() {
        Ok(child) => Some(Pid::from_raw(child.id().cast_signed())),
        Err(error) => {
            eprintln!("cannot run {}: {error}", program.display());
            None
        }
    }
}

/// Waits for one child, reaping orphans on the way; 128 + n stands for signal n.
fn wait_for(child: Pid) -> i32 {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => return code,
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => return 128 + signal as i32,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return CANNOT_RUN,
        }
    }
}

/// Kills every process below this one; false once there is none.
fn kill_descendants() -> bool {
    let parents: Vec<(Pid, Pid)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name before it is in brackets and may hold anything.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((Pid::from_raw(pid), Pid::from_raw(parent)))
        })
        .collect();
    let mut below = vec![getpid()];
    let mut next = 0;
    while let Some(&parent) = below.get(next) {
        below.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    for &pid in &below[1..] {
        // It may have ended by itself.
        let _ = kill(pid, Signal::SIGKILL);
    }
    below.len() > 1
}
