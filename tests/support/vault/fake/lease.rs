//! Leases, and `sys/leases/…`.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::state::{Answer, Engine, Op, Reply, State, Terms, nothing, refuse};
use super::token::{Token, granted};
use super::values::{duration, seconds_until, text};

#[derive(Debug, Clone)]
pub struct Lease {
    pub id: String,
    pub namespace: String,
    /// The path that it was read from, without the namespace.
    pub path: String,
    /// The token that made it.
    pub token: String,
    pub issued: Timestamp,
    pub renewed: Option<Timestamp>,
    pub ends: Timestamp,
    pub terms: Terms,
}

impl State {
    /// A new lease under a token. A batch token's leases end with it and cannot be renewed.
    pub fn new_lease(&mut self, namespace: &str, path: &str, token: &Token, mut terms: Terms, now: Timestamp) -> Lease {
        let mut ttl = terms.ttl.min(terms.max);
        if token.batch {
            terms.renewable = false;
            if let Some(ends) = token.ends {
                ttl = ttl.min(super::values::until(now, ends));
            }
        }
        let lease = Lease {
            id: format!("{path}/{}", self.ids.id()),
            namespace: namespace.to_owned(),
            path: path.to_owned(),
            token: token.id.clone(),
            issued: now,
            renewed: None,
            ends: now + ttl,
            terms,
        };
        self.ends_at(lease.ends);
        self.leases.insert(lease.id.clone(), lease.clone());
        lease
    }

    /// Ends a lease; its database user is gone at once. True where there was one.
    pub fn revoke_lease(&mut self, id: &str) -> bool {
        let Some(lease) = self.leases.remove(id) else { return false };
        if let Some(space) = self.spaces.get_mut(&lease.namespace)
            && let Some(mount) = space.mount_of(&lease.path).map(str::to_owned)
            && let Some(Engine::Database(database)) = space.mounts.get_mut(&mount).map(|m| &mut m.engine)
        {
            database.forget(&lease.id);
        }
        true
    }

    /// `sys/leases/…`
    pub fn lease_endpoint(
        &mut self,
        op: Op,
        path: &str,
        body: &Map<String, Value>,
        namespace: &str,
        now: Timestamp,
    ) -> Answer {
        let (what, rest) = path.split_once('/').unwrap_or((path, ""));
        let id = if rest.is_empty() { text(body, "lease_id") } else { rest.to_owned() };
        match (op, what) {
            (Op::List, "lookup") => self.list_leases(rest, namespace),
            (_, "renew" | "lookup") | (Op::Write, "revoke") if id.is_empty() => {
                refuse(400, "lease_id must be specified")
            }
            (Op::Write, "renew") => self.renew_lease(&id, body, namespace, now),
            (Op::Write, "lookup") => self.look_up_lease(&id, now),
            (Op::Write, "revoke") => {
                self.revoke_lease(&id);
                Ok(Reply::Empty)
            }
            (Op::Write, "revoke-prefix" | "revoke-force") => {
                let prefix = format!("{}/", rest.trim_end_matches('/'));
                let below = |l: &&Lease| l.namespace == namespace && l.id.starts_with(&prefix);
                let all: Vec<String> = self.leases.values().filter(below).map(|l| l.id.clone()).collect();
                for id in all {
                    self.revoke_lease(&id);
                }
                Ok(Reply::Empty)
            }
            _ => nothing(),
        }
    }

    fn list_leases(&self, prefix: &str, namespace: &str) -> Answer {
        let prefix = if prefix.is_empty() { String::new() } else { format!("{}/", prefix.trim_end_matches('/')) };
        let mut keys: Vec<String> = Vec::new();
        for lease in self.leases.values().filter(|l| l.namespace == namespace) {
            if let Some(rest) = lease.id.strip_prefix(&prefix) {
                keys.push(rest.split_inclusive('/').next().unwrap_or_default().to_owned());
            }
        }
        keys.sort();
        keys.dedup();
        if keys.is_empty() { nothing() } else { Ok(Reply::Data(json!({ "keys": keys }))) }
    }

    fn look_up_lease(&self, id: &str, now: Timestamp) -> Answer {
        let Some(lease) = self.leases.get(id) else { return refuse(400, "invalid lease") };
        Ok(Reply::Data(json!({
            "id": lease.id,
            "issue_time": lease.issued.to_string(),
            "expire_time": lease.ends.to_string(),
            "last_renewal": lease.renewed.map(|at| at.to_string()),
            "ttl": seconds_until(now, lease.ends),
            "renewable": lease.terms.renewable,
            "path": lease.path,
        })))
    }

    fn renew_lease(&mut self, id: &str, body: &Map<String, Value>, namespace: &str, now: Timestamp) -> Answer {
        let Some(lease) = self.leases.get(id).cloned() else { return refuse(400, "lease not found") };
        if !lease.terms.renewable {
            return refuse(400, "lease is not renewable");
        }
        // As the role stands now, not as it stood when the lease was made.
        let space = self.space(namespace)?;
        let mount = space.mount_of(&lease.path).unwrap_or_default().to_owned();
        let terms = match space.mounts.get(&mount).map(|m| (&m.engine, m.tuning)) {
            Some((Engine::Database(database), tuning)) => {
                let role = lease.path.rsplit('/').next().unwrap_or_default();
                match database.terms(role, tuning) {
                    Some(terms) => terms,
                    None => return refuse(400, "error during renew: could not find role"),
                }
            }
            _ => lease.terms,
        };
        let increment = body.get("increment").and_then(duration).unwrap_or_default();
        let wanted = if increment == Duration::ZERO { terms.ttl } else { increment };
        let (ttl, warnings) = granted(now, lease.issued, wanted, terms.max)?;
        let lease = self.leases.get_mut(id).unwrap();
        lease.ends = now + ttl;
        lease.renewed = Some(now);
        self.ends_at(now + ttl);
        Ok(Reply::Raw(
            200,
            json!({
                "lease_id": id, "renewable": true, "lease_duration": ttl.as_secs(), "data": null,
                "warnings": if warnings.is_empty() { Value::Null } else { json!(warnings) },
            }),
        ))
    }
}
