//! What it costs to be a process: calls both ways and pixels, beside a component and
//! other plugin systems that take and give the same record.
//!
//! The plugin is this program itself, with the package that any plugin in Rust uses.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hotshoe_plugin::{Error, Image, Job, Outcome, Page, Region, Renderer, Task, host};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::jobs::Farm;
use super::{Args, Failure, Goal, Reference, Result, Row, Samples, calls, micros, timed};
use crate::cli::client::{Client, News};
use crate::config::DataDir;
use crate::events::EventKind;
use crate::plugin::Plugin;
use crate::plugin::component::Components;
use crate::releases::{Loaded, Release, Releases};
use crate::service::types;

/// The argument that makes this program the plugin.
pub const ARGUMENT: &str = "bench-plugin";
/// The argument that makes this program the other end of a socket.
pub const ECHO: &str = "bench-echo";
/// How often the peers and this program take turns.
const ROUNDS: usize = 5;
/// Calls one after another, and calls of which many are under way, in a round.
const CALLS: usize = 20_000;
const MANY: usize = 100_000;
/// How many of those at a time.
const WINDOW: usize = 64;
/// How often a process is started, and pixels go there and back.
const STARTS: usize = 11;
const COPIES: usize = 51;
/// A picture of 8 MiB.
const WIDTH: u32 = 1024;
const HEIGHT: u32 = 512;
const BYTES: usize = 8 * 1024 * 1024;

/// What a peer prints.
#[derive(Debug, Deserialize)]
struct Peer {
    call_us: f64,
    calls_per_s: Option<f64>,
    first_call_ms: Option<f64>,
}

/// What the plugin measures from its side.
#[derive(Debug, serde::Serialize, Deserialize)]
struct Seen {
    turns: Vec<f64>,
    copies: Vec<f64>,
}

pub(super) async fn run(args: &Args) -> Result<Vec<Row>> {
    if args.peers.is_none() {
        eprintln!("without --peers DIR, beside nothing but sockets; tests/peers/build.sh builds the others");
    }
    let folder = tempfile::tempdir().map_err(Failure::failed)?;
    let config = toml::from_str(&config()?).map_err(Failure::failed)?;
    let data = DataDir::open(Some(folder.path().join("data"))).map_err(Failure::failed)?;
    let components = Components::new().map_err(Failure::failed)?;
    let component = calls::component(&components).await.map_err(Failure::failed)?;
    let releases = Releases::new(components, data, &config);
    let accessory = accessory(folder.path())?;
    let starts = starts(&releases, &accessory).await?;
    let loaded = releases.load(Release::read(&accessory).map_err(Failure::failed)?).await;
    let loaded = loaded.map_err(Failure::failed)?;
    let [mut called, mut rates, mut turns, mut copies, mut sent] = [const { Vec::new() }; 5];
    let [mut go, mut tonic, mut extism] = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (name, peer) in [("go-plugin", &mut go), ("tonic", &mut tonic), ("extism", &mut extism)] {
            if let Some(folder) = &args.peers {
                peer.extend(run_peer(&folder.join(name))?);
            }
        }
        called.extend(tokio::spawn(one_by_one(loaded.clone())).await.map_err(Failure::failed)??);
        rates.push(rate(&loaded).await?);
        let seen = seen(args).await?;
        turns.extend(seen.turns);
        copies.extend(seen.copies);
        sent.extend(sockets().map_err(Failure::failed)?);
    }
    releases.stop().await;
    let mut rows = Vec::new();
    let mut row = |name: &str, unit, values: &[f64], reference: &str, theirs: Vec<f64>, goal| {
        if !theirs.is_empty() {
            let reference = Reference::new(reference, &Samples::new(theirs));
            rows.push(Row::new(name, unit, &Samples::new(values.to_vec()), reference, goal));
        }
    };
    let call = |peer: &[Peer]| peer.iter().map(|peer| peer.call_us).collect();
    let many = |peer: &[Peer]| peer.iter().filter_map(|peer| peer.calls_per_s).collect();
    let first = |peer: &[Peer]| peer.iter().filter_map(|peer| peer.first_call_ms).collect();
    let (one, together) = ("process: call", "process: calls, 64 at a time");
    let any = Goal::Any;
    row("component: call", "µs", &component.0, "Extism", call(&extism), Goal::RatioAtMost(0.2));
    row("component: call", "µs", &component.0, "go-plugin", call(&go), Goal::RatioAtMost(0.01));
    row(one, "µs", &called, "go-plugin", call(&go), Goal::RatioAtMost(1.0));
    row(one, "µs", &called, "tonic", call(&tonic), any);
    row(together, "/s", &rates, "go-plugin", many(&go), Goal::RatioAtLeast(3.0));
    row(together, "/s", &rates, "tonic", many(&tonic), any);
    row("process: start to first answer", "ms", &starts, "go-plugin", first(&go), any);
    row("process: call of the host", "µs", &turns, "a call by the host", called, any);
    row("8 MiB of pixels there and back", "ms", &copies, "socket", sent, Goal::RatioAtMost(0.2));
    Ok(rows)
}

