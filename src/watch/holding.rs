//! What the leases that are held mean for secrets and targets: new ones, ends, rejections, what nobody uses any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::held::Held;
use super::leases::{Answer, Key, Means, Standing as Stands, Step};
use super::overlap::Now;
use super::slot::Slot;
use super::state::State;
use super::timers::Timer;
use crate::config::model::{Locator, SecretConfig, StoreConfig, TargetName};
use crate::secret::{Again, Reading, SecretName, Standing, Version};
use crate::store::{Store, StoreError, StoreErrorKind};

/// Those whom one revocation strikes do not all come back at the same moment.
const SPREAD: Duration = Duration::from_secs(3);

/// What a secret's place is, written down: a lease of another place is another secret's.
pub(super) fn place(locator: &Locator) -> String {
    match locator {
        Locator::File { key } => key.clone(),
        Locator::Vault { path, params } => {
            let params = serde_json::to_string(params).unwrap_or_default();
            format!("{path} {params}")
        }
        Locator::Aws { id, stage, version_id, key } => format!("{id} {stage:?} {version_id:?} {key:?}"),
    }
}

/// How often leases of this store are looked up.
pub(super) fn lease_check(store: &StoreConfig) -> Duration {
    match store {
        StoreConfig::Vault(vault) => vault.lease_check,
        StoreConfig::File(_) | StoreConfig::Aws(_) => Duration::ZERO,
    }
}

impl State {
    /// Holds a reading that was made just now.
    pub(super) fn hold(&mut self, name: &SecretName, reading: &Arc<Reading>, now: Now, die: f64) {
        let Some(slot) = self.slots.get(name) else { return };
        if reading.again != Again::Mints && reading.lease.is_none() {
            return;
        }
        let (store, place) = (Arc::clone(&slot.config.store), place(&slot.config.locator));
        let every = self.checks.get(&store).copied().unwrap_or_default();
        let key = (name.clone(), reading.version.clone());
        let replace = self.leases.hold(key, Held::new(store, place, Arc::clone(reading), now), every, now, die);
        self.timers.set(Timer::Read(name.clone()), replace);
        self.save_leases = Some(now.mono);
    }

    /// What an earlier life made of this secret and is still good: the newest.
    pub(super) fn found(&self, secret: &SecretConfig, now: Instant) -> Option<Arc<Reading>> {
        let place = place(&secret.locator);
        let good = |held: &&Held| held.store == secret.store && held.place == place && !held.over(now);
        let held = self.leases.of(&secret.name).map(|(_, held)| held).filter(good);
        held.filter(|held| held.reading.is_some() && !held.doomed()).max_by_key(|held| held.made)?.reading.clone()
    }

    /// Begins what is due about leases.
    pub(super) fn lease_steps(&mut self, now: Instant) -> Vec<(Key, Step, Arc<dyn Store>, crate::secret::Lease)> {
        let mut steps = Vec::new();
        for (key, step) in self.leases.due(now) {
            let Some(held) = self.leases.get(&key) else { continue };
            let store = self.stores.get(&held.store).map(Arc::clone);
            match (store, held.lease.clone()) {
                (Some(store), Some(lease)) => steps.push((key, step, store, lease)),
                // Its store is not declared any more: nobody can ask.
                _ => self.leases.let_go(&key),
            }
        }
        steps
    }

    /// A store has answered about a lease.
    pub(super) fn lease_answered(&mut self, key: &Key, answer: Answer, now: Now, dice: &dyn Fn() -> f64) {
        let every = self.leases.get(key).and_then(|held| self.checks.get(&held.store)).copied().unwrap_or_default();
        let renewed = matches!(answer, Answer::Renewed(Ok(_)));
        if let Some((error, then)) = answer.failure() {
            if self.leases.first_failure(key, true) {
                tracing::warn!(secret = %key.0, version = %key.1, "{error}; {then}");
            }
            let unreachable = error.kind == StoreErrorKind::Unavailable;
            if let Some(slot) = self.slots.get_mut(&key.0).filter(|_| unreachable) {
                slot.unreachable(error, now);
            }
        } else {
            self.leases.first_failure(key, false);
            if let Some(slot) = self.slots.get_mut(&key.0) {
                slot.reachable();
            }
        }
        let means = self.leases.answered(key, answer, every, now, dice());
        match means {
            Means::Nothing => {}
            Means::Moved => {
                self.save_leases.get_or_insert(now.mono + Duration::from_secs(5));
                let replace = self.leases.replace_at(key, now.mono, dice());
                if self.is_current(key) {
                    self.timers.set(Timer::Read(key.0.clone()), replace);
                }
            }
            Means::Revoked => self.save_leases = Some(now.mono),
            Means::Gone => {
                tracing::warn!(secret = %key.0, version = %key.1, "its lease is gone before its end: it is replaced");
                self.gone(key, now, dice);
            }
        }
        if renewed {
            tracing::debug!(secret = %key.0, version = %key.1, "its lease was renewed");
        }
    }

