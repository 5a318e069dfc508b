//! `ringway keys`: shows the keys of the cluster's keyring, and rotates them.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use ringway_member::Key;

use crate::admin::client::{AdminClient, TIMEOUT};
use crate::admin::{InstallRequest, KeyRequest, KeyVerb, KeysOrderView, KeysView};
use crate::cli::AdminArgs;
use crate::commands::{print, print_json};
use crate::exit::{Failure, NOT_READY};
use crate::text::table;

/// Between two looks at who has the keys.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Largest file with a key that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Arguments of `keys`.
#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    /// Instead of showing them.
    #[command(subcommand)]
    command: Option<KeysCommand>,
    /// Where to ask, and how to print.
    #[command(flatten)]
    admin: AdminArgs,
}

/// What to do with the keys. A rotation is install, use, remove, in this order.
#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Show the keys by their names, and who has them on disk. The same as without a subcommand.
    List(AdminArgs),
    /// Give a new key to every member: it opens from now on. Make one with `openssl rand -hex 32 > new.key`.
    Install(InstallArgs),
    /// Seal with a key that every living member has on disk.
    Use(KeyArgs),
    /// Take a key away from every member: whoever has no other is locked out.
    Remove(KeyArgs),
}

/// Arguments of `keys install`.
#[derive(Debug, Args)]
struct InstallArgs {
    /// The file that holds the key, 32 bytes in hex or base64 (`-`: standard input). Never an argument: those are seen by
    /// everybody on the machine.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// How to do it.
    #[command(flatten)]
    how: OrderArgs,
}

/// Arguments of `keys use` and `keys remove`.
#[derive(Debug, Args)]
struct KeyArgs {
    /// The key's name, 4 hex digits, as `ringway keys` shows it.
    #[arg(value_name = "ID")]
    id: String,
    /// How to do it.
    #[command(flatten)]
    how: OrderArgs,
}

/// How to do it.
#[derive(Debug, Args)]
struct OrderArgs {
    /// Go on although members may be left behind: each must then be given the keyring file of another one by hand.
    #[arg(long)]
    force: bool,
    /// Wait until every living member has the keyring on disk.
    #[arg(long)]
    wait: bool,
    /// Where to ask, and how to print.
    #[command(flatten)]
    admin: AdminArgs,
}

/// Shows the keys, or orders something about them.
///
/// # Errors
/// Exit code 5 with the reason and the next step when it is refused, 4 when nobody answers, 2 for a file without a key.
pub(crate) async fn run(args: &KeysArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        None => list(&args.admin).await,
        Some(KeysCommand::List(admin)) => list(admin).await,
        Some(KeysCommand::Install(InstallArgs { file, how })) => {
            let request = InstallRequest { key: read(file)?, force: how.force };
            order("/v1/keys/install", serde_json::to_string(&request)?, "install", how).await
        }
        Some(KeysCommand::Use(args)) => about(KeyVerb::Use, args).await,
        Some(KeysCommand::Remove(args)) => about(KeyVerb::Remove, args).await,
    }
}

/// Exit code 3 when a living member has not these keys on disk.
async fn list(admin: &AdminArgs) -> Result<ExitCode, Failure> {
    let view: KeysView = AdminClient::connect(&admin.admin).await?.get("/v1/keys").await?;
    if admin.json {
        print_json(&view)?;
    } else {
        print(&render(&view))?;
    }
    let whole = view.coming.is_none() && view.unconfirmed(true).is_empty();
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(NOT_READY) })
}

async fn about(verb: KeyVerb, args: &KeyArgs) -> Result<ExitCode, Failure> {
    // The name goes into a path; the listener says what a name looks like.
    let id = crate::admin::percent_encode(args.id.as_bytes());
    let path = format!("/v1/keys/{id}/{}", verb.as_str());
    let body = serde_json::to_string(&KeyRequest { force: args.how.force })?;
    order(&path, body, verb.as_str(), &args.how).await
}

