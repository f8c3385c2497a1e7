//! Jobs and tasks in the database.
//!
//! A row is changed only if its version is the one that its owner left.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Json, Result, Store, StoreError, Writing, rows};
use crate::terms::{Failure, JobId, JobState, Pause, TaskState};

/// A job as it is stored. `request` and `release` are JSON of their owners.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "as in schema/1.sql")]
pub struct JobRow {
    pub id: JobId,
    pub version: u32,
    pub state: JobState,
    pub pause: Option<Pause>,
    pub priority: i32,
    pub pinned: bool,
    pub key: Option<String>,
    pub session: Option<String>,
    pub request: String,
    pub release: String,
    pub canceling: bool,
    pub planned: bool,
    pub tasks: usize,
    pub done: usize,
    pub failed: usize,
    pub retries: u32,
    pub failure: Option<Failure>,
    pub created_ms: u64,
    pub started_ms: Option<u64>,
    pub ended_ms: Option<u64>,
}

/// A task as it is stored.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "as in schema/1.sql")]
pub struct TaskRow {
    pub position: usize,
    pub version: u32,
    pub name: String,
    pub state: TaskState,
    pub frame: Option<i32>,
    pub after: Vec<String>,
    pub payload: String,
    pub attempts: u32,
    pub failures: u32,
    pub seconds: Option<f64>,
    pub failure: Option<Failure>,
    pub release: Option<String>,
}

/// All that is known of a job.
#[derive(Debug, Clone)]
pub struct WholeJob {
    /// Its row.
    pub row: JobRow,
    /// How many files are recorded.
    pub files: usize,
    /// The jobs that come before it.
    pub after: Vec<JobId>,
}

/// Which jobs, and which page of them; newest first.
#[derive(Debug, Clone, Default)]
pub struct JobQuery {
    /// Only those in one of these states; all if empty.
    pub states: Vec<JobState>,
    /// Only those of a session.
    pub session: Option<String>,
    /// Only those whose id begins like this.
    pub prefix: Option<String>,
    /// Only those older than this one.
    pub before: Option<JobId>,
    /// At most this many.
    pub count: usize,
}

const JOB: &str = "SELECT id, version, state, pause, priority, pinned, key, session, request, release, canceling, \
                   planned, tasks, done, failed, retries, failure, created_ms, started_ms, ended_ms FROM jobs";
const TASK: &str = "SELECT position, version, name, state, frame, after, payload, attempts, failures, seconds, \
                    failure, release FROM tasks";

fn plain<T>(json: Option<Json<T>>) -> Option<T> {
    json.map(|Json(value)| value)
}

fn job(row: &Row<'_>) -> rusqlite::Result<JobRow> {
    Ok(JobRow {
        id: row.get(0)?,
        version: row.get(1)?,
        state: row.get(2)?,
        pause: plain(row.get(3)?),
        priority: row.get(4)?,
        pinned: row.get(5)?,
        key: row.get(6)?,
        session: row.get(7)?,
        request: row.get(8)?,
        release: row.get(9)?,
        canceling: row.get(10)?,
        planned: row.get(11)?,
        tasks: row.get(12)?,
        done: row.get(13)?,
        failed: row.get(14)?,
        retries: row.get(15)?,
        failure: plain(row.get(16)?),
        created_ms: row.get(17)?,
        started_ms: row.get(18)?,
        ended_ms: row.get(19)?,
    })
}

fn task(row: &Row<'_>) -> rusqlite::Result<TaskRow> {
    let Json(after) = row.get(5)?;
    Ok(TaskRow {
        position: row.get(0)?,
        version: row.get(1)?,
        name: row.get(2)?,
        state: row.get(3)?,
        frame: row.get(4)?,
        after,
        payload: row.get(6)?,
        attempts: row.get(7)?,
        failures: row.get(8)?,
        seconds: row.get(9)?,
        failure: plain(row.get(10)?),
        release: row.get(11)?,
    })
}

