//! Sessions of clients: what survives a connection.

use rusqlite::OptionalExtension;

use super::{Result, Store, Writing, now_ms};

/// A client's attachment.
#[derive(Debug, Clone)]
pub struct Session {
    /// Its id.
    pub id: String,
    /// What the client calls itself.
    pub name: String,
    /// The last event that the client has acknowledged.
    pub cursor: u64,
}

impl Writing<'_> {
    /// Keeps a session, new or changed.
    pub fn keep_session(&mut self, session: &Session) -> Result<()> {
        let insert = "INSERT OR REPLACE INTO sessions VALUES (?1, ?2, ?3, ?4)";
        let row = (&session.id, &session.name, session.cursor, now_ms());
        self.db.prepare_cached(insert)?.execute(row)?;
        Ok(())
    }

    /// Moves the cursor of a session, never back; false if there is no such session.
    pub fn acknowledge(&mut self, id: &str, seq: u64) -> Result<bool> {
        let update = "UPDATE sessions SET cursor = max(cursor, ?2), seen_ms = ?3 WHERE id = ?1";
        Ok(self.db.prepare_cached(update)?.execute((id, seq, now_ms()))? > 0)
    }
}

impl Store {
    /// Finds a session.
    pub async fn session(&self, id: String) -> Result<Option<Session>> {
        self.read(move |db| {
            let mut rows = db.prepare_cached("SELECT id, name, cursor FROM sessions WHERE id = ?1")?;
            let session = |row: &rusqlite::Row<'_>| {
                Ok(Session { id: row.get(0)?, name: row.get(1)?, cursor: row.get(2)? })
            };
            Ok(rows.query_row([id], session).optional()?)
        })
        .await
    }
}
