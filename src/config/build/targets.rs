//! `targets`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Builder;
use crate::config::decode::{At, Slot};
use crate::config::fault::shown_key;
use crate::config::model::{Listen, ReloadConfig, Settle, TargetConfig, TargetName};
use crate::config::raw::RawConfig;
use crate::config::raw::process::RawReload;
use crate::config::raw::targets::{RawSettle, RawTarget};

const SETTLE_MIN: Duration = Duration::from_millis(500);
const SETTLE_MAX: Duration = Duration::from_secs(5);

impl Builder<'_> {
    pub(super) fn targets(&mut self, raw: &RawConfig) -> BTreeMap<TargetName, Arc<TargetConfig>> {
        let targets = &raw.targets.0;
        if targets.is_empty() && !self.d.partial(raw.targets.place) {
            self.d.fault(raw.targets.place, "targets: there is none, so there is nothing to do");
        }
        if self.inputs.command.is_some() && targets.len() > 1 {
            self.d.fault(raw.targets.place, "targets: `agent run -- CMD` takes a config with exactly one target");
        }
        let mut built = BTreeMap::new();
        let mut listen = BTreeMap::new();
        for (name, target) in targets {
            self.target_name(name);
            if let Some(target) = target {
                let target = self.target(name, target);
                for address in listened(&target.reload) {
                    if let Some(other) = listen.insert(address.clone(), shown_key(name)) {
                        let message =
                            format!("targets.{}.reload.listen: a socket of target {other} too", shown_key(name));
                        self.d.fault_hint(name.place, message, "one target serves a socket".to_owned());
                    }
                }
                built.insert(target.name.clone(), Arc::new(target));
            }
        }
        built
    }

    fn target_name(&mut self, name: &At<String>) {
        self.name(
            "target",
            name,
            |c| c.is_ascii_alphanumeric() || "-_".contains(c),
            |c| c.is_ascii_alphanumeric() || "-_.".contains(c),
            "it is letters, digits, '-', '_' and '.', not beginning with '.': it names a folder of state_dir",
        );
    }

    fn target(&mut self, name: &At<String>, raw: &At<RawTarget>) -> TargetConfig {
        let at = format!("targets.{}", shown_key(name));
        let directory = self.maybe_path(&raw.directory);
        let files = raw.files.get().map(Vec::as_slice).unwrap_or_default();
        let files = files.iter().enumerate().filter_map(|(index, file)| {
            let at = format!("{at}.files[{index}]");
            self.file(file, raw.directory.get().and(directory.as_deref()), &at)
        });
        let files: Vec<_> = files.collect();
        let reload = self.reload(&raw.reload, raw.place, &at);
        let env = matches!(&reload, ReloadConfig::Exec(exec) if !exec.env.is_empty());
        let broken = (raw.reload.given() && raw.reload.get().is_none())
            || (raw.files.given() && raw.files.get().is_none())
            || self.d.partial(raw.files.place());
        if raw.files.get().is_none_or(Vec::is_empty) && !env && !broken {
            let hint = "give it files, or reload.env with type exec".to_owned();
            self.d.fault_hint(
                name.place,
                format!("{at} writes no file and gives no variable: nothing to rotate"),
                hint,
            );
        }
        if raw.directory.given() && raw.files.get().is_none_or(Vec::is_empty) && !broken {
            self.d.fault(raw.directory.place(), format!("{at}.directory: there are no files to put in it"));
        }
        self.traps(&files, &reload, raw.reload.place(), &at);
        let health = self.health(raw, &at);
        TargetConfig {
            name: Arc::from(name.as_str()),
            files,
            directory,
            health,
            reload,
            on_unhealthy: *raw.on_unhealthy,
            require_running: *raw.require_running,
            settle: self.settle(&raw.settle, &at),
            splay: raw.splay.0,
            keep: usize::try_from(raw.keep.0).unwrap_or(usize::MAX),
            pass_env: self.pass_env(raw, &at),
        }
    }

    fn settle(&mut self, slot: &Slot<RawSettle>, at: &str) -> Settle {
        let min = slot.get().and_then(|settle| settle.min.get()).map(|span| span.0);
        let max = slot.get().and_then(|settle| settle.max.get()).map(|span| span.0);
        let settle = Settle {
            min: min.unwrap_or_else(|| SETTLE_MIN.min(max.unwrap_or(SETTLE_MIN))),
            max: max.unwrap_or_else(|| SETTLE_MAX.max(min.unwrap_or(SETTLE_MAX))),
        };
        if settle.min > settle.max {
            self.d.fault(slot.place(), format!("{at}.settle: min is longer than max"));
        }
        settle
    }

    fn pass_env(&mut self, raw: &RawTarget, at: &str) -> Vec<String> {
        let names = raw.pass_env.get().map(Vec::as_slice).unwrap_or_default();
        for name in names.iter().filter(|name| name.0.is_empty() || name.0.contains('=')) {
            let hint = "names alone, without '=' and value".to_owned();
            self.d.fault_hint(name.place, format!("{at}.pass_env: not the name of a variable"), hint);
        }
        names.iter().map(|name| name.0.clone()).collect()
    }

    /// Whether a target's process is swapped by handover.
    pub(super) fn hands_over(raw: &RawTarget) -> bool {
        use crate::config::model::OnChange;
        matches!(raw.reload.get(), Some(RawReload::Exec(exec)) if *exec.on_change == OnChange::Handover)
    }
}

fn listened(reload: &ReloadConfig) -> &[Listen] {
    match reload {
        ReloadConfig::Exec(exec) => &exec.listen,
        _ => &[],
    }
}
