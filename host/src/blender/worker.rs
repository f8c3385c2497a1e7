//! One worker: a Blender that the host commands, and the line to it.
//!
//! Dropping the worker kills its process, and all that it started.

use std::collections::HashSet;
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

use super::process::Process;
use super::seats::Seat;
use super::wire::{self, Hello, Progress};
use super::{Blender, BlenderError, Crash};
use crate::config::file::Sandboxing;
use crate::folders;
use crate::process::measure::processor_time;
use crate::rpc::{self, CallError, Incoming, Notification, Peer};
use crate::terms::{one_line, size};

/// The program that runs inside Blender.
pub const PROGRAM: &str = include_str!("../../../blender/worker/worker.py");
/// How long Blender may take until it says hello.
const START_LIMIT: Duration = Duration::from_secs(120);

/// How many files a scene may need.
pub const NEEDED: usize = 50_000;
/// How many files a frame may have by the scene's own names.
const PATHS: usize = 1_000;

/// How to start workers.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The Blender to run.
    pub blender: Blender,
    /// The `hotshoe` program, which is the guard too.
    pub guard: PathBuf,
    /// A private folder, where each worker gets one of its own.
    pub folder: PathBuf,
    /// When a worker counts as hung.
    pub patience: Patience,
    /// Whether it is confined.
    pub sandbox: Sandboxing,
    /// Folders that it may read besides those of its scene.
    pub read: Vec<PathBuf>,
    /// Variables that it gets of the host's environment, besides those that all get.
    pub environment: Vec<String>,
    /// Add-ons that it enables.
    pub addons: wire::Addons,
    /// Follows every process until its end, whoever has dropped it.
    pub processes: TaskTracker,
}

/// When a worker that works counts as hung.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// So long without any sign that its process runs at all.
    pub frozen: Duration,
    /// So long without any sign that its work goes on.
    pub stalled: Duration,
    /// More memory than this, in bytes.
    pub memory: u64,
    /// More than this in its own folder, in bytes.
    pub work: u64,
}

impl Default for Patience {
    fn default() -> Self {
        let [frozen, stalled] = [120, 1800].map(Duration::from_secs);
        Self { frozen, stalled, memory: u64::MAX, work: u64::MAX }
    }
}

/// A running Blender that is the host's to command.
#[derive(Debug)]
pub struct Worker {
    /// Its number in this host.
    pub id: u32,
    /// What it said of itself.
    pub hello: Hello,
    /// What it may read of its scene.
    pub read: Vec<PathBuf>,
    /// How long it took to come up.
    pub started_in: Duration,
    /// What is loaded in it: the host's own name for it.
    loaded: Mutex<Option<String>>,
    /// Calls that rendered something.
    pub renders: AtomicU32,
    /// Memory in use, in bytes, when it was last looked at.
    pub memory: Arc<AtomicU64>,
    /// The scene that it came back with, and its memory then.
    first: Mutex<Option<(Option<String>, u64)>>,
    peer: Peer,
    process: Arc<Process>,
    seat: Mutex<Seat>,
    busy: AtomicBool,
    patience: Patience,
    addons: wire::Addons,
    signs: Arc<watch::Sender<Signs>>,
}

/// What a worker shows of itself while it works.
#[derive(Debug, Clone, Copy)]
pub struct Signs {
    /// How far it is.
    pub progress: Progress,
    /// When it last showed that it runs.
    alive: Instant,
    /// When its work last showed that it goes on.
    active: Instant,
}

impl Signs {
    fn new() -> Self {
        let now = Instant::now();
        Self { progress: Progress::default(), alive: now, active: now }
    }

    /// Blender printed a line.
    pub(super) fn printed(&mut self, samples: Option<(u32, u32)>) {
        (self.alive, self.active) = (Instant::now(), Instant::now());
        self.progress.samples = samples.or(self.progress.samples);
    }

    /// The worker program says that it is still there.
    fn beat(&mut self, now: Progress) {
        self.alive = Instant::now();
        // Only a 5.x worker knows the samples; elsewhere they come from the output.
        let samples = now.samples.or(self.progress.samples);
        if now.activity != self.progress.activity || samples != self.progress.samples {
            self.active = Instant::now();
        }
        self.progress = Progress { samples, ..now };
    }
}

