//! One process of a plugin, from its hello to its end.
//!
//! ```text
//! started ──hello──► serves ──retired──► shutdown, SIGTERM, SIGKILL ──► ended
//!                      └──breaks a rule──► SIGKILL ─────────────────────► ended
//! ```

use std::collections::HashMap;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::mpsc;

use super::calls::serve;
use super::{Limits, ProcessPlugin, Processes};
use crate::capability::{Attempt, harmless};
use crate::folders::{self, remove_soon};
use crate::plugin::PluginError;
use crate::plugin::bindings::v0_1::API;
use crate::plugin::manifest::PATH;
use crate::plugin::wire::Held;
use crate::plugin::wire::buffers::PixelLine;
use crate::process::measure::{InUse, in_use, own_times, processor_time};
use crate::process::sandbox::{Bounds, Kind, Sandbox};
use crate::process::{Process, guarded, inherit};
use crate::rpc::{self, CallError, Peer, Request};
use crate::terms::size;

/// The version of the messages.
const PROTOCOL: u32 = 1;
/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How often a sign of life is asked for.
const PING: Duration = Duration::from_secs(5);
/// How long each step of an end may take: the message, the signal.
pub(super) const STEP: Duration = Duration::from_secs(2);
/// Clock ticks a second, as the kernel tells times to programs.
const TICKS: f64 = 100.0;
/// How many lines a second of what it prints go to the log.
const LINES: u32 = 100;

/// A process that serves.
#[derive(Debug)]
pub(super) struct Instance {
    /// Its number in this host.
    id: u32,
    name: String,
    pub(super) limits: Limits,
    pub(super) processes: Processes,
    process: Process,
    pub(super) peer: Peer,
    home: PathBuf,
    /// Where the calls of each attempt go.
    attempts: Mutex<HashMap<u64, mpsc::Sender<Request>>>,
    /// The next number of a handle.
    numbers: Arc<AtomicU32>,
    pixels: Arc<PixelLine>,
    /// Why it is being ended, if it is.
    fault: OnceLock<Fault>,
    retired: AtomicBool,
    /// Tasks that it has now, and tasks that it has had.
    pub(super) busy: AtomicU32,
    pub(super) served: AtomicU32,
    /// How often it has called the host.
    pub(super) calls: AtomicU64,
    /// Whether its failure was taken down.
    judged: AtomicBool,
    spent: Mutex<Spent>,
    first_memory: OnceLock<u64>,
    /// When it was last looked at, in bytes.
    pub(super) memory: AtomicU64,
    /// Whether it takes one task and no more.
    pub(super) alone: bool,
}

/// The processor time of a process since it was last seen to call the host, or to begin or end its
/// work; in clock ticks.
#[derive(Debug)]
struct Spent {
    is_idle: bool,
    /// How often it had called.
    calls: u64,
    since: Instant,
    /// What it had used by then with its children that it had waited for.
    ended: u64,
    /// What was seen to be used since then, by whoever is there or has been.
    sum: u64,
    /// What each of its processes had used by itself when it was last looked at.
    own: HashMap<i32, u64>,
}

impl Spent {
    fn add(&mut self, own: HashMap<i32, u64>) {
        let before = std::mem::replace(&mut self.own, own);
        let more = |(pid, now): (&i32, &u64)| now.saturating_sub(before.get(pid).copied().unwrap_or(0));
        self.sum += self.own.iter().map(more).sum::<u64>();
    }
}

/// What a process did wrong.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// It took more than it may.
    Limit(String),
    /// It broke a rule.
    Rule(String),
}

/// What a process says of itself.
#[derive(Debug, Deserialize)]
struct Hello {
    protocol: u32,
    name: String,
    version: String,
}

