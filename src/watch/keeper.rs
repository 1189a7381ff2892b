//! Carries out what is due about leases and sessions, and writes down what is held.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, timeout};

use super::leases::{Answer, Key, Step};
use super::ledger::Ledger;
use super::overlap::Now;
use super::state::State;
use super::timers::Timer;
use super::{Stores, Surroundings, Uses, lock};
use crate::config::model::{Config, OnStop, StoreConfig, StoreName};
use crate::failpoint;
use crate::schedule::Backoff;
use crate::secret::Lease;
use crate::store::{Store, StoreError, StoreErrorKind};

/// Bound on one request, for a store that does not bound itself.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Bound on what is revoked at the end.
const FAREWELL: Duration = Duration::from_secs(10);
/// How long after a failure to write the ledger the next attempt comes.
const SAVE_PAUSE: Duration = Duration::from_secs(10);
/// Between attempts to keep a session that fail.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

pub(super) struct Keeper {
    ledger: Ledger,
    asked: FuturesUnordered<BoxFuture<'static, Kept>>,
    backoffs: BTreeMap<StoreName, Backoff>,
    failing: BTreeSet<StoreName>,
    /// The sessions that are written down.
    revisions: BTreeMap<StoreName, u64>,
    save_failed: bool,
}

/// What a store has answered.
pub(super) enum Kept {
    Lease(Key, Answer),
    Session(StoreName, Result<Option<Duration>, StoreError>),
}

impl Keeper {
    /// Takes up what an earlier life held, before anything is read.
    pub(super) fn open(
        state: &mut State,
        config: &Config,
        stores: &Stores,
        uses: &Uses,
        surroundings: &Surroundings,
        now: Now,
    ) -> Self {
        let ledger = Ledger::new(&config.state_dir, surroundings.keeping.clone());
        let found = ledger.load(now);
        for (name, session) in &found.sessions {
            if let Some(store) = stores.get(name) {
                store.resume(session);
            }
        }
        for (key, held) in found.held {
            // Which of them have it is not known until they say so.
            let users = uses.iter().filter(|(_, used)| used.contains(&key.0)).map(|(target, _)| Arc::clone(target));
            let users = users.collect();
            state.leases.restore(key, held, &users, now, (surroundings.dice)());
        }
        for key in state.leases.expire(now.mono) {
            tracing::info!(secret = %key.0, version = %key.1, "has ended while the agent was away");
            state.save_leases = Some(now.mono);
        }
        state.dead.send_replace(Arc::new(state.leases.dead.clone()));
        Self {
            ledger,
            asked: FuturesUnordered::new(),
            backoffs: BTreeMap::new(),
            failing: BTreeSet::new(),
            revisions: stores.iter().map(|(name, store)| (Arc::clone(name), store.session_revision())).collect(),
            save_failed: false,
        }
    }

    /// Sessions pass from stores to those that take their place.
    pub(super) fn take_over(state: &mut State, stores: &Stores, now: Instant) {
        for (name, store) in stores {
            let old = state.stores.get(name);
            if old.is_some_and(|old| Arc::ptr_eq(old, store)) {
                continue;
            }
            if let Some(session) = old.and_then(|old| old.session()) {
                store.resume(&session);
            }
            state.timers.set(Timer::Tend(Arc::clone(name)), Some(now));
        }
        for gone in state.stores.keys().filter(|name| !stores.contains_key(*name)) {
            state.timers.set(Timer::Tend(Arc::clone(gone)), None);
        }
    }

    /// The next answer.
    pub(super) async fn next(&mut self) -> Kept {
        match self.asked.next().await {
            Some(kept) => kept,
            None => std::future::pending().await,
        }
    }

    /// Begins what is due.
    pub(super) fn time(&mut self, state: &mut State, now: Now, dice: &dyn Fn() -> f64) {
        state.expire(now, dice);
        for (key, step, store, lease) in state.lease_steps(now.mono) {
            self.asked.push(Box::pin(async move {
                let answer = ask(step, &*store, &lease).await;
                Kept::Lease(key, answer)
            }));
        }
    }

    pub(super) fn tend(&mut self, state: &State, name: StoreName) {
        let Some(store) = state.stores.get(&name).map(Arc::clone) else { return };
        self.asked.push(Box::pin(async move {
            let tended = timeout(TIMEOUT, store.tend()).await.unwrap_or_else(|_elapsed| Err(silent()));
            Kept::Session(name, tended)
        }));
    }

    pub(super) fn kept(&mut self, state: &mut State, kept: Kept, now: Now, dice: &dyn Fn() -> f64) {
        match kept {
            Kept::Lease(key, answer) => state.lease_answered(&key, answer, now, dice),
            Kept::Session(name, tended) => {
                let backoff =
                    self.backoffs.entry(Arc::clone(&name)).or_insert_with(|| Backoff::new(BACKOFF.0, BACKOFF.1));
                let next = match tended {
                    Ok(next) => {
                        backoff.reset();
                        if self.failing.remove(&name) {
                            tracing::info!(store = %name, "its session is kept again");
                        }
                        next
                    }
                    Err(error) => {
                        if self.failing.insert(Arc::clone(&name)) {
                            tracing::warn!(store = %name, "its session cannot be kept: {error}");
                        }
                        Some(backoff.fail(dice(), error.retry_after))
                    }
                };
                state.timers.set(Timer::Tend(name), next.map(|pause| now.mono + pause));
            }
        }
    }

