//! Tokens: what they say of themselves, how long they live, how they die.

use std::time::Duration;

use serde_json::{Value, json};

use crate::vault::server::servers;
use crate::vault::wire::Request;
use crate::{ask, get};

#[tokio::test]
async fn a_token_looks_itself_up() {
    for server in servers() {
        let token = server.token(json!({"policies": ["default"], "ttl": "1h", "explicit_max_ttl": "2h"})).await;
        let own = get(&*server, &token, "auth/token/lookup-self").await.is(200);
        assert_eq!(own.text("/data/id"), token);
        assert!((3595..=3600).contains(&own.number("/data/ttl")), "{}: {}", server.name(), own.value());
        assert_eq!(own.number("/data/creation_ttl"), 3600);
        assert_eq!(own.number("/data/explicit_max_ttl"), 7200);
        assert_eq!((own.at("/data/renewable"), own.at("/data/type")), (json!(true), json!("service")));
        assert_eq!(own.at("/data/policies"), json!(["default"]));
        assert_ne!(own.text("/data/accessor"), "");
        assert!(own.text("/data/expire_time").parse::<jiff::Timestamp>().is_ok());
        let root = get(&*server, server.root_token(), "auth/token/lookup-self").await.is(200);
        assert_eq!((root.number("/data/ttl"), root.at("/data/expire_time")), (0, Value::Null));
    }
}

#[tokio::test]
async fn a_dead_token_and_a_denial_are_both_403_and_lookup_self_tells_them_apart() {
    for server in servers() {
        let mount = server.kv(2).await;
        let token = server.token(json!({"policies": ["default"]})).await;
        get(&*server, &token, &format!("{mount}/data/app")).await.is(403);
        get(&*server, &token, "auth/token/lookup-self").await.is(200);
        server.revoke_token(&token).await;
        let dead = get(&*server, &token, &format!("{mount}/data/app")).await.is(403);
        let lookup = get(&*server, &token, "auth/token/lookup-self").await.is(403);
        assert!(dead.error().contains("permission denied"), "{}: {}", server.name(), dead.error());
        assert!(lookup.error().contains("permission denied") || lookup.error().contains("bad token"));
        let none = crate::vault::http::send(server.address(), Request::new("GET", "auth/token/lookup-self")).await;
        none.is(403);
        get(&*server, "s.never-was", "auth/token/lookup-self").await.is(403);
    }
}

#[tokio::test]
async fn renewal_grants_what_it_says_and_no_more_than_the_explicit_maximum() {
    for server in servers() {
        let token = server.token(json!({"policies": ["default"], "ttl": "10m", "explicit_max_ttl": "20m"})).await;
        let renew = |increment: &'static str| {
            let (server, token) = (&server, &token);
            async move { ask(&**server, token, "POST", "auth/token/renew-self", json!({"increment": increment})).await }
        };
        let renewed = renew("15m").await.is(200);
        assert_eq!(renewed.number("/auth/lease_duration"), 900, "{}", server.name());
        assert_eq!(renewed.at("/auth/renewable"), true);
        assert_eq!(renewed.text("/auth/client_token"), token);
        let capped = renew("2h").await.is(200);
        assert!(
            (1190..=1200).contains(&capped.number("/auth/lease_duration")),
            "{}: {}",
            server.name(),
            capped.value()
        );
        assert!(capped.text("/warnings/0").contains("capped accordingly"), "{}", capped.value());
    }
}

#[tokio::test]
async fn a_renewal_without_an_increment_grants_the_first_ttl_again() {
    for server in servers() {
        let token = server.token(json!({"policies": ["default"], "ttl": "10m"})).await;
        let renewed = ask(&*server, &token, "PUT", "auth/token/renew-self", json!({})).await.is(200);
        assert_eq!(renewed.number("/auth/lease_duration"), 600, "{}", server.name());
    }
}

#[tokio::test]
async fn a_periodic_token_resets_to_its_period() {
    for server in servers() {
        let token = server.token(json!({"policies": ["default"], "period": "30m"})).await;
        let own = get(&*server, &token, "auth/token/lookup-self").await.is(200);
        assert_eq!(own.number("/data/period"), 1800);
        assert!((1795..=1800).contains(&own.number("/data/ttl")), "{}", server.name());
        let renewed = ask(&*server, &token, "POST", "auth/token/renew-self", json!({"increment": "5h"})).await.is(200);
        assert_eq!(renewed.number("/auth/lease_duration"), 1800, "{}", server.name());
    }
}

#[tokio::test]
async fn what_cannot_be_renewed_says_so_with_400() {
    for server in servers() {
        let fixed = server.token(json!({"policies": ["default"], "ttl": "1h", "renewable": false})).await;
        assert_eq!(get(&*server, &fixed, "auth/token/lookup-self").await.at("/data/renewable"), false);
        ask(&*server, &fixed, "POST", "auth/token/renew-self", json!({})).await.is(400);
        let batch = server.token(json!({"policies": ["default"], "ttl": "1h", "type": "batch"})).await;
        let own = get(&*server, &batch, "auth/token/lookup-self").await.is(200);
        assert_eq!((own.at("/data/type"), own.at("/data/accessor")), (json!("batch"), json!("")), "{}", server.name());
        ask(&*server, &batch, "POST", "auth/token/renew-self", json!({})).await.is(400);
    }
}

#[tokio::test]
async fn a_token_ends_with_its_ttl_and_with_its_last_use() {
    for server in servers() {
        let short = server.token(json!({"policies": ["default"], "ttl": "1s"})).await;
        let twice = server.token(json!({"policies": ["default"], "num_uses": 2})).await;
        for _ in 0..2 {
            get(&*server, &twice, "auth/token/lookup-self").await.is(200);
        }
        get(&*server, &twice, "auth/token/lookup-self").await.is(403);
        for _ in 0..200 {
            if get(&*server, &short, "auth/token/lookup-self").await.status == 403 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        get(&*server, &short, "auth/token/lookup-self").await.is(403);
    }
}

#[tokio::test]
async fn revoking_a_token_or_its_accessor_takes_its_children_along() {
    for server in servers() {
        let made = server.must("POST", "auth/token/create", json!({"policies": ["root"], "ttl": "1h"})).await;
        let parent = made.text("/auth/client_token");
        let child = ask(&*server, &parent, "POST", "auth/token/create", json!({"policies": ["default"]})).await.is(200);
        let child = child.text("/auth/client_token");
        get(&*server, &child, "auth/token/lookup-self").await.is(200);
        server.revoke_accessor(&made.text("/auth/accessor")).await;
        get(&*server, &parent, "auth/token/lookup-self").await.is(403);
        get(&*server, &child, "auth/token/lookup-self").await.is(403);
        let own = server.token(json!({"policies": ["default"]})).await;
        ask(&*server, &own, "POST", "auth/token/revoke-self", Value::Null).await.is(204);
        get(&*server, &own, "auth/token/lookup-self").await.is(403);
    }
}

#[tokio::test]
async fn a_cubbyhole_is_its_tokens_own() {
    for server in servers() {
        let (one, two) =
            (server.token(json!({"policies": ["default"]})), server.token(json!({"policies": ["default"]})));
        let (one, two) = (one.await, two.await);
        ask(&*server, &one, "POST", "cubbyhole/app", json!({"k": "v"})).await.is(204);
        assert_eq!(get(&*server, &one, "cubbyhole/app").await.is(200).at("/data"), json!({"k": "v"}));
        get(&*server, &two, "cubbyhole/app").await.is(404);
    }
}
