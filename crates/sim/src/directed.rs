//! Schedules that catch the rules which random ones rarely do: each is clean with the rule and violates something without.
//!
//! Node 0 is the primary of epoch 1, nodes 1 and 2 its other owners. A client behind router 0 follows epoch 1 for as long as it
//! hears nothing better; a client behind router 1 is told of newer claims.

use std::time::Duration;

use ringway_control::ownership::{Envelope, Message, Mutant};

use crate::checkers::Violation;
use crate::network::Place;
use crate::node::place_of;
use crate::script::{LEASE, Script};

/// A schedule written by hand.
pub type Directed = fn(Option<Mutant>) -> Option<Violation>;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The schedule written for a rule, if there is one.
#[must_use]
pub fn of(mutant: Mutant) -> Option<Directed> {
    let directed: Directed = match mutant {
        Mutant::NoLeaseWait => promise_while_a_lease_runs,
        Mutant::NoWaitAfterRestart => promise_after_a_restart,
        Mutant::LeaseFromReceipt => grant_that_arrives_late,
        Mutant::ForgetExclusion => older_grant_behind_an_exclusion,
        Mutant::VolatilePromise => promise_lost_in_a_crash,
        Mutant::CleanupForgets => former_owner_asked_again,
        Mutant::ProgressPerNode => new_disk_at_an_old_node,
        Mutant::BallotReuse => ballot_used_twice,
        Mutant::UntaggedCopies => copies_of_a_deposed_primary,
        Mutant::DiscardInPlace => entries_thrown_away_before_others_came,
        _ => return None,
    };
    Some(directed)
}

// ---- what schedules are made of

fn is_prepare(envelope: &Envelope) -> bool {
    matches!(envelope.message, Message::Prepare { .. })
}

fn is_accept(envelope: &Envelope) -> bool {
    matches!(envelope.message, Message::Accept { .. })
}

fn is_promise(envelope: &Envelope) -> bool {
    matches!(envelope.message, Message::Promise { .. })
}

fn is_copy(envelope: &Envelope) -> bool {
    matches!(envelope.message, Message::Copy { .. })
}

fn is_decided(envelope: &Envelope) -> bool {
    matches!(envelope.message, Message::Decided { .. })
}

fn is_append(envelope: &Envelope) -> bool {
    matches!(envelope.message, Message::Append { .. })
}

fn carries_entries(envelope: &Envelope) -> bool {
    matches!(&envelope.message, Message::Append { entries, .. } if !entries.is_empty())
}

/// What an owner says to a candidate, and not what it says as one.
fn is_vote(envelope: &Envelope) -> bool {
    is_promise(envelope) || is_accepted(envelope) || matches!(envelope.message, Message::Fetched { .. })
}

fn is_accepted(envelope: &Envelope) -> bool {
    matches!(envelope.message, Message::Accepted { .. })
}

fn is_grant(envelope: &Envelope) -> bool {
    matches!(envelope.message, Message::LeaseGrant { .. })
}

fn is_excluding(envelope: &Envelope) -> bool {
    matches!(&envelope.message, Message::LeaseGrant { excluded, .. } if !excluded.is_empty())
}

fn is_on(envelope: &Envelope, from: Place, to: Place) -> bool {
    place_of(&envelope.from.node) == Some(from) && place_of(&envelope.to.node) == Some(to)
}

/// Node 2 is cut off from node 0 and wants to take over; its question to node 1 is held back.
fn cut_off_candidate(mutant: Option<Mutant>) -> Script {
    let mut script = Script::new(3, 3, mutant);
    script.write(0, 0);
    script.run(ms(50));
    script.hold(2, 1);
    script.cut(&[0], &[2]);
    script.await_held(ms(2_000), is_prepare);
    script
}

/// A client writes at the newest claim, and one that knows nothing of it reads at epoch 1.
fn write_anew_and_read_of_old(script: &mut Script) {
    script.tell_router(1);
    script.write(1, 0);
    script.await_acknowledged(ms(40));
    script.read(0, 0);
    script.run(ms(8));
}

// ---- leases

/// Rule 8: node 1 promises to node 2 although node 0 holds its grant.
fn promise_while_a_lease_runs(mutant: Option<Mutant>) -> Option<Violation> {
    let mut script = cut_off_candidate(mutant);
    script.hold(1, 0);
    script.release(2, 1);
    script.await_epoch(2, ms(60));
    write_anew_and_read_of_old(&mut script);
    script.end()
}

/// Rule 8: the same, as node 1 was restarted and remembers no grant.
fn promise_after_a_restart(mutant: Option<Mutant>) -> Option<Violation> {
    let mut script = cut_off_candidate(mutant);
    script.hold(1, 0);
    script.hold(0, 1);
    script.crash(1, usize::MAX);
    script.start(1);
    script.run(ms(2));
    script.release(2, 1);
    script.await_epoch(2, ms(60));
    write_anew_and_read_of_old(&mut script);
    script.end()
}

