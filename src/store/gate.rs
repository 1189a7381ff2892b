//! How hard the server is asked: requests in flight, a token bucket, `Retry-After`, and a circuit that opens when the server
//! is gone, so that an outage costs a bounded number of requests and those who wait come back one after another.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::config::model::Limits;
use crate::schedule::{Backoff, RETRY_AFTER_MAX};
use crate::store::StoreError;

/// Failures in a row that open the circuit.
const FAILURES: u32 = 3;
/// A wait that the server asked for is waited for in place up to this; a longer one is the caller's.
const SHORT: Duration = Duration::from_secs(2);

/// A token bucket: `rate` a second, and bursts of as many. Pure: `now` counts from any origin.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: f64,
    tokens: f64,
    at: Duration,
}

impl Bucket {
    pub fn new(per_second: u32) -> Self {
        let rate = f64::from(per_second.max(1));
        Self { rate, tokens: rate, at: Duration::ZERO }
    }

    /// Takes one token, and answers how long to wait until it is there. Those who wait are served in the order in which they
    /// asked.
    pub fn take(&mut self, now: Duration) -> Duration {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed * self.rate).min(self.rate) - 1.0;
        Duration::try_from_secs_f64((-self.tokens).max(0.0) / self.rate).unwrap_or_default()
    }
}

/// Whether the server is asked at all. Pure: `now` counts from any origin, `die` is in `[0, 1)`.
#[derive(Debug)]
pub(super) struct Circuit {
    failures: u32,
    open: Option<Open>,
    /// What the server asked for with `Retry-After`.
    quiet: Option<(Duration, StoreError)>,
}

#[derive(Debug)]
struct Open {
    error: StoreError,
    backoff: Backoff,
    next: Duration,
    probing: bool,
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send it; true: it is the one that tries whether the server is back.
    Send(bool),
    /// Ask again after this.
    Wait(Duration),
    /// It fails as the last one did.
    Refuse(StoreError),
}

impl Circuit {
    pub fn new() -> Self {
        Self { failures: 0, open: None, quiet: None }
    }

    pub fn ask(&mut self, now: Duration) -> Verdict {
        if let Some((until, error)) = &self.quiet {
            let left = until.saturating_sub(now);
            if left > SHORT {
                return Verdict::Refuse(StoreError { retry_after: Some(left), ..error.clone() });
            }
            if !left.is_zero() {
                return Verdict::Wait(left);
            }
            self.quiet = None;
        }
        let Some(open) = &mut self.open else { return Verdict::Send(false) };
        if open.probing || now < open.next {
            let left = open.next.saturating_sub(now).max(Duration::from_secs(1));
            return Verdict::Refuse(open.error.clone().later(left));
        }
        open.probing = true;
        Verdict::Send(true)
    }

    /// The server answered.
    pub fn reached(&mut self) {
        self.failures = 0;
        self.open = None;
    }

    /// The server did not answer, or serves nobody.
    pub fn down(&mut self, error: &StoreError, now: Duration, die: f64) {
        if error.retry_after.is_some() {
            self.throttled(error, now);
        }
        self.failures = self.failures.saturating_add(1);
        if self.open.is_none() && self.failures < FAILURES {
            return;
        }
        let first = || Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        // Requests that were under way when it opened say nothing new.
        if self.open.as_ref().is_some_and(|open| !open.probing) {
            return;
        }
        let mut backoff = self.open.take().map_or_else(first, |open| open.backoff);
        let next = now.saturating_add(backoff.fail(die, error.retry_after));
        self.open = Some(Open { error: error.clone(), backoff, next, probing: false });
    }

    /// The server wants to be left alone.
    pub fn throttled(&mut self, error: &StoreError, now: Duration) {
        let wait = error.retry_after.unwrap_or(Duration::from_secs(1)).min(RETRY_AFTER_MAX);
        let until = now.saturating_add(wait);
        if self.quiet.as_ref().is_none_or(|(before, _)| *before < until) {
            self.quiet = Some((until, error.clone()));
        }
    }

    /// The one that tried was broken off, and says nothing.
    pub fn abandoned(&mut self) {
        if let Some(open) = &mut self.open {
            open.probing = false;
        }
    }
}

/// The limits of one store.
pub(super) struct Gate {
    slots: Semaphore,
    origin: Instant,
    state: Mutex<(Bucket, Circuit)>,
}

/// A request that may be sent. To be told how it went; dropped untold, it says nothing.
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    trying: bool,
    _slot: SemaphorePermit<'a>,
}

