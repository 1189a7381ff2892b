//! Which of the file types a file is, and from its text to its secrets.

use std::path::Path;

use super::{Document, Fault, dotenv, json, text, yaml};
use crate::secret::{Field, SecretBytes};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Yaml,
    Json,
    Dotenv,
}

pub(super) fn parse(path: &Path, bytes: &SecretBytes) -> Result<Document, Fault> {
    let text = text(bytes)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Err(Fault::malformed("it is empty"));
    }
    let parsed = match kind(path, text) {
        Kind::Dotenv => return Ok(Document::One(dotenv::parse(text).map_err(Fault::from)?)),
        Kind::Yaml => yaml::parse(text)?,
        Kind::Json => json::parse(text)?,
    };
    match parsed {
        Field::Map(secrets) => Ok(Document::Named(secrets)),
        Field::Null => Err(Fault::malformed("it is empty")),
        _ => Err(Fault::malformed("it must be a mapping of secrets' names to their fields").at(1, 1)),
    }
}

impl From<dotenv::Error> for Fault {
    fn from(error: dotenv::Error) -> Self {
        Self::malformed(error.what).at(error.line, error.column)
    }
}

fn kind(path: &Path, text: &str) -> Kind {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    match Path::new(&name).extension().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml") => Kind::Yaml,
        Some("json") => Kind::Json,
        Some("env") => Kind::Dotenv,
        _ if name == ".env" || name.starts_with(".env.") => Kind::Dotenv,
        _ => sniff(text),
    }
}

fn sniff(text: &str) -> Kind {
    if text.trim_start().starts_with('{') {
        return Kind::Json;
    }
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    if first.is_some_and(dotenv::is_assignment) { Kind::Dotenv } else { Kind::Yaml }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_is_the_extension_or_else_what_the_text_looks_like() {
        let of = |path: &str, text: &str| kind(Path::new(path), text);
        assert_eq!(of("/a/s.yaml", "{"), Kind::Yaml);
        assert_eq!(of("/a/s.YML", "A=b"), Kind::Yaml);
        assert_eq!(of("/a/s.json", "a: b"), Kind::Json);
        for name in ["/a/.env", "/a/.env.local", "/a/prod.env"] {
            assert_eq!(of(name, "{}"), Kind::Dotenv, "{name}");
        }
        assert_eq!(of("/a/secrets", "\n {\"a\": 1}"), Kind::Json);
        assert_eq!(of("/a/secrets", "# x\nexport A=b"), Kind::Dotenv);
        assert_eq!(of("/a/secrets", "a: {b: c=d}"), Kind::Yaml);
    }

    #[test]
    fn a_fault_never_quotes_the_content() {
        let canary = "canary-5ecret";
        let files = [
            ("s.yaml", format!("a: {{b: {canary}\nc: [\n")),
            ("s.yaml", format!("a: 1\n{canary}: 2\n{canary}: 3\n")),
            ("s.yaml", canary.to_owned()),
            ("s.yaml", format!("a: !!binary {canary}")),
            ("s.yaml", format!("a: !!int {canary}")),
            ("s.yaml", format!("a: *{canary}")),
            ("s.yaml", format!("? [{canary}]\n: b")),
            ("s.yaml", format!("a: {canary}\n---\nb: c\n")),
            ("s.json", format!("{{\"a\": \"{canary}")),
            ("s.json", format!("{{\"a\": {canary}}}")),
            ("s.json", format!("{{\"{canary}\": 1, \"{canary}\": 2}}")),
            ("s.json", format!("\"{canary}\"")),
            ("s.env", canary.to_owned()),
            ("s.env", format!("A=\"{canary}")),
            ("s.env", format!("A=1\nB={canary}\nA={canary}")),
            ("s.env", format!("A='x'{canary}")),
        ];
        for (name, text) in files {
            let Err(fault) = parse(Path::new(name), &SecretBytes::from(text.clone())) else {
                panic!("accepted: {text}");
            };
            assert!(!fault.what.contains("canary"), "{}", fault.what);
        }
    }
}
