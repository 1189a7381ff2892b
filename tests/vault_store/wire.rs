//! What goes wrong on the wire, over real sockets.

use std::time::Duration;

use leasehold::config::model::{TlsConfig, VaultAuth, VaultStore as Config};
use leasehold::store::{Store, StoreError, StoreErrorKind};
use serde_json::{Value, json};

use crate::vault::fake::faults::Fault;
use crate::vault::fake::listen::Tls;
use crate::vault::server::VaultServer;
use crate::world::{World, at, config, file, text};

async fn with_secret() -> (World, String) {
    let world = World::new();
    let kv = world.vault().kv(2).await;
    world.vault().put(&kv, "a b/ü", json!({"x": "1"})).await;
    (world, format!("{kv}/a b/ü"))
}

async fn failing(fault: Fault) -> StoreError {
    let (world, path) = with_secret().await;
    let mut of = config(world.server.address());
    if matches!(fault, Fault::Hang) {
        of.timeout = Duration::from_secs(3);
    }
    let store = world.over(&of);
    store.read(&at(&path)).await.expect("it works");
    world.fake().faults().always(fault);
    let error = store.read(&at(&path)).await.expect_err("it is told to fail");
    world.fake().faults().clear();
    store.read(&at(&path)).await.expect("it works again");
    error
}

#[tokio::test]
async fn each_failure_has_its_kind_and_says_what_to_do() {
    use StoreErrorKind::{Malformed, Unavailable};
    for (fault, kind, says) in [
        (Fault::Cut(10), Malformed, "broke off"),
        (Fault::Malformed, Malformed, "ends too early"),
        (Fault::Hang, Unavailable, "no answer within 3s"),
        (Fault::status(503, "Vault is sealed"), Unavailable, "unseal it"),
        (Fault::status(473, ""), Unavailable, "performance standby"),
        (Fault::status(412, ""), Unavailable, "412"),
        (Fault::status(502, ""), Unavailable, "load balancer"),
        (Fault::Redirect("http://elsewhere.invalid:8200/v1/x".into()), Unavailable, "elsewhere.invalid:8200"),
    ] {
        let error = failing(fault.clone()).await;
        assert_eq!(error.kind, kind, "{fault:?}: {error}");
        assert!(error.message.contains(says) && error.message.starts_with("store v, kv-"), "{fault:?}: {error}");
    }
}

#[tokio::test]
async fn a_redirect_on_the_same_host_is_followed_once() {
    let (world, path) = with_secret().await;
    let kv = path.split('/').next().unwrap();
    world.vault().put(kv, "there", json!({"x": "2"})).await;
    let store = world.over(&config(world.server.address()));
    store.read(&at(&path)).await.unwrap();
    let to = format!("{}/v1/{kv}/data/there", world.server.address());
    world.fake().faults().next(1, Fault::Redirect(to.clone()));
    assert_eq!(text(&store.read(&at(&path)).await.unwrap(), "x"), "2");
    world.fake().faults().next(2, Fault::Redirect(to));
    assert!(store.read(&at(&path)).await.unwrap_err().message.contains("redirects again"));
}

#[tokio::test]
async fn nobody_there_and_no_such_name_are_told_apart() {
    let world = World::new();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = world.over(&config(&format!("http://{closed}"))).read(&at("kv/a")).await.unwrap_err();
    assert!(refused.message.contains("refused") && refused.message.contains("nobody listens"), "{refused}");
    // Longer than a part of a name may be: no resolver has to be asked for that.
    let nowhere = format!("http://{}.invalid:8200", "v".repeat(64));
    let unknown = world.over(&config(&nowhere)).read(&at("kv/a")).await.unwrap_err();
    assert!(unknown.message.contains("cannot be resolved"), "{unknown}");
    let socket = world.over(&config("unix:///nowhere/vault.sock")).read(&at("kv/a")).await.unwrap_err();
    assert!(socket.message.contains("no such socket"), "{socket}");
}

