//! KV version 1: one value a path.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::state::{Answer, Call, Op, Reply, nothing, refuse, unsupported};
use super::values::duration;

#[derive(Default)]
pub struct Kv1(BTreeMap<String, Map<String, Value>>);

impl Kv1 {
    pub fn answer(&mut self, call: &Call<'_>) -> Answer {
        match call.op {
            Op::Read => match self.0.get(call.path) {
                Some(data) => {
                    let own = data.get("ttl").or_else(|| data.get("lease")).and_then(duration);
                    Ok(Reply::Hinted(json!(data), own.unwrap_or(call.tuning.default)))
                }
                None => nothing(),
            },
            Op::Write if call.body.is_empty() => refuse(400, "missing data fields"),
            Op::Write => {
                self.0.insert(call.path.to_owned(), call.body.clone());
                Ok(Reply::Empty)
            }
            Op::Delete => {
                self.0.remove(call.path);
                Ok(Reply::Empty)
            }
            Op::List => keys(self.0.keys(), call.path),
            Op::Patch => unsupported(),
        }
    }
}

/// The names right below a folder; folders end with a slash.
pub fn keys<'a>(paths: impl Iterator<Item = &'a String>, folder: &str) -> Answer {
    let prefix = if folder.is_empty() { String::new() } else { format!("{}/", folder.trim_end_matches('/')) };
    let below = paths.filter_map(|path| path.strip_prefix(&prefix));
    let names: BTreeSet<&str> = below.map(|rest| rest.split_inclusive('/').next().unwrap_or_default()).collect();
    if names.is_empty() { nothing() } else { Ok(Reply::Data(json!({ "keys": names }))) }
}
