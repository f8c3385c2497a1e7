//! `hotshoe doctor` and `hotshoe blender`: what was found and how to get the rest.

use serde_json::Value;

use crate::harness::{Ended, PROGRAM, command, installed, shared_data};

fn lines(arguments: &[&str]) -> Vec<Value> {
    let mut run = command(PROGRAM);
    let ended = Ended::from(run.args(arguments).arg("--data").arg(shared_data()).output().unwrap());
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
}

#[test]
fn blenders_are_listed_with_their_versions() {
    let blender = installed();
    let listed = lines(&["blender", "list", "--json"]);
    let ours = listed.iter().find(|one| one["id"] == blender.path.to_str().unwrap()).unwrap();
    assert_eq!(ours["source"], "installed by Hotshoe");
    assert!(ours["version"].as_str().unwrap().contains('.'));
}

#[test]
fn a_version_that_no_wheel_has_is_refused() {
    let mut install = command(PROGRAM);
    let ended = Ended::from(install.args(["blender", "install", "newest"]).output().unwrap()).expect(2);
    ended.tells(&["'newest' is no version of Blender that comes as a wheel", "say for example 4.5"]);
}
