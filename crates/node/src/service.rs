//! One request on the data listener of a node in derived ownership, from its head to its answer. Read it top-down.

use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request};
use http_body_util::BodyExt;
use ringway_proxy::edge::{ConnectionInfo, WorkerService};
use ringway_proxy::key::RoutingKey;
use ringway_proxy::metrics::{MethodClass, Misdirected};
use ringway_proxy::{Body, Claim, Reason, check_head};
use ringway_topology::map::Location;
use tokio::time::Instant;

use crate::answer::{Refused, body_error, check_put, check_read, condition, describe, whole_or_stream};
use crate::contract::{Admission, RINGWAY_CLAIM, RINGWAY_EPOCH, Routed, admit, claim};
use crate::front::{Front, KV};
use crate::problem::{Refusal, etag_value};
use crate::store::{Delete, PartitionStore, StoreError, Upload};

/// What one worker answers requests with.
pub(crate) struct NodeService<S> {
    pub(crate) store: Arc<S>,
    pub(crate) front: Front,
}

/// What the node's own map says about a request.
struct Admitted {
    admission: Admission,
    located: Location,
    /// For a 421.
    claim: Option<Claim>,
}

impl<S: PartitionStore> WorkerService for NodeService<S> {
    async fn call(self: Rc<Self>, request: Request<Body>, connection: ConnectionInfo) -> Response<Body> {
        let began = Instant::now();
        let method = MethodClass::from(request.method());
        let (response, counted) = self.answer(request, connection).await;
        if !counted {
            self.front.metrics.request(KV, method, response.status(), began.elapsed());
        }
        response
    }

    fn overloaded(&self, connection: ConnectionInfo) -> Response<Body> {
        self.front.router.overloaded(connection)
    }

    fn refused(&self, reason: Reason, detail: &'static str, connection: ConnectionInfo) -> Response<Body> {
        self.front.router.refused(reason, detail, connection)
    }
}

impl<S: PartitionStore> NodeService<S> {
    /// The answer, and whether the router has counted it already.
    async fn answer(&self, request: Request<Body>, connection: ConnectionInfo) -> (Response<Body>, bool) {
        if let Err(reason) = check_head(&request) {
            return (self.front.refuse_head(reason, &connection), false);
        }
        let (key, routed) = match self.front.read_head(&request) {
            Ok(read) => read,
            Err(refused) => return (self.front.refuse(refused, None), false),
        };
        if !self.front.ready.wait().await {
            return (self.front.refuse(Refusal::from(Reason::NotReady).into(), None), false);
        }
        let Admitted { admission, located, claim } = match self.admit(&key, request.method(), routed) {
            Ok(admitted) => admitted,
            Err(refusal) => return (self.front.refuse(refusal.into(), None), false),
        };
        match admission {
            Admission::Forward => (self.front.router.serve(request, connection).await, true),
            Admission::Misdirected => {
                self.front.metrics.misdirected(Misdirected::Answered);
                let mut response = self.front.refuse(Refusal::WrongOwner.into(), Some(located.partition));
                response.headers_mut().extend(claim.map(|claim| (RINGWAY_CLAIM, claim.to_header())));
                (response, false)
            }
            Admission::Serve => {
                let mut response = self.serve(request, &key, &located).await;
                if routed.is_some() {
                    response.headers_mut().insert(RINGWAY_EPOCH, HeaderValue::from(located.epoch.0));
                }
                (response, false)
            }
        }
    }

    /// Decides by the map as it is now; the map is let go before anything is awaited.
    fn admit(
        &self,
        key: &RoutingKey<'_>,
        method: &Method,
        routed: Option<Routed>,
    ) -> Result<Admitted, Refusal> {
        let mut reader = self.front.map.borrow_mut();
        let map = reader.load();
        let located = map.locate(key.hashed());
        let admission = admit(map, &located, &self.front.me, method, routed)?;
        let claim = (admission == Admission::Misdirected).then(|| claim(map, located.partition));
        Ok(Admitted { admission, located, claim })
    }

    /// Answers from the store.
    async fn serve(
        &self,
        request: Request<Body>,
        key: &RoutingKey<'_>,
        located: &Location,
    ) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let answer = match parts.method {
            Method::GET => self.get(&parts.headers, key, located).await,
            Method::HEAD => self.head(&parts.headers, key, located).await,
            Method::PUT => self.put(&parts, body, key, located).await,
            Method::DELETE => self.delete(&parts.headers, key, located).await,
            _ => Err(Refusal::Method.into()),
        };
        answer.unwrap_or_else(|refused| self.front.refuse(refused, Some(located.partition)))
    }

    async fn get(
        &self,
        headers: &HeaderMap,
        key: &RoutingKey<'_>,
        located: &Location,
    ) -> Result<Response<Body>, Refused> {
        let condition = condition(headers)?;
        let found = self.store.get(located.partition, &key.key).await?;
        let (meta, value) = found.ok_or(Refusal::NoSuchKey)?;
        if let Some(unmodified) = check_read(&condition, &meta)? {
            return Ok(unmodified);
        }
        let body = whole_or_stream(value).await?;
        Ok(describe(Response::new(body), &meta))
    }

    async fn head(
        &self,
        headers: &HeaderMap,
        key: &RoutingKey<'_>,
        located: &Location,
    ) -> Result<Response<Body>, Refused> {
        let condition = condition(headers)?;
        let found = self.store.head(located.partition, &key.key).await?;
        let meta = found.ok_or(Refusal::NoSuchKey)?;
        if let Some(unmodified) = check_read(&condition, &meta)? {
            return Ok(unmodified);
        }
        Ok(describe(Response::new(Body::empty()), &meta))
    }

    async fn put(
        &self,
        parts: &request::Parts,
        mut body: Body,
        key: &RoutingKey<'_>,
        located: &Location,
    ) -> Result<Response<Body>, Refused> {
        let condition = condition(&parts.headers)?;
        let content_type = check_put(parts, &body, self.store.value_bytes_max())?;
        let mut upload = self.store.put(located.partition, &key.key, content_type);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| body_error(error.as_ref()))?;
            // Trailers mean nothing to a value.
            if let Ok(bytes) = frame.into_data() {
                upload.write(bytes).await?;
            }
        }
        let put = upload.commit(condition).await?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = if put.created { StatusCode::CREATED } else { StatusCode::NO_CONTENT };
        response.headers_mut().extend(etag_value(&put.etag).map(|etag| (header::ETAG, etag)));
        Ok(response)
    }

    async fn delete(
        &self,
        headers: &HeaderMap,
        key: &RoutingKey<'_>,
        located: &Location,
    ) -> Result<Response<Body>, Refused> {
        let condition = condition(headers)?;
        match self.store.delete(located.partition, &key.key, condition).await {
            Ok(Delete::Deleted) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                Ok(response)
            }
            // Without its condition the request would be a 404, so the condition is not looked at (RFC 9110 §13.2.1).
            Ok(Delete::Absent) | Err(StoreError::Unmet { current: None, .. }) => {
                Err(Refusal::NoSuchKey.into())
            }
            Err(error) => Err(error.into()),
        }
    }
}
