//! The agent's own state is held by another, torn or tampered with.

use std::fs;
use std::path::PathBuf;

use crate::agent::Agent;
use crate::endpoint::Endpoint;
use crate::kit::{app, key, mark};

#[test]
fn a_state_dir_that_another_agent_holds_is_refused_with_its_pid() {
    let mut agent = Agent::new(&app(""), &key("key-of-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    let pid = agent.pid().to_string();
    for arguments in [&["run"][..], &["render"], &["render", "--once"]] {
        let (code, out, err) = agent.call(arguments);
        assert_eq!(code, 69, "{arguments:?}: {err}");
        let told = out + &err;
        assert!(told.contains("another agent") && told.contains(&pid), "{arguments:?}: {told}");
    }
    agent.secrets(&key("key-of-2"));
    agent.wait_outcomes(&["committed", "committed"]);
}

#[test]
fn a_spoilt_journal_is_refused_and_kept_and_going_on_without_it_is_safe() {
    let mut agent = Agent::new(&app(""), &key("key-of-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    agent.stop();
    let journal = agent.dir.join("state/targets/app/journal");
    let whole = fs::read(&journal).unwrap();
    let file = mark(&agent.dir.join("out/conf"));
    for spoilt in [&whole[..whole.len() / 2], b"", b"{}\n{}\n"] {
        fs::write(&journal, spoilt).unwrap();
        let (code, _, err) = agent.call(&["run"]);
        assert_eq!(code, 74, "{err}");
        assert!(err.contains("targets/app/journal") && err.contains("a copy is kept at"), "{err}");
        assert_eq!(mark(&agent.dir.join("out/conf")), file, "nothing is touched");
    }
    fs::remove_file(&journal).unwrap();
    agent.start();
    agent.wait_state("app", "healthy");
    assert_eq!(mark(&agent.dir.join("out/conf")), file, "the bytes were right already");
    agent.secrets(&key("key-of-2"));
    agent.wait_file("out/conf", "key=key-of-2");
}

/// The files of a retained generation.
fn spoil(agent: &Agent, generation: usize) -> PathBuf {
    let folder = agent.dir.join("state/targets/app/generations");
    let name = format!("{generation:06}");
    let mut spoilt = None;
    let mut todo = vec![folder.join(name)];
    while let Some(at) = todo.pop() {
        if at.is_dir() {
            todo.extend(fs::read_dir(&at).unwrap().map(|e| e.unwrap().path()));
        } else if fs::read_to_string(&at).is_ok_and(|text| text.starts_with("key=")) {
            fs::write(&at, "key=tampered").unwrap();
            spoilt = Some(at);
        }
    }
    spoilt.unwrap()
}

#[test]
fn a_spoilt_generation_is_never_published_and_a_good_value_ends_the_trouble() {
    let endpoint = Endpoint::accepting(&["key-of-1", "key-of-3"]);
    let mut agent = Agent::new(&app(&format!("    health: {}\n", endpoint.health("/h"))), &key("key-of-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    spoil(&agent, 1);
    agent.secrets(&key("key-of-2"));
    let state = agent.wait_state("app", "degraded");
    assert!(state["reason"].as_str().unwrap().contains("does not match its digest"), "{state}");
    assert_eq!(agent.read("out/conf"), "key=key-of-2", "never the tampered bytes");
    agent.secrets(&key("key-of-3"));
    agent.wait_file("out/conf", "key=key-of-3");
    agent.wait_state("app", "healthy");
}

#[test]
fn a_committed_generation_that_is_spoilt_at_the_start_is_made_anew_from_the_same_secrets() {
    let exec = "    reload: {type: exec, command: [sh, -c, \"cat out/conf >served; while :; do sleep 0.05; done\"], cwd: ., \
                stop_timeout: 5s}\n";
    let mut agent = Agent::new(&app(exec), &key("key-of-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    agent.stop();
    fs::remove_file(agent.dir.join("served")).unwrap();
    spoil(&agent, 1);
    agent.start();
    agent.wait_file("served", "key=key-of-1");
    agent.wait_state("app", "healthy");
}
