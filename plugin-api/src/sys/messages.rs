// The package `hotshoe:plugin@0.1.0` for plugins that are processes.
//
// Made from the contract by `cargo run -p codegen`, not by hand.

pub mod hotshoe {
    pub mod plugin {
        pub mod blender {
            use serde_json::json;

            use crate::process;

            pub use super::gpu::Lease;
            pub use super::image::Image;
            pub use super::types::Error;
            pub use super::types::File;
            pub use super::types::FrameRange;
            pub use super::types::SceneInfo;
            pub use super::types::Shot;
            /// A scene loaded in a worker. Dropping it restores everything that was
            /// `set` and gives the worker back.
            #[derive(Debug)]
            pub struct Scene(process::Handle);

            process::handle!(Scene, "scene");

            impl Scene {
                /// Says what the scene is, with everything that was `set`.
                ///
                /// Fails with `blender` if Blender fails, `canceled`.
                pub fn inspect(&self) -> Result<super::types::SceneInfo, super::types::Error> {
                    process::ask("scene.inspect", json!({"scene": self.0}))
                }

                /// Sets a property of the scene until the scene is dropped.
                ///
                /// `path` is an RNA path below the scene, from this list: `render.*`
                /// (but no paths, no `ffmpeg` and no `bake`), `cycles.*` (but neither
                /// `device` nor `shading_system`),
                /// `eevee.*`, `display.shading.*`, `display.render_aa`,
                /// `view_settings.*`, `frame_step`, or one of the names `camera` (name
                /// of a camera object), `view_layer` (name of the only view layer to
                /// render), `engine` (`CYCLES`, `EEVEE` or `WORKBENCH`, whatever
                /// this Blender calls them), `scene` (name of another scene of the file;
                /// to be set first) and `persistent_data` (`auto`, `on` or `off`: whether
                /// Blender keeps geometry and textures from frame to frame; `auto` does
                /// so where it is proven that no picture changes). `value` is a JSON
                /// number, text, boolean or an array of them.
                ///
                /// Fails with `denied` for a path not on the list, `not-found` if the
                /// scene has no such property, camera or view layer,
                /// `invalid-argument` for a value of another type or out of the
                /// property's range, `unsupported` if the scene then asks for a device
                /// that is not there, `canceled`.
                pub fn set(&self, path: &str, value: &str) -> Result<(), super::types::Error> {
                    process::ask("scene.set", json!({"scene": self.0, "path": path, "value": value}))
                }

                /// Lets Blender render a frame and write its files into the job's
                /// output folder, as `blender -b scene -f FRAME` would: compositor,
                /// sequencer, views and File Output nodes included. The scene's frame
                /// range is that one frame meanwhile.
                ///
                /// `name` is the file name without its ending, `#` standing for digits
                /// of the frame; absent means the name that the scene gives. Files
                /// appear whole or not at all. A scene that writes movies leaves PNG
                /// pictures here, of which `encode` makes them.
                ///
                /// Fails with `blender` if Blender fails, `host` if the folder cannot be
                /// written, `canceled`.
                pub fn write(
                    &self,
                    frame: i32,
                    name: Option<&str>,
                ) -> Result<Vec<super::types::File>, super::types::Error> {
                    process::ask("scene.write", json!({"scene": self.0, "frame": frame, "name": name}))
                }

                /// Starts to render a shot into an image and returns at once. One shot
                /// of a scene renders at a time, others wait in order.
                ///
                /// Without compositor, sequencer and views: what the camera sees. A part
                /// of a frame is not denoised and not sampled adaptively.
                ///
                /// Fails with `invalid-argument` for a frame that Blender does not render;
                /// all else comes from `render.result`.
                pub fn start(&self, shot: super::types::Shot) -> Result<Render, super::types::Error> {
                    process::ask("scene.start", json!({"scene": self.0, "shot": shot}))
                }

                /// Turns a finished picture into a file of the job with the scene's
                /// view transform and file format: one file, also of a scene with several
                /// views. `name` as for `write`.
                ///
                /// Fails like `write`.
                pub fn develop(
                    &self,
                    image: &super::image::Image,
                    frame: i32,
                    name: Option<&str>,
                ) -> Result<super::types::File, super::types::Error> {
                    process::ask(
                        "scene.develop",
                        json!({"scene": self.0, "image": image, "frame": frame, "name": name}),
                    )
                }

