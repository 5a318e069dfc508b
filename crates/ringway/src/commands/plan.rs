//! `ringway plan` and `ringway commit`: what a change of membership would move, and the change.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::str::FromStr;

use ringway_topology::settings::EPSILON_PPM_DEFAULT;
use ringway_topology::{
    Algorithm, Membership, NodeId, PartitionCount, PlacementNode, PlacementParams, Weight, ZoneName,
};

use crate::admin::CommitView;
use crate::admin::client::{AdminClient, TIMEOUT};
use crate::cli::{CommitArgs, PlanArgs};
use crate::commands::progress::{self, Goal};
use crate::commands::{print, print_json};
use crate::exit::Failure;
use crate::plan::{Changes, Join, PlanView, Question, checked, named};

/// Previews the change on a live cluster, or on paper; commits it with `--commit`.
///
/// # Errors
/// Exit code 2 for a change that makes no sense, 5 when the cluster refuses it, 4 when the admin listener does not
/// answer.
pub(crate) async fn run(args: &PlanArgs) -> Result<ExitCode, Failure> {
    let changes = changes(args).map_err(Failure::bad_input)?;
    if let Some(count) = args.nodes {
        let plan = on_paper(args, count).and_then(|question| question.answer(&changes));
        show(args, &plan.map_err(Failure::bad_input)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut admin = AdminClient::connect(&args.admin.admin).await?;
    let body = serde_json::to_string(&changes)?;
    let plan: PlanView = admin.change("/v1/plans", body, TIMEOUT).await?;
    show(args, &plan)?;
    if args.commit {
        let json = args.admin.json;
        return act(&mut admin, &plan.digest, args.wait, json).await;
    }
    if !args.admin.json {
        print(&format!("\nTo do it: ringway commit {} --admin {}\n", plan.digest, args.admin.admin))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(args: &PlanArgs, plan: &PlanView) -> Result<(), Failure> {
    if args.admin.json {
        print_json(plan)?
    } else {
        print(&plan.render())?
    }
    Ok(())
}

/// Does what a plan showed.
///
/// # Errors
/// Exit code 5 when the cluster has moved on since, or the plan is none that orders can bring about; 4 when the admin
/// listener does not answer.
pub(crate) async fn commit(args: &CommitArgs) -> Result<ExitCode, Failure> {
    let mut admin = AdminClient::connect(&args.admin.admin).await?;
    act(&mut admin, &args.digest, args.wait, args.admin.json).await
}

async fn act(admin: &mut AdminClient, digest: &str, wait: bool, json: bool) -> Result<ExitCode, Failure> {
    let path = format!("/v1/plans/{digest}/commit");
    let done: CommitView = admin.change(&path, String::new(), TIMEOUT).await?;
    if json {
        print_json(&done)?;
    } else {
        let orders = done.orders.iter().map(|order| {
            let weight = order.weight.map_or_else(String::new, |weight| format!(", weight {weight}"));
            format!("{} is {}{weight}\n", order.node, order.phase)
        });
        print(&format!("\ncommitted {digest}\n{}", orders.collect::<String>()))?;
    }
    if wait {
        progress::until(admin, &Goal::settled(&done.orders), json).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The change that is asked for.
fn changes(args: &PlanArgs) -> Result<Changes, String> {
    let pair = |option: &str, text: &String| {
        let (id, value) = text.split_once('=').ok_or_else(|| format!("--{option} {text}: write ID=VALUE"))?;
        named::<NodeId>(id)?;
        Ok::<_, String>((id.to_owned(), value.to_owned()))
    };
    let weight = |text| pair("weight", text).and_then(|(id, value)| Ok((id, number(&value)?)));
    let zone = |text| {
        let (id, value) = pair("zone", text)?;
        named::<ZoneName>(&value)?;
        Ok::<_, String>((id, value))
    };
    Ok(Changes {
        join: args.join.iter().map(|text| join(text)).collect::<Result<_, _>>()?,
        drain: args.drain.iter().map(|id| named(id)).collect::<Result<_, _>>()?,
        weight: args.weight.iter().map(weight).collect::<Result<_, _>>()?,
        zone: args.zone.iter().map(zone).collect::<Result<_, _>>()?,
    })
}

fn number(text: &str) -> Result<u32, String> {
    let weight = u32::from_str(text).map_err(|_| format!("weight {text}: takes 1 to {}", Weight::MAX))?;
    checked(weight).map(Weight::get)
}

/// `ID[:ZONE[:WEIGHT]]` or `ID[,zone=ZONE][,weight=N]`.
fn join(text: &str) -> Result<Join, String> {
    let refuse = || format!("--join {text}: write ID[:ZONE[:WEIGHT]] or ID[,zone=ZONE][,weight=N]");
    let new =
        |id: &str| Join { id: id.to_owned(), zone: Join::zone_default(), weight: Join::weight_default() };
    let mut join;
    if text.contains(':') {
        let parts: Vec<&str> = text.split(':').collect();
        join = new(parts[0]);
        match parts[1..] {
            [zone] => zone.clone_into(&mut join.zone),
            [zone, weight] => {
                zone.clone_into(&mut join.zone);
                join.weight = number(weight)?;
            }
            _ => return Err(refuse()),
        }
    } else {
        let mut parts = text.split(',');
        join = new(parts.next().unwrap_or_default());
        for part in parts {
            match part.split_once('=') {
                Some(("zone", zone)) => zone.clone_into(&mut join.zone),
                Some(("weight", weight)) => join.weight = number(weight)?,
                _ => return Err(refuse()),
            }
        }
    }
    named::<NodeId>(&join.id)?;
    named::<ZoneName>(&join.zone)?;
    Ok(join)
}

/// A cluster that exists on the command line only.
fn on_paper(args: &PlanArgs, count: u32) -> Result<Question, String> {
    let partitions = PartitionCount::new(args.partitions)
        .ok_or_else(|| format!("--partitions {}: takes a power of two from 1 to 1048576", args.partitions))?;
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
    let before = Membership::new(nodes);
    let (sizes, paces) = (BTreeMap::new(), BTreeMap::new());
    Ok(Question { params, before, committed: None, sizes, paces, notes: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn planned(words: &[&str]) -> Result<PlanView, String> {
        let cli = Cli::parse_from([&["ringway", "plan"], words].concat());
        let Command::Plan(args) = cli.command else { unreachable!("plan was asked for") };
        on_paper(&args, args.nodes.unwrap())?.answer(&changes(&args)?)
    }

    #[test]
    fn a_join_moves_a_fair_share_to_the_newcomer_only() {
        let plan = planned(&["--nodes", "9", "--zones", "3", "--replicas", "3", "--join", "n10:z1"]).unwrap();
        assert!(plan.moved as f64 / (plan.minimum as f64) < 1.1, "{}", plan.render());
        let newcomer = plan.nodes.iter().find(|n| n.id == "n10").unwrap();
        assert_eq!((newcomer.copies_before, newcomer.copies_lost), (None, 0));
        assert!(
            u64::from(newcomer.copies_gained) * 10 > plan.moved * 9,
            "most of what moves goes to the newcomer"
        );
        assert!(plan.render().contains("n10"));
    }

    #[test]
    fn joins_are_written_in_two_ways() {
        let short = join("n6:b:2").unwrap();
        assert_eq!(short, join("n6,zone=b,weight=2").unwrap());
        assert_eq!((short.zone.as_str(), short.weight), ("b", 2));
        assert_eq!(join("n6:b").unwrap().weight, 1);
        assert_eq!(join("n6").unwrap().zone, "default");
        for bad in ["n6:b:2:c", "n6:b:x", "n6:B", ":b", "n6,b"] {
            assert!(join(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn changes_that_make_no_sense_are_refused_by_name() {
        for (words, problem) in [
            (&["--nodes", "2", "--leave", "n3"][..], "no such node"),
            (&["--nodes", "2", "--drain", "n3"], "no such node"),
            (&["--nodes", "2", "--join", "n2"], "has a node of that id"),
            (&["--nodes", "2", "--join", "n3,rack=r"], "write ID"),
            (&["--nodes", "2", "--weight", "n1"], "write ID="),
            (&["--nodes", "2", "--weight", "n1=0"], "takes 1 to 1000"),
            (&["--nodes", "2", "--weight", "n9=2"], "no such node"),
            (&["--nodes", "2", "--zone", "n1=B"], "not a name"),
            (&["--nodes", "2", "--leave", "n1", "--leave", "n2"], "no node at all"),
            (&["--nodes", "2", "--partitions", "1000", "--leave", "n1"], "power of two"),
            (&["--nodes", "2", "--join", "N3"], "not a name"),
        ] {
            let error = planned(words).unwrap_err();
            assert!(error.contains(problem), "{words:?}: {error}");
        }
        let plan = planned(&["--nodes", "3", "--replicas", "3", "--leave", "n1"]).unwrap();
        assert!(plan.notes[0].contains("2 nodes cannot hold 3 replicas"));
    }
}
