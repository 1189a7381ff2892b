//! A generation's files in plaintext, for `check` commands.

use std::path::PathBuf;

use super::load::Kept;
use super::{GenerationId, Generations};
use crate::durable::{Dir, FileError};
use crate::scratch::Scratch;

/// Where the plaintext of a generation's files lies; where it is sealed on disk, only as long as this lives.
#[derive(Debug)]
pub struct Plain {
    files: Vec<PathBuf>,
    _scratch: Option<Scratch>,
}

impl Plain {
    /// The files in the config's order: 0600, under their own names (files of a `directory` lie beside each other as they
    /// will there).
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

impl Generations {
    /// The plaintext of a staged or retained generation's files: in place where it is not sealed, else in a private folder
    /// in memory that is gone when the answer is dropped (or, if the agent is killed, at the next [`Generations::open`]).
    ///
    /// # Errors
    /// As [`Generations::load`]; and where a sealed one finds no memory to be put in.
    pub fn plain(&self, id: GenerationId) -> Result<Plain, FileError> {
        let (manifest, seal) = self.look(id)?;
        let folder = self.dir.join(id.folder());
        if seal.is_none() {
            let files = manifest.files.iter().map(|file| folder.join(&file.blob)).collect();
            return Ok(Plain { files, _scratch: None });
        }
        let kept = Kept { folder: Dir::open(&folder)?, id, key: &self.key, seal };
        let scratch = Scratch::make(&self.scratch_prefix())?;
        let mut files = Vec::with_capacity(manifest.files.len());
        for file in &manifest.files {
            let bytes = kept.blob(&file.blob, &file.content)?;
            files.push(scratch.write(&file.blob, bytes.expose())?);
        }
        Ok(Plain { files, _scratch: Some(scratch) })
    }

    /// Names this target's scratch folders among those of all agents of this machine, and says nothing of it.
    pub(super) fn scratch_prefix(&self) -> String {
        let path = self.dir.as_os_str().as_encoded_bytes();
        format!("leasehold-{}", self.key.digest("generation.scratch").part(path).hex(8))
    }
}
