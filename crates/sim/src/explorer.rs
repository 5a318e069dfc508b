//! One partition (now and then two) on four or five nodes, through random schedules of everything that goes wrong.
//!
//! Every seed draws its own climate first: how much of each kind of trouble there is, from none to plenty (swarm
//! testing, Groce et al. 2012). A run in which everything happens all the time gets nowhere; one in which only moves and
//! late messages happen gets far. Then trouble, for some seconds of virtual time; then everything is mended, and
//! the owners have to come to rest with all that was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ringway_control::ownership::{Mutant, Timing, Wishes};
use ringway_topology::{Owner, Partition};

use crate::checkers::{Rule, Violation};
use crate::digest::Digest;
use crate::network::{Place, Weather};
use crate::node::{Input, NodeOptions};
use crate::rng::Rng;
use crate::router::Patience;
use crate::story::Story;
use crate::trace::Trace;
use crate::world::{Tally, World, WorldOptions};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// After the last fault everything must be at rest within this time.
pub const CONVERGENCE_MAX: Duration = Duration::from_secs(30);
/// Between two looks at whether it is.
const LOOK_GAP: Duration = ms(20);
/// A node that was told to stop is stopped after this, whatever it still leads.
const STOP_MAX: Duration = ms(400);
/// Between two disks that are lost: longer than any message is late.
const LOSS_GAP: Duration = ms(600);

/// What to run.
#[derive(Debug, Clone, Default)]
pub struct ExploreOptions {
    /// Which schedule.
    pub seed: u64,
    /// A rule to break; needs the feature `mutants`.
    pub mutant: Option<Mutant>,
    /// To whom to tell what happens.
    pub trace: Trace,
    /// Whether to make a digest of everything that happens, which takes a while.
    pub digest: bool,
    /// Whether to end with the trouble, and not ask whether everything comes to rest behind it.
    pub safety_only: bool,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The first violation, if any.
    pub violation: Option<Violation>,
    /// What happened, and how often.
    pub tally: Tally,
    /// How much time passed in it.
    pub lasted: Duration,
    /// Of everything that happened, when that was asked for.
    pub digest: Option<u64>,
}

/// Runs one schedule.
#[must_use]
pub fn explore(options: ExploreOptions) -> Outcome {
    told(options).0
}

/// Runs one schedule; what became of it, and what it went through.
pub(crate) fn told(options: ExploreOptions) -> (Outcome, Story) {
    let safety_only = options.safety_only;
    let mut explorer = Explorer::new(options);
    explorer.trouble();
    if explorer.world.checkers.violation().is_none() && !safety_only {
        explorer.mend();
        explorer.converge();
    }
    (outcome(explorer.world), explorer.story)
}

/// Looks at the histories and closes the books.
pub(crate) fn outcome(mut world: World) -> Outcome {
    world.checkers.finish(world.now);
    let (acknowledged, reads) = (world.checkers.acknowledged, world.checkers.reads);
    world.tally.counts.insert("write acknowledged", acknowledged);
    world.tally.counts.insert("read answered", reads);
    let digest = world.digest.as_ref().map(Digest::value);
    Outcome { violation: world.checkers.violation().cloned(), tally: world.tally, lasted: world.now, digest }
}

/// What can go wrong, or be wished for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    Crash,
    LoseDisk,
    PowerCut,
    Pause,
    Cut,
    CutOneWay,
    Mend,
    NewWeather,
    Wish,
    HoldMoves,
    Stop,
    FillDisk,
}

impl Trouble {
    const ALL: [Self; 12] = [
        Self::Crash,
        Self::LoseDisk,
        Self::PowerCut,
        Self::Pause,
        Self::Cut,
        Self::CutOneWay,
        Self::Mend,
        Self::NewWeather,
        Self::Wish,
        Self::HoldMoves,
        Self::Stop,
        Self::FillDisk,
    ];

