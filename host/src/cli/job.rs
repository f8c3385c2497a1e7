//! `hotshoe submit` and `hotshoe job`: jobs of a running host.

use std::path::Path;
use std::time::Duration;

use indicatif::HumanDuration;
use serde_json::json;

use super::client::{At, Client, JobName};
use super::follow::{Leaving, follow, held_up};
use super::progress::{View, line};
use super::render::Wish;
use super::stopping::Stopping;
use super::{Failure, Result, table};
use crate::config::allowed::Trust;
use crate::events::{Event, EventKind};
use crate::service::types::{Job, JobPage, TaskPage};
use crate::store::now_ms;
use crate::terms::{Failure as Blamed, JobId, JobState, Pause, TaskState};

#[derive(Debug, clap::Args)]
pub(super) struct Submit {
    #[command(flatten)]
    wish: Wish,
    /// Jobs with a larger number run first.
    #[arg(short, long, default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
    /// Start only after this job has succeeded.
    #[arg(long, value_name = "ID")]
    after: Vec<JobName>,
    /// A key of your own: submitting again with the same key returns the first job.
    #[arg(long)]
    key: Option<String>,
    /// Follow the job until it ends.
    #[arg(short, long)]
    watch: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

/// Which job.
#[derive(Debug, clap::Args)]
struct Which {
    /// The job's id, or an unambiguous beginning of it [default: the newest job].
    id: Option<JobName>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: At,
}

/// Which job, where the newest could be somebody else's.
#[derive(Debug, clap::Args)]
struct This {
    /// The job's id, or an unambiguous beginning of it.
    id: JobName,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List jobs, newest first.
    List {
        /// Show only this state.
        #[arg(long = "state")]
        states: Vec<JobState>,
        /// How many to show.
        #[arg(long, default_value_t = 20)]
        limit: usize,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        at: At,
    },
    /// Show a job, and its failed and running tasks.
    Show(Which),
    /// List the tasks of a job.
    Tasks {
        #[command(flatten)]
        which: Which,
        /// Show only this state.
        #[arg(long = "state")]
        states: Vec<TaskState>,
    },
    /// Follow a job until it ends or is paused.
    Watch(Which),
    /// Cancel a job; finished pictures stay.
    Cancel(This),
    /// Start no more tasks of a job until it is resumed.
    Pause(This),
    /// Resume a paused job.
    Resume {
        #[command(flatten)]
        which: This,
        /// Accept files that have changed since the job was submitted.
        #[arg(long)]
        accept_changes: bool,
    },
    /// Run the unfinished tasks of a failed or canceled job again.
    Retry {
        #[command(flatten)]
        this: This,
        /// Run what this release has made again, too, such as NAME@=1.2.3; this works for succeeded
        /// jobs as well.
        #[arg(long, value_name = "RELEASE")]
        made_by: Option<String>,
    },
    /// Keep a job until it is unpinned, however old it gets.
    Pin(This),
    /// Let a job be deleted like any other once it is old.
    Unpin(This),
    /// Print the log of a job: its renderer's messages, errors and warnings.
    Logs {
        #[command(flatten)]
        which: Which,
        /// Keep printing new messages until the job ends.
        #[arg(short, long)]
        follow: bool,
    },
}

pub(super) async fn submit(args: Submit, data: Option<&Path>) -> Result {
    let mut submission = args.wish.submission()?;
    (submission.priority, submission.key) = (args.priority, args.key);
    let mut client = args.at.connect(data).await?;
    for other in &args.after {
        submission.after.push(client.job(other).await?);
    }
    let job: Job = client.call("jobs.submit", &submission).await?;
    args.wish.locking.note(&job)?;
    if !args.watch {
        match args.json {
            true => show!("{}", json!(job)),
            false => show!("{}", job.id),
        }
        return Ok(());
    }
    watch(&mut client, job.id, args.json).await
}

pub(super) async fn run(args: Args, data: Option<&Path>) -> Result {
    match args.command {
        Command::List { states, limit, json, at } => {
            list(&at.connect(data).await?, &states, limit, json).await
        }
        Command::Show(which) => {
            let (client, id) = find(&which, data).await?;
            show(&client, id, which.json).await
        }
        Command::Tasks { which, states } => {
            let (client, id) = find(&which, data).await?;
            tasks(&client, id, &states, which.json).await
        }
        Command::Watch(which) => {
            let (mut client, id) = find(&which, data).await?;
            watch(&mut client, id, which.json).await
        }
        Command::Logs { which, follow } => {
            let (client, id) = find(&which, data).await?;
            logs(client, id, follow, which.json).await
        }
        Command::Cancel(which) => order(which, data, "jobs.cancel", json!({})).await,
        Command::Pause(which) => order(which, data, "jobs.pause", json!({})).await,
        Command::Resume { which, accept_changes } => {
            order(which, data, "jobs.resume", json!({"accept_changes": accept_changes})).await
        }
        Command::Retry { this, made_by } => {
            order(this, data, "jobs.retry", json!({"made_by": made_by})).await
        }
        Command::Pin(which) => order(which, data, "jobs.pin", json!({"pinned": true})).await,
        Command::Unpin(which) => order(which, data, "jobs.pin", json!({"pinned": false})).await,
    }
}

/// Connects, and finds the job that is meant.
async fn find(which: &Which, data: Option<&Path>) -> Result<(Client, JobId)> {
    let client = which.at.connect(data).await?;
    if let Some(name) = &which.id {
        let id = client.job(name).await?;
        return Ok((client, id));
    }
    let page: JobPage = client.call("jobs.list", &json!({"limit": 1})).await?;
    let newest = page.jobs.first().map(|job| job.id);
    newest
        .map(|id| (client, id))
        .ok_or_else(|| Failure::bad_input("this host has no jobs\nhotshoe submit SCENE --frames 1-24"))
}

async fn list(client: &Client, states: &[JobState], limit: usize, json: bool) -> Result {
    let mut jobs: Vec<Job> = Vec::new();
    let mut cursor = None;
    // One more than is shown: how short an id may be depends on its neighbours.
    while jobs.len() <= limit {
        let wanted = (limit + 1 - jobs.len()).min(1000);
        let params = json!({"states": states, "limit": wanted, "cursor": cursor});
        let page: JobPage = client.call("jobs.list", &params).await?;
        jobs.extend(page.jobs);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    if json {
        jobs.iter().take(limit).for_each(|job| show!("{}", json!(job)));
        return Ok(());
    }
    let ids: Vec<String> = jobs.iter().map(|job| job.id.to_string()).collect();
    let row = |(index, job): (usize, &Job)| {
        let failed = if job.failed > 0 { format!(", {} failed", job.failed) } else { String::new() };
        let scene = job.scene.file_name().unwrap_or_default().to_string_lossy().into_owned();
        vec![
            short(&ids, index).to_owned(),
            job.state.to_string(),
            job.priority.to_string(),
            format!("{}/{}{failed}", job.done, job.tasks),
            age(job.created_ms),
            job.release.name.clone(),
            frames(job),
            scene,
            reason(job).and_then(|text| text.lines().next()).unwrap_or_default().to_owned(),
        ]
    };
    let rows: Vec<_> = jobs.iter().enumerate().take(limit).map(row).collect();
    let header = ["JOB", "STATE", "PRIORITY", "TASKS", "AGE", "RENDERER", "FRAMES", "SCENE", "WHY"];
    table::print(&header, &rows);
    Ok(())
}

/// The shortest beginning of an id that is shown.
const SHORTEST: usize = 6;

/// Returns so much of an id that it is told from those before and after it, of a sorted list.
fn short(ids: &[String], index: usize) -> &str {
    let id = &ids[index];
    let neighbours = [index.checked_sub(1), Some(index + 1)].into_iter().flatten().filter_map(|n| ids.get(n));
    let common = neighbours.map(|other| id.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count());
    let length = common.max().map_or(SHORTEST, |common| (common + 1).max(SHORTEST)).min(id.len());
    id[..length].trim_end_matches('-')
}

/// Says how long ago something was.
fn age(since_ms: u64) -> String {
    let seconds = now_ms().saturating_sub(since_ms) / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn frames(job: &Job) -> String {
    let scene = job.scene_name.as_ref().map(|name| format!(" of scene {name}")).unwrap_or_default();
    match job.frames.as_str() {
        "" => format!("the scene's own{scene}"),
        frames => format!("{frames}{scene}"),
    }
}

/// Says why a job failed or is paused.
fn reason(job: &Job) -> Option<&str> {
    let error = job.error.as_ref().map(|error| error.message.as_str());
    error.or(job.pause.as_ref().map(|pause| pause.message.as_str()))
}

/// Says how long the rest of a job takes if it goes on like this.
fn left(job: &Job) -> Option<String> {
    let (began, ended) = (job.started_ms?, job.done + job.failed);
    if job.state != JobState::Running || ended == 0 || ended >= job.tasks {
        return None;
    }
    let left = now_ms().saturating_sub(began) / ended as u64 * (job.tasks - ended) as u64;
    Some(HumanDuration(Duration::from_millis(left)).to_string())
}

async fn show(client: &Client, id: JobId, json: bool) -> Result {
    let job: Job = client.call("jobs.get", &json!({"id": id})).await?;
    if json {
        show!("{:#}", json!(job));
        return Ok(());
    }
    let release = &job.release;
    show!("{}  {}", job.id, job.state);
    if !job.state.is_final() {
        held_up(client).await?.iter().for_each(|why| show!("  {why}"));
    }
    show!("  scene     {}", job.scene.display());
    show!("  frames    {}", frames(&job));
    show!("  age       {}, priority {}", age(job.created_ms), job.priority);
    if let Some(trust) = &job.trust {
        let what = match trust {
            Trust::Folder => "all scenes of its folder are trusted",
            Trust::Scene { .. } => "the scene is trusted",
        };
        show!("  scripts   run: {what}");
    }
    show!(
        "  renderer  {} {} ({})",
        release.name,
        release.version,
        release.digest.get(..12).unwrap_or_default()
    );
    show!("  out       {} ({} files)", job.out.display(), job.files.unwrap_or_default());
    show!(
        "  tasks     {} of {} done, {} failed, {} tried again",
        job.done,
        job.tasks,
        job.failed,
        job.retries
    );
    if let Some(left) = left(&job) {
        show!("  left      about {left}");
    }
    for other in &job.after {
        show!("  after     {other}");
    }
    for (n, text) in reason(&job).into_iter().flat_map(str::lines).enumerate() {
        show!("  {:<9} {text}", if n == 0 { "because" } else { "" });
    }
    let params = json!({"job": id, "states": ["running", "failed"], "limit": 20});
    let page: TaskPage = client.call("tasks.list", &params).await?;
    if !page.tasks.is_empty() {
        show!("");
        print_tasks(&page);
    }
    Ok(())
}

async fn tasks(client: &Client, id: JobId, states: &[TaskState], json: bool) -> Result {
    let mut cursor = None;
    loop {
        let params = json!({"job": id, "states": states, "limit": 1000, "cursor": cursor});
        let page: TaskPage = client.call("tasks.list", &params).await?;
        match json {
            true => page.tasks.iter().for_each(|task| show!("{}", json!(task))),
            false => print_tasks(&page),
        }
        cursor = page.next;
        if cursor.is_none() {
            return Ok(());
        }
    }
}

fn print_tasks(page: &TaskPage) {
    let row = |task: &crate::service::types::Task| {
        let error = task.error.as_ref().and_then(|error| error.message.lines().next()).unwrap_or_default();
        vec![
            task.id.clone(),
            task.state.to_string(),
            task.attempts.to_string(),
            task.seconds.map(|seconds| format!("{seconds:.1} s")).unwrap_or_default(),
            task.release
                .as_deref()
                .and_then(|release| release.split('+').next())
                .unwrap_or_default()
                .to_owned(),
            error.to_owned(),
        ]
    };
    let rows: Vec<_> = page.tasks.iter().map(row).collect();
    table::print(&["TASK", "STATE", "ATTEMPTS", "TOOK", "RELEASE", "LAST ERROR"], &rows);
}

async fn watch(client: &mut Client, id: JobId, json: bool) -> Result {
    let mut stopping = Stopping::listen()?;
    let mut tries = 0..10;
    let (job, slots) = loop {
        let before = client.status().await?;
        let job: Job = client.call("jobs.get", &json!({"id": id})).await?;
        // What happened between the two would be counted twice, or not at all.
        let is_same = client.status().await?.last_event == before.last_event;
        if is_same || job.state.is_final() || tries.next().is_none() {
            client.subscribe(before.last_event, Some(id), true).await?;
            break (job, before.slots);
        }
    };
    let mut view = View::choose(json, slots);
    if job.state.is_final() || job.state == JobState::Paused {
        view.end(&job, std::time::Duration::ZERO);
        return super::follow::told(&job, true);
    }
    view.begin(&job);
    follow(client, id, &mut view, Leaving::LetsItBe, &mut stopping, job.done + job.failed > 0).await
}

async fn logs(mut client: Client, id: JobId, follow: bool, json: bool) -> Result {
    let told = |event: &Event| match &event.kind {
        EventKind::JobState { state, error: Some(Blamed { message, .. }), .. }
        | EventKind::JobState { state, pause: Some(Pause { message, .. }), .. } => {
            Some(format!("job {state}: {message}"))
        }
        _ => line(event),
    };
    let print = |event: &Event| match (json, told(event)) {
        (_, None) => {}
        (true, Some(_)) => show!("{}", json!(event)),
        (false, Some(line)) => show!("{line}"),
    };
    let from = client.stored_events(0, Some(id), print).await?;
    let job: Job = client.call("jobs.get", &json!({"id": id})).await?;
    if !follow || job.state.is_final() {
        return Ok(());
    }
    client.subscribe(from, Some(id), false).await?;
    while let Some(super::client::News::Events(events)) = client.news().await {
        for event in &events {
            print(event);
            if let EventKind::JobState { state, .. } = &event.kind
                && state.is_final()
            {
                return Ok(());
            }
        }
    }
    Err(Failure::failed("the host is gone"))
}

async fn order(this: This, data: Option<&Path>, method: &str, mut params: serde_json::Value) -> Result {
    let client = this.at.connect(data).await?;
    params["id"] = json!(client.job(&this.id).await?);
    let job: Job = client.call(method, &params).await?;
    match this.json {
        true => show!("{}", json!(job)),
        // What runs of it is being cut.
        false if method == "jobs.cancel" && !job.state.is_final() => show!("{}  is being canceled", job.id),
        false if method == "jobs.retry" && job.tasks > job.done => {
            show!("{}  {}: {} of {} tasks to do", job.id, job.state, job.tasks - job.done, job.tasks);
        }
        false => show!("{}  {}", job.id, job.state),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_as_short_as_its_neighbours_let_it_be() {
        let ids = ["01a21b5d-f3d7-7285", "01a21b5d-f3d6-0000", "01a21b00-0000-0000"].map(str::to_owned);
        let all: Vec<&str> = (0..3).map(|index| short(&ids, index)).collect();
        assert_eq!(all, ["01a21b5d-f3d7", "01a21b5d-f3d6", "01a21b0"]);
        assert_eq!(short(&ids[..1], 0), "01a21b");
    }
}
