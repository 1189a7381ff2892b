//! Writing a generation beside the live files.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::manifest::{self, Blob, FORMAT, Manifest, ManifestFile, Origin};
use super::place::relative_to;
use super::{GenerationId, Generations};
use crate::durable::{self, Attributes, Dir, FileError};
use crate::failpoint;
use crate::render::Rendered;

/// What a manifest and a blob are sealed for.
pub(super) const MANIFEST: &str = "generation.manifest";
pub(super) const BLOB: &str = "generation.blob";
/// The manifest's name in its generation.
pub(super) const MANIFEST_FILE: &str = "manifest.json";
/// Names that begin so are half-done and go at the next start.
pub(super) const TMP: &str = ".tmp-";
/// Remembers the next number where no folder does.
pub(super) const NEXT: &str = "next";

/// A generation that is on the disk beside the live ones.
#[derive(Clone, Debug)]
pub struct Staged {
    /// What it says about itself.
    pub manifest: Manifest,
}

impl Staged {
    /// Its number.
    pub fn id(&self) -> GenerationId {
        self.manifest.id
    }
}

impl Generations {
    /// Writes a generation under the next number: nothing of it is visible until all of it is synced. Live files are
    /// not touched.
    ///
    /// # Errors
    /// Whatever the system answers; then nothing is left behind. Two files with one path are refused.
    pub fn stage(&self, rendered: &Rendered, origin: Origin) -> Result<Staged, FileError> {
        failpoint::hit("stage.before");
        let dir = Dir::open(&self.dir)?;
        let id = self.next_id()?;
        let tmp = format!("{TMP}{}-{}", id.folder(), durable::unguessable(&self.dir)?);
        let manifest = match self.write(&dir, &tmp, id, rendered, origin) {
            Ok(manifest) => manifest,
            Err(error) => {
                let _ = dir.remove_tree(OsStr::new(&tmp));
                return Err(error);
            }
        };
        failpoint::hit("stage.before_rename");
        let folder = self.dir.join(id.folder());
        rustix::fs::renameat(dir.fd(), &tmp, dir.fd(), id.folder()).map_err(|errno| {
            let _ = dir.remove_tree(OsStr::new(&tmp));
            FileError::os("stage", &folder, errno)
        })?;
        failpoint::hit("stage.after_rename");
        dir.sync()?;
        failpoint::hit("stage.after_sync");
        Ok(Staged { manifest })
    }

