//! Templates that are gone or broken.

use std::fs;

use crate::agent::Agent;
use crate::kit::{config, key};

fn started() -> Agent {
    let target = "  app: {settle: {min: 20ms, max: 200ms}, files: [{path: out/conf, template: conf.tera}]}\n";
    let mut agent = Agent::new(&config(target), &key("key-of-1"));
    put(&agent, "a={{ secrets.provider.key }}");
    agent.start();
    agent.wait_outcomes(&["committed"]);
    agent
}

fn put(agent: &Agent, text: &str) {
    fs::write(agent.dir.join("conf.tera.next"), text).unwrap();
    fs::rename(agent.dir.join("conf.tera.next"), agent.dir.join("conf.tera")).unwrap();
}

fn config_error(agent: &mut Agent, text: &str) {
    let error = agent.wait("the config error is told", |a| {
        a.status()?["config_error"].as_str().filter(|e| e.contains(text)).map(str::to_owned)
    });
    assert!(error.contains("conf.tera"), "{error}");
    assert_eq!(agent.read("out/conf"), "a=key-of-1");
}

#[test]
fn a_deleted_template_leaves_what_is_and_its_return_is_taken_up() {
    let mut agent = started();
    fs::remove_file(agent.dir.join("conf.tera")).unwrap();
    config_error(&mut agent, "no such file");
    // The templates that are in force go on.
    agent.secrets(&key("key-of-2"));
    agent.wait_file("out/conf", "a=key-of-2");
    put(&agent, "b={{ secrets.provider.key }}");
    agent.wait_file("out/conf", "b=key-of-2");
    agent.wait("the error is gone", |a| a.status()?["config_error"].is_null().then_some(()));
}

#[test]
fn a_broken_template_leaves_what_is_and_its_repair_is_taken_up() {
    let mut agent = started();
    put(&agent, "b={{ secrets.provider.key");
    config_error(&mut agent, "conf.tera:1");
    put(&agent, "b={{ secrets.nobody.key }}");
    config_error(&mut agent, "nobody");
    put(&agent, "b={{ secrets.provider.key }}");
    agent.wait_file("out/conf", "b=key-of-1");
    agent.wait("the error is gone", |a| a.status()?["config_error"].is_null().then_some(()));
    agent.wait_outcomes(&["committed", "committed"]);
}

#[test]
fn a_template_that_fails_with_these_secrets_is_quarantined_and_the_repaired_one_is_taken() {
    let mut agent = started();
    put(&agent, "b={{ secrets.provider.no_such_field }}");
    agent.wait_outcomes(&["committed", "quarantined"]);
    assert_eq!(agent.read("out/conf"), "a=key-of-1");
    let reason = agent.history()[1]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("conf.tera:1") && reason.contains("no_such_field"), "{reason}");
    put(&agent, "b={{ secrets.provider.key }}");
    agent.wait_file("out/conf", "b=key-of-1");
    agent.wait_state("app", "healthy");
}
