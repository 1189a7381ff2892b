//! From the tree to raw types, collecting every fault instead of stopping at the first.
//!
//! [`record!`], [`union!`] and [`choice!`] are the one place where a key's name, type, default and meaning are told:
//! the decoder, the JSON Schema and (through it) the tables of docs/config.md all come from them.

use std::ops::Deref;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::fault::{Fault, Place, did_you_mean, shown};
use super::tree::{Content, Entry, Node, Scalar};

/// Collects faults while a config is decoded and checked.
pub struct Decoder {
    file: Arc<Path>,
    /// What makes the config invalid.
    pub faults: Vec<Fault>,
    /// What does not.
    pub warnings: Vec<Fault>,
    path: Vec<String>,
}

impl Decoder {
    /// A decoder for one file.
    pub fn new(file: Arc<Path>) -> Self {
        Self { file, faults: Vec::new(), warnings: Vec::new(), path: Vec::new() }
    }

    /// Tells a fault.
    pub fn fault(&mut self, place: Place, message: impl Into<String>) {
        self.faults.push(Fault::new(&self.file, place, message, None));
    }

    /// Tells a fault and what to do.
    pub fn fault_hint(&mut self, place: Place, message: impl Into<String>, hint: impl Into<Option<String>>) {
        self.faults.push(Fault::new(&self.file, place, message, hint.into()));
    }

    /// Tells a doubt.
    pub fn warn(&mut self, place: Place, message: impl Into<String>) {
        self.warnings.push(Fault::new(&self.file, place, message, None));
    }

    /// Where the decoder is, as `targets.app.files[0].path`; `the config` at the top.
    pub fn path(&self) -> String {
        if self.path.is_empty() { "the config".to_owned() } else { self.path.concat() }
    }

    fn inside<T>(&mut self, step: String, work: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(if self.path.is_empty() { step.trim_start_matches('.').to_owned() } else { step });
        let done = work(self);
        self.path.pop();
        done
    }

    /// Decodes a node. None: the fault was told.
    pub fn take<T: Shape>(&mut self, node: &Node) -> Option<T> {
        match node.content {
            Content::Broken => None,
            _ => T::decode(node, self),
        }
    }

    /// Tells that a node is not what was expected there.
    pub fn wrong(&mut self, node: &Node, expected: &str, hint: impl Into<Option<String>>) {
        let message = format!("{}: expected {expected}, found {}", self.path(), describe(node));
        self.fault_hint(node.place, message, hint);
    }
}

/// What a plain scalar means in YAML 1.2's core schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// Anything else.
    Text,
}

/// What a scalar means by itself. Quoted ones are always text.
pub fn plain(scalar: &Scalar) -> Plain {
    if !scalar.plain {
        return Plain::Text;
    }
    let text = scalar.text.as_str();
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Plain::Null,
        "true" | "True" | "TRUE" => return Plain::Bool(true),
        "false" | "False" | "FALSE" => return Plain::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Plain::Float,
        _ => {}
    }
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let all = |text: &str, test: fn(&u8) -> bool| !text.is_empty() && text.bytes().all(|b| test(&b));
    if all(digits, u8::is_ascii_digit)
        || text.strip_prefix("0o").is_some_and(|t| all(t, |b| (b'0'..=b'7').contains(b)))
        || text.strip_prefix("0x").is_some_and(|t| all(t, u8::is_ascii_hexdigit))
    {
        return Plain::Int;
    }
    let number = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b))
        && digits.parse::<f64>().is_ok();
    if number || matches!(digits, ".inf" | ".Inf" | ".INF") { Plain::Float } else { Plain::Text }
}

/// A scalar as a message may show it: what is written in the file, never what `${VAR}` stood for.
pub fn written(scalar: &Scalar) -> String {
    format!("'{}'", shown(scalar.written.as_deref().unwrap_or(&scalar.text)))
}

fn describe(node: &Node) -> &'static str {
    match &node.content {
        Content::List(_) => "a list",
        Content::Map(_) => "a mapping",
        Content::Broken => "something broken",
        Content::Scalar(scalar) => match plain(scalar) {
            Plain::Null => "nothing",
            Plain::Bool(_) => "a truth value",
            Plain::Int | Plain::Float => "a number",
            Plain::Text => "text",
        },
    }
}

/// A type that can be decoded from a node and tell its JSON Schema.
pub trait Shape: Sized {
    /// Decodes; tells each fault and answers None where there is any that leaves no value.
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self>;
    /// Its JSON Schema (draft 2020-12).
    fn schema() -> Value;
    /// What to go on with after a fault, so that the rest is checked too.
    fn fallback() -> Option<Self> {
        None
    }
}

/// A value and where it stands.
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

