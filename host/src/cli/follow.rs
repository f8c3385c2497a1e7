//! Following a job to its end: what `render` and `job watch` have in common.

use std::time::Instant;

use serde_json::json;

use super::client::{Client, News};
use super::progress::View;
use super::stopping::Stopping;
use super::{BAD_INPUT, Failure, INTERRUPTED, Result, WITHHELD};
use crate::events::EventKind;
use crate::service::types::{HostState, Job};
use crate::terms::{Blame, JobId, JobState, PauseCode};

/// What becomes of the job when the person does not want to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// It is theirs alone: it is canceled.
    Cancels,
    /// It goes on without them.
    LetsItBe,
}

/// Shows what happens to a job until it ends, or is paused.
pub(super) async fn follow(
    client: &mut Client,
    id: JobId,
    view: &mut View,
    leaving: Leaving,
    stopping: &mut Stopping,
    mut rendering: bool,
) -> Result {
    let began = Instant::now();
    let mut interrupts = 0;
    held_up(client).await?.iter().for_each(|why| view.note(why));
    loop {
        let mut has_ended = false;
        let news = tokio::select! {
            biased;
            () = stopping.asked() => {
                interrupts += 1;
                if interrupts > 1 || leaving == Leaving::LetsItBe {
                    view.leave();
                    if leaving == Leaving::LetsItBe {
                        tell!("the job goes on; `hotshoe job watch {id}` follows it again");
                    }
                    // Whatever runs in this process dies with it.
                    std::process::exit(INTERRUPTED.into());
                }
                view.note("stopping; press Ctrl-C again to stop at once");
                client.call_soon("jobs.cancel", json!({"id": id}));
                continue;
            }
            news = client.news() => news,
        };
        match news {
            Some(News::Progress(progress)) => view.progress(&progress),
            Some(News::Events(events)) => {
                for event in events {
                    view.show(&event);
                    rendering |= matches!(event.kind, EventKind::TaskStarted { .. });
                    if let EventKind::JobState { id: of, state, .. } = event.kind {
                        has_ended |= of == id && (state.is_final() || state == JobState::Paused);
                    }
                }
            }
            None => {
                view.leave();
                let hint = "the job goes on once there is a host again; `hotshoe job watch` follows it";
                return Err(Failure::failed(format!("the host is gone\n{hint}")));
            }
        }
        if !has_ended {
            continue;
        }
        let job: Job = client.call("jobs.get", &json!({"id": id})).await?;
        match job.pause.as_ref() {
            Some(pause) if pause.code == PauseCode::DiskFull => view.note(&pause.message),
            None if !job.state.is_final() => {}
            _ => {
                view.end(&job, began.elapsed());
                return told(&job, rendering);
            }
        }
    }
}

/// Says why the host begins nothing, if it does not.
pub(super) async fn held_up(client: &Client) -> Result<Option<&'static str>> {
    let hint = "the host drains and begins nothing; `hotshoe host drain --off` lets it begin again";
    Ok((client.status().await?.state == HostState::Draining).then_some(hint))
}

/// What the program's end says of the job's.
pub(super) fn told(job: &Job, rendering: bool) -> Result {
    match (&job.state, &job.error, &job.pause) {
        (JobState::Succeeded, ..) => Ok(()),
        (JobState::Canceled, ..) => Err(Failure::new(INTERRUPTED, "stopped before all was rendered")),
        (JobState::Paused, _, Some(pause)) => {
            Err(Failure::failed(format!("job {} is paused: {}", job.id, pause.message)))
        }
        (_, Some(error), _) if !error.withheld.is_empty() => {
            Err(Failure { within: error.within.clone(), ..Failure::new(WITHHELD, &error.message) })
        }
        (_, Some(error), _) if !rendering && matches!(error.blame, Blame::Client | Blame::Blender) => {
            Err(Failure::new(BAD_INPUT, &error.message))
        }
        (_, Some(error), _) => Err(Failure::failed(&error.message)),
        (_, None, _) => {
            let (failed, tasks) = (job.failed, job.tasks);
            Err(Failure::failed(format!("{failed} of {tasks} tasks failed; the reasons stand above")))
        }
    }
}
