//! What the agent is at one moment, without values: the one picture from which `/status`, `agent status` and the gauges
//! are made, so that they never differ.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The whole agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// The agent's version.
    pub version: String,
    /// When this picture was made; ages count to here.
    pub now: Timestamp,
    /// When the agent started.
    pub started_at: Timestamp,
    /// Why the config or a template on disk is not in force, if so; masked.
    pub config_error: Option<String>,
    /// Targets, in the order of their names.
    pub targets: Vec<TargetView>,
    /// Secrets, in the order of their names.
    pub secrets: Vec<SecretView>,
    /// Stores that are paid by the request, in the order of their names.
    #[serde(default)]
    pub stores: Vec<StoreView>,
}

/// What it takes to watch the secrets of one store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoreView {
    /// Its name.
    pub name: String,
    /// How its secrets are watched, in one line; masked.
    pub how: String,
    /// Requests an hour while nothing changes.
    pub calls_per_hour: f64,
    /// What these cost in a month of 730 hours, in US dollars.
    pub usd_per_month: f64,
    /// Requests made since the start (or since the store's config was changed), by the API's name of each.
    pub calls: BTreeMap<String, u64>,
    /// Who the store says the agent is, once that is known.
    pub identity: Option<String>,
}

/// One secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SecretView {
    /// Its name.
    pub name: String,
    /// Its store's name.
    pub store: String,
    /// Where in the store: Vault's path, AWS's id, the file store's key.
    pub path: String,
    /// The version in use; None before the first reading.
    pub version: Option<String>,
    /// When the version in use was made, or else first seen.
    pub changed_at: Option<Timestamp>,
    /// The last reading that succeeded.
    pub read_at: Option<Timestamp>,
    /// The next reading, where one is planned.
    pub next_read_at: Option<Timestamp>,
    /// When the lease or the values end, where they do.
    pub expires_at: Option<Timestamp>,
    /// Whether the values hang on a lease (then `expires_at` is its end).
    pub leased: bool,
    /// Until when the version before is available as `previous`.
    pub overlap_until: Option<Timestamp>,
    /// `max_age` in seconds.
    pub max_age_seconds: Option<u64>,
    /// Why the last reading failed, if it did; masked.
    pub error: Option<String>,
    /// Since when every reading has failed, if the last one did.
    #[serde(default)]
    pub failing_since: Option<Timestamp>,
}

impl SecretView {
    /// When it is (or was) due for a change: last change + `max_age`.
    pub fn due_at(&self) -> Option<Timestamp> {
        let age = jiff::SignedDuration::from_secs(i64::try_from(self.max_age_seconds?).ok()?);
        self.changed_at?.checked_add(age).ok()
    }
}

/// One target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetView {
    /// Its name.
    pub name: String,
    /// One of [`STATES`].
    pub state: String,
    /// The generation that is published; None before the first.
    pub generation: Option<u64>,
    /// Whether an operator (or `on_unhealthy: hold`) holds it where it is, whatever else its state says.
    pub held: bool,
    /// Whether it is on a committed generation although its secrets could not be read.
    pub stale: bool,
    /// Whether going back failed.
    pub degraded: bool,
    /// How the last rotation ended.
    pub last_rotation: Option<LastRotation>,
    /// When a rotation last ended as `committed`.
    pub last_success_at: Option<Timestamp>,
    /// Why it is not healthy, if it is not; masked.
    pub reason: Option<String>,
    /// Earliest notAfter of the certificates in each published file that holds any.
    pub certificates: BTreeMap<String, Timestamp>,
}

/// The end of a rotation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastRotation {
    /// One of [`OUTCOMES`].
    pub outcome: String,
    /// When.
    pub ended_at: Timestamp,
}

/// How a rotation ends: the words of history, metrics and audit.
pub const OUTCOMES: [&str; 5] = ["committed", "rolled_back", "quarantined", "held", "superseded"];
/// What a target is.
pub const STATES: [&str; 6] = ["healthy", "rotating", "waiting", "held", "degraded", "stale"];

/// One line of history: a rotation that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When it ended.
    pub ended_at: Timestamp,
    /// When it began; None where a life of the agent before began it.
    pub started_at: Option<Timestamp>,
    /// The target.
    pub target: String,
    /// One of [`OUTCOMES`].
    pub outcome: String,
    /// The generation it was about; None where none was staged.
    pub generation: Option<u64>,
    /// The generation that the target is on now; None where there is none.
    pub on: Option<u64>,
    /// Digest of the inputs, as in the journal.
    pub digest: String,
    /// Secrets that differ from the generation before, and the versions they changed to.
    pub changed: BTreeMap<String, String>,
    /// Why it did not end as `committed`; masked.
    pub reason: Option<String>,
    /// Seconds by step.
    pub steps: BTreeMap<String, f64>,
}

impl HistoryEntry {
    /// Several targets' histories, each in the order in which it happened, as one; the newest `count` of it. By time, as far
    /// as that leaves each in its order: the clock may have been set back in between.
    pub fn merge(histories: Vec<Vec<Self>>, count: usize) -> Vec<Self> {
        let mut timed = Vec::new();
        for history in histories {
            let mut latest = Timestamp::MIN;
            timed.extend(history.into_iter().map(|entry| {
                latest = latest.max(entry.ended_at);
                (latest, entry)
            }));
        }
        timed.sort_by_key(|(at, _)| *at);
        let surplus = timed.len().saturating_sub(count);
        timed.into_iter().skip(surplus).map(|(_, entry)| entry).collect()
    }
}
