//! Processes: bounded commands, what a child may inherit, pidfds, `/proc`, and the reaping of orphans.

pub mod pidfd;
pub mod procfs;
pub mod reap;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use zeroize::Zeroizing;

use reap::{Owned, spawn_owned};

/// How much of a command's standard output is kept: the last bytes.
const STDOUT_KEPT: usize = 256 * 1024;
/// How much of a command's standard error is kept: the last bytes.
const STDERR_KEPT: usize = 4 * 1024;
/// How long output is read on after the command ended: a daemon that it left behind may hold the pipe open for ever.
const DRAIN: Duration = Duration::from_millis(100);
/// How long a killed command may take to be gone.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With a code.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl Exit {
    /// True for code 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// What a shell would report: the code, or 128 + the signal.
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match status.code() {
            Some(code) => Self::Code(code),
            None => Self::Signal(status.signal().unwrap_or(0)),
        }
    }
}

/// `exit code 3`, `SIGKILL`.
impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => f.write_str(signal.as_str()),
                Err(_) => write!(f, "signal {number}"),
            },
        }
    }
}

/// The agent's own credentials: never inherited, unless a target's `pass_env` lists them.
pub const AGENT_CREDENTIALS: [&str; 5] = [
    "VAULT_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    // What the container's endpoint gives credentials for.
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
];
/// What the service manager said to the agent alone (sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3)).
const AGENT_PROTOCOL: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];
/// Variables of the agent itself.
const AGENT_PREFIX: &str = "LEASEHOLD_";

/// Which of the agent's variables a process that it starts may have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inherit {
    /// Credentials beside [`AGENT_CREDENTIALS`]: the variables that a store's `auth` names.
    pub withhold: Vec<String>,
    /// The target's `pass_env`: inherited all the same. Never brings back what is the agent's own (`LEASEHOLD_…`,
    /// `LISTEN_…`, `NOTIFY_SOCKET`, `WATCHDOG_…`).
    pub pass: Vec<String>,
}

impl Inherit {
    /// Whether the variable is inherited.
    pub fn allows(&self, name: &str) -> bool {
        if name.starts_with(AGENT_PREFIX) || AGENT_PROTOCOL.contains(&name) {
            return false;
        }
        let credential = AGENT_CREDENTIALS.contains(&name) || self.withhold.iter().any(|w| w == name);
        !credential || self.pass.iter().any(|p| p == name)
    }

    /// The agent's environment less what is not inherited.
    pub fn environment(&self) -> Vec<(OsString, OsString)> {
        std::env::vars_os().filter(|(name, _)| name.to_str().is_none_or(|name| self.allows(name))).collect()
    }
}

/// What a command did in its time.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub exit: Exit,
    /// The last 256 KiB of its standard output. May hold secrets.
    pub stdout: Zeroizing<Vec<u8>>,
    /// The whole lines of the last 4 KiB of its standard error, as text. May hold secrets: shown only through the masking layer.
    pub stderr: String,
}

