//! What operators tell the cluster: drain, evict, activate, pause, resume. Each is checked before it is spread, and a
//! refusal says what to do instead.

use ringway_control::{Order, OrderPhase};
use ringway_topology::{Map, NodeEntry, NodeId, Ownership};
use serde::{Deserialize, Serialize};

use super::AdminSources;
use super::answer::Refusal;
use super::desired::{is_there, order_about, phase_of};
use super::page::{DemoVerb, OrderVerb};
use crate::plan::named;
use crate::text;

/// What an order came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OrderView {
    /// The node.
    pub node: String,
    /// What it is to be: `active`, `leaving` or `evicted`.
    pub phase: String,
    /// The weight that was ordered, if one was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub weight: Option<u32>,
    /// Partitions it owns by the claims, now.
    pub owned: u64,
}

/// Whether moves may begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PauseView {
    /// They may not.
    pub paused: bool,
    /// Who decided it.
    pub by: String,
}

/// Orders something about one node.
///
/// # Errors
/// Why it is refused; nothing was said to anybody.
pub(super) async fn order(
    sources: &AdminSources,
    map: &Map,
    id: &str,
    verb: OrderVerb,
    by: &str,
) -> Result<OrderView, Refusal> {
    claimed(map)?;
    let node = known(map, id)?;
    let standing = Standing { sources, map, node };
    let phase = match verb {
        OrderVerb::Drain => standing.may_drain()?,
        OrderVerb::Evict => standing.may_evict()?,
        OrderVerb::Activate => standing.may_activate()?,
    };
    let weight = order_about(&sources.view(), node).and_then(|order| order.weight);
    let order = Order { node: node.id.clone(), store: node.store, phase, weight, by: by.to_owned() };
    give(sources, map, order, verb.as_str()).await
}

/// Spreads an order that was checked.
///
/// # Errors
/// None so far: the caller's signature.
pub(super) async fn give(
    sources: &AdminSources,
    map: &Map,
    order: Order,
    what: &str,
) -> Result<OrderView, Refusal> {
    let Order { node, phase, weight, by, .. } = &order;
    tracing::info!(%node, %phase, ?weight, by, "an operator's order: {what}");
    let view = OrderView {
        node: node.to_string(),
        phase: phase.to_string(),
        weight: weight.map(|weight| weight.get()),
        owned: owned(map, node),
    };
    sources.member.order(order).await;
    Ok(view)
}

/// Lets moves begin, or not.
///
/// # Errors
/// In derived ownership nothing moves.
pub(super) async fn pause(
    sources: &AdminSources,
    map: &Map,
    paused: bool,
    by: &str,
) -> Result<PauseView, Refusal> {
    claimed(map)?;
    tracing::info!(paused, by, "an operator's order: {}", if paused { "pause" } else { "resume" });
    sources.member.pause(paused, by).await;
    Ok(PauseView { paused, by: by.to_owned() })
}

/// Stops or starts a node of the demo.
///
/// # Errors
/// This is no demo, it has no such node, or the node is that already.
pub(super) async fn demo(
    sources: &AdminSources,
    id: &str,
    verb: DemoVerb,
    by: &str,
) -> Result<crate::demo::DemoNode, Refusal> {
    let demo = sources.demo.as_ref().ok_or_else(|| {
        Refusal::not_found(
            "no_demo",
            "this process is not part of a `ringway demo`",
            "stop a node with SIGTERM, and start it with `ringway kv FILE`",
        )
    })?;
    let map = sources.snapshot.load();
    let ordered = known(&map, id).map(|node| phase_of(&sources.view(), node));
    if let (DemoVerb::Start, Ok(OrderPhase::Leaving | OrderPhase::Evicted)) = (verb, ordered) {
        return Err(Refusal::conflict(
            "ordered_away",
            format!("{id} was drained or evicted: it would own nothing, and go again"),
            format!("take that back first: `ringway activate {id}`"),
        ));
    }
    tracing::info!(node = id, by, "an operator's order: {}", verb.as_str());
    demo.ask(id, verb).await.map_err(|(reason, detail, next)| Refusal::conflict(reason, detail, next))
}

/// In derived ownership there is nobody who could be told to hand anything over.
pub(super) fn claimed(map: &Map) -> Result<(), Refusal> {
    match map.settings().ownership {
        Ownership::Claimed => Ok(()),
        Ownership::Derived => Err(Refusal::conflict(
            "derived_ownership",
            "this cluster runs `derived` ownership: partitions change hands by the node records alone, and no data moves",
            "take a node out by stopping it; preview with `ringway plan`; a cluster that shall move data is formed with \
             `ownership: claimed`",
        )),
    }
}

