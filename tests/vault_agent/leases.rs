//! Leases under a process: renewed, replaced, revoked; refused candidates; the end of the agent.

use crate::world::{Creds, Setup, Vault, World, each};

/// A world on database credentials; None, with a line that says so, where there is no database.
fn on_database(vault: Vault, ttl: &str, longest: &str, setup: impl FnOnce(&mut Setup)) -> Option<(World, String)> {
    let mount = vault.database(ttl, longest)?;
    let mut of = Setup::creds(&mount);
    setup(&mut of);
    Some((World::started(vault, &of), format!("{mount}/creds/app")))
}

/// Waits until a child on other credentials is asked whether it is healthy, with its commit held back.
fn on_trial(world: &World, before: &Creds) -> Creds {
    world.until("a child with other credentials is asked", |w| {
        let creds = w.creds();
        let asked = w.agent.read("asked").lines().any(|user| user == creds.user);
        (creds.user != before.user && asked).then_some(creds)
    })
}

#[test]
fn new_credentials_leave_the_old_ones_valid_until_they_are_committed_and_revoke_them_then() {
    each(|vault| {
        let Some((mut world, prefix)) = on_database(vault, "1h", "2h", |_| {}) else { return };
        let (before, lease) = (world.creds(), world.live(&prefix, 1));
        assert!(world.vault.accepts(&before));
        world.put("hold", "");
        world.refresh("db");
        let after = on_trial(&world, &before);
        let both = world.live(&prefix, 2);
        assert!(both.contains(&lease[0]));
        assert!(world.vault.accepts(&before) && world.vault.accepts(&after), "both while it is not committed");
        assert_eq!(world.agent.outcomes(), ["committed"]);
        world.remove("hold");
        world.agent.wait_outcomes(&["committed", "committed"]);
        let left = world.live(&prefix, 1);
        assert!(!lease.contains(&left[0]));
        assert!(world.vault.accepts(&after) && !world.vault.accepts(&before));
        assert_eq!(world.creds(), after);
    });
}

#[test]
fn with_an_overlap_the_credentials_before_outlive_the_commit() {
    each(|vault| {
        let overlap = |setup: &mut Setup| setup.secrets["db"]["overlap"] = "4s".into();
        let Some((mut world, prefix)) = on_database(vault, "1h", "2h", overlap) else { return };
        let before = world.creds();
        world.refresh("db");
        world.agent.wait_outcomes(&["committed", "committed"]);
        let until = world.secret("db").unwrap()["overlap_until"].as_str().map(str::to_owned);
        let accepted = world.vault.accepts(&before);
        let over = until.is_none_or(|until| until.parse::<jiff::Timestamp>().unwrap() <= jiff::Timestamp::now());
        assert!(accepted || over, "valid while it is `previous`");
        world.live(&prefix, 1);
        assert!(!world.vault.accepts(&before) && world.vault.accepts(&world.creds()));
    });
}

#[test]
fn credentials_are_renewed_then_replaced_at_their_maximum_before_the_old_ones_end() {
    each(|vault| {
        let Some((mut world, prefix)) = on_database(vault, "24s", "32s", |_| {}) else { return };
        let (before, lease) = (world.creds(), world.live(&prefix, 1));
        let renewed = world.until("it is renewed", |w| {
            let info = w.vault.on(async |s| s.lease(&lease[0]).await);
            info.at("/data/last_renewal").as_str().map(str::to_owned)
        });
        assert!(renewed.parse::<jiff::Timestamp>().is_ok());
        assert_eq!(world.starts(), 1, "a renewal moves nothing");
        let ends = world.vault.on(async |s| s.lease(&lease[0]).await.is(200).text("/data/expire_time"));
        world.agent.wait_outcomes(&["committed", "committed"]);
        // How long a rotation then takes is the machine's affair.
        let begun: jiff::Timestamp = world.agent.history()[1]["started_at"].as_str().unwrap().parse().unwrap();
        let ends: jiff::Timestamp = ends.parse().unwrap();
        assert!(begun < ends, "replaced at {begun}, before the old ones ended at {ends}");
        assert!(world.vault.accepts(&world.creds()) && world.creds() != before);
        let left = world.live(&prefix, 1);
        assert_ne!(left, lease);
        assert!(!world.vault.accepts(&before));
        assert!(world.vault.minted().is_none_or(|minted| minted == 2));
    });
}

#[test]
fn an_emergency_revocation_of_the_prefix_is_noticed_by_a_lookup_and_replaced() {
    each(|vault| {
        let Some((mut world, prefix)) = on_database(vault, "24h", "48h", |_| {}) else { return };
        let before = world.creds();
        world.vault.on(async |s| s.revoke_prefix(&prefix).await);
        world.agent.wait_outcomes(&["committed", "committed"]);
        world.healthy();
        assert!(world.vault.accepts(&world.creds()) && world.creds() != before);
        assert_eq!(world.live(&prefix, 1).len(), 1);
        assert!(world.vault.minted().is_none_or(|minted| minted == 2));
        assert!(world.agent.log().contains("its lease is gone before its end"));
    });
}

