//! What a store answers and what a template sees: secret values, versions, readings, snapshots.
//!
//! Pure: no clock, no file, no runtime. Values are zeroized on drop and have no `Debug`, `Display` or `Serialize`
//! that shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use zeroize::Zeroizing;

/// Bytes of a secret: zeroized on drop; `Debug` shows only the length.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes the bytes over without a copy.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The plaintext. The caller owes not to log it, print it or keep a copy that is not zeroized.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The plaintext as text, if it is UTF-8. The same debt as [`SecretBytes::expose`].
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True where there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for SecretBytes {
    fn from(text: String) -> Self {
        Self::new(text.into_bytes())
    }
}

impl From<&str> for SecretBytes {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes().to_vec())
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} secret bytes>", self.len())
    }
}

/// The name under which a secret is declared (or, for a `resolve` reference, its URI).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName(pub Arc<str>);

impl SecretName {
    /// A name from text.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One field of a secret, as the store gave it. Scalars keep their kind so that a template can print a port as a number.
#[derive(Clone, PartialEq, Eq)]
pub enum Field {
    /// JSON/YAML null.
    Null,
    /// A truth value.
    Bool(bool),
    /// A number, as its literal text (`5432`, `1.5`).
    Number(SecretBytes),
    /// UTF-8 text.
    Text(SecretBytes),
    /// Bytes that are not text.
    Bytes(SecretBytes),
    /// A list.
    List(Vec<Field>),
    /// A nested object.
    Map(BTreeMap<String, Field>),
}

impl Field {
    /// A text field.
    pub fn text(text: impl Into<SecretBytes>) -> Self {
        Self::Text(text.into())
    }

    /// Text if the bytes are UTF-8, else bytes.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        let bytes = SecretBytes::new(bytes);
        if bytes.expose_str().is_some() { Self::Text(bytes) } else { Self::Bytes(bytes) }
    }

    /// The field as the text a template would print for it, where it has one (not for lists, maps, bytes and null).
    pub fn as_text(&self) -> Option<SecretBytes> {
        match self {
            Self::Bool(value) => Some(SecretBytes::from(if *value { "true" } else { "false" })),
            Self::Number(value) | Self::Text(value) => Some(value.clone()),
            Self::Null | Self::Bytes(_) | Self::List(_) | Self::Map(_) => None,
        }
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(_) => f.write_str("<secret bool>"),
            Self::Number(_) => f.write_str("<secret number>"),
            Self::Text(v) => write!(f, "<secret text, {} bytes>", v.len()),
            Self::Bytes(v) => write!(f, "{v:?}"),
            Self::List(v) => write!(f, "<secret list of {}>", v.len()),
            Self::Map(v) => f.debug_list().entries(v.keys()).finish(),
        }
    }
}

/// The fields of a secret by name. A secret that is one blob has the single field `raw`.
pub type Fields = BTreeMap<String, Field>;

/// A store's own name for one version of a secret: equal versions mean equal contents. Never a digest that could be
/// guessed from outside: stores without versions use [`crate::digest::Key`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Version(pub String);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A lease that a store granted with a reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The store's id of the lease. Not a secret, but enough to revoke it.
    pub id: String,
    /// How long it lives, counted from the answer that said so; never longer than the token that it hangs on.
    pub duration: Duration,
    /// Whether the store is willing to renew it.
    pub renewable: bool,
}

/// What reading a secret again means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Again {
    /// It costs nothing but a request: read as often as the poll says.
    #[default]
    Free,
    /// It makes new credentials (a lease, a certificate): only when these are to be replaced.
    Mints,
    /// The store changes it by itself after this, counted from the answer: read then, and at the poll.
    After(Duration),
}

/// One answer of a store about one secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Reading {
    /// The values.
    pub fields: Fields,
    /// The store's name for these values.
    pub version: Version,
    /// When the store says this version was made.
    pub created_at: Option<Timestamp>,
    /// When these values end, if the store says so.
    pub expires_at: Option<Timestamp>,
    /// The lease they hang on, if any.
    pub lease: Option<Lease>,
    /// What reading again means.
    pub again: Again,
    /// What people noted beside the values (KV v2's `custom_metadata`). No secret.
    pub custom: BTreeMap<String, String>,
}

impl Reading {
    /// Values of a version, with nothing else known of them.
    pub fn new(fields: Fields, version: Version) -> Self {
        Self {
            fields,
            version,
            created_at: None,
            expires_at: None,
            lease: None,
            again: Again::Free,
            custom: BTreeMap::new(),
        }
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("fields", &self.fields.keys())
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// What a target stands on, as its driver tells the watch: leases of everything else may be revoked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Readings in the generations that a process may have, or be given back.
    pub using: BTreeSet<(SecretName, Version)>,
    /// Readings in the newest inputs that the driver has taken.
    pub newest: BTreeSet<(SecretName, Version)>,
    /// Whether those newest inputs were refused for good: their rotation was quarantined or rolled back.
    pub rejected: bool,
}

/// What every secret of a target is at one moment: the only input of a render beside the templates.
///
/// `previous` holds a secret only while its overlap lasts; the end of an overlap is simply a new snapshot.
/// Cheap to clone: readings are shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The readings in use.
    pub secrets: BTreeMap<SecretName, Arc<Reading>>,
    /// The readings before, while their overlap lasts.
    pub previous: BTreeMap<SecretName, Arc<Reading>>,
}

impl Snapshot {
    /// Every reading in it, by name and version.
    pub fn readings(&self) -> BTreeSet<(SecretName, Version)> {
        let all = self.secrets.iter().chain(&self.previous);
        all.map(|(name, reading)| (name.clone(), reading.version.clone())).collect()
    }
}
