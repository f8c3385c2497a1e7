//! Releases: which code a renderer's name stands for.
//!
//! Owns the shipped plugins, the compiled form of every component and the host's own
//! copy of every folder. A release is immutable: name, version and the SHA-256 of its
//! bytes.

mod folder;
mod release;
mod requirement;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use crate::capability::grants::Grants;
use crate::config::file::{Config, Grant, seconds};
use crate::config::{DataDir, create_private};
use crate::plugin::component::{Component, Components};
use crate::plugin::limits;
use crate::plugin::manifest::{self, Manifest, ManifestError, Needs};
use crate::plugin::process::{self, Processes};
use crate::plugin::settings::{Schema, nearest};
use crate::plugin::{Description, Plugin, PluginError};
use folder::Folder;
use release::Code;

pub use release::Release;
pub use requirement::{Requirement, RequirementError};

/// A release whose code is in memory.
#[derive(Debug)]
pub struct Loaded {
    /// Which release.
    pub release: Release,
    /// What it says of itself.
    pub description: Description,
    /// The settings it takes.
    pub schema: Schema,
    /// What it may use.
    pub grants: Grants,
    /// Its code.
    pub plugin: Plugin,
}

/// What there is of a name.
struct Named {
    releases: Vec<Release>,
    /// Why the first one that cannot be read cannot.
    broken: Option<ReleaseError>,
    /// The names that there are beside it.
    others: BTreeSet<String>,
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
    #[error("cannot read the plugin {}: {source}\ncheck the path; a name without / and .wasm means a renderer that is shipped or installed", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What has its name is part of this program.
    #[error("'{name}' is a renderer that comes with Hotshoe\ngive yours another name")]
    Taken {
        /// The name.
        name: String,
    },
    /// It could be several, or none.
    #[error("'{name}' is not one release that can be removed\n{hint}")]
    NotOne {
        /// What was asked for.
        name: String,
        /// What there is.
        hint: String,
    },
    /// It is no name of a release.
    #[error(transparent)]
    Requirement(#[from] RequirementError),
    /// The folder holds no plugin.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// It is no plugin of this host.
    #[error("cannot load the plugin {name}: {source}{}", hint(source))]
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

fn hint(source: &PluginError) -> &'static str {
    match source {
        PluginError::Contract(_) => "\na plugin is written against hotshoe:plugin@0.1.0",
        _ => "",
    }
}

/// The file in a release's folder that is its component, or the folder that is its plugin.
const COMPONENT: &str = "component.wasm";
const FOLDER: &str = "plugin";

/// The releases of a host.
#[derive(Debug)]
pub struct Releases {
    components: Components,
    processes: Processes,
    data: DataDir,
    plugins: PathBuf,
    grants: BTreeMap<String, Grant>,
    /// Those that somebody uses, by their digest.
    loaded: Mutex<HashMap<String, Weak<Loaded>>>,
}

impl Releases {
    /// Makes the releases of a host; none is loaded yet.
    pub fn new(components: Components, data: DataDir, config: &Config) -> Self {
        let processes = Processes::new(data.clone(), process_limits(config));
        let plugins = config.plugins.clone().unwrap_or_else(|| data.plugins());
        let grants = config.plugin.clone();
        Self { components, processes, data, plugins, grants, loaded: Mutex::default() }
    }

    /// Lists the releases that have a name: those of the operator's folder, then the
    /// shipped ones; with where each comes from, and why a file is none.
    pub fn list(&self) -> Vec<(String, Result<Release, ReleaseError>)> {
        // Files are read: others go on meanwhile.
        let read = |path: PathBuf| {
            let read = tokio::task::block_in_place(|| Release::read(&path).and_then(Release::unless_shipped));
            (path.display().to_string(), read)
        };
        let named = self.places().into_iter().map(read);
        let shipped = Release::shipped().into_iter().map(|release| ("shipped".to_owned(), Ok(release)));
        named.chain(shipped).collect()
    }

    /// Lists what may be a plugin in the operator's folder.
    fn places(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.plugins).into_iter().flatten().flatten().map(|entry| entry.path());
        let is_hidden = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        let mut places: Vec<PathBuf> = entries
            .filter(|path| !is_hidden(path))
            .filter(|path| path.extension().is_some_and(|ending| ending == "wasm") || path.is_dir())
            .collect();
        places.sort();
        places
    }

    /// Finds the release that a name, or a path, stands for.
    pub fn find(&self, renderer: &str) -> Result<Release, ReleaseError> {
        // Files are read: others go on meanwhile.
        tokio::task::block_in_place(|| self.find_now(renderer))
    }

