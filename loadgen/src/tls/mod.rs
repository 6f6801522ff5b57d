//! `Tls`: how connections are encrypted, and who the server must be.
//!
//! Everything that encrypts is rustls, with the provider and the versions that `arena-echo` has.
//!
//! ```text
//! options ---> Tls ---> Sessions ---> Channel
//! files, read  what all  what one      one connection, encrypted or not
//! and checked  share     thread has
//! ```

mod channel;
mod cost;
mod price;
mod reason;
mod secure;
mod sessions;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{self, CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};

use crate::{
    net::address::Address,
    plan::{PlanError, Problem},
};

pub use self::secure::TlsSession;
pub(crate) use self::{
    channel::{Channel, Input, Prepared},
    cost::Cost,
    price::Price,
    secure::{Handshake, Secure},
    sessions::{PLAIN_BYTES_MAX, Sessions},
};

const CA: &str = "--tls-ca";
const CERT: &str = "--tls-cert";
const KEY: &str = "--tls-key";
pub(crate) const NAME: &str = "--tls-name";

/// What the server is asked to prove, and what it is shown. By default it must have a certificate
/// for the host of the target, from an authority that this system trusts.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TlsOptions {
    /// A PEM file with the certificates of the authorities that are trusted instead of the
    /// system's.
    pub authorities: Option<PathBuf>,
    /// A PEM file with the certificate of the generator, and behind it those that vouch for it.
    pub certificates: Option<PathBuf>,
    /// A PEM file with its private key.
    pub key: Option<PathBuf>,
    /// The name or IP address that the server's certificate must be for, instead of the target's.
    pub name: Option<String>,
    /// Whether the server may have any certificate.
    pub accepts_any_certificate: bool,
    /// Whether connections never resume the session of the one before.
    pub never_resumes: bool,
}

/// TLS with options whose files have been read.
#[derive(Clone, Debug)]
pub struct Tls {
    options: TlsOptions,
    config: ClientConfig,
    /// What the server is shown if it asks for a certificate.
    identity: Option<Arc<CertifiedKey>>,
}

impl Tls {
    /// Reads the files and checks that they belong together.
    ///
    /// TLS 1.3 and 1.2, with the cipher suites of rustls, and without ALPN.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the options, each named by its flag.
    pub fn new(options: TlsOptions) -> Result<Self, PlanError> {
        let provider = Arc::new(ring::default_provider());
        let mut problems = Vec::new();
        let mut note = |flag, reason| problems.push(Problem { flag, reason });
        if let Some(name) = &options.name
            && let Err(reason) = server_name(name)
        {
            note(NAME, reason);
        }
        let identity = match (&options.certificates, &options.key) {
            (Some(certificates), Some(key)) => identity(certificates, key, &provider)
                .map_err(|(flag, reason)| note(flag, reason))
                .ok(),
            (Some(_), None) => {
                note(KEY, format!("is missing; {CERT} needs the private key of its certificate"));
                None
            }
            (None, Some(_)) => {
                note(CERT, format!("is missing; {KEY} is the key of a certificate"));
                None
            }
            (None, None) => None,
        };
        let verifier = verifier(&options, &provider);
        let verifier = verifier.map_err(|(flag, reason)| note(flag, reason)).ok();
        let (Some(verifier), true) = (verifier, problems.is_empty()) else {
            return Err(PlanError { problems });
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for them");
        let config = match verifier {
            Verifier::Authorities(authorities) => config.with_root_certificates(authorities),
            Verifier::Anybody(anybody) => {
                config.dangerous().with_custom_certificate_verifier(Arc::new(anybody))
            }
        };
        Ok(Self { options, config: config.with_no_client_auth(), identity })
    }

    /// Returns what was asked for.
    #[must_use]
    pub fn options(&self) -> &TlsOptions {
        &self.options
    }

    /// The name that the certificate of a server at this address must be for.
    ///
    /// # Errors
    ///
    /// What is wrong with [`NAME`]: a sentence without subject.
    pub(crate) fn name_of(&self, target: &Address) -> Result<ServerName<'static>, String> {
        match (&self.options.name, target) {
            (Some(name), _) => server_name(name),
            (None, Address::Tcp { host, .. }) => server_name(host).map_err(|_| {
                format!("is missing, and `{host}` is no name that a certificate could be for")
            }),
            (None, Address::Unix { .. }) => Err(
                "is missing; a Unix socket has no name: say which one the server's certificate is \
                 for"
                .to_owned(),
            ),
        }
    }
}

