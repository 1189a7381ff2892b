//! The way to AWS through a proxy.

use crate::aws::providers::{CONTAINER, Providers, TOKEN};
use crate::aws::proxy::Proxy;
use crate::aws::scripted::{Answer, every};
use crate::aws::world::{Setup, World};
use crate::{many, put, server};

const HOST: &str = "secretsmanager.us-west-2.amazonaws.com";

/// An agent that finds AWS where it really is, and trusts the proxy's certificate.
fn world(proxy: &Proxy) -> World {
    let mut world = World::new("", &Setup::one("app"));
    world.env("AWS_ENDPOINT_URL", None);
    world.put("trust.pem", &proxy.trust);
    let trust = world.path("trust.pem").display().to_string();
    world.env("SSL_CERT_FILE", Some(&trust));
    for name in ["NO_PROXY", "no_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"] {
        // Whatever this machine has.
        world.env(name, Some(""));
    }
    world
}

#[test]
fn aws_is_asked_through_the_proxy_that_the_environment_names_and_the_container_is_not() {
    for name in ["HTTPS_PROXY", "https_proxy"] {
        let (server, providers) = (server(), Providers::start());
        let proxy = Proxy::start(&[HOST], server.port);
        let mut world = world(&proxy);
        world.env(name, Some(&format!("http://agent:hunter2-canary@127.0.0.1:{}", proxy.port)));
        world.env("HTTP_PROXY", Some("http://127.0.0.1:9"));
        world.env("AWS_ACCESS_KEY_ID", None);
        world.env("AWS_SECRET_ACCESS_KEY", None);
        world.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", Some(&format!("{}/container", providers.address())));
        world.env("AWS_CONTAINER_AUTHORIZATION_TOKEN", Some(TOKEN));
        let (code, out, err) = world.agent.call(&["--log-level", "debug", "render", "--once"]);
        assert_eq!(code, 0, "{out}{err}");
        assert_eq!(world.agent.read("out/conf"), "of-1\n");
        assert!(server.asked().iter().all(|asked| asked.access_key == CONTAINER), "{:#?}", server.asked());
        let tunnels = proxy.tunnels();
        let wanted = format!("CONNECT {HOST}:443 ");
        let (asked, authorization) = &tunnels[0];
        assert!(asked.starts_with(&wanted) && authorization.starts_with("Basic "), "{tunnels:?}");
        assert!(!format!("{out}{err}").contains("hunter2-canary"), "{out}{err}");
    }
}

#[test]
fn a_host_of_no_proxy_is_asked_directly() {
    let server = server();
    let proxy = Proxy::start(&["store.invalid"], server.port);
    let mut world = world(&proxy);
    world.env("HTTPS_PROXY", Some(&format!("127.0.0.1:{}", proxy.port)));
    world.env("AWS_ENDPOINT_URL", Some("https://store.invalid"));
    let (code, out, err) = world.agent.call(&["render", "--once"]);
    assert_eq!(code, 0, "{out}{err}");
    world.env("NO_PROXY", Some("elsewhere.example, .invalid"));
    let before = proxy.tunnels().len();
    let (code, out, err) = world.agent.call(&["render", "--once"]);
    assert_eq!(code, 69, "there is no such host: {out}{err}");
    assert_eq!(proxy.tunnels().len(), before);
}

#[test]
fn a_proxy_that_forbids_it_is_told_and_is_no_denial_to_be_remembered() {
    let server = server();
    put(&server, "other", "of-1");
    let mut world = World::started(&server.address(), &many(&["app", "other"]));
    let page = Answer::Raw(403, "<html>Blocked by policy</html>");
    server.rule(every(page));
    put(&server, "app", "of-2");
    world.failing("app", &["403", "proxies"]);
    let (code, out, err) = world.agent.call(&["check"]);
    assert_eq!(code, 77, "{out}{err}");
    server.clear();
    server.forget();
    world.serves_after_failures(&["of-2", "of-1"]);
    world.agent.wait("batches go on", |_| (server.count("BatchGetSecretValue") > 1).then_some(()));
    assert_eq!(server.count("GetSecretValue"), 0, "{:?}", server.counts());
}
