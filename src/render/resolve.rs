//! `resolve`: an existing file in which whole values that are references are replaced, the rest kept byte for byte.
//!
//! Where a reference stands is found in the text; that it is a whole value, and not a comment or a part of a longer
//! text, is what the format's own parser says: every candidate is replaced by a mark, and only marks that the parser
//! gives back as whole values count. After replacing, the output is parsed again and must hold exactly the values meant.

use std::ops::Range;
use std::sync::Arc;

use serde_json::Value as Json;

use super::envfile;
use super::error::{RenderError, RenderErrorKind as Kind, line_col};
use super::quote;
use super::structure::yaml_options;
use crate::config::model::Format;
use crate::secret::{Field, Fields};

/// A value of the form `STORE://PATH#FIELD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// `STORE://PATH`: the name of the secret that it declares.
    pub uri: String,
    /// The field; None where the reference names none, and the secret must have just one.
    pub field: Option<String>,
    /// 1-based.
    pub line: usize,
    /// 1-based, in characters.
    pub column: usize,
    /// What is replaced: the value with its quotes.
    at: Range<usize>,
    quote: Option<char>,
}

/// The references of a file, in order. `stores` are the names that a scheme may be.
///
/// # Errors
/// The file is not what `format` says, `format` is none that can be resolved (YAML, JSON and environment files can), or
/// a value is a reference in a form that cannot be replaced in place (a block scalar, say). `file` is for the message.
pub fn references(file: &str, text: &str, format: Format, stores: &[&str]) -> Result<Vec<Reference>, RenderError> {
    let file: Arc<str> = Arc::from(file);
    let fail = |at, message: String| RenderError::new(Kind::Reference, &file, at, message);
    let candidates = candidates(text, stores);
    let marked =
        splice(text, candidates.iter().enumerate().map(|(i, c)| (c.at.clone(), quoted_mark(format, c.quote, i))));
    let (Some(plain), Some(found)) = (Values::read(format, text), Values::read(format, &marked)) else {
        let what = super::filters::format_name(format);
        let message =
            format!("the file is not valid {what}, or cannot be resolved: YAML, JSON and environment files can");
        return Err(fail((0, 0), message));
    };
    let (whole, other): (Vec<_>, Vec<_>) =
        candidates.into_iter().enumerate().partition(|(i, _)| found.holds(&mark(*i)));
    let meant: Vec<&str> = plain.texts().into_iter().filter(|value| is_reference(value, stores)).collect();
    let marks = found.texts().into_iter().filter(|value| mark_number(value).is_some()).count();
    if meant.len() != marks {
        let stray = other.iter().find(|(_, c)| meant.contains(&text[c.at.clone()].trim_matches(['"', '\''])));
        let at = stray.map_or((0, 0), |(_, c)| (c.line, c.column));
        let message =
            "a reference stands where it cannot be replaced: write it as one plain or quoted value on one line";
        return Err(fail(at, message.to_string()));
    }
    Ok(whole.into_iter().map(|(_, reference)| reference).collect())
}

fn mark(i: usize) -> String {
    format!("reference-mark-{i}-x")
}

/// A mark in the quotes in which a value will stand: what is plain in YAML gets double quotes, which in a block scalar
/// are no quotes and so do not count.
fn quoted_mark(format: Format, quote: Option<char>, i: usize) -> String {
    let quote = if format == Format::Yaml { quote.or(Some('"')) } else { quote };
    let quote = quote.map(String::from).unwrap_or_default();
    format!("{quote}{}{quote}", mark(i))
}

fn is_reference(value: &str, stores: &[&str]) -> bool {
    let Some((store, rest)) = value.split_once("://") else { return false };
    stores.contains(&store) && !rest.is_empty() && !rest.contains(stops)
}

/// What no reference holds.
fn stops(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '\\' | ',' | '[' | ']' | '{' | '}')
}

