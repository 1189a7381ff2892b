//! Keeps the recipes of CONTRIBUTING.md true: every path, type and function that they name in backticks is in the tree.

#![allow(clippy::expect_used, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The inline code of the recipes: the sections whose heading begins with `Add a`.
fn named_in_recipes(page: &str) -> Vec<String> {
    let mut named = Vec::new();
    let (mut in_recipe, mut in_fence) = (false, false);
    for line in page.lines() {
        if line.starts_with("```") {
            in_fence = !in_fence;
        } else if let Some(heading) = line.strip_prefix("## ") {
            in_recipe = heading.starts_with("Add a ");
        } else if in_recipe && !in_fence {
            named.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    named
}

/// What the tree has: its sources in one text, the words in it, and where it is.
struct Tree {
    root: PathBuf,
    source: String,
    words: BTreeSet<String>,
}

impl Tree {
    fn read() -> Self {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let mut source = String::new();
        read_sources(&root.join("src"), &mut source);
        // Comments do not count: a name that only a comment still knows is gone.
        let source: String =
            source.lines().map(|line| line.split("//").next().unwrap_or("").to_owned() + "\n").collect();
        let words = source.split(|c: char| !(c.is_alphanumeric() || c == '_')).map(str::to_owned).collect();
        Self { root, source, words }
    }

    /// Why a name is wrong, if it is.
    fn lacks(&self, name: &str) -> Option<String> {
        if name.contains('/') {
            // `NAME` stands for the file that is to be added: its folder must be there.
            let path = Path::new(name);
            let path = if name.contains("NAME") { path.parent().unwrap_or(path) } else { path };
            return (!self.root.join(path).exists()).then(|| format!("no such path: {name}"));
        }
        if let Some((kind, item)) = name.split_once(' ') {
            let there = match kind {
                "fn" | "trait" | "enum" | "struct" => {
                    let declared = format!("{kind} {item}");
                    self.source.match_indices(&declared).any(|(at, _)| {
                        let next = self.source[at + declared.len()..].chars().next();
                        !next.is_some_and(|c| c.is_alphanumeric() || c == '_')
                    })
                }
                "impl" => self.lacks(&format!("trait {item}")).is_none(),
                _ => return Some(format!("neither a path nor an item: {name}")),
            };
            return (!there).then(|| format!("nowhere under src/: {name}"));
        }
        let missing = name.split("::").find(|word| !self.words.contains(*word));
        missing.map(|word| format!("nowhere under src/: {word}"))
    }
}

fn read_sources(folder: &Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).expect("src/ can be read") {
        let path = entry.expect("src/ can be read").path();
        if path.is_dir() {
            read_sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&std::fs::read_to_string(&path).expect("a source file is UTF-8"));
        }
    }
}

fn page() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("CONTRIBUTING.md"))
        .expect("CONTRIBUTING.md is there")
}

#[test]
fn the_recipes_name_only_what_is_there() {
    let tree = Tree::read();
    let wrong: Vec<String> = named_in_recipes(&page()).iter().filter_map(|name| tree.lacks(name)).collect();
    assert!(wrong.is_empty(), "CONTRIBUTING.md is not true:\n{}", wrong.join("\n"));
}

#[test]
fn the_links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for page in ["README.md", "CONTRIBUTING.md"] {
        let text = std::fs::read_to_string(root.join(page)).expect("the page is there");
        let links: Vec<&str> = text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
        assert!(!links.is_empty(), "{page} has no links: is it read right?");
        let local = links.iter().filter(|link| !link.starts_with("http"));
        let broken: Vec<_> = local.filter(|link| !root.join(link.split('#').next().unwrap_or("")).exists()).collect();
        assert!(broken.is_empty(), "{page} links to what is not there: {broken:?}");
    }
}

#[test]
fn each_recipe_names_its_enum_its_trait_and_its_build() {
    let page = page();
    for (recipe, names) in [
        ("## Add a store", ["StoreConfig", "impl Store", "src/watch/build.rs"]),
        ("## Add a reload", ["ReloadConfig", "impl Reload", "src/reload/mod.rs"]),
        ("## Add a probe", ["HealthCheck", "impl Probe", "src/probe/mod.rs"]),
    ] {
        let text = page.split_once(recipe).map_or("", |(_, rest)| rest.split("\n## ").next().unwrap_or(""));
        for name in names {
            assert!(text.contains(&format!("`{name}`")), "{recipe} does not name {name}");
        }
    }
}

#[test]
fn a_name_that_is_gone_is_caught() {
    let tree = Tree::read();
    for name in [
        "src/store/gone.rs",
        "src/gone/NAME.rs",
        "GoneConfig",
        "StoreConfig::Vanished",
        "fn gone_with_the_wind",
        "fn rea",
        "trait Stor",
        "impl GoneTrait",
        "cargo run",
    ] {
        assert!(tree.lacks(name).is_some(), "{name} was let through");
    }
    for name in [
        "src/store/mod.rs",
        "src/store/NAME.rs",
        "StoreConfig",
        "StoreConfig::File",
        "fn read",
        "trait Store",
        "impl Store",
    ] {
        assert_eq!(tree.lacks(name), None);
    }
    let recipes = "# A\n`before`\n## Add a thing\nuse `one` and\n`fn two`\n```\n`fenced`\n```\n## After\n`after`\n";
    assert_eq!(named_in_recipes(recipes), ["one", "fn two"]);
}
