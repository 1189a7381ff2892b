//! Static roles, and what an unknown role answers.

use serde_json::json;

use crate::get;
use crate::vault::fake::{Fake, clock::Clock};
use crate::vault::server::{FakeServer, VaultServer, servers, unique};

#[tokio::test]
async fn a_static_role_says_when_it_rotated_and_for_how_long_it_stands() {
    for server in servers() {
        let Some(mount) = server.database_mount().await else { continue };
        let user = unique("static").replace('-', "_");
        server.static_role(&mount, &user, "1h").await;
        let at = format!("{mount}/static-creds/{user}");
        let before = get(&*server, server.root_token(), &at).await.is(200);
        assert_eq!(before.text("/data/username"), user);
        assert_eq!(before.number("/data/rotation_period"), 3600);
        assert!((3590..=3600).contains(&before.number("/data/ttl")), "{}: {}", server.name(), before.at("/data/ttl"));
        assert_eq!((before.at("/lease_id"), before.at("/renewable")), (json!(""), json!(false)));
        assert!(server.database_accepts(&user, &before.text("/data/password")));
        server.rotate_static(&mount, &user).await;
        let after = get(&*server, server.root_token(), &at).await.is(200);
        let rotated =
            |r: &crate::vault::wire::Response| r.text("/data/last_vault_rotation").parse::<jiff::Timestamp>().unwrap();
        assert!(rotated(&after) > rotated(&before), "{}", server.name());
        assert_ne!(after.text("/data/password"), before.text("/data/password"));
        assert!(server.database_accepts(&user, &after.text("/data/password")));
        assert!(!server.database_accepts(&user, &before.text("/data/password")));
    }
}

#[tokio::test]
async fn an_unknown_role_is_400_and_not_404() {
    for server in servers() {
        let Some(mount) = server.database_mount().await else { continue };
        let root = server.root_token();
        let creds = get(&*server, root, &format!("{mount}/creds/none")).await.is(400);
        assert!(creds.error().contains("unknown role"), "{}: {}", server.name(), creds.error());
        get(&*server, root, &format!("{mount}/static-creds/none")).await.is(400);
        get(&*server, root, "no-such-mount/creds/none").await.is(404);
    }
}

#[tokio::test]
async fn the_fakes_static_role_stays_at_ttl_0_while_its_rotation_is_held() {
    let clock = Clock::still();
    let fake = FakeServer::new(Fake::with(clock.clone(), false));
    let server: &dyn VaultServer = &fake;
    let mount = server.database_mount().await.unwrap();
    server.static_role(&mount, "app", "1h").await;
    let at = format!("{mount}/static-creds/app");
    let first = get(server, "root", &at).await.text("/data/last_vault_rotation");
    fake.fake.hold_rotation(&mount, "app", true);
    clock.advance(std::time::Duration::from_secs(3605));
    let held = get(server, "root", &at).await;
    assert_eq!((held.number("/data/ttl"), held.text("/data/last_vault_rotation")), (0, first.clone()));
    fake.fake.hold_rotation(&mount, "app", false);
    let let_go = get(server, "root", &at).await;
    assert_eq!(let_go.number("/data/ttl"), 3595);
    assert_ne!(let_go.text("/data/last_vault_rotation"), first);
}
