//! The server is away, or answers nonsense; another region has a replica.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::aws::model::Labels;
use crate::aws::scripted::{Answer, DENIED, Scripted, every};
use crate::aws::world::{Setup, World};
use crate::{many, put, server};

/// What it serves stays, what failed is told, and afterwards it goes on.
#[track_caller]
fn survives(server: &Scripted, world: &mut World, begin: impl FnOnce(), end: impl FnOnce()) {
    server.forget();
    begin();
    put(server, "app", "of-2");
    world.failing("app", &["store aws"]);
    world.agent.wait("the target is stale", |a| a.target("app").filter(|t| t["stale"] == true));
    assert_eq!((world.serving(), world.starts()), (vec!["of-1".to_owned()], 1));
    end();
    world.serves(&["of-2"]);
    world.well("app");
    assert_eq!(world.agent.outcomes(), ["committed", "committed"]);
}

#[test]
fn answers_of_5xx_and_answers_that_are_none_are_outlived() {
    for answer in [
        Answer::Error("InternalServiceError", "An error occurred on the server side."),
        Answer::Raw(503, "<html>Service Unavailable</html>"),
        Answer::Raw(502, ""),
        Answer::Raw(200, "<html>a captive portal</html>"),
        Answer::Raw(200, "{\"VersionIdsToStages\": 7"),
        Answer::Close,
    ] {
        let server = server();
        let mut world = World::started(&server.address(), &Setup::one("app"));
        survives(&server, &mut world, || server.rule(every(answer)), || server.clear());
    }
}

#[test]
fn a_server_that_refuses_connections_is_outlived_and_asked_seldom() {
    let server = server();
    let mut world = World::started(&server.address(), &Setup::one("app"));
    survives(&server, &mut world, || server.down(), || server.up());
}

#[test]
fn a_server_that_hangs_is_left_after_the_timeout() {
    let server = server();
    let mut setup = Setup::one("app");
    setup.store = json!({"timeout": "1s"});
    let mut world = World::started(&server.address(), &setup);
    survives(&server, &mut world, || server.rule(every(Answer::Hang)), || server.clear());
}

#[test]
fn down_for_the_whole_start_the_last_known_good_is_served() {
    let server = server();
    let mut world = World::started(&server.address(), &Setup::one("app"));
    world.agent.stop();
    server.down();
    world.remove("serving");
    world.agent.start();
    world.agent.wait("the last known good is served", |a| (a.read("serving") == "of-1\n").then_some(()));
    world.failing("app", &["store aws"]);
    world
        .agent
        .wait("the target is stale", |a| a.target("app").filter(|t| t["state"] == "stale" && t["generation"] == 1));
    server.up();
    world.healthy();
    assert_eq!(world.agent.outcomes(), ["committed"]);
    put(&server, "app", "of-2");
    world.serves(&["of-2"]);
}

