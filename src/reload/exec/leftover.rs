//! Finding and ending what belongs to a target: its process, its group, and every descendant that still carries the
//! mark in its environment, also from an agent that was killed. Nothing new starts before all of it is gone.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use tokio::time::{Instant, timeout_at};

use super::record::Record;
use crate::digest::Key;
use crate::process::pidfd::Pidfd;
use crate::process::procfs::{self, Stat};
use crate::process::reap;
use crate::reload::ReloadError;

/// The variable that marks a supervised process and its descendants: `DIGEST/TARGET`, the digest one of the state
/// directory under its own key.
pub const MARK: &str = "LEASEHOLD_PROCESS";
/// How long a killed process may take to be gone: longer only if it hangs in the kernel.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// Between two rounds of KILL.
const KILL_ROUND: Duration = Duration::from_millis(200);

/// What was ended at the agent's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Of which target; None for processes found by their mark whose target is not known any more.
    pub target: Option<String>,
    /// How many processes.
    pub processes: usize,
}

/// The mark's first half: names a state directory, and says nothing of it.
pub(super) fn digest(key: &Key, state_dir: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    key.digest("supervised-process").part(state_dir.as_os_str().as_bytes()).hex(8)
}

/// Ends what an agent on this state directory left running when it was killed: TERM, then KILL after the target's
/// `stop_timeout` (asked with None for a target that is not known any more), and waits until all of it is gone. No
/// target waits for another's. For the agent's start, once it holds the lock on the state directory; each start of a
/// process does the same again for its own target.
pub async fn sweep_leftovers(
    state_dir: &Path,
    key: &Key,
    stop_timeout: impl Fn(Option<&str>) -> Duration,
) -> Result<Vec<Leftover>, ReloadError> {
    let cannot = |e| ReloadError::failed(format!("cannot look for leftover processes in {}: {e}", state_dir.display()));
    let targets = Record::targets(state_dir).map_err(cannot)?;
    let sweeps = targets.into_iter().map(|target| {
        let stop_timeout = stop_timeout(Some(&target));
        async move {
            let quarry = Quarry {
                record: Record::read(state_dir, &target).map_err(cannot)?,
                mark: mark(key, state_dir, &target),
                any: false,
            };
            let processes = quarry.end(stop_timeout).await?;
            Record::remove(state_dir, &target).map_err(cannot)?;
            Ok(Leftover { target: Some(target), processes })
        }
    });
    let swept: Vec<Leftover> = join_all(sweeps).await.into_iter().collect::<Result<_, ReloadError>>()?;
    let mut swept: Vec<Leftover> = swept.into_iter().filter(|leftover| leftover.processes > 0).collect();
    let rest = Quarry { record: None, mark: format!("{}/", digest(key, state_dir)), any: true };
    let processes = rest.end(stop_timeout(None)).await?;
    if processes > 0 {
        swept.push(Leftover { target: None, processes });
    }
    Ok(swept)
}

/// The whole mark of a target.
pub(super) fn mark(key: &Key, state_dir: &Path, target: &str) -> String {
    format!("{}/{target}", digest(key, state_dir))
}

/// What is to be ended.
#[derive(Debug, Clone)]
pub(super) struct Quarry {
    /// The process that was started, and with it its group.
    pub record: Option<Record>,
    /// The mark.
    pub mark: String,
    /// Whether `mark` is only the beginning of it.
    pub any: bool,
}

impl Quarry {
    /// TERM to all, KILL to what is left after `stop_timeout`; answers how many there were. What it answers `Ok` for is
    /// gone, or a zombie of somebody else's. An error: something may still run.
    pub(super) async fn end(&self, stop_timeout: Duration) -> Result<usize, ReloadError> {
        let kill_at = Instant::now() + stop_timeout;
        let mut told = BTreeSet::new();
        loop {
            let found = self.find().await?;
            if found.is_empty() {
                reap::reap_orphans();
                return Ok(told.len());
            }
            let now = Instant::now();
            if now >= kill_at + KILL_WAIT {
                let pids: Vec<String> = found.iter().map(|stat| stat.pid.to_string()).collect();
                return Err(ReloadError::failed(format!(
                    "KILL did not end process {}: it hangs in the kernel (a dead network filesystem or device?); nothing is started beside it",
                    pids.join(", ")
                )));
            }
            let kill = now >= kill_at;
            let mut held = Vec::new();
            for stat in &found {
                let first = told.insert((stat.pid, stat.start_ticks));
                let signals: &[Signal] = match (kill, first) {
                    (true, _) => &[Signal::SIGKILL],
                    // A stopped process takes its TERM only when it goes on.
                    (false, true) => &[Signal::SIGTERM, Signal::SIGCONT],
                    (false, false) => &[],
                };
                held.extend(send(stat, signals)?);
            }
            let round = if kill { now + KILL_ROUND } else { kill_at };
            let _ = timeout_at(round, join_all(held.iter().map(Pidfd::ended))).await;
        }
    }

    /// Off the runtime's thread: reading the environment of a process that hangs in the kernel can hang too.
    async fn find(&self) -> Result<Vec<Stat>, ReloadError> {
        let quarry = self.clone();
        let found = tokio::task::spawn_blocking(move || quarry.look()).await.map_err(io::Error::other);
        found.and_then(|found| found).map_err(|e| ReloadError::failed(format!("cannot read /proc: {e}")))
    }

    fn look(&self) -> io::Result<Vec<Stat>> {
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let record = self.record.as_ref().filter(|record| record.of_this_boot());
        let all = procfs::all()?;
        let leader = record.and_then(|record| all.iter().find(|stat| stat.pid == record.pid)).cloned();
        let ours = |stat: &Stat| {
            record.is_some_and(|record| record.covers(stat, leader.as_ref()))
                || procfs::environ_has(stat.pid, MARK, |value| {
                    if self.any { value.starts_with(self.mark.as_bytes()) } else { value == self.mark.as_bytes() }
                })
        };
        Ok(all.into_iter().filter(|stat| stat.alive() && stat.pid != own && ours(stat)).collect())
    }
}

/// Signals exactly the process that was found. None: it is gone.
fn send(stat: &Stat, signals: &[Signal]) -> Result<Option<Pidfd>, ReloadError> {
    let failed = |error: io::Error| {
        let message = format!("cannot end process {} (`{}`): {error}", stat.pid, stat.comm);
        if error.kind() == io::ErrorKind::PermissionDenied {
            ReloadError::denied(format!("{message}: it runs as another user"))
        } else {
            ReloadError::failed(message)
        }
    };
    let Some(pidfd) = Pidfd::open(stat.pid).map_err(failed)? else { return Ok(None) };
    // Held now; but is it still the one that was found?
    match procfs::stat(stat.pid).map_err(failed)? {
        Some(now) if now.start_ticks == stat.start_ticks => {}
        _ => return Ok(None),
    }
    for signal in signals {
        match pidfd.send(*signal) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => return Ok(None),
            other => other.map_err(failed)?,
        }
    }
    Ok(Some(pidfd))
}
