//! `blender`: scenes in workers, whole frames and shots.

mod movie;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::task::JoinHandle;

use super::image::{self, Image};
use super::output::{self, File, Known, Staging};
use super::{
    Attempt, CapabilityError, Code, ERROR_TEXT, Report, Result, SCENE, blocking, harmless, read_json,
};
use crate::blender::pool::Held;
use crate::blender::wire::{self, Region, Samples};
use crate::blender::worker::Worker;
use crate::blender::{BlenderError, references};
use crate::folders;
use crate::terms::{Capability, hexadecimal};

/// How often progress of a worker is told at most.
const PROGRESS: Duration = Duration::from_millis(50);
/// How many properties of a scene may be set.
const SETTINGS: usize = 256;
/// The longest crash report that is kept of what Blender and its crash said, in bytes.
const CRASH_REPORT: usize = 128 * 1024;

/// A scene in a worker that is this attempt's alone.
#[derive(Debug, Clone)]
pub struct Scene {
    attempt: Arc<Attempt>,
    /// Locked in the order in which the plugin asks for things.
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    attempt: Arc<Attempt>,
    held: Option<Held>,
    /// A folder that the next worker may read, beside what all may.
    reads: Option<PathBuf>,
    settings: Vec<(String, Value)>,
    shots: u32,
}

/// What Blender renders in one step.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "as in the contract")]
pub struct Shot {
    pub frame: i32,
    pub region: Option<Region>,
    pub samples: Option<Samples>,
}

/// How the files of a frame came to be there.
enum Done {
    /// They were rendered just now, from this step.
    Now { staging: Option<Staging>, paths: Vec<PathBuf>, step: String },
    /// An earlier attempt, or an earlier job, had rendered them from the same.
    Before(Vec<File>),
    /// They were there, and the person or the scene says that they stay.
    Kept(Vec<File>),
}

/// Opens a scene of the job, waiting for a worker to come free.
pub async fn open(attempt: &Arc<Attempt>, scene: &str) -> Result<Scene> {
    if scene != SCENE {
        let message = format!("the job has no scene '{scene}'");
        return Err(CapabilityError::new(Code::NotFound, message));
    }
    if attempt.has_scene.swap(true, Ordering::Relaxed) {
        let message = "an attempt holds one scene at a time; drop the other one first";
        return Err(CapabilityError::new(Code::Limit, message));
    }
    let inner = Inner { attempt: attempt.clone(), held: None, reads: None, settings: Vec::new(), shots: 0 };
    let scene = Scene { attempt: attempt.clone(), inner: Arc::new(Mutex::new(inner)) };
    scene.or_canceled(async { scene.inner.lock().await.worker().await.map(drop) }).await?;
    Ok(scene)
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.attempt.has_scene.store(false, Ordering::Relaxed);
    }
}

impl Inner {
    /// Names what a frame is rendered from, and where to: equal names, the same files.
    fn step(&self, frame: i32, name: Option<&str>) -> String {
        let job = &self.attempt.job;
        let (content, blender, folder) = (job.content.digest(), job.pool.version(), job.output.folder());
        // What differs from how all is opened by default; records of earlier hosts stay true.
        let (how, addons) = (job.wanted().how, &job.pool.addons().names);
        let more = (how.scene.is_some() || how.trust || !addons.is_empty())
            .then(|| json!([how.scene, how.trust, addons]));
        let from = json!([content, blender, how.cpu, frame, name, self.settings, folder]);
        let from = more.map_or_else(|| from.clone(), |more| json!([from, more]));
        hexadecimal(&Sha256::digest(from.to_string()))
    }

    /// Returns a worker with the scene as it was set; a new one if the last is gone.
    async fn worker(&mut self) -> Result<&Held> {
        let attempt = &self.attempt;
        if self.held.as_ref().is_some_and(|held| !held.is_idle()) {
            self.held = None;
        }
        let held = match self.held.take() {
            Some(held) => held,
            None => {
                let mut wanted = attempt.job.wanted();
                wanted.read.extend(self.reads.clone());
                let opening = attempt.waiting(attempt.job.pool.open(wanted));
                let held = heard(attempt, opening.await).await?;
                for (path, value) in &self.settings {
                    held.set(path, value).await?;
                }
                held
            }
        };
        Ok(self.held.insert(held))
    }
}

