//! When to act: settle, splay, backoff, the next read, the next step of a lease.
//!
//! Pure. Instants are [`Duration`]s since one origin that the caller chose and keeps (monotonic); a die is a number in
//! `[0, 1)`, drawn by the caller. Anything outside is taken for its nearest bound, NaN for the middle.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::config::model::Settle;
use crate::secret::Lease;

/// The longest that a store's `retry_after` is honoured: an answer cannot silence the agent for a day.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);
/// The shortest wait between two reads that an `expires_at` can cause.
pub const EXPIRY_FLOOR: Duration = Duration::from_secs(1);
/// How long before an announced rotation the reads become frequent: the date is rounded to the hour, and the rotation may
/// come before it.
pub const ROTATION_LEAD: Duration = Duration::from_secs(30 * 60);
/// How long after it they stay so: the rotation comes some time in a window that the date begins.
pub const ROTATION_TAIL: Duration = Duration::from_secs(60 * 60);
/// How often is read around an announced rotation, however seldom the poll: so long a rotation stays unnoticed then.
pub const ROTATION_POLL: Duration = Duration::from_secs(30);
/// How often values are read that should have ended and that nothing polls.
pub const EXPIRED_POLL: Duration = Duration::from_secs(60);

/// A random wait in `[0, upper)`, so that a fleet does not move at once.
pub fn splay(upper: Duration, die: f64) -> Duration {
    part(upper, fair(die))
}

/// Changes that arrive together, waiting to be acted on once.
#[derive(Clone, Debug, Default)]
pub struct Settling {
    burst: Option<Burst>,
}

#[derive(Clone, Copy, Debug)]
struct Burst {
    first: Duration,
    last: Duration,
    splay: Duration,
}

impl Settling {
    /// A change at `now`. `splay` (see [`splay`]) counts for the first of a burst only.
    pub fn change(&mut self, now: Duration, splay: Duration) {
        match &mut self.burst {
            Some(burst) => burst.last = burst.last.max(now),
            None => self.burst = Some(Burst { first: now, last: now, splay }),
        }
    }

    /// When to act: after `min` of quiet, at most `max` after the first change, and the burst's splay later.
    /// None: nothing changed.
    pub fn due(&self, settle: Settle) -> Option<Duration> {
        let burst = self.burst?;
        let quiet = burst.last.saturating_add(settle.min);
        let bound = burst.first.saturating_add(settle.max);
        Some(quiet.min(bound).saturating_add(burst.splay))
    }

    /// The burst was acted on.
    pub fn done(&mut self) {
        self.burst = None;
    }
}

/// Waits between attempts that fail: full jitter between a floor and a ceiling that doubles up to a cap.
#[derive(Clone, Debug)]
pub struct Backoff {
    floor: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits of at least `floor` (itself at least 1 ms) and at most `cap` (at least the floor).
    pub fn new(floor: Duration, cap: Duration) -> Self {
        let floor = floor.max(Duration::from_millis(1));
        Self { floor, cap: cap.max(floor), failures: 0 }
    }

    /// The upper bound of the next wait, before any `retry_after`.
    pub fn ceiling(&self) -> Duration {
        let factor = 2_u32.checked_pow(self.failures.saturating_add(1)).unwrap_or(u32::MAX);
        self.floor.saturating_mul(factor).min(self.cap)
    }

    /// One more failure: how long to wait. Never shorter than `retry_after` (bounded by [`RETRY_AFTER_MAX`]), on top of
    /// which come up to 10 %, so that those who were turned away together do not come back together.
    pub fn fail(&mut self, die: f64, retry_after: Option<Duration>) -> Duration {
        let die = fair(die);
        let wait = self.floor.saturating_add(part(self.ceiling().saturating_sub(self.floor), die));
        self.failures = self.failures.saturating_add(1);
        let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        wait.max(asked.saturating_add(part(asked, die / 10.0)))
    }

