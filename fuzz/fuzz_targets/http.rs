//! HTTP/1.1 towards clients: any bytes, in any pieces, through our own path and through hyper's.
//!
//! What our own path serves is what a strict reader finds in the bytes, and what hyper serves, or the beginning of it;
//! where it stops before hyper it says why, and docs/SECURITY.md ("Hostile HTTP") has the reason. It does not depend on
//! how the bytes come, what it sends can be read by the strictest client, and every connection ends.
#![no_main]

#[path = "http/answers.rs"]
mod answers;
#[path = "http/leniency.rs"]
mod leniency;
#[path = "http/memory.rs"]
mod memory;
#[path = "http/plan.rs"]
mod plan;
#[path = "http/requests.rs"]
mod requests;
#[path = "http/served.rs"]
mod served;

use answers::Answer;
use libfuzzer_sys::fuzz_target;
use plan::{Kind, Plan};
use ringway_proxy::edge::Http1Path;
use served::{Bed, Field, Read, Seen, Served};

#[global_allocator]
static COUNTING: memory::Counting = memory::Counting;

/// Longer inputs say nothing that shorter ones do not.
const INPUT_BYTES_MAX: usize = 16 << 10;
/// Memory of one connection, the test's own included: so much, and so many times the bytes of its input and answers.
const HELD_BYTES_BASE: usize = 512 << 10;
const HELD_PER_BYTE: usize = 16;

thread_local! {
    static BED: Bed = Bed::new();
}

fuzz_target!(|input: &[u8]| {
    let Some((plan, bytes)) = Plan::read(input) else { return };
    if bytes.len() <= INPUT_BYTES_MAX {
        BED.with(|bed| compare(bed, plan, bytes));
    }
});

fn compare(bed: &Bed, plan: Plan, bytes: &[u8]) {
    let pieces = plan.pieces(bytes.len());
    let before = memory::begin();
    let own = bed.serve(Http1Path::Own, plan, bytes, &pieces);
    let held = memory::most() - before;
    let explained = HELD_BYTES_BASE + HELD_PER_BYTE * (bytes.len() + own.answers.len());
    assert!(held <= explained, "{held} bytes of memory for {} of input", bytes.len());

    assert_eq!(requests::check_served(bytes, &own.seen), Ok(()), "{}\n{own:#?}", text(bytes));
    let got = check_answers(&own);
    if pieces.len() > 1 {
        let whole = bed.serve(Http1Path::Own, plan, bytes, &[bytes.len()]);
        let got_whole = check_answers(&whole);
        pieces_do_not_matter(&own, &got, &whole, &got_whole);
    }
    let hyper = bed.serve(Http1Path::Hyper, plan, bytes, &pieces);
    // Its refusals are its own, and may be cut off by a narrow pipe: only what is served is compared.
    let got_hyper = answers::read_all(&hyper.answers, &hyper.seen).0;
    is_served_alike(bytes, &own, &got, &hyper, &got_hyper);
}

/// What our own path sends: one good answer to each request, at most one refusal after them, and then the end.
fn check_answers(own: &Served) -> Vec<Answer> {
    let (answers, read) = answers::read_all(&own.answers, &own.seen);
    assert!(own.refused.len() <= 1, "a refusal is the end: {own:#?}");
    // The last answer breaks off, wherever it is, with the body that it echoes.
    let breaks_off = own.end == "broken" && own.seen.last().is_some_and(|seen| seen.kind == Kind::Echo);
    let expected = own.seen.len() + own.refused.len();
    if breaks_off {
        assert!(answers.len() + 1 >= expected && answers.len() <= expected, "{own:#?}\n{answers:#?}");
    } else {
        assert_eq!(read, Ok(()), "{}\n{own:#?}", text(&own.answers));
        assert_eq!(answers.len(), expected, "an answer for each: {own:#?}\n{answers:#?}");
    }
    assert_eq!(own.end == "protocol", own.refused.len() == 1, "a refusal is told: {own:#?}");
    for (index, answer) in answers.iter().enumerate() {
        let last = index + 1 == answers.len();
        assert!(last || !answer.closes(), "an answer after the last: {answers:#?}");
        match own.seen.get(index) {
            Some(seen) => {
                assert!(!answer.cut || (last && breaks_off), "{own:#?}");
                assert!(answer.trailers.is_empty() || seen.lists("te", "trailers"), "unasked: {answer:#?}");
                assert_eq!(answer.status, status(seen.kind), "{seen:#?}");
            }
            None => {
                assert!((400..=599).contains(&answer.status) && answer.closes(), "a refusal: {answer:#?}");
            }
        }
    }
    answers
}

fn status(kind: Kind) -> u16 {
    match kind {
        Kind::NoContent => 204,
        Kind::NotModified => 304,
        Kind::NoTunnel => 501,
        _ => 200,
    }
}

/// The same bytes came in pieces and at once.
fn pieces_do_not_matter(pieces: &Served, got: &[Answer], whole: &Served, got_whole: &[Answer]) {
    let both = || format!("in pieces {pieces:#?}\n\nat once {whole:#?}");
    assert_eq!(pieces.seen.len(), whole.seen.len(), "{}", both());
    if !is_not_looked_at_again(pieces, whole) {
        assert_eq!(pieces.refused, whole.refused, "{}", both());
        assert_eq!(end(pieces.end), end(whole.end), "{}", both());
    }
    for (one, other) in pieces.seen.iter().zip(&whole.seen) {
        assert!(same_request(one, other), "{}", both());
        let same = match (&one.body, &other.body) {
            // How much of a broken body came before the break depends on the pieces.
            (Read::Broken { data, why }, Read::Broken { data: data_whole, why: why_whole }) => {
                one_begins_the_other(data, data_whole) && why == why_whole
            }
            (one, other) => one == other,
        };
        assert!(same, "{}", both());
    }
    for (one, other) in got.iter().zip(got_whole) {
        assert!(same_answer(one, other), "{}\n{got:#?}\n{got_whole:#?}", both());
    }
}

