//! What is rendered from: its scene and the files that the scene needs, with
//! their hashes.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::folders;
use crate::terms::hexadecimal;

/// How many bytes are read at once.
const PORTION: usize = 64 * 1024;
/// How many hashes are remembered.
const REMEMBERED: usize = 16_384;

/// A file as it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashed {
    /// The file.
    pub path: PathBuf,
    /// The SHA-256 of its bytes.
    pub sha256: String,
    stamp: Stamp,
}

/// What changes whenever a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Stamp {
    inode: u64,
    size: u64,
    modified_ns: i64,
    changed_ns: i64,
}

/// A scene and all that it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// The scene file.
    pub scene: Hashed,
    /// What the scene needs; none before it has been opened for the first time.
    pub dependencies: Option<Vec<Hashed>>,
    /// When somebody has last accepted whatever is found, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_ms: Option<u64>,
    /// Whether that is still to be looked for.
    #[serde(default)]
    pub accepts: bool,
}

/// A file that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed(pub PathBuf);

/// Hashes that need not be computed again; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Hashes(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    files: HashMap<PathBuf, Hashed>,
    /// By the number of the disk: one file may have many names.
    sums: HashMap<(u64, Stamp), String>,
    /// What scenes that were opened before need, by their path and hash.
    needs: HashMap<(PathBuf, String), Vec<PathBuf>>,
}

impl Stamp {
    /// Looks at a file, and on which disk it is.
    fn of(path: &Path) -> io::Result<(u64, Self)> {
        let info = path.metadata()?;
        let ns = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
        let stamp = Self {
            inode: info.ino(),
            size: info.size(),
            modified_ns: ns(info.mtime(), info.mtime_nsec()),
            changed_ns: ns(info.ctime(), info.ctime_nsec()),
        };
        Ok((info.dev(), stamp))
    }
}

impl Hashed {
    /// When the file was last written or replaced, in milliseconds since 1970.
    pub fn changed_ms(&self) -> u64 {
        u64::try_from(self.stamp.changed_ns / 1_000_000).unwrap_or_default()
    }
}

impl Hashes {
    /// Hashes a file, unless it is as it was the last time. Blocks.
    pub fn of(&self, path: &Path) -> io::Result<Hashed> {
        self.of_unless(path, &|| false)
    }

    /// The same, as long as nobody has given it up.
    pub fn of_unless(&self, path: &Path, is_given_up: &dyn Fn() -> bool) -> io::Result<Hashed> {
        let (disk, stamp) = Stamp::of(path)?;
        let known = self.known().files.get(path).filter(|known| known.stamp == stamp).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let known = self.known().sums.get(&(disk, stamp)).cloned();
        let sha256 = known.map_or_else(|| sha256_unless(path, is_given_up), Ok)?;
        let hashed = Hashed { path: path.to_owned(), sha256, stamp };
        let Known { files, sums, .. } = &mut *self.known();
        if files.len() >= REMEMBERED {
            files.clear();
            sums.clear();
        }
        files.insert(path.to_owned(), hashed.clone());
        sums.insert((disk, stamp), hashed.sha256.clone());
        Ok(hashed)
    }

    /// Hashes a scene, and what it needs if it was opened before. Blocks.
    pub fn scene(&self, path: &Path) -> io::Result<Content> {
        let scene = self.of(path)?;
        let needs = self.known().needs.get(&(scene.path.clone(), scene.sha256.clone())).cloned();
        let needs = needs.map(|files| files.iter().map(|file| self.of(file)).collect());
        // One that is gone is found missing when the scene is opened.
        Ok(Content::found(scene, needs.transpose().unwrap_or(None)))
    }

    /// Remembers what a scene needs.
    pub fn remember(&self, content: &Content) {
        let Some(files) = &content.dependencies else { return };
        let needs = &mut self.known().needs;
        if needs.len() >= REMEMBERED {
            needs.clear();
        }
        let scene = (content.scene.path.clone(), content.scene.sha256.clone());
        needs.insert(scene, files.iter().map(|file| file.path.clone()).collect());
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().expect("no code panics under this lock")
    }
}

