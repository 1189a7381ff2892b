//! `agent render` and `agent render --once`, as commands.

use std::fs;
use std::process::Stdio;

use crate::agent::Agent;
use crate::endpoint::Endpoint;
use crate::kit::{app, daemon, key, last_number, mark};

#[test]
fn render_keeps_the_files_fresh_and_never_touches_a_process() {
    let endpoint = Endpoint::accepting(&[]);
    let rest = format!("    reload: {{type: signal, pidfile: pid}}\n    health: {}\n", endpoint.health("/h"));
    let mut agent = Agent::new(&app(&rest), &key("key-of-1"));
    let _daemon = daemon(&agent);
    agent.wait("the daemon", |a| last_number(&a.dir.join("pid")));
    agent.start_with(&["render"]);
    agent.wait_outcomes(&["committed"]);
    agent.secrets(&key("key-of-2"));
    agent.wait_outcomes(&["committed", "committed"]);
    assert_eq!(agent.read("out/conf"), "key=key-of-2");
    agent.wait_state("app", "healthy");
    assert_eq!((agent.read("hups"), endpoint.asked().len()), (String::new(), 0));
    assert_eq!(agent.stop().code(), Some(0));
    assert_eq!(agent.read("hups"), "");
}

#[test]
fn render_starts_no_child() {
    let exec =
        "    reload: {type: exec, command: [sh, -c, 'touch started; exec sleep 1000'], cwd: ., stop_timeout: 1s}\n";
    let mut agent = Agent::new(&app(exec), &key("key-of-1"));
    agent.start_with(&["render"]);
    agent.wait_outcomes(&["committed"]);
    assert_eq!(agent.stop().code(), Some(0));
    assert!(!agent.dir.join("started").exists());
    // What it rendered is what `run` goes on from.
    agent.start();
    agent.wait_state("app", "healthy");
    assert!(agent.dir.join("started").exists());
    assert_eq!(agent.outcomes().first().unwrap(), "committed");
}

#[test]
fn once_writes_and_exits_and_a_dry_run_does_not_write() {
    let agent = Agent::new(&app(""), &key("canary-of-once"));
    let (code, out, err) = agent.call(&["render", "--once", "--dry-run"]);
    assert_eq!(code, 0, "{err}");
    assert!(!agent.dir.join("out/conf").exists() && !agent.dir.join("state").exists());
    assert!(out.contains("out/conf") && !(out + &err).contains("canary-of-once"));
    assert_eq!(agent.call(&["render", "--once"]).0, 0);
    assert_eq!(agent.read("out/conf"), "key=canary-of-once");
    let before = mark(&agent.dir.join("out/conf"));
    assert_eq!(agent.call(&["render", "--once"]).0, 0);
    assert_eq!(mark(&agent.dir.join("out/conf")), before);
}

#[test]
fn the_exit_codes_of_once_say_what_is_wrong() {
    let code = |config: &str, secrets: &str| {
        let agent = Agent::new(config, secrets);
        let (code, out, err) = agent.call(&["render", "--once"]);
        assert!(!agent.dir.join("out/conf").exists(), "{code}: {out}{err}");
        assert!(!err.is_empty(), "{code}");
        code
    };
    let good = key("key-of-1");
    assert_eq!(code(&app("").replace("key }}", "no_field }}"), &good), 65, "a field that is not there");
    assert_eq!(code(&app("").replace("out/conf,", "out/conf, format: json,"), &good), 65, "output that does not parse");
    assert_eq!(code(&app(""), "other: {key: x}\n"), 66, "a secret that is not there");
    assert_eq!(code(&app(""), "provider: {key: [\n"), 69, "a store that makes no sense");
    assert_eq!(code(&app("    kep: 3\n"), &good), 78, "a config that is invalid");
    let refusing = app("").replace("{store: local}", "{store: local, expect: {key: '^sk-'}}");
    assert_eq!(code(&refusing, &good), 65, "a value that is refused");
    assert_eq!(code(&app("").replace("out/conf", "/dev/null/conf"), &good), 74, "a place that cannot be written");
}

#[test]
fn once_waits_for_a_store_as_long_as_it_is_told() {
    let agent = Agent::new(&app(""), &key("key-of-1"));
    let file = agent.dir.join("secrets.yaml");
    fs::remove_file(&file).unwrap();
    let waiting = agent.command(&["render", "--once", "--wait", "50s"]).stdout(Stdio::piped()).spawn().unwrap();
    // Not there yet: without `--wait` that is the end.
    assert!([66, 69].contains(&agent.call(&["-c", "agent.yaml", "check"]).0));
    agent.secrets(&key("key-of-1"));
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(agent.read("out/conf"), "key=key-of-1");
}
