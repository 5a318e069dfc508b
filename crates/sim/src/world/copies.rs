//! Copies on their way from a source to a joiner.

use std::time::Duration;

use ringway_control::ownership::{CopyProgress, ImportOrder};

use super::{Happening, World};
use crate::network::Place;
use crate::node::{Input, place_of};

impl World {
    pub(super) fn import(&mut self, joiner: Place, order: ImportOrder) {
        self.tally.count("import");
        let node = &mut self.nodes[joiner];
        node.pulls.insert((order.partition, order.tag.clone()));
        let life = node.generation;
        let delay = self.rng.time(Duration::ZERO, self.options.import_delay_max);
        self.after(delay, Happening::Pull(joiner, life, order));
    }

    /// The source reads its copy now; the joiner has it after a while, or only a part of it, or never hears of it again.
    pub(super) fn pull(&mut self, joiner: Place, life: u64, order: ImportOrder) {
        let delay = self.rng.time(Duration::ZERO, self.options.import_delay_max);
        if self.rng.chance(self.options.import_failure_ppm / 2) {
            return self.tally.count("import stalls");
        }
        let source = place_of(&order.tag.source.node).filter(|place| *place < self.nodes.len());
        let reachable = source.filter(|source| {
            let node = &self.nodes[*source];
            let linked = !self.network.is_cut(*source, joiner) && !self.network.is_cut(joiner, *source);
            let awake = node.is_awake() && !node.slow && !self.nodes[joiner].slow;
            linked && awake && node.owner == order.tag.source
        });
        let broken = self.rng.chance(self.options.import_failure_ppm / 2);
        let aside = reachable.filter(|_| !broken);
        let aside = aside.and_then(|source| self.nodes[source].disk.store().export(order.partition));
        let running = CopyProgress::Running { bytes: 1 };
        let half = Input::Copy { order: order.clone(), progress: running, aside: None };
        self.after(delay / 2, Happening::Node(joiner, Some(life), half));
        let progress = match &aside {
            Some(aside) => CopyProgress::Done { base: aside.base, bytes: aside.state.bytes() },
            None => CopyProgress::Failed { why: "the stream broke".to_owned() },
        };
        self.tally.count(if aside.is_some() { "import done" } else { "import fails" });
        self.after(delay, Happening::Node(joiner, Some(life), Input::Copy { order, progress, aside }));
    }
}
