//! Reads the config file, and asks the system for users: the only part of this room that touches the outside world.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use super::build::{self, Inputs, Users};
use super::confidential::{self, Confidential};
use super::decode::Decoder;
use super::fault::{Fault, Faults, Place};
use super::model::{Config, ProcessUser};
use super::raw::RawConfig;
use super::scalar::Account;
use super::tree::{self, Content, Node};

/// The largest config that is read, in bytes.
const LARGEST: u64 = 16 * 1024 * 1024;

/// A sound config.
pub struct Loaded {
    /// The config.
    pub config: Config,
    /// What is doubtful but no fault.
    pub warnings: Vec<Fault>,
    /// What the config holds that is not for every eye.
    pub confidential: Confidential,
    file: Arc<Path>,
    places: HashMap<String, Spot>,
}

struct Spot {
    key: Place,
    value: Place,
    block: Option<Place>,
}

impl Loaded {
    /// The file, as the operator named it.
    pub fn file(&self) -> &Arc<Path> {
        &self.file
    }

    /// Where a key stands, as in `secrets.redis` or `targets.app.files[0].template`. An item of a list: where it begins.
    /// Line 0 where there is no such key.
    pub fn place(&self, path: &str) -> Place {
        self.places.get(path).map(|spot| spot.key).unwrap_or_default()
    }

    /// Where a line and column of a text value stand in the config, both counted from 1: exact in a literal block (`|`)
    /// without `${VAR}`, else the place of the value.
    pub fn text_place(&self, path: &str, line: u32, column: u32) -> Place {
        match self.places.get(path) {
            Some(Spot { block: Some(block), .. }) => {
                Place { line: block.line + line.saturating_sub(1), column: block.column + column.saturating_sub(1) }
            }
            Some(spot) => spot.value,
            None => Place::default(),
        }
    }

    /// A fault at a key, for what other rooms find wrong with it.
    pub fn fault(&self, path: &str, message: impl Into<String>, hint: Option<String>) -> Fault {
        Fault::new(&self.file, self.place(path), message, hint)
    }
}

/// Loads a config file. `env` answers environment variables. Relative paths count from the file's folder.
///
/// Does not look at the files that the config names (templates, stores, certificates), and asks no store.
///
/// # Errors
/// All the faults of the file at once.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Faults> {
    load_with(path, env, None)
}

/// Loads a config for `agent run -- CMD`: `command` becomes the process of its only target.
///
/// # Errors
/// As [`load`]; also where there is not exactly one target, or its `reload` is neither `exec` nor left out.
pub fn load_for_command(
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    command: &[String],
) -> Result<Loaded, Faults> {
    load_with(path, env, Some(command))
}

/// Only where `state_dir` is, absolute: so that a running agent can be asked although its config file is not sound just
/// now, or names environment variables that only the agent has. None where not even that can be read.
pub fn state_dir(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let absolute = std::path::absolute(path).ok()?;
    let bytes = read(path).ok()?;
    let (root, _) = tree::read(text(&bytes).ok()?, env);
    let Content::Map(entries) = &root.as_ref()?.content else { return None };
    let Content::Scalar(scalar) = &entries.iter().find(|entry| entry.key == "state_dir")?.node.content else {
        return None;
    };
    (!scalar.text.is_empty()).then(|| build::clean(&absolute.parent().unwrap_or(Path::new("/")).join(&scalar.text)))
}

