//! Keyed digests (HMAC-SHA256, RFC 2104): names for secret contents that say nothing to who does not hold the key.

use ring::hmac;

use crate::secret::{SecretName, Snapshot, Version};

/// The key of all digests of one state directory: 32 random bytes made at first start (see `state_dir`).
#[derive(Clone)]
pub struct Key(hmac::Key);

/// One digest in the making. Parts are framed by their length, so that `ab`,`c` and `a`,`bc` differ.
pub struct Digest(hmac::Context);

impl Key {
    /// A key from the bytes kept in the state directory.
    pub fn new(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// Starts a digest for one purpose; digests of different purposes never collide.
    pub fn digest(&self, purpose: &str) -> Digest {
        Digest(hmac::Context::with_key(&self.0)).part(purpose.as_bytes())
    }

    /// The version of a secret whose store has none: a digest of its contents in a canonical encoding.
    pub fn version(&self, canonical: &[u8]) -> Version {
        Version(self.digest("version").part(canonical).hex(8))
    }

    /// `{{ snapshot }}`: the same for the same versions in use, of `secrets` and of `previous` alike.
    pub fn snapshot<'a>(&self, snapshot: &Snapshot, used: impl Iterator<Item = &'a SecretName>) -> String {
        let mut digest = self.digest("snapshot");
        for name in used {
            let now = snapshot.secrets.get(name).map_or("", |r| r.version.0.as_str());
            let before = snapshot.previous.get(name).map_or("", |r| r.version.0.as_str());
            digest = digest.part(name.as_str().as_bytes()).part(now.as_bytes()).part(before.as_bytes());
        }
        digest.hex(6)
    }
}

impl Digest {
    /// Adds one part.
    #[must_use]
    pub fn part(mut self, bytes: &[u8]) -> Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// The first `bytes` bytes of the digest in lower-case hex.
    pub fn hex(self, bytes: usize) -> String {
        let tag = self.0.sign();
        tag.as_ref().iter().take(bytes).map(|b| format!("{b:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_framed_and_keys_differ() {
        let key = Key::new(b"k");
        assert_ne!(key.digest("x").part(b"ab").part(b"c").hex(8), key.digest("x").part(b"a").part(b"bc").hex(8));
        assert_ne!(key.version(b"v"), Key::new(b"other").version(b"v"));
        assert_eq!(key.version(b"v"), key.version(b"v"));
    }
}
