//! What a rotation writes and what it leaves.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::agent::Agent;
use crate::kit::{config, key, mark};

/// Notes every reload as a line in `reloads`.
const RELOAD: &str =
    "    reload: {type: command, run: [sh, -c, 'echo x >>reloads']}\n    settle: {min: 20ms, max: 200ms}\n";

#[test]
fn only_files_that_use_a_changed_secret_are_written() {
    let text = config(&format!(
        "  app:\n    files:\n    - {{path: out/a, inline: '{{{{ secrets.provider.key }}}}'}}\n    - {{path: out/b, inline: '{{{{ \
         secrets.other.key }}}}'}}\n    - {{path: out/c, inline: 'fixed'}}\n{RELOAD}"
    ))
    .replace("{provider:", "{other: {store: local}, provider:");
    let mut agent = Agent::new(&text, &(key("key-of-1") + "other: {key: other-1}\n"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    let before = ["out/b", "out/c"].map(|path| mark(&agent.dir.join(path)));
    agent.secrets(&(key("key-of-2") + "other: {key: other-1}\n"));
    agent.wait_outcomes(&["committed", "committed"]);
    assert_eq!(agent.read("out/a"), "key-of-2");
    assert_eq!(["out/b", "out/c"].map(|path| mark(&agent.dir.join(path))), before);
    let changed = agent.history()[1]["changed"].clone();
    assert_eq!(changed.as_object().unwrap().keys().collect::<Vec<_>>(), ["provider"]);
}

#[test]
fn the_same_bytes_are_not_written_and_nothing_is_told() {
    let text = config(&format!(
        "  app:\n    files: [{{path: out/a, mode: \"0640\", inline: '{{{{ secrets.provider.key }}}}'}}]\n{RELOAD}"
    ));
    let mut agent = Agent::new(&text, "provider: {key: key-of-1, note: one}\n");
    agent.start();
    agent.wait_outcomes(&["committed"]);
    let before = mark(&agent.dir.join("out/a"));
    assert_eq!(agent.read("reloads"), "x\n");
    let version = |a: &Agent| a.status().and_then(|s| s["secrets"][0]["version"].as_str().map(str::to_owned));
    let first = version(&agent).unwrap();
    // Another version of the secret; the field that changed is in no file.
    agent.secrets("provider: {key: key-of-1, note: two}\n");
    agent.wait("the new version is read", |a| version(a).filter(|v| *v != first));
    agent
        .wait("it is staged and found the same", |a| (a.log().matches("begins step=stage").count() == 2).then_some(()));
    agent.stop();
    assert_eq!(mark(&agent.dir.join("out/a")), before);
    agent.start();
    agent.wait_state("app", "healthy");
    agent.secrets("provider: {key: key-of-2, note: two}\n");
    agent.wait_outcomes(&["committed", "committed"]);
    assert_eq!(agent.read("reloads"), "x\nx\n", "neither the same bytes nor a restart is told");
    assert_eq!(fs::metadata(agent.dir.join("out/a")).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn a_file_that_somebody_changed_is_put_right_at_the_start() {
    let text =
        config(&format!("  app:\n    files: [{{path: out/a, inline: '{{{{ secrets.provider.key }}}}'}}]\n{RELOAD}"));
    let mut agent = Agent::new(&text, &key("key-of-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    agent.stop();
    fs::write(agent.dir.join("out/a"), "by hand").unwrap();
    agent.start();
    agent.wait_file("out/a", "key-of-1");
    agent.wait_file("reloads", "x\nx\n");
    agent.wait_state("app", "healthy");
}

#[test]
fn the_files_of_a_directory_change_in_one_rename() {
    let text = config(
        "  app:\n    directory: out/d\n    settle: {min: 20ms, max: 200ms}\n    files:\n    - {path: a, inline: 'a={{ \
         secrets.provider.key }}'}\n    - {path: b, inline: 'b={{ secrets.provider.key }}'}\n",
    );
    let mut agent = Agent::new(&text, &key("key-of-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    let data = agent.dir.join("out/d/..data");
    let (first, link) = (fs::read_link(&data).unwrap(), mark_of_link(&agent.dir.join("out/d/a")));
    agent.secrets(&key("key-of-2"));
    agent.wait_outcomes(&["committed", "committed"]);
    assert_ne!(fs::read_link(&data).unwrap(), first);
    assert_eq!(mark_of_link(&agent.dir.join("out/d/a")), link, "the names stay, what they lead to changes");
    assert_eq!((agent.read("out/d/a"), agent.read("out/d/b")), ("a=key-of-2".into(), "b=key-of-2".into()));
    assert!(agent.call(&["rollback", "app"]).0 == 0);
    agent.wait_file("out/d/b", "b=key-of-1");
    assert_eq!(agent.read("out/d/a"), "a=key-of-1");
}

fn mark_of_link(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::symlink_metadata(path).unwrap();
    assert!(meta.is_symlink());
    meta.ino()
}
