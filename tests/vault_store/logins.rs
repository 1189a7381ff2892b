//! Sessions: each login, renewal, replacement, death, and a restart.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use leasehold::config::model::VaultAuth;
use leasehold::store::{Keep, Store, StoreErrorKind};
use serde_json::{Value, json};

use crate::leases::approle;
use crate::vault::fake::counts::Kind;
use crate::world::{World, at, file, text, token};

async fn secret(world: &World) -> leasehold::config::model::Locator {
    let kv = world.vault().kv(2).await;
    world.vault().put(&kv, "a", json!({"x": "1"})).await;
    world.vault().policy("app", "path \"*\" { capabilities = [\"read\", \"update\"] }").await;
    at(&format!("{kv}/a"))
}

#[tokio::test(start_paused = true)]
async fn a_hundred_readers_log_in_once_and_a_revoked_token_costs_one_more_login() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let place = secret(&world).await;
    let store = world.store(approle(&world, &folder, json!({"token_policies": "app", "token_ttl": "1h"})).await);
    let all = (0..100).map(|_| store.read(&place));
    assert!(futures_util::future::join_all(all).await.iter().all(Result::is_ok));
    assert_eq!(world.fake().counts().of(Kind::Login), 1);
    let learnt = world.learnt.lock().unwrap().clone();
    let issued = learnt.last().unwrap().expose_str().unwrap().to_owned();
    assert!(issued.starts_with("hvs.") || issued.starts_with("s."), "the token is told to the mask");
    world.vault().revoke_token(&issued).await;
    let all = (0..100).map(|_| store.read(&place));
    assert!(futures_util::future::join_all(all).await.iter().all(Result::is_ok));
    assert_eq!(world.fake().counts().of(Kind::Login), 2);
    assert!(world.fake().counts().of(Kind::Lookup) <= 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_login_is_denied_without_the_secret_id_and_is_no_storm() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let place = secret(&world).await;
    let auth = approle(&world, &folder, json!({"token_policies": "app"})).await;
    file(&folder, "secret-id", "not-the-secret-id");
    let store = world.store(auth);
    for _ in 0..600 {
        let refused = store.read(&place).await.unwrap_err();
        assert_eq!(refused.kind, StoreErrorKind::Denied);
        assert!(!refused.message.contains("not-the-secret-id"), "{refused}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let logins = world.fake().counts().of(Kind::Login);
    assert!((5..=40).contains(&logins), "{logins} logins in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn userpass_and_kubernetes_log_in_with_what_their_files_hold_now() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let place = secret(&world).await;
    let mount = world.vault().userpass("ann", "pass word", "app").await;
    let password_file = file(&folder, "password", "pass word\n");
    let mount = mount.trim_start_matches("auth/").to_owned();
    let auth = VaultAuth::Userpass { mount, username: "ann".into(), password_file };
    assert_eq!(text(&world.store(auth).read(&place).await.unwrap(), "x"), "1");
    world.vault().mount("auth/kubernetes", "kubernetes", Value::Null).await;
    let role = json!({"bound_service_account_names": ["app"], "bound_service_account_namespaces": ["prod"],
        "token_policies": ["app"], "token_ttl": "1m"});
    world.vault().must("POST", "auth/kubernetes/role/app", role).await;
    let jwt = |until: Duration| {
        let exp = (world.fake().clock().now() + until).as_second();
        let claims = json!({"sub": "system:serviceaccount:prod:app", "exp": exp}).to_string();
        format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims))
    };
    let token_file = file(&folder, "jwt", &jwt(Duration::from_secs(60)));
    let auth = VaultAuth::Jwt { mount: "kubernetes".into(), role: "app".into(), token_file };
    let store = world.store(auth);
    store.read(&place).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let refused = store.read(&place).await.unwrap_err();
    assert!(refused.message.contains("login refused"), "{refused}");
    file(&folder, "jwt", &jwt(Duration::from_secs(60)));
    store.read(&place).await.expect("with the token that the kubelet put there since");
}

#[tokio::test(start_paused = true)]
async fn a_wrapped_secret_id_is_unwrapped_once_and_survives_a_restart() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let place = secret(&world).await;
    let at = world.vault().approle(json!({"token_policies": "app", "token_ttl": "1h"})).await;
    let auth = VaultAuth::AppRole {
        role_id_file: file(&folder, "role-id", &world.vault().role_id(&at).await),
        secret_id_file: Some(file(&folder, "wrapped", &world.vault().wrapped_secret_id(&at, "10m").await)),
        mount: at.trim_start_matches("auth/").to_owned(),
        wrapped: true,
    };
    let store = world.store(auth.clone());
    store.read(&place).await.unwrap();
    let kept = store.session().expect("a session");
    // The token dies with the machine; the wrapping token is long spent.
    let learnt = world.learnt.lock().unwrap().clone();
    for known in learnt {
        let value = known.expose_str().unwrap().to_owned();
        world.vault().call("POST", "auth/token/revoke", json!({"token": value})).await;
    }
    let again = world.store(auth.clone());
    again.resume(&kept);
    again.read(&place).await.expect("with the secret id of before");
    let bare = world.store(auth).read(&place).await.unwrap_err();
    assert_eq!(bare.kind, StoreErrorKind::Denied);
    assert!(bare.message.contains("spent"), "{bare}");
}

