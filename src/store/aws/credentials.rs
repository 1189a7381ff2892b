//! Credentials of the SDK's chain on their way to the signer: kept until they are about to end, and the log's mask learns
//! them first. They are loaded before a request begins, so that a chain that takes its time (a process, STS) is not taken
//! for an AWS that does not answer.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::aws_identity::{self, Error};
use crate::secret::SecretBytes;
use crate::store::{Known, Senses};

/// Sets of credentials that stay masked: those in use and those before.
const KEPT: usize = 2;
/// How long before their end others are asked for.
const SPARE: Duration = Duration::from_secs(30);
/// How long those without an end are kept: a file may have others by then.
const KEPT_FOR: Duration = Duration::from_secs(15 * 60);
/// How long a failure stands for those who ask: they came while it happened, or come together.
const FAILED_FOR: Duration = Duration::from_secs(1);

/// Keys and session tokens that no log may show.
pub(super) type Masked = Arc<std::sync::Mutex<Vec<Known>>>;

/// The chain, kept and listened to.
#[derive(Clone)]
pub(super) struct Learning(Arc<Inner>);

struct Inner {
    chain: SharedCredentialsProvider,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    learn: Arc<dyn Fn(&SecretBytes) -> Known + Send + Sync>,
    masked: Masked,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// With the time at which they came.
    credentials: Option<(Credentials, SystemTime)>,
    failed: Option<(Error, Instant)>,
}

impl Held {
    /// Nobody else is asked yet.
    fn fresh(&self, now: SystemTime) -> bool {
        self.credentials.as_ref().is_some_and(|(found, came)| match found.expiry() {
            Some(ends) => ends > now + SPARE,
            // A clock that was set back makes them old.
            None => now.duration_since(*came).is_ok_and(|age| age < KEPT_FOR),
        })
    }

    /// AWS would take them.
    fn good(&self, now: SystemTime) -> bool {
        self.credentials.as_ref().is_some_and(|(found, _)| found.expiry().is_none_or(|ends| ends > now))
    }
}

impl Learning {
    pub fn new(chain: SharedCredentialsProvider, senses: &Senses, masked: Masked) -> Self {
        let (clock, learn) = (Arc::clone(&senses.clock), Arc::clone(&senses.learn));
        Self(Arc::new(Inner { chain, clock, learn, masked, held: Mutex::default() }))
    }

    pub fn shared(&self) -> SharedCredentialsProvider {
        SharedCredentialsProvider::new(self.clone())
    }

    /// Credentials are there: the chain is asked where there are none, or they are about to end.
    ///
    /// # Errors
    /// The chain's, unless those that are held are still good.
    pub async fn ready(&self) -> Result<(), Error> {
        let since = Instant::now();
        let mut held = self.0.held.lock().await;
        let now = SystemTime::from((self.0.clock)());
        if held.fresh(now) {
            return Ok(());
        }
        let failed = match &held.failed {
            Some((error, at)) if *at + FAILED_FOR >= since => Err(error.clone()),
            _ => aws_identity::load(&self.0.chain).await,
        };
        match failed {
            Ok(found) => {
                self.0.mask(&found);
                *held = Held { credentials: Some((found, now)), failed: None };
                Ok(())
            }
            Err(error) => {
                held.failed = Some((error.clone(), Instant::now()));
                if held.good(now) { Ok(()) } else { Err(error) }
            }
        }
    }
}

impl Inner {
    fn mask(&self, found: &Credentials) {
        let mut secrets = vec![SecretBytes::from(found.secret_access_key()), SecretBytes::from(found.access_key_id())];
        secrets.extend(found.session_token().map(SecretBytes::from));
        let learnt: Known = Box::new(secrets.iter().map(|secret| (self.learn)(secret)).collect::<Vec<_>>());
        let mut masked = self.masked.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if masked.len() >= KEPT {
            masked.remove(0);
        }
        masked.push(learnt);
    }
}

impl fmt::Debug for Learning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Learning")
    }
}

