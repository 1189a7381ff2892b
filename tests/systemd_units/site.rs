//! A machine on which Leasehold is installed beside LiteLLM.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::nspawn::Machine;

/// Far longer than any state should take.
const DEADLINE: Duration = Duration::from_secs(300);
pub const AGENT: &str = "leasehold@litellm.service";
pub const LITELLM: &str = "litellm.service";
const CONFIG: &str = "/etc/leasehold/litellm.yaml";
const SECRETS: &str = "/etc/leasehold/litellm/secrets.yaml";
/// Where `systemd/` and `examples/` are seen inside.
pub const REPOSITORY: &str = "/opt/repository";

/// A file of this repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Says that a test cannot run here; a failure where everything is required.
pub fn skip(why: &str) {
    eprintln!("SKIP: {why}");
    assert!(std::env::var("LEASEHOLD_REQUIRE").as_deref() != Ok("all"), "required, but skipped: {why}");
}

pub struct Site {
    pub machine: Machine,
}

impl Site {
    /// Installed, with what `install.sh` says is to be done next and a stand-in for LiteLLM, but nothing is started. None: it
    /// cannot be done here, and was told.
    pub fn installed() -> Option<Self> {
        let site = Self::without_litellm(&[])?;
        let litellm = std::fs::read_to_string(repository("tests/systemd_units/litellm.pl")).unwrap();
        site.litellm(&litellm);
        // Not less: both secrets of one change are to be one rotation, on a slow machine too.
        site.edit_config("settle: {min: 2s, max: 10s}", "settle: {min: 1s, max: 10s}");
        site.edit_config("interval: 1s", "interval: 100ms");
        Some(site)
    }

    /// Puts the program that units and config name in its place.
    pub fn litellm(&self, script: &str) {
        self.machine.write("/opt/litellm/bin/litellm", script);
        self.machine.must(&["chmod", "0755", "/opt/litellm/bin/litellm"]);
    }

