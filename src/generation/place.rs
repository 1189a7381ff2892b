//! From a configured path to an open directory and a name in it, without being led astray on the way.
//!
//! Each component is opened by itself with O_NOFOLLOW (openat(2)): a symlink is refused where it stands, and whoever
//! swaps a directory for one in the meantime gains nothing, for from then on only the descriptor counts.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::durable::{self, Dir, FileError};

/// As many symlinks as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Where a file is published.
pub(super) struct Place {
    /// The directory that it really is in.
    pub(super) dir: Rc<Dir>,
    /// Its name there.
    pub(super) name: OsString,
    /// The path as configured, for messages.
    pub(super) path: PathBuf,
}

impl Place {
    /// The same for two paths that lead to one name in one directory.
    pub(super) fn identity(&self) -> Result<(u64, u64, OsString), FileError> {
        let stat = rustix::fs::fstat(self.dir.fd()).map_err(|e| FileError::os("stat", self.dir.path(), e))?;
        Ok((stat.st_dev, stat.st_ino, self.name.clone()))
    }
}

/// What stands at a place, itself.
pub(super) enum Occupant {
    Nothing,
    File,
    Link(PathBuf),
    Other(&'static str),
}

pub(super) fn occupant(dir: &Dir, name: &OsStr) -> Result<Occupant, FileError> {
    let Some(stat) = dir.stat(name)? else { return Ok(Occupant::Nothing) };
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Occupant::File,
        FileType::Symlink => Occupant::Link(dir.link(name)?.unwrap_or_default()),
        FileType::Directory => Occupant::Other("a directory"),
        FileType::Fifo => Occupant::Other("a fifo"),
        FileType::Socket => Occupant::Other("a socket"),
        FileType::BlockDevice | FileType::CharacterDevice => Occupant::Other("a device"),
        FileType::Unknown => Occupant::Other("neither file nor link"),
    })
}

pub(super) fn not_a_file(path: &Path, kind: &str) -> FileError {
    FileError::refused("publish", path, format!("there is {kind} at this path"), "move it away, or change `path`")
}

pub(super) fn is_symlink(path: &Path, link: &Path, target: &Path) -> FileError {
    FileError::refused(
        "publish",
        path,
        format!("{} is a symlink to {}", link.display(), target.display()),
        "write the path that it leads to into the config, or set `follow_symlinks: true` on the file",
    )
}

/// Finds places, and remembers the directories that it opened.
pub(super) struct Places {
    create: bool,
    opened: HashMap<(PathBuf, bool), Rc<Dir>>,
}

impl Places {
    /// Changes nothing: a place in a directory that is missing is no place.
    pub(super) fn existing() -> Self {
        Self { create: false, opened: HashMap::new() }
    }

    /// Makes missing directories: 0755 whatever the umask is, the agent's own.
    pub(super) fn creating() -> Self {
        Self { create: true, opened: HashMap::new() }
    }

    /// The place of a path. With `follow`, of what a symlink at its end leads to. None where its directory is missing
    /// (never, when creating).
    pub(super) fn find(&mut self, path: &Path, follow: bool) -> Result<Option<Place>, FileError> {
        let mut at = path.to_owned();
        for _ in 0..MAX_LINKS {
            let (parent, name) = durable::split(&at)?;
            let Some(dir) = self.dir(parent, follow)? else { return Ok(None) };
            match follow.then(|| dir.link(name)).transpose()?.flatten() {
                Some(target) => at = parent.join(target),
                None => return Ok(Some(Place { dir, name: name.to_owned(), path: path.to_owned() })),
            }
        }
        Err(FileError::os("publish", path, Errno::LOOP))
    }

    /// Opens a directory by its absolute path.
    pub(super) fn dir(&mut self, path: &Path, follow: bool) -> Result<Option<Rc<Dir>>, FileError> {
        let key = (path.to_owned(), follow);
        if let Some(dir) = self.opened.get(&key) {
            return Ok(Some(Rc::clone(dir)));
        }
        let Some(dir) = self.open(path, follow)?.map(Rc::new) else { return Ok(None) };
        self.opened.insert(key, Rc::clone(&dir));
        Ok(Some(dir))
    }

