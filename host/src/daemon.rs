//! The host as a whole: builds every part, and owns the order of start and stop.

use std::io;
use std::path::PathBuf;

use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::blender::Blender;
use crate::blender::pool::Pool;
use crate::blender::worker::Launch;
use crate::config::{DataDir, RunDir};
use crate::events::Events;
use crate::jobs::Jobs;
use crate::service::Service;

/// What a host is started with.
#[derive(Debug)]
pub struct Options {
    /// The Blender to run.
    pub blender: Blender,
    /// The `hotshoe` program itself, which guards the workers.
    pub program: PathBuf,
    /// How many workers there may be.
    pub workers: usize,
}

/// A running host.
#[derive(Debug)]
pub struct Host {
    service: Service,
    pool: Pool,
    scheduler: JoinHandle<()>,
    run: RunDir,
}

impl Host {
    /// Starts all parts. No worker is started before it is wanted.
    pub fn start(data: &DataDir, options: Options) -> io::Result<Self> {
        let run = RunDir::create(data)?;
        let events = Events::default();
        let launch = Launch {
            blender: options.blender,
            guard: options.program,
            folder: run.path().to_owned(),
            processes: TaskTracker::new(),
        };
        let pool = Pool::new(launch, options.workers, events.clone());
        let (jobs, scheduler) = Jobs::start(events.clone(), options.workers);
        let service = Service::new(events, pool.clone(), jobs, run.path().join("spool"));
        Ok(Self { service, pool, scheduler, run })
    }

    /// Returns what clients can ask for.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Stops all parts and waits until every worker is gone.
    pub async fn stop(self) {
        let Self { service, pool, scheduler, run } = self;
        // Its last handle: the scheduler stops to listen.
        drop(service);
        let _ = scheduler.await;
        pool.stop().await;
        drop(run);
    }
}
