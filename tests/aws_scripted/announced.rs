//! What an event says is looked for, and believed as little as anything else.

use serde_json::json;

use crate::aws::model::Labels;
use crate::aws::scripted::{DENIED, Scripted, on};
use crate::aws::world::{Setup, World};
use crate::{put, server};

/// An agent that reads its secret when an event says so, and hardly ever else.
fn listening(server: &Scripted) -> World {
    let mut setup = Setup::new(json!({"app": {"store": "aws", "id": "app", "poll": "1h"}}), "{{ secrets.app.key }}\n");
    setup.store = json!({"events": {"queue_url": format!("{}/123456789012/events", server.address())}});
    World::started(&server.address(), &setup)
}

/// Says that AWSCURRENT is on this version.
fn tell(server: &Scripted, version: &str) {
    let event = json!({
        "detail-type": "Secret Label Updated", "source": "aws.secretsmanager",
        "resources": ["arn:aws:secretsmanager:us-west-2:123456789012:secret:app-AbCdEf"],
        "detail": {"name": "app", "labelUpdated": "AWSCURRENT", "versionId": version},
    });
    server.queue(|queue| queue.send(event.to_string()));
}

fn only(version: &str) -> Labels {
    Labels::from([("AWSCURRENT".to_owned(), version.to_owned())])
}

#[test]
fn an_announced_version_is_waited_for_and_no_event_makes_one_acceptable_that_was_left() {
    let server = server();
    let first = server.labels("app")["AWSCURRENT"].clone();
    server.rule(on("DescribeSecret", DENIED));
    let mut world = listening(&server);
    let second = put(&server, "app", "of-2");
    tell(&server, &second);
    world.serves(&["of-2"]);
    let looked = |world: &mut World| {
        server.forget();
        world.agent.wait("it was looked for three times", |_| (server.count("GetSecretValue") >= 3).then_some(()));
    };
    // Told late; and reads that lag agree with it.
    server.change("app", |secret| secret.read = vec![only(&first)]);
    tell(&server, &first);
    looked(&mut world);
    assert_eq!(world.served(), ["of-1", "of-2"], "{}", world.agent.log());
    // The next one: what comes meanwhile is the version left, one on the way, and the one in use.
    let between = put(&server, "app", "of-3");
    let fourth = put(&server, "app", "of-4");
    server.change("app", |secret| secret.read = vec![only(&first), only(&between), only(&second)]);
    tell(&server, &fourth);
    looked(&mut world);
    assert_eq!(world.served(), ["of-1", "of-2"], "{}", world.agent.log());
    server.change("app", |secret| secret.read.clear());
    world.serves(&["of-4"]);
    assert_eq!(world.served(), ["of-1", "of-2", "of-4"]);
}

#[test]
fn messages_are_deleted_when_they_were_handed_on_and_those_that_come_again_change_nothing() {
    let server = server();
    let mut world = listening(&server);
    server.rule(on("sqs:DeleteMessageBatch", DENIED));
    let second = put(&server, "app", "of-2");
    tell(&server, &second);
    world.serves(&["of-2"]);
    for _ in 0..3 {
        server.forget();
        server.queue(|queue| queue.again());
        world
            .agent
            .wait("deleting it was tried again", |_| (server.count("sqs:DeleteMessageBatch") >= 1).then_some(()));
    }
    assert_eq!(server.queue(|queue| queue.left()), 1);
    assert_eq!(world.agent.log().matches("come again").count(), 1, "told once: {}", world.agent.log());
    server.clear();
    // Several at once are deleted at once.
    (0..9).for_each(|_| tell(&server, &second));
    server.queue(|queue| queue.again());
    server.forget();
    world.agent.wait("all are deleted", |_| (server.queue(|queue| queue.left()) == 0).then_some(()));
    let deleted = server.count("sqs:DeleteMessageBatch");
    assert!(deleted <= 3, "{deleted} requests for ten");
    assert_eq!(world.agent.outcomes(), ["committed", "committed"]);
}
