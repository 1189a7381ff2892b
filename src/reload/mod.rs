//! How a target's process takes a generation up: the trait, and what can come of it.

mod command;
pub mod exec;
mod signal;
mod systemd;

use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::config::model::{ReloadConfig, TargetName};
use crate::dbus::Bus;
use crate::digest::Key;
use crate::process::Inherit;
use crate::secret::SecretBytes;

pub use crate::process::Exit;

/// How long a process is watched after it was told: one that ends within this was ended by it, or by what it read.
/// What it does later is the health check's to find.
pub const GRACE: Duration = Duration::from_secs(1);

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

    /// Ends a supervised process and whatever it left behind (TERM, then KILL after its `stop_timeout`), reaped;
    /// answers how it ended if nobody was told yet. Nothing for the others.
    fn stop(&mut self) -> BoxFuture<'_, Result<Option<Exit>, ReloadError>> {
        Box::pin(async { Ok(None) })
    }

    /// Ends the process of a generation that did not become healthy. As `stop`, but for a handover: what serves beside it
    /// serves on.
    fn halt(&mut self) -> BoxFuture<'_, Result<Option<Exit>, ReloadError>> {
        self.stop()
    }

    /// Told once the journal on disk says that this generation is the committed one and nothing is open: a handover ends
    /// whichever process is not of it, in the background. Nothing for the others.
    fn settle(&mut self, _generation: u64) {}

    /// Takes bounds up that another config has: for what ends from now on, and without a word to what runs. Only of a config
    /// that differs in nothing else.
    fn rebound(&mut self, _config: &ReloadConfig) {}

    /// The socket on which the process that was told last is asked alone. None where there is no such.
    fn private(&self) -> Option<PathBuf> {
        None
    }

    /// Resolves once nothing of an earlier generation runs any more. None: nothing does.
    fn drained(&self) -> Option<BoxFuture<'static, ()>> {
        None
    }

    /// A way to pass signals on to a supervised process at any time, an operation in flight or not. None for the others.
    fn forward(&self) -> Option<exec::Forward> {
        None
    }
}

/// What a reload needs beside its config. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// Whose reload it is.
    pub target: TargetName,
    /// The agent's state directory, absolute: a supervised process is recorded in `targets/NAME/process.json` below it.
    pub state_dir: PathBuf,
    /// The key of its digests.
    pub key: Key,
    /// What a process that the agent starts may inherit.
    pub inherit: Inherit,
    /// Soft and hard RLIMIT_CORE from before the agent forbade itself core dumps: a supervised process gets them back.
    pub original_core: Option<(u64, u64)>,
    /// The umask from before the agent made its own stricter: it is given back likewise.
    pub original_umask: Option<u32>,
    /// What a supervised process reads.
    pub stdin: exec::Stdin,
    /// The binary that answers to [`exec::TRAMPOLINE`]: `/proc/self/exe` for the agent.
    pub trampoline: PathBuf,
    /// systemd's bus.
    pub bus: Bus,
    /// Listening sockets, which outlive processes and configs.
    pub sockets: exec::Sockets,
    /// Cancelled when the agent stops: cuts short the wait for an old process that drains, nothing else.
    pub stop: CancellationToken,
}

/// The reload that a target's config asks for. Touches nothing yet: no process, no bus, no file.
pub fn build(config: &ReloadConfig, context: &Context) -> Result<Box<dyn Reload>, ReloadError> {
    Ok(match config {
        ReloadConfig::None => Box::new(Nothing),
        ReloadConfig::Signal(config) => Box::new(signal::SignalReloader::new(config.clone())),
        ReloadConfig::Systemd(config) => Box::new(systemd::UnitReloader::new(config.clone(), context.bus.clone())),
        ReloadConfig::Command(config) => {
            Box::new(command::CommandReloader::new(config.clone(), context.inherit.clone()))
        }
        ReloadConfig::Exec(config) => Box::new(exec::Exec::new(config.clone(), context.clone())),
    })
}

/// `type: none`.
struct Nothing;

impl Reload for Nothing {
    fn apply<'a>(&'a mut self, _change: Change<'a>) -> BoxFuture<'a, Result<Taken, ReloadError>> {
        Box::pin(async { Ok(Taken::Done) })
    }

    fn running(&mut self) -> BoxFuture<'_, Result<bool, ReloadError>> {
        Box::pin(async { Ok(true) })
    }
}

/// Why a reload failed. `message` names unit, pidfile, pid or command, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ReloadError {
    /// What kind of failure.
    pub kind: ReloadErrorKind,
    /// For the operator.
    pub message: String,
    /// The same without what a command said, where the message quotes that: for where its words may hold values that the
    /// mask does not know.
    pub unquoted: Option<String>,
}

impl ReloadError {
    /// An error of one kind.
    pub fn new(kind: ReloadErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), unquoted: None }
    }

    /// The same, and how to say it without a command's own words.
    pub(crate) fn unquoted(self, message: impl Into<String>) -> Self {
        Self { unquoted: Some(message.into()), ..self }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(ReloadErrorKind::Failed, message)
    }

    pub(crate) fn denied(message: impl Into<String>) -> Self {
        Self::new(ReloadErrorKind::Denied, message)
    }

    pub(crate) fn absent(message: impl Into<String>) -> Self {
        Self::new(ReloadErrorKind::Absent, message)
    }

    pub(crate) fn timed_out(message: impl Into<String>) -> Self {
        Self::new(ReloadErrorKind::TimedOut, message)
    }
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
    /// What was found is not what was meant, or what is to be told does not exist: nothing was told.
    Absent,
}

/// Restart backoff of a supervised process that dies by itself: 1 s doubling to 60 s, back to 1 s after 60 s of life.
pub const RESTART_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
