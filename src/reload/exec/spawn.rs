//! The agent's side of a start: trampoline, durable record, go.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::leftover::MARK;
use super::record::{Record, Slot};
use super::sockets::Private;
use super::trampoline::TRAMPOLINE;
use super::wire::{self, Failure, Instructions, Step};
use super::{Process, Stdin};
use crate::process::pidfd::Pidfd;
use crate::process::reap::{self, Owned};
use crate::process::{Exit, start_hint};
use crate::reload::ReloadError;
use crate::secret::SecretBytes;

/// How long the trampoline may take (a working directory or program on a slow filesystem).
const START_WAIT: Duration = Duration::from_secs(30);
/// How long a killed process may take to be reaped.
const REAP_WAIT: Duration = Duration::from_secs(5);
/// Standard input, 32 sockets of `listen`, a private one; the kernel takes 253.
pub(super) const DESCRIPTORS_MAX: usize = 40;
/// What LISTEN_FDNAMES says of the sockets of `listen`, and of the private one.
const NAMES: [&str; 2] = ["public", "private"];
/// An answer is never longer.
const ANSWER_MAX: u64 = 64 * 1024;

/// What is this one's own of a process that is to be started.
pub(super) struct Start<'a> {
    /// Its environment: the target's `env`.
    pub env: &'a [(String, SecretBytes)],
    /// The digest of that.
    pub digest: String,
    /// What it carries in its environment.
    pub mark: String,
    /// Which generation's it is.
    pub generation: u64,
    /// What it is to its target.
    pub slot: Slot,
    /// The sockets that all of the target's processes share.
    pub public: Vec<BorrowedFd<'a>>,
    /// The one that is its own.
    pub private: Option<(Private, OwnedFd)>,
}

/// A process that is ours: its group is killed if this is dropped without an orderly end.
pub(super) struct Running {
    pub pid: i32,
    pub pidfd: Arc<Pidfd>,
    pub child: Child,
    pub record: Record,
    pub slot: Slot,
    /// The generation that it has taken up.
    pub generation: u64,
    /// Digest of the `env` that it was started with.
    pub env: String,
    /// Whether a generation was committed on it.
    pub proven: bool,
    private: Option<Private>,
    group: GroupGuard,
    _owned: Owned,
}

impl Running {
    /// Where it is asked alone.
    pub fn private(&self) -> Option<PathBuf> {
        self.private.as_ref().map(|private| private.path().to_owned())
    }

    /// Waits for its end and reaps it. Cancel-safe.
    pub async fn reap(&mut self) -> io::Result<Exit> {
        let status = self.child.wait().await?;
        self.group.0 = None;
        Ok(status.into())
    }

    /// Whether it has ended; reaps it then.
    pub fn ended(&mut self) -> Option<Exit> {
        let status = self.child.try_wait().ok().flatten()?;
        self.group.0 = None;
        Some(status.into())
    }
}

/// KILL to the group when dropped, unless its leader was reaped: the number may be another's then.
struct GroupGuard(Option<i32>);

