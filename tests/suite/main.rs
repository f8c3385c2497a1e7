//! The suite: real host, real Blender, one file per behaviour.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

mod allowed;
mod arriving;
mod bad_input;
mod bench;
mod changeling;
mod confined;
mod conformance;
mod contract;
mod crash;
mod daemon;
mod death;
mod direct;
mod doctor;
mod farm;
mod harness;
mod hostile;
mod matrix;
mod plugins;
mod protocol;
mod releases;
mod render;
mod rollout;
mod soak;
mod tidy;
mod villains;
mod worker;
