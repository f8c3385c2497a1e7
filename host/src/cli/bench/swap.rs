//! A release that is replaced: how long until the new one serves, and what it costs those
//! who are being served. Beside it the same by the way of others: stop, then load.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::unistd::{SysconfVar, sysconf};
use serde_json::json;
use wasm_metadata::{AddMetadata, AddMetadataField, Version};

use super::jobs::{Farm, percentile};
use super::{Args, Failure, Goal, Reference, Result, Row, Samples};
use crate::cli::client::{Client, News};
use crate::events::{Event, EventKind};
use crate::releases::Release;
use crate::service::types::{Job, Plugin, RolledBack};
use crate::terms::{ReleaseState, TaskState};

/// The renderer that is replaced.
const NAME: &str = "swapped";
/// Swaps of each kind in a run.
const IDLE: usize = 15;
const BUSY: usize = 8;
/// Clients whose tasks follow each other without pause.
const CLIENTS: usize = 8;
/// Swaps that are tried in a run, at most: those in which the processors were not all ours tell
/// of others.
const TRIES: usize = 4 * BUSY;
/// The part of the processors' time that a hypervisor may have given to others.
const STOLEN: f64 = 0.01;
/// How long calls are counted after a swap has begun, and as long without one.
const WINDOW: Duration = Duration::from_millis(1500);
/// New releases serve at once. Workers that do nothing have done their time in seconds, and
/// starting others in their place is not what is measured.
const CONFIG: &str = "[workers]\nreplace_after_renders = 1000000000\n[rollout]\nfirst = 0\ntasks = 0\n";

/// A farm with a folder of plugins.
struct Swapping {
    farm: Farm,
    component: Vec<u8>,
    next: u32,
}

/// What a client has heard.
#[derive(Default)]
struct Heard {
    /// Milliseconds that tasks took.
    took: Vec<f64>,
    failed: usize,
    /// When the first task began on the release that was waited for.
    swapped: Option<Instant>,
}

/// What is known of a host that was busy while releases were replaced.
#[derive(Default)]
struct Busy {
    /// Milliseconds to the first task on each new release.
    swapped: Vec<f64>,
    /// The 99th percentiles of the tasks, in milliseconds, before each swap and in it.
    quiet: Vec<f64>,
    during: Vec<f64>,
    swaps: usize,
    failed: usize,
}

pub(super) async fn run(args: &Args) -> Result<Vec<Row>> {
    let bar = super::bar(u64::from(args.runs) * 3);
    let [mut compiled, mut cached, mut back, mut stopped] = [const { Vec::new() }; 4];
    let (mut busy, mut cut) = (Busy::default(), 0);
    for _ in 0..args.runs {
        let step = |what: &'static str| {
            bar.set_message(what);
            bar.inc(1);
        };
        step("an idle host");
        let mut idle = Swapping::start(args).await?;
        compiled.extend(idle.idle(false).await?);
        cached.extend(idle.idle(true).await?);
        back.extend(idle.roll_back().await?);
        drop(idle);
        step("a busy host");
        let mut swapping = Swapping::start(args).await?;
        swapping.busy(&mut busy).await?;
        step("stop, then load");
        let (time, lost) = swapping.stop_and_load().await?;
        stopped.push(time);
        cut += lost;
    }
    bar.finish_and_clear();
    let within = |what: String, took: Vec<f64>, limit: f64| {
        let reference = Reference { name: "limit".to_owned(), median: limit };
        Row::new(what, "ms", &Samples::new(took), reference, Goal::MedianAtMost(limit))
    };
    let others = Reference::new(format!("stop, then load: {cut} tasks cut"), &Samples::new(stopped));
    let size = component(args)?.len() / 1000;
    let Busy { swapped, quiet, during, swaps, failed } = busy;
    if swapped.is_empty() {
        let what = "something else had these processors in every swap; measure when the machine is less busy";
        return Err(Failure::failed(what));
    }
    let stolen = match swaps - swapped.len() {
        0 => String::new(),
        others => format!(", {others} not counted: processors stolen"),
    };
    Ok(vec![
        within(format!("idle: mv to first task, {size} KB compiled"), compiled, 150.0),
        within("the same, compiled before".to_owned(), cached, 10.0),
        within("rolled back: order to first task on the release before".to_owned(), back, 100.0),
        Row::new(
            format!("8 clients: mv to first task, compiled; {failed} tasks failed in {swaps} swaps{stolen}"),
            "ms",
            &Samples::new(swapped),
            others,
            if failed == 0 { Goal::MedianAtMost(400.0) } else { Goal::MedianAtMost(0.0) },
        ),
        Row::in_turn(
            "8 clients: p99 of their tasks in a swap".to_owned(),
            "ms",
            &during,
            ("quiet", &quiet),
            Goal::RatioAtMost(1.3),
        ),
    ])
}

