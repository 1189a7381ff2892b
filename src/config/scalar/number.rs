//! Truth values, numbers, durations, modes.

use std::time::Duration;

use serde_json::{Value, json};

use super::{text, text_schema};
use crate::config::decode::{Decoder, Plain, Shape, plain, written};
use crate::config::tree::{Content, Node};

impl Shape for bool {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        if let Content::Scalar(scalar) = &node.content {
            if let Plain::Bool(value) = plain(scalar) {
                return Some(value);
            }
            let word = matches!(scalar.text.to_lowercase().as_str(), "yes" | "no" | "on" | "off" | "true" | "false");
            d.wrong(node, "true or false", word.then(|| "write true or false, without quotes".to_owned()));
            return None;
        }
        d.wrong(node, "true or false", None);
        None
    }

    fn schema() -> Value {
        json!({"title": "true or false", "anyOf": [{"type": "boolean"}, {"type": "string", "pattern": "\\$\\{"}]})
    }
}

/// A whole number within bounds.
#[derive(Clone, Copy)]
pub struct Whole<const MIN: u64, const MAX: u64>(pub u64);

impl<const MIN: u64, const MAX: u64> Shape for Whole<MIN, MAX> {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        let expected = format!("a whole number from {MIN} to {MAX}");
        let Content::Scalar(scalar) = &node.content else {
            d.wrong(node, &expected, None);
            return None;
        };
        if !matches!(plain(scalar), Plain::Int | Plain::Float) {
            d.wrong(node, &expected, None);
            return None;
        }
        let number = scalar.text.parse::<u64>().ok().filter(|number| (MIN..=MAX).contains(number));
        if number.is_none() {
            let message = format!("{}: {} is not {expected}", d.path(), written(scalar));
            d.fault(node.place, message);
        }
        number.map(Self)
    }

    fn schema() -> Value {
        json!({"title": format!("{MIN} to {MAX}"), "anyOf": [
            {"type": "integer", "minimum": MIN, "maximum": MAX}, {"type": "string", "pattern": "\\$\\{"}]})
    }
}

/// A length of time, at least `MIN` milliseconds and at most ten years.
#[derive(Clone, Copy)]
pub struct Span<const MIN: u64>(pub Duration);

const TEN_YEARS: Duration = Duration::from_secs(3650 * 86_400);

impl<const MIN: u64> Shape for Span<MIN> {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        const EXPECTED: &str = "a duration such as 30s, 1h30m or 90d";
        if let Content::Scalar(scalar) = &node.content
            && matches!(plain(scalar), Plain::Int | Plain::Float)
        {
            d.wrong(node, EXPECTED, "add a unit: ms, s, m, h or d".to_owned());
            return None;
        }
        let scalar = text(node, EXPECTED, d)?;
        let Some(span) = duration(&scalar.text) else {
            let message = format!("{}: {} is no duration", d.path(), written(scalar));
            d.fault_hint(node.place, message, "write it as 500ms, 30s, 1h30m or 90d".to_owned());
            return None;
        };
        if span < Duration::from_millis(MIN) || span > TEN_YEARS {
            let least = if MIN.is_multiple_of(1000) { format!("{}s", MIN / 1000) } else { format!("{MIN}ms") };
            let message = format!("{}: {} is not between {least} and 3650d", d.path(), written(scalar));
            d.fault(node.place, message);
            return None;
        }
        Some(Self(span))
    }

    fn schema() -> Value {
        text_schema("duration", "([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?")
    }
}

/// `1h30m`, `500ms`: whole numbers with units, from the largest to the smallest, each at most once.
pub fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let mut rest = text;
    let mut total: u64 = 0;
    let mut next = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().ok()?;
        let after = &rest[digits..];
        let letters = after.len() - after.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let unit = UNITS.iter().position(|(name, _)| *name == &after[..letters])?;
        if unit < next {
            return None;
        }
        next = unit + 1;
        total = total.checked_add(number.checked_mul(UNITS[unit].1)?)?;
        rest = &after[letters..];
    }
    (!text.is_empty()).then(|| Duration::from_millis(total))
}

/// Permission bits, written as quoted octal.
#[derive(Clone, Copy)]
pub struct Mode(pub u32);

impl Shape for Mode {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        const EXPECTED: &str = "a mode in quotes such as \"0640\"";
        if let Content::Scalar(scalar) = &node.content
            && plain(scalar) == Plain::Int
            && scalar.written.is_none()
        {
            let digits = scalar.text.trim_start_matches("0o").trim_start_matches('0');
            let hint = format!("write \"0{digits}\": without quotes YAML reads a decimal number");
            d.wrong(node, EXPECTED, hint);
            return None;
        }
        let scalar = text(node, EXPECTED, d)?;
        let octal = (3..=4).contains(&scalar.text.len()) && scalar.text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let mode = u32::from_str_radix(&scalar.text, 8).ok().filter(|_| octal);
        let Some(mode) = mode else {
            let message = format!("{}: {} is no mode", d.path(), written(scalar));
            d.fault_hint(node.place, message, "write it in octal, as \"0640\"".to_owned());
            return None;
        };
        if mode > 0o777 {
            let message = format!("{}: {} has setuid, setgid or sticky bits", d.path(), written(scalar));
            d.fault_hint(node.place, message, "at most \"0777\"".to_owned());
            return None;
        }
        Some(Self(mode))
    }

    fn schema() -> Value {
        text_schema("mode", "0?[0-7]{3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units_from_large_to_small() {
        let ms = |text| duration(text).map(|d| d.as_millis());
        assert_eq!(ms("30s"), Some(30_000));
        assert_eq!(ms("1h30m"), Some(5_400_000));
        assert_eq!(ms("90d"), Some(90 * 86_400_000));
        assert_eq!(ms("1s500ms"), Some(1500));
        assert_eq!(ms("0s"), Some(0));
        for bad in ["", "30", "s", "30 s", "-1s", "1.5h", "30m1h", "1s1s", "1w", "9999999999999999999s", "１s"] {
            assert_eq!(ms(bad), None, "{bad}");
        }
    }
}
