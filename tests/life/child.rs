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
fn the_child_has_the_agents_first_umask_and_neither_its_descriptors_nor_its_dispositions_nor_its_capabilities() {
    let script = "umask >umask; ls /proc/$$/fd >fds; grep -E \"^(SigIgn|SigBlk|CapAmb):\" /proc/self/status >status; \
                  : >ready; while :; do sleep 0.05; done";
    let mut agent = Agent::new(&exec(script), &key("key-of-1"));
    let plain = agent.command(&["run"]);
    let around = "umask 026; trap \"\" TSTP XFSZ ALRM USR1; exec 7</dev/null 3</dev/null; exec \"$@\"";
    // Root may have them, and where setpriv(1) is missing there are none.
    let ambient = ["setpriv", "--inh-caps=+net_raw", "--ambient-caps=+net_raw"];
    let may = std::process::Command::new(ambient[0]).args(&ambient[1..]).arg("true").status();
    let ambient = if may.is_ok_and(|status| status.success()) { &ambient[..] } else { &[] };
    let mut command = std::process::Command::new("sh");
    command.args(["-c", around, "sh"]).args(ambient).arg(plain.get_program()).args(plain.get_args());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(&agent.dir);
    let log = std::fs::File::create(agent.dir.join("log")).unwrap();
    command.stdin(std::process::Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    agent.child = Some(command.spawn().unwrap());
    agent.wait_file("ready", "");
    assert_eq!(agent.read("umask").trim().trim_start_matches('0'), "26");
    let fds = agent.read("fds");
    // From 10 on are the shell's own.
    assert_eq!(fds.lines().filter(|fd| fd.len() == 1).collect::<Vec<_>>(), ["0", "1", "2"], "{fds}");
    let status = agent.read("status");
    let bits = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    // 32 and 33 are the C library's own.
    assert_eq!((bits("SigIgn:") & !(0b11 << 31), bits("SigBlk:"), bits("CapAmb:")), (0, 0, 0), "{status}");
}

#[test]
fn a_child_that_serves_again_leaves_the_reason_of_the_last_rotation() {
    let text = exec("echo $$ >pid.next; mv pid.next pid; while :; do sleep 0.05; done");
    let text = text.replace("{store: local}", "{store: local, expect: {key: \"^key\"}}");
    let mut agent = Agent::new(&text, &key("key-of-1"));
    agent.start();
    agent.wait_state("app", "healthy");
    let first = agent.wait("the child", |a| last_number(&a.dir.join("pid")));
    agent.secrets(&key("another"));
    let reason = |a: &Agent| Some(a.target("app")?["reason"].as_str()?.to_owned());
    let refused = agent.wait("it is refused", |a| reason(a).filter(|_| a.outcomes() == ["committed", "quarantined"]));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), nix::sys::signal::Signal::SIGKILL).unwrap();
    agent.wait("its end is told", |a| reason(a).filter(|reason| reason.contains("the process ended by itself")));
    agent.wait("another child", |a| last_number(&a.dir.join("pid")).filter(|pid| *pid != first));
    agent.wait_state("app", "healthy");
    assert_eq!(reason(&agent), Some(refused));
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
