//! Writing a text so that the reader of a format reads exactly that text, or saying that it cannot.

use tera::{Value, value::ValueKind};

use crate::config::model::Format;

/// Why a text cannot be written in a format. Holds no part of it.
pub(super) type Refusal = &'static str;

const NUL: Refusal = "a value holds a NUL character, which this format cannot carry";

/// Longest line that docker reads: bufio.MaxScanTokenSize less the line's end.
const DOCKER_LINE: usize = 64 * 1024 - 2;

/// A value, quoted for an environment file read by `format`.
///
/// # Errors
/// What that reader cannot read: NUL anywhere; for docker a line break or a very long line; for systemd a Unicode
/// noncharacter; for formats that are no environment file, everything.
pub fn env_quote(format: Format, text: &str) -> Result<String, &'static str> {
    if text.contains('\0') {
        return Err(NUL);
    }
    match format {
        Format::SystemdEnv => systemd(text),
        Format::DockerEnv => docker(text),
        Format::Dotenv => Ok(dotenv(text)),
        Format::Shell => shell_quote(text),
        Format::Text | Format::Yaml | Format::Json | Format::Toml => {
            Err("`env_quote` needs `format=` one of \"systemd-env\", \"docker-env\", \"dotenv\", \"shell\"")
        }
    }
}

/// A name and its quoted value as one line (without its end).
pub(super) fn env_line(format: Format, name: &str, text: &str) -> Result<String, Refusal> {
    let quoted = env_quote(format, text)?;
    let line = match format {
        Format::Shell => format!("export {name}={quoted}"),
        _ => format!("{name}={quoted}"),
    };
    if format == Format::DockerEnv && line.len() > DOCKER_LINE {
        return Err("docker reads no line of an env file longer than 64 KiB");
    }
    Ok(line)
}

/// systemd.exec(5), EnvironmentFile=: in double quotes, `"`, `\`, `` ` `` and `$` behind a backslash; the rest stands for
/// itself, line breaks included.
fn systemd(text: &str) -> Result<String, Refusal> {
    let noncharacter = |c: char| matches!(u32::from(c), 0xFDD0..=0xFDEF) || u32::from(c) & 0xFFFE == 0xFFFE;
    if text.contains(noncharacter) {
        return Err("a value holds a Unicode noncharacter, for which systemd refuses the file");
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '`' | '$') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    Ok(out)
}

/// docker's `--env-file` (docker/cli, opts/file.go) has no quoting: what follows `=` is the value, to the line's end.
fn docker(text: &str) -> Result<String, Refusal> {
    if text.contains('\n') {
        return Err("a value holds a line break, which docker's env files cannot carry");
    }
    if text.ends_with('\r') {
        return Err("a value ends in a carriage return, which docker's env files cannot carry");
    }
    if text.len() > DOCKER_LINE {
        return Err("docker reads no line of an env file longer than 64 KiB");
    }
    Ok(text.to_string())
}

/// python-dotenv's rules. Single quotes, unless a carriage return needs an escape. `${` begins a variable in every kind
/// of quotes and is written `${:-$}{`: the empty variable's default. A backslash may not stand before the closing quote
/// (its pattern would run on to a later quote), so the empty variable `${:-}` follows it.
fn dotenv(text: &str) -> String {
    let single = !text.contains('\r');
    let quote = if single { '\'' } else { '"' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '$' if chars.peek() == Some(&'{') => out.push_str("${:-$}"),
            '\r' => out.push_str("\\r"),
            c if c == '\\' || c == quote => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    if out.ends_with('\\') {
        out.push_str("${:-}");
    }
    out.push(quote);
    out
}

/// One word of a POSIX shell (XCU 2.2.2): in single quotes, each `'` as `'\''`.
///
/// # Errors
/// NUL.
pub fn shell_quote(text: &str) -> Result<String, &'static str> {
    if text.contains('\0') {
        return Err(NUL);
    }
    Ok(format!("'{}'", text.replace('\'', r"'\''")))
}

/// A flow value of YAML 1.2, on one line: texts in double quotes, lists and maps as JSON writes them.
pub(super) fn yaml(value: &Value) -> Result<String, Refusal> {
    write_value(value, Style::Yaml)
}

