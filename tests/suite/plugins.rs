//! Components: what the contract promises them, and what their harm costs.

use std::os::unix::fs::MetadataExt;

use crate::harness::{
    Ended, Picture, Render, command, component, files_below, installed, probe, root, with_package,
};

#[test]
fn the_contract_holds_for_a_component() {
    for act in ["pixels", "shots", "devices", "turns", "scenes"] {
        Render::probe(act).frames("1").run().expect(0);
    }
}

#[test]
fn state_outlives_the_attempt_that_set_it() {
    Render::probe("state").frames("1-4").run().expect(0);
}

#[test]
fn a_renderer_that_leaves_no_file_is_not_silent() {
    let ended = Render::probe("turns").frames("1").run().expect(0);
    assert!(ended.stdout.contains("the renderer left no file"), "{ended:#?}");
}

#[test]
fn tasks_come_in_the_planned_order_with_their_payloads() {
    let ended = Render::probe("payloads").frames("1").args(["--json", "--workers", "2"]).run().expect(0);
    let done =
        ended.events().into_iter().filter(|event| event["state"] == "done" && event["event"] == "task_state");
    assert_eq!(done.map(|event| event["id"].clone()).collect::<Vec<_>>(), ["first", "second"]);
}

#[test]
fn a_task_that_yields_goes_on_in_another_attempt() {
    let ended = Render::probe("yield_once").frames("1").args(["--json"]).run().expect(0);
    let attempts = ended.events().into_iter().filter(|event| event["event"] == "task_started");
    assert_eq!(attempts.map(|event| event["attempt"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2)]);
}

#[test]
fn yielding_for_ever_comes_to_an_end() {
    Render::probe("yield_for_ever")
        .frames("1")
        .run()
        .expect(1)
        .tells(&["its limit of 1000 attempts at one task"]);
}

#[test]
fn what_a_plugin_says_is_heard() {
    let ended = Render::probe("turns").frames("1").args(["--json"]).run().expect(0);
    let events = ended.events();
    let said = |name: &str, key: &str, value: &str| {
        assert!(events.iter().any(|event| event["event"] == name && event[key] == value), "{events:#?}");
    };
    said("log", "message", "planning");
    said("log", "message", "hello from the probe");
    said("task_progress", "message", "half way");
}

#[test]
fn a_panic_fails_its_frame_and_the_others_are_finished() {
    let mut render = Render::probe("panic").set("only", "2").frames("1-3");
    render
        .run()
        .expect(1)
        .tells(&["frame 2 failed: the plugin panicked: no luck today (at ", "1 of 3 tasks failed"]);
    assert_eq!(render.files(), ["0001.png", "0003.png"]);
}

#[test]
fn a_plugin_that_prints_much_is_told_by_its_end() {
    let ended = Render::probe("chatter").frames("1").run().expect(1);
    let ended = ended.tells(&["the plugin panicked: talked too much (at "]);
    assert!(!ended.stderr.contains("line 9999 of much"), "{}", ended.stderr);
}

#[test]
fn what_was_compiled_is_used_again_and_made_anew_if_it_is_spoiled() {
    let data = tempfile::tempdir().unwrap();
    let show = || {
        let mut show = command(crate::harness::PROGRAM);
        let output =
            show.args(["plugin", "show", "direct", "-v", "--data"]).arg(data.path()).output().unwrap();
        Ended::from(output).expect(0).stderr
    };
    let compiled = || {
        let files = files_below(data.path()).into_iter().filter(|name| name.ends_with(".cwasm"));
        let files: Vec<_> = files.map(|name| data.path().join(name)).collect();
        let [file] = files.as_slice() else { panic!("{files:?}") };
        (file.clone(), std::fs::metadata(file).unwrap().ino())
    };
    show();
    let (file, first) = compiled();
    show();
    assert_eq!(compiled().1, first);
    std::fs::write(&file, "cut off").unwrap();
    assert!(show().contains("compiling anew"));
    assert!(std::fs::metadata(&file).unwrap().len() > 10_000);
    assert!(!show().contains("compiling anew"));
}