impl Writing<'_> {
    /// Adds a job.
    pub fn insert_job(&mut self, job: &JobRow, after: &[JobId]) -> Result<()> {
        let insert = "INSERT INTO jobs VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, \
                      ?16, ?17, ?18, ?19, ?20, NULL)";
        self.db.prepare_cached(insert)?.execute(params![
            job.id,
            job.version,
            job.state,
            job.pause.as_ref().map(Json),
            job.priority,
            job.pinned,
            job.key,
            job.session,
            job.request,
            job.release,
            job.canceling,
            job.planned,
            job.tasks,
            job.done,
            job.failed,
            job.retries,
            job.failure.as_ref().map(Json),
            job.created_ms,
            job.started_ms,
            job.ended_ms,
        ])?;
        for before in after {
            let insert = "INSERT OR IGNORE INTO job_order VALUES (?1, ?2)";
            self.db.prepare_cached(insert)?.execute((job.id, before))?;
        }
        Ok(())
    }

    /// Changes a job whose version in the database is `known`.
    pub fn update_job(&mut self, job: &JobRow, known: u32) -> Result<()> {
        let update = "UPDATE jobs SET version = ?3, state = ?4, pause = ?5, priority = ?6, pinned = ?7, canceling = ?8, \
                      planned = ?9, tasks = ?10, done = ?11, failed = ?12, retries = ?13, failure = ?14, \
                      started_ms = ?15, ended_ms = ?16, release = ?17 WHERE id = ?1 AND version = ?2";
        let changed = self.db.prepare_cached(update)?.execute(params![
            job.id,
            known,
            job.version,
            job.state,
            job.pause.as_ref().map(Json),
            job.priority,
            job.pinned,
            job.canceling,
            job.planned,
            job.tasks,
            job.done,
            job.failed,
            job.retries,
            job.failure.as_ref().map(Json),
            job.started_ms,
            job.ended_ms,
            job.release,
        ])?;
        conflict_unless(changed == 1, || format!("job {}", job.id))
    }

    /// Takes down what a job renders from.
    pub fn set_content(&mut self, job: JobId, content: &str) -> Result<()> {
        let update = "UPDATE jobs SET content = ?2 WHERE id = ?1";
        self.db.prepare_cached(update)?.execute((job, content))?;
        Ok(())
    }

    /// Adds a task to a job.
    pub fn insert_task(&mut self, job: JobId, task: &TaskRow) -> Result<()> {
        let insert = "INSERT INTO tasks VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
        self.db.prepare_cached(insert)?.execute(params![
            job,
            task.position,
            task.version,
            task.name,
            task.state,
            task.frame,
            Json(&task.after),
            task.payload,
            task.attempts,
            task.failures,
            task.seconds,
            task.failure.as_ref().map(Json),
            task.release,
        ])?;
        Ok(())
    }

    /// Changes a task whose version in the database is `known`.
    pub fn update_task(&mut self, job: JobId, task: &TaskRow, known: u32) -> Result<()> {
        let update = "UPDATE tasks SET version = ?4, state = ?5, attempts = ?6, failures = ?7, seconds = ?8, \
                      failure = ?9, release = ?10 WHERE job = ?1 AND position = ?2 AND version = ?3";
        let changed = self.db.prepare_cached(update)?.execute(params![
            job,
            task.position,
            known,
            task.version,
            task.state,
            task.attempts,
            task.failures,
            task.seconds,
            task.failure.as_ref().map(Json),
            task.release,
        ])?;
        conflict_unless(changed == 1, || format!("task {} of job {job}", task.name))
    }

    /// Forgets the tasks of a plan that was not finished.
    pub fn delete_tasks(&mut self, job: JobId) -> Result<()> {
        self.db.prepare_cached("DELETE FROM tasks WHERE job = ?1")?.execute([job])?;
        Ok(())
    }
}

