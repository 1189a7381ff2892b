//! Times and durations as people say them.

use jiff::{SignedDuration, Timestamp};

/// The two largest units: `2d 3h`, `5m 12s`, `12s`; under ten seconds to the tenth; a negative one counts as none.
pub(super) fn duration(length: SignedDuration) -> String {
    const UNITS: [(i64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let seconds = length.as_secs().max(0);
    if seconds < 10 {
        let tenths = length.as_millis().max(0) / 100;
        return match tenths % 10 {
            0 => format!("{}s", tenths / 10),
            rest => format!("{}.{rest}s", tenths / 10),
        };
    }
    let first = UNITS.iter().position(|(unit, _)| seconds >= *unit).unwrap_or(UNITS.len() - 1);
    let mut rest = seconds;
    let mut words = Vec::new();
    for (unit, letter) in UNITS.iter().skip(first).take(2) {
        if rest / unit > 0 {
            words.push(format!("{}{letter}", rest / unit));
        }
        rest %= unit;
    }
    words.join(" ")
}

/// The largest unit alone: `2d ago`, `in 3m`, `now`.
pub(super) fn relative(at: Timestamp, now: Timestamp) -> String {
    let distance = at.duration_since(now);
    let length = duration(SignedDuration::from_secs(distance.abs().as_secs()));
    let largest = length.split(' ').next().unwrap_or_default();
    match distance.as_secs() {
        0 => "now".to_owned(),
        1.. => format!("in {largest}"),
        _ => format!("{largest} ago"),
    }
}

/// The same, or a dash.
pub(super) fn maybe_relative(at: Option<Timestamp>, now: Timestamp) -> String {
    at.map_or_else(|| "-".to_owned(), |at| relative(at, now))
}

/// `2026-11-20 12:39:25Z`.
pub(super) fn moment(at: Timestamp) -> String {
    format!("{at:.0}").replace('T', " ")
}

/// `1 secret`, `2 secrets`.
pub(super) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (millis, says) in [
            (0, "0s"),
            (340, "0.3s"),
            (9_999, "9.9s"),
            (10_999, "10s"),
            (60_000, "1m"),
            (312_000, "5m 12s"),
            (3_600_000, "1h"),
            (3_659_000, "1h"),
            (183_600_000, "2d 3h"),
            (-5, "0s"),
        ] {
            assert_eq!(duration(SignedDuration::from_millis(millis)), says, "{millis}");
        }
    }

    #[test]
    fn times_are_relative() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (offset, says) in [(0, "now"), (190, "in 3m"), (-172_800, "2d ago"), (-5, "5s ago")] {
            assert_eq!(relative(Timestamp::from_second(1_000_000 + offset).unwrap(), now), says);
        }
        assert_eq!(moment(now), "1970-01-12 13:46:40Z");
    }
}
