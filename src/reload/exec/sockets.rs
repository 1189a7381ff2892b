//! The listening sockets of a supervised process. The agent owns them: they outlive each process, so that a client waits
//! in the backlog where there is none for a moment.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nix::libc::{sock_filter, sock_fprog};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::AttachReusePortCbpf;
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::config::model::{Listen, TargetName};
use crate::reload::ReloadError;

/// How many connections may wait. The kernel takes no more than net.core.somaxconn (4096 by default).
const BACKLOG: i32 = 4096;
/// unix(7): what a path may be long.
const PATH_MAX: usize = 107;
/// BPF_RET | BPF_K: answer with a constant.
const BPF_RETURN: u16 = 0x06;
/// Folder of the private sockets, in the target's part of the state directory.
const PRIVATE: &str = "private";

/// The sockets of all targets of an agent, kept as long as a reload uses them: a config that changes all about a process
/// but its `listen` changes nothing about its sockets. Cheap to clone.
#[derive(Clone, Default)]
pub struct Sockets(Arc<Mutex<Open>>);

/// What is open, by target and address.
type Open = BTreeMap<(TargetName, Listen), Weak<Kept>>;

impl Sockets {
    /// Those of these addresses that are open.
    pub(super) fn claim(&self, target: &TargetName, listen: &[Listen]) -> Vec<Arc<Kept>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, kept| kept.strong_count() > 0);
        listen.iter().filter_map(|address| all.get(&(Arc::clone(target), address.clone()))?.upgrade()).collect()
    }

    pub(super) fn keep(&self, target: &TargetName, kept: &Arc<Kept>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert((Arc::clone(target), kept.address.clone()), Arc::downgrade(kept));
    }
}

/// Which of the sockets at one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// That which has listened longest.
    First,
    /// The one that was opened beside it.
    Beside,
}

/// A listening socket; closed-on-exec. The file of a unix socket goes with it.
pub(super) struct Kept {
    pub address: Listen,
    socket: OwnedFd,
    /// Device and inode of a unix socket's file: what has taken its place since is left alone.
    file: Option<(u64, u64)>,
}

impl Kept {
    /// A socket that somebody else had opened.
    pub fn taken(address: Listen, socket: OwnedFd) -> Self {
        let file = match &address {
            Listen::Unix { path, .. } => identity(path),
            Listen::Tcp(_) => None,
        };
        Self { address, socket, file }
    }

    /// Binds and listens. `beside`: the target's other addresses.
    pub fn open(address: &Listen, beside: &[Listen]) -> Result<Self, ReloadError> {
        let opened = match address {
            Listen::Tcp(tcp) => open_tcp(*tcp, beside),
            Listen::Unix { path, mode } => open_unix(path, *mode),
        };
        opened.map(|socket| Self::taken(address.clone(), socket)).map_err(|error| explain(address, &error))
    }

    /// Another socket at the same address, to which no client comes before [`steer`](Self::steer) says so. None: it is a unix
    /// socket's, which only one can have. An error: the kernel is not able to (its own before 4.5, and gVisor's), or another
    /// opened this one.
    pub fn beside(&self) -> io::Result<Option<Self>> {
        if !matches!(self.address, Listen::Tcp(_)) {
            return Ok(None);
        }
        let name = SocketAddr::try_from(rustix::net::getsockname(&self.socket)?)?;
        self.steer(Place::First)?;
        let v6only = name.is_ipv6() && sockopt::ipv6_v6only(&self.socket)?;
        let beside = unbound(name, v6only)?;
        sockopt::set_socket_reuseport(&beside, true)?;
        rustix::net::bind(&beside, &name)?;
        rustix::net::listen(&beside, BACKLOG)?;
        Ok(Some(Self::taken(self.address.clone(), beside)))
    }

    /// Says to which of the sockets at this address all new clients come. Those that have come before stay where they are.
    pub fn steer(&self, place: Place) -> io::Result<()> {
        let mut answer = sock_filter { code: BPF_RETURN, jt: 0, jf: 0, k: place as u32 };
        let program = sock_fprog { len: 1, filter: &raw mut answer };
        Ok(setsockopt(&self.socket, AttachReusePortCbpf, &program)?)
    }

    /// Whether a client waits to be accepted.
    pub fn waits(&self) -> bool {
        let mut looked = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut looked, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) && looked[0].any() == Some(true)
    }

    /// Nobody listens any more, whoever has it open. Not for a unix socket.
    pub fn close(&self) {
        let _not_listening = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }

    /// Names the socket, whatever descriptors it has.
    pub fn cookie(&self) -> Option<u64> {
        sockopt::socket_cookie(&self.socket).ok()
    }
}

