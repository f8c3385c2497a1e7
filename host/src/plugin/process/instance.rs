//! One process of a plugin, from its hello to its end.
//!
//! ```text
//! started ──hello──► serves ──retired──► shutdown, SIGTERM, SIGKILL ──► ended
//!                      └──breaks a rule──► SIGKILL ─────────────────────► ended
//! ```

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{Limits, ProcessPlugin, Processes};
use crate::capability::{Attempt, CapabilityError, Code, ERROR_TEXT, abridged, harmless};
use crate::plugin::manifest::PATH;
use crate::plugin::wire::buffers::PixelLine;
use crate::plugin::wire::{Arguments, CONTRACT_ERROR, Held, NO_ATTEMPT, Refusal, Wire};
use crate::plugin::{PluginError, TOLD};
use crate::process::sandbox::{Bounds, Sandbox};
use crate::process::{Process, guarded, inherit};
use crate::rpc::{self, CallError, ErrorObject, Incoming, Peer, Pending, Request};

/// The version of the messages.
const PROTOCOL: u32 = 1;
/// The version of the contract.
const API: &str = "0.1.0";
/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How often a sign of life is asked for.
const PING: Duration = Duration::from_secs(5);
/// How long each step of an end may take: the message, the signal.
const STEP: Duration = Duration::from_secs(2);
/// How many files a work folder may hold.
const FILES: usize = 10_000;
/// How many lines a second of what it prints go to the log.
const LINES: u32 = 100;

/// A process that serves.
#[derive(Debug)]
pub(super) struct Instance {
    /// Its number in this host.
    id: u32,
    name: String,
    processes: Processes,
    process: Process,
    peer: Peer,
    home: PathBuf,
    /// Where the calls of each attempt go.
    attempts: Mutex<HashMap<u64, mpsc::Sender<Request>>>,
    /// The next number of a handle.
    numbers: Arc<AtomicU32>,
    pixels: Arc<PixelLine>,
    /// Why it is being ended, if it is.
    fault: OnceLock<Fault>,
    retired: OnceLock<()>,
    busy: AtomicU32,
    served: AtomicU32,
    first_memory: OnceLock<u64>,
    /// Whether it takes one task and no more.
    alone: bool,
}

/// What a process did wrong.
#[derive(Debug, Clone)]
enum Fault {
    /// It took more than it may.
    Limit(String),
    /// It broke a rule.
    Rule(String),
}

