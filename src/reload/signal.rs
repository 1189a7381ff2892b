//! `type: signal`: a signal to the process that a pidfile names.
//!
//! The order is what makes it safe: read the pidfile, take hold of the process (pidfd_open(2)), only then look whether it
//! is the right one, and send through what is held. A number that is reused in between cannot be hit.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep, timeout};

use super::{Change, GRACE, Reload, ReloadError, ReloadErrorKind, Taken};
use crate::config::model::{ExpectProcess, SignalReload};
use crate::process::pidfd::Pidfd;
use crate::process::procfs::{self, Disposition, Stat};

/// How much later than its pidfile was written a process may seem to have started.
const SLACK: Duration = Duration::from_secs(2);
/// A process younger than this may not have set its handlers up yet: it is waited for until it is as old. LiteLLM takes up
/// to 13 s on two cores, and a change that arrives meanwhile would be taken back for nothing.
const SETTING_UP: Duration = Duration::from_secs(20);
/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(20);
/// A signal that is seen blocked as often in a row is blocked for good, and not only while the process forks.
const BLOCKED_LOOKS: u32 = 15;
/// Between those looks.
const BLOCKED_LOOK: Duration = Duration::from_millis(2);
/// More than any pid needs.
const PIDFILE_MAX: u64 = 1024;
/// TMPFS_MAGIC, statfs(2).
const TMPFS: i64 = 0x0102_1994;

/// Tells the process named by a pidfile.
pub(super) struct SignalReloader {
    config: SignalReload,
}

/// The process, held and found to be the right one.
struct Found {
    pid: i32,
    pidfd: Pidfd,
}

impl SignalReloader {
    pub(super) fn new(config: SignalReload) -> Self {
        Self { config }
    }

    async fn tell(&self) -> Result<Taken, ReloadError> {
        let Some(found) = self.find()? else { return Ok(Taken::NotRunning) };
        signal_and_watch(found.pid, &found.pidfd, self.config.signal).await.map_err(|error| match error.kind {
            ReloadErrorKind::Denied => ReloadError::denied(format!(
                "pidfile {}: {error}. Run both as the same user (in a pod, one `runAsUser` for both containers), or give the agent CAP_KILL",
                self.config.pidfile.display()
            )),
            _ => error,
        })
    }

    /// None: the target is not running.
    fn find(&self) -> Result<Option<Found>, ReloadError> {
        let path = &self.config.pidfile;
        let Some(pidfile) = Pidfile::read(path)? else { return Ok(None) };
        let pid = pidfile.pid;
        let pidfd = match Pidfd::open(pid) {
            Ok(Some(pidfd)) => pidfd,
            Ok(None) => return Ok(None),
            Err(error) => return Err(ReloadError::absent(format!("pidfile {}: pid {pid}: {error}", path.display()))),
        };
        let stat = procfs::stat(pid).map_err(|e| ReloadError::absent(format!("cannot look at pid {pid}: {e}")))?;
        let Some(stat) = stat.filter(Stat::alive) else { return Ok(None) };
        if self.is_the_one(&pidfile, &stat)? { Ok(Some(Found { pid, pidfd })) } else { Ok(None) }
    }

    /// Ok(false): the pidfile is a leftover, and its number was given to another process.
    fn is_the_one(&self, pidfile: &Pidfile, stat: &Stat) -> Result<bool, ReloadError> {
        let (path, pid, expect) = (self.config.pidfile.display(), pidfile.pid, &self.config.expect);
        let expects = *expect != ExpectProcess::default();
        let mismatch = if expects { mismatch(expect, stat)? } else { None };
        let reused = pidfile.written.is_some_and(|written| stat.started_at() > written + SLACK);
        match mismatch {
            // `expect` outweighs the clock, which may have been stepped since.
            None if expects => return Ok(true),
            _ if reused => {
                let text = "the pidfile is stale: the process of that number started after it was written; if the clock was set since, name the process in `expect`";
                tracing::warn!(pidfile = %path, pid, "{text}");
                return Ok(false);
            }
            Some(text) => {
                let hint = "Is the pidfile stale, or `expect` wrong?";
                return Err(ReloadError::absent(format!("pidfile {path} names pid {pid}, but {text}. {hint}")));
            }
            None => {}
        }
        if pid == 1 {
            let hint = "A process that is 1 in a pid namespace of its own cannot be reached from here (in a pod: shareProcessNamespace: true). If the target is process 1 here, say so with `expect`";
            return Err(ReloadError::absent(format!("pidfile {path} names pid 1, which is init. {hint}")));
        }
        self.owner_is_plausible(pidfile)?;
        Ok(true)
    }

