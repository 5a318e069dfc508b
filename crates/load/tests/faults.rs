//! Every check of the audit and every count of the load, against a small server that does one thing wrong.

mod server;

use std::time::Duration;

use ringway_load::workload::{Distribution, Mix, Preset};
use ringway_load::{LoadError, Objectives, Options, Summary, run};
use server::{Fault, Server};

/// A short run: 1,000 requests.
fn options(server: &Server) -> Options {
    Options {
        targets: vec![format!("http://{}", server.address).parse().expect("a run ends")],
        admins: Vec::new(),
        rate: 2_000.0,
        duration: Duration::from_millis(500),
        warmup: Duration::ZERO,
        keys: 20,
        mix: Mix::of(0.5, 0.1),
        distribution: Distribution::Uniform,
        value_bytes: 100,
        seed: 1,
        preload: false,
        connections: 64,
        timeout: Duration::from_secs(20),
        audit: true,
        objectives: Objectives::default(),
    }
}

fn load(options: Options) -> Summary {
    run(options, |_| {}, std::future::pending()).expect("a run ends")
}

fn load_with(fault: Fault) -> Summary {
    load(options(&Server::start(fault)))
}

#[test]
fn a_correct_server_passes() {
    let summary = load_with(Fault::None);
    assert!(summary.passed, "{}", summary.to_json());
    assert_eq!((summary.requests, summary.errors, summary.unknown), (1_000, 0, 0));
    let audit = summary.audit.unwrap();
    assert_eq!((audit.violated(), audit.undecided, audit.operations), (0, 0, 1_020));
}

#[test]
fn values_from_before_the_run_are_not_phantoms() {
    let server = Server::start(Fault::None);
    assert!(load(options(&server)).passed);
    let summary = load(options(&server));
    assert!(summary.passed, "{}", summary.to_json());
}

#[test]
fn acknowledged_writes_that_are_dropped_are_stale_reads_and_lost_at_the_end() {
    let summary = load_with(Fault::DropsEvery(20));
    assert!(!summary.passed);
    let audit = summary.audit.as_ref().unwrap();
    assert!(audit.stale > 0 && audit.violated() > 0, "{}", summary.to_json());
    let violation = &audit.violations[0];
    assert!(violation.history.iter().any(|line| violation.text.starts_with(line)), "{violation:?}");
    // All of them, from the middle on: whatever was acknowledged last is not there at the end.
    let summary = load_with(Fault::DropsAfter(300));
    assert!(summary.lost.unwrap() > 0, "{}", summary.to_json());
    assert!(summary.failures[0].contains("lost"), "{:?}", summary.failures);
}

#[test]
fn reads_of_what_was_replaced_are_stale() {
    let summary = load_with(Fault::StaleEvery(50));
    assert!(summary.stale.unwrap() > 0 && !summary.passed, "{}", summary.to_json());
    assert_eq!((summary.lost, summary.phantom), (Some(0), Some(0)), "{}", summary.to_json());
}

#[test]
fn values_of_other_keys_and_damaged_ones_are_phantoms() {
    for fault in [Fault::OtherKeyEvery(50), Fault::DamagesEvery(50)] {
        let summary = load_with(fault);
        assert!(summary.phantom.unwrap() > 0 && !summary.passed, "{fault:?} {}", summary.to_json());
        assert_eq!((summary.lost, summary.stale), (Some(0), Some(0)), "{fault:?} {}", summary.to_json());
    }
}

#[test]
fn a_refused_write_that_is_there_all_the_same_is_a_phantom() {
    let summary = load_with(Fault::RefusesAndKeepsEvery(40));
    assert!(summary.phantom.unwrap() > 0 && !summary.passed, "{}", summary.to_json());
    assert!(summary.errors_by_kind["400 malformed_request"] > 0);
}

#[test]
fn unknown_outcomes_are_counted_and_are_no_violations() {
    // Half of them took effect, half did not: both are right.
    let summary = load_with(Fault::UnknownEvery(20));
    assert!(summary.unknown > 0, "{}", summary.to_json());
    assert!(summary.errors_by_kind["504 outcome_unknown"] > 0);
    assert_eq!(summary.audit.as_ref().map(|audit| audit.passed()), Some(true), "{}", summary.to_json());
}

