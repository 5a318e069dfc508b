//! Where the demo keeps its data: a directory per node.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::exit::Failure;

/// The demo's directory; a temporary one goes when dropped.
pub(super) struct DemoDirectory {
    path: PathBuf,
    nodes: u16,
    _temporary: Option<tempfile::TempDir>,
}

impl DemoDirectory {
    /// Opens or creates the directory of a demo of `nodes` nodes.
    ///
    /// # Errors
    /// It cannot be made, or it holds a demo of another number of nodes.
    pub(super) fn open(dir: Option<&Path>, nodes: u16) -> Result<Self, Failure> {
        let Some(dir) = dir else {
            let temporary = tempfile::Builder::new().prefix("ringway-demo-").tempdir()?;
            return Ok(Self { path: temporary.path().to_owned(), nodes, _temporary: Some(temporary) });
        };
        fs::create_dir_all(dir)
            .with_context(|| format!("cannot make the demo's directory {}", dir.display()))?;
        let held = (1..=u16::MAX).take_while(|n| dir.join(format!("n{n}")).exists()).count();
        if held > 0 && held != usize::from(nodes) {
            return Err(Failure::bad_input(format!(
                "{} holds the data of {held} nodes, and {nodes} were asked for: its cluster was formed by {held} nodes, \
                 and a store is bound to that for good; run it with --nodes {held}, or with another --dir",
                dir.display()
            )));
        }
        Ok(Self { path: dir.to_owned(), nodes, _temporary: None })
    }

    /// How many nodes form the cluster.
    pub(super) fn nodes(&self) -> u16 {
        self.nodes
    }

    /// The nodes' names: n1, n2, ….
    pub(super) fn ids(&self) -> impl Iterator<Item = String> + use<> {
        (1..=self.nodes).map(|n| format!("n{n}"))
    }

    /// A node's data directory.
    pub(super) fn of(&self, id: &str) -> PathBuf {
        self.path.join(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_belongs_to_a_number_of_nodes() {
        let dir = tempfile::tempdir().unwrap();
        let open = |nodes| DemoDirectory::open(Some(dir.path()), nodes);
        let demo = open(2).unwrap();
        for id in demo.ids() {
            fs::create_dir(demo.of(&id)).unwrap();
        }
        assert!(open(2).is_ok());
        assert!(open(3).is_err() && open(1).is_err());
    }
}
