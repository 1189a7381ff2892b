//! The commands and the control socket, from the outside: the real binary, and a real socket with operations of the test's.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use leasehold::control::{self, Client, ControlError, Operations, RefreshLine, Refusal};
use leasehold::state_dir::StateDir;
use leasehold::telemetry::audit::Actor;
use leasehold::telemetry::mask;
use leasehold::telemetry::view::{HistoryEntry, StatusView, TargetView};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

fn agent(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
    command.args(arguments).env_remove("AGENT_CONFIG").env_remove("NO_COLOR");
    command
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A config whose state_dir is `state` beside it.
fn config(dir: &Path) -> String {
    let path = dir.join("agent.yaml");
    std::fs::write(&path, "state_dir: state\nstores: {local: {type: file, path: s.yaml}}\n").unwrap();
    path.to_str().unwrap().to_owned()
}

// ---- arguments ----

#[test]
fn usage_errors_exit_with_64() {
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["run", "litellm"],
        &["run", "--"],
        &["render", "--wait", "60s"],
        &["render", "--once", "--wait", "60"],
        &["rollback"],
        &["rollback", "app", "--to", "x"],
        &["completions", "tcsh"],
        &["status", "--log-level", "loud"],
    ] {
        let output = agent(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", err(&output));
        assert!(out(&output).is_empty() && !err(&output).is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_and_version_exit_with_0() {
    for arguments in [&["--help"][..], &["-h"], &["--version"], &["run", "--help"], &["render", "-h"]] {
        let output = agent(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!out(&output).is_empty() && err(&output).is_empty(), "{arguments:?}");
    }
}

#[test]
fn the_help_of_the_whole() {
    insta::assert_snapshot!(out(&agent(&["--help"])));
}

#[test]
fn the_help_of_render() {
    insta::assert_snapshot!(out(&agent(&["render", "--help"])));
}

#[test]
fn the_schema_is_json() {
    let output = agent(&["schema"]);
    assert_eq!(output.status.code(), Some(0));
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(schema["properties"]["targets"].is_object());
}

#[test]
fn every_shell_has_its_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let script = out(&agent(&["completions", shell]));
        assert!(script.contains("rollback") && script.contains("dry-run"), "{shell}: {script}");
    }
    let script = out(&agent(&["completions", "bash"]));
    let mut bash = match Command::new("bash").arg("-n").stdin(std::process::Stdio::piped()).spawn() {
        Ok(bash) => bash,
        Err(_) => return skip("bash is not there to read its completions"),
    };
    bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(bash.wait().unwrap().success(), "bash reads its completions");
}

#[test]
fn every_command_has_its_man_page() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("man1");
    assert_eq!(agent(&["man", "--dir", folder.to_str().unwrap()]).status.code(), Some(0));
    let all = out(&agent(&["man"]));
    for name in [
        "agent",
        "agent-run",
        "agent-render",
        "agent-check",
        "agent-status",
        "agent-history",
        "agent-refresh",
        "agent-rollback",
        "agent-release",
        "agent-schema",
        "agent-completions",
        "agent-man",
    ] {
        let path = folder.join(format!("{name}.1"));
        let page = std::fs::read_to_string(&path).unwrap();
        assert!(page.contains(".SH NAME") && all.contains(&page), "{name}");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o644, "{name}");
    }
}

#[test]
fn output_that_cannot_be_written_is_74() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command(&["schema"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(74), "{}", err(&output));
}

#[test]
fn a_reader_that_goes_away_ends_a_printing_command_quietly() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command(&["man"]).stdout(writer).output().unwrap();
    assert!(err(&output).is_empty(), "{}", err(&output));
    assert!(!output.status.success());
}

// ---- no agent ----

