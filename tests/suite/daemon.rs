//! A render node: jobs, sessions, events, and how the host comes and goes.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::farm::{Client, Farm};
use crate::harness::{assert_same_pixels, at_a_terminal, command, files_below, installed, probe};

fn id(job: &Value) -> String {
    job["id"].as_str().unwrap().to_owned()
}

/// Waits for notifications of events until one fits.
fn hear(client: &mut Client, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
    let mut events = Vec::new();
    loop {
        let message = client.read().expect("the connection stays up");
        for event in message["params"]["events"].as_array().into_iter().flatten() {
            events.push(event.clone());
            if fits(event) {
                return events;
            }
        }
    }
}

#[test]
fn a_job_is_rendered_by_real_blender_as_alone() {
    let mut farm = Farm::new();
    let blender = installed();
    farm.blender = blender.path.clone();
    farm.serve();
    let scene = blender.scene("small");
    let job = json!({"scene": scene, "frames": "1-3", "out": farm.path("out")});
    let job = id(&farm.client().call("jobs.submit", job));
    let job = farm.wait_for(&job, "succeeded");
    assert_eq!((&job["done"], &job["files"]), (&json!(3), &json!(3)));
    let alone = farm.path("alone");
    let mut render = farm.hotshoe(&["render", "--alone", "--frames", "1-3", "--out"]);
    render.arg(&alone).arg(&scene).arg("--blender").arg(&blender.path);
    assert!(render.output().unwrap().status.success());
    for name in ["0001.png", "0002.png", "0003.png"] {
        assert_same_pixels(&farm.path("out").join(name), &alone.join(name));
    }
    // A second job of the same scene finds the worker warm.
    let workers = farm.client().call("workers.list", json!({}));
    let before = workers["workers"].as_array().unwrap().len();
    let again = json!({"scene": scene, "frames": "4-5", "out": farm.path("out")});
    let again = id(&farm.client().call("jobs.submit", again));
    farm.wait_for(&again, "succeeded");
    let workers = farm.client().call("workers.list", json!({}));
    assert_eq!(workers["workers"].as_array().unwrap().len(), before, "{:#?}", farm.events());
}

#[test]
fn render_uses_a_running_host_and_looks_the_same() {
    let farm = Farm::start();
    farm.job("1");
    let scene = farm.path("scene.blend");
    let out = farm.path("out");
    let args = |more: &[&str]| {
        let fixed = ["render", scene.to_str().unwrap(), "-f", "1-3", "--out", out.to_str().unwrap()];
        [&fixed, more].concat().iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>()
    };
    let run = |more: &[&str]| farm.run(&args(more).iter().map(String::as_str).collect::<Vec<_>>());
    let ended = run(&[]).expect(0);
    assert!(ended.stdout.contains("3 files in"), "{ended:?}");
    assert_eq!(farm.client().call("jobs.list", json!({}))["jobs"].as_array().unwrap().len(), 1);
    run(&["--blender", "/usr/bin/blender"]).expect(2).tells(&["--blender is for it to decide", "--alone"]);
    run(&["--workers", "2"]).expect(2).tells(&["--workers is for it to decide"]);
    run(&["--set", "sampels=4"]).expect(2).tells(&["no setting 'sampels'"]);
}

#[test]
fn the_same_key_gives_the_same_job() {
    let mut farm = Farm::start();
    let mut job = farm.job("1-2");
    job["key"] = "shot 7".into();
    let submit = |farm: &Farm| id(&farm.client().call("jobs.submit", job.clone()));
    let first = submit(&farm);
    assert_eq!(submit(&farm), first);
    let all: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| submit(&farm))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(all.iter().all(|id| *id == first));
    farm.wait_for(&first, "succeeded");
    farm.signal(Signal::SIGTERM);
    farm.serve();
    assert_eq!(submit(&farm), first);
    assert_ne!(farm.submit("1-2"), first);
}

#[test]
fn a_client_that_was_away_misses_nothing() {
    let mut farm = Farm::start();
    let mut client = farm.client();
    let session = id(&client.call("session.open", json!({"name": "test"})));
    client.call("events.subscribe", json!({}));
    let first = id(&client.call("jobs.submit", farm.job("1-3")));
    let seen = hear(&mut client, |event| event["state"] == "succeeded" && event["id"] == first.as_str());
    let last = seen.last().unwrap()["seq"].as_u64().unwrap();
    client.call("events.acknowledge", json!({"seq": last}));
    drop(client);
    // Meanwhile: another job, and another host.
    let second = farm.submit("4-6");
    farm.wait_for(&second, "succeeded");
    assert_eq!(farm.signal(Signal::SIGTERM), Some(0));
    farm.serve();
    let mut client = farm.client();
    let resumed = client.call("session.resume", json!({"id": session}));
    assert_eq!(resumed["cursor"], last);
    client.call("events.subscribe", json!({}));
    let missed = hear(&mut client, |event| event["event"] == "host_started");
    let numbers: Vec<u64> = missed.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (last + 1..=last + numbers.len() as u64).collect::<Vec<_>>());
    assert!(missed.iter().any(|event| event["state"] == "succeeded" && event["id"] == second.as_str()));
    let mine: Vec<Value> =
        client.call("jobs.list", json!({"session": session}))["jobs"].as_array().unwrap().clone();
    assert_eq!(mine.iter().map(id).collect::<Vec<_>>(), [first]);
}

