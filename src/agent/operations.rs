//! What the control socket and the admin endpoint are answered.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use jiff::Timestamp;

use super::announce::well;
use super::building::Clock;
use crate::admin::AdminView;
use crate::config::model::{Config, Locator, SecretConfig, StoreName, TargetName};
use crate::control::{Operations, RefreshLine, Refusal};
use crate::driver::{Driver, Refused};
use crate::journal::History;
use crate::secret::SecretName;
use crate::store::Upkeep;
use crate::telemetry::audit::{Actor, Audit, Event};
use crate::telemetry::mask;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::view::{HistoryEntry, SecretView, StatusView, StoreView, TargetView};
use crate::watch::{SecretStatus, Uses, WatchHandle};

/// What the loop, the control socket and the admin endpoint have in common.
pub(super) struct Shared {
    pub config: Mutex<Config>,
    pub drivers: Mutex<BTreeMap<TargetName, Driver>>,
    pub config_error: Mutex<Option<String>>,
    pub watch: WatchHandle,
    pub metrics: Metrics,
    pub audit: Audit,
    pub clock: Clock,
    pub started_at: Timestamp,
    pub state_dir: PathBuf,
    pub uses: Mutex<Uses>,
    /// Whether the service manager was told that the agent is ready.
    pub announced: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn config(&self) -> MutexGuard<'_, Config> {
        lock(&self.config)
    }

    pub fn drivers(&self) -> BTreeMap<TargetName, Driver> {
        lock(&self.drivers).clone()
    }

    pub fn set_config_error(&self, error: Option<&dyn std::fmt::Display>) {
        *lock(&self.config_error) = error.map(mask::display);
    }

    pub fn view(&self) -> StatusView {
        let secrets = self.watch.status();
        let failing = |target: &str| {
            let used = lock(&self.uses).get(target).cloned().unwrap_or_default();
            secrets.iter().any(|s| used.contains(&s.name) && s.error.is_some())
        };
        let targets = self.drivers().iter().map(|(name, driver)| with_store(driver.view(), failing(name))).collect();
        let config = self.config();
        StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now: (self.clock)(),
            started_at: self.started_at,
            config_error: lock(&self.config_error).clone(),
            targets,
            secrets: secrets.iter().map(|s| secret_view(s, config.secrets.get(&s.name))).collect(),
            stores: self.watch.upkeep().into_iter().map(store_view).collect(),
        }
    }

    /// Whether every target is on a committed generation (its files written since the start: they may have been in memory),
    /// or waits for its process.
    pub fn ready(&self) -> (bool, String) {
        let late: Vec<String> = self
            .drivers()
            .values()
            .filter(|driver| !well(driver))
            .map(Driver::view)
            .map(|view| match &view.reason {
                Some(reason) => format!("{}: {}: {reason}", view.name, view.state),
                None => format!("{}: {}", view.name, view.state),
            })
            .collect();
        (late.is_empty(), if late.is_empty() { "ready".into() } else { late.join("; ") })
    }

    fn driver(&self, target: &str) -> Result<Driver, Refusal> {
        let drivers = lock(&self.drivers);
        drivers.get(target).cloned().ok_or_else(|| {
            let names: Vec<&str> = drivers.keys().map(|n| &**n).collect();
            Refusal::new(64, format!("there is no target `{target}`; there are: {}", names.join(", ")))
        })
    }
}

/// A target whose store cannot be read is on old secrets: it says so, if nothing worse is to be said.
fn with_store(view: TargetView, failing: bool) -> TargetView {
    let stale = failing && matches!(view.state.as_str(), "healthy" | "waiting" | "rotating");
    if stale {
        TargetView { stale: true, state: "stale".into(), ..view }
    } else {
        TargetView { stale: failing, ..view }
    }
}

