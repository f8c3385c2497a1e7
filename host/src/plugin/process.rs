//! Plugins that are processes.
//!
//! Owns which processes of a release run, and whether another one may be started.
//! A process takes one task, or as many as its manifest says, one after another and
//! at a time; nothing that it holds of the host outlives a call. Knows nothing of
//! jobs: what a process does wrong fails the calls that it has, and the runner decides
//! on a retry.

mod calls;
mod history;
mod instance;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tokio_util::task::TaskTracker;

use super::bindings::v0_1::renderer;
use super::manifest::{Manifest, Needs};
use super::wire::{Held, Wire};
use super::{Description, Job, Outcome, Page, PlannedTask, PluginError};
use crate::capability::Attempt;
use crate::config::file::{self, seconds};
use crate::config::{self, DataDir, RunDir};
use crate::terms::size;
use calls::Seat;
use history::History;
use instance::Instance;

/// How long the processes may take to end when the host stops.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What the processes of plugins may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Memory of a process with all that it started, in bytes.
    pub memory: u64,
    /// Its work folder, in bytes.
    pub work: u64,
    /// Processes that it starts.
    pub processes: usize,
    /// Processor time between two calls of the host.
    pub cpu: Duration,
    /// How long the first message may take.
    pub hello: Duration,
    /// How long a sign of life may take.
    pub silence: Duration,
    /// Failures that no work has made up for.
    pub failures: u32,
    /// Tasks after which a process is replaced.
    pub tasks: u32,
    /// Growth after which it is replaced, in bytes.
    pub growth: u64,
}

impl From<file::Processes> for Limits {
    fn from(rules: file::Processes) -> Self {
        let bytes = |mib: u64| mib.saturating_mul(1024 * 1024);
        Self {
            memory: bytes(rules.memory_mib),
            work: bytes(rules.work_mib),
            processes: rules.count,
            cpu: seconds(rules.cpu_seconds),
            hello: seconds(rules.hello_seconds),
            silence: seconds(rules.silent_seconds),
            failures: rules.failures,
            tasks: rules.replace_after_tasks,
            growth: bytes(rules.replace_after_growth_mib),
        }
    }
}

/// What is said by whoever gets no more memory: Python, C++, Rust, the C library.
const NO_MEMORY: [&str; 5] =
    ["MemoryError", "bad_alloc", "memory allocation of", "Cannot allocate memory", "os error 12"];
/// And whose file may not grow.
const TOO_LARGE: [&str; 4] = ["SIGXFSZ", "File too large", "file too large", "os error 27"];

impl Limits {
    /// Names the limit behind an error if the kernel has kept it, and the process tells of it.
    fn behind(&self, error: PluginError) -> PluginError {
        let (PluginError::Panic(text) | PluginError::Died(text)) = &error else { return error };
        let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
        let (memory, work) = (size(self.memory), size(self.work));
        match () {
            () if says(&NO_MEMORY) => {
                PluginError::Limit(format!("{memory} of memory (processes.memory_mib): {text}"))
            }
            () if says(&TOO_LARGE) => {
                PluginError::Limit(format!("{work} in its work folder (processes.work_mib): {text}"))
            }
            () => error,
        }
    }
}

/// The processes of all plugins of a host; clones share them.
#[derive(Debug, Clone)]
pub struct Processes(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    data: DataDir,
    /// Where their work folders are, once there is one.
    run: OnceLock<RunDir>,
    /// Follows every process until its end, whoever has dropped it.
    tracker: TaskTracker,
    /// By the digest of the release.
    histories: Mutex<HashMap<String, Arc<Mutex<History>>>>,
    instances: Mutex<Vec<Weak<Instance>>>,
    next_id: AtomicU32,
    next_attempt: AtomicU64,
}

/// The processes of one release.
#[derive(Debug)]
pub struct ProcessPlugin {
    processes: Processes,
    /// What it is.
    pub manifest: Manifest,
    limits: Limits,
    folder: PathBuf,
    history: Arc<Mutex<History>>,
    running: Mutex<Vec<Arc<Instance>>>,
    /// Whoever starts a process that others can share does so alone.
    starting: tokio::sync::Mutex<()>,
}

impl Processes {
    /// Makes the processes of a host; none is started yet.
    pub fn new(data: DataDir) -> Self {
        Self(Arc::new(Shared {
            data,
            run: OnceLock::new(),
            tracker: TaskTracker::new(),
            histories: Mutex::default(),
            instances: Mutex::default(),
            next_id: AtomicU32::new(1),
            next_attempt: AtomicU64::new(1),
        }))
    }

