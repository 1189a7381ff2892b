//! What is read, engine by engine.

use std::time::Duration;

use leasehold::secret::{Again, Field, Version};
use leasehold::store::{Store, StoreErrorKind};
use serde_json::{Value, json};

use crate::vault::fake::counts::Kind;
use crate::world::{World, asking, at, text, token};

#[tokio::test(start_paused = true)]
async fn kv2_is_found_out_and_an_unchanged_secret_moves_no_plaintext() {
    let world = World::new();
    let kv = world.vault().kv(2).await;
    world.vault().put(&kv, "app/db", json!({"password": "one", "port": 5432, "tls": true})).await;
    let (store, place) = (world.root(), at(&format!("{kv}/app/db")));
    let reading = store.read(&place).await.unwrap();
    assert_eq!((text(&reading, "password").as_str(), reading.version.clone()), ("one", Version("1".into())));
    assert!(matches!(&reading.fields["port"], Field::Number(n) if n.expose() == b"5432"));
    assert!(reading.created_at.is_some());
    world.fake().counts().reset();
    for _ in 0..5 {
        assert_eq!(store.read_again(&place, &reading).await.unwrap(), None);
    }
    assert_eq!((world.fake().counts().of(Kind::Metadata), world.fake().counts().total()), (5, 5));
    world.vault().put(&kv, "app/db", json!({"password": "two"})).await;
    let next = store.read_again(&place, &reading).await.unwrap().expect("a new version");
    assert_eq!((text(&next, "password").as_str(), next.version.clone()), ("two", Version("2".into())));
    let before = store.previous(&place, &next, None).await.unwrap().expect("version 1");
    assert_eq!((text(&before, "password").as_str(), before.version), ("one", Version("1".into())));
}

