//! Which token made which lease: a lease dies with its token, and no answer about a lease says so. Pure: `now` counts from
//! any origin, `wall` is the same moment on the clock.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::saved::Held;
use super::token::Life;

/// See the module.
#[derive(Default)]
pub(super) struct Owners {
    /// None: it goes on for as long as it is renewed, as far as anybody knows.
    ends: BTreeMap<String, Option<Duration>>,
    leases: BTreeMap<String, Held>,
}

impl Owners {
    /// A token's life as it stands. One whose renewals still lengthen it has no end that a lease should fear: the lease's
    /// holder would replace credentials every time the token is due, for nothing. When it stops going on, its end counts.
    pub fn token(&mut self, token: &str, life: &Life) {
        self.ends(token, life.end.filter(|_| !life.renewable));
    }

    /// A token ends then.
    pub fn ends(&mut self, token: &str, end: Option<Duration>) {
        self.ends.insert(token.to_owned(), end);
    }

    /// A token made a lease of this duration.
    pub fn made(&mut self, lease: &str, token: &str, granted: Duration) {
        let held = Held { token: token.to_owned(), seconds: granted.as_secs() };
        self.leases.insert(lease.to_owned(), held);
    }

    /// A lease is gone.
    pub fn gone(&mut self, lease: &str) {
        if let Some(held) = self.leases.remove(lease)
            && !self.leases.values().any(|other| other.token == held.token)
            && self.ends.get(&held.token).is_some_and(Option::is_some)
        {
            self.ends.remove(&held.token);
        }
    }

    /// What was granted to a lease at first.
    pub fn granted(&self, lease: &str) -> Option<Duration> {
        self.leases.get(lease).map(|held| Duration::from_secs(held.seconds))
    }

    /// `duration` of a lease, or what is left of its token.
    pub fn capped(&self, lease: &str, duration: Duration, now: Duration) -> Duration {
        let end = self.leases.get(lease).and_then(|held| *self.ends.get(&held.token)?);
        end.map_or(duration, |end| duration.min(end.saturating_sub(now)))
    }

    /// As it outlives the process.
    pub fn save(
        &self,
        now: Duration,
        wall: Timestamp,
    ) -> (BTreeMap<String, Option<Timestamp>>, BTreeMap<String, Held>) {
        let at = |end: Duration| {
            let left = SignedDuration::try_from(end.saturating_sub(now)).unwrap_or(SignedDuration::MAX);
            wall.checked_add(left).unwrap_or(Timestamp::MAX)
        };
        let ends = self.ends.iter().map(|(token, end)| (token.clone(), end.map(at))).collect();
        (ends, self.leases.clone())
    }

    pub fn resume(
        ends: BTreeMap<String, Option<Timestamp>>,
        leases: BTreeMap<String, Held>,
        now: Duration,
        wall: Timestamp,
    ) -> Self {
        let at = |end: Timestamp| now + Duration::try_from(end.duration_since(wall)).unwrap_or_default();
        Self { ends: ends.into_iter().map(|(token, end)| (token, end.map(at))).collect(), leases }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn life(end: u64, renewable: bool) -> Life {
        Life { end: Some(S(end)), due: None, renewable, first: S(end) }
    }

    #[test]
    fn a_lease_ends_with_its_token_once_that_stops_going_on() {
        let mut owners = Owners::default();
        owners.token("t", &life(100, true));
        owners.made("l", "t", S(3600));
        assert_eq!(owners.capped("l", S(3600), S(10)), S(3600), "a token that is renewed outlives it");
        owners.token("t", &life(100, false));
        assert_eq!(owners.capped("l", S(3600), S(10)), S(90));
        assert_eq!(owners.capped("l", S(50), S(10)), S(50));
        assert_eq!(owners.capped("l", S(50), S(110)), S(0));
        assert_eq!(owners.capped("unknown", S(50), S(110)), S(50));
    }

    #[test]
    fn a_restart_keeps_who_made_what_and_until_when() {
        let wall = Timestamp::UNIX_EPOCH;
        let mut owners = Owners::default();
        owners.token("t", &life(100, false));
        owners.token("u", &life(100, true));
        owners.made("l", "t", S(60));
        owners.made("m", "u", S(60));
        let (ends, leases) = owners.save(S(40), wall);
        let later = wall + SignedDuration::from_secs(20);
        let owners = Owners::resume(ends, leases, S(5), later);
        assert_eq!(owners.capped("l", S(3600), S(5)), S(40));
        assert_eq!(owners.capped("m", S(3600), S(5)), S(3600));
        assert_eq!(owners.granted("l"), Some(S(60)));
    }
}
