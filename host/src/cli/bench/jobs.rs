//! What a host can take: jobs, tasks, clients. Its workers stand in for Blender.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Args, Failure, Goal, Reference, Result, Row, Samples};
use crate::cli::client::{Client, News};
use crate::events::EventKind;
use crate::service::types::{Host, Job, JobPage, TaskPage};

/// Tasks of the job that is timed.
const TASKS: usize = 20_000;
/// Jobs that are submitted, by how many clients, and how many of each wait for an answer at a time.
const JOBS: usize = 10_000;
const CLIENTS: usize = 8;
const WINDOW: usize = 2;
/// Connections that have nothing to say.
const IDLE: usize = 1_000;
/// Frames of the large job.
const LARGE: usize = 100_000;
/// What OpenCue's documentation gives for its scheduler alone: nothing is run.
const OPENCUE: f64 = 975.0;

/// A host in a process and folders of its own, gone when dropped.
pub(super) struct Farm {
    pub(super) folder: tempfile::TempDir,
    scene: PathBuf,
    serve: Command,
    host: Child,
}

pub(super) async fn run(args: &Args) -> Result<Vec<Row>> {
    let bar = super::bar(u64::from(args.runs) * 5);
    let [mut tasks, mut with_files, mut submits, mut gets, mut idle, mut planned, mut pages] =
        [const { Vec::new() }; 7];
    for _ in 0..args.runs {
        let step = |what: &'static str| {
            bar.set_message(what);
            bar.inc(1);
        };
        step("tasks");
        tasks.push(Farm::start(args, "files=no", "").await?.tasks().await?);
        step("tasks with files");
        with_files.push(Farm::start(args, "", "").await?.tasks().await?);
        step("submissions");
        let (rate, get) = Farm::start(args, "files=no", "").await?.submissions().await?;
        submits.push(rate);
        gets.push(get);
        step("idle connections");
        idle.push(Farm::start(args, "files=no", "").await?.idle().await?);
        step("a large job");
        let (plan, page) = Farm::start(args, "files=no", "").await?.large().await?;
        planned.push(plan);
        pages.push(page);
    }
    bar.finish_and_clear();
    let opencue = || Reference { name: "OpenCue, published".to_owned(), median: OPENCUE };
    let limit = |median| Reference { name: "limit".to_owned(), median };
    let row = |name: &str, unit, values, reference, goal| {
        Row::new(name, unit, &Samples::new(values), reference, goal)
    };
    Ok(vec![
        row("tasks done a second", "/s", tasks, opencue(), Goal::MedianAtLeast(3000.0)),
        row("the same, each with a file", "/s", with_files, opencue(), Goal::RatioAtLeast(1.0)),
        row("jobs.submit, 8 clients", "/s", submits, limit(5000.0), Goal::MedianAtLeast(5000.0)),
        row("jobs.get meanwhile, p99", "ms", gets, limit(2.0), Goal::MedianAtMost(2.0)),
        row("1,000 idle connections", "MiB", idle, limit(40.0), Goal::MedianAtMost(40.0)),
        row("100,000 frames: planned", "s", planned, limit(10.0), Goal::MedianAtMost(10.0)),
        row("100,000 frames: a page of 1,000, p99", "ms", pages, limit(50.0), Goal::MedianAtMost(50.0)),
    ])
}

impl Farm {
    pub(super) async fn start(args: &Args, fake: &str, config: &str) -> Result<Self> {
        let folder = tempfile::tempdir().map_err(Failure::failed)?;
        let own = folder.path().join("hotshoe");
        fs::create_dir(&own)
            .and_then(|()| fs::write(own.join("config.toml"), config))
            .map_err(Failure::failed)?;
        let scene = folder.path().join("scene.blend");
        // Blender's own header; nobody reads further.
        fs::write(&scene, b"BLENDER-v405REND").map_err(Failure::failed)?;
        let program = std::env::current_exe().map_err(Failure::failed)?;
        let log = fs::File::create(folder.path().join("log")).map_err(Failure::failed)?;
        #[expect(clippy::disallowed_methods, reason = "a host in a process of its own is what is measured")]
        let mut serve = Command::new(&program);
        serve.arg("serve").arg("--workers").arg(args.slots.to_string()).arg("--blender").arg(&program);
        serve.arg("--data").arg(folder.path().join("data")).arg("--socket").arg(socket(folder.path()));
        // Nothing of the person's own configuration.
        serve.env("XDG_CONFIG_HOME", folder.path()).env("HOTSHOE_FAKE", fake);
        serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let host = serve.spawn().map_err(Failure::failed)?;
        let mut farm = Self { folder, scene, serve, host };
        farm.is_up().await.map(|()| farm)
    }

    /// Stops the host, does something, and starts it again.
    pub(super) async fn restart(&mut self, meanwhile: impl FnOnce() -> Result) -> Result {
        let client = self.client().await?;
        let _: Host = client.call("host.shutdown", &json!({"now": true})).await?;
        client.closed().await;
        self.host.wait().map_err(Failure::failed)?;
        meanwhile()?;
        self.host = self.serve.spawn().map_err(Failure::failed)?;
        self.is_up().await
    }

