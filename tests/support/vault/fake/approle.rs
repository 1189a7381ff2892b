//! AppRole: roles, role ids, secret ids.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::logins::grant;
use super::state::{Answer, Call, Op, Reply, nothing, refuse};
use super::values::{flag, number, seconds_until, span, text};

struct SecretId {
    role: String,
    accessor: String,
    ends: Option<Timestamp>,
    uses: Option<u64>,
    metadata: Map<String, Value>,
}

#[derive(Default)]
pub struct AppRole {
    roles: BTreeMap<String, Map<String, Value>>,
    /// Role id to role.
    ids: BTreeMap<String, String>,
    secrets: BTreeMap<String, SecretId>,
}

impl AppRole {
    /// `role/…`
    pub fn answer(&mut self, call: &Call<'_>) -> Answer {
        let parts = call.parts();
        let Some(name) = parts.get(1).map(|n| (*n).to_owned()) else { return nothing() };
        match (call.op, &parts[2..]) {
            (Op::Write, []) => {
                if !self.roles.contains_key(&name) {
                    self.ids.insert(call.ids.uuid(), name.clone());
                }
                self.roles.entry(name).or_default().extend(call.body.clone());
                Ok(Reply::Empty)
            }
            (Op::Read, []) => self.roles.get(&name).map_or_else(nothing, |role| Ok(Reply::Data(json!(role)))),
            (Op::Delete, []) => {
                self.roles.remove(&name);
                self.ids.retain(|_, role| *role != name);
                self.secrets.retain(|_, secret| secret.role != name);
                Ok(Reply::Empty)
            }
            (Op::Read, ["role-id"]) => match self.ids.iter().find(|(_, role)| **role == name) {
                Some((id, _)) => Ok(Reply::Data(json!({ "role_id": id }))),
                None => nothing(),
            },
            (Op::Write, ["role-id"]) => {
                self.ids.retain(|_, role| *role != name);
                self.ids.insert(text(call.body, "role_id"), name);
                Ok(Reply::Empty)
            }
            (Op::Write, ["secret-id"]) => self.secret_id(&name, call),
            (Op::Write, ["secret-id", "destroy"]) => {
                self.secrets.remove(&text(call.body, "secret_id"));
                Ok(Reply::Empty)
            }
            _ => nothing(),
        }
    }

    fn secret_id(&mut self, name: &str, call: &Call<'_>) -> Answer {
        let Some(role) = self.roles.get(name) else { return nothing() };
        let ttl = span(role, "secret_id_ttl");
        let uses = number(role, "secret_id_num_uses").filter(|n| *n > 0);
        let (id, accessor) = (call.ids.uuid(), call.ids.uuid());
        let metadata = serde_json::from_str(&text(call.body, "metadata")).unwrap_or_default();
        let ends = (!ttl.is_zero()).then(|| call.now + ttl);
        let secret = SecretId { role: name.to_owned(), accessor: accessor.clone(), ends, uses, metadata };
        self.secrets.insert(id.clone(), secret);
        Ok(Reply::Data(json!({
            "secret_id": id, "secret_id_accessor": accessor,
            "secret_id_ttl": ttl.as_secs(), "secret_id_num_uses": uses.unwrap_or(0),
        })))
    }

    pub fn login(&mut self, call: &Call<'_>) -> Answer {
        let (role_id, secret_id) = (text(call.body, "role_id"), text(call.body, "secret_id"));
        if role_id.is_empty() {
            return refuse(400, "missing role_id");
        }
        let Some((name, role)) = self.ids.get(&role_id).and_then(|name| self.roles.get_key_value(name)) else {
            return refuse(400, "invalid role or secret ID");
        };
        let mut grant = grant(role, "approle");
        if flag(role, "bind_secret_id") != Some(false) {
            if secret_id.is_empty() {
                return refuse(400, "missing secret_id");
            }
            let valid = |s: &&mut SecretId| s.role == *name && s.ends.is_none_or(|at| seconds_until(call.now, at) > 0);
            let Some(secret) = self.secrets.get_mut(&secret_id).filter(valid) else {
                return refuse(400, "invalid role or secret ID");
            };
            grant.meta = secret.metadata.clone();
            if let Some(uses) = &mut secret.uses {
                *uses -= 1;
                if *uses == 0 {
                    self.secrets.remove(&secret_id);
                }
            }
        }
        grant.meta.insert("role_name".to_owned(), json!(name));
        Ok(Reply::Auth(grant))
    }
}
