//! One plan or one attempt: call the plugin, pass on what it tells, report the end.

mod look;

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot, watch};

use super::JobSpec;
use super::scheduler::{AGAIN, Message};
use crate::blender::content::Changed;
use crate::capability::grants::Grants;
use crate::capability::usage::Hit;
use crate::capability::{Attempt, By, CapabilityError, Code, Directive, Report, SCENE, output};
use crate::plugin::{self, Outcome, PlannedTask, PluginError};
use crate::releases::{Loaded, Pin, ReleaseError, Releases};
use crate::store::outputs::Output as Recorded;
use crate::store::{Store, now_ms};
use crate::terms::{Blame, Failure, JobId, Pause, PauseCode};
use look::look;

/// How long a canceled plugin may take to return by itself.
const GRACE: Duration = Duration::from_secs(2);
/// How many reports of an attempt may wait.
const REPORTS: usize = 64;

/// On which release something is done.
#[derive(Debug, Clone)]
pub(super) struct On {
    pub releases: Arc<Releases>,
    pub pin: Arc<Pin>,
    /// Whether it is another one than the job was checked with.
    pub has_moved: bool,
    /// When the job began.
    pub began_ms: u64,
}

/// Which attempt to make.
#[derive(Debug)]
pub(super) struct Start {
    pub task: usize,
    pub planned: PlannedTask,
    pub attempt: u32,
}

/// What an attempt has used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    /// The time from its beginning to its end.
    pub took: Duration,
    /// The part of it that was work; nothing if a frame was kept that was there.
    pub worked: Option<Duration>,
    /// The most memory that its plugin had, in bytes.
    pub memory: u64,
}

/// How a plan or an attempt ended.
#[derive(Debug)]
pub(super) enum End {
    /// The plugin came to an end.
    Outcome(Outcome),
    /// It did not.
    Failed(PluginError),
    /// It did not, and never will: there is no use in another try.
    Hopeless(PluginError),
    /// It was not begun: the release to which the job has moved does not take its settings.
    Unfit(String),
    /// It was not begun: a file is not as it was when the job was submitted.
    Changed(PathBuf),
    /// It failed where there is no room for its pictures.
    NoRoom(Pause),
    /// The scene needs files that workers may not read.
    Withheld(Failure),
}

impl From<PluginError> for End {
    fn from(error: PluginError) -> Self {
        Self::Failed(error)
    }
}

impl From<Changed> for End {
    fn from(Changed(path): Changed) -> Self {
        Self::Changed(path)
    }
}

/// Looks at the scene, then asks the plugin for its plan, page by page.
pub(super) async fn plan(
    spec: Arc<JobSpec>,
    on: On,
    directive: watch::Receiver<Directive>,
    mailbox: Option<mpsc::Sender<Message>>,
) {
    let Some(mailbox) = mailbox else { return };
    let job = spec.context.id;
    let (reports, received) = mpsc::channel(REPORTS);
    let forwarding = tokio::spawn(forward(received, job, None, mailbox.clone()));
    let planning = async {
        let loaded = loaded(&on, &spec).await?;
        let attempt = Attempt::new(spec.context.clone(), by(&on, &loaded, &spec), None, directive, reports);
        let attempt = Arc::new(attempt);
        let planning = async {
            check(&spec, &mailbox).await?;
            let planning = async {
                look(&spec, &attempt, &mailbox).await?;
                Ok::<_, End>(pages(&spec, &loaded, &attempt, &mailbox).await?)
            };
            limited(&attempt, on.began_ms, planning).await
        };
        reported(until_canceled(&attempt, planning).await, &attempt).await
    };
    let end = match planning.await {
        Ok(()) => Ok(()),
        Err(end) => Err(no_room(end, &spec).await),
    };
    let _ = forwarding.await;
    let pin = on.pin;
    let _ = mailbox.send(Message::PlanEnded { job, end, pin }).await;
}

/// Finds the code to run, in memory or not.
async fn loaded(on: &On, spec: &JobSpec) -> Result<Arc<Loaded>, End> {
    let host = |error: ReleaseError| End::Failed(PluginError::Host(error.to_string()));
    let loaded = on.pin.loaded(&on.releases).await.map_err(host)?;
    if on.has_moved {
        let settings = serde_json::from_str(&spec.settings).unwrap_or_default();
        loaded.schema.check(&settings).map_err(|error| End::Unfit(error.to_string()))?;
    }
    Ok(loaded)
}

fn by(on: &On, loaded: &Loaded, spec: &JobSpec) -> By {
    let grants = Grants { ceiling: spec.allow.clone(), ..loaded.grants.clone() };
    let limits = on.releases.limits_of(&on.pin.name);
    let settings = loaded.schema.visible(&spec.settings);
    By { name: on.pin.to_string(), digest: on.pin.digest.clone(), grants, limits, settings }
}

