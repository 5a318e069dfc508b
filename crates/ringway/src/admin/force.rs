//! The operator's last resort: partitions that lost a majority of their owners for good are served from what one
//! survivor has. docs/OWNERSHIP.md, "When a majority is lost for good".

use ringway_node::ownership::{Claim, ForceRefusal};
use ringway_node::{Forced, OwnerHandle};
use ringway_topology::{Map, Partition};
use serde::{Deserialize, Serialize};

use super::AdminSources;
use super::answer::Refusal;
use super::orders;
use crate::text;

/// What forcing risks, in the words of every refusal and of the command.
const RISK: &str = "a forced claim makes this node serve from what its own disk holds: every write that only the lost \
    owners had is gone, also those that clients were told had succeeded, and nobody tells them; and if a lost owner is \
    in truth alive and only cut off, both sides serve until they meet, and then everything written at the other side \
    meanwhile is dropped";

/// What is asked for.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ForceRequest {
    /// Whoever asks knows what it risks. Without it everything is refused.
    #[serde(default)]
    pub accept_data_loss: bool,
    /// Which partitions; every stuck one that the node owns when there is no list.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub partitions: Option<Vec<u32>>,
}

/// What forcing came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ForceView {
    /// The node that serves from what it has.
    pub node: String,
    /// What was forced, ascending by partition.
    pub forced: Vec<ForcedRow>,
    /// What was not.
    pub refused: Vec<RefusedRow>,
}

/// A claim that was forced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ForcedRow {
    /// Whose.
    pub partition: u32,
    /// Its epoch: far above that of the claim before.
    pub epoch: u64,
    /// Its owners, primary first: the survivors.
    pub owners: Vec<String>,
    /// The last entry that is kept: its epoch and number.
    pub end: (u64, u64),
}

/// A claim that was not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefusedRow {
    /// Whose.
    pub partition: u32,
    /// A stable word.
    pub reason: String,
    /// Why.
    pub detail: String,
    /// What to do instead.
    pub next: String,
}

/// Reads what is asked for; an empty body asks for everything and accepts nothing.
///
/// # Errors
/// It is something else.
pub(super) fn parse(body: &[u8]) -> Result<ForceRequest, Refusal> {
    if body.is_empty() {
        return Ok(ForceRequest::default());
    }
    serde_json::from_slice(body).map_err(|error| {
        Refusal::bad_request(
            "bad_body",
            error.to_string(),
            "send {\"accept_data_loss\": true}, and \"partitions\": [N, …] for some of them only",
        )
    })
}

/// Forces one partition.
///
/// # Errors
/// Why it is refused; nothing was changed.
pub(super) async fn one(
    sources: &AdminSources,
    map: &Map,
    number: &str,
    request: &ForceRequest,
    by: &str,
) -> Result<ForceView, Refusal> {
    let number = number.parse().map_err(|_| no_such_partition(map, number))?;
    let request = ForceRequest { accept_data_loss: request.accept_data_loss, partitions: Some(vec![number]) };
    let view = some(sources, map, &request, by).await?;
    match view.refused.first() {
        None => Ok(view),
        Some(row) => Err(Refusal::conflict(word(&row.reason), row.detail.clone(), row.next.clone())),
    }
}

/// Forces the partitions that are named, or every stuck one this node owns.
///
/// # Errors
/// Why nothing at all could be done.
pub(super) async fn some(
    sources: &AdminSources,
    map: &Map,
    request: &ForceRequest,
    by: &str,
) -> Result<ForceView, Refusal> {
    orders::claimed(map)?;
    let owner = sources.store.as_ref().and_then(|store| store.owner.as_ref()).ok_or_else(|| {
        Refusal::not_found(
            "owns_nothing",
            format!("{} is no storage node: it has nothing to serve a partition from", sources.id),
            "ask the admin listener of a surviving owner; `ringway status` names the nodes that are alive",
        )
    })?;
    if !request.accept_data_loss {
        return Err(Refusal::conflict(
            "data_loss_not_accepted",
            RISK,
            "start every lost node that still has its disk; when they are gone for good, say so with \
             --accept-data-loss ({\"accept_data_loss\": true})",
        ));
    }
    let partitions = match &request.partitions {
        None => None,
        Some(numbers) => Some(known(map, numbers)?),
    };
    let outcomes = ask(owner, partitions).await.ok_or_else(|| {
        Refusal::conflict(
            "not_taking_part",
            format!("{} does not take part in ownership now: it starts or stops", sources.id),
            "ask again once its /readyz says ready",
        )
    })?;
    if outcomes.is_empty() {
        return Err(Refusal::conflict(
            "nothing_stuck",
            format!("every partition that {} owns is served", sources.id),
            "nothing need be done here; another survivor may own what is stuck",
        ));
    }
    Ok(tell(sources, map, outcomes, by))
}

