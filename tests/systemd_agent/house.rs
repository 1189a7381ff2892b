//! An agent in a folder of its own inside the machine, its unit, and the units that are its targets.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::nspawn::Machine;

/// Far longer than any state should take.
const DEADLINE: Duration = Duration::from_secs(60);
/// The binary, inside.
pub const AGENT: &str = "/opt/agent/agent";

/// One machine for all tests that run at a time; gone with the last of them.
static BOOTED: Mutex<Weak<Machine>> = Mutex::new(Weak::new());
/// Held for writing by a test that takes the bus or systemd itself away.
static PEACE: RwLock<()> = RwLock::new(());

enum Peace {
    #[allow(dead_code, reason = "held, never read")]
    Kept(RwLockReadGuard<'static, ()>),
    #[allow(dead_code, reason = "held, never read")]
    Broken(RwLockWriteGuard<'static, ()>),
}

fn machine() -> Result<Arc<Machine>, String> {
    let mut booted = BOOTED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(machine) = booted.upgrade() {
        return Ok(machine);
    }
    let (tell, told) = mpsc::channel();
    // A thread that never ends: the machine is halted when the thread that booted it does.
    thread::spawn(move || {
        let binary = Path::new(env!("CARGO_BIN_EXE_agent"));
        let machine = Machine::boot(&[(binary.parent().expect("a folder"), "/opt/agent")]);
        if tell.send(machine).is_ok() {
            loop {
                thread::park();
            }
        }
    });
    let machine = Arc::new(told.recv().map_err(|_| "booting it panicked".to_owned())??);
    *booted = Arc::downgrade(&machine);
    Ok(machine)
}

/// Says that a test cannot run here; a failure where everything is required.
pub fn skip(why: &str) {
    eprintln!("SKIP: {why}");
    assert!(std::env::var("LEASEHOLD_REQUIRE").as_deref() != Ok("all"), "required, but skipped: {why}");
}

/// `/srv/NAME` with `agent.yaml` and what belongs to it, and `agent-NAME.service`.
pub struct House {
    // In this order: the machine goes first.
    pub machine: Arc<Machine>,
    name: &'static str,
    /// The agent's unit.
    pub agent: String,
    _peace: Peace,
}

impl House {
    /// A folder with this config and these secrets (none: no such file yet). None: it cannot be done here, and was told.
    pub fn new(name: &'static str, config: &str, secrets: Option<&str>) -> Option<Self> {
        let peace = Peace::Kept(PEACE.read().unwrap_or_else(PoisonError::into_inner));
        Self::with(peace, name, config, secrets)
    }

    /// The same, while no other test runs inside.
    pub fn alone(name: &'static str, config: &str, secrets: Option<&str>) -> Option<Self> {
        let peace = Peace::Broken(PEACE.write().unwrap_or_else(PoisonError::into_inner));
        Self::with(peace, name, config, secrets)
    }

    fn with(peace: Peace, name: &'static str, config: &str, secrets: Option<&str>) -> Option<Self> {
        let machine = match machine() {
            Ok(machine) => machine,
            Err(why) => {
                skip(&why);
                return None;
            }
        };
        let house = Self { machine, name, agent: format!("agent-{name}.service"), _peace: peace };
        house.machine.must(&["mkdir", "-p", &house.path("out")]);
        house.put("agent.yaml", config);
        if let Some(secrets) = secrets {
            house.put("secrets.yaml", secrets);
        }
        Some(house)
    }

    pub fn path(&self, rest: &str) -> String {
        format!("/srv/{}/{rest}", self.name)
    }

    /// Puts a file there by a rename, 0600.
    pub fn put(&self, file: &str, text: &str) {
        let mut command = self.machine.command("sh");
        let script = "umask 077; mkdir -p \"${1%/*}\"; cat > \"$1.next\" && { test ! -e \"$1\" || chown --reference=\"$1\" \"$1.next\"; } && mv \"$1.next\" \"$1\"";
        command.args(["-c", script, "sh", &self.path(file)]).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "writing {file}");
    }

    /// A file of the folder, if it is there.
    pub fn read(&self, file: &str) -> Option<String> {
        let output = self.machine.run(&["cat", &self.path(file)]);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The name of the agent's unit.
    pub fn agent(&self) -> String {
        self.agent.clone()
    }

    /// Writes the agent's unit, `Type=notify` unless `lines` say otherwise.
    pub fn agent_unit(&self, lines: &str) {
        let config = self.path("agent.yaml");
        let unit = format!(
            "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=notify\nRestartSec=100ms\n\
             ExecStart={AGENT} --log-level debug run --config {config}\n{lines}\n"
        );
        self.machine.unit(&self.agent(), &unit);
    }

    /// Writes a unit that sleeps for ever (`Type=exec`: its start has ended when its environment is its own), with these lines in `[Service]`.
    pub fn sleeper(&self, unit: &str, lines: &str) {
        let text =
            format!("[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=exec\nExecStart=/bin/sleep infinity\n{lines}\n");
        self.machine.unit(unit, &text);
    }

    #[track_caller]
    pub fn systemctl(&self, arguments: &[&str]) -> String {
        let argv: Vec<&str> = ["systemctl"].iter().chain(arguments).copied().collect();
        let output = self.machine.run(&argv);
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{argv:?}: {}\n{}", text(&output.stderr), self.journal(&self.agent()));
        text(&output.stdout)
    }

    /// One property of a unit.
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.systemctl(&["show", "--value", "-p", property, unit]).trim().to_owned()
    }

    pub fn active(&self, unit: &str) -> String {
        self.show(unit, "ActiveState")
    }

    /// The environment of a unit's main process.
    pub fn environ(&self, unit: &str) -> Vec<Vec<u8>> {
        let output = self.machine.run(&["cat", &format!("/proc/{}/environ", self.show(unit, "MainPID"))]);
        output.stdout.split(|b| *b == 0).map(<[u8]>::to_vec).collect()
    }

    /// `agent ARG… --json`, where it answers.
    pub fn ask(&self, arguments: &[&str]) -> Option<Value> {
        let mut command = self.machine.command(AGENT);
        command.args(arguments).args(["--json", "--config", &self.path("agent.yaml")]);
        let output = command.output().unwrap();
        if output.status.success() { serde_json::from_slice(&output.stdout).ok() } else { None }
    }

    /// A target as `agent status` has it.
    pub fn target(&self, name: &str) -> Option<Value> {
        self.ask(&["status"])?["targets"].as_array()?.iter().find(|t| t["name"] == name).cloned()
    }

    /// How the rotations ended, the oldest first.
    pub fn outcomes(&self) -> Vec<String> {
        let history = self.ask(&["history"]).unwrap_or_default();
        let entries = history.as_array().cloned().unwrap_or_default();
        entries.iter().filter_map(|e| e["outcome"].as_str().map(str::to_owned)).collect()
    }

    pub fn journal(&self, unit: &str) -> String {
        let output = self.machine.run(&["journalctl", "--no-pager", "-o", "short-precise", "-u", unit]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until this is so; tells all where it never is.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            if let Some(seen) = look(self) {
                return seen;
            }
            thread::sleep(Duration::from_millis(50));
        }
        let (status, units) = (self.ask(&["status"]), self.machine.run(&["systemctl", "list-jobs"]));
        let units = String::from_utf8_lossy(&units.stdout).into_owned();
        panic!("never: {what}\nstatus: {status:#?}\njobs: {units}\n{}", self.journal(&self.agent()));
    }

    #[track_caller]
    pub fn wait_state(&self, target: &str, state: &str) -> Value {
        self.wait(&format!("{target} is {state}"), |h| h.target(target).filter(|t| t["state"] == state))
    }

    #[track_caller]
    pub fn wait_active(&self, unit: &str) {
        self.wait(&format!("{unit} is active"), |h| (h.active(unit) == "active").then_some(()));
    }

    #[track_caller]
    pub fn wait_file(&self, file: &str, text: &str) {
        self.wait(&format!("{file} holds {text:?}"), |h| h.read(file).filter(|found| found == text));
    }

    #[track_caller]
    pub fn wait_outcomes(&self, outcomes: &[&str]) {
        self.wait(&format!("history is {outcomes:?}"), |h| (h.outcomes() == outcomes).then_some(()));
    }
}

/// A config with one target: `out/conf` from the secret's `value`, and what else is said of the target.
pub fn config(target: &str, lines: &str) -> String {
    format!(
        "state_dir: state\n\
         stores:\n  local: {{type: file, path: secrets.yaml}}\n\
         secrets:\n  app: {{store: local}}\n\
         targets:\n  {target}:\n    files:\n      - {{path: out/conf, inline: 'value={{{{ secrets.app.value }}}}'}}\n\
         \x20   settle: {{min: 0s, max: 0s}}\n{lines}"
    )
}

/// The secret of [`config`].
pub fn secrets(value: &str) -> String {
    format!("app: {{value: {value}}}\n")
}
