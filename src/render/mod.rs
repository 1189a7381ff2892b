//! From templates and a snapshot to the bytes of a generation. Pure: template text comes in, bytes go out.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::model::HttpRequest;
use crate::secret::SecretBytes;

/// One generation of a target, in memory: everything that a process could take up, and nothing else.
#[derive(Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Its files, in the config's order.
    pub files: Vec<RenderedFile>,
    /// Where all files live and change in one rename, if set.
    pub directory: Option<PathBuf>,
    /// The rendered `env` of a supervised process.
    pub env: Vec<(String, SecretBytes)>,
    /// The health request with its templates rendered over THIS generation's secrets; kept with the generation, so that
    /// a rollback asks with the old credentials.
    pub health: Option<HttpRequest>,
}

/// One rendered file.
#[derive(Clone, PartialEq, Eq)]
pub struct RenderedFile {
    /// Where it is published, absolute.
    pub path: PathBuf,
    /// Its bytes; shared with the render cache.
    pub bytes: Arc<SecretBytes>,
    /// Permission bits.
    pub mode: u32,
    /// Owner; None: the agent's own user.
    pub uid: Option<u32>,
    /// Group; None: the agent's own group.
    pub gid: Option<u32>,
    /// Whether symlinks in `path` are followed.
    pub follow_symlinks: bool,
}