impl Scene {
    /// Says what the scene is.
    pub async fn inspect(&self) -> Result<wire::SceneInfo> {
        let inspect = async {
            let info = self.inner.lock().await.worker().await?.inspect().await;
            let mut info = heard(&self.attempt, info).await?;
            blocking(move || {
                references::look(&mut info);
                Ok(info)
            })
            .await
        };
        self.or_canceled(inspect).await
    }

    /// Sets a property until the scene is dropped.
    pub async fn set(&self, path: String, value: &str) -> Result<()> {
        let value = read_json(value, self.attempt.by.limits.json_depth).map_err(|what| {
            CapabilityError::new(Code::InvalidArgument, format!("the value of {path} {what}"))
        })?;
        self.or_canceled(async {
            let mut inner = self.inner.lock().await;
            inner.worker().await?.set(&path, &value).await?;
            inner.settings.retain(|(known, _)| *known != path);
            inner.settings.push((path, value));
            match inner.settings.len() > SETTINGS {
                true => Err(CapabilityError::new(
                    Code::Limit,
                    format!("a scene is set in {SETTINGS} ways at most"),
                )),
                false => Ok(()),
            }
        })
        .await
    }

    /// Lets Blender render a frame and write its files.
    pub async fn write(&self, frame: i32, name: Option<&str>) -> Result<Vec<File>> {
        check(frame, name)?;
        let output = &self.attempt.job.output;
        let write = async {
            let mut inner = self.inner.clone().lock_owned().await;
            let step = inner.step(frame, name);
            let known = output::finished(&step, &self.attempt).await?;
            if let Known::Whole(files) = known {
                return Ok(Done::Before(files));
            }
            let worker = inner.worker().await?;
            let paths = worker.paths(&wire::Paths { frame, name }).await?;
            // What was recorded and is not so any more is nobody's wish to keep.
            let spoiled = matches!(known, Known::Spoiled);
            if output.keeps(worker.opened.overwrite) && !spoiled {
                let (output, paths) = (output.clone(), paths.clone());
                if let Some(files) = blocking(move || Ok(output.existing(&paths))).await? {
                    return Ok(Done::Kept(files));
                }
            }
            let (directory, maker) = (empty_folder(worker)?, &self.attempt.by.name);
            let request = wire::Write { frame, name, directory: &directory, maker };
            let written = self.watched(worker, worker.write(&request), Attempt::rendering).await?;
            let staging = self.take(inner, directory, &paths, written.unread).await?;
            Ok(Done::Now { staging, paths, step })
        };
        self.finish(self.or_canceled(write).await?).await
    }

    /// Gives files to the attempt, however they came to be there.
    async fn finish(&self, done: Done) -> Result<Vec<File>> {
        match done {
            Done::Now { staging, paths, step } => self.publish(staging, paths, step).await,
            Done::Before(files) => {
                self.attempt.has_kept.store(true, Ordering::Relaxed);
                output::own(&files, &self.attempt).await?;
                Ok(files)
            }
            Done::Kept(files) => {
                self.attempt.has_kept.store(true, Ordering::Relaxed);
                output::keep(&files, &self.attempt).await?;
                Ok(files)
            }
        }
    }

    /// Starts to render a shot; the image comes through [`Waiting::image`].
    pub fn start(&self, shot: Shot) -> Result<Render> {
        check(shot.frame, None)?;
        let under_way = self.attempt.used.shoots()?;
        let scene = self.clone();
        let (done, finished) = watch::channel(false);
        // Its place in the line is taken now: what the plugin sets from here on comes after it.
        let mut turn = Box::pin(self.inner.clone().lock_owned());
        let at_once = (&mut turn).now_or_never();
        let task = tokio::spawn(async move {
            let shoot = async {
                let inner = match at_once {
                    Some(inner) => inner,
                    None => turn.await,
                };
                scene.shoot(inner, shot).await
            };
            let image = scene.or_canceled(shoot).await;
            drop(under_way);
            done.send_replace(true);
            image
        });
        Ok(Render { task: Some(task), finished })
    }

