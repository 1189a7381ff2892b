//! What costs least, and what is left of it where the policy does not allow it.

use serde_json::json;

use crate::aws::scripted::{Answer, DENIED, on};
use crate::aws::world::{Setup, World};
use crate::{many, put, server};

/// What AWS says where kms:Decrypt is missing.
const SEALED: [(&str, &str); 2] = [
    ("AccessDeniedException", "Access to KMS is not allowed"),
    ("DecryptionFailure", "Secrets Manager can't decrypt the protected secret text using the provided KMS key."),
];

#[test]
fn of_a_batch_those_that_fail_fail_alone() {
    let server = server();
    ["a", "b", "shut", "sealed"].iter().for_each(|id| drop(put(&server, id, "of-1")));
    server.rule(on("GetSecretValue", DENIED).secret("shut"));
    server.rule(on("DescribeSecret", DENIED).secret("shut"));
    let sealed = Answer::Error("DecryptionFailure", "Secrets Manager can't decrypt the protected secret text");
    server.rule(on("GetSecretValue", sealed).secret("sealed"));
    let mut setup = many(&["a", "b"]);
    for id in ["missing", "shut", "sealed"] {
        setup.secrets[id] = json!({"store": "aws", "id": id, "poll": "1s"});
    }
    let inline = "{{ secrets.missing.key }}{{ secrets.shut.key }}{{ secrets.sealed.key }}";
    setup.rest = json!({"targets": {"other": {"files": [{"path": "out/other", "inline": inline}]}}});
    let mut world = World::started(&server.address(), &setup);
    world.serves(&["of-1", "of-1"]);
    world.failing("missing", &["missing"]);
    world.failing("shut", &["shut", "GetSecretValue"]);
    world.failing("sealed", &["sealed", "kms"]);
    put(&server, "b", "of-2");
    world.serves(&["of-1", "of-2"]);
    ["a", "b"].iter().for_each(|name| world.well(name));
    assert!(server.count("BatchGetSecretValue") >= 1);
    // What fails costs less and less.
    put(&server, "missing", "of-1");
    server.clear();
    ["missing", "shut", "sealed"].iter().for_each(|name| world.well(name));
    world.agent.wait_file("out/other", "of-1of-1of-1");
}

