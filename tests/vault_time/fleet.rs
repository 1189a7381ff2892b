//! A server in memory with what agents use, and many agents on it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use leasehold::config::model::VaultAuth;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::agent::{Agent, Plan, secs};
use crate::line::Book;
use crate::vault::fake::clock::Clock;
use crate::vault::fake::{Fake, ROOT};
use crate::vault::server::{Database, VaultServer};
use crate::vault::wire::{Request, Response};

/// The fake, with no socket before it.
struct Memory(Fake);

impl VaultServer for Memory {
    fn name(&self) -> &str {
        "fake"
    }

    fn address(&self) -> &str {
        "http://vault:8200"
    }

    fn root_token(&self) -> &str {
        ROOT
    }

    fn send(&self, mut request: Request) -> BoxFuture<'_, Response> {
        request.admin = true;
        Box::pin(self.0.answer(request))
    }

    fn database(&self) -> Option<Database> {
        Some(Database { connection_url: "fake://".to_owned(), username: String::new(), password: String::new() })
    }

    fn database_accepts(&self, user: &str, password: &str) -> bool {
        self.0.database_accepts(user, password)
    }

    fn make_database_user(&self, _user: &str) {}

    fn fake(&self) -> Option<&Fake> {
        Some(&self.0)
    }
}

/// How long what the server grants lasts.
pub struct Terms {
    /// Of a token.
    pub token: (Duration, Duration),
    /// Of a lease.
    pub lease: (Duration, Duration),
}

/// A server: KV v2 with `app`, the dynamic role `app`, an AppRole that may read both.
pub struct Site {
    pub server: Box<dyn VaultServer>,
    pub fake: Fake,
    pub book: Arc<Book>,
    pub kv: String,
    pub database: String,
    approle: (PathBuf, PathBuf, String),
    folder: TempDir,
}

impl Site {
    pub async fn new(terms: &Terms) -> Self {
        let fake = Fake::with(Clock::tokio(), false);
        let server: Box<dyn VaultServer> = Box::new(Memory(fake.clone()));
        let folder = tempfile::tempdir_in(if std::path::Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" });
        let folder = folder.unwrap();
        let text = |span: Duration| format!("{}s", span.as_secs());
        let kv = server.kv(2).await;
        server.put(&kv, "app", json!({"api_key": "first"})).await;
        let database = server.database_mount().await.unwrap();
        server.database_role(&database, "app", &text(terms.lease.0), &text(terms.lease.1)).await;
        let policy = format!(
            r#"path "{kv}/*" {{ capabilities = ["read"] }} path "{database}/creds/app" {{ capabilities = ["read"] }}
               path "sys/leases/*" {{ capabilities = ["update"] }}"#
        );
        server.policy("app", &policy).await;
        let role =
            json!({"token_policies": "app", "token_ttl": text(terms.token.0), "token_max_ttl": text(terms.token.1)});
        let mount = server.approle(role).await;
        let (role_id, secret_id) = (folder.path().join("role-id"), folder.path().join("secret-id"));
        std::fs::write(&role_id, server.role_id(&mount).await).unwrap();
        std::fs::write(&secret_id, server.secret_id(&mount).await).unwrap();
        let approle = (role_id, secret_id, mount.trim_start_matches("auth/").to_owned());
        Self { server, fake, book: Book::new(), kv, database, approle, folder }
    }

    /// An agent with both secrets.
    pub fn plan(&self) -> Plan {
        let (role_id_file, secret_id_file, mount) = self.approle.clone();
        Plan {
            fake: self.fake.clone(),
            book: Arc::clone(&self.book),
            auth: VaultAuth::AppRole { mount, role_id_file, secret_id_file: Some(secret_id_file), wrapped: false },
            secrets: vec![
                ("kv".into(), format!("{}/app", self.kv)),
                ("db".into(), format!("{}/creds/app", self.database)),
            ],
            commit: secs(5),
        }
    }

    pub fn start(&self, plan: &Plan, number: u32) -> Agent {
        let folder = self.folder.path().join(number.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        Agent::start(plan, number, &folder)
    }

    /// What lives of the dynamic role.
    pub async fn leases(&self) -> Vec<String> {
        self.server.leases(&format!("{}/creds/app", self.database)).await
    }

    /// The server's clock goes on.
    pub async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    pub async fn write(&self, value: Value) {
        self.server.put(&self.kv, "app", json!({"api_key": value})).await;
    }
}
