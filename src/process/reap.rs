//! Reaping of orphans: what an init process (or a subreaper, prctl(2)) owes to processes that nobody else waits for.
//!
//! A status that someone waits for is never taken: processes that this crate started are registered here, and whatever
//! else is in the agent's own process group belongs to a library that spawned it. An adopted orphan is neither: each
//! process that the agent starts leads a group of its own, and its descendants live there or in sessions of theirs.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp};

use super::procfs;

static OWNED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn owned() -> MutexGuard<'static, BTreeSet<i32>> {
    OWNED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child whose status this crate waits for itself. Dropped when it was reaped.
#[derive(Debug)]
pub struct Owned(i32);

impl Drop for Owned {
    fn drop(&mut self) {
        owned().remove(&self.0);
    }
}

/// Spawns and registers in one step, so that the reaper cannot come between.
pub fn spawn_owned(command: &mut tokio::process::Command) -> io::Result<(tokio::process::Child, i32, Owned)> {
    let mut owned = owned();
    let child = command.spawn()?;
    let pid =
        child.id().and_then(|pid| i32::try_from(pid).ok()).ok_or_else(|| io::Error::other("a child without a pid"))?;
    owned.insert(pid);
    Ok((child, pid, Owned(pid)))
}

/// Makes this process the one that orphaned descendants fall to, where it is not init already.
pub fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Reaps every orphan that has ended, without waiting; answers how many.
pub fn reap_orphans() -> usize {
    // Held throughout: a child that is being spawned is not registered yet.
    let owned = owned();
    let group = getpgrp().as_raw();
    let mut reaped = 0;
    for pid in procfs::children().unwrap_or_default() {
        if owned.contains(&pid) {
            continue;
        }
        let Ok(Some(stat)) = procfs::stat(pid) else { continue };
        if !stat.alive() && stat.pgrp != group {
            let status = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
            reaped += usize::from(matches!(status, Ok(s) if s != WaitStatus::StillAlive));
        }
    }
    reaped
}

/// Reaps orphans whenever a child ends, for ever. The wiring spawns it once, after [`become_subreaper`] where the agent
/// supervises a process, or where the agent is process 1. An error means that SIGCHLD could not be watched.
pub async fn reap_for_ever() -> io::Result<()> {
    let mut signals = signal_hook_tokio::Signals::new([signal_hook::consts::SIGCHLD])?;
    reap_orphans();
    while signals.next().await.is_some() {
        reap_orphans();
    }
    Ok(())
}
