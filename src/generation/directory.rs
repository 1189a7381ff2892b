//! `directory:`: all files change in one rename, in the layout of Kubernetes' AtomicWriter
//! (kubernetes/pkg/volume/util/atomic_writer.go):
//!
//! ```text
//! DIR/config.yaml -> ..data/config.yaml       made once; of a nested name only the first part
//! DIR/..data -> ..gen-000012-0123456789abcdef
//! DIR/..gen-000012-0123456789abcdef/config.yaml
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::FileType;

use super::GenerationId;
use super::live::{self, Content, Difference, Want};
use super::place::{self, Occupant, Places};
use super::publish::{self, PublishError, Published};
use crate::durable::{self, Dir, FileError, Temp};
use crate::failpoint;
use crate::render::Rendered;

const DATA: &str = "..data";
const DATA_TMP: &str = "..data_tmp";

/// Where a visible name points.
pub(super) fn visible_target(name: &OsStr) -> PathBuf {
    Path::new(DATA).join(name)
}

/// A directory in this layout.
pub(super) struct Layout<'a> {
    dir: &'a Rc<Dir>,
}

impl<'a> Layout<'a> {
    pub(super) fn new(dir: &'a Rc<Dir>) -> Self {
        Self { dir }
    }

    /// The generation that is live now. None where there is none; anything in the place of `..data` that is not ours is
    /// refused.
    pub(super) fn current(&self) -> Result<Option<Dir>, FileError> {
        let Some(name) = self.current_name()? else { return Ok(None) };
        match self.dir.stat(&name)? {
            Some(_) => self.dir.child(&name).map(Some),
            None => Ok(None),
        }
    }

    fn current_name(&self) -> Result<Option<OsString>, FileError> {
        let path = self.dir.path().join(DATA);
        match place::occupant(self.dir, OsStr::new(DATA))? {
            Occupant::Nothing => Ok(None),
            Occupant::Link(target) if is_generation(target.as_os_str()) => Ok(Some(target.into_os_string())),
            Occupant::Link(target) => Err(FileError::refused(
                "publish in",
                &path,
                format!("it points to {}, which is not one of Leasehold's generations", target.display()),
                "give the target a `directory` of its own",
            )),
            Occupant::File => Err(place::not_a_file(&path, "a file")),
            Occupant::Other(kind) => Err(place::not_a_file(&path, kind)),
        }
    }

    /// Removes what no reader can find any more.
    fn sweep(&self, names: &[OsString]) -> Result<(), FileError> {
        let current = self.current_name()?;
        for name in self.dir.names()? {
            if name == DATA_TMP {
                self.dir.remove(&name)?;
            } else if is_generation(&name) && current.as_ref() != Some(&name) {
                self.dir.remove_tree(&name)?;
                failpoint::hit("publish.directory.after_sweep");
            }
        }
        publish::sweep(self.dir, names)
    }

    /// The visible names that are ours: links of the form NAME -> ..data/NAME.
    fn visible(&self) -> Result<BTreeSet<OsString>, FileError> {
        let mut ours = BTreeSet::new();
        for name in self.dir.names()? {
            if !name.as_bytes().starts_with(b"..") && self.dir.link(&name)? == Some(visible_target(&name)) {
                ours.insert(name);
            }
        }
        Ok(ours)
    }
}

