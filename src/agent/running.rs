//! The agent's own loop: signals, changed templates, the end.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::select_all;
use nix::sys::signal::Signal;
use signal_hook_tokio::Signals;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::announce::announce;
use super::building::{assignment, environment};
use super::counting::counted;
use super::operations::Shared;
use super::prepare::{Prepared, prepare};
use crate::driver::{self, Driver, Ended};
use crate::notify_systemd;
use crate::pathwatch::PathWatch;
use crate::secret::SecretBytes;
use crate::state_dir::StateDir;
use crate::telemetry::audit::Event;
use crate::telemetry::mask::Masked;
use crate::watch::{self, Stores};

/// How long files that change together are waited for.
const TEMPLATES_SETTLE: Duration = Duration::from_millis(200);
/// How often due secrets are looked for, and systemd is told what goes on.
const TICK: Duration = Duration::from_secs(60);

/// Everything that runs.
pub(super) struct Agent {
    pub file: PathBuf,
    pub config_text: Option<SecretBytes>,
    /// Keeps the config's own values masked.
    pub masked: Vec<Masked>,
    pub command: Vec<String>,
    pub shared: Arc<Shared>,
    pub stores: Stores,
    pub surroundings: driver::Surroundings,
    pub state_dir: StateDir,
    pub templates: PathWatch,
    pub cancel: CancellationToken,
    pub servers: Vec<JoinHandle<()>>,
    pub writer: Option<JoinHandle<()>>,
    /// Secrets and versions whose age was told already.
    pub overdue: BTreeSet<(String, String)>,
}

enum Woken {
    Signal(Signal),
    Templates,
    Ended(Ended),
    Tick,
}

impl Agent {
    pub async fn run(mut self) -> u8 {
        let mut signals = match Signals::new(CAUGHT) {
            Ok(signals) => signals,
            Err(error) => {
                tracing::error!("cannot catch signals: {error}");
                return 70;
            }
        };
        let announcer = tokio::spawn(announce(Arc::clone(&self.shared)));
        let watchdog = tokio::spawn(notify_systemd::feed_watchdog());
        let (reason, ended) = loop {
            match self.woken(&mut signals).await {
                Woken::Signal(signal @ (Signal::SIGTERM | Signal::SIGINT)) => break (signal.as_str().to_owned(), None),
                Woken::Signal(Signal::SIGHUP) => self.reload("SIGHUP").await,
                Woken::Signal(other) => self.forward(other),
                Woken::Templates => self.templates_changed().await,
                Woken::Ended(ended) => break ("the supervised process ended".into(), Some(ended)),
                Woken::Tick => self.tell_overdue(),
            }
        };
        announcer.abort();
        tracing::info!(reason, "stopping");
        notify_systemd::stopping();
        let code = self.stop(reason, ended, &mut signals).await;
        watchdog.abort();
        code
    }

    async fn woken(&self, signals: &mut Signals) -> Woken {
        let ends: Vec<_> = self.shared.drivers().into_values().map(|d| Box::pin(ended(d))).collect();
        let ended = async {
            match ends.is_empty() || !self.surroundings.ends_with_process {
                true => std::future::pending().await,
                false => select_all(ends).await.0,
            }
        };
        tokio::select! {
            Some(number) = signals.next() => match Signal::try_from(number) {
                Ok(signal) => Woken::Signal(signal),
                Err(_) => Woken::Tick,
            },
            () = self.templates.changed() => Woken::Templates,
            ended = ended => Woken::Ended(ended),
            () = tokio::time::sleep(TICK) => Woken::Tick,
        }
    }

    fn forward(&self, signal: Signal) {
        for (name, driver) in self.shared.drivers() {
            if driver.forward(signal) {
                tracing::debug!(target_name = %name, "{signal} passed on");
            }
        }
    }

    async fn templates_changed(&mut self) {
        tokio::time::sleep(TEMPLATES_SETTLE).await;
        let text = tokio::fs::read(&self.file).await.ok().map(SecretBytes::new);
        if text != self.config_text {
            tracing::info!(file = %self.file.display(), "the config file changed: SIGHUP takes it up");
            return;
        }
        self.reload("a template").await;
    }

