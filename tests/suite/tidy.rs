//! Tidiness that a compiler does not check.

use std::path::Path;

use crate::harness::{files_below, root};

/// The order of imports: a module uses only those that stand after it.
const ORDER: [&str; 19] = [
    "cli",
    "daemon",
    "api",
    "service",
    "jobs",
    "releases",
    "plugin",
    "capability",
    "blender",
    "process",
    "rpc",
    "reports",
    "store",
    "events",
    "frames",
    "config",
    "folders",
    "terms",
    "crash",
];

fn sources(folder: &str) -> Vec<(String, String)> {
    let folder = root().join(folder);
    let files = files_below(&folder).into_iter().filter(|name| name.ends_with(".rs"));
    files.map(|name| (name.clone(), std::fs::read_to_string(folder.join(name)).unwrap())).collect()
}

fn place(module: &str) -> usize {
    ORDER
        .iter()
        .position(|name| *name == module)
        .unwrap_or_else(|| panic!("{module} has no place in the order"))
}

#[test]
fn imports_go_one_way() {
    let mut wrong = Vec::new();
    for (file, text) in sources("host/src") {
        let module = Path::new(&file).components().next().unwrap().as_os_str().to_str().unwrap();
        let module = module.trim_end_matches(".rs");
        if ["main", "lib"].contains(&module) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            for used in line.split("crate::").skip(1) {
                let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let used = if used == "crash_point" { "crash".to_owned() } else { used };
                if !used.is_empty() && used != module && place(&used) < place(module) {
                    wrong.push(format!("{file}:{}: {module} uses {used}", number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_crate_lists_its_modules_in_the_order_of_imports() {
    let text = std::fs::read_to_string(root().join("host/src/lib.rs")).unwrap();
    let modules: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(modules, ORDER);
}

#[test]
fn every_test_file_is_part_of_the_suite() {
    let main = std::fs::read_to_string(root().join("tests/suite/main.rs")).unwrap();
    for (file, _) in sources("tests/suite") {
        let module = file.trim_end_matches(".rs");
        assert!(module == "main" || main.contains(&format!("mod {module};")), "{file} is never run");
    }
}

#[test]
fn files_stay_small_enough_to_read() {
    for (file, text) in
        sources("host/src").into_iter().chain(sources("plugin-api/src")).chain(sources("plugins"))
    {
        if text.contains("Made from the contract by") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = code.lines().count();
        assert!(lines <= 500, "{file} has {lines} lines");
    }
}

#[test]
fn plugins_and_their_api_never_depend_on_the_host() {
    for manifest in ["plugin-api/Cargo.toml", "plugins/direct/Cargo.toml"] {
        let text = std::fs::read_to_string(root().join(manifest)).unwrap();
        assert!(
            !text.lines().any(|line| line.starts_with("hotshoe.") || line.starts_with("hotshoe =")),
            "{manifest}"
        );
    }
}