    /// Those whose time has run out.
    pub(super) fn expire(&mut self, now: Now, dice: &dyn Fn() -> f64) {
        for key in self.leases.expire(now.mono) {
            tracing::info!(secret = %key.0, version = %key.1, "has ended");
            self.gone(&key, now, dice);
        }
    }

    fn gone(&mut self, key: &Key, now: Now, dice: &dyn Fn() -> f64) {
        self.save_leases = Some(now.mono);
        self.dead.send_replace(Arc::new(self.leases.dead.clone()));
        if self.is_current(key) {
            let soon = now.mono + SPREAD.mul_f64(dice());
            let timer = Timer::Read(key.0.clone());
            let planned = self.timers.get(&timer);
            self.timers.set(timer, Some(planned.map_or(soon, |at| at.min(soon))));
        }
    }

    fn is_current(&self, (name, version): &Key) -> bool {
        self.current_version(name) == Some(version)
    }

    fn current_version(&self, name: &SecretName) -> Option<&Version> {
        Some(&self.slots.get(name)?.current.as_ref()?.version)
    }

    /// A target tells what it stands on: everything else that it used is let go, and what it rejected is not offered again.
    /// Answers whether anything that is remembered of overlaps changed.
    pub(super) fn standing(
        &mut self,
        target: &TargetName,
        standing: &Standing,
        now: Now,
        dice: &dyn Fn() -> f64,
    ) -> bool {
        let emitted = self.emitted_to(target);
        let stands =
            Stands { using: &standing.using, newest: &standing.newest, emitted: &emitted, rejected: standing.rejected };
        let mut remember = false;
        for (name, version) in &standing.newest {
            let told = (standing.using.contains(&(name.clone(), version.clone())), standing.rejected);
            let Some(slot) = self.slots.get_mut(name) else { continue };
            let lasts = slot.config.overlap;
            if slot.overlap.standing(target, version, told, lasts, now) {
                remember |= !lasts.is_zero();
                self.time_overlap(name);
            }
        }
        for key in self.leases.standing(target, &stands) {
            self.reject(&key, now, dice);
            self.time_overlap(&key.0);
        }
        self.collect(now.mono);
        remember
    }

    /// What was made for a rotation that was refused is not offered again: the secret goes back to what is in use, and
    /// another is made after a while.
    fn reject(&mut self, key: &Key, now: Now, dice: &dyn Fn() -> f64) {
        if !self.is_current(key) {
            return;
        }
        let name = &key.0;
        let before =
            self.leases.of(name).filter(|(other, held)| *other != key && held.in_use() && !held.over(now.mono));
        let before = before.max_by_key(|(_, held)| held.made);
        let before = before.and_then(|(_, held)| Some((held.reading.clone()?, held.ends.map(|ends| ends.mono))));
        let (Some(slot), Some((before, ends))) = (self.slots.get_mut(name), before) else { return };
        let pause = slot.go_back(&before, now, dice());
        let again = now.mono + pause;
        self.timers.set(Timer::Read(name.clone()), Some(ends.map_or(again, |ends| ends.min(again))));
        tracing::warn!(
            secret = %name, version = %key.1, "was refused, and is revoked; another is made in {} s", pause.as_secs()
        );
        self.tell_targets(name, false, now.mono, dice);
    }

    fn shows(&self, (name, version): &Key) -> bool {
        let Some(slot) = self.slots.get(name) else { return false };
        let shown = slot.current.as_ref().into_iter().chain(slot.overlap.shown());
        shown.map(|reading| &reading.version).any(|shown| shown == version)
    }

    /// Dooms what nobody uses or shows.
    pub(super) fn collect(&mut self, now: Instant) {
        // By what is held, which is little: this is asked with every new reading.
        let shown: BTreeSet<Key> =
            self.leases.iter().map(|(key, _)| key).filter(|key| self.shows(key)).cloned().collect();
        if self.leases.collect(&shown, now) {
            self.save_leases = Some(now);
        }
    }
}

impl Slot {
    /// Its store does not answer about its lease.
    fn unreachable(&mut self, error: &StoreError, now: Now) {
        self.failing_since.get_or_insert(now.wall);
        self.error = Some(error.clone());
    }

    /// Its store answers about its lease; what a read met before is not forgotten but by a read.
    fn reachable(&mut self) {
        if self.is_well_read() {
            (self.failing_since, self.error) = (None, None);
        }
    }

    /// Back to what is in use. Answers how long until another is to be made.
    fn go_back(&mut self, to: &Arc<Reading>, now: Now, die: f64) -> Duration {
        self.current = Some(Arc::clone(to));
        self.overlap.go_back(to, now);
        self.changed_at = self.overlap.in_use.as_ref().map(|in_use| in_use.changed_at);
        self.rejections.fail(die, None)
    }
}
