//! The Hotshoe host: renderer plugins drive Blender, and none of them can take
//! down the host, Blender or each other.
//!
//! In reading order, which is also the order of imports: a module uses only
//! what stands below it.

pub mod cli;

pub mod daemon;

pub mod api;

pub mod service;

pub mod jobs;

pub mod releases;

pub mod plugin;

pub mod capability;

pub mod blender;

pub mod process;

pub mod rpc;

pub mod reports;

pub mod store;

pub mod events;

pub mod frames;

pub mod config;

pub mod folders;

pub mod terms;

pub mod crash;