/// The place of one task in a process.
#[derive(Debug)]
pub(super) struct Seat {
    instance: Arc<Instance>,
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
        let limits = processes.0.limits;
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
        let limits = rpc::Limits { patience: limits.silence, ..rpc::Limits::of_a_child() };
        let (peer, incoming) = Peer::start(reading, writing, limits);
        let instance = Self {
            id,
            name,
            processes,
            process,
            peer,
            home,
            attempts: Mutex::default(),
            numbers: Arc::new(AtomicU32::new(1)),
            pixels: Arc::new(pixels),
            fault: OnceLock::new(),
            retired: OnceLock::new(),
            busy: AtomicU32::new(0),
            served: AtomicU32::new(0),
            first_memory: OnceLock::new(),
            alone: plugin.manifest.tasks.is_none(),
        };
        instance.hello(plugin).await?;
        let instance = Arc::new(instance);
        tokio::spawn(serve(incoming, Arc::downgrade(&instance)));
        instance.watch();
        Ok(instance)
    }

    async fn hello(&self, plugin: &ProcessPlugin) -> Result<(), PluginError> {
        let limit = self.limits().hello;
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
        if (&hello.name, &hello.version) != (&manifest.name, &manifest.version) {
            let (said, known) = (format!("{}@{}", hello.name, hello.version), &self.name);
            return Err(broke(format!("it says that it is {said}, and its plugin.toml that it is {known}")));
        }
        Ok(())
    }

    fn limits(&self) -> &Limits {
        &self.processes.0.limits
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
                if let Ok(Err(limit)) = looked {
                    return instance.break_off(Fault::Limit(limit));
                }
                if pinged.elapsed() > PING.min(instance.limits().silence) {
                    pinged = Instant::now();
                    tokio::spawn(instance.ping());
                }
            }
        });
    }

    /// Fails with the limit that it is beyond. Blocks.
    fn look(&self) -> Result<(), String> {
        let Limits { memory, work, processes, .. } = *self.limits();
        let tree = self.process.tree();
        // The guard and the first process of the namespace are the host's.
        let count = tree.len().saturating_sub(2);
        if count > processes {
            return Err(format!("{processes} processes (it had {count})"));
        }
        let used = self.process.memory();
        let first = *self.first_memory.get_or_init(|| used);
        if used > memory {
            return Err(format!("{memory} bytes of memory (it had {used})"));
        }
        if used.saturating_sub(first) > self.limits().growth {
            self.retire_quietly("it has grown");
        }
        folder_size(&self.home, work)
    }

    async fn ping(self: Arc<Self>) {
        let limit = self.limits().silence;
        let ping = async { self.peer.call::<Value>("ping", &json!({})).await };
        match tokio::time::timeout(limit, ping).await {
            Ok(Ok(_) | Err(CallError::Closed)) => {}
            Ok(Err(error)) => self.break_off(Fault::Rule(format!("answered a ping with an error: {error}"))),
            Err(_) => {
                let what = format!("showed no sign of life for {} s", limit.as_secs_f64());
                self.break_off(Fault::Rule(what));
            }
        }
    }

    fn break_off(&self, fault: Fault) {
        let _ = self.fault.set(fault);
        self.process.kill();
    }

    /// Waits for the end of a process that is ending, and says why it came to it.
    async fn end(&self) -> PluginError {
        let hung_up = self.peer.fault().map(str::to_owned);
        if hung_up.is_some() {
            self.process.kill();
        }
        // One that has closed its end without a word may take its time to exit.
        let waited = tokio::time::timeout(STEP, async {
            while !self.process.has_ended() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let left = waited.await.is_err();
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

    pub(super) fn is_idle(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.get().is_some()
    }

    /// Takes no more tasks; ends once it has none.
    pub(super) fn retire(self: &Arc<Self>, reason: &str) {
        self.retire_quietly(reason);
        if self.is_idle() {
            self.processes.0.tracker.spawn(self.clone().end_gently());
        }
    }

    fn retire_quietly(&self, reason: &str) {
        if self.retired.set(()).is_ok() {
            tracing::debug!(plugin = self.name, process = self.id, reason, "takes no more tasks");
        }
    }

    /// Asks the process to end, then tells it to, then makes it.
    async fn end_gently(self: Arc<Self>) {
        let asked = async { self.peer.call::<Value>("shutdown", &json!({})).await };
        let _ = tokio::time::timeout(STEP, asked).await;
        let has_ended = || async {
            while !self.process.has_ended() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(STEP, has_ended()).await.is_err() {
            self.process.terminate();
            if tokio::time::timeout(STEP, has_ended()).await.is_err() {
                tracing::debug!(plugin = self.name, "does not end; killing it");
            }
        }
        self.process.kill();
        self.process.ended().await;
    }

    fn attempts(&self) -> MutexGuard<'_, HashMap<u64, mpsc::Sender<Request>>> {
        self.attempts.lock().expect("no code panics under this lock")
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.process.kill();
        let _ = fs::remove_dir_all(&self.home);
    }
}

impl Seat {
    /// Takes a place in a process, if it has one.
    pub(super) fn take(instance: &Arc<Instance>, most: u32) -> Option<Self> {
        if instance.is_retired() || instance.has_died() {
            return None;
        }
        let taken = instance
            .busy
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |busy| (busy < most).then_some(busy + 1));
        taken.is_ok().then(|| Self { instance: instance.clone() })
    }

    /// Whether it is a place in that process.
    pub(super) fn is_in(&self, instance: &Arc<Instance>) -> bool {
        Arc::ptr_eq(&self.instance, instance)
    }

    /// Makes a call; all that the process holds for it is dropped at its end.
    pub(super) async fn call<T: Wire>(
        &self,
        attempt: Option<Arc<Attempt>>,
        method: &str,
        params: impl FnOnce(&mut Held) -> Result<Map<String, Value>, Refusal>,
    ) -> Result<T, PluginError> {
        let instance = &self.instance;
        let (numbers, pixels) = (instance.numbers.clone(), instance.pixels.clone());
        let handles = instance.limits().handles;
        let mut held = Held::new(attempt.clone(), handles, numbers.clone(), pixels.clone());
        let mut params = params(&mut held).map_err(|refusal| {
            PluginError::Host(format!("the call cannot be written: {}", ErrorObject::from(refusal).message))
        })?;
        let mut _serving = None;
        let mut _registered = None;
        if attempt.is_some() {
            let id = instance.processes.0.next_attempt.fetch_add(1, Ordering::Relaxed);
            params.insert("attempt".to_owned(), id.into());
            // As many as the other side may have open at a time.
            let (queue, calls) = mpsc::channel(rpc::Limits::of_a_child().requests);
            instance.attempts().insert(id, queue);
            _registered = Some(Registered { instance, id });
            _serving = Some(AbortOnDropHandle::new(tokio::spawn(attend(held, calls))));
        }
        let answer = self.answer(method, params).await;
        drop(_registered);
        if let Some(serving) = _serving {
            // Its handles drop before the attempt is over.
            serving.abort();
            let _ = serving.await;
        }
        match answer {
            Ok(value) => {
                let mut plain = Held::new(None, handles, numbers, pixels);
                let fits = plain.read(value);
                fits.map_err(|refusal| {
                    let what = ErrorObject::from(refusal).message;
                    PluginError::Contract(format!("its answer to {method} does not fit: {what}"))
                })
            }
            Err(error) => Err(error),
        }
    }

    async fn answer(&self, method: &str, params: Map<String, Value>) -> Result<Value, PluginError> {
        let instance = &self.instance;
        let Ok(pending) = instance.peer.ask(method, &params).await else { return Err(instance.end().await) };
        let mut call = Call { instance, pending: Some(pending) };
        let result = call.pending.as_mut().expect("it is there until the drop").result().await;
        call.pending = None;
        match result {
            Ok(value) => Ok(value),
            Err(CallError::Answer(error)) => Err(told(error)),
            Err(CallError::Closed) => Err(instance.end().await),
            Err(CallError::Malformed(error)) => Err(PluginError::Contract(error.to_string())),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let instance = &self.instance;
        let served = instance.served.fetch_add(1, Ordering::Relaxed) + 1;
        let is_last = instance.busy.fetch_sub(1, Ordering::Relaxed) == 1;
        if served >= instance.limits().tasks {
            instance.retire_quietly("it has served its time");
        }
        if is_last && (instance.is_retired() || instance.alone) {
            instance.retire("its task is over");
        }
    }
}

/// An attempt that calls are served for.
struct Registered<'a> {
    instance: &'a Instance,
    id: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.instance.attempts().remove(&self.id);
    }
}

