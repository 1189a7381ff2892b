//! The audit file: one JSON object a line, appended and synced to disk; who did what to which secret and target, when;
//! never a value.
//!
//! A handle and one task. An event is on its way when [`Audit::record`] returns, and on disk soon after; on shutdown the
//! caller drops every handle and awaits the task. An audit file that cannot be written is a loud error, never a reason
//! to stop: lines wait (up to [`WAITING`]) until it can be written again, and how many were lost is an event itself.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::mpsc;

use super::mask::mask;

/// Lines kept while the file cannot be written.
pub const WAITING: usize = 1000;
/// Pause before a file that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What happened. Field names are the file's; texts are masked when recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The agent started.
    AgentStarted {
        /// Its version.
        agent_version: String,
    },
    /// The agent stopped.
    AgentStopped {
        /// Why: `SIGTERM`, the end of a supervised process, an error.
        reason: String,
    },
    /// The config was reloaded, or refused.
    ConfigReloaded {
        /// Why it was refused; None: it is in force.
        error: Option<String>,
    },
    /// A store gave another version of a secret.
    SecretChanged {
        /// The secret.
        secret: String,
        /// The version now.
        version: String,
        /// The version before, if one was known.
        previous: Option<String>,
    },
    /// A secret passed its `max_age`.
    SecretOverdue {
        /// The secret.
        secret: String,
        /// The version in use.
        version: String,
        /// Since when it is due.
        due_at: Timestamp,
    },
    /// A rotation began.
    RotationStarted {
        /// The target.
        target: String,
        /// The generation on trial.
        generation: u64,
        /// Secrets in it and their versions.
        secrets: BTreeMap<String, String>,
    },
    /// A rotation ended.
    RotationEnded {
        /// The target.
        target: String,
        /// The generation that was on trial.
        generation: u64,
        /// `committed`, `rolled_back`, `quarantined`, `held` or `superseded`.
        outcome: String,
        /// Why it did not commit.
        reason: Option<String>,
    },
    /// A target went back to an earlier generation.
    RolledBack {
        /// The target.
        target: String,
        /// From this generation.
        from: u64,
        /// To this one.
        to: u64,
        /// Who asked; None: the agent itself.
        actor: Option<Actor>,
    },
    /// A target is held where it is.
    Held {
        /// The target.
        target: String,
        /// At this generation.
        generation: Option<u64>,
        /// Who asked; None: the agent itself.
        actor: Option<Actor>,
    },
    /// A hold or a quarantine was lifted.
    Released {
        /// The target.
        target: String,
        /// Who asked.
        actor: Option<Actor>,
    },
    /// Secrets were read out of turn.
    Refreshed {
        /// Which; empty: all.
        secrets: Vec<String>,
        /// Who asked.
        actor: Option<Actor>,
    },
    /// Events were lost while the file could not be written.
    Lost {
        /// How many.
        count: u64,
    },
}

/// Who asked over the control socket (SO_PEERCRED, unix(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Actor {
    /// User id.
    pub uid: u32,
    /// Process id at the time of asking.
    pub pid: Option<i32>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    event: &'a Event,
}

/// The handle. Cheap to clone. Without a path nothing is recorded.
#[derive(Clone)]
pub struct Audit(Option<mpsc::UnboundedSender<String>>);

/// The task that owns the file; [`Writer::run`] ends when every handle is dropped.
pub struct Writer {
    lines: mpsc::UnboundedReceiver<String>,
    file: AuditFile,
}

impl Audit {
    /// A handle that records nothing: `audit` is not set.
    pub fn off() -> Self {
        Self(None)
    }

    /// A handle and its task. The file is opened by the task.
    pub fn to(path: PathBuf) -> (Self, Writer) {
        // Unbounded, because an event must not be lost to a moment's rush; the task drains it at once, and bounds what
        // waits for a file that cannot be written.
        let (sender, lines) = mpsc::unbounded_channel();
        (Self(Some(sender)), Writer { lines, file: AuditFile::new(path) })
    }

    /// Records an event that happened at `now`, masked. Never blocks or fails.
    pub fn record(&self, now: Timestamp, event: &Event) {
        let Some(sender) = &self.0 else { return };
        if let Some(line) = line(now, event)
            && sender.send(line).is_err()
        {
            tracing::error!("an audit event came after the audit file was closed");
        }
    }
}

