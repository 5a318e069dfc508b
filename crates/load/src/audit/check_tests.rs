use super::*;
use crate::audit::history::UNANSWERED;
use crate::random::Random;

const V0: Content = Content::Value(0);

fn write(value: u32, invoked: u64, answered: u64) -> Op {
    Op { action: Action::Write { value, expects: None }, invoked, answered }
}

fn swap(value: u32, expected: Content, invoked: u64, answered: u64) -> Op {
    Op { action: Action::Write { value, expects: Some(expected) }, invoked, answered }
}

fn read(value: u32, invoked: u64, answered: u64) -> Op {
    Op { action: Action::Read(Content::Value(value)), invoked, answered }
}

fn absent(invoked: u64, answered: u64) -> Op {
    Op { action: Action::Read(Content::Absent), invoked, answered }
}

fn delete(invoked: u64, answered: u64) -> Op {
    Op { action: Action::Delete, invoked, answered }
}

fn from(content: Content) -> Vec<Possible> {
    vec![Possible { content, deletes_used: 0 }]
}

/// The contents that may be there at the end, from value 0; `None` when the history is not linearizable.
fn ends(ops: &[Op]) -> Option<Vec<Content>> {
    match check(&from(V0), ops, &[]) {
        Verdict::Linearizable(ends) => Some(ends.into_iter().map(|end| end.content).collect()),
        Verdict::Violated => None,
        Verdict::Undecided => panic!("undecided: {} operations", ops.len()),
    }
}

fn values(values: &[u32]) -> Option<Vec<Content>> {
    Some(values.iter().map(|value| Content::Value(*value)).collect())
}

#[test]
fn writes_at_once_may_end_either_way_until_a_read_tells() {
    let both = [write(1, 1, 10), write(2, 2, 9)];
    assert_eq!(ends(&both), values(&[1, 2]));
    assert_eq!(ends(&[both[0], both[1], read(1, 11, 12)]), values(&[1]));
    assert_eq!(ends(&[both[0], both[1], read(1, 11, 12), read(2, 13, 14)]), None);
    // The same two reads, overlapping: still one after the other, in one of two orders.
    assert_eq!(ends(&[both[0], both[1], read(1, 3, 4), read(2, 13, 14)]), values(&[2]));
}

#[test]
fn a_read_may_see_a_write_under_way_and_then_never_the_old_value() {
    assert_eq!(ends(&[write(1, 1, 100), read(1, 10, 20), read(1, 30, 40)]), values(&[1]));
    assert_eq!(ends(&[write(1, 1, 100), read(0, 10, 20), read(1, 30, 40)]), values(&[1]));
    assert_eq!(ends(&[write(1, 1, 100), read(1, 10, 20), read(0, 30, 40)]), None);
    assert_eq!(ends(&[write(1, 1, 100), read(1, 10, 30), read(0, 20, 40)]), values(&[1]));
}

#[test]
fn a_read_does_not_see_the_future_nor_what_nobody_wrote() {
    assert_eq!(ends(&[read(1, 1, 2), write(1, 3, 4)]), None);
    assert_eq!(ends(&[read(7, 1, 2)]), None);
}

#[test]
fn the_papers_zones_overlapping_forward_or_a_backward_one_inside() {
    // Forward zones of 1 and 2 overlap: 1 is read after 2 was, 2 after 1 was.
    let overlap = [write(1, 1, 2), write(2, 1, 4), read(2, 5, 6), read(1, 7, 8)];
    assert_eq!(ends(&overlap), None);
    // 2 is written wholly between the write of 1 and a read of 1.
    assert_eq!(ends(&[write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)]), None);
    assert_eq!(ends(&[write(1, 1, 2), write(2, 3, 6), read(1, 5, 7)]), values(&[2]));
}

#[test]
fn deletes_make_absence_and_only_they() {
    assert_eq!(ends(&[delete(1, 2), absent(3, 4)]), Some(vec![Content::Absent]));
    assert_eq!(ends(&[absent(3, 4)]), None);
    assert_eq!(ends(&[delete(1, 2), write(1, 3, 4), absent(5, 6)]), None);
    // Two deletes at once with a write serve two absences around it; one does not.
    let around = [write(1, 1, 20), absent(3, 4), read(1, 5, 6), absent(7, 8)];
    assert_eq!(ends(&[&around[..], &[delete(1, 20)]].concat()), None);
    assert_eq!(ends(&[&around[..], &[delete(1, 20), delete(1, 20)]].concat()), Some(vec![Content::Absent]));
}

