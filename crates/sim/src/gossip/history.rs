//! What happened, as one number, and the last of it in words.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use super::member::{Note, Packet, Place};
use crate::digest::Digest;
use crate::story::Story;
use crate::trace::Trace;

/// Lines kept for whoever reads of a violation.
const LAST_MAX: usize = 40;
/// First verdicts that the story tells of; the figures have all.
const VERDICTS_TOLD_MAX: usize = 16;

/// Something that happened and is worth a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A member said something of what it believes.
    Said(Place, Note),
    /// A process started, in this life.
    Started(Place, u64),
    /// A process ended.
    Ended(Place),
    /// It neither hears nor is heard until then; its timers run.
    Slow(Place, Duration),
    /// It stands still until then.
    Paused(Place, Duration),
    /// Links were cut, so many members on the smaller side.
    Cut(usize),
    /// Every link is whole again.
    Mended,
    /// A member gave everybody that version of the keys.
    Keys(Place, u64),
}

/// The digest of a run: of every message delivered, byte for byte, and of everything else that happened, with its time.
#[derive(Debug, Default)]
pub struct History {
    digest: Digest,
    events: u64,
    messages: u64,
    words: u64,
    last: VecDeque<(Duration, What)>,
    /// To whom it is told as well.
    pub trace: Trace,
    /// What it comes to, for a person. No part of the digest.
    pub story: Story,
    /// Who was called dead, or doubted for good, in this life.
    verdicts: BTreeSet<Place>,
    verdicts_told: usize,
}

impl History {
    /// A message reached a process.
    pub fn delivered(&mut self, at: Duration, packet: &Packet) {
        self.events += 1;
        self.messages += 1;
        self.trace.step();
        self.mix(at.as_nanos() as u64);
        self.mix(u64::from(packet.from) << 32 | u64::from(packet.to));
        self.mix((packet.via as u64) << 32 | packet.bytes.len() as u64);
        for word in packet.bytes.chunks(8) {
            let mut bytes = [0; 8];
            bytes[..word.len()].copy_from_slice(word);
            self.mix(u64::from_le_bytes(bytes));
        }
    }

    /// Something else happened.
    pub fn happened(&mut self, at: Duration, what: What) {
        self.events += 1;
        self.mix(at.as_nanos() as u64);
        let [a, b, c] = match what {
            What::Said(place, Note::Up { place: subject, life }) => [pair(place, subject), 1, life],
            What::Said(place, Note::Suspect(subject)) => [pair(place, subject), 2, 0],
            What::Said(place, Note::Dead(subject)) => [pair(place, subject), 3, 0],
            What::Said(place, Note::Expired(subject)) => [pair(place, subject), 13, 0],
            What::Said(place, Note::Left(subject)) => [pair(place, subject), 4, 0],
            What::Said(place, Note::Record { key, version }) => [pair(place, key), 5, version],
            What::Said(place, Note::Synced) => [u64::from(place), 6, 0],
            What::Started(place, life) => [u64::from(place), 7, life],
            What::Ended(place) => [u64::from(place), 8, 0],
            What::Slow(place, until) => [u64::from(place), 9, until.as_nanos() as u64],
            What::Paused(place, until) => [u64::from(place), 10, until.as_nanos() as u64],
            What::Cut(members) => [members as u64, 11, 0],
            What::Mended => [0, 12, 0],
            What::Keys(place, version) => [u64::from(place), 14, version],
        };
        [a, b, c].into_iter().for_each(|word| self.mix(word));
        if self.last.len() == LAST_MAX {
            self.last.pop_front();
        }
        self.last.push_back((at, what));
        self.words += u64::from(matches!(what, What::Said(..)));
        self.trace.step();
        self.trace.tell(|| line(at, &what));
        self.tell_verdict(at, what);
    }

    /// The first who calls somebody dead is worth a line; that all others follow is a figure.
    fn tell_verdict(&mut self, at: Duration, what: What) {
        match what {
            What::Started(place, _) => {
                self.verdicts.remove(&place);
            }
            What::Said(observer, Note::Dead(subject)) if self.verdicts.insert(subject) => {
                self.verdicts_told += 1;
                if self.verdicts_told <= VERDICTS_TOLD_MAX {
                    self.story
                        .tell(at, format!("n{subject} is called dead for the first time, by n{observer}"));
                } else if self.verdicts_told == VERDICTS_TOLD_MAX + 1 {
                    self.story.tell(at, "others are called dead from here on, too many to tell");
                }
            }
            _ => {}
        }
    }

    fn mix(&mut self, word: u64) {
        self.digest.mix(word);
    }

    /// The digest so far.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest.value()
    }

    /// How much has happened.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// How many messages reached a process.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// How often a member said something of what it believes.
    #[must_use]
    pub fn words(&self) -> u64 {
        self.words
    }

    /// The last that happened, a line each.
    #[must_use]
    pub fn last(&self) -> Vec<String> {
        self.last.iter().map(|(at, what)| line(*at, what)).collect()
    }
}

fn line(at: Duration, what: &What) -> String {
    format!("{:>12.6} s  {what}", at.as_secs_f64())
}

fn pair(a: Place, b: u32) -> u64 {
    u64::from(a) << 32 | u64::from(b)
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said(place, note) => write!(f, "n{place} says {note:?}"),
            Self::Started(place, life) => write!(f, "n{place} starts, life {life}"),
            Self::Ended(place) => write!(f, "n{place} ends"),
            Self::Slow(place, until) => write!(f, "n{place} is slow until {until:?}"),
            Self::Paused(place, until) => write!(f, "n{place} is paused until {until:?}"),
            Self::Cut(members) => write!(f, "{members} members are cut off"),
            Self::Mended => write!(f, "every link is whole"),
            Self::Keys(place, version) => write!(f, "n{place} gives everybody version {version} of the keys"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip::member::Via;

    fn packet(byte: u8) -> Packet {
        Packet { from: 1, to: 2, via: Via::Datagram, bytes: vec![0, 0, byte] }
    }

    #[test]
    fn every_byte_and_every_time_counts() {
        let digest = |at: u64, byte| {
            let mut history = History::default();
            history.delivered(Duration::from_nanos(at), &packet(byte));
            history.happened(Duration::from_nanos(at), What::Ended(3));
            history.digest()
        };
        assert_eq!(digest(7, 1), digest(7, 1));
        assert_ne!(digest(7, 1), digest(7, 2));
        assert_ne!(digest(7, 1), digest(8, 1));
    }
}
