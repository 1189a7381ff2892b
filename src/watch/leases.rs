//! The leases that are held: kept alive until no target uses them, then revoked. No I/O, no waiting.
//!
//! A lease is used by a target from the moment that a snapshot with it is about to be emitted, until the target says that
//! it stands on others ([`Leases::standing`]). So whatever a running process has, and whatever it would be given by going
//! back, lives; and what no target uses, and nobody shows any more, is revoked, however often that takes.
//!
//! Certificates and other values that were made for us without a lease are held, too, so that a restart finds them; there
//! is nothing to renew or revoke about them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::overlap::{Now, later, left};
use crate::config::model::{StoreName, TargetName};
use crate::schedule::{self, Backoff, LeaseAction};
use crate::secret::{Lease, Reading, SecretName, Version};
use crate::store::{StoreError, StoreErrorKind};

/// A reading by name and version.
pub(super) type Key = (SecretName, Version);

/// How many times less often a lease is looked up where that was denied.
const DENIED: u32 = 10;
/// Between attempts that fail.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A renewal that grants less than this part of the first grant is the last: the lease nears its longest life.
const SHRUNK: f64 = 0.9;
/// How much earlier than known a lease may end before that is news.
const SLACK: Duration = Duration::from_secs(5);

/// One lease (or values without one that cost something to make).
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) store: StoreName,
    /// Where in the store; see [`place`].
    pub(super) place: String,
    /// None: remembered without its values, only to be revoked.
    pub(super) reading: Option<Arc<Reading>>,
    /// None: values with an end of their own.
    pub(super) lease: Option<Lease>,
    /// What the first grant was for.
    pub(super) granted: Duration,
    /// When it was made.
    pub(super) made: Timestamp,
    /// When it ends, on both clocks. None: never.
    pub(super) ends: Option<Now>,
    /// Its target was configured away with its process running: it is neither renewed nor revoked, and ends by itself.
    pub(super) abandoned: bool,
    /// Targets that may use it.
    users: BTreeSet<TargetName>,
    /// It will not be renewed any more.
    last: bool,
    /// When `lease` was answered.
    answered: Instant,
    /// A request about it is in flight.
    busy: bool,
    doomed: bool,
    renew_at: Option<Instant>,
    look_at: Option<Instant>,
    revoke_at: Option<Instant>,
    backoff: Backoff,
}

/// The part of [`Held`] that outlives the agent.
pub(super) struct Kept {
    pub(super) store: StoreName,
    pub(super) place: String,
    pub(super) reading: Option<Arc<Reading>>,
    pub(super) lease: Option<Lease>,
    pub(super) granted: Duration,
    pub(super) made: Timestamp,
    pub(super) abandoned: bool,
}

/// What is to be asked of a store about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Renew,
    LookUp,
    Revoke,
}

/// What it answered.
#[derive(Debug)]
pub(super) enum Answer {
    Renewed(Result<Lease, StoreError>),
    Looked(Result<Option<Lease>, StoreError>),
    Revoked(Result<(), StoreError>),
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Means {
    /// Nothing for anybody else.
    Nothing,
    /// It ends at another time than was known.
    Moved,
    /// It is gone, and its values with it.
    Gone,
    /// It was revoked, as was wanted.
    Revoked,
}

#[derive(Debug, Default)]
pub(super) struct Leases {
    held: BTreeMap<Key, Held>,
    /// Leases that ended while a target might still go back to them.
    pub(super) dead: BTreeSet<Key>,
}

/// What a target stands on: see [`crate::secret::Standing`].
pub(super) struct Standing<'a> {
    pub(super) using: &'a BTreeSet<Key>,
    pub(super) newest: &'a BTreeSet<Key>,
    /// What its channel holds.
    pub(super) emitted: &'a BTreeSet<Key>,
    pub(super) rejected: bool,
}

