//! One request on the data listener of a node in claimed ownership, from its head to its answer. Read it top-down.
//!
//! A request that a router sent is served here or refused; the engine says which. One that a client sent goes through
//! this node's own router, like at any other node, and so gets its request id, its holds and its repeats from there.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, request};
use http_body::Body as _;
use http_body_util::BodyExt;
use ringway_control::ownership::{self, WriteOutcome, WriteRequest};
use ringway_member::clock::Clock;
use ringway_proxy::edge::{ConnectionInfo, WorkerService};
use ringway_proxy::key::RoutingKey;
use ringway_proxy::metrics::{MethodClass, Misdirected};
use ringway_proxy::{Body, Claim, Reason, check_head};
use ringway_topology::{Epoch, Partition};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::answer::{Refused, body_error, check_put, check_read, condition, describe};
use crate::contract::{
    RINGWAY_CLAIM, RINGWAY_EPOCH, RINGWAY_OUTCOME, RINGWAY_STALENESS, Routed, asks_for_any, claim, request_id,
};
use crate::front::{Front, KV};
use crate::owner::OwnerHandle;
use crate::problem::{Refusal, etag_value};
use crate::replica::{REPLICATED_VALUE_BYTES_MAX, ReplicaStore, WriteOp, WriteResult};
use crate::store::{StoreError, ValueMeta};

/// What one worker answers requests with.
pub(crate) struct ClaimedService<S> {
    pub(crate) store: Arc<S>,
    pub(crate) front: Front,
    pub(crate) owner: OwnerHandle,
    pub(crate) write_timeout: Duration,
    /// Room for values on their way into the log, in KiB; all workers share it.
    pub(crate) room: Arc<Semaphore>,
}

/// Why a request was not served, and what the router is told about it.
enum Unserved {
    /// The claim, for a 421.
    Elsewhere(Option<Claim>),
    /// The engine does not know of the epoch.
    Behind(Epoch),
    /// What any client may be told.
    Refused(Refused),
    /// The write was appended, and its outcome is not known.
    Unknown,
    /// The write's id is older than what is remembered.
    Forgotten,
}

impl<S: ReplicaStore> WorkerService for ClaimedService<S> {
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

impl<S: ReplicaStore> ClaimedService<S> {
    /// The answer, and whether the router has counted it already.
    async fn answer(&self, request: Request<Body>, connection: ConnectionInfo) -> (Response<Body>, bool) {
        if let Err(reason) = check_head(&request) {
            return (self.front.refuse_head(reason, &connection), false);
        }
        let (key, routed) = match self.front.read_head(&request) {
            Ok(read) => read,
            Err(refused) => return (self.front.refuse(refused, None), false),
        };
        let Some(Routed { partition, epoch }) = routed else {
            // The router waits for the first map by itself, and refuses in its own words.
            return (self.front.router.serve(request, connection).await, true);
        };
        let located = self.front.map.borrow_mut().load().locate(key.hashed());
        if located.partition != partition {
            return (self.front.refuse(Refusal::PartitionMismatch.into(), None), false);
        }
        let served = self.serve(request, &key, partition, epoch).await;
        (served.unwrap_or_else(|unserved| self.refuse(unserved, partition)), false)
    }

    async fn serve(
        &self,
        request: Request<Body>,
        key: &RoutingKey<'_>,
        partition: Partition,
        epoch: Epoch,
    ) -> Result<Response<Body>, Unserved> {
        let (parts, body) = request.into_parts();
        let place = Place { key, partition, epoch };
        let served = match parts.method {
            Method::GET | Method::HEAD => self.read(&parts, place).await,
            Method::PUT => self.put(&parts, body, place).await,
            Method::DELETE => self.delete(&parts, place).await,
            _ => Err(Refusal::Method.into()),
        };
        // What was looked up or written is served, whatever came of it; only then is the epoch true.
        let served = match served {
            Err(Unserved::Refused(refused)) if refused.refusal.is_served() => {
                Ok(self.front.refuse(refused, Some(partition)))
            }
            other => other,
        };
        served.map(|mut response| {
            response.headers_mut().insert(RINGWAY_EPOCH, HeaderValue::from(epoch.0));
            response
        })
    }

