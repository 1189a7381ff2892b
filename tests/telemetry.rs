//! Logs, metrics, audit, the admin endpoint, hardening and sd_notify, through real files, sockets and processes.

// Helpers of tests may panic like tests; clippy.toml exempts only the tests themselves.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use leasehold::admin::{AdminView, bind, serve};
use leasehold::telemetry::audit::{Actor, Audit, Event};
use leasehold::telemetry::logging::{Format, Lines, filter};
use leasehold::telemetry::mask::{Registry, registry};
use leasehold::telemetry::metrics::Metrics;
use leasehold::telemetry::view::{LastRotation, SecretView, StatusView, StoreView, TargetView};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};

const BOUND: Duration = Duration::from_secs(30);

/// Runs one `child_…` test of this file in a process of its own.
fn child(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"]);
    command.env_remove("RUST_BACKTRACE").stdin(Stdio::null());
    command
}

// ---- logging ----

/// What `events` logs, with `secret` registered.
fn logged(format: Format, level: LevelFilter, secret: &[u8], events: impl FnOnce()) -> String {
    let (registry, out) = (Registry::default(), Arc::new(Mutex::new(String::new())));
    let into = Arc::clone(&out);
    let lines = Lines {
        format,
        colour: false,
        registry: registry.clone(),
        sink: Arc::new(move |line| into.lock().unwrap().push_str(line)),
    };
    let _held = registry.value(secret);
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter(level)));
    tracing::subscriber::with_default(subscriber, events);
    out.lock().unwrap().clone()
}

#[test]
fn a_json_line_stays_json_and_holds_no_form_of_a_secret() {
    let secret = "can\"ary\\ value\nsecond line";
    let text = logged(Format::Json, LevelFilter::TRACE, secret.as_bytes(), || {
        let span = tracing::info_span!("rotation", target = "litellm", token = secret);
        let _inside = span.enter();
        tracing::error!(plain = secret, debug = ?Some(secret), time = 1, "failed with {secret}");
        tracing::info!(ok = true, n = 5432, "fine");
    });
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{text}");
    let first = &lines[0];
    assert_eq!(first["message"], "failed with ***");
    assert_eq!(
        (&first["plain"], &first["debug"], &first["token"]),
        (&"***".into(), &"Some(\"***\")".into(), &"***".into())
    );
    assert_eq!(
        (&first["level"], &first["target"], &first["field.time"]),
        (&"error".into(), &"litellm".into(), &1.into())
    );
    assert!(first["time"].as_str().unwrap().parse::<Timestamp>().is_ok());
    assert_eq!((&lines[1]["ok"], &lines[1]["n"]), (&true.into(), &5432.into()));
    for part in ["can\"ary", "can\\\"ary", "second line"] {
        assert!(!text.contains(part), "{text}");
    }
}

#[test]
fn a_number_that_is_a_secret_becomes_text_in_json() {
    let text = logged(Format::Json, LevelFilter::INFO, b"54321", || tracing::warn!(port = 54321, wait = 543_210));
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&line["port"], &line["wait"]), (&"***".into(), &543_210.into()));
}

#[test]
fn a_text_event_is_one_line_whatever_is_in_it() {
    let text = logged(Format::Text, LevelFilter::INFO, b"hunter22", || {
        tracing::warn!(path = "/a b", unit = "x.service", "first\nINFO forged \x1b[31m hunter22");
    });
    let (time, rest) = text.split_once(' ').unwrap();
    assert!(time.parse::<Timestamp>().is_ok(), "{text}");
    assert_eq!(rest, " WARN first\\nINFO forged \\u{1b}[31m *** path=\"/a b\" unit=x.service\n");
}

#[test]
fn an_error_is_logged_with_its_causes_masked() {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot log in")]
    struct Outer(#[source] std::io::Error);
    let error = Outer(std::io::Error::other("token hunter22 refused"));
    let text = logged(Format::Json, LevelFilter::INFO, b"hunter22", || {
        tracing::error!(error = &error as &dyn std::error::Error);
    });
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["error"], "cannot log in: token *** refused");
}

