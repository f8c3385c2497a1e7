//! Where every release stands, and which one a job gets; pure.
//!
//! ```text
//! checking ─► held ──approve──┐
//!     │  └────────────────────┴─► canary ─► active ◄─► draining ◄─► retired
//!     └─► rejected                   └─► quarantined ◄─┘ (by hand)
//! ```
//!
//! Of the releases that were proven, the newest of each line of compatible versions is
//! active. An older one is draining while jobs are pinned to it, and then retired: it is
//! kept, and serves again when the newer one has to go.

mod choice;
mod orders;
mod places;
mod standing;
mod trial;

pub use standing::{Changes, Follow, Refused, Rejected, Rules, Standing, Way, Wish, label};

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::Release;
use crate::events::EventKind;
use crate::store::releases::{Counts, ReleaseRow};
use crate::terms::{Capability, JobId, Presence, ReleaseState};
use standing::{line, numbered};

/// All releases of a host.
#[derive(Debug, Default)]
pub struct Catalogue {
    rules: Rules,
    standings: BTreeMap<String, Standing>,
    by_name: HashMap<String, BTreeSet<String>>,
    rejected: BTreeMap<PathBuf, Rejected>,
    changed: BTreeSet<String>,
    /// Those of which only the counts changed.
    counted: BTreeSet<String>,
    events: Vec<EventKind>,
}

impl Catalogue {
    /// Takes up what is stored.
    pub fn restore(rows: Vec<ReleaseRow>, rules: Rules) -> Self {
        let mut catalogue = Self { rules, ..Self::default() };
        rows.into_iter().for_each(|row| catalogue.insert(Standing::new(row)));
        catalogue
    }

    /// Takes up what is part of this program; what was part of an earlier one is not any more.
    pub fn ship(&mut self, shipped: &[Release], now_ms: u64) {
        let gone: Vec<String> = self
            .standings
            .values()
            .filter(|standing| standing.row.place.is_none())
            .map(|standing| standing.row.digest.clone())
            .filter(|digest| !shipped.iter().any(|release| release.digest == *digest))
            .collect();
        for digest in gone {
            self.edit(&digest).expect("it was just found").row.presence = Presence::Removed;
        }
        for release in shipped {
            self.arrive(release, Vec::new(), now_ms);
            let row = &self.standings[&release.digest].row;
            if !row.proven && row.state != ReleaseState::Quarantined {
                self.prove(&release.digest, "it comes with this Hotshoe", now_ms);
            }
        }
    }