impl Instance {
    /// Starts a process and waits for its hello.
    pub(super) async fn start(plugin: &ProcessPlugin, id: u32) -> Result<Arc<Self>, PluginError> {
        let host = |error: std::io::Error| PluginError::Host(format!("cannot start a process: {error}"));
        let processes = plugin.processes.clone();
        let limits = plugin.limits;
        let home = processes.work_folder(id).map_err(host)?;
        let (ours, theirs) = StdUnixStream::pair().map_err(host)?;
        let (pixels, their_pixels) = PixelLine::pair().map_err(host)?;
        let mut command = command(plugin, &home, &limits)?;
        let (theirs, name) = (theirs.into(), format!("{}@{}", plugin.manifest.name, plugin.manifest.version));
        inherit(&mut command, "HOTSHOE_FD", &theirs);
        inherit(&mut command, "HOTSHOE_PIXELS_FD", &their_pixels);
        let each = printing(name.clone());
        let process = Process::start(command, name.clone(), &processes.0.tracker, each).map_err(host)?;
        drop((theirs, their_pixels));
        ours.set_nonblocking(true).map_err(host)?;
        let (reading, writing) = UnixStream::from_std(ours).map_err(host)?.into_split();
        let patient = rpc::Limits { patience: limits.silence, ..rpc::Limits::of_a_child() };
        let (peer, incoming) = Peer::start(reading, writing, patient);
        let instance = Self {
            id,
            name,
            limits,
            processes,
            process,
            peer,
            home,
            attempts: Mutex::default(),
            numbers: Arc::new(AtomicU32::new(1)),
            pixels: Arc::new(pixels),
            fault: OnceLock::new(),
            retired: AtomicBool::new(false),
            busy: AtomicU32::new(0),
            served: AtomicU32::new(0),
            calls: AtomicU64::new(0),
            judged: AtomicBool::new(false),
            spent: Mutex::new(Spent {
                is_idle: true,
                calls: 0,
                since: Instant::now(),
                ended: 0,
                sum: 0,
                own: HashMap::new(),
            }),
            first_memory: OnceLock::new(),
            memory: AtomicU64::new(0),
            alone: plugin.manifest.tasks.is_none(),
        };
        let instance = Arc::new(instance);
        instance.watch();
        instance.hello(plugin).await?;
        tokio::spawn(serve(incoming, Arc::downgrade(&instance)));
        Ok(instance)
    }

    async fn hello(&self, plugin: &ProcessPlugin) -> Result<(), PluginError> {
        let limit = self.limits.hello;
        let params =
            json!({"protocol": PROTOCOL, "host": env!("CARGO_PKG_VERSION"), "api": API, "features": []});
        let said = tokio::time::timeout(limit, self.peer.call("hello", &params)).await;
        let broke = |what: String| PluginError::Contract(format!("{what}{}", self.process.log.tail()));
        let hello: Hello = match said {
            Err(_) => {
                let what = format!("did not answer hello in {} s", limit.as_secs_f64());
                return Err(PluginError::Died(format!("{what}{}", self.process.log.tail())));
            }
            Ok(Err(CallError::Closed)) => return Err(self.end().await),
            Ok(Err(CallError::Answer(error))) => {
                return Err(broke(format!("it refused hello: {}", error.message)));
            }
            Ok(Err(CallError::Malformed(error))) => {
                return Err(broke(format!("its answer to hello does not fit: {error}")));
            }
            Ok(Ok(hello)) => hello,
        };
        let manifest = &plugin.manifest;
        if hello.protocol != PROTOCOL {
            let theirs = hello.protocol;
            return Err(broke(format!("it speaks protocol {theirs}, this host {PROTOCOL}")));
        }
        if hello.name != manifest.name || hello.version != manifest.version.to_string() {
            let (said, known) = (format!("{}@{}", hello.name, hello.version), &self.name);
            return Err(broke(format!("it says that it is {said}, and its plugin.toml that it is {known}")));
        }
        Ok(())
    }

    /// Makes what an attempt holds of the host, at first nothing.
    pub(super) fn held(&self, attempt: Option<Arc<Attempt>>) -> Held {
        let limits = attempt.as_ref().map(|attempt| attempt.by.limits).unwrap_or_default();
        Held::new(attempt, &limits, self.numbers.clone(), self.pixels.clone())
    }

