//! Whole nodes on virtual time: instant disks, a perfect network, and faults where a test puts them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ringway_topology::{Epoch, NodeId, Owner, Partition, StoreId};

use super::*;

mod forcing;

const P: Partition = Partition(7);
/// How long a message travels.
const HOP: Duration = Duration::from_millis(1);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn owner(n: u128) -> Owner {
    Owner { node: NodeId::new(&format!("n{n}")).unwrap(), store: StoreId(n) }
}

/// A disk: what is durable of one store, and its applied payloads.
#[derive(Debug, Default, Clone)]
struct Disk {
    round: u64,
    acceptors: BTreeMap<Partition, Acceptor>,
    logs: BTreeMap<Partition, (Position, Vec<Arc<Entry>>)>,
    states: BTreeMap<Partition, State>,
    aside: BTreeMap<Partition, (CopyTag, State)>,
}

/// What is applied: payloads in order, and results by request.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct State {
    at: Option<Position>,
    payloads: Vec<Vec<u8>>,
    results: BTreeMap<(u128, u64), Vec<u8>>,
}

impl State {
    fn apply(&mut self, entry: &Entry) -> Vec<u8> {
        self.at = Some(entry.position);
        let Op::Write { request, payload } = &entry.op else { return Vec::new() };
        if let Some(known) = request.as_ref().and_then(|id| self.results.get(&(id.router, id.counter))) {
            return known.clone();
        }
        self.payloads.push(payload.to_vec());
        let result = entry.position.seq.to_string().into_bytes();
        if let Some(id) = request {
            self.results.insert((id.router, id.counter), result.clone());
        }
        result
    }
}

impl Disk {
    fn write(&mut self, batch: DiskBatch) -> Written {
        let mut applied = Vec::new();
        for op in batch.ops {
            self.change(op, &mut applied);
        }
        Written { ticket: batch.ticket, applied }
    }

    fn change(&mut self, op: DiskOp, applied: &mut Vec<Applied>) {
        match op {
            DiskOp::Acceptor { partition, state } => {
                self.acceptors.insert(partition, state);
            }
            DiskOp::Round(round) => {
                assert!(round > self.round, "rounds only grow");
                self.round = round;
            }
            DiskOp::Log { partition, keep_through, entries } => {
                let (trimmed, log) = self.logs.entry(partition).or_insert((Position::ZERO, Vec::new()));
                let state = self.states.entry(partition).or_default();
                assert!(state.at.is_none_or(|at| at.seq <= keep_through), "never cuts an applied entry");
                log.retain(|entry| entry.position.seq <= keep_through);
                for entry in entries {
                    let last = log.last().map_or(*trimmed, |last| last.position);
                    assert_eq!(entry.position.seq, last.seq + 1, "gap-free");
                    log.push(entry);
                }
            }
            DiskOp::Apply { partition, entries } => {
                for entry in entries {
                    let state = self.states.entry(partition).or_default();
                    assert_eq!(entry.position.seq, state.at.map_or(0, |at| at.seq) + 1, "in order");
                    let result = Arc::from(state.apply(&entry));
                    applied.push(Applied { partition, seq: entry.position.seq, result });
                }
            }
            DiskOp::Trim { partition, through } => {
                let (trimmed, log) = self.logs.get_mut(&partition).unwrap();
                assert!(self.states[&partition].at.unwrap().seq >= through.seq);
                log.retain(|entry| entry.position.seq > through.seq);
                *trimmed = through;
            }
            DiskOp::Adopt { partition, tag, base } => {
                let (aside, state) = self.aside.remove(&partition).unwrap();
                assert_eq!((aside, state.at), (tag, Some(base)));
                self.states.insert(partition, state);
                self.logs.insert(partition, (base, Vec::new()));
            }
            DiskOp::Drop { partition } => {
                self.logs.remove(&partition);
                self.states.remove(&partition);
                self.aside.remove(&partition);
            }
        }
    }

    fn recovered(&self) -> Recovered {
        let partitions = self.acceptors.iter().map(|(partition, acceptor)| {
            let (trimmed, log) = self.logs.get(partition).cloned().unwrap_or((Position::ZERO, Vec::new()));
            let applied = self.states.get(partition).and_then(|state| state.at).unwrap_or(Position::ZERO);
            RecoveredPartition { partition: *partition, acceptor: acceptor.clone(), trimmed, applied, log }
        });
        Recovered { round: self.round, partitions: partitions.collect() }
    }
}

