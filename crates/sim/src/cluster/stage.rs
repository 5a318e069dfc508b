//! Plays a scenario of a whole cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ringway_control::ownership::Timing;
use ringway_topology::settings::EPSILON_PPM_DEFAULT;
use ringway_topology::{
    Algorithm, ClusterName, ClusterSettings, Health, NodeId, Ownership, PartitionCount, Weight,
};

use super::scenario::{Act, Scenario, Who};
use super::{Chore, Cluster, FORMING_MAX, LOOK_GAP, ROUTERS, ms};
use crate::checkers::Rule;
use crate::clock::Clock;
use crate::explorer::{ExploreOptions, Outcome};
use crate::network::Place;
use crate::node::{NodeOptions, node_name};
use crate::plane::ClusterOptions;
use crate::rng::Rng;
use crate::router::Patience;
use crate::story::{Story, names};
use crate::world::{World, WorldOptions};

/// Between two looks: the resolution of every figure.
const TICK: Duration = ms(100);
/// A partition that nobody serves for less than this is no line in the story: every planned move is such a moment.
const TOLD_UNSERVED: Duration = ms(300);
/// At rest is what stayed so for this long: longer than a member waits for the records, and then for the desired owners,
/// to stand still.
const REST_HOLDS: Duration = Duration::from_secs(3);
/// After a cut each side brings along what it said of the other; all of that is refuted within this, which is the target
/// for healed halves in [`crate::gossip::targets`].
const HEALED_WITHIN: Duration = Duration::from_secs(10);
/// Copies of every partition.
const REPLICAS: usize = 3;
/// Fewest partitions.
const PARTITIONS_MIN: u32 = 32;
/// And at least so many for each node.
const PARTITIONS_PER_NODE: u32 = 4;
/// The weight of a node that was given more.
const HEAVIER: u32 = 2;

/// What became of a run.
#[derive(Debug)]
pub struct Played {
    /// As of any other run.
    pub outcome: Outcome,
    /// How long things took, in seconds, by name.
    pub figures: BTreeMap<&'static str, Vec<f64>>,
    /// What it went through.
    pub story: Story,
}

/// Runs a scenario.
#[must_use]
pub fn play(scenario: &Scenario, options: ExploreOptions, nodes: usize) -> Played {
    let mut stage = Stage::new(scenario, options, nodes);
    stage.form();
    let start = stage.cluster.world.now;
    for (at, act) in &scenario.timeline {
        stage.pass(start + *at);
        stage.act(act);
    }
    // What was begun is undone by itself.
    while stage.is_clean()
        && let Some(((at, _), _)) = stage.cluster.chores.first_key_value()
    {
        stage.pass(*at);
    }
    stage.rest();
    let Stage { cluster, figures, .. } = stage;
    Played { outcome: crate::explorer::outcome(cluster.world), figures, story: cluster.story }
}

/// A node that crashed, and who has called it dead.
struct Death {
    since: Duration,
    first: bool,
    /// Who was there, and has not yet.
    awaited: BTreeSet<Place>,
}

struct Stage<'a> {
    scenario: &'a Scenario,
    cluster: Cluster,
    /// Whom things happen to.
    rng: Rng,
    same: Vec<Place>,
    /// Whose turn it is.
    next: Place,
    /// What is cut off, and so not well.
    cut: Vec<Place>,
    deaths: BTreeMap<Place, Death>,
    /// Since when nothing has been wrong with a member; those with whom something is are not here.
    well_since: BTreeMap<Place, Duration>,
    /// Until when a mended cut may still be felt.
    healing_until: Duration,
    /// Since when something is not served, and how many partitions at most.
    unserved: Option<(Duration, usize)>,
    figures: BTreeMap<&'static str, Vec<f64>>,
}

