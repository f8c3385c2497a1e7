//! What an operator wants of releases.

use super::{Catalogue, Refused, Standing};
use crate::releases::requirement::Requirement;
use crate::terms::ReleaseState;

impl Catalogue {
    /// Finds the one release that an operator means.
    pub fn meant(&self, wanted: &Requirement) -> Result<&Standing, Refused> {
        self.meant_of(wanted, |_| true)
    }

    /// Finds the release that an operator means to approve: the only one that is held needs no
    /// version.
    pub fn meant_to_approve(&self, wanted: &Requirement) -> Result<&Standing, Refused> {
        self.meant_of(wanted, |standing| standing.row.state == ReleaseState::Held)
    }

    /// The same for one to promote.
    pub fn meant_to_promote(&self, wanted: &Requirement) -> Result<&Standing, Refused> {
        let canary = |standing: &Standing| standing.row.state == ReleaseState::Canary;
        self.meant_of(wanted, canary).or_else(|_| self.meant_of(wanted, Standing::may_be_promoted))
    }

    /// The same for one to pin to.
    pub fn meant_to_pin(&self, wanted: &Requirement) -> Result<&Standing, Refused> {
        self.meant_of(wanted, |standing| standing.row.state == ReleaseState::Active)
    }

    /// The same for one to quarantine.
    pub fn meant_to_quarantine(&self, wanted: &Requirement) -> Result<&Standing, Refused> {
        let is_in_use = |s: &Standing| matches!(s.row.state, ReleaseState::Active | ReleaseState::Canary);
        self.meant_of(wanted, is_in_use)
    }

    /// Finds the one release that is asked for, or the only one of those for which `could` holds.
    fn meant_of(
        &self,
        wanted: &Requirement,
        could: impl Fn(&Standing) -> bool,
    ) -> Result<&Standing, Refused> {
        let fitting: Vec<&Standing> =
            self.of_name(&wanted.name).filter(|standing| wanted.accepts_row(&standing.row)).collect();
        let mut possible = fitting.iter().filter(|standing| could(standing));
        if let (Some(only), None) = (possible.next(), possible.next()) {
            return Ok(only);
        }
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

    /// Finds the release that an operator wants no more to serve whatever is newer; its name is
    /// enough.
    pub fn favoured(&self, wanted: &Requirement) -> Result<&Standing, Refused> {
        let name = &wanted.name;
        let Some(chosen) = self.of_name(name).find(|standing| standing.row.chosen) else {
            return Err(Refused(format!("{name} is not pinned to a release")));
        };
        match wanted.is_any() || wanted.accepts_row(&chosen.row) {
            true => Ok(chosen),
            false => Err(Refused(format!("{} is the release that {name} is pinned to", chosen.label()))),
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
            _ if standing.may_be_promoted() => {
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
}
