//! Scenarios of whole clusters, as data: who is there, what the network is like, and what happens when.

use std::time::Duration;

use crate::network::Weather;

/// Whom something happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// So many nodes that are up and well, at random.
    Some(usize),
    /// Half of them, rounded down.
    Half,
    /// Every one.
    All,
    /// The next one in the order of their names, so that each has its turn.
    Next,
    /// The one that joined last.
    Newest,
    /// The same as last time.
    Same,
}

/// Something that happens. What lasts for a while is undone by itself.
#[derive(Debug, Clone)]
pub enum Act {
    /// Their processes end without a word and start again after a while.
    Crash {
        /// Whose.
        who: Who,
        /// How long they are away.
        down: Duration,
        /// Their disks are still there; without, an empty one takes its place.
        disk: bool,
    },
    /// They are told to stop, as by SIGTERM: they hand over what they lead, end, and start again within 5 s.
    Stop(Who),
    /// They neither receive nor send for a while; their timers and disks go on.
    Slow(Who, Duration),
    /// They stand still for a while, timers and all.
    Pause(Who, Duration),
    /// They cannot reach the other nodes and the routers; the others reach them only when it is one way.
    Cut {
        /// Whom.
        who: Who,
        /// Only what they send is lost.
        one_way: bool,
    },
    /// Every link is whole again.
    Mend,
    /// The weather changes.
    Weather(Weather),
    /// So many newcomers start.
    Join(usize),
    /// An operator tells them to leave.
    Drain(Who),
    /// An operator gives them twice the weight.
    Reweigh(Who),
    /// Gossip neither reaches a router nor leaves it (`true`), or does again (`false`): its map grows old.
    Deafen(bool),
    /// A router's process ends and starts again after a while.
    CrashRouter(Duration),
}

/// Who forms a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Founders {
    /// All but so many, who join.
    AllBut(usize),
    /// So many; all others join.
    Exactly(usize),
}

/// A scenario.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// Nodes, unless said otherwise.
    pub nodes: usize,
    /// Fewest nodes it makes sense with.
    pub nodes_min: usize,
    /// Who of them forms the cluster.
    pub founders: Founders,
    /// The network, at first.
    pub weather: Weather,
    /// Every clock is off as far as it may be, half of them fast and half of them slow.
    pub clocks_apart: bool,
    /// What waits for a node that does not receive, in messages.
    pub inbox_max: usize,
    /// Longest time a part of a copy takes.
    pub import_delay_max: Duration,
    /// What happens when, after the cluster has formed.
    pub timeline: Vec<(Duration, Act)>,
    /// Everything is at rest so long after the last fault.
    pub converges_within: Duration,
}

const S: fn(u64) -> Duration = Duration::from_secs;
const MS: fn(u64) -> Duration = Duration::from_millis;

/// Fewest nodes of any scenario: as many as there are copies.
pub const NODES_MIN: usize = 3;
/// Most nodes of any scenario: a second of a larger cluster takes longer than a person waits.
pub const NODES_MAX: usize = 64;
/// A socket's buffer holds about so many messages.
const INBOX_MAX: usize = 1_024;
/// What is away may be replaced before it is back, and everything moves twice.
const CONVERGES_WITHIN: Duration = Duration::from_secs(60);

/// A LAN on a good day.
fn fair() -> Weather {
    Weather::fair(MS(2))
}

impl Scenario {
    fn new(name: &'static str, about: &'static str) -> Self {
        Self {
            name,
            about,
            nodes: 5,
            nodes_min: NODES_MIN,
            founders: Founders::AllBut(0),
            weather: fair(),
            clocks_apart: false,
            inbox_max: INBOX_MAX,
            import_delay_max: MS(50),
            timeline: Vec::new(),
            converges_within: CONVERGES_WITHIN,
        }
    }

    fn at(mut self, at: Duration, act: Act) -> Self {
        self.timeline.push((at, act));
        self
    }

    /// So many times, so long after each other.
    fn each(self, times: u64, gap: Duration, act: impl Fn(u64) -> Vec<(Duration, Act)>) -> Self {
        (0..times).fold(self, |scenario, round| {
            let start = gap * round as u32;
            act(round).into_iter().fold(scenario, |scenario, (at, act)| scenario.at(start + at, act))
        })
    }

    /// How many nodes form the cluster.
    #[must_use]
    pub fn founders_of(&self, nodes: usize) -> usize {
        match self.founders {
            Founders::AllBut(late) => nodes - late.min(nodes),
            Founders::Exactly(founders) => founders.min(nodes),
        }
    }

    /// One of the table, for so many nodes.
    #[must_use]
    pub fn named(name: &str, nodes: usize) -> Option<Self> {
        table(nodes).into_iter().find(|scenario| scenario.name == name)
    }
}

/// Every scenario; what happens once for each node happens so many times.
#[must_use]
pub fn table(nodes: usize) -> Vec<Scenario> {
    let mut table = crashes(nodes);
    table.extend(bad_networks());
    table.extend(rebalances(nodes));
    table
}

