//! What the store relies on in Vault, pinned on every server there is: the fake always, and a real `vault` or `bao` where
//! `VAULT_BIN` names one. What the fake answers and the real one does not is a bug of the fake.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

#[path = "../support/vault/mod.rs"]
mod vault;

mod database;
mod fake_only;
mod faults;
mod kv;
mod leases;
mod logins;
mod minted;
mod policy;
mod store;
mod tokens;

use serde_json::Value;
use vault::server::VaultServer;
use vault::wire::{Request, Response};

/// A request over HTTP, as a client with this token makes it; `body` null is none.
async fn ask(server: &dyn VaultServer, token: &str, method: &str, path: &str, body: Value) -> Response {
    let request = Request::new(method, path).token(token).body(&body);
    vault::http::send(server.address(), request).await
}

/// A GET with this token.
async fn get(server: &dyn VaultServer, token: &str, path: &str) -> Response {
    ask(server, token, "GET", path, Value::Null).await
}
