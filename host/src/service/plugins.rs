//! What a client can ask about plugins.

use std::path::PathBuf;

use super::types::{OnePlugin, Plugin, PluginState, Plugins};
use super::{RequestError, Result, Service};
use crate::releases::{Release, ReleaseError};

impl Service {
    /// Ends the processes of all plugins.
    pub async fn stop_plugins(&self) {
        self.parts.releases.stop().await;
    }

    /// Lists the plugins.
    pub async fn plugins(&self) -> Plugins {
        let mut plugins = Vec::new();
        for (source, release) in self.parts.releases.list() {
            let loaded = match release {
                Ok(release) => self.plugin_of(release, source.clone(), false).await,
                Err(error) => Err(error),
            };
            plugins.push(loaded.unwrap_or_else(|error| rejected(source, &error)));
        }
        Plugins { plugins }
    }

    /// Shows a plugin and its settings.
    pub async fn plugin(&self, OnePlugin { id }: OnePlugin) -> Result<Plugin> {
        let release = self.parts.releases.find(&id).map_err(RequestError::from)?;
        let source = release.place.as_ref().map_or("shipped".to_owned(), |place| place.display().to_string());
        Ok(self.plugin_of(release, source, true).await.map_err(RequestError::from)?)
    }

    async fn plugin_of(
        &self,
        release: Release,
        source: String,
        settings: bool,
    ) -> std::result::Result<Plugin, ReleaseError> {
        let loaded = self.parts.releases.load(release).await?;
        Ok(Plugin {
            id: loaded.release.name.clone(),
            state: PluginState::Active,
            version: Some(loaded.release.version.to_string()),
            digest: Some(loaded.release.digest.clone()),
            summary: loaded.description.summary.clone(),
            source,
            settings: settings.then(|| loaded.schema.value().clone()),
        })
    }
}

fn rejected(source: String, error: &ReleaseError) -> Plugin {
    let id = PathBuf::from(&source).file_stem().map_or(source.clone(), |stem| stem.to_string_lossy().into());
    let summary = error.to_string();
    Plugin { id, state: PluginState::Rejected, version: None, digest: None, summary, source, settings: None }
}
