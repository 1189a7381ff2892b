//! A driver's loop: wait for what happens, feed the machine, begin what it says.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::hands::{Hands, load_journal};
use super::inputs::Inputs;
use super::operation::{Answer, name};
use super::record::Record;
use super::{Assignment, Command, DriverError, Refused, Surroundings, view};
use crate::config::model::{ExecReload, ReloadConfig, TargetConfig};
use crate::generation::{GenerationId, Generations};
use crate::journal::JournalFile;
use crate::probe;
use crate::process::{Exit, Inherit};
use crate::reload::{self, exec};
use crate::rotation::{Digest, Effect, Event, Phase, Plan, Policy, Retry, State, recover, step};
use crate::state_dir::StateDir;
use crate::telemetry::audit::Actor;
use crate::telemetry::view::TargetView;

/// How often a target that is not running yet is looked for.
const APPEARANCE: Duration = Duration::from_secs(1);
/// The first and the longest wait between attempts that fail for now.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How a driver ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// How its supervised process ended, if it had one.
    pub exit: Option<Exit>,
    /// Whether the process ended by itself, and the driver with it.
    pub by_itself: bool,
}

type Flight = BoxFuture<'static, (Hands, Answer, &'static str, Duration)>;

/// What the loop woke up for.
enum Woken {
    Answered(Box<(Hands, Answer, &'static str, Duration)>),
    Stop,
    Asked(Command),
    Inputs(bool),
    Timer,
    Died(Exit),
    Appeared,
}

pub(super) struct Life {
    assignment: Assignment,
    surroundings: Surroundings,
    context: reload::Context,
    state: State,
    hands: Option<Hands>,
    flight: Option<Flight>,
    inputs: Option<Arc<Inputs>>,
    closed: bool,
    commands: mpsc::Receiver<Command>,
    reassign: Option<(Box<Assignment>, oneshot::Sender<()>)>,
    timer: Option<Instant>,
    stop: CancellationToken,
    stopped: bool,
    record: Record,
    view: Arc<Mutex<TargetView>>,
    changed: watch::Sender<u64>,
    forward: Arc<Mutex<Option<exec::Forward>>>,
    started_at: Option<Instant>,
    restart_wait: Option<Duration>,
    by_itself: Option<Exit>,
}

type Made = (Life, Arc<Mutex<TargetView>>, watch::Receiver<u64>);

impl Life {
    pub fn new(
        assignment: Assignment,
        state_dir: &StateDir,
        surroundings: Surroundings,
        commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) -> Result<Made, DriverError> {
        let target = Arc::clone(&assignment.target);
        let name = target.name.to_string();
        let state_error = |source| DriverError::State { target: name.clone(), source };
        let dir = state_dir.make_target(&name).map_err(state_error)?;
        let generations = Generations::open(&state_dir.generations(&name), state_dir.key()).map_err(state_error)?;
        let file = JournalFile::new(&dir);
        let journal = load_journal(&file).map_err(state_error)?;
        let context = context_for(&target, &surroundings.reload);
        let reload = reload::build(&target.reload, &context)
            .map_err(|source| DriverError::Reload { target: name.clone(), source })?;
        let forward = Arc::new(Mutex::new(reload.forward()));
        let committed = journal.committed.and_then(|c| generations.manifest(GenerationId(c.generation)).ok());
        let mut record = Record::open(&dir, &name, committed, &surroundings).map_err(state_error)?;
        let hands = Hands {
            target: Arc::clone(&target),
            generations,
            journal: Arc::new(file),
            saved: journal.clone(),
            reload,
            probe: probe_context(&context),
            staged: None,
            loaded: None,
            clock: Arc::clone(&surroundings.clock),
            stop: stop.clone(),
            files_only: surroundings.files_only,
            last_exit: None,
        };
        let (state, effects) = recover(journal, policy(&target, surroundings.files_only), false);
        if let Phase::Back(_, Plan { failed: Some(failed), .. }) = state.phase {
            record.never_judged(failed.generation);
        }
        let view = Arc::new(Mutex::new(view::of(&state, &record, surroundings.files_only)));
        let (changed, changes) = watch::channel(0);
        let mut life = Self {
            assignment,
            surroundings,
            context,
            state,
            hands: Some(hands),
            flight: None,
            inputs: None,
            closed: false,
            commands,
            reassign: None,
            timer: None,
            stop,
            stopped: false,
            record,
            view: Arc::clone(&view),
            changed,
            forward,
            started_at: None,
            restart_wait: None,
            by_itself: None,
        };
        life.carry(effects);
        Ok((life, view, changes))
    }

    pub fn forward(&self) -> Arc<Mutex<Option<exec::Forward>>> {
        Arc::clone(&self.forward)
    }

    pub async fn run(mut self) -> Ended {
        self.take_inputs();
        loop {
            self.show();
            if self.stopped && self.flight.is_none() {
                return self.end().await;
            }
            match self.woken().await {
                Woken::Answered(answered) => self.answered(*answered),
                Woken::Stop => self.feed(Event::Stop),
                Woken::Asked(command) => self.asked(command),
                Woken::Inputs(open) => {
                    self.closed = !open;
                    self.take_inputs();
                }
                Woken::Timer => {
                    self.timer = None;
                    self.feed(Event::Timer);
                }
                Woken::Died(exit) => self.died(exit),
                Woken::Appeared => self.feed(Event::Appeared),
            }
            self.reassigned().await;
        }
    }

    async fn woken(&mut self) -> Woken {
        let Self { flight, hands, commands, stop, state, timer, assignment, closed, .. } = self;
        let waiting = state.phase == Phase::Rest && state.journal.committed.is_some_and(|c| !c.proven);
        let waiting = waiting && !self.surroundings.files_only;
        let (timer, closed) = (*timer, *closed);
        tokio::select! {
            biased;
            answered = in_flight(flight) => Woken::Answered(Box::new(answered)),
            () = stop.cancelled(), if !state.stopping => Woken::Stop,
            Some(command) = commands.recv() => Woken::Asked(command),
            changed = assignment.snapshots.changed(), if !closed => Woken::Inputs(changed.is_ok()),
            () = until(timer) => Woken::Timer,
            seen = watched(hands, waiting) => seen,
        }
    }

    /// Takes the newest snapshot up, if there is one.
    fn take_inputs(&mut self) {
        let snapshot = self.assignment.snapshots.borrow_and_update().clone();
        if let Some(snapshot) = snapshot {
            let inputs = Inputs::new(Arc::clone(&self.assignment.renderer), snapshot);
            let digest = inputs.digest;
            self.inputs = Some(Arc::new(inputs));
            self.feed(Event::Snapshot(digest));
        }
    }

    fn feed(&mut self, event: Event) {
        let (state, effects) = step(self.state.clone(), event);
        self.state = state;
        self.carry(effects);
    }

    fn carry(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Report(report) => {
                    let inputs = self.hands.as_ref().and_then(|h| h.staged.clone());
                    self.record.ended(report, inputs, &self.state);
                }
                Effect::Wait { attempt } => self.timer = Some(Instant::now() + self.wait_for(attempt)),
                Effect::Stopped => self.stopped = true,
                operation => self.begin(operation),
            }
        }
        if !matches!(self.state.phase, Phase::Waiting(_)) {
            self.timer = None;
        }
    }

