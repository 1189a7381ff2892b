//! A file of lines that only grows: each line is on the disk when the call returns, and a crash tears at most the last.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Dir, FileError, split};
use crate::failpoint;

/// An open log of lines. One writer at a time. It does NOT rotate: who owns the file bounds it.
pub struct AppendLog {
    file: File,
    path: PathBuf,
    len: u64,
}

impl AppendLog {
    /// Opens or makes (with `mode`) the log, not through a symlink. A last line that a crash tore is cut off.
    ///
    /// # Errors
    /// Whatever the system answers; anything but a regular file is refused.
    pub fn open(path: &Path, mode: u32) -> Result<Self, FileError> {
        let (parent, name) = split(path)?;
        let dir = Dir::open(parent)?;
        let flags =
            OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(dir.fd(), name, flags, Mode::from_raw_mode(mode)) {
            Ok(fd) => fd,
            Err(Errno::LOOP) => {
                return Err(FileError::refused("open", path, "it is a symlink", "name the file that it points to"));
            }
            Err(errno) => return Err(FileError::os("open", path, errno)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|errno| FileError::os("stat", path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(FileError::refused("append to", path, "it is no regular file", "name a regular file"));
        }
        dir.sync()?;
        let len = u64::try_from(stat.st_size).unwrap_or(0);
        let mut log = Self { file: File::from(fd), path: path.to_owned(), len };
        log.mend()?;
        Ok(log)
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True where there is no line.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds one line (without its newline; the bytes must not hold one) and syncs it.
    ///
    /// # Errors
    /// Whatever the system answers; the log then ends where it ended before.
    pub fn append(&mut self, line: &[u8]) -> Result<(), FileError> {
        let mut bytes = line.to_vec();
        bytes.push(b'\n');
        if let Err(error) = self.file.write_all(&bytes) {
            let _ = rustix::fs::ftruncate(&self.file, self.len);
            return Err(FileError::io("append to", &self.path, &error));
        }
        failpoint::hit("log.after_write");
        self.len += bytes.len() as u64;
        rustix::fs::fdatasync(&self.file).map_err(|errno| FileError::os("sync", &self.path, errno))
    }

    /// Cuts the log off behind its last newline.
    fn mend(&mut self) -> Result<(), FileError> {
        const STEP: u64 = 4096;
        let mut end = self.len;
        while end > 0 {
            let start = end.saturating_sub(STEP);
            let mut block = Vec::new();
            self.file
                .seek(SeekFrom::Start(start))
                .and_then(|_| (&self.file).take(end - start).read_to_end(&mut block))
                .map_err(|error| FileError::io("read", &self.path, &error))?;
            if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
                end = start + at as u64 + 1;
                break;
            }
            end = start;
        }
        if end < self.len {
            rustix::fs::ftruncate(&self.file, end).map_err(|errno| FileError::os("mend", &self.path, errno))?;
            self.len = end;
        }
        Ok(())
    }
}
