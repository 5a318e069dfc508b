//! One log line per error, and not a thousand a second: a node that dies makes many requests fail in one way.

use std::cell::Cell;
use std::time::Duration;

use http::HeaderValue;
use ringway_route::Reason;

use crate::error::Problem;

/// Shortest time between two lines of one reason on one worker.
const PAUSE: Duration = Duration::from_secs(1);

/// Lets one line per reason and second through and counts the others into the next one.
#[derive(Debug)]
pub(crate) struct LogGate {
    reasons: [Cell<Gate>; Reason::ALL.len()],
}

#[derive(Debug, Clone, Copy, Default)]
struct Gate {
    next: Duration,
    suppressed: u64,
}

impl Default for LogGate {
    fn default() -> Self {
        Self { reasons: std::array::from_fn(|_| Cell::default()) }
    }
}

impl LogGate {
    /// Logs an error the router made: 5xx as warnings, what the client did wrong for those who debug.
    pub(crate) fn error(
        &self,
        problem: &Problem<'_>,
        attempts: u32,
        request_id: Option<&HeaderValue>,
        now: Duration,
    ) {
        let Problem { reason, detail, route, partition, node } = *problem;
        let Some(suppressed) = self.admit(reason, now) else { return };
        let (status, partition) = (reason.status(), partition.map(|p| p.0));
        let request_id = request_id.and_then(|id| id.to_str().ok());
        let title = reason.title();
        if status >= 500 {
            tracing::warn!(
                %reason, status, route, partition, node, attempts, detail, request_id, suppressed, "{title}"
            );
        } else {
            tracing::debug!(%reason, status, route, detail, request_id, suppressed, "{title}");
        }
    }

    /// How many lines were kept back since the last one; `None` when this one is kept back too.
    fn admit(&self, reason: Reason, now: Duration) -> Option<u64> {
        let cell = &self.reasons[reason.index()];
        let gate = cell.get();
        if now < gate.next {
            cell.set(Gate { suppressed: gate.suppressed + 1, ..gate });
            return None;
        }
        cell.set(Gate { next: now + PAUSE, suppressed: 0 });
        Some(gate.suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_and_reason_says_how_many_it_stands_for() {
        let gate = LogGate::default();
        let at = Duration::from_millis;
        assert_eq!(gate.admit(Reason::Loop, at(0)), Some(0));
        assert_eq!(gate.admit(Reason::Loop, at(10)), None);
        assert_eq!(gate.admit(Reason::Deadline, at(10)), Some(0));
        assert_eq!(gate.admit(Reason::Loop, at(999)), None);
        assert_eq!(gate.admit(Reason::Loop, at(1_000)), Some(2));
    }
}
