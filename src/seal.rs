//! Sealing what is kept on disk: AES-256-GCM (RFC 5116) under a key of its own for every message, derived by HKDF-SHA256
//! (RFC 5869) from the operator's key and 32 random bytes, so that no nonce is ever used twice.
//!
//! ```text
//! LHSEAL 00 VERSION    8 bytes
//! salt                32 bytes, random
//! key check           16 bytes: derived from key and salt; tells another key from torn bytes
//! checksum             8 bytes of SHA-256 over all before
//! ciphertext, tag      as long as the plaintext, and 16 bytes
//! ```
//!
//! Bound to each message, though not in it: what it is for and where it stands. One that was moved is not opened.
//!
//! It keeps secret and tells what was changed. It does NOT keep anybody who may write there from putting back an older
//! message of the same place, or one that was never sealed.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::durable::FileError;
use crate::secret::SecretBytes;

mod key_file;

const MAGIC: &[u8; 7] = b"LHSEAL\0";
const VERSION: u8 = 1;
const SALT: usize = 32;
const CHECK: usize = 16;
const SUM: usize = 8;
const TAG: usize = 16;
const HEAD: usize = MAGIC.len() + 1 + SALT + CHECK + SUM;
/// What an error about the key file names as the act.
pub const KEY_ACT: &str = "use as state_key";
/// Fewer bytes of key than this are refused: as many as the cipher's own key has.
pub const SHORTEST_KEY: usize = 32;

/// The operator's key, and below which place of the state directory it seals. Cheap to clone.
#[derive(Clone)]
pub struct Seal {
    master: Zeroizing<[u8; 32]>,
    within: PathBuf,
}

/// Why something could not be sealed or opened. Never a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It does not begin as something sealed does.
    #[error("it is not sealed")]
    NotSealed,
    /// It is sealed, and there is no key.
    #[error("it is sealed, and the config gives no `state_key`")]
    NoKey,
    /// It is sealed by another key.
    #[error("it is sealed with another key than `state_key`")]
    OtherKey,
    /// By a newer Leasehold.
    #[error("it was sealed by a newer Leasehold (format {0}, this one opens {VERSION})")]
    Newer(u8),
    /// It is not what was sealed, or not where it was.
    #[error("it is torn, was changed, or was sealed for another place")]
    Damaged,
    /// The system has no random numbers to give.
    #[error("the system has no random numbers to give")]
    NoRandom,
}

impl SealError {
    /// For the operator: on what file, and what to do.
    pub fn at(self, path: &Path) -> FileError {
        let why = self.to_string();
        match self {
            Self::NoKey => {
                FileError::refused("open", path, why, "give the `state_key` of before, or move state_dir aside")
            }
            Self::OtherKey => {
                FileError::refused("open", path, why, "give the key of before as `state_key`, or move state_dir aside")
            }
            Self::Newer(_) => FileError::corrupt(path, why, "upgrade again"),
            Self::NoRandom => FileError::os("seal", path, rustix::io::Errno::IO),
            Self::NotSealed | Self::Damaged => {
                FileError::corrupt(path, why, "put a good copy back, or move it away to go on without it")
            }
        }
    }
}

