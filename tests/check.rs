//! `agent check`, through the library: every fault at once, at its place, with its exit code, and never a value.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use leasehold::agent::check::{Report, check};
use leasehold::agent::prepare::prepare;
use leasehold::digest::Key;

const SECRET: &str = "hunter2-canary-value";

struct World(tempfile::TempDir);

impl World {
    /// A folder with a config; `TARGETS` and `SECRETS` are indented by the caller.
    fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("out")).unwrap();
        let world = Self(folder);
        world.put("agent.yaml", config);
        world.put("secrets.yaml", &format!("db: {{password: {SECRET}, port: 5432}}\n"));
        world
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.path().join("agent.yaml")
    }

    async fn check(&self, offline: bool) -> Report {
        let report = check(&self.config(), offline, &|name| (name == "WHERE").then(|| "out".to_owned())).await;
        let shown = format!("{report}{}", report.json());
        assert!(!shown.contains(SECRET), "{shown}");
        report
    }
}

fn config(target: &str) -> String {
    format!(
        "state_dir: state\nstores:\n  local: {{type: file, path: secrets.yaml}}\nsecrets:\n  db: {{store: local}}\n\
         targets:\n  app:\n{target}"
    )
}

fn listing(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![folder.to_path_buf()];
    while let Some(at) = todo.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_sound_config_passes_and_nothing_is_written() {
    let world = World::new(&config(
        "    files:\n      - path: ${WHERE}/a.yaml\n        inline: 'password: {{ secrets.db.password | yaml }}'\n        \
         check: {run: [grep, -q, hunter2, '{path}']}\n",
    ));
    let before = listing(world.path());
    for offline in [true, false] {
        let report = world.check(offline).await;
        assert_eq!((report.exit_code(), report.faults.len()), (0, 0), "{report}");
        assert_eq!(offline, !report.to_string().contains("can be read: db"), "{report}");
    }
    assert_eq!(listing(world.path()), before);
}

#[tokio::test]
async fn every_fault_is_told_with_its_place_and_the_config_s_code_comes_first() {
    let world = World::new(&config(
        "    files:\n      - {path: out/a, template: gone.tera}\n      - {path: out/b, template: bad.tera}\n      - \
         {path: out/c, inline: '{{ secrets.dbb.password }}'}\n",
    ));
    world.put("bad.tera", "one\n{{ secrets.db.password | nope }}\n");
    let report = world.check(true).await;
    let told = report.to_string();
    assert_eq!(report.exit_code(), 78, "{told}");
    assert!(told.contains("agent.yaml:9:") && told.contains("gone.tera: there is no such file"), "{told}");
    assert!(told.contains("bad.tera:2:") && told.contains("nope"), "{told}");
    assert!(told.contains("did you mean `db`"), "{told}");
    assert_eq!(report.faults.len(), 3, "{told}");
}

#[tokio::test]
async fn each_class_of_fault_has_its_exit_code() {
    for (target, code) in [
        ("    files: [{path: out/a, template: gone.tera}]\n", 66),
        ("    files: [{path: out/a, inline: '{{ secrets.db.password | }}'}]\n", 65),
        ("    files: [{path: out/a, inline: '{{ secrets.no.password }}'}]\n", 78),
        ("    files: [{path: out/a, inline: '{{ env.HOME }}'}]\n", 78),
        ("    filez: []\n", 78),
    ] {
        let world = World::new(&config(target));
        let report = world.check(true).await;
        assert_eq!(report.exit_code(), code, "{target}: {report}");
    }
    for (target, code) in [
        ("    files: [{path: out/a, inline: '{{ secrets.db.nofield }}'}]\n", 65),
        ("    files: [{path: out/a, inline: '{{ secrets.db.port }}', check: {run: ['false']}}]\n", 65),
        ("    files: [{path: out/a, inline: '{{ secrets.db.port }}', check: {run: [no-such-program-here]}}]\n", 66),
    ] {
        let world = World::new(&config(target));
        assert_eq!(world.check(true).await.exit_code(), 0, "{target}");
        let report = world.check(false).await;
        assert_eq!(report.exit_code(), code, "{target}: {report}");
        assert_eq!(report.faults.len(), 1, "{target}: {report}");
    }
}

#[tokio::test]
async fn stores_answer_with_their_codes() {
    let plain = config("    files: [{path: out/a, inline: '{{ secrets.db.port }}'}]\n");
    for (secrets, code) in [("other: {a: 1}\n", 66), ("db: {port: [\n", 69)] {
        let world = World::new(&plain);
        world.put("secrets.yaml", secrets);
        let report = world.check(false).await;
        assert_eq!(report.exit_code(), code, "{report}");
        assert!(report.to_string().contains("agent.yaml:5:"), "{report}");
        assert_eq!(world.check(true).await.exit_code(), 0);
    }
    let vault = plain.replace(
        "  local: {type: file, path: secrets.yaml}",
        "  local: {type: vault, address: 'http://127.0.0.1:1', auth: {type: token_file, path: t}}",
    );
    let vault = vault.replace("db: {store: local}", "db: {store: local, path: secret/db}");
    let world = World::new(&vault.replace("token_file, path: t", "token, token: a-token"));
    assert_eq!(world.check(true).await.exit_code(), 0);
    let report = world.check(false).await;
    assert_eq!(report.exit_code(), 69, "{report}");
    assert!(report.to_string().contains("nobody listens there"), "{report}");
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_file_is_a_fault_even_offline() {
    let world = World::new(&config("    files: [{path: out/a, inline: x}, {path: link/b, inline: x}]\n"));
    std::fs::create_dir(world.path().join("out/a")).unwrap();
    std::os::unix::fs::symlink(world.path().join("out"), world.path().join("link")).unwrap();
    let report = world.check(true).await;
    assert_eq!(report.exit_code(), 74, "{report}");
    assert_eq!(report.faults.len(), 2, "{report}");
    assert!(report.to_string().contains("symlink"), "{report}");
}

#[tokio::test]
async fn what_this_machine_lacks_is_a_warning_offline_and_a_fault_otherwise() {
    let world = World::new(&config(
        "    files: [{path: out/a, inline: x}]\n    reload: {type: command, run: [no-such-program-here]}\n",
    ));
    let offline = world.check(true).await;
    assert_eq!(offline.exit_code(), 0, "{offline}");
    assert!(offline.warnings.iter().any(|w| w.message.contains("no-such-program-here")), "{offline}");
    let online = world.check(false).await;
    assert_eq!(online.exit_code(), 66, "{online}");
}

#[tokio::test]
async fn a_state_dir_that_others_may_enter_is_a_fault() {
    let world = World::new(&config("    files: [{path: out/a, inline: x}]\n"));
    let state = world.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o755)).unwrap();
    let report = world.check(false).await;
    assert_eq!(report.exit_code(), 77, "{report}");
    assert!(report.to_string().contains("chmod 700"), "{report}");
}