    fn find_now(&self, renderer: &str) -> Result<Release, ReleaseError> {
        if renderer.contains('/') || renderer.ends_with(".wasm") {
            return Release::read(Path::new(renderer));
        }
        let wanted: Requirement = renderer.parse()?;
        let Named { mut releases, broken, others } = self.named(&wanted.name);
        // Of the same version, the first.
        let fits = releases.iter().enumerate().rev().filter(|(_, release)| wanted.accepts(release));
        if let Some((at, _)) = fits.max_by_key(|(_, release)| &release.version) {
            return Ok(releases.swap_remove(at));
        }
        if let Some(error) = broken {
            return Err(error);
        }
        let hint = if !releases.is_empty() {
            format!("the versions of {} are: {}", wanted.name, versions(&releases))
        } else if Path::new(renderer).join(manifest::FILE).exists() {
            format!("there is a folder of that name: write ./{renderer}")
        } else {
            let near = nearest(&wanted.name, others.iter().map(String::as_str));
            let near = near.map(|near| format!("did you mean '{near}'? ")).unwrap_or_default();
            let known = others.into_iter().collect::<Vec<_>>().join(", ");
            format!("{near}the renderers are: {known}, or the path of a .wasm file or of a plugin's folder")
        };
        Err(ReleaseError::Unknown { name: renderer.to_owned(), hint })
    }

    /// Reads the releases of one name.
    fn named(&self, name: &str) -> Named {
        let mut named = Named { releases: Vec::new(), broken: None, others: BTreeSet::new() };
        // Nobody can put another one in the place of what is shipped.
        let is_shipped = Release::is_shipped(name);
        for path in self.places().into_iter().filter(|_| !is_shipped) {
            // Of a folder the name is known before all of it is read.
            match path.is_dir().then(|| Manifest::read(&path).map(|manifest| manifest.name)) {
                Some(Ok(other)) if other != name => {
                    named.others.insert(other);
                }
                Some(Err(_)) => {}
                Some(Ok(_)) => match Release::read(&path) {
                    Ok(release) => named.releases.push(release),
                    Err(error) => named.broken = named.broken.or(Some(error)),
                },
                None => named.releases.extend(Release::read(&path)),
            }
        }
        named.releases.extend(Release::shipped());
        let (releases, others) = named.releases.into_iter().partition(|release| release.name == name);
        named.others.extend(Vec::into_iter(others).map(|release| release.name));
        Named { releases, ..named }
    }

    /// Proves a plugin and puts it into the operator's folder, beside its other versions.
    /// Returns where.
    pub async fn install(&self, path: &Path) -> Result<(Arc<Loaded>, PathBuf), ReleaseError> {
        let read = tokio::task::block_in_place(|| Release::read(path))?;
        let loaded = self.load(read.unless_shipped()?).await?;
        let Release { name, version, digest, code, .. } = &loaded.release;
        let failed = |source| ReleaseError::Cache { path: self.plugins.clone(), source };
        create_private(&self.plugins).map_err(failed)?;
        let (place, placed) = match code {
            Code::Component(bytes) => {
                let place = self.plugins.join(format!("{name}-{version}.wasm"));
                let placed = write_whole(&self.plugins, &place, bytes);
                (place, placed)
            }
            Code::Folder { .. } => {
                let place = self.plugins.join(format!("{name}-{version}"));
                // What was proved, whatever has become of where it came from.
                let proved = Folder::Path(self.data.release(digest).join(FOLDER));
                let placed = tokio::task::block_in_place(|| proved.replace(&place, digest));
                (place, placed)
            }
        };
        placed.map_err(failed)?;
        Ok((loaded, place))
    }

    /// Takes a release out of the operator's folder; jobs that are pinned to it keep it.
    pub fn remove(&self, renderer: &str) -> Result<Release, ReleaseError> {
        let wanted: Requirement = renderer.parse()?;
        let Named { mut releases, .. } = self.named(&wanted.name);
        releases.retain(|release| release.place.is_some());
        let first = releases.first().map(|release| release.version.clone());
        let installed = versions(&releases);
        releases.retain(|release| wanted.accepts(release));
        let (1, Some(release)) = (releases.len(), releases.pop()) else {
            let name = &wanted.name;
            let hint = match first {
                None => "nothing of that name was installed".to_owned(),
                Some(first) => {
                    format!("installed are: {installed}; name one of them, such as {name}@={first}")
                }
            };
            return Err(ReleaseError::NotOne { name: renderer.to_owned(), hint });
        };
        let failed = |source| ReleaseError::Cache { path: self.plugins.clone(), source };
        // What is hidden is not read: it is gone at once, however long it takes.
        let aside = tempfile::Builder::new().prefix(".remove-").tempdir_in(&self.plugins).map_err(failed)?;
        let place = release.place.as_ref().expect("those without were left out");
        fs::rename(place, aside.path().join("old")).map_err(failed)?;
        Ok(release)
    }

