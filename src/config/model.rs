//! The validated config: the only form in which any other room sees it.
//!
//! Paths are absolute (relative ones were taken from the config file's folder), durations are durations, users are ids,
//! names are resolved. There is no `Debug` on types that may carry the value of an expanded `${VAR}`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

mod listen;
mod stores;

pub use listen::Listen;
pub use stores::*;

use crate::secret::SecretName;

/// A whole config file.
#[derive(Clone)]
pub struct Config {
    /// The file it came from, absolute.
    pub file: PathBuf,
    /// Journal, retained generations, control socket.
    pub state_dir: PathBuf,
    /// File with the key that seals what state_dir keeps of secrets, if any.
    pub state_key: Option<PathBuf>,
    /// The read-only HTTP endpoint, if any.
    pub admin: Option<SocketAddr>,
    /// Where audit events go, if anywhere (JSON lines, append-only).
    pub audit: Option<PathBuf>,
    /// Stores by name.
    pub stores: BTreeMap<StoreName, StoreConfig>,
    /// Secrets by name: those declared, and those that `resolve` files refer to.
    pub secrets: BTreeMap<SecretName, SecretConfig>,
    /// Targets by name.
    pub targets: BTreeMap<TargetName, Arc<TargetConfig>>,
}

/// A store's name.
pub type StoreName = Arc<str>;
/// A target's name: ASCII letters, digits, `-`, `_` and `.`, not starting with a dot (it names a folder of state_dir).
pub type TargetName = Arc<str>;

/// One secret.
#[derive(Clone)]
pub struct SecretConfig {
    /// Its name.
    pub name: SecretName,
    /// The store it is in.
    pub store: StoreName,
    /// Where in the store.
    pub locator: Locator,
    /// How often to read; None where the store pushes (a file is watched).
    pub poll: Option<Duration>,
    /// How long the version before stays available as `previous`.
    pub overlap: Duration,
    /// Overdue after this.
    pub max_age: Option<Duration>,
    /// Field -> pattern that its value must match before anything is published.
    pub expect: BTreeMap<String, regex_lite::Regex>,
    /// A request made with the NEW value before anything is published; url, header values and body are templates.
    pub verify: Option<HttpRequest>,
}

/// Where a secret is in its store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Locator {
    /// File store: the name in the file (ignored where the file or directory is one secret).
    File {
        /// By default the secret's own name.
        key: String,
    },
    /// Vault: a path, mount first, without `data/`.
    Vault {
        /// The path.
        path: String,
        /// Request parameters for engines that take some.
        params: BTreeMap<String, serde_json::Value>,
    },
    /// AWS Secrets Manager.
    Aws {
        /// Name or ARN.
        id: String,
        /// Stage, by default AWSCURRENT.
        stage: Option<String>,
        /// Version id instead of a stage.
        version_id: Option<String>,
        /// Dotted path into nested JSON.
        key: Option<String>,
    },
}

/// What rotates as one unit.
#[derive(Clone)]
pub struct TargetConfig {
    /// Its name.
    pub name: TargetName,
    /// Its files.
    pub files: Vec<FileConfig>,
    /// Where all files live and change in one rename, if set.
    pub directory: Option<PathBuf>,
    /// How the process takes them up.
    pub reload: ReloadConfig,
    /// How its health is known.
    pub health: HealthConfig,
    /// What to do when it is not healthy.
    pub on_unhealthy: OnUnhealthy,
    /// Whether a process that is not there is a failure.
    pub require_running: bool,
    /// Changes that arrive within this rotate together.
    pub settle: Settle,
    /// Upper bound of the random wait before acting.
    pub splay: Duration,
    /// Generations retained for rollback, at least 1.
    pub keep: usize,
    /// Names of environment variables that templates may read and a supervised process keeps.
    pub pass_env: Vec<String>,
}

/// One file of a target.
#[derive(Clone)]
pub struct FileConfig {
    /// Where it is published, absolute (inside `directory` where that is set).
    pub path: PathBuf,
    /// What it is made of.
    pub source: Source,
    /// What reads it.
    pub format: Format,
    /// Permission bits.
    pub mode: u32,
    /// Owner; None: the agent's own user.
    pub uid: Option<u32>,
    /// Group; None: the agent's own group.
    pub gid: Option<u32>,
    /// A command that must accept the staged file.
    pub check: Option<CheckCommand>,
    /// Whether symlinks in `path` are followed.
    pub follow_symlinks: bool,
    /// Whether a secret's value may change the keys of a structured file.
    pub structure: Structure,
}

/// The one source of a file.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// A Tera file, absolute.
    Template(PathBuf),
    /// Tera text.
    Inline(String),
    /// Variables in the config's order; values are Tera text; the agent quotes the results.
    Env(Vec<(String, String)>),
    /// An existing file in which whole values that are references are replaced, absolute.
    Resolve(PathBuf),
}

/// `structure`: what a secret's value may do to a structured file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Structure {
    /// Keys must be the same as with harmless placeholders.
    Fixed,
    /// Anything that parses.
    Free,
}

/// `format` of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Anything.
    Text,
    /// YAML 1.2.
    Yaml,
    /// JSON (RFC 8259).
    Json,
    /// TOML 1.0.
    Toml,
    /// systemd's `EnvironmentFile=` (systemd.exec(5)).
    SystemdEnv,
    /// docker's `--env-file`.
    DockerEnv,
    /// dotenv.
    Dotenv,
    /// Sourced by a POSIX shell.
    Shell,
}

