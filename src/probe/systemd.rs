//! `health.type: systemd`: a unit is active (org.freedesktop.systemd1(5), `ActiveState`).

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::{Attempt, Probe, bounded};
use crate::dbus::Bus;

/// Asks systemd for a unit's `ActiveState`; only `active` passes. Does not start or stop the unit.
pub struct SystemdProbe {
    unit: String,
    timeout: Duration,
    bus: Bus,
}

impl SystemdProbe {
    /// A probe of a unit (name with suffix).
    pub fn new(unit: String, timeout: Duration, bus: Bus) -> Self {
        Self { unit, timeout, bus }
    }
}

impl Probe for SystemdProbe {
    fn attempt(&self) -> BoxFuture<'_, Attempt> {
        Box::pin(async {
            let what = format!("unit {}", self.unit);
            bounded(&what, self.timeout, async {
                let asked = self.bus.unit(&self.unit, Instant::now() + self.timeout).await;
                let state = asked.map_err(|e| e.to_string())?;
                if state.is_active() { Ok(()) } else { Err(format!("is {}, expected active", state.describe())) }
            })
            .await
        })
    }
}
