//! What the service manager is told: ready once the files are there, and in one line how things stand.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::operations::Shared;
use crate::config::model::ReloadConfig;
use crate::driver::Driver;
use crate::notify_systemd;

/// How often readiness is looked at until it is there.
const LOOK: Duration = Duration::from_millis(50);

impl Shared {
    /// Whether what is ordered after the agent may start: every target's files are there, and supervised processes are
    /// well. Other processes are not waited for: a unit ordered after the agent is neither started nor restarted before
    /// the agent is ready, so the agent would wait for a job that waits for the agent.
    fn may_go_on(&self) -> bool {
        let config = self.config();
        let supervised =
            |name: &str| config.targets.get(name).is_some_and(|t| matches!(t.reload, ReloadConfig::Exec(_)));
        self.drivers().iter().all(|(name, driver)| if supervised(name) { well(driver) } else { driver.published() })
    }

    /// One line for `systemctl status`.
    fn summary(&self) -> String {
        let view = self.view();
        let mut parts = Vec::new();
        if let Some(error) = &view.config_error {
            parts.push(format!("the config on disk is not in force: {error}"));
        }
        let (ready, why) = self.ready();
        if !ready {
            parts.push(why);
        }
        parts.extend(view.secrets.iter().filter_map(|s| Some(format!("secret {}: {}", s.name, s.error.as_ref()?))));
        if parts.is_empty() { "ready".to_owned() } else { parts.join("; ") }
    }

    /// Tells how things stand.
    pub fn tell_status(&self) {
        notify_systemd::status(&self.summary());
    }

    /// A reload begins. Told only by an agent that is ready: the end of a reload says that it is.
    pub fn tell_reloading(&self) {
        if self.announced.load(Ordering::Relaxed) {
            notify_systemd::reloading();
        }
    }

    /// A reload has ended.
    pub fn tell_reloaded(&self) {
        match self.announced.load(Ordering::Relaxed) {
            true => notify_systemd::ready(&self.summary()),
            false => self.tell_status(),
        }
    }
}

/// On a committed generation that was published since the agent started, and not for lack of a better one.
pub(super) fn well(driver: &Driver) -> bool {
    let view = driver.view();
    driver.published() && view.generation.is_some() && !view.degraded
}

/// Tells what is waited for, and that the agent is ready once it is.
pub(super) async fn announce(shared: Arc<Shared>) {
    let mut told = String::new();
    while !shared.may_go_on() {
        let summary = shared.summary();
        if summary != told {
            notify_systemd::status(&summary);
            told = summary;
        }
        tokio::time::sleep(LOOK).await;
    }
    tracing::info!("ready");
    notify_systemd::ready(&shared.summary());
    shared.announced.store(true, Ordering::Relaxed);
}
