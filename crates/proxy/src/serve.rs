//! A request's life, in order. All branching of the request path is in [`serve_request`]; what it calls decides
//! nothing about the flow.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::body::Body;
use crate::claim::Claim;
use crate::clock;
use crate::edge::ConnectionInfo;
use crate::exchange::{Exchange, Target, is_failure};
use crate::forward::{Attempt, Forwarded, Refusal, forward};
use crate::headers;
use crate::hold::{Held, PartitionView, Woken, wait};
use crate::metrics::Misdirected;
use crate::router::Core;
use crate::transfer::Transfer;
use crate::turn;
use crate::upstream::UpstreamBody;
use http::{Request, Response, StatusCode};
use ringway_route::{Access, Outcome, Pick, Question, Reason, Standing, Tried, Verdict, hold, pick, verdict};
use ringway_topology::{Epoch, Health, Ownership, Partition};

/// Most attempts of one request. Attempts without a pause between them are bounded by the retries and
/// [`verdict::MISDIRECTED_REPEATS_MAX`], those of a hold by its time; this is the bound that depends on nothing.
pub(crate) const ATTEMPTS_MAX: u32 = 10_000;

/// How long an owner may be silent before the attempt watches for a newer claim. Far below what a takeover takes, and far
/// above what most answers take, which therefore pay nothing for it.
const SUPERSEDED_AFTER: Duration = Duration::from_millis(25);

/// Answers a request: finds its key, then tries owners until a verdict ends it.
pub(crate) fn serve_request(
    core: Rc<Core>,
    request: Request<Body>,
    connection: ConnectionInfo,
) -> impl Future<Output = Response<Body>> {
    let (mut parts, body) = request.into_parts();
    // Not an async function: it would keep what it is given twice, as it came and where it is used.
    async move {
        let core = &*core;
        // Borrowed where it is made: it is large, and a move is a copy.
        let mut opened = Exchange::open(core, &mut parts, body, &connection, clock::now());
        let exchange = match opened {
            Ok(ref mut exchange) => exchange,
            Err(mut refused) => return core.refuse(&mut refused.0, 0, refused.1),
        };
        core.count_request(exchange.facts.started);
        // Before a node is chosen: answers that are read meanwhile give connections back, and a new map counts.
        turn::others_first().await;
        // Handed down to where it comes from, and not from there up: it is large, too.
        let mut answer = None;
        for _ in 0..ATTEMPTS_MAX {
            let (verdict, target) = match choose(core, exchange) {
                Ok(target) => {
                    let outcome = attempt(core, exchange, &target, &mut answer).await;
                    (judge(core, exchange, &target, outcome), Some(target))
                }
                Err(unserved) => (unserved, None),
            };
            match verdict {
                Verdict::Return => {
                    return match answer {
                        Some(answer) => core.answer(exchange, answer),
                        None => core.fail(exchange, Reason::Internal),
                    };
                }
                Verdict::Follow { cause } => {
                    // The owners are others now: positions tried before mean nothing among them.
                    exchange.tried = Tried::default();
                    exchange.facts.cause = Some(cause);
                    if exchange.misdirected > 1 {
                        tokio::time::sleep(verdict::follow_pause(exchange.misdirected, core.coin())).await;
                    }
                }
                Verdict::TryNext { cause, from_budget: false } => exchange.facts.cause = Some(cause),
                Verdict::TryNext { cause, from_budget: true } => {
                    if !core.withdraw() {
                        exchange.facts.denied = true;
                        return core.fail(exchange, cause);
                    }
                    exchange.retries += 1;
                    exchange.facts.cause = Some(cause);
                    if target.is_some_and(|target| !target.others_left) {
                        // The same node again: one that is dying shall be gone by then, and refuse.
                        tokio::time::sleep(verdict::retry_pause(core.coin())).await;
                    }
                }
                Verdict::Hold { cause } => {
                    exchange.facts.cause = Some(cause);
                    if let Err(reason) = held(core, exchange, target.as_ref(), cause).await {
                        return core.fail(exchange, reason);
                    }
                }
                Verdict::Fail(reason) => return core.fail(exchange, reason),
            }
        }
        core.fail(exchange, Reason::HoldExpired)
    }
}

