//! Leasehold's filters beside Tera's own. A filter that refuses says why through a slot, never through Tera's error:
//! so no message that reaches the operator can have been made of a value.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use tera::{Error, Kwargs, State, Tera, TeraResult, Value};

use super::quote;
use super::scan::NEED;
use super::value;
use crate::config::model::Format;

/// The context's name for the format of what is being rendered.
pub(super) const FORMAT: &str = "__format";

/// Why a render stopped.
#[derive(Debug)]
pub(super) enum Fault {
    /// The chain of this number is undefined.
    Missing(usize),
    /// A filter refused its input.
    Refused(&'static str),
    /// The template called `throw`.
    Thrown(String),
}

/// Where a filter leaves its fault.
#[derive(Clone, Default)]
pub(super) struct Slot(Arc<Mutex<Option<Fault>>>);

impl Slot {
    fn fail<T>(&self, fault: Fault) -> TeraResult<T> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        Err(Error::message("refused"))
    }

    fn refuse<T>(&self, result: Result<T, &'static str>) -> TeraResult<T> {
        result.or_else(|why| self.fail(Fault::Refused(why)))
    }

    /// Takes the fault out.
    pub fn take(&self) -> Option<Fault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Tera's own filters (2.4) and ours.
pub(super) const FILTERS: [&str; 45] = [
    "safe",
    "default",
    "upper",
    "lower",
    "wordcount",
    "escape",
    "escape_html",
    "escape_xml",
    "newlines_to_br",
    "pluralize",
    "trim",
    "trim_start",
    "trim_end",
    "replace",
    "capitalize",
    "title",
    "truncate",
    "indent",
    "str",
    "int",
    "float",
    "length",
    "reverse",
    "split",
    "abs",
    "round",
    "first",
    "last",
    "nth",
    "join",
    "sort",
    "unique",
    "get",
    "values",
    "keys",
    "pairs",
    "group_by",
    "env_quote",
    "shell_quote",
    "yaml",
    "json",
    "toml",
    "b64encode",
    "b64decode",
    "urlencode",
];

/// Tera's tests.
pub(super) const TESTS: [&str; 17] = [
    "string",
    "number",
    "map",
    "bool",
    "array",
    "integer",
    "float",
    "none",
    "iterable",
    "defined",
    "undefined",
    "odd",
    "even",
    "divisible_by",
    "starting_with",
    "ending_with",
    "containing",
];

/// Tera's functions.
pub(super) const FUNCTIONS: [&str; 3] = ["range", "throw", "super"];

/// Tera without escaping, with our filters.
pub(super) fn tera(slot: &Slot) -> Tera {
    let mut tera = Tera::default();
    tera.autoescape_on(Vec::<&str>::new());
    let s = slot.clone();
    tera.register_filter(NEED, move |v: Value, kwargs: Kwargs, _: &State<'_>| need(&s, v, &kwargs));
    let s = slot.clone();
    tera.register_filter("env_quote", move |v: Value, kwargs: Kwargs, state: &State<'_>| {
        env_quote(&s, &v, &kwargs, state)
    });
    text_filter(&mut tera, "shell_quote", slot, quote::shell_quote);
    text_filter(&mut tera, "b64encode", slot, |text| Ok(STANDARD.encode(value::reveal(text))));
    text_filter(&mut tera, "urlencode", slot, |text| Ok(quote::urlencode(&value::reveal(text))));
    let s = slot.clone();
    tera.register_filter("b64decode", move |v: Value, _: Kwargs, _: &State<'_>| {
        text_of(&s, &v).and_then(|text| s.refuse(b64decode(&text)))
    });
    for (name, write) in [("yaml", quote::yaml as fn(&Value) -> _), ("json", quote::json), ("toml", quote::toml)] {
        let s = slot.clone();
        tera.register_filter(name, move |v: Value, _: Kwargs, _: &State<'_>| s.refuse(write(&v)));
    }
    let s = slot.clone();
    tera.register_function("throw", move |kwargs: Kwargs, _: &State<'_>| -> TeraResult<bool> {
        s.fail(Fault::Thrown(kwargs.get::<String>("message")?.unwrap_or_default()))
    });
    tera
}

fn text_filter(tera: &mut Tera, name: &'static str, slot: &Slot, write: fn(&str) -> Result<String, &'static str>) {
    let slot = slot.clone();
    tera.register_filter(name, move |v: Value, _: Kwargs, _: &State<'_>| {
        text_of(&slot, &v).and_then(|text| slot.refuse(write(&text)))
    });
}

fn need(slot: &Slot, value: Value, kwargs: &Kwargs) -> TeraResult<Value> {
    if value.is_undefined() {
        return slot.fail(Fault::Missing(kwargs.get::<usize>("n")?.unwrap_or(usize::MAX)));
    }
    Ok(value)
}

/// The text that a value prints as; lists, maps and nothing have none.
fn text_of(slot: &Slot, value: &Value) -> TeraResult<String> {
    if value.is_undefined() || value.is_none() || value.is_array() || value.is_map() || value.is_bytes() {
        return slot.fail(Fault::Refused("the filter takes a text or a number, not a list, a map or nothing"));
    }
    Ok(value.to_string())
}

fn env_quote(slot: &Slot, value: &Value, kwargs: &Kwargs, state: &State<'_>) -> TeraResult<String> {
    let text = text_of(slot, value)?;
    if value::holds_bytes(&text) {
        return slot.fail(Fault::Refused("the value is bytes, not text: use `| b64encode`"));
    }
    let name = match kwargs.get::<String>("format")? {
        Some(name) => Some(name),
        None => state.get::<String>(FORMAT)?,
    };
    let format = match name.as_deref() {
        Some("systemd-env") => Format::SystemdEnv,
        Some("docker-env") => Format::DockerEnv,
        Some("dotenv") => Format::Dotenv,
        Some("shell") => Format::Shell,
        _ => Format::Text,
    };
    slot.refuse(quote::env_quote(format, &text))
}

fn b64decode(text: &str) -> Result<Value, &'static str> {
    let packed: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let packed = packed.replace('-', "+").replace('_', "/");
    let bytes = STANDARD.decode(&packed).or_else(|_| STANDARD_NO_PAD.decode(&packed));
    Ok(value::from_bytes(&bytes.map_err(|_| "the value is not base64")?))
}

/// The name by which `env_quote` and the config know a format.
pub(super) fn format_name(format: Format) -> &'static str {
    match format {
        Format::Text => "text",
        Format::Yaml => "yaml",
        Format::Json => "json",
        Format::Toml => "toml",
        Format::SystemdEnv => "systemd-env",
        Format::DockerEnv => "docker-env",
        Format::Dotenv => "dotenv",
        Format::Shell => "shell",
    }
}
