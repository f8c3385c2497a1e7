//! Every operation a client can ask for, once.
//!
//! Checks a request whole before anything is rendered. Knows nothing of how it
//! came in, nor of terminals.

pub mod check;
pub mod collect;
pub mod plugins;
mod recover;
pub mod types;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::{Mutex, broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::blender::content::Hashes;
use crate::blender::pool::Pool;
use crate::capability::gpu;
use crate::capability::output::Folders;
use crate::config::DataDir;
use crate::config::file::TrustPolicy;
use crate::events::Progress;
use crate::jobs::model::MAX_TASKS;
use crate::jobs::{Jobs, Order, OrderError, Standing};
use crate::releases::Releases;
use crate::store::events::{Missed, Subscription};
use crate::store::jobs::{JobQuery, JobRow};
use crate::store::sessions::Session;
use crate::store::{Store, StoreError};
use crate::terms::{JobId, JobState, PauseCode};
pub use check::RequestError;
use types::{
    Device, Devices, Drain, EventFilter, EventPage, Host, HostState, Job, JobFilter, JobPage, OneJob, Pin,
    Resume, Retry, Shutdown, Submission, Task, TaskFilter, TaskPage, Worker, WorkerState, Workers,
};

/// How many rows a page has if the client does not say, and how many at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;
/// How many bytes the texts of a page have at most; JSON makes some of them longer.
const PAGE_BYTES: usize = 6 * 1024 * 1024;
/// What a row takes beside its texts, in bytes.
const ROW: usize = 512;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The request is not sound.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// There is no such thing.
    #[error("there is no {what} {id}")]
    Unknown {
        /// What kind of thing.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The job is in a state in which that cannot be done.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// The host takes no jobs now.
    #[error("{0}")]
    Unavailable(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A parameter is outside of its range.
    #[error("{0}")]
    Parameter(String),
}

/// The result of an operation.
pub type Result<T, E = ServiceError> = std::result::Result<T, E>;

/// What a service is made of.
#[derive(Debug)]
pub struct Parts {
    /// The database.
    pub store: Store,
    /// The workers.
    pub pool: Pool,
    /// The jobs.
    pub jobs: Jobs,
    /// The releases.
    pub releases: Arc<Releases>,
    /// Whether the Python of scenes that are trusted may run.
    pub trust: TrustPolicy,
    /// The data directory.
    pub data: DataDir,
    /// The file of the Blender that is run.
    pub blender: PathBuf,
    /// Where images are kept between steps.
    pub spool: PathBuf,
}

/// The operations of a host.
#[derive(Debug)]
pub struct Service {
    parts: Parts,
    devices: gpu::Devices,
    hashes: Hashes,
    folders: Folders,
    /// Submissions with the same key wait for each other.
    keys: std::sync::Mutex<HashMap<String, Arc<Mutex<()>>>>,
    /// Whoever changes a job that is finished does so alone.
    finished: Mutex<()>,
    cut: CancellationToken,
    stop: watch::Sender<Option<Shutdown>>,
    /// Whether the jobs of earlier hosts are taken up.
    recovered: watch::Sender<bool>,
    began: Instant,
}

impl Service {
    /// Makes the service of a host whose parts run already.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            devices: gpu::Devices::of_this_machine(),
            hashes: Hashes::default(),
            folders: Folders::default(),
            finished: Mutex::default(),
            keys: Default::default(),
            cut: CancellationToken::new(),
            stop: watch::Sender::new(None),
            recovered: watch::Sender::new(false),
            began: Instant::now(),
        }
    }

