//! One peer under load for a few seconds, and what that cost it.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::peer::{Front, Proxy, Stage};
use super::process::{Machine, Talking, now, sleep};
use super::row::{Load, Row};

/// Requests that `h2load` sends for each second asked for: it counts requests and not time, so that every answer is waited for.
const HTTP2_REQUESTS_PER_SECOND: f64 = 30_000.0;
/// Connections and streams on each, of the HTTP/2 row.
const HTTP2_CONNECTIONS: u32 = 8;
const HTTP2_STREAMS: u32 = 32;
/// Bytes of a small answer's body.
const SMALL: u64 = 128;

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    pub(super) requests: f64,
    pub(super) seconds: f64,
    /// Microseconds of processor time per request.
    pub(super) user: f64,
    pub(super) system: f64,
    /// Microseconds; 0 where nobody looked.
    pub(super) p50: f64,
    pub(super) p99: f64,
}

impl Sample {
    /// Processor time per request, in microseconds.
    pub(super) fn cpu(&self) -> f64 {
        self.user + self.system
    }

    /// Requests per second.
    pub(super) fn rate(&self) -> f64 {
        self.requests / self.seconds
    }
}

/// How long a run is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Length {
    Seconds(f64),
    Requests(u64),
}

/// Loads a proxy as a row says.
///
/// # Errors
/// An answer was wrong, or did not come.
pub(super) fn run(stage: &Stage<'_>, proxy: &Proxy, row: Row, length: Length) -> Result<Sample> {
    match row.load() {
        Load::Own { .. } => own(stage, proxy, row, length),
        Load::Http2 => http2(stage.machine, proxy, length),
        Load::Apart => bail!("{} is not measured in rounds", row.name()),
    }
}

/// The words of `bench-peer load`.
pub(super) fn own_words(
    stage: &Stage<'_>,
    target: std::net::SocketAddr,
    load: Load,
    front: Front,
    length: Length,
) -> Result<Vec<String>> {
    let Load::Own { kind, connections, body, rate } = load else { bail!("not a load of bench-peer") };
    let program = stage.programs.bench_peer.to_string_lossy().into_owned();
    let mut words = vec![program, "load".to_owned(), kind.to_owned()];
    let mut push = |name: &str, value: String| words.extend([format!("--{name}"), value]);
    push("target", target.to_string());
    push("connections", connections.to_string());
    push("body", body.to_string());
    match length {
        Length::Seconds(seconds) => push("seconds", seconds.to_string()),
        Length::Requests(requests) => push("requests", requests.to_string()),
    }
    if let Some(rate) = rate {
        push("rate", rate.to_string());
    }
    if let Some(certificate) = front.certificate() {
        push(
            "certificate",
            stage.machine.dir.join(format!("{certificate}.pem")).to_string_lossy().into_owned(),
        );
    }
    Ok(words)
}

/// Loads what listens at an address for some seconds. Its processor time is not told.
///
/// # Errors
/// As [`run`].
pub(super) fn at(
    stage: &Stage<'_>,
    target: std::net::SocketAddr,
    load: Load,
    seconds: f64,
) -> Result<Sample> {
    run_at(stage, target, load, Length::Seconds(seconds))
}

/// [`at`], for as long as `length` says.
pub(super) fn run_at(
    stage: &Stage<'_>,
    target: std::net::SocketAddr,
    load: Load,
    length: Length,
) -> Result<Sample> {
    let words = own_words(stage, target, load, Front::Plain, length)?;
    let mut load = Talking::start(stage.machine, "load", &words)?;
    load.hear("ready")?;
    load.go()?;
    sample(&load.hear("result")?, 0.0, 0.0)
}

fn own(stage: &Stage<'_>, proxy: &Proxy, row: Row, length: Length) -> Result<Sample> {
    let words = own_words(stage, proxy.address, row.load(), row.front(), length)?;
    let mut load = Talking::start(stage.machine, "load", &words)?;
    load.hear("ready")?;
    let before = proxy.running.usage();
    load.go()?;
    let result = load.hear("result")?;
    let (user, system) = proxy.running.usage().since(&before);
    sample(&result, user, system)
}

