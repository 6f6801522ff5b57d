//! Where to listen, as people write it.
//!
//! | Written           | Means                                                        |
//! |-------------------|--------------------------------------------------------------|
//! | `host:port`       | that address, or the first of the name's that can be bound   |
//! | `[::1]:port`      | the same for IPv6                                            |
//! | `:port`           | every address of this machine, IPv6 and IPv4 where it can    |

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use tokio::net::TcpListener;

/// An address to listen on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum ListenAddress {
    Everywhere { port: u16 },
    Host { host: String, port: u16 },
}

impl ListenAddress {
    /// Looks the address up and binds it.
    pub(crate) async fn bind(&self) -> io::Result<TcpListener> {
        match self {
            Self::Everywhere { port } => {
                let everywhere: [SocketAddr; 2] =
                    [(Ipv6Addr::UNSPECIFIED, *port).into(), (Ipv4Addr::UNSPECIFIED, *port).into()];
                TcpListener::bind(&everywhere[..]).await
            }
            Self::Host { host, port } => TcpListener::bind((host.as_str(), *port)).await,
        }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || "is not an address; write host:port, [::1]:port or :port".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let port = port.parse().map_err(|_| invalid())?;
        if host.is_empty() {
            return Ok(Self::Everywhere { port });
        }
        let unbracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        match unbracketed {
            Some(v6) if v6.parse::<Ipv6Addr>().is_ok() => {
                Ok(Self::Host { host: v6.to_owned(), port })
            }
            None if !host.contains([':', '[', ']', '/', ' ']) => {
                Ok(Self::Host { host: host.to_owned(), port })
            }
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everywhere { port } => write!(f, ":{port}"),
            Self::Host { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_and_a_port_or_a_port_alone() {
        let host = |host: &str| ListenAddress::Host { host: host.to_owned(), port: 9000 };
        assert_eq!(":9000".parse(), Ok(ListenAddress::Everywhere { port: 9000 }));
        assert_eq!("127.0.0.1:9000".parse(), Ok(host("127.0.0.1")));
        assert_eq!("localhost:9000".parse(), Ok(host("localhost")));
        assert_eq!("[::1]:9000".parse(), Ok(host("::1")));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "9000", "localhost", ":", ":65536", "::1:9000", "[::1]", "[x]:1", "a b:1"]
        {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }
}
