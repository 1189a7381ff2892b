//! The control socket: `STATE_DIR/control.sock`, for status, history, refresh, rollback and release.
//!
//! One connection is one question and one answer, each a line of JSON. The socket is 0600 in a directory that is 0700, and
//! the agent asks the kernel who is on the other side (SO_PEERCRED, unix(7)): only root and the agent's own user are
//! answered. Bounded in every direction: connections, operations under way, the size of a question, the time that it may
//! take to arrive, the time that an answer may take to be fetched. No answer holds a value of a secret.
//!
//! A socket's address holds at most 107 bytes of path (unix(7)). Where `STATE_DIR/control.sock` is longer, both sides open
//! the directory and name the socket as `/proc/self/fd/N/control.sock`; that needs `/proc`.
//!
//! An operation that was begun is not undone when the one who asked goes away.

mod client;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::durable::{Dir, FileError};
use crate::state_dir::StateDir;
use crate::telemetry::audit::Actor;
use crate::telemetry::mask;
use crate::telemetry::view::{HistoryEntry, StatusView};

pub use client::{Client, ControlError};

/// The socket's name in its directory.
const SOCKET: &str = "control.sock";
/// What `sun_path` holds, less its final NUL (unix(7)).
const LONGEST_PATH: usize = 107;
/// Connections at a time; one more is told so and closed.
const CONNECTIONS: usize = 64;
/// Operations (refresh, rollback, release) under way at a time: fewer, so that `status` always gets through.
const OPERATIONS: usize = 32;
/// The largest question, in bytes.
const LARGEST_REQUEST: u64 = 64 * 1024;
/// The most history that one answer holds.
const MOST_HISTORY: usize = 10_000;
/// Bound on the arrival of a question, and on the fetching of an answer.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);
/// Bound on what is under way at shutdown.
const GOODBYE: Duration = Duration::from_secs(1);
/// Pause after the system refused a connection (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the agent can be asked. Status and history are called on the runtime's thread: no waiting. Texts are masked by the
/// caller of these.
pub trait Operations: Send + Sync {
    /// What runs now.
    fn status(&self) -> StatusView;
    /// The last `count` rotations that ended, of one target or of all, the newest last.
    fn history(&self, target: Option<&str>, count: usize) -> Result<Vec<HistoryEntry>, Refusal>;
    /// Reads secrets now; no names: all. One line a secret, also where reading failed.
    fn refresh<'a>(&'a self, names: Vec<String>, actor: Actor) -> BoxFuture<'a, Result<Vec<RefreshLine>, Refusal>>;
    /// Goes back to generation `to`, by default the one before, and holds there. Answers a text for the operator.
    fn rollback<'a>(&'a self, target: String, to: Option<u64>, actor: Actor) -> BoxFuture<'a, Result<String, Refusal>>;
    /// Lifts a hold or a quarantine. Answers a text for the operator.
    fn release<'a>(&'a self, target: String, actor: Actor) -> BoxFuture<'a, Result<String, Refusal>>;
}

/// What came of reading one secret out of turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshLine {
    /// The secret.
    pub name: String,
    /// Whether its version is another one now.
    pub changed: bool,
    /// The version now in use; None where it was never read.
    pub version: Option<String>,
    /// Why it could not be read.
    pub error: Option<String>,
}

/// Why the agent did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The exit code for who asked (sysexits.h).
    pub exit: u8,
    /// Why, for the operator.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(exit: u8, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
