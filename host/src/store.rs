//! The database: what must outlive the host.
//!
//! One thread writes. It takes all that waits, writes it in one transaction and
//! only then answers, so that many small writes cost one flush of the disk.
//! Others read at the same time, each from a connection of its own. Knows rows;
//! what they mean is its callers' business.
//!
//! `synchronous` is FULL: what was answered is on the disk, also after a loss of
//! power (docs/decisions/010).

pub mod collect;
pub mod events;
pub mod jobs;
pub mod outputs;
pub mod releases;
pub mod rescue;
mod schema;
pub mod sessions;
pub mod state;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::terms::{JobId, JobState, Presence, ReleaseState, TaskState};
use events::Tail;

/// How many writes may wait for the writing thread.
const QUEUE: usize = 1024;
/// How many writes share a transaction at most.
const GROUP: usize = 512;
/// How many may read at a time, and how many connections are kept for them.
const READING: usize = 16;
const READERS: usize = 4;
const BUSY: Duration = Duration::from_secs(5);
/// How long to wait before what could not be written is written again.
const AGAIN: Duration = Duration::from_secs(1);

/// Why the database did not do what it was asked to.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The file is no database, or parts of it cannot be read.
    #[error("the database {} is damaged: {what}\n`hotshoe doctor` shows what can be saved and how", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// A newer Hotshoe has written it.
    #[error(
        "the database {} is from a newer Hotshoe (its format is {found}, this one knows {known})\n\
         use that Hotshoe, or another data directory with --data DIR", path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest format that this program knows.
        known: i64,
    },
    /// A row is not as its owner left it.
    #[error("{0} was changed by somebody else")]
    Conflict(String),
    /// SQLite says so.
    #[error("the database failed: {0}")]
    Sqlite(Arc<rusqlite::Error>),
    /// The thread that writes is gone.
    #[error("the database is closed")]
    Closed,
}

/// The result of a read or a write.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(Arc::new(error))
    }
}

impl StoreError {
    /// Whether it may go away by itself: the disk is full, say.
    pub fn may_pass(&self) -> bool {
        let Self::Sqlite(error) = self else { return false };
        use ErrorCode::{CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, OutOfMemory, SystemIoFailure};
        let passing = [DiskFull, SystemIoFailure, DatabaseBusy, DatabaseLocked, OutOfMemory, CannotOpen];
        error.sqlite_error_code().is_some_and(|code| passing.contains(&code))
    }
}

/// A handle on the database; clones share it.
#[derive(Debug, Clone)]
pub struct Store(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// None once it is closed.
    writer: Mutex<Option<mpsc::Sender<Work>>>,
    /// Tells when the thread that writes has ended.
    ended: watch::Receiver<bool>,
    readers: Mutex<Vec<Connection>>,
    /// How many may read at a time: each takes a thread, and three files.
    reading: Semaphore,
    tail: Tail,
    trouble: watch::Sender<Trouble>,
}

/// What keeps patient writers waiting.
#[derive(Debug, Default)]
struct Trouble {
    waiting: usize,
    error: Option<StoreError>,
}

/// One who waits until the database can be written again.
struct Waiting<'a>(&'a watch::Sender<Trouble>);

/// Does one write; tells whether it went well, and who hears that it is on disk.
/// Without a transaction it is not done, and only hears why.
type Work = Box<dyn FnOnce(Option<&mut Writing<'_>>) -> (bool, Done) + Send>;
type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// The transaction that a write is part of.
#[derive(Debug)]
pub struct Writing<'a> {
    db: &'a Connection,
    appended: events::Appended,
}

impl Store {
    /// Opens the database, and makes it if there is none. Fails rather than to
    /// touch one that is damaged or newer.
    pub fn open(path: &Path) -> Result<Self> {
        let db = schema::open(path)?;
        let last = events::last(&db)?;
        let (writer, queued) = mpsc::channel(QUEUE);
        let (ending, ended) = watch::channel(false);
        let shared = Shared {
            path: path.to_owned(),
            writer: Mutex::new(Some(writer)),
            ended,
            readers: Mutex::default(),
            reading: Semaphore::new(READING),
            tail: Tail::starting_after(last),
            trouble: watch::Sender::default(),
        };
        let tail = shared.tail.clone();
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                write(&db, queued, &tail);
                drop(db);
                ending.send_replace(true);
            })
            .map_err(|error| StoreError::from(rusqlite::Error::ToSqlConversionFailure(error.into())))?;
        Ok(Self(Arc::new(shared)))
    }

    /// Looks whether a database can be used, and changes nothing. None if there is none.
    pub fn look(path: &Path) -> Option<Result<()>> {
        path.exists().then(|| schema::look(path))
    }

    /// Writes, and returns once it is on disk: all of it or nothing.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writing<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |writing| {
            let result = writing.map_or(Err(StoreError::Closed), work);
            let went_well = result.is_ok();
            (went_well, Box::new(move |written: Result<()>| drop(reply.send(written.and(result)))))
        });
        let writer = self.0.writer().clone().ok_or(StoreError::Closed)?;
        writer.send(work).await.map_err(|_| StoreError::Closed)?;
        drop(writer);
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Writes as soon as that is possible, and waits while the disk is full.
    pub async fn write_patiently<T: Send + 'static>(
        &self,
        work: impl Fn(&mut Writing<'_>) -> Result<T> + Clone + Send + 'static,
    ) -> Result<T> {
        let mut waiting = None;
        loop {
            match self.write(work.clone()).await {
                Err(error) if error.may_pass() => {
                    waiting.get_or_insert_with(|| Waiting::begin(&self.0.trouble, error));
                    tokio::time::sleep(AGAIN).await;
                }
                result => return result,
            }
        }
    }

    /// Says why somebody waits to write, if so.
    pub fn trouble(&self) -> Option<StoreError> {
        self.0.trouble.borrow().error.clone()
    }

    /// Waits until somebody has to wait to write; says why.
    pub async fn troubled(&self) -> StoreError {
        let mut trouble = self.0.trouble.subscribe();
        let troubled = trouble.wait_for(|trouble| trouble.error.is_some()).await;
        troubled.ok().and_then(|trouble| trouble.error.clone()).unwrap_or(StoreError::Closed)
    }

    /// Writes what still waits, and leaves one tidy file behind.
    pub async fn close(&self) {
        *self.0.writer() = None;
        self.0.readers.lock().expect("no code panics under this lock").clear();
        let _ = self.0.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Reads what is on disk.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _turn = self.0.reading.acquire().await.map_err(|_| StoreError::Closed)?;
        let shared = self.0.clone();
        tokio::task::spawn_blocking(move || shared.read(work)).await.map_err(|_| StoreError::Closed)?
    }
}

