//! Small files that survive a crash: written whole or not at all, and on the disk when the call returns.
//!
//! A file is made under another name in the same directory (O_EXCL, never through a symlink), gets its owner and mode,
//! is synced, and only then takes the name (rename(2)); then the directory is synced, without which the rename itself
//! may be lost (fsync(2), NOTES). None of this knows what the bytes mean.

mod dir;
mod error;
mod log;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use ring::rand::SecureRandom;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

pub use dir::{Dir, create_dir_private};
pub use error::{Cause, FileError, FileErrorKind};
pub use log::AppendLog;

use crate::failpoint;

/// Owner and permission bits of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Attributes {
    /// Of a file that only the agent's own user may touch.
    pub fn private() -> Self {
        Self::of(0o600, None, None)
    }

    /// With the agent's own user and group where none is given.
    pub fn of(mode: u32, uid: Option<u32>, gid: Option<u32>) -> Self {
        Self {
            mode,
            uid: uid.unwrap_or_else(|| rustix::process::geteuid().as_raw()),
            gid: gid.unwrap_or_else(|| rustix::process::getegid().as_raw()),
        }
    }
}

/// 16 hex digits that nobody can guess, for names of temporary files.
///
/// # Errors
/// Where the system has no random numbers to give.
pub fn unguessable(for_path: &Path) -> Result<String, FileError> {
    let mut bytes = [0u8; 8];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| FileError::os("draw a random name beside", for_path, Errno::IO))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Makes a new file with these bytes and attributes, and syncs it. The directory is NOT synced.
///
/// The order is: 0600, owner, bytes, mode; so whoever the file is not for never has it open while it is written.
/// `shown` is the path that an error names. On an error nothing is left behind.
///
/// # Errors
/// Whatever the system answers; EEXIST where the name is taken.
pub fn write_new(
    dir: &Dir,
    name: &OsStr,
    shown: &Path,
    bytes: &[u8],
    attributes: Attributes,
    room: &str,
) -> Result<(), FileError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir.fd(), name, flags, Mode::from_raw_mode(0o600))
        .map_err(|errno| FileError::os("create", shown, errno))?;
    failpoint::hit_in(room, "after_create");
    let written = fill(File::from(fd), shown, bytes, attributes, room);
    if written.is_err() {
        let _ = rustix::fs::unlinkat(dir.fd(), name, AtFlags::empty());
    }
    written
}

fn fill(mut file: File, shown: &Path, bytes: &[u8], want: Attributes, room: &str) -> Result<(), FileError> {
    let fail = |op: &'static str| move |errno| FileError::os(op, shown, errno);
    let stat = rustix::fs::fstat(&file).map_err(fail("stat"))?;
    if (stat.st_uid, stat.st_gid) != (want.uid, want.gid) {
        let (uid, gid) = (Uid::from_raw(want.uid), Gid::from_raw(want.gid));
        rustix::fs::fchown(&file, Some(uid), Some(gid)).map_err(fail("set the owner of"))?;
    }
    failpoint::hit_in(room, "after_owner");
    file.write_all(bytes).map_err(|error| FileError::io("write", shown, &error))?;
    failpoint::hit_in(room, "after_write");
    rustix::fs::fchmod(&file, Mode::from_raw_mode(want.mode)).map_err(fail("set the mode of"))?;
    rustix::fs::fsync(&file).map_err(fail("sync"))?;
    failpoint::hit_in(room, "after_temp");
    Ok(())
}

/// A finished file (or symlink) that waits under an unguessable name to take its place. Dropped, it is removed.
pub struct Temp {
    dir: Rc<Dir>,
    name: OsString,
    shown: PathBuf,
    waits: bool,
}

impl Temp {
    /// The name's part that is not random: `.NAME.leasehold-`.
    pub fn prefix(name: &OsStr) -> OsString {
        let mut prefix = b".".to_vec();
        prefix.extend_from_slice(name.as_bytes().get(..200).unwrap_or(name.as_bytes()));
        prefix.extend_from_slice(b".leasehold-");
        OsString::from_vec(prefix)
    }

    /// Whether `candidate` is a name that [`Temp`] would give to a file that is to become `name`.
    pub fn is_for(candidate: &OsStr, name: &OsStr) -> bool {
        candidate
            .as_bytes()
            .strip_prefix(Self::prefix(name).as_bytes())
            .is_some_and(|rest| rest.len() == 16 && rest.iter().all(u8::is_ascii_hexdigit))
    }

