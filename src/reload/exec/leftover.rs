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
/// directory under its own key; with `on_change: handover`, `DIGEST/TARGET#SERIAL`, so that two are told apart.
pub const MARK: &str = "LEASEHOLD_PROCESS";
/// How long a killed process may take to be gone: longer only if it hangs in the kernel.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// How long a process may take in execve(2): longer only on a filesystem that hangs.
const EXECVE_WAIT: Duration = Duration::from_secs(2);
/// Between two looks at one.
const EXECVE_LOOK: Duration = Duration::from_millis(1);
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
/// process does the same again for its own target. A target that is to be spared is left for that: its process serves
/// until a new one has taken its place.
pub async fn sweep_leftovers(
    state_dir: &Path,
    key: &Key,
    stop_timeout: impl Fn(Option<&str>) -> Duration,
    spare: impl Fn(&str) -> bool,
) -> Result<Vec<Leftover>, ReloadError> {
    let cannot = |e| ReloadError::failed(format!("cannot look for leftover processes in {}: {e}", state_dir.display()));
    let targets = Record::targets(state_dir).map_err(cannot)?;
    let (spared, targets): (Vec<String>, Vec<String>) = targets.into_iter().partition(|target| spare(target));
    let sweeps = targets.into_iter().map(|target| {
        let stop_timeout = stop_timeout(Some(&target));
        async move {
            let quarry = Quarry {
                records: records(state_dir, &target).map_err(cannot)?,
                marks: Marks::Target(mark(key, state_dir, &target)),
                except: Vec::new(),
            };
            let processes = quarry.end(stop_timeout).await?;
            Record::remove_all(state_dir, &target).map_err(cannot)?;
            Ok(Leftover { target: Some(target), processes })
        }
    });
    let swept: Vec<Leftover> = join_all(sweeps).await.into_iter().collect::<Result<_, ReloadError>>()?;
    let mut swept: Vec<Leftover> = swept.into_iter().filter(|leftover| leftover.processes > 0).collect();
    let except = spared.iter().map(|target| Except::Target(mark(key, state_dir, target)));
    let marks = Marks::All(format!("{}/", digest(key, state_dir)));
    let rest = Quarry { records: Vec::new(), marks, except: except.collect() };
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

/// The records of a target's processes, whatever they are to it.
pub(super) fn records(state_dir: &Path, target: &str) -> io::Result<Vec<Record>> {
    Ok(Record::all(state_dir, target)?.into_iter().map(|(_, record)| record).collect())
}

/// Which marks.
#[derive(Debug, Clone)]
pub(super) enum Marks {
    /// This one: of one process and its descendants.
    One(String),
    /// All of a target.
    Target(String),
    /// All that begin so: of a state directory.
    All(String),
}

impl Marks {
    fn cover(&self, value: &[u8]) -> bool {
        match self {
            Self::One(mark) => value == mark.as_bytes(),
            Self::Target(mark) => {
                value.strip_prefix(mark.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'#')
            }
            Self::All(beginning) => value.starts_with(beginning.as_bytes()),
        }
    }
}

/// What is left alone.
#[derive(Debug, Clone)]
pub(super) enum Except {
    /// A process, its group, and its descendants.
    Process(Record),
    /// All of a target that has this mark.
    Target(String),
}

/// What is to be ended.
#[derive(Debug, Clone)]
pub(super) struct Quarry {
    /// The processes that were started, and with them their groups.
    pub records: Vec<Record>,
    /// Their marks.
    pub marks: Marks,
    /// What is not to be ended.
    pub except: Vec<Except>,
}

impl Quarry {
    /// One process and what came of it.
    pub(super) fn of(record: &Record) -> Self {
        Self { records: vec![record.clone()], marks: Marks::One(record.mark.clone()), except: Vec::new() }
    }

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

    fn spares(&self, mark: &[u8]) -> bool {
        self.except.iter().any(|except| match except {
            Except::Process(record) => mark == record.mark.as_bytes(),
            Except::Target(target) => Marks::Target(target.clone()).cover(mark),
        })
    }

    /// What there is of it, alive. Off the runtime's thread: reading the environment of a process that hangs in the kernel can hang too.
    pub(super) async fn find(&self) -> Result<Vec<Stat>, ReloadError> {
        let quarry = self.clone();
        let found = tokio::task::spawn_blocking(move || quarry.look()).await.map_err(io::Error::other);
        found.and_then(|found| found).map_err(|e| ReloadError::failed(format!("cannot read /proc: {e}")))
    }

    /// Never takes a process for a stranger because it is just being replaced by another program.
    fn look(&self) -> io::Result<Vec<Stat>> {
        let until = Instant::now() + EXECVE_WAIT;
        loop {
            let (found, undecided) = self.look_once()?;
            if !found.is_empty() || !undecided || Instant::now() >= until {
                return Ok(found);
            }
            std::thread::sleep(EXECVE_LOOK);
        }
    }

    /// Also answers whether there is a process of which it cannot be said.
    fn look_once(&self) -> io::Result<(Vec<Stat>, bool)> {
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let all = procfs::all()?;
        let families: Vec<Family> = self.records.iter().filter_map(|record| Family::of(record, &all)).collect();
        let spared = self.except.iter().filter_map(|except| match except {
            Except::Process(record) => Family::of(record, &all),
            Except::Target(_) => None,
        });
        let spared: Vec<Family> = spared.collect();
        let ours = |stat: &Stat| {
            if spared.iter().any(|family| family.covers(stat)) {
                return false;
            }
            families.iter().any(|family| family.covers(stat))
                || procfs::environ_has(stat.pid, MARK, |value| self.marks.cover(value) && !self.spares(value))
        };
        let alive = all.into_iter().filter(|stat| stat.alive() && stat.pid != own);
        let (found, strangers): (Vec<Stat>, Vec<Stat>) = alive.partition(ours);
        // Asked after its environment: one that has come out of execve(2) in between must be asked again.
        let undecided = found.is_empty() && strangers.iter().any(|stat| procfs::in_execve(stat.pid) || ours(stat));
        Ok((found, undecided))
    }
}

/// A recorded process and its group, as they are now.
struct Family<'a> {
    record: &'a Record,
    leader: Option<Stat>,
}

impl<'a> Family<'a> {
    fn of(record: &'a Record, all: &[Stat]) -> Option<Self> {
        let leader = || all.iter().find(|stat| stat.pid == record.pid).cloned();
        record.of_this_boot().then(|| Self { record, leader: leader() })
    }

    fn covers(&self, stat: &Stat) -> bool {
        self.record.covers(stat, self.leader.as_ref())
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