    /// What it is, in a line that begins with a name.
    fn words(self) -> &'static str {
        match self {
            Self::Crash => "crashes, unless it is down",
            Self::LoseDisk => "crashes and loses its disk, if the promises survive that",
            Self::PowerCut => "and all others lose power",
            Self::Pause => "is paused",
            Self::Cut => "and others are cut off from the rest",
            Self::CutOneWay => "and others are not heard by the rest any more",
            Self::Mend => "and all others reach each other again",
            Self::NewWeather => "and all others get other weather",
            Self::Wish => "and all others hear of other wishes",
            Self::HoldMoves => "and all others are told to hold moves, or to let them begin again",
            Self::Stop => "is told to stop",
            Self::FillDisk => "has a full disk",
        }
    }
}

/// How much of each there is in this schedule.
#[derive(Debug, Clone)]
struct Climate {
    /// Weights of [`Trouble::ALL`].
    weights: [u32; 12],
    gap_max: Duration,
    lasts: Duration,
    down_max: Duration,
    replicas: usize,
}

/// What is to be undone, or looked at, later.
#[derive(Debug, Clone, Copy)]
enum Chore {
    Trouble,
    Start(Place),
    Resume(Place),
    EmptyDisk(Place),
    /// Look whether a node that stops leads anything still, and stop it at the latest then.
    Stopped(Place, Duration),
}

struct Explorer {
    world: World,
    /// Randomness of the faults.
    rng: Rng,
    climate: Climate,
    chores: BTreeMap<(Duration, u64), Chore>,
    chores_count: u64,
    desired: BTreeMap<Partition, Arc<[Owner]>>,
    moves_held: bool,
    stopping: BTreeSet<Place>,
    /// No other disk is lost before that.
    lost_until: Duration,
    story: Story,
}

impl Explorer {
    fn new(options: ExploreOptions) -> Self {
        let mut rng = Rng::new(options.seed.wrapping_mul(0x9e37_79b9).wrapping_add(options.seed));
        let climate = Climate::draw(&mut rng);
        let world = World::new(world_options(&mut rng, &climate, options));
        let mut explorer = Self {
            world,
            rng,
            climate,
            chores: BTreeMap::new(),
            chores_count: 0,
            desired: BTreeMap::new(),
            moves_held: false,
            stopping: BTreeSet::new(),
            lost_until: Duration::ZERO,
            story: Story::default(),
        };
        for place in 0..explorer.world.nodes.len() {
            explorer.world.start(place);
        }
        for partition in explorer.world.partitions() {
            let claim = explorer.world.bootstrap(partition);
            explorer.world.checkers.decided(Duration::ZERO, &claim);
            explorer.world.routers.iter_mut().for_each(|router| router.learn(&claim));
        }
        explorer.wish_all();
        explorer.chore(Duration::ZERO, Chore::Trouble);
        explorer
    }

    // ---- trouble

    fn trouble(&mut self) {
        let end = self.climate.lasts;
        while self.world.checkers.violation().is_none() {
            let chore = self.chores.first_key_value().map(|((at, _), _)| *at);
            let due = chore.unwrap_or(end).min(end);
            self.world.run_until(due);
            if due == end {
                break;
            }
            if let Some((_, chore)) = self.chores.pop_first() {
                self.do_chore(chore);
            }
        }
    }

    fn chore(&mut self, delay: Duration, chore: Chore) {
        self.chores_count += 1;
        self.chores.insert((self.world.now + delay, self.chores_count), chore);
    }

    fn do_chore(&mut self, chore: Chore) {
        match chore {
            Chore::Trouble => {
                let gap = self.rng.time(Duration::ZERO, self.climate.gap_max);
                self.chore(gap, Chore::Trouble);
                self.some_trouble();
            }
            Chore::Start(place) => {
                self.world.start(place);
                self.wish_all();
            }
            Chore::Resume(place) => {
                self.world.resume(place);
                self.wish_all();
            }
            Chore::EmptyDisk(place) => self.world.give(place, Input::DiskFull(false)),
            Chore::Stopped(place, latest) => self.stopped(place, latest),
        }
    }

