//! Gives out copies and primaries under their caps, partitions in ascending order.
//!
//! Three passes: the copies that every zone must take, the copies that remain, then one primary among the copies
//! of each partition. Each takes the best-ranked node that has room. Greed can run into a corner (all nodes with
//! room already hold the partition, or sit in a zone that has its quota); then copies change hands along a
//! shortest chain of exchanges that ends at a node with room.
//!
//! *Source*: bounded loads, Mirrokni, Thorup and Zadimoghaddam 2018, section 2; the chains are augmenting paths of
//! bipartite matching (Hopcroft and Karp 1973).

use super::shares::Shares;
use super::shortlist::{Candidate, LANES_MAX, Shortlists};
use crate::REPLICAS_MAX;

/// Who holds what. Rows are in rank order: by cost, ties to the smaller node.
pub(super) struct Filled {
    /// Copies per partition.
    pub(super) copies: usize,
    /// `copies` entries per partition.
    pub(super) rows: Vec<Candidate>,
    /// Per partition, the place of its primary in the row.
    pub(super) primaries: Vec<u8>,
    /// Caps that had to yield.
    pub(super) overflows: u32,
}

/// Places every copy and every primary.
pub(super) fn fill(partitions: usize, shares: &Shares, lists: &mut Shortlists) -> Filled {
    let mut copies = Copies::new(partitions, shares);
    let low: usize = shares.quotas.iter().map(|quota| quota.low).sum();
    if low > 0 {
        let low_of_zone: Vec<usize> = shares.quotas.iter().map(|quota| quota.low).collect();
        copies.place(lists, low, &low_of_zone);
    }
    if low < shares.copies {
        let high_of_zone: Vec<usize> = shares.quotas.iter().map(|quota| quota.high).collect();
        copies.place(lists, shares.copies, &high_of_zone);
    }
    let (primaries, overflows) = Primaries::new(&copies).place();
    Filled { copies: shares.copies, primaries, overflows: overflows + copies.overflows, rows: copies.rows }
}

/// The copies placed so far.
struct Copies<'a> {
    shares: &'a Shares,
    partitions: usize,
    /// `shares.copies` entries per partition, of which `lens` are placed.
    rows: Vec<Candidate>,
    lens: Vec<u8>,
    loads: Vec<u32>,
    overflows: u32,
}

impl<'a> Copies<'a> {
    fn new(partitions: usize, shares: &'a Shares) -> Self {
        Self {
            shares,
            partitions,
            rows: vec![Candidate { cost: 0, node: 0 }; partitions * shares.copies],
            lens: vec![0; partitions],
            loads: vec![0; shares.zone_of.len()],
            overflows: 0,
        }
    }

    /// Brings every partition to `wanted` copies, none with more than `limit[zone]` in a zone.
    fn place(&mut self, lists: &mut Shortlists, wanted: usize, limit: &[usize]) {
        for partition in 0..self.partitions {
            self.take_best(partition, lists, wanted, limit);
            while self.row(partition).len() < wanted {
                self.take_by_exchange(partition, lists, limit);
            }
        }
    }

    /// Walks the partition's ranking and takes every node that has room and whose zone has.
    #[inline]
    fn take_best(&mut self, partition: usize, lists: &mut Shortlists, wanted: usize, limit: &[usize]) {
        let lanes = lists.lane_count();
        let mut heads = [None; LANES_MAX];
        let mut ranks = [0_usize; LANES_MAX];
        for (lane, head) in heads.iter_mut().enumerate().take(lanes) {
            *head = lists.candidate(partition, lane, 0);
        }
        while self.row(partition).len() < wanted {
            let best = heads[..lanes]
                .iter()
                .enumerate()
                .filter_map(|(lane, head)| head.map(|head| (head, lane)))
                .min();
            let Some((candidate, lane)) = best else { return };
            let zone = usize::from(self.zone(candidate.node));
            let open = self.count_in_zone(partition, zone as u16) < limit[zone];
            if open && self.has_room(candidate.node) && !self.holds(partition, candidate.node) {
                self.add(partition, candidate);
            }
            // The rest of a lane that is one zone is closed with the zone.
            heads[lane] = if !open && lists.by_zone() {
                None
            } else {
                ranks[lane] += 1;
                lists.candidate(partition, lane, ranks[lane])
            };
        }
    }