impl Content {
    fn found(scene: Hashed, dependencies: Option<Vec<Hashed>>) -> Self {
        Self { scene, dependencies, accepted_ms: None, accepts: false }
    }

    /// Says in one hash what would be rendered from.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for file in self.files() {
            hasher.update(file.path.as_os_str().as_encoded_bytes());
            hasher.update([0]);
            hasher.update(file.sha256.as_bytes());
        }
        hexadecimal(&hasher.finalize())
    }

    /// Looks at the scene as it is now, and accepts it. Blocks.
    pub fn again(&self, hashes: &Hashes) -> io::Result<Self> {
        let scene = hashes.of(&self.scene.path)?;
        // Until it is known what the scene needs now, that is accepted, too.
        Ok(Self { scene, dependencies: None, accepted_ms: self.accepted_ms, accepts: true })
    }

    /// Names the first file that is not as it was. Blocks.
    pub fn check(&self, hashes: &Hashes) -> Result<(), Changed> {
        let is_as_it_was = |file: &Hashed| {
            let stays = Stamp::of(&file.path).is_ok_and(|(_, stamp)| stamp == file.stamp);
            stays || hashes.of(&file.path).is_ok_and(|now| now.sha256 == file.sha256)
        };
        match self.files().find(|file| !is_as_it_was(file)) {
            Some(file) => Err(Changed(file.path.clone())),
            None => Ok(()),
        }
    }

    fn files(&self) -> impl Iterator<Item = &Hashed> {
        std::iter::once(&self.scene).chain(self.dependencies.iter().flatten())
    }
}

/// Hashes a file's bytes. Blocks.
pub fn sha256(path: &Path) -> io::Result<String> {
    sha256_unless(path, &|| false)
}

fn sha256_unless(path: &Path, is_given_up: &dyn Fn() -> bool) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let file = folders::open_named(path)?;
    // Whoever writes it meanwhile does not make this last for ever.
    let size = file.metadata()?.len();
    let mut file = file.take(size);
    let mut portion = vec![0; PORTION];
    loop {
        match file.read(&mut portion)? {
            _ if is_given_up() => return Err(io::Error::other("nobody waits for its hash any more")),
            0 => break,
            count => hasher.update(&portion[..count]),
        }
    }
    Ok(hexadecimal(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changed_is_named_and_one_that_was_touched_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let [scene, texture] = ["a.blend", "t.png"].map(|name| temp.path().join(name));
        std::fs::write(&scene, "scene").unwrap();
        std::fs::write(&texture, "texture").unwrap();
        let hashes = Hashes::default();
        let dependencies = Some(vec![hashes.of(&texture).unwrap()]);
        let content = Content::found(hashes.of(&scene).unwrap(), dependencies);
        assert_eq!(content.check(&hashes), Ok(()));

        std::fs::write(&scene, "scene").unwrap();
        assert_eq!(content.check(&hashes), Ok(()), "written again with equal bytes");
        std::fs::write(&texture, "texturf").unwrap();
        assert_eq!(content.check(&hashes), Err(Changed(texture.clone())));
        std::fs::remove_file(&texture).unwrap();
        assert_eq!(content.check(&hashes), Err(Changed(texture)));
    }

    #[test]
    fn the_digest_stands_for_every_byte_and_every_path() {
        let temp = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = temp.path().join(name);
            std::fs::write(&path, text).unwrap();
            Hashes::default().of(&path).unwrap()
        };
        let (a, b, c) = (file("a", "1"), file("b", "1"), file("c", "2"));
        let digest = |scene: &Hashed, dependencies: &[&Hashed]| {
            let dependencies = Some(dependencies.iter().copied().cloned().collect());
            Content::found(scene.clone(), dependencies).digest()
        };
        let all = [digest(&a, &[]), digest(&b, &[]), digest(&a, &[&c]), digest(&a, &[&b])];
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
    }
}
