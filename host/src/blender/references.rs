//! The files behind what a scene names: which are there, and which are missing.
//!
//! The host looks, since a worker may look into some folders only. Blocks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::wire::{Reference, ReferenceKind, SceneInfo};
use super::worker::NEEDED;

/// What was found of a scene's files.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Files that are there.
    pub files: BTreeSet<PathBuf>,
    /// What is not there, as the scene names it.
    pub missing: BTreeSet<PathBuf>,
}

/// Looks for the files that an open scene names, and notes those that are missing with it.
pub fn look(info: &mut SceneInfo) -> BTreeSet<PathBuf> {
    let Found { files, missing } = look_for(&std::mem::take(&mut info.references), NEEDED);
    info.missing_files = missing.into_iter().collect();
    files
}

/// Looks for the files that a scene names, up to `most` of them.
pub fn look_for(references: &[Reference], most: usize) -> Found {
    let mut found = Found::default();
    for Reference { path, kind } in references {
        let mut files = match kind {
            // A pipe or a device is there, and whoever reads it says what is wrong with it.
            ReferenceKind::File => {
                (path.exists() && !path.is_dir()).then(|| path.clone()).into_iter().collect()
            }
            ReferenceKind::Tiles => siblings(path, is_tile_of),
            ReferenceKind::Sequence => siblings(path, is_numbered_as),
            ReferenceKind::Folder => below(path, most),
        };
        let is_missing = files.is_empty() && *kind != ReferenceKind::Folder && !path.is_dir();
        if is_missing {
            found.missing.insert(path.clone());
        }
        files.truncate(most.saturating_sub(found.files.len()));
        found.files.extend(files);
    }
    found
}

/// Lists the files beside a path whose names fit its own.
fn siblings(path: &Path, fits: fn(&str, &str) -> bool) -> Vec<PathBuf> {
    let Some((folder, own)) = path.parent().zip(path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let fitting = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| fits(own, name)));
    let mut files: Vec<PathBuf> = fitting.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}

/// Whether a name is that of a tile: `u.<UDIM>.png` and `u.1001.png`, `u.<UVTILE>.png` and `u.u1_v1.png`.
fn is_tile_of(own: &str, name: &str) -> bool {
    ["<UDIM>", "<UVTILE>"].iter().filter_map(|token| own.split_once(token)).any(|(before, after)| {
        let tile = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        let is_number = |c: char| c.is_ascii_digit() || matches!(c, 'u' | 'v' | '_');
        tile.is_some_and(|tile| !tile.is_empty() && tile.chars().all(is_number))
    })
}

/// Whether two names differ in their last number only.
fn is_numbered_as(own: &str, name: &str) -> bool {
    let parts = |text: &str| -> Option<(String, String)> {
        let end = text.rfind(|c: char| c.is_ascii_digit())? + 1;
        let start = text[..end].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
        // What is no digit may be longer than a byte.
        let start = text.ceil_char_boundary(start);
        Some((text[..start].to_owned(), text[end..].to_owned()))
    };
    own == name || parts(own).is_some_and(|own| parts(name) == Some(own))
}

/// Lists the files below a folder.
fn below(folder: &Path, most: usize) -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop().filter(|_| files.len() < most) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_tiles_sequences_and_folders_are_found() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        for name in
            ["t#1.png", "u.1001.png", "u.1012.png", "u.x.png", "f_0001.png", "f_12.png", "f_a.png", "g_1.png"]
        {
            fs::write(at(name), "").unwrap();
        }
        fs::create_dir_all(at("cache/meta")).unwrap();
        fs::write(at("cache/meta/1.json"), "").unwrap();
        let check = |name: &str, kind, expected: &[&str]| {
            let found = look_for(&[Reference { path: at(name), kind }], 100);
            assert_eq!(found.files, expected.iter().map(|name| at(name)).collect(), "{name}");
            assert_eq!(found.missing.is_empty(), !expected.is_empty(), "{name}");
        };
        check("t#1.png", ReferenceKind::File, &["t#1.png"]);
        check("none.png", ReferenceKind::File, &[]);
        check("u.<UDIM>.png", ReferenceKind::Tiles, &["u.1001.png", "u.1012.png"]);
        check("v.<UDIM>.png", ReferenceKind::Tiles, &[]);
        check("f_0001.png", ReferenceKind::Sequence, &["f_0001.png", "f_12.png"]);
        check("cache", ReferenceKind::Folder, &["cache/meta/1.json"]);
    }

    #[test]
    fn numbers_are_told_from_names_that_hold_other_letters() {
        assert!(is_numbered_as("\u{e4}_01.png", "\u{e4}_02.png"));
        assert!(!is_numbered_as("a_01.png", "b_01.png") && !is_numbered_as("a.png", "b.png"));
    }
}