    fn begin(&mut self, operation: Effect) {
        let Some(mut hands) = self.hands.take() else {
            tracing::error!(target_name = %self.record.target, "two operations at once: this is a bug, please report it");
            return;
        };
        let step = name(&operation).unwrap_or("nothing");
        match &operation {
            Effect::Stage(_) => self.record.begin(),
            Effect::Reload { .. } => self.started_at = Some(Instant::now()),
            _ => {}
        }
        tracing::debug!(target_name = %self.record.target, step, "begins");
        let inputs = self.inputs.clone();
        self.flight = Some(Box::pin(async move {
            let began = Instant::now();
            let answer = hands.perform(operation, inputs).await;
            (hands, answer, step, began.elapsed())
        }));
    }

    fn answered(&mut self, (hands, answer, step, took): (Hands, Answer, &'static str, Duration)) {
        self.record.step(step, took);
        if let Some(reason) = &answer.reason {
            self.record.failed(step, &reason.text);
        }
        match answer.event {
            Event::Staged(generation) => self.record.staged(generation, hands.staged.as_ref().map(|(_, i)| i)),
            Event::Published { .. } => self.record.published(hands.loaded.as_ref().map(|(_, r)| r.as_ref())),
            _ => {}
        }
        let died = hands.last_exit;
        self.hands = Some(hands);
        self.feed(answer.event);
        let alone = matches!(self.state.phase, Phase::Waiting(Retry::Forward(..) | Retry::Back(_)));
        if let (true, true, Some(exit)) = (self.surroundings.ends_with_process, alone, died) {
            self.end_with(exit);
        }
    }

    fn died(&mut self, exit: Exit) {
        let target = &self.record.target;
        if self.surroundings.ends_with_process {
            tracing::info!(target_name = %target, "the process ended: {}", exit);
            return self.end_with(exit);
        }
        let lived = self.started_at.map_or(Duration::ZERO, |at| at.elapsed());
        let wait = exec::next_restart(self.restart_wait, lived);
        self.restart_wait = Some(wait);
        let reason = format!("the process ended by itself ({}); it is started again in {wait:?}", exit);
        self.record.failed("process", &reason);
        self.feed(Event::Died);
        if matches!(self.state.phase, Phase::Waiting(_)) {
            self.timer = Some(Instant::now() + wait);
        }
    }

    fn end_with(&mut self, exit: Exit) {
        self.by_itself = Some(exit);
        self.feed(Event::Stop);
    }

    fn asked(&mut self, command: Command) {
        match command {
            Command::Release { actor, reply } => {
                let text = self.record.released(actor, &self.state);
                self.feed(Event::Release);
                let _gone = reply.send(text);
            }
            Command::Rollback { to, actor, reply } => {
                let _gone = reply.send(self.rollback(to, actor));
            }
            Command::Reassign { assignment, reply } => self.reassign = Some((assignment, reply)),
        }
    }

    fn rollback(&mut self, to: Option<u64>, actor: Actor) -> Result<String, Refused> {
        let (generation, inputs) = view::rollback_to(&self.state, to)
            .and_then(|generation| Ok((generation, self.record.inputs_of(generation)?)))
            .map_err(|message| Refused { exit: 66, message })?;
        let digest = u64::from_str_radix(&inputs, 16).map(Digest).unwrap_or(Digest(0));
        self.record.rolling_back(generation, actor, &self.state);
        self.feed(Event::Rollback(generation, digest));
        Ok(format!("target {}: going back to generation {generation}, and holding there", self.record.target))
    }

    /// Takes a new config up as soon as nothing is in flight.
    async fn reassigned(&mut self) {
        if self.hands.is_none() || self.reassign.is_none() {
            return;
        }
        let Some((assignment, reply)) = self.reassign.take() else { return };
        let target = Arc::clone(&assignment.target);
        let other_reload = !same_reload(&self.assignment.target.reload, &target.reload);
        self.state.policy = policy(&target, self.surroundings.files_only);
        self.assignment = *assignment;
        self.closed = false;
        self.context = context_for(&target, &self.surroundings.reload);
        if let Some(hands) = &mut self.hands {
            hands.probe = probe_context(&self.context);
            hands.target = Arc::clone(&target);
            if other_reload {
                self.other_reload(&target).await;
            }
        }
        self.take_inputs();
        let _gone = reply.send(());
    }

    /// The way of telling the process is another now. A supervised process is ended, and started anew as configured.
    async fn other_reload(&mut self, target: &TargetConfig) {
        let Some(hands) = &mut self.hands else { return };
        match reload::build(&target.reload, &self.context) {
            Ok(built) => {
                if let Err(error) = hands.reload.stop().await {
                    self.record.failed("stop", &error.message);
                }
                hands.reload = built;
                *self.forward.lock().unwrap_or_else(PoisonError::into_inner) = hands.reload.forward();
                if self.state.journal.committed.is_some() {
                    self.feed(Event::Died);
                }
            }
            Err(error) => self.record.failed("reload", &error.message),
        }
    }

    fn wait_for(&self, attempt: u32) -> Duration {
        let (floor, cap) = BACKOFF;
        let base = floor.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(cap);
        base.mul_f64(0.75 + 0.5 * (self.surroundings.dice)())
    }

    fn show(&mut self) {
        let shown = view::of(&self.state, &self.record, self.surroundings.files_only);
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        if *view != shown {
            *view = shown;
            self.changed.send_modify(|n| *n += 1);
        }
    }

    async fn end(mut self) -> Ended {
        let mut exit = self.by_itself;
        if let Some(hands) = &mut self.hands
            && !self.surroundings.files_only
        {
            match hands.reload.stop().await {
                Ok(stopped) => exit = exit.or(stopped),
                Err(error) => tracing::error!(target_name = %self.record.target, "{error}"),
            }
        }
        if let Some((_, reply)) = self.reassign.take() {
            let _gone = reply.send(());
        }
        Ended { exit, by_itself: self.by_itself.is_some() }
    }
}

fn policy(target: &TargetConfig, files_only: bool) -> Policy {
    let supervised = matches!(target.reload, ReloadConfig::Exec(_)) && !files_only;
    Policy { on_unhealthy: target.on_unhealthy, keep: target.keep, supervised }
}

fn context_for(target: &TargetConfig, shared: &reload::Context) -> reload::Context {
    let inherit = Inherit { pass: target.pass_env.clone(), ..shared.inherit.clone() };
    reload::Context { target: Arc::clone(&target.name), inherit, ..shared.clone() }
}

fn probe_context(context: &reload::Context) -> probe::Context {
    probe::Context { inherit: context.inherit.clone(), bus: context.bus.clone() }
}

/// Whether a process need not be told otherwise than before. Its `env` is part of the generation, not of this.
fn same_reload(old: &ReloadConfig, new: &ReloadConfig) -> bool {
    match (old, new) {
        (ReloadConfig::Exec(old), ReloadConfig::Exec(new)) => {
            let bare = |exec: &ExecReload| ExecReload { env: Vec::new(), ..exec.clone() };
            bare(old) == bare(new)
        }
        (old, new) => old == new,
    }
}

async fn in_flight(flight: &mut Option<Flight>) -> (Hands, Answer, &'static str, Duration) {
    match flight {
        Some(future) => {
            let answered = future.await;
            *flight = None;
            answered
        }
        None => std::future::pending().await,
    }
}

async fn until(timer: Option<Instant>) {
    match timer {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What happens to the process while nothing is in flight.
async fn watched(hands: &mut Option<Hands>, waiting: bool) -> Woken {
    let Some(hands) = hands else { return std::future::pending().await };
    loop {
        tokio::select! {
            exit = hands.reload.died() => return Woken::Died(exit),
            () = sleep(APPEARANCE), if waiting => {}
        }
        if hands.reload.running().await.unwrap_or(false) {
            return Woken::Appeared;
        }
    }
}
