//! `sys/…`: mounts, policies, namespaces, quotas, health, sealing.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::policy::{Policy, capabilities};
use super::state::{
    Answer, Engine, Mount, Op, Quota, Refusal, Reply, SYSTEM_TTL, Space, State, Tuning, denied, nothing, refuse,
};
use super::token::Token;
use super::values::{duration, flag, list, span, text};

/// A request to `sys/`, as far as it needs no more.
pub struct Asking<'a> {
    pub op: Op,
    pub path: &'a str,
    pub body: &'a Map<String, Value>,
    pub namespace: &'a str,
    pub now: Timestamp,
}

impl State {
    /// `sys/health` and `sys/seal-status`: for anybody, whatever the state of the server.
    pub fn health(&self, path: &str, now: Timestamp) -> Option<(u16, Value)> {
        let status = if self.sealed { 503 } else { self.standby.unwrap_or(200) };
        let version = "2.0.0+fake";
        match path {
            "sys/health" => Some((
                status,
                json!({
                    "initialized": true, "sealed": self.sealed, "standby": self.standby.is_some(), "version": version,
                    "server_time_utc": now.as_second(), "cluster_name": "fake", "cluster_id": "fake",
                }),
            )),
            "sys/seal-status" => {
                Some((200, json!({ "type": "shamir", "initialized": true, "sealed": self.sealed, "version": version })))
            }
            _ => None,
        }
    }

    /// All of `sys/` that needs a token.
    pub fn sys(&mut self, asking: &Asking<'_>, caller: &Token) -> Answer {
        let Asking { op, path, body, namespace, now } = *asking;
        let (area, rest) = path.split_once('/').unwrap_or((path, ""));
        match (op, area) {
            (_, "leases") => self.lease_endpoint(op, rest, body, namespace, now),
            (Op::Write, "renew" | "revoke" | "revoke-prefix") => self.lease_endpoint(op, path, body, namespace, now),
            (_, "wrapping") => self.wrapping_endpoint(op, rest, body, &caller.id),
            (_, "mounts" | "auth") => self.mounts(asking, area == "auth", rest),
            (Op::Read, "internal") => self.preflight(rest, namespace, caller),
            (_, "policies" | "policy") => self.policies(asking, rest.trim_start_matches("acl/")),
            (Op::Write, "capabilities-self") => self.capabilities_of(caller, body),
            (Op::Write, "capabilities") => match self.tokens.get(&text(body, "token")).cloned() {
                Some(token) => self.capabilities_of(&token, body),
                None => refuse(400, "invalid token"),
            },
            (_, "namespaces") => self.namespaces(asking, rest),
            (_, "quotas") => self.set_quota(asking, rest.trim_start_matches("rate-limit/")),
            (Op::Write, "seal") => {
                self.sealed = true;
                Ok(Reply::Empty)
            }
            (Op::Write, "tools") if rest.starts_with("random") => {
                let bytes = rest.split('/').nth(1).and_then(|n| n.parse().ok()).unwrap_or(32_usize);
                let hex = text(body, "format") == "hex";
                let random: String = std::iter::repeat_with(|| self.ids.id()).take(1 + bytes / 10).collect();
                let random: String = random.bytes().map(|b| format!("{b:02x}")).collect();
                let length = if hex { bytes * 2 } else { bytes.div_ceil(3) * 4 };
                Ok(Reply::Data(json!({ "random_bytes": &random[random.len() - length..] })))
            }
            _ => nothing(),
        }
    }

    /// What a token may do on a path (after the namespace). `root` may do all.
    pub fn capabilities(&self, token: &Token, namespace: &str, path: &str) -> Vec<String> {
        if token.policies.iter().any(|p| p == "root") && namespace.starts_with(&token.namespace) {
            return vec!["root".to_owned()];
        }
        let Some(space) = self.spaces.get(&token.namespace) else { return vec!["deny".to_owned()] };
        // A policy speaks of paths below the namespace that it is in.
        let Some(below) = namespace.strip_prefix(&token.namespace) else { return vec!["deny".to_owned()] };
        let path = format!("{below}{path}");
        capabilities(token.policies.iter().filter_map(|name| space.policies.get(name)), &path)
    }

    fn capabilities_of(&self, token: &Token, body: &Map<String, Value>) -> Answer {
        let mut paths = list(body, "paths");
        paths.extend(list(body, "path"));
        if paths.is_empty() {
            return refuse(400, "paths must be supplied");
        }
        let mut data = Map::new();
        for path in &paths {
            data.insert(path.clone(), json!(self.capabilities(token, &token.namespace, path)));
        }
        if let [one] = paths.as_slice() {
            data.insert("capabilities".to_owned(), data[one].clone());
        }
        Ok(Reply::Data(Value::Object(data)))
    }

