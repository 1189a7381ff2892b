//! How remembered overlaps are written down: the JSON of `overlap.json`. A room's own format; nothing else reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::overlap::{InUse, Now, Overlap, Previous, later};
use crate::config::model::TargetName;
use crate::secret::{Field, Fields, Reading, SecretBytes, SecretName, Version};

#[derive(Serialize, Deserialize)]
pub(super) struct Book {
    /// The format's version.
    format: u32,
    pub(super) secrets: BTreeMap<String, Record>,
}

/// What is remembered of one secret. Values (`fields`) only while its overlap is on and its store keeps no versions.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Record {
    version: Version,
    changed_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fields: Option<Values>,
    #[serde(default)]
    kept_by_store: bool,
    /// No target took it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    refused: bool,
    /// The targets that stand on it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    users: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<Before>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Before {
    version: Version,
    until: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fields: Option<Values>,
}

/// Fields in a form that keeps their kinds. Shared with the readings, not copied, until they are written.
#[derive(Clone)]
pub(super) struct Values(Arc<Reading>);

#[derive(Serialize, Deserialize)]
enum Value<'a> {
    Null,
    Bool(bool),
    Number(std::borrow::Cow<'a, str>),
    Text(std::borrow::Cow<'a, str>),
    Base64(String),
    List(Vec<Value<'a>>),
    Map(BTreeMap<String, Value<'a>>),
}

impl Book {
    pub(super) fn new(records: impl Iterator<Item = (SecretName, Record)>) -> Self {
        Self { format: 1, secrets: records.map(|(name, record)| (name.as_str().to_owned(), record)).collect() }
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        // What serde_json says may quote the text: only the place is passed on.
        let book: Self = serde_json::from_slice(bytes)
            .map_err(|error| format!("not what was written (line {}, column {})", error.line(), error.column()))?;
        if book.format == 1 { Ok(book) } else { Err(format!("format {} is not known", book.format)) }
    }

    /// The file's bytes, in a buffer that never grows and is wiped when dropped.
    pub(super) fn bytes(&self) -> io::Result<Zeroizing<Vec<u8>>> {
        written(self)
    }
}

/// JSON in a buffer that never grows and is wiped when dropped.
pub(super) fn written(what: &impl Serialize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut size = Size(0);
    serde_json::to_writer(&mut size, what)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(size.0));
    serde_json::to_writer(&mut *bytes, what)?;
    Ok(bytes)
}

impl Values {
    pub(super) fn of(reading: &Arc<Reading>) -> Self {
        Self(Arc::clone(reading))
    }

    pub(super) fn into_fields(self) -> Fields {
        self.0.fields.clone()
    }
}

struct Size(usize);

impl io::Write for Size {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Record {
    /// None: nothing of this secret was ever in use.
    pub(super) fn of(overlap: &Overlap, lasts: Duration) -> Option<Self> {
        let InUse { version, reading, changed_at, kept_by_store, refused, users } = overlap.in_use.as_ref()?;
        let values = |reading: &Option<Arc<Reading>>| {
            reading.as_ref().filter(|_| !kept_by_store && !lasts.is_zero()).map(|reading| Values(Arc::clone(reading)))
        };
        Some(Self {
            version: version.clone(),
            changed_at: *changed_at,
            fields: values(reading),
            kept_by_store: *kept_by_store,
            refused: *refused && users.is_empty(),
            users: users.iter().map(|target| target.to_string()).collect(),
            previous: overlap.previous.as_ref().filter(|_| !lasts.is_zero()).map(|previous| Before {
                version: previous.version.clone(),
                until: previous.until,
                fields: values(&previous.reading),
            }),
        })
    }

    /// What may be written where no value may.
    pub(super) fn without_values(self) -> Self {
        let previous = self.previous.map(|before| Before { fields: None, ..before });
        Self { fields: None, previous, ..self }
    }

    pub(super) fn into_overlap(self, lasts: Duration, now: Now) -> Overlap {
        let reading = |fields: Option<Values>, version: &Version| {
            let values = fields.filter(|_| !lasts.is_zero())?;
            let mut reading = Reading::clone(&values.0);
            reading.version = version.clone();
            Some(Arc::new(reading))
        };
        let previous = self.previous.and_then(|before| {
            let values = reading(before.fields, &before.version);
            // No overlap ends while what is in use is refused.
            let until = if self.refused { later(now.wall, lasts) } else { before.until };
            Previous::remembered(before.version, values, until, lasts, now)
        });
        let in_use = InUse {
            reading: reading(self.fields, &self.version),
            version: self.version,
            changed_at: self.changed_at,
            kept_by_store: self.kept_by_store,
            refused: self.refused,
            users: self.users.into_iter().map(TargetName::from).collect(),
        };
        Overlap { in_use: Some(in_use), previous, before: None }
    }
}

impl Serialize for Values {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.fields.iter().map(|(name, field)| (name, Value::of(field))))
    }
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let values = BTreeMap::<String, Value<'static>>::deserialize(deserializer)?;
        let fields: Fields = values.into_iter().map(|(name, value)| (name, value.into_field())).collect();
        let version = Version(String::new());
        Ok(Self(Arc::new(Reading::new(fields, version))))
    }
}

