//! Tera 2's tokens, with their places: just enough to see what a template refers to. The grammar itself stays Tera's;
//! text that Tera would not accept gives no tokens here.

use std::ops::Range;

/// What a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    /// `{{` (false) or `{%` (true).
    Open(bool),
    /// `}}` or `%}`.
    Close,
    /// A name or a keyword.
    Ident(&'a str),
    /// A string literal, unescaped.
    Str(String),
    /// A number.
    Number,
    /// An operator or a bracket.
    Punct(&'a str),
}

/// A token and its bytes in the text.
#[derive(Debug, Clone)]
pub(super) struct Token<'a> {
    pub kind: Kind<'a>,
    pub at: Range<usize>,
}

const LONG: [&str; 10] = ["...", "//", "**", "==", "!=", ">=", "<=", "</", "?.", "?["];
const SHORT: &str = "+-*/%!.,:~|=><()[]{}@";

/// All tokens inside `{{ }}` and `{% %}`; None where the text is no Tera (Tera itself says where).
pub(super) fn lex(text: &str) -> Option<Vec<Token<'_>>> {
    let mut tokens = Vec::new();
    let mut pos = 0;
    while let Some(start) = next_marker(text, pos) {
        match &text[start..start + 2] {
            "{#" => pos = start + text[start..].find("#}")? + 2,
            "{%" => match skip_raw(text, start)? {
                Some(after) => pos = after,
                None => pos = group(text, start, true, &mut tokens)?,
            },
            _ => pos = group(text, start, false, &mut tokens)?,
        }
    }
    Some(tokens)
}

fn next_marker(text: &str, from: usize) -> Option<usize> {
    let found = text.as_bytes()[from..].windows(2).position(|w| matches!(w, b"{{" | b"{%" | b"{#"))?;
    Some(from + found)
}

/// Past `{% raw %}…{% endraw %}`; Some(None) where the tag is another, None where the end is missing.
fn skip_raw(text: &str, start: usize) -> Option<Option<usize>> {
    let Some(body) = tag_named(text, start, "raw") else { return Some(None) };
    let mut from = body;
    loop {
        let at = from + text[from..].find("{%")?;
        if let Some(after) = tag_named(text, at, "endraw") {
            return Some(Some(after));
        }
        from = at + 2;
    }
}

/// The end of the tag at `start`, if it is just `name`.
fn tag_named(text: &str, start: usize, name: &str) -> Option<usize> {
    let blank = |c: char| c.is_ascii_whitespace();
    let rest = &text[start + 2..];
    let rest = rest.strip_prefix('-').unwrap_or(rest).trim_start_matches(blank);
    let rest = rest.strip_prefix(name)?.trim_start_matches(blank);
    let rest = rest.strip_prefix('-').unwrap_or(rest).strip_prefix("%}")?;
    Some(text.len() - rest.len())
}

/// The tokens of one `{{ }}` or `{% %}`; the offset after it.
fn group<'a>(text: &'a str, start: usize, tag: bool, tokens: &mut Vec<Token<'a>>) -> Option<usize> {
    let close = if tag { "%}" } else { "}}" };
    let mut pos = start + 2;
    if text[pos..].starts_with('-') {
        pos += 1;
    }
    tokens.push(Token { kind: Kind::Open(tag), at: start..pos });
    loop {
        pos = text.len() - text[pos..].trim_start_matches(|c: char| c.is_ascii_whitespace()).len();
        let rest = &text[pos..];
        let dash = usize::from(rest.starts_with('-') && rest[1..].starts_with(close));
        if rest[dash..].starts_with(close) {
            let end = pos + dash + 2;
            tokens.push(Token { kind: Kind::Close, at: pos..end });
            return Some(end);
        }
        let (kind, len) = one(rest)?;
        tokens.push(Token { kind, at: pos..pos + len });
        pos += len;
    }
}

fn one(rest: &str) -> Option<(Kind<'_>, usize)> {
    if let Some(op) = LONG.iter().find(|op| rest.starts_with(**op)) {
        return Some((Kind::Punct(op), op.len()));
    }
    let first = rest.chars().next()?;
    match first {
        '\'' | '"' | '`' => string(rest, first),
        '0'..='9' => Some((Kind::Number, number(rest))),
        c if SHORT.contains(c) => Some((Kind::Punct(&rest[..1]), 1)),
        c if c == '_' || c.is_ascii_alphabetic() => {
            let len = rest.bytes().take_while(|b| *b == b'_' || b.is_ascii_alphanumeric()).count();
            Some((Kind::Ident(&rest[..len]), len))
        }
        _ => None,
    }
}

fn number(rest: &str) -> usize {
    let mut dot = false;
    rest.bytes().take_while(|b| b.is_ascii_digit() || (*b == b'.' && !std::mem::replace(&mut dot, true))).count()
}

fn string(rest: &str, quote: char) -> Option<(Kind<'_>, usize)> {
    let mut out = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Some((Kind::Str(out), at + 1)),
            '\\' => out.push(match chars.next()?.1 {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                c @ ('"' | '\'' | '/' | '\\') => c,
                _ => return None,
            }),
            c => out.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Kind<'_>> {
        lex(text).unwrap().into_iter().map(|t| t.kind).collect()
    }

    #[test]
    fn only_what_is_inside_delimiters_is_a_token() {
        assert_eq!(kinds("a {# {{ x }} #} b"), []);
        assert_eq!(kinds("{% raw %}{{ x }}{% endraw %}"), []);
        assert_eq!(kinds("é{{- x -}}é"), [Kind::Open(false), Kind::Ident("x"), Kind::Close]);
    }

    #[test]
    fn strings_hide_delimiters_and_are_unescaped() {
        assert_eq!(kinds(r#"{{ "}}\"'" }}"#)[1], Kind::Str("}}\"'".into()));
        assert!(lex("{{ 'a }}").is_none());
    }

    #[test]
    fn long_operators_win_over_short_ones() {
        let tokens = kinds("{% if a?.b == c[0] %}");
        assert!(tokens.contains(&Kind::Punct("?.")) && tokens.contains(&Kind::Punct("==")));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

        #[test]
        fn what_tera_reads_is_read_here(parts in proptest::collection::vec(proptest::sample::select(vec![
            "{{", "}}", "{{-", "-}}", "{%", "%}", "{%-", "-%}", "{#", "#}", " ", "a", "a.b", "secrets", "['x']", "\"}}\"", "'\\''",
            "if", "endif", "set x =", "raw", "endraw", "|", "upper", "1", "1.5", "-", "is", "defined", "é", "\n", "(", ")", "{", "}",
            "{{ secrets.a }}", "{% if x %}", "{% endif %}", "{% raw %}", "{% endraw %}", "`", "b ~", "?.", "c",
        ]), 0..14)) {
            let text: String = parts.concat();
            let mut tera = tera::Tera::default();
            let syntax = tera.add_raw_template("t", &text).is_err_and(|e| matches!(e.kind(), tera::ErrorKind::SyntaxError(_)));
            let tokens = lex(&text);
            proptest::prop_assert!(syntax || tokens.is_some(), "{}", text);
            let tokens = tokens.unwrap_or_default();
            if !syntax {
                // And every tag that Tera closes is closed here.
                let count = |kind: fn(&Kind<'_>) -> bool| tokens.iter().filter(|t| kind(&t.kind)).count();
                proptest::prop_assert_eq!(count(|k| matches!(k, Kind::Open(_))), count(|k| *k == Kind::Close));
            }
        }
    }
}
