//! `agent render --once`, through the library: exit codes, what is written and what is not, and what a dry run tells.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use leasehold::agent::once::{Options, Outcome, Report, render_once};
use leasehold::journal::JournalFile;
use leasehold::rotation::Journal;
use leasehold::state_dir::StateDir;

const OLD: &str = "old-canary-4711-value";
const NEW: &str = "new-canary-0815-value";

struct World(tempfile::TempDir);

impl World {
    fn new(config: &str) -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(world.path("out")).unwrap();
        world.put("agent.yaml", config);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn password(&self, value: &str) {
        self.put("secrets.yaml", &format!("db: {{user: app, password: {value}}}\n"));
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn options(&self) -> Options {
        Options { file: self.path("agent.yaml"), wait: Duration::ZERO, targets: Vec::new(), dry_run: false }
    }

    async fn render(&self, options: Options) -> Report {
        let report = render_once(&options, &|name| (name == "TOKEN").then(|| "token-of-the-environment".into())).await;
        let shown = format!("{report}{}", report.json());
        assert!(!shown.contains(OLD) && !shown.contains(NEW), "{shown}");
        report
    }

    async fn once(&self) -> Report {
        self.render(self.options()).await
    }

    async fn dry(&self) -> Report {
        self.render(Options { dry_run: true, ..self.options() }).await
    }

    fn journal(&self, target: &str) -> Journal {
        JournalFile::new(&self.path("state/targets").join(target), None).load().unwrap().unwrap()
    }

    fn generations(&self, target: &str) -> usize {
        let folder = self.path("state/targets").join(target).join("generations");
        std::fs::read_dir(folder).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count()
    }
}

fn config(targets: &str) -> String {
    format!(
        "state_dir: state\nstores:\n  local: {{type: file, path: secrets.yaml}}\n  other: {{type: file, path: \
         other.yaml}}\nsecrets:\n  db: {{store: local}}\n  far: {{store: other}}\ntargets:\n{targets}"
    )
}

fn plain() -> String {
    config(
        "  app:\n    files:\n      - path: out/conf\n        mode: \"0640\"\n        inline: |\n          user={{ \
         secrets.db.user }}\n          fixed\n          password={{ secrets.db.password }}\n    reload: {type: signal, \
         pidfile: app.pid}\n",
    )
}

/// Every path below a folder, with what of it a write would change.
fn listing(folder: &Path) -> Vec<(PathBuf, u64, u32, i64, i64)> {
    let mut found = Vec::new();
    let mut todo = vec![folder.to_path_buf()];
    while let Some(at) = todo.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                todo.push(path.clone());
            }
            found.push((path, meta.ino(), meta.mode(), meta.mtime(), meta.mtime_nsec()));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn files_are_written_once_and_a_second_run_changes_nothing() {
    let world = World::new(&plain());
    world.password(OLD);
    let report = world.once().await;
    assert_eq!(report.exit_code(), 0, "{report}");
    assert!(report.to_string().contains("1 file changed (generation 1)"), "{report}");
    assert!(report.targets[0].changes[0].what == "created", "{report}");
    assert_eq!(world.read("out/conf"), format!("user=app\nfixed\npassword={OLD}\n"));
    assert_eq!(std::fs::metadata(world.path("out/conf")).unwrap().permissions().mode() & 0o777, 0o640);
    let committed = world.journal("app").committed.unwrap();
    assert_eq!((committed.generation, committed.proven), (1, false));

    let before = listing(&world.path("out"));
    let report = world.once().await;
    assert!(report.to_string().contains("nothing to change (generation 1)"), "{report}");
    assert_eq!(listing(&world.path("out")), before);
    assert_eq!(world.journal("app").committed, Some(committed));

    world.password(NEW);
    let report = world.once().await;
    assert!(report.targets[0].changes[0].what == "written", "{report}");
    assert_eq!(world.read("out/conf"), format!("user=app\nfixed\npassword={NEW}\n"));
}

#[tokio::test]
async fn a_generation_that_was_proven_stays_the_refuge() {
    let world = World::new(&plain());
    world.password(OLD);
    world.once().await;
    let file = JournalFile::<Journal>::new(&world.path("state/targets/app"), None);
    let mut journal = file.load().unwrap().unwrap();
    journal.committed.as_mut().unwrap().proven = true;
    file.store(&journal).unwrap();

    assert_eq!(world.once().await.exit_code(), 0);
    assert!(world.journal("app").committed.unwrap().proven, "nothing changed, so the proof stands");
    world.password(NEW);
    assert_eq!(world.once().await.exit_code(), 0);
    let journal = world.journal("app");
    assert_eq!(journal.refuge.map(|r| (r.generation, r.proven)), Some((1, true)));
    assert_eq!(journal.committed.map(|c| (c.generation, c.proven)), Some((2, false)));
}

#[tokio::test]
async fn many_runs_do_not_fill_the_disk() {
    let world = World::new(&plain().replace("    reload:", "    keep: 2\n    reload:"));
    for run in 0..6 {
        world.password(&format!("value-number-{run}"));
        assert_eq!(world.once().await.exit_code(), 0);
    }
    assert_eq!(world.generations("app"), 2);
    assert_eq!(world.journal("app").committed.unwrap().generation, 6);
}

#[tokio::test]
async fn a_refused_output_leaves_the_files_and_is_tried_again() {
    let check = "        check: {run: [grep, -q, canary, '{path}']}\n";
    let world = World::new(&plain().replace("        mode:", &format!("{check}        mode:")));
    world.password(OLD);
    assert_eq!(world.once().await.exit_code(), 0);
    world.password("broken");
    for _ in 0..2 {
        let report = world.once().await;
        assert_eq!(report.exit_code(), 65, "{report}");
        assert!(report.to_string().contains("check `grep` refused"), "{report}");
        assert_eq!(report.targets[0].result, Outcome::Failed);
        assert!(world.read("out/conf").contains(OLD));
        assert!(world.journal("app").quarantined.is_empty());
        assert_eq!(world.generations("app"), 1);
    }
    world.password(NEW);
    assert_eq!(world.once().await.exit_code(), 0);
    assert!(world.read("out/conf").contains(NEW));
}

#[tokio::test]
async fn each_way_to_fail_has_its_exit_code_and_touches_no_file() {
    for (from, to, code) in [
        ("inline: |", "inlin: |", 78),
        ("secrets.db.user", "secrets.dbx.user", 78),
        ("secrets.db.user", "secrets.db.nouser", 65),
        ("secrets.db.user", "secrets.db.user | nofilter", 65),
        ("path: secrets.yaml", "path: gone.yaml", 66),
        ("db: {store: local}", "db: {store: local, key: gone}", 66),
        ("db: {store: local}", "db: {store: local, expect: {password: '^x'}}", 65),
        (
            "db: {store: local}",
            "db: {store: local, verify: {http: {url: 'http://127.0.0.1:1/', status: 200, timeout: 2s}}}",
            69,
        ),
        ("out/conf", "out/there/conf", 74),
    ] {
        let world = World::new(&plain());
        world.password(OLD);
        assert_eq!(world.once().await.exit_code(), 0);
        world.put("out/there", "a file where a folder should be");
        let before = listing(&world.path("out"));
        let config = plain();
        assert!(config.contains(from), "{from}");
        world.put("agent.yaml", &config.replace(from, to));
        world.password(NEW);
        let report = world.once().await;
        assert_eq!(report.exit_code(), code, "{to}: {report}");
        assert_eq!(report.problems.len(), 1, "{to}: {report}");
        assert_eq!(listing(&world.path("out")), before, "{to}");
    }
}

#[tokio::test]
async fn a_store_file_that_may_not_be_read_is_denied() {
    if nix::unistd::geteuid().is_root() {
        eprintln!("root reads every file; a folder that another user may not enter is tested by the file store");
        return;
    }
    let world = World::new(&plain());
    world.password(OLD);
    std::fs::set_permissions(world.path("secrets.yaml"), std::fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(world.once().await.exit_code(), 77);
}

#[tokio::test]
async fn the_wait_ends_when_the_store_is_there_and_the_other_target_did_not_wait() {
    let far = "  slow:\n    files: [{path: out/far, inline: '{{ secrets.far.x }}'}]\n";
    let world = World::new(&format!("{}{far}", plain()));
    world.password(OLD);
    let (file, out, conf) = (world.path("other.yaml"), world.path("out/far"), world.path("out/conf"));
    let appears = async {
        let end = tokio::time::Instant::now() + Duration::from_secs(20);
        while !conf.exists() && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(conf.exists() && !out.exists(), "the target that can be rendered is, before the other's wait is over");
        std::fs::write(&file, "far: {x: there-at-last}\n").unwrap();
    };
    let options = Options { wait: Duration::from_secs(30), ..world.options() };
    let (report, ()) = tokio::join!(world.render(options), appears);
    assert_eq!(report.exit_code(), 0, "{report}");
    assert_eq!(world.read("out/far"), "there-at-last");
}

#[tokio::test]
async fn a_store_that_is_down_to_the_end_costs_only_the_targets_that_use_it() {
    let far = "  slow:\n    files: [{path: out/far, inline: '{{ secrets.far.x }}'}]\n";
    let world = World::new(&format!("{}{far}", plain()));
    world.password(OLD);
    world.put("other.yaml", "far: {x: one}\n");
    assert_eq!(world.once().await.exit_code(), 0);
    world.put("other.yaml", "far: {x: [\n");
    world.password(NEW);
    let options = Options { wait: Duration::from_millis(300), ..world.options() };
    let report = world.render(options).await;
    assert_eq!(report.exit_code(), 69, "{report}");
    assert!(report.to_string().contains("slow: not rendered\n  cannot be read: far"), "{report}");
    assert_eq!((world.read("out/far").as_str(), world.read("out/conf").contains(NEW)), ("one", true));
}

#[tokio::test]
async fn target_narrows_and_an_unknown_one_is_a_usage_error() {
    let two = "  second:\n    files: [{path: out/two, inline: '{{ secrets.db.user }}'}]\n";
    let world = World::new(&format!("{}{two}", plain()));
    world.password(OLD);
    let report = world.render(Options { targets: vec!["second".into()], ..world.options() }).await;
    assert_eq!((report.exit_code(), report.targets.len()), (0, 1), "{report}");
    assert!(world.path("out/two").exists() && !world.path("out/conf").exists());
    let report = world.render(Options { targets: vec!["secnod".into()], ..world.options() }).await;
    assert_eq!(report.exit_code(), 64);
    assert!(report.to_string().contains("did you mean 'second'?"), "{report}");
}

#[tokio::test]
async fn another_agent_on_the_state_dir_is_told_and_nothing_is_written() {
    let world = World::new(&plain());
    world.password(OLD);
    let _held = StateDir::open(&world.path("state"), None).unwrap();
    let report = world.once().await;
    assert_eq!(report.exit_code(), 69, "{report}");
    assert!(report.to_string().contains("another agent"), "{report}");
    assert!(!world.path("out/conf").exists());
    assert_eq!(world.dry().await.exit_code(), 0, "a dry run needs no lock");
}

#[tokio::test]
async fn a_dry_run_writes_nothing_and_shows_new_lines_with_every_value_masked() {
    let world = World::new(&plain().replace("fixed\n", "token=${TOKEN}\n"));
    world.password(OLD);
    let before = listing(world.0.path());
    let report = world.dry().await;
    assert_eq!(report.exit_code(), 0, "{report}");
    assert!(report.to_string().contains("would be created, mode 0640"), "{report}");
    assert_eq!(listing(world.0.path()), before);

    assert_eq!(world.once().await.exit_code(), 0);
    assert!(world.dry().await.to_string().contains("nothing would change"));
    world.password(NEW);
    std::fs::set_permissions(world.path("out/conf"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let before = listing(world.0.path());
    let report = world.dry().await;
    let told = report.to_string();
    assert!(told.contains("contents would change, mode 0644 would become 0640"), "{told}");
    assert_eq!(report.targets[0].changes[0].lines, ["@@ line 3 @@", "- 1 line (not shown)", "+ password=***"]);
    assert_eq!(listing(world.0.path()), before);

    std::fs::remove_file(world.path("out/conf")).unwrap();
    let told = world.dry().await.to_string();
    assert!(told.contains("+ user=***\n") && told.contains("+ token=***"), "{told}");
    assert!(!told.contains("token-of-the-environment"), "{told}");
}

#[tokio::test]
async fn a_dry_run_masks_what_a_filter_makes_of_a_value() {
    let world = World::new(&config(
        "  app:\n    files: [{path: out/a, inline: \"{{ secrets.db.password | truncate(length=9) }} {{ \
         secrets.db.password | upper }} {{ secrets.db.password | b64encode }}\\n\"}]\n",
    ));
    world.password(NEW);
    world.put("out/a", "something else\n");
    let told = world.dry().await.to_string();
    assert!(told.contains("contents would change"), "{told}");
    for part in ["new-canar", "NEW-CANARY", "bmV3LWNhbmFye"] {
        assert!(!told.contains(part), "{part} in {told}");
    }
    assert_eq!(world.read("out/a"), "something else\n");
}

#[tokio::test]
async fn files_of_a_directory_change_together() {
    let world = World::new(&config(
        "  app:\n    directory: out/dir\n    files:\n      - {path: a, inline: '{{ secrets.db.password }}'}\n      - \
         {path: b, inline: '{{ secrets.db.user }}'}\n",
    ));
    world.password(OLD);
    assert!(world.dry().await.to_string().contains("2 files would change"));
    assert_eq!(world.once().await.exit_code(), 0);
    assert_eq!(world.read("out/dir/a"), OLD);
    world.password(NEW);
    let report = world.dry().await;
    assert_eq!((report.exit_code(), report.targets[0].changes.len()), (0, 1), "{report}");
    assert_eq!(world.once().await.exit_code(), 0);
    assert_eq!(world.read("out/dir/a"), NEW);
}

#[tokio::test]
async fn no_process_is_touched() {
    let world = World::new(&config(
        "  app:\n    files: [{path: out/a, inline: '{{ secrets.db.user }}'}]\n    reload: {type: command, run: [touch, \
         out/reloaded]}\n    health: {type: command, run: [touch, out/probed], within: 1s}\n",
    ));
    world.password(OLD);
    assert_eq!(world.once().await.exit_code(), 0);
    assert!(!Path::new("out/reloaded").exists() && !Path::new("out/probed").exists());
    assert!(!world.path("out/reloaded").exists() && !world.path("out/probed").exists());
}
