//! The bootstrap list that a store accepted: once, for good, and on disk before the first packet.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, bail};
use ringway_control::Binding;
use ringway_node::identity::write_durably;
use ringway_topology::NodeId;
use ringway_topology::settings::CONTRACT_VERSION;

/// Where it is kept, inside the data directory.
pub(super) const BINDING_FILE: &str = "binding";
/// Longest binding that is read, in bytes: 128 names of 63 bytes and more.
const BINDING_BYTES_MAX: usize = 64 << 10;

/// What the store in `data_dir` accepted. One that accepted nothing yet accepts what `wanted` says, unless its cluster
/// has formed already; `None` for a node that joins one.
///
/// # Errors
/// The file is damaged or another store's, or it cannot be written. Nothing was changed.
pub(super) fn bind(
    data_dir: &Path,
    wanted: Binding,
    bootstrap: &[NodeId],
    has_seeds: bool,
    has_formed: bool,
) -> anyhow::Result<Option<Binding>> {
    let path = data_dir.join(BINDING_FILE);
    if let Some(bound) = read(&path)? {
        if bound.node != wanted.node || bound.store != wanted.store {
            bail!(
                "{}: this binding is of node {} with store {}, and this is node {} with store {}. Nothing was changed. \
                 Restore the directory from one backup, or move it away whole and start this node as a new one",
                path.display(),
                bound.node,
                bound.store,
                wanted.node,
                wanted.store
            );
        }
        let list = Binding { list: bootstrap.to_vec(), ..bound.clone() }.canonical().list;
        if !has_formed && !bootstrap.is_empty() && list != bound.list {
            bail!(
                "{}: this store is bound to form a cluster of {}, and `node.bootstrap` now says {}. Nothing was \
                 changed. Write the first list again; or, while the cluster has not formed, move the data directories \
                 of its nodes away and start anew",
                path.display(),
                names(&bound.list),
                names(&list)
            );
        }
        return Ok(Some(bound));
    }
    let alone = bootstrap.is_empty() && !has_seeds;
    if has_formed || !(alone || bootstrap.contains(&wanted.node)) {
        return Ok(None);
    }
    let list = if alone { vec![wanted.node.clone()] } else { bootstrap.to_vec() };
    let binding = Binding { list, contract: CONTRACT_VERSION, ..wanted }.canonical();
    write_durably(data_dir, BINDING_FILE, &binding.encode())
        .with_context(|| format!("{} cannot be written", path.display()))?;
    tracing::info!(list = names(&binding.list), "this store is bound to its bootstrap list");
    Ok(Some(binding))
}

fn read(path: &Path) -> anyhow::Result<Option<Binding>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("{} cannot be read", path.display()))?,
    };
    let corrupt = |why: &dyn std::fmt::Display| {
        anyhow::anyhow!(
            "{}: the binding is corrupt: {why}. Nothing was changed. Restore the file from a backup, or move the whole \
             directory away and start this node as a new one",
            path.display()
        )
    };
    if bytes.len() > BINDING_BYTES_MAX {
        return Err(corrupt(&"it is too long"));
    }
    Binding::decode(&bytes).map(Some).map_err(|problem| corrupt(&problem))
}

fn names(list: &[NodeId]) -> String {
    list.iter().map(NodeId::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringway_topology::{StoreId, Weight};

    fn ids(names: &[&str]) -> Vec<NodeId> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn wanted(store: u128) -> Binding {
        Binding {
            node: "n1".parse().unwrap(),
            store: StoreId(store),
            zone: "a".parse().unwrap(),
            weight: Weight::ONE,
            list: Vec::new(),
            contract: CONTRACT_VERSION,
        }
    }

    #[test]
    fn a_list_is_accepted_once_and_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let bind_to = |list: &[&str], formed| bind(dir.path(), wanted(7), &ids(list), true, formed);
        assert_eq!(bind_to(&[], false).unwrap(), None, "it joins");
        assert_eq!(bind_to(&["n2", "n3"], false).unwrap(), None, "others form the cluster");
        let bound = bind_to(&["n2", "n1"], false).unwrap().unwrap();
        assert_eq!(bound.list, ids(&["n1", "n2"]), "in its one order");
        assert_eq!(bind_to(&["n1", "n2"], false).unwrap(), Some(bound.clone()));
        assert_eq!(bind_to(&[], false).unwrap(), Some(bound.clone()), "the file may lose the line");
        let refused = bind_to(&["n1", "n2", "n3"], false).unwrap_err().to_string();
        assert!(refused.contains("n1, n2, and") && refused.contains("n1, n2, n3"), "{refused}");
        assert_eq!(
            bind_to(&["n1", "n9"], true).unwrap(),
            Some(bound),
            "a formed cluster does not form again"
        );
        let cloned = bind(dir.path(), wanted(8), &ids(&["n1", "n2"]), true, false).unwrap_err().to_string();
        assert!(cloned.contains("store"), "{cloned}");
        fs::write(dir.path().join(BINDING_FILE), b"nonsense").unwrap();
        assert!(bind_to(&["n1", "n2"], false).unwrap_err().to_string().contains("corrupt"));
    }

    #[test]
    fn a_node_alone_is_bound_to_itself_and_one_whose_cluster_has_formed_to_nothing_new() {
        let dir = tempfile::tempdir().unwrap();
        let lost = bind(dir.path(), wanted(7), &ids(&["n1"]), true, true).unwrap();
        assert_eq!(lost, None);
        let alone = bind(dir.path(), wanted(7), &[], false, false).unwrap().unwrap();
        assert_eq!(alone.list, ids(&["n1"]));
    }
}
