//! One round of reading for commands that end: what every target gets, and what could not be read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use ring::rand::SecureRandom;
use tokio_util::sync::CancellationToken;

use crate::config::model::{Config, TargetName};
use crate::secret::{SecretName, Snapshot};
use crate::state_dir::Keeping;
use crate::store::StoreError;
use crate::telemetry::mask::{self, Masked};
use crate::watch::{self, Once, Stores, Surroundings, Uses};

/// What a round brought.
#[derive(Default)]
pub(super) struct Readings {
    /// The targets all of whose secrets could be read.
    pub snapshots: BTreeMap<TargetName, Snapshot>,
    /// The secrets that could not.
    pub errors: BTreeMap<SecretName, StoreError>,
}

/// The stores of one command, and the masks of everything read from them, for as long as this lives.
pub(super) struct Reader {
    pub stores: Stores,
    pub holding: watch::Holding,
    surroundings: Surroundings,
    _masked: Arc<Mutex<Vec<Masked>>>,
}

impl Reader {
    /// `uses` is the whole config's. `remember`: whether anything may be written into the state directory.
    pub fn new(config: &Config, stores: Stores, uses: &Uses, keeping: Keeping, remember: bool) -> Self {
        let masked: Arc<Mutex<Vec<Masked>>> = Arc::default();
        let hold = Arc::clone(&masked);
        let surroundings = Surroundings {
            clock: Arc::new(Timestamp::now),
            dice: Arc::new(dice),
            on_reading: Arc::new(move |_, reading| {
                hold.lock().unwrap_or_else(PoisonError::into_inner).push(mask::registry().reading(reading));
            }),
            keeping,
            cancel: CancellationToken::new(),
        };
        let holding = watch::Holding::open(config, &stores, uses, &surroundings, remember);
        Self { stores, holding, surroundings, _masked: masked }
    }

    /// Reads what `uses` names. A secret that cannot be read within the wait costs only the targets that use it.
    pub async fn read(&self, config: &Config, uses: &Uses, once: Once) -> Readings {
        let mut readings = Readings::default();
        let (mut uses, mut once) = (uses.clone(), once);
        while !uses.is_empty() {
            match watch::read_once(config, &self.stores, &uses, &self.surroundings, &self.holding, once).await {
                Ok(snapshots) => {
                    readings.snapshots.extend(snapshots);
                    break;
                }
                Err(errors) => {
                    readings.errors.extend(errors);
                    uses.retain(|_, used| !used.iter().any(|name| readings.errors.contains_key(name)));
                    once.wait = Duration::ZERO;
                }
            }
        }
        readings
    }
}

impl Reader {
    /// Ends what nothing stands on, and writes down what is left to whoever comes after.
    pub async fn finish(&self) {
        self.holding.finish(&self.stores, tokio::time::Instant::now()).await;
    }
}

/// The targets that use any of these secrets.
pub(super) fn blocked(uses: &Uses, errors: &BTreeMap<SecretName, StoreError>) -> Uses {
    let uses_one = |used: &BTreeSet<SecretName>| used.iter().any(|name| errors.contains_key(name));
    uses.iter().filter(|(_, used)| uses_one(used)).map(|(name, used)| (name.clone(), used.clone())).collect()
}

/// A random number in `[0, 1)`; the middle where the system has none to give.
pub(super) fn dice() -> f64 {
    let mut bytes = [0u8; 4];
    match ring::rand::SystemRandom::new().fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 0.5,
    }
}
