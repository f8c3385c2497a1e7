//! Plugins that misbehave: contained, named, and nothing of them is left.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::farm::Farm;
use crate::harness::{below, is_alive, root};

/// A host with small limits.
fn farm() -> Farm {
    let mut farm = Farm::new();
    farm.workers = 2;
    farm.config = "[jobs]\nbackoff_seconds = 0.01\n[limits]\nhandles = 50\nidle_seconds = 6.0\n\
                   log_lines_per_second = 200\ncalls_per_second = 1000\n[processes]\nmemory_mib = 200\nwork_mib = 8\n\
                   count = 20\nhello_seconds = 1.0\nsilent_seconds = 2.0\ncpu_seconds = 30.0\nfailures = 100\n"
        .to_owned();
    farm
}

/// The folder of a villain.
fn villain(farm: &Farm, act: &str, more: &str) -> PathBuf {
    let folder = farm.path(&format!("villain-{act}"));
    fs::create_dir_all(&folder).unwrap();
    fs::copy(root().join("tests/fixtures/villain/main.py"), folder.join("main.py")).unwrap();
    let manifest = format!(
        "name = \"villain\"\nversion = \"1.0.0\"\napi = \"0.1.0\"\n\
         command = [\"python3\", \"main.py\", {act:?}, {:?}]\ncapabilities = [\"blender\", \"image\"]\n{more}",
        farm.socket()
    );
    fs::write(folder.join("plugin.toml"), manifest).unwrap();
    folder
}

fn submit(farm: &Farm, renderer: &Path) -> Result<String, String> {
    let mut job = farm.job("1");
    job["renderer"] = json!(renderer);
    let submitted = farm.client().try_call("jobs.submit", job).unwrap();
    submitted
        .map(|job| job["id"].as_str().unwrap().to_owned())
        .map_err(|error| error["message"].as_str().unwrap().to_owned())
}

/// Waits until no process of a villain is left.
fn nobody_is_left(farm: &Farm) {
    let began = Instant::now();
    let villains = || -> Vec<i32> {
        let is_one = |pid: &i32| {
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.contains("main.py") && is_alive(pid)
        };
        below(farm.pid().as_raw()).into_iter().filter(is_one).collect()
    };
    while !villains().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", villains());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn every_misbehaviour_is_contained_and_named() {
    let mut farm = farm();
    farm.serve();
    let cases = [
        ("exits_at_start", "refused", "process exited with code 1\n  | no licence"),
        ("hangs_in_hello", "refused", "did not answer hello in 1 s"),
        ("garbage_in_hello", "refused", "its answer to hello does not fit"),
        ("other_protocol", "refused", "it speaks protocol 2, this host 1"),
        ("lies_about_its_name", "refused", "it says that it is somebody-else@1.0.0"),
        ("lies_about_its_version", "refused", "it says that it is villain@9.9.9"),
        ("garbage_after_hello", "refused", "broke the protocol: this is no JSON"),
        ("slow_describe", "refused", "showed no sign of life for 2 s"),
        ("bad_schema", "refused", "its settings schema is no JSON"),
        ("garbage", "failed", "broke the protocol: this is no JSON"),
        ("out_of_turn", "failed", "broke the protocol: an answer that nobody waits for"),
        ("wrong_shape", "failed", "its answer to renderer.render does not fit"),
        ("long_line", "failed", "broke the protocol: a message is too long"),
        ("never_reads", "failed", "showed no sign of life for 2 s"),
        ("floods", "failed", "did not read for 2 s"),
        ("floods_notifications", "failed", "sent the notification 'host.log'"),
        ("floods_the_log", "failed", "its limit of 200 lines of log a second (limits.log_lines_per_second)"),
        ("asks_for_ever", "failed", "its limit of 1000 calls of the host a second (limits.calls_per_second)"),
        ("sleeps", "failed", "its limit of 6 s without progress (limits.idle_seconds)"),
        ("hoards_buffers", "failed", "no more buffers"),
        ("refills_buffers", "failed", "its limit of 200 MiB of memory"),
        ("leaves_nameless_files", "failed", "its limit of 8 MiB in its work folder"),
        ("too_large_a_file", "failed", "its limit of 8 MiB in its work folder (processes.work_mib)"),
        ("ends_its_first_thread", "failed", "it hides behind a first thread that has ended"),
        ("maps_nameless_files", "failed", "it hides a file that it has mapped"),
        ("asks_too_late", "failed", "times a second for attempts that are over"),
        ("says_that_the_disk_is_full", "failed", "says again and again that the disk is full"),
        ("hides", "succeeded", ""),
        ("stops", "failed", "showed no sign of life for 2 s"),
        ("dies", "failed", "was ended by SIGSEGV"),
        ("exits", "failed", "exited with code 1\n  | that was it"),
        ("half_closes", "failed", "closed its connection"),
        ("closes", "failed", "closed its connection"),
        ("fork_bomb", "failed", "its limit of 20 processes"),
        ("fills_its_folder", "failed", "its limit of 8 MiB in its work folder"),
        ("many_files", "failed", "its work folder: it has more than 10000 files"),
        ("eats_memory", "failed", "its limit of 200 MiB of memory (processes.memory_mib)"),
        ("eats_memory_by_children", "failed", "its limit of 200 MiB of memory"),
        ("escapes", "failed", "exited with code 7\n  | \u{fffd}[31mred\u{fffd}"),
        ("deep_folder", "failed", "its limit of what can be looked at of its work folder"),
        ("answers_twice", "succeeded", ""),
        ("floods_output", "succeeded", ""),
        ("ignores_term", "succeeded", ""),
        ("forks_and_detaches", "succeeded", ""),
        ("breaks_out", "succeeded", ""),
    ];
    std::thread::scope(|scope| {
        for part in cases.chunks(cases.len().div_ceil(3)) {
            let farm = &farm;
            scope.spawn(move || {
                for (act, state, words) in part {
                    let (ended, said) = farm.suffers(&villain(farm, act, ""));
                    assert_eq!(ended, *state, "{act}: {said}");
                    assert!(said.contains(words), "{act}: '{words}' is not in: {said}");
                }
            });
        }
    });
    let id = farm.submit("1-3");
    farm.wait_for(&id, "succeeded");
    nobody_is_left(&farm);
}

