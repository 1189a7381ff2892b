//! One view of every Vault that tests run against, and what an administrator does to it.
//!
//! All goes over Vault's own API, so that it is the same for the fake and for a real server.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::fake::listen::Listener;
use super::fake::{Fake, ROOT};
use super::real::Real;
use super::wire::{Request, Response};

/// How a server's database engine reaches its database.
pub struct Database {
    /// With `{{username}}` and `{{password}}` in it, as Vault takes it.
    pub connection_url: String,
    pub username: String,
    pub password: String,
}

/// A Vault under test.
pub trait VaultServer: Send + Sync {
    /// `fake`, or the real one's file name.
    fn name(&self) -> &str;

    /// As `VAULT_ADDR` takes it.
    fn address(&self) -> &str;

    fn root_token(&self) -> &str;

    /// Sends a request as the test itself; the fake neither counts nor faults it.
    fn send(&self, request: Request) -> BoxFuture<'_, Response>;

    /// None where there is no database to put behind the engine.
    fn database(&self) -> Option<Database>;

    /// True while this user may log in to the database.
    fn database_accepts(&self, user: &str, password: &str) -> bool;

    /// Makes a user in the database by other means than Vault, for a static role. The fake needs none.
    fn make_database_user(&self, user: &str);

    /// The fake behind it, where it is one.
    fn fake(&self) -> Option<&Fake> {
        None
    }
}

/// The fake behind a port.
pub struct FakeServer {
    pub fake: Fake,
    listener: Listener,
}

impl FakeServer {
    pub fn new(fake: Fake) -> FakeServer {
        let listener = fake.listen();
        FakeServer { fake, listener }
    }
}

impl VaultServer for FakeServer {
    fn name(&self) -> &str {
        "fake"
    }

    fn address(&self) -> &str {
        &self.listener.address
    }

    fn root_token(&self) -> &str {
        ROOT
    }

    fn send(&self, mut request: Request) -> BoxFuture<'_, Response> {
        request.admin = true;
        Box::pin(self.fake.answer(request))
    }

    fn database(&self) -> Option<Database> {
        let (connection_url, username, password) = ("fake://".to_owned(), String::new(), String::new());
        Some(Database { connection_url, username, password })
    }

    fn database_accepts(&self, user: &str, password: &str) -> bool {
        self.fake.database_accepts(user, password)
    }

    fn make_database_user(&self, _user: &str) {}

    fn fake(&self) -> Option<&Fake> {
        Some(&self.fake)
    }
}

/// Every server there is: a fake of the test's own, and the one real server of this test binary where `VAULT_BIN` names a
/// `vault` or `bao`. Its absence is said on a line `NOTE: …`, and is no failure.
pub fn servers() -> Vec<Arc<dyn VaultServer>> {
    static REAL: OnceLock<Option<Arc<Real>>> = OnceLock::new();
    let mut servers: Vec<Arc<dyn VaultServer>> = vec![Arc::new(FakeServer::new(Fake::new()))];
    match REAL.get_or_init(|| Real::start().map(Arc::new)) {
        Some(real) => servers.push(Arc::clone(real) as Arc<dyn VaultServer>),
        None => eprintln!("NOTE: on the fake alone: VAULT_BIN names no vault or bao binary"),
    }
    servers
}

