//! `state_dir/overlap.json`: what has to survive a restart so that a `previous` does. 0600, replaced atomically, synced.
//!
//! It holds, for each secret with an `overlap` or a `max_age`: the version in use and when it changed; and with an
//! `overlap`, where the store keeps no versions itself, the values in use and the values before: the whole file sealed
//! under `state_key`, or in the clear where `state_dir` is in memory. Elsewhere no value is written, and after a restart
//! such a secret has no `previous`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use zeroize::Zeroizing;

use super::overlap::{Now, Overlap};
use super::record::{Book, Record};
use crate::config::model::SecretConfig;
use crate::secret::SecretName;
use crate::state_dir::Keeping;

/// The file's name in `state_dir`.
pub const FILE: &str = "overlap.json";

const PURPOSE: &str = "overlap";

pub(super) struct Memory {
    path: PathBuf,
    keeping: Keeping,
    /// Of secrets that are declared but not in use here (`--target` narrows): kept as they are.
    others: BTreeMap<SecretName, Record>,
}

/// Whether a secret is remembered at all.
pub(super) fn remembers(secret: &SecretConfig) -> bool {
    !secret.overlap.is_zero() || secret.max_age.is_some()
}

impl Memory {
    /// Reads the file, if there is one. What cannot be read is forgotten, loudly: a start must not hang on it.
    pub(super) fn load(state_dir: &Path, keeping: &Keeping) -> Self {
        let (path, keeping) = (state_dir.join(FILE), keeping.clone());
        let book = match read(&path) {
            Ok(bytes) => match keeping.decode(PURPOSE, Path::new(FILE), bytes) {
                Ok(bytes) => Book::parse(bytes.expose()),
                Err(error) => Err(error.to_string()),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Self { path, keeping, others: BTreeMap::new() };
            }
            Err(error) => Err(error.to_string()),
        };
        let secrets = book.map(|book| book.secrets).unwrap_or_else(|why| {
            tracing::error!(
                path = %path.display(),
                "cannot read what was remembered of overlaps: {why}; running overlaps end now"
            );
            BTreeMap::new()
        });
        Self {
            path,
            keeping,
            others: secrets.into_iter().map(|(name, record)| (SecretName::new(name), record)).collect(),
        }
    }

    /// What is remembered of a secret, which is henceforth its slot's to keep.
    pub(super) fn recall(&mut self, secret: &SecretConfig, now: Now) -> Overlap {
        let record = self.others.remove(&secret.name).filter(|_| remembers(secret));
        record.map(|record| record.into_overlap(secret.overlap, now)).unwrap_or_default()
    }

    /// Forgets what is no longer declared to be remembered. Values of a secret whose overlap was taken away go too.
    pub(super) fn retain(&mut self, declared: &BTreeMap<SecretName, SecretConfig>, now: Now) {
        self.others = std::mem::take(&mut self.others)
            .into_iter()
            .filter_map(|(name, record)| {
                let secret = declared.get(&name).filter(|secret| remembers(secret))?;
                let record = Record::of(&record.into_overlap(secret.overlap, now), secret.overlap)?;
                Some((name, record))
            })
            .collect();
    }

    /// Puts a secret that is no longer in use here back among the others.
    pub(super) fn put_back(&mut self, secret: &SecretConfig, overlap: &Overlap) {
        if let Some(record) = Record::of(overlap, secret.overlap).filter(|_| remembers(secret)) {
            self.others.insert(secret.name.clone(), record);
        }
    }

    /// The bytes to write, and what writes them; the writing is for a thread that may block.
    pub(super) fn draft<'a>(
        &self,
        slots: impl Iterator<Item = (&'a SecretConfig, &'a Overlap)>,
    ) -> io::Result<impl FnOnce() -> io::Result<()> + Send + 'static> {
        let used = slots.filter(|(secret, _)| remembers(secret)).filter_map(|(secret, overlap)| {
            Record::of(overlap, secret.overlap).map(|record| (secret.name.clone(), record))
        });
        let others = self.others.iter().map(|(name, record)| (name.clone(), record.clone()));
        let all = used.chain(others);
        let keeps_values = self.keeping.keeps_values();
        let book = Book::new(all.map(|(name, r)| (name, if keeps_values { r } else { r.without_values() })));
        let nothing = book.secrets.is_empty();
        let mut bytes = book.bytes()?;
        if let Keeping::Sealed(seal) = &self.keeping {
            bytes = Zeroizing::new(seal.seal(PURPOSE, Path::new(FILE), &bytes).map_err(io::Error::other)?);
        }
        let path = self.path.clone();
        // Where nothing is remembered and nothing was, no file is made.
        Ok(move || if nothing && !path.exists() { Ok(()) } else { replace(&path, &bytes) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)?;
    let size = usize::try_from(file.metadata()?.len()).unwrap_or_default();
    let mut bytes = Zeroizing::new(Vec::with_capacity(size + 1));
    file.read_to_end(&mut bytes)?;
    Ok(std::mem::take(&mut *bytes))
}

/// Writes beside, syncs, renames, syncs the folder: after a crash the old content is there or the new one.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("json.new");
    // Left by a crash, or a link that somebody put there: never written through.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&beside, path));
    if let Err(error) = written {
        let _it_may_not_be_there = fs::remove_file(&beside);
        return Err(error);
    }
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
