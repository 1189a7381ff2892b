//! `on_change: handover`: the new process is started beside the old one, at the same addresses, and only once its generation
//! is committed clients come to it, and the old one is told to end. Where it is not, the new one is ended, and the old one and
//! the clients never knew.
//!
//! Two processes at most: one on trial is ended before another is tried, and a third waits until the one that drains is gone.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Exec;
use super::beside::{Beside, Retired};
use super::leaving::{Leaving, Manner};
use super::leftover::Quarry;
use super::record::{Record, Slot};
use super::sockets::Private;
use super::spawn::{Running, reaped, reaped_if};
use crate::config::model::OnChange;
use crate::failpoint;
use crate::process::pidfd::Pidfd;
use crate::process::{procfs, reap};
use crate::reload::{Change, Exit, Reload as _, ReloadError, Taken};

impl Exec {
    pub(super) fn hands_over(&self) -> bool {
        self.process.config.on_change == OnChange::Handover
    }

    pub(super) async fn hand_over(&mut self, change: &Change<'_>, env: String) -> Result<Taken, ReloadError> {
        if !self.looked {
            self.adopt().await?;
            self.looked = true;
        }
        if self.running.as_ref().is_some_and(|running| running.generation == change.generation) {
            return Ok(Taken::Done);
        }
        // The way back: it never stopped serving.
        if self.before.as_ref().is_some_and(|before| before.generation == change.generation) {
            self.end_trial().await?;
            self.untold = None;
            return Ok(Taken::Done);
        }
        if let Some(running) = &mut self.running
            && running.env == env
            && !change.files_changed
        {
            running.generation = change.generation;
            return Ok(Taken::Done);
        }
        if self.before.is_some() || self.orphan.is_some() {
            self.end_trial().await?;
        }
        if self.drained().is_some() && self.running.as_ref().is_some_and(|running| !running.proven) {
            // It has the clients for lack of another, and was not healthy: what was is not kept waiting for a drain.
            self.end_trial().await?;
        }
        if self.running.is_some() || self.orphan.is_some() {
            self.wait_for_leaving().await?;
        }
        self.notice();
        let serving = self.running.take();
        let slot = if serving.is_some() || self.orphan.is_some() { Slot::Trial } else { Slot::Serving };
        self.before = serving.map(|serving| self.promoted(serving));
        let started = self.start(change, env, slot).await;
        if started.is_err() {
            self.beside = None;
            self.running = self.before.take();
        }
        started
    }

    /// What is one process's own: its mark, and its private socket.
    pub(super) fn own(&self) -> Result<(String, Option<(Private, OwnedFd)>), ReloadError> {
        let mark = &self.process.mark;
        if !self.hands_over() {
            return Ok((mark.clone(), None));
        }
        let serial = procfs::since_boot().as_nanos();
        let context = &self.process.context;
        let private = Private::open(&context.state_dir, &context.target, &serial.to_string())?;
        Ok((format!("{mark}#{serial}"), Some(private)))
    }

    /// Ends the process on trial; what serves beside it is the newest then. Cut short when the agent stops, which ends all.
    async fn end_trial(&mut self) -> Result<Option<Exit>, ReloadError> {
        let mut exit = None;
        if let Some(running) = &mut self.running {
            let quarry = Quarry::of(&running.record);
            tokio::select! {
                ended = quarry.end(self.process.config.stop_timeout) => ended?,
                () = self.process.context.stop.cancelled() => return Err(stopping()),
            };
            exit = Some(reaped(&self.process.name(), running).await?);
            let (pid, slot) = (running.pid, running.slot);
            tracing::info!(target_name = %self.process.context.target, pid, "the new process was ended");
            self.forget(slot);
        }
        self.beside = None;
        self.running = self.before.take();
        self.forward.set(self.running.as_ref().map(|running| Arc::clone(&running.pidfd)));
        reap::reap_orphans();
        Ok(exit)
    }

    /// Ends what did not become healthy: the process on trial, or the only one.
    pub(super) async fn halt_trial(&mut self) -> Result<Option<Exit>, ReloadError> {
        self.notice();
        if self.before.is_some() || self.orphan.is_some() {
            // The agent does not end with it (`agent run -- CMD`): something serves on.
            return self.end_trial().await.map(|_| None);
        }
        self.end().await
    }

    /// A rotation has ended on this generation: whichever process is not of it is told to end.
    pub(super) fn settle_on(&mut self, generation: u64) {
        self.notice();
        let of = |running: &Option<Running>| running.as_ref().is_some_and(|running| running.generation == generation);
        if of(&self.running) {
            let drain = self.process.config.drain;
            // On disk first: an agent after this one has the clients come to the process that is recorded to serve.
            if self.before.is_some() || self.orphan.is_some() {
                self.rename(Slot::Serving, Slot::Leaving);
            }
            if let Some(running) = self.running.take() {
                self.forward.set(Some(Arc::clone(&running.pidfd)));
                let mut running = self.promoted(running);
                running.proven = true;
                self.running = Some(running);
            }
            let retired = self.take_over();
            if let Some(mut before) = self.before.take() {
                before.slot = Slot::Leaving;
                self.leave(before, drain, retired);
            } else if let Some(orphan) = self.orphan.take() {
                self.leaving.push(Leaving::orphan(orphan, self.manner(drain, retired)));
            }
        } else if of(&self.before) {
            // First, so that an agent after this one does not take it for the socket that was there before.
            self.beside = None;
            if let Some(trial) = self.running.take() {
                self.leave(trial, self.process.config.stop_timeout, Retired::none());
            }
            self.running = self.before.take();
            self.forward.set(self.running.as_ref().map(|running| Arc::clone(&running.pidfd)));
        }
    }

