//! Templates under tests/golden: what good ones give, and the exact words about bad ones. `UPDATE=1` rewrites both.
//!
//! `NAME.FORMAT.tera` is a template, `NAME.FORMAT.env` a typed `env` (NAME=TEMPLATE a line), `NAME.FORMAT.resolve` a
//! file with references; beside it `….txt` holds what is expected. `parts/` may be included.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use leasehold::config::model::{Format, Source};
use leasehold::render::Sources;
use leasehold::secret::{Field, SecretName, Snapshot};

mod render_kit;
use render_kit::{file, reading, renderer};

const NAMES: [&str; 4] = ["db", "a-b", "absent", "local://kv/app"];

fn snapshot() -> Snapshot {
    let text = |t: &str| Field::text(t);
    let db = [
        ("username", text("canary-user")),
        ("password", text("canary p:w#'\"$x\\")),
        ("port", Field::Number("54321".into())),
        ("breaks", text("canary\nevil: canary")),
        ("lines", text("canary-1\ncanary-2")),
        ("closes", text("canary\", \"evil\": \"canary")),
        ("nul", text("canary\0")),
        ("raw", Field::from_bytes(vec![0xFF, 0x00, b'c', b'a', b'n', b'a', b'r', b'y'])),
        ("b64", text("Y2FuYXJ5")),
        ("list", Field::List(vec![text("canary-a"), text("canary-b")])),
        ("conf", Field::Map([("host".to_string(), text("canary-host"))].into())),
        ("nothing", Field::Null),
        ("on", Field::Bool(true)),
    ];
    let fields = |list: &[(&str, Field)]| list.iter().map(|(n, f)| ((*n).to_string(), f.clone())).collect();
    let secrets = [
        ("db", reading("7", fields(&db))),
        ("a-b", reading("canary-version", fields(&[("x", text("canary-ab")), ("y.z", text("canary-yz"))]))),
        (
            "local://kv/app",
            reading("1", fields(&[("key", text("canary: key")), ("port", Field::Number("54321".into()))])),
        ),
    ];
    let previous = [("db", reading("6", fields(&[("password", text("canary-old"))])))];
    let named =
        |list: Vec<(&str, _)>| list.into_iter().map(|(n, r)| (SecretName::new(n), r)).collect::<BTreeMap<_, _>>();
    Snapshot { secrets: named(secrets.into()), previous: named(previous.into()) }
}

fn format(name: &str) -> Format {
    let all = [
        ("text", Format::Text),
        ("yaml", Format::Yaml),
        ("json", Format::Json),
        ("toml", Format::Toml),
        ("systemd-env", Format::SystemdEnv),
        ("docker-env", Format::DockerEnv),
        ("dotenv", Format::Dotenv),
        ("shell", Format::Shell),
    ];
    all.into_iter().find(|(n, _)| *n == name).map(|(_, f)| f).unwrap_or_else(|| panic!("no format {name}"))
}

fn cases(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder).join("templates");
    let mut found: Vec<PathBuf> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|e| e == "tera" || e == "env" || e == "resolve"));
    found.sort();
    found
}

/// The output, or every fault, a line each.
fn outcome(case: &Path) -> Result<String, String> {
    let name = case.file_name().unwrap().to_str().unwrap();
    let mut parts = name.rsplit('.');
    let (kind, format) = (parts.next().unwrap(), format(parts.next().unwrap()));
    let text = std::fs::read_to_string(case).unwrap();
    let path = PathBuf::from("/templates").join(name);
    let mut sources = Sources::new("/templates");
    sources.insert(&path, text.clone());
    for part in std::fs::read_dir(case.with_file_name("parts")).into_iter().flatten() {
        let part = part.unwrap().path();
        let inside = PathBuf::from("/templates/parts").join(part.file_name().unwrap());
        sources.insert(inside, std::fs::read_to_string(part).unwrap());
    }
    let source = match kind {
        "tera" => Source::Template(path),
        "resolve" => Source::Resolve(path),
        _ => Source::Env(text.lines().filter_map(|l| l.split_once('=')).map(|(n, v)| (n.into(), v.into())).collect()),
    };
    let lines = |errors: Vec<leasehold::render::RenderError>| {
        errors.iter().map(|e| format!("{:?} {e}\n", e.kind)).collect::<String>()
    };
    let renderer = renderer(vec![file("/run/out", source, format)], &NAMES, &sources).map_err(lines)?;
    let rendered = renderer.render(&snapshot()).map_err(|e| lines(vec![e]))?;
    Ok(String::from_utf8_lossy(rendered.files[0].bytes.expose()).into_owned())
}

fn compare(case: &Path, found: &str) {
    let golden = PathBuf::from(format!("{}.txt", case.display()));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&golden, found).unwrap();
    }
    let want = std::fs::read_to_string(&golden).unwrap_or_default();
    assert_eq!(found, want, "{} (UPDATE=1 rewrites it)", case.display());
}

#[test]
fn good_templates_give_what_they_should() {
    let cases = cases("good");
    assert!(cases.len() >= 10, "{}", cases.len());
    for case in cases {
        match outcome(&case) {
            Ok(found) => compare(&case, &found),
            Err(errors) => panic!("{}: {errors}", case.display()),
        }
    }
}

#[test]
fn bad_templates_are_refused_in_these_words_and_no_value_is_among_them() {
    let cases = cases("bad");
    assert!(cases.len() >= 25, "{}", cases.len());
    for case in cases {
        let Err(errors) = outcome(&case) else { panic!("{} is not refused", case.display()) };
        for value in ["canary", "54321", "evil", "Y2FuYXJ5"] {
            assert!(!errors.to_lowercase().contains(&value.to_lowercase()), "{}: {errors}", case.display());
        }
        compare(&case, &errors);
    }
}
