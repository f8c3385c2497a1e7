//! Write a Hotshoe renderer plugin in Rust.
//!
//! A renderer is a type that implements [`Renderer`]: which tasks a job
//! consists of, and how one task is rendered. Blender, pixels, files and
//! devices belong to the host; the plugin holds handles to them.
//!
//! ```
//! use hotshoe_plugin::{Outcome, Renderer, Result, Scene, Task, export};
//! use schemars::JsonSchema;
//! use serde::Deserialize;
//!
//! /// Renders every frame twice as large as the scene says.
//! struct Twice;
//!
//! #[derive(Deserialize, JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct Settings {
//!     /// Samples a pixel.
//!     #[schemars(range(min = 1, max = 65536))]
//!     #[serde(default = "sixteen")]
//!     samples: u32,
//! }
//!
//! fn sixteen() -> u32 {
//!     16
//! }
//!
//! impl Renderer for Twice {
//!     type Settings = Settings;
//!     const SUMMARY: &'static str = "renders every frame at 200 %";
//!
//!     fn render(task: &Task<Settings>) -> Result<Outcome> {
//!         let scene = Scene::open(&task.job.scene, None)?;
//!         scene.set("render.resolution_percentage", 200)?;
//!         scene.set("cycles.samples", task.job.settings.samples)?;
//!         scene.write(task.frame()?, None)?;
//!         Ok(Outcome::Done)
//!     }
//! }
//!
//! export!(Twice);
//! ```
//!
//! The target alone decides what it becomes. Built for `wasm32-wasip2` as a `cdylib` it
//! is a component: `hotshoe render SCENE --renderer target/wasm32-wasip2/release/twice.wasm`
//! runs it. Built as a program whose `main` is the library's it is a process, which
//! `plugin.toml` in its folder names as its command:
//!
//! ```ignore
//! // src/main.rs
//! fn main() {
//!     twice::main()
//! }
//! ```
//!
//! Every call of a component happens in a fresh instance, and a process may serve many:
//! what must outlive an attempt goes into [`state`] or into images that are
//! [saved](Image::save). Handles belong to the thread that `plan` or `render` was called in.

mod adapter;
mod blender;
mod error;
mod frames;
pub mod gpu;
pub mod host;
mod image;
mod job;
#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
pub mod process;
pub mod state;
#[doc(hidden)]
pub mod sys;

pub use blender::{Render, Scene, SceneInfo, Shot};
pub use error::{Error, ErrorCode, Result};
pub use frames::{FrameRange, Frames};
pub use image::{Image, Pixels, Region};
pub use job::{Job, Outcome, Page, PlannedTask, Renderer, Task};
pub use sys::hotshoe::plugin::types::{File, SampleRange};

#[doc(hidden)]
pub use adapter::Adapter;

/// Makes a [`Renderer`] the one that this crate is: its component's exports, or the
/// `main` of its process.
#[macro_export]
macro_rules! export {
    ($renderer:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type Exported = $crate::Adapter<$renderer>;
    $crate::sys::export!(Exported with_types_in $crate::sys);

            // Where the host reads which version it is; the name is that of the module.
            const TEXT: &[u8] = env!("CARGO_PKG_VERSION").as_bytes();
            #[unsafe(link_section = "version")]
            #[used]
            static VERSION: [u8; TEXT.len()] = *TEXT.first_chunk().expect("it is that long");
        };

        /// Runs the plugin as a process.
        #[cfg(not(target_arch = "wasm32"))]
        pub fn main() {
            $crate::process::run::<$crate::Adapter<$renderer>>(
                env!("CARGO_PKG_NAME"),
                env!("CARGO_PKG_VERSION"),
            )
        }

        /// Says that a component has no program of its own.
        #[cfg(target_arch = "wasm32")]
        pub fn main() {}
    };
}