#[test]
fn without_an_agent_status_is_69_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    for command in [
        &["status"][..],
        &["status", "--json"],
        &["status", "--watch"],
        &["refresh"],
        &["release", "app"],
        &["rollback", "app"],
    ] {
        let output = agent(&[&["-c", &config], command].concat());
        assert_eq!(output.status.code(), Some(69), "{command:?}");
        let state = dir.path().join("state");
        let message = format!("agent: no agent runs on {}; start one with `agent run`\n", state.display());
        assert_eq!((err(&output), out(&output)), (message, String::new()), "{command:?}");
    }
    assert!(!dir.path().join("state").exists(), "asking makes nothing");
}

#[test]
fn without_an_agent_status_and_history_show_what_stands_in_state_dir() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let state = StateDir::open(&dir.path().join("state"), None).unwrap();
    let folder = state.make_target("app").unwrap();
    leasehold::journal::History::open(&folder).unwrap().append(&entry("app")).unwrap();
    drop(state);
    let output = agent(&["status", "-c", &config]);
    assert_eq!(output.status.code(), Some(69));
    assert!(out(&output).contains("app     6           rolled_back "), "{}", out(&output));
    let output = agent(&["history", "--json", "-c", &config]);
    assert_eq!(output.status.code(), Some(0));
    let history: Vec<HistoryEntry> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(history, [entry("app")]);
    assert!(err(&output).contains("no agent runs"));
    let output = agent(&["history", "-c", &config, "--target", "other"]);
    assert_eq!(output.status.code(), Some(64));
}

#[test]
fn an_unsound_config_does_not_hinder_asking() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.yaml");
    std::fs::write(&path, "state_dir: ./state\nstors: 1\nadmin: {listen: '${NOWHERE_SET}'}\n").unwrap();
    let output = agent(&["status", "-c", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(69), "{}", err(&output));
    std::fs::write(&path, "state_dir: '${NOWHERE_SET}'\n").unwrap();
    let output = agent(&["status", "-c", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78));
    assert!(err(&output).contains("agent.yaml:1:") && err(&output).contains("NOWHERE_SET"), "{}", err(&output));
    let output = command(&["status"]).current_dir(dir.path()).env("AGENT_CONFIG", "gone.yaml").output().unwrap();
    assert_eq!((output.status.code(), err(&output)), (Some(78), "agent: gone.yaml: there is no such file\n".into()));
}

// ---- the control socket ----

fn entry(target: &str) -> HistoryEntry {
    HistoryEntry {
        ended_at: "2026-01-02T03:04:05Z".parse().unwrap(),
        started_at: None,
        target: target.into(),
        outcome: "rolled_back".into(),
        generation: Some(7),
        on: Some(6),
        digest: "d".into(),
        changed: std::collections::BTreeMap::new(),
        reason: Some("the probe answered 503".into()),
        steps: std::collections::BTreeMap::new(),
    }
}

fn view() -> StatusView {
    let now = "2026-01-02T03:04:05Z".parse().unwrap();
    let target = TargetView {
        name: "app".into(),
        state: "healthy".into(),
        generation: Some(3),
        held: false,
        stale: false,
        degraded: false,
        last_rotation: None,
        last_success_at: None,
        reason: None,
        certificates: std::collections::BTreeMap::new(),
    };
    StatusView {
        version: "0.1.0".into(),
        config_error: None,
        now,
        started_at: now,
        targets: vec![target],
        secrets: vec![],
        stores: vec![],
    }
}

#[derive(Default)]
struct Fake {
    asked: Mutex<Vec<String>>,
    go_on: Notify,
    /// Rollbacks wait for `go_on`.
    slow: bool,
}

impl Fake {
    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }
}

impl Operations for Fake {
    fn status(&self) -> StatusView {
        view()
    }

    fn history(&self, target: Option<&str>, count: usize) -> Result<Vec<HistoryEntry>, Refusal> {
        self.note(format!("history {target:?} {count}"));
        match target {
            Some("gone") => Err(Refusal::new(64, "there is no target 'gone' with hunter2-canary")),
            other => Ok(vec![entry(other.unwrap_or("app"))]),
        }
    }

