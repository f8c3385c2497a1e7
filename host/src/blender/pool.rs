//! The workers of a host.
//!
//! Owns how many work at a time, and which stay warm. A worker is held by one
//! attempt at a time and comes back with its scene loaded; the next attempt at
//! the same scene, of whatever job, finds it so, and nobody else gets it. While nobody
//! holds it, it is stopped. Workers that nobody has used for long go first when there
//! are too many, or when they take too much memory.

use std::collections::BTreeMap;
use std::fs::DirEntry;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::seats::{Seat, Seats};
use super::worker::{Launch, Worker};
use super::{BlenderError, header, wire};
use crate::events::EventKind;
use crate::process::END_LIMIT;
use crate::store::Store;

/// How often those are stopped that nobody holds.
const REST: Duration = Duration::from_secs(1);

/// A handle on the workers; clones share them.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Shared>);

/// How many workers there may be, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many work at a time.
    pub size: usize,
    /// How many more may stay warm.
    pub warm: usize,
    /// Memory of all of them, in bytes; beyond it, idle ones end.
    pub budget: u64,
    /// Renders after which a worker is replaced.
    pub renders: u32,
    /// How many bytes a worker may grow by since its first render of a scene.
    pub growth: u64,
}

/// What an attempt wants a worker to have loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The scene file.
    pub scene: PathBuf,
    /// One hash for the scene and all that it needs.
    pub content: String,
    /// Folders that its worker may read beside its own.
    pub read: Vec<PathBuf>,
    /// How it is opened.
    pub how: wire::Opening,
}

/// What is known of a worker by those who do not hold it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its number.
    pub id: u32,
    /// Its Blender's version.
    pub blender: String,
    /// The scene that it was made to open, and the only one ever.
    pub scene: Option<PathBuf>,
    /// Whether the Python of that scene has run in it.
    pub trusts: bool,
    /// Whether an attempt holds it.
    pub is_busy: bool,
    /// Renders so far.
    pub renders: u32,
    /// Memory in use, in bytes, when it was last looked at: a few seconds ago.
    pub memory: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Shared {
    launch: Launch,
    limits: Limits,
    seats: Seats,
    store: Store,
    free: Arc<Semaphore>,
    /// Those that nobody holds, the one that was used last at the end.
    idle: Mutex<Vec<Worker>>,
    seen: Mutex<BTreeMap<u32, Seen>>,
    version: OnceLock<String>,
    next_id: AtomicU32,
    stopping: CancellationToken,
}

/// A worker with an open scene, back in the pool when dropped.
#[derive(Debug)]
pub struct Held {
    /// What opening the scene told.
    pub opened: wire::Opened,
    worker: Option<Worker>,
    pool: Pool,
    _seat: Seat,
    _permit: OwnedSemaphorePermit,
}

impl Wanted {
    fn name(&self) -> String {
        format!("{} {}", self.content, self.scene.display())
    }

    /// What a worker must be able to read for it.
    fn read(&self) -> Vec<PathBuf> {
        let mut read = readable(&self.scene, std::env::home_dir().as_deref());
        read.extend(self.read.iter().cloned());
        read
    }
}

/// Names what belongs to a scene: its folder; but of a home no hidden files, where keys are, and
/// of a folder above it nothing but the scene.
fn readable(scene: &Path, home: Option<&Path>) -> Vec<PathBuf> {
    let folder = scene.parent().unwrap_or(scene);
    let home = home.and_then(|home| home.canonicalize().ok());
    match home.filter(|home| home.starts_with(folder)) {
        None => vec![folder.to_owned()],
        Some(home) if home == folder => {
            let entries = folder.read_dir().into_iter().flatten().flatten();
            let is_visible = |entry: &DirEntry| !entry.file_name().as_encoded_bytes().starts_with(b".");
            let mut visible: Vec<_> = entries.filter(is_visible).map(|entry| entry.path()).collect();
            visible.sort();
            visible
        }
        Some(_) => vec![scene.to_owned()],
    }
}

