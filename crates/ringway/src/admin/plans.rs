//! Plans: previewed, named by a digest, committed while the cluster is still what it was.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ringway_control::{ClusterView, MemberKind, Order, OrderPhase};
use ringway_gossip::State;
use ringway_topology::{Map, NodeId, Ownership, Partition, Weight};
use serde::{Deserialize, Serialize};

use super::AdminSources;
use super::answer::Refusal;
use super::api::PartitionsView;
use super::client::AdminClient;
use super::desired::{self, order_about};
use super::orders::{self, OrderView};
use crate::plan::{Changes, PlanView, Question, Size, checked};

/// Plans remembered between preview and commit; the oldest is forgotten first.
const PLANS_MAX: usize = 64;
/// A node that has not told its sizes by then is left out of the sums.
const SIZES_TIMEOUT: Duration = Duration::from_secs(5);

/// The plans that were shown, by digest.
#[derive(Debug, Default)]
pub(crate) struct PlanShelf(Mutex<VecDeque<(String, Changes)>>);

impl PlanShelf {
    fn keep(&self, digest: &str, changes: &Changes) {
        let mut plans = self.plans();
        plans.retain(|(known, _)| known != digest);
        if plans.len() == PLANS_MAX {
            plans.pop_front();
        }
        plans.push_back((digest.to_owned(), changes.clone()));
    }

    fn find(&self, digest: &str) -> Option<Changes> {
        self.plans().iter().find(|(known, _)| known == digest).map(|(_, changes)| changes.clone())
    }

    fn plans(&self) -> MutexGuard<'_, VecDeque<(String, Changes)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a commit came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CommitView {
    /// The plan.
    pub digest: String,
    /// What was ordered, in the order it was.
    pub orders: Vec<OrderView>,
}

/// `POST /v1/plans`: what the changes would move.
///
/// # Errors
/// Changes that make no sense.
pub(super) async fn preview(sources: &AdminSources, map: &Map, body: &[u8]) -> Result<PlanView, Refusal> {
    let changes: Changes = serde_json::from_slice(body).map_err(|error| {
        let example =
            r#"send JSON like {"drain":["n2"],"weight":{"n1":2},"join":[{"id":"n6","zone":"a","weight":1}]}"#;
        Refusal::bad_request("bad_plan", format!("the body names no changes: {error}"), example)
    })?;
    if changes.is_empty() {
        return Err(Refusal::bad_request(
            "bad_plan",
            "no change was asked for",
            "name a join, drain, weight or zone",
        ));
    }
    let plan = plan(sources, map, &changes, ask_nodes(sources, map).await)?;
    sources.plans.keep(&plan.digest, &changes);
    Ok(plan)
}

/// `POST /v1/plans/{digest}/commit`: orders what the plan needs.
///
/// # Errors
/// The plan is not known here, the cluster is not what it was, or the plan is not one that orders can bring about.
/// Nothing was ordered then.
pub(super) async fn commit(
    sources: &AdminSources,
    map: &Map,
    digest: &str,
    by: &str,
) -> Result<CommitView, Refusal> {
    orders::claimed(map)?;
    let changes = sources.plans.find(digest).ok_or_else(|| {
        Refusal::not_found(
            "unknown_plan",
            format!("no plan {digest} was previewed at {}", sources.id),
            "preview it again, at the same admin listener: `ringway plan …`",
        )
    })?;
    let now = plan(sources, map, &changes, Told::default())?;
    if now.digest != digest {
        return Err(Refusal::conflict(
            "outdated_plan",
            format!(
                "the cluster is not what it was when plan {digest} was made: `{}` would now change the owners of {} \
                 partitions, and that is plan {}",
                changes.words(),
                now.partitions_changed,
                now.digest
            ),
            "preview it again and commit the new digest",
        ));
    }
    let planned = orders_of(sources, map, &changes, by)?;
    let mut views = Vec::new();
    for order in planned {
        views.push(orders::give(sources, map, order, "commit").await?);
    }
    Ok(CommitView { digest: digest.to_owned(), orders: views })
}

/// The orders that bring the changes about.
fn orders_of(sources: &AdminSources, map: &Map, changes: &Changes, by: &str) -> Result<Vec<Order>, Refusal> {
    if let Some(join) = changes.join.first() {
        return Err(Refusal::conflict(
            "join_is_a_start",
            format!("a node joins by being started, and {} is not there", join.id),
            format!(
                "start {} with `gossip.seeds` and no `bootstrap`: it takes its partitions as soon as it is ready",
                join.id
            ),
        ));
    }
    if let Some(id) = changes.zone.keys().next() {
        return Err(Refusal::conflict(
            "zone_is_in_the_file",
            format!("the zone of {id} stands in its own file"),
            format!("change `node.zone` there and restart {id}"),
        ));
    }
    changes.drain.iter().try_for_each(|id| orders::may_drain(sources, map, id))?;
    orders::enough_stay(sources, map, &changes.drain)?;
    let view = sources.view();
    let order = |id: &NodeId, phase, weight: Option<Weight>| {
        let (_, node) = map.node_by_id(id).ok_or_else(|| outdated_node(id))?;
        let weight = weight.or_else(|| order_about(&view, node).and_then(|order| order.weight));
        Ok(Order { node: id.clone(), store: node.store, phase, weight, by: by.to_owned() })
    };
    let drains = changes.drain.iter().map(|id| order(id, OrderPhase::Leaving, None));
    let weights = changes.weight.iter().map(|(id, weight)| {
        let id = id.parse().map_err(|error| Refusal::bad_request("bad_id", format!("{error}"), ""))?;
        let weight = checked(*weight).map_err(|error| Refusal::bad_request("bad_weight", error, ""))?;
        order(&id, OrderPhase::Active, Some(weight))
    });
    drains.chain(weights).collect()
}

