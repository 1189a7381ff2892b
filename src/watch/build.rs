//! From a store's config to the store: one arm a type.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::Stores;
use crate::config::model::{Config, Locator, StoreConfig, StoreName};
use crate::digest::Key;
use crate::secret::Reading;
use crate::store::file::FileStore;
use crate::store::{Store, StoreError, StoreErrorKind};

/// Every store that the config declares. Opens, connects to and watches nothing yet.
pub fn build(config: &Config, key: &Key) -> Stores {
    config.stores.iter().map(|(name, store)| (name.clone(), one(name, store, key))).collect()
}

/// The same for a config that was changed: a store whose own config is the same stays the same (`Arc::ptr_eq`), with
/// its watch and what it holds.
pub fn rebuild(old: &Config, stores: &Stores, new: &Config, key: &Key) -> Stores {
    let unchanged = |name: &StoreName, store: &StoreConfig| {
        let same = match (old.stores.get(name)?, store) {
            (StoreConfig::File(old), StoreConfig::File(new)) => old == new,
            (StoreConfig::Aws(old), StoreConfig::Aws(new)) => old == new,
            (StoreConfig::Vault(_), _) | (StoreConfig::File(_), _) | (StoreConfig::Aws(_), _) => false,
        };
        stores.get(name).filter(|_| same).map(Arc::clone)
    };
    new.stores
        .iter()
        .map(|(name, store)| (name.clone(), unchanged(name, store).unwrap_or_else(|| one(name, store, key))))
        .collect()
}

fn one(name: &StoreName, config: &StoreConfig, key: &Key) -> Arc<dyn Store> {
    match config {
        StoreConfig::File(file) => Arc::new(FileStore::new(name.clone(), file.path.clone(), key.clone())),
        StoreConfig::Vault(_) => Arc::new(NotBuilt { name: name.clone(), kind: "vault" }),
        StoreConfig::Aws(_) => Arc::new(NotBuilt { name: name.clone(), kind: "aws-secrets-manager" }),
    }
}

/// Stands where this build has no reader.
struct NotBuilt {
    name: StoreName,
    kind: &'static str,
}

impl Store for NotBuilt {
    fn read<'a>(&'a self, _locator: &'a Locator) -> BoxFuture<'a, Result<Reading, StoreError>> {
        Box::pin(async {
            Err(StoreError {
                kind: StoreErrorKind::NotBuilt,
                message: format!(
                    "store {}: type {} is not built yet; only file stores can be read",
                    self.name, self.kind
                ),
                retry_after: None,
            })
        })
    }
}