    fn mounts(&mut self, asking: &Asking<'_>, auth: bool, path: &str) -> Answer {
        let Asking { op, body, .. } = *asking;
        let prefix = if auth { "auth/" } else { "" };
        let (path, tune) = match path.strip_suffix("/tune") {
            Some(path) => (path, true),
            None => (path, false),
        };
        let at = format!("{prefix}{}/", path.trim_end_matches('/'));
        match op {
            Op::Read if path.is_empty() => {
                let space = self.space(asking.namespace)?;
                let mine = |(at, _): &(&String, &Mount)| at.starts_with("auth/") == auth;
                let all = space.mounts.iter().filter(mine);
                let data: Map<_, _> = all.map(|(at, m)| (at[prefix.len()..].to_owned(), described(m))).collect();
                Ok(Reply::Data(Value::Object(data)))
            }
            Op::Write if tune => match self.space(asking.namespace)?.mounts.get_mut(&at) {
                Some(mount) => {
                    mount.tuning = tuned(body, mount.tuning);
                    Ok(Reply::Empty)
                }
                None => refuse(400, &format!("cannot fetch sysview for path {at:?}")),
            },
            Op::Write => self.mount(asking, auth, &at),
            Op::Delete => {
                self.space(asking.namespace)?.mounts.remove(&at);
                let gone = |l: &&super::lease::Lease| l.namespace == asking.namespace && l.path.starts_with(&at);
                let leases: Vec<String> = self.leases.values().filter(gone).map(|l| l.id.clone()).collect();
                for lease in leases {
                    self.leases.remove(&lease);
                }
                Ok(Reply::Empty)
            }
            _ => nothing(),
        }
    }

    fn mount(&mut self, asking: &Asking<'_>, auth: bool, at: &str) -> Answer {
        let kind = text(asking.body, "type");
        let mut options = asking.body.get("options").and_then(Value::as_object).cloned().unwrap_or_default();
        let v2 = text(&options, "version") == "2" || kind == "kv-v2";
        let Some(engine) = Engine::new(auth, &kind, v2) else {
            return refuse(400, &format!("plugin not found in the catalog: {kind}"));
        };
        if kind.starts_with("kv") {
            options.insert("version".to_owned(), json!(if v2 { "2" } else { "1" }));
        }
        let kind = kind.trim_end_matches("-v2").to_owned();
        let accessor = format!("{}{kind}_{}", if auth { "auth_" } else { "" }, self.ids.id());
        let config = asking.body.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
        let tuning = tuned(&config, Tuning { default: SYSTEM_TTL, max: SYSTEM_TTL });
        let space = self.space(asking.namespace)?;
        if space.mounts.contains_key(at) {
            return refuse(400, &format!("path is already in use at {at}"));
        }
        space.mounts.insert(at.to_owned(), Mount { kind, options, accessor, tuning, engine });
        Ok(Reply::Empty)
    }

    /// `sys/internal/ui/mounts/PATH`
    fn preflight(&mut self, path: &str, namespace: &str, caller: &Token) -> Answer {
        let Some(path) = path.strip_prefix("ui/mounts/") else { return nothing() };
        let path = path.trim_end_matches('/');
        let refusal = format!(
            "preflight capability check returned 403, please ensure client's policies grant access to path {path:?}"
        );
        let Some(at) = self.space(namespace)?.mount_of(path).map(str::to_owned) else { return refuse(403, &refusal) };
        if !self.touches(caller, namespace, &at) {
            return refuse(403, &refusal);
        }
        let mount = &self.spaces[namespace].mounts[&at];
        let mut data = described(mount);
        data["path"] = json!(at);
        Ok(Reply::Data(data))
    }

    /// True where some rule of the token's policies is about something below this mount.
    fn touches(&self, token: &Token, namespace: &str, mount: &str) -> bool {
        if token.policies.iter().any(|p| p == "root") {
            return true;
        }
        let Some(space) = self.spaces.get(&token.namespace) else { return false };
        let mount = format!("{}{mount}", namespace.strip_prefix(&token.namespace).unwrap_or_default());
        token.policies.iter().filter_map(|name| space.policies.get(name)).any(|policy| policy.touches(&mount))
    }

