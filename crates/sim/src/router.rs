//! A router and its clients: operations that are sent to whom the router takes for the primary, and repeated with the
//! same request id until there is an answer or nobody wants it any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ringway_control::ownership::{Admission, Claim, RequestId};
use ringway_control::{Command, plane::ClaimHint};
use ringway_route::verdict::{Outcome, Standing, Verdict as RouteVerdict, follow_pause, verdict};
use ringway_topology::{Epoch, Health, NodeId, Partition};

use crate::checkers::{Checkers, Rule};
use crate::history::Fate;
use crate::network::Place;
use crate::plane::Member;
use crate::rng::Rng;
use crate::store::{Action, Cell, Key, Value, Verdict};

/// Most operations that the clients of one router have open.
const OPEN_MAX: usize = 6;

/// What a router sends to a node.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The router.
    pub router: Place,
    /// Which of its operations.
    pub operation: u64,
    /// Which attempt at it: an answer to an earlier one comes too late.
    pub attempt: u32,
    /// Where the key lives.
    pub partition: Partition,
    /// The epoch the router follows.
    pub epoch: Epoch,
    /// When the client began.
    pub began: Duration,
    /// What is wanted.
    pub wanted: Wanted,
    /// The name of a write.
    pub request: Option<RequestId>,
}

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// What is there, by the primary.
    Read(Key),
    /// What was there a moment ago, by any owner.
    ReadAny(Key),
    /// To put something there.
    Write(Action),
}

/// What a node says.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The write was applied, and came to this.
    Written(Verdict),
    /// The write was acknowledged without saying what it came to. No rule allows that.
    Acknowledged,
    /// This is there.
    Found(Option<Cell>),
    /// Not processed.
    Refused(Admission),
    /// It may take effect or not.
    Unknown,
}

/// How patient a router and its clients are.
#[derive(Debug, Clone)]
pub struct Patience {
    /// An attempt without an answer is given up after this.
    pub attempt: Duration,
    /// Longest pause before what was refused is tried again.
    pub pause_max: Duration,
    /// The client is gone after this.
    pub client: Duration,
}

#[derive(Debug)]
struct Operation {
    partition: Partition,
    wanted: Wanted,
    began: Duration,
    attempt: u32,
    counter: Option<u64>,
    /// An attempt at a write may have been appended.
    doubtful: bool,
    /// A claim that a refusal carried, for this operation alone.
    follows: Option<Arc<Claim>>,
    /// Newer claims met in a row.
    misdirected: u32,
}

/// A router and its clients.
#[derive(Debug)]
pub struct Router {
    /// Where it is.
    pub place: Place,
    /// Its control plane, in a whole cluster: then it follows the plane's maps.
    pub member: Option<Member>,
    /// Its process does not run, and its clients cannot reach it.
    pub down: bool,
    /// How often its process was started.
    pub lives: u64,
    /// When the plane wants its timer.
    pub timer: Option<Duration>,
    /// What it follows without one.
    pub claims: BTreeMap<Partition, Arc<Claim>>,
    life: u128,
    counter: u64,
    operations: BTreeMap<u64, Operation>,
    begun: u64,
    /// What its clients last saw, for conditions.
    seen: BTreeMap<(Partition, Key), Cell>,
    /// How many writes begun since the last [`Self::count_anew`] were acknowledged.
    pub acknowledged: u64,
    counted_from: Duration,
}

/// What becomes of an operation after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It ended, or the answer was late.
    Nothing,
    /// It is tried again after a pause.
    Again(Duration),
}

impl Router {
    /// A router in its first life.
    #[must_use]
    pub fn new(place: Place) -> Self {
        Self {
            place,
            member: None,
            down: false,
            lives: 1,
            timer: None,
            claims: BTreeMap::new(),
            life: 0xa0 + place as u128,
            counter: 0,
            operations: BTreeMap::new(),
            begun: 0,
            seen: BTreeMap::new(),
            acknowledged: 0,
            counted_from: Duration::ZERO,
        }
    }

