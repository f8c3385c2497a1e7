//! Jobs of earlier hosts: taken up after a start, and when one is retried.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use futures_util::future::join_all;

use super::check::{blocking, frames_of, in_time, open, wish};
use super::plugins::requirement;
use super::types::{Job, Release as ReleaseName, Submission};
use super::{RequestError, Result, Service, ServiceError};
use crate::blender::content::{Changed, Content};
use crate::capability::output;
use crate::events::EventKind;
use crate::jobs::{Entry, Order, OrderError};
use crate::releases::ReleaseError;
use crate::store::jobs::{JobRow, TaskRow};
use crate::store::outputs::Output;
use crate::store::{Writing, now_ms};
use crate::terms::{JobId, JobState, Pause, PauseCode, TaskState};

/// How many tasks are read at once.
const TASKS: usize = 10_000;
/// How many jobs are taken up at a time after a start: first, and then.
const AT_FIRST: usize = 4;
const AT_A_TIME: usize = 64;

/// Puts what a host that died had recorded in its place.
async fn reconcile(recorded: Vec<Output>) -> Result<(), RequestError> {
    in_time(move || output::reconcile(&recorded)).await
}

/// Returns the output folder of a job.
fn folder(row: &JobRow) -> PathBuf {
    let submission: Option<Submission> = serde_json::from_str(&row.request).ok();
    submission.and_then(|submission| submission.out).unwrap_or_default()
}

impl Service {
    /// Takes up all jobs of earlier hosts that are not finished, the most urgent first. Clients are
    /// served meanwhile.
    pub async fn recover(&self) -> Result<()> {
        let recovered = self.recover_jobs().await;
        self.recovered.send_replace(true);
        recovered?;
        self.clear_spool().await
    }

    /// Waits until all jobs of earlier hosts are taken up.
    pub(super) async fn has_recovered(&self) {
        let _ = self.recovered.subscribe().wait_for(|recovered| *recovered).await;
    }

