//! Dotenv, the part on which its readers agree:
//!
//! * `NAME=value`, with an optional `export ` before it; blank lines and lines that begin with `#` are left out;
//! * a bare value ends with the line or before ` #`, and is trimmed;
//! * `'…'` is literal and `"…"` knows `\n`, `\r`, `\t`, `\"`, `\\` and `\$` (another backslash stays); both may span lines;
//! * nothing is expanded: a `$` is a `$`;
//! * a name that appears twice is refused.

use crate::secret::{Field, Fields, SecretBytes};

/// What is wrong and where (from 1). Never holds content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What.
    pub what: &'static str,
    /// Line.
    pub line: u64,
    /// Column, in characters.
    pub column: u64,
}

/// The variables of a dotenv text.
///
/// # Errors
/// The first line that is not dotenv.
pub fn parse(text: &str) -> Result<Fields, Error> {
    let mut fields = Fields::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| !c.is_whitespace()) {
        rest = rest.get(start..).unwrap_or_default();
        let fail = |what, at: &str| Err(error(text, at, what));
        if rest.starts_with('#') {
            rest = after_line(rest);
            continue;
        }
        let Some((name, value)) = assignment(rest) else { return fail("expected NAME=value", rest) };
        let (value, after) = match value.chars().next() {
            Some(quote @ ('\'' | '"')) => match quoted(value.get(1..).unwrap_or_default(), quote) {
                Some(found) => found,
                None => return fail("this quote is not closed (half-written?)", value),
            },
            _ => bare(value),
        };
        let tail = after.split('\n').next().unwrap_or_default().trim();
        if !tail.is_empty() && !tail.starts_with('#') {
            return fail("there is text after the closing quote", after);
        }
        if fields.insert(name.to_owned(), Field::Text(value)).is_some() {
            return fail("this name appears twice", rest);
        }
        rest = after_line(after);
    }
    if fields.is_empty() {
        return Err(Error { what: "there is no variable in it", line: 1, column: 1 });
    }
    Ok(fields)
}

/// Whether a line is `NAME=…`.
pub(super) fn is_assignment(line: &str) -> bool {
    assignment(line).is_some()
}

/// The name, and what follows the `=` and any blanks.
fn assignment(text: &str) -> Option<(&str, &str)> {
    let line = text.split('\n').next()?;
    let blank = |c: char| c == ' ' || c == '\t';
    let declared = line
        .strip_prefix("export")
        .filter(|rest| rest.starts_with(blank))
        .map_or(line, |rest| rest.trim_start_matches(blank));
    let equals = declared.find('=')?;
    let name = declared.get(..equals)?.trim_end_matches(blank);
    let good = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    let start = line.len() - declared.len() + equals + 1;
    good.then(|| (name, text.get(start..).unwrap_or_default().trim_start_matches(blank)))
}

/// Up to the closing quote, and what follows it.
fn quoted(text: &str, quote: char) -> Option<(SecretBytes, &str)> {
    let mut value = String::with_capacity(text.len().min(256));
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Some((value.into(), text.get(at + 1..).unwrap_or_default())),
            '\\' if quote == '"' => match chars.next()?.1 {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                c @ ('"' | '\\' | '$') => value.push(c),
                c => value.extend(['\\', c]),
            },
            c => value.push(c),
        }
    }
    None
}

fn bare(text: &str) -> (SecretBytes, &str) {
    let line = text.split('\n').next().unwrap_or_default();
    let comment = if line.starts_with('#') { Some(0) } else { line.find(" #").or_else(|| line.find("\t#")) };
    let value = comment.and_then(|at| line.get(..at)).unwrap_or(line);
    (value.trim().into(), text.get(line.len()..).unwrap_or_default())
}

fn after_line(text: &str) -> &str {
    text.find('\n').and_then(|at| text.get(at..)).unwrap_or_default()
}

fn error(text: &str, at: &str, what: &'static str) -> Error {
    let before = text.get(..text.len() - at.len()).unwrap_or_default();
    let line = before.matches('\n').count() as u64 + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() as u64 + 1;
    Error { what, line, column }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_their_quotes_say() {
        let text = "# c\r\nA=plain value \r\nexport B='it is $literal \\n'\n C = \"two\\nlines \\$x \\q \\\" # no comment\" # one\n\
                    D=\nE=x#y #z\nF='a\nb'\nG==\nH=#\nexport=1\nI=\"\"";
        let fields = parse(text).expect("good");
        let expected = [
            ("A", "plain value"),
            ("B", "it is $literal \\n"),
            ("C", "two\nlines $x \\q \" # no comment"),
            ("D", ""),
            ("E", "x#y"),
            ("F", "a\nb"),
            ("G", "="),
            ("H", ""),
            ("I", ""),
            ("export", "1"),
        ];
        assert_eq!(fields.len(), expected.len());
        for (name, value) in expected {
            let field = fields.get(name).and_then(Field::as_text).expect(name);
            assert_eq!(field.expose_str(), Some(value), "{name}");
        }
    }

    #[test]
    fn faults_have_their_place() {
        let at = |text: &str| parse(text).err().map(|error| (error.line, error.column));
        assert_eq!(at("A=1\n  oops\n"), Some((2, 3)));
        assert_eq!(at("A=1\nB=\"x\n"), Some((2, 3)));
        assert_eq!(at("A=1\nA=2"), Some((2, 1)));
        assert_eq!(at("A='x' y"), Some((1, 6)));
        assert_eq!(at("1A=x"), Some((1, 1)));
        assert_eq!(at("# only\n"), Some((1, 1)));
    }
}
