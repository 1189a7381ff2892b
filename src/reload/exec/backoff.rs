//! When a supervised process that died by itself is started anew. Pure.

use std::time::Duration;

use crate::reload::RESTART_BACKOFF;

/// How long to wait, given how long was waited the last time (None: it has not died before) and how long the process
/// lived since: 1 s, doubling to 60 s, and 1 s again after 60 s of life.
pub fn next_restart(waited: Option<Duration>, lived: Duration) -> Duration {
    let (first, longest) = RESTART_BACKOFF;
    match waited {
        Some(waited) if lived < longest => waited.saturating_mul(2).clamp(first, longest),
        _ => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_to_a_minute_and_a_minute_of_life_resets_it() {
        let crash = Duration::from_millis(10);
        let mut waited = None;
        let mut seconds = Vec::new();
        for _ in 0..9 {
            let next = next_restart(waited, crash);
            seconds.push(next.as_secs());
            waited = Some(next);
        }
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(next_restart(waited, Duration::from_secs(59)).as_secs(), 60);
        assert_eq!(next_restart(waited, Duration::from_secs(60)).as_secs(), 1);
        assert_eq!(next_restart(Some(Duration::MAX), crash).as_secs(), 60);
    }
}
