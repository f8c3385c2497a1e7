//! Releases: which code a renderer's name stands for, and where each release stands.
//!
//! A release is immutable: name, version and the SHA-256 of its bytes. Owns the host's
//! copies of them, their compiled form, those that are in memory, and the catalogue that
//! says which of them serve. Knows nothing of jobs but their ids.

mod code;
pub mod compile;
mod error;
mod folder;
pub mod lifecycle;
mod pin;
mod release;
mod requirement;
pub mod rollout;
pub mod shelf;
pub mod watcher;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, Weak};
use std::time::Duration;

use semver::Version;
use tokio::sync::{OnceCell, watch};

use crate::capability::grants::{Allowed, Grants};
use crate::config::file::{Config, Grant, seconds};
use crate::config::limits::Limits;
use crate::config::{DataDir, create_private};
use crate::plugin::component::{Component, Components};
use crate::plugin::manifest::{Manifest, Needs};
use crate::plugin::process::Processes;
use crate::plugin::settings::Schema;
use crate::plugin::{Description, Plugin, PluginError};
use crate::reports::{Report, Reports};
use crate::store::now_ms;
use crate::store::releases::ReleaseRow;
use lifecycle::{Catalogue, Changes, Refused, Rejected, Rules, Wish};
use release::Code;
use shelf::Shelf;

pub use error::ReleaseError;
pub use pin::Pin;
pub use release::Release;
pub use requirement::{Requirement, RequirementError};

/// How long a job waits at most for the first look at the operator's folder.
const SETTLING: Duration = Duration::from_secs(60);

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

/// A job that is not finished, as far as a release must know it.
#[derive(Debug, Clone)]
pub struct OpenJob {
    /// What it asks for.
    pub wish: Wish,
    /// The version that it runs on.
    pub version: Version,
    /// Its settings.
    pub settings: serde_json::Map<String, serde_json::Value>,
}

/// The releases of a host.
#[derive(Debug)]
pub struct Releases {
    components: Components,
    processes: Processes,
    /// Their files.
    pub shelf: Shelf,
    config: RwLock<Config>,
    allowed: watch::Sender<Allowed>,
    compiling: compile::Limits,
    /// Where it is told how one came to a bad end.
    pub reports: Reports,
    /// How many components stay in memory though nobody uses them.
    spare: usize,
    /// By their digests.
    pins: Mutex<HashMap<String, Weak<Pin>>>,
    /// Those that were used last, the latest at the end.
    latest: Mutex<Vec<Arc<Loaded>>>,
    catalogue: Mutex<Catalogue>,
    /// Whether the catalogue knows the operator's folder; none where nobody watches it.
    settled: watch::Sender<Option<bool>>,
}

impl Releases {
    /// Makes the releases of a host; none is loaded yet.
    pub fn new(components: Components, data: DataDir, config: &Config) -> Self {
        let processes = Processes::new(data.clone());
        let plugins = config.plugins.clone().unwrap_or_else(|| data.plugins());
        let compiling = compile::Limits {
            time: seconds(config.releases.compile_seconds),
            cpu: config.releases.compile_cpu_seconds,
            memory: config.releases.compile_memory_mib.saturating_mul(1024 * 1024),
        };
        let reports = Reports::of(&data, config);
        Self {
            components,
            processes,
            shelf: Shelf::new(data, plugins),
            config: RwLock::new(config.clone()),
            allowed: watch::Sender::new(allowed(config)),
            compiling,
            reports,
            spare: config.releases.loaded,
            pins: Mutex::default(),
            latest: Mutex::default(),
            catalogue: Mutex::default(),
            settled: watch::Sender::new(None),
        }
    }

