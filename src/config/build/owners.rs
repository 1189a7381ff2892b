//! One owner a path: no two files, and nothing that the agent itself reads or keeps, at one place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Builder, clean};
use crate::config::fault::{Place, shown};
use crate::config::model::{Config, StoreConfig};
use crate::config::raw::RawConfig;
use crate::config::raw::stores::RawStore;

/// Who has a path.
struct Claim {
    path: PathBuf,
    place: Place,
    /// As a message names it.
    owner: String,
    target: Option<String>,
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
        self.target_claims(raw, &mut claims);
        let mut by_path: BTreeMap<&Path, Vec<&Claim>> = BTreeMap::new();
        for claim in &claims {
            by_path.entry(&claim.path).or_default().push(claim);
        }
        for claim in claims.iter().filter(|claim| claim.kind != Kind::Own) {
            let clash = claim.path.ancestors().find_map(|path| {
                let others = by_path.get(path).into_iter().flatten();
                others.copied().find(|other| clashes(claim, other))
            });
            if let Some(other) = clash {
                let how = if other.path == claim.path { "is" } else { "lies inside" };
                let line = if other.place.line > 0 { format!(" (line {})", other.place.line) } else { String::new() };
                let message = format!("{}: the path {how} {}{line}", claim.owner, other.owner);
                self.d.fault_hint(claim.place, message, "a path has exactly one owner".to_owned());
            }
        }
    }

    fn own_claims(&self, raw: &RawConfig, config: &Config) -> Vec<Claim> {
        let own = |path: PathBuf, place, owner: String| Claim { path, place, owner, target: None, kind: Kind::Own };
        let mut claims = vec![own(config.file.clone(), Place::default(), "the config file".to_owned())];
        if !raw.state_dir.0.is_empty() {
            claims.push(own(config.state_dir.clone(), raw.state_dir.place, "state_dir".to_owned()));
        }
        if let (Some(audit), Some(path)) = (raw.audit.get(), &config.audit) {
            claims.push(own(path.clone(), audit.path.place, "audit.path".to_owned()));
        }
        for (name, store) in raw.stores.sound() {
            if let (RawStore::File(file), Some(StoreConfig::File(built))) =
                (&store.value, config.stores.get(name.as_str()))
            {
                claims.push(own(built.path.clone(), file.path.place, format!("the store '{}'", shown(name))));
            }
        }
        for (name, target) in raw.targets.sound() {
            for (index, file) in target.files.get().into_iter().flatten().enumerate() {
                for slot in [&file.template, &file.resolve] {
                    if let Some(path) = self.maybe_path(slot) {
                        let owner = format!("the source of targets.{}.files[{index}]", shown(name));
                        claims.push(own(path, slot.place(), owner));
                    }
                }
            }
        }
        claims
    }

    fn target_claims(&self, raw: &RawConfig, claims: &mut Vec<Claim>) {
        for (name, target) in raw.targets.sound() {
            let at = format!("targets.{}", shown(name));
            let directory = self.maybe_path(&target.directory);
            let target_name = Some(name.value.clone());
            if let Some(path) = directory.clone().filter(|_| target.directory.get().is_some()) {
                claims.push(Claim {
                    path,
                    place: target.directory.place(),
                    owner: format!("{at}.directory"),
                    target: target_name.clone(),
                    kind: Kind::Directory,
                });
            }
            for (index, file) in target.files.get().into_iter().flatten().enumerate() {
                if file.path.0.is_empty() || (target.directory.given() && directory.is_none()) {
                    continue;
                }
                let path = match &directory {
                    Some(directory) => clean(&directory.join(&file.path.0)),
                    None => self.path(&file.path),
                };
                claims.push(Claim {
                    path,
                    place: file.path.place,
                    owner: format!("{at}.files[{index}]"),
                    target: target_name.clone(),
                    kind: Kind::File,
                });
            }
        }
    }
}

/// Whether `other`, at the same path or at a folder above, takes it away from `claim`. Of two claims to one path only
/// the later in the file is told; a folder may not be above what the agent itself has, nor a file above anything.
fn clashes(claim: &Claim, other: &Claim) -> bool {
    if std::ptr::eq(claim, other) {
        return false;
    }
    let same = claim.path == other.path;
    let within_own_directory =
        other.kind == Kind::Directory && claim.kind == Kind::File && claim.target == other.target && !same;
    if within_own_directory {
        return false;
    }
    let later = (other.place.line, other.place.column) < (claim.place.line, claim.place.column);
    !same || other.kind == Kind::Own || later
}