    fn refresh<'a>(&'a self, names: Vec<String>, actor: Actor) -> BoxFuture<'a, Result<Vec<RefreshLine>, Refusal>> {
        self.note(format!("refresh {names:?} by {} {}", actor.uid, actor.pid.is_some()));
        let line = |(at, name): (usize, String)| RefreshLine {
            name,
            changed: at == 0,
            version: Some("7".into()),
            error: (at == 1).then(|| "refused hunter2-canary".into()),
        };
        Box::pin(async move { Ok(names.into_iter().enumerate().map(line).collect()) })
    }

    fn rollback<'a>(&'a self, target: String, to: Option<u64>, _: Actor) -> BoxFuture<'a, Result<String, Refusal>> {
        Box::pin(async move {
            if self.slow {
                self.note("waits".into());
                self.go_on.notified().await;
            }
            self.note(format!("rollback {target} {to:?}"));
            Ok("went back, hunter2-canary".into())
        })
    }

    fn release<'a>(&'a self, target: String, _: Actor) -> BoxFuture<'a, Result<String, Refusal>> {
        Box::pin(async move { Err(Refusal::new(75, format!("{target} is still unhealthy"))) })
    }
}

/// An agent's side of the socket, on a thread of its own.
struct Served {
    fake: Arc<Fake>,
    state_dir: PathBuf,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    fn on(state_dir: &Path, fake: Fake) -> Self {
        let fake = Arc::new(fake);
        let stop = CancellationToken::new();
        let (told, ready) = std::sync::mpsc::channel();
        let (operations, until, path) = (Arc::clone(&fake), stop.clone(), state_dir.to_owned());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let state = StateDir::open(&path, None).unwrap();
                let listener = control::bind(&state).unwrap();
                told.send(()).unwrap();
                control::serve(listener, operations, until).await;
            });
        });
        ready.recv().unwrap();
        Self { fake, state_dir: state_dir.to_owned(), stop, thread: Some(thread) }
    }

    fn client(&self) -> Client {
        Client::connect(&self.state_dir).unwrap()
    }

    fn socket(&self) -> PathBuf {
        StateDir::control_socket_of(&self.state_dir)
    }

    /// What the socket answers to these bytes, as JSON.
    fn raw(&self, bytes: &[u8]) -> serde_json::Value {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // The agent may hang up before it has read everything.
        let _ = stream.write_all(bytes);
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn end(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "did not come about: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn skip(why: &str) {
    eprintln!("SKIP: {why}");
    assert!(std::env::var("LEASEHOLD_REQUIRE").as_deref() != Ok("all"), "LEASEHOLD_REQUIRE=all: {why}");
}

#[test]
fn every_question_has_its_answer() {
    let dir = tempfile::tempdir().unwrap();
    let served = Served::on(&dir.path().join("state"), Fake::default());
    assert_eq!(served.socket().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(served.client().status().unwrap(), view());
    assert_eq!(served.client().history(Some("gateway"), 5).unwrap(), [entry("gateway")]);
    assert_eq!(served.client().history(None, usize::MAX).unwrap(), [entry("app")]);
    let lines = served.client().refresh(vec!["a".into(), "b".into()]).unwrap();
    assert_eq!((lines[0].changed, lines[1].changed, lines.len()), (true, false, 2));
    assert!(served.client().rollback("app".into(), Some(2)).unwrap().starts_with("went back"));
    let error = served.client().release("app".into()).unwrap_err();
    assert_eq!((error.exit_code(), error.to_string()), (75, "app is still unhealthy".into()));
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(
        *served.fake.asked.lock().unwrap(),
        [
            "history Some(\"gateway\") 5".to_owned(),
            "history None 10000".to_owned(),
            format!("refresh [\"a\", \"b\"] by {uid} true"),
            "rollback app Some(2)".to_owned(),
        ]
    );
}

#[test]
fn what_the_agent_tells_is_masked() {
    let _masked = mask::registry().value(b"hunter2-canary");
    let dir = tempfile::tempdir().unwrap();
    let served = Served::on(&dir.path().join("state"), Fake::default());
    assert_eq!(served.client().rollback("app".into(), None).unwrap(), "went back, ***");
    let lines = served.client().refresh(vec!["a".into(), "b".into()]).unwrap();
    assert_eq!(lines[1].error.as_deref(), Some("refused ***"));
    let error = served.client().history(Some("gone"), 1).unwrap_err();
    assert_eq!((error.exit_code(), error.to_string()), (64, "there is no target 'gone' with ***".into()));
}

#[test]
fn the_commands_print_what_the_agent_answers() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let served = Served::on(&dir.path().join("state"), Fake::default());
    let ask = |arguments: &[&str]| agent(&[&["-c", &config], arguments].concat());
    let json: serde_json::Value = serde_json::from_slice(&ask(&["status", "--json"]).stdout).unwrap();
    assert_eq!((&json["targets"][0]["name"], &json["targets"][0]["state"]), (&"app".into(), &"healthy".into()));
    let table = out(&ask(&["status"]));
    assert!(table.contains("\napp     healthy  3           -\n") && !table.contains('\x1b'), "{table}");
    let json: serde_json::Value = serde_json::from_slice(&ask(&["history", "--json"]).stdout).unwrap();
    assert_eq!(json[0]["outcome"], "rolled_back");
    let table = out(&ask(&["history"]));
    assert!(table.contains("2026-01-02 03:04:05Z  app     rolled_back  7"), "{table}");
    let refreshed = ask(&["refresh", "a", "b"]);
    assert_eq!(refreshed.status.code(), Some(69), "one could not be read");
    assert!(out(&refreshed).contains("a       changed  7\n"), "{}", out(&refreshed));
    assert_eq!(ask(&["refresh", "a"]).status.code(), Some(0));
    let released = ask(&["release", "app"]);
    assert_eq!((released.status.code(), err(&released)), (Some(75), "agent: app is still unhealthy\n".into()));
    assert!(out(&ask(&["rollback", "app", "--to", "2"])).starts_with("went back, "));
    drop(served);
}

#[test]
fn a_question_that_is_no_question_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let served = Served::on(&dir.path().join("state"), Fake::default());
    for bad in
        [&b"GET / HTTP/1.1\n"[..], b"{}\n", b"{\"op\":\"status\",\"more\":1}\n", b"{\"op\":\"shutdown\"}\n", b"\xff\n"]
    {
        let answer = served.raw(bad);
        assert_eq!(answer["refused"]["exit"], 64, "{answer}");
    }
    let mut large = vec![b' '; 1024 * 1024];
    large.extend_from_slice(b"{\"op\":\"status\"}\n");
    let answer = served.raw(&large);
    assert_eq!(answer["refused"]["message"], "the request is larger than 64 KiB");
    assert_eq!(served.client().status().unwrap(), view());
}

