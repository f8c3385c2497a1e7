//! Files that come, change and go in the folder of plugins, while it is being served from.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::changeling::{AT_ONCE, release};
use crate::farm::Farm;
use crate::harness::{component, root, with_package};

/// The versions that the changeling has come to, one after another.
fn swaps(farm: &Farm) -> Vec<String> {
    let told = farm.told("release_state").into_iter();
    let active = told.filter(|event| event["id"] == "changeling" && event["state"] == "active");
    active.map(|event| event["version"].as_str().unwrap().to_owned()).collect()
}

/// Longer than what is written in place has to be quiet.
fn pause() {
    std::thread::sleep(Duration::from_millis(1500));
}

#[test]
fn every_way_to_replace_a_file_is_one_swap() {
    let farm = Farm::serving(AT_ONCE);
    let place = farm.plugins().join("changeling.wasm");
    let (a, b) = (release("1.0.0", "a well 0"), release("1.0.1", "b well 0"));
    let mut expected = vec!["1.0.0".to_owned()];
    let mut check = |version: &str, what: &str| {
        farm.until(version, "active");
        pause();
        if expected.last().unwrap() != version {
            expected.push(version.to_owned());
        }
        assert_eq!(swaps(&farm), expected, "{what}");
        assert_eq!(farm.render("1")["release"]["version"], version, "{what}");
    };
    farm.put("changeling.wasm", &b);
    check("1.0.1", "moved over it");
    let mut writing = File::create(&place).unwrap();
    for chunk in a.chunks(a.len() / 10 + 1) {
        writing.write_all(chunk).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(writing);
    check("1.0.0", "written in place, slowly");
    fs::copy(&place, farm.path("kept")).unwrap();
    fs::write(&place, &b).unwrap();
    check("1.0.1", "written in place, at once");
    // As editors do.
    fs::rename(&place, farm.plugins().join("changeling.wasm~")).unwrap();
    fs::write(&place, &a).unwrap();
    fs::remove_file(farm.plugins().join("changeling.wasm~")).unwrap();
    check("1.0.0", "moved aside and written anew");
    File::open(&place).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    check("1.0.0", "touched");
    fs::write(&place, &a).unwrap();
    check("1.0.0", "the same once more");
    let elsewhere = farm.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("b.wasm"), &b).unwrap();
    fs::write(elsewhere.join("a.wasm"), &a).unwrap();
    let flip = |to: &str| {
        symlink(elsewhere.join(to), farm.path("link")).unwrap();
        fs::rename(farm.path("link"), &place).unwrap();
    };
    flip("b.wasm");
    check("1.0.1", "a link");
    flip("a.wasm");
    check("1.0.0", "the link flipped");
    fs::rename(&place, farm.plugins().join("other-name.wasm")).unwrap();
    check("1.0.0", "renamed");
    let refused = farm.run(&["plugin", "remove", "changeling@=1.0.1"]).expect(2);
    assert!(refused.stderr.contains("installed are: changeling@=1.0.0;"), "{}", refused.stderr);
}

#[test]
fn what_is_removed_serves_those_that_run_on_it_and_nobody_else() {
    let farm = Farm::serving(&format!("{AT_ONCE}[releases]\nvanish_seconds = 0.2\n"));
    let job = farm.submit_to("changeling", "1-160", json!({"settings": {"pace": 50}}));
    fs::remove_file(farm.plugins().join("changeling.wasm")).unwrap();
    farm.until("1.0.0", "draining");
    let mut more = farm.job("1");
    more["renderer"] = json!("changeling");
    let refused = farm.client().try_call("jobs.submit", more).unwrap().unwrap_err();
    assert!(refused["message"].as_str().unwrap().contains("changeling 1.0.0 was removed"), "{refused}");
    let id = job["id"].as_str().unwrap();
    let why = farm.run(&["plugin", "why", "changeling@=1.0.0"]).expect(0);
    assert!(why.stdout.contains(id) && why.stdout.contains("its file is gone"), "{}", why.stdout);
    // Its host may even come anew.
    farm.client().call("jobs.pause", json!({"id": id}));
    let mut farm = farm;
    farm.signal(nix::sys::signal::Signal::SIGKILL);
    farm.serve();
    farm.client().call("jobs.resume", json!({"id": id}));
    farm.wait_for(id, "succeeded");
    farm.until("1.0.0", "retired");
    farm.put("changeling.wasm", &release("1.0.0", "a well 0"));
    farm.until("1.0.0", "active");
    farm.render("1");
}