                /// Lets Blender make a movie of pictures that the job has written or kept, one
                /// a frame, with the scene's own codec, frame rate and sound; a movie a view if
                /// views have files of their own. The movie appears whole or not at all.
                ///
                /// `pictures` is the name that `write` was given. `name` is that of the movie,
                /// whose ending says what it is: `.mp4`, `.mkv`, `.mov`, `.avi` or `.webm`;
                /// absent means the name and kind that the scene gives.
                ///
                /// Fails with `not-found` for a frame without its picture, `invalid-argument`
                /// for another ending, `unsupported` for pictures that no movie is made of
                /// (OpenEXR files of several layers, Cineon, DPX), `limit` for more than
                /// 100,000 frames, `blender` if Blender fails, `host` if the folder cannot be
                /// written, `canceled`.
                pub fn encode(
                    &self,
                    frames: super::types::FrameRange,
                    pictures: Option<&str>,
                    name: Option<&str>,
                ) -> Result<Vec<super::types::File>, super::types::Error> {
                    process::ask(
                        "scene.encode",
                        json!({"scene": self.0, "frames": frames, "pictures": pictures, "name": name}),
                    )
                }
            }

            /// A shot on its way. Dropping it cancels the shot.
            #[derive(Debug)]
            pub struct Render(process::Handle);

            process::handle!(Render, "render");

            impl Render {
                /// Waits for the picture. May be called once; again is `invalid-argument`.
                ///
                /// Fails with `invalid-argument` for a region outside the picture or a
                /// sample range out of bounds, `unsupported` for samples of an engine
                /// without them or a scene that asks for a device that is not leased,
                /// `blender` if Blender fails, `canceled`.
                pub fn result(&self) -> Result<super::image::Image, super::types::Error> {
                    process::ask("render.result", json!({"render": self.0}))
                }
            }

            /// Opens a scene of the job in a worker that is the plugin's alone until
            /// the scene and its renders are dropped. Waits until a worker is free. An
            /// attempt holds one scene at a time.
            ///
            /// `lease` says on which devices to render. Without one the host's default
            /// device is used, never another one in its place: a scene that asks for a
            /// GPU is not rendered on the CPU, with a lease of the CPU neither, unless
            /// whoever submitted the job said so.
            ///
            /// Fails with `not-found` for a scene that is not the job's, `limit` for a
            /// second scene, `blender` if Blender cannot load it, `unsupported` for a
            /// device that is not there or that this Blender cannot render on,
            /// `canceled`.
            pub fn open(
                scene: &str,
                lease: Option<&super::gpu::Lease>,
            ) -> Result<Scene, super::types::Error> {
                process::ask("blender.open", json!({"scene": scene, "lease": lease}))
            }
        }
        pub mod gpu {
            use serde::{Deserialize, Serialize};

            use serde_json::json;

            use crate::process;

            pub use super::types::Device;
            pub use super::types::DeviceKind;
            pub use super::types::Error;
            /// What an acquirer wants.
            #[derive(Debug, Clone, Copy, Serialize, Deserialize)]
            pub struct Request {
                /// Only devices of this kind; any if absent.
                pub kind: Option<super::types::DeviceKind>,
                /// How many devices, at least 1.
                pub count: u32,
                /// Free memory that each must have, in bytes; 0 for no demand.
                pub memory: u64,
                /// How long to wait for them, in milliseconds; 0 asks only once.
                pub timeout_ms: u32,
            }

            /// The right to use devices. Dropping it gives them back; the end of the
            /// attempt does so too.
            #[derive(Debug)]
            pub struct Lease(process::Handle);

            process::handle!(Lease, "lease");

            impl Lease {
                /// The devices leased.
                pub fn devices(&self) -> Vec<super::types::Device> {
                    process::tell("lease.devices", json!({"lease": self.0}))
                }

                /// Memory granted on each device, in bytes.
                pub fn memory(&self) -> u64 {
                    process::tell("lease.memory", json!({"lease": self.0}))
                }
            }

            /// Lists the devices that this plugin may lease.
            pub fn devices() -> Vec<super::types::Device> {
                process::tell("gpu.devices", json!({}))
            }

