//! Everything is eventually consistent: what is served never goes back to a version that was left.

use serde_json::json;

use crate::agent::DEADLINE;
use crate::aws::model::{Labels, Stored};
use crate::aws::scripted::{Answer, DENIED, Scripted, every, on};
use crate::aws::world::{LONGEST_WAIT, Setup, World};
use crate::{many, put, server};

/// Puts `of-2`; answers the labels before and after.
fn second(server: &Scripted) -> (Labels, Labels) {
    let before = server.labels("app");
    put(server, "app", "of-2");
    (before, server.labels("app"))
}

#[test]
fn a_rotation_that_is_announced_is_looked_for_every_half_minute_and_then_no_more() {
    let server = server();
    let now = jiff::Timestamp::now().as_second() as f64;
    server.change("app", |secret| secret.next_rotation = Some(now + 600.0));
    let setup = Setup::new(json!({"app": {"store": "aws", "id": "app", "poll": "2h"}}), "{{ secrets.app.key }}\n");
    let mut world = World::started(&server.address(), &setup);
    // Seconds until it is read by itself: without a rotation, 12 minutes at the least (the first poll of a start comes anywhere
    // within its time, the first tenth aside).
    let next = |world: &World| {
        let at: jiff::Timestamp = world.secret("app").unwrap()["next_read_at"].as_str().unwrap().parse().unwrap();
        at.duration_since(jiff::Timestamp::now()).as_secs()
    };
    world.refresh("app");
    assert!((0..=35).contains(&next(&world)), "{} s", next(&world));
    // AWS has rotated it, and says when it will again.
    put(&server, "app", "of-2");
    server.change("app", |secret| secret.next_rotation = Some(now + 30.0 * 86_400.0));
    world.refresh("app");
    world.serves(&["of-2"]);
    world.refresh("app");
    assert!(next(&world) > 300, "{} s", next(&world));
}

#[test]
fn describe_ahead_of_get_is_waited_for() {
    let server = server();
    let mut world = World::started(&server.address(), &Setup::one("app"));
    server.forget();
    let before = server.labels("app");
    server.change("app", |secret| secret.read = vec![before]);
    put(&server, "app", "of-2");
    // Asked for the value of the new version, and answered with the old one.
    world.agent.wait("it was asked for three times", |_| (server.count("GetSecretValue") >= 3).then_some(()));
    assert_eq!((world.serving(), world.starts()), (vec!["of-1".to_owned()], 1));
    server.change("app", |secret| secret.read.clear());
    world.serves(&["of-2"]);
    assert_eq!(world.served(), ["of-1", "of-2"]);
    assert_eq!(world.agent.outcomes().len(), 2);
}

#[test]
fn a_version_that_get_does_not_find_yet_is_waited_for() {
    let server = server();
    let mut world = World::started(&server.address(), &Setup::one("app"));
    // The label is there, the version is not.
    server.change("app", |secret| {
        secret.described =
            vec![Labels::from([("AWSCURRENT".to_owned(), "not-yet-anywhere-0000000000000000".to_owned())])];
    });
    server.forget();
    world.agent.wait("it was looked for twice", |_| (server.count("GetSecretValue") >= 2).then_some(()));
    assert_eq!((world.serving(), world.starts()), (vec!["of-1".to_owned()], 1));
    put(&server, "app", "of-2");
    server.change("app", |secret| secret.described.clear());
    world.serves(&["of-2"]);
}

#[test]
fn get_that_flaps_between_two_versions_moves_forward_only() {
    let server = server();
    let mut world = World::started(&server.address(), &Setup::one("app"));
    let (before, after) = second(&server);
    server.change("app", |secret| secret.read = vec![before.clone(), before.clone(), after.clone()]);
    world.serves(&["of-2"]);
    // Describe flaps, too.
    server.change("app", |secret| {
        (secret.read, secret.described) = (vec![before.clone(), after.clone()], vec![after, before]);
    });
    server.forget();
    world.agent.wait("it was described often", |_| (server.count("DescribeSecret") >= 8).then_some(()));
    assert_eq!(world.served(), ["of-1", "of-2"], "{}", world.agent.log());
    assert_eq!(world.agent.outcomes().len(), 2);
    assert_eq!(world.agent.read("out/conf"), "of-2\n");
}

#[test]
fn get_that_flaps_for_many_polls_renders_each_version_once() {
    let server = server();
    // Every look is a GetSecretValue.
    server.rule(on("DescribeSecret", DENIED));
    let mut world = World::started(&server.address(), &Setup::one("app"));
    let (before, after) = second(&server);
    server.change("app", |secret| secret.read = vec![before, after]);
    server.forget();
    world.agent.wait("it was read often", |_| (server.count("GetSecretValue") >= 20).then_some(()));
    assert_eq!(world.served(), ["of-1", "of-2"], "{}", world.agent.log());
    put(&server, "app", "of-3");
    server.change("app", |secret| secret.read.push(secret.labels.clone()));
    server.forget();
    world.agent.wait("it was read often", |_| (server.count("GetSecretValue") >= 20).then_some(()));
    assert_eq!(world.served(), ["of-1", "of-2", "of-3"], "{}", world.agent.log());
    assert_eq!((world.agent.outcomes().len(), world.starts()), (3, 3));
}

