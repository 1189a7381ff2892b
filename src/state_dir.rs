//! The state directory: one agent at a time, nobody else's business.
//!
//! ```text
//! STATE_DIR/            0700, the agent's own
//!   lock                held with flock(2) while an agent lives; the pid of its last holder stands in it
//!   key                 32 random bytes, made once: the key of every digest
//!   sealed              with `state_key`: nothing, sealed; tells at the start whether the key is the one of before
//!   control.sock        see `control`
//!   targets/NAME/       journal, history, generations/
//! ```

mod keeping;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::rand::SecureRandom;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::digest::Key;
use crate::durable::{self, Cause, Dir, FileError};
use crate::process::procfs::{self, since_boot};
use crate::seal::{Seal, SealError};

pub use keeping::{Keeping, memory_backed};

const KEY_LEN: usize = 32;
/// Its contents are known; what counts is under which key they are sealed.
const PROOF: &str = "sealed";
/// What a killed agent was about to start holds its descriptors until execve(2) closes them: longer only if the machine
/// hangs.
const ORPHANS_GONE: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// An open state directory. Dropping one that [`StateDir::open`] gave lets the next agent in.
pub struct StateDir {
    path: PathBuf,
    key: Key,
    seal: Option<Seal>,
    _lock: Option<Lock>,
}

impl StateDir {
    /// Opens the directory for an agent: makes it (0700) and its key where they are missing, and locks it.
    ///
    /// # Errors
    /// Where another agent holds it (the message names its pid), where it belongs to another user or others may enter
    /// it, where its key is torn, or missing although there are generations under it. Where `state_key` (the operator's key
    /// file) is no good, is not the one that the directory was sealed with, or is not given although it was sealed.
    pub fn open(path: &Path, state_key: Option<&Path>) -> Result<Self, FileError> {
        let seal = state_key.map(Seal::read).transpose()?;
        create(path)?;
        let dir = Dir::open(path)?;
        refuse_unsafe(&dir)?;
        let lock = lock(&dir)?;
        let key = match read_key(path)? {
            Some(key) => key,
            None => make_key(path)?,
        };
        prove(path, seal.as_ref())?;
        Ok(Self { path: path.to_owned(), key, seal, _lock: Some(lock) })
    }