    async fn shoot(&self, mut inner: OwnedMutexGuard<Inner>, shot: Shot) -> Result<Image> {
        inner.shots += 1;
        let number = inner.shots;
        let worker = inner.worker().await?;
        let file = worker.home().join(format!("shot-{number}.exr"));
        let Shot { frame, region, samples } = shot;
        let shot = wire::Shot { frame, region, samples, file: &file };
        self.watched(worker, worker.shot(&shot), Attempt::rendering).await?;
        let (count, attempt) = (samples.map_or(0, |s| s.count), self.attempt.clone());
        blocking(move || {
            // Nobody else gets the worker before its file is gone.
            let _inner = inner;
            let opened = folders::open(&file).map_err(in_its_folder("read a rendered image"));
            let image = opened.and_then(|opened| Image::read_exr(opened, count, &attempt));
            let _ = std::fs::remove_file(file);
            image
        })
        .await
    }

    /// Turns a picture into a file as the scene would write it.
    pub async fn develop(&self, image: &Image, frame: i32, name: Option<&str>) -> Result<File> {
        check(frame, name)?;
        let develop = async {
            let mut inner = self.inner.clone().lock_owned().await;
            let worker = inner.worker().await?;
            let source = worker.home().join("develop.exr");
            let (pixels, file) = (image.clone(), source.clone());
            let maker = self.attempt.by.name.clone();
            blocking(move || {
                let file = folders::create(&file).map_err(in_its_folder("write an image for Blender"))?;
                pixels.write_exr(&file, Some(&maker))
            })
            .await?;
            let directory = empty_folder(worker)?;
            let request = wire::Develop { image: &source, frame, name, directory: &directory };
            let file = heard(&self.attempt, worker.develop(&request).await).await?;
            let expected = vec![file];
            let staging = self.take(inner, directory, &expected, Vec::new()).await?;
            Ok((staging, expected))
        };
        let (staging, expected) = self.or_canceled(develop).await?;
        let step = format!("develop {}", uuid::Uuid::now_v7());
        let files = self.publish(staging, expected, step).await?;
        files.into_iter().next().ok_or_else(|| CapabilityError::new(Code::Blender, "Blender wrote no file"))
    }

    /// Takes over what a worker has left; nobody else gets the worker before that is done.
    async fn take(
        &self,
        inner: OwnedMutexGuard<Inner>,
        from: PathBuf,
        expected: &[PathBuf],
        unread: Vec<wire::Below>,
    ) -> Result<Option<Staging>> {
        if expected.is_empty() && folders::is_empty(&from) {
            return Ok(None);
        }
        let attempt = self.attempt.clone();
        let taken = blocking(move || {
            let _inner = inner;
            let staging = attempt.job.output.stage()?;
            let mut admit = |name: &Path, size| {
                let admitted = output::check_written(name).and_then(|()| Ok(attempt.used.leaves(size)?));
                admitted.map_err(std::io::Error::other)
            };
            folders::take(&from, staging.folder(), &mut admit).map_err(|error| {
                error.downcast().unwrap_or_else(in_its_folder("take over what was rendered"))
            })?;
            let unread: BTreeSet<PathBuf> = unread.into_iter().map(PathBuf::from).collect();
            image::check_all(unread.into_iter().map(|name| staging.folder().join(name)).collect())?;
            Ok(staging)
        });
        taken.await.map(Some)
    }

    /// Puts what was taken over in its place.
    async fn publish(
        &self,
        staging: Option<Staging>,
        expected: Vec<PathBuf>,
        step: String,
    ) -> Result<Vec<File>> {
        let Some(staging) = staging else { return Ok(Vec::new()) };
        let _working = self.attempt.used.working();
        staging.publish(expected, step, &self.attempt).await
    }

    /// Reports how far the worker is while it works.
    async fn watched<T>(
        &self,
        worker: &Worker,
        work: impl Future<Output = Result<T, BlenderError>>,
        tell: fn(&Attempt, u32, wire::Progress),
    ) -> Result<T> {
        let mut signs = worker.signs();
        signs.mark_unchanged();
        tell(&self.attempt, worker.id, wire::Progress::default());
        let mut told = Instant::now();
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return heard(&self.attempt, result).await,
                Ok(()) = signs.changed() => {
                    let now = signs.borrow_and_update().progress;
                    if told.elapsed() >= PROGRESS {
                        told = Instant::now();
                        tell(&self.attempt, worker.id, now);
                    }
                }
            }
        }
    }

    async fn or_canceled<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let _working = self.attempt.used.working();
        let error = tokio::select! {
            biased;
            error = self.attempt.canceled() => error,
            error = self.attempt.by.grants.revoked(Capability::Blender) => error,
            result = work => return result,
        };
        // A worker that was interrupted must be gone before what it writes into is.
        // Whoever else has the lock, or waits for it, is canceled too.
        if let Some(held) = self.inner.lock().await.held.take_if(|held| !held.is_idle()) {
            held.end("its work was canceled").await;
        }
        Err(error)
    }
}

