//! Certificates of a listener: read, checked, chosen by name, replaced while running.
//!
//! TLS 1.2 and 1.3 by rustls with the cipher suites and key exchanges of aws-lc-rs. No client certificates
//! here.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use webpki::EndEntityCert;

use crate::edge::{CertificateFiles, TlsOptions};

/// Application protocols, the preferred one first.
const ALPN: [&[u8]; 2] = [ALPN_HTTP2, b"http/1.1"];
/// HTTP/2 over TLS (RFC 9113 §3.2).
pub(crate) const ALPN_HTTP2: &[u8] = b"h2";

/// Why certificates cannot be used. One line that names the file; never a word of its content.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TlsError {
    /// The list is empty.
    #[error("a TLS listener needs at least one certificate")]
    NoCertificate,
    /// A file cannot be read or is not what it should be.
    #[error("{}: {problem}", file.display())]
    File {
        /// Which one.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The private key belongs to another certificate.
    #[error("{}: this is not the private key of the certificate in {}", key.display(), certificate.display())]
    KeyMismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The cryptography library refused its own defaults.
    #[error("cannot set TLS up: {0}")]
    Setup(String),
    /// A reload was asked of a listener that was started without TLS.
    #[error("the listener was started without TLS; a restart can turn it on")]
    NotTls,
}

/// Reads and checks certificates and keys, as a listener's start would.
///
/// # Errors
/// The first [`TlsError`].
pub fn check(options: &TlsOptions) -> Result<(), TlsError> {
    Tls::load(options).map(drop)
}

/// The TLS settings in use. Clones share them; a reload swaps them for all.
#[derive(Debug, Clone)]
pub(crate) struct TlsCell {
    current: Arc<ArcSwap<Tls>>,
}

impl TlsCell {
    pub(crate) fn load(options: &TlsOptions) -> Result<Self, TlsError> {
        Ok(Self { current: Arc::new(ArcSwap::from_pointee(Tls::load(options)?)) })
    }

    /// Replaces the settings for connections accepted from now on; on an error they stay.
    pub(crate) fn reload(&self, options: &TlsOptions) -> Result<(), TlsError> {
        self.current.store(Arc::new(Tls::load(options)?));
        Ok(())
    }

    pub(crate) fn current(&self) -> Arc<Tls> {
        self.current.load_full()
    }
}

/// What one handshake needs.
#[derive(Debug)]
pub(crate) struct Tls {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) handshake_timeout: Duration,
}

impl Tls {
    fn load(options: &TlsOptions) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certificates = Certificates::load(&options.certificates, &provider)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Setup(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(certificates));
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        Ok(Self { config: Arc::new(config), handshake_timeout: options.handshake_timeout })
    }
}

/// Certificates by the names inside them.
struct Certificates {
    /// Answers for names that no certificate has, and for clients that send none.
    default: Arc<CertifiedKey>,
    /// By lower-case name; a wildcard stands under its full text, `*.example.org`.
    by_name: BTreeMap<String, Arc<CertifiedKey>>,
}

impl Certificates {
    fn load(files: &[CertificateFiles], provider: &CryptoProvider) -> Result<Self, TlsError> {
        let mut default = None;
        let mut by_name = BTreeMap::new();
        for files in files {
            let certified = Arc::new(load_pair(files, provider)?);
            for name in dns_names(&certified, &files.certificate)? {
                by_name.entry(name).or_insert_with(|| Arc::clone(&certified));
            }
            default.get_or_insert(certified);
        }
        Ok(Self { default: default.ok_or(TlsError::NoCertificate)?, by_name })
    }

    /// An exact name goes before a wildcard, which stands for one label (RFC 6125 §6.4.3).
    fn choose(&self, name: &str) -> &Arc<CertifiedKey> {
        let name = name.to_ascii_lowercase();
        let wildcard = || self.by_name.get(&format!("*.{}", name.split_once('.')?.1));
        self.by_name.get(&name).or_else(wildcard).unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let chosen = hello.server_name().map_or(&self.default, |name| self.choose(name));
        Some(Arc::clone(chosen))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("names", &self.by_name.keys()).finish_non_exhaustive()
    }
}

fn load_pair(files: &CertificateFiles, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let chain = load_chain(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| pem_problem(&files.key, &error, "private key"))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            TlsError::KeyMismatch { certificate: files.certificate.clone(), key: files.key.clone() }
        }
        rustls::Error::InvalidCertificate(_) => {
            problem(&files.certificate, format!("not a usable certificate: {error}"))
        }
        error => problem(&files.key, format!("not a usable private key: {error}")),
    })
}

fn load_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let refuse = |error: pem::Error| pem_problem(file, &error, "certificate");
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(file).map_err(refuse)?.collect::<Result<_, _>>().map_err(refuse)?;
    if chain.is_empty() { Err(refuse(pem::Error::NoItemsFound)) } else { Ok(chain) }
}