impl Pool {
    /// Makes a pool; no worker is started yet.
    pub fn new(launch: Launch, limits: Limits, store: Store) -> Self {
        let (seats, free) = (Seats::divide(limits.size), Arc::new(Semaphore::new(limits.size)));
        let shared = Arc::new(Shared {
            launch,
            limits,
            seats,
            store,
            free,
            idle: Mutex::default(),
            seen: Mutex::default(),
            version: OnceLock::new(),
            next_id: AtomicU32::new(1),
            stopping: CancellationToken::new(),
        });
        tokio::spawn(Self::rest(Arc::downgrade(&shared)));
        Self(shared)
    }

    /// Stops those that nobody holds, time and again.
    async fn rest(pool: Weak<Shared>) {
        loop {
            tokio::time::sleep(REST).await;
            let Some(pool) = pool.upgrade().map(Self) else { return };
            pool.bury();
            // Nobody gets one meanwhile.
            pool.idle().iter().for_each(Worker::rest);
        }
    }

    /// Returns how many workers work at a time.
    pub fn size(&self) -> usize {
        self.0.limits.size
    }

    /// Returns the add-ons that all workers enable.
    pub fn addons(&self) -> &wire::Addons {
        &self.0.launch.addons
    }

    /// Returns the version of the Blender, once a worker has told it.
    pub fn version(&self) -> Option<&str> {
        self.0.version.get().map(String::as_str)
    }

    /// Lists the workers.
    pub fn list(&self) -> Vec<Seen> {
        self.seen().values().cloned().collect()
    }

    /// Starts up to `count` workers if none is idle, so that they are up when they are wanted.
    pub async fn warm_up(&self, wanted: &Wanted, count: usize) -> Result<(), BlenderError> {
        let starting = (0..count.min(self.size())).map(|_| self.clone().start_idle(wanted.clone()));
        let started = starting.map(tokio::spawn).collect::<Vec<_>>();
        for task in started {
            task.await.expect("starting a worker does not panic")?;
        }
        Ok(())
    }

    async fn start_idle(self, wanted: Wanted) -> Result<(), BlenderError> {
        let _permit = self.permit().await;
        let (seat, read) = (self.0.seats.take(), wanted.read());
        let any = {
            let mut idle = self.idle();
            idle.iter().rposition(|worker| self.fits(worker, &wanted, &read)).map(|index| idle.remove(index))
        };
        let worker = async {
            match any {
                Some(worker) => Ok(worker),
                None => self.start(&seat, &read).await,
            }
        };
        tokio::select! {
            worker = worker => self.keep(worker?),
            // Its process ends with the future that starts it.
            () = self.0.stopping.cancelled() => {}
        }
        Ok(())
    }

    /// Waits for a turn and opens a scene, in a worker that has it loaded if there is one.
    pub async fn open(&self, wanted: Wanted) -> Result<Held, BlenderError> {
        let permit = self.permit().await;
        // As many seats as permits.
        let seat = self.0.seats.take();
        let worker = self.worker(&wanted, &seat).await?;
        worker.sit(&seat);
        let name = wanted.name();
        let is_loaded = worker.loaded().take().as_ref() == Some(&name);
        self.see(&worker, Some(&wanted), true);
        // From here on it comes back whatever happens to this call.
        let (opened, pool) = (wire::Opened::default(), self.clone());
        let mut held = Held { opened, worker: Some(worker), pool, _seat: seat, _permit: permit };
        if !is_loaded {
            let (scene, blender) = (wanted.scene.clone(), held.hello.clone());
            let looked = tokio::task::spawn_blocking(move || header::check(&scene, &blender));
            looked.await.expect("reading a header does not panic")?;
        }
        held.opened = held.open(&wanted.scene, !is_loaded, &wanted.how).await?;
        held.holds(wanted);
        Ok(held)
    }