            /// Leases devices, waiting in a fair queue if they are in use.
            ///
            /// Fails with `not-found` if the host has no such devices at all, `limit`
            /// if they did not come free in time, `invalid-argument`, `canceled`.
            pub fn acquire(request: Request) -> Result<Lease, super::types::Error> {
                process::ask("gpu.acquire", json!({"request": request}))
            }
        }
        pub mod host {
            use serde::{Deserialize, Serialize};

            use serde_json::json;

            use crate::process;

            pub use super::blender::Render;
            pub use super::types::Directive;
            /// How important a message is.
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(rename_all = "snake_case")]
            pub enum Level {
                /// For the author of the plugin.
                Debug,
                /// For whoever follows a job.
                Info,
                /// Something is odd, the render goes on.
                Warn,
                /// Something failed.
                Error,
            }

            /// Why `wait-any` returned.
            #[derive(Debug, Clone, Copy, Serialize, Deserialize)]
            #[serde(rename_all = "snake_case")]
            pub enum Wake {
                /// The render at this index of the list is finished, well or not.
                Finished(u32),
                /// The host wants something other than to proceed.
                Turn(super::types::Directive),
                /// The time is over.
                Timeout,
            }

            /// Writes a line to the job's log. At most 8 KiB a line; the rest is cut off.
            pub fn log(level: Level, message: &str) {
                process::tell("host.log", json!({"level": level, "message": message}))
            }

            /// Says how far the task is: 0.0 to 1.0 (clamped), with a few words.
            pub fn progress(fraction: f32, message: &str) {
                process::tell("host.progress", json!({"fraction": fraction, "message": message}))
            }

            /// Asks how to go on. Never waits.
            pub fn turn() -> super::types::Directive {
                process::tell("host.turn", json!({}))
            }

            /// Waits until one of the renders is finished, the host wants a turn, or
            /// the time is over; whichever is first. No renders and no time-out waits
            /// for a turn only.
            pub fn wait_any(renders: &[&super::blender::Render], timeout_ms: Option<u32>) -> Wake {
                process::tell("host.wait_any", json!({"renders": renders, "timeout_ms": timeout_ms}))
            }
        }
        pub mod image {
            use serde_json::json;

            use crate::process;

            pub use super::types::Error;
            pub use super::types::Region;
            /// Scene-linear RGBA pixels, 32-bit floats, premultiplied alpha. A handle:
            /// the pixels stay in the host until they are read.
            #[derive(Debug)]
            pub struct Image(process::Handle);

            process::handle!(Image, "image");

            impl Image {
                /// Makes a transparent black image.
                ///
                /// Fails with `limit` for a side of 0 or above 65,536 pixels, or above the
                /// attempt's limit of pixel memory.
                pub fn create(width: u32, height: u32) -> Result<Image, super::types::Error> {
                    process::ask("image.create", json!({"width": width, "height": height}))
                }

                /// Loads the image that this job saved under `key`.
                ///
                /// Fails with `not-found`, `invalid-argument` for a malformed key, `limit`
                /// above the attempt's limit of pixel memory, `host` if it cannot be read.
                pub fn load(key: &str) -> Result<Image, super::types::Error> {
                    process::ask("image.load", json!({"key": key}))
                }

                /// Averages pictures of one size, each weighed by its samples: pictures of
                /// disjoint sample ranges of a frame become the picture of all their samples.
                ///
                /// Fails with `invalid-argument` for no picture at all, for pictures of
                /// several sizes, and for one whose samples are not known, `limit` above the
                /// attempt's limit of pixel memory.
                pub fn merge(parts: &[&Image]) -> Result<Image, super::types::Error> {
                    process::ask("image.merge", json!({"parts": parts}))
                }

                /// Width and height in pixels.
                pub fn size(&self) -> (u32, u32) {
                    process::tell("image.size", json!({"image": self.0}))
                }

                /// How many samples a pixel the image holds; 0 if that is not known. A picture
                /// that others were placed in has the fewest of them.
                pub fn samples(&self) -> u32 {
                    process::tell("image.samples", json!({"image": self.0}))
                }

                /// Copies a region into an image of its own.
                ///
                /// Fails with `invalid-argument` if the region is not within the image,
                /// `limit` above the attempt's limit of pixel memory.
                pub fn crop(&self, region: super::types::Region) -> Result<Image, super::types::Error> {
                    process::ask("image.crop", json!({"image": self.0, "region": region}))
                }