fn candidates(text: &str, stores: &[&str]) -> Vec<Reference> {
    let mut out: Vec<Reference> = Vec::new();
    for (colon, _) in text.match_indices("://") {
        let Some(store) = stores.iter().filter(|s| text[..colon].ends_with(**s)).max_by_key(|s| s.len()) else {
            continue;
        };
        let start = colon - store.len();
        let before = text[..start].chars().next_back();
        let rest = &text[start..];
        let end = start + rest.find(stops).unwrap_or(rest.len());
        let after = text[end..].chars().next();
        let quote = before.filter(|c| matches!(c, '"' | '\''));
        let whole = match quote {
            Some(quote) => after == Some(quote),
            None => before.is_none_or(|c| c.is_whitespace() || matches!(c, '=' | '[' | '{' | ',' | ':')),
        };
        if !whole || end == colon + 3 || out.last().is_some_and(|last| last.at.end > start) {
            continue;
        }
        let (uri, field) = match text[start..end].split_once('#') {
            Some((uri, field)) => (uri, Some(field.to_string())),
            None => (&text[start..end], None),
        };
        let (line, column) = line_col(text, start);
        let pad = usize::from(quote.is_some());
        out.push(Reference { uri: uri.to_string(), field, line, column, at: start - pad..end + pad, quote });
    }
    out
}

fn splice(text: &str, edits: impl Iterator<Item = (Range<usize>, String)>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut pos = 0;
    for (at, new) in edits {
        out.push_str(&text[pos..at.start]);
        out.push_str(&new);
        pos = at.end;
    }
    out.push_str(&text[pos..]);
    out
}

/// A parsed file.
enum Values {
    Tree(Vec<Json>),
    Variables(Vec<envfile::Variable>),
}

impl Values {
    fn read(format: Format, text: &str) -> Option<Self> {
        Some(match format {
            Format::Yaml => Self::Tree(serde_yaml::from_multiple_with_options(text, yaml_options()).ok()?),
            Format::Json => Self::Tree(vec![serde_json::from_str(text).ok()?]),
            Format::SystemdEnv => Self::Variables(envfile::systemd(text).ok()?),
            Format::DockerEnv => Self::Variables(envfile::docker(text).ok()?),
            Format::Dotenv => Self::Variables(envfile::dotenv(text).ok()?),
            Format::Shell => Self::Variables(shell_variables(text)?),
            Format::Text | Format::Toml => return None,
        })
    }

    fn texts(&self) -> Vec<&str> {
        fn walk<'a>(value: &'a Json, out: &mut Vec<&'a str>) {
            match value {
                Json::String(text) => out.push(text),
                Json::Array(list) => list.iter().for_each(|v| walk(v, out)),
                Json::Object(map) => map.values().for_each(|v| walk(v, out)),
                _ => {}
            }
        }
        let mut out = Vec::new();
        match self {
            Self::Tree(documents) => documents.iter().for_each(|d| walk(d, &mut out)),
            Self::Variables(list) => out.extend(list.iter().filter_map(|v| v.value.as_deref())),
        }
        out
    }

    fn holds(&self, mark: &str) -> bool {
        self.texts().contains(&mark)
    }
}

/// Lines of the form `[export ]NAME=VALUE` with a value in one kind of quotes or none; other lines have no variable.
fn shell_variables(text: &str) -> Option<Vec<envfile::Variable>> {
    envfile::shell(text).ok()?;
    let variable = |line: &str| {
        let line = line.trim_start();
        let (name, value) = line.strip_prefix("export ").map_or(line, str::trim_start).split_once('=')?;
        let value = value.trim_end();
        let value = ['\'', '"'].iter().find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q)).unwrap_or(value);
        Some(envfile::Variable { name: name.to_string(), value: Some(value.to_string()) })
    };
    Some(text.lines().filter_map(variable).collect())
}

/// A file to resolve: its text and its references.
pub(super) struct Resolve {
    pub file: Arc<str>,
    pub text: String,
    pub format: Format,
    pub references: Vec<Reference>,
}

/// A value as it goes into its place, and what the parser must read there.
struct Put {
    written: String,
    /// None for numbers and truth values written plain.
    meant: Option<String>,
}

