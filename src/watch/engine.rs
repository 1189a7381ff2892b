//! The watch's one task: waits for whatever comes first, and carries it out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::faults::Faults;
use super::keeper::{Keeper, Kept};
use super::memory::Memory;
use super::overlap::Now;
use super::slot::{self, Answering, Read};
use super::state::{State, Unseen};
use super::timers::Timer;
use super::{Command, Stores, Surroundings, Uses, lock};
use crate::config::model::{Config, StoreName};
use crate::secret::SecretName;
use crate::store::{Changed, Keep, Store};

/// How long after a failure to write `overlap.json` the next attempt comes at the earliest.
const SAVE_PAUSE: Duration = Duration::from_secs(10);
/// How long after a new config, or after targets told what they stand on, `overlap.json` is written where nothing else
/// causes it.
const SAVE_DELAY: Duration = Duration::from_secs(1);

type Channel<T> = (mpsc::Sender<T>, mpsc::Receiver<T>);

pub(super) struct Engine {
    state: Arc<Mutex<State>>,
    surroundings: Surroundings,
    commands: mpsc::Receiver<Command>,
    reads: FuturesUnordered<BoxFuture<'static, (SecretName, u64, Read)>>,
    listeners: BTreeMap<StoreName, Listener>,
    changes: Channel<(StoreName, Changed)>,
    /// Stores that wait until their sessions are written down.
    keeps: Channel<oneshot::Sender<()>>,
    memory: Memory,
    pub(super) keeper: Keeper,
    /// What is remembered differs from what is written; when to write it.
    unsaved: Option<Instant>,
    save_failed: bool,
    faults: Faults,
}

/// Waits for a store's `changed`; ends when dropped.
struct Listener {
    store: Arc<dyn Store>,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

enum Event {
    Stop,
    Command(Command),
    Changed(StoreName, Changed),
    Keep(oneshot::Sender<()>),
    Read(SecretName, u64, Box<Read>),
    Kept(Kept),
    Time,
}

impl Engine {
    pub(super) fn new(
        config: &Config,
        stores: &Stores,
        uses: &Uses,
        surroundings: Surroundings,
    ) -> (Self, Arc<Mutex<State>>, mpsc::Sender<Command>) {
        let (tell, commands) = mpsc::channel(16);
        let now = Now { wall: (surroundings.clock)(), mono: Instant::now() };
        let mut state = State::new(now.mono);
        let keeper = Keeper::open(&mut state, config, stores, uses, &surroundings, now);
        let state = Arc::new(Mutex::new(state));
        let memory = Memory::load(&config.state_dir, &surroundings.keeping);
        let mut engine = Self {
            state: Arc::clone(&state),
            surroundings,
            commands,
            reads: FuturesUnordered::new(),
            listeners: BTreeMap::new(),
            changes: mpsc::channel(16),
            keeps: mpsc::channel(16),
            memory,
            keeper,
            unsaved: None,
            save_failed: false,
            faults: Faults::default(),
        };
        engine.configure(config, stores, uses);
        (engine, state, tell)
    }

    pub(super) async fn run(mut self) {
        loop {
            self.emit().await;
            match self.next().await {
                Event::Stop => break,
                Event::Command(Command::Refresh { names, reply }) => {
                    // Whoever asked may have gone.
                    let _gone = reply.send(self.refresh(names));
                }
                Event::Command(Command::Reconfigure { config, stores, uses, reply }) => {
                    self.configure(&config, &stores, &uses);
                    self.emit().await;
                    let _gone = reply.send(());
                }
                Event::Changed(store, what) => self.store_changed(&store, &what),
                Event::Keep(done) => {
                    self.keeper.save(&self.state).await;
                    // The login may have been given up.
                    let _gone = done.send(());
                }
                Event::Read(name, id, read) => self.finish(&name, id, *read),
                Event::Kept(kept) => {
                    let now = self.now();
                    self.keeper.kept(&mut lock(&self.state), kept, now, &*self.surroundings.dice);
                }
                Event::Command(Command::Standing { target, standing }) => {
                    let now = self.now();
                    if lock(&self.state).standing(&target, &standing, now, &*self.surroundings.dice) {
                        self.unsaved.get_or_insert(now.mono + SAVE_DELAY);
                    }
                }
                Event::Time => self.time(),
            }
        }
        if self.unsaved.is_some() {
            self.save().await;
        }
        // A login that is broken off now neither waits for this task nor stands in the way of what is revoked.
        self.reads.clear();
        self.keeps.1.close();
        while self.keeps.1.try_recv().is_ok() {}
        self.keeper.end(&self.state).await;
        lock(&self.state).close();
    }

