//! A process that was told to end, and does so beside the one that has taken its place.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::beside::Retired;
use super::leftover::Quarry;
use super::record::{Record, Slot};
use super::spawn::{Running, reaped};
use crate::process::pidfd::Pidfd;
use crate::reload::ReloadError;

/// What ends in the background: TERM to the process, KILL to all of it once its time is over.
pub(super) struct Leaving {
    pub record: Record,
    /// When it is killed at the latest, whatever its drain.
    limit: watch::Sender<Option<Instant>>,
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
}

/// Whose child it is.
enum Who {
    Ours(Box<Running>),
    /// Another agent's. None: it is gone, what came of it may be not.
    Anothers(Option<Pidfd>),
}

impl Leaving {
    /// Tells a child of ours to end. Only the process itself: its workers are its own to wind up.
    pub fn child(running: Running, manner: Manner) -> Self {
        Self::begin(running.record.clone(), Who::Ours(Box::new(running)), manner)
    }

    /// Tells another agent's child to end, unless that agent has told it: then it has what is left of its drain.
    pub fn orphan(record: Record, manner: Manner) -> Self {
        let held = record.hold().unwrap_or_else(|error| {
            tracing::warn!(target_name = record.target, pid = record.pid, %error, "cannot take hold of the process before");
            None
        });
        Self::begin(record, Who::Anothers(held), manner)
    }

    fn begin(record: Record, who: Who, manner: Manner) -> Self {
        let (limit, limited) = watch::channel(None);
        let own = record.clone();
        let (open, end) = watch::channel(());
        let task = tokio::spawn(async move {
            let _open = open;
            let (pid, target) = (own.pid, own.target.clone());
            match leave(&own, who, &manner, limited).await {
                Ok(()) => tracing::info!(target_name = target, pid, "the process before has ended"),
                // The next start looks for what is left of it, and does not go on before that is gone.
                Err(error) => tracing::error!(target_name = target, pid, "the process before: {error}"),
            }
            let Manner { retired, state_dir, .. } = manner;
            drop(retired);
            let recorded = Record::read(&state_dir, &target, Slot::Leaving);
            if recorded.is_ok_and(|recorded| recorded.is_some_and(|recorded| recorded.is_of(&own))) {
                let _found_to_be_gone_later = Record::remove(&state_dir, &target, Slot::Leaving);
            }
        });
        Self { record, limit, task, end }
    }

    /// It has at most this long from now on.
    pub fn within(&self, patience: Duration) {
        let at = Instant::now() + patience;
        self.limit.send_if_modified(|limit| {
            let sooner = limit.is_none_or(|limit| at < limit);
            *limit = limit.map_or(Some(at), |limit| Some(limit.min(at)));
            sooner
        });
    }

    /// Resolves when it has ended, or KILL did not help.
    pub fn end(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut end = self.end.clone();
        async move { while end.changed().await.is_ok() {} }
    }

    pub fn is_gone(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits until it has ended, or KILL did not help.
    pub async fn gone(self) {
        let _told_in_the_log = self.task.await;
    }
}

async fn leave(
    record: &Record,
    mut who: Who,
    manner: &Manner,
    mut limit: watch::Receiver<Option<Instant>>,
) -> Result<(), ReloadError> {
    let left = match record.told_ago() {
        Some(ago) => manner.drain.saturating_sub(ago),
        None => {
            tokio::select! {
                biased;
                // The agent stops.
                Ok(()) = limit.changed() => {}
                () = who.ended() => {}
                () = manner.retired.emptied() => {}
                () = sleep(manner.drain) => {}
            }
            who.tell();
            note(record, manner).await;
            manner.drain
        }
    };
    let kill_at = Instant::now() + left;
    let ended = tokio::select! {
        biased;
        () = who.ended() => true,
        () = over(kill_at, limit) => false,
    };
    let left = Quarry::of(record).end(if ended { manner.stop_timeout } else { Duration::ZERO }).await?;
    if !ended {
        tracing::warn!(pid = record.pid, processes = left, "killed: it did not end within `drain`");
        if let Who::Ours(running) = &mut who {
            reaped("the process before", running).await?;
        }
    }
    Ok(())
}

/// An agent after this one counts its drain on from here. After the TERM: one that was not told must not seem to be.
async fn note(record: &Record, manner: &Manner) {
    let (told, state_dir) = (record.told_now(), manner.state_dir.clone());
    let recorded = move || {
        let recorded = Record::read(&state_dir, &told.target, Slot::Leaving)?;
        if recorded.is_some_and(|recorded| recorded.is_of(&told)) {
            told.write(&state_dir, Slot::Leaving)
        } else {
            Ok(())
        }
    };
    let noted = tokio::task::spawn_blocking(recorded).await.map_err(std::io::Error::other);
    if let Err(error) = noted.and_then(|noted| noted) {
        tracing::warn!(target_name = record.target, %error, "after a crash of the agent, `drain` would begin anew");
    }
}

/// Resolves at that time, or at the limit, where that is earlier.
async fn over(kill_at: Instant, mut limit: watch::Receiver<Option<Instant>>) {
    loop {
        let at = limit.borrow_and_update().map_or(kill_at, |limit| limit.min(kill_at));
        tokio::select! {
            () = sleep_until(at) => return,
            Ok(()) = limit.changed() => {}
        }
    }
}

impl Who {
    /// Resolves when the process has ended. Cancel-safe; reaps a child of ours.
    async fn ended(&mut self) {
        match self {
            Self::Ours(running) => drop(running.reap().await),
            Self::Anothers(Some(pidfd)) => drop(pidfd.ended().await),
            Self::Anothers(None) => {}
        }
    }

    /// A stopped process takes its TERM only when it goes on. One that has ended takes neither.
    fn tell(&self) {
        let pidfd = match self {
            Self::Ours(running) => Some(Arc::as_ref(&running.pidfd)),
            Self::Anothers(pidfd) => pidfd.as_ref(),
        };
        for signal in [Signal::SIGTERM, Signal::SIGCONT] {
            let _ended = pidfd.map(|pidfd| pidfd.send(signal));
        }
    }
}
