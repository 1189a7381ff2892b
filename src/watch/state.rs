//! All secrets and targets of a watch, and what an event changes in them. No I/O, no waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::holding::lease_check;
use super::keeper::revoking;
use super::leases::{Key, Leases};
use super::memory::Memory;
use super::overlap::{Now, Overlap};
use super::slot::{Finished, Read, Slot, Source};
use super::ticks::Ticks;
use super::timers::{Timer, Timers};
use super::{SecretStatus, Stores, Uses};
use crate::config::model::{Config, SecretConfig, Settle, StoreName, TargetName};
use crate::schedule::{self, Settling};
use crate::secret::{Again, Reading, SecretName, Snapshot, Version};
use crate::store::Upkeep;

pub(super) struct State {
    origin: Instant,
    /// Boxed: a map's nodes have room for twice what is in them.
    pub(super) slots: BTreeMap<SecretName, Box<Slot>>,
    targets: BTreeMap<TargetName, Target>,
    pub(super) timers: Timers,
    ticks: Ticks,
    /// Targets to be given a snapshot now.
    ready: BTreeSet<TargetName>,
    next_id: u64,
    pub(super) leases: Leases,
    /// Stores that are declared, and how often leases of theirs are looked up.
    pub(super) stores: Stores,
    pub(super) checks: BTreeMap<StoreName, Duration>,
    /// Stores whose leases end with the agent.
    pub(super) revoking: BTreeSet<StoreName>,
    /// What is held differs from what is written; when to write it.
    pub(super) save_leases: Option<Instant>,
    /// Leases that ended while a target might still go back to them.
    pub(super) dead: watch::Sender<Arc<BTreeSet<Key>>>,
}

struct Target {
    settle: Settle,
    splay: Duration,
    uses: BTreeSet<SecretName>,
    /// How many of `uses` were never read.
    unread: usize,
    settling: Settling,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
}

/// Readings that nobody has seen yet, for the masks.
pub(super) type Unseen = Vec<(SecretName, Arc<Reading>)>;

impl State {
    pub(super) fn new(origin: Instant) -> Self {
        Self {
            origin,
            slots: BTreeMap::new(),
            targets: BTreeMap::new(),
            timers: Timers::default(),
            ticks: Ticks::default(),
            ready: BTreeSet::new(),
            next_id: 0,
            leases: Leases::default(),
            stores: Stores::new(),
            checks: BTreeMap::new(),
            revoking: BTreeSet::new(),
            save_leases: None,
            dead: watch::Sender::default(),
        }
    }