/// One node: its process, if it runs, and its disk.
struct Machine {
    ownership: Option<Ownership>,
    disk: Disk,
    generation: u64,
    paused: bool,
    disk_stands_still: bool,
    /// How many batches are under way before the first is done.
    disk_lag: usize,
    written: VecDeque<Written>,
    replies: BTreeMap<Token, WriteOutcome>,
    events: Vec<Event>,
    imports: Vec<ImportOrder>,
    permit: Option<ReadPermit>,
}

/// A cluster of nodes 1, 2, 3, …
struct World {
    now: Duration,
    timing: Timing,
    machines: BTreeMap<Owner, Machine>,
    wire: VecDeque<(Duration, Envelope)>,
    cut: BTreeSet<Owner>,
    tokens: u64,
    wishes: Arc<Wishes>,
    imports_run: bool,
}

impl World {
    fn new(nodes: u128) -> Self {
        Self::with_timing(nodes, Timing::default())
    }

    fn with_timing(nodes: u128, timing: Timing) -> Self {
        let mut world = Self {
            now: ms(1_000),
            timing,
            machines: BTreeMap::new(),
            wire: VecDeque::new(),
            cut: BTreeSet::new(),
            tokens: 0,
            wishes: Arc::default(),
            imports_run: true,
        };
        for n in 1..=nodes {
            let machine = Machine {
                ownership: None,
                disk: Disk::default(),
                generation: 0,
                paused: false,
                disk_stands_still: false,
                disk_lag: 0,
                written: VecDeque::new(),
                replies: BTreeMap::new(),
                events: Vec::new(),
                imports: Vec::new(),
                permit: None,
            };
            world.machines.insert(owner(n), machine);
            world.start(n);
        }
        world
    }

    /// Nodes 1, 2 and 3 own the partition, 1 serves.
    fn serving(nodes: u128) -> Self {
        let mut world = Self::new(nodes);
        world.bootstrap(&[1, 2, 3]);
        world.run(ms(100));
        assert_eq!(world.role(1), Role::Primary);
        world
    }

    fn bootstrap(&mut self, owners: &[u128]) {
        let owners: Arc<[Owner]> = owners.iter().map(|n| owner(*n)).collect();
        let claim = Arc::new(Claim { partition: P, epoch: Epoch(1), owners, end: Position::ZERO });
        let now = self.now;
        for machine in self.machines.values_mut() {
            machine.ownership.as_mut().unwrap().handle_claim(now, claim.clone());
        }
    }

    fn machine(&mut self, n: u128) -> &mut Machine {
        self.machines.get_mut(&owner(n)).unwrap()
    }

    fn node(&mut self, n: u128) -> &mut Ownership {
        self.machine(n).ownership.as_mut().unwrap()
    }

    fn start(&mut self, n: u128) {
        let (now, timing) = (self.now, self.timing.clone());
        let wishes = self.wishes.clone();
        let machine = self.machine(n);
        machine.generation += 1;
        machine.imports.clear();
        machine.written.clear();
        let options = OwnershipOptions {
            me: owner(n),
            generation: machine.generation,
            seed: 42,
            timing,
            #[cfg(feature = "mutants")]
            mutant: None,
        };
        let mut ownership = Ownership::new(options, machine.disk.recovered(), now);
        ownership.handle_wishes(now, wishes);
        machine.ownership = Some(ownership);
    }

    fn crash(&mut self, n: u128) {
        self.machine(n).ownership = None;
    }

    fn wish(&mut self, owners: &[u128]) {
        let owners: Arc<[Owner]> = owners.iter().map(|n| owner(*n)).collect();
        let eligible = self.machines.keys().cloned().collect();
        let wishes = Wishes { owners: [(P, owners)].into(), eligible, paused: false, stopping: false };
        self.wishes = Arc::new(wishes);
        self.spread_wishes();
    }

    fn spread_wishes(&mut self) {
        let (now, wishes) = (self.now, self.wishes.clone());
        for machine in self.machines.values_mut() {
            if let Some(ownership) = &mut machine.ownership {
                ownership.handle_wishes(now, wishes.clone());
            }
        }
    }

