//! One round of reading.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use leasehold::config::model::{AwsStore, Config, FileStore, Locator, StoreConfig, TargetName};
use leasehold::digest::Key;
use leasehold::secret::{SecretName, Snapshot};
use leasehold::store::{StoreError, StoreErrorKind};
use leasehold::watch::{Holding, Once, Stores, Surroundings, Uses, build, read_once, rebuild};
use tempfile::tempdir;
use tokio::time::Instant;

use crate::world::{Shelf, World, error, reading, secret, secs, values};

const NOW: Once = Once { wait: Duration::ZERO, remember: true };

#[tokio::test(start_paused = true)]
async fn every_secret_that_cannot_be_read_is_named() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1")]);
    shelf.answer("b", Err(error(StoreErrorKind::Denied, "no")));
    let secrets = [secret("a", secs(0)), secret("b", secs(0)), secret("c", secs(0))];
    let world = World::new(dir.path(), &shelf, &secrets, &[("t", &["a", "b", "c"])]);
    let faults = round(&world.config, &world.stores, &world.uses, &world.surroundings(), NOW).await.unwrap_err();
    let faults: Vec<_> = faults.iter().map(|(name, error)| (name.as_str(), error.kind)).collect();
    assert_eq!(faults, [("b", StoreErrorKind::Denied), ("c", StoreErrorKind::Missing)]);
    assert_eq!(shelf.reads(), 3, "one attempt each");
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_what_may_come_and_no_longer() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[]);
    let world = World::new(dir.path(), &shelf, &[secret("a", secs(0))], &[("t", &["a"])]);
    let once = Once { wait: secs(60), remember: true };
    let began = Instant::now();
    let surroundings = world.surroundings();
    let late = Arc::clone(&shelf);
    tokio::spawn(async move {
        tokio::time::sleep(secs(59)).await;
        late.answer("a", Ok(reading("a1")));
    });
    let snapshots = round(&world.config, &world.stores, &world.uses, &surroundings, once).await.unwrap();
    assert_eq!(values(&snapshots["t"]), ["a=a1"]);
    assert!(began.elapsed() >= secs(59) && began.elapsed() <= secs(60));

    shelf.answer("a", Err(error(StoreErrorKind::Unavailable, "sealed")));
    let began = Instant::now();
    let faults = round(&world.config, &world.stores, &world.uses, &surroundings, once).await.unwrap_err();
    assert_eq!(faults[0].1.message, "sealed", "the store's own words, not that the wait is over");
    assert!(began.elapsed() <= secs(60) && began.elapsed() > secs(55), "{:?}", began.elapsed());

    shelf.answer("a", Err(error(StoreErrorKind::Denied, "no")));
    let began = Instant::now();
    assert!(round(&world.config, &world.stores, &world.uses, &surroundings, once).await.is_err());
    assert_eq!(began.elapsed(), secs(0), "what is denied is not waited for");
}

#[tokio::test(start_paused = true)]
async fn rounds_remember_overlaps_from_one_to_the_next_and_narrowed_ones_forget_nothing() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[("a", "a1"), ("b", "b1")]);
    let secrets = [secret("a", secs(3600)), secret("b", secs(3600))];
    let both = World::new(dir.path(), &shelf, &secrets, &[("t", &["a"]), ("u", &["b"])]);
    let surroundings = both.surroundings();
    round(&both.config, &both.stores, &both.uses, &surroundings, NOW).await.unwrap();

    shelf.set("a", "a2");
    shelf.set("b", "b2");
    let dry = Once { remember: false, ..NOW };
    let mut narrow = both.uses.clone();
    narrow.remove("t");
    for once in [dry, NOW] {
        let snapshots = round(&both.config, &both.stores, &narrow, &surroundings, once).await.unwrap();
        assert_eq!(values(&snapshots["u"]), ["b=b2", "previous.b=b1"]);
    }
    let snapshots = round(&both.config, &both.stores, &both.uses, &surroundings, NOW).await.unwrap();
    assert_eq!(values(&snapshots["t"]), ["a=a2", "previous.a=a1"]);
    assert_eq!(values(&snapshots["u"]), ["b=b2", "previous.b=b1"]);
    tokio::time::sleep(secs(3601)).await;
    let snapshots = round(&both.config, &both.stores, &both.uses, &surroundings, NOW).await.unwrap();
    assert_eq!(values(&snapshots["t"]), ["a=a2"]);
}

#[tokio::test]
async fn a_store_that_did_not_change_stays_the_same_when_the_config_does() {
    let dir = tempdir().unwrap();
    let shelf = Shelf::new(&[]);
    let mut world = World::new(dir.path(), &shelf, &[secret("a", secs(0))], &[("t", &["a"])]);
    let file = FileStore { path: dir.path().join("s.yaml") };
    world.config.stores.insert("local".into(), StoreConfig::File(file));
    world.config.stores.insert("aws".into(), aws("eu-west-1"));
    let key = Key::new(b"key");
    let stores = build(&world.config, &key);
    let locator = Locator::File { key: "a".into() };
    assert_eq!(stores["local"].read(&locator).await.unwrap_err().kind, StoreErrorKind::Missing);

    let same = rebuild(&world.config, &stores, &world.config, &key);
    let mut moved = world.config.clone();
    moved.stores.insert("local".into(), StoreConfig::File(FileStore { path: dir.path().join("t.yaml") }));
    moved.stores.insert("aws".into(), aws("eu-west-2"));
    let moved = rebuild(&world.config, &stores, &moved, &key);
    for name in ["local", "aws"] {
        assert!(Arc::ptr_eq(&same[name], &stores[name]), "{name}");
        assert!(!Arc::ptr_eq(&moved[name], &stores[name]), "{name}");
    }
}

fn aws(region: &str) -> StoreConfig {
    StoreConfig::Aws(Box::new(AwsStore {
        region: Some(region.into()),
        regions: Vec::new(),
        profile: None,
        role_arn: None,
        endpoint_url: None,
        queue_url: None,
        timeout: secs(10),
    }))
}

/// A round of a command of its own.
async fn round(
    config: &Config,
    stores: &Stores,
    uses: &Uses,
    surroundings: &Surroundings,
    once: Once,
) -> Result<BTreeMap<TargetName, Snapshot>, Vec<(SecretName, StoreError)>> {
    let holding = Holding::open(config, stores, uses, surroundings, once.remember);
    read_once(config, stores, uses, surroundings, &holding, once).await
}
