//! Looking at what is published, without touching it.

use std::fmt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::directory::Layout;
use super::manifest::{Blob, Manifest};
use super::place::{self, Occupant, Places};
use super::{Generations, directory};
use crate::digest::Key;
use crate::durable::{self, Attributes, Dir, FileError};
use crate::render::Rendered;
use crate::secret::SecretBytes;

/// How what is published compares to a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Live {
    /// Every file is there, with its bytes, mode and owner.
    Same,
    /// These files differ, and how.
    Differs(Vec<(PathBuf, Difference)>),
    /// The generation has files, and none of them is there.
    Missing,
}

/// How a published file differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// There is none.
    Absent,
    /// It has other bytes.
    Bytes,
    /// It has other permission bits.
    Mode {
        /// What it has.
        found: u32,
        /// What it should have.
        want: u32,
    },
    /// It belongs to another user or group.
    Owner {
        /// What it has.
        found: (u32, u32),
        /// What it should have.
        want: (u32, u32),
    },
    /// Something else stands there, or on the way there.
    InTheWay(String),
    /// It cannot be read.
    Unreadable(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("is missing"),
            Self::Bytes => f.write_str("has other contents"),
            Self::Mode { found, want } => write!(f, "has mode {found:04o} instead of {want:04o}"),
            Self::Owner { found, want } => {
                write!(f, "belongs to {}:{} instead of {}:{}", found.0, found.1, want.0, want.1)
            }
            Self::InTheWay(what) | Self::Unreadable(what) => f.write_str(what),
        }
    }
}

/// What a file should be.
#[derive(Clone, Copy)]
pub(super) struct Want<'a> {
    pub(super) path: &'a Path,
    pub(super) content: Content<'a>,
    pub(super) attributes: Attributes,
    pub(super) follow: bool,
}

/// Bytes, or what proves them.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    Bytes(&'a SecretBytes),
    Blob(&'a Key, &'a Blob),
}

impl Content<'_> {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Blob(_, blob) => blob.len,
        }
    }

    fn matches(&self, found: &SecretBytes) -> bool {
        match self {
            Self::Bytes(bytes) => bytes.expose() == found.expose(),
            Self::Blob(key, blob) => Blob::of(key, found.expose()) == **blob,
        }
    }
}

pub(super) fn wants_of_rendered(rendered: &Rendered) -> Vec<Want<'_>> {
    let wants = rendered.files.iter().map(|file| Want {
        path: &file.path,
        content: Content::Bytes(&file.bytes),
        attributes: Attributes::of(file.mode, file.uid, file.gid),
        follow: file.follow_symlinks,
    });
    wants.collect()
}

pub(super) fn wants_of_manifest<'a>(key: &'a Key, manifest: &'a Manifest) -> Vec<Want<'a>> {
    let want = |file: &'a super::ManifestFile| Want {
        path: &file.path,
        content: Content::Blob(key, &file.content),
        attributes: Attributes::of(file.mode, file.uid, file.gid),
        follow: file.follow_symlinks,
    };
    manifest.files.iter().map(want).collect()
}

/// How the regular file under this name differs; None where it does not. Symlinks are in the way.
pub(super) fn difference(dir: &Dir, name: &std::ffi::OsStr, want: &Want<'_>) -> Option<Difference> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(dir.fd(), name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Some(Difference::Absent),
        Err(Errno::LOOP) => return Some(Difference::InTheWay("is a symlink".to_owned())),
        Err(errno) => return Some(Difference::Unreadable(format!("cannot be read: {errno}"))),
    };
    let stat = match rustix::fs::fstat(&fd) {
        Ok(stat) => stat,
        Err(errno) => return Some(Difference::Unreadable(format!("cannot be read: {errno}"))),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Some(Difference::InTheWay("is no regular file".to_owned()));
    }
    if u64::try_from(stat.st_size).ok() != Some(want.content.len()) {
        return Some(Difference::Bytes);
    }
    match durable::read_fd(fd, want.path, want.content.len()).map(SecretBytes::new) {
        Ok(found) if want.content.matches(&found) => {}
        Ok(_) => return Some(Difference::Bytes),
        Err(error) => return Some(Difference::Unreadable(format!("cannot be read: {error}"))),
    }
    let Attributes { mode, uid, gid } = want.attributes;
    let (found, found_owner) = (stat.st_mode & 0o7777, (stat.st_uid, stat.st_gid));
    if found_owner != (uid, gid) {
        return Some(Difference::Owner { found: found_owner, want: (uid, gid) });
    }
    (found != mode & 0o7777).then_some(Difference::Mode { found, want: mode & 0o7777 })
}