    /// Takes a config up. Answers the readings that were remembered, and the secrets to read.
    pub(super) fn configure(
        &mut self,
        config: &Config,
        stores: &Stores,
        uses: &Uses,
        memory: &mut Memory,
        now: Now,
        dice: &dyn Fn() -> f64,
    ) -> (Unseen, Vec<SecretName>) {
        let before = std::mem::take(&mut self.slots);
        let (mut kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) = before.into_iter().partition(|(name, slot)| {
            let store = config.secrets.get(name).filter(|secret| secret.locator == slot.config.locator);
            let store = store.and_then(|secret| stores.get(&secret.store));
            uses.values().any(|used| used.contains(name)) && store.is_some_and(|s| Arc::ptr_eq(s, &slot.source.store))
        });
        for (name, slot) in &gone {
            self.timers.set(Timer::Read(name.clone()), None);
            self.timers.set(Timer::OverlapEnd(name.clone()), None);
            memory.put_back(&slot.config, &slot.overlap);
        }
        memory.retain(&config.secrets, now);
        self.stores.clone_from(stores);
        self.ticks.retain(|store, poll| {
            let polled =
                |poll| config.secrets.values().any(|secret| secret.store == *store && secret.poll == Some(poll));
            stores.contains_key(store) && poll.is_none_or(polled)
        });
        self.revoking = revoking(config);
        self.checks = config.stores.iter().map(|(name, store)| (Arc::clone(name), lease_check(store))).collect();
        let sources: BTreeMap<_, _> =
            stores.iter().map(|(name, store)| (name.clone(), Source::new(Arc::clone(store)))).collect();
        let (mut unseen, mut to_read) = (Unseen::new(), Vec::new());
        for name in uses.values().flatten().collect::<BTreeSet<_>>() {
            let Some(secret) = config.secrets.get(name) else { continue };
            let Some(source) = sources.get(&secret.store) else { continue };
            let slot = match kept.remove(name) {
                Some(slot) => self.keep(*slot, secret, now, dice()),
                None => {
                    let overlap = memory.recall(secret, now);
                    unseen.extend(remembered(name, &overlap));
                    self.next_id += 1;
                    let mut slot = Slot::new(self.next_id, secret.clone(), source.clone(), overlap);
                    match self.found(secret, now.mono) {
                        Some(reading) => {
                            unseen.push((name.clone(), Arc::clone(&reading)));
                            let key = (name.clone(), reading.version.clone());
                            let made = self.leases.get(&key).map_or(now.wall, |held| held.made);
                            slot.restored(reading, made);
                            let replace = self.leases.replace_at(&key, now.mono, dice());
                            self.timers.set(Timer::Read(name.clone()), replace);
                        }
                        None => to_read.push(name.clone()),
                    }
                    slot
                }
            };
            self.slots.insert(name.clone(), Box::new(slot));
        }
        self.configure_targets(config, uses);
        for (name, slot) in &mut self.slots {
            slot.overlap.used_by(&slot.targets);
            self.timers.set(Timer::OverlapEnd(name.clone()), slot.overlap.ends());
        }
        (unseen, to_read)
    }

    fn keep(&mut self, mut slot: Slot, secret: &SecretConfig, now: Now, die: f64) -> Slot {
        if slot.overlap.bound(secret.overlap, now) {
            self.ready.extend(slot.targets.iter().cloned());
        }
        if slot.config.poll != secret.poll && !slot.is_failing() {
            let next = secret.poll.map(|poll| match slot.source.gathers() {
                true => self.ticks.poll(&secret.store, poll, true, now.mono, die),
                false => now.mono + schedule::first_after(poll, die),
            });
            self.timers.set(Timer::Read(secret.name.clone()), next);
        }
        slot.config = secret.clone();
        slot.targets.clear();
        slot
    }

    fn configure_targets(&mut self, config: &Config, uses: &Uses) {
        let mut before = std::mem::take(&mut self.targets);
        for (name, used) in uses {
            let Some(target) = config.targets.get(name) else { continue };
            let same = before.get(name).is_some_and(|before| before.uses == *used);
            let (settling, snapshots) = match before.remove(name) {
                Some(before) => (before.settling, before.snapshots),
                None => (Settling::default(), watch::Sender::new(None)),
            };
            let mut unread = 0;
            for secret in used {
                match self.slots.get_mut(secret) {
                    Some(slot) => {
                        slot.targets.insert(name.clone());
                        unread += usize::from(slot.current.is_none());
                    }
                    None => {
                        tracing::error!(target_name = %name, secret = %secret, "a secret in use is not declared");
                        unread += 1;
                    }
                }
            }
            if unread > 0 {
                snapshots.send_replace(None);
            } else if !same {
                self.ready.insert(name.clone());
            }
            let target =
                Target { settle: target.settle, splay: target.splay, uses: used.clone(), unread, settling, snapshots };
            self.targets.insert(name.clone(), target);
        }
        for gone in before.into_keys() {
            self.leases.forget_target(&gone);
            self.timers.set(Timer::Emit(gone), None);
        }
    }

