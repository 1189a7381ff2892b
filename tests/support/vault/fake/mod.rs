//! A fake Vault: the semantics that the store relies on, a clock of its own, faults on demand, and counts of every request.
//!
//! [`Fake::answer`] is all of it; [`listen`] puts it behind sockets. What it answers and a real server does not is its bug:
//! `tests/vault_contract` compares them. It differs on purpose in what is called a shortcut where it is.

mod approle;
pub mod clock;
pub mod counts;
mod database;
pub mod faults;
mod generic;
mod kv1;
mod kv2;
mod lease;
pub mod listen;
mod logins;
mod pki;
mod policy;
mod route;
mod state;
mod sys;
mod token;
mod transit;
mod values;
mod wrapping;

use std::sync::{Arc, Mutex};

use serde_json::json;

use self::clock::Clock;
use self::counts::{Asked, Counts};
use self::faults::{Fault, Faults};
use self::state::{Engine, State};
use super::wire::{Request, Response};

/// The root token of every fake.
pub const ROOT: &str = "root";

/// A fake Vault. Clones are the same server.
#[derive(Clone)]
pub struct Fake(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    clock: Clock,
    faults: Faults,
    counts: Counts,
    /// Every answer, where a test wants to know what secrets it gave away.
    answers: Mutex<Option<Vec<serde_json::Value>>>,
}

impl Fake {
    /// Unsealed, active, with the machine's time and random ids; nothing is mounted but `sys`, `auth/token`, `cubbyhole`.
    pub fn new() -> Fake {
        Fake::with(Clock::real(), true)
    }

    /// With this clock. Without `random`, ids come from a counter.
    pub fn with(clock: Clock, random: bool) -> Fake {
        let mut state = State::new(random);
        state.root_token(ROOT, clock.now());
        let (faults, counts) = (Faults::default(), Counts::default());
        Fake(Arc::new(Inner { state: Mutex::new(state), clock, faults, counts, answers: Mutex::default() }))
    }

    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }

    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// Answers one request. Never resolves where it is told to hang.
    pub async fn answer(&self, request: Request) -> Response {
        if request.admin {
            return self.right_answer(&request);
        }
        let at = self.0.clock.now();
        let noted = self.0.counts.note(self.asked(&request, at));
        let fault = self.0.faults.take(&request);
        match &fault {
            Some(Fault::Hang) => return std::future::pending().await,
            Some(Fault::Delay(delay)) => tokio::time::sleep(*delay).await,
            _ => {}
        }
        let response = match fault.as_ref().and_then(Fault::instead) {
            Some(response) => response,
            None => self.right_answer(&request),
        };
        let response = fault.map_or_else(|| response.clone(), |fault| fault.spoil(response.clone()));
        self.0.counts.answered(noted, response.status);
        if let Some(answers) = &mut *self.0.answers.lock().unwrap() {
            answers.push(response.value());
        }
        response
    }

    fn right_answer(&self, request: &Request) -> Response {
        let now = self.0.clock.now();
        route::answer(&mut self.0.state.lock().unwrap(), request, now)
    }

    fn asked(&self, request: &Request, at: jiff::Timestamp) -> Asked {
        let state = self.0.state.lock().unwrap();
        let (namespace, path) = state.resolve(request.get("x-vault-namespace").unwrap_or_default(), &request.path);
        let mints = state.spaces.get(&namespace).is_some_and(|space| {
            let mount = space.mount_of(path).unwrap_or_default();
            let rest = path.strip_prefix(mount).unwrap_or_default();
            match space.mounts.get(mount).map(|m| &m.engine) {
                Some(Engine::Database(_)) => rest.starts_with("creds/"),
                Some(Engine::Pki(_)) => rest.starts_with("issue/") || rest.starts_with("sign/"),
                Some(Engine::Generic(_)) => rest != "config",
                _ => false,
            }
        });
        let method = request.method.to_ascii_uppercase();
        let kind = counts::kind(&method, path, mints);
        Asked { at, method, path: format!("{namespace}{path}"), kind, status: 0 }
    }

    /// Every answer from the first call of this on, as JSON.
    pub fn answers(&self) -> Vec<serde_json::Value> {
        self.0.answers.lock().unwrap().get_or_insert_default().clone()
    }

    /// Seals or unseals it (a dev server can only be sealed).
    pub fn seal(&self, sealed: bool) {
        self.0.state.lock().unwrap().sealed = sealed;
    }

    /// Makes it a standby that answers everything with this status (429, 472, 473), or active again.
    pub fn standby(&self, status: Option<u16>) {
        self.0.state.lock().unwrap().standby = status;
    }

    /// Makes it a standby that serves KV v2 so many versions behind; 0 is up to date.
    pub fn lag(&self, versions: u64) {
        self.0.state.lock().unwrap().lag = versions;
    }

    /// At most `rate` requests a second, then 429; with Retry-After unless `silent`. None lifts it.
    pub fn quota(&self, rate: Option<f64>, silent: bool) {
        self.0.state.lock().unwrap().quota_headers = !silent;
        let method = if rate.is_some() { "POST" } else { "DELETE" };
        let request = Request::new(method, "sys/quotas/rate-limit/test").token(ROOT);
        let body = json!({ "rate": rate });
        self.right_answer(&Request { admin: true, ..request.body(&body) });
    }

    /// A static role's rotation that is due does not happen (its ttl stays 0) until it is let go.
    pub fn hold_rotation(&self, mount: &str, role: &str, held: bool) {
        let request = Request::new("POST", &format!("{mount}/fake-hold/{role}")).token(ROOT);
        self.right_answer(&Request { admin: true, ..request.body(&json!({ "held": held })) });
    }

    /// True while this user of any database mount may log in.
    pub fn database_accepts(&self, user: &str, password: &str) -> bool {
        let mut state = self.0.state.lock().unwrap();
        state.sweep(self.0.clock.now());
        let accepts = |engine: &Engine| matches!(engine, Engine::Database(db) if db.accepts(user, password));
        state.spaces.values().flat_map(|space| space.mounts.values()).any(|mount| accepts(&mount.engine))
    }

    /// The leases alive now, in every namespace.
    pub fn live_leases(&self) -> Vec<String> {
        let mut state = self.0.state.lock().unwrap();
        state.sweep(self.0.clock.now());
        state.leases.keys().cloned().collect()
    }

    /// How many tokens are alive now, the root token aside.
    pub fn live_tokens(&self) -> usize {
        let mut state = self.0.state.lock().unwrap();
        state.sweep(self.0.clock.now());
        state.tokens.len() - 1
    }
}
