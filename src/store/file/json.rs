//! JSON (RFC 8259) with numbers kept as written and duplicate names refused.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::Fault;
use crate::secret::Field;

const MAX_DEPTH: usize = 64;

pub(super) fn parse(text: &str) -> Result<Field, Fault> {
    let whole: &RawValue = serde_json::from_str(text).map_err(|error| fault(&error))?;
    field(text, whole.get(), 0)
}

/// One value of `text`, which parsed as a whole. Values are taken apart one level at a time, because serde_json's numbers
/// do not keep their literal text but its raw values do.
fn field(text: &str, raw: &str, depth: usize) -> Result<Field, Fault> {
    let within = |what: &str| {
        let (line, column) = position(text, raw);
        Fault::malformed(what).at(line, column)
    };
    if depth > MAX_DEPTH {
        return Err(within("it is nested too deeply"));
    }
    let again = |_| within("not JSON");
    match raw.as_bytes().first() {
        Some(b'{') => {
            let Members(members) = serde_json::from_str(raw).map_err(again)?;
            let mut fields = BTreeMap::new();
            for (name, value) in members {
                let value = value.get();
                if fields.insert(name, field(text, value, depth + 1)?).is_some() {
                    let (line, column) = position(text, value);
                    return Err(Fault::malformed("this name appears twice in one object").at(line, column));
                }
            }
            Ok(Field::Map(fields))
        }
        Some(b'[') => {
            let Elements(elements) = serde_json::from_str(raw).map_err(again)?;
            elements
                .into_iter()
                .map(|value| field(text, value.get(), depth + 1))
                .collect::<Result<_, _>>()
                .map(Field::List)
        }
        Some(b'"') => Ok(Field::text(serde_json::from_str::<String>(raw).map_err(again)?)),
        Some(b't') => Ok(Field::Bool(true)),
        Some(b'f') => Ok(Field::Bool(false)),
        Some(b'n') => Ok(Field::Null),
        Some(_) => Ok(Field::Number(raw.into())),
        None => Err(within("not JSON")),
    }
}

/// Line and column (in bytes), from 1, of a part of `text`.
fn position(text: &str, part: &str) -> (u64, u64) {
    let offset = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    let before = text.as_bytes().get(..offset).unwrap_or_default();
    let line = before.iter().filter(|byte| **byte == b'\n').count();
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count();
    (line as u64 + 1, column as u64 + 1)
}

fn fault(error: &serde_json::Error) -> Fault {
    let what = match error.classify() {
        serde_json::error::Category::Eof => "not JSON: it ends too early (half-written?)",
        _ => "not JSON",
    };
    Fault::malformed(what).at(error.line() as u64, error.column() as u64)
}

struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry::<String, &RawValue>()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Walk)
    }
}

struct Elements<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Elements<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Elements<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = list.next_element::<&RawValue>()? {
                    elements.push(element);
                }
                Ok(Elements(elements))
            }
        }
        deserializer.deserialize_seq(Walk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_kind_and_numbers_their_digits() {
        let text = r#" {"a": {"n": 1.50, "big": 123456789012345678901234567890, "e": -1e5, "t": "\ud83d\ude00\n\"",
                       "l": [1, null, true], "z": false}} "#;
        let Ok(Field::Map(secrets)) = parse(text) else { panic!("refused") };
        let Some(Field::Map(a)) = secrets.get("a") else { panic!("no a") };
        let text = |name: &str| a.get(name).and_then(Field::as_text).map(|text| text.expose().to_vec());
        assert_eq!(text("n").as_deref(), Some(&b"1.50"[..]));
        assert_eq!(text("big").as_deref(), Some(&b"123456789012345678901234567890"[..]));
        assert_eq!(text("e").as_deref(), Some(&b"-1e5"[..]));
        assert_eq!(text("t").as_deref(), Some("😀\n\"".as_bytes()));
        assert_eq!(text("z").as_deref(), Some(&b"false"[..]));
        assert!(matches!(a.get("l"), Some(Field::List(list)) if list.len() == 3));
    }

    #[test]
    fn faults_have_their_place() {
        let at = |text: &str| parse(text).err().and_then(|fault| fault.at);
        assert_eq!(at("{\"a\": 1,\n \"a\": 2}"), Some((2, 7)));
        assert_eq!(at("{\"a\":\n x}"), Some((2, 2)));
        assert!(at(&format!("{{\"a\": {}1{}}}", "[".repeat(70), "]".repeat(70))).is_some());
        assert!(parse("{} {}").is_err());
        assert!(parse("{\"a\": 01}").is_err());
    }
}