    async fn next(&mut self) -> Event {
        let due = lock(&self.state).due().into_iter().chain(self.unsaved).min();
        let time = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.surroundings.cancel.cancelled() => Event::Stop,
            Some(done) = self.keeps.1.recv() => Event::Keep(done),
            Some((name, id, read)) = self.reads.next(), if !self.reads.is_empty() => {
                Event::Read(name, id, Box::new(read))
            }
            kept = self.keeper.next() => Event::Kept(kept),
            Some(command) = self.commands.recv() => Event::Command(command),
            Some((store, what)) = self.changes.1.recv() => Event::Changed(store, what),
            () = time => Event::Time,
        }
    }

    fn now(&self) -> Now {
        Now { wall: (self.surroundings.clock)(), mono: Instant::now() }
    }

    fn configure(&mut self, config: &Config, stores: &Stores, uses: &Uses) {
        let now = self.now();
        let mut state = lock(&self.state);
        Keeper::take_over(&mut state, stores, now.mono);
        stores.values().for_each(|store| store.kept_by(self.keep()));
        for slot in state.slots.values() {
            self.faults.forget(&slot.config.store, &slot.config.name);
        }
        let dice = &*self.surroundings.dice;
        let (unseen, to_read) = state.configure(config, stores, uses, &mut self.memory, now, dice);
        let used: BTreeMap<_, _> =
            state.slots.values().map(|slot| (slot.config.store.clone(), Arc::clone(&slot.source.store))).collect();
        drop(state);
        self.show(&unseen);
        self.listen(used);
        // What is no longer to be remembered goes from the file, too; not in the way of the first render.
        self.unsaved = Some(now.mono + SAVE_DELAY);
        for name in to_read {
            self.read(&name);
        }
    }

    /// What a store awaits: this task writes the ledger while the login that asks for it stands still.
    fn keep(&self) -> Keep {
        let tell = self.keeps.0.clone();
        Keep::Now(Arc::new(move || {
            let tell = tell.clone();
            Box::pin(async move {
                let (done, kept) = oneshot::channel();
                if tell.send(done).await.is_ok() {
                    // An error means that the watch has ended; its end writes the ledger, too.
                    let _ended = kept.await;
                }
            })
        }))
    }

    fn listen(&mut self, stores: BTreeMap<StoreName, Arc<dyn Store>>) {
        self.listeners.retain(|name, listener| stores.get(name).is_some_and(|s| Arc::ptr_eq(s, &listener.store)));
        for (name, store) in stores {
            let (tell, listening, changed) = (self.changes.0.clone(), Arc::clone(&store), name.clone());
            self.listeners.entry(name).or_insert_with(|| {
                let task = tokio::spawn(async move {
                    loop {
                        let what = listening.changed().await;
                        if tell.send((changed.clone(), what)).await.is_err() {
                            return;
                        }
                    }
                });
                Listener { store, task }
            });
        }
    }

    /// Begins a read, or notes that one is to follow the one in flight.
    fn read(&mut self, name: &SecretName) {
        let begin = lock(&self.state).slots.get_mut(name).is_some_and(|slot| slot.want());
        if begin {
            self.begin(name);
        }
    }

    fn begin(&mut self, name: &SecretName) {
        let state = lock(&self.state);
        let Some(slot) = state.slots.get(name) else { return };
        let id = slot.id;
        let read = slot.source.clone().read(name.clone(), slot.config.locator.clone(), slot.known());
        let name = name.clone();
        self.reads.push(Box::pin(async move { (name, id, read.await) }));
    }

