//! `listen:`, `gossip:`, `edge:` and `tls:`: sockets, and the files that secure them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringway_gossip::{Keyring, KeyringFile};
use ringway_proxy::edge::{CertificateFiles, EdgeOptions, Http1Path, TlsOptions};

use crate::problem::echo;
use crate::section::{Field, Section};
use crate::settings::{GossipSettings, Listen};

/// Most seeds; one that answers is enough.
const SEEDS_MAX: usize = 256;
/// Most certificates of one listener.
const CERTIFICATES_MAX: usize = 256;
/// Largest keyring, certificate or key file, in bytes.
const SECRET_FILE_BYTES_MAX: u64 = 1 << 20;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

const DATA_DEFAULT: u16 = 8080;
const ADMIN_DEFAULT: u16 = 8081;
const GOSSIP_DEFAULT: u16 = 7946;

/// What `listen:` and `gossip:` say.
pub(super) struct Network {
    pub(super) listen: Listen,
    pub(super) advertise: Option<IpAddr>,
    pub(super) gossip: GossipSettings,
}

pub(super) fn read(root: &Section<'_>, is_node: bool) -> Network {
    let (listen, advertise) = listen(root, is_node);
    Network { listen, advertise, gossip: gossip(root) }
}

fn listen(root: &Section<'_>, is_node: bool) -> (Listen, Option<IpAddr>) {
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut listen = Listen {
        data: loopback(DATA_DEFAULT),
        admin: loopback(ADMIN_DEFAULT),
        peer: None,
        gossip: loopback(GOSSIP_DEFAULT),
    };
    let keys: &[&str] = match is_node {
        true => &["data", "admin", "peer", "gossip", "advertise"],
        false => &["data", "admin", "gossip", "advertise"],
    };
    let Some(section) = root.section("listen", keys) else { return (listen, None) };
    for (key, into) in
        [("data", &mut listen.data), ("admin", &mut listen.admin), ("gossip", &mut listen.gossip)]
    {
        if let Some(address) = section.field(key).and_then(|field| address(&field)) {
            *into = address;
        }
    }
    if is_node {
        listen.peer = section.field("peer").and_then(|field| address(&field));
    }
    let because = "others are told to reach this process there";
    let advertise: Option<IpAddr> = section.parsed("advertise", "an IP address, without a port", because);
    let advertise = advertise.filter(|ip| {
        if ip.is_unspecified() {
            section
                .refuse("advertise", format!("`{ip}` is no address that others could connect to"))
                .accepted("an IP address of this machine")
                .because(because)
                .remedy("write the address that the other members see, or leave the line out");
        }
        !ip.is_unspecified()
    });
    (listen, advertise)
}

/// `IP:PORT`. A name is refused: what it resolves to may be another machine tomorrow.
fn address(field: &Field<'_>) -> Option<SocketAddr> {
    let text = field.text()?;
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let remedy = match (text.parse::<IpAddr>(), text.strip_prefix(':').or(text.strip_prefix("*:"))) {
        (Ok(_), _) => format!("add a port, like `{text}:8080`, or `{text}:0` for any free one"),
        (_, Some(port)) => format!("write `0.0.0.0:{}` for every address of this machine", echo(port)),
        _ if text.starts_with("localhost:") => {
            format!("write `{}`", text.replacen("localhost", "127.0.0.1", 1))
        }
        _ => "write an address like `127.0.0.1:8080`, `0.0.0.0:8080` or `[::]:8080`".to_owned(),
    };
    field
        .refuse(format!("`{}` is not an address to listen on", echo(text)))
        .accepted("IP:PORT; port 0 takes any free port")
        .because("a process listens on an address of its machine, not on a name")
        .remedy(remedy);
    None
}

fn gossip(root: &Section<'_>) -> GossipSettings {
    let mut settings = GossipSettings {
        seeds: Vec::new(),
        keyring: Keyring::none(),
        keyring_file: None,
        keyring_version: 0,
        config: ringway_gossip::Config::default(),
    };
    let keys = [
        "seeds",
        "keyring_file",
        "probe_interval",
        "probe_timeout",
        "indirect_probes",
        "gossip_interval",
        "gossip_fanout",
        "retransmit",
        "suspicion_alpha",
        "suspicion_beta",
        "suspicion_confirmations",
        "health_max",
        "anti_entropy_interval",
        "forget_after",
        "isolation_after",
    ];
    let Some(section) = root.section("gossip", &keys) else { return settings };
    for item in section.field("seeds").map(|field| field.items(SEEDS_MAX)).unwrap_or_default() {
        settings.seeds.extend(seed(&item));
    }
    if let Some((path, file)) = section.field("keyring_file").and_then(|field| keyring(&field)) {
        let KeyringFile { keyring, version } = file;
        settings.keyring = keyring;
        settings.keyring_file = Some(path);
        settings.keyring_version = version;
    }
    timers(&section, &mut settings.config);
    settings
}

