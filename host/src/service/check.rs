//! Submissions: everything about them that can be known without Blender.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::types::{Job, Release as ReleaseName, Settings, Submission};
use super::{Result, Service, ServiceError};
use crate::blender::content::Content;
use crate::blender::header::{self, HeaderError};
use crate::blender::wire::Opening;
use crate::capability::JobContext;
use crate::capability::content::JobContent;
use crate::capability::output::{self, Folders, Output};
use crate::config::allowed::Allowed;
use crate::config::file::TrustPolicy;
use crate::frames::{Frames, FramesError};
use crate::jobs::{Entry, JobSpec};
use crate::plugin::settings::SettingsError;
use crate::releases::lifecycle::Wish;
use crate::releases::shelf::is_path;
use crate::releases::{Pin, ReleaseError, Releases};
use crate::store::jobs::JobRow;
use crate::store::now_ms;
use crate::store::outputs::Output as Recorded;
use crate::terms::{JobId, JobState};

/// The longest list of frames, in bytes: a page of jobs must fit in a message.
const MAX_FRAMES: usize = 8 * 1024;
/// The longest label, in bytes.
const MAX_LABEL: usize = 64;
/// How many jobs one may come after.
const MAX_AFTER: usize = 1000;

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The scene cannot be rendered.
    #[error("{}: {what}\n{hint}", path.display())]
    Scene {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// The frames are no frames.
    #[error(transparent)]
    Frames(#[from] FramesError),
    /// The renderer cannot be used.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// The settings do not fit.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The output folder cannot be used.
    #[error("cannot write to {}: {source}\nchoose another folder with --out DIR", path.display())]
    Output {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A path depends on where somebody stands.
    #[error("{}: a host accepts only absolute paths", .0.display())]
    Relative(PathBuf),
    /// A file is not as it was when the job was submitted.
    #[error(
        "{} is still not as it was when the job was submitted\n\
         put it back, or go on with it as it is: --accept-changes", .0.display()
    )]
    Changed(PathBuf),
    /// A folder that is to be read is none.
    #[error("cannot read the folder {}: {source}\ncheck the path behind --read", path.display())]
    Read {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What the user has allowed cannot be read.
    #[error("cannot read the allowed folders: {0}\nrepair the file, or delete it")]
    Allowed(std::io::Error),
    /// A disk does not answer.
    #[error("its files have not answered for {} s: is a disk or network mount missing?", LOOK.as_secs())]
    Late,
    /// The label is too long, or empty.
    #[error("a label must have 1 to {MAX_LABEL} bytes")]
    Label,
    /// A job that it is to come after is not known.
    #[error("there is no job {0} to wait for (--after)")]
    After(JobId),
}

/// A submission that was found to be sound.
#[derive(Debug)]
pub struct Checked {
    submission: Submission,
    frames: Option<Frames>,
    wish: Option<Wish>,
    pin: Arc<Pin>,
    output: Output,
}

/// Checks a submission: everything that can be known without Blender.
pub async fn check(
    releases: &Releases,
    folders: &Folders,
    submission: Submission,
) -> Result<Checked, RequestError> {
    let id = JobId::new();
    check_with(releases, folders, id, submission, |_| Ok(())).await.map(|(checked, ())| checked)
}

/// Checks a submission, and looks at its scene once more where that holds up nobody.
async fn check_with<T: Send + 'static>(
    releases: &Releases,
    folders: &Folders,
    id: JobId,
    submission: Submission,
    look: impl FnOnce(&Path) -> Result<T, RequestError> + Send + 'static,
) -> Result<(Checked, T), RequestError> {
    let frames = frames_of(&submission)?;
    let scene = absolute(&submission.scene)?.to_owned();
    let given = submission.out.as_deref().map(absolute).transpose()?.map(Path::to_owned);
    let wish = wish(id, &submission)?;
    let pin = releases.choose(&submission.renderer, wish.as_ref()).await?;
    let schema = &pin.loaded(releases).await?.schema;
    let settings = match &submission.settings {
        Settings::Texts(texts) => schema.read(texts)?,
        Settings::Object(object) => schema.check(object).map(|()| object.clone())?,
    };
    let (folders, keep, read) = (folders.clone(), submission.skip_existing, submission.read.clone());
    let files = move || -> Result<_, RequestError> {
        let scene = check_scene(&scene)?;
        let read = read.iter().map(|folder| {
            let failed = |source| RequestError::Read { path: folder.clone(), source };
            absolute(folder)?.canonicalize().map_err(failed)
        });
        let read = read.collect::<Result<Vec<_>, _>>()?;
        let output = open(&folders, &given.unwrap_or_else(|| beside(&scene)), keep)?;
        Ok((look(&scene)?, scene, read, output))
    };
    let (looked, scene, read, output) = blocking(files).await?;
    let (settings, out) = (Settings::Object(settings), Some(output.folder().to_owned()));
    let submission = Submission { scene, settings, read, out, ..submission };
    Ok((Checked { submission, frames, wish, pin, output }, looked))
}

