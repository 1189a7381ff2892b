//! One agent: the real store and the real watch, with dice of its own, and a driver that stands on what it was given.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use leasehold::config::model::{
    Config, Limits, Locator, OnStop, SecretConfig, StoreConfig, TlsConfig, VaultAuth, VaultStore as StoreOf,
};
use leasehold::digest::Key;
use leasehold::secret::{Snapshot, Standing};
use leasehold::state_dir::Keeping;
use leasehold::store::Senses;
use leasehold::store::Store;
use leasehold::store::vault::VaultStore;
use leasehold::watch::{Stores, Surroundings, Uses, Watch, WatchHandle};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::line::{Book, Line};
use crate::vault::fake::Fake;
use crate::world::{name, secret, target};

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(86_400);
/// What the agent polls at and looks leases up at where nothing else is said.
pub const POLL: Duration = Duration::from_secs(60);

/// Numbers in `[0, 1)` from a seed (SplitMix64).
pub struct Dice(AtomicU64);

impl Dice {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))))
    }

    pub fn roll(&self) -> f64 {
        let mut z = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// What an agent is to be.
#[derive(Clone)]
pub struct Plan {
    pub fake: Fake,
    pub book: Arc<Book>,
    pub auth: VaultAuth,
    /// Secrets and where they are.
    pub secrets: Vec<(String, String)>,
    /// How long after a snapshot its target stands on it and on nothing else.
    pub commit: Duration,
}

/// A running agent.
pub struct Agent {
    pub watch: WatchHandle,
    /// What its target was given, in order.
    pub given: Arc<Mutex<Vec<Arc<Snapshot>>>>,
    cancel: CancellationToken,
}

impl Agent {
    /// Starts one. `number` seeds its dice and names it in the book.
    pub fn start(plan: &Plan, number: u32, folder: &Path) -> Self {
        let dice = Dice::new(u64::from(number) + 1);
        let clock: Arc<dyn Fn() -> Timestamp + Send + Sync> = {
            let clock = plan.fake.clock().clone();
            Arc::new(move || clock.now())
        };
        let roll: Arc<dyn Fn() -> f64 + Send + Sync> = Arc::new(move || dice.roll());
        let config = config(plan, folder);
        let StoreConfig::Vault(vault) = &config.stores["vault"] else { panic!("a store of Vault") };
        let senses = Senses {
            aws: Arc::new(leasehold::aws_identity::Identity::chain()),
            clock: Arc::clone(&clock),
            dice: Arc::clone(&roll),
            learn: Arc::new(|_| Box::new(())),
            home: None,
        };
        let line = Line { fake: plan.fake.clone(), book: Arc::clone(&plan.book), agent: number };
        let store: Arc<dyn Store> =
            Arc::new(VaultStore::over("vault".into(), vault, Key::new(b"a key for tests"), senses, Arc::new(line)));
        let cancel = CancellationToken::new();
        let surroundings = Surroundings {
            clock: Arc::clone(&clock),
            dice: roll,
            on_reading: Arc::new(|_, _| {}),
            keeping: Keeping::Clear,
            cancel: cancel.clone(),
        };
        let uses = Uses::from([("t".into(), config.secrets.keys().cloned().collect::<BTreeSet<_>>())]);
        let watch = Watch::spawn(&config, &Stores::from([("vault".into(), store)]), &uses, surroundings);
        let given = Arc::new(Mutex::new(Vec::new()));
        let snapshots = watch.snapshots("t").expect("the target");
        tokio::spawn(drive(watch.clone(), snapshots, plan.commit, Arc::clone(&given)));
        Self { watch, given, cancel }
    }

    /// How often its target was given something.
    pub fn snapshots(&self) -> usize {
        self.given.lock().unwrap().len()
    }

    pub async fn stop(self) {
        self.cancel.cancel();
        self.watch.stopped().await;
    }
}

/// Takes every snapshot up, and after a while stands on it.
async fn drive(
    watch: WatchHandle,
    mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    commit: Duration,
    given: Arc<Mutex<Vec<Arc<Snapshot>>>>,
) {
    while snapshots.changed().await.is_ok() {
        let Some(snapshot) = snapshots.borrow_and_update().clone() else { continue };
        given.lock().unwrap().push(Arc::clone(&snapshot));
        tokio::time::sleep(commit).await;
        let readings = snapshot.readings();
        let standing = Standing { using: readings.clone(), newest: readings, rejected: false };
        watch.standing(&"t".into(), standing).await;
    }
}

fn config(plan: &Plan, folder: &Path) -> Config {
    let vault = StoreOf {
        address: "http://vault:8200".to_owned(),
        namespace: None,
        tls: TlsConfig::default(),
        auth: plan.auth.clone(),
        on_stop: OnStop::Keep,
        lease_check: POLL,
        limits: Limits { in_flight: 8, per_second: 20 },
        timeout: secs(30),
    };
    let secrets = plan.secrets.iter().map(|(named, path)| {
        let locator = Locator::Vault { path: path.clone(), params: BTreeMap::new() };
        let store = "vault".into();
        (name(named), SecretConfig { store, locator, poll: Some(POLL), ..secret(named, Duration::ZERO) })
    });
    Config {
        state_key: None,
        file: folder.join("agent.yaml"),
        state_dir: folder.to_path_buf(),
        admin: None,
        audit: None,
        stores: BTreeMap::from([("vault".into(), StoreConfig::Vault(Box::new(vault)))]),
        secrets: secrets.collect(),
        targets: BTreeMap::from([("t".into(), Arc::new(target("t")))]),
    }
}