impl Held {
    pub(super) fn new(store: StoreName, place: String, reading: Arc<Reading>, now: Now) -> Self {
        let lease = reading.lease.clone();
        let ends = match &lease {
            Some(lease) => ends(lease, now),
            None => reading.expires_at.map(|at| Now { wall: at, mono: now.mono + left(at, now.wall) }),
        };
        let granted = lease.as_ref().map_or(Duration::ZERO, |lease| lease.duration);
        let kept = Kept { store, place, reading: Some(reading), lease, granted, made: now.wall, abandoned: false };
        Self::with(kept, ends, now)
    }

    /// One of an earlier life. It ends when it was to end by the wall clock; nobody has used it longer than since then.
    pub(super) fn remembered(kept: Kept, ends: Option<Timestamp>, now: Now) -> Self {
        let ends = ends.map(|wall| Now { wall, mono: now.mono + left(wall, now.wall) });
        let duration = ends.map_or(Duration::ZERO, |ends| ends.mono - now.mono);
        let lease = kept.lease.map(|lease| Lease { duration, ..lease });
        Self::with(Kept { lease, ..kept }, ends, now)
    }

    fn with(kept: Kept, ends: Option<Now>, now: Now) -> Self {
        let Kept { store, place, reading, lease, granted, made, abandoned } = kept;
        Self {
            store,
            place,
            reading,
            lease,
            granted,
            made,
            ends,
            abandoned,
            users: BTreeSet::new(),
            last: false,
            answered: now.mono,
            busy: false,
            doomed: false,
            renew_at: None,
            look_at: None,
            revoke_at: None,
            backoff: Backoff::new(BACKOFF.0, BACKOFF.1),
        }
    }

    pub(super) fn doomed(&self) -> bool {
        self.doomed
    }

    pub(super) fn in_use(&self) -> bool {
        !self.users.is_empty()
    }

    /// Whether a third of its life, and a minute, are left: enough for who comes after to take it over.
    pub(super) fn fresh(&self, now: Instant) -> bool {
        let Some(ends) = self.ends else { return true };
        let left = ends.mono.saturating_duration_since(now);
        let whole = Duration::try_from(ends.wall.duration_since(self.made)).unwrap_or_default();
        let whole = if self.granted.is_zero() { whole } else { self.granted };
        left > whole / 3 && left > Duration::from_secs(60).min(whole / 2)
    }

    /// Whether its end has come.
    pub(super) fn over(&self, now: Instant) -> bool {
        self.ends.is_some_and(|ends| ends.mono <= now)
    }

    /// Plans the next renewal. Answers when it is to be replaced, if it will not be renewed again.
    fn plan(&mut self, now: Instant, die: f64) -> Option<Instant> {
        self.renew_at = None;
        let Some(lease) = &self.lease else {
            let ends = self.ends?;
            let left = ends.mono.saturating_duration_since(now);
            // Of its whole life: a restart does not begin it anew.
            let whole = Duration::try_from(ends.wall.duration_since(self.made)).unwrap_or_default().max(left);
            return Some(now + schedule::replace_after(whole, die).saturating_sub(whole - left));
        };
        self.ends?;
        let lease = Lease { renewable: lease.renewable && !self.last, ..lease.clone() };
        let origin = self.answered;
        let action = schedule::next_action(&lease, Duration::ZERO, now.saturating_duration_since(origin), die);
        match action {
            LeaseAction::RenewAt(at) => {
                self.renew_at = Some(origin + at);
                None
            }
            LeaseAction::ReplaceAt(at) | LeaseAction::ReadAt(at) => Some(origin + at),
        }
    }

    fn next(&self) -> Option<Instant> {
        if self.busy || self.abandoned {
            return None;
        }
        if self.doomed {
            return self.revoke_at;
        }
        [self.renew_at, self.look_at].into_iter().flatten().min()
    }

    fn look_after(&mut self, every: Duration, now: Instant, die: f64) {
        let wanted = self.lease.is_some() && !every.is_zero();
        self.look_at = wanted.then(|| now + every.mul_f64(0.9 + die / 10.0));
    }
}

