//! The configuration file: what an operator decides, read and checked once.

mod workers;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use workers::{Blender, Sandboxing, TrustPolicy, Workers};

use super::limits::Limits;
use crate::terms::Capability;

/// The configuration with every key, its meaning and its default.
pub const TEMPLATE: &str = include_str!("template.toml");

/// What an operator decides.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "in template.toml, which is what people read")]
pub struct Config {
    pub socket: Option<PathBuf>,
    pub plugins: Option<PathBuf>,
    pub blender: Blender,
    pub workers: Workers,
    pub jobs: JobRules,
    pub keep: Keep,
    pub clients: Clients,
    pub limits: Limits,
    pub processes: Processes,
    pub releases: Releases,
    pub rollout: Rollout,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub plugin: BTreeMap<String, Grant>,
}

/// `[jobs]`
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "in template.toml, which is what people read")]
pub struct JobRules {
    pub retries: u32,
    pub backoff_seconds: f64,
    pub drain_seconds: f64,
}

/// `[keep]`
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "in template.toml, which is what people read")]
pub struct Keep {
    pub jobs_days: f64,
    pub jobs: usize,
    pub events_days: f64,
    pub events: u64,
    pub spool_mib: u64,
    pub crashes: usize,
    pub crashes_mib: u64,
}

/// `[clients]`
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "in template.toml, which is what people read")]
pub struct Clients {
    pub connections: usize,
    pub requests: usize,
    pub message_bytes: usize,
    pub memory_mib: usize,
    pub patience_seconds: f64,
}

/// `[processes]`
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "in template.toml, which is what people read")]
pub struct Processes {
    pub memory_mib: u64,
    pub work_mib: u64,
    pub count: usize,
    pub cpu_seconds: f64,
    pub hello_seconds: f64,
    pub silent_seconds: f64,
    pub failures: u32,
    pub replace_after_tasks: u32,
    pub replace_after_growth_mib: u64,
}

/// `[releases]`
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "in template.toml, which is what people read")]
pub struct Releases {
    pub loaded: usize,
    pub kept: usize,
    pub quiet_seconds: f64,
    pub vanish_seconds: f64,
    pub yield_seconds: f64,
    pub cut_seconds: f64,
    pub compile_seconds: f64,
    pub compile_cpu_seconds: u64,
    pub compile_memory_mib: u64,
}

/// `[rollout]` and `[plugin.NAME.rollout]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "in template.toml, which is what people read")]
pub struct Rollout {
    pub first: u64,
    pub share: f64,
    pub tasks: u64,
    pub patience_seconds: f64,
    pub slower: f64,
    pub memory: f64,
    pub fallback_days: f64,
    pub labels: Vec<String>,
}

impl Rollout {
    /// Returns the rules by which a new release serves at once.
    pub fn at_once() -> Self {
        Self { first: 0, share: 1.0, tasks: 0, ..Self::default() }
    }
}

/// Who tries a new release.
impl fmt::Display for Rollout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = match self.first {
            0 | 1 => "a first task".to_owned(),
            first => format!("the first {first} tasks"),
        };
        let share = format!("{:.0} % of new jobs for {} tasks", self.share * 100.0, self.tasks);
        match (self.first, self.tasks) {
            (0, _) => f.write_str(&share),
            (_, 0) => f.write_str(&first),
            _ => write!(f, "{first}, then {share}"),
        }
    }
}

/// `[plugin.NAME]`
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "in template.toml, which is what people read")]
pub struct Grant {
    pub capabilities: Option<Vec<Capability>>,
    pub network: bool,
    pub devices: Vec<PathBuf>,
    pub read: Vec<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// What differs from `[limits]`.
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    pub limits: toml::Table,
    /// What differs from `[processes]`.
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    pub processes: toml::Table,
}