/// The backends themselves, asked as a proxy is: what latency is added to. Their processor time is not told apart.
///
/// # Errors
/// As [`run`].
pub(super) fn direct(stage: &Stage<'_>, row: Row, length: Length) -> Result<Sample> {
    run_at(stage, stage.backends[0], row.load(), length)
}

/// Reads `requests=… seconds=… p50_ns=… p99_ns=…`.
pub(super) fn sample(result: &str, user: f64, system: f64) -> Result<Sample> {
    let value = |name: &str| -> Result<f64> {
        let words = result.split_whitespace().filter_map(|word| word.split_once('='));
        let (_, value) =
            words.into_iter().find(|(found, _)| *found == name).with_context(|| format!("no {name}"))?;
        value.parse().with_context(|| format!("{name}={value}"))
    };
    let read = || -> Result<Sample> {
        let (requests, seconds) = (value("requests")?, value("seconds")?);
        if requests < 1.0 || seconds <= 0.0 {
            bail!("nothing was done");
        }
        let micros = 1e6 / requests;
        let (p50, p99) = (value("p50_ns")? / 1e3, value("p99_ns")? / 1e3);
        Ok(Sample { requests, seconds, user: user * micros, system: system * micros, p50, p99 })
    };
    read().with_context(|| format!("what the load says: {result:?}"))
}

fn http2(machine: &Machine, proxy: &Proxy, length: Length) -> Result<Sample> {
    let requests = match length {
        Length::Seconds(seconds) => (seconds * HTTP2_REQUESTS_PER_SECOND) as u64,
        Length::Requests(requests) => requests,
    };
    let keys = machine.dir.join("h2load-keys");
    let lines: String =
        (0..1_000).map(|key| format!("http://{}/kv/a-key-{key:06}\n", proxy.address)).collect();
    std::fs::write(&keys, lines)?;
    let (requests_text, connections) = (requests.to_string(), HTTP2_CONNECTIONS.to_string());
    let (streams, keys) = (HTTP2_STREAMS.to_string(), keys.to_string_lossy().into_owned());
    let words = [
        "h2load",
        "-n",
        &requests_text,
        "-c",
        &connections,
        "-m",
        &streams,
        "-t",
        "1",
        "-N",
        "30s",
        "-i",
        &keys,
    ];
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let before = proxy.running.usage();
    let started = now();
    let output = machine.pinned(machine.load_core, &words).output().context("cannot start h2load")?;
    let seconds = started.elapsed().as_secs_f64();
    let (user, system) = proxy.running.usage().since(&before);
    let text = String::from_utf8_lossy(&output.stdout);
    check_http2(&text, requests).with_context(|| text.trim_end().to_owned())?;
    let micros = 1e6 / requests as f64;
    let [user, system] = [user, system].map(|seconds| seconds * micros);
    Ok(Sample { requests: requests as f64, seconds, user, system, p50: 0.0, p99: 0.0 })
}

/// Every request was answered with 200 and the whole body.
fn check_http2(text: &str, requests: u64) -> Result<()> {
    let number = |line: &str, before: &str| -> Option<u64> {
        let line = text.lines().find_map(|found| found.strip_prefix(line))?;
        let words: Vec<&str> = line.split([' ', ',', '(', ')']).filter(|word| !word.is_empty()).collect();
        let at = words.iter().position(|word| *word == before)?;
        words.get(at.checked_sub(1)?)?.parse().ok()
    };
    let succeeded = number("requests:", "succeeded").context("h2load says nothing of requests")?;
    let good = number("status codes:", "2xx").context("h2load says nothing of status codes")?;
    if (succeeded, good) != (requests, requests) {
        bail!("{succeeded} of {requests} requests succeeded, {good} with a status of 2xx");
    }
    let traffic = text
        .lines()
        .find_map(|line| line.strip_prefix("traffic:"))
        .context("h2load says nothing of traffic")?;
    // `12.3MB (12900000) total, …, 1.2MB (1280000) data`
    let data = traffic.split(',').find_map(|part| part.trim().strip_suffix("data")).context("nor of data")?;
    let bytes = data.split(['(', ')']).nth(1).and_then(|bytes| bytes.parse::<u64>().ok());
    if bytes != Some(requests * SMALL) {
        bail!("{bytes:?} bytes of bodies, and not {}", requests * SMALL);
    }
    Ok(())
}

