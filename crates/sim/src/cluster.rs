//! Whole clusters: control planes with gossip, engines, routers that follow maps, and operators.
//!
//! Nodes join, drain, stop, crash and come back, are paused and cut off and change their weight, while clients read and
//! write. Then everything is mended, and within [`CONVERGENCE_MAX`] every member must have one map, every partition one
//! owner set that serves, nothing may move still, and all that was acknowledged must be there.
//!
//! [`run`] and [`mixture`] draw all of that from the seed. [`scenario`] has those where what goes wrong is written down, and
//! [`stage`] plays them.

pub mod scenario;
pub mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ringway_control::Command;
use ringway_control::ownership::Timing;
use ringway_control::records::{Order, OrderPhase, Pause};
use ringway_gossip::Config;
use ringway_topology::settings::EPSILON_PPM_DEFAULT;
use ringway_topology::{Algorithm, ClusterName, ClusterSettings, Ownership, PartitionCount, Weight};

use crate::checkers::{Rule, show};
use crate::explorer::{ExploreOptions, Outcome};
use crate::network::{Place, Weather};
use crate::node::NodeOptions;
use crate::plane::{ClusterOptions, Member};
use crate::rng::Rng;
use crate::router::Patience;
use crate::story::Story;
use crate::world::{World, WorldOptions};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// How long a cluster may take to form.
const FORMING_MAX: Duration = Duration::from_secs(60);
/// After the last fault everything must be at rest within this time: nodes that are away are replaced first.
pub const CONVERGENCE_MAX: Duration = Duration::from_secs(180);
/// Between two looks.
const LOOK_GAP: Duration = ms(200);
/// A node that was told to stop is stopped after this, whatever it still leads.
const STOP_MAX: Duration = Duration::from_secs(30);
/// Routers of every cluster.
const ROUTERS: usize = 2;
/// Fewest nodes an operator leaves in.
const NODES_MIN: usize = 3;

/// Runs one small cluster: three to seven nodes, two or three copies.
#[must_use]
pub fn run(options: ExploreOptions) -> Outcome {
    live(options, Span::SMALL).0
}

/// Runs one cluster of the mixture that the promises are measured by: five to nine nodes, three copies.
#[must_use]
pub fn mixture(options: ExploreOptions) -> Outcome {
    live(options, Span::MIXTURE).0
}

/// How large clusters are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// Fewest nodes that form one; up to two more do, and up to two more may join.
    pub(crate) founders: usize,
    /// Copies, drawn from these.
    pub(crate) replicas: &'static [usize],
    /// Exactly so many nodes, whatever is drawn: all of them form the cluster but up to two.
    pub(crate) nodes: Option<usize>,
}

impl Span {
    /// That of [`run`].
    pub(crate) const SMALL: Self = Self { founders: 3, replicas: &[2, 3, 3, 3], nodes: None };
    /// That of [`mixture`].
    pub(crate) const MIXTURE: Self = Self { founders: 5, replicas: &[3], nodes: None };
}

/// Runs one cluster; what became of it, and what it went through.
pub(crate) fn live(options: ExploreOptions, span: Span) -> (Outcome, Story) {
    let safety_only = options.safety_only;
    let mut cluster = Cluster::new(options, span);
    cluster.form();
    cluster.trouble();
    if cluster.world.checkers.violation().is_none() && !safety_only {
        cluster.mend();
        cluster.converge();
    }
    (crate::explorer::outcome(cluster.world), cluster.story)
}

/// What can happen to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Crash,
    LoseDisk,
    Pause,
    Cut,
    CutOneWay,
    Mend,
    Join,
    Drain,
    Reweigh,
    HoldMoves,
    Stop,
    NewWeather,
    CrashRouter,
}

impl Change {
    const ALL: [Self; 13] = [
        Self::Crash,
        Self::LoseDisk,
        Self::Pause,
        Self::Cut,
        Self::CutOneWay,
        Self::Mend,
        Self::Join,
        Self::Drain,
        Self::Reweigh,
        Self::HoldMoves,
        Self::Stop,
        Self::NewWeather,
        Self::CrashRouter,
    ];

