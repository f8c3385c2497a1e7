//! New releases: from the operator's folder to the catalogue, and what is done to them
//! now and then; new words of the operator about them.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::file::{Config, seconds};
use crate::releases::Releases;
use crate::releases::watcher::Watcher;
use crate::service::Service;

/// How many plugins are looked at at a time: one that takes long holds up no other.
const LANES: usize = 4;
/// How long it takes until a place is looked at again that was rejected through no fault of its own.
const AGAIN: Duration = Duration::from_secs(5);
/// How long those may wait who ask for a plugin by its name when the host comes up.
const SETTLING: Duration = Duration::from_secs(20);
/// How often releases are tended.
const TEND: Duration = Duration::from_secs(1);

/// Looks at what is new in the operator's folder, each place alone and several at a time.
pub(super) struct Deploying {
    service: Arc<Service>,
    releases: Arc<Releases>,
    watcher: Watcher,
    lanes: Arc<Semaphore>,
    running: JoinSet<PathBuf>,
    /// The places that are being looked at, and those that have changed since.
    busy: HashSet<PathBuf>,
    again: HashSet<PathBuf>,
    /// What was there when the host came up and is not known yet; none once all is.
    first: Option<HashSet<PathBuf>>,
}

impl Deploying {
    pub(super) fn new(service: Arc<Service>, releases: Arc<Releases>, config: &Config) -> Self {
        let known = releases.catalogue().places();
        let quiet = seconds(config.releases.quiet_seconds);
        let watcher = Watcher::plugins(releases.shelf.plugins.clone(), quiet, known);
        let lanes = Arc::new(Semaphore::new(LANES));
        let (first, (running, busy, again)) = (Some(watcher.waiting()), Default::default());
        Self { service, releases, watcher, lanes, running, busy, again, first }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        self.settle();
        let late = tokio::time::sleep(SETTLING);
        tokio::pin!(late);
        loop {
            tokio::select! {
                () = &mut late, if self.first.is_some() => {
                    // One that is being written holds up nobody.
                    self.first = Some(HashSet::new());
                    self.settle();
                }
                places = self.watcher.next() => places.into_iter().for_each(|place| self.look_at(place)),
                Some(done) = self.running.join_next() => self.looked(done.ok()),
                () = stop.cancelled() => return,
            }
        }
    }

    fn look_at(&mut self, place: PathBuf) {
        if !self.busy.insert(place.clone()) {
            self.again.insert(place);
            return;
        }
        let (service, lanes) = (self.service.clone(), self.lanes.clone());
        self.running.spawn(async move {
            let _lane = lanes.acquire().await.expect("the lanes are never closed");
            // Whatever became of it, others wait to hear of the place.
            let looking = AssertUnwindSafe(service.look_at(vec![place.clone()])).catch_unwind();
            if looking.await.is_err() {
                tracing::error!(place = %place.display(), "the host failed while it looked at a plugin");
            }
            place
        });
    }

    fn looked(&mut self, place: Option<PathBuf>) {
        let Some(place) = place else { return };
        self.busy.remove(&place);
        if let Some(first) = &mut self.first {
            first.remove(&place);
        }
        self.settle();
        if self.again.remove(&place) {
            self.look_at(place);
        } else if self.service.is_to_be_looked_at_again(&place) {
            self.watcher.again(place, AGAIN);
        }
    }

    /// Lets jobs be submitted by name once all is known that was there at the start.
    fn settle(&mut self) {
        if self.first.as_ref().is_some_and(HashSet::is_empty) {
            self.first = None;
            self.releases.settle();
        }
    }
}

/// Tends releases.
pub(super) async fn tend(service: Arc<Service>, stop: CancellationToken) {
    let tend = async || {
        tokio::time::sleep(TEND).await;
        service.tend_releases().await;
    };
    while stop.run_until_cancelled(tend()).await.is_some() {}
}

/// Takes up what the configuration says of plugins whenever it changes.
pub(super) async fn follow(
    service: Arc<Service>,
    mut watcher: Watcher,
    file: PathBuf,
    dev: bool,
    stop: CancellationToken,
) {
    while stop.run_until_cancelled(watcher.next()).await.is_some() {
        match Config::read(Some(&file)) {
            Ok((config, _)) => {
                service.reconfigure(&config, dev);
                let file = file.display();
                tracing::info!(%file, "took up [plugin] and [rollout]; the rest counts from the next start");
            }
            Err(error) => tracing::error!(%error, "the configuration stays as it was"),
        }
    }
}
