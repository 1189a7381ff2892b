//! One secret: its readings, its failures, and the read in flight.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use super::overlap::{Now, Overlap, later, left};
use super::ticks::{Drawn, Ticks};
use super::{Refreshed, SecretStatus};
use crate::config::model::{Locator, SecretConfig, TargetName};
use crate::schedule::{self, Backoff};
use crate::secret::{Again, Reading, SecretName, Version};
use crate::store::{Store, StoreError, StoreErrorKind};

/// Bound on one read, for a store that does not bound itself.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// The same for a store that gathers: many of its reads begin at once, so this holds their wait for each other, too.
const GATHERED_TIMEOUT: Duration = Duration::from_secs(300);
/// Reads of one store at a time.
const READS_AT_ONCE: usize = 32;
/// The same for a store that gathers: as many as fill batches of 10, 20, 25, 50 or 100 without a rest. Each read under
/// way costs some kB, so not all of a thousand are.
const GATHERED_AT_ONCE: usize = 200;
/// Between reads that fail.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Between credentials that are made, and refused by the rotation that they were made for.
const REJECTED: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
/// Reads that a store asks for at one moment (a static role, after its rotation) are spread out over this.
const AFTER_SPREAD: Duration = Duration::from_secs(3);

type Answer = oneshot::Sender<Result<Refreshed, StoreError>>;
/// An answer to come, or why there is none.
pub(super) type Answering = Result<oneshot::Receiver<Result<Refreshed, StoreError>>, StoreError>;

/// A store, and how many may read it at once.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) store: Arc<dyn Store>,
    gate: Arc<Semaphore>,
    gathers: bool,
}

/// What a read brought: the reading (None: what is known is still so), and what is known of the version before.
pub(super) type Read = Result<(Option<Reading>, Before), StoreError>;

/// The version before, where the store keeps it.
#[derive(Debug)]
pub(super) enum Before {
    NotAsked,
    Unread,
    Is(Option<Reading>),
}

/// What is known of a secret when a read of it begins.
#[derive(Clone, Default)]
pub(super) struct Known {
    /// What is in use, where reading again costs nothing.
    pub(super) current: Option<Arc<Reading>>,
    /// Whether the version before is wanted.
    pub(super) previous: Wanted,
    /// The version that a target was given last.
    pub(super) in_use: Option<Version>,
    /// The one that was in use before it, while its overlap lasts.
    pub(super) before: Option<Version>,
}

/// Whether the version before is wanted.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Wanted {
    #[default]
    Never,
    /// With another version.
    WithNews,
    /// It could not be read before.
    Still,
}

pub(super) struct Slot {
    /// Tells this slot from an earlier one of the same name.
    pub(super) id: u64,
    pub(super) config: SecretConfig,
    pub(super) source: Source,
    pub(super) targets: BTreeSet<TargetName>,
    pub(super) current: Option<Arc<Reading>>,
    pub(super) kept: Option<Arc<Reading>>,
    pub(super) overlap: Overlap,
    pub(super) changed_at: Option<Timestamp>,
    busy: bool,
    again: bool,
    answers: Vec<Answer>,
    answers_of_next: Vec<Answer>,
    last_attempt: Option<Timestamp>,
    last_success: Option<Timestamp>,
    pub(super) failing_since: Option<Timestamp>,
    pub(super) error: Option<StoreError>,
    backoff: Backoff,
    /// Credentials in a row that were refused by the rotation that they were made for.
    pub(super) rejections: Backoff,
    /// The version before could not be read yet.
    unread_before: bool,
    reads: u64,
    errors: u64,
}

/// What a finished read means.
pub(super) struct Finished {
    /// There was no reading before.
    pub(super) first: bool,
    /// There is another version now.
    pub(super) news: bool,
    /// How long until the next read, if it is not to wait for a change.
    pub(super) pause: Option<Duration>,
}

impl Source {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        let gathers = store.gathers();
        let gate = Arc::new(Semaphore::new(if gathers { GATHERED_AT_ONCE } else { READS_AT_ONCE }));
        Self { store, gate, gathers }
    }

    /// Whether reads that begin together are gathered.
    pub(super) fn gathers(&self) -> bool {
        self.gathers
    }

    /// Reads, and asks for the version before where that may be wanted.
    pub(super) async fn read(self, name: SecretName, locator: Locator, known: Known) -> Read {
        let gate = Arc::clone(&self.gate);
        let _permit = gate.acquire().await;
        // Apart, so that one that waits its turn is small.
        Box::pin(self.read_now(name, locator, known)).await
    }

    async fn read_now(self, name: SecretName, locator: Locator, known: Known) -> Read {
        let bound = if self.gathers() { GATHERED_TIMEOUT } else { READ_TIMEOUT };
        let Known { current, previous, in_use, before } = known;
        let reading = async {
            let reading = match &current {
                Some(current) => self.store.read_again(&locator, current).await?,
                None => Some(self.store.read(&locator).await?),
            };
            let news = reading.as_ref().filter(|new| current.as_ref().is_none_or(|old| old.version != new.version));
            let of = match previous {
                Wanted::Never => None,
                Wanted::WithNews => news,
                Wanted::Still => reading.as_ref().or(current.as_deref()),
            };
            let Some(of) = of else { return Ok((reading, Before::NotAsked)) };
            // What was in use, not what the store calls previous: several versions may have come and gone.
            let before = in_use.as_ref().filter(|in_use| **in_use != of.version).or(before.as_ref());
            let before = match self.store.previous(&locator, of, before).await {
                Ok(before) => Before::Is(before),
                Err(error) => {
                    tracing::warn!(secret = %name, "cannot read the version before: {error}");
                    Before::Unread
                }
            };
            Ok((reading, before))
        };
        tokio::time::timeout(bound, reading).await.unwrap_or_else(|_elapsed| {
            Err(StoreError {
                kind: StoreErrorKind::Unavailable,
                message: format!("secret {name}: its store did not answer in {} s", bound.as_secs()),
                retry_after: None,
            })
        })
    }
}