#[test]
fn what_is_there_twice_is_one_release() {
    let farm = Farm::serving(AT_ONCE);
    let place = farm.plugins().join("changeling.wasm");
    let count = || fs::read_dir(farm.plugins()).unwrap().count();
    fs::copy(&place, farm.path("elsewhere.wasm")).unwrap();
    let told = farm.run(&["plugin", "install", farm.path("elsewhere.wasm").to_str().unwrap()]).expect(0);
    assert!(told.stdout.contains(place.to_str().unwrap()), "{}", told.stdout);
    assert_eq!(count(), 1, "it was there");
    fs::copy(&place, farm.plugins().join("again.wasm")).unwrap();
    farm.run(&["plugin", "remove", "changeling"]).expect(0);
    assert_eq!(count(), 0);
    farm.until("1.0.0", "retired");
}

#[test]
fn a_folder_that_disappears_takes_nothing_away() {
    let farm = Farm::serving(AT_ONCE);
    fs::rename(farm.plugins(), farm.path("gone")).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    farm.render("1");
    fs::create_dir(farm.plugins()).unwrap();
    farm.put("changeling.wasm", &release("1.0.0", "a well 0"));
    farm.put("changeling-new.wasm", &release("1.0.1", "b well 0"));
    farm.until("1.0.1", "active");
    farm.render("1");
}

#[test]
fn what_is_deleted_and_created_anew_serves_all_the_time() {
    let farm = Farm::serving("[rollout]\nfirst = 1\nshare = 0.0\ntasks = 1000\n");
    let place = farm.plugins().join("changeling.wasm");
    fs::remove_file(&place).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    farm.render("1");
    // What comes cannot be used.
    fs::write(&place, "no component").unwrap();
    pause();
    farm.render("1");
    // What comes next is a canary that fails.
    fs::remove_file(&place).unwrap();
    pause();
    farm.put("changeling.wasm", &release("1.0.1", "b fails 1"));
    farm.until("1.0.1", "canary");
    assert_eq!(farm.render("1")["release"]["version"], "1.0.0");
    farm.until("1.0.1", "quarantined");
    assert_eq!(farm.render("1")["release"]["version"], "1.0.0");
    // To remove it by name is an order.
    let told = farm.run(&["plugin", "promote", "changeling"]).expect(0);
    assert!(told.stdout.contains("promoted changeling 1.0.1"), "{}", told.stdout);
    farm.run(&["plugin", "remove", "changeling"]).expect(0);
    let mut job = farm.job("1");
    job["renderer"] = json!("changeling@=1.0.1");
    farm.client().try_call("jobs.submit", job).unwrap().unwrap_err();
    let refused = farm.run(&["plugin", "remove", "nothing"]).expect(2);
    assert!(refused.stderr.contains("'nothing' is not installed"), "{}", refused.stderr);
}

#[test]
fn a_folder_that_is_deleted_serves_on() {
    let farm = Farm::serving(&format!("{AT_ONCE}[releases]\nvanish_seconds = 0.2\n"));
    fs::remove_dir_all(farm.plugins()).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    farm.render("1");
    farm.until("1.0.0", "active");
}

/// The folder of a plugin that is a process, in a folder of plugins.
fn process_in(plugins: &Path) -> PathBuf {
    let folder = plugins.join("draft");
    fs::create_dir(&folder).unwrap();
    for file in ["plugin.toml", "main.py"] {
        fs::copy(root().join("examples/draft-python").join(file), folder.join(file)).unwrap();
    }
    with_package(&folder);
    folder
}

