//! Death of the host and of its workers: nothing lost, nothing done twice.
//!
//! `HOTSHOE_TEST_FULL=1` makes the long proofs as long as they are meant to be;
//! without it they run a tenth.

use std::collections::HashMap;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::farm::{Client, Farm};
use crate::harness::{Picture, below, files_below, installed, is_alive};

/// How many times a long proof does its thing.
fn times(full: usize) -> usize {
    if std::env::var_os("HOTSHOE_TEST_FULL").is_some() { full } else { full.div_ceil(10) }
}

/// Numbers that look random, the same in every run that has the same seed.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = std::env::var("HOTSHOE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
        eprintln!("HOTSHOE_TEST_SEED={seed}");
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Fails unless the story that the events tell is one that can be true.
fn check_events(events: &[Value], id: &str, tasks: usize) {
    let numbers: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "no event is lost or doubled");
    let mut done: HashMap<&str, usize> = HashMap::new();
    let mut written: HashMap<&str, usize> = HashMap::new();
    for event in events {
        match event["event"].as_str().unwrap() {
            "task_state" if event["state"] == "done" => {
                *done.entry(event["id"].as_str().unwrap()).or_default() += 1;
            }
            "file_written" => *written.entry(event["path"].as_str().unwrap()).or_default() += 1,
            _ => {}
        }
    }
    assert_eq!((done.len(), written.len()), (tasks, tasks));
    assert!(done.values().all(|times| *times == 1), "each task is done once: {done:?}");
    assert!(written.values().all(|times| *times == 1), "each file is told once: {written:?}");
    let ended: Vec<&Value> =
        events.iter().filter(|e| e["event"] == "job_state" && e["state"] == "succeeded").collect();
    assert_eq!((ended.len(), ended[0]["id"].as_str()), (1, Some(id)));
}

#[test]
fn a_host_that_is_killed_again_and_again_does_each_task_once() {
    let kills = times(200);
    let mut dice = Dice::new();
    let mut farm = Farm::new();
    farm.fake = "ms=12".to_owned();
    let mut farm = farm.keeps_count();
    farm.serve();
    let tasks = 200;
    // Slow enough that its end comes after the last kill.
    let id = farm.submit(&format!("1-{tasks}"));
    let (mut recorded, mut open) = (0, 0);
    for _ in 0..kills {
        std::thread::sleep(Duration::from_millis(dice.below(if kills > 20 { 16 } else { 40 })));
        farm.signal(Signal::SIGKILL);
        assert!(farm.serve());
        let job = farm.state(&id);
        open += usize::from(job["state"] != "succeeded");
        // What a client was told of as written is never rendered again.
        let files = job["files"].as_u64().unwrap();
        assert!(files >= recorded);
        recorded = files;
    }
    eprintln!("{open} of {kills} kills hit the job before its end");
    assert!(open * 2 > kills, "{open} of {kills}");
    farm.wait_for(&id, "succeeded");
    check_events(&farm.events(), &id, tasks);
    let rendered = farm.rendered();
    let mut distinct = rendered.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct, (1..=tasks as i32).collect::<Vec<_>>());
    // Rendered, and yet not recorded when the host died: at most one a worker a kill.
    assert!(rendered.len() <= tasks + kills * 2, "{} of {tasks}", rendered.len());
    let files = files_below(&farm.path("out"));
    assert_eq!(files.len(), tasks, "nothing is left aside: {files:?}");
}