/// Loads the snapshot once, copies out owners and epoch, and picks the owner for the next attempt.
///
/// *Errors*: the verdict when there is nobody to send the request to.
fn choose(core: &Core, exchange: &mut Exchange<'_>) -> Result<Target, Verdict> {
    if !core.is_ready() {
        return Err(Verdict::Hold { cause: Reason::NotReady });
    }
    core.with_pin(|map, stamp, health| {
        let row = map.owners(exchange.partition);
        let map_epoch = map.epoch(exchange.partition);
        let claimed = map.settings().ownership == Ownership::Claimed;
        let newer = exchange.claimed_owners(map);
        let (owners, epoch) = match &newer {
            Some((owners, epoch)) => (owners.as_slice(), *epoch),
            None => (row.as_slice(), map_epoch),
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
            return Err(verdict::unserved(choice, claimed).unwrap_or(Verdict::Fail(Reason::Internal)));
        };
        exchange.tried.insert(position);
        question.tried = exchange.tried;
        let Some(node) = core.nodes.at(node) else { return Err(Verdict::Fail(Reason::Internal)) };
        exchange.facts.why = Some(why);
        let others_left = question.others_left();
        Ok(Target { node, position, epoch, map_epoch, stamp, claimed, others_left })
    })
}

/// Sends the request to the target, within the time it has. [`Outcome::Answered`] comes with an `answer`, and nothing else
/// does.
async fn attempt(
    core: &Core,
    exchange: &mut Exchange<'_>,
    target: &Target,
    answer: &mut Option<Response<UpstreamBody>>,
) -> Outcome {
    exchange.begin_attempt(target);
    let outstanding = target.node.chosen(|| core.now());
    // Its own handle, so that the deadline can move while the attempt runs.
    let transfer = exchange.transfer.clone();
    let sent = Cell::new(false);
    let attempt = Attempt { transfer: &transfer, claimed: target.claimed, sent: &sent };
    // Pinned where it is made: moved any further, it would be kept twice.
    let forwarded = {
        let sending = exchange.sending(core, target);
        // Pinned where it is made: moved any further, it would be kept twice.
        let forwarding = pin!(forward(&core.nodes, &target.node, outstanding, sending, attempt));
        within_time(core, exchange, target, &transfer, forwarding).await
    };
    if let (true, 2.., Some(cause)) = (sent.get(), exchange.facts.attempts, exchange.facts.cause) {
        core.metrics.retry(cause.label());
    }
    settle(core, exchange, target, sent.get(), forwarded, answer)
}

/// Waits for an attempt until its own time or the request's deadline is over, or the target is the partition's owner no
/// more, whichever is first.
///
/// *Errors*: [`Reason::Deadline`]; [`Reason::UpstreamTimeout`] when only the attempt's time is over;
/// [`Reason::Superseded`].
async fn within_time(
    core: &Core,
    exchange: &Exchange<'_>,
    target: &Target,
    transfer: &Transfer,
    mut forwarding: Pin<&mut impl Future<Output = Forwarded>>,
) -> Result<Forwarded, Reason> {
    let options = &core.options.upstream;
    let mut attempt_end = exchange.facts.attempted + options.head_timeout;
    // Most attempts are over before they would ask what became of the claim.
    let mut patience = target.claimed.then(|| exchange.facts.attempted + SUPERSEDED_AFTER);
    loop {
        let limit = exchange.deadline.get().min(attempt_end);
        if !target.claimed || patience.is_some() {
            let until = patience.map_or(limit, |patience| patience.min(limit));
            let mut alarm = core.alarms.set(until);
            let forwarded = poll_fn(|cx| match forwarding.as_mut().poll(cx) {
                Poll::Ready(forwarded) => Poll::Ready(Some(forwarded)),
                Poll::Pending => alarm.poll(cx).map(|()| None),
            });
            if let Some(forwarded) = forwarded.await {
                return Ok(forwarded);
            }
            if patience.take().is_some() {
                continue;
            }
        } else {
            // Boxed: few requests come here, and all would keep the room for it.
            let mut over = Box::pin(async {
                tokio::select! {
                    biased;
                    () = superseded(core, exchange.partition, target.epoch, transfer) => Err(Reason::Superseded),
                    () = tokio::time::sleep_until(limit) => Ok(None),
                }
            });
            let ended = poll_fn(|cx| match forwarding.as_mut().poll(cx) {
                Poll::Ready(forwarded) => Poll::Ready(Ok(Some(forwarded))),
                Poll::Pending => over.as_mut().poll(cx),
            });
            if let Some(forwarded) = ended.await? {
                return Ok(forwarded);
            }
        }
        // While the client still sends, the time to answer has not begun.
        if let Some(sent) = exchange.transfer.progress() {
            exchange.deadline.set(exchange.deadline.get().max(sent + options.total_timeout));
            attempt_end = attempt_end.max(sent + options.head_timeout);
        }
        let deadline = exchange.deadline.get();
        if deadline.min(attempt_end) <= limit {
            let whole = deadline <= attempt_end;
            return Err(if whole { Reason::Deadline } else { Reason::UpstreamTimeout });
        }
    }
}