#[test]
fn a_process_is_swapped_as_a_whole_folder() {
    let mut farm = Farm::with_plugins(AT_ONCE);
    let folder = process_in(&farm.plugins());
    farm.serve();
    let version = |farm: &Farm| {
        let job = farm.submit_to("draft", "1", json!({}));
        job["release"]["version"].as_str().unwrap().to_owned()
    };
    assert_eq!(version(&farm), "1.0.0");
    for file in ["main.py", "plugin.toml"] {
        let text = fs::read_to_string(folder.join(file)).unwrap();
        fs::write(folder.join(file), text.replace("1.0.0", "1.0.1")).unwrap();
    }
    let began = std::time::Instant::now();
    while version(&farm) != "1.0.1" {
        assert!(began.elapsed().as_secs() < 30, "{:#?}", farm.events());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_copy_that_is_damaged_is_made_anew() {
    let mut farm = Farm::with_plugins(AT_ONCE);
    process_in(&farm.plugins());
    farm.put("changeling.wasm", &release("1.0.0", "a well 0"));
    farm.serve();
    let done = |farm: &Farm, renderer: &str| {
        let job = farm.submit_to(renderer, "1", json!({}));
        let job = farm.wait_for(job["id"].as_str().unwrap(), "succeeded");
        job["release"]["digest"].as_str().unwrap().to_owned()
    };
    let [component, process] = ["changeling", "draft"].map(|renderer| done(&farm, renderer));
    farm.signal(nix::sys::signal::Signal::SIGTERM);
    let copy = |digest: &str, file: &str| farm.path("data/releases").join(digest).join(file);
    let copies = [copy(&component, "component.wasm"), copy(&process, "plugin/main.py")];
    for file in &copies {
        fs::write(file, "cut off").unwrap();
    }
    farm.serve();
    assert_eq!(["changeling", "draft"].map(|renderer| done(&farm, renderer)), [component, process]);
    assert_eq!(farm.log().matches("is damaged; it is copied anew").count(), 2, "{}", farm.log());
    copies.iter().for_each(|file| assert!(fs::metadata(file).unwrap().len() > 100));
}

#[test]
fn five_hundred_files_at_once_are_all_taken() {
    let mut farm = Farm::with_plugins(AT_ONCE);
    farm.serve();
    let aside = farm.path("many");
    fs::create_dir(&aside).unwrap();
    let count = if std::env::var_os("HOTSHOE_TEST_FULL").is_some() { 500 } else { 60 };
    for n in 0..count {
        let name = format!("changeling-{n}.wasm");
        fs::write(aside.join(&name), release(&format!("1.0.{n}"), "a well 0")).unwrap();
        fs::rename(aside.join(&name), farm.plugins().join(name)).unwrap();
    }
    let began = std::time::Instant::now();
    while farm.releases().len() < count {
        assert!(began.elapsed().as_secs() < 300, "{} of {count}", farm.releases().len());
        std::thread::sleep(Duration::from_millis(100));
    }
    farm.until(&format!("1.0.{}", count - 1), "active");
    assert_eq!(farm.render("1")["release"]["version"], format!("1.0.{}", count - 1));
}

/// Waits until a file is rejected, and returns why.
#[track_caller]
fn rejected(farm: &Farm, name: &str) -> String {
    let place = farm.plugins().join(name);
    let began = std::time::Instant::now();
    loop {
        let listed = farm.client().call("plugins.list", json!({}));
        let found = listed["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .find(|plugin| plugin["state"] == "rejected" && plugin["source"] == place.to_str().unwrap());
        if let Some(found) = found {
            return found["why"].as_str().unwrap().to_owned();
        }
        assert!(began.elapsed().as_secs() < 60, "{name} is not rejected: {listed:#}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A component with many functions: it takes long to compile.
fn bomb() -> Vec<u8> {
    let mut text = "(component (core module (memory 1)".to_owned();
    for n in 0..60_000 {
        text += &format!(
            "(func (export \"{n}\") (param i32) (result i32) (i32.add (i32.mul (local.get 0) (i32.const {n})) (i32.load (local.get 0))))"
        );
    }
    text += "))";
    wat(&text)
}

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

#[test]
fn what_is_bad_touches_nothing_and_says_why() {
    let limits = "[releases]\ncompile_seconds = 20.0\ncompile_cpu_seconds = 1\n";
    let farm = Farm::serving(&format!("{AT_ONCE}{limits}"));
    let good = release("1.0.1", "b well 0");
    let module = wat("(module)");
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "it is empty"),
        ("no-wasm", b"#!/bin/sh\n".to_vec(), "it is no WebAssembly, whatever it is called"),
        ("truncated", good[..good.len() / 2].to_vec(), "it is no valid component"),
        ("garbage", [b"\0asm\x0d\0\x01\0".as_slice(), &[0xff; 100]].concat(), "it is no valid component"),
        ("module", module, "it is no valid component"),
        ("other-world", wat("(component)"), "it is no renderer plugin"),
        ("traps", release("1.0.2", "b traps 0"), "the plugin panicked: no word of it"),
        ("loops", release("1.0.3", "b loops 0"), "its limit of"),
        ("fat", release("1.0.4", "b fat 0"), "the plugin"),
        ("schema", release("1.0.5", "b schema 0"), "schema"),
        (
            "same-version",
            release("1.0.0", "other well 0"),
            "give it another version, or try builds in a host with --dev",
        ),
        ("bomb", bomb(), "to be compiled"),
    ];
    for (name, bytes, _) in &cases {
        farm.put(&format!("{name}.wasm"), bytes);
    }
    let job = farm.submit_to("changeling", "1-20", json!({"settings": {"pace": 20}}));
    let large = File::create(farm.path("large")).unwrap();
    large.set_len(1 << 30).unwrap();
    // As long as somebody may write it, it is not looked at.
    drop(large);
    fs::rename(farm.path("large"), farm.plugins().join("large.wasm")).unwrap();
    nix::unistd::mkfifo(&farm.plugins().join("pipe.wasm"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("/dev/zero", farm.plugins().join("zero.wasm")).unwrap();
    symlink("/nowhere", farm.plugins().join("dangling.wasm")).unwrap();
    fs::create_dir(farm.plugins().join("folder")).unwrap();
    for (name, _, part) in &cases {
        let why = rejected(&farm, &format!("{name}.wasm"));
        assert!(why.contains(part), "{name}: {why}");
    }
    for (name, part) in [
        ("large.wasm", "it has more than"),
        ("pipe.wasm", "it is a pipe and no file"),
        ("zero.wasm", "it is no file"),
        ("dangling.wasm", "No such file"),
        ("folder", "plugin.toml"),
    ] {
        let why = rejected(&farm, name);
        assert!(why.contains(part), "{name}: {why}");
    }
    farm.wait_for(job["id"].as_str().unwrap(), "succeeded");
    assert_eq!(swaps(&farm), ["1.0.0"]);
    let told = farm.told("release_state");
    assert!(told.iter().any(|event| event["state"] == "rejected" && event["id"] == "no-wasm"));
    let listed = farm.run(&["plugin", "list"]).expect(0);
    assert!(listed.stdout.contains("rejected") && listed.stdout.contains("active"), "{}", listed.stdout);
    let removed = farm.run(&["plugin", "remove", "changeling@=1.0.5"]).expect(0);
    assert!(removed.stdout.contains("removed changeling"), "{}", removed.stdout);
    assert!(!farm.plugins().join("schema.wasm").exists());
    // What is mended is taken.
    farm.put("truncated.wasm", &good);
    farm.until("1.0.1", "active");
}

#[test]
fn names_and_versions_that_are_none_are_refused() {
    let farm = Farm::serving(AT_ONCE);
    let named = |name: &str, version: &str| {
        let mut metadata = wasm_metadata::AddMetadata::default();
        metadata.name = wasm_metadata::AddMetadataField::Set(name.to_owned());
        metadata.version =
            wasm_metadata::AddMetadataField::Set(wasm_metadata::Version::new(version.to_owned()));
        metadata.to_wasm(&release("1.0.9", "b well 0")).unwrap()
    };
    farm.put("a.wasm", &named("../escape", "1.0.0"));
    farm.put("b.wasm", &named("changeling", "one point two"));
    farm.put("c.wasm", &named("direct", "9.0.0"));
    assert!(rejected(&farm, "a.wasm").contains("a plugin name is"));
    assert!(rejected(&farm, "b.wasm").contains("its version 'one point two' is not a semantic version"));
    assert!(rejected(&farm, "c.wasm").contains("comes with Hotshoe"));
}

#[test]
fn an_api_from_the_future_is_named() {
    let farm = Farm::serving(AT_ONCE);
    let text = r#"(component (component $c) (instance $i (instantiate $c))
        (export "hotshoe:plugin/renderer@9.9.0" (instance $i)))"#;
    farm.put("future.wasm", &wat(text));
    let why = rejected(&farm, "future.wasm");
    assert!(why.contains("it is built for API 9.9.0, this host serves API 0.1.0"), "{why}");
}

/// The contract only grows within a minor version: who is built with more of it than the host
/// has is served, as long as it uses none of that.
#[test]
fn a_newer_minor_api_is_served_if_it_uses_nothing_new() {
    let farm = Farm::serving(AT_ONCE);
    let built_with = |bytes: Vec<u8>| replaced(bytes, "@0.1.0", "@0.1.7");
    farm.put("changeling.wasm", &built_with(release("1.0.1", "b well 0")));
    farm.until("1.0.1", "active");
    assert_eq!(farm.render("1-3")["release"]["version"], "1.0.1");
    farm.put("newer.wasm", &replaced(built_with(release("1.0.2", "c well 0")), "wait-any", "wait-all"));
    let why = rejected(&farm, "newer.wasm");
    assert!(why.contains("it is built for API 0.1.7, this host serves API 0.1.0: "), "{why}");
    assert!(why.contains("wait-all"), "{why}");
    assert_eq!(farm.render("1")["release"]["version"], "1.0.1");
}

/// Puts another word in the place of each one in some bytes.
fn replaced(mut bytes: Vec<u8>, word: &str, other: &str) -> Vec<u8> {
    assert_eq!(word.len(), other.len());
    let places: Vec<usize> =
        (0..bytes.len() - word.len()).filter(|at| bytes[*at..].starts_with(word.as_bytes())).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + word.len()].copy_from_slice(other.as_bytes());
    }
    bytes
}

#[test]
fn who_wants_more_is_held_until_the_operator_agrees() {
    let farm = Farm::serving("");
    // The same name, and it wants a scene.
    let built = component(&["--release", "--manifest-path", "examples/draft/Cargo.toml"]);
    let mut metadata = wasm_metadata::AddMetadata::default();
    metadata.name = wasm_metadata::AddMetadataField::Set("changeling".to_owned());
    metadata.version = wasm_metadata::AddMetadataField::Set(wasm_metadata::Version::new("1.1.0".to_owned()));
    let greedy = metadata.to_wasm(&fs::read(built.join("release/draft.wasm")).unwrap()).unwrap();
    farm.put("greedy.wasm", &greedy);
    let held = farm.until("1.1.0", "held");
    let why = held["why"].as_str().unwrap();
    assert!(why.contains("it asks for gpu, which changeling 1.0.0 does not use"), "{why}");
    assert!(why.contains("`hotshoe plugin approve changeling@=1.1.0`"), "{why}");
    assert_eq!(farm.render("1")["release"]["version"], "1.0.0");
    farm.run(&["plugin", "approve", "changeling@=1.1.0"]).expect(0);
    farm.until("1.1.0", "canary");
    let refused = farm.run(&["plugin", "approve", "changeling@=1.1.0"]).expect(2);
    assert!(refused.stderr.contains("changeling 1.1.0 is canary, not held"), "{}", refused.stderr);
}

#[test]
fn open_jobs_are_asked_whether_a_release_takes_their_settings() {
    let farm = Farm::serving(AT_ONCE);
    let job = farm.submit_to("changeling", "1-5000", json!({"settings": {"pace": 50}}));
    farm.put("demands.wasm", &release("1.0.1", "b demands 0"));
    let why = rejected(&farm, "demands.wasm");
    assert!(why.contains("its settings do not fit the new schema") && why.contains("more"), "{why}");
    // Nobody on 1.0 would move to it by itself.
    farm.put("demands.wasm", &release("1.1.0", "b demands 0"));
    farm.until("1.1.0", "active");
    farm.client().call("jobs.cancel", json!({"id": job["id"]}));
}

#[test]
fn a_host_for_authors_takes_builds() {
    let mut farm = Farm::with_plugins("");
    farm.dev = true;
    farm.put("changeling.wasm", &release("1.2.0", "a well 0"));
    farm.serve();
    farm.until("1.2.0", "active");
    let job = farm.submit_to("changeling", "1-5000", json!({"settings": {"pace": 50}}));
    for tag in ["b", "c", "d"] {
        farm.put("changeling.wasm", &release("1.2.0", &format!("{tag} well 0")));
        let began = std::time::Instant::now();
        while !farm.tags(job["id"].as_str().unwrap()).contains(&tag.to_owned()) {
            assert!(began.elapsed().as_secs() < 30, "{:#?}", farm.releases());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let builds: Vec<Value> = farm.releases().iter().map(|release| release["build"].clone()).collect();
    assert_eq!(builds, [3, 2, 1, 0]);
    let listed = farm.run(&["plugin", "list", "--all"]).expect(0);
    assert!(listed.stdout.contains("1.2.0+dev.3"), "{}", listed.stdout);
    farm.client().call("jobs.cancel", json!({"id": job["id"]}));
}

#[test]
fn a_lockfile_makes_a_render_repeatable() {
    let farm = Farm::serving(AT_ONCE);
    let job = farm.job("1");
    let scene = job["scene"].as_str().unwrap();
    let submit = |more: &[&str]| {
        let out = farm.path("out");
        let given = ["submit", scene, "--frames", "1", "--renderer", "changeling", "--json", "--out"];
        let args: Vec<&str> =
            given.into_iter().chain([out.to_str().unwrap()]).chain(more.iter().copied()).collect();
        farm.run(&args)
    };
    let version = |more: &[&str]| {
        let job: Value = serde_json::from_str(&submit(more).expect(0).stdout).unwrap();
        job["release"]["version"].as_str().unwrap().to_owned()
    };
    assert_eq!(version(&["--lock"]), "1.0.0");
    let lock = Path::new(scene).with_file_name("hotshoe.lock");
    assert!(fs::read_to_string(&lock).unwrap().contains("version = \"1.0.0\""));
    farm.put("changeling.wasm", &release("1.0.1", "b well 0"));
    farm.until("1.0.1", "active");
    let told = submit(&[]).expect(0).stderr;
    assert!(told.contains("changeling 1.0.0, as ") && told.contains("hotshoe.lock says"), "{told}");
    assert_eq!(version(&[]), "1.0.0");
    assert_eq!(version(&["--no-lock"]), "1.0.1");
    let refused = submit(&["--renderer", "changeling@^1.0.1"]);
    assert!(refused.code == Some(2));
    fs::write(&lock, "renderer = 7").unwrap();
    let refused = submit(&[]).expect(2);
    assert!(refused.stderr.contains("mend it, or ignore it with --no-lock"), "{}", refused.stderr);
}

#[test]
fn each_limit_of_compiling_is_told_by_its_name() {
    for (limits, part) in [
        ("compile_seconds = 0.2\n", "its limit of 0.2 s to be compiled"),
        ("compile_memory_mib = 128\n", "its limit of 128 MiB of memory to be compiled"),
    ] {
        let mut farm = Farm::with_plugins(&format!("[releases]\n{limits}"));
        farm.put("bomb.wasm", &bomb());
        farm.serve();
        let why = rejected(&farm, "bomb.wasm");
        assert!(why.contains(part), "{limits}: {why}");
    }
}

#[test]
fn what_is_removed_does_not_come_back_with_another_and_a_copy_takes_nothing_away() {
    use std::os::unix::ffi::OsStrExt;
    let farm = Farm::serving(&format!("{AT_ONCE}[releases]\nvanish_seconds = 0.2\n"));
    farm.put("changeling.wasm", &release("2.0.0", "b well 0"));
    farm.until("2.0.0", "active");
    fs::remove_file(farm.plugins().join("changeling.wasm")).unwrap();
    farm.until("2.0.0", "retired");
    farm.put("changeling.wasm", &release("1.0.0", "a well 0"));
    farm.until("1.0.0", "active");
    pause();
    assert_eq!(farm.render("1")["release"]["version"], "1.0.0");
    // A copy of it comes and goes.
    fs::copy(farm.plugins().join("changeling.wasm"), farm.plugins().join("copy.wasm")).unwrap();
    pause();
    fs::remove_file(farm.plugins().join("copy.wasm")).unwrap();
    pause();
    assert_eq!(farm.render("1")["release"]["version"], "1.0.0");
    // A name that is no text comes and goes, and what is shipped stays.
    let odd = farm.plugins().join(std::ffi::OsStr::from_bytes(b"odd\xff.wasm"));
    fs::write(&odd, release("3.0.0", "c well 0")).unwrap();
    pause();
    fs::remove_file(&odd).unwrap();
    pause();
    let job = farm.submit_to("direct", "1", json!({}));
    farm.wait_for(job["id"].as_str().unwrap(), "succeeded");
}
