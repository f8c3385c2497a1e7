//! The host as a whole: builds every part, and owns the order of start and stop.

mod deploy;

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{self, Socket};
use crate::blender::Blender;
use crate::blender::pool::{self, Pool};
use crate::blender::wire::Addons;
use crate::blender::worker::{Launch, Patience};
use crate::capability::gpu::memory;
use crate::config::file::{Config, Sandboxing, days, seconds};
use crate::config::{DataDir, RunDir};
use crate::events::EventKind;
use crate::jobs::{Jobs, Policy};
use crate::process;
use crate::releases::watcher::Watcher;
use crate::releases::{Releases, lifecycle};
use crate::rpc;
use crate::service::collect::Rules;
use crate::service::types::Shutdown;
use crate::service::{Parts, Service};
use crate::store::collect::Keep;
use crate::store::{Store, StoreError, now_ms};

/// How often what is old is looked for.
const COLLECTING: Duration = Duration::from_secs(600);
/// How often it is looked whether there are too many events, and how many more are no matter.
const COUNTING: Duration = Duration::from_secs(5);
const SURPLUS: u64 = 1000;
/// How long no host may have run before it counts: a clock may be wrong by a day.
const AWAY: Duration = Duration::from_secs(24 * 3600);

/// What a host is started with.
#[derive(Debug)]
pub struct Options {
    /// The Blender to run.
    pub blender: Blender,
    /// The `hotshoe` program itself, which guards the workers.
    pub program: PathBuf,
    /// The renderers.
    pub releases: Releases,
    /// What the operator decided.
    pub config: Config,
    /// The file that says so, if there is one: what it says of plugins is taken up when it changes.
    pub config_file: Option<PathBuf>,
    /// Whether it is a host for those who write plugins: new releases serve at once, and other
    /// bytes of a version that is known are another build of it.
    pub dev: bool,
    /// Whether it lives for one render only: its database is its own.
    pub alone: bool,
}

/// Why a host does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A folder cannot be used.
    #[error("cannot use the data directory: {0}")]
    Io(#[from] io::Error),
    /// Workers are to be confined, and cannot be.
    #[error(
        "workers cannot be confined here: {0}\nsee `hotshoe doctor`, or allow weaker confinement with --sandbox auto"
    )]
    Sandbox(String),
}

/// A running host.
#[derive(Debug)]
pub struct Host {
    service: Arc<Service>,
    store: Store,
    pool: Pool,
    jobs: Jobs,
    scheduler: JoinHandle<Result<(), StoreError>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    config: Config,
    run: RunDir,
}

impl Host {
    /// Starts all parts. No worker is started before it is wanted.
    pub async fn start(data: &DataDir, options: Options) -> Result<Self, StartError> {
        let Options { blender, program, releases, config, config_file, dev, alone } = options;
        let releases = Arc::new(releases);
        let run = RunDir::create(data)?;
        let path = if alone { run.journal() } else { data.database() };
        let store = tokio::task::spawn_blocking(move || Store::open(&path));
        let store = store.await.expect("opening a database does not panic")?;
        let folder = run.path().to_owned();
        let file = blender.path().clone();
        let limits = limits(&config);
        confined(config.workers.sandbox, &program).await?;
        let launch = launch(&config, blender, program, folder);
        let pool = Pool::new(launch, limits, store.clone());
        let policy = Policy {
            slots: limits.size,
            retries: config.jobs.retries,
            backoff: seconds(config.jobs.backoff_seconds),
            yielding: seconds(config.releases.yield_seconds),
            cutting: seconds(config.releases.cut_seconds),
        };
        if !alone {
            releases.restore(store.releases().await?, lifecycle::Rules::of(&config, dev));
        }
        let (jobs, scheduler) = Jobs::start(store.clone(), policy, releases.clone());
        let spool = if alone { run.path().join("spool") } else { data.spool() };
        let parts = Parts {
            store: store.clone(),
            pool: pool.clone(),
            jobs: jobs.clone(),
            releases: releases.clone(),
            trust: config.workers.trust,
            data: data.clone(),
            blender: file,
            spool,
        };
        let service = Arc::new(Service::new(parts));
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let away_ms = now_ms().saturating_sub(store.last_event_ms().await?.unwrap_or_else(now_ms));
        let away_ms = if Duration::from_millis(away_ms) > AWAY { away_ms } else { 0 };
        if !alone {
            let jobs = store.count_open_jobs().await?;
            store.append_soon(EventKind::HostStarted { version, jobs });
        }
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let host = Self { service, store, pool, jobs, scheduler, tasks, stop, config, run };
        host.tasks.spawn(recover(host.service.clone(), host.stop.clone()));
        let collecting =
            collect(host.service.clone(), host.config.clone(), alone, away_ms, host.stop.clone());
        host.tasks.spawn(collecting);
        if !alone {
            let deploying = deploy::Deploying::new(host.service.clone(), releases, &host.config);
            host.tasks.spawn(deploying.run(host.stop.clone()));
            host.tasks.spawn(deploy::tend(host.service.clone(), host.stop.clone()));
            if let Some(file) = config_file {
                let quiet = seconds(host.config.releases.quiet_seconds);
                let watcher = Watcher::file(&file, quiet);
                let (service, stop) = (host.service.clone(), host.stop.clone());
                host.tasks.spawn(deploy::follow(service, watcher, file, dev, stop));
            }
        }
        Ok(host)
    }

