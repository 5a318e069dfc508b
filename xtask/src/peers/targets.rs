//! What ringway is to cost, and whether it does.

use super::instructions::Counter;
use super::load::Sample;
use super::measure::Results;
use super::peer::Peer;
use super::row::Row;
use super::stats::paired_ratio;

/// One target and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    pub(super) what: &'static str,
    /// A ratio, or KiB; `None`: it was not measured.
    pub(super) measured: Option<f64>,
    pub(super) first: f64,
    pub(super) goal: f64,
}

impl Verdict {
    /// In a word.
    pub(super) fn word(&self) -> &'static str {
        match self.measured {
            None => "not measured",
            Some(measured) if measured <= self.goal => "goal",
            Some(measured) if measured <= self.first => "first release",
            Some(_) => "missed",
        }
    }
}

/// Every target, in the order of importance.
pub(super) fn verdicts(results: &Results) -> Vec<Verdict> {
    let cpu = |row, peer| ratio(results, row, peer, Sample::cpu);
    let memory = results.memory.get(&Peer::Ringway);
    let ours_and_theirs = [Peer::Ringway, Peer::HaProxy];
    let rows: [(&str, Option<f64>, f64, f64); 16] = [
        ("instructions per request, user and kernel, ÷ HAProxy", instructions(results), 0.80, 0.65),
        ("CPU ÷ HAProxy, saturated", cpu(Row::Small, Peer::HaProxy), 0.90, 0.75),
        ("CPU ÷ nginx, saturated", cpu(Row::Small, Peer::Nginx), 0.75, 0.60),
        ("CPU ÷ Envoy, saturated", cpu(Row::Small, Peer::Envoy), 0.33, 0.27),
        ("CPU ÷ Pingora, saturated", cpu(Row::Small, Peer::Pingora), 0.40, 0.32),
        ("CPU ÷ the floor, saturated", cpu(Row::Small, Peer::Floor), 1.45, 1.20),
        ("CPU ÷ HAProxy, 5,000 requests/s", cpu(Row::Rate5k, Peer::HaProxy), 0.95, 0.88),
        ("CPU ÷ HAProxy, 10,000 requests/s", cpu(Row::Rate10k, Peer::HaProxy), 0.95, 0.88),
        ("KiB per connection, idle after a request", memory.map(|memory| memory.idle), 18.0, 3.0),
        ("KiB per connection, in flight", memory.map(|memory| memory.in_flight), 30.0, 9.0),
        ("TLS request ÷ HAProxy", cpu(Row::TlsRequests, Peer::HaProxy), 0.85, 0.72),
        ("TLS connection, ECDSA ÷ HAProxy", cpu(Row::TlsEcdsa, Peer::HaProxy), 0.50, 0.45),
        ("TLS connection, RSA ÷ HAProxy", cpu(Row::TlsRsa, Peer::HaProxy), 0.75, 0.70),
        ("HTTP/2, 8 × 32 ÷ HAProxy", cpu(Row::Http2, Peer::HaProxy), 0.90, 0.80),
        (
            "added latency, one connection, p50 ÷ HAProxy's",
            added(results, ours_and_theirs, |s| s.p50),
            1.1,
            1.0,
        ),
        (
            "added latency, one connection, p99 ÷ HAProxy's",
            added(results, ours_and_theirs, |s| s.p99),
            1.1,
            1.0,
        ),
    ];
    rows.map(|(what, measured, first, goal)| Verdict { what, measured, first, goal }).to_vec()
}

/// Ours over another's, as the median of the rounds.
fn ratio(results: &Results, row: Row, other: Peer, of: fn(&Sample) -> f64) -> Option<f64> {
    paired(results, row, Peer::Ringway, other, of)
}

/// One peer's over another's, as the median of the rounds.
pub(super) fn paired(
    results: &Results,
    row: Row,
    mine: Peer,
    theirs: Peer,
    of: fn(&Sample) -> f64,
) -> Option<f64> {
    let values = |peer| Some(results.samples.get(&(row, peer))?.iter().map(of).collect::<Vec<_>>());
    paired_ratio(&values(mine)?, &values(theirs)?)
}

