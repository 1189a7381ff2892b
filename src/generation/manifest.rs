//! What a generation says about itself: names, versions, digests, owners and modes. Never a value.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::GenerationId;
use crate::config::model::{Confirm, HttpRequest};
use crate::digest::Key;
use crate::durable::{Attributes, FileError};
use crate::render::Rendered;
use crate::secret::{SecretBytes, Version};

/// The format that this version writes, and the newest that it reads.
pub(super) const FORMAT: u32 = 1;

/// Where a generation came from; told by who stages it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// When it was staged.
    pub created_at: Timestamp,
    /// Digest of everything that went into the render.
    pub inputs: String,
    /// `{{ snapshot }}`.
    pub snapshot: String,
    /// The versions used, by the secret's name. Names and versions are no secrets.
    pub versions: BTreeMap<String, Version>,
    /// The versions used as `previous`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub previous: BTreeMap<String, Version>,
    /// Keyed digests of the `verify` requests that let it pass, by the secret's name. Once it is committed, what is the
    /// same in a later generation is not asked again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub verified: BTreeMap<String, String>,
}

/// The manifest of one generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format of the manifest.
    pub format: u32,
    /// Its number.
    pub id: GenerationId,
    /// Where it came from.
    pub origin: Origin,
    /// Digests by which generations are compared.
    pub digests: OutputDigests,
    /// Where all files live, if they change in one rename.
    pub directory: Option<PathBuf>,
    /// The files, in the config's order.
    pub files: Vec<ManifestFile>,
    /// `env.json`, where there is one.
    pub(super) env: Option<Blob>,
    /// `health.json`, where there is one.
    pub(super) health: Option<Blob>,
    /// Keyed digest of all the rest.
    pub(super) seal: String,
}

/// Keyed digests of what a process can take up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputDigests {
    /// Of the files' paths, bytes, modes and owners, of `directory`, and of the environment. Equal: nothing to publish,
    /// nothing to reload.
    pub output: String,
    /// Of the health request. Where only this differs, the generation must be kept, but nothing be published.
    pub health: String,
}

/// One file of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Where it is published.
    pub path: PathBuf,
    /// Its bytes, in the generation's folder.
    pub(super) blob: PathBuf,
    /// Their length and digest.
    pub(super) content: Blob,
    /// Permission bits.
    pub mode: u32,
    /// Owner; None: the agent's own user.
    pub uid: Option<u32>,
    /// Group; None: the agent's own group.
    pub gid: Option<u32>,
    /// Whether symlinks in `path` are followed.
    pub follow_symlinks: bool,
}

/// Length and keyed digest of some bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Blob {
    pub(super) len: u64,
    pub(super) digest: String,
}

impl Blob {
    pub(super) fn of(key: &Key, bytes: &[u8]) -> Self {
        Self { len: bytes.len() as u64, digest: key.digest("generation.blob").part(bytes).hex(16) }
    }
}

impl Manifest {
    /// Whether publishing one instead of the other would change nothing and need no reload.
    pub fn same_output(&self, other: &OutputDigests) -> bool {
        self.digests.output == other.output
    }

    /// The seal that this manifest should carry.
    pub(super) fn sealed_as(&self, key: &Key) -> Result<String, serde_json::Error> {
        let unsealed = Self { seal: String::new(), ..self.clone() };
        Ok(key.digest("generation.manifest").part(&serde_json::to_vec(&unsealed)?).hex(16))
    }
}

