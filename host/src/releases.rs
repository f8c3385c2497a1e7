//! Releases: which code a renderer's name stands for.
//!
//! Owns the shipped components and the compiled form of every release. A release
//! is immutable: name, version and the SHA-256 of its bytes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, Weak};

use sha2::{Digest, Sha256};

use crate::config::{DataDir, create_private};
use crate::plugin::component::Components;
use crate::plugin::settings::{Schema, nearest};
use crate::plugin::{Description, Plugin, PluginError};
use crate::terms::hexadecimal;

/// The largest component that is read, in bytes.
const MAX_SIZE: u64 = 64 * 1024 * 1024;
/// The components that are part of this program.
const SHIPPED: [&[u8]; 1] = [include_bytes!(concat!(env!("OUT_DIR"), "/direct.wasm"))];

/// One immutable version of a plugin.
#[derive(Debug, Clone)]
pub struct Release {
    /// Its plugin's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The SHA-256 of its bytes, in hexadecimal digits.
    pub digest: String,
    bytes: Cow<'static, [u8]>,
}

/// A release whose code is in memory.
#[derive(Debug)]
pub struct Loaded {
    /// Which release.
    pub release: Release,
    /// What it says of itself.
    pub description: Description,
    /// The settings it takes.
    pub schema: Schema,
    /// Its code.
    pub plugin: Plugin,
}

/// Why there is no such release.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// No plugin has this name.
    #[error("there is no renderer '{name}'\n{hint}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        hint: String,
    },
    /// The file cannot be read.
    #[error("cannot read the plugin {}: {source}\ncheck the path; a name without / and .wasm means a shipped renderer", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no plugin of this host.
    #[error(
        "cannot load the plugin {name}: {source}\nbuild it as a component for wasm32-wasip2 against hotshoe:plugin@0.1.0"
    )]
    Load {
        /// The plugin.
        name: String,
        /// Why.
        source: PluginError,
    },
    /// The compiled form cannot be kept.
    #[error("cannot write to {}: {source}\nmake room there, or choose another data directory with --data DIR", path.display())]
    Cache {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Release {
    /// Returns the releases that are part of this program.
    pub fn shipped() -> Vec<Self> {
        static RELEASES: LazyLock<Vec<Release>> = LazyLock::new(|| {
            SHIPPED.iter().map(|bytes| Release::new(Cow::Borrowed(*bytes), "unnamed")).collect()
        });
        RELEASES.clone()
    }

    /// Reads a component file.
    pub fn read(path: &Path) -> Result<Self, ReleaseError> {
        let failed = |source| ReleaseError::Read { path: path.to_owned(), source };
        let info = fs::metadata(path).map_err(failed)?;
        if !info.is_file() || info.len() > MAX_SIZE {
            return Err(failed(std::io::Error::other(format!("not a file of at most {MAX_SIZE} bytes"))));
        }
        let stem = path.file_stem().map_or(Cow::Borrowed("unnamed"), |stem| stem.to_string_lossy());
        Ok(Self::new(Cow::Owned(fs::read(path).map_err(failed)?), &stem))
    }

    /// Returns the component itself.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes name and version from the component's metadata; a component
    /// without is named after its file, and version 0.0.0.
    fn new(bytes: Cow<'static, [u8]>, stem: &str) -> Self {
        let (mut name, mut version) = (stem.to_owned(), "0.0.0".to_owned());
        if let Ok(payload) = wasm_metadata::Payload::from_binary(&bytes) {
            let metadata = payload.metadata();
            name = metadata.name.clone().unwrap_or(name);
            version = metadata.version.as_ref().map_or(version, ToString::to_string);
        }
        let digest = hexadecimal(&Sha256::digest(&bytes));
        Self { name, version, digest, bytes }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}+{}", self.name, self.version, &self.digest[..12])
    }
}

/// The file in a release's folder that is its component.
const COMPONENT: &str = "component.wasm";

/// The releases of a host.
#[derive(Debug)]
pub struct Releases {
    components: Components,
    data: DataDir,
    plugins: Option<PathBuf>,
    /// Those that somebody uses, by their digest.
    loaded: Mutex<HashMap<String, Weak<Loaded>>>,
}

impl Releases {
    /// Makes the releases of a host; none is loaded yet.
    pub fn new(components: Components, data: DataDir, plugins: Option<PathBuf>) -> Self {
        Self { components, data, plugins, loaded: Mutex::default() }
    }