    /// What it is, in a line that begins with a name.
    fn words(self) -> &'static str {
        match self {
            Self::Crash => "crashes, unless it is down",
            Self::LoseDisk => "crashes and loses its disk, if the promises survive that",
            Self::Pause => "is paused",
            Self::Cut => "and others are cut off from the rest",
            Self::CutOneWay => "and others are not heard by the rest any more",
            Self::Mend => "and all others reach each other again",
            Self::Join => "hears of a newcomer, if there is one",
            Self::Drain => "is told to leave, if enough others stay",
            Self::Reweigh => "gets another weight",
            Self::HoldMoves => "and all others are told to hold moves, or to let them begin again",
            Self::Stop => "is told to stop",
            Self::NewWeather => "and all others get other weather",
            Self::CrashRouter => "and all others lose a router",
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Chore {
    Change,
    Start(Place),
    StartRouter(Place),
    Resume(Place),
    /// A slow node is slow no more.
    SpeedUp(Place),
    Mend,
    /// Look whether a node that stops leads anything still, and stop it at the latest then.
    Stopped(Place, Duration),
    /// Look whether a drained node may go.
    Drained,
}

struct Cluster {
    world: World,
    rng: Rng,
    weights: [u32; 13],
    gap_max: Duration,
    lasts: Duration,
    chores: BTreeMap<(Duration, u64), Chore>,
    chores_count: u64,
    stopping: BTreeSet<Place>,
    leaving: BTreeSet<Place>,
    /// The next node that never was there yet.
    next_joiner: Place,
    moves_held: bool,
    lost_a_disk: bool,
    /// Everything is at rest so long after the last fault.
    converges_within: Duration,
    story: Story,
}

impl Cluster {
    fn new(options: ExploreOptions, span: Span) -> Self {
        let mut rng = Rng::new(options.seed.wrapping_mul(0x517c_c1b7).wrapping_add(options.seed));
        let founders = span.founders + rng.below(3);
        let late = rng.below(3);
        let nodes = span.nodes.unwrap_or(founders + late);
        let founders =
            if span.nodes.is_some() { nodes.saturating_sub(late).max(span.founders) } else { founders };
        let mut weights = [0; 13];
        for weight in &mut weights {
            *weight = [0, 1, 2][rng.below(3)];
        }
        weights[Change::Mend as usize] +=
            1 + weights[Change::Cut as usize] + weights[Change::CutOneWay as usize];
        Self {
            world: World::new(world_options(&mut rng, founders, nodes, span, options)),
            weights,
            gap_max: Duration::from_secs([2, 6, 15][rng.below(3)]),
            lasts: Duration::from_secs(rng.between(10, 60)),
            rng,
            chores: BTreeMap::new(),
            chores_count: 0,
            stopping: BTreeSet::new(),
            leaving: BTreeSet::new(),
            next_joiner: founders,
            moves_held: false,
            lost_a_disk: false,
            converges_within: CONVERGENCE_MAX,
            story: Story::default(),
        }
    }

    /// Starts the founders and the routers, and waits until the cluster stands.
    fn form(&mut self) {
        for place in 0..self.next_joiner {
            self.world.start(place);
        }
        self.world.start_routers();
        let end = self.world.now + FORMING_MAX;
        self.wait_for(end, Self::unformed);
        self.chore(Duration::ZERO, Chore::Change);
        self.chore(Duration::ZERO, Chore::Drained);
        self.lasts += self.world.now;
    }

    fn unformed(&self) -> Option<String> {
        self.world.partitions().find_map(|partition| {
            let none = self.world.checkers.claims_of(partition).next().is_none();
            none.then(|| format!("nobody owns partition {partition}"))
        })
    }

    fn trouble(&mut self) {
        let end = self.lasts;
        while self.world.checkers.violation().is_none() {
            let chore = self.chores.first_key_value().map(|((at, _), _)| *at);
            let due = chore.unwrap_or(end).min(end);
            self.pass_until(due);
            if due == end {
                break;
            }
            if let Some((_, chore)) = self.chores.pop_first() {
                self.do_chore(chore);
            }
        }
    }

    /// Lets time go on, and looks at everybody now and then.
    fn pass_until(&mut self, end: Duration) {
        loop {
            let next = (self.world.now + LOOK_GAP).min(end);
            self.world.run_until(next);
            self.world.look();
            if next >= end || self.world.checkers.violation().is_some() {
                break;
            }
        }
    }

    fn chore(&mut self, delay: Duration, chore: Chore) {
        self.chores_count += 1;
        self.chores.insert((self.world.now + delay, self.chores_count), chore);
    }

    fn do_chore(&mut self, chore: Chore) {
        match chore {
            Chore::Change => {
                let gap = self.rng.time(Duration::ZERO, self.gap_max);
                self.chore(gap, Chore::Change);
                let change = self.draw();
                self.bring(change);
            }
            Chore::Start(place) => self.start(place),
            Chore::StartRouter(place) => self.world.start_router(place),
            Chore::Resume(place) => self.world.resume(place),
            Chore::SpeedUp(place) => self.world.speed_up(place),
            Chore::Mend => self.world.network.mend(),
            Chore::Stopped(place, latest) => self.stopped(place, latest),
            Chore::Drained => {
                self.drained();
                self.chore(LOOK_GAP, Chore::Drained);
            }
        }
    }

    fn draw(&mut self) -> Change {
        let all = Change::ALL.into_iter().zip(self.weights);
        let lots: Vec<Change> =
            all.flat_map(|(change, weight)| std::iter::repeat_n(change, weight as usize)).collect();
        self.rng.pick(&lots).copied().unwrap_or(Change::Mend)
    }

    fn bring(&mut self, change: Change) {
        let place = self.rng.below(self.next_joiner);
        let down = self.rng.time(Duration::ZERO, Duration::from_secs(20));
        self.story.tell(self.world.now, format!("n{place} {}", change.words()));
        match change {
            Change::Crash => self.crash(place, down),
            Change::LoseDisk => self.lose_disk(place, down),
            Change::Pause => {
                self.world.pause(place);
                self.chore(down, Chore::Resume(place));
            }
            Change::Cut | Change::CutOneWay => {
                self.cut(change == Change::Cut);
                self.chore(down, Chore::Mend);
            }
            Change::Mend => self.world.network.mend(),
            Change::NewWeather => self.world.network.weather = weather(&mut self.rng),
            Change::Join => self.join(),
            Change::Drain => self.drain(place),
            Change::Reweigh => self.reweigh(place),
            Change::HoldMoves => {
                self.moves_held = !self.moves_held;
                self.operate(Command::Pause(Pause {
                    paused: self.moves_held,
                    by: "the simulator".to_owned(),
                }));
            }
            Change::Stop => self.stop(place),
            Change::CrashRouter => {
                let router = self.world.options.nodes + self.rng.below(ROUTERS);
                self.world.crash_router(router);
                self.chore(down, Chore::StartRouter(router));
            }
        }
    }

    // ---- processes

    fn start(&mut self, place: Place) {
        if !self.world.nodes[place].gone {
            self.world.start(place);
        }
    }

    fn crash(&mut self, place: Place, down: Duration) {
        if self.world.nodes[place].engine.is_none() {
            return;
        }
        self.stopping.remove(&place);
        self.world.crash(place, None);
        if self.rng.chance(300_000) {
            self.world.reboot_clock(place);
        }
        self.chore(down, Chore::Start(place));
    }

    /// One node, so that a majority of every owner set keeps its data; another one when everything is at rest again.
    fn lose_disk(&mut self, place: Place, down: Duration) {
        let drained = self.world.nodes.iter().any(|node| node.gone);
        let all_here = (0..self.next_joiner).all(|place| self.world.nodes[place].is_awake());
        let too_early = self.lost_a_disk && !(all_here && self.unrest().is_none());
        if too_early || drained || self.world.options.replicas < 3 || self.leaving.contains(&place) {
            return;
        }
        if self.world.nodes[place].engine.is_some() {
            self.lost_a_disk = true;
            self.world.tally.count("disk lost");
            self.crash(place, down);
            self.world.nodes[place].replace_disk();
        }
    }

    fn stop(&mut self, place: Place) {
        if self.world.nodes[place].is_awake() && self.stopping.insert(place) {
            self.world.tally.count("stop");
            self.world.order(place, Command::Stopping);
            self.chore(LOOK_GAP, Chore::Stopped(place, self.world.now + STOP_MAX));
        }
    }

    fn stopped(&mut self, place: Place, latest: Duration) {
        let node = &self.world.nodes[place];
        let Some(engine) = node.engine.as_ref().filter(|_| self.stopping.contains(&place)) else { return };
        if engine.led() > 0 && self.world.now < latest {
            return self.chore(LOOK_GAP, Chore::Stopped(place, latest));
        }
        if engine.led() == 0 {
            self.world.tally.count("handed over");
        }
        self.stopping.remove(&place);
        self.world.order(place, Command::Leave);
        self.world.crash(place, Some(usize::MAX));
        let down = self.rng.time(Duration::ZERO, Duration::from_secs(5));
        self.chore(down, Chore::Start(place));
    }

    fn join(&mut self) {
        if self.next_joiner < self.world.nodes.len() {
            self.world.tally.count("join");
            self.world.start(self.next_joiner);
            self.next_joiner += 1;
        }
    }

    // ---- operators

    /// Gives a command to the plane of some node that is ready.
    fn operate(&mut self, command: Command) {
        let ready = |place: &Place| self.member_of(*place).is_some_and(|it| it.plane.readiness().is_ready());
        let ready: Vec<Place> = (0..self.world.nodes.len()).filter(ready).collect();
        if let Some(place) = self.rng.pick(&ready) {
            self.world.order(*place, command);
        }
    }

    /// The control plane of a node that listens.
    fn member_of(&self, place: Place) -> Option<&Member> {
        self.world.nodes.get(place).filter(|node| node.is_awake())?.member.as_ref()
    }

    /// Repeats what was ordered and did not reach everybody: whoever was asked may have been cut off, or crashed.
    fn insist(&mut self) {
        let views: Vec<_> = (0..self.world.nodes.len())
            .filter_map(|place| Some(self.member_of(place)?.plane.view(self.world.now).ownership))
            .collect();
        let held = |pause: &Option<Pause>| pause.as_ref().is_some_and(|pause| pause.paused);
        if views.iter().any(|view| held(&view.pause)) {
            self.operate(Command::Pause(Pause { paused: false, by: "the simulator".to_owned() }));
        }
        for place in self.leaving.clone() {
            let owner = self.world.nodes[place].owner.clone();
            let leaves = |order: &Order| order.node == owner.node && order.phase == OrderPhase::Leaving;
            if !self.world.nodes[place].gone && !views.iter().all(|view| view.orders.iter().any(leaves)) {
                self.give_order(place, OrderPhase::Leaving, None);
            }
        }
    }

    fn give_order(&mut self, place: Place, phase: OrderPhase, weight: Option<Weight>) {
        let owner = self.world.nodes[place].owner.clone();
        let by = "the simulator".to_owned();
        self.operate(Command::Order(Order { node: owner.node, store: owner.store, phase, weight, by }));
    }

    fn drain(&mut self, place: Place) {
        let members = self.next_joiner - self.leaving.len();
        if members > NODES_MIN.max(self.world.options.replicas)
            && !self.lost_a_disk
            && self.leaving.insert(place)
        {
            self.world.tally.count("drain");
            self.give_order(place, OrderPhase::Leaving, None);
        }
    }

    fn reweigh(&mut self, place: Place) {
        if self.leaving.contains(&place) {
            return;
        }
        self.world.tally.count("new weight");
        let weight = Weight::new([1, 2, 3][self.rng.below(3)]);
        self.give_order(place, OrderPhase::Active, weight);
    }

    fn drained(&mut self) {
        for place in self.leaving.clone() {
            let node = &mut self.world.nodes[place];
            let done = node.member.as_ref().is_some_and(|member| member.plane.is_drained());
            if done && node.is_awake() {
                node.gone = true;
                self.world.tally.count("drained");
                self.world.order(place, Command::Leave);
                self.world.crash(place, Some(usize::MAX));
            }
        }
    }

    /// Splits everybody, routers too, in two.
    fn cut(&mut self, both_ways: bool) {
        let everybody = self.world.nodes.len() + self.world.routers.len();
        let (these, those): (Vec<Place>, Vec<Place>) = (0..everybody).partition(|_| self.rng.chance(350_000));
        self.world.tally.count("cut");
        self.world.trace(|_| format!("{these:?} cut from {those:?}, both ways: {both_ways}"));
        if both_ways {
            self.world.network.cut(&these, &those);
        } else {
            self.world.network.cut_one_way(&these, &those);
        }
    }

    // ---- rest

    fn mend(&mut self) {
        self.world.trace(|_| "---- everything is mended".to_owned());
        self.story.tell(self.world.now, "everything is mended");
        self.chores.clear();
        self.world.network.mend();
        self.world.deaf.clear();
        self.world.network.weather = Weather::fair(ms(5));
        self.world.options.import_failure_ppm = 0;
        for place in 0..self.next_joiner {
            self.world.resume(place);
            self.world.speed_up(place);
            // A stop that was begun ends like any other: with a new life.
            if self.stopping.remove(&place) && self.world.nodes[place].engine.is_some() {
                self.world.crash(place, Some(usize::MAX));
            }
            self.start(place);
        }
        for router in 0..ROUTERS {
            self.world.start_router(self.world.options.nodes + router);
        }
        self.moves_held = false;
        let now = self.world.now;
        self.world.routers.iter_mut().for_each(|router| router.count_anew(now));
    }

    fn converge(&mut self) {
        let end = self.world.now + self.converges_within;
        self.wait_for(end, Self::unrest);
        self.story.tell(self.world.now, "everything is at rest");
        self.world.stop_workload();
        let end = self.world.now + self.converges_within;
        self.wait_for(end, |cluster| cluster.world.waiting().map(|(_, what)| what));
    }

    fn wait_for(&mut self, end: Duration, open: impl Fn(&Self) -> Option<String>) {
        while self.world.checkers.violation().is_none() {
            self.drained();
            self.insist();
            let Some(what) = open(self) else { return };
            if self.world.now >= end {
                self.world.checkers.violated(self.world.now, Rule::Convergence, what);
            }
            self.pass_until(self.world.now + LOOK_GAP);
        }
    }

    fn unrest(&self) -> Option<String> {
        let leaving = self.leaving.iter().find(|place| !self.world.nodes[**place].gone);
        let leaving = leaving.map(|place| format!("node {place} is not drained yet"));
        let unsettled = || self.world.partitions().find_map(|partition| self.world.unsettled(partition));
        leaving.or_else(unsettled).or_else(|| self.world.unheard()).or_else(|| self.unlike())
    }

    /// Maps differ, or are not what is desired.
    fn unlike(&self) -> Option<String> {
        let nodes =
            self.world.nodes.iter().filter_map(|node| Some((show(&node.owner), node.member.as_ref()?)));
        let routers = self.world.routers.iter();
        let routers =
            routers.filter_map(|router| Some((format!("r{}", router.place), router.member.as_ref()?)));
        let members: Vec<_> = nodes.chain(routers).collect();
        let (first, one) = members.first()?;
        for (who, other) in &members {
            if one.map.digest() != other.map.digest() {
                return Some(format!("the maps of {first} and {who} differ"));
            }
            let to_move = other.plane.view(self.world.now).ownership.partitions_to_move;
            if to_move > 0 {
                return Some(format!("{who} sees {to_move} partitions to move"));
            }
        }
        self.world.partitions().find_map(|partition| {
            let newest = self.world.checkers.claims_of(partition).next_back()?;
            let shown = one.map.epoch(partition);
            let differs = shown != newest.epoch;
            differs.then(|| {
                format!("the maps show partition {partition} at epoch {shown}, not {}", newest.epoch)
            })
        })
    }
}

fn world_options(
    rng: &mut Rng,
    founders: usize,
    nodes: usize,
    span: Span,
    options: ExploreOptions,
) -> WorldOptions {
    let partitions = [16, 32][rng.below(2)];
    let replicas = span.replicas[rng.below(span.replicas.len())];
    #[expect(clippy::expect_used, reason = "written down here")]
    let settings = ClusterSettings {
        name: ClusterName::new("sim").expect("a name"),
        partitions: PartitionCount::new(partitions).expect("a power of two"),
        replicas: replicas as u8,
        hash_seed: 0,
        epsilon_ppm: EPSILON_PPM_DEFAULT,
        algorithm: Algorithm::Balanced,
        ownership: Ownership::Claimed,
    };
    WorldOptions {
        seed: options.seed,
        nodes,
        routers: ROUTERS,
        partitions,
        replicas,
        node: NodeOptions { timing: Timing::default(), mutant: options.mutant },
        drift_ppm: Timing::default().drift_ppm,
        weather: weather(rng),
        disk_delay_max: ms([2, 20][rng.below(2)]),
        operation_gap_max: ms([40, 200][rng.below(2)]),
        keys: 2,
        patience: Patience { attempt: ms(500), pause_max: ms(50), client: Duration::from_secs(10) },
        gossip_gap_max: Duration::ZERO,
        import_delay_max: ms([20, 500][rng.below(2)]),
        import_failure_ppm: [0, 100_000][rng.below(2)],
        timer_late_max: ms(1),
        cluster: Some(ClusterOptions {
            settings,
            founders,
            replace_after: Duration::from_secs([15, 40][rng.below(2)]),
            gossip: Config::default(),
        }),
        inbox_max: usize::MAX,
        trace: options.trace,
        digest: options.digest,
    }
}

fn weather(rng: &mut Rng) -> Weather {
    Weather {
        loss_ppm: [0, 5_000, 50_000][rng.below(3)],
        double_ppm: [0, 20_000][rng.below(2)],
        late_ppm: [0, 20_000][rng.below(2)],
        delay_max: ms([2, 20][rng.below(2)]),
        late_max: ms([200, 2_000][rng.below(2)]),
    }
}
