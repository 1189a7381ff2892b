//! PKI, transit, and other engines by path with parameters.

use serde_json::json;

use crate::vault::server::servers;
use crate::{ask, get};

#[tokio::test]
async fn pki_issues_a_new_certificate_with_its_key_each_time() {
    for server in servers() {
        let role = json!({"allow_any_name": true, "ttl": "1h", "max_ttl": "2h", "key_type": "ec", "key_bits": 256});
        let (at, root) = (server.pki(role).await, server.root_token());
        let body = json!({"common_name": "app.test", "alt_names": "www.app.test", "ttl": "30m"});
        let one = ask(&*server, root, "POST", &format!("{at}/issue/web"), body.clone()).await.is(200);
        let two = ask(&*server, root, "PUT", &format!("{at}/issue/web"), body).await.is(200);
        assert_ne!(one.text("/data/serial_number"), two.text("/data/serial_number"), "{}", server.name());
        let left = one.number("/data/expiration") - jiff::Timestamp::now().as_second();
        assert!((1770..=1800).contains(&left), "{}: {left}", server.name());
        assert!(one.text("/data/certificate").starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(one.text("/data/private_key").contains("PRIVATE KEY-----"));
        assert_eq!(one.text("/data/private_key_type"), "ec");
        assert_eq!(one.text("/data/ca_chain/0"), one.text("/data/issuing_ca"), "{}", server.name());
        assert_eq!((one.at("/lease_id"), one.number("/lease_duration")), (json!(""), 0), "{}", server.name());
        let long =
            ask(&*server, root, "POST", &format!("{at}/issue/web"), json!({"common_name": "a", "ttl": "9h"})).await;
        let left = long.is(200).number("/data/expiration") - jiff::Timestamp::now().as_second();
        assert!(left <= 7200, "{}: {left}", server.name());
    }
}

#[tokio::test]
async fn pki_signs_a_request_and_never_sees_its_key() {
    for server in servers() {
        let role = json!({"allow_any_name": true, "ttl": "1h", "key_type": "ec", "key_bits": 256});
        let (at, root) = (server.pki(role).await, server.root_token());
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["app.test".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "app.test");
        let csr = params.serialize_request(&key).unwrap().pem().unwrap();
        let body = json!({"csr": csr});
        let signed = ask(&*server, root, "POST", &format!("{at}/sign/web"), body).await.is(200);
        assert_eq!(signed.at("/data/private_key"), json!(null), "{}", server.name());
        let refused = ask(&*server, root, "POST", &format!("{at}/sign/web"), json!({"csr": "no request"})).await;
        refused.is(400);
    }
}

#[tokio::test]
async fn pki_refuses_a_name_that_its_role_does_not_allow() {
    for server in servers() {
        let role = json!({"allowed_domains": "app.test", "allow_subdomains": true, "ttl": "1h", "key_type": "ec"});
        let (at, root) = (server.pki(role).await, server.root_token());
        ask(&*server, root, "POST", &format!("{at}/issue/web"), json!({"common_name": "a.app.test"})).await.is(200);
        ask(&*server, root, "POST", &format!("{at}/issue/web"), json!({"common_name": "evil.test"})).await.is(400);
    }
}

#[tokio::test]
async fn a_transit_keys_rotation_moves_its_latest_version() {
    for server in servers() {
        let (at, root) = (server.transit().await, server.root_token());
        let before = get(&*server, root, &format!("{at}/keys/app")).await.is(200);
        assert_eq!(before.number("/data/latest_version"), 1);
        server.rotate_key(&at).await;
        let after = get(&*server, root, &format!("{at}/keys/app")).await.is(200);
        assert_eq!(after.number("/data/latest_version"), 2, "{}", server.name());
        assert!(after.number("/data/keys/2") >= after.number("/data/keys/1"));
        get(&*server, root, &format!("{at}/keys/none")).await.is(404);
    }
}

#[tokio::test]
async fn an_engine_may_take_its_parameters_by_put_or_post() {
    for server in servers() {
        for method in ["PUT", "POST"] {
            let body = json!({"format": "hex"});
            let random = ask(&*server, server.root_token(), method, "sys/tools/random/16", body).await.is(200);
            assert_eq!(random.text("/data/random_bytes").len(), 32, "{}", server.name());
        }
    }
}