/// `HOST:PORT`, where the host is a name or an address.
fn seed(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    let good = text.parse::<SocketAddr>().is_ok_and(|address| address.port() != 0)
        || text.rsplit_once(':').is_some_and(|(host, port)| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
            !host.is_empty() && host.bytes().all(plain) && port.parse::<u16>().is_ok_and(|port| port != 0)
        });
    if !good {
        field
            .refuse(format!("`{}` is not a host and a port", echo(text)))
            .accepted("HOST:PORT, with a name or an IP address, and a port from 1 to 65535")
            .because("this is where the group is joined")
            .remedy(format!(
                "write it like `10.0.0.7:{GOSSIP_DEFAULT}` or `node-1.example:{GOSSIP_DEFAULT}`"
            ));
    }
    good.then(|| text.to_owned())
}

/// Ranges are those of [`ringway_gossip::Config`]; what depends on another setting is checked at the end.
fn timers(section: &Section<'_>, config: &mut ringway_gossip::Config) {
    let because = "a crash is noticed within a few of these; shorter costs packets, longer costs time";
    section.time("probe_interval", &mut config.probe_interval, MS * 10..=SECOND * 60, because);
    let because = "a member that is slower to answer is probed through others";
    section.time("probe_timeout", &mut config.probe_timeout, MS..=SECOND * 60, because);
    let because = "others find out whether it is the member or our path to it that is broken";
    section.count("indirect_probes", &mut config.indirect_probes, 0..=16, because);
    let because = "news waits for the next round; shorter costs packets";
    section.time("gossip_interval", &mut config.gossip_interval, MS..=SECOND * 10, because);
    let because = "each round tells this many; more spreads faster and costs packets";
    section.count("gossip_fanout", &mut config.gossip_fanout, 1..=16, because);
    let because =
        "each piece of news is repeated this often, times log10 of the members; less may not reach everybody";
    section.count("retransmit", &mut config.retransmit, 1..=16, because);
    let because = "the shortest time in which a suspect may refute; shorter declares slow members dead";
    section.count("suspicion_alpha", &mut config.suspicion_alpha, 1..=20, because);
    let because = "how much longer a suspect has while nobody else accuses it";
    section.count("suspicion_beta", &mut config.suspicion_beta, 1..=50, because);
    let because = "this many further accusers bring a suspicion down to its shortest";
    section.count("suspicion_confirmations", &mut config.suspicion_confirmations, 0..=8, because);
    let because = "timers of a slow member stretch up to this many times";
    section.count("health_max", &mut config.health_max, 0..=32, because);
    let because = "what got lost is found in the next round";
    section.time("anti_entropy_interval", &mut config.anti_entropy_interval, MS * 10..=HOUR, because);
    let because = "a dead member is listed this long; its data belongs to it all the same";
    section.time("forget_after", &mut config.forget_after, MS * 10..=HOUR * 24 * 365, because);
    let because = "silence of everybody else means that it is this process that is cut off";
    section.time("isolation_after", &mut config.isolation_after, MS * 10..=HOUR, because);
    for error in config.validate().err().unwrap_or_default() {
        section
            .refuse(error.field, format!("is {}", error.value))
            .accepted(error.accepted)
            .because("the two timers depend on each other")
            .remedy("change one of them");
    }
}

/// A keyring file and what it holds. The text of the keys reaches no message.
fn keyring(field: &Field<'_>) -> Option<(PathBuf, KeyringFile)> {
    let text = secret_file(field, field.text()?, "one 32-byte key per line, in hex or base64")?;
    match KeyringFile::parse(&text) {
        Ok(file) => Some((PathBuf::from(field.text()?), file)),
        Err(error) => {
            field
                .refuse(format!("the keyring `{}` cannot be used: {error}", echo(field.text()?)))
                .accepted("one 32-byte key per line, in hex or base64; the first seals, all open; `#` starts a comment")
                .because("without the keys of the cluster no packet of it can be read")
                .remedy("make a key with `openssl rand -hex 32`");
            None
        }
    }
}

/// What a file with secrets holds; a warning when others than its owner may read it.
fn secret_file(field: &Field<'_>, path: &str, accepted: &str) -> Option<String> {
    let text = readable(field, Path::new(path), accepted)?;
    #[cfg(unix)]
    if let Ok(metadata) = fs::metadata(path) {
        use std::os::unix::fs::PermissionsExt;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            field
                .warn(format!("`{}` can be read by others than its owner (mode {mode:o})", echo(path)))
                .accepted("mode 600 or 400")
                .because("whoever has the key can join the cluster, or pose as this server")
                .remedy(format!("chmod 600 {}", echo(path)));
        }
    }
    Some(text)
}

/// The text of a file that another one names.
fn readable(field: &Field<'_>, path: &Path, accepted: &str) -> Option<String> {
    use std::io::Read;

    let mut text = String::new();
    let read =
        fs::File::open(path).and_then(|file| file.take(SECRET_FILE_BYTES_MAX).read_to_string(&mut text));
    match read {
        Ok(_) => Some(text),
        Err(error) => {
            // The kind alone: the system's words carry an error number that differs between machines.
            let shown = echo(&path.to_string_lossy());
            field
                .refuse(format!("`{shown}` cannot be read: {}", error.kind()))
                .accepted(accepted)
                .because("the file is needed before the first connection")
                .remedy(
                    "check the name, the permissions and the working directory, which paths are relative to",
                );
            None
        }
    }
}