    fn refresh(&mut self, names: Option<Vec<SecretName>>) -> Vec<(SecretName, Answering)> {
        let mut answers = Vec::new();
        let mut begin = Vec::new();
        {
            let mut state = lock(&self.state);
            // What is made anew by reading is made anew only for who asks for it by name.
            for name in names.unwrap_or_else(|| state.free_to_read()) {
                let answering = match state.slots.get_mut(&name) {
                    Some(slot) => {
                        let (begins, answering) = slot.want_answer();
                        begin.extend(begins.then(|| name.clone()));
                        Ok(answering)
                    }
                    None => Err(slot::unknown(&name)),
                };
                answers.push((name, answering));
            }
        }
        for name in begin {
            self.begin(&name);
        }
        answers
    }

    fn store_changed(&mut self, store: &StoreName, what: &Changed) {
        let state = lock(&self.state);
        let concerned = |slot: &slot::Slot| slot.config.store == *store && what.concerns(&slot.config.locator);
        let names: Vec<_> =
            state.slots.iter().filter(|(_, slot)| concerned(slot)).map(|(name, _)| name.clone()).collect();
        drop(state);
        for name in names {
            self.read(&name);
        }
    }

    fn finish(&mut self, name: &SecretName, id: u64, read: Read) {
        let now = self.now();
        let mut state = lock(&self.state);
        let Some(slot) = state.slots.get(name).filter(|slot| slot.id == id) else { return };
        match &read {
            Ok(_) => self.faults.succeeded(&slot.config.store, name),
            Err(error) => self.faults.failed(&slot.config.store, name, error, slot.current.is_some()),
        }
        let unseen = state.finish(name, id, read, now, &*self.surroundings.dice);
        let again = state.slots.get_mut(name).is_some_and(|slot| slot.next_wanted());
        drop(state);
        self.show(&unseen);
        if again {
            self.begin(name);
        }
    }

    fn time(&mut self) {
        let now = Instant::now();
        self.keeper.time(&mut lock(&self.state), self.now(), &*self.surroundings.dice);
        loop {
            let mut state = lock(&self.state);
            let Some(timer) = state.timers.pop(now) else { break };
            match timer {
                // The read in flight will do: one that follows it would stand beside the others' tick.
                Timer::Read(name) if state.is_gathering(&name) => {}
                Timer::Read(name) => {
                    drop(state);
                    self.read(&name);
                }
                Timer::OverlapEnd(name) => {
                    if state.end_overlap(&name, now, &*self.surroundings.dice) {
                        self.unsaved.get_or_insert(now);
                    }
                }
                Timer::Emit(target) => state.settled(target),
                Timer::Tend(store) => self.keeper.tend(&state, store),
            }
        }
    }

    fn show(&self, unseen: &Unseen) {
        for (name, reading) in unseen {
            (self.surroundings.on_reading)(name, reading);
        }
    }

    /// Emits what is ready, after writing down what has to be remembered of it.
    async fn emit(&mut self) {
        let now = self.now();
        let (due, remember) = lock(&self.state).prepare(now);
        if remember || self.unsaved.is_some_and(|at| at <= now.mono) {
            self.save().await;
        }
        self.keeper.save_if_due(&self.state, now.mono).await;
        lock(&self.state).emit(due);
    }

    /// A failure costs an overlap only if the agent is restarted before the next attempt, so it holds nothing up.
    async fn save(&mut self) {
        let draft = self.memory.draft(lock(&self.state).memories());
        let saved = match draft {
            Ok(write) => tokio::task::spawn_blocking(write).await.unwrap_or_else(|stopped| Err(stopped.into())),
            Err(error) => Err(error),
        };
        match saved {
            Ok(()) => {
                self.unsaved = None;
                self.save_failed = false;
            }
            Err(error) => {
                self.unsaved = Some(Instant::now() + SAVE_PAUSE);
                if !std::mem::replace(&mut self.save_failed, true) {
                    let path = self.memory.path().display();
                    tracing::error!(%path, "cannot write it: {error}; a restart now would cut overlaps short");
                }
            }
        }
    }
}
