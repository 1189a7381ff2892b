//! From a target's config to the units that it renders.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::context::is_uri;
use super::engine::{Builder, Engine};
use super::envfile;
use super::error::{RenderError, RenderErrorKind as Kind};
use super::request::Request;
use super::resolve::{Resolve, references};
use super::sources::Sources;
use super::unit::{Body, Unit};
use super::uses::UsedBy;
use crate::config::model::{
    FileConfig, Format, HealthCheck, ReloadConfig, SecretConfig, Source, Structure, TargetConfig,
};
use crate::secret::SecretName;

type Secrets = BTreeMap<SecretName, SecretConfig>;

fn unit(builder: &Builder<'_>, by: UsedBy, label: &str, body: Body) -> Unit {
    let mut needs = builder.needs(&body.texts());
    if let Body::Resolve(resolve) = &body {
        needs.secrets.extend(resolve.references.iter().map(|r| SecretName::new(r.uri.as_str())));
    }
    Unit { by, label: Arc::from(label), body, format: Format::Text, structure: Structure::Free, needs }
}

pub(super) fn file_unit(
    builder: &mut Builder<'_>,
    sources: &Sources,
    secrets: &Secrets,
    label: &str,
    file: &FileConfig,
) -> Option<Unit> {
    let body = match &file.source {
        Source::Template(path) => Body::Template(builder.file(path)),
        Source::Inline(text) => Body::Template(builder.text(&format!("{label}.inline"), text)),
        Source::Env(values) => {
            check_names(builder, label, file.format, values);
            let text =
                |(name, text): &(String, String)| (name.clone(), builder.text(&format!("{label}.env.{name}"), text));
            Body::Env(values.iter().map(text).collect())
        }
        Source::Resolve(path) => {
            let name = path.display().to_string();
            let Some(text) = sources.get(path) else {
                let message = "the file cannot be read, or is not there";
                builder.errors.push(RenderError::whole(Kind::MissingTemplate, &Arc::from(name), message));
                return None;
            };
            let schemes: BTreeSet<&str> =
                secrets.keys().filter_map(|n| Some(n.as_str().split_once("://")?.0)).collect();
            let schemes: Vec<&str> = schemes.into_iter().collect();
            match references(&name, text, file.format, &schemes) {
                Ok(references) => {
                    check_declared(builder, &name, secrets, &references);
                    Body::Resolve(Resolve {
                        file: Arc::from(name),
                        text: text.to_string(),
                        format: file.format,
                        references,
                    })
                }
                Err(error) => {
                    builder.errors.push(error);
                    return None;
                }
            }
        }
    };
    let path = file.path.display().to_string();
    let mut unit = unit(builder, UsedBy::File(file.path.clone()), &path, body);
    (unit.format, unit.structure) = (file.format, file.structure);
    Some(unit)
}

fn check_declared(builder: &mut Builder<'_>, file: &str, secrets: &Secrets, found: &[super::Reference]) {
    for reference in found.iter().filter(|r| !secrets.contains_key(&SecretName::new(r.uri.as_str()))) {
        let message = format!("`{}` is not declared", reference.uri);
        let at = (reference.line, reference.column);
        builder.errors.push(RenderError::new(Kind::Undeclared, &Arc::from(file), at, message));
    }
}

/// Names that the reader of `format` would not take, and a format that is none for `env`.
fn check_names(builder: &mut Builder<'_>, label: &str, format: Format, values: &[(String, String)]) {
    let label: Arc<str> = Arc::from(format!("{label}.env"));
    if format == Format::Text {
        let message =
            "`env` needs a `format` that names its reader: systemd-env, docker-env, dotenv, shell, yaml, json or toml";
        builder.errors.push(RenderError::whole(Kind::Parse, &label, message));
    }
    let strict = matches!(format, Format::SystemdEnv | Format::Shell);
    let loose = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    };
    for (name, _) in values {
        if !(if strict { envfile::is_name(name) } else { loose(name) }) {
            let message = format!("`{}` is no name of a variable", name.escape_debug());
            builder.errors.push(RenderError::whole(Kind::Parse, &label, message));
        }
    }
}

pub(super) fn other_units(builder: &mut Builder<'_>, target: &TargetConfig) -> Vec<Unit> {
    let mut units = Vec::new();
    if let ReloadConfig::Exec(exec) = &target.reload {
        for (name, text) in &exec.env {
            let label = format!("targets.{}.reload.env.{name}", target.name);
            let body = Body::Value(builder.text(&label, text));
            units.push(unit(builder, UsedBy::Env(name.clone()), &label, body));
        }
    }
    if let HealthCheck::Http(request) = &target.health.check {
        let label = format!("targets.{}.health", target.name);
        let body = Body::Request(Box::new(Request::new(builder, &label, request)));
        units.push(unit(builder, UsedBy::Health, &label, body));
    }
    units
}

/// Adds the `verify` requests of every secret in use, and of those that these requests use.
pub(super) fn with_verify(
    mut builder: Builder<'_>,
    secrets: &Secrets,
    units: &[Unit],
) -> (Engine, Vec<(SecretName, Unit)>, Vec<RenderError>) {
    let mut verify: Vec<(SecretName, Unit)> = Vec::new();
    let mut todo = used(secrets, units.iter());
    let mut seen: BTreeSet<SecretName> = todo.iter().cloned().collect();
    while let Some(name) = todo.pop() {
        let Some(request) = secrets.get(&name).and_then(|secret| secret.verify.as_ref()) else { continue };
        let label = format!("secrets.{name}.verify.http");
        let body = Body::Request(Box::new(Request::new(&mut builder, &label, request)));
        let unit = unit(&builder, UsedBy::Verify(name.clone()), &label, body);
        todo.extend(used(secrets, std::iter::once(&unit)).into_iter().filter(|n| seen.insert(n.clone())));
        verify.push((name, unit));
    }
    verify.sort_by(|a, b| a.0.cmp(&b.0));
    let (engine, errors) = builder.finish();
    (engine, verify, errors)
}

pub(super) fn used<'u>(secrets: &Secrets, units: impl Iterator<Item = &'u Unit>) -> Vec<SecretName> {
    let mut out: BTreeSet<SecretName> = BTreeSet::new();
    for needs in units.map(|unit| &unit.needs) {
        out.extend(needs.secrets.iter().cloned());
        if needs.all {
            out.extend(secrets.keys().filter(|name| !is_uri(name)).cloned());
        }
    }
    out.into_iter().collect()
}
