//! Logs on standard error, as text for people or JSON for programs, every value in them masked.
//!
//! Each field is masked before it is escaped, so that a JSON line stays JSON and a number that is a secret becomes the
//! text `***`. Names of fields and times are not masked. Control characters are escaped: one event is one line.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::sync::Arc;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::mask::{Registry, registry};

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `TIME LEVEL message key=value …`
    Text,
    /// One object a line: `time`, `level`, `module`, `message`, and the event's and its spans' fields beside them.
    Json,
}

/// Where finished lines go.
pub type Sink = Arc<dyn Fn(&str) + Send + Sync>;

/// Starts logging to standard error for the whole process, and makes panics report through the mask. Does nothing to a
/// logger that is already there (the answer is false then; the panic hook is set all the same).
pub fn init(format: Format, level: LevelFilter) -> bool {
    set_panic_hook();
    let sink: Sink = Arc::new(|line| {
        // Nobody is left to tell when standard error is gone.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    });
    let lines = Lines { format, colour: colour(), registry: registry().clone(), sink };
    tracing_subscriber::registry().with(lines.with_filter(filter(level))).try_init().is_ok()
}

/// Colour only on a terminal, and never with `NO_COLOR` (no-color.org: any non-empty value).
fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// What is logged at a level. Libraries speak from `warn` on, and Vault's client (which logs ordinary 404s as errors, with
/// the path) not at all; at `trace` everything is heard but AWS's.
pub fn filter(level: LevelFilter) -> Targets {
    // What AWS's libraries fail at comes back as an error; what they trace are whole answers, with keys in them.
    let aws = ("aws_", LevelFilter::OFF);
    if level == LevelFilter::TRACE {
        return Targets::new().with_default(level).with_targets([aws]);
    }
    let libraries = LevelFilter::WARN.min(level);
    Targets::new().with_default(libraries).with_targets([("leasehold", level), ("agent", level)]).with_targets([
        aws,
        ("rustify", LevelFilter::OFF),
        ("vaultrs", LevelFilter::OFF),
    ])
}

/// A panic's place and message on standard error, masked; what cannot be masked is withheld.
pub fn set_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("(no message)");
        let text = registry().try_mask(text).unwrap_or("(message withheld: it could not be masked)".into());
        let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        let line = format!("internal error at {place}: {text}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }));
}

/// The layer that makes lines of events.
pub struct Lines {
    /// Text or JSON.
    pub format: Format,
    /// Whether text lines are coloured.
    pub colour: bool,
    /// What to mask.
    pub registry: Registry,
    /// Where a line goes, with its newline, in one call.
    pub sink: Sink,
}

/// The fields of a span, masked when they were recorded.
struct SpanFields(Map<String, Value>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Map::new();
            attributes.record(&mut Fields { registry: &self.registry, into: &mut fields });
            span.extensions_mut().insert(SpanFields(fields));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(SpanFields(fields)) = span.extensions_mut().get_mut::<SpanFields>()
        {
            values.record(&mut Fields { registry: &self.registry, into: fields });
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Map::new();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(SpanFields(outer)) = span.extensions().get::<SpanFields>() {
                fields.extend(outer.clone());
            }
        }
        event.record(&mut Fields { registry: &self.registry, into: &mut fields });
        let time = format!("{:.3}", jiff::Timestamp::now());
        let message = fields.remove("message").unwrap_or_default();
        let level = *event.metadata().level();
        let line = match self.format {
            Format::Text => text(&time, level, self.colour, &message, &fields),
            Format::Json => json(time, level, event.metadata().target(), message, fields),
        };
        (self.sink)(&line);
    }
}

fn text(time: &str, level: Level, colour: bool, message: &Value, fields: &Map<String, Value>) -> String {
    let paint = match level {
        _ if !colour => None,
        Level::ERROR => Some("31"),
        Level::WARN => Some("33"),
        Level::INFO => Some("32"),
        _ => Some("2"),
    };
    let mut line = match paint {
        Some(code) => format!("{time} \x1b[{code}m{level:>5}\x1b[0m "),
        None => format!("{time} {level:>5} "),
    };
    match message {
        Value::String(message) => escape(&mut line, message),
        other => line.push_str(&other.to_string()),
    }
    for (name, value) in fields {
        let _ = write!(line, " {name}=");
        match value {
            Value::String(text) if plain(text) => line.push_str(text),
            other => escape(&mut line, &other.to_string()),
        }
    }
    line.push('\n');
    line
}

fn plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| !c.is_control() && !c.is_whitespace() && !matches!(c, '"' | '=' | '\\'))
}

fn escape(line: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_debug()) } else { line.push(c) }
    }
}

fn json(time: String, level: Level, module: &str, message: Value, fields: Map<String, Value>) -> String {
    let mut object = Map::new();
    for (name, value) in fields {
        let taken = matches!(name.as_str(), "time" | "level" | "module");
        object.insert(if taken { format!("field.{name}") } else { name }, value);
    }
    object.insert("time".into(), time.into());
    object.insert("level".into(), level.as_str().to_lowercase().into());
    object.insert("module".into(), module.into());
    object.insert("message".into(), message);
    let mut line = Value::Object(object).to_string();
    line.push('\n');
    line
}

/// Takes fields down, masked.
struct Fields<'a> {
    registry: &'a Registry,
    into: &'a mut Map<String, Value>,
}

impl Fields<'_> {
    fn text(&mut self, field: &Field, text: &str) {
        let masked = self.registry.mask(text).into_owned();
        self.into.insert(field.name().to_owned(), Value::String(masked));
    }

    fn number(&mut self, field: &Field, number: Value) {
        let text = number.to_string();
        let value = match self.registry.mask(&text) {
            std::borrow::Cow::Borrowed(_) => number,
            std::borrow::Cow::Owned(masked) => Value::String(masked),
        };
        self.into.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.number(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.number(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.into.insert(field.name().to_owned(), Value::Bool(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut next = value.source();
        while let Some(cause) = next {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                let _ = write!(text, ": {cause_text}");
            }
            next = cause.source();
        }
        self.text(field, &text);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.text(field, &format!("{value:?}"));
    }
}
