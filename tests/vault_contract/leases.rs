//! Leases of dynamic credentials: granted, renewed, capped, looked up, revoked; and the user behind them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::vault::server::{VaultServer, servers};
use crate::{ask, get};

/// A mount with the role `app` of these TTLs; None where the server has no database.
async fn role(server: &dyn VaultServer, ttl: &str, max: &str) -> Option<String> {
    let mount = server.database_mount().await?;
    server.database_role(&mount, "app", ttl, max).await;
    Some(mount)
}

async fn renew(server: &dyn VaultServer, lease: &str, increment: Value) -> crate::vault::wire::Response {
    let body = json!({"lease_id": lease, "increment": increment});
    ask(server, server.root_token(), "PUT", "sys/leases/renew", body).await
}

#[tokio::test]
async fn every_read_of_a_dynamic_role_mints_and_a_revoked_lease_takes_its_user() {
    for server in servers() {
        let Some(mount) = role(&*server, "1h", "2h").await else { continue };
        let at = format!("{mount}/creds/app");
        let one = get(&*server, server.root_token(), &at).await.is(200);
        let two = get(&*server, server.root_token(), &at).await.is(200);
        assert_eq!((one.number("/lease_duration"), one.at("/renewable")), (3600, json!(true)), "{}", server.name());
        let (lease, other) = (one.text("/lease_id"), two.text("/lease_id"));
        assert!(lease.starts_with(&format!("{at}/")), "{lease}");
        assert_ne!(one.text("/data/username"), two.text("/data/username"));
        assert_eq!(server.leases(&at).await.len(), 2);
        let user = |r: &crate::vault::wire::Response| (r.text("/data/username"), r.text("/data/password"));
        let ((name, password), (name_2, password_2)) = (user(&one), user(&two));
        assert!(server.database_accepts(&name, &password));
        server.revoke_lease(&lease).await;
        assert!(!server.database_accepts(&name, &password), "{}", server.name());
        assert!(server.database_accepts(&name_2, &password_2));
        assert_eq!(server.leases(&at).await, vec![other.clone()]);
        server.revoke_prefix(&at).await;
        assert!(server.leases(&at).await.is_empty());
        assert!(!server.database_accepts(&name_2, &password_2));
        let gone = server.lease(&other).await.is(400);
        assert_eq!(gone.error(), "invalid lease", "{}", server.name());
        // Ending what is gone is no error.
        server.revoke_lease(&other).await;
    }
}

#[tokio::test]
async fn a_renewal_counts_from_now_is_capped_with_a_warning_and_brings_no_data() {
    for server in servers() {
        let Some(mount) = role(&*server, "10m", "20m").await else { continue };
        let lease = get(&*server, server.root_token(), &format!("{mount}/creds/app")).await.text("/lease_id");
        let plain = renew(&*server, &lease, json!(0)).await.is(200);
        assert_eq!(plain.number("/lease_duration"), 600, "{}", server.name());
        assert_eq!((plain.at("/data"), plain.text("/lease_id")), (Value::Null, lease.clone()));
        let less = renew(&*server, &lease, json!(60)).await.is(200);
        assert_eq!(less.number("/lease_duration"), 60, "an increment may shorten");
        let capped = renew(&*server, &lease, json!(7200)).await.is(200);
        assert!((1190..=1200).contains(&capped.number("/lease_duration")), "{}: {}", server.name(), capped.value());
        assert!(capped.text("/warnings/0").contains("exceeded the effective max_ttl"), "{}", capped.value());
        let info = server.lease(&lease).await.is(200);
        assert!((1190..=1200).contains(&info.number("/data/ttl")), "{}", info.value());
        assert!(info.text("/data/last_renewal").parse::<jiff::Timestamp>().is_ok());
        let gone = renew(&*server, &format!("{mount}/creds/app/nothing"), json!(0)).await.is(400);
        assert!(gone.error().contains("lease not found"), "{}: {}", server.name(), gone.error());
    }
}

#[tokio::test]
async fn a_lease_dies_with_the_token_that_made_it() {
    for server in servers() {
        let Some(mount) = role(&*server, "1h", "2h").await else { continue };
        let at = format!("{mount}/creds/app");
        let token = server.token(json!({"policies": ["root"], "ttl": "1h"})).await;
        let lease = get(&*server, &token, &at).await.text("/lease_id");
        server.lease(&lease).await.is(200);
        server.revoke_token(&token).await;
        until(&*server, &lease, 400).await;
    }
}

#[tokio::test]
async fn a_batch_tokens_lease_is_not_renewable_and_ends_with_it() {
    for server in servers() {
        let Some(mount) = role(&*server, "2h", "4h").await else { continue };
        let policy = crate::vault::server::unique("policy");
        server.policy(&policy, &format!("path \"{mount}/creds/app\" {{ capabilities = [\"read\"] }}")).await;
        let token = server.token(json!({"policies": [policy], "ttl": "30m", "type": "batch"})).await;
        let creds = get(&*server, &token, &format!("{mount}/creds/app")).await.is(200);
        let ttl = server.lease(&creds.text("/lease_id")).await.is(200).number("/data/ttl");
        assert!(ttl <= 1800, "{}: {ttl}", server.name());
    }
}

#[tokio::test]
async fn a_lease_and_its_user_end_by_themselves() {
    for server in servers() {
        let Some(mount) = role(&*server, "1s", "1s").await else { continue };
        let creds = get(&*server, server.root_token(), &format!("{mount}/creds/app")).await.is(200);
        until(&*server, &creds.text("/lease_id"), 400).await;
        let (user, password) = (creds.text("/data/username"), creds.text("/data/password"));
        assert!(!server.database_accepts(&user, &password), "{}", server.name());
    }
}

/// Waits until a lookup of the lease answers this.
async fn until(server: &dyn VaultServer, lease: &str, status: u16) {
    for _ in 0..400 {
        if server.lease(lease).await.status == status {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{}: {lease} does not come to {status}", server.name());
}
