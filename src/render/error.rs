//! What can be wrong with a template, its output or a secret's value. Never a value in it.

use std::fmt;
use std::sync::Arc;

/// One fault, for the operator. It names a place in a template, the config or an output, secrets and fields; it never
/// holds a value, nor text of an output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct RenderError {
    /// What kind of fault.
    pub kind: RenderErrorKind,
    /// The template's path, or where in the config the text stands, or the output's path.
    pub file: Arc<str>,
    /// 1-based; 0 where no line is known.
    pub line: usize,
    /// 1-based, in characters; 0 where no line is known.
    pub column: usize,
    /// What is wrong and what to do.
    pub message: String,
}

/// What kind of fault a [`RenderError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RenderErrorKind {
    /// The template is no Tera, or names an unknown filter, test, function or component.
    Syntax,
    /// A template that another refers to was not given.
    MissingTemplate,
    /// A secret is used that the config does not declare.
    Undeclared,
    /// A secret has no value in the snapshot.
    MissingSecret,
    /// A secret has a value, but not the field; or a variable is undefined.
    MissingField,
    /// `env.NAME` that is not under `pass_env`, or not set.
    Env,
    /// The output would hold a NUL character.
    Nul,
    /// Bytes that are not text, where text is needed.
    NotText,
    /// A filter or an operator refused its input.
    Filter,
    /// The template called `throw`.
    Thrown,
    /// The output is not what its `format` says.
    Parse,
    /// A secret's value changes the structure of the output.
    Structure,
    /// A field does not match its `expect` pattern.
    Expect,
    /// A `resolve` reference that cannot be replaced.
    Reference,
}

impl RenderError {
    pub(super) fn new(kind: RenderErrorKind, file: &Arc<str>, at: (usize, usize), message: impl Into<String>) -> Self {
        Self { kind, file: Arc::clone(file), line: at.0, column: at.1, message: message.into() }
    }

    /// A fault of a whole file or config entry.
    pub(super) fn whole(kind: RenderErrorKind, file: &Arc<str>, message: impl Into<String>) -> Self {
        Self::new(kind, file, (0, 0), message)
    }
}

impl fmt::Display for RenderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}", self.file, self.message)
        } else {
            write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
        }
    }
}

/// ` (did you mean …?)` where a known name is close.
pub(super) fn did_you_mean<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let best = known.map(|k| (strsim::jaro_winkler(name, k), k)).max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(a.1)));
    match best {
        Some((score, known)) if score >= 0.8 => format!(" (did you mean `{known}`?)"),
        _ => String::new(),
    }
}

/// 1-based line and column (in characters) of a byte offset.
pub(super) fn line_col(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let start = before.rfind('\n').map_or(0, |i| i + 1);
    (before.bytes().filter(|b| *b == b'\n').count() + 1, before[start..].chars().count() + 1)
}
