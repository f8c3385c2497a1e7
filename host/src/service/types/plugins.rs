//! What clients ask for and get of plugins.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::terms::{Capability, JobId, Presence, ReleaseState};

/// Which plugin.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnePlugin {
    /// Its name, a release of it (`name@=1.2.3`, `name@sha256:...`), or the absolute path of a
    /// component or of a plugin's folder.
    pub id: String,
}

/// A release of a plugin.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Plugin {
    /// Its plugin's name.
    pub id: String,
    /// Where it stands.
    pub state: ReleaseState,
    /// Why it stands there.
    pub why: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Which build of the version it is; 0 for the first, and always in a host without `--dev`.
    #[serde(default)]
    pub build: u32,
    /// The SHA-256 of its bytes, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The file that it came from; none if it comes with Hotshoe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
    /// Whether it is still there.
    pub presence: Presence,
    /// Whether the operator wants it to serve, whatever is newer.
    #[serde(default)]
    pub chosen: bool,
    /// The part of new jobs that ask for no version and get it: 0 to 1.
    pub share: f64,
    /// Whether its code is in memory.
    #[serde(default)]
    pub is_loaded: bool,
    /// Tasks that it has done.
    pub tasks: u64,
    /// Attempts that failed because of it.
    pub failures: u64,
    /// Half of its latest tasks took no longer, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50: Option<f32>,
    /// 99 of 100 of its latest tasks took no longer, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99: Option<f32>,
    /// The most memory that one of its latest tasks had, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// The capabilities that it wants.
    #[serde(default)]
    pub capabilities: Vec<Capability>,
    /// One sentence. Only where one plugin was asked for, like those below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// `component` or `process`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The version of the contract that it is built for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// The capabilities that it wants, and the operator does not grant it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denied: Vec<Capability>,
    /// The JSON Schema of its settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Value>,
}

impl Plugin {
    /// One of which nothing is known but where it stands.
    pub fn new(id: &str, state: ReleaseState, why: &str, since_ms: u64) -> Self {
        Self {
            id: id.to_owned(),
            state,
            why: why.to_owned(),
            since_ms,
            version: None,
            build: 0,
            digest: None,
            source: None,
            presence: Presence::Present,
            chosen: false,
            share: 0.0,
            is_loaded: false,
            tasks: 0,
            failures: 0,
            p50: None,
            p99: None,
            memory: None,
            capabilities: Vec::new(),
            summary: None,
            kind: None,
            api: None,
            denied: Vec::new(),
            settings: None,
        }
    }
}

/// What to install.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Install {
    /// The absolute path of a component or of a plugin's folder.
    pub path: PathBuf,
}

/// Which release to prefer.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Favour {
    /// The release: `name@=1.2.3` or `name@sha256:...`; with `off`, `name` is enough.
    pub id: String,
    /// Whether the newest is to serve again.
    #[serde(default)]
    pub off: bool,
}

/// What became of a rollback.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RolledBack {
    /// The release that does not serve any more.
    pub from: Plugin,
    /// The one that serves again.
    pub to: Plugin,
}

/// What holds a release.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Why {
    /// The release.
    pub plugin: Plugin,
    /// Open jobs that are pinned to it, oldest first.
    pub jobs: Vec<Holder>,
    /// Leases that their attempts hold.
    pub leases: Vec<Holder>,
    /// Whether its code is in memory.
    pub is_loaded: bool,
}

/// A job that holds a release, or has a lease.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Holder {
    /// The job.
    pub id: JobId,
    /// How long ago it was submitted, or the lease was given, in seconds.
    pub age_seconds: f64,
}

/// A list of plugins.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Plugins {
    /// The plugins.
    pub plugins: Vec<Plugin>,
}
