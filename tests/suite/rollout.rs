//! New releases on trial: who gets them, and what becomes of them and of their tasks.

use serde_json::json;

use crate::changeling::release;
use crate::farm::Farm;

/// One task first, then all jobs, for three tasks.
const QUICK: &str = "[jobs]\nbackoff_seconds = 0.01\n[rollout]\nfirst = 1\nshare = 1.0\ntasks = 3\n";
/// The first task, and then no job for a long time.
const SLOW: &str = "[rollout]\nfirst = 1\nshare = 0.0\ntasks = 1000\n";

#[test]
fn a_release_that_does_well_takes_over() {
    let farm = Farm::serving(QUICK);
    farm.render("1");
    farm.put("changeling.wasm", &release("1.0.1", "b well 0"));
    let canary = farm.until("1.0.1", "canary");
    assert_eq!(
        canary["why"],
        "on trial: a first task, then 100 % of new jobs for 3 tasks; changeling 1.0.0 serves meanwhile"
    );
    let job = farm.render("1-2");
    assert_eq!(job["release"]["version"], "1.0.1");
    assert_eq!(farm.until("1.0.1", "canary")["tasks"], 2);
    farm.render("1-2");
    assert_eq!(farm.until("1.0.1", "active")["why"], "4 trial tasks succeeded");
    farm.until("1.0.0", "retired");
    let seen: Vec<_> = farm
        .told("release_state")
        .into_iter()
        .filter(|event| event["id"] == "changeling")
        .map(|event| format!("{} {}", event["version"].as_str().unwrap(), event["state"].as_str().unwrap()))
        .collect();
    let expected = [
        "1.0.0 checking",
        "1.0.0 active",
        "1.0.1 checking",
        "1.0.1 canary",
        "1.0.1 active",
        "1.0.0 draining",
        "1.0.0 retired",
    ];
    assert_eq!(seen, expected);
}

#[test]
fn one_task_tries_a_release_before_others_do() {
    let farm = Farm::serving("[rollout]\nfirst = 2\nshare = 0.0\ntasks = 1000\n");
    farm.put("changeling.wasm", &release("1.0.1", "b well 0"));
    farm.until("1.0.1", "canary");
    let first = farm.submit_to("changeling", "1-6", json!({"settings": {"pace": 60}}));
    let second = farm.submit_to("changeling", "1-3", json!({}));
    assert_eq!(
        (&first["release"]["version"], &second["release"]["version"]),
        (&json!("1.0.1"), &json!("1.0.0"))
    );
    let id = first["id"].as_str().unwrap();
    farm.wait_for(id, "succeeded");
    // Two of them alone, then as many as there are workers.
    let mut most = vec![0];
    for event in farm.events().iter().filter(|event| event["job"] == id) {
        let now = *most.last().unwrap();
        match (event["event"].as_str(), event["state"].as_str()) {
            (Some("task_started"), _) => most.push(now + 1),
            (Some("task_state"), _) => most.push(now - 1),
            _ => {}
        }
    }
    assert_eq!(&most[..5], [0, 1, 0, 1, 0], "{most:?}");
    assert!(most.contains(&2), "{most:?}");
}

#[test]
fn the_share_is_kept_by_job_and_a_label_is_always_among_it() {
    let config = "[rollout]\nfirst = 0\nshare = 0.2\ntasks = 100000\nlabels = [\"beta\"]\n";
    let farm = Farm::serving(config);
    farm.client().call("host.drain", json!({}));
    farm.put("changeling.wasm", &release("1.0.1", "b well 0"));
    farm.until("1.0.1", "canary");
    let versions: Vec<_> = (0..200)
        .map(|_| farm.submit_to("changeling", "1", json!({}))["release"]["version"].clone())
        .collect();
    let tried = versions.iter().filter(|version| *version == "1.0.1").count();
    assert!((20..=60).contains(&tried), "{tried} of 200");
    for _ in 0..5 {
        let job = farm.submit_to("changeling", "1", json!({"label": "beta"}));
        assert_eq!(job["release"]["version"], "1.0.1");
    }
    let release = farm.until("1.0.1", "canary");
    assert_eq!(release["share"], 0.2);
    assert_eq!(farm.until("1.0.0", "active")["share"], 0.8);
}

