//! A config full of canaries, and the secrets that it uses.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::agent::Agent;
use super::canary::{CORE, Canaries, Seen};
use super::server::Echo;

/// Variables of the agent's environment: names as in the config.
pub const VARIABLES: [&str; 8] = [
    "CANARY_TOKEN",
    "CANARY_HEADER",
    "CANARY_ENV",
    "CANARY_INLINE",
    "CANARY_URL",
    "CANARY_PASS",
    "CANARY_BODY",
    "VAULT_TOKEN",
];

pub fn variable(name: &str) -> String {
    format!("{CORE}-variable-{}+/=", name.to_lowercase())
}

/// The secrets of one round; `poison` makes the application unhealthy.
pub fn secrets(round: u32, poison: bool) -> Value {
    let p = if poison { "poison" } else { "good" };
    let c = format!("{CORE}{round}");
    json!({"main": {
        "short": format!("{c}k"),
        "long": format!("sk-ant-{p}-{c}-{}", format!("{c}0").repeat(6)),
        "pem": format!("-----BEGIN PRIVATE KEY-----\nMIIE{c}{0}\n{c}B{0}\n{c}C==\n-----END PRIVATE KEY-----\n", "x9".repeat(20)),
        "awkward": format!("{c}\"dq'sq\\bs$HOME ${{X}} $(id) `bt` #h {{{{ x }}}} é%+&=;{c}"),
        "lines": format!("{c} first \"line\"\n{c} sec'ond $line\\\n\t{c} third line`"),
        "document": format!("{{\"type\":\"sa\",\"private\":\"{c}-inside/json\",\"n\":{{\"deep\":\"{c}\\ndeep\"}}}}"),
        "url": format!("postgresql://app:{c}pw%40x@db:5432/x?sslmode=off"),
        "password": format!("{c}/p@ss:w rd+"),
        "number": 7_741_936_528_410_u64 + u64::from(round),
        "nested": {"a": {"b": [format!("{c}-nested-1"), {"c": format!("{c}-nested-2")}]}},
        "injects": format!("x\n{c}injected: true"),
        "nul": format!("{c}before\u{0}after"),
    }})
}

fn bytes(round: u32) -> Vec<u8> {
    [b"\xff\xfe\x00", format!("{CORE}{round}-bytes").as_bytes(), b"\x80\x01"].concat()
}

/// A template that cannot be rendered, a file that does not parse, a command that tells what it was given.
fn bad_targets() -> Vec<(String, Value)> {
    let mut targets = Vec::new();
    let templates = [
        "{{ secrets.main.awkward | b64decode }}",
        "{{ secrets.main.long | int }}",
        "{{ secrets.main.long | float }}",
        "{{ secrets.main.long + 1 }}",
        "{{ secrets.main.number + secrets.main.long }}",
        "{{ secrets.main.number - secrets.main.pem }}",
        "{{ -secrets.main.long }}",
        "{% for x in secrets.main.number %}{{ x }}{% endfor %}",
        "{% for x in secrets.main.nested.a.b %}{{ x | int }}{% endfor %}",
        "{{ secrets.main.nope }}",
        "{{ secrets.main.long.deeper }}",
        "{{ secrets.main[secrets.main.long] }}",
        "{{ secrets.main[secrets.main.long | upper] }}",
        "{{ secrets.main.nested[secrets.main.long | reverse] }}",
        "{% set m = {'k': secrets.main.long} %}{{ m[m.k | lower] }}",
        "{{ secrets.main.nested | get(key=secrets.main.long | lower) }}",
        "{{ secrets.main.long[secrets.main.long] }}",
        "{{ secrets.main.long | nth(n=secrets.main.long) }}",
        "{{ secrets.main.long | truncate(length=secrets.main.long) }}",
        "{{ secrets.main.number | round(method=secrets.main.long) }}",
        "{{ secrets.main.long | indent(width=secrets.main.long) }}",
        "{{ secrets.main.long | env_quote(format=secrets.main.long) }}",
        "{{ throw(message=secrets.main.long | upper) }}",
        "{{ secrets.main.long is divisible_by(divisor=secrets.main.long) }}",
        "{{ secrets.main.long < secrets.main.number }}",
        "{{ secrets.main.long / 0 }}",
        "{{ range(end=secrets.main.long) }}",
        "{{ secrets.main.nul }}",
        "{{ secrets.blob.key }}",
        "{{ secrets.blob.key | b64encode | b64decode }}",
        "{{ env.CANARY_PASS | b64decode }}",
        "{{ previous.main.long | b64decode }}",
        "{{ secrets.main.awkward | toml | b64decode }}${CANARY_INLINE}",
    ];
    for (n, template) in templates.iter().enumerate() {
        let file = json!({"path": format!("out/bad-{n}"), "inline": template});
        targets.push((format!("bad-{n}"), json!({"pass_env": ["CANARY_PASS"], "files": [file]})));
    }
    let outputs = [
        ("yaml", "a: {{ secrets.main.injects }}"),
        ("yaml", "a: \"{{ secrets.main.awkward }}\n"),
        ("yaml", "{{ secrets.main.long }}: 1\n{{ secrets.main.long }}: 2\n"),
        ("json", "{\"a\": {{ secrets.main.long }}}"),
        ("json", "{\"{{ secrets.main.long }}\": 1, \"{{ secrets.main.long }}\": 2, {{ secrets.main.number }}"),
        ("toml", "a = {{ secrets.main.long }}\n"),
        ("toml", "{{ secrets.main.short }} = 1\n{{ secrets.main.short }} = 2\n"),
        ("systemd-env", "{{ secrets.main.lines }}"),
        ("docker-env", "{{ secrets.main.lines }}"),
        ("dotenv", "'{{ secrets.main.awkward }}'{{ secrets.main.long }}"),
        ("shell", "export {{ secrets.main.awkward }}"),
    ];
    for (n, (format, text)) in outputs.iter().enumerate() {
        let file = json!({"path": format!("out/unread-{n}"), "format": format, "inline": text});
        targets.push((format!("unread-{n}"), json!({"files": [file]})));
    }
    targets
}

