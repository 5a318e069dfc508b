//! TLS and both HTTP versions through the built binary, spoken by curl.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use support::{Client, Cluster, eventually, finish};

/// Writes a self-signed certificate for a name and gives the line of the `tls:` list.
fn certificate(dir: &Path, name: &str) -> String {
    certificate_in(dir, name, name)
}

/// [`certificate`] in files of another name.
fn certificate_in(dir: &Path, file: &str, name: &str) -> String {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
    let (certificate, key) = (dir.join(format!("{file}.pem")), dir.join(format!("{file}.key")));
    fs::write(&certificate, made.cert.pem()).expect("certificate file");
    fs::write(&key, made.signing_key.serialize_pem()).expect("key file");
    format!("  - {{ certificate: {}, key: {} }}\n", certificate.display(), key.display())
}

fn curl(args: &[&str]) -> Output {
    // `cargo xtask test` installs it.
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--max-time",
        "60",
        "--write-out",
        "\n%{http_version} %{http_code}",
    ])
    .args(args);
    finish(curl)
}

fn said(args: &[&str]) -> String {
    let output = curl(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn curl_speaks_tls_and_both_http_versions_and_sni_chooses_the_certificate() {
    let cluster = Cluster::start(2);
    let dir = cluster.dir.path();
    let value = dir.join("value.txt");
    fs::write(&value, "a value").expect("value file");
    let value = value.to_str().expect("UTF-8 path");
    let names = ["a.example", "b.example"];
    let tls: String = names.iter().map(|name| certificate(dir, name)).collect();
    let proxy = cluster.proxy_with("tls", &format!("tls:\n{tls}"));
    let addr = proxy.url.strip_prefix("https://").expect("the ready file says https");
    let port = addr.rsplit(':').next().expect("a port");

    for (name, version, option) in
        [("a.example", "1.1", "--http1.1"), ("b.example", "2", "--http2"), ("a.example", "2", "--http2")]
    {
        let resolve = format!("{name}:{port}:127.0.0.1");
        let trusted = dir.join(format!("{name}.pem"));
        let trusted = trusted.to_str().expect("UTF-8 path");
        let url = format!("https://{name}:{port}/kv/tls-{version}");
        let common = [option, "--resolve", &resolve, "--cacert", trusted, &url];
        let put = [&common[..], &["--upload-file", value]].concat();
        let answer = said(&put);
        assert!(
            answer.ends_with(&format!("{version} 201")) || answer.ends_with(&format!("{version} 204")),
            "{answer}"
        );
        assert_eq!(said(&common), format!("a value\n{version} 200"));
    }

    // The other name's certificate does not answer for this one.
    let resolve = format!("a.example:{port}:127.0.0.1");
    let wrong = dir.join("b.example.pem");
    let url = format!("https://a.example:{port}/kv/x");
    let output = curl(&["--resolve", &resolve, "--cacert", wrong.to_str().expect("UTF-8 path"), &url]);
    assert_eq!(output.status.code(), Some(60), "curl refuses the certificate");

    // HTTP/2 in the clear, by prior knowledge.
    let url = format!("{}/kv/tls-2", cluster.proxy.url);
    assert_eq!(said(&["--http2-prior-knowledge", &url]), "a value\n2 200");
}

#[test]
fn a_hangup_takes_new_certificates_into_use_and_a_bad_file_leaves_the_old_ones() {
    let cluster = Cluster::start(1);
    let dir = cluster.dir.path();
    let line = certificate_in(dir, "served", "reload.example");
    let mut proxy = cluster.proxy_with("tls", &format!("tls:\n{line}"));
    let port = proxy.url.rsplit(':').next().expect("a port").to_owned();
    let [pem, key] = ["served.pem", "served.key"].map(|name| dir.join(name));
    let keep = |as_name: &str| {
        let kept = dir.join(as_name);
        fs::copy(&pem, &kept).expect("a copy");
        kept
    };
    // curl trusts nothing but the one certificate that it is given.
    let is_served = |trusted: &Path| {
        let resolve = format!("reload.example:{port}:127.0.0.1");
        let url = format!("https://reload.example:{port}/kv/absent");
        let trusted = trusted.to_str().expect("UTF-8 path");
        match curl(&["--resolve", &resolve, "--cacert", trusted, &url]).status.code() {
            Some(0) => true,
            Some(60) => false,
            code => panic!("curl ended with {code:?}"),
        }
    };
    let reloads = |outcome: &str| {
        let metrics = Client::new().get(&format!("{}/metrics", proxy.admin)).text();
        let series = format!("ringway_tls_reloads_total{{outcome=\"{outcome}\"}} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&series).map(str::to_owned));
        value.unwrap_or_else(|| panic!("no {series} in\n{metrics}")).parse::<u64>().expect("a number")
    };
    let first = keep("first.pem");
    assert!(is_served(&first));
    assert_eq!((reloads("succeeded"), reloads("failed")), (0, 0));

    certificate_in(dir, "served", "reload.example");
    let second = keep("second.pem");
    assert!(is_served(&first) && !is_served(&second), "nobody has said so yet");
    proxy.process.signal("HUP");
    eventually("it was read", || (reloads("succeeded") == 1).then_some(()));
    assert!(is_served(&second) && !is_served(&first));

    // Half of a pair is new; and then the key is cut off.
    certificate_in(dir, "other", "reload.example");
    fs::copy(dir.join("other.pem"), &pem).expect("a copy");
    proxy.process.signal("HUP");
    eventually("it was refused", || (reloads("failed") == 1).then_some(()));
    proxy.process.said("this is not the private key of the certificate in");
    fs::write(&key, "-----BEGIN PRIVATE KEY-----\n").expect("key file");
    proxy.process.signal("HUP");
    eventually("it was refused again", || (reloads("failed") == 2).then_some(()));
    assert!(is_served(&second) && !is_served(&pem), "the last good ones stay");
    let log = proxy.process.log();
    assert!(log.contains("served.key") && log.contains("send SIGHUP again"), "{log}");

    fs::copy(dir.join("other.key"), &key).expect("a copy");
    proxy.process.signal("HUP");
    eventually("it was read", || (reloads("succeeded") == 2).then_some(()));
    assert!(is_served(&pem) && !is_served(&second));
}
