//! What an agent that was killed left serving (`on_change: handover`): its listening sockets are taken over
//! (pidfd_getfd(2)), and it serves until a new process is settled. Where the system forbids that, it is ended first.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{SocketAddrUnix, SocketType, getsockname, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tokio::time::timeout;

use super::Exec;
use super::beside::Retired;
use super::handover::stopping;
use super::leaving::Leaving;
use super::leftover::{Except, Marks, Quarry};
use super::record::{Record, Slot};
use super::sockets::{Kept, Place, forget_private};
use crate::config::model::Listen;
use crate::process::procfs::{self, Stat};
use crate::reload::ReloadError;

/// How long those may wait who came to a process that was told to leave.
const EMPTIED_WITHIN: Duration = Duration::from_secs(5);

/// A recorded process that is alive, and the processes that belong to it.
struct Found {
    slot: Slot,
    record: Record,
    family: Vec<Stat>,
}

impl Exec {
    /// Looks for what serves, once in the agent's life. At most one process (with its descendants) is left alone then, beside
    /// one that drains; where none can be, the start that follows ends them all.
    pub(super) async fn adopt(&mut self) -> Result<(), ReloadError> {
        let (state_dir, target) = (self.process.state_dir(), self.process.context.target.clone());
        let records = Record::all(&state_dir, &target)
            .map_err(|e| ReloadError::failed(format!("cannot read which process ran before: {e}")))?;
        forget_private(&state_dir, &target);
        let drains = Found::first(&records, &[Slot::Leaving]).await?;
        match Found::first(&records, &[Slot::Serving, Slot::Trial]).await? {
            Some(serves) => self.adopt_serving(records, serves, drains).await,
            None => match drains {
                Some(drains) => self.adopt_draining(drains).await,
                None => Ok(()),
            },
        }
    }

    async fn adopt_serving(
        &mut self,
        records: Vec<(Slot, Record)>,
        serves: Found,
        drains: Option<Found>,
    ) -> Result<(), ReloadError> {
        let Found { slot, record, family } = serves;
        let left = records.iter().filter(|(slot, _)| *slot == Slot::Leaving).map(|(_, record)| record.pid).collect();
        let mut others = Quarry {
            records: records.into_iter().map(|(_, record)| record).collect(),
            marks: Marks::Target(self.process.mark.clone()),
            except: vec![Except::Process(record.clone())],
        };
        let (rivals, listen) = (others.find().await?, self.process.config.listen.clone());
        let taken =
            blocking(move || take_all(&family, &listen).map(|sockets| (gather(&sockets, &rivals, &left), sockets)));
        let taken = taken.await?;
        others.except.extend(drains.iter().map(|drains| Except::Process(drains.record.clone())));
        if let (Ok((retired, _)), None) = (&taken, &drains) {
            let _taken_or_refused = timeout(EMPTIED_WITHIN, retired.emptied()).await;
        }
        tokio::select! {
            ended = others.end(self.process.config.stop_timeout) => ended?,
            () = self.process.context.stop.cancelled() => return Err(stopping()),
        };
        let (target, pid) = (&self.process.context.target, record.pid);
        match taken {
            Ok((retired, sockets)) => {
                self.sockets = sockets;
                if slot != Slot::Serving {
                    self.rename(slot, Slot::Serving);
                }
                if let Some(drains) = drains {
                    self.drain_on(drains.record, retired);
                }
                tracing::info!(
                    target_name = %self.process.context.target, pid,
                    "a process of an agent before serves until a new one can"
                );
                self.orphan = Some(record);
            }
            Err(error) => tracing::warn!(
                target_name = %target, pid,
                "ending the process of an agent before: its sockets cannot be taken over ({error})"
            ),
        }
        Ok(())
    }

    /// What was to serve in its place has died with the agent. The next one shares its sockets, where they are still open.
    async fn adopt_draining(&mut self, drains: Found) -> Result<(), ReloadError> {
        let Found { record, family, .. } = drains;
        let listen = self.process.config.listen.clone();
        match blocking(move || take_all(&family, &listen)).await? {
            Ok(sockets) => {
                self.sockets = sockets;
                self.drain_on(record, Retired::none());
            }
            Err(error) => tracing::warn!(
                target_name = %self.process.context.target, pid = record.pid,
                "ending the process of an agent before, which drains: its sockets cannot be taken over ({error})"
            ),
        }
        Ok(())
    }

