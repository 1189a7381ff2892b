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

use tokio::time::Instant;

use super::held::Held;
use super::overlap::Now;
use crate::config::model::TargetName;

use crate::secret::{Lease, SecretName, Version};
use crate::store::{StoreError, StoreErrorKind};

/// A reading by name and version.
pub(super) type Key = (SecretName, Version);

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

impl Answer {
    /// Why it is none, and what that means for the operator.
    pub(super) fn failure(&self) -> Option<(&StoreError, &'static str)> {
        match self {
            Self::Renewed(Err(error)) if error.kind == StoreErrorKind::Denied => {
                Some((error, "its lease is not renewed; it is replaced before its end"))
            }
            Self::Renewed(Err(error)) if error.kind != StoreErrorKind::Missing => Some((
                error,
                "its lease is not renewed yet; it is tried again, and nothing is made in its place before its end is near",
            )),
            Self::Looked(Err(error)) if error.kind == StoreErrorKind::Denied => {
                Some((error, "its lease is not looked up any more: a revocation is noticed at the next renewal only"))
            }
            Self::Looked(Err(error)) => Some((error, "its lease could not be looked up; it is tried again")),
            Self::Revoked(Err(error)) => {
                Some((error, "its lease, which nothing uses, is not revoked yet; it is tried again until it ends"))
            }
            _ => None,
        }
    }
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

    /// Whether this failure is the first since all was well: then it is told.
    pub(super) fn first_failure(&mut self, key: &Key, failed: bool) -> bool {
        let Some(held) = self.held.get_mut(key) else { return false };
        !std::mem::replace(&mut held.said, failed) && failed
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
