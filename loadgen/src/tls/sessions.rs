//! `Sessions`: what the connections of one thread begin with.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustls::{
    ClientConfig, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    pki_types::ServerName,
    sign::CertifiedKey,
};

use super::{
    Channel, Tls,
    cost::{Cost, Meter},
    secure::Secure,
};
use crate::net::{address::Address, stream::Stream};

/// How many bytes one read takes from a socket.
const INPUT_BYTES: usize = 224 << 10;
/// How many bytes one read may bring: those, and what was there of a record that began before.
pub(crate) const PLAIN_BYTES_MAX: usize = INPUT_BYTES + (32 << 10);

/// What encrypted connections of one thread begin with, and what they share. Without TLS it is
/// empty and does nothing.
#[derive(Default)]
pub(crate) struct Sessions {
    client: Option<Client>,
    /// What was just read from a socket.
    pub(super) input: Box<[u8]>,
    pub(super) meter: Meter,
}

struct Client {
    config: ClientConfig,
    name: ServerName<'static>,
    identity: Arc<Identity>,
    /// By the number of the connection: each is a client of its own, and resumes its own sessions.
    configs: Vec<Option<Arc<ClientConfig>>>,
    never_resumes: bool,
}

/// What a server is shown, and whether one has asked.
#[derive(Debug)]
struct Identity {
    certified: Option<Arc<CertifiedKey>>,
    was_asked_for: AtomicBool,
}

impl Sessions {
    /// For a server at this address, whose name has been checked.
    pub(crate) fn new(tls: Option<&Tls>, target: &Address) -> Self {
        let Some(tls) = tls else {
            return Self::default();
        };
        let certified = tls.identity.clone();
        let identity = Arc::new(Identity { certified, was_asked_for: AtomicBool::new(false) });
        let mut config = tls.config.clone();
        config.client_auth_cert_resolver = Arc::clone(&identity) as _;
        config.resumption = Resumption::disabled();
        let client = Client {
            config,
            name: tls.name_of(target).expect("a run begins with a name that is one"),
            identity,
            configs: Vec::new(),
            never_resumes: tls.options.never_resumes,
        };
        let input = vec![0; INPUT_BYTES].into_boxed_slice();
        Self { client: Some(client), input, meter: Meter::default() }
    }

    /// Makes a channel of a socket that is connected. If it is to be encrypted, nothing has been
    /// read or written yet.
    pub(crate) fn begin(&mut self, socket: Stream, connection: usize) -> io::Result<Channel> {
        let Some(client) = &mut self.client else {
            return Ok(Channel::Plain(socket));
        };
        let (config, name) = (client.config_of(connection), client.name.clone());
        let secure = self.meter.of_handshake(|| Secure::new(socket, config, name))?;
        Ok(Channel::Secure(Box::new(secure)))
    }

    /// What encryption has cost so far.
    pub(crate) fn cost(&self) -> Cost {
        self.meter.cost()
    }

    /// The name that the server's certificate must be for.
    pub(super) fn name(&self) -> String {
        self.client.as_ref().map(|client| client.name.to_str().into_owned()).unwrap_or_default()
    }

    /// Whether a server has asked for a certificate.
    pub(super) fn was_asked(&self) -> bool {
        let identity = self.client.as_ref().map(|client| &client.identity);
        // Relaxed: of this thread alone.
        identity.is_some_and(|identity| identity.was_asked_for.load(Ordering::Relaxed))
    }

    /// Whether there is a certificate to show.
    pub(super) fn has_certificate(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.identity.certified.is_some())
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl Client {
    fn config_of(&mut self, connection: usize) -> Arc<ClientConfig> {
        let index = if self.never_resumes { 0 } else { connection };
        if index >= self.configs.len() {
            self.configs.resize(index + 1, None);
        }
        let config = self.configs[index].get_or_insert_with(|| {
            let mut config = self.config.clone();
            if !self.never_resumes {
                // It holds the sessions of this many servers.
                config.resumption = Resumption::in_memory_sessions(1);
            }
            Arc::new(config)
        });
        Arc::clone(config)
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.was_asked_for.store(true, Ordering::Relaxed);
        self.certified.clone()
    }

    fn has_certs(&self) -> bool {
        self.certified.is_some()
    }
}
