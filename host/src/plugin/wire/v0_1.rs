//! The package `hotshoe:plugin@0.1.0` as messages.
//!
//! Made from the contract by `cargo run -p codegen`, not by hand.
#![expect(clippy::too_many_lines, reason = "one arm a function of the contract")]

use serde_json::Value;

use super::{Arguments, Held, Refusal, cases, record, resource, variant};
use crate::plugin::bindings::v0_1::{blender, gpu, host, image, renderer, state, types};

resource!(blender::Scene, "scene");
resource!(blender::Render, "render");
record!(gpu::Request { kind, count, memory, timeout_ms });
resource!(gpu::Lease, "lease");
cases!(host::Level { Debug = "debug", Info = "info", Warn = "warn", Error = "error" });
variant!(host::Wake { with: { Finished = "finished", Turn = "turn" }, without: { Timeout = "timeout" } });
resource!(image::Image, "image");
record!(renderer::Description { summary, settings_schema });
record!(renderer::Job { id, scene, frames, settings });
record!(renderer::PlannedTask { name, frame, after, payload });
record!(renderer::Page { tasks, next });
record!(renderer::Task { job, name, frame, payload, attempt });
cases!(renderer::Outcome { Done = "done", Yielded = "yielded" });
cases!(types::ErrorCode { InvalidArgument = "invalid_argument", NotFound = "not_found", Denied = "denied", Unsupported = "unsupported", Canceled = "canceled", Limit = "limit", Blender = "blender", Host = "host" });
record!(types::Error { code, message });
record!(types::FrameRange { first, last, step });
record!(types::Region { x, y, width, height });
record!(types::SampleRange { offset, count, total });
record!(types::Shot { frame, region, samples });
record!(types::SceneInfo {
    blender_version,
    engine,
    frame_start,
    frame_end,
    frame_step,
    fps,
    width,
    height,
    samples,
    camera,
    cameras,
    view_layers,
    views,
    file_format,
    is_movie,
    post_processing,
    missing_files,
    blocked_scripts,
    unbaked_simulations
});
record!(types::File { name, size, kept });
cases!(types::DeviceKind { Cpu = "cpu", Cuda = "cuda", Optix = "optix", Hip = "hip", Oneapi = "oneapi", Metal = "metal" });
record!(types::Device { id, name, kind, memory, units });
cases!(types::Directive { Proceed = "proceed", Yield = "yield", Cancel = "cancel" });

