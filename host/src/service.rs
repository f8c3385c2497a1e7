//! Every operation a client can ask for, once.
//!
//! Checks a request whole before anything is rendered. Knows nothing of how it
//! came in, nor of terminals.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::blender::header::{self, HeaderError};
use crate::blender::pool::Pool;
use crate::capability::JobContext;
use crate::capability::gpu::Devices;
use crate::capability::output::Output;
use crate::capability::state::State;
use crate::events::Events;
use crate::frames::Frames;
use crate::jobs::{JobSpec, Jobs, Summary};
use crate::plugin::settings::SettingsError;
use crate::releases::{Loaded, Release, ReleaseError, Releases};

/// What a client wants rendered.
#[derive(Debug, Clone)]
pub struct RenderRequest {
    /// The scene file.
    pub scene: PathBuf,
    /// The frames.
    pub frames: Frames,
    /// The renderer: a name, or the path of a component.
    pub renderer: String,
    /// Its settings, as `name=value`.
    pub settings: Vec<String>,
    /// Where the files go; beside the scene if absent.
    pub out: Option<PathBuf>,
    /// Whether existing files are kept.
    pub skip_existing: bool,
    /// Whether missing files fail the job.
    pub strict: bool,
    /// Whether to render on the CPU whatever the scene says.
    pub cpu: bool,
}

/// A request that was found to be sound.
#[derive(Debug)]
pub struct Checked {
    request: RenderRequest,
    pin: Arc<Loaded>,
    settings: String,
    output: Output,
}

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
}

/// The operations of a host.
#[derive(Debug)]
pub struct Service {
    /// What happens in the host.
    pub events: Events,
    pool: Pool,
    jobs: Jobs,
    devices: Devices,
    spool: PathBuf,
}

/// Checks a request: everything that can be known without Blender.
pub async fn check(releases: &Releases, request: RenderRequest) -> Result<Checked, RequestError> {
    let scene = check_scene(&request.scene)?;
    let request = RenderRequest { scene, ..request };
    let release: Release = Releases::find(&request.renderer)?;
    let pin = releases.load(release).await?;
    let settings = serde_json::Value::Object(pin.schema.read(&request.settings)?).to_string();
    let folder = request.out.clone().unwrap_or_else(|| beside(&request.scene));
    let output = Output::open(&folder, request.skip_existing);
    let output = output.map_err(|source| RequestError::Output { path: folder, source })?;
    Ok(Checked { request, pin, settings, output })
}

impl Service {
    /// Makes the service of a host whose parts run already.
    pub fn new(events: Events, pool: Pool, jobs: Jobs, spool: PathBuf) -> Self {
        Self { events, pool, jobs, devices: Devices::of_this_machine(), spool }
    }

    /// Queues a job and returns its id.
    pub async fn submit(&self, checked: Checked) -> String {
        let Checked { request, pin, settings, output } = checked;
        let id = Uuid::now_v7().to_string();
        let context = Arc::new(JobContext {
            id: id.clone(),
            scene: request.scene,
            output,
            spool: self.spool.join(&id),
            pool: self.pool.clone(),
            devices: self.devices.clone(),
            state: State::default(),
            cpu: request.cpu,
        });
        let (frames, strict) = (request.frames, request.strict);
        self.jobs.submit(JobSpec { pin, context, frames, settings, strict }).await;
        id
    }

    /// Cancels a job.
    pub async fn cancel(&self, id: &str) {
        self.jobs.cancel(id).await;
    }

    /// Returns how a job stands.
    pub async fn summary(&self, id: &str) -> Option<Summary> {
        self.jobs.summary(id).await
    }
}

fn check_scene(path: &Path) -> Result<PathBuf, RequestError> {
    let refused = |what: String, hint| RequestError::Scene { path: path.to_owned(), what, hint };
    match header::version(path) {
        Ok(_) => {}
        Err(HeaderError::NotBlend) => {
            return Err(refused("this is not a .blend file".to_owned(), "give a scene saved by Blender"));
        }
        Err(HeaderError::Io(error)) => {
            return Err(refused(
                format!("cannot read the scene: {error}"),
                "check the path and its permissions",
            ));
        }
    }
    let path = path
        .canonicalize()
        .map_err(|error| refused(error.to_string(), "check the path and its permissions"))?;
    match path.to_str() {
        Some(_) => Ok(path),
        None => Err(refused("the path is not UTF-8".to_owned(), "rename the file or a folder above it")),
    }
}

/// The folder for a scene's frames when none is given.
fn beside(scene: &Path) -> PathBuf {
    let stem = scene.file_stem().unwrap_or_default().to_string_lossy();
    scene.with_file_name(format!("{stem}-frames"))
}
