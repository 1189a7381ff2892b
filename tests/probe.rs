//! Probes against real sockets, real TLS and real processes.

// Helpers of tests may panic like tests; clippy.toml exempts only the tests themselves.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use leasehold::config::model::{Confirm, HealthCheck, HttpRequest};
use leasehold::probe::Attempt;
use leasehold::probe::http::{Answer, ask};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

const SECOND: Duration = Duration::from_secs(1);

fn make(check: &HealthCheck, rendered: Option<&HttpRequest>, timeout: Duration) -> Box<dyn leasehold::probe::Probe> {
    let context = leasehold::probe::Context { inherit: Default::default(), bus: leasehold::dbus::Bus::system() };
    leasehold::probe::build(check, rendered, timeout, &context)
}

fn request(url: impl Into<String>) -> HttpRequest {
    HttpRequest {
        url: url.into(),
        method: "GET".into(),
        headers: Vec::new(),
        body: None,
        status: vec![200],
        body_contains: None,
        json: Vec::new(),
        ca_cert: None,
        timeout: 5 * SECOND,
        confirm: None,
    }
}

/// What the server saw: connections, and the last request's text.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    request: std::sync::Mutex<String>,
}

impl Seen {
    fn request(&self) -> String {
        self.request.lock().unwrap().clone()
    }
}

/// Reads one request (head, and a body of its content-length) and writes `answer` as it is; then closes, or hangs.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, seen: &Seen, answer: &str, hang: bool) {
    seen.connections.fetch_add(1, Ordering::SeqCst);
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&got).to_lowercase();
        if let Some(head) = text.find("\r\n\r\n") {
            let length = text.split("content-length: ").nth(1).and_then(|t| t.split("\r\n").next()?.parse().ok());
            if got.len() >= head + 4 + length.unwrap_or(0) {
                break;
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => got.extend_from_slice(&buffer[..n]),
        }
    }
    *seen.request.lock().unwrap() = String::from_utf8_lossy(&got).into_owned();
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.flush().await;
    if hang {
        std::future::pending::<Infallible>().await;
    }
    let _ = stream.shutdown().await;
}

/// A server that gives every connection the same answer. The base URL, and what it saw.
async fn server(text: impl Into<String>, hang: bool) -> (String, Arc<Seen>) {
    let text: Arc<str> = text.into().into();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Seen::default());
    let shared = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (text, seen) = (Arc::clone(&text), Arc::clone(&shared));
            tokio::spawn(async move { answer(stream, &seen, &text, hang).await });
        }
    });
    (base, seen)
}

