//! A store that gathers: its secrets are read together, whatever happened to single ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use leasehold::config::model::{Locator, SecretConfig};
use leasehold::secret::{Again, Reading};
use leasehold::store::{Store, StoreError, StoreErrorKind, Upkeep};
use leasehold::watch::Surroundings;
use tempfile::tempdir;
use tokio::time::Instant;

use crate::world::{Running, World, error, name, reading, secret, secs};

const POLL: Duration = Duration::from_secs(60);
/// Secrets of one request.
const BATCH: usize = 20;
/// Reads under way at once.
const AT_ONCE: usize = 200;
/// Longer than any request takes.
const MOMENT: Duration = Duration::from_millis(550);

/// A store that notes when each read began. Requests take 50 to 500 ms, one after another of the same batch the same.
struct Gatherer {
    gathers: bool,
    began: Mutex<Vec<(Instant, String)>>,
    down: Mutex<Option<StoreError>>,
    single: Mutex<BTreeMap<String, Result<Reading, StoreError>>>,
    asked: AtomicU64,
    under_way: AtomicU64,
    most_under_way: AtomicU64,
}

impl Gatherer {
    fn new(gathers: bool) -> Arc<Self> {
        Arc::new(Self {
            gathers,
            began: Mutex::default(),
            down: Mutex::default(),
            single: Mutex::default(),
            asked: AtomicU64::new(0),
            under_way: AtomicU64::new(0),
            most_under_way: AtomicU64::new(0),
        })
    }

    fn answer(&self, key: &str, answer: Result<Reading, StoreError>) {
        self.single.lock().unwrap().insert(key.to_owned(), answer);
    }

    fn down(&self, error: Option<StoreError>) {
        *self.down.lock().unwrap() = error;
    }

    /// The instants at which reads began since the last call, in order, and how many did at each. Not all of a thousand are
    /// under way at once, so those that follow within moments count as begun with the first, if all together fill
    /// their batches.
    fn instants(&self) -> Vec<(Instant, usize)> {
        let mut instants = BTreeMap::new();
        for (at, _) in self.began.lock().unwrap().drain(..) {
            *instants.entry(at).or_insert(0) += 1;
        }
        if !self.gathers {
            return instants.into_iter().collect();
        }
        let mut rounds: Vec<(Instant, Instant, Vec<usize>)> = Vec::new();
        for (at, reads) in instants {
            match rounds.last_mut().filter(|(_, last, reads)| at - *last < MOMENT && reads[0] >= AT_ONCE) {
                Some((_, last, all)) => (*last, _) = (at, all.push(reads)),
                None => rounds.push((at, at, vec![reads])),
            }
        }
        let round = |(at, _, reads): (Instant, Instant, Vec<usize>)| {
            let all: usize = reads.iter().sum();
            let requests: usize = reads.iter().map(|reads| reads.div_ceil(BATCH)).sum();
            assert!(requests <= all.div_ceil(BATCH) + 1, "{requests} requests for {all} reads: {reads:?}");
            (at, all)
        };
        rounds.into_iter().map(round).collect()
    }
}

fn requests(instants: &[(Instant, usize)]) -> usize {
    instants.iter().map(|(_, reads)| reads.div_ceil(BATCH)).sum()
}

impl Store for Gatherer {
    fn read<'a>(&'a self, locator: &'a Locator) -> BoxFuture<'a, Result<Reading, StoreError>> {
        Box::pin(async move {
            let Locator::File { key } = locator else { panic!("not a file locator") };
            self.began.lock().unwrap().push((Instant::now(), key.clone()));
            let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_under_way.fetch_max(under_way, Ordering::SeqCst);
            let batch = self.asked.fetch_add(1, Ordering::SeqCst) / BATCH as u64;
            tokio::time::sleep(Duration::from_millis(50 + batch % 10 * 50)).await;
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            if let Some(error) = self.down.lock().unwrap().clone() {
                return Err(error);
            }
            self.single.lock().unwrap().get(key).cloned().unwrap_or_else(|| Ok(reading("same")))
        })
    }

    fn gathers(&self) -> bool {
        self.gathers
    }

    fn upkeep(&self, polled: &[(&Locator, Duration)]) -> Option<Upkeep> {
        let shown = polled.iter().map(|(locator, poll)| match locator {
            Locator::File { key } => format!("{key} {poll:?}"),
            _ => panic!("not a file locator"),
        });
        let how = shown.collect::<Vec<_>>().join(", ");
        self.gathers.then(|| Upkeep { how, ..Upkeep::default() })
    }
}

fn polled(key: &str) -> SecretConfig {
    SecretConfig { poll: Some(POLL), ..secret(key, Duration::ZERO) }
}