    /// Lists the releases that have a name: those of the operator's folder, then the
    /// shipped ones; with where each comes from, and why a file is none.
    pub fn list(&self) -> Vec<(String, Result<Release, ReleaseError>)> {
        let folder =
            self.plugins.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
        let mut files: Vec<PathBuf> = folder
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "wasm"))
            .collect();
        files.sort();
        let named = files.into_iter().map(|path| (path.display().to_string(), Release::read(&path)));
        let shipped = Release::shipped().into_iter().map(|release| ("shipped".to_owned(), Ok(release)));
        named.chain(shipped).collect()
    }

    /// Finds the release that a name, or the path of a `.wasm` file, stands for.
    pub fn find(&self, renderer: &str) -> Result<Release, ReleaseError> {
        match self.plugins.is_some() || renderer.contains('/') {
            // Files are read: others go on meanwhile.
            true => tokio::task::block_in_place(|| self.find_now(renderer)),
            false => self.find_now(renderer),
        }
    }

    fn find_now(&self, renderer: &str) -> Result<Release, ReleaseError> {
        if renderer.contains('/') || renderer.ends_with(".wasm") {
            return Release::read(Path::new(renderer));
        }
        let all: Vec<Release> = self.list().into_iter().filter_map(|(_, release)| release.ok()).collect();
        if let Some(release) = all.iter().find(|release| release.name == renderer) {
            return Ok(release.clone());
        }
        let names = || all.iter().map(|release| release.name.as_str());
        let known = names().collect::<Vec<_>>().join(", ");
        let near = nearest(renderer, names()).map(|near| format!("did you mean '{near}'? "));
        let hint =
            format!("{}the renderers are: {known}, or the path of a .wasm file", near.unwrap_or_default());
        Err(ReleaseError::Unknown { name: renderer.to_owned(), hint })
    }

    /// Finds the release with a digest that a job was pinned to.
    pub fn pinned(&self, digest: &str) -> Result<Release, ReleaseError> {
        Release::read(&self.data.release(digest).join(COMPONENT))
    }

    /// Keeps the component itself for as long as a job is pinned to it.
    pub fn keep(&self, release: &Release) -> Result<(), ReleaseError> {
        let folder = self.data.release(&release.digest);
        let file = folder.join(COMPONENT);
        match file.exists() {
            true => Ok(()),
            false => write_whole(&folder, &file, &release.bytes)
                .map_err(|source| ReleaseError::Cache { path: folder, source }),
        }
    }

    /// Loads a release, compiling it only if that was never done before.
    pub async fn load(&self, release: Release) -> Result<Arc<Loaded>, ReleaseError> {
        let in_use = |loaded: &HashMap<String, Weak<Loaded>>| loaded.get(&release.digest)?.upgrade();
        if let Some(loaded) = in_use(&self.loaded()) {
            return Ok(loaded);
        }
        let loaded = self.load_anew(release).await?;
        let mut all = self.loaded();
        all.retain(|_, loaded| loaded.strong_count() > 0);
        all.insert(loaded.release.digest.clone(), Arc::downgrade(&loaded));
        Ok(loaded)
    }

    fn loaded(&self) -> std::sync::MutexGuard<'_, HashMap<String, Weak<Loaded>>> {
        self.loaded.lock().expect("no code panics under this lock")
    }

    async fn load_anew(&self, release: Release) -> Result<Arc<Loaded>, ReleaseError> {
        let name = release.name.clone();
        let failed = |source| ReleaseError::Load { name: name.clone(), source };
        // Compiling takes seconds: others go on meanwhile.
        let compiled = tokio::task::block_in_place(|| self.compiled(&release))?;
        // SAFETY: `compiled` wrote the file, into a folder that is private to this user.
        let load = || unsafe { self.components.load(&compiled) };
        let component = match load() {
            Err(PluginError::Host(reason)) => {
                tracing::warn!(reason, file = %compiled.display(), "compiling anew what was compiled before");
                tokio::task::block_in_place(|| self.compile(&release, &compiled))?;
                load()
            }
            loaded => loaded,
        };
        let component = component.map_err(failed)?;
        let plugin = Plugin::Component(component);
        let description = plugin.describe().await.map_err(failed)?;
        let schema = Schema::new(description.settings_schema.clone())
            .map_err(|what| failed(PluginError::Contract(what)))?;
        Ok(Arc::new(Loaded { release, description, schema, plugin }))
    }

    /// Returns the compiled form of a release, made if it is not there.
    pub fn compiled(&self, release: &Release) -> Result<PathBuf, ReleaseError> {
        let file =
            self.data.release(&release.digest).join(format!("{}.cwasm", self.components.compatibility()));
        if !file.exists() {
            self.compile(release, &file)?;
        }
        Ok(file)
    }

    fn compile(&self, release: &Release, file: &Path) -> Result<(), ReleaseError> {
        let folder = self.data.release(&release.digest);
        let name = release.name.clone();
        let code =
            self.components.compile(&release.bytes).map_err(|source| ReleaseError::Load { name, source })?;
        write_whole(&folder, file, &code).map_err(|source| ReleaseError::Cache { path: folder, source })
    }
}

/// Writes a file whole or not at all. Another host may be doing the same: whoever
/// renames last wins, with equal bytes.
fn write_whole(folder: &Path, file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    create_private(folder)?;
    let mut aside = tempfile::NamedTempFile::new_in(folder)?;
    aside.write_all(bytes)?;
    aside.as_file().sync_all()?;
    aside.persist(file).map_err(|error| error.error)?;
    Ok(())
}