impl Worker {
    /// Starts a worker and waits until it says hello.
    /// One that is confined may read the folders that are named.
    pub async fn start(
        launch: &Launch,
        id: u32,
        seat: &Seat,
        read: &[PathBuf],
    ) -> Result<Self, BlenderError> {
        let began = Instant::now();
        let signs = Arc::new(watch::Sender::new(Signs::new()));
        let (ours, theirs) = StdUnixStream::pair().map_err(BlenderError::io("make a socket pair"))?;
        let process = Process::start(launch, id, seat, read, theirs.into(), signs.clone())?;
        ours.set_nonblocking(true).map_err(BlenderError::io("use a socket"))?;
        let stream = UnixStream::from_std(ours).map_err(BlenderError::io("use a socket"))?;
        let (reading, writing) = stream.into_split();
        let (peer, mut incoming) = Peer::start(reading, writing, rpc::Limits::of_a_child());
        let said = tokio::select! {
            hello = hello(&mut incoming) => Ok(hello),
            what = hangs(&process, &signs, launch.patience) => Err(format!("hangs: {what}")),
            () = tokio::time::sleep(START_LIMIT) => Err(format!("said nothing in {} s", START_LIMIT.as_secs())),
        };
        let hello = match said {
            Ok(Some(hello)) => hello,
            silent => {
                // One that hung up is ending by itself, and how is what matters.
                if silent.is_err() {
                    process.kill();
                }
                let ended = process.ended().await;
                let path = launch.blender.path().clone();
                let fault = process.fault().map(|fault| format!("was killed: {fault}"));
                let status = fault.or(silent.err()).unwrap_or(ended.status);
                let log = process.log.tail();
                return Err(BlenderError::Start { path, status, log });
            }
        };
        tokio::spawn(follow(incoming, signs.clone()));
        process.look();
        tracing::debug!(worker = id, blender = hello.blender_version, "worker is up");
        Ok(Self {
            id,
            hello,
            read: read.to_owned(),
            started_in: began.elapsed(),
            loaded: Mutex::default(),
            renders: AtomicU32::new(0),
            memory: process.memory.clone(),
            first: Mutex::default(),
            peer,
            process,
            seat: Mutex::new(seat.same()),
            busy: AtomicBool::new(false),
            patience: launch.patience,
            addons: launch.addons.clone(),
            signs,
        })
    }

    /// Opens a scene with nothing set in it, anew if it may have changed.
    pub async fn open(
        &self,
        path: &Path,
        anew: bool,
        how: &wire::Opening,
    ) -> Result<wire::Opened, BlenderError> {
        let (threads, addons) = (self.seat().threads(), &self.addons);
        self.call("scene.open", &wire::Open { path, anew, threads, addons, how }).await
    }

    /// Says what the open scene is.
    pub async fn inspect(&self) -> Result<wire::SceneInfo, BlenderError> {
        let info: wire::SceneInfo = self.call("scene.inspect", &serde_json::json!({})).await?;
        match info.references.len() {
            0..=NEEDED => Ok(info),
            _ => Err(BlenderError::Worker(format!("it names more than {NEEDED} files that the scene needs"))),
        }
    }

    /// Names those of some files that it may not read.
    pub async fn unreadable(&self, paths: &[PathBuf]) -> Result<Vec<PathBuf>, BlenderError> {
        let unreadable: HashSet<PathBuf> = self.call("files.unreadable", &wire::Unreadable { paths }).await?;
        // It is asked for those, and for no others.
        Ok(paths.iter().filter(|path| unreadable.contains(*path)).cloned().collect())
    }

    /// Sets a property of the open scene.
    pub async fn set(&self, path: &str, value: &serde_json::Value) -> Result<(), BlenderError> {
        self.call("scene.set", &wire::Set { path, value }).await
    }

    /// Names the files that a frame will be written to.
    pub async fn paths(&self, request: &wire::Paths<'_>) -> Result<Vec<PathBuf>, BlenderError> {
        let paths: Vec<wire::Below> = self.call("scene.paths", request).await?;
        if paths.len() > PATHS {
            return Err(BlenderError::Worker(format!("it names more than {PATHS} files of a frame")));
        }
        Ok(paths.into_iter().map(PathBuf::from).collect())
    }

