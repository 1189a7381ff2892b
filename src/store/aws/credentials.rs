//! Credentials of the SDK's chain on their way to the signer: the log's mask learns them first.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};

use crate::secret::SecretBytes;
use crate::store::Known;

/// Sets of credentials that stay masked: those in use and those before.
const KEPT: usize = 2;

type Learn = Arc<dyn Fn(&SecretBytes) -> Known + Send + Sync>;

/// The chain, listened to.
pub(super) struct Learning {
    chain: SharedCredentialsProvider,
    learn: Learn,
    known: Arc<Mutex<Vec<Known>>>,
}

impl Learning {
    pub fn new(chain: SharedCredentialsProvider, learn: Learn, known: Arc<Mutex<Vec<Known>>>) -> Self {
        Self { chain, learn, known }
    }

    pub fn shared(self) -> SharedCredentialsProvider {
        SharedCredentialsProvider::new(self)
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
            let found = self.chain.provide_credentials().await?;
            let mut secrets =
                vec![SecretBytes::from(found.secret_access_key()), SecretBytes::from(found.access_key_id())];
            secrets.extend(found.session_token().map(SecretBytes::from));
            let learnt: Known = Box::new(secrets.iter().map(|secret| (self.learn)(secret)).collect::<Vec<_>>());
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= KEPT {
                known.remove(0);
            }
            known.push(learnt);
            drop(known);
            Ok(found)
        })
    }
}