    /// Runs for a while.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += HOP;
            self.deliver();
            let names: Vec<Owner> = self.machines.keys().cloned().collect();
            for name in names {
                self.turn(&name);
            }
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        for _ in 0..self.wire.len() {
            let (at, envelope) = self.wire.pop_front().unwrap();
            let cut = self.cut.contains(&envelope.from) || self.cut.contains(&envelope.to);
            let Some(machine) = self.machines.get_mut(&envelope.to) else { continue };
            if machine.paused || at > now {
                self.wire.push_back((at, envelope));
            } else if let (false, Some(ownership)) = (cut, &mut machine.ownership) {
                ownership.handle_message(now, envelope);
            }
        }
    }

    fn turn(&mut self, name: &Owner) {
        let now = self.now;
        let machine = self.machines.get_mut(name).unwrap();
        let Some(ownership) = machine.ownership.as_mut().filter(|_| !machine.paused) else { return };
        for _ in 0..20 {
            if ownership.poll_timeout().is_some_and(|at| at <= now) {
                ownership.handle_timeout(now);
            }
            if machine.disk_stands_still {
                break;
            }
            let Some(batch) = ownership.poll_disk() else { break };
            machine.written.push_back(machine.disk.write(batch));
            if machine.written.len() > machine.disk_lag
                && let Some(written) = machine.written.pop_front()
            {
                ownership.handle_written(now, written);
            }
        }
        while let Some(envelope) = ownership.poll_transmit() {
            self.wire.push_back((now + HOP, envelope));
        }
        while let Some(reply) = ownership.poll_reply() {
            let first = machine.replies.insert(reply.token, reply.outcome).is_none();
            assert!(first, "exactly one outcome");
        }
        while let Some(event) = ownership.poll_event() {
            match &event {
                Event::Import(order) => machine.imports.push(order.clone()),
                Event::CancelImport(order) => machine.imports.retain(|running| running != order),
                Event::Alarm { .. } => panic!("two claims of one epoch: {event:?}"),
                _ => {}
            }
            machine.events.push(event);
        }
        if self.imports_run {
            self.import(name);
        }
    }

    /// Copies the source's applied state at once.
    fn import(&mut self, name: &Owner) {
        let orders = std::mem::take(&mut self.machines.get_mut(name).unwrap().imports);
        for order in orders {
            let source = self.machines[&order.tag.source].disk.states.get(&P).cloned().unwrap_or_default();
            let base = source.at.unwrap_or(Position::ZERO);
            let now = self.now;
            let machine = self.machines.get_mut(name).unwrap();
            machine.disk.aside.insert(P, (order.tag.clone(), source));
            let done = CopyProgress::Done { base, bytes: 100 };
            machine.ownership.as_mut().unwrap().handle_copy(now, P, &order.tag, done);
        }
    }

    fn status(&mut self, n: u128) -> PartitionStatus {
        self.node(n).partitions().find(|status| status.partition == P).unwrap()
    }

    fn role(&mut self, n: u128) -> Role {
        self.status(n).role
    }

    fn epoch(&mut self, n: u128) -> Epoch {
        self.node(n).claim(P).map_or(Epoch(0), |claim| claim.epoch)
    }

    fn send(&mut self, n: u128, counter: u64, payload: &str) -> Token {
        self.tokens += 1;
        let token = Token(self.tokens);
        let epoch = self.epoch(n);
        let request = Some(RequestId { router: 1, counter, open: 0 });
        let payload = Arc::from(payload.as_bytes());
        let now = self.now;
        self.node(n).write(now, WriteRequest { partition: P, epoch, request, payload }, token);
        token
    }

    fn outcome(&mut self, n: u128, token: Token) -> Option<WriteOutcome> {
        self.machine(n).replies.get(&token).cloned()
    }

    /// A write that must be served.
    fn write(&mut self, n: u128, counter: u64, payload: &str) -> Arc<[u8]> {
        let token = self.send(n, counter, payload);
        self.run(ms(20));
        match self.outcome(n, token) {
            Some(WriteOutcome::Applied { result, .. }) => result,
            other => panic!("not applied: {other:?}"),
        }
    }

    fn read(&mut self, n: u128) -> Admission {
        let (now, epoch) = (self.now, self.epoch(n));
        self.node(n).admit_read(now, P, epoch)
    }

    /// What permits say, which must be what the state machine says.
    fn permitted(&mut self, n: u128) -> bool {
        let (now, epoch) = (self.now, self.epoch(n));
        let machine = self.machine(n);
        let ownership = machine.ownership.as_mut().unwrap();
        if let Some(permit) = std::iter::from_fn(|| ownership.poll_permit()).last() {
            machine.permit = Some(permit);
        }
        let permitted = machine.permit.is_some_and(|permit| permit.epoch == epoch && now < permit.until);
        let admitted = self.node(n).admit_read(now, P, epoch) == Admission::Serve;
        assert_eq!(permitted, admitted, "n{n} at {now:?}: {:?}", self.machine(n).permit);
        permitted
    }

    fn data(&mut self, n: u128) -> Vec<String> {
        let state = self.machine(n).disk.states.get(&P).cloned().unwrap_or_default();
        state.payloads.iter().map(|payload| String::from_utf8_lossy(payload).into_owned()).collect()
    }
}

