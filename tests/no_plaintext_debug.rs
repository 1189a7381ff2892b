//! No type shows plaintext by a derive: a walk through `src/`.
//!
//! A struct or enum that derives `Debug`, `Display` or `Serialize` may hold no type that keeps plaintext without redaction,
//! neither itself nor through another type. What keeps it: the config types that hold expanded text (they have no `Debug`
//! at all), bare zeroized buffers, and the tree of the config file.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Types that keep plaintext and have no redacting `Debug` of their own: nothing that derives may hold one.
const PLAINTEXT: [&str; 14] = [
    "Zeroizing",
    "HttpRequest",
    "ExecReload",
    "ReloadConfig",
    "Source",
    "FileConfig",
    "HealthCheck",
    "HealthConfig",
    "Config",
    "Loaded",
    "Confidential",
    "Variable",
    "Scalar",
    "Node",
];
/// Types that redact themselves, with the file that says so.
const REDACTED: [(&str, &str); 3] = [("SecretBytes", "secret.rs"), ("Field", "secret.rs"), ("Reading", "secret.rs")];
/// What is written to 0600 files by design, or passes a private socket, with why; each must still exist.
const ALLOWED: [(&str, &str, &str); 5] = [
    ("generation/manifest.rs", "StoredRequest", "health.json, 0600 under state_dir"),
    ("watch/record.rs", "Value", "overlap.json, 0600 under state_dir"),
    ("watch/record.rs", "Record", "overlap.json; `Values` writes itself through `Value`"),
    ("watch/record.rs", "Before", "as `Record`"),
    ("process/mod.rs", "Outcome", "a command's output: shown only through the mask, and never by `Debug`"),
];

/// One struct or enum.
struct Type {
    file: PathBuf,
    name: String,
    derives: BTreeSet<String>,
    /// Every type's name in its body.
    holds: BTreeSet<String>,
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The code without comments and texts, so that braces in them do not count.
fn bare(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or_default();
        let mut inside = false;
        for c in line.chars() {
            if c == '"' {
                inside = !inside;
            } else if !inside {
                out.push(c);
            }
        }
        out.push('\n');
    }
    out
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

fn types_of(file: &Path, text: &str) -> Vec<Type> {
    let text = bare(text);
    let mut types = Vec::new();
    let mut rest = text.as_str();
    let mut derives: BTreeSet<String> = BTreeSet::new();
    while let Some(line) = rest.lines().next() {
        let trimmed = line.trim();
        let words_of: Vec<&str> = words(trimmed).collect();
        let at = words_of.iter().position(|word| ["struct", "enum"].contains(word));
        if let Some(derived) = trimmed.strip_prefix("#[derive(") {
            // A derive may go over several lines.
            let all = rest[rest.find("#[derive(").unwrap()..].split(")]").next().unwrap_or(derived);
            derives.extend(words(all).filter(|word| *word != "derive").map(str::to_owned));
        } else if let Some(at) = at.filter(|_| !trimmed.starts_with("#[") && !trimmed.contains("fn "))
            && let Some(name) = words_of.get(at + 1)
        {
            let body = body(rest);
            let inside = body.find(['{', '(']).map_or("", |at| &body[at..]);
            let bare = if words_of[at] == "enum" { without_variants(inside) } else { inside.to_owned() };
            let holds = words(&bare).map(str::to_owned).collect();
            let (file, name) = (file.to_owned(), (*name).to_owned());
            types.push(Type { file, name, derives: std::mem::take(&mut derives), holds });
        }
        rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
    }
    types
}

/// The body of an enum without its variants' names: they look like types.
fn without_variants(body: &str) -> String {
    let (mut out, mut depth, mut named) = (String::new(), 0usize, true);
    let lines = body.lines().filter(|line| !line.trim().starts_with("#["));
    for c in lines.flat_map(|line| line.chars().chain(['\n'])) {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth = depth.saturating_sub(1),
            ',' if depth == 1 => named = true,
            _ => {}
        }
        // From a comma to what the variant holds.
        if depth >= 2 {
            named = false;
        }
        out.push(if named && depth < 2 { ' ' } else { c });
    }
    out
}

/// From the name to the end of the braces or parentheses.
fn body(text: &str) -> String {
    let mut depth = 0usize;
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        out.push(c);
        if depth == 0 && [';', '}'].contains(&c) {
            break;
        }
    }
    out
}

fn shows(derives: &BTreeSet<String>) -> bool {
    ["Debug", "Display", "Serialize"].iter().any(|shown| derives.contains(*shown))
}