/// How what is published differs from these wants. Paths that cannot be walked are differences, too.
fn compare(directory: Option<&Path>, wants: &[Want<'_>]) -> Vec<(PathBuf, Difference)> {
    let in_the_way = |error: FileError| Difference::InTheWay(error.to_string());
    let mut places = Places::existing();
    if let Some(root) = directory {
        return match places.dir(root, false) {
            Ok(Some(dir)) => directory::compare(&dir, root, wants),
            Ok(None) => wants.iter().map(|want| (want.path.to_owned(), Difference::Absent)).collect(),
            Err(error) => vec![(root.to_owned(), in_the_way(error))],
        };
    }
    let mut found = Vec::new();
    for want in wants {
        let why = match places.find(want.path, want.follow) {
            Ok(Some(place)) => difference(&place.dir, &place.name, want),
            Ok(None) => Some(Difference::Absent),
            Err(error) => Some(in_the_way(error)),
        };
        if let Some(why) = why {
            found.push((want.path.to_owned(), why));
        }
    }
    found
}

impl Generations {
    /// Whether exactly this generation is published: every file whole, with its mode and owner, and with a `directory`
    /// all from one generation. Files that it does not have are not looked at. Reads only.
    pub fn live(&self, manifest: &Manifest) -> Live {
        let wants = wants_of_manifest(&self.key, manifest);
        let found = compare(manifest.directory.as_deref(), &wants);
        let absent = found.iter().filter(|(_, why)| *why == Difference::Absent).count();
        if found.is_empty() {
            Live::Same
        } else if absent == wants.len() && absent == found.len() {
            Live::Missing
        } else {
            Live::Differs(found)
        }
    }
}

/// What publishing this would change, for `--dry-run`. Reads only. Files that would be removed are not among them.
pub fn differences(rendered: &Rendered) -> Vec<(PathBuf, Difference)> {
    compare(rendered.directory.as_deref(), &wants_of_rendered(rendered))
}

/// The bytes that are published now in the place of one rendered file, to show a masked difference. None where there
/// are none.
///
/// # Errors
/// Where a symlink or anything but a regular file is in the way, or the system does not let it be read.
pub fn live_bytes(rendered: &Rendered, index: usize) -> Result<Option<SecretBytes>, FileError> {
    let Some(file) = rendered.files.get(index) else { return Ok(None) };
    let mut places = Places::existing();
    let (dir, name) = match &rendered.directory {
        Some(root) => {
            let Some(dir) = places.dir(root, false)? else { return Ok(None) };
            let Some(current) = Layout::new(&dir).current()? else { return Ok(None) };
            let relative = place::relative_to(root, &file.path)?;
            let (parent, name) = durable::split(&relative)?;
            let Some(dir) = place::walk(&current, parent)? else { return Ok(None) };
            (std::rc::Rc::new(dir), name.to_owned())
        }
        None => match places.find(&file.path, file.follow_symlinks)? {
            Some(place) => (place.dir, place.name),
            None => return Ok(None),
        },
    };
    match place::occupant(&dir, &name)? {
        Occupant::Nothing => return Ok(None),
        Occupant::File => {}
        Occupant::Link(target) => return Err(place::is_symlink(&file.path, &file.path, &target)),
        Occupant::Other(kind) => return Err(place::not_a_file(&file.path, kind)),
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir.fd(), &name, flags, Mode::empty())
        .map_err(|errno| FileError::os("read", &file.path, errno))?;
    durable::read_fd(fd, &file.path, u64::from(u32::MAX)).map(|bytes| Some(SecretBytes::new(bytes)))
}
