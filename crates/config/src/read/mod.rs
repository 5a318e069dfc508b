//! From the tree to the settings, section by section, then what no section can see alone.

mod access_log;
mod checks;
mod cluster;
mod network;
mod ownership;
mod routing;
mod store;

use ringway_proxy::ProxyOptions;

use crate::problem::Report;
use crate::section::Section;
use crate::settings::{Config, KvConfig, ProxyConfig};
use crate::tree;

const COMMON_KEYS: [&str; 10] = [
    "cluster",
    "listen",
    "gossip",
    "upstream",
    "retry_budget",
    "hold",
    "headers",
    "trusted",
    "edge",
    "access_log",
];
const PROXY_KEYS: [&str; 4] = ["router", "routes", "outlier", "tls"];
const KV_KEYS: [&str; 3] = ["node", "store", "ownership"];

/// Reads a whole file; `None` when a problem left nothing to return. The caller looks at the report for errors.
pub(crate) fn file(text: &str, report: &Report) -> Option<Config> {
    let tree = tree::parse(text, report)?;
    // Which kind it is decides which settings it may have.
    let is_kv = matches!(&tree.kind, tree::Kind::Mapping(entries) if entries.iter().any(|e| e.key == "node"));
    if report.errors() > 0 && !matches!(tree.kind, tree::Kind::Mapping(_)) {
        return None;
    }
    if is_kv {
        kv(&Section::root(report, &tree, &[&COMMON_KEYS[..], &KV_KEYS].concat(), foreign_to_kv)?)
    } else {
        proxy(&Section::root(report, &tree, &[&COMMON_KEYS[..], &PROXY_KEYS].concat(), foreign_to_proxy)?)
    }
}

/// Why a setting of the other kind of file has no place in a node's.
fn foreign_to_kv(key: &str) -> Option<&'static str> {
    Some(match key {
        "routes" => {
            "a file with `node:` is a storage node's, and its one route is /kv/{key}; routes go into the proxy's file"
        }
        "router" => "a file with `node:` is a storage node's; `router:` goes into the proxy's file",
        "outlier" => "a file with `node:` is a storage node's; `outlier:` goes into the proxy's file",
        "tls" => "routers speak cleartext HTTP to nodes; TLS towards clients goes into the proxy's file",
        _ => return None,
    })
}

/// Why a setting of the other kind of file has no place in a proxy's.
fn foreign_to_proxy(key: &str) -> Option<&'static str> {
    Some(match key {
        "store" => {
            "a file without `node:` is a proxy's, and it stores nothing; add `node:` if it is a node's"
        }
        "ownership" => {
            "a file without `node:` is a proxy's, and it owns nothing; `cluster.ownership` says which mode it routes by"
        }
        _ => return None,
    })
}

fn proxy(root: &Section<'_>) -> Option<Config> {
    let cluster = cluster::settings(root);
    let router = cluster::router(root);
    let network = network::read(root, false);
    let edge = network::edge(root, network.listen.data);
    let mut routing = routing::read(root);
    routing.routes = routing::routes(root);
    routing.zone.clone_from(&router.zone);
    checks::both(root, &network, &edge, &routing);
    checks::proxy(root, &network);
    let network::Network { listen, advertise, gossip } = network;
    Some(Config::Proxy(Box::new(ProxyConfig {
        cluster: cluster?,
        router,
        listen,
        gossip,
        advertise,
        proxy: ProxyOptions { edge, routing },
    })))
}

fn kv(root: &Section<'_>) -> Option<Config> {
    let cluster = cluster::settings(root);
    let node = cluster::node(root);
    let network = network::read(root, true);
    let edge = network::edge(root, network.listen.data);
    let mut routing = routing::read(root);
    routing.zone = node.as_ref().map(|node| node.zone.clone());
    let store = store::read(root);
    let (ownership, imports) = ownership::read(root);
    checks::both(root, &network, &edge, &routing);
    checks::kv(root, cluster.as_ref(), node.as_ref(), &network);
    if let Some(cluster) = &cluster {
        ownership::check(root, cluster, node.as_ref(), &network, &routing, &store, &ownership);
    }
    let network::Network { listen, advertise, gossip } = network;
    Some(Config::Kv(Box::new(KvConfig {
        cluster: cluster?,
        node: node?,
        listen,
        gossip,
        advertise,
        edge,
        routing,
        store,
        ownership,
        imports,
    })))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The last word of each setting that the code knows and the file neither sets nor shows in a comment.
    fn unmentioned(text: &str) -> Vec<String> {
        let report = Report::default();
        assert!(file(text, &report).is_some());
        let (offered, given) = (report.offered.borrow(), report.given.borrow());
        let comments: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix('#'))
            .flat_map(|comment| comment.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
            .collect();
        let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
        offered.difference(&given).filter(|path| !comments.contains(last(path).as_str())).cloned().collect()
    }

    #[test]
    fn the_reference_files_name_every_setting() {
        for text in [
            include_str!("../../../../config/reference-proxy.yaml"),
            include_str!("../../../../config/reference-kv.yaml"),
        ] {
            assert_eq!(unmentioned(text), Vec::<String>::new());
        }
    }
}