#[test]
fn jobs_go_by_priority_and_after_one_another() {
    let mut farm = Farm::new();
    farm.workers = 1;
    farm.fake = "ms=20".to_owned();
    let mut farm = farm.keeps_count();
    farm.serve();
    let mut client = farm.client();
    let mut submit = |frames: &str, more: Value| {
        let mut job = farm.job(frames);
        for (name, value) in more.as_object().unwrap() {
            job[name] = value.clone();
        }
        id(&client.call("jobs.submit", job))
    };
    let first = submit("1-20", json!({}));
    let urgent = submit("101-103", json!({"priority": 5}));
    let later = submit("201-202", json!({"after": [first], "priority": 9}));
    farm.wait_for(&later, "succeeded");
    farm.wait_for(&urgent, "succeeded");
    let rendered = farm.rendered();
    let place = |frame| rendered.iter().position(|f| *f == frame).unwrap();
    assert!(place(103) < place(20), "the urgent one goes first: {rendered:?}");
    assert!(place(201) > place(20), "the other one waits: {rendered:?}");

    let lost = submit("1-1000", json!({}));
    let hopeless = submit("301", json!({"after": [lost]}));
    let mut client = farm.client();
    client.call("jobs.cancel", json!({"id": lost}));
    farm.wait_for(&lost, "canceled");
    let failed = farm.wait_for(&hopeless, "failed");
    assert!(failed["error"]["message"].as_str().unwrap().contains(&lost), "{failed:#}");
}

#[test]
fn a_job_is_paused_resumed_canceled_and_retried() {
    let mut farm = Farm::new();
    farm.workers = 1;
    farm.fake = "ms=20".to_owned();
    let mut farm = farm.keeps_count();
    farm.serve();
    let job = farm.submit("1-30");
    farm.wait_for_frames(3);
    farm.run(&["job", "pause", &job]).expect(0);
    let paused = farm.wait_for(&job, "paused");
    assert_eq!(paused["pause"]["code"], "asked");
    std::thread::sleep(Duration::from_millis(100));
    let count = farm.rendered().len();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(farm.rendered().len(), count, "nothing is begun");
    // It stays paused whatever becomes of the host.
    farm.signal(Signal::SIGKILL);
    farm.serve();
    assert_eq!(farm.state(&job)["state"], "paused");
    farm.run(&["job", "resume", &job]).expect(0);
    farm.wait_for_frames(count + 3);
    farm.run(&["job", "cancel", &job]).expect(0);
    let canceled = farm.wait_for(&job, "canceled");
    assert!(canceled["done"].as_u64().unwrap() < 30);
    farm.run(&["job", "retry", &job]).expect(0);
    let done = farm.wait_for(&job, "succeeded");
    assert_eq!(done["done"], 30);
    let mut rendered = farm.rendered();
    let all = rendered.len();
    rendered.sort_unstable();
    rendered.dedup();
    assert_eq!(rendered, (1..=30).collect::<Vec<_>>());
    assert!(all <= 33, "what was finished is not rendered again: {all}");
}

#[test]
fn a_scene_that_changed_pauses_the_job_and_is_named() {
    let mut farm = Farm::new();
    farm.workers = 1;
    farm.fake = "ms=20".to_owned();
    farm.serve();
    let job = farm.submit("1-30");
    farm.wait_for(&job, "running");
    let scene = farm.path("scene.blend");
    let whole = std::fs::read(&scene).unwrap();
    let mut changed = whole.clone();
    changed.extend(b"more");
    std::fs::write(&scene, &changed).unwrap();
    let paused = farm.wait_for(&job, "paused");
    assert_eq!(paused["pause"]["code"], "changed");
    assert!(paused["pause"]["message"].as_str().unwrap().contains("scene.blend"), "{paused:#}");
    // Resuming does not help as long as it is another file ...
    farm.run(&["job", "resume", &job]).expect(2).tells(&["scene.blend", "--accept-changes"]);
    assert_eq!(farm.state(&job)["state"], "paused");
    // ... putting it back does ...
    std::fs::write(&scene, &whole).unwrap();
    farm.run(&["job", "resume", &job]).expect(0);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(farm.state(&job)["state"], "running");
    // ... and so does accepting it, also for the host after this one.
    std::fs::write(&scene, &changed).unwrap();
    farm.wait_for(&job, "paused");
    farm.run(&["host", "drain"]).expect(0);
    farm.run(&["job", "resume", &job, "--accept-changes"]).expect(0);
    farm.signal(Signal::SIGKILL);
    farm.serve();
    farm.wait_for(&job, "succeeded");
}

#[test]
fn a_texture_that_changed_pauses_the_job_and_is_named() {
    let mut farm = Farm::new();
    let blender = installed();
    farm.blender = blender.path.clone();
    farm.workers = 1;
    farm.serve();
    let (scene, texture) = (farm.path("textured.blend"), farm.path("texture.png"));
    let script = farm.path("textured.py");
    let text = format!(
        "import bpy\n\
         picture = bpy.data.images.new('texture', 8, 8)\n\
         picture.filepath_raw = {texture:?}\n\
         picture.file_format = 'PNG'\n\
         picture.save()\n\
         picture.use_fake_user = True\n\
         scene = bpy.context.scene\n\
         scene.render.engine = 'CYCLES'\n\
         scene.cycles.samples = 64\n\
         scene.cycles.use_denoising = False\n\
         scene.render.resolution_x = scene.render.resolution_y = 128\n\
         bpy.ops.wm.save_as_mainfile(filepath={scene:?})\n"
    );
    std::fs::write(&script, text).unwrap();
    assert!(blender.python(&script).output().unwrap().status.success() && scene.exists());
    let job = json!({"scene": scene, "frames": "1-200", "out": farm.path("out")});
    let job = id(&farm.client().call("jobs.submit", job));
    farm.wait_for(&job, "running");
    let mut picture = std::fs::read(&texture).unwrap();
    picture.extend(b"more");
    std::fs::write(&texture, picture).unwrap();
    let paused = farm.wait_for(&job, "paused");
    assert!(paused["pause"]["message"].as_str().unwrap().contains("texture.png"), "{paused:#}");
    // Once it is accepted, it is that one which must not change.
    let done = paused["done"].as_u64().unwrap();
    farm.run(&["job", "resume", &job, "--accept-changes"]).expect(0);
    while farm.state(&job)["done"].as_u64().unwrap() < done + 2 {
        assert_ne!(farm.state(&job)["state"], "paused", "{:#}", farm.state(&job));
        std::thread::sleep(Duration::from_millis(20));
    }
    std::fs::write(&texture, "another one").unwrap();
    let paused = farm.wait_for(&job, "paused");
    assert!(paused["pause"]["message"].as_str().unwrap().contains("texture.png"), "{paused:#}");
    assert_eq!(paused["retries"], 0, "that is nobody's failure: {paused:#}");
}

