//! Every template rendered with placeholders, with no store at hand: `agent check --offline`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::context::View;
use super::engine::Engine;
use super::error::{RenderError, RenderErrorKind as Kind};
use super::unit::{Body, Unit};
use super::value::{NUMBER, PLACEHOLDER};
use crate::secret::{Field, Fields, Reading, SecretName, Snapshot, Version};

/// What is known of the secrets' fields from their uses.
struct Shapes {
    fields: BTreeMap<SecretName, Fields>,
    /// Secrets used as a whole (`{% set db = secrets.db %}`): any field may be meant.
    open: BTreeSet<SecretName>,
    /// Keys of `meta.NAME.custom` that are used.
    custom: BTreeMap<SecretName, BTreeMap<String, String>>,
}

/// The faults that templates have whatever the secrets' values are: none that only a placeholder causes.
pub(super) fn faults(engine: &Engine, units: &[&Unit], view: &View<'_>) -> Vec<RenderError> {
    let mut out: Vec<RenderError> = Vec::new();
    for unit in units {
        let open = |shapes: &Shapes| unit.needs.all || unit.needs.secrets.iter().any(|n| shapes.open.contains(n));
        for overlap in [false, true] {
            let tries = [Field::text(PLACEHOLDER), Field::Number(NUMBER.into())].map(|field| {
                let shapes = shapes(engine, units, &field);
                let snapshot = snapshot(&shapes, view.used, overlap);
                let error = unit.render(engine, &View { snapshot: &snapshot, ..*view }).err();
                error.filter(|e| !(open(&shapes) && matches!(e.kind, Kind::MissingField | Kind::MissingSecret)))
            });
            if let [Some(error), Some(_)] = tries
                && !matches!(error.kind, Kind::Thrown | Kind::Structure)
                && !out.contains(&error)
            {
                out.push(error);
            }
        }
    }
    out
}

fn shapes(engine: &Engine, units: &[&Unit], field: &Field) -> Shapes {
    let mut shapes = Shapes { fields: BTreeMap::new(), open: BTreeSet::new(), custom: BTreeMap::new() };
    for unit in units {
        for at in unit.body.texts().into_iter().flat_map(|text| engine.chains(text)) {
            let path = &at.chain.path;
            if let [root, name, part, key, ..] = path.as_slice()
                && (root.as_str(), part.as_str()) == ("meta", "custom")
            {
                let custom = shapes.custom.entry(SecretName::new(name.as_str())).or_default();
                custom.insert(key.clone(), PLACEHOLDER.to_string());
            }
            let (Some(name), "secrets" | "previous") = (path.get(1), path[0].as_str()) else { continue };
            let name = SecretName::new(name.as_str());
            match path.len() {
                2 => drop(shapes.open.insert(name)),
                _ => plant(shapes.fields.entry(name).or_default(), &path[2..], field),
            }
        }
        if let Body::Resolve(resolve) = &unit.body {
            for reference in &resolve.references {
                let fields = shapes.fields.entry(SecretName::new(reference.uri.as_str())).or_default();
                plant(fields, &[reference.field.clone().unwrap_or_else(|| "raw".to_string())], field);
            }
        }
    }
    shapes
}

fn plant(fields: &mut Fields, path: &[String], field: &Field) {
    let [first, rest @ ..] = path else { return };
    if rest.is_empty() {
        fields.entry(first.clone()).or_insert_with(|| field.clone());
        return;
    }
    let inner = fields.entry(first.clone()).or_insert_with(|| Field::Map(Fields::new()));
    if !matches!(inner, Field::Map(_)) {
        *inner = Field::Map(Fields::new());
    }
    if let Field::Map(map) = inner {
        plant(map, rest, field);
    }
}

fn snapshot(shapes: &Shapes, used: &[SecretName], overlap: bool) -> Snapshot {
    let reading = |name: &SecretName| {
        let fields = shapes.fields.get(name).cloned().unwrap_or_default();
        Arc::new(Reading {
            created_at: Some(Timestamp::UNIX_EPOCH),
            expires_at: Some(Timestamp::UNIX_EPOCH),
            custom: shapes.custom.get(name).cloned().unwrap_or_default(),
            ..Reading::new(fields, Version("1".to_string()))
        })
    };
    let all = || used.iter().map(|name| (name.clone(), reading(name)));
    Snapshot { secrets: all().collect(), previous: if overlap { all().collect() } else { BTreeMap::new() } }
}
