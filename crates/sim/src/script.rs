//! Schedules written by hand, for what is too rare to be met by chance.
//!
//! A script starts with nodes `0, 1, …` in fair weather and perfect order, and says what goes wrong, when. What came of
//! it is judged by the same checkers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ringway_control::ownership::{Envelope, Mutant, Timing, Wishes};
use ringway_topology::{Owner, Partition};

use crate::checkers::{Rule, Violation};
use crate::network::{Place, Weather};
use crate::node::{NodeOptions, place_of};
use crate::router::{Patience, Wanted};
use crate::store::{Action, Key};
use crate::trace::Trace;
use crate::world::{World, WorldOptions};

/// The only partition.
pub const P: Partition = Partition(0);
/// The timers of every script: a lease of 100 ms, everything else well below it.
pub const LEASE: Duration = ms(100);
/// How long anything takes at most when nothing goes wrong.
pub const SETTLED: Duration = ms(1_000);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A schedule that is being played.
#[derive(Debug)]
pub struct Script {
    /// What it is played on.
    pub world: World,
}

impl Script {
    /// Starts `nodes` nodes, the first `replicas` of which own the partition, with two routers; the world then runs until
    /// node 0 serves.
    #[must_use]
    pub fn new(nodes: usize, replicas: usize, mutant: Option<Mutant>) -> Self {
        Self::with(nodes, replicas, mutant, |_| {})
    }

    /// [`Self::new`] with something changed.
    #[must_use]
    pub fn with(
        nodes: usize,
        replicas: usize,
        mutant: Option<Mutant>,
        change: impl FnOnce(&mut WorldOptions),
    ) -> Self {
        let timing = Timing {
            lease: LEASE,
            drift_ppm: 0,
            ask_period: ms(20),
            retry_period: ms(10),
            heartbeat_max: ms(100),
            commit_tell_delay: ms(2),
            takeover_rank_delay: ms(5),
            takeover_jitter: ms(5),
            fence_timeout: ms(200),
            copy_timeout: ms(200),
            move_retry: ms(20),
            drop_grace: ms(5),
            ..Timing::default()
        };
        let mut options = WorldOptions {
            seed: 1,
            nodes,
            routers: 2,
            partitions: 1,
            replicas,
            node: NodeOptions { timing, mutant },
            drift_ppm: 0,
            weather: Weather::fair(ms(1)),
            disk_delay_max: ms(1),
            operation_gap_max: Duration::ZERO,
            keys: 2,
            patience: Patience { attempt: ms(50), pause_max: ms(10), client: ms(2_000) },
            // Nobody hears of a claim but from its owners.
            gossip_gap_max: Duration::from_secs(3_600),
            import_delay_max: ms(5),
            import_failure_ppm: 0,
            timer_late_max: Duration::ZERO,
            cluster: None,
            inbox_max: usize::MAX,
            trace: Trace::aloud(std::env::var_os("RINGWAY_SIM_TRACE").is_some()),
            digest: false,
        };
        change(&mut options);
        let mut script = Self { world: World::new(options) };
        for place in 0..nodes {
            script.world.start(place);
        }
        let claim = script.world.bootstrap(P);
        script.world.checkers.decided(Duration::ZERO, &claim);
        script.world.routers.iter_mut().for_each(|router| router.learn(&claim));
        script.run(SETTLED);
        script
    }

    /// Lets time go on.
    pub fn run(&mut self, time: Duration) {
        self.world.run_until(self.world.now + time);
    }

    /// Holds back what `from` sends to `to` from now on.
    pub fn hold(&mut self, from: Place, to: Place) {
        self.world.held_links.insert((from, to));
    }

    /// Sends what is held back on a link, and holds nothing back any more.
    pub fn release(&mut self, from: Place, to: Place) {
        self.world.held_links.remove(&(from, to));
        self.deliver(|envelope| link(envelope) == Some((from, to)));
    }

    /// Loses all that is held back, and holds nothing back any more.
    pub fn let_go(&mut self) {
        self.world.held_links.clear();
        self.world.held.clear();
    }

    /// Sends those messages of the held ones that are wanted; how many they were.
    pub fn deliver(&mut self, wanted: impl Fn(&Envelope) -> bool) -> usize {
        let held = std::mem::take(&mut self.world.held);
        let (sent, held): (Vec<Envelope>, Vec<Envelope>) =
            held.into_iter().partition(|envelope| wanted(envelope));
        self.world.held = held;
        let count = sent.len();
        for envelope in sent {
            if let Some((from, to)) = link(&envelope) {
                self.world.send(from, to, envelope);
            }
        }
        count
    }

    /// Sends the newest of the held messages that are wanted, and loses the others of them.
    pub fn deliver_last(&mut self, wanted: impl Fn(&Envelope) -> bool) {
        let newest = self.world.held.iter().rposition(&wanted).map(|at| self.world.held.remove(at));
        self.lose(wanted);
        if let Some(envelope) = newest
            && let Some((from, to)) = link(&envelope)
        {
            self.world.send(from, to, envelope);
        }
    }

    /// Lets time go on until a message is held that is looked for; whether there is one.
    pub fn await_held(&mut self, limit: Duration, looked_for: impl Fn(&Envelope) -> bool) -> bool {
        self.pass_until(limit, |_| false, looked_for)
    }

    /// The same, while those of the held messages that are wanted go on their way.
    pub fn pass_until(
        &mut self,
        limit: Duration,
        wanted: impl Fn(&Envelope) -> bool,
        looked_for: impl Fn(&Envelope) -> bool,
    ) -> bool {
        let end = self.world.now + limit;
        while self.world.now < end && !self.world.held.iter().any(&looked_for) {
            self.deliver(&wanted);
            self.run(ms(1));
        }
        self.world.held.iter().any(&looked_for)
    }

