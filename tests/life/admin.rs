//! The read-only HTTP endpoint, and `status` and `history` for programs.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use crate::agent::Agent;
use crate::endpoint::Endpoint;
use crate::kit::{app, key, skip};
use crate::ports::free_port;

/// Status and body; None while nobody listens.
fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

fn with_admin(text: &str) -> (u16, String) {
    let port = free_port();
    (port, format!("admin: {{listen: '127.0.0.1:{port}'}}\n{text}"))
}

#[test]
fn live_ready_status_and_metrics_are_served() {
    let endpoint = Endpoint::accepting(&[]);
    let (port, text) = with_admin(&app(&format!("    health: {}\n", endpoint.health("/h"))));
    let text = text.replace("{store: local}", "{store: local, max_age: 90d}");
    let mut agent = Agent::new(&text, &key("key-of-1"));
    agent.start();
    agent.wait_state("app", "degraded");
    assert_eq!(get(port, "/live").unwrap().0, 200);
    let (code, body) = get(port, "/ready").unwrap();
    assert!(code == 503 && body.contains("app: degraded") && body.contains("403"), "{code} {body}");
    assert!(metrics(port).lines().any(|l| l.starts_with("leasehold_degraded{") && l.ends_with(" 1.0")));

    endpoint.accept(&["key-of-1"]);
    agent.wait("it is ready", |_| get(port, "/ready").filter(|(code, _)| *code == 200));
    agent.secrets(&key("worse-key"));
    agent.wait_outcomes(&["committed", "rolled_back"]);
    agent.wait_state("app", "healthy");
    let body: serde_json::Value = serde_json::from_str(&get(port, "/status").unwrap().1).unwrap();
    assert_eq!((&body["targets"][0]["name"], &body["targets"][0]["generation"]), (&"app".into(), &1.into()));
    assert_eq!(get(port, "/nothing").unwrap().0, 404);

    let text = metrics(port);
    for line in [
        "leasehold_rotations_total{target=\"app\",outcome=\"committed\"} 1",
        "leasehold_rotations_total{target=\"app\",outcome=\"rolled_back\"} 1",
        "leasehold_last_rotation_successful{target=\"app\"} 0.0",
        "leasehold_degraded{target=\"app\"} 0.0",
        "leasehold_held{target=\"app\"} 0.0",
        "leasehold_generation{target=\"app\"} 1.0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
    for name in [
        "leasehold_last_rotation_success_timestamp_seconds{",
        "vault_secret_rotation_timestamp{",
        "litellm_api_key_expiry_timestamp{",
    ] {
        assert!(text.lines().any(|l| l.starts_with(name)), "{name} in\n{text}");
    }
    assert!(!text.contains("worse-key") && !text.contains("key-of-1"));
    promtool(&text);
}

fn metrics(port: u16) -> String {
    get(port, "/metrics").unwrap().1
}

/// `promtool check metrics` over what is really served.
fn promtool(text: &str) {
    let Some(promtool) = std::env::var_os("LEASEHOLD_PROMTOOL") else {
        return skip("promtool check metrics: LEASEHOLD_PROMTOOL is not set");
    };
    let mut command = Command::new(promtool);
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{text}");
}

#[test]
fn a_port_that_is_taken_ends_the_start_with_69() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let agent = Agent::new(&format!("admin: {{listen: '{address}'}}\n{}", app("")), &key("key-of-1"));
    let (code, _, err) = agent.call(&["run"]);
    assert!(code == 69 && err.contains(&address.to_string()), "{code} {err}");
}

#[test]
fn status_and_history_answer_programs_and_people() {
    let mut agent = Agent::new(&app(""), &key("key-of-1"));
    let (code, out, err) = agent.call(&["status", "--json"]);
    assert!(code == 69 && out.is_empty() && err.contains("no agent"), "{code} {out} {err}");
    agent.start();
    agent.wait_outcomes(&["committed"]);
    agent.wait_state("app", "healthy");
    let (code, out, _) = agent.call(&["status", "--json"]);
    assert_eq!(code, 0);
    let status: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status["secrets"][0]["name"], "provider");
    assert_eq!(status["secrets"][0]["store"], "local");
    assert!(status["config_error"].is_null());
    let (code, out, _) = agent.call(&["status"]);
    assert!(code == 0 && out.contains("app") && out.contains("healthy"), "{out}");
    let entry = agent.history().pop().unwrap();
    for step in ["stage", "verify", "publish", "reload", "probe"] {
        assert!(entry["steps"][step].is_number(), "{step}: {entry}");
    }
    assert!(entry["started_at"].as_str().unwrap() <= entry["ended_at"].as_str().unwrap(), "{entry}");
    let (code, out, _) = agent.call(&["refresh", "provider"]);
    assert!(code == 0 && out.contains("provider"), "{out}");
    let (code, _, err) = agent.call(&["refresh", "nobody"]);
    assert!(code == 66 && err.contains("nobody"), "{err}");
    agent.stop();
    let (code, out, _) = agent.call(&["history", "--json"]);
    assert_eq!(code, 0, "history is told without an agent, too");
    assert_eq!(serde_json::from_str::<Vec<serde_json::Value>>(&out).unwrap().len(), 1);
}

#[test]
fn the_audit_file_tells_what_happened_and_no_value() {
    let text = format!("audit: {{path: audit.jsonl}}\n{}", app(""));
    let mut agent = Agent::new(&text, &key("key-of-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    agent.call(&["rollback", "app", "--to", "9"]);
    agent.call(&["release", "app"]);
    agent.call(&["refresh"]);
    assert_eq!(agent.stop().code(), Some(0));
    let audit = agent.read("audit.jsonl");
    let events: Vec<serde_json::Value> = audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = events.iter().filter_map(|e| e["event"].as_str()).collect();
    assert_eq!((names.first(), names.last()), (Some(&"agent_started"), Some(&"agent_stopped")), "{audit}");
    for event in ["rotation_started", "rotation_ended", "released", "refreshed"] {
        assert!(names.contains(&event), "{event} in {audit}");
    }
    assert!(!audit.contains("key-of-1"));
}

#[test]
fn an_exposed_endpoint_answers_at_any_address_and_one_on_loopback_only_at_its_own() {
    let at = |port: u16, host: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        write!(stream, "GET /live HTTP/1.1\r\nhost: {host}\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split(' ').nth(1)?.parse::<u16>().ok()
    };
    // As the kubelet asks: at the pod's address.
    for (listen, code) in [("0.0.0.0", 200), ("127.0.0.1", 403)] {
        let port = free_port();
        let exposed = code == 200;
        let mut agent = Agent::new(
            &format!("admin: {{listen: '{listen}:{port}', exposed: {exposed}}}\n{}", app("")),
            &key("key-of-1"),
        );
        agent.start();
        agent.wait_state("app", "healthy");
        assert_eq!(at(port, &format!("10.1.2.3:{port}")), Some(code), "{listen}");
        assert_eq!(at(port, &format!("127.0.0.1:{port}")), Some(200), "{listen}");
        assert_eq!(at(port, "a-page-of-the-web.example"), Some(403), "{listen}");
    }
}
