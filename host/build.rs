//! Builds the renderers that Hotshoe ships and puts them where the host embeds them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use wasm_metadata::{AddMetadata, AddMetadataField, Version};

const TARGET: &str = "wasm32-wasip2";
const SHIPPED: [&str; 1] = ["direct"];
/// Renderers that are folders; what they are written with goes along.
const FOLDERS: [&str; 1] = ["contact-sheet"];
const PYTHON: &str = "plugin-api/python/src";

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("host is in the workspace");
    for path in ["Cargo.toml", "Cargo.lock", "wit/v0.1", "plugin-api"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    for name in SHIPPED {
        let folder = root.join("plugins").join(name);
        println!("cargo::rerun-if-changed={}", folder.display());
        let built = build(name, root, &out.join("plugins"));
        let component = fs::read(&built).expect("cargo has just built it");
        fs::write(out.join(format!("{name}.wasm")), named(name, &component)).expect("OUT_DIR is writable");
    }
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

/// Builds one plugin in a target folder of its own: the outer cargo holds the
/// lock of the shared one.
fn build(name: &str, root: &Path, target: &Path) -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "cargo builds the plugins")]
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
    cargo.current_dir(root).args(["build", "--profile", "plugin", "--package", name]);
    cargo.args(["--target", TARGET, "--target-dir"]).arg(target);
    // What is meant for the host's own build is not meant for the plugins'.
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        cargo.env_remove(variable);
    }
    let output = cargo.output().expect("cargo can be run");
    if !output.status.success() {
        let log = String::from_utf8_lossy(&output.stderr);
        let missing = log.contains("target may not be installed");
        let hint = if missing { "\nrun `rustup target add wasm32-wasip2` and build again" } else { "" };
        panic!("cannot build the plugin {name} for {TARGET}:\n{log}{hint}");
    }
    target.join(TARGET).join("plugin").join(format!("{name}.wasm"))
}

/// Writes name and version into the component, where the host reads them.
fn named(name: &str, component: &[u8]) -> Vec<u8> {
    let version = env::var("CARGO_PKG_VERSION").expect("cargo sets CARGO_PKG_VERSION");
    let mut metadata = AddMetadata::default();
    metadata.name = AddMetadataField::Set(name.to_owned());
    metadata.version = AddMetadataField::Set(Version::new(version));
    metadata.to_wasm(component).expect("cargo builds valid components")
}
