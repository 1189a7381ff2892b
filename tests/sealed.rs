//! `state_key`, end to end: no value is on the disk in the clear, and all that an agent does goes on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

#[path = "support/agent.rs"]
mod agent;
#[path = "support/kit.rs"]
mod kit;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use agent::Agent;
use kit::{app, config, key, skip};
use leasehold::state_dir::memory_backed;

const CANARY: &str = "zQ-canary";

/// A file with a check that notes where it looked, one with another's `directory`, a supervised process with an environment.
fn lively() -> String {
    let check = "{run: [sh, -c, 'echo \"$1\" >>checked; ! grep -q refused \"$1\"', check, '{path}']}";
    let previous = "{% if previous.provider is defined %}<{{ previous.provider.key }}{% endif %}";
    let one = format!("{{path: out/conf, inline: '{{{{ secrets.provider.key }}}}{previous}', check: {check}}}");
    let two = format!("{{path: a/conf, inline: '{{{{ secrets.provider.key }}}}', check: {check}}}");
    let env =
        "{type: exec, command: [sh, -c, 'while :; do sleep 0.1; done'], env: {KEY: '{{ secrets.provider.key }}'}}";
    let targets = format!(
        "  app: {{settle: {{min: 20ms, max: 200ms}}, files: [{one}]}}\n  \
         whole: {{settle: {{min: 20ms, max: 200ms}}, directory: out/whole, files: [{two}], reload: {env}}}\n"
    );
    let text = config(&targets).replace("{store: local}", "{store: local, overlap: 1h}");
    format!("state_key: {{file: state.key}}\n{text}")
}

fn value(n: u32) -> String {
    format!("{CANARY}-{n}")
}

fn all_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { all_files(&path, found) } else { found.push(path) }
    }
}

/// Looks through every byte that is kept.
#[track_caller]
fn assert_no_value_is_kept(agent: &Agent) {
    let mut files = Vec::new();
    all_files(&agent.dir.join("state"), &mut files);
    assert!(files.iter().any(|file| file.ends_with("overlap.json")), "{files:?}");
    assert!(files.iter().any(|file| file.ends_with("env.json")), "{files:?}");
    for file in files {
        // One that was pruned meanwhile, or a socket, holds nothing.
        let Ok(bytes) = fs::read(&file) else { continue };
        let found = bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
        assert!(!found, "a value stands in {}", file.display());
    }
}

fn committed(agent: &mut Agent, n: u32) {
    agent.wait_file("out/whole/a/conf", &value(n));
    for target in ["app", "whole"] {
        agent.wait_state(target, "healthy");
    }
    agent.wait("the overlap is kept", |a| fs::metadata(a.dir.join("state/overlap.json")).ok().map(drop));
}

#[test]
fn no_value_is_on_the_disk_and_rotations_rollbacks_and_restarts_go_on() {
    if !memory_backed(Path::new("/dev/shm")) {
        return skip("checks of what is sealed need a tmpfs at /dev/shm");
    }
    let mut agent = Agent::new(&lively(), &key(&value(1)));
    agent.state_key();
    agent.start();
    committed(&mut agent, 1);
    assert_no_value_is_kept(&agent);
    for n in 2..=3 {
        agent.secrets(&key(&value(n)));
        agent.wait_file("out/conf", &format!("{}<{}", value(n), value(n - 1)));
        committed(&mut agent, n);
        assert_no_value_is_kept(&agent);
    }
    agent.secrets(&key(&format!("{CANARY}-refused")));
    agent.wait("both targets refuse it", |a| {
        let refused = |e: &serde_json::Value| e["outcome"] == "quarantined";
        (a.history().iter().filter(|e| refused(e)).count() == 2).then_some(())
    });
    assert_no_value_is_kept(&agent);
    let checked = agent.read("checked");
    assert!(checked.lines().count() >= 8, "{checked}");
    for path in checked.lines() {
        assert!(!path.starts_with(agent.dir.to_str().unwrap()) && !Path::new(path).exists(), "{path}");
    }
    agent.secrets(&key(&value(3)));

    let (code, out, err) = agent.call(&["rollback", "whole"]);
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(agent.wait_state("whole", "held")["generation"], 2);
    assert_eq!(agent.read("out/whole/a/conf"), value(2));
    agent.stop();
    assert_no_value_is_kept(&agent);

    let (code, out, err) = agent.call(&["history"]);
    assert!(code == 0 && out.contains("whole"), "history needs no key: {out}{err}");
    agent.start();
    assert_eq!(agent.wait_state("whole", "held")["generation"], 2, "the sealed journal is taken up again");
    agent.wait_state("app", "healthy");
    assert_eq!(agent.read("out/conf"), format!("{}<{}", value(3), value(2)), "with the version before");
    let (code, out, err) = agent.call(&["release", "whole"]);
    assert_eq!(code, 0, "{out}{err}");
    committed(&mut agent, 3);
    let (code, out, err) = agent.call(&["status"]);
    assert_eq!(code, 0, "{out}{err}");
    agent.signal(nix::sys::signal::Signal::SIGKILL);
    agent.end();
    agent.start();
    agent.secrets(&key(&value(4)));
    committed(&mut agent, 4);
    assert_no_value_is_kept(&agent);
    agent.stop();
    assert_no_value_is_kept(&agent);
}

/// With `state_key` before it.
fn keyed(text: &str) -> String {
    format!("state_key: {{file: state.key}}\n{text}")
}

