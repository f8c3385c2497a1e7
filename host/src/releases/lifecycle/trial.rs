//! What the tasks of a release tell of it: counts, races, and the verdict on a canary.

use super::{Catalogue, Standing, Wish};
use crate::releases::rollout::{self, Race, Racer, Sample};
use crate::terms::ReleaseState;

impl Catalogue {
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
        let standing = self.get(pin).filter(|s| s.race.as_ref().is_some_and(|race| race.scene == scene))?;
        let before = standing.row.before.clone()?;
        let row = &self.get(&before).filter(|before| before.serves())?.row;
        if wish.is_fixed() || !wish.wanted.accepts_row(row) {
            return None;
        }
        let race = self.standings.get_mut(pin)?.race.as_mut()?;
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
}
