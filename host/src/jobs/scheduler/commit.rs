//! Writing what changed, before anyone hears of it.

use std::sync::Arc;
use std::time::Duration;

use super::{Batch, Scheduler};
use crate::events::EventKind;
use crate::jobs::Standing;
use crate::store::jobs::{JobRow, TaskRow};
use crate::store::releases::ReleaseRow;
use crate::store::{StoreError, Writing};
use crate::terms::JobId;

/// How long a host that stops still waits for a database that cannot be written.
const PATIENCE: Duration = Duration::from_secs(2);

/// The rows of a batch.
#[derive(Default)]
struct Rows {
    new_jobs: Vec<(JobRow, Vec<JobId>)>,
    jobs: Vec<(JobRow, u32)>,
    contents: Vec<(JobId, String)>,
    forgotten: Vec<JobId>,
    tasks: Vec<(JobId, TaskRow, u32)>,
    handed_over: Vec<(JobId, String, String)>,
    releases: Vec<ReleaseRow>,
    events: Vec<EventKind>,
}

impl Rows {
    fn write(&self, writing: &mut Writing<'_>) -> Result<(), StoreError> {
        self.new_jobs.iter().try_for_each(|(job, after)| writing.insert_job(job, after))?;
        self.forgotten.iter().try_for_each(|job| writing.delete_tasks(*job))?;
        for (job, task, known) in &self.tasks {
            match known {
                0 => writing.insert_task(*job, task)?,
                known => writing.update_task(*job, task, *known)?,
            }
        }
        self.jobs.iter().try_for_each(|(job, known)| writing.update_job(job, *known))?;
        self.contents.iter().try_for_each(|(job, content)| writing.set_content(*job, content))?;
        let hand_over = |(job, from, to): &(JobId, String, String)| writing.hand_over_state(*job, from, to);
        self.handed_over.iter().try_for_each(hand_over)?;
        self.releases.iter().try_for_each(|release| writing.set_release(release))?;
        self.events.iter().try_for_each(|event| writing.append(event.clone()))
    }

    fn is_empty(&self) -> bool {
        self.new_jobs.is_empty()
            && self.jobs.is_empty()
            && self.contents.is_empty()
            && self.forgotten.is_empty()
            && self.tasks.is_empty()
            && self.handed_over.is_empty()
            && self.releases.is_empty()
            && self.events.is_empty()
    }
}

impl Scheduler {
    /// Writes what changed, as often as it takes, and then lets it be known.
    pub(super) async fn commit(&mut self) -> Result<(), StoreError> {
        let batch = std::mem::take(&mut self.batch);
        let Batch { jobs, contents, handed_over, events, then } = batch;
        let mut rows = Rows { contents, handed_over, events, ..Rows::default() };
        if let Some(changes) = self.releases.take_changes() {
            rows.releases = changes.rows;
            rows.events.extend(changes.events);
        }
        for id in jobs {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            if std::mem::take(&mut job.forgets_tasks) {
                rows.forgotten.push(id);
            }
            for task in job.plan.take_changed() {
                let (row, known) = job.plan.store(task);
                rows.tasks.push((id, row, known));
            }
            match job.store() {
                (row, 0) => rows.new_jobs.push((row, job.after.clone())),
                (row, known) => rows.jobs.push((row, known)),
            }
            if job.row.state.is_final() {
                let over = self.jobs.remove(&id);
                // Its folders go with it.
                tokio::task::spawn_blocking(move || drop(over));
            }
        }
        if !rows.is_empty() {
            self.write(Arc::new(rows)).await?;
        }
        // Who hears that something is done also finds it so.
        self.stand();
        then.into_iter().for_each(|effect| effect());
        Ok(())
    }

    async fn write(&mut self, rows: Arc<Rows>) -> Result<(), StoreError> {
        // Nothing was let known, so nothing is lost: all wait until there is room.
        let write = self.store.write_patiently(move |writing| rows.write(writing));
        let in_vain = async {
            self.stop.cancelled().await;
            tokio::time::sleep(PATIENCE).await;
            self.store.troubled().await
        };
        tokio::select! {
            written = write => written,
            error = in_vain => Err(error),
        }
    }

    fn stand(&self) {
        let (open, running, draining) = (self.jobs.len(), self.running, self.draining);
        let now = Standing { open, running, draining };
        self.standing.send_if_modified(|known| {
            let differs = *known != now;
            *known = now;
            differs
        });
    }
}
