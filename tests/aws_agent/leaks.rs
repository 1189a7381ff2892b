//! No key, session token or value of AWS's in anything that the agent says or shows, at trace level.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::aws::model::Stored;
use crate::aws::scripted::{ASSUMED, Answer, DENIED, EXPIRED, Scripted, THROTTLED, every, on};
use crate::aws::world::{SECRET_KEY, Setup, World};
use crate::canary::{CORE, Canaries, Seen};

/// Says all that it was given, healthy or not.
const TALKATIVE: &str = "cat out/conf; cat out/conf >&2; env >&2\n";
const SESSION: &str = "zQ7xv9/session+token/of/the/agents/own//==";

#[test]
fn nothing_of_awss_leaks_with_text_logs() {
    lifecycle("text");
}

#[test]
fn nothing_of_awss_leaks_with_json_logs() {
    lifecycle("json");
}

fn value(round: u32) -> String {
    format!("{CORE}-{round}-of-aws+/= \"quoted\"")
}

fn bytes() -> Vec<u8> {
    let mut bytes = CORE.as_bytes().to_vec();
    bytes.extend((0..200).map(|n: u8| n.wrapping_mul(37) | 0x80));
    bytes
}

/// A store with the keys of the environment, and one that assumes a role.
fn setup(admin: &str) -> Setup {
    let secrets = json!({
        "app": {"store": "aws", "id": "app", "poll": "1s", "overlap": "1h", "expect": {"key": "^zQ7"}},
        "second": {"store": "aws", "id": "second", "poll": "1s"},
        "binary": {"store": "role", "id": "binary", "poll": "1s"},
        "plain": {"store": "role", "id": "plain", "poll": "1s"},
        "forbidden": {"store": "aws", "id": "forbidden", "poll": "1s"},
    });
    let conf = "{{ secrets.app.key }}\n{{ secrets.second.deep.key }}\n{{ secrets.binary.raw | b64encode }}\n\
                {{ secrets.plain.raw }}\n";
    let mut setup = Setup::new(secrets, conf);
    setup.target = json!({"health": {"within": "1s"}, "keep": 3});
    setup.rest = json!({
        "admin": {"listen": admin}, "audit": {"path": "audit.jsonl"},
        "stores": {"role": {"type": "aws-secrets-manager", "role_arn": "arn:aws:iam::123456789012:role/app"}},
        "targets": {
            "other": {"files": [{"path": "out/other", "inline": "{{ secrets.forbidden.key }}"}]},
            "checked": {"files": [{"path": "out/checked", "inline": "{{ secrets.app.key }} {{ secrets.plain.raw }}",
                "check": {"run": ["sh", "-c", "cat \"$1\" >&2; exit 7", "check", "{path}"]}}]},
        },
    });
    setup
}

fn secrets(server: &Scripted, round: u32) {
    server.put("app", &json!({"key": value(round), "nested": {"key": format!("{}-deep", value(round))}}));
    server.put("second", &json!({"deep": {"key": format!("{}-second", value(round))}}));
    server.put("plain", &json!(format!("{}-plain {{", value(round))));
    server.put("forbidden", &json!({"key": value(round)}));
}

