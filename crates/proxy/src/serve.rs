//! A request's life, in order. All branching of the request path is in [`serve_request`]; what it calls decides
//! nothing about the flow.

use std::time::Duration;

use http::{Request, Response};
use ringway_route::{Access, Outcome, Pick, Question, Reason, Standing, Tried, Verdict, hold, pick, verdict};
use ringway_topology::{Health, Ownership};
use tokio::time::Instant;

use crate::body::Body;
use crate::edge::ConnectionInfo;
use crate::exchange::{Exchange, Target, is_failure};
use crate::forward::{Forwarded, forward};
use crate::hold::{Held, PartitionView, Woken, wait};
use crate::metrics::Misdirected;
use crate::router::Core;
use crate::upstream::UpstreamBody;

/// Most attempts of one request. Attempts without a pause between them are bounded by the retries and
/// [`verdict::MISDIRECTED_REPEATS_MAX`], those of a hold by its time; this is the bound that depends on nothing.
pub(crate) const ATTEMPTS_MAX: u32 = 10_000;

/// Answers a request: finds its key, then tries owners until a verdict ends it.
pub(crate) async fn serve_request(
    core: &Core,
    request: Request<Body>,
    connection: ConnectionInfo,
) -> Response<Body> {
    let mut exchange = match Exchange::open(core, request, &connection, Instant::now()) {
        Ok(exchange) => exchange,
        Err(refused) => return core.refuse(refused.0, 0, refused.1),
    };
    core.count_request(exchange.facts.started);
    for _ in 0..ATTEMPTS_MAX {
        let (verdict, target, answer) = match choose(core, &mut exchange) {
            Ok(target) => {
                let (outcome, answer) = attempt(core, &mut exchange, &target).await;
                (judge(core, &exchange, &target, outcome), Some(target), answer)
            }
            Err(unserved) => (unserved, None, None),
        };
        match (verdict, answer) {
            (Verdict::Return, Some(answer)) => return core.answer(exchange, answer),
            (Verdict::Return, None) => return core.fail(exchange, Reason::Internal),
            (Verdict::TryNext { cause, from_budget: false }, _) => {
                // The owners are others now: positions tried before mean nothing among them.
                exchange.tried = Tried::default();
                core.metrics.retry(cause.label());
            }
            (Verdict::TryNext { cause, from_budget: true }, _) => {
                if !core.withdraw() {
                    exchange.facts.denied = true;
                    return core.fail(exchange, cause);
                }
                exchange.retries += 1;
                core.metrics.retry(cause.label());
                if target.is_some_and(|target| !target.others_left) {
                    // The same node again: one that is dying shall be gone by then, and refuse.
                    tokio::time::sleep(verdict::retry_pause(core.coin())).await;
                }
            }
            (Verdict::Hold { cause }, _) => {
                if let Err(reason) = held(core, &mut exchange, target.as_ref(), cause).await {
                    return core.fail(exchange, reason);
                }
            }
            (Verdict::Fail(reason), _) => return core.fail(exchange, reason),
        }
    }
    core.fail(exchange, Reason::HoldExpired)
}

