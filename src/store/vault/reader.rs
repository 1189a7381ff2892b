//! Reads any path: finds out how, asks, and makes a reading of the answer.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::answers;
use super::ask::Told;
use super::call::{Body, Call};
use super::flight::Flights;
use super::judge;
use super::kv2::Seen;
use super::mount::{Engine, HIDDEN_FOR, Mount, Shape};
use super::session::Session;
use crate::digest::Key;
use crate::secret::Reading;
use crate::store::{StoreError, StoreErrorKind};

/// Parameters of a request.
pub(super) type Params = BTreeMap<String, Value>;

/// See the module.
pub(super) struct Reader {
    pub session: Session,
    pub key: Key,
    pub flights: Flights,
    origin: Instant,
    /// With the moment until which a guess is held.
    mounts: Mutex<Vec<(Mount, Option<Duration>)>>,
    finding: tokio::sync::Mutex<()>,
    /// By path below `data/`, mount first.
    pub(super) seen: Mutex<HashMap<String, Seen>>,
    /// Mounts whose metadata policy denies, and since when.
    pub(super) no_metadata: Mutex<HashMap<String, Duration>>,
}

impl Reader {
    pub fn new(session: Session, key: Key) -> Self {
        Self {
            session,
            key,
            flights: Flights::default(),
            origin: Instant::now(),
            mounts: Mutex::default(),
            finding: tokio::sync::Mutex::default(),
            seen: Mutex::default(),
            no_metadata: Mutex::default(),
        }
    }

    pub fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    pub fn wall(&self) -> Timestamp {
        (self.session.server.senses.clock)()
    }

    pub fn error(&self, path: &str, kind: StoreErrorKind, text: impl std::fmt::Display) -> StoreError {
        judge::error(&self.session.server.name, path, kind, text)
    }

    fn known(&self, path: &str) -> Option<Mount> {
        let now = self.now();
        let mut mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        mounts.retain(|(_, until)| until.is_none_or(|until| until > now));
        let holding = mounts.iter().map(|(mount, _)| mount).filter(|mount| mount.holds(path));
        holding.max_by_key(|mount| mount.path.len()).cloned()
    }

    pub(super) fn remember(&self, mount: Mount, guessed: bool) {
        let until = guessed.then(|| self.now() + HIDDEN_FOR);
        let mut mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        mounts.retain(|(other, _)| other.path != mount.path);
        mounts.push((mount, until));
    }

    /// What stands there is not what was thought: it is asked anew.
    fn forget_mount(&self, path: &str) {
        self.mounts.lock().unwrap_or_else(PoisonError::into_inner).retain(|(mount, _)| !mount.holds(path));
    }

    /// The mount of a path: asked for once, then known.
    pub async fn mount(&self, path: &str) -> Result<Mount, StoreError> {
        if let Some(mount) = self.known(path) {
            return Ok(mount);
        }
        let _one = self.finding.lock().await;
        if let Some(mount) = self.known(path) {
            return Ok(mount);
        }
        let call = Call::get(format!("sys/internal/ui/mounts/{path}"));
        let found = match self.session.ask(&call).await {
            Ok(told) if told.answer.is_success() => {
                Mount::of(&told.answer.json()["data"]).filter(|mount| mount.holds(path))
            }
            Ok(_) => None,
            Err(error) if error.kind == StoreErrorKind::Denied => None,
            Err(error) => return Err(error),
        };
        let (mount, guessed) = match found {
            Some(mount) => (mount, false),
            None => (Mount::hidden(path), true),
        };
        tracing::debug!(store = %self.session.server.name, path, mount = %mount.path, engine = ?mount.engine, "found the mount");
        self.remember(mount.clone(), guessed);
        Ok(mount)
    }

    /// How a path is read.
    pub async fn shape(&self, path: &str, params: &Params) -> Result<Shape, StoreError> {
        Ok(self.mount(path).await?.shape(path, !params.is_empty()))
    }

