//! The same servers through the store: every login and every kind of read that a dev server can show.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use leasehold::config::model::{Limits, Locator, OnStop, TlsConfig, VaultAuth, VaultStore as Config};
use leasehold::digest::Key;
use leasehold::secret::{Again, Field, Reading, Version};
use leasehold::store::Senses;
use leasehold::store::vault::VaultStore;
use leasehold::store::{Store, StoreErrorKind};
use serde_json::{Value, json};

use crate::vault::server::{VaultServer, servers};

fn store(server: &dyn VaultServer, auth: VaultAuth) -> VaultStore {
    let config = Config {
        address: server.address().to_owned(),
        namespace: None,
        tls: TlsConfig::default(),
        auth,
        on_stop: OnStop::Keep,
        lease_check: Duration::from_secs(60),
        limits: Limits { in_flight: 8, per_second: 1000 },
        timeout: Duration::from_secs(30),
    };
    let senses = Senses {
        clock: Arc::new(jiff::Timestamp::now),
        dice: Arc::new(|| 0.5),
        learn: Arc::new(|_| Box::new(())),
        aws: Arc::new(leasehold::aws_identity::Identity::chain()),
        home: None,
    };
    VaultStore::new("v".into(), &config, Key::new(b"test"), senses)
}

fn with_token(token: &str) -> VaultAuth {
    VaultAuth::Token { token: Some(token.into()) }
}

fn root(server: &dyn VaultServer) -> VaultStore {
    store(server, with_token(server.root_token()))
}

fn at(path: &str) -> Locator {
    Locator::Vault { path: path.to_owned(), params: BTreeMap::new() }
}

fn asking(path: &str, params: Value) -> Locator {
    let params = params.as_object().unwrap().clone().into_iter().collect();
    Locator::Vault { path: path.to_owned(), params }
}

fn text(reading: &Reading, field: &str) -> String {
    let text = reading.fields.get(field).and_then(Field::as_text).unwrap_or_else(|| panic!("no field {field}"));
    text.expose_str().unwrap().to_owned()
}

fn file(folder: &tempfile::TempDir, name: &str, content: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    path
}

#[tokio::test]
async fn kv2_versions_their_metadata_and_the_one_before_come_as_they_are() {
    for server in servers() {
        let (kv, store) = (server.kv(2).await, root(&*server));
        server.put(&kv, "app/db", json!({"password": "one", "port": 5432, "nested": {"a": [true, null]}})).await;
        server.must("POST", &format!("{kv}/metadata/app/db"), json!({"custom_metadata": {"owner": "ai"}})).await;
        let place = at(&format!("{kv}/app/db"));
        let first = store.read(&place).await.unwrap();
        assert_eq!((first.version.clone(), text(&first, "password").as_str()), (Version("1".into()), "one"));
        assert_eq!((text(&first, "port").as_str(), first.again), ("5432", Again::Free), "{}", server.name());
        assert_eq!(first.custom.get("owner").map(String::as_str), Some("ai"), "{}", server.name());
        assert!(first.created_at.is_some() && first.lease.is_none());
        assert_eq!(store.read_again(&place, &first).await.unwrap(), None);
        server.put(&kv, "app/db", json!({"password": "two"})).await;
        let second = store.read_again(&place, &first).await.unwrap().expect("news");
        assert_eq!(text(&second, "password"), "two");
        let before = store.previous(&place, &second, None).await.unwrap().expect("version 1");
        assert_eq!((before.version.clone(), text(&before, "password").as_str()), (Version("1".into()), "one"));
        server.must("DELETE", &format!("{kv}/data/app/db"), Value::Null).await;
        let deleted = store.read(&place).await.unwrap_err();
        let absent = store.read(&at(&format!("{kv}/app/none"))).await.unwrap_err();
        assert_eq!((deleted.kind, absent.kind), (StoreErrorKind::Missing, StoreErrorKind::Missing));
        assert!(deleted.message.contains("deleted") && !absent.message.contains("deleted"), "{deleted}; {absent}");
    }
}

