//! A fake server, and stores on it.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use leasehold::aws_identity::{Credentials, Identity};
use leasehold::config::model::{Limits, Locator, OnStop, TlsConfig, VaultAuth, VaultStore as Config};
use leasehold::digest::Key;
use leasehold::secret::{Field, Reading, SecretBytes};
use leasehold::store::Senses;
use leasehold::store::vault::VaultStore;
use rustify::client::Client;
use rustify::errors::ClientError;
use serde_json::Value;

use crate::vault::fake::clock::Clock;
use crate::vault::fake::{Fake, ROOT};
use crate::vault::server::{FakeServer, VaultServer};
use crate::vault::wire::{Fate, Request};

/// The fake's clock is tokio's, and the store asks it without a socket.
pub struct World {
    pub server: FakeServer,
    pub learnt: Arc<Mutex<Vec<SecretBytes>>>,
    pub aws: Arc<Identity>,
}

/// The fake as the store's wire.
struct InMemory(Fake);

impl Client for InMemory {
    fn send<'life0, 'async_trait>(
        &'life0 self,
        request: http::Request<Vec<u8>>,
    ) -> Pin<Box<dyn Future<Output = Result<http::Response<Vec<u8>>, ClientError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let target = parts.uri.path_and_query().unwrap().as_str();
            let mut asked = Request { body, ..Request::new(parts.method.as_str(), target) };
            for (name, value) in &parts.headers {
                asked.headers.push((name.to_string(), value.to_str().unwrap().to_owned()));
            }
            let gone = |what: &str| ClientError::GenericError { source: std::io::Error::other(what.to_owned()).into() };
            let answer = tokio::time::timeout(Duration::from_secs(30), self.0.answer(asked)).await;
            let answer = answer.map_err(|_| gone("no answer"))?;
            if answer.fate != Fate::Whole {
                return Err(gone("broken off"));
            }
            let mut response = http::Response::builder().status(answer.status);
            for (name, value) in &answer.headers {
                response = response.header(name, value);
            }
            Ok(response.body(answer.body).unwrap())
        })
    }

    fn base(&self) -> &str {
        "http://vault"
    }
}

impl World {
    pub fn new() -> Self {
        let fake = Fake::with(Clock::tokio(), true);
        Self {
            server: FakeServer::new(fake),
            learnt: Arc::default(),
            aws: Arc::new(Identity::fixed(aws("AKIDEXAMPLE"), None)),
        }
    }

    pub fn vault(&self) -> &dyn VaultServer {
        &self.server
    }

    pub fn fake(&self) -> &Fake {
        &self.server.fake
    }

    pub fn senses(&self) -> Senses {
        let clock = self.fake().clock().clone();
        let learnt = Arc::clone(&self.learnt);
        Senses {
            clock: Arc::new(move || clock.now()),
            dice: Arc::new(|| 0.5),
            learn: Arc::new(move |secret| {
                learnt.lock().unwrap().push(secret.clone());
                Box::new(())
            }),
            aws: Arc::clone(&self.aws),
            home: None,
        }
    }

    /// In memory.
    pub fn store(&self, auth: VaultAuth) -> VaultStore {
        self.with(Config { auth, ..config("http://vault") })
    }

    pub fn with(&self, config: Config) -> VaultStore {
        let wire = Arc::new(InMemory(self.fake().clone()));
        VaultStore::over("v".into(), &config, Key::new(b"test"), self.senses(), wire)
    }

    pub fn root(&self) -> VaultStore {
        self.store(token(ROOT))
    }

    /// Over a socket.
    pub fn over(&self, config: &Config) -> VaultStore {
        VaultStore::new("v".into(), config, Key::new(b"test"), self.senses())
    }
}

/// The keys of AWS's own examples, of this caller.
pub fn aws(access_key_id: &str) -> Credentials {
    Credentials {
        access_key_id: access_key_id.into(),
        secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into(),
        session_token: Some("the/session+token==".into()),
        ends: None,
    }
}

pub fn token(token: &str) -> VaultAuth {
    VaultAuth::Token { token: Some(token.into()) }
}

pub fn config(address: &str) -> Config {
    Config {
        address: address.to_owned(),
        namespace: None,
        tls: TlsConfig::default(),
        auth: token(ROOT),
        on_stop: OnStop::Keep,
        lease_check: Duration::from_secs(60),
        limits: Limits { in_flight: 8, per_second: 1000 },
        timeout: Duration::from_secs(30),
    }
}

pub fn at(path: &str) -> Locator {
    Locator::Vault { path: path.to_owned(), params: BTreeMap::new() }
}

pub fn asking(path: &str, params: Value) -> Locator {
    let params = params.as_object().unwrap().clone().into_iter().collect();
    Locator::Vault { path: path.to_owned(), params }
}

/// A field as text.
#[track_caller]
pub fn text(reading: &Reading, field: &str) -> String {
    let value = reading.fields.get(field).and_then(Field::as_text).expect("the field is there, and a text");
    String::from_utf8(value.expose().to_vec()).unwrap()
}

/// A file with this content that lives as long as the folder.
pub fn file(folder: &tempfile::TempDir, name: &str, content: &str) -> std::path::PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    path
}