impl Leases {
    /// Holds what was made just now. Answers when it is to be replaced, where it will not be renewed.
    pub(super) fn hold(&mut self, key: Key, mut held: Held, every: Duration, now: Now, die: f64) -> Option<Instant> {
        let replace = held.plan(now.mono, die);
        held.look_after(every, now.mono, die);
        self.held.insert(key, held);
        replace
    }

    /// Holds what an earlier life held, which is looked up at once: it may have gone meanwhile.
    pub(super) fn restore(&mut self, key: Key, mut held: Held, users: &BTreeSet<TargetName>, now: Now, die: f64) {
        held.plan(now.mono, die);
        held.look_at = held.lease.is_some().then_some(now.mono);
        held.users.clone_from(users);
        self.held.insert(key, held);
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Held> {
        self.held.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Held)> {
        self.held.iter()
    }

    /// What is held of one secret.
    pub(super) fn of<'a>(&'a self, secret: &'a SecretName) -> impl Iterator<Item = (&'a Key, &'a Held)> {
        self.held.iter().filter(move |((name, _), _)| name == secret)
    }

    /// When it is to be replaced: the part of its life that is left for that has come, or will not be renewed.
    pub(super) fn replace_at(&mut self, key: &Key, now: Instant, die: f64) -> Option<Instant> {
        self.held.get_mut(key)?.plan(now, die)
    }

    /// A snapshot with these is about to be emitted to a target.
    pub(super) fn emitted(&mut self, target: &TargetName, keys: &BTreeSet<Key>) {
        for key in keys {
            if let Some(held) = self.held.get_mut(key) {
                held.abandoned = false;
                held.users.insert(Arc::clone(target));
            }
        }
    }

    /// A target tells what it stands on. Answers what it rejected and nobody else uses.
    pub(super) fn standing(&mut self, target: &TargetName, standing: &Standing<'_>) -> Vec<Key> {
        let mut rejected = Vec::new();
        for (key, held) in self.held.iter_mut().filter(|(_, held)| held.users.contains(target)) {
            if standing.using.contains(key) {
                continue;
            }
            let offered = standing.newest.contains(key);
            if offered && standing.rejected {
                held.users.remove(target);
                if held.users.is_empty() && held.reading.is_some() {
                    rejected.push(key.clone());
                }
            } else if !offered && !standing.emitted.contains(key) {
                held.users.remove(target);
            }
        }
        rejected
    }

    /// A target is configured away, and its process left as it is: what it alone has used ends by itself.
    pub(super) fn forget_target(&mut self, target: &TargetName) {
        for held in self.held.values_mut() {
            held.abandoned |= held.users.remove(target) && held.users.is_empty();
        }
    }

    /// Dooms what nobody uses or shows. Answers whether there is anything.
    pub(super) fn collect(&mut self, shown: &BTreeSet<Key>, now: Instant) -> bool {
        let mut any = false;
        self.held.retain(|key, held| {
            if held.doomed || held.abandoned || !held.users.is_empty() || shown.contains(key) {
                return true;
            }
            any = true;
            held.doomed = true;
            held.revoke_at = Some(now);
            held.lease.is_some()
        });
        any
    }

    /// Nobody can ask about it any more.
    pub(super) fn let_go(&mut self, key: &Key) {
        self.held.remove(key);
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.held.values().filter_map(Held::next).min()
    }

