//! An agent with its targets, the processes they are for, and what may be changed about them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use leasehold::journal::JournalFile;
use leasehold::rotation::{Digest, Journal};
use leasehold::seal::Seal;
use leasehold::state_dir::memory_backed;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use tempfile::TempDir;

use crate::agent::{Agent, DEADLINE};

/// A way of being a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Supervised; files one by one; a process that goes when it is told to.
    Files,
    /// Supervised; files in a `directory`; a process that ignores TERM, and leaves a descendant in a session of its own.
    Directory,
    /// A process of somebody else, told by a signal; files one by one.
    Signal,
}

pub const ALL: [Kind; 3] = [Kind::Files, Kind::Directory, Kind::Signal];

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Files => "files",
            Kind::Directory => "directory",
            Kind::Signal => "signal",
        }
    }

    pub fn supervised(self) -> bool {
        self != Kind::Signal
    }
}

/// Who the third file belongs to where the test may say so.
pub const OWNER: u32 = 65534;
/// What stands between a file's beginning and its end.
pub const PADDING: usize = 6000;

pub struct World {
    pub agent: Agent,
    pub kinds: Vec<Kind>,
    pub root: bool,
    /// What each target rested on last.
    pub rested: BTreeMap<Kind, u32>,
    /// The number of the newest value.
    pub newest: u32,
    pub listener: Option<Listener>,
    /// What the state directory is sealed with.
    pub seal: Option<Seal>,
    /// Where plaintext may be in memory for a moment.
    pub runtime: Option<TempDir>,
}

impl World {
    /// Writes everything and starts nothing but the process to be signalled. With a `directory` among the kinds, all that is
    /// kept is sealed, and one of its files is checked.
    pub fn new(kinds: &[Kind], overlap: bool) -> Self {
        let root = nix::unistd::geteuid().is_root();
        let runtime = memory_backed(Path::new("/dev/shm")).then(|| tempfile::tempdir_in("/dev/shm").unwrap());
        let sealed = kinds.contains(&Kind::Directory) && runtime.is_some();
        let state_key = if sealed { "state_key: {file: state.key}\n" } else { "" };
        let mut config =
            state_key.to_owned() + "state_dir: state\nstores:\n  local: {type: file, path: secrets.yaml}\nsecrets:\n";
        let overlap = if overlap { ", overlap: 1h" } else { "" };
        writeln!(config, "  app: {{store: local{overlap}}}\ntargets:").unwrap();
        for kind in kinds {
            config.push_str(&target(*kind, root));
        }
        let agent = Agent::new(&config, "app: {value: good-000001}\n");
        let seal = sealed.then(|| {
            agent.state_key();
            Seal::read(&agent.dir.join("state.key")).unwrap()
        });
        let put = |name: &str, text: &str| fs::write(agent.dir.join(name), text).unwrap();
        put("child", CHILD);
        put("well", WELL);
        put("listener", LISTENER);
        put(
            "app.conf.tera",
            &format!(
                "{{{{ secrets.app.value }}}} {{{{ snapshot }}}}\n{}\n{{{{ secrets.app.value }}}} {{{{ snapshot }}}}\n",
                "=".repeat(PADDING)
            ),
        );
        for kind in kinds {
            fs::create_dir(agent.dir.join("out").join(kind.name())).unwrap();
            nix::unistd::mkfifo(&agent.dir.join(format!("{}.fifo", kind.name())), Mode::S_IRWXU).unwrap();
        }
        let listener = kinds.contains(&Kind::Signal).then(|| Listener::start(&agent));
        Self { agent, kinds: kinds.to_vec(), root, rested: BTreeMap::new(), newest: 1, listener, seal, runtime }
    }

    /// Where no value is a bad one, no refusal has to be waited for: a good one has time on a busy machine, too.
    pub fn be_patient(&self) {
        let text = self.agent.read("agent.yaml").replace("within: 3s", "within: 10s");
        fs::write(self.agent.dir.join("agent.yaml"), text).unwrap();
    }

    /// Gives the secret a new value, and answers it.
    pub fn change(&mut self, good: bool) -> String {
        self.newest += 1;
        let value = format!("{}-{:06}", if good { "good" } else { "bad" }, self.newest);
        self.agent.secrets(&format!("app: {{value: {value}}}\n"));
        value
    }

    /// Starts the agent, to be killed at the n-th hit of a failpoint, and with a trace of all of them.
    pub fn start(&mut self, failpoint: Option<(&str, usize)>, trace: Option<&str>) {
        let armed = failpoint.map(|(name, nth)| ("LEASEHOLD_FAILPOINT".to_owned(), format!("{name}:{nth}")));
        let trace = trace.map(|file| {
            let file = self.agent.dir.join(file);
            let _there_may_be_none = fs::remove_file(&file);
            ("LEASEHOLD_FAILPOINT_TRACE".to_owned(), file.display().to_string())
        });
        let runtime = self.runtime.iter().map(|at| ("RUNTIME_DIRECTORY".to_owned(), at.path().display().to_string()));
        self.agent.env = armed.into_iter().chain(trace).chain(runtime).collect();
        self.agent.start();
        // Not for the commands that look at it.
        self.agent.env.clear();
    }

    /// SIGKILL, now.
    pub fn kill(&mut self) {
        self.agent.signal(Signal::SIGKILL);
        self.killed("a kill");
    }

