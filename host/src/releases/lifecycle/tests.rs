//! What holds for the catalogue, whatever happens.

use std::borrow::Cow;

use proptest::prelude::*;

use super::*;
use crate::config::file::Rollout;
use crate::releases::release::Code;
use crate::releases::rollout::Sample;
use crate::terms::Upgrade;

fn release(version: &str, tag: &str) -> Release {
    Release {
        name: "draft".to_owned(),
        version: version.parse().unwrap(),
        digest: format!(
            "{:0<64}",
            format!("{version}{tag}").replace(|c: char| !c.is_ascii_alphanumeric(), "f")
        ),
        place: Some(PathBuf::from(format!("/plugins/draft-{version}.wasm"))),
        code: Code::Component(Cow::Borrowed(b"")),
    }
}

fn wish(wanted: &str, upgrade: Upgrade) -> Wish {
    Wish { job: JobId::new(), wanted: wanted.parse().unwrap(), upgrade, label: None }
}

fn at_once() -> Catalogue {
    let rules = Rules { all: Rollout::at_once(), ..Rules::default() };
    Catalogue::restore(Vec::new(), rules)
}

fn states(catalogue: &Catalogue) -> Vec<(String, ReleaseState)> {
    catalogue.list().iter().rev().map(|s| (s.row.version.to_string(), s.row.state)).collect()
}

#[test]
fn the_newest_of_each_line_is_active() {
    use ReleaseState::{Active, Draining, Retired};
    let mut catalogue = at_once();
    for version in ["1.0.0", "1.1.0", "0.2.0", "0.3.1", "0.3.0", "2.0.0-rc.1"] {
        catalogue.arrive(&release(version, ""), Vec::new(), 0);
    }
    let expected = [
        ("0.2.0", Active),
        // It came when a newer one served.
        ("0.3.0", Retired),
        ("0.3.1", Active),
        ("1.0.0", Draining),
        ("1.1.0", Active),
        ("2.0.0-rc.1", Active),
    ];
    assert_eq!(states(&catalogue), expected.map(|(version, state)| (version.to_owned(), state)));
    let mut chosen = |wanted: &str| {
        let digest = catalogue.choose(&wish(wanted, Upgrade::Patch))?;
        Some(catalogue.get(&digest)?.row.version.to_string())
    };
    for (wanted, version) in [
        ("draft", Some("1.1.0")),
        ("draft@^0.2", Some("0.2.0")),
        ("draft@~0.3.0", Some("0.3.1")),
        ("draft@=1.0.0", Some("1.0.0")),
        ("draft@2.0.0-rc.1", Some("2.0.0-rc.1")),
        ("draft@^3", None),
    ] {
        assert_eq!(chosen(wanted).as_deref(), version, "{wanted}");
    }
}

#[test]
fn what_replaces_a_file_serves_even_if_its_version_is_lower() {
    let mut catalogue = at_once();
    let place = Some(PathBuf::from("/plugins/draft.wasm"));
    for version in ["1.0.0", "1.0.1", "1.0.0"] {
        catalogue.arrive(&Release { place: place.clone(), ..release(version, "") }, Vec::new(), 0);
        let chosen = catalogue.choose(&wish("draft", Upgrade::Patch)).unwrap();
        assert_eq!(catalogue.get(&chosen).unwrap().row.version.to_string(), version);
    }
    // Who asks for the one that was there before still gets it.
    assert!(catalogue.choose(&wish("draft@=1.0.1", Upgrade::Patch)).is_some());
    catalogue.vanish(place.as_deref().unwrap(), 0);
    assert_eq!(catalogue.choose(&wish("draft", Upgrade::Patch)), None);
    assert_eq!(catalogue.choose(&wish("draft@=1.0.1", Upgrade::Patch)), None);
}

#[test]
fn other_bytes_of_a_version_are_a_build_or_nothing() {
    let mut catalogue = at_once();
    catalogue.arrive(&release("1.0.0", "a"), Vec::new(), 0);
    assert!(catalogue.check(&release("1.0.0", "a")).is_ok());
    assert!(catalogue.check(&release("1.0.0", "b")).unwrap_err().0.contains("--dev"));
    catalogue.rules.dev = true;
    let second = release("1.0.0", "b");
    catalogue.check(&second).unwrap();
    catalogue.arrive(&second, Vec::new(), 0);
    assert_eq!(catalogue.get(&second.digest).unwrap().label(), "draft 1.0.0+dev.1");
    assert_eq!(catalogue.choose(&wish("draft", Upgrade::Patch)), Some(second.digest));
}