impl<'a> Stage<'a> {
    fn new(scenario: &'a Scenario, options: ExploreOptions, nodes: usize) -> Self {
        let founders = scenario.founders_of(nodes);
        let seed = options.seed;
        let mut world = World::new(world_options(scenario, options, founders, nodes));
        if scenario.clocks_apart {
            let drift = Timing::default().drift_ppm as i32;
            for node in &mut world.nodes {
                let drift = if node.place % 2 == 0 { drift } else { -drift };
                node.clock = Clock::new(Duration::ZERO, node.clock.at(Duration::ZERO), drift);
            }
        }
        let cluster = Cluster {
            world,
            rng: Rng::new(seed ^ 0xc1a5_7e12),
            weights: [0; 13],
            gap_max: Duration::ZERO,
            lasts: Duration::ZERO,
            chores: BTreeMap::new(),
            chores_count: 0,
            stopping: BTreeSet::new(),
            leaving: BTreeSet::new(),
            next_joiner: founders,
            moves_held: false,
            lost_a_disk: false,
            converges_within: scenario.converges_within,
            story: Story::default(),
        };
        Self {
            scenario,
            cluster,
            rng: Rng::new(seed ^ 0x57a6_e5e7),
            same: Vec::new(),
            next: 0,
            cut: Vec::new(),
            deaths: BTreeMap::new(),
            well_since: BTreeMap::new(),
            healing_until: Duration::ZERO,
            unserved: None,
            figures: BTreeMap::new(),
        }
    }

    fn is_clean(&self) -> bool {
        self.cluster.world.checkers.violation().is_none()
    }

    fn tell(&mut self, what: impl Into<String>) {
        self.cluster.story.tell(self.cluster.world.now, what);
    }

    fn figure(&mut self, name: &'static str, since: Duration) {
        let took = self.cluster.world.now.saturating_sub(since);
        self.figures.entry(name).or_default().push(took.as_secs_f64());
    }

    // ---- time

    /// Starts the founders and the routers, and waits until every partition is where it should be.
    fn form(&mut self) {
        let founders = self.cluster.next_joiner;
        self.tell(format!("{founders} nodes and {ROUTERS} routers start"));
        let began = self.cluster.world.now;
        (0..founders).for_each(|place| self.cluster.world.start(place));
        self.cluster.world.start_routers();
        let end = began + FORMING_MAX;
        self.wait(end, Rule::Convergence, |stage| stage.cluster.unformed());
        self.settle(end, "formed_s", began);
        self.tell(format!("the cluster has formed, and has been at rest for {REST_HOLDS:?}"));
        self.unserved = None;
    }

    /// Lets time go on to `end`, does what is due meanwhile, and looks at everything now and then.
    fn pass(&mut self, end: Duration) {
        while self.is_clean() {
            let chore = self.cluster.chores.first_key_value().map(|((at, _), _)| *at);
            let next = chore.unwrap_or(end).min(self.cluster.world.now + TICK).min(end);
            self.cluster.world.run_until(next);
            self.look();
            while let Some(chore) = self.due(next) {
                self.undo(chore);
            }
            if next >= end {
                break;
            }
        }
    }

    fn due(&mut self, now: Duration) -> Option<Chore> {
        let entry = self.cluster.chores.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }

    fn undo(&mut self, chore: Chore) {
        match chore {
            Chore::Start(place) => {
                if let Some(death) = self.deaths.remove(&place) {
                    let well =
                        death.awaited.into_iter().filter(|member| self.well_since.contains_key(member));
                    let (now, unaware) = (self.cluster.world.now, well.collect::<Vec<_>>());
                    self.cluster.world.checkers.untold(now, place, death.since, &unaware);
                }
                let now = self.cluster.world.now;
                self.cluster.story.gather(now, "starts again", place);
            }
            Chore::Resume(place) => self.tell(format!("n{place} goes on")),
            Chore::SpeedUp(place) => self.tell(format!("n{place} is slow no more")),
            Chore::StartRouter(place) => self.tell(format!("router {place} starts again")),
            _ => {}
        }
        self.cluster.do_chore(chore);
    }

    /// Ends every fault, and waits until everything is at rest and nobody waits for an answer.
    fn rest(&mut self) {
        if !self.is_clean() {
            return;
        }
        self.reconnected();
        self.cluster.mend();
        let began = self.cluster.world.now;
        let end = began + self.scenario.converges_within;
        self.settle(end, "at_rest_s", began);
        self.tell(format!(
            "everything has been at rest for {REST_HOLDS:?}: one map, every partition where it should be"
        ));
        self.cluster.world.stop_workload();
        let end = self.cluster.world.now + self.scenario.converges_within;
        self.wait(end, Rule::EveryWriteAnswered, |stage| stage.cluster.world.waiting().map(|(_, what)| what));
    }

