//! How the table holds a member: 32 bytes and its name, so that ten thousand members that know each other fit on one
//! machine.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::Evidence;
use crate::event::State;
use crate::wire::LIFE_MAX;

/// Bits of a generation and of an incarnation.
const LIFE_BITS: u32 = 46;
const LIFE_MASK: u128 = (1 << LIFE_BITS) - 1;
/// Where the state is, behind both.
const STATE_AT: u32 = 2 * LIFE_BITS;
const STATE_MASK: u128 = 0b111;
/// Where it says that the address is not here.
const LONG_ADDRESS: u128 = 1 << 95;
/// The state of a place that nobody has.
const VACANT: u128 = 7;

const _: () = assert!(LIFE_MAX < 1 << LIFE_BITS && size_of::<Packed>() == 32);

/// A member in the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packed {
    /// From the lowest bit: generation, incarnation, state, and whether the address is in the table's list of long ones.
    evidence: [u32; 3],
    /// Milliseconds since when the state is believed, on this member's clock: 34 years of them.
    since: [u8; 5],
    name_bytes: u8,
    pub(super) port: u16,
    pub(super) ip: Ipv4Addr,
    name_at: u32,
    /// Position in `live` or in `gone`.
    pub(super) place: u32,
}

impl Packed {
    /// A place that nobody has.
    pub(super) fn vacant() -> Self {
        let ip = Ipv4Addr::UNSPECIFIED;
        let mut packed =
            Self { evidence: [0; 3], since: [0; 5], name_bytes: 0, port: 0, ip, name_at: 0, place: 0 };
        packed.set_bits(VACANT << STATE_AT);
        packed
    }

    pub(super) fn is_vacant(&self) -> bool {
        self.bits() >> STATE_AT & STATE_MASK == VACANT
    }

    pub(super) fn evidence(&self) -> Evidence {
        let bits = self.bits();
        let life = |at: u32| (bits >> at & LIFE_MASK) as u64;
        let state = match bits >> STATE_AT & STATE_MASK {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Dead,
            _ => State::Left,
        };
        Evidence { generation: life(0), incarnation: life(LIFE_BITS), state }
    }

    pub(super) fn set_evidence(&mut self, evidence: Evidence) {
        let Evidence { generation, incarnation, state } = evidence;
        let state = match state {
            State::Alive => 0,
            State::Suspect => 1,
            State::Dead => 2,
            State::Left => 3,
        };
        let life = |life: u64| u128::from(life.min(LIFE_MAX));
        let lives = life(generation) | life(incarnation) << LIFE_BITS;
        self.set_bits(lives | state << STATE_AT | self.bits() & LONG_ADDRESS);
    }

    pub(super) fn has_long_address(&self) -> bool {
        self.bits() & LONG_ADDRESS != 0
    }

    pub(super) fn set_long_address(&mut self, long: bool) {
        let others = self.bits() & !LONG_ADDRESS;
        self.set_bits(if long { others | LONG_ADDRESS } else { others });
    }

    pub(super) fn since(&self) -> Duration {
        let [a, b, c, d, e] = self.since;
        Duration::from_millis(u64::from_le_bytes([a, b, c, d, e, 0, 0, 0]))
    }

    pub(super) fn set_since(&mut self, since: Duration) {
        let [a, b, c, d, e, ..] = (since.as_millis() as u64).to_le_bytes();
        self.since = [a, b, c, d, e];
    }

    fn bits(&self) -> u128 {
        let [low, middle, high] = self.evidence.map(u128::from);
        low | middle << 32 | high << 64
    }

    fn set_bits(&mut self, bits: u128) {
        self.evidence = [bits as u32, (bits >> 32) as u32, (bits >> 64) as u32];
    }
}

/// The names of all members, end to end. What a forgotten one leaves is a hole, until holes are half of it.
#[derive(Debug, Default)]
pub(super) struct Names {
    text: String,
    holes: usize,
}

/// Holes of fewer bytes are not worth closing.
const HOLES_MIN: usize = 4_096;

impl Names {
    pub(super) fn of(&self, member: &Packed) -> &str {
        let at = member.name_at as usize;
        self.text.get(at..at + usize::from(member.name_bytes)).unwrap_or_default()
    }

    /// A name is at most 63 bytes, and there are at most [`MEMBERS_MAX`](crate::MEMBERS_MAX) of them and as many in holes.
    pub(super) fn give(&mut self, member: &mut Packed, name: &str) {
        if self.text.capacity() - self.text.len() < name.len() {
            self.text.reserve_exact(name.len().max(self.text.len() / 8));
        }
        member.name_at = self.text.len() as u32;
        member.name_bytes = name.len() as u8;
        self.text.push_str(name);
    }

    pub(super) fn forget(&mut self, member: &Packed) {
        self.holes += usize::from(member.name_bytes);
    }

    pub(super) fn is_mostly_holes(&self) -> bool {
        self.holes > HOLES_MIN.max(self.text.len() / 2)
    }

    /// Closes the holes: every member that is listed gets its name anew.
    pub(super) fn close_holes(&mut self, members: &mut [Packed]) {
        let old = std::mem::take(self);
        for member in members.iter_mut().filter(|member| !member.is_vacant()) {
            let name = old.of(member);
            self.give(member, name);
        }
    }

    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        self.text.capacity()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            generation in 0..=LIFE_MAX,
            incarnation in 0..=LIFE_MAX,
            state in prop::sample::select(vec![State::Alive, State::Suspect, State::Dead, State::Left]),
            long: bool,
            since in 0_u64..1 << 40,
        ) {
            let evidence = Evidence { generation, incarnation, state };
            let mut packed = Packed::vacant();
            prop_assert!(packed.is_vacant());
            packed.set_evidence(evidence);
            packed.set_long_address(long);
            packed.set_since(Duration::from_millis(since));
            prop_assert!(!packed.is_vacant());
            prop_assert_eq!(packed.evidence(), evidence);
            prop_assert_eq!(packed.has_long_address(), long);
            prop_assert_eq!(packed.since(), Duration::from_millis(since));
            packed.set_evidence(Evidence { incarnation: 0, ..evidence });
            prop_assert_eq!(packed.has_long_address(), long, "an address stays when evidence changes");
        }
    }
}
