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
//! Even then it first makes sure that its name is its own. What a member starts from, a copied data directory for one,
//! may be enough for rule 2 while another process lives under the same id. So a member with seeds waits until it has
//! met somebody, who would know, for [`SEEDS_PATIENCE`] at most: a cluster that restarts must not wait for nodes that
//! are down. One whose store was started before waits, within the same time, until it has exchanged full state with
//! whoever it met: they may remember a later start of that store, and then this one is an older copy. And while another process is being asked whether it has this member's id
//! ([`ringway_gossip::Gossip::contested_at`]), nothing makes a member ready.
//!
//! A member that became ready stays so: cut off from the others it goes on serving what it knows, and shows how old
//! that is ([`crate::ClusterView::confirmed_at`]).

use std::net::SocketAddr;
use std::time::Duration;

use ringway_topology::NodeId;

use crate::directory::Directory;
use crate::records::MemberKind;

/// How long a member with seeds that knows its whole bootstrap list waits to meet somebody. Seeds that have not
/// answered by then do not answer.
/// *Relation*: as long as gossip waits for another process of the same id with its default timers.
pub const SEEDS_PATIENCE: Duration = Duration::from_millis(1_500);

/// Most names one reason spells out.
const NAMES_SHOWN_MAX: usize = 8;

/// Decides whether this member may serve.
#[derive(Debug)]
pub(crate) struct Gate {
    kind: MemberKind,
    bootstrap: Vec<NodeId>,
    seeds_configured: bool,
    /// Until when the seeds may take to answer.
    patient_until: Duration,
    /// Whether others may remember a start of this store.
    has_past: bool,
    synced: bool,
    synced_with_ready: bool,
}

/// What the gate looks at.
#[derive(Debug)]
pub(crate) struct Circumstances<'a> {
    pub(crate) now: Duration,
    pub(crate) directory: &'a Directory,
    /// The names of the members it has met.
    pub(crate) others: &'a [&'a str],
    /// This member's name, and where another process is being asked whether it has it too.
    pub(crate) contest: Option<(&'a str, SocketAddr)>,
}

impl Gate {
    pub(crate) fn new(
        kind: MemberKind,
        mut bootstrap: Vec<NodeId>,
        seeds_configured: bool,
        has_past: bool,
        now: Duration,
    ) -> Self {
        bootstrap.sort();
        bootstrap.dedup();
        let patient_until = now + SEEDS_PATIENCE;
        Self {
            kind,
            bootstrap,
            seeds_configured,
            patient_until,
            has_past,
            synced: false,
            synced_with_ready: false,
        }
    }

    /// A full state exchange with anybody finished.
    pub(crate) fn synced(&mut self) {
        self.synced = true;
    }

    /// A full state exchange with a ready member finished.
    pub(crate) fn synced_with_ready(&mut self) {
        self.synced_with_ready = true;
    }

    /// When time alone may change what [`Self::check`] says.
    pub(crate) fn due(&self) -> Option<Duration> {
        let waits = self.seeds_configured && !self.bootstrap.is_empty();
        waits.then_some(self.patient_until)
    }

    /// Whether the member may serve; else what it waits for.
    pub(crate) fn check(&self, seen: &Circumstances<'_>) -> Result<(), String> {
        let Circumstances { now, directory, others, contest } = *seen;
        if let Some((id, there)) = contest {
            return Err(format!("asking at {there} whether another process has the id {id}"));
        }
        if self.synced_with_ready {
            return Ok(());
        }
        if self.bootstrap.is_empty() {
            return self.check_without_bootstrap(others);
        }
        let missing: Vec<&str> =
            self.bootstrap.iter().filter(|id| !directory.knows_node(id)).map(NodeId::as_str).collect();
        if missing.is_empty() {
            if !self.seeds_configured || now >= self.patient_until {
                return Ok(());
            }
            if others.is_empty() {
                return Err("waiting for a seed to answer".to_owned());
            }
            if self.has_past && !self.synced {
                return Err("waiting to hear which start of this store others remember".to_owned());
            }
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