enum Request {
    Status {},
    History { target: Option<String>, count: usize },
    Refresh { secrets: Vec<String> },
    Rollback { target: String, to: Option<u64> },
    Release { target: String },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer<T> {
    Done(T),
    Refused(Refusal),
}

/// An open control socket. Its file is removed when this is dropped.
pub struct Listener {
    socket: UnixListener,
    dir: Dir,
    /// Device and inode of the socket's file: another agent's is never removed.
    file: (u64, u64),
}

impl Drop for Listener {
    fn drop(&mut self) {
        let name = OsStr::new(SOCKET);
        if let Ok(Some(stat)) = self.dir.stat(name)
            && (stat.st_dev, stat.st_ino) == self.file
        {
            // One that stays is replaced by the next agent.
            let _ = self.dir.remove(name);
        }
    }
}

/// Opens the control socket of a state directory whose lock the caller holds: a file that an agent before left there is
/// replaced. Call it within a tokio runtime.
///
/// # Errors
/// Whatever the system answers.
pub fn bind(state_dir: &StateDir) -> Result<Listener, FileError> {
    let name = OsStr::new(SOCKET);
    let dir = Dir::open(state_dir.path())?;
    dir.remove(name)?;
    let path = state_dir.control_socket();
    let fail = |error: io::Error| FileError::io("listen on", &path, &error);
    let reach = Reach::new(state_dir.path()).map_err(|errno| FileError::os("open", state_dir.path(), errno))?;
    let socket = std::os::unix::net::UnixListener::bind(&reach.path).map_err(|error| {
        let mut fault = fail(error);
        if reach.through_proc() {
            fault.hint = Some(format!(
                "its path is longer than a socket's address ({LONGEST_PATH} bytes), which takes /proc: mount it, or choose \
                 a shorter state_dir"
            ));
        }
        fault
    })?;
    // The directory is 0700: nobody could come in between.
    rustix::fs::chmodat(dir.fd(), name, Mode::from_raw_mode(0o600), rustix::fs::AtFlags::empty())
        .map_err(|errno| FileError::os("set the mode of", &path, errno))?;
    let stat = dir.stat(name)?.ok_or_else(|| FileError::os("stat", &path, Errno::NOENT))?;
    socket.set_nonblocking(true).map_err(fail)?;
    let socket = UnixListener::from_std(socket).map_err(fail)?;
    Ok(Listener { socket, dir, file: (stat.st_dev, stat.st_ino) })
}

/// The socket's path as an address can hold it. Keep it until the address was used.
struct Reach {
    path: PathBuf,
    dir: Option<OwnedFd>,
}

impl Reach {
    fn new(state_dir: &Path) -> Result<Self, Errno> {
        let path = StateDir::control_socket_of(state_dir);
        if path.as_os_str().as_bytes().len() <= LONGEST_PATH {
            return Ok(Self { path, dir: None });
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(state_dir, flags, Mode::empty())?;
        Ok(Self { path: format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()).into(), dir: Some(dir) })
    }

