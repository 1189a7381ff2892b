//! Exit codes and signals of `agent run -- CMD`.

use nix::sys::signal::Signal;

use crate::agent::Agent;
use crate::kit::{alive, app, key, last_number};

fn agent() -> Agent {
    Agent::new(&app(""), &key("key-of-1"))
}

/// Runs `agent run -- sh -c SCRIPT` to its end.
fn code_of(script: &str) -> Option<i32> {
    let mut agent = agent();
    agent.start_with(&["run", "--", "sh", "-c", script]);
    agent.end().code()
}

#[test]
fn the_agent_ends_with_the_code_of_its_child() {
    for code in [0, 3] {
        // Once at once, once after it was found healthy.
        assert_eq!(code_of(&format!("exit {code}")), Some(code));
        assert_eq!(code_of(&format!("sleep 1.3; exit {code}")), Some(code));
    }
}

#[test]
fn a_child_killed_by_signal_n_is_128_and_n() {
    assert_eq!(code_of("kill -KILL $$"), Some(137));
    assert_eq!(code_of("sleep 1.3; kill -TERM $$"), Some(143));
}

#[test]
fn a_command_that_cannot_be_run_says_so() {
    let mut agent = agent();
    agent.start_with(&["run", "--", "/no/such/program"]);
    agent.wait("it is told", |a| a.log().contains("/no/such/program").then_some(()));
    // Without `CMD` ever running there is nothing whose code could be answered: it is tried on, until told to stop.
    assert_ne!(agent.stop().code(), None);
}

#[test]
fn term_ends_the_child_and_its_code_is_the_agents() {
    let mut agent = agent();
    let script = "trap 'exit 5' TERM; echo $$ >pid; while :; do sleep 0.05; done";
    agent.start_with(&["run", "--", "sh", "-c", script]);
    let pid = agent.wait("the child", |a| last_number(&a.dir.join("pid")));
    agent.wait_state("app", "healthy");
    assert_eq!(agent.stop().code(), Some(5));
    assert!(!alive(pid));
}

#[test]
fn term_while_it_is_not_healthy_yet_answers_its_code_too() {
    let config = app("    health: {type: command, run: ['false'], interval: 100ms, within: 60s}\n");
    let mut agent = Agent::new(&config, &key("key-of-1"));
    let script = "trap 'exit 5' TERM; echo $$ >pid; while :; do sleep 0.05; done";
    agent.start_with(&["run", "--", "sh", "-c", script]);
    let pid = agent.wait("the child", |a| last_number(&a.dir.join("pid")));
    assert_eq!(agent.stop().code(), Some(5));
    assert!(!alive(pid));
}

#[test]
fn interrupt_ends_as_term_does() {
    let mut agent = agent();
    agent.start_with(&["run", "--", "sh", "-c", "echo $$ >pid; while :; do sleep 0.05; done"]);
    agent.wait_state("app", "healthy");
    agent.signal(Signal::SIGINT);
    assert_eq!(agent.end().code(), Some(143));
}

#[test]
fn signals_are_passed_on_to_the_child() {
    let mut agent = agent();
    let script =
        "for s in USR1 USR2 QUIT WINCH; do trap \"echo $s >>got\" $s; done; echo $$ >pid; while :; do sleep 0.05; done";
    agent.start_with(&["run", "--", "sh", "-c", script]);
    agent.wait_state("app", "healthy");
    agent.wait("its traps are set", |a| last_number(&a.dir.join("pid")));
    let mut expected = String::new();
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGQUIT, Signal::SIGWINCH] {
        agent.signal(signal);
        expected += &format!("{}\n", signal.as_str().trim_start_matches("SIG"));
        agent.wait_file("got", &expected);
    }
    agent.signal(Signal::SIGHUP);
    agent.wait("HUP is the agent's own", |a| a.log().contains("taken up").then_some(()));
    assert_eq!(agent.read("got"), expected);
}

#[test]
fn without_a_child_the_agent_ends_with_0() {
    let mut agent = agent();
    agent.start();
    agent.wait_state("app", "healthy");
    assert_eq!(agent.stop().code(), Some(0));
    let (code, _, err) = agent.call(&["status"]);
    assert!(code == 69 && err.contains("no agent"), "{code} {err}");
}

#[test]
fn a_faulty_config_ends_the_start_with_78_and_every_fault() {
    let text = app("    on_unhealty: hold\n    keep: 0\n");
    let agent = Agent::new(&text, &key("key-of-1"));
    let (code, _, err) = agent.call(&["run"]);
    assert_eq!(code, 78, "{err}");
    assert!(err.contains("did you mean") && err.contains("keep"), "{err}");
    assert!(!agent.dir.join("state").exists(), "nothing is left behind");
    let (code, _, err) = agent.call(&["-c", "/no/such/agent.yaml", "run"]);
    assert!(code == 78 && err.contains("/no/such/agent.yaml"), "{code} {err}");
}
