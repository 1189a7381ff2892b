//! The file store: secrets from a file or a mounted folder on this machine.
//!
//! | what `path` is | what it holds |
//! | --- | --- |
//! | `*.yaml`, `*.yml` | YAML 1.2: each secret's name -> its fields, or one value (then its field is `raw`) |
//! | `*.json` | the same in JSON (RFC 8259) |
//! | `*.env`, `.env`, `.env.*` | dotenv: one secret, a variable is a field (see [`dotenv`] for the rules) |
//! | a folder | one secret, a file is a field, its bytes kept; as Kubernetes mounts secrets |
//! | any other file | JSON where it begins with `{`; dotenv where its first line of content is `NAME=…`; else YAML |
//!
//! In a folder, names that begin with a dot and subfolders are left out, and links are followed.
//! Numbers keep their literal text (`1.50` stays `1.50`); what JSON could not write as a number (`007`, `0x1F`) is text,
//! and so are YAML 1.1's `yes`, `no`, `on` and `off`. Duplicate keys are refused. At most 8 MiB.
//!
//! It is read-only, does not decrypt, and does not follow `poll` by itself.

pub mod dotenv;
mod json;
mod parse;
mod read;
mod yaml;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::{Mutex, OnceCell};

use crate::config::model::{Locator, StoreName};
use crate::digest::Key;
use crate::pathwatch::PathWatch;
use crate::secret::{Field, Fields, Reading, SecretBytes};
use crate::store::{Changed, Store, StoreError, StoreErrorKind, canonical};

/// A file or folder as a store. See the module's documentation for what is read, and how.
///
/// Errors: `Missing` where the file, or the name in it, is not there; `Denied` for EACCES and EPERM; `Malformed` for what
/// does not parse, with line and column and never a word of the content; `Unavailable` for any other failure to read.
///
/// The parsed content is kept until the file changes, so that a thousand secrets of one file cost one parse a change.
pub struct FileStore {
    name: StoreName,
    path: PathBuf,
    key: Key,
    /// Reads that have begun.
    arrivals: AtomicU64,
    loaded: Mutex<Option<Loaded>>,
    watch: OnceCell<PathWatch>,
    warned: AtomicBool,
}

struct Loaded {
    /// How many reads had begun when this load began: it is news to all of them.
    seen: u64,
    content: Result<Arc<Content>, StoreError>,
}

/// A file or folder, read and parsed.
struct Content {
    stamps: read::Stamps,
    /// Old enough when it was read that a later write must show in its times.
    settled: bool,
    /// Readable for everybody on the machine.
    open_to_all: bool,
    /// Of the file, or of the newest one in the folder.
    modified: Option<Timestamp>,
    document: Document,
}

enum Document {
    /// Name -> fields, or one value.
    Named(BTreeMap<String, Field>),
    /// One secret, whatever its name.
    One(Fields),
}

impl FileStore {
    /// A store on `path`, a file or folder, there or not. `name` is for messages; `key` makes the versions.
    pub fn new(name: StoreName, path: PathBuf, key: Key) -> Self {
        Self {
            name,
            path,
            key,
            arrivals: AtomicU64::new(0),
            loaded: Mutex::new(None),
            watch: OnceCell::new(),
            warned: AtomicBool::new(false),
        }
    }

    async fn content(&self) -> Result<Arc<Content>, StoreError> {
        let arrival = self.arrivals.fetch_add(1, Ordering::Relaxed) + 1;
        let mut loaded = self.loaded.lock().await;
        if let Some(loaded) = loaded.as_ref().filter(|loaded| loaded.seen >= arrival) {
            return loaded.content.clone();
        }
        let seen = self.arrivals.load(Ordering::Relaxed);
        let before = loaded.take().and_then(|loaded| loaded.content.ok());
        let path = self.path.clone();
        let content = tokio::task::spawn_blocking(move || load(&path, before))
            .await
            .unwrap_or_else(|_stopped| Err(Fault::new(StoreErrorKind::Unavailable, "the read was broken off")))
            .map_err(|fault| self.error(&fault));
        if let Ok(content) = &content {
            self.warn_if_open(content);
        }
        *loaded = Some(Loaded { seen, content: content.clone() });
        content
    }

    fn reading(&self, fields: Fields, created_at: Option<Timestamp>) -> Reading {
        let version = self.key.version(&canonical::encode(&fields));
        Reading { created_at, ..Reading::new(fields, version) }
    }

    fn error(&self, fault: &Fault) -> StoreError {
        let at = match fault.at {
            Some((line, column)) => format!(":{line}:{column}"),
            None => String::new(),
        };
        StoreError {
            kind: fault.kind,
            message: format!("store {}: {}{at}: {}", self.name, self.path.display(), fault.what),
            retry_after: None,
        }
    }

    /// In a folder the modes are the mount's affair (Kubernetes: 0644 in a mount that only the pod sees).
    fn warn_if_open(&self, content: &Content) {
        if content.open_to_all && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                store = %self.name,
                path = %self.path.display(),
                "every user of this machine can read this file of secrets: chmod o-rwx it"
            );
        }
    }
}

