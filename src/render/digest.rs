//! What an output and its verification hang on, as one keyed digest: the name of what is quarantined.

use std::collections::BTreeMap;

use super::engine::Engine;
use crate::config::model::{
    ExecReload, FileConfig, HealthCheck, HttpRequest, ReloadConfig, SecretConfig, Source, TargetConfig,
};
use crate::digest::{Digest, Key};
use crate::secret::SecretName;

struct Parts(Digest);

impl Parts {
    fn add(self, part: impl AsRef<[u8]>) -> Self {
        Self(self.0.part(part.as_ref()))
    }

    fn debug(self, part: impl std::fmt::Debug) -> Self {
        self.add(format!("{part:?}"))
    }

    fn pairs(self, pairs: &[(String, String)]) -> Self {
        pairs.iter().fold(self.debug(pairs.len()), |d, (name, value)| d.add(name).add(value))
    }

    fn file(self, file: &FileConfig) -> Self {
        let source = match &file.source {
            Source::Template(path) | Source::Resolve(path) => self.debug(path),
            Source::Inline(text) => self.add(text),
            Source::Env(values) => self.pairs(values),
        };
        source.debug((&file.path, file.format, file.mode, file.uid, file.gid)).debug((
            file.follow_symlinks,
            file.structure,
            &file.check,
        ))
    }

    fn request(self, request: &HttpRequest) -> Self {
        self.add(&request.url).add(&request.method).pairs(&request.headers).debug((
            &request.body,
            &request.status,
            &request.body_contains,
            &request.json,
            &request.ca_cert,
            request.timeout,
        ))
    }

    fn reload(self, reload: &ReloadConfig) -> Self {
        match reload {
            ReloadConfig::None => self.add("none"),
            ReloadConfig::Signal(signal) => self.debug(signal),
            ReloadConfig::Systemd(systemd) => self.debug(systemd),
            ReloadConfig::Command(command) => self.debug(command),
            ReloadConfig::Exec(exec) => self.exec(exec),
        }
    }

    fn exec(self, exec: &ExecReload) -> Self {
        self.pairs(&exec.env).debug((&exec.command, exec.on_change, &exec.listen, &exec.user, exec.gid, &exec.cwd))
    }
}

/// One rendered request for one version: what is asked, and what must be answered.
pub(super) fn request(key: &Key, version: &str, request: &HttpRequest) -> String {
    let mut parts =
        Parts(key.digest("verify request")).add(version).add(&request.url).add(&request.method).pairs(&request.headers);
    // Nothing that is rendered goes through Debug: that would leave copies of it behind.
    parts = parts.debug(request.body.is_some()).add(request.body.as_deref().unwrap_or_default());
    parts = parts.debug((&request.status, request.json.len()));
    for (pointer, value) in &request.json {
        parts = parts.add(pointer).debug(value.is_string());
        parts = match value.as_str() {
            Some(text) => parts.add(text),
            None => parts.add(value.to_string()),
        };
    }
    parts.debug((&request.body_contains, &request.ca_cert)).0.hex(16)
}

/// The part that the snapshot does not change: templates, the target's config, the secrets' checks, `env`.
pub(super) fn fixed(
    key: &Key,
    target: &TargetConfig,
    secrets: &BTreeMap<SecretName, SecretConfig>,
    engine: &Engine,
    resolved: &[(&str, &str)],
    env: &BTreeMap<String, String>,
) -> String {
    let mut parts = Parts(key.digest("inputs of a target")).debug(&target.directory).reload(&target.reload);
    parts = target.files.iter().fold(parts, Parts::file);
    let health = &target.health;
    parts = parts.debug((health.interval, health.timeout, health.within, health.successes, target.on_unhealthy));
    parts = match &health.check {
        HealthCheck::None => parts.add("none"),
        HealthCheck::Http(request) => parts.request(request),
        HealthCheck::Tcp(address) => parts.add("tcp").add(address),
        HealthCheck::Command(command) => parts.add("command").debug(command),
        HealthCheck::Systemd(unit) => parts.add("systemd").add(unit),
    };
    for (name, text) in engine.sources().chain(resolved.iter().copied()) {
        parts = parts.add(name).add(text);
    }
    for (name, secret) in secrets {
        parts = parts.add(name.as_str()).add(&*secret.store).debug(&secret.locator);
        parts = secret.expect.iter().fold(parts, |p, (field, pattern)| p.add(field).add(pattern.as_str()));
        parts = secret.verify.iter().fold(parts, Parts::request);
    }
    env.iter().fold(parts, |p, (name, value)| p.add(name).add(value)).0.hex(16)
}
