//! The matrix of features: whatever a scene is made of, each of its frames is the one that plain
//! Blender renders, in order, out of order, and on two workers.
//!
//! `tests/fixtures/matrix.py` makes the scenes. All of them are rendered with `HOTSHOE_TEST_FULL=1`
//! (a quarter of an hour on two cores), otherwise those that were wrong before and a part of the rest.

use std::path::Path;

use crate::harness::{Blender, Render, blenders, different_values, files_below, root};

/// Scenes whose pictures were wrong once.
const ONCE_WRONG: [&str; 9] = [
    "cloth",
    "cloth_with_persistent_data",
    "dynamic_paint",
    "foreign_camera",
    "keyed_samples",
    "keyed_simplify",
    "own_range_with_step",
    "particles",
    "workbench_subdivision",
];
/// Of the others, one in so many is rendered if not all are.
const PART: usize = 10;
/// How often a scene may be rendered anew: Blender itself is not always equal to itself (`direct`).
const TRIES: usize = 2;

/// Makes the scenes that are to be rendered; returns their names.
fn make(blender: &Blender, folder: &Path) -> Vec<String> {
    let script = root().join("tests/fixtures/matrix.py");
    let is_full = std::env::var_os("HOTSHOE_TEST_FULL").is_some();
    let all = std::fs::read_to_string(&script).unwrap();
    let all: Vec<&str> =
        all.split("\n@feature\ndef ").skip(1).map(|rest| rest.split('(').next().unwrap()).collect();
    assert!(all.len() >= 60, "{}", all.len());
    let is_wanted =
        |(number, name): &(usize, &str)| is_full || ONCE_WRONG.contains(name) || number % PART == 0;
    let names = all.into_iter().enumerate().filter(is_wanted).map(|(_, name)| name);
    let output = blender.python(&script).arg("--").arg(folder).args(names).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made = std::fs::read_to_string(folder.join("made")).unwrap();
    made.lines().map(str::to_owned).collect()
}

/// Renders a scene with Hotshoe and says what differs from what plain Blender has made of it.
fn differences(blender: &Blender, folder: &Path, args: &[&str]) -> Vec<String> {
    let mut render = Render::with(blender, &folder.join("scene.blend")).args(["--alone"]).args(args);
    let ended = render.run();
    if ended.code != Some(0) {
        return vec![format!("exit code {:?}: {}", ended.code, ended.stderr)];
    }
    // What File Output nodes write lies beside the pictures there, and below them here.
    let plain = |name: &str| match name.starts_with("passes/") {
        true => folder.join(name),
        false => folder.join("out").join(name),
    };
    let (ours, mut theirs) = (render.files(), files_below(&folder.join("out")));
    theirs.extend(files_below(folder).into_iter().filter(|name| name.starts_with("passes/")));
    if ours != theirs {
        return vec![format!("files {ours:?}, and not {theirs:?}")];
    }
    let count = |name: &String| (name.clone(), different_values(&render.out().join(name), &plain(name)));
    let differing = ours.iter().map(count).filter(|(_, count)| *count > 0);
    differing.map(|(name, count)| format!("{name} in {count} values")).collect()
}

#[test]
fn every_feature_is_rendered_as_plain_blender_does() {
    let mut wrong = Vec::new();
    for blender in blenders() {
        let temp = tempfile::tempdir().unwrap();
        for name in make(&blender, temp.path()) {
            let folder = temp.path().join(&name);
            blender.render_plainly(&folder.join("scene.blend"), &[]);
            // The scene's own range; then out of order, on two workers.
            let out_of_order: &[&str] = match name.as_str() {
                "own_range_with_step" => &["--frames", "8,2,5", "--workers", "2"],
                "cloth" | "cloth_with_persistent_data" | "soft_body" | "rigid_body" => {
                    &["--frames", "6,1,4,2,5,3", "--workers", "2"]
                }
                _ => &["--frames", "4,1,3,2", "--workers", "2"],
            };
            for args in [&[], out_of_order] {
                let mut tried = (0..TRIES).map(|_| differences(&blender, &folder, args));
                let first = tried.next().unwrap();
                if !first.is_empty() && tried.all(|found| !found.is_empty()) {
                    wrong.push(format!("{:?} {name} {args:?}: {first:?}", blender.version()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
