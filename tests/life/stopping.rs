//! TERM in the middle of each step: the agent ends within a bound, and nothing is half-done.

use std::time::{Duration, Instant};

use crate::agent::Agent;
use crate::endpoint::Endpoint;
use crate::kit::{alive, app, daemon, key, last_number};

/// The agent is on `key-of-1`; a change gets stuck at a step, TERM comes, and this is how it is left.
fn stuck(agent: &mut Agent, step: &str, left: &str) {
    agent.secrets(&key("key-of-2"));
    let begins = format!("begins step={step} ");
    let before = agent.log().matches(&begins).count();
    let begun = agent.dir.join("begun");
    agent.wait(&format!("{step} begins"), |a| {
        (begun.exists() || (step == "probe" && a.log().matches(&begins).count() > before)).then_some(())
    });
    let told = Instant::now();
    assert_eq!(agent.stop().code().map(|code| code & 0x7f), Some(if step == "exec" { 15 } else { 0 }));
    assert!(told.elapsed() < Duration::from_secs(20), "{step}: {:?}", told.elapsed());
    assert_eq!(agent.read("out/conf"), left, "{step}");
    assert!(!agent.dir.join("state/control.sock").exists() || agent.call(&["status"]).0 == 69);
}

/// The next life takes the change up.
fn next_life(agent: &mut Agent) {
    let _gone = std::fs::remove_file(agent.dir.join("stuck"));
    agent.start();
    agent.wait_file("out/conf", "key=key-of-2");
    agent.wait_state("app", "healthy");
    let last = agent.history().pop().unwrap();
    assert_eq!((&last["outcome"], &last["generation"]), (&"committed".into(), &last["on"]), "{last}");
}

const SLOW: &str = "test ! -e stuck || { touch begun; sleep 5; }";

fn started(text: &str) -> Agent {
    let mut agent = Agent::new(text, &key("key-of-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    agent.wait_state("app", "healthy");
    agent
}

fn block(agent: &Agent) {
    std::fs::write(agent.dir.join("stuck"), "").unwrap();
}

#[test]
fn in_a_check_nothing_is_published() {
    let text = app("").replace("inline:", &format!("check: {{run: [sh, -c, '{SLOW}']}}, inline:"));
    let mut agent = started(&text);
    block(&agent);
    stuck(&mut agent, "check", "key=key-of-1");
    next_life(&mut agent);
}

#[test]
fn in_a_reload_the_files_go_back() {
    let text =
        app(&format!("    reload: {{type: command, run: [sh, -c, '{SLOW}; cat out/conf >>told; echo >>told']}}\n"));
    let mut agent = started(&text);
    block(&agent);
    stuck(&mut agent, "reload", "key=key-of-1");
    assert!(agent.read("told").ends_with("key=key-of-1\n"), "the process is told to go back: {}", agent.read("told"));
    next_life(&mut agent);
    assert!(agent.read("told").ends_with("key=key-of-2\n"));
}

#[test]
fn in_a_probe_the_files_go_back() {
    let endpoint = Endpoint::accepting(&["key-of-1", "key-of-2"]);
    let health = endpoint.health("/h").replace("20s", "120s").replace("300ms", "100s");
    let rest = format!("    reload: {{type: signal, pidfile: pid}}\n    health: {health}\n");
    let mut agent = Agent::new(&app(&rest), &key("key-of-1"));
    let _daemon = daemon(&agent);
    agent.wait("the daemon", |a| last_number(&a.dir.join("pid")));
    agent.start();
    agent.wait_state("app", "healthy");
    endpoint.hang("/h");
    stuck(&mut agent, "probe", "key=key-of-1");
    assert_eq!(agent.read("hups"), "key=key-of-1\nkey=key-of-2\nkey=key-of-1\n");
    endpoint.go_on();
    next_life(&mut agent);
}

#[test]
fn in_a_probe_of_a_child_the_child_ends_and_the_files_go_back() {
    let endpoint = Endpoint::accepting(&["key-of-1", "key-of-2"]);
    let health = endpoint.health("/h").replace("20s", "120s").replace("300ms", "100s");
    let exec = format!(
        "    reload: {{type: exec, command: [sh, -c, 'echo $$ >pid.next; mv pid.next pid; touch begun; exec sleep 1000'], \
         cwd: ., stop_timeout: 5s}}\n    health: {health}\n"
    );
    let mut agent = started(&app(&exec));
    std::fs::remove_file(agent.dir.join("begun")).unwrap();
    endpoint.hang("/h");
    stuck(&mut agent, "exec", "key=key-of-1");
    assert!(!alive(last_number(&agent.dir.join("pid")).unwrap()));
    endpoint.go_on();
    next_life(&mut agent);
}

#[test]
fn in_a_first_rotation_what_is_begun_is_finished_by_the_next_life() {
    let endpoint = Endpoint::accepting(&["key-of-2"]);
    let health = endpoint.health("/h");
    let mut agent = Agent::new(&app(&format!("    health: {health}\n")), &key("key-of-1"));
    agent.start();
    agent.wait_state("app", "degraded");
    assert_eq!(agent.stop().code(), Some(0));
    assert_eq!(agent.read("out/conf"), "key=key-of-1");
    agent.secrets(&key("key-of-2"));
    next_life(&mut agent);
}

#[test]
fn a_second_term_ends_at_once_and_the_next_life_finds_its_way() {
    let text =
        app(&format!("    reload: {{type: command, run: [sh, -c, '{}']}}\n", SLOW.replace("sleep 5", "sleep 20")));
    let mut agent = started(&text);
    block(&agent);
    agent.secrets(&key("key-of-2"));
    let begun = agent.dir.join("begun");
    agent.wait("the reload begins", |_| begun.exists().then_some(()));
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    agent.wait("the first is taken", |a| a.log().contains("stopping").then_some(()));
    let told = Instant::now();
    agent.stop();
    assert!(told.elapsed() < Duration::from_secs(15), "{:?}", told.elapsed());
    next_life(&mut agent);
}

#[test]
fn a_store_that_changes_all_the_time_does_not_keep_the_agent_from_ending() {
    let mut agent = started(&app(""));
    for n in 0..20 {
        agent.secrets(&key(&format!("key-of-many-{n}")));
    }
    let told = Instant::now();
    assert_eq!(agent.stop().code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(20));
    let conf = agent.read("out/conf");
    assert!(conf == "key=key-of-1" || conf.starts_with("key=key-of-many-"), "{conf}");
    agent.start();
    agent.wait_file("out/conf", "key=key-of-many-19");
}