/// A command that judges a staged file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckCommand {
    /// Program and arguments; `{path}` stands for the staged file.
    pub run: Vec<String>,
    /// Text that its standard output must contain.
    pub stdout: Option<String>,
    /// Bound on its run.
    pub timeout: Duration,
}

/// How the process takes new files up.
#[derive(Clone, PartialEq, Eq)]
pub enum ReloadConfig {
    /// Nothing is told.
    None,
    /// A signal to the process named by a pidfile.
    Signal(SignalReload),
    /// A systemd unit over D-Bus.
    Systemd(SystemdReload),
    /// A child of the agent.
    Exec(ExecReload),
    /// A command.
    Command(CommandReload),
}

/// `reload.type: signal`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignalReload {
    /// The pidfile.
    pub pidfile: PathBuf,
    /// The signal, by default HUP.
    pub signal: nix::sys::signal::Signal,
    /// What the process must be.
    pub expect: ExpectProcess,
}

/// What a process found by pidfile must be. Empty: anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpectProcess {
    /// `/proc/PID/exe`.
    pub exe: Option<PathBuf>,
    /// `/proc/PID/comm`.
    pub comm: Option<String>,
    /// Owner.
    pub uid: Option<u32>,
}

/// `reload.type: systemd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemdReload {
    /// Unit name with suffix.
    pub unit: String,
    /// What is asked of it.
    pub verb: SystemdVerb,
    /// Bound on the job.
    pub timeout: Duration,
}

/// org.freedesktop.systemd1's job verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemdVerb {
    /// ReloadUnit
    Reload,
    /// RestartUnit
    Restart,
    /// TryRestartUnit
    TryRestart,
    /// ReloadOrRestartUnit
    ReloadOrRestart,
    /// ReloadOrTryRestartUnit
    TryReloadOrRestart,
}

/// `reload.type: command`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandReload {
    /// Program and arguments.
    pub run: Vec<String>,
    /// Bound on its run.
    pub timeout: Duration,
}

/// `reload.type: exec`.
#[derive(Clone, PartialEq, Eq)]
pub struct ExecReload {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables added to the inherited environment; values are Tera text.
    pub env: Vec<(String, String)>,
    /// What a change of its files does. A change of `env` always restarts.
    pub on_change: OnChange,
    /// Sockets that the agent keeps open for it, over every restart.
    pub listen: Vec<Listen>,
    /// From TERM to KILL.
    pub stop_timeout: Duration,
    /// How long the old process of a handover may take to end after TERM.
    pub drain: Duration,
    /// User to run as.
    pub user: Option<ProcessUser>,
    /// Group to run as instead of the user's own.
    pub gid: Option<u32>,
    /// Working directory.
    pub cwd: Option<PathBuf>,
}

/// A user that a supervised process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessUser {
    /// Name, for supplementary groups; the number as text where it has no name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
}

/// `on_change` of a supervised process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnChange {
    /// Send it a signal.
    Signal(nix::sys::signal::Signal),
    /// Stop it, then start it anew.
    Restart,
    /// Start the new one beside the old one, which ends once the new one is committed.
    Handover,
}

/// How health is known.
#[derive(Clone)]
pub struct HealthConfig {
    /// What is asked.
    pub check: HealthCheck,
    /// Between attempts.
    pub interval: Duration,
    /// Bound on one attempt.
    pub timeout: Duration,
    /// Bound on becoming healthy.
    pub within: Duration,
    /// Passes in a row that make it healthy.
    pub successes: u32,
}

/// `health.type`.
#[derive(Clone)]
pub enum HealthCheck {
    /// Always healthy.
    None,
    /// An HTTP request; url, header values and body are templates over the generation's secrets.
    Http(HttpRequest),
    /// A TCP connect to `host:port`.
    Tcp(String),
    /// A command that exits 0.
    Command(Vec<String>),
    /// A unit that is active.
    Systemd(String),
}

/// An HTTP request and what must come back.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// URL (`http`, `https`, or `unix:/path/to/socket:/request/path`). Tera text.
    pub url: String,
    /// Method, by default GET.
    pub method: String,
    /// Headers; values are Tera text.
    pub headers: Vec<(String, String)>,
    /// Body, Tera text.
    pub body: Option<String>,
    /// Statuses that pass; by default 200.
    pub status: Vec<u16>,
    /// Text that the body must contain.
    pub body_contains: Option<String>,
    /// JSON pointer (RFC 6901) -> value that must stand there. A text value is Tera text.
    pub json: Vec<(String, serde_json::Value)>,
    /// CA file for https instead of the system's.
    pub ca_cert: Option<PathBuf>,
    /// Bound on one attempt (`verify`; for `health` the policy's own `timeout` stands here too).
    pub timeout: Duration,
    /// What is asked once this has passed (`health` only).
    pub confirm: Option<Box<Confirm>>,
}

/// `confirm` of an HTTP health check.
#[derive(Clone, PartialEq, Eq)]
pub struct Confirm {
    /// What is asked; it has no `confirm` of its own.
    pub request: HttpRequest,
    /// How many answers in a row, each over a connection of its own, must be as expected; at least 1.
    pub times: u32,
}

/// `on_unhealthy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnUnhealthy {
    /// Go back to the committed generation.
    Rollback,
    /// Leave the new one and wait for a human.
    Hold,
    /// Commit it all the same.
    Ignore,
}

/// `settle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settle {
    /// Quiet time that ends the wait.
    pub min: Duration,
    /// Bound on the wait.
    pub max: Duration,
}
