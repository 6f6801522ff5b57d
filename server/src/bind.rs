//! From addresses to sockets that accept: bound here, or passed by a service manager.
//!
//! A socket in the file system leaves its file behind when its server is killed. Such a file is
//! replaced if nobody accepts there any more. The own one is removed at the end, unless another
//! server has put its own in that place meanwhile.

use std::{
    fs,
    io::{self, ErrorKind},
    net::SocketAddr,
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use arena_echo::Listener;
use listenfd::ListenFd;
use rustix::{io::Errno, net::sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tracing::{info, warn};

use crate::{
    address::{AdminAddress, ListenAddress},
    settings::Settings,
};

/// Connections that may wait for `Admin` to accept them. Operators are few, but a probe that finds
/// no room, because many connect and say nothing, tries again only after a second.
const ADMIN_BACKLOG: i32 = 1024;

/// Sockets that accept connections, and their files. Those are removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) listeners: Vec<Listener>,
    /// Where operators look, if they may.
    pub(crate) admin: Option<TcpListener>,
    pub(crate) files: Vec<SocketFile>,
}

/// The file of a socket that this process has bound.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and number: the same path may be another server's by the time it is removed.
    identity: (u64, u64),
}

/// What the names in addresses stand for, or why they stand for nothing.
#[derive(Debug)]
pub(crate) struct Names {
    /// In the order of the addresses to listen on. None if sockets are passed.
    listen: Vec<io::Result<Vec<SocketAddr>>>,
    admin: Option<io::Result<Vec<SocketAddr>>>,
}

impl Names {
    /// Looks up the names in the addresses that are to be listened on. That may take long.
    pub(crate) fn look_up(settings: &Settings, passed: &ListenFd) -> Self {
        let addresses = if passed.len() > 0 { &[][..] } else { &settings.listen };
        Self {
            listen: addresses.iter().map(ListenAddress::resolve).collect(),
            admin: settings.admin.as_ref().map(|AdminAddress(address)| address.resolve()),
        }
    }
}

/// Listens on all addresses of `settings`, or on the sockets in `passed` if there are any.
///
/// # Errors
///
/// Every address that cannot be listened on, a line each.
pub(crate) fn listen(settings: &Settings, names: Names, passed: ListenFd) -> Result<Bound, String> {
    let mut bound = Bound { listeners: Vec::new(), admin: None, files: Vec::new() };
    let mut errors = Vec::new();
    if passed.len() > 0 {
        if settings.names_listeners() {
            warn!("the sockets that were passed (LISTEN_FDS) take the place of --listen");
        }
        match take_passed(passed) {
            Ok(listeners) => bound.listeners = listeners,
            Err(error) => errors.push(error),
        }
    } else {
        for (address, name) in settings.listen.iter().zip(names.listen) {
            if let Err(error) = bind(address, name, settings, &mut bound) {
                errors.push(format!("--listen {address}: cannot listen there: {error}"));
            }
        }
    }
    if let Some((address, name)) = settings.admin.as_ref().zip(names.admin) {
        match bind_admin(address, name) {
            Ok(listener) => bound.admin = Some(listener),
            Err(error) => errors.push(format!("--admin {address}: cannot listen there: {error}")),
        }
    }
    if !errors.is_empty() {
        return Err(errors.join("\n"));
    }
    let prepare = |listener: Listener| {
        let listener = listener.keepalive(settings.keepalive);
        match &settings.encryption {
            Some(encryption) => encryption.wrap(listener),
            None => listener,
        }
    };
    bound.listeners = bound.listeners.into_iter().map(prepare).collect();
    Ok(bound)
}

fn bind(
    address: &ListenAddress,
    name: io::Result<Vec<SocketAddr>>,
    settings: &Settings,
    bound: &mut Bound,
) -> io::Result<()> {
    let backlog = settings.backlog.into();
    if let ListenAddress::Unix { path } = address {
        let (socket, file) = bind_path(path)?;
        bound.files.push(file);
        socket.listen(backlog)?;
        bound.listeners.push(UnixListener::from_std(socket.into())?.into());
        return Ok(());
    }
    let listener = bind_first(address, name?, settings.reuse_port, backlog)?;
    bound.listeners.push(listener.into());
    Ok(())
}

