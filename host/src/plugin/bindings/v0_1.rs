//! World `hotshoe:plugin/renderer-plugin@0.1.0`.

use std::time::Duration;

use semver::Version;
use wasmtime::component::{HasSelf, Linker, Resource};

use crate::capability::blender::{Render, Scene};
use crate::capability::gpu::Lease;
use crate::capability::image::Image;
use crate::capability::{self, Directive};
use crate::plugin::component::Data;
use crate::plugin::handles::Handles;
use crate::terms::Capability;

mod values;

#[expect(missing_docs, reason = "the contract documents what is generated from it")]
mod generated {
    wasmtime::component::bindgen!({
        path: "../wit/v0.1",
        world: "renderer-plugin",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "hotshoe:plugin/blender.scene": crate::capability::blender::Scene,
            "hotshoe:plugin/blender.render": crate::capability::blender::Render,
            "hotshoe:plugin/image.image": crate::capability::image::Image,
            "hotshoe:plugin/gpu.lease": crate::capability::gpu::Lease,
        },
    });
}

pub use exports::hotshoe::plugin::renderer;
pub use generated::hotshoe::plugin::{blender, gpu, host, image, state, types};
pub use generated::{RendererPlugin, RendererPluginPre, exports};

/// The version of the contract.
pub const API: Version = Version::new(0, 1, 0);

/// Whether what is built for a version of the contract may be run: of the same minor.
pub fn is_near(api: &Version) -> bool {
    (api.major, api.minor) == (API.major, API.minor)
}

/// The outer error ends the instance, the inner one is the capability's answer.
type Answer<T> = wasmtime::Result<Result<T, types::Error>>;

/// Lets components of this world call the capabilities.
pub fn add_to_linker(linker: &mut Linker<Data>) -> wasmtime::Result<()> {
    RendererPlugin::add_to_linker::<_, HasSelf<Handles>>(linker, |data| &mut data.handles)
}

/// Returns early with the contract's error.
macro_rules! attempt {
    ($handles:expr, $name:literal, $capability:ident) => {{
        $handles.called($name)?;
        attempt!($handles, $capability)
    }};
    ($handles:expr, $capability:ident) => {
        match $handles.attempt(Capability::$capability) {
            Ok(attempt) => attempt,
            Err(error) => return Ok(Err(error.into())),
        }
    };
}

fn answer<T, U: From<T>>(result: capability::Result<T>) -> Answer<U> {
    Ok(result.map(U::from).map_err(types::Error::from))
}

impl blender::Host for Handles {
    async fn open(&mut self, scene: String, lease: Option<Resource<Lease>>) -> Answer<Resource<Scene>> {
        let attempt = attempt!(self, "blender.open", Blender);
        if let Some(lease) = lease {
            // Every lease of this version is of the CPU, where scenes are rendered anyway.
            self.table.get(&lease)?;
        }
        let scene = capability::blender::open(&attempt, &scene).await;
        answer(self.keep(scene))
    }
}

impl blender::HostScene for Handles {
    async fn inspect(&mut self, scene: Resource<Scene>) -> Answer<types::SceneInfo> {
        attempt!(self, "scene.inspect", Blender);
        let scene = self.table.get(&scene)?.clone();
        answer(scene.inspect().await)
    }

    async fn set(&mut self, scene: Resource<Scene>, path: String, value: String) -> Answer<()> {
        attempt!(self, "scene.set", Blender);
        let scene = self.table.get(&scene)?.clone();
        answer(scene.set(path, &value).await)
    }

    async fn write(
        &mut self,
        scene: Resource<Scene>,
        frame: i32,
        name: Option<String>,
    ) -> Answer<Vec<types::File>> {
        attempt!(self, "scene.write", Blender);
        let scene = self.table.get(&scene)?.clone();
        let files = scene.write(frame, name.as_deref()).await;
        answer(files.map(values::listed))
    }

    async fn start(&mut self, scene: Resource<Scene>, shot: types::Shot) -> Answer<Resource<Render>> {
        attempt!(self, "scene.start", Blender);
        let render = self.table.get(&scene)?.start(shot.into());
        answer(self.keep(render))
    }

    async fn develop(
        &mut self,
        scene: Resource<Scene>,
        image: Resource<Image>,
        frame: i32,
        name: Option<String>,
    ) -> Answer<types::File> {
        attempt!(self, "scene.develop", Blender);
        let (scene, image) = (self.table.get(&scene)?.clone(), self.table.get(&image)?.clone());
        answer(scene.develop(&image, frame, name.as_deref()).await)
    }