#[test]
fn broken_connections_are_unknown_outcomes_and_refusals_are_not() {
    let summary = load_with(Fault::ResetsEvery(50));
    assert!(summary.errors > 0 && summary.unknown > 0, "{}", summary.to_json());
    assert!(summary.errors_by_kind.keys().all(|kind| kind.starts_with("broken connection: ")));
    assert!(summary.audit.unwrap().passed());
    let summary = load_with(Fault::OverloadedEvery(50));
    assert_eq!(summary.errors_by_kind.keys().collect::<Vec<_>>(), ["503 overloaded"]);
    assert_eq!((summary.errors_by_kind["503 overloaded"], summary.unknown), (summary.errors, 0));
    assert!(summary.audit.unwrap().passed());
}

#[test]
fn keys_that_cannot_be_read_at_the_end_are_no_verdict_that_nothing_is_lost() {
    let summary = load_with(Fault::OverloadedAfter(500));
    assert_eq!((summary.lost, summary.audit.as_ref().map(|audit| audit.unread)), (Some(0), Some(20)));
    assert!(!summary.passed && summary.failures[0].contains("20 keys unreadable"), "{:?}", summary.failures);
}

#[test]
fn conditional_writes_are_audited() {
    let updates = |fault| {
        let server = Server::start(fault);
        let mix = Mix::preset(Preset::F);
        load(Options { mix, distribution: Distribution::Zipf(0.9), keys: 5, ..options(&server) })
    };
    let summary = updates(Fault::None);
    assert!(summary.passed, "{}", summary.to_json());
    assert!(
        summary.by_method["conditional_write"].requests > 0 && summary.by_method["read"].requests >= 1_000
    );
    let summary = updates(Fault::IgnoresConditions);
    assert!(summary.condition.unwrap() > 0 && !summary.passed, "{}", summary.to_json());
}

#[test]
fn a_stall_shows_from_the_schedule() {
    // 300 ms without an answer at 2,000/s: of 1,000 requests those due in it, all of them, waited for its end.
    let summary = load_with(Fault::StallsOnce { at: 200, for_ms: 300 });
    assert_eq!(summary.requests, 1_000, "an arrival was skipped");
    assert!(summary.latency_ms.max >= 299.0, "{:?}", summary.latency_ms);
    assert!(summary.latency_ms.p99 >= 250.0, "{:?}", summary.latency_ms);
    // 600 arrivals fell into the stall; half of those waited at least half of it: well over a tenth of all.
    assert!(summary.latency_ms.p90 >= 100.0, "{:?}", summary.latency_ms);
    assert!(summary.passed, "{}", summary.to_json());
}

#[test]
fn requests_that_wait_for_a_connection_keep_their_schedule() {
    let server = Server::start(Fault::StallsOnce { at: 200, for_ms: 300 });
    let summary = load(Options { connections: 1, ..options(&server) });
    assert_eq!((summary.requests, summary.errors), (1_000, 0));
    assert!(summary.latency_ms.p90 >= 100.0, "{:?}", summary.latency_ms);
}

#[test]
fn requests_given_up_are_errors_and_never_sent_ones_have_no_effect() {
    let server = Server::start(Fault::StallsOnce { at: 200, for_ms: 300 });
    let timeout = Duration::from_millis(100);
    let summary = load(Options { connections: 1, timeout, ..options(&server) });
    assert_eq!(summary.requests, 1_000);
    assert!(summary.errors_by_kind["timeout before it was sent"] > 0, "{:?}", summary.errors_by_kind);
    assert!(summary.errors_by_kind["timeout"] > 0, "{:?}", summary.errors_by_kind);
    assert!(summary.unknown < summary.errors, "{}", summary.unknown);
    assert!(summary.audit.unwrap().passed());
}

