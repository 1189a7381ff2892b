//! Each link of the chain of credentials, against what stands for it.

use serde_json::json;

use crate::aws::providers::{CONTAINER, INSTANCE, PORTAL, Providers, TOKEN};
use crate::aws::scripted::{ASSUMED, Answer, Scripted, on};
use crate::aws::world::{ACCESS_KEY, SECRET_KEY, Setup, World};
use crate::server;

/// A world without keys in its environment.
fn keyless(server: &Scripted, store: serde_json::Value) -> World {
    let mut setup = Setup::one("app");
    setup.store = store;
    let mut world = World::new(&server.address(), &setup);
    world.env("AWS_ACCESS_KEY_ID", None);
    world.env("AWS_SECRET_ACCESS_KEY", None);
    world
}

/// The agent reads with this access key and no other, and neither prints nor writes a secret of it.
#[track_caller]
fn reads_as(world: &World, server: &Scripted, key: &str) {
    let (code, out, err) = world.agent.call(&["render", "--once"]);
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(world.agent.read("out/conf"), "of-1\n");
    let asked = server.asked();
    let reads: Vec<_> = asked.iter().filter(|asked| !asked.operation.starts_with("sts:")).collect();
    assert!(!reads.is_empty() && reads.iter().all(|asked| asked.access_key == key), "{asked:#?}");
    assert!(!format!("{out}{err}").contains("zQ7xv9"), "{out}{err}");
}

fn file(world: &mut World, variable: &str, name: &str, text: &str) {
    world.put(name, text);
    let path = world.path(name).display().to_string();
    world.env(variable, Some(&path));
}

#[test]
fn the_environment() {
    let server = server();
    let world = World::new(&server.address(), &Setup::one("app"));
    reads_as(&world, &server, ACCESS_KEY);
}

#[test]
fn a_profile_of_the_store_comes_before_the_environment() {
    let server = server();
    let mut setup = Setup::one("app");
    setup.store = json!({"profile": "app"});
    let mut world = World::new(&server.address(), &setup);
    let keys = format!("[app]\naws_access_key_id = AKIDOFTHEPROFILE\naws_secret_access_key = {SECRET_KEY}\n");
    file(&mut world, "AWS_SHARED_CREDENTIALS_FILE", "credentials", &keys);
    reads_as(&world, &server, "AKIDOFTHEPROFILE");
}

#[test]
fn a_process_that_takes_longer_than_a_request_may() {
    let server = server();
    let mut world = keyless(&server, json!({"timeout": "2s"}));
    let keys = json!({
        "Version": 1, "AccessKeyId": "ASIAOFTHEPROCESS", "SecretAccessKey": SECRET_KEY, "SessionToken": "zQ7xv9-session",
        "Expiration": "2099-01-01T00:00:00Z",
    });
    world.put("keys", &keys.to_string());
    let run = format!("[default]\ncredential_process = sh -c 'sleep 6; cat {}'\n", world.path("keys").display());
    file(&mut world, "AWS_CONFIG_FILE", "config", &run);
    reads_as(&world, &server, "ASIAOFTHEPROCESS");
    server.forget();
    // A role on top of it, too.
    let text = world
        .agent
        .read("agent.yaml")
        .replace("\"timeout\":\"2s\"", "\"timeout\":\"2s\",\"role_arn\":\"arn:aws:iam::1:role/app\"");
    world.put("agent.yaml", &text);
    reads_as(&world, &server, ASSUMED[0]);
    let assumed = server.asked().into_iter().find(|asked| asked.operation == "sts:AssumeRole").unwrap();
    assert_eq!(assumed.access_key, "ASIAOFTHEPROCESS");
}

#[test]
fn a_container_with_its_token() {
    let (server, providers) = (server(), Providers::start());
    let mut world = keyless(&server, json!({}));
    let address = format!("{}/container", providers.address());
    world.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", Some(&address));
    world.env("AWS_CONTAINER_AUTHORIZATION_TOKEN", Some(TOKEN));
    reads_as(&world, &server, CONTAINER);
}

