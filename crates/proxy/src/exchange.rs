//! One request on its way: what is kept of it between attempts.

use std::cell::Cell;
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, Version, header, request};
use ringway_route::{Access, Reason, Tried, Why};
use ringway_topology::{Epoch, Map, NodeIndex, Partition};
use tokio::time::Instant;

use crate::access_log::Line;
use crate::body::Body;
use crate::claim::Claim;
use crate::clock;
use crate::edge::ConnectionInfo;
use crate::headers::{self, Address, Found, Screened, X_REQUEST_ID};
use crate::hold::Held;
use crate::http1::buffers;
use crate::ids::WriteId;
use crate::key::{self, Head};
use crate::metrics::{MethodClass, RouteLabel};
use crate::options::Reads;
use crate::router::Core;
use crate::transfer::{SentBody, Transfer};
use crate::upstream::Node;

/// A request that has a key and may be forwarded.
pub(crate) struct Exchange<'r> {
    pub(crate) facts: Facts,
    pub(crate) partition: Partition,
    pub(crate) hash: u64,
    pub(crate) access: Access,
    pub(crate) safe: bool,
    pub(crate) transfer: Transfer,
    /// The head as every attempt sends it, but for what is told to that one node.
    parts: &'r mut request::Parts,
    added: Added,
    write_id: Option<WriteId>,
    /// The request's deadline; moves on while its body flows.
    pub(crate) deadline: Cell<Instant>,
    pub(crate) tried: Tried,
    /// The newest claim a 421 brought; serves this request only.
    claim: Option<Learned>,
    pub(crate) held: Option<Held>,
    pub(crate) retries: u32,
    /// In `claimed` ownership: newer claims met since the last hold. In `derived`: 421s.
    pub(crate) misdirected: u32,
}

/// How long a claim from a 421 is believed over the map. Gossip brings a decided claim within a second or so; one
/// that it does not confirm may be a node's mistake, and must not lead the request astray for good.
pub(crate) const CLAIM_LAPSE: Duration = Duration::from_secs(2);

/// What every attempt adds to the client's fields. It is written behind them ([`Address`]), as to put a field into a map
/// costs several times what it costs to write it; unless a route may look for its key in it.
#[derive(Debug, Clone, Copy)]
struct Added {
    /// `Via` is not in the map.
    via: bool,
    /// The client gave no `X-Request-Id`, and the one that was made is not in the map.
    request_id: bool,
}

struct Learned {
    claim: Claim,
    until: Instant,
}

/// What the end of a request needs to know, however it ends: for the answer, the log, the metrics and `explain`.
pub(crate) struct Facts {
    pub(crate) started: Instant,
    pub(crate) method: MethodClass,
    pub(crate) http2: bool,
    pub(crate) route: Option<usize>,
    pub(crate) screened: Screened,
    pub(crate) request_id: Option<HeaderValue>,
    pub(crate) partition: Option<Partition>,
    pub(crate) epoch: Epoch,
    pub(crate) node: Option<Rc<Node>>,
    pub(crate) why: Option<Why>,
    pub(crate) attempts: u32,
    /// Why the request was to be sent again, the last time.
    pub(crate) cause: Option<Reason>,
    /// A write, sent to a node that did not answer: it may have taken effect.
    pub(crate) unsettled: bool,
    /// The request had to be sent again and its body was not there any more.
    pub(crate) body_gone: bool,
    pub(crate) denied: bool,
    /// When the last attempt began.
    pub(crate) attempted: Instant,
    pub(crate) held_since: Option<Instant>,
    /// What the access log will say, when there is one.
    pub(crate) line: Option<Box<Line>>,
}

/// A request as one attempt sends it. Its head stays where it is, for the next one.
#[derive(Debug)]
pub(crate) struct Sending<'r> {
    pub(crate) parts: &'r request::Parts,
    pub(crate) address: Address<'r>,
    pub(crate) body: SentBody,
}

#[cfg(test)]
impl<'r> Sending<'r> {
    /// To partition 0 at epoch 0.
    pub(crate) fn plain(parts: &'r request::Parts, body: SentBody) -> Self {
        let address = Address {
            via: None,
            made_id: None,
            partition: Partition(0),
            epoch: Epoch::DERIVED,
            request_id: None,
            any: false,
        };
        Self { parts, address, body }
    }
}

