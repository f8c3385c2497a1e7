//! How a new release is tried: who gets it first, and when enough is known of it; pure.

use std::cmp::Ordering;
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
/// How many pairs of tasks a race has, and in how many of them the new release must be the
/// slower one. Of two equal releases one is that much slower in a fifth of all pairs on a busy
/// machine; then 9 of 12 come about once in twenty thousand races.
const PAIRS: usize = 12;
const LOST: usize = 9;

/// What is known of a task that was done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// What it was rendered from: only the same can be compared.
    pub scene: u64,
    /// How long the plugin and Blender worked on it, in seconds.
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

    /// Forgets the times of a scene.
    pub fn forget(&mut self, scene: u64) {
        self.scenes.remove(&scene);
    }

    /// Returns the time, in seconds, that a part of all tasks stayed below; 0.5 for the median.
    pub fn seconds(&self, part: f64) -> Option<f32> {
        quantile(&self.seconds, part)
    }

    /// Returns the most memory that any of the latest tasks had, in bytes.
    pub fn memory(&self) -> Option<u64> {
        quantile(&self.memory, 1.0).map(|bytes| bytes as u64)
    }

    /// Names a scene whose tasks look slower than they were. The machine may have been busier:
    /// only a race tells.
    pub fn slower_scene(&self, before: &Self, rules: &Rollout) -> Option<u64> {
        let slow = |scene: &&u64| {
            let now = self.scenes.get(scene).and_then(median);
            let then = before.scenes.get(scene).and_then(median);
            now.zip(then).is_some_and(|(now, then)| is_slower(now, then, rules))
        };
        self.scenes.keys().find(slow).copied()
    }

    /// Says how much more memory is taken than before, if enough is known of both.
    pub fn larger_than(&self, before: &Self, rules: &Rollout) -> Option<String> {
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

/// Tasks of one scene that a new release and the one before it do in turn, so that both meet the
/// same load.
#[derive(Debug, Clone)]
pub struct Race {
    /// The scene.
    pub scene: u64,
    /// Attempts begun by the new release and by the one before.
    begun: [usize; 2],
    /// The seconds of those that were done.
    seconds: [VecDeque<f32>; 2],
}

/// Who runs in a race.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Racer {
    /// The release that is tried.
    New,
    /// The one before it.
    Before,
}

impl Race {
    /// Begins a race.
    pub fn new(scene: u64) -> Self {
        Self { scene, begun: [0; 2], seconds: Default::default() }
    }

    /// Says whose turn the next task is; counts it as begun. Each is the first of every second pair.
    pub fn begin_next(&mut self) -> Racer {
        let [new, before] = self.begun;
        let is_new = match new.cmp(&before) {
            Ordering::Equal => new.is_multiple_of(2),
            order => order.is_lt(),
        };
        let racer = if is_new { Racer::New } else { Racer::Before };
        self.begun[racer as usize] += 1;
        racer
    }

    /// Takes down how long a task took.
    pub fn add(&mut self, racer: Racer, seconds: f32) {
        self.seconds[racer as usize].push_back(seconds);
    }

    /// Says why the new release has lost, or that it has not; nothing while the race goes on.
    pub fn verdict(&self, rules: &Rollout) -> Option<Result<(), String>> {
        let [new, before] = &self.seconds;
        let pairs: Vec<(f32, f32)> = new.iter().copied().zip(before.iter().copied()).take(PAIRS).collect();
        let lost = pairs.iter().filter(|(now, then)| is_slower(*now, *then, rules)).count();
        let cannot_lose = pairs.len() - lost > PAIRS - LOST;
        // Tasks that are kept, or fail, tell no time.
        let is_futile = self.begun.iter().sum::<usize>() > 8 * PAIRS;
        match () {
            () if cannot_lose || is_futile => Some(Ok(())),
            () if lost < LOST => None,
            () => {
                let middle = |of| median(of).unwrap_or_default();
                Some(Err(format!(
                    "it takes {:.3} s for what takes {:.3} s, more than {} times as long, \
                     in {lost} of {} pairs of tasks done in turn",
                    middle(new),
                    middle(before),
                    rules.slower,
                    pairs.len()
                )))
            }
        }
    }
}

fn is_slower(now: f32, then: f32, rules: &Rollout) -> bool {
    f64::from(now) > f64::from(then) * rules.slower && now - then > SECONDS
}