    /// Takes one more copy by a chain of exchanges, or over the cap of the least loaded node when there is none.
    ///
    /// Breadth first from the nodes that the partition may take, best-ranked first; a node at its cap may hand the
    /// partition `q` to any node that `q` may take instead. `q` runs downward from the partition itself, cyclically;
    /// the nodes run upward.
    #[cold]
    fn take_by_exchange(&mut self, partition: usize, lists: &mut Shortlists, limit: &[usize]) {
        let starts = self.acceptable(partition, lists, limit);
        let nodes = self.loads.len();
        let mut came_from: Vec<Option<(u16, usize)>> = vec![None; nodes];
        let mut reached = vec![false; nodes];
        let mut queue: Vec<u16> = starts.iter().map(|start| start.node).collect();
        for &node in &queue {
            reached[usize::from(node)] = true;
        }
        let mut next = 0;
        while let Some(&giver) = queue.get(next) {
            next += 1;
            for step in 1..self.partitions {
                let other = (partition + self.partitions - step) % self.partitions;
                if !self.holds(other, giver) || on_chain(&came_from, giver, other) {
                    continue;
                }
                for taker in 0..nodes as u16 {
                    if reached[usize::from(taker)] || !self.may_swap(other, giver, taker, limit) {
                        continue;
                    }
                    reached[usize::from(taker)] = true;
                    came_from[usize::from(taker)] = Some((giver, other));
                    if self.has_room(taker) {
                        let start = self.exchange_along(&came_from, taker, lists);
                        return self.add_node(partition, start, &starts);
                    }
                    queue.push(taker);
                }
            }
        }
        self.overflows += 1;
        let least = starts.iter().min_by(|a, b| self.fullness_order(a.node, b.node));
        debug_assert!(least.is_some(), "quotas leave a node for every copy");
        match least {
            Some(&candidate) => self.add(partition, candidate),
            // Unreachable by the choice of quotas; a short row would loop for ever.
            None => self.lens[partition] = self.shares.copies as u8,
        }
    }

    /// The nodes that a partition may take, best-ranked first, room or not.
    fn acceptable(&self, partition: usize, lists: &mut Shortlists, limit: &[usize]) -> Vec<Candidate> {
        let mut found = Vec::new();
        for lane in 0..lists.lane_count() {
            for rank in 0.. {
                let Some(candidate) = lists.candidate(partition, lane, rank) else { break };
                let zone = self.zone(candidate.node);
                if self.count_in_zone(partition, zone) < limit[usize::from(zone)]
                    && !self.holds(partition, candidate.node)
                {
                    found.push(candidate);
                }
            }
        }
        found.sort_unstable();
        found
    }

    /// Whether `partition` may hold `taker` in place of `giver` by the rules of distinct nodes and zones.
    fn may_swap(&self, partition: usize, giver: u16, taker: u16, limit: &[usize]) -> bool {
        let (from, to) = (self.zone(giver), self.zone(taker));
        let zones_allow = from == to
            || (self.count_in_zone(partition, from) > self.shares.quotas[usize::from(from)].low
                && self.count_in_zone(partition, to) < limit[usize::from(to)]);
        zones_allow && !self.holds(partition, taker)
    }

    /// Hands copies on along the chain that ends at `last`; returns the node that it freed at its beginning.
    fn exchange_along(
        &mut self,
        came_from: &[Option<(u16, usize)>],
        last: u16,
        lists: &mut Shortlists,
    ) -> u16 {
        let mut taker = last;
        while let Some((giver, partition)) = came_from[usize::from(taker)] {
            let row = self.row(partition).iter().position(|held| held.node == giver);
            if let Some(at) = row {
                self.remove(partition, at);
                let cost = lists.cost(partition, taker);
                self.add(partition, Candidate { cost, node: taker });
            }
            taker = giver;
        }
        taker
    }

    fn add_node(&mut self, partition: usize, node: u16, among: &[Candidate]) {
        if let Some(&candidate) = among.iter().find(|candidate| candidate.node == node) {
            self.add(partition, candidate);
        }
    }

    /// By load over cap, then by number.
    fn fullness_order(&self, a: u16, b: u16) -> std::cmp::Ordering {
        fullness_order(&self.loads, &self.shares.copies_cap, a, b)
    }

    #[inline]
    fn row(&self, partition: usize) -> &[Candidate] {
        let start = partition * self.shares.copies;
        &self.rows[start..start + usize::from(self.lens[partition])]
    }

    #[inline]
    fn holds(&self, partition: usize, node: u16) -> bool {
        self.row(partition).iter().any(|held| held.node == node)
    }

    #[inline]
    fn zone(&self, node: u16) -> u16 {
        self.shares.zone_of[usize::from(node)]
    }

    #[inline]
    fn count_in_zone(&self, partition: usize, zone: u16) -> usize {
        self.row(partition).iter().filter(|held| self.zone(held.node) == zone).count()
    }

    #[inline]
    fn has_room(&self, node: u16) -> bool {
        self.loads[usize::from(node)] < self.shares.copies_cap[usize::from(node)]
    }

    #[inline]
    fn add(&mut self, partition: usize, candidate: Candidate) {
        let start = partition * self.shares.copies;
        let mut at = start + usize::from(self.lens[partition]);
        while at > start && candidate < self.rows[at - 1] {
            self.rows[at] = self.rows[at - 1];
            at -= 1;
        }
        self.rows[at] = candidate;
        self.lens[partition] += 1;
        self.loads[usize::from(candidate.node)] += 1;
    }

