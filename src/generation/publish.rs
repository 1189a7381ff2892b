//! Taking a generation live, file by file; with `directory:` see `directory`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};

use super::live::{self, Content, Difference, Want};
use super::manifest::{Blob, Manifest};
use super::place::{self, Occupant, Place, Places};
use super::{GenerationId, Generations, directory};
use crate::digest::Key;
use crate::durable::{Dir, FileError, Temp};
use crate::failpoint;
use crate::render::Rendered;

/// What a publish did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// Paths that were written or removed. Empty: everything was as it should be, there is nothing to reload for.
    pub changed: Vec<PathBuf>,
    /// Paths that an earlier generation had and this one has not, but which somebody else has changed since: left alone.
    pub left: Vec<PathBuf>,
}

/// A publish that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source}{}", if *may_have_happened { " (some files may be new already)" } else { " (no file was touched)" })]
pub struct PublishError {
    /// Why.
    pub source: FileError,
    /// False: every live file is what it was. True: some may be new; go back, or publish again.
    pub may_have_happened: bool,
}

impl PublishError {
    pub(super) fn before(source: FileError) -> Self {
        Self { source, may_have_happened: false }
    }

    pub(super) fn after(source: FileError) -> Self {
        Self { source, may_have_happened: true }
    }
}

impl Generations {
    /// Takes a retained generation live, forward or back, after proving it. `earlier` are the manifests whose files may
    /// be live now (the committed one, and one whose publish was cut short): their files that this one does not have
    /// are removed after all others are in place, if their bytes are still the ones that were published.
    ///
    /// Can be repeated: a file that already has its bytes, mode and owner is not written.
    ///
    /// **File by file.** First every new file is written beside its place, under an unguessable name: created 0600 and
    /// exclusively, given its owner, filled, given its mode, synced. A full disk or a refused owner ends it here, with no
    /// live file touched. Then each is renamed into place, and the directories are synced. Across files this is not
    /// atomic: for that there is `directory:`.
    ///
    /// * Missing parent directories are made: 0755, the agent's own.
    /// * A symlink at or on the way to a file is refused unless the file has `follow_symlinks`; then the file that it
    ///   leads to is replaced, and the link stays.
    /// * A directory, fifo, socket or device in the place of a file is refused, and so is a file that must change and is
    ///   bind-mounted by itself.
    /// * A file is replaced, not rewritten: hard links, extended attributes and ACLs of the old one are not kept.
    ///
    /// **`directory:`** uses the layout of Kubernetes' volumes (AtomicWriter): DIR/name -> ..data/name, and
    /// ..data -> ..gen-000012-XXXX. The rename of a new `..data` over the old is the only moment at which anything
    /// changes, so DIR itself may be a mount point, and a reader who opens `..data` once reads one generation. The
    /// directories are 0755 and the agent's own, so that the target's user can get to files whose own modes guard them.
    ///
    /// # Errors
    /// With `may_have_happened` false while no live file was touched.
    pub fn publish(&self, id: GenerationId, earlier: &[&Manifest]) -> Result<Published, PublishError> {
        let (_, rendered) = self.load(id).map_err(PublishError::before)?;
        self.publish_rendered(id, &rendered, earlier)
    }

    /// The same for a generation that is still in memory.
    ///
    /// # Errors
    /// As [`Generations::publish`].
    pub fn publish_rendered(
        &self,
        id: GenerationId,
        rendered: &Rendered,
        earlier: &[&Manifest],
    ) -> Result<Published, PublishError> {
        failpoint::hit("publish.before");
        let mut published = match &rendered.directory {
            Some(root) => directory::publish(id, root, rendered)?,
            None => publish_files(rendered, earlier)?,
        };
        failpoint::hit("publish.before_removal");
        remove_stale(&self.key, rendered, earlier, &mut published).map_err(PublishError::after)?;
        failpoint::hit("publish.after");
        Ok(published)
    }

    /// Removes temporary files that a killed publish left beside the files of these generations. A publish does it by
    /// itself for the files that it knows.
    ///
    /// # Errors
    /// Whatever the system answers. Paths that cannot be reached are passed over.
    pub fn sweep_leftovers(&self, manifests: &[&Manifest]) -> Result<(), FileError> {
        sweep_earlier(&mut Places::existing(), manifests)
    }
}

/// A file that waits to be renamed.
struct Pending<'a> {
    place: Place,
    temp: Temp,
    want: Want<'a>,
}

fn publish_files(rendered: &Rendered, earlier: &[&Manifest]) -> Result<Published, PublishError> {
    let mut places = Places::creating();
    let (pending, dirs) = prepare(&mut places, rendered, earlier).map_err(PublishError::before)?;
    failpoint::hit("publish.prepared");
    let mut published = Published::default();
    for Pending { place, temp, want } in pending {
        failpoint::hit("publish.file.before_rename");
        let renamed = temp.rename(&place.name);
        renamed.map_err(|source| PublishError { source, may_have_happened: !published.changed.is_empty() })?;
        failpoint::hit("publish.file.after_rename");
        published.changed.push(want.path.to_owned());
    }
    // Also where nothing changed: a run that was killed between rename and sync may have changed it.
    for dir in dirs {
        dir.sync().map_err(PublishError::after)?;
        failpoint::hit("publish.directory_synced");
    }
    Ok(published)
}

