//! A running host, for tests: real process, real socket, workers that stand in for
//! Blender unless a test says otherwise.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Ended, PROGRAM, command, root};

const LONG: Duration = Duration::from_secs(180);

/// A host and all that it keeps; killed when dropped.
pub(crate) struct Farm {
    pub folder: TempDir,
    pub blender: PathBuf,
    /// How its workers behave.
    pub fake: String,
    /// Where the host is to die, as in `HOTSHOE_CRASH`.
    pub crash: Option<String>,
    pub config: String,
    pub environment: Vec<(String, String)>,
    pub workers: u32,
    /// Whether its workers may write where a test looks.
    pub unconfined: bool,
    /// Whether its host is one for those who write plugins.
    pub dev: bool,
    host: Option<Child>,
}

impl Farm {
    /// Prepares a farm whose workers stand in for Blender.
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            blender: PROGRAM.into(),
            fake: String::new(),
            crash: None,
            config: String::new(),
            environment: Vec::new(),
            workers: 2,
            unconfined: false,
            dev: false,
            host: None,
        }
    }

    /// Prepares a farm and starts its host.
    pub(crate) fn start() -> Self {
        let mut farm = Self::new();
        farm.serve();
        farm
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("socket/host.sock")
    }

    /// The command `hotshoe serve`, with this farm's folders.
    pub(crate) fn serve_command(&self) -> Command {
        std::fs::write(self.path("config.toml"), &self.config).unwrap();
        let mut serve = self.hotshoe(&["serve", "--workers", &self.workers.to_string()]);
        serve.arg("--blender").arg(&self.blender).arg("--config").arg(self.path("config.toml"));
        serve.env("HOTSHOE_FAKE", &self.fake).envs(self.environment.iter().cloned());
        if self.dev {
            serve.arg("--dev");
        }
        if self.unconfined {
            serve.args(["--sandbox", "off"]);
        }
        if let Some(crash) = &self.crash {
            serve.env("HOTSHOE_CRASH", crash);
        }
        serve
    }

    /// A command of the program, with this farm's folders.
    pub(crate) fn hotshoe(&self, args: &[&str]) -> Command {
        let mut hotshoe = command(PROGRAM);
        hotshoe.args(args).env("HOTSHOE_DATA", self.path("data")).env("HOTSHOE_SOCKET", self.socket());
        hotshoe
    }

    /// Starts the host, and waits until it answers; false if it died before.
    pub(crate) fn serve(&mut self) -> bool {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut serve = self.serve_command();
        serve.stdout(Stdio::null()).stderr(log).stdin(Stdio::null());
        self.host = Some(serve.spawn().unwrap());
        let began = Instant::now();
        loop {
            if let Some(host) = &mut self.host
                && host.try_wait().unwrap().is_some()
            {
                return false;
            }
            if Client::connect(self).is_some() {
                return true;
            }
            assert!(began.elapsed() < LONG, "the host does not come up: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.host.as_ref().unwrap().id().cast_signed())
    }

    /// Waits until the host has ended by itself.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let status = self.host.as_mut().unwrap().wait().unwrap();
        self.host = None;
        status.code()
    }

    /// Sends the host a signal and waits for its end.
    pub(crate) fn signal(&mut self, signal: Signal) -> Option<i32> {
        let _ = kill(self.pid(), signal);
        self.ended()
    }

    /// Whether the host has ended.
    pub(crate) fn is_dead(&mut self) -> bool {
        self.host.as_mut().is_none_or(|host| host.try_wait().unwrap().is_some())
    }

    /// Runs a command of the program to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        Ended::from(self.hotshoe(args).output().unwrap())
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self).expect("the host answers")
    }

    /// A submission of frames of an example scene.
    pub(crate) fn job(&self, frames: &str) -> Value {
        let scene = self.path("scene.blend");
        if !scene.exists() {
            std::fs::copy(root().join("examples/scenes/orbit.blend"), &scene).unwrap();
        }
        json!({"scene": scene, "frames": frames, "out": self.path("out")})
    }

    /// Lets a plugin work at one frame; returns how that ended (`refused` if it was not begun),
    /// and all that was said of it.
    pub(crate) fn suffers(&self, renderer: &Path) -> (String, String) {
        let mut job = self.job("1");
        job["renderer"] = json!(renderer);
        let id = match self.client().try_call("jobs.submit", job).unwrap() {
            Ok(job) => job["id"].as_str().unwrap().to_owned(),
            Err(error) => return ("refused".to_owned(), error["message"].as_str().unwrap().to_owned()),
        };
        let began = Instant::now();
        loop {
            let job = self.state(&id);
            let state = job["state"].as_str().unwrap().to_owned();
            if ["succeeded", "failed"].contains(&state.as_str()) {
                let events = self.events().into_iter();
                let said = events.filter(|event| event["job"] == id.as_str() || event["id"] == id.as_str());
                let said: Vec<String> =
                    said.filter_map(|event| Some(event["error"]["message"].as_str()?.to_owned())).collect();
                return (state, said.join("\n"));
            }
            assert!(began.elapsed() < Duration::from_secs(120), "{renderer:?}: {job:#}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Submits frames and returns the job's id.
    pub(crate) fn submit(&self, frames: &str) -> String {
        let job = self.client().call("jobs.submit", self.job(frames));
        job["id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn state(&self, id: &str) -> Value {
        self.client().call("jobs.get", json!({"id": id}))
    }

    /// Waits until a job is in a state, and returns it.
    #[track_caller]
    pub(crate) fn wait_for(&self, id: &str, state: &str) -> Value {
        let mut client = self.client();
        let began = Instant::now();
        loop {
            let job = client.call("jobs.get", json!({"id": id}));
            if job["state"] == state {
                return job;
            }
            assert!(began.elapsed() < LONG, "not {state}: {job:#}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// All stored events.
    pub(crate) fn events(&self) -> Vec<Value> {
        let mut client = self.client();
        let mut events: Vec<Value> = Vec::new();
        loop {
            let from = events.last().map_or(0, |event| event["seq"].as_u64().unwrap());
            let page = client.call("events.list", json!({"from": from, "limit": 1000}));
            let page = page["events"].as_array().unwrap();
            if page.is_empty() {
                return events;
            }
            events.extend(page.iter().cloned());
        }
    }

    /// The frames that workers have rendered, in order; with `log=` in `fake`.
    pub(crate) fn rendered(&self) -> Vec<i32> {
        let log = std::fs::read_to_string(self.path("rendered")).unwrap_or_default();
        log.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Waits until workers have rendered so many frames.
    #[track_caller]
    pub(crate) fn wait_for_frames(&self, count: usize) {
        let began = Instant::now();
        while self.rendered().len() < count {
            assert!(began.elapsed() < LONG, "{:?}\n{}", self.rendered(), self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lets workers write down what they render.
    pub(crate) fn keeps_count(mut self) -> Self {
        self.fake = format!("{} log={}", self.fake, self.path("rendered").display());
        self.unconfined = true;
        self
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        if let Some(host) = &mut self.host {
            let _ = host.kill();
            let _ = host.wait();
        }
        if std::thread::panicking() {
            eprintln!("the host said:\n{}", self.log());
        }
    }
}

/// A client that is written here, and not with the program's own code.
pub(crate) struct Client {
    pub reading: BufReader<UnixStream>,
    pub writing: UnixStream,
    next: u64,
    /// Notifications that came while an answer was waited for.
    pub heard: Vec<Value>,
}

impl Client {
    pub(crate) fn connect(farm: &Farm) -> Option<Self> {
        let mut client = Self::raw(&farm.socket())?;
        let token = std::fs::read_to_string(farm.path("socket/host.token")).ok()?;
        let hello = json!({"role": "client", "protocol": 1, "token": token});
        client.try_call("hello", hello)?.ok()?;
        Some(client)
    }

    /// Connects and says nothing yet.
    pub(crate) fn raw(socket: &Path) -> Option<Self> {
        let writing = UnixStream::connect(socket).ok()?;
        writing.set_read_timeout(Some(LONG)).unwrap();
        let reading = BufReader::new(writing.try_clone().unwrap());
        Some(Self { reading, writing, next: 0, heard: Vec::new() })
    }

    pub(crate) fn send(&mut self, text: &str) -> bool {
        self.writing.write_all(format!("{text}\n").as_bytes()).is_ok()
    }

    /// Reads a message; none at the end, or if none comes in time.
    pub(crate) fn read(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.reading.read_line(&mut line) {
            Ok(count) if count > 0 => serde_json::from_str(&line).ok(),
            _ => None,
        }
    }

    /// Fails unless the host closes the connection.
    #[track_caller]
    pub(crate) fn is_closed(&mut self) {
        let mut line = String::new();
        loop {
            line.clear();
            match self.reading.read_line(&mut line) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
                Err(error) => panic!("the connection is not closed: {error}"),
            }
        }
    }

    pub(crate) fn try_call(&mut self, method: &str, params: Value) -> Option<Result<Value, Value>> {
        self.next += 1;
        let request = json!({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params});
        if !self.send(&request.to_string()) {
            return None;
        }
        loop {
            let mut message = self.read()?;
            if message["id"] == self.next {
                return Some(match message.get("error") {
                    Some(error) => Err(error.clone()),
                    None => Ok(message["result"].take()),
                });
            }
            self.heard.push(message);
        }
    }

    #[track_caller]
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        match self.try_call(method, params) {
            Some(Ok(result)) => result,
            other => panic!("{method}: {other:?}"),
        }
    }

    /// Calls what must fail, and returns the code of the error.
    #[track_caller]
    pub(crate) fn code(&mut self, method: &str, params: Value) -> i64 {
        match self.try_call(method, params) {
            Some(Err(error)) => error["code"].as_i64().unwrap(),
            other => panic!("{method}: {other:?}"),
        }
    }
}
