//! `ringway drain`, `evict`, `activate`, `pause` and `resume`.

use std::process::ExitCode;

use crate::admin::client::{AdminClient, TIMEOUT};
use crate::admin::{OrderVerb, OrderView, PauseView};
use crate::cli::{AdminArgs, OrderArgs};
use crate::commands::progress::{self, Goal};
use crate::commands::{print, print_json};
use crate::exit::Failure;

/// Orders something about a node.
///
/// # Errors
/// Exit code 5 with the reason and the next step when it is refused; 4 when nobody answers.
pub(crate) async fn run(verb: OrderVerb, args: &OrderArgs) -> Result<ExitCode, Failure> {
    let path = format!("/v1/members/{}/{}", args.node, verb.as_str());
    let mut admin = AdminClient::connect(&args.admin.admin).await?;
    let order: OrderView = admin.change(&path, String::new(), TIMEOUT).await?;
    if args.admin.json {
        print_json(&order)?;
    } else {
        print(&words(verb, &order, args.wait))?;
    }
    if args.wait {
        let goal = match verb {
            OrderVerb::Drain => Goal::has_gone(&order),
            OrderVerb::Evict => Goal::owns_nothing(&order),
            OrderVerb::Activate => Goal::settled(std::slice::from_ref(&order)),
        };
        progress::until(&mut admin, &goal, args.admin.json).await?;
    }
    Ok(ExitCode::SUCCESS)
}

fn words(verb: OrderVerb, order: &OrderView, waits: bool) -> String {
    let OrderView { node, owned, .. } = order;
    let follow = if waits { "" } else { "; follow it with `ringway status`" };
    match verb {
        OrderVerb::Drain => {
            format!("{node} is leaving: {owned} partitions move away, then it goes{follow}\n")
        }
        OrderVerb::Evict => {
            format!("{node} is evicted: others take its place in {owned} partitions{follow}\n")
        }
        OrderVerb::Activate => format!("{node} is active again: it gets its share back{follow}\n"),
    }
}

/// Lets moves begin, or not.
///
/// # Errors
/// As [`run`].
pub(crate) async fn pause(paused: bool, args: &AdminArgs) -> Result<ExitCode, Failure> {
    let path = if paused { "/v1/pause" } else { "/v1/resume" };
    let mut admin = AdminClient::connect(&args.admin).await?;
    let view: PauseView = admin.change(path, String::new(), TIMEOUT).await?;
    if args.json {
        print_json(&view)?;
    } else if view.paused {
        print("paused: no move begins before `ringway resume`; moves under way and takeovers go on\n")?;
    } else {
        print("resumed: moves begin again\n")?;
    }
    Ok(ExitCode::SUCCESS)
}
