//! HashiCorp Vault and OpenBao.
//!
//! | file | what it does |
//! | --- | --- |
//! | `transport`, `tls` | HTTP over TCP or a Unix socket: rustify's `Client`, which tests put another in place of |
//! | `call`, `judge`, `server` | a request, what its answer means, the two through the gate |
//! | `flight` | equal reads shared |
//! | `session`, `tend`, `login`, `iam`, `given`, `credentials`, `token`, `owners`, `saved`, `ask` | the token: got, renewed, replaced, kept; whose leases are whose |
//! | `reader`, `mount`, `answers`, `versioned`, `kv2`, `json` | from a path to a reading |
//! | `leases` | renew, look up, revoke |
//! | `access` | what policy allows, and the smallest one that is needed |
//!
//! Nothing is repeated here but what a dead token cost: retries are the caller's.

mod access;
mod answers;
mod ask;
mod call;
mod credentials;
mod flight;
mod given;
mod iam;
mod json;
mod judge;
mod kv2;
mod leases;
mod login;
mod mount;
mod owners;
mod reader;
mod saved;
mod server;
mod session;
mod tend;
mod tls;
mod token;
mod transport;
mod versioned;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustify::client::Client;

use self::mount::Shape;
use self::reader::{Params, Reader};
use self::server::Server;
use self::session::Session;
use self::transport::Wire;
use crate::config::model::{Locator, StoreName, VaultStore as Config};
use crate::digest::Key;
use crate::secret::{Again, Lease, Reading, SecretBytes, Version};
use crate::store::{Access, Keep, Senses, Store, StoreError, StoreErrorKind};

/// A Vault or OpenBao server as a store. See the module's documentation.
pub struct VaultStore {
    reader: Arc<Reader>,
}

impl VaultStore {
    /// A store on the server that `config` names. Opens, reads and asks nothing yet. `key` makes the versions of what has
    /// none, and tells whose a saved session is.
    pub fn new(name: StoreName, config: &Config, key: Key, senses: Senses) -> Self {
        let wire = Wire::new(&config.address, config.tls.clone(), config.timeout);
        Self::over(name, config, key, senses, Arc::new(wire))
    }

    /// The same over any wire. It owes the timeout.
    pub fn over(name: StoreName, config: &Config, key: Key, senses: Senses, wire: Arc<dyn Client>) -> Self {
        let login = login::name(&config.auth);
        let namespace = config.namespace.clone().unwrap_or_default();
        let of = [config.address.as_str(), &namespace, &login, &login::who(&config.auth)];
        let of = of.into_iter().fold(key.digest("vault session"), |digest, part| digest.part(part.as_bytes())).hex(16);
        let server = Arc::new(Server::new(name, config.namespace.clone(), config.limits, wire, senses));
        let session = Session::new(server, config.auth.clone(), key.clone(), of);
        Self { reader: Arc::new(Reader::new(session, key)) }
    }

    fn path<'a>(&self, locator: &'a Locator) -> Result<(&'a str, &'a Params), StoreError> {
        match locator {
            Locator::Vault { path, params } => Ok((path, params)),
            _ => Err(self.reader.error("?", StoreErrorKind::Missing, "Vault finds secrets by `path` only")),
        }
    }

    async fn shared(
        &self,
        shape: Shape,
        path: &str,
        params: &Params,
        current: Option<&Reading>,
    ) -> Result<Option<Reading>, StoreError> {
        let have = current.map(|current| current.version.0.clone()).unwrap_or_default();
        let name = format!("{path}\n{}\n{have}", serde_json::json!(params));
        let (reader, path, params) = (Arc::clone(&self.reader), path.to_owned(), params.clone());
        let current = current.cloned();
        let flight = self.reader.flights.join(name, || {
            Box::pin(async move {
                match (&shape, &current) {
                    (Shape::Kv2 { mount, rest }, Some(current)) => {
                        reader.kv2_again(mount, rest, &path, &params, current).await
                    }
                    _ => reader.read(&shape, &path, &params).await.map(Some),
                }
            })
        });
        flight.await
    }
}

impl Store for VaultStore {
    fn read<'a>(&'a self, locator: &'a Locator) -> BoxFuture<'a, Result<Reading, StoreError>> {
        Box::pin(async move {
            let (path, params) = self.path(locator)?;
            let shape = self.reader.shape(path, params).await?;
            if !shape.is_shared() {
                return self.reader.read(&shape, path, params).await;
            }
            let reading = self.shared(shape, path, params, None).await?;
            reading.ok_or_else(|| self.reader.error(path, StoreErrorKind::Malformed, "there was no answer"))
        })
    }

    fn read_again<'a>(
        &'a self,
        locator: &'a Locator,
        current: &'a Reading,
    ) -> BoxFuture<'a, Result<Option<Reading>, StoreError>> {
        Box::pin(async move {
            let (path, params) = self.path(locator)?;
            let shape = self.reader.shape(path, params).await?;
            let reading = match shape.is_shared() {
                true => self.shared(shape, path, params, Some(current)).await?,
                false => Some(self.reader.read(&shape, path, params).await?),
            };
            // When the server will change it is news, even where the values are the same.
            let old = |reading: &Reading| {
                reading.again == Again::Free
                    && current.again == Again::Free
                    && reading.version == current.version
                    && reading.custom == current.custom
                    && reading.expires_at == current.expires_at
            };
            Ok(reading.filter(|reading| !old(reading)))
        })
    }

    fn previous<'a>(
        &'a self,
        locator: &'a Locator,
        current: &'a Reading,
        _before: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<Option<Reading>, StoreError>> {
        Box::pin(async move {
            let (path, params) = self.path(locator)?;
            match self.reader.shape(path, params).await? {
                Shape::Kv2 { mount, rest } => self.reader.kv2_previous(&mount, &rest, path, current).await,
                _ => Ok(None),
            }
        })
    }

    fn renew<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Lease, StoreError>> {
        Box::pin(self.reader.renew(lease))
    }

    fn look_up<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Option<Lease>, StoreError>> {
        Box::pin(self.reader.look_up(lease))
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.reader.revoke(lease))
    }

    fn access<'a>(&'a self, locators: &'a [&'a Locator]) -> BoxFuture<'a, Result<Option<Access>, StoreError>> {
        Box::pin(async move {
            let mut needs = access::of_session();
            for locator in locators {
                let (path, params) = self.path(locator)?;
                let shape = self.reader.shape(path, params).await?;
                access::of_secret(&shape, path, !params.is_empty(), &mut needs);
            }
            let lacking = self.reader.lacking(&needs).await?;
            Ok(Some(Access { lacking, policy: access::policy(&needs), ..Access::default() }))
        })
    }

    fn tend(&self) -> BoxFuture<'_, Result<Option<Duration>, StoreError>> {
        Box::pin(self.reader.session.tend())
    }

    fn session(&self) -> Option<SecretBytes> {
        self.reader.session.save()
    }

    fn session_revision(&self) -> u64 {
        self.reader.session.revision()
    }

    fn resume(&self, session: &SecretBytes) {
        self.reader.session.resume(session);
    }

    fn kept_by(&self, keep: Keep) {
        self.reader.session.kept_by(keep);
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.reader.session.close())
    }
}
