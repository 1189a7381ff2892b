//! Transit keys: their versions, and no cryptography.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::state::{Answer, Call, Op, Reply, nothing, refuse};

#[derive(Default)]
pub struct Transit {
    /// When each version was made (seconds since the epoch), by key.
    keys: BTreeMap<String, Vec<i64>>,
}

impl Transit {
    pub fn answer(&mut self, call: &Call<'_>) -> Answer {
        match (call.op, call.parts().as_slice()) {
            (Op::Write, ["keys", name]) => {
                self.keys.entry((*name).to_owned()).or_insert_with(|| vec![call.now.as_second()]);
                self.read(name)
            }
            (Op::Write, ["keys", name, "rotate"]) => match self.keys.get_mut(*name) {
                Some(versions) => {
                    versions.push(call.now.as_second());
                    self.read(name)
                }
                None => refuse(400, "key not found"),
            },
            (Op::Read, ["keys", name]) => self.read(name),
            _ => nothing(),
        }
    }

    fn read(&self, name: &str) -> Answer {
        let Some(versions) = self.keys.get(name) else { return nothing() };
        let keys: Map<String, Value> =
            versions.iter().enumerate().map(|(at, made)| ((at + 1).to_string(), json!(made))).collect();
        Ok(Reply::Data(json!({
            "name": name, "type": "aes256-gcm96", "keys": keys, "latest_version": versions.len(),
            "min_available_version": 0, "min_decryption_version": 1, "min_encryption_version": 0,
            "deletion_allowed": false, "derived": false, "exportable": false, "allow_plaintext_backup": false,
            "supports_encryption": true, "supports_decryption": true, "supports_derivation": true, "supports_signing": false,
        })))
    }
}