#[test]
fn a_slow_client_and_a_slow_operation_block_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let served = Served::on(&dir.path().join("state"), Fake { slow: true, ..Fake::default() });
    let mut slow = UnixStream::connect(served.socket()).unwrap();
    slow.write_all(b"{\"op\":").unwrap();
    std::thread::scope(|scope| {
        let rollback = scope.spawn(|| served.client().rollback("app".into(), None));
        until("the rollback is under way", || served.fake.asked.lock().unwrap().contains(&"waits".to_owned()));
        assert_eq!(served.client().status().unwrap(), view());
        served.fake.go_on.notify_one();
        assert!(rollback.join().unwrap().is_ok());
    });
    slow.write_all(b"\"status\"}\n").unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("{\"done\":"), "{answer}");
}

#[test]
fn more_connections_than_there_is_room_for_are_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let served = Served::on(&dir.path().join("state"), Fake::default());
    let idle: Vec<UnixStream> = (0..64).map(|_| UnixStream::connect(served.socket()).unwrap()).collect();
    let error = served.client().status().unwrap_err();
    assert_eq!(error.exit_code(), 69);
    assert!(error.to_string().contains("busy"), "{error}");
    drop(idle);
    until("there is room again", || served.client().status().is_ok());
}

#[test]
fn an_operation_goes_on_when_the_one_who_asked_goes_away() {
    let dir = tempfile::tempdir().unwrap();
    let served = Served::on(&dir.path().join("state"), Fake { slow: true, ..Fake::default() });
    let mut asking = UnixStream::connect(served.socket()).unwrap();
    asking.write_all(b"{\"op\":\"rollback\",\"target\":\"app\",\"to\":null}\n").unwrap();
    until("the rollback is under way", || served.fake.asked.lock().unwrap().contains(&"waits".to_owned()));
    drop(asking);
    served.client().status().unwrap();
    served.fake.go_on.notify_one();
    until("it is done", || served.fake.asked.lock().unwrap().contains(&"rollback app None".to_owned()));
}