    /// One read, from the server.
    pub async fn read(&self, shape: &Shape, path: &str, params: &Params) -> Result<Reading, StoreError> {
        let reading = match shape {
            Shape::Kv2 { mount, rest } => self.kv2_read(mount, rest, path, params).await,
            Shape::Guess { mount, rest } => self.guess(mount, rest, path, params).await,
            Shape::Kv1 | Shape::Cubbyhole | Shape::Transit | Shape::Static | Shape::Certificate | Shape::Other => {
                self.whole(shape, path, params).await
            }
        };
        if matches!(&reading, Err(error) if error.kind == StoreErrorKind::Missing) {
            self.forget_mount(path);
        }
        reading
    }

    async fn guess(&self, mount: &str, rest: &str, path: &str, params: &Params) -> Result<Reading, StoreError> {
        let call = Call::get(format!("{mount}/data/{rest}"));
        match self.session.ask(&call).await {
            Ok(told) if told.answer.json()["data"]["metadata"]["version"].is_u64() => {
                self.remember(Mount { path: format!("{mount}/"), engine: Engine::Kv2 }, true);
                self.kv2_reading(&told.answer, mount, rest, path).await
            }
            Ok(_) => self.whole(&Shape::Kv1, path, params).await,
            Err(error) if error.kind == StoreErrorKind::Denied => self.whole(&Shape::Kv1, path, params).await,
            Err(error) => Err(error),
        }
    }

    /// A path that is read as it is.
    async fn whole(&self, shape: &Shape, path: &str, params: &Params) -> Result<Reading, StoreError> {
        let made = *shape == Shape::Certificate || !params.is_empty();
        if *shape == Shape::Certificate && params.is_empty() {
            let text = "this makes certificates, and needs params: common_name, and for sign csr";
            return Err(self.error(path, StoreErrorKind::Missing, text));
        }
        let call = match made {
            true => Call::post(path, &Value::Object(params.clone().into_iter().collect::<Map<_, _>>())),
            false => Call::get(path),
        };
        let told = self.session.must(&call).await?;
        let json = told.answer.json();
        if let Body::Malformed(_) = told.answer.body {
            return Err(judge::refused(&self.session.server.name, &call, &told.answer));
        }
        if json["wrap_info"].is_object() && json["data"].is_null() {
            let text =
                "the answer is wrapped: a policy asks for response wrapping; remove min_wrapping_ttl for this path";
            return Err(self.error(path, StoreErrorKind::Malformed, text));
        }
        let Some(data) = json["data"].as_object() else {
            let text = "the answer holds no data; mend the path, or write the secret";
            return Err(self.error(path, StoreErrorKind::Missing, text));
        };
        let reading = match shape {
            Shape::Kv1 | Shape::Cubbyhole if !made && answers::lease(json).is_none() => {
                answers::rotated(&self.key, data).or_else(|| Some(answers::plain(&self.key, data)))
            }
            Shape::Transit => answers::transit(data),
            Shape::Static => answers::rotated(&self.key, data),
            Shape::Certificate => answers::certificate(data),
            _ => answers::other(&self.key, json, made, self.wall()),
        };
        let Some(mut reading) = reading else {
            let text = format!("the answer is not what {} answers; mend the path", expected(shape));
            return Err(self.error(path, StoreErrorKind::Malformed, text));
        };
        self.own(&told, &mut reading);
        Ok(reading)
    }

    /// Writes down whose the lease of a reading is, also one beside a certificate.
    fn own(&self, told: &Told, reading: &mut Reading) {
        reading.lease = answers::lease(told.answer.json());
        if let Some(lease) = &mut reading.lease {
            lease.duration = self.session.made(&lease.id, &told.owner, lease.duration);
        }
    }
}

fn expected(shape: &Shape) -> &'static str {
    match shape {
        Shape::Transit => "a transit key",
        Shape::Static => "a static role",
        Shape::Certificate => "a PKI role",
        Shape::Kv2 { .. } | Shape::Kv1 | Shape::Cubbyhole | Shape::Other | Shape::Guess { .. } => "a secret",
    }
}
