//! Reading a generation back, and proving it: what does not match its digests is reported, never published.

use std::path::{Component, Path};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::manifest::{self, Blob, FORMAT, Manifest};
use super::place::walk;
use super::stage::{BLOB, MANIFEST, MANIFEST_FILE};
use super::{GenerationId, Generations};
use crate::digest::Key;
use crate::durable::{self, Dir, FileError};
use crate::render::{Rendered, RenderedFile};
use crate::seal::{Seal, SealError, is_sealed, open_if_sealed, sealed_len};
use crate::secret::SecretBytes;

const MANIFEST_CAP: u64 = 64 * 1024 * 1024;
const HINT: &str = "roll back to another generation, or let a new one be rendered";

impl Generations {
    /// What a generation says about itself, proved by its seal.
    ///
    /// # Errors
    /// Where it is not there, cannot be read, is torn or tampered with, or was written by a newer Leasehold.
    pub fn manifest(&self, id: GenerationId) -> Result<Manifest, FileError> {
        self.look(id).map(|(manifest, _)| manifest)
    }

    /// The manifest, and what its blobs are sealed with: a generation is sealed as a whole or not at all.
    pub(super) fn look(&self, id: GenerationId) -> Result<(Manifest, Option<&Seal>), FileError> {
        let path = self.dir.join(id.folder()).join(MANIFEST_FILE);
        let Some(bytes) = durable::read(&path, MANIFEST_CAP)? else {
            let mut error = FileError::os("read", &path, Errno::NOENT);
            error.hint = Some(format!("generation {id} is not retained; see `agent history`"));
            return Err(error);
        };
        let seal = self.seal.as_ref().filter(|_| is_sealed(&bytes));
        let place = Path::new(&id.folder()).join(MANIFEST_FILE);
        let bytes = open_if_sealed(seal, MANIFEST, &place, bytes).map_err(|error| unopened(&path, error))?;
        let bytes = bytes.expose();
        let manifest: Manifest = match serde_json::from_slice(bytes) {
            Ok(manifest) => manifest,
            Err(_) => return Err(FileError::corrupt(&path, unreadable(bytes), HINT)),
        };
        let expected = manifest.sealed_as(&self.key).unwrap_or_default();
        if manifest.id != id || expected != manifest.seal {
            return Err(FileError::corrupt(&path, "it does not match its seal", HINT));
        }
        Ok((manifest, seal))
    }

    /// Reads a whole generation back, every blob proved by its digest.
    ///
    /// # Errors
    /// As [`Generations::manifest`], and where any blob is missing, torn or tampered with.
    pub fn load(&self, id: GenerationId) -> Result<(Manifest, Rendered), FileError> {
        let (manifest, seal) = self.look(id)?;
        let folder = Kept { folder: Dir::open(&self.dir.join(id.folder()))?, id, key: &self.key, seal };
        let mut files = Vec::with_capacity(manifest.files.len());
        for file in &manifest.files {
            files.push(RenderedFile {
                path: file.path.clone(),
                bytes: Arc::new(folder.blob(&file.blob, &file.content)?),
                mode: file.mode,
                uid: file.uid,
                gid: file.gid,
                follow_symlinks: file.follow_symlinks,
            });
        }
        let nonsense = |name: &str| FileError::corrupt(&folder.folder.path().join(name), "it makes no sense", HINT);
        let env = match &manifest.env {
            None => Vec::new(),
            Some(blob) => {
                let bytes = folder.blob(Path::new("env.json"), blob)?;
                manifest::decode_env(bytes.expose()).ok_or_else(|| nonsense("env.json"))?
            }
        };
        let health = match &manifest.health {
            None => None,
            Some(blob) => {
                let bytes = folder.blob(Path::new("health.json"), blob)?;
                Some(manifest::decode_health(bytes.expose()).ok_or_else(|| nonsense("health.json"))?)
            }
        };
        let rendered = Rendered { files, directory: manifest.directory.clone(), env, health };
        Ok((manifest, rendered))
    }
}

/// An open generation, and how its blobs are proved.
pub(super) struct Kept<'a> {
    pub(super) folder: Dir,
    pub(super) id: GenerationId,
    pub(super) key: &'a Key,
    pub(super) seal: Option<&'a Seal>,
}

impl Kept<'_> {
    pub(super) fn blob(&self, name: &Path, want: &Blob) -> Result<SecretBytes, FileError> {
        let path = self.folder.path().join(name);
        if !name.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(FileError::corrupt(&path, "its name leads out of its generation", HINT));
        }
        let (parent, own) = durable::split(name)?;
        let Some(dir) = walk(&self.folder, parent)? else {
            return Err(FileError::corrupt(&path, "it is gone", HINT));
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(dir.fd(), own, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Err(FileError::corrupt(&path, "it is gone", HINT)),
            Err(errno) => return Err(FileError::os("read", &path, errno)),
        };
        let bytes = match self.seal {
            None => SecretBytes::new(durable::read_fd(fd, &path, want.len)?),
            Some(seal) => {
                let sealed = durable::read_fd(fd, &path, sealed_len(want.len))?;
                let place = Path::new(&self.id.folder()).join(name);
                seal.open(BLOB, &place, &sealed).map_err(|error| unopened(&path, error))?
            }
        };
        if Blob::of(self.key, bytes.expose()) == *want {
            Ok(bytes)
        } else {
            Err(FileError::corrupt(&path, "it does not match its digest", HINT))
        }
    }
}

/// Of a missing or other key the hint is to give the right one; nothing else is lost.
fn unopened(path: &Path, error: SealError) -> FileError {
    match error {
        SealError::NotSealed | SealError::Damaged => FileError::corrupt(path, error.to_string(), HINT),
        error => error.at(path),
    }
}

fn unreadable(bytes: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Head {
        format: u32,
    }
    match serde_json::from_slice::<Head>(bytes) {
        Ok(Head { format }) if format > FORMAT => {
            format!("it was written by a newer Leasehold (format {format}, this one reads {FORMAT})")
        }
        _ => "it is torn".to_owned(),
    }
}
