//! How a cluster forms: from the lists that its first nodes accepted to the first claim of every partition.
//!
//! ```text
//! every node of the list:  its store accepts the list, durably and once          a Binding, gossiped
//! once it knows the bindings of all of them, and they agree:
//!                          uuid = hash of the settings and of all bindings       ┐
//!                          placement of the bound nodes                          ├ the BootstrapRecord, gossiped
//!                          digest of that placement                              ┘
//! everybody:               checks the digest; the placement's owners are the claims of epoch 1
//! ```
//!
//! Nobody decides: each node of the list derives the record on its own, and all derive the same bytes, as everything
//! in it follows from the bindings. The random store ids in them make the uuid one of its kind. A store accepts one
//! list, once, so no store takes part in two clusters; and a binding whose node belongs to a cluster already says so, so
//! that a node which lost its disk does not found a second one together with what is remembered of the others.
//!
//! *Invariant*: the cluster a member once belonged to, in this life or by its data directory, never changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringway_topology::{
    ClusterSettings, ClusterUuid, Epoch, Membership, NodeId, NodeIndex, Owner, Partition, Placement,
    PlacementNode, PlacementParams,
};
use xxhash_rust::xxh3::Xxh3;

use crate::ownership::{Claim, Position};
use crate::plane::names;
use crate::records::{Binding, BindingRecord, BootstrapRecord, Founder};
use crate::view::FatalReason;

/// The epoch of the claims that follow from the bootstrap record.
pub const FIRST_EPOCH: Epoch = Epoch(1);

/// Why a cluster has not formed of the bindings known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotFormed {
    /// These nodes of the list have not said what they are bound to.
    Missing(Vec<NodeId>),
    /// This node is bound to something else.
    Differs {
        /// The node.
        node: NodeId,
        /// How its binding differs from ours.
        difference: String,
    },
    /// This node belongs to a cluster already: its record is on the way.
    Belongs {
        /// The node.
        node: NodeId,
        /// Its cluster.
        cluster: ClusterUuid,
    },
}

impl std::fmt::Display for NotFormed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(nodes) => {
                write!(f, "the cluster forms once {} have accepted the bootstrap list too", names(nodes))
            }
            Self::Differs { node, difference } => write!(
                f,
                "the cluster cannot form: {node} {difference}; give every node of the list the same \
                 node.bootstrap, and those that accepted another one an empty data_dir"
            ),
            Self::Belongs { node, cluster } => write!(
                f,
                "node {node} belongs to cluster {} already; waiting for that cluster's bootstrap record",
                cluster.short()
            ),
        }
    }
}

/// The record that follows from these bindings, if all nodes of `own`'s list are bound alike.
///
/// `bound` gives the binding a node has told. `ours` is the cluster this member belongs to already: it derives that
/// one's record again, should everybody have lost it, and no other's.
///
/// # Errors
/// [`NotFormed`]: the first difference, else who is missing.
pub fn form<'a>(
    settings: &ClusterSettings,
    own: &Binding,
    ours: Option<ClusterUuid>,
    bound: impl Fn(&NodeId) -> Option<&'a BindingRecord>,
) -> Result<BootstrapRecord, NotFormed> {
    let mut missing = Vec::new();
    let mut bindings = Vec::with_capacity(own.list.len());
    for node in &own.list {
        let Some(BindingRecord { binding, formed }) = bound(node) else {
            missing.push(node.clone());
            continue;
        };
        if let Some(cluster) = formed.filter(|cluster| Some(*cluster) != ours) {
            return Err(NotFormed::Belongs { node: node.clone(), cluster });
        }
        if let Some(difference) = difference(own, binding) {
            return Err(NotFormed::Differs { node: node.clone(), difference });
        }
        bindings.push(binding);
    }
    if !missing.is_empty() {
        return Err(NotFormed::Missing(missing));
    }
    let nodes: Vec<Founder> = bindings.iter().map(|binding| Founder::from(*binding)).collect();
    let terms = settings.terms();
    let mut hash = Xxh3::new();
    hash.update(terms.as_bytes());
    bindings.iter().for_each(|binding| hash.update(&binding.encode()));
    let cluster = ClusterUuid(hash.digest128());
    if let Some(ours) = ours.filter(|ours| *ours != cluster) {
        return Err(NotFormed::Belongs { node: own.node.clone(), cluster: ours });
    }
    Ok(BootstrapRecord {
        cluster,
        terms,
        contract: own.contract,
        digest: placement(settings, &nodes).digest(),
        nodes,
    })
}