#[test]
fn files_that_are_not_as_recorded_are_rendered_again_after_a_restart() {
    let mut farm = Farm::new();
    farm.workers = 1;
    farm.fake = "ms=20".to_owned();
    let mut farm = farm.keeps_count();
    farm.serve();
    let job = farm.submit("1-20");
    farm.wait_for_frames(6);
    farm.signal(Signal::SIGKILL);
    let out = farm.path("out");
    std::fs::remove_file(out.join("0001.png")).unwrap();
    let mut spoiled = std::fs::read(out.join("0002.png")).unwrap();
    spoiled[20] ^= 1;
    std::fs::write(out.join("0002.png"), spoiled).unwrap();
    farm.serve();
    farm.wait_for(&job, "succeeded");
    let times = |frame| farm.rendered().iter().filter(|f| **f == frame).count();
    assert_eq!((times(1), times(2), times(3)), (2, 2, 1));
    assert_eq!(std::fs::read(out.join("0001.png")).unwrap(), std::fs::read(out.join("0002.png")).unwrap());
}

#[test]
fn a_task_that_keeps_failing_holds_nobody_up_and_its_retries_are_counted() {
    let mut farm = Farm::new();
    farm.workers = 1;
    farm.fake = "crash=3".to_owned();
    farm.config = "[jobs]\nbackoff_seconds = 0.3\n".to_owned();
    let mut farm = farm.keeps_count();
    farm.serve();
    let job = farm.submit("1-10");
    let failed = farm.wait_for(&job, "failed");
    assert_eq!((&failed["done"], &failed["failed"], &failed["retries"]), (&json!(9), &json!(1), &json!(2)));
    let tasks = farm.client().call("tasks.list", json!({"job": job, "states": ["failed"]}));
    let task = &tasks["tasks"][0];
    assert_eq!((&task["id"], &task["attempts"]), (&json!("frame-3"), &json!(3)));
    assert_eq!(task["error"]["blame"], "blender");
    // Which frames it can render it knows: the ones after it did not wait.
    assert_eq!(files_below(&farm.path("data/crashes")).len(), 3);
    let report = farm.run(&["crash", "show", "last"]).expect(0).stdout;
    for part in ["SIGABRT", "4.5.0 (stand-in)", "scene.write", env!("CARGO_PKG_VERSION")] {
        assert!(report.contains(part), "{part}: {report}");
    }
}

#[test]
fn a_scene_that_crashes_blender_three_times_in_a_row_fails_with_a_report() {
    let mut farm = Farm::new();
    farm.workers = 1;
    farm.fake = "crash=1".to_owned();
    farm.config = "[jobs]\nbackoff_seconds = 0.01\n".to_owned();
    farm.serve();
    let job = farm.submit("1");
    let failed = farm.wait_for(&job, "failed");
    let message = failed["error"]["message"].as_str().unwrap();
    for part in ["crashed Blender 3 times", "SIGABRT", "the report: "] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let report = message.rsplit_once("the report: hotshoe crash show ").unwrap().1;
    let shown = farm.run(&["crash", "show", report]).expect(0).stdout;
    assert!(shown.contains("Blender 4.5.0 (stand-in) was ended by SIGABRT in scene.write"), "{shown}");
    assert!(shown.contains("  blender.open\n") && shown.contains("  scene.write\n"), "{shown}");
}

#[test]
fn the_budget_of_retries_is_kept() {
    let mut farm = Farm::new();
    farm.workers = 1;
    farm.fake = "crash=2".to_owned();
    farm.config = "[jobs]\nretries = 1\nbackoff_seconds = 0.01\n".to_owned();
    farm.serve();
    let job = farm.submit("1-5");
    let failed = farm.wait_for(&job, "failed");
    assert_eq!((&failed["done"], &failed["retries"]), (&json!(4), &json!(1)));
}

#[test]
fn a_worker_that_stalls_or_grows_is_killed_and_replaced() {
    for (fake, config, what) in [
        ("stall=2", "frozen_seconds = 0.5", "no sign of life"),
        ("stall=2", "stalled_seconds = 0.5", "no progress"),
        ("grow=2", "kill_above_mib = 200", "MiB of memory"),
        ("fill=2", "work_mib = 8", "MiB of the disk"),
    ] {
        let mut farm = Farm::new();
        farm.workers = 1;
        farm.fake = fake.to_owned();
        farm.config = format!("[jobs]\nbackoff_seconds = 0.01\nretries = 1\n[workers]\n{config}\n");
        farm.serve();
        let job = farm.submit("1-4");
        let failed = farm.wait_for(&job, "failed");
        assert_eq!((&failed["done"], &failed["retries"]), (&json!(3), &json!(1)), "{what}");
        let tasks = farm.client().call("tasks.list", json!({"job": job, "states": ["failed"]}));
        let message = tasks["tasks"][0]["error"]["message"].as_str().unwrap();
        let key = config.split(' ').next().unwrap();
        assert!(message.contains(what) && message.contains(&format!("(workers.{key})")), "{message}");
        assert!(message.contains("hotshoe crash show "), "{message}");
    }
}

