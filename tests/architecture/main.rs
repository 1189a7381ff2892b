//! Keeps docs/architecture.md true: walks `src/` and fails on an arrow that runs back, on an edge that names another edge,
//! and on a runtime, a file, a clock or a random number in the core.
//!
//! What it reads is tokens, without comments, strings and test code; `use` trees and paths in expressions are treated alike.
//! It does not see through macros or re-exports.

#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

mod tokens;

use tokens::{Token, tokens};

/// The tokens without items under `#[cfg(test)]` (also `all(test, …)`).
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if text(at) != "#" || text(at + 1) != "[" {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let end = closing(tokens, at + 1) + 1;
        let attribute: Vec<&str> = tokens[at..end].iter().map(|token| token.text.as_str()).collect();
        let for_tests = attribute.get(2) == Some(&"cfg") && attribute.contains(&"test") && !attribute.contains(&"not");
        at = end;
        if for_tests {
            while text(at) == "#" && text(at + 1) == "[" {
                at = closing(tokens, at + 1) + 1;
            }
            while at < tokens.len() && text(at) != ";" {
                let block = text(at) == "{";
                at = if matches!(text(at), "{" | "(" | "[") { closing(tokens, at) + 1 } else { at + 1 };
                if block {
                    break;
                }
            }
        }
    }
    kept
}

/// The position of the bracket that closes the one at `open`.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len().saturating_sub(1)
}

/// A path that the source names, `use` groups taken apart.
type Named = (Vec<String>, usize);

/// Every path in the source.
fn paths(tokens: &[Token]) -> Vec<Named> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        at = if is_name(&tokens[at].text) { path_tree(tokens, at, &[], &mut found) } else { at + 1 };
    }
    found
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Takes `a::b`, `a::{b, c::d}` or `a::*` apart from `at` on; the answer is where it ends.
fn path_tree(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut Vec<Named>) -> usize {
    let line = tokens[at].line;
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(at).map(|token| token.text.as_str()) {
            Some("{") => {
                let end = closing(tokens, at);
                at += 1;
                while at < end {
                    let branch = is_name(&tokens[at].text) || matches!(tokens[at].text.as_str(), "{" | "*");
                    at = if branch { path_tree(tokens, at, &path, found) } else { at + 1 };
                    if tokens.get(at).is_some_and(|token| token.text == "as") {
                        at += 2;
                    }
                }
                return end + 1;
            }
            Some(text) if text == "*" || is_name(text) => {
                path.push(text.to_owned());
                at += 1;
            }
            _ => break,
        }
        if tokens.get(at).is_none_or(|token| token.text != "::") {
            break;
        }
        at += 1;
    }
    found.push((path, line));
    at
}

/// One room as docs/architecture.md has it.
#[derive(Clone, Debug)]
struct Room {
    floor: String,
    row: usize,
}

struct House(BTreeMap<String, Room>);

impl House {
    /// Reads the table of rooms.
    fn read(page: &str) -> Self {
        let mut rooms = BTreeMap::new();
        let mut floor = String::new();
        for (row, line) in page.lines().enumerate().filter(|(_, line)| line.starts_with('|')) {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, on, names, ..] = cells.as_slice() else { continue };
            if !on.is_empty() {
                floor = (*on).to_owned();
            }
            for name in names.split('`').skip(1).step_by(2) {
                let name = name.trim_end_matches('/').trim_end_matches(".rs");
                rooms.insert(name.to_owned(), Room { floor: floor.clone(), row });
            }
        }
        Self(rooms)
    }

    /// Why room `from` may not use room `to`, if it may not.
    fn refuses(&self, from: &str, to: &str) -> Option<String> {
        let (Some(user), Some(used)) = (self.0.get(from), self.0.get(to)) else { return None };
        if from == to {
            return None;
        }
        if user.floor == "edges" && used.floor == "edges" {
            return Some(format!("the edge `{from}` names the edge `{to}`"));
        }
        // Rooms that share a row may stand on each other, but not in a circle: `circle` looks for that.
        (used.row < user.row).then(|| format!("`{from}` uses `{to}`, which is not below it"))
    }
}

