//! Supervised processes: their environment, their end, their orphans.

use crate::agent::Agent;
use crate::kit::{alive, app, key, last_number};

fn exec(script: &str) -> String {
    app(&format!("    reload: {{type: exec, command: [sh, -c, '{script}'], cwd: ., stop_timeout: 5s}}\n"))
}

fn set_env(agent: &mut Agent, vars: &[(&str, &str)]) {
    agent.env.extend(vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
}

#[test]
fn the_agents_own_credentials_do_not_reach_the_child_unless_passed() {
    let text =
        exec("env >env.next; mv env.next env; while :; do sleep 0.05; done") + "    pass_env: [AWS_SESSION_TOKEN]\n";
    let mut agent = Agent::new(&text, &key("key-of-1"));
    let own = [
        ("VAULT_TOKEN", "token-1"),
        ("AWS_ACCESS_KEY_ID", "token-2"),
        ("AWS_SECRET_ACCESS_KEY", "token-3"),
        ("AWS_SESSION_TOKEN", "token-4"),
        ("WATCHDOG_USEC", "60000000"),
        ("ORDINARY", "ordinary"),
    ];
    set_env(&mut agent, &own);
    let socket = agent.dir.join("notify");
    let _listening = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    let mut command = agent.command(&["run"]);
    command.env("NOTIFY_SOCKET", &socket).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    agent.child = Some(command.spawn().unwrap());
    agent.wait_state("app", "healthy");
    let env = agent.wait("the child's environment", |a| Some(a.read("env")).filter(|env| !env.is_empty()));
    let has = |name: &str| env.lines().any(|line| line.starts_with(&format!("{name}=")));
    for gone in ["VAULT_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "NOTIFY_SOCKET", "WATCHDOG_USEC"] {
        assert!(!has(gone), "{gone} in {env}");
    }
    assert!(has("ORDINARY") && has("PATH") && has("AWS_SESSION_TOKEN"), "{env}");
}

#[test]
fn a_child_that_dies_by_itself_is_started_again_after_a_wait() {
    let text = exec("echo $$ >>pids; test -e once || { touch once; sleep 5; exit 4; }; while :; do sleep 0.05; done");
    let mut agent = Agent::new(&text, &key("key-of-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    agent.wait("the end is told", |a| {
        a.log().contains("ended by itself (exit code 4); it is started again in 1s").then_some(())
    });
    agent.wait("another child", |a| (a.read("pids").lines().count() == 2).then_some(()));
    agent.wait_state("app", "healthy");
    assert_eq!(agent.outcomes(), ["committed"], "no rotation: the same generation again");
}

#[test]
fn orphans_of_the_child_are_reaped() {
    // The inner shell starts a sleeper and ends, so that the sleeper becomes the agent's, and ends then.
    let script = "(sh -c \"sleep 0.3 & echo \\$! >orphan\" &); while :; do sleep 0.05; done";
    let mut agent = Agent::new(&exec(script), &key("key-of-1"));
    agent.start();
    let orphan = agent.wait("the orphan", |a| last_number(&a.dir.join("orphan")));
    agent.wait("nothing is left of it, no zombie either", |_| {
        (!std::path::Path::new(&format!("/proc/{orphan}")).exists()).then_some(())
    });
    agent.wait_state("app", "healthy");
}

#[test]
fn what_the_child_leaves_behind_ends_with_it() {
    let script = "setsid sleep 1000 & echo $! >escaped; while :; do sleep 0.05; done";
    let mut agent = Agent::new(&exec(script), &key("key-of-1"));
    agent.start();
    agent.wait_state("app", "healthy");
    let escaped = agent.wait("what escapes", |a| last_number(&a.dir.join("escaped")));
    assert!(alive(escaped));
    agent.stop();
    agent.wait("it is gone", |_| (!alive(escaped)).then_some(()));
}

#[test]
fn children_die_with_an_agent_that_is_killed_and_the_next_one_starts_one_of_its_own() {
    let text =
        exec("trap \"\" TERM; echo $$ >pid.next; mv pid.next pid; while :; do sleep 0.05; done").replace("5s", "300ms");
    let mut agent = Agent::new(&text, &key("key-of-1"));
    agent.start();
    agent.wait_state("app", "healthy");
    let first = agent.wait("the child", |a| last_number(&a.dir.join("pid")));
    agent.signal(nix::sys::signal::Signal::SIGKILL);
    agent.end();
    agent.start();
    agent.wait("another child", |a| last_number(&a.dir.join("pid")).filter(|pid| *pid != first));
    assert!(!alive(first), "never two");
    agent.wait_state("app", "healthy");
    assert_eq!(agent.outcomes(), ["committed"]);
}
