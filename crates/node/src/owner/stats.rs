//! What the owner counts, and how it is shown.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ringway_control::ownership::{AppendResult, Event, Message, MovePhase, Role, Stats};
use ringway_proxy::metrics::{Family, Kind, Metrics, Point, RegisterError};

use crate::peer::refusal::PeerRefusal;

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why messages did not reach a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsent {
    /// The queue to it was full: the oldest went.
    QueueFull,
    /// The map names no such node and store, or no peer listener of it.
    UnknownPeer,
    /// The connection failed.
    Unreachable,
    /// It did not answer in time.
    Timeout,
    /// It refused them.
    Refused,
}

impl Unsent {
    const LABELS: [&str; 5] = ["queue_full", "unknown_peer", "unreachable", "timeout", "refused"];
}

/// How a copy or an export ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Done,
    Failed,
    Cancelled,
}

impl Ended {
    const LABELS: [&str; 3] = ["done", "failed", "cancelled"];
}

/// Everything the owner counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sent_messages: Counter,
    pub(crate) sent_batches: Counter,
    pub(crate) sent_bytes: Counter,
    pub(crate) received_messages: Counter,
    pub(crate) received_batches: Counter,
    pub(crate) received_bytes: Counter,
    unsent: [Counter; Unsent::LABELS.len()],
    refused: [Counter; PeerRefusal::LABELS.len()],
    pub(crate) connections_refused: Counter,
    append_gaps: Counter,
    append_full: Counter,
    appends_received: Counter,
    entries_received: Counter,
    pub(crate) disk_batches: Counter,
    pub(crate) handoff_bytes: Counter,
    imports: [Counter; Ended::LABELS.len()],
    exports: [Counter; Ended::LABELS.len()],
    takeovers: Counter,
    moves_committed: Counter,
    moves_aborted: Counter,
    alarms: Counter,
    forced: Counter,
    pub(crate) requests_refused: Counter,
    pub(crate) writes_unknown: Counter,
    gauges: Mutex<Gauges>,
}

/// What is so at a moment, as the engine saw it at most a second ago.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gauges {
    /// Partitions this node leads.
    pub led: u64,
    /// … of which it has no lease at this moment: reads there wait.
    pub led_without_lease: u64,
    /// Partitions by what this node is in them, in the order of [`Gauges::ROLES`].
    pub roles: [u64; 6],
    /// Moves under way at this node as their source, in the order of [`Gauges::PHASES`].
    pub phases: [u64; 4],
    /// Writes that wait for their outcome.
    pub writes_waiting: u64,
    /// Messages queued for peers.
    pub messages_queued: u64,
    /// Batches the disk has not finished.
    pub batches_under_way: u64,
    /// What the protocol counted.
    pub protocol: Stats,
}

impl Gauges {
    /// Label values of [`Self::roles`].
    pub const ROLES: [&'static str; 6] =
        ["primary", "taking_office", "replica", "sealed", "joiner", "former"];
    /// Label values of [`Self::phases`].
    pub const PHASES: [&'static str; 4] = ["preparing", "copying", "fenced", "proposed"];

    pub(crate) fn count_role(&mut self, role: Role) {
        let at = match role {
            Role::Primary => 0,
            Role::TakingOffice => 1,
            Role::Replica => 2,
            Role::Sealed => 3,
            Role::Joiner => 4,
            Role::Former => 5,
        };
        self.roles[at] += 1;
    }

    pub(crate) fn count_move(&mut self, phase: MovePhase) {
        let at = match phase {
            MovePhase::Preparing => 0,
            MovePhase::Copying => 1,
            MovePhase::Fenced => 2,
            MovePhase::Proposed => 3,
            MovePhase::Committed | MovePhase::Aborted => return,
        };
        self.phases[at] += 1;
    }
}

/// What an operator may want to know of the owner, in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnerStats {
    /// What is so now.
    pub gauges: Gauges,
    /// Takeovers begun here.
    pub takeovers: u64,
    /// Moves from here that were committed.
    pub moves_committed: u64,
    /// Moves from here that were given up.
    pub moves_aborted: u64,
    /// Bytes of keys and values that copies brought here.
    pub handoff_bytes: u64,
    /// Messages that did not reach their peer.
    pub messages_unsent: u64,
    /// Requests of peers that were refused.
    pub peers_refused: u64,
    /// Pairs of decided claims that contradict each other. Anything but 0 is a bug or a forged disk.
    pub alarms: u64,
}

impl Counters {
    pub(crate) fn unsent(&self, why: Unsent, messages: usize) {
        self.unsent[why as usize].add(messages);
    }

    pub(crate) fn refused(&self, refusal: &PeerRefusal) {
        self.refused[refusal.index()].add(1);
    }

