//! Lists the files of the process plugins that Hotshoe ships, so that the host embeds them.
//!
//! Components are embedded as they are committed (decision 022): no target but the host's own
//! is needed to build Hotshoe.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Renderers that are folders; what they are written with goes along.
const FOLDERS: [&str; 1] = ["contact-sheet"];
const PYTHON: &str = "plugin-api/python/src";

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("host is in the workspace");
    for name in FOLDERS {
        let folders = [root.join("plugins").join(name), root.join(PYTHON)];
        let list = folders.iter().flat_map(|folder| embedded(folder, folder)).collect::<Vec<_>>().join(",\n");
        fs::write(out.join(format!("{name}.rs")), format!("&[{list}]")).expect("OUT_DIR is writable");
    }
}

/// Lists the files below a folder, as Rust that takes each of them in.
fn embedded(root: &Path, folder: &Path) -> Vec<String> {
    println!("cargo::rerun-if-changed={}", folder.display());
    let entries =
        fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("it can be read"));
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    entries.sort();
    let is_source = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        !name.starts_with(['.', '_']) || name.ends_with(".py")
    };
    let files = entries.iter().filter(|path| is_source(path)).flat_map(|path| match path.is_dir() {
        true => embedded(root, path),
        false => {
            let name = path.strip_prefix(root).expect("it lies below");
            vec![format!("({name:?}, include_bytes!({path:?}))")]
        }
    });
    files.collect()
}