/// Returns the component whose releases replace each other: the one that is given, or `direct`.
fn component(args: &Args) -> Result<Vec<u8>> {
    let shipped = || Release::shipped().into_iter().find_map(|release| release.bytes().map(<[u8]>::to_vec));
    match &args.component {
        Some(file) => {
            fs::read(file).map_err(|error| Failure::bad_input(format!("{}: {error}", file.display())))
        }
        None => Ok(shipped().unwrap_or_default()),
    }
}

impl Swapping {
    async fn start(args: &Args) -> Result<Self> {
        let farm = Farm::start(args, "files=no", CONFIG).await?;
        let mut swapping = Self { farm, component: component(args)?, next: 0 };
        fs::create_dir_all(swapping.plugins()).map_err(Failure::failed)?;
        let mut client = swapping.farm.listener().await?;
        let version = swapping.replace()?;
        swapping.active(&mut client, &version).await?;
        // The workers come up first.
        swapping.first_task(&mut client, CLIENTS * 8).await?;
        Ok(swapping)
    }

    fn plugins(&self) -> PathBuf {
        self.farm.folder.path().join("data/plugins")
    }

    /// Moves a release that nobody has seen before over the one that serves; returns its version.
    fn replace(&mut self) -> Result<String> {
        self.next += 1;
        let version = format!("1.0.{}", self.next);
        self.put(&version).map(|()| version)
    }

    fn put(&self, version: &str) -> Result {
        let aside = self.aside(version)?;
        fs::rename(aside, self.plugins().join("swapped.wasm")).map_err(Failure::failed)
    }

    /// Makes a release, not in its place yet.
    fn aside(&self, version: &str) -> Result<PathBuf> {
        let mut metadata = AddMetadata::default();
        metadata.name = AddMetadataField::Set(NAME.to_owned());
        metadata.version = AddMetadataField::Set(Version::new(version.to_owned()));
        let bytes = metadata.to_wasm(&self.component).map_err(Failure::failed)?;
        let aside = self.farm.folder.path().join("aside.wasm");
        fs::write(&aside, bytes).map_err(Failure::failed)?;
        Ok(aside)
    }

    /// Waits until a version serves.
    async fn active(&self, client: &mut Client, expected: &str) -> Result {
        self.event(client, |event| match &event.kind {
            EventKind::ReleaseState { version, state, why, .. } if version.as_deref() == Some(expected) => {
                match state {
                    ReleaseState::Active => Some(Ok(())),
                    ReleaseState::Rejected => Some(Err(Failure::failed(why))),
                    _ => None,
                }
            }
            _ => None,
        })
        .await?
    }

    async fn event<T>(&self, client: &mut Client, wanted: impl Fn(&Event) -> Option<T>) -> Result<T> {
        loop {
            let Some(News::Events(events)) = client.news().await else {
                return Err(Failure::failed("the host is gone"));
            };
            if let Some(found) = events.iter().find_map(&wanted) {
                return Ok(found);
            }
        }
    }

    async fn submit(&self, client: &Client, frames: usize) -> Result<Job> {
        let mut job = self.farm.job(frames);
        job["renderer"] = json!(NAME);
        client.call("jobs.submit", &job).await
    }

    /// Waits until the first task of a new job has begun, and the job's end.
    async fn first_task(&self, client: &mut Client, frames: usize) -> Result<Instant> {
        let job = self.submit(client, frames).await?;
        let began = self.event(client, |event| match &event.kind {
            EventKind::TaskStarted { job: id, .. } if *id == job.id => Some(Instant::now()),
            _ => None,
        });
        let began = began.await?;
        let over = self.event(client, |event| match &event.kind {
            EventKind::JobState { id, state, .. } if *id == job.id && state.is_final() => Some(()),
            _ => None,
        });
        over.await.map(|()| began)
    }

    /// Milliseconds from the moment that a file is moved to its place to the first task on it.
    async fn idle(&mut self, is_known: bool) -> Result<Vec<f64>> {
        let mut client = self.farm.listener().await?;
        let mut took = Vec::new();
        for n in 0..IDLE {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let began = Instant::now();
            let version = match is_known {
                // One of the two before.
                true => {
                    let version = format!("1.0.{}", self.next - (n as u32 + 1) % 2);
                    self.put(&version)?;
                    version
                }
                false => self.replace()?,
            };
            self.active(&mut client, &version).await?;
            let first = self.first_task(&mut client, 1).await?;
            took.push((first - began).as_secs_f64() * 1e3);
        }
        Ok(took)
    }

