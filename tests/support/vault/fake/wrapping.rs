//! Wrapped answers, and `sys/wrapping/…`.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::state::{Answer, Op, Reply, State, nothing, refuse};
use super::values::text;

const GONE: &str = "wrapping token is not valid or does not exist";

pub struct Wrapped {
    pub ends: Timestamp,
    created: Timestamp,
    ttl: Duration,
    path: String,
    body: Value,
}

impl State {
    /// Keeps an answer for whoever comes first with its token; answers what is told instead.
    pub fn wrap(&mut self, path: &str, body: Value, ttl: Duration, now: Timestamp) -> Value {
        let token = format!("s.{}", self.ids.id());
        let accessor = self.ids.id();
        let wrapped_accessor = body.pointer("/auth/accessor").and_then(Value::as_str).unwrap_or_default().to_owned();
        let info = json!({
            "token": token,
            "accessor": accessor,
            "ttl": ttl.as_secs(),
            "creation_time": now.to_string(),
            "creation_path": path,
            "wrapped_accessor": wrapped_accessor,
        });
        self.ends_at(now + ttl);
        self.wrapped.insert(token, Wrapped { ends: now + ttl, created: now, ttl, path: path.to_owned(), body });
        json!({
            "request_id": "", "lease_id": "", "renewable": false, "lease_duration": 0,
            "data": null, "wrap_info": info, "warnings": null, "auth": null,
        })
    }

    /// `sys/wrapping/…`. The token is in the body, or the caller's own.
    pub fn wrapping_endpoint(&mut self, op: Op, what: &str, body: &Map<String, Value>, caller: &str) -> Answer {
        let named = text(body, "token");
        let token = if named.is_empty() { caller.to_owned() } else { named };
        match (op, what) {
            (Op::Write | Op::Read, "lookup") => match self.wrapped.get(&token) {
                Some(wrapped) => Ok(Reply::Data(json!({
                    "creation_path": wrapped.path,
                    "creation_time": wrapped.created.to_string(),
                    "creation_ttl": wrapped.ttl.as_secs(),
                }))),
                None => refuse(400, GONE),
            },
            (Op::Write, "unwrap") => match self.wrapped.remove(&token) {
                Some(wrapped) => Ok(Reply::Raw(200, wrapped.body)),
                None => refuse(400, GONE),
            },
            (Op::Write, "wrap") => Ok(Reply::Data(Value::Object(body.clone()))),
            _ => nothing(),
        }
    }
}