    /// Failures in a row so far.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// It succeeded: the next failure starts from the floor.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// How long after a good read to read again: `poll` give or take 10 %, sooner where the values end before (at 80 to
/// 90 % of what remains). None: there is no reason to read but a change.
pub fn next_read(poll: Option<Duration>, expires_in: Option<Duration>, die: f64) -> Option<Duration> {
    let die = fair(die);
    let polled = poll.map(|poll| part(poll, 0.9 + die / 5.0).max(Duration::from_millis(1)));
    let expiring = expires_in.map(|left| match left.is_zero() {
        true => part(EXPIRED_POLL, 0.9 + die / 5.0),
        false => part(left, 0.8 + die / 10.0).max(EXPIRY_FLOOR),
    });
    match (polled, expiring, expires_in) {
        (Some(polled), Some(_), Some(Duration::ZERO)) => Some(polled),
        (Some(polled), Some(expiring), _) => Some(polled.min(expiring)),
        (polled, expiring, _) => polled.or(expiring),
    }
}

/// How long until the next read that a rotation asks for, which a store has announced for about `announced` (wall times,
/// both): until [`ROTATION_LEAD`] before it, then [`ROTATION_POLL`] until [`ROTATION_TAIL`] after it. None: that is over, and
/// the announcement is stale. The poll goes on beside this, and does not matter here.
///
/// Source: AWS Secrets Manager, `DescribeSecret`: `NextRotationDate` is rounded to the hour, and the secret is rotated on or
/// before it, or within the rotation window that it begins.
pub fn around_rotation(announced: Timestamp, now: Timestamp) -> Option<Duration> {
    let signed = |length: Duration| SignedDuration::try_from(length).unwrap_or(SignedDuration::MAX);
    let ahead = announced.duration_since(now);
    if ahead > signed(ROTATION_LEAD) {
        return Some(Duration::try_from(ahead).unwrap_or_default().saturating_sub(ROTATION_LEAD));
    }
    (-ahead <= signed(ROTATION_TAIL)).then_some(ROTATION_POLL)
}

/// How long until the first of what is then done every so often: anywhere within, its first tenth aside. Those who begin
/// together (a fleet that is deployed) are spread out from then on; jitter alone takes hours to do that.
pub fn first_after(every: Duration, die: f64) -> Duration {
    part(every, 0.1 + 0.9 * fair(die))
}

/// What a lease asks for next, and when (since the caller's origin).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseAction {
    /// It ended, or never was one: read anew.
    ReadAt(Duration),
    /// Renew it.
    RenewAt(Duration),
    /// It cannot be renewed, or no longer usefully: put another in its place before it ends.
    ReplaceAt(Duration),
}

/// The next step of a lease that was granted (or last renewed) at `granted_at`.
///
/// A renewable one is renewed at two thirds of what remains, less 10 to 20 %; one that is not renewable, or of which less
/// than a tenth is left, is replaced at 80 to 90 % of its time. Never after its end.
pub fn next_action(lease: &Lease, granted_at: Duration, now: Duration, die: f64) -> LeaseAction {
    let die = fair(die);
    let end = granted_at.saturating_add(lease.duration);
    let left = end.saturating_sub(now);
    if left.is_zero() {
        return LeaseAction::ReadAt(now);
    }
    if lease.renewable && left > lease.duration / 10 {
        return LeaseAction::RenewAt(now.saturating_add(part(left, (0.8 + die / 10.0) * 2.0 / 3.0)));
    }
    let replace = granted_at.saturating_add(part(lease.duration, 0.8 + die / 10.0));
    LeaseAction::ReplaceAt(replace.max(now).min(end))
}

/// How long to use values that end in `left` and cannot be renewed (a certificate): 65 to 75 % of it.
pub fn replace_after(left: Duration, die: f64) -> Duration {
    part(left, 0.65 + fair(die) / 10.0)
}

fn fair(die: f64) -> f64 {
    if die.is_nan() { 0.5 } else { die.clamp(0.0, 1.0) }
}

