//! Requests to Secrets Manager (<https://docs.aws.amazon.com/secretsmanager/latest/apireference/>): one region after the
//! other, once more with new credentials where the old ones have expired, nothing else repeated.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use aws_config::identity::IdentityCache;
use aws_config::timeout::TimeoutConfig;
use aws_config::{Region, SdkConfig};
use aws_sdk_secretsmanager::config::retry::RetryConfig;

use super::credentials::{Learning, Masked};
use super::identity::Asking;
use super::judge::{self, Meaning, Refusal};
use crate::config::model::{AwsStore as Config, Limits, StoreName};
use crate::store::gate::Gate;
use crate::store::{Senses, StoreError, StoreErrorKind};

/// Far below the quotas of an account (BatchGetSecretValue: 100 a second), which a whole fleet shares.
const LIMITS: Limits = Limits { in_flight: 8, per_second: 100 };

/// One region, as it is asked.
pub(super) struct Place {
    pub region: String,
    pub sdk: aws_sdk_secretsmanager::Client,
    gate: Arc<Gate>,
}

/// What one set of credentials opens.
pub(super) struct Connection {
    pub places: Vec<Place>,
    pub sdk: SdkConfig,
    credentials: Option<Learning>,
}

/// The store's side of the API.
pub(super) struct Client {
    pub store: StoreName,
    pub config: Config,
    pub senses: Senses,
    connection: tokio::sync::Mutex<Option<Arc<Connection>>>,
    gates: Mutex<BTreeMap<String, Arc<Gate>>>,
    calls: Mutex<BTreeMap<&'static str, u64>>,
    pub identity: OnceLock<String>,
    pub asking: Asking,
    masked: Masked,
}

impl Client {
    pub fn new(store: StoreName, config: Config, senses: Senses) -> Self {
        Self {
            store,
            config,
            senses,
            connection: tokio::sync::Mutex::default(),
            gates: Mutex::default(),
            calls: Mutex::default(),
            identity: OnceLock::new(),
            asking: Asking::default(),
            masked: Masked::default(),
        }
    }

    /// A connection whose credentials are there: that they are loaded counts for no request's time.
    pub async fn connection(&self, what: &str) -> Result<Arc<Connection>, StoreError> {
        let connection = self.opened().await?;
        let Some(credentials) = &connection.credentials else { return Ok(connection) };
        match credentials.ready().await {
            Ok(()) => Ok(connection),
            Err(why) => {
                let region = connection.places.first().map_or("", |place| place.region.as_str());
                Err(judge::error(&self.store, region, "", what, &Refusal::nobody(&why)))
            }
        }
    }