    /// Milliseconds from the order to go back to the first task on the release before.
    async fn roll_back(&mut self) -> Result<Vec<f64>> {
        let mut client = self.farm.listener().await?;
        let mut took = Vec::new();
        for _ in 0..IDLE {
            let began = Instant::now();
            let done: RolledBack = client.call("plugins.rollback", &json!({"id": NAME})).await?;
            let first = self.first_task(&mut client, 1).await?;
            took.push((first - began).as_secs_f64() * 1e3);
            let again = format!("{NAME}@={}", done.from.version.unwrap_or_default());
            let _: Plugin = client.call("plugins.promote", &json!({"id": again})).await?;
        }
        Ok(took)
    }

    /// Under clients that call without pause, each window without a swap followed by one with
    /// a swap.
    async fn busy(&mut self, busy: &mut Busy) -> Result {
        let mut client = self.farm.listener().await?;
        let mut jobs = Vec::new();
        for _ in 0..CLIENTS {
            jobs.push(self.submit(&client, 1_000_000 / CLIENTS).await?.id);
        }
        let began = self
            .event(&mut client, |event| matches!(event.kind, EventKind::TaskStarted { .. }).then_some(()));
        began.await?;
        self.hear(&mut client, "", WINDOW).await?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let enough = busy.swapped.len() + BUSY;
        for _ in 0..TRIES {
            let (pair, before) = (Instant::now(), stolen());
            let quiet = self.hear(&mut client, "", WINDOW).await?;
            let began = Instant::now();
            let version = self.replace()?;
            let during = self.hear(&mut client, &version, WINDOW).await?;
            let swapped =
                during.swapped.ok_or_else(|| Failure::failed("a release is not swapped in time"))?;
            busy.swaps += 1;
            busy.failed += during.failed;
            if stolen() - before > STOLEN * processors * pair.elapsed().as_secs_f64() {
                continue;
            }
            busy.swapped.push((swapped - began).as_secs_f64() * 1e3);
            busy.quiet.push(percentile(quiet.took, 0.99));
            busy.during.push(percentile(during.took, 0.99));
            if busy.swapped.len() == enough {
                break;
            }
        }
        Ok(())
    }

    /// Listens for so long, and until a task has begun on a version if one is given.
    async fn hear(&self, client: &mut Client, version: &str, window: Duration) -> Result<Heard> {
        let (mut heard, began) = (Heard::default(), Instant::now());
        let expected = format!("{NAME}@{version}+");
        let limit = Duration::from_secs(20);
        while began.elapsed() < window
            || (!version.is_empty() && heard.swapped.is_none() && began.elapsed() < limit)
        {
            let Some(News::Events(events)) = client.news().await else {
                return Err(Failure::failed("the host is gone"));
            };
            for event in events {
                match event.kind {
                    EventKind::TaskState { state, seconds, .. } => {
                        heard.failed += usize::from(state != TaskState::Done);
                        heard.took.push(seconds * 1e3);
                    }
                    EventKind::TaskStarted { release: Some(release), .. }
                        if release.starts_with(&expected) =>
                    {
                        heard.swapped.get_or_insert_with(Instant::now);
                    }
                    EventKind::ReleaseState { state: ReleaseState::Rejected, why, .. } => {
                        return Err(Failure::failed(why));
                    }
                    _ => {}
                }
            }
        }
        Ok(heard)
    }

    /// Stops the host under the same load, replaces the file, and starts it again. Returns
    /// milliseconds until the first task on the new release, and how many tasks were cut.
    async fn stop_and_load(&mut self) -> Result<(f64, usize)> {
        self.next += 1;
        let version = format!("1.0.{}", self.next);
        let (aside, place) = (self.aside(&version)?, self.plugins().join("swapped.wasm"));
        let began = Instant::now();
        let running = self.farm.client().await?.status().await?.running;
        self.farm.restart(|| fs::rename(aside, place).map_err(Failure::failed)).await?;
        let mut client = self.farm.listener().await?;
        let heard = self.hear(&mut client, &version, Duration::ZERO).await?;
        let swapped = heard.swapped.ok_or_else(|| Failure::failed("a release is not loaded in time"))?;
        Ok(((swapped - began).as_secs_f64() * 1e3, running))
    }
}

/// Seconds of the processors' time that a hypervisor has given to others since the machine
/// came up.
fn stolen() -> f64 {
    // `man 5 proc_stat`: "cpu", user, nice, system, idle, iowait, irq, softirq, steal.
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = stat.split_whitespace().nth(8).and_then(|ticks| ticks.parse::<f64>().ok());
    let second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    ticks.unwrap_or_default() / second as f64
}