#[test]
fn every_harm_is_cut_short_and_named() {
    let check = |act: &str, part: &str| drop(Render::probe(act).frames("1").run().expect(1).tells(&[part]));
    check("exit", "the plugin trapped: it called exit");
    check("loop", "its limit of 10 s of processor time between two host calls");
    check("recurse", "the plugin trapped: stack overflow");
    check("eat_memory", "its limit of 256 MiB of memory");
    check("eat_handles", "the limit of 1000 handles open at a time");
}

#[test]
fn show_tells_what_a_component_is() {
    let mut show = command(crate::harness::PROGRAM);
    let output = show.args(["plugin", "show", "--json"]).arg(probe()).output().unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["summary"], "does what a test wants");
    assert_eq!(shown["digest"].as_str().unwrap().len(), 64);
    assert!(shown["settings"]["properties"]["act"].is_object());
    let output = command(crate::harness::PROGRAM).args(["plugin", "show", "direct"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let samples = text.lines().find(|line| line.starts_with("samples ")).unwrap();
    assert!(
        samples.contains("an integer from 1 to 16777216") && samples.contains("Samples a pixel"),
        "{text}"
    );
}

#[test]
fn the_renderer_of_the_readme_works() {
    let built = component(&["--release", "--manifest-path", "examples/draft/Cargo.toml"]);
    let draft = built.join("release/draft.wasm");
    let mut render = Render::new(&installed().scene("small")).frames("1").set("percentage", "25");
    render.command.arg("--renderer").arg(draft);
    render.run().expect(0);
    assert_eq!(Picture::read(&render.out().join("0001.png")).size, (40, 22));
}

#[test]
fn the_process_of_the_readme_works() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["main.py", "plugin.toml"] {
        std::fs::copy(root().join("examples/draft-python").join(file), folder.path().join(file)).unwrap();
    }
    with_package(folder.path());
    let mut render = Render::new(&installed().scene("small")).frames("1").set("percentage", "25");
    render.command.arg("--renderer").arg(folder.path());
    render.run().expect(0);
    assert_eq!(Picture::read(&render.out().join("0001.png")).size, (40, 22));
}

#[test]
fn what_the_operator_takes_away_is_gone_for_whoever_is_at_it() {
    let mut farm = crate::farm::Farm::new();
    farm.fake = "ms=60000".to_owned();
    farm.serve();
    let job = farm.submit("1");
    let began = std::time::Instant::now();
    while farm.state(&job)["state"] != "running" {
        assert!(began.elapsed().as_secs() < 30);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    std::thread::sleep(std::time::Duration::from_millis(500));
    let with = |rules: &str| {
        std::fs::write(farm.path("aside"), format!("{}{rules}", farm.config)).unwrap();
        std::fs::rename(farm.path("aside"), farm.path("config.toml")).unwrap();
    };
    with("[plugin.direct]\ncapabilities = [\"image\"]\n");
    let failed = farm.wait_for(&job, "failed");
    // Its frame would have taken a minute.
    assert!(began.elapsed().as_secs() < 30, "{failed:#}");
    let denied = "direct may not use 'blender', which the operator does not grant it";
    let tasks = farm.client().call("tasks.list", serde_json::json!({"job": job}));
    let message = tasks["tasks"][0]["error"]["message"].as_str().unwrap();
    assert!(message.starts_with(denied) && message.contains("plugin.direct.capabilities"), "{message}");
    // Whoever asks is told in the log, once.
    let next = farm.submit("1");
    farm.wait_for(&next, "failed");
    let told = farm.told("log").into_iter().filter(|event| event["job"] == next.as_str());
    let told: Vec<_> = told.filter(|event| event["message"].as_str().unwrap().starts_with(denied)).collect();
    assert_eq!((told.len(), &told[0]["level"]), (1, &serde_json::json!("warn")), "{told:#?}");
}

#[test]
fn a_job_may_allow_less_than_the_operator_does() {
    let mut render = Render::new(&installed().scene("small")).frames("1").args(["--allow", "image,state"]);
    render.run().expect(2).tells(&["direct may not use 'blender' in this job, which allows less", "--allow"]);
    let mut render = Render::new(&installed().scene("small")).frames("1").args(["--allow", "blender"]);
    render.run().expect(0);
}
