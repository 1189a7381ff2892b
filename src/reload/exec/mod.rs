//! `type: exec`: a process that the agent starts, watches, signals and ends.
//!
//! It leads a process group of its own. Its pid is on disk before its program runs, and its environment carries a mark,
//! so that an agent that was killed finds it again ([`sweep_leftovers`]); it is told TERM when the agent dies. Nothing is
//! started while anything of the one before is left. Restarting one that dies by itself is the caller's, who asks
//! [`next_restart`] when: this module only says that it [`died`](Reload::died).
//!
//! The futures must be polled on the agent's main thread: the kernel takes the end of the thread that started the
//! process for the end of the agent (prctl(2), PR_SET_PDEATHSIG).

mod backoff;
mod leftover;
mod record;
mod spawn;
mod trampoline;
mod wire;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, Uid, User};
use tokio::time::timeout;

use super::signal::signal_and_watch;
use super::{Change, Context, Exit, Reload, ReloadError, Taken};
use crate::config::model::{ExecReload, OnChange};
use crate::process::pidfd::Pidfd;
use crate::process::reap;
use crate::secret::SecretBytes;

pub use backoff::next_restart;
pub use leftover::{Leftover, MARK, sweep_leftovers};
pub use trampoline::{TRAMPOLINE, is_trampoline, trampoline_main};

use leftover::Quarry;
use record::Record;
use spawn::Running;
use wire::Instructions;

/// How long a process whose group was ended may take to be reaped.
const REAP_WAIT: Duration = Duration::from_secs(5);

/// What a supervised process reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdin {
    /// Nothing.
    Null,
    /// What the agent would read. On a terminal the process becomes its foreground group, as under a shell.
    Inherit,
}

/// Passes signals on to the process that runs at the moment. Cheap to clone.
#[derive(Clone, Default)]
pub struct Forward(Arc<Mutex<Option<Arc<Pidfd>>>>);

impl Forward {
    /// Sends the signal to the process itself, not to its group. False: none runs.
    pub fn send(&self, signal: Signal) -> std::io::Result<bool> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match held.map(|pidfd| pidfd.send(signal)) {
            None => Ok(false),
            Some(Err(error)) if error.raw_os_error() == Some(nix::libc::ESRCH) => Ok(false),
            Some(sent) => sent.map(|()| true),
        }
    }

    fn set(&self, pidfd: Option<Arc<Pidfd>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = pidfd;
    }
}

/// What is started, and how.
struct Process {
    config: ExecReload,
    context: Context,
    mark: String,
    /// HOME, USER, LOGNAME and SHELL of the user that it is switched to.
    login: Vec<(String, String)>,
}

impl Process {
    fn name(&self) -> String {
        format!("process `{}`", self.config.command.first().map_or("", String::as_str))
    }

    fn instructions(&self) -> Instructions {
        let config = &self.config;
        Instructions {
            argv: config.command.clone(),
            user: config.user.as_ref().map(|user| (user.name.clone(), user.uid, user.gid)),
            gid: config.gid,
            cwd: config.cwd.clone(),
            core: self.context.original_core,
            agent: std::process::id(),
            foreground: self.has_terminal(),
        }
    }

    fn has_terminal(&self) -> bool {
        self.context.stdin == Stdin::Inherit && std::io::stdin().is_terminal()
    }

    fn state_dir(&self) -> PathBuf {
        self.context.state_dir.clone()
    }
}

/// systemd.exec(5) sets the same for `User=`: the agent's own HOME is not the place for another user's files.
fn login(config: &ExecReload) -> Vec<(String, String)> {
    let switched = config.user.as_ref().filter(|user| user.uid != nix::unistd::geteuid().as_raw());
    let Some(user) = switched.and_then(|user| User::from_uid(Uid::from_raw(user.uid)).ok().flatten()) else {
        return Vec::new();
    };
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    [("HOME", text(user.dir)), ("SHELL", text(user.shell)), ("USER", user.name.clone()), ("LOGNAME", user.name)]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
}

/// Supervises one process.
pub(super) struct Exec {
    process: Process,
    running: Option<Running>,
    /// Digest of the `env` that the running process was started with.
    env: String,
    /// An end that `died` has not told of yet.
    untold: Option<Exit>,
    forward: Forward,
}

impl Exec {
    pub(super) fn new(config: ExecReload, context: Context) -> Self {
        let mark = leftover::mark(&context.key, &context.state_dir, &context.target);
        let process = Process { login: login(&config), config, context, mark };
        Self { process, running: None, env: String::new(), untold: None, forward: Forward::default() }
    }

    async fn take_up(&mut self, change: Change<'_>) -> Result<Taken, ReloadError> {
        self.notice();
        let env = self.digest(change.env);
        let Some(running) = &self.running else { return self.start(&change, env).await };
        match self.process.config.on_change {
            _ if env == self.env && !change.files_changed => Ok(Taken::Done),
            OnChange::Signal(signal) if env == self.env => {
                let (pid, pidfd) = (running.pid, Arc::clone(&running.pidfd));
                let told = signal_and_watch(pid, &pidfd, signal).await;
                self.notice();
                match told {
                    // It died before it could be told: then it reads everything anew.
                    Ok(Taken::NotRunning) => self.start(&change, env).await,
                    told => told,
                }
            }
            OnChange::Signal(_) | OnChange::Restart | OnChange::Handover => {
                self.end().await?;
                self.start(&change, env).await
            }
        }
    }

