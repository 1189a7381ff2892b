//! How a target's process takes a generation up: the trait, and what can come of it.

use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::secret::SecretBytes;

/// What the process is to take up.
pub struct Change<'a> {
    /// The generation's number, for messages and for the process's bookkeeping.
    pub generation: u64,
    /// The rendered `env` of a supervised process, in order.
    pub env: &'a [(String, SecretBytes)],
    /// Whether any published file differs from what the process last took up. False with an equal `env` (and a living
    /// process) means that there is nothing to do.
    pub files_changed: bool,
}

/// What came of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The process was told, and still lives.
    Done,
    /// There is no process yet: it takes the files up when it starts.
    NotRunning,
}

/// One way of telling a process. Called by one task at a time, never cancelled half-way: each bounds itself.
pub trait Reload: Send {
    /// Tells the process. An error means that it may or may not have taken the change up.
    fn apply<'a>(&'a mut self, change: Change<'a>) -> BoxFuture<'a, Result<Taken, ReloadError>>;

    /// Whether the process is there, asked without touching it.
    fn running(&mut self) -> BoxFuture<'_, Result<bool, ReloadError>>;

    /// Resolves when a supervised process ended by itself. Never resolves for the others. Cancel-safe.
    fn died(&mut self) -> BoxFuture<'_, Exit> {
        Box::pin(std::future::pending())
    }

    /// Ends a supervised process (TERM, then KILL after its `stop_timeout`); nothing for the others.
    fn stop(&mut self) -> BoxFuture<'_, Result<Option<Exit>, ReloadError>> {
        Box::pin(async { Ok(None) })
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With a code.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

/// Why a reload failed. `message` names unit, pidfile, pid or command, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ReloadError {
    /// What kind of failure.
    pub kind: ReloadErrorKind,
    /// For the operator.
    pub message: String,
}

/// What a failed reload means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadErrorKind {
    /// The process refused, died or could not be started.
    Failed,
    /// The system did not allow it (exit 77).
    Denied,
    /// It did not answer in time.
    TimedOut,
    /// This build cannot do it.
    NotBuilt,
}

/// Restart backoff of a supervised process that dies by itself: 1 s doubling to 60 s, back to 1 s after 60 s of life.
pub const RESTART_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
