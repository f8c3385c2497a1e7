//! Blender: which one, how it is started, and the processes that run it.
//!
//! Owns the worker processes. Knows nothing of plugins, jobs or output folders:
//! it renders what it is told into the folder it is told.

pub mod content;
pub mod find;
pub mod header;
pub mod install;
pub mod libraries;
pub mod pool;
mod process;
pub mod references;
pub mod seats;
mod tool;
pub mod wire;
pub mod worker;

use std::path::PathBuf;

/// A way to run Blender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blender {
    /// The program itself.
    Program(PathBuf),
    /// A Python that has the `bpy` module.
    Module(PathBuf),
}

impl Blender {
    /// Returns the file that is run.
    pub fn path(&self) -> &PathBuf {
        match self {
            Self::Program(path) | Self::Module(path) => path,
        }
    }
}

/// What is known of a crash of Blender.
#[derive(Debug, Clone)]
pub struct Crash {
    /// What Blender itself wrote about it.
    pub text: Option<String>,
    /// Its version.
    pub blender: String,
    /// The call it was working on.
    pub doing: &'static str,
}

impl Crash {
    /// Says what happened.
    pub fn what(&self, scene: &std::path::Path, status: &str) -> String {
        format!("Blender {} {status} in {} on {}", self.blender, self.doing, scene.display())
    }

    /// Puts together what Blender itself has written, and the last lines that it printed.
    pub fn text(&self, log: &str) -> String {
        let text = self.text.as_deref().unwrap_or("Blender wrote no crash text of its own");
        format!("the last lines it printed:{log}\n\n{}", text.trim())
    }
}

/// Why Blender did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum BlenderError {
    /// There is no Blender, or not the one that was named.
    #[error("{what}\n{hint}")]
    Missing {
        /// What is missing.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// Blender did not come up.
    #[error(
        "Blender does not start: {path} {status}{log}\nsee what it lacks with `hotshoe doctor`, or choose another with --blender PATH"
    )]
    Start {
        /// The file that was run.
        path: PathBuf,
        /// How it ended.
        status: String,
        /// The end of what it printed, each line after a line break.
        log: String,
    },
    /// Blender died while it was working.
    #[error("Blender died while it was working: {status}{log}")]
    Died {
        /// How it ended.
        status: String,
        /// The end of what it printed, each line after a line break.
        log: String,
        /// What is known of its crash, if it had a fault.
        crash: Option<Crash>,
    },
    /// Blender did not die, and yet it had to be killed.
    #[error("Blender was killed while it was working: {what}{log}")]
    Hung {
        /// What was wrong with it.
        what: String,
        /// The end of what it printed, each line after a line break.
        log: String,
    },
    /// Blender answered that it cannot.
    #[error("{message}")]
    Refused {
        /// A code of the contract, as text.
        code: String,
        /// One sentence.
        message: String,
    },
    /// The worker program itself failed.
    #[error("the worker failed: {0}")]
    Worker(String),
    /// A process could not be set up.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl BlenderError {
    /// Names what was being done when I/O failed.
    pub fn io(doing: &'static str) -> impl Fn(std::io::Error) -> Self + Copy {
        move |source| Self::Io { doing, source }
    }
}
