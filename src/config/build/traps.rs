//! What is sound, and yet does not do what it looks like: reloads that are known to mislead. Warnings only.
//!
//! What is said of LiteLLM was measured on 1.106 (docs/litellm-run.md, docs/handover.md).

use std::path::Path;

use super::Builder;
use crate::config::fault::Place;
use crate::config::model::{ExecReload, FileConfig, Format, OnChange, ReloadConfig, SystemdVerb};

impl Builder<'_> {
    /// Warns of a target's reload; `place` is that of the reload.
    pub(super) fn traps(&mut self, files: &[FileConfig], reload: &ReloadConfig, place: Place, at: &str) {
        let environment = |file: &FileConfig| matches!(file.format, Format::SystemdEnv | Format::DockerEnv);
        let how = match reload {
            ReloadConfig::Signal(_) => "a signal gives",
            ReloadConfig::Systemd(unit) => match unit.verb {
                SystemdVerb::Reload => "verb: reload gives",
                SystemdVerb::ReloadOrRestart => {
                    "verb: reload-or-restart reloads a unit that has ExecReload=, which gives"
                }
                SystemdVerb::TryReloadOrRestart => {
                    "verb: try-reload-or-restart reloads a unit that has ExecReload=, which gives"
                }
                _ => "",
            },
            _ => "",
        };
        if !how.is_empty() && files.iter().any(environment) {
            let text = "no process another environment: what its env file holds is read at its next start only";
            self.d.warn(place, format!("{at}.reload: {how} {text}; restart it, or keep what rotates in another file"));
        }
        if let ReloadConfig::Exec(exec) = reload {
            self.litellm(exec, place, at);
        }
    }

    fn litellm(&mut self, exec: &ExecReload, place: Place, at: &str) {
        let program = exec.command.first().and_then(|program| Path::new(program).file_name());
        if program.is_none_or(|program| program != "litellm") {
            return;
        }
        let has = |name: &str| exec.command.iter().any(|word| word == name || word.starts_with(&format!("{name}=")));
        let signalled = matches!(exec.on_change, OnChange::Signal(_));
        let text = if has("--run_gunicorn") {
            return;
        } else if exec.on_change == OnChange::Handover || !exec.listen.is_empty() {
            "LiteLLM takes the sockets of listen only with --run_gunicorn"
        } else if signalled && !has("--num_workers") {
            "a signal ends LiteLLM where it is a single process; give it --run_gunicorn, or on_change: restart or handover"
        } else if signalled && !has("--timeout_worker_healthcheck") {
            "LiteLLM's workers take longer to start than their health check allows, so a reload changes nothing; give it \
             --timeout_worker_healthcheck 60"
        } else {
            return;
        };
        self.d.warn(place, format!("{at}.reload: {text}"));
    }
}
