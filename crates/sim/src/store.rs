//! A model of the store: what one disk holds, and the state machine that its logs drive.
//!
//! It keeps the contract of [`DiskOp`] to the letter and says so when the protocol breaks it. Conditions and
//! repeated request ids are evaluated when an entry is applied, as the real store does.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringway_control::ownership::{
    Acceptor, Applied, Copy, CopyTag, DiskOp, Entry, Op, Position, Recovered, RecoveredPartition, RequestId,
};
use ringway_topology::Partition;

/// A key of the workload.
pub type Key = u8;
/// A value of the workload; every write has its own.
pub type Value = u64;

/// What a write asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action {
    /// Where.
    pub key: Key,
    /// What to put there.
    pub value: Value,
    /// The version that must be there, 0 for none; `None` puts whatever is there.
    pub expected: Option<u64>,
}

/// What a write came to, and what is remembered under its request id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The value is there, at this version.
    Put {
        /// The entry's seq.
        version: u64,
    },
    /// The condition did not hold: this was there.
    Unmet {
        /// The value and its version.
        found: Option<Cell>,
    },
    /// The request id is older than what is remembered: it took no effect now, and may have had one before.
    Forgotten,
}

/// A value and where it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// What.
    pub value: Value,
    /// The seq of the entry that put it there.
    pub version: u64,
}

/// The state that a log drives: what a copy carries.
#[derive(Debug, Clone, Default)]
pub struct State {
    cells: BTreeMap<Key, Cell>,
    routers: BTreeMap<u128, Remembered>,
}

/// The results of one router's writes from the lowest open one on.
#[derive(Debug, Clone, Default)]
struct Remembered {
    floor: u64,
    verdicts: BTreeMap<u64, Verdict>,
}

/// One partition on one disk.
#[derive(Debug, Clone)]
pub struct Replica {
    /// The acceptor's record.
    pub acceptor: Acceptor,
    /// What the first log entry follows.
    pub trimmed: Position,
    /// The last applied entry.
    pub applied: Position,
    /// The log behind `trimmed`.
    pub log: Vec<Arc<Entry>>,
    /// What the applied entries came to.
    pub state: State,
}

impl Default for Replica {
    fn default() -> Self {
        Self {
            acceptor: Acceptor::default(),
            trimmed: Position::ZERO,
            applied: Position::ZERO,
            log: Vec::new(),
            state: State::default(),
        }
    }
}

/// A copy built aside: the state of another store up to `base`.
#[derive(Debug, Clone)]
pub struct Aside {
    /// The position it was taken at.
    pub base: Position,
    /// The state there.
    pub state: State,
}

/// Copies built aside, not yet adopted.
pub type Asides = BTreeMap<(Partition, CopyTag), Aside>;

/// What one disk holds.
#[derive(Debug, Clone, Default)]
pub struct Store {
    /// The highest ballot round ever used.
    pub round: u64,
    /// Every partition with anything.
    pub partitions: BTreeMap<Partition, Replica>,
}

/// An entry that was applied, and what it came to: for the checkers.
#[derive(Debug, Clone)]
pub struct Application {
    /// Whose.
    pub partition: Partition,
    /// The entry.
    pub entry: Arc<Entry>,
    /// `None` for an empty entry.
    pub verdict: Option<Verdict>,
    /// Whether it was evaluated, and not answered from what is remembered.
    pub evaluated: bool,
}

impl Application {
    /// As the protocol is told.
    #[must_use]
    pub fn reported(&self) -> Applied {
        let result = self.verdict.map_or_else(Vec::new, |verdict| verdict.encode());
        Applied { partition: self.partition, seq: self.entry.position.seq, result: result.into() }
    }
}

/// The protocol broke the contract of a [`DiskOp`], in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach(pub String);

fn breach<T>(what: impl Into<String>) -> Result<T, Breach> {
    Err(Breach(what.into()))
}

