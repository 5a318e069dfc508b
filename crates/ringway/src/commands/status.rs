//! `ringway status`: is the cluster ready and whole?

use std::process::ExitCode;

use serde::Serialize;

use crate::admin::api::{MapView, MembersView};
use crate::admin::client::AdminClient;
use crate::cli::AdminArgs;
use crate::commands::{print, print_json};
use crate::exit::{self, Failure};
use crate::text::table;

/// The verdict and what it rests on.
#[derive(Debug, Serialize)]
struct Status {
    ok: bool,
    problems: Vec<String>,
    members: MembersView,
    map: MapView,
}

/// Exit code 0 when everything is well, 3 with the reasons when it is not.
///
/// # Errors
/// The admin listener does not answer, or answers nonsense.
pub(crate) async fn run(args: &AdminArgs) -> Result<ExitCode, Failure> {
    let mut admin = AdminClient::connect(&args.admin).await?;
    let members: MembersView = admin.get("/v1/members").await?;
    let map: MapView = admin.get("/v1/map").await?;
    let problems = problems(&members, &map);
    let status = Status { ok: problems.is_empty(), problems, members, map };
    if args.json {
        print_json(&status)?;
    } else {
        print(&render(&status))?;
    }
    Ok(if status.ok { ExitCode::SUCCESS } else { ExitCode::from(exit::NOT_READY) })
}

fn problems(members: &MembersView, map: &MapView) -> Vec<String> {
    let mut problems = Vec::new();
    if !members.ready {
        let reason = members.reason.as_deref().unwrap_or("it does not say why");
        problems.push(format!("{} is not ready: {reason}", members.asked));
    }
    if map.unowned > 0 {
        problems.push(format!("{} of {} partitions have no owner", map.unowned, map.cluster.partitions));
    }
    for node in map.nodes.iter().filter(|node| node.health != "alive") {
        let served = if map.cluster.replicas == 1 { "; their keys answer 503 until it is back" } else { "" };
        problems.push(format!("{} is {} and owns {} partitions{served}", node.id, node.health, node.owned));
    }
    problems
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
                n.health.clone(),
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
    match status.problems.as_slice() {
        [] => out.push_str("ok\n"),
        problems => problems.iter().for_each(|problem| out.push_str(&format!("NOT OK: {problem}\n"))),
    }
    out
}