impl<T> Deref for At<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// An optional key: absent, given, or given with a fault that was told.
pub struct Slot<T> {
    /// Where its value stands, if it is given.
    pub place: Option<Place>,
    /// Its value, if it is given and sound.
    pub value: Option<T>,
}

impl<T> Slot<T> {
    /// Whether the key is there.
    pub fn given(&self) -> bool {
        self.place.is_some()
    }

    /// Where its value stands.
    pub fn place(&self) -> Place {
        self.place.unwrap_or_default()
    }

    /// Its value.
    pub fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }
}

/// A named key of a record, for the schema.
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub about: String,
    /// Whether it must be there.
    pub required: bool,
    /// What stands for it when it is not there.
    pub default: Option<Value>,
    /// The schema of its value.
    pub schema: Value,
}

/// A mapping with known keys.
pub trait Record: Sized {
    /// The names of its keys.
    fn names() -> Vec<&'static str>;
    /// Its keys.
    fn keys() -> Vec<Key>;
    /// What it is.
    fn about() -> String;
    /// Where it stands.
    fn place(&self) -> Place;
    /// Reads its keys; the unknown ones are the caller's.
    fn read(fields: &Fields<'_>, d: &mut Decoder) -> Option<Self>;
}

/// The entries of a mapping.
pub struct Fields<'a> {
    /// Where the mapping stands.
    pub place: Place,
    entries: &'a [Entry],
}

impl<'a> Fields<'a> {
    fn find(&self, name: &str) -> Option<&'a Entry> {
        self.entries.iter().find(|entry| entry.key == name)
    }

    fn refuse_unknown(&self, names: &[&'static str], d: &mut Decoder) {
        for entry in self.entries.iter().filter(|entry| !names.contains(&entry.key.as_str())) {
            let message = format!("unknown key '{}' in {}", shown(&entry.key), d.path());
            d.fault_hint(entry.place, message, did_you_mean(&entry.key, names.iter().copied()));
        }
    }
}