/// What is wrong with a set of types.
fn faults(types: &[Type], allowed: &dyn Fn(&Type) -> bool) -> Vec<String> {
    let mut tainted: BTreeMap<String, String> =
        PLAINTEXT.iter().map(|name| ((*name).to_owned(), "it keeps plaintext".to_owned())).collect();
    // Through types of any depth; one that redacts itself ends the chain.
    let redacted = |name: &str| REDACTED.iter().any(|(known, _)| *known == name);
    loop {
        let more: Vec<(String, String)> = types
            .iter()
            .filter(|t| !tainted.contains_key(&t.name) && !redacted(&t.name) && !allowed(t))
            .filter_map(|t| {
                let held = t.holds.iter().find(|held| tainted.contains_key(*held) && **held != t.name)?;
                (shows(&t.derives)).then(|| (t.name.clone(), format!("it holds {held}")))
            })
            .collect();
        if more.is_empty() {
            break;
        }
        tainted.extend(more);
    }
    let mut out = Vec::new();
    for t in types.iter().filter(|t| shows(&t.derives) && !allowed(t) && !redacted(&t.name)) {
        if let Some(held) = t.holds.iter().find(|held| tainted.contains_key(*held)) {
            out.push(format!("{}: {} derives {:?} and holds {held}", t.file.display(), t.name, t.derives));
        } else if PLAINTEXT.contains(&t.name.as_str()) && !["Variable", "Source", "Node"].contains(&t.name.as_str()) {
            out.push(format!("{}: {} keeps plaintext and derives {:?}", t.file.display(), t.name, t.derives));
        }
    }
    for t in types.iter().filter(|t| t.derives.contains("Serialize") && t.holds.contains("SecretBytes") && !allowed(t))
    {
        out.push(format!("{}: {} writes secret bytes", t.file.display(), t.name));
    }
    out
}

fn all() -> Vec<Type> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let tests = |file: &Path| file.to_string_lossy().contains("tests");
    files.retain(|file| !tests(file));
    files
        .iter()
        .flat_map(|file| types_of(file.strip_prefix(&root).unwrap(), &std::fs::read_to_string(file).unwrap()))
        .collect()
}

#[test]
fn no_type_that_shows_itself_holds_plaintext() {
    let types = all();
    assert!(types.len() > 150, "{}", types.len());
    let allowed = |t: &Type| ALLOWED.iter().any(|(file, name, _)| t.file == Path::new(file) && t.name == *name);
    for (file, name, why) in ALLOWED {
        assert!(types.iter().any(|t| t.file == Path::new(file) && t.name == name), "{file}: {name} ({why}) is gone");
    }
    let faults = faults(&types, &allowed);
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn what_redacts_itself_derives_nothing_that_shows_it() {
    let types = all();
    for (name, file) in REDACTED {
        let found =
            types.iter().find(|t| t.name == name && t.file == Path::new(file)).unwrap_or_else(|| panic!("{name}"));
        assert!(!shows(&found.derives), "{name} derives {:?}", found.derives);
    }
    let secret = leasehold::secret::SecretBytes::from("hunter22");
    let field = leasehold::secret::Field::Map([("a".to_owned(), leasehold::secret::Field::text("hunter22"))].into());
    assert!(!format!("{secret:?} {field:?} {:?}", Some(&secret)).contains("hunter22"));
}

#[test]
fn the_walk_finds_what_it_looks_for() {
    let plain = |text: &str| faults(&types_of(Path::new("x.rs"), text), &|_| false);
    assert_eq!(plain("#[derive(Clone, Debug)]\npub struct A {\n    b: Option<HttpRequest>,\n}\n").len(), 1);
    assert_eq!(plain("#[derive(\n    Clone,\n    Debug,\n)]\nenum A {\n    B(Zeroizing<String>),\n}\n").len(), 1);
    assert_eq!(plain("#[derive(Debug)]\nstruct A(B);\n#[derive(Debug)]\nstruct B { c: Zeroizing<u8> }\n").len(), 2);
    assert_eq!(plain("#[derive(Serialize)]\nstruct A { b: SecretBytes }\n").len(), 1);
    assert_eq!(plain("#[derive(Debug)]\nenum A {\n    B,\n    #[x]\n    C { d: HttpRequest },\n}\n").len(), 1);
    assert!(plain("#[derive(Debug)]\nenum A {\n    Config,\n    Source(u8),\n    Node { a: u8 },\n}\n").is_empty());
    assert_eq!(plain("#[derive(Debug)]\npub struct HttpRequest { url: String }\n").len(), 1);
    assert!(plain("#[derive(Debug)]\nstruct A { b: SecretBytes, c: Vec<Field> }\n").is_empty());
    assert!(plain("#[derive(Clone)]\nstruct A { b: HttpRequest }\n").is_empty());
    assert!(plain("#[derive(Debug)]\nstruct A { b: u8 } // HttpRequest\n").is_empty());
}
