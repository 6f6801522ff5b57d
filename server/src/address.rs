//! Where to listen, as people write it.
//!
//! | Written           | Means                                                        |
//! |-------------------|--------------------------------------------------------------|
//! | `host:port`       | that address, or the first of the name's that can be bound   |
//! | `[::1]:port`      | the same for IPv6                                            |
//! | `:port`           | every address of this machine, IPv6 and IPv4 where it can    |
//! | `unix:/path`      | a socket in the file system                                  |

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    path::{PathBuf, absolute},
    str::FromStr,
};

use socket2::SockAddr;

/// An address to listen on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum ListenAddress {
    Everywhere { port: u16 },
    Host { host: String, port: u16 },
    Unix { path: PathBuf },
}

/// An address for those who operate the server: TCP, and on this machine unless it says otherwise.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct AdminAddress(pub(crate) ListenAddress);

impl ListenAddress {
    /// Looks up which addresses of the network it stands for, best first. None for one in the file
    /// system.
    ///
    /// Waits for the servers of names, so it has no place where connections are served. The lookups
    /// of tokio have none before that either: each panics if the system refuses it a thread.
    pub(crate) fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::Everywhere { port } => Ok(everywhere(*port).to_vec()),
            Self::Host { host, port } => Ok((host.as_str(), *port).to_socket_addrs()?.collect()),
            Self::Unix { .. } => Ok(Vec::new()),
        }
    }

    /// Whether both cannot be bound at once. Names are not looked up: one is known to be the same
    /// as itself.
    pub(crate) fn collides(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix { path }, Self::Unix { path: other }) => {
                let place = |path: &PathBuf| absolute(path).unwrap_or_else(|_| path.clone());
                place(path) == place(other)
            }
            (Self::Host { port, .. }, other) if self == other => *port != 0,
            _ => {
                let (ours, others) = (self.literals(), other.literals());
                ours.iter().any(|one| others.iter().any(|other| overlap(one, other)))
            }
        }
    }

    /// The addresses of the network that it is known to stand for.
    fn literals(&self) -> Vec<SocketAddr> {
        match self {
            Self::Everywhere { port } => everywhere(*port).to_vec(),
            Self::Host { host, port } => {
                host.parse().map(|ip: IpAddr| (ip, *port).into()).into_iter().collect()
            }
            Self::Unix { .. } => Vec::new(),
        }
    }
}

fn everywhere(port: u16) -> [SocketAddr; 2] {
    [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]
}

/// Whether two addresses share one that the system does not choose.
fn overlap(one: &SocketAddr, other: &SocketAddr) -> bool {
    let is_any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port()
        && one.port() != 0
        && one.is_ipv6() == other.is_ipv6()
        && (is_any || one.ip() == other.ip())
}

impl Default for ListenAddress {
    fn default() -> Self {
        Self::Host { host: Ipv4Addr::LOCALHOST.to_string(), port: 9000 }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid =
            || "is not an address; write host:port, [::1]:port, :port or unix:/path".to_owned();
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path);
        }
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
            None if !host.contains([':', '[', ']', '/', ' ', '\0']) => {
                Ok(Self::Host { host: host.to_owned(), port })
            }
            _ => Err(invalid()),
        }
    }
}

fn unix(path: &str) -> Result<ListenAddress, String> {
    if path.contains('\0') {
        let reason = "has a NUL in its path, and abstract sockets are not supported";
        return Err(format!("{reason}; write unix:/path"));
    }
    // What others take for an abstract socket, to which everybody may connect.
    if path.starts_with('@') {
        let reason = "is an abstract socket, and those are not supported: they have no permissions";
        return Err(format!(
            "{reason}; write unix:/path, or unix:./{path} for a file of that name"
        ));
    }
    if path.is_empty() || path.ends_with('/') {
        return Err("names no file; write unix:/path".to_owned());
    }
    match SockAddr::unix(path) {
        Ok(_) => Ok(ListenAddress::Unix { path: path.into() }),
        Err(_) => Err("is too long for the path of a socket; choose a shorter one".to_owned()),
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everywhere { port } => write!(f, ":{port}"),
            Self::Host { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { path } => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(ListenAddress::Everywhere { port }) => {
                Ok(Self(ListenAddress::Host { host: Ipv4Addr::LOCALHOST.to_string(), port }))
            }
            Ok(address @ ListenAddress::Host { .. }) => Ok(Self(address)),
            Ok(ListenAddress::Unix { .. }) | Err(_) => {
                Err("is not an address for HTTP; write host:port, [::1]:port or :port".to_owned())
            }
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
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
    fn a_path_is_an_address_in_the_file_system() {
        let unix = |path: &str| ListenAddress::Unix { path: path.into() };
        assert_eq!("unix:/run/echo.sock".parse(), Ok(unix("/run/echo.sock")));
        assert_eq!("unix:here:9000".parse(), Ok(unix("here:9000")));
        assert_eq!("unix:./@here".parse(), Ok(unix("./@here")));
        assert_eq!(unix("/run/echo.sock").to_string(), "unix:/run/echo.sock");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let too_long = format!("unix:/{}", "x".repeat(200));
        let texts = [
            "",
            "9000",
            "localhost",
            ":",
            ":65536",
            "::1:9000",
            "[::1]",
            "[x]:1",
            "a b:1",
            "unix:",
            "unix:/run/",
            "unix:\0abs",
            "unix:@abs",
            "unix:@",
            "unix:/a\0b",
            "a\0b:1",
            &too_long,
        ];
        for text in texts {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_collide_where_both_are_on_a_port_that_is_known() {
        let collide = |one: &str, other: &str| {
            let (one, other): (ListenAddress, _) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(one.collides(&other), other.collides(&one), "{one} {other}");
            one.collides(&other)
        };
        for (one, other) in [
            (":1", "127.0.0.1:1"),
            (":1", "[::1]:1"),
            (":1", "0.0.0.0:1"),
            (":1", ":1"),
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("localhost:1", "localhost:1"),
            ("unix:/a/b", "unix:/a/./b"),
            ("unix:a", "unix:./a"),
        ] {
            assert!(collide(one, other), "{one} {other}");
        }
        for (one, other) in [
            (":1", ":2"),
            (":0", ":0"),
            ("localhost:0", "localhost:0"),
            ("127.0.0.1:1", "127.0.0.2:1"),
            ("127.0.0.1:1", "[::1]:1"),
            ("0.0.0.0:1", "[::1]:1"),
            ("localhost:1", "127.0.0.1:1"),
            ("unix:a", "unix:b"),
            ("unix:a", ":1"),
        ] {
            assert!(!collide(one, other), "{one} {other}");
        }
    }

    #[test]
    fn operators_are_on_this_machine_unless_the_address_says_otherwise() {
        let shown = |text: &str| text.parse().map(|address: AdminAddress| address.to_string());
        assert_eq!(shown(":9100"), Ok("127.0.0.1:9100".to_owned()));
        assert_eq!(shown("0.0.0.0:9100"), Ok("0.0.0.0:9100".to_owned()));
        assert!(shown("unix:/run/admin.sock").is_err());
    }
}
