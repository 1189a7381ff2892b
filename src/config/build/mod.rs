//! From raw types to the model: names resolved, keys checked against each other. Every fault is told; where one is
//! told a stand-in goes on, so that the rest is checked too.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::decode::{At, Decoder, Slot};
use super::fault::{Place, shown_key};
use super::model::{Config, ProcessUser, StoreConfig};
use super::raw::{RawAdmin, RawConfig};
use super::scalar::{Account, FilePath, Owner};
use crate::secret::SecretName;

mod files;
mod health;
mod owners;
mod process;
mod secrets;
mod stores;
mod targets;
mod traps;

pub use secrets::POLL_AWS;
pub use secrets::POLL_VAULT;
pub use stores::clean_vault_path;

/// What a config is read with.
pub struct Inputs<'a> {
    /// The config file, absolute: relative paths count from its folder.
    pub file: &'a Path,
    /// Environment variables.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Users and groups.
    pub users: &'a dyn Users,
    /// The command of `agent run -- CMD`.
    pub command: Option<&'a [String]>,
}

/// Who knows users and groups.
pub trait Users {
    /// A user by name or number.
    fn user(&self, account: &Account) -> Option<ProcessUser>;
    /// A group's number by its name.
    fn group(&self, name: &str) -> Option<u32>;
}

/// The work in hand.
struct Builder<'a> {
    d: &'a mut Decoder,
    inputs: &'a Inputs<'a>,
}

/// Builds the model. Sound only where the decoder holds no fault afterwards.
pub fn config(raw: &RawConfig, inputs: &Inputs<'_>, d: &mut Decoder) -> Config {
    let mut b = Builder { d, inputs };
    let mut stores: BTreeMap<Arc<str>, StoreConfig> = BTreeMap::new();
    for (name, raw) in &raw.stores.0 {
        b.store_name(name);
        if let Some(store) = raw.as_ref().and_then(|raw| b.store(name, raw)) {
            stores.insert(Arc::from(name.as_str()), store);
        }
    }
    let mut secrets = BTreeMap::new();
    for (name, secret) in raw.secrets.get().into_iter().flat_map(|table| &table.0) {
        b.secret_name(name);
        if let Some(secret) = secret.as_ref().and_then(|secret| b.secret(name, secret, &raw.stores)) {
            secrets.insert(SecretName::new(name.as_str()), secret);
        }
    }
    let targets = b.targets(raw);
    let config = Config {
        file: inputs.file.to_owned(),
        state_dir: b.path(&raw.state_dir),
        state_key: raw.state_key.get().map(|key| b.path(&key.file)),
        admin: raw.admin.get().map(|admin| b.admin(admin)),
        audit: raw.audit.get().map(|audit| b.path(&audit.path)),
        stores,
        secrets,
        targets,
    };
    b.owners(raw, &config);
    config
}

impl Builder<'_> {
    /// Where the admin endpoint listens: where others reach it, only if that is said.
    fn admin(&mut self, raw: &RawAdmin) -> SocketAddr {
        let address = raw.listen.address;
        if !*raw.exposed && !address.ip().is_loopback() {
            let message = format!("admin.listen: {} is not a loopback address", raw.listen.written);
            let hint =
                "listen on 127.0.0.1 or [::1], or say `exposed: true` where others may ask (in a pod, the kubelet)";
            self.d.fault_hint(raw.listen.place, message, hint.to_owned());
        }
        address
    }

    /// A path, absolute and without `.` and `..`.
    fn path(&self, path: &FilePath) -> PathBuf {
        let base = self.inputs.file.parent().unwrap_or(Path::new("/"));
        clean(&base.join(&path.0))
    }

    fn maybe_path(&self, slot: &Slot<FilePath>) -> Option<PathBuf> {
        slot.get().map(|path| self.path(path))
    }

    /// Checks a name of the operator's choice.
    fn name(&mut self, what: &str, name: &At<String>, first: fn(char) -> bool, rest: fn(char) -> bool, rule: &str) {
        let sound = name.starts_with(first) && name.chars().all(rest) && name.len() <= 128;
        if !sound {
            let message = format!("'{}' cannot name a {what}", shown_key(name));
            self.d.fault_hint(name.place, message, rule.to_owned());
        }
    }

    fn uid(&mut self, slot: &Slot<Owner>, at: &str) -> Option<u32> {
        let owner = slot.get()?;
        if let Account::Id(id) = owner.account {
            return Some(id);
        }
        let user = self.inputs.users.user(&owner.account);
        if user.is_none() {
            self.absent_account(slot.place(), at, "user", owner);
        }
        user.map(|user| user.uid)
    }

    fn gid(&mut self, slot: &Slot<Owner>, at: &str) -> Option<u32> {
        let owner = slot.get()?;
        match &owner.account {
            Account::Id(id) => Some(*id),
            Account::Name(name) => {
                let gid = self.inputs.users.group(name);
                if gid.is_none() {
                    self.absent_account(slot.place(), at, "group", owner);
                }
                gid
            }
        }
    }

    fn absent_account(&mut self, place: Place, at: &str, what: &str, owner: &Owner) {
        let message = format!("{at}: this machine has no {what} {}", owner.shown);
        self.d.fault_hint(place, message, format!("create the {what} first, or give its number"));
    }
}

/// A path without `.`, `..` and doubled slashes, by its text alone (no symlink is looked at).
pub fn clean(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_cleaned_by_its_text() {
        assert_eq!(clean(Path::new("/a/./b//../c/")), Path::new("/a/c"));
        assert_eq!(clean(Path::new("/../a")), Path::new("/a"));
    }
}
