//! From rounds of reads to as few requests as the policy allows.
//!
//! | how | when | cost |
//! | --- | --- | --- |
//! | BatchGetSecretValue | two or more secrets by AWSCURRENT | one request for 20 |
//! | DescribeSecret, and GetSecretValue where the version is another | one alone; other labels; the batch is denied | one a secret |
//! | GetSecretValue | DescribeSecret is denied; a first read | one a secret |
//!
//! What is denied is remembered. `rotations` asks a few DescribeSecret beside the batches.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, future, stream};
use jiff::Timestamp;

use super::api::Got;
use super::client::{Client, Failed};
use super::gather::{Ask, Haves, Members};
use super::id::names;
use super::judge::{self, Meaning};
use super::known::Memory;
use super::lineage::{Belief, CURRENT, LOOKS, Labels, Lineage, labelled};
use crate::secret::Again;
use crate::store::{StoreError, StoreErrorKind};

/// Secrets in one BatchGetSecretValue: the API takes no more.
pub(super) const BATCH: usize = 20;
/// Requests of one round under way at once.
pub(super) const AT_ONCE: usize = 8;
/// How long a denial is remembered.
pub(super) const DENIED_FOR: Duration = Duration::from_secs(6 * 3600);
/// A first read takes what it can get after so many looks where DescribeSecret is denied, which alone could prove it.
const LOOKS_WITHOUT_PROOF: u32 = 4;

/// What a round found out about one ask.
#[derive(Clone)]
pub(super) enum Found {
    /// The version that everybody has; when to look again.
    Same(Again),
    /// A value.
    Value(Arc<Got>, Again),
    /// What came is not to be believed yet.
    Unsettled(Again),
}

/// One round's answers.
pub(super) type Outcome = BTreeMap<Ask, Result<Found, StoreError>>;

pub(super) struct Reader {
    pub client: Client,
    memory: Mutex<Memory>,
}

impl Reader {
    pub fn new(client: Client) -> Self {
        Self { client, memory: Mutex::default() }
    }

    pub fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now(&self) -> Timestamp {
        (self.client.senses.clock)()
    }

    /// Answers all of a round.
    pub async fn round(&self, members: Members) -> Outcome {
        let mut singles: Vec<(Ask, Haves)> = Vec::new();
        let mut together: Vec<(Ask, Haves)> = Vec::new();
        let batch = !self.batch_denied();
        for (ask, haves) in members {
            let fits = batch && ask.version.is_none() && ask.stage == CURRENT && !self.is_apart(&ask.id);
            if fits { &mut together } else { &mut singles }.push((ask, haves));
        }
        if together.len() < 2 {
            singles.append(&mut together);
        }
        let mut outcome = Outcome::new();
        let batches: Vec<Vec<(Ask, Haves)>> = together.chunks(BATCH).map(<[_]>::to_vec).collect();
        let to_describe = self.to_describe(&together, batches.len());
        let describing: Vec<_> = to_describe.into_iter().map(|id| self.learn_rotation(id).boxed()).collect();
        let reading: Vec<_> = batches.into_iter().map(|batch| self.batch(batch).boxed()).collect();
        let reading = async {
            let mut answers = stream::iter(reading).buffer_unordered(AT_ONCE);
            let (mut found, mut left) = (Outcome::new(), Vec::new());
            while let Some((some, others)) = answers.next().await {
                found.extend(some);
                left.extend(others);
            }
            (found, left)
        };
        let describing = stream::iter(describing).buffer_unordered(AT_ONCE).collect::<()>();
        let ((found, left), ()) = future::join(reading, describing).await;
        outcome.extend(found);
        singles.extend(left);
        let singles: Vec<_> = singles.into_iter().map(|(ask, haves)| self.single(ask, haves).boxed()).collect();
        let mut answers = stream::iter(singles).buffer_unordered(AT_ONCE);
        while let Some((ask, found)) = answers.next().await {
            outcome.insert(ask, found);
        }
        self.note(&outcome);
        outcome
    }

    /// What may be read, what may not; and whether there is something to be kept.
    fn note(&self, outcome: &Outcome) {
        let mut memory = self.memory();
        for (ask, found) in outcome {
            if let (Ok(_), Some(known)) = (found, memory.secrets.get_mut(&ask.id)) {
                known.apart = false;
            }
            if found.as_ref().is_err_and(|error| error.kind == StoreErrorKind::Denied) {
                memory.secrets.entry(ask.id.clone()).or_default().readable = Some(false);
            }
        }
        if std::mem::take(&mut memory.changed) {
            memory.revision += 1;
        }
    }

