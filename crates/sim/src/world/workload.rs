//! Routers with their clients, and the gossip that nodes without a control plane make do with.

use std::sync::Arc;
use std::time::Duration;

use ringway_control::ownership::{Admission, Claim};
use ringway_topology::Partition;

use super::{Happening, World};
use crate::network::Place;
use crate::node::{Input, place_of};
use crate::router::{Answer, Next};
use crate::store::Value;

impl World {
    /// No more clients come.
    pub fn stop_workload(&mut self) {
        self.options.operation_gap_max = Duration::ZERO;
    }

    pub(super) fn begin(&mut self, place: Place) {
        if self.options.operation_gap_max.is_zero() {
            return;
        }
        let gap = self.rng.time(Duration::ZERO, self.options.operation_gap_max);
        self.after(gap, Happening::Begin(place));
        if self.routers[place - self.options.nodes].down {
            return;
        }
        let partition = Partition(self.rng.below(self.options.partitions as usize) as u32);
        let keys = self.options.keys;
        let value = self.next_value();
        let router = &mut self.routers[place - self.options.nodes];
        let begun = router.begin(self.now, &mut self.rng, &mut self.checkers, partition, keys, value);
        if let Some(number) = begun {
            self.attempt(place, number);
        }
    }

    /// A value that was never written.
    pub fn next_value(&mut self) -> Value {
        self.values += 1;
        self.values
    }

    /// Sends the next attempt at an operation.
    pub fn attempt(&mut self, place: Place, number: u64) {
        let router = &mut self.routers[place - self.options.nodes];
        let attempt = router.attempt(self.now, &mut self.rng, number);
        let Some((to, ask)) = attempt else {
            let next = router.unserved(self.now, &self.options.patience, &mut self.checkers, number);
            return self.go_on(place, number, next);
        };
        let timeout = Happening::AttemptTimeout(place, (number, ask.attempt));
        self.after(self.options.patience.attempt, timeout);
        let Some(to) = place_of(&to) else { return };
        // Requests run over connections: lost or late, but not doubled.
        if let Some(delay) = self.network.send(&mut self.rng, place, to)[0] {
            self.after(delay, Happening::Node(to, None, Input::Ask(ask)));
        }
    }

    pub(super) fn answered(&mut self, place: Place, attempt: (u64, u32), answer: &Answer) {
        let router = &mut self.routers[place - self.options.nodes];
        let patience = &self.options.patience;
        let next = router.answered(self.now, &mut self.rng, patience, &mut self.checkers, attempt, answer);
        if matches!(answer, Answer::Refused(Admission::Misdirected(_))) {
            self.tally.count("misdirected");
        }
        self.trace(|_| format!("router {place} hears of operation {}: {answer:?}", attempt.0));
        self.drive_router(place);
        self.go_on(place, attempt.0, next);
    }

    pub(super) fn go_on(&mut self, place: Place, number: u64, next: Next) {
        if let Next::Again(delay) = next {
            self.after(delay, Happening::Attempt(place, number));
        }
    }

    /// One random node tells another one, or a router, of every claim that it heard of.
    pub(super) fn gossip(&mut self) {
        let gap = self.rng.time(Duration::ZERO, self.options.gossip_gap_max);
        self.after(gap, Happening::Gossip);
        let from = self.rng.below(self.nodes.len());
        let to = self.rng.below(self.nodes.len() + self.routers.len());
        if from == to || !self.nodes[from].is_awake() {
            return;
        }
        let heard: Vec<Arc<Claim>> = self.nodes[from].heard.values().cloned().collect();
        for claim in heard {
            let Some(delay) = self.network.send(&mut self.rng, from, to)[0] else { continue };
            let happening = if to < self.nodes.len() {
                Happening::Node(to, None, Input::Claim(claim))
            } else {
                Happening::Learn(to, claim)
            };
            self.after(delay, happening);
        }
    }
}