    /// Changes how new releases are tried.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    fn insert(&mut self, standing: Standing) {
        let (name, digest) = (standing.row.name.clone(), standing.row.digest.clone());
        self.by_name.entry(name).or_default().insert(digest.clone());
        self.standings.insert(digest, standing);
    }

    /// Returns a release.
    pub fn get(&self, digest: &str) -> Option<&Standing> {
        self.standings.get(digest)
    }

    /// Lists all releases, by name and the newest first.
    pub fn list(&self) -> Vec<&Standing> {
        let mut all: Vec<&Standing> = self.standings.values().collect();
        all.sort_by(|a, b| {
            let newest = (&b.row.version, b.row.build).cmp(&(&a.row.version, a.row.build));
            a.row.name.cmp(&b.row.name).then(newest)
        });
        all
    }

    /// Lists the files that cannot be used.
    pub fn rejected(&self) -> &BTreeMap<PathBuf, Rejected> {
        &self.rejected
    }

    /// Returns the release that a place held when it was last looked at.
    pub fn at(&self, place: &Path) -> Option<&Standing> {
        let place = place.to_str()?;
        let is_there = |standing: &&Standing| {
            standing.row.presence == Presence::Present && standing.row.place.as_deref() == Some(place)
        };
        self.standings.values().find(is_there)
    }

    /// Lists all places that are known.
    pub fn places(&self) -> Vec<PathBuf> {
        let present = self.standings.values().filter(|standing| standing.row.presence == Presence::Present);
        let places = present.filter_map(|standing| standing.row.place.as_deref().map(PathBuf::from));
        places.chain(self.rejected.keys().cloned()).collect()
    }

    fn of_name(&self, name: &str) -> impl Iterator<Item = &Standing> {
        let digests = self.by_name.get(name).into_iter().flatten();
        digests.filter_map(|digest| self.standings.get(digest))
    }

    fn edit(&mut self, digest: &str) -> Option<&mut Standing> {
        let standing = self.standings.get_mut(digest)?;
        self.changed.insert(digest.to_owned());
        Some(standing)
    }

    fn become_(&mut self, digest: &str, state: ReleaseState, why: &str, now_ms: u64) {
        let Some(standing) = self.edit(digest) else { return };
        let row = &mut standing.row;
        (row.state, row.why, row.since_ms) = (state, why.to_owned(), now_ms);
        let version = numbered(&row.version, row.build);
        let (id, digest) = (row.name.clone(), Some(digest.to_owned()));
        let event =
            EventKind::ReleaseState { id, version: Some(version), digest, state, why: why.to_owned() };
        self.events.push(event);
    }

    /// Has what was only counted stored as well.
    pub fn note_counts(&mut self) {
        self.changed.append(&mut self.counted);
    }

    /// Takes what is new since the last time.
    pub fn take_changes(&mut self) -> Changes {
        let mut rows = Vec::new();
        for digest in std::mem::take(&mut self.changed) {
            let Some(standing) = self.standings.get_mut(&digest) else { continue };
            standing.row.edition += 1;
            rows.push(standing.row.clone());
        }
        Changes { rows, events: std::mem::take(&mut self.events) }
    }

    /// Whether anything is new since the last time.
    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty() || !self.events.is_empty()
    }

    /// Says why a release that is new cannot be taken, before it is looked at any further.
    pub fn check(&self, release: &Release) -> Result<(), Refused> {
        let same = self
            .of_name(&release.name)
            .find(|other| other.row.version == release.version && other.row.digest != release.digest);
        match same {
            Some(other) if !self.rules.dev => Err(Refused(format!(
                "version {} of {} is known with other bytes (sha256:{})\n\
                 give it another version, or try builds in a host with --dev",
                release.version,
                release.name,
                &other.row.digest[..12]
            ))),
            _ => Ok(()),
        }
    }

    /// Whether a release has to be checked before it is taken.
    pub fn is_new(&self, digest: &str) -> bool {
        !self.standings.contains_key(digest)
    }

    /// Tells that a release is being looked at.
    pub fn checking(&mut self, release: &Release) {
        self.events.push(EventKind::ReleaseState {
            id: release.name.clone(),
            version: Some(release.version.to_string()),
            digest: Some(release.digest.clone()),
            state: ReleaseState::Checking,
            why: release.place.as_ref().map_or_else(String::new, |place| place.display().to_string()),
        });
    }

    /// Takes a release that was found fit; one that is known already is where it was found now.
    pub fn arrive(&mut self, release: &Release, capabilities: Vec<Capability>, now_ms: u64) {
        let (name, digest) = (release.name.as_str(), release.digest.as_str());
        let place = release.place.as_ref().and_then(|place| place.to_str()).map(str::to_owned);
        self.leave_place(release.place.as_deref(), Some(digest));
        let is_new = self.is_new(digest);
        if is_new {
            let builds = self.of_name(name).filter(|other| other.row.version == release.version);
            let build = builds.map(|other| other.row.build + 1).max().unwrap_or(0);
            let before = self.before(name, &release.version, digest);
            let before = before.map(|standing| standing.row.digest.clone());
            self.insert(Standing::new(ReleaseRow {
                digest: digest.to_owned(),
                edition: 0,
                name: name.to_owned(),
                version: release.version.clone(),
                build,
                state: ReleaseState::Checking,
                why: String::new(),
                since_ms: now_ms,
                place: place.clone(),
                presence: Presence::Present,
                capabilities,
                approved: false,
                proven: false,
                chosen: false,
                before,
                counts: Counts::default(),
            }));
        }
        let was = self.standings[digest].row.presence;
        let standing = self.edit(digest).expect("it is there");
        (standing.row.place, standing.row.presence) = (place, Presence::Present);
        (standing.arrived_ms, standing.vanished_ms) = (now_ms, None);
        if is_new || was == Presence::Removed {
            self.begin(digest, now_ms);
        }
        self.settle(name, now_ms);
    }

    /// Decides how a release begins to serve.
    fn begin(&mut self, digest: &str, now_ms: u64) {
        let row = &self.standings[digest].row;
        if row.proven || row.state == ReleaseState::Quarantined {
            return;
        }
        let before = row.before.as_deref().and_then(|before| self.standings.get(before));
        let more: Vec<String> = match before {
            Some(before) if !row.approved => {
                let known = &before.row.capabilities;
                row.capabilities.iter().filter(|one| !known.contains(one)).map(ToString::to_string).collect()
            }
            _ => Vec::new(),
        };
        let (name, version) = (row.name.clone(), row.version.clone());
        let rules = self.rules.of_plugin(&name);
        // What lies in the place of a newer one is what the operator went back to.
        let is_newer = |s: &&Standing| {
            let serves = s.row.proven && s.serves() && s.row.presence == Presence::Present;
            serves && s.line() == line(&version) && s.row.version > version
        };
        let newer = self.of_name(&name).find(is_newer).map(Standing::label);
        match before {
            Some(_) if newer.is_some() => {
                let why = format!("older than {}, which serves", newer.unwrap_or_default());
                self.become_(digest, ReleaseState::Retired, &why, now_ms);
            }
            Some(before) if !more.is_empty() => {
                let why = format!(
                    "it asks for {}, which {} does not use\n`hotshoe plugin approve {name}@={version}` allows it",
                    more.join(", "),
                    before.label()
                );
                self.become_(digest, ReleaseState::Held, &why, now_ms);
            }
            Some(before) if rules.first + rules.tasks > 0 => {
                let why = format!("on trial: {rules}; {} serves meanwhile", before.label());
                self.become_(digest, ReleaseState::Canary, &why, now_ms);
            }
            Some(_) => self.prove(digest, "new releases serve at once", now_ms),
            None => self.prove(digest, "first release", now_ms),
        }
    }

    fn prove(&mut self, digest: &str, why: &str, now_ms: u64) {
        let Some(standing) = self.edit(digest) else { return };
        (standing.row.proven, standing.race) = (true, None);
        let name = standing.row.name.clone();
        self.become_(digest, ReleaseState::Active, why, now_ms);
        self.settle(&name, now_ms);
    }

    /// Finds for each line of compatible versions the one that serves.
    fn settle(&mut self, name: &str, now_ms: u64) {
        let proven = |standing: &&Standing| standing.row.proven && standing.serves();
        let mut best: HashMap<_, &Standing> = HashMap::new();
        for standing in self.of_name(name).filter(proven) {
            let known = best.entry(standing.line()).or_insert(standing);
            if standing.rank() > known.rank() {
                *known = standing;
            }
        }
        let best: HashMap<_, (String, String)> =
            best.into_iter().map(|(line, s)| (line, (s.row.digest.clone(), s.label()))).collect();
        let all: Vec<_> = self.of_name(name).map(|s| (s.row.digest.clone(), s.row.state, s.line())).collect();
        for (digest, state, line) in all {
            let is_best = best.get(&line).is_some_and(|(best, _)| *best == digest);
            match state {
                ReleaseState::Draining | ReleaseState::Retired if is_best => {
                    let why = self.why_again(&self.standings[&digest]);
                    self.become_(&digest, ReleaseState::Active, &why, now_ms);
                }
                ReleaseState::Active if !is_best => {
                    let why = best
                        .get(&line)
                        .map_or("its file is gone".to_owned(), |(_, label)| format!("{label} serves"));
                    self.become_(&digest, ReleaseState::Draining, &why, now_ms);
                }
                _ => {}
            }
        }
        self.begin_left_over(name, now_ms);
    }

    /// Lets a release begin that was passed over for a newer one, which is gone.
    fn begin_left_over(&mut self, name: &str, now_ms: u64) {
        let has_proven =
            |of: &Standing| self.of_name(name).any(|s| s.row.proven && s.serves() && s.line() == of.line());
        let next = self.of_name(name).filter(|s| s.is_passed_over() && !has_proven(s));
        let Some(row) = next.max_by_key(|s| s.rank()).map(|s| s.row.clone()) else { return };
        let before = self.before(name, &row.version, &row.digest).map(|s| s.row.digest.clone());
        self.edit(&row.digest).expect("it was just found").row.before = before;
        self.begin(&row.digest, now_ms);
    }

    /// Says why a release serves again.
    fn why_again(&self, standing: &Standing) -> String {
        let is_bad = |other: &&Standing| {
            let is_newer = other.line() == standing.line() && other.row.version >= standing.row.version;
            is_newer && other.row.state == ReleaseState::Quarantined
        };
        match self.of_name(&standing.row.name).filter(is_bad).max_by_key(|other| other.rank()) {
            _ if standing.row.chosen => "the operator pinned to it".to_owned(),
            Some(bad) => format!("{} is quarantined", bad.label()),
            None => "newest serving release".to_owned(),
        }
    }

    /// Notes that what is in a place cannot be used; what was there before goes on serving.
    pub fn reject(&mut self, place: &Path, rejected: Rejected) {
        let known = self.rejected.insert(place.to_owned(), rejected.clone());
        if known.is_some_and(|known| known.why == rejected.why && known.digest == rejected.digest) {
            return;
        }
        let Rejected { name: id, version, digest, why, .. } = rejected;
        self.events.push(EventKind::ReleaseState { id, version, digest, state: ReleaseState::Rejected, why });
    }

    /// Takes a release out of service that does harm.
    pub fn quarantine(&mut self, digest: &str, why: &str, now_ms: u64) {
        let Some(standing) = self.edit(digest) else { return };
        (standing.row.proven, standing.row.chosen, standing.race) = (false, false, None);
        let name = standing.row.name.clone();
        self.become_(digest, ReleaseState::Quarantined, why, now_ms);
        self.settle(&name, now_ms);
    }

    /// Notes that a job has ended.
    pub fn left(&mut self, job: JobId) {
        let firsts = self.standings.values_mut().filter(|standing| standing.first == Some(job));
        firsts.for_each(|standing| standing.first = None);
    }

    /// Retires those that drain and that nobody needs any more.
    pub fn retire(&mut self, in_use: &HashSet<String>, now_ms: u64) {
        let draining = self.standings.values().filter(|s| s.row.state == ReleaseState::Draining);
        let idle: Vec<String> = draining
            .filter(|s| s.busy == 0 && !in_use.contains(&s.row.digest))
            .map(|s| s.row.digest.clone())
            .collect();
        idle.iter().for_each(|digest| self.become_(digest, ReleaseState::Retired, "no job needs it", now_ms));
    }

    /// Forgets the oldest releases that are of no use any more, but for so many; returns them.
    pub fn forget(&mut self, keep: usize, pinned: &HashSet<String>) -> Vec<String> {
        let is_of_use = |standing: &Standing| {
            let row = &standing.row;
            pinned.contains(&row.digest)
                || row.presence == Presence::Present
                || !matches!(row.state, ReleaseState::Retired | ReleaseState::Quarantined)
        };
        let mut old: Vec<(u64, String)> = self
            .standings
            .values()
            .filter(|standing| !is_of_use(standing))
            .map(|standing| (standing.row.since_ms, standing.row.digest.clone()))
            .collect();
        old.sort();
        let count = old.len().saturating_sub(keep);
        let gone: Vec<String> = old.into_iter().take(count).map(|(_, digest)| digest).collect();
        for digest in &gone {
            if let Some(standing) = self.standings.remove(digest)
                && let Some(all) = self.by_name.get_mut(&standing.row.name)
            {
                all.remove(digest);
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests;
