//! Files that a stranger leaves: scenes, pictures and plugins are told apart by what reads them.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use hotshoe::blender::header;
use hotshoe::capability::{image, output};
use hotshoe::releases::Release;

/// Where the file lies; one process is one fuzzer.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("hotshoe-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("there is a temporary folder");
    folder
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for name in ["a.blend", "a.exr", "a.png", "a.wasm"] {
        fs::write(FOLDER.join(name), bytes).expect("the file can be written");
    }
    let _ = header::version(&FOLDER.join("a.blend"));
    let _ = image::check_all(vec![FOLDER.join("a.exr")]);
    let is_whole = output::is_whole(&FOLDER.join("a.png")).expect("the file can be read");
    assert_eq!(is_whole, bytes.ends_with(b"\0\0\0\0IEND\xae\x42\x60\x82"));
    let _ = Release::read(&FOLDER.join("a.wasm"));
});