impl Store {
    /// Makes one change.
    ///
    /// # Errors
    /// [`Breach`]: the change was not allowed, and the store is not to be used any more.
    pub fn change(&mut self, op: &DiskOp, asides: &Asides) -> Result<Vec<Application>, Breach> {
        match op {
            DiskOp::Acceptor { partition, state } => self.replica(*partition).acceptor = state.clone(),
            DiskOp::Round(round) if *round < self.round => {
                return breach(format!("round {round} is written over {}", self.round));
            }
            DiskOp::Round(round) => self.round = *round,
            DiskOp::Log { partition, keep_through, entries } => {
                self.replica(*partition).append(*keep_through, entries)?;
            }
            DiskOp::Apply { partition, entries } => {
                return self.replica(*partition).apply(*partition, entries);
            }
            DiskOp::Trim { partition, through } => self.replica(*partition).trim(*through)?,
            DiskOp::Adopt { partition, tag, base } => {
                let Some(aside) = asides.get(&(*partition, tag.clone())) else {
                    return breach(format!("{tag:?} is adopted and was never built"));
                };
                if aside.base != *base {
                    return breach(format!(
                        "{tag:?} is adopted at {base:?} and was taken at {:?}",
                        aside.base
                    ));
                }
                self.replica(*partition).adopt(aside);
            }
            DiskOp::Drop { partition } => {
                let replica = self.replica(*partition);
                *replica = Replica { acceptor: std::mem::take(&mut replica.acceptor), ..Replica::default() };
            }
        }
        Ok(Vec::new())
    }

    fn replica(&mut self, partition: Partition) -> &mut Replica {
        self.partitions.entry(partition).or_default()
    }

    /// What a process finds that starts on it.
    #[must_use]
    pub fn recovered(&self) -> Recovered {
        let partitions = self.partitions.iter().map(|(partition, replica)| RecoveredPartition {
            partition: *partition,
            acceptor: replica.acceptor.clone(),
            trimmed: replica.trimmed,
            applied: replica.applied,
            log: replica.log.clone(),
        });
        Recovered { round: self.round, partitions: partitions.collect() }
    }

    /// What is under a key, and the position of the last applied entry.
    #[must_use]
    pub fn read(&self, partition: Partition, key: Key) -> (Option<Cell>, Position) {
        self.partitions.get(&partition).map_or((None, Position::ZERO), |replica| {
            (replica.state.cells.get(&key).copied(), replica.applied)
        })
    }

    /// A copy of what was applied, if this store has an owner's data.
    #[must_use]
    pub fn export(&self, partition: Partition) -> Option<Aside> {
        let replica = self.partitions.get(&partition)?;
        let owned = replica.acceptor.copy == Copy::Owned;
        owned.then(|| Aside { base: replica.applied, state: replica.state.clone() })
    }

    /// Whether there is any data of a partition.
    #[must_use]
    pub fn has_data(&self, partition: Partition) -> bool {
        self.partitions
            .get(&partition)
            .is_some_and(|replica| !replica.log.is_empty() || replica.applied != Position::ZERO)
    }
}

impl Replica {
    /// The position of the last entry.
    #[must_use]
    pub fn last(&self) -> Position {
        self.log.last().map_or(self.trimmed, |entry| entry.position)
    }

    fn append(&mut self, keep_through: u64, entries: &[Arc<Entry>]) -> Result<(), Breach> {
        if keep_through < self.applied.seq {
            return breach(format!(
                "a log is cut behind {keep_through} and applied up to {:?}",
                self.applied
            ));
        }
        if keep_through > self.last().seq {
            return breach(format!("a log that ends at {:?} is kept up to {keep_through}", self.last()));
        }
        self.log.truncate((keep_through - self.trimmed.seq) as usize);
        for entry in entries {
            let last = self.last();
            if entry.position.seq != last.seq + 1 || entry.position.epoch < last.epoch {
                return breach(format!("{:?} is appended behind {last:?}", entry.position));
            }
            self.log.push(entry.clone());
        }
        Ok(())
    }

    fn apply(&mut self, partition: Partition, entries: &[Arc<Entry>]) -> Result<Vec<Application>, Breach> {
        let mut applications = Vec::with_capacity(entries.len());
        for entry in entries {
            let seq = entry.position.seq;
            if seq != self.applied.seq + 1 {
                return breach(format!("{:?} is applied behind {:?}", entry.position, self.applied));
            }
            if self.log.get((seq - self.trimmed.seq - 1) as usize) != Some(entry) {
                return breach(format!("{:?} is applied and is not in the log", entry.position));
            }
            let (verdict, evaluated) = match &entry.op {
                Op::Empty => (None, false),
                Op::Write { request, payload } => {
                    let Some(action) = Action::decode(payload) else {
                        return breach(format!(
                            "{:?} holds another payload than was written",
                            entry.position
                        ));
                    };
                    let (verdict, evaluated) = self.state.write(seq, *request, action);
                    (Some(verdict), evaluated)
                }
            };
            self.applied = entry.position;
            applications.push(Application { partition, entry: entry.clone(), verdict, evaluated });
        }
        Ok(applications)
    }