fn difference(own: &Binding, other: &Binding) -> Option<String> {
    if own.list != other.list {
        return Some(format!(
            "accepted the bootstrap list {}, and {} {}",
            names(&other.list),
            own.node,
            names(&own.list)
        ));
    }
    (own.contract != other.contract).then(|| {
        format!(
            "speaks version {} of the node contract, and {} version {}",
            other.contract, own.node, own.contract
        )
    })
}

/// Checks a bootstrap record against our own derivation; the claims of epoch 1 if it holds, ascending by partition.
///
/// # Errors
/// [`FatalReason::ClaimsDiffer`]: this program would start from other owners than the cluster did, and must not serve.
///
/// *Cost*: that of [`Placement::whole`].
pub fn first_claims(
    settings: &ClusterSettings,
    contract: u16,
    record: &BootstrapRecord,
) -> Result<Vec<Arc<Claim>>, FatalReason> {
    let mut differences = settings.differences(record.terms.as_bytes());
    if record.contract != contract {
        differences.push(("node contract".to_owned(), contract.to_string(), record.contract.to_string()));
    }
    let placement = placement(settings, &record.nodes);
    if differences.is_empty() && placement.digest() != record.digest {
        let digests = (placement.digest().to_string(), record.digest.to_string());
        differences.push(("digest of the owners".to_owned(), digests.0, digests.1));
    }
    if !differences.is_empty() {
        return Err(FatalReason::ClaimsDiffer { differences });
    }
    // Few different rows for many partitions: they share their owners.
    let mut rows: BTreeMap<&[NodeIndex], Arc<[Owner]>> = BTreeMap::new();
    let owner = |at: &NodeIndex| {
        // Founders ascend by id, each once, like the nodes of the membership.
        let Founder { node, store, .. } = &record.nodes[usize::from(at.0)];
        Owner { node: node.clone(), store: *store }
    };
    let claims = placement.rows().zip(0..).map(|(row, partition)| {
        let owners = rows.entry(row).or_insert_with(|| row.iter().map(owner).collect());
        Arc::new(Claim {
            partition: Partition(partition),
            epoch: FIRST_EPOCH,
            owners: Arc::clone(owners),
            end: Position::ZERO,
        })
    });
    Ok(claims.collect())
}