    pub(crate) fn import(&self, how: Ended) {
        self.imports[how as usize].add(1);
    }

    pub(crate) fn export(&self, how: Ended) {
        self.exports[how as usize].add(1);
    }

    /// Counts what a message that arrived says about replication.
    pub(crate) fn received(&self, message: &Message) {
        match message {
            Message::Append { entries, .. } => {
                self.appends_received.add(1);
                self.entries_received.add(entries.len());
            }
            Message::AppendReply { result: AppendResult::Gap { .. }, .. } => self.append_gaps.add(1),
            Message::AppendReply { result: AppendResult::Full, .. } => self.append_full.add(1),
            _ => {}
        }
    }

    pub(crate) fn event(&self, event: &Event) {
        match event {
            Event::Takeover { .. } => self.takeovers.add(1),
            Event::Move(progress) if progress.phase == MovePhase::Committed => self.moves_committed.add(1),
            Event::Move(progress) if progress.phase == MovePhase::Aborted => self.moves_aborted.add(1),
            Event::Alarm { .. } => self.alarms.add(1),
            Event::Forced(_) => self.forced.add(1),
            _ => {}
        }
    }

    pub(crate) fn show(&self, gauges: Gauges) {
        *self.gauges.lock().unwrap_or_else(PoisonError::into_inner) = gauges;
    }

