//! The bindings as generated from the contract. Not part of the stable API.
#![allow(missing_docs, unreachable_pub, clippy::all)]

wit_bindgen::generate!({
    path: "../wit/v0.1",
    world: "renderer-plugin",
    pub_export_macro: true,
    default_bindings_module: "hotshoe_plugin::sys",
    generate_all,
});
