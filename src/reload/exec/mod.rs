//! `type: exec`: a process that the agent starts, watches, signals and ends.
//!
//! It leads a process group of its own. Its pid is on disk before its program runs, and its environment carries a mark,
//! so that an agent that was killed finds it again ([`sweep_leftovers`]); it is told TERM when the agent dies. Nothing is
//! started while anything of the one before is left, but for `on_change: handover` (handover.rs): there two may run, never
//! three, and what serves outlives the agent. Restarting one that dies by itself is the caller's, who asks
//! [`next_restart`] when: this module only says that it [`died`](Reload::died).
//!
//! The futures must be polled on the agent's main thread: the kernel takes the end of the thread that started the
//! process for the end of the agent (prctl(2), PR_SET_PDEATHSIG).

mod adopt;
mod backoff;
mod beside;
mod handover;
mod leaving;
mod leftover;
mod record;
mod sockets;
mod spawn;
mod trampoline;
mod wire;

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};

use super::signal::signal_and_watch;
use super::{Change, Context, Exit, Reload, ReloadError, Taken};
use crate::config::model::{ExecReload, OnChange, ReloadConfig};
use crate::process::pidfd::Pidfd;
use crate::process::reap;
use crate::secret::SecretBytes;

pub use backoff::next_restart;
pub use leftover::{Leftover, MARK, sweep_leftovers};
pub use sockets::Sockets;
pub use trampoline::{TRAMPOLINE, is_trampoline, trampoline_main};

use beside::{Beside, Retired};
use handover::stopping;
use leaving::Leaving;
use leftover::{Except, Marks, Quarry};
use record::{Record, Slot};
use sockets::Kept;
use spawn::{Running, Start, reaped, reaped_if};
use wire::Instructions;

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
            umask: self.context.original_umask,
            agent: std::process::id(),
            foreground: self.has_terminal(),
            // It serves on until the next agent has something better.
            outlives: self.config.on_change == OnChange::Handover,
            listen: Vec::new(),
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

/// Supervises one process, or two while one takes the other's place.
pub(super) struct Exec {
    process: Process,
    /// The newest process.
    running: Option<Running>,
    /// The process that serves while the newest one is on trial beside it.
    before: Option<Running>,
    /// What an agent that was killed left serving: until a new process is settled.
    orphan: Option<Record>,
    /// Whether such was looked for.
    looked: bool,
    /// What ends in the background.
    leaving: Vec<Leaving>,
    /// The sockets of `listen` that are open: of the process that serves.
    sockets: Vec<Arc<Kept>>,
    /// Those of the process on trial.
    beside: Option<Beside>,
    /// An end that `died` has not told of yet.
    untold: Option<Exit>,
    forward: Forward,
}

impl Exec {
    pub(super) fn new(config: ExecReload, context: Context) -> Self {
        let mark = leftover::mark(&context.key, &context.state_dir, &context.target);
        let sockets = context.sockets.claim(&context.target, &config.listen);
        let process = Process { login: login(&config), config, context, mark };
        Self {
            process,
            running: None,
            before: None,
            orphan: None,
            looked: false,
            leaving: Vec::new(),
            sockets,
            beside: None,
            untold: None,
            forward: Forward::default(),
        }
    }

    async fn take_up(&mut self, change: Change<'_>) -> Result<Taken, ReloadError> {
        self.notice();
        let env = self.digest(change.env);
        if self.hands_over() {
            return self.hand_over(&change, env).await;
        }
        let Some(running) = &self.running else { return self.start(&change, env, Slot::Serving).await };
        match self.process.config.on_change {
            _ if env == running.env && !change.files_changed => Ok(Taken::Done),
            OnChange::Signal(signal) if env == running.env => {
                let (pid, pidfd) = (running.pid, Arc::clone(&running.pidfd));
                let told = signal_and_watch(pid, &pidfd, signal).await;
                self.notice();
                match told {
                    // It died before it could be told: then it reads everything anew.
                    Ok(Taken::NotRunning) => self.start(&change, env, Slot::Serving).await,
                    told => told,
                }
            }
            OnChange::Signal(_) | OnChange::Restart | OnChange::Handover => {
                let _until_it_has_ended = self.turn_away().await;
                let ended = self.end().await?;
                if self.process.context.stop.is_cancelled() {
                    self.untold = ended;
                    return Err(stopping());
                }
                self.start(&change, env, Slot::Serving).await
            }
        }
    }

