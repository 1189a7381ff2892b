//! A target's templates, compiled, and what they become for each snapshot.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tera::Value;

use super::build::{file_unit, other_units, used, with_verify};
use super::context::View;
use super::engine::{Builder, Engine};
use super::error::{RenderError, RenderErrorKind as Kind};
use super::resolve::lookup;
use super::sources::Sources;
use super::unit::{Body, Output, Unit};
use super::uses::{Use, UsedBy, undeclared, uses};
use super::{Rendered, RenderedFile, digest, offline};
use crate::config::model::{FileConfig, HttpRequest, SecretConfig, TargetConfig};
use crate::digest::Key;
use crate::secret::{SecretName, Snapshot, Version};

type Secrets = BTreeMap<SecretName, SecretConfig>;

/// A target's templates, compiled. Renders nothing twice: what a change of a secret does not touch keeps its bytes.
///
/// It reads no file and knows no clock. It does not publish, and it does not ask the requests it renders.
pub struct Renderer {
    target: Arc<TargetConfig>,
    /// The secrets in use, in order.
    used: Vec<SecretName>,
    /// `expect` of the secrets in use.
    secrets: Secrets,
    key: Key,
    env: Value,
    engine: Engine,
    /// Files in the config's order, then variables of the supervised process, then the health request.
    units: Vec<Unit>,
    verify: Vec<(SecretName, Unit)>,
    by_secret: BTreeMap<SecretName, Vec<usize>>,
    /// Units that could use any secret.
    dynamic: Vec<usize>,
    fixed: String,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    /// Parallel to `used`.
    stamps: Vec<Stamp>,
    outputs: Vec<Option<Output>>,
    /// How many units were rendered so far.
    renders: usize,
}

/// What of a secret a render hangs on.
#[derive(Clone, Default, PartialEq, Eq)]
struct Stamp {
    now: Option<Version>,
    before: Option<Version>,
    times: [Option<jiff::Timestamp>; 2],
    custom: BTreeMap<String, String>,
}

impl Renderer {
    /// Compiles everything that a target renders. `secrets` are the config's; `env` holds the values of the variables
    /// under `pass_env` that are set; `sources` must lack nothing ([`Sources::missing`]).
    ///
    /// # Errors
    /// Every fault found: syntax, unknown names, secrets that are not declared, files that are not there.
    pub fn new(
        target: &Arc<TargetConfig>,
        secrets: &Secrets,
        sources: &Sources,
        key: &Key,
        env: &BTreeMap<String, String>,
    ) -> Result<Self, Vec<RenderError>> {
        let mut builder = Builder::new(sources);
        let mut units = Vec::new();
        for (i, file) in target.files.iter().enumerate() {
            let label = format!("targets.{}.files[{i}]", target.name);
            units.extend(file_unit(&mut builder, sources, secrets, &label, file));
        }
        units.extend(other_units(&mut builder, target));
        let (engine, verify, mut errors) = with_verify(builder, secrets, &units);
        let texts: Vec<_> =
            units.iter().chain(verify.iter().map(|(_, unit)| unit)).flat_map(|u| u.body.texts()).collect();
        errors.extend(undeclared(&engine, &texts, secrets, &target.pass_env));
        if !errors.is_empty() {
            return Err(errors);
        }
        let used = used(secrets, units.iter().chain(verify.iter().map(|(_, unit)| unit)));
        let secrets: Secrets = used.iter().filter_map(|n| Some((n.clone(), secrets.get(n)?.clone()))).collect();
        let env: BTreeMap<String, String> =
            env.iter().filter(|(n, _)| target.pass_env.contains(n)).map(|(n, v)| (n.clone(), v.clone())).collect();
        let resolved: Vec<_> = units
            .iter()
            .filter_map(|unit| if let Body::Resolve(r) = &unit.body { Some((&*r.file, r.text.as_str())) } else { None })
            .collect();
        let fixed = digest::fixed(key, target, &secrets, &engine, &resolved, &env);
        let mut by_secret: BTreeMap<SecretName, Vec<usize>> = BTreeMap::new();
        for (i, unit) in units.iter().enumerate() {
            unit.needs.secrets.iter().for_each(|name| by_secret.entry(name.clone()).or_default().push(i));
        }
        let dynamic = units.iter().enumerate().filter(|(_, unit)| unit.needs.all).map(|(i, _)| i).collect();
        let cache = Cache { stamps: vec![Stamp::default(); used.len()], outputs: vec![None; units.len()], renders: 0 };
        let (target, key, cache) = (Arc::clone(target), key.clone(), Mutex::new(cache));
        let env = Value::from(env.into_iter().collect::<BTreeMap<_, _>>());
        Ok(Self { target, used, secrets, key, env, engine, units, verify, by_secret, dynamic, fixed, cache })
    }

