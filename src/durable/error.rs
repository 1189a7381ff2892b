//! What went wrong with a file, for the operator: the act, the path, the cause, and what to do.

use std::fmt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// A failed act on a file. Never carries contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileError {
    /// What was tried, as a verb: `write`, `rename`, `set the owner of`.
    pub op: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why not.
    pub cause: Cause,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Why an act on a file failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The system said so.
    Os(Errno),
    /// Leasehold will not do it: a symlink in the way, a directory that others may enter.
    Refused(String),
    /// What stands in the file is not what was once written there.
    Corrupt(String),
}

/// What a [`FileError`] means to who must decide about a retry or an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileErrorKind {
    /// EACCES, EPERM, or a directory that is not safely ours (exit 77).
    Denied,
    /// ENOSPC or EDQUOT (exit 74).
    Full,
    /// ENOENT (exit 74).
    Missing,
    /// Torn, tampered with, or from a newer Leasehold (exit 74).
    Corrupt,
    /// Anything else (exit 74).
    Other,
}

impl FileError {
    /// An error that the system answered, with a hint where one is known.
    pub fn os(op: &'static str, path: &Path, errno: Errno) -> Self {
        Self { op, path: path.to_owned(), cause: Cause::Os(errno), hint: hint(op, errno) }
    }

    /// The same from a `std::io::Error`.
    pub fn io(op: &'static str, path: &Path, error: &std::io::Error) -> Self {
        Self::os(op, path, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }

    /// Something that Leasehold will not do.
    pub fn refused(op: &'static str, path: &Path, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { op, path: path.to_owned(), cause: Cause::Refused(why.into()), hint: Some(hint.into()) }
    }

    /// Something that was not written as it stands there.
    pub fn corrupt(path: &Path, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { op: "use", path: path.to_owned(), cause: Cause::Corrupt(why.into()), hint: Some(hint.into()) }
    }

    /// What it means.
    pub fn kind(&self) -> FileErrorKind {
        match &self.cause {
            Cause::Os(Errno::ACCESS | Errno::PERM) => FileErrorKind::Denied,
            Cause::Os(Errno::NOSPC | Errno::DQUOT) => FileErrorKind::Full,
            Cause::Os(Errno::NOENT) => FileErrorKind::Missing,
            Cause::Corrupt(_) => FileErrorKind::Corrupt,
            Cause::Os(_) | Cause::Refused(_) => FileErrorKind::Other,
        }
    }

    /// The exit code of sysexits.h: 77 (EX_NOPERM) or 74 (EX_IOERR).
    pub fn exit_code(&self) -> u8 {
        if self.kind() == FileErrorKind::Denied { 77 } else { 74 }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: ", self.op, self.path.display())?;
        match &self.cause {
            Cause::Os(errno) => write!(f, "{errno}")?,
            Cause::Refused(why) | Cause::Corrupt(why) => f.write_str(why)?,
        }
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for FileError {}

fn hint(op: &str, errno: Errno) -> Option<String> {
    let text = match errno {
        Errno::NOSPC => "free space or inodes on its file system (see `df` and `df -i`)",
        Errno::DQUOT => "free space or raise the quota of the agent's user",
        Errno::ROFS => {
            "the file system is mounted read-only: remount it, or, under systemd with ProtectSystem=, list the directory \
             in ReadWritePaths="
        }
        Errno::PERM | Errno::ACCESS if op == "set the owner of" || op == "set the mode of" => {
            "giving a file to another user needs root, or CAP_CHOWN and CAP_FOWNER; or leave `owner` and `group` out"
        }
        Errno::ACCESS | Errno::PERM => {
            return Some(format!(
                "the agent runs as uid {} and needs write and search permission on its directory",
                rustix::process::geteuid().as_raw()
            ));
        }
        Errno::MFILE | Errno::NFILE => "raise the limit on open files (LimitNOFILE= under systemd)",
        Errno::BUSY => "something is mounted there: mount the folder that it is in instead",
        Errno::NAMETOOLONG => "use a shorter name",
        _ => return None,
    };
    Some(text.to_owned())
}
