//! `ringway plan`: what a change of membership would move. Changes nothing.

use std::fmt::Write as _;
use std::process::ExitCode;

use ringway_topology::plan::{Movement, NodeChange};
use ringway_topology::settings::{EPSILON_PPM_DEFAULT, TOKENS_PER_WEIGHT_DEFAULT};
use ringway_topology::{
    Algorithm, Membership, NodeId, PartitionCount, Placement, PlacementNode, PlacementParams, Plan, Weight,
    ZoneName,
};
use serde::Serialize;

use crate::admin::api::MapView;
use crate::admin::client::AdminClient;
use crate::cli::PlanArgs;
use crate::commands::{print, print_json};
use crate::exit::Failure;
use crate::text::table;

/// What is printed with `--json`.
#[derive(Debug, Serialize)]
struct PlanView {
    /// Names this plan.
    digest: String,
    /// Copies that move, and the least that any placement must move.
    moved: u64,
    minimum: u64,
    /// Primaries that move, and the least.
    primaries_moved: u64,
    primaries_minimum: u64,
    /// Partitions whose owners change, of how many.
    partitions_changed: u64,
    partitions: u32,
    /// Every node of either membership.
    nodes: Vec<NodePlan>,
    /// What one should know before doing it.
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct NodePlan {
    id: String,
    copies_before: Option<u32>,
    copies_after: Option<u32>,
    copies_gained: u32,
    copies_lost: u32,
    primaries_before: Option<u32>,
    primaries_after: Option<u32>,
}

/// Previews the change on a live cluster's membership, or on paper.
///
/// # Errors
/// Exit code 2 for a change that makes no sense, 4 when the admin listener does not answer.
pub(crate) async fn run(args: &PlanArgs) -> Result<ExitCode, Failure> {
    let change = Change::parse(args).map_err(Failure::bad_input)?;
    let base = match args.nodes {
        Some(count) => Base::on_paper(args, count).map_err(Failure::bad_input)?,
        None => {
            let map: MapView = AdminClient::connect(&args.admin.admin).await?.get("/v1/map").await?;
            Base::live(&map)?
        }
    };
    let after = change.apply(&base.membership).map_err(Failure::bad_input)?;
    let mut placement = Placement::whole(base.params, &base.membership);
    let before = placement.clone();
    placement.update(&after);
    let plan = Plan::between(&before, &placement);
    let view = view(&plan, &base, &after);
    if args.admin.json {
        print_json(&view)?;
    } else {
        print(&render(&view, &plan))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is changed: the placement's parameters and the nodes as they are.
struct Base {
    params: PlacementParams,
    derived: bool,
    membership: Membership,
}

impl Base {
    fn on_paper(args: &PlanArgs, count: u32) -> Result<Self, String> {
        let partitions = PartitionCount::new(args.partitions).ok_or_else(|| {
            format!("--partitions {}: takes a power of two from 1 to 1048576", args.partitions)
        })?;
        let node = |n: u32| {
            Ok(PlacementNode {
                id: named::<NodeId>(&format!("n{n}"))?,
                zone: named::<ZoneName>(&format!("z{}", (n - 1) % args.zones + 1))?,
                weight: Weight::ONE,
            })
        };
        let nodes = (1..=count).map(node).collect::<Result<Vec<_>, String>>()?;
        let params = PlacementParams {
            partitions,
            replicas: args.replicas,
            epsilon_ppm: EPSILON_PPM_DEFAULT,
            algorithm: Algorithm::Balanced,
        };
        Ok(Self { params, derived: false, membership: Membership::new(nodes) })
    }

    /// The membership a live cluster places by: nodes that are leaving take no part.
    fn live(map: &MapView) -> anyhow::Result<Self> {
        let refuse = |what: &str| anyhow::anyhow!("the cluster's {what} is none this version knows");
        let algorithm = match map.cluster.placement.split_once('/') {
            None if map.cluster.placement == "balanced" => Algorithm::Balanced,
            Some(("tokens", per_weight)) => {
                Algorithm::Tokens(per_weight.parse().unwrap_or(TOKENS_PER_WEIGHT_DEFAULT))
            }
            _ => return Err(refuse("placement")),
        };
        let nodes = map.nodes.iter().filter(|node| node.phase == "active").map(|node| {
            Ok(PlacementNode {
                id: node.id.parse()?,
                zone: node.zone.parse()?,
                weight: Weight::new(node.weight).ok_or_else(|| refuse("node weight"))?,
            })
        });
        Ok(Self {
            params: PlacementParams {
                partitions: PartitionCount::new(map.cluster.partitions)
                    .ok_or_else(|| refuse("number of partitions"))?,
                replicas: map.cluster.replicas,
                epsilon_ppm: map.cluster.epsilon_ppm,
                algorithm,
            },
            derived: map.cluster.ownership == "derived",
            membership: Membership::new(nodes.collect::<anyhow::Result<Vec<_>>>()?),
        })
    }
}

fn named<T: std::str::FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// The change that is asked for.
#[derive(Debug, Default)]
struct Change {
    join: Vec<PlacementNode>,
    leave: Vec<NodeId>,
    weight: Vec<(NodeId, Weight)>,
}

impl Change {
    fn parse(args: &PlanArgs) -> Result<Self, String> {
        let weight = |text: &str| {
            text.parse()
                .ok()
                .and_then(Weight::new)
                .ok_or_else(|| format!("weight {text}: takes 1 to {}", Weight::MAX))
        };
        let reweigh = |text: &String| {
            let (id, number) = text.split_once('=').ok_or_else(|| format!("--weight {text}: write ID=N"))?;
            Ok((named(id)?, weight(number)?))
        };
        let join = |text: &String| {
            let mut parts = text.split(',');
            let id = named(parts.next().unwrap_or_default())?;
            let mut node = PlacementNode { id, zone: named("a")?, weight: Weight::ONE };
            for part in parts {
                match part.split_once('=') {
                    Some(("zone", zone)) => node.zone = named(zone)?,
                    Some(("weight", number)) => node.weight = weight(number)?,
                    _ => return Err(format!("--join {text}: write ID[,zone=ZONE][,weight=N]")),
                }
            }
            Ok(node)
        };
        Ok(Self {
            join: args.join.iter().map(join).collect::<Result<_, String>>()?,
            leave: args.leave.iter().map(|id| named(id)).collect::<Result<_, String>>()?,
            weight: args.weight.iter().map(reweigh).collect::<Result<_, String>>()?,
        })
    }

    fn apply(&self, before: &Membership) -> Result<Membership, String> {
        let mut after = before.clone();
        let find =
            |membership: &Membership, id: &NodeId| membership.nodes().iter().find(|n| n.id == *id).cloned();
        for id in &self.leave {
            find(&after, id).ok_or_else(|| format!("--leave {id}: the cluster has no such node"))?;
            after = after.without(id);
        }
        for (id, weight) in &self.weight {
            let node = find(&after, id)
                .ok_or_else(|| format!("--weight {id}: the cluster has no such node after the leaves"))?;
            after = after.with(PlacementNode { weight: *weight, ..node });
        }
        for node in &self.join {
            if find(&after, &node.id).is_some() {
                return Err(format!(
                    "--join {}: the cluster has a node of that id; use --weight to change it",
                    node.id
                ));
            }
            after = after.with(node.clone());
        }
        if after.nodes().is_empty() {
            return Err(
                "this would leave no node at all: every partition would be without an owner".to_owned()
            );
        }
        Ok(after)
    }
}

fn view(plan: &Plan, base: &Base, after: &Membership) -> PlanView {
    let mut notes = Vec::new();
    if base.derived && plan.copies.moved > 0 {
        notes.push(
            "ownership is derived: partitions change hands at once and their data does not move with them; a key that \
             changes its owner answers 404 until it is written again"
                .to_owned(),
        );
    }
    if after.nodes().len() < usize::from(base.params.replicas) {
        let (nodes, replicas) = (after.nodes().len(), base.params.replicas);
        notes.push(format!(
            "{nodes} nodes cannot hold {replicas} replicas: partitions would have {nodes} owners"
        ));
    }
    PlanView {
        digest: plan.digest().to_string(),
        moved: plan.copies.moved,
        minimum: plan.copies.minimum,
        primaries_moved: plan.primaries.moved,
        primaries_minimum: plan.primaries.minimum,
        partitions_changed: plan.partitions.len() as u64,
        partitions: base.params.partitions.get(),
        nodes: plan.nodes.iter().map(NodePlan::from).collect(),
        notes,
    }
}

impl From<&NodeChange> for NodePlan {
    fn from(change: &NodeChange) -> Self {
        Self {
            id: change.id.to_string(),
            copies_before: change.before.map(|load| load.copies),
            copies_after: change.after.map(|load| load.copies),
            copies_gained: change.copies_gained,
            copies_lost: change.copies_lost,
            primaries_before: change.before.map(|load| load.primaries),
            primaries_after: change.after.map(|load| load.primaries),
        }
    }
}

fn render(view: &PlanView, plan: &Plan) -> String {
    let movement = |what: &str, movement: &Movement| {
        format!(
            "{what:<10} {} move; at least {} must ({:.2}×)\n",
            movement.moved,
            movement.minimum,
            movement.ratio()
        )
    };
    let mut out = format!(
        "plan {}: the owners of {} of {} partitions change\n{}{}\n",
        view.digest,
        view.partitions_changed,
        view.partitions,
        movement("copies", &plan.copies),
        movement("primaries", &plan.primaries),
    );
    let number = |n: Option<u32>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let rows: Vec<_> = view
        .nodes
        .iter()
        .map(|n| {
            [
                n.id.clone(),
                number(n.copies_before),
                number(n.copies_after),
                format!("+{}", n.copies_gained),
                format!("-{}", n.copies_lost),
                number(n.primaries_before),
                number(n.primaries_after),
            ]
        })
        .collect();
    let header = ["node", "copies", "after", "gains", "loses", "primaries", "after"];
    out.push_str(&table(header, &rows));
    for note in &view.notes {
        let _ = write!(out, "\nNOTE: {note}\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn planned(words: &[&str]) -> Result<(Plan, PlanView), String> {
        let cli = Cli::parse_from([&["ringway", "plan"], words].concat());
        let Command::Plan(args) = cli.command else { unreachable!("plan was asked for") };
        let base = Base::on_paper(&args, args.nodes.unwrap())?;
        let after = Change::parse(&args)?.apply(&base.membership)?;
        let plan = Plan::between(
            &Placement::whole(base.params, &base.membership),
            &Placement::whole(base.params, &after),
        );
        let view = view(&plan, &base, &after);
        Ok((plan, view))
    }

    #[test]
    fn a_join_moves_a_fair_share_to_the_newcomer_only() {
        let (plan, view) =
            planned(&["--nodes", "9", "--zones", "3", "--replicas", "3", "--join", "n10,zone=z1"]).unwrap();
        assert!(plan.copies.ratio() < 1.1, "{}", render(&view, &plan));
        let newcomer = view.nodes.iter().find(|n| n.id == "n10").unwrap();
        assert_eq!((newcomer.copies_before, newcomer.copies_lost), (None, 0));
        assert!(
            u64::from(newcomer.copies_gained) * 10 > view.moved * 9,
            "most of what moves goes to the newcomer"
        );
        assert!(render(&view, &plan).contains("n10"));
    }

    #[test]
    fn changes_that_make_no_sense_are_refused_by_name() {
        for (words, problem) in [
            (&["--nodes", "2", "--leave", "n3"][..], "no such node"),
            (&["--nodes", "2", "--join", "n2"], "has a node of that id"),
            (&["--nodes", "2", "--join", "n3,rack=r"], "write ID"),
            (&["--nodes", "2", "--weight", "n1"], "write ID=N"),
            (&["--nodes", "2", "--weight", "n1=0"], "takes 1 to 1000"),
            (&["--nodes", "2", "--leave", "n1", "--leave", "n2"], "no node at all"),
            (&["--nodes", "2", "--partitions", "1000", "--leave", "n1"], "power of two"),
            (&["--nodes", "2", "--join", "N3"], "not a name"),
        ] {
            let error = planned(words).map(|(_, view)| view).unwrap_err();
            assert!(error.contains(problem), "{words:?}: {error}");
        }
        let (_, view) = planned(&["--nodes", "3", "--replicas", "3", "--leave", "n1"]).unwrap();
        assert!(view.notes[0].contains("2 nodes cannot hold 3 replicas"));
    }
}