#[test]
fn workers_are_replaced_when_they_have_served_their_time() {
    let mut farm = Farm::new();
    farm.workers = 1;
    farm.config = "[workers]\nreplace_after_renders = 3\n".to_owned();
    let mut farm = farm.keeps_count();
    farm.serve();
    let job = farm.submit("1-10");
    farm.wait_for(&job, "succeeded");
    let stopped: Vec<Value> =
        farm.events().into_iter().filter(|event| event["event"] == "worker_stopped").collect();
    assert_eq!(stopped.len(), 3, "{stopped:?}");
    assert!(stopped[0]["reason"].as_str().unwrap().contains("rendered 3 times"));
    assert_eq!(farm.rendered().len(), 10, "no frame is lost and none rendered twice");
}

#[test]
fn warm_workers_are_kept_by_scene_up_to_a_number() {
    let mut farm = Farm::new();
    farm.workers = 1;
    farm.config = "[workers]\nwarm = 1\n".to_owned();
    farm.serve();
    farm.job("1");
    let scenes: Vec<String> = (0..3)
        .map(|n| {
            let copy = farm.path(&format!("scene-{n}.blend"));
            let mut bytes = std::fs::read(farm.path("scene.blend")).unwrap();
            bytes.extend(n.to_string().bytes());
            std::fs::write(&copy, bytes).unwrap();
            copy.to_str().unwrap().to_owned()
        })
        .collect();
    let mut render = |n: usize| {
        let job = json!({"scene": scenes[n], "frames": "1", "out": farm.path("out")});
        let job = id(&farm.client().call("jobs.submit", job));
        farm.wait_for(&job, "succeeded");
    };
    let started = |farm: &Farm| farm.events().iter().filter(|e| e["event"] == "worker_started").count();
    [0, 1, 0, 1, 0].into_iter().for_each(&mut render);
    assert_eq!(started(&farm), 2, "each scene has its worker");
    render(2);
    assert_eq!(started(&farm), 3, "no worker opens two scenes: the one that was idle longest ends");
    let workers = farm.client().call("workers.list", json!({}));
    let open: Vec<&str> =
        workers["workers"].as_array().unwrap().iter().map(|w| w["scene"].as_str().unwrap()).collect();
    assert!(open.contains(&scenes[0].as_str()) && open.contains(&scenes[2].as_str()), "{open:?}");
}

