//! Policies, capabilities, namespaces, quotas.

use serde_json::{Value, json};

use crate::vault::http;
use crate::vault::server::{servers, unique};
use crate::vault::wire::Request;
use crate::{ask, get};

#[tokio::test]
async fn capabilities_self_answers_for_each_path_and_the_most_specific_rule_counts() {
    for server in servers() {
        let (mount, policy) = (server.kv(2).await, unique("policy"));
        let hcl = format!(
            "path \"{mount}/data/*\" {{ capabilities = [\"read\", \"list\"] }}\n\
             path \"{mount}/data/team/+/db\" {{ capabilities = [\"read\", \"update\"] }}\n\
             path \"{mount}/data/secret\" {{ capabilities = [\"deny\"] }}"
        );
        server.policy(&policy, &hcl).await;
        let token = server.token(json!({"policies": [policy]})).await;
        let path = |p: &str| format!("{mount}/data/{p}");
        let paths = [path("any"), path("team/a/db"), path("team/a/b/db"), path("secret"), "other/x".to_owned()];
        let body = json!({"paths": paths});
        let told = ask(&*server, &token, "POST", "sys/capabilities-self", body).await.is(200).at("/data");
        assert_eq!(told[&paths[0]], json!(["list", "read"]), "{}", server.name());
        assert_eq!(told[&paths[1]], json!(["read", "update"]));
        assert_eq!(told[&paths[2]], json!(["list", "read"]));
        assert_eq!(told[&paths[3]], json!(["deny"]));
        assert_eq!(told[&paths[4]], json!(["deny"]));
        server.put(&mount, "secret", json!({"k": "v"})).await;
        server.put(&mount, "any", json!({"k": "v"})).await;
        get(&*server, &token, &path("any")).await.is(200);
        let denied = get(&*server, &token, &path("secret")).await.is(403);
        assert!(denied.error().contains("permission denied"), "{}: {}", server.name(), denied.error());
        // Metadata is a path of its own.
        get(&*server, &token, &format!("{mount}/metadata/any")).await.is(403);
        ask(&*server, &token, "POST", &path("any"), json!({"data": {"k": "w"}})).await.is(403);
        let root = ask(&*server, server.root_token(), "POST", "sys/capabilities-self", json!({"paths": ["a"]})).await;
        assert_eq!(root.at("/data/a"), json!(["root"]));
    }
}

#[tokio::test]
async fn the_default_policy_renews_and_looks_up_leases_but_does_not_revoke_them() {
    for server in servers() {
        let token = server.token(json!({"policies": ["default"]})).await;
        let lease = json!({"lease_id": "database/creds/app/none"});
        ask(&*server, &token, "POST", "sys/leases/renew", lease.clone()).await.is(400);
        ask(&*server, &token, "POST", "sys/leases/lookup", lease.clone()).await.is(400);
        ask(&*server, &token, "POST", "sys/leases/revoke", lease).await.is(403);
        ask(&*server, &token, "POST", "auth/token/create", json!({})).await.is(403);
    }
}

#[tokio::test]
async fn a_namespace_is_named_by_header_or_by_path() {
    for server in servers() {
        let space = unique("team");
        let made = server.call("POST", &format!("sys/namespaces/{space}"), json!({})).await;
        if made.status == 404 {
            eprintln!("NOTE: {} has no namespaces", server.name());
            continue;
        }
        let mount = json!({"type": "kv", "options": {"version": "1"}});
        server.must("POST", &format!("{space}/sys/mounts/own"), mount).await;
        server.must("POST", &format!("{space}/own/app"), json!({"k": "v"})).await;
        let root = server.root_token();
        assert_eq!(get(&*server, root, &format!("{space}/own/app")).await.is(200).text("/data/k"), "v");
        let request = Request::new("GET", "own/app").token(root).header("X-Vault-Namespace", &space);
        assert_eq!(http::send(server.address(), request).await.is(200).text("/data/k"), "v");
        get(&*server, root, "own/app").await.is(404);
        let made = server.must("POST", &format!("{space}/auth/token/create"), json!({"policies": ["default"]})).await;
        let token = made.text("/auth/client_token");
        get(&*server, &token, &format!("{space}/auth/token/lookup-self")).await.is(200);
        get(&*server, &token, "sys/mounts").await.is(403);
    }
}

#[tokio::test]
async fn a_quota_answers_429_and_says_when_to_come_back_only_where_it_is_told_to() {
    for server in servers() {
        let (mount, name, root) = (server.kv(1).await, unique("quota"), server.root_token());
        let quota = json!({"rate": 2, "interval": "60s", "path": format!("{mount}/")});
        server.must("POST", &format!("sys/quotas/rate-limit/{name}"), quota).await;
        let path = format!("{mount}/app");
        for _ in 0..3 {
            get(&*server, root, &path).await;
        }
        let silent = get(&*server, root, &path).await.is(429);
        assert_eq!(silent.header("retry-after"), None, "{}", server.name());
        let config = json!({"enable_rate_limit_response_headers": true});
        server.must("POST", "sys/quotas/config", config).await;
        let last = get(&*server, root, &path).await.is(429);
        let wait: u64 = last.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait), "{}: {wait}", server.name());
        assert!(last.error().contains("rate limit quota exceeded"), "{}: {}", server.name(), last.error());
        server.must("DELETE", &format!("sys/quotas/rate-limit/{name}"), Value::Null).await;
    }
}

#[tokio::test]
async fn health_is_answered_to_anybody() {
    for server in servers() {
        let health = http::send(server.address(), Request::new("GET", "sys/health")).await.is(200);
        assert_eq!((health.at("/sealed"), health.at("/standby")), (json!(false), json!(false)), "{}", server.name());
        assert!(health.at("/version").is_string());
    }
}