#[test]
fn the_kernel_counts_the_processes_of_a_plugin() {
    let kernel = nix::sys::utsname::uname().unwrap();
    let version = kernel.release().to_str().unwrap();
    let mut numbers = version.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    if nix::unistd::Uid::current().is_root() && (numbers.next(), numbers.next()) < (Some(6), Some(14)) {
        return eprintln!("Linux {version} does not count those of root");
    }
    let mut farm = farm();
    // What the host itself sees now and then is no limit here.
    farm.config =
        farm.config.replace("count = 20", "count = 10000").replace("memory_mib = 200", "memory_mib = 20000");
    farm.serve();
    let (ended, said) = farm.suffers(&villain(&farm, "forks_until_refused", ""));
    assert_eq!(ended, "failed");
    let count = said.split_once("refused after ").and_then(|(_, rest)| rest.split_once(':'));
    let count: u32 = count.unwrap_or_else(|| panic!("{said}")).0.parse().unwrap();
    assert!((200..=812).contains(&count), "{said}");
    nobody_is_left(&farm);
}

#[test]
fn numbers_of_other_attempts_and_of_what_is_gone_are_refused() {
    let mut farm = farm();
    farm.serve();
    // One process serves both jobs, and remembers the first one's numbers.
    let folder = villain(&farm, "handles", "tasks = 1\n");
    for _ in 0..2 {
        let (state, said) = farm.suffers(&folder);
        assert_eq!(state, "succeeded", "{said}\n{}", farm.log());
    }
}

#[test]
fn a_process_that_has_served_its_time_is_replaced_and_no_task_is_lost() {
    let processes = |act: &str, config: &str| {
        let mut farm = farm();
        farm.workers = 1;
        farm.config += config;
        farm.serve();
        let mut job = farm.job("1-6");
        job["renderer"] = json!(villain(&farm, act, "tasks = 1\n"));
        let id = farm.client().call("jobs.submit", job)["id"].as_str().unwrap().to_owned();
        farm.wait_for(&id, "succeeded");
        let told = farm.events().into_iter();
        let failed: Vec<_> = told.clone().filter(|event| event["error"].is_object()).collect();
        assert!(failed.is_empty(), "{failed:?}");
        let told = told.filter_map(|event| event["message"].as_str().map(str::to_owned));
        let mut processes: Vec<String> = told.filter(|message| message.starts_with("process ")).collect();
        assert_eq!(processes.len(), 6);
        processes.dedup();
        nobody_is_left(&farm);
        processes.len()
    };
    assert_eq!(processes("serves", ""), 1);
    assert_eq!(processes("serves", "replace_after_tasks = 2\n"), 3);
    assert!(processes("grows", "replace_after_growth_mib = 60\n") >= 2);
}

#[test]
fn a_process_that_works_on_when_it_has_nothing_to_do_is_ended() {
    let mut farm = farm();
    farm.config = farm.config.replace("cpu_seconds = 30.0", "cpu_seconds = 1.0");
    farm.serve();
    let folder = villain(&farm, "works_on", "tasks = 1\n");
    for _ in 0..2 {
        assert_eq!(farm.suffers(&folder).0, "succeeded");
        nobody_is_left(&farm);
    }
    // Nor does it help to let children do it that nobody waits for.
    let (state, said) = farm.suffers(&villain(&farm, "burns_in_children", ""));
    assert!(state == "failed" && said.contains("(processes.cpu_seconds)"), "{said}");
}

