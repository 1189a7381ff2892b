//! `health.type: systemd`: a unit is active (org.freedesktop.systemd1(5), `ActiveState`).

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{Attempt, Probe, bounded};

/// Asks systemd for a unit's `ActiveState`; only `active` passes. Does not start, stop or load the unit.
pub struct SystemdProbe {
    unit: String,
    timeout: Duration,
}

impl SystemdProbe {
    /// A probe of a unit (name with suffix).
    pub fn new(unit: String, timeout: Duration) -> Self {
        Self { unit, timeout }
    }
}

impl Probe for SystemdProbe {
    fn attempt(&self) -> BoxFuture<'_, Attempt> {
        Box::pin(async {
            let what = format!("unit {}", self.unit);
            bounded(&what, self.timeout, async {
                let state = active_state(&self.unit).await?;
                if state == "active" { Ok(()) } else { Err(format!("is {state}, expected active")) }
            })
            .await
        })
    }
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Systemd {
    fn get_unit(&self, name: &str) -> zbus::Result<zbus::OwnedObjectPath>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
trait Unit {
    #[zbus(property(emits_changed_signal = "false"))]
    fn active_state(&self) -> zbus::Result<String>;
}

// PLUG: the ground's `dbus.rs` shares one connection between reload and probe; here each attempt makes its own.
async fn active_state(unit: &str) -> Result<String, String> {
    let bus = zbus::Connection::system().await.map_err(|e| format!("the system bus does not answer: {e}"))?;
    let manager = SystemdProxy::new(&bus).await.map_err(|e| bus_reason(&e))?;
    let path = manager.get_unit(unit).await.map_err(|e| bus_reason(&e))?;
    let unit = UnitProxy::builder(&bus).path(path).build().await.map_err(|e| bus_reason(&e))?;
    unit.active_state().await.map_err(|e| bus_reason(&e))
}

fn bus_reason(error: &zbus::Error) -> String {
    match error {
        zbus::Error::MethodError(name, _, _) if name.as_str().ends_with(".NoSuchUnit") => "is not loaded".into(),
        other => other.to_string(),
    }
}