/// Commands that say what they were given, one a format, in the end or in the middle of much else.
fn talkative_targets() -> Vec<(String, Value)> {
    let mut targets = Vec::new();
    let fields = ["short", "long", "pem", "awkward", "lines", "document", "url", "password", "number"];
    for (f, format) in ["systemd-env", "docker-env", "dotenv", "shell"].iter().enumerate() {
        for (n, field) in fields.iter().enumerate() {
            let env = json!({"VALUE": format!("{{{{ secrets.main.{field} }}}}")});
            let check = json!({"run": ["sh", "-c", "cat \"$1\" >&2; cat \"$1\"; exit 7", "talkative-check", "{path}"]});
            let file = json!({"path": format!("out/env-{f}-{n}"), "format": format, "env": env, "check": check});
            targets.push((format!("env-{f}-{n}"), json!({"files": [file]})));
        }
    }
    for (f, filter) in ["yaml", "json", "toml", "shell_quote", "urlencode", "b64encode"].iter().enumerate() {
        for (n, field) in fields.iter().enumerate() {
            let text = format!("x = {{{{ secrets.main.{field} | {filter} }}}}");
            let check = json!({"run": ["sh", "-c", "cat \"$1\" >&2; exit 7", "talkative-check", "{path}"]});
            let file = json!({"path": format!("out/filter-{f}-{n}"), "format": "text", "inline": text, "check": check});
            targets.push((format!("filter-{f}-{n}"), json!({"files": [file]})));
        }
    }
    let long = "{{ secrets.main.long }}-{{ secrets.main.number }} ${CANARY_INLINE} {{ env.CANARY_PASS }}";
    for (name, script) in [
        ("killed", "cat \"$1\" >&2; kill -SEGV $$"),
        ("slow", "cat \"$1\" >&2; sleep 1000"),
        ("wordy", "i=0; while [ $i -lt 400 ]; do cat \"$1\" >&2; printf ' ' >&2; i=$((i+1)); done; exit 7"),
        ("quiet", "exit 0"),
    ] {
        let check = json!({
            "run": ["sh", "-c", script, "talkative-check", "{path}"], "timeout": "1s", "stdout": "never this"});
        let file = json!({"path": format!("out/check-{name}"), "inline": long, "check": check});
        targets.push((format!("check-{name}"), json!({"pass_env": ["CANARY_PASS"], "files": [file]})));
    }
    targets
}

