//! Tokens, and `auth/token/…`.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::state::{Answer, Engine, Grant, Op, Refusal, Reply, SYSTEM_TTL, State, denied, nothing, refuse};
use super::values::{duration, flag, human, list, number, seconds_until, span, text, until};

#[derive(Debug, Clone)]
pub struct Token {
    pub id: String,
    pub accessor: String,
    pub namespace: String,
    pub policies: Vec<String>,
    pub path: String,
    pub display_name: String,
    pub meta: Map<String, Value>,
    pub issued: Timestamp,
    pub renewed: Option<Timestamp>,
    pub creation_ttl: Duration,
    pub ends: Option<Timestamp>,
    pub max_ttl: Duration,
    pub explicit_max_ttl: Duration,
    pub period: Duration,
    pub renewable: bool,
    pub batch: bool,
    pub parent: Option<String>,
    pub uses: Option<u64>,
}

/// `ttl` as Vault grants it: no later than `issued + max`; with the warning where it had to be cut. Sources: OpenBao's
/// `sdk/framework/lease.go`, `CalculateTTL`.
pub fn granted(
    now: Timestamp,
    issued: Timestamp,
    ttl: Duration,
    max: Duration,
) -> Result<(Duration, Vec<String>), Refusal> {
    let left = until(now, issued + max);
    if left.as_secs() == 0 {
        return refuse(400, "past the max TTL, cannot renew");
    }
    if ttl <= left {
        return Ok((ttl, Vec::new()));
    }
    let left = Duration::from_secs(left.as_secs_f64().round() as u64);
    let (ttl, max) = (human(ttl), human(left));
    let warning = format!("TTL of {ttl:?} exceeded the effective max_ttl of {max:?}; TTL value is capped accordingly");
    Ok((left, vec![warning]))
}

fn or(first: Duration, second: Duration) -> Duration {
    if first.is_zero() { second } else { first }
}

impl Token {
    fn max(&self) -> Duration {
        [self.max_ttl, self.explicit_max_ttl].into_iter().filter(|m| !m.is_zero()).min().unwrap_or(SYSTEM_TTL)
    }

    pub fn auth(&self, now: Timestamp) -> Value {
        json!({
            "client_token": self.id,
            "accessor": self.accessor,
            "policies": self.policies,
            "token_policies": self.policies,
            "metadata": if self.meta.is_empty() { Value::Null } else { json!(self.meta) },
            "lease_duration": self.ends.map_or(0, |ends| seconds_until(now, ends)),
            "renewable": self.renewable,
            "entity_id": "",
            "token_type": self.kind(),
            "orphan": self.parent.is_none(),
            "mfa_requirement": null,
            "num_uses": self.uses.unwrap_or(0),
        })
    }

    fn kind(&self) -> &'static str {
        if self.batch { "batch" } else { "service" }
    }

    fn looked_up(&self, now: Timestamp, with_id: bool) -> Value {
        let mut data = json!({
            "id": if with_id { self.id.as_str() } else { "" },
            "accessor": self.accessor,
            "policies": self.policies,
            "path": self.path,
            "meta": if self.meta.is_empty() { Value::Null } else { json!(self.meta) },
            "display_name": self.display_name,
            "num_uses": self.uses.unwrap_or(0),
            "orphan": self.parent.is_none(),
            "creation_time": self.issued.as_second(),
            "creation_ttl": self.creation_ttl.as_secs(),
            "expire_time": self.ends.map(|ends| ends.to_string()),
            "ttl": self.ends.map_or(0, |ends| seconds_until(now, ends)),
            "explicit_max_ttl": self.explicit_max_ttl.as_secs(),
            "entity_id": "",
            "type": self.kind(),
        });
        if self.ends.is_some() {
            data["renewable"] = json!(self.renewable);
            data["issue_time"] = json!(self.issued.to_string());
        }
        if !self.period.is_zero() {
            data["period"] = json!(self.period.as_secs());
        }
        if !self.namespace.is_empty() {
            data["namespace_path"] = json!(self.namespace);
        }
        if let Some(renewed) = self.renewed {
            data["last_renewal"] = json!(renewed.to_string());
            data["last_renewal_time"] = json!(renewed.as_second());
        }
        data
    }
}

