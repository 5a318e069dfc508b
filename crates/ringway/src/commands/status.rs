//! `ringway status`: is the cluster ready and whole?

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use serde::Serialize;

use crate::admin::api::{ClaimsView, HeldBackView, HereView, MapView, MembersView, MoveRow, NodeView};
use crate::admin::client::AdminClient;
use crate::cli::AdminArgs;
use crate::commands::{print, print_json};
use crate::exit::{self, Failure};
use crate::text::{bytes, table};

/// A node that has not said how it is by then is left out.
const NODE_TIMEOUT: Duration = Duration::from_secs(5);

/// Most moves that are listed one by one.
const MOVES_LISTED_MAX: usize = 10;

/// Most partitions that are listed one by one because they are held back.
const HELD_BACK_LISTED_MAX: usize = 4;

/// The verdict and what it rests on.
#[derive(Debug, Serialize)]
struct Status {
    ok: bool,
    problems: Vec<String>,
    members: MembersView,
    map: MapView,
    /// What each node says of itself, by name; in claimed ownership.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    nodes: BTreeMap<String, HereView>,
}

/// Exit code 0 when everything is well, 3 with the reasons when it is not.
///
/// # Errors
/// The admin listener does not answer, or answers nonsense.
pub(crate) async fn run(args: &AdminArgs) -> Result<ExitCode, Failure> {
    let mut admin = AdminClient::connect(&args.admin).await?;
    let members: MembersView = admin.get("/v1/members").await?;
    let map: MapView = admin.get("/v1/map").await?;
    let mut problems = problems(&members, &map);
    let mut nodes = BTreeMap::new();
    if map.claims.is_some() {
        let silent;
        (nodes, silent) = ask_nodes(&members).await;
        problems
            .extend(silent.iter().map(|id| format!("the admin listener of {id} does not answer from here")));
    }
    let status = Status { ok: problems.is_empty(), problems, members, map, nodes };
    if args.json {
        print_json(&status)?;
    } else {
        print(&render(&status))?;
    }
    Ok(if status.ok { ExitCode::SUCCESS } else { ExitCode::from(exit::NOT_READY) })
}

/// What every live node says of itself, and which say nothing.
async fn ask_nodes(members: &MembersView) -> (BTreeMap<String, HereView>, Vec<String>) {
    let live = members.members.iter().filter(|m| m.kind == "node" && m.state == "alive");
    let mut asked: FuturesOrdered<_> = live
        .map(|member| async move {
            let ask = async {
                let mut node =
                    AdminClient::connect(&format!("http://{}", member.admin.as_deref()?)).await.ok()?;
                node.get::<MapView>("/v1/map").await.ok()?.claims?.here
            };
            (member.id.clone(), tokio::time::timeout(NODE_TIMEOUT, ask).await.ok().flatten())
        })
        .collect();
    let (mut told, mut silent) = (BTreeMap::new(), Vec::new());
    while let Some((id, here)) = asked.next().await {
        match here {
            Some(here) => {
                told.insert(id, here);
            }
            None => silent.push(id),
        }
    }
    (told, silent)
}

fn problems(members: &MembersView, map: &MapView) -> Vec<String> {
    let mut problems = Vec::new();
    if !members.ready {
        let reason = members.reason.as_deref().unwrap_or("it does not say why");
        problems.push(format!("{} is not ready: {reason}", members.asked));
    }
    let claims = map.claims.as_ref();
    if map.unowned > 0 {
        let what =
            if claims.is_some() { "are not claimed: nothing is served for them" } else { "have no owner" };
        problems.push(format!("{} of {} partitions {what}", map.unowned, map.cluster.partitions));
    }
    // A node that was drained or evicted and owns nothing is no problem any more.
    let missed = |node: &&NodeView| node.health != "alive" && (node.owned > 0 || node.phase == "active");
    for node in map.nodes.iter().filter(missed) {
        let served = if map.cluster.replicas == 1 { "; their keys answer 503 until it is back" } else { "" };
        problems.push(format!("{} is {} and owns {} partitions{served}", node.id, node.health, node.owned));
    }
    problems
        .extend(claims.filter(|claims| claims.held_back > 0).map(|claims| held_back(claims, &members.asked)));
    if let Some(claims) = claims.filter(|claims| claims.paused && claims.to_move > 0) {
        let by = claims.paused_by.as_deref().unwrap_or("somebody");
        problems.push(format!("{} partitions wait to move, and moves are paused by {by}", claims.to_move));
    }
    problems
}

/// Which partitions wait for a node that is not known, and for which one.
fn held_back(claims: &ClaimsView, asked: &str) -> String {
    let named = |held: &HeldBackView| {
        let HeldBackView { partition, epoch, primary, shown_epoch, .. } = held;
        format!("{partition} (epoch {epoch} by {primary}; the map shows epoch {shown_epoch})")
    };
    let listed: Vec<String> = claims.held_back_first.iter().take(HELD_BACK_LISTED_MAX).map(named).collect();
    let more = if claims.held_back > listed.len() as u64 { ", …" } else { "" };
    format!(
        "{} partitions are held back: {asked} knows no node of the name that leads them by their latest claim: {}{more}; \
         start that node, or look why its record does not arrive",
        claims.held_back,
        listed.join(", ")
    )
}

