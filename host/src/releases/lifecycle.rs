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

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use semver::Version;

use super::Release;
use super::requirement::Requirement;
use super::rollout::{self, Sample, Samples};
use crate::config::file::{Config, Rollout};
use crate::events::EventKind;
use crate::store::releases::{Counts, ReleaseRow};
use crate::terms::{Capability, JobId, Presence, ReleaseState, Upgrade};

/// How new releases are tried, by the plugin's name.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Of plugins without rules of their own.
    pub all: Rollout,
    /// Those of single plugins.
    pub own: BTreeMap<String, Rollout>,
    /// Whether other bytes of a version that is known are another build of it.
    pub dev: bool,
}

/// A release and what is known of it.
#[derive(Debug, Clone)]
pub struct Standing {
    /// As it is stored, or is about to be.
    pub row: ReleaseRow,
    /// Its latest tasks.
    pub samples: Samples,
    /// Attempts under way.
    busy: usize,
    /// The job that tries it first.
    first: Option<JobId>,
}

/// A file or folder that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// What it is called.
    pub name: String,
    /// Its version and digest, as far as they could be read.
    pub version: Option<String>,
    /// See `version`.
    pub digest: Option<String>,
    /// Why.
    pub why: String,
    /// When that was found, in milliseconds since 1970.
    pub since_ms: u64,
}

/// What a job asks for and may be given.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The job.
    pub job: JobId,
    /// What it asks for.
    pub wanted: Requirement,
    /// How far its pin may move by itself.
    pub upgrade: Upgrade,
    /// What its client says of it.
    pub label: Option<String>,
}

/// What becomes of a job's pin before it begins something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Follow {
    /// It stays.
    Stay,
    /// It moves to the release with this digest.
    Move {
        /// The digest.
        to: String,
        /// Why.
        why: String,
        /// Whether that one is newer.
        way: Way,
    },
    /// Nothing is to be begun until the task that tries the release is done.
    Wait,
    /// Its release does not serve any more, and there is none that it may move to.
    Stuck(String),
}

/// Which way a pin moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To a newer release.
    On,
    /// To one that is older, or known better.
    Back,
}

/// What is new: rows to store and events to tell.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// Releases that are not as they are stored.
    pub rows: Vec<ReleaseRow>,
    /// What happened.
    pub events: Vec<EventKind>,
}

/// Why a release cannot do what it is asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// All releases of a host.
#[derive(Debug, Default)]
pub struct Catalogue {
    rules: Rules,
    standings: BTreeMap<String, Standing>,
    by_name: HashMap<String, BTreeSet<String>>,
    rejected: BTreeMap<PathBuf, Rejected>,
    changed: BTreeSet<String>,
    events: Vec<EventKind>,
}

impl Rules {
    /// Reads the rules of a configuration.
    pub fn of(config: &Config, dev: bool) -> Self {
        let own = |(name, grant): (&String, &crate::config::file::Grant)| {
            Some((name.clone(), grant.rollout.clone()?))
        };
        let all = if dev { Rollout::at_once() } else { config.rollout.clone() };
        Self { all, own: config.plugin.iter().filter_map(own).collect(), dev }
    }

    fn of_plugin(&self, name: &str) -> &Rollout {
        self.own.get(name).unwrap_or(&self.all)
    }
}

impl Wish {
    /// Whether the job's policy lets its pin move by itself from one version to another.
    fn upgrades(&self, from: &Version, to: &Version) -> bool {
        match self.upgrade {
            _ if self.wanted.is_exact() => false,
            Upgrade::Pinned => false,
            Upgrade::Patch => (from.major, from.minor) == (to.major, to.minor) && from.pre == to.pre,
            Upgrade::Compatible => true,
        }
    }

    /// Whether a job on one version may move to a newer release by itself.
    pub fn may_move(&self, from: &Version, to: &Release) -> bool {
        self.wanted.accepts(to) && *from <= to.version && self.upgrades(from, &to.version)
    }
}

