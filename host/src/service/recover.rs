//! Jobs of earlier hosts: taken up after a start, and when one is retried.

use super::check::{blocking, open};
use super::types::{Job, OneJob, Release as ReleaseName, Submission};
use super::{RequestError, Result, Service, ServiceError};
use crate::blender::content::Content;
use crate::capability::output;
use crate::events::EventKind;
use crate::frames::Frames;
use crate::jobs::{Entry, OrderError};
use crate::store::jobs::{JobRow, TaskRow};
use crate::store::now_ms;
use crate::store::outputs::Output as Recorded;
use crate::terms::{JobId, JobState, Pause, PauseCode};

/// How many tasks are read at once.
const TASKS: usize = 10_000;

impl Service {
    /// Takes up all jobs that are not finished; returns how many.
    pub async fn recover(&self) -> Result<usize> {
        let rows = self.parts.store.open_jobs().await?;
        // All of them first: jobs that share a folder sweep it when they are taken up.
        for row in &rows {
            let recorded = self.parts.store.outputs_of_job(row.id).await?;
            blocking(move || output::reconcile(&recorded)).await;
        }
        self.clear_spool(&rows).await;
        let count = rows.len();
        for row in rows {
            self.take_up(row).await?;
        }
        Ok(count)
    }

    /// Begins a finished job anew: only what is not done.
    pub async fn retry(&self, OneJob { id }: OneJob) -> Result<Job> {
        let _alone = self.finished.lock().await;
        let row = self.row(id).await?;
        if !matches!(row.state, JobState::Failed | JobState::Canceled) {
            let why = "only a job that failed or was canceled can be retried";
            return Err(OrderError::State { id, state: row.state, why }.into());
        }
        let entry = self.entry(row).await?;
        let has_files = entry.row.done > 0;
        self.parts.jobs.enter(entry).await?;
        self.check_files(id, has_files).await?;
        Ok(Job::from(self.row(id).await?))
    }

    /// Removes images of jobs that are over.
    async fn clear_spool(&self, open: &[JobRow]) {
        let open: Vec<String> = open.iter().map(|row| row.id.to_string()).collect();
        let spool = self.parts.spool.clone();
        let clear = move || {
            for folder in std::fs::read_dir(spool).into_iter().flatten().flatten() {
                if !open.iter().any(|id| folder.file_name() == id.as_str()) {
                    let _ = std::fs::remove_dir_all(folder.path());
                }
            }
        };
        blocking(clear).await;
    }

    pub(super) async fn take_up(&self, row: JobRow) -> Result<()> {
        let id = row.id;
        let error = match self.entry(row.clone()).await {
            Ok(entry) => {
                let has_files = entry.row.done > 0;
                match self.parts.jobs.enter(entry).await {
                    Ok(()) => return self.check_files(id, has_files).await,
                    Err(error) => error.into(),
                }
            }
            Err(error) => error,
        };
        if let ServiceError::Store(_) = error {
            return Err(error);
        }
        // Its output folder is not mounted, say: it waits, and says what for.
        tracing::warn!(job = %id, %error, "cannot be taken up");
        let message = format!("{error}\nput that right, then `hotshoe job resume {id}`");
        let pause = Some(Pause { code: PauseCode::Host, message });
        self.store_state(row, JobState::Paused, pause).await
    }

    /// Changes the state of a job that the scheduler does not have, and tells of it.
    pub(super) async fn store_state(&self, row: JobRow, state: JobState, pause: Option<Pause>) -> Result<()> {
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
        let content = self.parts.store.content(row.id).await?;
        let content: Content = (content.as_deref())
            .and_then(|content| serde_json::from_str(content).ok())
            .ok_or_else(|| broken("no hash of its scene"))?;
        let frames: Frames = submission.frames.parse().map_err(RequestError::from)?;
        let release = self.parts.releases.pinned(&release.digest).map_err(RequestError::from)?;
        let pin = self.parts.releases.load(release).await.map_err(RequestError::from)?;
        let folder = submission.out.clone().unwrap_or_default();
        let (folders, keep) = (self.folders.clone(), submission.skip_existing);
        let output = blocking(move || open(&folders, &folder, keep)).await?;
        let tasks = self.all_tasks(row.id).await?;
        // One that was let go of since had succeeded: nobody waits for the others.
        let before = self.parts.store.jobs_before(row.id).await?;
        let after =
            before.into_iter().map(|(id, state)| (id, state.unwrap_or(JobState::Succeeded))).collect();
        let spec = self.spec(&row, submission, pin, frames, output, content);
        Ok(Entry { row, tasks, after, spec, content: None })
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

    /// Looks, while other tasks go on, whether the files of tasks that are done are
    /// as they were recorded.
    async fn check_files(&self, id: JobId, has_files: bool) -> Result<()> {
        if !has_files {
            return Ok(());
        }
        let recorded = self.parts.store.outputs_of_job(id).await?;
        let jobs = self.parts.jobs.clone();
        tokio::spawn(async move {
            let lost = tokio::task::spawn_blocking(move || lost(&recorded)).await.unwrap_or_default();
            jobs.lost(id, lost).await;
        });
        Ok(())
    }
}

/// Names the tasks with a file that is not as it was recorded. Blocks.
fn lost(recorded: &[Recorded]) -> Vec<String> {
    let mut lost: Vec<String> = Vec::new();
    for file in recorded {
        let Some(task) = &file.task else { continue };
        if lost.last() != Some(task) && !output::is_as_recorded(file) {
            tracing::warn!(file = %file.path.display(), "is not as it was recorded; it is rendered again");
            lost.push(task.clone());
        }
    }
    lost
}