/// A world of so many polled secrets, with dice that fall anew each time, as `seed` has it.
struct Fleet {
    world: World,
    seed: u64,
    _dir: tempfile::TempDir,
}

impl Fleet {
    fn new(store: &Arc<Gatherer>, secrets: usize, seed: u64) -> Self {
        let dir = tempdir().unwrap();
        let names: Vec<String> = (0..secrets).map(|n| format!("s{n:04}")).collect();
        let configs: Vec<_> = names.iter().map(|name| polled(name)).collect();
        let used: Vec<&str> = names.iter().map(String::as_str).collect();
        Self { world: World::new(dir.path(), store, &configs, &[("t", &used)]), seed, _dir: dir }
    }

    fn spawn(&self) -> Running {
        let state = AtomicU64::new(self.seed);
        let dice = move || {
            // splitmix64
            let mut z = state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst).wrapping_add(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
        };
        self.world.spawn_with(Surroundings { dice: Arc::new(dice), ..self.world.surroundings() })
    }
}

/// Proves that all secrets are read together, once in each of so many intervals. Ends half-way between two ticks.
async fn one_tick_each(store: &Gatherer, secrets: usize, intervals: u32) {
    settle_between_ticks(store).await;
    let began = Instant::now();
    tokio::time::sleep(POLL * intervals).await;
    let instants = store.instants();
    let whole: Vec<_> = instants.iter().map(|(_, reads)| *reads).collect();
    assert!(whole.iter().all(|reads| *reads == secrets), "read at each instant: {whole:?}");
    let least = intervals * 9 / 11;
    let most = intervals * 10 / 9 + 1;
    assert!((least..=most).contains(&(whole.len() as u32)), "{} ticks in {intervals} polls", whole.len());
    let mut before = began;
    for (at, _) in instants {
        assert!(at - before <= POLL.mul_f64(1.1) + secs(1), "{:?} between two ticks", at - before);
        before = at;
    }
}

/// Waits until a round has just ended.
async fn settle_between_ticks(store: &Gatherer) {
    store.instants();
    tokio::time::timeout(POLL * 2, async {
        while store.instants().is_empty() {
            tokio::time::sleep(secs(1)).await;
        }
    })
    .await
    .expect("a round");
    tokio::time::sleep(secs(2)).await;
    store.instants();
}

