//! What a user has allowed once and for all: folders of projects, which their scenes may read,
//! and scenes whose Python may run.
//!
//! Kept in one file of the data directory, which people may read and edit.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{DataDir, lock};
use nix::fcntl::FlockArg;

/// What is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Allowed {
    /// Folders that the scenes in them and below them may read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub project: Vec<Project>,
    /// Scenes that are trusted, by their bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scene: Vec<TrustedScene>,
}

/// A folder with scenes and all that they need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// The folder, without links.
    pub folder: PathBuf,
    /// Whether the Python in its scenes may run.
    #[serde(default)]
    pub trusted: bool,
}

/// A scene whose Python may run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustedScene {
    /// Where it was when it was trusted; for people.
    pub path: PathBuf,
    /// The SHA-256 of its bytes.
    pub sha256: String,
}

/// Why the Python of a scene may run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum Trust {
    /// It lies in a folder that is trusted.
    Folder,
    /// The scene itself is trusted.
    Scene {
        /// The SHA-256 of the bytes that are.
        sha256: String,
    },
}

/// Whether a folder holds more than a project can: it is the root, or has a home in it.
pub fn is_wide(folder: &Path) -> bool {
    folder.parent().is_none() || std::env::home_dir().is_some_and(|home| home.starts_with(folder))
}

impl Allowed {
    /// Reads what is allowed.
    pub fn read(data: &DataDir) -> io::Result<Self> {
        let file = data.allowed();
        match fs::read_to_string(&file) {
            Ok(text) => toml::from_str(&text).map_err(|error| {
                io::Error::other(format!("{}: {}", file.display(), error.to_string().trim_end()))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", file.display()))),
        }
    }

    /// Changes what is allowed; others who do so at the same time wait.
    pub fn change<T>(data: &DataDir, change: impl FnOnce(&mut Self) -> T) -> io::Result<T> {
        let file = data.allowed();
        let _alone = lock(&file.with_extension("lock"), FlockArg::LockExclusive)?;
        let mut allowed = Self::read(data)?;
        let changed = change(&mut allowed);
        let mut aside = tempfile::NamedTempFile::new_in(data.path())?;
        let text = toml::to_string(&allowed).map_err(io::Error::other)?;
        aside.write_all(text.as_bytes())?;
        aside.as_file().sync_all()?;
        aside.persist(file).map_err(|error| error.error)?;
        Ok(changed)
    }

    /// Lists the folders of projects that a scene belongs to.
    pub fn folders_of(&self, scene: &Path) -> Vec<PathBuf> {
        let own = self.project.iter().filter(|project| scene.starts_with(&project.folder));
        own.map(|project| project.folder.clone()).collect()
    }

    /// Says why the Python of a scene may run, if it may.
    pub fn trust(&self, scene: &Path, sha256: &str) -> Option<Trust> {
        let in_folder =
            self.project.iter().any(|project| project.trusted && scene.starts_with(&project.folder));
        let itself = self.scene.iter().find(|trusted| trusted.sha256 == sha256);
        match in_folder {
            true => Some(Trust::Folder),
            false => itself.map(|trusted| Trust::Scene { sha256: trusted.sha256.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_remembered_and_a_scene_is_trusted_by_its_bytes() {
        let temp = tempfile::tempdir().unwrap();
        let data = DataDir::open(Some(temp.path().join("data"))).unwrap();
        assert_eq!(Allowed::read(&data).unwrap(), Allowed::default());
        Allowed::change(&data, |allowed| {
            allowed.project.push(Project { folder: "/film".into(), trusted: false });
            allowed.project.push(Project { folder: "/rigs".into(), trusted: true });
            allowed.scene.push(TrustedScene { path: "/a.blend".into(), sha256: "12".into() });
        })
        .unwrap();
        let allowed = Allowed::read(&data).unwrap();
        assert_eq!(allowed.folders_of(Path::new("/film/shots/a.blend")), [Path::new("/film")]);
        assert_eq!(allowed.folders_of(Path::new("/filmed/a.blend")), [] as [PathBuf; 0]);
        assert_eq!(allowed.trust(Path::new("/film/a.blend"), "34"), None);
        assert_eq!(allowed.trust(Path::new("/rigs/a.blend"), "34"), Some(Trust::Folder));
        assert_eq!(allowed.trust(Path::new("/b.blend"), "12"), Some(Trust::Scene { sha256: "12".into() }));
        fs::write(data.allowed(), "[[projcet]]").unwrap();
        assert!(Allowed::read(&data).unwrap_err().to_string().contains("unknown field `projcet`"));
    }
}