/// A name that no other test uses, for a mount, a policy or a role.
pub fn unique(what: &str) -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    format!("{what}-{}", NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

impl dyn VaultServer + '_ {
    /// A request as root; `body` null is none.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> Response {
        self.send(Request::new(method, path).token(self.root_token()).body(&body)).await
    }

    /// The same, which must succeed.
    #[track_caller]
    pub fn must(&self, method: &'static str, path: &str, body: Value) -> impl Future<Output = Response> {
        let place = std::panic::Location::caller();
        let path = path.to_owned();
        async move {
            let response = self.call(method, &path, body).await;
            let text = String::from_utf8_lossy(&response.body);
            assert!((200..300).contains(&response.status), "{place}: {method} {path}: {} {text}", response.status);
            response
        }
    }

    /// Mounts an engine (`auth/NAME` for an auth method). `options` are those of `sys/mounts`.
    pub async fn mount(&self, at: &str, kind: &str, options: Value) {
        let path = if at.starts_with("auth/") { format!("sys/{at}") } else { format!("sys/mounts/{at}") };
        self.must("POST", &path, json!({ "type": kind, "options": options })).await;
    }

    /// A fresh KV mount of version 1 or 2; answers its path.
    pub async fn kv(&self, version: u8) -> String {
        let at = unique("kv");
        self.mount(&at, "kv", json!({ "version": version.to_string() })).await;
        if version == 2 {
            // A real server answers 400 for a moment, while it upgrades the new mount.
            for _ in 0..200 {
                if self.call("GET", &format!("{at}/config"), Value::Null).await.status == 200 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        at
    }

    /// Writes a value to KV v2; answers its version.
    pub async fn put(&self, mount: &str, path: &str, data: Value) -> u64 {
        let response = self.must("POST", &format!("{mount}/data/{path}"), json!({ "data": data })).await;
        response.number("/data/version").unsigned_abs()
    }

    /// Merges into a value of KV v2; answers its version.
    pub async fn patch(&self, mount: &str, path: &str, data: Value) -> u64 {
        let request = Request::new("PATCH", &format!("{mount}/data/{path}")).token(self.root_token());
        let request = request.header("content-type", "application/merge-patch+json");
        let response = self.send(request.body(&json!({ "data": data }))).await.ok();
        response.number("/data/version").unsigned_abs()
    }

    /// Writes (or replaces) a policy of this HCL.
    pub async fn policy(&self, name: &str, hcl: &str) {
        self.must("POST", &format!("sys/policies/acl/{name}"), json!({ "policy": hcl })).await;
    }

    /// A token with these options of `auth/token/create`.
    pub async fn token(&self, options: Value) -> String {
        self.must("POST", "auth/token/create", options).await.text("/auth/client_token")
    }

    /// A fresh AppRole mount with the role `app`; answers the mount (`auth/…`).
    pub async fn approle(&self, role: Value) -> String {
        let at = format!("auth/{}", unique("approle"));
        self.mount(&at, "approle", Value::Null).await;
        self.must("POST", &format!("{at}/role/app"), role).await;
        at
    }

    pub async fn role_id(&self, mount: &str) -> String {
        self.must("GET", &format!("{mount}/role/app/role-id"), Value::Null).await.text("/data/role_id")
    }

    pub async fn secret_id(&self, mount: &str) -> String {
        self.must("POST", &format!("{mount}/role/app/secret-id"), json!({})).await.text("/data/secret_id")
    }

    /// A secret id in a wrapping token of this TTL (`60s`); answers the wrapping token.
    pub async fn wrapped_secret_id(&self, mount: &str, ttl: &str) -> String {
        let request = Request::new("POST", &format!("{mount}/role/app/secret-id")).token(self.root_token());
        let response = self.send(request.header("X-Vault-Wrap-TTL", ttl).body(&json!({}))).await.ok();
        response.text("/wrap_info/token")
    }

    /// A fresh userpass mount with this user; answers the mount.
    pub async fn userpass(&self, user: &str, password: &str, policies: &str) -> String {
        let at = format!("auth/{}", unique("userpass"));
        self.mount(&at, "userpass", Value::Null).await;
        let body = json!({ "password": password, "token_policies": policies });
        self.must("POST", &format!("{at}/users/{user}"), body).await;
        at
    }

    /// A fresh PKI mount with a root and the role `web`; answers the mount.
    pub async fn pki(&self, role: Value) -> String {
        let at = unique("pki");
        self.mount(&at, "pki", Value::Null).await;
        let root = json!({ "common_name": "root of a test", "ttl": "700h", "key_type": "ec", "key_bits": 256 });
        self.must("POST", &format!("{at}/root/generate/internal"), root).await;
        self.must("POST", &format!("{at}/roles/web"), role).await;
        at
    }

    /// A fresh transit mount with the key `app`; answers the mount.
    pub async fn transit(&self) -> String {
        let at = unique("transit");
        self.mount(&at, "transit", Value::Null).await;
        self.must("POST", &format!("{at}/keys/app"), json!({})).await;
        at
    }

    pub async fn rotate_key(&self, mount: &str) {
        self.must("POST", &format!("{mount}/keys/app/rotate"), json!({})).await;
    }

    /// A fresh database mount, connected; answers the mount, or None where there is no database.
    pub async fn database_mount(&self) -> Option<String> {
        let database = self.database()?;
        let at = unique("database");
        self.mount(&at, "database", Value::Null).await;
        let config = json!({
            "plugin_name": "postgresql-database-plugin", "allowed_roles": "*", "password_authentication": "scram-sha-256",
            "connection_url": database.connection_url, "username": database.username, "password": database.password,
        });
        self.must("POST", &format!("{at}/config/db"), config).await;
        Some(at)
    }

    /// A role of dynamic users.
    pub async fn database_role(&self, mount: &str, role: &str, default_ttl: &str, max_ttl: &str) {
        let body = json!({
            "db_name": "db", "default_ttl": default_ttl, "max_ttl": max_ttl,
            "creation_statements": ["CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"],
            "revocation_statements": ["DROP ROLE IF EXISTS \"{{name}}\""],
        });
        self.must("POST", &format!("{mount}/roles/{role}"), body).await;
    }

    /// A static role for a fresh user of this name.
    pub async fn static_role(&self, mount: &str, user: &str, rotation_period: &str) {
        self.make_database_user(user);
        let body = json!({ "db_name": "db", "username": user, "rotation_period": rotation_period });
        self.must("POST", &format!("{mount}/static-roles/{user}"), body).await;
    }

    pub async fn rotate_static(&self, mount: &str, user: &str) {
        self.must("POST", &format!("{mount}/rotate-role/{user}"), json!({})).await;
    }

    /// The ids of the leases alive below a path (`database/creds/app`).
    pub async fn leases(&self, prefix: &str) -> Vec<String> {
        let response = self.call("LIST", &format!("sys/leases/lookup/{prefix}"), Value::Null).await;
        let keys = response.at("/data/keys");
        let keys = keys.as_array().cloned().unwrap_or_default();
        keys.iter().filter_map(|key| key.as_str().map(|key| format!("{prefix}/{key}"))).collect()
    }

    /// What `sys/leases/lookup` says of a lease.
    pub async fn lease(&self, id: &str) -> Response {
        self.call("POST", "sys/leases/lookup", json!({ "lease_id": id })).await
    }

    pub async fn revoke_lease(&self, id: &str) {
        self.must("POST", "sys/leases/revoke", json!({ "lease_id": id, "sync": true })).await;
    }

    pub async fn revoke_prefix(&self, prefix: &str) {
        self.must("POST", &format!("sys/leases/revoke-prefix/{prefix}"), json!({ "sync": true })).await;
    }

    pub async fn revoke_token(&self, token: &str) {
        self.must("POST", "auth/token/revoke", json!({ "token": token })).await;
    }

    pub async fn revoke_accessor(&self, accessor: &str) {
        self.must("POST", "auth/token/revoke-accessor", json!({ "accessor": accessor })).await;
    }

    /// What `auth/token/lookup` says of a token.
    pub async fn look_up_token(&self, token: &str) -> Response {
        self.call("POST", "auth/token/lookup", json!({ "token": token })).await
    }

    /// Seals it for good. Never the server that other tests share.
    pub async fn seal(&self) {
        self.must("POST", "sys/seal", Value::Null).await;
    }
}
