//! What happened, for whoever asks: the last events of each kind in this process, numbered, as `/v1/events` tells them.
//!
//! Kinds are kept apart, as some come by the thousand and others once a year: who ordered that partitions are forced must
//! still be found after all of them have moved.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringway_control::PlaneEvent;
use ringway_control::ownership::{Event, MovePhase};
use ringway_member::Member;
use ringway_node::OwnerHandle;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::{Receiver, error::RecvError};

/// Events kept of each kind; older ones are gone, and a reader sees by the numbers that it missed some. The kinds are
/// words of this program, and few.
pub(crate) const EVENTS_OF_A_KIND_MAX: usize = 1_024;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EventView {
    /// Its number: from 1, without gaps, in this life of the process.
    pub id: u64,
    /// When, in milliseconds since 1970. For people: nothing is decided by it.
    pub at_ms: u64,
    /// What kind of thing happened, a word with underscores: `member_dead`.
    pub kind: String,
    /// To whom or what: a member, or `partition 4711`.
    pub subject: String,
    /// The event in words.
    pub text: String,
}

/// `/v1/events`: what happened after an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EventsView {
    /// Oldest first.
    pub events: Vec<EventView>,
    /// What to ask for next time: `after=<next>`.
    pub next: u64,
}

/// The last events of a process. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventLog(Arc<Mutex<Ring>>);

#[derive(Debug, Default)]
struct Ring {
    last: u64,
    /// Oldest first.
    by_kind: BTreeMap<&'static str, VecDeque<EventView>>,
}

impl EventLog {
    /// Adds an event; the oldest one of its kind goes when there are too many.
    pub(crate) fn add(&self, kind: &'static str, subject: impl Into<String>, text: impl Into<String>) {
        let at_ms = ringway_member::clock::wall_generation();
        let mut ring = self.ring();
        ring.last += 1;
        let id = ring.last;
        let events = ring.by_kind.entry(kind).or_default();
        if events.len() == EVENTS_OF_A_KIND_MAX {
            events.pop_front();
        }
        events.push_back(EventView {
            id,
            at_ms,
            kind: kind.to_owned(),
            subject: subject.into(),
            text: text.into(),
        });
    }