    /// Takes a plugin that lies in a folder that nobody changes any more.
    pub fn plugin(
        &self,
        manifest: Manifest,
        granted: &Needs,
        limits: Limits,
        folder: PathBuf,
        digest: String,
    ) -> Result<ProcessPlugin, PluginError> {
        check_needs(&manifest, granted).map_err(PluginError::Needs)?;
        manifest.program(&folder).map_err(PluginError::Start)?;
        let (running, starting) = Default::default();
        let mut histories = self.0.histories.lock().expect("no code panics under this lock");
        let history = histories.entry(digest).or_default().clone();
        Ok(ProcessPlugin { processes: self.clone(), manifest, limits, folder, history, running, starting })
    }

    /// Ends all processes and waits until they are gone.
    pub async fn stop(&self) {
        let all = std::mem::take(&mut *self.0.instances.lock().expect("no code panics under this lock"));
        all.iter().filter_map(Weak::upgrade).for_each(|instance| instance.retire("the host stops"));
        self.0.tracker.close();
        if tokio::time::timeout(STOP_LIMIT, self.0.tracker.wait()).await.is_err() {
            tracing::warn!(left = self.0.tracker.len(), "processes of plugins do not end");
        }
    }

    /// Makes a folder for one process.
    fn work_folder(&self, id: u32) -> std::io::Result<PathBuf> {
        let run = match self.0.run.get() {
            Some(run) => run,
            None => {
                let made = RunDir::create(&self.0.data)?;
                self.0.run.get_or_init(|| made)
            }
        };
        let folder = run.path().join(format!("plugin-{id}"));
        crate::config::create_private(&folder)?;
        Ok(folder)
    }
}

/// Fails unless all that a manifest needs beside the contract is granted.
fn check_needs(manifest: &Manifest, granted: &Needs) -> Result<(), String> {
    let (needs, name) = (&manifest.process, &manifest.name);
    let missing = |paths: &[PathBuf], granted: &[PathBuf]| {
        let missing = paths.iter().filter(|path| !granted.iter().any(|granted| path.starts_with(granted)));
        missing.map(|path| format!("{:?}", path.display().to_string())).collect::<Vec<_>>().join(", ")
    };
    let lists = [("devices", &needs.devices, &granted.devices), ("read", &needs.read, &granted.read)];
    let lists = lists.into_iter().map(|(key, needs, granted)| (key, missing(needs, granted)));
    let mut lines: Vec<String> = lists
        .filter(|(_, missing)| !missing.is_empty())
        .map(|(key, missing)| format!("{key} = [{missing}]"))
        .collect();
    if needs.network && !granted.network {
        lines.push("network = true".to_owned());
    }
    match lines.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "{name} needs what is not granted to it\nthe operator can say so in the configuration:\n\
             [plugin.{name}]\n{}",
            lines.join("\n")
        )),
    }
}

impl ProcessPlugin {
    /// See [`Plugin::describe`](super::Plugin::describe).
    pub async fn describe(&self, limits: &config::limits::Limits) -> Result<Description, PluginError> {
        // A start that takes long has limits of its own.
        let seat = self.seat().await?;
        let described = seat.call(None, "renderer.describe", |_| Ok(Map::new()));
        let described = tokio::time::timeout(super::DESCRIBE_LIMIT, described).await;
        let described = self.judged(&seat, described.unwrap_or_else(|_| Err(super::too_slow())));
        let described: renderer::Description = described?;
        Description::read(&described.summary, &described.settings_schema, limits)
    }

    /// See [`Plugin::plan`](super::Plugin::plan).
    pub async fn plan(
        &self,
        attempt: Arc<Attempt>,
        job: &Job,
        cursor: Option<&str>,
    ) -> Result<Page, PluginError> {
        let page: renderer::Page = self
            .call(Some(attempt), "renderer.plan", |held| {
                let mut params = Map::new();
                params.insert("job".to_owned(), held.write(renderer::Job::from(job))?);
                params.insert("cursor".to_owned(), json!(cursor));
                Ok(params)
            })
            .await?;
        let page = Page::from(page);
        page.check()?;
        Ok(page)
    }

    /// See [`Plugin::render`](super::Plugin::render).
    pub async fn render(
        &self,
        attempt: Arc<Attempt>,
        job: &Job,
        task: &PlannedTask,
        number: u32,
    ) -> Result<Outcome, PluginError> {
        let outcome: renderer::Outcome = self
            .call(Some(attempt), "renderer.render", |held| {
                let task = held.write(renderer::Task::new(job, task, number))?;
                Ok(Map::from_iter([("task".to_owned(), task)]))
            })
            .await?;
        Ok(outcome.into())
    }

    /// Calls any method, without an attempt: for measurements.
    pub async fn bare(&self, method: &str, params: Map<String, Value>) -> Result<Value, PluginError> {
        self.seat().await?.answer(method, params).await
    }

