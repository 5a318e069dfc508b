//! The changes of membership one can ask about.

use std::collections::BTreeMap;

use ringway_topology::{Membership, NodeId, PlacementNode, Weight, ZoneName};
use serde::{Deserialize, Serialize};

/// Changes to be made together. Also the body of `POST /v1/plans`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Changes {
    /// Nodes that join.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) join: Vec<Join>,
    /// Nodes that leave.
    #[serde(skip_serializing_if = "Vec::is_empty", with = "names")]
    pub(crate) drain: Vec<NodeId>,
    /// New weights, by node.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) weight: BTreeMap<String, u32>,
    /// New zones, by node.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) zone: BTreeMap<String, String>,
}

/// A node that joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Join {
    /// Its name.
    pub(crate) id: String,
    /// Its failure zone.
    #[serde(default = "Join::zone_default")]
    pub(crate) zone: String,
    /// Its share.
    #[serde(default = "Join::weight_default")]
    pub(crate) weight: u32,
}

impl Join {
    /// The zone of a node whose file names none.
    pub(crate) fn zone_default() -> String {
        "default".to_owned()
    }

    /// The weight of a node whose file names none.
    pub(crate) fn weight_default() -> u32 {
        Weight::ONE.get()
    }
}

impl Changes {
    /// Whether nothing is asked for.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The membership after the changes.
    ///
    /// # Errors
    /// A change that makes no sense, named.
    pub(crate) fn apply(&self, before: &Membership) -> Result<Membership, String> {
        let mut after = before.clone();
        for id in &self.drain {
            find(&after, id).ok_or_else(|| format!("drain {id}: the cluster has no such node"))?;
            after = after.without(id);
        }
        let present = |after: &Membership, what: &str, id: &str| {
            let id: NodeId = named(id)?;
            find(after, &id).ok_or_else(|| format!("{what} {id}: the cluster has no such node that stays"))
        };
        for (id, weight) in &self.weight {
            let node = present(&after, "weight", id)?;
            after = after.with(PlacementNode { weight: checked(*weight)?, ..node });
        }
        for (id, zone) in &self.zone {
            let node = present(&after, "zone", id)?;
            after = after.with(PlacementNode { zone: named::<ZoneName>(zone)?, ..node });
        }
        for Join { id, zone, weight } in &self.join {
            let node = PlacementNode { id: named(id)?, zone: named(zone)?, weight: checked(*weight)? };
            if find(&after, &node.id).is_some() {
                return Err(format!(
                    "join {id}: the cluster has a node of that id; ask for its weight or zone"
                ));
            }
            after = after.with(node);
        }
        if after.nodes().is_empty() {
            return Err(
                "this would leave no node at all: every partition would be without an owner".to_owned()
            );
        }
        Ok(after)
    }

    /// The changes on one line, for the log and the events.
    pub(crate) fn words(&self) -> String {
        let joins = self.join.iter().map(|join| format!("join {}", join.id));
        let drains = self.drain.iter().map(|id| format!("drain {id}"));
        let weights = self.weight.iter().map(|(id, weight)| format!("weight {id}={weight}"));
        let zones = self.zone.iter().map(|(id, zone)| format!("zone {id}={zone}"));
        joins.chain(drains).chain(weights).chain(zones).collect::<Vec<_>>().join(", ")
    }
}

/// A weight within its range.
///
/// # Errors
/// The range.
pub(crate) fn checked(weight: u32) -> Result<Weight, String> {
    Weight::new(weight).ok_or_else(|| format!("weight {weight}: takes 1 to {}", Weight::MAX))
}

fn find(membership: &Membership, id: &NodeId) -> Option<PlacementNode> {
    membership.nodes().iter().find(|node| node.id == *id).cloned()
}

/// A name, or the sentence that says why it is none.
///
/// # Errors
/// That sentence.
pub(crate) fn named<T: std::str::FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// Node ids as plain strings.
mod names {
    use ringway_topology::NodeId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(ids: &[NodeId], out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(ids.iter().map(NodeId::as_str))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<NodeId>, D::Error> {
        let texts = Vec::<String>::deserialize(input)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_name_every_change_and_nothing_else() {
        let body = r#"{"join":[{"id":"n6"}],"drain":["n2"],"weight":{"n1":2},"zone":{"n3":"b"}}"#;
        let changes: Changes = serde_json::from_str(body).unwrap();
        assert_eq!(changes.join, [Join { id: "n6".into(), zone: "default".into(), weight: 1 }]);
        assert_eq!(changes.words(), "join n6, drain n2, weight n1=2, zone n3=b");
        let again: Changes = serde_json::from_str(&serde_json::to_string(&changes).unwrap()).unwrap();
        assert_eq!(again, changes);
        for bad in [r#"{"leave":["n2"]}"#, r#"{"drain":["N2"]}"#, r#"{"join":[{"id":"n6","rack":"r"}]}"#] {
            assert!(serde_json::from_str::<Changes>(bad).is_err(), "{bad}");
        }
        assert!(Changes::default().is_empty());
    }
}