    async fn encode(
        &mut self,
        scene: Resource<Scene>,
        frames: types::FrameRange,
        pictures: Option<String>,
        name: Option<String>,
    ) -> Answer<Vec<types::File>> {
        attempt!(self, "scene.encode", Blender);
        let scene = self.table.get(&scene)?.clone();
        let files = scene.encode(frames.into(), pictures.as_deref(), name.as_deref()).await;
        answer(files.map(values::listed))
    }

    async fn drop(&mut self, scene: Resource<Scene>) -> wasmtime::Result<()> {
        self.drop_handle("scene.drop", scene)
    }
}

impl blender::HostRender for Handles {
    async fn result(&mut self, render: Resource<Render>) -> Answer<Resource<Image>> {
        attempt!(self, "render.result", Blender);
        // What it gives is an image.
        attempt!(self, Image);
        let image = match self.table.get_mut(&render)?.take() {
            Ok(waiting) => waiting.image().await,
            Err(error) => Err(error),
        };
        answer(self.keep(image))
    }

    async fn drop(&mut self, render: Resource<Render>) -> wasmtime::Result<()> {
        self.drop_handle("render.drop", render)
    }
}

impl image::Host for Handles {}

impl image::HostImage for Handles {
    async fn create(&mut self, width: u32, height: u32) -> Answer<Resource<Image>> {
        let attempt = attempt!(self, "image.create", Image);
        answer(self.keep(Image::create(&attempt, width, height)))
    }

    async fn load(&mut self, key: String) -> Answer<Resource<Image>> {
        let attempt = attempt!(self, "image.load", Image);
        let image = tokio::task::spawn_blocking(move || Image::load(&key, &attempt)).await?;
        answer(self.keep(image))
    }

    async fn merge(&mut self, parts: Vec<Resource<Image>>) -> Answer<Resource<Image>> {
        let attempt = attempt!(self, "image.merge", Image);
        let parts = parts.iter().map(|part| Ok(self.table.get(part)?.clone()));
        let parts = parts.collect::<wasmtime::Result<Vec<Image>>>()?;
        let image = tokio::task::spawn_blocking(move || Image::merge(&parts, &attempt)).await?;
        answer(self.keep(image))
    }

    async fn crop(&mut self, image: Resource<Image>, region: types::Region) -> Answer<Resource<Image>> {
        let attempt = attempt!(self, "image.crop", Image);
        let image = self.table.get(&image)?.clone();
        let image = tokio::task::spawn_blocking(move || image.crop(region.into(), &attempt)).await?;
        answer(self.keep(image))
    }

    async fn place(&mut self, image: Resource<Image>, part: Resource<Image>, x: u32, y: u32) -> Answer<()> {
        attempt!(self, "image.place", Image);
        let (image, part) = (self.table.get(&image)?.clone(), self.table.get(&part)?.clone());
        answer(tokio::task::spawn_blocking(move || image.place(&part, x, y)).await?)
    }

    async fn size(&mut self, image: Resource<Image>) -> wasmtime::Result<(u32, u32)> {
        self.called("image.size")?;
        Ok(self.table.get(&image)?.size())
    }

    async fn samples(&mut self, image: Resource<Image>) -> wasmtime::Result<u32> {
        self.called("image.samples")?;
        Ok(self.table.get(&image)?.samples())
    }

    async fn read(&mut self, image: Resource<Image>, region: types::Region) -> Answer<Vec<f32>> {
        let attempt = attempt!(self, "image.read", Image);
        let pixels = self.table.get(&image)?.read(region.into());
        answer(pixels.and_then(|pixels| Ok(attempt.used.moves(pixels.len()).map(|()| pixels)?)))
    }

    async fn write(&mut self, image: Resource<Image>, region: types::Region, pixels: Vec<f32>) -> Answer<()> {
        let attempt = attempt!(self, "image.write", Image);
        let image = self.table.get(&image)?;
        answer(image.write(region.into(), &pixels).and_then(|()| Ok(attempt.used.moves(pixels.len())?)))
    }

    async fn save(&mut self, image: Resource<Image>, key: String) -> Answer<()> {
        let attempt = attempt!(self, "image.save", Image);
        let image = self.table.get(&image)?.clone();
        answer(tokio::task::spawn_blocking(move || image.save(&key, &attempt)).await?)
    }