/// The rooms that a file names, with lines. `module` is the file's path as a module: `[store, file]` for `src/store/file.rs`.
fn rooms_named(house: &House, module: &[String], paths: &[Named]) -> Vec<(String, usize)> {
    paths
        .iter()
        .filter_map(|(path, line)| {
            let supers = path.iter().take_while(|part| *part == "super").count();
            let at_root = match path.first()?.as_str() {
                "crate" | "leasehold" => 1,
                "super" if supers >= module.len() => supers,
                _ => return None,
            };
            let name = path.get(at_root)?;
            (name == "*" || house.0.contains_key(name)).then(|| (name.clone(), *line))
        })
        .collect()
}

/// What no room of the core may name, and why.
fn impure(path: &[String], may_read_files: bool) -> Option<&'static str> {
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    let has = |pair: [&str; 2]| parts.windows(2).any(|two| two == pair);
    if matches!(parts.first(), Some(&("tokio" | "tokio_util"))) {
        return Some("a runtime");
    }
    if !may_read_files && (parts.starts_with(&["std", "fs"]) || has(["rustix", "fs"]) || has(["nix", "fcntl"])) {
        return Some("a file");
    }
    let clock = has(["time", "Instant"]) || has(["time", "SystemTime"]) || has(["time", "*"]);
    if clock || has(["Timestamp", "now"]) || has(["Zoned", "now"]) || has(["Instant", "now"]) {
        return Some("a clock");
    }
    let dice = matches!(parts.first(), Some(&("rand" | "fastrand" | "getrandom")));
    if dice || has(["ring", "rand"]) || has(["rand", "SystemRandom"]) || has(["random", "RandomState"]) {
        return Some("a random number");
    }
    None
}

/// Methods of `Path` that ask the file system.
const FILE_METHODS: [&str; 9] =
    ["canonicalize", "exists", "try_exists", "is_file", "is_dir", "is_symlink", "metadata", "read_dir", "read_link"];

/// Every rule that a file breaks. `file` is its path under `src/`.
fn faults(house: &House, file: &str, source: &str) -> Vec<String> {
    let module = module_of(file);
    let Some(room) = module.first() else { return Vec::new() };
    let Some(own) = house.0.get(room) else {
        return vec![format!("src/{file}: the room `{room}` has no row in docs/architecture.md")];
    };
    let tokens = without_tests(&tokens(source));
    let paths = paths(&tokens);
    let mut faults = Vec::new();
    for (to, line) in rooms_named(house, &module, &paths).into_iter().collect::<BTreeSet<_>>() {
        if to == "*" {
            faults.push(format!("src/{file}:{line}: a glob over all rooms"));
        } else if let Some(why) = house.refuses(room, &to) {
            faults.push(format!("src/{file}:{line}: {why}"));
        }
    }
    if own.floor == "core" {
        let may_read_files = room == "config" && module.get(1).is_some_and(|name| name.starts_with("load"));
        for (path, line) in &paths {
            if let Some(what) = impure(path, may_read_files) {
                faults.push(format!("src/{file}:{line}: {what} in the core: `{}`", path.join("::")));
            }
        }
        for three in tokens.windows(3).filter(|_| !may_read_files) {
            if three[0].text == "." && FILE_METHODS.contains(&three[1].text.as_str()) && three[2].text == "(" {
                faults.push(format!("src/{file}:{}: a file in the core: `.{}(`", three[1].line, three[1].text));
            }
        }
    }
    faults
}

/// The module that a file under `src/` is: `[store, file]` for `store/file.rs`, `[store]` for `store/mod.rs`; empty for
/// `lib.rs`, which only declares.
fn module_of(file: &str) -> Vec<String> {
    let file = file.trim_end_matches(".rs");
    let mut module: Vec<String> = file.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|name| name == "mod") {
        module.pop();
    }
    if module == ["lib"] { Vec::new() } else { module }
}

