//! What the plane tells, as log lines.

use std::time::Duration;

use ringway_control::{HeldBack, PlaneEvent};
use ringway_gossip::Stats;

/// Shortest time between two lines about packets that cannot be opened: a stranger may send as many as it likes.
const UNOPENED_EVERY: Duration = Duration::from_secs(60);

/// Says that packets arrive which the keyring does not open: from the outside, a member whose keys differ looks like
/// one that is not there.
#[derive(Debug, Default)]
pub(crate) struct KeyringWatch {
    told: Unopened,
    quiet_until: Duration,
}

/// Packets dropped because of their seal since the start, by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Unopened {
    unsealed: u64,
    key: u64,
    tag: u64,
}

impl KeyringWatch {
    /// Logs when more packets were dropped than the last line told.
    pub(crate) fn look(&mut self, now: Duration, stats: &Stats) {
        if let Some(Unopened { unsealed, key, tag }) = self.news(now, stats) {
            tracing::warn!(
                unsealed,
                other_key = key,
                changed = tag,
                "gossip packets are dropped, as the keyring does not open them; when they are from a member of this \
                 cluster, give all members the same keys in gossip.keyring_file"
            );
        }
    }

    fn news(&mut self, now: Duration, stats: &Stats) -> Option<Unopened> {
        let seen =
            Unopened { unsealed: stats.dropped_unsealed, key: stats.dropped_key, tag: stats.dropped_tag };
        if seen == self.told || now < self.quiet_until {
            return None;
        }
        self.told = seen;
        self.quiet_until = now + UNOPENED_EVERY;
        Some(seen)
    }
}

/// One log line for one event; none for what only concerns the shell.
pub(crate) fn log(event: &PlaneEvent) {
    match event {
        // The supervisor logs what ends a member, whatever it was.
        PlaneEvent::Changed | PlaneEvent::RecordsChanged | PlaneEvent::Fatal(_) => {}
        PlaneEvent::Ready => tracing::info!("the map is complete: this member may serve"),
        PlaneEvent::MemberUp { id, address, generation } => {
            tracing::info!(member = %id, %address, generation, "member up");
        }
        PlaneEvent::MemberSuspect { id } => tracing::info!(member = %id, "member suspect"),
        PlaneEvent::MemberDead { id, cause } => tracing::warn!(member = %id, ?cause, "member dead"),
        PlaneEvent::MemberLeft { id } => tracing::info!(member = %id, "member left"),
        PlaneEvent::MemberForgotten { id } => tracing::info!(member = %id, "member forgotten"),
        PlaneEvent::Isolated(true) => tracing::warn!("isolated: nothing is heard of any other member"),
        PlaneEvent::Isolated(false) => tracing::info!("no longer isolated"),
        PlaneEvent::Conflict { id, here, there } => {
            tracing::error!(member = %id, %here, %there, "a second process has this member's id; it is told to stop");
        }
        PlaneEvent::TermsDiffer { by, differences } => {
            for (setting, ours, theirs) in differences {
                tracing::error!(%by, setting, ours, theirs, "a member with other settings was met");
            }
        }
        PlaneEvent::JoinRefused { total } => {
            tracing::warn!(
                total,
                "a process of another cluster or with other settings wanted to join and was refused"
            );
        }
        PlaneEvent::RecordRefused { key, problem } => {
            tracing::warn!(key, %problem, "a record cannot be read and is ignored");
        }
        PlaneEvent::RecordOverLimit { key } => {
            tracing::warn!(key, "too many records are known; one is ignored");
        }
        PlaneEvent::RecordConflict { key, version } => {
            tracing::warn!(key, version, "two values of one record under one version");
        }
        PlaneEvent::RecordNotSpread { key, error } => {
            tracing::error!(key, error, "gossip does not take a record");
        }
        PlaneEvent::Formed(cluster) => tracing::info!(%cluster, "the cluster has formed"),
        PlaneEvent::BindingDiffers { node, difference } => {
            tracing::error!(%node, difference, "a node of the bootstrap list is bound to something else");
        }
        PlaneEvent::OtherCluster { theirs } => {
            tracing::error!(%theirs, "another cluster of the same name was met; its record is ignored");
        }
        PlaneEvent::ClaimConflict { known, other } => {
            tracing::error!(known, other, "two claims of one epoch differ: this must never happen");
        }
        PlaneEvent::ClaimHeldBack(held) => {
            let HeldBack { partition, epoch, primary, shown } = held;
            tracing::warn!(
                %partition, %epoch, %primary, %shown,
                "a claim names a primary that is not known here; the map keeps the claim before it"
            );
        }
        PlaneEvent::NoClaimHeldBack => {
            tracing::info!("the primary of every claim is known again");
        }
        PlaneEvent::Ordered(order) => {
            let (weight, by) = (order.weight.map(|weight| weight.get()), &order.by);
            tracing::info!(node = %order.node, phase = %order.phase, weight, by, "a node was given an order");
        }
        PlaneEvent::Paused(pause) => tracing::info!(paused = pause.paused, by = pause.by, "moves"),
        PlaneEvent::KeyringChanged { version, keys } => {
            let keys = keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            tracing::info!(version, keys, "the cluster's keyring changed; the first key seals");
        }
        PlaneEvent::KeyringNotKept { version, error } => {
            tracing::error!(
                version,
                error,
                "the cluster's keyring is in use and not in gossip.keyring_file: a restart would come back with the keys \
                 that are there, and orders wait for this member; make the file and its directory writable for this \
                 process, it is tried again"
            );
        }
        PlaneEvent::KeyringKept { version } => {
            tracing::info!(version, "the cluster's keyring is in gossip.keyring_file now");
        }
        PlaneEvent::EvictedReturned { id } => {
            tracing::warn!(node = %id, "an evicted node is back; it stays out until it is ordered active");
        }
        PlaneEvent::Drained => tracing::info!("this node owns nothing any more: it may go"),
        PlaneEvent::Replaced { id } => {
            tracing::warn!(node = %id, "a node has been away for too long; its partitions are copied elsewhere");
        }
        PlaneEvent::OwnRecordReasserted { key, version } => {
            tracing::warn!(key, version, "a record about this member was written by another; overriding it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_under_other_keys_are_told_at_once_and_then_once_a_minute() {
        let mut watch = KeyringWatch::default();
        let mut stats = Stats::default();
        let at = Duration::from_secs;
        assert_eq!(watch.news(at(0), &stats), None, "nothing was dropped");
        stats.dropped_key = 1;
        assert_eq!(watch.news(at(1), &stats), Some(Unopened { unsealed: 0, key: 1, tag: 0 }));
        stats.dropped_unsealed = 5;
        assert_eq!(watch.news(at(60), &stats), None, "the log is not flooded");
        assert_eq!(watch.news(at(61), &stats), Some(Unopened { unsealed: 5, key: 1, tag: 0 }));
        assert_eq!(watch.news(at(1_000), &stats), None, "and says nothing once it is over");
    }
}