#[test]
fn every_move_of_awscurrent_to_a_pending_version_is_seen_and_none_is_rendered_early() {
    for ids in [&["app"][..], &["app", "other"]] {
        let server = server();
        put(&server, "other", "of-1");
        let mut world = World::started(&server.address(), &many(ids));
        let looked = |world: &mut World| {
            server.forget();
            world.agent.wait("it was looked at three times", |_| {
                (server.count("DescribeSecret") + server.count("BatchGetSecretValue") >= 3).then_some(())
            });
        };
        let mut served = vec!["of-1".to_owned()];
        for n in 2..5 {
            let (id, value) = (format!("00000000-0000-4000-9000-9{n:011}"), format!("of-{n}"));
            // AWSPENDING is listed before its version has a value.
            server.change("app", |secret| secret.label("AWSPENDING", &id));
            looked(&mut world);
            let stored = Stored::Text(json!({"key": value}).to_string());
            server.change("app", |secret| drop(secret.versions.insert(id.clone(), (stored, 1.7e9))));
            looked(&mut world);
            assert_eq!(world.served(), served, "{}", world.agent.log());
            server.change("app", |secret| secret.label("AWSCURRENT", &id));
            let rest = vec!["of-1"; ids.len() - 1];
            world.serves(&[&[value.as_str()], &rest[..]].concat());
            served.push(value);
            server.change("app", |secret| drop(secret.labels.remove("AWSPENDING")));
            looked(&mut world);
            assert_eq!(world.served(), served, "{}", world.agent.log());
        }
        assert_eq!(world.agent.outcomes().len(), served.len(), "one rotation a move");
    }
}

#[test]
fn a_batch_that_flaps_moves_forward_only() {
    let server = server();
    put(&server, "other", "of-1");
    let mut world = World::started(&server.address(), &many(&["app", "other"]));
    let (before, after) = second(&server);
    server.change("app", |secret| secret.read = vec![before.clone(), after.clone()]);
    world.serves(&["of-2", "of-1"]);
    server.forget();
    world.agent.wait("it was read often", |_| (server.count("BatchGetSecretValue") >= 8).then_some(()));
    assert_eq!(world.served(), ["of-1", "of-2"], "{}", world.agent.log());
    assert_eq!(world.agent.outcomes().len(), 2);
    // Nor over a restart.
    world.agent.stop();
    server.change("app", |secret| secret.read = vec![before, after]);
    server.forget();
    world.agent.start();
    world.agent.wait("it was read often", |_| (server.count("BatchGetSecretValue") >= 4).then_some(()));
    world.serves(&["of-2", "of-1"]);
    let served = world.served();
    assert!(served[2..].iter().all(|line| line == "of-2"), "{served:?}");
}

#[test]
fn a_version_left_is_taken_at_a_restart_where_describe_is_denied_and_not_because_it_fails_for_a_while() {
    let server = server();
    let mut world = World::started(&server.address(), &Setup::one("app"));
    let (before, _) = second(&server);
    world.agent.wait_outcomes(&["committed", "committed"]);
    world.healthy();
    world.agent.stop();
    server.change("app", |secret| secret.read = vec![before]);
    server.rule(on("DescribeSecret", Answer::Error("InternalServiceError", "An error occurred on the server side.")));
    server.forget();
    world.agent.start();
    // After four looks it would have been taken if nothing could ever prove it.
    world.agent.wait_within(LONGEST_WAIT + DEADLINE, "it was looked for five times", |_| {
        (server.count("GetSecretValue") >= 5).then_some(())
    });
    let served = world.served();
    assert!(served[2..].iter().all(|line| line == "of-2"), "{served:?}");
    assert_eq!(world.agent.outcomes().len(), 2);
    server.rule(on("DescribeSecret", DENIED));
    world.serves_after_failures(&["of-1"]);
}

#[test]
fn a_rollback_in_aws_is_followed_once_it_is_proven() {
    for ids in [&["app"][..], &["app", "other"]] {
        let server = server();
        put(&server, "other", "of-1");
        let mut world = World::started(&server.address(), &many(ids));
        let (before, after) = second(&server);
        world.agent.wait_outcomes(&["committed", "committed"]);
        world.agent.wait_file(
            "out/conf",
            &"of-2\n".to_owned().chars().chain("of-1\n".repeat(ids.len() - 1).chars()).collect::<String>(),
        );
        // Reads alone prove nothing, while Describe says otherwise.
        server.change("app", |secret| (secret.read, secret.described) = (vec![before.clone()], vec![after]));
        server.forget();
        world.agent.wait("it was looked at often", |_| (server.total() >= 8).then_some(()));
        assert_eq!(world.served(), ["of-1", "of-2"]);
        // The label is moved back: ours is AWSPREVIOUS now.
        server.change("app", |secret| {
            secret.read.clear();
            secret.described.clear();
            secret.label("AWSCURRENT", &before["AWSCURRENT"]);
        });
        world.agent.wait_outcomes(&["committed"; 3]);
        world.healthy();
        assert_eq!(world.served(), ["of-1", "of-2", "of-1"]);
    }
}