impl Resolve {
    /// The file with its references replaced; `fields` answers for a secret's name.
    pub fn render<'s>(&self, fields: impl Fn(&str) -> Option<&'s Fields>) -> Result<String, RenderError> {
        let mut puts = Vec::with_capacity(self.references.len());
        for reference in &self.references {
            let fail =
                |kind, message: String| RenderError::new(kind, &self.file, (reference.line, reference.column), message);
            let Some(fields) = fields(&reference.uri) else {
                return Err(fail(Kind::MissingSecret, format!("secret `{}` has no value", reference.uri)));
            };
            let field = pick(fields, reference).map_err(|message| fail(Kind::MissingField, message))?;
            puts.push(self.put(reference, field).map_err(|why| fail(Kind::Filter, why.to_string()))?);
        }
        let edits = self.references.iter().zip(&puts).map(|(r, p)| (r.at.clone(), p.written.clone()));
        let out = splice(&self.text, edits);
        if !self.reads_back(&out, &puts) {
            let message = "the replaced values do not read back as they should: put quotes around the references";
            return Err(RenderError::whole(Kind::Structure, &self.file, message));
        }
        Ok(out)
    }

    fn put(&self, reference: &Reference, field: &Field) -> Result<Put, quote::Refusal> {
        let text = field.as_text().ok_or("the field is a list, a map, null or bytes, and cannot stand as one value")?;
        let text = text.expose_str().ok_or("the field is not text")?;
        let value = tera::Value::from(text);
        let literal = matches!(field, Field::Number(_) | Field::Bool(_));
        let written = match (self.format, reference.quote) {
            (Format::Yaml, None) if literal => return Ok(Put { written: text.to_string(), meant: None }),
            (Format::Yaml, Some('\'')) if !text.contains(|c: char| c.is_control() || !c.is_ascii()) => {
                format!("'{}'", text.replace('\'', "''"))
            }
            (Format::Yaml, _) => quote::yaml(&value)?,
            (Format::Json, _) => quote::json(&value)?,
            (format, _) => quote::env_quote(format, text)?,
        };
        Ok(Put { written, meant: Some(text.to_string()) })
    }

    /// Whether the output holds exactly what was meant, and all else as it was.
    fn reads_back(&self, out: &str, puts: &[Put]) -> bool {
        if self.format == Format::Shell {
            // A word in single quotes is one word with nothing active in it: `shell_quote` proves it by construction.
            return envfile::shell(out).is_ok();
        }
        let marked = splice(
            &self.text,
            self.references.iter().enumerate().map(|(i, r)| (r.at.clone(), quoted_mark(self.format, r.quote, i))),
        );
        match (Values::read(self.format, &marked), Values::read(self.format, out)) {
            (Some(Values::Tree(a)), Some(Values::Tree(b))) => {
                a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| same(a, b, puts))
            }
            (Some(Values::Variables(a)), Some(Values::Variables(b))) => {
                a.len() == b.len()
                    && a.iter().zip(&b).all(|(a, b)| {
                        let put = a.value.as_deref().and_then(mark_number).and_then(|i| puts.get(i));
                        a.name == b.name && put.is_none_or(|put| put.meant == b.value)
                    })
            }
            _ => false,
        }
    }
}

fn mark_number(text: &str) -> Option<usize> {
    text.strip_prefix("reference-mark-")?.strip_suffix("-x")?.parse().ok()
}

fn same(marked: &Json, out: &Json, puts: &[Put]) -> bool {
    match (marked, out) {
        (Json::String(text), out) => match mark_number(text).and_then(|i| puts.get(i)) {
            Some(Put { meant: Some(meant), .. }) => out.as_str() == Some(meant),
            Some(Put { meant: None, .. }) => out.is_number() || out.is_boolean(),
            None => marked == out,
        },
        (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b, puts)),
        (Json::Object(a), Json::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b, puts)))
        }
        (a, b) => a == b,
    }
}

fn pick<'f>(fields: &'f Fields, reference: &Reference) -> Result<&'f Field, String> {
    match &reference.field {
        Some(name) => lookup(fields, name).ok_or_else(|| format!("secret `{}` has no field `{name}`", reference.uri)),
        None => match fields.len() {
            1 => fields.values().next().ok_or_else(String::new),
            n => Err(format!("secret `{}` has {n} fields: say which, as in `{}#FIELD`", reference.uri, reference.uri)),
        },
    }
}

/// A field by its name, or by dotted names into nested maps.
pub(super) fn lookup<'f>(fields: &'f Fields, name: &str) -> Option<&'f Field> {
    if let Some(field) = fields.get(name) {
        return Some(field);
    }
    let (first, rest) = name.split_once('.')?;
    match fields.get(first)? {
        Field::Map(map) => lookup(map, rest),
        _ => None,
    }
}
