//! Mappings with known keys: how they are told ([`record!`], [`union!`], [`choice!`]), read, and put into the schema.

use serde_json::{Map, Value, json};

use super::{At, Decoder, Shape, Slot, written};
use crate::config::fault::{Place, did_you_mean, near, shown_key};
use crate::config::tree::{Content, Entry, Node, Scalar};

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
            let message = format!("unknown key '{}' in {}", shown_key(&entry.key), d.path());
            let hint = match entry.key.contains(':') {
                true => Some("is a space missing after ':'?".to_owned()),
                false => did_you_mean(&entry.key, names.iter().copied()),
            };
            d.fault_hint(entry.place, message, hint);
            let stem = entry.key.split(':').next().unwrap_or_default();
            d.meant.extend(near(stem, names.iter().copied()).map(|name| (self.place, name.to_owned())));
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
        let value = entry.and_then(|entry| d.inside(format!(".{name}"), |d| d.take(&entry.node)));
        let value = match (value, default) {
            (Some(value), _) => Some(value),
            (None, Some(default)) => d.take(&default_node(&default, place)),
            (None, None) => {
                if entry.is_none() && !d.meant(fields.place, name) {
                    let message = format!("missing key '{name}' in {}", d.path());
                    d.fault(place, message);
                }
                d.partial.push(place);
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
    Node {
        place,
        content: Content::Scalar(Scalar {
            text,
            written: None,
            plain,
            template_syntax: None,
            variables: Vec::new(),
            block: None,
        }),
    }
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
    let mut schema =
        json!({"type": "object", "description": R::about(), "properties": properties, "additionalProperties": false});
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
        d.inside(".type".to_owned(), |d| d.take::<crate::config::scalar::Text>(&entry.node));
        return None;
    };
    let kind = kinds.iter().find(|kind| **kind == scalar.text).copied();
    if kind.is_none() {
        let message = format!("unknown type {} in {}", written(scalar), d.path());
        d.fault_hint(entry.node.place, message, did_you_mean(&scalar.text, kinds.iter().copied()));
    }
    kind
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
        #[allow(clippy::large_enum_variant, reason = "lives only while a config is read")]
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