#[test]
fn libraries_are_quiet_and_vaults_client_is_silent_below_trace() {
    let events = || {
        tracing::error!(target: "rustify::client", "404");
        tracing::error!(target: "vaultrs", "404");
        tracing::info!(target: "hyper_util::client", "pool");
        tracing::warn!(target: "zbus", "lost");
        tracing::debug!(target: "leasehold::driver", "ours");
    };
    let text = logged(Format::Text, LevelFilter::DEBUG, b"xxxxxxxx", events);
    let got: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(got, ["lost", "ours"]);
    assert_eq!(logged(Format::Text, LevelFilter::TRACE, b"xxxxxxxx", events).lines().count(), 5);
}

#[test]
#[ignore = "run in a process of its own by a_panic_is_reported_with_its_message_masked"]
fn child_panics() {
    leasehold::telemetry::logging::init(Format::Text, LevelFilter::INFO);
    let _held = registry().value(b"hunter22");
    panic!("lost hunter22");
}

#[test]
fn a_panic_is_reported_with_its_message_masked() {
    let out = child("child_panics").output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(text.contains("internal error at tests/telemetry.rs:") && text.contains("lost ***"), "{text}");
    assert!(!text.contains("hunter22"), "{text}");
}

#[test]
#[ignore = "run in a process of its own by a_panic_inside_a_display_is_masked_all_the_same"]
fn child_panics_while_masking() {
    struct Panics(Registry);
    impl std::fmt::Display for Panics {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            let _held = self.0.value(b"hunter22");
            panic!("lost hunter22");
        }
    }
    leasehold::telemetry::logging::init(Format::Text, LevelFilter::INFO);
    let registry = registry().clone();
    let _text = leasehold::telemetry::mask::display(&Panics(registry));
}

#[test]
fn a_panic_inside_a_display_is_masked_all_the_same() {
    let out = child("child_panics_while_masking").output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(text.contains("lost ***") && !text.contains("hunter22"), "{text}");
}

// ---- metrics ----

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn secret(name: &str, path: &str) -> SecretView {
    SecretView {
        name: name.into(),
        store: "vault".into(),
        path: path.into(),
        version: Some("7".into()),
        changed_at: Some(at(1000)),
        read_at: Some(at(1900)),
        next_read_at: Some(at(2030)),
        expires_at: None,
        leased: false,
        overlap_until: None,
        max_age_seconds: None,
        error: None,
        failing_since: None,
    }
}

fn status() -> StatusView {
    let key = SecretView { max_age_seconds: Some(900), ..secret("anthropic", "secret/ai/anthropic") };
    let database = SecretView { expires_at: Some(at(2600)), leased: true, ..secret("db", "database/creds/app") };
    let odd = SecretView { version: None, changed_at: Some(at(1500)), ..secret("a\"b\\c\nd", "database/creds/app") };
    let target = TargetView {
        name: "litellm".into(),
        state: "healthy".into(),
        generation: Some(12),
        held: false,
        stale: true,
        degraded: false,
        last_rotation: Some(LastRotation { outcome: "rolled_back".into(), ended_at: at(1990) }),
        last_success_at: Some(at(1500)),
        reason: None,
        certificates: BTreeMap::from([("/run/tls.pem".to_owned(), at(9000))]),
    };
    StatusView {
        config_error: None,
        version: "0.1.0".into(),
        now: at(2000),
        started_at: at(500),
        targets: vec![target],
        secrets: vec![odd, key, database],
        stores: vec![StoreView {
            name: "bedrock".into(),
            how: "in batches of 20".into(),
            calls_per_hour: 55.0,
            usd_per_month: 0.2,
            calls: BTreeMap::from([("BatchGetSecretValue".to_owned(), 50), ("DescribeSecret".to_owned(), 5)]),
            identity: None,
        }],
    }
}