#[test]
fn a_pod_identity_with_its_tokens_file_that_moves_on() {
    let (server, providers) = (server(), Providers::start());
    let mut world = keyless(&server, json!({}));
    let address = format!("{}/container", providers.address());
    world.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", Some(&address));
    file(&mut world, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "pod-token", "one-of-before");
    let (code, out, err) = world.agent.call(&["render", "--once"]);
    assert_ne!(code, 0, "{out}{err}");
    assert!(format!("{out}{err}").contains("credentials"), "{out}{err}");
    world.put("pod-token", TOKEN);
    reads_as(&world, &server, CONTAINER);
}

#[test]
fn an_instance_by_imdsv2() {
    let (server, providers) = (server(), Providers::start());
    let mut world = keyless(&server, json!({}));
    world.env("AWS_EC2_METADATA_DISABLED", None);
    world.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", Some(&providers.address()));
    reads_as(&world, &server, INSTANCE);
    assert!(providers.asked().iter().any(|line| line.starts_with("PUT /latest/api/token")), "{:?}", providers.asked());
}

#[test]
fn sso_by_the_token_of_the_last_login() {
    let (server, providers) = (server(), Providers::start());
    let mut world = keyless(&server, json!({}));
    let profile = "[default]\nsso_session = leasehold\nsso_account_id = 123456789012\nsso_role_name = app\n\n\
                   [sso-session leasehold]\nsso_region = us-west-2\nsso_start_url = https://example.awsapps.com/start\n";
    file(&mut world, "AWS_CONFIG_FILE", "config", profile);
    world.env("AWS_ENDPOINT_URL_SSO", Some(&providers.address()));
    std::fs::create_dir_all(world.path(".aws/sso/cache")).unwrap();
    let login = json!({
        "accessToken": TOKEN, "expiresAt": "2099-01-01T00:00:00Z", "region": "us-west-2",
        "startUrl": "https://example.awsapps.com/start",
    });
    // SHA-1 of the session's name.
    let cached = world.path(".aws/sso/cache/d01a13635bfa6e5882dfd7b0aeb9cf4ecdf9259d.json");
    std::fs::write(cached, login.to_string()).unwrap();
    reads_as(&world, &server, PORTAL);
}

#[test]
fn a_role_that_sts_denies_is_a_denial_and_one_that_it_cannot_give_now_is_not() {
    const DENIED: &str = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
        <Code>AccessDenied</Code><Message>User: arn:aws:iam::1:user/app is not authorized to perform: sts:AssumeRole\
        </Message></Error><RequestId>1</RequestId></ErrorResponse>";
    for (answer, wanted) in [(Answer::Raw(403, DENIED), 77), (Answer::Raw(503, ""), 69)] {
        let server = server();
        server.rule(on("sts:AssumeRole", answer));
        let mut setup = Setup::one("app");
        setup.store = json!({"role_arn": "arn:aws:iam::1:role/app"});
        let world = World::new(&server.address(), &setup);
        for command in [&["check"][..], &["render", "--once"]] {
            let (code, out, err) = world.agent.call(command);
            let all = format!("{out}{err}");
            assert_eq!(code, wanted, "{all}");
            assert!(all.contains("STS refuses AssumeRole"), "{all}");
            let told = wanted != 77
                || (all.contains("AccessDenied: User: arn:aws:iam::1:user/app") && all.contains("trust policy"));
            assert!(told, "{all}");
        }
        assert_eq!(server.total(), 0, "nothing is asked without it");
    }
}

#[test]
fn a_child_is_not_told_where_the_agents_credentials_are_unless_pass_env_says_so() {
    let (server, providers) = (server(), Providers::start());
    for passed in [false, true] {
        let names = ["AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"];
        let mut setup = Setup::one("app");
        let command = ["sh", "-c", "env >seen.next; mv seen.next seen; exec sh child"];
        setup.target = json!({"reload": {"command": command}});
        if passed {
            setup.target["pass_env"] = json!(names);
        }
        let mut world = World::new(&server.address(), &setup);
        world.env("AWS_ACCESS_KEY_ID", None);
        world.env("AWS_SECRET_ACCESS_KEY", None);
        let address = format!("{}/container", providers.address());
        world.env(names[0], Some(&address));
        file(&mut world, names[1], "pod-token", TOKEN);
        world.agent.start();
        world.serves(&["of-1"]);
        let seen = world.agent.read("seen");
        assert!(seen.contains("AWS_REGION=us-west-2"), "{seen}");
        for name in names {
            assert_eq!(seen.contains(name), passed, "{name}: {seen}");
        }
    }
}
