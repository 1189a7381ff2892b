//! Generations: what a target's files are, were and shall be. The only writer of a target's files.
//!
//! A generation is staged beside the live files (under the state directory, 0700), verified there by others, then
//! published, and kept for going back. See [`Generations`].
//!
//! How files are published, one by one or, with `directory:`, all in one rename, is told at [`Generations::publish`].
//!
//! Everything here blocks: call it where blocking is allowed.

mod directory;
mod live;
mod load;
mod manifest;
mod place;
mod plain;
mod publish;
mod stage;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::FileType;

use crate::digest::Key;
use crate::durable::{self, Dir, FileError, Temp};
use crate::failpoint;
use crate::render::Rendered;
use crate::scratch::Scratch;
use crate::seal::Seal;
use crate::secret::{SecretName, Version};

pub use live::{Difference, Live, differences, live_bytes};
pub use manifest::{Manifest, ManifestFile, Origin, OutputDigests};
pub use plain::Plain;
pub use publish::{PublishError, Published};
pub use stage::Staged;

/// The number of a generation: it only grows, and is never given twice, not after a crash and not after a prune.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct GenerationId(pub u64);

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for GenerationId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl GenerationId {
    fn folder(self) -> String {
        format!("{:06}", self.0)
    }

    fn of_folder(name: &OsStr) -> Option<Self> {
        let id = name.to_str()?.parse().ok().map(Self)?;
        (name == OsStr::new(&id.folder())).then_some(id)
    }
}

/// One retained generation: its manifest, or why it is no good.
pub type Listed = (GenerationId, Result<Manifest, FileError>);

/// The retained generations of one target.
///
/// ```text
/// generations/            0700
///   next                  the next number, where no folder tells it any more
///   000012/               appears by one rename, goes by one rename
///     manifest.json       ids, digests, owners, modes, names and versions of secrets: no values
///     files/config.yaml   the bytes, under the file's own name, so that a `check` can be run on it
///     env.json            the rendered environment of a supervised process
///     health.json         the rendered health request
/// ```
///
/// One writer at a time: whoever holds the lock of the state directory. Everything is 0600 and synced; with a seal, the
/// manifest and every blob are sealed, each for its own place ([`Generations::plain`] is for who must find them in files).
/// A generation from before there was a key is read as it is. Digests are of the plaintext, and keyed with the state directory's key; a generation that does not match its own is reported, and never published.
/// Removed generations are unlinked, not overwritten: on a copy-on-write disk that would prove nothing.
#[derive(Clone)]
pub struct Generations {
    dir: PathBuf,
    key: Key,
    seal: Option<Seal>,
}

impl Generations {
    /// Opens (or makes) the folder, and removes what a crash left half-staged, half-pruned or half-verified. `seal` is the
    /// one of the target's folder.
    ///
    /// # Errors
    /// Whatever the system answers.
    pub fn open(dir: &Path, key: &Key, seal: Option<&Seal>) -> Result<Self, FileError> {
        durable::create_dir_private(dir)?;
        let opened = Dir::open(dir)?;
        for name in opened.names()? {
            if name.to_string_lossy().starts_with(stage::TMP) || Temp::is_for(&name, OsStr::new(stage::NEXT)) {
                opened.remove_tree(&name)?;
            }
        }
        let opened = Self::view(dir, key, seal);
        Scratch::sweep(&opened.scratch_prefix());
        Ok(opened)
    }

    /// Looks at the folder without touching it. The caller owes not to stage, prune or publish through it.
    pub fn view(dir: &Path, key: &Key, seal: Option<&Seal>) -> Self {
        Self { dir: dir.to_owned(), key: key.clone(), seal: seal.map(|seal| seal.within("generations")) }
    }

    /// The numbers of what is retained, the oldest first. Says nothing about whether it is whole.
    ///
    /// # Errors
    /// Whatever the system answers. A folder that is not there is empty.
    pub fn ids(&self) -> Result<BTreeSet<GenerationId>, FileError> {
        let dir = match Dir::open(&self.dir) {
            Ok(dir) => dir,
            Err(error) if error.kind() == durable::FileErrorKind::Missing => return Ok(BTreeSet::new()),
            Err(error) => return Err(error),
        };
        let mut ids = BTreeSet::new();
        for name in dir.names()? {
            let Some(id) = GenerationId::of_folder(&name) else { continue };
            let stat = dir.stat(&name)?;
            if stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory) {
                ids.insert(id);
            }
        }
        Ok(ids)
    }

    /// Every retained generation, the oldest first: its manifest, or why it is no good (its blobs are proved only by
    /// [`Generations::load`]).
    ///
    /// # Errors
    /// Where the folder itself cannot be listed.
    pub fn list(&self) -> Result<Vec<Listed>, FileError> {
        Ok(self.ids()?.into_iter().map(|id| (id, self.manifest(id))).collect())
    }

    /// The readings that these generations were made from, by name and version.
    ///
    /// # Errors
    /// Where one of them is not there or no good: then nobody knows.
    pub fn readings(
        &self,
        ids: impl IntoIterator<Item = GenerationId>,
    ) -> Result<BTreeSet<(SecretName, Version)>, FileError> {
        let mut readings = BTreeSet::new();
        for id in ids {
            let origin = self.manifest(id)?.origin;
            let all = origin.versions.into_iter().chain(origin.previous);
            readings.extend(all.map(|(name, version)| (SecretName::new(name), version)));
        }
        Ok(readings)
    }

    /// What staging this would answer as its digests: tells, before anything is written, whether there is anything to do.
    ///
    /// # Errors
    /// Where the health request cannot be encoded.
    pub fn digests(&self, rendered: &Rendered) -> Result<OutputDigests, FileError> {
        manifest::digests(&self.key, rendered, &self.dir)
    }

    /// Removes every generation that is not in `keep`. The caller owes to keep the live and the committed ones.
    ///
    /// # Errors
    /// Whatever the system answers; each generation is then either there or gone, and the call can be repeated.
    pub fn prune(&self, keep: &BTreeSet<GenerationId>) -> Result<Vec<GenerationId>, FileError> {
        let ids = self.ids()?;
        let Some(last) = ids.last() else { return Ok(Vec::new()) };
        if !keep.contains(last) {
            // The folder's name is what remembers the number; without it something else must.
            stage::remember_next(&self.dir, GenerationId(last.0.saturating_add(1)))?;
        }
        let dir = Dir::open(&self.dir)?;
        let mut pruned = Vec::new();
        for id in ids.difference(keep) {
            failpoint::hit("prune.before");
            let gone = format!("{}pruned-{}-{}", stage::TMP, id.folder(), durable::unguessable(&self.dir)?);
            rustix::fs::renameat(dir.fd(), id.folder(), dir.fd(), &gone)
                .map_err(|errno| FileError::os("prune", &self.dir.join(id.folder()), errno))?;
            failpoint::hit("prune.after_rename");
            dir.remove_tree(OsStr::new(&gone))?;
            failpoint::hit("prune.after_remove");
            pruned.push(*id);
        }
        dir.sync()?;
        Ok(pruned)
    }
}