/// Waits until the partition has a newer claim and the request can be sent to its owner: a primary that stands still (it
/// was stopped, or cut off) answers nobody, and somebody took over from it.
///
/// A request whose body is gone stays where it is until that ends.
async fn superseded(core: &Core, partition: Partition, epoch: Epoch, transfer: &Transfer) {
    let mut changed = core.changed.clone();
    // Seen before the map is looked at, so that no change falls between the two.
    changed.mark_unchanged();
    while core.with_map(|map| map.epoch(partition)) <= epoch || !transfer.replayable() {
        if changed.changed().await.is_err() {
            // Nobody publishes any more: only the timers are left.
            std::future::pending::<()>().await;
        }
    }
}

/// Counts an attempt's end and reduces it to what the verdict is about.
fn settle(
    core: &Core,
    exchange: &mut Exchange<'_>,
    target: &Target,
    sent: bool,
    forwarded: Result<Forwarded, Reason>,
    answer: &mut Option<Response<UpstreamBody>>,
) -> Outcome {
    let elapsed = clock::now().saturating_duration_since(exchange.facts.attempted);
    let node = &target.node;
    let failed = |outcome| {
        node.metrics.failure(elapsed);
        core.nodes.report(node, || core.now(), false);
        outcome
    };
    let outcome = match forwarded {
        Ok(Forwarded::Answered(response)) => {
            node.metrics.answer(response.status(), elapsed);
            core.nodes.report(node, || core.now(), !is_failure(response.status()));
            if exchange.facts.unsettled && says_nothing(&response) {
                return Outcome::Unknown;
            }
            if target.claimed && headers::served_epoch(response.headers()) > Some(target.map_epoch) {
                core.metrics.epoch_ahead();
            }
            *answer = Some(response);
            return Outcome::Answered;
        }
        Ok(Forwarded::Refused(refusal)) => {
            node.metrics.answer(refusal.status(), elapsed);
            match refusal {
                Refusal::Misdirected(claim) => misdirected(core, exchange, target, claim),
                Refusal::Behind => Outcome::Behind,
                Refusal::Unknown => Outcome::Unknown,
                Refusal::Forgotten => Outcome::Forgotten,
            }
        }
        Ok(Forwarded::NotSent(reason)) => failed(Outcome::NotSent(reason)),
        Ok(Forwarded::Lost(reason)) => failed(Outcome::Lost(reason)),
        // The client's fault, not the node's.
        Ok(Forwarded::RequestBody(reason)) => Outcome::RequestBody(reason),
        Err(Reason::Deadline) => failed(Outcome::Deadline),
        Err(Reason::Superseded) => {
            exchange.misdirected += 1;
            failed(Outcome::Superseded)
        }
        Err(reason) => failed(Outcome::Lost(reason)),
    };
    let open = matches!(
        outcome,
        Outcome::Lost(_) | Outcome::Unknown | Outcome::Superseded | Outcome::Forgotten | Outcome::Deadline
    );
    exchange.facts.unsettled |= open && sent && target.claimed && !exchange.safe;
    outcome
}

/// Whether an answer to a repeated write tells nothing of the copies before it: the node did not look. Of the client's
/// errors a node finds 404 and 412 when it looks; others it makes up from the request alone, and perhaps not as the
/// node before it did, whose bounds may be wider.
fn says_nothing(answer: &Response<UpstreamBody>) -> bool {
    let status = answer.status();
    let found = matches!(status, StatusCode::NOT_FOUND | StatusCode::PRECONDITION_FAILED)
        || headers::served_epoch(answer.headers()).is_some();
    status.is_server_error() || (status.is_client_error() && !found)
}