    /// Opens the directory only to read (`status` and `history` with no agent running, `check`, `--dry-run`): takes no
    /// lock, writes nothing, opens nothing that is sealed. None where there is no state yet.
    ///
    /// # Errors
    /// As [`StateDir::open`], but for the lock.
    pub fn open_read_only(path: &Path) -> Result<Option<Self>, FileError> {
        match Dir::open(path) {
            Ok(dir) => refuse_unsafe(&dir)?,
            Err(FileError { cause: Cause::Os(Errno::NOENT), .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok(read_key(path)?.map(|key| Self { path: path.to_owned(), key, seal: None, _lock: None }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The key of every digest.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// What seals one target's files, where there is a `state_key`: places are relative to [`StateDir::target`].
    pub fn seal(&self, target: &str) -> Option<Seal> {
        self.seal.as_ref().map(|seal| seal.within("targets").within(target))
    }

    /// The control socket. It is NOT made here.
    pub fn control_socket(&self) -> PathBuf {
        Self::control_socket_of(&self.path)
    }

    /// The control socket of the agent that uses `state_dir`, whoever asks.
    pub fn control_socket_of(state_dir: &Path) -> PathBuf {
        state_dir.join("control.sock")
    }

    /// The folder of one target. `name` is one that the config took (no slash, no dot at its start).
    pub fn target(&self, name: &str) -> PathBuf {
        self.path.join("targets").join(name)
    }

    /// The folder of one target's generations.
    pub fn generations(&self, name: &str) -> PathBuf {
        self.target(name).join("generations")
    }

    /// Makes the folder of one target (0700) where it is missing.
    ///
    /// # Errors
    /// Whatever the system answers; a name that is no plain file name is refused.
    pub fn make_target(&self, name: &str) -> Result<PathBuf, FileError> {
        let path = self.target(name);
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
            return Err(FileError::refused("create", &path, "the target's name is no file name", "rename the target"));
        }
        durable::create_dir_private(&path)?;
        Ok(path)
    }
}

/// A key for digests that are compared only within this process: where there is no state directory to keep one in.
///
/// # Errors
/// Where the system has no random numbers to give.
pub fn ephemeral_key() -> Result<Key, FileError> {
    Ok(Key::new(random_key(Path::new("a key"))?.as_ref()))
}

/// 0700 for the directory itself; its missing parents are ordinary ones (0755 less the umask).
fn create(path: &Path) -> Result<(), FileError> {
    let (parent, _) = durable::split(path)?;
    std::fs::create_dir_all(parent).map_err(|error| FileError::io("create", parent, &error))?;
    durable::create_dir_private(path)
}

fn refuse_unsafe(dir: &Dir) -> Result<(), FileError> {
    let path = dir.path();
    let stat = rustix::fs::fstat(dir.fd()).map_err(|errno| FileError::os("stat", path, errno))?;
    let me = rustix::process::geteuid().as_raw();
    let denied = |hint: String| {
        let mut error = FileError::os("use as state_dir", path, Errno::ACCESS);
        error.hint = Some(hint);
        error
    };
    if stat.st_uid != me {
        return Err(denied(format!(
            "it belongs to uid {} and the agent runs as uid {me}: `chown {me} {}`, or run the agent as its owner",
            stat.st_uid,
            path.display()
        )));
    }
    if stat.st_mode & 0o077 != 0 {
        return Err(denied(format!(
            "its mode is {:04o}, and it holds secrets: `chmod 700 {}`; where it is a mounted volume, let state_dir be a \
             folder in it, which the agent makes itself",
            stat.st_mode & 0o7777,
            path.display()
        )));
    }
    Ok(())
}

/// The lock that one agent holds. Dropped, it is free at once, and not only when the last descriptor of it is closed: what
/// this process has forked, and what is not another program yet, has one as well.
struct Lock(OwnedFd);

impl Drop for Lock {
    fn drop(&mut self) {
        // Where this fails, the close that follows does it.
        let _closed_anyway = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

fn lock(dir: &Dir) -> Result<Lock, FileError> {
    let path = dir.path().join("lock");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir.fd(), "lock", flags, Mode::from_raw_mode(0o600))
        .map_err(|errno| FileError::os("open", &path, errno))?;
    match take_lock(&fd, &path) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let holder = durable::read(&path, 64).ok().flatten().and_then(|bytes| String::from_utf8(bytes).ok());
            let who = match holder.as_deref().map(str::trim).filter(|pid| !pid.is_empty()) {
                Some(pid) => format!("another agent (pid {pid}) is using it"),
                None => "another agent is using it".to_owned(),
            };
            return Err(FileError::refused(
                "lock",
                dir.path(),
                who,
                "stop that one first, or give this config a state_dir of its own; then try again",
            ));
        }
        Err(errno) => return Err(FileError::os("lock", &path, errno)),
    }
    // Only a word for the next one who comes: the lock itself is the flock.
    let pid = format!("{}\n", std::process::id());
    let _ = rustix::fs::ftruncate(&fd, 0).and_then(|()| rustix::io::pwrite(&fd, pid.as_bytes(), 0));
    Ok(Lock(fd))
}

/// Waits for no agent that lives; only for what one that was killed in the middle of a start left for a moment.
fn take_lock(fd: &OwnedFd, path: &Path) -> rustix::io::Result<()> {
    let until = since_boot() + ORPHANS_GONE;
    loop {
        match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if since_boot() < until && !holder_lives(path) => std::thread::sleep(LOOK),
            other => return other,
        }
    }
}

/// Whether the pid in the lock is one of a living process. True where none can be read.
fn holder_lives(path: &Path) -> bool {
    let text = durable::read(path, 64).ok().flatten().and_then(|bytes| String::from_utf8(bytes).ok());
    let Some(pid) = text.and_then(|text| text.trim().parse().ok()) else { return true };
    procfs::stat(pid).map_or(true, |stat| stat.is_some_and(|stat| stat.alive()))
}

/// Whether the seal is the one that was used here before; the first leaves its proof.
fn prove(state_dir: &Path, seal: Option<&Seal>) -> Result<(), FileError> {
    let path = state_dir.join(PROOF);
    let found = durable::read(&path, 4096)?;
    match (found, seal) {
        (None, None) => Ok(()),
        (None, Some(seal)) => {
            let proof = seal.seal("state_dir", Path::new(PROOF), b"").map_err(|error| error.at(&path))?;
            durable::replace(&path, &proof, "state_dir.sealed")
        }
        (Some(_), None) => Err(SealError::NoKey.at(state_dir)),
        (Some(proof), Some(seal)) => match seal.open("state_dir", Path::new(PROOF), &proof) {
            Ok(_) => Ok(()),
            Err(error @ SealError::OtherKey) => Err(error.at(state_dir)),
            Err(error) => Err(error.at(&path)),
        },
    }
}

fn read_key(state_dir: &Path) -> Result<Option<Key>, FileError> {
    let path = state_dir.join("key");
    let Some(bytes) = durable::read(&path, KEY_LEN as u64 * 2)?.map(Zeroizing::new) else { return Ok(None) };
    if bytes.len() != KEY_LEN {
        let hint = "restore it from a backup; or move the whole state_dir away and start anew without its history";
        return Err(FileError::corrupt(&path, format!("it has {} bytes instead of {KEY_LEN}", bytes.len()), hint));
    }
    Ok(Some(Key::new(&bytes)))
}

fn make_key(state_dir: &Path) -> Result<Key, FileError> {
    let path = state_dir.join("key");
    if state_dir.join("targets").exists() {
        let hint = "restore it from a backup; or move the whole state_dir away and start anew without its history";
        return Err(FileError::corrupt(&path, "it is gone, and no retained generation can be proved without it", hint));
    }
    let bytes = random_key(&path)?;
    durable::replace(&path, bytes.as_ref(), "state_dir.key")?;
    Ok(Key::new(bytes.as_ref()))
}

fn random_key(path: &Path) -> Result<Zeroizing<[u8; KEY_LEN]>, FileError> {
    let mut bytes = Zeroizing::new([0u8; KEY_LEN]);
    ring::rand::SystemRandom::new()
        .fill(bytes.as_mut())
        .map_err(|_| FileError::os("draw random bytes for", path, Errno::IO))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_free_once_it_is_dropped_whoever_still_has_its_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let state = StateDir::open(&path, None).unwrap();
        // As a child between fork(2) and execve(2) has it.
        let _inherited = rustix::io::dup(&state._lock.as_ref().unwrap().0).unwrap();
        assert!(StateDir::open(&path, None).is_err(), "one at a time");
        drop(state);
        StateDir::open(&path, None).unwrap();
    }
}