async fn ask(owner: &OwnerHandle, partitions: Option<Vec<Partition>>) -> Option<Vec<Forced>> {
    let Some(partitions) = partitions else { return owner.force(None).await };
    let mut outcomes = Vec::with_capacity(partitions.len());
    for partition in partitions {
        outcomes.extend(owner.force(Some(partition)).await?);
    }
    Some(outcomes)
}

/// Says what was done in the log and to whoever asks for events, with who ordered it.
fn tell(sources: &AdminSources, map: &Map, outcomes: Vec<Forced>, by: &str) -> ForceView {
    let mut view = ForceView { node: sources.id.clone(), forced: Vec::new(), refused: Vec::new() };
    for (partition, outcome) in outcomes {
        match outcome {
            Ok(claim) => view.forced.push(forced(&claim)),
            Err(refusal) => view.refused.push(refused(map, partition, &refusal)),
        }
    }
    for row in &view.forced {
        let ForcedRow { partition, epoch, .. } = row;
        tracing::error!(
            partition,
            epoch,
            by,
            "an operator's order: force; writes that only the lost owners had are lost"
        );
        let text = format!("to be served from what {} has, at epoch {epoch}, by {by}", sources.id);
        sources.events.add("force_ordered", format!("partition {partition}"), text);
    }
    view
}

fn forced(claim: &Claim) -> ForcedRow {
    ForcedRow {
        partition: claim.partition.0,
        epoch: claim.epoch.0,
        owners: claim.owners.iter().map(|owner| owner.node.to_string()).collect(),
        end: (claim.end.epoch.0, claim.end.seq),
    }
}

fn refused(map: &Map, partition: Partition, refusal: &ForceRefusal) -> RefusedRow {
    let (reason, next) = match refusal {
        ForceRefusal::NotOwner => ("not_an_owner", format!("ask one of its owners: {}", owners(map, partition))),
        ForceRefusal::Served => ("not_stuck", "nothing need be done".to_owned()),
        ForceRefusal::TooSoon { wait } => (
            "too_soon",
            format!(
                "start the lost nodes with their disks if that can be; else ask again in {} s",
                wait.as_secs() + 1
            ),
        ),
        ForceRefusal::MajorityThere { .. } => (
            "majority_alive",
            "let them reach each other (listen.peer), or stop those whose disks are broken: they count as gone then"
                .to_owned(),
        ),
        ForceRefusal::Silent { owner } => (
            "not_heard_of",
            format!("ask again in some seconds; if {0} cannot answer, stop {0}: it counts as gone then", owner.node),
        ),
        ForceRefusal::LongerLog { owner, .. } => (
            "longer_log",
            format!("force it at the admin listener of {0}; if what {0} has is broken, stop {0}", owner.node),
        ),
    };
    RefusedRow { partition: partition.0, reason: reason.to_owned(), detail: refusal.to_string(), next }
}

/// The owners by the map, with how they are.
fn owners(map: &Map, partition: Partition) -> String {
    let row = map.owners(partition);
    let named = row.as_slice().iter().filter_map(|index| map.nodes().get(usize::from(index.0)));
    named.map(|node| format!("{} ({})", node.id, text::health(node.health))).collect::<Vec<_>>().join(", ")
}

/// The refusal's word as the answer takes it.
fn word(reason: &str) -> &'static str {
    const WORDS: [&str; 6] =
        ["not_an_owner", "not_stuck", "too_soon", "majority_alive", "not_heard_of", "longer_log"];
    WORDS.into_iter().find(|word| *word == reason).unwrap_or("refused")
}

fn known(map: &Map, numbers: &[u32]) -> Result<Vec<Partition>, Refusal> {
    let last = map.settings().partitions.get() - 1;
    let known = |number: &u32| (*number <= last).then_some(Partition(*number));
    numbers.iter().map(|number| known(number).ok_or_else(|| no_such_partition(map, number))).collect()
}

/// 404: there are fewer.
pub(super) fn no_such_partition(map: &Map, number: impl std::fmt::Display) -> Refusal {
    Refusal::not_found(
        "no_such_partition",
        format!("there is no partition {number}"),
        format!("ask for 0 to {}", map.settings().partitions.get() - 1),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_accepted_that_was_not_said() {
        assert!(!parse(b"").unwrap().accept_data_loss);
        assert!(!parse(b"{}").unwrap().accept_data_loss);
        let asked = parse(b"{\"accept_data_loss\": true, \"partitions\": [1, 7]}").unwrap();
        assert_eq!((asked.accept_data_loss, asked.partitions), (true, Some(vec![1, 7])));
        for bad in
            [&b"{\"accept_data_loss\": 1}"[..], b"true", b"{\"accept\": true}", b"{\"partitions\": [-1]}"]
        {
            assert_eq!(parse(bad).unwrap_err().reason, "bad_body", "{}", String::from_utf8_lossy(bad));
        }
    }
}