#[test]
fn state_of_a_plugin_survives_the_host() {
    let mut farm = Farm::new();
    farm.workers = 1;
    farm.serve();
    let mut job = farm.job("1");
    job["renderer"] = json!(probe());
    job["settings"] = json!({"act": "state"});
    let first = farm.client().call("jobs.submit", job);
    let first = id(&first);
    farm.wait_for(&first, "succeeded");
    farm.signal(Signal::SIGKILL);
    let db = rusqlite::Connection::open(farm.path("data/hotshoe.db")).unwrap();
    let (count, release): (u32, String) = db
        .query_row("SELECT count(*), max(release) FROM state", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert!(count > 0);
    assert_eq!(release.len(), 64, "the digest of who wrote it: {release}");
}

#[test]
fn only_one_host_serves_a_data_directory_and_a_stale_socket_is_replaced() {
    let mut farm = Farm::start();
    let second = farm.serve_command().output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let told = String::from_utf8(second.stderr).unwrap();
    assert!(told.contains("another host, process") && told.contains("--data"), "{told}");
    // Another directory, the same socket.
    let mut third = farm.serve_command();
    let third = third.env("HOTSHOE_DATA", farm.path("other")).output().unwrap();
    assert_eq!(third.status.code(), Some(1));
    let told = String::from_utf8(third.stderr).unwrap();
    assert!(told.contains("another host listens") && told.contains("--socket"), "{told}");
    farm.client().call("host.status", json!({}));

    farm.signal(Signal::SIGKILL);
    assert!(std::fs::symlink_metadata(farm.socket()).unwrap().file_type().is_socket(), "it was left behind");
    assert!(farm.serve());
    assert_eq!(farm.signal(Signal::SIGTERM), Some(0));
    assert!(!farm.socket().exists() && !farm.path("socket/host.token").exists());
    // What is no socket is not touched.
    std::fs::write(farm.socket(), "mine").unwrap();
    let refused = farm.serve_command().output().unwrap();
    assert!(String::from_utf8(refused.stderr).unwrap().contains("is not a socket"));
    assert_eq!(std::fs::read(farm.socket()).unwrap(), b"mine");
}

#[test]
fn a_host_that_is_asked_to_stop_finishes_what_runs() {
    let mut farm = Farm::new();
    farm.workers = 1;
    farm.fake = "ms=300".to_owned();
    let mut farm = farm.keeps_count();
    farm.serve();
    let job = farm.submit("1-10");
    farm.wait_for(&job, "running");
    std::thread::sleep(Duration::from_millis(450));
    assert_eq!(farm.signal(Signal::SIGTERM), Some(0));
    let count = farm.rendered().len();
    assert_eq!(files_below(&farm.path("out")).len(), count, "whatever was begun was finished");
    farm.fake = farm.fake.replace("ms=300", "ms=1");
    farm.serve();
    farm.wait_for(&job, "succeeded");
    assert_eq!(farm.rendered().len(), 10);
    assert_eq!(farm.run(&["host", "shutdown"]).expect(0).code, Some(0));
    assert_eq!(farm.ended(), Some(0));
}

#[test]
fn a_host_that_is_told_to_stop_at_once_does_and_the_next_one_goes_on() {
    let mut farm = Farm::new();
    farm.fake = "ms=60000".to_owned();
    farm.serve();
    let job = farm.submit("1-2");
    farm.wait_for(&job, "running");
    let began = Instant::now();
    farm.run(&["host", "shutdown", "--now"]).expect(0);
    assert_eq!(farm.ended(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    farm.fake = String::new();
    farm.serve();
    farm.wait_for(&job, "succeeded");
}

#[test]
fn a_host_that_drains_begins_nothing_until_it_is_let() {
    let mut farm = Farm::new();
    farm.fake = "ms=50".to_owned();
    farm.serve();
    let job = farm.submit("1-100");
    farm.wait_for(&job, "running");
    farm.run(&["host", "drain"]).expect(0);
    let status = farm.client().call("host.status", json!({}));
    assert_eq!((&status["state"], &status["running"]), (&json!("draining"), &json!(0)));
    let shown = farm.run(&["job", "show", &job]).expect(0).stdout;
    assert!(shown.contains("the host drains and begins nothing; `hotshoe host drain --off`"), "{shown}");
    let done = farm.state(&job)["done"].clone();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(farm.state(&job)["done"], done);
    farm.run(&["host", "drain", "--off"]).expect(0);
    std::thread::sleep(Duration::from_millis(300));
    assert_ne!(farm.state(&job)["done"], done);
}

#[test]
fn a_damaged_or_newer_database_is_told_and_left_as_it_is() {
    let mut farm = Farm::start();
    let job = farm.submit("1-3");
    farm.wait_for(&job, "succeeded");
    farm.signal(Signal::SIGTERM);
    let path = farm.path("data/hotshoe.db");
    let whole = std::fs::read(&path).unwrap();

    let db = rusqlite::Connection::open(&path).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    let refused = farm.serve_command().output().unwrap();
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(told.contains("from a newer Hotshoe") && told.contains("99"), "{told}");

    let mut spoiled = whole.clone();
    let middle = spoiled.len() / 2;
    spoiled[middle..middle + 8192.min(whole.len() / 4)].fill(0x55);
    std::fs::write(&path, &spoiled).unwrap();
    let refused = farm.serve_command().output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(told.contains("is damaged") && told.contains("hotshoe doctor"), "{told}");
    assert_eq!(std::fs::read(&path).unwrap(), spoiled);

    let doctor = farm.run(&["doctor"]);
    assert!(doctor.stdout.contains("damaged") && doctor.stdout.contains("--rescue"), "{doctor:?}");
    let rescued = farm.path("rescued.db");
    farm.run(&["doctor", "--rescue", rescued.to_str().unwrap()]).expect(0);
    for ending in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(farm.path(&format!("data/hotshoe.db{ending}")));
    }
    std::fs::rename(rescued, &path).unwrap();
    assert!(farm.serve());
}

#[test]
fn what_is_too_old_or_too_much_is_collected_and_what_is_pinned_stays() {
    let mut farm = Farm::start();
    let jobs: Vec<String> = (0..4).map(|n| farm.submit(&format!("{}", n + 1))).collect();
    jobs.iter().for_each(|job| drop(farm.wait_for(job, "succeeded")));
    farm.run(&["job", "pin", &jobs[0]]).expect(0);
    farm.signal(Signal::SIGTERM);
    farm.config = "[keep]\njobs = 1\nevents = 1\n".to_owned();
    farm.serve();
    let began = Instant::now();
    loop {
        let page = farm.client().call("jobs.list", json!({}));
        let left: Vec<String> = page["jobs"].as_array().unwrap().iter().map(id).collect();
        if left == [jobs[3].clone(), jobs[0].clone()] {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{left:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let events = farm.events();
    assert!(events.iter().any(|event| event["id"] == jobs[0].as_str()), "the pinned one keeps its events");
    assert!(!events.iter().any(|event| event["id"] == jobs[1].as_str()));
    assert_eq!(files_below(&farm.path("out")).len(), 4, "pictures are never collected");
}

#[test]
fn frames_of_an_earlier_render_are_kept_only_if_they_are_the_same() {
    let farm = Farm::new().keeps_count();
    farm.job("1");
    let scene = farm.path("scene.blend");
    let out = farm.path("out");
    let render = |frames: &str, more: &[&str]| {
        let mut render = farm.hotshoe(&["render", "--alone", "-f", frames, "--resume", "--sandbox", "off"]);
        render.env("HOTSHOE_FAKE", &farm.fake).arg(&scene).arg("--out").arg(&out).args(more);
        let ended = render.arg("--blender").arg(&farm.blender).output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        farm.rendered().len()
    };
    assert_eq!(render("1-4", &[]), 4);
    assert_eq!(render("1-6", &[]), 6, "only what is new");
    std::fs::write(out.join("0002.png"), "something else").unwrap();
    assert_eq!(render("1-6", &[]), 7, "and what is not as it was");
    assert_eq!(render("1-6", &["--set", "samples=4"]), 13, "other settings, other pictures");
    let mut changed = std::fs::read(&scene).unwrap();
    changed.extend(b"more");
    std::fs::write(&scene, changed).unwrap();
    assert_eq!(render("1-6", &["--set", "samples=4"]), 19, "another scene, other pictures");
    // What lies in a folder below is not what is asked for.
    let below = out.join("below");
    let below = below.to_str().unwrap();
    let elsewhere = |out: &str, count| {
        let mut render = farm.hotshoe(&["render", "--alone", "-f", "11-12", "--resume", "--out", out]);
        render.args(["--sandbox", "off"]);
        render.env("HOTSHOE_FAKE", &farm.fake).arg(&scene).arg("--blender").arg(&farm.blender);
        assert!(render.output().unwrap().status.success());
        assert_eq!(farm.rendered().len(), count);
    };
    elsewhere(below, 21);
    elsewhere(out.to_str().unwrap(), 23);
    assert!(out.join("0011.png").exists() && out.join("below/0011.png").exists());
}

#[test]
fn the_command_line_shows_and_steers_a_host() {
    let mut farm = Farm::new();
    farm.fake = "ms=5".to_owned();
    farm.serve();
    let scene = farm.job("1")["scene"].as_str().unwrap().to_owned();
    let out = farm.path("out");
    let job = farm.run(&["submit", &scene, "-f", "1-20", "--out", out.to_str().unwrap(), "--priority", "-3"]);
    let job = job.expect(0).stdout.trim().to_owned();
    let watched = farm.run(&["job", "watch", &job]).expect(0);
    assert!(watched.stdout.contains("20 files in"), "{watched:?}");
    let json = |args: &[&str]| -> Value { serde_json::from_str(&farm.run(args).expect(0).stdout).unwrap() };
    assert_eq!(json(&["job", "show", &job, "--json"])["priority"], -3);
    assert_eq!(json(&["job", "list", "--json"])["id"], job.as_str());
    assert_eq!(json(&["host", "status", "--json"])["state"], "running");
    assert_eq!(json(&["device", "list", "--json"])["kind"], "cpu");
    assert_eq!(farm.run(&["job", "tasks", "--json"]).expect(0).stdout.lines().count(), 20);
    assert!(farm.run(&["worker", "list"]).expect(0).stdout.contains("stand-in"));
    assert!(farm.run(&["job", "list", "--state", "failed"]).expect(0).stdout.lines().count() == 1);
    farm.run(&["job", "list", "--state", "fialed"]).expect(2);
    let events = farm.run(&["events", "--from", "0", "--no-follow", "--job", &job]).expect(0);
    assert!(events.events().iter().all(|event| event["seq"].is_u64()));
    // A reader that has seen enough ends the program.
    let mut following = farm.hotshoe(&["events", "--from", "0"]);
    let mut following = following.stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(following.stdout.take());
    assert!(following.wait().unwrap().success());
    farm.run(&["job", "show", "01a1ff7f-d264-763e-be1d-f07806c60938"]).expect(2).tells(&["there is no job"]);
    farm.signal(Signal::SIGTERM);
    farm.run(&["job", "list"]).expect(1).tells(&["no host listens", "hotshoe serve"]);
    for command in [&["--socket", "/nowhere", "job", "list"], &["job", "list", "--socket", "/nowhere"]] {
        farm.run(command).expect(1).tells(&["no host listens at /nowhere", "hotshoe serve"]);
    }
}

#[test]
fn a_configuration_is_checked_and_shown() {
    let farm = Farm::new();
    let file = farm.path("c.toml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, "[workers]\ncuont = 2\n").unwrap();
    farm.run(&["config", "check", path]).expect(2).tells(&["cuont", "line 2", "--template"]);
    farm.run(&["config", "check", "/no/such/file"]).expect(2).tells(&["cannot read"]);
    std::fs::write(&file, "[workers]\ncount = 3\nread = [\"/no/such\"]\n").unwrap();
    let missing = "workers.read names /no/such, which is not there";
    farm.run(&["config", "check", path]).expect(0).tells(&[missing]);
    assert!(farm.run(&["config", "show", path]).expect(0).stdout.contains("count = 3"));
    assert!(farm.run(&["config", "show", "--template"]).expect(0).stdout.contains("stalled_seconds"));
    let mut serve = farm.hotshoe(&["serve", "--plugins", "/no/such/folder"]);
    let refused = serve.output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn a_job_that_is_paused_and_resumed_while_it_is_planned_is_planned_whole() {
    let mut farm = Farm::new();
    farm.workers = 1;
    farm.serve();
    let mut client = farm.client();
    for _ in 0..20 {
        // More than a page of the plan.
        let job = id(&client.call("jobs.submit", farm.job("1-9000")));
        client.call("jobs.pause", json!({"id": job}));
        client.call("jobs.resume", json!({"id": job}));
        let running = loop {
            let now = client.call("jobs.get", json!({"id": job}));
            if now["state"] == "running" {
                break now;
            }
            assert_ne!(now["state"], "succeeded", "{now:#}");
        };
        assert_eq!(running["tasks"], 9000);
        client.call("jobs.cancel", json!({"id": job}));
        farm.wait_for(&job, "canceled");
    }
}

#[test]
fn orders_that_cross_hurt_nobody() {
    let mut farm = Farm::new();
    farm.workers = 1;
    farm.fake = "crash=2".to_owned();
    farm.config = "[jobs]\nbackoff_seconds = 0.4\n".to_owned();
    farm.serve();
    let mut client = farm.client();
    let job = id(&client.call("jobs.submit", farm.job("1-3")));
    while farm.state(&job)["retries"] != 1 {
        std::thread::sleep(Duration::from_millis(2));
    }
    // Its second frame waits to be tried again.
    client.call("jobs.cancel", json!({"id": job}));
    farm.wait_for(&job, "canceled");
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let mut client = farm.client();
                // One of them is in time.
                let _ = client.try_call("jobs.retry", json!({"id": job}));
                let _ = client.try_call("jobs.pin", json!({"id": job, "pinned": true}));
            });
        }
    });
    std::thread::sleep(Duration::from_millis(600));
    let state = farm.wait_for(&job, "failed");
    assert_eq!((&state["done"], &state["failed"]), (&json!(2), &json!(1)));
}

#[test]
fn a_job_that_was_canceled_stays_so_whatever_becomes_of_the_host() {
    let mut farm = Farm::new();
    farm.fake = "ms=60000".to_owned();
    farm.serve();
    let job = farm.submit("1-10");
    farm.wait_for(&job, "running");
    farm.client().call("jobs.cancel", json!({"id": job}));
    // Before what runs is cut.
    farm.signal(Signal::SIGKILL);
    farm.fake = String::new();
    farm.serve();
    let canceled = farm.wait_for(&job, "canceled");
    assert_eq!(canceled["done"], 0);
}

#[test]
fn a_job_that_cannot_be_taken_up_waits_and_those_after_it_hear_of_its_end() {
    let mut farm = Farm::new();
    farm.fake = "ms=20".to_owned();
    farm.serve();
    let lost = farm.submit("1-1000");
    farm.wait_for(&lost, "running");
    farm.signal(Signal::SIGKILL);
    std::fs::rename(farm.path("out"), farm.path("elsewhere")).unwrap();
    std::fs::write(farm.path("out"), "not mounted").unwrap();
    farm.serve();
    let paused = farm.wait_for(&lost, "paused");
    assert!(paused["pause"]["message"].as_str().unwrap().contains("job resume"), "{paused:#}");
    let mut next = farm.job("1");
    (next["after"], next["out"]) = (json!([lost]), farm.path("next").to_str().into());
    let next = id(&farm.client().call("jobs.submit", next));
    assert_eq!(farm.state(&next)["state"], "queued");
    farm.run(&["job", "cancel", &lost]).expect(0);
    let failed = farm.wait_for(&next, "failed");
    assert!(failed["error"]["message"].as_str().unwrap().contains(&lost), "{failed:#}");
}

#[test]
fn a_job_that_could_not_be_taken_up_goes_on_when_it_is_resumed() {
    let mut farm = Farm::new();
    farm.fake = "ms=5".to_owned();
    let mut farm = farm.keeps_count();
    farm.serve();
    let job = farm.submit("1-100");
    farm.wait_for_frames(5);
    farm.signal(Signal::SIGKILL);
    let (out, elsewhere) = (farm.path("out"), farm.path("elsewhere"));
    std::fs::rename(&out, &elsewhere).unwrap();
    std::fs::write(&out, "not mounted").unwrap();
    farm.serve();
    farm.wait_for(&job, "paused");
    farm.run(&["job", "resume", &job]).expect(2).tells(&["cannot write to", "choose another folder"]);
    std::fs::remove_file(&out).unwrap();
    std::fs::rename(&elsewhere, &out).unwrap();
    // Whoever else wants something of it meanwhile hurts nobody.
    let orders = ["resume", "pause", "resume"].map(|order| {
        let mut order = farm.hotshoe(&["job", order, &job]);
        order.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
    });
    for mut order in orders {
        order.wait().unwrap();
    }
    farm.run(&["job", "resume", &job]);
    farm.wait_for(&job, "succeeded");
    assert_eq!(files_below(&out).len(), 100);
}

#[test]
fn what_was_begun_for_a_client_that_is_gone_is_finished() {
    let mut farm = Farm::new();
    farm.fake = "ms=40".to_owned();
    let mut farm = farm.keeps_count();
    farm.serve();
    let job = farm.submit("1-20000");
    farm.wait_for_frames(5);
    let retry = json!({"jsonrpc": "2.0", "id": 99, "method": "jobs.retry", "params": {"id": job}});
    let not_wanted = json!({"jsonrpc": "2.0", "method": "$/cancel", "params": {"id": 99}});
    for tries in 0..10 {
        farm.run(&["job", "cancel", &job]);
        assert!(farm.wait_for(&job, "canceled")["done"].as_u64().unwrap() > 0);
        let mut client = farm.client();
        client.send(&retry.to_string());
        std::thread::sleep(Duration::from_micros(200 * tries));
        client.send(&not_wanted.to_string());
        drop(client);
        // Not even begun, or begun and finished.
        std::thread::sleep(Duration::from_millis(50));
    }
    let done = farm.state(&job)["done"].as_u64().unwrap();
    let _ = farm.client().try_call("jobs.retry", json!({"id": job}));
    let began = Instant::now();
    while farm.state(&job)["done"].as_u64().unwrap() < done + 10 {
        assert!(began.elapsed() < Duration::from_secs(30), "{:#}", farm.state(&job));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_long_chain_of_jobs_ends_and_the_host_does_not() {
    let farm = Farm::start();
    let mut client = farm.client();
    client.call("host.drain", json!({}));
    let mut chain: Vec<String> = Vec::new();
    for _ in 0..5000 {
        let mut job = farm.job("1");
        job["after"] = json!(chain.last().iter().collect::<Vec<_>>());
        chain.push(id(&client.call("jobs.submit", job)));
    }
    client.call("jobs.cancel", json!({"id": chain[0]}));
    let last = farm.wait_for(chain.last().unwrap(), "failed");
    assert!(last["error"]["message"].as_str().unwrap().contains(&chain[4998]), "{last:#}");
}

#[test]
fn images_of_old_jobs_are_collected_and_those_of_pinned_ones_stay() {
    let mut farm = Farm::start();
    let jobs: Vec<String> = (0..3).map(|n| farm.submit(&format!("{}", n + 1))).collect();
    jobs.iter().for_each(|job| drop(farm.wait_for(job, "succeeded")));
    farm.run(&["job", "pin", &jobs[0]]).expect(0);
    farm.signal(Signal::SIGTERM);
    let folders: Vec<_> = jobs.iter().map(|job| farm.path("data").join("spool").join(job)).collect();
    for folder in &folders {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("image"), vec![0; 700 * 1024]).unwrap();
    }
    farm.config = "[keep]\nspool_mib = 1\n".to_owned();
    farm.serve();
    let began = Instant::now();
    while folders[1].exists() {
        assert!(began.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(folders[0].exists() && folders[2].exists());
}

#[test]
fn a_job_is_watched_at_a_terminal_with_bars() {
    let mut farm = Farm::new();
    farm.fake = "ms=20".to_owned();
    farm.serve();
    let job = farm.submit("1-40");
    let Some(screen) = at_a_terminal(&mut farm.hotshoe(&["job", "watch", &job])) else { return };
    for part in ["worker 1", "worker 2", "/40 tasks", "40/40 tasks", "elapsed", "about "] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
}

#[test]
fn a_full_disk_pauses_a_job_until_there_is_room() {
    let mut farm = Farm::new();
    let small = farm.path("small");
    if !small_disk(&small, 1) {
        return;
    }
    farm.workers = 1;
    farm.fake = "ms=5".to_owned();
    farm.serve();
    let mut job = farm.job("1-60");
    job["out"] = json!(small.join("out"));
    let job = id(&farm.client().call("jobs.submit", job));
    farm.wait_for(&job, "running");
    let ballast = small.join("ballast");
    // Until nothing more fits.
    let _ = std::fs::write(&ballast, vec![1u8; 2 * 1024 * 1024]);
    let paused = farm.wait_for(&job, "paused");
    assert_eq!(paused["pause"]["code"], "disk_full", "{paused:#}");
    // Somebody is in a hurry, and that changes nothing.
    farm.run(&["job", "resume", &job]).expect(0);
    let paused = farm.wait_for(&job, "paused");
    assert_eq!(paused["pause"]["code"], "disk_full", "{paused:#}");
    // Also for the host after this one.
    farm.signal(Signal::SIGKILL);
    farm.serve();
    assert_eq!(farm.wait_for(&job, "paused")["pause"]["code"], "disk_full");
    std::fs::remove_file(&ballast).unwrap();
    let done = farm.wait_for(&job, "succeeded");
    assert_eq!(done["done"], 60);
    farm.signal(Signal::SIGTERM);
    assert!(command("umount").arg(&small).status().unwrap().success());
}

/// Makes a disk of so many MiB; false, and a word, where that is not possible.
fn small_disk(at: &Path, mib: u32) -> bool {
    std::fs::create_dir_all(at).unwrap();
    std::fs::set_permissions(at, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let mut mount = command("mount");
    mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m,mode=700"), "tmpfs"]).arg(at);
    let is_made = mount.status().is_ok_and(|status| status.success());
    if !is_made {
        eprintln!("skipped: only root can make a small disk");
    }
    is_made
}

#[test]
fn a_full_disk_of_the_database_makes_all_wait_and_can_be_stopped() {
    let mut farm = Farm::new();
    let data = farm.path("data");
    if !small_disk(&data, 16) {
        return;
    }
    farm.workers = 1;
    farm.fake = "ms=5".to_owned();
    let mut farm = farm.keeps_count();
    farm.serve();
    let job = farm.submit("1-3000");
    farm.wait_for(&job, "running");
    let ballast = data.join("ballast");
    let fill = || drop(std::fs::write(&ballast, vec![1u8; 20 * 1024 * 1024]));
    let trouble = || {
        let began = Instant::now();
        while farm.client().call("host.status", json!({}))["state"] != "troubled" {
            let stands = || (farm.client().call("host.status", json!({})), farm.state(&job));
            assert!(began.elapsed() < Duration::from_secs(20), "{:#?}", stands());
            // The log of the database may have had room to be begun anew.
            fill();
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    fill();
    trouble();
    // Nothing new is taken, and what is known is still told.
    assert_eq!(farm.client().code("jobs.submit", farm.job("1")), -32005);
    assert_eq!(farm.state(&job)["id"], job.as_str());
    std::fs::remove_file(&ballast).unwrap();
    let before = farm.state(&job)["done"].as_u64().unwrap();
    let began = Instant::now();
    while farm.state(&job)["done"].as_u64().unwrap() < before + 20 {
        assert!(began.elapsed() < Duration::from_secs(60), "{}", farm.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    // It can be stopped all the same, and nothing is lost.
    fill();
    trouble();
    let began = Instant::now();
    farm.run(&["host", "shutdown", "--now"]);
    farm.ended();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    std::fs::remove_file(&ballast).unwrap();
    farm.fake = farm.fake.replace("ms=5", "ms=0");
    farm.serve();
    farm.wait_for(&job, "succeeded");
    farm.signal(Signal::SIGTERM);
    assert!(command("umount").arg(&data).status().unwrap().success());
}

#[test]
fn systemd_hears_when_the_host_is_ready_and_when_it_stops() {
    let mut farm = Farm::new();
    let path = farm.path("notify");
    let systemd = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let hear = || {
        let mut text = [0; 256];
        let count = systemd.recv(&mut text).unwrap();
        String::from_utf8(text[..count].to_vec()).unwrap()
    };
    farm.environment = vec![
        ("NOTIFY_SOCKET".to_owned(), path.to_str().unwrap().to_owned()),
        ("WATCHDOG_USEC".to_owned(), "400000".to_owned()),
    ];
    farm.serve();
    assert_eq!(hear().trim(), "READY=1");
    assert_eq!(hear().trim(), "WATCHDOG=1");
    farm.signal(Signal::SIGTERM);
    while hear().trim() != "STOPPING=1" {}
}

#[test]
fn the_socket_is_where_it_is_said_to_be() {
    let farm = Farm::new();
    let runtime = farm.path("runtime");
    std::fs::create_dir(&runtime).unwrap();
    let long = format!("/tmp/{}/host.sock", "x".repeat(120));
    let refused = farm.hotshoe(&["serve", "--blender"]).arg(&farm.blender).args(["--socket", &long]).output();
    let told = String::from_utf8(refused.unwrap().stderr).unwrap();
    assert!(told.contains("too long") && told.contains("--socket"), "{told}");
    let mut serve = farm.hotshoe(&["serve", "--blender"]);
    serve.arg(&farm.blender).env_remove("HOTSHOE_SOCKET").env("XDG_RUNTIME_DIR", &runtime);
    let mut host = serve.stderr(std::process::Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    loop {
        let mut status = farm.hotshoe(&["host", "status", "--json"]);
        let status = status.env_remove("HOTSHOE_SOCKET").env("XDG_RUNTIME_DIR", &runtime).output().unwrap();
        if status.status.success() {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(20));
    }
    let files = files_below(&runtime);
    assert!(
        files.iter().any(|file| file.starts_with("hotshoe/") && file.ends_with("/host.sock")),
        "{files:?}"
    );
    host.kill().unwrap();
    host.wait().unwrap();
}