    /// A read has ended. Answers what that means, and the readings that nobody has seen yet.
    pub(super) fn finish(
        &mut self,
        name: &SecretName,
        id: u64,
        read: Read,
        now: Now,
        dice: &dyn Fn() -> f64,
    ) -> Unseen {
        let Some(slot) = self.slots.get_mut(name).filter(|slot| slot.id == id) else { return Unseen::new() };
        let ticks = slot.source.gathers().then_some(&mut self.ticks);
        let Finished { first, news, pause } = slot.finish(read, now, dice(), ticks);
        let unseen = slot.current.iter().chain(&slot.kept).filter(|_| news);
        let unseen = unseen.map(|reading| (name.clone(), Arc::clone(reading))).collect();
        self.timers.set(Timer::Read(name.clone()), pause.map(|pause| now.mono + pause));
        if news {
            let current = slot.current.as_ref().map(Arc::clone);
            if let Some(current) = current {
                self.hold(name, &current, now, dice());
            }
            self.tell_targets(name, first, now.mono, dice);
            self.collect(now.mono);
        }
        unseen
    }

    /// Something about a secret differs: its targets act once that has settled, or at once where they wait for a first.
    pub(super) fn tell_targets(&mut self, name: &SecretName, first: bool, now: Instant, dice: &dyn Fn() -> f64) {
        let Some(slot) = self.slots.get(name) else { return };
        for name in &slot.targets {
            let Some(target) = self.targets.get_mut(name) else { continue };
            target.unread = target.unread.saturating_sub(usize::from(first));
            if target.unread > 0 {
                continue;
            }
            if target.snapshots.borrow().is_none() {
                self.ready.insert(name.clone());
            } else {
                target.settling.change(now.duration_since(self.origin), schedule::splay(target.splay, dice()));
                let due = target.settling.due(target.settle).map(|due| self.origin + due);
                self.timers.set(Timer::Emit(name.clone()), due);
            }
        }
    }

    /// Whether a read of it is in flight at a store that gathers.
    pub(super) fn is_gathering(&self, name: &SecretName) -> bool {
        self.slots.get(name).is_some_and(|slot| slot.source.gathers() && slot.is_busy())
    }

    pub(super) fn settled(&mut self, target: TargetName) {
        self.ready.insert(target);
    }

    /// An overlap ended. Answers whether it did: not while what is in use is refused, for it would be tried again without
    /// the version before, just because that is gone.
    pub(super) fn end_overlap(&mut self, name: &SecretName, now: Instant, dice: &dyn Fn() -> f64) -> bool {
        let Some(slot) = self.slots.get_mut(name) else { return false };
        if slot.overlap.ends().is_none_or(|ends| ends > now) {
            return false;
        }
        slot.overlap.previous = None;
        self.tell_targets(name, false, now, dice);
        self.collect(now);
        true
    }

    /// The snapshots to emit now, and whether something that is remembered changed with them: then that is to be written
    /// down before they are [`State::emit`]ted.
    pub(super) fn prepare(&mut self, now: Now) -> (Vec<(TargetName, Arc<Snapshot>)>, bool) {
        let (mut due, mut remember) = (Vec::new(), false);
        for name in std::mem::take(&mut self.ready) {
            let Some(target) = self.targets.get_mut(&name).filter(|target| target.unread == 0) else { continue };
            target.settling.done();
            let mut snapshot = Snapshot::default();
            for secret in &target.uses {
                let Some(slot) = self.slots.get_mut(secret) else { continue };
                if slot.take_up(now) {
                    remember = true;
                    self.timers.set(Timer::OverlapEnd(secret.clone()), slot.overlap.ends());
                }
                add(&mut snapshot, secret, slot.current.as_ref(), &slot.overlap);
            }
            self.timers.set(Timer::Emit(name.clone()), None);
            self.leases.emitted(&name, &snapshot.readings());
            if target.snapshots.borrow().as_ref().is_none_or(|last| versions(last) != versions(&snapshot)) {
                due.push((name, Arc::new(snapshot)));
            }
        }
        (due, remember)
    }

    pub(super) fn emit(&self, due: Vec<(TargetName, Arc<Snapshot>)>) {
        for (name, snapshot) in due {
            if let Some(target) = self.targets.get(&name) {
                target.snapshots.send_replace(Some(snapshot));
            }
        }
    }

