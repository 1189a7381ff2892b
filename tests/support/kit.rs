//! What the end-to-end tests share beside the agent itself.
#![allow(dead_code, reason = "every test uses its own part")]

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::agent::Agent;

/// Says that a test cannot run here; a failure where everything is required.
pub fn skip(why: &str) {
    eprintln!("SKIP: {why}");
    assert!(std::env::var("LEASEHOLD_REQUIRE").as_deref() != Ok("all"), "required, but skipped: {why}");
}

/// A config with one store, one secret `provider`, and these targets.
pub fn config(targets: &str) -> String {
    format!(
        "state_dir: state\nstores: {{local: {{type: file, path: secrets.yaml}}}}\nsecrets: {{provider: {{store: local}}}}\n\
         targets:\n{targets}"
    )
}

/// One target `app` with one file `out/conf` that holds the key, settled quickly, and these other keys of it.
pub fn app(rest: &str) -> String {
    let file = "{path: out/conf, inline: 'key={{ secrets.provider.key }}'}";
    config(&format!("  app:\n    settle: {{min: 20ms, max: 200ms}}\n    files: [{file}]\n{rest}"))
}

/// The secrets with this key.
pub fn key(key: &str) -> String {
    format!("provider: {{key: {key}}}\n")
}

/// What shows that a file was written again: inode and time.
pub fn mark(path: &Path) -> (u64, i64, i64) {
    let meta = std::fs::metadata(path).unwrap();
    (meta.ino(), meta.mtime(), meta.mtime_nsec())
}

/// True while a process of this number runs, zombies apart.
pub fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next()).is_some_and(|state| state != 'Z')
}

/// The last line of a file as a number, once it is whole.
pub fn last_number(path: &Path) -> Option<i32> {
    let text = std::fs::read_to_string(path).ok()?;
    text.strip_suffix('\n')?.lines().last()?.parse().ok()
}

/// A daemon that notes its pid in `pid`, and every HUP as a line in `hups`.
pub const DAEMON: &str =
    "trap 'cat out/conf >>hups; echo >>hups' HUP; echo $$ >pid.next; mv pid.next pid; while :; do sleep 0.05; done";

/// Starts the daemon in the agent's folder; it ends with the answer.
pub fn daemon(agent: &Agent) -> Daemon {
    let mut command = Command::new("sh");
    command.args(["-c", DAEMON]).current_dir(&agent.dir).stdin(Stdio::null());
    Daemon(command.spawn().unwrap())
}

/// A process that ends with the test.
pub struct Daemon(pub Child);

impl Daemon {
    pub fn pid(&self) -> i32 {
        self.0.id().try_into().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _ended = self.0.wait();
    }
}