    /// Makes one call in a process that has room for it.
    async fn call<T: Wire>(
        &self,
        attempt: Option<Arc<Attempt>>,
        method: &str,
        params: impl FnOnce(&mut Held) -> Result<Map<String, Value>, super::wire::Refusal>,
    ) -> Result<T, PluginError> {
        let seat = self.seat().await?;
        let called = seat.call(attempt.clone(), method, params).await;
        if let Some(attempt) = attempt {
            attempt.had_memory(seat.instance.memory.load(Ordering::Relaxed));
        }
        self.judged(&seat, called)
    }

    /// Takes down how a call has ended. That a process died is one failure, however many
    /// calls it had.
    fn judged<T>(&self, seat: &Seat, called: Result<T, PluginError>) -> Result<T, PluginError> {
        match called.map_err(|error| self.limits.behind(error)) {
            Err(error) if error.is_of_the_process() => {
                let error = error.abridged();
                self.running().retain(|instance| !seat.is_in(instance));
                if seat.instance.is_first_failure() {
                    self.failed(&error);
                }
                Err(error)
            }
            Err(error) => Err(error.abridged()),
            Ok(value) => {
                self.history_of(History::worked);
                Ok(value)
            }
        }
    }

    /// Finds a process with room for a task, or starts one.
    async fn seat(&self) -> Result<Seat, PluginError> {
        let Some(most) = self.manifest.tasks else {
            return self.first_seat(&self.start().await?).await;
        };
        self.bury();
        if let Some(seat) = self.free_seat(most) {
            return Ok(seat);
        }
        let _alone = self.starting.lock().await;
        // Somebody may have started one meanwhile, or left.
        match self.free_seat(most) {
            Some(seat) => Ok(seat),
            None => {
                let instance = self.start().await?;
                self.running().push(instance.clone());
                self.first_seat(&instance).await
            }
        }
    }

    fn free_seat(&self, most: u32) -> Option<Seat> {
        self.running().iter().find_map(|instance| Seat::take(instance, most))
    }

    /// Takes a place in a process that has just said hello, and may have died since.
    async fn first_seat(&self, instance: &Arc<Instance>) -> Result<Seat, PluginError> {
        match Seat::take(instance, 1) {
            Some(seat) => Ok(seat),
            None => {
                let error = instance.end().await.abridged();
                if instance.is_first_failure() {
                    self.failed(&error);
                }
                Err(error)
            }
        }
    }

    /// Lets go of processes that have served their time, or died while they had nothing to do.
    fn bury(&self) {
        let mut dead = Vec::new();
        self.running().retain(|instance| {
            // What ends because it was told to is no failure.
            if !instance.is_retired() && instance.is_idle() && instance.has_died() {
                dead.push(instance.clone());
                return false;
            }
            !instance.is_retired()
        });
        for instance in dead.iter().filter(|instance| instance.is_first_failure()) {
            self.failed(&PluginError::Died(instance.obituary()).abridged());
        }
    }

    async fn start(&self) -> Result<Arc<Instance>, PluginError> {
        loop {
            let wait = self.history_of(|history| history.wait(Instant::now(), fastrand::f64()));
            match wait.map_err(PluginError::Quarantined)? {
                Duration::ZERO => break,
                wait => tokio::time::sleep(wait).await,
            }
        }
        let id = self.processes.0.next_id.fetch_add(1, Ordering::Relaxed);
        let instance = Instance::start(self, id).await.map_err(PluginError::abridged);
        let instance = instance.inspect_err(|error| {
            if error.is_of_the_process() {
                self.failed(error);
            }
        })?;
        let mut all = self.processes.0.instances.lock().expect("no code panics under this lock");
        all.retain(|instance| instance.strong_count() > 0);
        all.push(Arc::downgrade(&instance));
        Ok(instance)
    }

    fn failed(&self, error: &PluginError) {
        let (reason, most) = (error.to_string(), self.limits.failures);
        let first = reason.lines().next().unwrap_or_default().to_owned();
        let plugin = format!("{}@{}", self.manifest.name, self.manifest.version);
        tracing::info!(plugin, "{reason}");
        self.history_of(|history| {
            if let Some(why) = history.failed(Instant::now(), &first, most) {
                tracing::error!(plugin, why, "is quarantined until the host is started again");
            }
        });
    }

    fn history_of<T>(&self, of: impl FnOnce(&mut History) -> T) -> T {
        of(&mut self.history.lock().expect("no code panics under this lock"))
    }

    fn running(&self) -> MutexGuard<'_, Vec<Arc<Instance>>> {
        self.running.lock().expect("no code panics under this lock")
    }
}

impl Drop for ProcessPlugin {
    fn drop(&mut self) {
        let running = std::mem::take(&mut *self.running());
        running.iter().for_each(|instance| instance.retire("its release is not in use"));
    }
}