    /// Answers a read from the applied state. Whether it may is looked at before, because a value from before this node
    /// took office is old, and again after the value was read: between the two this process may have stood still, and
    /// its office gone.
    async fn read(&self, parts: &request::Parts, place: Place<'_>) -> Result<Response<Body>, Unserved> {
        let condition = condition(&parts.headers)?;
        let any = asks_for_any(&parts.headers);
        let asked = Clock::now();
        let staleness = self.admit(any, place).await?;
        let found = match parts.method {
            Method::HEAD => self.store.head(place.partition, &place.key.key).await?.map(|meta| (meta, None)),
            _ => match self.store.get(place.partition, &place.key.key).await? {
                Some((meta, value)) => Some((meta, Some(whole(value).await?))),
                None => None,
            },
        };
        self.admit(any, place).await?;
        let mut response = self.found(&condition, found, place.partition)?;
        if let Some(staleness) = staleness {
            // What the owner has heard since is perhaps not in the value.
            let staleness = staleness + Clock::now().saturating_sub(asked);
            let ms = u64::try_from(staleness.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
            response.headers_mut().insert(RINGWAY_STALENESS, HeaderValue::from(ms));
        }
        Ok(response)
    }

    /// Whether a read may be answered at this moment; of an `any` read, how stale it may be.
    async fn admit(&self, any: bool, place: Place<'_>) -> Result<Option<Duration>, Unserved> {
        let Place { partition, epoch, .. } = place;
        let busy = |_| Unserved::from(Refusal::PartitionBusy);
        if any {
            let admitted = self.owner.admit_any_read(partition, epoch).await.map_err(busy)?;
            return admitted.map(Some).map_err(|refused| unserved(refused, epoch));
        }
        match self.owner.admit_read(partition, epoch).await.map_err(busy)? {
            ownership::Admission::Serve => Ok(None),
            refused => Err(unserved(refused, epoch)),
        }
    }

    /// The answer to a read. An absent key and a condition that does not hold are answers, too: theirs may be as stale.
    fn found(
        &self,
        condition: &crate::Precondition,
        found: Option<(ValueMeta, Option<Bytes>)>,
        partition: Partition,
    ) -> Result<Response<Body>, Unserved> {
        let Some((meta, value)) = found else {
            return Ok(self.front.refuse(Refusal::NoSuchKey.into(), Some(partition)));
        };
        match check_read(condition, &meta) {
            Ok(Some(unmodified)) => Ok(unmodified),
            Ok(None) => Ok(describe(Response::new(value.map_or_else(Body::empty, Body::from)), &meta)),
            Err(refused) => Ok(self.front.refuse(refused, Some(partition))),
        }
    }

    async fn put(
        &self,
        parts: &request::Parts,
        body: Body,
        place: Place<'_>,
    ) -> Result<Response<Body>, Unserved> {
        let condition = condition(&parts.headers)?;
        let bytes_max = self.store.value_bytes_max().min(REPLICATED_VALUE_BYTES_MAX);
        let content_type = check_put(parts, &body, bytes_max)?;
        let (value, _room) = self.collect(body, bytes_max).await?;
        let key = Bytes::copy_from_slice(&place.key.key);
        let op = WriteOp::Put { key, value, content_type, condition, stamp: unix_ms() };
        match self.write(&parts.headers, &op, place).await? {
            WriteResult::Put(put) => {
                let mut response = Response::new(Body::empty());
                let status = if put.created { StatusCode::CREATED } else { StatusCode::NO_CONTENT };
                *response.status_mut() = status;
                response.headers_mut().extend(etag_value(&put.etag).map(|etag| (header::ETAG, etag)));
                Ok(response)
            }
            WriteResult::Unmet { current, .. } => {
                Err(Refused { refusal: Refusal::ConditionFailed, text: None, current }.into())
            }
            WriteResult::Forgotten => Err(Unserved::Forgotten),
            WriteResult::Deleted | WriteResult::Absent => Err(impossible("a delete's result")),
        }
    }

    async fn delete(&self, parts: &request::Parts, place: Place<'_>) -> Result<Response<Body>, Unserved> {
        let condition = condition(&parts.headers)?;
        let key = Bytes::copy_from_slice(&place.key.key);
        let op = WriteOp::Delete { key, condition, stamp: unix_ms() };
        match self.write(&parts.headers, &op, place).await? {
            WriteResult::Deleted => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                Ok(response)
            }
            // Without its condition the request would be a 404, so the condition is not looked at (RFC 9110 §13.2.1).
            WriteResult::Absent | WriteResult::Unmet { current: None, .. } => Err(Refusal::NoSuchKey.into()),
            WriteResult::Unmet { current, .. } => {
                Err(Refused { refusal: Refusal::ConditionFailed, text: None, current }.into())
            }
            WriteResult::Forgotten => Err(Unserved::Forgotten),
            WriteResult::Put(_) => Err(impossible("a put's result")),
        }
    }

