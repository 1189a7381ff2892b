//! Readers of environment files, each by the rules of the program that reads them. They say which variables a file
//! sets; what a file holds beside that (comments, blank lines) is ignored as the program ignores it.

use std::str::CharIndices;

/// One variable as its reader sees it.
#[derive(Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value; None where the file only names it.
    pub value: Option<String>,
}

/// Line (1-based) at which a reader gives up, or would skip what it cannot read.
pub type BadLine = usize;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    PreKey,
    Key,
    PreValue,
    Value,
    ValueEscape,
    Single,
    Double,
    DoubleEscape,
    Comment,
    CommentEscape,
}

/// systemd's `EnvironmentFile=`: the states of parse_env_file_internal in src/basic/env-file.c, and what
/// load_environment drops afterwards (names that are none).
///
/// # Errors
/// The line of a variable whose name systemd would ignore, or of a line without `=`.
pub fn systemd(text: &str) -> Result<Vec<Variable>, BadLine> {
    let mut reader =
        Systemd { state: State::PreKey, key: String::new(), value: String::new(), keep: None, out: Vec::new() };
    let (mut line, mut begun) = (1, 1);
    for c in text.chars() {
        if reader.state == State::PreKey {
            begun = line;
        }
        reader.step(c).map_err(|()| begun)?;
        line += usize::from(c == '\n');
    }
    if reader.state == State::Key {
        return Err(begun);
    }
    if !matches!(reader.state, State::PreKey | State::Comment | State::CommentEscape) {
        reader.push().map_err(|()| begun)?;
    }
    Ok(reader.out)
}

struct Systemd {
    state: State,
    key: String,
    value: String,
    /// Where the value's trailing blanks begin.
    keep: Option<usize>,
    out: Vec<Variable>,
}

impl Systemd {
    fn step(&mut self, c: char) -> Result<(), ()> {
        let newline = matches!(c, '\n' | '\r');
        let blank = matches!(c, ' ' | '\t' | '\n' | '\r');
        self.state = match self.state {
            State::PreKey if matches!(c, '#' | ';') => State::Comment,
            State::PreKey if blank => State::PreKey,
            State::PreKey => {
                self.key = c.to_string();
                State::Key
            }
            State::Key if newline => return Err(()),
            State::Key if c == '=' => {
                self.keep = None;
                State::PreValue
            }
            State::Key => {
                self.key.push(c);
                State::Key
            }
            State::PreValue | State::Value if newline => {
                self.push()?;
                State::PreKey
            }
            State::PreValue if c == '\'' => State::Single,
            State::PreValue if c == '"' => State::Double,
            State::PreValue | State::Value if c == '\\' => {
                self.keep = None;
                State::ValueEscape
            }
            State::PreValue if blank => State::PreValue,
            State::PreValue | State::Value => {
                self.keep = if blank { self.keep.or(Some(self.value.len())) } else { None };
                self.value.push(c);
                State::Value
            }
            State::ValueEscape => {
                if !newline {
                    self.value.push(c);
                }
                State::Value
            }
            State::Single if c == '\'' => State::PreValue,
            State::Double if c == '"' => State::PreValue,
            State::Double if c == '\\' => State::DoubleEscape,
            State::Single | State::Double => {
                self.value.push(c);
                self.state
            }
            State::DoubleEscape => {
                if !matches!(c, '"' | '\\' | '`' | '$' | '\n') {
                    self.value.push('\\');
                }
                if c != '\n' {
                    self.value.push(c);
                }
                State::Double
            }
            State::Comment if c == '\\' => State::CommentEscape,
            State::Comment | State::CommentEscape if newline => State::PreKey,
            State::Comment | State::CommentEscape => State::Comment,
        };
        Ok(())
    }

    fn push(&mut self) -> Result<(), ()> {
        if self.state == State::Value {
            self.value.truncate(self.keep.unwrap_or(self.value.len()));
        }
        let name = self.key.trim_end_matches([' ', '\t', '\n', '\r']).to_string();
        let value = std::mem::take(&mut self.value);
        if !is_name(&name) {
            return Err(());
        }
        self.out.push(Variable { name, value: Some(value) });
        Ok(())
    }
}