fn crashes(nodes: usize) -> Vec<Scenario> {
    let new = Scenario::new;
    let crash = |who, down, disk| Act::Crash { who, down, disk };
    vec![
        new("cluster-crash", "a node crashes and is back after 20 s, three times")
            .each(3, S(30), |_| vec![(S(0), crash(Who::Some(1), S(20), true))]),
        new("cluster-crash-no-disk", "a node crashes and comes back with an empty disk")
            .at(S(1), crash(Who::Some(1), S(5), false)),
        new("cluster-mass-restart", "every node crashes at once, and is back within seconds")
            .at(S(1), crash(Who::All, S(3), true)),
        new(
            "cluster-rolling-restart",
            "one node after the other is told to stop, hands over and starts again",
        )
        .each(nodes as u64, S(12), |_| vec![(S(0), Act::Stop(Who::Next))]),
        new("cluster-slow", "a node neither receives nor sends for 8 s while its timers run, three times")
            .each(3, S(20), |_| vec![(S(0), Act::Slow(Who::Some(1), S(8)))]),
        Scenario {
            inbox_max: 16,
            ..new("cluster-full-inboxes", "slow nodes that lose nearly all they were sent").each(
                3,
                S(20),
                |_| vec![(S(0), Act::Slow(Who::Some(1), S(8)))],
            )
        },
        new("cluster-pause", "a node stands still for 8 s, timers and all, three times").each(
            3,
            S(20),
            |_| vec![(S(0), Act::Pause(Who::Some(1), S(8)))],
        ),
        Scenario {
            clocks_apart: true,
            ..new(
                "cluster-clocks",
                "clocks are as far apart as they may be, while nodes crash and stand still",
            )
            .each(3, S(20), |_| {
                let pause = (S(10), Act::Pause(Who::Some(1), S(4)));
                vec![(S(0), crash(Who::Some(1), S(4), true)), pause]
            })
        },
    ]
}

fn bad_networks() -> Vec<Scenario> {
    let new = Scenario::new;
    let bad = Weather {
        loss_ppm: 100_000,
        double_ppm: 50_000,
        late_ppm: 50_000,
        delay_max: MS(5),
        late_max: MS(500),
    };
    vec![
        new("cluster-loss", "a tenth of everything is lost for 40 s, and some is doubled and overtaken")
            .at(S(0), Act::Weather(bad))
            .at(S(40), Act::Weather(fair())),
        new("cluster-split", "half of the nodes cannot reach anybody else for 30 s")
            .at(S(1), Act::Cut { who: Who::Half, one_way: false })
            .at(S(31), Act::Mend),
        new("cluster-one-way", "what a node sends is lost for 15 s")
            .at(S(1), Act::Cut { who: Who::Some(1), one_way: true })
            .at(S(16), Act::Mend),
        new("cluster-flapping", "a node's links go every other two seconds").each(8, S(4), |round| {
            let who = if round == 0 { Who::Some(1) } else { Who::Same };
            vec![(S(0), Act::Cut { who, one_way: false }), (S(2), Act::Mend)]
        }),
        new(
            "router-behind",
            "gossip does not reach a router for 5 s at a time while partitions change hands; requests do",
        )
        .each(3, S(20), |_| {
            vec![(S(0), Act::Deafen(true)), (MS(200), Act::Stop(Who::Next)), (S(5), Act::Deafen(false))]
        }),
        new("router-crash", "a router's process ends and starts again, three times")
            .each(3, S(10), |_| vec![(S(0), Act::CrashRouter(S(2)))]),
    ]
}

fn rebalances(nodes: usize) -> Vec<Scenario> {
    let new = Scenario::new;
    let crash = |who, down| Act::Crash { who, down, disk: true };
    let late = nodes.saturating_sub(NODES_MIN) as u64;
    let storm = (0..late).fold(
        new("cluster-join-storm", "newcomers come to a cluster of three nodes, twenty a second"),
        |scenario, at| scenario.at(MS(50 * at), Act::Join(1)),
    );
    vec![
        Scenario { nodes: 12, nodes_min: 4, founders: Founders::Exactly(3), ..storm },
        Scenario {
            nodes: 6,
            nodes_min: 5,
            founders: Founders::AllBut(1),
            import_delay_max: S(2),
            ..new(
                "rebalance-crash",
                "a node joins, and while partitions are copied to it, it crashes, and then one that they come from",
            )
            .at(S(1), Act::Join(1))
            .at(S(4), crash(Who::Newest, S(3)))
            .at(S(12), crash(Who::Some(1), S(4)))
            .at(S(15), Act::Reweigh(Who::Some(1)))
            .at(S(17), crash(Who::Same, S(4)))
        },
        Scenario {
            nodes: 6,
            nodes_min: 5,
            ..new("drain", "a node is told to leave, and then another; everything moves away from them")
                .at(S(1), Act::Drain(Who::Some(1)))
                .at(S(15), Act::Drain(Who::Some(1)))
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_timelines_in_order() {
        for nodes in [NODES_MIN, 5, 12] {
            let table = table(nodes);
            for (at, scenario) in table.iter().enumerate() {
                assert!(table[..at].iter().all(|other| other.name != scenario.name), "{}", scenario.name);
                assert!(scenario.timeline.is_sorted_by_key(|(at, _)| *at), "{}", scenario.name);
                assert!((NODES_MIN..=NODES_MAX).contains(&scenario.nodes_min), "{}", scenario.name);
                assert!(scenario.nodes >= scenario.nodes_min, "{}", scenario.name);
            }
        }
        assert!(Scenario::named("drain", 5).is_some() && Scenario::named("drains", 5).is_none());
    }

    #[test]
    fn a_storm_is_of_all_but_three() {
        let storm = Scenario::named("cluster-join-storm", 12).expect("it is in the table");
        assert_eq!((storm.timeline.len(), storm.founders_of(12)), (9, 3));
    }
}
