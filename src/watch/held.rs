//! One lease that is held: its clocks, and what a store's answers about it mean.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::leases::Means;
use super::overlap::{Now, later, left};
use crate::config::model::{StoreName, TargetName};
use crate::schedule::{self, Backoff, LeaseAction};
use crate::secret::{Lease, Reading};
use crate::store::{StoreError, StoreErrorKind};

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
    pub(super) users: BTreeSet<TargetName>,
    /// It will not be renewed any more.
    last: bool,
    /// A request about it is in flight.
    pub(super) busy: bool,
    /// When it is looked up was spread out already.
    spread: bool,
    /// What failed was told.
    pub(super) said: bool,
    pub(super) doomed: bool,
    pub(super) renew_at: Option<Instant>,
    pub(super) look_at: Option<Instant>,
    pub(super) revoke_at: Option<Instant>,
    pub(super) backoff: Backoff,
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

impl Held {
    pub(super) fn new(store: StoreName, place: String, reading: Arc<Reading>, now: Now) -> Self {
        let lease = reading.lease.clone();
        let ends = match &lease {
            Some(lease) => ends(lease, now),
            None => reading.expires_at.map(|at| Now { wall: at, mono: now.mono + left(at, now.wall) }),
        };
        let granted = lease.as_ref().map_or(Duration::ZERO, |lease| lease.duration);
        let kept = Kept { store, place, reading: Some(reading), lease, granted, made: now.wall, abandoned: false };
        Self::with(kept, ends)
    }

    /// One of an earlier life. It ends when it was to end by the wall clock; nobody has used it longer than since then.
    pub(super) fn remembered(kept: Kept, ends: Option<Timestamp>, now: Now) -> Self {
        let ends = ends.map(|wall| Now { wall, mono: now.mono + left(wall, now.wall) });
        let duration = ends.map_or(Duration::ZERO, |ends| ends.mono - now.mono);
        let lease = kept.lease.map(|lease| Lease { duration, ..lease });
        Self::with(Kept { lease, ..kept }, ends)
    }

    fn with(kept: Kept, ends: Option<Now>) -> Self {
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
            busy: false,
            spread: false,
            said: false,
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
    pub(super) fn plan(&mut self, now: Instant, die: f64) -> Option<Instant> {
        self.renew_at = None;
        let Some(lease) = &self.lease else {
            let ends = self.ends?;
            let left = ends.mono.saturating_duration_since(now);
            // Of its whole life: a restart does not begin it anew.
            let whole = Duration::try_from(ends.wall.duration_since(self.made)).unwrap_or_default().max(left);
            return Some(now + schedule::replace_after(whole, die).saturating_sub(whole - left));
        };
        let left = self.ends?.mono.saturating_duration_since(now);
        // Of the whole life, too, where it was never renewed.
        let duration = if lease.renewable { lease.duration } else { self.granted.max(left) };
        let lease = Lease { renewable: lease.renewable && !self.last, duration, ..lease.clone() };
        let age = duration.saturating_sub(left);
        match schedule::next_action(&lease, Duration::ZERO, age, die) {
            LeaseAction::RenewAt(at) => {
                self.renew_at = Some(now + at.saturating_sub(age));
                None
            }
            LeaseAction::ReplaceAt(at) | LeaseAction::ReadAt(at) => Some(now + at.saturating_sub(age)),
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        if self.busy || self.abandoned {
            return None;
        }
        if self.doomed {
            return self.revoke_at;
        }
        [self.renew_at, self.look_at].into_iter().flatten().min()
    }

    pub(super) fn look_after(&mut self, every: Duration, now: Instant, die: f64) {
        let wanted = self.lease.is_some() && !every.is_zero();
        let pause = match std::mem::replace(&mut self.spread, true) {
            true => every.mul_f64(0.9 + die / 10.0),
            false => schedule::first_after(every, die),
        };
        self.look_at = wanted.then(|| now + pause);
    }
}

impl Held {
    pub(super) fn renewed(&mut self, renewed: Result<Lease, StoreError>, now: Now, die: f64) -> Means {
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

    pub(super) fn looked(
        &mut self,
        looked: Result<Option<Lease>, StoreError>,
        every: Duration,
        now: Now,
        die: f64,
    ) -> Means {
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
        self.lease = Some(lease);
    }
}

/// None: it never ends (Vault: `lease_duration` 0).
fn ends(lease: &Lease, now: Now) -> Option<Now> {
    (!lease.duration.is_zero()).then(|| Now { wall: later(now.wall, lease.duration), mono: now.mono + lease.duration })
}

#[cfg(test)]
#[path = "held_tests.rs"]
mod tests;
