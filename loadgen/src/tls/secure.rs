//! `Secure`: a socket with a TLS session above it.
//!
//! One read takes what the socket has, decrypts every record that is there whole, and leaves none
//! behind: so an event of the socket tells of everything that can be read. What is written is
//! encrypted at once and offered to the socket; what that does not take waits in rustls, up to
//! [`UNSENT_BYTES_MAX`], and nothing more is encrypted meanwhile.

use std::{
    io::{self, ErrorKind, IoSlice, Read, Write},
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, pki_types::ServerName,
};

use super::{
    Input,
    cost::Meter,
    reason::{self, Moment},
    sessions::Sessions,
};
use crate::net::stream::Stream;

/// What rustls keeps of the output at most: four records, which the socket takes in one call.
const UNSENT_BYTES_MAX: usize = 64 << 10;

/// An encrypted connection.
#[derive(Debug)]
pub(crate) struct Secure {
    socket: Stream,
    session: ClientConnection,
    /// Whether the server has sent anything, and whether it has since the handshake.
    has_answered: bool,
    has_spoken: bool,
    /// Present once nothing more can be read.
    end: Option<End>,
}

/// Why nothing more can be read.
#[derive(Clone, Debug)]
enum End {
    /// The server has said so.
    Said,
    Broken(rustls::Error),
}

/// How a handshake went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handshake {
    pub(crate) is_resumed: bool,
    pub(crate) session: TlsSession,
}

/// What both sides agreed on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TlsSession {
    /// The version: `TLS 1.3` or `TLS 1.2`.
    pub version: &'static str,
    /// The cipher suite, by its name in the standard.
    pub cipher_suite: &'static str,
}

/// Encrypts what is written.
pub(crate) struct Encrypting<'a> {
    secure: &'a mut Secure,
    meter: &'a mut Meter,
}

impl Secure {
    pub(super) fn new(
        socket: Stream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let mut session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        session.set_buffer_limit(Some(UNSENT_BYTES_MAX));
        Ok(Self { socket, session, has_answered: false, has_spoken: false, end: None })
    }

    /// The socket below.
    pub(crate) fn socket(&self) -> &Stream {
        &self.socket
    }

    /// Goes on with the handshake. Returns how it went once it is complete.
    pub(crate) fn shake(&mut self, sessions: &mut Sessions) -> io::Result<Option<Handshake>> {
        loop {
            self.flush().map_err(|error| self.in_words(error, sessions))?;
            if !self.session.is_handshaking() {
                sessions.meter.count_handshake();
                return Ok(Some(self.handshake()));
            }
            let Sessions { input, meter, .. } = sessions;
            match (&self.socket).read(input) {
                Ok(0) => return Err(self.in_words(ErrorKind::UnexpectedEof.into(), sessions)),
                Ok(len) => {
                    self.has_answered = true;
                    meter.of_handshake(|| self.decrypt(&input[..len], &mut []));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.in_words(error, sessions)),
            }
            if self.end.is_some() {
                return Err(self
                    .take_end(sessions)
                    .unwrap_or_else(|| self.in_words(ErrorKind::UnexpectedEof.into(), sessions)));
            }
        }
    }

    /// Whether the server may still refuse the client: in TLS 1.3 it judges a certificate, or that
    /// there is none, after the handshake.
    pub(crate) fn may_be_refused(&self, sessions: &Sessions) -> bool {
        !self.has_spoken
            && self.session.protocol_version() == Some(ProtocolVersion::TLSv1_3)
            && sessions.was_asked()
    }

    /// Whether the server has sent nothing since the handshake: an error now is part of it.
    pub(crate) fn is_unproven(&self) -> bool {
        !self.has_spoken
    }

    /// Reads what there is. `bytes` has room for [`PLAIN_BYTES_MAX`](super::PLAIN_BYTES_MAX).
    // A call of its own: what plain connections pass by stays short.
    #[inline(never)]
    pub(crate) fn read(&mut self, bytes: &mut [u8], sessions: &mut Sessions) -> io::Result<Input> {
        self.read_some(bytes, usize::MAX, sessions)
    }