    fn drain_on(&mut self, record: Record, retired: Retired) {
        tracing::info!(target_name = %self.process.context.target, pid = record.pid, "a process of an agent before drains");
        let manner = self.manner(self.process.config.drain, retired);
        self.leaving.push(Leaving::orphan(record, manner));
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ReloadError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| ReloadError::failed(format!("cannot look at the processes of an agent before: {e}")))
}

impl Found {
    /// The first that is alive, in the order of these slots.
    async fn first(records: &[(Slot, Record)], slots: &[Slot]) -> Result<Option<Self>, ReloadError> {
        for wanted in slots {
            for (slot, record) in records.iter().filter(|(slot, _)| slot == wanted) {
                let family = Quarry::of(record).find().await?;
                if family.iter().any(|stat| stat.pid == record.pid && stat.start_ticks == record.start_ticks) {
                    return Ok(Some(Self { slot: *slot, record: record.clone(), family }));
                }
            }
        }
        Ok(None)
    }
}

/// Has all clients come to these sockets, and none to others at their addresses. Answers those at which some may wait that came
/// before: of processes that an agent before had told to leave. A process on trial had no clients.
fn gather(sockets: &[Arc<Kept>], rivals: &[Stat], left: &BTreeSet<i32>) -> Retired {
    let mut retired = Vec::new();
    for stat in rivals {
        let leaves = left.contains(&stat.pid) || left.contains(&stat.pgrp);
        for socket in listening(stat).unwrap_or_default() {
            let tcp = |kept: &&Arc<Kept>| matches!(kept.address, Listen::Tcp(_)) && is_at(&socket, &kept.address);
            let Some(kept) = sockets.iter().find(tcp) else { continue };
            let other = Kept::taken(kept.address.clone(), socket);
            if other.cookie() == kept.cookie() {
                continue;
            }
            if let Err(error) = kept.steer(if leaves { Place::Beside } else { Place::First }) {
                tracing::warn!(address = %kept.address, %error, "clients may still come to a process that is to end");
            }
            if leaves {
                retired.push(Arc::new(other));
            }
        }
    }
    Retired(retired)
}

/// A socket for each address: the family's, or a new one where it has none.
fn take_all(family: &[Stat], listen: &[Listen]) -> Result<Vec<Arc<Kept>>, String> {
    let mut found = Vec::new();
    let mut denied = None;
    for stat in family {
        match listening(stat) {
            Ok(sockets) => found.extend(sockets),
            Err(error) => denied = Some(format!("process {}: {error}", stat.pid)),
        }
    }
    let mut kept = Vec::new();
    for address in listen {
        let at = found.iter().position(|socket| is_at(socket, address));
        let socket = match at {
            Some(at) => Kept::taken(address.clone(), found.swap_remove(at)),
            None => Kept::open(address, listen).map_err(|error| match &denied {
                Some(denied) => denied.clone(),
                None => error.message,
            })?,
        };
        kept.push(Arc::new(socket));
    }
    Ok(kept)
}

/// Copies of the stream sockets that a process listens on. Needs what ptrace(2) needs.
fn listening(stat: &Stat) -> io::Result<Vec<OwnedFd>> {
    let pid = stat.pid;
    let Some(id) = Pid::from_raw(pid) else { return Ok(Vec::new()) };
    let process = pidfd_open(id, PidfdFlags::empty())?;
    // Held now; but is it still the one that was found?
    if procfs::stat(pid)?.is_none_or(|now| now.start_ticks != stat.start_ticks) {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let socket =
            fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        let number = entry.file_name().to_str().and_then(|number| number.parse().ok());
        let Some(number) = number.filter(|_| socket) else { continue };
        let copy = match pidfd_getfd(process.as_fd(), number, PidfdGetfdFlags::empty()) {
            Ok(copy) => copy,
            // Closed meanwhile.
            Err(rustix::io::Errno::BADF) => continue,
            Err(error) => return Err(error.into()),
        };
        if sockopt::socket_type(&copy) == Ok(SocketType::STREAM) && sockopt::socket_acceptconn(&copy) == Ok(true) {
            found.push(copy);
        }
    }
    Ok(found)
}

fn is_at(socket: &OwnedFd, address: &Listen) -> bool {
    let Ok(own) = getsockname(socket) else { return false };
    match address {
        Listen::Tcp(address) => SocketAddr::try_from(own).is_ok_and(|own| own == *address),
        Listen::Unix { path, .. } => SocketAddrUnix::try_from(own)
            .ok()
            .and_then(|own| own.path().map(|own| own.to_bytes() == path.as_os_str().as_encoded_bytes()))
            .unwrap_or(false),
    }
}