/// Makes an attempt at a task.
pub(super) async fn attempt(
    spec: Arc<JobSpec>,
    on: On,
    start: Start,
    directive: watch::Receiver<Directive>,
    mailbox: Option<mpsc::Sender<Message>>,
) {
    let Some(mailbox) = mailbox else { return };
    let Start { task, planned, attempt: number } = start;
    let job = spec.context.id;
    let (reports, received) = mpsc::channel(REPORTS);
    let of = Some((planned.name.clone(), number));
    let forwarding = tokio::spawn(forward(received, job, Some(task), mailbox.clone()));
    let (began, mut memory, mut worked) = (Instant::now(), 0, None);
    let making = async {
        let loaded = loaded(&on, &spec).await?;
        let called = Instant::now();
        let attempt = Attempt::new(spec.context.clone(), by(&on, &loaded, &spec), of, directive, reports);
        let attempt = Arc::new(attempt);
        let work = async {
            check(&spec, &mailbox).await?;
            let making = async {
                let is_known = spec.frames.is_some() || spec.scene_frames.get().is_some();
                if !spec.context.content.is_whole() || !is_known {
                    // It was accepted that files have changed: it may be others now that it needs.
                    look(&spec, &attempt, &mailbox).await?;
                }
                let described = described(&spec);
                let call = loaded.plugin.render(attempt.clone(), &described, &planned, number);
                Ok::<_, End>(call.await?)
            };
            let ended = limited(&attempt, on.began_ms, making).await;
            if ended.is_err() {
                // That a file has changed meanwhile explains it better.
                check(&spec, &mailbox).await?;
            }
            ended
        };
        let ended = reported(until_canceled(&attempt, work).await, &attempt).await;
        memory = attempt.memory.load(Ordering::Relaxed);
        worked = attempt.worked(called);
        // All reports are in before the end is: the attempt holds the last sender.
        ended
    };
    let end = making.await.map_or_else(|end| end, End::Outcome);
    let used = Used { took: began.elapsed(), worked, memory };
    let end = no_room(end, &spec).await;
    let _ = forwarding.await;
    let pin = on.pin;
    let _ = mailbox.send(Message::AttemptEnded { job, task, used, end, pin }).await;
}

/// Passes on what a plugin tells, until the last sender is gone.
async fn forward(
    mut reports: mpsc::Receiver<Report>,
    job: JobId,
    task: Option<usize>,
    mailbox: mpsc::Sender<Message>,
) {
    while let Some(report) = reports.recv().await {
        let _ = mailbox.send(Message::Reported { job, task, report }).await;
    }
}

/// Cuts a call that does not end by itself after its job was canceled.
async fn until_canceled<T>(attempt: &Attempt, work: impl Future<Output = Result<T, End>>) -> Result<T, End> {
    let cut = async {
        attempt.canceled().await;
        tokio::time::sleep(GRACE).await;
    };
    // A job must hear of the end of its work, even of one that is our own fault.
    let work = AssertUnwindSafe(work).catch_unwind();
    let host = |what: &str| End::Failed(PluginError::Host(what.to_owned()));
    tokio::select! {
        result = work => result.unwrap_or_else(|_| Err(host("it panicked; see the log"))),
        () = cut => Err(PluginError::Answer(CapabilityError::new(Code::Canceled, "the job was canceled")).into()),
    }
}