    fn trim(&mut self, through: Position) -> Result<(), Breach> {
        if through > self.applied {
            return breach(format!("a log applied up to {:?} is trimmed through {through:?}", self.applied));
        }
        let forgotten = self.log.iter().take_while(|entry| entry.position.seq <= through.seq).count();
        if through.seq < self.trimmed.seq
            || forgotten > 0 && self.log.get(forgotten - 1).map(|entry| entry.position) != Some(through)
        {
            return breach(format!("a log behind {:?} is trimmed through {through:?}", self.trimmed));
        }
        self.log.drain(..forgotten);
        self.trimmed = through;
        Ok(())
    }

    fn adopt(&mut self, aside: &Aside) {
        self.trimmed = aside.base;
        self.applied = aside.base;
        self.log = Vec::new();
        self.state = aside.state.clone();
    }
}

impl State {
    /// The verdict on a write, and whether it was evaluated now.
    fn write(&mut self, seq: u64, request: Option<RequestId>, action: Action) -> (Verdict, bool) {
        let Some(id) = request else { return (self.evaluate(seq, action), true) };
        let remembered = self.routers.entry(id.router).or_default();
        let known = remembered.verdicts.get(&id.counter).copied();
        let verdict = if id.counter < remembered.floor { Some(Verdict::Forgotten) } else { known };
        let (verdict, evaluated) = match verdict {
            Some(verdict) => (verdict, false),
            None => (self.evaluate(seq, action), true),
        };
        let remembered = self.routers.entry(id.router).or_default();
        if evaluated {
            remembered.verdicts.insert(id.counter, verdict);
        }
        if id.open > remembered.floor {
            remembered.floor = id.open;
            remembered.verdicts = remembered.verdicts.split_off(&id.open);
        }
        (verdict, evaluated)
    }

    fn evaluate(&mut self, seq: u64, action: Action) -> Verdict {
        let found = self.cells.get(&action.key).copied();
        let version = found.map_or(0, |cell| cell.version);
        if action.expected.is_some_and(|expected| expected != version) {
            return Verdict::Unmet { found };
        }
        self.cells.insert(action.key, Cell { value: action.value, version: seq });
        Verdict::Put { version: seq }
    }

    /// Bytes of keys and values, about.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.cells.len() as u64 * 9
    }
}

impl Action {
    /// As a payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.key, u8::from(self.expected.is_some())];
        bytes.extend(self.value.to_le_bytes());
        bytes.extend(self.expected.unwrap_or(0).to_le_bytes());
        bytes
    }

    /// From a payload; `None` when it is none of ours.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, numbers) = bytes.split_first_chunk::<2>()?;
        let (value, expected) = two_numbers(numbers)?;
        Some(Self { key: head[0], value, expected: (head[1] == 1).then_some(expected) })
    }
}

impl Verdict {
    /// As a result.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, a, b) = match self {
            Self::Put { version } => (0, *version, 0),
            Self::Unmet { found: Some(cell) } => (1, cell.value, cell.version),
            Self::Unmet { found: None } => (2, 0, 0),
            Self::Forgotten => (3, 0, 0),
        };
        let mut bytes = vec![kind];
        bytes.extend(a.to_le_bytes());
        bytes.extend(b.to_le_bytes());
        bytes
    }

    /// From a result; `None` when it is none of ours.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, numbers) = bytes.split_first()?;
        let (a, b) = two_numbers(numbers)?;
        match kind {
            0 => Some(Self::Put { version: a }),
            1 => Some(Self::Unmet { found: Some(Cell { value: a, version: b }) }),
            2 => Some(Self::Unmet { found: None }),
            3 => Some(Self::Forgotten),
            _ => None,
        }
    }
}