fn secret_view(status: &SecretStatus, config: Option<&SecretConfig>) -> SecretView {
    let path = match config.map(|c| &c.locator) {
        Some(Locator::File { key }) => key.clone(),
        Some(Locator::Vault { path, .. }) => path.clone(),
        Some(Locator::Aws { id, .. }) => id.clone(),
        None => status.name.to_string(),
    };
    SecretView {
        name: status.name.to_string(),
        store: status.store.to_string(),
        path,
        version: status.version.as_ref().map(|v| v.0.clone()),
        changed_at: status.changed_at,
        read_at: status.last_success,
        next_read_at: status.next_read,
        expires_at: status.lease_ends.or(status.expires_at),
        leased: status.lease_ends.is_some(),
        overlap_until: status.previous_until,
        max_age_seconds: status.max_age.map(|d| d.as_secs()),
        error: status.error.as_ref().map(|e| mask::display(e)),
        failing_since: status.failing_since,
    }
}

fn store_view((name, upkeep): (StoreName, Upkeep)) -> StoreView {
    let Upkeep { how, calls_per_hour, usd_per_month, calls, identity } = upkeep;
    StoreView {
        name: name.to_string(),
        how: mask::display(&how),
        calls_per_hour,
        usd_per_month,
        calls: calls.into_iter().map(|(request, count)| (request.to_owned(), count)).collect(),
        identity,
    }
}

/// Answers both sockets.
pub(super) struct Desk(pub Arc<Shared>);

impl Operations for Desk {
    fn status(&self) -> StatusView {
        self.0.view()
    }

    fn history(&self, target: Option<&str>, count: usize) -> Result<Vec<HistoryEntry>, Refusal> {
        let names: Vec<TargetName> = match target {
            Some(target) => {
                self.0.driver(target)?;
                vec![Arc::from(target)]
            }
            None => self.0.drivers().into_keys().collect(),
        };
        let mut histories = Vec::new();
        for name in names {
            let dir = self.0.state_dir.join("targets").join(&*name);
            let read = History::<HistoryEntry>::last(&dir, count);
            histories.push(read.map_err(|e| Refusal::new(e.exit_code(), mask::display(&e)))?);
        }
        Ok(HistoryEntry::merge(histories, count))
    }

    fn refresh<'a>(&'a self, names: Vec<String>, actor: Actor) -> BoxFuture<'a, Result<Vec<RefreshLine>, Refusal>> {
        Box::pin(async move {
            let event = Event::Refreshed { secrets: names.clone(), actor: Some(actor) };
            self.0.audit.record((self.0.clock)(), &event);
            let names: Vec<SecretName> = names.into_iter().map(SecretName::new).collect();
            let known: Vec<SecretName> = self.0.watch.status().into_iter().map(|s| s.name).collect();
            if let Some(unknown) = names.iter().find(|n| !known.contains(n)) {
                let text = format!("no target uses a secret `{unknown}`");
                return Err(Refusal::new(66, text));
            }
            let wanted = if names.is_empty() { None } else { Some(names) };
            let lines = self.0.watch.refresh(wanted).await.into_iter().map(|(name, answer)| match answer {
                Ok(read) => RefreshLine {
                    name: name.to_string(),
                    changed: read.changed,
                    version: Some(read.version.0),
                    error: None,
                },
                Err(error) => RefreshLine {
                    name: name.to_string(),
                    changed: false,
                    version: None,
                    error: Some(mask::display(&error)),
                },
            });
            Ok(lines.collect())
        })
    }

    fn rollback<'a>(&'a self, target: String, to: Option<u64>, actor: Actor) -> BoxFuture<'a, Result<String, Refusal>> {
        Box::pin(async move { self.0.driver(&target)?.rollback(to, actor).await.map_err(refusal) })
    }

    fn release<'a>(&'a self, target: String, actor: Actor) -> BoxFuture<'a, Result<String, Refusal>> {
        Box::pin(async move { self.0.driver(&target)?.release(actor).await.map_err(refusal) })
    }
}

fn refusal(refused: Refused) -> Refusal {
    Refusal::new(refused.exit, mask::display(&refused.message))
}

impl AdminView for Desk {
    fn live(&self) -> bool {
        true
    }

    fn ready(&self) -> (bool, String) {
        self.0.ready()
    }

    fn metrics(&self) -> String {
        self.0.metrics.encode(&self.0.view())
    }

    fn status(&self) -> serde_json::Value {
        serde_json::to_value(self.0.view()).unwrap_or(serde_json::Value::Null)
    }
}