/// The owner chosen for one attempt.
pub(crate) struct Target {
    pub(crate) node: Rc<Node>,
    pub(crate) position: u8,
    pub(crate) epoch: Epoch,
    /// The epoch of the map it was chosen by; lower than `epoch` when a 421 brought a newer claim.
    pub(crate) map_epoch: Epoch,
    /// The map it was chosen by.
    pub(crate) stamp: u64,
    /// The cluster's ownership is `claimed`: the node keeps to the whole contract.
    pub(crate) claimed: bool,
    /// An owner is left that has not failed this request.
    pub(crate) others_left: bool,
}

impl Facts {
    fn new(parts: &request::Parts, started: Instant) -> Self {
        Self {
            started,
            method: MethodClass::from(&parts.method),
            http2: parts.version == Version::HTTP_2,
            route: None,
            screened: Screened::default(),
            request_id: None,
            partition: None,
            epoch: Epoch::DERIVED,
            node: None,
            why: None,
            attempts: 0,
            cause: None,
            unsettled: false,
            body_gone: false,
            denied: false,
            attempted: started,
            held_since: None,
            line: None,
        }
    }

    /// The end of the router's part: the line in the access log, if there is one, ends with the answer's body. `reason`:
    /// why the answer is one of our own.
    pub(crate) fn follow(&mut self, response: &mut Response<Body>, reason: Option<Reason>) {
        if let Some(mut line) = self.line.take() {
            line.learn(self);
            line.follow(response, reason);
        }
    }

    pub(crate) fn label(&self) -> RouteLabel {
        key::label(self.route)
    }

    /// The decision in words, for `Ringway-Explain`.
    pub(crate) fn explain(&self, hash: u64, routes: &[crate::RouteOptions]) -> String {
        let mut text = String::with_capacity(160);
        let route = self.route.and_then(|at| routes.get(at)).map_or("none", |route| route.name.as_str());
        let _ = write!(text, "route {route}; hash {hash:016x}");
        if let Some(partition) = self.partition {
            let _ = write!(text, "; partition {partition} at epoch {}", self.epoch);
        }
        if let (Some(node), Some(why)) = (&self.node, self.why) {
            let _ = write!(text, "; sent to {} at {}: {}", node.id, node.addr, why.words());
        }
        let _ = write!(text, "; attempts {}", self.attempts);
        if let Some(cause) = self.cause {
            let _ = write!(text, ", the last because of {cause}");
        }
        if let Some(since) = self.held_since {
            let _ = write!(text, "; held since {} ms", since.elapsed().as_millis());
        }
        if self.denied {
            text.push_str("; retry denied by the budget");
        }
        if self.unsettled {
            text.push_str("; sent before without an answer");
        }
        text
    }

    /// What is to be added to an error's reason, for people.
    pub(crate) fn detail(&self) -> Option<&'static str> {
        match self {
            Self { denied: true, .. } => Some("a retry was due and the retry budget denied it"),
            Self { body_gone: true, .. } => {
                Some("the request could not be sent again: its body is longer than what is kept for that")
            }
            Self { unsettled: true, .. } => {
                Some("the write was sent and its answer never came: read the key to learn what became of it")
            }
            _ => None,
        }
    }
}

impl Drop for Facts {
    /// A line that is still here is of a request that was dropped before it was answered.
    fn drop(&mut self) {
        if let Some(mut line) = self.line.take() {
            line.learn(self);
        }
    }
}

/// Why a request does not become an [`Exchange`].
pub(crate) type Refused = Box<(Facts, Reason)>;

impl<'r> Exchange<'r> {
    /// Routes, checks and cleans a request.
    ///
    /// *Errors*: what is wrong with the request; nothing was forwarded.
    pub(crate) fn open(
        core: &Core,
        parts: &'r mut request::Parts,
        body: Body,
        connection: &ConnectionInfo,
        started: Instant,
    ) -> Result<Self, Refused> {
        let mut facts = Facts::new(parts, started);
        facts.line = core.access_log.as_ref().map(|lane| lane.open(parts, connection.peer, started));
        let (partition, hash, added) = match Self::prepare(core, parts, connection, &mut facts) {
            Ok(location) => location,
            Err(reason) => return Err(Box::new((facts, reason))),
        };
        if !facts.screened.length {
            headers::frame_body(&mut parts.headers, &parts.method, facts.http2, &body);
        }
        let safe = parts.method.is_safe();
        let any = facts.route.is_some_and(|at| core.options.routes[at].reads == Reads::Any);
        let access = match (safe, any) {
            (false, _) => Access::Write,
            (true, false) => Access::ReadPrimary,
            (true, true) => Access::ReadAny,
        };
        Ok(Self {
            partition,
            hash,
            access,
            safe,
            transfer: Transfer::new(body, core.options.upstream.replay_bytes),
            write_id: (!safe).then(|| core.ids.write_id()),
            deadline: Cell::new(facts.started + core.options.upstream.total_timeout),
            tried: Tried::default(),
            claim: None,
            held: None,
            retries: 0,
            misdirected: 0,
            parts,
            added,
            facts,
        })
    }