/// Loads the snapshot once, copies out owners and epoch, and picks the owner for the next attempt.
///
/// *Errors*: the verdict when there is nobody to send the request to.
fn choose(core: &Core, exchange: &mut Exchange) -> Result<Target, Verdict> {
    if !core.is_ready() {
        return Err(Verdict::Hold { cause: Reason::NotReady });
    }
    core.with_pin(|map, stamp, health| {
        let row = map.owners(exchange.partition);
        let newer = exchange.claimed_owners(map);
        let (owners, epoch) = match &newer {
            Some((owners, epoch)) => (owners.as_slice(), *epoch),
            None => (row.as_slice(), map.epoch(exchange.partition)),
        };
        // Only `any` reads look at the clock and toss a coin.
        let any = exchange.access == Access::ReadAny;
        let mut question = Question {
            map,
            owners,
            access: exchange.access,
            health,
            tried: exchange.tried,
            zone: core.options.zone.as_ref(),
            now: if any { core.now() } else { Duration::ZERO },
            coin: if any { core.coin() } else { 0 },
        };
        let choice = pick(&question, &core.nodes);
        let Pick::Owner { position, node, why } = choice else {
            let replaceable = map.settings().ownership == Ownership::Claimed;
            return Err(verdict::unserved(choice, replaceable).unwrap_or(Verdict::Fail(Reason::Internal)));
        };
        exchange.tried.insert(position);
        question.tried = exchange.tried;
        let Some(node) = core.nodes.at(node) else { return Err(Verdict::Fail(Reason::Internal)) };
        exchange.facts.why = Some(why);
        let others_left = question.others_left();
        Ok(Target { node, position, epoch, stamp, others_left })
    })
}

/// Sends the request to the target, within the time it has.
async fn attempt(
    core: &Core,
    exchange: &mut Exchange,
    target: &Target,
) -> (Outcome, Option<Response<UpstreamBody>>) {
    let request = exchange.attempt(target);
    let outstanding = target.node.chosen(|| core.now());
    // Its own handle, so that the deadline can move while the attempt runs.
    let transfer = exchange.transfer.clone();
    let forwarding = forward(&core.nodes, &target.node, outstanding, request, &transfer);
    let forwarded = within_time(core, exchange, forwarding).await;
    settle(core, exchange, target, forwarded)
}

/// Waits for an attempt until its own time or the request's deadline is over, whichever is first.
///
/// *Errors*: [`Reason::Deadline`], or [`Reason::UpstreamTimeout`] when only the attempt's time is over.
async fn within_time(
    core: &Core,
    exchange: &mut Exchange,
    forwarding: impl Future<Output = Forwarded>,
) -> Result<Forwarded, Reason> {
    let options = &core.options.upstream;
    let mut forwarding = std::pin::pin!(forwarding);
    let mut attempt_end = exchange.facts.attempted + options.head_timeout;
    loop {
        let limit = exchange.deadline.min(attempt_end);
        if let Ok(forwarded) = tokio::time::timeout_at(limit, forwarding.as_mut()).await {
            return Ok(forwarded);
        }
        // While the client still sends, the time to answer has not begun.
        if let Some(sent) = exchange.transfer.progress() {
            exchange.deadline = exchange.deadline.max(sent + options.total_timeout);
            attempt_end = attempt_end.max(sent + options.head_timeout);
        }
        if exchange.deadline.min(attempt_end) <= limit {
            let whole = exchange.deadline <= attempt_end;
            return Err(if whole { Reason::Deadline } else { Reason::UpstreamTimeout });
        }
    }
}

/// Counts an attempt's end and reduces it to what the verdict is about.
fn settle(
    core: &Core,
    exchange: &mut Exchange,
    target: &Target,
    forwarded: Result<Forwarded, Reason>,
) -> (Outcome, Option<Response<UpstreamBody>>) {
    let elapsed = exchange.facts.attempted.elapsed();
    let node = &target.node;
    let failed = |outcome| {
        node.metrics.failure(elapsed);
        core.nodes.report(node, || core.now(), false);
        (outcome, None)
    };
    match forwarded {
        Ok(Forwarded::Answered(answer)) => {
            node.metrics.answer(answer.status(), elapsed);
            core.nodes.report(node, || core.now(), !is_failure(answer.status()));
            (Outcome::Answered, Some(answer))
        }
        Ok(Forwarded::Misdirected(claim)) => {
            node.metrics.answer(http::StatusCode::MISDIRECTED_REQUEST, elapsed);
            core.metrics.misdirected(Misdirected::Received);
            exchange.misdirected += 1;
            let newer =
                claim.filter(|claim| claim.partition == exchange.partition && claim.epoch > target.epoch);
            exchange.claim = newer.or(exchange.claim.take());
            let newer = core
                .with_map(|map| exchange.claimed_owners(map).is_some_and(|(_, epoch)| epoch > target.epoch));
            (Outcome::Misdirected { newer }, None)
        }
        Ok(Forwarded::NotSent(reason)) => failed(Outcome::NotSent(reason)),
        Ok(Forwarded::Lost(reason)) => failed(Outcome::Lost(reason)),
        // The client's fault, not the node's.
        Ok(Forwarded::RequestBody(reason)) => (Outcome::RequestBody(reason), None),
        Err(Reason::Deadline) => failed(Outcome::Deadline),
        Err(reason) => failed(Outcome::Lost(reason)),
    }
}

