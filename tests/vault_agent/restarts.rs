//! Leases, values and the token outlive the agent where they may be kept; where not, nothing is left behind.

use std::collections::BTreeSet;

use rustls::pki_types::pem::PemObject;
use serde_json::json;

use crate::world::{Setup, Vault, World, each};

fn on_database(vault: Vault, setup: impl FnOnce(&mut Setup)) -> Option<(World, String)> {
    let mount = vault.database("1h", "2h")?;
    let mut of = Setup::creds(&mount);
    setup(&mut of);
    Some((World::new(vault, &of), format!("{mount}/creds/app")))
}

/// Says that a test cannot run here; a failure where everything is required.
fn skip(why: &str) {
    eprintln!("SKIP: {why}");
    assert!(std::env::var("LEASEHOLD_REQUIRE").as_deref() != Ok("all"), "required, but skipped: {why}");
}

#[test]
fn twenty_restarts_mint_nothing_and_leave_nothing_behind() {
    each(|vault| {
        let Some((mut world, prefix)) = on_database(vault, |_| {}) else { return };
        world.agent.start();
        world.healthy();
        let (creds, lease) = (world.creds(), world.live(&prefix, 1));
        for restarts in 1..=20 {
            world.agent.stop();
            world.agent.start();
            world.until("a child is started and the session goes on", |w| {
                let sessions = w.agent.log().matches("session begun").count();
                (w.starts() == 1 + restarts && sessions == 1 + restarts).then_some(())
            });
            assert_eq!(world.vault.leases(&prefix), lease);
        }
        world.healthy();
        assert_eq!(world.creds(), creds);
        assert!(world.vault.accepts(&creds));
        assert_eq!(world.agent.outcomes(), ["committed"], "no rotation: the same generation again");
        assert!(world.vault.minted().is_none_or(|minted| minted == 1));
        assert!(world.vault.logins().is_none_or(|logins| logins == 1), "the token outlives the agent, too");
        if let Some(fake) = world.vault.server.fake() {
            assert_eq!((fake.live_leases().len(), fake.live_tokens()), (1, 1));
        }
        // What is kept is what is renewed: the lease is still in the agent's hands.
        assert_eq!(world.secret("db").unwrap()["leased"], true);
    });
}

#[test]
fn what_an_init_container_rendered_is_what_the_sidecar_runs_on() {
    each(|vault| {
        let Some((mut world, prefix)) = on_database(vault, |_| {}) else { return };
        let (code, out, err) = world.agent.call(&["render", "--once"]);
        assert_eq!(code, 0, "{out}{err}");
        let lease = world.live(&prefix, 1);
        let rendered = world.agent.read("out/conf");
        world.agent.start();
        world.healthy();
        assert_eq!(world.agent.read("serving"), rendered);
        assert_eq!(world.live(&prefix, 1), lease);
        assert!(world.vault.minted().is_none_or(|minted| minted == 1));
        assert!(world.vault.logins().is_none_or(|logins| logins == 1));
        world.agent.stop();
        // And back: another init container before another sidecar.
        assert_eq!(world.agent.call(&["render", "--once"]).0, 0);
        assert_eq!(world.live(&prefix, 1), lease);
        assert!(world.vault.minted().is_none_or(|minted| minted == 1));
    });
}

#[test]
fn without_a_key_on_a_disk_the_leases_of_before_are_revoked_once_new_ones_are_committed() {
    each(|vault| {
        let Some((mut world, prefix)) = on_database(vault, |setup| setup.key = false) else { return };
        if world.in_memory() {
            return skip("the folder for temporary files is in memory");
        }
        world.agent.start();
        world.healthy();
        let (before, lease) = (world.creds(), world.live(&prefix, 1));
        world.agent.stop();
        assert!(!world.agent.read("state/leases.json").contains(&before.password));
        world.put("hold", "");
        world.agent.start();
        world.until("other credentials are on trial", |w| {
            (w.creds().user != before.user && w.agent.read("asked").contains(&w.creds().user)).then_some(())
        });
        assert_eq!(world.vault.leases(&prefix).len(), 2);
        assert!(world.vault.accepts(&before), "the way back is open");
        world.remove("hold");
        world.agent.wait_outcomes(&["committed", "committed"]);
        let left = world.live(&prefix, 1);
        assert_ne!(left, lease);
        assert!(!world.vault.accepts(&before) && world.vault.accepts(&world.creds()));
        assert!(world.vault.minted().is_none_or(|minted| minted == 2));
    });
}

