//! Letting go of what is old: finished jobs, events, images, crash reports.
//!
//! What is open or pinned loses nothing.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::check::blocking;
use super::{Result, Service};
use crate::store::collect::{Collected, Keep};

/// What is kept, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Of the database.
    pub keep: Keep,
    /// How many crash reports.
    pub crashes: usize,
}

/// How much is let go of at once, so that nobody waits for long.
const PORTION: usize = 200;

impl Service {
    /// Lets go of what is too old or too much.
    pub async fn collect(&self, rules: Rules) -> Result<()> {
        let mut after = 0;
        loop {
            let keep = rules.keep;
            let _alone = self.finished.lock().await;
            let Collected { jobs, next, .. } =
                self.parts.store.write(move |writing| writing.collect(&keep, after, PORTION)).await?;
            for id in &jobs {
                let _ = tokio::fs::remove_dir_all(self.parts.spool.join(id.to_string())).await;
            }
            if jobs.len() < PORTION && next.is_none() {
                break;
            }
            after = next.unwrap_or(after);
        }
        let (crashes, count) = (self.parts.data.crashes(), rules.crashes);
        blocking(move || thin_out(&crashes, count)).await;
        Ok(())
    }
}

/// Removes all but the newest files of a folder. Blocks.
fn thin_out(folder: &Path, count: usize) {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let age = |path: &Path| {
        let written = path.metadata().and_then(|info| info.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        written.elapsed().unwrap_or(Duration::ZERO)
    };
    let mut files: Vec<_> = files.map(|file| file.path()).map(|path| (age(&path), path)).collect();
    files.sort();
    for (_, file) in files.into_iter().skip(count) {
        let _ = std::fs::remove_file(file);
    }
}
