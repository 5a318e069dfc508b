//! Installing what a step lacks: Debian packages for the system, cargo tools into `target/tools`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::run::{self, root, target_dir};

/// A program from crates.io, built once into `target/tools` and left there.
pub(crate) struct CargoTool {
    /// Package and program name.
    pub(crate) name: &'static str,
    /// Pinned, so that a lint does not change its mind overnight.
    pub(crate) version: &'static str,
}

pub(crate) const CARGO_DENY: CargoTool = CargoTool { name: "cargo-deny", version: "0.20.2" };
pub(crate) const CARGO_MACHETE: CargoTool = CargoTool { name: "cargo-machete", version: "0.9.2" };
pub(crate) const CARGO_FUZZ: CargoTool = CargoTool { name: "cargo-fuzz", version: "0.13.2" };

/// The machine's word list, which the end-to-end tests store and read back.
const WORDS: &str = "/usr/share/dict/words";

/// A setting for `git -c`: in a container the checkout often belongs to another user than the one who builds, and
/// git would refuse to look at it.
pub(crate) const GIT_TRUSTS_CHECKOUT: &str = "safe.directory=*";

/// Adds `clippy` or `rustfmt`, which minimal installations of Rust lack.
pub(crate) fn rust_component(name: &str) -> Result<()> {
    if run::succeeds(&format!("cargo-{}", name.trim_start_matches("rust")), &["--version"]) {
        return Ok(());
    }
    run::check("rustup", &["component", "add", name])
}

/// Installs git where the checkout came without it.
pub(crate) fn git() -> Result<()> {
    if run::succeeds("git", &["--version"]) {
        return Ok(());
    }
    apt_install(&["git"])
}

/// Builds the tool unless `target/tools` has this version of it.
///
/// *Cost*: cargo-deny takes minutes the first time; the unoptimised build halves that and checks our few
/// hundred packages in seconds all the same.
pub(crate) fn cargo_tool(tool: &CargoTool) -> Result<()> {
    let tools = target_dir().join("tools");
    let stamp = tools.join(format!("{}-{}", tool.name, tool.version));
    if stamp.exists() {
        return Ok(());
    }
    let build = tools.join("build");
    let tools_arg = tools.to_string_lossy();
    let mut install = run::command(
        "cargo",
        &[
            "install",
            tool.name,
            "--version",
            tool.version,
            "--locked",
            "--force",
            "--profile",
            "dev",
            "--root",
            &tools_arg,
        ],
    );
    install.env("CARGO_TARGET_DIR", &build).env("CARGO_PROFILE_DEV_DEBUG", "0");
    // Started by `cargo xtask`, we inherit variables about *this* package; the tool is another one.
    install.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    run::check_command(install)?;
    // Hundreds of megabytes of intermediate products that nothing reads again.
    if let Err(error) = fs::remove_dir_all(&build) {
        println!("note: left {} behind: {error}", build.display());
    }
    fs::write(&stamp, "").with_context(|| format!("writing {}", stamp.display()))
}

/// What cuts networks: `ip` and `nft`.
pub(crate) fn network_tools() -> Result<()> {
    let mut missing = Vec::new();
    if !run::succeeds("ip", &["-Version"]) {
        missing.push("iproute2");
    }
    if !run::succeeds("nft", &["--version"]) {
        missing.push("nftables");
    }
    if missing.is_empty() {
        return Ok(());
    }
    apt_install(&missing)
}

/// What counts instructions.
pub(crate) fn valgrind() -> Result<()> {
    if run::succeeds("valgrind", &["--version"]) {
        return Ok(());
    }
    apt_install(&["valgrind"])
}