/// A name that systemd and a shell accept: letters, digits and `_`, no digit first.
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic())
        && name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric())
}

/// docker's `--env-file`: parseKeyValueFile of docker/cli, opts/file.go.
///
/// # Errors
/// The line that docker refuses.
pub fn docker(text: &str) -> Result<Vec<Variable>, BadLine> {
    let mut out = Vec::new();
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    for (i, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.len() >= 64 * 1024 {
            return Err(i + 1);
        }
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value.to_string())),
            None => (line.trim_end(), None),
        };
        if name.is_empty() || name.contains([' ', '\t']) {
            return Err(i + 1);
        }
        out.push(Variable { name: name.to_string(), value });
    }
    Ok(out)
}

/// python-dotenv (its parser.py and variables.py), as it reads a file with no variable set outside it.
///
/// # Errors
/// The line that it would skip with a warning.
pub fn dotenv(text: &str) -> Result<Vec<Variable>, BadLine> {
    // A file opened as text: every kind of line break is `\n`.
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
    let mut out: Vec<Variable> = Vec::new();
    let mut rest = text.as_str();
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(out);
        }
        let line = text[..text.len() - rest.len()].matches('\n').count() + 1;
        let (binding, after) = dotenv_binding(rest).ok_or(line)?;
        if let Some(mut variable) = binding {
            variable.value = variable.value.map(|value| expand(&value, &out));
            out.push(variable);
        }
        rest = after;
    }
}

fn blanks(text: &str) -> &str {
    text.trim_start_matches(|c: char| c.is_whitespace() && c != '\n')
}

fn dotenv_binding(text: &str) -> Option<(Option<Variable>, &str)> {
    let unexported = text.strip_prefix("export").map(|rest| (rest, blanks(rest)));
    let text = match unexported {
        Some((rest, after)) if rest.len() != after.len() => after,
        _ => text,
    };
    if text.starts_with('#') {
        return Some((None, text.split_once('\n').map_or("", |(_, rest)| rest)));
    }
    let (name, rest) = if let Some(quoted) = text.strip_prefix('\'') {
        quoted.split_once('\'').filter(|(name, _)| !name.is_empty())?
    } else {
        let end = text.find(|c: char| matches!(c, '=' | '#') || c.is_whitespace()).unwrap_or(text.len());
        (!text[..end].is_empty()).then(|| text.split_at(end))?
    };
    let rest = blanks(rest);
    let (value, rest) = match rest.strip_prefix('=') {
        Some(rest) => {
            let (value, rest) = dotenv_value(blanks(rest))?;
            (Some(value), rest)
        }
        None => (None, rest),
    };
    let rest = blanks(rest);
    let rest = if rest.starts_with('#') { rest.find('\n').map_or("", |i| &rest[i..]) } else { rest };
    let rest = match rest.strip_prefix('\n') {
        Some(rest) => rest,
        None if rest.is_empty() => rest,
        None => return None,
    };
    Some((Some(Variable { name: name.to_string(), value }), rest))
}

fn dotenv_value(text: &str) -> Option<(String, &str)> {
    match text.chars().next() {
        Some(quote @ ('\'' | '"')) => {
            let end = dotenv_closing(&text[1..], quote)?;
            let escapes = if quote == '"' { "\\'\"abfnrtv" } else { "\\'" };
            Some((unescape(&text[1..=end], escapes), &text[end + 2..]))
        }
        _ => {
            let (line, rest) = text.split_at(text.find('\n').unwrap_or(text.len()));
            let mut comment =
                line.char_indices().filter(|(i, c)| *c == '#' && line[..*i].ends_with(char::is_whitespace));
            let value = comment.next().map_or(line, |(i, _)| &line[..i]);
            Some((value.trim_end().to_string(), rest))
        }
    }
}

/// Where `'((?:\\'|[^'])*)'` ends: at the first quote that no backslash precedes, or, where there is none, by
/// backtracking, at the last one.
fn dotenv_closing(text: &str, quote: char) -> Option<usize> {
    let mut last = None;
    let mut before = None;
    for (i, c) in text.char_indices() {
        if c == quote {
            if before != Some('\\') {
                return Some(i);
            }
            last = Some(i);
        }
        before = Some(c);
    }
    last
}