async fn order(path: &str, body: String, what: &str, how: &OrderArgs) -> Result<ExitCode, Failure> {
    let mut admin = AdminClient::connect(&how.admin.admin).await?;
    let ordered: KeysOrderView = admin.change(path, body, TIMEOUT).await?;
    if how.admin.json {
        print_json(&ordered)?;
    } else {
        print(&words(what, &ordered, how.wait))?;
    }
    if how.wait {
        until_kept(&mut admin, ordered.version, how.admin.json).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until every living member has the version, or a later one, on disk. Progress goes to stderr, so that stdout keeps
/// to the answer.
async fn until_kept(admin: &mut AdminClient, version: u64, quiet: bool) -> Result<(), Failure> {
    let mut told = String::new();
    loop {
        let view: KeysView = admin.get("/v1/keys").await?;
        let missing = view.unconfirmed(true).join(", ");
        if view.version >= version && view.coming.is_none() && missing.is_empty() {
            let away = view.unconfirmed(false).join(", ");
            if !quiet && away.is_empty() {
                eprintln!("done: every member has it on disk");
            } else if !quiet {
                eprintln!("done: every living member has it on disk; away: {away}");
            }
            return Ok(());
        }
        if !quiet && !missing.is_empty() && told != missing {
            eprintln!("waiting for {missing}");
            told = missing;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn words(what: &str, ordered: &KeysOrderView, waits: bool) -> String {
    let KeysOrderView { version, keys, left_behind } = ordered;
    let follow = if waits { "" } else { "; `ringway keys` shows who has it" };
    let mut out = format!(
        "{what}: version {version} of the keyring is {}, the first one seals{follow}\n",
        keys.join(", ")
    );
    if !left_behind.is_empty() {
        out.push_str(&format!(
            "left behind, perhaps: {}; a member that does not follow must be given the keyring file of another one by hand, \
             and be started again\n",
            left_behind.join(", ")
        ));
    }
    out
}

fn render(view: &KeysView) -> String {
    let members = view.members.len();
    let row = |key: &crate::admin::KeyView| {
        [
            key.id.clone(),
            if key.in_use { "seals" } else { "opens" }.to_owned(),
            format!("{} of {members}", key.on_disk),
            if key.missing.is_empty() { "-".to_owned() } else { key.missing.join(", ") },
        ]
    };
    let rows: Vec<_> = view.keys.iter().map(row).collect();
    let mut out =
        format!("{}\nversion {}", table(["key", "use", "on disk", "missing at"], &rows), view.version);
    if let Some(coming) = view.coming {
        out.push_str(&format!(", and {coming} is coming"));
    }
    out.push_str(&format!(", as {} sees it; ", view.asked));
    match view.unconfirmed(false)[..] {
        [] => out.push_str("every member would start again with these keys\n"),
        ref missing => {
            out.push_str(&format!("not, or not in this order, on the disks of {}\n", missing.join(", ")))
        }
    }
    out
}

/// The one key in a file. Nothing of the file reaches a message.
fn read(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let source: std::io::Result<Box<dyn Read>> = if file == Path::new("-") {
        Ok(Box::new(std::io::stdin()))
    } else {
        std::fs::File::open(file).map(|file| Box::new(file) as Box<dyn Read>)
    };
    let shown = file.display();
    source
        .and_then(|source| source.take(FILE_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| Failure::bad_input(format!("--file {shown}: cannot read it: {}", error.kind())))?;
    one_key(&text).map_err(|problem| Failure::bad_input(format!("--file {shown}: {problem}")))
}

/// The one key in a text, where `#` begins a comment as in a keyring file.
fn one_key(text: &str) -> Result<String, &'static str> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let mut keys = lines.filter(|line| !line.is_empty());
    let key = keys.next().ok_or("there is no key in it; make one with `openssl rand -hex 32`")?;
    if keys.next().is_some() {
        return Err("it holds more than one line; give the new key alone");
    }
    Key::parse(key)
        .map_err(|_| "it holds no 32-byte key in hex (64 digits) or base64 (43 or 44 characters)")
        .map(|_| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{KeyMemberView, KeyView};

    #[test]
    fn a_file_holds_one_key_and_its_text_reaches_no_message() {
        let key = "0f".repeat(32);
        assert_eq!(one_key(&format!("# new\n\n {key}  # of May\n")), Ok(key.clone()));
        for bad in ["", "# nothing\n", &format!("{key}\n{key}\n"), &format!("{key}0")] {
            assert!(!one_key(bad).unwrap_err().contains("0f0f"), "{bad}");
        }
    }

    #[test]
    fn the_table_says_who_is_missing() {
        let key = |id: &str, in_use, on_disk, missing: &[&str]| KeyView {
            id: id.to_owned(),
            in_use,
            on_disk,
            missing: missing.iter().map(ToString::to_string).collect(),
        };
        let member = |id: &str, confirmed| KeyMemberView {
            id: id.to_owned(),
            living: true,
            confirmed,
            version: Some(3),
            keys: Vec::new(),
        };
        let view = KeysView {
            asked: "n1".to_owned(),
            version: 3,
            coming: Some(4),
            keys: vec![key("a1b2", true, 2, &[]), key("c3d4", false, 1, &["n2"])],
            members: vec![member("n1", true), member("n2", false)],
        };
        let text = render(&view);
        assert!(text.contains("a1b2  seals  2 of 2"), "{text}");
        assert!(text.contains("c3d4  opens  1 of 2   n2"), "{text}");
        assert!(text.contains(
            "version 3, and 4 is coming, as n1 sees it; not, or not in this order, on the disks of n2"
        ));
    }
}
