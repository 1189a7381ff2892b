//! The types of single values: durations, modes, signals, accounts, paths, addresses, patterns.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::decode::{At, Decoder, Plain, Shape, Table, choice, plain, written};
use super::fault::did_you_mean;
use super::model::{Format, OnChange, OnUnhealthy, Structure, SystemdVerb};
use super::tree::{Content, Node, Scalar};

choice!(OnUnhealthy, "word" { "rollback" => Self::Rollback, "hold" => Self::Hold, "ignore" => Self::Ignore, });
choice!(Structure, "word" { "fixed" => Self::Fixed, "free" => Self::Free, });
choice!(Format, "word" {
    "text" => Self::Text, "yaml" => Self::Yaml, "json" => Self::Json, "toml" => Self::Toml,
    "systemd-env" => Self::SystemdEnv, "docker-env" => Self::DockerEnv, "dotenv" => Self::Dotenv, "shell" => Self::Shell,
});
choice!(SystemdVerb, "word" {
    "reload" => Self::Reload, "restart" => Self::Restart, "try-restart" => Self::TryRestart,
    "reload-or-restart" => Self::ReloadOrRestart, "try-reload-or-restart" => Self::TryReloadOrRestart,
});

/// An HTTP method.
#[derive(Clone, Copy)]
pub struct Method(pub &'static str);
choice!(Method, "word" {
    "GET" => Self("GET"), "HEAD" => Self("HEAD"), "POST" => Self("POST"), "PUT" => Self("PUT"),
    "PATCH" => Self("PATCH"), "DELETE" => Self("DELETE"), "OPTIONS" => Self("OPTIONS"),
});

/// The schema of text with a pattern; `${…}` may stand for any part of it.
fn text_schema(title: &str, pattern: &str) -> Value {
    json!({"type": "string", "title": title, "pattern": format!("^(?:{pattern})$|\\$\\{{")})
}

/// A scalar that is text, or the fault.
fn text<'a>(node: &'a Node, expected: &str, d: &mut Decoder) -> Option<&'a Scalar> {
    let Content::Scalar(scalar) = &node.content else {
        d.wrong(node, expected, None);
        return None;
    };
    let expanded = scalar.written.is_some();
    match plain(scalar) {
        Plain::Text => {}
        _ if expanded => {}
        Plain::Null => {
            d.wrong(node, expected, "give it a value, or remove the key".to_owned());
            return None;
        }
        _ => {
            d.wrong(node, expected, "put it in quotes".to_owned());
            return None;
        }
    }
    no_nul(node, scalar, d)
}

fn no_nul<'a>(node: &Node, scalar: &'a Scalar, d: &mut Decoder) -> Option<&'a Scalar> {
    if scalar.text.contains('\0') {
        let message = format!("{}: a NUL character cannot stand here", d.path());
        d.fault(node.place, message);
        return None;
    }
    Some(scalar)
}

/// Text.
pub struct Text(pub String);

impl Shape for Text {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        text(node, "text", d).map(|scalar| Self(scalar.text.clone()))
    }

    fn schema() -> Value {
        json!({"type": "string", "title": "text"})
    }
}

/// Tera text. What `${VAR}` stood for may not bring template syntax in.
pub struct Tera(pub String);

impl Shape for Tera {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        let scalar = text(node, "text", d)?;
        template(node, scalar, d).map(Self)
    }

    fn schema() -> Value {
        json!({"type": "string", "title": "template text"})
    }
}

fn template(node: &Node, scalar: &Scalar, d: &mut Decoder) -> Option<String> {
    if let Some(name) = &scalar.template_syntax {
        let message = format!("{}: the value of ${{{name}}} holds template syntax ('{{{{', '{{%' or '{{#')", d.path());
        d.fault_hint(node.place, message, "use env in the template (pass_env) for such a value".to_owned());
        return None;
    }
    Some(scalar.text.clone())
}

/// Tera text, or a number or truth value, which counts as it is written.
pub struct TeraValue(pub String);

impl Shape for TeraValue {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        let scalar = literal(node, d)?;
        template(node, scalar, d).map(Self)
    }

    fn schema() -> Value {
        json!({"type": ["string", "number", "boolean"], "title": "template text"})
    }
}

fn literal<'a>(node: &'a Node, d: &mut Decoder) -> Option<&'a Scalar> {
    match &node.content {
        Content::Scalar(scalar) if plain(scalar) != Plain::Null || scalar.written.is_some() => no_nul(node, scalar, d),
        Content::Scalar(_) => {
            d.wrong(node, "text", "write '' for empty text".to_owned());
            None
        }
        _ => {
            d.wrong(node, "text", None);
            None
        }
    }
}