#[tokio::test]
async fn a_unix_socket_is_an_address() {
    let (world, path) = with_secret().await;
    let folder = tempfile::tempdir().unwrap();
    let listener = world.fake().listen_unix(&folder.path().join("vault.sock"));
    let reading = world.over(&config(&listener.address)).read(&at(&path)).await.unwrap();
    assert_eq!(text(&reading, "x"), "1");
}

#[tokio::test]
async fn a_certificate_must_be_of_the_right_ca_and_name_and_may_be_shown() {
    let (world, path) = with_secret().await;
    let folder = tempfile::tempdir().unwrap();
    let (tls, other) = (Tls::new(&["vault.internal"], false), Tls::new(&[], false));
    let listener = world.fake().listen_tls(&tls);
    let ca = file(&folder, "ca.pem", &tls.ca_pem);
    let wrong = file(&folder, "wrong.pem", &other.ca_pem);
    let with = |tls: TlsConfig| Config { tls, ..config(&listener.address) };
    let trusting = TlsConfig { ca_cert: Some(ca.clone()), ..TlsConfig::default() };
    world.over(&with(trusting.clone())).read(&at(&path)).await.unwrap();
    let distrusting = TlsConfig { ca_cert: Some(wrong), ..TlsConfig::default() };
    let unknown = world.over(&with(distrusting.clone())).read(&at(&path)).await.unwrap_err();
    assert!(
        unknown.message.contains("a CA that is not trusted") && unknown.message.contains("tls.ca_cert"),
        "{unknown}"
    );
    let misnamed = TlsConfig { server_name: Some("other.internal".into()), ..trusting.clone() };
    let misnamed = world.over(&with(misnamed)).read(&at(&path)).await.unwrap_err();
    assert!(misnamed.message.contains("for another name"), "{misnamed}");
    let named = TlsConfig { server_name: Some("vault.internal".into()), ..trusting };
    world.over(&with(named)).read(&at(&path)).await.expect("the name that the certificate has");
    let skipping = TlsConfig { skip_verify: true, ..distrusting };
    world.over(&with(skipping)).read(&at(&path)).await.unwrap();
    let plain = world.over(&config(&listener.address.replace("https", "http"))).read(&at(&path)).await;
    assert!(plain.is_err());
    let tls_to_plain = config(&world.server.address().replace("http", "https"));
    let speaks = world.over(&tls_to_plain).read(&at(&path)).await.unwrap_err();
    assert!(speaks.message.contains("TLS"), "{speaks}");
}

#[tokio::test]
async fn a_client_certificate_logs_in() {
    let (world, path) = with_secret().await;
    let folder = tempfile::tempdir().unwrap();
    let tls = Tls::new(&[], true);
    let listener = world.fake().listen_tls(&tls);
    world.vault().mount("auth/cert", "cert", Value::Null).await;
    world.vault().policy("app", "path \"*\" { capabilities = [\"read\"] }").await;
    let role = json!({"certificate": tls.client_cert_pem, "token_policies": "app", "token_ttl": "1h"});
    world.vault().must("POST", "auth/cert/certs/app", role).await;
    let bare = TlsConfig { ca_cert: Some(file(&folder, "ca.pem", &tls.ca_pem)), ..TlsConfig::default() };
    let shown = TlsConfig {
        client_cert: Some(file(&folder, "cert.pem", &tls.client_cert_pem)),
        client_key: Some(file(&folder, "key.pem", &tls.client_key_pem)),
        ..bare.clone()
    };
    let auth = VaultAuth::Cert { mount: "cert".into(), name: Some("app".into()) };
    let with = |tls: TlsConfig| Config { tls, auth: auth.clone(), ..config(&listener.address) };
    world.over(&with(shown)).read(&at(&path)).await.unwrap();
    let refused = world.over(&with(bare)).read(&at(&path)).await.unwrap_err();
    assert!(refused.message.contains("client certificate") || refused.message.contains("TLS"), "{refused}");
}
