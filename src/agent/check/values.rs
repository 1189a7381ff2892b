//! The stores, and what the templates make of the real values. In memory, but for what `check` commands are given.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Report;
use crate::agent::once::unreadable;
use crate::agent::prepare::{Prepared, placed};
use crate::agent::problem::Class;
use crate::agent::readings::Reader;
use crate::config::model::{Locator, TargetConfig};
use crate::digest::Key;
use crate::durable::FileError;
use crate::process::Inherit;
use crate::render::{Rendered, Renderer};
use crate::scratch::Scratch;
use crate::secret::{SecretName, Snapshot};
use crate::state_dir::Keeping;
use crate::telemetry::mask::mask;
use crate::verify;
use crate::watch::{self, Once};

const PREFIX: &str = "leasehold-check";

/// Reads every secret in use once, and proves what can be rendered.
pub(super) async fn read(prepared: &Prepared, key: &Key, keeping: Keeping, report: &mut Report) {
    let config = &prepared.loaded.config;
    let reader = Reader::new(config, watch::build(config, key), &prepared.uses, keeping, false);
    let readings = reader.read(config, &prepared.uses, Once { wait: Duration::ZERO, remember: false }).await;
    for problem in unreadable(prepared, &readings.errors) {
        report.fault(problem.class, problem.fault);
    }
    let mut read: Vec<&str> = prepared.uses.values().flatten().map(|name| name.as_str()).collect();
    read.retain(|name| !readings.errors.keys().any(|failed| failed.as_str() == *name));
    read.sort_unstable();
    read.dedup();
    if !read.is_empty() {
        report.checked.push(format!("can be read: {}", read.join(", ")));
    }
    for (name, snapshot) in &readings.snapshots {
        if let (Some(target), Some(renderer)) = (config.targets.get(name), prepared.renderers.get(name)) {
            prove(prepared, target, renderer, snapshot, report).await;
        }
    }
    policies(prepared, &reader, report).await;
    reader.finish().await;
}

/// What the stores' policies lack, and the smallest one that this config needs.
async fn policies(prepared: &Prepared, reader: &Reader, report: &mut Report) {
    let loaded = &prepared.loaded;
    let used: BTreeSet<&SecretName> = prepared.uses.values().flatten().collect();
    for (name, store) in &reader.stores {
        let secrets = loaded.config.secrets.values();
        let mine = secrets.filter(|secret| secret.store == *name && used.contains(&secret.name));
        let locators: Vec<&Locator> = mine.map(|secret| &secret.locator).collect();
        if locators.is_empty() {
            continue;
        }
        let key = format!("stores.{name}");
        match store.access(&locators).await {
            Ok(None) => {}
            Ok(Some(access)) => {
                if !access.allowed.is_empty() {
                    report.allowed.insert(name.to_string(), access.allowed);
                }
                for lacking in &access.lacking {
                    report.warning(loaded.fault(&key, format!("{key}: policy does not allow {lacking}"), None));
                }
                let policy = access.policy.trim_end();
                report.policies.insert(name.to_string(), policy.to_owned());
            }
            // Why it cannot be read was told already.
            Err(error) => tracing::debug!(store = %name, "cannot ask for capabilities: {}", mask(&error.message)),
        }
    }
}

async fn prove(
    prepared: &Prepared,
    target: &TargetConfig,
    renderer: &Renderer,
    snapshot: &Snapshot,
    report: &mut Report,
) {
    let loaded = &prepared.loaded;
    let key = format!("targets.{}", target.name);
    let before = report.faults.len();
    if let Err(error) = verify::expect(renderer, snapshot) {
        report.fault(Class::of_verify(&error), loaded.fault(&key, format!("{key}: {error}"), None));
    }
    let rendered = match renderer.render(snapshot) {
        Ok(rendered) => rendered,
        Err(error) => {
            let mut fault = placed(loaded, &error);
            fault.message = mask(&fault.message).into_owned();
            return report.fault(Class::of_render(&error), fault);
        }
    };
    if target.files.iter().any(|file| file.check.is_some()) {
        match Private::write(target, &rendered, prepared.loaded.config.state_key.is_some()) {
            Ok(private) => checks(prepared, target, &private, report).await,
            Err(error) => report.fault(Class::of_file(&error), loaded.fault(&key, format!("{key}: {error}"), None)),
        }
    }
    if report.faults.len() == before {
        report.checked.push(format!("target {}: its files render with the values of now", target.name));
    }
    let asked = renderer.used_secrets().iter().filter(|name| renderer.verify_as_written(name).is_some());
    let asked: Vec<&str> = asked.map(|name| name.as_str()).collect();
    if !asked.is_empty() {
        report.checked.push(format!("target {}: not asked, verify of {}", target.name, asked.join(", ")));
    }
}

async fn checks(prepared: &Prepared, target: &TargetConfig, private: &Private, report: &mut Report) {
    let withhold = prepared.loaded.confidential.auth_variables.clone();
    let inherit = Inherit { withhold, pass: target.pass_env.clone() };
    for (index, (file, path)) in target.files.iter().zip(&private.files).enumerate() {
        let Some(check) = &file.check else { continue };
        if let Err(error) = verify::check_one(check, &file.path, path, &inherit).await {
            let class = Class::of_verify(&error);
            let key = format!("targets.{}.files[{index}].check", target.name);
            // A program that is not there was told already.
            let known = class == Class::Missing || class == Class::Denied;
            if !(known && report.faults.iter().any(|problem| problem.fault.message.starts_with(&key))) {
                report.fault(class, prepared.loaded.fault(&key, format!("{key}: {error}"), None));
            }
        }
    }
}

/// The files of a target in a folder that only this user may enter; gone when dropped.
struct Private {
    /// In the config's order.
    files: Vec<PathBuf>,
    _folder: Scratch,
}

impl Private {
    /// In memory, or, where there is none and what is kept is not sealed either, in the folder for temporary files.
    fn write(target: &TargetConfig, rendered: &Rendered, sealed: bool) -> Result<Self, FileError> {
        let folder = Scratch::make(PREFIX);
        let folder =
            if sealed { folder? } else { folder.or_else(|_| Scratch::make_at(&std::env::temp_dir(), PREFIX))? };
        let mut files = Vec::new();
        for (index, file) in rendered.files.iter().enumerate() {
            // Files of a `directory` lie beside each other as they will there; others each for itself.
            let name = match &target.directory {
                Some(root) => file.path.strip_prefix(root).unwrap_or(&file.path).to_owned(),
                None => Path::new(&index.to_string()).join(file.path.file_name().unwrap_or_default()),
            };
            files.push(folder.write(&name, file.bytes.expose())?);
        }
        Ok(Self { files, _folder: folder })
    }
}
