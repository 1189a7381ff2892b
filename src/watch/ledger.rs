//! `state_dir/leases.json`: what is held, so that a restart makes nothing twice and leaves nothing behind. 0600, replaced
//! atomically, synced, sealed where there is a `state_key`.
//!
//! With [`Keeping::Nothing`] it holds no values and no sessions, only the ids of leases: enough to revoke them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::held::{Held, Kept};
use super::leases::Key;
use super::memory;
use super::overlap::Now;
use super::record::{Values, written};
use crate::config::model::StoreName;
use crate::secret::{Again, Lease, Reading, SecretBytes, SecretName, Version};
use crate::state_dir::Keeping;

/// The file's name in `state_dir`.
pub const FILE: &str = "leases.json";
const PURPOSE: &str = "leases";

/// Reads and writes the file.
pub(super) struct Ledger {
    path: PathBuf,
    keeping: Keeping,
}

/// What an earlier life left.
#[derive(Default)]
pub(super) struct Found {
    pub(super) sessions: BTreeMap<StoreName, SecretBytes>,
    pub(super) held: Vec<(Key, Held)>,
}

#[derive(Serialize, Deserialize)]
struct Book {
    format: u32,
    #[serde(default)]
    sessions: BTreeMap<String, String>,
    held: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    secret: String,
    version: Version,
    store: String,
    place: String,
    made: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ends: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<Granted>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    abandoned: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    values: Option<Made>,
}

#[derive(Serialize, Deserialize)]
struct Granted {
    id: String,
    renewable: bool,
    /// Of the first grant, in seconds.
    seconds: u64,
}

#[derive(Serialize, Deserialize)]
struct Made {
    fields: Values,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    custom: BTreeMap<String, String>,
}

impl Ledger {
    pub(super) fn new(state_dir: &Path, keeping: Keeping) -> Self {
        Self { path: state_dir.join(FILE), keeping }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file, if there is one. What cannot be read is forgotten, loudly: a start must not hang on it.
    pub(super) fn load(&self, now: Now) -> Found {
        let bytes = match memory::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::default(),
            Err(error) => return self.unread(&error),
        };
        let opened = self.keeping.decode(PURPOSE, Path::new(FILE), bytes);
        match opened.map_err(|error| error.to_string()).and_then(|bytes| parse(bytes.expose(), now)) {
            Ok(found) => found,
            Err(why) => self.unread(&why),
        }
    }

    fn unread(&self, why: &dyn std::fmt::Display) -> Found {
        let path = self.path.display();
        tracing::error!(%path, "cannot read what leases are held: {why}; they end by themselves, and others are made");
        Found::default()
    }

    /// The bytes to write, and what writes them; the writing is for a thread that may block.
    pub(super) fn draft<'a>(
        &self,
        held: impl Iterator<Item = (&'a Key, &'a Held)>,
        sessions: impl Iterator<Item = (StoreName, SecretBytes)>,
    ) -> io::Result<impl FnOnce() -> io::Result<()> + Send + 'static> {
        let values = self.keeping.keeps_values();
        let sessions = sessions.filter(|_| values);
        let held = held.filter(|(_, held)| held.lease.is_some() || values);
        let book = Book {
            format: 1,
            sessions: sessions.map(|(name, bytes)| (name.to_string(), STANDARD.encode(bytes.expose()))).collect(),
            held: held.map(|(key, held)| Entry::of(key, held, values)).collect(),
        };
        let nothing = book.held.is_empty() && book.sessions.is_empty();
        let plain = written(&book)?;
        let sealed = self.keeping.encode(PURPOSE, Path::new(FILE), &plain).map_err(io::Error::other)?;
        let path = self.path.clone();
        Ok(move || {
            let bytes: &[u8] = sealed.as_ref().map_or(&plain, SecretBytes::expose);
            // Where nothing is held and nothing was, no file is made.
            if nothing && !path.exists() { Ok(()) } else { memory::replace(&path, bytes) }
        })
    }
}

fn parse(bytes: &[u8], now: Now) -> Result<Found, String> {
    // What serde_json says may quote the text: only the place is passed on.
    let book: Book = serde_json::from_slice(bytes)
        .map_err(|error| format!("not what was written (line {}, column {})", error.line(), error.column()))?;
    if book.format != 1 {
        return Err(format!("format {} is not known", book.format));
    }
    let sessions = book.sessions.into_iter().filter_map(|(name, text)| {
        let text = Zeroizing::new(text);
        Some((Arc::from(name), SecretBytes::new(STANDARD.decode(text.as_bytes()).ok()?)))
    });
    Ok(Found { sessions: sessions.collect(), held: book.held.into_iter().map(|entry| entry.held(now)).collect() })
}

impl Entry {
    fn of((name, version): &Key, held: &Held, values: bool) -> Self {
        let made = |reading: &Arc<Reading>| Made {
            fields: Values::of(reading),
            created_at: reading.created_at,
            expires_at: reading.expires_at,
            custom: reading.custom.clone(),
        };
        Self {
            secret: name.to_string(),
            version: version.clone(),
            store: held.store.to_string(),
            // By it values are found again; where none are kept, its params (which may hold any) are not, either.
            place: if values { held.place.clone() } else { String::new() },
            made: held.made,
            ends: held.ends.map(|ends| ends.wall),
            lease: held.lease.as_ref().map(|lease| Granted {
                id: lease.id.clone(),
                renewable: lease.renewable,
                seconds: held.granted.as_secs(),
            }),
            abandoned: held.abandoned,
            // What is doomed is only to be revoked.
            values: held.reading.as_ref().filter(|_| values && !held.doomed()).map(made),
        }
    }

    fn held(self, now: Now) -> (Key, Held) {
        let lease = self.lease.as_ref().map(|granted| Lease {
            id: granted.id.clone(),
            duration: Duration::from_secs(granted.seconds),
            renewable: granted.renewable,
        });
        let reading = self.values.map(|made| {
            Arc::new(Reading {
                created_at: made.created_at,
                expires_at: made.expires_at,
                lease: lease.clone(),
                again: Again::Mints,
                custom: made.custom,
                ..Reading::new(made.fields.into_fields(), self.version.clone())
            })
        });
        let kept = Kept {
            store: Arc::from(self.store),
            place: self.place,
            reading,
            granted: Duration::from_secs(self.lease.map_or(0, |granted| granted.seconds)),
            lease,
            made: self.made,
            abandoned: self.abandoned,
        };
        ((SecretName::new(self.secret), self.version), Held::remembered(kept, self.ends, now))
    }
}
