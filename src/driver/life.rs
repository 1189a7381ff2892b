//! A driver's loop: wait for what happens, feed the machine, begin what it says.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::context::{context_for, policy, probe_context};
use super::hands::{Hands, load_journal};
use super::inputs::Inputs;
use super::operation::{Answer, name};
use super::record::Record;
use super::{Assignment, Command, DriverError, Refused, Surroundings, view};
use crate::generation::{GenerationId, Generations, Manifest};
use crate::journal::JournalFile;
use crate::process::Exit;
use crate::reload::{self, exec};
use crate::rotation::{Effect, Event, Phase, Plan, Retry, State, recover, step};
use crate::secret::{SecretName, Version};
use crate::state_dir::StateDir;
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

pub(super) type Flight = BoxFuture<'static, (Hands, Answer, &'static str, Duration)>;

/// What the loop woke up for.
enum Woken {
    Answered(Box<(Hands, Answer, &'static str, Duration)>),
    Stop,
    Asked(Command),
    Inputs(bool),
    Timer,
    Died(Exit),
    Appeared,
    /// Credentials have ended.
    Ended,
}

pub(super) struct Life {
    pub(super) assignment: Assignment,
    pub(super) surroundings: Surroundings,
    pub(super) context: reload::Context,
    pub(super) state: State,
    pub(super) hands: Option<Hands>,
    pub(super) flight: Option<Flight>,
    pub(super) inputs: Option<Arc<Inputs>>,
    pub(super) closed: bool,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) reassign: Option<(Box<Assignment>, oneshot::Sender<()>)>,
    pub(super) timer: Option<Instant>,
    /// When a target that is not running yet is looked for next.
    pub(super) look: Instant,
    pub(super) stop: CancellationToken,
    pub(super) stopped: bool,
    pub(super) record: Record,
    pub(super) generations: Generations,
    pub(super) view: Arc<Mutex<TargetView>>,
    pub(super) changed: watch::Sender<u64>,
    pub(super) forward: Arc<Mutex<Option<exec::Forward>>>,
    pub(super) published: Arc<AtomicBool>,
    pub(super) started_at: Option<Instant>,
    pub(super) restart_wait: Option<Duration>,
    pub(super) by_itself: Option<Exit>,
    /// Who waits for an operator's rollback to this generation to end.
    pub(super) rolling: Option<(u64, Answering)>,
    /// Who waits for a release to be on disk, and what they are told then.
    pub(super) releasing: Vec<(String, oneshot::Sender<String>)>,
}

pub(super) type Answering = oneshot::Sender<Result<String, Refused>>;
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
        let seal = state_dir.seal(&name);
        let generations = Generations::open(&state_dir.generations(&name), state_dir.key(), seal.as_ref());
        let generations = generations.map_err(state_error)?;
        let file = JournalFile::new(&dir, seal);
        let journal = load_journal(&file).map_err(state_error)?;
        let context = context_for(&assignment, &surroundings.reload, &stop);
        let reload = reload::build(&target.reload, &context)
            .map_err(|source| DriverError::Reload { target: name.clone(), source })?;
        let forward = Arc::new(Mutex::new(reload.forward()));
        let committed = journal.committed.and_then(|c| generations.manifest(GenerationId(c.generation)).ok());
        let mut record =
            Record::open(&dir, &generations, &name, committed.clone(), &surroundings).map_err(state_error)?;
        let published = Arc::new(AtomicBool::new(false));
        let hands = Hands {
            target: Arc::clone(&target),
            generations: generations.clone(),
            journal: Arc::new(file),
            saved: journal.clone(),
            reload,
            probe: probe_context(&context),
            staged: None,
            newest: None,
            loaded: None,
            clock: Arc::clone(&surroundings.clock),
            stop: stop.clone(),
            files_only: surroundings.files_only,
            published: Arc::clone(&published),
            last_exit: None,
            stopped: None,
            told_at: None,
            owed: None,
            standing: Arc::clone(&surroundings.standing),
        };
        let expired = committed.as_ref().is_some_and(|manifest| hangs_on(manifest, &assignment.dead.borrow()));
        let (state, effects) = recover(journal, policy(&target, surroundings.files_only), expired);
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
            look: Instant::now(),
            stop,
            stopped: false,
            record,
            generations,
            view: Arc::clone(&view),
            changed,
            forward,
            published,
            started_at: None,
            restart_wait: None,
            by_itself: None,
            rolling: None,
            releasing: Vec::new(),
        };
        life.carry(effects);
        Ok((life, view, changes))
    }

    pub fn forward(&self) -> Arc<Mutex<Option<exec::Forward>>> {
        Arc::clone(&self.forward)
    }

    pub fn published(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.published)
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
                Woken::Died(exit) => self.died(exit).await,
                Woken::Appeared => self.feed(Event::Appeared),
                Woken::Ended => self.credentials_ended(),
            }
            self.given_up();
            self.released();
            self.reassigned().await;
        }
    }

    async fn woken(&mut self) -> Woken {
        let Self { flight, hands, commands, stop, state, timer, assignment, closed, look, .. } = self;
        let waiting = state.phase == Phase::Rest && state.journal.committed.is_some_and(|c| !c.proven);
        let waiting = waiting && !self.surroundings.files_only;
        let (timer, closed) = (*timer, *closed);
        tokio::select! {
            biased;
            answered = in_flight(flight) => Woken::Answered(Box::new(answered)),
            () = stop.cancelled(), if !state.stopping => Woken::Stop,
            Some(command) = commands.recv() => Woken::Asked(command),
            changed = assignment.snapshots.changed(), if !closed => Woken::Inputs(changed.is_ok()),
            Ok(()) = assignment.dead.changed() => Woken::Ended,
            () = until(timer) => Woken::Timer,
            seen = watched(hands, waiting, look) => seen,
        }
    }

    /// Takes the newest snapshot up, if there is one. One that is made for other templates, of a config that is taken up at this
    /// moment, is left: it is looked at again with the templates, or another comes.
    pub(super) fn take_inputs(&mut self) {
        let snapshot = self.assignment.snapshots.borrow_and_update().clone();
        let used = self.assignment.renderer.used_secrets();
        if let Some(snapshot) = snapshot.filter(|s| used.iter().all(|name| s.secrets.contains_key(name))) {
            let inputs = Inputs::new(Arc::clone(&self.assignment.renderer), snapshot);
            let digest = inputs.digest;
            self.inputs = Some(Arc::new(inputs));
            self.feed(Event::Snapshot(digest));
        }
    }

    pub(super) fn feed(&mut self, event: Event) {
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
                    self.rolled(report);
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

    async fn died(&mut self, exit: Exit) {
        let target = &self.record.target;
        let serves = match &mut self.hands {
            Some(hands) => hands.reload.running().await.unwrap_or(false),
            None => false,
        };
        if self.surroundings.ends_with_process && !serves {
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

    /// Tells the machine where the committed generation hangs on credentials that have ended.
    fn credentials_ended(&mut self) {
        let dead = Arc::clone(&self.assignment.dead.borrow_and_update());
        let committed = self.state.journal.committed.map(|c| GenerationId(c.generation));
        let manifest = committed.and_then(|id| self.generations.manifest(id).ok());
        if !self.state.expired && manifest.is_some_and(|manifest| hangs_on(&manifest, &dead)) {
            self.feed(Event::Expired);
        }
    }

    fn end_with(&mut self, exit: Exit) {
        self.by_itself = Some(exit);
        self.feed(Event::Stop);
    }

    fn wait_for(&self, attempt: u32) -> Duration {
        let (floor, cap) = BACKOFF;
        let base = floor.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(cap);
        base.mul_f64(0.75 + 0.5 * (self.surroundings.dice)())
    }

    fn show(&mut self) {
        if self.state.settled && matches!(self.state.phase, Phase::Rest | Phase::Saving | Phase::Pruning) {
            self.record.at_rest();
        }
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
                Ok(stopped) => exit = exit.or(stopped).or(hands.stopped),
                Err(error) => tracing::error!(target_name = %self.record.target, "{error}"),
            }
        }
        if let Some((_, reply)) = self.reassign.take() {
            let _gone = reply.send(());
        }
        Ended { exit, by_itself: self.by_itself.is_some() }
    }
}

/// Whether a generation was made from any of these.
fn hangs_on(manifest: &Manifest, dead: &BTreeSet<(SecretName, Version)>) -> bool {
    let versions = manifest.origin.versions.iter();
    versions.map(|(name, version)| (SecretName::new(name.as_str()), version.clone())).any(|key| dead.contains(&key))
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

/// What happens to the process while nothing is in flight. `look`: when it is looked for next; it outlives the waiting, so
/// that what wakes the driver often does not put the look off for ever.
async fn watched(hands: &mut Option<Hands>, waiting: bool, look: &mut Instant) -> Woken {
    let Some(hands) = hands else { return std::future::pending().await };
    loop {
        let drained = hands.reload.drained().filter(|_| hands.owed.is_some());
        let owed = hands.owed.is_some();
        tokio::select! {
            exit = hands.reload.died() => return Woken::Died(exit),
            () = async { if let Some(drained) = drained { drained.await } }, if owed => {
                hands.tell_owed().await;
                continue;
            }
            () = sleep_until(*look), if waiting => {}
        }
        let appeared = hands.reload.running().await.unwrap_or(false);
        *look = Instant::now() + APPEARANCE;
        if appeared {
            return Woken::Appeared;
        }
    }
}