fn response(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

async fn attempt(request: &HttpRequest, timeout: Duration) -> Attempt {
    make(&HealthCheck::Http(request.clone()), Some(request), timeout).attempt().await
}

fn failed(attempt: Attempt) -> String {
    match attempt {
        Attempt::Fail(reason) => reason,
        Attempt::Pass => panic!("passed"),
    }
}

#[tokio::test]
async fn the_expected_status_passes_and_another_is_named() {
    let (base, _) = server(response("200 OK", "fine"), false).await;
    assert_eq!(attempt(&request(&base), SECOND).await, Attempt::Pass);
    let (base, _) = server(response("503 Service Unavailable", "hunter2"), false).await;
    let asked = request(format!("{base}/health?token=hunter2"));
    let reason = failed(attempt(&asked, SECOND).await);
    assert_eq!(reason, format!("GET {base}/health: status 503, expected 200"));
}

#[tokio::test]
async fn one_of_several_statuses_passes_and_all_are_named_when_none_does() {
    let (base, _) = server(response("204 No Content", ""), false).await;
    let mut asked = request(&base);
    asked.status = vec![200, 204];
    assert_eq!(attempt(&asked, SECOND).await, Attempt::Pass);
    asked.status = vec![201, 202];
    assert!(failed(attempt(&asked, SECOND).await).ends_with("status 204, expected one of 201, 202"));
}

#[tokio::test]
async fn method_headers_and_body_arrive_and_each_attempt_has_its_own_connection() {
    let (base, seen) = server(response("200 OK", ""), false).await;
    let mut asked = request(format!("{base}/check?x=1"));
    asked.method = "POST".into();
    asked.headers = vec![("X-Api-Key".into(), "k1".into()), ("Content-Type".into(), "application/json".into())];
    asked.body = Some("{\"a\":1}".into());
    let probe = make(&HealthCheck::Http(asked.clone()), Some(&asked), SECOND);
    for _ in 0..3 {
        assert_eq!(probe.attempt().await, Attempt::Pass);
    }
    assert_eq!(seen.connections.load(Ordering::SeqCst), 3);
    let got = seen.request();
    assert!(got.starts_with("POST /check?x=1 HTTP/1.1\r\n"), "{got}");
    assert!(got.contains("x-api-key: k1\r\n") && got.ends_with("\r\n\r\n{\"a\":1}"), "{got}");
}

/// Workers that answer in turn: of the new values, of the old ones where `old` says so for the connection's number.
async fn workers(old: impl Fn(usize) -> bool + Send + 'static) -> (String, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/model/info", listener.local_addr().unwrap());
    let seen = Arc::new(Seen::default());
    let server = Arc::clone(&seen);
    tokio::spawn(async move {
        for number in 1.. {
            let (stream, _) = listener.accept().await.unwrap();
            let snapshot = if old(number) { "old" } else { "new" };
            let body = format!(r#"{{"data": [{{"model_info": {{"snapshot": "{snapshot}"}}}}]}}"#);
            answer(stream, &server, &response("200 OK", &body), false).await;
        }
    });
    (url, seen)
}

#[tokio::test]
async fn health_is_confirmed_by_as_many_answers_as_asked_for_each_over_a_connection_of_its_own() {
    let (ready, _) = server(response("200 OK", ""), false).await;
    let confirmed = |url: String| {
        let mut confirm = request(url);
        confirm.json = vec![("/data/0/model_info/snapshot".into(), "new".into())];
        HttpRequest { confirm: Some(Box::new(Confirm { request: confirm, times: 5 })), ..request(ready.clone()) }
    };
    let (url, seen) = workers(|_| false).await;
    assert_eq!(attempt(&confirmed(url), SECOND * 5).await, Attempt::Pass);
    assert_eq!(seen.connections.load(Ordering::SeqCst), 5);
    // One worker of three still has the old values.
    let (url, seen) = workers(|number| number % 3 == 0).await;
    let reason = failed(attempt(&confirmed(url), SECOND * 5).await);
    assert!(reason.contains("not confirmed (answer 3 of 5)"), "{reason}");
    assert!(reason.contains("/model/info") && !reason.contains("old"), "{reason}");
    assert_eq!(seen.connections.load(Ordering::SeqCst), 3, "the first wrong answer ends it");
    // What is not healthy is not asked for more.
    let (url, seen) = workers(|_| false).await;
    let (sick, _) = server(response("503 Service Unavailable", ""), false).await;
    let mut asked = confirmed(url);
    asked.url = sick;
    assert!(failed(attempt(&asked, SECOND * 5).await).contains("503"));
    assert_eq!(seen.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_never_followed() {
    let (target, seen) = server(response("200 OK", ""), false).await;
    let text = format!("HTTP/1.1 302 Found\r\nlocation: {target}/\r\ncontent-length: 0\r\n\r\n");
    let (base, _) = server(text, false).await;
    assert!(failed(attempt(&request(&base), SECOND).await).ends_with("status 302, expected 200"));
    assert_eq!(seen.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn body_and_json_are_judged_and_never_quoted() {
    let (base, _) = server(response("200 OK", r#"{"status":"down","n":1.0,"deep":{"a/b":["x"]}}"#), false).await;
    let mut asked = request(&base);
    asked.body_contains = Some("down".into());
    asked.json = vec![("/n".into(), serde_json::json!(1)), ("/deep/a~1b/0".into(), serde_json::json!("x"))];
    assert_eq!(attempt(&asked, SECOND).await, Attempt::Pass);
    asked.json = vec![("/status".into(), serde_json::json!("hunter2"))];
    let reason = failed(attempt(&asked, SECOND).await);
    assert_eq!(reason, format!("GET {base}: json /status: differs from the expected value"));
    asked.json = vec![("/nowhere".into(), serde_json::json!(1))];
    assert!(failed(attempt(&asked, SECOND).await).ends_with("json /nowhere: missing"));
    asked.body_contains = Some("hunter2".into());
    assert!(failed(attempt(&asked, SECOND).await).ends_with("body does not contain the expected text"));
}

#[tokio::test]
async fn a_body_that_is_not_json_or_too_large_is_named_as_such() {
    let (base, _) = server(response("200 OK", "<html>"), false).await;
    let mut asked = request(&base);
    asked.json = vec![("/a".into(), serde_json::json!(1))];
    assert!(failed(attempt(&asked, SECOND).await).ends_with("body is not JSON"));
    let large = format!("{{\"a\":1,\"b\":\"{}\"}}", "x".repeat(2 * 1024 * 1024));
    let (base, _) = server(response("200 OK", &large), false).await;
    asked.url = base;
    assert!(failed(attempt(&asked, 10 * SECOND).await).ends_with("body is larger than 1 MiB"));
}

#[tokio::test]
async fn a_server_that_hangs_fails_at_the_timeout() {
    let (base, _) = server("", true).await;
    let begun = Instant::now();
    let reason = failed(attempt(&request(&base), Duration::from_millis(200)).await);
    assert_eq!(reason, format!("GET {base}: no answer within 200ms"));
    assert!(begun.elapsed() < 2 * SECOND);
}

#[tokio::test]
async fn a_body_that_never_ends_counts_against_the_timeout_only_where_it_is_asked_about() {
    let (base, _) = server("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", true).await;
    let mut asked = request(&base);
    assert_eq!(attempt(&asked, SECOND).await, Attempt::Pass);
    asked.body_contains = Some("half".into());
    assert!(failed(attempt(&asked, Duration::from_millis(200)).await).ends_with("no answer within 200ms"));
}

#[tokio::test]
async fn an_answer_cut_short_says_so() {
    let (base, _) = server("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", false).await;
    let mut asked = request(&base);
    asked.body_contains = Some("half".into());
    assert_eq!(failed(attempt(&asked, SECOND).await), format!("GET {base}: the answer broke off"));
    let (base, _) = server("", false).await;
    assert_eq!(failed(attempt(&request(&base), SECOND).await), format!("GET {base}: the answer broke off"));
}

async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn nobody_listening_is_a_refused_connection_for_http_tcp_and_unix() {
    let port = closed_port().await;
    let reason = failed(attempt(&request(format!("http://127.0.0.1:{port}/")), SECOND).await);
    assert_eq!(reason, format!("GET http://127.0.0.1:{port}/: connection refused"));
    let tcp = make(&HealthCheck::Tcp(format!("127.0.0.1:{port}")), None, SECOND);
    assert_eq!(failed(tcp.attempt().await), format!("tcp 127.0.0.1:{port}: connection refused"));
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("app.sock");
    let url = format!("unix:{}:/ready", socket.display());
    assert_eq!(failed(attempt(&request(&url), SECOND).await), format!("GET {url}: no such file"));
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert_eq!(failed(attempt(&request(&url), SECOND).await), format!("GET {url}: connection refused"));
}

#[tokio::test]
async fn a_listening_port_passes_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    assert_eq!(make(&HealthCheck::Tcp(address), None, SECOND).attempt().await, Attempt::Pass);
}

#[tokio::test]
async fn a_unix_socket_is_asked_with_path_and_query() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("app.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let seen = Arc::new(Seen::default());
    let shared = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            answer(stream, &shared, &response("200 OK", "ok"), false).await;
        }
    });
    let asked = request(format!("unix:{}:/health/ready?full=1", socket.display()));
    assert_eq!(attempt(&asked, SECOND).await, Attempt::Pass);
    assert!(seen.request().starts_with("GET /health/ready?full=1 HTTP/1.1\r\n"));
}

/// A TLS server for `localhost` with a CA of its own; the base URL and the CA file.
async fn tls_server(dir: &std::path::Path) -> (String, PathBuf) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_file = dir.join("ca.pem");
    std::fs::write(&ca_file, ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let leaf = CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &issuer).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                answer(stream, &Seen::default(), &response("200 OK", "secure"), false).await;
            }
        }
    });
    (format!("https://localhost:{port}"), ca_file)
}

