//! Texts that a stranger writes: the first byte says what it is to be.
#![no_main]

use std::path::Path;

use hotshoe::capability::{output, read_json};
use hotshoe::frames::Frames;
use hotshoe::plugin::manifest::Manifest;
use hotshoe::plugin::settings::Schema;
use hotshoe::releases::Requirement;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    match kind % 5 {
        0 => drop(text.parse::<Frames>()),
        1 => drop(text.parse::<Requirement>()),
        2 => drop(Manifest::parse(text, Path::new("plugin.toml"))),
        3 => {
            if output::check_name(text).is_ok() {
                let path = Path::new("out").join(text);
                assert_eq!((path.components().count(), path.parent()), (2, Some(Path::new("out"))));
            }
        }
        _ => settings(text),
    }
});

/// A schema, and after a line break settings that are held against it.
fn settings(text: &str) {
    let (schema, settings) = text.split_once('\n').unwrap_or((text, "{}"));
    let Ok(schema) = read_json(schema, 64) else { return };
    let Ok(schema) = Schema::new(schema) else { return };
    let Ok(settings) = serde_json::from_str(settings) else { return };
    let _ = schema.check(&settings);
    let _ = schema.visible(&serde_json::to_string(&settings).unwrap());
}