#[test]
fn a_bootstrapped_partition_serves_writes_and_reads() {
    let mut world = World::serving(3);
    assert_eq!(world.write(1, 1, "a").as_ref(), b"2", "behind the first entry of the epoch");
    assert_eq!(world.read(1), Admission::Serve);
    world.run(ms(100));
    for n in 1..=3 {
        assert_eq!(world.data(n), ["a"], "on n{n}");
    }
    let (now, epoch) = (world.now, world.epoch(2));
    assert!(matches!(world.read(2), Admission::Misdirected(_)));
    assert!(world.node(2).admit_any_read(now, P, epoch).unwrap() < ms(200));
    assert_eq!((world.node(1).led(), world.node(2).led(), world.node(2).owned()), (1, 0, 1));
}

#[test]
fn a_permit_to_read_ends_with_the_lease_the_fence_and_the_seal() {
    let mut world = World::serving(3);
    assert_eq!((world.permitted(1), world.permitted(2)), (true, false));
    world.cut.extend([owner(2), owner(3)]);
    let lost = (0..400).find(|_| {
        world.run(ms(10));
        !world.permitted(1)
    });
    assert!(lost.is_some(), "nobody grants any more");
    world.cut.clear();
    world.run(ms(6_000));
    let primary = (1..=3).find(|n| world.permitted(*n)).expect("somebody serves again");
    assert_eq!((1..=3).filter(|n| world.permitted(*n)).count(), 1);

    // It hands over to another owner: fenced, proposed, told.
    let others = (1..=3).filter(|n| *n != primary).map(owner);
    let order: Vec<Owner> = others.chain([owner(primary)]).collect();
    let numbers: Vec<u128> = order.iter().map(|owner| owner.store.0).collect();
    world.wish(&numbers);
    let mut gaps = 0;
    while world.node(primary).claim(P).unwrap().primary() == Some(&owner(primary)) {
        world.run(HOP);
        gaps += u32::from((1..=3).filter(|n| world.permitted(*n)).count() == 0);
    }
    assert!(gaps > 0, "fenced, it does not answer");

    // A higher claim is heard of.
    let heir = (1..=3).find(|n| owner(*n) == order[0]).unwrap();
    while !world.permitted(heir) {
        world.run(HOP);
    }
    let (now, epoch) = (world.now, Epoch(world.epoch(heir).0 + 1));
    let end = world.status(heir).last;
    let owners = [&order[1..], &order[..1]].concat().into();
    world.node(heir).handle_claim(now, Arc::new(Claim { partition: P, epoch, owners, end }));
    let ended = world.node(heir).poll_permit().expect("before anything is written or said");
    assert_eq!((ended.partition, ended.until), (P, Duration::ZERO));
}

#[test]
fn a_crashed_primary_is_taken_over_with_all_it_acknowledged() {
    let mut world = World::serving(3);
    world.write(1, 1, "a");
    world.crash(1);
    world.run(ms(4_000));
    let primary = if world.role(2) == Role::Primary { 2 } else { 3 };
    assert_eq!(world.role(primary), Role::Primary);
    assert_eq!(world.epoch(primary), Epoch(2));
    world.write(primary, 2, "b");
    assert_eq!(world.data(primary), ["a", "b"]);
    assert_eq!(world.read(primary), Admission::Serve);
    world.start(1);
    world.run(ms(3_000));
    assert_eq!(world.data(1), ["a", "b"], "the old one follows");
    assert_eq!(world.role(1), Role::Replica);
}