    /// All clients come to the process on trial from now on. Answers the sockets of the one before.
    fn take_over(&mut self) -> Retired {
        let Some(beside) = self.beside.take() else { return Retired::none() };
        failpoint::hit("handover.steer.before");
        let (sockets, retired) = beside.take_over();
        failpoint::hit("handover.steer.after");
        let context = &self.process.context;
        sockets.iter().for_each(|kept| context.sockets.keep(&context.target, kept));
        self.sockets = sockets;
        retired
    }

    /// Has all who come wait for the next process, and this one take those who have come: many a server resets a connection
    /// that it has not read yet when it is told to end. Answers the sockets that are this process's alone.
    pub(super) async fn turn_away(&mut self) -> Retired {
        self.beside = Some(Beside::open(&self.sockets, None));
        let retired = self.take_over();
        tokio::select! {
            () = retired.emptied() => {}
            () = sleep(self.process.config.stop_timeout) => {}
            () = self.process.context.stop.cancelled() => {}
        }
        retired
    }

    /// Lets a process end in the background.
    pub(super) fn leave(&mut self, running: Running, drain: Duration, retired: Retired) {
        if running.slot != Slot::Leaving {
            self.rename(running.slot, Slot::Leaving);
        }
        self.leaving.push(Leaving::child(running, self.manner(drain, retired)));
    }

    /// The process that served while another was on trial may have ended by itself.
    pub(super) fn notice_before(&mut self) {
        let Some(exit) = self.before.as_mut().and_then(Running::ended) else { return };
        if let Some(before) = self.before.take() {
            let target = &self.process.context.target;
            tracing::warn!(target_name = %target, pid = before.pid, "the process that served ended by itself ({exit})");
            self.leave(before, Duration::ZERO, Retired::none());
        }
        self.forward.set(self.running.as_ref().map(|running| Arc::clone(&running.pidfd)));
    }

    /// So may the one of an agent before. What it has left is ended by the next start.
    pub(super) fn notice_orphan(&mut self) {
        if let Some(orphan) = self.orphan.take_if(|orphan| orphan.is_alive().is_ok_and(|alive| !alive)) {
            let target = &self.process.context.target;
            tracing::warn!(target_name = %target, pid = orphan.pid, "the process of an agent before ended by itself");
        }
    }

    /// A third is never started. An error: the agent stops; or what serves ended by itself, and what was proven is to be
    /// started again before anything new is tried.
    async fn wait_for_leaving(&mut self) -> Result<(), ReloadError> {
        let Some(drained) = self.drained() else { return Ok(()) };
        tracing::info!(target_name = %self.process.context.target, "the next process waits until the one before has drained");
        let orphan = self.orphan.as_ref().map(|orphan| orphan.hold().ok().flatten());
        let ended = tokio::select! {
            biased;
            () = self.process.context.stop.cancelled() => return Err(stopping()),
            exit = reaped_if(&mut self.running) => exit.to_string(),
            () = ended_if(&orphan) => "as the one of an agent before".to_owned(),
            () = drained => return Ok(()),
        };
        self.notice();
        Err(ReloadError::absent(format!(
            "{} ended by itself ({ended}) while the next one waited for the one before to drain",
            self.process.name()
        )))
    }

    pub(super) fn manner(&self, drain: Duration, retired: Retired) -> Manner {
        Manner { drain, retired, stop_timeout: self.process.config.stop_timeout, state_dir: self.process.state_dir() }
    }

    /// The one that serves, also on disk.
    fn promoted(&self, mut running: Running) -> Running {
        if running.slot != Slot::Serving {
            self.rename(running.slot, Slot::Serving);
        }
        running.slot = Slot::Serving;
        running
    }

    pub(super) fn rename(&self, from: Slot, to: Slot) {
        let context = &self.process.context;
        if let Err(error) = Record::rename(&context.state_dir, &context.target, from, to) {
            // Whatever it is taken for after a crash, it is found, and one of the two is ended.
            tracing::warn!(target_name = %context.target, %error, "cannot rename the record of a process");
        }
    }

    fn forget(&self, slot: Slot) {
        let context = &self.process.context;
        if let Err(error) = Record::remove(&context.state_dir, &context.target, slot) {
            tracing::warn!(target_name = %context.target, %error, "cannot remove the record of a process");
        }
    }
}

pub(super) fn stopping() -> ReloadError {
    ReloadError::absent("the agent is stopping")
}

/// Resolves when the process has ended, if there is one; at once where it could not be taken hold of any more.
async fn ended_if(held: &Option<Option<Pidfd>>) {
    match held {
        Some(Some(pidfd)) => drop(pidfd.ended().await),
        Some(None) => {}
        None => std::future::pending().await,
    }
}
