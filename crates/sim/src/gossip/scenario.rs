//! The scenarios, as data: who is there, what the network is like, and what happens when.

use std::time::Duration;

use super::links::{FAIR, Weather};
use super::member::FIRST_KEY;

/// Whom something happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// So many who are up and well, at random.
    Some(usize),
    /// So many in a hundred of all.
    Percent(usize),
    /// The same as last time.
    Same,
}

/// Something that happens.
#[derive(Debug, Clone, Copy)]
pub enum Act {
    /// Their processes end without a word, for good.
    Crash(Who),
    /// Their processes end and start again after a while, with or without what is on their disks.
    Restart {
        /// Whose.
        who: Who,
        /// How long they are away.
        down: Duration,
        /// The disk is there; without it the clock says which life it is.
        disk: bool,
    },
    /// They neither receive nor send for a while; their timers run.
    Slow(Who, Duration),
    /// They stand still for a while.
    Pause(Who, Duration),
    /// They cannot reach the others, and the others reach them only when it is one way.
    Cut {
        /// Whom.
        who: Who,
        /// Only what they send is lost.
        one_way: bool,
    },
    /// Two of them cannot reach each other; everybody else reaches both.
    CutLink,
    /// Every link is whole again.
    Mend,
    /// So many newcomers start.
    Join(usize),
    /// They say goodbye, and end two seconds later.
    Leave(Who),
    /// Somebody sets a record of so many bytes.
    Record(usize),
    /// Somebody gives everybody these keys, by their numbers; the first one seals. In sealed groups, which begin with the
    /// key [`FIRST_KEY`].
    Keys(&'static [u8]),
    /// The weather changes.
    Weather(Weather),
    /// Nothing goes on from here (`true`), or until here.
    Idle(bool),
    /// For so long, whatever the seed draws: see [`super::mixture`].
    Mixture(Duration),
}

/// A scenario.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// What it is about.
    pub about: &'static str,
    /// Members, unless said otherwise.
    pub nodes: usize,
    /// Fewest members it makes sense with.
    pub nodes_min: usize,
    /// Of these, members that join later; all but `late` know each other from the start.
    pub late: usize,
    /// Bytes of the record that each founder has set.
    pub record_bytes: Option<usize>,
    /// The network, at first.
    pub weather: Weather,
    /// How much clocks are off.
    pub drift_ppm: u64,
    /// Messages that wait for a member that does not receive.
    pub inbox_max: usize,
    /// Messages are encrypted.
    pub sealed: bool,
    /// What happens when.
    pub timeline: Vec<(Duration, Act)>,
    /// News that somebody is well again may take so much longer than on a good day.
    pub news_late: Duration,
    /// A crash is known to everybody who is well within this.
    pub told_within: Duration,
    /// Among so many or more, nobody that lives is declared dead by anybody.
    pub spares_among: Option<usize>,
    /// Everybody agrees so long after the last that happens; then the run ends.
    pub agrees_within: Duration,
}

const S: fn(u64) -> Duration = Duration::from_secs;
const MS: fn(u64) -> Duration = Duration::from_millis;

/// A socket's buffer holds about so many small datagrams (208 KiB, and 768 bytes for each).
const INBOX_MAX: usize = 277;
/// Fewest members of any scenario: a doubt is confirmed by others.
pub const NODES_MIN: usize = 8;
/// The longest suspicion in the smallest group. Who is slow for longer gives the others up, and rightly; it grows with the
/// logarithm of the number of members.
const LONG_SLOW_SECONDS: u64 = 24;
/// Among so many it is longer than the longest of [`SLOW_SECONDS`].
const LONG_SLOW_NODES_MIN: usize = 32;
/// In a mixture so many may be gone, and others in trouble, that a smaller group has nobody left to find out.
const MIXTURE_NODES_MIN: usize = 24;
/// The slow-member matrix: members, of 128.
pub const SLOW_MEMBERS: [usize; 4] = [1, 4, 13, 32];
/// For how many seconds they are slow.
pub const SLOW_SECONDS: [u64; 3] = [8, 16, 33];
/// Everybody knows who was in a zone that is gone.
const THIRD_TOLD_WITHIN: Duration = Duration::from_secs(30);
/// Among so many a cut of [`SPLIT_SECONDS`] is shorter than the longest suspicion, and who is behind it is spared.
const SPLIT_SPARES_AMONG: usize = 1_024;
/// For how long halves are apart.
const SPLIT_SECONDS: u64 = 60;
/// Datagrams lost where loss is what matters, in parts per million.
const LOSS_PPM: u32 = 200_000;