/// Cuts a plugin's work that makes no progress, or takes longer than it may.
async fn limited<T, E: Into<End>>(
    attempt: &Attempt,
    began_ms: u64,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, End> {
    let limits = &attempt.by.limits;
    let after = async |limit: Option<Duration>, gone: Duration| match limit {
        Some(limit) => tokio::time::sleep(limit.saturating_sub(gone)).await,
        None => std::future::pending().await,
    };
    let task = after(limits.task(), Duration::ZERO);
    let job = after(limits.job(), Duration::from_millis(now_ms().saturating_sub(began_ms)));
    attempt.used.touch();
    let beyond = |hit: Hit| PluginError::Limit(hit.to_string());
    tokio::select! {
        biased;
        done = work => done.map_err(Into::into),
        hit = attempt.used.idle() => Err(beyond(hit).into()),
        () = task => {
            let what = format!("{} s for a task", limits.task_seconds);
            Err(beyond(Hit::new("task_seconds", what)).into())
        }
        () = job => {
            let error = beyond(Hit::new("job_seconds", format!("{} s for a job", limits.job_seconds)));
            attempt.report(Report::Overtime { limit: error.to_string() }).await;
            Err(End::Hopeless(error))
        }
    }
}

/// Keeps a report of a crash, and says in the error where it is.
async fn reported<T>(ended: Result<T, End>, attempt: &Attempt) -> Result<T, End> {
    let report = async |error: PluginError| match error.crash() {
        Some(kind) => {
            let line = attempt.crashed(kind, error.to_string(), None).await;
            error.with_line(&line)
        }
        None => error,
    };
    match ended {
        Err(End::Failed(error)) => Err(End::Failed(report(error).await)),
        Err(End::Hopeless(error)) => Err(End::Hopeless(report(error).await)),
        ended => ended,
    }
}

async fn pages(
    spec: &JobSpec,
    loaded: &Loaded,
    attempt: &Arc<Attempt>,
    mailbox: &mpsc::Sender<Message>,
) -> Result<(), PluginError> {
    let job = described(spec);
    let mut cursor: Option<String> = None;
    loop {
        let page = loaded.plugin.plan(attempt.clone(), &job, cursor.as_deref()).await?;
        let (accepted, acceptance) = oneshot::channel();
        let message = Message::Planned { job: spec.context.id, tasks: page.tasks, accepted };
        let _ = mailbox.send(message).await;
        // A scheduler that refuses a page knows why, and no more pages are wanted.
        if acceptance.await.is_err() {
            return Ok(());
        }
        cursor = match page.next {
            Some(next) if cursor.as_ref() == Some(&next) => {
                return Err(PluginError::Contract("its plan returned the same cursor twice".to_owned()));
            }
            Some(next) => Some(next),
            None => return Ok(()),
        };
    }
}

/// Finds out whether a failure is that of a disk that is full.
async fn no_room(end: End, spec: &JobSpec) -> End {
    let (End::Failed(error) | End::Hopeless(error)) = &end else { return end };
    if !matches!(error.blame(), Blame::Host | Blame::Blender) {
        return end;
    }
    let (text, context) = (error.to_string(), spec.context.clone());
    if tokio::task::spawn_blocking(move || context.has_room()).await.unwrap_or(true) {
        // The host's own errors come back through the plugin, and there may be room again by now.
        // But what a worker says, or a plugin again and again, is a stranger's word.
        let is_said = ["No space left", "Disk quota"].iter().any(|words| text.contains(words));
        if error.blame() != Blame::Host || !is_said {
            return end;
        }
        if spec.context.cries.fetch_add(1, Ordering::Relaxed) >= CRIES {
            let message = format!("the plugin says again and again that the disk is full: {text}");
            return End::Failed(PluginError::Contract(message));
        }
    }
    let message = format!(
        "the disk of {}, or of the data directory, is full\nit goes on by itself once there is room\n{text}",
        spec.context.output.folder().display()
    );
    End::NoRoom(Pause { code: PauseCode::DiskFull, message })
}

/// Names the tasks of a job, which an earlier host has begun, that were done and
/// whose files are not as they were recorded.
pub(super) async fn verify(store: Store, job: JobId, mailbox: mpsc::WeakSender<Message>) {
    let recorded = loop {
        match store.outputs_of_job(job).await {
            Ok(recorded) => break recorded,
            Err(error) => {
                tracing::error!(%job, %error, "its files cannot be looked up; trying again");
                tokio::time::sleep(AGAIN).await;
            }
        }
        if mailbox.strong_count() == 0 {
            return;
        }
    };
    let tasks = tokio::task::spawn_blocking(move || lost(&recorded)).await.unwrap_or_default();
    if let Some(mailbox) = mailbox.upgrade() {
        let _ = mailbox.send(Message::Lost { job, tasks }).await;
    }
}

/// Names the tasks with a file that is not as it was recorded. Blocks.
fn lost(recorded: &[Recorded]) -> Vec<String> {
    let mut lost: Vec<String> = Vec::new();
    for file in recorded {
        let Some(task) = &file.task else { continue };
        if lost.last() != Some(task) && !output::is_as_recorded(file) {
            tracing::warn!(file = %file.path.display(), "is not as it was recorded; it is rendered again");
            lost.push(task.clone());
        }
    }
    lost
}

/// Fails if a file is not as it was, unless that was accepted.
async fn check(spec: &JobSpec, mailbox: &mpsc::Sender<Message>) -> Result<(), End> {
    let job = spec.context.id;
    if let Some(content) = spec.context.content.check().await? {
        let _ = mailbox.send(Message::Looked { job, content }).await;
    }
    Ok(())
}

/// How often a plugin may say of a disk with room that it is full.
const CRIES: u32 = 5;

fn described(spec: &JobSpec) -> plugin::Job {
    let frames = spec.frames.as_ref().or(spec.scene_frames.get());
    plugin::Job {
        id: spec.context.id.to_string(),
        scene: SCENE.to_owned(),
        frames: frames.map_or_else(Vec::new, |frames| frames.ranges().to_vec()),
        settings: spec.settings.clone(),
    }
}