    /// Ends all workers that nobody holds, and waits until they are gone.
    pub async fn stop(&self) {
        self.0.stopping.cancel();
        self.0.free.close();
        let idle = std::mem::take(&mut *self.idle());
        idle.into_iter().for_each(|worker| self.end(worker, "the host stops"));
        let processes = &self.0.launch.processes;
        processes.close();
        if tokio::time::timeout(END_LIMIT, processes.wait()).await.is_err() {
            tracing::warn!(left = processes.len(), "workers do not end");
        }
    }

    async fn permit(&self) -> OwnedSemaphorePermit {
        match self.0.free.clone().acquire_owned().await {
            Ok(permit) => permit,
            // The pool has stopped: whoever still waits is about to be dropped.
            Err(_) => std::future::pending().await,
        }
    }

    /// Takes the idle worker that has the scene loaded; else one that is fresh; else starts one,
    /// if there may be more; else takes one that had the scene as it was, or starts one in the
    /// place of the one that was idle longest.
    async fn worker(&self, wanted: &Wanted, seat: &Seat) -> Result<Worker, BlenderError> {
        let (name, read) = (wanted.name(), wanted.read());
        let fits = |worker: &Worker| self.fits(worker, wanted, &read);
        self.bury();
        let found = {
            let mut idle = self.idle();
            // The name says which scene it is.
            let with_it = idle.iter().rposition(|w| w.loaded().as_ref() == Some(&name) && fits(w));
            let fresh = || idle.iter().position(|worker| worker.loaded().is_none() && fits(worker));
            let of_it = || idle.iter().position(fits);
            let oldest = || if self.may_start() { None } else { of_it().or((!idle.is_empty()).then_some(0)) };
            with_it.or_else(fresh).or_else(oldest).map(|index| idle.remove(index))
        };
        match found {
            Some(worker) if fits(&worker) => {
                worker.wake();
                Ok(worker)
            }
            Some(worker) => {
                self.end(worker, "another scene needs its place");
                self.start(seat, &read).await
            }
            None => self.start(seat, &read).await,
        }
    }

    /// Whether a worker may read what is wanted, and has opened no scene but this one: what a
    /// stranger's scene has made of it makes no pictures of others.
    fn fits(&self, worker: &Worker, wanted: &Wanted, read: &[PathBuf]) -> bool {
        let seen = self.seen();
        let own = seen.get(&worker.id).and_then(|seen| Some((seen.scene.as_ref()?, seen.trusts)));
        worker.read == read && own.is_none_or(|own| own == (&wanted.scene, wanted.how.trust))
    }

    fn may_start(&self) -> bool {
        let Limits { size, warm, budget, .. } = self.0.limits;
        let (count, used) = self.usage();
        count < size + warm && used < budget
    }

    /// Counts the workers, and adds up their memory.
    fn usage(&self) -> (usize, u64) {
        let seen = self.seen();
        (seen.len(), seen.values().map(|worker| worker.memory.load(Ordering::Relaxed)).sum())
    }

    async fn start(&self, seat: &Seat, read: &[PathBuf]) -> Result<Worker, BlenderError> {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let worker = Worker::start(&self.0.launch, id, seat, read).await?;
        let blender = worker.hello.blender_version.clone();
        let _ = self.0.version.set(blender.clone());
        self.see(&worker, None, false);
        let seconds = worker.started_in.as_secs_f64();
        self.0.store.append_soon(EventKind::WorkerStarted { id, blender, seconds });
        Ok(worker)
    }

    /// Ends the idle ones that have died.
    fn bury(&self) {
        let mut idle = self.idle();
        let (alive, dead) = std::mem::take(&mut *idle).into_iter().partition(Worker::is_idle);
        *idle = alive;
        drop(idle);
        let dead: Vec<Worker> = dead;
        for worker in dead {
            let reason = worker.fault().unwrap_or("it died").to_owned();
            self.end(worker, &reason);
        }
    }

