//! Death: nothing half-written, nothing left running, whatever dies.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Render, below, installed, is_alive};

const LONG: Duration = Duration::from_secs(20);

/// A render under way that would take very long.
struct Running {
    render: Render,
    child: Child,
    guards: Vec<i32>,
}

fn start() -> Running {
    let render = Render::new(&installed().scene("small")).frames("1-4").args(["--json"]);
    let mut render = render.set("samples", "1000000");
    let mut child = render.command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("task_progress")), "the render does not begin");
    std::thread::spawn(move || lines.count());
    let guards = below(child.id().cast_signed());
    assert!(guards.len() >= 2, "guard and Blender are below the host: {guards:?}");
    Running { render, child, guards }
}

#[track_caller]
fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LONG, "not so after {LONG:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Running {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    #[track_caller]
    fn nothing_is_left_running(&self) {
        soon("every process is gone", || !self.guards.iter().any(is_alive));
    }
}

#[test]
fn ctrl_c_stops_cleanly() {
    let mut running = start();
    running.signal(Signal::SIGINT);
    let status = running.child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    // At the moment the program ends, not some time later.
    assert!(!running.guards.iter().any(is_alive));
    assert!(running.render.files().is_empty(), "{:?}", running.render.files());
}

#[test]
fn ctrl_c_twice_stops_at_once() {
    // A plugin that does not listen has two seconds after the first one.
    let mut render = Render::probe("loop").frames("1").args(["--json"]);
    let mut child = render.command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut events = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(events.any(|line| line.contains("task_started")));
    let guards = below(child.id().cast_signed());
    let interrupt = || kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let began = Instant::now();
    interrupt();
    assert!(lines.any(|line| line.contains("press Ctrl-C again to stop at once")));
    interrupt();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    soon("every process is gone", || !guards.iter().any(is_alive));
}

#[test]
fn a_killed_host_leaves_no_blender() {
    let mut running = start();
    running.signal(Signal::SIGKILL);
    running.child.wait().unwrap();
    running.nothing_is_left_running();
    // What it had half-written is nowhere in the output folder.
    let mut next = Render::new(&installed().scene("small")).frames("1");
    next.command.env("HOTSHOE_LOG", "warn");
    let out = running.render.out();
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
    let mut again = crate::harness::command(crate::harness::PROGRAM);
    again.arg("render").arg(installed().scene("small")).args(["--frames", "1", "--blender"]);
    again.arg(installed().path).arg("--out").arg(&out);
    assert!(again.output().unwrap().status.success());
    assert_eq!(running.render.files(), ["0001.png"]);
    next.run().expect(0);
}

#[test]
fn a_guard_ends_what_forked_and_detached() {
    let mut guard = crate::harness::command(crate::harness::PROGRAM);
    guard.args(["guard", "\"bare\"", "sh", "-c", "setsid sleep 1000 & exec sleep 1000"]);
    let mut guard = guard.stdin(Stdio::piped()).spawn().unwrap();
    let pid = guard.id().cast_signed();
    let mut started = Vec::new();
    soon("both sleep", || {
        started = below(pid);
        let names = started
            .iter()
            .map(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default());
        names.filter(|name| name.trim() == "sleep").count() == 2
    });
    drop(guard.stdin.take());
    guard.wait().unwrap();
    soon("both are gone", || !started.iter().any(is_alive));
}

#[test]
fn a_blender_that_dies_is_replaced_and_its_frame_rendered_again() {
    let render = Render::new(&installed().scene("small")).frames("1").args(["--json"]);
    let mut render = render.set("samples", "4096");
    let mut child = render.command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("task_progress")));
    let blender = *below(child.id().cast_signed()).last().unwrap();
    kill(Pid::from_raw(blender), Signal::SIGSEGV).unwrap();
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest:#?}");
    let retried =
        rest.iter().any(|line| line.contains("ended by SIGSEGV") && line.contains(r#""state":"ready""#));
    assert!(retried, "{rest:#?}");
    assert_eq!(render.files(), ["0001.png"]);
}

#[test]
fn a_blender_that_always_dies_fails_the_frame_after_three_attempts() {
    let render = Render::new(&installed().scene("small")).frames("1").args(["--json"]);
    let mut render = render.set("samples", "1000000");
    let mut child = render.command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let host = child.id().cast_signed();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let (mut attempts, mut last) = (0, String::new());
    for line in lines {
        if line.contains("task_started") {
            attempts += 1;
        } else if line.contains(r#""task_progress""#) && line.contains(r#""seconds":0.0"#) {
            kill(Pid::from_raw(*below(host).last().unwrap()), Signal::SIGKILL).unwrap();
        } else if line.contains(r#""state":"failed""#) && line.contains("task_state") {
            last = line;
        }
    }
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(attempts, 3);
    assert!(last.contains("Blender died while it was working"), "{last}");
}

#[test]
fn a_plugin_that_waits_is_told_to_stop() {
    let mut render = Render::probe("wait_for_cancel").frames("1").args(["--json"]);
    let mut child = render.command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains(r#""message":"waiting""#)));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    assert!(lines.any(|line| line.contains("was told to stop")));
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
