//! Where secrets come from: the trait that every store implements, and what can go wrong.

pub mod aws;
mod canonical;
pub mod file;
mod gate;
mod senses;
pub mod vault;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::config::model::Locator;
use crate::secret::{Lease, Reading, SecretBytes, Version};

pub use senses::{Known, Senses};

/// A store of secrets. An implementation is one file (or folder) here, one variant of
/// [`crate::config::model::StoreConfig`] and one arm in the wiring's `build`.
///
/// A store answers; it decides nothing: when to read, renew, replace, retry or give up is `schedule`'s.
pub trait Store: Send + Sync {
    /// Reads one secret now. Of a dynamic engine every call mints ([`crate::secret::Again::Mints`]); the caller owes not
    /// to call without need.
    fn read<'a>(&'a self, locator: &'a Locator) -> BoxFuture<'a, Result<Reading, StoreError>>;

    /// Reads again what is not [`crate::secret::Again::Mints`], as cheaply as the store allows. None: `current` is still
    /// the version in the store.
    fn read_again<'a>(
        &'a self,
        locator: &'a Locator,
        _current: &'a Reading,
    ) -> BoxFuture<'a, Result<Option<Reading>, StoreError>> {
        Box::pin(async move { self.read(locator).await.map(Some) })
    }

    /// Whether reads that begin at the same time cost less than one after another. Then the caller begins all that are due
    /// at about the same time together, a few hundred at most.
    fn gathers(&self) -> bool {
        false
    }

    /// Resolves when something in the store may have changed since the last call; the answer says what may have.
    /// Never resolves for a store that can only be polled.
    fn changed(&self) -> BoxFuture<'_, Changed> {
        Box::pin(std::future::pending())
    }

    /// The version before `current`, where the store itself keeps it. `before` is the one that the caller knows to have
    /// been in use: only that one is answered then. None: the store has it not, or keeps none; the caller remembers it.
    fn previous<'a>(
        &'a self,
        _locator: &'a Locator,
        _current: &'a Reading,
        _before: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<Option<Reading>, StoreError>> {
        Box::pin(async { Ok(None) })
    }

    /// Renews a lease that this store granted; the answer is the lease as it stands now (its `duration` is what was
    /// granted, not what was wished for; values stay as they were).
    ///
    /// # Errors
    /// `Missing`: the lease is gone, and its values with it. `Denied`: it will not be renewed, and lives on.
    fn renew<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Lease, StoreError>> {
        Box::pin(async move { Ok(lease.clone()) })
    }

    /// The lease as it stands now, without renewing it. None: it is gone. Cheap.
    ///
    /// # Errors
    /// `Denied` where this identity may not look; then nobody knows.
    fn look_up<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Option<Lease>, StoreError>> {
        Box::pin(async move { Ok(Some(lease.clone())) })
    }

    /// Ends a lease. Ending one that is gone is no error.
    fn revoke<'a>(&'a self, _lease: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }

    /// Looks after the store's session (renews its token, replaces it before its end) where that is due, and answers how
    /// long until it should be called again. None: never. Called from the start on, whatever else happens. A read logs in
    /// by itself where there is no session yet.
    ///
    /// # Errors
    /// Where the session could not be kept; the caller calls again after a backoff.
    fn tend(&self) -> BoxFuture<'_, Result<Option<Duration>, StoreError>> {
        Box::pin(async { Ok(None) })
    }

    /// The session as bytes that [`Store::resume`] takes: a secret. None: there is none, or it is not to be kept.
    fn session(&self) -> Option<SecretBytes> {
        None
    }

    /// Moves whenever [`Store::session`] may answer otherwise than before. Cheap.
    fn session_revision(&self) -> u64 {
        0
    }

    /// Goes on with the session of an earlier life, if it is one of this very server and login
    /// (else it is ignored) and still lives; to be called before anything else.
    fn resume(&self, _session: &SecretBytes) {}

    /// Tells where the session is written down at once, for what can be had from a server only once (a wrapped secret
    /// id): it is awaited before that is used. Until this is called nothing is written down, and everything is used.
    fn kept_by(&self, _keep: Keep) {}

    /// What this identity may do of what these secrets need, asked without reading them, and the policy that they need.
    /// None: the store has no policies that it could be asked about.
    fn access<'a>(&'a self, _locators: &'a [&'a Locator]) -> BoxFuture<'a, Result<Option<Access>, StoreError>> {
        Box::pin(async { Ok(None) })
    }

    /// What it takes to keep these secrets watched, each polled so often, by what is known now of how they can be read.
    /// None: it costs nothing that anybody counts.
    fn upkeep(&self, _polled: &[(&Locator, Duration)]) -> Option<Upkeep> {
        None
    }

    /// Ends the session where a login began it (never a token that somebody gave): for `on_stop: revoke`, and, with
    /// [`Keep::Never`], what this life alone began.
    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }
}

/// See [`Store::kept_by`].
#[derive(Clone)]
pub enum Keep {
    /// Nobody writes anything down: what can be had only once is left alone.
    Never,
    /// Resolves when [`Store::session`] was written down, or could not be (which is told where it is written).
    Now(Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>),
}

/// See [`Store::changed`].
#[derive(Clone)]
pub struct Changed(Arc<dyn Fn(&Locator) -> bool + Send + Sync>);

impl Changed {
    /// It may be anything.
    pub fn all() -> Self {
        Self(Arc::new(|_| true))
    }

    /// What `concerned` says.
    pub fn only(concerned: impl Fn(&Locator) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(concerned))
    }

    /// Whether what is there may have changed.
    pub fn concerns(&self, locator: &Locator) -> bool {
        (self.0)(locator)
    }
}

/// See [`Store::upkeep`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Upkeep {
    /// How the secrets are watched, in one line.
    pub how: String,
    /// Requests an hour while nothing changes.
    pub calls_per_hour: f64,
    /// What these cost in a month of 730 hours, in US dollars.
    pub usd_per_month: f64,
    /// Requests made since the start, by the API's name of each.
    pub calls: std::collections::BTreeMap<&'static str, u64>,
    /// Who the store says this is, once that is known.
    pub identity: Option<String>,
}

/// See [`Store::access`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// What the identity may, a line a secret. Empty: not told one by one.
    pub allowed: Vec<String>,
    /// What the identity may not, as `CAPABILITY on PATH: what it is for`.
    pub lacking: Vec<String>,
    /// The smallest policy that these secrets need, in the store's own language.
    pub policy: String,
}

/// Why a store could not answer. `message` names the store and the place in it, says what to do, never a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// What kind of failure: it decides the retry and the exit code.
    pub kind: StoreErrorKind,
    /// For the operator.
    pub message: String,
    /// How long the store asks to be left alone.
    pub retry_after: Option<Duration>,
}

impl StoreError {
    /// The same, to be asked again after a while at the earliest.
    #[must_use]
    pub fn later(self, after: Duration) -> Self {
        Self { retry_after: Some(self.retry_after.unwrap_or_default().max(after)), ..self }
    }
}

/// What a failed read means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// May pass by itself: network, 5xx, sealed, throttled, a file that is not there for the moment (exit 69).
    Unavailable,
    /// Policy or permissions (exit 77).
    Denied,
    /// The secret is not there (exit 66).
    Missing,
    /// The answer makes no sense: a file half-written, JSON cut short (the last good reading stands; exit 69).
    Malformed,
}
