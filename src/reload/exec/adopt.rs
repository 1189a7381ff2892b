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
use super::leftover::{Except, Marks, Quarry};
use super::record::{Record, Slot};
use super::sockets::{Kept, Place, forget_private};
use crate::config::model::Listen;
use crate::process::procfs::Stat;
use crate::reload::ReloadError;

/// How long those may wait who came to a process that was told to leave.
const EMPTIED_WITHIN: Duration = Duration::from_secs(5);

impl Exec {
    /// Looks for what serves, once in the agent's life. At most one process (with its descendants) is left alone then; where
    /// none can be, the start that follows ends them all.
    pub(super) async fn adopt(&mut self) -> Result<(), ReloadError> {
        let (state_dir, target) = (self.process.state_dir(), self.process.context.target.clone());
        let records = Record::all(&state_dir, &target)
            .map_err(|e| ReloadError::failed(format!("cannot read which process ran before: {e}")))?;
        forget_private(&state_dir, &target);
        let Some((slot, record, family)) = serving(&records).await? else { return Ok(()) };
        let left = records.iter().filter(|(slot, _)| *slot == Slot::Leaving).map(|(_, record)| record.pid).collect();
        let others = Quarry {
            records: records.into_iter().map(|(_, record)| record).collect(),
            marks: Marks::Target(self.process.mark.clone()),
            except: vec![Except::Process(record.clone())],
        };
        let (rivals, listen) = (others.find().await?, self.process.config.listen.clone());
        let sockets = tokio::task::spawn_blocking(move || {
            take_all(&family, &listen).map(|sockets| (gather(&sockets, &rivals, &left), sockets))
        });
        let sockets = sockets.await;
        if let Ok(Ok((retired, _))) = &sockets {
            let _taken_or_refused = timeout(EMPTIED_WITHIN, retired.emptied()).await;
        }
        others.end(self.process.config.stop_timeout).await?;
        let pid = record.pid;
        match sockets.map_err(io::Error::other) {
            Ok(Ok((_, sockets))) => {
                self.sockets = sockets;
                if slot != Slot::Serving {
                    self.rename(slot, Slot::Serving);
                }
                self.orphan = Some(record);
                tracing::info!(target_name = %target, pid, "a process of an agent before serves until a new one can");
            }
            Ok(Err(error)) => {
                tracing::warn!(
                    target_name = %target, pid,
                    "ending the process of an agent before: its sockets cannot be taken over ({error})"
                );
            }
            Err(error) => return Err(ReloadError::failed(format!("cannot look at process {pid}: {error}"))),
        }
        Ok(())
    }
}

/// The recorded process that serves, if it is alive, and the processes that belong to it.
async fn serving(records: &[(Slot, Record)]) -> Result<Option<(Slot, Record, Vec<Stat>)>, ReloadError> {
    for wanted in [Slot::Serving, Slot::Trial] {
        for (slot, record) in records.iter().filter(|(slot, _)| *slot == wanted) {
            let family = Quarry::of(record).find().await?;
            if family.iter().any(|stat| stat.pid == record.pid) {
                return Ok(Some((*slot, record.clone(), family)));
            }
        }
    }
    Ok(None)
}

/// Has all clients come to these sockets, and none to others at their addresses. Answers those at which some may wait that came
/// before: of processes that an agent before had told to leave. A process on trial had no clients.
fn gather(sockets: &[Arc<Kept>], rivals: &[Stat], left: &BTreeSet<i32>) -> Retired {
    let mut retired = Vec::new();
    for stat in rivals {
        let leaves = left.contains(&stat.pid) || left.contains(&stat.pgrp);
        for socket in listening(stat.pid).unwrap_or_default() {
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
        match listening(stat.pid) {
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
fn listening(pid: i32) -> io::Result<Vec<OwnedFd>> {
    let Some(id) = Pid::from_raw(pid) else { return Ok(Vec::new()) };
    let process = pidfd_open(id, PidfdFlags::empty())?;
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
