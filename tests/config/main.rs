//! The config from outside: every file under tests/golden/good/config loads and fits the schema, every file under
//! tests/golden/bad/config is refused with the text beside it, docs/config.md tells every key.
//! `UPDATE=1 cargo test --test config` rewrites the texts and the docs' tables.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests and what they share")]

use std::path::{Path, PathBuf};

use leasehold::config::model::ProcessUser;
use leasehold::config::{Account, Fault, Faults, Inputs, Loaded, Users, parse};

mod behaviour;
mod reference;
mod schema;

const CANARY: &str = "canary-5a1t";

fn env(name: &str) -> Option<String> {
    let value = match name {
        "PORT" => "9187",
        "HOME" => "/home/agent",
        "EMPTY" => "",
        "CANARY" => CANARY,
        "CANARY_TERA" => "canary-5a1t {{ secrets.a.b }}",
        _ => return None,
    };
    Some(value.to_owned())
}

/// Users that do not depend on the machine.
struct Accounts;

const ACCOUNTS: [(&str, u32); 3] = [("root", 0), ("litellm", 990), ("nobody", 65534)];

impl Users for Accounts {
    fn user(&self, account: &Account) -> Option<ProcessUser> {
        let found = ACCOUNTS.iter().find(|(name, id)| match account {
            Account::Name(wanted) => name == wanted,
            Account::Id(wanted) => id == wanted,
        });
        found.map(|(name, id)| ProcessUser { name: (*name).to_owned(), uid: *id, gid: *id })
    }

    fn group(&self, name: &str) -> Option<u32> {
        ACCOUNTS.iter().find(|(known, _)| *known == name).map(|(_, id)| *id)
    }
}

fn golden(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(kind).join("config");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

fn load(path: &Path) -> Result<Loaded, Faults> {
    let name = path.file_name().unwrap();
    let file = Path::new("/etc/leasehold").join(name);
    let inputs = Inputs { file: &file, env: &env, users: &Accounts, command: None };
    parse(&std::fs::read(path).unwrap(), Path::new(name), &inputs)
}

fn load_text(text: &str) -> Result<Loaded, Faults> {
    let file = Path::new("/etc/leasehold/agent.yaml");
    let inputs = Inputs { file, env: &env, users: &Accounts, command: None };
    parse(text.as_bytes(), Path::new("agent.yaml"), &inputs)
}

fn update() -> bool {
    std::env::var_os("UPDATE").is_some()
}

fn compare(path: &Path, found: &str) -> Result<(), String> {
    if update() {
        std::fs::write(path, found).unwrap();
        return Ok(());
    }
    let wanted = std::fs::read_to_string(path).unwrap_or_default();
    if wanted == found { Ok(()) } else { Err(format!("{}:\n-- wanted\n{wanted}\n-- found\n{found}", path.display())) }
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("{fault}\n")).collect()
}

#[test]
fn every_good_config_loads_with_the_warnings_beside_it() {
    let files = golden("good");
    assert!(files.len() >= 5);
    let mut wrong = Vec::new();
    for file in files {
        match load(&file) {
            Ok(loaded) => wrong.extend(compare(&file.with_extension("warnings"), &lines(&loaded.warnings)).err()),
            Err(faults) => wrong.push(faults.to_string()),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_bad_config_is_refused_with_the_text_beside_it_and_no_expanded_value() {
    let files = golden("bad");
    assert!(files.len() >= 40);
    let mut wrong = Vec::new();
    for file in files {
        match load(&file) {
            Ok(_) => wrong.push(format!("{} was accepted", file.display())),
            Err(faults) => {
                let found = lines(&faults.0);
                assert!(!found.is_empty(), "{} is refused without a word", file.display());
                assert!(!found.contains(CANARY), "{} tells an expanded value: {found}", file.display());
                wrong.extend(compare(&file.with_extension("stderr"), &found).err());
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
