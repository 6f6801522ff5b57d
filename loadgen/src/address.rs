//! Where the server listens: the addresses that people write and servers announce.
//!
//! | Written           | Means                                                       |
//! |-------------------|-------------------------------------------------------------|
//! | `host:port`       | TCP; all addresses of the name are tried                    |
//! | `:port`           | TCP, this machine                                           |
//! | `[::1]:port`      | TCP over IPv6                                               |
//! | `unix:/path`      | a Unix socket                                               |
//!
//! A server that announces `0.0.0.0` or `[::]` listens everywhere; it is reached on the loopback
//! address.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    path::PathBuf,
    str::FromStr,
};

use thiserror::Error;

use crate::stream::Endpoint;

/// The address of a server.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Address {
    /// A TCP port.
    Tcp {
        /// A name or an IP address, without brackets.
        host: String,
        /// The port, never zero.
        port: u16,
    },
    /// A Unix socket.
    Unix {
        /// Its path.
        path: PathBuf,
    },
}

impl Address {
    /// Looks the address up.
    ///
    /// # Errors
    ///
    /// The error of the resolver, or [`io::ErrorKind::NotFound`] if the name has no address.
    pub(crate) fn resolve(&self) -> io::Result<Vec<Endpoint>> {
        let (host, port) = match self {
            Self::Unix { path } => return Ok(vec![Endpoint::Unix(path.clone())]),
            Self::Tcp { host, port } => (host.as_str(), *port),
        };
        let found = (host, port).to_socket_addrs()?.map(reachable);
        let found: Vec<Endpoint> = found.map(Endpoint::Tcp).collect();
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(found)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let malformed = || AddressError::Malformed(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            // What others take for an abstract socket, which the server does not have either.
            if path.starts_with('@') {
                return Err(AddressError::Abstract(path.to_owned()));
            }
            let path = PathBuf::from(path);
            return if path.as_os_str().is_empty() {
                Err(malformed())
            } else {
                Ok(Self::Unix { path })
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(malformed)?;
        let host = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
            Some(Some(host)) if host.parse::<Ipv6Addr>().is_ok() => host,
            Some(_) => return Err(malformed()),
            None if host.contains([':', ' ', '/']) => return Err(malformed()),
            None if host.is_empty() => "127.0.0.1",
            None => host,
        };
        match port.parse() {
            Ok(0) | Err(_) => Err(malformed()),
            Ok(port) => Ok(Self::Tcp { host: host.to_owned(), port }),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp { host: address.ip().to_string(), port: address.port() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { path } => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why a text is not the address of a server.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum AddressError {
    /// The text has another form.
    #[error(
        "`{0}` is not an address; write host:port, :port, [::1]:port (with a port of 1 to 65535) \
         or unix:/path"
    )]
    Malformed(String),
    /// The text names an abstract socket.
    #[error(
        "`unix:{0}` is an abstract socket, and those are not supported; write unix:/path, or \
         unix:./{0} for a file of that name"
    )]
    Abstract(String),
}

/// An address at which a server answers that listens at `address`.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn reads_as(text: &str, host: &str, port: u16) {
        assert_eq!(text.parse(), Ok(Address::Tcp { host: host.to_owned(), port }), "{text}");
    }

    #[test]
    fn the_three_forms_are_read() {
        reads_as("example.test:9000", "example.test", 9000);
        reads_as(":9000", "127.0.0.1", 9000);
        reads_as("[::1]:9000", "::1", 9000);
    }

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["127.0.0.1:1", "[::1]:65535", "localhost:80"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_malformed() {
        for text in
            ["", "host", "host:", "host:0", "host:65536", "::1:80", "[::1:80", "[x]:80", "a b:80"]
        {
            let error = text.parse::<Address>().unwrap_err();
            assert_eq!(error, AddressError::Malformed(text.to_owned()), "{text}");
        }
    }

    #[test]
    fn unix_sockets_are_named_by_their_path() {
        let address: Address = "unix:/run/echo".parse().unwrap();
        assert_eq!(address, Address::Unix { path: "/run/echo".into() });
        assert_eq!(address.to_string(), "unix:/run/echo");
        assert!("unix:".parse::<Address>().is_err());
        let refused = "unix:@echo".parse::<Address>();
        assert_eq!(refused, Err(AddressError::Abstract("@echo".to_owned())));
        assert!("unix:./@echo".parse::<Address>().is_ok());
    }

    #[test]
    fn a_server_that_listens_everywhere_is_reached_on_loopback() {
        for (everywhere, reached) in
            [("0.0.0.0:9000", "127.0.0.1:9000"), ("[::]:9000", "[::1]:9000")]
        {
            let everywhere: Address = everywhere.parse().unwrap();
            assert_eq!(everywhere.resolve().unwrap(), [Endpoint::Tcp(reached.parse().unwrap())]);
        }
    }
}
