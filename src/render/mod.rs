//! From templates and a snapshot to the bytes of a generation. Pure: template text comes in, bytes go out.
//!
//! [`Renderer`] is built once for a target and its template texts ([`Sources`]), then asked for each snapshot. What a
//! template may use, the filters and the quoting rules are in docs/templates.md.

mod build;
mod context;
mod digest;
mod engine;
pub mod envfile;
mod error;
mod filters;
mod lex;
mod offline;
mod quote;
mod renderer;
mod request;
mod resolve;
mod scan;
mod sources;
mod structure;
mod unit;
mod uses;
mod value;

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::model::HttpRequest;
use crate::secret::SecretBytes;

pub use error::{RenderError, RenderErrorKind};
pub use quote::{env_quote, shell_quote, written};
pub use renderer::Renderer;
pub use resolve::{Reference, references};
pub use sources::{Sources, refers_to};
pub use uses::{Use, UsedBy};

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
