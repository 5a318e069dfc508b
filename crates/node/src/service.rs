//! One request on a node's data listener, from its head to its answer. Read it top-down.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request};
use http_body::Body as _;
use http_body_util::BodyExt;
use ringway_proxy::edge::{BodyIdle, ConnectionInfo, WorkerService};
use ringway_proxy::key::{Head, RoutingKey, routing_key};
use ringway_proxy::metrics::{MethodClass, Misdirected, RouteLabel, WorkerMetrics};
use ringway_proxy::{Body, Claim, Reason, RouteOptions, Router, check_head};
use ringway_topology::map::Location;
use ringway_topology::{Owner, SnapshotReader};
use tokio::time::Instant;

use crate::contract::{Admission, RINGWAY_CLAIM, RINGWAY_EPOCH, Routed, admit, claim};
use crate::precondition::{Etag, Precondition, Unmet};
use crate::problem::{Detail, Refusal, etag_value};
use crate::store::{ContentType, Delete, PartitionStore, StoreError, Upload, ValueMeta};

/// Between two looks at whether the node is ready.
const READY_PAUSE: Duration = Duration::from_millis(10);
/// The one route of a node, in metrics.
const KV: RouteLabel = RouteLabel(0);
/// Longest value that is answered as one piece instead of a stream.
const WHOLE_BYTES_MAX: u64 = 64 * 1024;

/// What one worker answers requests with.
pub(crate) struct NodeService<S> {
    pub(crate) store: Arc<S>,
    pub(crate) me: Owner,
    pub(crate) map: RefCell<SnapshotReader>,
    pub(crate) routes: Vec<RouteOptions>,
    pub(crate) router: Router,
    pub(crate) ready: Readiness,
    pub(crate) metrics: WorkerMetrics,
}

/// Whether the map is complete enough to serve by. Once it is, it stays so: a map grows stale, but not incomplete.
pub(crate) struct Readiness {
    pub(crate) check: Arc<dyn Fn() -> bool + Send + Sync>,
    pub(crate) seen: Cell<bool>,
    pub(crate) wait: Duration,
}

/// What the node's own map says about a request.
struct Admitted {
    admission: Admission,
    located: Location,
    /// For a 421.
    claim: Option<Claim>,
}

/// Why there is no ordinary answer, with what is known about it.
struct Refused {
    refusal: Refusal,
    text: Option<String>,
    current: Option<Etag>,
}

impl<S: PartitionStore> WorkerService for NodeService<S> {
    async fn call(&self, request: Request<Body>, connection: ConnectionInfo) -> Response<Body> {
        let began = Instant::now();
        let method = MethodClass::from(request.method());
        let (response, counted) = self.answer(request, connection).await;
        if !counted {
            self.metrics.request(KV, method, response.status(), began.elapsed());
        }
        response
    }

    fn overloaded(&self, connection: ConnectionInfo) -> Response<Body> {
        self.router.overloaded(connection)
    }
}