impl Gate {
    pub fn new(limits: Limits) -> Self {
        let state = Mutex::new((Bucket::new(limits.per_second), Circuit::new()));
        Self { slots: Semaphore::new(limits.in_flight.max(1)), origin: Instant::now(), state }
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn state(&self) -> MutexGuard<'_, (Bucket, Circuit)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a slot and a token.
    ///
    /// # Errors
    /// The last failure, while the circuit is open or the server asked for a longer rest.
    pub async fn pass(&self) -> Result<Pass<'_>, StoreError> {
        loop {
            let Ok(slot) = self.slots.acquire().await else { std::future::pending().await };
            if let Some(refused) = self.refused() {
                return Err(refused);
            }
            let wait = self.state().0.take(self.now());
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let verdict = self.state().1.ask(self.now());
            match verdict {
                Verdict::Send(trying) => return Ok(Pass { gate: self, trying, _slot: slot }),
                Verdict::Refuse(error) => return Err(error),
                Verdict::Wait(left) => tokio::time::sleep(left).await,
            }
        }
    }

    /// Whether a request would be refused, without asking for the right to try.
    fn refused(&self) -> Option<StoreError> {
        let mut state = self.state();
        let circuit = &mut state.1;
        match circuit.ask(self.now()) {
            Verdict::Refuse(error) => Some(error),
            Verdict::Send(true) => {
                circuit.abandoned();
                None
            }
            Verdict::Send(false) | Verdict::Wait(_) => None,
        }
    }
}

impl Pass<'_> {
    pub fn reached(mut self) {
        self.trying = false;
        self.gate.state().1.reached();
    }

    pub fn down(mut self, error: &StoreError, die: f64) {
        self.trying = false;
        self.gate.state().1.down(error, self.gate.now(), die);
    }

    pub fn throttled(mut self, error: &StoreError) {
        self.trying = false;
        let mut state = self.gate.state();
        state.1.reached();
        state.1.throttled(error, self.gate.now());
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.trying {
            self.gate.state().1.abandoned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreErrorKind;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn error(retry_after: Option<Duration>) -> StoreError {
        StoreError { kind: StoreErrorKind::Unavailable, message: "down".into(), retry_after }
    }

    #[test]
    fn a_bucket_lets_a_burst_through_and_then_its_rate() {
        let mut bucket = Bucket::new(10);
        for _ in 0..10 {
            assert_eq!(bucket.take(S(1)), Duration::ZERO);
        }
        assert_eq!(bucket.take(S(1)), Duration::from_millis(100));
        assert_eq!(bucket.take(S(1)), Duration::from_millis(200));
        // What waits is counted: after ten seconds it is full again, not fuller.
        for _ in 0..10 {
            assert_eq!(bucket.take(S(11)), Duration::ZERO);
        }
        assert!(bucket.take(S(11)) > Duration::ZERO);
    }

    #[test]
    fn an_outage_of_ten_minutes_lets_few_requests_through_and_the_first_success_ends_it() {
        let mut circuit = Circuit::new();
        let mut sent = 0;
        for tick in 0..6000 {
            // A caller every 100 ms.
            let now = Duration::from_millis(tick * 100);
            if let Verdict::Send(_) = circuit.ask(now) {
                sent += 1;
                circuit.down(&error(None), now, 0.5);
            }
        }
        assert!((8..=35).contains(&sent), "{sent} requests");
        let now = S(700);
        assert_eq!(circuit.ask(now), Verdict::Send(true));
        let Verdict::Refuse(refused) = circuit.ask(now) else { panic!("two tried at once") };
        assert!(refused.retry_after.is_some());
        circuit.reached();
        assert_eq!(circuit.ask(now), Verdict::Send(false));
    }

    #[test]
    fn what_was_under_way_when_it_opened_does_not_prolong_it_and_who_is_broken_off_makes_room() {
        let mut circuit = Circuit::new();
        (0..3).for_each(|_| circuit.down(&error(None), S(0), 0.0));
        (0..20).for_each(|_| circuit.down(&error(None), S(0), 0.0));
        assert_eq!(circuit.ask(S(2)), Verdict::Send(true), "one failure's backoff, not twenty");
        circuit.abandoned();
        assert_eq!(circuit.ask(S(2)), Verdict::Send(true));
    }

    #[test]
    fn nothing_is_sent_before_the_server_wants_it_but_it_cannot_ask_for_a_day() {
        let mut circuit = Circuit::new();
        circuit.throttled(&error(Some(S(30))), S(0));
        circuit.throttled(&error(Some(S(10))), S(0));
        assert!(matches!(circuit.ask(S(20)), Verdict::Refuse(e) if e.retry_after == Some(S(10))));
        assert_eq!(circuit.ask(S(29)), Verdict::Wait(S(1)));
        assert_eq!(circuit.ask(S(30)), Verdict::Send(false));
        circuit.throttled(&error(Some(S(86_400))), S(100));
        assert_eq!(circuit.ask(S(700)), Verdict::Send(false));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_a_slot_and_a_token() {
        let gate = Gate::new(Limits { in_flight: 2, per_second: 2 });
        let begun = Instant::now();
        let (one, two) = (gate.pass().await.unwrap(), gate.pass().await.unwrap());
        assert!(tokio::time::timeout(S(5), gate.pass()).await.is_err(), "a third went in");
        one.reached();
        two.reached();
        for _ in 0..6 {
            gate.pass().await.unwrap().reached();
        }
        assert!(begun.elapsed() >= S(5) + S(2), "{:?}", begun.elapsed());
    }
}