    /// The same without LiteLLM. `more`: folders of this machine, and where they are seen inside.
    pub fn without_litellm(more: &[(&Path, &str)]) -> Option<Self> {
        let binary = Path::new(env!("CARGO_BIN_EXE_agent")).parent().unwrap();
        let (units, examples) = (repository("systemd"), repository("examples"));
        let (inside_units, inside_examples) = (format!("{REPOSITORY}/systemd"), format!("{REPOSITORY}/examples"));
        let binds: [(&Path, &str); 3] =
            [(binary, "/opt/agent"), (&units, &inside_units), (&examples, &inside_examples)];
        let machine = match Machine::boot_with_disk(&[&binds, more].concat()) {
            Ok(machine) => machine,
            Err(why) => {
                skip(&why);
                return None;
            }
        };
        let version = machine.must(&["systemctl", "--version"]);
        let number = version.split_whitespace().nth(1).and_then(|n| n.parse::<u32>().ok()).expect("systemd's version");
        if number < 254 {
            skip(&format!("the units need systemd 254, the container has {number}"));
            return None;
        }
        let site = Self { machine };
        let next = site.install();
        let commands = next.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with('$'));
        for command in commands.filter(|line| !line.starts_with("systemctl")) {
            // The container has no openssl.
            let command = command.replace("openssl rand -base64 48", "head -c 36 /dev/urandom | base64");
            site.machine.must(&["sh", "-ec", &command]);
        }
        Some(site)
    }

    /// The same, started and at rest.
    pub fn running() -> Option<Self> {
        let site = Self::installed()?;
        site.systemctl(&["enable", "--now", AGENT, LITELLM]);
        site.wait_state("healthy");
        Some(site)
    }

    pub fn script(&self, arguments: &[&str]) -> Output {
        let script = format!("{REPOSITORY}/systemd/install.sh");
        self.machine.run(&[&["sh", &script], arguments].concat())
    }

    /// Installs it, and answers what is to be done next.
    pub fn install(&self) -> String {
        let output = self.script(&["--binary", "/opt/agent/agent"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn edit_config(&self, from: &str, to: &str) {
        self.edit(CONFIG, from, to);
    }

    pub fn edit(&self, path: &str, from: &str, to: &str) {
        let text = self.read(path).expect("it is there");
        assert!(text.contains(from), "{from:?} is not in {text}");
        self.machine.write(path, &text.replace(from, to));
    }

    /// Puts the secrets into the store, by a rename.
    pub fn put(&self, provider: &str, master: &str) {
        let text = format!("master: {{key: {master}}}\nanthropic: {{api_key: {provider}}}\n");
        self.machine.write(&format!("{SECRETS}.next"), &text);
        let swap = "chown root:leasehold \"$1.next\" && chmod 0640 \"$1.next\" && mv \"$1.next\" \"$1\"";
        self.machine.must(&["sh", "-ec", swap, "sh", SECRETS]);
    }

    pub fn read(&self, path: &str) -> Option<String> {
        let output = self.machine.run(&["cat", path]);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub fn exists(&self, path: &str) -> bool {
        self.machine.run(&["test", "-e", path]).status.success()
    }

    #[track_caller]
    pub fn systemctl(&self, arguments: &[&str]) -> String {
        let output = self.machine.run(&[&["systemctl"], arguments].concat());
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}\n{}", text(&output.stderr), self.logs());
        text(&output.stdout)
    }

    pub fn show(&self, unit: &str, property: &str) -> String {
        self.systemctl(&["show", "--value", "-p", property, unit]).trim().to_owned()
    }

    pub fn logs(&self) -> String {
        let output = self.machine.run(&["journalctl", "--no-pager", "-n", "80", "-u", AGENT, "-u", LITELLM]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A command of the agent, as JSON, where it answers.
    pub fn ask(&self, command: &str) -> Option<Value> {
        let output = self.machine.run(&["/usr/local/bin/agent", command, "--json", "--config", CONFIG]);
        if output.status.success() { serde_json::from_slice(&output.stdout).ok() } else { None }
    }

    pub fn state(&self) -> Option<Value> {
        self.ask("status")?["targets"].as_array()?.first().cloned()
    }

    pub fn outcomes(&self) -> Vec<String> {
        let entries = self.ask("history").and_then(|h| h.as_array().cloned()).unwrap_or_default();
        entries.iter().filter_map(|e| e["outcome"].as_str().map(str::to_owned)).collect()
    }

    /// What LiteLLM answers: the keys that it runs with.
    pub fn answer(&self) -> Option<String> {
        let ask =
            "exec 3<>/dev/tcp/127.0.0.1/4000 && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && timeout 60 tail -n 1 <&3";
        let output = self.machine.run(&["bash", "-c", ask]);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    #[track_caller]
    pub fn wait<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            if let Some(seen) = look(self) {
                return seen;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("never: {what}\nstatus: {:#?}\n{}", self.ask("status"), self.logs());
    }

    #[track_caller]
    pub fn wait_state(&self, state: &str) -> Value {
        self.wait(&format!("the target is {state}"), |s| s.state().filter(|t| t["state"] == state))
    }

    #[track_caller]
    pub fn wait_answer(&self, provider: &str, master: &str) {
        let wanted = format!("key={provider} master={master}");
        self.wait(&wanted, |s| s.answer().filter(|answer| *answer == wanted));
    }

    #[track_caller]
    pub fn wait_outcomes(&self, outcomes: &[&str]) {
        self.wait(&format!("history is {outcomes:?}"), |s| (s.outcomes() == outcomes).then_some(()));
    }

    /// Runs a command inside as the agent's user.
    pub fn as_agent(&self, argv: &[&str]) -> Output {
        self.machine.run(&[&["setpriv", "--reuid=leasehold", "--regid=leasehold", "--init-groups"], argv].concat())
    }
}

/// Runs `install.sh` on this machine below a folder.
pub fn install_below(folder: &Path, arguments: &[&str]) -> Output {
    install_with(folder, arguments, "/usr/local")
}

/// The same with another prefix.
pub fn install_with(folder: &Path, arguments: &[&str], prefix: &str) -> Output {
    let mut command = Command::new("sh");
    command.arg(repository("systemd/install.sh")).args(arguments).env("DESTDIR", folder).env("PREFIX", prefix);
    command.output().expect("sh runs")
}
