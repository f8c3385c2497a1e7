//! How a new release is tried: who gets it first, and when enough is known of it; pure.

use std::collections::{HashMap, VecDeque};

use sha2::{Digest, Sha256};

use crate::config::file::Rollout;
use crate::store::releases::Counts;
use crate::terms::JobId;

/// How many of the latest times and sizes are remembered of a release.
const LATEST: usize = 512;
/// Of how many scenes times are remembered, and how many of each.
const SCENES: usize = 32;
const OF_A_SCENE: usize = 64;
/// How many times or sizes are enough to compare.
const ENOUGH: usize = 5;
/// What is never too slow or too large, compared with the release before, in seconds and bytes.
const SECONDS: f32 = 0.02;
const BYTES: f32 = 64.0 * 1024.0 * 1024.0;

/// What is known of a task that was done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// What it was rendered from: only the same can be compared.
    pub scene: u64,
    /// How long the attempt took, in seconds.
    pub seconds: f32,
    /// The most memory that the plugin had, in bytes.
    pub memory: u64,
}

/// What is remembered of the latest tasks of a release.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    seconds: VecDeque<f32>,
    memory: VecDeque<f32>,
    scenes: HashMap<u64, VecDeque<f32>>,
}

impl Samples {
    /// Takes a task down.
    pub fn add(&mut self, sample: Sample) {
        push(&mut self.seconds, sample.seconds, LATEST);
        push(&mut self.memory, sample.memory as f32, OF_A_SCENE);
        if self.scenes.len() >= SCENES && !self.scenes.contains_key(&sample.scene) {
            self.scenes.clear();
        }
        push(self.scenes.entry(sample.scene).or_default(), sample.seconds, OF_A_SCENE);
    }

    /// Returns the time, in seconds, that a part of all tasks stayed below; 0.5 for the median.
    pub fn seconds(&self, part: f64) -> Option<f32> {
        quantile(&self.seconds, part)
    }

    /// Returns the most memory that any of the latest tasks had, in bytes.
    pub fn memory(&self) -> Option<u64> {
        quantile(&self.memory, 1.0).map(|bytes| bytes as u64)
    }

    /// Says what is worse than it was, if enough is known of both.
    pub fn worse_than(&self, before: &Self, rules: &Rollout) -> Option<String> {
        let median = |all: &VecDeque<f32>| quantile(all, 0.5).filter(|_| all.len() >= ENOUGH);
        let both = |scene: &u64| Some((median(self.scenes.get(scene)?)?, median(before.scenes.get(scene)?)?));
        let slow =
            self.scenes.keys().filter_map(both).find(|(now, then)| {
                f64::from(*now) > f64::from(*then) * rules.slower && now - then > SECONDS
            });
        if let Some((now, then)) = slow {
            return Some(format!(
                "it takes {now:.3} s for what took {then:.3} s, more than {} times as long",
                rules.slower
            ));
        }
        let (now, then) = (median(&self.memory)?, median(&before.memory)?);
        let is_large = f64::from(now) > f64::from(then) * rules.memory && now - then > BYTES;
        is_large.then(|| {
            let mib = |bytes: f32| bytes / 1024.0 / 1024.0;
            format!(
                "it takes {:.0} MiB of memory where {:.0} MiB did, more than {} times as much",
                mib(now),
                mib(then),
                rules.memory
            )
        })
    }
}

/// Whether only one task at a time is given to a canary.
pub fn is_first(rules: &Rollout, counts: &Counts) -> bool {
    counts.trial < rules.first
}

/// Whether a job is among those that a canary gets its share of; the same job always is.
pub fn is_in_share(rules: &Rollout, job: JobId, digest: &str) -> bool {
    let hash = Sha256::new().chain_update(job.to_string()).chain_update(digest).finalize();
    let number = u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]);
    f64::from(number) / (f64::from(u32::MAX) + 1.0) < rules.share
}

