//! The form of the database, and how an older one becomes it.

use std::path::Path;

use rusqlite::{Connection, ErrorCode};

use super::{BUSY, Result, StoreError};

/// Says that a file is ours: "HSHO".
const APPLICATION: i64 = 0x4853_484f;

/// Each brings the database from the format of its index to the next one.
const MIGRATIONS: [&str; 2] = [include_str!("schema/1.sql"), include_str!("schema/2.sql")];

/// Opens a database for its one writer.
pub(super) fn open(path: &Path) -> Result<Connection> {
    prepare(path).map_err(|error| named(error, path))
}

/// Looks whether a database could be opened, and changes nothing.
pub(super) fn look(path: &Path) -> Result<()> {
    let look = || check(&super::open_to_read(path)?, path);
    look().map_err(|error| named(error, path))
}

/// Says which file SQLite cannot read.
fn named(error: StoreError, path: &Path) -> StoreError {
    let StoreError::Sqlite(source) = &error else { return error };
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            StoreError::Damaged { path: path.to_owned(), what: source.to_string() }
        }
        _ => error,
    }
}

/// Fails unless the database is ours, whole, and of a format that is known.
fn check(db: &Connection, path: &Path) -> Result<()> {
    let pragma = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let known = MIGRATIONS.len() as i64;
    let (application, found) = (pragma("application_id")?, pragma("user_version")?);
    let damaged = |what: String| StoreError::Damaged { path: path.to_owned(), what };
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if (application, found, tables) == (0, 0, 0) {
        return Err(damaged("it is empty".to_owned()));
    }
    if application != APPLICATION {
        return Err(damaged("it is not a database of Hotshoe".to_owned()));
    }
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    let verdict: String = db.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    match verdict.as_str() {
        "ok" => Ok(()),
        _ => Err(damaged(verdict)),
    }
}

fn prepare(path: &Path) -> Result<Connection> {
    match path.exists() {
        // What is refused is not even opened to be written.
        true => look(path)?,
        false => create(path)?,
    }
    migrated(path)
}

/// Makes a database aside, so that one that is there was once whole.
fn create(path: &Path) -> Result<()> {
    let failed =
        |error: std::io::Error| StoreError::from(rusqlite::Error::ToSqlConversionFailure(error.into()));
    let aside = path.with_extension("db-new");
    let _ = std::fs::remove_file(&aside);
    // What was to be written into one that is gone is not for this one.
    for gone in [&aside, path] {
        for companion in ["-wal", "-shm", "-journal"] {
            let _ = std::fs::remove_file(format!("{}{companion}", gone.display()));
        }
    }
    drop(migrated(&aside)?);
    std::fs::rename(&aside, path).map_err(failed)
}

fn migrated(path: &Path) -> Result<Connection> {
    let mut db = Connection::open(path)?;
    db.busy_timeout(BUSY)?;
    db.set_prepared_statement_cache_capacity(64);
    let found = db.pragma_query_value(None, "user_version", |row| row.get::<_, usize>(0))?;
    db.pragma_update(None, "journal_mode", "wal")?;
    db.pragma_update(None, "synchronous", "full")?;
    db.pragma_update(None, "foreign_keys", "on")?;
    let change = db.transaction()?;
    for (format, migration) in MIGRATIONS.iter().enumerate().skip(found) {
        change.execute_batch(migration)?;
        change.pragma_update(None, "user_version", format as i64 + 1)?;
    }
    change.pragma_update(None, "application_id", APPLICATION)?;
    change.commit()?;
    Ok(db)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_made_once_and_opened_again() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a.db");
        for _ in 0..2 {
            let db = open(&path).unwrap();
            let mode: String = db.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
            assert_eq!(mode, "wal");
        }
    }

    #[test]
    fn a_newer_database_is_refused_and_left_as_it_is() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a.db");
        open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
        assert!(error.to_string().contains("from a newer Hotshoe"));
    }

    #[test]
    fn garbage_and_other_databases_are_damaged_and_left_as_they_are() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a.db");
        std::fs::write(&path, "this was never a database, and is long enough to be looked at").unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(open(&path), Err(StoreError::Damaged { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), before);

        let other = temp.path().join("b.db");
        Connection::open(&other).unwrap().execute_batch("CREATE TABLE other (a)").unwrap();
        assert!(matches!(open(&other), Err(StoreError::Damaged { .. })));

        let cut_off = temp.path().join("c.db");
        drop(open(&cut_off).unwrap());
        std::fs::write(&cut_off, "").unwrap();
        assert!(open(&cut_off).unwrap_err().to_string().contains("it is empty"));
        assert_eq!(cut_off.metadata().unwrap().len(), 0);
    }
}
