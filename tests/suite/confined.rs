//! Workers: what runs in one, whoever has written it, reads and writes what it may and no more.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::harness::{PROGRAM, Render, blenders, command, files_below, installed, root};

/// A program that is run as if it were a Blender, and tries what a Blender could that somebody
/// has taken over.
fn intruder(folder: &Path) -> PathBuf {
    let path = folder.join("intruder");
    fs::copy(root().join("tests/fixtures/intruder.py"), &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_blender_that_is_taken_over_reaches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (own, other) = (folder.path().join("project"), folder.path().join("other"));
    fs::create_dir(&own).unwrap();
    fs::create_dir(&other).unwrap();
    fs::copy(installed().scene("small"), own.join("scene.blend")).unwrap();
    fs::write(other.join("secret"), "secret").unwrap();
    let blender = intruder(&{
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        bin
    });
    let render = |how: &str| {
        let mut render = command(PROGRAM);
        render.arg("render").arg(own.join("scene.blend")).args(["--frames", "1", "--sandbox", how]);
        render.arg("--out").arg(own.join("out")).arg("--blender").arg(&blender);
        render.env("OTHER", &other).env("OWN", &own);
        crate::harness::Ended::from(render.output().unwrap()).expect(2).stderr
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
    assert!(said.contains("makes a Unix socket: possible"), "{said}");
}

/// A scene that reaches out of its folder, in every Blender.
#[test]
fn files_outside_of_the_scenes_folder_are_not_read_and_named_and_can_be_allowed() {
    for blender in blenders() {
        let folder = tempfile::tempdir().unwrap();
        let (own, other) = (folder.path().join("project"), folder.path().join("other"));
        fs::create_dir(&own).unwrap();
        fs::create_dir(&other).unwrap();
        fs::copy(blender.scene("outside"), own.join("scene.blend")).unwrap();
        let picture = root().join("docs/images/contact-sheet.png");
        fs::copy(&picture, other.join("parent.png")).unwrap();
        fs::copy(&picture, other.join("linked.png")).unwrap();
        symlink(other.join("linked.png"), own.join("link.png")).unwrap();
        let render = |more: &[&str]| {
            let mut render = Render::with(&blender, &own.join("scene.blend")).frames("1").args(more);
            render.run()
        };
        let ended = render(&[]).expect(0);
        let names = ["other/parent.png", "project/link.png", "/etc/hostname"];
        for name in names {
            let said = ended
                .stderr
                .lines()
                .any(|line| line.contains("kept from being read: ") && line.contains(name));
            assert!(said, "{name}: {ended:?}");
        }
        assert!(ended.stderr.contains("--read DIR"), "{ended:?}");
        render(&["--strict"]).expect(2).tells(&["of its files and --strict forbids that"]);
        let other = other.to_str().unwrap();
        let ended = render(&["--read", other, "--read", "/etc"]).expect(0);
        assert!(!ended.stderr.contains("kept from being read"), "{ended:?}");
        render(&["--read", "/no/such/folder"]).expect(2).tells(&["check the path behind --read"]);
    }
}

/// A scene that would leave its marks on the machine, in every Blender: a text that registers and
/// adds a handler, drivers, a style module, an output folder and File Output nodes elsewhere.
#[test]
fn a_malicious_scene_runs_nothing_and_writes_nothing_elsewhere() {
    let marks = [Path::new("/tmp/hotshoe-pwned"), Path::new("/tmp/hotshoe-escape")];
    for blender in blenders() {
        let mut render = Render::with(&blender, &blender.scene("malicious")).frames("1-2");
        let ended = render.run().expect(0);
        for part in [
            "text block 'evil.py'",
            "text block 'handler.py'",
            "driver of location on 'Cube'",
            "style module 'style.py'",
        ] {
            assert!(ended.stderr.contains(&format!("kept from running: {part}")), "{part}: {ended:?}");
        }
        assert!(marks.iter().all(|mark| !mark.exists()));
        assert!(render.files().iter().any(|file| file.contains("pwned_")), "{:?}", render.files());
    }
}
