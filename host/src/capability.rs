//! What a plugin can do: the capabilities, written once.
//!
//! Owns everything that belongs to an [`Attempt`]: its scenes, images, leases,
//! state and output. Knows nothing of how a plugin is run: the bindings below
//! `plugin` only translate to the functions here.

pub mod blender;
pub mod content;
pub mod gpu;
pub mod grants;
pub mod image;
pub mod output;
pub mod state;
pub mod usage;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::blender::BlenderError;
use crate::blender::pool::{Pool, Wanted};
use crate::blender::wire::{Opening, Progress};
use crate::config::allowed::Trust;
use crate::config::limits::{Limits, bytes};
use crate::reports::{Report as CrashReport, Reports};
use crate::store::{Store, StoreError};
use crate::terms::{self, Capability, JobId};
use usage::{Hit, Usage};

/// What went wrong, in the contract's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "as in the contract")]
pub enum Code {
    InvalidArgument,
    NotFound,
    Denied,
    Unsupported,
    Canceled,
    Limit,
    Blender,
    Host,
}

/// An error of the contract.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct CapabilityError {
    /// The kind of failure.
    pub code: Code,
    /// One sentence, possibly with lines of detail.
    pub message: String,
}

/// The result of a capability.
pub type Result<T, E = CapabilityError> = std::result::Result<T, E>;

impl CapabilityError {
    /// Makes an error.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Makes an error of the host's own I/O.
    pub fn io(doing: &str) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |error| Self::new(Code::Host, format!("cannot {doing}: {error}"))
    }
}

impl From<Hit> for CapabilityError {
    fn from(hit: Hit) -> Self {
        Self::new(Code::Limit, format!("beyond the limit of {hit}"))
    }
}

impl From<StoreError> for CapabilityError {
    fn from(error: StoreError) -> Self {
        Self::new(Code::Host, error.to_string())
    }
}

impl From<BlenderError> for CapabilityError {
    fn from(error: BlenderError) -> Self {
        let code = match &error {
            BlenderError::Refused { code, .. } => match code.as_str() {
                "invalid-argument" => Code::InvalidArgument,
                "not-found" => Code::NotFound,
                "denied" => Code::Denied,
                "unsupported" => Code::Unsupported,
                _ => Code::Blender,
            },
            BlenderError::Io { .. } => Code::Host,
            _ => Code::Blender,
        };
        // With the last lines that it printed.
        Self::new(code, abridged(error.to_string(), 8 * ERROR_TEXT))
    }
}

/// How a plugin should go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "as in the contract")]
pub enum Directive {
    #[default]
    Proceed,
    Yield,
    Cancel,
}

/// What an attempt tells while it runs.
#[derive(Debug)]
pub enum Report {
    /// Blender is rendering in a worker.
    Rendering {
        /// The worker's number.
        worker: u32,
        /// How far it is.
        progress: Progress,
    },
    /// The plugin says how far it is.
    Progress {
        /// 0 to 1.
        fraction: f32,
        /// A few words.
        message: String,
    },
    /// The plugin wrote to the log.
    Log {
        /// `debug`, `info`, `warn` or `error`.
        level: &'static str,
        /// The line.
        message: String,
    },
    /// The scene has crashed Blender.
    Crashed {
        /// What is known of it.
        report: String,
    },
    /// The job has had all the time that it may have.
    Overtime {
        /// Which limit that is.
        limit: String,
    },
}

/// What all attempts of a job share.
#[derive(Debug)]
pub struct JobContext {
    /// The job's id.
    pub id: JobId,
    /// The scene file; its name for the plugin is [`SCENE`].
    pub scene: PathBuf,
    /// Where finished files go.
    pub output: output::Output,
    /// Where images are kept between attempts.
    pub spool: PathBuf,
    /// Where crash reports are kept.
    pub reports: Reports,
    /// The workers.
    pub pool: Pool,
    /// The devices.
    pub devices: gpu::Devices,
    /// Where finished files are recorded.
    pub store: Store,
    /// How its scene is opened; whether its Python may run is decided each time.
    pub how: Opening,
    /// Folders that workers may read for it, beside that of the scene.
    pub read: Vec<PathBuf>,
    /// Why the scene's Python may run, if it may.
    pub trust: Option<Trust>,
    /// What it renders from.
    pub content: content::JobContent,
    /// Whether what earlier jobs rendered from the same is taken as it is.
    pub resumes: bool,
    /// Ends whatever is under way: the host stops.
    pub cut: CancellationToken,
    /// How often its plugin has said that the disk is full, and it was not.
    pub cries: AtomicU32,
}