/// A circle of arrows, if there is one.
fn circle(arrows: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk(at: &str, arrows: &BTreeMap<String, BTreeSet<String>>, way: &mut Vec<String>) -> Option<Vec<String>> {
        if let Some(start) = way.iter().position(|room| room == at) {
            return Some(way[start..].to_vec());
        }
        way.push(at.to_owned());
        let found = arrows.get(at).into_iter().flatten().find_map(|next| walk(next, arrows, way));
        way.pop();
        found
    }
    arrows.keys().find_map(|room| walk(room, arrows, &mut Vec::new()))
}

/// The arrows between rooms that share a row, as far as one file draws them.
fn arrows_in_row(house: &House, file: &str, source: &str, arrows: &mut BTreeMap<String, BTreeSet<String>>) {
    let module = module_of(file);
    let Some((room, own)) = module.first().and_then(|room| Some((room, house.0.get(room)?))) else { return };
    for (to, _) in rooms_named(house, &module, &paths(&without_tests(&tokens(source)))) {
        if &to != room && house.0.get(&to).is_some_and(|other| other.row == own.row) {
            arrows.entry(room.clone()).or_default().insert(to);
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn house() -> House {
    House::read(&std::fs::read_to_string(root().join("docs/architecture.md")).expect("docs/architecture.md is there"))
}

/// Every source file under `src/` that is not test code: path under `src/`, text.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("src/ can be read") {
            let path = entry.expect("src/ can be read").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    let src = root().join("src");
    walk(&src, &mut found);
    found.sort();
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&src).expect("it is under src/").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&path).expect("a source file is UTF-8"))
        })
        .filter(|(name, _)| !name.trim_end_matches(".rs").split('/').any(|p| p == "tests" || p.ends_with("_tests")))
        .collect()
}

#[test]
fn no_arrow_runs_back_and_the_core_is_pure() {
    let house = house();
    let mut all = Vec::new();
    let mut arrows = BTreeMap::new();
    for (file, source) in sources() {
        all.extend(faults(&house, &file, &source));
        arrows_in_row(&house, &file, &source, &mut arrows);
    }
    if let Some(rooms) = circle(&arrows) {
        all.push(format!("rooms use each other in a circle: {}", rooms.join(" -> ")));
    }
    assert!(all.is_empty(), "docs/architecture.md is not kept:\n{}", all.join("\n"));
}

#[test]
fn the_table_is_read_whole() {
    let house = house();
    for (name, floor) in [
        ("main", "top"),
        ("cli", "top"),
        ("agent", "wiring"),
        ("driver", "wiring"),
        ("store", "edges"),
        ("journal", "edges"),
        ("durable", "ground"),
        ("rotation", "core"),
        ("digest", "core"),
    ] {
        assert_eq!(house.0.get(name).map(|room| room.floor.as_str()), Some(floor), "{name}");
    }
}

#[test]
fn the_sources_are_walked() {
    let files: Vec<String> = sources().into_iter().map(|(file, _)| file).collect();
    assert!(
        files.iter().any(|file| file == "config/model.rs") && files.iter().any(|file| file == "secret.rs"),
        "{files:?}"
    );
}