    /// Writes down what is held, where that is due. A failure holds nothing up; it costs what is held only if the agent
    /// is killed before the next attempt.
    pub(super) async fn save_if_due(&mut self, state: &Mutex<State>, now: Instant) {
        let moved = {
            let state = lock(state);
            state.stores.iter().any(|(name, store)| self.revisions.get(name) != Some(&store.session_revision()))
        };
        let due = lock(state).save_leases.is_some_and(|at| at <= now);
        if due || moved && !self.save_failed {
            self.save(state).await;
        }
    }

    /// Writes down what is held, now.
    pub(super) async fn save(&mut self, state: &Mutex<State>) {
        let (draft, revisions) = {
            let state = lock(state);
            let sessions = state.stores.iter().filter_map(|(name, store)| Some((Arc::clone(name), store.session()?)));
            let revisions = state.stores.iter().map(|(name, store)| (Arc::clone(name), store.session_revision()));
            let revisions: BTreeMap<_, _> = revisions.collect();
            (self.ledger.draft(state.leases.iter(), sessions), revisions)
        };
        failpoint::hit("leases.save.before");
        let saved = match draft {
            Ok(write) => tokio::task::spawn_blocking(write).await.unwrap_or_else(|stopped| Err(stopped.into())),
            Err(error) => Err(error),
        };
        failpoint::hit("leases.save.after");
        match saved {
            Ok(()) => {
                lock(state).save_leases = None;
                (self.revisions, self.save_failed) = (revisions, false);
            }
            Err(error) => {
                lock(state).save_leases = Some(Instant::now() + SAVE_PAUSE);
                if !std::mem::replace(&mut self.save_failed, true) {
                    let path = self.ledger.path().display();
                    tracing::error!(%path, "cannot write it: {error}; a restart now would not know what leases are held");
                }
            }
        }
    }

    /// The agent ends: what `on_stop: revoke` says is revoked, the rest is written down.
    pub(super) async fn end(&mut self, state: &Mutex<State>) {
        self.asked.clear();
        let (leases, stores) = lock(state).to_revoke_at_the_end();
        if !stores.is_empty() {
            let revoked = leases.into_iter().map(|(key, store, lease)| async move {
                store.revoke(&lease).await.map_err(|error| {
                    tracing::warn!(secret = %key.0, "cannot revoke its lease: {error}; it ends by itself");
                })?;
                Ok::<_, ()>(key)
            });
            match timeout(FAREWELL, join_all(revoked)).await {
                Ok(revoked) => {
                    let mut state = lock(state);
                    revoked.into_iter().flatten().for_each(|key| state.leases.let_go(&key));
                }
                Err(_elapsed) => {
                    tracing::warn!("not every lease could be revoked in {FAREWELL:?}: they end by themselves")
                }
            }
            let closed = timeout(FAREWELL, join_all(stores.iter().map(|store| store.close()))).await;
            for error in closed.into_iter().flatten().filter_map(Result::err) {
                tracing::warn!("cannot end a session: {error}");
            }
        }
        self.save(state).await;
    }
}

type Farewell = (Key, Arc<dyn Store>, Lease);

impl State {
    /// Leases of stores with `on_stop: revoke`, and those stores.
    fn to_revoke_at_the_end(&self) -> (Vec<Farewell>, Vec<Arc<dyn Store>>) {
        let stores: BTreeMap<_, _> = self.stores.iter().filter(|(name, _)| self.revoking.contains(*name)).collect();
        let leases = self.leases.iter().filter(|(_, held)| !held.abandoned).filter_map(|(key, held)| {
            let store = stores.get(&held.store)?;
            Some((key.clone(), Arc::clone(store), held.lease.clone()?))
        });
        (leases.collect(), stores.into_values().map(Arc::clone).collect())
    }
}

/// The stores whose leases end with the agent.
pub(super) fn revoking(config: &Config) -> BTreeSet<StoreName> {
    let revokes = |store: &StoreConfig| match store {
        StoreConfig::Vault(vault) => vault.on_stop == OnStop::Revoke,
        StoreConfig::File(_) | StoreConfig::Aws(_) => false,
    };
    config.stores.iter().filter(|(_, store)| revokes(store)).map(|(name, _)| Arc::clone(name)).collect()
}

async fn ask(step: Step, store: &dyn Store, lease: &Lease) -> Answer {
    match step {
        Step::Renew => {
            Answer::Renewed(timeout(TIMEOUT, store.renew(lease)).await.unwrap_or_else(|_elapsed| Err(silent())))
        }
        Step::LookUp => {
            Answer::Looked(timeout(TIMEOUT, store.look_up(lease)).await.unwrap_or_else(|_elapsed| Err(silent())))
        }
        Step::Revoke => {
            Answer::Revoked(timeout(TIMEOUT, store.revoke(lease)).await.unwrap_or_else(|_elapsed| Err(silent())))
        }
    }
}

fn silent() -> StoreError {
    StoreError {
        kind: StoreErrorKind::Unavailable,
        message: format!("the store did not answer in {} s", TIMEOUT.as_secs()),
        retry_after: None,
    }
}
