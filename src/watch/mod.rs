//! From stores to targets: reads secrets when they may have changed, and gives each target one coalesced [`Snapshot`].
//!
//! One task owns it all. A secret that a target uses is read at the start, when its store says that something changed,
//! when its poll or expiry is due, on [`WatchHandle::refresh`], and after a backoff when a read failed; what fails leaves
//! the last good reading in use. A target's channel holds None until every secret that it uses was read; then changes
//! are emitted when they have settled, and only where a version (in use or `previous`) differs.
//!
//! `previous`: with an `overlap`, the version that was in use before stays in the snapshot that long; the end of an
//! overlap is simply a new snapshot. While every target refuses the newest version no overlap ends: the one before is what
//! they stand on, and its overlap begins when the newest is taken after all. It survives restarts (see [`memory`]); ends
//! are wall-clock times, so a clock set forwards while the agent is down may end an overlap early, but none ever lasts
//! longer than `overlap` from a restart.
//!
//! Secrets of a store that gathers reads are read together, on ticks that they share (see `ticks`).
//!
//! Leases are renewed, looked up, replaced before their end, and revoked once no target stands on them (see `leases`); what
//! is held survives restarts (see `ledger`).

mod build;
mod engine;
mod faults;
mod held;
mod holding;
mod keeper;
mod leases;
mod ledger;
pub mod memory;
mod once;
mod once_leases;
mod overlap;
mod record;
mod slot;
mod state;
mod ticks;
mod timers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use build::{build, rebuild};
pub use once::{Once, read_once};
pub use once_leases::Holding;

use crate::config::model::{Config, StoreName, TargetName};
use crate::secret::{Reading, SecretName, Snapshot, Standing, Version};
use crate::state_dir::Keeping;
use crate::store::{Store, StoreError, Upkeep};
use state::State;

/// Stores by name.
pub type Stores = BTreeMap<StoreName, Arc<dyn Store>>;
/// Which secrets each target uses.
pub type Uses = BTreeMap<TargetName, BTreeSet<SecretName>>;

/// See [`Surroundings::on_reading`].
pub type OnReading = Arc<dyn Fn(&SecretName, &Reading) + Send + Sync>;

/// What the watch is given of the world.
#[derive(Clone)]
pub struct Surroundings {
    /// The wall clock.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Random numbers in `[0, 1)`.
    pub dice: Arc<dyn Fn() -> f64 + Send + Sync>,
    /// Called with every new reading before any target sees it (also with those that were remembered), so that its
    /// values can be masked. Must be quick.
    pub on_reading: OnReading,
    /// How values may be kept in `state_dir`.
    pub keeping: Keeping,
    /// Ends the watch.
    pub cancel: CancellationToken,
}

/// The watch's task; see [`WatchHandle`].
pub struct Watch;

impl Watch {
    /// Starts reading. Secrets that no target uses are never read. Reads `state_dir/overlap.json` in place (a small file).
    pub fn spawn(config: &Config, stores: &Stores, uses: &Uses, surroundings: Surroundings) -> WatchHandle {
        let (engine, state, commands) = engine::Engine::new(config, stores, uses, surroundings.clone());
        let task = tokio::spawn(engine.run());
        WatchHandle { state, commands, surroundings, task: Arc::new(Mutex::new(Some(task))) }
    }
}

/// Asks the watch and tells it. Cheap to clone. Dropping it does not end the watch.
#[derive(Clone)]
pub struct WatchHandle {
    state: Arc<Mutex<State>>,
    commands: mpsc::Sender<Command>,
    surroundings: Surroundings,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// What a refresh found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refreshed {
    /// The version in the store now.
    pub version: Version,
    /// Whether it differs from the one known before.
    pub changed: bool,
}