    fn digest(&self, env: &[(String, SecretBytes)]) -> String {
        let digest = self.process.context.key.digest("supervised-env");
        env.iter().fold(digest, |digest, (name, value)| digest.part(name.as_bytes()).part(value.expose())).hex(32)
    }

    /// Only ever called with nothing running but what is to be taken over from: what is left of earlier ones is ended first.
    async fn start(&mut self, change: &Change<'_>, env: String, slot: Slot) -> Result<Taken, ReloadError> {
        let (state_dir, target) = (self.process.state_dir(), self.process.context.target.clone());
        let records = leftover::records(&state_dir, &target)
            .map_err(|e| ReloadError::failed(format!("cannot read which process ran before: {e}")))?;
        let left = self.quarry(records).end(self.process.config.stop_timeout).await?;
        if left > 0 {
            tracing::info!(target_name = %target, processes = left, "ended what an earlier process had left behind");
        }
        self.open_sockets()?;
        if slot == Slot::Trial {
            // One beside another at most.
            self.beside = None;
            let serving = self.before.as_ref().map(|running| &running.record).or(self.orphan.as_ref());
            self.beside = Some(Beside::open(&self.sockets, serving));
        }
        let (mark, private) = self.own()?;
        let sockets = self.beside.as_ref().map_or(self.sockets.as_slice(), Beside::sockets);
        let start = Start {
            env: change.env,
            digest: env,
            mark,
            generation: change.generation,
            slot,
            public: sockets.iter().map(|kept| kept.as_fd()).collect(),
            private,
        };
        let running = spawn::start(&self.process, start).await?;
        tracing::info!(target_name = %target, generation = change.generation, pid = running.pid, "process started");
        if self.before.is_none() {
            self.forward.set(Some(Arc::clone(&running.pidfd)));
        }
        self.untold = None;
        self.running = Some(running);
        Ok(Taken::Done)
    }

    /// Opens the sockets of `listen` that are not open yet, in their order.
    fn open_sockets(&mut self) -> Result<(), ReloadError> {
        let (listen, context) = (&self.process.config.listen, &self.process.context);
        let mut sockets = Vec::new();
        for address in listen {
            let kept = match self.sockets.iter().find(|kept| kept.address == *address) {
                Some(kept) => Arc::clone(kept),
                None => Arc::new(Kept::open(address, listen)?),
            };
            context.sockets.keep(&context.target, &kept);
            sockets.push(kept);
        }
        self.sockets = sockets;
        Ok(())
    }

    /// Everything of the target but what serves, or is on its way out.
    fn quarry(&self, records: Vec<Record>) -> Quarry {
        let serving = self.before.iter().map(|running| &running.record).chain(&self.orphan);
        let spared = serving.chain(self.leaving.iter().map(|leaving| &leaving.record));
        let except = spared.cloned().map(Except::Process).collect();
        Quarry { records, marks: Marks::Target(self.process.mark.clone()), except }
    }

    /// Ends every process of the target, its group and its marked descendants, and reaps it.
    async fn end(&mut self) -> Result<Option<Exit>, ReloadError> {
        let stop_timeout = self.process.config.stop_timeout;
        for leaving in &self.leaving {
            leaving.within(stop_timeout);
        }
        let context = &self.process.context;
        let records = leftover::records(&context.state_dir, &context.target).unwrap_or_default();
        let mut quarry = self.quarry(records);
        let ours =
            self.running.iter().chain(&self.before).map(|running| running.record.clone()).chain(self.orphan.take());
        quarry.records.extend(ours);
        quarry.except = self.leaving.iter().map(|leaving| Except::Process(leaving.record.clone())).collect();
        quarry.end(stop_timeout).await?;
        let mut exit = self.untold.take();
        for ended in [self.running.as_mut(), self.before.as_mut()].into_iter().flatten() {
            exit = Some(reaped(&self.process.name(), ended).await?);
        }
        (self.running, self.before, self.beside) = (None, None, None);
        self.gone();
        for leaving in std::mem::take(&mut self.leaving) {
            leaving.gone().await;
        }
        reap::reap_orphans();
        self.forget_records();
        Ok(exit)
    }