    /// Takes a worker back, unless it has served its time.
    fn keep(&self, worker: Worker) {
        let Limits { renders, growth, .. } = self.0.limits;
        let now = self.see(&worker, None, false);
        let memory = now.memory.load(Ordering::Relaxed);
        let reason = match () {
            () if self.0.stopping.is_cancelled() => Some("the host stops".to_owned()),
            () if !worker.is_idle() => {
                Some(worker.fault().unwrap_or("it died, failed, or its work was given up").to_owned())
            }
            () if now.renders >= renders => Some(format!("it has rendered {} times", now.renders)),
            () if worker.grown(memory) > growth => Some(format!("it has grown to {} MiB", memory >> 20)),
            () => None,
        };
        match reason {
            Some(reason) => self.end(worker, &reason),
            None => self.idle().push(worker),
        }
        self.thin_out();
    }

    /// Ends those that were idle longest, as long as there are too many.
    fn thin_out(&self) {
        let Limits { size, warm, budget, .. } = self.0.limits;
        loop {
            let (count, used) = self.usage();
            if count <= size + warm && used <= budget {
                return;
            }
            let mut idle = self.idle();
            // The last one is wanted again at once, more likely than not.
            if idle.len() < 2 {
                return;
            }
            let oldest = idle.remove(0);
            drop(idle);
            self.end(oldest, "others need its place");
        }
    }

    /// Takes down how a worker is; `wanted` is what it has loaded now.
    fn see(&self, worker: &Worker, wanted: Option<&Wanted>, is_busy: bool) -> Seen {
        let mut seen = self.seen();
        let scene = wanted.map(|wanted| wanted.scene.clone());
        let known = seen.get(&worker.id);
        let before = known.and_then(|seen| seen.scene.clone());
        let trusts = wanted.map_or(known.is_some_and(|seen| seen.trusts), |wanted| wanted.how.trust);
        let now = Seen {
            id: worker.id,
            blender: worker.hello.blender_version.clone(),
            scene: scene.or(before),
            trusts,
            is_busy,
            renders: worker.renders.load(Ordering::Relaxed),
            memory: worker.memory.clone(),
        };
        seen.insert(worker.id, now.clone());
        now
    }

    fn end(&self, worker: Worker, reason: &str) {
        self.forget(worker.id, reason);
        // Dropping it closes its life line.
        drop(worker);
    }

    fn forget(&self, id: u32, reason: &str) {
        self.seen().remove(&id);
        self.0.store.append_soon(EventKind::WorkerStopped { id, reason: reason.to_owned() });
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Worker>> {
        self.0.idle.lock().expect("no code panics under this lock")
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, Seen>> {
        self.0.seen.lock().expect("no code panics under this lock")
    }
}

impl Held {
    /// Says what the worker has loaded, now that it is known.
    pub fn holds(&self, wanted: Wanted) {
        *self.loaded() = Some(wanted.name());
    }

    /// Ends the worker instead of giving it back, and waits until it is gone.
    pub async fn end(mut self, reason: &str) {
        if let Some(worker) = self.worker.take() {
            self.pool.forget(worker.id, reason);
            worker.stop().await;
        }
    }
}

impl std::ops::Deref for Held {
    type Target = Worker;

    fn deref(&self) -> &Worker {
        self.worker.as_ref().expect("the worker is there until the drop")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            self.pool.keep(worker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scene_has_its_folder_but_no_keys_of_its_user() {
        let temp = tempfile::tempdir().unwrap();
        let above = temp.path().canonicalize().unwrap();
        let home = above.join("home");
        for name in ["home/.ssh/key", "home/textures/a.png", "home/project/b.png"] {
            std::fs::create_dir_all(above.join(name).parent().unwrap()).unwrap();
            std::fs::write(above.join(name), "").unwrap();
        }
        std::fs::write(home.join("a.blend"), "").unwrap();
        let check = |scene: &str, expected: &[&str]| {
            let expected: Vec<_> = expected.iter().map(|name| above.join(name)).collect();
            assert_eq!(readable(&above.join(scene), Some(&home)), expected, "{scene}");
        };
        check("home/project/a.blend", &["home/project"]);
        check("home/a.blend", &["home/a.blend", "home/project", "home/textures"]);
        check("a.blend", &["a.blend"]);
        assert_eq!(readable(&home.join("a.blend"), None), [home]);
    }
}