    /// Every use of a secret, with its place.
    pub fn uses(&self) -> Vec<Use> {
        let mut out: Vec<Use> =
            self.all_units().flat_map(|unit| uses(&self.engine, &unit.by, &unit.body.texts())).collect();
        for unit in &self.units {
            if let Body::Resolve(resolve) = &unit.body {
                out.extend(resolve.references.iter().map(|reference| Use {
                    by: unit.by.clone(),
                    secret: Some(SecretName::new(reference.uri.as_str())),
                    field: reference.field.clone(),
                    file: Arc::clone(&resolve.file),
                    line: reference.line,
                    column: reference.column,
                }));
            }
        }
        out
    }

    /// The secrets whose values can reach an output, a request or a check of this target. Where a template may use any
    /// secret, all that are declared.
    pub fn used_secrets(&self) -> &[SecretName] {
        &self.used
    }

    /// `{{ snapshot }}`: the same for the same versions in use.
    pub fn snapshot_digest(&self, snapshot: &Snapshot) -> String {
        self.key.snapshot(snapshot, self.used.iter())
    }

    /// The name of everything that the output and its verification hang on: versions, templates, config. A quarantined
    /// digest is not tried again until it differs.
    pub fn inputs_digest(&self, snapshot: &Snapshot) -> String {
        let mut digest = self.key.digest("inputs").part(self.fixed.as_bytes());
        for name in &self.used {
            let version =
                |r: Option<&Arc<crate::secret::Reading>>| r.map_or(String::new(), |r| format!("={}", r.version.0));
            let (now, before) = (snapshot.secrets.get(name), snapshot.previous.get(name));
            digest =
                digest.part(name.as_str().as_bytes()).part(version(now).as_bytes()).part(version(before).as_bytes());
        }
        digest.hex(16)
    }

    /// Renders a snapshot. Only what uses a changed secret (or `snapshot`) is rendered again; the rest shares its bytes.
    ///
    /// # Errors
    /// The first fault. Nothing is lost by it: what was rendered is kept for the next call.
    pub fn render(&self, snapshot: &Snapshot) -> Result<Rendered, RenderError> {
        let mut cache = self.lock();
        self.invalidate(&mut cache, snapshot);
        let digest =
            if self.units.iter().any(|u| u.needs.snapshot) { self.snapshot_digest(snapshot) } else { String::new() };
        let view = self.view(snapshot, &digest);
        for (i, unit) in self.units.iter().enumerate() {
            if cache.outputs[i].is_none() {
                cache.renders += 1;
                cache.outputs[i] = Some(unit.render(&self.engine, &view)?);
            }
        }
        Ok(self.assemble(&cache.outputs))
    }

    /// The `verify` requests of the secrets in use, rendered over a snapshot.
    ///
    /// # Errors
    /// The first fault of a template.
    pub fn verify_requests(&self, snapshot: &Snapshot) -> Result<Vec<(SecretName, HttpRequest)>, RenderError> {
        let digest = self.snapshot_digest(snapshot);
        let view = self.view(snapshot, &digest);
        let _one_at_a_time = self.lock();
        let mut out = Vec::with_capacity(self.verify.len());
        for (name, unit) in &self.verify {
            if let Output::Request(request) = unit.render(&self.engine, &view)? {
                out.push((name.clone(), request));
            }
        }
        Ok(out)
    }

    /// Keyed digests of the `verify` requests over a snapshot, by the secret's name; of none, where a template of one has a
    /// fault, which whoever asks them will hear of.
    pub fn verify_digests(&self, snapshot: &Snapshot) -> BTreeMap<String, String> {
        let requests = self.verify_requests(snapshot).unwrap_or_default();
        requests.iter().map(|(name, request)| (name.to_string(), self.verify_digest(snapshot, name, request))).collect()
    }

    /// The keyed digest of one rendered `verify` request, of the answer that it wants, and of the version that it speaks for:
    /// the request may name it nowhere.
    pub fn verify_digest(&self, snapshot: &Snapshot, name: &SecretName, request: &HttpRequest) -> String {
        let version = snapshot.secrets.get(name).map_or("", |reading| reading.version.0.as_str());
        digest::request(&self.key, version, request)
    }

    /// A secret's `verify` request as it stands in the config: what messages may quote.
    pub fn verify_as_written(&self, secret: &SecretName) -> Option<&HttpRequest> {
        self.secrets.get(secret)?.verify.as_ref()
    }

