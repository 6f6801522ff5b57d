//! `Tls`: who a server says it is on encrypted connections, and whom it lets in.
//!
//! Everything that encrypts is rustls. What is here reads its files, says what is wrong with them,
//! and lets a running server take others.

mod stream;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio_rustls::rustls::{
    self, CertificateError, RootCertStore, ServerConfig,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

pub use self::stream::TlsStream;

/// What encrypted connections begin with.
///
/// A clone is another handle to the same: what [`replace`](Self::replace) brings, connections of
/// every listener that has one begin with.
///
/// # Examples
///
/// ```no_run
/// use arena_echo::{Listener, Tls, TlsFiles};
/// use tokio::net::TcpListener;
///
/// # async fn listen() -> Result<(), Box<dyn std::error::Error>> {
/// let tls = Tls::new(&TlsFiles {
///     certificates: "server.pem".into(),
///     key: "server-key.pem".into(),
///     client_authorities: None,
/// })?;
/// let listener = Listener::from(TcpListener::bind("127.0.0.1:9443").await?).tls(Some(tls));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Tls {
    identity: Arc<ArcSwap<Identity>>,
}

/// Who the server says it is, until the files are read again.
#[derive(Clone, Debug)]
struct Identity {
    config: Arc<ServerConfig>,
    /// Since when its certificate is valid, if that is known.
    valid_from: Option<SystemTime>,
    /// Until when its certificate is valid, if that is known.
    valid_until: Option<SystemTime>,
}

/// Where certificates and keys lie, all of them as PEM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsFiles {
    /// The certificate of the server, and behind it those that vouch for it.
    pub certificates: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The certificates of authorities. If there are any, every peer must show a certificate for
    /// which one of them vouches.
    pub client_authorities: Option<PathBuf>,
}

/// Why connections cannot be encrypted with some files: everything that is wrong.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}", .0.iter().map(TlsProblem::to_string).collect::<Vec<_>>().join("; "))]
pub struct TlsError(Vec<TlsProblem>);

/// What is wrong with a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsProblem {
    file: TlsFile,
    path: PathBuf,
    reason: String,
}

/// A file of [`TlsFiles`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TlsFile {
    /// [`TlsFiles::certificates`].
    Certificates,
    /// [`TlsFiles::key`].
    Key,
    /// [`TlsFiles::client_authorities`].
    ClientAuthorities,
}

impl Tls {
    /// Reads the files and checks that they belong together.
    ///
    /// TLS 1.3 and 1.2, with the cipher suites of rustls.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the files. That a certificate has expired or is not valid yet
    /// is for its readers to judge.
    pub fn new(files: &TlsFiles) -> Result<Self, TlsError> {
        Self::read_by(files, |path| fs::read(path))
    }

    /// The same, with what reads a file: for files that `read` fetches from elsewhere, refuses, or
    /// does not wait for.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the files, errors of `read` included.
    pub fn read_by(
        files: &TlsFiles,
        read: impl Fn(&Path) -> io::Result<Vec<u8>>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let mut problems = Vec::new();
        let mut note = |file: TlsFile, reason| {
            let path = file.of(files).to_owned();
            problems.push(TlsProblem { file, path, reason });
        };
        let read =
            |path: &Path| read(path).map_err(|error| format!("cannot read this file: {error}"));
        let certificates = read(&files.certificates).and_then(|pem| certificates(&pem));
        let certificates = certificates.map_err(|reason| note(TlsFile::Certificates, reason));
        let key = read(&files.key).and_then(|pem| private_key(&pem, &files.key));
        let key = key.map_err(|reason| note(TlsFile::Key, reason));
        let peers = match &files.client_authorities {
            None => Ok(WebPkiClientVerifier::no_client_auth()),
            Some(path) => read(path)
                .and_then(|pem| verifier(&pem, &provider))
                .map_err(|reason| note(TlsFile::ClientAuthorities, reason)),
        };
        let (Ok(certificates), Ok(key), Ok(peers)) = (certificates, key, peers) else {
            return Err(TlsError(problems));
        };
        let validity = certificates.first().map(|first| validity(first, &provider));
        let (valid_from, valid_until) = validity.unwrap_or_default();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for them")
            .with_client_cert_verifier(peers)
            .with_single_cert(certificates, key);
        match config {
            Ok(config) => {
                Ok(Self::new_as(Identity { config: config.into(), valid_from, valid_until }))
            }
            Err(error) => {
                let (file, reason) = mismatch(&error, files);
                Err(TlsError(vec![TlsProblem { file, path: file.of(files).to_owned(), reason }]))
            }
        }
    }

    /// Takes a configuration that was made elsewhere: with another provider of ciphers, say, or
    /// with certificates for several names.
    pub fn from_config(config: Arc<ServerConfig>) -> Self {
        Self::new_as(Identity { config, valid_from: None, valid_until: None })
    }

    fn new_as(identity: Identity) -> Self {
        Self { identity: Arc::new(ArcSwap::from_pointee(identity)) }
    }

    /// Returns since when the certificate of the server is valid, or will be. `None` if that is not
    /// known: for a configuration that was made elsewhere.
    pub fn valid_from(&self) -> Option<SystemTime> {
        self.identity.load().valid_from
    }