impl JobContext {
    /// Whether there is room for files and for images. Blocks.
    pub fn has_room(&self) -> bool {
        let spool = self.spool.parent().is_none_or(output::has_room);
        spool && output::has_room(self.output.folder())
    }

    /// Says what a worker must hold to render for the job.
    pub fn wanted(&self) -> Wanted {
        let trust = match &self.trust {
            Some(Trust::Folder) => true,
            // It is these bytes that are trusted, and no others.
            Some(Trust::Scene { sha256 }) => self.content.scene_sha256() == *sha256,
            None => false,
        };
        let (how, read) = (Opening { trust, ..self.how.clone() }, self.read.clone());
        Wanted { scene: self.scene.clone(), content: self.content.digest(), read, how }
    }
}

/// The name by which a plugin knows the job's scene.
pub const SCENE: &str = "scene";
/// The longest line of log that is kept, in bytes.
const LOG_LINE: usize = 8 * 1024;
/// The longest text of an error of the contract, in bytes.
pub const ERROR_TEXT: usize = 4 * 1024;
/// Stands for what was cut out.
const GAP: &str = "\n...\n";
/// The longest words on progress that are kept, in bytes.
const PROGRESS: usize = 256;

/// Which release makes a call.
#[derive(Debug, Clone)]
pub struct By {
    /// Renderer, version and digest, as they are told.
    pub name: String,
    /// Its digest.
    pub digest: String,
    /// What it may call.
    pub grants: grants::Grants,
    /// How much it may use.
    pub limits: Limits,
    /// The settings of the job as JSON, as far as others may see them.
    pub settings: String,
}

/// One call of a plugin, and what it may touch.
#[derive(Debug)]
pub struct Attempt {
    /// The job it works for.
    pub job: Arc<JobContext>,
    /// The release that makes it.
    pub by: By,
    /// The task's name, and which attempt at it this is; none while the plugin plans.
    pub of: Option<(String, u32)>,
    /// How to go on, as the scheduler wants it.
    pub directive: watch::Receiver<Directive>,
    /// Where its reports go.
    pub reports: mpsc::Sender<Report>,
    /// What it has used.
    pub used: Usage,
    /// The most memory that the plugin was seen to have, in bytes.
    pub memory: AtomicU64,
    /// What it was told that it may not use.
    denied: Mutex<Vec<Capability>>,
    /// Whether it holds a scene: a second could wait for ever for a worker.
    pub has_scene: AtomicBool,
    /// How long it has waited for workers, until its scene was loaded, in microseconds.
    waited: AtomicU64,
    /// Whether a frame was not rendered, since its files were there.
    pub has_kept: AtomicBool,
}

impl Attempt {
    /// Makes the context of one call.
    pub fn new(
        job: Arc<JobContext>,
        by: By,
        of: Option<(String, u32)>,
        directive: watch::Receiver<Directive>,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        let (memory, has_scene) = (AtomicU64::new(0), AtomicBool::new(false));
        let used = Usage::new(by.limits);
        let (denied, waited, has_kept) = Default::default();
        Self { job, by, of, directive, reports, used, memory, denied, has_scene, waited, has_kept }
    }

    /// Waits for a worker; that is no work of the plugin's.
    async fn waiting<T>(&self, wait: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let done = wait.await;
        self.waited.fetch_add(began.elapsed().as_micros() as u64, Ordering::Relaxed);
        done
    }

    /// Returns how long it has worked since it began; nothing if not all was rendered.
    pub fn worked(&self, began: Instant) -> Option<Duration> {
        let waited = Duration::from_micros(self.waited.load(Ordering::Relaxed));
        (!self.has_kept.load(Ordering::Relaxed)).then(|| began.elapsed().saturating_sub(waited))
    }

