//! docs/config.md against the schema.

use std::path::Path;

use leasehold::config::schema;
use serde_json::Value;

use super::compare;

/// A table of keys: where it belongs, what it is, and its rows.
struct Section {
    heading: String,
    about: String,
    rows: Vec<[String; 4]>,
}

fn sections(schema: &Value, heading: &str, out: &mut Vec<Section>) {
    if let Some(kinds) = schema.get("oneOf").and_then(Value::as_array) {
        for kind in kinds {
            let name = kind["properties"]["type"]["const"].as_str().unwrap();
            sections(kind, &format!("{heading} (type: {name})"), out);
        }
    } else if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        let required: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let rows = properties.iter().map(|(key, schema)| row(key, schema, required.contains(&key.as_str())));
        let about = schema["description"].as_str().unwrap_or_default().to_owned();
        out.push(Section { heading: heading.to_owned(), about, rows: rows.collect() });
        for (key, schema) in properties {
            let path = if heading == "Top level" { key.clone() } else { format!("{heading}.{key}") };
            sections(schema, &path, out);
        }
    } else if let Some(items) = schema.get("items") {
        sections(items, &format!("{heading}[]"), out);
    } else if let Some(entries) = schema.get("additionalProperties").filter(|rule| rule.is_object()) {
        sections(entries, &format!("{heading}.NAME"), out);
    }
}

fn row(key: &str, schema: &Value, required: bool) -> [String; 4] {
    let default = match (schema.get("default"), required) {
        (Some(Value::String(text)), _) => format!("`{text}`"),
        (Some(value), _) => format!("`{value}`"),
        (None, true) => "required".to_owned(),
        (None, false) => String::new(),
    };
    let about = match schema.get("const").and_then(Value::as_str) {
        Some(kind) => format!("`{kind}`."),
        None => schema["description"].as_str().unwrap_or_default().to_owned(),
    };
    [format!("`{key}`"), kind(schema), default, about.replace('|', "\\|")]
}

fn kind(schema: &Value) -> String {
    let words = |schema: &Value| {
        let words = schema["anyOf"][0]["enum"].as_array()?.iter().filter_map(Value::as_str);
        Some(words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" "))
    };
    if let Some(words) = words(schema) {
        return words;
    }
    if let Some(title) = schema["title"].as_str() {
        return title.to_owned();
    }
    if let Some(items) = schema.get("items") {
        return format!("list of {}", kind(items));
    }
    match schema.get("additionalProperties").filter(|rule| rule.is_object()) {
        Some(entries) => format!("mapping of names to {}", kind(entries)),
        None => "mapping".to_owned(),
    }
}

fn tables() -> String {
    let mut all = Vec::new();
    sections(&schema(), "Top level", &mut all);
    let mut out = String::new();
    for section in all {
        out += &format!("\n### {}\n\n{}\n", section.heading, section.about);
        if !section.rows.is_empty() {
            out += "\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n";
        }
        for [key, kind, default, about] in section.rows {
            out += &format!("| {key} | {kind} | {default} | {about} |\n");
        }
    }
    out
}

#[test]
fn the_reference_tells_exactly_the_keys_of_the_schema() {
    const MARK: &str = "<!-- From here on written by: UPDATE=1 cargo test --test config -->\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (prose, _) = text.split_once(MARK).expect("the mark is in docs/config.md");
    compare(&path, &format!("{prose}{MARK}{}", tables())).unwrap();
}
