//! The session: one token at a time, got by one login at a time, renewed, replaced before its end, told apart from a
//! denial when it is dead, and kept over a restart.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use vaultrs::api::token::requests::{LookupTokenSelfRequest, RevokeTokenSelfRequest};

use super::call::Call;
use super::judge;
use super::login::{self, Entered};
use super::owners::Owners;
use super::saved::{Saved, SavedToken, Unwrapped};
use super::server::Server;
use super::tls::Stamps;
use super::token::{Grant, Life};
use super::{credentials, given};
use crate::config::model::VaultAuth;
use crate::digest::Key;
use crate::failpoint;
use crate::schedule::Backoff;
use crate::secret::SecretBytes;
use crate::store::Known;
use crate::store::{Keep, StoreError, StoreErrorKind};

/// A token in use.
pub(super) struct Token {
    pub value: SecretBytes,
    /// Its accessor, or a digest where it has none: what its leases are written down under.
    pub owner: String,
    /// Got by a login, not given.
    pub(super) ours: bool,
    /// Got by the login of an earlier life.
    resumed: bool,
    _known: Known,
}

/// See the module.
pub(super) struct Session {
    pub server: Arc<Server>,
    pub(super) auth: VaultAuth,
    key: Key,
    /// Whose session it is: see [`Saved::of`].
    of: String,
    origin: Instant,
    state: Mutex<State>,
    /// See [`crate::store::Store::session_revision`].
    revision: AtomicU64,
    /// One login, renewal or look-up at a time.
    pub(super) entering: tokio::sync::Mutex<()>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) current: Option<(Arc<Token>, Life)>,
    /// Of an earlier life, not tried yet.
    resumed: Option<SavedToken>,
    unwrapped: Option<Unwrapped>,
    _secret_id: Option<Known>,
    pub(super) owners: Owners,
    /// Ours, replaced before their end, with when that is.
    replaced: Vec<(Arc<Token>, Option<Duration>)>,
    failure: Option<Failure>,
    /// When the current token was last found alive.
    alive_at: Option<Duration>,
    /// A given token that was found dead.
    dead: Option<SecretBytes>,
    /// Tokens of this login may not look themselves up: a denial says nothing of the token.
    ambiguous: bool,
    /// See [`crate::store::Store::kept_by`].
    keep: Option<Keep>,
}

/// What the server says when a token looks itself up.
enum Look {
    Alive(Grant),
    Dead,
    /// It is dead, or may not: older servers, and OpenBao, do not tell.
    Denied,
}

struct Failure {
    error: StoreError,
    until: Duration,
    backoff: Backoff,
    stamps: Stamps,
}

impl Session {
    pub fn new(server: Arc<Server>, auth: VaultAuth, key: Key, of: String) -> Self {
        let (origin, state) = (Instant::now(), Mutex::default());
        let revision = AtomicU64::new(0);
        Self { server, auth, key, of, origin, state, revision, entering: tokio::sync::Mutex::default() }
    }

