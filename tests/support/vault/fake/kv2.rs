//! KV version 2: versions, deleted, destroyed, and metadata.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::kv1::keys;
use super::state::{Answer, Call, Op, Reply, nothing, refuse, unsupported};
use super::values::{flag, number, span};

struct Version {
    data: Map<String, Value>,
    created: Timestamp,
    deleted: Option<Timestamp>,
    destroyed: bool,
}

impl Version {
    fn metadata(&self, number: u64, custom: &Value) -> Value {
        json!({
            "version": number, "created_time": self.created.to_string(), "custom_metadata": custom,
            "deletion_time": self.deleted.map(|at| at.to_string()).unwrap_or_default(), "destroyed": self.destroyed,
        })
    }
}

struct Secret {
    versions: BTreeMap<u64, Version>,
    current: u64,
    created: Timestamp,
    updated: Timestamp,
    custom: Value,
    max_versions: u64,
    cas_required: bool,
    delete_after: Duration,
}

/// How many versions Vault keeps where nothing says otherwise.
const MAX_VERSIONS: u64 = 10;

#[derive(Default)]
pub struct Kv2 {
    secrets: BTreeMap<String, Secret>,
    max_versions: u64,
    delete_after: Duration,
}

impl Kv2 {
    pub fn answer(&mut self, call: &Call<'_>) -> Answer {
        let (part, path) = call.path.split_once('/').unwrap_or((call.path, ""));
        match (part, call.op) {
            ("config", Op::Write) => {
                self.max_versions = number(call.body, "max_versions").unwrap_or(self.max_versions);
                self.delete_after = span(call.body, "delete_version_after");
                Ok(Reply::Empty)
            }
            ("config", Op::Read) => {
                Ok(Reply::Data(json!({ "max_versions": self.max_versions, "cas_required": false })))
            }
            ("data", Op::Read) => self.read(path, call),
            ("data", Op::Write) => self.write(path, call, Map::new()),
            ("data", Op::Patch) => match self.secrets.get(path).and_then(|s| s.versions.get(&s.current)) {
                Some(last) if last.deleted.is_none_or(|at| at > call.now) && !last.destroyed => {
                    let base = last.data.clone();
                    self.write(path, call, base)
                }
                _ => nothing(),
            },
            ("data", Op::Delete) => self.each(path, None, |v| v.deleted = Some(call.now)),
            ("delete", Op::Write) => self.each(path, Some(call), |v| v.deleted = Some(call.now)),
            ("undelete", Op::Write) => self.each(path, Some(call), |v| v.deleted = None),
            ("destroy", Op::Write | Op::Patch) => self.each(path, Some(call), |v| {
                v.destroyed = true;
                v.data.clear();
            }),
            ("metadata", Op::List) => keys(self.secrets.keys(), path),
            ("metadata", Op::Read) => self.metadata(path),
            ("metadata", Op::Write) => self.set_metadata(path, call),
            ("metadata", Op::Delete) => {
                self.secrets.remove(path);
                Ok(Reply::Empty)
            }
            ("data" | "delete" | "undelete" | "destroy" | "metadata" | "config", _) => unsupported(),
            // As Vault tells those who forget `data/`.
            (_, Op::Read) => {
                let warning = "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate \
                               API endpoints to use. If using the Vault CLI, use 'vault kv get' for this operation.";
                Ok(Reply::Raw(404, json!({ "errors": [], "warnings": [warning] })))
            }
            _ => nothing(),
        }
    }

    fn read(&self, path: &str, call: &Call<'_>) -> Answer {
        let Some(secret) = self.secrets.get(path) else { return nothing() };
        let asked = match call.query.get("version").map(|v| v.parse::<u64>()) {
            Some(Err(_)) => return refuse(400, "error converting input for field \"version\""),
            Some(Ok(version)) if version > 0 => version,
            _ => secret.current.saturating_sub(call.lag).max(1).min(secret.current),
        };
        let Some(version) = secret.versions.get(&asked) else { return nothing() };
        let metadata = version.metadata(asked, &secret.custom);
        if version.destroyed || version.deleted.is_some_and(|at| at <= call.now) {
            return Ok(Reply::Gone(json!({ "data": null, "metadata": metadata })));
        }
        Ok(Reply::Data(json!({ "data": version.data, "metadata": metadata })))
    }