    /// What is due, which is thereby in flight.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(Key, Step)> {
        let mut due = Vec::new();
        for (key, held) in &mut self.held {
            if held.next().is_none_or(|at| at > now) {
                continue;
            }
            let step = match held.renew_at {
                _ if held.doomed => Step::Revoke,
                Some(at) if at <= now => Step::Renew,
                _ => Step::LookUp,
            };
            held.busy = true;
            due.push((key.clone(), step));
        }
        due
    }

    /// A store has answered.
    pub(super) fn answered(&mut self, key: &Key, answer: Answer, every: Duration, now: Now, die: f64) -> Means {
        let Some(held) = self.held.get_mut(key) else { return Means::Nothing };
        held.busy = false;
        let means = match answer {
            Answer::Revoked(Ok(())) => Means::Revoked,
            Answer::Revoked(Err(_)) if held.over(now.mono) => Means::Revoked,
            Answer::Revoked(Err(error)) => {
                held.revoke_at = Some(now.mono + held.backoff.fail(die, error.retry_after));
                Means::Nothing
            }
            Answer::Renewed(renewed) => held.renewed(renewed, now, die),
            Answer::Looked(looked) => held.looked(looked, every, now, die),
        };
        if matches!(means, Means::Gone | Means::Revoked) {
            self.end(key);
        }
        means
    }

    fn end(&mut self, key: &Key) {
        if let Some(held) = self.held.remove(key)
            && !held.users.is_empty()
        {
            self.dead.insert(key.clone());
        }
    }

    /// Those whose time has run out, which are thereby gone.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Key> {
        let over: Vec<_> =
            self.held.iter().filter(|(_, held)| held.over(now) && !held.busy).map(|(key, _)| key.clone()).collect();
        for key in &over {
            self.end(key);
        }
        over
    }

    /// When the first that is held runs out.
    pub(super) fn first_end(&self) -> Option<Instant> {
        self.held.values().filter(|held| !held.busy).filter_map(|held| Some(held.ends?.mono)).min()
    }
}

impl Held {
    fn renewed(&mut self, renewed: Result<Lease, StoreError>, now: Now, die: f64) -> Means {
        match renewed {
            Ok(lease) => {
                self.backoff.reset();
                self.last |= lease.duration < self.granted.mul_f64(SHRUNK) || !lease.renewable;
                self.take(lease, now);
                Means::Moved
            }
            Err(error) if error.kind == StoreErrorKind::Missing => Means::Gone,
            Err(error) => {
                self.renew_at = Some(now.mono + self.backoff.fail(die, error.retry_after));
                let left = self.ends.map(|ends| ends.mono.saturating_duration_since(now.mono));
                let near = left.is_some_and(|left| left < self.granted.mul_f64(0.15));
                if error.kind == StoreErrorKind::Denied || near {
                    // It is not renewed any more; so it is replaced in time.
                    (self.last, self.renew_at) = (true, None);
                    return Means::Moved;
                }
                Means::Nothing
            }
        }
    }

    fn looked(&mut self, looked: Result<Option<Lease>, StoreError>, every: Duration, now: Now, die: f64) -> Means {
        match looked {
            Ok(None) => return Means::Gone,
            Ok(Some(lease)) => {
                self.look_after(every, now.mono, die);
                let known = self.ends.map(|ends| ends.mono);
                let told = ends(&lease, now).map(|ends| ends.mono);
                let moved = match (known, told) {
                    (Some(known), Some(told)) => known.saturating_duration_since(told) > SLACK,
                    (known, told) => known.is_some() != told.is_some(),
                };
                if moved {
                    self.take(lease, now);
                    return Means::Moved;
                }
            }
            // Policies change, and so do tokens: it is asked again, but seldom.
            Err(error) if error.kind == StoreErrorKind::Denied => {
                self.look_after(every.saturating_mul(DENIED), now.mono, die);
            }
            Err(error) => {
                let pause = self.backoff.fail(die, error.retry_after).max(every.mul_f64(0.9));
                self.look_at = Some(now.mono + pause);
            }
        }
        Means::Nothing
    }

    fn take(&mut self, lease: Lease, now: Now) {
        self.ends = ends(&lease, now);
        self.answered = now.mono;
        self.lease = Some(lease);
    }
}

/// None: it never ends (Vault: `lease_duration` 0).
fn ends(lease: &Lease, now: Now) -> Option<Now> {
    (!lease.duration.is_zero()).then(|| Now { wall: later(now.wall, lease.duration), mono: now.mono + lease.duration })
}

#[cfg(test)]
#[path = "leases_tests.rs"]
mod tests;