    fn policies(&mut self, asking: &Asking<'_>, name: &str) -> Answer {
        let space = self.space(asking.namespace)?;
        match asking.op {
            Op::Write => match Policy::parse(&text(asking.body, "policy")) {
                Some(policy) => {
                    space.policies.insert(name.to_owned(), policy);
                    Ok(Reply::Empty)
                }
                None => refuse(400, "failed to parse policy"),
            },
            Op::Read => match space.policies.get(name) {
                Some(policy) => Ok(Reply::Data(json!({ "name": name, "policy": policy.text }))),
                None => nothing(),
            },
            Op::Delete => {
                space.policies.remove(name);
                Ok(Reply::Empty)
            }
            _ => nothing(),
        }
    }

    fn namespaces(&mut self, asking: &Asking<'_>, name: &str) -> Answer {
        let path = format!("{}{}/", asking.namespace, name.trim_end_matches('/'));
        match asking.op {
            Op::Write => {
                let space = Space::new(&self.ids);
                self.spaces.entry(path.clone()).or_insert(space);
                Ok(Reply::Data(json!({ "path": path })))
            }
            Op::Read if self.spaces.contains_key(&path) => Ok(Reply::Data(json!({ "path": path }))),
            _ => nothing(),
        }
    }

    fn set_quota(&mut self, asking: &Asking<'_>, name: &str) -> Answer {
        let body = asking.body;
        match asking.op {
            Op::Write if name == "config" => {
                self.quota_headers = flag(body, "enable_rate_limit_response_headers") == Some(true);
                Ok(Reply::Empty)
            }
            Op::Write => {
                let rate = body.get("rate").and_then(Value::as_f64).or_else(|| text(body, "rate").parse().ok());
                let Some(rate) = rate.filter(|rate| *rate > 0.0) else {
                    return refuse(400, "'rate' must be greater than 0");
                };
                let interval = Some(span(body, "interval")).filter(|i| !i.is_zero()).unwrap_or(Duration::from_secs(1));
                let path = text(body, "path");
                let quota = Quota { rate, interval, path, since: asking.now, used: 0.0 };
                self.quotas.insert(name.to_owned(), quota);
                Ok(Reply::Empty)
            }
            Op::Delete => {
                self.quotas.remove(name);
                Ok(Reply::Empty)
            }
            _ => nothing(),
        }
    }

    /// Counts a request against the quotas; answers the seconds to wait where one is used up.
    pub fn over_quota(&mut self, path: &str, now: Timestamp) -> Option<u64> {
        for quota in self.quotas.values_mut().filter(|q| path.starts_with(&q.path)) {
            while quota.since + quota.interval <= now {
                let passed = super::values::until(quota.since, now).as_nanos() / quota.interval.as_nanos();
                quota.since += quota.interval * u32::try_from(passed).unwrap_or(u32::MAX);
                quota.used = 0.0;
            }
            quota.used += 1.0;
            if quota.used > quota.rate {
                let wait = super::values::until(now, quota.since + quota.interval).as_secs_f64().ceil().max(1.0);
                return Some(wait as u64);
            }
        }
        None
    }
}

/// What `sys/mounts` says of one.
fn described(mount: &Mount) -> Value {
    json!({
        "type": mount.kind,
        "accessor": mount.accessor,
        "options": if mount.options.is_empty() { Value::Null } else { json!(mount.options) },
        "config": {
            "default_lease_ttl": if mount.tuning.default == SYSTEM_TTL { 0 } else { mount.tuning.default.as_secs() },
            "max_lease_ttl": if mount.tuning.max == SYSTEM_TTL { 0 } else { mount.tuning.max.as_secs() },
            "force_no_cache": false,
        },
        "description": "", "local": false, "seal_wrap": false, "external_entropy_access": false, "uuid": mount.accessor,
    })
}

fn tuned(config: &Map<String, Value>, mut tuning: Tuning) -> Tuning {
    let given = |key: &str| config.get(key).and_then(duration).filter(|ttl| !ttl.is_zero());
    tuning.max = given("max_lease_ttl").unwrap_or(tuning.max);
    tuning.default = given("default_lease_ttl").unwrap_or(tuning.default).min(tuning.max);
    tuning
}

/// A refusal of a request that its policies do not allow.
pub fn check(state: &State, token: &Token, namespace: &str, path: &str, wanted: &[&str]) -> Result<(), Refusal> {
    let have = state.capabilities(token, namespace, path);
    if have.iter().any(|c| c == "root" || wanted.contains(&c.as_str())) { Ok(()) } else { denied() }
}