/// Memory per connection, in KiB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Memory {
    pub(super) connections: usize,
    /// Open, and never used.
    pub(super) open: f64,
    /// Waiting after a request.
    pub(super) idle: f64,
    pub(super) in_flight: f64,
}

/// How long a peer gets to come to rest before its memory is read.
const SETTLE: Duration = Duration::from_secs(1);
/// Between two looks at its memory while requests are under way.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long after all of them were sent it is looked at; the backends let them wait longer.
const LOOK_FOR: Duration = Duration::from_secs(6);

/// Opens thousands of connections; asks once on each; then lets a request wait on each.
///
/// # Errors
/// As [`run`].
pub(super) fn memory(stage: &Stage<'_>, proxy: &Proxy, connections: usize) -> Result<Memory> {
    // What grows once does not count for connections.
    own(stage, proxy, Row::Small, Length::Seconds(1.0))?;
    sleep(SETTLE);
    let empty = proxy.running.resident_kib();
    let hold = Load::Own { kind: "hold", connections, body: 128, rate: None };
    let words = own_words(stage, proxy.address, hold, Front::Plain, Length::Requests(1))?;
    let mut load = Talking::start(stage.machine, "load", &words)?;
    load.hear("open")?;
    sleep(SETTLE);
    let open = proxy.running.resident_kib();
    load.go()?;
    load.hear("ready")?;
    sleep(SETTLE);
    let idle = proxy.running.resident_kib();
    load.go()?;
    load.hear("sent")?;
    let mut most = 0;
    let until = now() + LOOK_FOR;
    while now() < until {
        most = most.max(proxy.running.resident_kib());
        sleep(LOOK_EVERY);
    }
    load.hear("result")?;
    let per_connection = |kib: u64| kib.saturating_sub(empty) as f64 / connections as f64;
    Ok(Memory {
        connections,
        open: per_connection(open),
        idle: per_connection(idle),
        in_flight: per_connection(most),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_read() {
        let read = sample("requests=1000 seconds=2.000000 p50_ns=1500 p99_ns=9000", 0.004, 0.020).unwrap();
        let wanted = Sample { requests: 1_000.0, seconds: 2.0, user: 4.0, system: 20.0, p50: 1.5, p99: 9.0 };
        assert_eq!(read, wanted);
        assert!((read.rate() - 500.0).abs() < 1e-9 && (read.cpu() - 24.0).abs() < 1e-9);
    }

    #[test]
    fn a_result_without_requests_or_figures_is_refused() {
        for text in [
            "requests=0 seconds=1 p50_ns=0 p99_ns=0",
            "requests=5 seconds=1 p50_ns=1",
            "requests=x seconds=1",
            "",
        ] {
            assert!(sample(text, 1.0, 1.0).is_err(), "{text}");
        }
    }

    const H2LOAD: &str = "\
finished in 1.20s, 8333.33 req/s, 1.5MB/s
requests: 10000 total, 10000 started, 10000 done, 10000 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 10000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 1.50MB (1570000) total, 100.0KB (102400) headers (space savings 91.03%), 1.22MB (1280000) data
";

    #[test]
    fn answers_of_http2_are_checked() {
        check_http2(H2LOAD, 10_000).unwrap();
        assert!(check_http2(H2LOAD, 10_001).is_err());
        assert!(check_http2(&H2LOAD.replace("10000 2xx, 0 3xx", "9999 2xx, 1 3xx"), 10_000).is_err());
        assert!(check_http2(&H2LOAD.replace("(1280000) data", "(1279872) data"), 10_000).is_err());
        assert!(check_http2("", 10_000).is_err());
    }
}
