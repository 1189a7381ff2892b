//! Asks a target's health until the verdict is in.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::config::model::{HealthCheck, HealthConfig, HttpRequest};
use crate::probe;
use crate::verdict::{Policy, Trial, Verdict};

/// One generation on trial.
pub(super) struct Trying<'a> {
    pub health: &'a HealthConfig,
    pub request: Option<&'a HttpRequest>,
    /// When a supervised process has lived through its first moment: it is not healthy before.
    pub not_before: Option<Instant>,
    pub context: &'a probe::Context,
}

impl Trying<'_> {
    /// Ok where it became healthy in time; else why not.
    pub async fn decide(&self) -> Result<(), String> {
        if !matches!(self.health.check, HealthCheck::None) {
            self.ask().await?;
        }
        // One that passes and dies a moment later was not healthy; who calls this sees it die.
        if let Some(not_before) = self.not_before {
            sleep_until(not_before).await;
        }
        Ok(())
    }

    async fn ask(&self) -> Result<(), String> {
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