#[test]
fn an_outage_costs_a_bounded_number_of_calls() {
    let ids: Vec<String> = (0..40).map(|n| format!("s{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let server = server();
    ids.iter().for_each(|id| drop(put(&server, id, "of-1")));
    let mut world = World::started(&server.address(), &many(&ids));
    server.rule(every(Answer::Raw(503, "")));
    server.forget();
    world.failing("s39", &["store aws, s39: AWS in"]);
    world.agent.wait("five seconds of it", |_| {
        let asked = server.asked();
        (asked.last()?.at - asked.first()?.at > Duration::from_secs(5)).then_some(())
    });
    assert!(server.total() <= 40, "{:?}", server.counts());
    server.clear();
    // By itself it is back within a minute; told to, once the circuit tries again.
    let until = Instant::now() + Duration::from_secs(150);
    while world.agent.call(&["refresh", "s39"]).0 != 0 {
        assert!(Instant::now() < until, "never back");
        std::thread::sleep(Duration::from_millis(500));
    }
    world.well("s39");
}

fn regions() -> Setup {
    let mut setup = Setup::one("app");
    setup.store = json!({"region": "us-west-2", "regions": ["us-east-1", "eu-west-1"], "timeout": "1s"});
    setup
}

#[test]
fn a_region_that_is_away_is_stood_in_for_by_the_next_until_it_is_back() {
    for answer in [Answer::Close, Answer::Hang, Answer::Raw(503, "")] {
        let server = server();
        let mut world = World::started(&server.address(), &regions());
        assert!(server.asked().iter().all(|a| a.region == "us-west-2"), "no other is asked while it is there");
        server.rule(every(answer.clone()).region("us-west-2"));
        put(&server, "app", "of-2");
        world.serves(&["of-2"]);
        world.well("app");
        assert!(server.asked().iter().all(|a| a.region != "eu-west-1"));
        server.rule(every(answer).region("us-east-1"));
        put(&server, "app", "of-3");
        world.serves(&["of-3"]);
        server.clear();
        server.forget();
        world.agent.wait("the first is asked again", |_| {
            server.asked().iter().any(|a| a.region == "us-west-2" && a.outcome.is_empty()).then_some(())
        });
        put(&server, "app", "of-4");
        world.serves(&["of-4"]);
        assert_eq!(world.served(), ["of-1", "of-2", "of-3", "of-4"]);
    }
}

#[test]
fn a_replica_that_lags_proves_no_way_back() {
    for ids in [&["app"][..], &["app", "other"]] {
        let server = server();
        put(&server, "other", "of-1");
        let first = server.labels("app")["AWSCURRENT"].clone();
        let mut setup = many(ids);
        setup.store = regions().store;
        let mut world = World::started(&server.address(), &setup);
        let second = put(&server, "app", "of-2");
        world.agent.wait_outcomes(&["committed", "committed"]);
        world.healthy();
        // AWSCURRENT had been moved back once, and forward again: the replica has not heard of the last.
        let back = Labels::from([("AWSCURRENT".to_owned(), first.clone()), ("AWSPREVIOUS".to_owned(), second.clone())]);
        server.change("app", |secret| drop(secret.lagging.insert("us-east-1".to_owned(), back)));
        server.rule(every(Answer::Raw(503, "")).region("us-west-2"));
        server.forget();
        world.agent.wait("the replica showed its labels and values often", |_| {
            let asked = server.asked();
            let shown =
                |operation| asked.iter().filter(|a| a.operation == operation && a.region == "us-east-1").count();
            (shown("DescribeSecret") >= 3 && shown("GetSecretValue") >= 3).then_some(())
        });
        assert_eq!(world.served(), ["of-1", "of-2"], "{}", world.agent.log());
        // The first region says the same: now it is so.
        server.change("app", |secret| {
            secret.lagging.clear();
            secret.label("AWSCURRENT", &first);
        });
        server.clear();
        world.agent.wait_outcomes(&["committed"; 3]);
        world.healthy();
        assert_eq!(world.served(), ["of-1", "of-2", "of-1"]);
    }
}

#[test]
fn what_another_region_refuses_says_nothing_of_the_first_and_is_not_remembered() {
    let server = server();
    put(&server, "other", "of-1");
    let mut setup = many(&["app", "other"]);
    setup.store = regions().store;
    let mut world = World::started(&server.address(), &setup);
    for region in ["us-east-1", "eu-west-1"] {
        server.rule(every(DENIED).region(region));
    }
    server.rule(every(Answer::Raw(503, "")).region("us-west-2"));
    let told = world.failing("app", &["store aws, app: AWS in us-west-2", "503"]);
    assert!(!told.contains("AccessDenied"), "{told}");
    let (code, _, err) = world.agent.call(&["render", "--once", "--dry-run"]);
    assert_eq!(code, 69, "{err}");
    server.clear();
    let until = Instant::now() + Duration::from_secs(150);
    while world.agent.call(&["refresh"]).0 != 0 {
        assert!(Instant::now() < until, "never back");
        std::thread::sleep(Duration::from_millis(500));
    }
    server.forget();
    world.agent.wait("batches again", |_| (server.count("BatchGetSecretValue") > 1).then_some(()));
    assert_eq!(server.count("GetSecretValue"), 0, "{:?}", server.counts());
}

#[test]
fn a_region_that_answers_is_believed_whatever_the_others_have() {
    let server = server();
    server.rule(every(Answer::Error("AccessDeniedException", "no")).region("us-west-2"));
    let world = World::new(&server.address(), &regions());
    let (code, out, err) = world.agent.call(&["render", "--once"]);
    assert_eq!(code, 77, "{out}{err}");
    assert!(server.asked().iter().all(|a| a.region == "us-west-2"));
}