    /// Waits until everything is at rest, and stays so; the figure is how long it took to get there.
    fn settle(&mut self, end: Duration, figure: &'static str, began: Duration) {
        loop {
            self.wait(end, Rule::Convergence, Self::unrest);
            let (since, took) = (self.cluster.world.now, self.cluster.world.now - began);
            while self.is_clean() && self.unrest().is_none() && self.cluster.world.now < since + REST_HOLDS {
                self.pass(self.cluster.world.now + TICK);
            }
            if !self.is_clean() {
                return;
            }
            if self.unrest().is_none() {
                self.figures.entry(figure).or_default().push(took.as_secs_f64());
                return;
            }
        }
    }

    /// What is not at rest, or whom somebody does not know yet.
    fn unrest(&self) -> Option<String> {
        let world = &self.cluster.world;
        let unknown = || {
            let here = world.nodes.iter().filter(|node| node.is_awake() && !node.gone);
            here.flat_map(|node| world.members().map(move |(place, _, member)| (node, place, member)))
                .find_map(|(node, place, member)| {
                    let unknown = member.map.node_by_id(&node.owner.node).is_none();
                    unknown.then(|| format!("the map of member {place} has no {}", node.owner.node))
                })
        };
        self.cluster.unrest().or_else(unknown)
    }

    fn wait(&mut self, end: Duration, rule: Rule, open: impl Fn(&Self) -> Option<String>) {
        while self.is_clean() {
            self.cluster.insist();
            let Some(what) = open(self) else { return };
            let now = self.cluster.world.now;
            if now >= end {
                return self.cluster.world.checkers.violated(now, rule, what);
            }
            self.pass(now + LOOK_GAP);
        }
    }

    // ---- looks

    fn look(&mut self) {
        self.cluster.drained();
        self.cluster.world.look();
        self.look_at_service();
        self.look_at_deaths();
        self.look_at_the_living();
    }

    /// Nobody who is well holds anybody who is for dead.
    fn look_at_the_living(&mut self) {
        let world = &self.cluster.world;
        let now = world.now;
        let reached = |place: &Place| {
            let slow = world.nodes.get(*place).is_some_and(|node| node.slow);
            !slow && !world.deaf.contains(place) && !self.cut.contains(place)
        };
        let well: Vec<Place> = world.members().map(|(place, _, _)| place).filter(reached).collect();
        self.well_since.retain(|place, _| well.contains(place));
        for place in well {
            self.well_since.entry(place).or_insert(now);
        }
        if now < self.healing_until {
            return;
        }
        let mut held = Vec::new();
        for (observer, _, member) in world.members() {
            let Some(observer_since) = self.well_since.get(&observer) else { continue };
            for (subject, since) in self.well_since.range(..world.nodes.len()) {
                if calls_dead(&member.map, &node_name(*subject)) {
                    held.push((observer, *subject, *observer_since.max(since)));
                }
            }
        }
        for (observer, subject, since) in held {
            self.cluster.world.checkers.holds_dead(now, observer, subject, since);
        }
    }

    fn look_at_service(&mut self) {
        let now = self.cluster.world.now;
        match (self.cluster.world.unserved(), self.unserved) {
            (0, Some((since, most))) => {
                self.unserved = None;
                self.figure("unserved_s", since);
                if now - since >= TOLD_UNSERVED {
                    let took = (now - since).as_secs_f64();
                    self.tell(format!(
                        "everything is served again; up to {most} partitions were not, for {took:.1} s"
                    ));
                }
            }
            (0, None) => {}
            (count, before) => {
                let (since, most) = before.unwrap_or((now, 0));
                self.unserved = Some((since, most.max(count)));
            }
        }
    }