    /// Changes something. What was begun is finished, even if nobody waits for the
    /// answer any more: half of it must not stay.
    async fn whole<T, F>(self: &Arc<Self>, work: impl FnOnce(Arc<Self>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        if let Some(trouble) = self.parts.store.trouble() {
            return Err(ServiceError::Unavailable(format!("the host cannot write: {trouble}")));
        }
        let working = tokio::spawn(work(self.clone()));
        working.await.map_err(|_| ServiceError::Unavailable("the host failed; see its log".to_owned()))?
    }

    /// Queues a job.
    pub async fn submit(self: &Arc<Self>, submission: Submission, session: Option<String>) -> Result<Job> {
        self.whole(|service| async move { service.submit_now(submission, session).await }).await
    }

    async fn submit_now(&self, submission: Submission, session: Option<String>) -> Result<Job> {
        if self.stop.borrow().is_some() {
            return Err(ServiceError::Unavailable("the host is stopping".to_owned()));
        }
        let Some(key) = submission.key.clone() else { return self.enter_new(submission, session).await };
        if key.is_empty() || key.len() > 256 {
            return Err(ServiceError::Parameter("an idempotency key has 1 to 256 bytes".to_owned()));
        }
        let keys = || self.keys.lock().expect("no code panics under this lock");
        let turn = keys().entry(key.clone()).or_default().clone();
        let alone = turn.lock().await;
        let job = match self.parts.store.job_of_key(key).await? {
            Some(row) => Ok(Job::from(row)),
            None => self.enter_new(submission, session).await,
        };
        drop(alone);
        drop(turn);
        // One for the table itself.
        keys().retain(|_, turn| Arc::strong_count(turn) > 1);
        job
    }

    /// Returns a job.
    pub async fn job(&self, OneJob { id }: OneJob) -> Result<Job> {
        let known = self.parts.store.job_whole(id).await?.ok_or_else(|| no_job(id))?;
        let mut job = Job::from(known.row);
        (job.files, job.after) = (Some(known.files), known.after);
        Ok(job)
    }

    /// Lists jobs, newest first.
    pub async fn jobs(&self, filter: JobFilter) -> Result<JobPage> {
        let count = page(filter.limit)?;
        let JobFilter { states, session, prefix, cursor: before, .. } = filter;
        let query = JobQuery { states, session, prefix, before, count };
        let mut rows = self.parts.store.jobs(query).await?;
        let size = |row: &JobRow| row.request.len() + row.failure.as_ref().map_or(0, |f| f.message.len());
        let is_cut = cut(&mut rows, size);
        let next = (is_cut || rows.len() == count).then(|| rows.last().map(|row| row.id)).flatten();
        Ok(JobPage { jobs: rows.into_iter().map(Job::from).collect(), next })
    }

    /// Cancels a job.
    pub async fn cancel(self: &Arc<Self>, OneJob { id }: OneJob) -> Result<Job> {
        self.order(id, Order::Cancel).await
    }

    /// Pauses a job.
    pub async fn pause(self: &Arc<Self>, OneJob { id }: OneJob) -> Result<Job> {
        self.order(id, Order::Pause).await
    }

    /// Goes on with a paused job.
    pub async fn resume(self: &Arc<Self>, Resume { id, accept_changes }: Resume) -> Result<Job> {
        self.order(id, Order::Resume { accept_changes }).await
    }

    /// Keeps a job however old it is, or does not.
    pub async fn pin(self: &Arc<Self>, Pin { id, pinned }: Pin) -> Result<Job> {
        self.whole(move |service| async move { service.pin_now(id, pinned).await }).await
    }

    /// Begins a finished job anew: only what is not done.
    pub async fn retry(self: &Arc<Self>, Retry { id, made_by }: Retry) -> Result<Job> {
        self.whole(move |service| async move { service.retry_now(id, made_by).await }).await
    }

    async fn order(self: &Arc<Self>, id: JobId, order: Order) -> Result<Job> {
        self.whole(move |service| async move { service.order_now(id, order).await }).await
    }

    async fn pin_now(&self, id: JobId, pinned: bool) -> Result<Job> {
        let _alone = self.finished.lock().await;
        let row = self.row(id).await?;
        if !row.state.is_final() {
            self.order_open(id, Order::Pin(pinned)).await?;
            return Ok(Job::from(self.row(id).await?));
        }
        let mut changed = row.clone();
        (changed.pinned, changed.version) = (pinned, row.version + 1);
        let known = row.version;
        self.parts.store.write(move |writing| writing.update_job(&changed, known)).await?;
        Ok(Job::from(self.row(id).await?))
    }

    async fn order_now(&self, id: JobId, order: Order) -> Result<Job> {
        let row = self.row(id).await?;
        if row.state.is_final() {
            let (state, why) = (row.state, "nothing happens to it any more");
            return match (order, state) {
                (Order::Cancel, JobState::Canceled) => Ok(Job::from(row)),
                _ => Err(OrderError::State { id, state, why }.into()),
            };
        }
        let is_changed = row.pause.as_ref().is_some_and(|pause| pause.code == PauseCode::Changed);
        if is_changed && order == (Order::Resume { accept_changes: false }) {
            self.check_unchanged(id).await?;
        }
        match self.order_open(id, order).await {
            Err(OrderError::NotTakenUp) => self.order_stored(id, order).await?,
            result => result?,
        }
        Ok(Job::from(self.row(id).await?))
    }

    /// Asks something of a job that is not finished; one of an earlier host may be taken up first.
    async fn order_open(&self, id: JobId, order: Order) -> Result<(), OrderError> {
        match self.parts.jobs.order(id, order).await {
            Err(OrderError::NotTakenUp) => {
                self.has_recovered().await;
                self.parts.jobs.order(id, order).await
            }
            result => result,
        }
    }

    /// Lists the tasks of a job, in the order of its plan.
    pub async fn tasks(&self, filter: TaskFilter) -> Result<TaskPage> {
        let count = page(filter.limit)?;
        let TaskFilter { job, states, cursor, .. } = filter;
        self.row(job).await?;
        let mut rows = self.parts.store.tasks(job, states, cursor.unwrap_or(0).min(MAX_TASKS), count).await?;
        let is_cut =
            cut(&mut rows, |row| row.name.len() + row.failure.as_ref().map_or(0, |f| f.message.len()));
        let next = (is_cut || rows.len() == count).then(|| rows.last().map(|row| row.position + 1)).flatten();
        let task = |row: crate::store::jobs::TaskRow| Task {
            id: row.name,
            job,
            state: row.state,
            frame: row.frame,
            attempts: row.attempts,
            release: row.release,
            seconds: row.seconds,
            error: row.failure,
        };
        Ok(TaskPage { tasks: rows.into_iter().map(task).collect(), next })
    }

    /// Lists events that are stored.
    pub async fn events(&self, EventFilter { from, job, limit }: EventFilter) -> Result<EventPage> {
        let (count, from) = (page(limit)?, from.min(i64::MAX as u64));
        let read = move |db: &_| crate::store::events::read(db, from, job, count);
        let mut events = self.parts.store.read(read).await?;
        cut(&mut events, |event| serde_json::to_string(&**event).map_or(0, |text| text.len()));
        Ok(EventPage { events: events.iter().map(|event| (**event).clone()).collect() })
    }

    /// Follows events from a number on; without one, from now on.
    pub async fn subscribe(&self, from: Option<u64>) -> Result<(Subscription, u64, Option<Missed>)> {
        let from = from.unwrap_or_else(|| self.parts.store.last_event());
        self.known_event(from).await?;
        let (subscription, missed) = self.parts.store.subscribe(from).await?;
        Ok((subscription, from, missed))
    }

    /// Follows how far attempts are.
    pub fn progress(&self) -> broadcast::Receiver<Arc<Progress>> {
        self.parts.jobs.progress()
    }

    /// Opens a session: what a client has seen survives its connection.
    pub async fn open_session(&self, name: String) -> Result<Session> {
        if name.len() > 128 {
            return Err(ServiceError::Parameter("a session's name has at most 128 bytes".to_owned()));
        }
        let id = uuid::Uuid::now_v7().to_string();
        let session = Session { id, name, cursor: self.parts.store.last_event() };
        let kept = session.clone();
        self.parts.store.write(move |writing| writing.keep_session(&kept)).await?;
        Ok(session)
    }

    /// Finds a session again.
    pub async fn session(&self, id: String) -> Result<Session> {
        let unknown = ServiceError::Unknown { what: "session", id: id.clone() };
        let session = self.parts.store.session(id.clone()).await?.ok_or(unknown)?;
        // It is in use, and not old.
        let touch = self.parts.store.write(move |writing| writing.acknowledge(&id, 0));
        if let Err(error) = touch.await {
            tracing::warn!(%error, "a session is not known to be in use");
        }
        // A database that was rescued may have lost events that it had seen.
        let cursor = session.cursor.min(self.parts.store.last_event());
        Ok(Session { cursor, ..session })
    }

    /// Takes down what the client of a session has seen.
    pub async fn acknowledge(&self, session: String, seq: u64) -> Result<()> {
        self.known_event(seq).await?;
        let id = session.clone();
        match self.parts.store.write(move |writing| writing.acknowledge(&session, seq)).await? {
            true => Ok(()),
            false => Err(ServiceError::Unknown { what: "session", id }),
        }
    }

    /// Lists the workers.
    pub fn workers(&self) -> Workers {
        let worker = |seen: crate::blender::pool::Seen| Worker {
            id: seen.id,
            state: if seen.is_busy { WorkerState::Busy } else { WorkerState::Idle },
            blender: seen.blender,
            scene: seen.scene,
            renders: seen.renders,
            memory: seen.memory.load(Ordering::Relaxed),
        };
        let workers = self.parts.pool.list().into_iter().map(worker).collect();
        Workers { workers, slots: self.parts.pool.size() }
    }

    /// Lists the devices.
    pub fn devices(&self) -> Devices {
        let device = |device: gpu::Device| Device {
            kind: format!("{:?}", device.kind).to_lowercase(),
            id: device.id,
            name: device.name,
            memory: device.memory,
            units: device.units,
        };
        Devices { devices: self.devices.list().into_iter().map(device).collect() }
    }

    /// Says how the host stands.
    pub fn host(&self) -> Host {
        let Standing { open, running, draining } = *self.parts.jobs.standing().borrow();
        let trouble = self.parts.store.trouble().map(|trouble| trouble.to_string());
        let state = match () {
            () if trouble.is_some() => HostState::Troubled,
            () if draining => HostState::Draining,
            () => HostState::Running,
        };
        Host {
            id: std::process::id(),
            state,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            data: self.parts.data.path().to_owned(),
            blender: self.parts.blender.clone(),
            uptime_seconds: self.began.elapsed().as_secs_f64(),
            open_jobs: open,
            running,
            slots: self.parts.pool.size(),
            last_event: self.parts.store.last_event(),
            trouble,
        }
    }

    /// Returns once all that a host must do has been seen to go on, also if it goes on
    /// waiting for room on its disk.
    pub async fn is_well(&self) -> Result<()> {
        tokio::select! {
            answered = self.parts.jobs.ping() => answered?,
            _ = self.parts.store.troubled() => {}
        }
        self.jobs(JobFilter::default()).await.map(drop)
    }

    /// Finishes what runs and begins nothing, or begins again.
    pub async fn drain(&self, Drain { off }: Drain) -> Result<Host> {
        self.parts.jobs.drain(!off).await?;
        Ok(self.host())
    }

    /// Asks the host to stop.
    pub fn shut_down(&self, how: Shutdown) {
        self.stop.send_replace(Some(how));
    }

    /// Waits until somebody asks the host to stop; `now` waits for those in a hurry only.
    pub async fn asked_to_stop(&self, now: bool) -> Shutdown {
        let mut stop = self.stop.subscribe();
        let asked = stop.wait_for(|how| how.is_some_and(|how| how.now || !now)).await;
        asked.ok().and_then(|how| *how).unwrap_or_default()
    }

    /// Waits until nothing is under way.
    pub async fn idle(&self) {
        let mut standing = self.parts.jobs.standing();
        let _ = standing.wait_for(|standing| standing.running == 0).await;
    }

    /// Returns where a job's images are kept.
    fn images(&self, id: JobId) -> PathBuf {
        self.parts.spool.join(id.to_string())
    }

    async fn known_event(&self, seq: u64) -> Result<()> {
        let mut last = self.parts.store.last_event();
        if seq > last {
            // One that is on disk may have been read before it was told of.
            last = self.parts.store.read(crate::store::events::last).await?;
        }
        let unknown = || ServiceError::Parameter(format!("there is no event {seq} yet; the last is {last}"));
        (seq <= last).then_some(()).ok_or_else(unknown)
    }

    async fn row(&self, id: JobId) -> Result<JobRow> {
        self.parts.store.job(id).await?.ok_or_else(|| no_job(id))
    }
}

fn no_job(id: JobId) -> ServiceError {
    ServiceError::Unknown { what: "job", id: id.to_string() }
}

/// Cuts a page off where it would not fit in a message any more; says whether it did.
fn cut<T>(rows: &mut Vec<T>, size: impl Fn(&T) -> usize) -> bool {
    let mut sum = 0;
    let fitting = rows.iter().take_while(|row| {
        sum += size(row) + ROW;
        sum <= PAGE_BYTES
    });
    let (fitting, all) = (fitting.count().max(1), rows.len());
    rows.truncate(fitting);
    fitting < all
}

fn page(limit: Option<usize>) -> Result<usize> {
    let limit = limit.unwrap_or(PAGE);
    let outside = || ServiceError::Parameter(format!("limit takes 1 to {MAX_PAGE}, not {limit}"));
    (1..=MAX_PAGE).contains(&limit).then_some(limit).ok_or_else(outside)
}
