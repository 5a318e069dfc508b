//! The best few nodes of every partition, kept from one membership to the next.
//!
//! Ranking every node anew for every partition is what a build costs; the fill looks at the first few of each
//! ranking only. So those are kept, a change of one node touches only the entries of that node, and a list
//! that runs dry is ranked anew.

use std::ops::Range;

use super::PlacementParams;
use super::score::{inverse, node_hash, ring_point, salt, score, weighted_cost};
use super::shares::Shares;
use super::tokens::{self, TokenRing};
use crate::REPLICAS_MAX;
use crate::ids::{Partition, ZoneName};
use crate::membership::{Membership, PlacementNode};
use crate::settings::Algorithm;

/// Zones up to which every zone has a list of its own; with more, one list serves all of them.
pub(super) const LANES_MAX: usize = 8;
/// Entries of a zone's list beyond its quota: nodes at their cap are passed over.
const SPARE: usize = 5;
/// Entries of the one list that serves many zones.
const DEPTH_SHARED: usize = 24;
/// Entries of the longest list.
const DEPTH_MAX: usize = DEPTH_SHARED;
const _: () = assert!(REPLICAS_MAX + SPARE <= DEPTH_MAX);

/// A node and what it costs a partition; ordered by cost, ties to the smaller node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    pub(super) cost: u64,
    pub(super) node: u16,
}

/// For every partition and lane, the best nodes in order. A lane is a zone, or all zones when they are many.
#[derive(Debug, Clone)]
pub(super) struct Shortlists {
    ranker: Ranker,
    log2_partitions: u32,
    lanes: Vec<Lane>,
    /// Zones are lanes.
    by_zone: bool,
    /// Entries of one partition over all lanes.
    width: usize,
    costs: Vec<u64>,
    nodes: Vec<u16>,
    lens: Vec<u8>,
    /// The last full ranking that was asked for: partition, lane, candidates.
    deep: (usize, usize, Vec<Candidate>),
}

#[derive(Debug, Clone)]
struct Lane {
    /// The zone; `None` for the one lane of all zones.
    zone: Option<ZoneName>,
    /// Most entries of a list, and where they begin among the partition's.
    depth: usize,
    offset: usize,
    /// The lane's nodes, ascending.
    members: Vec<u16>,
}

impl Shortlists {
    /// Ranks every node for every partition.
    pub(super) fn new(params: &PlacementParams, membership: &Membership, shares: &Shares) -> Self {
        let mut lanes = lanes(shares);
        let by_zone = lanes.iter().all(|lane| lane.zone.is_some());
        for (node, &zone) in shares.zone_of.iter().enumerate() {
            lanes[if by_zone { usize::from(zone) } else { 0 }].members.push(node as u16);
        }
        let partitions = params.partitions.get() as usize;
        let width = lanes.iter().map(|lane| lane.depth).sum::<usize>();
        let mut lists = Self {
            ranker: Ranker::new(params.algorithm, membership),
            log2_partitions: params.partitions.log2(),
            by_zone,
            width,
            costs: vec![0; partitions * width],
            nodes: vec![0; partitions * width],
            lens: vec![0; partitions * lanes.len()],
            lanes,
            deep: (usize::MAX, 0, Vec::new()),
        };
        for lane in 0..lists.lanes.len() {
            match &lists.ranker {
                Ranker::Scores { .. } => lists.rank_by_score(lane),
                Ranker::Tokens { .. } => lists.rank_by_ring(lane),
            }
        }
        lists
    }

    /// Whether the lists serve these zones and quotas.
    pub(super) fn fits(&self, shares: &Shares) -> bool {
        let wanted = lanes(shares);
        wanted.len() == self.lanes.len()
            && wanted
                .iter()
                .zip(&self.lanes)
                .all(|(wanted, lane)| wanted.depth == lane.depth && wanted.zone == lane.zone)
    }

    /// Whether a lane holds nodes of one zone only.
    pub(super) fn by_zone(&self) -> bool {
        self.by_zone
    }

    pub(super) fn lane_count(&self) -> usize {
        self.lanes.len()
    }

    /// The candidate at `rank` of a partition's lane; `None` past the last node of the lane.
    #[inline]
    pub(super) fn candidate(&mut self, partition: usize, lane: usize, rank: usize) -> Option<Candidate> {
        let entry = partition * self.width + self.lanes[lane].offset + rank;
        if rank < usize::from(self.lens[partition * self.lanes.len() + lane]) {
            return Some(Candidate { cost: self.costs[entry], node: self.nodes[entry] });
        }
        self.candidate_past_list(partition, lane, rank)
    }

    /// What a node costs a partition.
    pub(super) fn cost(&self, partition: usize, node: u16) -> u64 {
        self.ranker.cost(partition, self.log2_partitions, node)
    }

    /// Forgets a node; those above it move down by one.
    pub(super) fn remove(&mut self, node: u16) {
        self.deep.0 = usize::MAX;
        self.ranker.remove(node);
        for lane in 0..self.lanes.len() {
            let members = &mut self.lanes[lane].members;
            let found = members.binary_search(&node);
            if let Ok(at) = found {
                members.remove(at);
            }
            members.iter_mut().for_each(|member| *member -= u16::from(*member > node));
            if found.is_ok() {
                self.remove_from_lane(lane, node);
            }
        }
        self.nodes.iter_mut().for_each(|entry| *entry -= u16::from(*entry > node));
    }

