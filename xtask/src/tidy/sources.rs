//! File sizes, leftovers, lint settings, and the one crate that may name the YAML library.

use anyhow::Result;

use super::ProjectFile;
use crate::run;
use crate::tools::GIT_TRUSTS_CHECKOUT;

/// A file this long has more than one meaning; split it by meaning. No exceptions.
const LINES_MAX: usize = 900;

/// Folders with workspaces of their own, which cannot inherit from ours.
const APART: [&str; 2] = ["fuzz/", "benches/peers/"];

/// The YAML library, as manifests and as sources name it.
const YAML_LIBRARY: [&str; 2] = ["saphyr-parser", "saphyr_parser"];

pub(super) fn problems(files: &[ProjectFile]) -> Result<Vec<String>> {
    let mut problems: Vec<String> = files.iter().flat_map(file_problems).collect();
    if !run::succeeds("git", &["-c", GIT_TRUSTS_CHECKOUT, "ls-files", "--error-unmatch", "Cargo.lock"]) {
        problems.push("Cargo.lock is not committed".to_owned());
    }
    Ok(problems)
}

fn file_problems(file: &ProjectFile) -> Vec<String> {
    let path = file.path.as_str();
    let mut problems = Vec::new();
    if path.ends_with(".rs") {
        let lines = file.text.lines().count();
        if lines > LINES_MAX {
            problems.push(format!("{path}: {lines} lines, more than {LINES_MAX}; split it by meaning"));
        }
    }
    // Spelled apart, as this file is scanned too.
    let leftovers = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    if has_leftovers_checked(path) {
        for (number, line) in file.text.lines().enumerate() {
            let words = || line.split(|c: char| !c.is_ascii_alphanumeric());
            if let Some(word) = leftovers.iter().find(|word| words().any(|found| found == **word)) {
                problems.push(format!("{path}:{}: `{word}` is work left undone", number + 1));
            }
        }
    }
    let has_own_workspace = APART.iter().any(|folder| path.starts_with(folder));
    if path.ends_with("Cargo.toml") && !has_own_workspace && file.text.contains("[package]") {
        problems.extend(manifest_problem(path, &file.text));
    }
    let names_yaml = YAML_LIBRARY.iter().any(|name| file.text.contains(name));
    let may_name_yaml = ["crates/config/", "xtask/", "docs/"].iter().any(|dir| path.starts_with(dir))
        || matches!(path, "Cargo.toml" | "Cargo.lock");
    if names_yaml && !may_name_yaml {
        problems.push(format!("{path}: names the YAML library; only crates/config may"));
    }
    problems
}

fn has_leftovers_checked(path: &str) -> bool {
    [".rs", ".md", ".toml", ".yaml", ".py", ".sh"].iter().any(|ext| path.ends_with(ext)) || path == ".ci/run"
}

/// Lints are set once, for the workspace; a crate without these two lines has none of them.
fn manifest_problem(path: &str, text: &str) -> Option<String> {
    let mut lines = text.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    let inherits = lines.next().is_some_and(|line| line.replace(' ', "") == "workspace=true");
    (!inherits).then(|| format!("{path}: lacks `[lints] workspace = true`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems_of(path: &str, text: &str) -> Vec<String> {
        file_problems(&ProjectFile { path: path.to_owned(), text: text.to_owned() })
    }

    #[test]
    fn a_long_file_is_refused() {
        assert_eq!(problems_of("crates/a/src/lib.rs", &"\n".repeat(LINES_MAX)), Vec::<String>::new());
        assert_eq!(problems_of("crates/a/src/lib.rs", &"\n".repeat(LINES_MAX + 1)).len(), 1);
    }

    #[test]
    fn leftovers_are_found_as_words_only() {
        let word = concat!("TO", "DO");
        assert_eq!(problems_of("docs/A.md", &format!("a\n{word}: b\n")).len(), 1);
        assert_eq!(problems_of("docs/A.md", &format!("{word}S are not the word\n")).len(), 0);
    }

    #[test]
    fn a_manifest_inherits_the_lints() {
        assert_eq!(problems_of("crates/a/Cargo.toml", "[package]\nname = \"a\"\n").len(), 1);
        assert_eq!(problems_of("crates/a/Cargo.toml", "[package]\n[lints]\nworkspace = true\n").len(), 0);
        assert_eq!(problems_of("benches/peers/pingora/Cargo.toml", "[package]\nname = \"a\"\n").len(), 0);
    }

    #[test]
    fn only_config_names_the_yaml_library() {
        let text = "use saphyr_parser::Parser;";
        assert_eq!(problems_of("crates/proxy/src/lib.rs", text).len(), 1);
        assert_eq!(problems_of("crates/config/src/tree.rs", text).len(), 0);
    }
}
