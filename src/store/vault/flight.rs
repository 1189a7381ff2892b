//! Equal reads under way share one request.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};

use crate::secret::Reading;
use crate::store::StoreError;

type Outcome = Result<Option<Reading>, StoreError>;
type Flight = BoxFuture<'static, Outcome>;

/// Reads under way, by what they ask.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<String, WeakShared<Flight>>>);

impl Flights {
    /// Joins the read of this name, or begins it. It goes on for as long as anybody waits for it.
    pub fn join(&self, name: String, begin: impl FnOnce() -> Flight) -> Shared<Flight> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is done is not joined: its answer is of before.
        let under_way = flights.get(&name).and_then(WeakShared::upgrade).filter(|flight| flight.peek().is_none());
        if let Some(flight) = under_way {
            return flight;
        }
        flights.retain(|_, flight| flight.upgrade().is_some_and(|flight| flight.peek().is_none()));
        let flight = begin().shared();
        if let Some(weak) = flight.downgrade() {
            flights.insert(name, weak);
        }
        flight
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn equal_reads_under_way_share_one_request_and_later_ones_ask_anew() {
        let flights = Flights::default();
        let asked = Arc::new(AtomicU32::new(0));
        let read = |name: &str| {
            let asked = Arc::clone(&asked);
            flights.join(name.to_owned(), || {
                Box::pin(async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    asked.fetch_add(1, Ordering::Relaxed);
                    Ok(None)
                })
            })
        };
        let (a, b, c) = tokio::join!(read("x"), read("x"), read("y"));
        assert!(a.is_ok() && b.is_ok() && c.is_ok());
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        drop(tokio::time::timeout(Duration::from_millis(1), read("x")).await);
        assert!(read("x").await.is_ok());
        assert_eq!(asked.load(Ordering::Relaxed), 3, "one that everybody left is not joined");
    }
}