    /// Takes config and templates up again. What is faulty is refused as a whole, and all goes on as before.
    async fn reload(&mut self, cause: &str) {
        self.shared.tell_reloading();
        let text = tokio::fs::read(&self.file).await.ok().map(SecretBytes::new);
        let prepared = prepare(&self.file, &self.command, self.state_dir.key(), &environment);
        let error = match prepared {
            Ok(prepared) => {
                self.config_text = text;
                self.take(prepared).await;
                tracing::info!(cause, "config and templates are taken up");
                None
            }
            Err(faulty) => {
                let watched = faulty.watched.iter().cloned();
                self.templates.set_paths(watched);
                tracing::error!(cause, "not taken up, all goes on as before:\n{faulty}");
                Some(faulty.to_string())
            }
        };
        self.shared.set_config_error(error.as_ref().map(|e| e as &dyn std::fmt::Display));
        self.shared.audit.record((self.shared.clock)(), &Event::ConfigReloaded { error });
        self.shared.tell_reloaded();
    }

    async fn take(&mut self, prepared: Prepared) {
        for warning in &prepared.warnings {
            tracing::warn!("{warning}");
        }
        let old = self.shared.config().clone();
        let new = &prepared.loaded.config;
        if (old.state_dir != new.state_dir)
            || (old.state_key != new.state_key)
            || (old.admin != new.admin)
            || (old.audit != new.audit)
        {
            tracing::warn!("`state_dir`, `state_key`, `admin` and `audit` are taken up at the next start only");
        }
        let rebuilt = watch::rebuild(&old, &self.stores, new, self.state_dir.key());
        self.stores = counted(rebuilt, &self.stores, &self.shared.metrics);
        self.shared.watch.reconfigure(new, &self.stores, &prepared.uses).await;
        *self.shared.uses.lock().unwrap_or_else(PoisonError::into_inner) = prepared.uses.clone();
        *self.shared.config() = new.clone();
        self.templates.set_paths(prepared.watched.iter().cloned());
        let withhold = prepared.loaded.confidential.auth_variables.clone();
        self.surroundings.reload.inherit.withhold = withhold;
        self.targets(&prepared).await;
        self.masked = prepared.masked;
    }

    /// Starts drivers of new targets, ends those of removed ones, and tells the others.
    async fn targets(&mut self, prepared: &Prepared) {
        let running = self.shared.drivers();
        for (name, driver) in running.iter().filter(|(name, _)| !prepared.renderers.contains_key(*name)) {
            tracing::info!(target_name = %name, "is configured away: it is left as it is");
            driver.stop();
            driver.ended().await;
            self.shared.drivers.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        }
        for name in prepared.renderers.keys() {
            let Some(assignment) = assignment(prepared, &self.shared.watch, name) else { continue };
            if let Some(driver) = running.get(name) {
                // Not awaited: it answers when its operation in flight has ended.
                let driver = driver.clone();
                tokio::spawn(async move { driver.reassign(assignment).await });
                continue;
            }
            match Driver::spawn(assignment, &self.state_dir, self.surroundings.clone()) {
                Ok(driver) => {
                    let mut drivers = self.shared.drivers.lock().unwrap_or_else(PoisonError::into_inner);
                    drivers.insert(Arc::clone(name), driver);
                }
                Err(error) => tracing::error!("{error}"),
            }
        }
    }

    /// Tells of secrets past their `max_age`, once a version.
    fn tell_overdue(&mut self) {
        let view = self.shared.view();
        for secret in view.secrets {
            let (Some(due_at), Some(version)) = (secret.due_at(), secret.version.clone()) else { continue };
            if due_at < view.now && self.overdue.insert((secret.name.clone(), version.clone())) {
                tracing::warn!(secret = secret.name, "is past its max_age");
                let event = Event::SecretOverdue { secret: secret.name, version, due_at };
                self.shared.audit.record(view.now, &event);
            }
        }
        self.shared.tell_status();
    }
}

async fn ended(driver: Driver) -> Ended {
    driver.ended().await
}

const CAUGHT: [i32; 7] = [
    nix::libc::SIGTERM,
    nix::libc::SIGINT,
    nix::libc::SIGHUP,
    nix::libc::SIGQUIT,
    nix::libc::SIGUSR1,
    nix::libc::SIGUSR2,
    nix::libc::SIGWINCH,
];
