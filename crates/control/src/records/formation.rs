//! What a cluster forms of: the lists its first nodes accepted, and the record they lead to.

use ringway_topology::{ClusterUuid, NodeId, PlacementDigest, StoreId, Weight, ZoneName};

use super::codec::{Reader, put_text};
use super::{FORMAT, RecordProblem};

/// Keys of bindings start with this.
pub const BINDING_KEY_PREFIX: &str = "binding/";
/// The key of the bootstrap record.
pub const BOOTSTRAP_KEY: &str = "bootstrap";
/// Most nodes a cluster can form of; more join once it stands. Keeps the record within what gossip takes.
pub const BOOTSTRAP_NODES_MAX: usize = 128;
/// Longest settings text in a bootstrap record, in bytes.
const TERMS_BYTES_MAX: usize = ringway_gossip::TERMS_BYTES_MAX;

/// One node of the bootstrap list accepts the list: durably, and once for the life of its store.
///
/// *Invariant*: `list` ascends, names every node once, and names `node`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Binding {
    /// The node.
    pub node: NodeId,
    /// The disk that holds the binding.
    pub store: StoreId,
    /// What the first placement reads of it.
    pub zone: ZoneName,
    /// Its share of the first placement.
    pub weight: Weight,
    /// The nodes the cluster forms of, ascending.
    pub list: Vec<NodeId>,
    /// The version of the node contract it speaks.
    pub contract: u16,
}

/// A binding as it travels: with the cluster it has led to, so that nobody forms a second one of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingRecord {
    /// What the store accepted.
    pub binding: Binding,
    /// The cluster its node belongs to by now.
    pub formed: Option<ClusterUuid>,
}

/// A node of the first placement.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Founder {
    /// Its name.
    pub node: NodeId,
    /// Its disk.
    pub store: StoreId,
    /// Its failure zone.
    pub zone: ZoneName,
    /// Its share.
    pub weight: Weight,
}

/// What the claims of epoch 1 follow from. Written by the nodes of the list, each on its own and all alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapRecord {
    /// Tells this cluster from every other one of the same name: a hash of all bindings, random store ids included.
    pub cluster: ClusterUuid,
    /// The settings, as [`ringway_topology::ClusterSettings::terms`] writes them.
    pub terms: String,
    /// The version of the node contract.
    pub contract: u16,
    /// The nodes, ascending by id.
    pub nodes: Vec<Founder>,
    /// Digest of the placement whose owners the claims of epoch 1 name.
    pub digest: PlacementDigest,
}

impl Binding {
    /// Brings the list into its one form: ascending, each node once.
    #[must_use]
    pub fn canonical(mut self) -> Self {
        self.list.sort();
        self.list.dedup();
        self
    }

    /// The record's key: `binding/<id>`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{BINDING_KEY_PREFIX}{}", self.node)
    }

    /// The bytes to keep on disk; also the front of its record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        put_text(&mut out, self.node.as_str());
        out.extend(self.store.0.to_be_bytes());
        put_text(&mut out, self.zone.as_str());
        out.extend(self.weight.get().to_be_bytes());
        out.extend(self.contract.to_be_bytes());
        let list = &self.list[..self.list.len().min(BOOTSTRAP_NODES_MAX)];
        out.push(list.len() as u8);
        for id in list {
            put_text(&mut out, id.as_str());
        }
        out
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`RecordProblem`]; any input is fine.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordProblem> {
        let mut reader = Reader::open(bytes)?;
        let binding = Self::read(&mut reader)?;
        reader.close(binding)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, RecordProblem> {
        let (node, store, zone) = (reader.node()?, reader.store()?, reader.zone()?);
        let (weight, contract) = (reader.weight()?, u16::from_be_bytes(reader.array()?));
        let count = usize::from(reader.byte()?);
        if count > BOOTSTRAP_NODES_MAX {
            return Err(RecordProblem::Field("list"));
        }
        let list = (0..count).map(|_| reader.node()).collect::<Result<Vec<_>, _>>()?;
        if !list.is_sorted_by(|a, b| a < b) || !list.contains(&node) {
            return Err(RecordProblem::Field("list"));
        }
        Ok(Self { node, store, zone, weight, list, contract })
    }
}

impl BindingRecord {
    /// The record's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.binding.encode();
        match self.formed {
            None => out.push(0),
            Some(cluster) => {
                out.push(1);
                out.extend(cluster.0.to_be_bytes());
            }
        }
        out
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`RecordProblem`]; any input is fine.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordProblem> {
        let mut reader = Reader::open(bytes)?;
        let binding = Binding::read(&mut reader)?;
        let formed = match reader.flag("cluster")? {
            false => None,
            true => Some(ClusterUuid(u128::from_be_bytes(reader.array()?))),
        };
        reader.close(Self { binding, formed })
    }
}

impl BootstrapRecord {
    /// The record's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.extend(self.cluster.0.to_be_bytes());
        out.extend(self.contract.to_be_bytes());
        out.extend(self.digest.0.to_be_bytes());
        // Names have at most 63 bytes and numbers few digits: the settings are shorter than their bound.
        out.extend((self.terms.len() as u16).to_be_bytes());
        out.extend(self.terms.as_bytes());
        let nodes = &self.nodes[..self.nodes.len().min(BOOTSTRAP_NODES_MAX)];
        out.push(nodes.len() as u8);
        for Founder { node, store, zone, weight } in nodes {
            put_text(&mut out, node.as_str());
            out.extend(store.0.to_be_bytes());
            put_text(&mut out, zone.as_str());
            out.extend(weight.get().to_be_bytes());
        }
        out
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`RecordProblem`]; any input is fine.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordProblem> {
        let mut reader = Reader::open(bytes)?;
        let cluster = ClusterUuid(u128::from_be_bytes(reader.array()?));
        let contract = u16::from_be_bytes(reader.array()?);
        let digest = PlacementDigest(u64::from_be_bytes(reader.array()?));
        let terms = reader.long_text("terms", TERMS_BYTES_MAX)?.to_owned();
        let count = usize::from(reader.byte()?);
        if !(1..=BOOTSTRAP_NODES_MAX).contains(&count) {
            return Err(RecordProblem::Field("nodes"));
        }
        let nodes = (0..count).map(|_| Founder::read(&mut reader)).collect::<Result<Vec<_>, _>>()?;
        if !nodes.is_sorted_by(|a, b| a.node < b.node) {
            return Err(RecordProblem::Field("nodes"));
        }
        reader.close(Self { cluster, terms, contract, nodes, digest })
    }
}

impl Founder {
    fn read(reader: &mut Reader<'_>) -> Result<Self, RecordProblem> {
        let (node, store, zone) = (reader.node()?, reader.store()?, reader.zone()?);
        Ok(Self { node, store, zone, weight: reader.weight()? })
    }
}

impl From<&Binding> for Founder {
    fn from(binding: &Binding) -> Self {
        Self {
            node: binding.node.clone(),
            store: binding.store,
            zone: binding.zone.clone(),
            weight: binding.weight,
        }
    }
}
