//! `ringway explain`: where a key lives and why.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use ringway_topology::KEY_BYTES_MAX;

use crate::admin::api::Explanation;
use crate::admin::client::AdminClient;
use crate::admin::percent_encode;
use crate::cli::ExplainArgs;
use crate::commands::{print, print_json};
use crate::exit::Failure;

/// Keys sent in one request: at 3 bytes per encoded byte, well below the admin's body bound for usual keys.
const BATCH_KEYS: usize = 2_000;
/// Encoded bytes after which a batch is sent, so that long keys stay below the bound too.
const BATCH_BYTES: usize = 4 << 20;

/// Explains one key, or every line of a file.
///
/// # Errors
/// Exit code 2 for a key that cannot be one, 4 when the admin listener does not answer.
pub(crate) async fn run(args: &ExplainArgs) -> Result<ExitCode, Failure> {
    match (&args.key, &args.file) {
        (Some(key), _) => one(args, key).await,
        (None, Some(file)) => all(args, file).await,
        (None, None) => Err(Failure::bad_input("explain takes a KEY or --file KEYS")),
    }
}

async fn one(args: &ExplainArgs, key: &OsStr) -> Result<ExitCode, Failure> {
    let key = encode(key.as_bytes()).map_err(Failure::bad_input)?;
    let mut admin = AdminClient::connect(&args.admin.admin).await?;
    let explanation: Explanation = admin.get(&format!("/v1/explain?key={key}{}", route(args))).await?;
    if args.admin.json {
        print_json(&explanation)?;
    } else {
        print(&render(&explanation))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One line a key: JSON with `--json`, else tab-separated hash, partition, epoch, owners, choice, key.
async fn all(args: &ExplainArgs, file: &Path) -> Result<ExitCode, Failure> {
    let text = read(file).map_err(|error| Failure::bad_input(format!("{error:#}")))?;
    let mut keys = Vec::new();
    for (number, line) in text.split(|&b| b == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        let key = encode(line).map_err(|problem| {
            Failure::bad_input(format!("{} line {}: {problem}", file.display(), number + 1))
        })?;
        keys.push(key);
    }
    let mut admin = AdminClient::connect(&args.admin.admin).await?;
    let path = format!("/v1/explain?{}", route(args));
    for batch in batches(&keys) {
        let explanations: Vec<Explanation> = admin.post(&path, batch.join("\n")).await?;
        let mut out = String::new();
        for explanation in &explanations {
            if args.admin.json {
                let _ = writeln!(out, "{}", serde_json::to_string(explanation)?);
            } else {
                let owners: Vec<_> = explanation.owners.iter().map(|owner| owner.id.as_str()).collect();
                let Explanation { key, hash, partition, epoch, choice, .. } = explanation;
                let choice = choice.as_deref().unwrap_or("-");
                let _ = writeln!(out, "{hash}\t{partition}\t{epoch}\t{}\t{choice}\t{key}", owners.join(","));
            }
        }
        print(&out)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The route parameter, if a route was named.
fn route(args: &ExplainArgs) -> String {
    args.route.as_ref().map_or_else(String::new, |name| format!("&route={}", percent_encode(name.as_bytes())))
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_end(&mut text).context("standard input")?;
    } else {
        text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    Ok(text)
}

fn encode(key: &[u8]) -> Result<String, String> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(format!("a key has 1 to {KEY_BYTES_MAX} bytes, this one {}", key.len()));
    }
    Ok(percent_encode(key))
}

fn batches(keys: &[String]) -> impl Iterator<Item = &[String]> {
    let mut rest = keys;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fitting = rest.iter().take(BATCH_KEYS).take_while(|key| {
            bytes += key.len() + 1;
            bytes <= BATCH_BYTES
        });
        let (batch, later) = rest.split_at(fitting.count());
        rest = later;
        (!batch.is_empty()).then_some(batch)
    })
}

fn render(explanation: &Explanation) -> String {
    let Explanation { key, hashed, hash, partition, epoch, owners, choice, why, digest } = explanation;
    let mut out = format!("key        {key}\n");
    if let Some(hashed) = hashed {
        let _ = writeln!(out, "hashed     {hashed}");
    }
    let _ = writeln!(
        out,
        "hash       {hash} (xxh3_64)\npartition  {partition}\nepoch      {epoch}\nmap        {digest}"
    );
    for owner in owners {
        let _ = writeln!(
            out,
            "{:<9}  {} in zone {}, {}, {}, at {}, store {}",
            owner.role, owner.id, owner.zone, owner.health, owner.phase, owner.data, owner.store
        );
    }
    let _ = writeln!(out, "choice     {}\nwhy        {why}", choice.as_deref().unwrap_or("none"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_every_key_once_and_stay_bounded() {
        let keys: Vec<String> = (0..5_000).map(|i| format!("{i:01000}")).collect();
        let batches: Vec<_> = batches(&keys).collect();
        assert_eq!(batches.concat(), keys);
        assert!(batches.iter().all(|b| b.len() <= BATCH_KEYS));
        let long = vec!["x".repeat(3 * KEY_BYTES_MAX); 1_000];
        assert!(super::batches(&long).all(|b| b.join("\n").len() <= BATCH_BYTES));
    }

    #[test]
    fn keys_have_1_to_4096_bytes() {
        assert_eq!(encode(b"a/b c").unwrap(), "a%2Fb%20c");
        assert!(encode(b"").is_err() && encode(&[b'x'; 4_097]).is_err());
    }
}
