//! Template texts, given from outside: this room reads no file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::scan::Scan;
use crate::config::model::{Source, TargetConfig};

/// The texts of template and `resolve` files by absolute path, and the folder from which `inline` texts include.
#[derive(Clone, Default)]
pub struct Sources {
    base: PathBuf,
    texts: BTreeMap<PathBuf, String>,
}

impl Sources {
    /// No texts yet; `base` is the config file's folder.
    pub fn new(base: impl Into<PathBuf>) -> Self {
        Self { base: base.into(), texts: BTreeMap::new() }
    }

    /// Adds a text, or replaces it.
    pub fn insert(&mut self, path: impl Into<PathBuf>, text: impl Into<String>) {
        self.texts.insert(path.into(), text.into());
    }

    /// A text.
    pub fn get(&self, path: &Path) -> Option<&str> {
        self.texts.get(path).map(String::as_str)
    }

    /// The config file's folder.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// The paths of all texts.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.texts.keys().map(PathBuf::as_path)
    }

    /// The files that a target is made of and that are not here yet. The caller reads them, inserts them, and asks
    /// again until nothing is missing: a template may include others.
    pub fn missing(&self, target: &TargetConfig) -> BTreeSet<PathBuf> {
        let mut seen = BTreeSet::new();
        let mut todo: Vec<PathBuf> = Vec::new();
        for file in &target.files {
            match &file.source {
                Source::Template(path) => todo.push(path.clone()),
                Source::Resolve(path) => {
                    seen.insert(path.clone());
                }
                Source::Inline(text) => todo.extend(refers_to(&self.base, text)),
                Source::Env(values) => values.iter().for_each(|(_, text)| todo.extend(refers_to(&self.base, text))),
            }
        }
        while let Some(path) = todo.pop() {
            if let (Some(text), Some(folder)) = (self.get(&path), path.parent()) {
                todo.extend(refers_to(folder, text).into_iter().filter(|p| !seen.contains(p)));
            }
            seen.insert(path);
        }
        seen.retain(|path| !self.texts.contains_key(path));
        seen
    }
}

/// The templates that a text includes or extends; a relative name is taken from `folder`.
pub fn refers_to(folder: &Path, text: &str) -> Vec<PathBuf> {
    let scan = Scan::new(text).unwrap_or_default();
    scan.includes.iter().map(|include| join(folder, &include.name)).collect()
}

/// `folder/name` without `.` and `..`.
pub(super) fn join(folder: &Path, name: &str) -> PathBuf {
    let mut out = PathBuf::new();
    for part in folder.join(name).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}
