//! What a component costs: a call, an instance, a load.

use std::os::unix::net::UnixStream;
use std::time::Instant;

use wasmtime::error::Context;

use super::echo::{COMPONENT, Client, Shot, serve};
use super::{Goal, Reference, Row, Samples, micros, timed};
use crate::config::DataDir;
use crate::config::file::Config;
use crate::frames::FrameRange;
use crate::plugin::component::Components;
use crate::plugin::{Job, Plugin};
use crate::releases::{Release, Releases};

const ROUNDS: usize = 101;
const BATCH: u32 = 1_000;

pub(super) async fn run(data: &DataDir) -> wasmtime::Result<Vec<Row>> {
    let components = Components::new()?;
    let [here, there] = instance(&components, data).await?;
    Ok(vec![call(&components).await?, here, there, load(&components, data).await?])
}

fn shot(frame: u32) -> Shot {
    Shot { name: "frame-1".to_owned(), frame: frame.cast_signed(), weight: 0.5 }
}

/// Calls into a live instance and back, in microseconds.
pub(super) async fn component(components: &Components) -> wasmtime::Result<Samples> {
    let pre = components.prepare_bare(COMPONENT.as_bytes())?;
    let mut store = components.bare_store();
    let instance = pre.instantiate_async(&mut store).await?;
    let echo = instance.get_typed_func::<(Shot,), (Shot,)>(&mut store, "echo")?;
    let mut ours = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        for frame in 0..BATCH {
            let (answer,) = echo.call_async(&mut store, (shot(frame),)).await?;
            wasmtime::ensure!(answer.frame == frame.cast_signed() + 1, "the component answers wrongly");
        }
        ours.push(micros(began.elapsed(), BATCH));
    }
    Ok(Samples::new(ours))
}

/// A call into a live instance and back, against the same over a socket.
async fn call(components: &Components) -> wasmtime::Result<Row> {
    let ours = component(components).await?;
    let (near, far) = UnixStream::pair()?;
    let server = std::thread::spawn(move || serve(far));
    let mut client = Client::new(near);
    let mut theirs = Vec::new();
    for _ in 0..ROUNDS {
        let (answers, took) = timed(|| (0..BATCH / 10).try_for_each(|n| client.call(&shot(n)).map(drop)));
        answers?;
        theirs.push(micros(took, BATCH / 10));
    }
    drop(client);
    server.join().ok().context("the server panicked")??;
    let reference = Reference::new("JSON line over a Unix socket", &Samples::new(theirs));
    Ok(Row::new("call, record to record", "µs", &ours, reference, Goal::MedianAtMost(0.5)))
}

/// A store, an instance of `direct`, a call of its `plan` and its end, against a
/// process's start and end; and the same on the threads of guests, where every attempt makes it.
async fn instance(components: &Components, data: &DataDir) -> wasmtime::Result<[Row; 2]> {
    let release = Release::shipped().into_iter().next().context("a renderer is shipped")?;
    let loaded = Releases::new(components.clone(), data.clone(), &Config::default()).load(release).await?;
    let Plugin::Component(direct) = &loaded.plugin else { wasmtime::bail!("direct is a component") };
    let frames = vec![FrameRange { first: 1, last: 1, step: 1 }];
    let [id, scene, settings] = ["bench", "scene", "{}"].map(str::to_owned);
    let job = Job { id, scene, frames, settings };
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS * 20 {
        let began = Instant::now();
        // Past its first page the plan needs no scene, and so no attempt.
        let page = direct.plan_here(&job).await?;
        here.push(micros(began.elapsed(), 1));
        wasmtime::ensure!(page.tasks.len() == 1, "direct plans wrongly");
    }
    for _ in 0..ROUNDS * 20 {
        let began = Instant::now();
        direct.plan(None, &job, Some("0")).await?;
        there.push(micros(began.elapsed(), 1));
    }
    let mut theirs = Vec::new();
    for _ in 0..ROUNDS {
        #[expect(clippy::disallowed_methods, reason = "the cost of a process is the reference")]
        let (status, took) = timed(|| std::process::Command::new("true").status());
        wasmtime::ensure!(status?.success(), "`true` failed");
        theirs.push(micros(took, 1));
    }
    let theirs = Samples::new(theirs);
    let row = |name: &str, ours, goal| {
        let reference = Reference::new("a process that does nothing", &theirs);
        Row::new(name, "µs", &Samples::new(ours), reference, goal)
    };
    Ok([
        row("direct: store, instance, first call, end", here, Goal::MedianAtMost(50.0)),
        row("the same, on a thread of guests and back", there, Goal::Any),
    ])
}

/// Loading `direct` from its compiled form, against compiling it.
async fn load(components: &Components, data: &DataDir) -> wasmtime::Result<Row> {
    let release = Release::shipped().into_iter().next().context("a renderer is shipped")?;
    let releases = Releases::new(components.clone(), data.clone(), &Config::default());
    let compiled = releases.compiled(&release).await?;
    let mut ours = Vec::new();
    for _ in 0..ROUNDS {
        // SAFETY: `compiled` wrote the file, into a folder that is private to this user.
        let (loaded, took) = timed(|| unsafe { components.load(&compiled, "direct") });
        loaded?;
        ours.push(took.as_secs_f64() * 1e3);
    }
    let mut theirs = Vec::new();
    for _ in 0..5 {
        let (code, took) = timed(|| components.compile(release.bytes().unwrap_or_default()));
        code?;
        theirs.push(took.as_secs_f64() * 1e3);
    }
    let reference = Reference::new("compiling it", &Samples::new(theirs));
    Ok(Row::new(
        "load direct, compiled before",
        "ms",
        &Samples::new(ours),
        reference,
        Goal::MedianAtMost(1.0),
    ))
}
