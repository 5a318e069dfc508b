//! `ringway force`: serves what lost a majority of its owners for good from what one survivor has.

use std::process::ExitCode;
use std::time::Duration;

use crate::admin::client::AdminClient;
use crate::admin::{ForceRequest, ForceView, ForcedRow, RefusedRow};
use crate::cli::ForceArgs;
use crate::commands::{print, print_json};
use crate::exit::Failure;

/// Thousands of partitions may be forced one after the other.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Most refusals that are told one by one.
const REFUSALS_TOLD_MAX: usize = 10;

/// Forces the partitions that are named, or all that are stuck at the node that is asked.
///
/// # Errors
/// Exit code 5 with the reason and the next step when any is refused; 4 when nobody answers.
pub(crate) async fn run(args: &ForceArgs) -> Result<ExitCode, Failure> {
    let partitions = (!args.all_stuck).then(|| args.partition.clone());
    let request = ForceRequest { accept_data_loss: args.accept_data_loss, partitions };
    let body = serde_json::to_string(&request)?;
    let mut admin = AdminClient::connect(&args.admin.admin).await?;
    let view: ForceView = admin.change("/v1/force", body, TIMEOUT).await?;
    if args.admin.json {
        print_json(&view)?;
    } else {
        print(&done(&view))?;
    }
    if view.refused.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(Failure::refused(refusals(&view))) }
}

fn done(view: &ForceView) -> String {
    let node = &view.node;
    let mut out = String::new();
    for ForcedRow { partition, epoch, owners, end } in &view.forced {
        let owners = owners.join(", ");
        out.push_str(&format!(
            "partition {partition}: forced at epoch {epoch}, owned by {owners}, from the log of {node} up to {}.{}\n",
            end.0, end.1
        ));
    }
    if !view.forced.is_empty() {
        out.push_str(&format!(
            "{} forced: they serve what {node} had; what only the lost owners had is lost. Replicas come back by moves as \
             soon as there are nodes for them; follow with `ringway status`\n",
            view.forced.len()
        ));
    }
    out
}

fn refusals(view: &ForceView) -> String {
    let told = view.refused.iter().take(REFUSALS_TOLD_MAX);
    let lines = told.map(|RefusedRow { partition, reason, detail, next }| {
        format!("refused: partition {partition}: {detail} ({reason})\n  next: {next}")
    });
    let mut text = lines.collect::<Vec<_>>().join("\n");
    let more = view.refused.len().saturating_sub(REFUSALS_TOLD_MAX);
    if more > 0 {
        text.push_str(&format!("\n{more} more were refused; --json names them all"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_forced_and_what_was_not_is_told_with_the_next_step() {
        let row = |partition| RefusedRow {
            partition,
            reason: "too_soon".into(),
            detail: "it may be back".into(),
            next: "ask again".into(),
        };
        let forced = ForcedRow { partition: 7, epoch: 1_002, owners: vec!["n1".into()], end: (1, 42) };
        let view = ForceView { node: "n1".into(), forced: vec![forced], refused: (0..12).map(row).collect() };
        let text = done(&view);
        assert!(
            text.contains("partition 7: forced at epoch 1002, owned by n1, from the log of n1 up to 1.42")
        );
        assert!(text.contains("what only the lost owners had is lost"), "{text}");
        let text = refusals(&view);
        assert!(
            text.contains("refused: partition 9: it may be back (too_soon)\n  next: ask again"),
            "{text}"
        );
        assert!(text.ends_with("2 more were refused; --json names them all"), "{text}");
    }
}
