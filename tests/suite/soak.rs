//! Upgrades without end: what they cost nobody. CI does a part of them; all of it with
//! `HOTSHOE_TEST_FULL=1 cargo test --release --test suite soak -- --test-threads 1`.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::changeling::{AT_ONCE, release};
use crate::farm::Farm;

/// How many, in full and in CI.
fn count(full: usize, part: usize) -> usize {
    if std::env::var_os("HOTSHOE_TEST_FULL").is_some() { full } else { part }
}

/// What a process has: resident memory in KiB, descriptors and threads.
fn used(pid: i32) -> (u64, usize, usize) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = memory.split_whitespace().next().unwrap().parse().unwrap();
    let all = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    (memory, all("fd"), all("task"))
}

/// Replaces the changeling in one of the ways that there are.
fn replace(farm: &Farm, way: usize, bytes: &[u8]) {
    let place = farm.plugins().join("changeling.wasm");
    let aside = farm.path("aside.wasm");
    match way % 4 {
        0 => {
            fs::write(&aside, bytes).unwrap();
            fs::rename(&aside, &place).unwrap();
        }
        // In place, or through the link that the fourth way has left.
        1 => {
            let _ = fs::remove_file(&place);
            fs::write(&place, bytes).unwrap();
        }
        2 => {
            fs::write(&aside, bytes).unwrap();
            let _ = fs::remove_file(&place);
            fs::hard_link(&aside, &place).unwrap();
            fs::remove_file(&aside).unwrap();
        }
        _ => {
            let target = farm.path(&format!("target-{}.wasm", way % 8));
            fs::write(&target, bytes).unwrap();
            let link = farm.path("link");
            symlink(&target, &link).unwrap();
            fs::rename(link, &place).unwrap();
        }
    }
}

#[test]
fn swaps_under_clients_that_never_pause_fail_nothing() {
    let swaps = count(1000, 40);
    let mut farm = Farm::with_plugins(AT_ONCE);
    farm.workers = 4;
    let versions = ["1.0.0", "1.0.1"];
    let both = [release("1.0.0", "a well 0"), release("1.0.1", "b well 0")];
    farm.put("changeling.wasm", &both[0]);
    farm.serve();
    farm.until("1.0.0", "active");
    // The scene is there before several want it.
    farm.render("1");
    let is_over = AtomicBool::new(false);
    let jobs: Vec<Vec<Value>> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut jobs = Vec::new();
                    while !is_over.load(Ordering::Relaxed) {
                        jobs.push(farm.render("1-3"));
                    }
                    jobs
                })
            })
            .collect();
        for n in 1..=swaps {
            replace(&farm, n, &both[n % 2]);
            farm.until(versions[n % 2], "active");
        }
        is_over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let done: usize = jobs.iter().map(Vec::len).sum();
    eprintln!("{swaps} swaps under {done} jobs");
    assert!(done > swaps / 4, "{done}");
    // Each task was done by one release, which says itself which one it is.
    let events = farm.events();
    let mut running: std::collections::HashMap<(String, String), String> = Default::default();
    let mut checked = 0;
    for event in &events {
        let key = |task: &str| {
            (
                event["job"].as_str().unwrap_or_default().to_owned(),
                event[task].as_str().unwrap_or_default().to_owned(),
            )
        };
        match event["event"].as_str().unwrap() {
            "task_started" => drop(running.insert(key("id"), event["release"].as_str().unwrap().to_owned())),
            "task_state" => assert_eq!(event["state"], "done", "{event}"),
            "log" => {
                let release = &running[&key("task")];
                let tag = if release.starts_with("changeling@1.0.0") { "by a" } else { "by b" };
                assert_eq!(event["message"], tag, "{release}");
                checked += 1;
            }
            _ => {}
        }
    }
    assert_eq!(checked, done * 3 + 1);
}