#[test]
fn a_label_that_was_moved_twice_between_two_looks_is_followed_to_where_it_stays() {
    for ids in [&["app"][..], &["app", "other"]] {
        let server = server();
        put(&server, "other", "of-1");
        let first = server.labels("app")["AWSCURRENT"].clone();
        let mut world = World::started(&server.address(), &many(ids));
        put(&server, "app", "of-2");
        world.agent.wait_outcomes(&["committed", "committed"]);
        // What is in use carries no label any more, and AWSPREVIOUS is on a version that was never seen here.
        server.change("app", |secret| {
            secret.current("never-seen-00000000000000000000000", Stored::Text("{}".into()), 1.7e9);
            secret.label("AWSCURRENT", &first);
        });
        world.agent.wait_outcomes(&["committed"; 3]);
        world.healthy();
        assert_eq!(world.served(), ["of-1", "of-2", "of-1"]);
    }
}

#[test]
fn an_answer_without_a_version_is_not_taken_for_one() {
    for ids in [&["app"][..], &["app", "other"]] {
        let server = server();
        put(&server, "other", "of-1");
        let mut world = World::started(&server.address(), &many(ids));
        // Valid JSON that says nothing, as a proxy may answer.
        server.rule(every(Answer::Raw(
            200,
            r#"{"SecretValues": [{"Name": "app", "SecretString": "{}"}], "SecretString": "{}"}"#,
        )));
        world.failing("app", &["app"]);
        let (code, _, _) = world.agent.call(&["refresh", "app"]);
        assert_ne!(code, 0);
        server.clear();
        world.well("app");
        put(&server, "app", "of-2");
        world.agent.wait_outcomes(&["committed", "committed"]);
        // Nor is it remembered over a restart.
        world.agent.stop();
        world.agent.start();
        world.well("app");
        let history = world.path("history");
        world.agent.wait("a third child has begun", |_| {
            let text = std::fs::read_to_string(&history).ok()?;
            (text.matches("--\n").count() >= 3).then_some(())
        });
        assert_eq!(world.served(), ["of-1", "of-2", "of-2"]);
    }
}

#[test]
fn the_version_before_is_asked_for_by_its_id() {
    let server = server();
    let first = server.labels("app")["AWSCURRENT"].clone();
    let mut world = World::started(&server.address(), &Setup::overlapping("app"));
    world.agent.stop();
    put(&server, "app", "of-2");
    put(&server, "app", "of-3");
    server.forget();
    world.agent.start();
    world.serves(&["of-3", "of-1"]);
    let asked = server.asked();
    assert!(asked.iter().any(|a| a.version.as_ref() == Some(&first)), "{asked:#?}");
    let labelled = asked.iter().filter(|a| a.operation == "GetSecretValue" && a.version.is_none());
    assert!(
        labelled.clone().all(|a| a.stage.as_deref() == Some("AWSCURRENT")),
        "always by an explicit stage: {asked:#?}"
    );
}

#[test]
fn without_describe_the_version_before_is_read_by_its_label_once_and_by_its_id_from_then_on() {
    let server = Scripted::start();
    let now = jiff::Timestamp::now().as_second() as f64;
    let of = |key: &str| Stored::Text(json!({"key": key}).to_string());
    let ids = ["1", "2"].map(|n| format!("00000000-0000-4000-9000-{n:0>12}"));
    server.change("app", |secret| {
        secret.current(&ids[0], of("of-1"), now - 600.0);
        secret.current(&ids[1], of("of-2"), now - 300.0);
    });
    server.rule(on("DescribeSecret", DENIED));
    let mut world = World::started(&server.address(), &Setup::overlapping("app"));
    world.serves(&["of-2", "of-1"]);
    let labelled = || server.asked().iter().filter(|a| a.stage.as_deref() == Some("AWSPREVIOUS")).count();
    assert_eq!(labelled(), 1, "{:#?}", server.asked());
    // AWSPREVIOUS moves on while nobody looks.
    world.agent.stop();
    server.change("app", |secret| secret.label("AWSPREVIOUS", &ids[1]));
    server.forget();
    world.agent.start();
    world.read_again("app", 2);
    world.serves(&["of-2", "of-1"]);
    assert_eq!(labelled(), 0, "{:#?}", server.asked());
    assert!(server.asked().iter().any(|a| a.version.as_ref() == Some(&ids[0])), "{:#?}", server.asked());
}
