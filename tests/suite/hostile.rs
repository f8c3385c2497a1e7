//! Components that do harm, one behaviour each (tests/fixtures/hostile): every one is ended with
//! the error that it must give, and neither the host nor its neighbours notice.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::farm::Farm;
use crate::harness::{probe, root};

/// Limits that are soon hit.
const LIMITS: &str = "[jobs]\nbackoff_seconds = 0.01\n[releases]\ncompile_cpu_seconds = 4\n[limits]\n\
    cpu_seconds = 0.3\nidle_seconds = 1.5\ncalls_per_second = 50000\nlog_mib = 1.0\n\
    log_lines_per_second = 2000\nstate_mib = 1.0\nshots = 8\npixels_mib = 64.0\nmoved_mib = 8.0\n\
    saved_mib = 0.1\n\
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
    /// The memory of the host, in MiB.
    fn memory(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096 / 1024 / 1024
    }
}

/// Puts a fixture to where a job can name it.
fn placed(farm: &Farm, name: &str) -> PathBuf {
    let hostile = Hostile::read(&root().join(format!("tests/fixtures/hostile/{name}.wat")));
    let path = farm.path(&format!("{name}.wasm"));
    fs::write(&path, hostile.component()).unwrap();
    path
}

#[test]
fn every_harm_of_a_component_is_ended_and_named_and_nobody_notices() {
    let mut farm = Farm::new();
    farm.workers = 4;
    // Of the others none may be told to take too long, however busy the machine is.
    farm.config = LIMITS.to_owned() + "[plugin.works-for-ever.limits]\ntask_seconds = 5.0\n";
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
    let (end, said) = farm.suffers(&placed(farm, &hostile.name));
    let is_right = end == hostile.end && said.contains(&hostile.words);
    (!is_right).then(|| {
        format!("{}: {} ({}) is wanted, not {end}: {said}", hostile.name, hostile.end, hostile.words)
    })
}

#[test]
fn a_plugin_can_have_limits_of_its_own_and_a_change_of_them_counts_for_its_next_task() {
    let mut farm = Farm::new();
    farm.config = LIMITS.to_owned()
        + "[plugin.works-for-ever.limits]\ntask_seconds = 0.0\njob_seconds = 1.0\n"
        + "[plugin.log-flood.limits]\ninstances = 1\n"
        + "[plugin.naps-for-ever.limits]\nidle_seconds = 0.1\n";
    farm.serve();
    let suffers = |name: &str| farm.suffers(&placed(&farm, name));
    // That a job takes too long is no fault that another attempt could mend.
    let (end, said) = suffers("works_for_ever");
    assert_eq!(end, "failed");
    let told: std::collections::BTreeSet<_> =
        said.lines().filter(|line| line.starts_with("the report")).collect();
    assert!(told.len() == 1 && said.contains("its limit of 1 s for a job (limits.job_seconds)"), "{said}");
    let (end, said) = suffers("log_flood");
    assert_eq!(end, "refused");
    assert!(said.contains("its limit of 1 instances, memories or tables each (limits.instances)"), "{said}");
    assert!(suffers("naps_for_ever").1.contains("0.1 s without progress"));
    fs::write(farm.path("config.toml"), farm.config.replace("idle_seconds = 0.1", "idle_seconds = 0.2"))
        .unwrap();
    let began = std::time::Instant::now();
    while !suffers("naps_for_ever").1.contains("0.2 s without progress") {
        assert!(began.elapsed() < Duration::from_secs(60), "{}", farm.log());
    }
}

/// What is said of a frame that the probe works at.
fn told(farm: &Farm, frames: &str, act: &str, state: &str) -> Vec<String> {
    let job = farm.submit_to(probe().to_str().unwrap(), frames, json!({"settings": {"act": act}}));
    let job = farm.wait_for(job["id"].as_str().unwrap(), state);
    let own = farm.events().into_iter().filter(|event| event["job"] == job["id"]);
    let told = own.filter_map(|event| {
        let said = [&event["message"], &event["error"]["message"]].into_iter().find_map(|text| text.as_str());
        said.map(str::to_owned)
    });
    told.collect()
}

