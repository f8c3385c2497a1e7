//! The conversation of a plugin that is a process with its host.
//!
//! Knows nothing of what the messages mean: that is made from the contract.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, IoSliceMut, Write};
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::exit;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, mpsc};
use std::thread;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use memmap2::MmapMut;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::sys::exports::hotshoe::plugin::renderer::Guest;
use crate::sys::hotshoe::plugin::types::Error;

const PROTOCOL: u32 = 1;
const CONTRACT_ERROR: i64 = -32000;
const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;
const INTERNAL_ERROR: i64 = -32603;
/// As much as a program's first thread has.
const STACK: usize = 8 * 1024 * 1024;

static CONNECTION: OnceLock<Connection> = OnceLock::new();

thread_local! {
    /// The attempt that this thread works at.
    static ATTEMPT: Cell<Option<u64>> = const { Cell::new(None) };
    /// Where this thread panicked.
    static PANICKED: RefCell<String> = const { RefCell::new(String::new()) };
}

/// This side of the connection.
///
/// Some threads wait for the next line, and whoever reads a call carries it out: between
/// the message and the work no thread has to be woken.
struct Connection {
    reading: Mutex<BufReader<UnixStream>>,
    /// How many threads read or wait to.
    readers: AtomicUsize,
    plugin: Plugin,
    writing: Mutex<UnixStream>,
    pixels: OwnedFd,
    waiting: Mutex<HashMap<u64, mpsc::Sender<Answer>>>,
    next: AtomicU64,
    /// Buffers that came and that nobody has taken yet.
    received: Mutex<HashMap<u32, File>>,
    /// The buffers of each attempt that are not in use.
    free: Mutex<HashMap<u64, Vec<Buffer>>>,
    /// Those that are in use: where they lie, and their numbers.
    lent: Mutex<HashMap<usize, u32>>,
}

type Answer = Result<Value, Refusal>;

/// What is run.
struct Plugin {
    name: String,
    version: String,
    invoke: fn(&str, Value) -> Answer,
}

/// An error as it travels.
#[derive(Debug, Serialize, Deserialize)]
struct Refusal {
    code: i64,
    message: String,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    data: Value,
}

/// Shared memory that holds pixels.
#[derive(Debug)]
struct Buffer {
    number: u32,
    memory: MmapMut,
}

impl Buffer {
    fn floats(&self) -> &[f32] {
        bytemuck::cast_slice(&self.memory)
    }

    fn floats_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.memory)
    }

    fn place(&self) -> usize {
        self.memory.as_ptr().addr()
    }
}

/// What the host keeps for an attempt.
#[derive(Debug)]
pub struct Handle {
    kind: &'static str,
    number: u32,
    attempt: u64,
}

impl Handle {
    /// Takes a number that the host gave.
    pub fn new(kind: &'static str, number: u32) -> Self {
        Self { kind, number, attempt: attempt() }
    }
}

impl Serialize for Handle {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.number.serialize(serializer)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // What outlived its attempt was dropped with it.
        if ATTEMPT.get() == Some(self.attempt) {
            let params = json!({"attempt": self.attempt, self.kind: self.number});
            let _ = connection().call(&format!("{}.drop", self.kind), params);
        }
    }
}

/// Lets a resource travel as the number of its handle.
macro_rules! handle {
    ($resource:ident, $kind:literal) => {
        impl serde::Serialize for $resource {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $resource {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(Self(process::Handle::new($kind, u32::deserialize(deserializer)?)))
            }
        }
    };
}

pub(crate) use handle;

/// Calls a function of the contract that can fail.
pub fn ask<T: DeserializeOwned>(method: &str, params: Value) -> Result<T, Error> {
    let answer = connection().call(method, with_attempt(params));
    let value = answer.map_err(|refusal| told(method, refusal))?;
    Ok(serde_json::from_value(value).unwrap_or_else(|error| panic!("the host's answer to {method}: {error}")))
}

/// Calls a function of the contract that cannot.
pub fn tell<T: DeserializeOwned>(method: &str, params: Value) -> T {
    ask(method, params).unwrap_or_else(|error| panic!("{method}: {}", error.message))
}

