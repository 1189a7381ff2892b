//! YAML 1.2 with scalars kept as written, duplicate keys refused, and budgets against documents that explode.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_yaml::{Error, Spanned};

use super::Fault;
use crate::secret::Field;

pub(super) fn parse(text: &str) -> Result<Field, Fault> {
    let options = serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_documents: 1,
            max_depth: 64,
            max_nodes: 250_000,
            max_aliases: 1_000,
            max_total_scalar_bytes: 16 << 20,
        },
        duplicate_keys: serde_yaml::DuplicateKeyPolicy::Error,
        // `yes`, `no`, `on`, `off` are words, and a password may be one.
        strict_booleans: true,
        non_finite_float_policy: serde_yaml::NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    };
    let node: Spanned<Node> = serde_yaml::from_str_with_options(text, options).map_err(|error| fault(&error))?;
    resolve(text, node)
}

/// A value before its numbers are looked up in the source.
enum Node {
    Null,
    Bool(bool),
    /// What the parser took for a number.
    Number,
    Text(String),
    List(Vec<Spanned<Node>>),
    Map(BTreeMap<String, Spanned<Node>>),
}

fn resolve(text: &str, node: Spanned<Node>) -> Result<Field, Fault> {
    Ok(match node.value {
        Node::Null => Field::Null,
        Node::Bool(value) => Field::Bool(value),
        Node::Number => {
            let literal = literal(text, &node.defined).ok_or_else(|| {
                Fault::malformed("this number cannot be kept as it is written: quote it")
                    .at(node.defined.line(), node.defined.column())
            })?;
            if is_json_number(literal) { Field::Number(literal.into()) } else { Field::text(literal) }
        }
        Node::Text(value) => Field::text(value),
        Node::List(list) => Field::List(list.into_iter().map(|node| resolve(text, node)).collect::<Result<_, _>>()?),
        Node::Map(map) => Field::Map(
            map.into_iter().map(|(key, node)| Ok((key, resolve(text, node)?))).collect::<Result<_, Fault>>()?,
        ),
    })
}

/// The text of a plain scalar in the source.
fn literal<'a>(text: &'a str, at: &serde_yaml::Location) -> Option<&'a str> {
    let span = at.span();
    let start = usize::try_from(span.byte_offset()?).ok()?;
    let end = start.checked_add(usize::try_from(span.byte_len()?).ok()?)?;
    let literal = text.get(start..end)?.trim();
    let plain =
        !literal.is_empty() && literal.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-._:".contains(&byte));
    plain.then_some(literal)
}

/// RFC 8259, section 6.
fn is_json_number(text: &str) -> bool {
    let rest = text.strip_prefix('-').unwrap_or(text);
    let starts_well = rest.starts_with(|c: char| c.is_ascii_digit())
        && !(rest.len() > 1 && rest.starts_with('0') && rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit));
    starts_well && serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok_and(|raw| raw.get() == text)
}

/// Only words of this file: what the parser says may quote the document.
fn fault(error: &Error) -> Fault {
    let error = error.without_snippet();
    let what = match error {
        Error::DuplicateMappingKey { .. } => "this key appears twice in one mapping",
        Error::Eof { .. } => "not YAML: it ends too early (half-written?)",
        Error::MultipleDocuments { .. } => "it holds more than one YAML document",
        Error::UnknownAnchor { .. } => "this alias has no anchor",
        Error::Budget { .. } => "it is too deep, too long, or has too many aliases to be read safely",
        Error::BinaryNotUtf8 { .. } | Error::InvalidBinaryBase64 { .. } => {
            "this !!binary value is not base64 of UTF-8 text; put bytes into a folder of files"
        }
        Error::AliasError { error, .. } => return fault(error),
        _ => "not YAML that can be read",
    };
    match error.location() {
        Some(at) if at.line() > 0 => Fault::malformed(what).at(at.line(), at.column()),
        _ => Fault::malformed(what),
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Walk)
    }
}

struct Walk;

impl<'de> Visitor<'de> for Walk {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Number)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Number)
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element()? {
            nodes.push(node);
        }
        Ok(Node::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut nodes = BTreeMap::new();
        while let Some((key, node)) = map.next_entry::<String, _>()? {
            if nodes.insert(key, node).is_some() {
                return Err(A::Error::custom("duplicate key"));
            }
        }
        Ok(Node::Map(nodes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> BTreeMap<String, Field> {
        match parse(text) {
            Ok(Field::Map(map)) => map,
            Ok(_) => panic!("not a map"),
            Err(fault) => panic!("{fault:?}"),
        }
    }

    #[test]
    fn scalars_are_kept_as_they_are_written() {
        let map = fields(
            "int: 5432\nfloat: 1.50\nlong: 123456789012345678901234567890\nzero: 007123 # a pin\nhex: 0x1F\nexp: 1e999\n\
             minus: -12\nyes: yes\noff: off\nt: True\nnil: ~\nempty:\nquoted: '42'\nblock: |\n  a\n  b\nref: &x 1.10\nalias: *x\n\
             infinite: .inf\ntime: 12:30:45\nunder: 1_000\numlaut-ä: 7.0\nlist: [1.0, a, {b: 00}]\n",
        );
        let number = |name: &str, literal: &str| {
            assert!(matches!(map.get(name), Some(Field::Number(n)) if n.expose_str() == Some(literal)), "{name}");
        };
        let text = |name: &str, literal: &str| {
            assert!(
                matches!(map.get(name), Some(Field::Text(n)) if n.expose_str() == Some(literal)),
                "{name}: {:?}",
                map.get(name).and_then(Field::as_text).map(|t| t.expose_str().map(str::to_owned))
            );
        };
        number("int", "5432");
        number("float", "1.50");
        number("long", "123456789012345678901234567890");
        number("exp", "1e999");
        number("minus", "-12");
        number("ref", "1.10");
        number("alias", "1.10");
        number("umlaut-ä", "7.0");
        text("zero", "007123");
        text("hex", "0x1F");
        text("yes", "yes");
        text("off", "off");
        text("quoted", "42");
        text("block", "a\nb\n");
        text("infinite", ".inf");
        text("time", "12:30:45");
        text("under", "1_000");
        assert!(matches!(map.get("t"), Some(Field::Bool(true))));
        assert!(matches!(map.get("nil"), Some(Field::Null)));
        assert!(matches!(map.get("empty"), Some(Field::Null)));
        let Some(Field::List(list)) = map.get("list") else { panic!("no list") };
        assert!(matches!(list.first(), Some(Field::Number(n)) if n.expose_str() == Some("1.0")));
        assert!(
            matches!(list.get(2), Some(Field::Map(m)) if matches!(m.get("b"), Some(Field::Text(t)) if t.expose_str() == Some("00")))
        );
    }

    #[test]
    fn faults_have_their_place() {
        let at = |text: &str| parse(text).err().and_then(|fault| fault.at);
        assert_eq!(at("a: 1\nb: 2\na: 3\n").map(|at| at.0), Some(3));
        assert_eq!(at("a: {b: 1\n\nc: [").map(|at| at.0 > 0), Some(true));
        assert_eq!(at("a: *nowhere\n").map(|at| at.0), Some(1));
    }

    #[test]
    fn a_billion_laughs_are_refused() {
        let mut text = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
        for level in 1..10 {
            let refs = vec![format!("*a{}", level - 1); 9].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
        }
        assert!(parse(&text).is_err());
        assert!(parse(&format!("a: {}1{}", "[".repeat(5_000), "]".repeat(5_000))).is_err());
    }
}
