//! The workers of a host.
//!
//! Owns how many there may be and which are free. A worker is held by one
//! attempt at a time and comes back warm, with its scene loaded.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::seats::Seats;
use super::worker::{END_LIMIT, Launch, Worker};
use super::{BlenderError, header, wire};
use crate::events::{EventKind, Events};

/// A handle on the workers; clones share them.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    launch: Launch,
    seats: Seats,
    events: Events,
    free: Arc<Semaphore>,
    idle: Mutex<Vec<Worker>>,
    next_id: AtomicU32,
    stopping: CancellationToken,
    size: usize,
}

/// A worker with an open scene, back in the pool when dropped.
#[derive(Debug)]
pub struct Held {
    /// What opening the scene told.
    pub opened: wire::Opened,
    worker: Option<Worker>,
    pool: Pool,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    /// Makes a pool of at most `size` workers; none is started yet.
    pub fn new(launch: Launch, size: usize, events: Events) -> Self {
        let (seats, free) = (Seats::divide(size), Arc::new(Semaphore::new(size)));
        let (idle, next_id, stopping) = (Mutex::default(), AtomicU32::new(1), CancellationToken::new());
        Self(Arc::new(Shared { launch, seats, events, free, idle, next_id, stopping, size }))
    }

    /// Returns how many workers there may be.
    pub fn size(&self) -> usize {
        self.0.size
    }

    /// Starts up to `count` workers if none is idle, so that they are up when they are wanted.
    pub async fn warm_up(&self, count: usize) -> Result<(), BlenderError> {
        let starting = (0..count.min(self.0.size)).map(|_| self.clone().start_idle());
        let started = starting.map(tokio::spawn).collect::<Vec<_>>();
        for task in started {
            task.await.expect("starting a worker does not panic")?;
        }
        Ok(())
    }

    async fn start_idle(self) -> Result<(), BlenderError> {
        let _permit = self.permit().await;
        tokio::select! {
            worker = self.worker() => self.keep(worker?),
            // Its process ends with the future that starts it.
            () = self.0.stopping.cancelled() => {}
        }
        Ok(())
    }

    /// Waits for a free worker and opens a scene in it; `cpu` as for a worker.
    pub async fn open(&self, scene: &Path, cpu: bool) -> Result<Held, BlenderError> {
        let permit = self.permit().await;
        let worker = self.worker().await?;
        let opening = async {
            header::check(scene, &worker.hello)?;
            worker.open(scene, cpu).await
        };
        match opening.await {
            Ok(opened) => Ok(Held { opened, worker: Some(worker), pool: self.clone(), _permit: permit }),
            Err(error) => {
                self.keep(worker);
                Err(error)
            }
        }
    }

    /// Ends all workers that nobody holds, and waits until they are gone.
    pub async fn stop(&self) {
        self.0.stopping.cancel();
        self.0.free.close();
        let idle = std::mem::take(&mut *self.idle());
        idle.into_iter().for_each(|worker| self.end(worker));
        let processes = &self.0.launch.processes;
        processes.close();
        if tokio::time::timeout(END_LIMIT, processes.wait()).await.is_err() {
            tracing::warn!(left = processes.len(), "workers do not end");
        }
    }

    async fn permit(&self) -> OwnedSemaphorePermit {
        match self.0.free.clone().acquire_owned().await {
            Ok(permit) => permit,
            // The pool has stopped: whoever still waits is about to be dropped.
            Err(_) => std::future::pending().await,
        }
    }

    /// Takes an idle worker, or starts one. Needs a permit: so there are never
    /// more workers than seats.
    async fn worker(&self) -> Result<Worker, BlenderError> {
        match self.take_idle() {
            Some(worker) => Ok(worker),
            None => self.start().await,
        }
    }

    async fn start(&self) -> Result<Worker, BlenderError> {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let worker = Worker::start(&self.0.launch, id, self.0.seats.take()).await?;
        self.0.events.append(EventKind::WorkerStarted {
            id,
            blender: worker.hello.blender_version.clone(),
            seconds: worker.started_in.as_secs_f64(),
        });
        Ok(worker)
    }

    fn take_idle(&self) -> Option<Worker> {
        let mut idle = self.idle();
        while let Some(worker) = idle.pop() {
            if worker.is_idle() {
                return Some(worker);
            }
            self.end(worker);
        }
        None
    }

    fn keep(&self, worker: Worker) {
        if worker.is_idle() && !self.0.stopping.is_cancelled() {
            self.idle().push(worker);
        } else {
            self.end(worker);
        }
    }

    fn end(&self, worker: Worker) {
        self.0.events.append(EventKind::WorkerStopped { id: worker.id });
        // Dropping it closes its life line.
        drop(worker);
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Worker>> {
        self.0.idle.lock().expect("no code panics under this lock")
    }
}

impl Held {
    /// Ends the worker instead of giving it back, and waits until it is gone.
    pub async fn end(mut self) {
        if let Some(worker) = self.worker.take() {
            self.pool.0.events.append(EventKind::WorkerStopped { id: worker.id });
            worker.stop().await;
        }
    }
}

impl std::ops::Deref for Held {
    type Target = Worker;

    fn deref(&self) -> &Worker {
        self.worker.as_ref().expect("the worker is there until the drop")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            self.pool.keep(worker);
        }
    }
}