impl Service {
    /// Checks a submission and queues it.
    pub(super) async fn enter_new(&self, submission: Submission, session: Option<String>) -> Result<Job> {
        if submission.frames.len() > MAX_FRAMES {
            return Err(ServiceError::Parameter(format!("a list of frames has at most {MAX_FRAMES} bytes")));
        }
        // Before the folder is swept of what was left behind.
        let earlier = match submission.resume {
            true => self.earlier(&submission).await,
            false => Vec::new(),
        };
        let (hashes, data) = (self.hashes.clone(), self.parts.data.clone());
        let hash = move |scene: &Path| {
            let content = hashes.scene(scene).map_err(|e| unreadable(scene, &e.to_string()))?;
            let allowed = Allowed::read(&data).map_err(RequestError::Allowed)?;
            let trust = allowed.trust(scene, &content.scene.sha256);
            Ok((content, allowed.folders_of(scene), trust))
        };
        let (id, releases) = (JobId::new(), &self.parts.releases);
        let checked = check_with(releases, &self.folders, id, submission, hash).await;
        // One that is refused tries no release.
        let (checked, (content, folders, trust)) = checked.inspect_err(|_| releases.catalogue().left(id))?;
        let Checked { mut submission, frames, wish, pin, output } = checked;
        submission.trust = trust.filter(|_| self.parts.trust == TrustPolicy::Listed);
        submission.read.extend(folders);
        submission.read.sort();
        submission.read.dedup();
        releases.keep(&pin).await.map_err(RequestError::from)?;
        let after = self.after(&submission.after).await?;
        let row = new_row(id, &submission, &pin, session);
        if !earlier.is_empty() {
            let id = row.id;
            self.parts.store.write(move |writing| writing.adopt(id, &earlier)).await?;
        }
        let spec = self.spec(&row, submission, wish, frames, output, content.clone());
        let view = Job::from(JobRow { version: 1, ..row.clone() });
        let entry =
            Entry { row, tasks: Vec::new(), again: Vec::new(), after, pin, spec, content: Some(content) };
        self.parts.jobs.enter(entry).await?;
        Ok(view)
    }

    /// Puts together how a job is run.
    pub(super) fn spec(
        &self,
        row: &JobRow,
        submission: Submission,
        wish: Option<Wish>,
        frames: Option<Frames>,
        output: Output,
        content: Content,
    ) -> JobSpec {
        let settings = serde_json::to_string(&submission.settings).expect("settings are plain data");
        let context = JobContext {
            id: row.id,
            scene: submission.scene,
            output,
            spool: self.images(row.id),
            reports: self.parts.releases.reports.clone(),
            pool: self.parts.pool.clone(),
            devices: self.devices.clone(),
            store: self.parts.store.clone(),
            how: Opening { scene: submission.scene_name, cpu: submission.cpu, trust: false },
            read: submission.read,
            trust: submission.trust.filter(|_| self.parts.trust == TrustPolicy::Listed),
            content: JobContent::new(content, self.hashes.clone(), row.created_ms),
            // What a job had rendered before its plan was lost is still its own.
            resumes: submission.resume || row.started_ms.is_some(),
            cut: self.cut.child_token(),
            cries: AtomicU32::new(0),
        };
        let (strict, allow) = (submission.strict, submission.allow);
        let scene_frames = OnceLock::new();
        JobSpec { wish, context: Arc::new(context), frames, scene_frames, settings, strict, allow }
    }

    async fn after(&self, ids: &[JobId]) -> Result<Vec<(JobId, JobState)>> {
        if ids.len() > MAX_AFTER {
            return Err(ServiceError::Parameter(format!("a job may wait for at most {MAX_AFTER} others")));
        }
        let mut after = Vec::with_capacity(ids.len());
        for &id in ids {
            let row = self.parts.store.job(id).await?.ok_or(RequestError::After(id))?;
            after.push((id, row.state));
        }
        Ok(after)
    }

    /// Finds what hosts of single renders have recorded of a folder, and puts what
    /// they left aside in its place.
    async fn earlier(&self, submission: &Submission) -> Vec<Recorded> {
        let folder = submission.out.clone().unwrap_or_else(|| beside(&submission.scene));
        let journals = self.parts.data.journals();
        blocking(move || {
            let folder = folder.canonicalize().unwrap_or(folder);
            let mut found = Vec::new();
            for journal in journals {
                match crate::store::outputs::of_journal(&journal, &folder) {
                    Ok(outputs) => found.extend(outputs),
                    Err(error) => tracing::warn!(%error, journal = %journal.display(), "cannot be read"),
                }
            }
            output::reconcile(&found);
            found
        })
        .await
    }
}