    /// A file with these bytes and attributes, synced, that is to become `name`.
    ///
    /// # Errors
    /// As [`write_new`].
    pub fn file(
        dir: &Rc<Dir>,
        name: &OsStr,
        bytes: &[u8],
        attributes: Attributes,
        room: &str,
    ) -> Result<Self, FileError> {
        let mut temp = Self::new(dir, name)?;
        write_new(dir, &temp.name, &temp.shown, bytes, attributes, room)?;
        temp.waits = true;
        Ok(temp)
    }

    /// A symlink that is to become `name`.
    ///
    /// # Errors
    /// Whatever symlinkat(2) answers.
    pub fn symlink(dir: &Rc<Dir>, name: &OsStr, to: &OsStr) -> Result<Self, FileError> {
        let mut temp = Self::new(dir, name)?;
        rustix::fs::symlinkat(to, dir.fd(), &temp.name).map_err(|e| FileError::os("link", &temp.shown, e))?;
        temp.waits = true;
        Ok(temp)
    }

    fn new(dir: &Rc<Dir>, name: &OsStr) -> Result<Self, FileError> {
        let shown = dir.path().join(name);
        let mut temp = Self::prefix(name);
        temp.push(unguessable(&shown)?);
        Ok(Self { dir: Rc::clone(dir), name: temp, shown, waits: false })
    }

    /// Takes the name. The directory is NOT synced.
    ///
    /// # Errors
    /// Whatever renameat(2) answers; then what stood there still stands there.
    pub fn rename(mut self, name: &OsStr) -> Result<(), FileError> {
        rustix::fs::renameat(self.dir.fd(), &self.name, self.dir.fd(), name)
            .map_err(|errno| FileError::os("rename a new file to", &self.shown, errno))?;
        self.waits = false;
        Ok(())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if self.waits {
            let _ = rustix::fs::unlinkat(self.dir.fd(), &self.name, AtFlags::empty());
        }
    }
}

/// Puts a private file (0600, the agent's own) in the place of whatever file is at `path`, and syncs file and directory.
/// One writer a path at a time: leftovers of a killed one are removed.
///
/// # Errors
/// With the old file untouched, unless the last step, the sync of the directory, failed.
pub fn replace(path: &Path, bytes: &[u8], room: &str) -> Result<(), FileError> {
    let (dir, name) = split(path)?;
    let dir = Rc::new(Dir::open(dir)?);
    // What a crash in the middle left behind is in nobody's way: failing to remove it is not worth a word.
    for leftover in dir.names()?.iter().filter(|leftover| Temp::is_for(leftover, name)) {
        let _ = dir.remove(leftover);
    }
    let temp = Temp::file(&dir, name, bytes, Attributes::private(), room)?;
    temp.rename(name)?;
    failpoint::hit_in(room, "after_rename");
    dir.sync()?;
    failpoint::hit_in(room, "after_sync");
    Ok(())
}

/// Reads a regular file of at most `cap` bytes, not through a symlink. None where there is none.
///
/// # Errors
/// Whatever the system answers; a symlink, a directory, a fifo or a larger file is refused.
pub fn read(path: &Path, cap: u64) -> Result<Option<Vec<u8>>, FileError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => read_fd(fd, path, cap).map(Some),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::LOOP) => Err(FileError::refused("read", path, "it is a symlink", "put a regular file there")),
        Err(errno) => Err(FileError::os("read", path, errno)),
    }
}

/// Reads an open regular file of at most `cap` bytes.
///
/// # Errors
/// As [`read`].
pub fn read_fd(fd: OwnedFd, path: &Path, cap: u64) -> Result<Vec<u8>, FileError> {
    let stat = rustix::fs::fstat(&fd).map_err(|errno| FileError::os("stat", path, errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(FileError::refused("read", path, "it is no regular file", "put a regular file there"));
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let mut bytes = Vec::with_capacity(usize::try_from(size.min(cap)).unwrap_or(0) + 1);
    let mut reader = File::from(fd).take(cap.saturating_add(1));
    reader.read_to_end(&mut bytes).map_err(|error| FileError::io("read", path, &error))?;
    if bytes.len() as u64 > cap {
        return Err(FileError::corrupt(path, format!("it is larger than {cap} bytes"), "move it away"));
    }
    Ok(bytes)
}

/// The directory and the name of a path.
///
/// # Errors
/// Where the path has no name (`/`, `..`).
pub fn split(path: &Path) -> Result<(&Path, &OsStr), FileError> {
    match (path.parent(), path.file_name()) {
        (Some(dir), Some(name)) => {
            let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
            Ok((dir, name))
        }
        _ => Err(FileError::refused("use", path, "it names no file", "give the path of a file")),
    }
}