                /// Copies another picture into this one, its lower left corner to `x`, `y`.
                ///
                /// Fails with `invalid-argument` if it is not within this one then, and for
                /// the image itself.
                pub fn place(&self, part: &Image, x: u32, y: u32) -> Result<(), super::types::Error> {
                    process::ask("image.place", json!({"image": self.0, "part": part, "x": x, "y": y}))
                }

                /// Reads the pixels of a region: red, green, blue, alpha of each pixel,
                /// row by row from the lowest up.
                ///
                /// Fails with `invalid-argument` if the region is not within the image,
                /// `limit` above 4,194,304 pixels a call.
                pub fn read(
                    &self,
                    region: super::types::Region,
                ) -> Result<process::Floats, super::types::Error> {
                    process::ask_for_pixels("image.read", json!({"image": self.0, "region": region}))
                }

                /// Overwrites the pixels of a region, laid out as `read` gives them.
                ///
                /// Fails with `invalid-argument` if the region is not within the image
                /// or `pixels` is not four times its area, `limit` above 4,194,304 pixels
                /// a call.
                pub fn write(
                    &self,
                    region: super::types::Region,
                    pixels: &[f32],
                ) -> Result<(), super::types::Error> {
                    process::ask(
                        "image.write",
                        json!({"image": self.0, "region": region, "pixels": process::pixels(pixels)?}),
                    )
                }

                /// Keeps the image under `key` for other attempts of this job, in place
                /// of what was there. A key is 1 to 128 characters of `A-Z a-z 0-9 . _ -`
                /// and does not begin with a dot.
                ///
                /// Fails with `invalid-argument` for a malformed key, `host` if the disk
                /// is full.
                pub fn save(&self, key: &str) -> Result<(), super::types::Error> {
                    process::ask("image.save", json!({"image": self.0, "key": key}))
                }
            }
        }
        pub mod state {
            use serde_json::json;

            use crate::process;

            pub use super::types::Error;
            /// Returns what was set under `key`, if anything was.
            ///
            /// Fails with `invalid-argument` for a malformed key (see `image.save`).
            pub fn get(key: &str) -> Result<Option<Vec<u8>>, super::types::Error> {
                process::ask_for_bytes("state.get", json!({"key": key}))
            }

            /// Keeps `value` under `key`, in place of what was there.
            ///
            /// Fails with `invalid-argument` for a malformed key, `limit` above 1 MiB
            /// a value or 64 MiB a job.
            pub fn set(key: &str, value: &[u8]) -> Result<(), super::types::Error> {
                process::ask("state.set", json!({"key": key, "value": process::text(value)}))
            }

            /// Forgets `key`; a key that was never set is fine.
            ///
            /// Fails with `invalid-argument` for a malformed key.
            pub fn delete(key: &str) -> Result<(), super::types::Error> {
                process::ask("state.delete", json!({"key": key}))
            }
        }
        pub mod types {
            use serde::{Deserialize, Serialize};

            /// What went wrong, for a program.
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(rename_all = "snake_case")]
            pub enum ErrorCode {
                /// An argument is malformed, out of range or contradicts another.
                InvalidArgument,
                /// The named thing (scene, key, camera, view layer, property) does not exist.
                NotFound,
                /// The grant of this release does not cover the call.
                Denied,
                /// This host, Blender or scene cannot do it; the message says what can.
                Unsupported,
                /// The job was canceled while the call was under way.
                Canceled,
                /// A limit was hit; the message names the limit and its value.
                Limit,
                /// Blender failed or crashed.
                Blender,
                /// The host failed: disk full, file not writable, an internal error.
                Host,
            }

            /// What went wrong, for a program and for a person.
            #[derive(Debug, Clone, Serialize, Deserialize)]
            pub struct Error {
                /// The kind of failure.
                pub code: ErrorCode,
                /// One sentence in lower case without a full stop, then lines of what to do
                /// or of detail, at most 4 KiB in all.
                pub message: String,
            }

            /// Frames `first`, `first + step`, ... up to and including `last` if met.
            #[derive(Debug, Clone, Copy, Serialize, Deserialize)]
            pub struct FrameRange {
                /// First frame, 0 to 1,048,574 (what Blender renders as an animation).
                pub first: i32,
                /// Last frame, not less than `first`, same range.
                pub last: i32,
                /// Distance between two frames, at least 1.
                pub step: u32,
            }