fn is_generation(name: &OsStr) -> bool {
    let Some(rest) = name.to_str().and_then(|name| name.strip_prefix("..gen-")) else { return false };
    rest.split_once('-').is_some_and(|(id, dice)| {
        !id.is_empty()
            && id.bytes().all(|b| b.is_ascii_digit())
            && dice.len() == 16
            && dice.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// Every want by its path in the directory.
type Wants<'a> = BTreeMap<PathBuf, Want<'a>>;

fn first_part(relative: &Path) -> OsString {
    relative.iter().next().unwrap_or_default().to_owned()
}

/// See [`super::Generations::publish`].
pub(super) fn publish(id: GenerationId, root: &Path, rendered: &Rendered) -> Result<Published, PublishError> {
    let (dir, wants) = open(root, rendered).map_err(PublishError::before)?;
    let layout = Layout::new(&dir);
    let names: BTreeSet<OsString> = wants.keys().map(|relative| first_part(relative)).collect();
    let all: Vec<OsString> = names.iter().cloned().collect();
    let prepared = preflight(&layout, &names, root)
        .and_then(|()| layout.sweep(&all))
        .and_then(|()| layout.current())
        .map_err(PublishError::before)?;
    let differs = match &prepared {
        Some(current) => differing(current, &wants),
        None => wants.values().map(|want| (want.path.to_owned(), Difference::Absent)).collect(),
    };
    let mut published = Published::default();
    if prepared.is_none() || !differs.is_empty() {
        let generation = write_generation(&dir, id, &wants).map_err(PublishError::before)?;
        switch(&dir, &generation)?;
        published.changed = differs.into_iter().map(|(path, _)| path).collect();
    }
    finish(&layout, &names, root, &mut published).map_err(PublishError::after)?;
    layout.sweep(&all).and_then(|()| dir.sync()).map_err(PublishError::after)?;
    published.changed.sort();
    published.changed.dedup();
    Ok(published)
}

fn open<'a>(root: &Path, rendered: &'a Rendered) -> Result<(Rc<Dir>, Wants<'a>), FileError> {
    let mut wants = Wants::new();
    for want in live::wants_of_rendered(rendered) {
        wants.insert(place::relative_to(root, want.path)?, want);
    }
    let missing = || FileError::os("open", root, rustix::io::Errno::NOENT);
    Ok((Places::creating().dir(root, false)?.ok_or_else(missing)?, wants))
}

/// A visible name may be free, ours, or a plain file from before there was a `directory`.
fn preflight(layout: &Layout<'_>, names: &BTreeSet<OsString>, root: &Path) -> Result<(), FileError> {
    for name in names {
        let path = root.join(name);
        match place::occupant(layout.dir, name)? {
            Occupant::Nothing | Occupant::File => {}
            Occupant::Link(target) if target == visible_target(name) => {}
            Occupant::Link(target) => {
                let why = format!("it is a symlink to {}, which Leasehold did not make", target.display());
                return Err(FileError::refused("publish", &path, why, "move it away"));
            }
            Occupant::Other(kind) => return Err(place::not_a_file(&path, kind)),
        }
    }
    Ok(())
}

/// How a generation's directory differs from these wants; what it has beyond them differs, too.
fn differing(current: &Dir, wants: &Wants<'_>) -> Vec<(PathBuf, Difference)> {
    let mut found = Vec::new();
    for (relative, want) in wants {
        let place = durable::split(relative).and_then(|(parent, name)| Ok((place::walk(current, parent)?, name)));
        let why = match place {
            Ok((Some(dir), name)) => live::difference(&dir, name, want),
            Ok((None, _)) => Some(Difference::Absent),
            Err(error) => Some(Difference::InTheWay(error.to_string())),
        };
        found.extend(why.map(|why| (want.path.to_owned(), why)));
    }
    let mut files = BTreeSet::new();
    if let Err(error) = files_in(current, Path::new(""), &mut files) {
        found.push((current.path().to_owned(), Difference::Unreadable(error.to_string())));
    }
    let root = current.path().parent().unwrap_or(current.path());
    for extra in files.iter().filter(|file| !wants.contains_key(*file)) {
        found.push((root.join(extra), Difference::InTheWay("is not of this generation".to_owned())));
    }
    found
}

fn files_in(dir: &Dir, under: &Path, found: &mut BTreeSet<PathBuf>) -> Result<(), FileError> {
    for name in dir.names()? {
        let is_dir = dir.stat(&name)?.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        if is_dir {
            files_in(&dir.child(&name)?, &under.join(&name), found)?;
        } else {
            found.insert(under.join(&name));
        }
    }
    Ok(())
}

/// Writes and syncs a whole generation that no name leads to yet. On an error nothing of it is left.
fn write_generation(dir: &Rc<Dir>, id: GenerationId, wants: &Wants<'_>) -> Result<OsString, FileError> {
    let name = OsString::from(format!("..gen-{}-{}", id.folder(), durable::unguessable(dir.path())?));
    let written = dir.make(&name, 0o755).and_then(|generation| {
        failpoint::hit("publish.directory.after_make");
        for (relative, want) in wants {
            write_file(&generation, relative, want)?;
        }
        generation.sync()
    });
    match written {
        Ok(()) => Ok(name),
        Err(error) => {
            let _ = dir.remove_tree(&name);
            Err(error)
        }
    }
}

fn write_file(generation: &Dir, relative: &Path, want: &Want<'_>) -> Result<(), FileError> {
    let Content::Bytes(bytes) = want.content else { return Ok(()) };
    let (parent, name) = durable::split(relative)?;
    let mut opened: Option<Dir> = None;
    for part in parent.iter().filter(|part| *part != ".") {
        let at = opened.as_ref().unwrap_or(generation);
        let child = if at.stat(part)?.is_some() { at.child(part)? } else { at.make(part, 0o755)? };
        at.sync()?;
        opened = Some(child);
    }
    let at = opened.as_ref().unwrap_or(generation);
    durable::write_new(at, name, want.path, bytes.expose(), want.attributes, "publish.directory.file")?;
    if opened.is_some() { at.sync() } else { Ok(()) }
}

/// The one moment at which anything changes.
fn switch(dir: &Rc<Dir>, generation: &OsStr) -> Result<(), PublishError> {
    let give_up = |source: FileError| {
        let _ = dir.remove(OsStr::new(DATA_TMP));
        let _ = dir.remove_tree(generation);
        PublishError::before(source)
    };
    let shown = dir.path().join(DATA);
    rustix::fs::symlinkat(generation, dir.fd(), DATA_TMP)
        .map_err(|errno| give_up(FileError::os("link", &shown, errno)))?;
    dir.sync().map_err(give_up)?;
    failpoint::hit("publish.directory.before_switch");
    rustix::fs::renameat(dir.fd(), DATA_TMP, dir.fd(), DATA)
        .map_err(|errno| give_up(FileError::os("switch", &shown, errno)))?;
    failpoint::hit("publish.directory.after_switch");
    dir.sync().map_err(PublishError::after)
}

/// Makes the visible names of new files, and removes those of files that are no more (both lead nowhere for a moment,
/// which to a reader is a file that is not there).
fn finish(
    layout: &Layout<'_>,
    names: &BTreeSet<OsString>,
    root: &Path,
    published: &mut Published,
) -> Result<(), FileError> {
    let visible = layout.visible()?;
    for name in names.difference(&visible) {
        // Over a plain file from before there was a `directory`, or over nothing: by rename in both cases.
        Temp::symlink(layout.dir, name, visible_target(name).as_os_str())?.rename(name)?;
        failpoint::hit("publish.directory.after_link");
        published.changed.push(root.join(name));
    }
    for name in visible.difference(names) {
        layout.dir.remove(name)?;
        failpoint::hit("publish.directory.after_unlink");
        published.changed.push(root.join(name));
    }
    layout.dir.sync()
}

/// How what is published in the directory differs from these wants.
pub(super) fn compare(dir: &Rc<Dir>, root: &Path, wants: &[Want<'_>]) -> Vec<(PathBuf, Difference)> {
    let absent = || wants.iter().map(|want| (want.path.to_owned(), Difference::Absent)).collect();
    let layout = Layout::new(dir);
    let current = match layout.current() {
        Ok(Some(current)) => current,
        Ok(None) => return absent(),
        Err(error) => return vec![(root.join(DATA), Difference::InTheWay(error.to_string()))],
    };
    let mut by_path = Wants::new();
    for want in wants {
        if let Ok(relative) = place::relative_to(root, want.path) {
            by_path.insert(relative, *want);
        }
    }
    let mut found = differing(&current, &by_path);
    let visible = layout.visible().unwrap_or_default();
    for relative in by_path.keys().filter(|relative| !visible.contains(&first_part(relative))) {
        found.push((root.join(relative), Difference::InTheWay("has no link that leads to it".to_owned())));
    }
    found
}

/// Removes the layout from a directory that is no target's `directory` any more: only what is ours by its name and form.
pub(super) fn tear_down(root: &Path, places: &mut Places, published: &mut Published) -> Result<(), FileError> {
    let Ok(Some(dir)) = places.dir(root, false) else { return Ok(()) };
    let layout = Layout::new(&dir);
    if layout.current_name().is_ok_and(|name| name.is_some()) {
        for name in layout.visible()? {
            dir.remove(&name)?;
            published.changed.push(root.join(name));
        }
        dir.remove(OsStr::new(DATA))?;
        failpoint::hit("publish.directory.torn_down");
    }
    layout.sweep(&[])?;
    dir.sync()
}