/// Carries out a call of a capability.
pub async fn call(held: &mut Held, method: &str, mut arguments: Arguments) -> Result<Value, Refusal> {
    match method {
        "blender.open" => {
            let scene = held.take(&mut arguments, "scene")?;
            let lease = held.take(&mut arguments, "lease")?;
            arguments.end()?;
            let done = blender::Host::open(&mut held.handles, scene, lease).await;
            held.answered(done)
        }
        "scene.inspect" => {
            let scene = held.take(&mut arguments, "scene")?;
            arguments.end()?;
            let done = blender::HostScene::inspect(&mut held.handles, scene).await;
            held.answered(done)
        }
        "scene.set" => {
            let scene = held.take(&mut arguments, "scene")?;
            let path = held.take(&mut arguments, "path")?;
            let value = held.take(&mut arguments, "value")?;
            arguments.end()?;
            let done = blender::HostScene::set(&mut held.handles, scene, path, value).await;
            held.answered(done)
        }
        "scene.write" => {
            let scene = held.take(&mut arguments, "scene")?;
            let frame = held.take(&mut arguments, "frame")?;
            let name = held.take(&mut arguments, "name")?;
            arguments.end()?;
            let done = blender::HostScene::write(&mut held.handles, scene, frame, name).await;
            held.answered(done)
        }
        "scene.start" => {
            let scene = held.take(&mut arguments, "scene")?;
            let shot = held.take(&mut arguments, "shot")?;
            arguments.end()?;
            let done = blender::HostScene::start(&mut held.handles, scene, shot).await;
            held.answered(done)
        }
        "scene.develop" => {
            let scene = held.take(&mut arguments, "scene")?;
            let image = held.take(&mut arguments, "image")?;
            let frame = held.take(&mut arguments, "frame")?;
            let name = held.take(&mut arguments, "name")?;
            arguments.end()?;
            let done = blender::HostScene::develop(&mut held.handles, scene, image, frame, name).await;
            held.answered(done)
        }
        "scene.encode" => {
            let scene = held.take(&mut arguments, "scene")?;
            let frames = held.take(&mut arguments, "frames")?;
            let pictures = held.take(&mut arguments, "pictures")?;
            let name = held.take(&mut arguments, "name")?;
            arguments.end()?;
            let done = blender::HostScene::encode(&mut held.handles, scene, frames, pictures, name).await;
            held.answered(done)
        }
        "render.result" => {
            let render = held.take(&mut arguments, "render")?;
            arguments.end()?;
            let done = blender::HostRender::result(&mut held.handles, render).await;
            held.answered(done)
        }
        "gpu.devices" => {
            arguments.end()?;
            let done = gpu::Host::devices(&mut held.handles).await;
            held.told(done)
        }
        "gpu.acquire" => {
            let request = held.take(&mut arguments, "request")?;
            arguments.end()?;
            let done = gpu::Host::acquire(&mut held.handles, request).await;
            held.answered(done)
        }
        "lease.devices" => {
            let lease = held.take(&mut arguments, "lease")?;
            arguments.end()?;
            let done = gpu::HostLease::devices(&mut held.handles, lease).await;
            held.told(done)
        }
        "lease.memory" => {
            let lease = held.take(&mut arguments, "lease")?;
            arguments.end()?;
            let done = gpu::HostLease::memory(&mut held.handles, lease).await;
            held.told(done)
        }
        "host.log" => {
            let level = held.take(&mut arguments, "level")?;
            let message = held.take(&mut arguments, "message")?;
            arguments.end()?;
            let done = host::Host::log(&mut held.handles, level, message).await;
            held.told(done)
        }
        "host.progress" => {
            let fraction = held.take(&mut arguments, "fraction")?;
            let message = held.take(&mut arguments, "message")?;
            arguments.end()?;
            let done = host::Host::progress(&mut held.handles, fraction, message).await;
            held.told(done)
        }
        "host.turn" => {
            arguments.end()?;
            let done = host::Host::turn(&mut held.handles).await;
            held.told(done)
        }
        "host.wait_any" => {
            let renders = held.take(&mut arguments, "renders")?;
            let timeout_ms = held.take(&mut arguments, "timeout_ms")?;
            arguments.end()?;
            let done = host::Host::wait_any(&mut held.handles, renders, timeout_ms).await;
            held.told(done)
        }
        "image.create" => {
            let width = held.take(&mut arguments, "width")?;
            let height = held.take(&mut arguments, "height")?;
            arguments.end()?;
            let done = image::HostImage::create(&mut held.handles, width, height).await;
            held.answered(done)
        }
        "image.load" => {
            let key = held.take(&mut arguments, "key")?;
            arguments.end()?;
            let done = image::HostImage::load(&mut held.handles, key).await;
            held.answered(done)
        }
        "image.merge" => {
            let parts = held.take(&mut arguments, "parts")?;
            arguments.end()?;
            let done = image::HostImage::merge(&mut held.handles, parts).await;
            held.answered(done)
        }
        "image.size" => {
            let image = held.take(&mut arguments, "image")?;
            arguments.end()?;
            let done = image::HostImage::size(&mut held.handles, image).await;
            held.told(done)
        }
        "image.samples" => {
            let image = held.take(&mut arguments, "image")?;
            arguments.end()?;
            let done = image::HostImage::samples(&mut held.handles, image).await;
            held.told(done)
        }
        "image.crop" => {
            let image = held.take(&mut arguments, "image")?;
            let region = held.take(&mut arguments, "region")?;
            arguments.end()?;
            let done = image::HostImage::crop(&mut held.handles, image, region).await;
            held.answered(done)
        }
        "image.place" => {
            let image = held.take(&mut arguments, "image")?;
            let part = held.take(&mut arguments, "part")?;
            let x = held.take(&mut arguments, "x")?;
            let y = held.take(&mut arguments, "y")?;
            arguments.end()?;
            let done = image::HostImage::place(&mut held.handles, image, part, x, y).await;
            held.answered(done)
        }
        "image.read" => held.image_read(arguments),
        "image.write" => held.image_write(arguments),
        "image.save" => {
            let image = held.take(&mut arguments, "image")?;
            let key = held.take(&mut arguments, "key")?;
            arguments.end()?;
            let done = image::HostImage::save(&mut held.handles, image, key).await;
            held.answered(done)
        }
        "state.get" => {
            let key = held.take(&mut arguments, "key")?;
            arguments.end()?;
            let done = state::Host::get(&mut held.handles, key).await;
            held.answered(done)
        }
        "state.set" => {
            let key = held.take(&mut arguments, "key")?;
            let value = held.take(&mut arguments, "value")?;
            arguments.end()?;
            let done = state::Host::set(&mut held.handles, key, value).await;
            held.answered(done)
        }
        "state.delete" => {
            let key = held.take(&mut arguments, "key")?;
            arguments.end()?;
            let done = state::Host::delete(&mut held.handles, key).await;
            held.answered(done)
        }
        "scene.drop" => {
            let scene = held.give_up(&mut arguments, "scene")?;
            arguments.end()?;
            let done = blender::HostScene::drop(&mut held.handles, scene).await;
            held.told(done)
        }
        "render.drop" => {
            let render = held.give_up(&mut arguments, "render")?;
            arguments.end()?;
            let done = blender::HostRender::drop(&mut held.handles, render).await;
            held.told(done)
        }
        "lease.drop" => {
            let lease = held.give_up(&mut arguments, "lease")?;
            arguments.end()?;
            let done = gpu::HostLease::drop(&mut held.handles, lease).await;
            held.told(done)
        }
        "image.drop" => {
            let image = held.give_up(&mut arguments, "image")?;
            arguments.end()?;
            let done = image::HostImage::drop(&mut held.handles, image).await;
            held.told(done)
        }
        _ => Err(Refusal::NoMethod),
    }
}