#[test]
fn a_component_sees_nothing_of_the_world_and_its_randomness_can_be_repeated() {
    let farm = Farm::start();
    let random = |frames: &str| -> Vec<String> {
        let told = told(&farm, frames, "world", "succeeded").into_iter();
        told.filter(|line| line.starts_with("random ")).collect()
    };
    let first = random("1");
    assert_eq!(first.len(), 1);
    assert_eq!(first, random("1"), "the same is the same again");
    assert_ne!(first, random("2"), "another task is another one");
}

#[test]
fn a_component_that_sleeps_or_calls_while_it_panics_is_ended() {
    let mut farm = Farm::new();
    farm.config = LIMITS.to_owned();
    farm.serve();
    let said = |act: &str| told(&farm, "1", act, "failed").join("\n");
    assert!(said("sleep").contains("its limit of 1.5 s without progress"), "{}", said("sleep"));
    let said = said("panic_with_calls");
    assert!(said.contains("about to panic") && said.contains("wasm `unreachable` instruction"), "{said}");
}

#[test]
fn compile_bombs_are_stopped_whatever_they_are_made_of() {
    let mut farm = Farm::new();
    farm.config = "[releases]\ncompile_cpu_seconds = 1\n".to_owned();
    farm.serve();
    let many: String = (0..100_000)
        .map(|n| format!("(func (param i32) (result i32) (i32.mul (local.get 0) (i32.const {n})))"))
        .collect();
    let long: String = (0..300_000)
        .map(|n| format!("(local.set 0 (i32.xor (local.get 0) (i32.mul (local.get 1) (i32.const {n}))))"))
        .collect();
    let long = format!("(func (param i32 i32) (result i32) {long} (local.get 0))");
    let locals = "(local i64)".repeat(500);
    let branches: String = (0..30_000)
        .map(|n| {
            format!(
                "(if (i32.eq (local.get 0) (i32.const {n})) (then (local.set {} (i64.const {n}))))",
                1 + n % 500
            )
        })
        .collect();
    let branches = format!("(func (param i32) {locals} {branches})");
    for (name, bomb) in [("many", many), ("long", long), ("branches", branches)] {
        let path = farm.path(&format!("{name}.wasm"));
        let text = format!("{bomb}\n(func $begin) (start $begin)");
        let hostile = Hostile { name: name.to_owned(), end: String::new(), words: String::new(), text };
        fs::write(&path, hostile.component()).unwrap();
        let began = std::time::Instant::now();
        let (end, said) = farm.suffers(&path);
        assert_eq!(end, "refused", "{name}: {said}");
        assert!(said.contains("its limit of 1 s of processor time to be compiled"), "{name}: {said}");
        assert!(began.elapsed() < Duration::from_secs(20), "{name}");
    }
    let job = farm.submit("1-3");
    farm.wait_for(&job, "succeeded");
}

#[test]
fn every_crash_leaves_a_report_and_only_so_many_are_kept() {
    let mut farm = Farm::new();
    farm.config = format!("{LIMITS}[keep]\ncrashes = 4\n");
    farm.serve();
    let list = || -> Vec<serde_json::Value> {
        let listed = farm.run(&["crash", "list", "--json"]).expect(0).stdout;
        serde_json::from_str::<serde_json::Value>(&listed).unwrap()["crashes"].as_array().unwrap().clone()
    };
    assert_eq!(farm.run(&["crash", "list"]).expect(0).stdout, "nothing has crashed\n");
    let (_, said) = farm.suffers(&placed(&farm, "handle_dropped_twice"));
    let id = said.lines().find_map(|line| line.strip_prefix("the report: hotshoe crash show ")).unwrap();
    let shown = farm.run(&["crash", "show", id]).expect(0).stdout;
    for part in [
        "the plugin broke the contract: unknown handle index 1",
        "handle-dropped-twice@",
        "task      hostile, attempt 1",
        "  image.create\n",
        "  image.drop\n",
        "scene.blend",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(list().len(), 3);
    assert_eq!(farm.suffers(&placed(&farm, "traps_at_start")).0, "refused");
    farm.suffers(&placed(&farm, "memory_bomb"));
    let kinds: Vec<_> = list().iter().map(|report| report["kind"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["limit", "limit", "limit", "trap"]);
    farm.run(&["crash", "show", "ffff"])
        .expect(2)
        .tells(&["there is no report 'ffff'", "hotshoe crash list"]);
    farm.run(&["crash", "show", "0"]).expect(2).tells(&["several reports begin with '0'"]);
}
