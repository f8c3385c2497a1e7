//! Plugins: running one release's code for one call.
//!
//! Owns the limits of a call and what a failure of it means. Knows nothing of
//! jobs beyond the one call, and nothing of other releases.

pub mod bindings;
pub mod component;
pub mod handles;
pub mod limits;
pub mod printed;
pub mod settings;

use std::sync::Arc;

use crate::capability::{Attempt, CapabilityError, Code};
use crate::frames::FrameRange;
use crate::terms::Blame;
use component::Component;

/// What a plugin says of itself.
#[derive(Debug, Clone)]
pub struct Description {
    /// One sentence.
    pub summary: String,
    /// JSON Schema of its settings.
    pub settings_schema: serde_json::Value,
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

    /// Says whether another attempt may fare better.
    pub fn is_retryable(&self) -> bool {
        matches!(self.blame(), Blame::Blender | Blame::Plugin)
    }
}

/// The code of one release, ready to be called.
#[derive(Debug)]
pub enum Plugin {
    /// A WebAssembly component.
    Component(Component),
}

impl Plugin {
    /// Asks the plugin what it is.
    pub async fn describe(&self) -> Result<Description, PluginError> {
        let Self::Component(component) = self;
        component.describe().await
    }

    /// Asks for a page of a job's plan.
    pub async fn plan(
        &self,
        attempt: Arc<Attempt>,
        job: &Job,
        cursor: Option<&str>,
    ) -> Result<Page, PluginError> {
        let Self::Component(component) = self;
        component.plan(Some(attempt), job, cursor).await
    }

    /// Makes an attempt at a task.
    pub async fn render(
        &self,
        attempt: Arc<Attempt>,
        job: &Job,
        task: &PlannedTask,
        number: u32,
    ) -> Result<Outcome, PluginError> {
        let Self::Component(component) = self;
        component.render(attempt, job, task, number).await
    }
}
