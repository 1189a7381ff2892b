//! `type: systemd`: a job for a unit over D-Bus, and its result (org.freedesktop.systemd1(5)).

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{Change, GRACE, Reload, ReloadError, Taken};
use crate::config::model::{SystemdReload, SystemdVerb};
use crate::dbus::{Bus, BusError, ManagerProxy, UnitState};

/// Between two looks at a unit.
const LOOK: Duration = Duration::from_millis(100);
/// How often a job that is waited for is looked at, should its signal be lost.
const LOST_SIGNAL: Duration = Duration::from_secs(1);
/// Bound of a question that is not part of a job.
const ASK: Duration = Duration::from_secs(10);
/// How often a job is asked for anew after the bus was lost in the middle of one.
const ASK_AGAIN: usize = 2;

/// How often in a row a job must be found to wait for the agent's own unit.
const BLOCKED_LOOKS: usize = 2;
const BLOCKED: &str = "the job waits, because the unit is ordered after the agent's own (After=), which is itself being \
    started or stopped: it is queued, and goes on when that has ended";

/// Asks systemd.
pub(super) struct UnitReloader {
    config: SystemdReload,
    bus: Bus,
}

/// How a job ended.
enum Ended {
    /// systemd said so: `done`, `failed`, …
    With(String),
    /// The bus was lost, or the signal: nobody knows.
    Unknown,
    /// Not yet, and not before the agent's own unit has started or stopped.
    Blocked,
}

impl UnitReloader {
    pub(super) fn new(config: SystemdReload, bus: Bus) -> Self {
        Self { config, bus }
    }

    async fn reload(&self) -> Result<Taken, ReloadError> {
        let deadline = Instant::now() + self.config.timeout;
        let state = self.settled(deadline).await?;
        if !self.applies(&state) {
            return Ok(Taken::NotRunning);
        }
        for _ in 0..ASK_AGAIN {
            match self.job(&state, deadline).await? {
                Ended::With(result) if result == "done" => return self.lives_on(deadline).await,
                Ended::With(result) => return Err(self.job_failed(&result, deadline).await),
                // For now: whoever asks again finds the agent's unit at rest. The job stays queued, and reads what is there then.
                Ended::Blocked => return Err(ReloadError::absent(self.message(BLOCKED))),
                // Asking twice is harmless: systemd merges equal jobs, and a second reload reads the same files.
                Ended::Unknown => {
                    self.settled(deadline).await?;
                }
            }
        }
        Err(self.failed("the bus was lost while the job ran, more than once: its result is not known"))
    }

    /// The unit's state once nothing is on its way: a unit that is being started or stopped is waited for.
    async fn settled(&self, deadline: Instant) -> Result<UnitState, ReloadError> {
        let mut last = None;
        loop {
            let state = match (self.bus.unit(&self.config.unit, deadline).await, last) {
                (Ok(state), _) => state,
                (Err(BusError::Silent), Some(last)) => return Err(self.still(&last)),
                (Err(error), _) => return Err(self.bus_error(error)),
            };
            match state.load.as_str() {
                "loaded" => {}
                "not-found" => return Err(self.absent("there is no such unit")),
                "masked" => return Err(self.absent("the unit is masked (`systemctl unmask`)")),
                other => {
                    return Err(self.failed(&format!("its unit file is not usable ({other}): see `systemctl status`")));
                }
            }
            let moving = matches!(state.active.as_str(), "activating" | "deactivating" | "maintenance");
            // Between two attempts of Restart= it can wait for long; a restart need not.
            let restarting = state.sub.starts_with("auto-restart") && self.revives();
            if !moving || restarting {
                return Ok(state);
            }
            if Instant::now() + LOOK >= deadline {
                return Err(self.still(&state));
            }
            sleep(LOOK).await;
            last = Some(state);
        }
    }

    fn still(&self, state: &UnitState) -> ReloadError {
        let text = format!("it is still {} after {:?}", state.describe(), self.config.timeout);
        ReloadError::timed_out(self.message(&text))
    }