    /// Returns until when the certificate of the server is valid, that is its own and not those
    /// that vouch for it. `None` if that is not known: for a configuration that was made elsewhere.
    pub fn valid_until(&self) -> Option<SystemTime> {
        self.identity.load().valid_until
    }

    /// Has connections that are accepted from now on begin with what `other` has now. Those that
    /// exist stay as they are.
    pub fn replace(&self, other: &Self) {
        self.identity.store(other.identity.load_full());
    }

    /// Begins an encrypted connection. Nothing is read or written yet.
    pub(crate) fn accept(&self, socket: TcpStream) -> TlsStream {
        TlsStream::new(socket, Arc::clone(&self.identity.load().config))
    }
}

impl TlsError {
    /// Returns everything that is wrong.
    pub fn problems(&self) -> &[TlsProblem] {
        &self.0
    }
}

impl TlsProblem {
    /// Returns the file that has to change.
    pub fn file(&self) -> TlsFile {
        self.file
    }

    /// Returns what is wrong with it, and what to do.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for TlsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

impl TlsFile {
    fn of(self, files: &TlsFiles) -> &Path {
        match self {
            Self::Certificates => &files.certificates,
            Self::Key => &files.key,
            // There is no problem with what is not there.
            Self::ClientAuthorities => files.client_authorities.as_deref().unwrap_or(Path::new("")),
        }
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(none) if none.is_empty() => Err(describe(&pem::Error::NoItemsFound, "certificate")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(describe(&error, "certificate")),
    }
}

/// Reads the private key of the server, which lies at `path`.
fn private_key(pem: &[u8], path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let text = String::from_utf8_lossy(pem);
    match PrivateKeyDer::from_pem_slice(pem) {
        Err(_) if ENCRYPTED.iter().any(|line| text.contains(line)) => {
            let path = path.display();
            Err(format!(
                "is encrypted, and nobody is asked for its passphrase; decrypt it by `openssl pkey \
                 -in {path} -out {path}.plain`, and use that file"
            ))
        }
        read => read.map_err(|error| describe(&error, "private key")),
    }
}

/// Lines of a key that is encrypted: of PKCS #8, and of what was there before.
const ENCRYPTED: [&str; 2] = ["-----BEGIN ENCRYPTED PRIVATE KEY-----", "Proc-Type: 4,ENCRYPTED"];

/// Returns since when and until when a certificate is valid.
///
/// That is asked of what clients verify servers with: at the beginning of time it says from when
/// the certificate is valid, and at the end since when it is not any more. It looks at that first,
/// so it does not matter who vouches.
fn validity(
    certificate: &CertificateDer<'_>,
    provider: &Arc<CryptoProvider>,
) -> (Option<SystemTime>, Option<SystemTime>) {
    let moment = |seconds| {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let end = match refusal(certificate, provider, time)? {
            CertificateError::NotValidYetContext { not_before, .. } => not_before,
            CertificateError::ExpiredContext { not_after, .. } => not_after,
            _ => return None,
        };
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(end.as_secs()))
    };
    (moment(0), moment(u64::MAX))
}

/// Says why a client would refuse a certificate at a time.
fn refusal(
    certificate: &CertificateDer<'_>,
    provider: &Arc<CryptoProvider>,
    time: UnixTime,
) -> Option<CertificateError> {
    let mut authorities = RootCertStore::empty();
    authorities.add(certificate.clone().into_owned()).ok()?;
    let provider = Arc::clone(provider);
    let verifier =
        WebPkiServerVerifier::builder_with_provider(authorities.into(), provider).build().ok()?;
    let anybody = ServerName::try_from("localhost").ok()?;
    match verifier.verify_server_cert(certificate, &[], &anybody, &[], time) {
        Err(rustls::Error::InvalidCertificate(error)) => Some(error),
        _ => None,
    }
}

fn verifier(
    pem: &[u8],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(pem)? {
        authorities.add(certificate).map_err(|error| format!("holds no certificate: {error}"))?;
    }
    WebPkiClientVerifier::builder_with_provider(authorities.into(), Arc::clone(provider))
        .build()
        .map_err(|error| format!("cannot vouch for anybody: {error}"))
}

/// Says why a file has nothing of what it should have.
fn describe(error: &pem::Error, wanted: &str) -> String {
    match error {
        pem::Error::NoItemsFound => {
            format!("holds no {wanted}; it must be PEM, with a line that begins with -----BEGIN")
        }
        error => format!("is broken PEM: {error:?}"),
    }
}

/// Whether an error of a stream is about encryption, and not about the socket below.
pub(crate) fn is_of_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

/// The private keys that rustls with ring signs with.
const KEYS: &str = "ECDSA on P-256 or P-384, Ed25519, or RSA of 2048 to 4096 bits";

/// Says which file has to change if certificate and key do not work together.
fn mismatch(error: &rustls::Error, files: &TlsFiles) -> (TlsFile, String) {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            let certificates = files.certificates.display();
            (TlsFile::Key, format!("is not the key of the first certificate in {certificates}"))
        }
        rustls::Error::InvalidCertificate(error) => {
            (TlsFile::Certificates, format!("its first certificate cannot be used: {error:?}"))
        }
        _ => (TlsFile::Key, format!("is no key that can be used; make one of these: {KEYS}")),
    }
}
