//! Leases of a render that ends: taken over from whoever was there before, left to whoever comes after.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;
use tokio::time::Instant;

use super::holding::place;
use super::leases::{Held, Key, Leases, Standing as Stands};
use super::ledger::Ledger;
use super::overlap::Now;
use super::{Stores, Surroundings, Uses};
use crate::config::model::{Config, SecretConfig, StoreName, TargetName};
use crate::secret::{Again, Reading, Standing};

/// What single rounds of reading share; see [`super::read_once`].
pub struct Holding {
    leases: Mutex<Leases>,
    ledger: Ledger,
    /// Made by this command.
    made: Mutex<BTreeSet<Key>>,
    /// Whether anything may be written.
    remember: bool,
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
        if !remember {
            stores.values().for_each(|store| store.spare());
        }
        let mut leases = Leases::default();
        for (key, held) in found.held {
            let users = uses.iter().filter(|(_, used)| used.contains(&key.0)).map(|(target, _)| Arc::clone(target));
            let users = users.collect();
            leases.restore(key, held, &users, now, 0.5);
        }
        leases.expire(now.mono);
        Self { leases: Mutex::new(leases), ledger, made: Mutex::default(), remember }
    }

    fn leases(&self) -> std::sync::MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
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
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let doomed: Vec<_> = {
            let mut leases = self.leases();
            leases.collect(&BTreeSet::new(), now);
            let ends = |(key, held): &(&Key, &Held)| if self.remember { held.doomed() } else { made.contains(key) };
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
        self.save(stores).await;
    }

    async fn save(&self, stores: &Stores) {
        if !self.remember {
            return;
        }
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