#[tokio::test]
async fn https_trusts_the_given_ca_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (base, ca_file) = tls_server(dir.path()).await;
    let mut asked = request(&base);
    asked.ca_cert = Some(ca_file);
    asked.body_contains = Some("secure".into());
    assert_eq!(attempt(&asked, 5 * SECOND).await, Attempt::Pass);
    // Another CA, and a name that the certificate does not hold.
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let (_, wrong) = tls_server(&other).await;
    asked.ca_cert = Some(wrong);
    let reason = failed(attempt(&asked, 5 * SECOND).await);
    assert!(reason.starts_with(&format!("GET {base}: TLS: invalid peer certificate")), "{reason}");
    asked.ca_cert = Some(dir.path().join("missing.pem"));
    let reason = failed(attempt(&asked, 5 * SECOND).await);
    assert!(reason.contains("cannot read the CA file") && reason.contains("no such file"), "{reason}");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (base, ca_file) = tls_server(dir.path()).await;
    let mut asked = request(base.replace("localhost", "127.0.0.1"));
    asked.ca_cert = Some(ca_file);
    let reason = failed(attempt(&asked, 5 * SECOND).await);
    assert!(reason.contains("TLS: invalid peer certificate"), "{reason}");
}

#[tokio::test]
async fn verify_tells_a_refused_credential_from_a_provider_that_is_away() {
    for (status, refused) in [("401 Unauthorized", true), ("403 Forbidden", true), ("404 Not Found", true)]
        .into_iter()
        .chain([("500 Oops", false), ("502 Bad Gateway", false), ("429 Too Many", false), ("408 Slow", false)])
    {
        let (base, _) = server(response(status, ""), false).await;
        let answer = ask(request(&base), &request(&base)).await;
        assert_eq!(matches!(answer, Answer::Refused(_)), refused, "{status}: {answer:?}");
        assert_eq!(matches!(answer, Answer::Unreachable(_)), !refused, "{status}: {answer:?}");
    }
    let away = request(format!("http://127.0.0.1:{}/", closed_port().await));
    assert!(matches!(ask(away.clone(), &away).await, Answer::Unreachable(_)));
    let (base, _) = server("", true).await;
    let mut hangs = request(base);
    hangs.timeout = Duration::from_millis(100);
    assert!(matches!(ask(hangs.clone(), &hangs).await, Answer::Unreachable(_)));
}

