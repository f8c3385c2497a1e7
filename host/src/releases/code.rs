//! Compiled code on disk: each file is named after its own hash.
//!
//! Nobody waits for the disk when one is written: those who are being served would. What
//! a loss of power has left of it is not what its name says, and is compiled anew.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::terms::hexadecimal;

const ENDING: &str = ".cwasm";

/// Finds the code with a prefix, if it is as it was written. Blocks.
pub(super) fn find(folder: &Path, prefix: &str) -> Option<PathBuf> {
    all(folder, prefix).find(|path| {
        let is_whole = fs::read(path).is_ok_and(|code| path.ends_with(name(prefix, &code)));
        if !is_whole {
            tracing::warn!(file = %path.display(), "is not as it was written; compiling anew");
        }
        is_whole
    })
}

/// Moves code to its place, in that of what is there with the same prefix. Blocks.
pub(super) fn keep(made: &Path, folder: &Path, prefix: &str) -> io::Result<PathBuf> {
    let file = folder.join(name(prefix, &fs::read(made)?));
    for older in all(folder, prefix).filter(|path| *path != file) {
        // Another host may have been faster.
        let _ = fs::remove_file(older);
    }
    fs::rename(made, &file)?;
    Ok(file)
}

/// Lists the code with a prefix.
fn all<'a>(folder: &Path, prefix: &'a str) -> impl Iterator<Item = PathBuf> + use<'a> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries
        .filter(move |path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
}

fn name(prefix: &str, code: &[u8]) -> String {
    format!("{prefix}-{}{ENDING}", &hexadecimal(&Sha256::digest(code))[..32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_as_it_was_written_is_not_found() {
        let temp = tempfile::tempdir().unwrap();
        let made = temp.path().join("made");
        for code in ["one", "two"] {
            fs::write(&made, code).unwrap();
            let kept = keep(&made, temp.path(), "abc").unwrap();
            assert_eq!(find(temp.path(), "abc"), Some(kept.clone()));
            assert_eq!(find(temp.path(), "other"), None);
            fs::write(kept, "tw").unwrap();
            assert_eq!(find(temp.path(), "abc"), None);
        }
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }
}