#[tokio::test]
async fn kv1_and_cubbyhole_are_polled_and_are_no_leases() {
    for server in servers() {
        let (kv, store) = (server.kv(1).await, root(&*server));
        server.must("POST", &format!("{kv}/app"), json!({"key": "one"})).await;
        server.must("POST", "cubbyhole/app", json!({"key": "mine"})).await;
        for (path, value) in [(format!("{kv}/app"), "one"), ("cubbyhole/app".to_owned(), "mine")] {
            let reading = store.read(&at(&path)).await.unwrap();
            assert_eq!((text(&reading, "key").as_str(), reading.lease.clone()), (value, None), "{}", server.name());
            assert_ne!(reading.again, Again::Mints);
            let again = store.read_again(&at(&path), &reading).await.unwrap();
            assert!(again.is_none_or(|again| again.version == reading.version), "{}", server.name());
        }
        server.must("POST", &format!("{kv}/app"), json!({"key": "two"})).await;
        let changed = store.read(&at(&format!("{kv}/app"))).await.unwrap();
        assert_eq!(text(&changed, "key"), "two");
    }
}

#[tokio::test]
async fn a_database_lease_is_renewed_looked_up_and_revoked_and_its_user_with_it() {
    for server in servers() {
        let Some(mount) = server.database_mount().await else { continue };
        server.database_role(&mount, "app", "60s", "100s").await;
        let (store, place) = (root(&*server), at(&format!("{mount}/creds/app")));
        let reading = store.read(&place).await.unwrap();
        let (user, password) = (text(&reading, "username"), text(&reading, "password"));
        assert!(server.database_accepts(&user, &password), "{}", server.name());
        let lease = reading.lease.clone().expect("a lease");
        assert_eq!((reading.again, lease.renewable), (Again::Mints, true));
        assert!(lease.duration <= Duration::from_secs(60));
        let renewed = store.renew(&lease).await.unwrap();
        assert!(renewed.duration > Duration::from_secs(50), "{}: {:?}", server.name(), renewed.duration);
        let looked = store.look_up(&lease).await.unwrap().expect("it lives");
        assert!(looked.duration > Duration::from_secs(50), "{}: {:?}", server.name(), looked.duration);
        let other = store.read(&place).await.unwrap();
        assert_ne!(other.version, reading.version, "each read is another lease");
        store.revoke(&lease).await.unwrap();
        store.revoke(&lease).await.expect("ending one that is gone is no error");
        for _ in 0..100 {
            if !server.database_accepts(&user, &password) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(!server.database_accepts(&user, &password), "{}", server.name());
        assert_eq!(store.look_up(&lease).await.unwrap(), None, "{}", server.name());
        assert_eq!(store.renew(&lease).await.unwrap_err().kind, StoreErrorKind::Missing, "{}", server.name());
    }
}

#[tokio::test]
async fn a_static_role_says_when_it_is_read_again() {
    for server in servers() {
        let Some(mount) = server.database_mount().await else { continue };
        let user = crate::vault::server::unique("role").replace('-', "_");
        server.static_role(&mount, &user, "1h").await;
        let (store, place) = (root(&*server), at(&format!("{mount}/static-creds/{user}")));
        let before = store.read(&place).await.unwrap();
        let Again::After(after) = before.again else { panic!("{}: {:?}", server.name(), before.again) };
        assert!(after > Duration::from_secs(3500) && after < Duration::from_secs(3700), "{after:?}");
        server.rotate_static(&mount, &user).await;
        let next = store.read_again(&place, &before).await.unwrap().expect("news");
        assert!(next.version != before.version && text(&next, "password") != text(&before, "password"));
        assert!(server.database_accepts(&user, &text(&next, "password")), "{}", server.name());
    }
}

#[tokio::test]
async fn certificates_come_with_their_keys_and_ends_and_keys_with_their_versions() {
    for server in servers() {
        let role = json!({"allow_any_name": true, "ttl": "1h", "key_type": "ec", "key_bits": 256});
        let (pki, transit, store) = (server.pki(role).await, server.transit().await, root(&*server));
        let place = asking(&format!("{pki}/issue/web"), json!({"common_name": "app.test"}));
        let reading = store.read(&place).await.unwrap();
        assert!(text(&reading, "private_key").contains("PRIVATE KEY") && reading.again == Again::Mints);
        let left = reading.expires_at.expect("an end").duration_since(jiff::Timestamp::now()).as_secs();
        assert!((3500..=3600).contains(&left), "{}: {left}", server.name());
        let key = at(&format!("{transit}/keys/app"));
        let first = store.read(&key).await.unwrap();
        assert_eq!(first.version, Version("1".into()), "{}", server.name());
        assert_eq!(store.read_again(&key, &first).await.unwrap(), None, "{}", server.name());
        server.rotate_key(&transit).await;
        let next = store.read_again(&key, &first).await.unwrap().expect("news");
        assert_eq!(next.version, Version("2".into()));
    }
}

#[tokio::test]
async fn approle_plain_and_wrapped_and_userpass_log_in_and_a_dead_token_is_replaced_while_a_denial_is_not() {
    for server in servers() {
        let kv = server.kv(2).await;
        server.put(&kv, "a", json!({"x": "1"})).await;
        let policy = crate::vault::server::unique("policy");
        server.policy(&policy, &format!("path \"{kv}/data/a\" {{ capabilities = [\"read\"] }}")).await;
        let mount = server.approle(json!({"token_policies": policy, "token_ttl": "1h"})).await;
        let user = server.userpass("joe", "correct horse", &policy).await;
        let folder = tempfile::tempdir().unwrap();
        let approle = |wrapped, content: String| VaultAuth::AppRole {
            mount: mount.trim_start_matches("auth/").to_owned(),
            role_id_file: folder.path().join("role-id"),
            secret_id_file: Some(file(&folder, if wrapped { "wrapped" } else { "secret-id" }, &content)),
            wrapped,
        };
        file(&folder, "role-id", &server.role_id(&mount).await);
        let auths = [
            approle(false, server.secret_id(&mount).await),
            approle(true, server.wrapped_secret_id(&mount, "60s").await),
            VaultAuth::Userpass {
                mount: user.trim_start_matches("auth/").to_owned(),
                username: "joe".to_owned(),
                password_file: file(&folder, "password", "correct horse\n"),
            },
        ];
        for (n, auth) in auths.into_iter().enumerate() {
            let store = store(&*server, auth);
            store.read(&at(&format!("{kv}/a"))).await.unwrap_or_else(|e| panic!("{} {n}: {e}", server.name()));
            let denied = store.read(&at(&format!("{kv}/b"))).await.unwrap_err();
            assert_eq!(denied.kind, StoreErrorKind::Denied, "{} {n}: {denied}", server.name());
            let session: Value = serde_json::from_slice(store.session().expect("a session").expose()).unwrap();
            server.revoke_token(session["token"]["value"].as_str().unwrap()).await;
            // A token that was just found alive is not looked up again for a moment.
            let mut answer = store.read(&at(&format!("{kv}/a"))).await;
            for _ in 0..100 {
                if answer.is_ok() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                answer = store.read(&at(&format!("{kv}/a"))).await;
            }
            answer.unwrap_or_else(|e| panic!("{} {n}: {e}", server.name()));
            store.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_smallest_policy_that_is_printed_is_enough() {
    for server in servers() {
        let Some(mount) = server.database_mount().await else { continue };
        let kv = server.kv(2).await;
        server.put(&kv, "a", json!({"x": "1"})).await;
        server.database_role(&mount, "app", "60s", "100s").await;
        let (secret, creds) = (at(&format!("{kv}/a")), at(&format!("{mount}/creds/app")));
        let access = root(&*server).access(&[&secret, &creds]).await.unwrap().expect("Vault has policies");
        let policy = crate::vault::server::unique("smallest");
        server.policy(&policy, &access.policy).await;
        let token = server.token(json!({"policies": [policy], "no_default_policy": true})).await;
        let store = store(&*server, with_token(&token));
        let reading = store.read(&secret).await.unwrap();
        assert_eq!(store.read_again(&secret, &reading).await.unwrap(), None, "{}", server.name());
        let lease = store.read(&creds).await.unwrap().lease.unwrap();
        store.renew(&lease).await.unwrap();
        assert!(store.look_up(&lease).await.unwrap().is_some());
        store.revoke(&lease).await.unwrap();
    }
}