#[tokio::test]
async fn a_value_that_http_cannot_carry_is_refused_and_not_quoted() {
    let written = request("http://127.0.0.1:1/{{ secrets.a.b }}");
    let mut rendered = request("http://127.0.0.1:1/hunter2");
    rendered.headers = vec![("x-key".into(), "hunter2\nHost: evil".into())];
    let expected = "GET http://127.0.0.1:1/{{ secrets.a.b }}: the value of header x-key holds a character that HTTP does \
                    not allow there";
    assert_eq!(ask(rendered, &written).await, Answer::Refused(expected.into()));
    let rendered = request("hunter2 is no url");
    let Answer::Refused(reason) = ask(rendered, &written).await else { panic!("not refused") };
    assert!(!reason.contains("hunter2"), "{reason}");
}

#[tokio::test]
async fn a_value_in_the_path_is_not_in_the_reason() {
    let (base, seen) = server(response("401 No", ""), false).await;
    let reason = ask(request(format!("{base}/bot-hunter2/me")), &request(format!("{base}/bot-{{{{ t }}}}/me"))).await;
    assert_eq!(reason, Answer::Refused(format!("GET {base}/bot-{{{{ t }}}}/me: status 401, expected 200")));
    assert!(seen.request().contains("hunter2"));
}

fn command(run: &[&str], timeout: Duration) -> Box<dyn leasehold::probe::Probe> {
    make(&HealthCheck::Command(run.iter().map(|s| (*s).into()).collect()), None, timeout)
}

#[tokio::test]
async fn a_command_passes_by_its_exit_code_and_its_output_is_not_quoted() {
    assert_eq!(command(&["true"], SECOND).attempt().await, Attempt::Pass);
    let reason = failed(command(&["sh", "-c", "echo hunter2; echo hunter2 >&2; exit 3"], 5 * SECOND).attempt().await);
    assert_eq!(reason, "command sh: exit code 3, expected 0");
    let reason = failed(command(&["sh", "-c", "kill -9 $$"], 5 * SECOND).attempt().await);
    assert_eq!(reason, "command sh: ended by signal 9");
    let reason = failed(command(&["/no/such/program"], SECOND).attempt().await);
    assert_eq!(reason, "command /no/such/program: no such file");
}

#[tokio::test]
async fn a_command_that_hangs_is_killed_with_all_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let pidfile = dir.path().join("pid");
    let script = format!("echo hunter2 >&2; sleep 1000 & echo $! > {}.new; mv {0}.new {0}; wait", pidfile.display());
    let probe = command(&["sh", "-c", &script], 2 * SECOND);
    assert_eq!(failed(probe.attempt().await), "command sh: no answer within 2s");
    let pid: i32 = std::fs::read_to_string(&pidfile).unwrap().trim().parse().unwrap();
    let deadline = Instant::now() + 5 * SECOND;
    while alive(pid) {
        assert!(Instant::now() < deadline, "process {pid} was left over");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process runs (a zombie that nobody has reaped yet does not).
fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[tokio::test]
async fn without_a_check_it_is_healthy_and_without_its_request_it_is_not() {
    assert_eq!(make(&HealthCheck::None, None, SECOND).attempt().await, Attempt::Pass);
    let http = HealthCheck::Http(request("http://127.0.0.1:1/"));
    assert!(failed(make(&http, None, SECOND).attempt().await).contains("missing"));
}

#[tokio::test]
async fn a_unit_that_cannot_be_asked_about_fails_with_its_name() {
    // Whether or not a system bus runs here, this unit is on none.
    let probe = make(&HealthCheck::Systemd("leasehold-no-such.service".into()), None, 5 * SECOND);
    let reason = failed(probe.attempt().await);
    assert!(reason.starts_with("unit leasehold-no-such.service: "), "{reason}");
}
