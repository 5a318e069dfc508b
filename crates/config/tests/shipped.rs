//! Every file in config/ can be used as it is, and the reference files show the defaults.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringway_config::{Config, ImportSettings, KvConfig, Loaded, NodeSettings, ProxyConfig, load, load_str};
use ringway_control::ownership::Timing;
use ringway_gossip::{Config as GossipConfig, KeyringFile};
use ringway_kv::{Durability, KvOptions};
use ringway_proxy::edge::EdgeOptions;
use ringway_proxy::{KeyPart, RoutingOptions};

#[test]
fn every_shipped_file_loads() {
    let files = shipped();
    assert!(files.len() >= 9, "{files:?}");
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let loaded = if name == "proxy-tls.yaml" { with_certificate(&file) } else { load(&file).unwrap() };
        assert_eq!(matches!(loaded.config, Config::Kv(_)), name.contains("kv"), "{name}");
        assert!(loaded.warnings.is_empty(), "{name}: {:?}", loaded.warnings);
    }
}

#[test]
fn the_five_nodes_and_the_proxy_make_one_cluster() {
    let nodes: Vec<KvConfig> = (1..=5).map(|n| kv(&format!("kv-{n}.yaml"))).collect();
    let proxy = proxy("proxy.yaml");
    let mut addresses = vec![proxy.listen.data, proxy.listen.admin, proxy.listen.gossip];
    for node in &nodes {
        assert_eq!(node.cluster, proxy.cluster);
        assert!(node.node.bootstrap.contains(&node.node.id));
        assert_eq!(node.node.bootstrap, nodes[0].node.bootstrap);
        addresses.extend([node.listen.data, node.listen.admin, node.listen.gossip]);
        addresses.extend(node.listen.peer);
    }
    let count = addresses.len();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), count, "no two listen on one port");
    let gossip: Vec<String> = nodes.iter().map(|node| node.listen.gossip.to_string()).collect();
    assert!(proxy.gossip.seeds.iter().all(|seed| gossip.contains(seed)), "seeds are nodes");
}

#[test]
fn the_reference_files_show_the_defaults() {
    let proxy = proxy("reference-proxy.yaml");
    let node = kv("reference-kv.yaml");
    assert_eq!(node.store, KvOptions::default());
    assert_eq!(node.ownership, Timing::default());
    assert_eq!(node.imports, ImportSettings { max: 4, bytes_per_second: None });
    assert_eq!(node.imports, ImportSettings::default());
    assert_eq!(node.node.replace_after, NodeSettings::REPLACE_AFTER_DEFAULT);
    assert_eq!(node.node.stop_timeout, NodeSettings::STOP_TIMEOUT_DEFAULT);
    for (listen, edge, routing, gossip) in [
        (proxy.listen, &proxy.proxy.edge, &proxy.proxy.routing, &proxy.gossip.config),
        (node.listen, &node.edge, &node.routing, &node.gossip.config),
    ] {
        assert_eq!(*edge, EdgeOptions { listen: listen.data, ..EdgeOptions::default() });
        assert_eq!(*gossip, GossipConfig::default());
        let default = RoutingOptions::default();
        assert_eq!(format!("{:?}", routing.upstream), format!("{:?}", default.upstream));
        assert_eq!(format!("{:?}", routing.hold), format!("{:?}", default.hold));
        assert_eq!(format!("{:?}", routing.budget), format!("{:?}", default.budget));
        assert_eq!(format!("{:?}", routing.outlier), format!("{:?}", default.outlier));
        assert_eq!(format!("{:?}", routing.headers), format!("{:?}", default.headers));
    }
    assert_eq!(proxy.proxy.routing.routes.len(), 5);
    assert!(proxy.proxy.routing.check().is_ok());
}

