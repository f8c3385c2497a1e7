//! What a job renders from, and whether it still is what it was.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;

use super::{CapabilityError, Code, Result};
use crate::blender::content::{Changed, Content, Hashes};
use crate::store::now_ms;

/// The scene of a job and the files that the scene needs; clones share them.
#[derive(Debug, Clone)]
pub struct JobContent {
    shared: Arc<Mutex<Known>>,
    hashes: Hashes,
}

#[derive(Debug)]
struct Known {
    content: Content,
    digest: String,
    /// When the job was submitted, in milliseconds since 1970.
    submitted_ms: u64,
}

impl JobContent {
    /// Takes what was found when the job was submitted, or what is stored of it.
    pub fn new(content: Content, hashes: Hashes, submitted_ms: u64) -> Self {
        let known = Known { digest: content.digest(), content, submitted_ms };
        Self { shared: Arc::new(Mutex::new(known)), hashes }
    }

    /// Returns one hash that stands for all of it.
    pub fn digest(&self) -> String {
        self.known().digest.clone()
    }

    /// Returns the SHA-256 of the scene file.
    pub fn scene_sha256(&self) -> String {
        self.known().content.scene.sha256.clone()
    }

    /// Whether it is known what the scene needs.
    pub fn is_whole(&self) -> bool {
        self.known().content.dependencies.is_some()
    }

    /// Takes what is found the next time as it is; returns what is to be recorded.
    pub fn accept(&self) -> Content {
        let content = &mut self.known().content;
        (content.accepts, content.accepted_ms) = (true, Some(now_ms()));
        content.clone()
    }

    /// Fails if a file is not as it was; returns what is to be recorded if that was accepted.
    pub async fn check(&self) -> Result<Option<Content>, Changed> {
        let (content, hashes) = (self.known().content.clone(), self.hashes.clone());
        let looked = tokio::task::spawn_blocking(move || match content.accepts {
            true => content.again(&hashes).map(Some).map_err(|_| Changed(content.scene.path)),
            false => content.check(&hashes).map(|()| None),
        });
        let found = looked.await.expect("looking at files does not panic")?;
        if let Some(found) = &found {
            self.keep(found.clone());
        }
        Ok(found)
    }

    /// Looks, when it is called, whether all files are as they are known to be now.
    /// What it returns blocks.
    pub fn unchanged(&self) -> impl FnOnce() -> Result<()> + Send + 'static {
        let (content, hashes) = (self.known().content.clone(), self.hashes.clone());
        move || {
            // Somebody has accepted changes meanwhile.
            if content.accepts {
                return Ok(());
            }
            content.check(&hashes).map_err(|Changed(path)| {
                let message = format!("{} has changed while Blender rendered from it", path.display());
                CapabilityError::new(Code::Blender, message)
            })
        }
    }

    /// Takes down the files that the scene needs; those below `except` are its own work.
    ///
    /// One that was written after the job was submitted has changed since.
    pub async fn depends_on(
        &self,
        mut files: Vec<PathBuf>,
        except: &Path,
    ) -> Result<Result<Content, Changed>> {
        files.retain(|file| !file.starts_with(except));
        let (mut content, submitted) = {
            let known = self.known();
            (known.content.clone(), known.submitted_ms)
        };
        let (accepts, since) = (content.accepts, content.accepted_ms.unwrap_or(submitted));
        if let Some(known) = &content.dependencies {
            let known: HashSet<&Path> = known.iter().map(|hashed| hashed.path.as_path()).collect();
            if !accepts && files.len() == known.len() && files.iter().all(|file| known.contains(&**file)) {
                return Ok(Ok(content));
            }
        }
        let hashes = self.hashes.clone();
        // Whoever waits may be gone before it is done.
        let given_up = CancellationToken::new();
        let _wanted = given_up.clone().drop_guard();
        let hashing = tokio::task::spawn_blocking(move || -> io::Result<Result<Content, Changed>> {
            let mut hashed = Vec::with_capacity(files.len());
            for file in files {
                let named =
                    |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
                let file = hashes.of_unless(&file, &|| given_up.is_cancelled()).map_err(named)?;
                if !accepts && file.changed_ms() > since {
                    return Ok(Err(Changed(file.path)));
                }
                hashed.push(file);
            }
            (content.dependencies, content.accepts) = (Some(hashed), false);
            Ok(Ok(content))
        });
        let found = hashing.await.expect("hashing files does not panic");
        let found = found.map_err(|error| {
            // A pipe or a device will be none the next time either.
            let is_hopeless = error.kind() == io::ErrorKind::Other;
            let code = if is_hopeless { Code::InvalidArgument } else { Code::Host };
            CapabilityError::new(code, format!("cannot read a file that the scene needs: {error}"))
        })?;
        if let Ok(content) = &found {
            self.hashes.remember(content);
            self.keep(content.clone());
        }
        Ok(found)
    }

    fn keep(&self, content: Content) {
        let mut known = self.known();
        (known.digest, known.content) = (content.digest(), content);
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.shared.lock().expect("no code panics under this lock")
    }
}
