//! The fake's clock.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;

#[derive(Debug)]
enum Source {
    Real,
    Still(Timestamp),
    Tokio(tokio::time::Instant, Timestamp),
}

/// Real, still, or tokio's (paused in simulations); in each case a test may set it ahead. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct Clock(Arc<(Source, Mutex<Duration>)>);

impl Clock {
    /// The machine's time.
    pub fn real() -> Clock {
        Clock::from(Source::Real)
    }

    /// Stands still until it is advanced. Begins on a whole second.
    pub fn still() -> Clock {
        Clock::from(Source::Still(Timestamp::from_second(1_790_000_000).unwrap()))
    }

    /// Runs as `tokio::time::Instant` does, so under paused time as fast as the simulation. Begins on a whole second.
    pub fn tokio() -> Clock {
        Clock::from(Source::Tokio(tokio::time::Instant::now(), Timestamp::from_second(1_790_000_000).unwrap()))
    }

    fn from(source: Source) -> Clock {
        Clock(Arc::new((source, Mutex::new(Duration::ZERO))))
    }

    pub fn now(&self) -> Timestamp {
        let ahead = *self.0.1.lock().unwrap();
        let now = match &self.0.0 {
            Source::Real => Timestamp::now(),
            Source::Still(at) => *at,
            Source::Tokio(start, at) => *at + start.elapsed(),
        };
        now + ahead
    }

    /// Sets it ahead.
    pub fn advance(&self, by: Duration) {
        *self.0.1.lock().unwrap() += by;
    }
}
