//! Ids this worker gives to requests.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use http::HeaderValue;

use crate::headers::{hex, made_request_id, put_decimal};

/// Gives writes their `Ringway-Request-Id` and every request that has none its `X-Request-Id`.
///
/// Each worker is an incarnation of its own, so that counting needs no other worker.
#[derive(Debug)]
pub(crate) struct RequestIds {
    /// `<incarnation>;n=`
    prefix: Vec<u8>,
    trace_prefix: [u8; 16],
    trace_counter: Cell<u64>,
    open: RefCell<Open>,
}

/// Which counters are still under way: `done[i]` is about counter `lowest + i`.
#[derive(Debug)]
struct Open {
    lowest: u64,
    done: VecDeque<bool>,
}

/// A write's id; the same in all attempts, and open until this is dropped: when the outcome is known, or nobody asks for it
/// any more. `open` in it is as of its making, so it can only be too low, which is the safe side.
#[derive(Debug)]
pub(crate) struct WriteId {
    ids: Rc<RequestIds>,
    counter: u64,
    pub(crate) header: HeaderValue,
}

impl RequestIds {
    pub(crate) fn new(incarnation: u128) -> Self {
        let mut prefix = Vec::with_capacity(40);
        prefix.extend_from_slice(&hex((incarnation >> 64) as u64));
        prefix.extend_from_slice(&hex(incarnation as u64));
        prefix.extend_from_slice(b";n=");
        Self {
            prefix,
            trace_prefix: hex(incarnation as u64),
            trace_counter: Cell::new(0),
            open: RefCell::new(Open { lowest: 1, done: VecDeque::new() }),
        }
    }

    /// An `X-Request-Id` nobody else gives.
    pub(crate) fn trace_id(&self) -> HeaderValue {
        self.trace_counter.set(self.trace_counter.get() + 1);
        made_request_id(self.trace_prefix, self.trace_counter.get())
    }

    /// The id of the next write: `<incarnation>;n=<counter>;open=<lowest counter still open>`.
    pub(crate) fn write_id(self: &Rc<Self>) -> WriteId {
        let mut open = self.open.borrow_mut();
        let counter = open.lowest + open.done.len() as u64;
        open.done.push_back(false);
        let mut text = Vec::with_capacity(self.prefix.len() + 46);
        text.extend_from_slice(&self.prefix);
        put_decimal(&mut text, counter);
        text.extend_from_slice(b";open=");
        put_decimal(&mut text, open.lowest);
        // Digits and letters: always a header value.
        let header = HeaderValue::from_maybe_shared(Bytes::from(text));
        let header = header.unwrap_or_else(|_| HeaderValue::from_static("0"));
        WriteId { ids: Rc::clone(self), counter, header }
    }
}

impl Drop for WriteId {
    fn drop(&mut self) {
        let mut open = self.ids.open.borrow_mut();
        let at = (self.counter - open.lowest) as usize;
        if let Some(done) = open.done.get_mut(at) {
            *done = true;
        }
        while open.done.front() == Some(&true) {
            open.done.pop_front();
            open.lowest += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_ids_count_up_and_name_the_lowest_still_open() {
        let ids = Rc::new(RequestIds::new(0xab));
        let text = |id: &WriteId| id.header.to_str().unwrap().to_owned();
        let hex = format!("{:032x}", 0xab);
        let first = ids.write_id();
        let second = ids.write_id();
        assert_eq!(text(&first), format!("{hex};n=1;open=1"));
        assert_eq!(text(&second), format!("{hex};n=2;open=1"));
        drop(second);
        assert_eq!(text(&ids.write_id()), format!("{hex};n=3;open=1"), "1 is still open");
        drop(first);
        assert_eq!(text(&ids.write_id()), format!("{hex};n=4;open=4"));
    }

    /// What a node relies on when it forgets: an id is never below the `open` that any other id was sent with while it
    /// was under way.
    #[test]
    fn open_is_the_lowest_id_under_way_whatever_the_order_they_end_in() {
        let ids = Rc::new(RequestIds::new(1));
        let number = |id: &WriteId, name: &str| -> u64 {
            let text = id.header.to_str().unwrap();
            let field = text.split(';').find_map(|field| field.strip_prefix(name)).unwrap();
            field.parse().unwrap()
        };
        let mut under_way: Vec<WriteId> = Vec::new();
        let mut random = 7u64;
        for counter in 1..=5_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let ending = (random >> 33) as usize % 4;
            for _ in 0..ending.min(under_way.len()) {
                let at = (random >> 40) as usize % under_way.len();
                drop(under_way.swap_remove(at));
            }
            let lowest = under_way.iter().map(|id| id.counter).min().unwrap_or(counter);
            let id = ids.write_id();
            assert_eq!((number(&id, "n="), number(&id, "open=")), (counter, lowest));
            under_way.push(id);
        }
        under_way.clear();
        assert!(ids.open.borrow().done.is_empty(), "nothing is kept of what is over");
    }

    #[test]
    fn trace_ids_differ() {
        let ids = RequestIds::new(7 << 64);
        assert_ne!(ids.trace_id(), ids.trace_id());
    }
}
