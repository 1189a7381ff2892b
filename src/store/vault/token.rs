//! A token's life: what the server granted, when to renew or replace it. Pure: `now` counts from any origin.

use std::time::Duration;

use serde_json::Value;

/// What the server says of a token, in a login, a renewal (`auth`) or a look-up (`data`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// None: it never ends.
    pub ttl: Option<Duration>,
    pub renewable: bool,
    /// Empty for batch tokens.
    pub accessor: String,
}

impl Grant {
    /// Of `auth` in the answer to a login or renewal.
    pub fn of_auth(auth: &Value) -> Self {
        Self::of(auth, "lease_duration")
    }

    /// Of `data` in the answer of `auth/token/lookup-self`.
    pub fn of_look_up(data: &Value) -> Self {
        Self::of(data, "ttl")
    }

    fn of(value: &Value, ttl: &str) -> Self {
        Self {
            ttl: value[ttl].as_u64().filter(|seconds| *seconds > 0).map(Duration::from_secs),
            renewable: value["renewable"].as_bool().unwrap_or(false),
            accessor: value["accessor"].as_str().unwrap_or_default().to_owned(),
        }
    }
}

/// The life of one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// When it ends; None: never.
    pub end: Option<Duration>,
    /// When to look after it; None: never.
    pub due: Option<Duration>,
    /// Whether renewing it still lengthens its life.
    pub renewable: bool,
    /// What was granted at first: what renewals ask for.
    pub first: Duration,
}

/// What to do about a token now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Care {
    /// Nothing until then; None: ever.
    Rest(Option<Duration>),
    Renew,
    /// Log in anew: this one will not go on.
    Replace,
}

impl Life {
    /// Granted at `now`. `first`: what was granted before, for a token of an earlier life of the agent.
    pub fn new(grant: &Grant, first: Option<Duration>, now: Duration, die: f64) -> Self {
        let Some(ttl) = grant.ttl else {
            return Self { end: None, due: None, renewable: false, first: Duration::ZERO };
        };
        let first = first.unwrap_or(ttl).max(ttl);
        Self { end: Some(now + ttl), due: Some(now + due(ttl, die)), renewable: grant.renewable, first }
    }

    /// After a renewal that granted this. What shrinks to less than half of the first grant is at its maximum, and goes no
    /// further.
    pub fn renewed(&self, grant: &Grant, now: Duration, die: f64) -> Self {
        let renewed = Self::new(grant, Some(self.first), now, die);
        let goes_on = grant.ttl.is_none_or(|ttl| ttl >= self.first / 2);
        Self { renewable: renewed.renewable && goes_on, ..renewed }
    }

    pub fn care(&self, now: Duration) -> Care {
        match self.due {
            Some(due) if due > now => Care::Rest(Some(due - now)),
            Some(_) if self.renewable => Care::Renew,
            Some(_) => Care::Replace,
            None => Care::Rest(None),
        }
    }

    pub fn ended(&self, now: Duration) -> bool {
        self.end.is_some_and(|end| end <= now)
    }
}

/// At two thirds of it, less 10 to 20 %: never at the same share for all agents.
fn due(ttl: Duration, die: f64) -> Duration {
    ttl.mul_f64((0.8 + die.clamp(0.0, 1.0) / 10.0) * 2.0 / 3.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn grant(ttl: u64, renewable: bool) -> Grant {
        Grant::of_auth(&json!({"lease_duration": ttl, "renewable": renewable, "accessor": "a"}))
    }

    #[test]
    fn a_token_is_renewed_at_two_thirds_with_jitter_and_one_without_end_never() {
        for die in [0.0, 0.5, 0.999] {
            let life = Life::new(&grant(3600, true), None, S(100), die);
            let Care::Rest(Some(rest)) = life.care(S(100)) else { panic!("no rest") };
            assert!((S(1900)..S(2200)).contains(&rest), "{rest:?}");
            assert_eq!(life.care(S(100) + rest), Care::Renew);
        }
        assert_eq!(Life::new(&grant(0, true), None, S(0), 0.5).care(S(1 << 30)), Care::Rest(None));
        assert_eq!(Life::new(&grant(60, false), None, S(0), 0.5).care(S(40)), Care::Replace);
    }

    #[test]
    fn a_token_that_nears_its_maximum_is_replaced_while_a_good_part_of_its_life_is_left() {
        let (ttl, max) = (3600, 10_000);
        let mut now = S(0);
        let mut life = Life::new(&grant(ttl, true), None, now, 0.5);
        while life.renewable {
            now = life.due.unwrap();
            life = life.renewed(&grant(ttl.min(max - now.as_secs()), true), now, 0.5);
        }
        let left = life.end.unwrap() - now;
        assert!(left > S(ttl / 6) && left < S(ttl / 2), "{left:?}");
    }

    #[test]
    fn a_periodic_token_goes_on_for_ever() {
        let mut life = Life::new(&grant(60, true), None, S(0), 0.1);
        for _ in 0..1000 {
            let now = life.due.unwrap();
            assert_eq!(life.care(now), Care::Renew);
            life = life.renewed(&grant(60, true), now, 0.9);
        }
    }
}
