//! One turn of a worker's loop: what has come is read first, and what is to go out leaves behind that, together.
//!
//! A send wakes whoever waits at its other end. On loopback, and with a network card's queue likewise, that is cheap
//! while the other end is still busy with what was sent before, and dear once it sleeps: to wake an idle core takes an
//! interrupt, in a virtual machine by way of the host, and the sender pays. Sends that follow each other at once wake it
//! once; the same sends with a receive and its work before each wake it again and again.
//!
//! So a send first lets past whatever else is at hand in its thread ([`others_first`]): its task goes to the end of the
//! queue once. It holds no buffer meanwhile. Nothing is kept for it outside its task, so that a request that is given up
//! takes its send along. A request that is alone in its thread ([`UnderWay`]) does not wait.

use std::cell::Cell;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Requests under way in a thread from which on sends are put off. Fewer have nobody to let past, or nearly nobody, and
/// would pay for being polled once more.
const REQUESTS_MIN: usize = 2;

thread_local! {
    static REQUESTS: Cell<usize> = const { Cell::new(0) };
    static PUT_OFF: Cell<bool> = const { Cell::new(false) };
}

/// Counts a request as under way in this thread, for as long as it lives.
#[derive(Debug)]
pub(crate) struct UnderWay {
    /// Stays in its thread.
    _thread: PhantomData<*const ()>,
}

impl UnderWay {
    /// *Cost*: a load and a store.
    pub(crate) fn begin() -> Self {
        REQUESTS.set(REQUESTS.get() + 1);
        Self { _thread: PhantomData }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        REQUESTS.set(REQUESTS.get() - 1);
    }
}

/// Lets past, once, what else is at hand in this thread. Await it before what is to be sent is written into a buffer.
///
/// *Cost*: a load while few requests are under way; else the task is polled once more.
pub(crate) fn others_first() -> OthersFirst {
    OthersFirst { put_off: false }
}

/// See [`others_first`].
#[derive(Debug)]
pub(crate) struct OthersFirst {
    put_off: bool,
}

impl Future for OthersFirst {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.put_off || REQUESTS.get() < REQUESTS_MIN {
            return Poll::Ready(());
        }
        self.put_off = true;
        PUT_OFF.set(true);
        // Not the runtime's own yield: that one waits until it has asked the system for news, and more would come first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// What was put off until now is of no interest to who is polled next: see [`was_put_off`].
pub(crate) fn begin_poll() {
    PUT_OFF.set(false);
}

/// Whether something let others past since [`begin_poll`]. Then the task is polled again in any case, and need not leave
/// its waker anywhere else.
pub(crate) fn was_put_off() -> bool {
    PUT_OFF.get()
}

/// Requests under way in this thread.
#[cfg(test)]
pub(crate) fn under_way() -> usize {
    REQUESTS.get()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::rc::Rc;

    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    /// Tasks that each read and send so often; what was done, in order.
    async fn notes_of(tasks: &[(&'static str, usize)]) -> Vec<String> {
        let notes = Rc::new(RefCell::new(Vec::new()));
        let work = async {
            let mut running = Vec::new();
            for (name, times) in tasks.iter().copied() {
                let (request, notes) = (UnderWay::begin(), Rc::clone(&notes));
                running.push(spawn_local(async move {
                    let _request = request;
                    for _ in 0..times {
                        notes.borrow_mut().push(format!("{name} reads"));
                        others_first().await;
                        notes.borrow_mut().push(format!("{name} sends"));
                    }
                }));
            }
            for task in running {
                task.await.unwrap();
            }
        };
        LocalSet::new().run_until(work).await;
        assert_eq!(under_way(), 0);
        notes.take()
    }

    #[tokio::test]
    async fn what_came_is_read_before_anything_is_sent() {
        let notes = notes_of(&[("a", 1), ("b", 1), ("c", 1)]).await;
        assert_eq!(notes, ["a reads", "b reads", "c reads", "a sends", "b sends", "c sends"]);
    }

    #[tokio::test]
    async fn who_has_much_to_send_lets_the_others_past_each_time() {
        let notes = notes_of(&[("pipeline", 50), ("other", 2)]).await;
        let other = notes.iter().rposition(|note| note == "other sends").unwrap();
        assert_eq!(other, 8, "they take turns: {notes:?}");
        assert_eq!(notes.len(), 104);
    }

    #[tokio::test]
    async fn a_request_alone_does_not_wait() {
        let _request = UnderWay::begin();
        assert!(poll_fn(|cx| Poll::Ready(pin!(others_first()).poll(cx).is_ready())).await);
        let other = UnderWay::begin();
        begin_poll();
        let mut waits = others_first();
        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut waits).poll(cx).is_pending())).await);
        assert!(was_put_off());
        drop(other);
        begin_poll();
        waits.await;
        assert!(!was_put_off());
    }
}
