//! The conversation of a plugin that is a process with its host.
//!
//! Knows nothing of what the messages mean: that is made from the contract.

mod pixels;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::exit;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, mpsc};
use std::thread;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

pub use pixels::{Floats, ask_for_pixels, pixels};

use crate::sys::exports::hotshoe::plugin::renderer::{Guest, Job, Task};
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
    free: Mutex<HashMap<u64, Vec<pixels::Buffer>>>,
    /// Those that are in use: where they lie, and their numbers.
    lent: Mutex<HashMap<usize, u32>>,
}

/// What was answered, as it travels.
type Answer = Result<Box<RawValue>, Refusal>;

/// What is run.
struct Plugin {
    name: String,
    version: String,
    invoke: fn(&str, &str) -> Answer,
}

/// A message of the host.
#[derive(Deserialize)]
struct Heard<'a> {
    #[serde(default)]
    id: Value,
    method: Option<String>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<Refusal>,
}

/// A call of this side.
#[derive(Serialize)]
struct Call<'a> {
    jsonrpc: &'static str,
    id: u64,
    method: &'a str,
    params: Value,
}

/// An answer of this side.
#[derive(Serialize)]
struct Answered {
    jsonrpc: &'static str,
    id: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Refusal>,
}

/// An error as it travels.
#[derive(Debug, Serialize, Deserialize)]
struct Refusal {
    code: i64,
    message: String,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    data: Value,
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
    let text = answer.map_err(|refusal| told(method, refusal))?;
    let read = serde_json::from_str(text.get());
    Ok(read.unwrap_or_else(|error| panic!("the host's answer to {method}: {error}")))
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
        self.send(&Call { jsonrpc: "2.0", id, method, params });
        // A host that is gone takes this process along.
        answer.recv().unwrap_or_else(|_| exit(0))
    }

    fn send(&self, message: &impl Serialize) {
        let mut line = serde_json::to_vec(message).expect("messages are plain data");
        line.push(b'\n');
        let mut writing = self.writing.lock().expect("no code panics under this lock");
        if writing.write_all(&line).is_err() {
            exit(0);
        }
    }

    fn settle(&self, message: Heard) {
        let waiting = message.id.as_u64().and_then(|id| self.waiting().remove(&id));
        let answer = match message.error {
            Some(error) => Err(error),
            None => Ok(message.result.unwrap_or(RawValue::NULL).to_owned()),
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
            let Ok(message) = serde_json::from_str::<Heard>(&line) else { return };
            match message.method {
                Some(method) => self.serve(&method, message.params.map_or("{}", RawValue::get), message.id),
                None => self.settle(message),
            }
        }
    }

    /// Answers a request of the host.
    fn serve(&'static self, method: &str, params: &str, id: Value) {
        let answer = match method {
            // What was called sees by `host.turn` that it is not wanted any more.
            "$/cancel" => return,
            "hello" => {
                let Plugin { name, version, .. } = &self.plugin;
                Ok(raw(&json!({"protocol": PROTOCOL, "name": name, "version": version, "features": []})))
            }
            "ping" | "shutdown" => Ok(RawValue::NULL.to_owned()),
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
        let (result, error) = match answer {
            Ok(result) => (Some(result), None),
            Err(error) => (None, Some(error)),
        };
        self.send(&Answered { jsonrpc: "2.0", id, result, error });
        if method == "shutdown" {
            exit(0);
        }
    }

    fn work(&self, method: &str, params: &str) -> Answer {
        #[derive(Deserialize)]
        struct Within {
            attempt: Option<u64>,
        }
        let attempt = serde_json::from_str(params).ok().and_then(|Within { attempt }| attempt);
        ATTEMPT.set(attempt);
        let answer = catch_unwind(AssertUnwindSafe(|| (self.plugin.invoke)(method, params)));
        ATTEMPT.set(None);
        attempt.map(|attempt| self.free.lock().expect("no code panics under this lock").remove(&attempt));
        answer.unwrap_or_else(|panic| {
            let message = format!("{}{}", words(&*panic), PANICKED.take());
            Err(Refusal { code: INTERNAL_ERROR, message, data: Value::Null })
        })
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, mpsc::Sender<Answer>>> {
        self.waiting.lock().expect("no code panics under this lock")
    }
}

/// Calls the renderer.
fn invoke<G: Guest>(method: &str, params: &str) -> Answer {
    #[derive(Deserialize)]
    struct Plan {
        job: Job,
        cursor: Option<String>,
    }
    #[derive(Deserialize)]
    struct Render {
        task: Task,
    }
    let refused = |code, message| Refusal { code, message, data: Value::Null };
    let misfit = |error: serde_json::Error| refused(INVALID_PARAMS, error.to_string());
    let failed = |error: Error| {
        let message = error.message.clone();
        Refusal { code: CONTRACT_ERROR, message, data: json!(error) }
    };
    match method {
        "renderer.describe" => Ok(raw(&G::describe())),
        "renderer.plan" => {
            let Plan { job, cursor } = serde_json::from_str(params).map_err(misfit)?;
            G::plan(job, cursor).map(|page| raw(&page)).map_err(failed)
        }
        "renderer.render" => {
            let Render { task } = serde_json::from_str(params).map_err(misfit)?;
            G::render(task).map(|outcome| raw(&outcome)).map_err(failed)
        }
        _ => Err(refused(METHOD_NOT_FOUND, format!("no method '{method}'"))),
    }
}

fn raw(value: &impl Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("answers are plain data")
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked without a word")
}