    /// Looks after the process for as long as anybody holds it.
    fn watch(self: &Arc<Self>) {
        let (weak, mut pinged) = (Arc::downgrade(self), Instant::now());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let Some(instance) = weak.upgrade() else { return };
                if instance.has_died() {
                    return;
                }
                let looking = instance.clone();
                let looked = tokio::task::spawn_blocking(move || looking.look()).await;
                if let Ok(Err(fault)) = looked {
                    return instance.break_off(fault);
                }
                let is_up = instance.served.load(Ordering::Relaxed) > 0 || !instance.is_idle();
                if is_up && pinged.elapsed() > PING.min(instance.limits.silence) {
                    pinged = Instant::now();
                    tokio::spawn(instance.ping());
                }
            }
        });
    }

    /// Fails with the limit that it is beyond, or the rule that it breaks. Blocks.
    fn look(&self) -> Result<(), Fault> {
        let Limits { memory: most, work, processes, .. } = self.limits;
        let tree = self.process.tree();
        // The guard and the first process of the namespace are the host's.
        let count = tree.len().saturating_sub(2);
        if count > processes {
            return Err(Fault::Limit(format!("{processes} processes (it had {count}; processes.count)")));
        }
        let InUse { memory: used, nameless } = in_use(&tree, &self.home).map_err(Fault::Rule)?;
        self.memory.store(used, Ordering::Relaxed);
        // Before its first task it is still coming up.
        let has_served = self.served.load(Ordering::Relaxed) > 0;
        let first = if has_served { *self.first_memory.get_or_init(|| used) } else { used };
        if used > most {
            let limit = format!("{} of memory (it had {}; processes.memory_mib)", size(most), size(used));
            return Err(Fault::Limit(limit));
        }
        if let Some(seconds) = self.spun(&tree) {
            let what = "of processor time between two host calls (processes.cpu_seconds)";
            return Err(Fault::Limit(format!("{seconds} s {what}")));
        }
        if used.saturating_sub(first) > self.limits.growth {
            self.retire_quietly("it has grown");
        }
        let beyond = |error| Fault::Limit(format!("what can be looked at of its work folder: {error}"));
        let files = folders::size(&self.home).map_err(beyond)?;
        let used = files + nameless;
        if used > work {
            let (work, used) = (size(work), size(used));
            let limit = format!("{work} in its work folder (it had {used}; processes.work_mib)");
            return Err(Fault::Limit(limit));
        }
        Ok(())
    }

    /// Returns the limit of processor time if it has used more since it last called the
    /// host, or while it had nothing to do.
    fn spun(&self, tree: &[i32]) -> Option<f64> {
        let (limit, calls) = (self.limits.cpu, self.calls.load(Ordering::Relaxed));
        let (is_idle, ended) = (self.is_idle(), processor_time(tree));
        let mut spent = self.spent.lock().expect("no code panics under this lock");
        spent.add(own_times(tree));
        // What has nothing to do may tidy up, but not work half of the time.
        let rests = is_idle && spent.since.elapsed() > 2 * limit;
        if rests || is_idle != spent.is_idle || calls != spent.calls {
            (spent.is_idle, spent.calls, spent.since) = (is_idle, calls, Instant::now());
            (spent.ended, spent.sum) = (ended, 0);
        }
        // Who waits for his children has their times, who does not has not: the larger is true.
        let used = ended.saturating_sub(spent.ended).max(spent.sum) as f64 / TICKS;
        (used > limit.as_secs_f64()).then_some(limit.as_secs_f64())
    }

    async fn ping(self: Arc<Self>) {
        let limit = self.limits.silence;
        let ping = async { self.peer.call::<Value>("ping", &json!({})).await };
        match tokio::time::timeout(limit, ping).await {
            Ok(Ok(_) | Err(CallError::Closed)) => {}
            Ok(Err(error)) => self.break_off(Fault::Rule(format!("answered a ping with an error: {error}"))),
            Err(_) => {
                let seconds = limit.as_secs_f64();
                let what = format!(
                    "showed no sign of life for {seconds} s: it must answer `ping` also while it works"
                );
                self.break_off(Fault::Rule(what));
            }
        }
    }

    pub(super) fn break_off(&self, fault: Fault) {
        let _ = self.fault.set(fault);
        self.process.kill();
    }

    /// Waits for the end of a process that is ending, and says why it came to it.
    pub(super) async fn end(&self) -> PluginError {
        let hung_up = self.peer.fault().map(str::to_owned);
        if hung_up.is_some() {
            self.process.kill();
        }
        // One that has closed its end without a word may take its time to exit.
        let left = self.process.ended_within(STEP).await.is_none();
        self.process.kill();
        let ended = self.process.ended().await;
        let log = self.process.log.tail();
        match (self.fault.get(), hung_up) {
            (Some(Fault::Limit(limit)), _) => PluginError::Limit(format!("{limit}{log}")),
            (Some(Fault::Rule(what)), _) => PluginError::Died(format!("{what}{log}")),
            (None, Some(what)) => PluginError::Died(format!("{what}{log}")),
            (None, None) if left => PluginError::Died(format!("closed its connection{log}")),
            (None, None) => PluginError::Died(format!("{}{log}", ended.status)),
        }
    }

    /// Says why a process has died that had nothing to do.
    pub(super) fn obituary(&self) -> String {
        let what = match (self.fault.get(), self.peer.fault()) {
            (Some(Fault::Limit(what)), _) => format!("hit its limit of {what}"),
            (Some(Fault::Rule(what)), _) => what.clone(),
            (None, Some(what)) => what.to_owned(),
            (None, None) => "ended by itself".to_owned(),
        };
        format!("{what}, while it had nothing to do{}", self.process.log.tail())
    }

    pub(super) fn has_died(&self) -> bool {
        self.peer.is_closed() || self.process.has_ended() || self.fault.get().is_some()
    }

    /// Whether nobody has taken down yet that it failed.
    pub(super) fn is_first_failure(&self) -> bool {
        !self.judged.swap(true, Ordering::Relaxed)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Takes no more tasks; ends once it has none.
    pub(super) fn retire(self: &Arc<Self>, reason: &str) {
        self.retire_quietly(reason);
        if self.is_idle() {
            self.processes.0.tracker.spawn(self.clone().end_gently());
        }
    }

    pub(super) fn retire_quietly(&self, reason: &str) {
        if !self.retired.swap(true, Ordering::Relaxed) {
            tracing::debug!(plugin = self.name, process = self.id, reason, "takes no more tasks");
        }
    }

    /// Asks the process to end, then tells it to, then makes it.
    async fn end_gently(self: Arc<Self>) {
        let asked = async { self.peer.call::<Value>("shutdown", &json!({})).await };
        let _ = tokio::time::timeout(STEP, asked).await;
        if self.process.ended_within(STEP).await.is_none() {
            self.process.terminate();
            if self.process.ended_within(STEP).await.is_none() {
                tracing::debug!(plugin = self.name, "does not end; killing it");
            }
        }
        self.process.kill();
        self.process.ended().await;
    }

    pub(super) fn attempts(&self) -> MutexGuard<'_, HashMap<u64, mpsc::Sender<Request>>> {
        self.attempts.lock().expect("no code panics under this lock")
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.process.kill();
        remove_soon(std::mem::take(&mut self.home));
    }
}

