//! What a plugin may use: `[limits]` and `[plugin.NAME.limits]`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::file::{count, seconds, within};

/// What one call of a plugin may use.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "in template.toml, which is what people read")]
pub struct Limits {
    pub memory_mib: f64,
    pub table_elements: usize,
    pub instances: usize,
    pub handles: usize,
    pub copied_mib: f64,
    pub cpu_seconds: f64,
    pub idle_seconds: f64,
    pub task_seconds: f64,
    pub job_seconds: f64,
    pub calls_per_second: u64,
    pub log_mib: f64,
    pub log_lines_per_second: u64,
    pub state_mib: f64,
    pub shots: u64,
    pub pixels_mib: f64,
    pub moved_mib: f64,
    pub saved_mib: f64,
    pub output_mib: f64,
    pub output_files: u64,
    pub json_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_mib: 256.0,
            table_elements: 20_000,
            instances: 100,
            handles: 1_000,
            copied_mib: 128.0,
            cpu_seconds: 10.0,
            idle_seconds: 300.0,
            task_seconds: 0.0,
            job_seconds: 0.0,
            calls_per_second: 1_000_000,
            log_mib: 4.0,
            log_lines_per_second: 1_000,
            state_mib: 64.0,
            shots: 64,
            pixels_mib: 2048.0,
            moved_mib: 262_144.0,
            saved_mib: 16_384.0,
            output_mib: 16_384.0,
            output_files: 1_000,
            json_depth: 64,
        }
    }
}

/// The largest memory of a component, in MiB: what 32 bits address.
const MOST_MEMORY: f64 = 4096.0;
/// The most elements of all tables of an instance.
pub const MOST_ELEMENTS: usize = 1_000_000;

impl Limits {
    /// Fails on a value that cannot be meant.
    pub(super) fn check(&self, table: &str) -> Result<(), String> {
        let positive = [
            ("memory_mib", self.memory_mib),
            ("copied_mib", self.copied_mib),
            ("cpu_seconds", self.cpu_seconds),
            ("idle_seconds", self.idle_seconds),
            ("log_mib", self.log_mib),
            ("state_mib", self.state_mib),
            ("pixels_mib", self.pixels_mib),
            ("moved_mib", self.moved_mib),
            ("saved_mib", self.saved_mib),
            ("output_mib", self.output_mib),
        ];
        for (key, value) in positive {
            within(&format!("{table}.{key}"), value, f64::MIN_POSITIVE)?;
        }
        within(&format!("{table}.task_seconds"), self.task_seconds, 0.0)?;
        within(&format!("{table}.job_seconds"), self.job_seconds, 0.0)?;
        if self.memory_mib > MOST_MEMORY {
            return Err(format!("{table}.memory_mib takes at most {MOST_MEMORY}, not {}", self.memory_mib));
        }
        let counts = [
            ("table_elements", self.table_elements as u64, 1..=MOST_ELEMENTS as u64),
            ("instances", self.instances as u64, 1..=1_000),
            ("handles", self.handles as u64, 1..=1_000_000),
            ("calls_per_second", self.calls_per_second, 1..=u64::MAX),
            ("log_lines_per_second", self.log_lines_per_second, 1..=u64::MAX),
            ("shots", self.shots, 1..=10_000),
            ("output_files", self.output_files, 1..=u64::MAX),
            ("json_depth", self.json_depth as u64, 1..=128),
        ];
        counts.into_iter().try_for_each(|(key, value, range)| count(&format!("{table}.{key}"), value, range))
    }

    /// Returns the time that a task may take, whatever it waits for, if there is a limit.
    pub fn task(&self) -> Option<Duration> {
        (self.task_seconds > 0.0).then(|| seconds(self.task_seconds))
    }

    /// Returns the time that a job may take from its beginning, if there is a limit.
    pub fn job(&self) -> Option<Duration> {
        (self.job_seconds > 0.0).then(|| seconds(self.job_seconds))
    }
}

/// Makes bytes of what the configuration says.
pub fn bytes(mib: f64) -> u64 {
    (mib * 1024.0 * 1024.0) as u64
}