    fn look_at_deaths(&mut self) {
        let mut found = Vec::new();
        for (subject, death) in &mut self.deaths {
            let name = node_name(*subject);
            let there: Vec<(Place, bool)> = self
                .cluster
                .world
                .members()
                .map(|(place, _, member)| (place, calls_dead(&member.map, &name)))
                .collect();
            // Who is not there any more is not waited for.
            death.awaited.retain(|place| there.iter().any(|(other, dead)| other == place && !dead));
            if !death.first && there.iter().any(|(_, dead)| *dead) {
                death.first = true;
                found.push(("detection_s", *subject, death.since));
            }
            if death.awaited.is_empty() {
                found.push(("told_s", *subject, death.since));
            }
        }
        for (figure, subject, since) in found {
            self.figure(figure, since);
            if figure == "told_s" {
                self.deaths.remove(&subject);
                self.tell(format!("every member knows that n{subject} is dead"));
            } else {
                self.tell(format!("n{subject} is called dead for the first time"));
            }
        }
    }

    // ---- acts

    fn act(&mut self, act: &Act) {
        if !self.is_clean() {
            return;
        }
        match act {
            Act::Crash { who, down, disk } => self.crash(*who, *down, *disk),
            Act::Stop(who) => {
                let places = self.choose(*who);
                self.tell(format!("told to stop, and hands over first: {}", names(&places)));
                places.into_iter().for_each(|place| self.cluster.stop(place));
            }
            Act::Slow(who, time) => {
                let places = self.choose(*who);
                self.tell(format!("neither receives nor sends for {time:?}: {}", names(&places)));
                for place in places {
                    self.cluster.world.slow_down(place);
                    self.cluster.chore(*time, Chore::SpeedUp(place));
                }
            }
            Act::Pause(who, time) => {
                let places = self.choose(*who);
                self.tell(format!("stands still for {time:?}: {}", names(&places)));
                for place in places {
                    self.cluster.world.pause(place);
                    self.cluster.chore(*time, Chore::Resume(place));
                }
            }
            Act::Cut { who, one_way } => self.cut(*who, *one_way),
            Act::Mend => {
                self.reconnected();
                self.cluster.world.network.mend();
                self.tell("every link is whole again");
            }
            Act::Weather(weather) => {
                let loss = f64::from(weather.loss_ppm) / 10_000.0;
                self.tell(format!("{loss} % of everything is lost from here on"));
                self.cluster.world.network.weather = weather.clone();
            }
            Act::Join(count) => {
                for _ in 0..*count {
                    let (now, place) = (self.cluster.world.now, self.cluster.next_joiner);
                    self.cluster.story.gather(now, "comes to the cluster", place);
                    self.cluster.join();
                }
            }
            Act::Drain(who) => {
                let places = self.choose(*who);
                self.tell(format!("told to leave: {}", names(&places)));
                places.into_iter().for_each(|place| self.cluster.drain(place));
            }
            Act::Reweigh(who) => {
                let places = self.choose(*who);
                self.tell(format!("given {HEAVIER} times the weight: {}", names(&places)));
                for place in places {
                    self.cluster.world.tally.count("new weight");
                    let weight = Weight::new(HEAVIER);
                    self.cluster.give_order(place, ringway_control::records::OrderPhase::Active, weight);
                }
            }
            Act::Deafen(deaf) => self.deafen(*deaf),
            Act::CrashRouter(down) => {
                let place = self.cluster.world.options.nodes;
                self.tell(format!("router {place} crashes, for {down:?}"));
                self.cluster.world.crash_router(place);
                self.cluster.chore(*down, Chore::StartRouter(place));
            }
        }
    }

    /// Who is up and well, then whom it is about.
    fn choose(&mut self, who: Who) -> Vec<Place> {
        let (cluster, cut) = (&self.cluster, &self.cut);
        let well = |place: &Place| {
            let node = &cluster.world.nodes[*place];
            let told_to_go = cluster.stopping.contains(place) || cluster.leaving.contains(place);
            node.is_awake() && !node.slow && !told_to_go && !cut.contains(place)
        };
        let mut up: Vec<Place> = (0..cluster.next_joiner).filter(well).collect();
        let count = match who {
            Who::Same => return self.same.clone(),
            Who::All => up.len(),
            Who::Some(count) => count.min(up.len().saturating_sub(1)),
            Who::Half => up.len() / 2,
            Who::Newest => {
                up.reverse();
                1
            }
            Who::Next => {
                let turn = up.iter().position(|place| *place >= self.next).unwrap_or(0);
                up.rotate_left(turn);
                self.next = up.first().map_or(0, |place| place + 1);
                1
            }
        };
        if matches!(who, Who::Some(_) | Who::Half) {
            self.rng.shuffle(&mut up);
        }
        up.truncate(count);
        self.same.clone_from(&up);
        up
    }