/// JSON (RFC 8259), on one line.
pub(super) fn json(value: &Value) -> Result<String, Refusal> {
    write_value(value, Style::Json)
}

/// A TOML 1.0 value, on one line.
pub(super) fn toml(value: &Value) -> Result<String, Refusal> {
    write_value(value, Style::Toml)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Yaml,
    Json,
    Toml,
}

fn write_value(value: &Value, style: Style) -> Result<String, Refusal> {
    let mut out = String::new();
    push_value(&mut out, value, style)?;
    Ok(out)
}

fn push_value(out: &mut String, value: &Value, style: Style) -> Result<(), Refusal> {
    match value.kind() {
        ValueKind::None if style == Style::Toml => return Err("TOML has no null"),
        ValueKind::None => out.push_str("null"),
        ValueKind::String => push_text(out, value.as_str().unwrap_or_default(), style)?,
        ValueKind::Array => {
            out.push('[');
            for (i, item) in value.as_array().unwrap_or_default().iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                push_value(out, item, style)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            let mut entries: Vec<_> = value.as_map().into_iter().flatten().collect();
            entries.sort_by(|a, b| a.0.cmp(b.0));
            out.push('{');
            for (i, (key, item)) in entries.into_iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                push_text(out, &key.to_string(), style)?;
                out.push_str(if style == Style::Toml { " = " } else { ": " });
                push_value(out, item, style)?;
            }
            out.push('}');
        }
        ValueKind::Undefined => return Err("the value is undefined"),
        ValueKind::Bytes => return Err("the value is bytes, not text: use `| b64encode`"),
        ValueKind::F64 if value.to_string().contains(['n', 'i', 'N']) => return Err("the number is not finite"),
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// A text in double quotes, with the escapes that all of JSON, YAML and TOML know where they will do.
fn push_text(out: &mut String, text: &str, style: Style) -> Result<(), Refusal> {
    if text.contains('\0') {
        return Err(NUL);
    }
    if super::value::holds_bytes(text) {
        return Err("the value is bytes, not text: use `| b64encode`");
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if needs_escape(c, style) => match u32::from(c) {
                code @ 0..=0xFFFF => out.push_str(&format!("\\u{code:04X}")),
                code => out.push_str(&format!("\\U{code:08X}")),
            },
            c => out.push(c),
        }
    }
    out.push('"');
    Ok(())
}

/// Controls everywhere; beyond them, what YAML calls not printable (1.2.2, 5.1) and its line breaks of old.
fn needs_escape(c: char, style: Style) -> bool {
    match u32::from(c) {
        0..=0x1F | 0x7F..=0x9F => true,
        0x2028 | 0x2029 | 0xFEFF | 0xFFFE | 0xFFFF => true,
        0x1_0000.. => style != Style::Json && u32::from(c) & 0xFFFE == 0xFFFE,
        _ => false,
    }
}

/// Every way in which this room writes a text, without the quotes around it: for those who look for it in another text.
/// A way that refuses the text is left out.
pub fn written(text: &str) -> Vec<zeroize::Zeroizing<String>> {
    let mut out = Vec::new();
    let mut add = |written: Result<String, Refusal>| {
        let Ok(written) = written.map(zeroize::Zeroizing::new) else { return };
        let inside = written.strip_prefix(['"', '\'']).and_then(|rest| rest.strip_suffix(['"', '\'']));
        let inside = zeroize::Zeroizing::new(inside.unwrap_or(&written).to_owned());
        // A line that is not the value's last has no such end.
        if let Some(bare) = inside.strip_suffix("${:-}") {
            out.push(zeroize::Zeroizing::new(bare.to_owned()));
        }
        out.push(inside);
    };
    for format in [Format::SystemdEnv, Format::Dotenv, Format::Shell] {
        add(env_quote(format, text));
    }
    for style in [Style::Yaml, Style::Json, Style::Toml] {
        let mut quoted = String::new();
        add(push_text(&mut quoted, text, style).map(|()| quoted));
    }
    out
}

/// Percent-encoding (RFC 3986): everything but ALPHA, DIGIT, `-`, `.`, `_` and `~`.
pub(super) fn urlencode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 3);
    for b in bytes {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(*b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}
