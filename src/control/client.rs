//! The side that asks: the commands. Blocking.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use serde::de::DeserializeOwned;

use super::{Answer, Reach, RefreshLine, Refusal, Request, TRANSFER_TIMEOUT};
use crate::state_dir::StateDir;
use crate::telemetry::view::{HistoryEntry, StatusView};

/// The largest answer that is taken, in bytes.
const LARGEST_ANSWER: u64 = 64 * 1024 * 1024;
/// How long an agent may take to answer what needs no work.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a question got no answer. [`ControlError::exit_code`] says what it means.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no agent runs on {}; start one with `agent run`", .state_dir.display())]
    NoAgent {
        /// Where.
        state_dir: PathBuf,
    },
    /// The system does not let this user ask.
    #[error("uid {uid} may not ask the agent on {}: ask as the user that the agent runs as, or as root", .state_dir.display())]
    Denied {
        /// Where.
        state_dir: PathBuf,
        /// Who asked.
        uid: u32,
    },
    /// The agent said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The agent is there and gives no whole answer.
    #[error("the agent on {} {what}", .state_dir.display())]
    NoAnswer {
        /// Where.
        state_dir: PathBuf,
        /// What it did instead.
        what: String,
    },
    /// The socket could not be used.
    #[error("cannot use the control socket {}: {source}", .path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ControlError {
    /// The exit code (sysexits.h).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoAgent { .. } | Self::NoAnswer { .. } => 69,
            Self::Denied { .. } => 77,
            Self::Refused(refusal) => refusal.exit,
            Self::Io { .. } => 74,
        }
    }
}

/// A connection to the agent that uses a state directory: for one question.
pub struct Client {
    stream: UnixStream,
    state_dir: PathBuf,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`ControlError::NoAgent`] where none listens (no socket, or one that an agent left behind), [`ControlError::Denied`]
    /// where the directory or the socket may not be entered.
    pub fn connect(state_dir: &Path) -> Result<Self, ControlError> {
        let fail = |source: io::Error| match Errno::from_io_error(&source) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::CONNREFUSED) => {
                ControlError::NoAgent { state_dir: state_dir.to_owned() }
            }
            Some(Errno::ACCESS | Errno::PERM) => {
                ControlError::Denied { state_dir: state_dir.to_owned(), uid: rustix::process::geteuid().as_raw() }
            }
            _ => ControlError::Io { path: StateDir::control_socket_of(state_dir), source },
        };
        let reach = Reach::new(state_dir).map_err(|errno| fail(errno.into()))?;
        let stream = UnixStream::connect(&reach.path).map_err(|source| {
            if reach.through_proc() && !Path::new("/proc/self/fd").exists() {
                let source =
                    io::Error::other("its path is longer than 107 bytes, which takes /proc, which is not mounted");
                return ControlError::Io { path: StateDir::control_socket_of(state_dir), source };
            }
            fail(source)
        })?;
        Ok(Self { stream, state_dir: state_dir.to_owned() })
    }

    /// What runs now. Waits 10 s at most.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn status(self) -> Result<StatusView, ControlError> {
        self.ask(&Request::Status {}, Some(ANSWER_TIMEOUT))
    }

    /// The last `count` rotations that ended, the newest last. Waits 10 s at most.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn history(self, target: Option<&str>, count: usize) -> Result<Vec<HistoryEntry>, ControlError> {
        self.ask(&Request::History { target: target.map(str::to_owned), count }, Some(ANSWER_TIMEOUT))
    }

    /// Reads secrets now; none: all. Waits until it is done.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn refresh(self, secrets: Vec<String>) -> Result<Vec<RefreshLine>, ControlError> {
        self.ask(&Request::Refresh { secrets }, None)
    }

    /// Goes back to a generation (by default the one before) and holds there. Waits until it is done.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn rollback(self, target: String, to: Option<u64>) -> Result<String, ControlError> {
        self.ask(&Request::Rollback { target, to }, None)
    }

    /// Lifts a hold or a quarantine. Waits until it is done.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn release(self, target: String) -> Result<String, ControlError> {
        self.ask(&Request::Release { target }, None)
    }

    fn ask<T: DeserializeOwned>(mut self, request: &Request, timeout: Option<Duration>) -> Result<T, ControlError> {
        let mut question = serde_json::to_vec(request).map_err(|error| self.io(error.into()))?;
        question.push(b'\n');
        self.stream.set_write_timeout(Some(TRANSFER_TIMEOUT)).map_err(|error| self.io(error))?;
        self.stream.set_read_timeout(timeout).map_err(|error| self.io(error))?;
        // An agent that refuses may answer and hang up before it has read everything: its answer says more than EPIPE.
        let asked = self.stream.write_all(&question);
        let mut line = Vec::new();
        let read = BufReader::new((&self.stream).take(LARGEST_ANSWER)).read_until(b'\n', &mut line);
        match read {
            Ok(_) if line.ends_with(b"\n") => {}
            Ok(_) if line.len() as u64 >= LARGEST_ANSWER => return Err(self.no_answer("answers without end")),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                let seconds = ANSWER_TIMEOUT.as_secs();
                return Err(self.no_answer(format!("does not answer within {seconds} s: see its log")));
            }
            Ok(_) | Err(_) => {
                let why = asked.and(read).err().map(|error| format!(" ({error})")).unwrap_or_default();
                return Err(self.no_answer(format!("hung up before it answered{why}: it stopped, or see its log")));
            }
        }
        match serde_json::from_slice(&line) {
            Ok(Answer::Done(answer)) => Ok(answer),
            Ok(Answer::Refused(refusal)) => Err(refusal.into()),
            Err(error) => Err(self.no_answer(format!(
                "gives an answer that this version ({}) does not understand: {error}; use the agent's own version",
                env!("CARGO_PKG_VERSION")
            ))),
        }
    }

    fn io(&self, source: io::Error) -> ControlError {
        ControlError::Io { path: StateDir::control_socket_of(&self.state_dir), source }
    }

    fn no_answer(&self, what: impl Into<String>) -> ControlError {
        ControlError::NoAnswer { state_dir: self.state_dir.clone(), what: what.into() }
    }
}
