//! When is a target healthy? Probe results + policy -> healthy, unhealthy, not yet.
//!
//! Pure: time comes in as durations since the trial began; who probes, sleeps and keeps the clock is the driver.

use std::time::Duration;

/// What one attempt showed. (`probe` makes them; the type lives here because the core knows no edge.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// It is as it should be.
    Pass,
    /// It is not; why, for the operator, without values (a body is never quoted).
    Fail(String),
}

/// How much proof is asked for, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// No attempt starts at or after this; so the verdict is there by `within + timeout`.
    pub within: Duration,
    /// From the start of one attempt to the start of the next; an attempt that takes longer delays the next.
    pub interval: Duration,
    /// Passes in a row that make it healthy (0 counts as 1).
    pub successes: u32,
    /// Bound on one attempt: one that took longer failed, whatever it answered.
    pub timeout: Duration,
}

/// What the attempts so far mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Enough passes in a row.
    Healthy,
    /// Time is up; why, for the operator.
    Unhealthy(String),
    /// Ask again.
    NotYet {
        /// When the next attempt starts, since the trial began; never before the last attempt's end.
        next_at: Duration,
    },
}

/// The shortest pause between the starts of two attempts, whatever the config says: a bound on busy loops.
pub const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

/// One series of attempts. The first attempt starts at zero and is made even where `within` is zero.
///
/// After [`Verdict::Healthy`] or [`Verdict::Unhealthy`] the trial is over; the caller owes to drop it.
#[derive(Debug, Clone)]
pub struct Trial {
    policy: Policy,
    attempts: u32,
    passes: u32,
    last_failure: Option<String>,
}

impl Trial {
    /// A trial without attempts.
    pub fn new(policy: Policy) -> Self {
        Self { policy, attempts: 0, passes: 0, last_failure: None }
    }

    /// Takes in one attempt that ran from `started` to `ended` (since the trial began; `ended` before `started` counts
    /// as `started`). An attempt longer than the policy's timeout counts as a failure that ended at the timeout.
    pub fn observe(&mut self, started: Duration, ended: Duration, attempt: &Attempt) -> Verdict {
        self.attempts = self.attempts.saturating_add(1);
        let hung = ended > started.saturating_add(self.policy.timeout);
        match attempt {
            Attempt::Pass if !hung => self.passes = self.passes.saturating_add(1),
            Attempt::Pass => self.fail(format!("no answer within {}", show(self.policy.timeout))),
            Attempt::Fail(reason) => self.fail(reason.clone()),
        }
        if self.passes >= self.policy.successes.max(1) {
            return Verdict::Healthy;
        }
        let interval = self.policy.interval.max(SHORTEST_INTERVAL);
        let next_at = started.saturating_add(interval).max(ended);
        if next_at >= self.policy.within { Verdict::Unhealthy(self.reason()) } else { Verdict::NotYet { next_at } }
    }

    /// Passes in a row at this moment, and how many are needed: for `status`.
    pub fn progress(&self) -> (u32, u32) {
        (self.passes, self.policy.successes.max(1))
    }

    /// Why the last failed attempt failed, if one did.
    pub fn last_failure(&self) -> Option<&str> {
        self.last_failure.as_deref()
    }

    fn fail(&mut self, reason: String) {
        self.passes = 0;
        self.last_failure = Some(reason);
    }

    fn reason(&self) -> String {
        let (passes, needed) = self.progress();
        let within = show(self.policy.within);
        let mut text = format!("not healthy within {within}: ");
        match &self.last_failure {
            Some(reason) if passes == 0 => text.push_str(reason),
            Some(reason) => {
                text.push_str(&format!("{passes} of {needed} passes in a row; the last failure was: {reason}"));
            }
            None => text.push_str(&format!("{passes} of {needed} passes in a row")),
        }
        text.push_str(&format!(" ({} attempt{})", self.attempts, if self.attempts == 1 { "" } else { "s" }));
        text
    }
}

