//! Leases of a render that ends: taken over from whoever was there before, left to whoever comes after.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_util::future::join_all;
use tokio::time::Instant;

use super::held::Held;
use super::holding::place;
use super::leases::{Key, Leases, Standing as Stands};
use super::ledger::Ledger;
use super::overlap::Now;
use super::{Stores, Surroundings, Uses};
use crate::config::model::{Config, SecretConfig, StoreName, TargetName};
use crate::secret::{Again, Reading, Standing};
use crate::store::{Keep, Store};

/// What single rounds of reading share; see [`super::read_once`].
pub struct Holding(Arc<Inner>);

struct Inner {
    leases: Mutex<Leases>,
    ledger: Ledger,
    /// Made by this command.
    made: Mutex<BTreeSet<Key>>,
    /// Whether anything may be written.
    remember: bool,
    /// One after the other, or the older would be written over the newer.
    saving: tokio::sync::Mutex<()>,
}

impl Holding {
    /// Takes up what `state_dir/leases.json` holds, sessions included. `uses` is the whole config's, not only what this
    /// command is narrowed to. With `remember` false nothing is ever written.
    pub fn open(config: &Config, stores: &Stores, uses: &Uses, surroundings: &Surroundings, remember: bool) -> Self {
        let now = Now { wall: (surroundings.clock)(), mono: Instant::now() };
        let ledger = Ledger::new(&config.state_dir, surroundings.keeping.clone());
        let found = ledger.load(now);
        for (name, session) in &found.sessions {
            if let Some(store) = stores.get(name) {
                store.resume(session);
            }
        }
        let mut leases = Leases::default();
        for (key, held) in found.held {
            let users = uses.iter().filter(|(_, used)| used.contains(&key.0)).map(|(target, _)| Arc::clone(target));
            let users = users.collect();
            leases.restore(key, held, &users, now, 0.5);
        }
        leases.expire(now.mono);
        let (made, saving) = (Mutex::default(), tokio::sync::Mutex::default());
        let inner = Arc::new(Inner { leases: Mutex::new(leases), ledger, made, remember, saving });
        let known: Vec<_> = stores.iter().map(|(name, store)| (Arc::clone(name), Arc::downgrade(store))).collect();
        for store in stores.values() {
            store.kept_by(if remember { keep(&inner, &known) } else { Keep::Never });
        }
        Self(inner)
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.0.leases()
    }

    /// What is held of a secret and has most of its life before it, if its store does not say that it is gone.
    pub(super) async fn good(&self, secret: &SecretConfig, stores: &Stores, now: Instant) -> Option<Arc<Reading>> {
        let place = place(&secret.locator);
        let (key, reading, lease) = {
            let leases = self.leases();
            let good = leases.of(&secret.name).filter(|(_, held)| {
                held.store == secret.store && held.place == place && !held.doomed() && held.fresh(now)
            });
            let (key, held) = good.filter(|(_, held)| held.reading.is_some()).max_by_key(|(_, held)| held.made)?;
            (key.clone(), held.reading.clone()?, held.lease.clone())
        };
        if let (Some(lease), Some(store)) = (lease, stores.get(&secret.store))
            && matches!(store.look_up(&lease).await, Ok(None))
        {
            self.leases().let_go(&key);
            return None;
        }
        Some(reading)
    }

    /// Holds what was made just now, and writes it down before anybody sees it.
    pub(super) async fn hold(
        &self,
        secret: &SecretConfig,
        reading: &Arc<Reading>,
        uses: &Uses,
        stores: &Stores,
        now: Now,
    ) {
        if reading.again != Again::Mints {
            return;
        }
        let key = (secret.name.clone(), reading.version.clone());
        {
            let mut leases = self.leases();
            let held = Held::new(Arc::clone(&secret.store), place(&secret.locator), Arc::clone(reading), now);
            leases.hold(key.clone(), held, std::time::Duration::ZERO, now, 0.5);
            let only = BTreeSet::from([key.clone()]);
            uses.iter()
                .filter(|(_, used)| used.contains(&secret.name))
                .for_each(|(name, _)| leases.emitted(name, &only));
        }
        self.0.made.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        self.save(stores).await;
    }

    /// A target was brought to what it stands on.
    pub fn stands(&self, target: &TargetName, standing: &Standing) {
        let stands = Stands {
            using: &standing.using,
            newest: &standing.newest,
            emitted: &standing.newest,
            rejected: standing.rejected,
        };
        self.leases().standing(target, &stands);
    }

    /// Ends what nobody stands on (after a dry run: whatever it made), and writes down the rest.
    pub async fn finish(&self, stores: &Stores, now: Instant) {
        let made = self.0.made.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let doomed: Vec<_> = {
            let mut leases = self.leases();
            leases.collect(&BTreeSet::new(), now);
            let ends = |(key, held): &(&Key, &Held)| if self.0.remember { held.doomed() } else { made.contains(key) };
            let doomed = leases.iter().filter(ends);
            doomed.filter_map(|(key, held)| Some((key.clone(), Arc::clone(&held.store), held.lease.clone()?))).collect()
        };
        let revoked = doomed.into_iter().filter_map(|(key, store, lease)| {
            let store = stores.get(&store)?;
            Some(async move {
                match store.revoke(&lease).await {
                    Ok(()) => Some(key),
                    Err(error) => {
                        tracing::warn!(secret = %key.0, "cannot revoke a lease that nothing uses: {error}");
                        None
                    }
                }
            })
        });
        let revoked: Vec<_> = join_all(revoked).await.into_iter().flatten().collect();
        revoked.iter().for_each(|key| self.leases().let_go(key));
        if !self.0.remember {
            // A login that nobody goes on with.
            let closed = join_all(stores.values().map(|store| store.close())).await;
            for error in closed.into_iter().filter_map(Result::err) {
                tracing::debug!("cannot end a session: {error}");
            }
        }
        self.save(stores).await;
    }

    async fn save(&self, stores: &Stores) {
        self.0.save(stores).await;
    }
}

/// What a store awaits. It holds nobody: the stores hold it.
fn keep(inner: &Arc<Inner>, stores: &[(StoreName, Weak<dyn Store>)]) -> Keep {
    let (inner, stores) = (Arc::downgrade(inner), stores.to_vec());
    Keep::Now(Arc::new(move || {
        let living = stores.iter().filter_map(|(name, store)| Some((Arc::clone(name), store.upgrade()?)));
        let (inner, living) = (inner.upgrade(), living.collect::<Stores>());
        Box::pin(async move {
            if let Some(inner) = inner {
                inner.save(&living).await;
            }
        })
    }))
}

impl Inner {
    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn save(&self, stores: &Stores) {
        if !self.remember {
            return;
        }
        let _one = self.saving.lock().await;
        let sessions: BTreeMap<StoreName, _> =
            stores.iter().filter_map(|(name, store)| Some((Arc::clone(name), store.session()?))).collect();
        let draft = self.ledger.draft(self.leases().iter(), sessions.into_iter());
        let saved = match draft {
            Ok(write) => tokio::task::spawn_blocking(write).await.unwrap_or_else(|stopped| Err(stopped.into())),
            Err(error) => Err(error),
        };
        if let Err(error) = saved {
            let path = self.ledger.path().display();
            tracing::error!(%path, "cannot write it: {error}; the next run will not know what leases are held");
        }
    }
}
