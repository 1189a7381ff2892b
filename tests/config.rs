//! The config from outside: every file under tests/golden/good/config loads and fits the schema, every file under
//! tests/golden/bad/config is refused with the text beside it, docs/config.md tells every key.
//! `UPDATE=1 cargo test --test config` rewrites the texts and the docs' tables.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use leasehold::config::model::ProcessUser;
use leasehold::config::{Account, Faults, Inputs, Loaded, Users, parse, schema};
use serde_json::Value;

const CANARY: &str = "canary-5a1t";

fn env(name: &str) -> Option<String> {
    let value = match name {
        "PORT" => "9187",
        "HOME" => "/home/agent",
        "EMPTY" => "",
        "CANARY" => CANARY,
        "CANARY_TERA" => "canary-5a1t {{ secrets.a.b }}",
        _ => return None,
    };
    Some(value.to_owned())
}

/// Users that do not depend on the machine.
struct Accounts;

const ACCOUNTS: [(&str, u32); 3] = [("root", 0), ("litellm", 990), ("nobody", 65534)];

impl Users for Accounts {
    fn user(&self, account: &Account) -> Option<ProcessUser> {
        let found = ACCOUNTS.iter().find(|(name, id)| match account {
            Account::Name(wanted) => name == wanted,
            Account::Id(wanted) => id == wanted,
        });
        found.map(|(name, id)| ProcessUser { name: (*name).to_owned(), uid: *id, gid: *id })
    }

    fn group(&self, name: &str) -> Option<u32> {
        ACCOUNTS.iter().find(|(known, _)| *known == name).map(|(_, id)| *id)
    }
}

fn golden(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(kind).join("config");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

fn load(path: &Path) -> Result<Loaded, Faults> {
    let name = path.file_name().unwrap();
    let file = Path::new("/etc/leasehold").join(name);
    let inputs = Inputs { file: &file, env: &env, users: &Accounts, command: None };
    parse(&std::fs::read(path).unwrap(), Path::new(name), &inputs)
}

fn load_text(text: &str) -> Result<Loaded, Faults> {
    let file = Path::new("/etc/leasehold/agent.yaml");
    let inputs = Inputs { file, env: &env, users: &Accounts, command: None };
    parse(text.as_bytes(), Path::new("agent.yaml"), &inputs)
}

fn update() -> bool {
    std::env::var_os("UPDATE").is_some()
}

fn compare(path: &Path, found: &str) -> Result<(), String> {
    if update() {
        std::fs::write(path, found).unwrap();
        return Ok(());
    }
    let wanted = std::fs::read_to_string(path).unwrap_or_default();
    if wanted == found { Ok(()) } else { Err(format!("{}:\n-- wanted\n{wanted}\n-- found\n{found}", path.display())) }
}

fn lines(faults: &[leasehold::config::Fault]) -> String {
    faults.iter().map(|fault| format!("{fault}\n")).collect()
}

#[test]
fn every_good_config_loads_with_the_warnings_beside_it() {
    let files = golden("good");
    assert!(files.len() >= 5);
    let mut wrong = Vec::new();
    for file in files {
        match load(&file) {
            Ok(loaded) => wrong.extend(compare(&file.with_extension("warnings"), &lines(&loaded.warnings)).err()),
            Err(faults) => wrong.push(faults.to_string()),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_bad_config_is_refused_with_the_text_beside_it_and_no_expanded_value() {
    let files = golden("bad");
    assert!(files.len() >= 40);
    let mut wrong = Vec::new();
    for file in files {
        match load(&file) {
            Ok(_) => wrong.push(format!("{} was accepted", file.display())),
            Err(faults) => {
                let found = lines(&faults.0);
                assert!(!found.is_empty(), "{} is refused without a word", file.display());
                assert!(!found.contains(CANARY), "{} tells an expanded value: {found}", file.display());
                wrong.extend(compare(&file.with_extension("stderr"), &found).err());
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

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

fn examples(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut found = Vec::new();
    for path in entries {
        if path.is_dir() {
            found.extend(examples(&path));
        } else if path.file_name().is_some_and(|name| name == "agent.yaml") {
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
        let single =
            ["unknown key", ": expected", "no duration", "no mode", "unknown type", "unknown value", "missing key 'type'"];
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
            "pattern" => value
                .as_str()
                .is_none_or(|text| regex_lite::Regex::new(rule.as_str().unwrap()).unwrap().is_match(text)),
            "minimum" => value.as_u64().is_none_or(|number| number >= rule.as_u64().unwrap()),
            "maximum" => value.as_u64().is_none_or(|number| number <= rule.as_u64().unwrap()),
            "minLength" => value.as_str().is_none_or(|text| text.len() as u64 >= rule.as_u64().unwrap()),
            "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= rule.as_u64().unwrap()),
            "required" => value.as_object().is_none_or(|map| {
                rule.as_array().unwrap().iter().all(|key| map.contains_key(key.as_str().unwrap()))
            }),
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
