//! What the agent does inside a pod: as process 1 of a container, and beside another container in one pid namespace.
//! Needs root and util-linux: the namespaces are made with unshare(1) and entered with nsenter(1).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking")]

#[path = "support/agent.rs"]
mod agent;
#[path = "support/kit.rs"]
mod kit;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use agent::Agent;
use kit::{config, key, skip};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The user of the agent's container.
const AGENT: u32 = 65532;
/// Another container's own.
const OTHER: u32 = 65533;

/// Whether namespaces can be made here; says so where not.
fn namespaces() -> bool {
    let made = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "--mount", "nsenter", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let there = nix::unistd::geteuid().is_root() && made.is_ok_and(|status| status.success());
    if !there {
        skip("a pod's namespaces: root, unshare and nsenter are needed");
    }
    there
}

/// The children of a process, as this namespace numbers them.
fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
        .collect()
}

/// Starts `agent ARG…` as process 1 of a pid namespace of its own.
fn start_as_init(agent: &mut Agent, args: &[&str]) {
    let log = fs::OpenOptions::new().create(true).append(true).open(agent.dir.join("log")).unwrap();
    let inner = agent.command(&[]);
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]).arg(inner.get_program()).args(args);
    command.current_dir(&agent.dir).env("AGENT_CONFIG", agent.dir.join("agent.yaml")).env_remove("NOTIFY_SOCKET");
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    agent.child = Some(command.spawn().unwrap());
}

/// The number here of what is process 1 there.
fn init_of(agent: &mut Agent) -> i32 {
    agent.wait("the namespace has its process 1", |a| children(a.pid()).first().copied())
}

/// KILL to process 1, and with it to all of the namespace: unshare itself takes no TERM.
fn end_init(agent: &mut Agent) {
    kill(Pid::from_raw(init_of(agent)), Signal::SIGKILL).unwrap();
    agent.end();
}

/// One target `app` without a reload of its own, for `agent run -- CMD`.
fn supervised() -> Agent {
    let file = "{path: out/conf, inline: 'key={{ secrets.provider.key }}'}";
    Agent::new(&config(&format!("  app:\n    files: [{file}]\n")), &key("key-of-1"))
}

#[test]
fn process_1_reaps_every_orphan_that_falls_to_it() {
    if !namespaces() {
        return;
    }
    const ORPHANS: usize = 20;
    let orphan = "(sh -c 'while [ ! -e go ]; do sleep 0.05; done' &)";
    let script =
        format!("i=0; while [ $i -lt {ORPHANS} ]; do {orphan}; i=$((i+1)); done; while :; do sleep 0.05; done");
    let mut agent = supervised();
    start_as_init(&mut agent, &["run", "--", "sh", "-c", &script]);
    agent.wait_state("app", "healthy");
    let init = init_of(&mut agent);
    agent.wait("the orphans fall to process 1", |_| (children(init).len() == ORPHANS + 1).then_some(()));
    fs::write(agent.dir.join("go"), "").unwrap();
    agent.wait("none is left, no zombie either", |_| (children(init).len() == 1).then_some(()));
    agent.wait_state("app", "healthy");
    end_init(&mut agent);
}

#[test]
fn process_1_passes_signals_on_and_ends_with_the_exit_code_of_its_process() {
    if !namespaces() {
        return;
    }
    let waits = "while :; do sleep 0.05; done";
    let caught = format!("trap 'exit 7' TERM; trap 'exit 8' INT; echo >ready; {waits}");
    let uncaught = format!("echo >ready; {waits}");
    let by_itself = "echo >ready; exit 42".to_owned();
    for (script, signal, code) in [
        (&caught, Some(Signal::SIGTERM), 7),
        // INT is a wish to stop like TERM, and it is TERM that the process gets of it.
        (&caught, Some(Signal::SIGINT), 7),
        (&uncaught, Some(Signal::SIGTERM), 143),
        (&by_itself, None, 42),
    ] {
        let mut agent = supervised();
        start_as_init(&mut agent, &["run", "--", "sh", "-c", script]);
        if let Some(signal) = signal {
            let init = init_of(&mut agent);
            agent.wait("the process is ready", |a| a.dir.join("ready").exists().then_some(()));
            // Earlier, the first rotation would be taken back, and the process with it.
            agent.wait_state("app", "healthy");
            kill(Pid::from_raw(init), signal).unwrap();
        }
        assert_eq!(agent.end().code(), Some(code), "{signal:?} {script}\n{}", agent.log());
    }
}

