//! Where partitions are wanted: the nodes the placement reads, and what it says about them.

use std::sync::{Arc, Mutex, PoisonError};

use ringway_control::{ClusterView, Order, OrderPhase};
use ringway_topology::{
    Health, Map, Membership, MembershipDigest, NodeEntry, NodeId, Phase, Placement, PlacementNode,
    PlacementParams, Weight,
};

/// The last placement that was asked for, as it is the same until the membership changes.
#[derive(Debug, Default)]
pub(crate) struct Desired(Mutex<Option<(MembershipDigest, Arc<Placement>)>>);

impl Desired {
    /// The placement of a membership under the cluster's settings.
    ///
    /// *Cost*: one placement after each change of membership, else a clone of a handle.
    pub(super) fn placement(&self, params: PlacementParams, membership: &Membership) -> Arc<Placement> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((digest, placement)) = &*last
            && *digest == membership.digest()
        {
            return Arc::clone(placement);
        }
        let placement = Arc::new(Placement::whole(params, membership));
        *last = Some((membership.digest(), Arc::clone(&placement)));
        placement
    }
}

/// The order that stands about a node: one about an earlier store of it is void.
pub(super) fn order_about<'v>(view: &'v ClusterView, node: &NodeEntry) -> Option<&'v Order> {
    let orders = &view.ownership.orders;
    orders.iter().find(|order| order.node == node.id && order.store == node.store)
}

/// What a node is to be, by its record and by order.
pub(super) fn phase_of(view: &ClusterView, node: &NodeEntry) -> OrderPhase {
    match (order_about(view, node), node.phase) {
        (Some(order), _) => order.phase,
        (None, Phase::Active) => OrderPhase::Active,
        (None, Phase::Leaving) => OrderPhase::Leaving,
    }
}

/// A node's share, by its record or as it was ordered.
pub(super) fn weight_of(view: &ClusterView, node: &NodeEntry) -> Weight {
    order_about(view, node).and_then(|order| order.weight).unwrap_or(node.weight)
}

/// The nodes that shall own partitions: active ones, with the weight that was ordered.
pub(super) fn membership(map: &Map, view: &ClusterView) -> Membership {
    let active = map.nodes().iter().filter(|node| phase_of(view, node) == OrderPhase::Active);
    let present = active.filter(|node| !view.ownership.replaced.contains(&node.id));
    Membership::new(present.map(|node| PlacementNode {
        id: node.id.clone(),
        zone: node.zone.clone(),
        weight: weight_of(view, node),
    }))
}

/// How the cluster places.
pub(super) fn params(map: &Map) -> PlacementParams {
    let settings = map.settings();
    PlacementParams {
        partitions: settings.partitions,
        replicas: settings.replicas,
        epsilon_ppm: settings.epsilon_ppm,
        algorithm: settings.algorithm,
    }
}

/// The owners of every partition by the claims, primary first.
pub(super) fn committed(map: &Map) -> Vec<Vec<NodeId>> {
    let ids = |partition| {
        let row = map.owners(partition);
        row.as_slice().iter().filter_map(|&index| map.node(index)).map(|node| node.id.clone()).collect()
    };
    map.partitions().map(ids).collect()
}

/// Whether a node can take part in anything now.
pub(super) fn is_there(node: &NodeEntry) -> bool {
    matches!(node.health, Health::Alive | Health::Suspect)
}