/// Is the plugin, until the host hangs up.
pub fn plugin() -> ! {
    hotshoe_plugin::process::run::<hotshoe_plugin::Adapter<Accessory>>("bench", env!("CARGO_PKG_VERSION"))
}

/// A renderer that measures.
struct Accessory;

impl Renderer for Accessory {
    type Settings = Value;
    const SUMMARY: &'static str = "measures what it costs to be a process";

    fn plan(job: &Job<Value>, _: Option<&str>) -> hotshoe_plugin::Result<Page> {
        Page::of_frames(&job.frames, None)
    }

    fn render(_: &Task<Value>) -> hotshoe_plugin::Result<Outcome> {
        let turn = || micros(timed(host::turn).1, 1);
        let turns = (0..CALLS).map(|_| turn()).collect();
        let (image, region) =
            (Image::create(WIDTH, HEIGHT)?, Region { x: 0, y: 0, width: WIDTH, height: HEIGHT });
        let mut copies = Vec::new();
        let mut pixels = image.read(region)?;
        for round in 0..COPIES {
            pixels[7] = round as f32;
            let began = Instant::now();
            image.write(region, &pixels)?;
            drop(pixels);
            pixels = image.read(region)?;
            copies.push(began.elapsed().as_secs_f64() * 1e3);
            if pixels[7] != round as f32 {
                return Err(Error::unsupported("the pixels that came back are others"));
            }
        }
        let seen = serde_json::to_string(&Seen { turns: thinned(turns), copies })?;
        host::log(host::Level::Info, &seen);
        Ok(Outcome::Done)
    }
}

/// Keeps so few of many that they fit in a line of a log.
fn thinned(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    let all = values.len();
    (0..100).map(|part| (values[part * (all - 1) / 99] * 100.0).round() / 100.0).collect()
}

/// The configuration that lets a plugin run this program, and one process of it go on.
fn config() -> Result<String> {
    let grant = format!("[plugin.bench]\nread = [{:?}]\n", program_folder()?);
    Ok(format!("{grant}[processes]\nreplace_after_tasks = 4294967295\n"))
}

fn program_folder() -> Result<PathBuf> {
    let program = std::env::current_exe().map_err(Failure::failed)?;
    Ok(program.parent().unwrap_or(Path::new("/")).to_owned())
}

/// Makes the folder of the plugin.
fn accessory(above: &Path) -> Result<PathBuf> {
    let folder = above.join("accessory");
    let program = std::env::current_exe().map_err(Failure::failed)?;
    let manifest = format!(
        "name = \"bench\"\nversion = {:?}\napi = \"0.1.0\"\ncommand = [{program:?}, {ARGUMENT:?}]\n\
         capabilities = [\"image\"]\ntasks = {WINDOW}\n[process]\nread = [{:?}]\n",
        env!("CARGO_PKG_VERSION"),
        program_folder()?
    );
    let made = fs::create_dir(&folder).and_then(|()| fs::write(folder.join("plugin.toml"), manifest));
    made.map(|()| folder).map_err(Failure::failed)
}

