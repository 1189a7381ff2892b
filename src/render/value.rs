//! From fields to Tera's values, and to harmless placeholders of the same shape.
//!
//! Bytes that are not text travel through a template as text: each byte as one character of the last 256 code points of
//! plane 16 (private use). So they keep their identity through `set`, `~` and `join`; `b64encode` and `urlencode` take
//! the bytes, a `text` file gets the bytes, and any other format refuses them.

use std::collections::BTreeMap;

use tera::Value;

use crate::secret::{Field, Fields, SecretBytes};

/// The code point that stands for the byte 0.
const FIRST: u32 = 0x10_FF00;

/// What stands for a text: alphanumeric, and valid base64.
pub(super) const PLACEHOLDER: &str = "YWFhYWFh";

/// What stands for a number: valid base64 as well.
pub(super) const NUMBER: &str = "1111";

fn byte_of(c: char) -> Option<u8> {
    u8::try_from(u32::from(c).checked_sub(FIRST)?).ok()
}

/// Whether a text holds bytes that are not text.
pub(super) fn holds_bytes(text: &str) -> bool {
    text.contains(|c: char| byte_of(c).is_some())
}

/// A text for bytes.
pub(super) fn disguise(bytes: &[u8]) -> String {
    bytes.iter().filter_map(|b| char::from_u32(FIRST + u32::from(*b))).collect()
}

/// The bytes of a text of which parts may be disguised bytes.
pub(super) fn reveal(text: &str) -> Vec<u8> {
    if !holds_bytes(text) {
        return text.as_bytes().to_vec();
    }
    let mut out = Vec::with_capacity(text.len());
    for c in text.chars() {
        match byte_of(c) {
            Some(byte) => out.push(byte),
            None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}

/// A Tera value for bytes: text where they are text.
pub(super) fn from_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) if !holds_bytes(text) => Value::from(text),
        _ => Value::from(disguise(bytes)),
    }
}

/// A field as Tera sees it.
pub(super) fn of_field(field: &Field) -> Value {
    match field {
        Field::Null => Value::none(),
        Field::Bool(value) => Value::from(*value),
        Field::Number(literal) => number(literal.expose_str().unwrap_or_default()),
        Field::Text(bytes) | Field::Bytes(bytes) => from_bytes(bytes.expose()),
        Field::List(list) => Value::from(list.iter().map(of_field).collect::<Vec<_>>()),
        Field::Map(map) => of_fields(map),
    }
}

/// The fields of a secret as Tera sees them.
pub(super) fn of_fields(fields: &Fields) -> Value {
    Value::from(fields.iter().map(|(name, field)| (name.clone(), of_field(field))).collect::<BTreeMap<_, _>>())
}

/// A number that prints as its literal does; a literal that no number prints as stays a text.
fn number(literal: &str) -> Value {
    if let Ok(value) = literal.parse::<i64>()
        && value.to_string() == literal
    {
        return Value::from(value);
    }
    if let Ok(value) = literal.parse::<u64>()
        && value.to_string() == literal
    {
        return Value::from(value);
    }
    match literal.parse::<f64>() {
        Ok(value) if value.is_finite() && format!("{value:?}") == literal => Value::from(value),
        _ => Value::from(literal),
    }
}

/// The same shape, with nothing in it that could harm: what a template's structure is compared with.
pub(super) fn placeholder(field: &Field) -> Field {
    match field {
        Field::Null => Field::Null,
        Field::Bool(value) => Field::Bool(*value),
        Field::Number(_) => Field::Number(SecretBytes::from(NUMBER)),
        Field::Text(text) => Field::text(placeholder_text(text.expose_str().unwrap_or_default())),
        Field::Bytes(_) => Field::Bytes(SecretBytes::new(vec![0xFF; 6])),
        Field::List(list) => Field::List(list.iter().map(placeholder).collect()),
        Field::Map(map) => Field::Map(placeholders(map)),
    }
}

/// [`placeholder`] for each field. Names that could themselves carry structure are replaced too.
pub(super) fn placeholders(fields: &Fields) -> Fields {
    let plain = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/'))
    };
    fields
        .iter()
        .enumerate()
        .map(|(i, (name, field))| {
            let name = if plain(name) { name.clone() } else { format!("field{i}") };
            (name, placeholder(field))
        })
        .collect()
}

/// A placeholder for a text: empty stays empty, what reads as a number stays one.
pub(super) fn placeholder_text(text: &str) -> &'static str {
    if text.is_empty() {
        ""
    } else if text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-')) && text.parse::<f64>().is_ok() {
        NUMBER
    } else {
        PLACEHOLDER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_their_disguise() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert!(std::str::from_utf8(&bytes).is_err());
        let Some(text) = from_bytes(&bytes).as_str().map(str::to_string) else { panic!("not text") };
        assert_eq!(reveal(&text), bytes);
        assert_eq!(reveal("plain ä"), "plain ä".as_bytes());
    }

    #[test]
    fn a_number_prints_as_its_literal() {
        for literal in
            ["0", "5432", "-1", "18446744073709551615", "1.5", "1.50", "1e5", "123456789012345678901234567890"]
        {
            assert_eq!(number(literal).to_string(), literal);
        }
    }

    #[test]
    fn a_placeholder_has_the_shape_and_not_the_value() {
        let field = Field::Map(BTreeMap::from([
            ("user".to_string(), Field::text("x: y")),
            ("a: b".to_string(), Field::text("5432")),
            ("list".to_string(), Field::List(vec![Field::Null, Field::text("")])),
        ]));
        let Field::Map(map) = placeholder(&field) else { panic!("no map") };
        assert!(map["user"] == Field::text(PLACEHOLDER) && map["field0"] == Field::text(NUMBER));
        assert!(map["list"] == Field::List(vec![Field::Null, Field::text("")]));
    }
}
