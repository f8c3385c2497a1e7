//! The contract's values, as those of the host and back.

use std::time::Duration;

use super::{gpu, renderer, types};
use crate::blender::wire;
use crate::capability::gpu as devices;
use crate::capability::{self, CapabilityError, Code, Directive, output};
use crate::frames::FrameRange;
use crate::plugin::{self, Outcome};

impl From<CapabilityError> for types::Error {
    fn from(error: CapabilityError) -> Self {
        let code = match error.code {
            Code::InvalidArgument => types::ErrorCode::InvalidArgument,
            Code::NotFound => types::ErrorCode::NotFound,
            Code::Denied => types::ErrorCode::Denied,
            Code::Unsupported => types::ErrorCode::Unsupported,
            Code::Canceled => types::ErrorCode::Canceled,
            Code::Limit => types::ErrorCode::Limit,
            Code::Blender => types::ErrorCode::Blender,
            Code::Host => types::ErrorCode::Host,
        };
        Self { code, message: capability::abridged(error.message, capability::ERROR_TEXT) }
    }
}

impl From<types::Error> for CapabilityError {
    fn from(error: types::Error) -> Self {
        let code = match error.code {
            types::ErrorCode::InvalidArgument => Code::InvalidArgument,
            types::ErrorCode::NotFound => Code::NotFound,
            types::ErrorCode::Denied => Code::Denied,
            types::ErrorCode::Unsupported => Code::Unsupported,
            types::ErrorCode::Canceled => Code::Canceled,
            types::ErrorCode::Limit => Code::Limit,
            types::ErrorCode::Blender => Code::Blender,
            types::ErrorCode::Host => Code::Host,
        };
        Self { code, message: capability::abridged(error.message, capability::ERROR_TEXT) }
    }
}

impl From<Directive> for types::Directive {
    fn from(directive: Directive) -> Self {
        match directive {
            Directive::Proceed => Self::Proceed,
            Directive::Yield => Self::Yield,
            Directive::Cancel => Self::Cancel,
        }
    }
}

impl From<types::Region> for wire::Region {
    fn from(types::Region { x, y, width, height }: types::Region) -> Self {
        Self { x, y, width, height }
    }
}

impl From<types::FrameRange> for FrameRange {
    fn from(types::FrameRange { first, last, step }: types::FrameRange) -> Self {
        Self { first, last, step }
    }
}

impl From<types::Shot> for capability::blender::Shot {
    fn from(shot: types::Shot) -> Self {
        let samples = shot.samples.map(|types::SampleRange { offset, count, total }| wire::Samples {
            offset,
            count,
            total,
        });
        Self { frame: shot.frame, region: shot.region.map(Into::into), samples }
    }
}

impl From<wire::SceneInfo> for types::SceneInfo {
    fn from(info: wire::SceneInfo) -> Self {
        let missing_files = info.missing_files.iter().map(|path| path.display().to_string());
        Self {
            blender_version: info.blender_version,
            engine: info.engine,
            frame_start: info.frame_start,
            frame_end: info.frame_end,
            frame_step: info.frame_step,
            fps: info.fps,
            width: info.width,
            height: info.height,
            samples: info.samples,
            camera: info.camera,
            cameras: info.cameras,
            view_layers: info.view_layers,
            views: info.views,
            file_format: info.file_format,
            is_movie: info.is_movie,
            post_processing: info.post_processing,
            missing_files: missing_files.collect(),
            blocked_scripts: info.blocked_scripts,
            unbaked_simulations: info.unbaked_simulations,
        }
    }
}

impl From<output::File> for types::File {
    fn from(file: output::File) -> Self {
        Self { name: file.name, size: file.size, kept: file.kept }
    }
}

/// The files of an answer.
pub(super) fn listed(files: Vec<output::File>) -> Vec<types::File> {
    files.into_iter().map(types::File::from).collect()
}

impl From<devices::Kind> for types::DeviceKind {
    fn from(kind: devices::Kind) -> Self {
        match kind {
            devices::Kind::Cpu => Self::Cpu,
            devices::Kind::Cuda => Self::Cuda,
            devices::Kind::Optix => Self::Optix,
            devices::Kind::Hip => Self::Hip,
            devices::Kind::Oneapi => Self::Oneapi,
            devices::Kind::Metal => Self::Metal,
        }
    }
}

impl From<types::DeviceKind> for devices::Kind {
    fn from(kind: types::DeviceKind) -> Self {
        match kind {
            types::DeviceKind::Cpu => Self::Cpu,
            types::DeviceKind::Cuda => Self::Cuda,
            types::DeviceKind::Optix => Self::Optix,
            types::DeviceKind::Hip => Self::Hip,
            types::DeviceKind::Oneapi => Self::Oneapi,
            types::DeviceKind::Metal => Self::Metal,
        }
    }
}

impl From<devices::Device> for types::Device {
    fn from(devices::Device { id, name, kind, memory, units }: devices::Device) -> Self {
        Self { id, name, kind: kind.into(), memory, units }
    }
}

impl From<gpu::Request> for devices::Request {
    fn from(request: gpu::Request) -> Self {
        let timeout = Duration::from_millis(request.timeout_ms.into());
        let gpu::Request { kind, count, memory, .. } = request;
        Self { kind: kind.map(Into::into), count, memory, timeout }
    }
}

impl From<&plugin::Job> for renderer::Job {
    fn from(job: &plugin::Job) -> Self {
        let frames = job.frames.iter().map(|range| types::FrameRange {
            first: range.first,
            last: range.last,
            step: range.step,
        });
        let (id, scene, settings) = (job.id.clone(), job.scene.clone(), job.settings.clone());
        Self { id, scene, frames: frames.collect(), settings }
    }
}

impl renderer::Task {
    /// Makes the task of one attempt.
    pub fn new(job: &plugin::Job, task: &plugin::PlannedTask, attempt: u32) -> Self {
        let (name, frame, payload) = (task.name.clone(), task.frame, task.payload.clone());
        Self { job: job.into(), name, frame, payload, attempt }
    }
}

impl From<renderer::Page> for plugin::Page {
    fn from(page: renderer::Page) -> Self {
        let tasks = page.tasks.into_iter().map(|renderer::PlannedTask { name, frame, after, payload }| {
            plugin::PlannedTask { name, frame, after, payload }
        });
        Self { tasks: tasks.collect(), next: page.next }
    }
}

impl From<renderer::Outcome> for Outcome {
    fn from(outcome: renderer::Outcome) -> Self {
        match outcome {
            renderer::Outcome::Done => Self::Done,
            renderer::Outcome::Yielded => Self::Yielded,
        }
    }
}
