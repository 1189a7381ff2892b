//! systemd's bus: a connection that is made when it is needed and made anew when it was lost, and the few calls of
//! org.freedesktop.systemd1(5) that a reload and a probe need.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};
use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedObjectPath, fdo};

/// Between attempts while the bus or systemd is not there (dbus restarted, `systemctl daemon-reexec`).
const RETRY: Duration = Duration::from_millis(200);

/// The jobs and units of systemd.
#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
pub trait Manager {
    /// Asks for signals.
    fn subscribe(&self) -> zbus::Result<()>;
    /// The unit's object, read from disk where it is not loaded. Succeeds for units that do not exist.
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    /// The unit that a process belongs to; 0: the caller's own.
    #[zbus(name = "GetUnitByPID")]
    fn get_unit_by_pid(&self, pid: u32) -> zbus::Result<OwnedObjectPath>;
    /// `systemctl reload`
    fn reload_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    /// `systemctl restart`
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    /// `systemctl try-restart`
    fn try_restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    /// `systemctl reload-or-restart`
    fn reload_or_restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    /// `systemctl try-reload-or-restart`
    fn reload_or_try_restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    /// `systemctl reset-failed`
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    /// A job ended.
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

/// One job.
#[zbus::proxy(interface = "org.freedesktop.systemd1.Job", default_service = "org.freedesktop.systemd1")]
pub trait Job {
    /// `waiting` (for another job, by `After=`), `running`
    #[zbus(property)]
    fn state(&self) -> zbus::Result<String>;
}

/// One unit.
#[zbus::proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
pub trait Unit {
    /// `active`, `reloading`, `inactive`, `failed`, `activating`, `deactivating`, `maintenance`, `refreshing`
    #[zbus(property)]
    fn active_state(&self) -> zbus::Result<String>;
    /// The state of its type: `running`, `auto-restart`, …
    #[zbus(property)]
    fn sub_state(&self) -> zbus::Result<String>;
    /// `loaded`, `not-found`, `masked`, `bad-setting`, `error`
    #[zbus(property)]
    fn load_state(&self) -> zbus::Result<String>;
    /// Its job, id 0 where it has none.
    #[zbus(property)]
    fn job(&self) -> zbus::Result<(u32, OwnedObjectPath)>;
}

/// A unit that is a service.
#[zbus::proxy(interface = "org.freedesktop.systemd1.Service", default_service = "org.freedesktop.systemd1")]
pub trait Service {
    /// `success`, `exit-code`, `signal`, `timeout`, `start-limit-hit`, …
    #[zbus(property)]
    fn result(&self) -> zbus::Result<String>;
}

/// What systemd says of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitState {
    /// `loaded`, `not-found`, `masked`, …
    pub load: String,
    /// `active`, `inactive`, `failed`, …
    pub active: String,
    /// `running`, `auto-restart`, …
    pub sub: String,
    /// For a service: how it or its last reload ended (`success`, `exit-code`, …).
    pub result: Option<String>,
    /// Whether a job is queued or running for it.
    pub busy: bool,
}

impl UnitState {
    /// Whether it runs (a unit that reloads does).
    pub fn is_active(&self) -> bool {
        matches!(self.active.as_str(), "active" | "reloading" | "refreshing")
    }

    /// `failed (exit-code)`, `activating (auto-restart)`, for messages.
    pub fn describe(&self) -> String {
        match self.result.as_deref() {
            Some(result) if result != "success" => format!("{} ({}, {result})", self.active, self.sub),
            _ => format!("{} ({})", self.active, self.sub),
        }
    }
}

/// Why systemd could not be asked, or refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// No bus, or no systemd on it, within the time.
    #[error("systemd cannot be reached over D-Bus: {0}. Is dbus running, and does this process see its socket?")]
    Unreachable(String),
    /// Asked, but there was no answer within the time.
    #[error("systemd did not answer over D-Bus in time")]
    Silent,
    /// The bus or polkit says no.
    #[error("systemd refused access: {0}")]
    Denied(String),
    /// No unit of that name.
    #[error("no such unit: {0}")]
    NoSuchUnit(String),
    /// The unit cannot do that (a reload without `ExecReload=`).
    #[error("the unit cannot do that: {0}")]
    NotApplicable(String),
    /// Anything else that systemd answered.
    #[error("systemd answered: {0}")]
    Refused(String),
}

impl BusError {
    /// True where asking again may help without anything being mended.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Silent)
    }
}

impl From<zbus::Error> for BusError {
    fn from(error: zbus::Error) -> Self {
        match error {
            zbus::Error::FDO(inner) => from_fdo(*inner),
            zbus::Error::MethodError(name, text, _) => from_method(name.as_str(), text.unwrap_or_default()),
            zbus::Error::InputOutput(_) | zbus::Error::Connection(..) | zbus::Error::Handshake(_) => {
                Self::Unreachable(error.to_string())
            }
            other => Self::Refused(other.to_string()),
        }
    }
}