fn line(now: Timestamp, event: &Event) -> Option<String> {
    let mut value = serde_json::to_value(Line { time: format!("{now:.3}"), event }).ok()?;
    masked(&mut value);
    Some(format!("{value}\n"))
}

/// Masks every text but the time and the event's name, before it is escaped: a line stays JSON.
fn masked(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => {
            if let std::borrow::Cow::Owned(clean) = mask(text) {
                *text = clean;
            }
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(masked),
        serde_json::Value::Object(map) => {
            map.iter_mut().filter(|(key, _)| !matches!(key.as_str(), "time" | "event")).for_each(|(_, v)| masked(v));
        }
        _ => {}
    }
}

impl Writer {
    /// Writes until every handle is dropped, and then what is left, once more.
    pub async fn run(mut self) {
        let mut waiting = VecDeque::new();
        let mut lost = 0;
        let mut open = true;
        let mut batch = Vec::new();
        while open {
            // While lines wait for a file that cannot be written, the next try comes by itself.
            let pause = if waiting.is_empty() { Duration::from_secs(86_400) } else { RETRY };
            match tokio::time::timeout(pause, self.lines.recv_many(&mut batch, 256)).await {
                Ok(0) => open = false,
                Ok(_) => waiting.extend(batch.drain(..)),
                Err(_) => {}
            }
            while waiting.len() > WAITING {
                waiting.pop_front();
                lost += 1;
            }
            if !waiting.is_empty() {
                self = self.write(&mut waiting, &mut lost).await;
            }
        }
        if !waiting.is_empty() {
            tracing::error!(lost = waiting.len() as u64 + lost, "audit events are lost: the agent stops");
        }
    }

    async fn write(mut self, waiting: &mut VecDeque<String>, lost: &mut u64) -> Self {
        let mut text = String::new();
        if *lost > 0 {
            text.push_str(&line(Timestamp::now(), &Event::Lost { count: *lost }).unwrap_or_default());
        }
        text.extend(waiting.iter().map(String::as_str));
        let path = self.file.path.clone();
        // fsync can take as long as the disk likes: not on the thread that everything else runs on.
        let done = tokio::task::spawn_blocking(move || {
            let result = self.file.append(text.as_bytes());
            (self, result)
        });
        match done.await {
            Ok((writer, Ok(()))) => {
                waiting.clear();
                *lost = 0;
                writer
            }
            Ok((writer, Err(error))) => {
                let path = path.display();
                tracing::error!(waiting = waiting.len(), "the audit file {path} cannot be written: {error}");
                writer
            }
            Err(_) => {
                // The blocking pool is gone (shutdown) and the receiver with it: nothing more can be written.
                let (_, lines) = mpsc::unbounded_channel();
                Self { lines, file: AuditFile::new(path) }
            }
        }
    }
}

/// The file, opened anew when it was renamed, removed or replaced (logrotate without copytruncate).
struct AuditFile {
    path: PathBuf,
    open: Option<File>,
    /// Whether the file may end in a part of a line: a write failed half-way, or a crash cut one off.
    torn: bool,
}

impl AuditFile {
    fn new(path: PathBuf) -> Self {
        Self { path, open: None, torn: false }
    }

    fn append(&mut self, text: &[u8]) -> std::io::Result<()> {
        let mut file = match self.open.take() {
            Some(file) if is_at(&file, &self.path) => file,
            _ => self.reopen()?,
        };
        let begun = if self.torn { file.write_all(b"\n") } else { Ok(()) };
        self.torn = true;
        begun.and_then(|()| file.write_all(text)).and_then(|()| file.sync_data())?;
        self.torn = false;
        self.open = Some(file);
        Ok(())
    }

    fn reopen(&mut self) -> std::io::Result<File> {
        // O_NOFOLLOW: a link could send the audit elsewhere. O_NONBLOCK: a FIFO would hang the open.
        let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(flags.bits())
            .open(&self.path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(std::io::Error::other("it is not a regular file"));
        }
        self.torn = false;
        if metadata.len() > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            self.torn = last != *b"\n";
        } else if let Some(folder) = self.path.parent() {
            // A new file's name is on disk only when its folder is. Some file systems cannot sync folders.
            let _ = File::open(folder).and_then(|folder| folder.sync_all());
        }
        Ok(file)
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}
