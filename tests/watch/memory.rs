//! Overlaps, and what is remembered of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use leasehold::seal::{Seal, is_sealed};
use leasehold::state_dir::Keeping;
use leasehold::watch::memory::FILE;
use tempfile::tempdir;

use crate::world::{Shelf, World, name, reading, secret, secs, values};

const DAY: Duration = Duration::from_secs(86_400);

fn remembered(dir: &Path) -> String {
    fs::read_to_string(dir.join(FILE)).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn the_version_before_stays_while_the_overlap_lasts_and_its_end_is_a_new_snapshot() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1")]);
    let world = World::new(dir.path(), &shelf, &[secret("a", DAY)], &[("t", &["a"])]);
    let running = world.spawn();
    let mut target = running.target("t");
    assert_eq!(values(&target.next().await.0), ["a=a1"]);
    shelf.set("a", "a2");
    assert_eq!(values(&target.next().await.0), ["a=a2", "previous.a=a1"]);
    let status = running.status("a");
    assert_eq!(status.previous_version, Some(reading("a1").version));
    let until = status.previous_until.expect("an end");
    assert!(until > status.changed_at.unwrap() + DAY && until < status.changed_at.unwrap() + DAY + secs(10));
    assert!(remembered(dir.path()).contains("a1"));

    let (snapshot, took) = target.next().await;
    assert_eq!(values(&snapshot), ["a=a2"]);
    assert_eq!(took, DAY + secs(2), "it ends, and settles");
    assert!(!remembered(dir.path()).contains("a1"), "the old value is gone from the disk");
    assert_eq!(running.status("a").previous_until, None);
}

#[tokio::test(start_paused = true)]
async fn what_was_never_in_use_never_becomes_previous() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1")]);
    let world = World::new(dir.path(), &shelf, &[secret("a", DAY)], &[("t", &["a"])]);
    let running = world.spawn();
    let mut target = running.target("t");
    target.next().await;
    shelf.set("a", "half");
    tokio::time::sleep(secs(1)).await;
    shelf.set("a", "whole");
    assert_eq!(values(&target.next().await.0), ["a=whole", "previous.a=a1"]);
}

#[tokio::test(start_paused = true)]
async fn a_change_while_the_agent_was_down_still_has_its_previous() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1")]);
    let world = World::new(dir.path(), &shelf, &[secret("a", DAY)], &[("t", &["a"])]);
    let running = world.spawn();
    running.target("t").next().await;
    running.stop().await;
    world.seen.lock().unwrap().clear();

    shelf.set("a", "a2");
    let running = world.spawn();
    assert_eq!(world.seen.lock().unwrap().first(), Some(&(name("a"), reading("a1").version)), "masked from the start");
    assert_eq!(values(&running.target("t").next().await.0), ["a=a2", "previous.a=a1"]);
}

#[tokio::test(start_paused = true)]
async fn a_restart_neither_cuts_an_overlap_short_nor_prolongs_it() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1")]);
    let world = World::new(dir.path(), &shelf, &[secret("a", DAY)], &[("t", &["a"])]);
    let mut running = world.spawn();
    running.target("t").next().await;
    shelf.set("a", "a2");
    running.target("t").next().await;
    tokio::time::sleep(secs(10)).await;
    let (until, changed) = (running.status("a").previous_until, running.status("a").changed_at);
    for _ in 0..3 {
        running.stop().await;
        tokio::time::sleep(DAY / 4).await;
        running = world.spawn();
        assert_eq!(values(&running.target("t").next().await.0), ["a=a2", "previous.a=a1"]);
        assert_eq!((running.status("a").previous_until, running.status("a").changed_at), (until, changed));
    }
    let mut target = running.target("t");
    target.next().await;
    let (snapshot, took) = target.next().await;
    assert_eq!(values(&snapshot), ["a=a2"]);
    assert!(took < DAY / 4 + secs(10) && took > DAY / 5, "{took:?}");

    // One that ended while the agent was down is over at once.
    shelf.set("a", "a3");
    target.next().await;
    running.stop().await;
    tokio::time::sleep(DAY).await;
    let running = world.spawn();
    assert_eq!(values(&running.target("t").next().await.0), ["a=a3"]);
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_was_set_back_does_not_prolong_an_overlap_beyond_its_length() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1")]);
    let world = World::new(dir.path(), &shelf, &[secret("a", DAY)], &[("t", &["a"])]);
    let running = world.spawn();
    let mut target = running.target("t");
    target.next().await;
    shelf.set("a", "a2");
    target.next().await;
    world.step.store(-30 * 86_400, Ordering::SeqCst);
    target.nothing_for(DAY - secs(1)).await;
    let (snapshot, _) = target.next().await;
    assert_eq!(values(&snapshot), ["a=a2"], "a running overlap does not see the wall clock");

    shelf.set("a", "a3");
    target.next().await;
    running.stop().await;
    world.step.store(-60 * 86_400, Ordering::SeqCst);
    let running = world.spawn();
    let mut target = running.target("t");
    assert_eq!(values(&target.next().await.0), ["a=a3", "previous.a=a2"]);
    let (_, took) = target.next().await;
    assert_eq!(took, DAY + secs(2));
}