fn lifecycle(format: &str) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let server = Scripted::start();
    secrets(&server, 1);
    server.change("binary", |secret| {
        secret.current("binary-version-of-thirty-two-chars", Stored::Binary(STANDARD.encode(bytes())), 1.7e9)
    });
    server.rule(on("GetSecretValue", DENIED).secret("forbidden"));
    server.rule(on("DescribeSecret", DENIED).secret("forbidden"));
    let mut world = World::new(&server.address(), &setup(&port));
    world.env("AWS_SESSION_TOKEN", Some(SESSION));
    let well = format!("{TALKATIVE}{}", world.agent.read("well"));
    world.put("well", &well);
    let mut seen = Seen::default();
    call(&world, format, &["check"], &mut seen);
    call(&world, format, &["render", "--once", "--dry-run"], &mut seen);
    call(&world, format, &["render", "--once"], &mut seen);
    let run = ["--log-level", "trace", "--log-format", format, "run"];
    world.agent.start_with(&run);
    world.healthy();
    asked(&world, format, &port, &mut seen);
    secrets(&server, 2);
    world.agent.wait("the second values are served", |a| a.read("serving").starts_with(&value(2)).then_some(()));
    world.healthy();
    // A candidate that is refused, and one that `expect` refuses.
    world.put("accept", &format!("{}\n", value(2)));
    secrets(&server, 3);
    world.agent.wait("it is rolled back", |a| a.outcomes().iter().any(|o| o == "rolled_back").then_some(()));
    world.remove("accept");
    server.put("app", &json!({"key": format!("bad-{}", value(4))}));
    world.agent.wait("the fourth is refused", |a| a.log().contains("expect").then_some(()));
    secrets(&server, 5);
    call(&world, format, &["refresh", "app"], &mut seen);
    odd_answers(&world, &server, format, &mut seen);
    asked(&world, format, &port, &mut seen);
    world.agent.stop();
    world.agent.start_with(&run);
    world.healthy();
    call(&world, format, &["rollback", "app"], &mut seen);
    asked(&world, format, &port, &mut seen);
    world.agent.stop();
    seen.add("log", world.agent.log());
    seen.add("audit", world.agent.read("audit.jsonl"));
    // Sealed, all of it.
    seen.add_files(&world.path("state"), &|_| true);
    let log = world.agent.log();
    for expected in ["trace", "***", "rolled_back", "refused the new contents", "acting as"] {
        assert!(log.to_lowercase().contains(expected), "the log does not hold {expected}:\n{log}");
    }
    let net = canaries().net();
    let mut own = Seen::default();
    own.add("what is served", world.agent.read("serving"));
    assert!(own.leaks(&net).len() >= 4, "the search finds what is there by design");
    assert!(server.asked().iter().any(|asked| asked.access_key == ASSUMED[0]), "the role's session was used");
    seen.assert_clean(&net);
}

fn canaries() -> Canaries {
    let mut canaries = Canaries::default();
    canaries.add("secret key", SECRET_KEY);
    canaries.add("session token", SESSION);
    canaries.add("secret key of the role", ASSUMED[1]);
    canaries.add("session token of the role", ASSUMED[2]);
    canaries.add("bytes", bytes());
    canaries.add("bytes as base64", STANDARD.encode(bytes()));
    (1..=5).for_each(|round| canaries.add(&format!("value {round}"), value(round)));
    canaries
}

/// Answers that are no answer, or that quote what they were given.
fn odd_answers(world: &World, server: &Scripted, format: &str, seen: &mut Seen) {
    for answer in [
        THROTTLED,
        EXPIRED,
        DENIED,
        Answer::Error("DecryptionFailure", "zQ7xv9-5-of-aws+/= \"quoted\" cannot be decrypted"),
        Answer::Error("SomethingNew", "with zQ7xv9/session+token/of/the/agents/own//== in it"),
        Answer::Raw(500, "panic: zQ7xv9-5-of-aws+/= \"quoted\""),
        Answer::Raw(200, "{\"SecretString\": \"zQ7xv9-half"),
        Answer::Raw(200, "{\"SecretValues\": [{\"Name\": \"app\", \"SecretString\": 7}]}"),
        Answer::Close,
    ] {
        server.rule(every(answer).times(4));
        call(world, format, &["refresh", "app"], seen);
        server.clear();
        server.rule(on("GetSecretValue", DENIED).secret("forbidden"));
    }
}

/// Everything that can be asked of a running agent.
fn asked(world: &World, format: &str, port: &str, seen: &mut Seen) {
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["history"],
        &["history", "--json"],
        &["refresh"],
        &["refresh", "--json", "app", "forbidden"],
        &["refresh", "nope"],
        &["release", "app"],
        &["check"],
        &["check", "--json"],
    ] {
        call(world, format, args, seen);
    }
    for path in ["/metrics", "/status", "/ready"] {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(port).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1"), "{path}: {answer}");
        seen.add(path, answer);
    }
}

/// Calls a command at trace level and keeps what it says.
fn call(world: &World, format: &str, args: &[&str], seen: &mut Seen) -> Value {
    let all: Vec<&str> = ["--log-level", "trace", "--log-format", format].iter().chain(args).copied().collect();
    let (code, out, err) = world.agent.call(&all);
    let name = format!("`agent {}` (exit {code})", args.join(" "));
    seen.add(format!("{name} stdout"), &out);
    seen.add(format!("{name} stderr"), &err);
    serde_json::from_str(&out).unwrap_or(Value::Null)
}