#[test]
fn the_metrics_have_their_names_labels_and_values() {
    let metrics = Metrics::default();
    metrics.store_read("vault");
    metrics.store_failed("vault", "denied");
    metrics.rotation_ended("litellm", "rolled_back", &[("reload", Duration::from_millis(200))]);
    let text = metrics.encode(&status());
    if let Some(path) = std::env::var_os("LEASEHOLD_DUMP_METRICS") {
        std::fs::write(path, &text).unwrap(); // for a look with another reader of the format
    }
    for line in [
        "leasehold_build_info{version=\"0.1.0\"} 1",
        "leasehold_secret_age_seconds{secret=\"anthropic\"} 1000.0",
        "leasehold_secret_last_change_timestamp_seconds{secret=\"anthropic\"} 1000.0",
        "leasehold_secret_next_read_timestamp_seconds{secret=\"anthropic\"} 2030.0",
        "leasehold_secret_lease_expiry_timestamp_seconds{secret=\"db\"} 2600.0",
        "leasehold_secret_version_info{secret=\"db\",store=\"vault\",version=\"7\"} 1.0",
        "leasehold_secret_overdue{secret=\"anthropic\"} 1.0",
        "leasehold_secret_age_seconds{secret=\"a\\\"b\\\\c\\nd\"} 500.0",
        "leasehold_store_reads_total{store=\"vault\"} 1",
        "# TYPE leasehold_store_requests counter",
        "leasehold_store_requests_total{store=\"bedrock\",request=\"BatchGetSecretValue\"} 50",
        "leasehold_store_requests_total{store=\"bedrock\",request=\"DescribeSecret\"} 5",
        "leasehold_store_errors_total{store=\"vault\",kind=\"denied\"} 1",
        "leasehold_rotations_total{target=\"litellm\",outcome=\"rolled_back\"} 1",
        "leasehold_rotations_total{target=\"litellm\",outcome=\"committed\"} 0",
        "leasehold_rotation_duration_seconds_bucket{le=\"0.25\",target=\"litellm\",step=\"reload\"} 1",
        "leasehold_rotation_duration_seconds_sum{target=\"litellm\",step=\"reload\"} 0.2",
        "leasehold_generation{target=\"litellm\"} 12.0",
        "leasehold_held{target=\"litellm\"} 0.0",
        "leasehold_degraded{target=\"litellm\"} 0.0",
        "leasehold_stale{target=\"litellm\"} 1.0",
        "leasehold_target_state{target=\"litellm\",state=\"healthy\"} 1.0",
        "leasehold_last_rotation_successful{target=\"litellm\"} 0.0",
        "leasehold_last_rotation_success_timestamp_seconds{target=\"litellm\"} 1500.0",
        "vault_secret_rotation_timestamp{path=\"database/creds/app\"} 1000.0",
        "vault_lease_ttl_seconds{path=\"database/creds/app\"} 600.0",
        "litellm_api_key_expiry_timestamp{secret=\"anthropic\"} 1900.0",
        "ssl_certificate_expiry_timestamp{path=\"/run/tls.pem\"} 9000.0",
        "# EOF",
    ] {
        assert!(text.lines().any(|got| got == line), "no line {line} in:\n{text}");
    }
}

#[test]
fn every_metric_has_one_type_and_no_series_comes_twice() {
    let text = Metrics::default().encode(&status());
    let mut seen = std::collections::BTreeSet::new();
    for line in text.lines() {
        let id = if line.starts_with('#') { line } else { line.rsplit_once(' ').unwrap().0 };
        assert!(seen.insert(id.to_owned()), "twice: {id}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn a_secret_that_is_gone_leaves_no_series() {
    let metrics = Metrics::default();
    let mut status = status();
    assert!(metrics.encode(&status).contains("secret=\"db\""));
    status.secrets.retain(|secret| secret.name != "db");
    assert!(!metrics.encode(&status).contains("secret=\"db\""));
}

// ---- audit ----

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + BOUND;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn released(target: &str) -> Event {
    Event::Released { target: target.into(), actor: Some(Actor { uid: 1000, pid: Some(7) }) }
}

#[tokio::test]
async fn audit_events_are_lines_in_a_private_file_with_actor_and_without_values() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let _held = registry().value(b"hunter22-audit");
    let (audit, writer) = Audit::to(path.clone());
    audit.record(at(1), &released("litellm"));
    let reason = Some("said \"hunter22-audit\"".to_owned());
    let ended = Event::RotationEnded { target: "a".into(), generation: 3, outcome: "rolled_back".into(), reason };
    audit.record(at(2), &ended);
    drop(audit);
    writer.run().await;
    let got = lines(&path);
    let first = serde_json::json!({"time": "1970-01-01T00:00:01.000Z", "event": "released", "target": "litellm",
        "actor": {"uid": 1000, "pid": 7}});
    assert_eq!(got[0], first);
    assert_eq!((&got[1]["event"], &got[1]["reason"]), (&"rotation_ended".into(), &"said \"***\"".into()));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn an_audit_file_that_was_renamed_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("audit.jsonl"), dir.path().join("audit.jsonl.1"));
    let (audit, writer) = Audit::to(path.clone());
    let task = tokio::spawn(writer.run());
    audit.record(at(1), &released("one"));
    until("the first event", || lines(&path).len() == 1).await;
    std::fs::rename(&path, &old).unwrap();
    audit.record(at(2), &released("two"));
    drop(audit);
    task.await.unwrap();
    assert_eq!((&lines(&old)[0]["target"], &lines(&path)[0]["target"]), (&"one".into(), &"two".into()));
    assert_ne!(std::fs::metadata(&old).unwrap().ino(), std::fs::metadata(&path).unwrap().ino());
}

