//! A process that was told to end, and does so beside the one that has taken its place.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::beside::Retired;
use super::leftover::Quarry;
use super::reaped;
use super::record::{Record, Slot};
use super::spawn::Running;
use crate::reload::ReloadError;

/// What ends in the background: TERM to the process, KILL to all of it once its time is over.
pub(super) struct Leaving {
    pub record: Record,
    kill_at: watch::Sender<Instant>,
    task: JoinHandle<()>,
    /// Closed by the end of the task.
    end: watch::Receiver<()>,
}

/// Where and how.
pub(super) struct Manner {
    /// From TERM to KILL.
    pub drain: Duration,
    /// The sockets that are its alone: TERM comes once nobody waits there, and they are closed after its end.
    pub retired: Retired,
    /// The same for what the process leaves behind when it ends.
    pub stop_timeout: Duration,
    /// Where its record is.
    pub state_dir: PathBuf,
    /// As which.
    pub slot: Slot,
}

impl Leaving {
    /// Tells a child of ours to end. Only the process itself: its workers are its own to wind up.
    pub fn child(running: Running, manner: Manner) -> Self {
        let record = running.record.clone();
        Self::begin(record, manner, |stop_timeout, kill_at| child_ends(running, stop_timeout, kill_at))
    }

    /// Tells another agent's child to end, and all that came of it.
    pub fn orphan(record: Record, manner: Manner) -> Self {
        let quarry = Quarry::of(&record);
        Self::begin(record, manner, |_, kill_at| quarry_ends(quarry, kill_at))
    }

    fn begin<F: Future<Output = Result<(), ReloadError>> + Send + 'static>(
        record: Record,
        manner: Manner,
        ending: impl FnOnce(Duration, watch::Receiver<Instant>) -> F,
    ) -> Self {
        let (kill_at, killed_at) = watch::channel(Instant::now() + manner.drain);
        let (mut sooner, later) = (killed_at.clone(), kill_at.clone());
        let ending = ending(manner.stop_timeout, killed_at);
        let (own, retired, drain) = (record.clone(), manner.retired, manner.drain);
        let (open, end) = watch::channel(());
        let task = tokio::spawn(async move {
            let _open = open;
            let (pid, target) = (own.pid, own.target.clone());
            tokio::select! {
                biased;
                // The agent stops.
                _ = sooner.changed() => {}
                () = retired.emptied() => { later.send_replace(Instant::now() + drain); }
                () = sleep(drain) => {}
            }
            drop(later);
            match ending.await {
                Ok(()) => tracing::info!(target_name = target, pid, "the process before has ended"),
                // The next start looks for what is left of it, and does not go on before that is gone.
                Err(error) => tracing::error!(target_name = target, pid, "the process before: {error}"),
            }
            drop(retired);
            let recorded = Record::read(&manner.state_dir, &target, manner.slot);
            if recorded.is_ok_and(|recorded| recorded.is_some_and(|recorded| recorded == own)) {
                let _found_to_be_gone_later = Record::remove(&manner.state_dir, &target, manner.slot);
            }
        });
        Self { record, kill_at, task, end }
    }

    /// It has at most this long from now on.
    pub fn within(&self, patience: Duration) {
        let earliest = Instant::now() + patience;
        self.kill_at.send_if_modified(|at| {
            let sooner = earliest < *at;
            *at = earliest.min(*at);
            sooner
        });
    }

    /// Resolves when it has ended.
    pub fn end(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut end = self.end.clone();
        async move { while end.changed().await.is_ok() {} }
    }

    pub fn is_gone(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits until it has ended, or KILL did not help. Cancel-safe in that it goes on ending.
    pub async fn until_gone(&mut self) {
        if !self.task.is_finished() {
            let _told_in_the_log = (&mut self.task).await;
        }
    }

    pub async fn gone(mut self) {
        self.until_gone().await;
    }
}

async fn child_ends(
    mut running: Running,
    stop_timeout: Duration,
    mut kill_at: watch::Receiver<Instant>,
) -> Result<(), ReloadError> {
    // A stopped process takes its TERM only when it goes on. One that has ended takes neither.
    for signal in [Signal::SIGTERM, Signal::SIGCONT] {
        let _ended = running.pidfd.send(signal);
    }
    let ended = loop {
        let until = *kill_at.borrow_and_update();
        tokio::select! {
            biased;
            _ = running.reap() => break true,
            () = sleep_until(until) => break false,
            changed = kill_at.changed() => if changed.is_err() { sleep_until(until).await },
        }
    };
    let left = Quarry::of(&running.record).end(if ended { stop_timeout } else { Duration::ZERO }).await?;
    if !ended {
        tracing::warn!(pid = running.pid, processes = left, "killed: it did not end within `drain`");
        reaped("the process before", &mut running).await?;
    }
    Ok(())
}

async fn quarry_ends(quarry: Quarry, mut kill_at: watch::Receiver<Instant>) -> Result<(), ReloadError> {
    loop {
        let patience = kill_at.borrow_and_update().saturating_duration_since(Instant::now());
        tokio::select! {
            ended = quarry.end(patience) => return ended.map(drop),
            Ok(()) = kill_at.changed() => {}
        }
    }
}