    /// Waits until the agent was killed, and looks at what it left.
    pub fn killed(&mut self, by: &str) {
        let until = Instant::now() + DEADLINE;
        while self.running() {
            assert!(Instant::now() < until, "{by} did not end the agent\nlog:\n{}", self.log());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let status = self.agent.child.take().unwrap().wait().unwrap();
        assert_eq!(status.signal(), Some(9), "{by}: the agent ended by itself\nlog:\n{}", self.log());
        self.look_at_wreck(by);
    }

    pub fn running(&mut self) -> bool {
        self.agent.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// The end of what the agents have said.
    pub fn log(&self) -> String {
        let log = self.agent.log();
        let lines: Vec<_> = log.lines().rev().take(150).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Lines of the trace.
    pub fn trace(&self, file: &str) -> Vec<String> {
        self.agent.read(file).lines().map(str::to_owned).collect()
    }

    pub fn target_dir(&self, kind: Kind) -> PathBuf {
        self.agent.dir.join("state/targets").join(kind.name())
    }

    pub fn journal(&self, kind: Kind) -> Result<Journal, String> {
        let read = JournalFile::load(&JournalFile::<Journal>::new(&self.target_dir(kind), self.seal(kind)));
        read.map_err(|error| format!("journal of {}: {error}", kind.name())).map(Option::unwrap_or_default)
    }

    pub fn seal(&self, kind: Kind) -> Option<Seal> {
        self.seal.as_ref().map(|seal| seal.within("targets").within(kind.name()))
    }

    /// What each target refused last.
    pub fn refusals(&self) -> BTreeMap<Kind, Option<Digest>> {
        let last = |kind: Kind| self.journal(kind).unwrap().quarantined.last().copied();
        self.kinds.iter().map(|kind| (*kind, last(*kind))).collect()
    }
}

fn target(kind: Kind, root: bool) -> String {
    let name = kind.name();
    let (directory, at) = match kind {
        Kind::Directory => (format!("    directory: out/{name}\n"), String::new()),
        _ => (String::new(), format!("out/{name}/")),
    };
    let check = if kind == Kind::Directory { ", check: {run: [grep, -q, '===', '{path}']}" } else { "" };
    let owner = if root { format!(", owner: {OWNER}, group: {OWNER}") } else { String::new() };
    let reload = match kind {
        Kind::Files | Kind::Directory => {
            let patience = if kind == Kind::Files { "10s" } else { "100ms" };
            format!("{{type: exec, command: [sh, child, {name}, out/{name}], cwd: ., stop_timeout: {patience}}}")
        }
        Kind::Signal => "{type: signal, pidfile: signal.pid, signal: HUP}".to_owned(),
    };
    // A bad value ends a supervised process; the other one can only be seen not to take it up.
    let within = if kind.supervised() { "45s" } else { "3s" };
    format!(
        "  {name}:
{directory}    files:
      - {{path: {at}app.env, env: {{VALUE: '{{{{ secrets.app.value }}}}', SNAPSHOT: '{{{{ snapshot }}}}'}}, format: shell}}
      - path: {at}app.json
        inline: '{{\"value\":{{{{ secrets.app.value | json }}}},\"snapshot\":\"{{{{ snapshot }}}}\",\"end\":true}}'
        mode: '0644'
      - {{path: {at}app.conf, template: app.conf.tera, mode: '0640'{owner}{check}}}
    reload: {reload}
    health: {{type: command, run: [sh, well, {name}, out/{name}], interval: 10ms, timeout: 10s, within: {within}, successes: 1}}
    settle: {{min: 0s, max: 10ms}}
    keep: 2
"
    )
}

/// A supervised process: takes its files up, says what it serves, and is alone or says that it is not.
const CHILD: &str = r#"
name=$1 dir=$2
exec 9>"$name.lock"
flock -n 9 || { echo "CLASH $name $$" >>faults; exit 4; }
: >"$name.serving"
if [ "$name" = directory ]; then
    trap '' TERM
    setsid sleep 1000 &
fi
. "$dir/app.env"
read -r json <"$dir/app.json"
case $json in
    *"\"$VALUE\""*"\"$SNAPSHOT\""*) ;;
    *) echo "MIXED $name $$ $VALUE $SNAPSHOT: $json" >>faults ;;
esac
case $VALUE in bad*) exit 3 ;; esac
echo "$VALUE $$" >"$name.serving"
exec 8<>"$name.fifo"
while :; do read -r _ <&8; done
"#;

/// Healthy: a living process serves the value that is published.
const WELL: &str = r#"
. "$2/app.env"
read -r value pid <"$1.serving" && [ "$value" = "$VALUE" ] && kill -0 "$pid"
"#;

/// A process that belongs to somebody else. It goes on serving what was good when it is given a bad value.
const LISTENER: &str = r#"
take() {
    . out/signal/app.env
    case $VALUE in bad*) ;; *) echo "$VALUE $$" >signal.serving ;; esac
}
trap take HUP
trap 'exit 0' TERM
exec 8<>signal.fifo
echo $$ >signal.pid
while :; do read -r _ <&8; done
"#;

/// The process of the signalled target.
pub struct Listener(pub Child);

impl Listener {
    fn start(agent: &Agent) -> Self {
        let mut command = Command::new("sh");
        command.arg("listener").current_dir(&agent.dir).stdin(Stdio::null()).stdout(Stdio::null());
        let listener = Self(command.spawn().unwrap());
        let until = Instant::now() + DEADLINE;
        while !agent.read("signal.pid").ends_with('\n') {
            assert!(Instant::now() < until, "the listener does not start");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        listener
    }

    pub fn pid(&self) -> i32 {
        self.0.id().try_into().unwrap()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}