/// Rule 7: the last grant of node 1 reaches node 0 when it is nearly over.
fn grant_that_arrives_late(mutant: Option<Mutant>) -> Option<Violation> {
    let mut script = Script::new(3, 3, mutant);
    script.write(0, 0);
    script.run(ms(50));
    script.hold(1, 0);
    script.await_held(ms(100), is_grant);
    script.hold(0, 1);
    script.cut(&[0], &[2]);
    script.run(LEASE - ms(10));
    script.deliver(is_grant);
    script.await_epoch(2, ms(80));
    write_anew_and_read_of_old(&mut script);
    script.end()
}

/// Rule 7: node 0 hears that node 1 is sealed, and then an older word of it that is not.
fn older_grant_behind_an_exclusion(mutant: Option<Mutant>) -> Option<Violation> {
    let mut script = Script::new(3, 3, mutant);
    script.write(0, 0);
    script.run(ms(50));
    script.hold(1, 0);
    script.await_held(ms(100), is_grant);
    script.hold(0, 1);
    script.cut(&[0], &[2]);
    script.await_epoch(2, ms(1_000));
    script.tell_router(1);
    script.write(1, 0);
    script.run(ms(20));
    // Only the newest ask is of use.
    let asks =
        |envelope: &Envelope| matches!(envelope.message, Message::LeaseAsk { .. }) && is_on(envelope, 0, 1);
    script.deliver_last(asks);
    script.await_held(ms(10), is_excluding);
    script.deliver(is_excluding);
    script.run(ms(2));
    script.deliver(is_grant);
    script.run(ms(2));
    script.read(0, 0);
    script.run(ms(10));
    script.end()
}

// ---- acceptors

/// Rule 11: node 1 promised, was counted on, and forgets it in a crash; then it acknowledges what the new claim cuts.
fn promise_lost_in_a_crash(mutant: Option<Mutant>) -> Option<Violation> {
    let mut script = Script::new(3, 3, mutant);
    script.write(0, 0);
    script.run(ms(50));
    script.hold(0, 1);
    script.hold(1, 0);
    script.hold(1, 2);
    script.hold(2, 1);
    script.cut(&[0], &[2]);
    let promising = |envelope: &Envelope| {
        is_prepare(envelope) && is_on(envelope, 2, 1) || is_promise(envelope) && is_on(envelope, 1, 2)
    };
    script.pass_until(ms(1_000), promising, is_accept);
    script.crash(1, 0);
    script.lose(|envelope| !is_accept(envelope));
    script.start(1);
    script.release(0, 1);
    script.release(1, 0);
    script.write(0, 0);
    script.await_acknowledged(ms(30));
    script.hold(0, 1);
    script.hold(1, 0);
    script.release(1, 2);
    script.release(2, 1);
    script.await_epoch(2, ms(100));
    script.run(ms(20));
    script.end()
}

/// Rule 10: node 2 proposes two claims at one ballot, and the acceptance of the first counts for the second.
fn ballot_used_twice(mutant: Option<Mutant>) -> Option<Violation> {
    let mut script = Script::new(3, 3, mutant);
    script.write(0, 0);
    script.run(ms(50));
    // An entry that only node 0 has.
    let others = [1, 2];
    script.cut(&[0], &others);
    script.write(0, 0);
    // Node 1 accepts what node 2 proposes; nobody hears of it.
    script.hold(1, 2);
    script.pass_until(ms(1_000), |envelope| is_promise(envelope) && is_on(envelope, 1, 2), is_accepted);
    script.crash(2, usize::MAX);
    script.lose(|envelope| !is_accepted(envelope));
    // Node 2 comes back and finds node 0 only, whose log is longer; its proposal does not get there.
    script.mend();
    script.cut(&[1], &[0, 2]);
    script.hold(2, 0);
    script.start(2);
    script.pass_until(
        ms(2_000),
        |envelope| is_on(envelope, 2, 0) && !is_accept(envelope),
        |envelope| is_accept(envelope) && is_on(envelope, 2, 0),
    );
    // The acceptance of before arrives. Later nodes 0 and 1 decide without node 2.
    script.mend();
    script.hold(2, 1);
    script.hold(0, 2);
    script.deliver(|envelope| is_accepted(envelope) && is_on(envelope, 1, 2));
    script.run(ms(5));
    script.crash(2, 0);
    script.lose(|_| true);
    script.run(ms(1_500));
    script.end()
}

/// Rule 19: node 2 owned epoch 1, decided epoch 2 with node 0 and was cleaned up; node 1 heard nothing of that.
fn former_owner_asked_again(mutant: Option<Mutant>) -> Option<Violation> {
    let mut script = Script::new(5, 3, mutant);
    script.write(0, 0);
    script.run(ms(50));
    script.cut(&[1], &[0, 2, 3, 4]);
    script.wish(&[0, 3, 4]);
    script.await_epoch(2, ms(2_000));
    script.run(ms(3_000));
    script.crash(2, usize::MAX);
    script.mend();
    script.cut(&[1, 2], &[0, 3, 4]);
    script.start(2);
    script.run(ms(2_000));
    script.end()
}