    /// Reads a batch. What it did not answer is to be asked one by one.
    async fn batch(&self, batch: Vec<(Ask, Haves)>) -> (Outcome, Vec<(Ask, Haves)>) {
        let mut outcome = Outcome::new();
        let ids: Vec<String> = batch.iter().map(|(ask, _)| ask.id.clone()).collect();
        let (values, mut errors) = match self.client.batch(&ids).await {
            Ok(answer) => answer,
            Err(failed) if failed.meaning == Some(Meaning::Denied) => {
                tracing::info!(store = %self.client.store, "reading one by one: {}", failed.error);
                let mut memory = self.memory();
                memory.batch_denied = Some(self.now());
                memory.changed = true;
                return (outcome, batch);
            }
            Err(failed) if failed.meaning.is_some_and(Meaning::is_of_one_secret) => {
                // One of them did that to all. Each that can be read alone is in a batch again.
                tracing::debug!(store = %self.client.store, "reading a batch one by one: {}", failed.error);
                let mut memory = self.memory();
                for (ask, _) in &batch {
                    memory.secrets.entry(ask.id.clone()).or_default().apart = true;
                }
                return (outcome, batch);
            }
            Err(failed) => {
                outcome.extend(batch.into_iter().map(|(ask, _)| {
                    let error = judge::about(&self.client.store, &ask.id, failed.error.clone());
                    (ask, Err(error))
                }));
                return (outcome, Vec::new());
            }
        };
        let mut left = Vec::new();
        let values: Vec<Arc<Got>> = values.into_iter().map(Arc::new).collect();
        for (ask, haves) in batch {
            let got = values.iter().find(|got| names(&ask.id, &got.arn, &got.name));
            if let Some(error) = errors.remove(&ask.id) {
                outcome.insert(ask, Err(error));
            } else if let Some(got) = got {
                match self.weigh(&ask, got, None) {
                    // Whether the label was moved back only DescribeSecret can tell.
                    Belief::Unsettled(_) if self.is_older(&ask, got) => left.push((ask, haves)),
                    belief => {
                        let found = self.found(&ask, got, &belief, &haves);
                        outcome.insert(ask, found);
                    }
                }
            } else {
                left.push((ask, haves));
            }
        }
        (outcome, left)
    }

    async fn single(&self, ask: Ask, haves: Haves) -> (Ask, Result<Found, StoreError>) {
        let found = self.one(&ask, &haves).await;
        (ask, found)
    }

    /// Reads one secret alone, as cheaply as it can be.
    async fn one(&self, ask: &Ask, haves: &Haves) -> Result<Found, StoreError> {
        // A first read needs the value at once, unless what comes has to be proved.
        let first = haves.contains(&None);
        if first || self.describe_denied(&ask.id) {
            return self.get(ask, haves, None).await;
        }
        let labels = match self.describe(&ask.id).await {
            Ok(labels) => labels,
            Err(failed) if failed.meaning == Some(Meaning::Denied) => return self.get(ask, haves, None).await,
            Err(failed) => return Err(failed.error),
        };
        if ask.version.is_some() {
            // A version's value never changes.
            return Ok(Found::Same(Again::Free));
        }
        let Some(version) = labelled(&labels, &ask.stage) else {
            let text = format!("no version carries the label {}; mend stage, or put the label on one", ask.stage);
            return Err(self.client.error(&ask.id, StoreErrorKind::Missing, text));
        };
        if haves.iter().all(|have| have.as_deref() == Some(version)) {
            let mut memory = self.memory();
            let lineage = memory.lineage_mut(ask);
            if let Belief::Unsettled(after) = lineage.weigh(version, None, &ask.stage, Some(&labels)) {
                return Ok(Found::Unsettled(again(after)));
            }
            let news = lineage.take(version, None);
            memory.changed |= news;
            drop(memory);
            return Ok(Found::Same(self.again(&ask.id)));
        }
        self.get(ask, haves, Some(&labels)).await
    }

    async fn get(&self, ask: &Ask, haves: &Haves, labels: Option<&Labels>) -> Result<Found, StoreError> {
        let stage = ask.version.is_none().then_some(ask.stage.as_str());
        let got = Arc::new(self.client.get(&ask.id, stage, ask.version.as_deref()).await?);
        let mut belief = self.weigh(ask, &got, labels);
        if labels.is_none() && belief != Belief::Same && self.is_older(ask, &got) {
            // Older than what was in use, perhaps in an earlier life: the labels tell.
            belief = match self.describe(&ask.id).await {
                Ok(labels) => self.weigh(ask, &got, Some(&labels)),
                Err(failed) => self.unproved(ask, &got, haves, belief, &failed),
            };
        }
        self.found(ask, &got, &belief, haves)
    }

    /// What becomes of a version that was left where the labels are not to be had. What fails may be there at the next
    /// look; what is denied will not, and a start cannot wait for it for ever.
    fn unproved(&self, ask: &Ask, got: &Got, haves: &Haves, belief: Belief, failed: &Failed) -> Belief {
        let denied = failed.meaning == Some(Meaning::Denied);
        if !denied || !haves.contains(&None) || self.looks(ask) < LOOKS_WITHOUT_PROOF {
            tracing::debug!(store = %self.client.store, "cannot prove that a label was moved back: {}", failed.error);
            return belief;
        }
        tracing::warn!(store = %self.client.store, secret = %ask.id, version = %got.version,
            "taking a version that was in use before: no newer one comes, and DescribeSecret, which could tell, is denied");
        Belief::New
    }

