use super::*;
use crate::rng::Rng;

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn write(history: &mut History, value: Value, began: u64, ended: u64) {
    history.write_began(value, at(began));
    history.write_ended(value, Fate::Acknowledged(at(ended)));
}

#[test]
fn one_after_the_other_is_fine() {
    let mut history = History::default();
    history.read(at(1), at(2), None);
    write(&mut history, 1, 3, 4);
    history.read(at(5), at(6), Some(1));
    write(&mut history, 2, 7, 8);
    history.read(at(9), at(10), Some(2));
    assert_eq!(history.check(), Ok(()));
}

#[test]
fn a_lost_write_is_found() {
    let mut history = History::default();
    write(&mut history, 1, 1, 2);
    write(&mut history, 2, 3, 4);
    history.read(at(5), at(6), Some(1));
    assert!(history.check().is_err());
}

#[test]
fn a_stale_read_is_found() {
    let mut history = History::default();
    write(&mut history, 1, 1, 2);
    write(&mut history, 2, 3, 10);
    history.read(at(4), at(5), Some(2));
    history.read(at(6), at(7), Some(1));
    assert!(history.check().is_err());
}

#[test]
fn reads_that_overlap_a_write_may_differ_once() {
    let mut history = History::default();
    write(&mut history, 1, 1, 2);
    write(&mut history, 2, 3, 10);
    history.read(at(4), at(5), Some(1));
    history.read(at(6), at(7), Some(2));
    assert_eq!(history.check(), Ok(()));
}

#[test]
fn an_unknown_write_may_take_effect_late_or_never() {
    let mut history = History::default();
    history.write_began(1, at(1));
    write(&mut history, 2, 3, 4);
    history.read(at(5), at(6), Some(2));
    assert_eq!(history.check(), Ok(()));
    history.read(at(7), at(8), Some(1));
    assert_eq!(history.check(), Ok(()));
    history.read(at(9), at(10), Some(2));
    assert!(history.check().is_err());
}

#[test]
fn a_refused_write_is_never_read() {
    let mut history = History::default();
    history.write_began(1, at(1));
    history.write_ended(1, Fate::Refused);
    assert_eq!(history.check(), Ok(()));
    history.read(at(2), at(3), Some(1));
    assert!(history.check().is_err());
}

#[test]
fn nothing_is_read_before_it_is_written() {
    let mut history = History::default();
    history.read(at(1), at(2), Some(1));
    write(&mut history, 1, 3, 4);
    assert!(history.check().is_err());
}

/// Tries every order of the operations: slow, and obviously right.
fn by_brute_force(history: &History) -> bool {
    #[derive(Clone, Copy)]
    struct Operation {
        began: Duration,
        ended: Duration,
        value: Option<Value>,
        writes: bool,
        optional: bool,
    }
    fn any_order(left: &[Operation], held: Option<Value>) -> bool {
        if left.iter().all(|it| it.optional) {
            return true;
        }
        (0..left.len()).any(|next| {
            let it = left[next];
            let first = left.iter().all(|other| other.optional || other.ended >= it.began);
            let mut rest = left.to_vec();
            rest.remove(next);
            first && (it.writes || it.value == held) && any_order(&rest, it.value)
        })
    }
    let mut operations = Vec::new();
    for (value, write) in &history.writes {
        let (ended, optional) = match write.fate {
            Fate::Acknowledged(at) => (at, false),
            Fate::Unknown => (Duration::MAX, true),
            Fate::Refused => continue,
        };
        operations.push(Operation { began: write.began, ended, value: Some(*value), writes: true, optional });
    }
    for read in &history.reads {
        let Read { began, ended, value } = *read;
        operations.push(Operation { began, ended, value, writes: false, optional: false });
    }
    any_order(&operations, None)
}

#[test]
fn it_agrees_with_trying_every_order() {
    let (mut right, mut wrong) = (0, 0);
    for seed in 0..3_000 {
        let mut rng = Rng::new(seed);
        let mut history = History::default();
        // Distinct moments, as ties are nobody's order.
        let mut moments: Vec<u64> = (1..=14).collect();
        rng.shuffle(&mut moments);
        let mut span = || {
            let (a, b) = (moments.pop().unwrap(), moments.pop().unwrap());
            (at(a.min(b)), at(a.max(b)))
        };
        for value in 1..=3 {
            let (began, ended) = span();
            history.write_began(value, began);
            let fate = if rng.chance(300_000) { Fate::Unknown } else { Fate::Acknowledged(ended) };
            history.write_ended(value, fate);
        }
        for _ in 0..4 {
            let (began, ended) = span();
            let value = rng.between(0, 3);
            history.read(began, ended, (value > 0).then_some(value));
        }
        let expected = by_brute_force(&history);
        assert_eq!(history.check().is_ok(), expected, "seed {seed}: {history:?}");
        if expected { right += 1 } else { wrong += 1 }
    }
    assert!(right > 100 && wrong > 100, "{right} {wrong}");
}
