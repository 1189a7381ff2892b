//! The stores, and what the templates make of the real values. In memory, but for what `check` commands are given.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Mode;

use super::Report;
use crate::agent::once::unreadable;
use crate::agent::prepare::{Prepared, placed};
use crate::agent::problem::Class;
use crate::agent::readings::Reader;
use crate::config::model::TargetConfig;
use crate::digest::Key;
use crate::durable::{self, Attributes, Dir, FileError};
use crate::process::Inherit;
use crate::render::{Rendered, Renderer};
use crate::secret::Snapshot;
use crate::state_dir::Keeping;
use crate::telemetry::mask::mask;
use crate::verify;
use crate::watch::{self, Once};

/// Reads every secret in use once, and proves what can be rendered.
pub(super) async fn read(prepared: &Prepared, key: &Key, report: &mut Report) {
    let config = &prepared.loaded.config;
    let stores = watch::build(config, key);
    // Without the key of state_dir nothing is known of what is held; then a lease that is made here is ended here.
    let keeping = Keeping::look(&config.state_dir, config.state_key.as_deref()).unwrap_or(Keeping::Nothing);
    let reader = Reader::new(config, stores, &prepared.uses, keeping, false);
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
    reader.finish().await;
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
        match Private::write(target, &rendered) {
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
    folder: PathBuf,
    /// In the config's order.
    files: Vec<PathBuf>,
}

impl Private {
    fn write(target: &TargetConfig, rendered: &Rendered) -> Result<Self, FileError> {
        let temp = std::env::temp_dir();
        let folder = temp.join(format!("leasehold-check-{}", durable::unguessable(&temp)?));
        make(&folder)?;
        let mut private = Self { folder, files: Vec::new() };
        for (index, file) in rendered.files.iter().enumerate() {
            // Files of a `directory` lie beside each other as they will there; others each for itself.
            let place = match &target.directory {
                Some(root) => private.folder.join(file.path.strip_prefix(root).unwrap_or(&file.path)),
                None => private.folder.join(index.to_string()).join(file.path.file_name().unwrap_or_default()),
            };
            if !place.starts_with(&private.folder) {
                return Err(FileError::refused(
                    "check",
                    &file.path,
                    "it is not inside the target's directory",
                    "move it",
                ));
            }
            let (parent, name) = durable::split(&place)?;
            std::fs::create_dir_all(parent).map_err(|error| FileError::io("create", parent, &error))?;
            durable::write_new(
                &Dir::open(parent)?,
                name,
                &place,
                file.bytes.expose(),
                Attributes::private(),
                "check.file",
            )?;
            private.files.push(place);
        }
        Ok(private)
    }
}

fn make(folder: &Path) -> Result<(), FileError> {
    rustix::fs::mkdir(folder, Mode::RWXU).map_err(|errno| FileError::os("create", folder, errno))
}

impl Drop for Private {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!(path = %self.folder.display(), "cannot remove it, and it holds secrets: {error}");
        }
    }
}