#[test]
fn a_key_that_is_missing_short_open_or_another_ends_the_start_with_clear_words() {
    let agent = Agent::new(&keyed(&app("")), &key("key-of-1"));
    let put = |bytes: &[u8], mode| {
        let path = agent.dir.join("state.key");
        let _there_may_be_none = fs::remove_file(&path);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let refused = |expected, words: &[&str]| {
        for command in [&["run"][..], &["render", "--once"]] {
            let (code, out, err) = agent.call(command);
            assert_eq!(code, expected, "{command:?}: {out}{err}");
            for word in words {
                assert!(format!("{out}{err}").contains(word), "{command:?}: no {word:?} in: {out}{err}");
            }
        }
    };
    refused(66, &["state_key", "state.key", "openssl rand"]);
    put(&[1; 31], 0o400);
    refused(78, &["state_key", "31 bytes", "at least 32"]);
    put(&[1; 32], 0o644);
    refused(77, &["state_key", "0644", "chmod 400"]);
    assert!(!agent.dir.join("state/targets").exists(), "nothing was begun");
    put(&[1; 32], 0o400);
    let (code, out, err) = agent.call(&["render", "--once"]);
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(agent.read("out/conf"), "key=key-of-1");
    put(&[2; 32], 0o400);
    refused(74, &["sealed with another key", "key of before", "move state_dir aside"]);
    fs::write(agent.dir.join("agent.yaml"), app("")).unwrap();
    refused(74, &["it is sealed", "state_key"]);
    fs::write(agent.dir.join("agent.yaml"), keyed(&app(""))).unwrap();
    put(&[1; 32], 0o400);
    let (code, out, err) = agent.call(&["render", "--once"]);
    assert_eq!(code, 0, "the key of before opens it again: {out}{err}");
    assert!(!agent.dir.join("state/targets/app/journal.corrupt-1").exists());
}

#[test]
fn what_an_init_container_rendered_is_taken_up_by_the_agent_also_when_the_key_came_later() {
    let mut agent = Agent::new(&app(""), &key("key-of-1"));
    agent.state_key();
    let (code, out, err) = agent.call(&["render", "--once"]);
    assert_eq!(code, 0, "{out}{err}");
    fs::write(agent.dir.join("agent.yaml"), keyed(&app(""))).unwrap();
    let (code, out, err) = agent.call(&["render", "--once"]);
    assert_eq!(code, 0, "{out}{err}");
    agent.start();
    assert_eq!(agent.wait_state("app", "healthy")["generation"], 1, "the one in the clear is still good");
    agent.secrets(&key("key-of-2"));
    agent.wait_file("out/conf", "key=key-of-2");
    agent.wait_state("app", "healthy");
    let (code, out, err) = agent.call(&["rollback", "app"]);
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(agent.read("out/conf"), "key=key-of-1");
}

#[test]
fn check_tells_of_the_key_and_of_an_overlap_that_a_restart_forgets() {
    let agent = Agent::new(&keyed(&app("")), &key("key-of-1"));
    let (code, out, err) = agent.call(&["check", "--offline"]);
    assert!(code == 0 && format!("{out}{err}").contains("state_key"), "a warning: {out}{err}");
    let (code, out, err) = agent.call(&["check"]);
    assert!(code == 66 && format!("{out}{err}").contains("state_key"), "{out}{err}");
    agent.state_key();
    for args in [&["check", "--offline"][..], &["check"]] {
        let (code, out, err) = agent.call(args);
        assert!(code == 0 && !format!("{out}{err}").contains("warning"), "{out}{err}");
    }
    let overlapping = app("").replace("{store: local}", "{store: local, overlap: 1h}");
    let warns = |text: &str| {
        fs::write(agent.dir.join("agent.yaml"), text).unwrap();
        let (code, out, err) = agent.call(&["check"]);
        assert_eq!(code, 0, "{out}{err}");
        format!("{out}{err}").matches("previous does not survive a restart").count()
    };
    // In memory it is remembered without a key, too.
    assert_eq!(warns(&overlapping), usize::from(!memory_backed(&agent.dir)));
    assert_eq!(warns(&keyed(&overlapping)), 0);
    let inside = app("").replace("state_dir: state", "state_dir: state\nstate_key: {file: state/key.txt}");
    fs::write(agent.dir.join("agent.yaml"), inside).unwrap();
    let (code, out, err) = agent.call(&["check"]);
    assert!(code == 78 && format!("{out}{err}").contains("beside what it locks"), "{out}{err}");
}

#[test]
fn plaintext_that_a_killed_agent_left_in_memory_is_removed_at_the_next_start() {
    if !cfg!(feature = "failpoints") {
        return skip("a kill in the middle of a check needs `--features failpoints`");
    }
    if !memory_backed(Path::new("/dev/shm")) {
        return skip("no tmpfs at /dev/shm");
    }
    let runtime = tempfile::tempdir_in("/dev/shm").unwrap();
    let checked = app("").replace("key }}'}", "key }}', check: {run: [grep, -q, key, '{path}']}}");
    let mut agent = Agent::new(&keyed(&checked), &key(CANARY));
    agent.state_key();
    let here = ("RUNTIME_DIRECTORY".to_owned(), runtime.path().display().to_string());
    agent.env = vec![here.clone(), ("LEASEHOLD_FAILPOINT".into(), "scratch.file.after_write".into())];
    agent.start();
    assert!(!agent.end().success());
    let left = || {
        let mut files = Vec::new();
        all_files(runtime.path(), &mut files);
        files
    };
    assert_eq!(left().len(), 1, "it was killed with the plaintext in its place");
    agent.env = vec![here];
    agent.start();
    agent.wait_state("app", "healthy");
    assert_eq!(left(), Vec::<PathBuf>::new());
}
