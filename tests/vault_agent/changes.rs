//! What changes in the store reaches the process.

use serde_json::json;

use crate::vault::fake::counts::Kind;
use crate::world::{Setup, World, each};

#[test]
fn a_kv_v2_write_is_a_healthy_rotation_within_one_poll_and_the_version_before_is_previous() {
    each(|vault| {
        let mount = vault.on(async |s| s.kv(2).await);
        vault.on(async |s| s.put(&mount, "app", json!({"key": "of-1"})).await);
        let secrets = json!({"app": {"store": "vault", "path": format!("{mount}/app"), "poll": "1s", "overlap": "1h"}});
        let conf = "{{ secrets.app.key }}\n{% if previous.app.key is defined %}{{ previous.app.key }}{% endif %}\n";
        let mut world = World::started(vault, &Setup::new(secrets, conf));
        assert_eq!(world.serving(), ["of-1", ""]);
        // Two polls that find nothing move nothing.
        let read = world.secret("app").unwrap()["read_at"].clone();
        world.until("a poll has ended", |w| (w.secret("app")?["read_at"] != read).then_some(()));
        assert_eq!((world.starts(), world.agent.outcomes().len()), (1, 1));
        if let Some(fake) = world.vault.server.fake() {
            fake.counts().reset();
        }
        world.vault.on(async |s| s.put(&mount, "app", json!({"key": "of-2"})).await);
        world.agent.wait_outcomes(&["committed", "committed"]);
        assert_eq!(world.serving(), ["of-2", "of-1"]);
        if let Some(fake) = world.vault.server.fake() {
            // The poll that was under way may have come too early; the next one sees it.
            let asked = fake.counts().all();
            let news = asked.iter().position(|a| a.path == format!("{mount}/data/app")).unwrap();
            let polls = asked[..news].iter().filter(|a| a.kind == Kind::Metadata).count();
            assert!((1..=2).contains(&polls), "{asked:?}");
        }
        world.vault.on(async |s| s.put(&mount, "app", json!({"key": "of-3"})).await);
        world.agent.wait_outcomes(&["committed"; 3]);
        assert_eq!(world.serving(), ["of-3", "of-2"]);
        assert_eq!(world.starts(), 3);
        let version = world.secret("app").unwrap()["version"].clone();
        assert!(version.as_str().unwrap().contains('3'), "{version}");
    });
}

#[test]
fn a_static_roles_rotation_reaches_the_process_by_itself() {
    each(|vault| {
        let user = crate::vault::server::unique("static").replace('-', "_");
        let Some(mount) = vault.on(async |s| s.database_mount().await) else { return };
        vault.on(async |s| s.static_role(&mount, &user, "5s").await);
        // Nothing polls it: the role itself says when it rotates.
        let secrets = json!({"db": {"store": "vault", "path": format!("{mount}/static-creds/{user}"), "poll": "1h"}});
        let conf = "{{ secrets.db.username }}\n{{ secrets.db.password }}\n";
        let mut world = World::started(vault, &Setup::new(secrets, conf));
        let before = world.serving();
        let after = world.other_than(&before);
        assert_eq!(after[0], user);
        assert_ne!(after[1], before[1]);
        let outcomes = world.agent.outcomes();
        assert!(outcomes.len() >= 2 && outcomes.iter().all(|outcome| outcome == "committed"), "{outcomes:?}");
    });
}

#[test]
fn a_static_role_that_somebody_rotates_is_seen_by_the_next_poll() {
    each(|vault| {
        let user = crate::vault::server::unique("static").replace('-', "_");
        let Some(mount) = vault.on(async |s| s.database_mount().await) else { return };
        vault.on(async |s| s.static_role(&mount, &user, "1h").await);
        let secrets = json!({"db": {"store": "vault", "path": format!("{mount}/static-creds/{user}"), "poll": "1s"}});
        let conf = "{{ secrets.db.username }}\n{{ secrets.db.password }}\n";
        let mut world = World::started(vault, &Setup::new(secrets, conf));
        let before = world.creds();
        world.vault.on(async |s| s.rotate_static(&mount, &user).await);
        world.other_than(&[before.user.clone(), before.password.clone()]);
        assert!(world.vault.accepts(&world.creds()) && !world.vault.accepts(&before));
        // Its ttl is another one in every answer: that alone moves nothing.
        let read = world.secret("db").unwrap()["read_at"].clone();
        world.until("another poll has ended", |w| (w.secret("db")?["read_at"] != read).then_some(()));
        assert_eq!(world.agent.outcomes(), ["committed", "committed"]);
    });
}

#[test]
fn another_version_of_a_transit_key_reloads_the_process() {
    each(|vault| {
        let mount = vault.on(async |s| s.transit().await);
        let secrets = json!({"key": {"store": "vault", "path": format!("{mount}/keys/app"), "poll": "1s"}});
        let mut world = World::started(vault, &Setup::new(secrets, "{{ secrets.key.latest_version }}\n"));
        assert_eq!(world.serving(), ["1"]);
        world.vault.on(async |s| s.rotate_key(&mount).await);
        world.agent.wait_outcomes(&["committed", "committed"]);
        assert_eq!((world.serving(), world.starts()), (vec!["2".to_owned()], 2));
    });
}