impl Default for JobRules {
    fn default() -> Self {
        Self { retries: 100, backoff_seconds: 0.5, drain_seconds: 60.0 }
    }
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            jobs_days: 30.0,
            jobs: 10_000,
            events_days: 30.0,
            events: 2_000_000,
            spool_mib: 10_240,
            crashes: 100,
            crashes_mib: 64,
        }
    }
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            connections: 2000,
            requests: 64,
            message_bytes: 16 * 1024 * 1024,
            memory_mib: 64,
            patience_seconds: 30.0,
        }
    }
}

impl Default for Processes {
    fn default() -> Self {
        Self {
            memory_mib: 4096,
            work_mib: 1024,
            count: 64,
            cpu_seconds: 600.0,
            hello_seconds: 30.0,
            silent_seconds: 30.0,
            failures: 5,
            replace_after_tasks: 1000,
            replace_after_growth_mib: 1024,
        }
    }
}

impl Default for Releases {
    fn default() -> Self {
        Self {
            loaded: 16,
            kept: 100,
            quiet_seconds: 0.3,
            vanish_seconds: 60.0,
            yield_seconds: 60.0,
            cut_seconds: 86400.0,
            compile_seconds: 60.0,
            compile_cpu_seconds: 60,
            compile_memory_mib: 4096,
        }
    }
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            first: 1,
            share: 0.1,
            tasks: 50,
            patience_seconds: 600.0,
            slower: 2.0,
            memory: 2.0,
            fallback_days: 30.0,
            labels: Vec::new(),
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}\ncheck the path, or leave --config out", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no TOML, or has a key or a value that is not known.
    #[error("the configuration {} is not valid:\n{what}\n`hotshoe config show --template` lists every key", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What does not fit, and where.
        what: String,
    },
}

