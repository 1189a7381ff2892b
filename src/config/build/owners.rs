//! One owner a path: no two files, and nothing that the agent itself reads or keeps, at one place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Builder;
use crate::config::fault::{Place, shown_key};
use crate::config::model::{Config, StoreConfig};
use crate::config::raw::RawConfig;
use crate::config::raw::stores::RawStore;

/// Who has a path.
struct Claim {
    path: PathBuf,
    place: Place,
    /// As a message names it.
    owner: String,
    /// For a file: whether it lies in its target's `directory`.
    in_directory: bool,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A target writes this file.
    File,
    /// A target changes this folder as a whole.
    Directory,
    /// The agent reads or keeps this; also a folder.
    Own,
}

impl Builder<'_> {
    /// Refuses every path with two owners.
    pub(super) fn owners(&mut self, raw: &RawConfig, config: &Config) {
        let mut claims = self.own_claims(raw, config);
        if let (Some(key), Some(path)) = (raw.state_key.get(), &config.state_key)
            && !raw.state_dir.0.is_empty()
            && path.starts_with(&config.state_dir)
        {
            let message = "state_key.file: the key lies inside state_dir, beside what it locks";
            let hint = "keep it elsewhere: a systemd credential, a mounted secret";
            self.d.fault_hint(key.file.place, message.to_owned(), hint.to_owned());
        }
        self.target_claims(raw, &mut claims);
        let mut by_path: BTreeMap<&Path, Vec<&Claim>> = BTreeMap::new();
        for claim in &claims {
            by_path.entry(&claim.path).or_default().push(claim);
        }
        for claim in &claims {
            let clash = claim.path.ancestors().find_map(|path| {
                let others = by_path.get(path).into_iter().flatten();
                others.copied().find(|other| clashes(claim, other))
            });
            if let Some(other) = clash {
                let how = if other.path == claim.path { "is" } else { "lies inside" };
                let line = if other.place.line > 0 { format!(" (line {})", other.place.line) } else { String::new() };
                let message = format!("{}: the path {how} {}{line}", claim.owner, other.owner);
                let place = if claim.place.line > 0 { claim.place } else { other.place };
                self.d.fault_hint(place, message, "a path has exactly one owner".to_owned());
            }
        }
    }

    fn own_claims(&self, raw: &RawConfig, config: &Config) -> Vec<Claim> {
        let own =
            |path: PathBuf, place, owner: String| Claim { path, place, owner, in_directory: false, kind: Kind::Own };
        let mut claims = vec![own(config.file.clone(), Place::default(), "the config file".to_owned())];
        if !raw.state_dir.0.is_empty() {
            claims.push(own(config.state_dir.clone(), raw.state_dir.place, "state_dir".to_owned()));
        }
        if let (Some(key), Some(path)) = (raw.state_key.get(), &config.state_key) {
            claims.push(own(path.clone(), key.file.place, "state_key.file".to_owned()));
        }
        if let (Some(audit), Some(path)) = (raw.audit.get(), &config.audit) {
            claims.push(own(path.clone(), audit.path.place, "audit.path".to_owned()));
        }
        for (name, store) in raw.stores.sound() {
            if let (RawStore::File(file), Some(StoreConfig::File(built))) =
                (&store.value, config.stores.get(name.as_str()))
            {
                claims.push(own(built.path.clone(), file.path.place, format!("the store '{}'", shown_key(name))));
            }
        }
        for (name, target) in raw.targets.sound() {
            for (index, file) in target.files.get().into_iter().flatten().enumerate() {
                for slot in [&file.template, &file.resolve] {
                    if let Some(path) = self.maybe_path(slot) {
                        let owner = format!("the source of targets.{}.files[{index}]", shown_key(name));
                        claims.push(own(path, slot.place(), owner));
                    }
                }
            }
        }
        claims
    }

    fn target_claims(&self, raw: &RawConfig, claims: &mut Vec<Claim>) {
        for (name, target) in raw.targets.sound() {
            let at = format!("targets.{}", shown_key(name));
            let directory = self.maybe_path(&target.directory);
            if let Some(path) = directory.clone() {
                claims.push(Claim {
                    path,
                    place: target.directory.place(),
                    owner: format!("{at}.directory"),
                    in_directory: false,
                    kind: Kind::Directory,
                });
            }
            for (index, file) in target.files.get().into_iter().flatten().enumerate() {
                if target.directory.given() && directory.is_none() {
                    continue;
                }
                let Ok(path) = self.destination_of(file, directory.as_deref()) else { continue };
                claims.push(Claim {
                    path,
                    place: file.path.place,
                    owner: format!("{at}.files[{index}]"),
                    in_directory: directory.is_some(),
                    kind: Kind::File,
                });
            }
        }
    }
}

/// Whether `other`, at the same path or at a folder above, takes it away from `claim`. Of two claims to one path the
/// later in the file is told; a file in its target's own folder leaves other folders to that folder's own claim.
fn clashes(claim: &Claim, other: &Claim) -> bool {
    let same = claim.path == other.path;
    let later = (other.place.line, other.place.column) < (claim.place.line, claim.place.column);
    match (claim.kind, other.kind) {
        _ if std::ptr::eq(claim, other) => false,
        // What the agent reads or keeps may lie in its other folders, but not in one that is swapped as a whole.
        (Kind::Own, Kind::Directory) => !same,
        (Kind::Own, Kind::Own | Kind::File) => false,
        (Kind::File, Kind::Directory) => !claim.in_directory,
        (Kind::File, Kind::Own) => !claim.in_directory || same,
        (Kind::File | Kind::Directory, Kind::File) | (Kind::Directory, Kind::Directory) => !same || later,
        (Kind::Directory, Kind::Own) => true,
    }
}