fn unescape(text: &str, escapes: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some(next)) if escapes.contains(*next) => {
                out.push(match *next {
                    'a' => '\u{7}',
                    'b' => '\u{8}',
                    'f' => '\u{C}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'v' => '\u{B}',
                    c => c,
                });
                chars.next();
            }
            (c, _) => out.push(c),
        }
    }
    out
}

/// `${NAME}` and `${NAME:-default}`, with the variables of the same file.
fn expand(value: &str, known: &[Variable]) -> String {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(start) = rest.find("${") {
        let Some((name, default, end)) = variable(&rest[start..]) else {
            out.push_str(&rest[..start + 2]);
            rest = &rest[start + 2..];
            continue;
        };
        out.push_str(&rest[..start]);
        let found = known.iter().rev().find(|v| v.name == name).and_then(|v| v.value.as_deref());
        out.push_str(found.unwrap_or(default));
        rest = &rest[start + end..];
    }
    out.push_str(rest);
    out
}

/// Name, default and length of the variable that a text begins with.
fn variable(text: &str) -> Option<(&str, &str, usize)> {
    let inner = text.strip_prefix("${")?;
    let stop = inner.find(['}', ':'])?;
    if inner[stop..].starts_with('}') {
        return Some((&inner[..stop], "", stop + 3));
    }
    let default = inner[stop..].strip_prefix(":-")?;
    let end = default.find('}')?;
    Some((&inner[..stop], &default[..end], 2 + stop + 2 + end + 1))
}

/// How many variables a dotenv value would expand: a value must not add one. The empty variable, by which our quoting
/// writes what cannot stand for itself, is none.
pub(super) fn expansions(text: &str) -> usize {
    let named = |at: usize| variable(&text[at..]).is_some_and(|(name, _, _)| !name.is_empty());
    text.match_indices("${").filter(|(at, _)| named(*at)).count()
}

/// What a POSIX shell would see in a text: words, and everything in them that is active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// A word; the name it assigns, if it begins as an assignment; its active characters (expansions, globs) in order.
    Word(Option<String>, String),
    /// An operator character.
    Operator(char),
    /// The end of a line.
    Newline,
}

/// The tokens of a shell script (XCU 2.3), comments left out. Here-documents are read as words: enough to see that
/// a value added something, not to run it.
///
/// # Errors
/// The line on which a quote is opened that is never closed.
pub fn shell(text: &str) -> Result<Vec<Token>, BadLine> {
    let mut out = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some(&(at, c)) = chars.peek() {
        match c {
            ' ' | '\t' => {
                chars.next();
            }
            '\n' => {
                out.push(Token::Newline);
                chars.next();
            }
            '#' => while chars.next_if(|(_, c)| *c != '\n').is_some() {},
            ';' | '&' | '|' | '<' | '>' | '(' | ')' => {
                out.push(Token::Operator(c));
                chars.next();
            }
            _ => {
                let word = shell_word(&mut chars).ok_or_else(|| text[..at].matches('\n').count() + 1)?;
                out.push(word);
            }
        }
    }
    Ok(out)
}

fn shell_word(chars: &mut std::iter::Peekable<CharIndices<'_>>) -> Option<Token> {
    let (mut plain, mut name, mut active) = (String::new(), None, String::new());
    while let Some((_, c)) =
        chars.next_if(|(_, c)| !matches!(c, ' ' | '\t' | '\n' | ';' | '&' | '|' | '<' | '>' | '(' | ')'))
    {
        match c {
            '\'' => while chars.next()?.1 != '\'' {},
            '"' => loop {
                match chars.next()?.1 {
                    '"' => break,
                    '\\' => {
                        chars.next()?;
                    }
                    c @ ('$' | '`') => active.push(c),
                    _ => {}
                }
            },
            '\\' => {
                chars.next();
            }
            '$' | '`' | '*' | '?' | '[' | ']' | '~' | '{' | '}' | '!' => active.push(c),
            '=' if name.is_none() && is_name(&plain) => name = Some(plain.clone()),
            _ => {}
        }
        plain.push(c);
    }
    Some(Token::Word(name, active))
}
