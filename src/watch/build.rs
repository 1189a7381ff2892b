//! From a store's config to the store: one arm a type.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use ring::rand::SecureRandom;

use super::Stores;
use crate::aws_identity::Identity;
use crate::config::model::{Config, StoreConfig, StoreName};
use crate::digest::Key;
use crate::store::aws::AwsStore;
use crate::store::file::FileStore;
use crate::store::vault::VaultStore;
use crate::store::{Senses, Store};
use crate::telemetry::mask;

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
            (StoreConfig::Vault(old), StoreConfig::Vault(new)) => old == new,
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
        StoreConfig::Vault(vault) => Arc::new(VaultStore::new(name.clone(), vault, key.clone(), senses())),
        StoreConfig::Aws(aws) => Arc::new(AwsStore::new(name.clone(), aws, senses())),
    }
}

/// What a store perceives beside its server: the machine's clock and dice, and the log's mask for tokens, secret ids and keys.
fn senses() -> Senses {
    Senses {
        clock: Arc::new(Timestamp::now),
        dice: Arc::new(dice),
        learn: Arc::new(|secret| Box::new(mask::registry().value(secret.expose()))),
        aws: Arc::new(Identity::chain()),
        home: std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from),
    }
}

/// A random number in `[0, 1)`; the middle where the system has none to give.
fn dice() -> f64 {
    let mut bytes = [0u8; 4];
    match ring::rand::SystemRandom::new().fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 0.5,
    }
}