/// Makes the folder for what a worker renders next.
fn empty_folder(worker: &Worker) -> Result<PathBuf> {
    worker.empty_folder().map_err(in_its_folder("make a folder for a render"))
}

/// Makes an error of something in a worker's folder: it is the worker's, unless only the machine
/// can have made it.
fn in_its_folder(doing: &str) -> impl FnOnce(std::io::Error) -> CapabilityError + '_ {
    move |error| {
        let code = if folders::is_of_the_machine(&error) { Code::Host } else { Code::Blender };
        CapabilityError::new(code, format!("cannot {doing}: {error}"))
    }
}

/// Keeps a report of a Blender that crashed or had to be killed; of a crash the scheduler hears.
pub async fn heard<T>(attempt: &Attempt, result: Result<T, BlenderError>) -> Result<T> {
    let (what, text, has_crashed) = match &result {
        Err(BlenderError::Died { status, log, crash: Some(crash) }) => {
            (crash.what(&attempt.job.scene, status), crash.text(log), true)
        }
        Err(BlenderError::Hung { what, log }) => {
            let scene = attempt.job.scene.display();
            let what = format!("Blender was killed while it worked on {scene}: {what}");
            (what, format!("the last lines it printed:{log}"), false)
        }
        _ => return Ok(result?),
    };
    let (what, text) = (harmless(what, ERROR_TEXT), harmless(text, CRASH_REPORT));
    let place = attempt.crashed("blender", what.clone(), Some(text.clone())).await;
    if has_crashed {
        attempt.report(Report::Crashed { report: format!("{what}\n\n{text}\n{place}") }).await;
    }
    let CapabilityError { code, message } = result.err().map(CapabilityError::from).expect("it has died");
    Err(CapabilityError::new(code, format!("{message}\n{place}")))
}

/// A shot on its way. Dropping it cancels it, and ends a worker that renders it.
#[derive(Debug)]
pub struct Render {
    task: Option<JoinHandle<Result<Image>>>,
    finished: watch::Receiver<bool>,
}

impl Render {
    /// Takes the task that waits for the picture; none after the first time.
    pub fn take(&mut self) -> Result<Waiting> {
        let again =
            || CapabilityError::new(Code::InvalidArgument, "the result of this render was taken before");
        self.task.take().map(Waiting).ok_or_else(again)
    }

    /// Follows whether the render is finished, well or not.
    pub fn finished(&self) -> watch::Receiver<bool> {
        self.finished.clone()
    }
}

impl Drop for Render {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// A render whose picture somebody waits for.
#[derive(Debug)]
pub struct Waiting(JoinHandle<Result<Image>>);

impl Waiting {
    /// Waits for the picture.
    pub async fn image(mut self) -> Result<Image> {
        let lost = |_| CapabilityError::new(Code::Host, "the render was lost");
        (&mut self.0).await.map_err(lost)?
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn check(frame: i32, name: Option<&str>) -> Result<()> {
    if !crate::frames::RANGE.contains(&frame) {
        let (first, last) = crate::frames::RANGE.into_inner();
        let message = format!("Blender renders frames {first} to {last}, not {frame}");
        return Err(CapabilityError::new(Code::InvalidArgument, message));
    }
    name.map_or(Ok(()), output::check_name)
}

async fn wait(mut finished: watch::Receiver<bool>) {
    // A sender that is gone was aborted: that, too, is finished.
    let _ = finished.wait_for(|finished| *finished).await;
}

/// Waits until one of the renders is finished, and says which.
pub async fn any_finished(renders: Vec<watch::Receiver<bool>>) -> usize {
    let waits = renders.into_iter().enumerate().map(|(index, finished)| {
        Box::pin(async move {
            wait(finished).await;
            index
        })
    });
    let waits: Vec<_> = waits.collect();
    match waits.is_empty() {
        true => std::future::pending().await,
        false => futures_util::future::select_all(waits).await.0,
    }
}