    /// Lets time go on until an epoch is decided; whether it was.
    pub fn await_epoch(&mut self, epoch: u64, limit: Duration) -> bool {
        let end = self.world.now + limit;
        let decided = |script: &Self| script.epoch() >= epoch;
        while self.world.now < end && !decided(self) {
            self.run(ms(1));
        }
        decided(self)
    }

    /// Lets time go on until another write is acknowledged; whether one was.
    pub fn await_acknowledged(&mut self, limit: Duration) -> bool {
        let (end, before) = (self.world.now + limit, self.world.checkers.acknowledged);
        while self.world.now < end && self.world.checkers.acknowledged == before {
            self.run(ms(1));
        }
        self.world.checkers.acknowledged > before
    }

    /// The newest epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.world.checkers.claims_of(P).next_back().map_or(0, |claim| claim.epoch.0)
    }

    /// A router hears of the newest claim.
    pub fn tell_router(&mut self, router: usize) {
        if let Some(claim) = self.world.checkers.claims_of(P).next_back() {
            self.world.routers[router].learn(&Arc::clone(claim));
        }
    }

    /// Loses those messages of the held ones that are not wanted; how many they were.
    pub fn lose(&mut self, unwanted: impl Fn(&Envelope) -> bool) -> usize {
        let before = self.world.held.len();
        self.world.held.retain(|envelope| !unwanted(envelope));
        before - self.world.held.len()
    }

    /// Cuts every link between one of `these` and one of `those`.
    pub fn cut(&mut self, these: &[Place], those: &[Place]) {
        self.world.network.cut(these, those);
    }

    /// Makes every link whole.
    pub fn mend(&mut self) {
        self.world.network.mend();
    }

    /// The place of the first or second router, for cuts.
    #[must_use]
    pub fn router(&self, index: usize) -> Place {
        self.world.options.nodes + index
    }

    /// A client of a router begins to write a new value.
    pub fn write(&mut self, router: usize, key: Key) {
        let value = self.world.next_value();
        self.begin(router, Wanted::Write(Action { key, value, expected: None }));
    }

    /// A client of a router begins to read.
    pub fn read(&mut self, router: usize, key: Key) {
        self.begin(router, Wanted::Read(key));
    }

    fn begin(&mut self, router: usize, wanted: Wanted) {
        let place = self.router(router);
        let (now, world) = (self.world.now, &mut self.world);
        let begun = world.routers[router].begin_with(now, &mut world.checkers, P, wanted, true);
        if let Some(number) = begun {
            world.attempt(place, number);
        }
    }

    /// Kills a process; its disk keeps this many of the batches that are not durable yet.
    pub fn crash(&mut self, place: Place, kept: usize) {
        self.world.crash(place, Some(kept));
    }

    /// Kills a process and takes its disk away.
    pub fn lose_disk(&mut self, place: Place) {
        self.world.crash(place, None);
        self.world.nodes[place].replace_disk();
    }

    /// Starts a process.
    pub fn start(&mut self, place: Place) {
        self.world.start(place);
    }

    /// Holds up a node's disk: nothing becomes durable.
    pub fn hold_disk(&mut self, place: Place) {
        self.world.held_disks.insert(place);
    }

    /// Lets it go on.
    pub fn release_disk(&mut self, place: Place) {
        self.world.held_disks.remove(&place);
        self.world.spin_disk(place);
    }

    /// Everybody wishes for these owners; everybody that is up is eligible.
    pub fn wish(&mut self, owners: &[Place]) {
        let owner = |place: &Place| self.world.nodes[*place].owner.clone();
        let owners: Arc<[Owner]> = owners.iter().map(owner).collect();
        let eligible: BTreeSet<Owner> =
            self.world.nodes.iter().filter(|node| node.is_awake()).map(|node| node.owner.clone()).collect();
        let wishes = Wishes { owners: [(P, owners)].into(), eligible, paused: false, stopping: false };
        let wishes = Arc::new(wishes);
        for place in 0..self.world.nodes.len() {
            self.world.wish_after(Duration::ZERO, place, Arc::clone(&wishes));
        }
    }

    /// The nodes that own the partition by the newest claim, primary first.
    #[must_use]
    pub fn owners(&self) -> Vec<Place> {
        let newest = self.world.checkers.claims_of(P).next_back();
        newest.map_or_else(Vec::new, |claim| {
            claim.owners.iter().filter_map(|owner| place_of(&owner.node)).collect()
        })
    }

    /// How many writes and reads were answered.
    #[must_use]
    pub fn answered(&self) -> (u64, u64) {
        (self.world.checkers.acknowledged, self.world.checkers.reads)
    }

    /// Ends the script, at which these own the partition and everything is at rest.
    #[must_use]
    pub fn end_at_rest(mut self, owners: &[Place]) -> Option<Violation> {
        let owners: Vec<Owner> = owners.iter().map(|place| self.world.nodes[*place].owner.clone()).collect();
        let unrest = self.world.unled(P, &owners).or_else(|| self.world.unsettled(P));
        if let Some(what) = unrest {
            self.world.checkers.violated(self.world.now, Rule::Convergence, what);
        }
        self.end()
    }

    /// Ends the script: the first violation, if there was one.
    #[must_use]
    pub fn end(mut self) -> Option<Violation> {
        self.world.checkers.finish(self.world.now);
        self.world.checkers.violation().cloned()
    }
}

fn link(envelope: &Envelope) -> Option<(Place, Place)> {
    Some((place_of(&envelope.from.node)?, place_of(&envelope.to.node)?))
}