fn load_with(path: &Path, env: &dyn Fn(&str) -> Option<String>, command: Option<&[String]>) -> Result<Loaded, Faults> {
    let shown: Arc<Path> = Arc::from(path);
    let whole = |message: String| Faults(vec![Fault::new(&shown, Place::default(), message, None)]);
    let absolute = std::path::absolute(path).map_err(|error| whole(format!("cannot be found: {error}")))?;
    let bytes = read(path).map_err(whole)?;
    parse(&bytes, path, &Inputs { file: &absolute, env, users: &System, command })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let told = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    let file = std::fs::File::open(path).map_err(told)?;
    if file.metadata().map_err(told)?.is_dir() {
        return Err("is a folder, not a file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(told)?;
    if bytes.len() as u64 > LARGEST {
        return Err(format!("is larger than {} MiB", LARGEST >> 20));
    }
    Ok(bytes)
}

/// Loads a config from its bytes; `shown` is the file's name in messages. Touches nothing outside but `inputs`.
///
/// # Errors
/// All the faults at once, in the order of the file.
pub fn parse(bytes: &[u8], shown: &Path, inputs: &Inputs<'_>) -> Result<Loaded, Faults> {
    let file: Arc<Path> = Arc::from(shown);
    let text = text(bytes).map_err(|(place, message)| Faults(vec![Fault::new(&file, place, message, None)]))?;
    let (root, troubles) = tree::read(text, inputs.env);
    let mut decoder = Decoder::new(file.clone());
    for (place, message, hint) in troubles {
        decoder.fault_hint(place, message, hint);
    }
    let raw = root.as_ref().and_then(|root| decoder.take::<RawConfig>(root));
    let config = raw.map(|raw| build::config(&raw, inputs, &mut decoder));
    let Decoder { mut faults, mut warnings, .. } = decoder;
    let order = |fault: &Fault| (fault.line, fault.column);
    faults.sort_by_key(order);
    warnings.sort_by_key(order);
    match config {
        Some(config) if faults.is_empty() => {
            let mut places = HashMap::new();
            if let Some(root) = &root {
                index(root, "", &mut places);
            }
            let confidential = root.as_ref().map(confidential::of).unwrap_or_default();
            Ok(Loaded { config, warnings, confidential, file, places })
        }
        _ => Err(Faults(faults)),
    }
}

fn text(bytes: &[u8]) -> Result<&str, (Place, String)> {
    let place = |upto: &[u8]| {
        let line = upto.iter().filter(|b| **b == b'\n').count() + 1;
        let tail = upto.rsplit(|b| *b == b'\n').next().unwrap_or_default();
        let column = String::from_utf8_lossy(tail).chars().count() + 1;
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Place { line: small(line), column: small(column) }
    };
    let text = std::str::from_utf8(bytes)
        .map_err(|error| (place(&bytes[..error.valid_up_to()]), "not UTF-8 text".to_owned()))?;
    match bytes.iter().position(|b| *b == 0) {
        Some(at) => Err((place(&bytes[..at]), "a NUL byte cannot stand in a config".to_owned())),
        None => Ok(text),
    }
}

fn index(node: &Rc<Node>, path: &str, places: &mut HashMap<String, Spot>) {
    let mut add = |child: &Rc<Node>, key: Place, path: String| {
        let block = match &child.content {
            Content::Scalar(scalar) => scalar.block.filter(|_| scalar.written.is_none()),
            _ => None,
        };
        index(child, &path, places);
        places.insert(path, Spot { key, value: child.place, block });
    };
    match &node.content {
        Content::Map(entries) => {
            for entry in entries {
                let dot = if path.is_empty() { "" } else { "." };
                add(&entry.node, entry.place, format!("{path}{dot}{}", entry.key));
            }
        }
        Content::List(items) => {
            for (at, item) in items.iter().enumerate() {
                add(item, item.place, format!("{path}[{at}]"));
            }
        }
        Content::Scalar(_) | Content::Broken => {}
    }
}

/// The machine's own users and groups (getpwnam_r(3), getgrnam_r(3)).
pub struct System;

impl Users for System {
    fn user(&self, account: &Account) -> Option<ProcessUser> {
        let user = match account {
            Account::Name(name) => nix::unistd::User::from_name(name),
            Account::Id(id) => nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(*id)),
        };
        let user = user.ok()??;
        Some(ProcessUser { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() })
    }

    fn group(&self, name: &str) -> Option<u32> {
        Some(nix::unistd::Group::from_name(name).ok()??.gid.as_raw())
    }
}