impl Scenario {
    fn new(name: &str, about: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            about,
            nodes: 128,
            nodes_min: NODES_MIN,
            late: 0,
            record_bytes: None,
            weather: FAIR,
            drift_ppm: 100,
            inbox_max: INBOX_MAX,
            sealed: false,
            timeline: Vec::new(),
            news_late: Duration::ZERO,
            told_within: S(30),
            spares_among: None,
            agrees_within: S(30),
        }
    }

    fn at(mut self, at: Duration, act: Act) -> Self {
        self.timeline.push((at, act));
        self
    }

    /// One of the table.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        table().into_iter().find(|scenario| scenario.name == name)
    }
}

/// Every scenario.
#[must_use]
pub fn table() -> Vec<Scenario> {
    let mut table = crashes();
    table.extend(slow_members());
    table.extend(bad_networks());
    table.extend(comings_and_goings());
    table.push(key_rotation());
    table.push(mixture());
    table
}

fn crashes() -> Vec<Scenario> {
    let new = Scenario::new;
    let crash = (0..5).fold(new("crash", "five members crash, one after the other"), |scenario, round| {
        scenario.at(S(20 * round), Act::Crash(Who::Some(1)))
    });
    let quarter = new("crash-quarter-slow", "a member crashes while a quarter of the others is slow")
        .at(S(0), Act::Slow(Who::Percent(25), S(16)))
        .at(S(2), Act::Crash(Who::Some(1)));
    let many =
        new("crash-tenth", "a tenth of all members crashes at once").at(S(0), Act::Crash(Who::Percent(10)));
    let third = new("crash-third", "a third of all members crashes at once: one of three zones")
        .at(S(0), Act::Crash(Who::Percent(33)));
    // Who is slow may doubt as long as the longest suspicion lasts. Where nobody is, a doubt that lasted so long would be
    // found: among a thousand that is more than a minute.
    let bound = |time, scenario| Scenario { told_within: time, agrees_within: time, ..scenario };
    vec![crash, bound(S(90), quarter), bound(S(90), many), bound(THIRD_TOLD_WITHIN, third)]
}

/// Slow members by number and time; paused ones; slow ones whose inboxes overflow.
fn slow_members() -> Vec<Scenario> {
    let matrix = SLOW_MEMBERS.into_iter().flat_map(|members| SLOW_SECONDS.map(|seconds| (members, seconds)));
    let slow = matrix.map(|(members, seconds)| {
        let scenario =
            Scenario::new(&format!("slow-{members}x{seconds}"), "members that are slow, for so many seconds");
        let nodes_min = if seconds > LONG_SLOW_SECONDS { LONG_SLOW_NODES_MIN } else { NODES_MIN };
        let scenario = Scenario { nodes_min, agrees_within: S(100), ..scenario };
        scenario.at(S(5), Act::Slow(Who::Some(members), S(seconds)))
    });
    let waves = (0..40).fold(
        Scenario::new("slow-waves", "a tenth is slow for three seconds, then others"),
        |scenario, round| scenario.at(MS(1_500 * round), Act::Slow(Who::Percent(10), S(3))),
    );
    let paused = Scenario::new("pause", "a tenth of all members stands still for 16 s")
        .at(S(5), Act::Pause(Who::Percent(10), S(16)));
    let full = Scenario::new("full-inboxes", "slow members that lose nearly all they were sent")
        .at(S(5), Act::Slow(Who::Percent(10), S(16)));
    let full = Scenario { inbox_max: 4, ..full };
    slow.chain([waves, paused, full].map(|scenario| Scenario { agrees_within: S(60), ..scenario })).collect()
}

fn bad_networks() -> Vec<Scenario> {
    let new = Scenario::new;
    let lossy = Weather { loss_ppm: LOSS_PPM, ..FAIR };
    let loss = new("loss", "a fifth of all datagrams is lost; a record is set meanwhile")
        .at(S(0), Act::Weather(lossy))
        .at(S(20), Act::Record(200))
        .at(S(120), Act::Weather(FAIR));
    let storm =
        Weather { loss_ppm: 50_000, double_ppm: 100_000, late_ppm: 100_000, late_max: MS(400), ..FAIR };
    let storm = new("storm", "datagrams are lost, doubled and overtaken")
        .at(S(0), Act::Weather(storm))
        .at(S(10), Act::Record(200))
        .at(S(60), Act::Weather(FAIR));
    let split = new("split", "half of the members cannot reach the other half for 60 s")
        .at(S(0), Act::Cut { who: Who::Percent(50), one_way: false })
        .at(S(SPLIT_SECONDS), Act::Mend);
    let split = Scenario { spares_among: Some(SPLIT_SPARES_AMONG), ..split };
    let mute = new("one-way", "what a twentieth of all members sends is lost for 20 s")
        .at(S(0), Act::Cut { who: Who::Percent(5), one_way: true })
        .at(S(20), Act::Mend);
    let flapping =
        (0..10).fold(new("flapping", "a member's link goes every other two seconds"), |scenario, round| {
            let who = if round == 0 { Who::Some(1) } else { Who::Same };
            let scenario = scenario.at(S(4 * round), Act::Cut { who, one_way: false });
            scenario.at(S(4 * round + 2), Act::Mend)
        });
    let link = new("cut-link", "two members cannot reach each other, and all others can")
        .at(S(0), Act::CutLink)
        .at(S(60), Act::Mend);
    let [split, mute] = [split, mute].map(|scenario| Scenario { agrees_within: S(60), ..scenario });
    vec![loss, storm, split, mute, flapping, link]
}