/// Everything that can fail without a live file being touched.
fn prepare<'a>(
    places: &mut Places,
    rendered: &'a Rendered,
    earlier: &[&Manifest],
) -> Result<(Vec<Pending<'a>>, Vec<Rc<Dir>>), FileError> {
    let mut found = Vec::new();
    for want in live::wants_of_rendered(rendered) {
        let Some(place) = places.find(want.path, want.follow)? else { continue };
        let ours = refuse_occupant(&place, earlier)?;
        let same = !ours && live::difference(&place.dir, &place.name, &want).is_none();
        found.push((place, want, same));
    }
    let mut dirs: Vec<Rc<Dir>> = Vec::new();
    for (place, _, _) in &found {
        if !dirs.iter().any(|dir| Rc::ptr_eq(dir, &place.dir)) {
            dirs.push(Rc::clone(&place.dir));
        }
    }
    for dir in &dirs {
        let here = found.iter().filter(|(place, ..)| Rc::ptr_eq(dir, &place.dir));
        sweep(dir, &here.map(|(place, ..)| place.name.clone()).collect::<Vec<_>>())?;
    }
    sweep_earlier(&mut Places::existing(), earlier)?;
    let mut pending = Vec::new();
    for (place, want, same) in found {
        if same {
            continue;
        }
        refuse_mount_point(&place)?;
        let Content::Bytes(bytes) = want.content else { continue };
        let temp = Temp::file(&place.dir, &place.name, bytes.expose(), want.attributes, "publish.file");
        let temp = temp.map_err(|mut error| {
            error.path.clone_from(&place.path);
            error
        })?;
        pending.push(Pending { place, temp, want });
    }
    Ok((pending, dirs))
}

/// A file that is mounted by itself (`docker run -v FILE:FILE`, Kubernetes' `subPath`) cannot be replaced by rename(2).
/// Found out before any file is touched; a kernel before 5.8 tells it only at the rename.
fn refuse_mount_point(place: &Place) -> Result<(), FileError> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    match rustix::fs::statx(place.dir.fd(), &place.name, flags, StatxFlags::TYPE) {
        Ok(stat) if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) => Err(FileError::refused(
            "replace",
            &place.path,
            "it is a mount point by itself (a bind-mounted file, a subPath)",
            "mount the folder that it is in instead of the file",
        )),
        _ => Ok(()),
    }
}

/// True where what stands there is a link of our own, left from when the target had a `directory`.
fn refuse_occupant(place: &Place, earlier: &[&Manifest]) -> Result<bool, FileError> {
    match place::occupant(&place.dir, &place.name)? {
        Occupant::Nothing | Occupant::File => Ok(false),
        Occupant::Other(kind) => Err(place::not_a_file(&place.path, kind)),
        Occupant::Link(target) => {
            let parent = place.path.parent();
            let was_ours =
                earlier.iter().any(|manifest| manifest.directory.is_some() && manifest.directory.as_deref() == parent);
            if was_ours && target == directory::visible_target(&place.name) {
                return Ok(true);
            }
            Err(place::is_symlink(&place.path, &place.path, &target))
        }
    }
}

/// Removes temporary files for these names.
pub(super) fn sweep(dir: &Dir, names: &[OsString]) -> Result<(), FileError> {
    for candidate in dir.names()? {
        if !names.iter().any(|name| Temp::is_for(&candidate, name)) {
            continue;
        }
        if matches!(place::occupant(dir, &candidate)?, Occupant::File | Occupant::Link(_)) {
            dir.remove(&candidate)?;
        }
    }
    Ok(())
}

fn sweep_earlier(places: &mut Places, earlier: &[&Manifest]) -> Result<(), FileError> {
    for manifest in earlier.iter().filter(|manifest| manifest.directory.is_none()) {
        for file in &manifest.files {
            // What cannot be reached any more cannot be swept either, and is no reason not to publish.
            if let Ok(Some(place)) = places.find(&file.path, file.follow_symlinks) {
                sweep(&place.dir, std::slice::from_ref(&place.name))?;
            }
        }
    }
    Ok(())
}

/// Removes what the earlier generations had and this one has not.
fn remove_stale(
    key: &Key,
    rendered: &Rendered,
    earlier: &[&Manifest],
    published: &mut Published,
) -> Result<(), FileError> {
    let paths: BTreeSet<&Path> = rendered.files.iter().map(|file| file.path.as_path()).collect();
    let mut places = Places::existing();
    let mut kept = BTreeSet::new();
    for file in &rendered.files {
        // By another path (a symlink, `..`) an earlier file may be the very same one.
        if let Ok(Some(place)) = places.find(&file.path, true) {
            kept.insert(place.identity()?);
        }
    }
    for manifest in earlier {
        if let Some(root) = manifest.directory.as_deref() {
            if rendered.directory.as_deref() != Some(root) {
                directory::tear_down(root, &mut places, published)?;
            }
            continue;
        }
        for file in manifest.files.iter().filter(|file| !paths.contains(file.path.as_path())) {
            let Ok(Some(place)) = places.find(&file.path, file.follow_symlinks) else { continue };
            if kept.contains(&place.identity()?) {
                continue;
            }
            remove_if_ours(key, &place, &file.content, published)?;
        }
    }
    Ok(())
}

fn remove_if_ours(key: &Key, place: &Place, content: &Blob, published: &mut Published) -> Result<(), FileError> {
    let attributes = crate::durable::Attributes::private();
    let want = Want { path: &place.path, content: Content::Blob(key, content), attributes, follow: false };
    match live::difference(&place.dir, &place.name, &want) {
        Some(Difference::Absent) => {}
        None | Some(Difference::Mode { .. } | Difference::Owner { .. }) => {
            place.dir.remove(&place.name)?;
            failpoint::hit("publish.file.after_removal");
            place.dir.sync()?;
            published.changed.push(place.path.clone());
        }
        Some(_) => published.left.push(place.path.clone()),
    }
    Ok(())
}