fn from_fdo(error: fdo::Error) -> BusError {
    match error {
        fdo::Error::ZBus(inner) => BusError::from(inner),
        fdo::Error::AccessDenied(text)
        | fdo::Error::AuthFailed(text)
        | fdo::Error::InteractiveAuthorizationRequired(text) => BusError::Denied(text),
        fdo::Error::ServiceUnknown(text)
        | fdo::Error::NameHasNoOwner(text)
        | fdo::Error::NoReply(text)
        | fdo::Error::NoServer(text)
        | fdo::Error::Disconnected(text)
        | fdo::Error::Timeout(text)
        | fdo::Error::TimedOut(text)
        | fdo::Error::IOError(text) => BusError::Unreachable(text),
        other => BusError::Refused(other.to_string()),
    }
}

fn from_method(name: &str, text: String) -> BusError {
    match name {
        "org.freedesktop.systemd1.NoSuchUnit" | "org.freedesktop.systemd1.LoadFailed" => BusError::NoSuchUnit(text),
        "org.freedesktop.systemd1.JobTypeNotApplicable" => BusError::NotApplicable(text),
        "org.freedesktop.systemd1.UnitMasked" => BusError::Refused(text),
        // systemd is about to re-execute itself, or shuts its bus down.
        "org.freedesktop.systemd1.ShuttingDown" => BusError::Unreachable(text),
        _ if text.is_empty() => BusError::Refused(name.to_owned()),
        _ => BusError::Refused(text),
    }
}

/// The bus. Cheap to clone; all clones share one connection. Makes none before it is asked something.
#[derive(Clone, Default)]
pub struct Bus {
    connection: Arc<Mutex<Option<Connection>>>,
}

impl Bus {
    /// The system bus, or the one that `DBUS_SYSTEM_BUS_ADDRESS` names.
    pub fn system() -> Self {
        Self::default()
    }

    /// A live connection: the one at hand, or a new one where that was lost. Does not retry and does not bound itself.
    pub async fn connection(&self) -> Result<Connection, BusError> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = held.as_ref().filter(|c| !c.is_closed()) {
            return Ok(connection.clone());
        }
        *held = None;
        let fresh = Connection::system().await.map_err(|e| match BusError::from(e) {
            BusError::Refused(text) => BusError::Unreachable(text),
            other => other,
        })?;
        Ok(held.insert(fresh).clone())
    }

    /// Forgets the connection, so that the next question makes a new one.
    pub async fn forget(&self) {
        *self.connection.lock().await = None;
    }

    /// systemd itself, uncached.
    pub async fn manager(&self) -> Result<ManagerProxy<'static>, BusError> {
        let connection = self.connection().await?;
        Ok(ManagerProxy::builder(&connection).cache_properties(CacheProperties::No).build().await?)
    }

    /// What systemd says of a unit now. Asks again while the bus is away, until `deadline`.
    /// A unit that does not exist has `load` = `not-found`.
    pub async fn unit(&self, name: &str, deadline: Instant) -> Result<UnitState, BusError> {
        self.patiently(deadline, || self.ask_unit(name)).await
    }

    /// Asks, and asks again while the bus is away, until `deadline`. The question must bear being asked twice.
    pub async fn patiently<T, F>(&self, deadline: Instant, mut ask: impl FnMut() -> F) -> Result<T, BusError>
    where
        F: Future<Output = Result<T, BusError>>,
    {
        let mut last = BusError::Silent;
        while let Ok(answer) = timeout_at(deadline, ask()).await {
            match answer {
                Err(error) if error.is_transient() => last = error,
                done => return done,
            }
            self.forget().await;
            if Instant::now() + RETRY >= deadline {
                return Err(last);
            }
            sleep(RETRY).await;
        }
        // A bus that takes a question and never answers is not to be asked again on the same connection.
        self.forget().await;
        Err(last)
    }

    /// Whether a job waits for another one while the unit that this process belongs to is itself being started or stopped:
    /// then it may be that very end which the job waits for. False where that cannot be told.
    pub async fn waits_for_own_unit(&self, job: &OwnedObjectPath) -> bool {
        let asked = async {
            let manager = self.manager().await?;
            let connection = manager.inner().connection();
            let job =
                JobProxy::builder(connection).path(job.clone()).cache_properties(CacheProperties::No).build().await?;
            if job.state().await? != "waiting" {
                return Ok(false);
            }
            let own = manager.get_unit_by_pid(0).await?;
            let own = UnitProxy::builder(connection).path(own).cache_properties(CacheProperties::No).build().await?;
            Ok(matches!(own.active_state().await?.as_str(), "activating" | "deactivating"))
        };
        let asked: Result<bool, BusError> = asked.await;
        asked.unwrap_or(false)
    }

    async fn ask_unit(&self, name: &str) -> Result<UnitState, BusError> {
        let manager = self.manager().await?;
        let path = manager.load_unit(name).await?;
        let connection = manager.inner().connection();
        let unit =
            UnitProxy::builder(connection).path(path.clone()).cache_properties(CacheProperties::No).build().await?;
        let result = if name.ends_with(".service") {
            let service =
                ServiceProxy::builder(connection).path(path).cache_properties(CacheProperties::No).build().await?;
            service.result().await.ok()
        } else {
            None
        };
        Ok(UnitState {
            load: unit.load_state().await?,
            active: unit.active_state().await?,
            sub: unit.sub_state().await?,
            busy: unit.job().await?.0 != 0,
            result,
        })
    }
}
