//! Which release a name stands for.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::changeling::AT_ONCE;
use crate::farm::Farm;
use crate::harness::{component, root, with_package};

/// A version of the renderer of the README.
fn draft(farm: &Farm, version: &str) -> PathBuf {
    let folder = farm.path(&format!("draft {version}"));
    fs::create_dir_all(&folder).unwrap();
    for file in ["plugin.toml", "main.py"] {
        let text = fs::read_to_string(root().join("examples/draft-python").join(file)).unwrap();
        assert!(text.contains("1.0.0"));
        fs::write(folder.join(file), text.replace("version = \"1.0.0\"", &format!("version = {version:?}")))
            .unwrap();
    }
    with_package(&folder);
    folder
}

/// The release that a job is pinned to, or why there is no job.
fn pinned(farm: &Farm, renderer: &str) -> Result<Value, String> {
    let mut job = farm.job("1");
    job["renderer"] = json!(renderer);
    let submitted = farm.client().try_call("jobs.submit", job).unwrap();
    submitted.map(|job| job["release"].clone()).map_err(|error| error["message"].as_str().unwrap().to_owned())
}

#[test]
fn versions_of_a_plugin_lie_side_by_side() {
    let mut farm = Farm::new();
    farm.config = AT_ONCE.to_owned();
    farm.serve();
    for version in ["1.0.0", "1.1.0", "2.0.0-rc.1"] {
        farm.run(&["plugin", "install", draft(&farm, version).to_str().unwrap()]).expect(0);
    }
    for (renderer, version) in [
        ("draft", "1.1.0"),
        ("draft@^1", "1.1.0"),
        ("draft@~1.0", "1.0.0"),
        ("draft@=1.0.0", "1.0.0"),
        ("draft@2.0.0-rc.1", "2.0.0-rc.1"),
    ] {
        assert_eq!(pinned(&farm, renderer).unwrap()["version"], version, "{renderer}");
    }
    let digest = pinned(&farm, "draft@=1.0.0").unwrap()["digest"].clone();
    let by_digest = format!("draft@sha256:{}", digest.as_str().unwrap());
    assert_eq!(pinned(&farm, &by_digest).unwrap()["version"], "1.0.0");
    let refused = pinned(&farm, "draft@^3").unwrap_err();
    assert!(refused.contains("the versions of draft are: 1.0.0, 1.1.0, 2.0.0-rc.1"), "{refused}");
    let refused = pinned(&farm, "draft@newest").unwrap_err();
    assert!(refused.contains("NAME@^1.2"), "{refused}");
    let refused = farm.run(&["plugin", "remove", "draft"]).expect(2);
    assert!(refused.stderr.contains("draft@=1.0.0, "), "{}", refused.stderr);
    farm.run(&["plugin", "remove", "draft@=1.1.0"]).expect(0);
    assert_eq!(pinned(&farm, "draft").unwrap()["version"], "1.0.0");
    farm.run(&["plugin", "remove", "draft"]).expect(0);
    let refused = pinned(&farm, "draft").unwrap_err();
    assert!(refused.contains("the versions of draft are: 2.0.0-rc.1"), "{refused}");
    let refused = farm.run(&["plugin", "remove", "direct"]).expect(2);
    assert!(refused.stderr.contains("'direct' is not installed"), "{}", refused.stderr);
}

#[test]
fn what_is_shipped_is_not_replaced() {
    let farm = Farm::new();
    let folder = draft(&farm, "9.0.0");
    let main = fs::read_to_string(folder.join("main.py")).unwrap();
    fs::write(folder.join("main.py"), main.replace("\"draft\"", "\"direct\"")).unwrap();
    let manifest = fs::read_to_string(folder.join("plugin.toml")).unwrap();
    fs::write(folder.join("plugin.toml"), manifest.replace("\"draft\"", "\"direct\"")).unwrap();
    let refused = farm.run(&["plugin", "install", folder.to_str().unwrap()]).expect(2);
    assert!(refused.stderr.contains("'direct' is a renderer that comes with Hotshoe"), "{}", refused.stderr);
    // Also where somebody has copied it by hand.
    let plugins = farm.path("data/plugins");
    fs::create_dir_all(&plugins).unwrap();
    fs::rename(&folder, plugins.join("mine")).unwrap();
    let shown = farm.run(&["plugin", "show", "direct"]).expect(0);
    assert!(shown.stdout.contains("a component for API 0.1.0 that uses"), "{}", shown.stdout);
    let listed = farm.run(&["plugin", "list"]).expect(0);
    assert!(listed.stdout.contains("comes with Hotshoe"), "{}", listed.stdout);
    let looked = farm.run(&["doctor"]);
    assert!(looked.stdout.contains("comes with Hotshoe"), "{}", looked.stdout);
}

#[test]
fn a_component_says_itself_what_it_is() {
    let farm = Farm::new();
    let built = component(&["--release", "--manifest-path", "examples/draft/Cargo.toml"]);
    let renamed = farm.path("some-file.wasm");
    fs::copy(built.join("release/draft.wasm"), &renamed).unwrap();
    let shown = farm.run(&["plugin", "show", "--json", renamed.to_str().unwrap()]).expect(0);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    let manifest = fs::read_to_string(root().join("examples/draft/Cargo.toml")).unwrap();
    let version = manifest.lines().find_map(|line| line.strip_prefix("version = ")).unwrap();
    assert_eq!(shown["id"], "draft");
    assert_eq!(shown["version"].to_string(), version);
    assert_eq!(shown["kind"], "component");
    assert!(shown["capabilities"].as_array().unwrap().contains(&json!("blender")), "{shown}");
}