/// How a key of a record is held.
pub trait Member {
    /// What the record holds.
    type Held;
    /// The key for the schema.
    fn key(name: &'static str, docs: &[&str], default: Option<Value>) -> Key;
    /// Reads it.
    fn member(fields: &Fields<'_>, name: &str, default: Option<Value>, d: &mut Decoder) -> Option<Self::Held>;
}

impl<T: Shape> Member for T {
    type Held = At<T>;

    fn key(name: &'static str, docs: &[&str], default: Option<Value>) -> Key {
        Key { name, about: prose(docs), required: default.is_none(), default, schema: T::schema() }
    }

    fn member(fields: &Fields<'_>, name: &str, default: Option<Value>, d: &mut Decoder) -> Option<At<T>> {
        let entry = fields.find(name);
        let place = entry.map_or(fields.place, |entry| entry.node.place);
        let value = d.inside(format!(".{name}"), |d| entry.and_then(|entry| d.take(&entry.node)));
        let value = match (value, default) {
            (Some(value), _) => Some(value),
            (None, Some(default)) => d.take(&default_node(&default, place)),
            (None, None) => {
                if entry.is_none() {
                    let message = format!("missing key '{name}' in {}", d.path());
                    d.fault(place, message);
                }
                T::fallback()
            }
        };
        value.map(|value| At { value, place })
    }
}

impl<T: Shape> Member for Option<T> {
    type Held = Slot<T>;

    fn key(name: &'static str, docs: &[&str], default: Option<Value>) -> Key {
        Key { name, about: prose(docs), required: false, default, schema: T::schema() }
    }

    fn member(fields: &Fields<'_>, name: &str, _: Option<Value>, d: &mut Decoder) -> Option<Slot<T>> {
        let Some(entry) = fields.find(name) else {
            return Some(Slot { place: None, value: None });
        };
        let value = d.inside(format!(".{name}"), |d| d.take(&entry.node));
        Some(Slot { place: Some(entry.node.place), value })
    }
}

fn default_node(default: &Value, place: Place) -> Node {
    let (text, plain) = match default {
        Value::String(text) => (text.clone(), false),
        other => (other.to_string(), true),
    };
    Node { place, content: Content::Scalar(Scalar { text, written: None, plain, template_syntax: None, block: None }) }
}

/// Doc lines as one text.
pub fn prose(docs: &[&str]) -> String {
    docs.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// Decodes a mapping with known keys.
pub fn decode_record<R: Record>(node: &Node, also: Option<&'static str>, d: &mut Decoder) -> Option<R> {
    let Content::Map(entries) = &node.content else {
        d.wrong(node, "a mapping", None);
        return None;
    };
    let fields = Fields { place: node.place, entries };
    let names: Vec<&'static str> = also.into_iter().chain(R::names()).collect();
    fields.refuse_unknown(&names, d);
    R::read(&fields, d)
}

/// The schema of a mapping with known keys; `kind` is the constant of its `type` key.
pub fn record_schema<R: Record>(kind: Option<&str>) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    if let Some(kind) = kind {
        properties.insert("type".to_owned(), json!({"const": kind, "title": "text"}));
        required.push("type".to_owned());
    }
    for key in R::keys() {
        let mut schema = key.schema;
        if let Value::Object(schema) = &mut schema {
            schema.insert("description".to_owned(), key.about.into());
            if let Some(default) = key.default {
                schema.insert("default".to_owned(), default);
            }
        }
        properties.insert(key.name.to_owned(), schema);
        if key.required {
            required.push(key.name.to_owned());
        }
    }
    let mut schema = json!({"type": "object", "description": R::about(), "properties": properties, "additionalProperties": false});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// The value of a mapping's `type`, and `type`'s place; tells the fault where it is missing or not text.
pub fn kind_of(node: &Node, kinds: &[&'static str], d: &mut Decoder) -> Option<&'static str> {
    let Content::Map(entries) = &node.content else {
        d.wrong(node, "a mapping with a 'type'", None);
        return None;
    };
    let Some(entry) = entries.iter().find(|entry| entry.key == "type") else {
        let message = format!("missing key 'type' in {}", d.path());
        d.fault_hint(node.place, message, Some(format!("known: {}", kinds.join(", "))));
        return None;
    };
    let Content::Scalar(scalar) = &entry.node.content else {
        d.inside(".type".to_owned(), |d| d.take::<super::scalar::Text>(&entry.node));
        return None;
    };
    let kind = kinds.iter().find(|kind| **kind == scalar.text).copied();
    if kind.is_none() {
        let message = format!("unknown type {} in {}", written(scalar), d.path());
        d.fault_hint(entry.node.place, message, did_you_mean(&scalar.text, kinds.iter().copied()));
    }
    kind
}

/// A list. Items with a fault are told and left out.
impl<T: Shape> Shape for Vec<At<T>> {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        let Content::List(items) = &node.content else {
            d.wrong(node, "a list", None);
            return None;
        };
        let item = |(index, node): (usize, &Rc<Node>)| {
            let value = d.inside(format!("[{index}]"), |d| d.take(node));
            value.map(|value| At { value, place: node.place })
        };
        Some(items.iter().enumerate().filter_map(item).collect())
    }

    fn schema() -> Value {
        json!({"type": "array", "items": T::schema()})
    }
}

/// A mapping from names of the operator's choice, in order. Entries with a fault keep their name.
pub struct Table<T>(pub Vec<(At<String>, Option<At<T>>)>);

impl<T> Table<T> {
    /// The sound entries.
    pub fn sound(&self) -> impl Iterator<Item = (&At<String>, &At<T>)> {
        self.0.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)))
    }
}

impl<T: Shape> Shape for Table<T> {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        let Content::Map(entries) = &node.content else {
            d.wrong(node, "a mapping", None);
            return None;
        };
        let entry = |entry: &Entry| {
            let value = d.inside(format!(".{}", shown(&entry.key)), |d| d.take(&entry.node));
            let name = At { value: entry.key.clone(), place: entry.place };
            (name, value.map(|value| At { value, place: entry.node.place }))
        };
        Some(Self(entries.iter().map(entry).collect()))
    }

    fn schema() -> Value {
        json!({"type": "object", "additionalProperties": T::schema()})
    }

    fn fallback() -> Option<Self> {
        Some(Self(Vec::new()))
    }
}