fn conflict_unless(as_known: bool, what: impl FnOnce() -> String) -> Result<()> {
    if as_known { Ok(()) } else { Err(StoreError::Conflict(what())) }
}

impl Store {
    /// Reads a job.
    pub async fn job(&self, id: JobId) -> Result<Option<JobRow>> {
        self.read(move |db| one_job(db, "WHERE id = ?1", [id])).await
    }

    /// Reads all that is known of a job, at one moment.
    pub async fn job_whole(&self, id: JobId) -> Result<Option<WholeJob>> {
        self.read(move |db| {
            let Some(row) = one_job(db, "WHERE id = ?1", [id])? else { return Ok(None) };
            let mut count = db.prepare_cached("SELECT count(*) FROM outputs WHERE job = ?1")?;
            let files = count.query_row([id], |row| row.get(0))?;
            let after = rows(db, "SELECT after FROM job_order WHERE job = ?1", [id], |row| row.get(0))?;
            Ok(Some(WholeJob { row, files, after }))
        })
        .await
    }

    /// Reads what a job renders from.
    pub async fn content(&self, id: JobId) -> Result<Option<String>> {
        self.read(move |db| {
            let mut rows = db.prepare_cached("SELECT content FROM jobs WHERE id = ?1")?;
            Ok(rows.query_row([id], |row| row.get(0)).optional()?.flatten())
        })
        .await
    }

    /// Finds the job that was submitted with an idempotency key.
    pub async fn job_of_key(&self, key: String) -> Result<Option<JobRow>> {
        self.read(move |db| one_job(db, "WHERE key = ?1", [key])).await
    }

    /// Lists jobs, newest first.
    pub async fn jobs(&self, query: JobQuery) -> Result<Vec<JobRow>> {
        self.read(move |db| {
            let states = serde_json::to_string(&query.states).expect("states are plain data");
            let found = "WHERE (json_array_length(?1) = 0 OR state IN (SELECT value FROM json_each(?1))) \
                         AND (?2 IS NULL OR session = ?2) AND (?3 IS NULL OR id < ?3) \
                         AND (?5 IS NULL OR substr(id, 1, length(?5)) = ?5) ORDER BY id DESC LIMIT ?4";
            let parameters = (states, query.session, query.before, query.count, query.prefix);
            rows(db, &format!("{JOB} {found}"), parameters, job)
        })
        .await
    }

    /// Returns all jobs that are not finished, oldest first.
    pub async fn open_jobs(&self) -> Result<Vec<JobRow>> {
        self.read(|db| {
            let open = "WHERE state NOT IN ('succeeded', 'failed', 'canceled') ORDER BY id";
            rows(db, &format!("{JOB} {open}"), [], job)
        })
        .await
    }

    /// Counts the jobs that are not finished.
    pub async fn count_open_jobs(&self) -> Result<usize> {
        let count = "SELECT count(*) FROM jobs WHERE state NOT IN ('succeeded', 'failed', 'canceled')";
        self.read(move |db| Ok(db.query_row(count, [], |row| row.get(0))?)).await
    }

    /// Lists the jobs that a job comes after, with their states.
    pub async fn jobs_before(&self, id: JobId) -> Result<Vec<(JobId, Option<JobState>)>> {
        self.read(move |db| {
            let before =
                "SELECT after, (SELECT state FROM jobs WHERE id = after) FROM job_order WHERE job = ?1";
            rows(db, before, [id], |row| Ok((row.get(0)?, row.get(1)?)))
        })
        .await
    }

    /// Lists tasks of a job in the order of its plan, from a position on.
    pub async fn tasks(
        &self,
        job: JobId,
        states: Vec<TaskState>,
        from: usize,
        count: usize,
    ) -> Result<Vec<TaskRow>> {
        self.read(move |db| tasks(db, job, &states, from, count)).await
    }
}

fn one_job(db: &Connection, found: &str, parameters: impl rusqlite::Params) -> Result<Option<JobRow>> {
    let mut rows = db.prepare_cached(&format!("{JOB} {found}"))?;
    Ok(rows.query_row(parameters, job).optional()?)
}