    /// See [`crate::store::Store::session_revision`].
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    pub(super) fn moved(&self) {
        self.revision.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    pub(super) fn die(&self) -> f64 {
        (self.server.senses.dice)()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The leases' book, with the time by which it counts.
    pub fn owners<T>(&self, with: impl FnOnce(&mut Owners, Duration) -> T) -> T {
        let now = self.now();
        with(&mut self.state().owners, now)
    }

    /// A token made a lease; the answer is how long that may live.
    pub fn made(&self, lease: &str, owner: &str, granted: Duration) -> Duration {
        self.moved();
        self.owners(|owners, now| {
            owners.made(lease, owner, granted);
            owners.capped(lease, granted, now)
        })
    }

    fn live(&self) -> Option<Arc<Token>> {
        let state = self.state();
        state.current.as_ref().filter(|(_, life)| !life.ended(self.now())).map(|(token, _)| Arc::clone(token))
    }

    /// The token; logs in where there is none.
    pub async fn token(&self) -> Result<Arc<Token>, StoreError> {
        if let Some(token) = self.live() {
            return Ok(token);
        }
        let _one = self.entering.lock().await;
        match self.live() {
            Some(token) => Ok(token),
            None => self.enter().await,
        }
    }

    /// Gets a token, whatever stands. The caller holds `entering`.
    pub(super) async fn enter(&self) -> Result<Arc<Token>, StoreError> {
        let stamps = credentials::stamps(&self.auth);
        let resting = self.state().failure.as_ref().and_then(|failure| {
            let left = failure.until.saturating_sub(self.now());
            (!left.is_zero() && failure.stamps == stamps).then(|| failure.error.clone().later(left))
        });
        if let Some(error) = resting {
            return Err(error);
        }
        match self.obtain().await {
            Ok((entered, ours, first)) => {
                self.state().failure = None;
                Ok(self.install(entered, ours, first))
            }
            Err(error) => {
                // What may pass by itself is tried again soon; a refusal costs the server something each time.
                let cap = if error.kind == StoreErrorKind::Unavailable { 15 } else { 60 };
                let (now, die) = (self.now(), self.die());
                let mut state = self.state();
                let before =
                    state.failure.take().filter(|failure| failure.stamps == stamps).map(|failure| failure.backoff);
                let mut backoff =
                    before.unwrap_or_else(|| Backoff::new(Duration::from_secs(1), Duration::from_secs(cap)));
                let until = now + backoff.fail(die, error.retry_after);
                state.failure = Some(Failure { error: error.clone(), until, backoff, stamps });
                Err(error)
            }
        }
    }

    async fn obtain(&self) -> Result<(Entered, bool, Option<Duration>), StoreError> {
        if let Some(value) = given::token(&self.server, &self.auth).await? {
            let dead = self.state().dead.as_ref() == Some(&value);
            let look = if dead { Look::Dead } else { self.look(&value).await? };
            let grant = match look {
                Look::Alive(grant) => grant,
                Look::Denied => Grant { ttl: None, renewable: false, accessor: String::new() },
                Look::Dead => {
                    self.state().dead = Some(value);
                    return Err(given::dead(&self.server.name, &self.auth));
                }
            };
            self.state().ambiguous = grant.accessor.is_empty() && grant.ttl.is_none();
            return Ok((Entered { value, grant }, false, None));
        }
        let resumed = self.state().resumed.take();
        if let Some(resumed) = resumed {
            let value = SecretBytes::from(resumed.value.as_str());
            let _known = (self.server.senses.learn)(&value);
            match self.look(&value).await {
                Ok(Look::Alive(grant)) => {
                    let first = Duration::from_secs(resumed.first_seconds);
                    return Ok((Entered { value, grant }, true, Some(first)));
                }
                Ok(Look::Dead | Look::Denied) => {
                    tracing::info!(store = %self.server.name, "the token of before is dead; logging in");
                }
                Err(error) => {
                    self.state().resumed = Some(resumed);
                    return Err(error);
                }
            }
        }
        let (before, keep) = {
            let state = self.state();
            (state.unwrapped.clone(), state.keep.clone())
        };
        let may_spend = !matches!(keep, Some(Keep::Never));
        let unwrapped = login::unwrap(&self.server, &self.key, &self.auth, before.as_ref(), may_spend).await?;
        let fresh = unwrapped != before;
        let secret_id = unwrapped.as_ref().map(|unwrapped| SecretBytes::from(unwrapped.secret_id.as_str()));
        {
            // Kept before it is used: whatever becomes of the login, the wrapping token is spent.
            let mut state = self.state();
            state._secret_id = secret_id.as_ref().map(|id| (self.server.senses.learn)(id));
            state.unwrapped = unwrapped;
        }
        if fresh {
            self.moved();
            if let Some(Keep::Now(keep)) = keep {
                keep().await;
            }
            failpoint::hit("session.unwrapped");
        }
        let entered = login::login(&self.server, &self.auth, secret_id.as_ref()).await?;
        Ok((entered, true, None))
    }

    /// What the server says of a token.
    async fn look(&self, value: &SecretBytes) -> Result<Look, StoreError> {
        let call = self.call(&LookupTokenSelfRequest {}, value)?;
        let answer = self.server.ask(&call, Some(value)).await?;
        Ok(match answer.status {
            200..=299 => Look::Alive(Grant::of_look_up(&answer.json()["data"])),
            _ if certainly_dead(&answer.errors()) => Look::Dead,
            _ => Look::Denied,
        })
    }

    pub(super) fn call(
        &self,
        endpoint: &impl rustify::endpoint::Endpoint,
        token: &SecretBytes,
    ) -> Result<Call, StoreError> {
        let call = Call::of(endpoint).map(|call| call.hiding(token));
        call.ok_or_else(|| judge::error(&self.server.name, "auth/token", StoreErrorKind::Malformed, "no such request"))
    }

    fn install(&self, entered: Entered, ours: bool, first: Option<Duration>) -> Arc<Token> {
        let (now, die) = (self.now(), self.die());
        let Entered { value, grant } = entered;
        let life = Life::new(&grant, first, now, die);
        let owner = match grant.accessor.is_empty() {
            true => self.key.digest("vault token").part(value.expose()).hex(8),
            false => grant.accessor.clone(),
        };
        let known = (self.server.senses.learn)(&value);
        let token = Arc::new(Token { value, owner, ours, resumed: first.is_some(), _known: known });
        tracing::info!(
            store = %self.server.name, login = login::name(&self.auth), accessor = %grant.accessor,
            ttl = ?grant.ttl, renewable = life.renewable, "session begun"
        );
        self.moved();
        let mut state = self.state();
        state.owners.token(&token.owner, &life);
        state.alive_at = None;
        state.replaced.retain(|(_, end)| end.is_none_or(|end| end > now));
        if let Some((old, life)) = state.current.replace((Arc::clone(&token), life))
            && old.ours
            && old.value != token.value
        {
            state.owners.ends(&old.owner, life.end);
            state.replaced.push((old, life.end));
        }
        token
    }

    /// After a 403: whether this token still lives, so that it is a denial. Where it is dead, the next [`Session::token`]
    /// gets another. `repeated`: the token is fresh from a login that the first 403 cost, so that it cannot be dead.
    /// `asked`: when the request was begun that was answered with it; what was found out since then counts.
    pub async fn lives(&self, token: &Arc<Token>, repeated: bool, asked: Duration) -> Result<bool, StoreError> {
        let _one = self.entering.lock().await;
        let (is_current, looked, ambiguous) = {
            let state = self.state();
            let is_current = state.current.as_ref().is_some_and(|(current, _)| Arc::ptr_eq(current, token));
            (is_current, state.alive_at, state.ambiguous)
        };
        if !is_current {
            return Ok(false);
        }
        // A file that was replaced meanwhile tells more than a look-up.
        if let Some(value) = given::token(&self.server, &self.auth).await?
            && value != token.value
        {
            self.forget(token, false);
            return Ok(false);
        }
        if looked.is_some_and(|at| at >= asked) {
            return Ok(true);
        }
        let look = self.look(&token.value).await?;
        let lives = match look {
            Look::Alive(_) => true,
            Look::Dead => false,
            Look::Denied => ambiguous || repeated,
        };
        if lives {
            let mut state = self.state();
            state.alive_at = Some(self.now());
            // Only a look-up that was denied as well says that look-ups say nothing.
            state.ambiguous |= repeated && matches!(look, Look::Denied);
        } else {
            tracing::warn!(store = %self.server.name, "the token is dead: it was revoked, or has ended");
            // Whether a login's token is dead is a guess where it may only not look itself up: its leases then tell it.
            self.forget(token, matches!(look, Look::Dead) || !token.ours);
        }
        Ok(lives)
    }

    pub(super) fn forget(&self, token: &Arc<Token>, dead: bool) {
        let now = self.now();
        self.moved();
        let mut state = self.state();
        state.current = None;
        state.alive_at = None;
        if dead {
            state.owners.ends(&token.owner, Some(now));
            if !token.ours {
                state.dead = Some(token.value.clone());
            }
        }
    }

    /// See [`crate::store::Store::session`].
    pub fn save(&self) -> Option<SecretBytes> {
        let (now, wall) = (self.now(), (self.server.senses.clock)());
        let state = self.state();
        let current = state.current.as_ref().filter(|(token, _)| token.ours).map(|(token, life)| SavedToken {
            value: token.value.expose_str().unwrap_or_default().to_owned(),
            first_seconds: life.first.as_secs(),
        });
        let (ends, leases) = state.owners.save(now, wall);
        let token = current.or_else(|| state.resumed.clone());
        Saved { of: self.of.clone(), token, unwrapped: state.unwrapped.clone(), ends, leases }.write()
    }

    /// See [`crate::store::Store::resume`].
    pub fn resume(&self, session: &SecretBytes) {
        let Some(saved) = Saved::read(session, &self.of) else {
            tracing::info!(store = %self.server.name, "the session of before is another's, and left alone");
            return;
        };
        let (now, wall) = (self.now(), (self.server.senses.clock)());
        let mut state = self.state();
        state.resumed = saved.token.filter(|_| !given::is_given(&self.auth));
        state.unwrapped = saved.unwrapped;
        state.owners = Owners::resume(saved.ends, saved.leases, now, wall);
    }

    /// See [`crate::store::Store::kept_by`].
    pub fn kept_by(&self, keep: Keep) {
        self.state().keep = Some(keep);
    }

    /// See [`crate::store::Store::close`].
    pub async fn close(&self) -> Result<(), StoreError> {
        let _one = self.entering.lock().await;
        let mut ending: Vec<SecretBytes> = Vec::new();
        {
            let mut state = self.state();
            // Where nothing is written down, another life goes on with what it wrote down before.
            let others = matches!(state.keep, Some(Keep::Never));
            let resumed = state.resumed.take().filter(|_| !others);
            ending.extend(resumed.map(|token| SecretBytes::from(token.value)));
            let ours = state.current.take_if(|(token, _)| token.ours && !(others && token.resumed));
            ending.extend(ours.map(|(token, _)| token.value.clone()));
            ending.extend(state.replaced.drain(..).map(|(token, _)| token.value.clone()));
        }
        let mut outcome = Ok(());
        for value in ending {
            let call = self.call(&RevokeTokenSelfRequest {}, &value)?;
            let revoked = match self.server.ask(&call, Some(&value)).await {
                Ok(answer) if answer.is_success() || certainly_dead(&answer.errors()) => Ok(()),
                Ok(answer) => Err(judge::refused(&self.server.name, &call, &answer)),
                Err(error) => Err(error),
            };
            outcome = outcome.and(revoked);
        }
        outcome
    }
}

/// Newer servers say of a 403 that the token is the reason.
pub(super) fn certainly_dead(errors: &str) -> bool {
    errors.contains("invalid token") || errors.contains("bad token")
}
