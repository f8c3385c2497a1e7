//! `hotshoe doctor` and `hotshoe blender`: what was found and how to get the rest.

use serde_json::{Value, json};

use crate::harness::{Ended, PROGRAM, command, installed};

fn lines(arguments: &[&str]) -> Vec<Value> {
    let mut run = command(PROGRAM);
    let ended = Ended::from(run.args(arguments).output().unwrap());
    ended.expect(0).events()
}

#[test]
fn the_doctor_finds_the_installed_blender() {
    let blender = installed();
    let findings = lines(&["doctor", "--json"]);
    let good = |id: &str, part: &str| {
        let mut found = findings.iter().filter(|finding| finding["id"] == id && finding["state"] == "good");
        assert!(found.any(|finding| finding["found"].as_str().unwrap().contains(part)), "{findings:#?}");
    };
    good("blender", blender.path.to_str().unwrap());
    good("renderers", "direct@");
    good("data", "data");
}

#[test]
fn a_machine_without_blender_is_told_how_to_get_one() {
    let empty = tempfile::tempdir().unwrap();
    let mut doctor = command(PROGRAM);
    doctor.args(["doctor", "--data"]).arg(empty.path()).env("PATH", empty.path());
    let ended = Ended::from(doctor.output().unwrap()).expect(1);
    assert!(ended.stdout.contains("!!  blender    none"), "{ended:#?}");
    assert!(ended.stdout.contains("hotshoe blender install"), "{ended:#?}");
    let mut install = command(PROGRAM);
    install.args(["blender", "install", "--data"]).arg(empty.path()).env("PATH", empty.path());
    let ended = Ended::from(install.output().unwrap()).expect(2);
    ended.tells(&["takes Python 3.11 or 3.13, and here is none", "apt install"]);
    // A render installs one by itself, and so fails alike.
    let mut render = command(PROGRAM);
    render.arg("render").arg(installed().scene("small")).args(["--frames", "1", "--data"]).arg(empty.path());
    let ended = Ended::from(
        render.arg("--out").arg(empty.path().join("out")).env("PATH", empty.path()).output().unwrap(),
    );
    ended.expect(2).tells(&["no Blender on this machine yet", "takes Python 3.11 or 3.13, and here is none"]);
}

#[test]
fn the_doctor_looks_at_the_blender_that_is_named() {
    let mut doctor = command(PROGRAM);
    doctor.args(["doctor", "--blender", "/bin/false"]);
    let ended = Ended::from(doctor.env("HOTSHOE_BLENDER", "/bin/true").output().unwrap()).expect(1);
    assert!(ended.stdout.contains("/bin/false (--blender) does not start"), "{ended:#?}");
    assert!(ended.stdout.contains("exited with code 1"), "{ended:#?}");
}

#[test]
fn blenders_are_listed_with_their_versions() {
    let blender = installed();
    let listed = lines(&["blender", "list", "--json"]);
    assert_eq!(listed[0]["id"], blender.path.to_str().unwrap());
    assert_eq!(listed[0]["source"], "installed by Hotshoe");
    assert!(listed[0]["version"].as_str().unwrap().contains('.'));
    let mut list = command(PROGRAM);
    list.args(["blender", "list", "--json"]).env("HOTSHOE_BLENDER", "/bin/false");
    let listed = Ended::from(list.output().unwrap()).expect(0).events();
    assert_eq!((&listed[0]["id"], &listed[0]["source"]), (&json!("/bin/false"), &json!("HOTSHOE_BLENDER")));
    assert_eq!(listed[1]["id"], blender.path.to_str().unwrap());
}

#[test]
fn a_version_that_no_wheel_has_is_refused() {
    let mut install = command(PROGRAM);
    let ended = Ended::from(install.args(["blender", "install", "newest"]).output().unwrap()).expect(2);
    ended.tells(&["'newest' is no version of Blender that comes as a wheel", "say for example 4.5"]);
}
