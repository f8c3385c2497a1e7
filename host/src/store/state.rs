//! The state of plugins: bytes by key, of one job.

use rusqlite::OptionalExtension;

use super::{Result, Store, Writing};
use crate::terms::JobId;

impl Store {
    /// Returns what was set under a key.
    pub async fn state(&self, job: JobId, key: String) -> Result<Option<Vec<u8>>> {
        self.read(move |db| {
            let mut rows = db.prepare_cached("SELECT value FROM state WHERE job = ?1 AND key = ?2")?;
            Ok(rows.query_row((job, key), |row| row.get(0)).optional()?)
        })
        .await
    }
}

impl Writing<'_> {
    /// Adds up the bytes of all keys of a job but one.
    pub fn state_beside(&mut self, job: JobId, key: &str) -> Result<usize> {
        let sum = "SELECT coalesce(sum(length(value)), 0) FROM state WHERE job = ?1 AND key <> ?2";
        Ok(self.db.prepare_cached(sum)?.query_row((job, key), |row| row.get(0))?)
    }

    /// Keeps a value, with the release that wrote it.
    pub fn set_state(&mut self, job: JobId, key: &str, value: &[u8], release: &str) -> Result<()> {
        let insert = "INSERT OR REPLACE INTO state VALUES (?1, ?2, ?3, ?4)";
        self.db.prepare_cached(insert)?.execute((job, key, value, release))?;
        Ok(())
    }

    /// Forgets a key.
    pub fn delete_state(&mut self, job: JobId, key: &str) -> Result<()> {
        self.db.prepare_cached("DELETE FROM state WHERE job = ?1 AND key = ?2")?.execute((job, key))?;
        Ok(())
    }
}
