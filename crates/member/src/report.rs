//! What the plane tells, as log lines.

use ringway_control::PlaneEvent;

/// One log line for one event; none for what only concerns the shell.
pub(crate) fn log(event: &PlaneEvent) {
    match event {
        // The supervisor logs what ends a member, whatever it was.
        PlaneEvent::Changed | PlaneEvent::RecordsChanged | PlaneEvent::Fatal(_) => {}
        PlaneEvent::Ready => tracing::info!("the map is complete: this member may serve"),
        PlaneEvent::MemberUp { id, address, generation } => {
            tracing::info!(member = %id, %address, generation, "member up");
        }
        PlaneEvent::MemberSuspect { id } => tracing::info!(member = %id, "member suspect"),
        PlaneEvent::MemberDead { id, cause } => tracing::warn!(member = %id, ?cause, "member dead"),
        PlaneEvent::MemberLeft { id } => tracing::info!(member = %id, "member left"),
        PlaneEvent::MemberForgotten { id } => tracing::info!(member = %id, "member forgotten"),
        PlaneEvent::Isolated(true) => tracing::warn!("isolated: nothing is heard of any other member"),
        PlaneEvent::Isolated(false) => tracing::info!("no longer isolated"),
        PlaneEvent::Conflict { id, here, there } => {
            tracing::error!(member = %id, %here, %there, "a second process has this member's id; it is told to stop");
        }
        PlaneEvent::TermsDiffer { by, differences } => {
            for (setting, ours, theirs) in differences {
                tracing::error!(%by, setting, ours, theirs, "a member with other settings was met");
            }
        }
        PlaneEvent::JoinRefused { total } => {
            tracing::warn!(
                total,
                "a process of another cluster or with other settings wanted to join and was refused"
            );
        }
        PlaneEvent::RecordRefused { key, problem } => {
            tracing::warn!(key, %problem, "a record cannot be read and is ignored");
        }
        PlaneEvent::RecordOverLimit { key } => {
            tracing::warn!(key, "too many records are known; one is ignored");
        }
        PlaneEvent::RecordConflict { key, version } => {
            tracing::warn!(key, version, "two values of one record under one version");
        }
        PlaneEvent::RecordNotSpread { key, error } => {
            tracing::error!(key, error, "gossip does not take a record");
        }
        PlaneEvent::OwnRecordReasserted { key, version } => {
            tracing::warn!(key, version, "a record about this member was written by another; overriding it");
        }
    }
}