impl<S: PartitionStore> NodeService<S> {
    /// The answer, and whether the router has counted it already.
    async fn answer(&self, request: Request<Body>, connection: ConnectionInfo) -> (Response<Body>, bool) {
        if let Err(reason) = check_head(&request) {
            return (self.refuse_head(reason, &connection), false);
        }
        let (key, routed) = match self.read_head(&request) {
            Ok(read) => read,
            Err(refused) => return (self.refuse(refused, None), false),
        };
        if !self.ready.wait().await {
            return (self.refuse(Refusal::from(Reason::NotReady).into(), None), false);
        }
        let Admitted { admission, located, claim } = match self.admit(&key, request.method(), routed) {
            Ok(admitted) => admitted,
            Err(refusal) => return (self.refuse(refusal.into(), None), false),
        };
        match admission {
            Admission::Forward => (self.router.serve(request, connection).await, true),
            Admission::Misdirected => {
                self.metrics.misdirected(Misdirected::Answered);
                let mut response = self.refuse(Refusal::WrongOwner.into(), Some(&located));
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

    /// The key, read exactly as a router reads it, and what a router says about the request.
    fn read_head(&self, request: &Request<Body>) -> Result<(RoutingKey<'static>, Option<Routed>), Refused> {
        let headers = request.headers();
        let routed = Routed::from_headers(headers)?;
        let head = Head { method: request.method(), uri: request.uri(), headers };
        let RoutingKey { route, key, hashed } =
            routing_key(&self.routes, head).map_err(|(reason, route)| Refused {
                refusal: reason.into(),
                text: route.and_then(|at| self.routes[at].key_problem(reason)),
                current: None,
            })?;
        Ok((RoutingKey { route, key: key.into_owned().into(), hashed }, routed))
    }

    /// Decides by the map as it is now; the map is let go before anything is awaited.
    fn admit(
        &self,
        key: &RoutingKey<'_>,
        method: &Method,
        routed: Option<Routed>,
    ) -> Result<Admitted, Refusal> {
        let mut reader = self.map.borrow_mut();
        let map = reader.load();
        let located = map.locate(key.hashed());
        let admission = admit(map, &located, &self.me, method, routed)?;
        let claim = (admission == Admission::Misdirected).then(|| claim(map, &located));
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
        answer.unwrap_or_else(|refused| self.refuse(refused, Some(located)))
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

    /// Refuses what a router would not have forwarded.
    fn refuse_head(&self, reason: Reason, connection: &ConnectionInfo) -> Response<Body> {
        let mut response = self.refuse(Refusal::from(reason).into(), None);
        if reason == Reason::MalformedRequest && !connection.http2 {
            // Where such a message ends is anybody's guess: nothing after it may be read as a request.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn refuse(&self, refused: Refused, located: Option<&Location>) -> Response<Body> {
        let Refused { refusal, text, current } = refused;
        // What a client asked for and is not so is an answer, not an error.
        if !matches!(refusal, Refusal::NoSuchKey | Refusal::ConditionFailed | Refusal::WrongOwner) {
            self.metrics.error(refusal.label());
        }
        let partition = located.map(|located| located.partition);
        refusal.response(self.me.node.as_str(), &Detail { text: text.as_deref(), partition, current })
    }
}

impl Readiness {
    /// A node that is not in the picture yet knows neither what it owns nor who owns the rest. It will in a moment:
    /// a request that comes before waits for that, and costs its client latency instead of an error.
    async fn wait(&self) -> bool {
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

fn condition(headers: &HeaderMap) -> Result<Precondition, Refused> {
    Precondition::from_headers(headers).map_err(|error| Refused {
        refusal: Refusal::ConditionMalformed,
        text: Some(error.to_string()),
        current: None,
    })
}

/// Evaluates a read's condition: `Some` is the 304 (RFC 9110 §15.4.5).
fn check_read(condition: &Precondition, meta: &ValueMeta) -> Result<Option<Response<Body>>, Refused> {
    match condition.check(Some(&meta.etag)) {
        Ok(()) => Ok(None),
        Err(Unmet::IfMatch) => {
            Err(Refused { refusal: Refusal::ConditionFailed, text: None, current: Some(meta.etag) })
        }
        Err(Unmet::IfNoneMatch) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response.headers_mut().extend(etag_value(&meta.etag).map(|etag| (header::ETAG, etag)));
            Ok(Some(response))
        }
    }
}

/// Checks a PUT's head before anything of its body is read.
fn check_put(parts: &request::Parts, body: &Body, bytes_max: u64) -> Result<ContentType, Refused> {
    let headers = &parts.headers;
    // HTTP/1.1 without either says that there is no body: more likely a forgotten one than an empty value.
    let announced =
        headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING);
    if !announced && parts.version < Version::HTTP_2 && body.is_end_stream() {
        return Err(Refusal::LengthRequired.into());
    }
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(Refusal::PartialPut.into());
    }
    let coded = headers.get_all(header::CONTENT_ENCODING).iter();
    if coded.into_iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Refusal::ContentCoding.into());
    }
    if body.size_hint().lower() > bytes_max {
        return Err(StoreError::TooLarge { bytes_max }.into());
    }
    let content_type = headers.get(header::CONTENT_TYPE).map_or(b"".as_slice(), HeaderValue::as_bytes);
    ContentType::new(content_type).ok_or_else(|| Refusal::ContentType.into())
}

fn body_error(error: &(dyn std::error::Error + 'static)) -> Refused {
    let reason = if error.is::<BodyIdle>() { Reason::RequestTimeout } else { Reason::RequestBody };
    Refusal::from(reason).into()
}

/// A value of one chunk becomes a body of one piece: no box, and its length is plain.
async fn whole_or_stream<V>(mut value: V) -> Result<Body, Refused>
where
    V: http_body::Body<Data = Bytes, Error = StoreError> + Unpin + 'static,
{
    if value.size_hint().exact().is_none_or(|bytes| bytes > WHOLE_BYTES_MAX) {
        return Ok(Body::boxed(value));
    }
    let mut whole = Vec::new();
    let mut first = None;
    while let Some(frame) = value.frame().await {
        let Ok(bytes) = frame?.into_data() else { continue };
        match first.take() {
            None if whole.is_empty() => first = Some(bytes),
            earlier => {
                whole.extend_from_slice(&earlier.unwrap_or_default());
                whole.extend_from_slice(&bytes);
            }
        }
    }
    Ok(first.unwrap_or_else(|| whole.into()).into())
}

/// The headers of a 200.
fn describe(mut response: Response<Body>, meta: &ValueMeta) -> Response<Body> {
    let content_type = match meta.content_type.is_empty() {
        true => Some(HeaderValue::from_static("application/octet-stream")),
        false => HeaderValue::from_maybe_shared(meta.content_type.to_bytes()).ok(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(meta.bytes));
    headers.extend(content_type.map(|value| (header::CONTENT_TYPE, value)));
    headers.extend(etag_value(&meta.etag).map(|value| (header::ETAG, value)));
    response
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, text: None, current: None }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        let refusal = Refusal::from(&error);
        match error {
            StoreError::Unmet { current, .. } => Self { refusal, text: None, current },
            StoreError::TooLarge { .. } | StoreError::Corrupt(_) | StoreError::Failed(_) => {
                Self { refusal, text: Some(error.to_string()), current: None }
            }
            StoreError::Busy | StoreError::DiskFull | StoreError::Closed => refusal.into(),
        }
    }
}