#[tokio::test(start_paused = true)]
async fn a_thousand_secrets_stay_on_one_tick_and_are_read_two_hundred_at_a_time() {
    let store = Gatherer::new(true);
    let fleet = Fleet::new(&store, 1000, 1);
    let running = fleet.spawn();
    running.target("t").next().await;
    assert_eq!(store.instants().len(), 1, "the first reads, too");
    one_tick_each(&store, 1000, 100).await;
    assert_eq!(store.most_under_way.load(Ordering::SeqCst), AT_ONCE as u64);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_gather_is_read_as_ever_each_secret_for_itself_and_so_many_at_once() {
    let store = Gatherer::new(false);
    let fleet = Fleet::new(&store, 200, 1);
    let running = fleet.spawn();
    running.target("t").next().await;
    store.instants();
    tokio::time::sleep(POLL * 3).await;
    assert!(store.instants().len() > 500, "spread out over the poll");
    assert_eq!(store.most_under_way.load(Ordering::SeqCst), 32);
}

#[tokio::test(start_paused = true)]
async fn who_failed_alone_or_was_refreshed_comes_back_to_the_tick_of_all() {
    let store = Gatherer::new(true);
    let fleet = Fleet::new(&store, 100, 2);
    let running = fleet.spawn();
    running.target("t").next().await;
    store.answer("s0007", Err(error(StoreErrorKind::Unavailable, "not now")));
    store.answer("s0008", Err(error(StoreErrorKind::Denied, "no")));
    settle_between_ticks(&store).await;
    tokio::time::sleep(POLL * 3).await;
    assert!(running.status("s0007").failures > 3 && running.status("s0008").failures > 3);
    let instants = store.instants();
    let rounds = instants.iter().filter(|(_, reads)| *reads >= 98).count();
    assert!((2..=4).contains(&rounds), "the others do not care: {instants:?}");
    assert!(instants.len() < rounds + 25, "two that fail back off together: {}", instants.len());
    store.answer("s0007", Ok(reading("good")));
    store.answer("s0008", Ok(reading("good")));
    tokio::time::sleep(POLL * 2).await;
    one_tick_each(&store, 100, 20).await;

    tokio::time::sleep(secs(10)).await;
    running.watch.refresh(Some(vec![name("s0001")])).await;
    tokio::time::sleep(POLL * 2).await;
    one_tick_each(&store, 100, 20).await;
    running.watch.refresh(None).await;
    one_tick_each(&store, 100, 20).await;
}

#[tokio::test(start_paused = true)]
async fn a_refresh_under_way_when_the_tick_comes_causes_no_second_round() {
    let store = Gatherer::new(true);
    let mut fleet = Fleet::new(&store, 100, 3);
    fleet.world.die = 0.5;
    let running = fleet.world.spawn();
    running.target("t").next().await;
    settle_between_ticks(&store).await;
    // With a die that always falls the same the next tick is known: one poll after the first answer of the last.
    let next = running.status("s0000").next_read.unwrap();
    let now = (fleet.world.surroundings().clock)();
    let left = Duration::try_from(next.duration_since(now)).unwrap();
    tokio::time::sleep(left - Duration::from_millis(10)).await;
    running.watch.refresh(None).await;
    tokio::time::sleep(secs(5)).await;
    let reads: usize = store.instants().iter().map(|(_, reads)| reads).sum();
    assert_eq!(reads, 100, "those under way will do");
    one_tick_each(&store, 100, 10).await;
}

#[tokio::test(start_paused = true)]
async fn what_its_store_wants_read_earlier_is_and_the_others_stay_on_their_tick() {
    let store = Gatherer::new(true);
    let fleet = Fleet::new(&store, 50, 4);
    let mut soon = reading("rotating");
    soon.again = Again::After(secs(10));
    store.answer("s0003", Ok(soon));
    let mut ending = reading("ending");
    ending.expires_at = Some((fleet.world.surroundings().clock)() + POLL * 20);
    store.answer("s0004", Ok(ending));
    let running = fleet.spawn();
    running.target("t").next().await;
    settle_between_ticks(&store).await;
    tokio::time::sleep(POLL * 10).await;
    let instants = store.instants();
    let rounds: Vec<_> = instants.iter().filter(|(_, reads)| *reads >= 49).collect();
    let alone = instants.len() - rounds.len();
    assert!((8..=12).contains(&rounds.len()) && instants.iter().all(|(_, n)| *n == 1 || *n >= 49), "{instants:?}");
    assert!((40..=60).contains(&alone), "every 10 s, more or less: {alone}");

    // Those that rotate together are read together.
    for key in ["s0003", "s0010", "s0020", "s0049"] {
        let mut soon = reading("rotating");
        soon.again = Again::After(secs(10));
        store.answer(key, Ok(soon));
    }
    settle_between_ticks(&store).await;
    tokio::time::sleep(POLL * 10).await;
    let instants = store.instants();
    assert!((50..=75).contains(&instants.len()), "{}: {instants:?}", instants.len());

    for key in ["s0003", "s0010", "s0020", "s0049", "s0004"] {
        store.answer(key, Ok(reading("calm")));
    }
    tokio::time::sleep(POLL * 2).await;
    one_tick_each(&store, 50, 20).await;
}

#[tokio::test(start_paused = true)]
async fn a_reading_that_ends_is_read_before_its_end() {
    let store = Gatherer::new(true);
    let mut fleet = Fleet::new(&store, 3, 5);
    let mut ending = reading("ending");
    ending.expires_at = Some((fleet.world.surroundings().clock)() + secs(100));
    store.answer("s0001", Ok(ending));
    for secret in fleet.world.config.secrets.values_mut() {
        secret.poll = Some(secs(3600));
    }
    fleet.world.die = 0.0;
    let running = fleet.world.spawn();
    running.target("t").next().await;
    store.instants();
    tokio::time::sleep(secs(79)).await;
    assert!(store.instants().is_empty());
    tokio::time::sleep(secs(2)).await;
    assert_eq!(store.instants().len(), 1, "at 80 % of what remains");
}

#[tokio::test(start_paused = true)]
async fn secrets_that_a_new_config_adds_join_the_tick_and_a_changed_poll_has_one_of_its_own() {
    let store = Gatherer::new(true);
    let fleet = Fleet::new(&store, 100, 6);
    let running = fleet.spawn();
    running.target("t").next().await;
    settle_between_ticks(&store).await;
    let mut more = Fleet::new(&store, 130, 6);
    more.world.stores.clone_from(&fleet.world.stores);
    more.world.config.state_dir.clone_from(&fleet.world.config.state_dir);
    tokio::time::sleep(secs(10)).await;
    running.watch.reconfigure(&more.world.config, &more.world.stores, &more.world.uses).await;
    running.target("t").next().await;
    assert_eq!(store.instants().into_iter().map(|(_, reads)| reads).collect::<Vec<_>>(), [30], "what is new, at once");
    one_tick_each(&store, 130, 20).await;

    for secret in more.world.config.secrets.values_mut().take(40) {
        secret.poll = Some(POLL * 2);
    }
    running.watch.reconfigure(&more.world.config, &more.world.stores, &more.world.uses).await;
    tokio::time::sleep(POLL * 3).await;
    store.instants();
    tokio::time::sleep(POLL * 20).await;
    let reads: BTreeSet<_> = store.instants().into_iter().map(|(_, reads)| reads).collect();
    assert!(reads.contains(&90) && reads.contains(&40) && reads.iter().all(|n| [40, 90].contains(n)), "{reads:?}");
}

#[tokio::test(start_paused = true)]
async fn two_agents_do_not_share_their_ticks() {
    let (one, other) = (Gatherer::new(true), Gatherer::new(true));
    let (a, b) = (Fleet::new(&one, 20, 7), Fleet::new(&other, 20, 8));
    let (first, second) = (a.spawn(), b.spawn());
    first.target("t").next().await;
    second.target("t").next().await;
    one.instants();
    other.instants();
    tokio::time::sleep(POLL * 50).await;
    let (one, other) = (one.instants(), other.instants());
    assert!(one.len() > 40 && other.len() > 40);
    let near = one.iter().filter(|(at, _)| other.iter().any(|(b, _)| b.max(at).duration_since(*b.min(at)) < secs(1)));
    let near = near.count();
    assert!(near < one.len() / 4, "{near} of {} ticks are shared", one.len());
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_a_thousand_secrets_is_retried_and_ends_in_batches() {
    let store = Gatherer::new(true);
    let fleet = Fleet::new(&store, 1000, 9);
    let running = fleet.spawn();
    running.target("t").next().await;
    settle_between_ticks(&store).await;
    store.down(Some(error(StoreErrorKind::Unavailable, "throttled")));
    tokio::time::sleep(POLL * 20).await;
    let instants = store.instants();
    let reads: usize = instants.iter().map(|(_, reads)| reads).sum();
    assert!(reads > 20_000, "tried again and again: {reads}");
    assert!(requests(&instants) <= reads / BATCH * 11 / 10, "{} requests for {reads} reads", requests(&instants));
    assert!(running.status("s0500").failures > 20);
    let gaps = instants.windows(2).filter(|pair| pair[0].1 == 1000 && pair[1].1 == 1000);
    let gaps: BTreeSet<_> = gaps.map(|pair| (pair[1].0 - pair[0].0).as_secs() / 5).collect();
    assert!(gaps.len() > 3, "the jitter is full: {gaps:?}");

    store.down(None);
    tokio::time::sleep(secs(70)).await;
    let back = store.instants();
    assert!(requests(&back) <= 2 * 55, "they come back as batches: {} requests", requests(&back));
    assert_eq!(running.status("s0500").failures, 0);
    one_tick_each(&store, 1000, 20).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_asks_for_time_is_not_asked_earlier_by_any_of_its_secrets() {
    let store = Gatherer::new(true);
    let fleet = Fleet::new(&store, 200, 10);
    let running = fleet.spawn();
    running.target("t").next().await;
    settle_between_ticks(&store).await;
    let busy = StoreError { retry_after: Some(secs(120)), ..error(StoreErrorKind::Unavailable, "throttled") };
    store.down(Some(busy));
    tokio::time::sleep(POLL * 30).await;
    let instants = store.instants();
    let together: Vec<_> = instants.iter().map(|(_, reads)| *reads).collect();
    assert!(together.len() > 10 && together.iter().all(|reads| *reads == 200), "{together:?}");
    for pair in instants.windows(2) {
        let gap = pair[1].0 - pair[0].0;
        assert!(gap >= secs(120) && gap < secs(134), "{gap:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_upkeep_of_a_store_is_asked_for_the_secrets_of_it_that_are_in_use_and_polled() {
    let store = Gatherer::new(true);
    let mut fleet = Fleet::new(&store, 4, 11);
    fleet.world.config.secrets.get_mut(&name("s0001")).unwrap().poll = None;
    fleet.world.config.secrets.get_mut(&name("s0002")).unwrap().poll = Some(secs(300));
    fleet.world.uses.get_mut("t").unwrap().remove(&name("s0003"));
    let free: Arc<dyn Store> = Gatherer::new(false);
    fleet.world.stores.insert("free".into(), free);
    let running = fleet.spawn();
    running.target("t").next().await;
    let upkeep: Vec<_> = running.watch.upkeep().into_iter().map(|(store, upkeep)| (store, upkeep.how)).collect();
    assert_eq!(upkeep, [("shelf".into(), "s0000 60s, s0002 300s".to_owned())]);
}