    fn some_trouble(&mut self) {
        let total: u32 = self.climate.weights.iter().sum();
        let mut left = self.rng.below(total as usize) as u32;
        let mut weighted = Trouble::ALL.into_iter().zip(self.climate.weights);
        let drawn = weighted.find(|(_, weight)| {
            let found = left < *weight;
            left = left.saturating_sub(*weight);
            found
        });
        if let Some((trouble, _)) = drawn {
            self.bring(trouble);
        }
    }

    fn bring(&mut self, trouble: Trouble) {
        let place = self.rng.below(self.world.nodes.len());
        let down = self.rng.time(Duration::ZERO, self.climate.down_max);
        self.story.tell(self.world.now, format!("n{place} {}", trouble.words()));
        match trouble {
            Trouble::Crash => self.crash(place, false, down),
            Trouble::LoseDisk => {
                if self.may_lose(place) {
                    self.crash(place, true, down);
                }
            }
            Trouble::PowerCut => {
                for place in 0..self.world.nodes.len() {
                    let down = self.rng.time(Duration::ZERO, self.climate.down_max);
                    self.crash(place, false, down);
                }
            }
            Trouble::Pause => {
                self.world.pause(place);
                self.chore(down, Chore::Resume(place));
            }
            Trouble::Cut | Trouble::CutOneWay => self.cut(trouble == Trouble::Cut),
            Trouble::Mend => self.world.network.mend(),
            Trouble::NewWeather => self.world.network.weather = weather(&mut self.rng),
            Trouble::Wish => {
                self.desire();
                self.wish_all();
            }
            Trouble::HoldMoves => {
                self.moves_held = !self.moves_held;
                self.wish_all();
            }
            Trouble::Stop => {
                if self.world.nodes[place].is_awake() && self.stopping.insert(place) {
                    self.world.tally.count("stop");
                    self.wish_all();
                    let latest = self.world.now + STOP_MAX;
                    self.chore(LOOK_GAP, Chore::Stopped(place, latest));
                }
            }
            Trouble::FillDisk => {
                self.world.tally.count("disk full");
                self.world.give(place, Input::DiskFull(true));
                self.chore(down, Chore::EmptyDisk(place));
            }
        }
    }

    fn crash(&mut self, place: Place, with_disk: bool, down: Duration) {
        if self.world.nodes[place].engine.is_none() {
            return;
        }
        self.stopping.remove(&place);
        self.world.crash(place, None);
        if with_disk {
            self.world.tally.count("disk lost");
            self.world.nodes[place].replace_disk();
            self.lost_until = self.world.now + LOSS_GAP;
        }
        if self.rng.chance(300_000) {
            self.world.reboot_clock(place);
        }
        self.chore(down, Chore::Start(place));
        self.wish_all();
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
        self.world.crash(place, Some(usize::MAX));
        let down = self.rng.time(Duration::ZERO, self.climate.down_max);
        self.chore(down, Chore::Start(place));
        self.wish_all();
    }

    /// Splits everybody, routers too, in two.
    fn cut(&mut self, both_ways: bool) {
        let everybody = self.world.nodes.len() + self.world.routers.len();
        let (these, those): (Vec<Place>, Vec<Place>) = (0..everybody).partition(|_| self.rng.chance(400_000));
        self.world.tally.count("cut");
        self.world.trace(|_| format!("{these:?} cut from {those:?}, both ways: {both_ways}"));
        if both_ways {
            self.world.network.cut(&these, &those);
        } else {
            self.world.network.cut_one_way(&these, &those);
        }
    }

