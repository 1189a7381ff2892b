//! The server is away, or does not know the agent's token any more.

use serde_json::{Value, json};

use crate::vault::fake::counts::Kind;
use crate::vault::fake::faults::Fault;
use crate::world::{Setup, Vault, World, each};

/// Database credentials and a KV value in one file.
fn both(mount: &str, kv: &str) -> Setup {
    let mut setup = Setup::creds(mount);
    setup.secrets["kv"] = json!({"store": "vault", "path": format!("{kv}/app"), "poll": "1s"});
    setup.conf.push_str("{{ secrets.kv.key }}\n");
    setup
}

fn world(vault: Vault, key: bool) -> Option<(World, String)> {
    let mount = vault.database("1h", "2h")?;
    let kv = vault.on(async |s| {
        let kv = s.kv(2).await;
        s.put(&kv, "app", json!({"key": "of-1"})).await;
        kv
    });
    let setup = Setup { key, ..both(&mount, &kv) };
    Some((World::started(vault, &setup), format!("{mount}/creds/app")))
}

/// A start while the server is away; then it comes back.
fn down_for_the_whole_start(key: bool) {
    let (mut world, prefix) = world(Vault::fake(), key).unwrap();
    let fake = world.vault.server.fake().unwrap().clone();
    let (served, lease) = (world.serving(), world.live(&prefix, 1));
    world.agent.stop();
    fake.faults().always(Fault::Close);
    fake.counts().reset();
    world.remove("serving");
    world.agent.start();
    world.until("the last known good is served", |w| (w.serving() == served).then_some(()));
    let failing = world.until("status tells since when", |w| {
        w.secret("kv").filter(|secret| secret["error"].is_string() && secret["failing_since"].is_string())
    });
    assert!(failing["error"].as_str().unwrap().contains("store vault"), "{failing}");
    let target = world.until("the target is on trial no more", |w| {
        w.agent.target("app").filter(|t| t["state"] == "stale" && t["generation"] == 1)
    });
    assert_eq!(target["degraded"], false, "{target}");
    let (code, out, err) = world.agent.call(&["status"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("cannot be read for") && out.contains("stale"), "{out}");
    let during = fake.counts().total();
    assert!(during < 60, "{during} requests");
    fake.faults().clear();
    if key {
        world.healthy();
        assert_eq!((world.serving(), world.live(&prefix, 1)), (served, lease));
        assert_eq!(fake.counts().of(Kind::Mint), 0);
        assert_eq!((world.agent.outcomes().len(), fake.counts().of(Kind::Login)), (1, 0));
    } else {
        world.agent.wait_outcomes(&["committed", "committed"]);
        assert_ne!(world.live(&prefix, 1), lease);
        assert!(world.vault.accepts(&world.creds()));
        assert!(fake.counts().count(|a| a.kind == Kind::Mint && a.status == 200) == 1);
    }
    assert_eq!(world.secret("kv").unwrap()["failing_since"], Value::Null);
}

#[test]
fn down_for_the_whole_start_the_last_known_good_runs_and_nothing_is_minted_after_it() {
    down_for_the_whole_start(true);
}

#[test]
fn down_for_the_whole_start_the_last_known_good_runs_also_where_nothing_may_be_kept() {
    down_for_the_whole_start(false);
}

#[test]
fn a_revoked_token_costs_one_login_and_one_lease_for_each_that_died_with_it() {
    each(|vault| {
        let Some((mut world, prefix)) = world(vault, true) else { return };
        let (before, token) = (world.creds(), world.accessor());
        world.vault.on(async |s| s.revoke_accessor(&token).await);
        world.agent.wait_outcomes(&["committed", "committed"]);
        world.healthy();
        let after = world.creds();
        assert!(world.vault.accepts(&after) && !world.vault.accepts(&before));
        assert_ne!(world.accessor(), token);
        world.live(&prefix, 1);
        assert!(world.vault.minted().is_none_or(|minted| minted == 2), "its lease died with it: one other");
        assert!(world.vault.logins().is_none_or(|logins| logins == 2), "and one login");
        let changed = world.agent.history()[1]["changed"].clone();
        assert!(changed.get("kv").is_none() && changed.get("db").is_some(), "{changed}");
    });
}

#[test]
fn a_dead_token_moves_no_kv_secret() {
    each(|vault| {
        let kv = vault.on(async |s| {
            let kv = s.kv(2).await;
            s.put(&kv, "app", json!({"key": "of-1"})).await;
            kv
        });
        let secrets = json!({"kv": {"store": "vault", "path": format!("{kv}/app"), "poll": "1s"}});
        let mut world = World::started(vault, &Setup::new(secrets, "{{ secrets.kv.key }}\n"));
        let token = world.accessor();
        world.vault.on(async |s| s.revoke_accessor(&token).await);
        world.until("it has logged in again", |w| (w.accessor() != token).then_some(()));
        let read = world.secret("kv").unwrap()["read_at"].clone();
        world.until("it reads again", |w| (w.secret("kv")?["read_at"] != read).then_some(()));
        assert_eq!((world.agent.outcomes().len(), world.starts()), (1, 1));
        world.vault.on(async |s| s.put(&kv, "app", json!({"key": "of-2"})).await);
        world.agent.wait_outcomes(&["committed", "committed"]);
        assert_eq!(world.serving(), ["of-2"]);
    });
}

#[test]
fn leases_of_a_token_that_lives_on_are_not_minted_anew_when_another_dies() {
    each(|vault| {
        let Some(mount) = vault.database("1h", "2h") else { return };
        let tokens: Vec<String> = (0..3)
            .map(|_| vault.on(async |s| s.token(json!({"policies": ["root"], "ttl": "1h", "no_parent": true})).await))
            .collect();
        let mut setup = Setup::creds(&mount);
        setup.secrets["other"] = setup.secrets["db"].clone();
        setup.conf.push_str("{{ secrets.other.username }}\n{{ secrets.other.password }}\n");
        setup.store = json!({"auth": {"type": "token-file", "path": "token"}});
        let mut world = World::new(vault, &setup);
        world.put("token", &tokens[0]);
        world.agent.start();
        world.healthy();
        let prefix = format!("{mount}/creds/app");
        let first = world.serving();
        // One of the two is made again by the second token.
        world.agent.stop();
        world.put("token", &tokens[1]);
        world.agent.start();
        world.healthy();
        world.refresh("other");
        world.agent.wait_outcomes(&["committed", "committed"]);
        let second = world.serving();
        assert!(second[..2] == first[..2] && second[2..] != first[2..]);
        world.live(&prefix, 2);
        let minted = world.vault.minted();
        // The second token dies, and its lease with it.
        world.put("token", &tokens[2]);
        world.vault.on(async |s| s.revoke_token(&tokens[1]).await);
        world.agent.wait_outcomes(&["committed"; 3]);
        world.healthy();
        let third = world.serving();
        assert!(third[..2] == first[..2] && third[2..] != second[2..], "{first:?} {second:?} {third:?}");
        world.live(&prefix, 2);
        assert!(world.vault.accepts(&world.creds()));
        assert_eq!(world.vault.minted(), minted.map(|minted| minted + 1));
    });
}

#[test]
fn a_token_that_dies_is_found_out_each_time_also_beside_a_path_that_policy_denies() {
    each(|vault| {
        let kv = vault.on(async |s| {
            let kv = s.kv(2).await;
            s.put(&kv, "app", json!({"key": "of-1"})).await;
            kv
        });
        let secrets = json!({
            "kv": {"store": "vault", "path": format!("{kv}/app"), "poll": "1h"},
            "forbidden": {"store": "vault", "path": format!("{kv}/forbidden"), "poll": "1h"},
        });
        let mut setup = Setup::new(secrets, "{{ secrets.kv.key }}\n");
        let other = json!({"files": [{"path": "out/other", "inline": "{{ secrets.forbidden.key }}"}]});
        setup.rest = json!({"targets": {"other": other}});
        let world = World::started(vault, &setup);
        for round in 1..=3 {
            let token = world.accessor();
            world.vault.on(async |s| s.revoke_accessor(&token).await);
            // What is denied either way is the first to meet the dead token.
            let (code, out, err) = world.agent.call(&["refresh", "forbidden"]);
            assert_ne!(code, 0, "{out}{err}");
            world.refresh("kv");
            assert_ne!(world.accessor(), token, "round {round}");
        }
    });
}