/// A program and its arguments; numbers count as they are written.
pub struct Command(pub Vec<String>);

impl Shape for Command {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        let Content::List(items) = &node.content else {
            let hint = "write [program, argument]; for a shell, [sh, -c, 'text']";
            d.wrong(node, "a list of program and arguments", hint.to_owned());
            return None;
        };
        let words: Vec<_> = items.iter().map(|item| (!broken(item)).then(|| literal(item, d)).flatten()).collect();
        let words: Option<Vec<String>> = words.into_iter().map(|word| Some(word?.text.clone())).collect();
        let words = words?;
        if words.first().is_none_or(String::is_empty) {
            let message = format!("{}: names no program", d.path());
            d.fault(node.place, message);
            return None;
        }
        Some(Self(words))
    }

    fn schema() -> Value {
        json!({"type": "array", "title": "command", "minItems": 1, "items": {"type": ["string", "number", "boolean"]}})
    }
}

fn broken(node: &Node) -> bool {
    matches!(node.content, Content::Broken)
}

/// A path as written; relative ones count from the config's folder. Empty only as a stand-in after a fault.
pub struct FilePath(pub String);

impl Shape for FilePath {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        let scalar = text(node, "a path", d)?;
        if scalar.text.is_empty() {
            let message = format!("{}: a path cannot be empty", d.path());
            d.fault(node.place, message);
            return None;
        }
        if scalar.text == "~" || scalar.text.starts_with("~/") {
            let message = format!("{}: '~' is not expanded in paths", d.path());
            d.fault_hint(node.place, message, "write ${HOME}".to_owned());
            return None;
        }
        Some(Self(scalar.text.clone()))
    }

    fn schema() -> Value {
        json!({"type": "string", "title": "path", "minLength": 1})
    }

    fn fallback() -> Option<Self> {
        Some(Self(String::new()))
    }
}

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
        if plain(scalar) != Plain::Int {
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
        json!({"title": "whole number", "anyOf": [
            {"type": "integer", "minimum": MIN, "maximum": MAX}, {"type": "string", "pattern": "\\$\\{"}]})
    }
}

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

/// A length of time, at least `MIN` milliseconds and at most ten years.
#[derive(Clone, Copy)]
pub struct Span<const MIN: u64>(pub Duration);

const TEN_YEARS: Duration = Duration::from_secs(3650 * 86_400);

impl<const MIN: u64> Shape for Span<MIN> {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        const EXPECTED: &str = "a duration such as 30s, 1h30m or 90d";
        if let Content::Scalar(scalar) = &node.content {
            if matches!(plain(scalar), Plain::Int | Plain::Float) {
                d.wrong(node, EXPECTED, "add a unit: ms, s, m, h or d".to_owned());
                return None;
            }
        }
        let scalar = text(node, EXPECTED, d)?;
        let Some(span) = duration(&scalar.text) else {
            let message = format!("{}: {} is no duration", d.path(), written(scalar));
            d.fault_hint(node.place, message, "write it as 500ms, 30s, 1h30m or 90d".to_owned());
            return None;
        };
        if span < Duration::from_millis(MIN) || span > TEN_YEARS {
            let message = format!("{}: {} is not between {MIN}ms and 3650d", d.path(), written(scalar));
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
        if let Content::Scalar(scalar) = &node.content {
            if plain(scalar) == Plain::Int && scalar.written.is_none() {
                let digits = scalar.text.trim_start_matches("0o").trim_start_matches('0');
                let hint = format!("write \"0{digits}\": without quotes YAML reads a decimal number");
                d.wrong(node, EXPECTED, hint);
                return None;
            }
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

/// A user or group, by name or number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// By name.
    Name(String),
    /// By number.
    Id(u32),
}

impl Shape for Account {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        const EXPECTED: &str = "a name or a number";
        let Content::Scalar(scalar) = &node.content else {
            d.wrong(node, EXPECTED, None);
            return None;
        };
        let text = match plain(scalar) {
            Plain::Int => &scalar.text,
            _ => &text(node, EXPECTED, d)?.text,
        };
        // (uid_t)-1 means "leave as it is" to chown(2).
        let id = text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty();
        match (id, text.parse::<u32>()) {
            (true, Ok(id)) if id != u32::MAX => Some(Self::Id(id)),
            (false, _) if !text.is_empty() && !text.contains([':', '\n', '/']) && !text.starts_with(['-', '+']) => {
                Some(Self::Name(text.clone()))
            }
            _ => {
                let message = format!("{}: {} is neither a name nor a number of an account", d.path(), written(scalar));
                d.fault(node.place, message);
                None
            }
        }
    }

    fn schema() -> Value {
        json!({"title": "name or number", "type": ["string", "integer"]})
    }
}

/// A signal that a process can take: not KILL, not STOP.
pub struct SignalName(pub Signal);

impl Shape for SignalName {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        if let Content::Scalar(scalar) = &node.content {
            if plain(scalar) == Plain::Int {
                d.wrong(node, "the name of a signal", "write the name, such as HUP".to_owned());
                return None;
            }
        }
        let scalar = text(node, "the name of a signal such as HUP", d)?;
        signal(&scalar.text, node, scalar, d).map(Self)
    }