/// Never shares the port: which of several servers answers would be chance.
fn bind_admin(
    address: &AdminAddress,
    name: io::Result<Vec<SocketAddr>>,
) -> io::Result<TcpListener> {
    bind_first(&address.0, name?, false, ADMIN_BACKLOG)
}

/// Listens on the first candidate for an address of the network that this machine has.
///
/// One that somebody else listens on is an error, even if there is another: which of two servers a
/// client of the name reaches would be chance.
fn bind_first(
    address: &ListenAddress,
    candidates: Vec<SocketAddr>,
    reuse_port: bool,
    backlog: i32,
) -> io::Result<TcpListener> {
    let mut result = Err(io::Error::new(ErrorKind::NotFound, "the name has no address"));
    let serves_both = matches!(address, ListenAddress::Everywhere { .. });
    for candidate in candidates {
        result = bind_network(candidate, serves_both, reuse_port);
        if !result.as_ref().is_err_and(is_not_here) {
            break;
        }
    }
    let socket = result?;
    socket.listen(backlog)?;
    TcpListener::from_std(socket.into())
}

/// Whether the machine has no such address, or none of its family.
fn is_not_here(error: &io::Error) -> bool {
    let families = [Errno::AFNOSUPPORT, Errno::PROTONOSUPPORT];
    error.kind() == ErrorKind::AddrNotAvailable
        || families.iter().any(|family| error.raw_os_error() == Some(family.raw_os_error()))
}

fn bind_network(address: SocketAddr, serves_both: bool, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Connections of an earlier server that linger do not keep the port from this one.
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    if serves_both && address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn bind_path(path: &Path) -> io::Result<(Socket, SocketFile)> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            remove_stale(path, &address)?;
            socket.bind(&address)?;
        }
        result => result?,
    }
    let identity = identity(&fs::symlink_metadata(path)?);
    Ok((socket, SocketFile { path: path.to_owned(), identity }))
}

/// Removes the socket file of a server that is dead.
fn remove_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    let refuse = |reason| Err(io::Error::new(ErrorKind::AddrInUse, reason));
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return refuse("there is a file that is no socket");
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A live server whose queue is full would have the probe wait.
    probe.set_nonblocking(true)?;
    match probe.connect(address) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            info!("{}: replaced the socket of a server that is gone", path.display());
            fs::remove_file(path)
        }
        Ok(()) => refuse("another server accepts there"),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            refuse("another server accepts there")
        }
        Err(error) => Err(error),
    }
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_own = |metadata| identity(&metadata) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(is_own)
            && let Err(error) = fs::remove_file(&self.path)
        {
            warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

fn take_passed(mut passed: ListenFd) -> Result<Vec<Listener>, String> {
    let count = passed.len();
    let take = |index| {
        take_one(&mut passed, index).map_err(|error| {
            format!("LISTEN_FDS: cannot listen on socket {} of {count}: {error}", index + 1)
        })
    };
    (0..count).map(take).collect()
}

fn take_one(passed: &mut ListenFd, index: usize) -> io::Result<Listener> {
    let taken = || io::Error::new(ErrorKind::NotFound, "it is taken already");
    if let Ok(listener) = passed.take_tcp_listener(index) {
        let listener = listener.ok_or_else(taken)?;
        check_listens(&listener)?;
        listener.set_nonblocking(true)?;
        return Ok(TcpListener::from_std(listener)?.into());
    }
    let not_stream = |_| io::Error::new(ErrorKind::InvalidInput, "it is no TCP or Unix socket");
    let listener = passed.take_unix_listener(index).map_err(not_stream)?.ok_or_else(taken)?;
    check_listens(&listener)?;
    listener.set_nonblocking(true)?;
    Ok(UnixListener::from_std(listener)?.into())
}

fn check_listens(socket: &impl AsFd) -> io::Result<()> {
    if sockopt::socket_acceptconn(socket)? {
        return Ok(());
    }
    Err(io::Error::new(ErrorKind::InvalidInput, "it does not listen; a unit needs Accept=no"))
}
