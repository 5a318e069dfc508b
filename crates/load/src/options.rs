//! What a run is asked to do.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use crate::value::VALUE_BYTES_MIN;
use crate::workload::{Distribution, Mix};

/// Where the key goes in a target's path.
const KEY_MARK: &str = "{key}";
/// The path of a target that names none.
const PATH_DEFAULT: &str = "/kv/{key}";
/// Keys of a run; the audit remembers some hundred bytes of each.
pub const KEYS_MAX: u32 = 20_000_000;
/// Arrivals per second.
pub const RATE_MAX: f64 = 1_000_000.0;
/// Bytes of a value.
pub const VALUE_BYTES_MAX: usize = 64 << 20;
/// The longest run, warm-up included: every second of it has a histogram of its own.
pub const DURATION_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Connections of a run, over all targets.
pub const CONNECTIONS_MAX: usize = 50_000;

/// A run, validated by [`Options::check`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Whom to ask, in turn.
    pub targets: Vec<Target>,
    /// Admin listeners: the first tells events, all together the metrics.
    pub admins: Vec<Target>,
    /// Arrivals per second, evenly spaced.
    pub rate: f64,
    /// How long arrivals are measured.
    pub duration: Duration,
    /// How long before that they arrive unmeasured (audited all the same).
    pub warmup: Duration,
    /// Keys that exist from the start.
    pub keys: u32,
    /// What is asked.
    pub mix: Mix,
    /// Of which key.
    pub distribution: Distribution,
    /// Bytes of every value.
    pub value_bytes: usize,
    /// Repeats the stream of operations.
    pub seed: u64,
    /// Write every key once first.
    pub preload: bool,
    /// Connections, over all targets, opened as needed; requests beyond them wait, on their schedule.
    pub connections: usize,
    /// From its scheduled time, after which a request is given up.
    pub timeout: Duration,
    /// Keep histories and check them.
    pub audit: bool,
    /// What the run must achieve.
    pub objectives: Objectives,
}

/// What a run must achieve, beside its audit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Objectives {
    /// The greatest share of requests that may fail, 0.0 to 1.0.
    pub error_rate_max: Option<f64>,
    /// The greatest 99th percentile of the measured phase.
    pub p99_max: Option<Duration>,
}

/// An option that cannot be used: what was found, what is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct OptionsError(String);

impl Options {
    /// Checks what belongs together.
    ///
    /// # Errors
    /// The first option that cannot be used.
    pub fn check(&self) -> Result<(), OptionsError> {
        let refuse = |text: String| Err(OptionsError(text));
        if self.targets.is_empty() {
            return refuse("no target; give at least one --target URL".to_owned());
        }
        if !(self.rate > 0.0 && self.rate <= RATE_MAX) {
            return refuse(format!(
                "a rate of {} per second; more than 0 and at most {RATE_MAX} is accepted",
                self.rate
            ));
        }
        if self.duration.is_zero() || self.duration.saturating_add(self.warmup) > DURATION_MAX {
            return refuse(format!(
                "warm-up and duration must be more than 0 and at most {DURATION_MAX:?} together"
            ));
        }
        if self.keys == 0 || self.keys > KEYS_MAX {
            return refuse(format!("{} keys; 1 to {KEYS_MAX} are accepted", self.keys));
        }
        if self.value_bytes > VALUE_BYTES_MAX {
            return refuse(format!(
                "values of {} bytes; at most {VALUE_BYTES_MAX} are accepted",
                self.value_bytes
            ));
        }
        if self.audit && self.value_bytes < VALUE_BYTES_MIN {
            return refuse(format!(
                "values of {} bytes cannot say which write they come from; --audit needs at least {VALUE_BYTES_MIN}",
                self.value_bytes
            ));
        }
        if self.connections < self.targets.len() || self.connections > CONNECTIONS_MAX {
            return refuse(format!(
                "{} connections; {} (one a target) to {CONNECTIONS_MAX} are accepted",
                self.connections,
                self.targets.len()
            ));
        }
        if self.timeout.is_zero() {
            return refuse("a timeout of 0: every request would fail".to_owned());
        }
        self.check_shares()
    }

    fn check_shares(&self) -> Result<(), OptionsError> {
        let Mix { reads, deletes, inserts, scans, updates } = self.mix;
        let shares = [reads, deletes, inserts, scans, updates];
        if shares.iter().any(|share| !(0.0..=1.0).contains(share)) || shares.iter().sum::<f64>() > 1.0 + 1e-9
        {
            return Err(OptionsError("ratios must be 0 to 1, and at most 1 together".to_owned()));
        }
        if self.objectives.error_rate_max.is_some_and(|rate| !(0.0..=1.0).contains(&rate)) {
            return Err(OptionsError("a greatest error rate must be 0 to 1".to_owned()));
        }
        if let Distribution::Zipf(theta) | Distribution::Latest(theta) = self.distribution
            && !(theta > 0.0 && theta < 1.0)
        {
            return Err(OptionsError(format!("zipf:{theta}; theta must be above 0 and below 1")));
        }
        Ok(())
    }

    /// Arrivals of the whole run.
    #[must_use]
    pub fn arrivals(&self) -> u64 {
        ((self.warmup + self.duration).as_secs_f64() * self.rate).round().max(1.0) as u64
    }

    /// How many keys inserts may add: all that are expected, and half as many more.
    #[must_use]
    pub fn insert_room(&self) -> u32 {
        if self.mix.inserts == 0.0 {
            return 0;
        }
        let expected = self.arrivals() as f64 * self.mix.inserts * 1.5 + 16.0;
        (expected as u32).min(KEYS_MAX - self.keys)
    }
}

