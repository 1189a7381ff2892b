//! The new generation is not healthy.

use crate::agent::Agent;
use crate::endpoint::Endpoint;
use crate::kit::{DAEMON, alive, app, key, last_number, mark};

fn target(endpoint: &Endpoint, rest: &str) -> String {
    app(&format!("    health: {}\n{rest}", endpoint.health("/health")))
}

#[test]
fn an_unhealthy_rotation_ends_on_the_bytes_before_healthy_and_quarantined() {
    let endpoint = Endpoint::accepting(&["good-key-1", "good-key-2"]);
    let mut agent = Agent::new(&target(&endpoint, ""), &key("good-key-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    agent.secrets(&key("worse-key"));
    agent.wait_outcomes(&["committed", "rolled_back"]);
    let state = agent.wait_state("app", "healthy");
    assert_eq!(agent.read("out/conf"), "key=good-key-1");
    assert_eq!(endpoint.asked().last().unwrap().1, "good-key-1", "going back is proven with the old key");
    assert_eq!((&state["generation"], &state["held"], &state["degraded"]), (&1.into(), &false.into(), &false.into()));
    assert_eq!(state["last_rotation"]["outcome"], "rolled_back");
    assert!(state["reason"].as_str().unwrap().contains("403"), "{state}");
    let entry = agent.history().pop().unwrap();
    assert_eq!((&entry["generation"], &entry["on"]), (&2.into(), &1.into()), "{entry}");
    let reason = entry["reason"].as_str().unwrap();
    assert!(reason.contains("not healthy within") && reason.contains("403"), "{reason}");
    assert!(!agent.log().contains("worse-key"));

    // Not retried: not when it is read again, not after a restart.
    let tries = endpoint.times("worse-key");
    agent.call(&["refresh"]);
    assert_eq!(agent.stop().code(), Some(0));
    agent.start();
    agent.wait_state("app", "healthy");
    agent.wait("the new agent has read the secret", |a| a.status()?["secrets"][0]["version"].as_str().map(drop));
    agent.call(&["refresh"]);
    assert_eq!(agent.outcomes(), ["committed", "rolled_back"]);

    agent.secrets(&key("good-key-2"));
    agent.wait_outcomes(&["committed", "rolled_back", "committed"]);
    assert_eq!(agent.read("out/conf"), "key=good-key-2");
    assert_eq!(endpoint.times("worse-key"), tries, "what is quarantined is not tried");
    let state = agent.wait_state("app", "healthy");
    assert_eq!((&state["generation"], &state["reason"]), (&3.into(), &serde_json::Value::Null));
}

#[test]
fn release_lets_what_is_quarantined_be_tried_again() {
    let endpoint = Endpoint::accepting(&["good-key-1"]);
    let mut agent = Agent::new(&target(&endpoint, ""), &key("good-key-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    agent.secrets(&key("later-key"));
    agent.wait_outcomes(&["committed", "rolled_back"]);
    endpoint.accept(&["later-key"]);
    let (code, out, _) = agent.call(&["release", "app"]);
    assert_eq!(code, 0);
    assert!(out.contains("1 quarantined"), "{out}");
    agent.wait_outcomes(&["committed", "rolled_back", "committed"]);
    assert_eq!(agent.read("out/conf"), "key=later-key");
}

#[test]
fn the_child_of_an_unhealthy_rotation_is_replaced_by_one_with_the_old_secret() {
    let script = "[ $KEY != worse-key ] || exit 7; echo $KEY >key; echo $$ >pid; while :; do sleep 0.05; done";
    // The pid tells the child's own answer from one that an earlier child left behind.
    let health = "test $(cat key) = good-key-1 -o $(cat key) = good-key-2 && kill -0 $(cat pid)";
    let exec = format!(
        "    reload: {{type: exec, command: [sh, -c, '{script}'], cwd: ., env: {{KEY: '{{{{ secrets.provider.key }}}}'}}, \
         stop_timeout: 5s}}\n    health: {{type: command, run: [sh, -c, '{health}'], interval: 50ms, within: 20s}}\n"
    );
    let mut agent = Agent::new(&app(&exec), &key("good-key-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    agent.secrets(&key("worse-key"));
    agent.wait_outcomes(&["committed", "rolled_back"]);
    agent.wait_state("app", "healthy");
    assert_eq!(agent.read("key"), "good-key-1\n");
    let reason = agent.history()[1]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("exit code 7"), "{reason}");
    agent.secrets(&key("good-key-2"));
    agent.wait_outcomes(&["committed", "rolled_back", "committed"]);
    agent.wait_file("key", "good-key-2\n");
}

#[test]
fn a_daemon_is_told_again_when_a_rotation_goes_back() {
    let endpoint = Endpoint::accepting(&["good-key-1"]);
    let signal = "    reload: {type: signal, pidfile: pid}\n";
    let mut agent = Agent::new(&target(&endpoint, signal), &key("good-key-1"));
    let _daemon = crate::kit::daemon(&agent);
    agent.wait("the daemon has its pidfile", |a| last_number(&a.dir.join("pid")));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    agent.secrets(&key("worse-key"));
    agent.wait_outcomes(&["committed", "rolled_back"]);
    agent.wait_file("hups", "key=good-key-1\nkey=worse-key\nkey=good-key-1\n");
}

#[test]
fn on_unhealthy_hold_leaves_the_new_bytes_and_waits_for_a_human() {
    let endpoint = Endpoint::accepting(&["good-key-1"]);
    let mut agent = Agent::new(&target(&endpoint, "    on_unhealthy: hold\n"), &key("good-key-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    agent.secrets(&key("worse-key"));
    agent.wait_outcomes(&["committed", "held"]);
    let state = agent.wait_state("app", "held");
    assert_eq!((&state["held"], &state["generation"]), (&true.into(), &2.into()), "{state}");
    assert!(state["reason"].as_str().unwrap().contains("403"), "{state}");
    assert_eq!(agent.read("out/conf"), "key=worse-key");

    // Held: nothing newer is taken, also by the next life.
    endpoint.accept(&["good-key-1", "good-key-2"]);
    agent.secrets(&key("good-key-2"));
    agent.call(&["refresh"]);
    agent.stop();
    agent.start();
    agent.wait_state("app", "held");
    agent.call(&["refresh"]);
    assert_eq!(agent.read("out/conf"), "key=worse-key");
    assert_eq!(agent.outcomes(), ["committed", "held"]);
    agent.call(&["release", "app"]);
    agent.wait_outcomes(&["committed", "held", "committed"]);
    assert_eq!(agent.read("out/conf"), "key=good-key-2");
}

#[test]
fn on_unhealthy_ignore_commits_all_the_same() {
    let endpoint = Endpoint::accepting(&["good-key-1"]);
    let mut agent = Agent::new(&target(&endpoint, "    on_unhealthy: ignore\n"), &key("good-key-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    agent.secrets(&key("worse-key"));
    agent.wait_outcomes(&["committed", "committed"]);
    assert_eq!(agent.read("out/conf"), "key=worse-key");
    assert_eq!(agent.wait_state("app", "healthy")["generation"], 2);
}

#[test]
fn a_first_rotation_that_is_unhealthy_is_probed_until_it_recovers() {
    let endpoint = Endpoint::accepting(&[]);
    let mut agent = Agent::new(&target(&endpoint, ""), &key("first-key"));
    agent.start();
    let state = agent.wait_state("app", "degraded");
    assert!(state["reason"].as_str().unwrap().contains("403"), "{state}");
    assert_eq!(agent.read("out/conf"), "key=first-key", "the files are left");
    let tries = endpoint.times("first-key");
    agent.wait("it is probed on", |_| (endpoint.times("first-key") > tries + 5).then_some(()));
    endpoint.accept(&["first-key"]);
    agent.wait_outcomes(&["committed"]);
    agent.wait_state("app", "healthy");
}

#[test]
fn a_first_child_that_is_unhealthy_is_stopped_and_started_again_after_a_wait() {
    let exec = format!(
        "    reload: {{type: exec, command: [sh, -c, \"{DAEMON}\"], cwd: ., stop_timeout: 5s}}\n    health: {{type: \
         command, run: [test, -e, well], interval: 50ms, within: 1s}}\n"
    );
    let mut agent = Agent::new(&app(&exec), &key("first-key"));
    agent.start();
    agent.wait_state("app", "degraded");
    let first = agent.wait("the first child", |a| last_number(&a.dir.join("pid")));
    let second = agent.wait("another child", |a| last_number(&a.dir.join("pid")).filter(|pid| *pid != first));
    assert!(!alive(first) && second != first);
    std::fs::write(agent.dir.join("well"), "").unwrap();
    agent.wait_outcomes(&["committed"]);
    agent.wait_state("app", "healthy");
}

#[test]
fn a_rotation_that_goes_back_leaves_the_other_files_alone() {
    let endpoint = Endpoint::accepting(&["good-key-1"]);
    let files = "{path: out/conf, inline: '{{ secrets.provider.key }}'}, {path: out/fixed, inline: 'no secret'}";
    let text = target(&endpoint, "").replace("{path: out/conf, inline: 'key={{ secrets.provider.key }}'}", files);
    let mut agent = Agent::new(&text, &key("good-key-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    let fixed = mark(&agent.dir.join("out/fixed"));
    agent.secrets(&key("worse-key"));
    agent.wait_outcomes(&["committed", "rolled_back"]);
    assert_eq!(mark(&agent.dir.join("out/fixed")), fixed);
}

#[test]
fn a_child_that_passes_its_check_and_dies_a_moment_later_is_rolled_back() {
    let command = "if grep -q wrong out/conf; then sleep 0.05; exit 7; fi; exec sleep 1000";
    let text = app(&format!(
        "    reload: {{type: exec, command: [sh, -c, '{command}'], on_change: restart, stop_timeout: 2s}}\n    \
         health: {{type: command, run: ['true'], within: 5s, interval: 50ms}}\n"
    ));
    let mut agent = Agent::new(&text, &key("good-key-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    agent.secrets(&key("wrong-key"));
    agent.wait_outcomes(&["committed", "rolled_back"]);
    assert_eq!(agent.read("out/conf"), "key=good-key-1");
    let reason = agent.history().pop().unwrap()["reason"].to_string();
    assert!(reason.contains("exit code 7"), "{reason}");
    agent.wait_state("app", "healthy");
}
