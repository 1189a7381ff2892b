//! What else than generations and journals may be kept, and how: values that outlive the agent only to spare a store.

use std::path::Path;

use super::StateDir;
use crate::durable::FileError;
use crate::seal::{Seal, SealError, open_if_sealed};
use crate::secret::SecretBytes;

/// How values are kept in the state directory that could be had again from their store: those of an overlap, leases,
/// tokens. Retained generations are not under this rule: going back needs them.
#[derive(Clone, Debug)]
pub enum Keeping {
    /// Sealed under `state_key`.
    Sealed(Seal),
    /// As they are: the state directory is in memory, and gone with the power.
    Clear,
    /// Not at all: there is no key, and the state directory is on a disk.
    Nothing,
}

impl Keeping {
    /// The rule itself.
    pub fn of(seal: Option<Seal>, memory_backed: bool) -> Self {
        match (seal, memory_backed) {
            (Some(seal), _) => Self::Sealed(seal),
            (None, true) => Self::Clear,
            (None, false) => Self::Nothing,
        }
    }

    /// For a state directory that is not opened for an agent (`--dry-run`, `check`), or is not there yet: then what it
    /// would be made on counts.
    ///
    /// # Errors
    /// Where the key file is no good.
    pub fn look(state_dir: &Path, state_key: Option<&Path>) -> Result<Self, FileError> {
        let seal = state_key.map(Seal::read).transpose()?;
        let there = state_dir.ancestors().find(|path| path.exists());
        Ok(Self::of(seal, there.is_some_and(memory_backed)))
    }

    /// Whether values may be written at all.
    pub fn keeps_values(&self) -> bool {
        !matches!(self, Self::Nothing)
    }

    /// The bytes to write for a message that holds values: `place` is the file's path below the state directory. None: it
    /// must not be written.
    ///
    /// # Errors
    /// Where the system has no random numbers to give.
    pub fn encode(&self, purpose: &str, place: &Path, plaintext: &[u8]) -> Result<Option<SecretBytes>, SealError> {
        match self {
            Self::Sealed(seal) => seal.seal(purpose, place, plaintext).map(|sealed| Some(SecretBytes::new(sealed))),
            Self::Clear => Ok(Some(SecretBytes::new(plaintext.to_vec()))),
            Self::Nothing => Ok(None),
        }
    }

    /// Reads what [`Keeping::encode`] wrote, also what was written in the clear before there was a key. For messages that
    /// in the clear never begin as something sealed does (JSON).
    ///
    /// # Errors
    /// Where it is sealed and there is no key, another key, or is not what was sealed.
    pub fn decode(&self, purpose: &str, place: &Path, bytes: Vec<u8>) -> Result<SecretBytes, SealError> {
        let seal = match self {
            Self::Sealed(seal) => Some(seal),
            Self::Clear | Self::Nothing => None,
        };
        open_if_sealed(seal, purpose, place, bytes)
    }
}

impl StateDir {
    /// How values that could be had again are kept here.
    pub fn keeping(&self) -> Keeping {
        Keeping::of(self.seal.clone(), memory_backed(&self.path))
    }
}

/// Whether what is written there stays in memory: tmpfs or ramfs by statfs(2). False where it cannot be told. The memory
/// of a tmpfs may be swapped out, which a machine with secrets guards against by encrypting its swap or having none.
pub fn memory_backed(path: &Path) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    const RAMFS_MAGIC: u64 = 0x8584_58f6;
    // The kernel's magic numbers have 32 bits; the field may have more, and a sign.
    let kind = rustix::fs::statfs(path).ok().and_then(|stat| u64::try_from(stat.f_type & 0xffff_ffff).ok());
    matches!(kind, Some(TMPFS_MAGIC | RAMFS_MAGIC))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(byte: u8) -> Seal {
        Seal::new(&[byte; 32]).unwrap()
    }

    #[test]
    fn values_are_kept_sealed_or_in_memory_or_not_at_all() {
        assert!(matches!(Keeping::of(Some(seal(1)), false), Keeping::Sealed(_)));
        assert!(matches!(Keeping::of(Some(seal(1)), true), Keeping::Sealed(_)), "a key counts in memory, too");
        assert!(matches!(Keeping::of(None, true), Keeping::Clear));
        assert!(matches!(Keeping::of(None, false), Keeping::Nothing));
        assert!(!Keeping::Nothing.keeps_values() && Keeping::Clear.keeps_values());
    }

    #[test]
    fn what_is_kept_is_read_again_also_from_before_there_was_a_key() {
        let place = Path::new("leases.json");
        let sealed = Keeping::of(Some(seal(1)), false);
        let bytes = |keeping: &Keeping| keeping.encode("leases", place, b"{}").unwrap().map(|b| b.expose().to_vec());
        let written = bytes(&sealed).unwrap();
        assert!(crate::seal::is_sealed(&written));
        assert_eq!(sealed.decode("leases", place, written.clone()).unwrap().expose(), b"{}");
        assert_eq!(sealed.decode("leases", place, bytes(&Keeping::Clear).unwrap()).unwrap().expose(), b"{}");
        assert_eq!(bytes(&Keeping::Nothing), None);
        assert_eq!(Keeping::Clear.decode("leases", place, written.clone()).unwrap_err(), SealError::NoKey);
        let other = Keeping::of(Some(seal(2)), false);
        assert_eq!(other.decode("leases", place, written).unwrap_err(), SealError::OtherKey);
    }

    #[test]
    fn memory_is_told_from_disks() {
        assert!(!memory_backed(Path::new("/proc")) && !memory_backed(Path::new("/nowhere/at/all")));
        let Ok(mounts) = std::fs::read_to_string("/proc/self/mounts") else { return };
        if mounts.lines().any(|line| line.starts_with("tmpfs /dev/shm ") || line.contains(" /dev/shm tmpfs ")) {
            assert!(memory_backed(Path::new("/dev/shm")));
        }
    }
}