#[tokio::test]
async fn a_line_cut_off_by_a_crash_does_not_swallow_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    std::fs::write(&path, "{\"event\":\"rel").unwrap();
    let (audit, writer) = Audit::to(path.clone());
    audit.record(at(1), &released("one"));
    drop(audit);
    writer.run().await;
    assert_eq!(lines(&path)[0]["target"], "one");
}

#[tokio::test]
async fn an_audit_file_that_cannot_be_written_stops_nothing_and_gets_its_events_later() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("log");
    let path = folder.join("audit.jsonl");
    let (audit, writer) = Audit::to(path.clone());
    let task = tokio::spawn(writer.run());
    audit.record(at(1), &released("one"));
    tokio::task::yield_now().await;
    std::fs::create_dir(&folder).unwrap();
    audit.record(at(2), &released("two"));
    until("both events", || lines(&path).len() == 2).await;
    drop(audit);
    task.await.unwrap();
}

#[tokio::test]
async fn more_events_than_can_wait_are_counted_as_lost_not_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("log");
    let path = folder.join("audit.jsonl");
    let (audit, writer) = Audit::to(path.clone());
    let task = tokio::spawn(writer.run());
    for i in 0..leasehold::telemetry::audit::WAITING + 500 {
        audit.record(at(1), &released(&i.to_string()));
    }
    drop(audit);
    std::fs::create_dir(&folder).unwrap();
    task.await.unwrap();
    let got = lines(&path);
    let lost = got.iter().find(|line| line["event"] == "lost").map_or(0, |line| line["count"].as_u64().unwrap());
    let told = got.iter().filter(|line| line["event"] == "released").count() as u64;
    assert_eq!(lost + told, leasehold::telemetry::audit::WAITING as u64 + 500);
}

#[tokio::test]
async fn an_audit_path_that_is_a_symlink_or_a_fifo_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (link, elsewhere) = (dir.path().join("link"), dir.path().join("elsewhere"));
    std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [link, fifo] {
        let (audit, writer) = Audit::to(path);
        audit.record(at(1), &released("one"));
        drop(audit);
        tokio::time::timeout(BOUND, writer.run()).await.unwrap();
    }
    assert!(!elsewhere.exists());
}

// ---- admin ----

struct View(bool);

impl AdminView for View {
    fn live(&self) -> bool {
        true
    }
    fn ready(&self) -> (bool, String) {
        (self.0, "litellm: healthy".into())
    }
    fn metrics(&self) -> String {
        Metrics::default().encode(&status())
    }
    fn status(&self) -> serde_json::Value {
        serde_json::to_value(status()).unwrap()
    }
}

struct Admin {
    address: std::net::SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn admin(ready: bool) -> Admin {
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let task = tokio::spawn(serve(listener, Arc::new(View(ready)), stop.clone()));
    Admin { address, stop, task }
}

impl Admin {
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = Vec::new();
        tokio::time::timeout(BOUND, stream.read_to_end(&mut text)).await.unwrap().unwrap();
        String::from_utf8(text).unwrap()
    }

    async fn get(&self, path: &str) -> String {
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address)).await
    }
}