    /// Where every release stands.
    pub fn catalogue(&self) -> MutexGuard<'_, Catalogue> {
        self.catalogue.lock().expect("no code panics under this lock")
    }

    /// Takes up where releases stood, and lets the catalogue say from now on which of
    /// them a name stands for. The operator's folder is looked at by somebody else.
    pub fn restore(&self, rows: Vec<ReleaseRow>, rules: Rules) {
        let (mut catalogue, now) = (Catalogue::restore(rows, rules), now_ms());
        catalogue.ship(&Release::shipped(), now);
        *self.catalogue() = catalogue;
        self.settled.send_replace(Some(false));
    }

    /// Notes that the operator's folder is known.
    pub fn settle(&self) {
        self.settled.send_replace(Some(true));
    }

    /// Waits until the operator's folder is known; false where nobody watches it.
    pub async fn settled(&self) -> bool {
        let mut settled = self.settled.subscribe();
        if settled.borrow().is_none() {
            return false;
        }
        let _ = tokio::time::timeout(SETTLING, settled.wait_for(|settled| *settled == Some(true))).await;
        true
    }

    /// Takes what has changed in the configuration.
    pub fn reconfigure(&self, config: &Config, dev: bool) {
        *self.config.write().expect("no code panics under this lock") = config.clone();
        self.allowed.send_replace(allowed(config));
        self.catalogue().set_rules(Rules::of(config, dev));
    }

    /// Takes what is new since the last time, to be stored and told.
    pub fn take_changes(&self) -> Option<Changes> {
        let mut catalogue = self.catalogue();
        catalogue.has_changes().then(|| catalogue.take_changes())
    }

    /// Finds the release that a path stands for, or the one that serves a job best, and
    /// loads it.
    pub async fn choose(&self, renderer: &str, wish: Option<&Wish>) -> Result<Arc<Pin>, ReleaseError> {
        let Some(wish) = wish.filter(|_| self.settled.borrow().is_some()) else {
            let release = tokio::task::block_in_place(|| self.shelf.find(renderer))?;
            return self.pin(release).await;
        };
        self.settled().await;
        let chosen = self.catalogue().choose(wish);
        let digest = chosen.ok_or_else(|| self.unknown(&wish.wanted))?;
        let pin = self.pin_to(&digest)?;
        pin.loaded(self).await?;
        Ok(pin)
    }

    /// Says that nothing does what is asked for, and what there is.
    pub fn unknown(&self, wanted: &Requirement) -> ReleaseError {
        let catalogue = self.catalogue();
        let hint = catalogue.why_none(wanted).unwrap_or_else(|| {
            let others = catalogue.list().iter().map(|standing| standing.row.name.clone()).collect();
            shelf::unknown(&wanted.name, others)
        });
        ReleaseError::Unknown { name: wanted.to_string(), hint }
    }

    /// Returns what a plugin may use.
    pub fn limits_of(&self, name: &str) -> Limits {
        self.config().limits_of(name)
    }

    fn config(&self) -> RwLockReadGuard<'_, Config> {
        self.config.read().expect("no code panics under this lock")
    }

    /// Pins to a release that is in the catalogue.
    pub fn pin_to(&self, digest: &str) -> Result<Arc<Pin>, Refused> {
        let catalogue = self.catalogue();
        let row = &catalogue.get(digest).ok_or_else(|| Refused("it is gone".to_owned()))?.row;
        Ok(self.shared(&row.name, &row.version, digest))
    }

    /// Pins to a release that a host has kept, and loads it.
    pub async fn pin_kept(&self, digest: &str) -> Result<Arc<Pin>, ReleaseError> {
        // Of the many jobs of a host before, the first has it read.
        if let Some(pin) = self.pinned(digest).filter(|pin| pin.loaded.initialized()) {
            return Ok(pin);
        }
        let release = tokio::task::block_in_place(|| self.shelf.kept(digest))?;
        self.pin(release).await
    }

    /// Pins to a release, and loads it.
    async fn pin(&self, release: Release) -> Result<Arc<Pin>, ReleaseError> {
        let pin = self.shared(&release.name, &release.version, &release.digest);
        pin.loaded.get_or_try_init(|| self.load_anew(release)).await?;
        Ok(pin)
    }

    fn pinned(&self, digest: &str) -> Option<Arc<Pin>> {
        self.pins.lock().expect("no code panics under this lock").get(digest).and_then(Weak::upgrade)
    }

    fn shared(&self, name: &str, version: &Version, digest: &str) -> Arc<Pin> {
        let mut pins = self.pins.lock().expect("no code panics under this lock");
        if let Some(pin) = pins.get(digest).and_then(Weak::upgrade) {
            return pin;
        }
        let loaded = OnceCell::new_with(self.latest(digest));
        let (name, version, digest) = (name.to_owned(), version.clone(), digest.to_owned());
        let pin = Arc::new(Pin::new(name, version, digest, loaded));
        pins.retain(|_, pin| pin.strong_count() > 0);
        pins.insert(pin.digest.clone(), Arc::downgrade(&pin));
        pin
    }

    /// Lists the releases that somebody is pinned to.
    pub fn in_use(&self) -> HashSet<String> {
        let pins = self.pins.lock().expect("no code panics under this lock");
        pins.iter().filter(|(_, pin)| pin.strong_count() > 0).map(|(digest, _)| digest.clone()).collect()
    }

    /// Finds a component that nobody may be using, but is still in memory.
    fn latest(&self, digest: &str) -> Option<Arc<Loaded>> {
        let mut latest = self.latest.lock().expect("no code panics under this lock");
        let at = latest.iter().position(|loaded| loaded.release.digest == digest)?;
        let loaded = latest.remove(at);
        latest.push(loaded.clone());
        Some(loaded)
    }

    /// Keeps a component in memory for the next one who wants it. A process ends with the
    /// last who uses it.
    fn keep_in_memory(&self, loaded: &Arc<Loaded>) {
        if matches!(loaded.plugin, Plugin::Process(_)) {
            return;
        }
        let mut latest = self.latest.lock().expect("no code panics under this lock");
        latest.retain(|other| other.release.digest != loaded.release.digest);
        latest.push(loaded.clone());
        // The cap is for those that nobody uses: what is in use leaves when it is dropped.
        let is_idle = |loaded: &Arc<Loaded>| Arc::strong_count(loaded) == 1;
        let mut surplus = latest.iter().filter(|loaded| is_idle(loaded)).count().saturating_sub(self.spare);
        latest.retain(|loaded| {
            let goes = surplus > 0 && is_idle(loaded);
            surplus -= usize::from(goes);
            !goes
        });
    }

    /// Lists the releases whose code is in memory.
    pub fn in_memory(&self) -> HashSet<String> {
        let pins = self.pins.lock().expect("no code panics under this lock");
        let is_loaded = |pin: &Weak<Pin>| pin.upgrade().is_some_and(|pin| pin.loaded.initialized());
        let pinned = pins.iter().filter(|(_, pin)| is_loaded(pin)).map(|(digest, _)| digest.clone());
        let latest = self.latest.lock().expect("no code panics under this lock");
        pinned.chain(latest.iter().map(|loaded| loaded.release.digest.clone())).collect()
    }

    /// Loads a release, compiling it only if that was never done before.
    pub async fn load(&self, release: Release) -> Result<Arc<Loaded>, ReleaseError> {
        let pin = self.pin(release).await?;
        pin.loaded(self).await
    }

    /// Reads what lies in a place; nothing if it is what was there before.
    pub async fn read(&self, place: &Path) -> Result<Option<Release>, (ReleaseError, Option<Release>)> {
        let reading = place.to_owned();
        let read = move || Release::read(&reading).and_then(Release::unless_shipped);
        let read = tokio::task::spawn_blocking(read).await.expect("reading a plugin does not panic");
        let release = read.map_err(|error| (error, None))?;
        if place.to_str().is_none() {
            return Err((Refused("the name of its file is not UTF-8".to_owned()).into(), Some(release)));
        }
        let mended = release.clone();
        if let Err(error) = tokio::task::block_in_place(|| self.shelf.mend(&mended)) {
            return Err((error, Some(release)));
        }
        let mut catalogue = self.catalogue();
        if catalogue.at(place).is_some_and(|known| known.row.digest == release.digest) {
            return Ok(None);
        }
        if catalogue.is_new(&release.digest) {
            catalogue.check(&release).map_err(|refused| (refused.into(), Some(release.clone())))?;
            catalogue.checking(&release);
        }
        Ok(Some(release))
    }

    /// Proves that a release can serve, also those jobs that may move to it, and takes it into
    /// the catalogue. What serves goes on serving meanwhile.
    pub async fn prove(&self, release: Release, jobs: &[OpenJob]) -> Result<(), ReleaseError> {
        let place = release.place.clone();
        tokio::task::block_in_place(|| self.shelf.keep(&release))?;
        let loaded = self.load(release).await?;
        for job in jobs {
            let may = job.wish.may_move(&job.version, &loaded.release);
            if let Some(error) = may.then(|| loaded.schema.check(&job.settings).err()).flatten() {
                let why = error.to_string().lines().next().unwrap_or_default().to_owned();
                return Err(ReleaseError::Settings { job: job.wish.job, why });
            }
        }
        // It may have been loaded from elsewhere.
        let here = Release { place, ..loaded.release.clone() };
        let mut catalogue = self.catalogue();
        // Another one of the same version may have been faster.
        catalogue.check(&here)?;
        catalogue.arrive(&here, loaded.grants.wanted.clone(), now_ms());
        Ok(())
    }

    /// Notes that what lies in a place cannot be used.
    pub fn reject(&self, path: &Path, error: &ReleaseError, release: Option<&Release>) {
        let stem = || path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let rejected = Rejected {
            name: release.map_or_else(stem, |release| release.name.clone()),
            version: release.map(|release| release.version.to_string()),
            digest: release.map(|release| release.digest.clone()),
            why: error.to_string(),
            since_ms: now_ms(),
            may_pass: error.may_pass(),
        };
        self.catalogue().reject(path, rejected);
    }

    /// Proves a plugin and puts it into the operator's folder. Returns where.
    pub async fn install(&self, path: &Path) -> Result<(Arc<Loaded>, PathBuf), ReleaseError> {
        let read = tokio::task::block_in_place(|| Release::read(path))?.unless_shipped()?;
        self.catalogue().check(&read)?;
        let loaded = self.load(read).await?;
        let place = tokio::task::block_in_place(|| {
            self.shelf.keep(&loaded.release)?;
            self.shelf.install(&loaded.release)
        })?;
        Ok((loaded, place))
    }

    /// Forgets releases that are of no use any more, but for some; `pinned` are those of
    /// jobs that are kept. Returns the digests of those that are forgotten. Blocks.
    pub fn forget(&self, keep: usize, mut pinned: HashSet<String>) -> Vec<String> {
        pinned.extend(self.in_use());
        let (gone, known) = {
            let mut catalogue = self.catalogue();
            let gone = catalogue.forget(keep, &pinned);
            let known: HashSet<String> = catalogue.list().iter().map(|s| s.row.digest.clone()).collect();
            (gone, known)
        };
        for digest in &gone {
            let _ = crate::folders::remove_whole(&self.shelf.folder(digest));
        }
        // Of what came by a path, nobody knows but the jobs.
        let copies = self.shelf.old_copies().into_iter();
        for digest in copies.filter(|digest| !known.contains(digest) && !pinned.contains(digest)) {
            let _ = crate::folders::remove_whole(&self.shelf.folder(&digest));
        }
        gone
    }

    /// Keeps a copy of a release for as long as a job is pinned to it.
    pub async fn keep(&self, pin: &Pin) -> Result<(), ReleaseError> {
        let loaded = pin.loaded(self).await?;
        tokio::task::block_in_place(|| self.shelf.keep(&loaded.release)).map(drop)
    }

    /// Ends the processes of all plugins.
    pub async fn stop(&self) {
        self.processes.stop().await;
    }

    async fn load_anew(&self, release: Release) -> Result<Arc<Loaded>, ReleaseError> {
        let name = release.name.clone();
        let failed = |source| ReleaseError::Load { name: name.clone(), source };
        let grant = self.config().plugin.get(&name).cloned();
        let (plugin, wanted) = match &release.code {
            Code::Component(_) => {
                let component = self.load_component(&release).await?;
                let wanted = component.wanted();
                (Plugin::Component(component), wanted)
            }
            Code::Folder { manifest, .. } => {
                let place = tokio::task::block_in_place(|| self.shelf.keep(&release))?;
                let granted = grant.as_ref().map(needs).unwrap_or_default();
                let manifest = Manifest::clone(manifest);
                let wanted = manifest.capabilities.clone();
                let digest = release.digest.clone();
                let limits = self.config().processes_of(&name).into();
                let process = self.processes.plugin(manifest, &granted, limits, place, digest);
                let process = process.map_err(failed)?;
                (Plugin::Process(Box::new(process)), wanted)
            }
        };
        let described = plugin.describe(&self.limits_of(&name)).await;
        let description = described.map_err(|error| failed(self.reported(error, &release)))?;
        let schema = Schema::new(description.settings_schema.clone())
            .map_err(|what| failed(PluginError::Contract(what)))?;
        let grants = Grants { plugin: name, wanted, ceiling: None, allowed: self.allowed.subscribe() };
        let loaded = Arc::new(Loaded { release, description, schema, grants, plugin });
        self.keep_in_memory(&loaded);
        Ok(loaded)
    }

    /// Keeps a report of a crash of a release that is being looked at.
    fn reported(&self, error: PluginError, release: &Release) -> PluginError {
        let Some(kind) = error.crash() else { return error };
        let report = Report::of_a_release(kind, error.to_string(), release.to_string(), &release.digest);
        match tokio::task::block_in_place(|| self.reports.keep(&report)) {
            Ok(()) => error.with_line(&report.line()),
            Err(_) => error,
        }
    }

    async fn load_component(&self, release: &Release) -> Result<Component, ReleaseError> {
        let compiled = self.compiled(release).await?;
        // SAFETY: `compiled` wrote the file, into a folder that is private to this user, and has
        // seen that it is as it was written.
        let load = |compiled: &Path| unsafe { self.components.load(compiled, &release.name) };
        let component = match load(&compiled) {
            Err(PluginError::Host(reason)) => {
                tracing::warn!(reason, file = %compiled.display(), "compiling anew what was compiled before");
                load(&self.compile(release).await?)
            }
            loaded => loaded,
        };
        component.map_err(|source| ReleaseError::Load { name: release.name.clone(), source })
    }

    /// Returns the compiled form of a release, made if it is not there.
    pub async fn compiled(&self, release: &Release) -> Result<PathBuf, ReleaseError> {
        let (folder, prefix) = (self.shelf.folder(&release.digest), self.components.compatibility());
        match tokio::task::block_in_place(|| code::find(&folder, &prefix)) {
            Some(file) => Ok(file),
            None => self.compile(release).await,
        }
    }

    async fn compile(&self, release: &Release) -> Result<PathBuf, ReleaseError> {
        let folder = self.shelf.folder(&release.digest);
        let name = release.name.clone();
        let failed = |source| ReleaseError::Load { name: name.clone(), source };
        let unwritten = |source| ReleaseError::Cache { path: folder.clone(), source };
        create_private(&folder).map_err(unwritten)?;
        let aside = tempfile::Builder::new().prefix("compile-").tempdir_in(&folder).map_err(unwritten)?;
        let made = match release.bytes().filter(|_| release.comes_with_us()) {
            // What is part of this program needs no guard.
            Some(bytes) => {
                let code = tokio::task::block_in_place(|| self.components.compile(bytes)).map_err(failed)?;
                let file = aside.path().join("code");
                std::fs::write(&file, code).map_err(unwritten)?;
                file
            }
            None => {
                let component = tokio::task::block_in_place(|| self.shelf.keep(release))?;
                compile::compile(&component, aside.path(), self.compiling).await.map_err(failed)?
            }
        };
        let prefix = self.components.compatibility();
        tokio::task::block_in_place(|| code::keep(&made, &folder, &prefix)).map_err(unwritten)
    }
}

/// Takes out of the configuration which capabilities each plugin may use.
fn allowed(config: &Config) -> Allowed {
    let listed = |(name, grant): (&String, &Grant)| Some((name.clone(), grant.capabilities.clone()?));
    Arc::new(config.plugin.iter().filter_map(listed).collect())
}

fn needs(grant: &Grant) -> Needs {
    Needs { network: grant.network, devices: grant.devices.clone(), read: grant.read.clone() }
}
