//! One task a target: what happens becomes an event, the machine answers with effects, [`hands`] carry them out.
//!
//! Nothing is decided here that [`crate::rotation`] could decide. At most one operation is in flight, because the hands
//! go into it and come back with its answer; none is cancelled.

mod asked;
mod context;
mod hands;
mod inputs;
mod life;
mod operation;
mod record;
mod trial;
mod view;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::config::model::{TargetConfig, TargetName};
use crate::reload;
use crate::render::Renderer;
use crate::secret::{SecretName, Snapshot, Standing, Version};
use crate::state_dir::StateDir;
use crate::telemetry::audit::{Actor, Audit};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::view::TargetView;

pub use life::Ended;

/// A target's snapshots, the newest only.
pub type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

/// Told what a target stands on: see [`Standing`].
pub type OnStanding = Arc<dyn Fn(TargetName, Standing) -> BoxFuture<'static, ()> + Send + Sync>;
/// Readings that ended while a target might still go back to them.
pub type Dead = watch::Receiver<Arc<BTreeSet<(SecretName, Version)>>>;

/// What a driver is given of the world.
#[derive(Clone)]
pub struct Surroundings {
    /// The wall clock.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Random numbers in `[0, 1)`.
    pub dice: Arc<dyn Fn() -> f64 + Send + Sync>,
    /// Counters.
    pub metrics: Metrics,
    /// The audit file.
    pub audit: Audit,
    /// What a reload needs (its `target` is set for each).
    pub reload: reload::Context,
    /// Told what each target stands on, so that leases of everything else can be revoked.
    pub standing: OnStanding,
    /// Whether target processes are left alone: `agent render`.
    pub files_only: bool,
    /// Whether the agent ends when this supervised process ends by itself: `agent run -- CMD`.
    pub ends_with_process: bool,
}

/// One target's part of a config.
#[derive(Clone)]
pub struct Assignment {
    /// Its config.
    pub target: Arc<TargetConfig>,
    /// Its templates.
    pub renderer: Arc<Renderer>,
    /// Its inputs.
    pub snapshots: Snapshots,
    /// What has ended before its time.
    pub dead: Dead,
    /// Variables that a process is not to inherit: the agent's own credentials, as the config names them.
    pub withhold: Vec<String>,
}

/// What an operator or the agent asks of a driver.
enum Command {
    Rollback { to: Option<u64>, actor: Actor, reply: oneshot::Sender<Result<String, Refused>> },
    Release { actor: Actor, reply: oneshot::Sender<String> },
    Reassign { assignment: Box<Assignment>, reply: oneshot::Sender<()> },
}

/// A request that makes no sense now; the text is for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// sysexits code.
    pub exit: u8,
    /// Why.
    pub message: String,
}

/// A driver could not begin.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The state directory.
    #[error("target {target}: {source}")]
    State {
        /// Whose.
        target: String,
        /// Why.
        source: crate::durable::FileError,
    },
    /// The reload.
    #[error("target {target}: {source}")]
    Reload {
        /// Whose.
        target: String,
        /// Why.
        source: reload::ReloadError,
    },
}

/// Asks a driver and tells it. Cheap to clone. Dropping it does not end the driver.
#[derive(Clone)]
pub struct Driver {
    commands: mpsc::Sender<Command>,
    view: Arc<Mutex<TargetView>>,
    forward: Arc<Mutex<Option<reload::exec::Forward>>>,
    published: Arc<AtomicBool>,
    changed: watch::Receiver<u64>,
    stop: CancellationToken,
    ended: watch::Receiver<Option<Ended>>,
}

impl Driver {
    /// Opens the target's part of the state directory, recovers from its journal, and goes on from there.
    ///
    /// # Errors
    /// Where the state directory cannot be used, or the reload is not built.
    pub fn spawn(
        assignment: Assignment,
        state_dir: &StateDir,
        surroundings: Surroundings,
    ) -> Result<Self, DriverError> {
        let (sender, commands) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let (life, view, changed) = life::Life::new(assignment, state_dir, surroundings, commands, stop.clone())?;
        let (forward, published) = (life.forward(), life.published());
        let (tell, ended) = watch::channel(None);
        tokio::spawn(async move {
            let how = life.run().await;
            // Nobody may be left to hear it.
            let _unheard = tell.send(Some(how));
        });
        Ok(Self { commands: sender, view, forward, published, changed, stop, ended })
    }

    /// What the target is now. `stale` is the caller's to add: the driver does not know the stores.
    pub fn view(&self) -> TargetView {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a whole generation was published in this life of the agent: its files are there, whatever their target makes
    /// of them.
    pub fn published(&self) -> bool {
        self.published.load(Ordering::Relaxed)
    }

    /// Resolves with every change of [`Driver::view`].
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// Passes a signal on to the supervised process, at any time. False: there is none.
    pub fn forward(&self, signal: nix::sys::signal::Signal) -> bool {
        let forward = self.forward.lock().unwrap_or_else(PoisonError::into_inner).clone();
        forward.is_some_and(|f| f.send(signal).unwrap_or(false))
    }

    /// Goes back to an earlier generation and holds there; answers when that has ended: with 75 where the generation
    /// did not become healthy.
    pub async fn rollback(&self, to: Option<u64>, actor: Actor) -> Result<String, Refused> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Rollback { to, actor, reply }, answer).await.unwrap_or_else(|| Err(Refused::stopping()))
    }

    /// Lifts a hold and every quarantine.
    pub async fn release(&self, actor: Actor) -> Result<String, Refused> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Release { actor, reply }, answer).await.ok_or_else(Refused::stopping)
    }

    /// Takes up a changed config or changed templates. A target whose outcome is the same is not touched.
    pub async fn reassign(&self, assignment: Assignment) {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Reassign { assignment: Box::new(assignment), reply }, answer).await;
    }

    /// Winds up: the step in flight is finished or rolled back, a supervised process is ended.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Resolves when the driver has ended.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        let how = ended.wait_for(Option::is_some).await.ok().and_then(|how| *how);
        how.unwrap_or(Ended { exit: None, by_itself: false })
    }

    async fn ask<T>(&self, command: Command, answer: oneshot::Receiver<T>) -> Option<T> {
        self.commands.send(command).await.ok()?;
        answer.await.ok()
    }
}

impl Refused {
    fn stopping() -> Self {
        Self { exit: 69, message: "the agent is stopping".into() }
    }
}