/// A duration as an operator writes it: `5s`, `1m30s`, `250ms`.
pub fn show(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    match (seconds / 60, seconds % 60, millis) {
        (0, 0, millis) => format!("{millis}ms"),
        (0, seconds, 0) => format!("{seconds}s"),
        (0, seconds, millis) => format!("{}s", f64::from(millis) / 1000.0 + seconds as f64),
        (minutes, 0, _) => format!("{minutes}m"),
        (minutes, seconds, _) => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn policy(within: u64, interval: u64, successes: u32, timeout: u64) -> Policy {
        Policy { within: ms(within), interval: ms(interval), successes, timeout: ms(timeout) }
    }

    fn fail(reason: &str) -> Attempt {
        Attempt::Fail(reason.into())
    }

    #[test]
    fn three_passes_in_a_row_are_healthy_and_a_failure_starts_the_count_again() {
        let mut trial = Trial::new(policy(90_000, 1000, 3, 5000));
        assert_eq!(trial.observe(ms(0), ms(5), &Attempt::Pass), Verdict::NotYet { next_at: ms(1000) });
        assert_eq!(trial.observe(ms(1000), ms(1005), &Attempt::Pass), Verdict::NotYet { next_at: ms(2000) });
        assert_eq!(trial.observe(ms(2000), ms(2005), &fail("x")), Verdict::NotYet { next_at: ms(3000) });
        assert_eq!(trial.progress(), (0, 3));
        assert_eq!(trial.observe(ms(3000), ms(3005), &Attempt::Pass), Verdict::NotYet { next_at: ms(4000) });
        assert_eq!(trial.observe(ms(4000), ms(4005), &Attempt::Pass), Verdict::NotYet { next_at: ms(5000) });
        assert_eq!(trial.observe(ms(5000), ms(5005), &Attempt::Pass), Verdict::Healthy);
    }

    #[test]
    fn the_deadline_names_the_last_failure_and_the_number_of_attempts() {
        let mut trial = Trial::new(policy(2000, 1000, 1, 5000));
        trial.observe(ms(0), ms(1), &fail("connection refused"));
        let verdict = trial.observe(ms(1000), ms(1001), &fail("status 503, expected 200"));
        assert_eq!(verdict, Verdict::Unhealthy("not healthy within 2s: status 503, expected 200 (2 attempts)".into()));
    }

    #[test]
    fn passes_that_came_too_late_are_named_as_such() {
        let mut trial = Trial::new(policy(1500, 1000, 3, 5000));
        trial.observe(ms(0), ms(1), &Attempt::Pass);
        let verdict = trial.observe(ms(1000), ms(1001), &Attempt::Pass);
        assert_eq!(verdict, Verdict::Unhealthy("not healthy within 1.5s: 2 of 3 passes in a row (2 attempts)".into()));
    }

    #[test]
    fn a_pass_that_took_longer_than_the_timeout_is_a_failure() {
        let mut trial = Trial::new(policy(60_000, 1000, 1, 5000));
        assert_eq!(trial.observe(ms(0), ms(5001), &Attempt::Pass), Verdict::NotYet { next_at: ms(5001) });
        assert_eq!(trial.last_failure(), Some("no answer within 5s"));
    }

    #[test]
    fn a_zero_interval_and_zero_successes_neither_spin_nor_pass_unasked() {
        let mut trial = Trial::new(policy(1000, 0, 0, 10));
        assert_eq!(trial.observe(ms(0), ms(0), &fail("x")), Verdict::NotYet { next_at: SHORTEST_INTERVAL });
        assert_eq!(trial.observe(ms(10), ms(10), &Attempt::Pass), Verdict::Healthy);
    }

    #[test]
    fn durations_read_as_they_are_written() {
        for (millis, text) in [(250, "250ms"), (1500, "1.5s"), (5000, "5s"), (90_000, "1m30s"), (60_000, "1m")] {
            assert_eq!(show(ms(millis)), text);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        /// Attempts of any length and outcome, made when the trial asks for them: it decides in time, never asks for the
        /// past, and is healthy exactly on N passes in a row at the end.
        #[test]
        fn every_trial_decides_in_time_and_only_on_consecutive_passes(
            within in 0u64..20_000, interval in 0u64..3_000, successes in 0u32..5, timeout in 1u64..4_000,
            script in proptest::collection::vec((any::<bool>(), 0u64..6_000), 1..64),
        ) {
            let policy = policy(within, interval, successes, timeout);
            let mut trial = Trial::new(policy);
            let (mut at, mut row, mut decided) = (ms(0), 0u32, false);
            for (pass, took) in script.into_iter().cycle().take(4_000) {
                // The prober cuts an attempt off at its timeout, and reports that as a failure.
                let hung = took > timeout;
                let ended = at + ms(took.min(timeout));
                let passed = pass && !hung;
                row = if passed { row + 1 } else { 0 };
                let attempt = if passed { Attempt::Pass } else { fail("no") };
                match trial.observe(at, ended, &attempt) {
                    Verdict::Healthy => prop_assert!(row >= successes.max(1)),
                    Verdict::Unhealthy(_) => {
                        prop_assert!(row < successes.max(1));
                        prop_assert!(at + ms(interval).max(SHORTEST_INTERVAL) >= ms(within) || ended >= ms(within));
                    }
                    Verdict::NotYet { next_at } => {
                        prop_assert!(row < successes.max(1));
                        prop_assert!(next_at >= ended && next_at > at && next_at < ms(within));
                        at = next_at;
                        continue;
                    }
                }
                prop_assert!(ended <= ms(within) + ms(timeout), "decided at {ended:?}");
                decided = true;
                break;
            }
            prop_assert!(decided);
        }
    }
}