impl Slot {
    pub(super) fn new(id: u64, config: SecretConfig, source: Source, overlap: Overlap) -> Self {
        Self {
            id,
            config,
            source,
            targets: BTreeSet::new(),
            current: None,
            kept: None,
            overlap,
            changed_at: None,
            busy: false,
            again: false,
            answers: Vec::new(),
            answers_of_next: Vec::new(),
            last_attempt: None,
            last_success: None,
            failing_since: None,
            error: None,
            backoff: Backoff::new(BACKOFF.0, BACKOFF.1),
            rejections: Backoff::new(REJECTED.0, REJECTED.1),
            unread_before: false,
            reads: 0,
            errors: 0,
        }
    }

    /// What is known when a read begins.
    pub(super) fn known(&self) -> Known {
        let current = self.current.as_ref().filter(|current| current.again != Again::Mints).map(Arc::clone);
        let previous = match self.config.overlap.is_zero() {
            true => Wanted::Never,
            false if self.unread_before => Wanted::Still,
            false => Wanted::WithNews,
        };
        Known {
            current,
            previous,
            in_use: self.overlap.in_use.as_ref().map(|in_use| in_use.version.clone()),
            before: self.overlap.previous.as_ref().map(|previous| previous.version.clone()),
        }
    }

    /// Goes on with what an earlier life made.
    pub(super) fn restored(&mut self, reading: Arc<Reading>, made: Timestamp) {
        let remembered = self.overlap.in_use.as_ref().filter(|in_use| in_use.version == reading.version);
        self.changed_at = Some(remembered.map_or(made, |in_use| in_use.changed_at));
        self.current = Some(reading);
    }

    /// A read is wanted that begins from now on. True: begin it; else one follows the read in flight.
    pub(super) fn want(&mut self) -> bool {
        self.again = self.busy;
        !std::mem::replace(&mut self.busy, true)
    }

    /// As [`Slot::want`], with someone waiting for what comes of it.
    pub(super) fn want_answer(&mut self) -> (bool, oneshot::Receiver<Result<Refreshed, StoreError>>) {
        let (answer, answering) = oneshot::channel();
        let begin = self.want();
        if begin { &mut self.answers } else { &mut self.answers_of_next }.push(answer);
        (begin, answering)
    }

    /// After a finished read: whether another was wanted meanwhile, which begins now.
    pub(super) fn next_wanted(&mut self) -> bool {
        self.busy = std::mem::take(&mut self.again);
        self.answers = std::mem::take(&mut self.answers_of_next);
        self.busy
    }

    /// Whether a read is in flight.
    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// A read has ended. `ticks`: those of a store that gathers.
    pub(super) fn finish(&mut self, read: Read, now: Now, die: f64, ticks: Option<&mut Ticks>) -> Finished {
        self.reads += 1;
        self.last_attempt = Some(now.wall);
        let (finished, answer) = match read {
            Ok((reading, before)) => self.succeed(reading, before, now, die, ticks),
            Err(error) => {
                self.errors += 1;
                self.failing_since.get_or_insert(now.wall);
                let pause = Some(self.fail(error.retry_after, now, die, ticks));
                self.error = Some(error.clone());
                (Finished { first: false, news: false, pause }, Err(error))
            }
        };
        for waiting in self.answers.drain(..) {
            // Whoever asked may have gone.
            let _gone = waiting.send(answer.clone());
        }
        finished
    }

    /// How long until the next attempt.
    fn fail(&mut self, retry_after: Option<Duration>, now: Now, die: f64, ticks: Option<&mut Ticks>) -> Duration {
        let ceiling = self.backoff.ceiling();
        let wait = self.backoff.fail(die, retry_after);
        match ticks {
            Some(ticks) => ticks.after_failure(&self.config.store, Drawn { wait, ceiling, retry_after, die }, now.mono),
            None => wait,
        }
    }

