//! All that the fake remembers, and how its parts answer each other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::lease::Lease;
use super::policy::Policy;
use super::token::Token;
use super::wrapping::Wrapped;
use super::{database, generic, kv1, kv2, logins, pki, transit};

/// Vault's own default and maximum TTL: 768 hours.
pub const SYSTEM_TTL: Duration = Duration::from_secs(768 * 3600);

/// What a request wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Read,
    List,
    Write,
    Delete,
    Patch,
}

/// A request, as an engine sees it.
pub struct Call<'a> {
    pub op: Op,
    /// Below the mount.
    pub path: &'a str,
    pub body: &'a Map<String, Value>,
    pub query: &'a BTreeMap<String, String>,
    pub now: Timestamp,
    pub ids: &'a Ids,
    pub cert: Option<&'a [u8]>,
    /// The mount's TTLs.
    pub tuning: Tuning,
    /// How many versions a standby is behind.
    pub lag: u64,
}

impl Call<'_> {
    pub fn parts(&self) -> Vec<&str> {
        self.path.trim_end_matches('/').split('/').collect()
    }
}

/// What a lease may last, as an engine asks for it.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    pub ttl: Duration,
    pub max: Duration,
    pub renewable: bool,
}

/// What a login grants.
#[derive(Debug, Clone, Default)]
pub struct Grant {
    pub policies: Vec<String>,
    pub no_default_policy: bool,
    pub ttl: Duration,
    pub max_ttl: Duration,
    pub explicit_max_ttl: Duration,
    pub period: Duration,
    pub num_uses: u64,
    pub batch: bool,
    pub fixed: bool,
    pub display_name: String,
    pub meta: Map<String, Value>,
}

/// What an engine answers.
pub enum Reply {
    Data(Value),
    /// Data with warnings.
    Warned(Value, Vec<String>),
    /// 404, and yet data: a version that was deleted.
    Gone(Value),
    /// Data with a lease duration and no lease (KV v1).
    Hinted(Value, Duration),
    Leased(Value, Terms),
    Auth(Grant),
    Empty,
    /// The whole body.
    Raw(u16, Value),
}

/// A status and the errors beside it.
#[derive(Debug)]
pub struct Refusal(pub u16, pub Vec<String>);

pub type Answer = Result<Reply, Refusal>;

pub fn refuse<T>(status: u16, error: &str) -> Result<T, Refusal> {
    let errors = if error.is_empty() { Vec::new() } else { vec![error.to_owned()] };
    Err(Refusal(status, errors))
}

/// 404 as Vault has it: with no error in it.
pub fn nothing<T>() -> Result<T, Refusal> {
    refuse(404, "")
}

pub fn unsupported<T>() -> Result<T, Refusal> {
    refuse(405, "1 error occurred:\n\t* unsupported operation\n\n")
}

pub fn denied<T>() -> Result<T, Refusal> {
    refuse(403, "1 error occurred:\n\t* permission denied\n\n")
}

/// Where ids come from: a counter (the same in every run) or the machine's random numbers.
pub struct Ids {
    next: AtomicU64,
    random: bool,
}

impl Ids {
    pub fn new(random: bool) -> Ids {
        Ids { next: AtomicU64::new(1), random }
    }

    /// 24 letters and digits, never the same twice.
    pub fn id(&self) -> String {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        if !self.random {
            return format!("fake{count:020}");
        }
        let mut bytes = [0_u8; 12];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).unwrap();
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// In the shape of a UUID.
    pub fn uuid(&self) -> String {
        let id: String = self.id().bytes().map(|b| format!("{b:02x}")).collect();
        let id = &id[id.len() - 32..];
        format!("{}-{}-{}-{}-{}", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..])
    }
}

/// A mount's TTLs.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    pub default: Duration,
    pub max: Duration,
}

pub enum Engine {
    Sys,
    Token,
    Cubbyhole(BTreeMap<String, Map<String, Value>>),
    Kv1(kv1::Kv1),
    Kv2(kv2::Kv2),
    Database(database::Database),
    Pki(Box<pki::Pki>),
    Transit(transit::Transit),
    Generic(generic::Generic),
    Login(Box<logins::Logins>),
}

impl Engine {
    /// Of a mount's `type` (secrets) or an auth method's; `None` where the fake has no such engine.
    pub fn new(auth: bool, kind: &str, v2: bool) -> Option<Engine> {
        Some(match kind {
            _ if auth => Engine::Login(Box::new(logins::Logins::new(kind)?)),
            "kv" if v2 => Engine::Kv2(Default::default()),
            "kv-v2" => Engine::Kv2(Default::default()),
            "kv" | "kv-v1" | "generic" => Engine::Kv1(Default::default()),
            "database" => Engine::Database(Default::default()),
            "pki" => Engine::Pki(Box::default()),
            "transit" => Engine::Transit(Default::default()),
            "fake" => Engine::Generic(Default::default()),
            _ => return None,
        })
    }

    /// What every engine but `sys`, `auth/token` and the cubbyhole answers from its own memory alone.
    pub fn answer(&mut self, call: &Call<'_>) -> Answer {
        match self {
            Engine::Kv1(engine) => engine.answer(call),
            Engine::Kv2(engine) => engine.answer(call),
            Engine::Database(engine) => engine.answer(call),
            Engine::Pki(engine) => engine.answer(call),
            Engine::Transit(engine) => engine.answer(call),
            Engine::Generic(engine) => engine.answer(call),
            Engine::Login(engine) => engine.answer(call),
            Engine::Sys | Engine::Token | Engine::Cubbyhole(_) => nothing(),
        }
    }
}