    /// Renders a frame into files, and looks at each of them once.
    pub async fn write(&self, request: &wire::Write<'_>) -> Result<wire::Written, BlenderError> {
        self.renders.fetch_add(1, Ordering::Relaxed);
        self.call("scene.write", request).await
    }

    /// Renders a shot into a file of scene-linear pixels.
    pub async fn shot(&self, request: &wire::Shot<'_>) -> Result<(), BlenderError> {
        self.renders.fetch_add(1, Ordering::Relaxed);
        self.call("scene.shot", request).await
    }

    /// Writes scene-linear pixels as the scene would write them; names the file.
    pub async fn develop(&self, request: &wire::Develop<'_>) -> Result<PathBuf, BlenderError> {
        let path: wire::Below = self.call("scene.develop", request).await?;
        Ok(path.into())
    }

    /// Names the movies of some frames, one a view, with the pictures of each.
    pub async fn reel(&self, request: &wire::FindReel<'_>) -> Result<Vec<wire::Reel>, BlenderError> {
        self.call("scene.reel", request).await
    }

    /// Makes movies of pictures. The scene is to be loaded anew afterwards.
    pub async fn encode(&self, request: &wire::Encode<'_>) -> Result<(), BlenderError> {
        self.call("scene.encode", request).await
    }

    /// Lists the devices that Blender sees.
    pub async fn devices(&self) -> Result<serde_json::Value, BlenderError> {
        self.call("devices.list", &serde_json::json!({})).await
    }

    /// Returns its own folder, which both sides may write.
    pub fn home(&self) -> &Path {
        &self.process.home
    }

    /// Returns the folder in it for what is rendered next, which is empty. Blocks,
    /// shortly.
    pub fn empty_folder(&self) -> io::Result<PathBuf> {
        let folder = self.home().join("rendered");
        folders::empty(&folder, self.home())?;
        Ok(folder)
    }

    /// Follows the request that is being worked on.
    pub fn signs(&self) -> watch::Receiver<Signs> {
        self.signs.subscribe()
    }

    /// Stops it until it is wanted again. Blocks, shortly.
    pub fn rest(&self) {
        self.process.rest();
    }

    /// Lets it go on, if it rests. Blocks, shortly.
    pub fn wake(&self) {
        self.process.wake();
    }

    /// Says why it was killed, if it was for what it did.
    pub fn fault(&self) -> Option<&str> {
        self.process.fault()
    }

    /// Returns the host's own name for what is loaded in it.
    pub fn loaded(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.loaded.lock().expect("no code panics under this lock")
    }

    /// Says by how much its memory has grown since it first came back with its scene.
    pub fn grown(&self, memory: u64) -> u64 {
        let loaded = self.loaded().clone();
        let mut first = self.first.lock().expect("no code panics under this lock");
        if first.as_ref().is_none_or(|(scene, _)| *scene != loaded) {
            *first = Some((loaded, memory));
        }
        first.as_ref().map_or(0, |(_, first)| memory.saturating_sub(*first))
    }

    /// Moves it to a seat, if it is not there.
    pub fn sit(&self, seat: &Seat) {
        let mut now = self.seat();
        if !now.is_same(seat) {
            if let Ok(Some(processors)) = seat.processors() {
                self.process.move_to(&processors);
            }
            *now = seat.same();
        }
    }