    fn next_id(&self) -> Result<GenerationId, FileError> {
        let path = self.dir.join(NEXT);
        let remembered = match durable::read(&path, 64)? {
            None => 1,
            Some(bytes) => {
                std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok()).ok_or_else(|| {
                    let hint = "write a number into it that is larger than any generation in the target's history";
                    FileError::corrupt(&path, "it holds no number", hint)
                })?
            }
        };
        let after_last = self.ids()?.last().map_or(1, |last| last.0.saturating_add(1));
        Ok(GenerationId(after_last.max(remembered)))
    }

    fn write(
        &self,
        dir: &Dir,
        tmp: &str,
        id: GenerationId,
        rendered: &Rendered,
        origin: Origin,
    ) -> Result<Manifest, FileError> {
        let folder = dir.make(OsStr::new(tmp), 0o700)?;
        let files = self.write_files(&folder, id, rendered)?;
        let env = manifest::encode_env(&rendered.env, folder.path())?;
        let health = manifest::encode_health(rendered.health.as_ref(), folder.path())?;
        let mut manifest = Manifest {
            format: FORMAT,
            id,
            origin,
            digests: self.digests(rendered)?,
            directory: rendered.directory.clone(),
            files,
            env: env.as_ref().map(|bytes| Blob::of(&self.key, bytes.expose())),
            health: health.as_ref().map(|bytes| Blob::of(&self.key, bytes.expose())),
            seal: String::new(),
        };
        for (name, bytes) in [("env.json", env), ("health.json", health)] {
            if let Some(bytes) = bytes {
                write(&folder, name, &self.sealed(BLOB, id, Path::new(name), bytes.expose())?)?;
            }
        }
        let unencodable = |_| {
            FileError::refused(
                "stage",
                folder.path(),
                "a path in it is no UTF-8",
                "name its files and folders in UTF-8",
            )
        };
        manifest.seal = manifest.sealed_as(&self.key).map_err(unencodable)?;
        let bytes = serde_json::to_vec_pretty(&manifest).map_err(unencodable)?;
        write(&folder, MANIFEST_FILE, &self.sealed(MANIFEST, id, Path::new(MANIFEST_FILE), &bytes)?)?;
        folder.sync()?;
        Ok(manifest)
    }

    fn write_files(&self, folder: &Dir, id: GenerationId, rendered: &Rendered) -> Result<Vec<ManifestFile>, FileError> {
        let root = folder.make(OsStr::new("files"), 0o700)?;
        let mut taken = BTreeSet::new();
        let mut paths = BTreeSet::new();
        let mut files = Vec::with_capacity(rendered.files.len());
        for (index, file) in rendered.files.iter().enumerate() {
            if !paths.insert(&file.path) {
                let why = "two files of the target have this path";
                return Err(FileError::refused("stage", &file.path, why, "give each file a path of its own"));
            }
            let name = blob_name(rendered.directory.as_deref(), &file.path, index, &taken)?;
            let blob = Path::new("files").join(&name);
            write_nested(&root, &name, &self.sealed(BLOB, id, &blob, file.bytes.expose())?)?;
            taken.insert(name);
            files.push(ManifestFile {
                path: file.path.clone(),
                blob,
                content: Blob::of(&self.key, file.bytes.expose()),
                mode: file.mode,
                uid: file.uid,
                gid: file.gid,
                follow_symlinks: file.follow_symlinks,
            });
        }
        root.sync()?;
        Ok(files)
    }

    /// The bytes to write in a generation's place.
    fn sealed<'a>(
        &self,
        purpose: &str,
        id: GenerationId,
        name: &Path,
        bytes: &'a [u8],
    ) -> Result<Cow<'a, [u8]>, FileError> {
        let Some(seal) = &self.seal else { return Ok(Cow::Borrowed(bytes)) };
        let place = Path::new(&id.folder()).join(name);
        let sealed = seal.seal(purpose, &place, bytes).map_err(|error| error.at(&self.dir.join(&place)))?;
        Ok(Cow::Owned(sealed))
    }
}

/// The file's own name where it is free; in a `directory`, its path in there.
fn blob_name(
    directory: Option<&Path>,
    path: &Path,
    index: usize,
    taken: &BTreeSet<PathBuf>,
) -> Result<PathBuf, FileError> {
    if let Some(directory) = directory {
        return relative_to(directory, path);
    }
    let (_, name) = durable::split(path)?;
    let own = PathBuf::from(name);
    // A name that is only digits could be the folder of a later twin.
    let like_a_folder = name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    if taken.contains(&own) || like_a_folder { Ok(Path::new(&index.to_string()).join(own)) } else { Ok(own) }
}

fn write_nested(root: &Dir, name: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let (parent, own) = durable::split(name)?;
    let mut opened: Option<Dir> = None;
    for part in parent.iter().filter(|part| *part != ".") {
        let at = opened.as_ref().unwrap_or(root);
        let child = match at.stat(part)? {
            Some(_) => at.child(part)?,
            None => {
                let made = at.make(part, 0o700)?;
                at.sync()?;
                made
            }
        };
        opened = Some(child);
    }
    let at = opened.as_ref().unwrap_or(root);
    durable::write_new(at, own, &at.path().join(own), bytes, Attributes::private(), "stage.file")?;
    if opened.is_some() { at.sync() } else { Ok(()) }
}

fn write(folder: &Dir, name: &str, bytes: &[u8]) -> Result<(), FileError> {
    durable::write_new(folder, OsStr::new(name), &folder.path().join(name), bytes, Attributes::private(), "stage.blob")
}

pub(super) fn remember_next(dir: &Path, next: GenerationId) -> Result<(), FileError> {
    durable::replace(&dir.join(NEXT), format!("{next}\n").as_bytes(), "prune.next")
}
