//! Where releases lie: places that were emptied, and for how long what lay there serves on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Catalogue, Standing};
use crate::terms::{Presence, ReleaseState};

impl Catalogue {
    /// Notes that what was in a place is not there any more: another release is, or nothing.
    pub(super) fn leave_place(&mut self, place: Option<&Path>, next: Option<&str>) {
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

    /// Lets go of releases whose place is empty for long enough, unless others came for them.
    pub fn expire(&mut self, now_ms: u64) {
        let grace_ms = self.rules.vanish_ms;
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
}