    fn through_proc(&self) -> bool {
        self.dir.is_some()
    }
}

/// Serves until `stop`, then lets what is under way end within a second.
pub async fn serve(listener: Listener, operations: Arc<dyn Operations>, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let lane = Arc::new(Semaphore::new(OPERATIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.socket.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                    let busy = Refusal::new(69, "the agent is busy with other requests: try again");
                    // Best effort: a new connection's buffer takes a line.
                    let _ = stream.try_write(&line(&Answer::<()>::Refused(busy)));
                    continue;
                };
                let (operations, lane) = (Arc::clone(&operations), Arc::clone(&lane));
                connections.spawn(async move {
                    connection(stream, operations.as_ref(), &lane).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!("control socket: cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(GOODBYE, async { while connections.join_next().await.is_some() {} }).await;
}

async fn connection(mut stream: UnixStream, operations: &dyn Operations, lane: &Semaphore) {
    let answer = match question(&mut stream).await {
        Ok(Some((request, actor))) => answer(request, actor, operations, lane).await,
        Ok(None) => return,
        Err(refusal) => line(&Answer::<()>::Refused(refusal)),
    };
    let written = tokio::time::timeout(TRANSFER_TIMEOUT, async {
        stream.write_all(&answer).await?;
        stream.shutdown().await
    });
    if !matches!(written.await, Ok(Ok(()))) {
        tracing::debug!("control socket: the one who asked did not fetch the answer");
    }
}

/// Who asks, and what. None: they went away without a question.
async fn question(stream: &mut UnixStream) -> Result<Option<(Request, Actor)>, Refusal> {
    let peer = stream.peer_cred().map_err(|error| Refusal::new(77, format!("cannot tell who asks: {error}")))?;
    let actor = Actor { uid: peer.uid(), pid: peer.pid() };
    let own = rustix::process::geteuid().as_raw();
    if actor.uid != 0 && actor.uid != own {
        tracing::warn!(uid = actor.uid, pid = actor.pid, "control socket: a user who may not ask was refused");
        let message = format!(
            "uid {} may not control this agent, which runs as uid {own}: ask as that user or as root",
            actor.uid
        );
        return Err(Refusal::new(77, message));
    }
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(TRANSFER_TIMEOUT, read_line(stream, &mut bytes)).await;
    match read {
        Err(_) => Err(Refusal::new(64, format!("no whole request came within {} s", TRANSFER_TIMEOUT.as_secs()))),
        Ok(Err(error)) => {
            tracing::debug!("control socket: {error}");
            Ok(None)
        }
        Ok(Ok(())) if bytes.len() as u64 > LARGEST_REQUEST => {
            Err(Refusal::new(64, format!("the request is larger than {} KiB", LARGEST_REQUEST / 1024)))
        }
        Ok(Ok(())) if bytes.is_empty() => Ok(None),
        Ok(Ok(())) => match serde_json::from_slice(&bytes) {
            Ok(request) => Ok(Some((request, actor))),
            Err(error) => Err(Refusal::new(
                64,
                format!("the agent (version {}) does not understand the request: {error}", env!("CARGO_PKG_VERSION")),
            )),
        },
    }
}

/// Reads up to a newline, the end, or one byte more than a question may have.
async fn read_line(stream: &mut UnixStream, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut stream = stream.take(LARGEST_REQUEST + 1);
    while stream.read_buf(bytes).await? > 0 {
        if let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            bytes.truncate(end);
            return Ok(());
        }
    }
    Ok(())
}

async fn answer(request: Request, actor: Actor, operations: &dyn Operations, lane: &Semaphore) -> Vec<u8> {
    let (uid, pid) = (actor.uid, actor.pid);
    let _permit = match (&request, lane.try_acquire()) {
        (Request::Status {} | Request::History { .. }, _) => None,
        (_, Ok(permit)) => Some(permit),
        (_, Err(_)) => {
            let message = format!("{OPERATIONS} operations are under way: try again when they are done");
            return told::<()>(Err(Refusal::new(69, message)));
        }
    };
    match request {
        Request::Status {} => told(Ok(operations.status())),
        Request::History { target, count } => told(operations.history(target.as_deref(), count.min(MOST_HISTORY))),
        Request::Refresh { secrets } => {
            tracing::info!(uid, pid, ?secrets, "asked to refresh");
            let mut lines = operations.refresh(secrets, actor).await;
            for error in lines.iter_mut().flatten().filter_map(|line| line.error.as_mut()) {
                *error = mask::display(error);
            }
            told(lines)
        }
        Request::Rollback { target, to } => {
            tracing::info!(uid, pid, target, to, "asked to roll back");
            told(operations.rollback(target, to, actor).await.map(|text| mask::display(&text)))
        }
        Request::Release { target } => {
            tracing::info!(uid, pid, target, "asked to release");
            told(operations.release(target, actor).await.map(|text| mask::display(&text)))
        }
    }
}

fn told<T: Serialize>(result: Result<T, Refusal>) -> Vec<u8> {
    match result {
        Ok(done) => line(&Answer::Done(done)),
        Err(Refusal { exit, message }) => {
            line(&Answer::<()>::Refused(Refusal { exit, message: mask::display(&message) }))
        }
    }
}

fn line<T: Serialize>(answer: &Answer<T>) -> Vec<u8> {
    // Types of our own with text keys: writing them does not fail. An empty answer would be told as a lost connection.
    let mut bytes = serde_json::to_vec(answer).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}