#[test]
fn arrivals_beyond_the_bound_are_errors_and_not_skipped() {
    let server = Server::start(Fault::StallsOnce { at: 1, for_ms: 300 });
    let summary = load(Options {
        rate: 400_000.0,
        duration: Duration::from_millis(250),
        connections: 1,
        timeout: Duration::from_millis(500),
        audit: false,
        ..options(&server)
    });
    assert_eq!(summary.requests, 100_000);
    assert!(summary.errors_by_kind["overflow"] > 0, "{:?}", summary.errors_by_kind);
    assert!(summary.errors_by_kind["overflow"] <= 100_000 - ringway_load::IN_FLIGHT_MAX as u64);
}

#[test]
fn objectives_fail_a_run() {
    let server = Server::start(Fault::OverloadedEvery(50));
    let objectives = |error_rate_max, p99_max| Objectives { error_rate_max, p99_max };
    let judged = |objectives| load(Options { objectives, ..options(&server) });
    assert!(judged(objectives(Some(0.5), Some(Duration::from_secs(20)))).passed);
    let summary = judged(objectives(Some(0.001), None));
    assert!(!summary.passed && summary.failures[0].contains("error rate"), "{:?}", summary.failures);
    let summary = judged(objectives(None, Some(Duration::from_nanos(1))));
    assert!(!summary.passed && summary.failures[0].contains("p99"), "{:?}", summary.failures);
}

#[test]
fn presets_run_clean() {
    for preset in [Preset::A, Preset::B, Preset::C, Preset::D, Preset::E, Preset::F] {
        let server = Server::start(Fault::None);
        let rate = if preset == Preset::E { 100.0 } else { 1_000.0 };
        let distribution =
            if preset == Preset::D { Distribution::Latest(0.99) } else { Distribution::Zipf(0.99) };
        let duration = Duration::from_millis(300);
        let mix = Mix::preset(preset);
        let options = Options { mix, rate, distribution, duration, preload: true, ..options(&server) };
        let summary = load(options);
        assert!(summary.passed && summary.errors == 0, "{preset:?}: {}", summary.to_json());
        assert_eq!(summary.by_phase["preparation"].errors, 0);
        if preset == Preset::C {
            assert_eq!(summary.absent, 0);
        }
    }
}

#[test]
fn a_service_that_is_not_there_is_an_error_and_not_a_verdict() {
    let mut options = options(&Server::start(Fault::None));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    options.targets = vec![format!("http://{closed}").parse().unwrap()];
    options.audit = false;
    let summary = load(options.clone());
    assert_eq!(summary.errors_by_kind["connect: refused"], 1_000);
    options.audit = true;
    match run(options, |_| {}, std::future::ready(())) {
        Err(LoadError::Stopped) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn events_and_metrics_of_the_cluster_are_followed() {
    let server = Server::start(Fault::None);
    let admin = ringway_load::Target::admin(&format!("http://{}", server.address)).unwrap();
    let duration = Duration::from_millis(2_500);
    let summary = load(Options { admins: vec![admin], duration, rate: 200.0, ..options(&server) });
    assert!(summary.passed && summary.notes.is_empty(), "{:?}", summary.notes);
    let events: Vec<&str> = summary.events.iter().map(|event| event.subject.as_str()).collect();
    assert_eq!(events, ["n3", "n6"], "told once each, whenever they were heard");
    assert!(summary.partitions_moved.unwrap() >= 1, "{}", summary.to_json());
    let parts = ["quiet", "moving"].map(|part| summary.by_phase[part].requests);
    assert_eq!(parts.iter().sum::<u64>(), summary.requests);
    assert!(summary.series.iter().any(|second| second.held == Some(4.0)));
}

#[test]
fn an_older_admin_listener_costs_a_note() {
    let server = Server::start(Fault::NoEvents);
    let admin = ringway_load::Target::admin(&format!("http://{}", server.address)).unwrap();
    let summary = load(Options { admins: vec![admin], ..options(&server) });
    assert!(summary.passed && summary.events.is_empty());
    assert_eq!(summary.notes.len(), 1, "{:?}", summary.notes);
    assert!(summary.notes[0].contains("/v1/events"));
}