fn good_targets(echo: &Echo) -> Vec<(String, Value)> {
    let all: String = secrets(0, false)["main"].as_object().unwrap().keys().fold(String::new(), |mut all, field| {
        let value = match field.as_str() {
            "nul" => return all,
            "nested" => "secrets.main.nested.a.b[1].c".to_owned(),
            field => format!("secrets.main.{field}"),
        };
        writeln!(all, "{field}: {{{{ {value} | json }}}}").unwrap();
        all
    });
    let at = format!("http://{}", echo.address);
    let app = json!({
        "pass_env": ["CANARY_PASS"],
        "files": [
            {"path": "out/all.yaml", "inline": format!("{all}bytes: '{{{{ secrets.blob.key | b64encode }}}}'\n"),
             "check": {"run": ["sh", "-c", "cat \"$1\" >&2; cat \"$1\"; sleep 0.2", "good-check", "{path}"]}},
            {"path": "out/app.env", "format": "systemd-env", "env": {
                "LINES": "{{ secrets.main.lines }}", "FIXED": "${CANARY_ENV}", "PASSED": "{{ env.CANARY_PASS }}"}},
        ],
        "reload": {"type": "exec", "command": ["sleep", "100000"], "on_change": "restart", "stop_timeout": "2s", "env": {
            "LONG": "{{ secrets.main.long }}", "AWKWARD": "{{ secrets.main.awkward }}", "PEM": "{{ secrets.main.pem }}",
            "DECLARED": "fixed ${CANARY_ENV}"}},
        "health": {"type": "http", "url": format!("{at}/health/${{CANARY_URL}}?k={{{{ secrets.main.password | urlencode }}}}"),
            "headers": {"x-key": "Bearer {{ secrets.main.long }}", "x-fixed": "${CANARY_HEADER}"},
            "body": "{{ secrets.main.document }} ${CANARY_BODY}", "method": "POST",
            "body_contains": "Bearer ",
            "interval": "50ms", "within": "4s", "timeout": "5s", "successes": 1},
    });
    let talkative = |secret: &str| json!([{"path": format!("out/{secret}"), "inline": "{{ secrets.main.long }}\n{{ secrets.main.lines }}"}]);
    let command = |name: &str, script: &str| json!({"type": "command", "run": ["sh", "-c", script, name]});
    vec![
        ("app".to_owned(), app),
        (
            "reloads".to_owned(),
            json!({
            "files": talkative("reloads"),
            "reload": command("talkative-reload", "cat out/reloads >&2; cat out/reloads; env; test ! -e refuse-reload"),
            "health": {"type": "none"}}),
        ),
        (
            "probed".to_owned(),
            json!({
            "files": talkative("probed"),
            "reload": {"type": "none"},
            "health": {"type": "command", "run": ["sh", "-c", "cat out/probed >&2; cat out/probed; exit 3", "talkative-probe"],
                "interval": "50ms", "within": "200ms"}}),
        ),
        (
            "hangs".to_owned(),
            json!({
            "files": talkative("hangs"),
            "reload": {"type": "command", "timeout": "100ms",
                "run": ["sh", "-c", "cat out/hangs >&2; exec sleep 1000", "talkative-reload"]},
            "health": {"type": "none"}}),
        ),
        (
            "silent".to_owned(),
            json!({
            "files": talkative("silent"),
            "reload": {"type": "none"},
            "health": {"type": "command", "run": ["sh", "-c", "cat out/silent >&2; exec sleep 1000", "talkative-probe"],
                "interval": "50ms", "within": "200ms", "timeout": "100ms"}}),
        ),
        (
            "crashes".to_owned(),
            json!({
            "files": talkative("crashes"),
            "reload": {"type": "exec", "command": ["sh", "-c", "exit 3"], "env": {"A": "{{ secrets.main.lines }}"}},
            "health": {"type": "none"}}),
        ),
        (
            "absent".to_owned(),
            json!({
            "files": talkative("absent"),
            "reload": {"type": "exec", "command": ["/no/such/program"], "env": {"A": "{{ secrets.main.nul }}"}}}),
        ),
        ("refused".to_owned(), json!({"files": [{"path": "out/refused", "inline": "{{ secrets.refused.long }}"}]})),
        (
            "unreachable".to_owned(),
            json!({"files": [{"path": "out/unreachable", "inline": "{{ secrets.unreachable.long }}"}]}),
        ),
        (
            "unsendable".to_owned(),
            json!({"files": [{"path": "out/unsendable", "inline": "{{ secrets.unsendable.long }}"}]}),
        ),
        (
            "unexpected".to_owned(),
            json!({"files": [{"path": "out/unexpected", "inline": "{{ secrets.unexpected.long }}"}]}),
        ),
        ("resolved".to_owned(), json!({"files": [{"path": "out/resolved.yaml", "resolve": "resolved.yaml"}]})),
    ]
}