fn placement(settings: &ClusterSettings, nodes: &[Founder]) -> Placement {
    let nodes = nodes.iter().map(|founder| PlacementNode {
        id: founder.node.clone(),
        zone: founder.zone.clone(),
        weight: founder.weight,
    });
    Placement::whole(PlacementParams::from(settings), &Membership::new(nodes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringway_topology::settings::{CONTRACT_VERSION, EPSILON_PPM_DEFAULT};
    use ringway_topology::{Algorithm, Ownership, PartitionCount, StoreId, Weight};

    fn settings() -> ClusterSettings {
        ClusterSettings {
            name: "shop".parse().unwrap(),
            partitions: PartitionCount::new(64).unwrap(),
            replicas: 2,
            hash_seed: 0,
            epsilon_ppm: EPSILON_PPM_DEFAULT,
            algorithm: Algorithm::Balanced,
            ownership: Ownership::Claimed,
        }
    }

    fn ids(names: &[&str]) -> Vec<NodeId> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn binding(name: &str, store: u128, list: &[&str]) -> Binding {
        Binding {
            node: name.parse().unwrap(),
            store: StoreId(store),
            zone: "a".parse().unwrap(),
            weight: Weight::ONE,
            list: ids(list),
            contract: CONTRACT_VERSION,
        }
        .canonical()
    }

    fn told(bindings: &[Binding]) -> BTreeMap<NodeId, BindingRecord> {
        let record = |binding: &Binding| BindingRecord { binding: binding.clone(), formed: None };
        bindings.iter().map(|binding| (binding.node.clone(), record(binding))).collect()
    }

    fn formed(own: &Binding, told: &BTreeMap<NodeId, BindingRecord>) -> Result<BootstrapRecord, NotFormed> {
        form(&settings(), own, None, |id| told.get(id))
    }

    const LIST: [&str; 3] = ["n3", "n1", "n2"];

    fn three(stores: [u128; 3]) -> [Binding; 3] {
        [("n1", stores[0]), ("n2", stores[1]), ("n3", stores[2])].map(|(n, store)| binding(n, store, &LIST))
    }

    #[test]
    fn every_node_of_the_list_derives_the_same_record_and_the_same_claims() {
        let bindings = three([7, 8, 9]);
        let told = told(&bindings);
        let records: Vec<_> = bindings.iter().map(|own| formed(own, &told).unwrap()).collect();
        assert!(records.iter().all(|record| record.encode() == records[0].encode()));
        let claims = first_claims(&settings(), CONTRACT_VERSION, &records[0]).unwrap();
        assert_eq!(claims.len(), 64);
        for (claim, partition) in claims.iter().zip(0..) {
            assert_eq!(
                (claim.partition, claim.epoch, claim.end),
                (Partition(partition), Epoch(1), Position::ZERO)
            );
            assert_eq!(claim.owners.len(), 2);
            let store = |owner: &Owner| bindings.iter().find(|b| b.node == owner.node).unwrap().store;
            assert!(claim.owners.iter().all(|owner| owner.store == store(owner)));
        }
    }

    #[test]
    fn other_disks_and_other_settings_make_another_cluster() {
        let one = formed(&three([7, 8, 9])[0], &told(&three([7, 8, 9]))).unwrap();
        let other_disk = formed(&three([7, 8, 10])[0], &told(&three([7, 8, 10]))).unwrap();
        assert_ne!(one.cluster, other_disk.cluster);
        assert_eq!(one.digest, other_disk.digest, "the owners are the same places");
        let seeded = ClusterSettings { hash_seed: 1, ..settings() };
        let told = told(&three([7, 8, 9]));
        let other_terms = form(&seeded, &three([7, 8, 9])[0], None, |id| told.get(id)).unwrap();
        assert_ne!(one.cluster, other_terms.cluster);
    }

    #[test]
    fn nothing_forms_of_a_missing_a_differing_or_a_formed_binding() {
        let [n1, n2, n3] = three([7, 8, 9]);
        let two = told(&[n1.clone(), n2.clone()]);
        assert_eq!(formed(&n1, &two), Err(NotFormed::Missing(ids(&["n3"]))));

        let other_list = binding("n3", 9, &["n3", "n1"]);
        let differing = formed(&n1, &told(&[n1.clone(), n2.clone(), other_list])).unwrap_err();
        let text = differing.to_string();
        assert!(text.contains("n3 accepted the bootstrap list n1, n3, and n1 n1, n2, n3"), "{text}");

        let other_contract = Binding { contract: 9, ..n3.clone() };
        let differing = formed(&n1, &told(&[n1.clone(), n2.clone(), other_contract])).unwrap_err();
        assert!(differing.to_string().contains("version 9"), "{differing}");

        let mut one_formed = told(&[n1.clone(), n2, n3.clone()]);
        one_formed.get_mut(&n3.node).unwrap().formed = Some(ClusterUuid(5));
        assert_eq!(
            formed(&n1, &one_formed),
            Err(NotFormed::Belongs { node: n3.node, cluster: ClusterUuid(5) })
        );
    }

    #[test]
    fn a_lost_record_is_derived_again_and_no_other_in_its_place() {
        let bindings = three([7, 8, 9]);
        let record = formed(&bindings[0], &told(&bindings)).unwrap();
        let again = |bindings: &[Binding; 3]| {
            let mut told = told(bindings);
            told.values_mut().for_each(|record_| record_.formed = Some(record.cluster));
            form(&settings(), &bindings[0], Some(record.cluster), |id| told.get(id))
        };
        assert_eq!(again(&bindings), Ok(record.clone()));
        let node = bindings[0].node.clone();
        let belongs = NotFormed::Belongs { node, cluster: record.cluster };
        assert_eq!(again(&three([7, 8, 10])), Err(belongs), "a disk was lost since");
    }

    #[test]
    fn a_record_that_is_not_reproduced_here_is_refused_by_what_differs() {
        let bindings = three([7, 8, 9]);
        let record = formed(&bindings[0], &told(&bindings)).unwrap();
        let refused = |settings: &ClusterSettings, contract, record: &BootstrapRecord| {
            first_claims(settings, contract, record).unwrap_err().to_string()
        };
        let other_digest = BootstrapRecord {
            digest: ringway_topology::PlacementDigest(record.digest.0 ^ 1),
            ..record.clone()
        };
        let text = refused(&settings(), CONTRACT_VERSION, &other_digest);
        assert!(text.contains(&record.digest.to_string()) && text.contains("digest of the owners"), "{text}");
        let three_replicas = ClusterSettings { replicas: 3, ..settings() };
        let text = refused(&three_replicas, CONTRACT_VERSION, &record);
        assert!(text.contains("replicas is 3 here and 2 in the bootstrap record"), "{text}");
        assert!(refused(&settings(), 2, &record).contains("node contract is 2 here and 1"));
    }
}
