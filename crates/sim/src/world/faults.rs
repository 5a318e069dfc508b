//! What the owner of a world does to its nodes.

use std::time::Duration;

use super::{Happening, World, random_clock};
use crate::checkers::show;
use crate::network::Place;
use crate::node::Outgoing;

/// What a slow node keeps of what it wants to send; the rest is lost, as in a full socket buffer.
const OUTBOX_MAX: usize = 4_096;
/// What came to a node meanwhile it takes in within this.
const CATCH_UP_MAX: Duration = Duration::from_micros(100);

impl World {
    /// Kills a node's process; its disk keeps a random prefix of what was not durable, or this many batches of it.
    pub fn crash(&mut self, place: Place, kept: Option<usize>) {
        self.trace(|world| format!("{} crashes", show(&world.nodes[place].owner)));
        self.tally.count("crash");
        self.nodes[place].kill();
        let kept = kept.unwrap_or_else(|| self.rng.below(self.nodes[place].disk.at_risk() + 1));
        match self.nodes[place].disk.crash_keeping(kept) {
            Ok(applications) => {
                let owner = &self.nodes[place].owner;
                applications.iter().for_each(|it| self.checkers.applied(self.now, owner, it));
            }
            Err(breach) => self.breached(place, breach),
        }
    }

    /// The machine restarts with the process: its clock starts anew.
    pub fn reboot_clock(&mut self, place: Place) {
        self.nodes[place].clock = random_clock(&mut self.rng, self.now, &self.options);
    }

    /// Freezes a node's process.
    pub fn pause(&mut self, place: Place) {
        if self.nodes[place].is_awake() {
            self.trace(|world| format!("{} is paused", show(&world.nodes[place].owner)));
            self.tally.count("pause");
            self.nodes[place].paused = true;
        }
    }

    /// Lets it go on; it finds what came meanwhile.
    pub fn resume(&mut self, place: Place) {
        if !self.nodes[place].paused {
            return;
        }
        self.trace(|world| format!("{} goes on", show(&world.nodes[place].owner)));
        self.nodes[place].paused = false;
        self.take_in_backlog(place);
    }

    /// A node neither receives nor sends; its timers and its disk go on.
    pub fn slow_down(&mut self, place: Place) {
        if self.nodes[place].is_awake() {
            self.trace(|world| format!("{} is slow", show(&world.nodes[place].owner)));
            self.tally.count("slow");
            self.nodes[place].slow = true;
        }
    }

    /// It sends what it held back, and finds what came meanwhile.
    pub fn speed_up(&mut self, place: Place) {
        if !std::mem::take(&mut self.nodes[place].slow) {
            return;
        }
        self.trace(|world| format!("{} is slow no more", show(&world.nodes[place].owner)));
        for outgoing in std::mem::take(&mut self.nodes[place].outbox) {
            match outgoing {
                Outgoing::Message(to, envelope) => self.send(place, to, envelope),
                Outgoing::Packet(to, packet) => self.send_packet(place, to, packet),
                Outgoing::Answer(ask, answer) => self.reply(place, &ask, answer),
            }
        }
        self.take_in_backlog(place);
    }

    /// A slow node wants to send something.
    pub(super) fn hold_back(&mut self, place: Place, outgoing: Outgoing) {
        let outbox = &mut self.nodes[place].outbox;
        if outbox.len() < OUTBOX_MAX {
            outbox.push_back(outgoing);
        } else {
            self.tally.count("outbox full");
        }
    }

    fn take_in_backlog(&mut self, place: Place) {
        let backlog = std::mem::take(&mut self.nodes[place].backlog);
        let life = self.nodes[place].generation;
        for input in backlog {
            let delay = self.rng.time(Duration::ZERO, CATCH_UP_MAX);
            self.after(delay, Happening::Node(place, Some(life), input));
        }
    }
}
