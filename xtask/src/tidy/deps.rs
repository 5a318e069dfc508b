//! Who may use whom, as a *forward* allow-list per crate.
//!
//! Asked the other way round (`cargo tree --invert`), a misspelt or absent crate answers with an empty tree
//! that passes every check. Here every crate of the workspace must have a rule, every rule a crate, and every
//! dependency must be on the list.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::run;

/// What a crate may use.
struct Rule {
    name: &'static str,
    /// Direct dependencies inside the workspace.
    may_use: &'static [&'static str],
    /// `Some` for a pure crate: everything from outside that may be in its tree, however deep. `None` for a
    /// shell, whose outside dependencies are cargo-deny's business.
    outside: Option<&'static [&'static [&'static str]]>,
}

const fn pure(
    name: &'static str,
    may_use: &'static [&'static str],
    outside: &'static [&'static [&'static str]],
) -> Rule {
    Rule { name, may_use, outside: Some(outside) }
}

const fn shell(name: &'static str, may_use: &'static [&'static str]) -> Rule {
    Rule { name, may_use, outside: None }
}

/// `#[derive(Error)]` and what it runs in the compiler.
const ERRORS: &[&str] = &["proc-macro2", "quote", "syn", "thiserror", "thiserror-impl", "unicode-ident"];
/// The key hash.
const HASH: &[&str] = &["xxhash-rust"];
/// The snapshot cell.
const SNAPSHOT: &[&str] = &["arc-swap", "rustversion"];
/// XChaCha20-Poly1305 for gossip packets; `libc` only where the CPU's features are asked of the system.
const AEAD: &[&str] = &[
    "aead",
    "block-buffer",
    "cfg-if",
    "chacha20",
    "chacha20poly1305",
    "cipher",
    "cmov",
    "cpufeatures",
    "crypto-common",
    "ctutils",
    "hybrid-array",
    "inout",
    "libc",
    "poly1305",
    "typenum",
    "universal-hash",
];

const RULES: &[Rule] = &[
    pure("ringway-topology", &[], &[ERRORS, HASH, SNAPSHOT]),
    pure("ringway-gossip", &[], &[ERRORS, HASH, AEAD]),
    pure("ringway-route", &["ringway-topology"], &[ERRORS, HASH, SNAPSHOT]),
    pure("ringway-control", &["ringway-gossip", "ringway-topology"], &[ERRORS, HASH, SNAPSHOT, AEAD]),
    // Pure as what it drives: a run is its seed.
    pure(
        "ringway-sim",
        &["ringway-control", "ringway-gossip", "ringway-route", "ringway-topology"],
        &[ERRORS, HASH, SNAPSHOT, AEAD],
    ),
    shell("ringway-member", &["ringway-control", "ringway-gossip", "ringway-topology"]),
    shell("ringway-proxy", &["ringway-route", "ringway-topology"]),
    shell("ringway-node", &["ringway-control", "ringway-member", "ringway-proxy", "ringway-topology"]),
    shell("ringway-kv", &["ringway-node", "ringway-topology"]),
    shell("ringway-load", &["ringway-topology"]),
    // Of these it uses the option types it lowers into.
    shell(
        "ringway-config",
        &[
            "ringway-control",
            "ringway-gossip",
            "ringway-kv",
            "ringway-node",
            "ringway-proxy",
            "ringway-topology",
        ],
    ),
    shell(
        "ringway",
        &[
            "ringway-config",
            "ringway-control",
            "ringway-gossip",
            "ringway-kv",
            "ringway-load",
            "ringway-member",
            "ringway-node",
            "ringway-proxy",
            "ringway-route",
            // For `ringway sim`: pure, and of nothing that the binary does not hold already.
            "ringway-sim",
            "ringway-topology",
        ],
    ),
    shell("xtask", &[]),
];

pub(super) fn problems() -> Result<Vec<String>> {
    let members = names(&run::capture(
        "cargo",
        &["tree", "--locked", "--workspace", "--depth", "0", "--prefix", "none"],
    )?);
    let mut problems = unmatched(&members);
    for rule in RULES {
        if !members.contains(rule.name) {
            continue;
        }
        let direct = names(&tree(rule.name, &["--depth", "1"])?);
        let whole = names(&tree(rule.name, &[])?);
        problems.extend(violations(rule, &members, &direct, &whole)?);
    }
    Ok(problems)
}

/// Dependencies with every feature on and for every platform: what is forbidden is forbidden everywhere.
fn tree(name: &str, more: &[&str]) -> Result<String> {
    let fixed = ["tree", "--locked", "--edges", "normal,build", "--all-features", "--target", "all"];
    let package = ["--package", name, "--prefix", "none"];
    run::capture("cargo", &[&fixed[..], &package, more].concat())
}

/// The package names in an unindented tree: the first word of each line.
fn names(tree: &str) -> BTreeSet<String> {
    tree.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Crates without a rule and rules without a crate.
fn unmatched(members: &BTreeSet<String>) -> Vec<String> {
    let ruled: BTreeSet<&str> = RULES.iter().map(|rule| rule.name).collect();
    let without_rule = members
        .iter()
        .filter(|name| !ruled.contains(name.as_str()))
        .map(|name| format!("{name}: no rule says what it may use; add one to xtask/src/tidy/deps.rs"));
    let without_crate = ruled
        .iter()
        .filter(|name| !members.contains(**name))
        .map(|name| format!("{name}: has a rule in xtask/src/tidy/deps.rs and does not exist"));
    without_rule.chain(without_crate).collect()
}

/// What `rule` forbids and the trees hold.
fn violations(
    rule: &Rule,
    members: &BTreeSet<String>,
    direct: &BTreeSet<String>,
    whole: &BTreeSet<String>,
) -> Result<Vec<String>> {
    if !direct.contains(rule.name) || !whole.contains(rule.name) {
        bail!("{}: its dependency tree does not even hold itself", rule.name);
    }
    let inside = direct
        .iter()
        .filter(|name| members.contains(*name) && *name != rule.name)
        .filter(|name| !rule.may_use.contains(&name.as_str()))
        .map(|name| format!("{}: must not use {name}", rule.name));
    let mut problems: Vec<String> = inside.collect();
    if let Some(allowed) = rule.outside {
        let foreign = whole
            .iter()
            .filter(|name| !members.contains(*name))
            .filter(|name| !allowed.iter().any(|list| list.contains(&name.as_str())))
            .map(|name| format!("{}: is pure and must not reach {name}", rule.name));
        problems.extend(foreign);
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = pure("ringway-route", &["ringway-topology"], &[HASH]);

    fn check(direct: &str, whole: &str) -> Result<Vec<String>> {
        let members = names("ringway-gossip\nringway-route\nringway-topology\n");
        violations(&RULE, &members, &names(direct), &names(whole))
    }

    #[test]
    fn allowed_edges_pass() {
        let direct = "ringway-route v0.1.0 (/x)\nringway-topology v0.1.0 (/y)\n";
        let whole = format!("{direct}xxhash-rust v0.8.15 (*)\n");
        assert_eq!(check(direct, &whole).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_forbidden_edge_inside_the_workspace_is_named() {
        let direct = "ringway-route v0.1.0\nringway-gossip v0.1.0\n";
        assert_eq!(check(direct, direct).unwrap(), ["ringway-route: must not use ringway-gossip"]);
    }

    #[test]
    fn a_pure_crate_that_reaches_tokio_is_named() {
        let direct = "ringway-route v0.1.0\nringway-topology v0.1.0\n";
        let whole = format!("{direct}tokio v1.54.0\n");
        assert_eq!(check(direct, &whole).unwrap(), ["ringway-route: is pure and must not reach tokio"]);
    }

    #[test]
    fn an_empty_tree_is_an_error_and_not_a_pass() {
        assert!(check("", "").is_err());
    }

    #[test]
    fn every_crate_needs_a_rule_and_every_rule_a_crate() {
        let mut members: BTreeSet<String> = RULES.iter().map(|rule| rule.name.to_owned()).collect();
        assert_eq!(unmatched(&members), Vec::<String>::new());
        members.insert("ringway-new".to_owned());
        members.remove("ringway-route");
        assert_eq!(unmatched(&members).len(), 2);
    }

    #[test]
    fn cargo_refuses_a_misspelt_crate() {
        assert!(tree("ringway-topologie", &[]).is_err());
    }
}