/// A node of the map.
fn known<'m>(map: &'m Map, id: &str) -> Result<&'m NodeEntry, Refusal> {
    let id =
        named(id).map_err(|error| Refusal::bad_request("bad_id", error, "name a node of the cluster"))?;
    map.node_by_id(&id).map(|(_, node)| node).ok_or_else(|| {
        let names: Vec<&str> = map.nodes().iter().map(|node| node.id.as_str()).collect();
        Refusal::not_found(
            "unknown_node",
            format!("the cluster has no node {id}"),
            format!("name one of {}", names.join(", ")),
        )
    })
}

/// Whether a node may be drained.
///
/// # Errors
/// Why not.
pub(super) fn may_drain(sources: &AdminSources, map: &Map, id: &NodeId) -> Result<(), Refusal> {
    let node = known(map, id.as_str())?;
    Standing { sources, map, node }.may_drain().map(drop)
}

/// A node of which something is asked, and the cluster it stands in.
struct Standing<'s> {
    sources: &'s AdminSources,
    map: &'s Map,
    node: &'s NodeEntry,
}

impl Standing<'_> {
    fn phase(&self) -> OrderPhase {
        phase_of(&self.sources.view(), self.node)
    }

    fn may_drain(&self) -> Result<OrderPhase, Refusal> {
        let id = &self.node.id;
        match self.phase() {
            OrderPhase::Active => {}
            OrderPhase::Leaving => {
                return Err(Refusal::conflict(
                    "already_leaving",
                    format!("{id} is leaving already, and owns {} partitions yet", owned(self.map, id)),
                    format!("follow it with `ringway status`, or keep it with `ringway activate {id}`"),
                ));
            }
            OrderPhase::Evicted => return Err(self.already_evicted()),
        }
        if !is_there(self.node) {
            return Err(Refusal::conflict(
                "not_alive",
                format!("{id} is {}: it cannot hand anything over", text::health(self.node.health)),
                format!(
                    "start it again and drain it then, or say that it will not be back: `ringway evict {id}`"
                ),
            ));
        }
        enough_stay(self.sources, self.map, std::slice::from_ref(&self.node.id))?;
        Ok(OrderPhase::Leaving)
    }

    fn may_evict(&self) -> Result<OrderPhase, Refusal> {
        let id = &self.node.id;
        if self.phase() == OrderPhase::Evicted {
            return Err(self.already_evicted());
        }
        if is_there(self.node) {
            return Err(Refusal::conflict(
                "alive",
                format!("{id} is {}: an eviction is for a node that is gone", text::health(self.node.health)),
                format!(
                    "`ringway drain {id}` moves its partitions away first; or stop it, and evict it when it is gone"
                ),
            ));
        }
        enough_stay(self.sources, self.map, std::slice::from_ref(&self.node.id))?;
        Ok(OrderPhase::Evicted)
    }

    fn may_activate(&self) -> Result<OrderPhase, Refusal> {
        let id = &self.node.id;
        if self.phase() == OrderPhase::Active {
            return Err(Refusal::conflict(
                "already_active",
                format!("{id} is neither leaving nor evicted"),
                "nothing need be done",
            ));
        }
        Ok(OrderPhase::Active)
    }

    fn already_evicted(&self) -> Refusal {
        let id = &self.node.id;
        Refusal::conflict(
            "already_evicted",
            format!("{id} is evicted already"),
            format!("take it back with `ringway activate {id}`"),
        )
    }
}

/// Whether enough nodes for the replicas stay without some.
pub(super) fn enough_stay(sources: &AdminSources, map: &Map, without: &[NodeId]) -> Result<(), Refusal> {
    let view = sources.view();
    let stay = |node: &&NodeEntry| {
        phase_of(&view, node) == OrderPhase::Active && is_there(node) && !without.contains(&node.id)
    };
    let staying = map.nodes().iter().filter(stay).count();
    let replicas = usize::from(map.settings().replicas);
    if staying >= replicas {
        return Ok(());
    }
    let names: Vec<&str> = without.iter().map(|id| id.as_str()).collect();
    Err(Refusal::conflict(
        "too_few_nodes",
        format!(
            "without {} there would be {staying} live nodes, and every partition needs {replicas} owners",
            names.join(" and ")
        ),
        format!(
            "join {} more first: start it with `gossip.seeds` and no `bootstrap`",
            more(replicas - staying)
        ),
    ))
}

fn more(nodes: usize) -> String {
    if nodes == 1 { "one node".to_owned() } else { format!("{nodes} nodes") }
}

/// How many partitions a node owns by the claims, in any role.
pub(super) fn owned(map: &Map, id: &NodeId) -> u64 {
    let Some((index, _)) = map.node_by_id(id) else { return 0 };
    map.partitions().filter(|&partition| map.owners(partition).as_slice().contains(&index)).count() as u64
}