    /// Whoever can write the pidfile chooses what is signalled: it may be root, this agent's user, or the process's own.
    fn owner_is_plausible(&self, pidfile: &Pidfile) -> Result<(), ReloadError> {
        let uid = procfs::uid(pidfile.pid).ok().flatten();
        if [Some(0), Some(nix::unistd::geteuid().as_raw()), uid].contains(&Some(pidfile.owner)) {
            return Ok(());
        }
        let (path, pid, owner) = (self.config.pidfile.display(), pidfile.pid, pidfile.owner);
        Err(ReloadError::absent(format!(
            "pidfile {path} belongs to uid {owner}, but names pid {pid}, which runs as uid {}: refused. If that is right, say so with `expect`",
            uid.map_or("unknown".to_owned(), |uid| uid.to_string())
        )))
    }
}

impl Reload for SignalReloader {
    fn apply<'a>(&'a mut self, _change: Change<'a>) -> BoxFuture<'a, Result<Taken, ReloadError>> {
        Box::pin(self.tell())
    }

    fn running(&mut self) -> BoxFuture<'_, Result<bool, ReloadError>> {
        Box::pin(async { Ok(self.find()?.is_some()) })
    }
}

struct Pidfile {
    pid: i32,
    /// None: the clock was set since.
    written: Option<SystemTime>,
    owner: u32,
}

impl Pidfile {
    /// None: there is none.
    fn read(path: &Path) -> Result<Option<Self>, ReloadError> {
        let cannot = |error: std::io::Error| {
            let message = format!("cannot read pidfile {}: {error}", path.display());
            match error.kind() {
                std::io::ErrorKind::PermissionDenied => ReloadError::denied(message),
                _ => ReloadError::absent(message),
            }
        };
        // A fifo in its place must not hold the agent up.
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK;
        let file = match rustix::fs::open(path, flags, rustix::fs::Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(cannot(error.into())),
        };
        let about = file.metadata().map_err(cannot)?;
        if !about.is_file() {
            return Err(ReloadError::absent(format!("pidfile {} is not a regular file", path.display())));
        }
        // A file in memory cannot be older than the boot.
        let in_memory = rustix::fs::fstatfs(&file).is_ok_and(|fs| fs.f_type == TMPFS);
        let boot = SystemTime::now().checked_sub(procfs::since_boot()).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut bytes = Vec::new();
        file.take(PIDFILE_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
        let written = about.modified().map_err(cannot)?;
        let written = if in_memory && written < boot { None } else { Some(written) };
        let pid = parse_pid(&bytes).map_err(|why| {
            ReloadError::absent(format!("pidfile {} {why}: it must hold one process id", path.display()))
        })?;
        if pid.unsigned_abs() == std::process::id() {
            let namespace = match pid {
                1 => {
                    ". The target seems to be process 1 of a pid namespace of its own (in a pod: set shareProcessNamespace: true)"
                }
                _ => "",
            };
            return Err(ReloadError::absent(format!(
                "pidfile {} names this agent itself (pid {pid}){namespace}",
                path.display()
            )));
        }
        Ok(Some(Self { pid, written, owner: about.uid() }))
    }
}

/// Digits, with white space around them; some daemons write more lines (postmaster.pid), of which the first counts.
fn parse_pid(bytes: &[u8]) -> Result<i32, &'static str> {
    let first = bytes.split(|b| *b == b'\n').next().unwrap_or_default().trim_ascii();
    if first.is_empty() {
        return Err("is empty");
    }
    if !first.iter().all(u8::is_ascii_digit) {
        return Err("holds something that is not a number");
    }
    match std::str::from_utf8(first).ok().and_then(|digits| digits.parse::<i32>().ok()) {
        Some(pid) if pid > 0 => Ok(pid),
        _ => Err("holds a number that is no process id"),
    }
}

