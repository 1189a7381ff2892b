//! `render --once` and `check`: what they print, and their exit codes.

use serde_json::{Value, json};

use crate::aws::moto::{moto, unique};
use crate::aws::scripted::{DENIED, Scripted, every};
use crate::aws::world::{Setup, World};

const ONCE: [&str; 2] = ["render", "--once"];

#[test]
fn what_is_not_there_is_66_and_named() {
    let Some(moto) = moto() else { return };
    let name = unique("nobody-made-this");
    let world = World::new(&moto.address(), &Setup::one(&name));
    for command in [&ONCE[..], &["check"]] {
        let (code, out, err) = world.agent.call(command);
        assert_eq!(code, 66, "{out}{err}");
        assert!(format!("{out}{err}").contains(&name), "{out}{err}");
    }
    assert_eq!(world.agent.read("out/conf"), "");
}

#[test]
fn a_server_that_is_down_is_69() {
    let world = World::new("http://127.0.0.1:9", &Setup::one("app"));
    for command in [&ONCE[..], &["check"]] {
        let (code, out, err) = world.agent.call(command);
        assert_eq!(code, 69, "{out}{err}");
        assert!(format!("{out}{err}").contains("store aws"), "{out}{err}");
    }
}

#[test]
fn a_denial_is_77_and_says_what_is_missing() {
    let server = Scripted::start();
    server.put("app", &json!({"key": "of-1"}));
    server.rule(every(DENIED));
    let world = World::new(&server.address(), &Setup::one("app"));
    for command in [&ONCE[..], &["check"]] {
        let (code, out, err) = world.agent.call(command);
        assert_eq!(code, 77, "{out}{err}");
        assert!(format!("{out}{err}").contains("GetSecretValue"), "{out}{err}");
    }
}

#[test]
fn credentials_that_are_nowhere_are_told_with_what_was_tried() {
    let server = Scripted::start();
    let mut world = World::new(&server.address(), &Setup::one("app"));
    world.env("AWS_ACCESS_KEY_ID", None);
    world.env("AWS_SECRET_ACCESS_KEY", None);
    let (code, out, err) = world.agent.call(&ONCE);
    assert_ne!(code, 0);
    assert!(format!("{out}{err}").contains("no AWS credentials found"), "{out}{err}");
    assert_eq!(server.total(), 0);
}

#[test]
fn render_once_takes_few_calls_and_a_second_one_renders_the_same() {
    let server = Scripted::start();
    let names: Vec<String> = (0..45).map(|n| format!("app-{n}")).collect();
    names.iter().for_each(|name| drop(server.put(name, &json!({"key": "of-1"}))));
    let secrets = names.iter().map(|name| (name.replace('-', "_"), json!({"store": "aws", "id": name}))).collect();
    let conf =
        names.iter().map(|name| format!("{{{{ secrets.{}.key }}}}\n", name.replace('-', "_"))).collect::<String>();
    let world = World::new(&server.address(), &Setup::new(secrets, &conf));
    for _ in 0..2 {
        let (code, out, err) = world.agent.call(&ONCE);
        assert_eq!(code, 0, "{out}{err}");
        assert_eq!(world.agent.read("out/conf"), "of-1\n".repeat(45));
        let counts = server.counts();
        assert!(server.total() <= 8, "three batches, and few beside: {counts:?}");
        server.forget();
    }
}

