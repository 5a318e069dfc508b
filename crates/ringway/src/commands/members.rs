//! `ringway members`: the gossip group as one member sees it.

use std::process::ExitCode;

use crate::admin::api::MembersView;
use crate::admin::client::AdminClient;
use crate::cli::AdminArgs;
use crate::commands::{print, print_json};
use crate::exit::Failure;
use crate::text::table;

/// Prints every member.
///
/// # Errors
/// The admin listener does not answer, or answers nonsense.
pub(crate) async fn run(args: &AdminArgs) -> Result<ExitCode, Failure> {
    let view: MembersView = AdminClient::connect(&args.admin).await?.get("/v1/members").await?;
    if args.json {
        print_json(&view)?;
    } else {
        print(&render(&view))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(view: &MembersView) -> String {
    let rows: Vec<_> = view
        .members
        .iter()
        .map(|m| {
            [
                m.id.clone(),
                m.kind.clone(),
                m.state.clone(),
                format!("{:.0} s", m.since_seconds),
                if m.ready { "yes" } else { "no" }.to_owned(),
                format!("{}.{}", m.generation, m.incarnation),
                m.gossip.clone(),
                m.admin.clone().unwrap_or_else(|| "-".to_owned()),
                m.version.clone(),
            ]
        })
        .collect();
    let header = ["member", "kind", "state", "for", "ready", "generation", "gossip", "admin", "version"];
    format!("{}\nas {} sees it, map {}\n", table(header, &rows), view.asked, view.digest)
}
