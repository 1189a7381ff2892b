//! What the fake was asked.

use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Login,
    /// `sys/leases/renew`.
    RenewLease,
    /// `auth/token/renew-self` and `renew`.
    RenewToken,
    /// Dynamic credentials, a certificate: an answer with something that was not there before.
    Mint,
    /// `lookup` of a lease, a token or a wrapping.
    Lookup,
    Revoke,
    /// `metadata` of KV v2.
    Metadata,
    /// `sys/internal/ui/mounts`.
    Mounts,
    /// Any other GET.
    Read,
    Other,
}

/// One request that was asked, whatever was answered.
#[derive(Debug, Clone)]
pub struct Asked {
    pub at: Timestamp,
    pub method: String,
    /// After `/v1/`, with the namespace before it, where there is one.
    pub path: String,
    pub kind: Kind,
    /// 0 while it is not answered, or never was.
    pub status: u16,
}

/// Every request in its order, those of the test itself aside.
#[derive(Default)]
pub struct Counts(Mutex<Vec<Asked>>);

impl Counts {
    pub(super) fn note(&self, asked: Asked) -> usize {
        let mut all = self.0.lock().unwrap();
        all.push(asked);
        all.len() - 1
    }

    pub(super) fn answered(&self, index: usize, status: u16) {
        if let Some(asked) = self.0.lock().unwrap().get_mut(index) {
            asked.status = status;
        }
    }

    pub fn all(&self) -> Vec<Asked> {
        self.0.lock().unwrap().clone()
    }

    /// Forgets what was asked so far.
    pub fn reset(&self) {
        self.0.lock().unwrap().clear();
    }

    pub fn total(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub fn of(&self, kind: Kind) -> usize {
        self.count(|asked| asked.kind == kind)
    }

    /// How often this path was asked with this method ("" is any).
    pub fn on(&self, method: &str, path: &str) -> usize {
        self.count(|a| a.path == path && (method.is_empty() || a.method.eq_ignore_ascii_case(method)))
    }

    pub fn count(&self, which: impl Fn(&Asked) -> bool) -> usize {
        self.0.lock().unwrap().iter().filter(|asked| which(asked)).count()
    }

    /// The most requests within any stretch of `window` (sliding) among those that `which` picks.
    pub fn peak(&self, window: Duration, which: impl Fn(&Asked) -> bool) -> usize {
        let mut times: Vec<_> = self.0.lock().unwrap().iter().filter(|a| which(a)).map(|a| a.at).collect();
        times.sort_unstable();
        let (mut first, mut peak) = (0, 0);
        for (last, at) in times.iter().enumerate() {
            while times[first] + window <= *at {
                first += 1;
            }
            peak = peak.max(last + 1 - first);
        }
        peak
    }
}

/// What a request is for, by its method and its path (after the namespace). `mints` are paths of other engines that mint.
pub fn kind(method: &str, path: &str, mints: bool) -> Kind {
    let parts: Vec<&str> = path.split('/').collect();
    let has = |part: &str| parts.contains(&part);
    match parts.as_slice() {
        ["sys", "leases", "renew", ..] | ["sys", "renew", ..] => Kind::RenewLease,
        ["auth", "token", "renew-self" | "renew" | "renew-accessor"] => Kind::RenewToken,
        ["sys", "leases", "lookup", ..] | ["sys", "wrapping", "lookup"] => Kind::Lookup,
        ["auth", "token", "lookup-self" | "lookup" | "lookup-accessor"] => Kind::Lookup,
        ["sys", "leases", "revoke" | "revoke-prefix" | "revoke-force", ..] | ["sys", "revoke", ..] => Kind::Revoke,
        ["auth", "token", "revoke-self" | "revoke" | "revoke-accessor" | "revoke-orphan"] => Kind::Revoke,
        ["sys", "internal", "ui", "mounts", ..] => Kind::Mounts,
        ["auth", _, "login", ..] | ["auth", _, _, "login", ..] => Kind::Login,
        ["sys" | "auth", ..] if method != "GET" => Kind::Other,
        _ if mints => Kind::Mint,
        _ if has("metadata") && method == "GET" => Kind::Metadata,
        _ if method == "GET" => Kind::Read,
        _ => Kind::Other,
    }
}