#[tokio::test(start_paused = true)]
async fn the_memory_is_private_and_holds_no_value_without_an_overlap() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("on", "canary-on"), ("aged", "canary-aged"), ("plain", "canary-plain")]);
    let mut aged = secret("aged", Duration::ZERO);
    aged.max_age = Some(DAY);
    let secrets = [secret("on", DAY), aged, secret("plain", Duration::ZERO)];
    let mut world = World::new(dir.path(), &shelf, &secrets, &[("t", &["on", "aged", "plain"])]);
    let running = world.spawn();
    running.target("t").next().await;
    let text = remembered(dir.path());
    assert!(text.contains("canary-on\"") && text.contains("\"aged\""));
    assert!(!text.contains("\"canary-aged\"") && !text.contains("canary-plain"));
    let mode = fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left there");

    // The age of a secret outlives a restart; an overlap that is taken away takes its values along.
    let changed = running.status("aged").changed_at;
    running.stop().await;
    tokio::time::sleep(DAY).await;
    world.config.secrets.insert(name("on"), secret("on", Duration::ZERO));
    let running = world.spawn();
    running.target("t").next().await;
    assert_eq!(running.status("aged").changed_at, changed);
    running.stop().await;
    assert!(!remembered(dir.path()).contains("canary-on"), "{}", remembered(dir.path()));
}

#[tokio::test(start_paused = true)]
async fn under_a_key_the_memory_is_sealed_and_a_restart_knows_the_version_before() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "canary1")]);
    let mut world = World::new(dir.path(), &shelf, &[secret("a", DAY)], &[("t", &["a"])]);
    // Written in the clear before there was a key.
    let running = world.spawn();
    running.target("t").next().await;
    running.stop().await;
    assert!(remembered(dir.path()).contains("canary1"));
    world.keeping = Keeping::of(Seal::new(&[1; 32]), false);
    let mut running = world.spawn();
    let mut target = running.target("t");
    target.next().await;
    tokio::time::sleep(secs(30)).await;
    assert!(is_sealed(&fs::read(dir.path().join(FILE)).unwrap()), "by a start alone");
    shelf.set("a", "canary2");
    target.next().await;
    for _ in 0..2 {
        running.stop().await;
        let bytes = fs::read(dir.path().join(FILE)).unwrap();
        assert!(is_sealed(&bytes) && !String::from_utf8_lossy(&bytes).contains("canary"));
        running = world.spawn();
        assert_eq!(values(&running.target("t").next().await.0), ["a=canary2", "previous.a=canary1"]);
    }
    running.stop().await;
    world.keeping = Keeping::of(Seal::new(&[2; 32]), false);
    let running = world.spawn();
    assert_eq!(values(&running.target("t").next().await.0), ["a=canary2"], "another key opens nothing");
}

#[tokio::test(start_paused = true)]
async fn on_a_disk_without_a_key_only_versions_and_times_are_remembered() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "canary1")]);
    let mut world = World::new(dir.path(), &shelf, &[secret("a", DAY)], &[("t", &["a"])]);
    let running = world.spawn();
    let mut target = running.target("t");
    target.next().await;
    shelf.set("a", "canary2");
    assert_eq!(values(&target.next().await.0), ["a=canary2", "previous.a=canary1"]);
    running.stop().await;
    assert!(remembered(dir.path()).contains("\"canary1\""));

    world.keeping = Keeping::Nothing;
    let running = world.spawn();
    let mut target = running.target("t");
    assert_eq!(values(&target.next().await.0), ["a=canary2", "previous.a=canary1"], "what was there is used once");
    let changed = running.status("a").changed_at;
    tokio::time::sleep(secs(30)).await;
    let values_in = |text: &str| text.contains("\"fields\"");
    assert!(!values_in(&remembered(dir.path())), "and removed: {}", remembered(dir.path()));
    running.stop().await;
    assert!(!values_in(&remembered(dir.path())) && remembered(dir.path()).contains("changed_at"));
    let running = world.spawn();
    let mut target = running.target("t");
    assert_eq!(values(&target.next().await.0), ["a=canary2"], "the version before is lost");
    assert_eq!(running.status("a").changed_at, changed, "its time is not");
    shelf.set("a", "canary3");
    assert_eq!(values(&target.next().await.0), ["a=canary3", "previous.a=canary2"], "while the agent runs it is there");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_keeps_versions_is_asked_instead_of_remembering_values() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "canary2")]);
    shelf.keep("a", "canary1");
    let world = World::new(dir.path(), &shelf, &[secret("a", DAY)], &[("t", &["a"])]);
    let running = world.spawn();
    let mut target = running.target("t");
    assert_eq!(values(&target.next().await.0), ["a=canary2"], "who knows when the one before ended");
    shelf.keep("a", "canary2");
    shelf.set("a", "canary3");
    assert_eq!(values(&target.next().await.0), ["a=canary3", "previous.a=canary2"]);
    running.stop().await;
    assert!(!remembered(dir.path()).contains("\"canary"), "{}", remembered(dir.path()));
    let running = world.spawn();
    assert_eq!(values(&running.target("t").next().await.0), ["a=canary3", "previous.a=canary2"]);
}