/// `edge:` and `tls:`: the data listener towards clients.
pub(super) fn edge(root: &Section<'_>, listen: SocketAddr) -> EdgeOptions {
    let mut edge = EdgeOptions { listen, ..EdgeOptions::default() };
    edge.tls = tls(root);
    let keys = [
        "workers",
        "http1",
        "header_timeout",
        "idle_timeout",
        "body_idle_timeout",
        "connections_max",
        "streams_max",
        "header_bytes_max",
        "headers_max",
        "concurrency_max",
        "drain_time",
    ];
    let Some(section) = root.section("edge", &keys) else { return edge };
    let because = "one thread each, with its own listening socket; 0 means one per core";
    section.count("workers", &mut edge.workers, 0..=ringway_proxy::edge::WORKERS_MAX as u64, because);
    let because = "`own` refuses with 400 what hyper lets through and could be read in two ways, and idle connections hold no buffer";
    let paths = [("own", Http1Path::Own), ("hyper", Http1Path::Hyper)];
    if let Some(http1) = section.choice("http1", &paths, because) {
        edge.http1 = http1;
    }
    let because = "a client that sends its head more slowly is cut off, so that slow ones cannot use up the connections";
    section.time("header_timeout", &mut edge.header_timeout, MS..=HOUR, because);
    let because = "a connection without a request costs memory";
    section.time("idle_timeout", &mut edge.idle_timeout, MS..=HOUR * 24, because);
    let because = "a client that stops in the middle of a body is cut off";
    section.time("body_idle_timeout", &mut edge.body_idle_timeout, MS..=HOUR * 24, because);
    let because = "further connections are closed at once; each open one costs memory and a file descriptor";
    section.count("connections_max", &mut edge.connections_max, 1..=1 << 24, because);
    let because = "one HTTP/2 connection must not take all the room";
    section.count("streams_max", &mut edge.streams_max, 1..=65_536, because);
    let because = "a larger head is answered 431; a key of 4,096 bytes takes 12 KiB percent-encoded";
    section.size("header_bytes_max", &mut edge.header_bytes_max, 8 << 10..=1 << 20, because);
    let because = "more header fields are answered 431; more than 116 cost an allocation per request";
    section.count("headers_max", &mut edge.headers_max, 1..=24_576, because);
    let because = "further requests of a worker are answered 503 at once instead of making all of them slow";
    section.count("concurrency_max", &mut edge.concurrency_max, 1..=1 << 20, because);
    let because = "requests under way get this long to finish at shutdown; 0s cuts them off";
    section.time("drain_time", &mut edge.drain_time, Duration::ZERO..=HOUR, because);
    if let Err(error) = edge.validate() {
        section
            .refuse(error.option, format!("is {}", error.found))
            .accepted(error.allowed)
            .because("the listener refuses it")
            .remedy("write a value in the range");
    }
    edge
}

fn tls(root: &Section<'_>) -> Option<TlsOptions> {
    let field = root.field("tls")?;
    let files: Vec<CertificateFiles> = field
        .some_items(CERTIFICATES_MAX, "a listener that is to speak TLS needs a certificate")
        .iter()
        .filter_map(certificate)
        .collect();
    (!files.is_empty()).then(|| TlsOptions::new(files))
}

fn certificate(field: &Field<'_>) -> Option<CertificateFiles> {
    let section = field.section(&["certificate", "key"])?;
    let accepted = "a PEM file with the certificate, then its intermediates";
    let because = "clients are shown this certificate when they ask for one of its names";
    let certificate = section.required("certificate", accepted, because).and_then(|field| {
        let path = field.text()?;
        let text = readable(&field, Path::new(path), accepted)?;
        has_pem(&field, path, &text, "CERTIFICATE-----", "certificate").then(|| path.into())
    });
    let accepted = "a PEM file with the certificate's private key, not encrypted";
    let because = "a certificate is worth nothing without its key";
    let key = section.required("key", accepted, because).and_then(|field| {
        let path = field.text()?;
        let text = secret_file(&field, path, accepted)?;
        has_pem(&field, path, &text, "PRIVATE KEY-----", "private key").then(|| path.into())
    });
    let files = CertificateFiles { certificate: certificate?, key: key? };
    match ringway_proxy::tls::check(&TlsOptions::new(vec![files.clone()])) {
        Ok(()) => Some(files),
        Err(error) => {
            field
                .refuse(error.to_string())
                .accepted("a certificate and the key that belongs to it")
                .because("no TLS handshake could succeed")
                .remedy("check that both files are of one pair");
            None
        }
    }
}

fn has_pem(field: &Field<'_>, path: &str, text: &str, label: &str, what: &str) -> bool {
    let good = text.lines().any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(label));
    if !good {
        field
            .refuse(format!("`{}` holds no {what} in PEM form", echo(path)))
            .accepted(format!("a file with a `-----BEGIN … {label}` line"))
            .because("no TLS handshake could succeed")
            .remedy("check that certificate and key are not swapped, and that the file is PEM, not DER");
    }
    good
}
