//! Finished files: what was rendered, from what, and how it looks on disk.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, Row};

use super::{Result, Store, StoreError, Writing, rows};
use crate::events::EventKind;
use crate::terms::JobId;

/// A file that is whole on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Where it belongs.
    pub path: PathBuf,
    /// The task that wrote it; none while the plugin planned.
    pub task: Option<String>,
    /// What it was rendered from; none if it was there before and was kept.
    pub step: Option<String>,
    /// Its size in bytes.
    pub size: u64,
    /// The SHA-256 of its bytes; none if it was kept.
    pub sha256: Option<String>,
    /// Where it is until it has been renamed.
    pub aside: Option<PathBuf>,
}

const OUTPUT: &str = "SELECT path, task, step, size, sha256, aside FROM outputs";

fn output(row: &Row<'_>) -> rusqlite::Result<Output> {
    Ok(Output {
        path: row.get::<_, String>(0)?.into(),
        task: row.get(1)?,
        step: row.get(2)?,
        size: row.get(3)?,
        sha256: row.get(4)?,
        aside: row.get::<_, Option<String>>(5)?.map(PathBuf::from),
    })
}

fn text(path: &Path) -> Result<&str> {
    let not_utf8 = || StoreError::Conflict(format!("{} is not UTF-8: it", path.display()));
    path.to_str().ok_or_else(not_utf8)
}

impl Writing<'_> {
    /// Forgets the files that a task has made.
    pub fn forget_outputs(&mut self, job: JobId, task: &str) -> Result<()> {
        let delete = "DELETE FROM outputs WHERE job = ?1 AND task = ?2";
        self.db.prepare_cached(delete)?.execute((job, task))?;
        Ok(())
    }

    /// Records a file and tells of it; what was recorded of the same path before is gone.
    pub fn record(&mut self, job: JobId, output: &Output) -> Result<()> {
        let insert = "INSERT OR REPLACE INTO outputs VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let aside = output.aside.as_deref().map(text).transpose()?;
        let row = (text(&output.path)?, job, &output.task, &output.step, output.size, &output.sha256, aside);
        self.db.prepare_cached(insert)?.execute(row)?;
        self.append(EventKind::FileWritten {
            job,
            task: output.task.clone(),
            path: output.path.clone(),
            size: output.size,
            kept: output.step.is_none(),
        })
    }

    /// Makes a recorded file a job's own, and tells of it unless it was before.
    pub fn own(&mut self, job: JobId, task: Option<&str>, path: &Path, size: u64) -> Result<()> {
        let update =
            "UPDATE outputs SET job = ?2, task = ?3 WHERE path = ?1 AND (job <> ?2 OR task IS NOT ?3)";
        let is_new = self.db.prepare_cached(update)?.execute((text(path)?, job, task))? > 0;
        let (task, path) = (task.map(str::to_owned), path.to_owned());
        match is_new {
            true => self.append(EventKind::FileWritten { job, task, path, size, kept: true }),
            false => Ok(()),
        }
    }

    /// Takes over what earlier hosts recorded.
    pub fn adopt(&mut self, job: JobId, outputs: &[Output]) -> Result<()> {
        let insert = "INSERT OR IGNORE INTO outputs VALUES (?1, ?2, NULL, ?3, ?4, ?5, NULL)";
        for output in outputs {
            let row = (text(&output.path)?, job, &output.step, output.size, &output.sha256);
            self.db.prepare_cached(insert)?.execute(row)?;
        }
        Ok(())
    }
}

fn collect(db: &Connection, found: &str, parameters: impl rusqlite::Params) -> Result<Vec<Output>> {
    rows(db, &format!("{OUTPUT} {found}"), parameters, output)
}

/// Returns all that was recorded below a folder.
pub fn below(db: &Connection, folder: &Path) -> Result<Vec<Output>> {
    let mut first = text(folder)?.to_owned();
    first.push('/');
    // The character after the slash: all that begins with the folder lies between.
    let last = format!("{}0", text(folder)?);
    collect(db, "WHERE path > ?1 AND path < ?2 AND step IS NOT NULL", (first, last))
}

impl Store {
    /// Returns the files that were rendered from a step.
    pub async fn outputs_of_step(&self, step: String) -> Result<Vec<Output>> {
        self.read(move |db| collect(db, "WHERE step = ?1 ORDER BY path", [step])).await
    }

    /// Returns the files of open jobs that were aside when they were recorded, and may be still.
    pub async fn outputs_aside(&self) -> Result<Vec<(JobId, Output)>> {
        let aside = "SELECT path, task, step, size, sha256, aside, job FROM outputs JOIN jobs ON jobs.id = job \
                     WHERE aside IS NOT NULL AND jobs.state NOT IN ('succeeded', 'failed', 'canceled')";
        let read = |row: &Row<'_>| Ok((row.get(6)?, output(row)?));
        self.read(move |db| rows(db, aside, [], read)).await
    }

    /// Returns the files of a job.
    pub async fn outputs_of_job(&self, job: JobId) -> Result<Vec<Output>> {
        self.read(move |db| collect(db, "WHERE job = ?1 ORDER BY path", [job])).await
    }
}

/// Reads what another host's database recorded below a folder. Blocks.
pub fn of_journal(journal: &Path, folder: &Path) -> Result<Vec<Output>> {
    below(&super::open_to_read(journal)?, folder)
}