/// See [`OutputDigests`]. Owners are taken as the numbers that they come to, so that naming the agent's own user changes
/// nothing; order does not matter.
pub(super) fn digests(key: &Key, rendered: &Rendered, shown: &Path) -> Result<OutputDigests, FileError> {
    let mut files: Vec<_> = rendered.files.iter().collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let directory = rendered.directory.as_deref().unwrap_or(Path::new(""));
    let mut digest = key.digest("generation.output").part(directory.as_os_str().as_encoded_bytes());
    digest = digest.part(&(files.len() as u64).to_le_bytes());
    for file in files {
        let attributes = Attributes::of(file.mode, file.uid, file.gid);
        digest = digest
            .part(file.path.as_os_str().as_encoded_bytes())
            .part(file.bytes.expose())
            .part(&attributes.mode.to_le_bytes())
            .part(&attributes.uid.to_le_bytes())
            .part(&attributes.gid.to_le_bytes());
    }
    let mut env: Vec<_> = rendered.env.iter().collect();
    env.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, value) in env {
        digest = digest.part(name.as_bytes()).part(value.expose());
    }
    let health = encode_health(rendered.health.as_ref(), shown)?;
    let health = health.as_ref().map_or(&[][..], SecretBytes::expose);
    Ok(OutputDigests { output: digest.hex(16), health: key.digest("generation.health").part(health).hex(16) })
}

/// `health.json`. The config's type itself has no `Serialize`, so that nobody writes one where it does not belong.
#[derive(Serialize, Deserialize)]
struct StoredRequest {
    url: String,
    method: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
    status: Vec<u16>,
    body_contains: Option<String>,
    json: Vec<(String, serde_json::Value)>,
    ca_cert: Option<PathBuf>,
    timeout: Duration,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    confirm: Option<Box<StoredConfirm>>,
}

#[derive(Serialize, Deserialize)]
struct StoredConfirm {
    request: StoredRequest,
    times: u32,
}

impl From<HttpRequest> for StoredRequest {
    fn from(request: HttpRequest) -> Self {
        let confirm = request
            .confirm
            .map(|confirm| Box::new(StoredConfirm { request: confirm.request.into(), times: confirm.times }));
        Self {
            url: request.url,
            method: request.method,
            headers: request.headers,
            body: request.body,
            status: request.status,
            body_contains: request.body_contains,
            json: request.json,
            ca_cert: request.ca_cert,
            timeout: request.timeout,
            confirm,
        }
    }
}

impl From<StoredRequest> for HttpRequest {
    fn from(stored: StoredRequest) -> Self {
        let confirm =
            stored.confirm.map(|confirm| Box::new(Confirm { request: confirm.request.into(), times: confirm.times }));
        Self {
            url: stored.url,
            method: stored.method,
            headers: stored.headers,
            body: stored.body,
            status: stored.status,
            body_contains: stored.body_contains,
            json: stored.json,
            ca_cert: stored.ca_cert,
            timeout: stored.timeout,
            confirm,
        }
    }
}

pub(super) fn encode_health(request: Option<&HttpRequest>, shown: &Path) -> Result<Option<SecretBytes>, FileError> {
    let Some(request) = request.cloned() else { return Ok(None) };
    let stored = StoredRequest::from(request);
    // serde_json's own words could quote a value.
    let bytes = serde_json::to_vec(&stored)
        .map_err(|_| FileError::refused("stage", shown, "its health request is no UTF-8", "name ca_cert in UTF-8"))?;
    Ok(Some(SecretBytes::new(bytes)))
}

pub(super) fn decode_health(bytes: &[u8]) -> Option<HttpRequest> {
    serde_json::from_slice::<StoredRequest>(bytes).ok().map(HttpRequest::from)
}

/// `env.json`: pairs of a name and the value in base64 (a value need not be UTF-8).
pub(super) fn encode_env(env: &[(String, SecretBytes)], shown: &Path) -> Result<Option<SecretBytes>, FileError> {
    if env.is_empty() {
        return Ok(None);
    }
    let pairs: Vec<(&str, String)> = env.iter().map(|(k, v)| (k.as_str(), STANDARD.encode(v.expose()))).collect();
    serde_json::to_vec(&pairs)
        .map(|bytes| Some(SecretBytes::new(bytes)))
        .map_err(|_| FileError::refused("stage", shown, "its environment cannot be encoded", "report this as a bug"))
}

pub(super) fn decode_env(bytes: &[u8]) -> Option<Vec<(String, SecretBytes)>> {
    let pairs: Vec<(String, String)> = serde_json::from_slice(bytes).ok()?;
    pairs
        .into_iter()
        .map(|(name, value)| Some((name, SecretBytes::new(STANDARD.decode(value.as_bytes()).ok()?))))
        .collect()
}
