//! Reads a file or folder whole, as it was at one moment.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use nix::fcntl::OFlag;

use super::Fault;
use crate::secret::{Field, Fields, SecretBytes};
use crate::store::StoreErrorKind;

/// The most that is read, of a file or of all files of a folder.
const MAX_BYTES: u64 = 8 << 20;
/// The most files that a folder may hold.
const MAX_FILES: usize = 4096;
/// How often a folder or file that changes under the reading is begun again, after 0, 1, 2, 4, ... milliseconds.
const TRIES: u32 = 8;
/// Times of some filesystems are this coarse: what is younger when read may change again without showing it.
const COARSE: Duration = Duration::from_secs(2);

/// What stat(2) says of everything that was read: equal stamps of settled content mean equal content.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamps {
    /// Where `..data` pointed (the kubelet's way of replacing all files at once).
    data: Option<PathBuf>,
    files: Vec<(PathBuf, Stamp)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    id: (u64, u64),
    size: u64,
    mode: u32,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What was read.
pub(super) struct Raw {
    pub(super) stamps: Stamps,
    pub(super) settled: bool,
    pub(super) open_to_all: bool,
    pub(super) modified: Option<Timestamp>,
    pub(super) bytes: Bytes,
}

pub(super) enum Bytes {
    File(SecretBytes),
    Folder(Fields),
}

/// The stamps as they are now, without reading any content.
pub(super) fn stamps(path: &Path) -> Result<Stamps, Fault> {
    let found = fs::metadata(path).map_err(|error| io(&error, None))?;
    if !found.is_dir() {
        return Ok(Stamps { data: None, files: vec![(path.to_path_buf(), Stamp::of(&found))] });
    }
    let data = fs::read_link(path.join("..data")).ok();
    let mut files = Vec::new();
    for file in visible(path)? {
        let found = fs::metadata(&file).map_err(|error| io(&error, Some(&file)))?;
        if !found.is_dir() {
            files.push((file, Stamp::of(&found)));
        }
    }
    Ok(Stamps { data, files })
}

/// Reads all of it; blocks. What changes meanwhile is read again; what never rests is `Malformed`.
pub(super) fn read(path: &Path) -> Result<Raw, Fault> {
    let mut moved = Fault::malformed("it changes while it is read");
    for attempt in 0..TRIES {
        // On a thread for blocking calls; 127 ms in all.
        std::thread::sleep(Duration::from_millis((1 << attempt) >> 1));
        let before = match stamps(path) {
            Ok(before) => before,
            // A file of the folder went between listing and looking.
            Err(fault) if fault.kind == StoreErrorKind::Missing && path.is_dir() => {
                moved = fault;
                continue;
            }
            Err(fault) => return Err(fault),
        };
        let started = SystemTime::now();
        match contents(path, &before) {
            Ok(bytes) if stamps(path).is_ok_and(|after| after == before) => return Ok(raw(before, started, bytes)),
            Ok(_) => {}
            Err(fault) if stamps(path).is_ok_and(|after| after == before) => return Err(fault),
            Err(fault) => moved = fault,
        }
    }
    Err(moved)
}

fn raw(stamps: Stamps, started: SystemTime, bytes: Bytes) -> Raw {
    let newest = stamps.files.iter().map(|(_, stamp)| stamp.modified.max(stamp.changed)).max();
    let modified = stamps.files.iter().map(|(_, stamp)| stamp.modified).max();
    let newest = newest.and_then(|(seconds, _)| u64::try_from(seconds).ok()).map(Duration::from_secs);
    Raw {
        settled: newest.is_some_and(|newest| SystemTime::UNIX_EPOCH + newest + COARSE < started),
        open_to_all: matches!(bytes, Bytes::File(_)) && stamps.files.iter().any(|(_, stamp)| stamp.mode & 0o004 != 0),
        modified: modified.and_then(|(s, ns)| Timestamp::new(s, i32::try_from(ns).unwrap_or_default()).ok()),
        stamps,
        bytes,
    }
}

fn contents(path: &Path, stamps: &Stamps) -> Result<Bytes, Fault> {
    let total: u64 = stamps.files.iter().map(|(_, stamp)| stamp.size).sum();
    if total > MAX_BYTES {
        return Err(Fault::malformed(format!("it is {total} bytes long; at most {MAX_BYTES} are read")));
    }
    if let [(file, stamp)] = stamps.files.as_slice()
        && file == path
    {
        return Ok(Bytes::File(whole(file, stamp, None)?));
    }
    if stamps.files.is_empty() {
        return Err(Fault::new(StoreErrorKind::Missing, "the folder holds no file"));
    }
    let mut fields = Fields::new();
    for (file, stamp) in &stamps.files {
        let Some(name) = file.file_name().and_then(|name| name.to_str()) else {
            return Err(Fault::malformed("a file's name is not UTF-8, so it cannot name a field"));
        };
        let bytes = whole(file, stamp, Some(file))?;
        let text = bytes.expose_str().is_some();
        fields.insert(name.to_owned(), if text { Field::Text(bytes) } else { Field::Bytes(bytes) });
    }
    Ok(Bytes::Folder(fields))
}

/// One file's bytes; a file of another size than stat(2) said is being written.
fn whole(path: &Path, stamp: &Stamp, named: Option<&Path>) -> Result<SecretBytes, Fault> {
    // Without O_NONBLOCK a FIFO would be waited for.
    let flags = OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file: File =
        OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).map_err(|error| io(&error, named))?;
    let found = file.metadata().map_err(|error| io(&error, named))?;
    if !found.is_file() {
        return Err(Fault::malformed(inside(named, "it is neither a regular file nor a folder")));
    }
    let size = usize::try_from(stamp.size).unwrap_or(usize::MAX).saturating_add(1);
    let mut bytes = Vec::with_capacity(size);
    let read = file.take(stamp.size + 1).read_to_end(&mut bytes);
    let bytes = SecretBytes::new(bytes);
    read.map_err(|error| io(&error, named))?;
    if bytes.len() as u64 != stamp.size || Stamp::of(&found) != *stamp {
        return Err(Fault::malformed(inside(named, "it changes while it is read")));
    }
    Ok(bytes)
}

fn visible(folder: &Path) -> Result<Vec<PathBuf>, Fault> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| io(&error, None))? {
        let entry = entry.map_err(|error| io(&error, None))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            files.push(entry.path());
        }
        if files.len() > MAX_FILES {
            return Err(Fault::malformed(format!("the folder holds more than {MAX_FILES} files")));
        }
    }
    files.sort();
    Ok(files)
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        Self {
            id: (found.dev(), found.ino()),
            size: found.size(),
            mode: found.mode(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

fn io(error: &std::io::Error, named: Option<&Path>) -> Fault {
    let (kind, what) = match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => (StoreErrorKind::Missing, "it does not exist".to_owned()),
        ErrorKind::PermissionDenied => (
            StoreErrorKind::Denied,
            "the agent's user may not read it: check owner and mode, of its folders too".into(),
        ),
        _ => (StoreErrorKind::Unavailable, format!("it cannot be read: {error}")),
    };
    Fault::new(kind, inside(named, &what))
}

fn inside(named: Option<&Path>, what: &str) -> String {
    match named.and_then(Path::file_name) {
        Some(name) => format!("file {}: {what}", name.to_string_lossy()),
        None => what.to_owned(),
    }
}
