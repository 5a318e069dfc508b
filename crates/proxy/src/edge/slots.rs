//! Room for what a service does for a request: used by one request after the other, of whatever connection.
//!
//! A request's future is some kilobytes. If each connection kept room for its own, idle ones would cost more than all
//! that is under way; and the room used last is the one the processor still has at hand.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Most slots kept by one worker while nothing runs in them.
const SLOTS_MAX: usize = 256;

/// One worker's free slots.
pub(super) struct Slots<F> {
    free: RefCell<Vec<Pin<Box<Option<F>>>>>,
}

impl<F> Slots<F> {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self { free: RefCell::default() })
    }

    /// Runs `future` in a slot until it is ready or dropped.
    ///
    /// *Cost*: a move; an allocation when no slot is free.
    pub(super) fn run(self: &Rc<Self>, future: F) -> Running<F> {
        let mut slot = self.free.borrow_mut().pop().unwrap_or_else(|| Box::pin(None));
        slot.set(Some(future));
        Running { slot: Some(slot), slots: Rc::clone(self) }
    }
}

/// A future in a slot, which it gives back when it is dropped.
pub(super) struct Running<F> {
    slot: Option<Pin<Box<Option<F>>>>,
    slots: Rc<Slots<F>>,
}

impl<F: Future> Future for Running<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.slot.as_mut().and_then(|slot| slot.as_mut().as_pin_mut()) {
            Some(future) => future.poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<F> Drop for Running<F> {
    fn drop(&mut self) {
        let Some(mut slot) = self.slot.take() else { return };
        slot.set(None);
        let mut free = self.slots.free.borrow_mut();
        if free.len() < SLOTS_MAX {
            free.push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn a_slot_is_used_again_whatever_ended_its_future() {
        let dropped = Rc::new(Cell::new(0));
        let work = |ready: bool| {
            let guard = Dropped(Rc::clone(&dropped));
            async move {
                let _guard = guard;
                if !ready {
                    std::future::pending::<()>().await;
                }
                7
            }
        };
        let slots = Slots::new();
        assert_eq!(slots.run(work(true)).await, 7);
        assert_eq!((slots.free.borrow().len(), dropped.get()), (1, 1));
        let first_slot = || slots.free.borrow().first().map(|slot| std::ptr::from_ref(&**slot).addr());
        let place = first_slot();
        let mut given_up = slots.run(work(false));
        let waits = poll_fn(|cx| Poll::Ready(Pin::new(&mut given_up).poll(cx).is_pending()));
        assert!(waits.await);
        assert!(slots.free.borrow().is_empty());
        drop(given_up);
        assert_eq!((slots.free.borrow().len(), dropped.get()), (1, 2));
        assert_eq!(first_slot(), place, "the same room");
    }

    struct Dropped(Rc<Cell<u32>>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
}