/// Learns from a 421, for this request and, through the queue of hints, for all.
fn misdirected(core: &Core, exchange: &mut Exchange<'_>, target: &Target, claim: Option<Claim>) -> Outcome {
    core.metrics.misdirected(Misdirected::Received);
    let partition = exchange.partition;
    let map_epoch = core.with_map(|map| map.epoch(partition));
    // A lower epoch than the one asked under is never followed, and nor is one the map knows already.
    let newer =
        claim.filter(|claim| claim.partition == partition && claim.epoch > target.epoch.max(map_epoch));
    if let Some(claim) = newer {
        if target.claimed {
            core.metrics.claim_hint(core.hints.give(&claim));
        }
        exchange.learn(claim);
    }
    let followed = core.with_map(|map| exchange.claimed_owners(map).map(|(_, epoch)| epoch));
    let newer = followed.is_some_and(|epoch| epoch > target.epoch);
    // In derived ownership every 421 counts: nobody decides who is right.
    let newer = newer || (target.claimed && map_epoch > target.epoch);
    exchange.misdirected += u32::from(newer || !target.claimed);
    Outcome::Misdirected { newer }
}

fn judge(core: &Core, exchange: &mut Exchange<'_>, target: &Target, outcome: Outcome) -> Verdict {
    if outcome == Outcome::Answered {
        return Verdict::Return;
    }
    let owner =
        core.with_map(|map| map.node_by_id(&target.node.id).map_or(Health::Left, |(_, node)| node.health));
    let standing = Standing {
        safe: exchange.safe,
        replayable: exchange.transfer.replayable(),
        // Every write carries one, and owners that keep to the node contract remember it.
        request_id: target.claimed && !exchange.safe,
        claimed: target.claimed,
        owner,
        others_left: target.others_left,
        map_changed: moved(core, exchange, target),
        retries: exchange.retries,
        retries_max: core.options.upstream.retries,
        misdirected: exchange.misdirected,
    };
    let verdict = verdict::verdict(outcome, &standing);
    if matches!(verdict, Verdict::Fail(_)) && !standing.replayable {
        // Whether it would have gone on with its body.
        let whole = verdict::verdict(outcome, &Standing { replayable: true, ..standing });
        exchange.facts.body_gone = !matches!(whole, Verdict::Fail(_));
    }
    verdict
}

/// Whether the partition has a newer claim, or the owner another address, than when the target was chosen.
fn moved(core: &Core, exchange: &Exchange<'_>, target: &Target) -> bool {
    core.with_pin(|map, stamp, _| {
        if stamp == target.stamp {
            return false;
        }
        let epoch = map.epoch(exchange.partition);
        if epoch != target.epoch {
            // Lower: a 421 brought the claim, and the map does not have it yet.
            return epoch > target.epoch;
        }
        let owners = map.owners(exchange.partition);
        let owner = owners.as_slice().get(usize::from(target.position)).and_then(|index| map.node(*index));
        owner.is_none_or(|owner| owner.id != target.node.id || owner.data != target.node.addr)
    })
}

/// Keeps the request until it is worth another attempt.
///
/// *Errors*: what the client is told when it never was.
async fn held(
    core: &Core,
    exchange: &mut Exchange<'_>,
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
    let claimed = core.with_map(|map| map.settings().ownership == Ownership::Claimed);
    let pause = match cause {
        Reason::Misdirected if !claimed => verdict::misdirected_pause(exchange.misdirected, core.coin()),
        _ => hold::backoff(held.looks, core.coin()),
    };
    held.looks += 1;
    let (until, partition) = (held.until, exchange.partition);
    // After a hold every owner may be tried anew, and in claimed ownership newer claims are no longer in a row.
    exchange.tried = Tried::default();
    if claimed {
        exchange.misdirected = 0;
    }

    if target.is_some_and(|target| moved(core, exchange, target)) {
        return Ok(());
    }
    let view = || core.with_map(|map| PartitionView::of(map, partition));
    let recovered = target.map(|target| &target.node.recovered);
    let changed = core.changed.clone();
    let woken = wait(changed, view, recovered, pause, until.min(exchange.deadline.get())).await;
    match woken {
        Woken::Changed | Woken::Recovered | Woken::Paused => Ok(()),
        Woken::Expired if exchange.deadline.get() < until => Err(Reason::Deadline),
        Woken::Expired => {
            let owner = core.with_map(|map| {
                let named = target.and_then(|target| map.node_by_id(&target.node.id));
                named.map_or(Health::Unknown, |(_, node)| node.health)
            });
            Err(hold::expired(cause, owner, claimed))
        }
    }
}

#[cfg(test)]
mod tests;
