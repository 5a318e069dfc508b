//! What goes wrong in a group when the seed decides, and any act in words.

use std::time::Duration;

use super::links::{FAIR, Weather};
use super::member::Place;
use super::scenario::{Act, Who};
use crate::rng::Rng;
use crate::story::names;

/// Newcomers in one mixture, at most.
pub const JOINS_MAX: usize = 6;
/// Members that crash for good, at most: somebody is left to find out.
const CRASHES_MAX: usize = 6;
/// Members that say goodbye, at most.
const LEAVES_MAX: usize = 3;
/// Longest time between two things that go wrong.
const GAP_MAX: Duration = Duration::from_secs(5);
/// Longest time that a member is slow or stands still.
const BLOCKED_MAX: Duration = Duration::from_secs(16);
/// Longest time that links are cut.
const CUT_MAX: Duration = Duration::from_secs(12);
/// Longest time that a restarted member is away.
const DOWN_MAX: Duration = Duration::from_secs(8);
/// Most members, in a hundred, that one fault is about.
const PERCENT_MAX: u64 = 12;

/// Draws what happens when, for so long; at its end every link is whole and the weather is fair.
#[must_use]
pub fn timeline(rng: &mut Rng, lasts: Duration) -> Vec<(Duration, Act)> {
    let mut timeline = Vec::new();
    let (mut at, mut cut_until) = (Duration::ZERO, Duration::ZERO);
    let mut left = [CRASHES_MAX, LEAVES_MAX, JOINS_MAX];
    while at < lasts {
        let who = Who::Percent(rng.between(1, PERCENT_MAX) as usize);
        match rng.below(12) {
            0 => limited(&mut left[0], &mut timeline, at, Act::Crash(Who::Some(1))),
            1 => limited(&mut left[1], &mut timeline, at, Act::Leave(Who::Some(1))),
            2 => limited(&mut left[2], &mut timeline, at, Act::Join(1)),
            3 | 4 => {
                let down = rng.time(Duration::from_millis(100), DOWN_MAX);
                timeline.push((at, Act::Restart { who, down, disk: rng.chance(700_000) }));
            }
            5 | 6 => timeline.push((at, Act::Slow(who, rng.time(Duration::ZERO, BLOCKED_MAX)))),
            7 | 8 => timeline.push((at, Act::Pause(who, rng.time(Duration::ZERO, BLOCKED_MAX)))),
            9 if at >= cut_until => {
                let time = rng.time(Duration::ZERO, CUT_MAX.min(lasts - at));
                let cut = if rng.chance(300_000) {
                    Act::CutLink
                } else {
                    Act::Cut { who, one_way: rng.chance(400_000) }
                };
                timeline.push((at, cut));
                timeline.push((at + time, Act::Mend));
                cut_until = at + time;
            }
            10 => timeline.push((at, Act::Record(200))),
            _ => timeline.push((at, Act::Weather(weather(rng)))),
        }
        at += rng.time(Duration::ZERO, GAP_MAX);
    }
    timeline.push((lasts, Act::Weather(FAIR)));
    timeline.sort_by_key(|(at, _)| *at);
    timeline
}

/// Unless it happened often enough.
fn limited(left: &mut usize, timeline: &mut Vec<(Duration, Act)>, at: Duration, act: Act) {
    if *left > 0 {
        *left -= 1;
        timeline.push((at, act));
    }
}

fn weather(rng: &mut Rng) -> Weather {
    Weather {
        loss_ppm: [0, 50_000, 200_000][rng.below(3)],
        double_ppm: [0, 100_000][rng.below(2)],
        late_ppm: [0, 100_000][rng.below(2)],
        late_max: Duration::from_millis(400),
        ..FAIR
    }
}

/// An act in words, and whom it was about; `None` for what changes nothing, and for newcomers, who have names of their own.
#[must_use]
pub fn words(act: &Act, whom: &[Place]) -> Option<String> {
    let names = names(whom);
    Some(match act {
        Act::Crash(_) => format!("crash for good: {names}"),
        Act::Restart { down, disk, .. } => {
            let without = if *disk { "" } else { " and without a memory" };
            format!("restart, back after {down:?}{without}: {names}")
        }
        Act::Slow(_, time) => format!("neither receives nor sends for {time:?}: {names}"),
        Act::Pause(_, time) => format!("stands still for {time:?}: {names}"),
        Act::Cut { one_way: true, .. } => format!("not heard by the others: {names}"),
        Act::Cut { one_way: false, .. } => format!("cut off from the others: {names}"),
        Act::CutLink => format!("cannot reach each other: {names}"),
        Act::Mend => "every link is whole again".to_owned(),
        Act::Leave(_) => format!("goodbye: {names}"),
        Act::Record(bytes) => format!("a record of {bytes} bytes is set: {names}"),
        Act::Weather(weather) => {
            let percent = |ppm: u32| f64::from(ppm) / 10_000.0;
            format!(
                "from here on {} % of all datagrams is lost, {} % doubled, {} % late",
                percent(weather.loss_ppm),
                percent(weather.double_ppm),
                percent(weather.late_ppm)
            )
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTS: Duration = Duration::from_secs(120);

    #[test]
    fn a_mixture_is_in_order_and_leaves_nothing_broken() {
        for seed in 0..200 {
            let timeline = timeline(&mut Rng::new(seed), LASTS);
            assert!(timeline.is_sorted_by_key(|(at, _)| *at));
            let mut cut = false;
            for (at, act) in &timeline {
                assert!(*at <= LASTS);
                match act {
                    Act::Cut { .. } | Act::CutLink => {
                        assert!(!cut, "seed {seed}: a cut within a cut");
                        cut = true;
                    }
                    Act::Mend => cut = false,
                    _ => {}
                }
            }
            assert!(!cut, "seed {seed}: a cut that nobody mends");
            let joins = timeline.iter().filter(|(_, act)| matches!(act, Act::Join(_))).count();
            assert!(joins <= JOINS_MAX);
        }
    }

    #[test]
    fn seeds_differ() {
        let drawn = |seed| format!("{:?}", timeline(&mut Rng::new(seed), LASTS));
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
    }
}