impl Standing {
    fn new(row: ReleaseRow) -> Self {
        Self { row, samples: Samples::default(), busy: 0, first: None }
    }

    /// Names it as people do.
    pub fn label(&self) -> String {
        label(&self.row.name, &self.row.version, self.row.build)
    }

    fn serves(&self) -> bool {
        use ReleaseState::{Active, Canary, Draining, Retired};
        matches!(self.row.state, Active | Canary | Draining | Retired)
            && self.row.presence != Presence::Removed
    }

    /// The order in which releases are preferred.
    fn rank(&self) -> (bool, bool, &Version, u32) {
        let row = &self.row;
        (row.chosen, row.presence == Presence::Present, &row.version, row.build)
    }

    /// Those that promise to be compatible are of one line.
    fn line(&self) -> (u64, u64, u64, bool) {
        let Version { major, minor, patch, pre, .. } = &self.row.version;
        match (major, minor) {
            (0, 0) => (0, 0, *patch, pre.is_empty()),
            (0, minor) => (0, *minor, 0, pre.is_empty()),
            (major, _) => (*major, 0, 0, pre.is_empty()),
        }
    }
}

/// Names a release: `draft 1.2.0`, or `draft 1.2.0+dev.3` for its third other build.
pub fn label(name: &str, version: &Version, build: u32) -> String {
    match build {
        0 => format!("{name} {version}"),
        build => format!("{name} {version}+dev.{build}"),
    }
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
            if !self.standings[&release.digest].row.proven {
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
        let is_there = |standing: &&Standing| {
            standing.row.presence == Presence::Present && standing.row.place.as_deref() == place.to_str()
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
        let version = match row.build {
            0 => row.version.to_string(),
            build => format!("{}+dev.{build}", row.version),
        };
        let (id, digest) = (row.name.clone(), Some(digest.to_owned()));
        let event =
            EventKind::ReleaseState { id, version: Some(version), digest, state, why: why.to_owned() };
        self.events.push(event);
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
            let before = self.serving(name).map(|standing| standing.row.digest.clone());
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
        let row = &mut self.edit(digest).expect("it is there").row;
        (row.place, row.presence) = (place, Presence::Present);
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
        match before {
            Some(before) if !more.is_empty() => {
                let why = format!(
                    "it wants {}, which {} does not\n`hotshoe plugin approve {name}@={version}` lets it",
                    more.join(", "),
                    before.label()
                );
                self.become_(digest, ReleaseState::Held, &why, now_ms);
            }
            Some(before) if rules.first + rules.tasks > 0 => {
                let why = format!("{} serves beside it", before.label());
                self.become_(digest, ReleaseState::Canary, &why, now_ms);
            }
            Some(_) => self.prove(digest, "new releases serve at once", now_ms),
            None => self.prove(digest, "it is the first", now_ms),
        }
    }

    fn prove(&mut self, digest: &str, why: &str, now_ms: u64) {
        let Some(standing) = self.edit(digest) else { return };
        standing.row.proven = true;
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
                    self.become_(&digest, ReleaseState::Active, "it is the newest that serves", now_ms);
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
    }

    /// Returns the release that serves those who want any of a plugin.
    fn serving(&self, name: &str) -> Option<&Standing> {
        let proven = self.of_name(name).filter(|standing| standing.serves() && standing.row.proven);
        proven.max_by_key(|standing| standing.rank())
    }

    /// Notes that what was in a place is not there any more: another release is, or nothing.
    fn leave_place(&mut self, place: Option<&Path>, next: Option<&str>) {
        let Some(place) = place else { return };
        self.rejected.remove(place);
        let text = place.to_str();
        let here: Vec<String> = self
            .standings
            .values()
            .filter(|standing| standing.row.place.as_deref() == text)
            .filter(|standing| Some(standing.row.digest.as_str()) != next)
            .map(|standing| standing.row.digest.clone())
            .collect();
        for digest in here {
            let presence = if next.is_some() { Presence::Replaced } else { Presence::Removed };
            let row = &mut self.edit(&digest).expect("it was just found").row;
            row.presence = presence;
        }
    }

    /// Notes that a place is empty.
    pub fn vanish(&mut self, place: &Path, now_ms: u64) {
        let names: BTreeSet<String> = self
            .standings
            .values()
            .filter(|standing| standing.row.place.as_deref() == place.to_str())
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

    /// Finds the release that a new job gets.
    pub fn choose(&mut self, wish: &Wish) -> Option<String> {
        let is_exact = wish.wanted.is_exact();
        let fits = |standing: &&Standing| standing.serves() && wish.wanted.accepts_row(&standing.row);
        let mut fitting: Vec<&Standing> = self.of_name(&wish.wanted.name).filter(fits).collect();
        fitting.sort_by(|a, b| b.rank().cmp(&a.rank()));
        let gets = |standing: &&&Standing| {
            standing.row.state != ReleaseState::Canary || is_exact || self.tries(standing, wish)
        };
        let found = fitting.iter().find(gets).or(fitting.first())?;
        let digest = found.row.digest.clone();
        self.note_first(&digest, wish, is_exact);
        Some(digest)
    }

    /// Finds the release that somebody means who does not want to try a new one.
    pub fn best(&self, wanted: &Requirement) -> Option<&Standing> {
        let fits = |standing: &&Standing| wanted.accepts_row(&standing.row);
        let is_exact = wanted.is_exact();
        self.of_name(&wanted.name).filter(fits).max_by(|a, b| {
            let plain = |s: &Standing| (s.serves(), is_exact || s.row.state != ReleaseState::Canary);
            (plain(a), a.rank()).cmp(&(plain(b), b.rank()))
        })
    }

    /// Returns the part of new jobs that ask for no version and get a release: 0 to 1.
    pub fn share(&self, standing: &Standing) -> f64 {
        let of_canary = |standing: &Standing| {
            let rules = self.rules.of_plugin(&standing.row.name);
            if rollout::is_first(rules, &standing.row.counts) { 0.0 } else { rules.share }
        };
        let newest =
            self.of_name(&standing.row.name).filter(|s| s.serves() && s.row.state == ReleaseState::Canary);
        let newest = newest.max_by_key(|s| s.rank());
        let given = newest.map_or(0.0, of_canary);
        let is =
            |other: Option<&Standing>| other.is_some_and(|other| other.row.digest == standing.row.digest);
        match () {
            () if is(newest) => given,
            () if is(self.serving(&standing.row.name)) => 1.0 - given,
            () => 0.0,
        }
    }

    /// Whether a job is one of those that try a canary.
    fn tries(&self, standing: &Standing, wish: &Wish) -> bool {
        let rules = self.rules.of_plugin(&standing.row.name);
        if wish.label.as_ref().is_some_and(|label| rules.labels.contains(label)) {
            return true;
        }
        match rollout::is_first(rules, &standing.row.counts) {
            true => standing.first.is_none_or(|first| first == wish.job),
            false => {
                standing.first == Some(wish.job)
                    || rollout::is_in_share(rules, wish.job, &standing.row.digest)
            }
        }
    }

    fn note_first(&mut self, digest: &str, wish: &Wish, is_exact: bool) {
        let Some(standing) = self.standings.get_mut(digest) else { return };
        let rules = self.rules.of_plugin(&standing.row.name);
        let is_labelled = wish.label.as_ref().is_some_and(|label| rules.labels.contains(label));
        if standing.row.state == ReleaseState::Canary
            && rollout::is_first(rules, &standing.row.counts)
            && !is_exact
            && !is_labelled
        {
            standing.first.get_or_insert(wish.job);
        }
    }

    /// Says why nothing that is known will do; nothing if the name is not known at all.
    pub fn why_none(&self, wanted: &Requirement) -> Option<String> {
        let name = &wanted.name;
        let is_gone = |standing: &&Standing| standing.row.presence == Presence::Removed;
        let fitting = || self.of_name(name).filter(|standing| wanted.accepts_row(&standing.row));
        let told = |s: &Standing| format!("{} is {}: {}", s.label(), s.row.state, s.row.why);
        let mut lines: Vec<String> = fitting().filter(|standing| !is_gone(standing)).map(told).collect();
        let mut there: Vec<&Version> =
            self.of_name(name).filter(|standing| !is_gone(standing)).map(|s| &s.row.version).collect();
        there.sort();
        if lines.is_empty() && !there.is_empty() {
            let there: Vec<String> = there.into_iter().map(ToString::to_string).collect();
            lines.push(format!("the versions of {name} are: {}", there.join(", ")));
        } else if lines.is_empty() {
            lines.extend(fitting().map(|standing| format!("{} was removed", standing.label())));
        }
        let of_name = self.rejected.values().filter(|rejected| rejected.name == *name);
        lines.extend(of_name.map(|rejected| format!("{name} was rejected: {}", rejected.why)));
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// Decides, before a job begins something, on which release that is to be.
    pub fn follow(&mut self, wish: &Wish, pin: &str) -> Follow {
        let Some(now) = self.standings.get(pin) else { return Follow::Stay };
        if now.row.state == ReleaseState::Quarantined {
            return match self.fallback(wish, pin).or_else(|| self.last_resort(wish, pin)) {
                Some(next) => {
                    Follow::Move { to: next.row.digest.clone(), why: quarantined(now), way: Way::Back }
                }
                None => Follow::Stuck(format!(
                    "{}, and the job may not run on another release\n\
                     put in one that it may run on, or submit it anew",
                    quarantined(now)
                )),
            };
        }
        let is_fixed = wish.wanted.is_exact() || wish.upgrade == Upgrade::Pinned;
        let newer = (!is_fixed).then(|| self.newer(wish, now)).flatten();
        if let Some(next) = newer {
            let (to, why) = (next.row.digest.clone(), format!("{} is newer", next.label()));
            self.note_first(&to, wish, false);
            return Follow::Move { to, why, way: Way::On };
        }
        let rules = self.rules.of_plugin(&now.row.name);
        let is_first = now.row.state == ReleaseState::Canary
            && now.first == Some(wish.job)
            && rollout::is_first(rules, &now.row.counts);
        if is_first && now.busy > 0 { Follow::Wait } else { Follow::Stay }
    }

    /// Finds a newer release that a job may and shall move to.
    fn newer(&self, wish: &Wish, now: &Standing) -> Option<&Standing> {
        let (from, build) = (&now.row.version, now.row.build);
        // What the operator wants stands above what is newer.
        let is_chosen = |s: &Standing| s.row.chosen && s.serves() && wish.wanted.accepts_row(&s.row);
        let has_chosen = self.of_name(&now.row.name).any(is_chosen);
        let fits = |standing: &&Standing| {
            let row = &standing.row;
            standing.serves()
                && (row.presence == Presence::Present || row.chosen)
                && (row.chosen || !has_chosen)
                && wish.wanted.accepts_row(row)
                && (&row.version, row.build) > (from, build)
                && wish.upgrades(from, &row.version)
                && (row.state != ReleaseState::Canary || self.tries(standing, wish))
        };
        self.of_name(&now.row.name).filter(fits).max_by_key(|standing| standing.rank())
    }

    /// Finds the release that does the work of one that must not.
    pub fn fallback(&self, wish: &Wish, bad: &str) -> Option<&Standing> {
        if wish.wanted.is_exact() || wish.upgrade == Upgrade::Pinned {
            return None;
        }
        let bad = self.standings.get(bad)?;
        let fits = |standing: &&Standing| {
            standing.serves()
                && standing.row.state != ReleaseState::Canary
                && standing.row.digest != bad.row.digest
                && wish.wanted.accepts_row(&standing.row)
        };
        let before = bad.row.before.as_ref().and_then(|before| self.standings.get(before)).filter(fits);
        before.or_else(|| self.of_name(&bad.row.name).filter(fits).max_by_key(|standing| standing.rank()))
    }

    /// Finds a canary for a job that nothing else is left for.
    fn last_resort(&self, wish: &Wish, bad: &str) -> Option<&Standing> {
        let is_fixed = wish.wanted.is_exact() || wish.upgrade == Upgrade::Pinned;
        let fits =
            |s: &&Standing| s.serves() && s.row.digest != bad && wish.wanted.accepts_row(&s.row) && !is_fixed;
        self.of_name(&wish.wanted.name).filter(fits).max_by_key(|standing| standing.rank())
    }

    /// Notes that an attempt begins.
    pub fn began(&mut self, digest: &str) {
        if let Some(standing) = self.standings.get_mut(digest) {
            standing.busy += 1;
        }
    }

    /// Notes how an attempt ended; `blamed` says that its failure is the plugin's.
    pub fn ended(&mut self, digest: &str, done: Option<Sample>, blamed: bool, now_ms: u64) {
        let Some(standing) = self.standings.get_mut(digest) else { return };
        standing.busy = standing.busy.saturating_sub(1);
        let is_canary = standing.row.state == ReleaseState::Canary;
        if let Some(sample) = done {
            standing.samples.add(sample);
            standing.row.counts.tasks += 1;
            standing.row.counts.trial += u64::from(is_canary);
        }
        standing.row.counts.failures += u64::from(blamed);
        if done.is_some() || blamed {
            self.changed.insert(digest.to_owned());
        }
        if is_canary && done.is_some() {
            self.judge(digest, now_ms);
        }
    }

    /// Looks whether enough is known of a canary.
    fn judge(&mut self, digest: &str, now_ms: u64) {
        let standing = &self.standings[digest];
        let rules = self.rules.of_plugin(&standing.row.name);
        let before = standing.row.before.as_ref().and_then(|before| self.standings.get(before));
        if let Some(why) = before.and_then(|b| standing.samples.worse_than(&b.samples, rules)) {
            return self.quarantine(digest, &why, now_ms);
        }
        let age_ms = now_ms.saturating_sub(standing.row.since_ms);
        if let Some(why) = rollout::is_proven(rules, &standing.row.counts, age_ms) {
            self.prove(digest, &why, now_ms);
        }
    }

    /// Lets canaries serve that were tried for long enough.
    pub fn look_at_canaries(&mut self, now_ms: u64) {
        let canaries = self.standings.values().filter(|s| s.row.state == ReleaseState::Canary);
        let canaries: Vec<String> = canaries.map(|s| s.row.digest.clone()).collect();
        canaries.iter().for_each(|digest| self.judge(digest, now_ms));
    }

    /// Whether a failure of a release can be its own fault only if another one does not have it.
    pub fn is_on_trial(&self, digest: &str) -> bool {
        self.get(digest).is_some_and(|standing| standing.row.state == ReleaseState::Canary)
    }

    /// Takes a release out of service that does harm.
    pub fn quarantine(&mut self, digest: &str, why: &str, now_ms: u64) {
        let Some(standing) = self.edit(digest) else { return };
        (standing.row.proven, standing.row.chosen) = (false, false);
        let name = standing.row.name.clone();
        self.become_(digest, ReleaseState::Quarantined, why, now_ms);
        self.settle(&name, now_ms);
    }

    /// Finds the one release that an operator means.
    pub fn meant(&self, wanted: &Requirement) -> Result<&Standing, Refused> {
        let fitting: Vec<&Standing> =
            self.of_name(&wanted.name).filter(|standing| wanted.accepts_row(&standing.row)).collect();
        match fitting.as_slice() {
            [one] => Ok(one),
            [] => {
                let what =
                    self.why_none(wanted).unwrap_or_else(|| "`hotshoe plugin list` lists them".to_owned());
                Err(Refused(format!("there is no release {wanted}\n{what}")))
            }
            several => {
                let labels: Vec<String> = several.iter().map(|standing| standing.label()).collect();
                let first = &several[0].row;
                Err(Refused(format!(
                    "{wanted} is not one release: {}\nname one of them, such as {}@={} or {}@sha256:{}",
                    labels.join(", "),
                    first.name,
                    first.version,
                    first.name,
                    &first.digest[..12]
                )))
            }
        }
    }

    /// Lets a release be tried though it wants more than the one before.
    pub fn approve(&mut self, digest: &str, now_ms: u64) -> Result<(), Refused> {
        let standing = self.get(digest).ok_or_else(|| Refused("it is gone".to_owned()))?;
        if standing.row.state != ReleaseState::Held {
            return Err(Refused(format!("{} is {}, not held", standing.label(), standing.row.state)));
        }
        self.edit(digest).expect("it is there").row.approved = true;
        self.begin(digest, now_ms);
        Ok(())
    }

    /// Lets a release serve at once.
    pub fn promote(&mut self, digest: &str, now_ms: u64) -> Result<(), Refused> {
        let standing = self.get(digest).ok_or_else(|| Refused("it is gone".to_owned()))?;
        match standing.row.state {
            ReleaseState::Canary | ReleaseState::Quarantined => {
                self.prove(digest, "the operator promoted it", now_ms);
                Ok(())
            }
            ReleaseState::Active => Ok(()),
            state => Err(Refused(format!(
                "{} is {state}; only a canary, or one that is quarantined, can be promoted",
                standing.label()
            ))),
        }
    }

    /// Makes a release serve all that it fits, whatever is newer; or lets the newest serve again.
    pub fn favour(&mut self, digest: &str, on: bool, now_ms: u64) -> Result<(), Refused> {
        let standing = self.get(digest).ok_or_else(|| Refused("it is gone".to_owned()))?;
        if on && !(standing.row.proven && standing.serves()) {
            return Err(Refused(format!("{} is {}; promote it first", standing.label(), standing.row.state)));
        }
        let name = standing.row.name.clone();
        let others: Vec<String> =
            self.of_name(&name).filter(|s| s.row.chosen).map(|s| s.row.digest.clone()).collect();
        for other in others {
            self.edit(&other).expect("it was just found").row.chosen = false;
        }
        self.edit(digest).expect("it is there").row.chosen = on;
        self.settle(&name, now_ms);
        Ok(())
    }

    /// Goes back from the release that serves to the one before it; returns both.
    pub fn roll_back(&mut self, name: &str, now_ms: u64) -> Result<(String, String), Refused> {
        let canary = self.of_name(name).filter(|s| s.row.state == ReleaseState::Canary);
        let newest = canary.max_by_key(|standing| standing.rank()).or_else(|| self.serving(name));
        let bad = newest.ok_or_else(|| Refused(format!("no release of {name} serves")))?.row.digest.clone();
        let is_other = |standing: &&Standing| standing.row.digest != bad;
        let before = self.standings[&bad].row.before.as_ref().and_then(|digest| self.standings.get(digest));
        let proven = self.of_name(name).filter(|standing| standing.serves() && standing.row.proven);
        let next = before
            .filter(|standing| standing.serves() && standing.row.proven)
            .or_else(|| proven.filter(is_other).max_by_key(|standing| standing.rank()));
        let Some(next) = next.map(|standing| standing.row.digest.clone()) else {
            let label = self.standings[&bad].label();
            return Err(Refused(format!("there is no release before {label} to go back to")));
        };
        self.quarantine(&bad, "the operator rolled it back", now_ms);
        Ok((bad, next))
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

fn quarantined(standing: &Standing) -> String {
    let why = standing.row.why.lines().next().unwrap_or_default();
    format!("{} is quarantined: {why}", standing.label())
}
