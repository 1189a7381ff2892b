//! Declared secrets against used ones, and the references of `resolve` files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::build::{POLL_AWS, POLL_VAULT, clean_vault_path};
use super::fault::{Fault, Place, did_you_mean, shown};
use super::load::Loaded;
use super::model::{Config, Locator, SecretConfig, StoreConfig, TargetName};
use crate::secret::SecretName;

/// A use of a secret in a template, a variable, a header or a `resolve` file.
#[derive(Clone, Debug)]
pub struct Use {
    /// The secret.
    pub secret: SecretName,
    /// The file in which it is used: a template, or the config itself.
    pub file: Arc<Path>,
    /// Where in it.
    pub place: Place,
}

/// Compares what targets use with what is declared: a fault for each use of a secret that is not, at the place of the
/// use; a warning for each declared secret that no target uses, at its declaration. A use by the secret's own `verify`
/// is no use by a target: leave it out of `uses`, or hand it in under its targets.
pub fn cross_check(loaded: &Loaded, uses: &[(TargetName, Vec<Use>)]) -> (Vec<Fault>, Vec<Fault>) {
    let declared = &loaded.config.secrets;
    let mut used: BTreeSet<&SecretName> = BTreeSet::new();
    let mut faults: BTreeMap<(&Path, Place, &SecretName), Fault> = BTreeMap::new();
    for (target, uses) in uses {
        for one in uses {
            used.insert(&one.secret);
            if !declared.contains_key(&one.secret) {
                let name = one.secret.as_str();
                let names = declared.keys().map(SecretName::as_str).filter(|name| !name.contains("://"));
                let message = format!("targets.{target} uses the secret '{}', which is not declared", shown(name));
                let hint = did_you_mean(name, names).or_else(|| Some("declare it under secrets".to_owned()));
                let fault = Fault::new(&one.file, one.place, message, hint);
                faults.entry((&one.file, one.place, &one.secret)).or_insert(fault);
            }
        }
    }
    let unused = declared.keys().filter(|name| !used.contains(name) && !name.as_str().contains("://"));
    let unused = unused.map(|name| {
        let message = format!("secrets.{name} is declared, but no target uses it");
        loaded.fault(&format!("secrets.{name}"), message, None)
    });
    let mut warnings: Vec<Fault> = unused.collect();
    warnings.sort_by_key(|fault| (fault.line, fault.column));
    (faults.into_values().collect(), warnings)
}

/// What a reference in a `resolve` file stands for.
pub struct Reference {
    /// The secret's name: the reference without its field.
    pub name: SecretName,
    /// The secret, with its store's defaults.
    pub secret: SecretConfig,
    /// The field.
    pub field: String,
}

/// Why a value that begins with a store's scheme is no reference. Shows no more of it than the scheme.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// `#FIELD` is missing.
    #[error("the reference {0}://… names no field; end it with #FIELD")]
    NoField(String),
    /// The path is none.
    #[error("the reference {0}://… holds no path that its store could read; write it as {0}://PATH#FIELD")]
    BadPath(String),
}

/// Reads a whole value of a `resolve` file: `STORE://PATH#FIELD`. None where it does not begin with a declared store's
/// name and `://`, so that other URLs stay what they are. Nothing is percent-decoded; the field follows the last `#`.
///
/// # Errors
/// Where the store is declared but the rest cannot be a reference.
pub fn reference(config: &Config, value: &str) -> Result<Option<Reference>, ReferenceError> {
    let Some((scheme, rest)) = value.split_once("://") else { return Ok(None) };
    let Some((store, kind)) = config.stores.get_key_value(scheme) else { return Ok(None) };
    let no_field = || ReferenceError::NoField(scheme.to_owned());
    let bad_path = || ReferenceError::BadPath(scheme.to_owned());
    let (path, field) = rest.rsplit_once('#').ok_or_else(no_field)?;
    if field.is_empty() {
        return Err(no_field());
    }
    if path.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(bad_path());
    }
    let (path, locator, poll): (&str, Locator, Option<Duration>) = match kind {
        StoreConfig::File(_) => (path, Locator::File { key: path.to_owned() }, None),
        StoreConfig::Vault(_) => {
            let path = clean_vault_path(path).filter(|path| path.contains('/')).ok_or_else(bad_path)?;
            (path, Locator::Vault { path: path.to_owned(), params: BTreeMap::new() }, Some(POLL_VAULT))
        }
        StoreConfig::Aws(_) if path.is_empty() => return Err(bad_path()),
        StoreConfig::Aws(_) => {
            let locator = Locator::Aws { id: path.to_owned(), stage: None, version_id: None, key: None };
            (path, locator, Some(POLL_AWS))
        }
    };
    let name = SecretName::new(format!("{scheme}://{path}"));
    let secret = SecretConfig {
        name: name.clone(),
        store: store.clone(),
        locator,
        poll,
        overlap: Duration::ZERO,
        max_age: None,
        expect: BTreeMap::new(),
        verify: None,
    };
    Ok(Some(Reference { name, secret, field: field.to_owned() }))
}