/// Says why enough is known of a canary, if so; `age_ms` is how long it is one.
pub fn is_proven(rules: &Rollout, counts: &Counts, age_ms: u64) -> Option<String> {
    let wanted = rules.first + rules.tasks;
    if counts.trial >= wanted {
        return Some(format!("{} tasks went well", counts.trial));
    }
    // What nobody has tried is not proven by waiting.
    let is_late = age_ms as f64 >= rules.patience_seconds * 1000.0 && counts.trial >= rules.first.max(1);
    is_late.then(|| {
        format!("{} of {wanted} tasks in {} s, and none went wrong", counts.trial, rules.patience_seconds)
    })
}

fn push(all: &mut VecDeque<f32>, value: f32, most: usize) {
    if all.len() == most {
        all.pop_front();
    }
    all.push_back(value);
}

fn quantile(all: &VecDeque<f32>, part: f64) -> Option<f32> {
    let mut sorted: Vec<f32> = all.iter().copied().collect();
    sorted.sort_by(f32::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[(last as f64 * part).round() as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_what_it_says_and_the_same_for_the_same_job() {
        let rules = Rollout { share: 0.1, ..Rollout::default() };
        let jobs: Vec<JobId> = (0..10_000).map(|_| JobId::new()).collect();
        let chosen: Vec<bool> = jobs.iter().map(|job| is_in_share(&rules, *job, "a")).collect();
        let count = chosen.iter().filter(|chosen| **chosen).count();
        assert!((900..=1100).contains(&count), "{count}");
        assert!(jobs.iter().zip(&chosen).all(|(job, chosen)| is_in_share(&rules, *job, "a") == *chosen));
        let other = jobs.iter().filter(|job| is_in_share(&rules, **job, "b")).count();
        assert!((900..=1100).contains(&other), "{other}");
        for (share, expected) in [(0.0, 0), (1.0, 10_000)] {
            let rules = Rollout { share, ..rules.clone() };
            assert_eq!(jobs.iter().filter(|job| is_in_share(&rules, **job, "a")).count(), expected);
        }
    }

    #[test]
    fn enough_tasks_prove_a_release_and_so_does_enough_time() {
        let rules = Rollout { first: 1, tasks: 50, patience_seconds: 600.0, ..Rollout::default() };
        let proven = |trial, age_ms| is_proven(&rules, &Counts { trial, ..Counts::default() }, age_ms);
        assert_eq!(proven(50, 1000), None);
        assert!(proven(51, 1000).unwrap().contains("51 tasks"));
        assert_eq!(proven(1, 599_999), None);
        assert_eq!(proven(0, 9_999_999), None, "nobody has tried it");
        assert!(proven(3, 600_000).unwrap().contains("3 of 51"));
    }

    #[test]
    fn slower_and_larger_is_told_only_where_it_can_be_compared() {
        let rules = Rollout { slower: 2.0, memory: 2.0, ..Rollout::default() };
        let samples = |scene, seconds, mib: u64, count| {
            let mut samples = Samples::default();
            (0..count).for_each(|_| samples.add(Sample { scene, seconds, memory: mib << 20 }));
            samples
        };
        let before = samples(1, 1.0, 100, 9);
        let worse =
            |scene, seconds, mib, count| samples(scene, seconds, mib, count).worse_than(&before, &rules);
        assert!(worse(1, 3.0, 100, 5).unwrap().contains("3.000 s for what took 1.000 s"));
        assert_eq!(worse(1, 3.0, 100, 4), None, "too few");
        assert_eq!(worse(2, 3.0, 100, 9), None, "another scene");
        assert_eq!(worse(1, 1.9, 150, 9), None);
        assert!(worse(1, 1.0, 300, 9).unwrap().contains("300 MiB of memory where 100 MiB did"));
        let tiny = samples(1, 0.001, 1, 9);
        assert_eq!(samples(1, 0.004, 9, 9).worse_than(&tiny, &rules), None, "nobody would notice");
    }
}
