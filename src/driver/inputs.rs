//! What a generation is made from, and its digest.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::render::Renderer;
use crate::rotation::Digest;
use crate::secret::{Snapshot, Version};

/// Templates and readings of one moment.
pub(super) struct Inputs {
    pub renderer: Arc<Renderer>,
    pub snapshot: Arc<Snapshot>,
    pub digest: Digest,
}

impl Inputs {
    pub fn new(renderer: Arc<Renderer>, snapshot: Arc<Snapshot>) -> Self {
        let text = renderer.inputs_digest(&snapshot);
        let digest = u64::from_str_radix(text.get(..16).unwrap_or(&text), 16).unwrap_or_default();
        Self { renderer, snapshot, digest: Digest(digest) }
    }

    /// The versions in use, by the secret's name.
    pub fn versions(&self) -> BTreeMap<String, Version> {
        let used = self.renderer.used_secrets().iter();
        used.filter_map(|name| Some((name.to_string(), self.snapshot.secrets.get(name)?.version.clone()))).collect()
    }

    /// The versions in use as `previous`.
    pub fn previous(&self) -> BTreeMap<String, Version> {
        let all = self.snapshot.previous.iter();
        all.map(|(name, reading)| (name.to_string(), reading.version.clone())).collect()
    }
}