impl Outcome {
    /// ` (exit code 3): the last lines of stderr`, for the end of a message.
    pub fn why(&self) -> String {
        let tail = last_lines(&self.stderr, 3);
        if tail.is_empty() { format!("{}, nothing on stderr", self.exit) } else { format!("{}: {tail}", self.exit) }
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines.iter().skip(lines.len().saturating_sub(count)).copied().collect::<Vec<_>>().join(" | ")
}

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started.
    #[error("cannot start `{program}`: {hint}")]
    Start {
        /// The program.
        program: String,
        /// What is wrong with it.
        hint: String,
        /// The system's answer.
        source: io::Error,
    },
    /// It ran longer than it may; it and its process group were killed.
    #[error("`{program}` did not end within {timeout:?} and was killed{}", if stderr.is_empty() { String::new() } else { format!(": {}", last_lines(stderr, 3)) })]
    TimedOut {
        /// The program.
        program: String,
        /// The bound.
        timeout: Duration,
        /// The whole lines of the last 4 KiB of its standard error.
        stderr: String,
    },
    /// It could not be waited for.
    #[error("cannot wait for `{program}`: {source}")]
    Wait {
        /// The program.
        program: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl RunError {
    /// The same without what the command said, for where its words may hold values that the mask does not know.
    pub fn without_output(&self) -> String {
        match self {
            Self::TimedOut { program, timeout, .. } => {
                Self::TimedOut { program: program.clone(), timeout: *timeout, stderr: String::new() }.to_string()
            }
            Self::Start { .. } | Self::Wait { .. } => self.to_string(),
        }
    }
}

/// What to tell the operator about a program that does not start.
pub fn start_hint(program: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound if !program.contains('/') => "no such program in PATH".to_owned(),
        io::ErrorKind::NotFound if std::path::Path::new(program).exists() => {
            "the file is there, but the interpreter that its first line names is not".to_owned()
        }
        io::ErrorKind::NotFound => "no such file".to_owned(),
        // execvp(3) answers so where a folder of PATH may not be searched and none of the others has it.
        io::ErrorKind::PermissionDenied if !program.contains('/') => {
            "no such program in PATH that this user may execute".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied: is it a file, executable, and on a filesystem mounted without noexec?".to_owned()
        }
        _ => error.to_string(),
    }
}

/// Runs a command to its end, or to `timeout`: then its whole process group is killed, as when the future is dropped.
/// No shell; standard input is empty. A daemon that the command leaves behind lives on, but its output is not waited for.
/// Does not judge the exit status.
pub async fn run(argv: &[String], timeout: Duration, inherit: &Inherit) -> Result<Outcome, RunError> {
    let (program, arguments) = argv.split_first().map_or(("", argv), |(p, a)| (p.as_str(), a));
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).env_clear().envs(inherit.environment()).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (mut child, pid, owned) = spawn_owned(&mut command).map_err(|source| RunError::Start {
        program: program.to_owned(),
        hint: start_hint(program, &source),
        source,
    })?;
    let mut group = Group { pgid: Some(pid), _owned: owned };
    let (mut stdout, mut stderr) = (Tail::new(STDOUT_KEPT), Tail::new(STDERR_KEPT));
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let ended = {
        let output = async { tokio::join!(stdout.read(out), stderr.read(err)) };
        tokio::pin!(output);
        let mut all_read = false;
        let wait = async {
            loop {
                tokio::select! {
                    status = child.wait() => break status,
                    _ = &mut output, if !all_read => all_read = true,
                }
            }
        };
        let ended = tokio::time::timeout(timeout, wait).await;
        if ended.is_ok() && !all_read {
            let _ = tokio::time::timeout(DRAIN, &mut output).await;
        }
        ended
    };
    match ended {
        Ok(Ok(status)) => {
            group.pgid = None;
            Ok(Outcome { exit: status.into(), stdout: stdout.into_bytes(), stderr: stderr.into_text() })
        }
        Ok(Err(source)) => Err(RunError::Wait { program: program.to_owned(), source }),
        Err(_) => {
            group.kill();
            let _ = tokio::time::timeout(KILL_WAIT, child.wait()).await;
            Err(RunError::TimedOut { program: program.to_owned(), timeout, stderr: stderr.into_text() })
        }
    }
}

/// The group of a running command: killed when dropped early.
struct Group {
    pgid: Option<i32>,
    _owned: Owned,
}

impl Group {
    fn kill(&mut self) {
        if let Some(pgid) = self.pgid.take() {
            // ESRCH: all gone.
            let _ = killpg(Pid::from_raw(pgid), Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last bytes of a stream.
struct Tail {
    kept: Zeroizing<Vec<u8>>,
    limit: usize,
    /// Whether something was before it.
    lost: bool,
}

impl Tail {
    fn new(limit: usize) -> Self {
        Self { kept: Zeroizing::default(), limit, lost: false }
    }

    async fn read(&mut self, stream: Option<impl AsyncRead + Unpin>) {
        let Some(mut stream) = stream else { return };
        let mut buffer = Zeroizing::new(vec![0; 8 * 1024]);
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            self.kept.extend_from_slice(&buffer[..count]);
            if self.kept.len() > 2 * self.limit {
                self.cut();
            }
        }
    }

    fn cut(&mut self) {
        let surplus = self.kept.len().saturating_sub(self.limit);
        self.lost |= surplus > 0;
        self.kept.drain(..surplus);
    }

    fn into_bytes(mut self) -> Zeroizing<Vec<u8>> {
        self.cut();
        self.kept
    }

    /// Whole lines only: the mask does not know a part of a value, and a cut may go through one.
    fn into_text(mut self) -> String {
        self.cut();
        let whole = match (self.lost, self.kept.iter().position(|b| *b == b'\n')) {
            (false, _) => &self.kept[..],
            (true, Some(end)) if self.kept.len() > end + 1 => &self.kept[end + 1..],
            (true, _) => return format!("(a line of more than {} KiB, not shown)", self.limit / 1024),
        };
        String::from_utf8_lossy(whole).trim().to_owned()
    }
}

#[cfg(test)]
mod tests;
