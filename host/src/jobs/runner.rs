//! One plan or one attempt: call the plugin, pass on what it tells, report the end.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot, watch};

use super::JobSpec;
use super::scheduler::Message;
use crate::blender::wire::SceneInfo;
use crate::capability::{Attempt, CapabilityError, Code, Directive, Report, SCENE};
use crate::events::{EventKind, Events, Failure};
use crate::plugin::{self, PlannedTask, PluginError};

/// How long a canceled plugin may take to return by itself.
const GRACE: Duration = Duration::from_secs(2);
/// How many reports of an attempt may wait.
const REPORTS: usize = 64;

/// Which attempt to make.
#[derive(Debug)]
pub(super) struct Start {
    pub job: String,
    pub task: usize,
    pub planned: PlannedTask,
    pub attempt: u32,
}

/// Looks at the scene, then asks the plugin for its plan, page by page.
pub(super) async fn plan(
    spec: Arc<JobSpec>,
    directive: watch::Receiver<Directive>,
    mailbox: Option<mpsc::Sender<Message>>,
    events: Events,
) {
    let Some(mailbox) = mailbox else { return };
    let job = spec.context.id.clone();
    let (reports, received) = mpsc::channel(REPORTS);
    let attempt = Arc::new(Attempt::new(spec.context.clone(), directive, reports));
    let forwarding = tokio::spawn(forward(received, job.clone(), None, mailbox.clone()));
    let planning = async {
        look(&spec, &events).await?;
        pages(&spec, &attempt, &mailbox).await
    };
    let result = until_canceled(&attempt, planning).await;
    drop(attempt);
    let _ = forwarding.await;
    let result =
        result.map_err(|error| Failure { blame: error.blame().as_str(), message: error.to_string() });
    let _ = mailbox.send(Message::PlanEnded { job, result }).await;
}

/// Makes an attempt at a task.
pub(super) async fn attempt(
    spec: Arc<JobSpec>,
    start: Start,
    directive: watch::Receiver<Directive>,
    mailbox: Option<mpsc::Sender<Message>>,
) {
    let Some(mailbox) = mailbox else { return };
    let Start { job, task, planned, attempt: number } = start;
    let (reports, received) = mpsc::channel(REPORTS);
    let attempt = Arc::new(Attempt::new(spec.context.clone(), directive, reports));
    let forwarding = tokio::spawn(forward(received, job.clone(), Some(task), mailbox.clone()));
    let described = described(&spec);
    let work = spec.pin.plugin.render(attempt.clone(), &described, &planned, number);
    let began = Instant::now();
    let result = until_canceled(&attempt, work).await;
    let took = began.elapsed();
    // All reports are in before the end is: the attempt holds the last sender.
    drop(attempt);
    let _ = forwarding.await;
    let _ = mailbox.send(Message::AttemptEnded { job, task, took, result }).await;
}

/// Passes on what a plugin tells, until the last sender is gone.
async fn forward(
    mut reports: mpsc::Receiver<Report>,
    job: String,
    task: Option<usize>,
    mailbox: mpsc::Sender<Message>,
) {
    while let Some(report) = reports.recv().await {
        let _ = mailbox.send(Message::Reported { job: job.clone(), task, report }).await;
    }
}

/// Cuts a call that does not end by itself after its job was canceled.
async fn until_canceled<T>(
    attempt: &Attempt,
    work: impl Future<Output = Result<T, PluginError>>,
) -> Result<T, PluginError> {
    let mut directive = attempt.directive.clone();
    let cut = async {
        let _ = directive.wait_for(|directive| *directive == Directive::Cancel).await;
        tokio::time::sleep(GRACE).await;
    };
    // A job must hear of the end of its work, even of one that is our own fault.
    let work = AssertUnwindSafe(work).catch_unwind();
    tokio::select! {
        result = work => result.unwrap_or_else(|_| Err(PluginError::Host("it panicked; see the log".to_owned()))),
        () = cut => Err(PluginError::Answer(CapabilityError::new(Code::Canceled, "the job was canceled"))),
    }
}

async fn pages(
    spec: &JobSpec,
    attempt: &Arc<Attempt>,
    mailbox: &mpsc::Sender<Message>,
) -> Result<(), PluginError> {
    let job = described(spec);
    let mut cursor: Option<String> = None;
    loop {
        let page = spec.pin.plugin.plan(attempt.clone(), &job, cursor.as_deref()).await?;
        let (accepted, acceptance) = oneshot::channel();
        let message = Message::Planned { job: job.id.clone(), tasks: page.tasks, accepted };
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

/// Finds what is wrong with the scene before anything is rendered.
async fn look(spec: &JobSpec, events: &Events) -> Result<(), PluginError> {
    let failed = |error: crate::blender::BlenderError| PluginError::Answer(error.into());
    let context = &spec.context;
    // The workers that are wanted later come up meanwhile.
    let others = context.pool.size().min(spec.frames.len()).saturating_sub(1);
    let scene = context.pool.open(&context.scene, context.cpu);
    let pool = context.pool.clone();
    tokio::spawn(async move {
        if let Err(error) = pool.warm_up(others).await {
            tracing::warn!(%error, "a worker did not start; the frame that wants it tries again");
        }
    });
    let info = scene.await.map_err(failed)?.inspect().await.map_err(failed)?;
    for message in warnings(&info) {
        events.append(EventKind::Warning { job: context.id.clone(), message });
    }
    if spec.strict && !info.missing_files.is_empty() {
        let message = format!(
            "the scene misses {} of its files and --strict forbids that\n\
             put them where the scene wants them, or render without --strict",
            info.missing_files.len()
        );
        return Err(PluginError::Answer(CapabilityError::new(Code::NotFound, message)));
    }
    Ok(())
}

fn warnings(info: &SceneInfo) -> Vec<String> {
    let missing = info.missing_files.iter().map(|file| format!("missing file: {}", file.display()));
    let blocked = info.blocked_scripts.iter().map(|script| format!("kept from running: {script}"));
    missing.chain(blocked).chain(info.warnings.iter().cloned()).collect()
}

fn described(spec: &JobSpec) -> plugin::Job {
    plugin::Job {
        id: spec.context.id.clone(),
        scene: SCENE.to_owned(),
        frames: spec.frames.ranges().to_vec(),
        settings: spec.settings.clone(),
    }
}