fn outdated_node(id: &NodeId) -> Refusal {
    Refusal::conflict(
        "outdated_plan",
        format!("{id} is not in the cluster any more"),
        "preview the plan again",
    )
}

fn plan(sources: &AdminSources, map: &Map, changes: &Changes, told: Told) -> Result<PlanView, Refusal> {
    let Told { sizes, paces, mut notes } = told;
    let view = sources.view();
    let claimed = map.settings().ownership == Ownership::Claimed;
    if !claimed {
        notes.push(
            "ownership is derived: partitions change hands at once and their data does not move with them; a key that \
             changes its owner answers 404 until it is written again"
                .to_owned(),
        );
    }
    if view.ownership.pause.as_ref().is_some_and(|pause| pause.paused) {
        notes.push("moves are paused: nothing moves before `ringway resume`".to_owned());
    }
    let before = desired::membership(map, &view);
    let question = Question {
        params: desired::params(map),
        before,
        committed: claimed.then(|| desired::committed(map)),
        sizes,
        paces,
        notes,
    };
    question.answer(changes).map_err(|error| {
        Refusal::bad_request("bad_plan", error, "`ringway status` shows the nodes there are")
    })
}

/// What the nodes told of themselves.
#[derive(Debug, Default)]
struct Told {
    /// What the partitions hold, as their primaries count it.
    sizes: BTreeMap<Partition, Size>,
    /// Bytes per second of copies that a node takes in, of those whose files bound them.
    paces: BTreeMap<String, u64>,
    /// Which nodes did not tell.
    notes: Vec<String>,
}

/// Asks every node that may lead something.
async fn ask_nodes(sources: &AdminSources, map: &Map) -> Told {
    let mut told = Told::default();
    if map.settings().ownership == Ownership::Derived {
        return told;
    }
    let view = sources.view();
    let mut asked: FuturesUnordered<_> = nodes(&view).map(|(id, admin)| ask_node(id, admin)).collect();
    let mut silent = Vec::new();
    while let Some((id, answer)) = asked.next().await {
        let Some(answer) = answer else {
            silent.push(id);
            continue;
        };
        told.paces.extend(answer.import_bytes_per_second.map(|pace| (id, pace)));
        told.sizes.extend(sizes_led(&answer));
    }
    silent.sort();
    told.notes = silent.iter().map(|id| format!("{id} did not tell what its partitions hold")).collect();
    told
}

/// The nodes that may lead something, and where they answer operators.
fn nodes(view: &ClusterView) -> impl Iterator<Item = (String, Option<std::net::SocketAddr>)> {
    let node = |member: &&ringway_control::MemberStatus| {
        member.kind == Some(MemberKind::Node) && matches!(member.state, State::Alive | State::Suspect)
    };
    view.members.iter().filter(node).map(|member| (member.id.clone(), member.admin))
}

async fn ask_node(id: String, admin: Option<std::net::SocketAddr>) -> (String, Option<PartitionsView>) {
    let Some(admin) = admin else { return (id, None) };
    let ask = async {
        let mut client = AdminClient::connect(&format!("http://{admin}")).await?;
        client.get::<PartitionsView>(&format!("/v1/partitions?node={id}")).await
    };
    let answer = match tokio::time::timeout(SIZES_TIMEOUT, ask).await {
        Ok(Ok(view)) => Some(view),
        Ok(Err(error)) => {
            tracing::debug!(node = id, ?error, "a node did not tell its sizes");
            None
        }
        Err(_) => None,
    };
    (id, answer)
}

/// What the partitions hold that the node that answered leads.
fn sizes_led(answer: &PartitionsView) -> impl Iterator<Item = (Partition, Size)> {
    let led = answer.partitions.iter().filter(|row| row.role.as_deref() == Some("primary"));
    led.filter_map(|row| Some((Partition(row.partition), Size { bytes: row.bytes?, keys: row.keys? })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shelf_forgets_the_oldest_plan() {
        let shelf = PlanShelf::default();
        let changes =
            |n: usize| Changes { drain: vec![format!("n{n}").parse().unwrap()], ..Changes::default() };
        for n in 0..=PLANS_MAX {
            shelf.keep(&format!("{n:016x}"), &changes(n));
        }
        assert_eq!(shelf.find(&format!("{:016x}", 0)), None);
        assert_eq!(shelf.find(&format!("{:016x}", 1)), Some(changes(1)));
        assert_eq!(shelf.plans().len(), PLANS_MAX);
    }
}
