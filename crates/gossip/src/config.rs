//! Every timer and limit an operator may change.

use std::time::Duration;

use thiserror::Error;

/// The protocol's timers and fan-outs. All members of a cluster should run the same values.
///
/// Source: memberlist's LAN defaults where nothing else is said; α, β and the gate were chosen by simulation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Time between two probes, before local health stretches it. *Range*: 10 ms to 1 min. *Default*: 1 s.
    /// *Source*: SWIM's protocol period T'.
    pub probe_interval: Duration,
    /// How long a direct ping may take before others are asked to ping. *Range*: 1 ms to
    /// `probe_interval`, exclusive. *Default*: 500 ms.
    pub probe_timeout: Duration,
    /// Members asked to ping on our behalf. *Range*: 0 to 16. *Default*: 3. *Source*: SWIM's k.
    pub indirect_probes: usize,
    /// Time between two rounds of news, while there are any. *Range*: 1 ms to 10 s. *Default*: 200 ms.
    pub gossip_interval: Duration,
    /// Members told in each round. *Range*: 1 to 16. *Default*: 3.
    pub gossip_fanout: usize,
    /// λ: each piece of news is sent λ·max(2, log10(n + 1)) times, rounded. *Range*: 1 to 16. *Default*: 4.
    pub retransmit: u32,
    /// α: the shortest suspicion is α·max(1, log10 n)·`probe_interval`. *Range*: 1 to 20. *Default*: 2.
    /// Below 4 it is safe only with the expiry gate.
    pub suspicion_alpha: u32,
    /// β: the longest suspicion is β times the shortest. *Range*: 1 to 50. *Default*: 12.
    pub suspicion_beta: u32,
    /// K: independent accusers that bring a suspicion down to its shortest. *Range*: 0 to 8. *Default*: 2.
    pub suspicion_confirmations: u32,
    /// Do not declare anybody dead while we ourselves seem slow or deaf, or while so many are doubted at once that the
    /// network seems to be in two parts. *Default*: on. Off only in tests that show what it is for.
    pub expiry_gate: bool,
    /// Largest local health score: timers stretch up to this + 1 times. *Range*: 0 to 32. *Default*: 8.
    pub health_max: u32,
    /// Time between two anti-entropy rounds. *Range*: 10 ms to 1 h. *Default*: 10 s.
    pub anti_entropy_interval: Duration,
    /// How long a dead or gone member stays listed. *Range*: ≥ `anti_entropy_interval`. *Default*: 24 h.
    pub forget_after: Duration,
    /// Silence of everybody after which we call ourselves isolated. *Range*: ≥ `probe_interval`.
    /// *Default*: 5 s.
    pub isolation_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(500),
            indirect_probes: 3,
            gossip_interval: Duration::from_millis(200),
            gossip_fanout: 3,
            retransmit: 4,
            suspicion_alpha: 2,
            suspicion_beta: 12,
            suspicion_confirmations: 2,
            expiry_gate: true,
            health_max: 8,
            anti_entropy_interval: Duration::from_secs(10),
            forget_after: Duration::from_secs(24 * 3_600),
            isolation_after: Duration::from_secs(5),
        }
    }
}

/// A setting out of its range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("gossip setting `{field}` is {value}: {accepted}")]
pub struct ConfigError {
    /// The field of [`Config`].
    pub field: &'static str,
    /// What it holds.
    pub value: String,
    /// What it may hold.
    pub accepted: &'static str,
}

impl Config {
    /// Checks every range.
    ///
    /// # Errors
    /// All fields out of range, in declaration order.
    pub fn validate(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut check = |ok: bool, field, value: String, accepted| {
            if !ok {
                errors.push(ConfigError { field, value, accepted });
            }
        };
        let ms = Duration::from_millis;
        let time = |d: Duration| format!("{d:?}");
        let (probe, timeout, news) = (self.probe_interval, self.probe_timeout, self.gossip_interval);
        let ae = self.anti_entropy_interval;
        check((ms(10)..=ms(60_000)).contains(&probe), "probe_interval", time(probe), "10ms to 1min");
        check(
            timeout >= ms(1) && timeout < probe,
            "probe_timeout",
            time(timeout),
            "1ms to below probe_interval",
        );
        check(self.indirect_probes <= 16, "indirect_probes", self.indirect_probes.to_string(), "0 to 16");
        check((ms(1)..=ms(10_000)).contains(&news), "gossip_interval", time(news), "1ms to 10s");
        check(
            (1..=16).contains(&self.gossip_fanout),
            "gossip_fanout",
            self.gossip_fanout.to_string(),
            "1 to 16",
        );
        check((1..=16).contains(&self.retransmit), "retransmit", self.retransmit.to_string(), "1 to 16");
        let (alpha, beta, k) = (self.suspicion_alpha, self.suspicion_beta, self.suspicion_confirmations);
        check((1..=20).contains(&alpha), "suspicion_alpha", alpha.to_string(), "1 to 20");
        check((1..=50).contains(&beta), "suspicion_beta", beta.to_string(), "1 to 50");
        check(k <= 8, "suspicion_confirmations", k.to_string(), "0 to 8");
        check(self.health_max <= 32, "health_max", self.health_max.to_string(), "0 to 32");
        check((ms(10)..=ms(3_600_000)).contains(&ae), "anti_entropy_interval", time(ae), "10ms to 1h");
        check(
            self.forget_after >= ae,
            "forget_after",
            time(self.forget_after),
            "at least anti_entropy_interval",
        );
        let isolation = self.isolation_after;
        check(isolation >= probe, "isolation_after", time(isolation), "at least probe_interval");
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_every_bad_field_is_named() {
        assert_eq!(Config::default().validate(), Ok(()));
        let bad = Config {
            probe_timeout: Duration::from_secs(2),
            gossip_fanout: 0,
            suspicion_alpha: 0,
            ..Config::default()
        };
        let fields: Vec<_> = bad.validate().unwrap_err().iter().map(|e| e.field).collect();
        assert_eq!(fields, ["probe_timeout", "gossip_fanout", "suspicion_alpha"]);
    }
}
