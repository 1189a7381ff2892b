//! Patterns, lists of one, any JSON value.

use serde_json::{Value, json};

use super::{no_nul, text};
use crate::config::decode::{At, Decoder, Plain, Shape, Table, plain, written};
use crate::config::tree::{Content, Node, Scalar};

/// One value, or a list of them.
pub struct OneOrMany<T>(pub Vec<At<T>>);

impl<T: Shape> Shape for OneOrMany<T> {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        match &node.content {
            Content::List(items) if items.is_empty() => {
                d.wrong(node, "at least one", None);
                None
            }
            Content::List(_) => d.take(node).map(Self),
            _ => d.take(node).map(|value| Self(vec![At { value, place: node.place }])),
        }
    }

    fn schema() -> Value {
        let one = T::schema();
        json!({"title": format!("{}, or a list", one["title"].as_str().unwrap_or("one")),
            "anyOf": [one, {"type": "array", "minItems": 1, "items": one}]})
    }
}

/// A regular expression (regex-lite's syntax).
pub struct Pattern(pub regex_lite::Regex);

impl Shape for Pattern {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        let scalar = text(node, "a pattern", d)?;
        match regex_lite::Regex::new(&scalar.text) {
            Ok(regex) => Some(Self(regex)),
            Err(error) => {
                let message = format!("{}: not a pattern: {error}", d.path());
                d.fault(node.place, message);
                None
            }
        }
    }

    fn schema() -> Value {
        json!({"type": "string", "title": "pattern"})
    }
}

/// Any JSON value.
pub struct Json(pub Value);

impl Shape for Json {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        Some(Self(match &node.content {
            Content::Broken => return None,
            Content::List(items) => {
                let items: Option<Vec<Value>> = items.iter().map(|item| Some(d.take::<Self>(item)?.0)).collect();
                Value::Array(items?)
            }
            Content::Map(_) => {
                let table: Table<Self> = d.take(node)?;
                let entries = table.0.into_iter().map(|(name, value)| Some((name.value, value?.value.0)));
                Value::Object(entries.collect::<Option<_>>()?)
            }
            Content::Scalar(scalar) => scalar_json(node, scalar, d)?,
        }))
    }

    fn schema() -> Value {
        json!({"title": "any value"})
    }
}

fn scalar_json(node: &Node, scalar: &Scalar, d: &mut Decoder) -> Option<Value> {
    let number = match plain(scalar) {
        Plain::Null => return Some(Value::Null),
        Plain::Bool(value) => return Some(value.into()),
        Plain::Text => return no_nul(node, scalar, d).map(|scalar| scalar.text.clone().into()),
        Plain::Int => {
            scalar.text.parse::<i64>().map(Value::from).or_else(|_| scalar.text.parse::<u64>().map(Value::from)).ok()
        }
        Plain::Float => scalar.text.parse::<f64>().ok().and_then(serde_json::Number::from_f64).map(Value::Number),
    };
    if number.is_none() {
        let message = format!("{}: the number {} cannot be held", d.path(), written(scalar));
        d.fault_hint(node.place, message, "put it in quotes if it is text".to_owned());
    }
    number
}
