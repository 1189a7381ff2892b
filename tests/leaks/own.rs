//! What the system lets others see of the agent itself.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::agent::DEADLINE;

/// nobody.
const OTHER: u32 = 65534;

fn as_other(program: &Path) -> Command {
    let mut command = Command::new(program);
    if nix::unistd::geteuid().is_root() {
        command.uid(OTHER).gid(OTHER);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Whether a process of the same user may open this file of another.
fn may_open(child: &Child, file: &str) -> bool {
    let script = format!("exec 3< /proc/{}/{file}", child.id());
    as_other(Path::new("/bin/sh")).args(["-c", &script]).status().unwrap().success()
}

struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ended = self.0.wait();
    }
}

#[test]
fn others_of_the_same_user_cannot_look_into_the_agent_and_it_leaves_no_core() {
    // A folder in which the other user can find the binary and keep its state.
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().canonicalize().unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let binary = dir.join("agent");
    // By a process of its own: what another test forks meanwhile would keep our copy open for writing, and so from being run.
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_agent")).arg(&binary).status().unwrap().success());
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let home = dir.join("home");
    fs::create_dir(&home).unwrap();
    let config = "{state_dir: state, stores: {s: {type: file, path: s.yaml}}, secrets: {a: {store: s}},
        targets: {t: {files: [{path: out, inline: '{{ secrets.a.b }}'}]}}}";
    fs::write(home.join("agent.yaml"), config).unwrap();
    fs::write(home.join("s.yaml"), "a: {b: canary-value-1}").unwrap();
    if nix::unistd::geteuid().is_root() {
        for path in [home.clone(), home.join("agent.yaml"), home.join("s.yaml")] {
            chown(path, Some(OTHER), Some(OTHER)).unwrap();
        }
    }
    let mut command = as_other(&binary);
    let agent = Stopped(command.arg("run").current_dir(&home).env("CANARY", "canary-value-2").spawn().unwrap());
    let until = Instant::now() + DEADLINE;
    while fs::read_to_string(home.join("out")).ok().as_deref() != Some("canary-value-1") {
        assert!(Instant::now() < until, "the agent renders as the other user");
        std::thread::sleep(Duration::from_millis(10));
    }
    let plain = Stopped(as_other(Path::new("/bin/sleep")).arg("1000").spawn().unwrap());
    for file in ["environ", "mem", "maps", "auxv"] {
        assert!(!may_open(&agent.0, file), "{file} of the agent can be opened");
        assert!(file == "mem" || may_open(&plain.0, file), "{file} of any other process of that user can be opened");
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", agent.0.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
}

#[test]
fn what_auth_names_is_kept_from_check_commands_too_unless_pass_env_lists_it() {
    let config = |pass_env: &str| {
        format!(
            "{{state_dir: state, stores: {{s: {{type: file, path: secrets.yaml}},
                v: {{type: vault, address: 'http://127.0.0.1:1', auth: {{type: token, token: '${{MY_TOKEN}}'}}}}}},
              secrets: {{a: {{store: s}}}},
              targets: {{t: {{pass_env: [{pass_env}], files: [{{path: out/t, inline: '{{{{ secrets.a.b }}}}',
                check: {{run: [sh, -c, 'test -z \"$MY_TOKEN$VAULT_TOKEN\"']}}}}]}}}}}}"
        )
    };
    for (pass_env, code) in [("", 0), ("MY_TOKEN", 65), ("VAULT_TOKEN", 65), ("PATH", 0)] {
        let mut agent = super::agent::Agent::new(&config(pass_env), "a: {b: value}");
        agent.env.push(("MY_TOKEN".into(), "canary-value-3".into()));
        agent.env.push(("VAULT_TOKEN".into(), "canary-value-4".into()));
        for args in [&["check"][..], &["render", "--once"]] {
            let (exit, out, err) = agent.call(args);
            assert_eq!(exit, code, "{args:?} with pass_env {pass_env}: {out}{err}");
        }
    }
}
