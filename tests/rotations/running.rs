//! Processes that run, do not run yet, or are started by the agent.

use crate::agent::Agent;
use crate::endpoint::Endpoint;
use crate::kit::{DAEMON, alive, app, daemon, key, last_number};

fn child(agent: &mut Agent) -> i32 {
    agent.wait("the child's pid", |a| last_number(&a.dir.join("pid")))
}

#[test]
fn a_changed_env_of_a_child_starts_it_anew() {
    let exec = format!(
        "    reload: {{type: exec, command: [sh, -c, \"{DAEMON}\"], cwd: ., env: {{KEY: '{{{{ secrets.provider.key }}}}'}}, \
         on_change: signal HUP, stop_timeout: 5s}}\n"
    );
    // No file at all: the secret reaches the process by its environment alone.
    let text = app(&exec).replace("    files: [{path: out/conf, inline: 'key={{ secrets.provider.key }}'}]\n", "");
    let mut agent = Agent::new(&text, &key("key-of-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    let first = child(&mut agent);
    assert!(environ(first).contains("KEY=key-of-1\0"));
    agent.secrets(&key("key-of-2"));
    agent.wait_outcomes(&["committed", "committed"]);
    let second = agent.wait("another child", |a| last_number(&a.dir.join("pid")).filter(|pid| *pid != first));
    assert!(!alive(first));
    assert!(environ(second).contains("KEY=key-of-2\0"));
    assert_eq!(agent.read("hups"), "", "an env cannot be told by a signal");
}

#[test]
fn a_changed_file_of_a_child_is_told_by_its_signal() {
    let exec = format!(
        "    reload: {{type: exec, command: [sh, -c, \"{DAEMON}\"], cwd: ., on_change: signal HUP, stop_timeout: 5s}}\n"
    );
    let mut agent = Agent::new(&app(&exec), &key("key-of-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    let first = child(&mut agent);
    agent.secrets(&key("key-of-2"));
    agent.wait_outcomes(&["committed", "committed"]);
    agent.wait_file("hups", "key=key-of-2\n");
    assert_eq!(child(&mut agent), first);
    assert!(alive(first));
}

#[test]
fn a_target_that_does_not_run_yet_waits_and_is_probed_when_it_appears() {
    let endpoint = Endpoint::accepting(&["key-of-1"]);
    let rest = format!("    reload: {{type: signal, pidfile: pid}}\n    health: {}\n", endpoint.health("/health"));
    let mut agent = Agent::new(&app(&rest), &key("key-of-1"));
    agent.start();
    let state = agent.wait_state("app", "waiting");
    assert_eq!((&state["generation"], &state["degraded"]), (&1.into(), &false.into()));
    assert_eq!(agent.read("out/conf"), "key=key-of-1");
    assert_eq!(agent.outcomes(), ["committed"]);
    assert!(endpoint.asked().is_empty(), "nothing is asked of what is not there");
    let _daemon = daemon(&agent);
    agent.wait_state("app", "healthy");
    assert!(endpoint.times("key-of-1") > 0);
    assert_eq!(agent.read("hups"), "", "it started with these files");
}

#[test]
fn a_target_that_appears_unhealthy_goes_back_to_what_was_healthy() {
    let endpoint = Endpoint::accepting(&["key-of-1"]);
    let rest = format!("    reload: {{type: signal, pidfile: pid}}\n    health: {}\n", endpoint.health("/health"));
    let mut agent = Agent::new(&app(&rest), &key("key-of-1"));
    let first = daemon(&agent);
    child(&mut agent);
    agent.start();
    agent.wait_state("app", "healthy");
    drop(first);
    std::fs::remove_file(agent.dir.join("pid")).unwrap();
    agent.secrets(&key("key-of-2"));
    agent.wait_state("app", "waiting");
    assert_eq!(agent.read("out/conf"), "key=key-of-2");
    let _second = daemon(&agent);
    agent.wait_outcomes(&["committed", "committed", "rolled_back"]);
    agent.wait_file("out/conf", "key=key-of-1");
    assert_eq!(agent.wait_state("app", "healthy")["generation"], 1);
}

#[test]
fn a_target_that_appears_with_the_files_before_is_told_before_it_is_judged() {
    // Healthy once it was told: it read its files before the second key was there.
    let health = "    health: {type: command, run: [sh, -c, 'test ! -e late || test -s hups'], interval: 100ms, \
                  timeout: 2s, within: 1s}\n";
    let rest = format!("    reload: {{type: signal, pidfile: pid}}\n{health}");
    let mut agent = Agent::new(&app(&rest), &key("key-of-1"));
    let first = daemon(&agent);
    child(&mut agent);
    agent.start();
    agent.wait_state("app", "healthy");
    drop(first);
    std::fs::remove_file(agent.dir.join("pid")).unwrap();
    agent.secrets(&key("key-of-2"));
    agent.wait_state("app", "waiting");
    std::fs::remove_file(agent.dir.join("hups")).unwrap();
    std::fs::write(agent.dir.join("late"), "").unwrap();
    let _second = daemon(&agent);
    agent.wait_file("hups", "key=key-of-2\n");
    assert_eq!(agent.wait_state("app", "healthy")["generation"], 2);
    assert_eq!(agent.outcomes(), ["committed", "committed"], "it did not go back");
}

#[test]
fn what_came_while_the_agent_was_away_is_told_only_where_it_is_not_healthy() {
    for told in [false, true] {
        let late = if told { "test -s hups" } else { "true" };
        let health = format!("{{type: command, run: [sh, -c, '{late}'], interval: 100ms, timeout: 2s, within: 1s}}");
        let rest = format!("    reload: {{type: signal, pidfile: pid}}\n    health: {health}\n");
        let mut agent = Agent::new(&app(&rest), &key("key-of-1"));
        // As an init container does.
        assert_eq!(agent.call(&["render", "--once"]).0, 0);
        let _daemon = daemon(&agent);
        child(&mut agent);
        agent.start();
        let state = agent.wait_state("app", "healthy");
        assert_eq!(state["generation"], 1);
        assert_eq!(agent.read("hups"), if told { "key=key-of-1\n" } else { "" });
    }
}

#[test]
fn require_running_makes_absence_a_failure_until_the_process_is_there() {
    let rest = "    reload: {type: signal, pidfile: pid}\n    require_running: true\n";
    let mut agent = Agent::new(&app(rest), &key("key-of-1"));
    agent.start();
    let state = agent.wait_state("app", "degraded");
    assert!(state["reason"].as_str().unwrap().contains("require_running"), "{state}");
    assert!(agent.outcomes().is_empty());
    let _daemon = daemon(&agent);
    agent.wait_outcomes(&["committed"]);
    agent.wait_state("app", "healthy");
}

fn environ(pid: i32) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/environ")).unwrap()).into_owned()
}
