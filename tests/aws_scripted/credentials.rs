//! Who the agent is, and what becomes of it when that ends.

use std::time::Duration;

use serde_json::json;

use crate::aws::scripted::{ASSUMED, Answer, DENIED, EXPIRED, Scripted, every, on};
use crate::aws::world::{SECRET_KEY, Setup, World};
use crate::{put, server};

/// A world whose keys come from a profile's file.
fn with_profile(server: &Scripted) -> World {
    with_profile_of(server, &Setup::one("app"))
}

fn with_profile_of(server: &Scripted, setup: &Setup) -> World {
    let mut world = World::new(&server.address(), setup);
    world.env("AWS_ACCESS_KEY_ID", None);
    world.env("AWS_SECRET_ACCESS_KEY", None);
    let file = world.path("credentials").display().to_string();
    world.env("AWS_SHARED_CREDENTIALS_FILE", Some(&file));
    profile(&world, "AKIDOLD");
    world
}

fn profile(world: &World, key: &str) {
    let text =
        format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET_KEY}\naws_session_token = t\n");
    world.put("credentials", &text);
}

#[test]
fn credentials_that_expired_are_loaded_anew_and_the_read_goes_on() {
    let server = server();
    let mut world = with_profile(&server);
    world.agent.start();
    world.serves(&["of-1"]);
    server.forget();
    profile(&world, "AKIDNEW");
    server.rule(every(EXPIRED).access_key("AKIDOLD"));
    put(&server, "app", "of-2");
    world.serves(&["of-2"]);
    let asked = server.asked();
    let expired = asked.iter().filter(|a| a.outcome == "ExpiredTokenException").count();
    assert_eq!(expired, 1, "once: {asked:#?}");
    assert!(asked.last().unwrap().access_key == "AKIDNEW");
    world.well("app");
    assert_eq!(world.secret("app").unwrap()["failing_since"], serde_json::Value::Null);
}

#[test]
fn a_queue_whose_credentials_expired_is_waited_on_with_new_ones() {
    let server = server();
    let mut setup = Setup::new(json!({"app": {"store": "aws", "id": "app", "poll": "1h"}}), "{{ secrets.app.key }}\n");
    setup.store = json!({"events": {"queue_url": format!("{}/123456789012/events", server.address())}});
    let mut world = with_profile_of(&server, &setup);
    world.agent.start();
    world.serves(&["of-1"]);
    let waits = |server: &Scripted, key: &str| {
        let asked = server.asked();
        asked.iter().any(|a| a.operation == "sqs:ReceiveMessage" && a.access_key == key && a.outcome.is_empty())
    };
    world.agent.wait("the queue is waited on", |_| waits(&server, "AKIDOLD").then_some(()));
    // Nothing else is asked of AWS meanwhile.
    profile(&world, "AKIDNEW");
    server.rule(every(EXPIRED).access_key("AKIDOLD"));
    world.agent.wait("it is waited on with the new key", |_| waits(&server, "AKIDNEW").then_some(()));
}

#[test]
fn credentials_that_stay_expired_are_told_and_nothing_ends() {
    let server = server();
    let mut world = with_profile(&server);
    world.agent.start();
    world.serves(&["of-1"]);
    server.rule(every(EXPIRED));
    server.forget();
    put(&server, "app", "of-2");
    world.failing("app", &["expired"]);
    world.agent.wait("the target is stale", |a| a.target("app").filter(|t| t["stale"] == true));
    world.agent.wait("ten seconds of it", |_| {
        let asked = server.asked();
        (asked.last()?.at - asked.first()?.at > Duration::from_secs(10)).then_some(())
    });
    assert!(server.total() <= 30, "{:?}", server.counts());
    assert_eq!((world.serving(), world.starts()), (vec!["of-1".to_owned()], 1));
    server.clear();
    world.serves_after_failures(&["of-2"]);
    world.well("app");
}

#[test]
fn who_it_is_is_asked_once_and_logged_once() {
    let server = server();
    let mut world = World::started(&server.address(), &Setup::one("app"));
    world.agent.wait("it is logged", |a| a.log().contains("acting as").then_some(()));
    world.read_again("app", 3);
    let log = world.agent.log();
    assert_eq!(log.matches("acting as").count(), 1, "{log}");
    assert!(log.contains("arn:aws:iam::123456789012:user/app"), "{log}");
    assert_eq!(server.count("sts:GetCallerIdentity"), 1);
}

#[test]
fn who_was_denied_is_told_too_as_soon_as_sts_answers() {
    let server = server();
    server.rule(every(DENIED));
    server.rule(on("sts:GetCallerIdentity", Answer::Raw(503, "")).times(2));
    let mut world = World::new(&server.address(), &Setup::one("app"));
    world.agent.start();
    world.agent.wait("it is logged", |a| a.log().contains("acting as").then_some(()));
    let asked = server.asked();
    let of_sts: Vec<_> = asked.iter().filter(|a| a.operation == "sts:GetCallerIdentity").collect();
    assert_eq!(of_sts.len(), 3, "{asked:#?}");
    assert!(of_sts.iter().all(|a| a.region == "us-west-2"), "{asked:#?}");
    assert!(asked.iter().filter(|a| !a.operation.starts_with("sts:")).all(|a| !a.outcome.is_empty()), "{asked:#?}");
}

#[test]
fn an_identity_that_sts_denies_is_told_once_and_not_asked_for_again() {
    let server = server();
    const DENIED: &str = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
        <Code>AccessDenied</Code><Message>explicit deny</Message></Error><RequestId>1</RequestId></ErrorResponse>";
    server.rule(on("sts:GetCallerIdentity", Answer::Raw(403, DENIED)));
    let mut world = World::started(&server.address(), &Setup::one("app"));
    world.agent.wait("it is told", |a| a.log().contains("stays unknown").then_some(()));
    world.read_again("app", 4);
    assert_eq!(world.agent.log().matches("stays unknown").count(), 1);
    assert_eq!(server.count("sts:GetCallerIdentity"), 1);
}

#[test]
fn a_role_is_assumed_where_the_config_names_one() {
    let server = server();
    let mut setup = Setup::one("app");
    setup.store = serde_json::json!({"role_arn": "arn:aws:iam::123456789012:role/app"});
    let mut world = World::started(&server.address(), &setup);
    world.serves(&["of-1"]);
    assert_eq!(server.count("sts:AssumeRole"), 1);
    let asked = server.asked();
    assert!(
        asked.iter().filter(|a| !a.operation.starts_with("sts:")).all(|a| a.access_key == ASSUMED[0]),
        "{asked:#?}"
    );
}

#[test]
fn a_web_identity_is_enough() {
    let server = server();
    let mut world = World::new(&server.address(), &Setup::one("app"));
    world.env("AWS_ACCESS_KEY_ID", None);
    world.env("AWS_SECRET_ACCESS_KEY", None);
    let file = world.path("token").display().to_string();
    world.env("AWS_WEB_IDENTITY_TOKEN_FILE", Some(&file));
    world.env("AWS_ROLE_ARN", Some("arn:aws:iam::123456789012:role/app"));
    world.put("token", "header.payload.signature");
    world.agent.start();
    world.serves(&["of-1"]);
    assert_eq!(server.count("sts:AssumeRoleWithWebIdentity"), 1);
    assert!(server.asked().iter().any(|a| a.operation == "GetSecretValue" && a.access_key == ASSUMED[0]));
}