            /// A rectangle in pixels. The origin is the lower left corner of the
            /// picture, x grows to the right and y upwards, as in Blender.
            #[derive(Debug, Clone, Copy, Serialize, Deserialize)]
            pub struct Region {
                /// Left edge, in pixels.
                pub x: u32,
                /// Lower edge, in pixels.
                pub y: u32,
                /// Width in pixels, at least 1.
                pub width: u32,
                /// Height in pixels, at least 1.
                pub height: u32,
            }

            /// Some of the samples of a frame. Disjoint ranges of one frame are parts
            /// of one sample sequence: together they give the same picture.
            #[derive(Debug, Clone, Copy, Serialize, Deserialize)]
            pub struct SampleRange {
                /// Number of the first sample, from 0.
                pub offset: u32,
                /// How many samples, at least 1; `offset + count` is at most `total`.
                pub count: u32,
                /// How many samples the whole frame has, 1 to 16,777,216.
                pub total: u32,
            }

            /// What Blender renders in one step.
            #[derive(Debug, Clone, Copy, Serialize, Deserialize)]
            pub struct Shot {
                /// The frame, in Blender's numbering.
                pub frame: i32,
                /// Only this part of the picture; the whole picture if absent.
                pub region: Option<Region>,
                /// Only these samples (Cycles only); all that the scene says if absent.
                pub samples: Option<SampleRange>,
            }

            /// What a scene is, as Blender sees it after loading.
            #[derive(Debug, Clone, Serialize, Deserialize)]
            pub struct SceneInfo {
                /// Version of the Blender that answers, e.g. `4.5.15`.
                pub blender_version: String,
                /// Render engine id in that Blender: `CYCLES`, `BLENDER_EEVEE`, ...
                pub engine: String,
                /// First frame of the scene's own range.
                pub frame_start: i32,
                /// Last frame of the scene's own range.
                pub frame_end: i32,
                /// Frame step of the scene, at least 1.
                pub frame_step: u32,
                /// Frames per second.
                pub fps: f64,
                /// Width in pixels of the rendered picture (resolution times percentage).
                pub width: u32,
                /// Height in pixels of the rendered picture.
                pub height: u32,
                /// Samples a pixel of the engine in use; 0 if it has no such number.
                pub samples: u32,
                /// The active camera, if there is one.
                pub camera: Option<String>,
                /// Names of all cameras of the scene.
                pub cameras: Vec<String>,
                /// Names of all view layers, in the scene's order.
                pub view_layers: Vec<String>,
                /// Names of the views of a multi-view scene; empty for a plain one.
                pub views: Vec<String>,
                /// File format of the scene's output: `PNG`, `OPEN_EXR`, `FFMPEG`, ...
                pub file_format: String,
                /// Whether that format is a movie: `write` leaves PNG pictures then, and `encode`
                /// makes the movie of them.
                pub is_movie: bool,
                /// Whether a compositor or sequencer works on the picture after rendering.
                pub post_processing: bool,
                /// Files the scene wants and that do not exist.
                pub missing_files: Vec<String>,
                /// Scripts and drivers in the scene that Hotshoe keeps from running.
                pub blocked_scripts: Vec<String>,
                /// Simulations of the scene that are not baked, such as `cloth of 'Flag'`. A frame with
                /// such comes out as it does for `blender -a` whatever the order, but rendering the frames
                /// in order, one after another, saves simulating those before it again.
                pub unbaked_simulations: Vec<String>,
            }

            /// A file that a render left in the job's output folder.
            #[derive(Debug, Clone, Serialize, Deserialize)]
            pub struct File {
                /// Its name in that folder, with `/` between folders.
                pub name: String,
                /// Its size in bytes.
                pub size: u64,
                /// True if it was there before and was kept, because the job asks for it.
                pub kept: bool,
            }

