//! `health.type: command`: a command exits 0.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures_util::future::BoxFuture;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::{Attempt, Probe, bounded, io_reason};

/// Runs a program without a shell, in a process group of its own that is killed when the attempt ends, is cut off or is
/// dropped. Its output is discarded: it may hold values, so no reason quotes it.
pub struct CommandProbe {
    run: Vec<String>,
    timeout: Duration,
}

impl CommandProbe {
    /// A probe that runs `run` (program and arguments).
    pub fn new(run: Vec<String>, timeout: Duration) -> Self {
        Self { run, timeout }
    }
}

impl Probe for CommandProbe {
    fn attempt(&self) -> BoxFuture<'_, Attempt> {
        Box::pin(async {
            let Some((program, arguments)) = self.run.split_first() else {
                return Attempt::Fail("command: no program is named".into());
            };
            let what = format!("command {program}");
            bounded(&what, self.timeout, async {
                let status = exit_of(program, arguments).await.map_err(|e| io_reason(&e))?;
                if status.success() { Ok(()) } else { Err(ended(status)) }
            })
            .await
        })
    }
}

// PLUG: the ground's bounded commands (`process.rs`) go here: they also keep the agent's credentials out of the
// environment and agree with the reaper of PID 1.
async fn exit_of(program: &str, arguments: &[String]) -> std::io::Result<ExitStatus> {
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    // Dropped before `child`, so that a cut-off command's group dies while its leader still holds the id; and, after a
    // wait, in the same poll that reaped the leader: too soon for the id to come round again.
    let _group = child.id().and_then(|id| i32::try_from(id).ok()).map(Group);
    child.wait().await
}

/// Kills a process group when dropped: what the command left behind in it as well.
struct Group(i32);

impl Drop for Group {
    fn drop(&mut self) {
        // ESRCH: the group is gone, as it should be. A group's id stays taken as long as one process is in it.
        let _ = killpg(Pid::from_raw(self.0), Signal::SIGKILL);
    }
}

fn ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}, expected 0"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended".into(),
    }
}
