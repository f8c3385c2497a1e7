//! Components that do harm, one behaviour each (tests/fixtures/hostile): every one is ended with
//! the error that it must give, and neither the host nor its neighbours notice.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::farm::Farm;
use crate::harness::root;

/// Limits that are soon hit.
const LIMITS: &str = "[jobs]\nbackoff_seconds = 0.01\n[releases]\ncompile_cpu_seconds = 2\n[limits]\n\
    cpu_seconds = 0.3\nidle_seconds = 0.5\ntask_seconds = 3.0\ncalls_per_second = 50000\nlog_mib = 1.0\n\
    log_lines_per_second = 2000\nstate_mib = 1.0\nshots = 8\npixels_mib = 64.0\nmoved_mib = 8.0\n\
    output_files = 3\n";

/// One fixture.
struct Hostile {
    name: String,
    /// How its job must end, and what must be said of it.
    end: String,
    words: String,
    text: String,
}

impl Hostile {
    fn all() -> Vec<Self> {
        let folder = fs::read_dir(root().join("tests/fixtures/hostile")).unwrap();
        let paths = folder.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.file_stem().unwrap() != "base").map(|path| Self::read(&path)).collect()
    }

    fn read(path: &PathBuf) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let expected = text.lines().nth(1).unwrap().trim_start_matches(";; ");
        let (end, words) = expected.split_once(": ").unwrap_or((expected, ""));
        let (end, words) = (end.to_owned(), words.replace("\\n", "\n"));
        Self { name: path.file_stem().unwrap().to_str().unwrap().to_owned(), end, words, text }
    }

    /// Makes a component of it, and of the parts of the base that it does not have itself.
    fn component(&self) -> Vec<u8> {
        let base = fs::read_to_string(root().join("tests/fixtures/hostile/base.wat")).unwrap();
        let mut module = self.text.clone();
        for part in base.split(";;;; ").skip(1) {
            let (mark, part) = part.split_once('\n').unwrap();
            if !self.text.contains(mark) {
                module += part;
            }
        }
        component(&module)
    }
}

/// Makes a renderer of a core module that has the names of the contract.
fn component(module: &str) -> Vec<u8> {
    let parsed = wat::parse_str(format!("(module\n{module})"));
    let mut module = parsed.unwrap_or_else(|error| panic!("{error}\n{module}"));
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(root().join("wit/v0.1")).unwrap();
    let world = resolve.select_world(&[package], Some("renderer-plugin")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    let encoder = ComponentEncoder::default().validate(true).module(&module);
    let bytes = encoder.and_then(|mut encoder| encoder.encode());
    bytes.unwrap_or_else(|error| panic!("{error:#}"))
}

impl Farm {
    /// Lets a component at a path work at one frame; returns how that ended, and all that was
    /// said of it.
    fn suffers(&self, path: &PathBuf) -> (String, String) {
        let mut job = self.job("1");
        job["renderer"] = json!(path);
        let id = match self.client().try_call("jobs.submit", job).unwrap() {
            Ok(job) => job["id"].as_str().unwrap().to_owned(),
            Err(error) => return ("refused".to_owned(), error["message"].as_str().unwrap().to_owned()),
        };
        let began = std::time::Instant::now();
        loop {
            let job = self.state(&id);
            let state = job["state"].as_str().unwrap().to_owned();
            if ["succeeded", "failed"].contains(&state.as_str()) {
                let events = self.events().into_iter();
                let said = events.filter(|event| event["job"] == id.as_str() || event["id"] == id.as_str());
                let said: Vec<String> =
                    said.filter_map(|event| Some(event["error"]["message"].as_str()?.to_owned())).collect();
                return (state, said.join("\n"));
            }
            assert!(began.elapsed() < Duration::from_secs(120), "{path:?}: {job:#}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The memory of the host, in MiB.
    fn memory(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096 / 1024 / 1024
    }
}

#[test]
fn every_harm_of_a_component_is_ended_and_named_and_nobody_notices() {
    let mut farm = Farm::new();
    farm.workers = 4;
    farm.config = LIMITS.to_owned();
    farm.serve();
    let hostiles = Hostile::all();
    assert!(hostiles.len() >= 50, "{}", hostiles.len());
    let first = farm.submit("1-3");
    farm.wait_for(&first, "succeeded");
    let before = farm.memory();
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let parts = hostiles.chunks(hostiles.len().div_ceil(3));
        let parts: Vec<_> = parts
            .map(|part| {
                let farm = &farm;
                scope.spawn(move || {
                    part.iter().filter_map(|hostile| suffer(farm, hostile)).collect::<Vec<_>>()
                })
            })
            .collect();
        // A neighbour works all the while.
        let neighbour = farm.submit("1-200");
        let done = farm.wait_for(&neighbour, "succeeded");
        assert_eq!(done["retries"], 0, "{done:#}");
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    let last = farm.submit("1-3");
    farm.wait_for(&last, "succeeded");
    let after = farm.memory();
    assert!(after < before + 200, "{before} MiB before, {after} after");
    // Nothing was written but what a job may write.
    assert!(!farm.log().contains("panicked"), "{}", farm.log());
}

/// Says what is wrong with how a fixture has ended, if anything is.
fn suffer(farm: &Farm, hostile: &Hostile) -> Option<String> {
    let path = farm.path(&format!("{}.wasm", hostile.name));
    fs::write(&path, hostile.component()).unwrap();
    let (end, said) = farm.suffers(&path);
    let is_right = end == hostile.end && said.contains(&hostile.words);
    (!is_right).then(|| {
        format!("{}: {} ({}) is wanted, not {end}: {said}", hostile.name, hostile.end, hostile.words)
    })
}