fn two_numbers(bytes: &[u8]) -> Option<(u64, u64)> {
    let (a, rest) = bytes.split_first_chunk::<8>()?;
    let b: &[u8; 8] = rest.try_into().ok()?;
    Some((u64::from_le_bytes(*a), u64::from_le_bytes(*b)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringway_topology::Epoch;

    const P: Partition = Partition(0);

    fn entry(seq: u64, request: Option<RequestId>, action: Action) -> Arc<Entry> {
        let payload = action.encode().into();
        Arc::new(Entry { position: Position { epoch: Epoch(1), seq }, op: Op::Write { request, payload } })
    }

    fn log(store: &mut Store, keep_through: u64, entries: &[Arc<Entry>]) -> Result<(), Breach> {
        let op = DiskOp::Log { partition: P, keep_through, entries: entries.to_vec() };
        store.change(&op, &Asides::new()).map(|_| ())
    }

    fn apply(store: &mut Store, entries: &[Arc<Entry>]) -> Result<Vec<Application>, Breach> {
        store.change(&DiskOp::Apply { partition: P, entries: entries.to_vec() }, &Asides::new())
    }

    fn id(counter: u64, open: u64) -> Option<RequestId> {
        Some(RequestId { router: 1, counter, open })
    }

    fn put(value: Value) -> Action {
        Action { key: 1, value, expected: None }
    }

    #[test]
    fn payloads_and_results_come_back() {
        for action in [put(7), Action { expected: Some(3), ..put(8) }] {
            assert_eq!(Action::decode(&action.encode()), Some(action));
        }
        let cell = Cell { value: 4, version: 2 };
        for verdict in [
            Verdict::Put { version: 9 },
            Verdict::Unmet { found: Some(cell) },
            Verdict::Unmet { found: None },
            Verdict::Forgotten,
        ] {
            assert_eq!(Verdict::decode(&verdict.encode()), Some(verdict));
        }
        assert_eq!(Action::decode(b"short"), None);
        assert_eq!(Verdict::decode(b""), None);
    }

    #[test]
    fn a_repeat_has_the_first_result_and_no_effect() {
        let mut store = Store::default();
        let entries = [entry(1, id(5, 5), put(10)), entry(2, None, put(20)), entry(3, id(5, 5), put(10))];
        log(&mut store, 0, &entries).unwrap();
        let applied = apply(&mut store, &entries).unwrap();
        assert_eq!(applied[2].verdict, Some(Verdict::Put { version: 1 }));
        assert_eq!(applied.iter().map(|it| it.evaluated).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(store.read(P, 1).0, Some(Cell { value: 20, version: 2 }));
    }

    #[test]
    fn what_is_no_longer_open_is_forgotten_and_refused() {
        let mut store = Store::default();
        let entries = [entry(1, id(5, 5), put(10)), entry(2, id(7, 6), put(20)), entry(3, id(5, 5), put(10))];
        log(&mut store, 0, &entries).unwrap();
        let applied = apply(&mut store, &entries).unwrap();
        assert_eq!(applied[2].verdict, Some(Verdict::Forgotten));
        assert_eq!(store.read(P, 1).0, Some(Cell { value: 20, version: 2 }));
    }

    #[test]
    fn a_condition_is_evaluated_at_its_place() {
        let mut store = Store::default();
        let entries = [
            entry(1, None, Action { expected: Some(0), ..put(10) }),
            entry(2, None, Action { expected: Some(0), ..put(20) }),
            entry(3, None, Action { expected: Some(1), ..put(30) }),
        ];
        log(&mut store, 0, &entries).unwrap();
        let applied = apply(&mut store, &entries).unwrap();
        assert_eq!(applied[1].verdict, Some(Verdict::Unmet { found: Some(Cell { value: 10, version: 1 }) }));
        assert_eq!(applied[2].verdict, Some(Verdict::Put { version: 3 }));
    }

    #[test]
    fn breaches_of_the_contract_are_named() {
        let mut store = Store::default();
        let entries = [entry(1, None, put(1)), entry(2, None, put(2)), entry(3, None, put(3))];
        assert!(log(&mut store, 1, &[]).is_err());
        assert!(log(&mut store, 0, &entries[1..]).is_err());
        let mut store = Store::default();
        log(&mut store, 0, &entries).unwrap();
        assert!(apply(&mut store.clone(), &entries[1..]).is_err());
        assert!(apply(&mut store.clone(), &[entry(1, None, put(9))]).is_err());
        apply(&mut store, &entries[..2]).unwrap();
        assert!(log(&mut store.clone(), 1, &[]).is_err());
        let trim = |seq| DiskOp::Trim { partition: P, through: Position { epoch: Epoch(1), seq } };
        assert!(store.clone().change(&trim(3), &Asides::new()).is_err());
        store.change(&trim(2), &Asides::new()).unwrap();
        log(&mut store, 2, &[]).unwrap();
        assert_eq!(store.partitions[&P].last(), Position { epoch: Epoch(1), seq: 2 });
    }
}
