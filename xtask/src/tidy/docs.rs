//! Documentation that points somewhere points at something that exists.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use anyhow::Result;

use super::ProjectFile;
use crate::run::root;

/// Folders whose paths, when a page names one, must exist.
const CHECKED_FOLDERS: [&str; 8] =
    ["crates/", "config/", "docs/", "examples/", "benches/", "tests/", "xtask/", "fuzz/"];

/// A record of the past: it may name what is no longer there.
const HISTORY: &str = "CHANGELOG.md";

pub(super) fn problems(files: &[ProjectFile]) -> Result<Vec<String>> {
    let crates = crate_names(files);
    let pages = files.iter().filter(|file| file.path.ends_with(".md") && file.path != HISTORY);
    Ok(pages.flat_map(|page| page_problems(page, files, &crates)).collect())
}

fn crate_names(files: &[ProjectFile]) -> BTreeSet<String> {
    let of_manifest = |file: &ProjectFile| {
        let dir = file.path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml")?;
        Some(dir.to_owned())
    };
    files.iter().filter_map(of_manifest).collect()
}

fn page_problems(page: &ProjectFile, files: &[ProjectFile], crates: &BTreeSet<String>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut in_code = false;
    for (index, line) in page.text.lines().enumerate() {
        let mut refuse = |problem: String| problems.push(format!("{}:{}: {problem}", page.path, index + 1));
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if !in_code {
            for target in link_targets(line) {
                if let Some(problem) = link_problem(page, target, files) {
                    refuse(problem);
                }
            }
        }
        for path in named_paths(line) {
            if !root().join(path).exists() {
                refuse(format!("`{path}` does not exist"));
            }
        }
        for name in named_crates(line) {
            if !crates.contains(name) {
                refuse(format!("there is no crate `ringway_{name}`"));
            }
        }
    }
    problems
}

/// The targets of `[text](target)` in a line.
fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

fn link_problem(page: &ProjectFile, target: &str, files: &[ProjectFile]) -> Option<String> {
    let target = target.split_whitespace().next()?;
    if ["http://", "https://", "mailto:"].iter().any(|scheme| target.starts_with(scheme)) {
        return None;
    }
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let path = match path {
        "" => PathBuf::from(&page.path),
        _ => normal(&Path::new(&page.path).parent()?.join(path)),
    };
    if !root().join(&path).exists() {
        return Some(format!("link to `{target}`: `{}` does not exist", path.display()));
    }
    let anchor = anchor?;
    let text = &files.iter().find(|file| Path::new(&file.path) == path)?.text;
    let known = !target.contains(".md#") && !target.starts_with('#') || headings(text).any(|h| h == anchor);
    (!known).then(|| format!("link to `{target}`: no heading makes the anchor `#{anchor}`"))
}

/// `a/b/../c` → `a/c`, without asking the file system.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

/// The anchors of a page's headings, by the rule of the common forges.
fn headings(text: &str) -> impl Iterator<Item = String> {
    let mut in_code = false;
    text.lines().filter_map(move |line| {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        let title = line.trim_start_matches('#');
        (!in_code && title.len() < line.len() && title.starts_with(' ')).then(|| {
            let title = title.trim().to_lowercase();
            title
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
    })
}

/// Paths into the project's folders that a line names in backticks. One with a placeholder (`*`, `{`, `<`,
/// `…`) or with more words is a pattern or a command, not a path.
fn named_paths(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2).filter(|code| {
        CHECKED_FOLDERS.iter().any(|folder| code.starts_with(folder))
            && !code.contains(['*', '{', '<', '…', ' ', ':', '$'])
            && !code.starts_with("fuzz/corpus")
            && !code.starts_with("fuzz/artifacts")
    })
}

/// Library names `ringway_x` that a line names.
fn named_crates(line: &str) -> impl Iterator<Item = &str> {
    // A metric is `ringway_x_total` and the like; a crate is followed by `::` or a closing backtick.
    line.split("ringway_").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_lowercase())?;
        rest[end..].starts_with("::").then(|| &rest[..end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems_of(text: &str) -> Vec<String> {
        let page = ProjectFile { path: "docs/PAGE.md".to_owned(), text: text.to_owned() };
        let crates = BTreeSet::from(["topology".to_owned()]);
        page_problems(&page, &[], &crates)
    }

    #[test]
    fn links_and_paths_must_exist() {
        assert_eq!(problems_of("[a](../Cargo.toml) [b](https://example.org/x)"), Vec::<String>::new());
        assert_eq!(problems_of("[a](NOWHERE.md)").len(), 1);
        assert_eq!(problems_of("see `crates/topology/src/ids.rs`"), Vec::<String>::new());
        assert_eq!(problems_of("see `crates/nowhere/src`").len(), 1);
    }

    #[test]
    fn crates_must_exist() {
        assert_eq!(
            problems_of("`ringway_topology::Map`, metric `ringway_requests_total`"),
            Vec::<String>::new()
        );
        assert_eq!(problems_of("`ringway_nowhere::Map`").len(), 1);
    }

    #[test]
    fn anchors_are_headings() {
        let text = "# One: `two` three\n```\n# a comment, not a heading\n```\n## Four\n";
        assert_eq!(headings(text).collect::<Vec<_>>(), ["one-two-three", "four"]);
    }

    #[test]
    fn a_link_to_a_missing_heading_is_refused() {
        let page = ProjectFile { path: "LICENSE-MIT".to_owned(), text: "# One\n".to_owned() };
        let files = [ProjectFile { path: page.path.clone(), text: page.text.clone() }];
        assert_eq!(link_problem(&page, "#one", &files), None);
        assert!(link_problem(&page, "#two", &files).is_some());
    }
}