#[test]
fn what_fails_again_and_again_is_quarantined() {
    let mut farm = farm();
    farm.config = farm.config.replace("failures = 100", "failures = 4");
    farm.serve();
    let folder = villain(&farm, "dies", "");
    assert_eq!(farm.suffers(&folder).0, "failed");
    let (state, said) = farm.suffers(&folder);
    assert_eq!(state, "failed");
    assert!(said.contains("the plugin is quarantined: its processes failed 4 times, last: "), "{said}");
    assert!(submit(&farm, &folder).unwrap_err().contains("is quarantined"), "{}", farm.log());
}

#[test]
fn needs_beside_the_contract_are_granted_by_the_operator() {
    let mut farm = farm();
    farm.serve();
    let needs = "[process]\nnetwork = true\nread = [\"/opt\"]\ndevices = [\"/dev/fuse\"]\n";
    let folder = villain(&farm, "well", needs);
    let refused = submit(&farm, &folder).unwrap_err();
    let wanted = "[plugin.villain]\ndevices = [\"/dev/fuse\"]\nread = [\"/opt\"]\nnetwork = true";
    assert!(refused.contains(wanted), "{refused}");
    farm.signal(Signal::SIGTERM);
    farm.config += wanted;
    farm.serve();
    assert_eq!(farm.suffers(&folder).0, "succeeded");
}

#[test]
fn a_command_that_cannot_be_run_is_refused_at_once() {
    let mut farm = farm();
    farm.serve();
    let folder = villain(&farm, "well", "");
    let manifest = fs::read_to_string(folder.join("plugin.toml")).unwrap();
    let check = |command: &str, words: &str| {
        fs::write(folder.join("plugin.toml"), manifest.replace("\"python3\"", command)).unwrap();
        let refused = submit(&farm, &folder).unwrap_err();
        assert!(refused.contains(words), "{refused}");
    };
    check("\"python9\"", "there is no command 'python9'");
    check("\"./nothing\"", "/plugin/./nothing: No such file or directory");
    check("\"./main.py\"", "/plugin/./main.py is not executable");
    check("\"/bin/sh\", \"-c\", \"exec /bin/nothing\"", "nothing: not found");
}

#[test]
fn a_killed_host_leaves_nothing_of_its_plugins() {
    let rounds = if std::env::var_os("HOTSHOE_TEST_FULL").is_some() { 100 } else { 5 };
    let shared = || -> Vec<PathBuf> {
        fs::read_dir("/dev/shm").unwrap().flatten().map(|entry| entry.path()).collect()
    };
    let before = shared();
    for round in 0..rounds {
        let mut farm = farm();
        farm.serve();
        let folder = villain(&farm, "forks_and_detaches", "tasks = 2\n");
        for _ in 0..2 {
            let _ = submit(&farm, &folder);
        }
        let began = Instant::now();
        std::thread::sleep(Duration::from_millis(20 + 13 * (round % 30)));
        let all = below(farm.pid().as_raw());
        farm.signal(Signal::SIGKILL);
        while all.iter().any(is_alive) {
            assert!(began.elapsed() < Duration::from_secs(20), "round {round}: {all:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        let own = farm.socket().display().to_string();
        let left = fs::read_dir("/proc").unwrap().flatten().filter(|process| {
            let command = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
            command.contains("forks_and_detaches\0") && command.contains(&own)
        });
        assert_eq!(left.count(), 0, "round {round}");
    }
    assert_eq!(shared(), before);
}

#[test]
fn installed_plugins_are_known_by_their_names() {
    let mut farm = farm();
    farm.serve();
    let folder = villain(&farm, "well", "");
    farm.run(&["plugin", "install", folder.to_str().unwrap()]).expect(0);
    let listed = farm.client().call("plugins.list", json!({}));
    let all = listed["plugins"].as_array().unwrap();
    let own = all.iter().find(|plugin| plugin["id"] == "villain").unwrap_or(&Value::Null);
    assert_eq!(own["state"], "active", "{listed:#}");
    assert_eq!(farm.suffers(Path::new("villain")).0, "succeeded");
    // Again; and with other files, which are another release.
    farm.run(&["plugin", "install", folder.to_str().unwrap()]).expect(0);
    fs::write(folder.join("more"), "x").unwrap();
    let refused = farm.run(&["plugin", "install", folder.to_str().unwrap()]).expect(2);
    assert!(refused.stderr.contains("give it another version"), "{refused:#?}");
    fs::write(folder.join("plugin.toml"), "name = 7").unwrap();
    let refused = farm.run(&["plugin", "install", folder.to_str().unwrap()]).expect(2);
    assert!(refused.stderr.contains("plugin.toml:1: "), "{refused:#?}");
    assert!(!farm.path("data/plugins/villain-1.0.0/more").exists());
}