/// From the wish for a plugin to its first answer.
async fn starts(releases: &Releases, folder: &Path) -> Result<Vec<f64>> {
    let mut values = Vec::new();
    for _ in 0..STARTS {
        let began = Instant::now();
        let loaded = releases.load(Release::read(folder).map_err(Failure::failed)?).await;
        drop(loaded.map_err(Failure::failed)?);
        values.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(values)
}

/// A record of the contract that gives another one.
fn record() -> Map<String, Value> {
    let frames = json!([{"first": 1, "last": 1, "step": 1}]);
    let job = json!({"id": "bench", "scene": "scene", "frames": frames, "settings": "{}"});
    Map::from_iter([("job".to_owned(), job), ("cursor".to_owned(), Value::Null)])
}

async fn one_call(loaded: &Loaded) -> Result<()> {
    let Plugin::Process(process) = &loaded.plugin else { return Err(Failure::failed("it is a process")) };
    let page = process.bare("renderer.plan", record()).await.map_err(Failure::failed)?;
    let is_right = page["tasks"][0]["name"] == "frame-1";
    is_right.then_some(()).ok_or_else(|| Failure::failed("the process answers wrongly"))
}

/// Calls one after another.
async fn one_by_one(loaded: Arc<Loaded>) -> Result<Vec<f64>> {
    let mut values = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let began = Instant::now();
        one_call(&loaded).await?;
        values.push(micros(began.elapsed(), 1));
    }
    Ok(values)
}

/// Calls a second, many at a time.
async fn rate(loaded: &Arc<Loaded>) -> Result<f64> {
    let (began, mut callers) = (Instant::now(), JoinSet::new());
    for _ in 0..WINDOW {
        let loaded = loaded.clone();
        callers.spawn(async move {
            for _ in 0..MANY / WINDOW {
                one_call(&loaded).await?;
            }
            Ok(())
        });
    }
    callers.join_all().await.into_iter().collect::<Result<()>>()?;
    Ok((MANY / WINDOW * WINDOW) as f64 / began.elapsed().as_secs_f64())
}

/// Lets the plugin measure in a host of its own.
async fn seen(args: &Args) -> Result<Seen> {
    let farm = Farm::start(args, "files=no", &config()?).await?;
    let mut client: Client = farm.client().await?;
    client.subscribe(0, None, false).await?;
    let mut job = farm.job(1);
    job["renderer"] = json!(accessory(farm.folder.path())?);
    let _: types::Job = client.call("jobs.submit", &job).await?;
    let deadline = Instant::now() + Duration::from_secs(120);
    while Instant::now() < deadline {
        let Some(News::Events(events)) = client.news().await else { break };
        for event in events {
            match &event.kind {
                EventKind::Log { message, .. } => {
                    if let Ok(seen) = serde_json::from_str(message) {
                        return Ok(seen);
                    }
                }
                EventKind::TaskState { error: Some(error), .. } => {
                    return Err(Failure::failed(&error.message));
                }
                _ => {}
            }
        }
    }
    Err(Failure::failed("the plugin did not measure"))
}

/// The same through a socket, in milliseconds: out of a picture, to another process and
/// back into the picture.
fn sockets() -> std::io::Result<Vec<f64>> {
    let (mut line, far) = UnixStream::pair()?;
    #[expect(clippy::disallowed_methods, reason = "a process without a guard is the reference")]
    let mut echo = Command::new(std::env::current_exe()?).arg(ECHO).stdin(OwnedFd::from(far)).spawn()?;
    let (mut picture, mut pixels) = (vec![1; BYTES], vec![0; BYTES]);
    let mut values = Vec::new();
    for _ in 0..COPIES {
        let began = Instant::now();
        pixels.copy_from_slice(&picture);
        line.write_all(&pixels)?;
        line.read_exact(&mut pixels)?;
        picture.copy_from_slice(&pixels);
        values.push(began.elapsed().as_secs_f64() * 1e3);
    }
    drop(line);
    echo.wait()?;
    Ok(values)
}

/// Is the process at the other end of that socket.
pub fn echo() -> std::io::Result<()> {
    let mut line = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut pixels = vec![0; BYTES];
    while line.read_exact(&mut pixels).is_ok() {
        line.write_all(&pixels)?;
    }
    Ok(())
}

/// Runs another plugin system's own measurement; none if it was not built.
fn run_peer(program: &Path) -> Result<Option<Peer>> {
    if !program.exists() {
        eprintln!("{} is not there", program.display());
        return Ok(None);
    }
    #[expect(clippy::disallowed_methods, reason = "other plugin systems are the reference")]
    let output = Command::new(program).output().map_err(Failure::failed)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let last = String::from_utf8_lossy(&output.stdout);
    let last = last.lines().next_back().unwrap_or_default();
    let told = serde_json::from_str(last);
    told.map(Some).map_err(|_| Failure::failed(format!("{}: {last}\n{said}", program.display())))
}