#[test]
fn a_stale_socket_is_replaced_and_one_that_ended_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().join("state");
    drop(StateDir::open(&state_dir, None).unwrap());
    let socket = StateDir::control_socket_of(&state_dir);
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(matches!(Client::connect(&state_dir), Err(ControlError::NoAgent { .. })), "a dead socket is no agent");
    let mut served = Served::on(&state_dir, Fake::default());
    assert_eq!(served.client().status().unwrap(), view());
    served.end();
    assert!(!socket.exists());
    assert!(matches!(Client::connect(&state_dir), Err(ControlError::NoAgent { .. })));
}

#[test]
fn the_socket_of_another_agent_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut served = Served::on(&dir.path().join("state"), Fake::default());
    let socket = served.socket();
    std::fs::remove_file(&socket).unwrap();
    let _other = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    served.end();
    assert!(socket.exists());
}

#[test]
fn a_state_dir_with_a_long_path_has_its_socket() {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().join("long".repeat(40)).join("state");
    let mut served = Served::on(&state_dir, Fake::default());
    assert!(served.socket().exists());
    assert_eq!(Client::connect(&state_dir).unwrap().status().unwrap(), view());
    served.end();
    assert!(matches!(Client::connect(&state_dir), Err(ControlError::NoAgent { .. })));
    let nowhere = dir.path().join("gone".repeat(40));
    assert!(matches!(Client::connect(&nowhere), Err(ControlError::NoAgent { .. })));
}

#[test]
fn only_root_and_the_agents_own_user_are_answered() {
    if !rustix::process::geteuid().is_root() {
        return skip("asking as another user needs root");
    }
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let served = Served::on(&dir.path().join("state"), Fake::default());
    // A copy that another user can reach and start.
    let binary = dir.path().join("agent");
    std::fs::copy(env!("CARGO_BIN_EXE_agent"), &binary).unwrap();
    let open = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    open(dir.path(), 0o755);
    let ask = || loop {
        let mut command = Command::new(&binary);
        command.args(["status", "-c", &config]).uid(65_534).gid(65_534).current_dir("/");
        match command.output() {
            // Another test was starting a process while the copy was written, and that has not become another program yet.
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => continue,
            output => return output.unwrap(),
        }
    };
    let output = ask();
    assert_eq!(output.status.code(), Some(77), "{}", err(&output));
    assert!(err(&output).contains("uid 65534 may not ask the agent on"), "{}", err(&output));
    // Even where directory and socket were opened by mistake, the agent itself refuses.
    open(&dir.path().join("state"), 0o755);
    open(&served.socket(), 0o666);
    let output = ask();
    assert_eq!(output.status.code(), Some(77), "{}", err(&output));
    assert!(err(&output).contains("uid 65534 may not control this agent, which runs as uid 0"), "{}", err(&output));
    assert!(served.client().status().is_ok());
}
