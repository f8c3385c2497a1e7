//! What `serve` and `render` say of how workers are confined.

use std::path::PathBuf;

use super::{Failure, Result};
use crate::config::file::{Config, Sandboxing};

#[derive(Debug, clap::Args)]
pub(super) struct Confined {
    /// How far the kernel confines Blender [default: auto]. `hotshoe doctor` shows what this kernel
    /// supports.
    #[arg(long, value_enum, value_name = "HOW")]
    sandbox: Option<Sandboxing>,
    /// Let Blender read this folder as well as that of each scene; repeat it for more.
    #[arg(long, value_name = "DIR")]
    read: Vec<PathBuf>,
}

impl Confined {
    /// Changes what the configuration says.
    pub(super) fn apply(&self, config: &mut Config) -> Result {
        let workers = &mut config.workers;
        workers.sandbox = self.sandbox.unwrap_or(workers.sandbox);
        for folder in &self.read {
            let unread = |error| {
                Failure::bad_input(format!(
                    "cannot read the folder {}: {error}\ncheck the path behind --read",
                    folder.display()
                ))
            };
            workers.read.push(folder.canonicalize().map_err(unread)?);
        }
        Ok(())
    }
}
