//! When a member may serve.
//!
//! A member that served from half a membership would send keys to nodes that do not own them. So it serves only
//! once it has reason to believe that it knows every node:
//!
//! 1. it exchanged full state with a member that is ready itself, or
//! 2. it knows the record of every node named in `bootstrap`: nobody is ready yet when a cluster forms. A restarted
//!    node may know them from its own record file, so that a whole cluster comes back with a node still down; or
//! 3. it is a node with neither seeds nor a bootstrap list: a cluster of one.
//!
//! A member that became ready stays so: cut off from the others it goes on serving what it knows, and shows how old
//! that is ([`crate::ClusterView::confirmed_at`]).

use ringway_topology::NodeId;

use crate::directory::Directory;
use crate::records::MemberKind;

/// Most names one reason spells out.
const NAMES_SHOWN_MAX: usize = 8;

/// Decides whether this member may serve.
#[derive(Debug)]
pub(crate) struct Gate {
    kind: MemberKind,
    bootstrap: Vec<NodeId>,
    seeds_configured: bool,
    synced_with_ready: bool,
}

impl Gate {
    pub(crate) fn new(kind: MemberKind, mut bootstrap: Vec<NodeId>, seeds_configured: bool) -> Self {
        bootstrap.sort();
        bootstrap.dedup();
        Self { kind, bootstrap, seeds_configured, synced_with_ready: false }
    }

    /// A full state exchange with a ready member finished.
    pub(crate) fn synced_with_ready(&mut self) {
        self.synced_with_ready = true;
    }

    /// Whether the member may serve; else what it waits for. `others` are the names of the members it has met.
    pub(crate) fn check(&self, directory: &Directory, others: &[&str]) -> Result<(), String> {
        if self.synced_with_ready {
            return Ok(());
        }
        if self.bootstrap.is_empty() {
            return self.check_without_bootstrap(others);
        }
        let missing: Vec<&str> =
            self.bootstrap.iter().filter(|id| !directory.knows_node(id)).map(NodeId::as_str).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!(
            "waiting for the bootstrap nodes {} to be seen, or for a ready member; {}",
            names(&missing),
            met(others)
        ))
    }

    fn check_without_bootstrap(&self, others: &[&str]) -> Result<(), String> {
        match (self.kind, self.seeds_configured) {
            (MemberKind::Node, false) => Ok(()),
            (MemberKind::Router, false) if others.is_empty() => {
                Err("no seeds are configured and nobody has joined: a router alone has nowhere to route"
                    .to_owned())
            }
            _ => Err(format!("waiting for a ready member; {}", met(others))),
        }
    }
}

fn met(others: &[&str]) -> String {
    match others {
        [] => "no other member has answered yet".to_owned(),
        others => format!("met so far, none of them ready: {}", names(others)),
    }
}

fn names(names: &[&str]) -> String {
    let shown = names[..names.len().min(NAMES_SHOWN_MAX)].join(", ");
    match names.len().saturating_sub(NAMES_SHOWN_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