    /// Returns the state that its release has of the job.
    pub fn state(&self) -> state::State {
        let most = bytes(self.by.limits.state_mib);
        state::State::new(self.job.store.clone(), self.job.id, self.by.digest.clone(), most)
    }

    /// Notes how much memory the plugin was seen to have, in bytes.
    pub fn had_memory(&self, bytes: u64) {
        self.memory.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Writes to the job's log.
    pub async fn log(&self, level: &'static str, message: String) -> Result<(), Hit> {
        let message = harmless(message, LOG_LINE);
        self.used.log(&message)?;
        self.report(Report::Log { level, message }).await;
        Ok(())
    }

    /// Writes to the job's log, once, that it was denied something, and what would allow it.
    pub fn denied(&self, capability: Capability, error: &CapabilityError) {
        let mut told = self.denied.lock().expect("no code panics under this lock");
        if !told.contains(&capability) {
            told.push(capability);
            tracing::info!(job = %self.job.id, release = self.by.name, "denied: {error}");
            // Whoever listens to nothing is told by the error.
            let _ = self.reports.try_send(Report::Log { level: "warn", message: error.message.clone() });
        }
    }

    /// Says how far the task is.
    pub async fn progress(&self, fraction: f32, message: String) {
        let fraction = if fraction.is_nan() { 0.0 } else { fraction.clamp(0.0, 1.0) };
        if self.used.progress(fraction) {
            let message = harmless(message, PROGRESS);
            self.report(Report::Progress { fraction, message }).await;
        }
    }

    /// Says how to go on.
    pub fn turn(&self) -> Directive {
        *self.directive.borrow()
    }

    /// Waits until the host wants something other than to proceed.
    pub async fn wanted(&self) -> Directive {
        let mut directive = self.directive.clone();
        match directive.wait_for(|directive| *directive != Directive::Proceed).await {
            Ok(directive) => *directive,
            // The scheduler is gone, and with it the wish for a result.
            Err(_) => Directive::Cancel,
        }
    }

    /// Waits until the job is canceled, or the host stops.
    pub async fn canceled(&self) -> CapabilityError {
        let mut directive = self.directive.clone();
        tokio::select! {
            _ = directive.wait_for(|directive| *directive == Directive::Cancel) => {}
            () = self.job.cut.cancelled() => {}
        }
        CapabilityError::new(Code::Canceled, "the job was canceled")
    }

    /// Keeps a report of how it came to a bad end; returns where to find that.
    pub async fn crashed(&self, kind: &str, what: String, blender: Option<String>) -> String {
        let (task, attempt) = self.of.clone().unzip();
        let report = CrashReport {
            job: Some(self.job.id),
            task,
            attempt,
            scene: Some(self.job.scene.clone()),
            settings: serde_json::from_str(&self.by.settings).unwrap_or_default(),
            calls: self.used.calls(),
            blender,
            ..CrashReport::of_a_release(kind, what, self.by.name.clone(), &self.by.digest)
        };
        let (line, reports) = (report.line(), self.job.reports.clone());
        let keep = blocking(move || reports.keep(&report).map_err(CapabilityError::io("keep a report")));
        match keep.await {
            Ok(()) => line,
            Err(error) => error.message,
        }
    }

    /// Names its task; none while the plugin plans.
    fn task(&self) -> Option<String> {
        self.of.as_ref().map(|(name, _)| name.clone())
    }

    /// Whether files that are recorded may be there already.
    fn may_be_done(&self) -> bool {
        self.job.resumes || self.of.as_ref().is_some_and(|(_, number)| *number > 1)
    }

    /// Says how far the worker is, unless nobody keeps up with it.
    fn rendering(&self, worker: u32, progress: Progress) {
        let _ = self.reports.try_send(Report::Rendering { worker, progress });
    }

    /// Says how far a movie is, unless nobody keeps up with it.
    fn encoding(&self, _: u32, progress: Progress) {
        let (done, all) = progress.samples.unwrap_or((0, 1));
        let (fraction, message) =
            (done as f32 / all.max(1) as f32, format!("picture {done} of {all} encoded"));
        let _ = self.reports.try_send(Report::Progress { fraction: fraction.min(1.0), message });
    }

    /// Tells the scheduler something.
    pub async fn report(&self, report: Report) {
        // The scheduler may have stopped to listen; the attempt is about to be cut.
        let _ = self.reports.send(report).await;
    }
}

/// Makes harmless what a plugin says, and cuts its end off.
pub fn harmless(text: String, limit: usize) -> String {
    let mut text = terms::harmless(&text).into_owned();
    text.truncate(text.floor_char_boundary(limit));
    text
}

/// Makes an error's text harmless, and cuts it in its middle: what happened
/// stands at its beginning, and why at its end.
pub fn abridged(text: String, limit: usize) -> String {
    let text = terms::harmless(&text).into_owned();
    if text.len() <= limit {
        return text;
    }
    let (head, tail) = (text.floor_char_boundary(limit / 4), text.len() - (limit / 4 * 3 - GAP.len()));
    [&text[..head], GAP, &text[text.ceil_char_boundary(tail)..]].concat()
}

/// The longest text that is read as JSON, in bytes: as values it may take a hundred times as much.
const JSON_TEXT: usize = 1024 * 1024;

/// Reads JSON of at most so many levels; fails with what is wrong with it.
pub fn read_json(text: &str, most: usize) -> Result<Value, String> {
    fn levels(value: &Value) -> usize {
        match value {
            Value::Array(values) => 1 + values.iter().map(levels).max().unwrap_or_default(),
            Value::Object(fields) => 1 + fields.values().map(levels).max().unwrap_or_default(),
            _ => 0,
        }
    }
    if text.len() > JSON_TEXT {
        return Err(format!("is longer than {JSON_TEXT} bytes"));
    }
    let value = serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}"))?;
    match levels(&value) > most {
        true => Err(format!("goes beyond the limit of {most} levels (limits.json_depth)")),
        false => Ok(value),
    }
}