            /// What a device is.
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(rename_all = "snake_case")]
            pub enum DeviceKind {
                /// Threads of the host's processors.
                Cpu,
                /// NVIDIA through CUDA.
                Cuda,
                /// NVIDIA through OptiX.
                Optix,
                /// AMD through HIP.
                Hip,
                /// Intel through oneAPI.
                Oneapi,
                /// Apple through Metal.
                Metal,
            }

            /// Something that renders.
            #[derive(Debug, Clone, Serialize, Deserialize)]
            pub struct Device {
                /// Stable id on this host, e.g. `cpu` or a GPU's UUID.
                pub id: String,
                /// The name its maker gave it.
                pub name: String,
                /// What it is.
                pub kind: DeviceKind,
                /// Its memory in bytes; the host's memory for a CPU.
                pub memory: u64,
                /// How many leases of one unit fit: threads of a CPU, 1 for a GPU.
                pub units: u32,
            }

            /// How a plugin should go on with its task.
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(rename_all = "snake_case")]
            pub enum Directive {
                /// Go on.
                Proceed,
                /// Save what is worth saving and return `yielded` soon.
                Yield,
                /// Stop; the result is not wanted any more.
                Cancel,
            }
        }
    }
}

pub mod exports {
    pub mod hotshoe {
        pub mod plugin {
            pub mod renderer {
                use serde::{Deserialize, Serialize};

                pub use crate::sys::hotshoe::plugin::types::Error;
                pub use crate::sys::hotshoe::plugin::types::FrameRange;
                /// What a plugin says of itself.
                #[derive(Debug, Clone, Serialize, Deserialize)]
                pub struct Description {
                    /// One sentence for a list of renderers, at most 200 characters.
                    pub summary: String,
                    /// JSON Schema (draft 2020-12) of `job.settings`: an object. A setting
                    /// that it does not name is refused unless it says otherwise with
                    /// `additionalProperties` or `unevaluatedProperties`.
                    pub settings_schema: String,
                }

                /// A submission.
                #[derive(Debug, Clone, Serialize, Deserialize)]
                pub struct Job {
                    /// The job's id.
                    pub id: String,
                    /// The scene to render; `blender.open` takes it.
                    pub scene: String,
                    /// The frames that were asked for, ascending within a range, no frame twice.
                    pub frames: Vec<crate::sys::hotshoe::plugin::types::FrameRange>,
                    /// The job's settings, already checked against the schema.
                    pub settings: String,
                }

                /// One unit of a plan.
                #[derive(Debug, Clone, Serialize, Deserialize)]
                pub struct PlannedTask {
                    /// Unique in the job; 1 to 128 characters of `A-Z a-z 0-9 . _ -`.
                    pub name: String,
                    /// The frame it belongs to, if it belongs to one; for display and retry.
                    pub frame: Option<i32>,
                    /// Names of tasks that stand before it in the plan and must be done first.
                    pub after: Vec<String>,
                    /// Anything the plugin wants back in `render`, at most 64 KiB. Another release of the same
                    /// plugin may be the one that gets it: jobs move to a newer one, and back if that fails.
                    pub payload: String,
                }

                /// A part of a plan.
                #[derive(Debug, Clone, Serialize, Deserialize)]
                pub struct Page {
                    /// Up to 4,096 tasks.
                    pub tasks: Vec<PlannedTask>,
                    /// Passed to `plan` for the page after this one; absent on the last.
                    pub next: Option<String>,
                }

                /// One attempt at a task, as handed to `render`.
                #[derive(Debug, Clone, Serialize, Deserialize)]
                pub struct Task {
                    /// The job it is part of.
                    pub job: Job,
                    /// Its name in the plan.
                    pub name: String,
                    /// Its frame in the plan.
                    pub frame: Option<i32>,
                    /// Its payload in the plan.
                    pub payload: String,
                    /// 1 for the first attempt, 2 for the second, ...
                    pub attempt: u32,
                }

                /// How an attempt ended when it did not fail.
                #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
                #[serde(rename_all = "snake_case")]
                pub enum Outcome {
                    /// The task is finished and all its files are written.
                    Done,
                    /// The host asked for it with `directive.yield`; another attempt goes on.
                    Yielded,
                }

                /// What a plugin answers.
                pub trait Guest {
                    fn describe() -> Description;
                    fn plan(
                        job: Job,
                        cursor: Option<String>,
                    ) -> Result<Page, crate::sys::hotshoe::plugin::types::Error>;
                    fn render(task: Task) -> Result<Outcome, crate::sys::hotshoe::plugin::types::Error>;
                }
            }
        }
    }
}