impl AsFd for Kept {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let (Listen::Unix { path, .. }, Some(own)) = (&self.address, self.file)
            && identity(path) == Some(own)
        {
            let _gone = fs::remove_file(path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

fn socket(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

fn open_tcp(address: SocketAddr, beside: &[Listen]) -> io::Result<OwnedFd> {
    let v4 = |other: &Listen| matches!(other, Listen::Tcp(v4) if v4.is_ipv4() && v4.port() == address.port());
    let socket = unbound(address, beside.iter().any(v4))?;
    rustix::net::bind(&socket, &address)?;
    // Before listen(2), or no other can be opened beside it; after bind(2), or it could join somebody else's.
    let _then_none_is_beside_it = sockopt::set_socket_reuseport(&socket, true);
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// A TCP socket for an address.
fn unbound(address: SocketAddr, v6only: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family)?;
    // Connections of an earlier process may linger (TIME_WAIT) on the port.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, v6only)?;
    }
    Ok(socket)
}

fn open_unix(path: &Path, mode: u32) -> io::Result<OwnedFd> {
    if path.as_os_str().len() > PATH_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("longer than {PATH_MAX} bytes (unix(7))")));
    }
    remove_stale(path)?;
    let socket = socket(AddressFamily::UNIX)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    // Nobody can connect before listen(2).
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Removes a socket that nobody listens on any more: what an agent that was killed leaves.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket stands there"));
    }
    if is_listened_at(path)? { Err(io::ErrorKind::AddrInUse.into()) } else { fs::remove_file(path) }
}

/// Whether somebody listens at a unix socket's path. Does not wait: one that accepts nobody has a full backlog.
fn is_listened_at(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let client = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&client, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Ok(true),
        Err(rustix::io::Errno::CONNREFUSED) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn explain(address: &Listen, error: &io::Error) -> ReloadError {
    let what = format!("cannot listen on {address}: {error}");
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let hint = match address {
                Listen::Tcp(_) => "ports below 1024 need CAP_NET_BIND_SERVICE (AmbientCapabilities= in a unit)",
                Listen::Unix { .. } => "the agent's user must be able to write to its folder",
            };
            ReloadError::denied(format!("{what}; {hint}"))
        }
        io::ErrorKind::AddrInUse => {
            let hint = "another process listens there: find it with `ss -ltnxp`, and let it go or take another address";
            ReloadError::absent(format!("{what}; {hint}"))
        }
        io::ErrorKind::AddrNotAvailable => {
            ReloadError::absent(format!("{what}; this machine has no such address (yet)"))
        }
        io::ErrorKind::NotFound => ReloadError::absent(format!("{what}; create its folder")),
        _ => ReloadError::absent(what),
    }
}

/// The private socket of one process: that process alone listens on it. Its file goes with this.
pub(super) struct Private(PathBuf);

impl Private {
    /// A new one in the target's folder (0700); the descriptor is for the process, and nobody else may keep it.
    pub fn open(state_dir: &Path, target: &str, serial: &str) -> Result<(Self, OwnedFd), ReloadError> {
        let folder = folder(state_dir, target);
        let path = folder.join(format!("{serial}.sock"));
        let opened = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .and_then(|()| open_unix(&path, 0o600))
            .map(|socket| (Self(path.clone()), socket));
        opened.map_err(|error| {
            let text = format!("cannot open the private socket {}: {error}", path.display());
            ReloadError::absent(match error.kind() {
                io::ErrorKind::InvalidInput => format!("{text}; make the path of state_dir shorter"),
                _ => text,
            })
        })
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.0);
    }
}

/// Removes what a killed agent's processes have left of private sockets; not those of processes that still serve.
pub(super) fn forget_private(state_dir: &Path, target: &str) {
    let Ok(entries) = fs::read_dir(folder(state_dir, target)) else { return }; // there may be none
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if is_listened_at(&path).is_ok_and(|listened_at| !listened_at) {
            let _gone = fs::remove_file(&path);
        }
    }
}

fn folder(state_dir: &Path, target: &str) -> PathBuf {
    state_dir.join("targets").join(target).join(PRIVATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that nobody can connect to any more without waiting; and whoever waits.
    fn full(path: &Path) -> (OwnedFd, Vec<OwnedFd>) {
        let listener = socket(AddressFamily::UNIX).unwrap();
        let address = SocketAddrUnix::new(path).unwrap();
        rustix::net::bind(&listener, &address).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let client = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let client = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
            rustix::net::connect(&client, &address).ok().map(|()| client)
        };
        (listener, std::iter::from_fn(client).collect())
    }

    #[test]
    fn a_socket_whose_process_accepts_nobody_is_in_use_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (listener, clients) = full(&path);
        assert!(!clients.is_empty());
        assert_eq!(open_unix(&path, 0o600).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop((listener, clients));
        open_unix(&path, 0o600).unwrap();
    }

    #[test]
    fn private_sockets_are_forgotten_but_for_those_that_somebody_listens_on() {
        let state_dir = tempfile::tempdir().unwrap();
        let open = |serial: &str| Private::open(state_dir.path(), "t", serial).unwrap();
        let ((serving, _socket), (stale, closed)) = (open("1"), open("2"));
        let (busy, clients) = full(&folder(state_dir.path(), "t").join("3.sock"));
        drop(closed);
        forget_private(state_dir.path(), "t");
        assert!(serving.path().exists() && !stale.path().exists());
        drop((serving, _socket, stale));
        forget_private(state_dir.path(), "t");
        let left: Vec<_> =
            fs::read_dir(folder(state_dir.path(), "t")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["3.sock"]);
        drop((busy, clients));
    }
}
