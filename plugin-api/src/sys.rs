//! The contract as Rust: imports and exports of a component, messages of a process.
//! Not part of the stable API.
#![allow(missing_docs, unreachable_pub, clippy::all)]

#[cfg(target_arch = "wasm32")]
wit_bindgen::generate!({
    path: "../wit/v0.1",
    world: "renderer-plugin",
    pub_export_macro: true,
    default_bindings_module: "hotshoe_plugin::sys",
    generate_all,
});

#[cfg(not(target_arch = "wasm32"))]
mod messages;
#[cfg(not(target_arch = "wasm32"))]
pub use messages::{exports, hotshoe};
