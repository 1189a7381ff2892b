//! JSON of an answer as fields, and the times in it. Pure.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::secret::{Field, Fields, SecretBytes};

/// A value as a field: numbers as the text that JSON has for them.
pub(super) fn field(value: &Value) -> Field {
    match value {
        Value::Null => Field::Null,
        Value::Bool(value) => Field::Bool(*value),
        Value::Number(number) => Field::Number(SecretBytes::from(number.to_string())),
        Value::String(text) => Field::text(text.as_str()),
        Value::Array(list) => Field::List(list.iter().map(field).collect()),
        Value::Object(map) => Field::Map(fields(map)),
    }
}

/// An object as fields.
pub(super) fn fields(map: &Map<String, Value>) -> Fields {
    map.iter().map(|(name, value)| (name.clone(), field(value))).collect()
}

/// A number, also where it is written as text.
pub(super) fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// RFC 3339, as Vault writes times. None for the empty text and for Go's zero time.
pub(super) fn time(value: &Value) -> Option<Timestamp> {
    let time: Timestamp = value.as_str().filter(|text| !text.is_empty())?.parse().ok()?;
    (time > Timestamp::UNIX_EPOCH).then_some(time)
}

/// A `ttl` as people write it: seconds, or Go's `1h30m`, or days as Vault adds them.
pub(super) fn ttl(value: &Value) -> Option<Duration> {
    if let Some(seconds) = number(value) {
        return u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
    }
    let mut total = 0.0;
    let mut rest = value.as_str()?.trim();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let count: f64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += count
            * match rest.get(..unit)? {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                _ => return None,
            };
        rest = rest.get(unit..)?;
    }
    Duration::try_from_secs_f64(total).ok().filter(|ttl| !ttl.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_ttl_is_read_as_people_write_it() {
        let s = |seconds| Some(Duration::from_secs(seconds));
        for (value, wanted) in [
            (json!(30), s(30)),
            (json!("30"), s(30)),
            (json!("1h30m"), s(5400)),
            (json!("2d"), s(172_800)),
            (json!("1.5h"), s(5400)),
            (json!("soon"), None),
            (json!("5x"), None),
            (json!(0), None),
            (json!(-5), None),
            (json!(null), None),
        ] {
            assert_eq!(ttl(&value), wanted, "{value}");
        }
    }

    #[test]
    fn values_keep_their_kind_and_zero_times_are_none() {
        let Field::Map(map) = field(&json!({"n": 5432, "f": 1.5, "t": "x", "l": [null, true]})) else { panic!() };
        assert!(matches!(&map["n"], Field::Number(text) if text.expose() == b"5432"));
        assert!(matches!(&map["f"], Field::Number(text) if text.expose() == b"1.5"));
        assert!(matches!(&map["l"], Field::List(list) if list.len() == 2));
        assert_eq!(time(&json!("0001-01-01T00:00:00Z")), None);
        assert_eq!(time(&json!("")), None);
        assert!(time(&json!("2024-05-01T10:00:00.123456789Z")).is_some());
    }
}