fn judge(core: &Core, exchange: &Exchange, target: &Target, outcome: Outcome) -> Verdict {
    if outcome == Outcome::Answered {
        return Verdict::Return;
    }
    let (owner, replaceable) = core.with_map(|map| {
        let owner = map.node_by_id(&target.node.id).map_or(Health::Left, |(_, node)| node.health);
        (owner, map.settings().ownership == Ownership::Claimed)
    });
    let standing = Standing {
        safe: exchange.safe,
        replayable: exchange.transfer.replayable(),
        // Only owners that keep to the node contract remember request ids.
        request_ids: replaceable,
        replaceable,
        owner,
        others_left: target.others_left,
        map_changed: moved(core, exchange, target),
        retries: exchange.retries,
        retries_max: core.options.upstream.retries,
        misdirected: exchange.misdirected,
    };
    verdict::verdict(outcome, &standing)
}

/// Whether the partition's claim is another one than when the target was chosen.
fn moved(core: &Core, exchange: &Exchange, target: &Target) -> bool {
    core.with_pin(|map, stamp, _| {
        if stamp == target.stamp {
            return false;
        }
        let owners = map.owners(exchange.partition);
        let owner = owners.as_slice().get(usize::from(target.position)).and_then(|index| map.node(*index));
        map.epoch(exchange.partition) != target.epoch
            || owner.is_none_or(|owner| owner.id != target.node.id || owner.data != target.node.addr)
    })
}

/// Keeps the request until it is worth another attempt.
///
/// *Errors*: what the client is told when it never was.
async fn held(
    core: &Core,
    exchange: &mut Exchange,
    target: Option<&Target>,
    cause: Reason,
) -> Result<(), Reason> {
    let bytes = exchange.transfer.held_bytes();
    let held = match exchange.held.take() {
        Some(held) => held,
        None if core.options.hold.time.is_zero() => return Err(cause),
        None => Held::enter(&core.room, &core.options.hold, exchange.partition, bytes, &core.metrics)?,
    };
    let held = exchange.held.insert(held);
    exchange.facts.held_since = Some(held.since);
    let pause = match cause {
        Reason::Misdirected => verdict::misdirected_pause(exchange.misdirected, core.coin()),
        _ => hold::backoff(held.looks, core.coin()),
    };
    held.looks += 1;
    let (until, partition) = (held.until, exchange.partition);
    // After a hold every owner may be tried anew.
    exchange.tried = Tried::default();

    if target.is_some_and(|target| moved(core, exchange, target)) {
        return Ok(());
    }
    let view = || core.with_map(|map| PartitionView::of(map, partition));
    let recovered = target.map(|target| &target.node.recovered);
    let changed = core.changed.clone();
    let woken = wait(changed, view, recovered, pause, until.min(exchange.deadline)).await;
    match woken {
        Woken::Changed | Woken::Recovered | Woken::Paused => Ok(()),
        Woken::Expired if exchange.deadline < until => Err(Reason::Deadline),
        Woken::Expired => {
            let owner = core.with_map(|map| {
                let named = target.and_then(|target| map.node_by_id(&target.node.id));
                named.map_or(Health::Unknown, |(_, node)| node.health)
            });
            Err(hold::expired(cause, owner))
        }
    }
}

#[cfg(test)]
mod tests;
