//! Why there is no such release.

use std::io;
use std::path::PathBuf;

use super::RequirementError;
use super::lifecycle::Refused;
use crate::plugin::PluginError;
use crate::plugin::manifest::ManifestError;
use crate::terms::JobId;

/// Why there is no such release.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// No plugin has this name.
    #[error("there is no renderer '{name}'\n{hint}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        hint: String,
    },
    /// The file cannot be read.
    #[error("cannot read the plugin {}: {source}{}", path.display(), look(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What has its name is part of this program.
    #[error("'{name}' is a renderer that comes with Hotshoe\ngive yours another name")]
    Taken {
        /// The name.
        name: String,
    },
    /// It is there, and yet it cannot be used.
    #[error("{0}")]
    Refused(#[from] Refused),
    /// A job that is open, and may move to it, has settings that it does not take.
    #[error(
        "open job {job} could be upgraded to this version, but its settings do not fit the new schema: {why}"
    )]
    Settings {
        /// The job.
        job: JobId,
        /// Why.
        why: String,
    },
    /// It could be several, or none.
    #[error("'{name}' does not name a single release\n{hint}")]
    NotOne {
        /// What was asked for.
        name: String,
        /// What there is.
        hint: String,
    },
    /// It cannot be taken out of the operator's folder, where it is not.
    #[error("'{name}' is not installed\n{hint}")]
    NotInstalled {
        /// What was asked for.
        name: String,
        /// What there is.
        hint: String,
    },
    /// It is no name of a release.
    #[error(transparent)]
    Requirement(#[from] RequirementError),
    /// The folder holds no plugin.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// It is no plugin of this host.
    #[error("cannot load the plugin {name}: {source}{}", hint(source))]
    Load {
        /// The plugin.
        name: String,
        /// Why.
        source: PluginError,
    },
    /// The compiled form cannot be kept.
    #[error("cannot write to {}: {source}\nmake room there, or choose another data directory with --data DIR", path.display())]
    Cache {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ReleaseError {
    /// Whether it may be gone by itself.
    pub fn may_pass(&self) -> bool {
        let is_ours = matches!(self, Self::Load { source: PluginError::Host(_), .. });
        is_ours || matches!(self, Self::Cache { .. } | Self::Settings { .. })
    }
}

fn look(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => {
            "\ncheck the path; a name without / and .wasm means a renderer that is shipped or installed"
        }
        _ => "",
    }
}

fn hint(source: &PluginError) -> &'static str {
    match source {
        PluginError::Contract(_) => "\na plugin is written against hotshoe:plugin@0.1.0",
        _ => "",
    }
}
