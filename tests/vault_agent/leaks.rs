//! No token, id, lease or value of Vault's in anything that the agent says or shows, at trace level.

use serde_json::{Value, json};

use crate::canary::{CORE, Canaries, Seen};
use crate::vault::fake::faults::Fault;
use crate::world::{Setup, Vault, World};

/// Says all that it was given, healthy or not.
const TALKATIVE: &str = "cat out/conf; cat out/conf >&2; env >&2\n";

#[test]
fn nothing_of_vaults_leaks_with_text_logs() {
    lifecycle("text");
}

#[test]
fn nothing_of_vaults_leaks_with_json_logs() {
    lifecycle("json");
}

fn setup(vault: &Vault, admin: &str) -> Setup {
    let mount = vault.database("1h", "2h").unwrap();
    let (kv, pki) = vault.on(async |s| {
        let kv = s.kv(2).await;
        s.put(&kv, "app", json!({"key": value(1), "nested": {"key": format!("{}-deep", value(1))}})).await;
        s.put(&kv, "forbidden", json!({"key": value(9)})).await;
        let role = json!({"allow_any_name": true, "ttl": "1h", "key_type": "ec", "key_bits": 256});
        (kv, s.pki(role).await)
    });
    let params = json!({"common_name": "app.test", "ttl": "30m"});
    let secrets = json!({
        "db": {"store": "vault", "path": format!("{mount}/creds/app"), "overlap": "1h"},
        "kv": {"store": "vault", "path": format!("{kv}/app"), "poll": "1s", "overlap": "1h", "expect": {"key": "^zQ7"}},
        "web": {"store": "vault", "path": format!("{pki}/issue/web"), "params": params},
        "forbidden": {"store": "vault", "path": format!("{kv}/forbidden")},
    });
    let conf =
        "{{ secrets.db.username }}\n{{ secrets.db.password }}\n{{ secrets.kv.key }}\n{{ secrets.web.private_key }}\n";
    let mut setup = Setup::new(secrets, conf);
    setup.store = json!({"auth": {"wrapped": true}});
    setup.target = json!({"health": {"within": "1s"}, "keep": 3});
    setup.rest = json!({
        "admin": {"listen": admin}, "audit": {"path": "audit.jsonl"},
        "targets": {
            "other": {"files": [{"path": "out/other", "inline": "{{ secrets.forbidden.key }}"}]},
            "checked": {"files": [{"path": "out/checked", "inline": "{{ secrets.kv.key }} {{ secrets.db.password }}",
                "check": {"run": ["sh", "-c", "cat \"$1\" >&2; exit 7", "check", "{path}"]}}]},
        },
    });
    setup
}

fn value(round: u32) -> String {
    format!("{CORE}-{round}-of-kv+/= \"quoted\"")
}

fn lifecycle(format: &str) {
    let port = format!("127.0.0.1:{}", crate::vault::ports::free_port());
    let vault = Vault::fake();
    let fake = vault.server.fake().unwrap().clone();
    let setup = setup(&vault, &port);
    let mut world = World::new(vault, &setup);
    fake.answers();
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
    refused(&mut world, format, &mut seen);
    odd_answers(&world, format, &mut seen);
    asked(&world, format, &port, &mut seen);
    let token = world.accessor();
    world.vault.on(async |s| s.revoke_accessor(&token).await);
    world.until("other credentials after the token's death", |w| {
        let creds = w.creds();
        (!creds.user.is_empty() && w.vault.accepts(&creds)).then_some(())
    });
    asked(&world, format, &port, &mut seen);
    world.agent.stop();
    world.agent.start_with(&run);
    world.healthy();
    call(&world, format, &["rollback", "app"], &mut seen);
    asked(&world, format, &port, &mut seen);
    world.configure(|config| config["stores"]["vault"]["on_stop"] = "revoke".into());
    world.agent.stop();
    world.agent.start_with(&run);
    world.until("it answers", |w| w.agent.status());
    world.agent.stop();
    assert!(fake.live_leases().is_empty(), "revoked at the end");
    seen.add("log", world.agent.log());
    seen.add("audit", world.agent.read("audit.jsonl"));
    // Sealed, all of it.
    seen.add_files(&world.path("state"), &|_| true);
    let canaries = canaries(&world, &fake.answers());
    let log = world.agent.log();
    for expected in ["trace", "***", "session begun", "rolled_back", "refused the new contents", "it failed (500)"] {
        assert!(log.to_lowercase().contains(expected), "the log does not hold {expected}:\n{log}");
    }
    let mut own = Seen::default();
    own.add("what is served", world.agent.read("serving"));
    assert!(own.leaks(&canaries.net()).len() >= 4, "the search finds what is there by design");
    seen.assert_clean(&canaries.net());
}

