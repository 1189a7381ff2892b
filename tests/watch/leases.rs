//! Leases: kept alive, replaced in time, made once, revoked when nobody stands on them. Time is paused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use leasehold::config::model::{Limits, Locator, OnStop, SecretConfig, StoreConfig, TlsConfig, VaultAuth, VaultStore};
use leasehold::secret::{Again, Field, Fields, Lease, Reading, SecretBytes, Standing, Version};
use leasehold::state_dir::Keeping;
use leasehold::store::{Store, StoreError, StoreErrorKind};
use leasehold::watch::{Holding, Once, read_once};
use tempfile::tempdir;
use tokio::time::{Instant, sleep};

use crate::world::{Running, World, error, name, secs, values};

const HOUR: Duration = Duration::from_secs(3600);
const NONE: Duration = Duration::ZERO;

/// A dynamic engine: every read mints. Grants `ttl`, renews up to `longest`.
struct Mint {
    ttl: Duration,
    longest: Duration,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    minted: u64,
    /// Id -> made at, ends at.
    alive: BTreeMap<String, (Instant, Instant)>,
    revoked: Vec<String>,
    renewals: u64,
    lookups: u64,
    reads: u64,
    down: bool,
    renewals_fail: bool,
    /// Sessions that were resumed.
    resumed: Vec<String>,
    revision: u64,
    closed: u64,
}

impl Mint {
    fn new(ttl: Duration, longest: Duration) -> Arc<Self> {
        Arc::new(Self { ttl, longest, books: Mutex::default() })
    }

    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    /// What lives now.
    fn alive(&self) -> Vec<String> {
        let now = Instant::now();
        self.books().alive.iter().filter(|(_, (_, end))| *end > now).map(|(id, _)| id.clone()).collect()
    }

    fn lease(&self, id: &str, (_, end): (Instant, Instant)) -> Lease {
        Lease { id: id.to_owned(), duration: end - Instant::now(), renewable: true }
    }

    fn up(&self) -> Result<std::sync::MutexGuard<'_, Books>, StoreError> {
        let books = self.books();
        if books.down { Err(error(StoreErrorKind::Unavailable, "down")) } else { Ok(books) }
    }
}

impl Store for Mint {
    fn read<'a>(&'a self, _locator: &'a Locator) -> BoxFuture<'a, Result<Reading, StoreError>> {
        Box::pin(async move {
            let mut books = self.up()?;
            books.reads += 1;
            books.minted += 1;
            let id = format!("lease-{}", books.minted);
            let now = Instant::now();
            books.alive.insert(id.clone(), (now, now + self.ttl));
            let fields = Fields::from([("user".to_owned(), Field::text(format!("user-{}", books.minted)))]);
            let lease = Some(self.lease(&id, (now, now + self.ttl)));
            Ok(Reading { lease, again: Again::Mints, ..Reading::new(fields, Version(format!("of-{id}"))) })
        })
    }

    fn renew<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Lease, StoreError>> {
        Box::pin(async move {
            let mut books = self.up()?;
            books.renewals += 1;
            if books.renewals_fail {
                return Err(error(StoreErrorKind::Unavailable, "renewals fail"));
            }
            let now = Instant::now();
            let Some((made, end)) = books.alive.get(&lease.id).copied().filter(|(_, end)| *end > now) else {
                return Err(error(StoreErrorKind::Missing, "no such lease"));
            };
            let end = end.max((now + self.ttl).min(made + self.longest));
            books.alive.insert(lease.id.clone(), (made, end));
            Ok(self.lease(&lease.id, (made, end)))
        })
    }

    fn look_up<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Option<Lease>, StoreError>> {
        Box::pin(async move {
            let mut books = self.up()?;
            books.lookups += 1;
            let found = books.alive.get(&lease.id).copied().filter(|(_, end)| *end > Instant::now());
            Ok(found.map(|times| self.lease(&lease.id, times)))
        })
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let mut books = self.up()?;
            books.alive.remove(&lease.id);
            books.revoked.push(lease.id.clone());
            Ok(())
        })
    }

    fn session(&self) -> Option<SecretBytes> {
        Some(SecretBytes::from("the-token"))
    }

    fn session_revision(&self) -> u64 {
        self.books().revision
    }

    fn resume(&self, session: &SecretBytes) {
        self.books().resumed.push(session.expose_str().unwrap().to_owned());
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.books().closed += 1;
        Box::pin(async { Ok(()) })
    }
}