/// The DNS names of a certificate, lower-case; none for one that only names addresses.
fn dns_names(certified: &CertifiedKey, file: &Path) -> Result<Vec<String>, TlsError> {
    let unusable = |error: &dyn fmt::Display| problem(file, format!("not a usable certificate: {error}"));
    let certificate = certified.end_entity_cert().map_err(|error| unusable(&error))?;
    let certificate = EndEntityCert::try_from(certificate).map_err(|error| unusable(&error))?;
    Ok(certificate.valid_dns_names().map(str::to_ascii_lowercase).collect())
}

fn problem(file: &Path, problem: String) -> TlsError {
    TlsError::File { file: file.to_owned(), problem }
}

/// Says what is wrong with a PEM file without quoting it: it may hold a private key.
fn pem_problem(file: &Path, error: &pem::Error, wanted: &str) -> TlsError {
    problem(
        file,
        match error {
            pem::Error::Io(error) => format!("cannot be read: {error}"),
            pem::Error::NoItemsFound => format!("holds no {wanted} in PEM form"),
            pem::Error::MissingSectionEnd { .. } => {
                "a PEM section has no end line; the file may be cut off".to_owned()
            }
            pem::Error::IllegalSectionStart { .. } => "a PEM section begins with a malformed line".to_owned(),
            pem::Error::Base64Decode(_) => "a PEM section is not base64".to_owned(),
            _ => format!("holds no readable {wanted}"),
        },
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Writes a self-signed certificate for `names` and its key to files of `dir`.
    pub(crate) fn certificate(dir: &Path, file: &str, names: &[&str]) -> CertificateFiles {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let files = CertificateFiles {
            certificate: dir.join(format!("{file}.pem")),
            key: dir.join(format!("{file}.key")),
        };
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        files
    }

    #[test]
    fn names_choose_the_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            certificate(dir.path(), "first", &["first.test"]),
            certificate(dir.path(), "wild", &["*.shop.test"]),
            certificate(dir.path(), "exact", &["a.shop.test", "First.Test"]),
        ];
        let chosen = Certificates::load(&files, &aws_lc_rs::default_provider()).unwrap();
        let der = |index: usize| load_chain(&files[index].certificate).unwrap();
        for (name, index) in [
            ("first.test", 0),
            ("FIRST.test", 0),
            ("a.shop.test", 2),
            ("b.shop.test", 1),
            ("b.c.shop.test", 0),
            ("shop.test", 0),
            ("unknown.test", 0),
        ] {
            assert_eq!(chosen.choose(name).cert, der(index), "{name}");
        }
    }

    #[test]
    fn bad_files_are_named_with_the_reason_and_not_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let good = certificate(dir.path(), "good", &["good.test"]);
        let other = certificate(dir.path(), "other", &["other.test"]);
        let with = |certificate: &Path, key: &Path| {
            let files = CertificateFiles { certificate: certificate.to_owned(), key: key.to_owned() };
            check(&TlsOptions::new(vec![files])).map_err(|error| error.to_string())
        };
        assert_eq!(with(&good.certificate, &good.key), Ok(()));

        let missing = dir.path().join("missing");
        assert_eq!(
            with(&missing, &good.key).unwrap_err(),
            format!("{}: cannot be read: No such file or directory (os error 2)", missing.display())
        );
        assert_eq!(
            with(&good.certificate, &other.key).unwrap_err(),
            format!(
                "{}: this is not the private key of the certificate in {}",
                other.key.display(),
                good.certificate.display()
            )
        );
        assert_eq!(
            with(&good.key, &good.key).unwrap_err(),
            format!("{}: holds no certificate in PEM form", good.key.display())
        );
        assert_eq!(
            with(&good.certificate, &good.certificate).unwrap_err(),
            format!("{}: holds no private key in PEM form", good.certificate.display())
        );

        let text = std::fs::read_to_string(&good.key).unwrap();
        let cut = dir.path().join("cut.key");
        std::fs::write(&cut, &text[..text.len() / 2]).unwrap();
        let error = with(&good.certificate, &cut).unwrap_err();
        assert_eq!(
            error,
            format!("{}: a PEM section has no end line; the file may be cut off", cut.display())
        );
        assert_eq!(check(&TlsOptions::new(Vec::new())), Err(TlsError::NoCertificate));
    }

    #[test]
    fn a_failed_reload_keeps_the_certificates_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let options = TlsOptions::new(vec![certificate(dir.path(), "one", &["one.test"])]);
        let cell = TlsCell::load(&options).unwrap();
        let before = cell.current();
        cell.reload(&TlsOptions::new(Vec::new())).unwrap_err();
        assert!(Arc::ptr_eq(&before, &cell.current()));
        cell.reload(&options).unwrap();
        assert!(!Arc::ptr_eq(&before, &cell.current()));
    }
}