    async fn drop(&mut self, image: Resource<Image>) -> wasmtime::Result<()> {
        self.drop_handle("image.drop", image)
    }
}

impl gpu::Host for Handles {
    async fn devices(&mut self) -> wasmtime::Result<Vec<types::Device>> {
        self.called("gpu.devices")?;
        let Ok(attempt) = self.attempt(Capability::Gpu) else { return Ok(Vec::new()) };
        Ok(attempt.job.devices.list().into_iter().map(types::Device::from).collect())
    }

    async fn acquire(&mut self, request: gpu::Request) -> Answer<Resource<Lease>> {
        let attempt = attempt!(self, "gpu.acquire", Gpu);
        // That it waits for its turn is no fault of its own.
        let _working = attempt.used.working();
        let lease = attempt.job.devices.acquire(request.into(), &attempt).await;
        answer(self.keep(lease))
    }
}

impl gpu::HostLease for Handles {
    async fn devices(&mut self, lease: Resource<Lease>) -> wasmtime::Result<Vec<types::Device>> {
        self.called("lease.devices")?;
        if self.attempt(Capability::Gpu).is_err() {
            return Ok(Vec::new());
        }
        let devices = &self.table.get(&lease)?.devices;
        Ok(devices.iter().cloned().map(types::Device::from).collect())
    }

    async fn memory(&mut self, lease: Resource<Lease>) -> wasmtime::Result<u64> {
        self.called("lease.memory")?;
        Ok(self.table.get(&lease)?.memory)
    }

    async fn drop(&mut self, lease: Resource<Lease>) -> wasmtime::Result<()> {
        self.drop_handle("lease.drop", lease)
    }
}

impl host::Host for Handles {
    async fn log(&mut self, level: host::Level, message: String) -> wasmtime::Result<()> {
        let level = match level {
            host::Level::Debug => "debug",
            host::Level::Info => "info",
            host::Level::Warn => "warn",
            host::Level::Error => "error",
        };
        self.called("host.log")?;
        if let Ok(attempt) = self.attempt(Capability::Host) {
            attempt.log(level, message).await?;
        }
        Ok(())
    }

    async fn progress(&mut self, fraction: f32, message: String) -> wasmtime::Result<()> {
        self.called("host.progress")?;
        if let Ok(attempt) = self.attempt(Capability::Host) {
            attempt.progress(fraction, message).await;
        }
        Ok(())
    }

    async fn turn(&mut self) -> wasmtime::Result<types::Directive> {
        self.called("host.turn")?;
        Ok(self.attempt(Capability::Host).map_or(Directive::Proceed, |attempt| attempt.turn()).into())
    }

    async fn wait_any(
        &mut self,
        renders: Vec<Resource<Render>>,
        timeout_ms: Option<u32>,
    ) -> wasmtime::Result<host::Wake> {
        self.called("host.wait_any")?;
        let Ok(attempt) = self.attempt(Capability::Host) else { return Ok(host::Wake::Timeout) };
        let renders = renders.iter().map(|render| Ok(self.table.get(render)?.finished()));
        let renders = renders.collect::<wasmtime::Result<Vec<_>>>()?;
        let timeout = async {
            match timeout_ms {
                Some(ms) => tokio::time::sleep(Duration::from_millis(ms.into())).await,
                None => std::future::pending().await,
            }
        };
        Ok(tokio::select! {
            biased;
            directive = attempt.wanted() => host::Wake::Turn(directive.into()),
            index = capability::blender::any_finished(renders) => host::Wake::Finished(index as u32),
            () = timeout => host::Wake::Timeout,
        })
    }
}

impl state::Host for Handles {
    async fn get(&mut self, key: String) -> Answer<Option<Vec<u8>>> {
        let attempt = attempt!(self, "state.get", State);
        answer(attempt.state().get(key).await)
    }

    async fn set(&mut self, key: String, value: Vec<u8>) -> Answer<()> {
        let attempt = attempt!(self, "state.set", State);
        answer(attempt.state().set(key, value).await)
    }

    async fn delete(&mut self, key: String) -> Answer<()> {
        let attempt = attempt!(self, "state.delete", State);
        answer(attempt.state().delete(key).await)
    }
}

impl types::Host for Handles {}
