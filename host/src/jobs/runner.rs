//! One plan or one attempt: call the plugin, pass on what it tells, report the end.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use nix::unistd::{AccessFlags, access};
use tokio::sync::{mpsc, oneshot, watch};

use super::JobSpec;
use super::scheduler::{AGAIN, Message};
use crate::blender::BlenderError;
use crate::blender::content::Changed;
use crate::blender::references::{Found, look_for};
use crate::blender::wire::SceneInfo;
use crate::blender::worker::NEEDED;
use crate::capability::blender::heard;
use crate::capability::grants::Grants;
use crate::capability::usage::Hit;
use crate::capability::{
    Attempt, By, CapabilityError, Code, Directive, ERROR_TEXT, Report, SCENE, harmless, output,
};
use crate::events::EventKind;
use crate::frames::{FrameRange, Frames};
use crate::plugin::{self, Outcome, PlannedTask, PluginError};
use crate::releases::{Loaded, Pin, ReleaseError, Releases};
use crate::store::outputs::Output as Recorded;
use crate::store::{Store, Writing, now_ms};
use crate::terms::{Blame, Failure, JobId, Pause, PauseCode, WarningAbout};

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
                return Err(PluginError::Contract("its plan comes to the same cursor again".to_owned()));
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

/// Tells deaths of Blender, which another try may not see, from what it says of the scene.
async fn seen<T>(result: Result<T, BlenderError>, attempt: &Attempt) -> Result<T, End> {
    use BlenderError::{Died, Hung, Io, Start};
    let has_died = matches!(result, Err(Died { .. } | Hung { .. } | Start { .. } | Io { .. }));
    let error = match heard(attempt, result).await {
        Ok(value) => return Ok(value),
        Err(error) => PluginError::Answer(error),
    };
    Err(if has_died { End::Failed(error) } else { End::Hopeless(error) })
}

/// How often a plugin may say of a disk with room that it is full.
const CRIES: u32 = 5;

/// How many warnings of a scene are told.
const WARNINGS: usize = 200;

/// Finds what is wrong with the scene before anything is rendered, and takes
/// down the files that it needs.
async fn look(spec: &JobSpec, attempt: &Attempt, mailbox: &mpsc::Sender<Message>) -> Result<(), End> {
    let context = &spec.context;
    let _working = attempt.used.working();
    // The workers that are wanted later come up meanwhile.
    let count = spec.frames.as_ref().map_or(1, Frames::len);
    let others = context.pool.size().min(count).saturating_sub(1);
    let scene = context.pool.open(context.wanted());
    let (pool, wanted) = (context.pool.clone(), context.wanted());
    tokio::spawn(async move {
        if let Err(error) = pool.warm_up(&wanted, others).await {
            tracing::warn!(%error, "a worker did not start; the frame that wants it tries again");
        }
    });
    let scene = seen(scene.await, attempt).await?;
    let mut info = seen(scene.inspect().await, attempt).await?;
    if spec.frames.is_none() {
        let _ = spec.scene_frames.set(frames_of(&info)?);
    }
    let references = std::mem::take(&mut info.references);
    let found = tokio::task::spawn_blocking(move || look_for(&references, NEEDED)).await;
    let Found { files, missing } = found.map_err(|_| host("looking for files failed"))?;
    let files: Vec<PathBuf> = files.into_iter().collect();
    let closed = match files.is_empty() {
        true => Vec::new(),
        false => seen(scene.unreadable(&files).await, attempt).await?,
    };
    // What this user may not read, Blender could not read either, confined or not.
    let (withheld, unreadable): (Vec<PathBuf>, Vec<PathBuf>) =
        closed.iter().cloned().partition(|file| access(file, AccessFlags::R_OK).is_ok());
    info.missing_files = missing.into_iter().collect();
    for (about, message) in warnings(&info, &unreadable, &context.scene) {
        let warning = EventKind::Warning { job: context.id, about: Some(about), message };
        let append = move |writing: &mut Writing<'_>| writing.append(warning.clone());
        context.store.write_patiently(append).await.map_err(|error| PluginError::Answer(error.into()))?;
    }
    if !withheld.is_empty() {
        return Err(End::Withheld(kept_from(&context.scene, withheld)));
    }
    let lacking = info.missing_files.len() + unreadable.len();
    if spec.strict && lacking > 0 {
        let message = format!(
            "the scene misses {lacking} of its files and --strict forbids that\n\
             put them where the scene wants them, or render without --strict"
        );
        return Err(End::Hopeless(PluginError::Answer(CapabilityError::new(Code::NotFound, message))));
    }
    // Until it is known which files it has loaded, nobody else is to find it so.
    scene.loaded().take();
    let needed = files.into_iter().filter(|file| !closed.contains(file));
    let needed = needed.filter_map(|file| file.canonicalize().ok()).collect();
    let content = context.content.depends_on(needed, context.output.folder()).await;
    let content = content.map_err(PluginError::Answer)??;
    scene.holds(context.wanted());
    let _ = mailbox.send(Message::Looked { job: context.id, content }).await;
    Ok(())
}