    fn remove_from_lane(&mut self, lane: usize, node: u16) {
        for partition in 0..self.lens.len() / self.lanes.len() {
            let (entries, len) = self.entries(partition, lane);
            let Some(at) = self.nodes[entries.clone()][..len].iter().position(|&entry| entry == node) else {
                continue;
            };
            let from = entries.start + at;
            let end = entries.start + len;
            self.nodes.copy_within(from + 1..end, from);
            self.costs.copy_within(from + 1..end, from);
            // An entry past the end must not look like a node when numbers move.
            self.nodes[end - 1] = 0;
            self.lens[partition * self.lanes.len() + lane] -= 1;
        }
    }

    /// Takes a node in at position `node`; those from there on move up by one.
    pub(super) fn insert(&mut self, node: u16, entry: &PlacementNode, zone: u16) {
        self.deep.0 = usize::MAX;
        self.ranker.insert(node, entry);
        self.nodes.iter_mut().for_each(|entry| *entry += u16::from(*entry >= node));
        let home = if self.by_zone { usize::from(zone) } else { 0 };
        for lane in &mut self.lanes {
            lane.members.iter_mut().for_each(|member| *member += u16::from(*member >= node));
        }
        let members = &mut self.lanes[home].members;
        let size_before = members.len();
        let at = members.partition_point(|&member| member < node);
        members.insert(at, node);

        for partition in 0..self.lens.len() / self.lanes.len() {
            let candidate = Candidate { cost: self.ranker.cost(partition, self.log2_partitions, node), node };
            let (entries, len) = self.entries(partition, home);
            let last = len.checked_sub(1).map(|last| self.entry(entries.start + last));
            // A list that lacks nodes of its lane says nothing of what comes after its last entry.
            if len == size_before || last.is_some_and(|last| candidate < last) {
                self.keep(partition, home, candidate);
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.costs) + size_of_val(&*self.nodes) + size_of_val(&*self.lens)
    }

    #[inline]
    fn entries(&self, partition: usize, lane: usize) -> (Range<usize>, usize) {
        let Lane { depth, offset, .. } = self.lanes[lane];
        let start = partition * self.width + offset;
        (start..start + depth, usize::from(self.lens[partition * self.lanes.len() + lane]))
    }

    #[inline]
    fn entry(&self, at: usize) -> Candidate {
        Candidate { cost: self.costs[at], node: self.nodes[at] }
    }

    /// Puts a candidate in its place and drops the last of a full list.
    #[inline]
    fn keep(&mut self, partition: usize, lane: usize, candidate: Candidate) {
        let (entries, len) = self.entries(partition, lane);
        let full = len == entries.len();
        if full && candidate > self.entry(entries.end - 1) {
            return;
        }
        let mut at = entries.start + if full { len - 1 } else { len };
        while at > entries.start && candidate < self.entry(at - 1) {
            self.costs[at] = self.costs[at - 1];
            self.nodes[at] = self.nodes[at - 1];
            at -= 1;
        }
        self.costs[at] = candidate.cost;
        self.nodes[at] = candidate.node;
        self.lens[partition * self.lanes.len() + lane] += u8::from(!full);
    }

    #[cold]
    fn candidate_past_list(&mut self, partition: usize, lane: usize, rank: usize) -> Option<Candidate> {
        let members = &self.lanes[lane].members;
        if rank >= members.len() {
            return None;
        }
        if (self.deep.0, self.deep.1) != (partition, lane) {
            let ranking = &mut self.deep.2;
            ranking.clear();
            ranking.extend(members.iter().map(|&node| Candidate {
                cost: self.ranker.cost(partition, self.log2_partitions, node),
                node,
            }));
            ranking.sort_unstable();
            (self.deep.0, self.deep.1) = (partition, lane);
            let (entries, _) = self.entries(partition, lane);
            let len = entries.len().min(self.deep.2.len());
            for (at, candidate) in entries.zip(&self.deep.2) {
                self.costs[at] = candidate.cost;
                self.nodes[at] = candidate.node;
            }
            self.lens[partition * self.lanes.len() + lane] = len as u8;
        }
        self.deep.2.get(rank).copied()
    }

    fn rank_by_score(&mut self, lane: usize) {
        let Ranker::Scores { hashes, inverses } = &self.ranker else { return };
        // Nodes of one weight together: among them a higher score never costs more.
        let mut members: Vec<(u64, u16, u64)> = self.lanes[lane]
            .members
            .iter()
            .map(|&node| (inverses[usize::from(node)], node, hashes[usize::from(node)]))
            .collect();
        members.sort_unstable();
        let classes: Vec<(u64, Vec<(u64, u16)>)> = members
            .chunk_by(|a, b| a.0 == b.0)
            .map(|class| (class[0].0, class.iter().map(|&(_, node, hash)| (hash, node)).collect()))
            .collect();
        let depth = self.lanes[lane].depth;
        let mut best = [(0, 0); DEPTH_MAX + 1];
        for partition in 0..self.lens.len() / self.lanes.len() {
            let salt = salt(partition as u64);
            let mut tied = false;
            for (inverse, class) in &classes {
                // One more than the list holds, to see whether its last place is tied.
                let found = best_scores(class, salt, &mut best[..=depth]);
                for &(score, node) in &best[..found.min(depth)] {
                    self.keep(partition, lane, Candidate { cost: weighted_cost(score, *inverse), node });
                }
                tied |= found > depth
                    && weighted_cost(best[depth - 1].0, *inverse) == weighted_cost(best[depth].0, *inverse);
            }
            if tied {
                // The smaller node wins a tie, and the scores did not look at that: rank by cost when asked.
                self.lens[partition * self.lanes.len() + lane] = 0;
            }
        }
    }

    fn rank_by_ring(&mut self, lane: usize) {
        let Ranker::Tokens { tokens, .. } = &self.ranker else { return };
        let members = &self.lanes[lane].members;
        let ring = TokenRing::of(members.iter().map(|&node| (node, tokens[usize::from(node)].as_slice())));
        let wanted = self.lanes[lane].depth.min(members.len());
        let mut walk = ring.walker(tokens.len());
        for partition in 0..self.lens.len() / self.lanes.len() {
            let point = ring_point(Partition(partition as u32), self.log2_partitions);
            for (node, token) in walk.distinct(point).take(wanted) {
                self.keep(partition, lane, Candidate { cost: token.wrapping_sub(point), node: node.0 });
            }
        }
    }
}

/// The highest scores of a class with their nodes, descending, as many as `best` holds; how many were found.
#[inline]
fn best_scores(class: &[(u64, u16)], salt: u64, best: &mut [(u64, u16)]) -> usize {
    let last = best.len() - 1;
    let mut found = 0;
    let mut lowest = 0;
    for &(hash, node) in class {
        let score = score(hash, salt);
        if found > last && score <= lowest {
            continue;
        }
        let mut at = found.min(last);
        while at > 0 && best[at - 1].0 < score {
            best[at] = best[at - 1];
            at -= 1;
        }
        best[at] = (score, node);
        found = (found + 1).min(best.len());
        lowest = best[last].0;
    }
    found
}

/// The lanes that a set of zones needs, without their members.
fn lanes(shares: &Shares) -> Vec<Lane> {
    let mut lanes: Vec<Lane> = if shares.zones.len() <= LANES_MAX {
        let zones = shares.zones.iter().zip(&shares.quotas);
        zones.map(|(zone, quota)| Lane::new(Some(zone.clone()), quota.high + SPARE)).collect()
    } else {
        vec![Lane::new(None, DEPTH_SHARED)]
    };
    let mut offset = 0;
    for lane in &mut lanes {
        lane.offset = offset;
        offset += lane.depth;
    }
    lanes
}

impl Lane {
    fn new(zone: Option<ZoneName>, depth: usize) -> Self {
        Self { zone, depth, offset: 0, members: Vec::new() }
    }
}

/// What a node costs a partition.
#[derive(Debug, Clone)]
enum Ranker {
    /// `balanced`: by node, its hash and the inverse of its weight.
    Scores { hashes: Vec<u64>, inverses: Vec<u64> },
    /// `tokens`: by node, its tokens in ascending order.
    Tokens { per_weight: u16, tokens: Vec<Vec<u64>> },
}

impl Ranker {
    fn new(algorithm: Algorithm, membership: &Membership) -> Self {
        let mut ranker = match algorithm {
            Algorithm::Balanced => Self::Scores { hashes: Vec::new(), inverses: Vec::new() },
            Algorithm::Tokens(per_weight) => Self::Tokens { per_weight, tokens: Vec::new() },
        };
        for (at, node) in membership.nodes().iter().enumerate() {
            ranker.insert(at as u16, node);
        }
        ranker
    }

    fn insert(&mut self, at: u16, node: &PlacementNode) {
        let at = usize::from(at);
        match self {
            Self::Scores { hashes, inverses } => {
                hashes.insert(at, node_hash(&node.id));
                inverses.insert(at, inverse(node.weight));
            }
            Self::Tokens { per_weight, tokens } => tokens.insert(at, tokens::tokens_of(node, *per_weight)),
        }
    }

    fn remove(&mut self, at: u16) {
        let at = usize::from(at);
        match self {
            Self::Scores { hashes, inverses } => {
                hashes.remove(at);
                inverses.remove(at);
            }
            Self::Tokens { tokens, .. } => {
                tokens.remove(at);
            }
        }
    }

    #[inline]
    fn cost(&self, partition: usize, log2_partitions: u32, node: u16) -> u64 {
        let node = usize::from(node);
        match self {
            Self::Scores { hashes, inverses } => {
                weighted_cost(score(hashes[node], salt(partition as u64)), inverses[node])
            }
            Self::Tokens { tokens, .. } => {
                tokens::distance(&tokens[node], ring_point(Partition(partition as u32), log2_partitions))
            }
        }
    }
}