    /// Finds the release with a digest that a job was pinned to.
    pub fn pinned(&self, digest: &str) -> Result<Release, ReleaseError> {
        let folder = self.data.release(digest);
        let plugin = folder.join(FOLDER);
        if !plugin.is_dir() {
            return Release::read(&folder.join(COMPONENT));
        }
        let manifest = Manifest::read(&plugin)?;
        Ok(Release::folder(Folder::Path(plugin), manifest, digest.to_owned()))
    }

    /// Keeps the plugin itself for as long as a job is pinned to it. Returns where.
    pub fn keep(&self, release: &Release) -> Result<PathBuf, ReleaseError> {
        let folder = self.data.release(&release.digest);
        let (place, kept) = match &release.code {
            Code::Component(bytes) => {
                let file = folder.join(COMPONENT);
                let kept = if file.exists() { Ok(()) } else { write_whole(&folder, &file, bytes) };
                (file, kept)
            }
            Code::Folder { files, .. } => {
                let place = folder.join(FOLDER);
                let kept = if place.is_dir() { Ok(()) } else { files.copy(&place, &release.digest) };
                (place, kept)
            }
        };
        kept.map(|()| place).map_err(|source| ReleaseError::Cache { path: folder, source })
    }

    /// Ends the processes of all plugins.
    pub async fn stop(&self) {
        self.processes.stop().await;
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
        let (plugin, wanted) = match &release.code {
            Code::Component(_) => {
                let component = self.load_component(&release)?;
                let wanted = component.wanted();
                (Plugin::Component(component), wanted)
            }
            Code::Folder { manifest, .. } => {
                let place = tokio::task::block_in_place(|| self.keep(&release))?;
                let granted = self.grants.get(&name).map(needs).unwrap_or_default();
                let manifest = Manifest::clone(manifest);
                let wanted = manifest.capabilities.clone();
                let digest = release.digest.clone();
                let process = self.processes.plugin(manifest, &granted, place, digest).map_err(failed)?;
                (Plugin::Process(process), wanted)
            }
        };
        let description = plugin.describe().await.map_err(failed)?;
        let schema = Schema::new(description.settings_schema.clone())
            .map_err(|what| failed(PluginError::Contract(what)))?;
        let allowed = self.grants.get(&name).and_then(|grant| grant.capabilities.clone());
        let grants = Grants { plugin: name.clone(), wanted, allowed };
        Ok(Arc::new(Loaded { release, description, schema, grants, plugin }))
    }

    fn load_component(&self, release: &Release) -> Result<Component, ReleaseError> {
        // Compiling takes seconds: others go on meanwhile.
        let compiled = tokio::task::block_in_place(|| self.compiled(release))?;
        // SAFETY: `compiled` wrote the file, into a folder that is private to this user.
        let load = || unsafe { self.components.load(&compiled) };
        let component = match load() {
            Err(PluginError::Host(reason)) => {
                tracing::warn!(reason, file = %compiled.display(), "compiling anew what was compiled before");
                tokio::task::block_in_place(|| self.compile(release, &compiled))?;
                load()
            }
            loaded => loaded,
        };
        component.map_err(|source| ReleaseError::Load { name: release.name.clone(), source })
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
        let bytes = release.bytes().unwrap_or_default();
        let code = self.components.compile(bytes).map_err(|source| ReleaseError::Load { name, source })?;
        write_whole(&folder, file, &code).map_err(|source| ReleaseError::Cache { path: folder, source })
    }
}

fn versions(releases: &[Release]) -> String {
    releases.iter().map(|release| release.version.to_string()).collect::<Vec<_>>().join(", ")
}

fn needs(grant: &Grant) -> Needs {
    Needs { network: grant.network, devices: grant.devices.clone(), read: grant.read.clone() }
}

fn process_limits(config: &Config) -> process::Limits {
    let rules = config.processes;
    let bytes = |mib: u64| mib.saturating_mul(1024 * 1024);
    process::Limits {
        memory: bytes(rules.memory_mib),
        work: bytes(rules.work_mib),
        processes: rules.count,
        handles: limits::Limits::default().handles,
        cpu: seconds(rules.cpu_seconds),
        hello: seconds(rules.hello_seconds),
        silence: seconds(rules.silent_seconds),
        failures: rules.failures,
        tasks: rules.replace_after_tasks,
        growth: bytes(rules.replace_after_growth_mib),
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
