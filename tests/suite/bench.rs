//! `hotshoe bench`: rows that a script can read.

use crate::harness::{Ended, PROGRAM, command, installed};

fn rows(arguments: &[&str]) -> Vec<serde_json::Value> {
    let mut bench = command(PROGRAM);
    bench.arg("bench").args(arguments).arg("--json");
    Ended::from(bench.output().unwrap()).expect(0).events()
}

fn check(rows: &[serde_json::Value]) {
    for row in rows {
        assert!(row["name"].is_string() && row["unit"].is_string() && row["reference"]["name"].is_string());
        // What a run of two frames saves may be nothing: only whole benches are judged.
        assert!(row["median"].is_number() && row["ratio"].is_number(), "{row}");
        assert!(row["reference"]["median"].as_f64().unwrap() > 0.0, "{row}");
        assert!(
            row["runs"].as_u64().unwrap() > 0 && (row["goal"].is_object() || row["goal"] == "any"),
            "{row}"
        );
    }
}

#[test]
fn calls_are_measured_beside_their_references() {
    let rows = rows(&["calls"]);
    assert_eq!(rows.len(), 4);
    check(&rows);
}

#[test]
fn neighbours_are_measured_beside_those_that_do_their_worst() {
    let component = crate::harness::probe().to_str().unwrap();
    let rows = rows(&["fair", "--runs", "1", "--slots", "6", "--component", component]);
    assert_eq!(rows.len(), 3);
    check(&rows);
}

#[test]
fn processes_are_measured_beside_what_is_there() {
    let rows = rows(&["ipc"]);
    let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["process: call of the host", "8 MiB of pixels there and back"]);
    check(&rows);
}

#[test]
fn renders_are_measured_beside_plain_blender() {
    let blender = installed();
    let (scene, program) = (blender.scene("small"), blender.path.clone());
    let arguments = ["blender", "--frames", "2", "--runs", "1", "--scene"];
    let paths = [scene.to_str().unwrap(), "--blender", program.to_str().unwrap()];
    let rows = rows(&[&arguments[..], &paths[..]].concat());
    assert_eq!(rows.len(), 4);
    check(&rows);
}