#[tokio::test]
async fn the_four_paths_answer_and_no_other() {
    let admin = admin(true).await;
    assert!(admin.get("/live").await.starts_with("HTTP/1.1 200 "));
    let ready = admin.get("/ready").await;
    assert!(ready.starts_with("HTTP/1.1 200 ") && ready.ends_with("litellm: healthy\n"), "{ready}");
    let accept = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text;version=1.0.0,text/plain\r\n\r\n";
    let metrics = admin.raw(accept).await;
    assert!(metrics.contains("application/openmetrics-text") && metrics.ends_with("# EOF\n"), "{metrics}");
    let metrics = admin.get("/metrics").await;
    assert!(metrics.contains("text/plain; version=0.0.4") && !metrics.contains("# EOF"), "{metrics}");
    assert!(metrics.contains("# TYPE leasehold_rotations_total counter") && !metrics.contains(" info\n"), "{metrics}");
    let status = admin.get("/status").await;
    let body: serde_json::Value = serde_json::from_str(status.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["targets"][0]["name"], "litellm");
    assert_eq!(body["targets"][0]["generation"], 12);
    assert!(admin.get("/").await.starts_with("HTTP/1.1 404 "));
    assert!(admin.get("/status/../live").await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn not_ready_is_503_and_says_why() {
    let text = admin(false).await.get("/ready").await;
    assert!(text.starts_with("HTTP/1.1 503 ") && text.ends_with("litellm: healthy\n"), "{text}");
}

#[tokio::test]
async fn writing_methods_are_refused_and_head_has_no_body() {
    let admin = admin(true).await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        let text = admin.raw(&format!("{method} /status HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        assert!(text.starts_with("HTTP/1.1 405 ") && text.contains("allow: GET, HEAD"), "{text}");
    }
    let text = admin.raw("HEAD /live HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("content-length: 5\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\n"), "{text}");
}

#[tokio::test]
async fn a_host_name_that_is_not_ours_is_refused() {
    let admin = admin(true).await;
    for (host, served) in [
        ("localhost", true),
        ("LOCALHOST:9187", true),
        ("127.0.0.1", true),
        ("[::1]:9187", true),
        ("evil.example", false),
        ("localhost.evil.example", false),
        ("127.0.0.1.evil.example", false),
        ("10.0.0.1", false),
        ("localhost\r\nHost: evil.example", false),
        ("", false),
    ] {
        let text = admin.raw(&format!("GET /live HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(text.starts_with("HTTP/1.1 200 "), served, "{host}: {text}");
    }
    assert!(admin.raw("GET /live HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 200 "));
    assert!(!admin.raw("GET /live HTTP/1.1\r\n\r\n").await.contains(" 200 "));
    let text = admin.raw("GET http://evil.example/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 403 "), "{text}");
}

#[tokio::test]
async fn idle_connections_are_bounded_and_closed_so_that_others_get_in() {
    let admin = admin(true).await;
    let mut idle = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(admin.address).await.unwrap();
        let _ = stream.write_all(b"GET /live HTTP/1.1\r\nX-Slow: ").await;
        idle.push(stream);
    }
    // What is beyond the bound is closed at once, and what is within it after the head's timeout.
    for stream in &mut idle {
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(BOUND, stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "a connection without a request was left open");
    }
    assert!(admin.get("/live").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn it_stops_when_told_though_a_connection_is_open() {
    let admin = admin(true).await;
    let mut open = TcpStream::connect(admin.address).await.unwrap();
    open.write_all(b"GET /li").await.unwrap();
    admin.get("/live").await;
    admin.stop.cancel();
    tokio::time::timeout(BOUND, admin.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(admin.address).await.is_err());
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let admin = admin(true).await;
    let error = bind(admin.address).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {} for the admin endpoint: ", admin.address)), "{error}");
}

// ---- hardening ----

#[test]
#[ignore = "run in a process of its own by a_hardened_process_leaves_no_core_and_makes_private_files"]
fn child_hardens() {
    use nix::sys::resource::{Resource, getrlimit};
    let before = getrlimit(Resource::RLIMIT_CORE).unwrap();
    let original = leasehold::hardening::harden().unwrap();
    assert_eq!(original.core_limit, before);
    assert_eq!(original.umask, 0o022);
    assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, before.1));
    assert!(!nix::sys::prctl::get_dumpable().unwrap());
    let dir = std::env::var("LEASEHOLD_TEST_DIR").unwrap();
    std::fs::write(Path::new(&dir).join("made"), "x").unwrap();
    println!("hardened");
}

#[test]
fn a_hardened_process_leaves_no_core_and_makes_private_files() {
    let dir = tempfile::tempdir().unwrap();
    let shell = "umask 022; exec \"$0\" --exact child_hardens --ignored --nocapture --test-threads=1";
    let mut command = Command::new("sh");
    command.args(["-c", shell]).arg(std::env::current_exe().unwrap()).env("LEASEHOLD_TEST_DIR", dir.path());
    let out = command.output().unwrap();
    assert!(out.status.success() && String::from_utf8_lossy(&out.stdout).contains("hardened"), "{out:?}");
    let mode = std::fs::metadata(dir.path().join("made")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
#[ignore = "run in a process of its own by a_printing_command_ends_by_sigpipe_as_others_do"]
fn child_prints_for_ever() {
    leasehold::hardening::end_on_broken_pipe().unwrap();
    let deadline = Instant::now() + BOUND;
    while Instant::now() < deadline {
        let _ = std::io::stdout().write_all(b"line\n");
    }
}

#[test]
fn a_printing_command_ends_by_sigpipe_as_others_do() {
    let mut child = child("child_prints_for_ever").stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let (mut got, mut byte) = (Vec::new(), [0]);
    while !got.ends_with(b"line\nline\n") {
        out.read_exact(&mut byte).unwrap();
        got.push(byte[0]);
    }
    drop(out); // hang up
    assert_eq!(child.wait().unwrap().signal(), Some(nix::libc::SIGPIPE));
}

// ---- sd_notify ----

#[tokio::test]
#[ignore = "run in a process of its own by systemd_is_told_what_it_asks_for"]
async fn child_notifies() {
    use leasehold::notify_systemd as systemd;
    assert!(systemd::wanted());
    systemd::ready("2 targets\nREADY=0");
    systemd::status("rotating litellm");
    systemd::reloading();
    systemd::extend_timeout(Duration::from_secs(90));
    systemd::stopping();
    assert_eq!(systemd::watchdog_interval(), Some(Duration::from_millis(20)));
    let _ = tokio::time::timeout(Duration::from_millis(200), systemd::feed_watchdog()).await;
}

#[test]
fn systemd_is_told_what_it_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(BOUND)).unwrap();
    let mut command = child("child_notifies");
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "40000").env_remove("WATCHDOG_PID");
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let next = || {
        let mut buffer = [0; 4096];
        let n = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    assert_eq!(next(), "READY=1\nSTATUS=2 targets READY=0\n");
    assert_eq!(next(), "STATUS=rotating litellm\n");
    let reloading = next();
    let monotonic = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    assert!(monotonic.trim_end().parse::<u64>().is_ok_and(|usec| usec > 0), "{reloading}");
    assert_eq!(next(), "EXTEND_TIMEOUT_USEC=90000000\n");
    assert_eq!(next(), "STOPPING=1\n");
    assert_eq!((next(), next()), ("WATCHDOG=1\n".into(), "WATCHDOG=1\n".into()));
    drop(socket); // from here on nobody listens, and that is no failure
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
#[ignore = "run in a process of its own by a_systemd_that_does_not_read_does_not_hang_the_agent"]
async fn child_notifies_the_deaf() {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(400) {
        leasehold::notify_systemd::status("x");
    }
    assert!(begun.elapsed() < BOUND);
}

#[test]
fn a_systemd_that_does_not_read_does_not_hang_the_agent() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("leasehold-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let socket = std::os::unix::net::UnixDatagram::bind_addr(&address).unwrap();
    let mut command = child("child_notifies_the_deaf");
    let mut child = command.env("NOTIFY_SOCKET", format!("@{name}")).stdout(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + BOUND;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{status}");
    let mut buffer = [0; 64];
    let n = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..n], b"STATUS=x\n");
}

#[tokio::test]
#[ignore = "run in a process of its own by without_systemd_nothing_is_told_and_nothing_hangs"]
async fn child_notifies_nobody() {
    use leasehold::notify_systemd as systemd;
    assert!(!systemd::wanted());
    systemd::ready("x");
    assert_eq!(systemd::watchdog_interval(), None);
    systemd::feed_watchdog().await;
}

#[test]
fn without_systemd_nothing_is_told_and_nothing_hangs() {
    let mut command = child("child_notifies_nobody");
    let status =
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").stdout(Stdio::null()).status().unwrap();
    assert!(status.success());
}
