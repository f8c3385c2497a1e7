//! What a client can ask about plugins, and ask of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::types::{
    Favour, Holder, Install, OnePlugin, Plugin, Plugins, RolledBack, Settings, Submission, Why,
};
use super::{RequestError, Result, Service, ServiceError};
use crate::config::file::Config;
use crate::events::EventKind;
use crate::plugin::Plugin as Code;
use crate::releases::lifecycle::{Catalogue, Refused, Rejected, Standing};
use crate::releases::shelf::is_path;
use crate::releases::{Loaded, OpenJob, Release, ReleaseError, Requirement};
use crate::store::jobs::JobRow;
use crate::store::now_ms;
use crate::terms::ReleaseState;

/// How long the end of a host waits for what was counted to be stored.
const COUNTED: Duration = Duration::from_secs(1);

impl Service {
    /// Ends the processes of all plugins, and stores what was counted.
    pub async fn stop_plugins(&self) {
        self.parts.releases.stop().await;
        self.parts.releases.catalogue().note_counts();
        // A disk that is full does not keep the host from ending.
        let _ = tokio::time::timeout(COUNTED, self.note_releases()).await;
    }

    /// Looks at places of the operator's folder, and takes what is new there.
    pub async fn look_at(&self, places: Vec<PathBuf>) {
        for place in places {
            self.look_at_one(&place).await;
            self.note_releases().await;
        }
        self.told_releases().await;
    }

    /// Lets go at once of what the operator has taken out of his folder.
    async fn let_go_of(&self, places: Vec<PathBuf>) {
        places.iter().for_each(|place| self.parts.releases.catalogue().vanish(place, now_ms()));
        self.note_releases().await;
        self.look_at(places).await;
    }

    /// Whether a place should be looked at again: it was not its own fault that it was rejected, or
    /// the folder is gone with all that was in it.
    pub fn is_to_be_looked_at_again(&self, place: &Path) -> bool {
        let is_lost = self.parts.releases.shelf.is_lost();
        let catalogue = self.parts.releases.catalogue();
        let may_pass = catalogue.rejected().get(place).is_some_and(|rejected| rejected.may_pass);
        may_pass || (is_lost && catalogue.at(place).is_some())
    }

    async fn look_at_one(&self, place: &Path) {
        let releases = &self.parts.releases;
        // On which disk the folder lies is noted as long as something is there.
        let known = releases.catalogue().places();
        let is_lost = tokio::task::block_in_place(|| releases.shelf.look_for(&known));
        if std::fs::symlink_metadata(place).is_err() {
            // A disk that is gone takes nothing away: it is trouble, and no order.
            if is_lost {
                return;
            }
            releases.catalogue().miss(place, now_ms());
            // What was in it may be in another place as well.
            let others = tokio::task::block_in_place(|| releases.shelf.places());
            for other in others {
                let is_known = {
                    let catalogue = releases.catalogue();
                    catalogue.at(&other).is_some() || catalogue.rejected().contains_key(&other)
                };
                if !is_known && let Err((error, release)) = self.take(&other).await {
                    releases.reject(&other, &error, release.as_ref());
                }
            }
            return;
        }
        releases.catalogue().found(place);
        if let Err((error, release)) = self.take(place).await {
            tracing::warn!(place = %place.display(), %error, "a plugin is rejected");
            releases.reject(place, &error, release.as_ref());
        }
    }

    async fn take(&self, place: &Path) -> std::result::Result<(), (ReleaseError, Option<Release>)> {
        let releases = &self.parts.releases;
        let Some(release) = releases.read(place).await? else { return Ok(()) };
        let jobs = self.open_jobs(&release.name).await;
        // What is told of it meanwhile need not be waited for.
        let proving = releases.prove(release.clone(), &jobs);
        let (proved, _) = tokio::join!(proving, self.note_releases());
        proved.map_err(|error| (error, Some(release)))
    }

