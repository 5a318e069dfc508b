//! The load's side of the audit: gathers each key's operations into windows.

use super::{Auditor, Content, Message, Op};
use crate::value::Values;

/// Operations of one window: a key that reaches it rests (arrivals go to other keys) until nothing of it is under way,
/// so that a window always ends at a quiet moment, which is what makes its check exact.
pub(super) const WINDOW_OPS_MAX: usize = 2_048;

/// What a read saw, before it is known whether it may have.
#[derive(Debug)]
pub(crate) enum Seen<'a> {
    /// The service said that there is no such key.
    Absent,
    /// A value.
    Body(&'a [u8]),
}

/// One key, as the load knows it.
#[derive(Debug, Default)]
struct Track {
    /// Number of the next write.
    next: u32,
    under_way: u32,
    window: Vec<Op>,
    /// What it held before the run.
    before: Option<Box<[u8]>>,
}

/// Gathers operations; see the module.
#[derive(Debug)]
pub(crate) struct Recorder {
    tracks: Vec<Track>,
    values: Values,
    auditor: Auditor,
}

impl Recorder {
    pub(crate) fn new(keys: u32, values: Values, auditor: Auditor) -> Self {
        let tracks = (0..keys).map(|_| Track { next: 1, ..Track::default() }).collect();
        Self { tracks, values, auditor }
    }

    /// Reserves the number of a key's next write.
    pub(crate) fn number(&mut self, key: u32) -> u32 {
        let track = &mut self.tracks[key as usize];
        let number = track.next;
        track.next += 1;
        number
    }

    /// Says what a key holds before anything of this run is recorded for it.
    pub(crate) fn begin(&mut self, key: u32, seen: &Seen<'_>) {
        let content = match seen {
            Seen::Absent => Content::Absent,
            Seen::Body(body) => {
                self.tracks[key as usize].before = Some((*body).into());
                Content::Value(0)
            }
        };
        self.auditor.send(Message::Begin { key, content });
    }

    /// Whether the key is to be left alone until it is quiet.
    pub(crate) fn rests(&self, key: u32) -> bool {
        let track = &self.tracks[key as usize];
        track.under_way > 0 && track.window.len() + track.under_way as usize >= WINDOW_OPS_MAX
    }

    /// An operation on the key is about to be sent.
    pub(crate) fn invoke(&mut self, key: u32) {
        self.tracks[key as usize].under_way += 1;
    }

    /// It is over, and this is what it says: nothing after a read without an answer, two things after a refused
    /// condition. `last` for the key's final read.
    pub(crate) fn finish(&mut self, key: u32, says: &[Op], last: bool) {
        let track = &mut self.tracks[key as usize];
        track.under_way -= 1;
        track.window.extend_from_slice(says);
        if track.under_way == 0 && !track.window.is_empty() {
            let ops = std::mem::take(&mut track.window);
            self.auditor.send(Message::Window { key, ops, last });
        }
    }

    /// A key could not be read at the end.
    pub(crate) fn unread(&mut self) {
        self.auditor.send(Message::Unread);
    }

    /// Which write a read saw; what is none of this key and run is a violation at once, and `None`.
    pub(crate) fn identify(&mut self, key: u32, seen: &Seen<'_>, answered: u64) -> Option<Content> {
        let Seen::Body(body) = seen else { return Some(Content::Absent) };
        let track = &self.tracks[key as usize];
        match self.values.number(key, body) {
            Ok(number) if number < track.next => Some(Content::Value(number)),
            _ if track.before.as_deref() == Some(*body) => Some(Content::Value(0)),
            other => {
                let what = match other {
                    Ok(number) => format!("value {number}, a number not given out yet"),
                    Err(what) => what,
                };
                self.auditor.send(Message::Foreign { key, answered, what });
                None
            }
        }
    }

    /// Hands over the thread that checks.
    pub(crate) fn into_auditor(self) -> Auditor {
        self.auditor
    }
}
