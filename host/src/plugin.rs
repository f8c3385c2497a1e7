//! Plugins: running one release's code for one call.
//!
//! Owns the limits of a call and what a failure of it means. Knows nothing of
//! jobs beyond the one call, and nothing of other releases.

pub mod bindings;
pub mod component;
pub mod guests;
pub mod handles;
pub mod limits;
pub mod manifest;
pub mod printed;
pub mod process;
pub mod settings;
pub mod wire;
mod world;

use std::sync::Arc;
use std::time::Duration;

use semver::Version;

use crate::capability::{Attempt, CapabilityError, Code, abridged, read_json};
use crate::config::limits::Limits;
use crate::frames::FrameRange;
use crate::terms::{Blame, one_line};
use component::Component;
use process::ProcessPlugin;

/// How long `describe` may take in all: it may call nothing.
const DESCRIBE_LIMIT: Duration = Duration::from_secs(20);
/// How much of what a plugin printed is told if it dies, in bytes.
const TOLD: usize = 4 * 1024;
const MAX_PAGE: usize = 4096;
const MAX_PAYLOAD: usize = 64 * 1024;

/// What a plugin says of itself.
#[derive(Debug, Clone)]
pub struct Description {
    /// One sentence.
    pub summary: String,
    /// JSON Schema of its settings.
    pub settings_schema: serde_json::Value,
}

impl Description {
    fn read(summary: &str, settings_schema: &str, limits: &Limits) -> Result<Self, PluginError> {
        let settings_schema = read_json(settings_schema, limits.json_depth)
            .map_err(|what| PluginError::Contract(format!("its settings schema {what}")))?;
        let summary = one_line(summary, 200);
        Ok(Self { summary, settings_schema })
    }
}

fn too_slow() -> PluginError {
    PluginError::Limit(format!("{} s for describe", DESCRIBE_LIMIT.as_secs()))
}

/// A job as a plugin sees it.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "as in the contract")]
pub struct Job {
    pub id: String,
    pub scene: String,
    pub frames: Vec<FrameRange>,
    pub settings: String,
}

/// A task as a plugin plans it.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "as in the contract")]
pub struct PlannedTask {
    pub name: String,
    pub frame: Option<i32>,
    pub after: Vec<String>,
    pub payload: String,
}

/// A part of a plan.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "as in the contract")]
pub struct Page {
    pub tasks: Vec<PlannedTask>,
    pub next: Option<String>,
}

impl Page {
    /// Fails if the page breaks the contract.
    fn check(&self) -> Result<(), PluginError> {
        let broken = |what: String| Err(PluginError::Contract(what));
        if self.tasks.len() > MAX_PAGE {
            return broken(format!(
                "a page of a plan has at most {MAX_PAGE} tasks, not {}",
                self.tasks.len()
            ));
        }
        if self.tasks.is_empty() && self.next.is_some() {
            return broken("a page of its plan is empty and yet not the last".to_owned());
        }
        for task in &self.tasks {
            let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            if !(1..=128).contains(&task.name.len()) || !task.name.chars().all(harmless) {
                let start: String = task.name.chars().take(40).collect();
                return broken(format!("'{start}' is not a valid task name"));
            }
            if task.payload.len() > MAX_PAYLOAD {
                let (name, size) = (&task.name, task.payload.len());
                return broken(format!("the payload of {name} has {size} bytes, more than {MAX_PAYLOAD}"));
            }
        }
        Ok(())
    }
}

/// How an attempt ended when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in the contract")]
pub enum Outcome {
    Done,
    Yielded,
}

/// Why a call of a plugin failed.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The plugin, or a capability through it, answered with an error.
    #[error(transparent)]
    Answer(CapabilityError),
    /// The plugin panicked.
    #[error("the plugin panicked: {0}")]
    Panic(String),
    /// The plugin trapped without a word.
    #[error("the plugin trapped: {0}")]
    Trap(String),
    /// The plugin's process ended, or had to be ended.
    #[error("the plugin's process {0}")]
    Died(String),
    /// The plugin's command cannot be run.
    #[error("the plugin cannot be started: {0}")]
    Start(String),
    /// The plugin's process needs what is not granted.
    #[error("{0}")]
    Needs(String),
    /// The plugin is not started any more.
    #[error("the plugin is quarantined: {0}\nrestart the host to give it another chance")]
    Quarantined(String),
    /// The plugin hit a limit.
    #[error("the plugin hit its limit of {0}")]
    Limit(String),
    /// The plugin's answer breaks the contract.
    #[error("the plugin broke the contract: {0}")]
    Contract(String),
    /// The host could not make the call.
    #[error("the host could not run the plugin: {0}")]
    Host(String),
}

