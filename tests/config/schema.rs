//! The JSON Schema against the golden files and the examples.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use leasehold::config::schema;
use serde_json::Value;

use super::golden;

/// YAML as an editor reads it: through another path than the config's own.
fn value(path: &Path) -> Option<Value> {
    let options = serde_yaml::options! { with_snippet: false };
    serde_yaml::from_slice_with_options(&std::fs::read(path).ok()?, options).ok()
}

#[test]
fn the_schema_accepts_every_good_config_and_every_example() {
    let schema = schema();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = golden("good");
    files.extend(examples(&root.join("examples")));
    for file in files {
        let mut faults = Vec::new();
        validate(&schema, &value(&file).unwrap(), "", &mut faults);
        assert!(faults.is_empty(), "{}: {faults:?}", file.display());
    }
}

/// The configs under a folder: YAML files with a state_dir.
fn examples(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut found = Vec::new();
    for path in entries {
        if path.is_dir() {
            found.extend(examples(&path));
        } else if value(&path).is_some_and(|value| value.get("state_dir").is_some()) {
            found.push(path);
        }
    }
    found
}

#[test]
fn the_schema_refuses_what_is_wrong_with_a_single_key() {
    let schema = schema();
    let mut refused = 0;
    for file in golden("bad") {
        let told = std::fs::read_to_string(file.with_extension("stderr")).unwrap();
        let single = [
            "unknown key",
            ": expected",
            "no duration",
            "no mode",
            "unknown type",
            "unknown value",
            "missing key 'type'",
        ];
        let Some(value) = value(&file).filter(|_| single.iter().any(|text| told.contains(text))) else { continue };
        let mut faults = Vec::new();
        validate(&schema, &value, "", &mut faults);
        assert!(!faults.is_empty(), "the schema accepts {}", file.display());
        refused += 1;
    }
    assert!(refused >= 15, "{refused}");
}

/// The keywords that the schema uses. Any other is a panic, so that none is skipped.
fn validate(schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    let object = schema.as_object().unwrap();
    let passes = |schema: &Value| {
        let mut faults = Vec::new();
        validate(schema, value, at, &mut faults);
        faults.is_empty()
    };
    for (keyword, rule) in object {
        let sound = match keyword.as_str() {
            "$schema" | "title" | "description" | "default" => true,
            "type" => match rule {
                Value::Array(kinds) => kinds.iter().any(|kind| is_a(value, kind.as_str().unwrap())),
                kind => is_a(value, kind.as_str().unwrap()),
            },
            "const" => value == rule,
            "enum" => rule.as_array().unwrap().contains(value),
            "anyOf" => rule.as_array().unwrap().iter().any(passes),
            "oneOf" => rule.as_array().unwrap().iter().filter(|schema| passes(schema)).count() == 1,
            "pattern" => {
                value.as_str().is_none_or(|text| regex_lite::Regex::new(rule.as_str().unwrap()).unwrap().is_match(text))
            }
            "minimum" => value.as_u64().is_none_or(|number| number >= rule.as_u64().unwrap()),
            "maximum" => value.as_u64().is_none_or(|number| number <= rule.as_u64().unwrap()),
            "minLength" => value.as_str().is_none_or(|text| text.len() as u64 >= rule.as_u64().unwrap()),
            "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= rule.as_u64().unwrap()),
            "required" => value
                .as_object()
                .is_none_or(|map| rule.as_array().unwrap().iter().all(|key| map.contains_key(key.as_str().unwrap()))),
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    validate(rule, item, &format!("{at}[{index}]"), faults);
                }
                true
            }
            "properties" => {
                for (key, rule) in rule.as_object().unwrap() {
                    if let Some(value) = value.get(key) {
                        validate(rule, value, &format!("{at}.{key}"), faults);
                    }
                }
                true
            }
            "additionalProperties" => {
                let known = object.get("properties").and_then(Value::as_object);
                let others = value.as_object().into_iter().flatten();
                for (key, value) in others.filter(|(key, _)| known.is_none_or(|known| !known.contains_key(*key))) {
                    match rule {
                        Value::Bool(false) => faults.push(format!("{at}: unknown key {key}")),
                        rule => validate(rule, value, &format!("{at}.{key}"), faults),
                    }
                }
                true
            }
            other => panic!("the test's validator does not know {other}"),
        };
        if !sound {
            faults.push(format!("{at}: {keyword}"));
        }
    }
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        other => panic!("the test's validator does not know the type {other}"),
    }
}

#[test]
fn every_key_of_the_schema_stands_in_a_good_config() {
    let mut used = BTreeSet::new();
    for file in golden("good") {
        walk(&schema(), &value(&file).unwrap(), "", &mut used);
    }
    let mut all = BTreeSet::new();
    known(&schema(), "", &mut all);
    let missing: Vec<_> = all.difference(&used).collect();
    assert!(missing.is_empty(), "no good config has {missing:#?}");
}

fn known(schema: &Value, at: &str, out: &mut BTreeSet<String>) {
    for kind in schema.get("oneOf").and_then(Value::as_array).into_iter().flatten() {
        known(kind, &format!("{at}({})", kind["properties"]["type"]["const"]), out);
    }
    for (key, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        out.insert(format!("{at}.{key}"));
        known(schema, &format!("{at}.{key}"), out);
    }
    for rule in ["items", "additionalProperties"] {
        if let Some(schema) = schema.get(rule).filter(|schema| schema.is_object()) {
            known(schema, &format!("{at}[]"), out);
        }
    }
}

fn walk(schema: &Value, value: &Value, at: &str, out: &mut BTreeSet<String>) {
    for kind in schema.get("oneOf").and_then(Value::as_array).into_iter().flatten() {
        let name = &kind["properties"]["type"]["const"];
        if value["type"] == *name {
            walk(kind, value, &format!("{at}({name})"), out);
        }
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    for (key, schema) in properties.into_iter().flatten() {
        if let Some(value) = value.get(key) {
            out.insert(format!("{at}.{key}"));
            walk(schema, value, &format!("{at}.{key}"), out);
        }
    }
    if let Some(schema) = schema.get("items") {
        value.as_array().into_iter().flatten().for_each(|item| walk(schema, item, &format!("{at}[]"), out));
    }
    if let Some(schema) = schema.get("additionalProperties").filter(|schema| schema.is_object()) {
        value.as_object().into_iter().flatten().for_each(|(_, item)| walk(schema, item, &format!("{at}[]"), out));
    }
}