impl ProvideCredentials for Learning {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            // Whether they are over is AWS's to say, as soon as a request is under way: clocks differ.
            if self.0.held.lock().await.credentials.is_none() {
                self.ready().await.map_err(CredentialsError::provider_error)?;
            }
            let held = self.0.held.lock().await;
            let found = held.credentials.as_ref().map(|(found, _)| found.clone());
            found.ok_or_else(|| CredentialsError::not_loaded("nothing came"))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as Lock;

    use super::*;
    use crate::aws_identity::Identity;

    /// Each answer once, the last one for ever; each after a while.
    #[derive(Debug)]
    struct Chain(Lock<Vec<Result<Option<u64>, ()>>>);

    impl ProvideCredentials for Chain {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::new(async {
                tokio::time::sleep(Duration::from_secs(20)).await;
                let mut answers = self.0.lock().expect("unpoisoned");
                let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0] };
                let ends = answer.map_err(|()| CredentialsError::provider_error("no"))?;
                let ends = ends.map(|second| SystemTime::UNIX_EPOCH + Duration::from_secs(second));
                Ok(Credentials::new("AKID", "secret", Some(format!("{ends:?}")), ends, "test"))
            })
        }
    }

    fn learning(answers: &[Result<Option<u64>, ()>], now: &Arc<Lock<i64>>) -> Learning {
        let now = Arc::clone(now);
        let senses = Senses {
            clock: Arc::new(move || Timestamp::from_second(*now.lock().expect("unpoisoned")).expect("a time")),
            dice: Arc::new(|| 0.5),
            learn: Arc::new(|_| Box::new(())),
            aws: Arc::new(Identity::chain()),
            home: None,
        };
        let chain = SharedCredentialsProvider::new(Chain(Lock::new(answers.to_vec())));
        Learning::new(chain, &senses, Masked::default())
    }

    async fn ends(learning: &Learning) -> Option<u64> {
        let found = learning.provide_credentials().await.expect("credentials");
        found.expiry().map(|ends| ends.duration_since(SystemTime::UNIX_EPOCH).expect("a time").as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn they_are_kept_until_they_are_about_to_end() {
        let now = Arc::new(Lock::new(0));
        let learning = learning(&[Ok(Some(100)), Ok(Some(500)), Ok(None)], &now);
        for (at, wanted) in [(0, Some(100)), (69, Some(100)), (70, Some(500)), (469, Some(500)), (470, None)] {
            *now.lock().expect("unpoisoned") = at;
            assert_eq!((learning.ready().await, ends(&learning).await), (Ok(()), wanted), "at {at}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_without_an_end_are_looked_for_again_and_stay_where_none_come() {
        let now = Arc::new(Lock::new(0));
        let learning = learning(&[Ok(None), Err(()), Ok(Some(10_000))], &now);
        for (at, wanted) in [(0, None), (899, None), (900, None), (901, Some(10_000))] {
            *now.lock().expect("unpoisoned") = at;
            tokio::time::sleep(FAILED_FOR * 2).await;
            assert_eq!((learning.ready().await, ends(&learning).await), (Ok(()), wanted), "at {at}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_cannot_be_replaced_are_used_to_their_end() {
        let now = Arc::new(Lock::new(0));
        let learning = learning(&[Ok(Some(100)), Err(())], &now);
        for (at, good) in [(0, true), (80, true), (99, true), (100, false)] {
            *now.lock().expect("unpoisoned") = at;
            assert_eq!(learning.ready().await.is_ok(), good, "at {at}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_for_a_failure_do_not_repeat_it() {
        let now = Arc::new(Lock::new(0));
        let learning = learning(&[Err(()), Ok(None)], &now);
        let began = Instant::now();
        let all = futures_util::future::join_all((0..20).map(|_| learning.ready())).await;
        assert!(all.iter().all(Result::is_err) && began.elapsed() < Duration::from_secs(21));
        assert!(learning.ready().await.is_err(), "right after it");
        tokio::time::sleep(FAILED_FOR * 2).await;
        assert_eq!(learning.ready().await, Ok(()));
    }
}