/// The median, if there is enough to know it.
fn median(all: &VecDeque<f32>) -> Option<f32> {
    quantile(all, 0.5).filter(|_| all.len() >= ENOUGH)
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
        return Some(format!("{} trial tasks succeeded", counts.trial));
    }
    // What nobody has tried is not proven by waiting.
    let is_late = age_ms as f64 >= rules.patience_seconds * 1000.0 && counts.trial >= rules.first.max(1);
    is_late.then(|| {
        format!("{} of {wanted} trial tasks in {} s without a failure", counts.trial, rules.patience_seconds)
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
        assert!(proven(51, 1000).unwrap().contains("51 trial tasks"));
        assert_eq!(proven(1, 599_999), None);
        assert_eq!(proven(0, 9_999_999), None, "nobody has tried it");
        assert!(proven(3, 600_000).unwrap().contains("3 of 51"));
    }

    #[test]
    fn slower_and_larger_is_noticed_only_where_it_can_be_compared() {
        let rules = Rollout { slower: 2.0, memory: 2.0, ..Rollout::default() };
        let samples = |scene, seconds, mib: u64, count| {
            let mut samples = Samples::default();
            (0..count).for_each(|_| samples.add(Sample { scene, seconds, memory: mib << 20 }));
            samples
        };
        let before = samples(1, 1.0, 100, 9);
        let slow = |scene, seconds, count| samples(scene, seconds, 1, count).slower_scene(&before, &rules);
        assert_eq!(slow(1, 3.0, 5), Some(1));
        assert_eq!(slow(1, 3.0, 4), None, "too few");
        assert_eq!(slow(2, 3.0, 9), None, "another scene");
        assert_eq!(slow(1, 1.9, 9), None);
        let large = |mib| samples(1, 1.0, mib, 9).larger_than(&before, &rules);
        assert!(large(300).unwrap().contains("300 MiB of memory where 100 MiB did"));
        assert_eq!(large(150), None);
        let tiny = samples(1, 0.001, 1, 9);
        assert_eq!(samples(1, 0.004, 9, 9).slower_scene(&tiny, &rules), None, "nobody would notice");
        assert_eq!(samples(1, 0.004, 9, 9).larger_than(&tiny, &rules), None, "nobody would notice");
    }

    #[test]
    fn a_race_gives_both_releases_every_second_task_and_every_second_start() {
        let mut race = Race::new(1);
        let turns: Vec<Racer> = (0..8).map(|_| race.begin_next()).collect();
        use Racer::{Before, New};
        assert_eq!(turns, [New, Before, Before, New, New, Before, Before, New]);
    }

    /// A machine whose load comes and goes: what takes a second takes up to six.
    struct Machine {
        random: fastrand::Rng,
        load: f32,
    }

    impl Machine {
        fn takes(&mut self, seconds: f32) -> f32 {
            if self.random.u8(..) < 24 {
                self.load = 1.0 + 5.0 * self.random.f32() * self.random.f32();
            }
            let jitter = 1.0 + 2.0 * self.random.f32().powi(4);
            seconds * self.load * jitter
        }
    }

    /// Whether a new release that takes `factor` as long loses, if it is suspected at all.
    fn loses(machine: &mut Machine, factor: f32) -> bool {
        let rules = Rollout { slower: 2.0, ..Rollout::default() };
        let add = |samples: &mut Samples, seconds| samples.add(Sample { scene: 1, seconds, memory: 0 });
        let (mut before, mut new) = (Samples::default(), Samples::default());
        (0..40).for_each(|_| add(&mut before, machine.takes(0.05)));
        for _ in 0..50 {
            add(&mut new, machine.takes(0.05 * factor));
            if new.slower_scene(&before, &rules).is_none() {
                continue;
            }
            let mut race = Race::new(1);
            loop {
                let racer = race.begin_next();
                let seconds = if racer == Racer::New { 0.05 * factor } else { 0.05 };
                race.add(racer, machine.takes(seconds));
                match race.verdict(&rules) {
                    Some(Err(_)) => return true,
                    Some(Ok(())) => break,
                    None => {}
                }
            }
            new.forget(1);
        }
        false
    }

    #[test]
    fn of_500_equal_releases_under_load_none_is_slow_and_one_that_takes_three_times_as_long_is() {
        let mut machine = Machine { random: fastrand::Rng::with_seed(7), load: 1.0 };
        let unjust = (0..500).filter(|_| loses(&mut machine, 1.0)).count();
        assert_eq!(unjust, 0);
        let caught = (0..100).filter(|_| loses(&mut machine, 3.0)).count();
        assert!(caught >= 90, "{caught} of 100");
    }
}
