//! Deadlines by name: at most one each.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use crate::config::model::{StoreName, TargetName};
use crate::secret::SecretName;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Read this secret.
    Read(SecretName),
    /// The overlap of this secret ends.
    OverlapEnd(SecretName),
    /// The session of this store is to be looked after.
    Tend(StoreName),
    /// This target has settled.
    Emit(TargetName),
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    by_time: BTreeSet<(Instant, Timer)>,
    by_name: BTreeMap<Timer, Instant>,
}

impl Timers {
    pub(super) fn set(&mut self, timer: Timer, at: Option<Instant>) {
        if let Some(before) = self.by_name.remove(&timer) {
            self.by_time.remove(&(before, timer.clone()));
        }
        if let Some(at) = at {
            self.by_name.insert(timer.clone(), at);
            self.by_time.insert((at, timer));
        }
    }

    pub(super) fn get(&self, timer: &Timer) -> Option<Instant> {
        self.by_name.get(timer).copied()
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// The first that is due, which is thereby unset.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        let (_, timer) = self.by_time.pop_first()?;
        self.by_name.remove(&timer);
        Some(timer)
    }
}