#[test]
fn in_memory_leases_are_kept_without_a_key() {
    each(|vault| {
        if !leasehold::state_dir::memory_backed(std::path::Path::new("/dev/shm")) {
            return skip("/dev/shm is not in memory");
        }
        let in_memory = |setup: &mut Setup| (setup.key, setup.memory) = (false, true);
        let Some((mut world, prefix)) = on_database(vault, in_memory) else { return };
        world.agent.start();
        world.healthy();
        let (creds, lease) = (world.creds(), world.live(&prefix, 1));
        assert!(world.agent.read("state/leases.json").contains(&creds.password), "in the clear");
        for _ in 0..3 {
            world.agent.stop();
            world.agent.start();
            world.healthy();
        }
        assert_eq!((world.creds(), world.live(&prefix, 1)), (creds, lease));
        assert!(world.vault.minted().is_none_or(|minted| minted == 1));
    });
}

#[test]
fn a_certificate_and_its_key_always_match_are_kept_over_a_restart_and_replaced_before_the_end() {
    each(|vault| {
        let role = json!({"allow_any_name": true, "ttl": "1h", "max_ttl": "2h", "key_type": "ec", "key_bits": 256});
        let mount = vault.on(async |s| s.pki(role).await);
        let params = json!({"common_name": "app.test", "ttl": "30s"});
        let secrets = json!({"web": {"store": "vault", "path": format!("{mount}/issue/web"), "params": params}});
        let mut setup = Setup::new(secrets, "");
        setup.target = json!({
            "directory": "out/tls",
            "files": [
                {"path": "tls.crt", "inline": "{{ secrets.web.fullchain }}"},
                {"path": "tls.key", "inline": "{{ secrets.web.private_key }}"},
                {"path": "serial", "inline": "{{ secrets.web.serial_number }}\n"},
            ],
        });
        let mut world = World::new(vault, &setup);
        world.put("child", "cp out/tls/serial serving.next && mv serving.next serving; exec sleep 100000");
        world.put("well", "cmp -s out/tls/serial serving");
        world.agent.start();
        world.healthy();
        let first = world.serving();
        world.agent.stop();
        world.agent.start();
        world.healthy();
        assert_eq!(world.serving(), first, "kept over a restart");
        assert!(world.vault.minted().is_none_or(|minted| minted == 1));
        // Looked at as often as can be while it is replaced.
        let mut seen = BTreeSet::new();
        let until = std::time::Instant::now() + crate::agent::DEADLINE;
        while seen.len() < 2 || world.agent.target("app").is_none_or(|t| t["state"] != "healthy") {
            assert!(std::time::Instant::now() < until, "{seen:?}\n{}", world.agent.log());
            seen.extend(matching(&world));
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let replaced: jiff::Timestamp = world.agent.history()[1]["started_at"].as_str().unwrap().parse().unwrap();
        let made: jiff::Timestamp = world.agent.history()[0]["started_at"].as_str().unwrap().parse().unwrap();
        let lived = replaced.duration_since(made).as_secs();
        assert!((14..30).contains(&lived), "at about 70 % of its life, restart or not: {lived} s");
        assert!(!world.agent.read("log").contains("PRIVATE KEY"));
    });
}

/// The serial number that is published, with its certificate and key, which belong to each other. None: it was replaced
/// while it was looked at.
fn matching(world: &World) -> Option<String> {
    use x509_cert::der::{Decode, Encode};
    let data = std::fs::read_link(world.path("out/tls/..data")).ok()?;
    let read = |name: &str| std::fs::read_to_string(world.path("out/tls").join(&data).join(name)).ok();
    let (cert, key, serial) = (read("tls.crt")?, read("tls.key")?, read("serial")?);
    let leaf = rustls::pki_types::CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
    let leaf = x509_cert::Certificate::from_der(&leaf).unwrap();
    let public = leaf.tbs_certificate.subject_public_key_info.to_der().unwrap();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let pair = rustls::crypto::ring::default_provider().key_provider.load_private_key(key).unwrap();
    assert_eq!(pair.public_key().unwrap().as_ref(), public, "certificate and key belong to each other");
    Some(serial)
}