#[test]
fn an_unknown_delete_happens_once_at_most_and_only_if_needed() {
    let deletes = [1];
    let used = |content, deletes_used| Possible { content, deletes_used };
    let check = |ops: &[Op]| check(&from(V0), ops, &deletes);
    assert_eq!(check(&[absent(3, 4)]), Verdict::Linearizable(vec![used(Content::Absent, 1)]));
    assert_eq!(
        check(&[write(1, 3, 4), read(1, 5, 6)]),
        Verdict::Linearizable(vec![used(Content::Value(1), 0)])
    );
    assert_eq!(check(&[absent(3, 4), write(1, 5, 6), absent(7, 8)]), Verdict::Violated);
    // Not before it was sent.
    assert_eq!(super::check(&from(V0), &[absent(3, 4)], &[5]), Verdict::Violated);
}

#[test]
fn a_conditional_write_follows_what_it_expected() {
    assert_eq!(ends(&[swap(1, V0, 1, 2), swap(2, Content::Value(1), 3, 4)]), values(&[2]));
    assert_eq!(ends(&[swap(1, V0, 1, 9), swap(2, V0, 1, 9)]), None, "two took the same value's place");
    assert_eq!(ends(&[write(1, 1, 2), swap(2, V0, 3, 4)]), None, "what it expected was gone");
    assert_eq!(ends(&[write(1, 1, 9), swap(2, V0, 3, 4)]), values(&[1]));
    assert_eq!(ends(&[swap(1, Content::Absent, 3, 4)]), None, "it was not absent");
    assert_eq!(ends(&[delete(1, 2), swap(1, Content::Absent, 3, 4)]), values(&[1]));
}

#[test]
fn a_refused_condition_needs_a_moment_without_the_value() {
    let unmet = |invoked, answered| Op { action: Action::Unmet(V0), invoked, answered };
    assert_eq!(ends(&[unmet(1, 2)]), None);
    assert_eq!(ends(&[write(1, 1, 9), unmet(3, 4)]), values(&[1]));
    assert_eq!(ends(&[write(1, 3, 9), unmet(1, 2)]), None);
    // In the middle of the other value's reads.
    assert_eq!(ends(&[write(1, 1, 2), unmet(3, 4), read(1, 5, 6)]), values(&[1]));
}

#[test]
fn several_starts_narrow_down() {
    let start: Vec<Possible> =
        [1, 2, 3].map(|value| Possible { content: Content::Value(value), deletes_used: 0 }).into();
    let contents = |verdict| match verdict {
        Verdict::Linearizable(ends) => ends.into_iter().map(|end: Possible| end.content).collect(),
        other => panic!("{other:?}"),
    };
    assert_eq!(Some(contents(check(&start, &[read(2, 1, 2)], &[]))), values(&[2]));
    assert_eq!(Some(contents(check(&start, &[], &[]))), values(&[1, 2, 3]));
    assert_eq!(Some(contents(check(&start, &[write(9, 1, 2)], &[]))), values(&[9]));
    let two = [read(2, 1, 2), read(3, 3, 4)];
    assert_eq!(check(&start, &two, &[]), Verdict::Violated);
}

/// Tries every order of every choice of optional deletes: slow, and obviously right.
fn by_brute_force(start: Content, ops: &[Op], deletes: &[u64]) -> BTreeMap<Content, u32> {
    let mut ends = BTreeMap::new();
    let optional: Vec<Op> = deletes.iter().map(|invoked| delete(*invoked, UNANSWERED)).collect();
    for used in 0..=optional.len() {
        let all = [ops, &optional[..used]].concat();
        permute(&mut Vec::new(), &all, start, &mut |end| {
            ends.entry(end).or_insert(used as u32);
        });
    }
    ends
}