#[test]
fn a_host_that_dies_at_any_transition_goes_on_where_it_was() {
    // Each place several times over, from the first transaction to the last.
    let places = [("before-commit", 24), ("after-commit", 24), ("recorded", 4), ("placed", 4)];
    let mut died = 0;
    for (place, last) in places {
        for time in 1..=last {
            let mut farm = Farm::new().keeps_count();
            farm.workers = 1;
            farm.crash = Some(format!("{place}:{time}"));
            let mut id = None;
            if farm.serve() {
                let job = farm.job("1-4");
                let mut job = job.clone();
                job["key"] = "the only one".into();
                let sent = Client::connect(&farm).and_then(|mut client| client.try_call("jobs.submit", job));
                id = sent.map(|job| job.unwrap()["id"].as_str().unwrap().to_owned());
                let began = std::time::Instant::now();
                // The last places of the list may come after the job's end.
                while !farm.is_dead() && began.elapsed() < Duration::from_secs(20) {
                    let done = id.as_ref().is_some_and(|id| {
                        Client::connect(&farm)
                            .and_then(|mut client| client.try_call("jobs.get", serde_json::json!({"id": id})))
                            .is_some_and(|job| job.is_ok_and(|job| job["state"] == "succeeded"))
                    });
                    if done {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            died += usize::from(farm.is_dead());
            farm.signal(Signal::SIGKILL);
            farm.crash = None;
            assert!(farm.serve(), "{place}:{time}");
            // Whoever did not hear that the job was accepted asks again, with the same key.
            let mut job = farm.job("1-4");
            job["key"] = "the only one".into();
            let again = farm.client().call("jobs.submit", job);
            let again = again["id"].as_str().unwrap().to_owned();
            assert!(id.is_none_or(|id| id == again), "{place}:{time}");
            farm.wait_for(&again, "succeeded");
            check_events(&farm.events(), &again, 4);
            let count = |frame: i32| farm.rendered().iter().filter(|f| **f == frame).count();
            let twice: Vec<i32> = (1..=4).filter(|frame| count(*frame) > 1).collect();
            // Only a frame that was not recorded yet is rendered again.
            let allowed = usize::from(place.ends_with("commit"));
            assert!(twice.len() <= allowed, "{place}:{time}: {twice:?}");
        }
    }
    // Four frames make fewer transactions than that.
    assert!(died > 28, "{died} of 56 hosts died where they were to");
}

fn workers_are_killed_by(signal: Signal, config: &str, every_ms: u64) {
    let kills = times(200);
    let mut dice = Dice::new();
    let mut farm = Farm::new();
    farm.fake = "ms=10".to_owned();
    farm.config = config.to_owned();
    let mut farm = farm.keeps_count();
    farm.serve();
    // Two workers, and something to do until the last kill and after it.
    let tasks = 100 + kills * every_ms as usize / 8;
    let id = farm.submit(&format!("1-{tasks}"));
    for _ in 0..kills {
        std::thread::sleep(Duration::from_millis(every_ms / 2 + dice.below(every_ms)));
        // The last below a guard is the worker itself.
        let host = farm.pid().as_raw();
        let leaves: Vec<i32> = below(host).into_iter().filter(|pid| below(*pid).is_empty()).collect();
        if !leaves.is_empty() {
            let _ = kill(Pid::from_raw(leaves[dice.below(leaves.len() as u64) as usize]), signal);
        }
    }
    let job = farm.wait_for(&id, "succeeded");
    assert_eq!(job["failed"], 0, "{job:#}");
    let stopped = farm.events().iter().filter(|event| event["event"] == "worker_stopped").count();
    eprintln!("{stopped} of {kills} kills ended a worker");
    // Some are hit twice, or before they have said hello.
    assert!(stopped * 2 > kills, "{stopped} of {kills}");
    check_events(&farm.events(), &id, tasks);
    assert_eq!(files_below(&farm.path("out")).len(), tasks);
}

#[test]
fn workers_that_are_killed_lose_no_frame() {
    workers_are_killed_by(Signal::SIGKILL, "[jobs]\nretries = 100000\nbackoff_seconds = 0.01\n", 50);
}

#[test]
fn workers_that_crash_now_and_then_lose_no_frame() {
    workers_are_killed_by(Signal::SIGSEGV, "[jobs]\nretries = 100000\nbackoff_seconds = 0.01\n", 50);
}

#[test]
fn workers_that_are_stopped_lose_no_frame() {
    let config = "[jobs]\nretries = 100000\nbackoff_seconds = 0.01\n[workers]\nfrozen_seconds = 0.4\n";
    workers_are_killed_by(Signal::SIGSTOP, config, 500);
}

#[test]
fn real_blender_goes_on_after_each_death_of_the_host() {
    let mut dice = Dice::new();
    let mut farm = Farm::new();
    let blender = installed();
    farm.blender = blender.path.clone();
    farm.serve();
    let scene = blender.scene("small");
    let job = serde_json::json!({"scene": scene, "frames": "1-24", "out": farm.path("out")});
    let id = farm.client().call("jobs.submit", job)["id"].as_str().unwrap().to_owned();
    for _ in 0..times(10).max(2) {
        std::thread::sleep(Duration::from_millis(500 + dice.below(2500)));
        let workers = below(farm.pid().as_raw());
        farm.signal(Signal::SIGKILL);
        let began = std::time::Instant::now();
        while workers.iter().any(is_alive) {
            assert!(began.elapsed() < Duration::from_secs(10), "no Blender outlives its host");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(farm.serve());
    }
    farm.wait_for(&id, "succeeded");
    check_events(&farm.events(), &id, 24);
    let files = files_below(&farm.path("out"));
    assert_eq!(files.len(), 24, "{files:?}");
    assert!(files.iter().all(|file| Picture::read(&farm.path("out").join(file)).shows_something()));
}