/// Does what blocks where it holds up nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let panicked = |_| CapabilityError::new(Code::Host, "the host failed while it worked on a file");
    tokio::task::spawn_blocking(work).await.map_err(panicked)?
}

/// Fails unless `key` is 1 to 128 characters that are harmless in a file name.
fn check_key(key: &str) -> Result<()> {
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=128).contains(&key.len()) && key.chars().all(harmless) && !key.starts_with('.') {
        return Ok(());
    }
    let start: String = key.chars().take(40).collect();
    Err(CapabilityError::new(
        Code::InvalidArgument,
        format!("'{start}' is no key: 1 to 128 of A-Z a-z 0-9 . _ -, not beginning with a dot"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_taken_out() {
        assert_eq!(harmless("a\x1b[31mb\nc\r".to_owned(), 100), "a\u{fffd}[31mb\nc\u{fffd}");
        assert_eq!(harmless("exe.\u{202e}gnp".to_owned(), 100), "exe.\u{fffd}gnp");
        assert_eq!(harmless("\u{e9}\u{e9}".to_owned(), 3), "\u{e9}");
    }

    #[test]
    fn json_has_so_many_levels_and_no_more() {
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(read_json(&deep(64), 64).is_ok());
        let check = |levels, expected: &str| {
            let error = read_json(&deep(levels), 64).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check(65, "beyond the limit of 64 levels (limits.json_depth)");
        check(100_000, "is no JSON: recursion limit exceeded");
        assert!(read_json("{\"a\": [1, {}]}", 3).is_ok() && read_json("{\"a\": [1, {}]}", 2).is_err());
    }

    #[test]
    fn a_long_error_keeps_its_beginning_and_its_end() {
        let text = format!("Blender died\n{}\nout of memory", "\u{e9}".repeat(10_000));
        let cut = abridged(text, ERROR_TEXT);
        assert!(cut.len() <= ERROR_TEXT, "{}", cut.len());
        assert!(cut.starts_with("Blender died\n") && cut.ends_with("\nout of memory"), "{cut}");
        assert_eq!(abridged("short".to_owned(), ERROR_TEXT), "short");
        assert!(abridged("\u{1}".repeat(ERROR_TEXT), ERROR_TEXT).len() <= ERROR_TEXT);
    }
}
