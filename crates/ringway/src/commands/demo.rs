//! `ringway demo stop` and `ringway demo start`: what SIGTERM and a start are to a node with a process of its own.

use std::process::ExitCode;
use std::time::Duration;

use crate::admin::DemoVerb;
use crate::admin::client::AdminClient;
use crate::cli::DemoCommand;
use crate::commands::{print, print_json};
use crate::demo::DemoNode;
use crate::exit::Failure;

/// A node that stops hands over what it leads and finishes its requests first; one that starts waits until it is ready.
const PATIENCE: Duration = Duration::from_secs(120);

/// Asks the demo's proxy.
///
/// # Errors
/// Exit code 5 when there is no such node, or it is stopped or running already; 4 when nobody answers.
pub(crate) async fn run(command: &DemoCommand) -> Result<ExitCode, Failure> {
    let (args, verb) = match command {
        DemoCommand::Stop(args) => (args, DemoVerb::Stop),
        DemoCommand::Start(args) => (args, DemoVerb::Start),
    };
    let path = format!("/v1/demo/nodes/{}/{}", args.node, verb.as_str());
    let mut admin = AdminClient::connect(&args.admin.admin).await?;
    let node: DemoNode = admin.change(&path, String::new(), PATIENCE).await?;
    if args.admin.json {
        print_json(&node)?;
    } else if let (Some(url), Some(admin)) = (&node.url, &node.admin) {
        print(&format!("{} runs: {url} (admin {admin})\n", node.id))?;
    } else {
        print(&format!("{} is stopped\n", node.id))?;
    }
    Ok(ExitCode::SUCCESS)
}
