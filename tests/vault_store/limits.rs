//! How hard the server is asked.

use std::time::Duration;

use leasehold::config::model::{Limits, VaultStore as Config};
use leasehold::store::{Store, StoreErrorKind};
use serde_json::json;

use crate::vault::fake::counts::Kind;
use crate::vault::fake::faults::Fault;
use crate::world::{World, at, config};

#[tokio::test(start_paused = true)]
async fn equal_reads_share_one_request_and_mounts_are_asked_for_once() {
    let world = World::new();
    let kv = world.vault().kv(2).await;
    for n in 0..50 {
        world.vault().put(&kv, &format!("s{n}"), json!({"n": n})).await;
    }
    let store = world.root();
    let places: Vec<_> = (0..50).map(|n| at(&format!("{kv}/s{n}"))).collect();
    world.fake().faults().next_on("GET", &kv, 1000, Fault::Delay(Duration::from_millis(5)));
    let all = places.iter().chain(&places).chain(&places).map(|place| store.read(place));
    assert!(futures_util::future::join_all(all).await.iter().all(Result::is_ok));
    assert_eq!((world.fake().counts().of(Kind::Mounts), world.fake().counts().of(Kind::Read)), (1, 50));
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_kept_whatever_is_asked() {
    let world = World::new();
    let kv = world.vault().kv(2).await;
    for n in 0..200 {
        world.vault().put(&kv, &format!("s{n}"), json!({"n": n})).await;
    }
    let store = world.with(Config { limits: Limits { in_flight: 4, per_second: 20 }, ..config("http://vault") });
    let places: Vec<_> = (0..200).map(|n| at(&format!("{kv}/s{n}"))).collect();
    let begun = tokio::time::Instant::now();
    assert!(futures_util::future::join_all(places.iter().map(|p| store.read(p))).await.iter().all(Result::is_ok));
    assert!((9..=11).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert!(world.fake().counts().peak(Duration::from_secs(1), |_| true) <= 41);
}

#[tokio::test(start_paused = true)]
async fn an_outage_costs_a_bounded_number_of_requests_and_no_login() {
    let world = World::new();
    let kv = world.vault().kv(2).await;
    world.vault().put(&kv, "a", json!({"x": 1})).await;
    let (store, place) = (world.root(), at(&format!("{kv}/a")));
    store.read(&place).await.unwrap();
    world.fake().counts().reset();
    world.fake().seal(true);
    for _ in 0..6000 {
        let sealed = store.read(&place).await.unwrap_err();
        assert_eq!(sealed.kind, StoreErrorKind::Unavailable);
        assert!(sealed.message.contains("sealed"), "{sealed}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let asked = world.fake().counts().total();
    assert!((5..=40).contains(&asked), "{asked} requests in ten minutes");
    world.fake().seal(false);
    let begun = tokio::time::Instant::now();
    while store.read(&place).await.is_err() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(begun.elapsed() < Duration::from_secs(65), "it comes back within a minute");
    }
    assert_eq!(world.fake().counts().of(Kind::Login), 0);
}

#[tokio::test(start_paused = true)]
async fn nobody_asks_before_retry_after_ends() {
    let world = World::new();
    let kv = world.vault().kv(2).await;
    world.vault().put(&kv, "a", json!({"x": 1})).await;
    let (store, place) = (world.root(), at(&format!("{kv}/a")));
    store.read(&place).await.unwrap();
    world.fake().counts().reset();
    let headers = vec![("Retry-After".to_owned(), "30".to_owned())];
    world.fake().faults().next(1, Fault::Answer { status: 429, body: json!({"errors": ["quota"]}), headers });
    let begun = tokio::time::Instant::now();
    let throttled = store.read(&place).await.unwrap_err();
    assert_eq!(throttled.retry_after, Some(Duration::from_secs(30)));
    while store.read(&place).await.is_err() {
        assert_eq!(world.fake().counts().total(), 1);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(begun.elapsed() >= Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn one_engine_that_fails_does_not_stop_the_others() {
    let world = World::new();
    let kv = world.vault().kv(2).await;
    world.vault().put(&kv, "a", json!({"x": 1})).await;
    world.vault().put(&kv, "b", json!({"x": 1})).await;
    let store = world.root();
    world.fake().faults().next_on("", &format!("{kv}/data/a"), 100, Fault::status(500, "the database is gone"));
    for _ in 0..10 {
        let failed = store.read(&at(&format!("{kv}/a"))).await.unwrap_err();
        assert!(failed.message.contains("the database is gone"), "{failed}");
        store.read(&at(&format!("{kv}/b"))).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_quota_that_does_not_say_how_long_is_not_hammered() {
    let world = World::new();
    let kv = world.vault().kv(2).await;
    world.vault().put(&kv, "a", json!({"x": 1})).await;
    let (store, place) = (world.root(), at(&format!("{kv}/a")));
    store.read(&place).await.unwrap();
    world.fake().counts().reset();
    world.fake().faults().always(Fault::status(429, "request path: rate limit quota exceeded"));
    for _ in 0..600 {
        assert_eq!(store.read(&place).await.unwrap_err().kind, StoreErrorKind::Unavailable);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!((5..=40).contains(&world.fake().counts().total()), "{}", world.fake().counts().total());
}
