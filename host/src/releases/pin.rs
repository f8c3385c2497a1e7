//! The release that jobs run on.

use std::fmt;
use std::sync::Arc;

use semver::Version;
use tokio::sync::OnceCell;

use super::{Loaded, ReleaseError, Releases};

/// The release that jobs run on; all that run on the same one share it. Its code leaves
/// memory after the last of them has dropped it.
#[derive(Debug)]
pub struct Pin {
    /// Its plugin's name.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// The SHA-256 of its bytes, in hexadecimal digits.
    pub digest: String,
    pub(super) loaded: OnceCell<Arc<Loaded>>,
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}+{}", self.name, self.version, &self.digest[..12])
    }
}

impl Pin {
    pub(super) fn new(name: String, version: Version, digest: String, loaded: OnceCell<Arc<Loaded>>) -> Self {
        Self { name, version, digest, loaded }
    }

    /// Writes down which release it is, as it is stored with a job.
    pub fn stored(&self) -> String {
        let (name, version, digest) = (&self.name, &self.version, &self.digest);
        serde_json::json!({"name": name, "version": version, "digest": digest}).to_string()
    }

    /// Returns the code, loaded again if it had left memory.
    pub async fn loaded(&self, releases: &Releases) -> Result<Arc<Loaded>, ReleaseError> {
        let load = async {
            if let Some(loaded) = releases.latest(&self.digest) {
                return Ok(loaded);
            }
            let release = tokio::task::block_in_place(|| releases.shelf.kept(&self.digest))?;
            releases.load_anew(release).await
        };
        self.loaded.get_or_try_init(|| load).await.cloned()
    }
}
