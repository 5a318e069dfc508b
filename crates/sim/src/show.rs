//! Messages in a line, for those who read schedules.

use ringway_control::ownership::{AppendResult, Ballot, CopyTag, Envelope, Message};

use crate::checkers::{at_position, show, show_claim};

/// `n1 → n2 append e3 2.14 +2 commit 2.13`.
#[must_use]
pub fn show_message(envelope: &Envelope) -> String {
    format!("{} → {} {}", show(&envelope.from), show(&envelope.to), words(&envelope.message))
}

fn words(message: &Message) -> String {
    match message {
        Message::Append { claim, copy, prev, entries, commit, .. } => {
            let last = entries.last().map_or(*prev, |entry| entry.position);
            let (prev, commit, last) = (at_position(*prev), at_position(*commit), at_position(last));
            let copy = copy.as_ref().map(tag).unwrap_or_default();
            format!("append e{}{copy} {prev} +{} → {last} commit {commit}", claim.epoch, entries.len())
        }
        Message::AppendReply { epoch, copy, result, .. } => {
            let copy = copy.as_ref().map(tag).unwrap_or_default();
            let result = match result {
                AppendResult::Stored { through } => format!("stored {}", at_position(*through)),
                AppendResult::Gap { last } => format!("gap, last {}", at_position(*last)),
                AppendResult::Sealed { ballot: at } => format!("sealed at {}", ballot(at)),
                AppendResult::Full => "full".to_owned(),
            };
            format!("append reply e{epoch}{copy} {result}")
        }
        Message::LeaseAsk { asked_at, generation, .. } => {
            format!("lease ask at {asked_at:?} life {generation}")
        }
        Message::LeaseGrant { asked_at, generation, grantor_generation, excluded, .. } => {
            let excluded: Vec<String> =
                excluded.iter().map(|(p, epoch)| format!("p{p} up to e{epoch}")).collect();
            format!(
                "lease grant for {asked_at:?} life {generation} by life {grantor_generation}, excluded [{}]",
                excluded.join(" ")
            )
        }
        Message::Prepare { epoch, ballot: at, .. } => format!("prepare e{epoch} at {}", ballot(at)),
        Message::Promise { epoch, ballot: at, last, accepted, .. } => {
            let accepted =
                accepted.as_ref().map(|(at, claim)| format!("{} at {}", show_claim(claim), ballot(at)));
            format!("promise e{epoch} at {} last {} accepted {accepted:?}", ballot(at), at_position(*last))
        }
        Message::Accept { claim, ballot: at } => format!("accept {} at {}", show_claim(claim), ballot(at)),
        Message::Accepted { epoch, ballot: at, .. } => format!("accepted e{epoch} at {}", ballot(at)),
        Message::Refused { epoch, ballot: at, promised, .. } => {
            format!("refused e{epoch} at {}, promised {:?}", ballot(at), promised.as_ref().map(ballot))
        }
        Message::Decided { claim } => format!("decided {}", show_claim(claim)),
        Message::Fetch { epoch, have, .. } => {
            let have: Vec<String> = have.iter().map(|position| at_position(*position)).collect();
            format!("fetch e{epoch} have [{}]", have.join(" "))
        }
        Message::Fetched { epoch, entries, .. } => match entries {
            Some((prev, entries)) => format!("fetched e{epoch} {} +{}", at_position(*prev), entries.len()),
            None => format!("fetched e{epoch} nothing"),
        },
        Message::Copy { claim, tag: it } => format!("copy e{}{}", claim.epoch, tag(it)),
        Message::CopyState { tag: it, state, .. } => format!("copy state{} {state:?}", tag(it)),
        Message::MayDrop { epoch, .. } => format!("may drop e{epoch}"),
        Message::Drop { claim, .. } => format!("drop {}", show_claim(claim)),
        #[allow(
            unreachable_patterns,
            reason = "the protocol may grow messages that need no words of their own"
        )]
        other => format!("{other:?}"),
    }
}

fn ballot(ballot: &Ballot) -> String {
    format!("{}/{}", ballot.round, show(&ballot.proposer))
}

fn tag(tag: &CopyTag) -> String {
    format!(" copy {} of {} at e{}", tag.import, show(&tag.source), tag.epoch)
}