#[test]
fn process_1_without_a_process_of_its_own_ends_at_term() {
    if !namespaces() {
        return;
    }
    let mut agent = supervised();
    start_as_init(&mut agent, &["run"]);
    agent.wait_state("app", "healthy");
    kill(Pid::from_raw(init_of(&mut agent)), Signal::SIGTERM).unwrap();
    assert_eq!(agent.end().code(), Some(0), "{}", agent.log());
}

/// A pid namespace with a process 1 that does nothing, as the one of a pod with shareProcessNamespace. What runs in it
/// ends with it.
struct Pod {
    holder: Child,
    init: i32,
}

/// What a container runs as.
struct User {
    id: u32,
    /// Whether it keeps root's capabilities but CAP_KILL.
    capable: bool,
}

impl Pod {
    /// The pod, and the agent's folder of which only `shared` is the other containers': a memory emptyDir, as the kubelet
    /// makes it where the pod has an fsGroup.
    fn new(agent: &mut Agent) -> Pod {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "sleep", "infinity"]);
        let holder = command.stdin(Stdio::null()).spawn().unwrap();
        let holding = i32::try_from(holder.id()).unwrap();
        let init = agent.wait("the pod is there", |_| {
            let init = children(holding).first().copied()?;
            let comm = fs::read_to_string(format!("/proc/{init}/comm")).ok()?;
            (comm == "sleep\n").then_some(init)
        });
        let shared = agent.dir.join("shared");
        fs::create_dir(&shared).unwrap();
        chown(&shared, Some(0), Some(AGENT)).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o2777)).unwrap();
        fs::write(agent.dir.join("binary"), "").unwrap();
        Pod { holder, init }
    }

    /// A command in the pod's pid namespace and a mount namespace of its own, which `prepare` (shell) changes.
    fn container(&self, user: &User, prepare: &str, command: &[&str]) -> Command {
        let drop = match user.capable {
            true => "--bounding-set=-kill".to_owned(),
            false => format!("--reuid={0} --regid={0} --clear-groups --inh-caps=-all --bounding-set=-all", user.id),
        };
        let script = format!("mount -t proc proc /proc\n{prepare}\nexec setpriv --no-new-privs {drop} \"$@\"");
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--target", &self.init.to_string(), "--pid", "--", "unshare", "--mount", "sh", "-euc", &script]);
        nsenter.arg("container").args(command).stdin(Stdio::null());
        nsenter
    }

    /// `agent ARG…` in a container of the pod, not started. The agent's folder becomes the user's.
    fn agent(&self, agent: &mut Agent, user: &User, args: &[&str]) -> Command {
        agent.user = Some(user.id);
        agent.secrets(&key("key-of-1"));
        for path in ["", "agent.yaml"] {
            chown(agent.dir.join(path), Some(user.id), Some(user.id)).unwrap();
        }
        // The folder of the build may be closed to that user.
        let binary = agent.dir.join("binary");
        let prepare = format!("mount --bind '{}' '{}'", env!("CARGO_BIN_EXE_agent"), binary.display());
        let mut all = vec![binary.to_str().unwrap()];
        all.extend(args);
        let mut command = self.container(user, &prepare, &all);
        command.current_dir(&agent.dir).env("AGENT_CONFIG", agent.dir.join("agent.yaml")).env_remove("NOTIFY_SOCKET");
        command
    }

    /// Starts the agent in a container of the pod.
    fn start_agent(&self, agent: &mut Agent, user: &User) {
        let mut command = self.agent(agent, user, &["--log-level", "debug", "run"]);
        let log = fs::OpenOptions::new().create(true).append(true).open(agent.dir.join("log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        agent.child = Some(command.spawn().unwrap());
    }

    /// Starts a container with a daemon that sees nothing of the agent but `shared`, at another path: it notes its pid in
    /// `pid` there, and at every HUP what it reads in `conf`.
    fn start_app(&self, agent: &Agent, user: u32) -> App {
        let daemon = "cd /mnt; trap 'cat conf >>hups; echo >>hups' HUP; echo $$ >pid.next; mv pid.next pid; \
                      while :; do sleep 0.05; done";
        let folder = agent.dir.display();
        let prepare = format!("mount --bind '{folder}/shared' /mnt; mount -t tmpfs hidden '{folder}'");
        let user = User { id: user, capable: false };
        App(self.container(&user, &prepare, &["sh", "-c", daemon]).current_dir("/").spawn().unwrap())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // With process 1 the kernel ends the whole namespace.
        let _gone = kill(Pid::from_raw(self.init), Signal::SIGKILL);
        let _gone = self.holder.kill();
        let _ended = self.holder.wait();
    }
}

/// A container that the test started.
struct App(Child);

impl App {
    /// KILL, as the kubelet ends a container in the end.
    fn kill(mut self) {
        for pid in children(i32::try_from(self.0.id()).unwrap()) {
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        }
        self.0.wait().unwrap();
    }
}

/// The agent as a sidecar that tells by pidfile; `expect` is put into its reload.
fn sidecar(expect: &str) -> Agent {
    let file = "{path: shared/conf, mode: \"0644\", inline: 'key={{ secrets.provider.key }}'}";
    let reload = format!("{{type: signal, pidfile: shared/pid, signal: HUP{expect}}}");
    let settle = "settle: {min: 20ms, max: 200ms}";
    let text = config(&format!("  app:\n    {settle}\n    files: [{file}]\n    reload: {reload}\n"));
    Agent::new(&text, &key("key-of-1"))
}

const UNPRIVILEGED: User = User { id: AGENT, capable: false };

#[test]
fn a_sidecar_hups_the_process_of_another_container() {
    if !namespaces() {
        return;
    }
    let mut agent = sidecar(&format!(", expect: {{uid: {AGENT}, comm: sh}}"));
    let pod = Pod::new(&mut agent);
    pod.start_agent(&mut agent, &UNPRIVILEGED);
    // A native sidecar is up before the container that it serves.
    agent.wait_state("app", "waiting");
    agent.wait_file("shared/conf", "key=key-of-1");
    let app = pod.start_app(&agent, AGENT);
    agent.wait_state("app", "healthy");

    agent.secrets(&key("key-of-2"));
    agent.wait("the other container has the new key", |a| {
        a.read("shared/hups").lines().any(|line| line == "key=key-of-2").then_some(())
    });
    agent.wait_state("app", "healthy");

    // The container ends; its pidfile, which the volume keeps, is stale.
    app.kill();
    agent.secrets(&key("key-of-3"));
    agent.wait_file("shared/conf", "key=key-of-3");
    agent.wait_state("app", "waiting");
    let stale = agent.read("shared/pid");
    let _app = pod.start_app(&agent, AGENT);
    agent.wait("a new pidfile", |a| (a.read("shared/pid") != stale).then_some(()));
    agent.wait_state("app", "healthy");
    agent.secrets(&key("key-of-4"));
    agent.wait("the new container has the new key", |a| {
        a.read("shared/hups").lines().any(|line| line == "key=key-of-4").then_some(())
    });
}

#[test]
fn a_signal_that_is_not_permitted_is_told_with_the_pidfile_both_users_and_what_to_do() {
    if !namespaces() {
        return;
    }
    for user in [UNPRIVILEGED, User { id: 0, capable: true }] {
        let mut agent = sidecar("");
        let pod = Pod::new(&mut agent);
        let _app = pod.start_app(&agent, OTHER);
        let pid = agent.wait("the pidfile", |a| a.read("shared/pid").trim().parse::<i32>().ok());
        pod.start_agent(&mut agent, &user);
        let told = format!(
            "pidfile {}: not allowed to send SIGHUP to process {pid}: it belongs to uid {OTHER}, this agent runs as uid {}. \
             Run both as the same user (in a pod, one `runAsUser` for both containers), or give the agent CAP_KILL",
            agent.dir.join("shared/pid").display(),
            user.id
        );
        agent.wait(&told, |a| a.log().contains(&told).then_some(()));
        assert_eq!(agent.read("shared/hups"), "");
    }
}

/// An agent that is process 1 of its own namespace, with a pidfile that somebody in another one wrote.
fn in_a_namespace_of_its_own(pidfile: &str) -> Agent {
    let mut agent = sidecar("");
    fs::create_dir(agent.dir.join("shared")).unwrap();
    fs::write(agent.dir.join("shared/pid"), pidfile).unwrap();
    start_as_init(&mut agent, &["run"]);
    agent
}

#[test]
fn without_a_shared_pid_namespace_a_pidfile_that_says_1_is_told_apart() {
    if !namespaces() {
        return;
    }
    let mut agent = in_a_namespace_of_its_own("1\n");
    agent.wait("it is told", |a| a.log().contains("set shareProcessNamespace: true").then_some(()));
    let pidfile: PathBuf = agent.dir.join("shared/pid");
    assert!(agent.log().contains(&format!("pidfile {} names this agent itself (pid 1)", pidfile.display())));
    end_init(&mut agent);
}

#[test]
fn a_pidfile_of_another_pid_namespace_names_nobody_here_and_the_target_waits() {
    if !namespaces() {
        return;
    }
    // This test's own number, which nobody has in the agent's young namespace.
    let mut agent = in_a_namespace_of_its_own(&format!("{}\n", std::process::id()));
    agent.wait_state("app", "waiting");
    agent.wait_file("shared/conf", "key=key-of-1");
    end_init(&mut agent);
}

/// A Vault that answers everything alike; its address. It ends with the test's process.
fn vault_that_answers(status: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            // The request's end is not looked for: it comes in one piece.
            let _read = stream.read(&mut [0; 4096]);
            let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close");
            let _sent = write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        }
    });
    format!("http://{address}")
}

