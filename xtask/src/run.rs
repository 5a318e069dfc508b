//! Running other programs, from the workspace root.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use anyhow::{Context, Result, bail};

/// The workspace root.
pub(crate) fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        // <root>/xtask. What cargo says when it runs us comes first: of two checkouts that share a target
        // directory, one may have compiled what the other runs.
        let own = std::env::var("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").to_owned());
        Path::new(&own).parent().unwrap_or(Path::new(".")).to_owned()
    });
    &ROOT
}

/// Where build products go: `CARGO_TARGET_DIR`, else `<root>/target`.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// A command that runs in the workspace root with the installed tools first on its path.
pub(crate) fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(root()).stdin(Stdio::null());
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(target_dir().join("tools/bin")).chain(std::env::split_paths(&inherited));
    if let Ok(path) = std::env::join_paths(path) {
        command.env("PATH", path);
    }
    command
}

/// Shows and runs a command; its output goes to the terminal.
///
/// # Errors
/// It could not be started, or did not exit with 0.
pub(crate) fn check(program: &str, args: &[&str]) -> Result<()> {
    check_command(command(program, args))
}

/// [`check`], for a command with more than arguments.
pub(crate) fn check_command(mut command: Command) -> Result<()> {
    let line = show(&command);
    println!("$ {line}");
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs a command and returns what it wrote to stdout.
///
/// # Errors
/// It could not be started, or did not exit with 0; the error carries its stderr.
pub(crate) fn capture(program: &str, args: &[&str]) -> Result<String> {
    let mut command = command(program, args);
    let line = show(&command);
    let output = command.output().with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` wrote something else than UTF-8"))
}

/// Whether a command exits with 0; its output is dropped.
pub(crate) fn succeeds(program: &str, args: &[&str]) -> bool {
    let mut command = command(program, args);
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Shows and runs a command, passes its stdout through and hands every line of it to `see`.
///
/// # Errors
/// It could not be started, or did not exit with 0.
pub(crate) fn watch(program: &str, args: &[&str], see: impl FnMut(&str)) -> Result<()> {
    watch_command(command(program, args), see)
}

/// [`watch`], for a command with more than arguments.
pub(crate) fn watch_command(mut command: Command, mut see: impl FnMut(&str)) -> Result<()> {
    let line = show(&command);
    println!("$ {line}");
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start `{line}`"))?;
    let stdout = child.stdout.take().context("stdout was piped")?;
    for text in BufReader::new(stdout).split(b'\n') {
        let text = text.context("reading the command's output")?;
        let text = String::from_utf8_lossy(&text);
        println!("{text}");
        see(&text);
    }
    let status = child.wait().with_context(|| format!("waiting for `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

fn show(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