#[test]
fn check_prints_the_smallest_policy_and_what_the_identity_may() {
    let Some(moto) = moto() else { return };
    let name = unique("team/checked");
    let arn = moto.create(&name, r#"{"key": "of-1"}"#);
    let other = unique("other");
    moto.create(&other, r#"{"key": "of-1"}"#);
    let mut setup = Setup::one(&name);
    setup.secrets["other"] = json!({"store": "aws", "id": other});
    setup.secrets["unused"] = json!({"store": "aws", "id": "nobody-uses-this"});
    setup.conf.push_str("{{ secrets.other.key }}\n");
    let world = World::new(&moto.address(), &setup);
    let (code, out, err) = world.agent.call(&["check", "--json"]);
    assert_eq!(code, 0, "{out}{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    let policy = report["policies"]["aws"].as_str().unwrap();
    let policy: Value = serde_json::from_str(policy).expect("a policy is JSON");
    assert_eq!(policy["Version"], "2012-10-17");
    let text = policy.to_string();
    for part in ["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret", &name, &other, "\"Allow\""] {
        assert!(text.contains(part), "{part}: {policy:#}");
    }
    for statement in policy["Statement"].as_array().unwrap() {
        let whole = statement["Resource"] == "*" || statement["Resource"] == json!(["*"]);
        let alone = statement["Action"].to_string().matches("secretsmanager:").count() == 1
            && statement["Action"].to_string().contains("BatchGetSecretValue");
        assert!(!whole || alone, "only a batch, which knows no resource, is allowed on all: {policy:#}");
    }
    assert!(!text.contains("nobody-uses-this"));
    assert!(!text.contains("secretsmanager:*"));
    let (code, out, err) = world.agent.call(&["check"]);
    assert_eq!(code, 0);
    let all = format!("{out}{err}");
    assert!(all.contains(&name) && all.contains("2012-10-17") && all.contains("GetSecretValue"), "{all}");
    assert!(arn.contains(&name) && !all.contains("of-1"), "{all}");
}

#[test]
fn check_tells_each_secrets_rights_apart() {
    let server = Scripted::start();
    ["open", "shut"].iter().for_each(|name| drop(server.put(name, &json!({"key": "of-1"}))));
    server.rule(crate::aws::scripted::on("GetSecretValue", DENIED).secret("shut"));
    server.rule(crate::aws::scripted::on("DescribeSecret", DENIED).secret("shut"));
    let of = |id: &str| json!({"store": "aws", "id": id});
    let setup = Setup::new(json!({"a": of("open"), "b": of("shut")}), "{{ secrets.a.key }}{{ secrets.b.key }}\n");
    let world = World::new(&server.address(), &setup);
    let (code, out, err) = world.agent.call(&["check"]);
    let all = format!("{out}{err}");
    assert_eq!(code, 77, "{all}");
    assert!(all.lines().any(|line| line.contains("open") && line.contains("GetSecretValue")), "{all}");
    assert!(all.lines().any(|line| line.contains("shut") && line.contains("GetSecretValue")), "{all}");
}

#[test]
fn the_policy_of_check_has_each_regions_key_and_the_queue() {
    let server = Scripted::start();
    server.put("app", &json!({"key": "of-1"}));
    let key = "0a1b2c3d-0000-4000-8000-000000000000";
    server.change("app", |secret| {
        secret.more.insert("KmsKeyId".into(), json!("arn:aws:kms:us-west-2:123456789012:alias/own"));
        let replicas = json!([
            {"Region": "us-east-1", "KmsKeyId": key, "Status": "InSync"}, {"Region": "eu-west-1", "Status": "InSync"},
        ]);
        secret.more.insert("ReplicationStatus".into(), replicas);
    });
    let mut setup = Setup::one("app");
    let queue = "https://sqs.us-west-2.amazonaws.com/123456789012/agent-1";
    setup.store = json!({"regions": ["us-west-2", "us-east-1", "eu-west-1"], "events": {"queue_url": queue}});
    let world = World::new(&server.address(), &setup);
    let (code, out, err) = world.agent.call(&["check", "--json"]);
    assert_eq!(code, 0, "{out}{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    let policy: Value = serde_json::from_str(report["policies"]["aws"].as_str().unwrap()).unwrap();
    let secret = |region: &str| format!("arn:aws:secretsmanager:{region}:123456789012:secret:app-AbCdEf");
    let resources: Vec<_> = policy["Statement"].as_array().unwrap().iter().map(|of| of["Resource"].clone()).collect();
    assert_eq!(
        resources,
        [
            json!([secret("eu-west-1"), secret("us-east-1"), secret("us-west-2")]),
            json!([format!("arn:aws:kms:us-east-1:123456789012:key/{key}")]),
            json!(["arn:aws:kms:us-west-2:123456789012:key/*"]),
            json!("arn:aws:sqs:us-west-2:123456789012:agent-1"),
        ],
        "{policy:#}"
    );
}