#[test]
fn a_primary_that_restarts_takes_over_with_the_next_epoch() {
    let mut world = World::serving(3);
    world.write(1, 1, "a");
    world.crash(1);
    world.start(1);
    assert_eq!(world.node(1).led(), 0, "it does not resume its epoch");
    world.run(ms(1_000));
    assert_eq!((world.role(1), world.epoch(1)), (Role::Primary, Epoch(2)));
    assert_eq!(world.write(1, 1, "a").as_ref(), b"2", "the repeat has the first result");
    world.run(ms(100));
    assert_eq!(world.data(2), ["a"]);
}

#[test]
fn another_order_of_the_owners_moves_no_data() {
    let mut world = World::serving(3);
    world.write(1, 1, "a");
    world.wish(&[2, 1, 3]);
    world.run(ms(100));
    assert_eq!((world.role(2), world.epoch(2)), (Role::Primary, Epoch(2)));
    assert_eq!(world.role(1), Role::Replica);
    world.write(2, 2, "b");
    world.run(ms(100));
    assert_eq!(world.data(1), ["a", "b"]);
    assert_eq!(world.node(1).stats().copies_begun, 0);
}

#[test]
fn a_move_with_a_joiner_copies_and_cleans_up() {
    let mut world = World::serving(4);
    world.write(1, 1, "a");
    world.wish(&[4, 1, 2]);
    world.run(ms(200));
    assert_eq!((world.role(4), world.epoch(4)), (Role::Primary, Epoch(2)));
    world.write(4, 2, "b");
    assert_eq!(world.data(4), ["a", "b"]);
    world.run(ms(6_000));
    assert_eq!(world.data(3), Vec::<String>::new(), "the former owner dropped its data");
    assert_eq!(
        world.machine(3).disk.acceptors[&P].claim.as_ref().unwrap().epoch,
        Epoch(2),
        "and kept its record"
    );
    assert_eq!(world.node(1).stats().moves_committed, 1);
}

#[test]
fn a_repeated_request_joins_its_entry() {
    let mut world = World::serving(3);
    let first = world.send(1, 1, "a");
    let second = world.send(1, 1, "a");
    world.run(ms(50));
    assert!(world.outcome(1, first).is_some());
    assert_eq!(world.outcome(1, first), world.outcome(1, second));
    assert_eq!(world.write(1, 1, "a").as_ref(), b"2", "and later is answered by the store");
    assert_eq!(world.data(1), ["a"]);
}

#[test]
fn an_owner_that_was_away_catches_up_by_the_log() {
    let mut world = World::serving(3);
    world.crash(3);
    for counter in 1..=20 {
        world.write(1, counter, "x");
    }
    world.start(3);
    world.run(ms(6_000));
    assert_eq!(world.data(3).len(), 20);
    assert_eq!(world.node(1).stats().copies_begun, 0);
}

#[test]
fn an_owner_behind_the_log_catches_up_by_a_copy() {
    let timing = Timing { log_entries_max: 4, ..Timing::default() };
    let mut world = World::with_timing(3, timing);
    world.bootstrap(&[1, 2, 3]);
    world.run(ms(100));
    world.crash(3);
    for counter in 1..=20 {
        world.write(1, counter, "x");
    }
    world.start(3);
    world.run(ms(8_000));
    assert_eq!(world.data(3).len(), 20);
    assert_eq!(world.node(1).stats().copies_begun, 1);
    world.write(1, 21, "y");
    world.run(ms(100));
    assert_eq!(world.data(3).len(), 21, "and follows from there");
}

#[test]
fn a_paused_primary_admits_no_read_when_it_wakes() {
    let mut world = World::serving(3);
    world.write(1, 1, "a");
    world.machine(1).paused = true;
    world.run(ms(5_000));
    assert!(world.role(2) == Role::Primary || world.role(3) == Role::Primary);
    world.machine(1).paused = false;
    assert!(matches!(world.read(1), Admission::Wait(_)), "its leases ran out while it slept");
    world.run(ms(100));
    assert!(matches!(world.read(1), Admission::Misdirected(_)) || world.epoch(1) == Epoch(2));
}

#[test]
fn a_node_that_stops_hands_over_what_it_leads() {
    let mut world = World::serving(3);
    world.write(1, 1, "a");
    let eligible = [owner(2), owner(3)].into();
    let wishes = Wishes { stopping: true, eligible, ..Wishes::default() };
    let now = world.now;
    world.node(1).handle_wishes(now, Arc::new(wishes));
    world.run(ms(200));
    assert_eq!(world.node(1).led(), 0);
    assert_eq!(world.role(2), Role::Primary);
}

