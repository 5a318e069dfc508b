//! One request on hyper's paths: from its head to the head of its answer.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use hyper::body::{Body as _, Incoming};

use super::connection::{Connections, InFlight};
use super::gate::{Gate, Running, Serve};
use super::http1::request::{Refusal, TOO_LARGE};
use super::request::{RequestBody, ResponseBody, Upload};
use super::timing::{ConnectionClock, RequestTicket};
use super::{ConnectionInfo, WorkerService};
use crate::body::{Body, BoxError};
use crate::metrics::worker::{EdgeRejection, WorkerCells};

/// A request that is being answered.
///
/// Small, and no async block: hyper moves it some times before it runs, and an HTTP/2 connection has one for each of its
/// streams. What is large about a request is in the gate's slot.
pub(super) struct Responding<C: Serve> {
    answer: Answer<C>,
    /// Taken by the answer.
    under_way: Option<UnderWay>,
}

enum Answer<C: Serve> {
    Running(Running<C>),
    /// Nobody was asked. Taken when it is given.
    Refused(Option<Box<Response<Body>>>),
}

/// What a request is until its answer has left.
struct UnderWay {
    idle: std::time::Duration,
    ticket: RequestTicket,
    in_flight: InFlight,
}

impl<C: Serve> Responding<C> {
    /// Lets a request through the gate, unless its head is over a bound that hyper does not know. Its body, when it has one,
    /// gets its idle timer; the other half tells what becomes of it.
    pub(super) fn new<S: WorkerService>(
        request: Request<Incoming>,
        info: ConnectionInfo,
        worker: &Connections<S>,
        clock: &Rc<ConnectionClock>,
        gate: &Gate<C>,
    ) -> (Self, Option<Rc<Upload>>) {
        let in_flight = InFlight::new(worker.metrics.clone());
        let idle = worker.options.body_idle_timeout;
        let under_way = UnderWay { idle, ticket: clock.request(), in_flight };
        let fields = request.headers().len();
        let mut upload = None;
        let request = request.map(|incoming| {
            if incoming.is_end_stream() {
                return Body::empty();
            }
            let (body, watched) = RequestBody::new(incoming, idle, worker.metrics.clone());
            upload = Some(watched);
            body.into()
        });
        let refusal = |response| Answer::Refused(Some(Box::new(response)));
        let answer = if fields > worker.options.headers_max {
            let Refusal { reason, detail } = TOO_LARGE;
            refusal(worker.service.refused(reason, detail, info))
        } else if let Some(running) = gate.enter(request, info) {
            Answer::Running(running)
        } else {
            WorkerCells::count(&worker.metrics.cells.edge_rejections, EdgeRejection::Concurrency);
            refusal(worker.service.overloaded(info))
        };
        (Self { answer, under_way: Some(under_way) }, upload)
    }
}

impl<C: Serve> Future for Responding<C> {
    type Output = Result<Response<ResponseBody>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = match &mut self.answer {
            Answer::Running(running) => Some(ready!(Pin::new(running).poll(cx))),
            Answer::Refused(response) => response.take().map(|response| *response),
        };
        let (Some(response), Some(UnderWay { idle, ticket, in_flight })) = (response, self.under_way.take())
        else {
            return Poll::Pending;
        };
        Poll::Ready(Ok(response.map(|body| ResponseBody::new(body, idle, ticket, in_flight))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::gate::gate;
    use crate::edge::tests::Puppet;

    /// Each stream of each connection has one.
    #[test]
    fn what_hyper_moves_about_is_small() {
        const BYTES_MAX: usize = 96;
        fn size<C: Serve>(_: impl FnOnce() -> Gate<C>) -> usize {
            size_of::<Responding<C>>()
        }
        fn nobody() -> Rc<Puppet> {
            unreachable!("only its type is asked for")
        }
        let bytes = size(|| gate(nobody(), 1));
        assert!(bytes <= BYTES_MAX, "{bytes}");
    }
}