    /// Returns what clients can ask for.
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Serves clients on a socket.
    pub fn listen(&self, socket: Socket) {
        let clients = self.config.clients;
        let each = rpc::Limits {
            line: clients.message_bytes,
            requests: clients.requests,
            bytes: clients.message_bytes.saturating_mul(4),
            patience: seconds(clients.patience_seconds),
            nonsense: 16,
            shared: Some(Arc::new(Semaphore::new(clients.memory_mib.saturating_mul(1024)))),
        };
        let limits = api::Limits { connections: clients.connections, each };
        self.tasks.spawn(socket.serve(self.service.clone(), limits, self.stop.clone()));
    }

    /// Connects a client that is part of this process.
    pub fn connect(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let ours = UnixStream::from_std(ours)?;
        self.tasks.spawn(api::serve_own(ours, self.service.clone(), self.stop.clone()));
        UnixStream::from_std(theirs)
    }

    /// Waits until the host cannot go on: its database is lost.
    pub async fn lost(&self) {
        let mut standing = self.jobs.standing();
        while standing.changed().await.is_ok() {}
    }

    /// Lets what runs end, up to the configured time, then stops.
    pub async fn drain(&self, how: Shutdown) {
        if !how.now {
            let limit = seconds(self.config.jobs.drain_seconds);
            let idle = async {
                let _ = self.service.drain(Default::default()).await;
                self.service.idle().await;
            };
            let _ = tokio::time::timeout(limit, idle).await;
        }
    }

    /// Stops all parts and waits until every worker is gone. What was cut is written
    /// down, to be made again.
    pub async fn stop(self) -> Result<(), StoreError> {
        let Self { service, store, pool, jobs, scheduler, tasks, stop, config: _, run } = self;
        jobs.stop().await;
        drop(jobs);
        let result = scheduler.await.unwrap_or(Err(StoreError::Closed));
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        pool.stop().await;
        service.stop_plugins().await;
        drop(service);
        store.close().await;
        drop(run);
        result
    }
}

/// Says how workers are started.
fn launch(config: &Config, blender: Blender, guard: PathBuf, folder: PathBuf) -> Launch {
    let workers = config.workers.clone();
    let patience = Patience {
        frozen: seconds(workers.frozen_seconds),
        stalled: seconds(workers.stalled_seconds),
        // Before the kernel would, which may choose somebody else.
        memory: or(workers.kill_above_mib, memory() / 10 * 9),
        work: workers.work_mib.saturating_mul(1024 * 1024),
    };
    let addons =
        Addons { folder: config.blender.addons_folder.clone(), names: config.blender.addons.clone() };
    let (sandbox, processes) = (workers.sandbox, TaskTracker::new());
    let (read, environment) = (workers.read, workers.environment);
    Launch { blender, guard, folder, patience, sandbox, read, environment, addons, processes }
}

/// Takes up the jobs of the host before.
async fn recover(service: Arc<Service>, stop: CancellationToken) {
    if let Some(Err(error)) = stop.run_until_cancelled(service.recover()).await {
        tracing::error!(%error, "not all jobs of the host before could be taken up");
    }
}

/// Lets go of what is old, now and then, and of what is too much soon.
async fn collect(service: Arc<Service>, config: Config, alone: bool, away_ms: u64, stop: CancellationToken) {
    loop {
        let keep = config.keep;
        // Nothing ages while no host runs: the clock of one start may be far ahead.
        let since = |life: f64| now_ms().saturating_sub(days(life).as_millis() as u64 + away_ms);
        let keep = Keep {
            jobs_since_ms: since(keep.jobs_days),
            jobs: keep.jobs,
            events_since_ms: since(keep.events_days),
            events: keep.events,
        };
        let spool = config.keep.spool_mib.saturating_mul(1024 * 1024);
        let rules = Rules { keep, spool };
        let collecting = async {
            service.collect(rules).await?;
            match alone {
                // They are the daemon's.
                true => Ok(()),
                false => service.collect_releases(config.releases.kept).await,
            }
        };
        let collected = tokio::select! {
            collected = collecting => collected,
            () = stop.cancelled() => return,
        };
        if let Err(error) = collected {
            tracing::warn!(%error, "what is old could not be let go of");
        }
        let next = async {
            // Those of open jobs stay, however many they are.
            let limit = config.keep.events.max(service.stored_events().await);
            let mut waited = Duration::ZERO;
            while waited < COLLECTING && service.stored_events().await <= limit + limit / 10 + SURPLUS {
                tokio::time::sleep(COUNTING).await;
                waited += COUNTING;
            }
        };
        tokio::select! {
            () = next => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Fails if workers are to be confined and cannot be.
async fn confined(sandbox: Sandboxing, guard: &Path) -> Result<(), StartError> {
    if sandbox == Sandboxing::Off {
        return Ok(());
    }
    match process::lacks(guard).await {
        Some(what) if sandbox == Sandboxing::Require => Err(StartError::Sandbox(what)),
        Some(what) => {
            tracing::warn!(what, "workers are confined less than they could be; `hotshoe doctor` tells");
            Ok(())
        }
        None => Ok(()),
    }
}

fn limits(config: &Config) -> pool::Limits {
    let workers = &config.workers;
    let budget = or(workers.memory_mib, memory() / 2);
    pool::Limits {
        size: workers.count.into(),
        warm: workers.warm.into(),
        budget,
        renders: workers.replace_after_renders,
        growth: workers.replace_after_growth_mib.saturating_mul(1024 * 1024),
    }
}

fn or(mib: u64, otherwise: u64) -> u64 {
    if mib == 0 { otherwise } else { mib.saturating_mul(1024 * 1024) }
}