    /// Whether the promises survive the loss of this disk: for every claim that anybody may still decide by or
    /// recover from, less than half of the disks are gone.
    ///
    /// What is under way counts as well: the loss before must be long ago, and the targets of moves survive.
    fn may_lose(&self, place: Place) -> bool {
        if self.world.now < self.lost_until {
            return false;
        }
        let there: BTreeSet<&Owner> =
            self.world.nodes.iter().filter(|node| node.place != place).map(|node| &node.owner).collect();
        let survives = |owners: &[Owner]| {
            let left = owners.iter().filter(|owner| there.contains(owner)).count();
            left > owners.len() / 2
        };
        self.world.partitions().all(|partition| {
            let replicas = self.world.nodes.iter().filter_map(|node| node.disk.durable(partition));
            let accepted = replicas.filter_map(|replica| replica.acceptor.accepted.as_ref());
            let proposed_survive = accepted.into_iter().all(|(_, claim)| survives(&claim.owners));
            let mut claims = self.world.checkers.claims_of(partition).rev();
            // The newest, and the one before it: some may not have heard of the newest yet.
            let newest_survive = claims.by_ref().take(2).all(|claim| survives(&claim.owners));
            let statuses = self
                .world
                .nodes
                .iter()
                .filter_map(|node| node.engine.as_ref())
                .flat_map(|engine| engine.partitions().filter(|status| status.partition == partition));
            let mut targets = statuses.filter_map(|status| status.moving);
            let desired_survive = self.desired.get(&partition).is_none_or(|owners| survives(owners));
            let targets_survive = desired_survive && targets.all(|moving| survives(&moving.to));
            proposed_survive && newest_survive && targets_survive
        })
    }

    // ---- wishes

    /// Wishes for random owners among those that are there.
    fn desire(&mut self) {
        let mut there: Vec<Owner> = self.world.nodes.iter().map(|node| node.owner.clone()).collect();
        for partition in self.world.partitions() {
            self.rng.shuffle(&mut there);
            // Now and then fewer or more than there were.
            let replicas =
                if self.rng.chance(100_000) { 1 + self.rng.below(4) } else { self.climate.replicas };
            let owners: Arc<[Owner]> = there.iter().take(replicas).cloned().collect();
            self.desired.insert(partition, owners);
        }
    }

    /// Tells everybody of what is wished now; some hear it later than what is wished next.
    fn wish_all(&mut self) {
        let awake =
            self.world.nodes.iter().filter(|node| node.is_awake() && !self.stopping.contains(&node.place));
        let eligible: BTreeSet<Owner> = awake.map(|node| node.owner.clone()).collect();
        for place in 0..self.world.nodes.len() {
            let wishes = Wishes {
                owners: self.desired.clone(),
                eligible: eligible.clone(),
                paused: self.moves_held,
                stopping: self.stopping.contains(&place),
            };
            let delay = self.rng.time(Duration::ZERO, ms(30));
            self.world.wish_after(delay, place, Arc::new(wishes));
        }
    }

    // ---- rest

    /// Ends every fault.
    fn mend(&mut self) {
        self.world.trace(|_| "---- everything is mended".to_owned());
        self.story.tell(self.world.now, "everything is mended");
        self.chores.clear();
        self.stopping.clear();
        self.moves_held = false;
        self.world.network.mend();
        self.world.network.weather = Weather::fair(ms(2));
        self.world.options.import_failure_ppm = 0;
        self.world.options.disk_delay_max = self.world.options.disk_delay_max.min(ms(5));
        for place in 0..self.world.nodes.len() {
            self.world.resume(place);
            self.world.start(place);
        }
        // What came to a paused node, it finds first.
        self.world.run_until(self.world.now + ms(1));
        for place in 0..self.world.nodes.len() {
            self.world.give(place, Input::DiskFull(false));
        }
        let now = self.world.now;
        self.desire();
        self.wish_all();
        self.world.routers.iter_mut().for_each(|router| router.count_anew(now));
    }

    /// Waits until everything is at rest and every router has written; then until nobody waits for anything.
    fn converge(&mut self) {
        let end = self.world.now + CONVERGENCE_MAX;
        self.wait_for(end, Self::unrest);
        self.story.tell(self.world.now, "everything is at rest");
        self.world.stop_workload();
        let end = self.world.now + CONVERGENCE_MAX;
        self.wait_for(end, |explorer| explorer.world.waiting());
    }

    fn wait_for(&mut self, end: Duration, open: impl Fn(&Self) -> Option<(Rule, String)>) {
        while self.world.checkers.violation().is_none() {
            let Some((rule, what)) = open(self) else { return };
            if self.world.now >= end {
                self.world.checkers.violated(self.world.now, rule, what);
            }
            self.world.run_until(self.world.now + LOOK_GAP);
        }
    }