fn host(what: &str) -> End {
    End::Failed(PluginError::Host(what.to_owned()))
}

/// Returns the frames that `blender -a` renders of a scene.
fn frames_of(info: &SceneInfo) -> Result<Frames, End> {
    let (first, last, step) = (info.frame_start, info.frame_end, info.frame_step.max(1));
    let range = FrameRange { first, last, step };
    range.to_string().parse().map_err(|_| {
        let message =
            format!("the scene's own frames, {range}, cannot be rendered\nname others with --frames");
        End::Hopeless(PluginError::Answer(CapabilityError::new(Code::InvalidArgument, message)))
    })
}

/// How many files are named in an error.
const NAMED: usize = 10;

/// Makes the failure of a job whose scene needs files that only our sandbox keeps from it.
fn kept_from(scene: &Path, withheld: Vec<PathBuf>) -> Failure {
    let folders = folders_of(scene, &withheld);
    let names = withheld.iter().take(NAMED).map(|file| format!("  {}\n", file.display()));
    let more = withheld.len().saturating_sub(NAMED);
    let more = if more > 0 { format!("  and {more} more\n") } else { String::new() };
    let what = if withheld.len() == 1 { "a file" } else { "files" };
    let flags = folders.iter().map(|folder| format!(" --read {}", folder.display()));
    let message = format!(
        "the scene needs {what} outside of its folder, which Blender may not read:\n{}{more}\
         let it with{}\nor once and for all, for every scene of a project: hotshoe project allow {}",
        names.collect::<String>(),
        flags.collect::<String>(),
        folders[0].display()
    );
    let message = harmless(message, ERROR_TEXT);
    Failure { withheld, ..Failure::new(Blame::Client, message) }
}

/// Returns the folder that holds a scene and the files that it needs; if that is the root or more
/// than a home, the folders of the files.
fn folders_of(scene: &Path, files: &[PathBuf]) -> Vec<PathBuf> {
    let common = scene.ancestors().skip(1).find(|folder| files.iter().all(|file| file.starts_with(folder)));
    let home = std::env::home_dir();
    let is_wide = |folder: &&Path| home.as_deref().is_some_and(|home| home.starts_with(folder));
    match common.filter(|folder| folder.parent().is_some() && !is_wide(folder)) {
        Some(common) => vec![common.to_owned()],
        None => {
            let own: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
            own.into_iter().take(NAMED).map(Path::to_owned).collect()
        }
    }
}

/// Says what is odd about a scene, a sentence each.
fn warnings(info: &SceneInfo, unreadable: &[PathBuf], scene: &Path) -> Vec<(WarningAbout, String)> {
    use WarningAbout::{BlockedScript, MissingFile, Scene, UnbakedSimulation, UnreadableFile};
    let missing = info.missing_files.iter();
    let missing = missing.map(|file| (MissingFile, format!("missing file: {}", file.display())));
    let unreadable = unreadable.iter();
    let unreadable = unreadable.map(|file| {
        (UnreadableFile, format!("this user may not read {}, so Blender renders without it", file.display()))
    });
    let last = info.blocked_scripts.len().saturating_sub(1);
    let blocked = info.blocked_scripts.iter().enumerate().map(|(index, script)| {
        let hint = match index == last {
            true => format!("\nif you trust the scene: hotshoe scene trust {}", scene.display()),
            false => String::new(),
        };
        (BlockedScript, format!("kept from running: {script}{hint}"))
    });
    let simulations = info.unbaked_simulations.iter().map(|what| {
        let message = format!("not baked: {what}; frames are as in `blender -a`, whatever their order");
        (UnbakedSimulation, message)
    });
    let others = info.warnings.iter().map(|warning| (Scene, warning.clone()));
    let all = missing.chain(unreadable).chain(blocked).chain(simulations).chain(others);
    let clean = |(about, warning)| (about, harmless(warning, ERROR_TEXT));
    let mut said: Vec<_> = all.map(clean).take(WARNINGS + 1).collect();
    if said.len() > WARNINGS {
        said[WARNINGS].1 = "there is more of this kind, which is not told".to_owned();
    }
    said
}

fn described(spec: &JobSpec) -> plugin::Job {
    let frames = spec.frames.as_ref().or(spec.scene_frames.get());
    plugin::Job {
        id: spec.context.id.to_string(),
        scene: SCENE.to_owned(),
        frames: frames.map_or_else(Vec::new, |frames| frames.ranges().to_vec()),
        settings: spec.settings.clone(),
    }
}
