//! Saving what can still be read of a damaged database.

use std::path::Path;

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, params_from_iter};

use super::{Result, StoreError, schema};

/// The tables, those that others refer to first.
const TABLES: [&str; 9] =
    ["jobs", "job_order", "tasks", "outputs", "state", "releases", "sessions", "events", "facts"];

/// What was saved of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// The table.
    pub table: &'static str,
    /// Rows that were read.
    pub rows: usize,
    /// Whether some could not be.
    pub is_cut: bool,
}

/// Says what can be read of a database, and copies it if there is a place for it.
///
/// The damaged file is not written. Rows are read from the front until one cannot
/// be, and then from the back.
pub fn rescue(damaged: &Path, into: Option<&Path>) -> Result<Vec<Saved>> {
    let from = Connection::open_with_flags(damaged, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    // A spoiled index must not keep a row from being found.
    let _ = from.execute_batch("PRAGMA cell_size_check = on; PRAGMA ignore_check_constraints = on");
    let into = into.map(schema::open).transpose()?;
    if let Some(into) = &into {
        into.execute_batch("PRAGMA foreign_keys = off; DELETE FROM facts; BEGIN")?;
    }
    let saved = TABLES.map(|table| copy(&from, into.as_ref(), table));
    let is_cut = |table: &str| saved.iter().any(|saved| saved.table == table && saved.is_cut);
    if let Some(into) = into.as_ref().filter(|_| is_cut("tasks")) {
        // A job that lost some of its tasks must not end without them: it is planned anew.
        into.execute_batch(
            "UPDATE jobs SET planned = 0, tasks = 0, done = 0, failed = 0, \
             state = CASE state WHEN 'running' THEN 'queued' ELSE state END WHERE state <> 'succeeded'; \
             DELETE FROM tasks WHERE job IN (SELECT id FROM jobs WHERE planned = 0)",
        )?;
    }
    if let Some(into) = &into {
        // A task whose job is lost belongs to nobody.
        into.execute_batch(
            "INSERT OR IGNORE INTO facts VALUES ('collected', (SELECT coalesce(max(seq), 0) FROM events)); \
             INSERT OR IGNORE INTO facts VALUES ('last', 0); \
             DELETE FROM tasks WHERE job NOT IN (SELECT id FROM jobs); \
             DELETE FROM job_order WHERE job NOT IN (SELECT id FROM jobs); \
             DELETE FROM state WHERE job NOT IN (SELECT id FROM jobs); COMMIT",
        )
        .map_err(StoreError::from)?;
    }
    Ok(saved.into())
}

fn copy(from: &Connection, into: Option<&Connection>, table: &'static str) -> Saved {
    let front = portion(from, into, table, "ASC");
    let is_cut = front.is_err();
    let rows = match front {
        Ok(rows) => rows,
        // What was read twice is kept once.
        Err(rows) => rows + portion(from, into, table, "DESC").unwrap_or_else(|rows| rows),
    };
    Saved { table, rows, is_cut }
}

/// Copies rows until one cannot be read; returns how many.
fn portion(
    from: &Connection,
    into: Option<&Connection>,
    table: &str,
    order: &str,
) -> std::result::Result<usize, usize> {
    let mut count = 0;
    let mut work = || -> rusqlite::Result<()> {
        let key = match table {
            "tasks" => "job, position",
            "job_order" => "job, after",
            "facts" => "name",
            _ => "rowid",
        };
        let order = key.split(", ").map(|key| format!("{key} {order}")).collect::<Vec<_>>().join(", ");
        let mut rows = from.prepare(&format!("SELECT * FROM {table} ORDER BY {order}"))?;
        let columns = rows.column_count();
        let places = vec!["?"; columns].join(", ");
        let mut insert = match into {
            Some(into) => Some(into.prepare(&format!("INSERT OR IGNORE INTO {table} VALUES ({places})"))?),
            None => None,
        };
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let values: Vec<Value> = (0..columns).map(|n| row.get(n)).collect::<rusqlite::Result<_>>()?;
            // A row that makes no sense is left out, and the next one tried.
            let kept = insert.as_mut().map_or(Ok(1), |insert| insert.execute(params_from_iter(values)));
            count += kept.unwrap_or(0);
        }
        Ok(())
    };
    match work() {
        Ok(()) => Ok(count),
        Err(_) => Err(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::jobs::tests::row;

    #[tokio::test]
    async fn what_is_whole_is_saved_and_the_damaged_file_stays_as_it_is() {
        let temp = tempfile::tempdir().unwrap();
        let [path, saved] = ["a.db", "b.db"].map(|name| temp.path().join(name));
        let store = Store::open(&path).unwrap();
        for _ in 0..200 {
            let mut job = row();
            job.request = "x".repeat(2000);
            store.write(move |writing| writing.insert_job(&job, &[])).await.unwrap();
        }
        store.close().await;
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 8192].fill(0x55);
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Damaged { .. })));

        let told = rescue(&path, None).unwrap();
        let jobs = told.iter().find(|saved| saved.table == "jobs").unwrap();
        assert!(jobs.rows > 100 && jobs.rows < 200 && jobs.is_cut, "{jobs:?}");
        rescue(&path, Some(&saved)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        let store = Store::open(&saved).unwrap();
        assert_eq!(store.open_jobs().await.unwrap().len(), jobs.rows);
    }
}
