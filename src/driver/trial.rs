//! Asks a target's health until the verdict is in.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::config::model::{HealthCheck, HealthConfig, HttpRequest};
use crate::probe;
use crate::reload::GRACE;
use crate::verdict::{Policy, Trial, Verdict};

/// One generation on trial.
pub(super) struct Trying<'a> {
    pub health: &'a HealthConfig,
    pub request: Option<&'a HttpRequest>,
    pub supervised: bool,
    pub context: &'a probe::Context,
}

impl Trying<'_> {
    /// Ok where it became healthy in time; else why not.
    pub async fn decide(&self) -> Result<(), String> {
        if matches!(self.health.check, HealthCheck::None) {
            if self.supervised {
                // Without a health check a supervised process must at least live through its first moment.
                tokio::time::sleep(GRACE).await;
            }
            return Ok(());
        }
        let HealthConfig { check, interval, timeout, within, successes } = self.health;
        let policy = Policy { within: *within, interval: *interval, successes: *successes, timeout: *timeout };
        let probe = probe::build(check, self.request, *timeout, self.context);
        let mut trial = Trial::new(policy);
        let began = Instant::now();
        loop {
            let started = began.elapsed();
            let attempt = probe.attempt().await;
            match trial.observe(started, began.elapsed(), &attempt) {
                Verdict::Healthy => return Ok(()),
                Verdict::Unhealthy(reason) => return Err(reason),
                Verdict::NotYet { next_at } => sleep_until(began + next_at.max(Duration::ZERO)).await,
            }
        }
    }
}