/// A candidate that is refused, and a KV version that its `expect` refuses.
fn refused(world: &mut World, format: &str, seen: &mut Seen) {
    let before = world.creds();
    world.put("accept", &format!("{}\n", before.user));
    call(world, format, &["refresh", "db"], seen);
    world.until("it is rolled back", |w| w.agent.outcomes().iter().any(|o| o == "rolled_back").then_some(()));
    world.remove("accept");
    let kv = world.secret("kv").unwrap()["path"].as_str().unwrap().to_owned();
    let (mount, path) = kv.split_once('/').unwrap();
    world.vault.on(async |s| s.put(mount, path, json!({"key": value(2)})).await);
    world.until("the second value is served", |w| w.serving().contains(&value(2)).then_some(()));
    world.healthy();
    world.vault.on(async |s| s.put(mount, path, json!({"key": format!("bad-{}", value(3))})).await);
    call(world, format, &["refresh", "kv"], seen);
    world.until("the third is refused", |w| w.agent.log().contains("expect").then_some(()));
    world.vault.on(async |s| s.put(mount, path, json!({"key": value(4)})).await);
    call(world, format, &["refresh", "kv"], seen);
}

/// Answers that quote what they were given, break off, or are none.
fn odd_answers(world: &World, format: &str, seen: &mut Seen) {
    let fake = world.vault.server.fake().unwrap();
    let creds = world.creds();
    let path = world.secret("kv").unwrap()["path"].as_str().unwrap().to_owned();
    let kv = path.split('/').next().unwrap();
    let token = newest(&fake.answers(), "client_token");
    for fault in [
        Fault::status(400, &format!("no such thing: {token} {} {}", creds.password, value(2))),
        Fault::status(500, &format!("panic with {token}")),
        Fault::Answer { status: 503, body: json!({"errors": [token], "data": {"key": value(2)}}), headers: Vec::new() },
        Fault::Redirect(format!("http://127.0.0.1:1/v1/x?token={token}")),
        Fault::Malformed,
        Fault::Cut(40),
        Fault::CloseAfter,
        Fault::Close,
    ] {
        // Whichever read comes first meets it: this one, or a poll.
        fake.faults().next_on("GET", kv, 2, fault);
        call(world, format, &["refresh", "kv"], seen);
        fake.faults().clear();
    }
}

fn newest(answers: &[Value], name: &str) -> String {
    let mut found = Canaries::default();
    answers.iter().for_each(|answer| collect(answer, &[name], &mut found));
    let last = found.iter().last().map(|(_, value)| String::from_utf8_lossy(value).into_owned());
    last.expect("an answer with it")
}

/// Every text under one of these names.
fn collect(answer: &Value, names: &[&str], into: &mut Canaries) {
    match answer {
        Value::Object(map) => {
            for (name, value) in map {
                match value.as_str().filter(|text| names.contains(&name.as_str()) && !text.is_empty()) {
                    Some(text) => {
                        let number = into.iter().count();
                        // Of an id of a lease, what nobody can guess.
                        into.add(&format!("{number:05} {name}"), text.rsplit('/').next().unwrap());
                    }
                    None => collect(value, names, into),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, names, into)),
        _ => {}
    }
}

fn canaries(world: &World, answers: &[Value]) -> Canaries {
    let mut canaries = Canaries::default();
    let names = ["client_token", "secret_id", "lease_id", "username", "password"];
    for answer in answers {
        collect(answer, &names, &mut canaries);
        if let Some(key) = answer.pointer("/data/private_key").and_then(Value::as_str) {
            let number = canaries.iter().count();
            canaries.add(&format!("{number:05} private_key"), key);
        }
    }
    let count = |what: &str| canaries.iter().filter(|(name, _)| name.ends_with(what)).count();
    for (what, least) in [("client_token", 2), ("secret_id", 1), ("lease_id", 3), ("password", 3), ("private_key", 1)] {
        assert!(count(what) >= least, "{what}: {}", count(what));
    }
    canaries.add("wrapping token", world.agent.read("secret_id").trim());
    canaries.add("role id", world.agent.read("role_id").trim());
    (1..=4).for_each(|round| canaries.add(&format!("value {round}"), value(round)));
    canaries
}

/// Everything that can be asked of a running agent.
fn asked(world: &World, format: &str, port: &str, seen: &mut Seen) {
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["history"],
        &["history", "--json"],
        &["refresh"],
        &["refresh", "--json", "kv", "forbidden"],
        &["refresh", "nope"],
        &["release", "app"],
        &["check"],
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
fn call(world: &World, format: &str, args: &[&str], seen: &mut Seen) {
    let all: Vec<&str> = ["--log-level", "trace", "--log-format", format].iter().chain(args).copied().collect();
    let (code, out, err) = world.agent.call(&all);
    let name = format!("`agent {}` (exit {code})", args.join(" "));
    seen.add(format!("{name} stdout"), &out);
    seen.add(format!("{name} stderr"), &err);
}
