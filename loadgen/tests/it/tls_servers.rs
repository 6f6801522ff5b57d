//! Small servers that speak TLS, and certificates for them that nobody else trusts.

use std::{
    fs, io,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use tempfile::TempDir;

use crate::servers;

/// Both versions that there are.
pub(crate) const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A connection on the side of a server.
pub(crate) type Accepted = StreamOwned<ServerConnection, TcpStream>;

/// So many were made: each has a name of its own.
static AUTHORITIES: AtomicU32 = AtomicU32::new(0);

/// Who vouches for servers and clients. The files lie in a folder of its own.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one, with the certificates `server` and `client`.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let number = AUTHORITIES.fetch_add(1, Ordering::Relaxed);
        params.distinguished_name.push(DnType::CommonName, format!("authority {number}"));
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let authority = Self { folder, issuer: Issuer::new(params, key) };
        authority.vouch_for("server", ["localhost", "127.0.0.1"], [1975, 4096]);
        authority.vouch_for("client", ["client"], [1975, 4096]);
        authority
    }

    /// Writes NAME.pem and NAME-key.pem, for these hosts, valid from one year until another.
    pub(crate) fn vouch_for<const N: usize>(
        &self,
        name: &str,
        hosts: [&str; N],
        [from, until]: [i32; 2],
    ) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(hosts.map(str::to_owned)).unwrap();
        (params.not_before, params.not_after) =
            (date_time_ymd(from, 5, 17), date_time_ymd(until, 5, 17));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(self.path(&format!("{name}-key.pem")), key.serialize_pem()).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The flags of a client that trusts this authority.
    pub(crate) fn flags(&self) -> String {
        format!("--tls --tls-ca {}", self.path("ca.pem").display())
    }

    /// The flags with which a client shows one of the certificates.
    pub(crate) fn shows(&self, name: &str) -> String {
        let [certificate, key] = [".pem", "-key.pem"].map(|end| self.path(&format!("{name}{end}")));
        format!("--tls-cert {} --tls-key {}", certificate.display(), key.display())
    }

    /// A server that shows one of the certificates.
    pub(crate) fn server(&self, name: &str) -> ServerConfig {
        self.server_of(name, &VERSIONS, None)
    }

    /// The same, with these versions, which lets in whom that authority vouches for.
    pub(crate) fn server_of(
        &self,
        name: &str,
        versions: &[&'static SupportedProtocolVersion],
        clients_of: Option<&Self>,
    ) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let read = |path: PathBuf| CertificateDer::from_pem_file(path).unwrap();
        let clients = match clients_of {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(read(authority.path("ca.pem"))).unwrap();
                let provider = Arc::clone(&provider);
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap()
            }
        };
        let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}-key.pem"))).unwrap();
        ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![read(self.path(&format!("{name}.pem")))], key)
            .unwrap()
    }
}

/// Serves encrypted connections with `serve`, which is given their number.
pub(crate) fn start<S>(config: ServerConfig, serve: S) -> SocketAddr
where
    S: Fn(usize, Accepted) -> io::Result<()> + Send + Sync + 'static,
{
    let config = Arc::new(config);
    servers::start(move |number, stream| {
        let session = ServerConnection::new(Arc::clone(&config)).unwrap();
        serve(number, StreamOwned::new(session, stream))
    })
}

/// Sends back every byte.
pub(crate) fn echo(mut stream: impl Read + Write) -> io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            len => stream.write_all(&bytes[..len])?,
        }
    }
}

/// Reads one frame, header included.
pub(crate) fn read_frame(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut header = [0; 4];
    stream.read_exact(&mut header)?;
    let mut frame = vec![0; 4 + u32::from_be_bytes(header) as usize];
    frame[..4].copy_from_slice(&header);
    stream.read_exact(&mut frame[4..])?;
    Ok(frame)
}
