//! What `/proc` tells about a process (proc(5)). Every answer is a moment's: the process may be gone when it is read.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use rustix::time::{ClockId, clock_gettime};

/// `/proc/PID/stat`, as far as it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Process id.
    pub pid: i32,
    /// The kernel's short name, at most 15 bytes.
    pub comm: String,
    /// `R`, `S`, `D`, `T`, `Z`, …
    pub state: char,
    /// Parent.
    pub ppid: i32,
    /// Process group.
    pub pgrp: i32,
    /// Session.
    pub session: i32,
    /// When it started, in clock ticks after boot. With the pid and the boot id it names a process for good.
    pub start_ticks: u64,
}

impl Stat {
    /// False for a zombie: it has ended, and only waits to be reaped.
    pub fn alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// How long ago it started (by CLOCK_BOOTTIME, which no one can set).
    pub fn age(&self) -> Duration {
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        let started = Duration::from_secs(self.start_ticks / ticks)
            + Duration::from_nanos((self.start_ticks % ticks).saturating_mul(1_000_000_000 / ticks));
        since_boot().saturating_sub(started)
    }

    /// When it started by the wall clock of now: a clock that was stepped since moves the answer.
    pub fn started_at(&self) -> SystemTime {
        SystemTime::now().checked_sub(self.age()).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// Time since boot, suspend included.
pub fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// The process's stat line. None: there is no such process.
pub fn stat(pid: i32) -> io::Result<Option<Stat>> {
    match fs::read(format!("/proc/{pid}/stat")) {
        Ok(line) => parse_stat(&String::from_utf8_lossy(&line)).map(Some).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is not as proc(5) has it"))
        }),
        Err(error) if gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Fields after the last `)`: the name before it may hold spaces and parentheses.
fn parse_stat(line: &str) -> Option<Stat> {
    let (head, tail) = line.rsplit_once(')')?;
    let (pid, comm) = head.split_once('(')?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    Some(Stat {
        pid: pid.trim().parse().ok()?,
        comm: comm.to_owned(),
        state: fields.first()?.chars().next()?,
        ppid: fields.get(1)?.parse().ok()?,
        pgrp: fields.get(2)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ESRCH)
}

/// Every process that can be seen.
pub fn all() -> io::Result<Vec<Stat>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry.ok().and_then(|e| e.file_name().to_str().and_then(|n| n.parse().ok())) else { continue };
        if let Ok(Some(stat)) = stat(pid) {
            found.push(stat);
        }
    }
    Ok(found)
}

/// The process's effective user id. None: there is no such process.
pub fn uid(pid: i32) -> io::Result<Option<u32>> {
    let Some(status) = status(pid)? else { return Ok(None) };
    let uid = field(&status, "Uid:").and_then(|uids| uids.split_ascii_whitespace().nth(1)?.parse().ok());
    // The owner of the folder is root for a process that may not be dumped: only a refuge.
    Ok(uid.or_else(|| fs::metadata(format!("/proc/{pid}")).ok().map(|m| m.uid())))
}

/// The program it runs. None: there is no such process. Another user's may not be asked (PermissionDenied).
pub fn exe(pid: i32) -> io::Result<Option<PathBuf>> {
    match fs::read_link(format!("/proc/{pid}/exe")) {
        Ok(path) => Ok(Some(path)),
        Err(error) if gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a process does with a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// It has a handler for it.
    Handled,
    /// It holds it back: for good, to take it with sigwait(3) or signalfd(2), or for the moment in which it forks.
    Blocked,
    /// It is discarded.
    Ignored,
    /// The signal's default action ends (or stops) the process.
    Ends,
}

/// What the process does with `signal`, by its main thread's masks. None: there is no such process.
pub fn disposition(pid: i32, signal: Signal) -> io::Result<Option<Disposition>> {
    let Some(status) = status(pid)? else { return Ok(None) };
    let has = |name| {
        field(&status, name).and_then(|m| u64::from_str_radix(m, 16).ok()).unwrap_or(0) >> (signal as i32 - 1) & 1 == 1
    };
    Ok(Some(if has("SigCgt:") {
        Disposition::Handled
    } else if has("SigBlk:") {
        Disposition::Blocked
    } else if has("SigIgn:") || matches!(signal, Signal::SIGCHLD | Signal::SIGCONT | Signal::SIGURG | Signal::SIGWINCH)
    {
        Disposition::Ignored
    } else {
        Disposition::Ends
    }))
}

fn status(pid: i32) -> io::Result<Option<String>> {
    match fs::read(format!("/proc/{pid}/status")) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(error) if gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Whether the environment that the process was started with has a variable of which `accept` likes the value.
/// False where it cannot be read. Does not see what a process changed later, unless it wrote over the same memory.
pub fn environ_has(pid: i32, name: &str, accept: impl Fn(&[u8]) -> bool) -> bool {
    let Ok(environ) = fs::read(format!("/proc/{pid}/environ")).map(zeroize::Zeroizing::new) else { return false };
    environ
        .split(|b| *b == 0)
        .any(|variable| variable.strip_prefix(name.as_bytes()).and_then(|v| v.strip_prefix(b"=")).is_some_and(&accept))
}

/// Whether the process is in the middle of execve(2): its old memory is gone, and its new environment is not written yet,
/// so that [`environ_has`] cannot find what is about to be there. False where that may not be known.
pub fn in_execve(pid: i32) -> bool {
    // Only whoever may read `exe` gets the real addresses; a kernel thread has none, and no `exe` either.
    let env_start = || {
        let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        line.rsplit_once(')')?.1.split_ascii_whitespace().nth(ENV_START)?.parse::<u64>().ok()
    };
    env_start() == Some(0) && fs::read_link(format!("/proc/{pid}/exe")).is_ok() && env_start() == Some(0)
}

/// `env_start` is field 50 of proc_pid_stat(5); `state`, the first after the name, is field 3.
const ENV_START: usize = 50 - 3;

/// The kernel's id of this boot: start ticks of different boots must not be compared.
pub fn boot_id() -> io::Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let read = fs::read_to_string(path).map_err(|error| {
        let hint =
            if error.kind() == io::ErrorKind::NotFound { " (in a unit with ProcSubset=pid it is not)" } else { "" };
        io::Error::new(error.kind(), format!("{path}: {error}{hint}"))
    });
    Ok(read?.trim().to_owned())
}

/// The process's own children, zombies included.
pub fn children() -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        match fs::read_to_string(task?.path().join("children")) {
            Ok(list) => found.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok())),
            // A kernel without CONFIG_PROC_CHILDREN, or a thread that has just ended: look at everything.
            Err(_) => {
                let own = i32::try_from(std::process::id()).unwrap_or(0);
                return Ok(all()?.into_iter().filter(|stat| stat.ppid == own).map(|stat| stat.pid).collect());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let line = "42 (a) (b c)) S 1 42 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.pid, stat.comm.as_str(), stat.state), (42, "a) (b c)", 'S'));
        assert_eq!((stat.ppid, stat.pgrp, stat.session, stat.start_ticks), (1, 42, 7, 987_654));
        assert!(parse_stat("42 (cut").is_none());
        assert!(parse_stat("42 (cut) S 1 2").is_none());
    }

    #[test]
    fn a_process_knows_itself() {
        let own = i32::try_from(std::process::id()).unwrap();
        let stat = stat(own).unwrap().unwrap();
        assert_eq!(stat.pid, own);
        assert!(stat.alive());
        assert!(stat.age() < Duration::from_secs(600), "{:?}", stat.age());
        assert_eq!(uid(own).unwrap(), Some(nix::unistd::geteuid().as_raw()));
        assert_eq!(exe(own).unwrap(), Some(std::env::current_exe().unwrap()));
        assert!(environ_has(own, "PATH", |path| !path.is_empty()));
        assert!(!environ_has(own, "PAT", |_| true));
        assert_eq!(disposition(own, Signal::SIGKILL).unwrap(), Some(Disposition::Ends));
        // Rust's runtime ignores it; but the main thread blocks everything for a moment while it starts a thread.
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while disposition(own, Signal::SIGPIPE).unwrap() != Some(Disposition::Ignored) {
            assert!(std::time::Instant::now() < deadline);
        }
        assert!(all().unwrap().iter().any(|s| s.pid == own));
    }

    #[test]
    fn a_process_that_has_come_to_run_is_not_in_execve() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!in_execve(own) && !in_execve(i32::MAX));
        let mut bare = std::process::Command::new("sleep").arg("60").env_clear().spawn().unwrap();
        let pid = i32::try_from(bare.id()).unwrap();
        assert!(!in_execve(pid), "an empty environment is one, too");
        bare.kill().unwrap();
        bare.wait().unwrap();
    }

    #[test]
    fn a_process_is_seen_in_execve_when_its_environment_is_not_there_yet() {
        // PF_EXITING in flags, field 9: one that ends has no environment any more.
        let ends = |pid: i32| {
            let line = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let flags =
                line.rsplit_once(')').and_then(|(_, tail)| tail.split_ascii_whitespace().nth(9 - 3)?.parse().ok());
            flags.is_none_or(|flags: u64| flags & 4 != 0)
        };
        // One program after the other, all with the mark.
        let script = "i=0; while [ $i -lt 400 ]; do i=$((i+1)); /bin/true; done";
        let mut shell =
            std::process::Command::new("sh").args(["-c", script]).env("MARK_OF_A_TEST", "1").spawn().unwrap();
        let parent = i32::try_from(shell.id()).unwrap();
        while shell.try_wait().unwrap().is_none() {
            for stat in all().unwrap().into_iter().filter(|stat| stat.ppid == parent) {
                let marked = || environ_has(stat.pid, "MARK_OF_A_TEST", |_| true);
                // Several looks make one: on a busy machine it may go from one state to the next between any two of them.
                let seen = || marked() || in_execve(stat.pid) || marked() || ends(stat.pid);
                assert!(seen() || seen(), "{stat:?}");
            }
        }
    }

    #[test]
    fn a_pid_that_is_not_there_is_none() {
        assert_eq!(stat(i32::MAX).unwrap(), None);
        assert_eq!(uid(i32::MAX).unwrap(), None);
        assert_eq!(exe(i32::MAX).unwrap(), None);
    }
}