    /// Holds the `expect` patterns of the secrets in use against a snapshot.
    ///
    /// # Errors
    /// The first field that is missing, is not text or does not match; never its value.
    pub fn expect(&self, snapshot: &Snapshot) -> Result<(), RenderError> {
        for (name, secret) in &self.secrets {
            for (field, pattern) in &secret.expect {
                let place: Arc<str> = Arc::from(format!("secrets.{name}.expect.{field}"));
                let fail = |message: String| Err(RenderError::whole(Kind::Expect, &place, message));
                let Some(reading) = snapshot.secrets.get(name) else {
                    return Err(RenderError::whole(
                        Kind::MissingSecret,
                        &place,
                        format!("secret `{name}` has no value"),
                    ));
                };
                let Some(value) = lookup(&reading.fields, field) else {
                    return fail(format!("secret `{name}` has no field `{field}`"));
                };
                match value.as_text().as_ref().and_then(|text| text.expose_str()) {
                    None => return fail(format!("field `{field}` of secret `{name}` is not text")),
                    Some(text) if !pattern.is_match(text) => {
                        return fail(format!(
                            "field `{field}` of secret `{name}` does not match `{}`",
                            pattern.as_str()
                        ));
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Renders every template with placeholders for the fields that it names; gives all faults.
    pub fn check_offline(&self) -> Vec<RenderError> {
        let view = self.view(&EMPTY, "000000000000");
        let _one_at_a_time = self.lock();
        offline::faults(&self.engine, &self.all_units().collect::<Vec<_>>(), &view)
    }

    fn all_units(&self) -> impl Iterator<Item = &Unit> {
        self.units.iter().chain(self.verify.iter().map(|(_, unit)| unit))
    }

    fn view<'s>(&'s self, snapshot: &'s Snapshot, digest: &'s str) -> View<'s> {
        View { snapshot, digest, env: &self.env, used: &self.used }
    }

    fn lock(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the outputs that a snapshot changes. One walk over the secrets in use and the snapshot, side by side.
    fn invalidate(&self, cache: &mut Cache, snapshot: &Snapshot) {
        let Cache { stamps, outputs, .. } = cache;
        let (mut secrets, mut previous) = (snapshot.secrets.iter().peekable(), snapshot.previous.iter().peekable());
        let mut any = false;
        for (name, stamp) in self.used.iter().zip(stamps.iter_mut()) {
            while secrets.next_if(|(n, _)| *n < name).is_some() {}
            while previous.next_if(|(n, _)| *n < name).is_some() {}
            let now = secrets.peek().filter(|(n, _)| *n == name).map(|(_, r)| *r);
            let before = previous.peek().filter(|(n, _)| *n == name).map(|(_, r)| *r);
            let version =
                now.map(|r| &r.version) != stamp.now.as_ref() || before.map(|r| &r.version) != stamp.before.as_ref();
            let times = now.map_or([None, None], |r| [r.created_at, r.expires_at]);
            let custom = now.map(|r| r.custom.clone()).unwrap_or_default();
            if !version && times == stamp.times && custom == stamp.custom {
                continue;
            }
            any |= version;
            let (now, before) = (now.map(|r| r.version.clone()), before.map(|r| r.version.clone()));
            *stamp = Stamp { now, before, times, custom };
            for i in self.by_secret.get(name).into_iter().flatten().chain(&self.dynamic) {
                if version || self.units[*i].needs.meta {
                    outputs[*i] = None;
                }
            }
        }
        for (i, _) in self.units.iter().enumerate().filter(|(_, u)| any && u.needs.snapshot) {
            outputs[i] = None;
        }
    }

    fn assemble(&self, outputs: &[Option<Output>]) -> Rendered {
        let mut rendered =
            Rendered { files: Vec::new(), directory: self.target.directory.clone(), env: Vec::new(), health: None };
        let mut files = self.target.files.iter();
        for (unit, output) in self.units.iter().zip(outputs) {
            match (output, &unit.by) {
                (Some(Output::Bytes(bytes)), _) => {
                    rendered.files.extend(files.next().map(|file| rendered_file(file, bytes)));
                }
                (Some(Output::Text(value)), UsedBy::Env(name)) => rendered.env.push((name.clone(), value.clone())),
                (Some(Output::Request(request)), _) => rendered.health = Some(request.clone()),
                _ => {}
            }
        }
        rendered
    }
}

static EMPTY: Snapshot = Snapshot { secrets: BTreeMap::new(), previous: BTreeMap::new() };

fn rendered_file(file: &FileConfig, bytes: &Arc<crate::secret::SecretBytes>) -> RenderedFile {
    RenderedFile {
        path: file.path.clone(),
        bytes: Arc::clone(bytes),
        mode: file.mode,
        uid: file.uid,
        gid: file.gid,
        follow_symlinks: file.follow_symlinks,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