impl PluginError {
    /// Says who is to blame.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Answer(error) => match error.code {
                Code::Blender => Blame::Blender,
                Code::Host => Blame::Host,
                Code::Limit => Blame::Plugin,
                _ => Blame::Client,
            },
            Self::Host(_) => Blame::Host,
            _ => Blame::Plugin,
        }
    }

    /// Names the kind of crash that it is, if it is one.
    pub fn crash(&self) -> Option<&'static str> {
        match self {
            Self::Panic(_) => Some("panic"),
            Self::Trap(_) => Some("trap"),
            Self::Died(_) => Some("process"),
            Self::Limit(_) => Some("limit"),
            Self::Contract(_) => Some("contract"),
            Self::Answer(error) if error.code == Code::Limit => Some("limit"),
            _ => None,
        }
    }

    /// Adds a line to what is told of a crash.
    pub fn with_line(mut self, line: &str) -> Self {
        if let Self::Panic(text)
        | Self::Trap(text)
        | Self::Died(text)
        | Self::Limit(text)
        | Self::Contract(text)
        | Self::Answer(CapabilityError { message: text, .. }) = &mut self
        {
            *text += &format!("\n{line}");
        }
        self
    }

    /// Says whether another attempt may fare better.
    pub fn is_retryable(&self) -> bool {
        let is_hopeless = matches!(self, Self::Start(_) | Self::Needs(_) | Self::Quarantined(_));
        matches!(self.blame(), Blame::Blender | Blame::Plugin) && !is_hopeless
    }

    /// Makes harmless what a stranger had a hand in, and bounds it.
    fn abridged(self) -> Self {
        let cut = |text| abridged(text, TOLD);
        match self {
            Self::Panic(text) => Self::Panic(cut(text)),
            Self::Died(text) => Self::Died(cut(text)),
            Self::Limit(text) => Self::Limit(cut(text)),
            Self::Contract(text) => Self::Contract(cut(text)),
            other => other,
        }
    }

    /// Whether a process did it, and not what runs in it.
    fn is_of_the_process(&self) -> bool {
        matches!(self, Self::Died(_) | Self::Limit(_) | Self::Contract(_) | Self::Start(_))
    }
}

/// The code of one release, ready to be called.
#[derive(Debug)]
pub enum Plugin {
    /// A WebAssembly component.
    Component(Component),
    /// A process.
    Process(Box<ProcessPlugin>),
}

impl Plugin {
    /// Returns the version of the contract that it is built for.
    pub fn api(&self) -> &Version {
        match self {
            Self::Component(component) => &component.api,
            Self::Process(process) => &process.manifest.api,
        }
    }

    /// Asks the plugin what it is.
    pub async fn describe(&self, limits: &Limits) -> Result<Description, PluginError> {
        match self {
            Self::Component(component) => component.describe(limits).await,
            Self::Process(process) => process.describe(limits).await,
        }
    }

    /// Asks for a page of a job's plan.
    pub async fn plan(
        &self,
        attempt: Arc<Attempt>,
        job: &Job,
        cursor: Option<&str>,
    ) -> Result<Page, PluginError> {
        match self {
            Self::Component(component) => component.plan(Some(attempt), job, cursor).await,
            Self::Process(process) => process.plan(attempt, job, cursor).await,
        }
    }

    /// Makes an attempt at a task.
    pub async fn render(
        &self,
        attempt: Arc<Attempt>,
        job: &Job,
        task: &PlannedTask,
        number: u32,
    ) -> Result<Outcome, PluginError> {
        match self {
            Self::Component(component) => component.render(attempt, job, task, number).await,
            Self::Process(process) => process.render(attempt, job, task, number).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_break_the_contract_are_refused() {
        let task = |name: &str, payload: usize| PlannedTask {
            name: name.to_owned(),
            frame: None,
            after: Vec::new(),
            payload: "x".repeat(payload),
        };
        let page = |tasks| Page { tasks, next: Some("1".to_owned()) };
        assert!(page(vec![task("frame-1", 0)]).check().is_ok());
        assert!(page(Vec::new()).check().is_err());
        assert!(page(vec![task("../x", 0)]).check().is_err());
        assert!(page(vec![task("", 0)]).check().is_err());
        assert!(page(vec![task("a", MAX_PAYLOAD + 1)]).check().is_err());
        assert!(page(vec![task("a", 0); MAX_PAGE + 1]).check().is_err());
    }
}
