//! Which secrets a text uses: every one that it could, never fewer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::engine::{ChainAt, Engine, TextId};
use super::error::{RenderError, RenderErrorKind as Kind, did_you_mean};
use crate::config::model::SecretConfig;
use crate::secret::SecretName;

/// What uses a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum UsedBy {
    /// A file of the target, by its path.
    File(PathBuf),
    /// A variable of the supervised process.
    Env(String),
    /// The health request.
    Health,
    /// The `verify` request of a secret.
    Verify(SecretName),
}

/// One use of a secret in a template, the config or a `resolve` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// What is made of it.
    pub by: UsedBy,
    /// The secret; None: any of them (`secrets[name]`, a loop over `secrets`).
    pub secret: Option<SecretName>,
    /// The field, where the text names it.
    pub field: Option<String>,
    /// Template or place in the config.
    pub file: Arc<str>,
    /// 1-based.
    pub line: usize,
    /// 1-based, in characters.
    pub column: usize,
}

/// What one rendered thing depends on.
#[derive(Debug, Clone, Default)]
pub(super) struct Needs {
    pub secrets: BTreeSet<SecretName>,
    /// Any secret could be used.
    pub all: bool,
    /// `meta` is used: times matter, not only versions.
    pub meta: bool,
    /// `snapshot` is used: every version matters.
    pub snapshot: bool,
}

impl Needs {
    pub fn of(engine: &Engine, texts: &[TextId]) -> Self {
        let mut needs = Self::default();
        for text in texts {
            for at in engine.chains(*text) {
                match (at.chain.path[0].as_str(), at.chain.path.get(1)) {
                    ("secrets" | "previous", Some(name)) => {
                        needs.secrets.insert(SecretName::new(name.as_str()));
                    }
                    ("meta", Some(name)) => {
                        needs.meta = true;
                        needs.secrets.insert(SecretName::new(name.as_str()));
                    }
                    ("secrets" | "previous", None) => needs.all = true,
                    ("meta", None) => (needs.all, needs.meta) = (true, true),
                    ("snapshot", _) => needs.snapshot = true,
                    _ => {}
                }
            }
        }
        needs
    }
}

/// The uses of secrets in texts.
pub(super) fn uses(engine: &Engine, by: &UsedBy, texts: &[TextId]) -> Vec<Use> {
    let secret = |at: &&ChainAt| matches!(at.chain.path[0].as_str(), "secrets" | "previous" | "meta");
    let chains = texts.iter().flat_map(|text| engine.chains(*text)).filter(secret);
    let one = |at: &ChainAt| Use {
        by: by.clone(),
        secret: at.chain.path.get(1).map(|name| SecretName::new(name.as_str())),
        field: at.chain.path.get(2).filter(|_| at.chain.path[0] != "meta").cloned(),
        file: Arc::clone(&at.file),
        line: at.at.0,
        column: at.at.1,
    };
    chains.map(one).collect()
}

/// Secrets that are used and not declared, and names under `env` that `pass_env` does not list.
pub(super) fn undeclared(
    engine: &Engine,
    texts: &[TextId],
    secrets: &BTreeMap<SecretName, SecretConfig>,
    pass_env: &[String],
) -> Vec<RenderError> {
    let mut out: Vec<RenderError> = Vec::new();
    for at in texts.iter().flat_map(|text| engine.chains(*text)) {
        let Some(name) = at.chain.path.get(1) else { continue };
        let fault = match at.chain.path[0].as_str() {
            "secrets" | "previous" | "meta" if name.contains("://") => {
                Some((Kind::Undeclared, format!("secret `{name}` has no name of its own: declare it under `secrets`")))
            }
            "secrets" | "previous" | "meta" if !secrets.contains_key(&SecretName::new(name.as_str())) => {
                let known = secrets.keys().map(SecretName::as_str).filter(|n| !n.contains("://"));
                let hint = did_you_mean(name, known);
                Some((Kind::Undeclared, format!("secret `{name}` is not declared under `secrets`{hint}")))
            }
            "env" if !pass_env.contains(name) => {
                let hint = did_you_mean(name, pass_env.iter().map(String::as_str));
                Some((Kind::Env, format!("`env.{name}` is not listed under `pass_env`{hint}")))
            }
            _ => None,
        };
        if let Some((kind, message)) = fault {
            let error = RenderError::new(kind, &at.file, at.at, message);
            if !out.contains(&error) {
                out.push(error);
            }
        }
    }
    out
}