fn render(status: &Status) -> String {
    let Status { members, map, .. } = status;
    let cluster = &map.cluster;
    let mut out = format!(
        "cluster {} ({} ownership, {} partitions, {} owner{} each), map {}, asked {}\n\n",
        cluster.name,
        cluster.ownership,
        cluster.partitions,
        cluster.replicas,
        if cluster.replicas == 1 { "" } else { "s" },
        map.digest,
        members.asked,
    );
    let rows: Vec<_> = map
        .nodes
        .iter()
        .map(|n| {
            let share = 100.0 * n.primaries as f64 / f64::from(cluster.partitions);
            [
                n.id.clone(),
                if n.phase == "active" { n.health.clone() } else { format!("{}, {}", n.health, n.phase) },
                n.zone.clone(),
                n.weight.to_string(),
                format!("{} ({share:.1} %)", n.primaries),
                n.owned.to_string(),
                n.data.clone(),
            ]
        })
        .collect();
    out.push_str(&table(["node", "health", "zone", "weight", "primaries", "owned", "data"], &rows));
    let routers = members.members.iter().filter(|m| m.kind == "router" && m.state == "alive").count();
    out.push_str(&format!("\nrouters alive: {routers}\n"));
    if let Some(claims) = &map.claims {
        out.push_str(&moves(claims, &status.nodes));
    }
    match status.problems.as_slice() {
        [] => out.push_str("ok\n"),
        problems => problems.iter().for_each(|problem| out.push_str(&format!("NOT OK: {problem}\n"))),
    }
    out
}

/// What moves, what is taking office, what is paused.
fn moves(claims: &ClaimsView, nodes: &BTreeMap<String, HereView>) -> String {
    let count = |role: &str| nodes.values().filter_map(|here| here.roles.get(role)).sum::<u64>();
    let mut out = format!(
        "partitions to move: {}, moving: {}, taking office: {}\n",
        claims.to_move,
        nodes.values().map(|here| here.moving).sum::<u64>(),
        count("taking_office") + count("sealed"),
    );
    let rows = nodes.iter().flat_map(|(id, here)| here.moves.iter().map(move |row| (id, row)));
    for (id, MoveRow { partition, moving }) in rows.take(MOVES_LISTED_MAX) {
        out.push_str(&format!(
            "  partition {partition} of {id} to {}: {}, {:.0} %, {} in {:.0} s\n",
            moving.to.join(", "),
            moving.phase,
            100.0 * moving.progress,
            bytes(moving.bytes),
            moving.seconds,
        ));
    }
    if claims.paused {
        out.push_str(&format!("moves are paused by {}\n", claims.paused_by.as_deref().unwrap_or("somebody")));
    }
    for id in &claims.replaced {
        out.push_str(&format!("{id} has been away for too long: its partitions are copied to others\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::{ClusterView, MovingView};

    fn map() -> MapView {
        MapView {
            cluster: ClusterView {
                name: "shop".into(),
                partitions: 4,
                replicas: 3,
                hash_seed: 0,
                epsilon_ppm: 0,
                placement: "balanced".into(),
                ownership: "claimed".into(),
            },
            digest: "d".into(),
            nodes: Vec::new(),
            unowned: 0,
            claims: Some(ClaimsView {
                formed: None,
                to_move: 0,
                paused: false,
                paused_by: None,
                replaced: Vec::new(),
                held_back: 0,
                held_back_first: Vec::new(),
                here: None,
            }),
        }
    }

    fn members() -> MembersView {
        let (asked, digest) = ("n1".into(), "d".into());
        MembersView { asked, ready: true, reason: None, digest, members: Vec::new() }
    }

    #[test]
    fn unclaimed_partitions_and_forgotten_pauses_are_problems() {
        let mut map = map();
        assert!(problems(&members(), &map).is_empty());
        map.unowned = 3;
        assert!(problems(&members(), &map)[0].contains("3 of 4 partitions are not claimed"));
        map.unowned = 0;
        let claims = map.claims.as_mut().unwrap();
        (claims.paused, claims.paused_by) = (true, Some("10.0.0.9 at n1".into()));
        assert!(problems(&members(), &map).is_empty(), "nothing waits");
        map.claims.as_mut().unwrap().to_move = 7;
        let said = problems(&members(), &map);
        assert!(said[0].contains("7 partitions wait") && said[0].contains("10.0.0.9"), "{said:?}");
    }

    #[test]
    fn partitions_that_wait_for_an_unknown_node_are_named_with_it() {
        let mut map = map();
        let held = |partition| HeldBackView {
            partition,
            epoch: 9,
            primary: "n6".into(),
            store: "3f9c".into(),
            shown_epoch: 8,
        };
        let claims = map.claims.as_mut().unwrap();
        (claims.held_back, claims.held_back_first) = (1, vec![held(7)]);
        let said = problems(&members(), &map);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("1 partitions are held back: n1 knows no node"), "{said:?}");
        assert!(said[0].contains(": 7 (epoch 9 by n6; the map shows epoch 8); start that node"), "{said:?}");

        let claims = map.claims.as_mut().unwrap();
        (claims.held_back, claims.held_back_first) = (900, (7..23).map(held).collect());
        let said = problems(&members(), &map);
        assert!(said[0].starts_with("900 partitions") && said[0].contains(", …; start"), "{said:?}");
        assert!(said[0].contains("10 (epoch") && !said[0].contains("11 (epoch"), "a few will do: {said:?}");
    }

    #[test]
    fn what_moves_is_told_with_how_far_it_is() {
        let moving = MovingView {
            phase: "copying".into(),
            to: vec!["n6".into(), "n1".into()],
            bytes: 1 << 20,
            progress: 0.5,
            seconds: 2.0,
            why: None,
        };
        let here = HereView {
            roles: [("taking_office".to_owned(), 2)].into(),
            moves: vec![MoveRow { partition: 7, moving }],
            moving: 1,
        };
        let text = moves(map().claims.as_ref().unwrap(), &[("n2".to_owned(), here)].into());
        assert!(text.contains("moving: 1, taking office: 2"), "{text}");
        assert!(text.contains("partition 7 of n2 to n6, n1: copying, 50 %, 1.0 MiB in 2 s"), "{text}");
    }
}