/// Everything at once, as the seed draws it.
fn mixture() -> Scenario {
    let mixture = Scenario::new(
        "membership-mixture",
        "two minutes of crashes, restarts, slow and paused members, cuts, bad weather, joins and goodbyes, drawn from the seed",
    );
    let mixture = mixture.at(S(0), Act::Mixture(S(120)));
    Scenario {
        nodes: 64,
        nodes_min: MIXTURE_NODES_MIN,
        late: super::mixture::JOINS_MAX,
        // A fifth of all news may be lost while members come back: the next exchange of states has them.
        news_late: S(10),
        told_within: S(90),
        agrees_within: S(90),
        ..mixture
    }
}

fn comings_and_goings() -> Vec<Scenario> {
    let new = Scenario::new;
    let restart = |name, about, who, down, disk| new(name, about).at(S(0), Act::Restart { who, down, disk });
    let rolling =
        (0..8).fold(new("rolling-restart", "one member after the other restarts"), |scenario, round| {
            scenario.at(S(4 * round), Act::Restart { who: Who::Some(1), down: S(1), disk: round % 2 == 0 })
        });
    let late = new("late-joiner", "a newcomer to a group in which each member has set a record")
        .at(S(0), Act::Join(1));
    let storm = (0..57).fold(
        new("join-storm", "57 newcomers come to three members within three seconds"),
        |scenario, at| scenario.at(MS(50 * at), Act::Join(1)),
    );
    let idle =
        new("idle", "nothing goes on for a minute").at(S(0), Act::Idle(true)).at(S(60), Act::Idle(false));
    let quiet = |scenario: Scenario| Scenario { agrees_within: S(1), ..scenario };
    let sealed = Scenario { name: "idle-sealed".to_owned(), sealed: true, ..idle.clone() };
    vec![
        restart("restart", "a member restarts", Who::Some(1), S(1), true),
        restart(
            "restart-no-disk",
            "a member restarts and has forgotten its last life",
            Who::Some(1),
            S(1),
            false,
        ),
        restart("mass-restart", "half of all members restarts at once", Who::Percent(50), S(2), true),
        restart(
            "mass-restart-no-disk",
            "the same, without what was on their disks",
            Who::Percent(50),
            S(2),
            false,
        ),
        rolling,
        Scenario { late: 1, record_bytes: Some(100), ..late },
        Scenario { nodes: 60, late: 57, record_bytes: Some(100), ..storm },
        new("leave", "an eighth of all members says goodbye").at(S(0), Act::Leave(Who::Percent(12))),
        new("record", "a record of 200 bytes is set").at(S(0), Act::Record(200)).at(S(5), Act::Record(200)),
        quiet(idle),
        quiet(sealed),
    ]
}

/// Install, use and remove of a key. Two members hear of the first two only when they are over: one that is cut off
/// meanwhile, and one whose process is down and starts again with the old key.
fn key_rotation() -> Scenario {
    let about = "the key is rotated; one member is cut off meanwhile, and one restarts with the old key";
    let scenario = Scenario::new("key-rotation", about)
        .at(S(0), Act::Cut { who: Who::Some(1), one_way: false })
        .at(S(0), Act::Restart { who: Who::Some(1), down: S(40), disk: true })
        .at(S(5), Act::Keys(&[FIRST_KEY, 8]))
        .at(S(10), Act::Keys(&[8, FIRST_KEY]))
        .at(S(45), Act::Mend)
        .at(S(75), Act::Keys(&[8]));
    Scenario { sealed: true, ..scenario }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_timelines_in_order() {
        let table = table();
        for (at, scenario) in table.iter().enumerate() {
            assert!(table[..at].iter().all(|other| other.name != scenario.name), "{}", scenario.name);
            assert!(scenario.timeline.is_sorted_by_key(|(at, _)| *at), "{}", scenario.name);
            assert!(!scenario.timeline.is_empty());
        }
        assert!(Scenario::named("slow-13x33").is_some() && Scenario::named("slow-13x34").is_none());
    }
}