/// Reads the frames of a submission; nothing if they are those of the scene's own range.
pub(super) fn frames_of(submission: &Submission) -> Result<Option<Frames>, FramesError> {
    let text = submission.frames.trim();
    (!text.is_empty()).then(|| text.parse()).transpose()
}

/// Says what a job asks for, and how far its pin may move; nothing if it names a path.
pub(super) fn wish(job: JobId, submission: &Submission) -> Result<Option<Wish>, RequestError> {
    if submission.label.as_ref().is_some_and(|label| label.is_empty() || label.len() > MAX_LABEL) {
        return Err(RequestError::Label);
    }
    if is_path(&submission.renderer) {
        return Ok(None);
    }
    let wanted = submission.renderer.parse().map_err(ReleaseError::from)?;
    Ok(Some(Wish { job, wanted, upgrade: submission.upgrade, label: submission.label.clone() }))
}

fn new_row(id: JobId, submission: &Submission, pin: &Pin, session: Option<String>) -> JobRow {
    JobRow {
        id,
        version: 0,
        state: JobState::Queued,
        pause: None,
        priority: submission.priority,
        pinned: false,
        key: submission.key.clone(),
        session,
        request: serde_json::to_string(submission).expect("submissions are plain data"),
        release: pin.stored(),
        canceling: false,
        planned: false,
        tasks: 0,
        done: 0,
        failed: 0,
        retries: 0,
        failure: None,
        created_ms: now_ms(),
        started_ms: None,
        ended_ms: None,
    }
}

impl From<JobRow> for Job {
    fn from(row: JobRow) -> Self {
        let request: Option<Submission> = serde_json::from_str(&row.request).ok();
        let request = request.map(|request| {
            let Submission { scene, frames, scene_name, trust, out, .. } = request;
            (scene, frames, scene_name, trust, out.unwrap_or_default())
        });
        let (scene, frames, scene_name, trust, out) = request.unwrap_or_default();
        let unknown = || ReleaseName { name: String::new(), version: String::new(), digest: String::new() };
        Self {
            id: row.id,
            state: row.state,
            pause: row.pause,
            error: row.failure,
            priority: row.priority,
            pinned: row.pinned,
            scene,
            frames,
            scene_name,
            trust,
            release: serde_json::from_str(&row.release).unwrap_or_else(|_| unknown()),
            out,
            tasks: row.tasks,
            done: row.done,
            failed: row.failed,
            retries: row.retries,
            files: None,
            after: Vec::new(),
            created_ms: row.created_ms,
            started_ms: row.started_ms,
            ended_ms: row.ended_ms,
        }
    }
}

/// Makes an output folder ready. Blocks.
pub(super) fn open(folders: &Folders, folder: &Path, keep: bool) -> Result<Output, RequestError> {
    let failed = |source| RequestError::Output { path: folder.to_owned(), source };
    folders.open(folder, keep).map_err(failed)
}

/// How much work on files goes on at a time: the database wants threads, too.
static FILES: Semaphore = Semaphore::const_new(128);
/// How long a file may take to be looked at.
const LOOK: Duration = Duration::from_secs(60);

/// Does what a slow disk may hold up, and gives up if it takes too long.
pub(super) async fn in_time<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RequestError> {
    tokio::time::timeout(LOOK, blocking(work)).await.map_err(|_| RequestError::Late)
}

/// Does what a slow disk may hold up.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let permit = FILES.acquire().await.expect("it is never closed");
    let working = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work()
    });
    working.await.expect("looking at files does not panic")
}

fn absolute(path: &Path) -> Result<&Path, RequestError> {
    path.is_absolute().then_some(path).ok_or_else(|| RequestError::Relative(path.to_owned()))
}

fn unreadable(path: &Path, error: &str) -> RequestError {
    let what = format!("cannot read the scene: {error}");
    RequestError::Scene { path: path.to_owned(), what, hint: "check the path and its permissions" }
}

fn check_scene(path: &Path) -> Result<PathBuf, RequestError> {
    match header::version(path) {
        Ok(_) => {}
        Err(HeaderError::NotBlend) => {
            let what = "this is not a .blend file".to_owned();
            return Err(RequestError::Scene {
                path: path.to_owned(),
                what,
                hint: "give a scene saved by Blender",
            });
        }
        Err(HeaderError::Io(error)) => return Err(unreadable(path, &error.to_string())),
    }
    let path = path.canonicalize().map_err(|error| unreadable(path, &error.to_string()))?;
    match path.to_str() {
        Some(_) => Ok(path),
        None => {
            let what = "the path is not UTF-8".to_owned();
            Err(RequestError::Scene { path, what, hint: "rename the file or a folder above it" })
        }
    }
}

/// The folder for a scene's frames when none is given.
fn beside(scene: &Path) -> PathBuf {
    let stem = scene.file_stem().unwrap_or_default().to_string_lossy();
    scene.with_file_name(format!("{stem}-frames"))
}
