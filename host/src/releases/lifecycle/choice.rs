//! Which release a job gets, and where its pin moves.

use semver::Version;

use super::standing::line;
use super::{Catalogue, Follow, Standing, Way, Wish};
use crate::releases::requirement::Requirement;
use crate::releases::rollout;
use crate::terms::{Presence, ReleaseState, Upgrade};

impl Catalogue {
    /// Finds the release that a new job gets.
    pub fn choose(&mut self, wish: &Wish) -> Option<String> {
        let is_exact = wish.wanted.is_exact();
        let fits = |standing: &&Standing| standing.serves() && wish.wanted.accepts_row(&standing.row);
        let mut fitting: Vec<&Standing> = self.of_name(&wish.wanted.name).filter(fits).collect();
        fitting.sort_by(|a, b| b.rank().cmp(&a.rank()));
        // A job that must not move is never a canary's: there it could only fail with it.
        let gets = |standing: &&&Standing| {
            standing.row.proven || is_exact || (!wish.is_fixed() && self.tries(standing, wish))
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
            let plain = |s: &Standing| (s.serves(), is_exact || s.row.proven);
            (plain(a), a.rank()).cmp(&(plain(b), b.rank()))
        })
    }

    /// Returns the release that serves those who want any of a plugin.
    pub(super) fn serving(&self, name: &str) -> Option<&Standing> {
        let proven = self.of_name(name).filter(|standing| standing.serves() && standing.row.proven);
        proven.max_by_key(|standing| standing.rank())
    }

    /// Returns the release that is to do what a new one fails at: of the same line if there is
    /// one, else the newest that is older.
    pub(super) fn before(&self, name: &str, version: &Version, digest: &str) -> Option<&Standing> {
        let proven = |s: &&Standing| s.serves() && s.row.proven && s.row.digest != digest;
        let rank = |s: &Standing| (s.line() == line(version), s.row.version <= *version);
        let all = self.of_name(name).filter(proven);
        all.max_by(|a, b| (rank(a), a.rank()).cmp(&(rank(b), b.rank())))
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
        if standing.row.state != ReleaseState::Canary {
            return false;
        }
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

    /// Finds the release to which a job that has nothing to begin should move, once what runs
    /// of it yields: one that is proven.
    pub fn leads(&self, wish: &Wish, pin: &str) -> Option<&Standing> {
        let now = self.get(pin)?;
        self.newer(wish, now).filter(|newer| newer.row.state == ReleaseState::Active)
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
        if let Some(next) = self.newer(wish, now) {
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
                && (row.proven || self.tries(standing, wish))
        };
        self.of_name(&now.row.name).filter(fits).max_by_key(|standing| standing.rank())
    }

    /// Finds the release that does the work of one that must not.
    pub fn fallback(&self, wish: &Wish, bad: &str) -> Option<&Standing> {
        if wish.is_fixed() {
            return None;
        }
        let bad = self.standings.get(bad)?;
        let fits = |standing: &&Standing| {
            standing.serves()
                && standing.row.proven
                && standing.row.digest != bad.row.digest
                && wish.wanted.accepts_row(&standing.row)
                // Back, and not on to what the job has never asked for.
                && (standing.line() == bad.line()
                    || standing.row.version < bad.row.version
                    || wish.upgrade == Upgrade::Compatible)
        };
        let before = bad.row.before.as_ref().and_then(|before| self.standings.get(before)).filter(fits);
        let rank = |s: &Standing| s.line() == bad.line();
        let all = self.of_name(&bad.row.name).filter(fits);
        before.or_else(|| all.max_by(|a, b| (rank(a), a.rank()).cmp(&(rank(b), b.rank()))))
    }

    /// Finds a canary for a job that nothing else is left for.
    fn last_resort(&self, wish: &Wish, bad: &str) -> Option<&Standing> {
        let fits = |s: &&Standing| {
            s.serves() && s.row.digest != bad && wish.wanted.accepts_row(&s.row) && !wish.is_fixed()
        };
        self.of_name(&wish.wanted.name).filter(fits).max_by_key(|standing| standing.rank())
    }
}

fn quarantined(standing: &Standing) -> String {
    let why = standing.row.why.lines().next().unwrap_or_default();
    format!("{} is quarantined: {why}", standing.label())
}