/// All that is known of a secret, without its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretStatus {
    /// Its name.
    pub name: SecretName,
    /// The store it is in.
    pub store: StoreName,
    /// The targets that use it.
    pub targets: Vec<TargetName>,
    /// The newest version read.
    pub version: Option<Version>,
    /// When the store says that version was made.
    pub created_at: Option<Timestamp>,
    /// When its values end, if the store says so.
    pub expires_at: Option<Timestamp>,
    /// When its lease ends, if it hangs on one.
    pub lease_ends: Option<Timestamp>,
    /// When that version was first seen (or, where it was there at the very first read, made).
    pub changed_at: Option<Timestamp>,
    /// The version before, while its overlap lasts.
    pub previous_version: Option<Version>,
    /// When that overlap ends. None while every target refuses the newest version: then it does not.
    pub previous_until: Option<Timestamp>,
    /// From the config: overdue this long after `changed_at`.
    pub max_age: Option<Duration>,
    /// The last read that ended.
    pub last_attempt: Option<Timestamp>,
    /// The last good read.
    pub last_success: Option<Timestamp>,
    /// Since when every read has failed.
    pub failing_since: Option<Timestamp>,
    /// How many in a row.
    pub failures: u32,
    /// Why the last one did.
    pub error: Option<StoreError>,
    /// When it is read again by itself. None: when its store says that something changed.
    pub next_read: Option<Timestamp>,
    /// Reads that ended, good or not, since the start.
    pub reads: u64,
    /// Those that failed.
    pub errors: u64,
}

enum Command {
    Refresh { names: Option<Vec<SecretName>>, reply: oneshot::Sender<Vec<(SecretName, slot::Answering)>> },
    Standing { target: TargetName, standing: Standing },
    Reconfigure { config: Box<Config>, stores: Stores, uses: Uses, reply: oneshot::Sender<()> },
}

impl WatchHandle {
    /// A target's snapshots, newest only; `changed` on it resolves at once where there is one already. None: there is no
    /// such target. The channel closes when the target is configured away or the watch ends.
    pub fn snapshots(&self, target: &str) -> Option<watch::Receiver<Option<Arc<Snapshot>>>> {
        self.state().snapshots(target)
    }

    /// Every secret in use, by name.
    pub fn status(&self) -> Vec<SecretStatus> {
        let wall = (self.surroundings.clock)();
        self.state().status(wall, tokio::time::Instant::now())
    }

    /// What it takes to keep the secrets in use of each store watched, where that costs anything that is counted.
    pub fn upkeep(&self) -> Vec<(StoreName, Upkeep)> {
        self.state().upkeep()
    }

    /// Reads these secrets (None: all in use) now and waits for the answers. A read in flight does not count: what is
    /// answered was read after the call. What differs reaches the targets once it has settled.
    pub async fn refresh(&self, names: Option<Vec<SecretName>>) -> Vec<(SecretName, Result<Refreshed, StoreError>)> {
        let (reply, answering) = oneshot::channel();
        if self.commands.send(Command::Refresh { names, reply }).await.is_err() {
            return Vec::new();
        }
        let mut answers = Vec::new();
        for (name, answering) in answering.await.unwrap_or_default() {
            let answer = match answering {
                Ok(answering) => answering.await.unwrap_or_else(|_gone| Err(slot::broken_off(&name))),
                Err(error) => Err(error),
            };
            answers.push((name, answer));
        }
        answers
    }

    /// A target tells what it stands on: leases of everything else that it used are revoked, once no other target uses
    /// them either. Answers when that is noted, not when it is done.
    pub async fn standing(&self, target: &TargetName, standing: Standing) {
        // An error means that the watch has ended.
        let _ended = self.commands.send(Command::Standing { target: Arc::clone(target), standing }).await;
    }

    /// Readings that ended while a target might still go back to them.
    pub fn dead(&self) -> watch::Receiver<Arc<BTreeSet<(SecretName, Version)>>> {
        self.state().dead.subscribe()
    }

    /// Takes a changed config up. Secrets whose store (by `Arc::ptr_eq`, see [`rebuild`]) and place are the same keep
    /// their readings and are not read again; others are read. A target that uses an unread secret goes back to None
    /// until it is read; otherwise a target whose uses changed gets its new snapshot without settling.
    pub async fn reconfigure(&self, config: &Config, stores: &Stores, uses: &Uses) {
        let (reply, done) = oneshot::channel();
        let command = Command::Reconfigure {
            config: Box::new(config.clone()),
            stores: stores.clone(),
            uses: uses.clone(),
            reply,
        };
        if self.commands.send(command).await.is_ok() {
            // An error means that the watch has ended.
            let _ended = done.await;
        }
    }

    /// Resolves when the watch has ended (after its cancel token), with everything remembered that has to be. For one
    /// caller; others return at once.
    pub async fn stopped(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _panicked = task.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
