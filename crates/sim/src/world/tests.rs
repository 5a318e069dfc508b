//! What a world notices itself, and what a slow node does.

use ringway_control::ownership::{DiskBatch, DiskOp, Ticket, Token};

use super::*;
use crate::script::{P, Script};

fn rule(world: &World) -> Option<Rule> {
    world.checkers.violation().map(|violation| violation.rule)
}

fn ask() -> Ask {
    let wanted = Wanted::Read(0);
    let began = Duration::ZERO;
    Ask { router: 3, operation: 1, attempt: 1, partition: P, epoch: Epoch(1), began, wanted, request: None }
}

#[test]
fn a_write_that_is_answered_twice_or_never_is_noticed() {
    let mut world = Script::new(3, 3, None).world;
    assert_eq!(world.waiting(), None);
    world.nodes[0].unanswered.insert(Token(77), ask());
    assert_eq!(world.waiting().map(|(rule, _)| rule), Some(Rule::EveryWriteAnswered));
    world.outcome(0, Reply { token: Token(77), outcome: WriteOutcome::Unknown });
    assert_eq!((world.waiting(), rule(&world)), (None, None));
    world.outcome(0, Reply { token: Token(77), outcome: WriteOutcome::Unknown });
    assert_eq!(rule(&world), Some(Rule::EveryWriteAnswered));
}

#[test]
fn what_the_protocol_notices_itself_is_a_violation() {
    let mut world = Script::new(3, 3, None).world;
    let known = world.bootstrap(P);
    world.event(0, Event::Alarm { other: Arc::clone(&known), known });
    assert_eq!(rule(&world), Some(Rule::Alarm));
}

#[test]
fn a_batch_against_the_contract_of_the_disk_is_noticed() {
    let mut world = Script::new(3, 3, None).world;
    let hole = DiskOp::Log { partition: P, keep_through: 9_999, entries: Vec::new() };
    world.nodes[1].disk.submit(DiskBatch { ticket: Ticket(9_999), ops: vec![hole], sync: true });
    let waiting = world.nodes[1].disk.waiting();
    world.written(1, waiting);
    assert_eq!(rule(&world), Some(Rule::DiskContract));
}

#[test]
fn time_that_stands_still_is_noticed() {
    let mut world = Script::new(3, 3, None).world;
    let place = world.options.nodes;
    // Clients that do not come: it is handled, and nothing happens.
    (0..AT_ONCE_MAX).for_each(|_| world.after(Duration::ZERO, Happening::Begin(place)));
    world.run_until(world.now);
    assert_eq!(rule(&world), None);
    (0..=AT_ONCE_MAX).for_each(|_| world.after(Duration::ZERO, Happening::Begin(place)));
    world.run_until(world.now);
    assert_eq!(rule(&world), Some(Rule::Progress));
}

#[test]
fn an_inbox_above_its_maximum_is_noticed() {
    let mut world = Script::new(3, 3, None).world;
    world.options.inbox_max = 1;
    world.slow_down(1);
    world.feed(1, Input::Ask(ask()));
    world.feed(1, Input::Ask(ask()));
    world.look();
    assert_eq!((rule(&world), world.tally.counts["inbox full"]), (None, 1));
    world.nodes[1].backlog.push_back(Input::Ask(ask()));
    world.look();
    assert_eq!(rule(&world), Some(Rule::Overflow));
}

#[test]
fn a_slow_node_neither_sends_nor_receives_and_its_timers_go_on() {
    let mut script = Script::new(3, 3, None);
    script.world.slow_down(1);
    script.world.slow_down(2);
    let timers = script.world.nodes[1].timer;
    script.write(0, 0);
    script.run(Duration::from_millis(300));
    assert_eq!(script.answered().0, 0, "the primary is alone");
    let slow = &script.world.nodes[1];
    assert!(slow.waiting() > 0 && !slow.outbox.is_empty());
    assert_ne!(slow.timer, timers, "its timers go on");
    script.world.speed_up(1);
    script.run(Duration::from_millis(900));
    assert_eq!((script.world.nodes[1].waiting(), script.answered().0), (0, 1));
}

#[test]
fn partitions_without_leave_to_serve_are_counted() {
    let mut script = Script::new(3, 3, None);
    assert_eq!(script.world.unserved(), 0);
    script.cut(&[0], &[1, 2]);
    script.run(Duration::from_millis(2_000));
    assert_eq!((script.world.unserved(), script.epoch() > 1), (0, true), "another one serves");
    script.crash(1, 0);
    script.crash(2, 0);
    assert_eq!(script.world.unserved(), 1);
}