/// Each of these must be caught, and the message must say what is wrong.
#[test]
fn seeded_faults_are_caught() {
    let house = house();
    for (file, source, says) in [
        ("store/file.rs", "use crate::reload::Reload;", "the edge `store` names the edge `reload`"),
        (
            "store/file.rs",
            "use crate::{secret::Reading, probe::{Probe, Attempt}};",
            "the edge `store` names the edge `probe`",
        ),
        ("store/file.rs", "fn f() { crate::generation::stage(); }", "names the edge `generation`"),
        ("store/file.rs", "use super::super::journal;", "names the edge `journal`"),
        ("journal.rs", "use super::store;", "names the edge `store`"),
        ("durable.rs", "use crate::journal::Journal;", "`durable` uses `journal`, which is not below it"),
        ("secret.rs", "use crate::config::model::Config;", "`secret` uses `config`"),
        ("rotation/mod.rs", "use crate::driver;", "`rotation` uses `driver`"),
        ("render/mod.rs", "use crate::durable::replace;", "`render` uses `durable`"),
        ("watch/mod.rs", "use crate::agent::Agent;", "`watch` uses `agent`"),
        ("cli/run.rs", "use crate::*;", "a glob over all rooms"),
        ("agent/mod.rs", "pub fn f(x: &crate::cli::Arguments) {}", "`agent` uses `cli`"),
        ("rotation/step.rs", "use tokio::time::sleep;", "a runtime in the core"),
        ("schedule.rs", "use std::{time::{Duration, Instant}};", "a clock in the core"),
        ("schedule.rs", "use std::time; fn f() { time::SystemTime::now(); }", "a clock in the core"),
        ("schedule.rs", "fn f() { jiff::Timestamp::now(); }", "a clock in the core"),
        ("verdict.rs", "fn f() -> u8 { rand::random() }", "a random number in the core"),
        ("digest.rs", "use ring::{digest, rand::SystemRandom};", "a random number in the core"),
        ("render/mod.rs", "use std::{io, fs::{self, File}};", "a file in the core"),
        ("config/build.rs", "fn f(p: &Path) -> bool { p.exists() }", "a file in the core: `.exists(`"),
        ("config/loader/x.rs", "use crate::store;", "`config` uses `store`"),
        ("config/load.rs", "use tokio::fs;", "a runtime in the core"),
        ("render/mod.rs", "#[cfg(not(test))] use std::fs;", "a file in the core"),
        ("render/mod.rs", "#[cfg(test)] mod tests { use std::fs; } use tokio::fs;", "a runtime in the core"),
        ("helpers.rs", "", "the room `helpers` has no row"),
    ] {
        let faults = faults(&house, file, source);
        assert!(
            !faults.is_empty() && faults.iter().all(|fault| fault.contains(says)),
            "{file}: {source}\nsaid {faults:?}\nnot   {says}"
        );
    }
}

/// None of these breaks a rule.
#[test]
fn what_is_allowed_passes() {
    let house = house();
    for (file, source) in [
        ("store/file.rs", "use crate::{config::model::Locator, secret::Reading, durable}; use super::Store;"),
        (
            "store/file.rs",
            "//! Unlike [`crate::reload`].\n/* use crate::probe; */ const X: &str = \"crate::probe::X\";",
        ),
        ("store/file.rs", "const X: &str = r#\"a \" crate::probe::X\"#; const C: char = '\"'; fn f<'a>(x: &'a str) {}"),
        ("store/file.rs", "#[cfg(test)]\n#[allow(dead_code)]\nmod tests { use crate::probe::Probe; }"),
        ("driver/mod.rs", "use crate::{generation, probe::Probe, reload, rotation::step, store, watch, telemetry};"),
        ("cli/run.rs", "use crate::agent::Agent;"),
        ("main.rs", "use leasehold::cli; fn main() { leasehold::telemetry::start(); }"),
        ("state_dir.rs", "use crate::durable;"),
        ("config/load.rs", "fn f(p: &std::path::Path) { std::fs::read(p); p.exists(); }"),
        ("schedule.rs", "use std::time::Duration; use jiff::Timestamp; fn f(now: Timestamp) {}"),
        ("secret.rs", "#[cfg(test)] fn f() { std::fs::read(\"x\"); } use std::fmt;"),
        ("lib.rs", "pub mod store; pub mod probe;"),
    ] {
        assert_eq!(faults(&house, file, source), Vec::<String>::new(), "{file}: {source}");
    }
}

#[test]
fn a_circle_in_a_row_is_found() {
    let house = house();
    let mut arrows = BTreeMap::new();
    arrows_in_row(&house, "durable.rs", "use crate::failpoint;", &mut arrows);
    arrows_in_row(&house, "state_dir.rs", "use crate::{durable, failpoint};", &mut arrows);
    assert_eq!(circle(&arrows), None);
    arrows_in_row(&house, "failpoint.rs", "fn f() { crate::state_dir::path(); }", &mut arrows);
    assert!(circle(&arrows).is_some_and(|rooms| rooms.len() >= 2));
}