#[test]
fn a_file_with_less_than_the_reference_says_the_same() {
    let text = "cluster: { name: shop, replicas: 3, ownership: claimed }\n\
                node: { id: n1, data_dir: ./data/n1, bootstrap: [n1] }\nlisten: { peer: '127.0.0.1:0' }\n";
    let loaded = load_str("short.yaml", text).unwrap();
    let Config::Kv(short) = loaded.config else { panic!("it has a node") };
    let reference = kv("reference-kv.yaml");
    assert_eq!(short.cluster, reference.cluster);
    assert_eq!(short.store, reference.store);
    assert_eq!(short.gossip.config, reference.gossip.config);
    assert_eq!(short.listen.data.to_string(), "127.0.0.1:8080");
    assert_eq!(short.ownership, reference.ownership);
    assert_eq!(short.imports, reference.imports);
    assert_eq!(short.node.replace_after, reference.node.replace_after);
    assert!(short.gossip.seeds.is_empty());
}

/// proxy-tls.yaml names files that its first lines say how to make; here they are made.
fn with_certificate(file: &Path) -> Loaded {
    let dir = tempfile::tempdir().unwrap();
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(dir.path().join("cert.pem"), pair.cert.pem()).unwrap();
    fs::write(dir.path().join("key.pem"), pair.signing_key.serialize_pem()).unwrap();
    let key = dir.path().join("key.pem");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let text = fs::read_to_string(file).unwrap().replace("./data/tls", &dir.path().to_string_lossy());
    let loaded = load_str("proxy-tls.yaml", &text).unwrap();
    let Config::Proxy(config) = &loaded.config else { panic!("it is a proxy's") };
    assert_eq!(config.proxy.edge.tls.as_ref().map(|tls| tls.certificates.len()), Some(1));

    // A certificate with the key of another one is found before anybody shakes hands.
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(&key, other.signing_key.serialize_pem()).unwrap();
    let problems = load_str("proxy-tls.yaml", &text).unwrap_err();
    assert!(problems.list.iter().any(|problem| problem.path == "tls[0]"), "{problems}");
    loaded
}

fn shipped() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config");
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

