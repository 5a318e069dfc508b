//! What the parts of a process say to each other: claims, wishes, hints, and the cluster they belong to.

use std::sync::{Arc, Mutex, PoisonError};

use ringway_control::ClaimHint;
use ringway_member::{Keyring, Member, MemberHandle, Readiness};
use ringway_node::owner::Tie;
use ringway_node::{Identity, OwnerHandle};
use ringway_proxy::ClaimHints;
use ringway_topology::ClusterUuid;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Tasks that pass things on; they end when this is dropped.
pub(super) struct Links {
    tasks: Vec<JoinHandle<()>>,
    failed: watch::Receiver<Option<String>>,
    /// Claims and wishes come in, decided claims go out.
    _owner: Option<Tie>,
}

/// Connects a node's parts. `owner` is there in claimed ownership.
pub(super) fn connect(
    member: &Member,
    owner: Option<&OwnerHandle>,
    hints: ClaimHints,
    identity: Arc<Mutex<Identity>>,
) -> Links {
    let (failing, failed) = watch::channel(None);
    let formed = tokio::spawn(keep_cluster(member.formed(), Arc::clone(&identity), failing.clone()));
    let mut tasks = vec![pass_hints(member, hints), formed];
    if let Some(owner) = owner.cloned() {
        let keyring = member.keyring();
        let (readiness, member) = (member.readiness(), member.handle());
        tasks.push(tokio::spawn(pass_keys(keyring, owner.clone())));
        tasks.push(tokio::spawn(take_part(readiness, member, owner, identity, failing)));
    }
    Links { tasks, failed, _owner: owner.and_then(|owner| owner.connect(member)) }
}

/// Hands claims that came with refusals to the member; in claimed ownership every router needs it.
pub(super) fn pass_hints(member: &Member, hints: ClaimHints) -> JoinHandle<()> {
    let member = member.handle();
    tokio::spawn(async move {
        loop {
            let claim = hints.next().await;
            let owners = claim.owners.into();
            member.hint(ClaimHint { partition: claim.partition, epoch: claim.epoch, owners });
        }
    })
}

/// Seals and opens what nodes say to each other with keys of the keyring that is in use.
async fn pass_keys(mut keyring: watch::Receiver<Keyring>, owner: OwnerHandle) {
    while keyring.changed().await.is_ok() {
        owner.set_keyring(&keyring.borrow_and_update());
    }
}

/// Writes the cluster's uuid into the identity once it is known.
async fn keep_cluster(
    mut formed: watch::Receiver<Option<ClusterUuid>>,
    identity: Arc<Mutex<Identity>>,
    failing: watch::Sender<Option<String>>,
) {
    loop {
        let cluster = *formed.borrow_and_update();
        if let Some(cluster) = cluster {
            let identity = Arc::clone(&identity);
            let kept = tokio::task::spawn_blocking(move || {
                identity.lock().unwrap_or_else(PoisonError::into_inner).belong_to(cluster)
            });
            if let Ok(Err(error)) = kept.await {
                failing.send_replace(Some(error.to_string()));
            }
        }
        if formed.changed().await.is_err() {
            // The directory's lock is held for as long as the links are.
            return std::future::pending().await;
        }
    }
}

/// Lets the ownership engine take part once this member is ready: by then it has heard which start of its store others
/// remember, and would have stopped if its directory did not know of it. This start is put on disk and told first, so
/// that whatever the engine promises from now on is missed by every copy made before.
async fn take_part(
    mut readiness: watch::Receiver<Readiness>,
    member: MemberHandle,
    owner: OwnerHandle,
    identity: Arc<Mutex<Identity>>,
    failing: watch::Sender<Option<String>>,
) {
    if readiness.wait_for(Readiness::is_ready).await.is_err() {
        return;
    }
    let marked = tokio::task::spawn_blocking(move || {
        identity.lock().unwrap_or_else(PoisonError::into_inner).mark_start()
    });
    match marked.await {
        Ok(Ok(nonce)) => {
            member.started(nonce).await;
            owner.take_part();
        }
        Ok(Err(error)) => {
            failing.send_replace(Some(error.to_string()));
        }
        // The process ends.
        Err(_) => {}
    }
}

impl Links {
    /// Waits for a reason why the process cannot go on.
    pub(super) async fn failure(&self) -> anyhow::Error {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await.map(|reason| reason.clone()) {
            Ok(Some(reason)) => anyhow::anyhow!(reason),
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

impl Links {
    /// Ends the tasks. When it returns the data directory is free again.
    pub(super) async fn close(mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
            // It was aborted, or has ended before.
            let _ = task.await;
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