    /// The whole value, and the room it takes until its write is answered.
    async fn collect(
        &self,
        mut body: Body,
        bytes_max: u64,
    ) -> Result<(Bytes, OwnedSemaphorePermit), Unserved> {
        let announced = body.size_hint().exact().unwrap_or(bytes_max);
        let kib = u32::try_from(announced / 1_024 + 1).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(kib);
        let room = room.map_err(|_| Unserved::from(Refusal::PartitionBusy))?;
        let mut value = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| body_error(error.as_ref()))?;
            // Trailers mean nothing to a value.
            let Ok(bytes) = frame.into_data() else { continue };
            if value.len() as u64 + bytes.len() as u64 > bytes_max {
                return Err(Refused::from(StoreError::TooLarge { bytes_max }).into());
            }
            value.extend_from_slice(&bytes);
        }
        Ok((value.freeze(), room))
    }

    /// Appends a write and waits until it is committed and applied.
    async fn write(
        &self,
        headers: &HeaderMap,
        op: &WriteOp,
        place: Place<'_>,
    ) -> Result<WriteResult, Unserved> {
        let request = request_id(headers)?;
        let Place { partition, epoch, .. } = place;
        let write = WriteRequest { partition, epoch, request, payload: op.encode() };
        let outcome = self.owner.write(write).map_err(|_| Unserved::from(Refusal::PartitionBusy))?;
        match tokio::time::timeout(self.write_timeout, outcome).await {
            Ok(Ok(WriteOutcome::Applied { result, .. })) => {
                WriteResult::decode(&result).map_err(|_| impossible("a result nobody can read"))
            }
            Ok(Ok(WriteOutcome::NotServed(refused))) => Err(unserved(refused, epoch)),
            // Handed in, and then the owner stopped or took too long: it may take effect, or not.
            Ok(Ok(WriteOutcome::Unknown) | Err(_)) | Err(_) => Err(Unserved::Unknown),
        }
    }

    /// The map's claim of a partition in which this node has no part, and of which its engine therefore keeps nothing.
    fn mapped_elsewhere(&self, partition: Partition, epoch: Epoch) -> Option<Claim> {
        let mut reader = self.front.map.borrow_mut();
        let map = reader.load();
        let claim = claim(map, partition);
        (claim.epoch >= epoch && !claim.owners.contains(&self.front.me)).then_some(claim)
    }

    fn refuse(&self, unserved: Unserved, partition: Partition) -> Response<Body> {
        let refuse = |refusal: Refusal| self.front.refuse(refusal.into(), Some(partition));
        let with = |mut response: Response<Body>, name: HeaderName, value: HeaderValue| {
            response.headers_mut().insert(name, value);
            response
        };
        match unserved {
            Unserved::Refused(refused) => self.front.refuse(refused, Some(partition)),
            Unserved::Behind(epoch) => match self.mapped_elsewhere(partition, epoch) {
                Some(claim) => self.refuse(Unserved::Elsewhere(Some(claim)), partition),
                None => refuse(Refusal::ClaimBehind),
            },
            Unserved::Elsewhere(claim) => {
                self.front.metrics.misdirected(Misdirected::Answered);
                let mut response = refuse(Refusal::WrongOwner);
                response.headers_mut().extend(claim.map(|claim| (RINGWAY_CLAIM, claim.to_header())));
                response
            }
            Unserved::Unknown => {
                self.owner.count_unknown();
                with(refuse(Refusal::WriteUnknown), RINGWAY_OUTCOME, HeaderValue::from_static("unknown"))
            }
            Unserved::Forgotten => with(
                refuse(Refusal::RequestForgotten),
                RINGWAY_OUTCOME,
                HeaderValue::from_static("forgotten"),
            ),
        }
    }
}

/// Where a request's key lives, as the router says.
#[derive(Clone, Copy)]
struct Place<'a> {
    key: &'a RoutingKey<'a>,
    partition: Partition,
    epoch: Epoch,
}

/// A value whole in memory.
async fn whole<V>(value: V) -> Result<Bytes, StoreError>
where
    V: http_body::Body<Data = Bytes, Error = StoreError>,
{
    Ok(value.collect().await?.to_bytes())
}

/// Milliseconds of the wall clock. Decides nothing but when remembered results may be forgotten.
#[expect(clippy::disallowed_methods, reason = "results age by it, alike on every replica: it is in the log")]
fn unix_ms() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_epoch.map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

/// The store broke its contract.
fn impossible(what: &str) -> Unserved {
    Refused::from(StoreError::Failed(format!("the store answered with {what}"))).into()
}

/// What a request asked for at `epoch` is told.
fn unserved(admission: ownership::Admission, epoch: Epoch) -> Unserved {
    use ownership::Admission;
    match admission {
        Admission::Misdirected(claim) | Admission::Wait(Some(claim)) => {
            Unserved::Elsewhere(Some(contract_claim(&claim)))
        }
        Admission::Wait(None) => Unserved::Elsewhere(None),
        Admission::Behind => Unserved::Behind(epoch),
        Admission::Busy | Admission::Serve => Refusal::PartitionBusy.into(),
        Admission::DiskFull => Refusal::DiskFull.into(),
    }
}

fn contract_claim(claim: &ownership::Claim) -> Claim {
    Claim { partition: claim.partition, epoch: claim.epoch, owners: claim.owners.to_vec() }
}

impl From<Refused> for Unserved {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Refusal> for Unserved {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal.into())
    }
}

impl From<StoreError> for Unserved {
    fn from(error: StoreError) -> Self {
        Self::Refused(error.into())
    }
}
