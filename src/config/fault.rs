//! What is wrong with a config, and where: never a value that came out of `${VAR}`.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// A place in a file, both counted from 1; the column in characters. `0` is "the file as a whole".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

/// One thing that is wrong, or (in a list of warnings) doubtful.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file, as the operator named it.
    pub file: Arc<Path>,
    /// Line, from 1; 0 where the fault is the whole file's.
    pub line: u32,
    /// Column in characters, from 1; 0 as for `line`.
    pub column: u32,
    /// What is wrong, on what.
    pub message: String,
    /// What to do, where it is known.
    pub hint: Option<String>,
}

impl Fault {
    /// A fault at a place of a file.
    pub fn new(file: &Arc<Path>, place: Place, message: impl Into<String>, hint: Option<String>) -> Self {
        Self { file: file.clone(), line: place.line, column: place.column, message: message.into(), hint }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// All the faults of a config, in the order of the file; one line each. Exit code 78.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

/// The candidate that was probably meant by `name`, if one is close.
pub fn near<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let name = plain(name);
    let bound = (name.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&name, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= bound && *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A hint after an unknown name: the near one, else (while they are few) what there is.
pub fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    if let Some(candidate) = near(name, candidates.clone()) {
        return Some(format!("did you mean '{candidate}'?"));
    }
    let known: Vec<&str> = candidates.into_iter().collect();
    (!known.is_empty() && known.len() <= 14).then(|| format!("known: {}", known.join(", ")))
}

/// Text of the config as a message may show it: one line, short, control characters escaped.
pub fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut out: String = text.chars().take(LONGEST).flat_map(|c| escape(c).chars().collect::<Vec<_>>()).collect();
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}

/// A key as a message may show it: what follows `:`, `=`, a quote or a space may be a value whose separator was
/// mistyped (`{token:s.123}`), and is left out.
pub fn shown_key(text: &str) -> String {
    match text.find([':', '=', '"', '\'', ' ', '\t']) {
        Some(at) => format!("{}…", shown(&text[..at])),
        None => shown(text),
    }
}

fn escape(c: char) -> String {
    if c.is_control() { c.escape_default().to_string() } else { c.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_found_and_a_far_one_is_not() {
        assert_eq!(near("tempalte", ["template", "inline"]), Some("template"));
        assert_eq!(near("state-dir", ["state_dir"]), Some("state_dir"));
        assert_eq!(near("a", ["b"]), None);
        assert_eq!(near("bananas", ["template", "inline"]), None);
    }

    #[test]
    fn shown_text_is_one_short_line() {
        assert_eq!(shown("a\nb\u{1b}"), "a\\nb\\u{1b}");
        assert_eq!(shown(&"x".repeat(100)).chars().count(), 61);
        assert_eq!(shown_key("token:s.123"), "token…");
    }
}
