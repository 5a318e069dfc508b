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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Action;

    #[test]
    fn a_key_without_a_quiet_moment_rests_until_it_has_one() {
        let mut recorder = Recorder::new(2, Values::new(1, 48), Auditor::start().unwrap());
        recorder.begin(0, &Seen::Absent);
        let read = |at| Op { action: Action::Read(Content::Absent), invoked: at, answered: at + 2 };
        recorder.invoke(0);
        for at in 1..WINDOW_OPS_MAX as u64 {
            assert!(!recorder.rests(0), "{at}");
            recorder.invoke(0);
            recorder.finish(0, &[read(at)], false);
        }
        assert!(recorder.rests(0) && !recorder.rests(1));
        recorder.finish(0, &[read(9_999)], false);
        assert!(!recorder.rests(0));
        let report = recorder.into_auditor().finish();
        assert_eq!((report.windows, report.operations), (1, WINDOW_OPS_MAX as u64));
        assert!(report.passed());
    }

    #[test]
    fn values_are_identified_by_key_run_and_number() {
        let values = Values::new(1, 48);
        let mut recorder = Recorder::new(1, values, Auditor::start().unwrap());
        recorder.begin(0, &Seen::Body(b"old"));
        assert_eq!(recorder.number(0), 1);
        let mut body = Vec::new();
        values.write(0, 1, &mut body);
        assert_eq!(recorder.identify(0, &Seen::Body(&body), 5), Some(Content::Value(1)));
        assert_eq!(recorder.identify(0, &Seen::Body(b"old"), 5), Some(Content::Value(0)));
        assert_eq!(recorder.identify(0, &Seen::Body(b"other"), 5), None);
        body.clear();
        values.write(0, 2, &mut body);
        assert_eq!(recorder.identify(0, &Seen::Body(&body), 5), None, "number 2 was not given out");
        assert_eq!(recorder.into_auditor().finish().phantom, 2);
    }
}