fn load_shipped(name: &str) -> Config {
    load(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config").join(name)).unwrap().config
}

fn kv(name: &str) -> KvConfig {
    match load_shipped(name) {
        Config::Kv(config) => *config,
        Config::Proxy(_) => panic!("{name} is a proxy's"),
    }
}

fn proxy(name: &str) -> ProxyConfig {
    match load_shipped(name) {
        Config::Proxy(config) => *config,
        Config::Kv(_) => panic!("{name} is a node's"),
    }
}

#[test]
fn settings_reach_the_options_they_name() {
    let text = "cluster: { name: shop, replicas: 1, ownership: derived, partitions: 1024, hash_seed: 7, placement: tokens, tokens: 64 }\n\
                node: { id: n7, zone: b, weight: 3, data_dir: ./d, part: { until: ':' }, ready_wait: 250ms }\n\
                listen: { data: '127.0.0.1:0', peer: '127.0.0.1:0', advertise: 10.0.0.7 }\n\
                gossip: { seeds: ['[::1]:7946'], probe_interval: 2s, suspicion_alpha: 5 }\n\
                upstream: { connect_timeout: 1.5s, retries: 0, replay_bytes: 1KB }\n\
                hold: { time: 0s, bytes: 1MiB }\n\
                store: { durability: relaxed, sync_every: 20ms, value_bytes_max: 1GiB }\n\
                edge: { workers: 2, drain_time: 1m }\n";
    let Config::Kv(config) = load_str("all.yaml", text).unwrap().config else { panic!("it has a node") };
    let cluster = config.cluster.terms();
    assert!(cluster.contains("partitions=1024\n") && cluster.contains("placement=tokens/64\n"), "{cluster}");
    assert_eq!((config.cluster.hash_seed, config.node.weight.get()), (7, 3));
    assert_eq!(config.node.part, Some(KeyPart::Until(":".to_owned())));
    assert_eq!(config.node.ready_wait, Duration::from_millis(250));
    assert_eq!(config.routing.zone.as_ref().map(|zone| zone.as_str()), Some("b"));
    assert_eq!(config.advertise.map(|ip| ip.to_string()).as_deref(), Some("10.0.0.7"));
    assert!(config.listen.peer.is_some());
    assert_eq!(config.gossip.seeds, ["[::1]:7946"]);
    assert_eq!(config.gossip.config.probe_interval, Duration::from_secs(2));
    assert_eq!(config.gossip.config.suspicion_alpha, 5);
    assert_eq!(config.routing.upstream.connect_timeout, Duration::from_millis(1_500));
    assert_eq!((config.routing.upstream.retries, config.routing.upstream.replay_bytes), (0, 1_000));
    assert_eq!((config.routing.hold.time, config.routing.hold.limits.bytes), (Duration::ZERO, 1 << 20));
    assert_eq!(config.store.durability, Durability::Relaxed { every: Duration::from_millis(20) });
    assert_eq!(config.store.value_bytes_max, 1 << 30);
    assert_eq!((config.edge.workers, config.edge.drain_time), (2, Duration::from_secs(60)));
}

#[test]
fn settings_of_claimed_ownership_reach_the_options_they_name() {
    let text = "cluster: { name: shop, replicas: 3, ownership: claimed }\n\
                node: { id: n1, data_dir: ./d, bootstrap: [n1, n2, n3], replace_after: 1h, stop_timeout: 0s }\n\
                listen: { peer: '127.0.0.1:0' }\n\
                ownership: { lease: 3s, drift_ppm: 0, ask_period: 1s, retry_period: 50ms, heartbeat_max: 1s,\n  \
                takeover_rank_delay: 2ms, takeover_jitter: 3ms, fence_timeout: 2s, copy_timeout: 1m,\n  \
                move_retry: 4s, copies_max: 9, fences_max: 10, imports_max: 5, import_bytes_per_second: 8MiB,
  \
                drop_grace: 5s, log_entries_max: 11,\n  \
                log_bytes_max: 2MiB, pending_entries_max: 12, pending_bytes_max: 3MiB }\n";
    let loaded = load_str("claimed.yaml", text).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let Config::Kv(config) = loaded.config else { panic!("it has a node") };
    assert_eq!(config.node.replace_after, Duration::from_secs(3_600));
    assert_eq!(config.node.stop_timeout, Duration::ZERO);
    let (s, ms) = (Duration::from_secs, Duration::from_millis);
    let expected = Timing {
        lease: s(3),
        drift_ppm: 0,
        ask_period: s(1),
        retry_period: ms(50),
        heartbeat_max: s(1),
        takeover_rank_delay: ms(2),
        takeover_jitter: ms(3),
        fence_timeout: s(2),
        copy_timeout: s(60),
        move_retry: s(4),
        copies_max: 9,
        fences_max: 10,
        drop_grace: s(5),
        log_entries_max: 11,
        log_bytes_max: 2 << 20,
        pending_entries_max: 12,
        pending_bytes_max: 3 << 20,
        ..Timing::default()
    };
    assert_eq!(config.ownership, expected);
    assert_eq!(config.imports, ImportSettings { max: 5, bytes_per_second: Some(8 << 20) });
}

#[test]
fn the_keys_of_a_keyring_file_are_used() {
    let dir = tempfile::tempdir().unwrap();
    let keyring = dir.path().join("keyring");
    fs::write(
        &keyring,
        "# two keys\n00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n\
                         ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n",
    )
    .unwrap();
    let text = format!(
        "cluster: {{ name: shop, replicas: 3, ownership: claimed }}\n\
         node: {{ id: n1, data_dir: ./data, bootstrap: [n1, n2, n3] }}\n\
         listen: {{ peer: '0.0.0.0:8082', gossip: '0.0.0.0:7946' }}\ngossip: {{ keyring_file: {} }}\n",
        keyring.display()
    );
    let loaded = || {
        let Config::Kv(config) = load_str("keyring.yaml", &text).unwrap().config else {
            panic!("it has a node")
        };
        config.gossip
    };
    let by_hand = loaded();
    assert_eq!((by_hand.keyring.ids().count(), by_hand.keyring_version), (2, 0));
    assert_eq!(by_hand.keyring_file, Some(keyring.clone()));
    // As a member writes it when the cluster's keys change.
    let written = KeyringFile { keyring: by_hand.keyring, version: 5 };
    fs::write(&keyring, written.text()).unwrap();
    let again = loaded();
    assert_eq!(KeyringFile { keyring: again.keyring, version: again.keyring_version }, written);
}