// ---- data

/// Rule 4: node 3 lost its disk. What the old disk had does not count for the new one: it gets a copy, and then the
/// partition moves there.
fn new_disk_at_an_old_node(mutant: Option<Mutant>) -> Option<Violation> {
    let mut script = Script::new(4, 3, mutant);
    script.write(0, 0);
    script.run(ms(50));
    script.lose_disk(2);
    script.start(2);
    script.run(ms(5));
    script.wish(&[2, 0, 1]);
    script.run(ms(3_000));
    script.tell_router(0);
    script.write(0, 0);
    script.run(ms(500));
    script.end_at_rest(&[2, 0, 1])
}

/// Rule 16: nodes 3 and 4 have copies of node 0's log, with entries that no other owner has. Node 1 takes over, and goes on
/// with the copies as if they were of its own log; then it is gone, and the copies decide.
fn copies_of_a_deposed_primary(mutant: Option<Mutant>) -> Option<Violation> {
    let mut script = Script::new(5, 3, mutant);
    script.write(0, 0);
    script.run(ms(50));
    script.cut(&[0], &[1, 2]);
    script.wish(&[0, 3, 4]);
    // Before the move fences: the entries reach the joiners, and nobody else.
    script.write(0, 0);
    script.write(0, 0);
    script.run(ms(25));
    script.crash(0, usize::MAX);
    script.hold(1, 3);
    script.hold(1, 4);
    script.await_epoch(2, ms(1_000));
    script.run(ms(20));
    script.tell_router(1);
    script.write(1, 0);
    script.await_acknowledged(ms(50));
    script.wish(&[1, 3, 4]);
    for _ in 0..300 {
        script.deliver(|envelope| is_copy(envelope) || is_decided(envelope));
        script.run(ms(1));
    }
    script.crash(1, usize::MAX);
    script.lose(|_| true);
    script.release(1, 3);
    script.release(1, 4);
    script.run(ms(1_000));
    script.start(1);
    script.run(ms(1_000));
    script.end()
}

/// Rule 2, with seven owners. Nodes 1 and 2 hold an entry that is committed by 0, 1, 2 and 3, and do not know that it is, and
/// behind it entries that nobody else has. Node 4, which has the committed one from node 3, becomes primary twice and asks
/// them for the entry before its newest: that one they lack. What they throw away then is missed when 0, 3 and 4 are gone.
fn entries_thrown_away_before_others_came(mutant: Option<Mutant>) -> Option<Violation> {
    let mut script = Script::new(7, 7, mutant);
    script.write(0, 0);
    script.run(ms(300));
    script.cut(&[4, 5, 6], &[0, 1, 2, 3]);
    for follower in [1, 2, 3] {
        script.hold(0, follower);
        script.hold(follower, 0);
    }
    script.write(0, 0);
    script.await_held(ms(20), carries_entries);
    script.deliver(carries_entries);
    script.run(ms(3));
    script.write(0, 1);
    script.write(0, 1);
    script.write(0, 1);
    script.run(ms(12));
    script.deliver(|envelope| carries_entries(envelope) && !is_on(envelope, 0, 3));
    script.run(ms(3));
    for follower in [1, 2, 3] {
        script.release(follower, 0);
    }
    script.await_acknowledged(ms(30));
    script.crash(0, usize::MAX);
    script.lose(|_| true);
    // Node 4 alone can win among 3 to 6, and brings nobody in line.
    script.mend();
    script.cut(&[1, 2], &[3, 4, 5, 6]);
    for voter in [3, 5, 6] {
        script.hold(4, voter);
        for other in [3, 4, 5, 6] {
            script.hold(voter, other);
        }
    }
    let voting = |envelope: &Envelope| {
        is_vote(envelope) || (place_of(&envelope.from.node) == Some(4) && !is_append(envelope))
    };
    script
        .pass_until(ms(2_000), voting, |envelope| is_decided(envelope) && decided_epoch(envelope) == Some(2));
    script.deliver(voting);
    script.run(ms(10));
    script.crash(4, usize::MAX);
    script.start(4);
    script
        .pass_until(ms(3_000), voting, |envelope| is_decided(envelope) && decided_epoch(envelope) == Some(3));
    script.deliver(voting);
    script.run(ms(10));
    // Nodes 1 and 2 hear of it, and it not of them.
    script.hold(1, 4);
    script.hold(2, 4);
    script.mend();
    script.cut(&[1, 2], &[3, 5, 6]);
    script.run(ms(100));
    script.crash(4, usize::MAX);
    script.crash(3, usize::MAX);
    script.mend();
    script.let_go();
    script.run(ms(3_000));
    script.start(0);
    script.start(3);
    script.start(4);
    script.run(ms(2_000));
    script.end()
}

/// The epoch of a decided claim.
fn decided_epoch(envelope: &Envelope) -> Option<u64> {
    match &envelope.message {
        Message::Decided { claim } => Some(claim.epoch.0),
        _ => None,
    }
}
