//! Letting go of old rows.

use super::{Result, Writing, rows};
use crate::terms::JobId;

/// What is kept.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Finished jobs that ended after this, in milliseconds since 1970 ...
    pub jobs_since_ms: u64,
    /// ... and at most so many of them.
    pub jobs: usize,
    /// Events after this, in milliseconds since 1970 ...
    pub events_since_ms: u64,
    /// ... and at most so many of them.
    pub events: u64,
}

/// What was let go of.
#[derive(Debug)]
pub struct Collected {
    /// Jobs.
    pub jobs: Vec<JobId>,
    /// How many events.
    pub events: usize,
    /// Where to go on, if there may be more events to let go of.
    pub next: Option<u64>,
}

impl Writing<'_> {
    /// Lets go of up to `portion` jobs and events. Open and pinned jobs, and what an
    /// open job comes after, lose nothing.
    pub fn collect(&mut self, keep: &Keep, after: u64, portion: usize) -> Result<Collected> {
        let finished = "state IN ('succeeded', 'failed', 'canceled') AND NOT pinned";
        let wanted = "EXISTS (SELECT 1 FROM job_order JOIN jobs AS open ON open.id = job_order.job \
                      WHERE job_order.after = jobs.id AND open.state NOT IN ('succeeded', 'failed', 'canceled'))";
        let old = format!(
            "SELECT id FROM jobs WHERE {finished} AND NOT {wanted} AND (ended_ms < ?1 OR id < \
             coalesce((SELECT id FROM jobs WHERE {finished} ORDER BY id DESC LIMIT 1 OFFSET ?2), '')) \
             ORDER BY id LIMIT ?3"
        );
        let limits = (keep.jobs_since_ms, keep.jobs.saturating_sub(1), portion);
        let jobs: Vec<JobId> = rows(self.db, &old, limits, |row| row.get(0))?;
        for job in &jobs {
            self.db.prepare_cached("DELETE FROM outputs WHERE job = ?1")?.execute([job])?;
            self.db.prepare_cached("DELETE FROM jobs WHERE id = ?1")?.execute([job])?;
        }
        let forgotten = "DELETE FROM sessions WHERE seen_ms < ?1";
        self.db.prepare_cached(forgotten)?.execute([keep.events_since_ms])?;
        let (events, next) = self.collect_events(keep, after, portion)?;
        Ok(Collected { jobs, events, next })
    }

    /// Goes through events from the oldest on, until one is young enough. Those that
    /// stay are passed by: `after` is where the last portion came to.
    fn collect_events(&mut self, keep: &Keep, after: u64, portion: usize) -> Result<(usize, Option<u64>)> {
        let kept = "EXISTS (SELECT 1 FROM jobs WHERE jobs.id = events.job AND (pinned OR state NOT IN \
                    ('succeeded', 'failed', 'canceled')))";
        let oldest = format!(
            "SELECT seq, time_ms < ?2 OR seq <= (SELECT max(seq) FROM events) - ?3, {kept} FROM events \
             WHERE seq > ?1 ORDER BY seq LIMIT ?4"
        );
        let limits = (after, keep.events_since_ms, keep.events, portion);
        let found: Vec<(u64, bool, bool)> =
            rows(self.db, &oldest, limits, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let old: Vec<u64> =
            found.iter().take_while(|row| row.1).filter(|row| !row.2).map(|row| row.0).collect();
        let goes_on = found.len() == portion && found.iter().all(|row| row.1);
        let next = found.last().map(|row| row.0).filter(|_| goes_on);
        if let Some(last) = old.last() {
            let note = "UPDATE facts SET value = max(value, CASE name WHEN 'collected' THEN ?1 ELSE \
                        (SELECT max(seq) FROM events) END)";
            self.db.prepare_cached(note)?.execute([last])?;
        }
        for seq in &old {
            self.db.prepare_cached("DELETE FROM events WHERE seq = ?1")?.execute([seq])?;
        }
        Ok((old.len(), next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::EventKind;
    use crate::store::Store;
    use crate::store::jobs::{JobRow, tests::row};
    use crate::terms::JobState;

    const NOTHING: Keep =
        Keep { jobs_since_ms: u64::MAX >> 1, jobs: 0, events_since_ms: u64::MAX >> 1, events: 0 };

    /// Makes jobs, the last of them after the first, each with an event.
    async fn filled(jobs: Vec<JobRow>) -> (tempfile::TempDir, Store, Vec<JobId>) {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&temp.path().join("a.db")).unwrap();
        let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        let first = ids[0];
        let fill = move |writing: &mut Writing<'_>| {
            for (n, job) in jobs.iter().enumerate() {
                let after = if n + 1 == jobs.len() { vec![first] } else { Vec::new() };
                writing.insert_job(job, &after)?;
                writing.append(EventKind::Warning { job: job.id, about: None, message: n.to_string() })?;
            }
            Ok(())
        };
        store.write(fill).await.unwrap();
        (temp, store, ids)
    }

    fn job(state: JobState, pinned: bool) -> JobRow {
        JobRow { state, pinned, ended_ms: state.is_final().then_some(1), ..row() }
    }

    #[tokio::test]
    async fn what_is_open_pinned_or_waited_for_stays() {
        use JobState::{Failed, Queued, Succeeded};
        let jobs = vec![job(Succeeded, false), job(Failed, false), job(Succeeded, true), job(Queued, false)];
        let (_temp, store, ids) = filled(jobs).await;
        let gone = store.write(|writing| writing.collect(&NOTHING, 0, 100)).await.unwrap();
        assert_eq!(gone.jobs, [ids[1]]);
        // Those of the first, which is finished but waited for, and of the one that is gone.
        assert_eq!(gone.events, 2);
        let (_, missed) = store.subscribe(0).await.unwrap();
        assert!(missed.is_some());
        let (_, missed) = store.subscribe(2).await.unwrap();
        assert!(missed.is_none());
    }

    #[tokio::test]
    async fn the_newest_stay_up_to_a_number() {
        let jobs = (0..5).map(|_| job(JobState::Succeeded, false)).collect();
        let (_temp, store, ids) = filled(jobs).await;
        let keep = Keep { jobs_since_ms: 0, jobs: 2, events_since_ms: 0, events: 3 };
        let gone = store.write(move |writing| writing.collect(&keep, 0, 100)).await.unwrap();
        assert_eq!((gone.jobs.as_slice(), gone.events), (&ids[..3], 2));
    }

    #[tokio::test]
    async fn numbers_are_never_used_again() {
        let (temp, store, _) = filled(vec![job(JobState::Succeeded, false)]).await;
        store.write(|writing| writing.collect(&NOTHING, 0, 100)).await.unwrap();
        drop(store);
        let store = Store::open(&temp.path().join("a.db")).unwrap();
        assert_eq!(store.last_event(), 1);
    }
}