    fn open(&self, path: &Path, follow: bool) -> Result<Option<Dir>, FileError> {
        if !path.is_absolute() {
            return Err(FileError::refused(
                "publish in",
                path,
                "the path is not absolute",
                "write it from the root on",
            ));
        }
        let mut flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if !follow {
            flags |= OFlags::NOFOLLOW;
        }
        let root = rustix::fs::open("/", flags, Mode::empty()).map_err(|e| FileError::os("open", Path::new("/"), e))?;
        let mut dir = Dir::from_fd(root, PathBuf::from("/"));
        for part in path.components() {
            let name = match part {
                Component::Normal(name) => name,
                Component::ParentDir => OsStr::new(".."),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
            };
            let at = dir.path().join(name);
            let opened = match rustix::fs::openat(dir.fd(), name, flags, Mode::empty()) {
                Err(Errno::NOENT) if !self.create => return Ok(None),
                Err(Errno::NOENT) => {
                    make(&dir, name)?;
                    rustix::fs::openat(dir.fd(), name, flags, Mode::empty())
                }
                opened => opened,
            };
            let fd = opened.map_err(|errno| blocked(&dir, name, &at, errno))?;
            dir = Dir::from_fd(fd, at);
        }
        readable(&dir).map(Some)
    }
}

/// Says a symlink by its name, rather than "not a directory".
fn blocked(dir: &Dir, name: &OsStr, at: &Path, errno: Errno) -> FileError {
    match dir.link(name) {
        Ok(Some(target)) if errno == Errno::NOTDIR || errno == Errno::LOOP => is_symlink(at, at, &target),
        _ => FileError::os("open", at, errno),
    }
}

/// A directory that was opened only as a place (O_PATH), opened so that it can be listed and synced.
fn readable(dir: &Dir) -> Result<Dir, FileError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(dir.fd(), ".", flags, Mode::empty())
        .map(|fd| Dir::from_fd(fd, dir.path().to_owned()))
        .map_err(|errno| FileError::os("open", dir.path(), errno))
}

fn make(dir: &Dir, name: &OsStr) -> Result<(), FileError> {
    match dir.make(name, 0o755) {
        Ok(made) => made.sync()?,
        // Somebody else was faster; what they made is judged by who opens it.
        Err(FileError { cause: durable::Cause::Os(Errno::EXIST), .. }) => return Ok(()),
        Err(error) => return Err(error),
    }
    readable(dir)?.sync()
}

/// Goes down from an open directory through real directories only. None where one is missing.
pub(super) fn walk(from: &Dir, relative: &Path) -> Result<Option<Dir>, FileError> {
    let mut dir = readable(from)?;
    for part in relative.components() {
        let Component::Normal(name) = part else { continue };
        if dir.stat(name)?.is_none() {
            return Ok(None);
        }
        dir = dir.child(name)?;
    }
    Ok(Some(dir))
}

/// The path of a file inside a `directory`.
pub(super) fn relative_to(directory: &Path, path: &Path) -> Result<PathBuf, FileError> {
    let relative = path.strip_prefix(directory).map_err(|_| {
        let why = format!("it is not inside the target's directory {}", directory.display());
        FileError::refused("publish", path, why, "let every file of the target live in there")
    })?;
    let normal = relative.components().all(|part| matches!(part, Component::Normal(_)));
    // `..data` and `..gen-*` are ours; a file that begins with two dots could take their place.
    if !normal || relative.as_os_str().is_empty() || relative.as_os_str().as_encoded_bytes().starts_with(b"..") {
        let why = "in a `directory`, a name may neither be empty nor begin with two dots";
        return Err(FileError::refused("publish", path, why, "choose another name"));
    }
    Ok(relative.to_owned())
}
