//! KV version 2: what an answer holds, and which versions are believed. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::json;
use crate::secret::{Reading, Version};

/// A lower version that the server insists on for this long is believed: somebody restored a backup.
const INSISTED: Duration = Duration::from_secs(300);

/// What `MOUNT/data/PATH` answered.
pub(super) enum Data {
    Here(Box<Reading>),
    /// A version without its data: what happened to it.
    Removed(String),
    Absent,
}

/// What `MOUNT/metadata/PATH` answered about the newest version.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Newest {
    pub version: u64,
    pub created_at: Option<Timestamp>,
    pub custom: BTreeMap<String, String>,
    /// Deleted or destroyed: there is no data to read.
    pub gone: bool,
}

/// Of a whole answer, 2xx or 404.
pub(super) fn data(answer: &Value, now: Timestamp) -> Option<Data> {
    let metadata = &answer["data"]["metadata"];
    let Some(version) = metadata["version"].as_u64() else {
        return answer["data"].is_null().then_some(Data::Absent).or_else(|| answer.get("errors").map(|_| Data::Absent));
    };
    let deletion = json::time(&metadata["deletion_time"]);
    if metadata["destroyed"].as_bool() == Some(true) {
        return Some(Data::Removed(format!("version {version} was destroyed; write the secret anew")));
    }
    let Some(fields) = answer["data"]["data"].as_object() else {
        let when = deletion.map(|at| format!(" at {at}")).unwrap_or_default();
        let text = format!(
            "version {version} was deleted{when}; undelete it (vault kv undelete -versions={version} …), or write the secret anew"
        );
        return Some(Data::Removed(text));
    };
    let mut reading = Reading::new(json::fields(fields), Version(version.to_string()));
    reading.created_at = json::time(&metadata["created_time"]);
    reading.expires_at = deletion.filter(|at| *at > now);
    reading.custom = custom(&metadata["custom_metadata"]);
    Some(Data::Here(Box::new(reading)))
}

fn custom(value: &Value) -> BTreeMap<String, String> {
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

/// Of `data` in an answer about metadata.
pub(super) fn newest(data: &Value, now: Timestamp) -> Option<Newest> {
    let version = data["current_version"].as_u64().filter(|version| *version > 0)?;
    let one = &data["versions"][version.to_string()];
    let deleted = json::time(&one["deletion_time"]).is_some_and(|at| at <= now);
    Some(Newest {
        version,
        created_at: json::time(&one["created_time"]),
        custom: custom(&data["custom_metadata"]),
        gone: deleted || one["destroyed"].as_bool() == Some(true),
    })
}

/// The newest version seen of one path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    version: u64,
    created_at: Option<Timestamp>,
    lower_since: Option<Duration>,
}

impl Seen {
    pub fn new(version: u64, created_at: Option<Timestamp>) -> Self {
        Self { version, created_at, lower_since: None }
    }

    /// Whether an answer is believed. Not one of a node that lags behind: a lower version, no newer than the one seen. A
    /// secret that was deleted whole and written anew begins at 1 and is newer.
    pub fn believes(&mut self, version: u64, created_at: Option<Timestamp>, now: Duration) -> bool {
        let newer = matches!((created_at, self.created_at), (Some(new), Some(old)) if new > old);
        if version < self.version && !newer {
            let since = *self.lower_since.get_or_insert(now);
            if now.saturating_sub(since) < INSISTED {
                return false;
            }
        }
        *self = Self::new(version, created_at);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(text: &str) -> Option<Timestamp> {
        text.parse().ok()
    }

    #[test]
    fn deleted_destroyed_and_absent_are_told_apart_and_a_future_end_is_an_end() {
        let now = at("2024-05-02T00:00:00Z").unwrap();
        let answer = |deletion: &str, destroyed: bool, data: Value| {
            json!({"data": {"data": data, "metadata": {"version": 5, "created_time": "2024-05-01T00:00:00Z",
                "deletion_time": deletion, "destroyed": destroyed, "custom_metadata": {"team": "a"}}}})
        };
        let Some(Data::Here(reading)) = data(&answer("", false, json!({"a": 1})), now) else { panic!() };
        assert_eq!((reading.version, reading.expires_at), (Version("5".into()), None));
        assert_eq!(reading.custom["team"], "a");
        let Some(Data::Here(reading)) = data(&answer("2024-05-03T00:00:00Z", false, json!({})), now) else { panic!() };
        assert_eq!(reading.expires_at, at("2024-05-03T00:00:00Z"));
        assert!(
            matches!(data(&answer("2024-05-01T12:00:00Z", false, Value::Null), now), Some(Data::Removed(text)) if text.contains("undelete"))
        );
        assert!(
            matches!(data(&answer("", true, Value::Null), now), Some(Data::Removed(text)) if text.contains("destroyed"))
        );
        assert!(matches!(data(&json!({"errors": []}), now), Some(Data::Absent)));
        assert!(data(&json!({"data": {"a": 1}}), now).is_none(), "KV v1's");
    }

    #[test]
    fn metadata_tells_the_newest_version() {
        let now = at("2024-05-02T00:00:00Z").unwrap();
        let of = |deletion: &str| {
            newest(
                &json!({"current_version": 2, "custom_metadata": null, "versions": {"2": {"created_time": "2024-05-01T00:00:00Z", "deletion_time": deletion, "destroyed": false}}}),
                now,
            )
        };
        assert!(of("").is_some_and(|newest| newest.version == 2 && !newest.gone && newest.custom.is_empty()));
        assert!(of("2024-05-01T00:00:00Z").is_some_and(|newest| newest.gone));
        assert!(of("2024-05-09T00:00:00Z").is_some_and(|newest| !newest.gone));
        assert_eq!(newest(&json!({"current_version": 0}), now), None);
    }

    #[test]
    fn a_node_that_lags_is_not_believed_a_secret_written_anew_is_and_so_is_who_insists() {
        const S: fn(u64) -> Duration = Duration::from_secs;
        let (may, june) = (at("2024-05-01T00:00:00Z"), at("2024-06-01T00:00:00Z"));
        let mut seen = Seen::new(7, may);
        assert!(!seen.believes(6, at("2024-04-01T00:00:00Z"), S(0)));
        assert!(seen.believes(7, may, S(10)));
        assert!(!seen.believes(6, may, S(20)));
        assert!(!seen.believes(6, may, S(300)));
        assert!(seen.believes(6, may, S(320)), "five minutes on end");
        assert!(seen.believes(8, june, S(330)));
        assert!(seen.believes(1, at("2024-06-02T00:00:00Z"), S(340)), "written anew");
    }
}