/// `whole` times a fraction that is never negative; saturates where `Duration::mul_f64` would panic.
fn part(whole: Duration, fraction: f64) -> Duration {
    Duration::try_from_secs_f64(whole.as_secs_f64() * fraction).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_burst_is_acted_on_after_quiet_and_at_the_latest_after_max() {
        let settle = Settle { min: secs(2), max: secs(10) };
        let mut settling = Settling::default();
        assert_eq!(settling.due(settle), None);
        settling.change(secs(100), Duration::ZERO);
        assert_eq!(settling.due(settle), Some(secs(102)));
        settling.change(secs(101), secs(5));
        assert_eq!(settling.due(settle), Some(secs(103)), "the splay of a later change must not count");
        for second in 102..120 {
            settling.change(secs(second), Duration::ZERO);
        }
        assert_eq!(settling.due(settle), Some(secs(110)));
        settling.done();
        assert_eq!(settling.due(settle), None);
        settling.change(secs(200), secs(7));
        assert_eq!(settling.due(settle), Some(secs(209)));
    }

    #[test]
    fn reads_follow_the_poll_and_come_before_the_end() {
        assert_eq!(next_read(None, None, 0.5), None);
        assert_eq!(next_read(Some(secs(100)), None, 0.0), Some(secs(90)));
        assert_eq!(next_read(Some(secs(100)), Some(secs(50)), 0.0), Some(secs(40)));
        assert_eq!(next_read(None, Some(Duration::ZERO), 0.5), Some(EXPIRED_POLL));
        assert_eq!(next_read(Some(secs(600)), Some(Duration::ZERO), 0.5), Some(secs(600)));
        assert_eq!(first_after(secs(100), 0.0), secs(10));
        assert_eq!(first_after(secs(100), 1.0), secs(100));
    }

    #[test]
    fn an_announced_rotation_is_read_for_often_from_before_it_until_after_it() {
        let announced = Timestamp::from_second(1_800_000_000).unwrap();
        let at = |second: i64| around_rotation(announced, announced + SignedDuration::from_secs(second));
        let (lead, tail) = (-30 * 60, 60 * 60);
        assert_eq!(at(-30 * 86_400), Some(secs(30 * 86_400 - 1800)), "a month ahead it costs one read");
        assert_eq!(at(lead - 1), Some(secs(1)));
        assert_eq!([at(lead), at(lead + 1), at(0), at(tail - 1), at(tail)], [Some(ROTATION_POLL); 5]);
        assert_eq!(at(tail + 1), None);
        assert_eq!(around_rotation(Timestamp::MIN, Timestamp::MAX), None);
        assert!(around_rotation(Timestamp::MAX, Timestamp::MIN) > Some(secs(1 << 38)));
    }

    #[test]
    fn a_lease_is_renewed_replaced_and_read_anew_in_turn() {
        let lease = |renewable| Lease { id: "l".into(), duration: secs(90), renewable };
        assert_eq!(next_action(&lease(true), secs(10), secs(10), 0.0), LeaseAction::RenewAt(secs(58)));
        assert_eq!(next_action(&lease(false), secs(10), secs(10), 0.0), LeaseAction::ReplaceAt(secs(82)));
        assert_eq!(next_action(&lease(true), secs(10), secs(95), 0.0), LeaseAction::ReplaceAt(secs(95)));
        assert_eq!(next_action(&lease(true), secs(10), secs(100), 0.0), LeaseAction::ReadAt(secs(100)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn backoff_is_never_zero_stays_in_its_bounds_and_its_ceiling_never_falls(
            floor in 0_u64..5_000, cap in 0_u64..600_000, dice in prop::collection::vec(any::<f64>(), 1..80),
            asked in prop::option::of(0_u64..10_000_000),
        ) {
            let asked = asked.map(Duration::from_millis);
            let mut backoff = Backoff::new(Duration::from_millis(floor), Duration::from_millis(cap));
            let mut ceiling = Duration::ZERO;
            let (least, most) = (backoff.floor, backoff.cap.max(RETRY_AFTER_MAX.mul_f64(1.1)));
            for die in dice {
                prop_assert!(backoff.ceiling() >= ceiling);
                ceiling = backoff.ceiling();
                prop_assert!(ceiling <= backoff.cap);
                let wait = backoff.fail(die, asked);
                prop_assert!(!wait.is_zero() && wait >= least && wait <= most, "{wait:?}");
                if asked.is_none() { prop_assert!(wait <= ceiling) }
                if let Some(asked) = asked { prop_assert!(wait >= asked.min(RETRY_AFTER_MAX)) }
            }
            backoff.reset();
            prop_assert_eq!(backoff.failures(), 0);
        }

        #[test]
        fn the_settle_never_waits_longer_than_max_and_never_acts_in_the_past(
            min in 0_u64..1_000, max in 0_u64..5_000, gaps in prop::collection::vec(0_u64..900, 1..40),
        ) {
            let settle = Settle { min: Duration::from_millis(min), max: Duration::from_millis(max) };
            let mut settling = Settling::default();
            let (mut now, mut first) = (secs(9), None);
            for gap in gaps {
                now += Duration::from_millis(gap);
                settling.change(now, Duration::ZERO);
                let first = *first.get_or_insert(now);
                let due = settling.due(settle).expect("a change waits");
                prop_assert!(due >= first && due <= first + settle.max);
                prop_assert!(due <= now + settle.min);
            }
        }

        #[test]
        fn a_lease_is_never_left_to_end(
            duration in 1_u64..1_000_000, age in 0_u64..2_000_000, renewable: bool, die in any::<f64>(),
        ) {
            let lease = Lease { id: String::new(), duration: Duration::from_millis(duration), renewable };
            let now = secs(5) + Duration::from_millis(age);
            let end = secs(5) + lease.duration;
            match next_action(&lease, secs(5), now, die) {
                LeaseAction::ReadAt(at) => prop_assert!(at == now && now >= end),
                LeaseAction::RenewAt(at) => prop_assert!(renewable && at >= now && at < end),
                LeaseAction::ReplaceAt(at) => prop_assert!(at >= now && at <= end),
            }
        }

        #[test]
        fn a_poll_strays_at_most_a_tenth(poll in 1_u64..10_000_000, die in any::<f64>()) {
            let poll = Duration::from_millis(poll);
            let wait = next_read(Some(poll), None, die).expect("a poll reads again");
            prop_assert!(!wait.is_zero());
            prop_assert!(wait >= poll.mul_f64(0.899) || wait >= Duration::from_millis(1));
            prop_assert!(wait <= poll.mul_f64(1.101) + Duration::from_millis(1));
        }
    }
}