#[test]
fn what_a_stopping_node_hands_over_is_not_handed_back_before_the_others_hear_that_it_stops() {
    let mut world = World::serving(3);
    // The others wish for it still, and take it for eligible.
    world.wish(&[1, 2, 3]);
    let wishes = Wishes { stopping: true, eligible: [owner(2), owner(3)].into(), ..Wishes::default() };
    let now = world.now;
    world.node(1).handle_wishes(now, Arc::new(wishes));
    for _ in 0..9 {
        world.run(ms(100));
        assert_eq!((world.node(1).led(), world.role(2)), (0, Role::Primary));
    }
    // It has not stopped after all: the wish is heeded, but what comes back is handed over again at once.
    world.run(ms(2_000));
    assert!(world.epoch(2) > Epoch(3), "{:?}", world.epoch(2));
}

#[test]
fn a_stamp_is_of_its_own_life_alone_even_when_the_clock_starts_anew() {
    let life = |generation: u64, now: Duration| {
        super::node::Node::new(OwnershipOptions::new(owner(1), generation, 5, Timing::default()), now)
    };
    let (before, mut after) = (life(8, ms(900)), life(9, ms(100)));
    let (old, own) = (before.stamp(), after.stamp());
    after.now = ms(2_000);
    assert_eq!((after.unstamp(own), after.unstamp(old)), (Some(ms(100)), None));
    assert_eq!(after.unstamp(Duration::ZERO), None);
    assert_eq!(before.unstamp(old + ms(1)), None, "it was not said yet");
}

#[test]
fn a_write_at_a_cut_off_primary_is_never_acknowledged() {
    let mut world = World::serving(3);
    world.cut.insert(owner(1));
    let token = world.send(1, 1, "a");
    world.run(ms(5_000));
    assert_eq!(world.outcome(1, token), None);
    let primary = if world.role(2) == Role::Primary { 2 } else { 3 };
    world.write(primary, 2, "b");
    world.cut.clear();
    world.run(ms(6_000));
    assert_eq!(world.outcome(1, token), Some(WriteOutcome::Unknown));
    assert_eq!(world.data(1), ["b"]);
}

#[test]
fn nothing_is_said_before_it_is_durable() {
    let mut world = World::new(3);
    for n in 1..=3 {
        world.machine(n).disk_stands_still = true;
    }
    world.bootstrap(&[1, 2, 3]);
    world.run(ms(500));
    assert_eq!(world.status(2).last, Position::ZERO, "a primary says nothing before its claim is durable");
    world.machine(1).disk_stands_still = false;
    world.run(ms(500));
    assert_eq!(world.role(1), Role::TakingOffice, "nobody acknowledges what is not durable");
    world.machine(2).disk_stands_still = false;
    world.run(ms(2_000));
    assert_eq!(world.role(1), Role::Primary);
}

#[test]
fn a_joiner_of_a_move_that_was_given_up_drops_its_copy() {
    let mut world = World::serving(4);
    world.write(1, 1, "a");
    world.imports_run = false;
    world.wish(&[1, 2, 4]);
    world.run(ms(100));
    assert_eq!(world.role(4), Role::Joiner);
    world.wish(&[1, 2, 3]);
    world.imports_run = true;
    world.import(&owner(4));
    world.run(ms(6_000));
    assert_eq!((world.epoch(1), world.role(1)), (Epoch(1), Role::Primary), "nothing moved");
    assert_eq!(world.data(4), Vec::<String>::new());
    assert!(world.node(4).partitions().next().is_none(), "n4 has nothing to do with it any more");
    world.wish(&[4, 1, 2]);
    world.run(ms(3_000));
    assert_eq!(world.role(4), Role::Primary, "and may join again");
}

#[test]
fn a_sealed_owner_is_freed_by_a_move_to_the_same_owners() {
    let mut world = World::serving(3);
    world.cut.insert(owner(3));
    world.run(ms(4_000));
    assert_eq!(world.role(3), Role::Sealed, "it thinks the primary gone");
    world.cut.clear();
    world.run(ms(3_000));
    assert_eq!(world.role(3), Role::Replica);
    assert!(world.epoch(1) > Epoch(1));
    let primary = (1..=3).find(|n| world.role(*n) == Role::Primary).unwrap();
    world.write(primary, 1, "a");
    world.run(ms(100));
    assert_eq!(world.data(3), ["a"]);
}

