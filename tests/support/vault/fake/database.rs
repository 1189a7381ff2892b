//! The database engine: dynamic users and static roles. The users are in the fake's memory.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::state::{Answer, Call, Ids, Op, Reply, SYSTEM_TTL, Terms, Tuning, nothing, refuse};
use super::values::{seconds_until, span, text};

struct Static {
    username: String,
    password: String,
    rotated: Timestamp,
    /// None for a role with a schedule, which reports no period.
    period: Duration,
    schedule: Option<String>,
    /// Shortcut of the fake: the rotation that is due does not happen.
    held: bool,
}

#[derive(Default)]
pub struct Database {
    configs: BTreeMap<String, Map<String, Value>>,
    roles: BTreeMap<String, Map<String, Value>>,
    statics: BTreeMap<String, Static>,
    /// Dynamic users and their passwords. The lease is not known until it is made: see `adopt`.
    users: BTreeMap<String, String>,
    leases: BTreeMap<String, String>,
    last: String,
}

impl Database {
    pub fn answer(&mut self, call: &Call<'_>) -> Answer {
        match (call.op, call.parts().as_slice()) {
            (Op::Write, ["config", name]) => {
                self.configs.insert((*name).to_owned(), call.body.clone());
                Ok(Reply::Empty)
            }
            (Op::Write, ["roles", name]) => {
                self.roles.insert((*name).to_owned(), call.body.clone());
                Ok(Reply::Empty)
            }
            (Op::Read, ["roles", name]) => self.roles.get(*name).map_or_else(nothing, |r| Ok(Reply::Data(json!(r)))),
            (Op::Delete, ["roles", name]) => {
                self.roles.remove(*name);
                Ok(Reply::Empty)
            }
            (Op::Read, ["creds", name]) => self.mint(name, call),
            (Op::Write, ["static-roles", name]) => self.set_static(name, call),
            (Op::Read, ["static-creds", name]) => self.static_creds(name, call),
            (Op::Write, ["rotate-role", name]) => match self.statics.get_mut(*name) {
                Some(role) => {
                    role.rotate(call.now, call.ids);
                    Ok(Reply::Empty)
                }
                None => refuse(400, "no static role found for role name"),
            },
            // Shortcut of the fake: a rotation that is due waits while `held`.
            (Op::Write, ["fake-hold", name]) => match self.statics.get_mut(*name) {
                Some(role) => {
                    role.held = call.body.get("held") == Some(&Value::Bool(true));
                    Ok(Reply::Empty)
                }
                None => nothing(),
            },
            _ => nothing(),
        }
    }

    /// What a lease of this role may last now.
    pub fn terms(&self, role: &str, tuning: Tuning) -> Option<Terms> {
        let role = self.roles.get(role)?;
        let or = |value: Duration, other: Duration| if value.is_zero() { other } else { value };
        let max = or(span(role, "max_ttl"), tuning.max).min(tuning.max).min(SYSTEM_TTL);
        let ttl = or(span(role, "default_ttl"), tuning.default);
        Some(Terms { ttl, max, renewable: true })
    }

    fn mint(&mut self, name: &str, call: &Call<'_>) -> Answer {
        let Some(mut terms) = self.terms(name, call.tuning) else {
            return refuse(400, &format!("unknown role: {name}"));
        };
        let username = format!("v-token-{name}-{}", call.ids.id());
        let password = format!("pw-{}", call.ids.id());
        self.users.insert(username.clone(), password.clone());
        self.last.clone_from(&username);
        terms.ttl = terms.ttl.min(terms.max);
        Ok(Reply::Leased(json!({ "username": username, "password": password }), terms))
    }

    /// The lease of the user that was just made.
    pub fn adopt(&mut self, lease: &str) {
        self.leases.insert(lease.to_owned(), self.last.clone());
    }

    /// A lease has ended, and its user with it.
    pub fn forget(&mut self, lease: &str) {
        if let Some(user) = self.leases.remove(lease) {
            self.users.remove(&user);
        }
    }

    /// True while a user may log in with this password.
    pub fn accepts(&self, user: &str, password: &str) -> bool {
        let fixed = self.statics.values().any(|s| s.username == user && s.password == password);
        fixed || self.users.get(user).is_some_and(|p| p == password)
    }

    fn set_static(&mut self, name: &str, call: &Call<'_>) -> Answer {
        let period = span(call.body, "rotation_period");
        let schedule = text(call.body, "rotation_schedule");
        if period.is_zero() && schedule.is_empty() {
            return refuse(
                400,
                "one of rotation_schedule or rotation_period must be provided to create a static account",
            );
        }
        let mut role = Static {
            username: text(call.body, "username"),
            password: String::new(),
            rotated: call.now,
            // The fake knows one schedule: every hour.
            period: if period.is_zero() { Duration::from_secs(3600) } else { period },
            schedule: (!schedule.is_empty()).then_some(schedule),
            held: false,
        };
        role.rotate(call.now, call.ids);
        self.statics.insert(name.to_owned(), role);
        Ok(Reply::Empty)
    }

    fn static_creds(&mut self, name: &str, call: &Call<'_>) -> Answer {
        let Some(role) = self.statics.get_mut(name) else {
            return refuse(400, &format!("unknown role: {name}"));
        };
        while !role.held && role.rotated + role.period <= call.now {
            let at = role.rotated + role.period;
            role.rotate(at, call.ids);
        }
        let mut data = json!({
            "username": role.username,
            "password": role.password,
            "ttl": seconds_until(call.now, role.rotated + role.period),
            "last_vault_rotation": role.rotated.to_string(),
        });
        match &role.schedule {
            Some(schedule) => data["rotation_schedule"] = json!(schedule),
            None => data["rotation_period"] = json!(role.period.as_secs()),
        }
        Ok(Reply::Data(data))
    }
}

impl Static {
    fn rotate(&mut self, at: Timestamp, ids: &Ids) {
        self.password = format!("pw-{}", ids.id());
        self.rotated = at;
    }
}