    fn weigh(&self, ask: &Ask, got: &Got, labels: Option<&Labels>) -> Belief {
        let mut memory = self.memory();
        let known = memory.secrets.entry(ask.id.clone()).or_default();
        (known.arn, known.name) = (Some(got.arn.clone()), Some(got.name.clone()));
        if ask.version.is_some() {
            return Belief::New;
        }
        memory.lineage_mut(ask).weigh(&got.version, got.created, &ask.stage, labels)
    }

    fn found(&self, ask: &Ask, got: &Arc<Got>, belief: &Belief, haves: &Haves) -> Result<Found, StoreError> {
        if ask.version.as_ref().is_some_and(|version| *version != got.version) {
            let text = "AWS answered with another version than the one asked for; it is asked again";
            return Err(self.client.error(&ask.id, StoreErrorKind::Malformed, text));
        }
        match belief {
            Belief::Unsettled(after) => {
                tracing::debug!(store = %self.client.store, secret = %ask.id, version = %got.version, "not the version to be expected");
                if after.is_none() && self.looks(ask) == LOOKS + 1 {
                    tracing::warn!(store = %self.client.store, secret = %ask.id, version = %got.version,
                        "AWS keeps answering with a version that was in use before, or is not the one announced: what was read last stays; if a label was moved back, allow DescribeSecret, which proves it");
                }
                if haves.contains(&None) {
                    let text = format!(
                        "AWS answers with version {}, which was in use before, or is not the one announced; it is asked again",
                        got.version
                    );
                    let error = self.client.error(&ask.id, StoreErrorKind::Unavailable, text);
                    return Err(error.later(after.unwrap_or(Duration::from_secs(30))));
                }
                return Ok(Found::Unsettled(again(*after)));
            }
            Belief::Same | Belief::New => {}
        }
        let mut memory = self.memory();
        let lineage = memory.lineage_mut(ask);
        let known_before = lineage.current.is_some();
        let news = lineage.take(&got.version, got.created);
        let known = memory.secrets.entry(ask.id.clone()).or_default();
        known.readable = Some(true);
        if news && known_before {
            // Its next rotation is another one.
            (known.described, known.next_rotation) = (None, None);
        }
        memory.changed |= news;
        drop(memory);
        let again = self.again(&ask.id);
        if haves.iter().all(|have| have.as_deref() == Some(&*got.version)) {
            // Not held until the round is over: a thousand values would be.
            return Ok(Found::Same(again));
        }
        Ok(Found::Value(Arc::clone(got), again))
    }

    /// Asks for labels, and notes what else comes with them.
    pub async fn describe(&self, id: &str) -> Result<Labels, Failed> {
        let described = match self.client.describe(id).await {
            Ok(described) => described,
            Err(failed) => {
                if failed.meaning == Some(Meaning::Denied) {
                    let now = self.now();
                    self.memory().secrets.entry(id.to_owned()).or_default().describe_denied = Some(now);
                }
                return Err(failed);
            }
        };
        let now = self.now();
        let mut memory = self.memory();
        let known = memory.secrets.entry(id.to_owned()).or_default();
        (known.described, known.describe_denied, known.describe_failed) = (Some(now), None, None);
        known.next_rotation = described.next_rotation;
        (known.kms_key, known.replicas) = (described.kms_key, described.replicas);
        if described.arn.is_some() {
            (known.arn, known.name) = (described.arn, described.name);
        }
        drop(memory);
        if let Some(date) = described.deleted {
            let text = format!(
                "it is scheduled for deletion (asked for on {date:.0}); aws secretsmanager restore-secret brings it back; what \
                 was read last stays in use"
            );
            let error = self.client.error(id, StoreErrorKind::Missing, text);
            return Err(Failed::of(error, Some(Meaning::Deleted)));
        }
        Ok(described.labels)
    }

    fn is_older(&self, ask: &Ask, got: &Got) -> bool {
        let memory = self.memory();
        memory.lineage(ask).is_some_and(|lineage| lineage.is_older(&got.version, got.created))
    }

    fn is_apart(&self, id: &str) -> bool {
        self.memory().secrets.get(id).is_some_and(|known| known.apart)
    }

    fn looks(&self, ask: &Ask) -> u32 {
        let memory = self.memory();
        memory.lineage(ask).map_or(0, Lineage::looks)
    }

    pub fn batch_denied(&self) -> bool {
        let now = self.now();
        self.memory().batch_denied.is_some_and(|at| !past(at, now, DENIED_FOR))
    }

    pub fn describe_denied(&self, id: &str) -> bool {
        let now = self.now();
        let memory = self.memory();
        memory.secrets.get(id).and_then(|known| known.describe_denied).is_some_and(|at| !past(at, now, DENIED_FOR))
    }
}

fn again(after: Option<Duration>) -> Again {
    after.map_or(Again::Free, Again::After)
}

pub(super) fn past(at: Timestamp, now: Timestamp, by: Duration) -> bool {
    // A clock that was set back makes it old.
    Duration::try_from(now.duration_since(at)).map_or(true, |age| age >= by)
}