    fn prepare(
        core: &Core,
        parts: &mut request::Parts,
        connection: &ConnectionInfo,
        facts: &mut Facts,
    ) -> Result<(Partition, u64, Added), Reason> {
        let options = &core.options;
        // Before the key is looked for: what is malformed has no key, and the host is one only afterwards.
        let found = Found::of(&parts.headers);
        let own = found.kept_request_id(&parts.headers);
        let stays = own.is_some() && found.request_id_stays();
        let id = own.unwrap_or_else(|| core.ids.trace_id());
        facts.request_id = Some(id.clone());
        facts.screened.grpc = found.speaks_grpc();
        let (identity, trusted) = (&core.identity, &options.trusted);
        facts.screened =
            headers::screen_request(parts, &found, connection, identity, &options.headers, trusted)?;
        let apart = !core.keyed_by_added;
        let added = Added { via: apart, request_id: apart && !found.has_request_id() };
        if !added.via {
            parts.headers.append(header::VIA, identity.via(facts.http2).clone());
        }
        if !added.request_id && !stays {
            parts.headers.insert(X_REQUEST_ID, id);
        }
        let head = Head { method: &parts.method, uri: &parts.uri, headers: &parts.headers };
        let found = key::routing_key(&options.routes, head).map_err(|(reason, route)| {
            facts.route = route;
            reason
        })?;
        facts.route = Some(found.route);
        let location = core.locate(found.hashed());
        facts.partition = Some(location.0);
        Ok((location.0, location.1, added))
    }

    /// One more attempt, at this target.
    pub(crate) fn begin_attempt(&mut self, target: &Target) {
        let facts = &mut self.facts;
        if facts.attempts > 0 || facts.held_since.is_some() {
            facts.attempted = clock::now();
        }
        facts.attempts += 1;
        facts.epoch = target.epoch;
        facts.node = Some(Rc::clone(&target.node));
    }

    /// The request as the attempt sends it.
    pub(crate) fn sending<'s>(&'s self, core: &'s Core, target: &Target) -> Sending<'s> {
        let via = self.added.via.then(|| core.identity.via(self.facts.http2));
        let made_id = if self.added.request_id { self.facts.request_id.as_ref() } else { None };
        let request_id = self.write_id.as_ref().map(|id| &id.header);
        let any = self.access == Access::ReadAny && target.claimed;
        let address =
            Address { via, made_id, partition: self.partition, epoch: target.epoch, request_id, any };
        Sending { parts: self.parts, address, body: self.transfer.send() }
    }

    /// Nothing is sent any more: the memory of its headers goes to the next request.
    pub(crate) fn give_headers(&mut self) {
        buffers::give_headers(std::mem::take(&mut self.parts.headers));
    }

    /// Takes a claim that a node sent with a 421, if it is about this request's partition and newer than all known.
    pub(crate) fn learn(&mut self, claim: Claim) {
        let known = self.claim.as_ref().map(|learned| learned.claim.epoch);
        if claim.partition == self.partition && known.is_none_or(|known| known < claim.epoch) {
            self.claim = Some(Learned { claim, until: Instant::now() + CLAIM_LAPSE });
        }
    }

    /// The owners and epoch of a newer claim than the map's, by the map's node indexes; `None` when its primary is not
    /// known there, or the claim has lapsed.
    pub(crate) fn claimed_owners(&self, map: &Map) -> Option<(Vec<NodeIndex>, Epoch)> {
        let learned =
            self.claim.as_ref().filter(|learned| learned.claim.epoch > map.epoch(self.partition))?;
        let claim = (Instant::now() < learned.until).then_some(&learned.claim)?;
        let known = claim.owners.iter().map(|owner| {
            map.node_by_id(&owner.node).filter(|(_, node)| node.store == owner.store).map(|(index, _)| index)
        });
        let known: Vec<_> = known.collect();
        known.first().copied().flatten()?;
        Some((known.into_iter().flatten().collect(), claim.epoch))
    }
}

/// Whether an answer counts as a failure of the node (and not of what was asked of it).
pub(crate) fn is_failure(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}