    /// Whether a job is asked for: never for a unit that is simply not started yet.
    fn applies(&self, state: &UnitState) -> bool {
        match state.active.as_str() {
            "inactive" => false,
            "failed" | "activating" => self.revives(),
            _ => true,
        }
    }

    /// Whether the verb starts a unit that failed: this is how going back mends what a bad generation broke.
    fn revives(&self) -> bool {
        matches!(self.config.verb, SystemdVerb::Restart | SystemdVerb::ReloadOrRestart)
    }

    async fn job(&self, state: &UnitState, deadline: Instant) -> Result<Ended, ReloadError> {
        match timeout_at(deadline, self.run_job(state)).await {
            Ok(Ok(ended)) => Ok(ended),
            Ok(Err(error)) if error.is_transient() => {
                self.bus.forget().await;
                sleep(LOOK).await;
                Ok(Ended::Unknown)
            }
            Ok(Err(error)) => Err(self.bus_error(error)),
            Err(_) => {
                let text = format!("the job did not end within {:?}; it may still run", self.config.timeout);
                Err(ReloadError::timed_out(self.message(&text)))
            }
        }
    }

    async fn run_job(&self, state: &UnitState) -> Result<Ended, BusError> {
        let manager = self.bus.manager().await?;
        // Before asking: a quick job ends before its caller knows its name. systemd sends signals to subscribers only.
        let mut removed = manager.receive_job_removed().await?;
        match manager.subscribe().await.map_err(BusError::from) {
            Ok(()) | Err(BusError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
        if state.active == "failed" {
            // Else a unit that crashed too often may not be started (StartLimitBurst=). The job says what matters.
            let _ = manager.reset_failed_unit(&self.config.unit).await;
        }
        let job = self.ask(&manager).await?;
        let (mut blocked, mut look) = (0, Instant::now() + LOST_SIGNAL);
        loop {
            tokio::select! {
                signal = removed.next() => match signal.as_ref().map(|signal| signal.args()) {
                    Some(Ok(args)) if args.job == job => return Ok(Ended::With(args.result.clone())),
                    Some(_) => {}
                    None => return Ok(Ended::Unknown),
                },
                () = sleep_until(look) => {
                    look = Instant::now() + LOST_SIGNAL;
                    let deadline = Instant::now() + LOST_SIGNAL;
                    if manager.inner().connection().is_closed()
                        || self.bus.unit(&self.config.unit, deadline).await.is_ok_and(|state| !state.busy)
                    {
                        return Ok(last_word(&mut removed, &job).await);
                    }
                    blocked = if self.bus.waits_for_own_unit(&job).await { blocked + 1 } else { 0 };
                    if blocked >= BLOCKED_LOOKS {
                        return Ok(Ended::Blocked);
                    }
                }
            }
        }
    }

    async fn ask(&self, manager: &ManagerProxy<'_>) -> Result<zbus::OwnedObjectPath, BusError> {
        let unit = self.config.unit.as_str();
        // `replace`: a job that conflicts is cancelled, as `systemctl` does it.
        let mode = "replace";
        Ok(match self.config.verb {
            SystemdVerb::Reload => manager.reload_unit(unit, mode).await,
            SystemdVerb::Restart => manager.restart_unit(unit, mode).await,
            SystemdVerb::TryRestart => manager.try_restart_unit(unit, mode).await,
            SystemdVerb::ReloadOrRestart => manager.reload_or_restart_unit(unit, mode).await,
            SystemdVerb::TryReloadOrRestart => manager.reload_or_try_restart_unit(unit, mode).await,
        }?)
    }

    /// A job that is done says little of a program that ends a moment later.
    async fn lives_on(&self, deadline: Instant) -> Result<Taken, ReloadError> {
        let until = Instant::now() + GRACE;
        loop {
            let deadline = deadline.max(Instant::now() + ASK);
            let state = self.bus.unit(&self.config.unit, deadline).await.map_err(|e| self.bus_error(e))?;
            let restarting = state.sub.starts_with("auto-restart");
            if !state.is_active() && (restarting || !matches!(state.active.as_str(), "activating" | "deactivating")) {
                let text = format!("the job is done, but the unit is now {}: {}", state.describe(), self.journal());
                return Err(self.failed(&text));
            }
            if Instant::now() >= until {
                return Ok(Taken::Done);
            }
            sleep_until(until.min(Instant::now() + LOOK)).await;
        }
    }

    async fn job_failed(&self, result: &str, deadline: Instant) -> ReloadError {
        let deadline = deadline.max(Instant::now() + LOST_SIGNAL);
        let state = self.bus.unit(&self.config.unit, deadline).await.ok();
        let now = state.map_or(String::new(), |state| format!(", the unit is now {}", state.describe()));
        let text = match result {
            "failed" => format!("the job failed{now}: {}", self.journal()),
            "timeout" => format!("systemd's own time limit for the job ran out{now}: {}", self.journal()),
            "canceled" => format!("the job was canceled by another one{now}"),
            "dependency" => format!("a unit that it depends on failed{now}: see `systemctl list-dependencies --all`"),
            "skipped" => format!("systemd skipped the job{now}"),
            other => format!("the job ended with `{other}`{now}"),
        };
        self.failed(&text)
    }

    fn journal(&self) -> String {
        format!("see `journalctl -u {}`", self.config.unit)
    }

    fn message(&self, text: &str) -> String {
        format!("{} {}: {text}", self.verb(), self.config.unit)
    }

    fn failed(&self, text: &str) -> ReloadError {
        ReloadError::failed(self.message(text))
    }

    fn absent(&self, text: &str) -> ReloadError {
        ReloadError::absent(self.message(text))
    }

    fn verb(&self) -> &'static str {
        match self.config.verb {
            SystemdVerb::Reload => "reload",
            SystemdVerb::Restart => "restart",
            SystemdVerb::TryRestart => "try-restart",
            SystemdVerb::ReloadOrRestart => "reload-or-restart",
            SystemdVerb::TryReloadOrRestart => "try-reload-or-restart",
        }
    }

    fn bus_error(&self, error: BusError) -> ReloadError {
        match error {
            BusError::Denied(text) => ReloadError::denied(self.message(&format!(
                "access denied ({text}): a polkit rule must grant org.freedesktop.systemd1.manage-units for this unit to the agent's user (uid {})",
                nix::unistd::geteuid()
            ))),
            BusError::NoSuchUnit(_) => self.absent("there is no such unit"),
            BusError::NotApplicable(_) => {
                self.failed("the unit has no ExecReload=: add one, or use `verb: reload-or-restart`")
            }
            BusError::Unreachable(_) | BusError::Silent => ReloadError::timed_out(self.message(&error.to_string())),
            BusError::Refused(_) => self.failed(&error.to_string()),
        }
    }
}

/// The job is gone; its signal may still be on its way.
async fn last_word(removed: &mut crate::dbus::JobRemovedStream, job: &zbus::OwnedObjectPath) -> Ended {
    let until = Instant::now() + LOST_SIGNAL;
    while let Ok(Some(signal)) = timeout_at(until, removed.next()).await {
        if let Ok(args) = signal.args()
            && args.job == *job
        {
            return Ended::With(args.result.clone());
        }
    }
    Ended::Unknown
}

impl Reload for UnitReloader {
    fn apply<'a>(&'a mut self, _change: Change<'a>) -> BoxFuture<'a, Result<Taken, ReloadError>> {
        Box::pin(self.reload())
    }

    /// False as well for a unit that does not exist.
    fn running(&mut self) -> BoxFuture<'_, Result<bool, ReloadError>> {
        Box::pin(async {
            let state = self.bus.unit(&self.config.unit, Instant::now() + ASK).await.map_err(|e| self.bus_error(e))?;
            Ok(state.is_active())
        })
    }
}