#[tokio::test(start_paused = true)]
async fn the_version_before_is_asked_for_by_name_after_two_quick_rotations_and_after_a_restart() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1")]);
    for value in ["a0", "a1", "a2", "a3", "a4", "a5"] {
        let reading = reading(value);
        shelf.versioned.lock().unwrap().insert(reading.version.clone(), reading);
    }
    // What the store itself would call previous was never in use here.
    shelf.keep("a", "wrong");
    let asked = || std::mem::take(&mut *shelf.asked_before.lock().unwrap());
    let version = |value: &str| Some(reading(value).version);
    let world = World::new(dir.path(), &shelf, &[secret("a", DAY)], &[("t", &["a"])]);
    let running = world.spawn();
    let mut target = running.target("t");
    target.next().await;
    assert_eq!(asked(), [None], "nothing was in use before");
    shelf.set("a", "a2");
    tokio::time::sleep(secs(1)).await;
    shelf.set("a", "a3");
    assert_eq!(values(&target.next().await.0), ["a=a3", "previous.a=a1"]);
    assert_eq!(asked(), [version("a1"), version("a1")]);
    running.stop().await;

    let running = world.spawn();
    assert_eq!(values(&running.target("t").next().await.0), ["a=a3", "previous.a=a1"]);
    assert_eq!(asked(), [version("a1")], "the remembered one");
    running.stop().await;
    assert!(!remembered(dir.path()).contains("\"fields\""), "values are the store's to keep");

    // It changed twice while the agent was down.
    shelf.set("a", "a5");
    let running = world.spawn();
    assert_eq!(values(&running.target("t").next().await.0), ["a=a5", "previous.a=a3"]);
    assert_eq!(asked(), [version("a3")], "the one that was in use, not the one before it");
}

#[tokio::test(start_paused = true)]
async fn a_version_before_that_cannot_be_read_after_a_restart_is_shown_as_soon_as_it_can_be() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1")]);
    shelf.keep("a", "a0");
    let mut polled = secret("a", DAY);
    polled.poll = Some(secs(60));
    let world = World::new(dir.path(), &shelf, &[polled], &[("t", &["a"])]);
    let running = world.spawn();
    running.target("t").next().await;
    running.stop().await;

    shelf.set("a", "a2");
    shelf.fail_before(true);
    let running = world.spawn();
    let mut target = running.target("t");
    assert_eq!(values(&target.next().await.0), ["a=a2"]);
    shelf.asked_before.lock().unwrap().clear();
    let a1 = reading("a1");
    shelf.versioned.lock().unwrap().insert(a1.version.clone(), a1.clone());
    shelf.fail_before(false);
    assert_eq!(values(&target.next().await.0), ["a=a2", "previous.a=a1"]);
    let asked = shelf.asked_before.lock().unwrap().clone();
    assert!(asked.iter().all(|asked| *asked == Some(a1.version.clone())), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_spoilt_memory_is_forgotten_and_a_full_disk_holds_nothing_up() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join(FILE), "{\"format\":1,\"secrets\":{\"a\":").unwrap();
    let shelf = Shelf::new(&[("a", "a1")]);
    let world = World::new(dir.path(), &shelf, &[secret("a", DAY)], &[("t", &["a"])]);
    let running = world.spawn();
    let mut target = running.target("t");
    assert_eq!(values(&target.next().await.0), ["a=a1"]);

    // A folder in the way of the file that is to be renamed: it cannot be written.
    let beside = dir.path().join("overlap.json.new");
    fs::create_dir(&beside).unwrap();
    shelf.set("a", "a2");
    assert_eq!(values(&target.next().await.0), ["a=a2", "previous.a=a1"]);
    assert!(!remembered(dir.path()).contains("a2"));
    fs::remove_dir(&beside).unwrap();
    tokio::time::sleep(secs(30)).await;
    assert!(remembered(dir.path()).contains("a2"), "written as soon as it can be");
}

#[tokio::test(start_paused = true)]
async fn an_overlap_can_be_shortened_while_it_runs() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1")]);
    let mut world = World::new(dir.path(), &shelf, &[secret("a", DAY)], &[("t", &["a"])]);
    let running = world.spawn();
    let mut target = running.target("t");
    target.next().await;
    shelf.set("a", "a2");
    target.next().await;
    world.config.secrets.insert(name("a"), secret("a", secs(60)));
    running.watch.reconfigure(&world.config, &world.stores, &world.uses).await;
    assert_eq!(target.next().await.1, secs(62));
    assert_eq!(shelf.reads(), 2, "nothing was read for it");
}