/// What is wrong with the process, if anything: `it runs /bin/a, not the expected /bin/b`.
fn mismatch(expect: &ExpectProcess, stat: &Stat) -> Result<Option<String>, ReloadError> {
    let look = |error: std::io::Error| {
        let message = format!("cannot look at pid {}: {error}", stat.pid);
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => ReloadError::denied(format!(
                "{message}. `expect.exe` of another user's process can only be read by root: expect `comm` or `uid` instead"
            )),
            _ => ReloadError::failed(message),
        }
    };
    let mut wrong = Vec::new();
    if let Some(expected) = &expect.exe {
        match procfs::exe(stat.pid).map_err(look)? {
            Some(exe) if same_program(&exe, expected) => {}
            Some(exe) => wrong.push(format!("it runs {}, not the expected {}", exe.display(), expected.display())),
            None => wrong.push("it has just ended".to_owned()),
        }
    }
    if let Some(expected) = &expect.comm {
        // The kernel keeps 15 bytes.
        let kept = expected.as_bytes().get(..15).unwrap_or(expected.as_bytes());
        if stat.comm.as_bytes() != kept {
            wrong.push(format!("its name is `{}`, not the expected `{expected}`", stat.comm));
        }
    }
    if let Some(expected) = expect.uid {
        match procfs::uid(stat.pid).map_err(look)? {
            Some(uid) if uid == expected => {}
            Some(uid) => wrong.push(format!("it runs as uid {uid}, not the expected {expected}")),
            None => wrong.push("it has just ended".to_owned()),
        }
    }
    Ok(if wrong.is_empty() { None } else { Some(wrong.join(", ")) })
}

/// The same path, whether or not one of them goes over symlinks, and also after the file was replaced by an upgrade.
fn same_program(exe: &Path, expected: &Path) -> bool {
    let shown = exe.to_string_lossy();
    let exe = Path::new(shown.strip_suffix(" (deleted)").unwrap_or(&shown));
    exe == expected || std::fs::canonicalize(expected).is_ok_and(|real| real == exe)
}

/// Sends `signal` to a process that is held, if that does not simply end it, and watches whether it lives on.
pub(super) async fn signal_and_watch(pid: i32, pidfd: &Pidfd, signal: Signal) -> Result<Taken, ReloadError> {
    let Some(disposition) = settled_disposition(pid, signal).await? else { return Ok(Taken::NotRunning) };
    match disposition {
        Disposition::Handled | Disposition::Blocked => {}
        Disposition::Ignored => {
            return Err(ReloadError::failed(format!("process {pid} ignores {signal}: it was not told of the change")));
        }
        Disposition::Ends => {
            let hint = "use another signal, or a restart";
            return Err(ReloadError::failed(format!(
                "process {pid} does not handle {signal}, which would end it: not sent; {hint}"
            )));
        }
    }
    match pidfd.send(signal) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => return Ok(Taken::NotRunning),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let owner = procfs::uid(pid).ok().flatten().map_or("another user".to_owned(), |uid| format!("uid {uid}"));
            let own = nix::unistd::geteuid();
            return Err(ReloadError::denied(format!(
                "not allowed to send {signal} to process {pid}: it belongs to {owner}, this agent runs as uid {own}"
            )));
        }
        Err(error) => return Err(ReloadError::failed(format!("cannot send {signal} to process {pid}: {error}"))),
    }
    match timeout(GRACE, pidfd.ended()).await {
        Err(_still_there) => Ok(Taken::Done),
        Ok(Ok(())) => Err(ReloadError::failed(format!(
            "{signal} ended process {pid}: it does not handle it, or could not go on with what it read"
        ))),
        Ok(Err(error)) => Err(ReloadError::failed(format!("cannot watch process {pid}: {error}"))),
    }
}

/// What the process does with the signal, once it is old enough to have made up its mind. `Blocked` only if it stays so.
async fn settled_disposition(pid: i32, signal: Signal) -> Result<Option<Disposition>, ReloadError> {
    let deadline = Instant::now() + SETTING_UP;
    let mut blocked = 0;
    loop {
        let cannot = |e| ReloadError::failed(format!("cannot look at pid {pid}: {e}"));
        let Some(stat) = procfs::stat(pid).map_err(cannot)?.filter(Stat::alive) else { return Ok(None) };
        let young = stat.age() < SETTING_UP && Instant::now() < deadline;
        let pause = match procfs::disposition(pid, signal).map_err(cannot)? {
            Some(Disposition::Blocked) if blocked < BLOCKED_LOOKS => {
                blocked += 1;
                BLOCKED_LOOK
            }
            Some(Disposition::Ignored | Disposition::Ends) if young => {
                blocked = 0;
                LOOK
            }
            settled => return Ok(settled),
        };
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_process_id_is_a_pidfile() {
        assert_eq!(parse_pid(b"42"), Ok(42));
        assert_eq!(parse_pid(b" 42 \n"), Ok(42));
        assert_eq!(parse_pid(b"42\n/var/lib/postgresql\n1747000000\n"), Ok(42));
        for bad in [&b""[..], b"\n", b"0", b"-1", b"+5", b"4 2", b"0x10", b"99999999999", b"pid 4", b"4\0", b"\xff"] {
            assert!(parse_pid(bad).is_err(), "{bad:?}");
        }
    }
}
