//! From a SecretString or SecretBinary to fields. Pure.

use crate::secret::{Field, Fields, SecretBytes};
use crate::store::file::parse_json;

/// Why there is nothing under a key. Never holds content.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// It is not JSON.
    NotJson,
    /// There is nothing of that name, or what is there has no names.
    NotThere,
}

/// A SecretString: the fields of a JSON object; anything else is `raw`, as it is written. `key` picks what is nested: names
/// with dots between them; a name that holds dots itself is found before it is taken apart, and a number picks from a list.
pub(super) fn of_text(text: SecretBytes, key: Option<&str>) -> Result<Fields, NoKey> {
    let parsed = match text.expose_str() {
        Some(json) if key.is_some() || json.trim_start().starts_with('{') => parse_json(json),
        _ => None,
    };
    match (key, parsed) {
        (None, Some(Field::Map(fields))) => Ok(fields),
        (None, _) => Ok(raw(Field::Text(text))),
        (Some(_), None) => Err(NoKey::NotJson),
        (Some(key), Some(whole)) => match pick(whole, key).ok_or(NoKey::NotThere)? {
            Field::Map(fields) => Ok(fields),
            one => Ok(raw(one)),
        },
    }
}

/// A SecretBinary: `raw`.
pub(super) fn of_bytes(bytes: SecretBytes, key: Option<&str>) -> Result<Fields, NoKey> {
    match key {
        Some(_) => Err(NoKey::NotJson),
        None => Ok(raw(Field::from_bytes(bytes.expose().to_vec()))),
    }
}

fn raw(field: Field) -> Fields {
    Fields::from([("raw".to_owned(), field)])
}

fn pick(from: Field, key: &str) -> Option<Field> {
    match from {
        Field::Map(mut fields) => {
            if let Some(found) = fields.remove(key) {
                return Some(found);
            }
            // The longest name first.
            let cuts: Vec<usize> = key.match_indices('.').map(|(at, _)| at).collect();
            let (at, found) = cuts.into_iter().rev().find_map(|at| Some((at, fields.remove(&key[..at])?)))?;
            pick(found, &key[at + 1..])
        }
        Field::List(mut list) => {
            let (index, rest) = key.split_once('.').map_or((key, None), |(index, rest)| (index, Some(rest)));
            let index: usize = index.parse().ok()?;
            let found = (index < list.len()).then(|| list.swap_remove(index))?;
            match rest {
                Some(rest) => pick(found, rest),
                None => Some(found),
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(fields: &Fields, name: &str) -> String {
        let field = fields.get(name).and_then(Field::as_text).expect("a text");
        field.expose_str().expect("UTF-8").to_owned()
    }

    fn of(json: &str, key: &str) -> Result<Fields, NoKey> {
        of_text(json.into(), (!key.is_empty()).then_some(key))
    }

    #[test]
    fn an_object_has_its_fields_and_anything_else_is_raw_as_it_is_written() {
        let fields = of(r#" {"user": "app", "port": 5432, "rate": 1.50, "on": true} "#, "").unwrap();
        assert_eq!((text(&fields, "port"), text(&fields, "rate")), ("5432".into(), "1.50".into()));
        for written in ["sk-ant-123", "\"quoted\"", "[1, 2]", "12.0", "{not json", "", "{\"a\":1,\"a\":2}", "{} {}"] {
            let fields = of(written, "").unwrap();
            assert_eq!((fields.len(), text(&fields, "raw").as_str()), (1, written));
        }
    }

    #[test]
    fn a_key_picks_what_is_nested() {
        let json = r#"{"db": {"main": {"user": "app"}, "a.b": {"c": "dotted"}, "list": [{"x": 1}, "two"]}, "n": null}"#;
        assert_eq!(text(&of(json, "db.main").unwrap(), "user"), "app");
        assert_eq!(text(&of(json, "db.main.user").unwrap(), "raw"), "app");
        assert_eq!(text(&of(json, "db.a.b.c").unwrap(), "raw"), "dotted");
        assert_eq!(text(&of(json, "db.list.0").unwrap(), "x"), "1");
        assert_eq!(text(&of(json, "db.list.1").unwrap(), "raw"), "two");
        for absent in ["db.other", "db.main.user.x", "db.list.7", "db.", ".db", "db.list.x"] {
            assert_eq!(of(json, absent).err(), Some(NoKey::NotThere), "{absent}");
        }
        assert_eq!(of("sk-ant", "a").err(), Some(NoKey::NotJson));
    }

    #[test]
    fn bytes_stay_bytes() {
        let fields = of_bytes(SecretBytes::new(vec![0xff, 0, 1]), None).unwrap();
        assert!(matches!(&fields["raw"], Field::Bytes(bytes) if bytes.expose() == [0xff, 0, 1]));
        assert_eq!(of_bytes(SecretBytes::new(vec![1]), Some("k")).err(), Some(NoKey::NotJson));
    }
}