#[test]
fn thousands_of_partitions_of_a_dead_node_are_taken_over_together() {
    const COUNT: u32 = 500;
    let mut world = World::new(3);
    let owners: Arc<[Owner]> = [owner(1), owner(2), owner(3)].into();
    let now = world.now;
    for machine in world.machines.values_mut() {
        let node = machine.ownership.as_mut().unwrap();
        for partition in (0..COUNT).map(Partition) {
            let (owners, end) = (owners.clone(), Position::ZERO);
            node.handle_claim(now, Arc::new(Claim { partition, epoch: Epoch(1), owners, end }));
        }
        let batch = node.poll_disk().unwrap();
        assert!(batch.ops.len() >= COUNT as usize, "one batch for all");
        assert!(node.poll_disk().is_none());
        let written = machine.disk.write(batch);
        node.handle_written(now, written);
    }
    world.run(ms(500));
    assert_eq!(world.node(1).led(), COUNT as usize);
    world.crash(1);
    world.run(ms(4_000));
    assert_eq!(world.node(2).led() + world.node(3).led(), COUNT as usize);
}

#[test]
fn a_full_disk_refuses_writes_and_nothing_else() {
    let mut world = World::serving(3);
    world.write(1, 1, "a");
    let now = world.now;
    world.node(1).handle_disk_full(now, true);
    let token = world.send(1, 2, "b");
    world.run(ms(50));
    assert_eq!(world.outcome(1, token), Some(WriteOutcome::NotServed(Admission::DiskFull)));
    assert_eq!(world.read(1), Admission::Serve);
    let now = world.now;
    world.node(1).handle_disk_full(now, false);
    world.write(1, 2, "b");
}

#[test]
fn too_many_open_writes_are_refused() {
    let mut world = World::with_timing(3, Timing { pending_entries_max: 2, ..Timing::default() });
    world.bootstrap(&[1, 2, 3]);
    world.run(ms(100));
    world.cut.insert(owner(1));
    let tokens: Vec<Token> = (1..=3).map(|counter| world.send(1, counter, "x")).collect();
    world.run(ms(10));
    assert_eq!(world.outcome(1, tokens[1]), None);
    assert_eq!(world.outcome(1, tokens[2]), Some(WriteOutcome::NotServed(Admission::Busy)));
}

#[test]
fn two_claims_of_one_epoch_raise_the_alarm_once() {
    let mut world = World::serving(3);
    let other =
        Claim { partition: P, epoch: Epoch(1), owners: [owner(2), owner(3)].into(), end: Position::ZERO };
    let other = Arc::new(other);
    let now = world.now;
    let node = world.node(1);
    node.handle_claim(now, other.clone());
    node.handle_claim(now, other);
    assert_eq!(node.stats().alarms, 1);
    assert_eq!(node.claim(P).unwrap().owners.len(), 3, "the first stays");
}

#[test]
fn a_message_for_another_disk_is_not_answered() {
    let mut world = World::serving(3);
    let stranger = Owner { store: StoreId(99), ..owner(2) };
    let message = Message::LeaseAsk { asked_at: ms(1), generation: 1, grantor_generation: 0, seen: 0 };
    let now = world.now;
    world.node(2).handle_message(now, Envelope { from: owner(1), to: stranger, message });
    assert_eq!(world.node(2).poll_transmit(), None);
}

#[test]
fn an_any_read_says_how_long_ago_its_owner_heard_of_all_that_was_committed() {
    let mut world = World::serving(3);
    world.write(1, 1, "a");
    world.run(ms(200));
    world.cut.insert(owner(3));
    let cut_at = world.now;
    world.run(ms(1_000));
    let (now, epoch) = (world.now, world.epoch(3));
    let staleness = world.node(3).admit_any_read(now, P, epoch).unwrap();
    assert!(staleness >= now - cut_at, "{staleness:?}");
}

#[test]
fn any_reads_stay_fresh_while_writes_never_pause() {
    let mut world = World::serving(3);
    world.run(ms(200));
    world.machine(3).disk_lag = 3;
    for counter in 1..=200 {
        world.send(1, counter, "x");
        world.run(ms(2));
    }
    let (now, epoch) = (world.now, world.epoch(3));
    let staleness = world.node(3).admit_any_read(now, P, epoch).unwrap();
    assert!(staleness < ms(100), "{staleness:?}");
}

