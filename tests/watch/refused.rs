//! Overlaps while every target refuses the newest version.

use std::fs;
use std::path::Path;
use std::time::Duration;

use leasehold::secret::Standing;
use leasehold::watch::memory::FILE;
use tempfile::tempdir;

use crate::world::{Running, Shelf, World, name, reading, secret, secs, values};

const DAY: Duration = Duration::from_secs(86_400);

/// The target says which versions of `a` it stands on, which it was given last, and whether it refused those.
async fn stands(running: &Running, target: &str, using: &[&str], newest: &[&str], rejected: bool) {
    let keys = |values: &[&str]| values.iter().map(|value| (name("a"), reading(value).version)).collect();
    let standing = Standing { using: keys(using), newest: keys(newest), rejected };
    running.watch.standing(&target.into(), standing).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
}

fn remembered(dir: &Path) -> String {
    fs::read_to_string(dir.join(FILE)).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn no_overlap_ends_while_the_newest_version_is_refused_and_one_that_is_taken_then_has_its_whole_overlap() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1")]);
    let world = World::new(dir.path(), &shelf, &[secret("a", DAY)], &[("t", &["a"])]);
    let running = world.spawn();
    let mut target = running.target("t");
    target.next().await;
    stands(&running, "t", &["a1"], &["a1"], false).await;
    shelf.set("a", "a2");
    target.next().await;
    stands(&running, "t", &["a2", "a1"], &["a2", "a1"], false).await;
    tokio::time::sleep(DAY / 2).await;
    shelf.set("a", "a3");
    assert_eq!(values(&target.next().await.0), ["a=a3", "previous.a=a2"]);
    stands(&running, "t", &["a2", "a1"], &["a3", "a2"], true).await;
    let status = running.status("a");
    assert_eq!(
        (status.previous_version, status.previous_until),
        (Some(reading("a2").version), None),
        "no end is known"
    );
    target.nothing_for(30 * DAY).await;

    // An operator released it, and it was good.
    stands(&running, "t", &["a3", "a2"], &["a3", "a2"], false).await;
    let status = running.status("a");
    let left = status.previous_until.expect("an end").duration_since(status.last_success.unwrap());
    assert!(left.as_secs() >= 31 * 86_400, "it begins now: {left:?}");
    let (snapshot, took) = target.next().await;
    assert_eq!(values(&snapshot), ["a=a3"]);
    assert!(took > DAY && took <= DAY + secs(3), "{took:?}");
    assert!(!remembered(dir.path()).contains("a2"), "the old value is gone from the disk");
}

#[tokio::test(start_paused = true)]
async fn a_version_that_comes_after_a_refused_one_has_an_overlap_of_its_own() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1")]);
    let world = World::new(dir.path(), &shelf, &[secret("a", DAY)], &[("t", &["a"])]);
    let running = world.spawn();
    let mut target = running.target("t");
    target.next().await;
    stands(&running, "t", &["a1"], &["a1"], false).await;
    shelf.set("a", "a2");
    target.next().await;
    stands(&running, "t", &["a1"], &["a2", "a1"], true).await;
    target.nothing_for(3 * DAY).await;
    shelf.set("a", "a3");
    assert_eq!(values(&target.next().await.0), ["a=a3", "previous.a=a1"]);
    stands(&running, "t", &["a3", "a1"], &["a3", "a1"], false).await;
    let (snapshot, took) = target.next().await;
    assert_eq!(values(&snapshot), ["a=a3"]);
    assert!(took > DAY - secs(1) && took <= DAY + secs(3), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_outlives_a_restart_and_a_new_config_and_so_does_the_overlap_that_begins_after_it() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1")]);
    let mut world = World::new(dir.path(), &shelf, &[secret("a", DAY)], &[("t", &["a"])]);
    let mut running = world.spawn();
    let mut target = running.target("t");
    target.next().await;
    stands(&running, "t", &["a1"], &["a1"], false).await;
    shelf.set("a", "a2");
    target.next().await;
    stands(&running, "t", &["a1"], &["a2", "a1"], true).await;
    for _ in 0..3 {
        running.stop().await;
        tokio::time::sleep(2 * DAY).await;
        running = world.spawn();
        let mut target = running.target("t");
        assert_eq!(values(&target.next().await.0), ["a=a2", "previous.a=a1"]);
        target.nothing_for(2 * DAY).await;
        running.watch.reconfigure(&world.config, &world.stores, &world.uses).await;
        target.nothing_for(2 * DAY).await;
    }
    stands(&running, "t", &["a2", "a1"], &["a2", "a1"], false).await;
    tokio::time::sleep(DAY / 2).await;
    let until = running.status("a").previous_until;
    assert!(until.is_some_and(|until| remembered(dir.path()).contains(&until.to_string())), "it is on disk at once");
    running.stop().await;
    let running = world.spawn();
    let mut target = running.target("t");
    assert_eq!(values(&target.next().await.0), ["a=a2", "previous.a=a1"]);
    assert_eq!(running.status("a").previous_until, until);
    assert_eq!(values(&target.next().await.0), ["a=a2"]);

    // What an operator takes out of the config goes, refused or not.
    shelf.set("a", "a3");
    assert_eq!(values(&target.next().await.0), ["a=a3", "previous.a=a2"]);
    stands(&running, "t", &["a2"], &["a3", "a2"], true).await;
    world.config.secrets.insert(name("a"), secret("a", Duration::ZERO));
    running.watch.reconfigure(&world.config, &world.stores, &world.uses).await;
    assert_eq!(values(&target.next().await.0), ["a=a3"]);
}

#[tokio::test(start_paused = true)]
async fn an_overlap_ends_in_time_where_any_target_stands_on_the_newest_version() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1")]);
    let uses: &[(&str, &[&str])] = &[("t", &["a"]), ("u", &["a"])];
    let mut world = World::new(dir.path(), &shelf, &[secret("a", DAY)], uses);
    let mut running = world.spawn();
    for name in ["t", "u"] {
        running.target(name).next().await;
        stands(&running, name, &["a1"], &["a1"], false).await;
    }
    let mut target = running.target("t");
    target.next().await;
    shelf.set("a", "a2");
    assert_eq!(values(&target.next().await.0), ["a=a2", "previous.a=a1"]);
    let until = running.status("a").previous_until;
    assert!(until.is_some());
    stands(&running, "t", &["a2", "a1"], &["a2", "a1"], false).await;
    stands(&running, "u", &["a1"], &["a2", "a1"], true).await;
    assert_eq!(running.status("a").previous_until, until);
    // After a restart the one that refused tells first.
    running.stop().await;
    running = world.spawn();
    let mut target = running.target("t");
    target.next().await;
    stands(&running, "u", &["a1"], &["a2", "a1"], true).await;
    stands(&running, "t", &["a2", "a1"], &["a2", "a1"], false).await;
    assert_eq!(running.status("a").previous_until, until);
    // One that is configured away stands on nothing.
    world.config.targets.remove("t");
    world.uses.remove("t");
    running.watch.reconfigure(&world.config, &world.stores, &world.uses).await;
    assert_eq!(running.status("a").previous_until, None);
    let mut target = running.target("u");
    target.next().await;
    target.nothing_for(3 * DAY).await;
}
