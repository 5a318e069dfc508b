use super::*;

fn op(action: Action, invoked: u64, answered: u64) -> Op {
    Op { action, invoked, answered }
}

fn write(value: u32, invoked: u64, answered: u64) -> Op {
    op(Action::Write { value, expects: None }, invoked, answered)
}

fn read(value: u32, invoked: u64, answered: u64) -> Op {
    op(Action::Read(Content::Value(value)), invoked, answered)
}

/// Judges each window and gives the kinds of violation in each; the last one is the final read.
fn judge(windows: &[&[Op]]) -> Vec<Vec<Kind>> {
    let mut key = Key::holding(Content::Value(0));
    let mut kinds = Vec::new();
    for (index, ops) in windows.iter().enumerate() {
        let judged = key.judge(ops, index + 1 == windows.len());
        assert!(!judged.undecided);
        kinds.push(judged.offences.into_iter().map(|offence| offence.kind).collect());
    }
    kinds
}

const CLEAN: Vec<Kind> = Vec::new();

#[test]
fn a_stale_read_is_stale_and_what_was_acknowledged_still_counts() {
    let kinds = judge(&[&[write(1, 1, 2)], &[read(0, 3, 4)], &[read(1, 5, 6)], &[read(1, 7, 8)]]);
    assert_eq!(kinds, [CLEAN, vec![Kind::Stale], CLEAN, CLEAN]);
}

#[test]
fn a_lost_write_is_lost_at_the_end() {
    let kinds = judge(&[&[write(1, 1, 2)], &[read(0, 3, 4)], &[read(0, 5, 6)]]);
    assert_eq!(kinds, [CLEAN, vec![Kind::Stale], vec![Kind::Lost]]);
    let nothing = op(Action::Read(Content::Absent), 3, 4);
    assert_eq!(judge(&[&[write(1, 1, 2)], &[nothing]]), [CLEAN, vec![Kind::Lost]]);
}

#[test]
fn a_deleted_value_that_comes_back_is_stale() {
    let delete = op(Action::Delete, 3, 4);
    let nothing = op(Action::Read(Content::Absent), 5, 6);
    let kinds = judge(&[&[write(1, 1, 2)], &[delete], &[nothing], &[read(1, 7, 8)], &[nothing]]);
    assert_eq!(kinds, [CLEAN, CLEAN, CLEAN, vec![Kind::Stale], CLEAN]);
}

#[test]
fn the_value_of_a_refused_write_is_a_phantom() {
    let refused = op(Action::Refused(1), 1, 2);
    assert_eq!(judge(&[&[refused], &[read(1, 3, 4)], &[read(0, 5, 6)]]), [CLEAN, vec![Kind::Phantom], CLEAN]);
}

#[test]
fn an_unknown_write_may_show_up_late_and_then_stays() {
    let unknown = write(1, 1, UNANSWERED);
    let late = judge(&[&[unknown], &[read(0, 3, 4)], &[read(1, 5, 6)], &[read(1, 7, 8)]]);
    assert_eq!(late, [CLEAN, CLEAN, CLEAN, CLEAN]);
    let gone = judge(&[&[unknown], &[read(1, 3, 4)], &[read(0, 5, 6)], &[read(1, 7, 8)]]);
    assert_eq!(gone, [CLEAN, CLEAN, vec![Kind::Stale], CLEAN]);
    // Over a later acknowledged write, too: it may have been on its way all the time. But only once.
    let over = judge(&[
        &[unknown],
        &[write(2, 3, 4)],
        &[read(2, 5, 6)],
        &[read(1, 7, 8)],
        &[write(3, 9, 10)],
        &[read(1, 11, 12)],
        &[read(3, 13, 14)],
    ]);
    assert_eq!(over, [CLEAN, CLEAN, CLEAN, CLEAN, CLEAN, vec![Kind::Stale], CLEAN]);
}

#[test]
fn an_unknown_delete_may_happen_later_and_once() {
    let unknown = op(Action::Delete, 1, UNANSWERED);
    let nothing = |at| op(Action::Read(Content::Absent), at, at + 1);
    let kinds = judge(&[&[unknown], &[read(0, 3, 4)], &[nothing(5)], &[write(1, 7, 8)], &[nothing(9)]]);
    assert_eq!(kinds, [CLEAN, CLEAN, CLEAN, CLEAN, vec![Kind::Lost]]);
}

#[test]
fn an_unknown_conditional_write_that_was_seen_took_its_place() {
    let swap = op(Action::Write { value: 1, expects: Some(Content::Value(0)) }, 1, UNANSWERED);
    assert_eq!(judge(&[&[swap], &[read(1, 3, 4)], &[read(1, 5, 6)]]), [CLEAN, CLEAN, CLEAN]);
    // What it expected had been replaced before anybody saw it.
    let late = judge(&[&[swap], &[write(2, 3, 4)], &[read(2, 5, 6)], &[read(1, 7, 8)], &[read(2, 9, 10)]]);
    assert_eq!(late, [CLEAN, CLEAN, CLEAN, vec![Kind::Stale], CLEAN]);
}

#[test]
fn within_a_window_only_the_offender_is_blamed() {
    let window =
        [write(1, 1, 2), write(2, 3, 4), read(2, 5, 6), read(1, 7, 8), read(2, 9, 10), read(2, 1, 20)];
    let mut key = Key::holding(Content::Value(0));
    let judged = key.judge(&window, false);
    let ops: Vec<Op> = judged.offences.iter().map(|offence| offence.op).collect();
    assert_eq!(ops, [read(1, 7, 8)]);
    assert_eq!(key.judge(&[read(2, 21, 22)], true), Judged::default());
}

#[test]
fn two_conditional_writes_that_took_the_same_place_are_against_a_condition() {
    let swap = |value, at| op(Action::Write { value, expects: Some(Content::Value(0)) }, at, at + 10);
    let kinds = judge(&[&[swap(1, 1), swap(2, 2)], &[read(2, 21, 22)]]);
    assert_eq!(kinds, [vec![Kind::Condition], CLEAN]);
}

#[test]
fn too_many_unknown_writes_are_undecided_and_the_audit_goes_on_after() {
    let mut key = Key::holding(Content::Value(0));
    let unknown: Vec<Op> =
        (1..=UNANSWERED_KEPT as u32 + 1).map(|value| write(value, 1, UNANSWERED)).collect();
    assert!(key.judge(&unknown, false).undecided);
    assert!(!key.judge(&[write(90_000, 5, 6)], false).undecided);
    assert_eq!(key.judge(&[read(0, 7, 8)], false).offences[0].kind, Kind::Stale);
}
