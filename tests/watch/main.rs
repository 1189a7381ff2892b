//! The watch in paused time, on a store in memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests are tests, too")]

mod gathering;
mod leases;
mod memory;
mod once;
mod refused;
mod world;

use std::sync::Arc;
use std::time::Duration;

use leasehold::store::StoreErrorKind;
use tempfile::tempdir;
use tokio::time::Instant;
use world::{Shelf, World, error, name, reading, secret, secs, values};

const NONE: Duration = Duration::ZERO;

#[tokio::test(start_paused = true)]
async fn a_target_gets_nothing_until_each_of_its_secrets_was_read_and_the_status_says_why() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1")]);
    let world = World::new(
        dir.path(),
        &shelf,
        &[secret("a", NONE), secret("b", NONE)],
        &[("one", &["a"]), ("both", &["a", "b"])],
    );
    let running = world.spawn();
    let (mut one, mut both) = (running.target("one"), running.target("both"));
    assert_eq!(values(&one.next().await.0), ["a=a1"]);
    both.nothing_for(secs(3600)).await;
    assert!(both.is_none());

    let status = running.status("b");
    assert_eq!(status.error, Some(error(StoreErrorKind::Missing, "not on the shelf")));
    assert!(status.failing_since.is_some() && status.failures > 30 && status.errors == u64::from(status.failures));
    assert_eq!((status.version, status.last_success), (None, None));
    assert!(status.next_read.is_some(), "it is tried again");
    assert_eq!(running.status("a").targets.len(), 2);

    shelf.answer("b", Ok(reading("b1")));
    let (snapshot, took) = both.next().await;
    assert_eq!(values(&snapshot), ["a=a1", "b=b1"]);
    assert!(took <= secs(60), "the backoff is capped: {took:?}");
    one.nothing_for(secs(100)).await;
    assert!(running.watch.snapshots("other").is_none());
}

#[tokio::test(start_paused = true)]
async fn the_first_snapshot_comes_at_once_and_changes_after_they_have_settled() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1"), ("b", "b1")]);
    let mut world = World::new(dir.path(), &shelf, &[secret("a", NONE), secret("b", NONE)], &[("t", &["a", "b"])]);
    let splayed = world.config.targets.get_mut("t").map(Arc::make_mut).unwrap();
    splayed.splay = secs(30);
    let running = world.spawn();
    let mut target = running.target("t");
    let (_, took) = target.next().await;
    assert_eq!(took, NONE, "neither settle nor splay holds the first one up");

    shelf.set("a", "a2");
    tokio::time::sleep(secs(1)).await;
    shelf.set("b", "b2");
    let (snapshot, took) = target.next().await;
    assert_eq!(values(&snapshot), ["a=a2", "b=b2"]);
    assert_eq!(took, secs(2 + 15), "2 s of quiet, and half of the splay as the die fell");
    target.nothing_for(secs(100)).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_rests_is_acted_on_after_max() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "0")]);
    let world = World::new(dir.path(), &shelf, &[secret("a", NONE)], &[("t", &["a"])]);
    let running = world.spawn();
    let mut target = running.target("t");
    target.next().await;
    let began = Instant::now();
    let restless = Arc::clone(&shelf);
    tokio::spawn(async move {
        for n in 1..40 {
            restless.set("a", &n.to_string());
            tokio::time::sleep(secs(1)).await;
        }
    });
    target.next().await;
    assert_eq!(began.elapsed(), secs(10));
}