impl Drop for GroupGuard {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

/// Starts the process; answers once the program itself runs. On an error nothing runs.
pub(super) async fn start(process: &Process, mut start: Start<'_>) -> Result<Running, ReloadError> {
    let (private, socket) = start.private.take().unzip();
    let public = start.public.iter().map(|_| NAMES[0]);
    let listen = public.chain(socket.iter().map(|_| NAMES[1])).map(str::to_owned);
    let instructions = Instructions { listen: listen.collect(), ..process.instructions() };
    let message = instructions_message(process, &instructions, start.env, &start.mark)?;
    let cannot = |what: &str, error: io::Error| ReloadError::failed(format!("{}: {what}: {error}", process.name()));
    let (control, theirs) = UnixStream::pair().map_err(|e| cannot("no socket for it", e))?;
    let mut running = spawn(process, &start, private, theirs)?;
    let sockets: Vec<BorrowedFd<'_>> = start.public.iter().copied().chain(socket.as_ref().map(AsFd::as_fd)).collect();
    let failed = match go(process, &mut running, control, &sockets, &message).await {
        Ok(None) => return Ok(running),
        Ok(Some(failure)) => explain(process, &instructions, &failure),
        Err(error) => error,
    };
    let _ = killpg(Pid::from_raw(running.pid), Signal::SIGKILL);
    let _ = timeout(REAP_WAIT, running.reap()).await;
    let _ = Record::remove(&process.context.state_dir, &process.context.target, start.slot);
    Err(failed)
}

fn spawn(
    process: &Process,
    start: &Start<'_>,
    private: Option<Private>,
    control: UnixStream,
) -> Result<Running, ReloadError> {
    let cannot = |error: io::Error| ReloadError::failed(format!("{}: cannot start a process: {error}", process.name()));
    let context = &process.context;
    let mut command = Command::new(&context.trampoline);
    command.arg0("agent").arg(TRAMPOLINE).arg(context.target.as_ref());
    command.env_clear().env(MARK, &start.mark).process_group(0);
    command.stdin(Stdio::from(OwnedFd::from(control)));
    // The socket's other end goes with `command`, at the end of this function: the trampoline's copy is the only one then.
    let (child, pid, owned) = reap::spawn_owned(&mut command).map_err(cannot)?;
    let group = GroupGuard(Some(pid));
    let pidfd =
        Pidfd::open(pid).and_then(|pidfd| pidfd.ok_or_else(|| io::Error::other("it is gone"))).map_err(cannot)?;
    let record = Record::of(pid, &context.target, &start.mark).map_err(cannot)?;
    Ok(Running {
        pid,
        pidfd: Arc::new(pidfd),
        child,
        record,
        slot: start.slot,
        generation: start.generation,
        env: start.digest.clone(),
        proven: false,
        private,
        group,
        _owned: owned,
    })
}

/// Records it, then lets it go on. None: the program runs.
async fn go(
    process: &Process,
    running: &mut Running,
    control: UnixStream,
    sockets: &[BorrowedFd<'_>],
    message: &[u8],
) -> Result<Option<Failure>, ReloadError> {
    let name = process.name();
    let (record, slot, state_dir) = (running.record.clone(), running.slot, process.context.state_dir.clone());
    let written = tokio::task::spawn_blocking(move || record.write(&state_dir, slot)).await.map_err(io::Error::other);
    written.and_then(|written| written).map_err(|e| {
        ReloadError::failed(format!(
            "{name}: cannot record the process in the state directory, so it was not started: {e}"
        ))
    })?;
    let talk = async {
        control.set_nonblocking(true)?;
        send_descriptors(&control, process.context.stdin, sockets)?;
        let mut control = tokio::net::UnixStream::from_std(control)?;
        // A trampoline that has already given up says why in its answer.
        let sent = control.write_all(message).await;
        let mut answer = Vec::new();
        let read = (&mut control).take(ANSWER_MAX).read_to_end(&mut answer).await;
        if answer.is_empty() {
            sent.and(read.map(drop))?;
        }
        io::Result::Ok(answer)
    };
    match timeout(START_WAIT, talk).await {
        Err(_) => Err(ReloadError::timed_out(format!("{name}: it did not start within {START_WAIT:?}"))),
        Ok(Err(error)) => Err(ReloadError::failed(format!("{name}: it ended before its program could start: {error}"))),
        Ok(Ok(answer)) if answer.is_empty() => Ok(None),
        Ok(Ok(answer)) => serde_json::from_slice(&answer)
            .map(Some)
            .map_err(|_| ReloadError::failed(format!("{name}: cannot start, and gave no readable reason"))),
    }
}

fn send_descriptors(control: &UnixStream, stdin: Stdin, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let own = std::io::stdin();
    // A closed standard input cannot be passed on: /dev/null then.
    let with_stdin = stdin == Stdin::Inherit && rustix::io::fcntl_getfd(own.as_fd()).is_ok();
    let stdin = with_stdin.then(|| own.as_fd());
    let descriptors: Vec<BorrowedFd<'_>> = stdin.into_iter().chain(sockets.iter().copied()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("too many sockets"));
    }
    rustix::net::sendmsg(control, &[IoSlice::new(&[u8::from(with_stdin)])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Inherited, then what a login would set for another user, then the target's own `env`, then the mark.
fn instructions_message(
    process: &Process,
    instructions: &Instructions,
    env: &[(String, SecretBytes)],
    mark: &str,
) -> Result<zeroize::Zeroizing<Vec<u8>>, ReloadError> {
    let inherited = process.context.inherit.environment();
    let mut all: BTreeMap<&[u8], &[u8]> = BTreeMap::new();
    all.extend(inherited.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
    for (name, value) in &process.login {
        if !process.context.inherit.pass.contains(name) {
            all.insert(name.as_bytes(), value.as_bytes());
        }
    }
    for (name, value) in env {
        if value.expose().contains(&0) {
            let text =
                format!("{}: the value of env {name} holds a NUL byte, which no environment can carry", process.name());
            return Err(ReloadError::failed(text));
        }
        all.insert(name.as_bytes(), value.expose());
    }
    all.insert(MARK.as_bytes(), mark.as_bytes());
    wire::encode(instructions, all.into_iter())
        .map_err(|e| ReloadError::failed(format!("{}: its environment does not fit: {e}", process.name())))
}

fn explain(process: &Process, instructions: &Instructions, failure: &Failure) -> ReloadError {
    let error = failure.errno.map_or_else(|| io::Error::other(failure.text.clone()), io::Error::from_raw_os_error);
    let own = nix::unistd::geteuid();
    let what = match failure.step {
        Step::Read => "its instructions did not arrive".to_owned(),
        Step::Stdin => "its standard input".to_owned(),
        Step::Sockets => "the sockets that it is to listen on".to_owned(),
        Step::Limits => "its limit on core dumps".to_owned(),
        Step::Group | Step::User => {
            let who = match (&instructions.user, instructions.gid) {
                (Some((name, uid, _)), _) => format!("user {name} (uid {uid})"),
                (None, gid) => format!("group {}", gid.unwrap_or_default()),
            };
            format!("cannot become {who}; this agent runs as uid {own}, and only root may switch")
        }
        Step::Cwd => {
            format!("cannot enter cwd {}", instructions.cwd.as_deref().unwrap_or(std::path::Path::new("")).display())
        }
        Step::Exec => {
            let program = instructions.argv.first().map_or("", String::as_str);
            let text = format!("{}: cannot start: {}", process.name(), start_hint(program, &error));
            return if error.kind() == io::ErrorKind::PermissionDenied {
                ReloadError::denied(text)
            } else {
                ReloadError::failed(text)
            };
        }
    };
    let text = format!("{}: {what}: {error}", process.name());
    if error.kind() == io::ErrorKind::PermissionDenied { ReloadError::denied(text) } else { ReloadError::failed(text) }
}

/// Reaps a process whose group was ended.
pub(super) async fn reaped(name: &str, running: &mut Running) -> Result<Exit, ReloadError> {
    let pid = running.pid;
    let exit = match timeout(REAP_WAIT, running.reap()).await {
        Ok(exit) => exit,
        // Its first thread has ended, others have not: /proc shows it as a zombie.
        Err(_) => {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            timeout(REAP_WAIT, running.reap())
                .await
                .map_err(|_| ReloadError::timed_out(format!("{name} (pid {pid}) was killed but does not end")))?
        }
    };
    Ok(exit.unwrap_or_else(|error| unknown(&error)))
}

/// Its status was taken by somebody else.
fn unknown(error: &std::io::Error) -> Exit {
    tracing::error!(%error, "the exit status of a supervised process was lost");
    Exit::Code(255)
}

/// Resolves when the process has ended, if there is one.
pub(super) async fn reaped_if(running: &mut Option<Running>) -> Exit {
    match running {
        Some(running) => running.reap().await.unwrap_or_else(|error| unknown(&error)),
        None => std::future::pending().await,
    }
}