    fn gauges(&self) -> Gauges {
        self.gauges.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn stats(&self) -> OwnerStats {
        let sum = |counters: &[Counter]| counters.iter().map(Counter::get).sum();
        OwnerStats {
            gauges: self.gauges(),
            takeovers: self.takeovers.get(),
            moves_committed: self.moves_committed.get(),
            moves_aborted: self.moves_aborted.get(),
            handoff_bytes: self.handoff_bytes.get(),
            messages_unsent: sum(&self.unsent),
            peers_refused: sum(&self.refused),
            alarms: self.alarms.get(),
        }
    }

    /// Adds the owner's families to a registry.
    pub(crate) fn observe(self: &Arc<Self>, metrics: &Metrics) -> Result<(), RegisterError> {
        let counters = Arc::clone(self);
        metrics.observe(FAMILIES.to_vec(), move || counters.points())
    }

    fn points(&self) -> Vec<Vec<Point>> {
        let gauges = self.gauges();
        vec![
            labelled(Gauges::ROLES, gauges.roles),
            single(gauges.led),
            single(gauges.led_without_lease),
            labelled(Gauges::PHASES, gauges.phases),
            labelled(["committed", "aborted"], [self.moves_committed.get(), self.moves_aborted.get()]),
            single(self.handoff_bytes.get()),
            labelled(Ended::LABELS, self.imports.each_ref().map(Counter::get)),
            labelled(Ended::LABELS, self.exports.each_ref().map(Counter::get)),
            single(self.takeovers.get()),
            single(self.alarms.get()),
            single(self.forced.get()),
            labelled(["sent", "received"], [self.sent_messages.get(), self.received_messages.get()]),
            labelled(["sent", "received"], [self.sent_batches.get(), self.received_batches.get()]),
            labelled(["sent", "received"], [self.sent_bytes.get(), self.received_bytes.get()]),
            labelled(Unsent::LABELS, self.unsent.each_ref().map(Counter::get)),
            labelled(PeerRefusal::LABELS, self.refused.each_ref().map(Counter::get)),
            single(self.connections_refused.get()),
            single(gauges.messages_queued),
            single(self.appends_received.get()),
            single(self.entries_received.get()),
            labelled(["gap", "disk_full"], [self.append_gaps.get(), self.append_full.get()]),
            single(self.disk_batches.get()),
            single(gauges.batches_under_way),
            single(gauges.writes_waiting),
            single(self.writes_unknown.get()),
            single(self.requests_refused.get()),
            protocol(&gauges.protocol),
        ]
    }
}

/// The protocol's own counters, each under its name.
fn protocol(stats: &Stats) -> Vec<Point> {
    let Stats {
        takeovers,
        takeovers_failed,
        takeovers_yielded,
        decided,
        forced,
        moves_begun,
        moves_committed,
        moves_aborted,
        moves_healing,
        copies_begun,
        copies_aborted,
        copies_adopted,
        appends_nacked,
        appends_sealed,
        appends_repeated,
        writes_busy,
        writes_disk_full,
        writes_unknown,
        writes_joined,
        promises_busy,
        drops,
        alarms,
        malformed,
    } = *stats;
    // A name beside each value: two lists could come out of step.
    let named = [
        ("takeovers", takeovers),
        ("takeovers_failed", takeovers_failed),
        ("takeovers_yielded", takeovers_yielded),
        ("decided", decided),
        ("forced", forced),
        ("moves_begun", moves_begun),
        ("moves_committed", moves_committed),
        ("moves_aborted", moves_aborted),
        ("moves_healing", moves_healing),
        ("copies_begun", copies_begun),
        ("copies_aborted", copies_aborted),
        ("copies_adopted", copies_adopted),
        ("appends_nacked", appends_nacked),
        ("appends_sealed", appends_sealed),
        ("appends_repeated", appends_repeated),
        ("writes_busy", writes_busy),
        ("writes_disk_full", writes_disk_full),
        ("writes_unknown", writes_unknown),
        ("writes_joined", writes_joined),
        ("promises_busy", promises_busy),
        ("drops", drops),
        ("alarms", alarms),
        ("malformed", malformed),
    ];
    labelled(named.map(|(name, _)| name), named.map(|(_, value)| value))
}

fn single(value: u64) -> Vec<Point> {
    vec![Point { label: String::new(), value: number(value) }]
}

fn labelled<const N: usize>(labels: [&str; N], values: [u64; N]) -> Vec<Point> {
    let points = labels.iter().zip(values);
    points.map(|(label, value)| Point { label: (*label).to_owned(), value: number(value) }).collect()
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus numbers are f64")]
fn number(count: u64) -> f64 {
    count as f64
}

const fn gauge(name: &'static str, help: &'static str, label: Option<&'static str>) -> Family {
    Family { name, help, kind: Kind::Gauge, label }
}

const fn counter(name: &'static str, help: &'static str, label: Option<&'static str>) -> Family {
    Family { name, help, kind: Kind::Counter, label }
}

/// In the order of [`Counters::points`].
const FAMILIES: [Family; 27] = [
    gauge("owner_partitions", "Partitions by what this node is in them.", Some("role")),
    gauge("owner_led", "Partitions this node leads.", None),
    gauge("owner_led_without_lease", "Partitions this node leads without a lease: reads wait.", None),
    gauge("handoffs", "Moves under way from this node, by phase.", Some("phase")),
    counter("handoffs_ended_total", "Moves from this node that ended, by outcome.", Some("outcome")),
    counter("handoff_bytes_total", "Bytes of keys and values that copies brought here.", None),
    counter("imports_total", "Copies pulled by this node, by outcome.", Some("outcome")),
    counter("exports_total", "Copies given out by this node, by outcome.", Some("outcome")),
    counter("takeovers_total", "Takeovers begun by this node.", None),
    counter("claim_alarms_total", "Decided claims of one epoch that contradict each other.", None),
    counter("claims_forced_total", "Claims an operator forced at this node without a majority.", None),
    counter("peer_messages_total", "Messages of the ownership protocol.", Some("direction")),
    counter("peer_batches_total", "Batches of messages.", Some("direction")),
    counter("peer_bytes_total", "Bytes of batches and copies between peer listeners.", Some("direction")),
    counter("peer_unsent_total", "Messages that did not reach their peer, by reason.", Some("reason")),
    counter("peer_refused_total", "Requests of peers that were refused, by reason.", Some("reason")),
    counter("peer_connections_refused_total", "Connections beyond the bound of the peer listener.", None),
    gauge("peer_queued_messages", "Messages queued for peers.", None),
    counter("replication_appends_total", "Appends received.", None),
    counter("replication_entries_total", "Log entries received.", None),
    counter("replication_nacks_total", "Appends of this node that were not stored.", Some("reason")),
    counter("disk_batches_total", "Batches handed to the store.", None),
    gauge("disk_batches_under_way", "Batches the store has not finished.", None),
    gauge("writes_waiting", "Writes that wait for their outcome.", None),
    counter("writes_unknown_total", "Writes answered with an unknown outcome.", None),
    counter("owner_requests_refused_total", "Requests refused because the owner's queue was full.", None),
    counter("ownership_events_total", "What the ownership protocol did, by what.", Some("event")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_its_points_and_every_reason_its_label() {
        let counters = Arc::new(Counters::default());
        counters.refused(&PeerRefusal::Busy);
        counters.unsent(Unsent::Refused, 7);
        counters.export(Ended::Cancelled);
        assert_eq!(counters.points().len(), FAMILIES.len());
        let metrics = Metrics::new("test", vec![]).unwrap();
        counters.observe(&metrics).unwrap();
        let text = metrics.encode().unwrap();
        for line in [
            "ringway_peer_refused_total{reason=\"peer_busy\"} 1",
            "ringway_peer_unsent_total{reason=\"refused\"} 7",
            "ringway_exports_total{outcome=\"cancelled\"} 1",
            "ringway_handoffs{phase=\"fenced\"} 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        for family in FAMILIES {
            assert_eq!(family.kind == Kind::Counter, family.name.ends_with("_total"), "{}", family.name);
        }
    }
}
