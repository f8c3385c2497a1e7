//! `hotshoe render`: what users see and what is left when it ends.

use serde_json::Value;

use crate::harness::{Ended, Picture, Render, at_a_terminal, blenders, command, files_below, installed};

#[test]
fn frames_go_beside_the_scene_when_no_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let scene = folder.path().join("house.blend");
    std::fs::copy(installed().scene("small"), &scene).unwrap();
    let mut render = command(crate::harness::PROGRAM);
    render.arg("render").arg(&scene).args(["--frames", "1-3x2", "--blender"]).arg(installed().path);
    let ended = Ended::from(render.output().unwrap()).expect(0);
    assert_eq!(files_below(folder.path()), ["house-frames/0001.png", "house-frames/0003.png", "house.blend"]);
    assert!(ended.stdout.starts_with("2 files in "), "{ended:?}");
    assert!(ended.stdout.contains("house-frames"), "{ended:?}");
}

#[test]
fn existing_pictures_are_overwritten_unless_they_are_to_be_kept() {
    for (scene, flag, kept) in
        [("small", None, false), ("small", Some("--skip-existing"), true), ("keep", None, true)]
    {
        let mut render = Render::new(&installed().scene(scene)).frames("1-2").args(flag);
        std::fs::create_dir_all(render.out()).unwrap();
        let first = render.out().join("0001.png");
        std::fs::write(&first, "mine").unwrap();
        render.run().expect(0);
        assert_eq!(std::fs::read(&first).unwrap() == b"mine", kept, "{scene} {flag:?}");
        assert_eq!(render.files(), ["0001.png", "0002.png"]);
    }
}

#[test]
fn events_come_a_line_each_numbered_and_in_order() {
    let mut render = Render::new(&installed().scene("small")).frames("1-2").args(["--json"]);
    let events = render.run().expect(0).events();
    let is_progress = |event: &&serde_json::Value| event["event"] == "task_progress";
    let told = events.iter().filter(|event| !is_progress(event));
    let numbers: Vec<_> = told.map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names[0], "job_submitted");
    for name in ["worker_started", "task_started", "task_progress", "file_written", "task_state"] {
        assert!(names.contains(&name), "{name}");
    }
    let end = events.iter().rev().find(|event| event["event"] == "job_state").unwrap();
    assert_eq!((&end["state"], &end["tasks"]), (&"succeeded".into(), &2.into()));
}

#[test]
fn a_person_at_a_terminal_sees_bars() {
    let mut render = Render::new(&installed().scene("small")).frames("1-2");
    let Some(screen) = at_a_terminal(&mut render.command) else { return };
    for part in ["worker 1", "loading the scene", "frame 1", "1/2 tasks", "2/2 tasks", "elapsed", "about "] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
}

#[test]
fn several_workers_share_the_frames() {
    let mut render =
        Render::new(&installed().scene("small")).frames("1-4").args(["--workers", "2", "--json"]);
    let events = render.run().expect(0).events();
    let mut workers: Vec<_> = events.iter().filter_map(|event| event["worker"].as_u64()).collect();
    workers.sort_unstable();
    workers.dedup();
    assert_eq!(workers, [1, 2]);
    assert_eq!(render.files().len(), 4);
}

#[test]
fn progress_comes_while_a_frame_renders() {
    for blender in blenders() {
        let render = Render::with(&blender, &blender.scene("small")).frames("1-2").args(["--json"]);
        let mut render = render.set("samples", "2048");
        let events = render.run().expect(0).events();
        for frame in 1..=2 {
            let of_frame = |event: &&Value| event["event"] == "task_progress" && event["frame"] == frame;
            let seconds = events.iter().filter(of_frame).filter_map(|event| event["seconds"].as_f64());
            let seconds: Vec<f64> = seconds.collect();
            assert!(seconds.iter().any(|&seconds| seconds > 0.4), "{seconds:?}");
            assert!(seconds.is_sorted(), "begins with another frame's: {seconds:?}");
        }
        assert!(events.iter().any(|event| event["samples"][1] == 2048), "{events:#?}");
        assert!(Picture::read(&render.out().join("0001.png")).shows_something());
    }
}

#[test]
fn the_log_is_json_when_asked_for() {
    let mut render =
        Render::new(&installed().scene("small")).frames("1").args(["-v", "--log-format", "json"]);
    let ended = render.run().expect(0);
    let line = ended.stderr.lines().find(|line| line.starts_with('{')).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["level"], "INFO");
}

#[test]
fn completions_are_there_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let output = command(crate::harness::PROGRAM).args(["completions", shell]).output().unwrap();
        assert!(String::from_utf8(output.stdout).unwrap().contains("skip-existing"), "{shell}");
    }
}
