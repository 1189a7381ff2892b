//! Which folders have to be watched for a path, and what is there now.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// As many symlinks as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// Entries of one watched folder that are looked at; more than any mounted secret has.
const MAX_ENTRIES: usize = 4096;

/// Folders to watch, by real path, with the names in them that count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ways {
    folders: BTreeMap<PathBuf, Names>,
    /// Device and inode -> the first path that led there. One folder under two paths is one watch to inotify.
    known: BTreeMap<(u64, u64), PathBuf>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    id: (u64, u64),
    all: bool,
    names: BTreeSet<OsString>,
}

impl Ways {
    pub(super) fn follow(paths: &[PathBuf]) -> Self {
        let mut ways = Self::default();
        for path in paths {
            if let Some(folder) = ways.follow_one(path) {
                ways.follow_links_in(&folder);
            }
        }
        ways
    }

    pub(super) fn folders(&self) -> impl Iterator<Item = (&Path, (u64, u64))> {
        self.folders.iter().map(|(path, names)| (path.as_path(), names.id))
    }

    pub(super) fn id(&self, folder: &Path) -> Option<(u64, u64)> {
        self.folders.get(folder).map(|names| names.id)
    }

    /// Whether an event at `path` is one about a watched folder itself, or about a name that counts.
    pub(super) fn concerns(&self, path: &Path) -> bool {
        if self.folders.contains_key(path) {
            return true;
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return false };
        self.folders.get(parent).is_some_and(|names| names.all || names.names.contains(name))
    }

    /// Follows a path to its end; answers the real path where that is a folder, which is then watched whole.
    fn follow_one(&mut self, path: &Path) -> Option<PathBuf> {
        let mut rest = steps(path);
        let mut here = PathBuf::from("/");
        let mut links = 0;
        while let Some(step) = rest.pop_front() {
            if step == ".." {
                here.pop();
                continue;
            }
            let entry = here.join(&step);
            let Ok(found) = fs::symlink_metadata(&entry) else {
                self.watch(&here, Some(&step));
                return None;
            };
            if found.is_symlink() {
                self.watch(&here, Some(&step));
                links += 1;
                let Ok(target) = fs::read_link(&entry) else { return None };
                if links > MAX_LINKS {
                    return None;
                }
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                let mut next = steps(&target);
                next.append(&mut rest);
                rest = next;
            } else if found.is_dir() {
                here = entry;
            } else {
                self.watch(&here, Some(&step));
                return None;
            }
        }
        self.watch(&here, None);
        Some(here)
    }

    fn follow_links_in(&mut self, folder: &Path) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.take(MAX_ENTRIES).flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                self.follow_one(&entry.path());
            }
        }
    }

    fn watch(&mut self, folder: &Path, name: Option<&OsStr>) {
        let Ok(found) = fs::metadata(folder) else { return };
        let id = (found.dev(), found.ino());
        let folder = self.known.entry(id).or_insert_with(|| folder.to_path_buf()).clone();
        let names = self.folders.entry(folder).or_default();
        names.id = id;
        match name {
            Some(name) => {
                names.names.insert(name.to_os_string());
            }
            None => names.all = true,
        }
    }
}

fn steps(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_os_string()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// What is at the paths, as far as stat(2) tells (access times aside).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen(Vec<(PathBuf, Option<Stamp>)>);

type Stamp = (u64, u64, u64, u32, (i64, i64), (i64, i64));

impl Seen {
    pub(super) fn now(paths: &[PathBuf]) -> Self {
        let mut seen = Vec::new();
        for path in paths {
            let found = fs::metadata(path).ok();
            let folder = found.as_ref().is_some_and(Metadata::is_dir);
            seen.push((path.clone(), found.as_ref().map(stamp)));
            if folder && let Ok(entries) = fs::read_dir(path) {
                let mut inside: Vec<PathBuf> = entries.take(MAX_ENTRIES).flatten().map(|entry| entry.path()).collect();
                inside.sort();
                seen.extend(inside.into_iter().map(|entry| {
                    let found = fs::metadata(&entry).ok();
                    let found = found.as_ref().map(stamp);
                    (entry, found)
                }));
            }
        }
        Self(seen)
    }
}

fn stamp(found: &Metadata) -> Stamp {
    (
        found.dev(),
        found.ino(),
        found.size(),
        found.mode(),
        (found.mtime(), found.mtime_nsec()),
        (found.ctime(), found.ctime_nsec()),
    )
}
