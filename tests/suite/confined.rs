//! Workers: what runs in one, whoever has written it, reads and writes what it may and no more.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hotshoe::process::measure::processor_time;
use serde_json::json;
use tempfile::TempDir;

use crate::farm::Farm;
use crate::harness::{Ended, PROGRAM, Render, below, blenders, command, files_below, installed, root};

/// A program that is run as if it were a Blender: a fixture.
fn stand_in(name: &str, folder: &Path) -> PathBuf {
    let path = folder.join("bin").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::copy(root().join(format!("tests/fixtures/{name}.py")), &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Makes the folder of a project with a scene in it, and one that is none of the scene's.
fn project(scene: &Path) -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (own, other) = (folder.path().join("project"), folder.path().join("other"));
    fs::create_dir(&own).unwrap();
    fs::create_dir(&other).unwrap();
    fs::copy(scene, own.join("scene.blend")).unwrap();
    (folder, own, other)
}

/// Prepares to render a frame of a project.
fn render_of(own: &Path, blender: &Path, sandbox: &str) -> Command {
    let mut render = command(PROGRAM);
    render.arg("render").arg(own.join("scene.blend")).args(["--frames", "1", "--sandbox", sandbox]);
    render.arg("--out").arg(own.join("out")).arg("--blender").arg(blender);
    render
}

#[test]
fn a_blender_that_is_taken_over_reaches_nothing() {
    let (folder, own, other) = project(&installed().scene("small"));
    fs::write(other.join("secret"), "secret").unwrap();
    let blender = stand_in("intruder", folder.path());
    let render = |how: &str| {
        let mut render = render_of(&own, &blender, how);
        render.env("BLENDER_OTHER", &other).env("BLENDER_OWN", &own);
        Ended::from(render.output().unwrap()).expect(2).stderr
    };
    let said = render("require");
    for expected in [
        "reads its scene: possible",
        "writes its own folder: possible",
        "reads another file: Permission denied",
        "lists another folder: Permission denied",
        "reads the accounts: Permission denied",
        "writes the scene: Permission denied",
        "writes the output: Permission denied",
        "writes another file: Permission denied",
        "changes rights: Operation not permitted",
        "changes rights of what it reads: Operation not permitted",
        "changes times: Operation not permitted",
        "has memory of others: Operation not permitted",
        "makes a socket of the network: Operation not permitted",
        "makes a Unix socket: Operation not permitted",
        "has a session of its own: Operation not permitted",
        "has a namespace of its own: Operation not permitted",
        "sees the host: no",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert_eq!(files_below(&other), ["secret"]);
    // Without it the same is possible, so it is the sandbox that forbids it.
    let said = render("off");
    assert!(said.contains("reads another file: possible"), "{said}");
    for possible in ["makes a Unix socket", "changes rights of what it reads", "changes times"] {
        assert!(said.contains(&format!("{possible}: possible")), "{said}");
    }
    assert!(said.contains("has memory of others: possible"), "{said}");
}

/// What a worker cannot do itself, it gets nobody to do for it: the host reads, moves, writes and
/// removes what lies in the worker's folder, where a worker can put anything.
#[test]
fn a_worker_that_lies_to_the_host_gets_nothing_by_it() {
    let (folder, own, other) = project(&installed().scene("small"));
    fs::write(other.join("secret"), "a word that nobody knows").unwrap();
    let (blender, data) = (stand_in("traitor", folder.path()), folder.path().join("data"));
    for (how, act, expected) in [
        ("names", "files", "is no name of a file below its folder"),
        ("above", "files", "is no name of a file below its folder"),
        ("link", "files", "wrote no 0001.png"),
        ("pipe", "files", "wrote no 0001.png"),
        ("folder", "files", "take over what was rendered: Not a directory"),
        ("deep", "files", "lie in one another more than 32 deep"),
        ("abyss", "files", "its folder cannot be looked at: folders lie in one another more than 32 deep"),
        ("unread", "files", "is no name of a file below its folder"),
        ("crash", "files", "SIGABRT"),
        ("cut", "files", "0001.png is cut off: is the disk full?"),
        ("full", "files", "No space left on device"),
        ("forks", "files", "it started more than 64 processes"),
        ("threads", "files", "it has more than 4096 threads"),
        ("hidden", "files", "would write the hidden file .git/hooks/pre-commit"),
        ("many", "files", "1000 files in the output folder (limits.output_files)"),
        ("sparse", "files", "16384 MiB in the output folder (limits.output_mib)"),
        ("bomb", "files", "its parts are too large"),
        ("endless", "files", "it is no file"),
        ("waits", "files", "it is no file"),
        ("shot-link", "shots", "it is a link"),
        ("shot-pipe", "shots", "it is no file"),
    ] {
        let mut render = render_of(&own, &blender, "require");
        if act != "files" {
            render.arg("--renderer").arg(crate::harness::probe()).args(["--set", &format!("act={act}")]);
        }
        render.env("BLENDER_OTHER", &other).env("BLENDER_TRAITOR", how).env("HOTSHOE_DATA", &data);
        let ended = Ended::from(render.output().unwrap());
        assert!(ended.stderr.contains(expected), "{how}: {ended:#?}");
        assert!(matches!(ended.code, Some(1 | 2)), "{how}: {ended:#?}");
        // It is the scene's fault, and no trouble of the host that may pass.
        assert!(!ended.stderr.contains("is paused"), "{how}: {ended:#?}");
        assert_eq!(files_below(&other), ["secret"], "{how}");
        // What it left is gone with it.
        let runs = files_and_folders(&data.join("run"));
        assert!(runs.iter().all(|name| !name.contains("worker-") && !name.contains("removed-")), "{runs:?}");
    }
    assert!(files_below(&own.join("out")).is_empty());
    for file in files_below(&data) {
        let bytes = fs::read(data.join(&file)).unwrap();
        assert!(!bytes.windows(16).any(|part| part == b"word that nobody"), "{file}");
    }
    assert_eq!(fs::read_to_string(other.join("secret")).unwrap(), "a word that nobody knows");
}

/// Prepares a farm whose workers lie.
fn farm_of_traitors(how: &str) -> Farm {
    let mut farm = Farm::new();
    farm.workers = 1;
    farm.blender = stand_in("traitor", farm.folder.path());
    farm.environment =
        [("BLENDER_TRAITOR", how), ("BLENDER_OTHER", "/nowhere")].map(|(k, v)| (k.into(), v.into())).to_vec();
    farm
}

#[test]
fn files_that_a_worker_has_open_without_a_name_count_as_its_own() {
    let mut farm = farm_of_traitors("nameless");
    farm.config = "[workers]\nwork_mib = 8\n[jobs]\nretries = 0\n".to_owned();
    farm.serve();
    let job = farm.submit("1");
    farm.wait_for(&job, "failed");
    let tasks = farm.client().call("tasks.list", json!({"job": job, "states": ["failed"]}));
    let message = tasks["tasks"][0]["error"]["message"].as_str().unwrap();
    assert!(message.contains("more than the 8 MiB that it may (workers.work_mib)"), "{message}");
}

/// What a scene has started in its worker does not run while nobody uses the worker, and does not
/// keep the next job from it.
#[test]
fn nothing_runs_in_a_worker_that_nobody_uses() {
    let mut farm = farm_of_traitors("busy");
    farm.serve();
    for _ in 0..2 {
        let job = farm.submit("1");
        farm.wait_for(&job, "succeeded");
        let busy = || {
            let state = |pid: &i32| {
                let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                text.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
            };
            let tree = below(farm.pid().as_raw());
            (tree.iter().filter(|pid| state(pid) != Some('T')).count(), processor_time(&tree))
        };
        let began = Instant::now();
        // The host's own two: the guard, and the first process of the worker's namespace.
        while busy().0 > 2 {
            assert!(began.elapsed() < Duration::from_secs(30), "it goes on: {:?}", busy());
            std::thread::sleep(Duration::from_millis(50));
        }
        let before = busy();
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(busy(), before);
    }
    let started = farm.events().iter().filter(|event| event["event"] == "worker_started").count();
    assert_eq!(started, 1);
}

#[test]
fn a_worker_that_cannot_be_stopped_is_ended() {
    let mut farm = farm_of_traitors("restless");
    farm.serve();
    let job = farm.submit("1");
    farm.wait_for(&job, "succeeded");
    let began = Instant::now();
    let is_told = |event: &serde_json::Value| event["reason"] == "it works while it has nothing to do";
    while !farm.events().iter().any(is_told) {
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", farm.events());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Names what is in the folders of a folder.
fn files_and_folders(folder: &Path) -> Vec<String> {
    let list = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().collect::<Vec<_>>();
    let inner = list(folder).into_iter().flat_map(|run| list(&run.path()));
    inner.map(|entry| entry.file_name().display().to_string()).collect()
}

/// A scene that reaches out of its folder, in every Blender.
#[test]
fn files_outside_of_the_scenes_folder_are_not_read_and_named_and_can_be_allowed() {
    for blender in blenders() {
        let (_folder, own, other) = project(&blender.scene("outside"));
        let picture = root().join("docs/images/contact-sheet.png");
        fs::copy(&picture, other.join("parent.png")).unwrap();
        fs::copy(&picture, other.join("linked.png")).unwrap();
        symlink(other.join("linked.png"), own.join("link.png")).unwrap();
        let render = |more: &[&str]| {
            let mut render = Render::with(&blender, &own.join("scene.blend")).frames("1").args(more);
            render.run()
        };
        let flags = format!("let it with --read /etc --read {} --read {}", other.display(), own.display());
        let names = ["other/parent.png", "project/link.png", "/etc/hostname", &flags];
        let refused = render(&[]).expect(3).tells(&names);
        assert!(refused.stderr.contains("project allow"), "{refused:?}");
        let refused = render(&["--json"]).expect(3).events();
        let error = &refused.iter().find(|event| event["state"] == "failed").unwrap()["error"];
        assert_eq!((&error["blame"], error["withheld"].as_array().unwrap().len()), (&json!("client"), 3));
        let other = other.to_str().unwrap();
        render(&["--read", other]).expect(3).tells(&["let it with --read /etc"]);
        render(&["--read", other, "--read", "/etc"]).expect(0);
        render(&["--read", "/no/such/folder"]).expect(2).tells(&["check the path behind --read"]);
    }
}

/// A scene that would leave its marks on the machine, in every Blender: texts that register, add a
/// handler and enable an add-on, drivers, a style module, an output folder and File Output nodes
/// elsewhere; beside it modules that a Python may import, and links where its pictures go to.
#[test]
fn a_malicious_scene_runs_nothing_and_writes_nothing_elsewhere() {
    let planted = ["scripts/addons/evil_addon.py", "scripts/startup/evil.py", "sitecustomize.py", "numpy.py"];
    for blender in blenders() {
        let folder = tempfile::tempdir().unwrap();
        let (own, marks) = (folder.path().join("project"), folder.path().join("marks"));
        fs::create_dir(&marks).unwrap();
        for name in planted {
            fs::create_dir_all(own.join(name).parent().unwrap()).unwrap();
            fs::write(own.join(name), format!("open({:?}, 'w')", marks.join("planted"))).unwrap();
        }
        let scene = own.join("scene.blend");
        fs::copy(blender.scene("malicious"), &scene).unwrap();
        // Without a sandbox, so that it is not this that forbids it; and with one.
        for how in ["off", "require"] {
            let mut render = Render::with(&blender, &scene).frames("1-2").args(["--sandbox", how]);
            render.command.env("BLENDER_MARKS", &marks).current_dir(&own);
            let (out, victim) = (render.out(), folder.path().join("victim"));
            fs::write(&victim, "mine").unwrap();
            fs::create_dir(&out).unwrap();
            for name in ["pwned_0001.png", "up_0001.png", "up_0001.exr", "RGBA0001.png"] {
                symlink(&victim, out.join(name)).unwrap();
            }
            let ended = render.run().expect(0);
            for part in [
                "text block 'evil.py'",
                "text block 'handler.py'",
                "text block 'addon.py'",
                "driver of location on 'Cube'",
                "style module 'style.py'",
            ] {
                assert!(ended.stderr.contains(&format!("kept from running: {part}")), "{part}: {ended:?}");
            }
            assert!(files_below(&marks).is_empty(), "{how}: {:?}", files_below(&marks));
            assert!(!Path::new("/tmp/hotshoe-escape").exists());
            assert!(render.files().iter().any(|file| file.contains("pwned_")), "{:?}", render.files());
            assert!(fs::symlink_metadata(out.join("pwned_0001.png")).unwrap().is_file());
            assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        }
        // A Blender that trusts the scene does what it says, so it is a harmful one.
        if !blender.is_module {
            let mut trusting = command(&blender.path);
            trusting.args(["--background", "--factory-startup", "--enable-autoexec"]).arg(&scene);
            trusting.env("BLENDER_MARKS", &marks).output().unwrap();
            assert_eq!(files_below(&marks), ["hotshoe-pwned"]);
        }
    }
}