impl Store for FileStore {
    fn read<'a>(&'a self, locator: &'a Locator) -> BoxFuture<'a, Result<Reading, StoreError>> {
        Box::pin(async move {
            let Locator::File { key } = locator else {
                let fault = Fault::new(StoreErrorKind::Missing, "a file store finds secrets by `key` only");
                return Err(self.error(&fault));
            };
            let content = self.content().await?;
            match &content.document {
                // The file's time says something about its one secret, but nothing about one of many.
                Document::One(fields) => Ok(self.reading(fields.clone(), content.modified)),
                Document::Named(secrets) => {
                    let fields = named(secrets, key).map_err(|fault| self.error(&fault))?;
                    Ok(self.reading(fields, None))
                }
            }
        })
    }

    fn changed(&self) -> BoxFuture<'_, Changed> {
        Box::pin(async {
            if let Some(watch) = self.watch.get() {
                watch.changed().await;
                return Changed::all();
            }
            // What changed before the watch stood is not known: that counts as a change.
            self.watch.get_or_init(|| async { PathWatch::new([self.path.clone()]) }).await;
            Changed::all()
        })
    }
}

/// JSON text as a field, numbers as they are written. None where it is not JSON, or an object in it has a name twice.
pub(in crate::store) fn parse_json(text: &str) -> Option<Field> {
    json::parse(text).ok()
}

/// What is wrong, before the store's name and path are put to it. Never holds content.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    kind: StoreErrorKind,
    what: String,
    /// Line and column, from 1.
    at: Option<(u64, u64)>,
}

impl Fault {
    fn new(kind: StoreErrorKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), at: None }
    }

    fn malformed(what: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Malformed, what)
    }

    fn at(mut self, line: u64, column: u64) -> Self {
        self.at = Some((line, column));
        self
    }
}

fn load(path: &std::path::Path, before: Option<Arc<Content>>) -> Result<Arc<Content>, Fault> {
    if let Some(before) = before.filter(|before| before.settled)
        && read::stamps(path).is_ok_and(|now| now == before.stamps)
    {
        return Ok(before);
    }
    let raw = read::read(path)?;
    let document = match raw.bytes {
        read::Bytes::File(bytes) => parse::parse(path, &bytes)?,
        read::Bytes::Folder(files) => Document::One(files),
    };
    Ok(Arc::new(Content {
        stamps: raw.stamps,
        settled: raw.settled,
        open_to_all: raw.open_to_all,
        modified: raw.modified,
        document,
    }))
}

fn named(secrets: &BTreeMap<String, Field>, key: &str) -> Result<Fields, Fault> {
    match secrets.get(key) {
        Some(Field::Map(fields)) if fields.is_empty() => Err(Fault::malformed(format!("secret {key} has no fields"))),
        Some(Field::Map(fields)) => Ok(fields.clone()),
        Some(Field::Null) => Err(Fault::malformed(format!("secret {key} has no fields"))),
        Some(Field::List(_)) => {
            Err(Fault::malformed(format!("secret {key} is a list; it must be a mapping of fields, or one value")))
        }
        Some(value) => Ok(Fields::from([("raw".to_owned(), value.clone())])),
        None => Err(Fault::new(StoreErrorKind::Missing, format!("there is no secret named {key} in it"))),
    }
}

/// Text of a file, or where it stops being UTF-8.
fn text(bytes: &SecretBytes) -> Result<&str, Fault> {
    std::str::from_utf8(bytes.expose()).map_err(|error| {
        let good = bytes.expose().get(..error.valid_up_to()).unwrap_or_default();
        let line = good.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        let column = good.iter().rev().take_while(|byte| **byte != b'\n').count() as u64 + 1;
        Fault::malformed("this is not UTF-8 text (in a folder of files, bytes of any kind are kept)").at(line, column)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_parsed_again_when_its_times_differ_or_were_too_young_to_tell() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.yaml");
        std::fs::write(&path, "a: {b: c}").unwrap();
        let mut first = load(&path, None).unwrap();
        assert!(!first.settled, "written just now");
        assert!(!Arc::ptr_eq(&load(&path, Some(Arc::clone(&first))).unwrap(), &first));

        Arc::get_mut(&mut first).unwrap().settled = true;
        assert!(Arc::ptr_eq(&load(&path, Some(Arc::clone(&first))).unwrap(), &first));
        std::fs::write(dir.path().join("new"), "a: {b: d}").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        assert!(!Arc::ptr_eq(&load(&path, Some(Arc::clone(&first))).unwrap(), &first));
        std::fs::remove_file(&path).unwrap();
        assert!(load(&path, Some(first)).is_err());
    }

    #[test]
    fn a_file_that_everybody_can_read_is_noticed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.yaml");
        std::fs::write(&path, "a: b").unwrap();
        for (mode, open) in [(0o644, true), (0o640, false), (0o600, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(load(&path, None).unwrap().open_to_all, open, "{mode:o}");
        }
    }
}