fn permute(done: &mut Vec<usize>, ops: &[Op], holds: Content, found: &mut impl FnMut(Content)) {
    if done.len() == ops.len() {
        return found(holds);
    }
    for index in 0..ops.len() {
        let op = &ops[index];
        let waits = |other: usize| !done.contains(&other) && ops[other].answered < op.invoked;
        if done.contains(&index) || (0..ops.len()).any(waits) {
            continue;
        }
        let next = match op.action {
            Action::Read(content) => (content == holds).then_some(holds),
            Action::Unmet(content) => (content != holds).then_some(holds),
            Action::Write { value, expects } => {
                expects.is_none_or(|expected| expected == holds).then_some(Content::Value(value))
            }
            Action::Delete => Some(Content::Absent),
            Action::Refused(_) => None,
        };
        if let Some(next) = next {
            done.push(index);
            permute(done, ops, next, found);
            done.pop();
        }
    }
}

#[test]
fn random_histories_agree_with_every_order_tried() {
    let mut random = Random::new(1);
    let (mut good, mut bad, mut searched) = (0, 0, 0);
    for _ in 0..20_000 {
        let mixed = random.below(2) == 0;
        let writes = 1 + random.below(3) as u32;
        let mut ops = Vec::new();
        for value in 1..=writes {
            let expects = match random.below(6) {
                0 => Some(Content::Value(random.below(u64::from(writes) + 1) as u32)),
                1 if mixed => Some(Content::Absent),
                _ => None,
            };
            ops.push((Action::Write { value, expects }, random.below(5) == 0));
        }
        for _ in 0..random.below(4) {
            let content = Content::Value(random.below(u64::from(writes) + 1) as u32);
            ops.push(match random.below(if mixed { 6 } else { 3 }) {
                3 => (Action::Read(Content::Absent), false),
                4 => (Action::Delete, false),
                5 => (Action::Unmet(content), false),
                _ => (Action::Read(content), false),
            });
        }
        let span = 4 + random.below(16);
        let ops: Vec<Op> = ops
            .into_iter()
            .map(|(action, unanswered)| {
                let invoked = 1 + random.below(span);
                let answered = if unanswered { UNANSWERED } else { invoked + random.below(6) };
                Op { action, invoked, answered }
            })
            .collect();
        let mut deletes: Vec<u64> =
            (0..if mixed { random.below(3) } else { 0 }).map(|_| 1 + random.below(span)).collect();
        deletes.sort_unstable();
        let start = if random.below(3) == 0 { Content::Absent } else { V0 };
        let expected = by_brute_force(start, &ops, &deletes);
        let found: BTreeMap<Content, u32> = match check(&from(start), &ops, &deletes) {
            Verdict::Linearizable(ends) => {
                ends.into_iter().map(|end| (end.content, end.deletes_used)).collect()
            }
            Verdict::Violated => BTreeMap::new(),
            Verdict::Undecided => panic!("undecided: {ops:?}"),
        };
        // A delete that is not needed yet is left for later, so an order that ends with it is not told.
        let needed: BTreeMap<Content, u32> = expected
            .iter()
            .filter(|(content, used)| {
                found.contains_key(content) || **content != Content::Absent || **used == 0
            })
            .map(|(content, used)| (*content, *used))
            .collect();
        assert_eq!(found, needed, "from {start}, unknown deletes {deletes:?}: {ops:#?}");
        assert_eq!(found.is_empty(), expected.is_empty(), "from {start}: {ops:#?}");
        searched += usize::from(needs_search(&ops));
        if found.is_empty() { bad += 1 } else { good += 1 }
    }
    assert!(good > 5_000 && bad > 5_000 && searched > 5_000, "{good} {bad} {searched}");
}

#[test]
fn a_long_window_of_many_at_once_is_decided() {
    // 400 writers wait out a hold together; then readers see one of them, then the next window's.
    let mut ops: Vec<Op> = (1..=400).map(|value| write(value, u64::from(value), 10_000)).collect();
    ops.extend((0..400).map(|n| read(77, 10_001 + n, 10_500 + n)));
    assert_eq!(ends(&ops), values(&[77]));
    ops.push(delete(5, 9_000));
    assert_eq!(ends(&ops), values(&[77]));
    ops.push(read(78, 20_000, 20_001));
    assert_eq!(ends(&ops), None);
}