#[tokio::test]
async fn a_check_command_sees_the_real_bytes_alone_and_its_output_is_masked() {
    let world = World::new(&config(
        "    files:\n      - path: out/a\n        inline: '{{ secrets.db.password }}'\n        check: {run: [sh, -c, \
         'stat -c %a {path} >&2; cat {path} >&2; exit 3']}\n",
    ));
    let report = world.check(false).await;
    assert_eq!(report.exit_code(), 65, "{report}");
    let told = report.to_string();
    assert!(told.contains("600 | ***") && told.contains("exit code 3"), "{told}");
}

#[tokio::test]
async fn every_example_is_prepared_and_passes_offline() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(examples).unwrap() {
        let config = entry.unwrap().path().join("agent.yaml");
        if config.exists() {
            let report = check(&config, true, &|_| None).await;
            assert_eq!(report.exit_code(), 0, "{}: {report}", config.display());
            seen += 1;
        }
    }
    assert!(seen >= 6);
}

#[test]
fn references_of_resolve_files_are_secrets_and_what_is_included_is_watched() {
    let world = World::new(&config(
        "    files:\n      - {path: out/a.yaml, resolve: base.yaml}\n      - {path: out/b, template: t/b.tera}\n",
    ));
    world.put("base.yaml", "password: local://db#password # kept\nurl: https://example.org/x\n");
    std::fs::create_dir(world.path().join("t")).unwrap();
    world.put("t/b.tera", "{% include \"part.tera\" %}{{ secrets.db.port }}");
    world.put("t/part.tera", "x");
    let prepared = prepare(&world.config(), &[], &Key::new(b"k"), &|_| None).unwrap_or_else(|f| panic!("{f}"));
    let used: Vec<String> = prepared.uses["app"].iter().map(ToString::to_string).collect();
    assert_eq!(used, ["db", "local://db"]);
    let watched: Vec<_> = prepared.watched.iter().map(|p| p.strip_prefix(world.path()).unwrap().to_owned()).collect();
    for name in ["agent.yaml", "base.yaml", "t/b.tera", "t/part.tera"] {
        assert!(watched.iter().any(|path| path == Path::new(name)), "{name} in {watched:?}");
    }
    assert!(prepared.warnings.is_empty(), "{:?}", prepared.warnings);

    world.put("base.yaml", "password: local://db\n");
    world.put("t/b.tera", "{% include \"gone.tera\" %}");
    let faulty = prepare(&world.config(), &[], &Key::new(b"k"), &|_| None).err().unwrap();
    let told = faulty.to_string();
    assert!(told.contains("base.yaml:1:11: ") && told.contains("#FIELD"), "{told}");
    assert!(told.contains("b.tera:1:") && told.contains("gone.tera"), "{told}");
    assert_eq!((faulty.problems.len(), faulty.exit_code()), (2, 65), "{told}");
    assert!(faulty.watched.iter().any(|path| path.ends_with("t/gone.tera")), "{:?}", faulty.watched);
}

#[test]
fn a_secret_that_no_target_uses_is_a_warning_at_its_declaration() {
    let world = World::new(&config("    files: [{path: out/a, inline: x}]\n"));
    let prepared = prepare(&world.config(), &[], &Key::new(b"k"), &|_| None).unwrap_or_else(|f| panic!("{f}"));
    assert_eq!(prepared.warnings.len(), 1);
    assert_eq!(prepared.warnings[0].line, 5, "{}", prepared.warnings[0]);
}
