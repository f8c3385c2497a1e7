//! Lets a [`Renderer`] answer the calls of the generated bindings.

use std::marker::PhantomData;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;

use crate::sys::exports::hotshoe::plugin::renderer as wire;
use crate::sys::hotshoe::plugin::types;
use crate::{Frames, Job, Page, Renderer, Result, Task};

/// The exported shape of a renderer.
pub struct Adapter<R>(PhantomData<R>);

impl<R: Renderer> wire::Guest for Adapter<R> {
    fn describe() -> wire::Description {
        wire::Description { summary: R::SUMMARY.to_owned(), settings_schema: schema::<R::Settings>() }
    }

    fn plan(job: wire::Job, cursor: Option<String>) -> Result<wire::Page, types::Error> {
        let page = R::plan(&typed(job)?, cursor.as_deref())?;
        Ok(page.into())
    }

    fn render(task: wire::Task) -> Result<wire::Outcome, types::Error> {
        let wire::Task { job, name, frame, payload, attempt } = task;
        Ok(R::render(&Task { job: typed(job)?, name, frame, payload, attempt })?)
    }
}

fn schema<S: JsonSchema>() -> String {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<S>().as_value().to_string()
}

fn typed<S: DeserializeOwned>(job: wire::Job) -> Result<Job<S>> {
    let settings = serde_json::from_str(&job.settings)?;
    Ok(Job { id: job.id, scene: job.scene, frames: Frames::new(job.frames), settings })
}

impl From<Page> for wire::Page {
    fn from(page: Page) -> Self {
        let tasks = page.tasks.into_iter().map(|task| wire::PlannedTask {
            name: task.name,
            frame: task.frame,
            after: task.after,
            payload: task.payload.unwrap_or_else(|| "null".to_owned()),
        });
        Self { tasks: tasks.collect(), next: page.next }
    }
}