    async fn recover_jobs(&self) -> Result<()> {
        let mut rows = self.parts.store.open_jobs().await?;
        let is_under_way = |row: &JobRow| row.state == JobState::Running;
        rows.sort_by_key(|row| (Reverse(row.priority), Reverse(is_under_way(row)), row.id));
        let mut asides: HashMap<JobId, Vec<Output>> = HashMap::new();
        for (job, output) in self.parts.store.outputs_aside().await? {
            asides.entry(job).or_default().push(output);
        }
        // Jobs that share a folder sweep it when they are taken up: what any of them had recorded
        // is put in its place before that.
        let rows: Vec<(PathBuf, JobRow)> = rows.into_iter().map(|row| (folder(&row), row)).collect();
        let mut of_folder: HashMap<PathBuf, Vec<Output>> = HashMap::new();
        for (folder, row) in &rows {
            let asides = asides.remove(&row.id).into_iter().flatten();
            of_folder.entry(folder.clone()).or_default().extend(asides);
        }
        // A few at first, so that a frame begins soon; then as many as share one flush of the disk.
        let (first, rest) = rows.split_at(rows.len().min(AT_FIRST));
        for some in [first].into_iter().chain(rest.chunks(AT_A_TIME)) {
            let folders: HashSet<&Path> = some.iter().map(|(folder, _)| folder.as_path()).collect();
            let asides = folders.into_iter().filter_map(|folder| of_folder.remove_entry(folder));
            let reconciling = asides.map(async |(folder, asides)| match reconcile(asides).await {
                Ok(()) => None,
                Err(error) => Some((folder, error.to_string())),
            });
            let lost: HashMap<PathBuf, String> = join_all(reconciling).await.into_iter().flatten().collect();
            let taking = some.iter().map(async |(folder, row)| match lost.get(folder) {
                None => self.take_up(row.clone()).await,
                Some(what) => self.cannot_take_up(row.clone(), ServiceError::Unavailable(what.clone())).await,
            });
            for taken_up in join_all(taking).await {
                if let Err(error @ (ServiceError::Store(_) | ServiceError::Order(OrderError::Stopping))) =
                    taken_up
                {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Puts what a host that died had recorded of a job in its place.
    async fn reconcile(&self, id: JobId) -> Result<()> {
        let recorded = self.parts.store.outputs_of_job(id).await?;
        Ok(reconcile(recorded).await?)
    }

    /// Carries out an order of a job that the scheduler does not have.
    pub(super) async fn order_stored(&self, id: JobId, order: Order) -> Result<()> {
        let _alone = self.finished.lock().await;
        let row = self.row(id).await?;
        match (self.parts.jobs.order(id, order).await, order) {
            // Nobody else was faster.
            (Err(OrderError::NotTakenUp), Order::Cancel) => {
                self.store_state(row, JobState::Canceled, None).await?;
                self.parts.jobs.gone(id, JobState::Canceled).await;
                Ok(())
            }
            (Err(OrderError::NotTakenUp), Order::Resume { .. }) => {
                match self.reconcile(id).await {
                    Ok(()) => self.take_up(row).await?,
                    Err(error) => self.cannot_take_up(row, error).await?,
                }
                Ok(self.parts.jobs.order(id, order).await?)
            }
            (result, _) => Ok(result?),
        }
    }

    /// Fails if a file that a job renders from is still not as it was.
    pub(super) async fn check_unchanged(&self, id: JobId) -> Result<()> {
        let content = self.content(id).await?;
        let hashes = self.hashes.clone();
        let check = move || content.map_or(Ok(()), |content| content.check(&hashes));
        in_time(check).await?.map_err(|Changed(path)| RequestError::Changed(path).into())
    }

    /// Reads what a job renders from.
    async fn content(&self, id: JobId) -> Result<Option<Content>> {
        let stored = self.parts.store.content(id).await?;
        Ok(stored.and_then(|content| serde_json::from_str(&content).ok()))
    }

    /// Begins a finished job anew: only what is not done.
    pub(super) async fn retry_now(&self, id: JobId, made_by: Option<String>) -> Result<Job> {
        let wanted = made_by.as_deref().map(requirement).transpose()?;
        let _alone = self.finished.lock().await;
        let row = self.row(id).await?;
        let refused = |why| Err(OrderError::State { id, state: row.state, why }.into());
        match (row.state, &wanted) {
            (JobState::Failed | JobState::Canceled, _) | (JobState::Succeeded, Some(_)) => {}
            (JobState::Succeeded, None) => {
                return refused("only a job that failed or was canceled can be retried; or name a release");
            }
            _ => return refused("only a job that has ended can be retried"),
        }
        let mut entry = self.entry(row.clone()).await?;
        if let Some(wanted) = wanted {
            let is_wanted = |task: &&TaskRow| {
                let by = task.release.as_deref().is_some_and(|release| wanted.is_named(release));
                by && task.state == TaskState::Done
            };
            let made: Vec<&TaskRow> = entry.tasks.iter().filter(is_wanted).collect();
            let releases: BTreeSet<&str> = made.iter().filter_map(|task| task.release.as_deref()).collect();
            if releases.len() > 1 {
                let releases = releases.into_iter().collect::<Vec<_>>().join(", ");
                let hint = format!("its tasks were done by {releases}; name one, as NAME@=VERSION");
                let not_one = ReleaseError::NotOne { name: wanted.to_string(), hint };
                return Err(RequestError::from(not_one).into());
            }
            entry.again = made.iter().map(|task| task.name.clone()).collect();
            if entry.again.is_empty() && row.state == JobState::Succeeded {
                return refused("none of its tasks was done by that release");
            }
            let again = entry.again.clone();
            // What they have made is not to be taken for what they would make.
            let forget = move |writing: &mut Writing<'_>| {
                again.iter().try_for_each(|task| writing.forget_outputs(id, task))
            };
            self.parts.store.write(forget).await?;
        }
        self.parts.jobs.enter(entry).await?;
        Ok(Job::from(self.row(id).await?))
    }

    /// Removes images of jobs that are not known any more.
    async fn clear_spool(&self) -> Result<()> {
        for id in self.spooled().await {
            if self.parts.store.job(id).await?.is_none() {
                let _ = tokio::fs::remove_dir_all(self.images(id)).await;
            }
        }
        Ok(())
    }

    /// Lists the jobs that have images, oldest first.
    pub(super) async fn spooled(&self) -> Vec<JobId> {
        let spool = self.parts.spool.clone();
        let id = |folder: std::fs::DirEntry| folder.file_name().to_str()?.parse().ok();
        let list = move || std::fs::read_dir(spool).into_iter().flatten().flatten().filter_map(id).collect();
        let mut jobs: Vec<JobId> = blocking(list).await;
        jobs.sort_unstable();
        jobs
    }

    /// Hands a job to the scheduler as it is stored.
    async fn take_up(&self, row: JobRow) -> Result<()> {
        let error = match self.entry(row.clone()).await {
            Ok(entry) => match self.parts.jobs.enter(entry).await {
                Ok(()) => return Ok(()),
                // The next host takes it up.
                Err(OrderError::Stopping) => return Err(OrderError::Stopping.into()),
                Err(error) => error.into(),
            },
            Err(error) => error,
        };
        self.cannot_take_up(row, error).await
    }

    /// Pauses a job whose output folder is not mounted, say; fails with the reason.
    async fn cannot_take_up(&self, row: JobRow, error: ServiceError) -> Result<()> {
        if !matches!(error, ServiceError::Store(_)) {
            let id = row.id;
            tracing::warn!(job = %id, %error, "cannot be taken up");
            let message = format!("{error}\nfix that, then run `hotshoe job resume {id}`");
            let pause = Some(Pause { code: PauseCode::Host, message });
            self.store_state(row, JobState::Paused, pause).await?;
        }
        Err(error)
    }

    /// Changes the state of a job that the scheduler does not have, and tells of it.
    async fn store_state(&self, row: JobRow, state: JobState, pause: Option<Pause>) -> Result<()> {
        let (id, tasks, known) = (row.id, row.tasks, row.version);
        let ended_ms = state.is_final().then(now_ms);
        let changed = JobRow { state, pause: pause.clone(), version: known + 1, ended_ms, ..row };
        let event = EventKind::JobState { id, state, tasks, error: None, pause };
        let write = self.parts.store.write(move |writing| {
            writing.update_job(&changed, known)?;
            writing.append(event)
        });
        Ok(write.await?)
    }

    /// Puts a job together from its rows.
    async fn entry(&self, row: JobRow) -> Result<Entry> {
        let broken = |what: &str| ServiceError::Parameter(format!("job {} is stored with {what}", row.id));
        let submission: Submission =
            serde_json::from_str(&row.request).map_err(|_| broken("a request that cannot be read"))?;
        let release: ReleaseName =
            serde_json::from_str(&row.release).map_err(|_| broken("a release that cannot be read"))?;
        let content = self.content(row.id).await?.ok_or_else(|| broken("no hash of its scene"))?;
        let frames = frames_of(&submission).map_err(RequestError::from)?;
        let pin = self.parts.releases.pin_kept(&release.digest).await.map_err(RequestError::from)?;
        let wish = wish(row.id, &submission)?;
        let folder = submission.out.clone().unwrap_or_default();
        let (folders, keep) = (self.folders.clone(), submission.skip_existing);
        let output = in_time(move || open(&folders, &folder, keep)).await??;
        let tasks = self.all_tasks(row.id).await?;
        // One that was let go of since had succeeded: nobody waits for the others.
        let before = self.parts.store.jobs_before(row.id).await?;
        let after =
            before.into_iter().map(|(id, state)| (id, state.unwrap_or(JobState::Succeeded))).collect();
        let spec = self.spec(&row, submission, wish, frames, output, content);
        Ok(Entry { row, tasks, again: Vec::new(), after, pin, spec, content: None })
    }

    async fn all_tasks(&self, id: JobId) -> Result<Vec<TaskRow>> {
        let (mut tasks, mut next): (Vec<TaskRow>, usize) = (Vec::new(), 0);
        loop {
            let page = self.parts.store.tasks(id, Vec::new(), next, TASKS).await?;
            let is_last = page.len() < TASKS;
            next = page.last().map_or(next, |task| task.position + 1);
            tasks.extend(page);
            if is_last {
                return Ok(tasks);
            }
        }
    }
}
