//! The state of plugins: bytes by key, of one job and one release.
//!
//! A release reads what it wrote itself, and what the job held when it moved to it:
//! never what a later one wrote.

use rusqlite::OptionalExtension;

use super::{Result, Store, Writing};
use crate::terms::JobId;

impl Store {
    /// Returns what was set under a key.
    pub async fn state(&self, job: JobId, release: String, key: String) -> Result<Option<Vec<u8>>> {
        self.read(move |db| {
            let value = "SELECT value FROM state WHERE job = ?1 AND release = ?2 AND key = ?3";
            Ok(db.prepare_cached(value)?.query_row((job, release, key), |row| row.get(0)).optional()?)
        })
        .await
    }
}

impl Writing<'_> {
    /// Adds up the bytes of all keys but one.
    pub fn state_beside(&mut self, job: JobId, release: &str, key: &str) -> Result<usize> {
        let sum = "SELECT coalesce(sum(length(value)), 0) FROM state \
                   WHERE job = ?1 AND release = ?2 AND key <> ?3";
        Ok(self.db.prepare_cached(sum)?.query_row((job, release, key), |row| row.get(0))?)
    }

    /// Keeps a value.
    pub fn set_state(&mut self, job: JobId, release: &str, key: &str, value: &[u8]) -> Result<()> {
        let insert = "INSERT OR REPLACE INTO state VALUES (?1, ?2, ?3, ?4)";
        self.db.prepare_cached(insert)?.execute((job, release, key, value))?;
        Ok(())
    }

    /// Forgets a key.
    pub fn delete_state(&mut self, job: JobId, release: &str, key: &str) -> Result<()> {
        let delete = "DELETE FROM state WHERE job = ?1 AND release = ?2 AND key = ?3";
        self.db.prepare_cached(delete)?.execute((job, release, key))?;
        Ok(())
    }

    /// Gives a release what another one holds of a job, and nothing else.
    pub fn hand_over_state(&mut self, job: JobId, from: &str, to: &str) -> Result<()> {
        let delete = "DELETE FROM state WHERE job = ?1 AND release = ?2";
        self.db.prepare_cached(delete)?.execute((job, to))?;
        let copy = "INSERT INTO state SELECT job, ?3, key, value FROM state WHERE job = ?1 AND release = ?2";
        self.db.prepare_cached(copy)?.execute((job, from, to))?;
        Ok(())
    }
}
