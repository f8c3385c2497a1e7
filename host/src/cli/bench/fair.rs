//! A plugin's neighbours: how much longer a task of one takes while another plugin spins, floods
//! the host with calls, or eats memory.

use std::fs;

use serde_json::json;
use wasm_metadata::{AddMetadata, AddMetadataField};

use super::jobs::{Farm, percentile};
use super::{Args, Failure, Goal, Result, Row};
use crate::cli::client::{Client, News};
use crate::events::EventKind;
use crate::service::types::Job;
use crate::terms::{JobId, TaskState};

/// The two plugins: of one component, by other names.
const NEIGHBOUR: &str = "neighbour";
const OTHER: &str = "other";
/// Tasks of the neighbour that are timed, one after another, in each half of a run.
const TASKS: usize = 100;
/// Tasks of the other plugin that are at it at the same time.
const AT_IT: usize = 4;
/// What the other one does (tests/fixtures/probe), and in words.
const ACTS: [(&str, &str); 3] =
    [("loop", "spins"), ("flood", "floods the host"), ("eat_memory", "eats memory, again and again")];
/// It may do its worst for as long as it is looked at.
const CONFIG: &str = "[jobs]\nretries = 1000000\nbackoff_seconds = 0.001\n[keep]\ncrashes = 4\n\
    [plugin.other.limits]\ncpu_seconds = 10000.0\nidle_seconds = 10000.0\n";

pub(super) async fn run(args: &Args) -> Result<Vec<Row>> {
    let Some(file) = &args.component else {
        let hint = "build tests/fixtures/probe for wasm32-wasip2 and give it with --component";
        return Err(Failure::bad_input(format!("there is nothing to run\n{hint}")));
    };
    let component =
        fs::read(file).map_err(|error| Failure::bad_input(format!("{}: {error}", file.display())))?;
    let bar = super::bar(u64::from(args.runs) * ACTS.len() as u64);
    let mut rows = Vec::new();
    for (act, words) in ACTS {
        bar.set_message(words);
        let (mut quiet, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..args.runs {
            let farm = Farm::start(args, "files=no", CONFIG).await?;
            let mut client = farm.listener().await?;
            for name in [NEIGHBOUR, OTHER] {
                let mut metadata = AddMetadata::default();
                metadata.name = AddMetadataField::Set(name.to_owned());
                let path = farm.folder.path().join(format!("{name}.wasm"));
                fs::write(path, metadata.to_wasm(&component).map_err(Failure::failed)?)
                    .map_err(Failure::failed)?;
            }
            // The worker comes up, and the code is compiled.
            time(&farm, &mut client, 5).await?;
            quiet.push(percentile(time(&farm, &mut client, TASKS).await?, 0.99));
            let other = submit(&farm, &client, OTHER, act, AT_IT).await?;
            until_all_run(&mut client, other).await?;
            beside.push(percentile(time(&farm, &mut client, TASKS).await?, 0.99));
            bar.inc(1);
        }
        let name = format!("p99 of a task of a neighbour, while {AT_IT} tasks of a plugin: {words}");
        rows.push(Row::in_turn(name, "ms", &beside, ("quiet", &quiet), Goal::RatioAtMost(1.5)));
    }
    bar.finish_and_clear();
    Ok(rows)
}

async fn submit(farm: &Farm, client: &Client, name: &str, act: &str, frames: usize) -> Result<JobId> {
    let mut job = farm.job(frames);
    job["renderer"] = json!(farm.folder.path().join(format!("{name}.wasm")));
    job["settings"] = json!({"act": act});
    // Whoever waits for a place goes first.
    job["priority"] = json!(if name == NEIGHBOUR { 1 } else { 0 });
    let job: Job = client.call("jobs.submit", &job).await?;
    Ok(job.id)
}

/// Milliseconds of so many tasks of the neighbour, one after another.
async fn time(farm: &Farm, client: &mut Client, tasks: usize) -> Result<Vec<f64>> {
    let mut took = Vec::with_capacity(tasks);
    for _ in 0..tasks {
        let job = submit(farm, client, NEIGHBOUR, "compute", 1).await?;
        took.push(ended(client, job).await? * 1e3);
    }
    Ok(took)
}

/// Waits for the end of a job's only task; returns the seconds that it took.
async fn ended(client: &mut Client, job: JobId) -> Result<f64> {
    loop {
        for event in news(client).await? {
            match event {
                EventKind::TaskState { job: of, state: TaskState::Done, seconds, .. } if of == job => {
                    return Ok(seconds);
                }
                EventKind::TaskState { job: of, error: Some(error), .. } if of == job => {
                    return Err(Failure::failed(error.message));
                }
                _ => {}
            }
        }
    }
}

async fn until_all_run(client: &mut Client, job: JobId) -> Result {
    let mut started = 0;
    while started < AT_IT {
        let is_start =
            |event: &EventKind| matches!(event, EventKind::TaskStarted { job: of, .. } if *of == job);
        started += news(client).await?.iter().filter(|event| is_start(event)).count();
    }
    Ok(())
}

async fn news(client: &mut Client) -> Result<Vec<EventKind>> {
    match client.news().await {
        Some(News::Events(events)) => Ok(events.into_iter().map(|event| event.kind).collect()),
        _ => Err(Failure::failed("the host is gone")),
    }
}