impl<'a> Value<'a> {
    fn of(field: &'a Field) -> Self {
        let text = |bytes: &'a SecretBytes| bytes.expose_str().map(Into::into);
        let base64 = |bytes: &SecretBytes| Self::Base64(STANDARD.encode(bytes.expose()));
        match field {
            Field::Null => Self::Null,
            Field::Bool(value) => Self::Bool(*value),
            Field::Number(bytes) => text(bytes).map_or_else(|| base64(bytes), Self::Number),
            Field::Text(bytes) => text(bytes).map_or_else(|| base64(bytes), Self::Text),
            Field::Bytes(bytes) => base64(bytes),
            Field::List(list) => Self::List(list.iter().map(Self::of).collect()),
            Field::Map(map) => Self::Map(map.iter().map(|(name, field)| (name.clone(), Self::of(field))).collect()),
        }
    }

    fn into_field(self) -> Field {
        match self {
            Self::Null => Field::Null,
            Self::Bool(value) => Field::Bool(value),
            Self::Number(text) => Field::Number(text.into_owned().into()),
            Self::Text(text) => Field::text(text.into_owned()),
            // What does not decode was never written by us; it stays what it is.
            Self::Base64(text) => match STANDARD.decode(&text) {
                Ok(bytes) => Field::Bytes(SecretBytes::new(bytes)),
                Err(_) => Field::text(text),
            },
            Self::List(list) => Field::List(list.into_iter().map(Value::into_field).collect()),
            Self::Map(map) => Field::Map(map.into_iter().map(|(name, value)| (name, value.into_field())).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn what_is_written_is_read_again_with_every_kind_of_field() {
        let fields = Fields::from([
            ("null".to_owned(), Field::Null),
            ("bool".to_owned(), Field::Bool(true)),
            ("number".to_owned(), Field::Number("1.50".into())),
            ("text".to_owned(), Field::text("a \"quoted\"\nline")),
            ("bytes".to_owned(), Field::Bytes(SecretBytes::new(vec![0, 255, 10]))),
            (
                "list".to_owned(),
                Field::List(vec![Field::Null, Field::Map(Fields::from([("k".to_owned(), Field::text("v"))]))]),
            ),
        ]);
        let reading = |version: &str| {
            let version = Version(version.to_owned());
            Arc::new(Reading::new(fields.clone(), version))
        };
        let hour = Duration::from_secs(3600);
        let now = Now { wall: Timestamp::UNIX_EPOCH, mono: Instant::now() };
        let mut overlap = Overlap::default();
        assert!(overlap.take_up(&reading("1"), None, hour, now.wall, now));
        assert!(overlap.take_up(&reading("2"), None, hour, now.wall, now));
        assert!(!overlap.take_up(&reading("2"), None, hour, now.wall, now));

        let name = SecretName::new("s");
        let record = Record::of(&overlap, hour).expect("in use");
        let bytes = Book::new([(name, record)].into_iter()).bytes().expect("written");
        let mut book = Book::parse(&bytes).expect("read");
        let again = book.secrets.remove("s").expect("there").into_overlap(hour, now);
        assert_eq!(again.shown(), Some(&reading("1")));
        assert_eq!(again.in_use.and_then(|in_use| in_use.reading), Some(reading("2")));
        assert_eq!(again.previous.map(|previous| previous.until), overlap.previous.map(|previous| previous.until));

        let off = Record::of(&Overlap::default(), hour);
        assert!(off.is_none());
        assert!(Book::parse(b"{\"format\":2,\"secrets\":{}}").is_err());
        assert!(Book::parse(&bytes[..bytes.len() - 3]).is_err());
    }
}
