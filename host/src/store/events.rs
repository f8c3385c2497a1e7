//! Events in the database, and the latest of them in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use tokio::sync::watch;

use super::{Json, Result, Store, Writing, now_ms, rows};
use crate::events::{Event, EventKind};
use crate::terms::JobId;

/// How many events are kept in memory for those who follow closely.
const KEPT: usize = 4_096;
/// How many events are read at once.
pub const PAGE: usize = 512;

/// The latest events; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Tail(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    kept: Mutex<VecDeque<Arc<Event>>>,
    last: watch::Sender<u64>,
}

/// Events of a transaction that is not on disk yet.
#[derive(Debug)]
pub(super) struct Appended {
    after: u64,
    events: Vec<Arc<Event>>,
}

impl Tail {
    pub(super) fn starting_after(last: u64) -> Self {
        Self(Arc::new(Shared { kept: Mutex::default(), last: watch::Sender::new(last) }))
    }

    pub(super) fn appending(&self) -> Appended {
        Appended { after: *self.0.last.borrow(), events: Vec::new() }
    }

    pub(super) fn publish(&self, appended: Appended) {
        let Some(last) = appended.events.last().map(|event| event.seq) else { return };
        let mut kept = self.0.kept.lock().expect("no code panics under this lock");
        kept.extend(appended.events);
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
        drop(kept);
        self.0.last.send_replace(last);
    }

    /// Returns what comes after an event, if all of it is still here.
    fn after(&self, cursor: u64) -> Option<Vec<Arc<Event>>> {
        let kept = self.0.kept.lock().expect("no code panics under this lock");
        let first = kept.front()?.seq;
        let skip = (cursor + 1).checked_sub(first)? as usize;
        Some(kept.iter().skip(skip).take(PAGE).cloned().collect())
    }
}

impl Appended {
    pub(super) fn mark(&self) -> usize {
        self.events.len()
    }

    pub(super) fn back_to(&mut self, mark: usize) {
        self.events.truncate(mark);
    }
}

impl Writing<'_> {
    /// Numbers an event and stores it with the rest of the transaction.
    pub fn append(&mut self, kind: EventKind) -> Result<()> {
        let seq = self.appended.after + self.appended.events.len() as u64 + 1;
        let event = Event { seq, time_ms: now_ms(), kind };
        let body = serde_json::to_string(&event.kind).expect("events are plain data");
        let insert = "INSERT INTO events (seq, time_ms, job, body) VALUES (?1, ?2, ?3, ?4)";
        let row = (seq, event.time_ms, event.kind.job(), body);
        self.db.prepare_cached(insert)?.execute(row)?;
        self.appended.events.push(Arc::new(event));
        Ok(())
    }
}

/// Returns the number of the last event there ever was.
pub fn last(db: &Connection) -> Result<u64> {
    let last = "SELECT max((SELECT value FROM facts WHERE name = 'last'), (SELECT coalesce(max(seq), 0) FROM events))";
    Ok(db.query_row(last, [], |row| row.get(0))?)
}

/// Counts the events that are kept.
pub fn count(db: &Connection) -> Result<u64> {
    Ok(db.query_row("SELECT count(*) FROM events", [], |row| row.get(0))?)
}

/// Reads up to `count` events after a number, of one job if one is given.
pub fn read(db: &Connection, cursor: u64, job: Option<JobId>, count: usize) -> Result<Vec<Arc<Event>>> {
    let of_all = "SELECT seq, time_ms, body FROM events WHERE seq > ?1 AND ?3 IS NULL ORDER BY seq LIMIT ?2";
    let of_job = "SELECT seq, time_ms, body FROM events WHERE seq > ?1 AND job = ?3 ORDER BY seq LIMIT ?2";
    let statement = if job.is_some() { of_job } else { of_all };
    rows(db, statement, (cursor, count, job), |row| {
        let Json(kind) = row.get(2)?;
        Ok(Arc::new(Event { seq: row.get(0)?, time_ms: row.get(1)?, kind }))
    })
}

/// A reader of events.
#[derive(Debug)]
pub struct Subscription {
    store: Store,
    cursor: u64,
    last: watch::Receiver<u64>,
}

/// Some events that the subscriber wanted have been collected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("events up to {0} are no longer stored")]
pub struct Missed(pub u64);

