//! SIGHUP: config and templates are taken up, and what did not change is left alone.

use std::fs;

use nix::sys::signal::Signal;

use crate::agent::Agent;
use crate::kit::{alive, config, key, last_number};

const CHILD: &str = "  child:\n    files: [{path: out/child, inline: '{{ secrets.provider.key }}'}]\n    reload: {type: exec, \
                     command: [sh, -c, 'echo $$ >pid.next; mv pid.next pid; while :; do sleep 0.05; done'], cwd: ., \
                     stop_timeout: 5s}\n";

fn plain(name: &str, text: &str) -> String {
    format!("  {name}: {{files: [{{path: out/{name}, inline: '{text}{{{{ secrets.provider.key }}}}'}}]}}\n")
}

fn started(text: &str) -> (Agent, i32) {
    let mut agent = Agent::new(text, &key("key-of-1"));
    agent.start();
    agent.wait_state("child", "healthy");
    let pid = agent.wait("the child", |a| last_number(&a.dir.join("pid")));
    (agent, pid)
}

fn hup(agent: &Agent, text: &str) {
    fs::write(agent.dir.join("agent.yaml"), text).unwrap();
    agent.signal(Signal::SIGHUP);
}

#[test]
fn a_changed_target_rotates_and_an_unchanged_child_lives_on() {
    let (mut agent, pid) = started(&config(&(CHILD.to_owned() + &plain("app", "a="))));
    agent.wait_state("app", "healthy");
    hup(&agent, &config(&(CHILD.to_owned() + &plain("app", "b="))));
    agent.wait_file("out/app", "b=key-of-1");
    agent.wait_state("app", "healthy");
    assert_eq!(last_number(&agent.dir.join("pid")), Some(pid));
    assert!(alive(pid));
    assert_eq!(agent.target("child").unwrap()["generation"], 1);
}

#[test]
fn a_template_that_uses_one_secret_less_or_one_more_is_one_good_rotation() {
    let text = |uses: &str| config(&format!("  app: {{files: [{{path: out/app, inline: '{uses}'}}]}}\n"));
    let text = |uses: &str| {
        text(uses).replace("{provider: {store: local}}", "{provider: {store: local}, other: {store: local}}")
    };
    let (one, both) = ("a={{ secrets.provider.key }}", "a={{ secrets.provider.key }} b={{ secrets.other.key }}");
    let mut agent = Agent::new(&text(both), "provider: {key: key-of-1}\nother: {key: other-of-1}\n");
    agent.start();
    for (text, expected) in [(text(one), "a=key-of-1"), (text(both), "a=key-of-1 b=other-of-1")] {
        agent.wait_state("app", "healthy");
        hup(&agent, &text);
        agent.wait_file("out/app", expected);
    }
    agent.wait_outcomes(&["committed"; 3]);
}

#[test]
fn a_target_is_added_and_one_is_removed() {
    let (mut agent, pid) = started(&config(&(CHILD.to_owned() + &plain("app", "a="))));
    agent.wait_state("app", "healthy");
    hup(&agent, &config(&(CHILD.to_owned() + &plain("new", "n="))));
    agent.wait_file("out/new", "n=key-of-1");
    agent.wait_state("new", "healthy");
    agent.wait("the other is gone", |a| a.target("app").is_none().then_some(()));
    assert_eq!(agent.read("out/app"), "a=key-of-1", "what is configured away is left as it is");
    assert!(alive(pid));
    // A child that is configured away is ended.
    hup(&agent, &config(&plain("new", "n=")));
    agent.wait("the child ends", |_| (!alive(pid)).then_some(()));
    agent.secrets(&key("key-of-2"));
    agent.wait_file("out/new", "n=key-of-2");
    assert_eq!((agent.read("out/app"), agent.read("out/child")), ("a=key-of-1".into(), "key-of-1".into()));
}

#[test]
fn a_faulty_config_is_refused_as_a_whole_and_all_goes_on() {
    let good = config(&(CHILD.to_owned() + &plain("app", "a=")));
    let (mut agent, pid) = started(&good);
    hup(&agent, &good.replace("a=", "b=").replace("stop_timeout", "stop_timeuot"));
    let error = agent.wait("the error is told", |a| a.status()?["config_error"].as_str().map(str::to_owned));
    assert!(error.contains("agent.yaml:") && error.contains("did you mean 'stop_timeout'"), "{error}");
    let (code, out, _) = agent.call(&["status"]);
    assert!(code == 0 && out.contains("is not in force"), "{out}");
    agent.secrets(&key("key-of-2"));
    agent.wait_file("out/app", "a=key-of-2");
    agent.wait("the child is started anew", |a| last_number(&a.dir.join("pid")).filter(|p| *p != pid));
    hup(&agent, &good.replace("a=", "c="));
    agent.wait_file("out/app", "c=key-of-2");
    agent.wait("the error is gone", |a| a.status()?["config_error"].is_null().then_some(()));
}

#[test]
fn a_changed_command_starts_the_child_anew() {
    let (mut agent, pid) = started(&config(CHILD));
    hup(&agent, &config(&CHILD.replace("sleep 0.05", "sleep 0.06")));
    let second = agent.wait("another child", |a| last_number(&a.dir.join("pid")).filter(|p| *p != pid));
    assert!(!alive(pid));
    agent.wait_state("child", "healthy");
    assert!(alive(second));
}

#[test]
fn a_new_store_and_secret_are_read() {
    let mut agent = Agent::new(&config(&plain("app", "a=")), &key("key-of-1"));
    agent.start();
    agent.wait_state("app", "healthy");
    fs::write(agent.dir.join("two.env"), "TOKEN=two\n").unwrap();
    let text = config(&plain("app", "{{ secrets.second.TOKEN }}="))
        .replace("stores: {", "stores: {two: {type: file, path: two.env}, ")
        .replace("secrets: {provider:", "secrets: {second: {store: two}, provider:");
    hup(&agent, &text);
    agent.wait_file("out/app", "two=key-of-1");
    fs::write(agent.dir.join("two.env"), "TOKEN=three\n").unwrap();
    agent.wait_file("out/app", "three=key-of-1");
}
