//! What is refused before anything is published.

use crate::agent::Agent;
use crate::endpoint::Endpoint;
use crate::kit::{app, key, mark};

/// The agent is on `good-key-1`; then comes `next`, and is quarantined with this in its reason.
fn quarantined(agent: &mut Agent, next: &str, reason: &str) {
    agent.start();
    agent.wait_outcomes(&["committed"]);
    let before = mark(&agent.dir.join("out/conf"));
    agent.secrets(&key(next));
    agent.wait_outcomes(&["committed", "quarantined"]);
    assert_eq!(mark(&agent.dir.join("out/conf")), before, "the target is untouched");
    let entry = agent.history().pop().unwrap();
    assert!(entry["reason"].as_str().unwrap().contains(reason), "{entry}");
    assert_eq!(entry["on"], 1);
    let state = agent.wait_state("app", "healthy");
    assert!(state["reason"].as_str().unwrap().contains(reason), "{state}");
    agent.secrets(&key("good-key-2"));
    agent.wait_outcomes(&["committed", "quarantined", "committed"]);
    assert_eq!(agent.read("out/conf"), "key=good-key-2");
    assert!(!agent.log().contains(next), "{}", agent.log());
}

#[test]
fn what_expect_refuses_is_quarantined_and_the_target_untouched() {
    let text = app("").replace("{store: local}", "{store: local, expect: {key: '^good-'}}");
    quarantined(&mut Agent::new(&text, &key("good-key-1")), "wrong-key", "provider");
}

#[test]
fn what_check_refuses_is_quarantined_and_the_target_untouched() {
    let check = "check: {run: [grep, -q, good, '{path}']}, inline:";
    let text = app("").replace("inline:", check);
    quarantined(&mut Agent::new(&text, &key("good-key-1")), "wrong-key", "check `grep` refused");
}

#[test]
fn what_verify_refuses_is_quarantined_and_the_target_untouched() {
    let endpoint = Endpoint::accepting(&["good-key-1", "good-key-2"]);
    quarantined(&mut Agent::new(&verified(&endpoint), &key("good-key-1")), "wrong-key", "verify refused");
    assert_eq!(endpoint.times("wrong-key"), 1, "asked once, and not again");
}

#[test]
fn what_breaks_a_structured_file_is_quarantined_and_the_target_untouched() {
    let text = app("").replace("out/conf, ", "out/conf, format: yaml, ").replace("key=", "key: ");
    let mut agent = Agent::new(&text, &key("good-key-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    agent.secrets("provider: {key: \"x\\nadmin: true\"}\n");
    agent.wait_outcomes(&["committed", "quarantined"]);
    assert_eq!(agent.read("out/conf"), "key: good-key-1");
}

#[test]
fn a_provider_that_does_not_answer_is_waited_for() {
    let endpoint = Endpoint::accepting(&["good-key-1"]);
    let mut agent = Agent::new(&verified(&endpoint), &key("good-key-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    endpoint.refuse_with(503);
    agent.secrets(&key("good-key-2"));
    agent.wait("the reason is told", |a| {
        let state = a.target("app")?;
        state["reason"].as_str().filter(|r| r.contains("verify got no answer") && r.contains("503")).map(drop)
    });
    assert_eq!(agent.read("out/conf"), "key=good-key-1");
    endpoint.accept(&["good-key-2"]);
    agent.wait_outcomes(&["committed", "committed"]);
    assert_eq!(agent.read("out/conf"), "key=good-key-2");
}

#[test]
fn a_provider_that_is_down_keeps_no_other_secret_from_rotating_nor_is_asked_about_what_it_let_pass() {
    let endpoint = Endpoint::accepting(&["good-key-1", "good-key-2"]);
    let two = |provider: &str, other: &str| format!("provider: {{key: {provider}}}\nother: {{key: {other}}}\n");
    let text = verified(&endpoint)
        .replace("secrets: {", "secrets: {other: {store: local}, ")
        .replace("'key={{ secrets.provider.key }}'", "'key={{ secrets.provider.key }} other={{ secrets.other.key }}'");
    let mut agent = Agent::new(&text, &two("good-key-1", "one"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    endpoint.refuse_with(503);
    agent.secrets(&two("good-key-1", "two"));
    agent.wait_outcomes(&["committed", "committed"]);
    assert_eq!(agent.read("out/conf"), "key=good-key-1 other=two");
    // Another life of the agent knows it as well.
    agent.stop();
    agent.start();
    agent.secrets(&two("good-key-1", "three"));
    agent.wait_outcomes(&["committed", "committed", "committed"]);
    assert_eq!(endpoint.times("good-key-1"), 1, "asked about once");
    endpoint.accept(&["good-key-2"]);
    agent.secrets(&two("good-key-2", "three"));
    agent.wait_outcomes(&["committed", "committed", "committed", "committed"]);
    assert_eq!(endpoint.times("good-key-2"), 1, "what is new is asked about");
    assert_eq!(agent.read("out/conf"), "key=good-key-2 other=three");
}

fn verified(endpoint: &Endpoint) -> String {
    let http = format!(
        "{{url: 'http://127.0.0.1:{}/verify', headers: {{x-key: '{{{{ secrets.provider.key }}}}'}}}}",
        endpoint.port
    );
    app("").replace("{store: local}", &format!("{{store: local, verify: {{http: {http}}}}}"))
}