    /// The same, but takes no more than so many encrypted bytes from the socket.
    pub(crate) fn read_some(
        &mut self,
        bytes: &mut [u8],
        encrypted_max: usize,
        sessions: &mut Sessions,
    ) -> io::Result<Input> {
        if self.end.is_some() {
            return match self.take_end(sessions) {
                Some(error) => Err(error),
                None => Ok(Input { len: 0, is_drained: true, is_end: true }),
            };
        }
        let Sessions { input, meter, .. } = sessions;
        let room = input.len().min(encrypted_max);
        let arrived = (&self.socket).read(&mut input[..room])?;
        if arrived == 0 {
            return Err(self.in_words(ErrorKind::UnexpectedEof.into(), sessions));
        }
        let len = meter.of_records(|| self.decrypt(&input[..arrived], bytes));
        self.has_spoken |= self.end.is_none();
        if self.end.is_none() {
            // Keys that are changed ask for an answer.
            self.flush()?;
        }
        Ok(Input { len, is_drained: arrived < room && self.end.is_none(), is_end: false })
    }

    /// Decrypts everything that arrived. What comes before the end is handed on first.
    fn decrypt(&mut self, mut input: &[u8], bytes: &mut [u8]) -> usize {
        let mut len = 0;
        while !input.is_empty() && self.end.is_none() {
            let taken = self.session.read_tls(&mut input);
            match self.session.process_new_packets() {
                Ok(state) if state.peer_has_closed() => self.end = Some(End::Said),
                Ok(_) if !matches!(taken, Ok(1..)) => {
                    self.end = Some(End::Broken(too_long_a_message()))
                }
                Ok(_) => {}
                Err(error) => self.end = Some(End::Broken(error)),
            }
            len += self.session.reader().read(&mut bytes[len..]).unwrap_or_default();
        }
        len
    }

    /// Offers the socket what it has not taken. Returns whether nothing is left.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut &self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Whether there is something that the socket has not taken.
    pub(crate) fn has_unsent(&self) -> bool {
        self.session.wants_write()
    }

    pub(crate) fn encrypting<'a>(&'a mut self, sessions: &'a mut Sessions) -> Encrypting<'a> {
        Encrypting { secure: self, meter: &mut sessions.meter }
    }

    /// Closes it in a way that the peer sees as a reset.
    pub(crate) fn reset(mut self) {
        self.end = Some(End::Said);
        self.socket.forget_unsent();
    }

    fn handshake(&self) -> Handshake {
        let suite = self.session.negotiated_cipher_suite();
        let session = TlsSession {
            version: match self.session.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
                _ => "TLS 1.3",
            },
            cipher_suite: suite.and_then(|suite| suite.suite().as_str()).unwrap_or("unknown"),
        };
        let is_resumed = self.session.handshake_kind() == Some(HandshakeKind::Resumed);
        Handshake { is_resumed, session }
    }

    /// Why nothing more can be read, if that is an error. It is told once.
    fn take_end(&mut self, sessions: &Sessions) -> Option<io::Error> {
        match self.end.replace(End::Said) {
            Some(End::Broken(error)) => {
                // The server is told why.
                let _ = self.flush();
                let moment = self.moment();
                Some(io::Error::other(reason::of_session(&error, moment, sessions)))
            }
            Some(End::Said) | None => None,
        }
    }

    fn in_words(&self, error: io::Error, sessions: &Sessions) -> io::Error {
        let words = reason::of_socket(&error, self.moment(), sessions);
        io::Error::new(error.kind(), words)
    }

    fn moment(&self) -> Moment {
        match (self.session.is_handshaking(), self.has_answered, self.has_spoken) {
            (true, false, _) => Moment::Hello,
            (true, true, _) if self.session.protocol_version().is_none() => Moment::Hello,
            (true, true, _) => Moment::Handshake,
            (false, _, false) => Moment::Unproven,
            (false, _, true) => Moment::Open,
        }
    }

    /// What the handshake waits for when it takes too long.
    pub(crate) fn lateness(&self, sessions: &Sessions) -> io::Error {
        self.in_words(ErrorKind::TimedOut.into(), sessions)
    }
}

