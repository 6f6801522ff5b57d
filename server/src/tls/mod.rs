//! `Tls`: who a server says it is on encrypted connections, and whom it lets in.
//!
//! Everything that encrypts is rustls. What is here reads its files, says what is wrong with them,
//! and lets a running server take others.

mod stream;

use std::{
    fmt, io,
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
    /// Everything that is wrong with the files. That a certificate has expired is for its readers
    /// to judge.
    pub fn new(files: &TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let mut problems = Vec::new();
        let mut note = |file: TlsFile, reason| {
            let path = file.of(files).to_owned();
            problems.push(TlsProblem { file, path, reason });
        };
        let certificates =
            certificates(&files.certificates).map_err(|reason| note(TlsFile::Certificates, reason));
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|error| note(TlsFile::Key, describe(&error, "private key")));
        let peers = match &files.client_authorities {
            None => Ok(WebPkiClientVerifier::no_client_auth()),
            Some(path) => {
                verifier(path, &provider).map_err(|reason| note(TlsFile::ClientAuthorities, reason))
            }
        };
        let (Ok(certificates), Ok(key), Ok(peers)) = (certificates, key, peers) else {
            return Err(TlsError(problems));
        };
        let valid_until = certificates.first().and_then(|first| valid_until(first, &provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for them")
            .with_client_cert_verifier(peers)
            .with_single_cert(certificates, key);
        match config {
            Ok(config) => Ok(Self::new_as(Identity { config: config.into(), valid_until })),
            Err(error) => {
                let (file, reason) = mismatch(&error, files);
                Err(TlsError(vec![TlsProblem { file, path: file.of(files).to_owned(), reason }]))
            }
        }
    }

    /// Takes a configuration that was made elsewhere: with another provider of ciphers, say, or
    /// with certificates for several names.
    pub fn from_config(config: Arc<ServerConfig>) -> Self {
        Self::new_as(Identity { config, valid_until: None })
    }

    fn new_as(identity: Identity) -> Self {
        Self { identity: Arc::new(ArcSwap::from_pointee(identity)) }
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

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(none) if none.is_empty() => Err(describe(&pem::Error::NoItemsFound, "certificate")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(describe(&error, "certificate")),
    }
}

/// Returns until when a certificate is valid.
///
/// That is asked of what clients verify servers with: at the end of all time it says since when the
/// certificate is not valid any more. It looks at that first, so it does not matter who vouches.
fn valid_until(
    certificate: &CertificateDer<'_>,
    provider: &Arc<CryptoProvider>,
) -> Option<SystemTime> {
    let mut authorities = RootCertStore::empty();
    authorities.add(certificate.clone().into_owned()).ok()?;
    let provider = Arc::clone(provider);
    let verifier =
        WebPkiServerVerifier::builder_with_provider(authorities.into(), provider).build().ok()?;
    let anybody = ServerName::try_from("localhost").ok()?;
    let end_of_time = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    match verifier.verify_server_cert(certificate, &[], &anybody, &[], end_of_time) {
        Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
            not_after,
            ..
        })) => SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(not_after.as_secs())),
        _ => None,
    }
}

fn verifier(
    path: &Path,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(path)? {
        authorities.add(certificate).map_err(|error| format!("holds no certificate: {error}"))?;
    }
    WebPkiClientVerifier::builder_with_provider(authorities.into(), Arc::clone(provider))
        .build()
        .map_err(|error| format!("cannot vouch for anybody: {error}"))
}

/// Says why a file has nothing of what it should have.
fn describe(error: &pem::Error, wanted: &str) -> String {
    match error {
        pem::Error::Io(error) => format!("cannot read this file: {error}"),
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
        error => (TlsFile::Key, format!("cannot be used: {error}")),
    }
}
