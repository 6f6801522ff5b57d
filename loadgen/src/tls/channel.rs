//! `Channel`: an open connection, encrypted or not.

use std::io::{self, Read};

use super::{
    secure::{Handshake, Secure},
    sessions::Sessions,
};
use crate::net::stream::Stream;

/// What bytes go through.
#[derive(Debug)]
pub(crate) enum Channel {
    Plain(Stream),
    Secure(Box<Secure>),
}

/// What one read brought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input {
    /// How many bytes. An encrypted read may bring none and not be the end.
    pub(crate) len: usize,
    /// Whether an event will tell of more.
    pub(crate) is_drained: bool,
    pub(crate) is_end: bool,
}

/// How far a channel is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Prepared {
    NotYet,
    Open(Option<Handshake>),
}

impl Channel {
    /// The socket below.
    pub(crate) fn socket(&self) -> &Stream {
        match self {
            Self::Plain(stream) => stream,
            Self::Secure(secure) => secure.socket(),
        }
    }

    /// Goes on with what comes before the first request. Returns whether it is over, and how a
    /// handshake went if there was one.
    pub(crate) fn prepare(&mut self, sessions: &mut Sessions) -> io::Result<Prepared> {
        match self {
            Self::Plain(_) => Ok(Prepared::Open(None)),
            Self::Secure(secure) => Ok(match secure.shake(sessions)? {
                Some(handshake) => Prepared::Open(Some(handshake)),
                None => Prepared::NotYet,
            }),
        }
    }

    #[inline]
    pub(crate) fn read(&mut self, bytes: &mut [u8], sessions: &mut Sessions) -> io::Result<Input> {
        match self {
            Self::Plain(stream) => {
                let len = (&*stream).read(bytes)?;
                Ok(Input { len, is_drained: len < bytes.len(), is_end: len == 0 })
            }
            Self::Secure(secure) => secure.read(bytes, sessions),
        }
    }

    /// The same, but takes no more than so many bytes from the socket.
    pub(crate) fn read_some(
        &mut self,
        bytes: &mut [u8],
        taken_max: usize,
        sessions: &mut Sessions,
    ) -> io::Result<Input> {
        match self {
            Self::Plain(_) => self.read(&mut bytes[..taken_max], sessions),
            Self::Secure(secure) => secure.read_some(bytes, taken_max, sessions),
        }
    }

    /// Whether it has bytes of its own that the socket has not taken.
    #[inline]
    pub(crate) fn has_unsent(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Secure(secure) => secure.has_unsent(),
        }
    }

    /// Whether an error now is part of the handshake: the server has sent nothing since.
    pub(crate) fn is_unproven(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Secure(secure) => secure.is_unproven(),
        }
    }

    /// What a handshake waits for that takes too long.
    pub(crate) fn lateness(&self, sessions: &Sessions) -> io::Error {
        match self {
            Self::Plain(_) => io::ErrorKind::TimedOut.into(),
            Self::Secure(secure) => secure.lateness(sessions),
        }
    }

    /// Closes it in a way that the peer sees as a reset.
    pub(crate) fn reset(self) {
        match self {
            Self::Plain(stream) => stream.forget_unsent(),
            Self::Secure(secure) => secure.reset(),
        }
    }
}
