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