fn database(overlap: Duration) -> SecretConfig {
    let params = BTreeMap::from([("token".to_owned(), serde_json::json!("in-a-param"))]);
    let locator = Locator::Vault { path: "database/creds/app".to_owned(), params };
    SecretConfig { locator, poll: Some(secs(60)), ..crate::world::secret("db", overlap) }
}

fn vault(on_stop: OnStop) -> StoreConfig {
    StoreConfig::Vault(Box::new(VaultStore {
        address: "http://127.0.0.1:1".to_owned(),
        namespace: None,
        tls: TlsConfig::default(),
        auth: VaultAuth::Token { token: None },
        on_stop,
        lease_check: secs(60),
        limits: Limits { in_flight: 8, per_second: 20 },
        timeout: secs(30),
    }))
}

fn world(dir: &tempfile::TempDir, mint: &Arc<Mint>, overlap: Duration) -> World {
    let mut world = World::new(dir.path(), mint, &[database(overlap)], &[("t", &["db"])]);
    world.config.stores.insert("shelf".into(), vault(OnStop::Keep));
    world
}

/// The target says that it stands on these leases, and has taken those.
async fn stands(running: &Running, using: &[u64], newest: &[u64], rejected: bool) {
    stands_of(running, "t", using, newest, rejected).await;
}

async fn stands_of(running: &Running, target: &str, using: &[u64], newest: &[u64], rejected: bool) {
    let keys =
        |of: &[u64]| -> BTreeSet<_> { of.iter().map(|n| (name("db"), Version(format!("of-lease-{n}")))).collect() };
    let standing = Standing { using: keys(using), newest: keys(newest), rejected };
    running.watch.standing(&target.into(), standing).await;
    settle().await;
}

/// Lets everything that is due happen.
async fn settle() {
    sleep(Duration::from_millis(10)).await;
}

#[tokio::test(start_paused = true)]
async fn two_days_of_database_credentials_cost_two_leases_a_few_renewals_and_no_gap() {
    let (dir, mint) = (tempdir().unwrap(), Mint::new(24 * HOUR, 48 * HOUR));
    let running = world(&dir, &mint, NONE).spawn();
    let mut target = running.target("t");
    assert_eq!(values(&target.next().await.0), ["db=user-1"]);
    stands(&running, &[1], &[1], false).await;
    let (second, waited) = target.next().await;
    assert_eq!(values(&second), ["db=user-2"]);
    assert!(waited > 40 * HOUR && waited < 48 * HOUR, "replaced after {waited:?}");
    sleep(HOUR).await;
    assert_eq!(mint.alive(), ["lease-1", "lease-2"], "the old one lives until the target stands on the new one");
    stands(&running, &[2], &[2], false).await;
    assert_eq!(mint.alive(), ["lease-2"]);
    running.stop().await;
    let books = mint.books();
    assert_eq!((books.minted, books.revoked.as_slice()), (2, &["lease-1".to_owned()][..]));
    assert!((2..=4).contains(&books.renewals), "{} renewals", books.renewals);
    assert!(books.lookups <= 49 * 64, "{} lookups", books.lookups);
}

