//! What one render sees: only the secrets that it uses.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use tera::{Context, Value};

use super::engine::ChainAt;
use super::error::{RenderError, RenderErrorKind as Kind, did_you_mean};
use super::filters::{FORMAT, format_name};
use super::uses::Needs;
use super::value;
use crate::config::model::Format;
use crate::secret::{Field, Reading, SecretName, Snapshot, Version};

/// The snapshot that is rendered (or one of placeholders), and what is the same for all of a target.
#[derive(Clone, Copy)]
pub(super) struct View<'s> {
    pub snapshot: &'s Snapshot,
    /// `snapshot`, where it is used.
    pub digest: &'s str,
    /// `env`.
    pub env: &'s Value,
    /// Every secret that the target may use.
    pub used: &'s [SecretName],
}

type Readings = BTreeMap<SecretName, Arc<Reading>>;

impl<'s> View<'s> {
    /// The names that `needs` may look up.
    fn names<'n>(&self, needs: &'n Needs) -> Box<dyn Iterator<Item = &'n SecretName> + 'n>
    where
        's: 'n,
    {
        if needs.all { Box::new(self.used.iter().filter(|n| !is_uri(n))) } else { Box::new(needs.secrets.iter()) }
    }

    /// The context of one render.
    pub fn context(&self, needs: &Needs, format: Format) -> Context {
        let fields = |readings: &Readings| {
            let found = self.names(needs).filter_map(|name| Some((name, readings.get(name)?)));
            Value::from(
                found.map(|(n, r)| (n.as_str().to_string(), value::of_fields(&r.fields))).collect::<BTreeMap<_, _>>(),
            )
        };
        let mut context = Context::new();
        context.insert_value("secrets", fields(&self.snapshot.secrets));
        context.insert_value("previous", fields(&self.snapshot.previous));
        let meta = if needs.meta { self.meta(needs) } else { Value::from(BTreeMap::<String, Value>::new()) };
        context.insert_value("meta", meta);
        context.insert_value("snapshot", Value::from(self.digest));
        context.insert_value("env", self.env.clone());
        context.insert_value(FORMAT, Value::from(format_name(format)));
        context
    }

    fn meta(&self, needs: &Needs) -> Value {
        let found = self.names(needs).filter_map(|name| Some((name, self.snapshot.secrets.get(name)?)));
        Value::from(
            found.map(|(name, reading)| (name.as_str().to_string(), meta_of(reading))).collect::<BTreeMap<_, _>>(),
        )
    }

    /// The same snapshot with placeholders for values, as far as `needs` goes.
    pub fn placeholders(&self, needs: &Needs) -> Snapshot {
        let of = |readings: &Readings| {
            let found = self.names(needs).filter_map(|name| Some((name.clone(), readings.get(name)?)));
            found.map(|(name, reading)| (name, Arc::new(placeholder(reading)))).collect()
        };
        Snapshot { secrets: of(&self.snapshot.secrets), previous: of(&self.snapshot.previous) }
    }

    /// Says what is missing where a chain is undefined.
    pub fn missing(&self, at: &ChainAt) -> RenderError {
        let path = &at.chain.path;
        let (kind, message) = match (path[0].as_str(), path.get(1), path.get(2)) {
            ("secrets", Some(name), field) => self.missing_secret(name, field.map(|_| &path[2..])),
            ("previous", Some(name), _) => {
                let message =
                    format!("secret `{name}` has no version before, or not this field: ask with `is defined`");
                (Kind::MissingField, message)
            }
            ("meta", Some(name), Some(field)) if matches!(field.as_str(), "created_at" | "expires_at" | "version") => (
                Kind::MissingField,
                format!("the store gives no `{field}` for secret `{name}`: use `| default(value=…)`"),
            ),
            ("meta", Some(_), Some(field)) => {
                let hint = did_you_mean(field, ["version", "created_at", "expires_at", "custom"].into_iter());
                (Kind::MissingField, format!("`meta` has no `{field}`{hint}"))
            }
            ("env", Some(name), _) => (Kind::Env, format!("environment variable `{name}` is not set")),
            _ => (Kind::MissingField, format!("`{}` is not defined", path.join("."))),
        };
        RenderError::new(kind, &at.file, at.at, message)
    }

    fn missing_secret(&self, name: &str, field: Option<&[String]>) -> (Kind, String) {
        let Some(reading) = self.snapshot.secrets.get(&SecretName::new(name)) else {
            return (Kind::MissingSecret, format!("secret `{name}` has no value"));
        };
        let Some(path) = field else {
            return (
                Kind::MissingField,
                format!("`secrets.{name}` is not defined here: a component sees only its arguments"),
            );
        };
        if super::resolve::lookup(&reading.fields, &path.join(".")).is_some() {
            let message = format!("`secrets.{name}` is not defined here: a component sees only its arguments");
            return (Kind::MissingField, message);
        }
        let (mut fields, mut at) = (&reading.fields, 0);
        while let Some(Field::Map(inner)) = path.get(at).and_then(|name| fields.get(name)) {
            (fields, at) = (inner, at + 1);
        }
        let known: Vec<&str> = fields.keys().map(String::as_str).collect();
        let hint = did_you_mean(path.get(at).map_or("", String::as_str), known.iter().copied());
        let has = if known.is_empty() {
            "it has none".to_string()
        } else {
            let more = if known.len() > 8 { ", …" } else { "" };
            format!("it has {}{more}", known.iter().take(8).map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", "))
        };
        let path = path.join(".");
        (Kind::MissingField, format!("secret `{name}` has no field `{path}`{hint}; {has}"))
    }

    /// `message`, and which fields in use hold a NUL character.
    pub fn nul(&self, needs: &Needs, message: &str) -> String {
        let readings = self.names(needs).filter_map(|name| Some((name, self.snapshot.secrets.get(name)?)));
        let found: Vec<String> = readings
            .flat_map(|(name, reading)| reading.fields.iter().map(move |field| (name, field)))
            .filter(|(_, (_, field))| matches!(field, Field::Text(text) if text.expose().contains(&0)))
            .map(|(name, (field, _))| format!("`{field}` of secret `{name}`"))
            .collect();
        if found.is_empty() { message.to_string() } else { format!("{message}; see field {}", found.join(", ")) }
    }
}

/// Whether a name is a `resolve` reference's: templates cannot reach it.
pub(super) fn is_uri(name: &SecretName) -> bool {
    name.as_str().contains("://")
}

fn meta_of(reading: &Reading) -> Value {
    let mut meta = BTreeMap::from([("version".to_string(), Value::from(reading.version.0.as_str()))]);
    let mut time = |name: &str, at: Option<Timestamp>| {
        if let Some(at) = at {
            meta.insert(name.to_string(), Value::from(at.to_string()));
        }
    };
    time("created_at", reading.created_at);
    time("expires_at", reading.expires_at);
    let custom = reading.custom.iter().map(|(key, text)| (key.clone(), Value::from(text.as_str())));
    meta.insert("custom".to_string(), Value::from(custom.collect::<BTreeMap<_, _>>()));
    Value::from(meta)
}

fn placeholder(reading: &Reading) -> Reading {
    let version = Version(value::placeholder_text(&reading.version.0).to_string());
    Reading {
        created_at: reading.created_at,
        expires_at: reading.expires_at,
        custom: reading.custom.clone(),
        ..Reading::new(value::placeholders(&reading.fields), version)
    }
}
