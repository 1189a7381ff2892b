//! A small world for a watch: a store in memory, a wall clock that can be stepped, dice that always fall the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use jiff::{SignedDuration, Timestamp};
use leasehold::config::model::{
    Config, HealthCheck, HealthConfig, Locator, OnUnhealthy, ReloadConfig, SecretConfig, Settle, TargetConfig,
};
use leasehold::secret::{Field, Fields, Reading, SecretName, Snapshot, Version};
use leasehold::state_dir::Keeping;
use leasehold::store::{Changed, Store, StoreError, StoreErrorKind};
use leasehold::watch::{Stores, Surroundings, Uses, Watch, WatchHandle};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn name(name: &str) -> SecretName {
    SecretName::new(name)
}

pub fn reading(value: &str) -> Reading {
    let fields = Fields::from([("api_key".to_owned(), Field::text(value))]);
    Reading::new(fields, Version(format!("version-of-{value}")))
}

pub fn error(kind: StoreErrorKind, message: &str) -> StoreError {
    StoreError { kind, message: message.to_owned(), retry_after: None }
}

/// A store in memory.
pub struct Shelf {
    answers: Mutex<BTreeMap<String, Result<Reading, StoreError>>>,
    kept: Mutex<BTreeMap<String, Reading>>,
    /// Every version that there was can be asked for.
    pub versioned: Mutex<BTreeMap<Version, Reading>>,
    /// The versions that were asked for as the one before.
    pub asked_before: Mutex<Vec<Option<Version>>>,
    before_fails: AtomicBool,
    pub reads: AtomicU64,
    changed: Notify,
    /// Reads wait for a permit while this is closed.
    pub gate: Semaphore,
}

impl Shelf {
    pub fn new(secrets: &[(&str, &str)]) -> Arc<Self> {
        let shelf = Self {
            answers: Mutex::default(),
            kept: Mutex::default(),
            versioned: Mutex::default(),
            asked_before: Mutex::default(),
            before_fails: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            changed: Notify::new(),
            gate: Semaphore::new(1_000_000),
        };
        for (key, value) in secrets {
            shelf.answer(key, Ok(reading(value)));
        }
        Arc::new(shelf)
    }

    /// Without telling.
    pub fn answer(&self, key: &str, answer: Result<Reading, StoreError>) {
        self.answers.lock().unwrap().insert(key.to_owned(), answer);
    }

    pub fn set(&self, key: &str, value: &str) {
        self.answer(key, Ok(reading(value)));
        self.changed.notify_one();
    }

    pub fn fail(&self, key: &str, kind: StoreErrorKind, message: &str) {
        self.answer(key, Err(error(kind, message)));
        self.changed.notify_one();
    }

    pub fn keep(&self, key: &str, value: &str) {
        self.kept.lock().unwrap().insert(key.to_owned(), reading(value));
    }

    pub fn fail_before(&self, fails: bool) {
        self.before_fails.store(fails, Ordering::SeqCst);
    }

    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }
}

impl Store for Shelf {
    fn read<'a>(&'a self, locator: &'a Locator) -> BoxFuture<'a, Result<Reading, StoreError>> {
        Box::pin(async move {
            self.reads.fetch_add(1, Ordering::SeqCst);
            let Locator::File { key } = locator else { panic!("not a file locator") };
            let answer = self.answers.lock().unwrap().get(key).cloned();
            self.gate.acquire().await.unwrap().forget();
            answer.unwrap_or_else(|| Err(error(StoreErrorKind::Missing, "not on the shelf")))
        })
    }

    fn changed(&self) -> BoxFuture<'_, Changed> {
        Box::pin(self.changed.notified().map(|()| Changed::all()))
    }

    fn previous<'a>(
        &'a self,
        locator: &'a Locator,
        _current: &'a Reading,
        before: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<Option<Reading>, StoreError>> {
        let Locator::File { key } = locator else { panic!("not a file locator") };
        self.asked_before.lock().unwrap().push(before.cloned());
        let pinned = before.and_then(|before| self.versioned.lock().unwrap().get(before).cloned());
        let kept = pinned.or_else(|| self.kept.lock().unwrap().get(key).cloned());
        let fails = self.before_fails.load(Ordering::SeqCst);
        Box::pin(async move { if fails { Err(error(StoreErrorKind::Unavailable, "not now")) } else { Ok(kept) } })
    }
}

pub fn secret(secret: &str, overlap: Duration) -> SecretConfig {
    SecretConfig {
        name: name(secret),
        store: "shelf".into(),
        locator: Locator::File { key: secret.to_owned() },
        poll: None,
        overlap,
        max_age: None,
        expect: BTreeMap::new(),
        verify: None,
    }
}

pub fn target(name: &str) -> TargetConfig {
    TargetConfig {
        name: name.into(),
        files: Vec::new(),
        directory: None,
        reload: ReloadConfig::None,
        health: HealthConfig {
            check: HealthCheck::None,
            interval: secs(1),
            timeout: secs(1),
            within: secs(1),
            successes: 1,
        },
        on_unhealthy: OnUnhealthy::Rollback,
        require_running: false,
        settle: Settle { min: secs(2), max: secs(10) },
        splay: Duration::ZERO,
        keep: 3,
        pass_env: Vec::new(),
    }
}