    /// Opens nothing: the first request does.
    pub async fn opened(&self) -> Result<Arc<Connection>, StoreError> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = &*held {
            return Ok(Arc::clone(connection));
        }
        let connection = Arc::new(self.connect().await?);
        *held = Some(Arc::clone(&connection));
        Ok(connection)
    }

    async fn connect(&self) -> Result<Connection, StoreError> {
        let config = &self.config;
        let first = config.region.as_ref().or(config.regions.first()).map(String::as_str);
        let role = config.role_arn.as_deref();
        let sdk = self.senses.aws.config_as(config.profile.as_deref(), role, first).await;
        let Some(region) = sdk.region().map(|region| region.as_ref().to_owned()) else {
            let text = "no AWS region is known: set region on the store, or AWS_REGION";
            return Err(self.error("", StoreErrorKind::Denied, text));
        };
        let mut builder = sdk.to_builder();
        let credentials =
            sdk.credentials_provider().map(|chain| Learning::new(chain, &self.senses, Arc::clone(&self.masked)));
        builder.set_credentials_provider(credentials.as_ref().map(Learning::shared));
        builder.set_identity_cache(Some(IdentityCache::no_cache()));
        builder.set_retry_config(Some(RetryConfig::disabled()));
        let timeouts = TimeoutConfig::builder().connect_timeout(config.timeout).operation_timeout(config.timeout);
        builder.set_timeout_config(Some(timeouts.build()));
        let sdk = builder.build();
        let mut regions = vec![region];
        regions.extend(config.regions.iter().filter(|region| Some(region.as_str()) != first).cloned());
        let places = regions.into_iter().map(|region| self.place(&sdk, region)).collect();
        Ok(Connection { places, sdk, credentials })
    }

    fn place(&self, sdk: &SdkConfig, region: String) -> Place {
        let mut config = aws_sdk_secretsmanager::config::Builder::from(sdk).region(Some(Region::new(region.clone())));
        if let Some(endpoint) = &self.config.endpoint_url {
            config = config.endpoint_url(endpoint);
        }
        let sdk = aws_sdk_secretsmanager::Client::from_conf(config.build());
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = Arc::clone(gates.entry(region.clone()).or_insert_with(|| Arc::new(Gate::new(LIMITS))));
        Place { region, sdk, gate }
    }

    /// One request about `what`, in the first region that answers.
    ///
    /// # Errors
    /// The first region's, whatever those after it refuse: a replica need not be there, and has policies of its own.
    pub async fn ask<T, F>(
        &self,
        operation: &'static str,
        what: &str,
        send: impl Fn(Arc<Connection>, usize) -> F,
    ) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, Refusal>>,
    {
        let connection = self.connection(what).await.map_err(|error| Failed::of(error, None))?;
        let first = self.ask_places(operation, what, &connection, &send).await;
        let Err(Failed { meaning: Some(Meaning::Expired), .. }) = &first else { return first };
        tracing::info!(store = %self.store, "the AWS credentials are no longer taken: loading them anew");
        self.forget(&connection).await;
        let connection = self.connection(what).await.map_err(|error| Failed::of(error, None))?;
        self.ask_places(operation, what, &connection, &send).await
    }

    /// The credentials of a connection are over: the next request loads them anew.
    pub async fn forget(&self, over: &Arc<Connection>) {
        self.connection.lock().await.take_if(|held| Arc::ptr_eq(held, over));
    }

    async fn ask_places<T, F>(
        &self,
        operation: &'static str,
        what: &str,
        connection: &Arc<Connection>,
        send: &impl Fn(Arc<Connection>, usize) -> F,
    ) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, Refusal>>,
    {
        let mut first: Option<Failed> = None;
        for at in 0..connection.places.len() {
            let failed = match self.ask_place(operation, what, connection, at, send).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            let next = failed.elsewhere;
            match &mut first {
                // Credentials are those of all regions.
                Some(first) if failed.meaning != Some(Meaning::Expired) => {
                    first.error.message += &format!("; {} does not do better", connection.places[at].region);
                }
                _ => first = Some(failed),
            }
            if !next {
                break;
            }
        }
        // There is at least one region.
        Err(first.unwrap_or_else(|| Failed::of(self.error(what, StoreErrorKind::Unavailable, "no region"), None)))
    }

    async fn ask_place<T, F>(
        &self,
        operation: &'static str,
        what: &str,
        connection: &Arc<Connection>,
        at: usize,
        send: &impl Fn(Arc<Connection>, usize) -> F,
    ) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, Refusal>>,
    {
        let place = &connection.places[at];
        let elsewhere = |error| Failed { error, meaning: None, elsewhere: true };
        let refused = |error| elsewhere(judge::about(&self.store, what, error));
        let pass = place.gate.pass().await.map_err(refused)?;
        self.count(operation);
        let refusal = match send(Arc::clone(connection), at).await {
            Ok(answer) => {
                pass.reached();
                return Ok(answer);
            }
            Err(refusal) => refusal,
        };
        tracing::debug!(store = %self.store, region = %place.region, operation, code = %refusal.code, "refused");
        let error = judge::error(&self.store, &place.region, operation, what, &refusal);
        match refusal.meaning {
            Meaning::Down => {
                pass.down(&error, (self.senses.dice)());
                Err(elsewhere(error))
            }
            Meaning::Throttled => {
                pass.throttled(&error);
                Err(Failed::of(error, Some(Meaning::Throttled)))
            }
            meaning => {
                pass.reached();
                Err(Failed::of(error, Some(meaning)))
            }
        }
    }

    pub fn count(&self, operation: &'static str) {
        *self.calls.lock().unwrap_or_else(PoisonError::into_inner).entry(operation).or_default() += 1;
    }

    pub fn calls(&self) -> BTreeMap<&'static str, u64> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `store NAME, ID: text`.
    pub fn error(&self, what: &str, kind: StoreErrorKind, text: impl std::fmt::Display) -> StoreError {
        let at = if what.is_empty() { String::new() } else { format!(", {what}") };
        StoreError { kind, message: format!("store {}{at}: {text}", self.store), retry_after: None }
    }
}

/// Why a request went wrong.
pub(super) struct Failed {
    pub error: StoreError,
    /// What AWS meant; None where it was not asked or did not answer.
    pub meaning: Option<Meaning>,
    /// Another region may do better.
    elsewhere: bool,
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl Failed {
    pub fn of(error: StoreError, meaning: Option<Meaning>) -> Self {
        Self { error, meaning, elsewhere: false }
    }
}