/// A head that comes in pieces is looked at when it can have become whole, or has doubled. One that is wrong and never
/// becomes whole is refused when it comes at once; in pieces its connection may end first.
fn is_not_looked_at_again(pieces: &Served, whole: &Served) -> bool {
    let unfinished = matches!(pieces.end, "broken" | "header_timeout");
    pieces.refused.is_empty() && whole.refused.len() == 1 && unfinished
}

/// The ends that differ in time only are one: a blank line in two pieces begins a head, and at once it does not.
fn end(label: &'static str) -> &'static str {
    if label == "idle_timeout" { "header_timeout" } else { label }
}

/// What our own path served, hyper serves alike; what it did not, it has a reason for.
fn is_served_alike(bytes: &[u8], own: &Served, got: &[Answer], hyper: &Served, got_hyper: &[Answer]) {
    let both = || format!("{}\n\nown {own:#?}\n\nhyper {hyper:#?}", text(bytes));
    for (index, one) in own.seen.iter().enumerate() {
        let Some(other) = hyper.seen.get(index) else {
            let last = index.checked_sub(1).map(|last| &own.seen[last]);
            let explained =
                last.is_some_and(leniency::explains_going_on) || leniency::explains_serving(bytes);
            assert!(explained, "served what hyper does not: {}", both());
            return;
        };
        assert!(same_request(one, other), "request {index} differs: {}", both());
        match compare_bodies(&one.body, &other.body, bytes) {
            Bodies::Same => {}
            // The two part ways here: one of them cannot tell where the body ends, and closes the connection.
            Bodies::OwnBreaks => {
                assert_eq!(index + 1, own.seen.len(), "went on behind a broken body: {}", both());
                assert!(own.refused.is_empty(), "looked behind a broken body: {}", both());
                return;
            }
            Bodies::HyperBreaks => return,
            Bodies::Differ => panic!("the body of request {index} differs: {}", both()),
        }
        // One that breaks off does so with the body that it echoes; hyper may not even have begun it.
        let Some(answer) = got.get(index).filter(|answer| !answer.cut) else { continue };
        let Some(other) = got_hyper.get(index) else { panic!("request {index} has no answer: {}", both()) };
        let same = same_answer(answer, other);
        assert!(same, "the answer to request {index} differs: {answer:#?}\n{other:#?}\n{}", both());
    }
    if let Some(next) = hyper.seen.get(own.seen.len()) {
        let explained = match own.refused.first() {
            Some(rule) => leniency::explains_refusal(rule, bytes, next),
            None => leniency::explains_end(own.seen.last(), own.end),
        };
        assert!(explained, "stopped before hyper: {}", both());
    }
}

/// How what the two paths made of one request's body compares.
enum Bodies {
    Same,
    /// Our own path breaks it off where hyper is lenient.
    OwnBreaks,
    /// The other way round, for a reason that is known.
    HyperBreaks,
    Differ,
}

fn compare_bodies(own: &Read, hyper: &Read, bytes: &[u8]) -> Bodies {
    let same = match (own, hyper) {
        (Read::Whole { data, trailers }, Read::Whole { data: other, trailers: other_trailers }) => {
            data == other && *trailers == leniency::without_misplaced(other_trailers)
        }
        (Read::Broken { data, .. }, Read::Broken { data: other, .. }) => one_begins_the_other(data, other),
        (Read::Broken { data, why }, Read::Whole { data: other, .. })
            if other.starts_with(data) && leniency::explains_body(why, bytes) =>
        {
            return Bodies::OwnBreaks;
        }
        (Read::Whole { .. }, Read::Broken { why, .. }) if leniency::explains_whole_body(why) => {
            return Bodies::HyperBreaks;
        }
        (one, other) => one == other,
    };
    if same { Bodies::Same } else { Bodies::Differ }
}

/// All but the body, which is compared by who can tell what may differ.
fn same_request(one: &Seen, other: &Seen) -> bool {
    let head = |seen: &Seen| Seen { body: Read::Nothing, coding: Vec::new(), ..seen.clone() };
    head(one) == head(other)
}

/// The meaning of two answers. What the connection says for itself differs: `Date`, the framing, and `Connection`, as a
/// path that has seen the end of the input says so; of trailers, who asked for them.
fn same_answer(one: &Answer, other: &Answer) -> bool {
    const CONNECTION: [&str; 4] = ["connection", "content-length", "date", "transfer-encoding"];
    let fields = |answer: &Answer| -> Vec<Field> {
        let of_service = |field: &&Field| !CONNECTION.contains(&field.0.as_str());
        answer.fields.iter().filter(of_service).cloned().collect()
    };
    if one.cut || other.cut {
        return one.cut == other.cut
            && one.status == other.status
            && one_begins_the_other(&one.body, &other.body);
    }
    one.status == other.status && fields(one) == fields(other) && one.body == other.body
}

fn one_begins_the_other(one: &[u8], other: &[u8]) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
