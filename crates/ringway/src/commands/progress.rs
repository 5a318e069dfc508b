//! Waiting for what was ordered, with a line whenever it got further.

use std::time::Duration;

use crate::admin::OrderView;
use crate::admin::api::{MapView, NodeView};
use crate::admin::client::AdminClient;
use crate::exit::Failure;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is waited for.
pub(super) struct Goal {
    /// What the nodes are to be, before anything else counts.
    orders: Vec<OrderView>,
    /// Until this node owns nothing; until every partition is where it is wanted when `None`.
    emptied: Option<String>,
    /// … and until it has gone: before, it would heed another order instead of going.
    gone: bool,
}

impl Goal {
    /// A node owns nothing any more.
    pub(super) fn owns_nothing(order: &OrderView) -> Self {
        Self { orders: vec![order.clone()], emptied: Some(order.node.clone()), gone: false }
    }

    /// A node owns nothing any more, and has gone.
    pub(super) fn has_gone(order: &OrderView) -> Self {
        Self { gone: true, ..Self::owns_nothing(order) }
    }

    /// Every partition is where it is wanted.
    pub(super) fn settled(orders: &[OrderView]) -> Self {
        Self { orders: orders.to_vec(), emptied: None, gone: false }
    }

    /// How many partitions there are to go; `None` while the orders are not known there.
    fn left(&self, map: &MapView) -> Option<u64> {
        let known = self.orders.iter().all(|order| {
            let node = map.nodes.iter().find(|node| node.id == order.node);
            // A node that is gone from the map owns nothing.
            node.is_none_or(|node| {
                node.phase == order.phase && order.weight.is_none_or(|weight| weight == node.weight)
            })
        });
        let left = match &self.emptied {
            Some(id) => map.nodes.iter().find(|node| node.id == *id).map_or(0, |node| node.owned),
            None => map.claims.as_ref().map_or(0, |claims| claims.to_move),
        };
        known.then_some(left)
    }

    /// Whether the node is still there that is to go.
    fn stays(&self, map: &MapView) -> bool {
        let is_there = |node: &NodeView| matches!(node.health.as_str(), "alive" | "suspect");
        let node = self.emptied.as_ref().and_then(|id| map.nodes.iter().find(|node| node.id == *id));
        self.gone && node.is_some_and(is_there)
    }
}

/// Waits. Progress goes to stderr, so that stdout keeps to the answer.
///
/// # Errors
/// Exit code 4 when the listener stops answering.
pub(super) async fn until(admin: &mut AdminClient, goal: &Goal, quiet: bool) -> Result<(), Failure> {
    let mut told = None;
    loop {
        let map: MapView = admin.get("/v1/map").await?;
        let left = goal.left(&map);
        if left == Some(0) && !goal.stays(&map) {
            if !quiet {
                eprintln!("done");
            }
            return Ok(());
        }
        if let Some(left) = left
            && told.replace(left) != Some(left)
            && !quiet
        {
            eprintln!("{}", words(left, &map));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How far it is.
fn words(left: u64, map: &MapView) -> String {
    let paused = map.claims.as_ref().is_some_and(|claims| claims.paused);
    match (left, paused) {
        (0, _) => "it owns nothing any more, and goes".to_owned(),
        (left, false) => format!("{left} partitions to go"),
        (left, true) => format!("{left} partitions to go (paused: `ringway resume` lets moves begin)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(phase: &str, health: &str, owned: u64) -> MapView {
        serde_json::from_value(serde_json::json!({
            "cluster": {
                "name": "shop", "partitions": 4, "replicas": 1, "hash_seed": 0, "epsilon_ppm": 0,
                "placement": "balanced", "ownership": "claimed",
            },
            "digest": "d",
            "unowned": 0,
            "nodes": [{
                "id": "n5", "zone": "a", "weight": 1, "store": "5", "data": "127.0.0.1:1", "phase": phase,
                "health": health, "primaries": 0, "owned": owned,
            }],
        }))
        .unwrap()
    }

    #[test]
    fn a_drain_is_done_when_the_node_has_gone() {
        let order: OrderView = serde_json::from_value(serde_json::json!({
            "node": "n5", "phase": "leaving", "owned": 7,
        }))
        .unwrap();
        let goal = Goal::has_gone(&order);
        assert_eq!(goal.left(&map("active", "alive", 7)), None, "the order is not known there yet");
        assert_eq!(goal.left(&map("leaving", "alive", 7)), Some(7));
        let empty = map("leaving", "alive", 0);
        assert_eq!((goal.left(&empty), goal.stays(&empty)), (Some(0), true), "it is about to go");
        let gone = map("leaving", "left", 0);
        assert_eq!((goal.left(&gone), goal.stays(&gone)), (Some(0), false));
        assert!(!Goal::owns_nothing(&order).stays(&empty), "who is evicted is gone already");
    }
}
