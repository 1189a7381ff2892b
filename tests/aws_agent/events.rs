//! Changes announced on moto's SQS, as EventBridge would put them there.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::aws::moto::{Moto, REGION, moto, unique};
use crate::aws::wire::send;
use crate::aws::world::{Setup, World};

/// A request of SQS.
fn sqs(moto: &Moto, operation: &str, body: &Value) -> Value {
    let scope = format!("AKIDTEST/20260101/{REGION}/sqs/aws4_request");
    let authorization = format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=00");
    let target = format!("AmazonSQS.{operation}");
    let headers = [
        ("authorization", authorization.as_str()),
        ("x-amz-target", &target),
        ("content-type", "application/x-amz-json-1.0"),
    ];
    let answer = send(moto.port, "POST /", &headers, &body.to_string()).unwrap();
    assert_eq!(answer.status(), 200, "{operation}: {}", String::from_utf8_lossy(&answer.body));
    serde_json::from_slice(&answer.body).unwrap_or(Value::Null)
}

fn queue(moto: &Moto) -> String {
    let made = sqs(moto, "CreateQueue", &json!({"QueueName": unique("events")}));
    made["QueueUrl"].as_str().unwrap().to_owned()
}

fn tell(moto: &Moto, queue: &str, message: &Value) {
    sqs(moto, "SendMessage", &json!({"QueueUrl": queue, "MessageBody": message.to_string()}));
}

fn left(moto: &Moto, queue: &str) -> i64 {
    let names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
    let answer = sqs(moto, "GetQueueAttributes", &json!({"QueueUrl": queue, "AttributeNames": names}));
    names.iter().map(|name| answer["Attributes"][name].as_str().unwrap().parse::<i64>().unwrap()).sum()
}

/// `Secret Label Updated`, as AWS documents it.
fn moved(arn: &str, name: &str, label: &str, version: &str) -> Value {
    json!({
        "version": "0", "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718", "detail-type": "Secret Label Updated",
        "source": "aws.secretsmanager", "account": "123456789012", "time": "2026-02-06T16:43:48Z", "region": REGION,
        "resources": [arn], "detail": {"name": name, "labelUpdated": label, "versionId": version},
    })
}

/// A secret that only an event makes the agent read within the test's life.
fn announced(id: &str, queue: &str, poll: &str) -> Setup {
    let mut setup = Setup::new(json!({"app": {"store": "aws", "id": id, "poll": poll}}), "{{ secrets.app.key }}\n");
    setup.store = json!({"events": {"queue_url": queue}});
    setup
}

fn calls(world: &World) -> Value {
    world.agent.status().unwrap()["stores"][0]["calls"].clone()
}

#[test]
fn a_change_that_is_announced_reaches_the_target_in_two_seconds_and_the_message_is_gone() {
    let Some(moto) = moto() else { return };
    let (name, queue) = (unique("announced"), queue(moto));
    let arn = moto.create(&name, r#"{"key": "of-1"}"#);
    let mut world = World::started(&moto.address(), &announced(&name, &queue, "1h"));
    world.serves(&["of-1"]);
    // The fastest of five: what is measured is the agent, not this machine.
    let mut fastest = Duration::MAX;
    for round in 2..7 {
        let value = format!("of-{round}");
        let version = moto.put(&name, &json!({"key": value}).to_string());
        let begun = Instant::now();
        tell(moto, &queue, &moved(&arn, &name, "AWSCURRENT", &version));
        world.agent.wait("the new value is served", |a| (a.read("serving") == format!("{value}\n")).then_some(()));
        fastest = fastest.min(begun.elapsed());
        world.serves(&[&value]);
    }
    assert!(fastest < Duration::from_secs(2), "{fastest:?}");
    world.agent.wait("the queue is empty", |_| (left(moto, &queue) == 0).then_some(()));
}

#[test]
fn an_event_that_is_lost_is_caught_by_the_poll() {
    let Some(moto) = moto() else { return };
    let (name, queue) = (unique("lost"), queue(moto));
    moto.create(&name, r#"{"key": "of-1"}"#);
    let mut world = World::started(&moto.address(), &announced(&name, &queue, "2s"));
    moto.put(&name, r#"{"key": "of-2"}"#);
    world.serves(&["of-2"]);
}

#[test]
fn events_that_come_twice_late_or_for_others_change_nothing() {
    let Some(moto) = moto() else { return };
    let (name, other, queue) = (unique("twice"), unique("other"), queue(moto));
    let arn = moto.create(&name, r#"{"key": "of-1"}"#);
    let others = moto.create(&other, r#"{"key": "x"}"#);
    let first = moto.labelled(&name, "AWSCURRENT").unwrap();
    let mut world = World::started(&moto.address(), &announced(&name, &queue, "1h"));
    let second = moto.put(&name, r#"{"key": "of-2"}"#);
    for _ in 0..3 {
        tell(moto, &queue, &moved(&arn, &name, "AWSCURRENT", &second));
    }
    world.serves(&["of-2"]);
    // Of the version before, told late; of another label; of another secret.
    tell(moto, &queue, &moved(&arn, &name, "AWSCURRENT", &first));
    tell(moto, &queue, &moved(&arn, &name, "blue", &first));
    tell(moto, &queue, &moved(&others, &other, "AWSCURRENT", "v"));
    world.agent.wait("all were taken", |_| (left(moto, &queue) == 0).then_some(()));
    let third = moto.put(&name, r#"{"key": "of-3"}"#);
    tell(moto, &queue, &moved(&arn, &name, "AWSCURRENT", &third));
    world.serves(&["of-3"]);
    assert_eq!(world.agent.outcomes(), ["committed"; 3], "one a change");
    assert_eq!(world.starts(), 3);
}

#[test]
fn what_is_no_event_of_secrets_manager_stays_in_the_queue_and_is_told_once() {
    let Some(moto) = moto() else { return };
    let (name, queue) = (unique("foreign"), queue(moto));
    let arn = moto.create(&name, r#"{"key": "of-1"}"#);
    let mut world = World::started(&moto.address(), &announced(&name, &queue, "1h"));
    tell(moto, &queue, &json!({"order": 1}));
    tell(moto, &queue, &json!({"order": 2}));
    let version = moto.put(&name, r#"{"key": "of-2"}"#);
    tell(moto, &queue, &moved(&arn, &name, "AWSCURRENT", &version));
    world.serves(&["of-2"]);
    world.agent.wait("the event is gone", |_| (left(moto, &queue) == 2).then_some(()));
    let log = world.agent.log();
    assert_eq!(log.matches("no events of Secrets Manager").count(), 1, "{log}");
}

#[test]
fn a_queue_that_is_not_there_is_told_once_and_the_poll_goes_on() {
    let Some(moto) = moto() else { return };
    let name = unique("no-queue");
    moto.create(&name, r#"{"key": "of-1"}"#);
    let queue = format!("{}/123456789012/{}", moto.address(), unique("absent"));
    let mut world = World::started(&moto.address(), &announced(&name, &queue, "1s"));
    world.agent.wait("it is told", |a| a.log().contains("only polled for").then_some(()));
    moto.put(&name, r#"{"key": "of-2"}"#);
    world.serves(&["of-2"]);
    assert_eq!(world.agent.log().matches("only polled for").count(), 1);
    assert!(calls(&world)["ReceiveMessage"].as_u64().unwrap() >= 1, "{}", calls(&world));
}