pub struct Mount {
    pub kind: String,
    pub options: Map<String, Value>,
    pub accessor: String,
    pub tuning: Tuning,
    pub engine: Engine,
}

/// A namespace: "" is the root, others end with a slash.
#[derive(Default)]
pub struct Space {
    /// Paths end with a slash; auth methods are below `auth/`.
    pub mounts: BTreeMap<String, Mount>,
    pub policies: BTreeMap<String, Policy>,
}

impl Space {
    pub fn new(ids: &Ids) -> Space {
        let mut space = Space::default();
        let builtin = [
            ("sys/", "system", Engine::Sys),
            ("auth/token/", "token", Engine::Token),
            ("cubbyhole/", "cubbyhole", Engine::Cubbyhole(BTreeMap::new())),
        ];
        for (path, kind, engine) in builtin {
            let tuning = Tuning { default: SYSTEM_TTL, max: SYSTEM_TTL };
            let accessor = format!("{kind}_{}", ids.id());
            let mount = Mount { kind: kind.to_owned(), options: Map::new(), accessor, tuning, engine };
            space.mounts.insert(path.to_owned(), mount);
        }
        space.policies.insert("default".to_owned(), Policy::parse(super::policy::DEFAULT).unwrap());
        space
    }

    /// The mount that a path is below.
    pub fn mount_of(&self, path: &str) -> Option<&str> {
        let below = |mount: &&String| path.starts_with(mount.as_str()) || path == mount.trim_end_matches('/');
        self.mounts.keys().filter(below).max_by_key(|m| m.len()).map(String::as_str)
    }
}

/// `sys/quotas/rate-limit/NAME`: so many requests in an interval.
pub struct Quota {
    pub rate: f64,
    pub interval: Duration,
    pub path: String,
    pub since: Timestamp,
    pub used: f64,
}

pub struct State {
    pub ids: Ids,
    pub spaces: BTreeMap<String, Space>,
    pub tokens: BTreeMap<String, Token>,
    pub leases: BTreeMap<String, Lease>,
    pub wrapped: BTreeMap<String, Wrapped>,
    pub quotas: BTreeMap<String, Quota>,
    /// Whether a 429 says when to come back (`sys/quotas/config`); not so by default.
    pub quota_headers: bool,
    pub sealed: bool,
    /// The status that a standby answers everything with.
    pub standby: Option<u16>,
    /// How many versions of KV v2 this server is behind.
    pub lag: u64,
    /// Nothing ends before this.
    pub next_end: Timestamp,
}

impl State {
    pub fn new(random: bool) -> State {
        let ids = Ids::new(random);
        let spaces = BTreeMap::from([(String::new(), Space::new(&ids))]);
        State {
            ids,
            spaces,
            tokens: BTreeMap::new(),
            leases: BTreeMap::new(),
            wrapped: BTreeMap::new(),
            quotas: BTreeMap::new(),
            quota_headers: false,
            sealed: false,
            standby: None,
            lag: 0,
            next_end: Timestamp::MAX,
        }
    }

    pub fn space(&mut self, namespace: &str) -> Result<&mut Space, Refusal> {
        match self.spaces.get_mut(namespace) {
            Some(space) => Ok(space),
            None => refuse(404, &format!("no handler for route. route entry not found in namespace {namespace:?}")),
        }
    }

    /// The longest namespace that a path begins with, and the rest.
    pub fn resolve<'a>(&self, header: &str, path: &'a str) -> (String, &'a str) {
        let header = header.trim_matches('/');
        let base = if header.is_empty() { String::new() } else { format!("{header}/") };
        let mut found = (base.clone(), path);
        for (at, _) in path.match_indices('/') {
            let candidate = format!("{base}{}", &path[..=at]);
            if self.spaces.contains_key(&candidate) {
                found = (candidate, &path[at + 1..]);
            }
        }
        found
    }

    /// Ends what has come to its end.
    pub fn sweep(&mut self, now: Timestamp) {
        if now < self.next_end {
            return;
        }
        let ended = |end: Option<Timestamp>| end.is_some_and(|end| end <= now);
        let tokens: Vec<String> = self.tokens.values().filter(|t| ended(t.ends)).map(|t| t.id.clone()).collect();
        for token in tokens {
            self.revoke_token(&token);
        }
        let leases: Vec<String> = self.leases.values().filter(|l| l.ends <= now).map(|l| l.id.clone()).collect();
        for lease in leases {
            self.revoke_lease(&lease);
        }
        self.wrapped.retain(|_, wrapped| wrapped.ends > now);
        let ends = self.tokens.values().filter_map(|t| t.ends).chain(self.leases.values().map(|l| l.ends));
        self.next_end = ends.chain(self.wrapped.values().map(|w| w.ends)).min().unwrap_or(Timestamp::MAX);
    }

    /// Something ends then.
    pub fn ends_at(&mut self, end: Timestamp) {
        self.next_end = self.next_end.min(end);
    }
}