/// Decodes one of a few words.
pub fn decode_word<T: Copy>(node: &Node, words: &[(&'static str, T)], d: &mut Decoder) -> Option<T> {
    let known = words.iter().map(|(word, _)| *word);
    match &node.content {
        Content::Scalar(scalar) if plain(scalar) != Plain::Null => {
            let found = words.iter().find(|(word, _)| *word == scalar.text);
            if found.is_none() {
                let message = format!("{}: unknown value {}", d.path(), written(scalar));
                d.fault_hint(node.place, message, did_you_mean(&scalar.text, known));
            }
            found.map(|(_, value)| *value)
        }
        _ => {
            let words: Vec<_> = known.collect();
            d.wrong(node, &format!("one of {}", words.join(", ")), None);
            None
        }
    }
}

/// A mapping with known keys: `name: Type` must be given, `name: Option<Type>` may be, `name: Type = default` has a
/// default; `..name: Type` takes another record's keys in.
macro_rules! record {
    ($(#[doc = $about:literal])+ pub struct $name:ident {
        $($(#[doc = $doc:literal])+ $key:ident : $ty:ty $(= $default:literal)?,)+
        $(.. $flat:ident : $flat_ty:ty,)*
    }) => {
        $(#[doc = $about])+
        pub struct $name {
            /// Where it stands.
            pub place: $crate::config::fault::Place,
            $($(#[doc = $doc])+ pub $key: <$ty as $crate::config::decode::Member>::Held,)+
            $(/// Keys taken in from another record.
            pub $flat: $flat_ty,)*
        }

        impl $crate::config::decode::Record for $name {
            fn names() -> Vec<&'static str> {
                let names = vec![$(stringify!($key)),+];
                $(let names = [names, <$flat_ty as $crate::config::decode::Record>::names()].concat();)*
                names
            }

            fn keys() -> Vec<$crate::config::decode::Key> {
                let keys = vec![$(<$ty as $crate::config::decode::Member>::key(
                    stringify!($key), &[$($doc),+], $crate::config::decode::default_of!($($default)?))),+];
                $(let keys = keys.into_iter().chain(<$flat_ty as $crate::config::decode::Record>::keys()).collect::<Vec<_>>();)*
                keys
            }

            fn about() -> String {
                $crate::config::decode::prose(&[$($about),+])
            }

            fn place(&self) -> $crate::config::fault::Place {
                self.place
            }

            fn read(
                fields: &$crate::config::decode::Fields<'_>,
                d: &mut $crate::config::decode::Decoder,
            ) -> Option<Self> {
                $(let $key = <$ty as $crate::config::decode::Member>::member(
                    fields, stringify!($key), $crate::config::decode::default_of!($($default)?), d);)+
                $(let $flat = <$flat_ty as $crate::config::decode::Record>::read(fields, d);)*
                Some(Self { place: fields.place, $($key: $key?,)+ $($flat: $flat?,)* })
            }
        }

        impl $crate::config::decode::Shape for $name {
            fn decode(node: &$crate::config::tree::Node, d: &mut $crate::config::decode::Decoder) -> Option<Self> {
                $crate::config::decode::decode_record(node, None, d)
            }

            fn schema() -> serde_json::Value {
                $crate::config::decode::record_schema::<Self>(None)
            }
        }
    };
}

/// A mapping that takes no keys (beside `type`).
macro_rules! empty_record {
    ($name:ident, $about:literal) => {
        impl $crate::config::decode::Record for $name {
            fn names() -> Vec<&'static str> {
                Vec::new()
            }
            fn keys() -> Vec<$crate::config::decode::Key> {
                Vec::new()
            }
            fn about() -> String {
                $about.to_owned()
            }
            fn place(&self) -> $crate::config::fault::Place {
                $crate::config::fault::Place::default()
            }
            fn read(_: &$crate::config::decode::Fields<'_>, _: &mut $crate::config::decode::Decoder) -> Option<Self> {
                Some(Self)
            }
        }
    };
}

macro_rules! default_of {
    () => {
        None
    };
    ($default:literal) => {
        Some(serde_json::json!($default))
    };
}

/// One of several records, told apart by the key `type`.
macro_rules! union {
    ($(#[doc = $about:literal])+ pub enum $name:ident { $($kind:literal => $variant:ident($record:ty),)+ }) => {
        $(#[doc = $about])+
        pub enum $name {
            $(#[doc = $kind] $variant($record),)+
        }

        impl $crate::config::decode::Shape for $name {
            fn decode(node: &$crate::config::tree::Node, d: &mut $crate::config::decode::Decoder) -> Option<Self> {
                match $crate::config::decode::kind_of(node, &[$($kind),+], d)? {
                    $($kind => {
                        $crate::config::decode::decode_record::<$record>(node, Some("type"), d).map(Self::$variant)
                    })+
                    _ => None,
                }
            }

            fn schema() -> serde_json::Value {
                let kinds = vec![$($crate::config::decode::record_schema::<$record>(Some($kind))),+];
                serde_json::json!({"type": "object", "required": ["type"], "oneOf": kinds})
            }
        }
    };
}

/// Words for the values of a type.
macro_rules! choice {
    ($name:ty, $title:literal { $($word:literal => $value:expr,)+ }) => {
        impl $crate::config::decode::Shape for $name {
            fn decode(node: &$crate::config::tree::Node, d: &mut $crate::config::decode::Decoder) -> Option<Self> {
                $crate::config::decode::decode_word(node, &[$(($word, $value)),+], d)
            }

            fn schema() -> serde_json::Value {
                serde_json::json!({"title": $title, "anyOf": [
                    {"enum": [$($word),+]}, {"type": "string", "pattern": "\\$\\{"}]})
            }
        }
    };
}

pub(crate) use {choice, default_of, empty_record, record, union};
