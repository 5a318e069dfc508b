//! The way from a worker's connections to its service: room for so many requests at a time, and no more.
//!
//! A request's future is some kilobytes. If each connection kept room for its own, idle ones would cost more than all
//! that is under way; so the futures live in slots, and the slot used last is the one the processor still has at hand.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::{Request, Response};

use super::{ConnectionInfo, WorkerService};
use crate::body::Body;

/// Most slots kept by one worker while nothing runs in them.
const SLOTS_MAX: usize = 256;

/// A service as a function: what [`Gate`] makes of [`WorkerService::call`].
pub(super) trait Serve: 'static {
    /// What answers one request.
    type Answering: Future<Output = Response<Body>> + 'static;

    /// Answers one request.
    fn serve(&self, request: Request<Body>, info: ConnectionInfo) -> Self::Answering;
}

impl<C, F> Serve for C
where
    C: Fn(Request<Body>, ConnectionInfo) -> F + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    type Answering = F;

    fn serve(&self, request: Request<Body>, info: ConnectionInfo) -> F {
        self(request, info)
    }
}

/// One worker's service with room for `concurrency_max` requests, each until its response's head. Who finds no room is
/// told at once and does not queue. Clones share the room.
pub(super) struct Gate<C: Serve> {
    inner: Rc<Inner<C>>,
}

struct Inner<C: Serve> {
    service: C,
    requests_max: usize,
    requests: Cell<usize>,
    free: RefCell<Vec<Slot<C::Answering>>>,
}

type Slot<F> = Pin<Box<Option<F>>>;

/// The gate to a service.
pub(super) fn gate<S: WorkerService>(service: Rc<S>, requests_max: usize) -> Gate<impl Serve> {
    let service = move |request, info| Rc::clone(&service).call(request, info);
    Gate::new(service, requests_max)
}

impl<C: Serve> Gate<C> {
    fn new(service: C, requests_max: usize) -> Self {
        let (requests, free) = (Cell::new(0), RefCell::default());
        Self { inner: Rc::new(Inner { service, requests_max, requests, free }) }
    }

    /// The answer to come; `None` when there is no room.
    ///
    /// *Cost*: a move of the future; an allocation when no slot is free.
    pub(super) fn enter(&self, request: Request<Body>, info: ConnectionInfo) -> Option<Running<C>> {
        let inner = &self.inner;
        if inner.requests.get() >= inner.requests_max {
            return None;
        }
        inner.requests.set(inner.requests.get() + 1);
        // Before the service is called: one that panics gives its room back, too.
        let mut running = Running { slot: None, inner: Rc::clone(inner) };
        let slot = inner.free.borrow_mut().pop().unwrap_or_else(|| Box::pin(None));
        running.slot.insert(slot).set(Some(inner.service.serve(request, info)));
        Some(running)
    }
}

impl<C: Serve> Clone for Gate<C> {
    fn clone(&self) -> Self {
        Self { inner: Rc::clone(&self.inner) }
    }
}

/// A request with the service. Dropping it gives its room and its slot back.
pub(super) struct Running<C: Serve> {
    slot: Option<Slot<C::Answering>>,
    inner: Rc<Inner<C>>,
}

impl<C: Serve> Future for Running<C> {
    type Output = Response<Body>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response<Body>> {
        match self.slot.as_mut().and_then(|slot| slot.as_mut().as_pin_mut()) {
            Some(future) => future.poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<C: Serve> Drop for Running<C> {
    fn drop(&mut self) {
        self.inner.requests.set(self.inner.requests.get() - 1);
        let Some(mut slot) = self.slot.take() else { return };
        slot.set(None);
        let mut free = self.inner.free.borrow_mut();
        if free.len() < SLOTS_MAX {
            free.push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};

    use super::*;
    use crate::headers::no_connection;

    #[tokio::test]
    async fn a_slot_is_used_again_whatever_ended_its_future_and_so_is_its_room() {
        let dropped = Rc::new(Cell::new(0));
        let service = {
            let dropped = Rc::clone(&dropped);
            move |request: Request<Body>, _| {
                let guard = Dropped(Rc::clone(&dropped));
                async move {
                    let _guard = guard;
                    if request.uri().path() == "/never" {
                        pending::<()>().await;
                    }
                    Response::new(Body::from("done"))
                }
            }
        };
        let gate = Gate::new(service, 2);
        let ask =
            |path: &str| gate.clone().enter(Request::get(path).body(Body::empty()).unwrap(), no_connection());
        let first_slot = || gate.inner.free.borrow().first().map(|slot| std::ptr::from_ref(&**slot).addr());

        assert_eq!(ask("/").unwrap().await.status(), 200);
        assert_eq!((gate.inner.free.borrow().len(), dropped.get()), (1, 1));
        let place = first_slot();
        let mut given_up = ask("/never").unwrap();
        let waits = poll_fn(|cx| Poll::Ready(Pin::new(&mut given_up).poll(cx).is_pending()));
        assert!(waits.await);
        assert!(gate.inner.free.borrow().is_empty());

        let other = ask("/").unwrap();
        assert!(ask("/").is_none(), "two are under way");
        drop(other);
        assert!(ask("/").is_some());
        drop(given_up);
        assert_eq!((gate.inner.requests.get(), dropped.get()), (0, 4));
        assert!(
            gate.inner.free.borrow().iter().any(|slot| Some(std::ptr::from_ref(&**slot).addr()) == place)
        );
    }

    #[test]
    fn a_service_that_panics_at_once_gives_its_room_back() {
        let service = |request: Request<Body>, _| {
            assert_ne!(request.uri().path(), "/panic", "as it was asked to");
            async { Response::new(Body::empty()) }
        };
        let gate = Gate::new(service, 1);
        let ask = |path: &str| gate.enter(Request::get(path).body(Body::empty()).unwrap(), no_connection());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ask("/panic").is_some()));
        assert!(panicked.is_err());
        assert!(ask("/").is_some());
    }

    struct Dropped(Rc<Cell<u32>>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
}