    /// What is not at rest yet.
    fn unrest(&self) -> Option<(Rule, String)> {
        let unsettled = self.desired.iter().find_map(|(partition, owners)| {
            self.world.unled(*partition, owners).or_else(|| self.world.unsettled(*partition))
        });
        Some((Rule::Convergence, unsettled.or_else(|| self.world.unheard())?))
    }
}

impl Climate {
    fn draw(rng: &mut Rng) -> Self {
        let mut weights = [0; 12];
        for weight in &mut weights {
            // A third of all kinds is absent.
            *weight = [0, 1, 3][rng.below(3)];
        }
        // Without moves or crashes little happens at all.
        let stirring = [Trouble::Crash, Trouble::Wish, Trouble::Pause];
        if let Some(stirring) = rng.pick(&stirring) {
            weights[*stirring as usize] += 3;
        }
        // Cuts that nobody mends leave nobody who could do wrong.
        weights[Trouble::Mend as usize] +=
            weights[Trouble::Cut as usize] + weights[Trouble::CutOneWay as usize];
        let power_cut = &mut weights[Trouble::PowerCut as usize];
        *power_cut = (*power_cut).min(1);
        Self {
            weights,
            gap_max: ms([20, 60, 150, 400][rng.below(4)]),
            lasts: ms(rng.between(300, 2_500)),
            down_max: ms([5, 100, 400][rng.below(3)]),
            replicas: [1, 2, 3, 3, 3, 3, 3, 3][rng.below(8)],
        }
    }
}

fn world_options(rng: &mut Rng, climate: &Climate, options: ExploreOptions) -> WorldOptions {
    let lease = ms([60, 100, 200][rng.below(3)]);
    let drift_ppm = [0, 10_000, 100_000][rng.below(3)];
    let timing = Timing {
        lease,
        drift_ppm,
        ask_period: lease / 4,
        retry_period: ms(rng.between(5, 20)),
        heartbeat_max: ms([50, 400][rng.below(2)]),
        commit_tell_delay: ms([1, 20][rng.below(2)]),
        takeover_rank_delay: ms([0, 20][rng.below(2)]),
        takeover_jitter: ms(rng.between(5, 40)),
        fence_timeout: ms([20, 100, 400][rng.below(3)]),
        copy_timeout: ms(200),
        move_retry: ms([5, 50][rng.below(2)]),
        drop_grace: ms([0, 30][rng.below(2)]),
        log_entries_max: [2, 8, 1_024][rng.below(3)],
        pending_entries_max: [4, 64][rng.below(2)],
        ..Timing::default()
    };
    WorldOptions {
        seed: options.seed,
        nodes: 4 + rng.below(2),
        routers: 2,
        partitions: if rng.chance(150_000) { 2 } else { 1 },
        replicas: climate.replicas,
        node: NodeOptions { timing, mutant: options.mutant },
        drift_ppm,
        weather: weather(rng),
        disk_delay_max: ms([0, 2, 10, 60][rng.below(4)]),
        operation_gap_max: ms([4, 15, 60][rng.below(3)]),
        keys: [1, 3][rng.below(2)],
        patience: Patience { attempt: ms([20, 100][rng.below(2)]), pause_max: ms(20), client: ms(600) },
        gossip_gap_max: ms([10, 60][rng.below(2)]),
        import_delay_max: ms([5, 60][rng.below(2)]),
        import_failure_ppm: [0, 200_000][rng.below(2)],
        timer_late_max: ms([0, 3][rng.below(2)]),
        cluster: None,
        inbox_max: usize::MAX,
        trace: options.trace,
        digest: options.digest,
    }
}

fn weather(rng: &mut Rng) -> Weather {
    Weather {
        loss_ppm: [0, 0, 20_000, 200_000][rng.below(4)],
        double_ppm: [0, 50_000, 300_000][rng.below(3)],
        late_ppm: [0, 30_000, 200_000][rng.below(3)],
        delay_max: ms([1, 3, 10][rng.below(3)]),
        late_max: ms([50, 400][rng.below(2)]),
    }
}
