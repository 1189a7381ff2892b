//! A thousand secrets of Vault on one agent: what it asks for, and how much memory it takes.
//!
//! LEASEHOLD_AGENT names the binary to measure (scripts/footprint names the release's); by default that of the tests.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

#[path = "support/agent.rs"]
mod agent;
#[path = "support/vault/mod.rs"]
mod vault;

use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};

use agent::Agent;
use serde_json::json;
use vault::fake::Fake;
use vault::fake::counts::Kind;
use vault::server::{FakeServer, VaultServer};

const SECRETS: usize = 1000;
const BUDGET: u64 = 25_000_000;

/// Of `/proc/PID/status`, in bytes.
fn memory(pid: u32, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// The config, the template, and the server with what they name.
async fn site() -> (FakeServer, Agent) {
    let fake = FakeServer::new(Fake::new());
    let server: &dyn VaultServer = &fake;
    let (kv, approle) = (server.kv(2).await, server.approle(json!({"token_policies": "app", "token_ttl": "1h"})).await);
    server.policy("app", &format!(r#"path "{kv}/*" {{ capabilities = ["read"] }}"#)).await;
    let mut secrets = String::new();
    let mut template = String::new();
    for n in 0..SECRETS {
        server
            .put(&kv, &format!("app-{n}"), json!({"username": "app", "password": format!("a password of {n:032}")}))
            .await;
        writeln!(secrets, "  s{n}: {{store: vault, path: {kv}/app-{n}, poll: 5s}}").unwrap();
        writeln!(template, "s{n}={{{{ secrets.s{n}.password }}}}").unwrap();
    }
    let config = format!(
        "state_dir: state
stores:
  vault:
    type: vault
    address: {address}
    auth: {{type: approle, mount: {mount}, role_id_file: role-id, secret_id_file: secret-id}}
    limits: {{in_flight: 32, per_second: 2000}}
secrets:
{secrets}targets:
  app:
    files: [{{path: out/all, template: all.tera}}]
    reload: {{type: none}}
    health: {{type: none}}
",
        address = fake.address(),
        mount = approle.trim_start_matches("auth/"),
    );
    let agent = Agent::new(&config, "{}");
    fs::write(agent.dir.join("all.tera"), template).unwrap();
    fs::write(agent.dir.join("role-id"), server.role_id(&approle).await).unwrap();
    fs::write(agent.dir.join("secret-id"), server.secret_id(&approle).await).unwrap();
    (fake, agent)
}

#[tokio::test]
async fn a_thousand_secrets_fit_in_25_megabytes_and_are_polled_without_their_values() {
    let (server, mut agent) = site().await;
    let released = std::env::var("LEASEHOLD_AGENT").ok();
    let binary = released.clone().unwrap_or_else(|| env!("CARGO_BIN_EXE_agent").to_owned());
    let released = released.is_some();
    let log = fs::File::create(agent.dir.join("log")).unwrap();
    let mut command = Command::new(binary);
    command.current_dir(&agent.dir).args(["run"]).env("AGENT_CONFIG", agent.dir.join("agent.yaml"));
    command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let child = command.spawn().unwrap();
    let pid = child.id();
    agent.child = Some(child);
    let counts = server.fake.counts();
    agent
        .wait("two polls of each are over", |_| (counts.of(Kind::Metadata) >= 2 * SECRETS + SECRETS / 2).then_some(()));
    let (all, own) = (memory(pid, "VmRSS"), memory(pid, "RssAnon"));
    let rendered = fs::read_to_string(agent.dir.join("out/all")).unwrap();
    assert_eq!(rendered.lines().count(), SECRETS);
    assert!(rendered.ends_with(&format!("s999=a password of {:032}\n", 999)), "all were rendered");
    // All of one moment: it polls on.
    let asked = counts.all();
    let of = |kind| asked.iter().filter(|one| one.kind == kind).count();
    assert_eq!((of(Kind::Login), of(Kind::Mounts), of(Kind::Read)), (1, 1, SECRETS));
    assert_eq!(asked.len(), 2 + SECRETS + of(Kind::Metadata));
    println!("RSS with {SECRETS} secrets of Vault: {all} bytes ({own} without the binary's own pages)");
    // What the tests' binary maps is several times the release's.
    let measured = if released { all } else { own };
    assert!(measured < BUDGET, "{measured} bytes, more than {BUDGET}");
}
