//! A session as it outlives the process: JSON, sealed by whoever keeps it. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::secret::SecretBytes;

/// What is kept. No `Debug`: it holds the token.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Saved {
    /// Whose session it is (a keyed digest of server, namespace and login): another server never sees the token.
    pub of: String,
    /// Only of a login; a token that somebody gave is read where it is given.
    pub token: Option<SavedToken>,
    /// A secret id that was unwrapped: its wrapping token is spent.
    pub unwrapped: Option<Unwrapped>,
    /// By token (its accessor): when it ends. Null: never.
    pub ends: BTreeMap<String, Option<Timestamp>>,
    /// By lease: the token that made it, and the seconds granted at first.
    pub leases: BTreeMap<String, Held>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedToken {
    pub value: String,
    pub first_seconds: u64,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unwrapped {
    /// Keyed digest of the wrapping token.
    pub from: String,
    pub secret_id: String,
}

/// A lease that this store made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    pub token: String,
    pub seconds: u64,
}

impl Saved {
    pub fn write(&self) -> Option<SecretBytes> {
        let nothing = self.token.is_none() && self.unwrapped.is_none() && self.leases.is_empty();
        if nothing { None } else { serde_json::to_vec(self).ok().map(SecretBytes::new) }
    }

    /// None where it is none, or of another session.
    pub fn read(bytes: &SecretBytes, of: &str) -> Option<Self> {
        serde_json::from_slice::<Self>(bytes.expose()).ok().filter(|saved| saved.of == of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_of_another_server_is_none() {
        let token = Some(SavedToken { value: "hvs.x".into(), first_seconds: 60 });
        let saved = Saved { of: "here".into(), token, ..Saved::default() };
        let bytes = saved.write().unwrap();
        assert!(Saved::read(&bytes, "here") == Some(saved));
        assert!(Saved::read(&bytes, "there").is_none());
        assert!(Saved::read(&"{".into(), "here").is_none());
        assert!(Saved::default().write().is_none());
    }
}