#[test]
fn pins_move_as_far_as_they_may() {
    let (old, patch, minor) = (release("1.0.0", ""), release("1.0.1", ""), release("1.1.0", ""));
    for (wanted, upgrade, expected) in [
        ("draft", Upgrade::Pinned, None),
        ("draft", Upgrade::Patch, Some(&patch)),
        ("draft", Upgrade::Compatible, Some(&minor)),
        ("draft@~1.0", Upgrade::Compatible, Some(&patch)),
        ("draft@=1.0.0", Upgrade::Compatible, None),
    ] {
        let mut catalogue = at_once();
        [&old, &patch, &minor].into_iter().for_each(|one| catalogue.arrive(one, Vec::new(), 0));
        let follow = catalogue.follow(&wish(wanted, upgrade), &old.digest);
        let to = match &follow {
            Follow::Move { to, way: Way::On, .. } => Some(to.as_str()),
            _ => None,
        };
        assert_eq!(to, expected.map(|release| release.digest.as_str()), "{wanted} {upgrade}: {follow:?}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Arrive(u8, u8),
    Vanish(u8),
    Quarantine(u8),
    Promote(u8),
    Done(u8),
    Blamed(u8),
    RollBack,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let one = 0..6u8;
    prop_oneof![
        (one.clone(), 0..3u8).prop_map(|(n, place)| Step::Arrive(n, place)),
        (0..3u8).prop_map(Step::Vanish),
        one.clone().prop_map(Step::Quarantine),
        one.clone().prop_map(Step::Promote),
        one.clone().prop_map(Step::Done),
        one.prop_map(Step::Blamed),
        Just(Step::RollBack),
        Just(Step::Restart),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_what_serves_is_sound(steps in proptest::collection::vec(step(), 1..60)) {
        let all: Vec<Release> = (0..6).map(|n| release(&format!("1.{}.{}", n / 3, n % 3), "")).collect();
        let place = |n: u8| PathBuf::from(format!("/plugins/{n}.wasm"));
        let rules = Rules { all: Rollout { first: 1, tasks: 2, ..Rollout::default() }, ..Rules::default() };
        let mut catalogue = Catalogue::restore(Vec::new(), rules.clone());
        let mut stored: BTreeMap<String, ReleaseRow> = BTreeMap::new();
        for (now, step) in steps.into_iter().enumerate() {
            let now = now as u64;
            let digest = |n: u8| all[usize::from(n)].digest.clone();
            match step {
                Step::Arrive(n, at) => {
                    let release = Release { place: Some(place(at)), ..all[usize::from(n)].clone() };
                    catalogue.arrive(&release, Vec::new(), now);
                }
                Step::Vanish(at) => catalogue.vanish(&place(at), now),
                Step::Quarantine(n) => catalogue.quarantine(&digest(n), "test", now),
                Step::Promote(n) => drop(catalogue.promote(&digest(n), now)),
                Step::Done(n) => {
                    let sample = Sample { scene: 1, seconds: 0.1, memory: 0 };
                    catalogue.ended(&digest(n), Some(Some(sample)), false, now);
                }
                Step::Blamed(n) => catalogue.ended(&digest(n), None, true, now),
                Step::RollBack => drop(catalogue.roll_back("draft", now)),
                Step::Restart => {
                    stored.extend(catalogue.take_changes().rows.into_iter().map(|row| (row.digest.clone(), row)));
                    catalogue = Catalogue::restore(stored.values().cloned().collect(), rules.clone());
                }
            }
            let serves = |s: &&&Standing| s.row.proven && s.serves();
            let (listed, mut active) = (catalogue.list(), HashMap::new());
            for standing in &listed {
                if standing.row.state == ReleaseState::Active && standing.serves() {
                    *active.entry(standing.line()).or_insert(0) += 1;
                }
                // A place holds one release.
                let here = listed.iter().filter(|s| s.row.presence == Presence::Present && s.row.place == standing.row.place);
                prop_assert!(here.count() <= 1);
            }
            prop_assert!(active.values().all(|count| *count == 1), "{:?}", states(&catalogue));
            let lines: HashSet<_> = listed.iter().filter(serves).map(|s| s.line()).collect();
            prop_assert_eq!(lines.len(), active.len(), "each line that serves has one that is active");
            if let Some(chosen) = catalogue.choose(&wish("draft", Upgrade::Patch)) {
                let standing = catalogue.get(&chosen).unwrap();
                prop_assert!(standing.serves(), "{:?}", standing.row);
            }
        }
    }
}