    fn remove(&mut self, partition: usize, at: usize) {
        let start = partition * self.shares.copies;
        let end = start + usize::from(self.lens[partition]);
        self.loads[usize::from(self.rows[start + at].node)] -= 1;
        self.rows.copy_within(start + at + 1..end, start + at);
        self.lens[partition] -= 1;
    }
}

/// One primary per partition, among its copies.
struct Primaries<'a> {
    copies: usize,
    rows: &'a [Candidate],
    caps: &'a [u32],
    loads: Vec<u32>,
    /// The place of the primary in the partition's row.
    chosen: Vec<u8>,
    overflows: u32,
}

impl<'a> Primaries<'a> {
    fn new(copies: &'a Copies<'_>) -> Self {
        Self {
            copies: copies.shares.copies,
            rows: &copies.rows,
            caps: &copies.shares.primaries_cap,
            loads: vec![0; copies.loads.len()],
            chosen: Vec::with_capacity(copies.partitions),
            overflows: 0,
        }
    }

    fn place(mut self) -> (Vec<u8>, u32) {
        let partitions = self.rows.len().checked_div(self.copies).unwrap_or(0);
        for partition in 0..partitions {
            let best = self.row(partition).iter().position(|held| self.has_room(held.node));
            let at = match best {
                Some(at) => at,
                None => self.free_by_exchange(partition),
            };
            let primary = self.row(partition)[at].node;
            self.loads[usize::from(primary)] += 1;
            self.chosen.push(at as u8);
        }
        (self.chosen, self.overflows)
    }

    /// Frees one of the partition's nodes by a chain of exchanges and returns its place in the row.
    ///
    /// Breadth first from the row in rank order; a node at its cap may hand the partition `q` to another holder of `q`
    /// in rank order. `q` runs downward from the partition before this one.
    #[cold]
    fn free_by_exchange(&mut self, partition: usize) -> usize {
        let mut came_from: Vec<Option<(u16, usize)>> = vec![None; self.loads.len()];
        let mut reached = vec![false; self.loads.len()];
        let mut queue: Vec<u16> = self.row(partition).iter().map(|held| held.node).collect();
        for &node in &queue {
            reached[usize::from(node)] = true;
        }
        let mut next = 0;
        while let Some(&giver) = queue.get(next) {
            next += 1;
            for other in (0..partition).rev() {
                let row = self.row(other);
                if row[usize::from(self.chosen[other])].node != giver || on_chain(&came_from, giver, other) {
                    continue;
                }
                let mut takers = [None; REPLICAS_MAX];
                for (slot, held) in takers.iter_mut().zip(row) {
                    *slot = Some(held.node);
                }
                for taker in takers.into_iter().flatten() {
                    if std::mem::replace(&mut reached[usize::from(taker)], true) {
                        continue;
                    }
                    came_from[usize::from(taker)] = Some((giver, other));
                    if self.has_room(taker) {
                        let start = self.exchange_along(&came_from, taker);
                        return self.row(partition).iter().position(|held| held.node == start).unwrap_or(0);
                    }
                    queue.push(taker);
                }
            }
        }
        self.overflows += 1;
        let places = 0..self.copies;
        let row = self.row(partition);
        places.min_by(|&a, &b| fullness_order(&self.loads, self.caps, row[a].node, row[b].node)).unwrap_or(0)
    }

    /// Hands primaries on along the chain that ends at `last`; returns the node that it freed at its beginning.
    fn exchange_along(&mut self, came_from: &[Option<(u16, usize)>], last: u16) -> u16 {
        let mut taker = last;
        while let Some((giver, partition)) = came_from[usize::from(taker)] {
            let at = self.row(partition).iter().position(|held| held.node == taker);
            self.chosen[partition] = at.unwrap_or(0) as u8;
            self.loads[usize::from(giver)] -= 1;
            self.loads[usize::from(taker)] += 1;
            taker = giver;
        }
        taker
    }

    #[inline]
    fn row(&self, partition: usize) -> &'a [Candidate] {
        let start = partition * self.copies;
        &self.rows[start..start + self.copies]
    }

    #[inline]
    fn has_room(&self, node: u16) -> bool {
        self.loads[usize::from(node)] < self.caps[usize::from(node)]
    }
}

/// Whether the chain that leads to `node` already moves `partition`: one partition takes part once.
fn on_chain(came_from: &[Option<(u16, usize)>], node: u16, partition: usize) -> bool {
    let mut at = node;
    while let Some((giver, moved)) = came_from[usize::from(at)] {
        if moved == partition {
            return true;
        }
        at = giver;
    }
    false
}

fn fullness_order(loads: &[u32], caps: &[u32], a: u16, b: u16) -> std::cmp::Ordering {
    let part = |node: u16| (u64::from(loads[usize::from(node)]), u64::from(caps[usize::from(node)]));
    let ((load_a, cap_a), (load_b, cap_b)) = (part(a), part(b));
    (load_a * cap_b).cmp(&(load_b * cap_a)).then(a.cmp(&b))
}
