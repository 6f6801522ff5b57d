//! Where the server listens: the addresses that people write and servers announce.
//!
//! | Written           | Means                                                       |
//! |-------------------|-------------------------------------------------------------|
//! | `host:port`       | TCP; all addresses of the name are tried                    |
//! | `:port`           | TCP, this machine                                           |
//! | `[::1]:port`      | TCP over IPv6; `[fe80::1%eth0]:port` names the interface    |
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

use rustix::net::SocketAddrUnix;
use thiserror::Error;

use crate::net::stream::Endpoint;

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
            if path.is_empty() || path.contains('\0') {
                return Err(malformed());
            }
            let fits = |len: usize| SocketAddrUnix::new(&path.as_bytes()[..len]).is_ok();
            return match (0..=path.len()).rev().find(|&len| fits(len)).unwrap_or_default() {
                len if len == path.len() => Ok(Self::Unix { path: PathBuf::from(path) }),
                limit => Err(AddressError::PathTooLong { path: path.to_owned(), limit }),
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(malformed)?;
        let host = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
            Some(Some(host)) if is_ipv6(host) => host,
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
        Self::Tcp { host: host_of(address), port: address.port() }
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
    /// The path of a Unix socket is longer than the system allows.
    #[error(
        "`unix:{path}` has a path of {} bytes, and that of a Unix socket has {limit} at most; use \
         a shorter one, for example relative to the working directory",
        .path.len()
    )]
    PathTooLong {
        /// The path.
        path: String,
        /// How many bytes it may have.
        limit: usize,
    },
}

/// Whether this is an IPv6 address, with or without an interface as in `fe80::1%eth0`.
pub(crate) fn is_ipv6(host: &str) -> bool {
    let (address, interface) = host.split_once('%').unwrap_or((host, "any"));
    address.parse::<Ipv6Addr>().is_ok() && !interface.is_empty() && !interface.contains(' ')
}

/// The IP address in words, with the number of its interface if it has one.
pub(crate) fn host_of(address: SocketAddr) -> String {
    match address {
        SocketAddr::V6(address) if address.scope_id() != 0 => {
            format!("{}%{}", address.ip(), address.scope_id())
        }
        address => address.ip().to_string(),
    }
}

/// An address at which a server answers that listens at `address`.
pub(crate) fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        // With its interface.
        _ => {}
    }
    address
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
        reads_as("[fe80::1%eth0]:9000", "fe80::1%eth0", 9000);
    }

    #[test]
    fn the_interface_of_a_link_local_address_is_kept() {
        let address: SocketAddr = "[fe80::1%1]:9000".parse().unwrap();
        let written = Address::from(address);
        assert_eq!(written.to_string(), "[fe80::1%1]:9000");
        assert_eq!(written.resolve().unwrap(), [Endpoint::Tcp(address)]);
        assert_eq!(reachable(address), address);
    }

    #[test]
    fn a_path_that_no_unix_socket_can_have_is_too_long() {
        let longest = "x".repeat(108);
        assert!(format!("unix:{longest}").parse::<Address>().is_ok());
        let error = format!("unix:{longest}y").parse::<Address>().unwrap_err();
        let words = "has a path of 109 bytes, and that of a Unix socket has 108 at most";
        assert!(error.to_string().contains(words), "{error}");
    }

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["127.0.0.1:1", "[::1]:65535", "localhost:80"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_malformed() {
        for text in [
            "",
            "host",
            "host:",
            "host:0",
            "host:65536",
            "::1:80",
            "[::1:80",
            "[x]:80",
            "a b:80",
            "[::1%]:80",
            "[x%eth0]:80",
            "[127.0.0.1%lo]:80",
        ] {
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
