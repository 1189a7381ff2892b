//! Says what fails and what is good again, once: a file that a thousand secrets are in is one line, not a thousand.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::model::StoreName;
use crate::secret::SecretName;
use crate::store::StoreError;

#[derive(Default)]
pub(super) struct Faults {
    stores: BTreeMap<StoreName, Fault>,
}

#[derive(Default)]
struct Fault {
    failing: BTreeSet<SecretName>,
    said: BTreeSet<String>,
}

impl Faults {
    pub(super) fn failed(&mut self, store: &StoreName, secret: &SecretName, error: &StoreError, has_reading: bool) {
        let fault = self.stores.entry(store.clone()).or_default();
        fault.failing.insert(secret.clone());
        let then = if has_reading { "the last good reading stays in use" } else { "there is no reading to use yet" };
        if fault.said.insert(error.message.clone()) {
            tracing::warn!(store = %store, secret = %secret, "{error}; {then}");
        } else {
            tracing::debug!(store = %store, secret = %secret, "{error}; {then}");
        }
    }

    pub(super) fn succeeded(&mut self, store: &StoreName, secret: &SecretName) {
        let Some(fault) = self.stores.get_mut(store) else { return };
        if fault.failing.remove(secret) && fault.failing.is_empty() {
            tracing::info!(store = %store, "every secret in use can be read again");
            self.stores.remove(store);
        }
    }

    pub(super) fn forget(&mut self, store: &StoreName, secret: &SecretName) {
        let Some(fault) = self.stores.get_mut(store) else { return };
        fault.failing.remove(secret);
        if fault.failing.is_empty() {
            self.stores.remove(store);
        }
    }
}