impl Config {
    /// Reads the file that was given; without one, the user's own if there is one.
    pub fn read(given: Option<&Path>) -> Result<(Self, Option<PathBuf>), ConfigError> {
        let users = || dirs::config_dir().map(|folder| folder.join("hotshoe/config.toml"));
        let path = match given {
            Some(path) => path.to_owned(),
            None => match users().filter(|path| path.exists()) {
                Some(path) => path,
                None => return Ok((Self::default(), None)),
            },
        };
        let text =
            fs::read_to_string(&path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        let config = Self::parse(&text).map_err(|what| ConfigError::Parse { path: path.clone(), what })?;
        Ok((config, Some(path)))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        config.check().map(|()| config)
    }

    /// Fails on a value that cannot be meant.
    fn check(&self) -> Result<(), String> {
        let Self { workers, jobs, keep, clients, releases, .. } = self;
        let positive = [
            ("workers.frozen_seconds", workers.frozen_seconds),
            ("workers.stalled_seconds", workers.stalled_seconds),
            ("clients.patience_seconds", clients.patience_seconds),
            ("releases.quiet_seconds", releases.quiet_seconds),
            ("releases.compile_seconds", releases.compile_seconds),
        ];
        let not_negative = [
            ("jobs.backoff_seconds", jobs.backoff_seconds),
            ("jobs.drain_seconds", jobs.drain_seconds),
            ("keep.jobs_days", keep.jobs_days),
            ("keep.events_days", keep.events_days),
            ("releases.vanish_seconds", releases.vanish_seconds),
            ("releases.yield_seconds", releases.yield_seconds),
            ("releases.cut_seconds", releases.cut_seconds),
        ];
        for (key, value) in positive {
            within(key, value, f64::MIN_POSITIVE)?;
        }
        for (key, value) in not_negative {
            within(key, value, 0.0)?;
        }
        let counts = [
            ("workers.count", usize::from(workers.count), 1..=256),
            ("workers.warm", usize::from(workers.warm), 0..=256),
            ("workers.work_mib", workers.work_mib as usize, 1..=usize::MAX >> 20),
            ("workers.replace_after_renders", workers.replace_after_renders as usize, 1..=u32::MAX as usize),
            ("clients.connections", clients.connections, 1..=100_000),
            ("clients.requests", clients.requests, 1..=10_000),
            ("clients.message_bytes", clients.message_bytes, 1024..=64 * 1024 * 1024),
            ("clients.memory_mib", clients.memory_mib, clients.message_bytes.div_ceil(1024 * 1024)..=65_536),
            ("releases.loaded", releases.loaded, 1..=10_000),
            ("releases.kept", releases.kept, 0..=1_000_000),
            ("releases.compile_cpu_seconds", releases.compile_cpu_seconds as usize, 1..=86_400),
            ("releases.compile_memory_mib", releases.compile_memory_mib as usize, 128..=usize::MAX >> 20),
        ];
        for (key, value, range) in counts {
            count(key, value, range)?;
        }
        if !self.blender.addons.is_empty() && self.blender.addons_folder.is_none() {
            return Err("blender.addons names add-ons, and blender.addons_folder no folder that they lie in"
                .to_owned());
        }
        self.rollout.check("rollout")?;
        self.limits.check("limits")?;
        self.processes.check("processes")?;
        for (name, grant) in &self.plugin {
            if let Some(rollout) = &grant.rollout {
                rollout.check(&format!("plugin.{name}.rollout"))?;
            }
            let (limits, processes) = (format!("plugin.{name}.limits"), format!("plugin.{name}.processes"));
            changed(&self.limits, &grant.limits, &limits)?.check(&limits)?;
            changed(&self.processes, &grant.processes, &processes)?.check(&processes)?;
        }
        Ok(())
    }

    /// Names what it speaks of and is not there, which may come yet. Blocks.
    pub fn missing(&self) -> Vec<String> {
        let addons: Vec<PathBuf> = self.blender.addons_folder.iter().cloned().collect();
        let mut named = vec![
            ("workers.read".to_owned(), &self.workers.read),
            ("blender.addons_folder".to_owned(), &addons),
        ];
        for (name, grant) in &self.plugin {
            named.push((format!("plugin.{name}.read"), &grant.read));
            named.push((format!("plugin.{name}.devices"), &grant.devices));
        }
        let all =
            named.into_iter().flat_map(|(key, paths)| paths.iter().map(move |path| (key.clone(), path)));
        let missing = all.filter(|(_, path)| !path.exists());
        missing.map(|(key, path)| format!("{key} names {}, which is not there", path.display())).collect()
    }

    /// Returns what a plugin may use.
    pub fn limits_of(&self, plugin: &str) -> Limits {
        let own = self.plugin.get(plugin).map(|grant| &grant.limits).filter(|own| !own.is_empty());
        own.and_then(|own| changed(&self.limits, own, plugin).ok()).unwrap_or(self.limits)
    }

    /// Returns what the processes of a plugin may use.
    pub fn processes_of(&self, plugin: &str) -> Processes {
        let own = self.plugin.get(plugin).map(|grant| &grant.processes);
        own.and_then(|own| changed(&self.processes, own, plugin).ok()).unwrap_or(self.processes)
    }

    /// Returns how new releases of a plugin are tried.
    pub fn rollout_of(&self, plugin: &str) -> &Rollout {
        self.plugin.get(plugin).and_then(|grant| grant.rollout.as_ref()).unwrap_or(&self.rollout)
    }
}

impl Processes {
    fn check(&self, table: &str) -> Result<(), String> {
        let positive = [
            ("cpu_seconds", self.cpu_seconds),
            ("hello_seconds", self.hello_seconds),
            ("silent_seconds", self.silent_seconds),
        ];
        for (key, value) in positive {
            within(&format!("{table}.{key}"), value, f64::MIN_POSITIVE)?;
        }
        let counts = [
            ("memory_mib", self.memory_mib as usize, 16..=usize::MAX >> 20),
            ("work_mib", self.work_mib as usize, 1..=usize::MAX >> 20),
            ("count", self.count, 1..=10_000),
            ("failures", self.failures as usize, 1..=1000),
            ("replace_after_tasks", self.replace_after_tasks as usize, 1..=u32::MAX as usize),
        ];
        counts.into_iter().try_for_each(|(key, value, range)| count(&format!("{table}.{key}"), value, range))
    }
}

impl Rollout {
    fn check(&self, key: &str) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.share) {
            return Err(format!("{key}.share takes 0 to 1, not {}", self.share));
        }
        within(&format!("{key}.patience_seconds"), self.patience_seconds, 0.0)?;
        within(&format!("{key}.fallback_days"), self.fallback_days, 0.0)?;
        within(&format!("{key}.slower"), self.slower, 1.0)?;
        within(&format!("{key}.memory"), self.memory, 1.0)
    }
}