/// Whether these bytes begin as something sealed does.
pub fn is_sealed(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// How long `plaintext` bytes are once sealed.
pub fn sealed_len(plaintext: u64) -> u64 {
    plaintext.saturating_add((HEAD + TAG) as u64)
}

/// What was written with a key or without one: opens what is sealed, and takes what is not as it is. Only for bytes that
/// in the clear never begin as something sealed does (JSON).
///
/// # Errors
/// Where it is sealed and there is no key, or as [`Seal::open`].
pub fn open_if_sealed(
    seal: Option<&Seal>,
    purpose: &str,
    place: &Path,
    bytes: Vec<u8>,
) -> Result<SecretBytes, SealError> {
    match seal {
        _ if !is_sealed(&bytes) => Ok(SecretBytes::new(bytes)),
        Some(seal) => seal.open(purpose, place, &bytes),
        None => Err(SealError::NoKey),
    }
}

impl Seal {
    /// From the operator's key. None: it is shorter than [`SHORTEST_KEY`].
    pub fn new(key: &[u8]) -> Option<Self> {
        if key.len() < SHORTEST_KEY {
            return None;
        }
        let master = derive(&extract(b"leasehold state_key", key), "seal").ok()?;
        Some(Self { master, within: PathBuf::new() })
    }

    /// From a key file: its bytes as they are, less one newline at the end of a text. Hex and base64 are text as any other.
    ///
    /// # Errors
    /// Where it cannot be read, is too short, belongs to somebody else, or others may read it.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        key_file::read(path)
    }

    /// The same key for what is below `place` (relative to the state directory).
    #[must_use]
    pub fn within(&self, place: impl AsRef<Path>) -> Self {
        Self { master: self.master.clone(), within: self.within.join(place) }
    }

    /// Seals a message for one purpose and one place; twice the same is never the same bytes.
    ///
    /// # Errors
    /// Where the system has no random numbers to give.
    pub fn seal(&self, purpose: &str, place: &Path, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut salt = [0u8; SALT];
        SystemRandom::new().fill(&mut salt).map_err(|_| SealError::NoRandom)?;
        let prk = extract(&salt, self.master.as_ref());
        // Never grows, so that no copy of the plaintext is left behind.
        let mut out = Vec::with_capacity(HEAD + plaintext.len() + TAG);
        out.extend_from_slice(MAGIC);
        out.push(VERSION);
        out.extend_from_slice(&salt);
        out.extend_from_slice(&check(&prk)?);
        let sum = digest(&SHA256, &out);
        out.extend_from_slice(sum.as_ref().get(..SUM).unwrap_or_default());
        let bound = self.bound(&out, purpose, place);
        out.extend_from_slice(plaintext);
        let body = out.get_mut(HEAD..).ok_or(SealError::Damaged)?;
        let tag = message_key(&prk)?
            .seal_in_place_separate_tag(only_nonce(), Aad::from(&bound), body)
            .map_err(|_| SealError::Damaged)?;
        out.extend_from_slice(tag.as_ref());
        Ok(out)
    }

    /// Opens a message of this purpose and place.
    ///
    /// # Errors
    /// Each reason by its own name; a message is opened as it was sealed, or not at all.
    pub fn open(&self, purpose: &str, place: &Path, sealed: &[u8]) -> Result<SecretBytes, SealError> {
        let version = sealed.strip_prefix(MAGIC).ok_or(SealError::NotSealed)?.first();
        match version {
            Some(&VERSION) => {}
            Some(&newer) if newer > VERSION => return Err(SealError::Newer(newer)),
            _ => return Err(SealError::Damaged),
        }
        let (head, body) = sealed.split_at_checked(HEAD).ok_or(SealError::Damaged)?;
        let (summed, sum) = head.split_at_checked(HEAD - SUM).ok_or(SealError::Damaged)?;
        if !digest(&SHA256, summed).as_ref().starts_with(sum) {
            return Err(SealError::Damaged);
        }
        let (salt, found) = summed.split_at_checked(MAGIC.len() + 1 + SALT).ok_or(SealError::Damaged)?;
        let prk = extract(salt.get(MAGIC.len() + 1..).unwrap_or_default(), self.master.as_ref());
        if check(&prk)? != found {
            return Err(SealError::OtherKey);
        }
        let mut plaintext = Zeroizing::new(body.to_vec());
        let bound = self.bound(head, purpose, place);
        let opened = message_key(&prk)?.open_in_place(only_nonce(), Aad::from(&bound), &mut plaintext);
        let len = opened.map_err(|_| SealError::Damaged)?.len();
        plaintext.truncate(len);
        Ok(SecretBytes::new(std::mem::take(&mut *plaintext)))
    }

    /// What is authenticated beside the message. The purpose is framed by its length, so that no two pairs are alike.
    fn bound(&self, head: &[u8], purpose: &str, place: &Path) -> Vec<u8> {
        let place = self.within.join(place);
        let framed = (purpose.len() as u64).to_le_bytes();
        [head, &framed, purpose.as_bytes(), place.as_os_str().as_bytes()].concat()
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal").field("within", &self.within).finish_non_exhaustive()
    }
}

fn extract(salt: &[u8], secret: &[u8]) -> Prk {
    Salt::new(HKDF_SHA256, salt).extract(secret)
}

struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// Not reached: HKDF fails only beyond 8160 bytes.
fn too_long(_: ring::error::Unspecified) -> SealError {
    SealError::Damaged
}

fn derive<const N: usize>(prk: &Prk, what: &str) -> Result<Zeroizing<[u8; N]>, SealError> {
    let mut out = Zeroizing::new([0u8; N]);
    let info = [b"leasehold 1 ".as_slice(), what.as_bytes()];
    prk.expand(&info, Len(N)).and_then(|okm| okm.fill(out.as_mut())).map_err(too_long)?;
    Ok(out)
}

fn check(prk: &Prk) -> Result<[u8; CHECK], SealError> {
    derive(prk, "key check").map(|check| *check)
}

fn message_key(prk: &Prk) -> Result<LessSafeKey, SealError> {
    let key = derive::<32>(prk, "message")?;
    UnboundKey::new(&AES_256_GCM, key.as_ref()).map(LessSafeKey::new).map_err(too_long)
}

/// Each message has a key of its own, which is used with this one nonce only.
fn only_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

#[cfg(test)]
mod tests;