/// An HTTP/1.1 server and the path of a key there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `host:port`, as asked for in `Host`.
    pub authority: String,
    before_key: String,
    after_key: String,
}

impl Target {
    /// The path of a key.
    pub(crate) fn path(&self, key: &str) -> String {
        format!("{}{key}{}", self.before_key, self.after_key)
    }

    /// A path of the same server.
    pub(crate) fn base(&self) -> &str {
        self.before_key.trim_end_matches('/')
    }

    /// An admin listener: a URL without a place for a key.
    ///
    /// # Errors
    /// As [`Target::from_str`].
    pub fn admin(url: &str) -> Result<Self, OptionsError> {
        let (authority, path) = split(url)?;
        Ok(Self { authority, before_key: path, after_key: String::new() })
    }
}

impl FromStr for Target {
    type Err = OptionsError;

    /// `http://host:port`, or with a path that holds `{key}`.
    fn from_str(url: &str) -> Result<Self, OptionsError> {
        let (authority, path) = split(url)?;
        let path = if matches!(path.as_str(), "" | "/") { PATH_DEFAULT.to_owned() } else { path };
        let Some((before, after)) = path.split_once(KEY_MARK) else {
            return Err(OptionsError(format!(
                "{url}: a path must say where the key goes, as {PATH_DEFAULT} does"
            )));
        };
        Ok(Self { authority, before_key: before.to_owned(), after_key: after.to_owned() })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}{KEY_MARK}{}", self.authority, self.before_key, self.after_key)
    }
}

fn split(url: &str) -> Result<(String, String), OptionsError> {
    let refuse = |why: &str| OptionsError(format!("{url}: {why}"));
    let rest = url.strip_prefix("http://").ok_or_else(|| refuse("only http:// URLs are understood"))?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let parsed: http::uri::Authority = authority.parse().map_err(|_| refuse("no host and port"))?;
    if parsed.host().is_empty() || parsed.as_str().contains('@') {
        return Err(refuse("no host, or a user name"));
    }
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refuse("the path holds what must be percent-encoded"));
    }
    let port = parsed.port_u16().unwrap_or(80);
    Ok((format!("{}:{port}", parsed.host()), path.to_owned()))
}

/// `uniform`, `zipf` or `zipf:THETA`.
impl FromStr for Distribution {
    type Err = OptionsError;

    fn from_str(text: &str) -> Result<Self, OptionsError> {
        let (name, theta) = text.split_once(':').map_or((text, None), |(name, theta)| (name, Some(theta)));
        let theta = theta.map_or(Ok(crate::workload::THETA), str::parse);
        match (name, theta) {
            ("uniform", Ok(_)) if text == name => Ok(Self::Uniform),
            ("zipf", Ok(theta)) if theta > 0.0 && theta < 1.0 => Ok(Self::Zipf(theta)),
            _ => Err(OptionsError(format!(
                "{text}: `uniform`, `zipf` and `zipf:THETA` (0 < THETA < 1) are understood"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let target: Target = "http://127.0.0.1:8080".parse().unwrap();
        assert_eq!((target.authority.as_str(), target.path("a").as_str()), ("127.0.0.1:8080", "/kv/a"));
        let target: Target = "http://host/x/{key}/y?z".parse().unwrap();
        assert_eq!((target.authority.as_str(), target.path("a").as_str()), ("host:80", "/x/a/y?z"));
        assert_eq!(target.to_string(), "http://host:80/x/{key}/y?z");
        let target: Target = "http://[::1]:8080/{key}".parse().unwrap();
        assert_eq!(target.authority, "[::1]:8080");
        for wrong in ["https://h", "h:80", "http://", "http://u@h", "http://h/kv", "http://h/ {key}"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
        assert_eq!(Target::admin("http://h:1/").unwrap().base(), "");
    }

    #[test]
    fn distributions() {
        assert_eq!("uniform".parse(), Ok(Distribution::Uniform));
        assert_eq!("zipf".parse(), Ok(Distribution::Zipf(0.99)));
        assert_eq!("zipf:0.5".parse(), Ok(Distribution::Zipf(0.5)));
        for wrong in ["", "zipf:1", "zipf:0", "zipf:x", "uniform:1", "zipf:NaN"] {
            assert!(wrong.parse::<Distribution>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn options_that_do_not_fit_are_refused() {
        let good = Options {
            targets: vec!["http://h".parse().unwrap()],
            admins: Vec::new(),
            rate: 10.0,
            duration: Duration::from_secs(1),
            warmup: Duration::ZERO,
            keys: 1,
            mix: Mix::of(0.5, 0.0),
            distribution: Distribution::Uniform,
            value_bytes: 100,
            seed: 1,
            preload: false,
            connections: 1,
            timeout: Duration::from_secs(1),
            audit: true,
            objectives: Objectives::default(),
        };
        assert_eq!(good.check(), Ok(()));
        let wrong: [fn(&mut Options); 11] = [
            |o| o.targets.clear(),
            |o| o.rate = 0.0,
            |o| o.rate = f64::NAN,
            |o| o.duration = Duration::ZERO,
            |o| o.keys = 0,
            |o| o.value_bytes = VALUE_BYTES_MIN - 1,
            |o| o.connections = 0,
            |o| o.timeout = Duration::ZERO,
            |o| o.mix = Mix::of(0.9, 0.2),
            |o| o.objectives.error_rate_max = Some(1.5),
            |o| o.distribution = Distribution::Zipf(1.0),
        ];
        for (index, spoil) in wrong.iter().enumerate() {
            let mut options = good.clone();
            spoil(&mut options);
            assert!(options.check().is_err(), "{index}");
        }
    }
}