    /// Follows a claim unless it knows a newer one.
    pub fn learn(&mut self, claim: &Arc<Claim>) {
        let known = self.claims.entry(claim.partition).or_insert_with(|| claim.clone());
        if known.epoch < claim.epoch {
            *known = claim.clone();
        }
    }

    /// Counts acknowledged writes from zero, and only those that begin from now on.
    pub fn count_anew(&mut self, now: Duration) {
        self.acknowledged = 0;
        self.counted_from = now;
    }

    /// Its process ends. Its clients never learn what became of what was open, and what it knew is gone; the writes of
    /// its next life have names that this one had not.
    pub fn crash(&mut self, checkers: &mut Checkers) {
        let open: Vec<u64> = self.operations.keys().copied().collect();
        for number in open {
            if let Some(operation) = self.operations.get_mut(&number) {
                operation.doubtful |= operation.attempt > 0;
            }
            self.give_up(checkers, number);
        }
        self.down = true;
        self.member = None;
        self.timer = None;
        self.claims.clear();
        self.lives += 1;
        self.life = (u128::from(self.lives) << 64) | (0xa0 + self.place as u128);
        self.counter = 0;
    }

    /// Whether no operation is open.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.operations.is_empty()
    }

    /// A client comes with a random operation; its number, unless there are too many.
    pub fn begin(
        &mut self,
        now: Duration,
        rng: &mut Rng,
        checkers: &mut Checkers,
        partition: Partition,
        keys: Key,
        value: Value,
    ) -> Option<u64> {
        let key = rng.below(keys.into()) as Key;
        let wanted = match rng.below(100) {
            0..50 => {
                let condition = rng.chance(200_000);
                let version = self.seen.get(&(partition, key)).map_or(0, |cell| cell.version);
                Wanted::Write(Action { key, value, expected: condition.then_some(version) })
            }
            50..95 => Wanted::Read(key),
            _ => Wanted::ReadAny(key),
        };
        let named = rng.chance(900_000);
        self.begin_with(now, checkers, partition, wanted, named)
    }

    /// A client comes with this operation. `named`: a write has a request id, and so may be repeated.
    pub fn begin_with(
        &mut self,
        now: Duration,
        checkers: &mut Checkers,
        partition: Partition,
        wanted: Wanted,
        named: bool,
    ) -> Option<u64> {
        if self.operations.len() >= OPEN_MAX {
            return None;
        }
        self.begun += 1;
        let mut counter = None;
        if let Wanted::Write(action) = wanted {
            checkers.history(partition, action.key).write_began(action.value, now);
            if named {
                self.counter += 1;
                counter = Some(self.counter);
            }
        }
        let operation = Operation {
            partition,
            wanted,
            began: now,
            attempt: 0,
            counter,
            doubtful: false,
            follows: None,
            misdirected: 0,
        };
        self.operations.insert(self.begun, operation);
        Some(self.begun)
    }

    /// The next attempt at an operation, and at which node; `None` when the operation ended, or nobody is known.
    pub fn attempt(&mut self, now: Duration, rng: &mut Rng, number: u64) -> Option<(NodeId, Ask)> {
        let open = self.operations.values().filter_map(|it| it.counter).min();
        let operation = self.operations.get_mut(&number)?;
        operation.attempt += 1;
        let (to, epoch) = match &self.member {
            None => {
                let claim = self.claims.get(&operation.partition)?;
                let any = matches!(operation.wanted, Wanted::ReadAny(_));
                let rank = if any { rng.below(claim.owners.len()) } else { 0 };
                (claim.owners.get(rank)?.node.clone(), claim.epoch)
            }
            Some(member) => {
                let follows = operation.follows.take();
                let known = member.map.epoch(operation.partition);
                match follows.filter(|claim| claim.epoch > known) {
                    Some(claim) => (claim.primary()?.node.clone(), claim.epoch),
                    None => (member.pick(now, rng, operation.partition, operation.wanted)?, known),
                }
            }
        };
        let request = operation.counter.map(|counter| RequestId {
            router: self.life,
            counter,
            open: open.unwrap_or(counter),
        });
        let ask = Ask {
            router: self.place,
            operation: number,
            attempt: operation.attempt,
            partition: operation.partition,
            epoch,
            began: operation.began,
            wanted: operation.wanted,
            request,
        };
        Some((to, ask))
    }

    /// There is nobody to ask, yet.
    pub fn unserved(
        &mut self,
        now: Duration,
        patience: &Patience,
        checkers: &mut Checkers,
        number: u64,
    ) -> Next {
        let Some(operation) = self.operations.get(&number) else { return Next::Nothing };
        if now < operation.began + patience.client {
            return Next::Again(patience.pause_max);
        }
        self.give_up(checkers, number);
        Next::Nothing
    }

    /// An attempt took too long.
    pub fn timed_out(
        &mut self,
        now: Duration,
        patience: &Patience,
        checkers: &mut Checkers,
        number: u64,
        attempt: u32,
    ) -> Next {
        let Some(operation) = self.operations.get_mut(&number).filter(|it| it.attempt == attempt) else {
            return Next::Nothing;
        };
        operation.doubtful = true;
        // Without a request id a repeat would be another write.
        let repeatable = operation.counter.is_some() || !matches!(operation.wanted, Wanted::Write(_));
        if repeatable && now < operation.began + patience.client {
            return Next::Again(Duration::ZERO);
        }
        self.give_up(checkers, number);
        Next::Nothing
    }

    /// A node answered.
    pub fn answered(
        &mut self,
        now: Duration,
        rng: &mut Rng,
        patience: &Patience,
        checkers: &mut Checkers,
        (number, attempt): (u64, u32),
        answer: &Answer,
    ) -> Next {
        if let Answer::Refused(Admission::Misdirected(claim)) = answer {
            self.learn(claim);
            self.hint(now, claim);
        }
        if self.member.is_some() && matches!(answer, Answer::Refused(_) | Answer::Unknown) {
            return self.judged(now, rng, patience, checkers, (number, attempt), answer);
        }
        let Some(operation) = self.operations.get_mut(&number).filter(|it| it.attempt == attempt) else {
            return Next::Nothing;
        };
        match answer {
            Answer::Written(verdict) => self.written(now, checkers, number, *verdict),
            Answer::Acknowledged => self.acknowledged(now, checkers, number),
            Answer::Found(cell) => self.found(now, checkers, number, *cell),
            Answer::Unknown => {
                operation.doubtful = true;
                if operation.counter.is_some() && now < operation.began + patience.client {
                    return Next::Again(rng.time(Duration::ZERO, patience.pause_max));
                }
                self.give_up(checkers, number);
            }
            Answer::Refused(_) if now >= operation.began + patience.client => self.give_up(checkers, number),
            Answer::Refused(Admission::Misdirected(_)) => return Next::Again(Duration::ZERO),
            Answer::Refused(Admission::DiskFull) => self.give_up(checkers, number),
            Answer::Refused(_) => return Next::Again(rng.time(Duration::ZERO, patience.pause_max)),
        }
        Next::Nothing
    }

    /// A refused answer, by the rules that the shipped router has.
    fn judged(
        &mut self,
        now: Duration,
        rng: &mut Rng,
        patience: &Patience,
        checkers: &mut Checkers,
        (number, attempt): (u64, u32),
        answer: &Answer,
    ) -> Next {
        let known = self.member.as_ref().map(|member| Arc::clone(&member.map));
        let Some(operation) = self.operations.get_mut(&number).filter(|it| it.attempt == attempt) else {
            return Next::Nothing;
        };
        let known = known.map_or(Epoch(0), |map| map.epoch(operation.partition));
        let outcome = match answer {
            Answer::Refused(Admission::Misdirected(claim)) => {
                let newer = claim.epoch > known;
                operation.follows = newer.then(|| claim.clone());
                operation.misdirected = if newer { operation.misdirected + 1 } else { 0 };
                Outcome::Misdirected { newer }
            }
            Answer::Refused(Admission::Wait(_)) => Outcome::Misdirected { newer: false },
            Answer::Refused(Admission::Behind) => Outcome::Behind,
            Answer::Unknown => Outcome::Unknown,
            _ => Outcome::Answered,
        };
        operation.doubtful |= outcome == Outcome::Unknown;
        let standing = Standing {
            safe: !matches!(operation.wanted, Wanted::Write(_)),
            replayable: true,
            request_id: operation.counter.is_some(),
            claimed: true,
            owner: Health::Alive,
            others_left: false,
            map_changed: false,
            retries: 0,
            retries_max: 1,
            misdirected: operation.misdirected,
        };
        let open = now < operation.began + patience.client;
        match verdict(outcome, &standing) {
            RouteVerdict::Follow { .. } if open => {
                Next::Again(follow_pause(operation.misdirected, rng.next_u64()))
            }
            RouteVerdict::TryNext { .. } if open => Next::Again(Duration::ZERO),
            RouteVerdict::Hold { .. } if open => {
                operation.misdirected = 0;
                Next::Again(rng.time(Duration::ZERO, patience.pause_max))
            }
            _ => {
                self.give_up(checkers, number);
                Next::Nothing
            }
        }
    }

    /// Tells the plane of a claim that a refusal carried.
    fn hint(&mut self, now: Duration, claim: &Claim) {
        if let Some(member) = &mut self.member {
            let hint =
                ClaimHint { partition: claim.partition, epoch: claim.epoch, owners: claim.owners.clone() };
            member.plane.handle_command(now, Command::Hint(hint));
        }
    }

    fn written(&mut self, now: Duration, checkers: &mut Checkers, number: u64, verdict: Verdict) {
        let Some(operation) = self.operations.remove(&number) else { return };
        let Wanted::Write(action) = operation.wanted else { return };
        let Operation { partition, began, .. } = operation;
        let Action { key, value, expected } = action;
        match verdict {
            Verdict::Put { version } => {
                checkers.write_ended(partition, key, value, Fate::Acknowledged(now));
                checkers.acknowledged(now, partition, version);
                if began >= self.counted_from {
                    self.acknowledged += 1;
                }
                // What met the condition was there at some moment of the write.
                let before = self.seen.insert((partition, key), Cell { value, version });
                match (expected, before) {
                    (Some(0), _) => checkers.history(partition, key).read(began, now, None),
                    (Some(expected), Some(cell)) if cell.version == expected => {
                        checkers.history(partition, key).read(began, now, Some(cell.value));
                    }
                    _ => {}
                }
            }
            Verdict::Unmet { found } => {
                checkers.write_ended(partition, key, value, Fate::Refused);
                checkers.history(partition, key).read(began, now, found.map(|cell| cell.value));
                self.remember(partition, key, found);
            }
            Verdict::Forgotten => {
                checkers.violated(
                    now,
                    Rule::OnceOnly,
                    format!("the open request {:?} is forgotten", operation.counter),
                );
            }
        }
    }

    fn acknowledged(&mut self, now: Duration, checkers: &mut Checkers, number: u64) {
        let Some(operation) = self.operations.remove(&number) else { return };
        if let Wanted::Write(action) = operation.wanted {
            checkers.write_ended(operation.partition, action.key, action.value, Fate::Acknowledged(now));
        }
    }

    fn found(&mut self, now: Duration, checkers: &mut Checkers, number: u64, cell: Option<Cell>) {
        let Some(operation) = self.operations.remove(&number) else { return };
        if let Wanted::Read(key) = operation.wanted {
            checkers.history(operation.partition, key).read(
                operation.began,
                now,
                cell.map(|cell| cell.value),
            );
            self.remember(operation.partition, key, cell);
        }
    }

    fn remember(&mut self, partition: Partition, key: Key, cell: Option<Cell>) {
        if let Some(cell) = cell {
            self.seen.insert((partition, key), cell);
        }
    }

    fn give_up(&mut self, checkers: &mut Checkers, number: u64) {
        let Some(operation) = self.operations.remove(&number) else { return };
        if let Wanted::Write(action) = operation.wanted {
            let fate = if operation.doubtful { Fate::Unknown } else { Fate::Refused };
            checkers.write_ended(operation.partition, action.key, action.value, fate);
        }
    }
}