/// Everything the end-to-end tests call: a C compiler, curl, `kill`, Python with
/// `requests`, a word list, promtool.
pub(crate) fn test_tools() -> Result<()> {
    let mut missing = Vec::new();
    if !run::succeeds("cc", &["--version"]) {
        missing.push("gcc");
        missing.push("libc6-dev");
    }
    if working_python().is_none() {
        missing.push("python3");
        missing.push("python3-requests");
    }
    if !Path::new(WORDS).exists() {
        missing.push("wamerican");
    }
    if !run::succeeds("curl", &["--version"]) {
        missing.push("curl");
        missing.push("ca-certificates");
    }
    if !run::succeeds("kill", &["-l"]) {
        missing.push("procps");
    }
    if !missing.is_empty() {
        apt_install(&missing)?;
    }
    if !Path::new(WORDS).exists() {
        bail!("{WORDS} is missing, even after installing wamerican");
    }
    python()?;
    promtool()
}

/// The first interpreter that can import `requests`. A version manager's `python3` may shadow the system's,
/// which is the one Debian's package serves.
fn working_python() -> Option<&'static str> {
    ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(|python| run::succeeds(python, &["-c", "import requests"]))
}

/// Makes `python3` on the tools' path an interpreter that has `requests`.
fn python() -> Result<()> {
    let python = working_python().context("no python3 can `import requests`, even after installing it")?;
    if python == "python3" {
        return Ok(());
    }
    let link = bin_dir()?.join("python3");
    // `exec` through a script, as a virtual environment is found by the path of the link.
    fs::write(&link, format!("#!/bin/sh\nexec {python} \"$@\"\n"))?;
    run::check("chmod", &["+x", &link.to_string_lossy()])
}

/// Puts Debian's promtool on the tools' path, unpacked rather than installed: installing the package would
/// start a Prometheus server on the machine.
fn promtool() -> Result<()> {
    if run::succeeds("promtool", &["--version"]) {
        return Ok(());
    }
    unpack_debian("prometheus", "usr/bin/promtool")
        .context("put promtool (part of Prometheus) on the path by hand and try again")?;
    if !run::succeeds("promtool", &["--version"]) {
        bail!("the unpacked promtool does not run");
    }
    Ok(())
}

/// Takes one program out of a Debian package, and puts it on the tools' path; nothing is installed or started.
pub(crate) fn unpack_debian(package: &str, program: &str) -> Result<()> {
    let dir = target_dir().join("tools/unpacking").join(package);
    fs::create_dir_all(&dir)?;
    let download = || {
        let mut command = run::command("apt-get", &["download", package]);
        command.current_dir(&dir);
        run::check_command(command)
    };
    if download().is_err() {
        privileged(&["apt-get", "update"])?;
        download()?;
    }
    let archive = fs::read_dir(&dir)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|ext| ext == "deb"))
        .with_context(|| format!("apt-get downloaded no package for {package}"))?;
    let unpacked = dir.join("unpacked");
    run::check("dpkg-deb", &["-x", &archive.to_string_lossy(), &unpacked.to_string_lossy()])?;
    let name = Path::new(program).file_name().context("a program has a name")?;
    fs::copy(unpacked.join(program), bin_dir()?.join(name))
        .with_context(|| format!("the package {package} holds no {program}"))?;
    fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())
}

/// Installs Debian packages; the package lists are fetched when the first try fails.
pub(crate) fn apt_install(packages: &[&str]) -> Result<()> {
    let install: Vec<&str> =
        ["apt-get", "install", "-y", "--no-install-recommends"].iter().chain(packages).copied().collect();
    if privileged(&install).is_err() {
        privileged(&["apt-get", "update"])?;
        privileged(&install)
            .with_context(|| format!("install these by hand and try again: {}", packages.join(" ")))?;
    }
    Ok(())
}

/// Runs a command as root, through sudo when we are somebody else.
fn privileged(words: &[&str]) -> Result<()> {
    let is_root = run::capture("id", &["-u"])?.trim() == "0";
    let words: Vec<&str> = if is_root { words.to_vec() } else { [&["sudo", "-n"], words].concat() };
    let (program, args) = words.split_first().context("an empty command")?;
    let mut command = run::command(program, args);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    run::check_command(command)
}

/// Where programs are put that were not installed; [`run::command`] looks there first.
pub(crate) fn bin_dir() -> Result<std::path::PathBuf> {
    let dir = target_dir().join("tools/bin");
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    debug_assert!(root().is_absolute(), "the tools' path must not depend on the working directory");
    Ok(dir)
}