#[test]
fn memory_descriptors_and_threads_stay_as_they_are() {
    let swaps = count(10_000, 150);
    let mut farm = Farm::with_plugins(&format!("{AT_ONCE}[keep]\nevents = 1000\njobs = 10\n"));
    let both = [release("1.0.0", "a well 0"), release("1.0.1", "b well 0")];
    farm.put("changeling.wasm", &both[0]);
    farm.serve();
    farm.until("1.0.0", "active");
    let pid = farm.pid().as_raw();
    let mut curve = Vec::new();
    for n in 1..=swaps {
        farm.put("changeling.wasm", &both[n % 2]);
        farm.until(["1.0.0", "1.0.1"][n % 2], "active");
        if n % 10 == 0 {
            farm.render("1");
        }
        if n % (swaps / 10) == 0 {
            curve.push((n, used(pid)));
        }
    }
    for (n, (memory, files, threads)) in &curve {
        eprintln!("{n} swaps: {memory} KiB, {files} descriptors, {threads} threads");
    }
    let (first, last) = (curve[2].1, curve.last().unwrap().1);
    assert!(last.0 < first.0 + 32 * 1024, "memory: {curve:?}");
    assert!(last.1 <= first.1 + 8 && last.2 <= first.2 + 16, "{curve:?}");
}

#[test]
fn any_number_of_releases_is_taken_and_few_stay_in_memory() {
    let releases = count(1000, 60);
    let config = "[releases]\nloaded = 16\nkept = 20\n[rollout]\nfirst = 0\ntasks = 0\n";
    let mut farm = Farm::with_plugins(config);
    farm.serve();
    let began = Instant::now();
    for n in 0..releases {
        farm.put("changeling.wasm", &release(&format!("1.0.{n}"), "a well 0"));
        farm.until(&format!("1.0.{n}"), "active");
        if n % 20 == 0 {
            assert_eq!(farm.render("1")["release"]["version"], format!("1.0.{n}"));
        }
    }
    eprintln!("{releases} releases in {:?}", began.elapsed());
    let all = farm.releases();
    assert_eq!(all.len(), releases);
    let loaded = all.iter().filter(|one| one["is_loaded"] == true).count();
    assert!((1..=17).contains(&loaded), "{loaded}");
    // Old ones are there to go back to.
    let job = farm.submit_to("changeling@=1.0.3", "1", json!({}));
    farm.wait_for(job["id"].as_str().unwrap(), "succeeded");
    std::thread::sleep(Duration::from_millis(100));
}

#[test]
fn an_animation_goes_on_through_an_upgrade() {
    use crate::harness::{Kind, Picture, installed};
    let version = |version: &str| {
        let mut metadata = wasm_metadata::AddMetadata::default();
        metadata.name = wasm_metadata::AddMetadataField::Set("smith".to_owned());
        metadata.version =
            wasm_metadata::AddMetadataField::Set(wasm_metadata::Version::new(version.to_owned()));
        metadata.to_wasm(&fs::read(Kind::Component.probe()).unwrap()).unwrap()
    };
    let mut farm = Farm::with_plugins("[rollout]\nfirst = 1\nshare = 1.0\ntasks = 2\n");
    farm.blender = installed().path;
    farm.workers = 1;
    farm.put("smith.wasm", &version("1.0.0"));
    farm.serve();
    // The probe renders as Blender would, but for frame 999.
    let submission = json!({
        "scene": installed().scene("small"), "frames": "1-80", "out": farm.path("out"), "renderer": "smith",
        "settings": {"act": "panic", "only": 999},
    });
    let job = farm.client().call("jobs.submit", submission);
    let id = job["id"].as_str().unwrap();
    while farm.state(id)["done"].as_u64().unwrap() < 3 {
        std::thread::sleep(Duration::from_millis(10));
    }
    farm.put("smith.wasm", &version("1.0.1"));
    let job = farm.wait_for(id, "succeeded");
    assert_eq!((&job["done"], &job["release"]["version"]), (&json!(80), &json!("1.0.1")));
    let tasks = farm.client().call("tasks.list", json!({"job": id}));
    let by = |task: &Value| task["release"].as_str().unwrap().split('+').next().unwrap().to_owned();
    let by: Vec<String> = tasks["tasks"].as_array().unwrap().iter().map(by).collect();
    assert!(by[0] == "smith@1.0.0" && by[79] == "smith@1.0.1", "{by:?}");
    for frame in 1..=80 {
        assert!(Picture::read(&farm.path(&format!("out/{frame:04}.png"))).shows_something());
        let bytes = fs::read(farm.path(&format!("out/{frame:04}.png"))).unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.contains(&by[frame - 1]), "the picture of frame {frame} does not say who made it");
    }
}
