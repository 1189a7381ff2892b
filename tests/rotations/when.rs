//! When a rotation happens: overlap, settle, other targets, other causes.

use std::fs;

use crate::agent::Agent;
use crate::endpoint::Endpoint;
use crate::kit::{app, config, key};

fn overlapping(overlap: &str) -> String {
    let inline =
        "'{{ secrets.provider.key }}{% if previous.provider is defined %}<{{ previous.provider.key }}{% endif %}'";
    let file = format!("{{path: out/conf, inline: {inline}}}");
    config(&format!("  app: {{settle: {{min: 20ms, max: 200ms}}, files: [{file}]}}\n"))
        .replace("{store: local}", &format!("{{store: local, overlap: {overlap}}}"))
}

#[test]
fn the_version_before_is_there_while_the_overlap_lasts_and_its_end_is_a_rotation() {
    let mut agent = Agent::new(&overlapping("8s"), &key("key-of-1"));
    agent.start();
    agent.wait_file("out/conf", "key-of-1");
    agent.wait_outcomes(&["committed"]);
    agent.secrets(&key("key-of-2"));
    agent.wait_file("out/conf", "key-of-2<key-of-1");
    agent.wait_file("out/conf", "key-of-2");
    agent.wait_outcomes(&["committed"; 3]);
}