#[tokio::test(start_paused = true)]
async fn where_policy_denies_metadata_the_data_is_polled_and_the_denial_is_remembered() {
    let world = World::new();
    let kv = world.vault().kv(2).await;
    world.vault().put(&kv, "a", json!({"x": "1"})).await;
    world.vault().policy("app", &format!("path \"{kv}/data/*\" {{ capabilities = [\"read\"] }}")).await;
    let app = world.vault().token(json!({"policies": ["app"]})).await;
    let (store, place) = (world.store(token(&app)), at(&format!("{kv}/a")));
    let reading = store.read(&place).await.unwrap();
    for _ in 0..3 {
        assert_eq!(store.read_again(&place, &reading).await.unwrap(), None);
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    assert_eq!(world.fake().counts().of(Kind::Metadata), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lagging_standby_never_takes_a_secret_back_but_one_written_anew_is_taken() {
    let world = World::new();
    let kv = world.vault().kv(2).await;
    for n in 1..=3 {
        world.vault().put(&kv, "a", json!({"n": n})).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let (store, place) = (world.root(), at(&format!("{kv}/a")));
    let reading = store.read(&place).await.unwrap();
    world.fake().lag(1);
    assert_eq!(store.read_again(&place, &reading).await.unwrap(), None);
    let lagging = store.read(&place).await.unwrap_err();
    assert_eq!(lagging.kind, StoreErrorKind::Unavailable);
    assert!(lagging.message.contains("lags behind"), "{lagging}");
    world.fake().lag(0);
    world.vault().must("DELETE", &format!("{kv}/metadata/a"), Value::Null).await;
    world.vault().put(&kv, "a", json!({"n": 9})).await;
    let anew = store.read_again(&place, &reading).await.unwrap().expect("written anew");
    assert_eq!((anew.version.0.as_str(), text(&anew, "n").as_str()), ("1", "9"));
}

#[tokio::test(start_paused = true)]
async fn deleted_and_absent_are_told_apart() {
    let world = World::new();
    let kv = world.vault().kv(2).await;
    world.vault().put(&kv, "a", json!({"x": 1})).await;
    world.vault().must("DELETE", &format!("{kv}/data/a"), Value::Null).await;
    let store = world.root();
    let deleted = store.read(&at(&format!("{kv}/a"))).await.unwrap_err();
    let absent = store.read(&at(&format!("{kv}/b"))).await.unwrap_err();
    assert_eq!((deleted.kind, absent.kind), (StoreErrorKind::Missing, StoreErrorKind::Missing));
    assert!(deleted.message.contains("version 1 was deleted") && deleted.message.contains("undelete"), "{deleted}");
    assert!(absent.message.contains("no such secret"), "{absent}");
}

#[tokio::test(start_paused = true)]
async fn kv1_is_polled_and_is_no_lease() {
    let world = World::new();
    let kv = world.vault().kv(1).await;
    world.vault().must("POST", &format!("{kv}/a"), json!({"x": "1"})).await;
    let (store, place) = (world.root(), at(&format!("{kv}/a")));
    let reading = store.read(&place).await.unwrap();
    assert_eq!((reading.again, &reading.lease), (Again::Free, &None));
    assert_eq!(store.read_again(&place, &reading).await.unwrap(), None);
    world.vault().must("POST", &format!("{kv}/a"), json!({"x": "2", "ttl": "10m"})).await;
    let next = store.read_again(&place, &reading).await.unwrap().expect("changed");
    assert_eq!(next.again, Again::After(Duration::from_secs(600)));
}

#[tokio::test(start_paused = true)]
async fn a_static_role_is_read_after_its_rotation_and_in_its_middle_again_and_again() {
    let world = World::new();
    let db = world.vault().database_mount().await.unwrap();
    world.vault().static_role(&db, "app", "1h").await;
    let (store, place) = (world.root(), at(&format!("{db}/static-creds/app")));
    let reading = store.read(&place).await.unwrap();
    let Again::After(after) = reading.again else { panic!("{:?}", reading.again) };
    assert!((Duration::from_secs(3590)..=Duration::from_secs(3602)).contains(&after), "{after:?}");
    world.fake().hold_rotation(&db, "app", true);
    tokio::time::sleep(after).await;
    let held = store.read_again(&place, &reading).await.unwrap().expect("when to read again is news");
    assert_eq!(held.version, reading.version);
    assert!(matches!(held.again, Again::After(soon) if soon <= Duration::from_secs(2)));
    world.fake().hold_rotation(&db, "app", false);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let rotated = store.read_again(&place, &held).await.unwrap().expect("rotated");
    assert_ne!(rotated.version, reading.version);
    assert_ne!(text(&rotated, "password"), text(&reading, "password"));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_comes_with_its_key_its_chain_and_its_end() {
    let world = World::new();
    let pki = world.vault().pki(json!({"allow_any_name": true, "max_ttl": "24h"})).await;
    let store = world.root();
    let place = asking(&format!("{pki}/issue/web"), json!({"common_name": "app.test", "ttl": "1h"}));
    let reading = store.read(&place).await.unwrap();
    assert_eq!(reading.again, Again::Mints);
    assert!(reading.expires_at.is_some());
    assert_eq!(text(&reading, "serial_number"), reading.version.0);
    assert!(text(&reading, "fullchain").starts_with(text(&reading, "certificate").trim_end()));
    assert!(text(&reading, "private_key").contains("PRIVATE KEY"));
    assert_ne!(store.read(&place).await.unwrap().version, reading.version);
    let bare = store.read(&at(&format!("{pki}/issue/web"))).await.unwrap_err();
    assert!(bare.message.contains("common_name"), "{bare}");
}

#[tokio::test(start_paused = true)]
async fn a_transit_key_changes_with_its_newest_version() {
    let world = World::new();
    let transit = world.vault().transit().await;
    let (store, place) = (world.root(), at(&format!("{transit}/keys/app")));
    let reading = store.read(&place).await.unwrap();
    assert_eq!((reading.version.0.as_str(), reading.again), ("1", Again::Free));
    assert_eq!(store.read_again(&place, &reading).await.unwrap(), None);
    world.vault().rotate_key(&transit).await;
    assert_eq!(store.read_again(&place, &reading).await.unwrap().expect("rotated").version.0, "2");
}

#[tokio::test(start_paused = true)]
async fn any_other_engine_is_asked_with_its_params() {
    let world = World::new();
    let at_mount = crate::vault::server::unique("other");
    world.vault().mount(&at_mount, "fake", Value::Null).await;
    let reading = world.root().read(&asking(&format!("{at_mount}/make"), json!({"size": 7}))).await.unwrap();
    assert_eq!(reading.again, Again::Mints);
    let Field::Map(params) = &reading.fields["params"] else { panic!() };
    assert!(matches!(&params["size"], Field::Number(n) if n.expose() == b"7"));
}

#[tokio::test(start_paused = true)]
async fn a_denial_names_the_policy_that_is_missing_and_costs_no_login() {
    let world = World::new();
    let kv = world.vault().kv(2).await;
    world.vault().put(&kv, "a", json!({"x": "1"})).await;
    world.vault().policy("other", &format!("path \"{kv}/data/b\" {{ capabilities = [\"read\"] }}")).await;
    let app = world.vault().token(json!({"policies": ["other"]})).await;
    let denied = world.store(token(&app)).read(&at(&format!("{kv}/a"))).await.unwrap_err();
    assert_eq!(denied.kind, StoreErrorKind::Denied);
    assert!(denied.message.contains(&format!("path \"{kv}/data/a\" {{ capabilities = [\"read\"] }}")), "{denied}");
    assert_eq!(world.fake().counts().of(Kind::Login), 0);
}

#[tokio::test(start_paused = true)]
async fn the_smallest_policy_is_enough_and_what_is_lacking_is_named() {
    let world = World::new();
    let kv = world.vault().kv(2).await;
    world.vault().put(&kv, "a", json!({"x": "1"})).await;
    let db = world.vault().database_mount().await.unwrap();
    world.vault().database_role(&db, "app", "1h", "3h").await;
    let (secret, creds) = (at(&format!("{kv}/a")), at(&format!("{db}/creds/app")));
    let places = [&secret, &creds];
    let all = world.root().access(&places).await.unwrap().expect("Vault has policies");
    assert_eq!(all.lacking, Vec::<String>::new(), "root may everything");
    world.vault().policy("app", &all.policy).await;
    let app = world.vault().token(json!({"policies": ["app"], "no_default_policy": true})).await;
    let store = world.store(token(&app));
    let reading = store.read(&secret).await.unwrap();
    assert_eq!(store.read_again(&secret, &reading).await.unwrap(), None);
    let lease = store.read(&creds).await.unwrap().lease.unwrap();
    store.renew(&lease).await.unwrap();
    store.look_up(&lease).await.unwrap().unwrap();
    store.revoke(&lease).await.unwrap();
    assert_eq!(world.fake().counts().count(|asked| asked.status == 403 && asked.path.starts_with("sys/leases")), 0);
    let less = all.policy.lines().filter(|line| !line.contains("/metadata/")).collect::<Vec<_>>().join("\n");
    world
        .vault()
        .policy("less", &format!("{less}\npath \"sys/capabilities-self\" {{ capabilities = [\"update\"] }}"))
        .await;
    let app = world.vault().token(json!({"policies": ["less"]})).await;
    let access = world.store(token(&app)).access(&places).await.unwrap().unwrap();
    assert_eq!(access.lacking, [format!("read on {kv}/metadata/a: polling without moving the secret")]);
}
