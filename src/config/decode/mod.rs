//! From the tree to raw types, collecting every fault instead of stopping at the first.
//!
//! [`record!`], [`union!`] and [`choice!`] are the one place where a key's name, type, default and meaning are told:
//! the decoder, the JSON Schema and (through it) the tables of docs/config.md all come from them.

use std::ops::Deref;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Value, json};

pub mod record;

use super::fault::{Fault, Place, did_you_mean, shown, shown_key};
use super::tree::{Content, Entry, Node, Scalar};

/// Collects faults while a config is decoded and checked.
pub struct Decoder {
    file: Arc<Path>,
    /// What makes the config invalid.
    pub faults: Vec<Fault>,
    /// What does not.
    pub warnings: Vec<Fault>,
    path: Vec<String>,
    meant: Vec<(Place, String)>,
    partial: Vec<Place>,
}

impl Decoder {
    /// A decoder for one file.
    pub fn new(file: Arc<Path>) -> Self {
        Self {
            file,
            faults: Vec::new(),
            warnings: Vec::new(),
            path: Vec::new(),
            meant: Vec::new(),
            partial: Vec::new(),
        }
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

    /// Whether a key of the mapping at `place` is there under a mistyped name, which was told.
    pub fn meant(&self, place: Place, key: &str) -> bool {
        self.meant.iter().any(|(at, name)| *at == place && name == key)
    }

    /// Whether the value at `place` is less than what is written there, because of a fault that was told.
    pub fn partial(&self, place: Place) -> bool {
        self.partial.contains(&place)
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
        let sound: Vec<_> = items.iter().enumerate().filter_map(item).collect();
        if sound.len() < items.len() {
            d.partial.push(node.place);
        }
        Some(sound)
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
            let value = d.inside(format!(".{}", shown_key(&entry.key)), |d| d.take(&entry.node));
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

pub use record::{Fields, Key, Member, Record, decode_record, kind_of, prose, record_schema};
pub(crate) use record::{choice, default_of, empty_record, record, union};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        let of = |text: &str| {
            plain(&Scalar {
                text: text.to_owned(),
                written: None,
                plain: true,
                template_syntax: None,
                variables: Vec::new(),
                block: None,
            })
        };
        assert_eq!(of("yes"), Plain::Text);
        assert_eq!(of("0640"), Plain::Int);
        assert_eq!(of("0o640"), Plain::Int);
        assert_eq!(of("1.10"), Plain::Float);
        assert_eq!(of("1e3"), Plain::Float);
        assert_eq!(of("1.2.3"), Plain::Text);
        assert_eq!(of("~"), Plain::Null);
        assert_eq!(of("infinity"), Plain::Text);
    }
}