/// Calls a function of the contract that gives bytes, if there are any.
pub fn ask_for_bytes(method: &str, params: Value) -> Result<Option<Vec<u8>>, Error> {
    let text: Option<String> = ask(method, params)?;
    Ok(text.map(|text| BASE64_STANDARD.decode(text).expect("the host sends base64")))
}

/// Calls a function of the contract that gives pixels.
pub fn ask_for_pixels(method: &str, mut params: Value) -> Result<Floats, Error> {
    #[derive(Deserialize)]
    struct Sent {
        buffer: u32,
        length: usize,
    }
    let (connection, attempt) = (connection(), attempt());
    let free = connection.free(attempt);
    params["into"] = json!(free.as_ref().map(|buffer| buffer.number));
    let answer = ask(method, params);
    let Sent { buffer, length } = match answer {
        Ok(sent) => sent,
        Err(error) => {
            if let Some(free) = free {
                connection.keep(attempt, free);
            }
            return Err(error);
        }
    };
    let buffer = match free {
        Some(free) if free.number == buffer => free,
        free => {
            // It was too small.
            discard(free);
            connection.take(buffer)
        }
    };
    Ok(Floats { attempt, buffer: Some(buffer), length })
}

/// Puts pixels where the host can read them; what was read from it is there already.
pub fn pixels(pixels: &[f32]) -> Result<Value, Error> {
    let (connection, attempt) = (connection(), attempt());
    let length = pixels.len();
    if let Some(number) = connection.lent().get(&pixels.as_ptr().addr()) {
        return Ok(json!({"buffer": number, "length": length}));
    }
    let mut buffer = match connection.free(attempt) {
        Some(buffer) if buffer.floats().len() >= length => buffer,
        smaller => {
            discard(smaller);
            let number = ask("buffer.create", json!({"length": length.max(1)}))?;
            connection.take(number)
        }
    };
    buffer.floats_mut()[..length].copy_from_slice(pixels);
    let sent = json!({"buffer": buffer.number, "length": length});
    // The call is made before anything else can take it.
    connection.keep(attempt, buffer);
    Ok(sent)
}

fn discard(buffer: Option<Buffer>) {
    if let Some(buffer) = buffer {
        connection().lent().remove(&buffer.place());
        tell::<()>("buffer.drop", json!({"buffer": buffer.number}));
    }
}

/// Floats in memory that the host has, too.
#[derive(Debug)]
pub struct Floats {
    attempt: u64,
    buffer: Option<Buffer>,
    length: usize,
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.buffer.as_ref().expect("it is there until the drop").floats()[..self.length]
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer.as_mut().expect("it is there until the drop").floats_mut()[..self.length]
    }
}

impl Drop for Floats {
    fn drop(&mut self) {
        if let (Some(buffer), Some(connection)) = (self.buffer.take(), CONNECTION.get()) {
            connection.keep(self.attempt, buffer);
        }
    }
}

/// Writes bytes as text.
pub fn text(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// Answers the host until it hangs up, or asks this process to end.
pub fn run<G: Guest>(name: &str, version: &str) -> ! {
    let [line, pixels] = ["HOTSHOE_FD", "HOTSHOE_PIXELS_FD"].map(descriptor);
    let (Some(line), Some(pixels)) = (line, pixels) else {
        eprintln!("{name} is a plugin of Hotshoe: `hotshoe plugin show FOLDER` starts it");
        exit(2)
    };
    let line = UnixStream::from(line);
    let writing = Mutex::new(line.try_clone().expect("a socket can be cloned"));
    let connection = Connection {
        reading: Mutex::new(BufReader::new(line)),
        readers: AtomicUsize::new(1),
        plugin: Plugin { name: name.to_owned(), version: version.to_owned(), invoke: invoke::<G> },
        writing,
        pixels,
        waiting: Mutex::default(),
        next: AtomicU64::new(1),
        received: Mutex::default(),
        free: Mutex::default(),
        lent: Mutex::default(),
    };
    let connection = CONNECTION.get_or_init(|| connection);
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(|place| format!(" (at {place})"));
        PANICKED.set(place.unwrap_or_default());
        print(panic);
    }));
    connection.read();
    // Calls may be under way that nobody waits for any more.
    exit(0)
}

