//! The durable half of the machine's state.

use serde::{Deserialize, Serialize};

use super::{Candidate, Digest, Generation};

/// How many quarantined digests are remembered; the oldest goes first.
const QUARANTINE_LIMIT: usize = 32;

/// What recovery reads: nothing else survives a crash. Holds numbers and digests, never a value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// The generation to be on, once there is one.
    pub committed: Option<Committed>,
    /// Where `committed` was never seen healthy: the last one that was.
    pub refuge: Option<Committed>,
    /// The generation that is about to be live, or may be.
    pub intent: Option<Intent>,
    /// Inputs that failed for good.
    pub quarantined: Vec<Digest>,
    /// Whether an operator is waited for.
    pub held: bool,
    /// Committed generations to retain, oldest first.
    pub retained: Vec<Generation>,
}

/// A committed generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Committed {
    /// Its number.
    pub generation: Generation,
    /// What it was made from.
    pub digest: Digest,
    /// Whether it was seen healthy.
    pub proven: bool,
}

/// A generation that may be live though it is not committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// Its number.
    pub generation: Generation,
    /// What it was made from.
    pub digest: Digest,
    /// Whether the target is held once it is committed.
    pub hold: bool,
    /// How often a life of the agent began to publish it.
    pub tries: u8,
}

impl Intent {
    pub(super) fn candidate(self) -> Candidate {
        Candidate { generation: self.generation, digest: self.digest, hold: self.hold }
    }
}

impl Journal {
    /// Whether these inputs failed for good and were not released since.
    pub fn is_quarantined(&self, digest: Digest) -> bool {
        self.quarantined.contains(&digest)
    }

    pub(super) fn quarantine(&mut self, digest: Digest) {
        if !self.is_quarantined(digest) {
            self.quarantined.push(digest);
        }
        if self.quarantined.len() > QUARANTINE_LIMIT {
            self.quarantined.remove(0);
        }
    }

    /// Makes `to` the generation to be on and closes the intent.
    pub(super) fn commit(&mut self, to: Committed, keep: usize) {
        let before = self.committed.filter(|c| c.generation != to.generation);
        self.refuge = match (to.proven, before) {
            (true, _) => None,
            (false, Some(before)) if before.proven => Some(before),
            (false, _) => self.refuge.filter(|r| r.generation != to.generation),
        };
        self.committed = Some(to);
        self.intent = None;
        self.retained.retain(|g| *g != to.generation);
        self.retained.push(to.generation);
        let surplus = self.retained.len().saturating_sub(keep.max(1));
        self.retained.drain(..surplus);
    }

    /// The generations that must stay on disk.
    pub fn keep(&self) -> Vec<Generation> {
        let mut keep = self.retained.clone();
        keep.extend(self.using());
        keep.extend(self.intent.map(|i| i.generation));
        keep.sort_unstable();
        keep.dedup();
        keep
    }

    /// The generations whose leases must live.
    pub fn using(&self) -> Vec<Generation> {
        self.committed.into_iter().chain(self.refuge).map(|c| c.generation).collect()
    }
}

// The digest is text in the journal (JSON numbers are doubles to many readers), and it is the same text that
// history and status show.
impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(Digest).map_err(|_| serde::de::Error::custom("a digest is 16 hex digits"))
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