#[test]
fn an_any_read_is_not_fresh_by_a_copy_that_is_not_in_place_yet() {
    let timing = Timing { log_entries_max: 4, ..Timing::default() };
    let mut world = World::with_timing(3, timing);
    world.bootstrap(&[1, 2, 3]);
    world.run(ms(100));
    world.imports_run = false;
    world.cut.insert(owner(3));
    for counter in 1..=20 {
        world.write(1, counter, "x");
    }
    let to_it =
        |envelope: &Envelope| envelope.to == owner(3) && matches!(envelope.message, Message::Append { .. });
    while !world.wire.iter().any(|(_, envelope)| to_it(envelope)) {
        world.run(HOP);
    }
    let late = world.wire.iter().rev().map(|(_, envelope)| envelope.clone()).find(to_it).unwrap();
    world.cut.clear();
    while world.machine(3).imports.is_empty() {
        world.run(HOP);
    }
    world.machine(3).disk_stands_still = true;
    world.import(&owner(3));
    assert_eq!(world.status(3).applied, world.status(1).applied, "the copy is adopted");
    // What was under way before the copy tells of less than the copy has; the reads have not even that.
    let (now, epoch) = (world.now, world.epoch(3));
    world.node(3).handle_message(now, late);
    assert!(world.data(3).is_empty());
    assert!(matches!(world.node(3).admit_any_read(now, P, epoch), Err(Admission::Wait(_))));
    world.machine(3).disk_stands_still = false;
    world.run(ms(200));
    let now = world.now;
    assert_eq!(world.data(3).len(), 20);
    assert!(world.node(3).admit_any_read(now, P, epoch).is_ok());
}

#[test]
fn an_owner_whose_clock_began_anew_answers_any_reads_again() {
    let mut world = World::serving(3);
    world.write(1, 1, "a");
    world.run(ms(200));
    // Its machine starts again: its clock is far behind what the primary heard of it before.
    let earlier = Message::AppendReply {
        partition: P,
        epoch: Epoch(1),
        copy: None,
        result: AppendResult::Stored { through: Position { epoch: Epoch(1), seq: 1 } },
        at: world.now + ms(1_000_000),
    };
    let (now, from, to) = (world.now, owner(3), owner(1));
    world.node(1).handle_message(now, Envelope { from, to, message: earlier });
    world.crash(3);
    world.start(3);
    world.run(ms(2_000));
    let (now, epoch) = (world.now, world.epoch(3));
    assert_eq!(epoch, Epoch(1));
    assert!(world.node(3).admit_any_read(now, P, epoch).is_ok());
}

#[test]
fn a_copy_is_begun_once_however_often_it_is_ordered() {
    let mut world = World::serving(4);
    world.imports_run = false;
    world.wish(&[1, 2, 4]);
    world.run(ms(50));
    let tag = world.machine(4).imports[0].tag.clone();
    let claim = world.status(1).claim.unwrap();
    let now = world.now;
    let mut tell = |message: Message| {
        let envelope = Envelope { from: owner(1), to: owner(4), message };
        world.node(4).handle_message(now, envelope);
        std::iter::from_fn(|| world.node(4).poll_event()).count()
    };
    let order = Message::Copy { claim: claim.clone(), tag: tag.clone() };
    assert_eq!(tell(order.clone()), 0, "it runs");
    assert_eq!(tell(Message::Drop { claim, imports: tag.import }), 1, "it is cancelled");
    assert_eq!(tell(order.clone()), 0, "its last news may still be on its way");
    let last = std::iter::from_fn(|| world.node(4).poll_transmit()).last().unwrap();
    let state = CopyProgress::Failed { why: "it was given up before".to_owned() };
    assert_eq!(last.message, Message::CopyState { partition: P, tag, state });
}

#[test]
fn an_owner_that_is_gone_takes_no_place_for_copies() {
    let mut world = World::with_timing(3, Timing { log_entries_max: 4, ..Timing::default() });
    world.bootstrap(&[1, 2, 3]);
    world.run(ms(100));
    world.crash(3);
    for counter in 1..=20 {
        world.write(1, counter, "x");
    }
    world.run(ms(30_000));
    assert_eq!(world.node(1).stats().copies_begun, 0, "nobody asked for one");
    world.start(3);
    world.run(ms(6_000));
    assert_eq!(world.data(3).len(), 20);
}