/// A config on a state directory, the stores, and what each target uses.
pub struct World {
    pub config: Config,
    pub stores: Stores,
    pub uses: Uses,
    /// Seconds that the wall clock was stepped.
    pub step: Arc<AtomicI64>,
    pub seen: Arc<Mutex<Vec<(SecretName, Version)>>>,
    pub die: f64,
    /// As on a tmpfs, where nothing else is said.
    pub keeping: Keeping,
    origin: Instant,
}

impl World {
    pub fn new<S: Store + 'static>(
        state_dir: &Path,
        store: &Arc<S>,
        secrets: &[SecretConfig],
        uses: &[(&str, &[&str])],
    ) -> Self {
        let store: Arc<dyn Store> = Arc::clone(store) as Arc<dyn Store>;
        let config = Config {
            state_key: None,
            file: state_dir.join("agent.yaml"),
            state_dir: state_dir.to_path_buf(),
            admin: None,
            audit: None,
            stores: BTreeMap::new(),
            secrets: secrets.iter().map(|secret| (secret.name.clone(), secret.clone())).collect(),
            targets: uses.iter().map(|(name, _)| ((*name).into(), Arc::new(target(name)))).collect(),
        };
        let uses = uses
            .iter()
            .map(|(target, used)| ((*target).into(), used.iter().map(|used| name(used)).collect::<BTreeSet<_>>()))
            .collect();
        Self {
            config,
            stores: Stores::from([("shelf".into(), store)]),
            uses,
            step: Arc::default(),
            seen: Arc::default(),
            die: 0.5,
            keeping: Keeping::Clear,
            origin: Instant::now(),
        }
    }

    pub fn surroundings(&self) -> Surroundings {
        let (origin, step, seen, die) = (self.origin, Arc::clone(&self.step), Arc::clone(&self.seen), self.die);
        Surroundings {
            clock: Arc::new(move || {
                let since = SignedDuration::try_from(origin.elapsed()).unwrap();
                let step = SignedDuration::from_secs(step.load(Ordering::SeqCst));
                "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + since + step
            }),
            dice: Arc::new(move || die),
            on_reading: Arc::new(move |name, reading| {
                seen.lock().unwrap().push((name.clone(), reading.version.clone()));
            }),
            keeping: self.keeping.clone(),
            cancel: CancellationToken::new(),
        }
    }

    pub fn spawn(&self) -> Running {
        self.spawn_with(self.surroundings())
    }

    pub fn spawn_with(&self, surroundings: Surroundings) -> Running {
        let cancel = surroundings.cancel.clone();
        Running { watch: Watch::spawn(&self.config, &self.stores, &self.uses, surroundings), cancel }
    }
}

pub struct Running {
    pub watch: WatchHandle,
    cancel: CancellationToken,
}

impl Running {
    pub async fn stop(self) {
        self.cancel.cancel();
        self.watch.stopped().await;
    }

    pub fn target(&self, name: &str) -> Target {
        Target(self.watch.snapshots(name).expect("a target of this name"))
    }

    pub fn status(&self, secret: &str) -> leasehold::watch::SecretStatus {
        self.watch.status().into_iter().find(|status| status.name.as_str() == secret).expect("a secret of this name")
    }
}

/// The receiving end of one target.
pub struct Target(watch::Receiver<Option<Arc<Snapshot>>>);

impl Target {
    /// The next snapshot, and how long it took.
    pub async fn next(&mut self) -> (Arc<Snapshot>, Duration) {
        let began = Instant::now();
        loop {
            tokio::time::timeout(secs(1_000_000), self.0.changed())
                .await
                .expect("a snapshot")
                .expect("an open channel");
            let snapshot = self.0.borrow_and_update().clone();
            if let Some(snapshot) = snapshot {
                return (snapshot, began.elapsed());
            }
        }
    }

    /// Proves that nothing is emitted for so long (of paused time).
    pub async fn nothing_for(&mut self, wait: Duration) {
        let news = tokio::time::timeout(wait, self.0.changed()).await;
        assert!(news.is_err(), "emitted: {:?}", self.0.borrow().as_ref().map(|s| values(s)));
    }

    pub fn is_none(&self) -> bool {
        self.0.borrow().is_none()
    }

    pub async fn closed(&mut self) -> bool {
        loop {
            match tokio::time::timeout(secs(60), self.0.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return true,
                Err(_) => return false,
            }
        }
    }
}

/// `secret=value` of all in use, `previous.secret=value` of all before.
pub fn values(snapshot: &Snapshot) -> Vec<String> {
    let show = |prefix: &str, readings: &BTreeMap<SecretName, Arc<Reading>>| {
        let value = |reading: &Reading| {
            let text = reading.fields.values().next().and_then(Field::as_text).expect("a text");
            String::from_utf8_lossy(text.expose()).into_owned()
        };
        readings.iter().map(|(name, reading)| format!("{prefix}{name}={}", value(reading))).collect::<Vec<_>>()
    };
    let mut all = show("", &snapshot.secrets);
    all.extend(show("previous.", &snapshot.previous));
    all
}