fn descriptor(variable: &str) -> Option<OwnedFd> {
    let number: RawFd = std::env::var(variable).ok()?.parse().ok()?;
    // SAFETY: the host made this process inherit it, for nobody else.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

fn connection() -> &'static Connection {
    CONNECTION.get().expect("the host is there only where the host runs the plugin")
}

fn attempt() -> u64 {
    ATTEMPT.get().expect("the host is there only for `plan` and `render`, in their own thread")
}

fn with_attempt(mut params: Value) -> Value {
    params["attempt"] = attempt().into();
    params
}

/// Reads the contract's error; all others are a fault of this side.
fn told(method: &str, refusal: Refusal) -> Error {
    match serde_json::from_value(refusal.data) {
        Ok(error) if refusal.code == CONTRACT_ERROR => error,
        _ => panic!("{method}: {}", refusal.message),
    }
}

impl Connection {
    fn call(&self, method: &str, params: Value) -> Answer {
        let (sender, answer) = mpsc::channel();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.waiting().insert(id, sender);
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        // A host that is gone takes this process along.
        answer.recv().unwrap_or_else(|_| exit(0))
    }

    fn send(&self, message: &Value) {
        let line = format!("{message}\n");
        let mut writing = self.writing.lock().expect("no code panics under this lock");
        if writing.write_all(line.as_bytes()).is_err() {
            exit(0);
        }
    }

    fn settle(&self, id: Value, mut message: Value) {
        let waiting = id.as_u64().and_then(|id| self.waiting().remove(&id));
        let answer = match message.get_mut("error") {
            Some(error) => Err(serde_json::from_value(error.take()).expect("the host sends errors that fit")),
            None => Ok(message["result"].take()),
        };
        let _ = waiting.map(|waiting| waiting.send(answer));
    }

    /// Reads and answers until the host hangs up.
    fn read(&'static self) {
        let mut line = String::new();
        loop {
            line.clear();
            {
                let mut reading = self.reading.lock().expect("no code panics under this lock");
                if !reading.read_line(&mut line).is_ok_and(|count| count > 0) {
                    return;
                }
            }
            let Ok(mut message) = serde_json::from_str::<Value>(&line) else { return };
            let (id, params) = (message["id"].take(), message["params"].take());
            match message["method"].take() {
                Value::String(method) => self.serve(&method, params, id),
                _ => self.settle(id, message),
            }
        }
    }

    /// Answers a request of the host.
    fn serve(&'static self, method: &str, params: Value, id: Value) {
        let answer = match method {
            // What was called sees by `host.turn` that it is not wanted any more.
            "$/cancel" => return,
            "hello" => {
                let Plugin { name, version, .. } = &self.plugin;
                Ok(json!({"protocol": PROTOCOL, "name": name, "version": version, "features": []}))
            }
            "ping" | "shutdown" => Ok(Value::Null),
            _ => {
                // Somebody must go on reading: answers of the host, and its pings.
                if self.readers.fetch_sub(1, Ordering::Relaxed) == 1 {
                    self.readers.fetch_add(1, Ordering::Relaxed);
                    let reader = thread::Builder::new().stack_size(STACK);
                    reader
                        .spawn(|| {
                            self.read();
                            exit(0)
                        })
                        .expect("a thread can be started");
                }
                let answer = self.work(method, params);
                self.readers.fetch_add(1, Ordering::Relaxed);
                answer
            }
        };
        match answer {
            Ok(result) => self.send(&json!({"jsonrpc": "2.0", "id": id, "result": result})),
            Err(error) => self.send(&json!({"jsonrpc": "2.0", "id": id, "error": error})),
        }
        if method == "shutdown" {
            exit(0);
        }
    }

