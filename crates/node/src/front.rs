//! What every request on a node's data listener meets first, whatever the ownership.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, header};
use ringway_proxy::edge::ConnectionInfo;
use ringway_proxy::key::{Head, RoutingKey, routing_key};
use ringway_proxy::metrics::{RouteLabel, WorkerMetrics};
use ringway_proxy::{Body, Reason, RouteOptions, Router};
use ringway_topology::{Owner, Partition, SnapshotReader};
use tokio::time::Instant;

use crate::answer::Refused;
use crate::contract::Routed;
use crate::problem::{Detail, Refusal};

/// Between two looks at whether the node is ready.
const READY_PAUSE: Duration = Duration::from_millis(10);
/// The one route of a node, in metrics.
pub(crate) const KV: RouteLabel = RouteLabel(0);

/// What one worker meets requests with.
pub(crate) struct Front {
    pub(crate) me: Owner,
    pub(crate) map: RefCell<SnapshotReader>,
    pub(crate) routes: Vec<RouteOptions>,
    pub(crate) router: Router,
    pub(crate) ready: Readiness,
    /// Header fields of a request that no router has passed on.
    pub(crate) fields_max: usize,
    pub(crate) metrics: WorkerMetrics,
}

/// Whether the map is complete enough to serve by. Once it is, it stays so: a map grows stale, but not incomplete.
pub(crate) struct Readiness {
    pub(crate) check: Arc<dyn Fn() -> bool + Send + Sync>,
    pub(crate) seen: Cell<bool>,
    pub(crate) wait: Duration,
}

impl Front {
    /// The key, read exactly as a router reads it, and what a router says about the request.
    pub(crate) fn read_head(
        &self,
        request: &Request<Body>,
    ) -> Result<(RoutingKey<'static>, Option<Routed>), Refused> {
        let headers = request.headers();
        let routed = Routed::from_headers(headers)?;
        if routed.is_none() && headers.len() > self.fields_max {
            return Err(Refusal::from(Reason::HeaderTooLarge).into());
        }
        let head = Head { method: request.method(), uri: request.uri(), headers };
        let RoutingKey { route, key, hashed } =
            routing_key(&self.routes, head).map_err(|(reason, route)| Refused {
                refusal: reason.into(),
                text: route.and_then(|at| self.routes[at].key_problem(reason)),
                current: None,
            })?;
        Ok((RoutingKey { route, key: key.into_owned().into(), hashed }, routed))
    }

    /// Refuses what a router would not have forwarded.
    pub(crate) fn refuse_head(&self, reason: Reason, connection: &ConnectionInfo) -> Response<Body> {
        let mut response = self.refuse(Refusal::from(reason).into(), None);
        if reason == Reason::MalformedRequest && !connection.http2 {
            // Where such a message ends is anybody's guess: nothing after it may be read as a request.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The answer to what cannot be served, counted unless it is what a client may expect.
    pub(crate) fn refuse(&self, refused: Refused, partition: Option<Partition>) -> Response<Body> {
        let Refused { refusal, text, current } = refused;
        // What a client asked for and is not so is an answer, not an error.
        if !matches!(
            refusal,
            Refusal::NoSuchKey | Refusal::ConditionFailed | Refusal::WrongOwner | Refusal::ClaimBehind
        ) {
            self.metrics.error(refusal.label());
        }
        refusal.response(self.me.node.as_str(), &Detail { text: text.as_deref(), partition, current })
    }
}

impl Readiness {
    /// A node that is not in the picture yet knows neither what it owns nor who owns the rest. It will in a moment:
    /// a request that comes before waits for that, and costs its client latency instead of an error.
    pub(crate) async fn wait(&self) -> bool {
        if self.seen.get() {
            return true;
        }
        let deadline = Instant::now() + self.wait;
        loop {
            if (self.check)() {
                self.seen.set(true);
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(READY_PAUSE).await;
        }
    }
}