#[test]
fn what_fails_of_two_batches_costs_no_request_more_for_those_that_are_well() {
    let server = server();
    let ids: Vec<String> = (0..25).map(|n| format!("s{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    ids.iter().filter(|id| **id != "s3").for_each(|id| drop(put(&server, id, "of-1")));
    server.rule(on("GetSecretValue", DENIED).secret("s22"));
    let mut setup = many(&ids);
    ids.iter().for_each(|id| setup.secrets[id]["poll"] = "1h".into());
    let mut world = World::new(&server.address(), &setup);
    world.agent.start();
    for (id, why) in [("s3", "ResourceNotFoundException"), ("s22", "AccessDeniedException")] {
        world.failing(id, &[id, why]);
    }
    world.agent.wait("both were asked for three times more", |_| {
        (server.count("BatchGetSecretValue") + server.count("GetSecretValue") >= 5).then_some(())
    });
    let asked = server.asked();
    for id in ids {
        let times = asked.iter().filter(|a| a.secrets.iter().any(|secret| secret == id)).count();
        let well = id != "s3" && id != "s22";
        assert!(if well { times <= 2 } else { times >= 3 }, "{id} was asked for {times} times: {asked:#?}");
    }
    let first: Vec<_> = asked.iter().filter(|a| a.secrets.len() > 2).collect();
    assert!(first.iter().all(|a| a.operation == "BatchGetSecretValue") && first.len() == 2, "{first:#?}");
    let described = asked.iter().filter(|a| a.operation == "DescribeSecret").count();
    assert!(described <= 2, "{asked:#?}");
    put(&server, "s3", "of-1");
    server.clear();
    ["s3", "s22"].iter().for_each(|id| world.refresh(id));
    world.serves(&["of-1"; 25]);
}

#[test]
fn one_secret_that_fails_a_whole_batch_is_asked_for_alone_from_then_on() {
    for code in
        ["ResourceNotFoundException", "InvalidRequestException", "InvalidParameterException", "DecryptionFailure"]
    {
        let server = server();
        let ids: Vec<String> = (0..20).map(|n| format!("s{n}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        ids.iter().for_each(|id| drop(put(&server, id, "of-1")));
        let bad = || Answer::Error(code, "of one of them");
        server.rule(on("BatchGetSecretValue", bad()).secret("s7"));
        server.rule(on("GetSecretValue", bad()).secret("s7"));
        server.rule(on("DescribeSecret", bad()).secret("s7"));
        let mut setup = many(&ids);
        let inline = "{{ secrets.s3.key }}";
        setup.rest = json!({"targets": {"other": {"files": [{"path": "out/other", "inline": inline}]}}});
        let mut world = World::new(&server.address(), &setup);
        world.agent.start();
        world.agent.wait_file("out/other", "of-1");
        world.failing("s7", &["s7", code]);
        let asked = server.asked();
        let alone = asked.iter().filter(|a| a.operation == "GetSecretValue" && a.secrets != ["s7"]).count();
        assert_eq!(alone, 19, "{code}: each of the others once: {asked:#?}");
        server.forget();
        put(&server, "s3", "of-2");
        world.agent.wait_file("out/other", "of-2");
        world.agent.wait("three batches more", |_| (server.count("BatchGetSecretValue") >= 4).then_some(()));
        let asked = server.asked();
        let batches = asked.iter().filter(|a| a.operation == "BatchGetSecretValue");
        assert!(batches.clone().all(|a| a.outcome.is_empty() && a.secrets.len() == 19), "{code}: {batches:#?}");
        let alone = asked.iter().filter(|a| a.operation == "GetSecretValue");
        assert!(alone.clone().all(|a| a.secrets == ["s7"]), "{code}: {alone:#?}");
        // It comes right, and is one of the batch again.
        server.clear();
        world.refresh("s7");
        server.forget();
        world.agent.wait("a batch of all", |_| {
            server.asked().iter().any(|a| a.operation == "BatchGetSecretValue" && a.secrets.len() == 20).then_some(())
        });
    }
}

#[test]
fn a_batch_that_is_denied_is_tried_once_and_each_is_read_alone() {
    let server = server();
    ["a", "b", "c"].iter().for_each(|id| drop(put(&server, id, "of-1")));
    server.rule(on("BatchGetSecretValue", DENIED));
    let mut world = World::started(&server.address(), &many(&["a", "b", "c"]));
    world.serves(&["of-1"; 3]);
    world.read_again("a", 3);
    put(&server, "c", "of-2");
    world.serves(&["of-1", "of-1", "of-2"]);
    let counts = server.counts();
    assert_eq!(counts["BatchGetSecretValue"], 1, "remembered: {counts:?}");
    assert_eq!(counts["GetSecretValue"], 4, "each once, and the one that changed: {counts:?}");
    assert!(counts["DescribeSecret"] >= 9, "{counts:?}");
    let (_, out, _) = world.agent.call(&["status"]);
    assert!(out.contains("DescribeSecret"), "status tells how they are watched: {out}");
}

#[test]
fn describe_that_is_denied_is_done_without() {
    let server = server();
    server.rule(on("DescribeSecret", DENIED));
    let mut world = World::started(&server.address(), &Setup::one("app"));
    world.read_again("app", 4);
    put(&server, "app", "of-2");
    world.serves(&["of-2"]);
    world.well("app");
    let counts = server.counts();
    assert!(counts["DescribeSecret"] <= 2, "remembered: {counts:?}");
    assert!(counts["GetSecretValue"] >= 5, "{counts:?}");
}

#[test]
fn one_secret_alone_is_described_and_read_only_when_it_changed() {
    let server = server();
    let mut world = World::started(&server.address(), &Setup::one("app"));
    world.read_again("app", 4);
    let counts = server.counts();
    assert_eq!(counts["GetSecretValue"], 1, "{counts:?}");
    assert!(counts["DescribeSecret"] >= 4 && !counts.contains_key("BatchGetSecretValue"), "{counts:?}");
    put(&server, "app", "of-2");
    world.serves(&["of-2"]);
    assert_eq!(server.count("GetSecretValue"), 2);
}

#[test]
fn what_is_denied_later_is_told_and_never_rendered_away() {
    let server = server();
    let mut world = World::started(&server.address(), &Setup::one("app"));
    server.rule(on("DescribeSecret", DENIED));
    server.rule(on("GetSecretValue", DENIED));
    put(&server, "app", "of-2");
    world.failing("app", &["app", "GetSecretValue"]);
    let target = world.agent.wait("the target is stale", |a| a.target("app").filter(|t| t["stale"] == true));
    assert_eq!((target["generation"].clone(), world.serving()), (json!(1), vec!["of-1".to_owned()]));
    server.clear();
    world.serves(&["of-2"]);
}

#[test]
fn a_denied_key_of_kms_is_told_apart() {
    for (code, text) in SEALED {
        let server = server();
        let mut world = World::started(&server.address(), &Setup::one("app"));
        server.rule(on("GetSecretValue", Answer::Error(code, text)));
        put(&server, "app", "of-2");
        let told = world.failing("app", &["app", "allow this identity kms:Decrypt on its key"]);
        assert!(!told.contains("denies GetSecretValue"), "{told}");
        assert_eq!((world.serving(), world.starts()), (vec!["of-1".to_owned()], 1));
        let (code, out, err) = world.agent.call(&["check"]);
        let all = format!("{out}{err}");
        assert_eq!(code, 77, "{all}");
        assert!(all.contains("kms:Decrypt on the key of app: "), "{all}");
        assert!(!all.contains("secretsmanager:GetSecretValue on app: "), "{all}");
        server.clear();
        world.serves(&["of-2"]);
    }
}

#[test]
fn a_batch_that_a_key_of_kms_fails_is_no_denied_batch() {
    for (code, text) in SEALED {
        let server = server();
        ["a", "b"].iter().for_each(|id| drop(put(&server, id, "of-1")));
        let mut world = World::started(&server.address(), &many(&["a", "b"]));
        let sealed = Answer::Error(code, text);
        server.rule(on("GetSecretValue", sealed.clone()).secret("a"));
        server.rule(on("BatchGetSecretValue", sealed));
        ["a", "b"].iter().for_each(|id| drop(put(&server, id, "of-2")));
        world.failing("a", &["kms:Decrypt"]);
        world.well("b");
        server.forget();
        server.clear();
        world.serves(&["of-2", "of-2"]);
        world.agent.wait("batches go on", |_| (server.count("BatchGetSecretValue") > 1).then_some(()));
    }
}