    /// Lists the open jobs of a plugin.
    async fn open_jobs(&self, name: &str) -> Vec<OpenJob> {
        let rows = self.parts.store.open_jobs().await.unwrap_or_default();
        let open = |row: JobRow| {
            let submission: Submission = serde_json::from_str(&row.request).ok()?;
            let pinned: super::types::Release = serde_json::from_str(&row.release).ok()?;
            let wish = super::check::wish(row.id, &submission).ok()??;
            let Settings::Object(settings) = submission.settings else { return None };
            let version = pinned.version.parse().ok()?;
            (wish.wanted.name == name).then_some(OpenJob { wish, version, settings })
        };
        rows.into_iter().filter_map(open).collect()
    }

    /// Stores and tells where releases stand now. True if one stands elsewhere than before.
    async fn note_releases(&self) -> bool {
        let Some(changes) = self.parts.releases.take_changes() else { return false };
        let has_moved = !changes.events.is_empty();
        changes.events.iter().for_each(log);
        let changes = Arc::new(changes);
        let write = self.parts.store.write_patiently(move |writing| {
            changes.rows.iter().try_for_each(|row| writing.set_release(row))?;
            changes.events.iter().try_for_each(|event| writing.append(event.clone()))
        });
        if let Err(error) = write.await {
            tracing::error!(%error, "where releases stand could not be stored");
        }
        has_moved
    }

    /// Lets jobs follow where releases stand now.
    async fn told_releases(&self) {
        let _ = self.parts.jobs.follow_releases().await;
        self.note_releases().await;
    }

    /// Does what is to be done to releases now and then; `keep` old ones stay on disk.
    pub async fn tend_releases(&self) {
        let releases = &self.parts.releases;
        {
            let (in_use, mut catalogue) = (releases.in_use(), releases.catalogue());
            catalogue.expire(now_ms());
            catalogue.look_at_canaries(now_ms());
            catalogue.retire(&in_use, now_ms());
            catalogue.note_counts();
        }
        if self.note_releases().await {
            self.told_releases().await;
        }
    }

    /// Takes up what a configuration says of plugins.
    pub fn reconfigure(&self, config: &Config, dev: bool) {
        self.parts.releases.reconfigure(config, dev);
    }