/// Makes what becomes of the lines that a process prints.
fn printing(plugin: String) -> impl Fn(&str) + Send + 'static {
    let window = Mutex::new((Instant::now(), 0u32));
    move |line| {
        let mut window = window.lock().expect("no code panics under this lock");
        if window.0.elapsed() > Duration::from_secs(1) {
            let left_out = window.1.saturating_sub(LINES);
            if left_out > 0 {
                tracing::warn!(plugin, left_out, "prints more than is kept");
            }
            *window = (Instant::now(), 0);
        }
        window.1 += 1;
        if window.1 <= LINES {
            let line = harmless(line.to_owned(), 1024);
            tracing::info!(plugin, "{line}");
        }
    }
}

/// Builds the command: the guard, then the plugin.
fn command(plugin: &ProcessPlugin, home: &Path, limits: &Limits) -> Result<Command, PluginError> {
    let manifest = &plugin.manifest;
    let program = manifest.program(&plugin.folder).map_err(PluginError::Start)?;
    let mut read = vec![plugin.folder.clone()];
    read.extend(manifest.process.read.iter().cloned());
    let bounds = Bounds {
        kind: Kind::Plugin,
        lenient: false,
        read,
        work: home.to_owned(),
        devices: manifest.process.devices.clone(),
        network: manifest.process.network,
        memory: Some(limits.memory),
        file: limits.work,
        cpu: None,
        apart: true,
    };
    let guard = std::env::current_exe()
        .map_err(|error| PluginError::Host(format!("cannot find this program: {error}")))?;
    let mut command = guarded(&guard, &Sandbox::Bound(bounds.into()), &program);
    command.args(&manifest.command[1..]).current_dir(&plugin.folder).env_clear();
    command.env("PATH", PATH).env("HOME", home).env("TMPDIR", home);
    command.env("LC_ALL", "C.UTF-8").env("LANG", "C.UTF-8");
    Ok(command)
}
