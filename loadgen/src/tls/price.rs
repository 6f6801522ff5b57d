//! What TLS costs the generator on this machine, measured without a server's process or a network:
//! both sides are in memory, and only the client's is timed.

use std::{
    io::{self, Read, Write},
    sync::Arc,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConfig,
    ServerConnection, SideData,
    client::Resumption,
    crypto::ring,
    pki_types::{PrivatePkcs8KeyDer, ServerName},
};

use super::cost::timed;

/// How many handshakes and requests are timed.
const HANDSHAKES: u32 = 50;
const REQUESTS: u32 = 500;
const SMALL_BYTES: usize = 64;
/// As much as a record holds.
const LARGE_BYTES: usize = 16 << 10;
const HOST: &str = "localhost";

/// CPU time of one side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Price {
    /// A handshake with a certificate that an authority vouches for, on P-256.
    pub(crate) full: Duration,
    /// One that resumes a session.
    pub(crate) resumed: Duration,
    /// A request and its reply of 64 bytes.
    pub(crate) small: Duration,
    /// The same of 16 KiB.
    pub(crate) large: Duration,
}

impl Price {
    pub(crate) fn find() -> io::Result<Self> {
        let (server, mut client) = sides()?;
        client.resumption = Resumption::disabled();
        let full = handshakes(&Arc::new(client.clone()), &server)?;
        client.resumption = Resumption::in_memory_sessions(1);
        let client = Arc::new(client);
        // It brings what the others resume.
        Pair::shake(&client, &server)?;
        let resumed = handshakes(&client, &server)?;
        let (mut pair, _) = Pair::shake(&client, &server)?;
        Ok(Self {
            full,
            resumed,
            small: pair.requests(SMALL_BYTES)?,
            large: pair.requests(LARGE_BYTES)?,
        })
    }
}

/// Both ends of a connection that is memory.
struct Pair {
    client: ClientConnection,
    server: ServerConnection,
}

impl Pair {
    /// Connects, and returns what that took the client.
    fn shake(
        client: &Arc<ClientConfig>,
        server: &Arc<ServerConfig>,
    ) -> io::Result<(Self, Duration)> {
        let name = ServerName::try_from(HOST).expect("it is a name");
        let begin = || ClientConnection::new(Arc::clone(client), name);
        let (begun, mut spent) = timed(begin);
        let (client, server) = (begun.map_err(io::Error::other)?, Arc::clone(server));
        let server = ServerConnection::new(server).map_err(io::Error::other)?;
        let mut pair = Self { client, server };
        let mut wire = Vec::new();
        // A server goes on with tickets after its last word.
        while pair.client.wants_write() || pair.server.wants_write() {
            spent += timed_result(|| send(&mut pair.client, &mut wire))?;
            receive(&mut pair.server, &mut wire)?;
            send(&mut pair.server, &mut wire)?;
            spent += timed_result(|| receive(&mut pair.client, &mut wire))?;
        }
        Ok((pair, spent))
    }

    /// What a request of this size and its reply take the client.
    fn requests(&mut self, bytes: usize) -> io::Result<Duration> {
        let Self { client, server } = self;
        let mut payload = vec![7; bytes];
        let mut wire = Vec::new();
        let mut spent = Duration::ZERO;
        for _ in 0..REQUESTS {
            spent += timed_result(|| {
                client.writer().write_all(&payload)?;
                send(client, &mut wire)
            })?;
            receive(server, &mut wire)?;
            server.reader().read_exact(&mut payload)?;
            server.writer().write_all(&payload)?;
            send(server, &mut wire)?;
            spent += timed_result(|| {
                receive(client, &mut wire)?;
                client.reader().read_exact(&mut payload)
            })?;
        }
        Ok(spent / REQUESTS)
    }
}

/// What a handshake takes the client.
fn handshakes(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> io::Result<Duration> {
    let mut spent = Duration::ZERO;
    for _ in 0..HANDSHAKES {
        spent += Pair::shake(client, server)?.1;
    }
    Ok(spent / HANDSHAKES)
}

/// A server with a certificate of its own, and a client that trusts the authority of that.
pub(super) fn sides() -> io::Result<(Arc<ServerConfig>, ClientConfig)> {
    let provider = Arc::new(ring::default_provider());
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let own = authority.self_signed(&key).map_err(io::Error::other)?;
    let authority = Issuer::new(authority, key);
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let params = CertificateParams::new([HOST.to_owned()]).map_err(io::Error::other)?;
    let certificate = params.signed_by(&key, &authority).map_err(io::Error::other)?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .map_err(io::Error::other)?;
    let mut authorities = RootCertStore::empty();
    authorities.add(own.der().clone()).map_err(io::Error::other)?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(authorities)
        .with_no_client_auth();
    Ok((Arc::new(server), client))
}

fn timed_result(work: impl FnOnce() -> io::Result<()>) -> io::Result<Duration> {
    let (done, spent) = timed(work);
    done.map(|()| spent)
}

/// Puts on the wire what a side has to send.
fn send<D>(side: &mut ConnectionCommon<D>, wire: &mut Vec<u8>) -> io::Result<()> {
    while side.wants_write() {
        side.write_tls(wire)?;
    }
    Ok(())
}

/// Takes off the wire what is for a side.
fn receive<D: SideData>(side: &mut ConnectionCommon<D>, wire: &mut Vec<u8>) -> io::Result<()> {
    let mut arrived = wire.as_slice();
    while !arrived.is_empty() {
        side.read_tls(&mut arrived)?;
        side.process_new_packets().map_err(io::Error::other)?;
    }
    wire.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustls::HandshakeKind;

    use super::*;

    #[test]
    fn a_session_that_is_resumed_is_cheaper_and_a_large_payload_is_dearer() {
        let price = Price::find().unwrap();
        assert!(price.small > Duration::ZERO && price.small < price.large, "{price:?}");
        assert!(price.resumed < price.full, "{price:?}");
    }

    #[test]
    fn what_is_called_resumed_is() {
        let (server, client) = sides().unwrap();
        let client = Arc::new(client);
        let kinds =
            [(); 2].map(|()| Pair::shake(&client, &server).unwrap().0.client.handshake_kind());
        assert_eq!(kinds, [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]);
    }
}