fn config(echo: &Echo, admin: &str) -> Value {
    let at = format!("http://{}", echo.address);
    let asked = |url: String| {
        json!({"store": "local", "key": "main", "verify": {"http": {
        "url": url, "method": "POST", "timeout": "2s",
        "headers": {"x-key": "Bearer {{ secret.long }}", "x-fixed": "${CANARY_HEADER}"}, "body": "{{ secret.pem }}"}}})
    };
    let named = |mut secret: Value, name: &str| {
        let text = secret.to_string().replace("secret.", &format!("secrets.{name}."));
        secret = serde_json::from_str(&text).unwrap();
        secret
    };
    let mut targets = serde_json::Map::new();
    for (name, mut target) in good_targets(echo).into_iter().chain(bad_targets()).chain(talkative_targets()) {
        target["settle"] = json!({"min": "10ms", "max": "50ms"});
        targets.insert(name, target);
    }
    json!({
        "state_dir": "state", "admin": {"listen": admin}, "audit": {"path": "audit.jsonl"},
        "stores": {
            "local": {"type": "file", "path": "secrets.yaml"},
            "folder": {"type": "file", "path": "folder"},
            "vault": {"type": "vault", "address": "http://127.0.0.1:1", "auth": {"type": "token", "token": "${CANARY_TOKEN}"}},
        },
        "secrets": {
            "main": named(asked(format!("{at}/verify?k={{{{ secret.password | urlencode }}}}")), "main")
                .as_object().map(|main| { let mut main = main.clone(); main.insert("overlap".into(), json!("1h")); main.insert("max_age".into(), json!("1s")); main }),
            "blob": {"store": "folder"},
            "refused": named(asked(format!("{at}/refuse/{{{{ secret.long }}}}")), "refused"),
            "unreachable": named(asked("http://{{ secret.short }}:{{ secret.long }}@127.0.0.1:1/x".to_owned()), "unreachable"),
            "unsendable": named(asked("http://127.0.0.1:1/{{ secret.lines }}".to_owned()), "unsendable"),
            "unexpected": {"store": "local", "key": "main", "expect": {"long": "^never ${CANARY_BODY}$"}},
            "vaulted": {"store": "vault", "path": "secret/x"},
        },
        "targets": targets,
    })
}

/// A folder with all that, and every canary that there will be in `rounds` rounds.
pub fn build(echo: &Echo, rounds: u32) -> (Agent, Canaries) {
    let port = format!("127.0.0.1:{}", crate::ports::free_port());
    let mut agent = Agent::new(&config(echo, &port).to_string(), &secrets(1, false).to_string());
    fs::create_dir(agent.dir.join("folder")).unwrap();
    fs::set_permissions(agent.dir.join("folder"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(agent.dir.join("folder/key"), bytes(1)).unwrap();
    fs::write(agent.dir.join("resolved.yaml"), "# kept\na: local://main#nope\n").unwrap();
    let mut canaries = Canaries::default();
    for name in VARIABLES {
        agent.env.push((name.to_owned(), variable(name)));
        canaries.add(&format!("variable {name}"), variable(name));
    }
    canaries.add("secret blob", bytes(1));
    for round in 1..=rounds {
        for poison in [false, true] {
            canaries.add_all(&format!("secret {round}{poison}"), &secrets(round, poison));
        }
        canaries.add(&format!("secret {round} password of the URL"), format!("{CORE}{round}pw%40x"));
        canaries.add(&format!("secret {round} inside the document"), format!("{CORE}{round}-inside/json"));
    }
    (agent, canaries)
}

/// The answer of the admin endpoint.
pub fn admin(agent: &Agent, path: &str) -> String {
    use std::io::{Read, Write};
    let config: Value = serde_json::from_str(&agent.read("agent.yaml")).unwrap();
    let mut stream = std::net::TcpStream::connect(config["admin"]["listen"].as_str().unwrap()).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1"), "{path}: {answer}");
    answer
}

/// Calls a command at trace level and keeps what it says.
pub fn call(agent: &Agent, format: &str, args: &[&str], seen: &mut Seen) -> (i32, String, String) {
    let all: Vec<&str> = ["--log-level", "trace", "--log-format", format].iter().chain(args).copied().collect();
    let (code, out, err) = agent.call(&all);
    let name = format!("`agent {}` (exit {code})", args.join(" "));
    seen.add(format!("{name} stdout"), &out);
    seen.add(format!("{name} stderr"), &err);
    (code, out, err)
}
