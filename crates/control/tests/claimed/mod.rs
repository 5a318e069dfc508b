//! `claimed` ownership: how a cluster forms, how claims spread, and what operators can say.

mod claims;
mod formation;
mod orders;
mod starts;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringway_control::ownership::{Claim, Position};
use ringway_control::{Binding, Command, NodeRecord, PlaneEvent, PlaneOptions};
use ringway_gossip::Identity;
use ringway_topology::settings::CONTRACT_VERSION;
use ringway_topology::{ClusterSettings, Epoch, Owner, Ownership, Partition, PartitionCount, StoreId};

use super::world::{World, joiner, ms, node_id, record, router, settings};
use super::{SOON, reason};

/// `claimed` ownership of `partitions`, three owners each.
fn claimed(partitions: u32) -> ClusterSettings {
    let partitions = PartitionCount::new(partitions).unwrap();
    ClusterSettings { ownership: Ownership::Claimed, replicas: 3, partitions, ..settings() }
}

fn binding(n: u8, list: &[u8]) -> Binding {
    let NodeRecord { id, store, zone, weight, .. } = record(n);
    let list = list.iter().map(|n| node_id(*n)).collect();
    Binding { node: id, store, zone, weight, list, contract: CONTRACT_VERSION }.canonical()
}

/// Node `n<n>` of a cluster that forms of `list`.
fn founder(n: u8, list: &[u8]) -> PlaneOptions {
    PlaneOptions {
        settings: claimed(256),
        binding: Some(binding(n, list)),
        bootstrap: list.iter().map(|n| node_id(*n)).collect(),
        ..joiner(n)
    }
}

/// Node `n<n>` that joins a standing cluster.
fn newcomer(n: u8) -> PlaneOptions {
    PlaneOptions { settings: claimed(256), ..joiner(n) }
}

/// The member in its next life.
fn again(options: PlaneOptions) -> PlaneOptions {
    let identity = Identity { generation: options.identity.generation + 1, ..options.identity.clone() };
    PlaneOptions { identity, ..options }
}

/// Nodes 1 to `count`, formed and ready, with these settings.
fn cluster_of(world: &mut World, settings: &ClusterSettings, count: u8) -> Vec<SocketAddr> {
    let list: Vec<u8> = (1..=count).collect();
    let members: Vec<SocketAddr> = list
        .iter()
        .map(|n| world.start(PlaneOptions { settings: settings.clone(), ..founder(*n, &list) }))
        .collect();
    for at in &members[1..] {
        world.join(*at, members[0]);
    }
    world.run_until("all are ready", SOON, |world| members.iter().all(|at| world.member(*at).is_ready()));
    members
}

fn three(world: &mut World) -> Vec<SocketAddr> {
    cluster_of(world, &claimed(256), 3)
}

/// A router that joined.
fn router_of(world: &mut World, settings: &ClusterSettings, seed: SocketAddr) -> SocketAddr {
    let at = world.start(PlaneOptions { settings: settings.clone(), ..router(99) });
    world.join(at, seed);
    world.run_until("the router is ready", SOON, |world| world.member(at).is_ready());
    at
}

fn owner(n: u8) -> Owner {
    Owner { node: node_id(n), store: StoreId(u128::from(n)) }
}

fn claim(partition: u32, epoch: u64, owners: &[u8]) -> Arc<Claim> {
    Arc::new(Claim {
        partition: Partition(partition),
        epoch: Epoch(epoch),
        owners: owners.iter().map(|n| owner(*n)).collect(),
        end: Position { epoch: Epoch(epoch - 1), seq: 17 },
    })
}

/// The owners and epoch of a partition in a member's map.
fn shown(world: &World, at: SocketAddr, partition: u32) -> (u64, Vec<String>) {
    let map = world.member(at).map();
    let owners = map.owners(Partition(partition));
    let ids = owners.as_slice().iter().map(|at| map.node(*at).unwrap().id.to_string()).collect();
    (map.epoch(Partition(partition)).0, ids)
}

fn names(owners: &[u8]) -> Vec<String> {
    owners.iter().map(|n| node_id(*n).to_string()).collect()
}

/// The owners of a partition's first claim, by number.
fn first_owners(world: &World, at: SocketAddr, partition: u32) -> Vec<u8> {
    let (epoch, ids) = shown(world, at, partition);
    assert_eq!(epoch, 1);
    ids.iter().map(|id| id[1..].parse().unwrap()).collect()
}

fn emitted(world: &World, at: SocketAddr, wanted: impl Fn(&PlaneEvent) -> bool) -> bool {
    world.member(at).first(wanted).is_some()
}

fn announce(world: &mut World, at: SocketAddr, claim: &Arc<Claim>) {
    world.command(at, Command::Announce(Arc::clone(claim)));
}