#[tokio::test(start_paused = true)]
async fn what_was_unwrapped_is_kept_before_it_is_used_and_not_unwrapped_where_nothing_is_kept() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let place = secret(&world).await;
    let at = world.vault().approle(json!({"token_policies": "app"})).await;
    let auth = VaultAuth::AppRole {
        role_id_file: file(&folder, "role-id", &world.vault().role_id(&at).await),
        secret_id_file: Some(file(&folder, "wrapped", &world.vault().wrapped_secret_id(&at, "10m").await)),
        mount: at.trim_start_matches("auth/").to_owned(),
        wrapped: true,
    };
    let careful = world.store(auth.clone());
    careful.kept_by(Keep::Never);
    let refused = careful.read(&place).await.unwrap_err();
    assert!(refused.message.contains("left alone"), "{refused}");
    assert_eq!(world.fake().counts().on("", "sys/wrapping/unwrap"), 0, "it is not spent");
    let store = Arc::new(world.store(auth.clone()));
    let (kept, weak, fake): (Arc<Mutex<Vec<_>>>, _, _) = (Arc::default(), Arc::downgrade(&store), world.fake().clone());
    let keeping = Arc::clone(&kept);
    store.kept_by(Keep::Now(Arc::new(move || {
        let logins = fake.counts().of(Kind::Login);
        keeping.lock().unwrap().push((logins, weak.upgrade().unwrap().session()));
        Box::pin(std::future::ready(()))
    })));
    store.read(&place).await.unwrap();
    let kept = kept.lock().unwrap().clone();
    let [(0, Some(session))] = kept.as_slice() else { panic!("kept once, before the login: {}", kept.len()) };
    let again = world.store(auth);
    again.resume(session);
    again.read(&place).await.expect("with the secret id that was kept");
    assert_eq!(world.fake().counts().on("", "sys/wrapping/unwrap"), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_wrapped_must_be_a_secret_id_of_this_mount() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let place = secret(&world).await;
    let (at, other) = (world.vault().approle(json!({})).await, world.vault().approle(json!({})).await);
    let wrapping = world.vault().wrapped_secret_id(&other, "10m").await;
    let auth = VaultAuth::AppRole {
        role_id_file: file(&folder, "role-id", &world.vault().role_id(&at).await),
        secret_id_file: Some(file(&folder, "wrapped", &wrapping)),
        mount: at.trim_start_matches("auth/").to_owned(),
        wrapped: true,
    };
    let refused = world.store(auth).read(&place).await.unwrap_err();
    assert!(refused.message.contains("find out"), "{refused}");
    assert_eq!(world.fake().counts().on("", "sys/wrapping/unwrap"), 0, "it is not spent");
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_with_its_token_and_a_stop_ends_only_what_a_login_made() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let place = secret(&world).await;
    let auth = approle(&world, &folder, json!({"token_policies": "app", "token_ttl": "1h"})).await;
    let mut kept = None;
    for _ in 0..20 {
        let store = world.store(auth.clone());
        if let Some(kept) = &kept {
            store.resume(kept);
        }
        store.read(&place).await.unwrap();
        kept = store.session();
    }
    assert_eq!((world.fake().counts().of(Kind::Login), world.fake().live_tokens()), (1, 1));
    let elsewhere = world.with(leasehold::config::model::VaultStore {
        namespace: Some("other".into()),
        auth: auth.clone(),
        ..crate::world::config("http://vault")
    });
    elsewhere.resume(kept.as_ref().unwrap());
    assert!(elsewhere.session().is_none(), "another server does not get this token");
    let look = world.store(auth.clone());
    look.kept_by(Keep::Never);
    look.resume(kept.as_ref().unwrap());
    look.read(&place).await.unwrap();
    look.close().await.unwrap();
    assert_eq!(world.fake().live_tokens(), 1, "a command that keeps nothing leaves the agent its token");
    let look = world.store(auth.clone());
    look.kept_by(Keep::Never);
    look.read(&place).await.unwrap();
    assert_eq!(world.fake().live_tokens(), 2);
    look.close().await.unwrap();
    assert_eq!(world.fake().live_tokens(), 1, "and ends its own");
    let store = world.store(auth);
    store.resume(kept.as_ref().unwrap());
    store.close().await.unwrap();
    assert_eq!(world.fake().live_tokens(), 0);
    let given = world.vault().token(json!({"policies": ["app"]})).await;
    let store = world.store(token(&given));
    store.read(&place).await.unwrap();
    assert!(store.session().is_none());
    store.close().await.unwrap();
    assert_eq!(world.fake().live_tokens(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_file_is_followed_and_a_dead_one_says_so() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let place = secret(&world).await;
    let one = world.vault().token(json!({"policies": ["app"], "ttl": "1h"})).await;
    let path = file(&folder, "token", &format!("{one}\n"));
    let store = world.store(VaultAuth::TokenFile { path });
    store.read(&place).await.unwrap();
    world.vault().revoke_token(&one).await;
    let dead = store.read(&place).await.unwrap_err();
    assert_eq!(dead.kind, StoreErrorKind::Denied);
    assert!(dead.message.contains("is dead") && !dead.message.contains(&one), "{dead}");
    let two = world.vault().token(json!({"policies": ["app"], "ttl": "1h"})).await;
    file(&folder, "token", &two);
    store.read(&place).await.expect("with the new one");
    // Replaced while the old one is good: taken up when it is looked after.
    let three = world.vault().token(json!({"policies": ["app"], "ttl": "1h"})).await;
    file(&folder, "token", &three);
    assert!(store.tend().await.unwrap().is_some_and(|rest| rest <= Duration::from_secs(30)));
    world.vault().revoke_token(&two).await;
    store.read(&place).await.unwrap();
    assert_eq!(world.fake().counts().of(Kind::Login), 0);
}

#[tokio::test(start_paused = true)]
async fn tokens_of_every_kind_are_kept_alive_for_a_week() {
    for (name, role) in [
        ("renewable", json!({"token_policies": "app", "token_ttl": "1h", "token_max_ttl": "24h"})),
        ("periodic", json!({"token_policies": "app", "token_period": "1h"})),
        ("batch", json!({"token_policies": "app", "token_ttl": "1h", "token_type": "batch"})),
    ] {
        let world = World::new();
        let folder = tempfile::tempdir().unwrap();
        let place = secret(&world).await;
        let store = world.store(approle(&world, &folder, role).await);
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < Duration::from_secs(7 * 86_400) {
            let rest = store.tend().await.unwrap_or_else(|e| panic!("{name}: {e}")).expect("it ends some time");
            tokio::time::sleep(rest.max(Duration::from_secs(1))).await;
            store.read(&place).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        let (logins, renewals) = (world.fake().counts().of(Kind::Login), world.fake().counts().of(Kind::RenewToken));
        let denied = world.fake().counts().count(|asked| asked.status == 403);
        assert_eq!(denied, 0, "{name}: never used a token past its end");
        match name {
            "periodic" => assert_eq!(logins, 1, "{name}: {renewals} renewals"),
            "batch" => assert!((200..=330).contains(&logins) && renewals == 0, "{name}: {logins}"),
            _ => assert!((7..=9).contains(&logins) && renewals < 320, "{name}: {logins} logins, {renewals} renewals"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_without_end_is_never_looked_after() {
    let world = World::new();
    assert_eq!(world.root().tend().await.unwrap(), None);
    let place = secret(&world).await;
    let bare = world.vault().token(json!({"policies": ["app"], "no_default_policy": true, "ttl": "1h"})).await;
    world.store(token(&bare)).read(&place).await.expect("a token that may not look itself up reads");
}
