//! The server wants to be left alone.

use std::time::Duration;

use crate::aws::scripted::{Answer, THROTTLED, every, on};
use crate::aws::world::{Setup, World};
use crate::{many, put, server};

#[test]
fn a_start_that_is_throttled_a_few_times_is_asked_again_as_often_and_no_more() {
    let server = server();
    server.rule(every(THROTTLED).times(3));
    let mut world = World::started(&server.address(), &Setup::one("app"));
    world.serves(&["of-1"]);
    let asked = server.asked();
    let refused = asked.iter().filter(|a| a.outcome == "ThrottlingException").count();
    assert_eq!(refused, 3, "{asked:#?}");
    let first = asked.iter().filter(|a| a.operation == "GetSecretValue" && a.outcome.is_empty()).count();
    assert_eq!(first, 1, "one value was read: {asked:#?}");
}

#[test]
fn throttled_for_long_it_asks_seldom_and_serves_what_it_has_and_then_goes_on() {
    for code in ["ThrottlingException", "ProvisionedThroughputExceededException", "RequestLimitExceeded"] {
        let server = server();
        let mut world = World::started(&server.address(), &Setup::one("app"));
        server.rule(every(Answer::Error(code, "Rate exceeded")));
        server.forget();
        put(&server, "app", "of-2");
        world.failing("app", &["app"]);
        world.agent.wait("ten seconds of it", |_| {
            let asked = server.asked();
            let (first, last) = (asked.first()?.at, asked.last()?.at);
            (last - first > Duration::from_secs(10)).then_some(())
        });
        // One secret with full jitter over 1 s, 2 s, 4 s, … of the store's own and the watch's.
        let counts = server.counts();
        assert!(server.total() <= 20, "{code}: {counts:?}");
        assert_eq!((world.serving(), world.starts()), (vec!["of-1".to_owned()], 1));
        server.clear();
        world.serves_after_failures(&["of-2"]);
        world.well("app");
    }
}

#[test]
fn many_secrets_that_are_throttled_make_no_storm() {
    let ids: Vec<String> = (0..60).map(|n| format!("s{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let server = server();
    ids.iter().for_each(|id| drop(put(&server, id, "of-1")));
    let mut world = World::started(&server.address(), &many(&ids));
    server.rule(every(THROTTLED));
    server.forget();
    world.failing("s59", &["asked too often"]);
    world.agent.wait("ten seconds of it", |_| {
        let asked = server.asked();
        (asked.last()?.at - asked.first()?.at > Duration::from_secs(10)).then_some(())
    });
    let counts = server.counts();
    assert!(server.total() <= 60, "{counts:?}");
    server.clear();
    ids.iter().for_each(|id| drop(put(&server, id, "of-2")));
    world.serves_after_failures(&vec!["of-2"; 60]);
}

#[test]
fn a_throttled_batch_is_no_denied_batch() {
    let server = server();
    ["a", "b", "c"].iter().for_each(|id| drop(put(&server, id, "of-1")));
    let mut world = World::started(&server.address(), &many(&["a", "b", "c"]));
    server.rule(on("BatchGetSecretValue", THROTTLED).times(2));
    put(&server, "a", "of-2");
    world.serves(&["of-2", "of-1", "of-1"]);
    server.forget();
    world.read_again("a", 3);
    assert!(server.count("BatchGetSecretValue") >= 1, "{:?}", server.counts());
    assert_eq!(server.count("GetSecretValue"), 0, "{:?}", server.counts());
}
