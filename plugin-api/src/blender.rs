//! Scenes and shots.

use serde::Serialize;

use crate::gpu::Lease;
use crate::sys::hotshoe::plugin::blender as sys;
pub use crate::sys::hotshoe::plugin::types::{SceneInfo, Shot};
use crate::{File, FrameRange, Image, Result};

/// A scene loaded in a Blender that is the plugin's alone until this drops.
#[derive(Debug)]
pub struct Scene(sys::Scene);

impl Scene {
    /// Opens a scene of the job, waiting for a worker to come free.
    ///
    /// Without a lease the host's default device renders.
    pub fn open(scene: &str, lease: Option<&Lease>) -> Result<Self> {
        Ok(Self(sys::open(scene, lease.map(|lease| &lease.0))?))
    }

    /// Says what the scene is, with everything that was set.
    pub fn inspect(&self) -> Result<SceneInfo> {
        Ok(self.0.inspect()?)
    }

    /// Sets a property of the scene until it is dropped; the contract lists
    /// the paths that may be set.
    pub fn set(&self, path: &str, value: impl Serialize) -> Result<()> {
        Ok(self.0.set(path, &serde_json::to_string(&value)?)?)
    }

    /// Lets Blender render a frame and write its files, all by itself.
    pub fn write(&self, frame: i32, name: Option<&str>) -> Result<Vec<File>> {
        Ok(self.0.write(frame, name)?)
    }

    /// Lets Blender make a movie of pictures that [`write`](Self::write) has left under the name
    /// `pictures`; the ending of `name` says what kind of movie.
    pub fn encode(
        &self,
        frames: FrameRange,
        pictures: Option<&str>,
        name: Option<&str>,
    ) -> Result<Vec<File>> {
        Ok(self.0.encode(frames, pictures, name)?)
    }

    /// Starts to render a shot and returns at once.
    pub fn start(&self, shot: Shot) -> Result<Render> {
        Ok(Render(self.0.start(shot)?))
    }

    /// Turns a finished picture into a file with the scene's view transform
    /// and file format.
    pub fn develop(&self, image: &Image, frame: i32, name: Option<&str>) -> Result<File> {
        Ok(self.0.develop(&image.0, frame, name)?)
    }
}

/// A shot on its way; dropping it cancels it.
#[derive(Debug)]
pub struct Render(pub(crate) sys::Render);

impl Render {
    /// Waits for the picture.
    pub fn result(self) -> Result<Image> {
        Ok(Image(self.0.result()?))
    }
}