    fn succeed(
        &mut self,
        reading: Option<Reading>,
        before: Before,
        now: Now,
        die: f64,
        ticks: Option<&mut Ticks>,
    ) -> (Finished, Result<Refreshed, StoreError>) {
        self.backoff.reset();
        (self.error, self.failing_since, self.last_success) = (None, None, Some(now.wall));
        let first = self.current.is_none();
        let reading = match (reading, &self.current) {
            (Some(reading), Some(current)) if reading.version == current.version => {
                // The same values; when they are to be read again may differ.
                self.current = Some(Arc::new(reading));
                None
            }
            (reading, _) => reading,
        };
        let news = reading.is_some();
        if let Some(reading) = reading {
            self.changed_at = Some(self.change_time(&reading, first, now));
            self.current = Some(Arc::new(reading));
            self.kept = None;
        }
        let Some(current) = &self.current else {
            let error = broken_off(&self.config.name);
            return (Finished { first, news, pause: Some(self.backoff.fail(die, None)) }, Err(error));
        };
        self.unread_before = matches!(before, Before::Unread);
        let mut late = false;
        if let Before::Is(kept) = before {
            late = !news && kept.is_some();
            self.kept = kept.filter(|kept| kept.version != current.version).map(Arc::new);
        }
        let pause = match (ticks, self.config.poll) {
            (Some(ticks), _) => ticks.after_read(&self.config, current, first, now, die),
            (None, Some(poll)) if first => {
                pause(current, Some(poll), now, die).map(|pause| pause.min(schedule::first_after(poll, die)))
            }
            (None, poll) => pause(current, poll, now, die),
        };
        let refreshed = Refreshed { version: current.version.clone(), changed: news };
        (Finished { first, news: news || late, pause }, Ok(refreshed))
    }

    /// A version that is remembered keeps its time; one that is there at the very first read has its store's.
    fn change_time(&self, reading: &Reading, first: bool, now: Now) -> Timestamp {
        match &self.overlap.in_use {
            Some(in_use) if in_use.version == reading.version => in_use.changed_at,
            None if first => reading.created_at.map_or(now.wall, |created| created.min(now.wall)),
            _ => now.wall,
        }
    }

    /// The newest reading goes to a target now. Answers whether anything that is remembered changed.
    pub(super) fn take_up(&mut self, now: Now) -> bool {
        let Some(current) = &self.current else { return false };
        let changed_at = self.changed_at.unwrap_or(now.wall);
        self.overlap.take_up(current, self.kept.as_ref(), self.config.overlap, changed_at, now)
    }

    pub(super) fn status(&self, next_read: Option<Instant>, lease_ends: Option<Timestamp>, now: Now) -> SecretStatus {
        let current = self.current.as_ref();
        let previous = self.overlap.previous.as_ref().filter(|previous| previous.reading.is_some());
        SecretStatus {
            name: self.config.name.clone(),
            store: self.config.store.clone(),
            targets: self.targets.iter().cloned().collect(),
            version: current.map(|current| current.version.clone()),
            created_at: current.and_then(|current| current.created_at),
            expires_at: current.and_then(|current| current.expires_at),
            lease_ends,
            changed_at: self.changed_at,
            previous_version: previous.map(|previous| previous.version.clone()),
            previous_until: previous.filter(|_| self.overlap.ends().is_some()).map(|previous| previous.until),
            max_age: self.config.max_age,
            last_attempt: self.last_attempt,
            last_success: self.last_success,
            failing_since: self.failing_since,
            failures: self.backoff.failures(),
            error: self.error.clone(),
            next_read: next_read.map(|at| later(now.wall, at.saturating_duration_since(now.mono))),
            reads: self.reads,
            errors: self.errors,
        }
    }

    /// Whether the last read of it went well.
    pub(super) fn is_well_read(&self) -> bool {
        self.backoff.failures() == 0
    }

    pub(super) fn is_failing(&self) -> bool {
        self.error.is_some()
    }
}

/// How long until a secret is read again. None: what is made for us is read again when it is to be replaced.
fn pause(current: &Reading, poll: Option<Duration>, now: Now, die: f64) -> Option<Duration> {
    let expires_in = current.expires_at.map(|at| left(at, now.wall));
    match current.again {
        Again::Mints => None,
        Again::Free => schedule::next_read(poll, expires_in, die),
        Again::After(after) => {
            // Those who share it are told the same moment.
            let after = after + AFTER_SPREAD.min(after / 10).mul_f64(die.clamp(0.0, 1.0));
            let next = schedule::next_read(poll, expires_in, die);
            Some(next.map_or(after, |next| next.min(after)).max(schedule::EXPIRY_FLOOR))
        }
    }
}

pub(super) fn broken_off(name: &SecretName) -> StoreError {
    StoreError {
        kind: StoreErrorKind::Unavailable,
        message: format!("secret {name}: the read was broken off by a new config or the agent's end"),
        retry_after: None,
    }
}

pub(super) fn unknown(name: &SecretName) -> StoreError {
    StoreError {
        kind: StoreErrorKind::Missing,
        message: format!("secret {name}: no target uses a secret of that name"),
        retry_after: None,
    }
}