/// A call of the process. One that nobody waits for any more is canceled, and the
/// process ended if it does not heed that.
struct Call<'a> {
    instance: &'a Arc<Instance>,
    pending: Option<Pending>,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let Some(mut pending) = self.pending.take() else { return };
        let instance = self.instance.clone();
        tokio::spawn(async move {
            let heeded = async {
                instance.peer.notify("$/cancel", &json!({"id": pending.id})).await?;
                pending.result::<Value>().await
            };
            if tokio::time::timeout(STEP, heeded).await.is_err() {
                let what = format!("did not end a canceled call within {} s", STEP.as_secs());
                instance.break_off(Fault::Rule(what));
            }
        });
    }
}

/// Takes what a process says by itself to the attempts that it says it for.
async fn serve(mut incoming: mpsc::Receiver<Incoming>, instance: Weak<Instance>) {
    while let Some(message) = incoming.recv().await {
        let Some(instance) = instance.upgrade() else { return };
        let request = match message {
            Incoming::Request(request) => request,
            Incoming::Notification(notification) => {
                let method = harmless(notification.method, 64);
                let what = format!("sent the notification '{method}', which is none of the contract");
                return instance.break_off(Fault::Rule(what));
            }
        };
        let attempt = request.params.get("attempt").and_then(Value::as_u64);
        let queue = attempt.and_then(|attempt| instance.attempts().get(&attempt).cloned());
        drop(instance);
        let refused = match (queue, attempt) {
            (Some(queue), _) => match queue.try_send(request) {
                Ok(()) => continue,
                Err(unsent) => (unsent.into_inner(), ErrorObject::new(NO_ATTEMPT, "the attempt is over")),
            },
            (None, Some(attempt)) => {
                let what = format!("there is no attempt {attempt}: it is over, or was never this process's");
                (request, ErrorObject::new(NO_ATTEMPT, what))
            }
            (None, None) => {
                let what = "attempt: every call says which attempt it belongs to";
                (request, ErrorObject::new(rpc::INVALID_PARAMS, what))
            }
        };
        let (request, error) = refused;
        request.answer(Err(error)).await;
    }
}

