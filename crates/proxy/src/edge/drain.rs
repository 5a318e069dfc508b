//! Tells the connections of one worker that it stops.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Context, Waker};

/// One worker's drain flag. Asking costs a load; each connection leaves its waker once.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    begun: Cell<bool>,
    next: Cell<u64>,
    waiting: RefCell<BTreeMap<u64, Waker>>,
}

impl Drain {
    /// Wakes every connection; from now on [`DrainWatch::begun`] is true.
    pub(crate) fn begin(&self) {
        self.begun.set(true);
        for waker in std::mem::take(&mut *self.waiting.borrow_mut()).into_values() {
            waker.wake();
        }
    }

    /// A connection's view of the flag.
    pub(crate) fn watch(self: &Rc<Self>) -> DrainWatch {
        let ticket = self.next.get();
        self.next.set(ticket + 1);
        DrainWatch { drain: Rc::clone(self), ticket, registered: false }
    }
}

/// One connection's view of its worker's [`Drain`].
#[derive(Debug)]
pub(crate) struct DrainWatch {
    drain: Rc<Drain>,
    ticket: u64,
    registered: bool,
}

impl DrainWatch {
    /// Whether the worker drains; if not, the calling task is woken when it begins. A task's waker stays the
    /// same, so it is left once.
    pub(crate) fn begun(&mut self, context: &Context<'_>) -> bool {
        if self.drain.begun.get() {
            return true;
        }
        if !self.registered {
            self.registered = true;
            self.drain.waiting.borrow_mut().insert(self.ticket, context.waker().clone());
        }
        false
    }
}

impl Drop for DrainWatch {
    fn drop(&mut self) {
        self.drain.waiting.borrow_mut().remove(&self.ticket);
    }
}
