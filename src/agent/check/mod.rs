//! `agent check`: proves a config without acting.

mod machine;
mod report;
mod values;

use std::path::Path;

use super::prepare::{Prepared, placed, prepare};
use super::problem::{Class, Problem};
use crate::config::model::{Config, SecretConfig, StoreConfig};
use crate::config::{Fault, Place};
use crate::digest::Key;
use crate::state_dir::{self, Keeping, StateDir};

pub use report::Report;

/// Looks for everything that is wrong with a config.
///
/// Always: the config, its templates against the declared secrets, every template rendered over placeholders, and what
/// stands in the way of its files on this machine. Folders, programs, owners and pidfiles that this machine lacks are
/// faults too; with `offline` they are warnings, for the config may be for another machine.
///
/// Unless `offline`: systemd is asked for the units, and every secret in use is read once (a dynamic engine mints by
/// that); the files are rendered in memory with the real values, held against `expect`, and given to their `check`
/// commands as 0600 files in a private folder that is removed afterwards.
///
/// Never: a file is published, a target touched, a `verify` request made, anything written to `state_dir`.
pub async fn check(file: &Path, offline: bool, env: &dyn Fn(&str) -> Option<String>) -> Report {
    let mut report = Report::default();
    let Some(scratch) = scratch_key(file, &mut report) else { return report };
    let prepared = match prepare(file, &[], &scratch, env) {
        Ok(prepared) => prepared,
        Err(faulty) => {
            return Report { faults: faulty.problems, warnings: faulty.warnings, ..Report::default() };
        }
    };
    let key = state_dir(&prepared, offline, &mut report).unwrap_or(scratch);
    let keeping = keeping(&prepared, offline, &mut report);
    report.warnings.splice(0..0, prepared.warnings.iter().cloned());
    templates(&prepared, &mut report);
    machine::look(&prepared, offline, &mut report);
    if !offline {
        machine::units(&prepared, &mut report).await;
        values::read(&prepared, &key, keeping, &mut report).await;
    }
    report
}

fn scratch_key(file: &Path, report: &mut Report) -> Option<Key> {
    let key = state_dir::ephemeral_key();
    if let Err(error) = &key {
        report.fault(Class::of_file(error), Fault::new(&file.into(), Place::default(), error.to_string(), None));
    }
    key.ok()
}

/// Whether an agent could use the state directory. Its key, where it has one.
fn state_dir(prepared: &Prepared, offline: bool, report: &mut Report) -> Option<Key> {
    let path = &prepared.loaded.config.state_dir;
    match StateDir::open_read_only(path) {
        Ok(Some(state)) => return Some(state.key().clone()),
        Ok(None) => {
            let needs = machine::Needs { prepared, offline, key: "state_dir" };
            needs.folder(path, "state_dir", report);
        }
        Err(error) => {
            let fault = prepared.loaded.fault("state_dir", format!("state_dir: {error}"), None);
            if offline { report.warning(fault) } else { report.fault(Class::of_file(&error), fault) }
        }
    }
    None
}

/// How values would be kept in the state directory; warns of what that costs.
fn keeping(prepared: &Prepared, offline: bool, report: &mut Report) -> Keeping {
    let Config { state_dir, state_key, secrets, stores, .. } = &prepared.loaded.config;
    let keeping = match Keeping::look(state_dir, state_key.as_deref()) {
        Ok(keeping) => keeping,
        Err(error) => {
            let fault = prepared.loaded.fault("state_key.file", format!("state_key: {error}"), None);
            if offline {
                report.warning(fault)
            } else {
                report.fault(Class::of_file(&error), fault)
            }
            return Keeping::Nothing;
        }
    };
    // Other stores keep the version before themselves.
    let forgets = |secret: &&SecretConfig| {
        !secret.overlap.is_zero() && matches!(stores.get(&secret.store), Some(StoreConfig::File(_)))
    };
    if !keeping.keeps_values()
        && let Some(secret) = secrets.values().find(forgets)
    {
        let message = "overlap without state_key on a disk: previous does not survive a restart";
        let hint = "give a state_key, or let state_dir be on a tmpfs".to_owned();
        report.warning(prepared.loaded.fault(&format!("secrets.{}.overlap", secret.name), message, Some(hint)));
    }
    keeping
}

/// Every template over placeholders.
fn templates(prepared: &Prepared, report: &mut Report) {
    let config = &prepared.loaded.config;
    report.checked.push(format!(
        "{}: {} secrets, {} targets",
        prepared.loaded.file().display(),
        config.secrets.len(),
        config.targets.len()
    ));
    for (target, renderer) in &prepared.renderers {
        let errors = renderer.check_offline();
        if errors.is_empty() {
            report.checked.push(format!("target {target}: its templates use only what is declared, and render"));
        }
        for error in errors {
            let Problem { class, fault } =
                Problem { class: Class::of_render(&error), fault: placed(&prepared.loaded, &error) };
            report.fault(class, fault);
        }
    }
}
