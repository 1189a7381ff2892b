//! One round of reading, for a render that ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::memory::Memory;
use super::once_leases::Holding;
use super::overlap::Now;
use super::slot::{Before, Known, Read, Slot, Source};
use super::state::{add, remembered};
use super::{Stores, Surroundings, Uses};
use crate::config::model::{Config, SecretConfig, TargetName};
use crate::schedule::Backoff;
use crate::secret::{Reading, SecretName, Snapshot};
use crate::store::{StoreError, StoreErrorKind};

/// Between attempts within the wait: someone is watching a terminal or a pod's start.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How a single round goes.
#[derive(Clone, Copy, Debug)]
pub struct Once {
    /// How long to wait for stores that do not answer well yet. Zero: one attempt.
    pub wait: Duration,
    /// Whether to write `overlap.json` (false for a dry run).
    pub remember: bool,
}

/// Reads every secret in use until each was read well, and builds each target's snapshot, with `previous` as a running
/// watch would. `Unavailable`, `Malformed` and `Missing` are tried again until the wait is over, `Denied` is not. What `holding` has is not made again. The caller owes that no agent runs on the same `state_dir`.
///
/// # Errors
/// Every secret that could not be read, with its last error.
pub async fn read_once(
    config: &Config,
    stores: &Stores,
    uses: &Uses,
    surroundings: &Surroundings,
    holding: &Holding,
    once: Once,
) -> Result<BTreeMap<TargetName, Snapshot>, Vec<(SecretName, StoreError)>> {
    let now = || Now { wall: (surroundings.clock)(), mono: Instant::now() };
    let until = (!once.wait.is_zero()).then(|| Instant::now() + once.wait);
    let mut memory = Memory::load(&config.state_dir, &surroundings.keeping);
    memory.retain(&config.secrets, now());
    let (mut slots, mut faults) = slots(config, stores, uses, &mut memory, now());
    for (name, slot) in &slots {
        for (_, reading) in remembered(name, &slot.overlap) {
            (surroundings.on_reading)(name, &reading);
        }
    }
    let mut reads: FuturesUnordered<_> = slots
        .values()
        .map(|slot| {
            let (source, secret, known) = (slot.source.clone(), slot.config.clone(), slot.known());
            let dice = Arc::clone(&surroundings.dice);
            async move {
                if let Some(held) = holding.good(&secret, stores, Instant::now()).await {
                    return (secret.name, Ok((Some(Reading::clone(&held)), Before::NotAsked)));
                }
                let read = patiently(source, &secret, known, until, &*dice).await;
                if let Ok((Some(reading), _)) = &read {
                    let reading = Arc::new(reading.clone());
                    holding.hold(&secret, &reading, uses, stores, now()).await;
                }
                (secret.name, read)
            }
        })
        .collect();
    while let Some((name, read)) = reads.next().await {
        match read {
            Err(error) => faults.push((name, error)),
            Ok((reading, before)) => {
                let kept = if let Before::Is(Some(kept)) = &before { Some(kept) } else { None };
                for reading in kept.into_iter().chain(&reading) {
                    (surroundings.on_reading)(&name, reading);
                }
                if let Some(slot) = slots.get_mut(&name) {
                    let _always_news = slot.finish(Ok((reading, before)), now(), 0.5, None);
                }
            }
        }
    }
    drop(reads);
    if !faults.is_empty() {
        faults.sort_by(|a, b| a.0.cmp(&b.0));
        return Err(faults);
    }
    for slot in slots.values_mut() {
        slot.take_up(now());
    }
    if once.remember {
        save(&memory, &slots).await;
    }
    Ok(uses.iter().map(|(target, used)| (target.clone(), snapshot(&slots, used))).collect())
}

type Slots = BTreeMap<SecretName, Slot>;

fn slots(
    config: &Config,
    stores: &Stores,
    uses: &Uses,
    memory: &mut Memory,
    now: Now,
) -> (Slots, Vec<(SecretName, StoreError)>) {
    let sources: BTreeMap<_, _> = stores.iter().map(|(name, store)| (name, Source::new(Arc::clone(store)))).collect();
    let (mut slots, mut faults) = (Slots::new(), Vec::new());
    for name in uses.values().flatten().collect::<BTreeSet<_>>() {
        let found = config.secrets.get(name).and_then(|secret| Some((secret, sources.get(&secret.store)?)));
        match found {
            Some((secret, source)) => {
                let overlap = memory.recall(secret, now);
                slots.insert(name.clone(), Slot::new(0, secret.clone(), source.clone(), overlap));
            }
            None => faults.push((name.clone(), super::slot::unknown(name))),
        }
    }
    (slots, faults)
}

/// Reads until it goes well, cannot go well, or `until` (None: one attempt) is near.
async fn patiently(
    source: Source,
    secret: &SecretConfig,
    known: Known,
    until: Option<Instant>,
    dice: &(dyn Fn() -> f64 + Send + Sync),
) -> Read {
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    let mut last = None;
    loop {
        let read = source.clone().read(secret.name.clone(), secret.locator.clone(), known.clone());
        let read = match until {
            None => return read.await,
            Some(until) => tokio::time::timeout_at(until, read).await,
        };
        let error = match read {
            Ok(Ok(read)) => return Ok(read),
            Ok(Err(error)) => error,
            Err(_elapsed) => return Err(last.unwrap_or_else(|| silent(&secret.name))),
        };
        let left = until.map(|until| until.saturating_duration_since(Instant::now())).unwrap_or_default();
        let hopeless = error.kind == StoreErrorKind::Denied;
        if hopeless || left <= BACKOFF.0 || error.retry_after.is_some_and(|asked| asked >= left) {
            return Err(error);
        }
        // Halving what is left gives the last moments their attempts.
        let pause = backoff.fail(dice(), error.retry_after);
        let pause = if error.retry_after.is_some() { pause } else { pause.min(left / 2) };
        last = Some(error);
        tokio::time::sleep(pause).await;
    }
}

fn silent(name: &SecretName) -> StoreError {
    StoreError {
        kind: StoreErrorKind::Unavailable,
        message: format!("secret {name}: its store did not answer in time"),
        retry_after: None,
    }
}

fn snapshot(slots: &Slots, used: &BTreeSet<SecretName>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for name in used {
        if let Some(slot) = slots.get(name) {
            add(&mut snapshot, name, slot.current.as_ref(), &slot.overlap);
        }
    }
    snapshot
}

async fn save(memory: &Memory, slots: &Slots) {
    let draft = memory.draft(slots.values().map(|slot| (&slot.config, &slot.overlap)));
    let saved = match draft {
        Ok(write) => tokio::task::spawn_blocking(write).await.unwrap_or_else(|stopped| Err(stopped.into())),
        Err(error) => Err(error),
    };
    if let Err(error) = saved {
        tracing::error!(path = %memory.path().display(), "cannot write it: {error}; the next run will not know of overlaps");
    }
}
