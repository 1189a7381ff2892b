use super::*;

const DAY: Duration = Duration::from_secs(86_400);

/// A certificate of 100 days, of an earlier life of the agent, so many days old.
fn certificate(age: u32, now: Now) -> Held {
    let kept = Kept {
        store: "vault".into(),
        place: "pki/issue/web".into(),
        reading: None,
        lease: None,
        granted: Duration::ZERO,
        made: now.wall - age * DAY,
        abandoned: false,
    };
    Held::remembered(kept, Some(now.wall + (100 - age) * DAY), now)
}

#[test]
fn a_restart_does_not_begin_the_life_of_a_certificate_anew() {
    let now = Now { wall: Timestamp::UNIX_EPOCH + 1000 * DAY, mono: Instant::now() };
    for age in [0, 10, 50, 69] {
        let replaced = certificate(age, now).plan(now.mono, 0.5).unwrap() - now.mono;
        let days = (replaced + age * DAY).as_secs_f64() / DAY.as_secs_f64();
        assert!((69.9..70.1).contains(&days), "{age} days old, it is replaced on day {days}");
    }
    let late = certificate(80, now).plan(now.mono, 0.5).unwrap();
    assert_eq!(late, now.mono, "at once");
}

/// A lease of ten days that cannot be renewed, of an earlier life of the agent, so many days old.
fn lease(age: u32, now: Now) -> Held {
    let lease = Lease { id: "database/creds/app/1".into(), duration: 10 * DAY, renewable: false };
    let kept = Kept {
        store: "vault".into(),
        place: "database/creds/app".into(),
        reading: None,
        lease: Some(lease),
        granted: 10 * DAY,
        made: now.wall - age * DAY,
        abandoned: false,
    };
    Held::remembered(kept, Some(now.wall + (10 - age) * DAY), now)
}

#[test]
fn a_restart_does_not_begin_the_life_of_a_lease_that_is_never_renewed_anew() {
    let now = Now { wall: Timestamp::UNIX_EPOCH + 1000 * DAY, mono: Instant::now() };
    for age in [0, 3, 8] {
        let replaced = lease(age, now).plan(now.mono, 0.5).unwrap() - now.mono;
        let days = (replaced + age * DAY).as_secs_f64() / DAY.as_secs_f64();
        assert!((8.4..8.6).contains(&days), "{age} days old, it is replaced on day {days}");
    }
}