    fn write(&mut self, path: &str, call: &Call<'_>, mut data: Map<String, Value>) -> Answer {
        let Some(Value::Object(given)) = call.body.get("data") else {
            return refuse(400, "no data provided");
        };
        let empty = Map::new();
        let options = call.body.get("options").and_then(Value::as_object).unwrap_or(&empty);
        let (limit, delete_after) = (self.max_versions, self.delete_after);
        let current = self.secrets.get(path).map_or(0, |s| s.current);
        let cas_required = self.secrets.get(path).is_some_and(|s| s.cas_required);
        match number(options, "cas") {
            Some(cas) if cas != current => {
                return refuse(400, "check-and-set parameter did not match the current version");
            }
            None if cas_required => return refuse(400, "check-and-set parameter required for this call"),
            _ => {}
        }
        for (key, value) in given {
            match value {
                Value::Null if call.op == Op::Patch => drop(data.remove(key)),
                value => drop(data.insert(key.clone(), value.clone())),
            }
        }
        let secret = self.secrets.entry(path.to_owned()).or_insert_with(|| Secret::new(call.now));
        let after = if secret.delete_after.is_zero() { delete_after } else { secret.delete_after };
        let deleted = (!after.is_zero()).then(|| call.now + after);
        secret.current += 1;
        secret.updated = call.now;
        secret.versions.insert(secret.current, Version { data, created: call.now, deleted, destroyed: false });
        let keep = [secret.max_versions, limit].into_iter().find(|n| *n > 0).unwrap_or(MAX_VERSIONS);
        let oldest = secret.current.saturating_sub(keep) + 1;
        secret.versions.retain(|number, _| *number >= oldest);
        let number = secret.current;
        Ok(Reply::Data(secret.versions[&number].metadata(number, &secret.custom)))
    }

    /// Changes the versions that the body names, or the current one.
    fn each(&mut self, path: &str, call: Option<&Call<'_>>, change: impl Fn(&mut Version)) -> Answer {
        let Some(secret) = self.secrets.get_mut(path) else {
            return if call.is_some() { nothing() } else { Ok(Reply::Empty) };
        };
        let named = call.and_then(|c| c.body.get("versions")).and_then(Value::as_array);
        let numbers: Vec<u64> = match named {
            Some(all) => all.iter().filter_map(|v| v.as_u64().or_else(|| v.as_str()?.parse().ok())).collect(),
            None if call.is_some() => return refuse(400, "No version number provided"),
            None => vec![secret.current],
        };
        for number in numbers {
            if let Some(version) = secret.versions.get_mut(&number).filter(|v| !v.destroyed) {
                change(version);
            }
        }
        Ok(Reply::Empty)
    }

    fn metadata(&self, path: &str) -> Answer {
        let Some(secret) = self.secrets.get(path) else { return nothing() };
        let one = |(number, v): (&u64, &Version)| {
            let mut metadata = v.metadata(*number, &Value::Null);
            metadata.as_object_mut().unwrap().retain(|key, _| key != "version" && key != "custom_metadata");
            (number.to_string(), metadata)
        };
        let versions: Map<String, Value> = secret.versions.iter().map(one).collect();
        Ok(Reply::Data(json!({
            "cas_required": secret.cas_required,
            "created_time": secret.created.to_string(),
            "current_version": secret.current,
            "custom_metadata": secret.custom,
            "delete_version_after": format!("{}s", secret.delete_after.as_secs()),
            "max_versions": secret.max_versions,
            "oldest_version": secret.versions.keys().next().copied().filter(|v| *v > 1).unwrap_or(0),
            "updated_time": secret.updated.to_string(),
            "versions": versions,
        })))
    }

    fn set_metadata(&mut self, path: &str, call: &Call<'_>) -> Answer {
        let secret = self.secrets.entry(path.to_owned()).or_insert_with(|| Secret::new(call.now));
        secret.max_versions = number(call.body, "max_versions").unwrap_or(secret.max_versions);
        secret.cas_required = flag(call.body, "cas_required").unwrap_or(secret.cas_required);
        if let Some(custom) = call.body.get("custom_metadata") {
            secret.custom = custom.clone();
        }
        if call.body.contains_key("delete_version_after") {
            secret.delete_after = span(call.body, "delete_version_after");
        }
        Ok(Reply::Empty)
    }
}

impl Secret {
    fn new(now: Timestamp) -> Secret {
        Secret {
            versions: BTreeMap::new(),
            current: 0,
            created: now,
            updated: now,
            custom: Value::Null,
            max_versions: 0,
            cas_required: false,
            delete_after: Duration::ZERO,
        }
    }
}