    fn schema() -> Value {
        text_schema("signal", "(SIG)?[A-Z0-9]+")
    }
}

fn signal(name: &str, node: &Node, scalar: &Scalar, d: &mut Decoder) -> Option<Signal> {
    let short = name.strip_prefix("SIG").unwrap_or(name);
    match Signal::from_str(&format!("SIG{short}")) {
        Ok(Signal::SIGKILL | Signal::SIGSTOP) => {
            let message = format!("{}: no process can take {} up", d.path(), written(scalar));
            d.fault_hint(node.place, message, "use a signal that it handles, such as HUP".to_owned());
            None
        }
        Ok(signal) => Some(signal),
        Err(_) => {
            let names: Vec<&str> = Signal::iterator().map(|s| s.as_str().trim_start_matches("SIG")).collect();
            let message = format!("{}: unknown signal {}", d.path(), written(scalar));
            let short = short.to_uppercase();
            let short = short.strip_prefix("SIG").unwrap_or(&short);
            let hint = did_you_mean(short, names.iter().copied());
            d.fault_hint(node.place, message, hint.or_else(|| Some("write a name such as HUP, TERM or USR1".to_owned())));
            None
        }
    }
}

impl Shape for OnChange {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        let scalar = text(node, "restart, 'signal NAME' or handover", d)?;
        match scalar.text.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["restart"] => Some(Self::Restart),
            ["handover"] => Some(Self::Handover),
            ["signal", name] => signal(name, node, scalar, d).map(Self::Signal),
            _ => {
                let message = format!("{}: unknown value {}", d.path(), written(scalar));
                d.fault_hint(node.place, message, "known: restart, signal NAME (as in 'signal HUP'), handover".to_owned());
                None
            }
        }
    }

    fn schema() -> Value {
        text_schema("restart, signal NAME or handover", "restart|handover|signal +(SIG)?[A-Z0-9]+")
    }
}

/// A loopback address and port.
pub struct Loopback(pub SocketAddr);

impl Shape for Loopback {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        let scalar = text(node, "an address such as 127.0.0.1:9187", d)?;
        let named = scalar.text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
        let named = named.map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
        let Some(address) = named.or_else(|| scalar.text.parse().ok()) else {
            let message = format!("{}: {} is no address with a port", d.path(), written(scalar));
            d.fault_hint(node.place, message, "write it as 127.0.0.1:9187".to_owned());
            return None;
        };
        if !address.ip().is_loopback() {
            let message = format!("{}: {} is not a loopback address", d.path(), written(scalar));
            d.fault_hint(node.place, message, "listen on 127.0.0.1 or [::1], and put a proxy before it".to_owned());
            return None;
        }
        Some(Self(address))
    }

    fn schema() -> Value {
        json!({"type": "string", "title": "address:port"})
    }
}

/// `host:port`.
pub struct HostPort(pub String);

impl Shape for HostPort {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        let scalar = text(node, "a host and port such as 127.0.0.1:5432", d)?;
        let sound = scalar.text.rsplit_once(':').is_some_and(|(host, port)| {
            let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
            let host_sound = match bare {
                Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
                None => !host.is_empty() && !host.contains([':', '/', ' ', '@']),
            };
            host_sound && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if !sound {
            let message = format!("{}: {} is no host:port", d.path(), written(scalar));
            d.fault_hint(node.place, message, "write it as 127.0.0.1:5432 or [::1]:5432".to_owned());
            return None;
        }
        Some(Self(scalar.text.clone()))
    }

    fn schema() -> Value {
        json!({"type": "string", "title": "host:port"})
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
        Plain::Int => scalar.text.parse::<i64>().map(Value::from).or_else(|_| scalar.text.parse::<u64>().map(Value::from)).ok(),
        Plain::Float => scalar.text.parse::<f64>().ok().and_then(serde_json::Number::from_f64).map(Value::Number),
    };
    if number.is_none() {
        let message = format!("{}: the number {} cannot be held", d.path(), written(scalar));
        d.fault_hint(node.place, message, "put it in quotes if it is text".to_owned());
    }
    number
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

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        let of = |text: &str| {
            plain(&Scalar { text: text.to_owned(), written: None, plain: true, template_syntax: None, block: None })
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
