//! A private folder in memory, for plaintext that a command must find in a file: gone when dropped, and swept at the next
//! start where the agent was killed meanwhile.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use crate::durable::{self, Attributes, Dir, FileError};
use crate::failpoint;
use crate::state_dir::memory_backed;

/// Where such a folder may be: the service's own places first.
fn places() -> Vec<PathBuf> {
    let own = |name: &str| std::env::var_os(name).and_then(|value| std::env::split_paths(&value).next());
    let own = ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"].into_iter().filter_map(own);
    let usual = ["/run/leasehold", "/run", "/dev/shm"].into_iter().map(PathBuf::from);
    own.chain(usual).filter(|place| place.is_absolute()).collect()
}

/// The folder. 0700, under a name that nobody can guess.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    /// Makes one. `prefix` is the maker's own among all users of this machine, so that [`Scratch::sweep`] finds what a
    /// killed one left.
    ///
    /// # Errors
    /// Where no place in memory lets it be made: it is NOT made on a disk.
    pub fn make(prefix: &str) -> Result<Self, FileError> {
        Self::make_in(&places(), prefix)
    }

    fn make_in(places: &[PathBuf], prefix: &str) -> Result<Self, FileError> {
        for place in places.iter().filter(|place| memory_backed(place)) {
            if let Ok(made) = Self::make_at(place, prefix) {
                return Ok(made);
            }
        }
        let tried: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        Err(FileError::refused(
            "put plaintext in memory for a check in",
            places.last().map_or(Path::new("/dev/shm"), PathBuf::as_path),
            format!("no tmpfs in which the agent may make a folder (tried {})", tried.join(", ")),
            "set RuntimeDirectory= in the unit (RUNTIME_DIRECTORY elsewhere) to a folder on a tmpfs",
        ))
    }

    /// The same in a folder of the caller's choice, in memory or not.
    ///
    /// # Errors
    /// Whatever the system answers.
    pub fn make_at(place: &Path, prefix: &str) -> Result<Self, FileError> {
        let folder = place.join(format!("{prefix}-{}", durable::unguessable(place)?));
        rustix::fs::mkdir(&folder, Mode::RWXU).map_err(|errno| FileError::os("create", &folder, errno))?;
        let made = Self { folder };
        failpoint::hit("scratch.after_make");
        Ok(made)
    }

    /// Puts a file (0600) into it and answers its path; folders on the way are made. `name` leads nowhere else.
    ///
    /// # Errors
    /// Whatever the system answers; a name that leads out of it is refused.
    pub fn write(&self, name: &Path, bytes: &[u8]) -> Result<PathBuf, FileError> {
        let path = self.folder.join(name);
        if !name.components().all(|part| matches!(part, std::path::Component::Normal(_))) {
            return Err(FileError::refused("create", &path, "its name leads out of its folder", "move it"));
        }
        let (parent, own) = durable::split(&path)?;
        durable::create_dir_private(parent)?;
        durable::write_new(&Dir::open(parent)?, own, &path, bytes, Attributes::private(), "scratch.file")?;
        Ok(path)
    }

    /// Removes what killed ones with this prefix left, where it is this user's. What cannot be removed is told in the log.
    pub fn sweep(prefix: &str) {
        for place in places() {
            if let Err(error) = sweep_in(&place, prefix) {
                tracing::warn!("cannot remove what a killed agent left, and it holds secrets: {error}");
            }
        }
    }
}

fn sweep_in(place: &Path, prefix: &str) -> Result<(), FileError> {
    // What cannot be opened or listed cannot hold anything of ours.
    let Ok(dir) = Dir::open(place) else { return Ok(()) };
    let Ok(names) = dir.names() else { return Ok(()) };
    let me = rustix::process::geteuid().as_raw();
    for name in names.iter().filter(|name| is_ours(name, prefix)) {
        let ours =
            |stat: rustix::fs::Stat| stat.st_uid == me && FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if dir.stat(name)?.is_some_and(ours) {
            dir.remove_tree(name)?;
        }
    }
    Ok(())
}

fn is_ours(name: &OsStr, prefix: &str) -> bool {
    let rest = name.to_str().and_then(|name| name.strip_prefix(prefix)).and_then(|rest| rest.strip_prefix('-'));
    rest.is_some_and(|rest| rest.len() == 16 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removed = durable::split(&self.folder).and_then(|(place, name)| Dir::open(place)?.remove_tree(name));
        match removed {
            Ok(()) => {}
            Err(FileError { cause: durable::Cause::Os(Errno::NOENT), .. }) => {}
            Err(error) => tracing::warn!("it holds secrets: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_scratch_is_private_and_gone_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::make_at(dir.path(), "test").unwrap();
        let path = scratch.write(Path::new("files/deep/x"), b"value").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"value");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&scratch.folder), mode(&path)), (0o700, 0o600));
        for name in ["../x", "/etc/x", ""] {
            assert!(scratch.write(Path::new(name), b"value").is_err(), "{name:?}");
        }
        drop(scratch);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_ones_own_leftovers_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        for prefix in ["test-a", "test-b"] {
            let left = Scratch::make_at(dir.path(), prefix).unwrap();
            left.write(Path::new("x"), b"value").unwrap();
            std::mem::forget(left);
        }
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(elsewhere.path().join("x"), "x").unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("test-a-0123456789abcdef")).unwrap();
        sweep_in(dir.path(), "test-a").unwrap();
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(names[0], "test-a-0123456789abcdef", "a link is nobody's leftover");
        assert!(names[1].starts_with("test-b-"));
        assert!(elsewhere.path().join("x").exists());
    }

    #[test]
    fn plaintext_never_goes_to_a_disk() {
        let error = Scratch::make_in(&[PathBuf::from("/proc"), PathBuf::from("/nowhere")], "test").unwrap_err();
        let error = error.to_string();
        assert!(error.contains("tmpfs") && error.contains("RuntimeDirectory="), "{error}");
    }
}
