//! When the secrets of a store that gathers are read: together, on ticks that they share. No I/O, no clock, no dice.
//!
//! A tick is an instant that was drawn once for all who join it; the reads that fall on it begin in one turn of the watch.
//! At most one tick of each kind lies ahead, so those who were read apart (after a failure, a refresh, a new config) come
//! together again with their next good read. Every agent draws its own ticks: a fleet does not share them.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::overlap::{Now, left};
use crate::config::model::{SecretConfig, StoreName};
use crate::schedule::{self, RETRY_AFTER_MAX};
use crate::secret::{Again, Reading};

/// How far ahead a retry lies at least where it is joined: what failed is not asked for again in the same breath.
const RETRY_AHEAD: Duration = Duration::from_millis(500);
/// Reads that a store asks for at one moment (secrets that rotate together) wait up to this for each other.
const AFTER_SPREAD: Duration = Duration::from_secs(3);
/// A store's wish lies at most so far ahead: an instant that is too far away cannot be told.
const AFTER_MAX: Duration = Duration::from_secs(365 * 86_400);

#[derive(Debug, Default)]
pub(super) struct Ticks {
    /// The next read of those with this poll.
    polls: BTreeMap<(StoreName, Duration), Instant>,
    /// The next attempt of those whose backoff has come so far (its ceiling).
    retries: BTreeMap<(StoreName, Duration), Instant>,
    /// The next read that a store asked for with [`Again::After`].
    asked: BTreeMap<StoreName, Instant>,
}

/// A wait that a backoff has drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drawn {
    /// How long.
    pub(super) wait: Duration,
    /// How long it could have been at most, but for the store's wish.
    pub(super) ceiling: Duration,
    /// The store's wish: not earlier than that.
    pub(super) retry_after: Option<Duration>,
    /// How the die fell for it.
    pub(super) die: f64,
}

impl Ticks {
    /// How long after a good read the next one follows: at the tick of its poll, or alone where its values end or its store
    /// changes them before. `first`: it was never read before. None: there is no reason to read but a change.
    pub(super) fn after_read(
        &mut self,
        secret: &SecretConfig,
        current: &Reading,
        first: bool,
        now: Now,
        die: f64,
    ) -> Option<Duration> {
        if current.again == Again::Mints {
            return None;
        }
        let polled = secret.poll.map(|poll| self.poll(&secret.store, poll, first, now.mono, die));
        let ends = current.expires_at.map(|at| left(at, now.wall));
        // Values that should have ended are read at the poll, if there is one.
        let ends = ends.filter(|left| !left.is_zero() || polled.is_none());
        let ending = schedule::next_read(None, ends, die).map(|pause| now.mono + pause);
        let next = [polled, ending].into_iter().flatten().min();
        let next = match current.again {
            Again::After(after) => Some(self.after(&secret.store, after, next, now.mono, die)),
            _ => next,
        };
        next.map(|at| at.saturating_duration_since(now.mono))
    }

    /// The next tick of those with this poll. One that lies ahead is joined, however near it is: a read more costs a place
    /// among those that are gathered anyway, a tick of its own would cost a request each time.
    pub(super) fn poll(&mut self, store: &StoreName, poll: Duration, first: bool, now: Instant, die: f64) -> Instant {
        let tick = self.polls.entry((store.clone(), poll)).or_insert(now);
        if *tick <= now {
            let wait = match first {
                true => schedule::first_after(poll, die),
                false => schedule::next_read(Some(poll), None, die).unwrap_or(poll),
            };
            *tick = now + wait.max(Duration::from_millis(1));
        }
        *tick
    }

    /// The read that a store wants `after`, or `next` where that comes first.
    fn after(&mut self, store: &StoreName, after: Duration, next: Option<Instant>, now: Instant, die: f64) -> Instant {
        let after = after.clamp(schedule::EXPIRY_FLOOR, AFTER_MAX);
        let spread = AFTER_SPREAD.min(after / 10);
        let (from, until) = (now + after, now + after + spread);
        if let Some(next) = next.filter(|next| *next <= until) {
            return next;
        }
        let tick = self.asked.entry(store.clone()).or_insert(now);
        if !(from..=until).contains(tick) {
            // Late in the spread, so that those whose reads end a little later can join.
            *tick = from + spread.mul_f64(0.5 + die.clamp(0.0, 1.0) / 2.0);
        }
        *tick
    }

    /// How long after a failed read the next attempt follows: with the others whose backoff has come as far, one die for
    /// all; with a poll's tick where one lies between what was drawn and what could have been. Never before `retry_after`.
    pub(super) fn after_failure(&mut self, store: &StoreName, drawn: Drawn, now: Instant) -> Duration {
        let asked = drawn.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        // After what the store asked for come up to 10 %; late in that, so that those who are told a little later can join.
        let (least, spread) = (now + asked.max(RETRY_AHEAD), (asked / 10).max(RETRY_AHEAD));
        let late = drawn.retry_after.map(|_| asked + spread.mul_f64(0.5 + drawn.die.clamp(0.0, 1.0) / 2.0));
        let own = now + late.map_or(drawn.wait, |late| late.max(drawn.wait));
        let most = own.max(now + drawn.ceiling.max(asked + spread));
        let polls = self.polls.iter().filter(|((of, _), _)| of == store).map(|(_, tick)| *tick);
        let poll = polls.filter(|tick| (own..=most).contains(tick)).min();
        let tick = self.retries.entry((store.clone(), drawn.ceiling)).or_insert(now);
        if !(least..=most).contains(tick) {
            *tick = poll.unwrap_or(own);
        }
        tick.saturating_duration_since(now)
    }

    /// Forgets what no store and poll of this config has.
    pub(super) fn retain(&mut self, used: impl Fn(&StoreName, Option<Duration>) -> bool) {
        self.polls.retain(|(store, poll), _| used(store, Some(*poll)));
        self.retries.retain(|(store, _), _| used(store, None));
        self.asked.retain(|store, _| used(store, None));
    }
}