    fn crash(&mut self, who: Who, down: Duration, disk: bool) {
        let places = self.choose(who);
        let without = if disk { "" } else { " with an empty disk" };
        self.tell(format!("crash, back after {down:?}{without}: {}", names(&places)));
        let now = self.cluster.world.now;
        for place in &places {
            if disk {
                self.cluster.crash(*place, down);
            } else {
                self.cluster.lose_disk(*place, down);
            }
        }
        let awaited: BTreeSet<Place> = self.cluster.world.members().map(|(place, _, _)| place).collect();
        for place in places.into_iter().filter(|_| !awaited.is_empty()) {
            self.deaths.insert(place, Death { since: now, first: false, awaited: awaited.clone() });
        }
    }

    fn cut(&mut self, who: Who, one_way: bool) {
        let these = self.choose(who);
        let everybody = self.cluster.world.nodes.len() + ROUTERS;
        let those: Vec<Place> = (0..everybody).filter(|place| !these.contains(place)).collect();
        let world = &mut self.cluster.world;
        world.tally.count("cut");
        if one_way {
            world.network.cut_one_way(&these, &those);
        } else {
            world.network.cut(&these, &those);
        }
        let way = if one_way { "not heard by anybody else" } else { "cut off from everybody else" };
        self.tell(format!("{way}: {}", names(&these)));
        self.cut = these;
    }

    fn reconnected(&mut self) {
        if !std::mem::take(&mut self.cut).is_empty() {
            self.healing_until = self.cluster.world.now + HEALED_WITHIN;
        }
    }

    fn deafen(&mut self, deaf: bool) {
        let place = self.cluster.world.options.nodes;
        if deaf {
            self.cluster.world.deaf.insert(place);
            self.tell(format!("gossip does not reach router {place} any more"));
        } else {
            self.cluster.world.deaf.remove(&place);
            self.tell(format!("gossip reaches router {place} again"));
        }
    }
}

fn calls_dead(map: &ringway_topology::Map, name: &NodeId) -> bool {
    map.node_by_id(name).is_some_and(|(_, entry)| entry.health == Health::Dead)
}

fn world_options(
    scenario: &Scenario,
    options: ExploreOptions,
    founders: usize,
    nodes: usize,
) -> WorldOptions {
    let partitions = PARTITIONS_MIN.max(nodes as u32 * PARTITIONS_PER_NODE).next_power_of_two();
    #[expect(clippy::expect_used, reason = "written down here")]
    let settings = ClusterSettings {
        name: ClusterName::new("sim").expect("a name"),
        partitions: PartitionCount::new(partitions).expect("a power of two"),
        replicas: REPLICAS as u8,
        hash_seed: 0,
        epsilon_ppm: EPSILON_PPM_DEFAULT,
        algorithm: Algorithm::Balanced,
        ownership: Ownership::Claimed,
    };
    let timing = Timing::default();
    WorldOptions {
        seed: options.seed,
        nodes,
        routers: ROUTERS,
        partitions,
        replicas: REPLICAS,
        drift_ppm: timing.drift_ppm,
        node: NodeOptions { timing, mutant: options.mutant },
        weather: scenario.weather.clone(),
        disk_delay_max: ms(5),
        operation_gap_max: ms(20),
        keys: 2,
        patience: Patience { attempt: ms(500), pause_max: ms(50), client: Duration::from_secs(10) },
        gossip_gap_max: Duration::ZERO,
        import_delay_max: scenario.import_delay_max,
        import_failure_ppm: 0,
        timer_late_max: ms(1),
        cluster: Some(ClusterOptions {
            settings,
            founders,
            replace_after: Duration::from_secs(40),
            gossip: ringway_gossip::Config::default(),
        }),
        inbox_max: scenario.inbox_max,
        trace: options.trace,
        digest: options.digest,
    }
}