    fn digest(&self, env: &[(String, SecretBytes)]) -> String {
        let digest = self.process.context.key.digest("supervised-env");
        env.iter().fold(digest, |digest, (name, value)| digest.part(name.as_bytes()).part(value.expose())).hex(32)
    }

    /// Only ever called with nothing running: what is left of earlier ones is ended first.
    async fn start(&mut self, change: &Change<'_>, env: String) -> Result<Taken, ReloadError> {
        let (state_dir, target) = (self.process.state_dir(), self.process.context.target.clone());
        let record = Record::read(&state_dir, &target)
            .map_err(|e| ReloadError::failed(format!("cannot read which process ran before: {e}")))?;
        let left = self.quarry(record).end(self.process.config.stop_timeout).await?;
        if left > 0 {
            tracing::info!(target_name = %target, processes = left, "ended what an earlier process had left behind");
        }
        let running = spawn::start(&self.process, change.env).await?;
        tracing::info!(target_name = %target, generation = change.generation, pid = running.pid, "process started");
        self.forward.set(Some(Arc::clone(&running.pidfd)));
        self.untold = None;
        self.env = env;
        self.running = Some(running);
        Ok(Taken::Done)
    }

    fn quarry(&self, record: Option<Record>) -> Quarry {
        Quarry { record, mark: self.process.mark.clone(), any: false }
    }

    /// Ends the process, its group and its marked descendants, and reaps it.
    async fn end(&mut self) -> Result<Option<Exit>, ReloadError> {
        let stop_timeout = self.process.config.stop_timeout;
        let Some(running) = &mut self.running else {
            let record = Record::read(&self.process.context.state_dir, &self.process.context.target).ok().flatten();
            self.quarry(record).end(stop_timeout).await?;
            self.forget_record();
            return Ok(self.untold.take());
        };
        let (pid, record) = (running.pid, running.record.clone());
        self.quarry(Some(record)).end(stop_timeout).await?;
        let Some(running) = &mut self.running else { return Ok(None) };
        let exit = match timeout(REAP_WAIT, running.reap()).await {
            Ok(exit) => exit,
            // Its first thread has ended, others have not: /proc shows it as a zombie.
            Err(_) => {
                let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
                timeout(REAP_WAIT, running.reap()).await.map_err(|_| {
                    let text = format!("{} (pid {pid}) was killed but does not end", self.process.name());
                    ReloadError::timed_out(text)
                })?
            }
        };
        self.gone();
        reap::reap_orphans();
        self.forget_record();
        Ok(Some(exit.unwrap_or_else(|error| unknown(&error))))
    }

    /// Takes note of a process that has ended.
    fn notice(&mut self) {
        if let Some(exit) = self.running.as_mut().and_then(Running::ended) {
            self.untold = Some(exit);
            self.gone();
        }
    }

    fn gone(&mut self) {
        self.running = None;
        self.forward.set(None);
        if self.process.has_terminal() {
            trampoline::take_terminal(rustix::process::getpgrp());
        }
    }

    fn forget_record(&self) {
        let context = &self.process.context;
        if let Err(error) = Record::remove(&context.state_dir, &context.target) {
            // It names a process that is gone, which the next look finds out.
            tracing::warn!(target_name = %context.target, %error, "cannot remove process.json");
        }
    }
}

/// Its status was taken by somebody else.
fn unknown(error: &std::io::Error) -> Exit {
    tracing::error!(%error, "the exit status of a supervised process was lost");
    Exit::Code(255)
}

impl Reload for Exec {
    /// Starts it where it does not run; else as `on_change` says. `Done` of a start means that the program runs, not that
    /// it is well.
    fn apply<'a>(&'a mut self, change: Change<'a>) -> BoxFuture<'a, Result<Taken, ReloadError>> {
        Box::pin(self.take_up(change))
    }

    fn running(&mut self) -> BoxFuture<'_, Result<bool, ReloadError>> {
        self.notice();
        Box::pin(async { Ok(self.running.is_some()) })
    }

    fn died(&mut self) -> BoxFuture<'_, Exit> {
        Box::pin(async {
            if let Some(exit) = self.untold.take() {
                return exit;
            }
            let Some(running) = &mut self.running else { return std::future::pending().await };
            let exit = running.reap().await.unwrap_or_else(|error| unknown(&error));
            self.gone();
            exit
        })
    }

    fn stop(&mut self) -> BoxFuture<'_, Result<Option<Exit>, ReloadError>> {
        Box::pin(self.end())
    }

    fn forward(&self) -> Option<Forward> {
        Some(self.forward.clone())
    }
}