#[test]
fn a_refused_candidate_is_revoked_and_the_old_credentials_are_in_use_and_valid() {
    each(|vault| {
        let refusing = |setup: &mut Setup| setup.target["health"]["within"] = "5s".into();
        let Some((mut world, prefix)) = on_database(vault, "1h", "2h", refusing) else { return };
        let (before, lease) = (world.creds(), world.live(&prefix, 1));
        world.put("accept", &format!("{}\n", before.user));
        world.refresh("db");
        world.agent.wait_outcomes(&["committed", "rolled_back"]);
        world.healthy();
        assert_eq!(world.live(&prefix, 1), lease, "the candidate's is revoked, the old one lives");
        assert_eq!(world.creds(), before);
        assert!(world.vault.accepts(&before));
        assert!(world.vault.minted().is_none_or(|minted| minted == 2), "not at once again");
        let next: jiff::Timestamp = world.secret("db").unwrap()["next_read_at"].as_str().unwrap().parse().unwrap();
        let wait = next.duration_since(jiff::Timestamp::now()).as_secs();
        assert!((30..=130).contains(&wait), "another try follows in {wait} s");
        // It is not what was refused that is tried next.
        world.remove("accept");
        world.refresh("db");
        world.agent.wait_outcomes(&["committed", "rolled_back", "committed"]);
        assert!(world.vault.accepts(&world.creds()) && world.creds() != before);
        world.until("the old one is revoked", |w| (!w.vault.leases(&prefix).contains(&lease[0])).then_some(()));
        world.live(&prefix, 1);
    });
}

#[test]
fn on_stop_says_whether_leases_and_token_outlive_the_agent() {
    each(|vault| {
        let Some((mut world, prefix)) = on_database(vault, "1h", "2h", |_| {}) else { return };
        let (creds, token) = (world.creds(), world.accessor());
        world.agent.stop();
        assert_eq!(world.vault.leases(&prefix).len(), 1, "kept");
        assert!(world.vault.accepts(&creds) && world.vault.alive(&token));
        world.configure(|config| config["stores"]["vault"]["on_stop"] = "revoke".into());
        world.agent.start();
        world.healthy();
        assert_eq!(world.creds(), creds, "what was kept is in use");
        world.agent.stop();
        world.live(&prefix, 0);
        assert!(!world.vault.accepts(&creds));
        world.until("its token is gone", |w| (!w.vault.alive(&token)).then_some(()));
        // The next start makes its own.
        world.agent.start();
        let after = world.other_than(&[creds.user.clone(), creds.password.clone()]);
        assert_ne!(after[0], creds.user);
        world.live(&prefix, 1);
    });
}

/// Takes the file up; once told to end it does so when it may.
const DRAINS: &str = r#"
echo started >>starts
cp out/conf serving.next && mv serving.next serving
trap 'told=yes; echo told >>told' TERM
while [ -z "$told" ] || [ ! -e leave ]; do sleep 0.05; done
"#;

#[test]
fn a_process_that_drains_after_a_handover_keeps_its_credentials_until_it_has_ended() {
    each(|vault| {
        let Some(mount) = vault.database("1h", "2h") else { return };
        let (mut world, prefix) = (World::new(vault, &Setup::creds(&mount)), format!("{mount}/creds/app"));
        let socket = format!("unix://{}", world.path("public.sock").display());
        world.configure(|config| {
            let reload = &mut config["targets"]["app"]["reload"];
            reload["on_change"] = "handover".into();
            reload["listen"] = vec![socket].into();
            reload["drain"] = "1h".into();
        });
        world.put("child", DRAINS);
        world.agent.start();
        world.healthy();
        let (before, lease) = (world.creds(), world.live(&prefix, 1));
        let pruned = |world: &World| world.agent.log().matches("begins step=prune").count();
        let at_start = pruned(&world);
        world.refresh("db");
        world.agent.wait_outcomes(&["committed", "committed"]);
        world.until("the old one was told, and what is not in use was let go", |w| {
            (w.path("told").exists() && pruned(w) > at_start).then_some(())
        });
        let after = world.creds();
        assert!(world.live(&prefix, 2).contains(&lease[0]));
        assert!(world.vault.accepts(&before) && world.vault.accepts(&after), "both while the old one drains");
        world.put("leave", "");
        let left = world.live(&prefix, 1);
        assert!(!lease.contains(&left[0]));
        assert!(world.vault.accepts(&after) && !world.vault.accepts(&before));
    });
}
