//! What `serve` and `render` say of how workers are confined.

use std::path::PathBuf;

use super::{Failure, Result};
use crate::config::file::{Config, Sandboxing};

#[derive(Debug, clap::Args)]
pub(super) struct Confined {
    /// Whether the kernel confines Blender: always, as far as it can, or not at all
    /// [default: auto]. `hotshoe doctor` says what it can.
    #[arg(long, value_enum, value_name = "HOW")]
    sandbox: Option<Sandboxing>,
    /// A folder that Blender may read, beside that of the scene and those below it; can be
    /// given several times.
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
