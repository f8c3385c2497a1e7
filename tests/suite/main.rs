//! The suite: real host, real Blender, one file per behaviour.

mod bad_input;
mod bench;
mod contract;
mod death;
mod direct;
mod doctor;
mod harness;
mod plugins;
mod render;
mod tidy;
mod worker;