    /// Lets go of releases that nothing needs any more, but for so many.
    pub async fn collect_releases(&self, keep: usize) -> Result<()> {
        let pinned = self.parts.store.pinned_releases().await?.into_iter().collect();
        let releases = self.parts.releases.clone();
        let gone = super::check::blocking(move || releases.forget(keep, pinned)).await;
        if !gone.is_empty() {
            let forget = move |writing: &mut crate::store::Writing<'_>| {
                gone.iter().try_for_each(|digest| writing.delete_release(digest))
            };
            self.parts.store.write(forget).await?;
        }
        Ok(())
    }

    /// Lists all releases of all plugins, and what was rejected.
    pub async fn plugins(&self) -> Plugins {
        let releases = &self.parts.releases;
        if !releases.settled().await {
            return Plugins { plugins: Vec::new() };
        }
        let loaded = releases.in_memory();
        let catalogue = releases.catalogue();
        let listed = |standing: &Standing| Plugin {
            is_loaded: loaded.contains(&standing.row.digest),
            ..shown(standing, catalogue.share(standing))
        };
        let mut plugins: Vec<Plugin> = catalogue.list().into_iter().map(listed).collect();
        plugins.extend(catalogue.rejected().iter().map(|(place, rejected)| refused(place, rejected)));
        Plugins { plugins }
    }

    /// Shows a release and its settings.
    pub async fn plugin(&self, OnePlugin { id }: OnePlugin) -> Result<Plugin> {
        let releases = &self.parts.releases;
        if is_path(&id) {
            let read =
                tokio::task::block_in_place(|| releases.shelf.find(&id)).map_err(RequestError::from)?;
            let loaded = releases.load(read).await.map_err(RequestError::from)?;
            let plugin = unlisted(&loaded.release, ReleaseState::Retired, "it is not installed");
            return Ok(whole(plugin, &loaded));
        }
        releases.settled().await;
        let wanted = requirement(&id)?;
        let found = {
            let catalogue = releases.catalogue();
            let best = catalogue.best(&wanted);
            best.map(|standing| (standing.row.digest.clone(), shown(standing, catalogue.share(standing))))
        };
        let unknown = || RequestError::from(releases.unknown(&wanted));
        let (digest, plugin) = found.ok_or_else(unknown)?;
        let pin = releases.pin_to(&digest).map_err(refusal)?;
        let loaded = pin.loaded(releases).await.map_err(RequestError::from)?;
        Ok(whole(plugin, &loaded))
    }

    /// Proves a plugin and puts it into the operator's folder.
    pub async fn install(self: &Arc<Self>, Install { path }: Install) -> Result<Plugin> {
        if !path.is_absolute() {
            return Err(RequestError::Relative(path).into());
        }
        self.whole(|service| async move {
            let releases = &service.parts.releases;
            releases.settled().await;
            let (loaded, place) = releases.install(&path).await.map_err(RequestError::from)?;
            service.look_at(vec![place]).await;
            service.known(&loaded.release.digest)
        })
        .await
    }

    /// Takes a release out of the operator's folder; jobs that are pinned to it keep it.
    pub async fn remove(self: &Arc<Self>, OnePlugin { id }: OnePlugin) -> Result<Plugin> {
        self.whole(|service| async move {
            let releases = &service.parts.releases;
            releases.settled().await;
            let remove = || releases.shelf.remove(&id);
            let removed = tokio::task::block_in_place(remove).map_err(RequestError::from)?;
            let places = removed.iter().filter_map(|copy| copy.place.clone());
            service.let_go_of(places.collect()).await;
            // One that was rejected stood nowhere but in the folder.
            let rejected = || unlisted(&removed[0], ReleaseState::Rejected, "it is gone from the folder");
            Ok(service.known(&removed[0].digest).unwrap_or_else(|_| rejected()))
        })
        .await
    }

    /// Lets a release be tried that wants more than the one before it.
    pub async fn approve(self: &Arc<Self>, OnePlugin { id }: OnePlugin) -> Result<Plugin> {
        self.change(id, Catalogue::meant_to_approve, |releases, digest| releases.approve(digest, now_ms()))
            .await
    }

    /// Lets a release serve at once.
    pub async fn promote(self: &Arc<Self>, OnePlugin { id }: OnePlugin) -> Result<Plugin> {
        self.change(id, Catalogue::meant_to_promote, |releases, digest| releases.promote(digest, now_ms()))
            .await
    }

    /// Takes a release out of service.
    pub async fn quarantine(self: &Arc<Self>, OnePlugin { id }: OnePlugin) -> Result<Plugin> {
        self.change(id, Catalogue::meant_to_quarantine, |releases, digest| {
            releases.quarantine(digest, "the operator quarantined it", now_ms());
            Ok(())
        })
        .await
    }

    /// Makes a release serve whatever is newer, or lets the newest serve again.
    pub async fn favour(self: &Arc<Self>, Favour { id, off }: Favour) -> Result<Plugin> {
        let find = if off { Catalogue::favoured } else { Catalogue::meant_to_pin };
        self.change(id, find, move |releases, digest| releases.favour(digest, !off, now_ms())).await
    }

    /// Goes back from the release that serves to the one before it.
    pub async fn roll_back(self: &Arc<Self>, OnePlugin { id }: OnePlugin) -> Result<RolledBack> {
        self.whole(|service| async move {
            let releases = &service.parts.releases;
            releases.settled().await;
            let (from, to) = releases.catalogue().roll_back(&id, now_ms()).map_err(refusal)?;
            service.note_releases().await;
            service.told_releases().await;
            Ok(RolledBack { from: service.known(&from)?, to: service.known(&to)? })
        })
        .await
    }

    /// Says what holds a release.
    pub async fn why(&self, OnePlugin { id }: OnePlugin) -> Result<Why> {
        self.parts.releases.settled().await;
        let wanted = requirement(&id)?;
        let digest = self.parts.releases.catalogue().meant(&wanted).map_err(refusal)?.row.digest.clone();
        let pinned = self.parts.store.jobs_pinned_to(digest.clone()).await?;
        let now = now_ms();
        let leased = self.devices.leased().into_iter().filter(|leased| leased.release == digest);
        let leases: Vec<Holder> = leased
            .map(|leased| Holder { id: leased.job, age_seconds: leased.since.elapsed().as_secs_f64() })
            .collect();
        let holder = |(id, created_ms): (_, u64)| {
            let age_seconds = now.saturating_sub(created_ms) as f64 / 1000.0;
            Holder { id, age_seconds }
        };
        let is_loaded = self.parts.releases.in_memory().contains(&digest);
        let jobs = pinned.into_iter().map(holder).collect();
        Ok(Why { plugin: self.known(&digest)?, jobs, leases, is_loaded })
    }

    async fn change(
        self: &Arc<Self>,
        id: String,
        find: for<'a> fn(&'a Catalogue, &Requirement) -> Result<&'a Standing, Refused>,
        change: impl FnOnce(&mut Catalogue, &str) -> Result<(), Refused> + Send + 'static,
    ) -> Result<Plugin> {
        self.whole(|service| async move {
            service.parts.releases.settled().await;
            let wanted = requirement(&id)?;
            let digest = {
                let mut catalogue = service.parts.releases.catalogue();
                let digest = find(&catalogue, &wanted).map_err(refusal)?.row.digest.clone();
                change(&mut catalogue, &digest).map_err(refusal)?;
                digest
            };
            service.note_releases().await;
            service.told_releases().await;
            service.known(&digest)
        })
        .await
    }

    fn known(&self, digest: &str) -> Result<Plugin> {
        let catalogue = self.parts.releases.catalogue();
        let unknown = || ServiceError::Unknown { what: "release", id: digest.to_owned() };
        let standing = catalogue.get(digest).ok_or_else(unknown)?;
        Ok(shown(standing, catalogue.share(standing)))
    }
}

