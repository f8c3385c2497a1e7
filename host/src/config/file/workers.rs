//! `[blender]` and `[workers]`: which Blender runs, how many of it, and what they may do.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Whether workers are confined by the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Sandboxing {
    /// Confine it fully, or do not start it.
    Require,
    /// Confine it as far as this kernel can.
    #[default]
    Auto,
    /// Do not confine it: it may read and write whatever its user may.
    Off,
}

/// Whether the Python that trusted scenes carry may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TrustPolicy {
    /// That of no scene.
    Never,
    /// That of scenes and projects that the user has listed (`hotshoe scene trust`).
    #[default]
    Listed,
}

/// `[blender]`, or the path alone
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(from = "BlenderForm")]
#[expect(missing_docs, reason = "in template.toml, which is what people read")]
pub struct Blender {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    pub addons: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addons_folder: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum BlenderForm {
    Path(PathBuf),
    Table(BlenderTable),
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct BlenderTable {
    path: Option<PathBuf>,
    addons: Vec<String>,
    addons_folder: Option<PathBuf>,
}

impl From<BlenderForm> for Blender {
    fn from(form: BlenderForm) -> Self {
        match form {
            BlenderForm::Path(path) => Self { path: Some(path), ..Self::default() },
            BlenderForm::Table(BlenderTable { path, addons, addons_folder }) => {
                Self { path, addons, addons_folder }
            }
        }
    }
}

/// `[workers]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "in template.toml, which is what people read")]
pub struct Workers {
    pub count: u16,
    pub warm: u16,
    pub memory_mib: u64,
    pub replace_after_renders: u32,
    pub replace_after_growth_mib: u64,
    pub kill_above_mib: u64,
    pub work_mib: u64,
    pub frozen_seconds: f64,
    pub stalled_seconds: f64,
    pub sandbox: Sandboxing,
    pub read: Vec<PathBuf>,
    pub environment: Vec<String>,
    pub trust: TrustPolicy,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            count: 1,
            warm: 2,
            memory_mib: 0,
            replace_after_renders: 1000,
            replace_after_growth_mib: 4096,
            kill_above_mib: 0,
            work_mib: 16_384,
            frozen_seconds: 120.0,
            stalled_seconds: 1800.0,
            sandbox: Sandboxing::Auto,
            read: Vec::new(),
            environment: Vec::new(),
            trust: TrustPolicy::Listed,
        }
    }
}
