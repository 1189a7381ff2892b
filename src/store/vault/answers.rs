//! From the answers of engines to readings. Pure: the moment is an argument.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use super::json;
use crate::digest::Key;
use crate::secret::{Again, Field, Fields, Lease, Reading, Version};
use crate::store::canonical;

/// The duration of a lease without end.
pub(super) const FOREVER: Duration = Duration::from_secs(10 * 365 * 86_400);
/// A static role is read this long after its rotation is due.
const AFTER_ROTATION: Duration = Duration::from_secs(2);
/// How often one in the middle of its rotation is read.
const MID_ROTATION: Duration = Duration::from_millis(1500);

fn version(key: &Key, fields: &Fields) -> Version {
    key.version(&canonical::encode(fields))
}

fn digest(key: &Key, text: &str) -> Version {
    Version(key.digest("vault version").part(text.as_bytes()).hex(8))
}

/// KV v1 and cubbyhole. `lease_duration` is the mount's default and means nothing; a `ttl` that somebody wrote does.
pub(super) fn plain(key: &Key, data: &Map<String, Value>) -> Reading {
    let fields = json::fields(data);
    let again = data.get("ttl").and_then(json::ttl).map_or(Again::Free, Again::After);
    Reading { again, ..Reading::new(fields.clone(), version(key, &fields)) }
}

/// The lease in an answer, if it is one.
pub(super) fn lease(answer: &Value) -> Option<Lease> {
    let id = answer["lease_id"].as_str().filter(|id| !id.is_empty())?;
    let granted = answer["lease_duration"].as_u64().filter(|seconds| *seconds > 0);
    let duration = granted.map_or(FOREVER, Duration::from_secs);
    Some(Lease { id: id.to_owned(), duration, renewable: answer["renewable"].as_bool().unwrap_or(false) })
}

/// A static role: keyed on `ttl`, since scheduled roles may have no period.
pub(super) fn rotated(key: &Key, data: &Map<String, Value>) -> Option<Reading> {
    let last = data.get("last_vault_rotation")?;
    let left = u64::try_from(json::number(data.get("ttl")?)?).unwrap_or(0);
    let again = match left {
        0 => MID_ROTATION,
        left => Duration::from_secs(left) + AFTER_ROTATION,
    };
    let fields = json::fields(data);
    // The ttl is another one in every answer.
    let mut lasting = fields.clone();
    lasting.remove("ttl");
    let created_at = json::time(last);
    Some(Reading { created_at, again: Again::After(again), ..Reading::new(fields, version(key, &lasting)) })
}

/// A certificate with its key (`issue`) or without (`sign`), and `fullchain`: it and those above it, as servers want it.
pub(super) fn certificate(data: &Map<String, Value>) -> Option<Reading> {
    let text = |name: &str| data.get(name).and_then(Value::as_str);
    let (certificate, serial) = (text("certificate")?, text("serial_number")?);
    let mut fields = json::fields(data);
    let chain = data.get("ca_chain").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut above: Vec<&str> = chain.iter().filter_map(Value::as_str).collect();
    if above.is_empty() {
        above.extend(text("issuing_ca"));
    }
    let parts = std::iter::once(certificate).chain(above).map(str::trim_end);
    let fullchain = parts.flat_map(|part| [part, "\n"]).collect::<String>();
    fields.insert("fullchain".to_owned(), Field::text(fullchain));
    let expires_at = data.get("expiration").and_then(json::number).and_then(|at| Timestamp::from_second(at).ok());
    Some(Reading { expires_at, again: Again::Mints, ..Reading::new(fields, Version(serial.to_owned())) })
}

/// A transit key: its newest version and the public halves; nothing secret is to be had.
pub(super) fn transit(data: &Map<String, Value>) -> Option<Reading> {
    let latest = json::number(data.get("latest_version")?)?;
    let mut fields = Fields::new();
    for name in ["name", "type", "latest_version", "min_decryption_version", "min_encryption_version"] {
        if let Some(value) = data.get(name) {
            fields.insert(name.to_owned(), json::field(value));
        }
    }
    let mut created_at = None;
    let keys = data.get("keys").and_then(Value::as_object);
    if let Some(newest) = keys.and_then(|keys| keys.get(&latest.to_string())) {
        // A time alone where the key is symmetric.
        created_at = json::time(&newest["creation_time"])
            .or_else(|| newest.as_i64().and_then(|at| Timestamp::from_second(at).ok()));
        if let Some(public) = newest["public_key"].as_str().filter(|key| !key.is_empty()) {
            fields.insert("public_key".to_owned(), Field::text(public));
        }
    }
    let public = |key: &Value| key["public_key"].as_str().filter(|key| !key.is_empty()).map(Field::text);
    let all: Fields = keys.into_iter().flatten().filter_map(|(n, key)| Some((n.clone(), public(key)?))).collect();
    if !all.is_empty() {
        fields.insert("public_keys".to_owned(), Field::Map(all));
    }
    Some(Reading { created_at, ..Reading::new(fields, Version(latest.to_string())) })
}

/// Anything else. `made`: the request was a POST, so that asking again makes something else.
pub(super) fn other(key: &Key, answer: &Value, made: bool, now: Timestamp) -> Option<Reading> {
    let data = answer["data"].as_object()?;
    if let Some(lease) = lease(answer) {
        let version = digest(key, &lease.id);
        let again = Again::Mints;
        return Some(Reading { lease: Some(lease), again, ..Reading::new(json::fields(data), version) });
    }
    if !made && let Some(reading) = rotated(key, data) {
        return Some(reading);
    }
    // Tokens without a lease (identity/oidc/token, gcp/token): each read makes one.
    let token = data.contains_key("token") && (data.contains_key("ttl") || data.contains_key("token_ttl"));
    let fields = json::fields(data);
    let version = version(key, &fields);
    if !made && !token {
        return Some(Reading::new(fields, version));
    }
    let at = |name: &str| data.get(name).and_then(json::number).and_then(|at| Timestamp::from_second(at).ok());
    let within = |ttl: Duration| now.checked_add(SignedDuration::try_from(ttl).ok()?).ok();
    let ttl = ["ttl", "token_ttl"].into_iter().find_map(|name| data.get(name).and_then(json::ttl));
    let expires_at = at("expiration").or_else(|| at("expires_at_seconds")).or_else(|| ttl.and_then(within));
    Some(Reading { expires_at, again: Again::Mints, ..Reading::new(fields, version) })
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