    /// The events with a number above `after`; all that are kept when the process has had fewer since its start.
    ///
    /// *Cost*: that of what is given; what is older is not looked at.
    pub(crate) fn after(&self, after: u64) -> EventsView {
        let ring = self.ring();
        // A reader that counts on from an earlier life of this process starts anew.
        let after = if after > ring.last { 0 } else { after };
        let news = ring
            .by_kind
            .values()
            .flat_map(|events| events.range(events.partition_point(|event| event.id <= after)..));
        let mut events: Vec<EventView> = news.cloned().collect();
        events.sort_unstable_by_key(|event| event.id);
        EventsView { events, next: ring.last }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Nothing is left half-done by a panic in there.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds what happens to a member, from now on and until it is gone.
pub(crate) fn follow(member: &Member, log: EventLog) {
    tokio::spawn(each(member.events(), log, plane_event));
}

/// Adds what happens to a node's partitions.
pub(crate) fn follow_owner(owner: &OwnerHandle, log: EventLog) {
    tokio::spawn(each(owner.events(), log, owner_event));
}

async fn each<E: Clone>(mut events: Receiver<E>, log: EventLog, words: fn(&E) -> Option<Words>) {
    loop {
        match events.recv().await {
            Ok(event) => {
                if let Some((kind, subject, text)) = words(&event) {
                    log.add(kind, subject, text);
                }
            }
            Err(RecvError::Lagged(missed)) => {
                log.add("events_missed", "", format!("{missed} events came too fast to be kept"));
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Kind, subject, text.
type Words = (&'static str, String, String);

/// An event of membership in words; none for what concerns nobody outside.
fn plane_event(event: &PlaneEvent) -> Option<Words> {
    let about = |kind, id: &dyn ToString, text: String| Some((kind, id.to_string(), text));
    match event {
        PlaneEvent::Changed
        | PlaneEvent::RecordsChanged
        | PlaneEvent::RecordOverLimit { .. }
        | PlaneEvent::RecordRefused { .. }
        | PlaneEvent::RecordConflict { .. }
        | PlaneEvent::RecordNotSpread { .. }
        | PlaneEvent::OwnRecordReasserted { .. } => None,
        PlaneEvent::Fatal(reason) => about("fatal", &"", reason.to_string()),
        PlaneEvent::Ready => about("ready", &"", "the map is complete: this process serves".to_owned()),
        PlaneEvent::MemberUp { id, address, generation } => {
            about("member_up", id, format!("{id} is alive at {address}, in its life {generation}"))
        }
        PlaneEvent::MemberSuspect { id } => about("member_suspect", id, format!("{id} does not answer")),
        PlaneEvent::MemberDead { id, .. } => about("member_dead", id, format!("{id} is dead")),
        PlaneEvent::MemberLeft { id } => about("member_left", id, format!("{id} said goodbye")),
        PlaneEvent::MemberForgotten { id } => about("member_forgotten", id, format!("{id} is forgotten")),
        PlaneEvent::Isolated(true) => {
            about("isolated", &"", "nothing is heard of any other member".to_owned())
        }
        PlaneEvent::Isolated(false) => about("connected", &"", "other members are heard again".to_owned()),
        PlaneEvent::Conflict { id, here, there } => {
            about("id_conflict", id, format!("{there} has the id of the member at {here}"))
        }
        PlaneEvent::TermsDiffer { by, .. } => about("terms_differ", by, format!("{by} has other settings")),
        PlaneEvent::JoinRefused { total } => {
            about("join_refused", &"", format!("a stranger wanted to join; {total} so far"))
        }
        PlaneEvent::Formed(uuid) => about("formed", &"", format!("the cluster is {uuid}")),
        PlaneEvent::BindingDiffers { node, difference } => {
            about("binding_differs", node, format!("{node} is bound to another bootstrap list: {difference}"))
        }
        PlaneEvent::OtherCluster { theirs } => {
            about("other_cluster", theirs, format!("cluster {theirs} has the same name and was met"))
        }
        PlaneEvent::ClaimConflict { known, other } => {
            about("claim_conflict", &"", format!("two claims of one epoch: {known} and {other}"))
        }
        PlaneEvent::ClaimHeldBack(held) => about(
            "claim_held_back",
            &format!("partition {}", held.partition),
            format!(
                "its claim of epoch {} names {}, which is not known here: the map keeps epoch {}",
                held.epoch, held.primary.node, held.shown
            ),
        ),
        PlaneEvent::NoClaimHeldBack => {
            about("claims_followed", &"", "the primary of every claim is known again".to_owned())
        }
        PlaneEvent::Ordered(order) => {
            let weight = order.weight.map_or_else(String::new, |weight| format!(", weight {}", weight.get()));
            about(
                "ordered",
                &order.node,
                format!("{} is to be {}{weight}, by {}", order.node, order.phase, order.by),
            )
        }
        PlaneEvent::Paused(pause) if pause.paused => {
            about("paused", &"", format!("no move begins, by {}", pause.by))
        }
        PlaneEvent::Paused(pause) => about("resumed", &"", format!("moves begin again, by {}", pause.by)),
        PlaneEvent::KeyringChanged { version, keys } => {
            let keys = keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let text =
                format!("version {version} of the keyring is in use here: {keys}; the first key seals");
            about("keyring_changed", &"", text)
        }
        PlaneEvent::KeyringNotKept { version, error } => {
            let text = format!(
                "version {version} of the keyring is in use and not in the keyring file: {error}; a restart would come back \
                 with the keys that are there"
            );
            about("keyring_not_kept", &"", text)
        }
        PlaneEvent::KeyringKept { version } => {
            about("keyring_kept", &"", format!("version {version} of the keyring is in the keyring file now"))
        }
        PlaneEvent::EvictedReturned { id } => about(
            "evicted_returned",
            id,
            format!("{id} was evicted and is back; `ringway activate {id}` takes it in"),
        ),
        PlaneEvent::Drained => about("drained", &"", "this node owns nothing any more".to_owned()),
        PlaneEvent::Replaced { id } => {
            about("replaced", id, format!("{id} was away for too long: its partitions are copied to others"))
        }
    }
}

/// An event of a partition in words.
fn owner_event(event: &Event) -> Option<Words> {
    let about = |kind, partition: ringway_topology::Partition, text: String| {
        Some((kind, format!("partition {partition}"), text))
    };
    match event {
        // The map shows claims, and copies belong to moves.
        Event::Decided(_) | Event::Import(_) | Event::CancelImport(_) => None,
        Event::Serving { partition, epoch } => {
            about("serving", *partition, format!("served here at epoch {epoch}"))
        }
        Event::Deposed { partition, epoch } => {
            about("deposed", *partition, format!("not served here any more: epoch {epoch} ended"))
        }
        Event::Takeover { partition, epoch } => {
            about("takeover", *partition, format!("its primary is gone; epoch {epoch} is being decided"))
        }
        Event::Forced(claim) => {
            let owners: Vec<&str> = claim.owners.iter().map(|owner| owner.node.as_str()).collect();
            let text = format!(
                "forced without a majority at epoch {}, owned by {}: what only the lost owners had is lost",
                claim.epoch,
                owners.join(", ")
            );
            about("forced", claim.partition, text)
        }
        Event::Alarm { known, other } => about(
            "alarm",
            known.partition,
            format!(
                "two decided claims of epoch {}: its data is in danger: {known:?} and {other:?}",
                other.epoch
            ),
        ),
        Event::Move(progress) => {
            let to: Vec<&str> = progress.to.iter().map(|owner| owner.node.as_str()).collect();
            let why = progress.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            let text = format!("{} to {}{why}", crate::text::move_phase(progress.phase), to.join(", "));
            let kind = match progress.phase {
                MovePhase::Preparing => "move_preparing",
                MovePhase::Copying => "move_copying",
                MovePhase::Fenced => "move_fenced",
                MovePhase::Proposed => "move_proposed",
                MovePhase::Committed => "move_committed",
                MovePhase::Aborted => "move_aborted",
            };
            about(kind, progress.partition, text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_go_on_where_they_were_and_miss_what_is_too_old() {
        let log = EventLog::default();
        assert_eq!(log.after(0), EventsView { events: Vec::new(), next: 0 });
        log.add("member_up", "n1", "member up");
        log.add("member_dead", "n1", "member dead");
        let all = log.after(0);
        assert_eq!(all.events.iter().map(|event| event.id).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((log.after(1).events[0].kind.as_str(), all.next), ("member_dead", 2));
        assert!(log.after(2).events.is_empty());
        assert_eq!(log.after(500).events.len(), 2, "numbers of an earlier life start anew");
    }

    #[test]
    fn what_is_rare_outlasts_any_number_of_what_is_not() {
        let log = EventLog::default();
        log.add("move_committed", "partition 7", "first of many");
        log.add("force_ordered", "partition 7", "by an operator");
        for _ in 0..EVENTS_OF_A_KIND_MAX {
            log.add("move_committed", "partition 7", "moved");
            log.add("move_copying", "partition 8", "copied");
        }
        let kept = log.after(0);
        assert_eq!(kept.events.len(), 2 * EVENTS_OF_A_KIND_MAX + 1, "the oldest of what is too much is gone");
        assert_eq!((kept.events[0].id, kept.events[0].kind.as_str()), (2, "force_ordered"));
        assert!(kept.events.is_sorted_by(|a, b| a.id < b.id), "in the order in which it happened");
        let last: Vec<u64> = log.after(kept.next - 3).events.iter().map(|event| event.id).collect();
        assert_eq!(last, [kept.next - 2, kept.next - 1, kept.next]);
    }
}