    /// Takes note of processes that have ended.
    fn notice(&mut self) {
        if let Some(exit) = self.running.as_mut().and_then(Running::ended) {
            self.untold = Some(exit);
            self.died_by_itself();
        }
        self.notice_before();
        self.notice_orphan();
        self.leaving.retain(|leaving| !leaving.is_gone());
    }

    fn died_by_itself(&mut self) {
        let running = self.running.take();
        self.beside = None;
        if let Some(running) = running.filter(|_| self.before.is_some() || self.orphan.is_some()) {
            // What it left must not serve on; where nothing else serves, the next start ends that first.
            self.leave(running, Duration::ZERO, Retired::none());
        }
        self.gone();
    }

    /// The newest process is gone: signals go to the one that is left, if one is.
    fn gone(&mut self) {
        self.forward.set(self.before.as_ref().map(|before| Arc::clone(&before.pidfd)));
        if self.process.has_terminal() {
            trampoline::take_terminal(rustix::process::getpgrp());
        }
    }

    fn forget_records(&self) {
        let context = &self.process.context;
        sockets::forget_private(&context.state_dir, &context.target);
        if let Err(error) = Record::remove_all(&context.state_dir, &context.target) {
            // It names a process that is gone, which the next look finds out.
            tracing::warn!(target_name = %context.target, %error, "cannot remove process.json");
        }
    }
}

impl Reload for Exec {
    /// Starts it where it does not run; else as `on_change` says. `Done` of a start means that the program runs, not that
    /// it is well.
    fn apply<'a>(&'a mut self, change: Change<'a>) -> BoxFuture<'a, Result<Taken, ReloadError>> {
        Box::pin(self.take_up(change))
    }

    fn running(&mut self) -> BoxFuture<'_, Result<bool, ReloadError>> {
        self.notice();
        Box::pin(async { Ok(self.running.is_some() || self.before.is_some() || self.orphan.is_some()) })
    }

    fn died(&mut self) -> BoxFuture<'_, Exit> {
        Box::pin(async {
            if let Some(exit) = self.untold.take() {
                return exit;
            }
            let exit = loop {
                tokio::select! {
                    exit = reaped_if(&mut self.running) => break exit,
                    _ = reaped_if(&mut self.before) => self.notice_before(),
                }
            };
            self.died_by_itself();
            exit
        })
    }

    fn stop(&mut self) -> BoxFuture<'_, Result<Option<Exit>, ReloadError>> {
        Box::pin(self.end())
    }

    fn halt(&mut self) -> BoxFuture<'_, Result<Option<Exit>, ReloadError>> {
        Box::pin(self.halt_trial())
    }

    fn settle(&mut self, generation: u64) {
        if self.hands_over() {
            self.settle_on(generation);
        }
    }

    fn rebound(&mut self, config: &ReloadConfig) {
        if let ReloadConfig::Exec(config) = config {
            let ExecReload { drain, stop_timeout, .. } = *config;
            self.process.config = ExecReload { drain, stop_timeout, ..self.process.config.clone() };
        }
    }

    fn drained(&self) -> Option<BoxFuture<'static, ()>> {
        let leaving: Vec<_> = self.leaving.iter().filter(|leaving| !leaving.is_gone()).map(Leaving::end).collect();
        if leaving.is_empty() { None } else { Some(Box::pin(async { drop(join_all(leaving).await) })) }
    }

    fn private(&self) -> Option<PathBuf> {
        self.running.as_ref().and_then(Running::private)
    }

    fn forward(&self) -> Option<Forward> {
        Some(self.forward.clone())
    }
}