#[test]
fn a_release_that_fails_is_rolled_back_and_no_task_is_lost() {
    let farm = Farm::serving(QUICK);
    farm.put("changeling.wasm", &release("1.0.1", "b fails 5"));
    farm.until("1.0.1", "canary");
    let job = farm.submit_to("changeling", "4-12", json!({}));
    let job = farm.wait_for(job["id"].as_str().unwrap(), "succeeded");
    assert_eq!((&job["done"], &job["failed"], &job["retries"]), (&json!(9), &json!(0), &json!(0)));
    assert_eq!(job["release"]["version"], "1.0.0");
    let bad = farm.until("1.0.1", "quarantined");
    let why = bad["why"].as_str().unwrap();
    assert!(
        why.contains("frame-5") && why.contains("cannot do frame 5") && why.contains("1.0.0 did it"),
        "{why}"
    );
    // From the failure to the next attempt, as the events tell.
    let events = farm.events();
    let of_frame = |name: &str| {
        let found = events.iter().filter(|event| event["event"] == name && event["id"] == "frame-5");
        found.map(|event| event["time_ms"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let (started, ended) = (of_frame("task_started"), of_frame("task_state"));
    assert!(started[1] - ended[0] < 100, "{started:?} {ended:?}");
    let tasks = farm.client().call("tasks.list", json!({"job": job["id"]}));
    let by =
        |task: &serde_json::Value| task["release"].as_str().unwrap().split('+').next().unwrap().to_owned();
    let by: Vec<String> = tasks["tasks"].as_array().unwrap().iter().map(by).collect();
    assert_eq!(by[0], "changeling@1.0.1", "what it had done well stays, and says who did it: {by:?}");
    // Another worker may have been at the next ones meanwhile.
    assert_eq!(by[1], "changeling@1.0.0");
    assert!(by[5..].iter().all(|by| by == "changeling@1.0.0"), "{by:?}");
    assert_eq!(farm.render("1")["release"]["version"], "1.0.0");
    // The same bytes once more change nothing.
    farm.put("changeling-again.wasm", &release("1.0.1", "b fails 5"));
    std::thread::sleep(std::time::Duration::from_millis(800));
    farm.until("1.0.1", "quarantined");
}

#[test]
fn a_release_that_cannot_plan_is_rolled_back() {
    let farm = Farm::serving(QUICK);
    farm.put("changeling.wasm", &release("1.0.1", "b misplans 0"));
    farm.until("1.0.1", "canary");
    let job = farm.render("1-3");
    assert_eq!(job["release"]["version"], "1.0.0");
    assert!(farm.until("1.0.1", "quarantined")["why"].as_str().unwrap().contains("no plan of it"));
}

#[test]
fn a_job_that_must_not_move_is_never_a_canarys() {
    let farm = Farm::serving("[rollout]\nfirst = 1\nshare = 1.0\ntasks = 1000\n");
    farm.put("changeling.wasm", &release("1.0.1", "b fails 1"));
    farm.until("1.0.1", "canary");
    for renderer in ["changeling", "changeling@^1", "changeling@~1.0"] {
        let job = farm.submit_to(renderer, "1-3", json!({"upgrade": "pinned"}));
        assert_eq!(job["release"]["version"], "1.0.0", "{renderer}");
        farm.wait_for(job["id"].as_str().unwrap(), "succeeded");
    }
    farm.until("1.0.1", "canary");
}

#[test]
fn what_fails_after_the_trial_is_done_by_the_release_before() {
    let farm = Farm::serving(QUICK);
    farm.put("changeling.wasm", &release("1.0.1", "b fails 9"));
    farm.until("1.0.1", "canary");
    farm.render("1-6");
    farm.until("1.0.1", "active");
    let job = farm.render("7-12");
    assert_eq!((&job["done"], &job["failed"]), (&json!(6), &json!(0)));
    let why = farm.until("1.0.1", "quarantined")["why"].as_str().unwrap().to_owned();
    assert!(why.contains("frame-9") && why.contains("1.0.0 did it"), "{why}");
}

#[test]
fn an_older_release_beside_a_newer_one_waits_for_those_who_ask_for_it() {
    let farm = Farm::serving(QUICK);
    farm.put("older.wasm", &release("0.9.0", "b well 0"));
    farm.put("same-line.wasm", &release("1.0.0-rc.1", "c well 0"));
    farm.put("newer.wasm", &release("1.0.2", "d well 0"));
    farm.until("1.0.2", "canary");
    farm.render("1-6");
    farm.until("1.0.2", "active");
    farm.put("late.wasm", &release("1.0.1", "e well 0"));
    let late = farm.until("1.0.1", "retired");
    assert_eq!(late["why"], "older than changeling 1.0.2, which serves");
    assert_eq!(farm.render("1")["release"]["version"], "1.0.2");
    let job = farm.submit_to("changeling@=1.0.1", "1", json!({}));
    assert_eq!(job["release"]["version"], "1.0.1");
    farm.wait_for(job["id"].as_str().unwrap(), "succeeded");
}

#[test]
fn frames_that_are_kept_tell_no_time() {
    let farm = Farm::serving(QUICK);
    let more = || json!({"resume": true, "settings": {"pace": 60}});
    for _ in 0..2 {
        let job = farm.submit_to("changeling", "1-12", more());
        farm.wait_for(job["id"].as_str().unwrap(), "succeeded");
    }
    farm.put("changeling.wasm", &release("1.0.1", "b well 0"));
    farm.until("1.0.1", "canary");
    let job = farm.submit_to("changeling", "20-40", more());
    farm.wait_for(job["id"].as_str().unwrap(), "succeeded");
    farm.until("1.0.1", "active");
}

#[test]
fn a_task_that_the_release_before_cannot_do_either_clears_the_canary() {
    let mut farm = Farm::with_plugins(QUICK);
    farm.put("changeling.wasm", &release("1.0.0", "a fails 7"));
    farm.serve();
    farm.until("1.0.0", "active");
    farm.put("changeling.wasm", &release("1.0.1", "b fails 7"));
    farm.until("1.0.1", "canary");
    let job = farm.submit_to("changeling", "7", json!({}));
    let job = farm.wait_for(job["id"].as_str().unwrap(), "failed");
    assert_eq!(job["failed"], 1);
    farm.until("1.0.1", "canary");
    farm.render("1-6");
    farm.until("1.0.1", "active");
}

#[test]
fn a_release_that_is_much_slower_is_rolled_back() {
    let farm = Farm::serving("[rollout]\nfirst = 1\nshare = 1.0\ntasks = 1000\n");
    farm.submit_to("changeling", "1-10", json!({"settings": {"pace": 40}}));
    farm.put("changeling.wasm", &release("1.0.1", "b slow 120"));
    farm.until("1.0.1", "canary");
    let job = farm.submit_to("changeling", "1-60", json!({"settings": {"pace": 40}}));
    let why = farm.until("1.0.1", "quarantined")["why"].as_str().unwrap().to_owned();
    assert!(
        why.contains("more than 2 times as long") && why.contains("pairs of tasks done in turn"),
        "{why}"
    );
    let job = farm.wait_for(job["id"].as_str().unwrap(), "succeeded");
    assert_eq!((&job["done"], &job["release"]["version"]), (&json!(60), &json!("1.0.0")));
}

#[test]
fn a_release_that_leaks_is_rolled_back() {
    let farm = Farm::serving("[rollout]\nfirst = 1\nshare = 1.0\ntasks = 1000\nslower = 1e6\n");
    farm.render("1-6");
    farm.put("changeling.wasm", &release("1.0.1", "b leaks 150"));
    farm.until("1.0.1", "canary");
    let job = farm.render("1-20");
    assert_eq!((&job["done"], &job["release"]["version"]), (&json!(20), &json!("1.0.0")));
    let why = farm.until("1.0.1", "quarantined")["why"].as_str().unwrap().to_owned();
    assert!(why.contains("MiB of memory") && why.contains("more than 2 times as much"), "{why}");
}

#[test]
fn too_few_tasks_are_enough_after_a_while() {
    let farm = Farm::serving("[rollout]\nfirst = 1\nshare = 0.0\ntasks = 1000\npatience_seconds = 2.0\n");
    farm.put("changeling.wasm", &release("1.0.1", "b well 0"));
    farm.until("1.0.1", "canary");
    farm.render("1");
    let active = farm.until("1.0.1", "active");
    assert!(active["why"].as_str().unwrap().contains("1 of 1001 trial tasks in 2 s"), "{active}");
}

#[test]
fn jobs_that_must_not_move_wait_and_say_why() {
    let farm = Farm::serving(QUICK);
    farm.put("changeling.wasm", &release("1.0.1", "b well 0"));
    farm.until("1.0.1", "canary");
    let ids: Vec<String> = [
        ("changeling@=1.0.1", json!({})),
        ("changeling@^1.0.1", json!({})),
        ("changeling@=1.0.0", json!({})),
    ]
    .into_iter()
    .map(|(renderer, more)| {
        let mut more = more;
        more["settings"] = json!({"pace": 100});
        farm.submit_to(renderer, "1-20", more)["id"].as_str().unwrap().to_owned()
    })
    .collect();
    farm.run(&["plugin", "quarantine", "changeling@=1.0.1"]).expect(0);
    for id in &ids[..2] {
        let job = farm.wait_for(id, "paused");
        let why = job["pause"]["message"].as_str().unwrap();
        assert!(job["pause"]["code"] == "release" && why.contains("1.0.1 is quarantined"), "{why}");
    }
    // One that asks for a range goes on as soon as there is a release that it may run on.
    farm.put("changeling.wasm", &release("1.0.2", "c well 0"));
    let job = farm.wait_for(&ids[1], "succeeded");
    assert_eq!(job["release"]["version"], "1.0.2");
    assert_eq!(farm.state(&ids[0])["state"], "paused");
    farm.run(&["plugin", "promote", "changeling@=1.0.1"]).expect(0);
    farm.wait_for(&ids[0], "succeeded");
    farm.wait_for(&ids[2], "succeeded");
}

#[test]
fn how_far_a_pin_moves_is_the_jobs_policy() {
    let farm = Farm::serving("[rollout]\nfirst = 0\ntasks = 0\n");
    let submit = |upgrade: &str| {
        let more = json!({"upgrade": upgrade, "settings": {"pace": 30}});
        farm.submit_to("changeling", "1-2000", more)["id"].as_str().unwrap().to_owned()
    };
    let ids = ["pinned", "patch", "compatible"].map(submit);
    let version = |id: &str| farm.state(id)["release"]["version"].as_str().unwrap().to_owned();
    let wait = |id: &str, expected: &str| {
        let began = std::time::Instant::now();
        while version(id) != expected {
            assert!(began.elapsed().as_secs() < 30, "{id} stays on {}", version(id));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    farm.put("changeling-1.0.1.wasm", &release("1.0.1", "b well 0"));
    farm.until("1.0.1", "active");
    farm.client().call("jobs.pause", json!({"id": ids[0]}));
    wait(&ids[1], "1.0.1");
    farm.put("changeling-1.1.0.wasm", &release("1.1.0", "c well 0"));
    farm.until("1.1.0", "active");
    farm.client().call("jobs.pause", json!({"id": ids[1]}));
    wait(&ids[2], "1.1.0");
    assert_eq!((version(&ids[0]), version(&ids[1])), ("1.0.0".to_owned(), "1.0.1".to_owned()));
    let moved = farm.told("job_moved");
    assert!(moved.iter().all(|event| event["why"].as_str().unwrap().contains("is newer")), "{moved:#?}");
}

#[test]
fn an_older_release_never_reads_what_a_newer_one_wrote() {
    let mut farm = Farm::with_plugins(SLOW);
    farm.put("changeling.wasm", &release("1.0.0", "a counts 1000"));
    farm.serve();
    farm.until("1.0.0", "active");
    let job = farm.submit_to("changeling", "1-400", json!({"settings": {"pace": 20}}));
    let id = job["id"].as_str().unwrap();
    let done = |count: u64| {
        while farm.state(id)["done"].as_u64().unwrap() < count {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    };
    done(5);
    // Every task of it fails at first, after it has written.
    farm.put("changeling.wasm", &release("1.0.1", "b counts 1"));
    farm.until("1.0.1", "quarantined");
    let job = farm.wait_for(id, "succeeded");
    assert_eq!((&job["done"], &job["failed"]), (&json!(400), &json!(0)));
    let logs = farm.told("log");
    let found: Vec<&str> = logs.iter().filter_map(|event| event["message"].as_str()).collect();
    assert!(found.contains(&"b found 'a'"), "the newer one finds what there was: {found:?}");
    assert!(!found.contains(&"a found 'b'"));
}

#[test]
fn one_command_goes_back() {
    let farm = Farm::serving("[rollout]\nfirst = 0\ntasks = 0\n");
    farm.put("changeling.wasm", &release("1.0.1", "b well 0"));
    farm.until("1.0.1", "active");
    let job = farm.submit_to("changeling", "1-150", json!({"settings": {"pace": 40}}));
    let told = farm.run(&["plugin", "rollback", "changeling"]).expect(0);
    assert_eq!(told.stdout.trim(), "rolled back from changeling 1.0.1 to changeling 1.0.0");
    let job = farm.wait_for(job["id"].as_str().unwrap(), "succeeded");
    assert_eq!(job["release"]["version"], "1.0.0", "{:#?}", farm.events());
    assert_eq!(farm.until("1.0.0", "active")["why"], "changeling 1.0.1 is quarantined");
    let refused = farm.run(&["plugin", "rollback", "changeling"]).expect(2);
    assert!(refused.stderr.contains("there is no release before changeling 1.0.0"), "{}", refused.stderr);
    farm.run(&["plugin", "promote", "changeling@=1.0.1"]).expect(0);
    assert_eq!(farm.render("1")["release"]["version"], "1.0.1");
    farm.run(&["plugin", "pin", "changeling@=1.0.0"]).expect(0);
    assert_eq!(farm.render("1")["release"]["version"], "1.0.0");
    assert_eq!(farm.until("1.0.0", "active")["why"], "the operator pinned to it");
    let refused = farm.run(&["plugin", "pin", "--off", "changeling@=1.0.1"]).expect(2);
    assert!(refused.stderr.contains("changeling 1.0.0 is the release that"), "{}", refused.stderr);
    farm.run(&["plugin", "pin", "--off", "changeling"]).expect(0);
    let refused = farm.run(&["plugin", "pin", "--off", "changeling"]).expect(2);
    assert!(refused.stderr.contains("changeling is not pinned"), "{}", refused.stderr);
    assert_eq!(farm.render("1")["release"]["version"], "1.0.1");
}

#[test]
fn where_releases_stand_outlives_the_host() {
    let mut farm = Farm::serving(SLOW);
    farm.put("changeling.wasm", &release("1.0.1", "b well 0"));
    farm.until("1.0.1", "canary");
    farm.render("1");
    farm.run(&["plugin", "quarantine", "changeling@=1.0.1"]).expect(0);
    farm.put("changeling.wasm", &release("1.0.2", "c well 0"));
    farm.until("1.0.2", "canary");
    farm.signal(nix::sys::signal::Signal::SIGKILL);
    farm.serve();
    farm.until("1.0.0", "active");
    farm.until("1.0.1", "quarantined");
    farm.until("1.0.2", "canary");
    // What a release has done is counted in the end, too.
    let done = farm.submit_to("changeling@=1.0.0", "1-3", json!({}));
    farm.wait_for(done["id"].as_str().unwrap(), "succeeded");
    let before = farm.until("1.0.0", "active")["tasks"].as_u64().unwrap();
    assert!(before >= 3, "{before}");
    farm.signal(nix::sys::signal::Signal::SIGTERM);
    farm.serve();
    assert_eq!(farm.until("1.0.0", "active")["tasks"], before);
}

/// Replaces a release under a job of one task that has no end.
fn drained(how: &str, config: &str) -> (Farm, serde_json::Value) {
    let mut farm = Farm::with_plugins(&format!("[rollout]\nfirst = 0\ntasks = 0\n[releases]\n{config}"));
    farm.put("changeling.wasm", &release("1.0.0", &format!("a {how} 0")));
    farm.serve();
    farm.until("1.0.0", "active");
    let job = farm.submit_to("changeling", "1", json!({}));
    let id = job["id"].as_str().unwrap();
    while farm.tags(id).is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    farm.put("changeling.wasm", &release("1.0.1", "b well 0"));
    let job = farm.wait_for(id, "succeeded");
    (farm, job)
}

#[test]
fn what_runs_on_an_old_release_is_asked_to_yield_after_a_while() {
    let (farm, job) = drained("yields", "yield_seconds = 0.3\n");
    assert_eq!((&job["release"]["version"], &job["retries"]), (&json!("1.0.1"), &json!(0)));
    assert_eq!(farm.tags(job["id"].as_str().unwrap()), ["a", "b"]);
    farm.until("1.0.0", "retired");
}

#[test]
fn what_does_not_yield_is_cut_and_made_again() {
    let (farm, job) = drained("stubborn", "yield_seconds = 0.1\ncut_seconds = 0.5\n");
    assert_eq!((&job["release"]["version"], &job["failed"]), (&json!("1.0.1"), &json!(0)));
    assert_eq!(farm.tags(job["id"].as_str().unwrap()), ["a", "b"]);
}

#[test]
fn what_the_configuration_says_of_plugins_is_taken_up_as_it_changes() {
    let farm = Farm::serving("[rollout]\nfirst = 1\nshare = 0.0\ntasks = 9\n");
    farm.put("changeling.wasm", &release("1.0.1", "b counts 1000"));
    farm.until("1.0.1", "canary");
    // Written in place, and moved to its place.
    std::fs::write(farm.path("config.toml"), "[rollout]\nfirst = \"none\"\n").unwrap();
    let began = std::time::Instant::now();
    while !farm.log().contains("the configuration stays as it was") {
        assert!(began.elapsed().as_secs() < 30, "{}", farm.log());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let text = "[rollout]\nfirst = 0\ntasks = 0\n[plugin.changeling]\ncapabilities = []\n";
    std::fs::write(farm.path("aside.toml"), text).unwrap();
    std::fs::rename(farm.path("aside.toml"), farm.path("config.toml")).unwrap();
    farm.until("1.0.1", "active");
    let job = farm.submit_to("changeling", "1", json!({}));
    let job = farm.wait_for(job["id"].as_str().unwrap(), "failed");
    let tasks = farm.client().call("tasks.list", json!({"job": job["id"]}));
    let why = tasks["tasks"][0]["error"]["message"].as_str().unwrap();
    assert!(why.contains("plugin.changeling.capabilities"), "{why}");
}

#[test]
fn old_releases_are_forgotten_unless_somebody_needs_them() {
    let mut farm = Farm::with_plugins("[rollout]\nfirst = 0\ntasks = 0\n[releases]\nkept = 2\n");
    farm.put("changeling.wasm", &release("1.0.0", "a well 0"));
    farm.serve();
    farm.until("1.0.0", "active");
    // A job that failed or succeeded may be retried, and needs its release.
    farm.render("1");
    for n in 1..=6 {
        farm.put("changeling.wasm", &release(&format!("1.0.{n}"), "b well 0"));
        farm.until(&format!("1.0.{n}"), "active");
        farm.until(&format!("1.0.{}", n - 1), "retired");
    }
    // What is old is let go of when a host comes up, and now and then.
    farm.signal(nix::sys::signal::Signal::SIGTERM);
    farm.serve();
    let began = std::time::Instant::now();
    while farm.releases().len() > 4 {
        assert!(began.elapsed().as_secs() < 30, "{:#?}", farm.releases());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let versions: Vec<String> =
        farm.releases().iter().map(|one| one["version"].as_str().unwrap().to_owned()).collect();
    assert_eq!(versions, ["1.0.6", "1.0.5", "1.0.4", "1.0.0"]);
    let kept = std::fs::read_dir(farm.path("data/releases")).unwrap().count();
    assert!(kept <= 5, "{kept}");
}

#[test]
fn a_job_that_waits_for_another_ones_task_goes_on() {
    // The first to try it waits for one that has it by its label.
    let farm = Farm::serving("[rollout]\nfirst = 2\nshare = 0.0\ntasks = 1000\nlabels = [\"beta\"]\n");
    farm.put("changeling.wasm", &release("1.0.1", "b well 0"));
    farm.until("1.0.1", "canary");
    let slow = json!({"label": "beta", "settings": {"pace": 700}});
    let labelled = farm.submit_to("changeling", "1", slow);
    let id = labelled["id"].as_str().unwrap();
    while farm.tags(id).is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let first = farm.submit_to("changeling", "1-3", json!({}));
    assert_eq!(first["release"]["version"], "1.0.1");
    farm.client().call("host.status", json!({}));
    farm.wait_for(first["id"].as_str().unwrap(), "succeeded");
    farm.wait_for(id, "succeeded");
}

#[test]
fn a_submission_that_is_refused_tries_nothing() {
    let farm = Farm::serving("[rollout]\nfirst = 1\nshare = 0.0\ntasks = 1000\n");
    farm.put("changeling.wasm", &release("1.0.1", "b well 0"));
    farm.until("1.0.1", "canary");
    let mut refused = farm.job("1");
    (refused["renderer"], refused["settings"]) = (json!("changeling"), json!({"pace": "fast"}));
    assert!(farm.client().try_call("jobs.submit", refused).unwrap().is_err());
    assert_eq!(farm.render("1")["release"]["version"], "1.0.1");
}

#[test]
fn a_release_on_trial_is_not_believed_that_it_was_somebody_elses_fault() {
    let farm = Farm::serving(QUICK);
    farm.put("changeling.wasm", &release("1.0.1", "b refuses 2"));
    farm.until("1.0.1", "canary");
    let job = farm.render("1-4");
    assert_eq!((&job["done"], &job["release"]["version"]), (&json!(4), &json!("1.0.0")));
    let why = farm.until("1.0.1", "quarantined")["why"].as_str().unwrap().to_owned();
    assert!(why.contains("does not like frame 2"), "{why}");
}

#[test]
fn nothing_goes_back_to_a_release_that_is_newer() {
    let farm = Farm::serving(QUICK);
    let job = farm.submit_to("changeling@^1", "1-300", json!({"settings": {"pace": 30}}));
    farm.put("changeling-2.wasm", &release("2.0.0", "z well 0"));
    farm.until("2.0.0", "canary");
    farm.run(&["plugin", "promote", "changeling@=2.0.0"]).expect(0);
    let bare = farm.submit_to("changeling@<2", "1-300", json!({"settings": {"pace": 30}}));
    farm.put("changeling.wasm", &release("1.0.1", "b fails 1"));
    farm.until("1.0.1", "quarantined");
    for id in [&job, &bare].map(|job| job["id"].as_str().unwrap().to_owned()) {
        let job = farm.wait_for(&id, "succeeded");
        assert_eq!(job["release"]["version"], "1.0.0");
    }
}

#[test]
fn a_job_that_fits_no_other_release_is_paused_and_nothing_spins() {
    let mut farm = Farm::with_plugins("[rollout]\nfirst = 0\ntasks = 0\n");
    farm.put("changeling.wasm", &release("1.0.0", "a well 0"));
    farm.serve();
    farm.until("1.0.0", "active");
    farm.put("changeling.wasm", &release("1.1.0", "b demands 0"));
    farm.until("1.1.0", "active");
    let more = json!({"settings": {"pace": 50, "more": 1}});
    let job = farm.submit_to("changeling", "1-40", more);
    farm.run(&["plugin", "rollback", "changeling"]).expect(0);
    let job = farm.wait_for(job["id"].as_str().unwrap(), "paused");
    let why = job["pause"]["message"].as_str().unwrap();
    assert!(why.contains("whose schema its settings do not fit"), "{why}");
    let last = farm.events().len();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(farm.events().len() < last + 5);
}

#[test]
fn what_a_bad_release_has_made_can_be_made_again() {
    let farm = Farm::serving("[rollout]\nfirst = 1\nshare = 1.0\ntasks = 1000\n");
    farm.put("changeling.wasm", &release("1.0.1", "b fails 4"));
    farm.until("1.0.1", "canary");
    let job = farm.render("1-8");
    let id = job["id"].as_str().unwrap();
    farm.until("1.0.1", "quarantined");
    let by = |version: &str| {
        let tasks = farm.client().call("tasks.list", json!({"job": id}));
        let named = format!("changeling@{version}+");
        let all = tasks["tasks"].as_array().unwrap().iter();
        all.filter(|task| task["release"].as_str().unwrap().starts_with(&named)).count()
    };
    let bad = by("1.0.1");
    assert!((1..8).contains(&bad), "{bad}");
    let refused = farm.run(&["job", "retry", id]).expect(2);
    assert!(refused.stderr.contains("or name a release"), "{}", refused.stderr);
    let before = farm.tags(id).len();
    let refused = farm.run(&["job", "retry", id, "--made-by", "changeling"]).expect(2);
    assert!(refused.stderr.contains("'changeling' does not name a single release"), "{}", refused.stderr);
    let told = farm.run(&["job", "retry", id, "--made-by", "changeling@=1.0.1"]).expect(0);
    assert!(told.stdout.contains(&format!("{bad} of 8 tasks to do")), "{}", told.stdout);
    farm.wait_for(id, "succeeded");
    assert_eq!((by("1.0.1"), by("1.0.0")), (0, 8));
    assert_eq!(farm.tags(id).len() - before, bad, "and nothing else");
    farm.run(&["job", "retry", id, "--made-by", "changeling@=1.0.1"]).expect(2);
}
