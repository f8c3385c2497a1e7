//! One contract: the same renderer as a component, as a process in Rust and as a
//! process in Python gets the same answers and leaves the same events.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::farm::Farm;
use crate::harness::{Kind, Render};

/// Submits a job of the probe, waits for its end, and returns what was told of it
/// without times, numbers and ids.
fn told(farm: &Farm, kind: Kind, frames: &str, settings: &Value) -> Vec<Value> {
    let mut job = farm.job(frames);
    job["renderer"] = json!(kind.probe());
    job["settings"] = settings.clone();
    let out = farm.path(&format!("out-{kind:?}"));
    let _ = std::fs::remove_dir_all(&out);
    job["out"] = json!(out);
    let mut client = farm.client();
    let id = match client.try_call("jobs.submit", job).unwrap() {
        Ok(job) => job["id"].as_str().unwrap().to_owned(),
        Err(error) => return vec![error["message"].clone()],
    };
    let began = Instant::now();
    loop {
        let job = client.call("jobs.get", json!({"id": id}));
        if ["succeeded", "failed", "canceled", "paused"].contains(&job["state"].as_str().unwrap()) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "{kind:?} {settings}: {job:#}");
        std::thread::sleep(Duration::from_millis(5));
    }
    let events = farm.events().into_iter();
    let own = events.filter(|event| event["job"] == id.as_str() || event["id"] == id.as_str());
    own.filter(|event| event["event"] != "job_submitted").map(|event| plain(event, &id)).collect()
}

/// Takes out of an event what no two runs have in common.
fn plain(mut event: Value, job: &str) -> Value {
    for key in ["seq", "time_ms", "seconds", "worker", "job"] {
        event.as_object_mut().unwrap().remove(key);
    }
    if event["id"] == job {
        event["id"] = Value::Null;
    }
    if let Some(path) = event["path"].as_str().map(str::to_owned) {
        event["path"] = json!(path.rsplit('/').next());
    }
    event
}

/// Checks that an act ends in the same way, with the same events, for each kind.
#[track_caller]
fn same(farm: &Farm, frames: &str, settings: Value, state: &str) -> Vec<Value> {
    let expected = told(farm, Kind::Component, frames, &settings);
    let end = expected.iter().rfind(|event| event["event"] == "job_state");
    assert_eq!(end.map(|event| &event["state"]), Some(&json!(state)), "{settings}: {expected:#?}");
    for kind in [Kind::Process, Kind::Python] {
        let found = told(farm, kind, frames, &settings);
        assert_eq!(found, expected, "{kind:?} {settings}");
    }
    expected
}

fn farm() -> Farm {
    let mut farm = Farm::new();
    farm.workers = 1;
    farm.config = "[jobs]\nbackoff_seconds = 0.01\n".to_owned();
    farm
}

#[test]
fn the_same_acts_have_the_same_answers_and_events() {
    let mut farm = farm();
    farm.serve();
    for act in ["pixels", "devices", "calls"] {
        same(&farm, "1", json!({"act": act}), "succeeded");
    }
    same(&farm, "1-4", json!({"act": "state"}), "succeeded");
    same(&farm, "1", json!({"act": "payloads"}), "succeeded");
    let events = same(&farm, "1", json!({"act": "yield_once"}), "succeeded");
    let attempts: Vec<_> = events.iter().filter(|event| event["event"] == "task_started").collect();
    assert_eq!(attempts.len(), 2);
    let events = same(&farm, "1-3", json!({"act": "files"}), "succeeded");
    assert!(events.iter().any(|event| event["message"] == "0002.png 67 false"), "{events:#?}");
    let text = "\u{e4}".repeat(1_000_000);
    let events = same(&farm, "1", json!({"act": "large", "text": text}), "succeeded");
    assert!(events.iter().any(|event| event["message"] == "1000000 characters"), "{events:#?}");
}

#[test]
fn errors_of_every_kind_are_the_same() {
    let mut farm = farm();
    farm.serve();
    // The host's own fault pauses a job.
    same(&farm, "7", json!({"act": "errors"}), "paused");
    let events = same(&farm, "1-6,8", json!({"act": "errors"}), "failed");
    let mut blames: Vec<String> = Vec::new();
    for event in &events {
        if event["state"] == "failed" && event["event"] == "task_state" {
            blames.push(event["error"]["blame"].as_str().unwrap().to_owned());
        }
    }
    blames.sort();
    blames.dedup();
    assert!(blames.len() >= 3, "{events:#?}");
    for act in ["plan_twins", "plan_unknown", "plan_in_circles", "plan_many"] {
        same(&farm, "1", json!({"act": act}), "failed");
    }
}

#[test]
fn what_is_not_granted_is_denied_in_the_same_words() {
    let mut farm = farm();
    farm.config += "[plugin.probe]\ncapabilities = [\"blender\"]\n";
    farm.serve();
    same(&farm, "1", json!({"act": "denied"}), "succeeded");
}

#[test]
fn a_cancel_reaches_whoever_waits() {
    let mut farm = farm();
    farm.serve();
    for kind in Kind::ALL {
        let mut job = farm.job("1");
        job["renderer"] = json!(kind.probe());
        job["settings"] = json!({"act": "wait_for_cancel"});
        let id = farm.client().call("jobs.submit", job)["id"].as_str().unwrap().to_owned();
        let says = |what: &str| {
            let began = Instant::now();
            while !farm.events().iter().any(|event| event["job"] == id.as_str() && event["message"] == what) {
                assert!(began.elapsed().as_secs() < 60, "{kind:?} does not say '{what}'");
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        says("waiting");
        farm.client().call("jobs.cancel", json!({"id": id}));
        farm.wait_for(&id, "canceled");
        says("was told to stop");
    }
}

#[test]
fn a_panic_is_told_with_its_words_whatever_it_is_written_in() {
    let mut farm = farm();
    farm.serve();
    for kind in Kind::ALL {
        for (act, words) in [("panic", "no luck today"), ("plan_panic", "no plan today")] {
            let events = told(&farm, kind, "1", &json!({"act": act}));
            let error = |event: &Value| event["error"]["message"].as_str().unwrap_or_default().to_owned();
            let panicked = |event: &Value| {
                error(event).starts_with("the plugin panicked: ") && error(event).contains(words)
            };
            let failed = events.iter().find(|event| panicked(event));
            let failed = failed.unwrap_or_else(|| panic!("{kind:?} {act}: {events:#?}"));
            assert_eq!(failed["error"]["blame"], "plugin");
        }
    }
}

#[test]
fn limits_are_named_for_every_kind() {
    let mut farm = farm();
    farm.config += "[processes]\ncpu_seconds = 2\nmemory_mib = 256\n";
    farm.serve();
    let cases = [
        ("loop", "s of processor time between two host calls"),
        ("eat_handles", "at most 1000 handles open"),
        ("yield_for_ever", "its limit of 1000 attempts at one task"),
    ];
    for kind in Kind::ALL {
        for (act, words) in cases {
            let events = told(&farm, kind, "1", &json!({"act": act}));
            let said = events.iter().any(|event| event["error"]["message"].to_string().contains(words));
            assert!(said, "{kind:?} {act}: {events:#?}");
        }
    }
}

#[test]
fn the_contract_holds_in_real_blender() {
    for kind in [Kind::Process, Kind::Python] {
        for act in ["shots", "scenes", "turns", "several", "intrude"] {
            Render::probe_as(kind, act).frames("1").run().expect(0);
        }
    }
    Render::probe("several").frames("1").run().expect(0);
}
