//! Logging in, and wrapped secret ids.

use serde_json::{Value, json};

use crate::vault::http;
use crate::vault::server::{VaultServer, servers, unique};
use crate::vault::wire::{Request, Response};
use crate::{ask, get};

async fn login(server: &dyn VaultServer, path: &str, body: Value) -> Response {
    http::send(server.address(), Request::new("POST", path).body(&body)).await
}

#[tokio::test]
async fn approle_grants_its_roles_policies_and_ttl() {
    for server in servers() {
        let role = json!({"token_policies": ["some"], "token_ttl": "20m", "token_max_ttl": "30m"});
        let at = server.approle(role).await;
        let (role_id, secret_id) = (server.role_id(&at).await, server.secret_id(&at).await);
        let ids = json!({"role_id": role_id, "secret_id": secret_id});
        let auth = login(&*server, &format!("{at}/login"), ids).await.is(200);
        assert_eq!(auth.number("/auth/lease_duration"), 1200, "{}", server.name());
        assert_eq!(auth.at("/auth/policies"), json!(["default", "some"]));
        assert_eq!((auth.at("/auth/renewable"), auth.at("/auth/token_type")), (json!(true), json!("service")));
        assert_eq!(auth.text("/auth/metadata/role_name"), "app");
        let token = auth.text("/auth/client_token");
        let capped = ask(&*server, &token, "POST", "auth/token/renew-self", json!({"increment": "2h"})).await.is(200);
        assert!(
            (1790..=1800).contains(&capped.number("/auth/lease_duration")),
            "{}: {}",
            server.name(),
            capped.value()
        );
        for (role_id, secret_id) in [(role_id.as_str(), "wrong"), ("wrong", secret_id.as_str())] {
            let body = json!({"role_id": role_id, "secret_id": secret_id});
            let refused = login(&*server, &format!("{at}/login"), body).await.is(400);
            assert!(refused.error().starts_with("invalid"), "{}: {}", server.name(), refused.error());
        }
    }
}

#[tokio::test]
async fn a_secret_id_may_be_good_for_one_login_only() {
    for server in servers() {
        let at =
            server.approle(json!({"token_policies": ["some"], "secret_id_num_uses": 1, "token_period": "10m"})).await;
        let ids = json!({"role_id": server.role_id(&at).await, "secret_id": server.secret_id(&at).await});
        let auth = login(&*server, &format!("{at}/login"), ids.clone()).await.is(200);
        assert_eq!(auth.number("/auth/lease_duration"), 600, "{}", server.name());
        login(&*server, &format!("{at}/login"), ids).await.is(400);
    }
}

#[tokio::test]
async fn a_wrapped_secret_id_can_be_looked_up_and_unwrapped_once() {
    for server in servers() {
        let at = server.approle(json!({"token_policies": ["some"]})).await;
        let wrapping = server.wrapped_secret_id(&at, "90s").await;
        let body = json!({"token": wrapping});
        let seen = login(&*server, "sys/wrapping/lookup", body.clone()).await.is(200);
        assert_eq!(seen.text("/data/creation_path"), format!("{at}/role/app/secret-id"), "{}", server.name());
        assert_eq!(seen.number("/data/creation_ttl"), 90);
        let unwrap = Request::new("POST", "sys/wrapping/unwrap").token(&wrapping);
        let unwrapped = http::send(server.address(), unwrap.clone()).await.is(200);
        let ids = json!({"role_id": server.role_id(&at).await, "secret_id": unwrapped.text("/data/secret_id")});
        login(&*server, &format!("{at}/login"), ids).await.is(200);
        let again = http::send(server.address(), unwrap).await.is(400);
        assert!(again.error().contains("wrapping token is not valid"), "{}: {}", server.name(), again.error());
        login(&*server, "sys/wrapping/lookup", body).await.is(400);
    }
}

#[tokio::test]
async fn userpass_takes_the_password_and_no_other() {
    for server in servers() {
        let at = server.userpass("ann", "right", "some").await;
        let auth = login(&*server, &format!("{at}/login/ann"), json!({"password": "right"})).await.is(200);
        assert_eq!(auth.at("/auth/policies"), json!(["default", "some"]));
        let token = auth.text("/auth/client_token");
        get(&*server, &token, "auth/token/lookup-self").await.is(200);
        login(&*server, &format!("{at}/login/ann"), json!({"password": "wrong"})).await.is(400);
        login(&*server, &format!("{at}/login/bob"), json!({"password": "right"})).await.is(400);
    }
}

#[tokio::test]
async fn jwt_checks_signature_audience_and_expiry() {
    for server in servers() {
        let key = rcgen::KeyPair::generate().unwrap();
        let at = format!("auth/{}", unique("jwt"));
        server.mount(&at, "jwt", Value::Null).await;
        let config = json!({"jwt_validation_pubkeys": [key.public_key_pem()]});
        server.must("POST", &format!("{at}/config"), config).await;
        let role = json!({
            "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"], "token_policies": ["some"],
        });
        server.must("POST", &format!("{at}/role/app"), role).await;
        let now = jiff::Timestamp::now().as_second();
        let claims =
            |aud: &str, exp: i64| json!({"sub": "app", "aud": aud, "iat": now - 7200, "nbf": now - 7200, "exp": exp});
        let body = |jwt: String| json!({"role": "app", "jwt": jwt});
        let path = format!("{at}/login");
        let good = login(&*server, &path, body(signed(&key, &claims("vault", now + 600)))).await.is(200);
        assert_eq!(good.at("/auth/policies"), json!(["default", "some"]), "{}", server.name());
        login(&*server, &path, body(signed(&key, &claims("other", now + 600)))).await.is(400);
        login(&*server, &path, body(signed(&key, &claims("vault", now - 3600)))).await.is(400);
        let other = rcgen::KeyPair::generate().unwrap();
        login(&*server, &path, body(signed(&other, &claims("vault", now + 600)))).await.is(400);
    }
}

/// A JWT of these claims, ES256.
fn signed(key: &rcgen::KeyPair, claims: &Value) -> String {
    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as B64};
    let message = format!("{}.{}", B64.encode(r#"{"alg":"ES256","typ":"JWT"}"#), B64.encode(claims.to_string()));
    let rng = ring::rand::SystemRandom::new();
    let algorithm = &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let pair = ring::signature::EcdsaKeyPair::from_pkcs8(algorithm, &key.serialize_der(), &rng).unwrap();
    format!("{message}.{}", B64.encode(pair.sign(&rng, message.as_bytes()).unwrap()))
}