enum Verifier {
    Authorities(RootCertStore),
    Anybody(Anybody),
}

/// Reads a name or an IP address. The error is a sentence without subject.
fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    // Certificates know no zones of IPv6 addresses.
    let text = text.split('%').next().unwrap_or_default();
    ServerName::try_from(text.to_owned())
        .map_err(|_| format!("is `{text}`; it must be a DNS name or an IP address"))
}

fn identity(
    certificates: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, (&'static str, String)> {
    let chain = read_certificates(certificates).map_err(|reason| (CERT, reason))?;
    let private_key = read_key(key).map_err(|reason| (KEY, reason))?;
    let certified = CertifiedKey::from_der(chain, private_key, provider);
    certified.map(Arc::new).map_err(|error| {
        let (key, certificates) = (key.display(), certificates.display());
        match error {
            rustls::Error::InconsistentKeys(_) => {
                (KEY, format!("{key} is not the key of the first certificate in {certificates}"))
            }
            rustls::Error::InvalidCertificate(error) => (
                CERT,
                format!("{certificates} begins with a certificate that cannot be used: {error}"),
            ),
            _ => (KEY, format!("{key} is no key that can be used; make one of these: {KEYS}")),
        }
    })
}

/// The private keys with which rustls and ring sign.
const KEYS: &str = "ECDSA on P-256 or P-384, Ed25519, or RSA of 2048 to 4096 bits";

fn verifier(
    options: &TlsOptions,
    provider: &CryptoProvider,
) -> Result<Verifier, (&'static str, String)> {
    let mut authorities = RootCertStore::empty();
    match &options.authorities {
        Some(_) if options.accepts_any_certificate => Err((
            CA,
            "has no meaning with --tls-insecure, which trusts anybody; leave out one".to_owned(),
        )),
        None if options.accepts_any_certificate => {
            Ok(Verifier::Anybody(Anybody { provider: provider.clone() }))
        }
        Some(path) => {
            let name = path.display();
            for certificate in read_certificates(path).map_err(|reason| (CA, reason))? {
                authorities.add(certificate).map_err(|error| {
                    (CA, format!("{name} holds a certificate that cannot be used: {error}"))
                })?;
            }
            Ok(Verifier::Authorities(authorities))
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            // Systems have some that are older than the standard.
            authorities.add_parsable_certificates(found.certs);
            match authorities.is_empty() {
                false => Ok(Verifier::Authorities(authorities)),
                true => Err((
                    CA,
                    "is missing, and this system trusts no authority (package ca-certificates); \
                     name a PEM file with that of the server"
                        .to_owned(),
                )),
            }
        }
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(none) if none.is_empty() => {
            Err(describe(path, &pem::Error::NoItemsFound, "certificate"))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(describe(path, &error, "certificate")),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let wanted = "private key";
    let file = fs::read(path).map_err(|error| describe(path, &pem::Error::Io(error), wanted))?;
    let text = String::from_utf8_lossy(&file);
    match PrivateKeyDer::from_pem_slice(&file) {
        Err(_) if ENCRYPTED.iter().any(|line| text.contains(line)) => {
            let path = path.display();
            Err(format!(
                "{path} is encrypted, and nobody is asked for its passphrase; use what `openssl \
                 pkey -in {path}` writes"
            ))
        }
        read => read.map_err(|error| describe(path, &error, wanted)),
    }
}

/// Lines of a key that is encrypted: of PKCS #8, and of what was there before.
const ENCRYPTED: [&str; 2] = ["-----BEGIN ENCRYPTED PRIVATE KEY-----", "Proc-Type: 4,ENCRYPTED"];

/// Says why a file has nothing of what it should have: a sentence without subject.
fn describe(path: &Path, error: &pem::Error, wanted: &str) -> String {
    let path = path.display();
    match error {
        pem::Error::Io(error) => {
            format!("{path} cannot be read: {error}; name a PEM file with a {wanted}")
        }
        pem::Error::NoItemsFound => {
            format!("{path} holds no {wanted}; it must be PEM, with a line -----BEGIN ...-----")
        }
        error => format!("{path} is broken PEM: {error:?}; write it again"),
    }
}

/// Accepts every certificate. That the server has its key is checked all the same, so a handshake
/// costs what it costs otherwise.
#[derive(Debug)]
struct Anybody {
    provider: CryptoProvider,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