    fn work(&self, method: &str, params: Value) -> Answer {
        let attempt = params["attempt"].as_u64();
        ATTEMPT.set(attempt);
        let answer = catch_unwind(AssertUnwindSafe(|| (self.plugin.invoke)(method, params)));
        ATTEMPT.set(None);
        attempt.map(|attempt| self.free.lock().expect("no code panics under this lock").remove(&attempt));
        answer.unwrap_or_else(|panic| {
            let message = format!("{}{}", words(&*panic), PANICKED.take());
            Err(Refusal { code: INTERNAL_ERROR, message, data: Value::Null })
        })
    }

    /// Takes the buffer of a number, waiting until it has come.
    fn take(&self, number: u32) -> Buffer {
        let mut received = self.received.lock().expect("no code panics under this lock");
        let file = loop {
            if let Some(file) = received.remove(&number) {
                break file;
            }
            let Some((number, file)) = receive(&self.pixels) else { exit(0) };
            received.insert(number, file);
        };
        // SAFETY: the host has sealed its size, and reads and writes it only during calls
        // that name it.
        let memory = unsafe { MmapMut::map_mut(&file) }.expect("what the host sends can be mapped");
        let buffer = Buffer { number, memory };
        self.lent().insert(buffer.place(), number);
        buffer
    }

    /// Takes a buffer of an attempt that is not in use.
    fn free(&self, attempt: u64) -> Option<Buffer> {
        let mut free = self.free.lock().expect("no code panics under this lock");
        let buffer = free.get_mut(&attempt)?.pop()?;
        self.lent().insert(buffer.place(), buffer.number);
        Some(buffer)
    }

    /// Takes back a buffer that is not in use any more.
    fn keep(&self, attempt: u64, buffer: Buffer) {
        self.lent().remove(&buffer.place());
        if ATTEMPT.get() == Some(attempt) {
            let mut free = self.free.lock().expect("no code panics under this lock");
            free.entry(attempt).or_default().push(buffer);
        }
    }

    fn lent(&self) -> MutexGuard<'_, HashMap<usize, u32>> {
        self.lent.lock().expect("no code panics under this lock")
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, mpsc::Sender<Answer>>> {
        self.waiting.lock().expect("no code panics under this lock")
    }
}

/// Calls the renderer.
fn invoke<G: Guest>(method: &str, mut params: Value) -> Answer {
    let refused = |message: String| Refusal { code: INVALID_PARAMS, message, data: Value::Null };
    let misfit = |error: serde_json::Error| refused(error.to_string());
    let failed = |error: Error| {
        let message = error.message.clone();
        Refusal { code: CONTRACT_ERROR, message, data: json!(error) }
    };
    match method {
        "renderer.describe" => Ok(json!(G::describe())),
        "renderer.plan" => {
            let job = serde_json::from_value(params["job"].take()).map_err(misfit)?;
            let cursor = serde_json::from_value(params["cursor"].take()).map_err(misfit)?;
            G::plan(job, cursor).map(|page| json!(page)).map_err(failed)
        }
        "renderer.render" => {
            let task = serde_json::from_value(params["task"].take()).map_err(misfit)?;
            G::render(task).map(|outcome| json!(outcome)).map_err(failed)
        }
        _ => {
            let message = format!("no method '{method}'");
            Err(Refusal { code: METHOD_NOT_FOUND, message, data: Value::Null })
        }
    }
}

/// Receives a buffer with its number; none if the host is gone.
fn receive(socket: &OwnedFd) -> Option<(u32, File)> {
    let (mut text, mut room) = ([0u8; 32], nix::cmsg_space!([RawFd; 1]));
    let mut parts = [IoSliceMut::new(&mut text)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut room), flags).ok()?;
    let count = message.bytes;
    let rights = message.cmsgs().ok()?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(rights) => rights.first().copied(),
        _ => None,
    })?;
    // SAFETY: the kernel has just made it for this process.
    let file = unsafe { File::from_raw_fd(rights) };
    let number = std::str::from_utf8(&text[..count]).ok()?.parse().ok()?;
    Some((number, file))
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked without a word")
}
