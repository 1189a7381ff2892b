//! An open directory: everything in it is named relative to it, so that no path is walked twice.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::FileError;

/// An open directory and the path under which it was found (for messages only).
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens a directory of the agent's own by path; symlinks on the way are followed.
    ///
    /// # Errors
    /// Whatever openat(2) answers.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|e| FileError::os("open", path, e))?;
        Ok(Self::from_fd(fd, path.to_owned()))
    }

    /// Takes over an open directory.
    pub fn from_fd(fd: OwnedFd, path: PathBuf) -> Self {
        Self { fd, path }
    }

    /// The descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a directory in it; a symlink is refused by the system (ENOTDIR).
    ///
    /// # Errors
    /// Whatever openat(2) answers.
    pub fn child(&self, name: &OsStr) -> Result<Self, FileError> {
        let path = self.path.join(name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(self.fd(), name, flags, Mode::empty()) {
            Ok(fd) => Ok(Self::from_fd(fd, path)),
            Err(errno) => Err(FileError::os("open", &path, errno)),
        }
    }

    /// Makes a directory in it with exactly this mode, whatever the umask is. Neither of the two is synced.
    ///
    /// # Errors
    /// Whatever mkdirat(2) answers.
    pub fn make(&self, name: &OsStr, mode: u32) -> Result<Self, FileError> {
        let path = self.path.join(name);
        rustix::fs::mkdirat(self.fd(), name, Mode::from_raw_mode(0o700))
            .map_err(|errno| FileError::os("create", &path, errno))?;
        let made = self.child(name)?;
        rustix::fs::fchmod(made.fd(), Mode::from_raw_mode(mode))
            .map_err(|errno| FileError::os("set the mode of", &path, errno))?;
        Ok(made)
    }

    /// What stands under a name, itself, not what it points to. None where nothing does.
    ///
    /// # Errors
    /// Whatever fstatat(2) answers.
    pub fn stat(&self, name: &OsStr) -> Result<Option<Stat>, FileError> {
        match rustix::fs::statat(self.fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(FileError::os("stat", &self.path.join(name), errno)),
        }
    }

    /// Where a symlink points. None where the name is no symlink.
    ///
    /// # Errors
    /// Whatever readlinkat(2) answers beside that.
    pub fn link(&self, name: &OsStr) -> Result<Option<PathBuf>, FileError> {
        match rustix::fs::readlinkat(self.fd(), name, Vec::new()) {
            Ok(target) => Ok(Some(PathBuf::from(OsStr::from_bytes(target.as_bytes())))),
            Err(Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(errno) => Err(FileError::os("read the link", &self.path.join(name), errno)),
        }
    }

    /// The names in it, in no order.
    ///
    /// # Errors
    /// Whatever getdents(2) answers.
    pub fn names(&self) -> Result<Vec<OsString>, FileError> {
        let fail = |errno| FileError::os("list", &self.path, errno);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(self.fd()).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(&name).to_owned());
            }
        }
        Ok(names)
    }

    /// Removes a name that is no directory. One that is gone is no error.
    ///
    /// # Errors
    /// Whatever unlinkat(2) answers.
    pub fn remove(&self, name: &OsStr) -> Result<(), FileError> {
        match rustix::fs::unlinkat(self.fd(), name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(FileError::os("remove", &self.path.join(name), errno)),
        }
    }

    /// Removes a directory in it with all that is in there, never through a symlink.
    ///
    /// # Errors
    /// Whatever the system answers; then a part may be left.
    pub fn remove_tree(&self, name: &OsStr) -> Result<(), FileError> {
        let Some(stat) = self.stat(name)? else { return Ok(()) };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return self.remove(name);
        }
        let child = self.child(name)?;
        for inner in child.names()? {
            child.remove_tree(&inner)?;
        }
        match rustix::fs::unlinkat(self.fd(), name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(FileError::os("remove", &self.path.join(name), errno)),
        }
    }

    /// Makes the names in it durable.
    ///
    /// # Errors
    /// Whatever fsync(2) answers.
    pub fn sync(&self) -> Result<(), FileError> {
        match rustix::fs::fsync(self.fd()) {
            // Some network and FUSE file systems cannot sync a directory, and say so.
            Ok(()) | Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
            Err(errno) => Err(FileError::os("sync", &self.path, errno)),
        }
    }
}

/// Makes a directory of the agent's own, 0700, with its missing parents (0700 as well), all synced. One that is there
/// stays as it is: who needs more checks it.
///
/// # Errors
/// Whatever the system answers.
pub fn create_dir_private(path: &Path) -> Result<(), FileError> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o700)) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(Errno::NOENT) => {
            let (parent, _) = super::split(path)?;
            create_dir_private(parent)?;
            rustix::fs::mkdir(path, Mode::from_raw_mode(0o700))
                .map_err(|errno| FileError::os("create", path, errno))?;
        }
        Err(errno) => return Err(FileError::os("create", path, errno)),
    }
    // The umask may have taken bits from us, too.
    let made = Dir::open(path)?;
    rustix::fs::fchmod(made.fd(), Mode::from_raw_mode(0o700))
        .map_err(|errno| FileError::os("set the mode of", path, errno))?;
    made.sync()?;
    Dir::open(super::split(path)?.0)?.sync()
}