fn tasks(
    db: &Connection,
    job: JobId,
    states: &[TaskState],
    from: usize,
    count: usize,
) -> Result<Vec<TaskRow>> {
    let states = serde_json::to_string(states).expect("states are plain data");
    let found = "WHERE job = ?1 AND position >= ?2 \
                 AND (json_array_length(?3) = 0 OR state IN (SELECT value FROM json_each(?3))) \
                 ORDER BY position LIMIT ?4";
    rows(db, &format!("{TASK} {found}"), (job, from, states, count), task)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn row() -> JobRow {
        JobRow {
            id: JobId::new(),
            version: 1,
            state: JobState::Queued,
            pause: None,
            priority: 0,
            pinned: false,
            key: None,
            session: None,
            request: "{}".to_owned(),
            release: "{}".to_owned(),
            canceling: false,
            planned: false,
            tasks: 0,
            done: 0,
            failed: 0,
            retries: 0,
            failure: None,
            created_ms: 0,
            started_ms: None,
            ended_ms: None,
        }
    }

    fn task_row(position: usize) -> TaskRow {
        TaskRow {
            position,
            version: 1,
            name: format!("frame-{position}"),
            state: TaskState::Ready,
            frame: Some(1),
            after: vec!["a".to_owned()],
            payload: "null".to_owned(),
            attempts: 0,
            failures: 0,
            seconds: Some(0.5),
            failure: None,
            release: None,
        }
    }

    #[tokio::test]
    async fn a_row_changes_only_if_it_is_as_its_owner_left_it() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&temp.path().join("a.db")).unwrap();
        let mut job = row();
        let (first, mut task) = (job.clone(), task_row(0));
        let inserted = task.clone();
        let insert = move |writing: &mut Writing<'_>| {
            writing.insert_job(&first, &[])?;
            writing.insert_task(first.id, &inserted)
        };
        store.write(insert).await.unwrap();

        (job.version, job.state) = (2, JobState::Running);
        (task.version, task.state) = (2, TaskState::Running);
        for expected in [true, false] {
            let (job, task) = (job.clone(), task.clone());
            let changed = store.write(move |writing| writing.update_job(&job, 1)).await;
            assert_eq!(changed.is_ok(), expected);
            let id = first_id(&store).await;
            let changed = store.write(move |writing| writing.update_task(id, &task, 1)).await;
            assert_eq!(changed.is_ok(), expected);
        }
        assert_eq!(store.job(job.id).await.unwrap().unwrap().state, JobState::Running);
        let tasks = store.tasks(job.id, vec![TaskState::Running], 0, 10).await.unwrap();
        assert_eq!((tasks.len(), tasks[0].after.as_slice()), (1, ["a".to_owned()].as_slice()));
    }

    async fn first_id(store: &Store) -> JobId {
        store.open_jobs().await.unwrap()[0].id
    }

    #[tokio::test]
    async fn jobs_are_listed_by_state_and_page() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&temp.path().join("a.db")).unwrap();
        let mut ids = Vec::new();
        for state in [JobState::Queued, JobState::Failed, JobState::Queued] {
            let job = JobRow { state, ..row() };
            ids.push(job.id);
            store.write(move |writing| writing.insert_job(&job, &[])).await.unwrap();
        }
        let query = |states, before, count| JobQuery { states, before, count, prefix: None, session: None };
        let list = async |query| -> Vec<JobId> {
            store.jobs(query).await.unwrap().iter().map(|job| job.id).collect()
        };
        assert_eq!(list(query(vec![], None, 9)).await, [ids[2], ids[1], ids[0]]);
        assert_eq!(list(query(vec![], Some(ids[2]), 1)).await, [ids[1]]);
        assert_eq!(list(query(vec![JobState::Queued], None, 9)).await, [ids[2], ids[0]]);
    }
}