#[tokio::test(start_paused = true)]
async fn a_lease_revoked_behind_our_back_is_replaced_within_the_lease_check() {
    let (dir, mint) = (tempdir().unwrap(), Mint::new(24 * HOUR, 48 * HOUR));
    let running = world(&dir, &mint, NONE).spawn();
    let mut target = running.target("t");
    target.next().await;
    stands(&running, &[1], &[1], false).await;
    let dead = running.watch.dead();
    sleep(HOUR).await;
    mint.books().alive.clear();
    let (second, waited) = target.next().await;
    assert_eq!(values(&second), ["db=user-2"]);
    assert!(waited <= secs(60 + 3 + 10), "after {waited:?}");
    assert!(dead.borrow().contains(&(name("db"), Version("of-lease-1".to_owned()))), "the target is told");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn renewals_that_fail_mint_nothing_until_the_end_is_near() {
    let (dir, mint) = (tempdir().unwrap(), Mint::new(HOUR, 48 * HOUR));
    let running = world(&dir, &mint, NONE).spawn();
    let mut target = running.target("t");
    target.next().await;
    mint.books().renewals_fail = true;
    sleep(45 * secs(60)).await;
    {
        let books = mint.books();
        assert_eq!(books.minted, 1);
        assert!((3..60).contains(&books.renewals), "{} renewals in a row, with backoff", books.renewals);
    }
    let (_, waited) = target.next().await;
    assert!(waited < 15 * secs(60), "replaced before its end: {waited:?}");
    assert_eq!(mint.books().minted, 2);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_mints_nothing_and_costs_a_bounded_number_of_requests() {
    let (dir, mint) = (tempdir().unwrap(), Mint::new(HOUR, 48 * HOUR));
    let running = world(&dir, &mint, NONE).spawn();
    let mut target = running.target("t");
    target.next().await;
    mint.books().down = true;
    target.nothing_for(10 * secs(60)).await;
    assert!(running.status("db").failing_since.is_some(), "the status says since when");
    mint.books().down = false;
    target.nothing_for(10 * secs(60)).await;
    assert!(running.status("db").failing_since.is_none());
    assert_eq!((mint.alive(), mint.books().minted), (vec!["lease-1".to_owned()], 1));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_rotation_refused_is_revoked_and_the_secret_goes_back_to_what_is_in_use() {
    let (dir, mint) = (tempdir().unwrap(), Mint::new(HOUR, HOUR));
    let running = world(&dir, &mint, NONE).spawn();
    let mut target = running.target("t");
    target.next().await;
    stands(&running, &[1], &[1], false).await;
    assert_eq!(values(&target.next().await.0), ["db=user-2"], "replaced before its end");
    stands(&running, &[1], &[2], true).await;
    assert_eq!(mint.alive(), ["lease-1"], "the refused one is revoked");
    assert_eq!(values(&target.next().await.0), ["db=user-1"], "what works is offered again");
    assert_eq!(values(&target.next().await.0), ["db=user-3"], "and another is made, after a while");
    assert_eq!(mint.books().minted, 3);
    stands(&running, &[3], &[3], false).await;
    assert_eq!(mint.alive(), ["lease-3"]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_credentials_before_live_as_long_as_their_overlap() {
    let (dir, mint) = (tempdir().unwrap(), Mint::new(HOUR, HOUR));
    let running = world(&dir, &mint, 5 * secs(60)).spawn();
    let mut target = running.target("t");
    target.next().await;
    stands(&running, &[1], &[1], false).await;
    assert_eq!(values(&target.next().await.0), ["db=user-2", "previous.db=user-1"]);
    stands(&running, &[1, 2], &[1, 2], false).await;
    assert_eq!(mint.alive(), ["lease-1", "lease-2"]);
    let (after, waited) = target.next().await;
    assert_eq!(values(&after), ["db=user-2"]);
    assert!(waited >= 5 * secs(60) - secs(1), "{waited:?}");
    stands(&running, &[2], &[2], false).await;
    assert_eq!(mint.alive(), ["lease-2"]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_overlap_that_begins_when_a_refused_version_is_taken_after_all_keeps_its_lease() {
    let (dir, mint) = (tempdir().unwrap(), Mint::new(10 * HOUR, 10 * HOUR));
    let mut world = world(&dir, &mint, secs(600));
    world.config.targets.insert("u".into(), Arc::new(crate::world::target("u")));
    world.uses.insert("u".into(), BTreeSet::from([name("db")]));
    let running = world.spawn();
    let mut target = running.target("t");
    target.next().await;
    stands(&running, &[1], &[1], false).await;
    assert_eq!(values(&target.next().await.0), ["db=user-2", "previous.db=user-1"]);
    // The other target has not judged it yet, so the secret does not go back.
    stands(&running, &[1], &[1, 2], true).await;
    target.nothing_for(secs(1200)).await;
    for name in ["t", "u"] {
        stands_of(&running, name, &[1, 2], &[1, 2], false).await;
    }
    let (after, waited) = target.next().await;
    assert_eq!(values(&after), ["db=user-2"]);
    assert!(waited > secs(590) && waited < secs(610), "{waited:?}");
    assert_eq!(mint.alive(), ["lease-1", "lease-2"], "until both stand on the new one alone");
    for name in ["t", "u"] {
        stands_of(&running, name, &[2], &[2], false).await;
    }
    assert_eq!(mint.alive(), ["lease-2"]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn twenty_restarts_mint_nothing_and_leave_nothing_behind() {
    let (dir, mint) = (tempdir().unwrap(), Mint::new(24 * HOUR, 48 * HOUR));
    let world = world(&dir, &mint, NONE);
    for life in 0..20 {
        let running = world.spawn();
        let mut target = running.target("t");
        assert_eq!(values(&target.next().await.0), ["db=user-1"], "in life {life}");
        stands(&running, &[1], &[1], false).await;
        mint.books().revision += 1;
        sleep(secs(120)).await;
        running.stop().await;
    }
    let books = mint.books();
    assert_eq!((books.minted, books.revoked.len(), books.resumed.len()), (1, 0, 19));
    assert_eq!(books.resumed.last().map(String::as_str), Some("the-token"));
}

#[tokio::test(start_paused = true)]
async fn where_nothing_may_be_kept_the_leases_of_before_are_revoked_once_the_target_stands_on_new_ones() {
    let (dir, mint) = (tempdir().unwrap(), Mint::new(24 * HOUR, 48 * HOUR));
    let mut world = world(&dir, &mint, NONE);
    world.keeping = Keeping::Nothing;
    let running = world.spawn();
    running.target("t").next().await;
    stands(&running, &[1], &[1], false).await;
    running.stop().await;
    let written = std::fs::read_to_string(dir.path().join("leases.json")).unwrap();
    assert!(written.contains("lease-1"), "{written}");
    for value in ["user-1", "dGhlLXRva2Vu", "in-a-param"] {
        assert!(!written.contains(value), "{value} in {written}");
    }

    let running = world.spawn();
    assert_eq!(values(&running.target("t").next().await.0), ["db=user-2"]);
    sleep(HOUR).await;
    assert_eq!(mint.alive(), ["lease-1", "lease-2"], "its process still has the old one");
    stands(&running, &[2], &[2], false).await;
    assert_eq!(mint.alive(), ["lease-2"]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_at_the_start_does_not_keep_what_is_held_from_the_target() {
    let (dir, mint) = (tempdir().unwrap(), Mint::new(24 * HOUR, 48 * HOUR));
    let world = world(&dir, &mint, NONE);
    let running = world.spawn();
    running.target("t").next().await;
    running.stop().await;
    mint.books().down = true;
    let running = world.spawn();
    assert_eq!(values(&running.target("t").next().await.0), ["db=user-1"]);
    sleep(HOUR).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_ended_while_the_agent_was_away_is_replaced_at_the_start() {
    let (dir, mint) = (tempdir().unwrap(), Mint::new(HOUR, HOUR));
    let world = world(&dir, &mint, NONE);
    let running = world.spawn();
    running.target("t").next().await;
    running.stop().await;
    sleep(2 * HOUR).await;
    let running = world.spawn();
    assert!(running.watch.dead().borrow().contains(&(name("db"), Version("of-lease-1".to_owned()))));
    assert_eq!(values(&running.target("t").next().await.0), ["db=user-2"]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_with_revoke_leaves_nothing_and_ends_the_session() {
    let (dir, mint) = (tempdir().unwrap(), Mint::new(24 * HOUR, 48 * HOUR));
    let mut world = world(&dir, &mint, NONE);
    world.config.stores.insert("shelf".into(), vault(OnStop::Revoke));
    let running = world.spawn();
    running.target("t").next().await;
    running.stop().await;
    assert_eq!((mint.alive().len(), mint.books().closed), (0, 1));
    let running = world.spawn();
    assert_eq!(values(&running.target("t").next().await.0), ["db=user-2"]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refresh_of_everything_mints_nothing_and_one_by_name_does() {
    let (dir, mint) = (tempdir().unwrap(), Mint::new(24 * HOUR, 48 * HOUR));
    let running = world(&dir, &mint, NONE).spawn();
    let mut target = running.target("t");
    target.next().await;
    assert!(running.watch.refresh(None).await.is_empty());
    assert_eq!(mint.books().minted, 1);
    let answers = running.watch.refresh(Some(vec![name("db")])).await;
    assert!(matches!(&answers[..], [(_, Ok(refreshed))] if refreshed.changed));
    assert_eq!(values(&target.next().await.0), ["db=user-2"]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_an_init_container_made_passes_to_the_agent_and_a_dry_run_leaves_nothing() {
    let (dir, mint) = (tempdir().unwrap(), Mint::new(24 * HOUR, 48 * HOUR));
    let world = world(&dir, &mint, NONE);
    let surroundings = world.surroundings();
    let dry = Once { wait: NONE, remember: false };
    let holding = Holding::open(&world.config, &world.stores, &world.uses, &surroundings, false);
    read_once(&world.config, &world.stores, &world.uses, &surroundings, &holding, dry).await.unwrap();
    holding.finish(&world.stores, Instant::now()).await;
    assert_eq!((mint.alive().len(), mint.books().minted), (0, 1));

    let once = Once { wait: NONE, remember: true };
    let holding = Holding::open(&world.config, &world.stores, &world.uses, &surroundings, true);
    read_once(&world.config, &world.stores, &world.uses, &surroundings, &holding, once).await.unwrap();
    holding.finish(&world.stores, Instant::now()).await;
    assert_eq!(mint.alive(), ["lease-2"]);

    let running = world.spawn();
    assert_eq!(values(&running.target("t").next().await.0), ["db=user-2"]);
    assert_eq!(mint.books().minted, 2);
    running.stop().await;
}