/// Tells the operator where a release stands now. What was rejected is told with its place.
fn log(event: &EventKind) {
    let EventKind::ReleaseState { id, version, state, why, .. } = event else { return };
    let version = version.as_deref().unwrap_or_default();
    match state {
        ReleaseState::Quarantined | ReleaseState::Held => tracing::warn!("{id} {version} is {state}: {why}"),
        ReleaseState::Rejected => {}
        _ => tracing::info!("{id} {version} is {state}: {why}"),
    }
}

fn refusal(refused: Refused) -> ServiceError {
    RequestError::Release(ReleaseError::Refused(refused)).into()
}

pub(super) fn requirement(id: &str) -> Result<Requirement> {
    Ok(id.parse().map_err(ReleaseError::from).map_err(RequestError::from)?)
}

fn shown(standing: &Standing, share: f64) -> Plugin {
    let (row, samples) = (&standing.row, &standing.samples);
    Plugin {
        version: Some(row.version.to_string()),
        build: row.build,
        digest: Some(row.digest.clone()),
        source: row.place.as_deref().map(PathBuf::from),
        presence: row.presence,
        chosen: row.chosen,
        share,
        tasks: row.counts.tasks,
        failures: row.counts.failures,
        p50: samples.seconds(0.5),
        p99: samples.seconds(0.99),
        memory: samples.memory(),
        capabilities: row.capabilities.clone(),
        ..Plugin::new(&row.name, row.state, &row.why, row.since_ms)
    }
}

fn refused(place: &Path, rejected: &Rejected) -> Plugin {
    Plugin {
        version: rejected.version.clone(),
        digest: rejected.digest.clone(),
        source: Some(place.to_owned()),
        ..Plugin::new(&rejected.name, ReleaseState::Rejected, &rejected.why, rejected.since_ms)
    }
}

/// Shows a release that is in no catalogue.
pub fn unlisted(release: &Release, state: ReleaseState, why: &str) -> Plugin {
    Plugin {
        version: Some(release.version.to_string()),
        digest: Some(release.digest.clone()),
        source: release.place.clone(),
        ..Plugin::new(&release.name, state, why, now_ms())
    }
}

/// Adds what only its code says.
pub fn whole(plugin: Plugin, loaded: &Loaded) -> Plugin {
    let kind = match loaded.plugin {
        Code::Component(_) => "component",
        Code::Process(_) => "process",
    };
    Plugin {
        summary: Some(loaded.description.summary.clone()),
        kind: Some(kind.to_owned()),
        api: Some(loaded.plugin.api().to_string()),
        capabilities: loaded.grants.wanted.clone(),
        denied: loaded.grants.denied().collect(),
        settings: Some(loaded.schema.value().clone()),
        ..plugin
    }
}