impl State {
    /// The root token, with an id of the test's choice.
    pub fn root_token(&mut self, id: &str, now: Timestamp) {
        let token = Token {
            id: id.to_owned(),
            accessor: self.ids.id(),
            namespace: String::new(),
            policies: vec!["root".to_owned()],
            path: "auth/token/root".to_owned(),
            display_name: "root".to_owned(),
            meta: Map::new(),
            issued: now,
            renewed: None,
            creation_ttl: Duration::ZERO,
            ends: None,
            max_ttl: Duration::ZERO,
            explicit_max_ttl: Duration::ZERO,
            period: Duration::ZERO,
            renewable: false,
            batch: false,
            parent: None,
            uses: None,
        };
        self.tokens.insert(id.to_owned(), token);
    }

    /// A new token of a grant; answers it and what Vault warns of.
    pub fn new_token(
        &mut self,
        grant: Grant,
        namespace: &str,
        path: &str,
        parent: Option<&str>,
        now: Timestamp,
    ) -> (Token, Vec<String>) {
        let max = [grant.max_ttl, grant.explicit_max_ttl].into_iter().filter(|m| !m.is_zero()).min();
        let wanted = or(grant.period, or(grant.ttl, SYSTEM_TTL));
        let cap = if grant.period.is_zero() { max } else { Some(grant.explicit_max_ttl).filter(|m| !m.is_zero()) };
        let (ttl, warnings) = granted(now, now, wanted, cap.unwrap_or(SYSTEM_TTL).min(SYSTEM_TTL)).unwrap();
        let mut policies = grant.policies;
        if !policies.iter().any(|p| p == "root") && !grant.no_default_policy {
            policies.push("default".to_owned());
        }
        policies.sort();
        policies.dedup();
        let immortal = policies.iter().any(|p| p == "root") && grant.ttl.is_zero() && grant.period.is_zero();
        let prefix = if grant.batch { "b." } else { "s." };
        let token = Token {
            id: format!("{prefix}{}", self.ids.id()),
            accessor: if grant.batch { String::new() } else { self.ids.id() },
            namespace: namespace.to_owned(),
            policies,
            path: path.to_owned(),
            display_name: grant.display_name,
            meta: grant.meta,
            issued: now,
            renewed: None,
            creation_ttl: if immortal { Duration::ZERO } else { ttl },
            ends: (!immortal).then(|| now + ttl),
            max_ttl: grant.max_ttl,
            explicit_max_ttl: grant.explicit_max_ttl,
            period: grant.period,
            renewable: !grant.batch && !grant.fixed && !immortal,
            batch: grant.batch,
            parent: parent.map(str::to_owned),
            uses: (grant.num_uses > 0).then_some(grant.num_uses),
        };
        if let Some(ends) = token.ends {
            self.ends_at(ends);
        }
        self.tokens.insert(token.id.clone(), token.clone());
        (token, warnings)
    }

    /// Ends a token, its children, its leases and its cubbyhole.
    pub fn revoke_token(&mut self, id: &str) {
        let Some(token) = self.tokens.remove(id) else { return };
        let children: Vec<String> =
            self.tokens.values().filter(|t| t.parent.as_deref() == Some(id)).map(|t| t.id.clone()).collect();
        for child in children {
            self.revoke_token(&child);
        }
        let leases: Vec<String> = self.leases.values().filter(|l| l.token == id).map(|l| l.id.clone()).collect();
        for lease in leases {
            self.revoke_lease(&lease);
        }
        let space = self.spaces.get_mut(&token.namespace);
        if let Some(Engine::Cubbyhole(all)) = space.and_then(|s| s.mounts.get_mut("cubbyhole/")).map(|m| &mut m.engine)
        {
            let own = format!("{id}/");
            all.retain(|path, _| !path.starts_with(&own));
        }
    }