    async fn is_up(&mut self) -> Result {
        let began = Instant::now();
        while Client::connect(&socket(self.folder.path())).await.ok().flatten().is_none() {
            let has_ended = self.host.try_wait().map_err(Failure::failed)?.is_some();
            if has_ended || began.elapsed() > Duration::from_secs(30) {
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                return Err(Failure::failed(format!("a host does not start:\n{log}")));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    pub(super) async fn client(&self) -> Result<Client> {
        let client = Client::connect(&socket(self.folder.path())).await?;
        client.ok_or_else(|| Failure::failed("the host is gone"))
    }

    /// A client that hears of all that happens from now on.
    pub(super) async fn listener(&self) -> Result<Client> {
        let client = self.client().await?;
        let from = client.status().await?.last_event;
        client.subscribe(from, None, false).await?;
        Ok(client)
    }

    pub(super) fn job(&self, frames: usize) -> Value {
        let out = self.folder.path().join("out");
        json!({"scene": self.scene, "frames": format!("1-{frames}"), "out": out})
    }

    /// Tasks a second, from the first that is begun to the job's end, all of it on disk.
    async fn tasks(&self) -> Result<f64> {
        let mut client = self.client().await?;
        // The workers come up first.
        self.finish(&mut client, 64).await?;
        let took = self.finish(&mut client, TASKS).await?;
        Ok(TASKS as f64 / took.as_secs_f64())
    }

    async fn finish(&self, client: &mut Client, tasks: usize) -> Result<Duration> {
        let from = client.status().await?.last_event;
        client.subscribe(from, None, false).await?;
        let job: Job = client.call("jobs.submit", &self.job(tasks)).await?;
        let mut began = None;
        loop {
            let Some(News::Events(events)) = client.news().await else {
                return Err(Failure::failed("the host is gone"));
            };
            for event in events {
                match event.kind {
                    EventKind::TaskStarted { .. } => drop(began.get_or_insert_with(Instant::now)),
                    EventKind::JobState { id, state, .. } if id == job.id && state.is_final() => {
                        return Ok(began.map_or(Duration::ZERO, |began| began.elapsed()));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Submissions a second by several clients, and the 99th percentile of `jobs.get`
    /// of another client meanwhile, in milliseconds. Nothing is rendered.
    async fn submissions(&self) -> Result<(f64, f64)> {
        let reader = self.client().await?;
        let _: Host = reader.call("host.drain", &json!({})).await?;
        let job = self.job(10);
        let first: Job = reader.call("jobs.submit", &job).await?;
        let left = Arc::new(AtomicUsize::new(JOBS));
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(Arc::new(self.client().await?));
        }
        let began = Instant::now();
        let mut working = Vec::new();
        for client in clients.iter().flat_map(|client| std::iter::repeat_n(client, WINDOW)) {
            let (client, job, left) = (client.clone(), job.clone(), left.clone());
            working.push(tokio::spawn(async move {
                let take = |left: usize| left.checked_sub(1);
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                    client.call::<Job>("jobs.submit", &job).await?;
                }
                Ok::<_, Failure>(())
            }));
        }
        let mut took = Vec::new();
        while left.load(Ordering::Relaxed) > 0 {
            let asked = Instant::now();
            let _: Job = reader.call("jobs.get", &json!({"id": first.id})).await?;
            took.push(asked.elapsed().as_secs_f64() * 1e3);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for work in working {
            work.await.map_err(Failure::failed)??;
        }
        let rate = JOBS as f64 / began.elapsed().as_secs_f64();
        Ok((rate, percentile(took, 0.99)))
    }

    /// What connections with nothing to say add to the host's memory, in MiB.
    async fn idle(&self) -> Result<f64> {
        let first = self.client().await?;
        first.status().await?;
        let before = self.memory()?;
        let mut idle = Vec::new();
        for _ in 0..IDLE {
            idle.push(self.client().await?);
        }
        let after = self.memory()?;
        first.status().await?;
        Ok(after - before)
    }

    /// Seconds until a job of very many frames is planned, and the 99th percentile of
    /// a page of its tasks, in milliseconds.
    async fn large(&self) -> Result<(f64, f64)> {
        let client = self.client().await?;
        let began = Instant::now();
        let job: Job = client.call("jobs.submit", &self.job(LARGE)).await?;
        let planned = loop {
            let job: Job = client.call("jobs.get", &json!({"id": job.id})).await?;
            if job.tasks == LARGE && job.state.as_str() == "running" {
                break began.elapsed();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let (mut took, mut cursor, mut count) = (Vec::new(), Some(0), 0);
        while let Some(from) = cursor {
            let asked = Instant::now();
            let params = json!({"job": job.id, "cursor": from, "limit": 1000});
            let page: TaskPage = client.call("tasks.list", &params).await?;
            took.push(asked.elapsed().as_secs_f64() * 1e3);
            (cursor, count) = (page.next, count + page.tasks.len());
        }
        if count != LARGE {
            return Err(Failure::failed(format!("{count} tasks are listed, not {LARGE}")));
        }
        let _: JobPage = client.call("jobs.list", &json!({})).await?;
        Ok((planned.as_secs_f64(), percentile(took, 0.99)))
    }

    /// What the host alone has in memory, in MiB.
    fn memory(&self) -> Result<f64> {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.host.id())).map_err(Failure::failed)?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.map(|kib| kib / 1024.0)
            .ok_or_else(|| Failure::failed("the kernel does not tell the host's memory"))
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        let _ = self.host.kill();
        let _ = self.host.wait();
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("socket/host.sock")
}

pub(super) fn percentile(values: Vec<f64>, part: f64) -> f64 {
    let sorted = Samples::new(values).0;
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
}
