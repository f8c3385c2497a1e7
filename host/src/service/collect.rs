//! Letting go of what is old: finished jobs, events, images.
//!
//! What is open or pinned loses nothing.

use std::path::Path;

use super::check::blocking;
use super::{Result, Service};
use crate::store::collect::{Collected, Keep};
use crate::terms::JobId;

/// What is kept, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Of the database.
    pub keep: Keep,
    /// How many bytes of images of jobs that are not open.
    pub spool: u64,
}

/// How much is let go of at once, so that nobody waits for long.
const PORTION: usize = 1000;

impl Service {
    /// Lets go of what is too old or too much.
    pub async fn collect(&self, rules: Rules) -> Result<()> {
        let mut after = 0;
        loop {
            let keep = rules.keep;
            let _alone = self.finished.lock().await;
            let Collected { jobs, next, .. } =
                self.parts.store.write(move |writing| writing.collect(&keep, after, PORTION)).await?;
            for id in jobs.iter().copied() {
                let _ = tokio::fs::remove_dir_all(self.images(id)).await;
            }
            if jobs.len() < PORTION && next.is_none() {
                break;
            }
            after = next.unwrap_or(after);
        }
        self.collect_images(rules.spool).await
    }

    /// Counts the events that are kept.
    pub async fn stored_events(&self) -> u64 {
        self.parts.store.read(crate::store::events::count).await.unwrap_or_default()
    }

    /// Lets go of the images of old jobs, as long as all of them take too much.
    async fn collect_images(&self, limit: u64) -> Result<()> {
        let mut old = Vec::new();
        for id in self.spooled().await {
            if self.is_old(id).await? {
                let folder = self.images(id);
                old.push((blocking(move || size(&folder)).await, id));
            }
        }
        let mut sum: u64 = old.iter().map(|(size, _)| size).sum();
        for (size, id) in old {
            if sum <= limit {
                break;
            }
            let _alone = self.finished.lock().await;
            // It may have been retried meanwhile.
            if self.is_old(id).await? {
                let _ = tokio::fs::remove_dir_all(self.images(id)).await;
                sum -= size;
            }
        }
        Ok(())
    }

    async fn is_old(&self, id: JobId) -> Result<bool> {
        let row = self.parts.store.job(id).await?;
        Ok(row.is_none_or(|row| row.state.is_final() && !row.pinned))
    }
}

/// Adds up the files of a folder. Blocks.
fn size(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|info| info.len()).sum()
}