    fn seat(&self) -> std::sync::MutexGuard<'_, Seat> {
        self.seat.lock().expect("no code panics under this lock")
    }

    /// Whether it is alive and no call of it was given up half-way.
    pub fn is_idle(&self) -> bool {
        !self.busy.load(Ordering::Relaxed) && !self.peer.is_closed()
    }

    /// Ends the process and waits until nothing of it is left.
    pub async fn stop(self) {
        self.process.kill();
        self.process.ended().await;
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &impl Serialize,
    ) -> Result<T, BlenderError> {
        // Stays set if this future is dropped: the worker is then not to be used again.
        self.busy.store(true, Ordering::Relaxed);
        // Nothing of the call before, and nothing yet to tell.
        self.signs.send_if_modified(|signs| {
            *signs = Signs::new();
            false
        });
        let result = tokio::select! {
            // An answer that came too late to be heard in time is still an answer.
            biased;
            result = self.peer.call(method, params) => result,
            what = hangs(&self.process, &self.signs, self.patience) => return Err(self.killed(what).await),
        };
        match result {
            Ok(value) => {
                self.busy.store(false, Ordering::Relaxed);
                Ok(value)
            }
            Err(CallError::Answer(error)) => match serde_json::from_value(error.data) {
                Ok(wire::Refusal { code, message }) => {
                    // A Blender that failed may say nothing the next time, and leave blank
                    // pictures: it is not to be used again either.
                    self.busy.store(code == "blender", Ordering::Relaxed);
                    Err(BlenderError::Refused { code, message })
                }
                Err(_) => Err(BlenderError::Worker(error.message)),
            },
            Err(CallError::Malformed(error)) => Err(BlenderError::Worker(error.to_string())),
            Err(CallError::Closed) => Err(self.died(method).await),
        }
    }

    async fn killed(&self, what: String) -> BlenderError {
        let log = self.process.log.tail();
        self.process.kill();
        self.process.ended().await;
        BlenderError::Hung { what, log }
    }

    async fn died(&self, method: &'static str) -> BlenderError {
        let mut ended = self.process.ended().await;
        if let Some(fault) = self.fault() {
            return BlenderError::Hung { what: fault.to_owned(), log: self.process.log.tail() };
        }
        if ended.status.ends_with("SIGXFSZ") {
            let most = size(self.patience.work);
            ended.status += &format!(": a file of its own was larger than {most} (workers.work_mib)");
        }
        let log = self.process.log.tail();
        let crash = ended.is_fault.then(|| Crash {
            text: self.process.crash_text(),
            blender: self.hello.blender_version.clone(),
            doing: method,
        });
        BlenderError::Died { status: ended.status, log, crash }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Somebody may be looking at the process just now.
        self.process.kill();
    }
}

/// Waits until a process shows no sign of life any more.
async fn hangs(process: &Process, shown: &watch::Sender<Signs>, patience: Patience) -> String {
    let Patience { frozen, stalled, .. } = patience;
    // Most calls are over before anybody looks.
    let mut ticks = None;
    let look = (frozen / 4).clamp(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        tokio::time::sleep(look).await;
        let signs = *shown.borrow();
        if signs.alive.elapsed() > look {
            let now = processor_time(&process.tree());
            if ticks.is_some_and(|before| now > before + 1) {
                // It says nothing, and yet it works: Blender is loading, say.
                shown.send_if_modified(|signs| {
                    signs.alive = Instant::now();
                    false
                });
            }
            ticks = Some(now);
        }
        if signs.alive.elapsed() > frozen {
            return format!(
                "it showed no sign of life for {} s (workers.frozen_seconds)",
                frozen.as_secs_f64()
            );
        }
        if signs.active.elapsed() > stalled {
            return format!("it made no progress for {} s (workers.stalled_seconds)", stalled.as_secs_f64());
        }
    }
}

async fn hello(incoming: &mut mpsc::Receiver<Incoming>) -> Option<Hello> {
    let Incoming::Notification(notification) = incoming.recv().await? else { return None };
    let mut hello: Hello = serde_json::from_value(notification.params).ok()?;
    // People read it.
    hello.blender_version = one_line(&hello.blender_version, 100);
    (notification.method == "hello" && hello.protocol == wire::PROTOCOL).then_some(hello)
}

async fn follow(mut incoming: mpsc::Receiver<Incoming>, signs: Arc<watch::Sender<Signs>>) {
    while let Some(message) = incoming.recv().await {
        match message {
            Incoming::Notification(Notification { params, .. }) => match serde_json::from_value(params) {
                Ok(now) => signs.send_modify(|signs| signs.beat(now)),
                Err(error) => tracing::debug!(%error, "a notification that is no progress"),
            },
            // The host serves nothing to a worker.
            Incoming::Request(request) => request.refuse_method().await,
        }
    }
}