/// The longest time that can be configured, in seconds or days.
const LONGEST: f64 = 1e9;

/// Returns a table of the configuration with what differs from it for one plugin.
fn changed<T: Serialize + DeserializeOwned>(all: &T, own: &toml::Table, table: &str) -> Result<T, String> {
    let mut merged = toml::Table::try_from(all).map_err(|error| error.to_string())?;
    merged.extend(own.clone());
    merged.try_into().map_err(|error| format!("{table}: {}", error.to_string().trim_end()))
}

pub(super) fn count<T: PartialOrd + fmt::Display>(
    key: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), String> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(format!("{key} takes {} to {}, not {value}", range.start(), range.end()))
}

pub(super) fn within(key: &str, value: f64, least: f64) -> Result<(), String> {
    if (least..=LONGEST).contains(&value) {
        return Ok(());
    }
    Err(format!(
        "{key} takes a number {} and at most {LONGEST}, not {value}",
        match least {
            0.0 => "from 0",
            1.0 => "from 1",
            _ => "above 0",
        }
    ))
}

/// Makes a duration of what the configuration says.
pub fn seconds(value: f64) -> Duration {
    Duration::from_secs_f64(value)
}

/// Makes a duration of what the configuration says.
pub fn days(value: f64) -> Duration {
    Duration::from_secs_f64((value * 86_400.0).min(1e12))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_says_what_the_defaults_are() {
        assert_eq!(Config::parse(TEMPLATE).unwrap(), Config::default());
        let keys = toml::to_string(&Config::default()).unwrap();
        for line in keys.lines().filter(|line| !line.is_empty()) {
            assert!(TEMPLATE.contains(line), "the template misses: {line}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_place() {
        let check = |text: &str, expected: &str| {
            let error = Config::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("[workers]\ncuont = 2", "unknown field `cuont`");
        check("[workers]\ncuont = 2", "line 2");
        check("[workers]\ncount = \"two\"", "line 2");
        check("[workers]\ncount = 0", "workers.count takes 1 to 256");
        check("[workers]\nfrozen_seconds = 0", "workers.frozen_seconds takes a number above 0");
        check("[jobs]\nbackoff_seconds = nan", "jobs.backoff_seconds");
        check("[clients]\nmessage_bytes = 10", "clients.message_bytes takes 1024 to");
        check("[limits]\nmemory_mib = 5000", "limits.memory_mib takes at most 4096");
        check("[limits]\njson_depth = 1000", "limits.json_depth takes 1 to 128");
        check("[plugin.a.limits]\nmemroy_mib = 1", "plugin.a.limits: unknown field `memroy_mib`");
        check("[plugin.a.limits]\nshots = 0", "plugin.a.limits.shots takes 1 to");
        check("[plugin.a.processes]\ncount = 0", "plugin.a.processes.count takes 1 to");
    }

    #[test]
    fn a_plugin_has_its_own_limits_where_they_are_said_and_those_of_all_elsewhere() {
        let text = "[limits]\nshots = 3\nhandles = 7\n[plugin.a.limits]\nshots = 1\n\
                    [plugin.a.processes]\ncount = 2";
        let config = Config::parse(text).unwrap();
        let (own, others) = (config.limits_of("a"), config.limits_of("b"));
        assert_eq!((own.shots, own.handles, others.shots, others.handles), (1, 7, 3, 7));
        assert_eq!(own.log_mib, Limits::default().log_mib);
        let (own, others) = (config.processes_of("a"), config.processes_of("b"));
        assert_eq!((own.count, own.work_mib, others.count), (2, others.work_mib, 64));
    }
}
