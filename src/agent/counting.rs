//! What every reading is told to: the mask, the metrics, the audit.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::config::model::{Locator, StoreName};
use crate::secret::{Lease, Reading, SecretBytes, SecretName, Version};
use crate::store::{Access, Changed, Keep, Store, StoreError, StoreErrorKind, Upkeep};
use crate::telemetry::audit::{Audit, Event};
use crate::telemetry::mask::{self, Masked};
use crate::telemetry::metrics::Metrics;
use crate::watch::{OnReading, Stores};

/// Readings of one secret whose values stay masked: the one in use, the one before, and a remembered one.
const KEPT: usize = 3;

#[derive(Default)]
struct Seen {
    masked: VecDeque<Masked>,
    version: Option<Version>,
}

/// Masks every reading before any target sees it, and audits every new version.
pub(super) fn on_reading(audit: Audit, clock: Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>) -> OnReading {
    let seen: Mutex<BTreeMap<SecretName, Seen>> = Mutex::default();
    Arc::new(move |name, reading| {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.entry(name.clone()).or_default();
        known.masked.push_back(mask::registry().reading(reading));
        if known.masked.len() > KEPT {
            known.masked.pop_front();
        }
        let before = known.version.replace(reading.version.clone());
        if before.as_ref() != Some(&reading.version) {
            let previous = before.map(|v| v.0);
            let (secret, version) = (name.to_string(), reading.version.0.clone());
            audit.record(clock(), &Event::SecretChanged { secret, version, previous });
        }
    })
}

/// The same stores, counted. Stores that are counted already (in `old`) stay as they are.
pub(super) fn counted(stores: Stores, old: &Stores, metrics: &Metrics) -> Stores {
    let count = |(name, store): (StoreName, Arc<dyn Store>)| {
        let known = old.get(&name).is_some_and(|old| Arc::ptr_eq(old, &store));
        let counted =
            if known { store } else { Arc::new(Counted { name: Arc::clone(&name), store, metrics: metrics.clone() }) };
        (name, counted)
    };
    stores.into_iter().map(count).collect()
}

struct Counted {
    name: StoreName,
    store: Arc<dyn Store>,
    metrics: Metrics,
}

impl Counted {
    fn note<T>(&self, answer: Result<T, StoreError>, good: impl FnOnce(&Metrics)) -> Result<T, StoreError> {
        match &answer {
            Ok(_) => good(&self.metrics),
            Err(error) => self.metrics.store_failed(&self.name, word(error.kind)),
        }
        answer
    }
}

fn word(kind: StoreErrorKind) -> &'static str {
    match kind {
        StoreErrorKind::Unavailable => "unavailable",
        StoreErrorKind::Denied => "denied",
        StoreErrorKind::Missing => "missing",
        StoreErrorKind::Malformed => "malformed",
    }
}

impl Store for Counted {
    fn read<'a>(&'a self, locator: &'a Locator) -> BoxFuture<'a, Result<Reading, StoreError>> {
        Box::pin(async move { self.note(self.store.read(locator).await, |m| m.store_read(&self.name)) })
    }

    fn read_again<'a>(
        &'a self,
        locator: &'a Locator,
        current: &'a Reading,
    ) -> BoxFuture<'a, Result<Option<Reading>, StoreError>> {
        Box::pin(async move { self.note(self.store.read_again(locator, current).await, |m| m.store_read(&self.name)) })
    }

    fn gathers(&self) -> bool {
        self.store.gathers()
    }

    fn changed(&self) -> BoxFuture<'_, Changed> {
        self.store.changed()
    }

    fn access<'a>(&'a self, locators: &'a [&'a Locator]) -> BoxFuture<'a, Result<Option<Access>, StoreError>> {
        self.store.access(locators)
    }

    fn previous<'a>(
        &'a self,
        locator: &'a Locator,
        current: &'a Reading,
        before: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<Option<Reading>, StoreError>> {
        self.store.previous(locator, current, before)
    }

    fn renew<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Lease, StoreError>> {
        Box::pin(async move { self.note(self.store.renew(lease).await, |m| m.lease_renewed(&self.name)) })
    }

    fn look_up<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Option<Lease>, StoreError>> {
        Box::pin(async move { self.note(self.store.look_up(lease).await, |_| {}) })
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.note(self.store.revoke(lease).await, |_| {}) })
    }

    fn tend(&self) -> BoxFuture<'_, Result<Option<Duration>, StoreError>> {
        Box::pin(async move { self.note(self.store.tend().await, |_| {}) })
    }

    fn session(&self) -> Option<SecretBytes> {
        self.store.session()
    }

    fn session_revision(&self) -> u64 {
        self.store.session_revision()
    }

    fn resume(&self, session: &SecretBytes) {
        self.store.resume(session);
    }

    fn kept_by(&self, keep: Keep) {
        self.store.kept_by(keep);
    }

    fn upkeep(&self, polled: &[(&Locator, Duration)]) -> Option<Upkeep> {
        self.store.upkeep(polled)
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.close()
    }
}
