//! Waiting for what was ordered, with a line whenever it got further.

use std::time::Duration;

use crate::admin::OrderView;
use crate::admin::api::MapView;
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
}

impl Goal {
    /// A node owns nothing any more.
    pub(super) fn owns_nothing(order: &OrderView) -> Self {
        Self { orders: vec![order.clone()], emptied: Some(order.node.clone()) }
    }

    /// Every partition is where it is wanted.
    pub(super) fn settled(orders: &[OrderView]) -> Self {
        Self { orders: orders.to_vec(), emptied: None }
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
}

/// Waits. Progress goes to stderr, so that stdout keeps to the answer.
///
/// # Errors
/// Exit code 4 when the listener stops answering.
pub(super) async fn until(admin: &mut AdminClient, goal: &Goal, quiet: bool) -> Result<(), Failure> {
    let mut told = None;
    loop {
        let map: MapView = admin.get("/v1/map").await?;
        match goal.left(&map) {
            Some(0) => {
                if !quiet {
                    eprintln!("done");
                }
                return Ok(());
            }
            Some(left) if told != Some(left) && !quiet => {
                let paused = map.claims.as_ref().is_some_and(|claims| claims.paused);
                let paused = if paused { " (paused: `ringway resume` lets moves begin)" } else { "" };
                eprintln!("{left} partitions to go{paused}");
                told = Some(left);
            }
            _ => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