impl Store {
    /// Subscribes to everything after the event with number `cursor`; tells what
    /// of that is gone.
    pub async fn subscribe(&self, cursor: u64) -> Result<(Subscription, Option<Missed>)> {
        let collected: u64 = self
            .read(|db| {
                let collected = "SELECT value FROM facts WHERE name = 'collected'";
                Ok(db.query_row(collected, [], |row| row.get(0))?)
            })
            .await?;
        let missed = (cursor < collected).then_some(Missed(collected));
        let last = self.0.tail.0.last.subscribe();
        Ok((Subscription { store: self.clone(), cursor, last }, missed))
    }

    /// Returns when the last event was stored, in milliseconds since 1970.
    pub async fn last_event_ms(&self) -> Result<Option<u64>> {
        let last = "SELECT time_ms FROM events ORDER BY seq DESC LIMIT 1";
        self.read(move |db| Ok(rows(db, last, [], |row| row.get(0))?.pop())).await
    }

    /// Returns the number of the last event.
    pub fn last_event(&self) -> u64 {
        *self.0.tail.0.last.borrow()
    }

    /// Stores an event of its own as soon as that is possible. For what nobody waits for.
    pub fn append_soon(&self, kind: EventKind) {
        let store = self.clone();
        tokio::spawn(async move {
            if let Err(error) = store.write_patiently(move |writing| writing.append(kind.clone())).await {
                tracing::warn!(%error, "an event could not be written");
            }
        });
    }
}

impl Subscription {
    /// Waits until there are events, and returns some.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>> {
        loop {
            let cursor = self.cursor;
            let wait = self.last.wait_for(|last| *last > cursor).await;
            drop(wait.expect("the store, which this holds, keeps the sender"));
            let last = *self.last.borrow();
            let events = match self.store.0.tail.after(cursor) {
                Some(events) => events,
                None => self.store.read(move |db| read(db, cursor, None, PAGE)).await?,
            };
            match events.last() {
                Some(event) => {
                    self.cursor = event.seq;
                    return Ok(events);
                }
                // All up to the last were collected meanwhile.
                None => self.cursor = last,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stopped(id: u32) -> EventKind {
        EventKind::WorkerStopped { id, reason: "test".to_owned() }
    }

    async fn filled(count: u32) -> (tempfile::TempDir, Store) {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&temp.path().join("a.db")).unwrap();
        let all = move |writing: &mut Writing<'_>| (1..=count).try_for_each(|id| writing.append(stopped(id)));
        store.write(all).await.unwrap();
        (temp, store)
    }

    async fn read_all(store: &Store, cursor: u64, until: u64) -> Vec<u64> {
        let (mut subscription, missed) = store.subscribe(cursor).await.unwrap();
        assert_eq!(missed, None);
        let mut seen = Vec::new();
        while seen.last().is_none_or(|last| *last < until) {
            seen.extend(subscription.next().await.unwrap().iter().map(|event| event.seq));
        }
        seen
    }

    #[tokio::test]
    async fn a_subscriber_reads_on_from_its_cursor_from_memory_and_from_disk() {
        let count = KEPT as u32 + 1000;
        let (_temp, store) = filled(count).await;
        let last = u64::from(count);
        assert_eq!(read_all(&store, 0, last).await, (1..=last).collect::<Vec<_>>());
        assert_eq!(read_all(&store, last - 3, last).await, [last - 2, last - 1, last]);
    }

    #[tokio::test]
    async fn numbers_go_on_where_they_ended() {
        let (temp, store) = filled(3).await;
        drop(store);
        let store = Store::open(&temp.path().join("a.db")).unwrap();
        store.write(|writing| writing.append(stopped(4))).await.unwrap();
        assert_eq!(read_all(&store, 0, 4).await, [1, 2, 3, 4]);
    }

    #[tokio::test]
    async fn a_write_that_fails_leaves_no_event_and_no_gap() {
        let (_temp, store) = filled(1).await;
        let failed = store.write(|writing| {
            writing.append(stopped(9))?;
            Err::<(), _>(super::super::StoreError::Conflict("this".to_owned()))
        });
        assert!(failed.await.is_err());
        store.write(|writing| writing.append(stopped(2))).await.unwrap();
        assert_eq!(read_all(&store, 0, 2).await, [1, 2]);
    }
}