/// Carries out the calls of one attempt, one after another as they came.
async fn attend(mut held: Held, mut calls: mpsc::Receiver<Request>) {
    while let Some(mut request) = calls.recv().await {
        let (method, params) = (std::mem::take(&mut request.method), std::mem::take(&mut request.params));
        let canceled = request.canceled.clone();
        let reply = tokio::select! {
            reply = carry_out(&mut held, &method, params) => reply,
            () = canceled.cancelled() => Err(ErrorObject::new(rpc::CANCELED, "canceled")),
        };
        request.answer(reply).await;
    }
}

async fn carry_out(held: &mut Held, method: &str, params: Value) -> Result<Value, ErrorObject> {
    let mut arguments = Arguments::new(params)?;
    arguments.attempt()?;
    Ok(held.call(method, arguments).await?)
}

/// Says what an error of a process means: the contract's own, else that it panicked.
fn told(error: ErrorObject) -> PluginError {
    #[derive(Deserialize)]
    struct Told {
        code: Code,
        message: String,
    }
    match serde_json::from_value(error.data) {
        Ok(Told { code, message }) if error.code == CONTRACT_ERROR => {
            PluginError::Answer(CapabilityError::new(code, abridged(message, ERROR_TEXT)))
        }
        _ => PluginError::Panic(abridged(error.message, TOLD)),
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
        read,
        work: home.to_owned(),
        devices: manifest.process.devices.clone(),
        network: manifest.process.network,
        memory: limits.memory,
        file: limits.work,
    };
    let guard = std::env::current_exe()
        .map_err(|error| PluginError::Host(format!("cannot find this program: {error}")))?;
    let mut command = guarded(&guard, &Sandbox::Plugin(bounds), &program);
    command.args(&manifest.command[1..]).current_dir(&plugin.folder).env_clear();
    command.env("PATH", PATH).env("HOME", home).env("TMPDIR", home);
    command.env("LC_ALL", "C.UTF-8").env("LANG", "C.UTF-8");
    Ok(command)
}

/// Fails with the limit if a folder holds more than that. Blocks.
fn folder_size(folder: &Path, most: u64) -> Result<(), String> {
    let (mut size, mut files, mut folders) = (0, 0, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            // It may have been removed by now; links are not followed.
            let Ok(info) = entry.metadata() else { continue };
            (size, files) = (size + info.blocks() * 512, files + 1);
            if info.is_dir() {
                folders.push(entry.path());
            }
            if files > FILES {
                return Err(format!("{FILES} files in its work folder"));
            }
        }
    }
    if size > most {
        return Err(format!("{most} bytes in its work folder (it had {size})"));
    }
    Ok(())
}