/// What each peer adds to the latency of the backend, ours over theirs, as the median of the rounds.
fn added(results: &Results, [mine, theirs]: [Peer; 2], of: fn(&Sample) -> f64) -> Option<f64> {
    let added = |peer| {
        let samples = results.samples.get(&(Row::Latency, peer))?;
        Some(
            samples
                .iter()
                .zip(&results.direct)
                .map(|(through, direct)| of(through) - of(direct))
                .collect::<Vec<_>>(),
        )
    };
    paired_ratio(&added(mine)?, &added(theirs)?)
}

/// Only of the whole: user instructions alone are less than half of what a request costs, and not alike a part.
fn instructions(results: &Results) -> Option<f64> {
    if results.counter != Some(Counter::Perf) {
        return None;
    }
    let whole = |peer| {
        let counted = results.instructions.get(&peer)?.as_ref().ok()?;
        Some(counted.user + counted.kernel?)
    };
    Some(whole(Peer::Ringway)? / whole(Peer::HaProxy)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::instructions::Counted;

    fn sample(cpu: f64, p50: f64) -> Sample {
        Sample { requests: 1.0, seconds: 1.0, user: cpu / 2.0, system: cpu / 2.0, p50, p99: p50 }
    }

    fn word(results: &Results, what: &str) -> &'static str {
        verdicts(results).iter().find(|verdict| verdict.what == what).unwrap().word()
    }

    #[test]
    fn a_verdict_is_the_best_that_was_reached() {
        let verdict = |measured| Verdict { what: "", measured, first: 0.9, goal: 0.75 }.word();
        assert_eq!(verdict(Some(0.75)), "goal");
        assert_eq!(verdict(Some(0.76)), "first release");
        assert_eq!(verdict(Some(0.91)), "missed");
        assert_eq!(verdict(None), "not measured");
    }

    #[test]
    fn cpu_is_compared_in_pairs_and_with_the_right_peer() {
        let mut results = Results::default();
        results.samples.insert((Row::Small, Peer::Ringway), vec![sample(8.0, 0.0), sample(30.0, 0.0)]);
        results.samples.insert((Row::Small, Peer::HaProxy), vec![sample(10.0, 0.0), sample(40.0, 0.0)]);
        results.samples.insert((Row::Small, Peer::Floor), vec![sample(5.0, 0.0), sample(20.0, 0.0)]);
        assert_eq!(word(&results, "CPU ÷ HAProxy, saturated"), "first release");
        assert_eq!(word(&results, "CPU ÷ the floor, saturated"), "missed");
        assert_eq!(word(&results, "CPU ÷ nginx, saturated"), "not measured");
    }

    #[test]
    fn latency_is_what_is_added_to_the_backends() {
        let mut results = Results { direct: vec![sample(0.0, 40.0)], ..Results::default() };
        results.samples.insert((Row::Latency, Peer::Ringway), vec![sample(0.0, 60.0)]);
        results.samples.insert((Row::Latency, Peer::HaProxy), vec![sample(0.0, 50.0)]);
        let verdicts = verdicts(&results);
        let found = verdicts.iter().find(|verdict| verdict.what.contains("p50")).unwrap();
        assert_eq!(found.measured, Some(2.0));
    }

    #[test]
    fn user_instructions_alone_are_no_verdict() {
        const WHAT: &str = "instructions per request, user and kernel, ÷ HAProxy";
        let count = |user, kernel| Ok(Counted { user, kernel });
        let mut results = Results { counter: Some(Counter::Callgrind), ..Results::default() };
        results.instructions.insert(Peer::Ringway, count(1.0, None));
        results.instructions.insert(Peer::HaProxy, count(2.0, None));
        assert_eq!(word(&results, WHAT), "not measured");
        results.counter = Some(Counter::Perf);
        results.instructions.insert(Peer::Ringway, count(10.0, Some(20.0)));
        results.instructions.insert(Peer::HaProxy, count(20.0, Some(20.0)));
        assert_eq!(word(&results, WHAT), "first release");
    }
}
