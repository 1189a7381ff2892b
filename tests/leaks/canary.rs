//! Values that must not be seen, every form in which one may be seen, and the search for them.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// Stands in every canary of text: a part of a value is a leak too.
pub const CORE: &str = "zQ7xv9";

/// Canaries by name.
#[derive(Clone, Default)]
pub struct Canaries(BTreeMap<String, Vec<u8>>);

/// The forms to look for, each with the canary's name.
pub struct Net {
    forms: BTreeMap<Vec<u8>, String>,
    /// Forms by their first four bytes.
    by_start: BTreeMap<[u8; 4], Vec<Vec<u8>>>,
}

impl Canaries {
    pub fn add(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.0.insert(name.to_owned(), value.as_ref().to_vec());
    }

    /// Every text of a JSON document, by its path.
    pub fn add_all(&mut self, path: &str, value: &serde_json::Value) {
        match value {
            serde_json::Value::String(text) => self.add(path, text),
            serde_json::Value::Number(number) => self.add(path, number.to_string()),
            serde_json::Value::Array(list) => {
                list.iter().enumerate().for_each(|(i, v)| self.add_all(&format!("{path}[{i}]"), v));
            }
            serde_json::Value::Object(map) => map.iter().for_each(|(k, v)| self.add_all(&format!("{path}.{k}"), v)),
            _ => {}
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// Only those of which the name begins so.
    pub fn only(&self, prefix: &str) -> Canaries {
        Canaries(
            self.0.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(n, v)| (n.clone(), v.clone())).collect(),
        )
    }

    pub fn net(&self) -> Net {
        let mut forms = BTreeMap::new();
        for (name, value) in self.iter() {
            for (kind, form) in forms_of(value) {
                if form.len() >= 6 {
                    forms.entry(form).or_insert_with(|| format!("{name} ({kind})"));
                }
            }
        }
        let mut by_start: BTreeMap<[u8; 4], Vec<Vec<u8>>> = BTreeMap::new();
        for form in forms.keys() {
            by_start.entry(form[..4].try_into().unwrap()).or_default().push(form.clone());
        }
        Net { forms, by_start }
    }
}

fn forms_of(value: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut out = vec![("as it is", value.to_vec())];
    out.push(("percent-encoded", percent(value, true).into_bytes()));
    out.push(("percent-encoded", percent(value, false).into_bytes()));
    out.push(("form-encoded", percent(value, true).replace("%20", "+").into_bytes()));
    out.push(("hex", value.iter().map(|b| format!("{b:02x}")).collect::<String>().into_bytes()));
    for before in 0..3usize {
        let padded = [&vec![0; before], value].concat();
        let (head, tail) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
        for encoded in [STANDARD.encode(&padded), URL_SAFE.encode(&padded)] {
            if tail - head >= 10 {
                out.push(("base64", encoded.as_bytes()[head..tail].to_vec()));
            }
        }
    }
    let Ok(text) = std::str::from_utf8(value) else { return out };
    let json = serde_json::to_string(text).unwrap();
    let twice = serde_json::to_string(&json[1..json.len() - 1]).unwrap();
    out.push(("in JSON", json.as_bytes()[1..json.len() - 1].to_vec()));
    out.push(("in JSON in JSON", twice.as_bytes()[1..twice.len() - 1].to_vec()));
    let debug = format!("{text:?}");
    out.push(("as {:?}", debug.as_bytes()[1..debug.len() - 1].to_vec()));
    let lines = text.lines().map(str::trim).filter(|line| line.len() >= 8 && !line.starts_with("-----"));
    out.extend(lines.map(|line| ("one line of it", line.as_bytes().to_vec())));
    out
}

fn percent(value: &[u8], upper: bool) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let one = |b: &u8| match *b {
        b if plain(b) => char::from(b).to_string(),
        b if upper => format!("%{b:02X}"),
        b => format!("%{b:02x}"),
    };
    value.iter().map(one).collect()
}

impl Net {
    /// Every canary that can be seen in a text as a whole, with the text around it.
    pub fn whole(&self, text: &[u8]) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (at, window) in text.windows(4).enumerate() {
            let Ok(start) = <[u8; 4]>::try_from(window) else { continue };
            for form in self.by_start.get(&start).into_iter().flatten() {
                if text[at..].starts_with(form) {
                    found.insert(format!("{}: {}", self.forms[form], around(text, at, form.len())));
                }
            }
        }
        found
    }

    /// The same; where there is none, every part of one.
    pub fn find(&self, text: &[u8]) -> BTreeSet<String> {
        let mut found = self.whole(text);
        if found.is_empty() {
            let core = CORE.as_bytes();
            for (at, window) in text.windows(core.len()).enumerate() {
                let backwards = window.iter().rev().zip(core).all(|(a, b)| a.eq_ignore_ascii_case(b));
                if window.eq_ignore_ascii_case(core) || backwards {
                    found.insert(format!("a part of a canary: {}", around(text, at, core.len())));
                }
            }
        }
        found
    }
}

fn around(text: &[u8], at: usize, len: usize) -> String {
    let start = text[..at].iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1).max(at.saturating_sub(300));
    let end = (at + len + 80).min(text.len());
    String::from_utf8_lossy(&text[start..end]).into_owned()
}

/// What was seen, to be searched as a whole: one failure tells every leak.
#[derive(Default)]
pub struct Seen(Vec<(String, Vec<u8>)>);

impl Seen {
    pub fn add(&mut self, whence: impl Into<String>, what: impl AsRef<[u8]>) {
        self.0.push((whence.into(), what.as_ref().to_vec()));
    }

    /// Adds every file of a folder for which `look` is true.
    pub fn add_files(&mut self, folder: &std::path::Path, look: &dyn Fn(&std::path::Path) -> bool) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.add_files(&path, look);
            } else if path.is_file() && look(&path) {
                self.add(path.display().to_string(), std::fs::read(&path).unwrap());
            }
        }
    }

    pub fn leaks(&self, net: &Net) -> Vec<String> {
        let mut out = Vec::new();
        for (whence, what) in &self.0 {
            out.extend(net.find(whence.as_bytes()).into_iter().map(|leak| format!("in the name {whence}: {leak}")));
            out.extend(net.find(what).into_iter().map(|leak| format!("in {whence}: {leak}")));
        }
        out
    }

    /// All of it, as text: for what must be there.
    pub fn text(&self, whence: &str) -> String {
        let parts = self.0.iter().filter(|(name, _)| name.contains(whence));
        parts.map(|(_, what)| String::from_utf8_lossy(what).into_owned()).collect()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    #[track_caller]
    pub fn assert_clean(&self, net: &Net) {
        let leaks = self.leaks(net);
        let shown: Vec<&String> = leaks.iter().take(40).collect();
        assert!(leaks.is_empty(), "{} leaks, among them:\n{shown:#?}", leaks.len());
    }
}
