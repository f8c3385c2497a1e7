//! Releases in the database: what is known of each, and where it stands.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Row, params};
use semver::Version;
use serde::{Deserialize, Serialize};

use super::{Json, Result, Store, Writing, rows};
use crate::terms::{Capability, JobId, Presence, ReleaseState};

/// A release as it is stored.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "as in schema/2.sql")]
pub struct ReleaseRow {
    pub digest: String,
    pub edition: u64,
    pub name: String,
    pub version: Version,
    pub build: u32,
    pub state: ReleaseState,
    pub why: String,
    pub since_ms: u64,
    pub place: Option<String>,
    pub presence: Presence,
    pub capabilities: Vec<Capability>,
    pub approved: bool,
    pub proven: bool,
    pub chosen: bool,
    pub before: Option<String>,
    pub counts: Counts,
}

/// What the tasks of a release came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Tasks that were done.
    pub tasks: u64,
    /// Attempts that failed because of it.
    pub failures: u64,
    /// Tasks that were done since it is a canary.
    pub trial: u64,
}

struct Text(Version);

impl ToSql for Text {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.to_string().into())
    }
}

impl FromSql for Text {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str()?.parse().map(Self).map_err(|error: semver::Error| FromSqlError::Other(error.into()))
    }
}

fn release(row: &Row<'_>) -> rusqlite::Result<ReleaseRow> {
    let (Text(version), Json(capabilities), Json(counts)) = (row.get(3)?, row.get(10)?, row.get(15)?);
    Ok(ReleaseRow {
        digest: row.get(0)?,
        edition: row.get(1)?,
        name: row.get(2)?,
        version,
        build: row.get(4)?,
        state: row.get(5)?,
        why: row.get(6)?,
        since_ms: row.get(7)?,
        place: row.get(8)?,
        presence: row.get(9)?,
        capabilities,
        approved: row.get(11)?,
        proven: row.get(12)?,
        chosen: row.get(13)?,
        before: row.get(14)?,
        counts,
    })
}

impl Store {
    /// Lists all releases that are known.
    pub async fn releases(&self) -> Result<Vec<ReleaseRow>> {
        self.read(|db| rows(db, "SELECT * FROM releases", [], release)).await
    }

    /// Lists the digests of all releases that a job which is kept is pinned to.
    pub async fn pinned_releases(&self) -> Result<Vec<String>> {
        let pinned = "SELECT DISTINCT json_extract(release, '$.digest') FROM jobs";
        self.read(move |db| rows(db, pinned, [], |row| row.get(0))).await
    }

    /// Lists the open jobs that are pinned to a release, with the time of their submission.
    pub async fn jobs_pinned_to(&self, digest: String) -> Result<Vec<(JobId, u64)>> {
        let pinned = "SELECT id, created_ms FROM jobs WHERE json_extract(release, '$.digest') = ?1 \
                      AND state NOT IN ('succeeded', 'failed', 'canceled') ORDER BY id";
        self.read(move |db| rows(db, pinned, [digest], |row| Ok((row.get(0)?, row.get(1)?)))).await
    }
}

impl Writing<'_> {
    /// Keeps a release as it is, unless what is stored is newer.
    pub fn set_release(&mut self, row: &ReleaseRow) -> Result<()> {
        let newer = "SELECT 1 FROM releases WHERE digest = ?1 AND edition >= ?2";
        if self.db.prepare_cached(newer)?.exists((&row.digest, row.edition))? {
            return Ok(());
        }
        let insert = "INSERT OR REPLACE INTO releases VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, \
                      ?12, ?13, ?14, ?15, ?16)";
        self.db.prepare_cached(insert)?.execute(params![
            row.digest,
            row.edition,
            row.name,
            Text(row.version.clone()),
            row.build,
            row.state,
            row.why,
            row.since_ms,
            row.place,
            row.presence,
            Json(&row.capabilities),
            row.approved,
            row.proven,
            row.chosen,
            row.before,
            Json(row.counts),
        ])?;
        Ok(())
    }

    /// Forgets a release.
    pub fn delete_release(&mut self, digest: &str) -> Result<()> {
        self.db.prepare_cached("DELETE FROM releases WHERE digest = ?1")?.execute([digest])?;
        Ok(())
    }
}
