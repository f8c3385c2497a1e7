//! One contract: the same renderer as a component, as a process in Rust and as a
//! process in Python gets the same answers and leaves the same events.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::farm::Farm;
use crate::harness::{
    Kind, PROGRAM, Picture, Render, assert_same_pixels, command, direct_process, installed,
};

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
        assert!(began.elapsed() < Duration::from_secs(120), "{kind:?} {}: {job:#}", settings["act"]);
        std::thread::sleep(Duration::from_millis(5));
    }
    let events = farm.events().into_iter();
    let own = events.filter(|event| event["job"] == id.as_str() || event["id"] == id.as_str());
    own.filter(|event| event["event"] != "job_submitted").map(|event| plain(event, &id)).collect()
}

/// Takes out of an event what no two runs have in common.
fn plain(mut event: Value, job: &str) -> Value {
    for key in ["seq", "time_ms", "seconds", "worker", "job", "release"] {
        event.as_object_mut().unwrap().remove(key);
    }
    if event["id"] == job {
        event["id"] = Value::Null;
    }
    if let Some(message) = event["error"]["message"].as_str() {
        // Each report has a number of its own.
        let kept = message.lines().filter(|line| !line.starts_with("the report: "));
        event["error"]["message"] = json!(kept.collect::<Vec<_>>().join("\n"));
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
    assert_eq!(end.map(|event| &event["state"]), Some(&json!(state)), "{}: {expected:#?}", settings["act"]);
    for kind in [Kind::Process, Kind::Python] {
        let found = told(farm, kind, frames, &settings);
        assert_eq!(found, expected, "{kind:?} {}", settings["act"]);
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
            // Whoever wrote it wants to know where.
            let place = if kind == Kind::Python { " (main.py:" } else { "" };
            assert!(error(failed).contains(place), "{failed}");
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
        ("eat_handles", "the limit of 1000 handles open at a time"),
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
fn direct_is_the_same_renderer_as_a_component_and_as_a_process() {
    let show = |renderer: &str| {
        let mut show = command(PROGRAM);
        let output = show.args(["plugin", "show", "--json", renderer]).output().unwrap();
        let mut shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        // These say which of the two it is.
        for name in ["digest", "kind", "capabilities", "source", "state", "why", "since_ms"] {
            shown[name] = Value::Null;
        }
        shown
    };
    let process = direct_process().to_str().unwrap();
    assert_eq!(show(process), show("direct"));
    let render = |renderer: &str| {
        let mut render = Render::new(&installed().scene("small"));
        render.command.args(["--renderer", renderer, "--frames", "1-2", "--set", "samples=2"]);
        render.run().expect(0);
        render
    };
    let (ours, theirs) = (render(process), render("direct"));
    for name in ["0001.png", "0002.png"] {
        assert_same_pixels(&ours.out().join(name), &theirs.out().join(name));
    }
    // What is wrong is told in the same words.
    let wrong = |renderer: &str| {
        let mut render = Render::new(&installed().scene("small")).frames("1").set("camera", "Nobody");
        render.command.args(["--renderer", renderer]);
        let stderr = render.run().expect(2).stderr;
        stderr.lines().find(|line| line.contains("Nobody")).map(str::to_owned).expect("it names the camera")
    };
    assert_eq!(wrong(process), wrong("direct"));
}

#[test]
fn a_contact_sheet_shows_every_frame() {
    let mut render = Render::new(&installed().scene("small")).frames("1-5");
    render.command.args(["--renderer", "contact-sheet", "--set", "width=64", "--set", "columns=3"]);
    render.run().expect(0);
    assert_eq!(render.files(), ["contact-sheet-0001.png"]);
    let sheet = Picture::read(&render.out().join("contact-sheet-0001.png"));
    let file = std::fs::read(render.out().join("contact-sheet-0001.png")).unwrap();
    let note = b"tEXtNote\0contact-sheet@0.1.0+";
    assert!(file.windows(note.len()).any(|bytes| bytes == note), "who made it is not told");
    // Three columns and two rows of 64 by 36 pixels, each with its label and a gap of 4.
    assert_eq!(sheet.size, (3 * 68 + 4, 2 * (36 + 4 + 11) + 4));
    assert!(sheet.shows_something());
    let mut many = Render::new(&installed().scene("small")).frames("1-401");
    many.command.args(["--renderer", "contact-sheet"]);
    many.run().expect(2).tells(&["a sheet takes at most 400 frames", "every 25th"]);
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
