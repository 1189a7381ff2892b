//! What a dev server cannot show: TLS, unix sockets, and the logins that need a cluster, a cloud or a certificate.

use base64::{Engine as _, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::vault::fake::listen::Tls;
use crate::vault::fake::{Fake, ROOT};
use crate::vault::http;
use crate::vault::server::{FakeServer, VaultServer};
use crate::vault::wire::{Request, Response};

fn mounts() -> Request {
    Request::new("GET", "sys/mounts").token(ROOT)
}

#[tokio::test]
async fn it_serves_tls_to_those_who_know_its_ca_and_certificate_logins_to_those_who_have_one() {
    let (fake, tls) = (Fake::new(), Tls::new(&[], false));
    let listener = fake.listen_tls(&tls);
    assert!(http::try_send(&listener.address, mounts()).await.is_err(), "nobody knows its CA");
    let ca = reqwest::Certificate::from_pem(tls.ca_pem.as_bytes()).unwrap();
    let client = || http::client().tls_certs_only([ca.clone()]);
    let send = |client: reqwest::Client, request| http::through(client, &listener.address, request);
    send(client().build().unwrap(), mounts()).await.unwrap().is(200);

    let server = FakeServer::new(fake.clone());
    let admin: &dyn VaultServer = &server;
    admin.mount("auth/cert", "cert", Value::Null).await;
    let role = json!({"certificate": tls.client_cert_pem, "token_policies": ["some"]});
    admin.must("POST", "auth/cert/certs/app", role).await;
    let login = || Request::new("POST", "auth/cert/login").body(&json!({"name": "app"}));
    send(client().build().unwrap(), login()).await.unwrap().is(400);
    let pem = format!("{}{}", tls.client_cert_pem, tls.client_key_pem);
    let known = client().identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap()).build().unwrap();
    let auth = send(known.clone(), login()).await.unwrap().is(200);
    assert_eq!(auth.at("/auth/policies"), json!(["default", "some"]));

    let strict = Tls::new(&[], true);
    let listener = fake.listen_tls(&strict);
    let ca = reqwest::Certificate::from_pem(strict.ca_pem.as_bytes()).unwrap();
    let nobody = http::client().tls_certs_only([ca]).build().unwrap();
    assert!(http::through(nobody, &listener.address, mounts()).await.is_err(), "a certificate is asked for");
}

#[tokio::test]
async fn it_serves_on_a_unix_socket_until_it_is_dropped() {
    let (fake, temp) = (Fake::new(), tempfile::tempdir().unwrap());
    let path = temp.path().join("vault.sock");
    let listener = fake.listen_unix(&path);
    assert_eq!(listener.address, format!("unix://{}", path.display()));
    let client = http::client().unix_socket(path).build().unwrap();
    http::through(client, "http://localhost", mounts()).await.unwrap().is(200);
}

#[tokio::test]
async fn kubernetes_binds_a_role_to_a_service_account() {
    let server = FakeServer::new(Fake::new());
    let admin: &dyn VaultServer = &server;
    admin.mount("auth/kubernetes", "kubernetes", Value::Null).await;
    let role = json!({
        "bound_service_account_names": ["app"], "bound_service_account_namespaces": ["prod"], "token_policies": ["some"],
    });
    admin.must("POST", "auth/kubernetes/role/app", role).await;
    let login = |account: &str, ago: i64| {
        let exp = jiff::Timestamp::now().as_second() - ago;
        let claims = json!({"sub": format!("system:serviceaccount:{account}"), "exp": exp}).to_string();
        let jwt = format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims));
        let request = Request::new("POST", "auth/kubernetes/login").body(&json!({"role": "app", "jwt": jwt}));
        server.fake.answer(request)
    };
    assert_eq!(login("prod:app", -600).await.is(200).at("/auth/policies"), json!(["default", "some"]));
    login("prod:other", -600).await.is(403);
    login("test:app", -600).await.is(403);
    login("prod:app", 600).await.is(403);
}

#[tokio::test]
async fn aws_iam_wants_a_signed_request_to_sts() {
    let server = FakeServer::new(Fake::new());
    let admin: &dyn VaultServer = &server;
    admin.mount("auth/aws", "aws", Value::Null).await;
    admin.must("POST", "auth/aws/config/client", json!({"iam_server_id_header_value": "vault.test"})).await;
    admin.must("POST", "auth/aws/role/app", json!({"auth_type": "iam", "token_policies": ["some"]})).await;
    let login = async |authorization: &str, url: &str| -> Response {
        let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let headers = json!({
            "Authorization": [authorization], "X-Amz-Date": [now], "X-Vault-AWS-IAM-Server-ID": ["vault.test"],
        });
        let body = json!({
            "role": "app", "iam_http_request_method": "POST",
            "iam_request_url": BASE64_STANDARD.encode(url),
            "iam_request_body": BASE64_STANDARD.encode("Action=GetCallerIdentity&Version=2011-06-15"),
            "iam_request_headers": BASE64_STANDARD.encode(headers.to_string()),
        });
        server.fake.answer(Request::new("POST", "auth/aws/login").body(&body)).await
    };
    let signed = "AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/sts/aws4_request, \
                  SignedHeaders=host;x-amz-date;x-vault-aws-iam-server-id, Signature=00";
    let sts = "https://sts.amazonaws.com/";
    assert_eq!(login(signed, sts).await.is(200).at("/auth/policies"), json!(["default", "some"]));
    login(&signed.replace("x-vault-aws-iam-server-id", "x-other"), sts).await.is(400);
    login("Bearer x", sts).await.is(400);
    login(signed, "https://evil.test/").await.is(400);
}
