//! Crash reports: what is known of each trap, each limit that was hit and each crash of Blender.
//!
//! One JSON file each, in a private folder that never holds more than so many of them, nor
//! more bytes. Knows nothing of plugins or Blender; what it is told, it keeps.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tempfile::NamedTempFile;
use uuid::Uuid;

use crate::config::file::Config;
use crate::config::{DataDir, create_private};
use crate::store::now_ms;
use crate::terms::JobId;

/// What is known of one crash.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Its name.
    pub id: Uuid,
    /// When it happened, in milliseconds since 1970.
    pub at_ms: u64,
    /// What kind of end it was, in a word: `panic`, `trap`, `limit`, `contract`, `process`,
    /// `blender`.
    pub kind: String,
    /// What was said of it; for components with the functions that called each other.
    pub what: String,
    /// Renderer, version and the beginning of the digest.
    pub release: String,
    /// The digest of the release.
    pub digest: String,
    /// The job; none if the release was only being tried.
    pub job: Option<JobId>,
    /// The task; none while the plugin planned.
    pub task: Option<String>,
    /// Which attempt at the task it was.
    pub attempt: Option<u32>,
    /// The scene.
    pub scene: Option<PathBuf>,
    /// The job's settings, without those that are only to be written.
    pub settings: Value,
    /// The last calls of the host, each with the seconds since the attempt began.
    pub calls: Vec<(f64, String)>,
    /// What Blender itself wrote, and the last lines that it printed.
    pub blender: Option<String>,
    /// The version of Hotshoe, and the system.
    pub host: String,
}

impl Report {
    /// Begins a report of a release at which nobody has given it a job.
    pub fn of_a_release(kind: &str, what: String, release: String, digest: &str) -> Self {
        let (job, task, attempt, scene, settings, calls, blender) = Default::default();
        let (system, machine) = (std::env::consts::OS, std::env::consts::ARCH);
        Self {
            id: Uuid::now_v7(),
            at_ms: now_ms(),
            kind: kind.to_owned(),
            what,
            release,
            digest: digest.to_owned(),
            job,
            task,
            attempt,
            scene,
            settings,
            calls,
            blender,
            host: format!("Hotshoe {}, {system} {machine}", env!("CARGO_PKG_VERSION")),
        }
    }

    /// Says where it can be seen.
    pub fn line(&self) -> String {
        format!("the report: hotshoe crash show {}", self.id)
    }
}

/// How many reports of one job are kept: it is not to take the room of all others.
const OF_A_JOB: usize = 20;

/// The reports of a data directory.
#[derive(Debug, Clone)]
pub struct Reports {
    folder: PathBuf,
    most: usize,
    bytes: u64,
}

impl Reports {
    /// Takes a folder that keeps at most so many reports, of so many bytes in all.
    pub fn new(folder: PathBuf, most: usize, bytes: u64) -> Self {
        Self { folder, most, bytes }
    }

    /// Takes the reports of a data directory, with the limits of its host.
    pub fn of(data: &DataDir, config: &Config) -> Self {
        let keep = &config.keep;
        Self::new(data.crashes(), keep.crashes, keep.crashes_mib.saturating_mul(1024 * 1024))
    }

    /// Keeps a report, and lets go of old ones beyond the limits. Blocks.
    pub fn keep(&self, report: &Report) -> io::Result<()> {
        create_private(&self.folder)?;
        let mut file = NamedTempFile::new_in(&self.folder)?;
        file.write_all(&serde_json::to_vec_pretty(report)?)?;
        file.persist(self.place(report.id))?;
        let of_the_job = |earlier: &Report| earlier.job.is_some() && earlier.job == report.job;
        for earlier in self.list().into_iter().filter(of_the_job).skip(OF_A_JOB) {
            let _ = fs::remove_file(self.place(earlier.id));
        }
        let (mut left, mut bytes) = (self.most, self.bytes);
        for path in files(&self.folder) {
            let size = path.metadata().map_or(0, |info| info.len());
            match left > 0 && bytes >= size {
                true => (left, bytes) = (left - 1, bytes - size),
                false => {
                    (left, bytes) = (0, 0);
                    let _ = fs::remove_file(path);
                }
            }
        }
        Ok(())
    }

    /// Lists all reports, the latest first. Blocks.
    pub fn list(&self) -> Vec<Report> {
        let read = |path: PathBuf| serde_json::from_slice(&fs::read(path).ok()?).ok();
        files(&self.folder).into_iter().filter_map(read).collect()
    }

    fn place(&self, id: Uuid) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }
}

/// Lists the files of reports, the latest first: their names begin with the time.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|ending| ending == "json")).collect();
    files.sort_unstable_by(|a, b| b.cmp(a));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(what: &str) -> Report {
        Report::of_a_release("trap", what.to_owned(), "a@1.0.0".to_owned(), "0")
    }

    #[test]
    fn only_the_latest_are_kept_by_number_and_by_size() {
        let temp = tempfile::tempdir().unwrap();
        let reports = Reports::new(temp.path().join("crashes"), 3, 100_000);
        assert!(reports.list().is_empty());
        (0..5).for_each(|n| reports.keep(&report(&n.to_string())).unwrap());
        let kept: Vec<String> = reports.list().into_iter().map(|report| report.what).collect();
        assert_eq!(kept, ["4", "3", "2"]);
        let large = "x".repeat(60_000);
        reports.keep(&report(&large)).unwrap();
        reports.keep(&report(&large)).unwrap();
        assert_eq!(reports.list().len(), 1);
        // What is no report is neither shown nor in the way.
        fs::write(temp.path().join("crashes/f.json"), "{").unwrap();
        assert_eq!(reports.list().len(), 1);
    }

    #[test]
    fn one_job_does_not_take_the_room_of_others() {
        let temp = tempfile::tempdir().unwrap();
        let reports = Reports::new(temp.path().join("crashes"), 100, 1_000_000);
        reports.keep(&report("another")).unwrap();
        let job = Some(JobId::new());
        (0..30).for_each(|n| reports.keep(&Report { job, ..report(&n.to_string()) }).unwrap());
        let kept: Vec<String> = reports.list().into_iter().map(|report| report.what).collect();
        assert_eq!((kept.len(), kept[0].as_str(), kept[20].as_str()), (21, "29", "another"));
    }
}
