//! Leases, and the tokens they hang on.

use std::time::Duration;

use leasehold::config::model::VaultAuth;
use leasehold::secret::Again;
use leasehold::store::{Store, StoreErrorKind};
use serde_json::json;

use crate::vault::fake::counts::Kind;
use crate::world::{World, at, file, text, token};

const H: fn(u64) -> Duration = |hours| Duration::from_secs(hours * 3600);

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_looked_up_revoked_and_missed() {
    let world = World::new();
    let db = world.vault().database_mount().await.unwrap();
    world.vault().database_role(&db, "app", "1h", "3h").await;
    let store = world.root();
    let reading = store.read(&at(&format!("{db}/creds/app"))).await.unwrap();
    assert_eq!(reading.again, Again::Mints);
    let lease = reading.lease.clone().unwrap();
    assert_eq!((lease.duration, lease.renewable), (H(1), true));
    tokio::time::sleep(H(1) / 2).await;
    let seen = store.look_up(&lease).await.unwrap().expect("it lives");
    assert_eq!(seen.duration, H(1) / 2);
    assert_eq!(store.renew(&lease).await.unwrap().duration, H(1));
    assert!(world.vault().database_accepts(&text(&reading, "username"), &text(&reading, "password")));
    world.vault().revoke_prefix(&format!("{db}/creds/app")).await;
    assert_eq!(store.look_up(&lease).await.unwrap(), None);
    assert_eq!(store.renew(&lease).await.unwrap_err().kind, StoreErrorKind::Missing);
    store.revoke(&lease).await.expect("ending one that is gone is no error");
    let other = store.read(&at(&format!("{db}/creds/app"))).await.unwrap();
    store.revoke(other.lease.as_ref().unwrap()).await.unwrap();
    assert_eq!(world.fake().live_leases(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn two_reads_of_what_mints_are_two_leases_even_at_the_same_time() {
    let world = World::new();
    let db = world.vault().database_mount().await.unwrap();
    world.vault().database_role(&db, "app", "1h", "3h").await;
    let (store, place) = (world.root(), at(&format!("{db}/creds/app")));
    let (one, two) = tokio::join!(store.read(&place), store.read(&place));
    assert_ne!(one.unwrap().lease, two.unwrap().lease);
    assert_eq!(world.fake().counts().of(Kind::Mint), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lease_may_not_be_renewed_by_policy_and_lives_on() {
    let world = World::new();
    let db = world.vault().database_mount().await.unwrap();
    world.vault().database_role(&db, "app", "1h", "3h").await;
    world.vault().policy("bare", &format!("path \"{db}/creds/*\" {{ capabilities = [\"read\"] }}")).await;
    let options = json!({"policies": ["bare"], "no_default_policy": true});
    let store = world.store(token(&world.vault().token(options).await));
    let lease = store.read(&at(&format!("{db}/creds/app"))).await.unwrap().lease.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(store.renew(&lease).await.unwrap_err().kind, StoreErrorKind::Denied);
    assert_eq!(store.look_up(&lease).await.unwrap_err().kind, StoreErrorKind::Denied);
    assert_eq!(world.fake().live_leases().len(), 1);
}

/// An AppRole whose tokens live an hour, three at most.
pub async fn approle(world: &World, folder: &tempfile::TempDir, role: serde_json::Value) -> VaultAuth {
    let at = world.vault().approle(role).await;
    VaultAuth::AppRole {
        role_id_file: file(folder, "role-id", &world.vault().role_id(&at).await),
        secret_id_file: Some(file(folder, "secret-id", &format!("{}\n", world.vault().secret_id(&at).await))),
        mount: at.trim_start_matches("auth/").to_owned(),
        wrapped: false,
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_capped_by_its_token_once_that_goes_on_no_further_and_its_successor_is_not() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let db = world.vault().database_mount().await.unwrap();
    world.vault().database_role(&db, "app", "24h", "48h").await;
    world.vault().policy("app", "path \"*\" { capabilities = [\"read\", \"update\"] }").await;
    let auth =
        approle(&world, &folder, json!({"token_policies": "app", "token_ttl": "1h", "token_max_ttl": "3h"})).await;
    let store = world.store(auth);
    let place = at(&format!("{db}/creds/app"));
    let lease = store.read(&place).await.unwrap().lease.unwrap();
    assert_eq!(lease.duration, H(24), "its token is renewed");
    let begun = tokio::time::Instant::now();
    loop {
        let rest = store.tend().await.unwrap().expect("it ends some time");
        assert!(begun.elapsed() < H(3), "replaced before its end");
        if world.fake().counts().of(Kind::Login) == 2 {
            break;
        }
        tokio::time::sleep(rest).await;
    }
    let left = store.look_up(&lease).await.unwrap().expect("it lives").duration;
    assert!(left > Duration::from_secs(300) && begun.elapsed() + left <= H(3) + Duration::from_secs(1), "{left:?}");
    let next = store.read(&place).await.unwrap().lease.unwrap();
    assert_eq!(next.duration, H(24), "made by the new token");
    assert!(store.look_up(&lease).await.unwrap().is_some(), "the old one is still good");
}