#[test]
fn a_version_that_was_refused_never_becomes_the_one_before() {
    // The next value is taken up well after the refusal of the one before is known.
    let text = overlapping("1h")
        .replace("overlap: 1h", "overlap: 1h, expect: {key: '^key-of-'}")
        .replace("min: 20ms, max: 200ms", "min: 1s, max: 5s");
    let mut agent = Agent::new(&text, &key("key-of-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    agent.secrets(&key("refused-1"));
    agent.wait_outcomes(&["committed", "quarantined"]);
    agent.secrets(&key("refused-2"));
    agent.wait_outcomes(&["committed", "quarantined", "quarantined"]);
    agent.secrets(&key("key-of-2"));
    agent.wait_file("out/conf", "key-of-2<key-of-1");
    agent.secrets(&key("key-of-3"));
    agent.wait_file("out/conf", "key-of-3<key-of-2");
}

#[test]
fn no_overlap_ends_while_the_newest_version_is_refused() {
    // The end of the clock's overlap, which is the longer one, is a rotation of its own target: then the other's would be over.
    let text = "state_dir: state\nstores: {one: {type: file, path: secrets.yaml}, two: {type: file, path: two.yaml}}\n\
                secrets:\n  provider: {store: one, overlap: 5s, expect: {key: '^key-of-'}}\n  clock: {store: two, overlap: 8s}\n\
                targets:\n  app: {settle: {min: 20ms, max: 200ms}, files: [{path: out/conf, inline: '{{ secrets.provider.key \
                }}{% if previous.provider is defined %}<{{ previous.provider.key }}{% endif %}'}]}\n  clock: {settle: {min: \
                20ms, max: 200ms}, files: [{path: out/clock, inline: '{{ secrets.clock.key }}{% if previous.clock is defined \
                %}<{{ previous.clock.key }}{% endif %}'}]}\n";
    let mut agent = Agent::new(text, &key("key-of-1"));
    fs::write(agent.dir.join("two.yaml"), "clock: {key: tick}\n").unwrap();
    agent.start();
    agent.wait_outcomes(&["committed"; 2]);
    agent.secrets(&key("refused-1"));
    agent.wait_outcomes(&["committed", "committed", "quarantined"]);
    fs::write(agent.dir.join("two.yaml"), "clock: {key: tock}\n").unwrap();
    agent.wait_file("out/clock", "tock<tick");
    agent.wait_file("out/clock", "tock");
    agent.wait_outcomes(&["committed", "committed", "quarantined", "committed", "committed"]);
    assert_eq!(agent.read("out/conf"), "key-of-1");

    // It is taken after all, with the one before to fall back on, for a whole overlap.
    fs::write(agent.dir.join("agent.yaml"), text.replace(", expect: {key: '^key-of-'}", "")).unwrap();
    agent.signal(nix::sys::signal::Signal::SIGHUP);
    agent.call(&["release", "app"]);
    agent.wait_file("out/conf", "refused-1<key-of-1");
    agent.wait_file("out/conf", "refused-1");
}

#[test]
fn an_overlap_outlives_a_restart() {
    let sealed = |text: String| format!("state_key: {{file: state.key}}\n{text}");
    let mut agent = Agent::new(&sealed(overlapping("1h")), &key("key-of-1"));
    agent.state_key();
    agent.start();
    agent.wait_outcomes(&["committed"]);
    agent.secrets(&key("key-of-2"));
    agent.wait_outcomes(&["committed", "committed"]);
    assert_eq!(agent.read("out/conf"), "key-of-2<key-of-1");
    assert_eq!(agent.stop().code(), Some(0));
    agent.start();
    agent.wait("the agent has read the secret", |a| {
        a.status()?["secrets"][0]["overlap_until"].as_str().map(str::to_owned)
    });
    // A change of its own proves that the one before is taken from memory, and not just left in the file.
    let edited = sealed(overlapping("1h")).replace("'{{ secrets", "'now: {{ secrets");
    fs::write(agent.dir.join("agent.yaml"), edited).unwrap();
    agent.signal(nix::sys::signal::Signal::SIGHUP);
    agent.wait_file("out/conf", "now: key-of-2<key-of-1");
}

#[test]
fn changes_that_arrive_together_rotate_together() {
    let text = "state_dir: state\nstores: {one: {type: file, path: secrets.yaml}, two: {type: file, path: two.yaml}}\n\
                secrets: {provider: {store: one}, other: {store: two}}\ntargets:\n  app:\n    settle: {min: 3s, max: \
                20s}\n    files: [{path: out/conf, inline: '{{ secrets.provider.key }} {{ secrets.other.key }}'}]\n";
    let mut agent = Agent::new(text, &key("key-of-1"));
    fs::write(agent.dir.join("two.yaml"), "other: {key: other-1}\n").unwrap();
    agent.start();
    agent.wait_outcomes(&["committed"]);
    fs::write(agent.dir.join("two.yaml"), "other: {key: other-2}\n").unwrap();
    agent.secrets(&key("key-of-2"));
    agent.wait_outcomes(&["committed", "committed"]);
    assert_eq!(agent.read("out/conf"), "key-of-2 other-2");
    let changed = &agent.history()[1]["changed"];
    assert_eq!(changed.as_object().unwrap().keys().collect::<Vec<_>>(), ["other", "provider"]);
}

#[test]
fn a_target_that_hangs_holds_no_other_up() {
    let endpoint = Endpoint::accepting(&["key-of-1", "key-of-2", "key-of-3"]);
    let target = |name: &str| {
        format!(
            "  {name}:\n    settle: {{min: 20ms, max: 200ms}}\n    files: [{{path: out/{name}, inline: '{{{{ \
             secrets.provider.key }}}}'}}]\n    health: {}\n",
            endpoint.health(&format!("/{name}")).replace("20s", "120s")
        )
    };
    let mut agent = Agent::new(&config(&(target("fast") + &target("slow"))), &key("key-of-1"));
    agent.start();
    agent.wait_state("fast", "healthy");
    agent.wait_state("slow", "healthy");
    endpoint.hang("/slow");
    for n in [2, 3] {
        agent.secrets(&key(&format!("key-of-{n}")));
        agent.wait("the fast one rotates", |a| {
            a.target("fast").filter(|t| t["state"] == "healthy" && t["generation"] == n)
        });
        assert_eq!(agent.read("out/fast"), format!("key-of-{n}"));
        let slow = agent.target("slow").unwrap();
        assert_eq!((&slow["state"], &slow["generation"]), (&"rotating".into(), &1.into()), "{slow}");
    }
    assert_eq!(agent.read("out/slow"), "key-of-2", "one at a time");
    endpoint.go_on();
    agent.wait_file("out/slow", "key-of-3");
    agent.wait_state("slow", "healthy");
}

#[test]
fn an_edited_template_rotates() {
    let text =
        config("  app:\n    files: [{path: out/conf, template: conf.tera}]\n    settle: {min: 20ms, max: 200ms}\n");
    let mut agent = Agent::new(&text, &key("key-of-1"));
    fs::write(agent.dir.join("conf.tera"), "a={{ secrets.provider.key }}").unwrap();
    agent.start();
    agent.wait_outcomes(&["committed"]);
    fs::write(agent.dir.join("next.tera"), "b={{ secrets.provider.key }}").unwrap();
    fs::rename(agent.dir.join("next.tera"), agent.dir.join("conf.tera")).unwrap();
    agent.wait_file("out/conf", "b=key-of-1");
    agent.wait_outcomes(&["committed", "committed"]);
}

#[test]
fn a_newer_value_takes_the_place_of_one_that_is_waiting() {
    let endpoint = Endpoint::accepting(&["key-of-1", "key-of-3"]);
    let verify = format!(
        "verify: {{http: {{url: 'http://127.0.0.1:{}/v', headers: {{x-key: '{{{{ secrets.provider.key }}}}'}}}}}}",
        endpoint.port
    );
    let text = app("").replace("{store: local}", &format!("{{store: local, {verify}}}"));
    let mut agent = Agent::new(&text, &key("key-of-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    endpoint.refuse_with(503);
    agent.secrets(&key("key-of-2"));
    agent.wait("the second waits", |_| (endpoint.times("key-of-2") > 0).then_some(()));
    agent.secrets(&key("key-of-3"));
    agent.wait_outcomes(&["committed", "superseded", "committed"]);
    assert_eq!(agent.read("out/conf"), "key=key-of-3");
}
