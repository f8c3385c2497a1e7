//! A release and what is known of it; what a job asks for and may be given.

use std::collections::BTreeMap;

use semver::Version;

use crate::config::file::{Config, Rollout, seconds};
use crate::events::EventKind;
use crate::releases::Release;
use crate::releases::requirement::Requirement;
use crate::releases::rollout::{Race, Samples};
use crate::store::releases::ReleaseRow;
use crate::terms::{JobId, Presence, ReleaseState, Upgrade};

/// How new releases are tried, by the plugin's name.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Of plugins without rules of their own.
    pub all: Rollout,
    /// Those of single plugins.
    pub own: BTreeMap<String, Rollout>,
    /// Whether other bytes of a version that is known are another build of it.
    pub dev: bool,
    /// How long a release serves whose file is gone, in milliseconds.
    pub vanish_ms: u64,
}

/// A release and what is known of it.
#[derive(Debug, Clone)]
pub struct Standing {
    /// As it is stored, or is about to be.
    pub row: ReleaseRow,
    /// Its latest tasks.
    pub samples: Samples,
    /// Attempts under way.
    pub(super) busy: usize,
    /// Failures that may be its own: others are trying what it failed at.
    pub(super) doubts: usize,
    /// The job that tries it first.
    pub(super) first: Option<JobId>,
    /// Tasks that it and the release before do in turn, since it looks slow.
    pub(super) race: Option<Race>,
    /// When it came to its place, in milliseconds since 1970; 0 if another host saw that.
    pub(super) arrived_ms: u64,
    /// Since when its place is empty.
    pub(super) vanished_ms: Option<u64>,
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
    /// Whether it is not its own fault, and may be gone: a full disk, a job that is still open.
    pub may_pass: bool,
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

impl Rules {
    /// Reads the rules of a configuration.
    pub fn of(config: &Config, dev: bool) -> Self {
        let own = |(name, grant): (&String, &crate::config::file::Grant)| {
            Some((name.clone(), grant.rollout.clone()?))
        };
        let all = if dev { Rollout::at_once() } else { config.rollout.clone() };
        let vanish_ms = seconds(config.releases.vanish_seconds).as_millis() as u64;
        Self { all, own: config.plugin.iter().filter_map(own).collect(), dev, vanish_ms }
    }

    pub(super) fn of_plugin(&self, name: &str) -> &Rollout {
        self.own.get(name).unwrap_or(&self.all)
    }
}

impl Wish {
    /// Whether the job's pin never moves.
    pub(super) fn is_fixed(&self) -> bool {
        self.wanted.is_exact() || self.upgrade == Upgrade::Pinned
    }

    /// Whether the job's policy lets its pin move by itself from one version to another.
    pub(super) fn upgrades(&self, from: &Version, to: &Version) -> bool {
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
    pub(super) fn new(row: ReleaseRow) -> Self {
        Self {
            row,
            samples: Samples::default(),
            busy: 0,
            doubts: 0,
            first: None,
            race: None,
            arrived_ms: 0,
            vanished_ms: None,
        }
    }

    /// Names it as people do.
    pub fn label(&self) -> String {
        label(&self.row.name, &self.row.version, self.row.build)
    }

    pub(super) fn serves(&self) -> bool {
        use ReleaseState::{Active, Canary, Draining, Retired};
        matches!(self.row.state, Active | Canary | Draining | Retired)
            && self.row.presence != Presence::Removed
    }

    /// Whether the operator can let it serve at once.
    pub(super) fn may_be_promoted(&self) -> bool {
        use ReleaseState::{Canary, Quarantined, Retired};
        match self.row.state {
            Canary | Quarantined => true,
            Retired => self.is_passed_over(),
            _ => false,
        }
    }

    /// Whether it serves and was never tried, since a newer one came.
    pub(super) fn is_passed_over(&self) -> bool {
        self.row.state == ReleaseState::Retired && !self.row.proven && self.serves()
    }

    /// The order in which releases are preferred.
    pub(super) fn rank(&self) -> (bool, bool, &Version, u32) {
        let row = &self.row;
        (row.chosen, row.presence == Presence::Present, &row.version, row.build)
    }

    /// Those that promise to be compatible are of one line.
    pub(super) fn line(&self) -> (u64, u64, u64, bool) {
        line(&self.row.version)
    }
}

/// Versions that promise to be compatible are of one line.
pub(super) fn line(version: &Version) -> (u64, u64, u64, bool) {
    let Version { major, minor, patch, pre, .. } = version;
    match (major, minor) {
        (0, 0) => (0, 0, *patch, pre.is_empty()),
        (0, minor) => (0, *minor, 0, pre.is_empty()),
        (major, _) => (*major, 0, 0, pre.is_empty()),
    }
}

/// Names a release: `draft 1.2.0`, or `draft 1.2.0+dev.3` for its third other build.
pub fn label(name: &str, version: &Version, build: u32) -> String {
    format!("{name} {}", numbered(version, build))
}

/// Names a version, and which build of it.
pub(super) fn numbered(version: &Version, build: u32) -> String {
    match build {
        0 => version.to_string(),
        build => format!("{version}+dev.{build}"),
    }
}
