//! A real agent in a folder of its own, for end-to-end tests.
#![allow(dead_code, reason = "every test uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::zombie_processes, reason = "tests fail by panicking")]

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use leasehold::control::Client;
use serde_json::Value;

/// How long a state is waited for: far longer than it should take, so that a busy machine fails no test.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A folder with `agent.yaml`, `secrets.yaml`, `out/` and `state/`, and the agent that runs there, if one does.
pub struct Agent {
    pub dir: PathBuf,
    pub child: Option<Child>,
    pub env: Vec<(String, String)>,
    /// The user and group that the agent and its commands run as, where not the test's own.
    pub user: Option<u32>,
    _temp: Option<tempfile::TempDir>,
}

impl Agent {
    /// A fresh folder with this config and these secrets (both YAML). Starts nothing.
    pub fn new(config: &str, secrets: &str) -> Agent {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().canonicalize().unwrap();
        fs::create_dir(dir.join("out")).unwrap();
        fs::write(dir.join("agent.yaml"), config).unwrap();
        let agent = Agent { dir, child: None, env: Vec::new(), user: None, _temp: Some(temp) };
        agent.secrets(secrets);
        agent
    }

    /// Replaces the secrets by a rename, 0600.
    pub fn secrets(&self, yaml: &str) {
        use std::os::unix::fs::PermissionsExt;
        let next = self.dir.join(".secrets.next");
        fs::write(&next, yaml).unwrap();
        std::os::unix::fs::chown(&next, self.user, self.user).unwrap();
        fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(next, self.dir.join("secrets.yaml")).unwrap();
    }

    /// Puts a key for `state_key` into `state.key` in the folder.
    pub fn state_key(&self) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.dir.join("state.key");
        fs::write(&path, "a key of more than thirty-two characters\n").unwrap();
        std::os::unix::fs::chown(&path, self.user, self.user).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    }

    /// `agent ARG…` in the folder, not started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
        command.current_dir(&self.dir).args(args).env("AGENT_CONFIG", self.dir.join("agent.yaml"));
        // Whoever this machine is to AWS, the agent is not.
        let aws = std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("AWS_"));
        for name in aws {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(k, v)| (k, v))).env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
        if let Some(id) = self.user {
            command.uid(id).gid(id);
        }
        command
    }

    /// `agent ARG…` to its end: code, standard output, standard error.
    pub fn call(&self, args: &[&str]) -> (i32, String, String) {
        let output = self.command(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    /// Starts `agent --log-level debug run`; its log goes to `log` in the folder, appended.
    pub fn start(&mut self) {
        self.start_with(&["--log-level", "debug", "run"]);
    }

    /// Starts the agent with these arguments.
    pub fn start_with(&mut self, args: &[&str]) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.join("log")).unwrap();
        let mut command = self.command(args);
        command.stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        self.child = Some(command.spawn().unwrap());
    }

    /// What the agent has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// What `agent status --json` prints, once the agent answers; asked without a process of its own, because it is asked
    /// so often.
    pub fn status(&self) -> Option<Value> {
        let client = Client::connect(&self.dir.join("state")).ok()?;
        serde_json::to_value(client.status().ok()?).ok()
    }

    /// The first target (or the named one) of the status.
    pub fn target(&self, name: &str) -> Option<Value> {
        let status = self.status()?;
        status["targets"].as_array()?.iter().find(|t| t["name"] == name).cloned()
    }

    /// `agent history --json`, as a list.
    pub fn history(&self) -> Vec<Value> {
        if let Ok(entries) = Client::connect(&self.dir.join("state")).and_then(|client| client.history(None, 20)) {
            return entries.into_iter().map(|entry| serde_json::to_value(entry).unwrap()).collect();
        }
        let (_, out, _) = self.call(&["history", "--json"]);
        serde_json::from_str(&out).unwrap_or_default()
    }

    /// The outcomes in history, oldest first.
    pub fn outcomes(&self) -> Vec<String> {
        self.history().iter().filter_map(|e| e["outcome"].as_str().map(str::to_owned)).collect()
    }

    /// Waits until this holds; shows the log and the status where it never does.
    #[track_caller]
    pub fn wait<T>(&mut self, what: &str, look: impl FnMut(&mut Agent) -> Option<T>) -> T {
        self.wait_within(DEADLINE, what, look)
    }

    /// The same for what takes its time by design: [`DEADLINE`] is what a busy machine may add to it.
    #[track_caller]
    pub fn wait_within<T>(&mut self, within: Duration, what: &str, mut look: impl FnMut(&mut Agent) -> Option<T>) -> T {
        let until = Instant::now() + within;
        while Instant::now() < until {
            if let Some(seen) = look(self) {
                return seen;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("never: {what}\nstatus: {:?}\nlog:\n{}", self.status(), self.log());
    }

    /// Waits until the target is in this state.
    #[track_caller]
    pub fn wait_state(&mut self, target: &str, state: &str) -> Value {
        let what = format!("{target} is {state}");
        self.wait(&what, |a| a.target(target).filter(|t| t["state"] == state))
    }

    /// Waits until the file holds exactly this.
    #[track_caller]
    pub fn wait_file(&mut self, path: &str, text: &str) {
        let file = self.dir.join(path);
        self.wait(&format!("{path} holds what is expected"), |_| {
            fs::read_to_string(&file).ok().filter(|found| found == text)
        });
    }

    /// Waits until history ends with this outcome and has this many entries.
    #[track_caller]
    pub fn wait_outcomes(&mut self, outcomes: &[&str]) {
        self.wait(&format!("history is {outcomes:?}"), |a| (a.outcomes() == outcomes).then_some(()));
    }

    /// The agent's pid.
    pub fn pid(&self) -> i32 {
        self.child.as_ref().unwrap().id().try_into().unwrap()
    }

    /// Sends a signal to the agent alone.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits for the agent's end.
    #[track_caller]
    pub fn end(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _gone = child.kill();
        let _ended = child.wait();
        panic!("the agent does not end\nlog:\n{}", self.log());
    }

    /// TERM, then the end.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.end()
    }

    /// The text of a file in the folder.
    pub fn read(&self, path: impl AsRef<Path>) -> String {
        fs::read_to_string(self.dir.join(path)).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
            let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let until = Instant::now() + Duration::from_secs(15);
            while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _gone = child.kill();
            let _ended = child.wait();
        }
    }
}
