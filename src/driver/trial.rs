//! Asks a target's health until the verdict is in.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::config::model::{HealthCheck, HealthConfig, HttpRequest};
use crate::probe;
use crate::verdict::{Attempt, Policy, Trial, Verdict, show};

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
        // Of many answers each has `timeout`, and all of them have what is left of `within`.
        let times = self.request.and_then(|request| request.confirm.as_ref()).map(|confirm| confirm.times);
        let longest = if times.is_some() { *timeout.max(within) } else { *timeout };
        let policy = Policy { within: *within, interval: *interval, successes: *successes, timeout: longest };
        let probe = probe::build(check, self.request, *timeout, self.context);
        let mut trial = Trial::new(policy);
        let began = Instant::now();
        loop {
            let started = began.elapsed();
            let attempt = match times {
                None => probe.attempt().await,
                Some(times) => {
                    let left = within.saturating_sub(started).max(*timeout);
                    let late = || format!("`confirm` was not answered {times} times within {}", show(*within));
                    tokio::time::timeout(left, probe.attempt()).await.unwrap_or_else(|_| Attempt::Fail(late()))
                }
            };
            match trial.observe(started, began.elapsed(), &attempt) {
                Verdict::Healthy => return Ok(()),
                Verdict::Unhealthy(reason) => return Err(reason),
                Verdict::NotYet { next_at } => sleep_until(began + next_at.max(Duration::ZERO)).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;
    use crate::config::model::Confirm;
    use crate::dbus::Bus;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn request(url: String, timeout: Duration, confirm: Option<Confirm>) -> HttpRequest {
        HttpRequest {
            url,
            method: "GET".into(),
            headers: Vec::new(),
            body: None,
            status: Vec::new(),
            body_contains: None,
            json: Vec::new(),
            ca_cert: None,
            timeout,
            confirm: confirm.map(Box::new),
        }
    }

    /// What comes of it where every answer takes `delay`, and how many were asked for.
    async fn decided(delay: Duration, timeout: Duration, within: Duration, times: u32) -> (Result<(), String>, u32) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let _read = stream.read(&mut [0; 4096]).await;
                sleep_until(Instant::now() + delay).await;
                let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        });
        let url = || format!("unix:{}:/", path.display());
        let confirm = Confirm { request: request(url(), timeout, None), times };
        let request = request(url(), timeout, Some(confirm));
        let check = HealthCheck::Http(request.clone());
        let health = HealthConfig { check, interval: ms(10), timeout, within, successes: 1 };
        let context = probe::Context { inherit: Default::default(), bus: Bus::system() };
        let trying = Trying { health: &health, request: Some(&request), not_before: None, context: &context };
        let decided = trying.decide().await;
        server.abort();
        (decided, asked.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn many_answers_may_take_longer_together_than_one_may() {
        let (decided, _) = decided(ms(40), ms(1000), ms(60_000), 40).await;
        assert_eq!(decided, Ok(()));
    }

    #[tokio::test]
    async fn many_answers_are_not_waited_for_longer_than_within() {
        let (decided, asked) = decided(ms(50), ms(500), ms(1000), 10_000).await;
        let reason = decided.unwrap_err();
        assert!(reason.contains("`confirm` was not answered 10000 times within 1s"), "{reason}");
        assert!(asked < 10_000);
    }
}