#[tokio::test(start_paused = true)]
async fn what_is_as_it_was_is_not_sent_again() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1")]);
    let world = World::new(dir.path(), &shelf, &[secret("a", secs(60))], &[("t", &["a"])]);
    let running = world.spawn();
    let mut target = running.target("t");
    target.next().await;
    shelf.set("a", "a1");
    target.nothing_for(secs(60)).await;
    shelf.set("a", "a2");
    tokio::time::sleep(secs(1)).await;
    shelf.set("a", "a1");
    target.nothing_for(secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_read_keeps_the_last_good_reading_and_says_so() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1")]);
    let world = World::new(dir.path(), &shelf, &[secret("a", NONE)], &[("t", &["a"])]);
    let running = world.spawn();
    let mut target = running.target("t");
    target.next().await;
    let good = running.status("a").last_success;

    shelf.fail("a", StoreErrorKind::Malformed, "half-written");
    target.nothing_for(secs(300)).await;
    let status = running.status("a");
    assert_eq!(status.error, Some(error(StoreErrorKind::Malformed, "half-written")));
    assert_eq!((status.last_success, status.version), (good, Some(reading("a1").version)));
    assert!(status.last_attempt > good && status.failing_since > good || status.failing_since == good);
    assert!((6..=20).contains(&status.failures), "backed off: {} reads in 300 s", status.failures);

    shelf.set("a", "a2");
    assert_eq!(values(&target.next().await.0), ["a=a2"]);
    let status = running.status("a");
    assert_eq!((status.error, status.failing_since, status.failures, status.next_read), (None, None, 0, None));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_asks_to_be_left_alone_is() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[]);
    let mut busy = error(StoreErrorKind::Unavailable, "throttled");
    busy.retry_after = Some(secs(120));
    shelf.answer("a", Err(busy));
    let world = World::new(dir.path(), &shelf, &[secret("a", NONE)], &[("t", &["a"])]);
    let running = world.spawn();
    running.target("t").nothing_for(secs(119)).await;
    assert_eq!(shelf.reads(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_polled_secret_is_read_again_soon_then_give_or_take_a_tenth_and_before_it_expires() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1")]);
    let mut polled = secret("a", NONE);
    polled.poll = Some(secs(100));
    let mut world = World::new(dir.path(), &shelf, &[polled], &[("t", &["a"])]);
    world.die = 0.0;
    let running = world.spawn();
    let mut target = running.target("t");
    target.next().await;
    shelf.answer("a", Ok(reading("a2")));
    let (_, took) = target.next().await;
    assert_eq!(took, secs(10 + 2), "the first time, anywhere within the poll, as the die fell");
    shelf.answer("a", Ok(reading("a4")));
    let (_, took) = target.next().await;
    assert_eq!(took, secs(88 + 2), "2 s of the 90 had passed when the change had settled");

    let mut ending = reading("a3");
    ending.expires_at = Some((world.surroundings().clock)() + secs(200));
    shelf.answer("a", Ok(ending));
    target.next().await;
    let reads = shelf.reads();
    tokio::time::sleep(secs(120)).await;
    assert!(shelf.reads() > reads, "read before its end");
}

#[tokio::test(start_paused = true)]
async fn a_refresh_reads_now_and_answers_what_it_found() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1"), ("b", "b1")]);
    let world = World::new(dir.path(), &shelf, &[secret("a", NONE), secret("b", NONE)], &[("t", &["a", "b"])]);
    let running = world.spawn();
    running.target("t").next().await;
    shelf.answer("a", Ok(reading("a2")));
    shelf.answer("b", Err(error(StoreErrorKind::Denied, "no")));
    let answers = running.watch.refresh(None).await;
    assert_eq!(answers.len(), 2);
    let a = answers[0].1.as_ref().unwrap();
    assert_eq!((&a.version, a.changed), (&reading("a2").version, true));
    assert_eq!(answers[1].1.as_ref().unwrap_err().kind, StoreErrorKind::Denied);
    let answers = running.watch.refresh(Some(vec![name("a"), name("nobody")])).await;
    assert!(!answers[0].1.as_ref().unwrap().changed);
    assert_eq!(answers[1].1.as_ref().unwrap_err().kind, StoreErrorKind::Missing);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_does_not_take_the_answer_of_a_read_that_began_before_it() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "old")]);
    let world = World::new(dir.path(), &shelf, &[secret("a", NONE)], &[("t", &["a"])]);
    shelf.gate.forget_permits(1_000_000);
    let running = world.spawn();
    tokio::time::sleep(secs(1)).await;
    assert_eq!(shelf.reads(), 1);
    shelf.answer("a", Ok(reading("new")));
    let asking = running.watch.clone();
    let refresh = tokio::spawn(async move { asking.refresh(None).await });
    tokio::time::sleep(secs(1)).await;
    shelf.gate.add_permits(1_000_000);
    let answers = tokio::time::timeout(secs(10), refresh).await.expect("an answer").unwrap();
    assert_eq!(answers[0].1.as_ref().unwrap().version, reading("new").version);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_hangs_ends_and_says_so() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1")]);
    shelf.gate.forget_permits(1_000_000);
    let world = World::new(dir.path(), &shelf, &[secret("a", NONE)], &[("t", &["a"])]);
    let running = world.spawn();
    running.target("t").nothing_for(secs(61)).await;
    assert_eq!(running.status("a").error.map(|error| error.kind), Some(StoreErrorKind::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn every_new_reading_is_shown_to_the_masks_before_it_is_emitted() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1")]);
    let world = World::new(dir.path(), &shelf, &[secret("a", secs(60))], &[("t", &["a"])]);
    let running = world.spawn();
    let mut target = running.target("t");
    for value in ["a1", "a2", "a3"] {
        shelf.set("a", value);
        target.next().await;
        let seen = world.seen.lock().unwrap().clone();
        assert_eq!(seen.last(), Some(&(name("a"), reading(value).version)));
    }
    assert_eq!(world.seen.lock().unwrap().len(), 3, "once each");
}

#[tokio::test(start_paused = true)]
async fn a_new_config_reads_what_is_new_and_leaves_alone_what_is_not() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1"), ("b", "b1"), ("c", "c1")]);
    let secrets = [secret("a", NONE), secret("b", NONE)];
    let world = World::new(dir.path(), &shelf, &secrets, &[("t", &["a", "b"]), ("goes", &["b"]), ("stays", &["a"])]);
    let running = world.spawn();
    let (mut t, mut goes, mut stays) = (running.target("t"), running.target("goes"), running.target("stays"));
    t.next().await;
    goes.next().await;
    stays.next().await;
    assert_eq!(shelf.reads(), 2);

    let mut changed = World::new(
        dir.path(),
        &shelf,
        &[secret("a", NONE), secret("c", NONE)],
        &[("t", &["a", "c"]), ("stays", &["a"]), ("comes", &["a"])],
    );
    changed.stores = world.stores.clone();
    running.watch.reconfigure(&changed.config, &changed.stores, &changed.uses).await;
    let mut comes = running.target("comes");
    let (snapshot, took) = t.next().await;
    assert_eq!((values(&snapshot), took), (vec!["a=a1".to_owned(), "c=c1".to_owned()], NONE));
    assert_eq!(values(&comes.next().await.0), ["a=a1"], "who comes late sees what is there");
    assert!(goes.closed().await);
    stays.nothing_for(secs(100)).await;
    comes.nothing_for(secs(1)).await;
    assert_eq!(shelf.reads(), 3, "only c was read");
    assert!(running.watch.status().iter().all(|status| status.name != name("b")));

    // The same secret in another place is another secret.
    let mut moved = secret("a", NONE);
    moved.locator = leasehold::config::model::Locator::File { key: "b".to_owned() };
    changed.config.secrets.insert(name("a"), moved);
    shelf.gate.forget_permits(1_000_000);
    running.watch.reconfigure(&changed.config, &changed.stores, &changed.uses).await;
    assert!(t.is_none() && stays.is_none(), "not known until it is read");
    shelf.gate.add_permits(1_000_000);
    assert_eq!(values(&t.next().await.0), ["a=b1", "c=c1"]);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_secrets_of_one_target_are_one_snapshot() {
    let dir = tempdir().unwrap();
    let names: Vec<String> = (0..10_000).map(|n| format!("s{n}")).collect();
    let pairs: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
    let shelf = Shelf::new(&pairs);
    let secrets: Vec<_> = names.iter().map(|name| secret(name, NONE)).collect();
    let used: Vec<&str> = names.iter().map(String::as_str).collect();
    let world = World::new(dir.path(), &shelf, &secrets, &[("t", &used)]);
    let running = world.spawn();
    let mut target = running.target("t");
    assert_eq!(target.next().await.0.secrets.len(), 10_000);
    shelf.set("s77", "w");
    assert_eq!(values(&target.next().await.0).iter().filter(|value| value.ends_with("=w")).count(), 1);
    running.stop().await;
    assert!(target.closed().await);
}