    /// When something is due next.
    pub(super) fn due(&self) -> Option<Instant> {
        let all = [self.timers.next(), self.leases.next(), self.leases.first_end(), self.save_leases];
        all.into_iter().flatten().min()
    }

    /// Secrets in use of which reading again makes nothing.
    pub(super) fn free_to_read(&self) -> Vec<SecretName> {
        let mints = |slot: &Slot| slot.current.as_ref().is_some_and(|current| current.again == Again::Mints);
        self.slots.iter().filter(|(_, slot)| !mints(slot)).map(|(name, _)| name.clone()).collect()
    }

    /// What a target's channel holds.
    pub(super) fn emitted_to(&self, target: &TargetName) -> BTreeSet<Key> {
        let held = self.targets.get(target).and_then(|target| target.snapshots.borrow().clone());
        held.map(|snapshot| snapshot.readings()).unwrap_or_default()
    }

    /// No snapshot follows: the channels close.
    pub(super) fn close(&mut self) {
        self.targets.clear();
    }

    /// What is to be remembered.
    pub(super) fn memories(&self) -> impl Iterator<Item = (&SecretConfig, &Overlap)> {
        self.slots.values().map(|slot| (&slot.config, &slot.overlap))
    }

    pub(super) fn time_overlap(&mut self, name: &SecretName) {
        let ends = self.slots.get(name).and_then(|slot| slot.overlap.ends());
        self.timers.set(Timer::OverlapEnd(name.clone()), ends);
    }

    pub(super) fn snapshots(&self, target: &str) -> Option<watch::Receiver<Option<Arc<Snapshot>>>> {
        let mut snapshots = self.targets.get(target)?.snapshots.subscribe();
        if snapshots.borrow().is_some() {
            snapshots.mark_changed();
        }
        Some(snapshots)
    }

    pub(super) fn upkeep(&self) -> Vec<(StoreName, Upkeep)> {
        let of = |store: &StoreName| -> Vec<_> {
            let slots = self.slots.values().map(|slot| &slot.config).filter(|secret| secret.store == *store);
            slots.filter_map(|secret| Some((&secret.locator, secret.poll?))).collect()
        };
        self.stores.iter().filter_map(|(name, store)| Some((name.clone(), store.upkeep(&of(name))?))).collect()
    }

    pub(super) fn status(&self, wall: Timestamp, mono: Instant) -> Vec<SecretStatus> {
        let now = Now { wall, mono };
        let next = |name: &SecretName| self.timers.get(&Timer::Read(name.clone()));
        let ends = |name: &SecretName, slot: &Slot| {
            let version = slot.current.as_ref()?.version.clone();
            Some(self.leases.get(&(name.clone(), version))?.ends?.wall)
        };
        self.slots.iter().map(|(name, slot)| slot.status(next(name), ends(name, slot), now)).collect()
    }
}

/// Readings that come from memory.
pub(super) fn remembered(name: &SecretName, overlap: &Overlap) -> Unseen {
    let in_use = overlap.in_use.as_ref().and_then(|in_use| in_use.reading.as_ref());
    in_use.into_iter().chain(overlap.shown()).map(|reading| (name.clone(), Arc::clone(reading))).collect()
}

pub(super) fn add(snapshot: &mut Snapshot, name: &SecretName, current: Option<&Arc<Reading>>, overlap: &Overlap) {
    if let Some(current) = current {
        snapshot.secrets.insert(name.clone(), Arc::clone(current));
    }
    if let Some(previous) = overlap.shown() {
        snapshot.previous.insert(name.clone(), Arc::clone(previous));
    }
}

type Versions<'a> = Vec<(&'a SecretName, &'a Version)>;

fn versions(snapshot: &Snapshot) -> (Versions<'_>, Versions<'_>) {
    (
        snapshot.secrets.iter().map(|(name, reading)| (name, &reading.version)).collect(),
        snapshot.previous.iter().map(|(name, reading)| (name, &reading.version)).collect(),
    )
}
