//! Who the agent is to AWS: asked of STS (of the store's region) once AWS has answered or denied something, and logged once.
//! Falling through to the node's role would be silent otherwise.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::client::{Client, Failed};
use super::judge::{self, Meaning, Refusal};
use super::reader::{Outcome, Reader};
use crate::schedule::Backoff;
use crate::store::StoreErrorKind;

/// Between questions that STS does not answer.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// What became of asking.
#[derive(Default)]
pub(super) struct Asking(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Due,
    UnderWay(Option<Backoff>),
    /// STS did not answer.
    Failed(Backoff, Timestamp),
    /// Known, or denied for good.
    Settled,
}

impl Asking {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is to be asked now; then it is under way.
    fn begin(&self, now: Timestamp) -> bool {
        let mut state = self.lock();
        let before = match &*state {
            State::Due => None,
            State::Failed(backoff, next) if now >= *next => Some(backoff.clone()),
            _ => return false,
        };
        *state = State::UnderWay(before);
        true
    }

    /// It failed, and may go better later. Answers whether it is the first time.
    fn failed(&self, now: Timestamp, die: f64) -> bool {
        let mut state = self.lock();
        let before = if let State::UnderWay(before) = &*state { before.clone() } else { None };
        let mut backoff = before.unwrap_or_else(|| Backoff::new(BACKOFF.0, BACKOFF.1));
        let next = now.checked_add(backoff.fail(die, None)).unwrap_or(now);
        let first = backoff.failures() == 1;
        *state = State::Failed(backoff, next);
        first
    }

    fn settle(&self) {
        *self.lock() = State::Settled;
    }
}

/// Once AWS has said something to this identity, asks it in the background who this is.
pub(super) fn identify(reader: &Arc<Reader>, outcome: &Outcome) {
    let heard = |found: &Result<_, crate::store::StoreError>| match found {
        Ok(_) => true,
        Err(error) => error.kind == StoreErrorKind::Denied,
    };
    if !outcome.values().any(heard) || !reader.client.asking.begin(reader.now()) {
        return;
    }
    let reader = Arc::clone(reader);
    tokio::spawn(async move {
        let client = &reader.client;
        match client.learn_identity().await {
            Ok(_) => client.asking.settle(),
            Err(failed) if failed.meaning == Some(Meaning::Denied) => {
                client.asking.settle();
                tracing::info!(store = %client.store, "which AWS identity this is stays unknown: {}", failed.error);
            }
            Err(failed) => {
                if client.asking.failed(reader.now(), (client.senses.dice)()) && failed.meaning.is_some() {
                    tracing::info!(store = %client.store, "which AWS identity this is, is asked again: {}", failed.error);
                }
            }
        }
    });
}

impl Client {
    /// The identity's ARN.
    pub async fn learn_identity(&self) -> Result<String, Failed> {
        const WHAT: &str = "the identity";
        if let Some(known) = self.identity.get() {
            return Ok(known.clone());
        }
        let connection = self.connection(WHAT).await.map_err(|error| Failed::of(error, None))?;
        self.count("GetCallerIdentity");
        let refusal = match aws_sdk_sts::Client::new(&connection.sdk).get_caller_identity().send().await {
            Ok(answer) => match answer.arn {
                Some(arn) => {
                    if self.identity.set(arn.clone()).is_ok() {
                        tracing::info!(store = %self.store, identity = %arn, "acting as this AWS identity");
                    }
                    return Ok(arn);
                }
                None => Refusal::of_code("", "no ARN"),
            },
            Err(error) => judge::refusal(error),
        };
        let region = connection.places.first().map_or("", |place| place.region.as_str());
        let error = judge::error(&self.store, region, "GetCallerIdentity", WHAT, &refusal);
        Err(Failed::of(error, Some(refusal.meaning)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn it_is_asked_until_it_is_known_and_ever_more_seldom_while_sts_fails() {
        let asking = Asking::default();
        assert!(asking.begin(at(0)) && !asking.begin(at(0)), "one at a time");
        assert!(asking.failed(at(0), 1.0), "the first failure is told");
        assert!(!asking.begin(at(1)) && asking.begin(at(2)));
        assert!(!asking.failed(at(2), 1.0), "the second is not");
        assert!(!asking.begin(at(5)) && asking.begin(at(6)));
        asking.settle();
        assert!(!asking.begin(at(100_000)));
    }
}