impl<'a> Waiting<'a> {
    fn begin(trouble: &'a watch::Sender<Trouble>, error: StoreError) -> Self {
        tracing::error!(%error, "cannot write the database; trying again");
        trouble.send_modify(|trouble| {
            trouble.waiting += 1;
            trouble.error = Some(error);
        });
        Self(trouble)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|trouble| {
            trouble.waiting -= 1;
            trouble.error.take_if(|_| trouble.waiting == 0);
        });
    }
}

impl Shared {
    fn writer(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<Work>>> {
        self.writer.lock().expect("no code panics under this lock")
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let readers = || self.readers.lock().expect("no code panics under this lock");
        let kept = readers().pop();
        let db = match kept {
            Some(db) => db,
            None => open_to_read(&self.path)?,
        };
        let result = work(&db);
        let mut readers = readers();
        if readers.len() < READERS {
            readers.push(db);
        }
        result
    }
}

fn open_to_read(path: &Path) -> Result<Connection> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    db.busy_timeout(BUSY)?;
    Ok(db)
}

/// Reads all rows that a statement finds.
fn rows<T>(
    db: &Connection,
    statement: &str,
    parameters: impl rusqlite::Params,
    read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    let mut statement = db.prepare_cached(statement)?;
    let found = statement.query_map(parameters, read)?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// Takes all that waits, again and again, until nobody can send any more.
fn write(db: &Connection, mut queued: mpsc::Receiver<Work>, tail: &Tail) {
    let mut group = Vec::with_capacity(GROUP);
    while queued.blocking_recv_many(&mut group, GROUP) > 0 {
        write_group(db, &mut group, tail);
    }
    // The next to open it needs no recovery.
    let _ = db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA optimize");
}

fn write_group(db: &Connection, group: &mut Vec<Work>, tail: &Tail) {
    let mut waiting = Vec::with_capacity(group.len());
    let mut writing = Writing { db, appended: tail.appending() };
    let mut result = db.execute_batch("BEGIN IMMEDIATE").map_err(StoreError::from);
    for work in group.drain(..) {
        match result {
            Ok(()) => result = write_one(&mut writing, work, &mut waiting),
            Err(_) => waiting.push(work(None).1),
        }
    }
    crate::crash_point!("before-commit");
    let result = result.and_then(|()| Ok(db.execute_batch("COMMIT")?));
    match &result {
        Ok(()) => {
            crate::crash_point!("after-commit");
            tail.publish(writing.appended);
        }
        // Nothing of the group happened, and all of it hear why.
        Err(error) => {
            tracing::debug!(%error, "a transaction failed");
            if !db.is_autocommit() {
                let _ = db.execute_batch("ROLLBACK");
            }
        }
    }
    waiting.into_iter().for_each(|done| done(result.clone()));
}

/// Does one write of a group; undoes it alone if it fails.
fn write_one(writing: &mut Writing<'_>, work: Work, waiting: &mut Vec<Done>) -> Result<()> {
    let db = writing.db;
    if let Err(error) = db.prepare_cached("SAVEPOINT one").and_then(|mut begin| begin.execute([])) {
        waiting.push(work(None).1);
        return Err(error.into());
    }
    let mark = writing.appended.mark();
    let (went_well, done) = work(Some(writing));
    waiting.push(done);
    if db.is_autocommit() {
        // Out of disk, say: SQLite has undone the whole transaction by itself.
        let what = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
        let message = Some("the transaction was undone: is the disk full?".to_owned());
        return Err(rusqlite::Error::SqliteFailure(what, message).into());
    }
    if !went_well {
        db.prepare_cached("ROLLBACK TO one")?.execute([])?;
        writing.appended.back_to(mark);
    }
    db.prepare_cached("RELEASE one")?.execute([])?;
    Ok(())
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Stores what has a text form as that text.
macro_rules! stored_as_text {
    ($($name:ty),*) => {$(
        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(self.to_string().into())
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                value.as_str()?.parse().map_err(|error| {
                    let error: Box<dyn std::error::Error + Send + Sync> = From::from(error);
                    FromSqlError::Other(error)
                })
            }
        }
    )*};
}

stored_as_text!(JobId, JobState, TaskState, ReleaseState, Presence);

/// Stores a value as JSON.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

impl<T: serde::Serialize> ToSql for Json<T> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let text = serde_json::to_string(&self.0);
        Ok(text.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?.into())
    }
}

impl<T: serde::de::DeserializeOwned> FromSql for Json<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let value = serde_json::from_str(value.as_str()?);
        value.map(Self).map_err(|error| FromSqlError::Other(error.into()))
    }
}
