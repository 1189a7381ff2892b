//! The store's file is gone, half-written or unreadable.

use std::fs;

use crate::agent::Agent;
use crate::kit::{app, key};

/// What happens to the store's file.
type Spoil = (&'static str, fn(&Agent));

const BAD: [Spoil; 3] = [
    ("deleted", |a| fs::remove_file(a.dir.join("secrets.yaml")).unwrap()),
    ("half-written", |a| fs::write(a.dir.join("secrets.yaml"), "provider: {key: key-of-half").unwrap()),
    ("not a file", |a| {
        fs::remove_file(a.dir.join("secrets.yaml")).unwrap();
        std::os::unix::fs::symlink("secrets.yaml", a.dir.join("secrets.yaml")).unwrap();
    }),
];

fn is_stale(agent: &mut Agent, what: &str) {
    let state = agent.wait_state("app", "stale");
    assert_eq!((&state["stale"], &state["generation"]), (&true.into(), &1.into()), "{what}: {state}");
    let error = agent.status().unwrap()["secrets"][0]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("secrets.yaml"), "{what}: {error}");
    assert!(!error.contains("key-of-half"), "{error}");
    assert_eq!(agent.read("out/conf"), "key=key-of-1", "{what}");
    let (code, out, _) = agent.call(&["status"]);
    assert!(code == 0 && out.contains("stale") && out.contains("cannot be read"), "{out}");
}

#[test]
fn a_store_that_becomes_unreadable_leaves_what_is_and_says_stale() {
    let mut agent = Agent::new(&app(""), &key("key-of-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    for (what, spoil) in BAD {
        spoil(&agent);
        is_stale(&mut agent, what);
        agent.secrets(&key("key-of-1"));
        let state = agent.wait_state("app", "healthy");
        assert_eq!(state["stale"], false, "{what}: {state}");
    }
    agent.secrets(&key("key-of-2"));
    agent.wait_outcomes(&["committed", "committed"]);
}

#[test]
fn with_the_store_unreadable_at_start_the_committed_generation_keeps_serving() {
    let exec = "    reload: {type: exec, command: [sh, -c, \"echo $KEY >served; while :; do sleep 0.05; done\"], cwd: ., env: \
                {KEY: '{{ secrets.provider.key }}'}, stop_timeout: 5s}\n";
    let mut agent = Agent::new(&app(exec), &key("key-of-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    for (what, spoil) in BAD {
        agent.stop();
        fs::remove_file(agent.dir.join("served")).unwrap();
        spoil(&agent);
        agent.start();
        agent.wait_file("served", "key-of-1\n");
        is_stale(&mut agent, what);
        agent.secrets(&key("key-of-1"));
        agent.wait_state("app", "healthy");
        assert_eq!(agent.outcomes(), ["committed"], "{what}");
    }
    agent.secrets(&key("key-of-2"));
    agent.wait_file("served", "key-of-2\n");
}

#[test]
fn a_secret_that_is_missing_from_the_store_is_told_by_name() {
    let mut agent = Agent::new(&app(""), &key("key-of-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    agent.secrets("other: {key: x}\n");
    is_stale(&mut agent, "missing");
    let error = agent.status().unwrap()["secrets"][0]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("provider"), "{error}");
    agent.secrets(&key("key-of-2"));
    agent.wait_outcomes(&["committed", "committed"]);
}

#[test]
fn with_nothing_committed_and_no_store_the_agent_waits_for_it() {
    let mut agent = Agent::new(&app(""), &key("key-of-1"));
    fs::remove_file(agent.dir.join("secrets.yaml")).unwrap();
    agent.start();
    agent.wait("the error is told", |a| a.status()?["secrets"][0]["error"].as_str().map(drop));
    assert!(!agent.dir.join("out/conf").exists());
    agent.secrets(&key("key-of-1"));
    agent.wait_outcomes(&["committed"]);
    agent.wait_state("app", "healthy");
}