impl Drop for Secure {
    /// Says goodbye, as far as the socket takes it.
    fn drop(&mut self) {
        if self.end.is_none() && !self.session.is_handshaking() {
            self.session.send_close_notify();
            let _ = self.flush();
        }
    }
}

impl Encrypting<'_> {
    fn encrypt(
        &mut self,
        encrypt: impl FnOnce(&mut rustls::Writer<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if !self.secure.flush()? {
            return Err(ErrorKind::WouldBlock.into());
        }
        let session = &mut self.secure.session;
        let taken = self.meter.of_records(|| encrypt(&mut session.writer()))?;
        self.secure.flush()?;
        Ok(taken)
    }
}

impl Write for Encrypting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.encrypt(|writer| writer.write(bytes))
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.encrypt(|writer| writer.write_vectored(slices))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.secure.flush().map(drop)
    }
}

/// rustls keeps 64 KiB of a handshake message and one record of anything else.
fn too_long_a_message() -> rustls::Error {
    rustls::Error::General("a message of the server is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, sync::mpsc, thread, time::Duration};

    use mio::{Events, Poll, Token};
    use rustls::ServerConnection;

    use super::*;
    use crate::{
        net::{address::Address, stream::Endpoint},
        tls::{Channel, Prepared, Tls, TlsOptions, price},
    };

    /// Shakes hands with a client, says so, and reads nothing until the channel closes.
    fn serve_without_reading(listener: &UnixListener, read: &mpsc::Receiver<()>) -> usize {
        let (mut socket, _) = listener.accept().unwrap();
        let (config, _) = price::sides().unwrap();
        let mut session = ServerConnection::new(config).unwrap();
        session.complete_io(&mut socket).unwrap();
        read.recv().unwrap_err();
        let mut stream = rustls::StreamOwned::new(session, socket);
        io::copy(&mut stream, &mut io::sink()).unwrap().try_into().unwrap()
    }

    #[test]
    fn what_the_socket_does_not_take_is_left_to_the_caller() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let (go, read) = mpsc::channel();
        let server = thread::spawn(move || serve_without_reading(&listener, &read));
        let (name, accepts_any_certificate) = (Some("localhost".to_owned()), true);
        let options = TlsOptions { name, accepts_any_certificate, ..TlsOptions::default() };
        let tls = Tls::new(options).unwrap();
        let mut sessions = Sessions::new(Some(&tls), &Address::Unix { path: path.clone() });
        let mut poll = Poll::new().unwrap();
        let wait = |poll: &mut Poll| {
            poll.poll(&mut Events::with_capacity(4), Some(Duration::from_millis(10))).unwrap();
        };
        let socket = Stream::connect(&Endpoint::Unix(path), poll.registry(), Token(0)).unwrap();
        let mut channel = sessions.begin(socket, 0).unwrap();
        while matches!(channel.prepare(&mut sessions).unwrap(), Prepared::NotYet) {
            wait(&mut poll);
        }
        let Channel::Secure(mut secure) = channel else {
            unreachable!("there is TLS");
        };
        // More than a socket of this kind takes.
        let bytes = vec![7; 16 << 20];
        let mut taken = 0;
        let blocked = loop {
            match secure.encrypting(&mut sessions).write(&bytes[taken..]) {
                Ok(len) => {
                    assert!((1..=UNSENT_BYTES_MAX).contains(&len), "{len} bytes at once");
                    taken += len;
                }
                Err(error) => break error,
            }
        };
        assert_eq!(blocked.kind(), ErrorKind::WouldBlock);
        assert!(taken < bytes.len() && secure.has_unsent());
        drop(go);
        // Nothing of what was taken is lost.
        while !secure.flush().unwrap() {
            wait(&mut poll);
        }
        drop(secure);
        assert_eq!(server.join().unwrap(), taken);
    }
}
