//! Checks of what compilers do not check. Every check runs; every problem is listed.

mod deps;
mod docs;
mod sources;

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::run::{self, root};
use crate::tools;

/// `cargo xtask tidy`.
pub(crate) fn run() -> Result<()> {
    let files = project_files()?;
    let mut problems = Vec::new();
    problems.extend(unformatted()?);
    problems.extend(sources::problems(&files)?);
    problems.extend(docs::problems(&files)?);
    problems.extend(deps::problems()?);
    if !problems.is_empty() {
        bail!("tidy found {} problem(s):\n  {}", problems.len(), problems.join("\n  "));
    }
    println!("tidy: {} files, no problems", files.len());
    Ok(())
}

/// Packages with workspaces of their own: `cargo fmt --all` does not come there.
const FORMATTED_APART: [&str; 2] = ["benches/peers/Cargo.toml", "benches/peers/pingora/Cargo.toml"];

/// The files that `cargo fmt` would change; it says so by their names and its exit code.
fn unformatted() -> Result<Vec<String>> {
    tools::rust_component("rustfmt")?;
    let mut files = unformatted_of(&["fmt", "--all"])?;
    for manifest in FORMATTED_APART {
        files.extend(unformatted_of(&["fmt", "--manifest-path", manifest])?);
    }
    // A file that several test binaries include is listed for each of them.
    files.sort_unstable();
    files.dedup();
    Ok(files.into_iter().map(|file| format!("{file}: run `cargo fmt` on its package")).collect())
}

fn unformatted_of(words: &[&str]) -> Result<Vec<String>> {
    let output = run::command("cargo", &[words, &["--", "--check", "-l"]].concat()).output()?;
    let files: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    if files.is_empty() && !output.status.success() {
        bail!("cargo fmt failed: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(files)
}

/// A text file of the project.
struct ProjectFile {
    /// Relative to the workspace root, with `/`.
    path: String,
    text: String,
}

/// Every text file that is, or is about to be, under version control, in order of path.
fn project_files() -> Result<Vec<ProjectFile>> {
    tools::git()?;
    let listing = run::capture(
        "git",
        &["-c", tools::GIT_TRUSTS_CHECKOUT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    )?;
    let mut paths: Vec<&str> = listing.split('\0').filter(|path| !path.is_empty()).collect();
    paths.sort_unstable();
    paths.dedup();
    let read = |path: &str| -> Option<ProjectFile> {
        // A file deleted but not yet committed is listed and gone; a binary file is no text.
        let text = std::fs::read_to_string(root().join(PathBuf::from(path))).ok()?;
        Some(ProjectFile { path: path.to_owned(), text })
    };
    Ok(paths.into_iter().filter_map(read).collect())
}
