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
mod standing;

pub use standing::{Changes, Follow, Refused, Rejected, Rules, Standing, Way, Wish, label};

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::Release;
use super::rollout::{self, Race, Racer, Sample};
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
                let why = format!("it is older than {}, which serves", newer.unwrap_or_default());
                self.become_(digest, ReleaseState::Retired, &why, now_ms);
            }
            Some(before) if !more.is_empty() => {
                let why = format!(
                    "it wants {}, which {} does not\n`hotshoe plugin approve {name}@={version}` lets it",
                    more.join(", "),
                    before.label()
                );
                self.become_(digest, ReleaseState::Held, &why, now_ms);
            }
            Some(before) if rules.first + rules.tasks > 0 => {
                let why = format!("{} serves while {rules} try it", before.label());
                self.become_(digest, ReleaseState::Canary, &why, now_ms);
            }
            Some(_) => self.prove(digest, "new releases serve at once", now_ms),
            None => self.prove(digest, "it is the first", now_ms),
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
        let is_passed_over =
            |s: &&Standing| s.row.state == ReleaseState::Retired && !s.row.proven && s.serves();
        let has_proven =
            |of: &Standing| self.of_name(name).any(|s| s.row.proven && s.serves() && s.line() == of.line());
        let next = self.of_name(name).filter(is_passed_over).filter(|s| !has_proven(s));
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
            None => "it is the newest that serves".to_owned(),
        }
    }

    /// Notes that what was in a place is not there any more: another release is, or nothing.
    fn leave_place(&mut self, place: Option<&Path>, next: Option<&str>) {
        let Some(place) = place else { return };
        self.rejected.remove(place);
        let Some(text) = place.to_str() else { return };
        let here: Vec<String> = self
            .standings
            .values()
            .filter(|standing| standing.row.place.as_deref() == Some(text))
            .filter(|standing| Some(standing.row.digest.as_str()) != next)
            // What was removed once does not come back because another one is put there.
            .filter(|standing| next.is_none() || standing.row.presence == Presence::Present)
            .map(|standing| standing.row.digest.clone())
            .collect();
        for digest in here {
            let presence = if next.is_some() { Presence::Replaced } else { Presence::Removed };
            let standing = self.edit(&digest).expect("it was just found");
            (standing.row.presence, standing.vanished_ms) = (presence, None);
        }
    }

    /// Notes that a place is empty. What was there serves on for a while: many who put a new file
    /// there remove the old one first.
    pub fn miss(&mut self, place: &Path, now_ms: u64) {
        self.rejected.remove(place);
        let text = place.to_str();
        let here = self.standings.values_mut().filter(|s| s.row.presence == Presence::Present);
        for standing in here.filter(|s| s.row.place.as_deref() == text) {
            standing.vanished_ms.get_or_insert(now_ms);
        }
    }

    /// Notes that something is in a place; what was there before serves on until it is known what.
    pub fn found(&mut self, place: &Path) {
        let text = place.to_str();
        let here = self.standings.values_mut().filter(|s| s.row.place.as_deref() == text);
        here.for_each(|standing| standing.vanished_ms = None);
    }

    /// Lets go of releases whose place is empty for `grace_ms`, unless others came for them.
    pub fn expire(&mut self, grace_ms: u64, now_ms: u64) {
        let is_due =
            |s: &&Standing| s.vanished_ms.is_some_and(|since| now_ms.saturating_sub(since) >= grace_ms);
        let due: Vec<_> = self.standings.values().filter(is_due).map(|s| s.row.clone()).collect();
        for row in due {
            let standing = self.standings.get_mut(&row.digest).expect("it was just found");
            let since = standing.vanished_ms.take().unwrap_or_default();
            let has_come = |other: &Standing| {
                other.row.digest != row.digest
                    && other.row.presence == Presence::Present
                    && other.vanished_ms.is_none()
                    && (!other.row.proven || other.arrived_ms >= since)
            };
            let is_rejected = || self.rejected.values().any(|rejected| rejected.name == row.name);
            let place = PathBuf::from(row.place.clone().unwrap_or_default());
            if self.of_name(&row.name).any(has_come) || is_rejected() {
                self.edit(&row.digest).expect("it was just found").row.presence = Presence::Replaced;
                self.settle(&row.name, now_ms);
            } else {
                self.vanish(&place, now_ms);
            }
        }
    }

    /// Notes that what was in a place was taken out of it for good.
    pub fn vanish(&mut self, place: &Path, now_ms: u64) {
        let Some(text) = place.to_str() else { return };
        let names: BTreeSet<String> = self
            .standings
            .values()
            .filter(|standing| standing.row.place.as_deref() == Some(text))
            .map(|standing| standing.row.name.clone())
            .collect();
        self.leave_place(Some(place), None);
        for name in names {
            let unproven: Vec<String> = self
                .of_name(&name)
                .filter(|s| s.row.presence == Presence::Removed)
                .filter(|s| matches!(s.row.state, ReleaseState::Canary | ReleaseState::Held))
                .map(|s| s.row.digest.clone())
                .collect();
            for digest in unproven {
                self.become_(&digest, ReleaseState::Retired, "its file is gone", now_ms);
            }
            self.settle(&name, now_ms);
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

    /// Notes that an attempt begins.
    pub fn began(&mut self, digest: &str) {
        if let Some(standing) = self.standings.get_mut(digest) {
            standing.busy += 1;
        }
    }

    /// Notes how an attempt ended; `blamed` says that its failure is the plugin's. One that was
    /// done has no sample if nothing was rendered.
    pub fn ended(&mut self, digest: &str, done: Option<Option<Sample>>, blamed: bool, now_ms: u64) {
        let Some(standing) = self.standings.get_mut(digest) else { return };
        let name = standing.row.name.clone();
        standing.busy = standing.busy.saturating_sub(1);
        let is_canary = standing.row.state == ReleaseState::Canary;
        if done.is_some() {
            standing.row.counts.tasks += 1;
            standing.row.counts.trial += u64::from(is_canary);
        }
        standing.row.counts.failures += u64::from(blamed);
        if done.is_some() || blamed {
            // What a verdict follows from is stored with it; what is only counted can wait.
            let noted = if is_canary || blamed { &mut self.changed } else { &mut self.counted };
            noted.insert(digest.to_owned());
        }
        if let Some(sample) = done.flatten() {
            standing.samples.add(sample);
            self.raced(&name, digest, sample);
        }
        let is_racing = |s: &&Standing| s.race.is_some() && s.row.before.as_deref() == Some(digest);
        let racing: Vec<String> =
            self.of_name(&name).filter(is_racing).map(|s| s.row.digest.clone()).collect();
        racing.iter().for_each(|canary| self.judge(canary, now_ms));
        if is_canary && done.is_some() {
            self.judge(digest, now_ms);
        }
    }

    /// Takes down the time of a task in the races of its release.
    fn raced(&mut self, name: &str, digest: &str, Sample { scene, seconds, .. }: Sample) {
        for other in self.by_name.get(name).into_iter().flatten() {
            let Some(standing) = self.standings.get_mut(other) else { continue };
            let is_before = standing.row.before.as_deref() == Some(digest);
            let racer = if is_before { Racer::Before } else { Racer::New };
            let race = standing.race.as_mut().filter(|race| race.scene == scene);
            if let Some(race) = race.filter(|_| is_before || standing.row.digest == digest) {
                race.add(racer, seconds);
            }
        }
    }

    /// Returns the release that is to do the next task of a job in place of the one that it is
    /// pinned to: that one looks slow, and the one before it does every second task.
    pub fn races(&mut self, wish: &Wish, pin: &str, scene: u64) -> Option<String> {
        let before = self.get(pin)?.row.before.clone()?;
        let row = &self.get(&before).filter(|before| before.serves())?.row;
        if wish.is_fixed() || !wish.wanted.accepts_row(row) {
            return None;
        }
        let race = self.standings.get_mut(pin)?.race.as_mut().filter(|race| race.scene == scene)?;
        (race.begin_next() == Racer::Before).then_some(before)
    }

    /// Looks whether enough is known of a canary.
    fn judge(&mut self, digest: &str, now_ms: u64) {
        let Some(standing) = self.standings.get(digest).filter(|s| s.row.state == ReleaseState::Canary)
        else {
            return;
        };
        let rules = self.rules.of_plugin(&standing.row.name);
        let before = standing.row.before.as_ref().and_then(|before| self.standings.get(before));
        if let Some(why) = before.and_then(|b| standing.samples.larger_than(&b.samples, rules)) {
            return self.quarantine(digest, &why, now_ms);
        }
        match standing.race.as_ref().map(|race| (race.scene, race.verdict(rules))) {
            Some((_, None)) => return,
            Some((_, Some(Err(why)))) => return self.quarantine(digest, &why, now_ms),
            Some((scene, Some(Ok(())))) => self.end_race(digest, scene),
            None => {
                let slow = before.and_then(|b| standing.samples.slower_scene(&b.samples, rules));
                if let Some(scene) = slow {
                    self.standings.entry(digest.to_owned()).and_modify(|s| s.race = Some(Race::new(scene)));
                    return;
                }
            }
        }
        let standing = &self.standings[digest];
        if standing.doubts > 0 {
            return;
        }
        let rules = self.rules.of_plugin(&standing.row.name);
        let age_ms = now_ms.saturating_sub(standing.row.since_ms);
        if let Some(why) = rollout::is_proven(rules, &standing.row.counts, age_ms) {
            self.prove(digest, &why, now_ms);
        }
    }

    /// Ends a race that a new release has not lost. The times from before it came about under
    /// another load.
    fn end_race(&mut self, digest: &str, scene: u64) {
        let Some(standing) = self.standings.get_mut(digest) else { return };
        standing.race = None;
        standing.samples.forget(scene);
        let before = standing.row.before.clone();
        if let Some(before) = before.and_then(|before| self.standings.get_mut(&before)) {
            before.samples.forget(scene);
        }
    }

    /// Notes that somebody else is to try what a release failed at, or that it was tried.
    pub fn doubted(&mut self, digest: &str, begins: bool) {
        if let Some(standing) = self.standings.get_mut(digest) {
            let doubts = standing.doubts;
            standing.doubts = if begins { doubts + 1 } else { doubts.saturating_sub(1) };
        }
    }

    /// Lets canaries serve that were tried for long enough.
    pub fn look_at_canaries(&mut self, now_ms: u64) {
        let canaries = self.standings.values().filter(|s| s.row.state == ReleaseState::Canary);
        let canaries: Vec<String> = canaries.map(|s| s.row.digest.clone()).collect();
        canaries.iter().for_each(|digest| self.judge(digest, now_ms));
    }

    /// Whether what a release fails at is tried on the one before it: while it is on trial, and
    /// for a generous time after that.
    pub fn is_judged(&self, digest: &str, now_ms: u64) -> bool {
        let Some(row) = self.get(digest).map(|standing| &standing.row) else { return false };
        let days = self.rules.of_plugin(&row.name).fallback_days;
        let is_young = now_ms.saturating_sub(row.since_ms) as f64 <= days * 86_400_000.0;
        match row.state {
            ReleaseState::Canary | ReleaseState::Quarantined => true,
            // What its state was before does not matter: it was promoted not long ago.
            _ => is_young,
        }
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