#[test]
fn an_init_container_ends_with_the_code_that_says_why() {
    if !namespaces() {
        return;
    }
    let plain = config("  app:\n    files: [{path: shared/conf, inline: 'key={{ secrets.provider.key }}'}]\n");
    let vault = |address: String| {
        let auth = "{type: kubernetes, role: app, token_file: token}";
        let store = format!("{{type: vault, address: '{address}', auth: {auth}}}");
        plain
            .replace("{type: file, path: secrets.yaml}", &store)
            .replace("{store: local}", "{store: local, path: kv/app}")
    };
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sealed = vault_that_answers("503 Service Unavailable", "{\"errors\":[\"Vault is sealed\"]}");
    let denying = vault_that_answers("403 Forbidden", "{\"errors\":[\"permission denied\"]}");
    for (what, text, code) in [
        ("all is well", plain.clone(), 0),
        ("a template that is wrong", plain.replace("provider.key }}", "provider.key"), 65),
        ("a field that is not there", plain.replace("provider.key", "provider.no_field"), 65),
        ("a secret that is not there", plain.replace("provider", "nobody"), 66),
        ("a store that is down", vault(format!("http://{nobody}")), 69),
        ("a store that is sealed", vault(sealed), 69),
        ("a folder that is none", plain.replace("shared/conf", "/dev/null/conf"), 74),
        ("a folder of somebody else", plain.replace("shared/conf", "/usr/conf"), 77),
        ("a store that denies the login", vault(denying), 77),
        ("a config that is invalid", plain.replace("targets:", "target:"), 78),
    ] {
        // What is tried again until then is so to the end. All else ends by itself, also where the machine stalls.
        let wait = if matches!(code, 66 | 69) { "1s" } else { "30s" };
        let mut agent = Agent::new(&text, &key("key-of-1"));
        fs::write(agent.dir.join("token"), "a-token-of-a-service-account\n").unwrap();
        let pod = Pod::new(&mut agent);
        let output = pod.agent(&mut agent, &UNPRIVILEGED, &["render", "--once", "--wait", wait]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{what}: {said}");
        assert_eq!(agent.dir.join("shared/conf").exists(), code == 0, "{what}");
        assert!(code == 0 || !said.is_empty(), "{what}");
    }
}
