//! Processes that are not there, are others, do not end, or do not answer.

use std::fs;
use std::process::{Command, Stdio};

use crate::agent::Agent;
use crate::endpoint::Endpoint;
use crate::kit::{Daemon, alive, app, daemon, key, last_number};

const BY_PIDFILE: &str = "    reload: {type: signal, pidfile: pid}\n";

fn pid(agent: &mut Agent) -> i32 {
    agent.wait("the pid", |a| last_number(&a.dir.join("pid")))
}

#[test]
fn a_pidfile_that_goes_missing_makes_it_wait_and_its_return_is_found() {
    let mut agent = Agent::new(&app(BY_PIDFILE), &key("key-of-1"));
    let _daemon = daemon(&agent);
    let number = pid(&mut agent);
    agent.start();
    agent.wait_state("app", "healthy");
    fs::remove_file(agent.dir.join("pid")).unwrap();
    agent.secrets(&key("key-of-2"));
    agent.wait_state("app", "waiting");
    assert_eq!(agent.read("out/conf"), "key=key-of-2");
    fs::write(agent.dir.join("pid"), format!("{number}\n")).unwrap();
    agent.wait_state("app", "healthy");
}

#[test]
fn a_stale_pidfile_harms_nobody_and_the_new_daemon_is_found() {
    let mut agent = Agent::new(&app(BY_PIDFILE), &key("key-of-1"));
    let first = daemon(&agent);
    pid(&mut agent);
    agent.start();
    agent.wait_state("app", "healthy");
    // Killed: its pidfile stays.
    drop(first);
    agent.secrets(&key("key-of-2"));
    agent.wait_state("app", "waiting");
    let _second = daemon(&agent);
    agent.wait_state("app", "healthy");
    agent.secrets(&key("key-of-3"));
    agent.wait("the new daemon is told", |a| a.read("hups").ends_with("key=key-of-3\n").then_some(()));
    agent.wait_state("app", "healthy");
}

#[test]
fn a_pidfile_that_names_another_process_is_told_and_that_one_is_not_signalled() {
    let text = app("    reload: {type: signal, pidfile: pid, expect: {comm: sh}}\n");
    let mut agent = Agent::new(&text, &key("key-of-1"));
    let _daemon = daemon(&agent);
    let number = pid(&mut agent);
    agent.start();
    agent.wait_state("app", "healthy");
    // HUP would end it.
    let mut other = Daemon(Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap());
    fs::write(agent.dir.join("pid"), format!("{}\n", other.pid())).unwrap();
    agent.secrets(&key("key-of-2"));
    let reason = agent.wait("the mismatch is told", |a| {
        a.target("app")?["reason"].as_str().filter(|r| r.contains("not the expected `sh`")).map(str::to_owned)
    });
    assert!(reason.contains(&other.pid().to_string()), "{reason}");
    assert!(other.0.try_wait().unwrap().is_none(), "it was not signalled");
    fs::write(agent.dir.join("pid"), format!("{number}\n")).unwrap();
    agent.wait_file("out/conf", "key=key-of-2");
    agent.wait_state("app", "healthy");
}

#[test]
fn a_daemon_that_hup_would_end_is_not_told_and_the_files_go_back() {
    let mut agent = Agent::new(&app(BY_PIDFILE), &key("key-of-1"));
    let mut other = Daemon(Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap());
    fs::write(agent.dir.join("out/conf"), "").unwrap();
    agent.start();
    agent.wait_state("app", "waiting");
    fs::write(agent.dir.join("pid"), format!("{}\n", other.pid())).unwrap();
    agent.wait_state("app", "healthy");
    agent.secrets(&key("key-of-2"));
    agent.wait("why it was not told", |a| {
        a.log().contains("does not handle SIGHUP, which would end it: not sent").then_some(())
    });
    agent.wait_file("out/conf", "key=key-of-1");
    assert!(other.0.try_wait().unwrap().is_none());
    // Somebody starts a daemon that can be told: the agent finds its way by itself.
    drop(other);
    let _daemon = daemon(&agent);
    agent.secrets(&key("key-of-3"));
    agent.wait_file("out/conf", "key=key-of-3");
    agent.wait_state("app", "healthy");
}

#[test]
fn a_child_that_ignores_term_is_killed_with_its_whole_group_after_stop_timeout() {
    let script = "trap \\\"\\\" TERM; sleep 1000 & echo $! >grandchild; echo $$ >pid; while :; do sleep 0.05; done";
    let exec = format!("    reload: {{type: exec, command: [sh, -c, \"{script}\"], cwd: ., stop_timeout: 300ms}}\n");
    let mut agent = Agent::new(&app(&exec), &key("key-of-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    let old = agent.wait("both run", |a| {
        let number = |name| last_number(&a.dir.join(name));
        Some([number("pid")?, number("grandchild")?])
    });
    assert!(old.iter().all(|pid| alive(*pid)));
    agent.secrets(&key("key-of-2"));
    agent.wait_outcomes(&["committed", "committed"]);
    assert!(old.iter().all(|pid| !alive(*pid)), "nothing of the old one is left when the new one runs");
    let new = agent.wait("both of the new one run", |a| {
        let number = |name| last_number(&a.dir.join(name)).filter(|pid| !old.contains(pid));
        Some([number("pid")?, number("grandchild")?])
    });
    assert!(new.iter().all(|pid| alive(*pid)));
    agent.wait_state("app", "healthy");
    assert_eq!(agent.stop().code(), Some(128 + 9));
    assert!(new.iter().all(|pid| !alive(*pid)), "nothing is left behind");
}

#[test]
fn a_health_endpoint_that_hangs_is_unhealthy_in_time_and_says_so() {
    let endpoint = Endpoint::accepting(&["key-of-1", "key-of-2", "key-of-3"]);
    let health = endpoint.health("/health").replace("timeout: 20s", "timeout: 1s");
    let mut agent = Agent::new(&app(&format!("    health: {health}\n")), &key("key-of-1"));
    agent.start();
    agent.wait_state("app", "healthy");
    endpoint.hang("/health");
    agent.secrets(&key("key-of-2"));
    // Going back cannot be proven either: degraded, and tried on.
    let state = agent.wait_state("app", "degraded");
    let reason = state["reason"].as_str().unwrap();
    assert!(reason.contains("no answer within 1s"), "{state}");
    assert_eq!(agent.read("out/conf"), "key=key-of-1");
    endpoint.go_on();
    let state = agent.wait_state("app", "healthy");
    assert_eq!(state["generation"], 1);
    agent.wait_outcomes(&["committed", "rolled_back"]);
    agent.secrets(&key("key-of-3"));
    agent.wait_outcomes(&["committed", "rolled_back", "committed"]);
}

#[test]
fn a_reload_command_that_hangs_is_killed_and_the_files_go_back() {
    let script = "test ! -e stuck || sleep 1000";
    let reload = format!("    reload: {{type: command, run: [sh, -c, '{script}'], timeout: 500ms}}\n");
    let mut agent = Agent::new(&app(&reload), &key("key-of-1"));
    agent.start();
    agent.wait_state("app", "healthy");
    fs::write(agent.dir.join("stuck"), "").unwrap();
    agent.secrets(&key("key-of-2"));
    let state = agent.wait_state("app", "degraded");
    assert!(state["reason"].as_str().unwrap().contains("500ms"), "{state}");
    assert_eq!(agent.read("out/conf"), "key=key-of-1");
    fs::remove_file(agent.dir.join("stuck")).unwrap();
    agent.wait_outcomes(&["committed", "rolled_back"]);
    agent.wait_state("app", "healthy");
}