    /// `auth/token/…`
    pub fn token_endpoint(
        &mut self,
        op: Op,
        path: &str,
        body: &Map<String, Value>,
        caller: &Token,
        namespace: &str,
        now: Timestamp,
    ) -> Answer {
        let named = |key: &str| text(body, key);
        let (what, role) = path.split_once('/').unwrap_or((path, ""));
        match (op, what) {
            (Op::Write, "create" | "create-orphan") => {
                let _ = role;
                self.create_token(body, caller, what == "create-orphan", namespace, now)
            }
            (Op::Read | Op::Write, "lookup-self") => Ok(Reply::Data(caller.looked_up(now, true))),
            (Op::Write | Op::Read, "lookup") => match self.tokens.get(&named("token")) {
                Some(token) => Ok(Reply::Data(token.looked_up(now, true))),
                None => refuse(403, "bad token"),
            },
            (Op::Write, "lookup-accessor") => match self.by_accessor(&named("accessor")) {
                Some(token) => Ok(Reply::Data(token.looked_up(now, false))),
                None => refuse(403, "invalid accessor"),
            },
            (Op::Write, "renew-self") => self.renew_token(&caller.id, body, now),
            (Op::Write, "renew") => self.renew_token(&named("token"), body, now),
            (Op::Write, "revoke-self") => {
                self.revoke_token(&caller.id);
                Ok(Reply::Empty)
            }
            (Op::Write, "revoke") => {
                self.revoke_token(&named("token"));
                Ok(Reply::Empty)
            }
            (Op::Write, "revoke-accessor") => match self.by_accessor(&named("accessor")).map(|t| t.id.clone()) {
                Some(id) => {
                    self.revoke_token(&id);
                    Ok(Reply::Empty)
                }
                None => refuse(400, "invalid accessor"),
            },
            _ => nothing(),
        }
    }

    fn by_accessor(&self, accessor: &str) -> Option<&Token> {
        self.tokens.values().find(|t| !accessor.is_empty() && t.accessor == accessor)
    }

    fn create_token(
        &mut self,
        body: &Map<String, Value>,
        caller: &Token,
        orphan: bool,
        namespace: &str,
        now: Timestamp,
    ) -> Answer {
        let mut policies = list(body, "policies");
        if policies.is_empty() {
            policies = caller.policies.clone();
        }
        let root = caller.policies.iter().any(|p| p == "root");
        if !root && policies.iter().any(|p| p != "default" && !caller.policies.contains(p)) {
            return refuse(400, "child policies must be subset of parent");
        }
        let orphan = orphan || flag(body, "no_parent") == Some(true);
        if orphan && !root && flag(body, "no_parent") == Some(true) {
            return denied();
        }
        let batch = text(body, "type") == "batch";
        if batch && (!span(body, "period").is_zero() || !span(body, "explicit_max_ttl").is_zero()) {
            return refuse(400, "batch tokens cannot have an explicit max TTL or period");
        }
        let grant = Grant {
            policies,
            no_default_policy: flag(body, "no_default_policy") == Some(true),
            ttl: or(span(body, "ttl"), span(body, "lease")),
            explicit_max_ttl: span(body, "explicit_max_ttl"),
            period: span(body, "period"),
            num_uses: number(body, "num_uses").unwrap_or(0),
            batch,
            fixed: flag(body, "renewable") == Some(false),
            display_name: format!("token-{}", text(body, "display_name")).trim_end_matches('-').to_owned(),
            meta: body.get("meta").and_then(Value::as_object).cloned().unwrap_or_default(),
            ..Grant::default()
        };
        let parent = (!orphan).then_some(caller.id.as_str());
        let (token, warnings) = self.new_token(grant, namespace, "auth/token/create", parent, now);
        Ok(Reply::Raw(200, json!({ "auth": token.auth(now), "warnings": warnings })))
    }

    fn renew_token(&mut self, id: &str, body: &Map<String, Value>, now: Timestamp) -> Answer {
        let Some(token) = self.tokens.get_mut(id) else { return refuse(400, "token not found") };
        if token.batch {
            return refuse(400, "batch tokens cannot be renewed");
        }
        if !token.renewable {
            return refuse(400, "lease is not renewable");
        }
        let increment = body.get("increment").and_then(duration).unwrap_or_default();
        let (ttl, warnings) = if token.period.is_zero() {
            let default = if token.explicit_max_ttl.is_zero() && token.max_ttl.is_zero() {
                token.creation_ttl
            } else {
                SYSTEM_TTL
            };
            let wanted = or(increment, token.creation_ttl.min(default));
            granted(now, token.issued, wanted, token.max())?
        } else {
            let cap = or(token.explicit_max_ttl, Duration::from_secs(u32::MAX.into()));
            granted(now, token.issued, token.period, cap)?
        };
        token.renewed = Some(now);
        token.ends = Some(now + ttl);
        let auth = token.auth(now);
        self.ends_at(now + ttl);
        Ok(Reply::Raw(200, json!({ "auth": auth, "warnings": warnings })))
    }
}
